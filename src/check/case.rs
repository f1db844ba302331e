//! A layer with its inputs and the right result, run in one dtype and one pair of formats.

use super::outcome::{catch, catch_failure};
use super::placed::{Fields, Placed, ROIS, holds, place};
use super::{Arrays, DTypeAndFormats, Failure, Run, WORKSPACE, applicable, build};
use crate::cases::Frame;
use crate::error::{Error, Result};
use crate::geometry::elements;
use crate::layers::{AnyLayer, Layer, LayerSpec, PlanRequest, Precision, WorkspaceMemory};
use crate::numerics::{Contract, in_tf32, on_exact_grid};
use crate::reference::Array;
use crate::{DType, Device, Element, MemoryFormat, Shape, Stream, memory};
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The kernels that a check runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// The kernel that a plan chooses.
    Chosen,
    /// Every kernel that applies.
    All,
    /// The kernel of this name.
    Named(&'static str),
}

/// A layer, its inputs, and the right result.
#[derive(Debug)]
pub struct Case {
    layer: AnyLayer,
    inputs: Vec<(&'static str, Array)>,
    /// The tensors by which the layer multiplies the inputs.
    weights: Vec<Array>,
    output: Array,
    scale: Vec<f64>,
    /// If the reference rounds between stages: how far from it each element of a right result may
    /// be. Empty otherwise.
    moved: Vec<f64>,
    ref_atol: f64,
    coord_atol: f64,
    x_frame: Frame,
    y_frame: Frame,
    on_grid: bool,
}

impl Case {
    /// A case of the layer of `spec` with these parameters and inputs, and with the result `output`
    /// (in f64). `scale` is the result of the same operation on absolute values, before the final
    /// activation.
    ///
    /// If a dtype does not represent the inputs exactly, the bound grows by the error of rounding
    /// them. A reference on rounded inputs is the stronger test.
    ///
    /// # Errors
    /// What the layer refuses; [`Error::UnexpectedTensor`]; [`Error::Length`] when values do not
    /// fit their shape.
    pub fn new(spec: LayerSpec, tensors: &Arrays, output: Array, scale: Vec<f64>) -> Result<Self> {
        let (layer, inputs) = build(spec, tensors)?;
        let parameters = spec.signature().parameters;
        // Vectors (bias and slope) stay f32 in every dtype.
        let weights = tensors.iter().filter(|(name, array)| parameters.contains(&name.as_str()) && array.shape().len() > 1);
        check_length("scale", output.shape(), scale.len())?;
        let on_grid = tensors.values().all(|array| on_exact_grid(array.data()));
        let weights = weights.map(|(_, array)| array.clone()).collect();
        let (ref_atol, coord_atol, x_frame, y_frame) = (0.0, 0.0, Frame::default(), Frame::default());
        Ok(Self { layer, inputs, weights, output, scale, moved: vec![], ref_atol, coord_atol, x_frame, y_frame, on_grid })
    }

    /// Allows for errors of the reference and of f32 coordinates.
    pub fn tolerate(self, ref_atol: f64, coord_atol: f64) -> Self {
        Self { ref_atol, coord_atol, ..self }
    }

    /// Sets how far from a reference that rounds between stages each element of a right result may
    /// be.
    pub(super) fn moved(self, moved: Vec<f64>) -> Self {
        Self { moved, ..self }
    }

    /// Makes input and output slices of tensors that have this many more channels before and
    /// behind.
    pub fn margins(self, x: [usize; 2], y: [usize; 2]) -> Self {
        self.frames([x, y].map(|channels| Frame { channels, ..Default::default() }))
    }

    /// Makes input and output parts of tensors that have this much more before and behind.
    pub fn frames(self, [x_frame, y_frame]: [Frame; 2]) -> Self {
        Self { x_frame, y_frame, ..self }
    }

    /// Runs the case in one dtype with inputs and output in the given formats: through a plan with
    /// each of the kernels and, if both formats are the same, through [`Layer::forward`], which
    /// must give the same bits. Never panics and never ends early: failures are in the runs.
    pub fn check(&self, dtype: DType, x_format: MemoryFormat, y_format: MemoryFormat, kernels: Kernels, device: &Device) -> Vec<Run> {
        self.check_some((dtype, x_format, y_format), kernels, device, &|_| true)
    }

    /// As [`Case::check`], for the kernels whose names are `wanted`.
    pub(super) fn check_some(
        &self,
        variant: DTypeAndFormats,
        kernels: Kernels,
        device: &Device,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Vec<Run> {
        crate::with_dtype!(variant.0, T => self.check_as::<T>(variant, kernels, device, wanted))
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
                break; // the previous run reports it
            }
            let request = request.kernel(name);
            let tf32 = request.precision == Precision::Tf32;
            // Operands that are tf32 numbers are not rounded.
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

    /// The numerics contract of the layer in a dtype.
    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let operands = self.inputs.iter().filter(|(name, _)| *name != ROIS).map(|(_, array)| array).chain(&self.weights);
        let rounded = operands.filter(|array| !holds(dtype, array)).count();
        let contract = self.layer.contract(dtype, request)?;
        let exact = contract.exact && self.on_grid && rounded == 0;
        let contract = contract.exact(exact).rounded(rounded).magnified(self.magnitude());
        Ok(contract.tolerate(self.ref_atol, self.coord_atol))
    }

    /// The scale, including what may have moved.
    fn scale_of(&self, contract: &Contract) -> Result<Cow<'_, [f64]>> {
        if self.moved.is_empty() {
            return Ok(Cow::Borrowed(&self.scale));
        }
        let scale = self.scale.iter().zip(&self.moved).map(|(&scale, &moved)| contract.moved(scale, moved));
        memory::collect(scale).map(Cow::Owned)
    }

    /// The factors of the layer's products.
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
        let frame = |name: &str| if name == "x" { self.x_frame } else { self.y_frame };
        Placed::new(&self.inputs, format, frame, device)
    }

    /// The result of one plan, in NCHW order, computed into memory filled with NaN; and whether
    /// tensor cores multiplied.
    fn run<T: Element>(
        &self,
        inputs: &Placed<T>,
        request: &PlanRequest,
        shape: Shape,
        device: &Device,
    ) -> Result<(Vec<f32>, bool), Failure> {
        let plan = self.layer.plan::<T>(device, request).map_err(Failure::Error)?;
        let poison = Array::zeros(shape).map_err(Failure::Error)?.map(|_| f64::NAN);
        let mut y = place::<T>("y", &poison, plan.output_format(), self.y_frame, device).map_err(Failure::Error)?;
        let part = self.y_frame.part(shape);
        let mut run = || {
            let (inputs, mut memory) = (inputs.of(&self.layer, Fields::Native)?, WorkspaceMemory::new(device, plan.workspace_bytes())?);
            let [images, channels, rows, columns] = part.clone();
            let view = y.view_mut().images(images)?.channels(channels)?.crop(rows, columns)?;
            plan.run(&inputs, view, memory.workspace(), &Stream::default_of(device))?;
            y.to_vec()
        };
        let wide = run().map_err(Failure::Error)?;
        let mut values = memory::with_capacity(poison.data().len()).map_err(Failure::Error)?;
        for (index, value) in wide.into_iter().enumerate() {
            let position = position(index, y.shape());
            if part.iter().zip(position).all(|(range, position)| range.contains(&position)) {
                values.push(value.to_f32());
            } else if !value.to_f32().is_nan() {
                return Err(Failure::Outside { position });
            }
        }
        Ok((values, plan.explain().on_tensor_cores()))
    }

    fn forward<T: Element>(&self, inputs: &Placed<T>, y: &[f32], shape: Shape) -> Result<(), Failure> {
        // Offsets and masks are also given in f32 if that changes no value.
        let run = || self.layer.forward(&inputs.of(&self.layer, Fields::F32)?)?.to_vec();
        let forward = run().map_err(Failure::Error)?;
        match forward.iter().zip(y).position(|(a, b)| a.to_f32().to_bits() != b.to_bits()) {
            Some(index) => Err(Failure::Forward { position: position(index, shape) }),
            None => Ok(()),
        }
    }
}

fn check_length(name: &'static str, shape: &[usize], got: usize) -> Result<()> {
    let expected = elements(shape)?;
    if got != expected {
        return Err(Error::Length { name, shape: shape.to_vec(), expected, got });
    }
    Ok(())
}

/// The indices [n, c, h, w] of an index in row-major order.
fn position(index: usize, [_, c, h, w]: Shape) -> Shape {
    [index / (w * h * c), index / (w * h) % c, index / w % h, index % w]
}

fn hash(values: &[f32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    values.iter().for_each(|value| if value.is_nan() { f32::NAN } else { *value }.to_bits().hash(&mut hasher));
    hasher.finish()
}
