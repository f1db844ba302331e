//! A layer that is ready to run for one input shape on one device: the request for a plan, the
//! inputs of a run, and the explanation of the choice.

mod estimate;
mod explanation;
mod graph;
pub(crate) mod launches;
mod parameter;
mod rois;
mod workspace;

pub use estimate::Estimate;
pub use explanation::{Choice, ChosenBy, Explanation};
pub use graph::{Graph, Recorder, Slot, Target, Tensors};
pub(crate) use launches::{PACK, PAIR, pair};
pub use parameter::Parameter;
pub use rois::{RoIs, RoisView};
pub(crate) use workspace::padded;
pub use workspace::{Workspace, WorkspaceMemory};

use crate::error::{Error, Result};
use crate::spec::Precision;
use crate::tensor::{TensorView, TensorViewMut};
use crate::{DType, Device, Element, MemoryFormat, Shape, Stream, Tensor};
use std::fmt;

/// What a plan is made for: the input's shape, the formats, and wishes about the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlanRequest {
    pub(crate) x: Shape,
    pub(crate) x_format: MemoryFormat,
    pub(crate) y_format: MemoryFormat,
    pub(crate) kernel: Option<String>,
    pub(crate) batch_invariant: bool,
    pub(crate) precision: Precision,
    pub(crate) rois: Option<usize>,
    pub(crate) workspace_limit: usize,
}

impl From<Shape> for PlanRequest {
    fn from(x: Shape) -> Self {
        Self::new(x)
    }
}

impl PlanRequest {
    /// A plan for inputs of shape [N, C, H, W], contiguous in and out.
    pub fn new(x: Shape) -> Self {
        Self {
            x,
            x_format: MemoryFormat::Contiguous,
            y_format: MemoryFormat::Contiguous,
            kernel: None,
            batch_invariant: false,
            precision: Precision::Strict,
            rois: None,
            workspace_limit: 0,
        }
    }

    /// The format of input and output.
    pub fn format(self, format: MemoryFormat) -> Self {
        Self { x_format: format, y_format: format, ..self }
    }

    /// Sets another format for the output than for the input.
    pub fn output_format(self, format: MemoryFormat) -> Self {
        Self { y_format: format, ..self }
    }

    /// Asks for the kernel of this name, as [`Explanation`] lists it, instead of the cheapest. For
    /// tests and benchmarks.
    pub fn kernel(self, name: impl Into<String>) -> Self {
        Self { kernel: Some(name.into()), ..self }
    }

    /// Allows an f32 layer products that are less exact than IEEE's.
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Sets the number of RoIs, K, which layers that pool RoIs need.
    pub fn rois(self, rois: usize) -> Self {
        Self { rois: Some(rois), ..self }
    }

    /// Allows kernels that are faster with a workspace of up to this many bytes. They are for
    /// convolutions with few output pixels and many products in each: their sums are split over the
    /// GPU, and a second launch adds the parts. The limit is 0 unless this is called. (Layers that
    /// run as two launches need a workspace for the tensor between them in any case.)
    /// [`Plan::workspace_bytes`] says what the plan needs.
    pub fn workspace_limit(self, bytes: usize) -> Self {
        Self { workspace_limit: bytes, ..self }
    }

    /// Asks for results that do not depend, in any bit, on the batch: an image (or a RoI) gives the
    /// same result for every N (or number of RoIs), and however its views are aligned, provided
    /// that formats and all other sizes are the same.
    ///
    /// The last bits of a result depend on the order in which a kernel adds products. A
    /// batch-invariant plan takes the order that is the fastest for one image, among those in which
    /// some kernel takes views of any alignment. Of the kernels with this order it takes the
    /// fastest for the batch. Kernels of other orders do not apply, even if a tuning table or
    /// [`PlanRequest::kernel`] asks for one. [`Explanation::note`] names the order. (One thing is
    /// left open: the sign of a zero, if all products of its sum are below the smallest f32.)
    pub fn batch_invariant(self) -> Self {
        Self { batch_invariant: true, ..self }
    }
}

/// A tensor that is added before the activation.
#[derive(Debug, Clone, Copy)]
pub enum Residual<'a, T: Element> {
    /// Nothing is added.
    None,
    /// A tensor of the output's shape, in either format.
    Tensor(TensorView<'a, T>),
    /// The output itself: `y = activation(z + bias + y)`.
    Output,
}

/// Offsets or a mask. They may be in f32 even if the layer's dtype is another one.
#[derive(Debug, Clone, Copy)]
pub enum OffsetOrMask<'a, T: Element> {
    /// In the layer's dtype.
    Native(TensorView<'a, T>),
    /// In f32.
    F32(TensorView<'a, f32>),
}

impl<'a, T: Element> From<TensorView<'a, T>> for OffsetOrMask<'a, T> {
    fn from(view: TensorView<'a, T>) -> Self {
        OffsetOrMask::Native(view)
    }
}

impl<'a, T: Element> From<&'a Tensor<T>> for OffsetOrMask<'a, T> {
    fn from(tensor: &'a Tensor<T>) -> Self {
        OffsetOrMask::Native(tensor.view())
    }
}

/// The tensors that a layer reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T: Element> {
    /// The input [N, C_in, H, W].
    pub x: TensorView<'a, T>,
    /// A tensor that is added before the activation.
    pub residual: Residual<'a, T>,
    /// Offsets, which move the samples of a deformable layer.
    pub offset: Option<OffsetOrMask<'a, T>>,
    /// A mask, which multiplies the samples of a modulated deformable layer.
    pub mask: Option<OffsetOrMask<'a, T>>,
    /// The regions that a layer pools.
    pub rois: Option<RoisView<'a>>,
}

impl<'a, T: Element> Inputs<'a, T> {
    /// Inputs of a layer that reads only x.
    pub fn new(x: impl Into<TensorView<'a, T>>) -> Self {
        Self { x: x.into(), residual: Residual::None, offset: None, mask: None, rois: None }
    }

    /// Sets a residual that is added before the activation.
    pub fn residual(self, residual: impl Into<TensorView<'a, T>>) -> Self {
        Self { residual: Residual::Tensor(residual.into()), ..self }
    }

    /// Adds the output's previous content before the activation.
    pub fn accumulate(self) -> Self {
        Self { residual: Residual::Output, ..self }
    }

    /// Sets the offsets at which a deformable layer samples.
    pub fn offset(self, offset: impl Into<OffsetOrMask<'a, T>>) -> Self {
        Self { offset: Some(offset.into()), ..self }
    }

    /// Sets the mask by which the samples are multiplied.
    pub fn mask(self, mask: impl Into<OffsetOrMask<'a, T>>) -> Self {
        Self { mask: Some(mask.into()), ..self }
    }

    /// Sets the regions to pool.
    pub fn rois(self, rois: impl Into<RoisView<'a>>) -> Self {
        Self { rois: Some(rois.into()), ..self }
    }

    /// Records that work which is queued on `stream` reads the inputs.
    fn record_use(&self, stream: &Stream) {
        self.x.record_use(stream);
        if let Residual::Tensor(residual) = &self.residual {
            residual.record_use(stream);
        }
        for field in [&self.offset, &self.mask].into_iter().flatten() {
            match field {
                OffsetOrMask::Native(view) => view.record_use(stream),
                OffsetOrMask::F32(view) => view.record_use(stream),
            }
        }
        if let Some(rois) = &self.rois {
            rois.record_use(stream);
        }
    }

    /// The request for a plan for these inputs; both formats are that of x.
    pub(crate) fn request(&self) -> PlanRequest {
        PlanRequest { rois: self.rois.map(|rois| rois.len()), ..PlanRequest::new(self.x.shape()).format(self.x.format()) }
    }
}

/// A plan's launches, with everything but the addresses of the tensors.
pub(crate) trait Executable<T: Element>: fmt::Debug + Send + Sync {
    /// Launches on checked tensors.
    ///
    /// # Safety
    /// [`Plan::run`] of the plan that owns this has accepted the tensors, the workspace and the stream: shapes, formats and devices
    /// are those that were planned, nothing overlaps y, and the workspace has the plan's bytes.
    unsafe fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, workspace: &Workspace<'_>, stream: &Stream) -> Result<()>;

    /// The kernel parameters of a convolution that is one launch. Benchmarks use them to compare
    /// `run` with the bare launch.
    #[cfg(all(feature = "cuda", feature = "bench"))]
    fn parameters(&self, _inputs: &Inputs<'_, T>, _y: &TensorView<'_, T>) -> Result<Vec<u8>> {
        Ok(vec![])
    }
}

/// Whether a layer reads an input beside x, and in which shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Need {
    #[default]
    No,
    Optional(Shape),
    Required(Shape),
}

/// The inputs that a plan reads beside x.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs {
    pub residual: Need,
    pub offset: Need,
    pub mask: Need,
    pub rois: bool,
}

impl Needs {
    /// The needs of a layer with an optional residual of the output's shape.
    pub fn residual(output: Shape) -> Self {
        Self { residual: Need::Optional(output), ..Default::default() }
    }
}

/// A layer that is ready to run for one input shape: validated geometry, a chosen and loaded
/// kernel, packed weights on the device.
///
/// `run` takes `&self`, allocates nothing, does not synchronise, and can be captured in a
/// [`crate::Graph`]. Threads and streams may share a plan.
#[derive(Debug)]
pub struct Plan<T: Element> {
    pub(crate) op: &'static str,
    pub(crate) device: Device,
    pub(crate) request: PlanRequest,
    pub(crate) output: Shape,
    pub(crate) needs: Needs,
    pub(crate) workspace_bytes: usize,
    pub(crate) executable: Box<dyn Executable<T>>,
    pub(crate) explanation: Explanation,
}

impl<T: Element> Plan<T> {
    /// The shape of the output.
    pub fn output_shape(&self) -> Shape {
        self.output
    }

    /// The format of the output.
    pub fn output_format(&self) -> MemoryFormat {
        self.request.y_format
    }

    /// The device on which the plan runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes that [`Plan::run`] needs in its workspace: 0 unless the plan is several launches.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// Which kernel runs, and why.
    pub fn explain(&self) -> &Explanation {
        &self.explanation
    }

    /// The dtype of input and output.
    pub fn dtype(&self) -> DType {
        T::DTYPE
    }

    /// Runs on `stream`. On a GPU the work is queued and the call returns; on the host device it is
    /// done on return.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Format`] or [`Error::WrongDevice`] when a tensor is not what the
    /// plan was built for; [`Error::MissingTensor`] or [`Error::UnexpectedTensor`] when the tensors
    /// are not those that the layer reads; [`Error::Aliased`] when `y` overlaps an input (use
    /// [`Inputs::accumulate`] to add to the output); [`Error::Workspace`] when the workspace has
    /// fewer bytes than [`Plan::workspace_bytes`]; [`Error::Capturing`] on a stream that is being
    /// captured without [`Stream::allow_capture`]; [`Error::Limit`] when a view's strides reach
    /// over 2^31 elements within an image; the error of a launch that failed.
    pub fn run<'y>(
        &self,
        inputs: &Inputs<'_, T>,
        y: impl Into<TensorViewMut<'y, T>>,
        workspace: Workspace<'_>,
        stream: &Stream,
    ) -> Result<()> {
        let mut y = y.into();
        self.check_run(inputs, &y, stream.device())?;
        workspace.check(&self.device, self.workspace_bytes)?;
        stream.refuse_capture()?;
        if self.output.contains(&0) {
            return Ok(());
        }
        // SAFETY: everything was checked above against this plan, of which the executable is a part
        let queued = unsafe { self.executable.run(inputs, &mut y, &workspace, stream) };
        // Also after a failure: a plan of several launches may have queued the first.
        inputs.record_use(stream);
        y.as_view().record_use(stream);
        workspace.record_use(stream);
        queued
    }

    /// Refuses tensors, or a device of the stream, for which the plan was not built.
    pub(crate) fn check_run(&self, inputs: &Inputs<'_, T>, y: &TensorViewMut<'_, T>, stream: &Device) -> Result<()> {
        self.check("x", &inputs.x, self.request.x, Some(self.request.x_format))?;
        self.check("y", &y.as_view(), self.output, Some(self.request.y_format))?;
        disjoint("x", &inputs.x, y)?;
        if !matches!(inputs.residual, Residual::None) && self.needs.residual == Need::No {
            return Err(self.unexpected("residual"));
        }
        if let Residual::Tensor(residual) = &inputs.residual {
            self.check("residual", residual, self.output, None)?;
            disjoint("residual", residual, y)?;
        }
        self.check_offset_or_mask("offset", self.needs.offset, inputs.offset.as_ref(), y)?;
        self.check_offset_or_mask("mask", self.needs.mask, inputs.mask.as_ref(), y)?;
        match (&inputs.rois, self.needs.rois) {
            (None, false) => {}
            (Some(rois), true) => rois.check(&self.device, self.request.rois.unwrap_or_default(), self.request.x[0])?,
            (Some(_), false) => return Err(self.unexpected("rois")),
            (None, true) => return Err(self.missing("rois")),
        }
        if stream != &self.device {
            return Err(Error::WrongDevice { name: "the stream", expected: self.device.to_string(), got: stream.to_string() });
        }
        Ok(())
    }

    fn unexpected(&self, name: &'static str) -> Error {
        let named = |(name, need): (&'static str, Need)| (need != Need::No).then_some(name);
        let optional = [("residual", self.needs.residual), ("offset", self.needs.offset), ("mask", self.needs.mask)];
        let known: Vec<&str> = ["x"].into_iter().chain(optional.into_iter().filter_map(named)).collect();
        Error::UnexpectedTensor { op: self.op, name: name.into(), known: known.join(", ") }
    }

    fn missing(&self, name: &'static str) -> Error {
        Error::MissingTensor { op: self.op, name: name.into(), available: String::new() }
    }

    fn check<U: Element>(&self, name: &'static str, tensor: &TensorView<'_, U>, shape: Shape, format: Option<MemoryFormat>) -> Result<()> {
        if tensor.device() != &self.device {
            return Err(Error::WrongDevice { name, expected: self.device.to_string(), got: tensor.device().to_string() });
        }
        if tensor.shape() != shape {
            return Err(Error::Shape { name, shape: tensor.shape().to_vec(), expected: format!("shape {shape:?}") });
        }
        if let Some(expected) = format
            && tensor.format() != expected
        {
            return Err(Error::Format { name, expected, got: tensor.format() });
        }
        Ok(())
    }

    /// Checks an offset or a mask, which may be in either format.
    fn check_offset_or_mask(
        &self,
        name: &'static str,
        need: Need,
        field: Option<&OffsetOrMask<'_, T>>,
        y: &TensorViewMut<'_, T>,
    ) -> Result<()> {
        match (need, field) {
            (Need::No | Need::Optional(_), None) => Ok(()),
            (Need::No, Some(_)) => Err(self.unexpected(name)),
            (Need::Required(_), None) => Err(self.missing(name)),
            (Need::Optional(shape) | Need::Required(shape), Some(OffsetOrMask::Native(view))) => {
                self.check(name, view, shape, None)?;
                disjoint(name, view, y)
            }
            (Need::Optional(shape) | Need::Required(shape), Some(OffsetOrMask::F32(view))) => {
                self.check(name, view, shape, None)?;
                disjoint(name, view, y)
            }
        }
    }
}

fn disjoint<T: Element, U: Element>(name: &'static str, input: &TensorView<'_, U>, y: &TensorViewMut<'_, T>) -> Result<()> {
    match input.overlap(&y.as_view()) {
        None => Ok(()),
        Some((start, end)) => Err(Error::Aliased { name, start, end }),
    }
}
