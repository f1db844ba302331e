//! Checks and times configurations.

mod sets;
mod twin;

use super::checks::Sample;
use super::floors::Floors;
use super::results::{Checked, RowResult, Status};
use super::suite::{Configuration, Workload, scaled_down};
use super::values::Values;
use crate::analysis::{LayerReport, Limits};
use crate::cases::Problem;
use crate::check::{Arrays, WORKSPACE};
use crate::device::{Effort, Time, Timer};
use crate::error::{Error, Result};
use crate::layers::{AnyLayer, Conv2dSpec, Layer, LayerSpec, Measured, Parameter, Plan, PlanRequest, WorkspaceMemory, measure_all};
use crate::reference::{self, Array};
use crate::tuning::{TunedKernel, TuningRow};
use crate::{DType, Device, DeviceKind, Element, MemoryFormat, Padding, Stream, Tensor};
use half::f16;
use sets::Set;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use twin::Twin;

/// The sizes at which configurations run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Sizes as in the suite.
    Full,
    /// One small image with all channels: for trying things out on the host device.
    Tiny,
}

/// The function whose results count as right: [`reference::layer`].
pub type Oracle = fn(&LayerSpec, &Arrays) -> Result<(Array, Array)>;

/// The products that the oracle may compute for a twin, or for a tiny run.
const TWIN_BUDGET: u64 = 30_000_000;
const TINY_BUDGET: u64 = 500_000;
/// The size of one graph's data, as a multiple of the cache.
const OVER_CACHE: usize = 3;
/// The least and the largest number of input sets in one graph.
const SETS: [usize; 2] = [2, 1024];
/// The least number of launches in a graph, which hides the launch of the graph itself.
const LEAST_LAUNCHES: usize = 16;
/// The number of launches in the graph that measures an empty node. It is large enough that nothing
/// else shows.
const EMPTY_LAUNCHES: usize = 512;
/// A single sample, to see how fast a kernel is before it is measured.
const ONCE: Effort = Effort { warm_up: Duration::ZERO, budget: Duration::ZERO, least: 1, most: 1 };
/// A kernel is measured further only if its first launch takes at most this many times as long as
/// the best kernel so far.
const HOPELESS: f64 = 3.0;

/// Checks and times configurations on a device.
#[derive(Debug)]
pub struct Bench {
    pub(super) device: Device,
    pub(super) scale: Scale,
    pub(super) timer: Timer,
    effort: Effort,
    oracle: Oracle,
    limits: Limits,
    values: Values,
    /// The results of the twins, which several batches share.
    twins: Mutex<BTreeMap<String, Result<String, String>>>,
    /// The last twin with its key, which several kernels share.
    twin: Mutex<Option<(String, Arc<Twin>)>>,
}

/// A configuration with its layer and its tensors.
struct Subject {
    problem: Workload,
    report: LayerReport,
    parameters: Arrays,
    layer: AnyLayer,
    request: PlanRequest,
}

type Measure<'a> = Box<dyn FnMut() -> Result<Time> + 'a>;

/// A configuration whose result is right and that is ready to be timed.
pub struct Prepared<'a> {
    result: RowResult,
    problem: Workload,
    report: LayerReport,
    measure: Measure<'a>,
}

impl Prepared<'_> {
    /// The time of one launch.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn time(&mut self) -> Result<Time> {
        (self.measure)()
    }
}

/// Why a configuration was not timed.
enum Refusal {
    Wrong(String),
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Error(error)
    }
}

impl Bench {
    /// A benchmark on this device with the usual effort.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn new(device: &Device, scale: Scale) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            scale,
            timer: Timer::new(device)?,
            effort: Effort::for_device(device),
            oracle: reference::layer,
            limits: Limits::of(device),
            values: Values::new(),
            twins: Mutex::default(),
            twin: Mutex::default(),
        })
    }

    /// Sets other limits than those of [`Limits::of`] the device. A configuration beyond them fails
    /// with [`Error::Work`].
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sets another effort for each measurement.
    pub fn effort(self, effort: Effort) -> Self {
        Self { effort, ..self }
    }

    /// Sets another oracle. Tests use it to show that a wrong result is not timed.
    pub fn oracle(self, oracle: Oracle) -> Self {
        Self { oracle, ..self }
    }

    /// Brings a GPU's clocks to those under load, before the first measurement.
    ///
    /// # Errors
    /// Errors of launches and allocations.
    pub fn warm_up(&self) -> Result<()> {
        if self.device.kind() == DeviceKind::Host {
            return Ok(());
        }
        let effort = Effort { warm_up: Duration::from_millis(300), ..ONCE };
        let spec = Conv2dSpec { padding: Padding::all(1), ..Default::default() };
        let problem = if self.scale == Scale::Tiny {
            Problem::conv2d(spec, [1, 32, 8, 8], [32, 32, 3, 3])
        } else {
            Problem::conv2d(spec, [32, 256, 56, 56], [256, 256, 3, 3])
        };
        self.time_alone::<f16>(&problem, &effort, false).map(drop)
    }

    /// Measures the device's floors, after [`Bench::warm_up`].
    ///
    /// # Errors
    /// Errors of launches and allocations.
    pub fn floors(&self) -> Result<Floors> {
        self.warm_up()?;
        Floors::measure(self, &self.effort)
    }

    /// Checks and then times a configuration. Failures are recorded in the result.
    pub fn run(&self, configuration: &Configuration<'_>, floors: &Floors) -> RowResult {
        match self.prepare(configuration) {
            Ok(mut prepared) => match prepared.time() {
                Ok(time) => {
                    let floor = floors.floor(&prepared.problem, &prepared.report);
                    prepared.result.set_time(time, &prepared.report, floor);
                    prepared.result
                }
                Err(error) => prepared.result.ended(Status::Failed, error.to_string()),
            },
            Err(result) => *result,
        }
    }

    /// Checks a configuration and prepares everything for timing it.
    ///
    /// # Errors
    /// The result of a configuration that is wrong or cannot run. Status and message say why.
    pub fn prepare(&self, configuration: &Configuration<'_>) -> Result<Prepared<'_>, Box<RowResult>> {
        let mut result = RowResult::new(configuration);
        if !configuration.row.is_known() {
            return Err(Box::new(result.ended(Status::UnknownOp, format!("this build has no {}", configuration.row.op))));
        }
        let prepared = crate::with_dtype!(configuration.dtype, T => self.checked::<T>(configuration, &mut result));
        match prepared {
            Ok((problem, report, measure)) => Ok(Prepared { result, problem, report, measure }),
            Err(Refusal::Wrong(what)) => Err(Box::new(result.ended(Status::Wrong, what))),
            Err(Refusal::Error(error)) => Err(Box::new(result.ended(Status::Failed, error.to_string()))),
        }
    }

    fn checked<T: Element>(
        &self,
        configuration: &Configuration<'_>,
        result: &mut RowResult,
    ) -> Result<(Workload, LayerReport, Measure<'_>), Refusal> {
        let subject = self.subject(configuration)?;
        let plan = subject.layer.plan::<T>(&self.device, &subject.request)?;
        (result.x, result.y) = (subject.report.input.to_vec(), subject.report.output.to_vec());
        result.kernel = Some(plan.explain().kernel.to_string());
        result.workspace_bytes = Some(plan.workspace_bytes());

        let (mut sets, sample) = self.rotation::<T>(&subject, configuration.formats())?;
        let mut memory = WorkspaceMemory::new(&self.device, plan.workspace_bytes())?;
        result.checked = Some(self.check(configuration, &subject, &plan, &mut sets[0], &mut memory, &sample)?);
        result.rotating_bytes = Some(sets.len() * sets[0].bytes());
        let spec = subject.layer.spec();
        let measure = move || self.time(&spec, &plan, &mut sets, &mut memory);
        Ok((subject.problem, subject.report, Box::new(measure)))
    }

    /// Checks and times every kernel that applies to a configuration. `None` if this build does not
    /// know the op, or if the layer has only one candidate. Tuning tables of the device are
    /// ignored.
    ///
    /// # Errors
    /// Errors of the layer, of an allocation or of the device. The failure of a single kernel is
    /// recorded in the row.
    pub fn tune(&self, configuration: &Configuration<'_>) -> Result<Option<TuningRow>> {
        if !configuration.row.is_known() {
            return Ok(None);
        }
        crate::with_dtype!(configuration.dtype, T => self.tune_as::<T>(configuration))
    }

    fn tune_as<T: Element>(&self, configuration: &Configuration<'_>) -> Result<Option<TuningRow>> {
        let subject = self.subject(configuration)?;
        let Subject { layer, request, .. } = &subject;
        let problem = layer.plan::<T>(&self.device, request)?.explain().problem.clone();
        if problem.is_empty() {
            return Ok(None);
        }
        let (mut sets, sample) = self.rotation::<T>(&subject, configuration.formats())?;
        let mut best = f64::INFINITY;
        let mut checked = |plan: &Plan<T>| -> Result<Time, Refusal> {
            let mut memory = WorkspaceMemory::new(&self.device, plan.workspace_bytes())?;
            self.check(configuration, &subject, plan, &mut sets[0], &mut memory, &sample)?;
            let spec = layer.spec();
            // SAFETY: the plan, the set and the workspace outlive the call
            let once = unsafe { self.timer.measure(&ONCE, 1, |stream| sets[0].run(&spec, plan, &mut memory, stream))? };
            // Kernels come in the order of their estimates. One that is far behind after one launch
            // is not measured further.
            if once.median > HOPELESS * best {
                return Ok(once);
            }
            best = best.min(once.median);
            Ok(self.time(&spec, plan, &mut sets, &mut memory)?)
        };
        let all = measure_all::<T>(layer, &self.device, request, |plan| {
            Ok(checked(plan).map_err(|refusal| match refusal {
                Refusal::Wrong(what) => format!("wrong: {what}"),
                Refusal::Error(error) => error.to_string(),
            }))
        })?;
        let kernels = all.into_iter().map(|Measured { kernel, estimate, time }| {
            let (time, message) = time.map_or_else(|message| (None, Some(message)), |time| (Some(time), None));
            TunedKernel { kernel: kernel.into(), estimate, time, message }
        });
        Ok(Some(TuningRow { id: configuration.id(), problem, kernels: kernels.collect() }))
    }

    fn subject(&self, configuration: &Configuration<'_>) -> Result<Subject> {
        let mut problem = configuration.workload()?;
        if self.scale == Scale::Tiny {
            problem = scaled_down(&problem, 1, TINY_BUDGET)?;
        }
        let report = problem.cost(configuration.dtype)?;
        self.limits.check(&report)?;
        let parameters = parameters(&problem, configuration.dtype)?;
        let layer = layer(&problem, &parameters)?;
        let request = configuration.request(&problem)?.workspace_limit(WORKSPACE);
        Ok(Subject { problem, report, parameters, layer, request })
    }

    /// The time of one launch over sets that rotate.
    fn time<T: Element>(&self, spec: &LayerSpec, plan: &Plan<T>, sets: &mut [Set<T>], memory: &mut WorkspaceMemory) -> Result<Time> {
        let rounds = if self.device.kind() == DeviceKind::Host { 1 } else { LEAST_LAUNCHES.div_ceil(sets.len()) };
        let launches = rounds * sets.len();
        let queue = |stream: &Stream| {
            for _ in 0..rounds {
                for set in &mut *sets {
                    set.run(spec, plan, memory, stream)?;
                }
            }
            Ok(())
        };
        // SAFETY: plan, sets and workspace outlive the call
        unsafe { self.timer.measure(&self.effort, launches, queue) }
    }

    /// Compares a plan's results with the oracle: every element of a twin, then samples of a set
    /// whose output was filled with NaN.
    fn check<T: Element>(
        &self,
        configuration: &Configuration<'_>,
        Subject { problem, layer, .. }: &Subject,
        plan: &Plan<T>,
        set: &mut Set<T>,
        memory: &mut WorkspaceMemory,
        sample: &Sample,
    ) -> Result<Checked, Refusal> {
        let twin = self.twin(configuration, problem, plan.explain().kernel).map_err(Refusal::Wrong)?;
        let count = crate::geometry::elements(&plan.output_shape())?;
        let poison = crate::memory::filled(count, T::from_f32(f32::NAN))?;
        set.y = Tensor::from_slice_in_memory_order(&self.device, plan.output_shape(), plan.output_format(), &poison)?;
        drop(poison);
        set.run(&layer.spec(), plan, memory, &Stream::default_of(&self.device))?;
        let y = crate::memory::collect(set.y.to_vec()?.into_iter().map(T::to_f32))?;
        if let Some(index) = y.iter().position(|v| v.is_nan()) {
            return Err(Refusal::Wrong(format!("element {index} of the output is NaN or was not written")));
        }
        // Sums of random values are not exact.
        let contract = layer.contract(T::DTYPE, &problem.request()?)?.exact(false);
        let sampled = sample.check(&contract, &y, plan.output_shape())?.map_err(Refusal::Wrong)?;
        Ok(Checked { twin, sampled })
    }
}

/// The parameters of a problem, rounded as the layer holds them.
pub(super) fn parameters(problem: &Problem, dtype: DType) -> Result<Arrays> {
    let names = problem.layer.signature().parameters;
    let mut own = problem.clone();
    own.shapes.retain(|name, _| names.contains(&name.as_str()));
    own.tensors(dtype)
}

/// The layer of a problem.
pub(super) fn layer(problem: &Problem, parameters: &Arrays) -> Result<AnyLayer> {
    let parameter = |(name, array): (&String, &Array)| {
        let values = crate::memory::collect(array.data().iter().map(|&v| v as f32))?;
        Ok((name.clone(), Parameter::from_values(array.shape(), values)?))
    };
    AnyLayer::new(problem.layer, parameters.iter().map(parameter).collect::<Result<_>>()?)
}

impl Bench {
    /// The time of a convolution without the checks, for the floors.
    pub(super) fn time_alone<T: Element>(&self, problem: &Problem, effort: &Effort, is_empty: bool) -> Result<(Time, String)> {
        let parameters = parameters(problem, T::DTYPE)?;
        let layer = layer(problem, &parameters)?;
        let format = MemoryFormat::ChannelsLast;
        let plan = layer.plan::<T>(&self.device, &problem.request()?.format(format).workspace_limit(WORKSPACE))?;
        let mut memory = WorkspaceMemory::new(&self.device, plan.workspace_bytes())?;
        let (mut set, _) = self.set(problem, 0, [format; 2], plan.output_shape())?;
        let launches = match self.device.kind() {
            DeviceKind::Host => 1,
            DeviceKind::Cuda if is_empty => EMPTY_LAUNCHES,
            DeviceKind::Cuda => LEAST_LAUNCHES,
        };
        let spec = layer.spec();
        let queue = |stream: &Stream| (0..launches).try_for_each(|_| set.run(&spec, &plan, &mut memory, stream));
        // SAFETY: plan, set and workspace outlive the call
        let time = unsafe { self.timer.measure(effort, launches, queue)? };
        Ok((time, plan.explain().kernel.to_string()))
    }
}

#[cfg(all(test, feature = "host"))]
#[path = "chosen.rs"]
mod chosen;
#[cfg(all(test, feature = "host"))]
#[path = "gpus.rs"]
mod gpus;

#[cfg(all(test, feature = "checked-host"))]
#[path = "traffic.rs"]
mod traffic;

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::bench::Suite;

    const SUITE: &str = r#"{"format": 1, "rows": [
        {"name": "t/dense", "network": "t", "family": "dense", "set": "core", "why": "w", "op": "conv2d", "attrs": {"padding": 1},
         "tensors": {"x": ["N", 8, 40, 36], "weight": [16, 8, 3, 3]}, "batches": [3], "all_dtypes": true,
         "tail": {"attrs": {"activation": "silu"}, "tensors": {"bias": [16], "residual": ["N", 16, 40, 36]}}},
        {"name": "t/strided", "network": "t", "family": "grouped", "set": "core", "why": "w", "op": "conv2d",
         "attrs": {"stride": 3, "padding": [0, 1, 2, 3], "groups": 4, "dilation": [1, 2]},
         "tensors": {"x": ["N", 8, 50, 31], "weight": [12, 2, 3, 5]}, "batches": [2]},
        {"name": "t/later", "network": "t", "family": "dense", "set": "core", "why": "w", "op": "no_such_op", "attrs": {"x": 1}, "tensors": {"x": ["N", 1, 2, 2]}}
    ]}"#;

    fn results(oracle: Oracle, scale: Scale) -> Vec<RowResult> {
        let suite = Suite::parse("t", SUITE).unwrap();
        let bench = Bench::new(&Device::host().unwrap(), scale).unwrap().oracle(oracle);
        suite.configurations().iter().map(|configuration| bench.run(configuration, &Floors::none())).collect()
    }

    #[test]
    fn what_is_right_is_timed() {
        for scale in [Scale::Full, Scale::Tiny] {
            let results = results(reference::layer, scale);
            assert_eq!(results.len(), 9);
            for result in &results {
                if result.op == "no_such_op" {
                    assert_eq!(result.status, Status::UnknownOp);
                    continue;
                }
                assert_eq!(result.status, Status::Timed, "{result:?}");
                assert!(result.time.unwrap().median > 0.0 && result.checked.as_ref().unwrap().sampled > 20, "{result:?}");
                let images = if scale == Scale::Tiny {
                    1
                } else if result.row == "t/dense" {
                    3
                } else {
                    2
                };
                assert_eq!(result.x[0], images);
            }
        }
    }

    fn fails(results: &[RowResult], message: &str) {
        for result in results.iter().filter(|result| result.op == "conv2d") {
            assert_eq!((result.status, result.time), (Status::Wrong, None), "{result:?}");
            assert!(result.message.as_ref().unwrap().contains(message), "{result:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_not_timed() {
        fails(
            &results(
                |spec, tensors| {
                    let (output, scale) = reference::layer(spec, tensors)?;
                    Ok((output.map(|v| v + 0.5), scale))
                },
                Scale::Full,
            ),
            "the twin",
        );
        // Wrong at the timed shape only: its last image is sampled, whereas a twin has at most two
        // images.
        fails(
            &results(
                |spec, tensors| {
                    let (output, scale) = reference::layer(spec, tensors)?;
                    let sample = tensors["x"].shape()[0] == 1;
                    Ok((if sample { output.map(|v| v * 1.25) } else { output }, scale))
                },
                Scale::Full,
            ),
            "sampled elements are wrong",
        );
    }
}
