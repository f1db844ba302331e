//! Choosing a kernel by measurement instead of by the cost model.

use super::{ChosenBy, Inputs, Layer, Plan, PlanRequest, WorkspaceMemory};
use crate::device::{Effort, Time, Timer};
use crate::error::Result;
use crate::{Device, Element, Stream, Tensor};
use std::time::Duration;

/// A plan with the kernel that was the fastest, and the measured times.
#[derive(Debug)]
pub struct Tuned<T: Element> {
    /// A plan with the fastest kernel.
    pub plan: Plan<T>,
    /// The time of one run for every kernel that applies, the fastest first.
    pub times: Vec<(&'static str, Duration)>,
}

/// How long each kernel of [`Layer::tune`] is measured.
const EFFORT: Effort = Effort { warm_up: Duration::from_millis(5), budget: Duration::from_millis(15), least: 3, most: 200 };
/// Runs in a sample.
const RUNS: usize = 5;

/// A kernel that applies, and its measured time.
pub(crate) struct Measured {
    pub kernel: &'static str,
    /// Seconds by the cost model.
    #[cfg_attr(not(feature = "bench"), allow(dead_code))]
    pub estimate: f64,
    /// The measured time, or why there is none.
    pub time: Result<Time, String>,
}

/// Makes a plan with each kernel that applies to a request and lets `time` measure it. The fastest
/// kernel comes first, those without a time last.
pub(crate) fn measure_all<T: Element>(
    layer: &impl Layer,
    device: &Device,
    request: &PlanRequest,
    mut time: impl FnMut(&Plan<T>) -> Result<Result<Time, String>>,
) -> Result<Vec<Measured>> {
    let first = layer.plan::<T>(device, request)?;
    let mut all = Vec::new();
    for choice in &first.explain().choices {
        let Ok(estimate) = choice.verdict else { continue };
        let plan = layer.plan::<T>(device, &request.clone().kernel(choice.kernel))?;
        all.push(Measured { kernel: choice.kernel, estimate: estimate.seconds, time: time(&plan)? });
    }
    let seconds = |measured: &Measured| measured.time.as_ref().map_or(f64::INFINITY, |time| time.median);
    all.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    Ok(all)
}

pub(super) fn tune<T: Element>(layer: &impl Layer, request: &PlanRequest, inputs: &Inputs<'_, T>) -> Result<Tuned<T>> {
    let device = inputs.x.device();
    let timer = Timer::new(device)?;
    // The timer's stream does not wait for work that still writes the inputs.
    device.synchronize()?;
    let all = measure_all::<T>(layer, device, request, |plan| {
        let mut y = Tensor::<T>::zeros(device, plan.output_shape(), plan.output_format())?;
        let mut memory = WorkspaceMemory::new(device, plan.workspace_bytes())?;
        let mut queue = |stream: &Stream| (0..RUNS).try_for_each(|_| plan.run(inputs, &mut y, memory.workspace(), stream));
        // SAFETY: plan, inputs, output and workspace outlive the call
        let time = unsafe { timer.measure(&EFFORT, RUNS, &mut queue) };
        time.map(Ok)
    })?;
    let times: Vec<_> = all.into_iter().filter_map(|one| Some((one.kernel, Duration::from_secs_f64(one.time.ok()?.median)))).collect();
    let Some(&(fastest, _)) = times.first() else { return Ok(Tuned { plan: layer.plan::<T>(device, request)?, times }) };
    let mut plan = layer.plan::<T>(device, &request.clone().kernel(fastest))?;
    plan.explanation.chosen_by = ChosenBy::Measurement(times.len());
    Ok(Tuned { plan, times })
}
