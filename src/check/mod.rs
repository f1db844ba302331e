//! Checks of layers against references. A layer runs in all ways in which it can (dtypes, formats,
//! kernels, slices of wider tensors, [`Layer::forward`]), and each result must meet the numerics
//! contract. `warpconv conformance`, `warpconv verify` and the crate's tests use this module.

mod case;
mod outcome;
mod placed;
#[cfg(all(test, feature = "host"))]
mod tests;

use crate::cases::{Frame, Problem};
use crate::error::{Error, Result};
use crate::geometry::elements;
use crate::layers::{AnyLayer, Layer, LayerSpec, Parameter, PlanRequest, Precision, WorkspaceMemory};
use crate::reference::{self, Array, InDtype};
use crate::{DType, Device, Element, MemoryFormat, Stream, Tensor, memory};
pub use case::{Case, Kernels};
use outcome::catch;
pub use outcome::{Failure, Run};
use placed::{Fields, Placed};
use std::collections::BTreeMap;

/// Tensors by the names that [`LayerSpec::signature`] lists.
pub type Arrays = BTreeMap<String, Array>;

/// Runs a problem in every dtype and pair of formats through every kernel that applies, and
/// compares with the oracle.
///
/// ```
/// use warpconv::{Device, cases::Problem, check::every_run};
/// # #[cfg(feature = "host")] {
/// let runs = every_run(&Problem::random(1, 0), &Device::host()?)?;
/// assert!(runs.len() > 12 && runs.iter().all(|run| run.outcome.is_ok()));
/// # }
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// When the oracle refuses the problem. Errors of a layer or a kernel are in the runs.
pub fn every_run(problem: &Problem, device: &Device) -> Result<Vec<Run>> {
    runs_where(problem, device, &|_, _| true)
}

/// The dtype of a run and the formats of its input and its output.
pub type DTypeAndFormats = (DType, MemoryFormat, MemoryFormat);

/// Whether a run is wanted. It is called first with a dtype and formats and without a kernel
/// (whether there may be such a run at all), and then with the kernel's name.
pub type Wanted<'a> = dyn Fn(DTypeAndFormats, Option<&str>) -> bool + 'a;

/// As [`every_run`], for the runs that are `wanted`, which is called before anything is launched.
/// If the device is lost, the runs end, and the last one reports the loss.
///
/// # Errors
/// As [`every_run`].
pub fn runs_where(problem: &Problem, device: &Device, wanted: &Wanted<'_>) -> Result<Vec<Run>> {
    problem.check()?;
    let mut runs = Vec::new();
    for dtype in DType::ALL {
        let pairs = MemoryFormat::ALL.into_iter().flat_map(|x| MemoryFormat::ALL.map(|y| (dtype, x, y)));
        let pairs: Vec<_> = pairs.filter(|&pair| wanted(pair, None)).collect();
        if pairs.is_empty() {
            continue;
        }
        let tensors = problem.tensors(dtype)?;
        let (output, scale, moved) = match problem.layer {
            LayerSpec::DeformConv2dBlock(spec) => {
                let InDtype { y, scale, moved } = reference::deform_conv2d_block(&spec, &tensors, dtype)?;
                (y, scale, moved.into_data())
            }
            layer => {
                let (output, scale) = reference::layer(&layer, &tensors)?;
                (output, scale, vec![])
            }
        };
        let case = Case::new(problem.layer, &tensors, output, scale.into_data())?.frames(problem.frames());
        let case = case.moved(moved);
        for pair in pairs {
            runs.extend(case.check_some(pair, Kernels::All, device, &|kernel| wanted(pair, Some(kernel))));
            if device.alive().is_err() {
                return Ok(runs);
            }
        }
    }
    Ok(runs)
}

/// The ways in which a problem can run: dtype, formats of input and output, and the kernels that
/// apply. Nothing is launched.
///
/// # Errors
/// What the layer refuses.
pub fn runs_of(problem: &Problem, device: &Device) -> Result<Vec<(DTypeAndFormats, Vec<&'static str>)>> {
    let named = problem.layer.signature().parameters.iter().filter_map(|&name| Some((name, problem.shapes.get(name)?)));
    let zeros = |(name, shape): (&str, &Vec<usize>)| Ok((name.to_string(), Parameter::new(shape, &vec![0f32; elements(shape)?])?));
    let layer = AnyLayer::new(problem.layer, named.map(zeros).collect::<Result<_>>()?)?;
    let mut runs = Vec::new();
    for dtype in DType::ALL {
        for x in MemoryFormat::ALL {
            for y in MemoryFormat::ALL {
                let request = problem.request()?.format(x).output_format(y);
                let kernels = crate::with_dtype!(dtype, T => applicable::<T>(&layer, device, &request));
                runs.push(((dtype, x, y), kernels.into_iter().map(|(name, _)| name).collect()));
            }
        }
    }
    Ok(runs)
}

/// The names of the kernels from which layers choose. Kernels that copy tensors or add parts of
/// sums are not among them, since they run beside or after these kernels.
pub fn kernel_names() -> impl Iterator<Item = &'static str> {
    let beside = |name: &str| ["cast_", "transpose_", "split_sum_"].iter().any(|prefix| name.starts_with(prefix));
    crate::kernels::KERNELS.iter().map(|kernel| kernel.name).filter(move |name| !beside(name))
}

/// Checks that a layer is refused, in one dtype and format, with an [`Error`] and before any
/// launch. Returns that error. `layer` is the text of `{"op": ..., "attrs": {...}}`.
///
/// # Errors
/// A [`Failure`] when the layer is accepted, refused too late, or panics.
pub fn refusal(layer: &str, tensors: &Arrays, dtype: DType, format: MemoryFormat, device: &Device) -> Result<Error, Failure> {
    fn attempt<T: Element>(layer: &str, tensors: &Arrays, format: MemoryFormat, device: &Device) -> Result<Error, Failure> {
        let mut launches = None;
        let outcome = catch(|| {
            let (layer, inputs) = build(LayerSpec::from_json(layer)?, tensors)?;
            let inputs = Placed::<T>::new(&inputs, format, |_| Frame::default(), device)?;
            // Placing the inputs may have launched a conversion.
            launches = Some(device.launches());
            let inputs = inputs.of(&layer, Fields::Native)?;
            let plan = layer.plan::<T>(device, &inputs.request())?;
            let mut y = Tensor::<T>::zeros(device, plan.output_shape(), format)?;
            let mut memory = WorkspaceMemory::new(device, plan.workspace_bytes())?;
            plan.run(&inputs, &mut y, memory.workspace(), &Stream::default_of(device))
        });
        match outcome {
            Ok(()) => Err(Failure::Accepted),
            Err(Failure::Error(error)) if launches.is_none_or(|before| device.launches() == before) => Ok(error),
            Err(Failure::Error(error)) => Err(Failure::Late(error)),
            Err(failure) => Err(failure),
        }
    }
    crate::with_dtype!(dtype, T => attempt::<T>(layer, tensors, format, device))
}

/// Every kernel that applies, the chosen one first, with a request that allows it: some need a
/// workspace, and some round factors to tf32.
fn applicable<T: Element>(layer: &AnyLayer, device: &Device, request: &PlanRequest) -> Vec<(&'static str, PlanRequest)> {
    let mut requests = vec![request.clone(), request.clone().workspace_limit(WORKSPACE)];
    if T::DTYPE == DType::F32 {
        requests.push(request.clone().precision(Precision::Tf32));
    }
    let mut names: Vec<(&'static str, PlanRequest)> = Vec::new();
    for request in requests {
        let Ok(plan) = catch(|| layer.plan::<T>(device, &request)) else { continue };
        let explanation = plan.explain();
        let applying = explanation.choices.iter().filter(|choice| choice.verdict.is_ok()).map(|choice| choice.kernel);
        // A layer whose launches are chosen one by one has no list of its own.
        let only = explanation.choices.is_empty().then_some(explanation.kernel);
        for kernel in applying.chain(only) {
            if names.iter().all(|(known, _)| *known != kernel) {
                names.push((kernel, request.clone()));
            }
        }
    }
    names
}

/// Builds a layer, and separates its inputs from its parameters.
fn build(spec: LayerSpec, tensors: &Arrays) -> Result<(AnyLayer, Vec<(&'static str, Array)>)> {
    let names = spec.signature().inputs;
    let mut parameters = BTreeMap::new();
    for (name, array) in tensors.iter().filter(|(name, _)| !names.contains(&name.as_str())) {
        let values = memory::collect(array.data().iter().map(|&v| v as f32))?;
        // Infinite values and NaN are part of the case.
        parameters.insert(name.clone(), Parameter::from_values(array.shape(), values)?.allow_non_finite());
    }
    let inputs = names.iter().filter_map(|&name| Some((name, tensors.get(name)?.clone()))).collect();
    Ok((AnyLayer::new(spec, parameters)?, inputs))
}

/// The workspace in bytes that kernels may use when all of them are checked, or when the fastest is
/// measured.
pub(crate) const WORKSPACE: usize = 64 << 20;
