//! A layer made ready for one input shape on one device.

use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};
use crate::{DType, Device, Element, MemoryFormat, Shape, Stream};
use std::fmt;
use std::marker::PhantomData;

/// What a plan is made for: the input's shape, the formats, and wishes about the kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRequest {
    pub(crate) x: Shape,
    pub(crate) x_format: MemoryFormat,
    pub(crate) y_format: MemoryFormat,
    pub(crate) kernel: Option<String>,
    pub(crate) batch_invariant: bool,
}

impl PlanRequest {
    /// A plan for inputs of shape [N, C, H, W], contiguous in and out.
    pub fn new(x: Shape) -> Self {
        Self { x, x_format: MemoryFormat::Contiguous, y_format: MemoryFormat::Contiguous, kernel: None, batch_invariant: false }
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

    /// Asks for results of an image that do not depend, in any bit, on the batch that it came in.
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

/// The tensors that a layer reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T: Element> {
    /// The input [N, C_in, H, W].
    pub x: TensorView<'a, T>,
    /// Added before the activation.
    pub residual: Residual<'a, T>,
}

impl<'a, T: Element> Inputs<'a, T> {
    /// An input alone.
    pub fn new(x: impl Into<TensorView<'a, T>>) -> Self {
        Self { x: x.into(), residual: Residual::None }
    }

    /// Adds `residual` before the activation.
    pub fn residual(self, residual: impl Into<TensorView<'a, T>>) -> Self {
        Self { residual: Residual::Tensor(residual.into()), ..self }
    }

    /// Adds the output's previous content before the activation.
    pub fn accumulate(self) -> Self {
        Self { residual: Residual::Output, ..self }
    }
}

/// Device memory that a plan may use while it runs. [`Plan::workspace_bytes`] says how much; every plan of this version
/// needs none.
#[derive(Debug, Default)]
pub struct Workspace<'a> {
    memory: PhantomData<&'a mut [u8]>,
}

impl Workspace<'_> {
    /// No memory.
    pub fn none() -> Self {
        Self::default()
    }
}

/// A candidate of the kernel selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The kernel's name, as [`PlanRequest::kernel`] takes it.
    pub kernel: &'static str,
    /// Its estimated time in arbitrary units, or why it does not apply.
    pub verdict: Result<f64, String>,
}

/// Which kernel a plan runs, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The kernel that runs.
    pub kernel: &'static str,
    /// Every candidate, the chosen one first.
    pub choices: Vec<Choice>,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads a block.
    pub threads: u32,
    /// Dynamic shared memory a block, in bytes.
    pub shared_bytes: u32,
    /// What the plan was asked for beyond the cheapest kernel.
    pub note: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        writeln!(
            f,
            "{} on a grid of {x} x {y} x {z} blocks, {} threads each, {} bytes of shared memory{}",
            self.kernel, self.threads, self.shared_bytes, self.note
        )?;
        for choice in &self.choices {
            match &choice.verdict {
                Ok(cost) => writeln!(f, "  {:<36} cost {cost:.3e}", choice.kernel)?,
                Err(reason) => writeln!(f, "  {:<36} no: {reason}", choice.kernel)?,
            }
        }
        Ok(())
    }
}

/// What a kernel family prepares: everything but the addresses of the tensors.
pub(crate) trait Executable<T: Element>: fmt::Debug + Send + Sync {
    /// Launches on checked tensors.
    fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, stream: &Stream) -> Result<()>;
}

/// A layer made ready for one input shape: validated geometry, chosen and loaded kernel, packed weights on the device.
///
/// `run` takes `&self`, allocates nothing, does not synchronise, and can be captured in a CUDA graph; a plan may be shared
/// between threads and streams.
#[derive(Debug)]
pub struct Plan<T: Element> {
    pub(crate) device: Device,
    pub(crate) request: PlanRequest,
    pub(crate) output: Shape,
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

    /// Bytes that [`Plan::run`] needs in its workspace.
    pub fn workspace_bytes(&self) -> usize {
        0
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
    /// [`Error::Aliased`] when `y` overlaps an input ([`Inputs::accumulate`] is the way to add to the output);
    /// [`Error::Limit`] when a view's strides reach over 2^31 elements within an image; a failed launch.
    pub fn run<'y>(
        &self,
        inputs: &Inputs<'_, T>,
        y: impl Into<TensorViewMut<'y, T>>,
        workspace: Workspace<'_>,
        stream: &Stream,
    ) -> Result<()> {
        let Workspace { memory: PhantomData } = workspace;
        let mut y = y.into();
        self.check("x", &inputs.x, self.request.x, Some(self.request.x_format))?;
        self.check("y", &y.as_view(), self.output, Some(self.request.y_format))?;
        disjoint("x", &inputs.x, &y)?;
        if let Residual::Tensor(residual) = &inputs.residual {
            self.check("residual", residual, self.output, None)?;
            disjoint("residual", residual, &y)?;
        }
        if stream.device() != &self.device {
            return Err(Error::WrongDevice { name: "the stream", expected: self.device.to_string(), got: stream.device().to_string() });
        }
        if self.output.contains(&0) {
            return Ok(());
        }
        self.executable.run(inputs, &mut y, stream)
    }

    fn check(&self, name: &'static str, tensor: &TensorView<'_, T>, shape: Shape, format: Option<MemoryFormat>) -> Result<()> {
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
}

fn disjoint<T: Element>(name: &'static str, input: &TensorView<'_, T>, y: &TensorViewMut<'_, T>) -> Result<()> {
    match input.overlap(&y.as_view()) {
        None => Ok(()),
        Some((start, end)) => Err(Error::Aliased { name, start, end }),
    }
}
