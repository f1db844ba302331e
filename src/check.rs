//! Checks layers against references: runs a layer in the ways in which it can be run (dtypes, formats, kernels, slices of wider
//! tensors, [`Layer::forward`]) and holds each result to the numerics contract. Behind `warpconv conformance`, `warpconv verify`
//! and the crate's tests.

use crate::cases::Problem;
use crate::error::{Error, Result};
use crate::geometry::{elements, rank4};
use crate::layers::{AnyLayer, Inputs, Layer, LayerSpec, OffsetOrMask, Parameter, PlanRequest, Precision, RoIs, WorkspaceMemory};
use crate::numerics::{Contract, Report, in_tf32, on_exact_grid};
use crate::reference::{self, Array, InDtype};
use crate::{DType, Device, Element, MemoryFormat, Shape, Stream, Tensor, TensorView, memory};
use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Tensors by name, as [`LayerSpec::signature`] lists the names.
pub type Arrays = BTreeMap<String, Array>;

/// Which kernels a check runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// The one that a plan chooses.
    Chosen,
    /// Every one that applies.
    All,
    /// The one of this name.
    Named(&'static str),
}

/// A layer, its inputs, and what the result must be.
#[derive(Debug)]
pub struct Case {
    layer: AnyLayer,
    inputs: Vec<(&'static str, Array)>,
    /// What the layer multiplies, apart from the inputs.
    weights: Vec<Array>,
    output: Array,
    scale: Vec<f64>,
    /// Of a reference that rounds between stages: how far from it a right result may be, element by element. Empty for none.
    moved: Vec<f64>,
    ref_atol: f64,
    coord_atol: f64,
    x_margin: [usize; 2],
    y_margin: [usize; 2],
    on_grid: bool,
}

/// One way in which a case was run.
#[derive(Debug)]
pub struct Run {
    /// The dtype.
    pub dtype: DType,
    /// The format of the inputs.
    pub x_format: MemoryFormat,
    /// The format of the output.
    pub y_format: MemoryFormat,
    /// The kernel; empty when none was reached.
    pub kernel: &'static str,
    /// What is wrong, or the comparison that passed.
    pub outcome: Result<Report, Failure>,
    /// A hash of the result's bits, where there is one; any NaN is as good as another.
    pub digest: Option<u64>,
    /// Whether the result passes only because the PTX manual leaves open how tensor cores take subnormal inputs: some operand is
    /// one, and what is missing is no more than what follows from taking such operands as zeros.
    pub open_subnormals: bool,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} to {} {}: ", self.dtype, self.x_format, self.y_format, self.kernel)?;
        match &self.outcome {
            Ok(report) => write!(f, "{} elements passed", report.elements),
            Err(failure) => failure.fmt(f),
        }
    }
}

/// Runs a problem in every dtype and pair of formats through every kernel that applies, against the oracle.
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
/// When the oracle refuses the problem. What a layer or a kernel does wrong is in the runs.
pub fn every_run(problem: &Problem, device: &Device) -> Result<Vec<Run>> {
    runs_where(problem, device, &|_, _| true)
}

/// The dtype of a run and the formats of its input and its output.
pub type DTypeAndFormats = (DType, MemoryFormat, MemoryFormat);

/// Whether a run is wanted: asked with its variant and no kernel (whether there may be such a run at all), then with the kernel's name.
pub type Wanted<'a> = dyn Fn(DTypeAndFormats, Option<&str>) -> bool + 'a;

/// As [`every_run`], of the runs that are `wanted`, which is asked before anything is launched. A lost device ends
/// the runs: the last of them says so.
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
        let case = Case::new(problem.layer, &tensors, output, scale.into_data())?.margins(problem.x_margin, problem.y_margin);
        let case = Case { moved, ..case };
        for pair in pairs {
            runs.extend(case.check_some(pair, Kernels::All, device, &|kernel| wanted(pair, Some(kernel))));
            if device.alive().is_err() {
                return Ok(runs);
            }
        }
    }
    Ok(runs)
}

/// What can be run of a problem: dtype, formats of input and output, and the kernels that apply. Nothing is launched.
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
                let kernels = match dtype {
                    DType::F32 => applicable::<f32>(&layer, device, &request),
                    DType::F16 => applicable::<half::f16>(&layer, device, &request),
                    DType::Bf16 => applicable::<half::bf16>(&layer, device, &request),
                };
                runs.push(((dtype, x, y), kernels.into_iter().map(|(name, _)| name).collect()));
            }
        }
    }
    Ok(runs)
}

/// The names of the kernels that layers choose from. Copies, which are launched beside layers, and sums, which are launched behind a
/// kernel that splits them, are not among them.
pub fn kernel_names() -> impl Iterator<Item = &'static str> {
    let beside = |name: &str| ["cast_", "transpose_", "split_sum_"].iter().any(|prefix| name.starts_with(prefix));
    crate::kernels::KERNELS.iter().map(|kernel| kernel.name).filter(move |name| !beside(name))
}

/// What can be wrong with a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// It failed.
    Error(Error),
    /// It panicked.
    Panic(String),
    /// The output has another shape.
    Shape {
        /// What the layer says.
        got: Vec<usize>,
        /// What the reference has.
        expected: Vec<usize>,
    },
    /// Elements beyond the bound of the contract.
    Values {
        /// How many, and the worst of them.
        report: Report,
        /// [n, c, h, w] of the worst.
        position: Shape,
    },
    /// The kernel wrote beside the channels that were its output.
    Outside {
        /// [n, c, h, w] in the wider tensor.
        position: Shape,
    },
    /// [`Layer::forward`] gives another result than the plan.
    Forward {
        /// [n, c, h, w] of the first element that differs.
        position: Shape,
    },
    /// What should have been refused was run.
    Accepted,
    /// It was refused, but only after a launch.
    Late(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => error.fmt(f),
            Failure::Panic(message) => write!(f, "panicked: {message}"),
            Failure::Shape { got, expected } => write!(f, "the output has shape {got:?}, the reference {expected:?}"),
            Failure::Values { report, position } => {
                write!(f, "{} of {} elements are wrong", report.failures, report.elements)?;
                if let Some(worst) = report.worst {
                    write!(f, "; the worst at {position:?}: got {:?}, expected {:?}", worst.got, worst.expected)?;
                    match worst.bound {
                        0.0 => write!(f, " bit for bit")?,
                        bound => write!(f, " +- {bound:.3e}, which is {:.3} times the bound", worst.ratio)?,
                    }
                }
                Ok(())
            }
            Failure::Outside { position } => write!(f, "wrote outside the output's channels, at {position:?} of the wider tensor"),
            Failure::Forward { position } => write!(f, "forward and the plan differ, first at {position:?}"),
            Failure::Accepted => f.write_str("was accepted, but must be refused"),
            Failure::Late(error) => write!(f, "was refused only after a launch: {error}"),
        }
    }
}

impl Case {
    /// A case of the layer of `spec` with these parameters and inputs, whose result is `output` (in f64). `scale` is the same
    /// operation on absolute values, before the final activation.
    ///
    /// Where a dtype does not hold the inputs exactly, the bound is widened by their rounding: a reference on rounded inputs is
    /// the stronger test.
    ///
    /// # Errors
    /// What the layer refuses; [`Error::UnexpectedTensor`]; [`Error::Length`] when values do not fit their shape.
    pub fn new(spec: LayerSpec, tensors: &Arrays, output: Array, scale: Vec<f64>) -> Result<Self> {
        let (layer, inputs) = build(spec, tensors)?;
        let parameters = spec.signature().parameters;
        // bias and slope, the vectors, stay f32 in every dtype
        let weights = tensors.iter().filter(|(name, array)| parameters.contains(&name.as_str()) && array.shape().len() > 1);
        check_length("scale", output.shape(), scale.len())?;
        let on_grid = tensors.values().all(|array| on_exact_grid(array.data()));
        let weights = weights.map(|(_, array)| array.clone()).collect();
        let (ref_atol, coord_atol, x_margin, y_margin) = (0.0, 0.0, [0, 0], [0, 0]);
        Ok(Self { layer, inputs, weights, output, scale, moved: vec![], ref_atol, coord_atol, x_margin, y_margin, on_grid })
    }

    /// Allows for the inaccuracy of the reference and of f32 coordinates.
    pub fn tolerate(self, ref_atol: f64, coord_atol: f64) -> Self {
        Self { ref_atol, coord_atol, ..self }
    }

    /// Makes input and output slices of tensors that have so many more channels before and behind.
    pub fn margins(self, x: [usize; 2], y: [usize; 2]) -> Self {
        Self { x_margin: x, y_margin: y, ..self }
    }

    /// Runs the case in one dtype with inputs and output in the given formats: through a plan with each of the kernels and,
    /// where both formats are the same, through [`Layer::forward`], which must give the same bits. Never panics and never ends
    /// early: what goes wrong is in the runs.
    pub fn check(&self, dtype: DType, x_format: MemoryFormat, y_format: MemoryFormat, kernels: Kernels, device: &Device) -> Vec<Run> {
        self.check_some((dtype, x_format, y_format), kernels, device, &|_| true)
    }

    /// As [`Case::check`], of the kernels whose names are `wanted`.
    fn check_some(&self, variant: DTypeAndFormats, kernels: Kernels, device: &Device, wanted: &dyn Fn(&str) -> bool) -> Vec<Run> {
        match variant.0 {
            DType::F32 => self.check_as::<f32>(variant, kernels, device, wanted),
            DType::F16 => self.check_as::<half::f16>(variant, kernels, device, wanted),
            DType::Bf16 => self.check_as::<half::bf16>(variant, kernels, device, wanted),
        }
    }

    fn check_as<T: Element>(&self, variant: DTypeAndFormats, kernels: Kernels, device: &Device, wanted: &dyn Fn(&str) -> bool) -> Vec<Run> {
        let (_, x_format, y_format) = variant;
        let run = |kernel, outcome| Run { dtype: T::DTYPE, x_format, y_format, kernel, outcome, digest: None, open_subnormals: false };
        let prepared = catch(|| {
            let inputs = self.place::<T>(x_format, device)?;
            let request = inputs.of(&self.layer, Fields::Native)?.request().output_format(y_format);
            let contract = self.contract(T::DTYPE, &request)?;
            let plan = self.layer.plan::<T>(device, &request)?;
            Ok((inputs, request, contract, plan))
        });
        let (inputs, request, contract, plan) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => return vec![run("", Err(failure))],
        };
        let shape = plan.output_shape();
        if shape[..] != *self.output.shape() {
            let failure = Failure::Shape { got: shape.to_vec(), expected: self.output.shape().to_vec() };
            return vec![run(plan.explain().kernel, Err(failure))];
        }
        let chosen = plan.explain().kernel;
        let names = match kernels {
            Kernels::Chosen => vec![(chosen, request.clone())],
            Kernels::Named(name) => vec![(name, request.clone().workspace_limit(WORKSPACE))],
            Kernels::All => applicable::<T>(&self.layer, device, &request),
        };
        let mut runs = Vec::new();
        for (name, request) in names {
            if !wanted(name) {
                continue;
            }
            if device.alive().is_err() {
                break; // the run before this one says so
            }
            let request = request.kernel(name);
            let tf32 = request.precision == Precision::Tf32;
            // operands that are numbers of tf32 are not rounded
            let contract = if tf32 { contract.tf32().exact(contract.exact && self.operands_in_tf32()) } else { contract };
            let (mut digest, mut open_subnormals) = (None, false);
            let outcome = catch_failure(|| {
                let (y, tensor_cores) = self.run(&inputs, &request, shape, device)?;
                digest = Some(hash(&y));
                let scale = self.scale_of(&contract).map_err(Failure::Error)?;
                let check = |contract: Contract| contract.check(&y, self.output.data(), &scale).map_err(Failure::Error);
                let mut report = check(contract)?;
                if !report.passed() && tensor_cores && self.has_subnormals(T::DTYPE) {
                    let open = check(contract.subnormals_open().magnified(self.magnitude()))?;
                    open_subnormals = open.passed();
                    report = if open_subnormals { open } else { report };
                }
                if let Some(worst) = report.worst.filter(|_| !report.passed()) {
                    return Err(Failure::Values { report, position: position(worst.index, shape) });
                }
                if name == chosen && x_format == y_format {
                    self.forward(&inputs, &y, shape)?;
                }
                Ok(report)
            });
            runs.push(Run { digest, open_subnormals, ..run(name, outcome) });
        }
        runs
    }

    /// What the contract demands in a dtype.
    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let operands = self.inputs.iter().filter(|(name, _)| *name != ROIS).map(|(_, array)| array).chain(&self.weights);
        let rounded = operands.filter(|array| !holds(dtype, array)).count();
        let contract = self.layer.contract(dtype, request)?;
        let exact = contract.exact && self.on_grid && rounded == 0;
        let contract = contract.exact(exact).rounded(rounded).magnified(self.magnitude());
        Ok(contract.tolerate(self.ref_atol, self.coord_atol))
    }

    /// The scale with what may have moved.
    fn scale_of(&self, contract: &Contract) -> Result<Cow<'_, [f64]>> {
        if self.moved.is_empty() {
            return Ok(Cow::Borrowed(&self.scale));
        }
        let scale = self.scale.iter().zip(&self.moved).map(|(&scale, &moved)| contract.moved(scale, moved));
        memory::collect(scale).map(Cow::Owned)
    }

    /// What is multiplied with one another.
    fn factors(&self) -> impl Iterator<Item = &Array> {
        self.inputs.iter().filter(|(name, _)| ["x", "mask"].contains(name)).map(|(_, array)| array).chain(&self.weights)
    }

    /// The largest product of finite factors.
    fn magnitude(&self) -> f64 {
        let largest = |array: &Array| array.data().iter().filter(|v| v.is_finite()).fold(1.0, |largest: f64, v| largest.max(v.abs()));
        self.factors().map(largest).product()
    }

    /// Whether a factor is subnormal in a dtype.
    fn has_subnormals(&self, dtype: DType) -> bool {
        let smallest_normal = dtype.smallest_subnormal() / (2.0 * dtype.unit_roundoff());
        self.factors().flat_map(Array::data).map(|&v| dtype.round(v)).any(|v| v != 0.0 && v.abs() < smallest_normal)
    }

    fn operands_in_tf32(&self) -> bool {
        self.factors().all(|array| in_tf32(array.data()))
    }

    fn place<T: Element>(&self, format: MemoryFormat, device: &Device) -> Result<Placed<T>> {
        let margin = |name: &str| if name == "x" { self.x_margin } else { self.y_margin };
        Placed::new(&self.inputs, format, margin, device)
    }

    /// The result of one plan, in NCHW order, computed into memory that holds NaN; and whether tensor cores multiplied.
    fn run<T: Element>(
        &self,
        inputs: &Placed<T>,
        request: &PlanRequest,
        shape: Shape,
        device: &Device,
    ) -> Result<(Vec<f32>, bool), Failure> {
        let plan = self.layer.plan::<T>(device, request).map_err(Failure::Error)?;
        let poison = Array::zeros(shape).map_err(Failure::Error)?.map(|_| f64::NAN);
        let (mut y, channels) = place::<T>("y", &poison, plan.output_format(), self.y_margin, device).map_err(Failure::Error)?;
        let mut run = || {
            let (inputs, mut memory) = (inputs.of(&self.layer, Fields::Native)?, WorkspaceMemory::new(device, plan.workspace_bytes())?);
            plan.run(&inputs, y.channels_mut(channels.clone())?, memory.workspace(), &Stream::default_of(device))?;
            y.to_vec()
        };
        let wide = run().map_err(Failure::Error)?;
        let mut values = memory::with_capacity(poison.data().len()).map_err(Failure::Error)?;
        for (index, value) in wide.into_iter().enumerate() {
            let position = position(index, y.shape());
            if channels.contains(&position[1]) {
                values.push(value.to_f32());
            } else if !value.to_f32().is_nan() {
                return Err(Failure::Outside { position });
            }
        }
        Ok((values, plan.explain().on_tensor_cores()))
    }

    fn forward<T: Element>(&self, inputs: &Placed<T>, y: &[f32], shape: Shape) -> Result<(), Failure> {
        // offsets and masks are read in f32 too, where that changes no value
        let run = || self.layer.forward(&inputs.of(&self.layer, Fields::F32)?)?.to_vec();
        let forward = run().map_err(Failure::Error)?;
        match forward.iter().zip(y).position(|(a, b)| a.to_f32().to_bits() != b.to_bits()) {
            Some(index) => Err(Failure::Forward { position: position(index, shape) }),
            None => Ok(()),
        }
    }
}

/// Makes sure that a layer is refused, in one dtype and format, with an [`Error`] and before any launch; gives that error.
/// `layer` is the text of `{"op": ..., "attrs": {...}}`.
///
/// # Errors
/// The [`Failure`], when it is accepted, refused too late, or panics.
pub fn refusal(layer: &str, tensors: &Arrays, dtype: DType, format: MemoryFormat, device: &Device) -> Result<Error, Failure> {
    fn attempt<T: Element>(layer: &str, tensors: &Arrays, format: MemoryFormat, device: &Device) -> Result<Error, Failure> {
        let mut launches = None;
        let outcome = catch(|| {
            let (layer, inputs) = build(LayerSpec::from_json(layer)?, tensors)?;
            let inputs = Placed::<T>::new(&inputs, format, |_| [0, 0], device)?;
            // placing the inputs may have launched a conversion
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
    match dtype {
        DType::F32 => attempt::<f32>(layer, tensors, format, device),
        DType::F16 => attempt::<half::f16>(layer, tensors, format, device),
        DType::Bf16 => attempt::<half::bf16>(layer, tensors, format, device),
    }
}

/// Every kernel that applies, the chosen one first, with a request that allows it: some need a workspace, some round what they
/// multiply to tf32.
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
        // a layer whose launches are chosen one by one has no choice of its own
        let only = explanation.choices.is_empty().then_some(explanation.kernel);
        for kernel in applying.chain(only) {
            if names.iter().all(|(known, _)| *known != kernel) {
                names.push((kernel, request.clone()));
            }
        }
    }
    names
}

/// A layer, and its inputs apart from its parameters.
fn build(spec: LayerSpec, tensors: &Arrays) -> Result<(AnyLayer, Vec<(&'static str, Array)>)> {
    let names = spec.signature().inputs;
    let mut parameters = BTreeMap::new();
    for (name, array) in tensors.iter().filter(|(name, _)| !names.contains(&name.as_str())) {
        let values = memory::collect(array.data().iter().map(|&v| v as f32))?;
        // what is to be seen of infinities and NaN is part of the case
        parameters.insert(name.clone(), Parameter::from_values(array.shape(), values)?.allow_non_finite());
    }
    let inputs = names.iter().filter_map(|&name| Some((name, tensors.get(name)?.clone()))).collect();
    Ok((AnyLayer::new(spec, parameters)?, inputs))
}

fn hash(values: &[f32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    values.iter().for_each(|value| if value.is_nan() { f32::NAN } else { *value }.to_bits().hash(&mut hasher));
    hasher.finish()
}

/// Bytes of workspace that kernels may have where all of them are checked or the fastest is measured.
pub(crate) const WORKSPACE: usize = 64 << 20;

/// The input that is f32 in every dtype and no image.
const ROIS: &str = "rois";

/// In which dtype offsets and masks are given.
#[derive(Clone, Copy, PartialEq)]
enum Fields {
    Native,
    /// f32, where T holds their values.
    F32,
}

fn holds(dtype: DType, array: &Array) -> bool {
    array.data().iter().all(|&v| v.is_nan() || dtype.round(v) == v)
}

/// A case's inputs on a device, each as some channels of a tensor.
struct Placed<T: Element> {
    tensors: Vec<(&'static str, Tensor<T>, Range<usize>)>,
    offset: Option<Tensor<f32>>,
    mask: Option<Tensor<f32>>,
    rois: Option<RoIs>,
}

impl<T: Element> Placed<T> {
    fn new(inputs: &[(&'static str, Array)], format: MemoryFormat, margin: impl Fn(&str) -> [usize; 2], device: &Device) -> Result<Self> {
        let one = |&(name, ref array): &(&'static str, Array)| {
            let (tensor, channels) = place(name, array, format, margin(name), device)?;
            Ok((name, tensor, channels))
        };
        let named = |wanted: &str| inputs.iter().find(|(name, _)| *name == wanted).map(|(_, array)| array);
        let field = |name: &'static str| {
            let array = named(name).filter(|array| holds(T::DTYPE, array));
            array.map(|array| Ok(place::<f32>(name, array, format, [0, 0], device)?.0)).transpose()
        };
        let batch = named("x").map_or(0, |x| x.shape().first().copied().unwrap_or_default());
        let rois = |array: &Array| {
            let values = memory::collect(array.data().iter().map(|&v| v as f32))?;
            RoIs::from_shape(device, batch, array.shape(), &values)
        };
        Ok(Self {
            tensors: inputs.iter().filter(|(name, _)| *name != ROIS).map(one).collect::<Result<_>>()?,
            offset: field("offset")?,
            mask: field("mask")?,
            rois: named(ROIS).map(rois).transpose()?,
        })
    }

    fn of(&self, layer: &AnyLayer, fields: Fields) -> Result<Inputs<'_, T>> {
        let views = self.tensors.iter().map(|(name, tensor, channels)| Ok((*name, tensor.channels(channels.clone())?)));
        let views = views.collect::<Result<BTreeMap<&str, TensorView<'_, T>>>>()?;
        let mut inputs = Inputs::from_named(&layer.spec(), &views, self.rois.as_ref().map(RoIs::view))?;
        if fields == Fields::F32 {
            inputs.offset = self.offset.as_ref().map(|tensor| OffsetOrMask::F32(tensor.view())).or(inputs.offset);
            inputs.mask = self.mask.as_ref().map(|tensor| OffsetOrMask::F32(tensor.view())).or(inputs.mask);
        }
        Ok(inputs)
    }
}

/// A tensor on a device that holds the array rounded to T, and NaN in as many channels before and behind it as `margin` says.
fn place<T: Element>(
    name: &'static str,
    array: &Array,
    format: MemoryFormat,
    margin: [usize; 2],
    device: &Device,
) -> Result<(Tensor<T>, Range<usize>)> {
    let [n, c, h, w] = rank4(name, array.shape())?;
    let [before, after] = margin;
    let overflow = || Error::Overflow { what: "channels with margins", values: format!("{before} + {c} + {after}") };
    let c_wide = before.checked_add(c).and_then(|wide| wide.checked_add(after)).ok_or_else(overflow)?;
    let (wide, image) = ([n, c_wide, h, w], c * h * w);
    let mut values = memory::with_capacity(elements(&wide)?)?;
    for index in 0..n {
        values.resize(values.len() + before * h * w, T::from_f32(f32::NAN));
        values.extend(array.data()[index * image..(index + 1) * image].iter().map(|&v| T::from_f64(v)));
        values.resize(values.len() + after * h * w, T::from_f32(f32::NAN));
    }
    let ordered: Vec<T> = match format {
        MemoryFormat::Contiguous => values,
        // by the host: what is checked stands on no other kernel
        MemoryFormat::ChannelsLast => memory::collect((0..values.len()).map(|i| {
            let (image, pixel, channel) = (i / (h * w * c_wide), i / c_wide % (h * w), i % c_wide);
            values[(image * c_wide + channel) * h * w + pixel]
        }))?,
    };
    let tensor = Tensor::from_slice_in_memory_order(device, wide, format, &ordered)?;
    Ok((tensor, before..before + c))
}

fn check_length(name: &'static str, shape: &[usize], got: usize) -> Result<()> {
    let expected = elements(shape)?;
    if got != expected {
        return Err(Error::Length { name, shape: shape.to_vec(), expected, got });
    }
    Ok(())
}

/// [n, c, h, w] of an index in row-major order.
fn position(index: usize, [_, c, h, w]: Shape) -> Shape {
    [index / (w * h * c), index / (w * h) % c, index / w % h, index % w]
}

fn catch<R>(f: impl FnOnce() -> Result<R>) -> Result<R, Failure> {
    catch_failure(|| f().map_err(Failure::Error))
}

fn catch_failure<R>(f: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // what `f` leaves half done when it panics is dropped or never looked at again
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(Failure::Panic(panic_message(&*panic))))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const LAYER: &str = r#"{"op": "conv2d", "attrs": {"padding": 1}}"#;

    /// A 3x3 filter of ones on an image of ones: every output counts the taps that hit the image.
    fn box_filter(x: Shape) -> (Arrays, Array) {
        let [n, c, h, w] = x;
        let ones = |shape: &[usize]| Array::zeros(shape).unwrap().map(|_| 1.0);
        let tensors = BTreeMap::from([("x".to_string(), ones(&x)), ("weight".to_string(), ones(&[2, c, 3, 3]))]);
        let hits = |i: usize, size: usize| (i.saturating_sub(1)..=i + 1).filter(|&j| j < size).count();
        let counts = (0..n * 2 * h * w).map(|i| (c * hits(i / w % h, h) * hits(i % w, w)) as f64).collect();
        (tensors, Array::new([n, 2, h, w], counts).unwrap())
    }

    /// With one element changed.
    fn at(index: usize, array: &Array, change: impl Fn(f64) -> f64) -> Array {
        let mut data = array.data().to_vec();
        data[index] = change(data[index]);
        Array::new(array.shape(), data).unwrap()
    }

    fn case(change: impl FnOnce(&mut Arrays, &mut Array)) -> Case {
        let (mut tensors, mut output) = box_filter([2, 3, 4, 5]);
        change(&mut tensors, &mut output);
        let scale = output.data().to_vec();
        Case::new(LayerSpec::from_json(LAYER).unwrap(), &tensors, output, scale).unwrap()
    }

    fn check(case: &Case, kernels: Kernels) -> Vec<Run> {
        let device = Device::host_with(crate::HostOptions::default()).unwrap();
        let mut runs = Vec::new();
        for dtype in DType::ALL {
            for x in MemoryFormat::ALL {
                for y in MemoryFormat::ALL {
                    runs.extend(case.check(dtype, x, y, kernels, &device));
                }
            }
        }
        runs
    }

    #[test]
    fn a_right_layer_passes_in_every_way() {
        let case = case(|_, _| ()).margins([1, 3], [2, 1]);
        let chosen = check(&case, Kernels::Chosen);
        let all = check(&case, Kernels::All);
        assert!(all.len() > chosen.len());
        for run in chosen.iter().chain(&all) {
            let report = run.outcome.as_ref().unwrap_or_else(|failure| panic!("{run:?}: {failure}"));
            assert_eq!((report.elements, report.exact), (80, 80));
        }
    }

    #[test]
    fn a_wrong_element_is_found() {
        let wrong = case(|_, output| *output = at(47, output, |v| v + 1.0));
        for run in check(&wrong, Kernels::All) {
            let failure = run.outcome.unwrap_err();
            assert!(matches!(failure, Failure::Values { report: Report { failures: 1, .. }, position: [1, 0, 1, 2] }), "{failure:?}");
            let text = failure.to_string();
            assert!(text.contains("got 27.0, expected 28.0 bit for bit"), "{text}");
        }
    }

    /// The acceptance run is of 1000 cases. Views that are not aligned do not count: their plan may launch another kernel.
    #[rstest::rstest]
    fn a_thousand_random_problems_reach_every_kernel(#[values(1, 2)] seed: u64) {
        let device = Device::host_with(crate::HostOptions::default()).unwrap();
        let mut missing: BTreeSet<&str> = kernel_names().collect();
        assert!(missing.len() > 200);
        for problem in (0..1000).map(|index| crate::cases::Problem::random(seed, index)) {
            let empty = problem.output_shape().unwrap().contains(&0);
            if empty || (problem.x_margin, problem.y_margin) != ([0; 2], [0; 2]) || missing.is_empty() {
                continue;
            }
            for (_, kernels) in runs_of(&problem, &device).unwrap() {
                kernels.iter().for_each(|name| {
                    missing.remove(name);
                });
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
    }

    /// A layer of several launches that are chosen one by one is run as it is.
    #[test]
    fn a_layer_without_a_choice_is_run_too() {
        let spec = LayerSpec::from_json(r#"{"op": "deform_roi_pool_pack", "attrs": {"output_size": 2, "spatial_scale": 1.0}}"#).unwrap();
        let problem = Problem::new(spec, &[("x", &[1, 3, 5, 5]), ("rois", &[2, 5]), ("offset_fc1_weight", &[8, 12])]);
        let runs = runs_of(&problem, &Device::host().unwrap()).unwrap();
        assert!(runs.len() == 12 && runs.iter().all(|(_, kernels)| kernels.len() == 1), "{runs:?}");
    }

    /// A layer of 1x1 with one weight, on one pixel, in f32 and strict precision or tf32 beside it.
    fn one_product(x: f64, weight: f64, output: f64) -> Vec<Run> {
        let one = |value: f64| Array::new([1, 1, 1, 1], vec![value]).unwrap();
        let tensors = BTreeMap::from([("x".to_string(), one(x)), ("weight".to_string(), one(weight))]);
        let spec = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {}}"#).unwrap();
        let case = Case::new(spec, &tensors, one(output), vec![output.abs()]).unwrap();
        let (format, device) = (MemoryFormat::ChannelsLast, Device::host().unwrap());
        case.check(DType::F32, format, format, Kernels::All, &device)
    }

    #[test]
    fn tf32_is_compared_bit_for_bit_only_where_it_rounds_no_operand() {
        let of_tf32 = |run: &&Run| run.kernel.contains("tf32");
        let runs = one_product(1024.5, 1.0, 1024.5);
        assert!(runs.iter().all(|run| run.outcome.is_ok()), "{runs:?}");
        let exact = |run: &Run| run.outcome.as_ref().unwrap().exact;
        assert!(runs.iter().filter(of_tf32).count() > 0 && runs.iter().all(|run| exact(run) == usize::from(!of_tf32(&run))), "{runs:?}");
        let runs = one_product(0.75, 0.5, 0.375);
        assert!(runs.iter().all(|run| exact(run) == 1), "{runs:?}");
        let wrong = one_product(0.75, 0.5, 0.3752);
        assert!(wrong.iter().filter(of_tf32).all(|run| run.outcome.is_err()), "{wrong:?}");
    }

    /// A subnormal number with more digits than tf32 has.
    #[test]
    fn subnormals_on_tensor_cores_are_a_class_of_their_own() {
        let digits = f64::from(f32::from_bits(0x2fff));
        let scale = 2f64.powi(100);
        let runs = one_product(digits, scale, digits * scale);
        let open = |run: &Run| run.open_subnormals;
        assert!(runs.iter().all(|run| run.outcome.is_ok() && open(run) == run.kernel.contains("tf32")), "{runs:?}");
        assert!(runs.iter().any(open));
        // what is wrong is no matter of subnormals
        assert!(one_product(digits, scale, digits * scale + scale).iter().all(|run| run.outcome.is_err() && !open(run)));
    }

    #[test]
    fn a_wrong_shape_is_found() {
        let wrong = case(|_, output| *output = Array::new([2, 2, 5, 4], output.data().to_vec()).unwrap());
        assert!(check(&wrong, Kernels::Chosen).iter().all(|run| matches!(run.outcome, Err(Failure::Shape { .. }))));
    }

    #[test]
    fn inputs_that_a_dtype_does_not_hold_widen_the_bound() {
        // 0.3 is no f16: 9 * 3 * (its rounding) is far beyond the accumulation's bound
        let rounded = case(|tensors, output| {
            let scaled = |array: &Array| array.map(|v| v * f64::from(0.3f32));
            tensors.insert("x".into(), scaled(&tensors["x"]));
            *output = scaled(output);
        });
        for run in check(&rounded, Kernels::Chosen) {
            let report = run.outcome.unwrap();
            assert_eq!(report.exact, 0);
        }
    }

    #[test]
    fn refusals() {
        let device = Device::host_with(crate::HostOptions::default()).unwrap();
        let (mut tensors, _) = box_filter([1, 3, 4, 4]);
        let attempt = |layer: &str, tensors: &Arrays| refusal(layer, tensors, DType::F16, MemoryFormat::ChannelsLast, &device);
        assert!(matches!(attempt(LAYER, &tensors), Err(Failure::Accepted)));
        let zero_stride = r#"{"op": "conv2d", "attrs": {"stride": [0, 1]}}"#;
        assert!(matches!(attempt(zero_stride, &tensors), Ok(Error::Attribute { name: "stride", .. })));
        tensors.insert("residual".into(), Array::zeros([1, 2, 4, 3]).unwrap());
        assert!(matches!(attempt(LAYER, &tensors), Ok(Error::Shape { name: "residual", .. })));
        tensors.insert("x".into(), Array::zeros([3, 4, 4]).unwrap());
        assert!(matches!(attempt(LAYER, &tensors), Ok(Error::Rank { name: "x", .. })));
    }

    #[test]
    fn a_panic_is_a_failure() {
        let failure = catch(|| -> Result<()> { panic!("boom {}", 7) }).unwrap_err();
        assert!(matches!(failure, Failure::Panic(message) if message == "boom 7"));
    }
}
