//! A layer made ready for one input shape on one device: what is asked of a plan, what it is given, and what it says of itself.

mod estimate;
mod graph;
pub(crate) mod launches;
mod parameter;
mod rois;
mod workspace;

pub use estimate::Estimate;
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
use std::sync::Arc;

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

    /// Another format for the output than for the input.
    pub fn output_format(self, format: MemoryFormat) -> Self {
        Self { y_format: format, ..self }
    }

    /// Uses the kernel of this name, as [`Explanation`] lists it, instead of the cheapest. For tests and benchmarks.
    pub fn kernel(self, name: impl Into<String>) -> Self {
        Self { kernel: Some(name.into()), ..self }
    }

    /// Allows an f32 layer less than IEEE products.
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// How many RoIs there will be: K. Layers that pool RoIs need it.
    pub fn rois(self, rois: usize) -> Self {
        Self { rois: Some(rois), ..self }
    }

    /// Allows kernels that need up to so many bytes of workspace and are faster with it: convolutions with few output pixels and
    /// many products each, whose sums are split over the GPU and added up by a second launch. 0 unless this is called. (Layers that
    /// run as two launches with a tensor between them need the workspace for it in any case.) [`Plan::workspace_bytes`] says what
    /// the plan needs.
    pub fn workspace_limit(self, bytes: usize) -> Self {
        Self { workspace_limit: bytes, ..self }
    }

    /// Asks for results of an image (of a RoI) that do not depend, in any bit, on the batch that it came in, nor on how its views
    /// are aligned: the same for every N (every number of RoIs), given shapes and formats apart from that.
    ///
    /// The order in which a kernel adds products up decides on the last bits. Such a plan takes the order that is the fastest for
    /// one image, of those in which some kernel takes views of any alignment; of its kernels it takes the fastest for the batch.
    /// Kernels of other orders, a tuning table's and [`PlanRequest::kernel`]'s included, do not apply, and
    /// [`Explanation::note`] names the order. (The sign of a zero whose products all are below the smallest f32 is left open.)
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

/// Offsets or a mask: in the layer's dtype, or in f32 whatever that is.
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
    /// Added before the activation.
    pub residual: Residual<'a, T>,
    /// Where a deformable layer samples.
    pub offset: Option<OffsetOrMask<'a, T>>,
    /// By what a modulated deformable layer multiplies its samples.
    pub mask: Option<OffsetOrMask<'a, T>>,
    /// The regions that a layer pools.
    pub rois: Option<RoisView<'a>>,
}

impl<'a, T: Element> Inputs<'a, T> {
    /// An input alone.
    pub fn new(x: impl Into<TensorView<'a, T>>) -> Self {
        Self { x: x.into(), residual: Residual::None, offset: None, mask: None, rois: None }
    }

    /// Adds `residual` before the activation.
    pub fn residual(self, residual: impl Into<TensorView<'a, T>>) -> Self {
        Self { residual: Residual::Tensor(residual.into()), ..self }
    }

    /// Adds the output's previous content before the activation.
    pub fn accumulate(self) -> Self {
        Self { residual: Residual::Output, ..self }
    }

    /// Samples at these offsets.
    pub fn offset(self, offset: impl Into<OffsetOrMask<'a, T>>) -> Self {
        Self { offset: Some(offset.into()), ..self }
    }

    /// Multiplies the samples with this mask.
    pub fn mask(self, mask: impl Into<OffsetOrMask<'a, T>>) -> Self {
        Self { mask: Some(mask.into()), ..self }
    }

    /// Pools these regions.
    pub fn rois(self, rois: impl Into<RoisView<'a>>) -> Self {
        Self { rois: Some(rois.into()), ..self }
    }

    /// What a plan for these inputs is asked for: formats as the input's.
    pub(crate) fn request(&self) -> PlanRequest {
        PlanRequest { rois: self.rois.map(|rois| rois.len()), ..PlanRequest::new(self.x.shape()).format(self.x.format()) }
    }
}

/// A candidate of the kernel selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The kernel's name, as [`PlanRequest::kernel`] takes it.
    pub kernel: &'static str,
    /// Its estimated time, or why it does not apply.
    pub verdict: Result<Estimate, String>,
}

/// Who chose a plan's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChosenBy {
    /// The cost model, which estimates times.
    CostModel,
    /// Measured times: the [`crate::TuningTable`] of this name.
    Table(Arc<str>),
    /// [`PlanRequest::kernel`].
    Request,
    /// [`crate::Layer::tune`], which measured so many kernels.
    Measurement(usize),
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChosenBy::CostModel => f.write_str("chosen by the cost model"),
            ChosenBy::Table(name) => write!(f, "the fastest by the measured times of {name}"),
            ChosenBy::Request => f.write_str("asked for by name"),
            ChosenBy::Measurement(kernels) => write!(f, "the fastest of {kernels} that were measured"),
        }
    }
}

/// Which kernel a plan runs, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The kernel that runs.
    pub kernel: &'static str,
    /// Every candidate, the chosen one first.
    pub choices: Vec<Choice>,
    /// Who chose it.
    pub chosen_by: ChosenBy,
    /// The problem as a [`crate::TuningTable`] names it; empty where there is no choice.
    pub problem: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads a block.
    pub threads: u32,
    /// Dynamic shared memory a block, in bytes.
    pub shared_bytes: u32,
    /// What the plan was asked for beyond the cheapest kernel.
    pub note: String,
    /// Where a layer runs as several launches: each of them, in order.
    pub stages: Vec<Explanation>,
}

impl Explanation {
    /// Blocks of all launches: what [`Device::blocks_done`] counts while the plan runs once.
    pub fn blocks(&self) -> u64 {
        match &self.stages[..] {
            [] => self.grid.iter().map(|&size| u64::from(size)).product(),
            stages => stages.iter().map(Explanation::blocks).sum(),
        }
    }

    /// An explanation of nothing, to be filled in.
    pub(crate) fn empty() -> Self {
        Self {
            kernel: "",
            choices: vec![],
            chosen_by: ChosenBy::CostModel,
            problem: String::new(),
            grid: [0; 3],
            threads: 0,
            shared_bytes: 0,
            note: String::new(),
            stages: vec![],
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        let threads = self.threads;
        match self.stages.len() {
            0 => write!(f, "{} on a grid of {x} x {y} x {z} blocks, {threads} threads each", self.kernel)?,
            launches => write!(f, "{} of {launches} launches", self.kernel)?,
        }
        if self.shared_bytes > 0 {
            write!(f, ", {} bytes of shared memory", self.shared_bytes)?;
        }
        f.write_str(&self.note)?;
        if !self.choices.is_empty() {
            write!(f, "; {}", self.chosen_by)?;
        }
        writeln!(f)?;
        for choice in &self.choices {
            match &choice.verdict {
                Ok(estimate) => writeln!(f, "  {:<36} {estimate}", choice.kernel)?,
                Err(reason) => writeln!(f, "  {:<36} no: {reason}", choice.kernel)?,
            }
        }
        for (index, stage) in self.stages.iter().enumerate() {
            write!(f, "stage {}: {stage}", index + 1)?;
        }
        Ok(())
    }
}

/// What a kernel family prepares: everything but the addresses of the tensors.
pub(crate) trait Executable<T: Element>: fmt::Debug + Send + Sync {
    /// Launches on checked tensors.
    ///
    /// # Safety
    /// [`Plan::run`] of the plan that owns this has accepted the tensors, the workspace and the stream: shapes, formats and devices
    /// are those that were planned, nothing overlaps y, and the workspace has the plan's bytes.
    unsafe fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, workspace: &Workspace<'_>, stream: &Stream) -> Result<()>;

    /// The parameters with which a convolution of one launch is launched, for who compares `run` with the launch alone.
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

/// What a plan reads beside x.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs {
    pub residual: Need,
    pub offset: Need,
    pub mask: Need,
    pub rois: bool,
}

impl Needs {
    /// A residual of the output's shape, if the user wants one.
    pub fn residual(output: Shape) -> Self {
        Self { residual: Need::Optional(output), ..Default::default() }
    }
}

/// A layer made ready for one input shape: validated geometry, chosen and loaded kernel, packed weights on the device.
///
/// `run` takes `&self`, allocates nothing, does not synchronise, and can be captured in a [`crate::Graph`]; a plan may be shared
/// between threads and streams.
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

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes that [`Plan::run`] needs in its workspace: 0 for a plan of one launch.
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

    /// Runs on `stream`. On a GPU the work is queued, not waited for; on the host device it is done on return.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Format`] or [`Error::WrongDevice`] when a tensor is not what the plan was built for;
    /// [`Error::MissingTensor`] or [`Error::UnexpectedTensor`] when another set of tensors is given than the layer reads;
    /// [`Error::Aliased`] when `y` overlaps an input ([`Inputs::accumulate`] is the way to add to the output);
    /// [`Error::Workspace`] when the workspace has fewer than [`Plan::workspace_bytes`];
    /// [`Error::Capturing`] on a stream that is captured without [`Stream::allow_capture`];
    /// [`Error::Limit`] when a view's strides reach over 2^31 elements within an image; a failed launch.
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
        unsafe { self.executable.run(inputs, &mut y, &workspace, stream) }
    }

    /// Refuses tensors and a stream's device that are not what the plan was built for.
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

    /// An offset or a mask may be in either format.
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
