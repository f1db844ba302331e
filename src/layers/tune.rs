//! Choosing a kernel by measurement instead of by the cost model.

use super::{Inputs, Layer, Plan, PlanRequest, WorkspaceMemory};
use crate::error::Result;
use crate::{Element, Stream, Tensor};
use std::time::{Duration, Instant};

/// A plan with the kernel that was fastest, and what was measured.
#[derive(Debug)]
pub struct Tuned<T: Element> {
    /// With the fastest kernel.
    pub plan: Plan<T>,
    /// Time of one run for every kernel that applies, the fastest first.
    pub times: Vec<(&'static str, Duration)>,
}

/// Each kernel is measured for so long,
const BUDGET: Duration = Duration::from_millis(20);
/// in rounds of so many runs, of which the fastest counts.
const RUNS: u32 = 5;

pub(super) fn tune<T: Element>(layer: &impl Layer, request: &PlanRequest, inputs: &Inputs<'_, T>) -> Result<Tuned<T>> {
    let device = inputs.x.device();
    let first = layer.plan::<T>(device, request)?;
    let mut y = Tensor::<T>::zeros(device, first.output_shape(), first.output_format())?;
    let names = first.explain().choices.iter().filter(|choice| choice.verdict.is_ok()).map(|choice| choice.kernel);
    let mut times = Vec::new();
    for name in names {
        let plan = layer.plan::<T>(device, &request.clone().kernel(name))?;
        times.push((name, measure(&plan, inputs, &mut y)?));
    }
    times.sort_by_key(|&(_, time)| time);
    let Some(&(fastest, _)) = times.first() else { return Ok(Tuned { plan: first, times }) };
    let mut plan = layer.plan::<T>(device, &request.clone().kernel(fastest))?;
    plan.explanation.note += &format!("; the fastest of {} that were measured", times.len());
    Ok(Tuned { plan, times })
}

fn measure<T: Element>(plan: &Plan<T>, inputs: &Inputs<'_, T>, y: &mut Tensor<T>) -> Result<Duration> {
    let stream = Stream::default_of(plan.device());
    let mut memory = WorkspaceMemory::new(plan.device(), plan.workspace_bytes())?;
    let mut run = || plan.run(inputs, &mut *y, memory.workspace(), &stream);
    // the first run of a kernel is not like the others
    run()?;
    stream.synchronize()?;
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while best == Duration::MAX || start.elapsed() < BUDGET {
        let round = Instant::now();
        (0..RUNS).try_for_each(|_| run())?;
        stream.synchronize()?;
        best = best.min(round.elapsed() / RUNS);
    }
    Ok(best)
}
