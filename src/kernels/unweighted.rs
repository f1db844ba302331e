//! Ops without weights: one tensor in, one out, bound by memory. The choice among their kernels, and their launch.

use super::cost::Work;
use super::launch::{is_aligned, no_kernel_for_any_alignment};
use super::params::Tensor4;
use super::{Kernel, KernelInfo, choose, find, operand, tensor4};
use crate::device::Access;
use crate::error::Result;
use crate::layers::{Choice, Executable, Inputs, Needs, Plan, PlanRequest, Workspace};
use crate::tensor::TensorViewMut;
use crate::{Device, Element, Shape, Stream};
use std::fmt::Debug;

/// An op for one shape and format of its input, which knows its kernels.
pub(crate) trait Unweighted: Debug + Send + Sync + 'static {
    type Params: bytemuck::NoUninit;

    /// The kernels that it may run. At least one applies and needs no more than an element's alignment.
    fn kernels(&self) -> Vec<&'static KernelInfo>;

    /// What a kernel does, or why it does not apply.
    fn work(&self, kernel: &KernelInfo) -> Result<Work, String>;

    /// What its kernels' times depend on beside shapes, formats and dtype.
    fn attributes(&self) -> String;

    /// Bytes to which addresses and strides of x and y must be aligned; `None` for an element's own.
    fn alignment(&self, kernel: &KernelInfo) -> [Option<usize>; 2];

    /// Blocks and shared memory.
    fn grid(&self, kernel: &KernelInfo) -> Result<([u32; 3], u32)>;

    fn params(&self, kernel: &KernelInfo, x: Tensor4, y: Tensor4) -> Result<Self::Params>;
}

#[derive(Debug)]
struct Ready {
    kernel: Kernel,
    grid: [u32; 3],
    shared_bytes: u32,
    alignment: [usize; 2],
}

#[derive(Debug)]
struct Launch<O> {
    device: Device,
    op: O,
    chosen: Ready,
    /// Where the chosen kernel needs an alignment that a view may not have.
    narrow: Option<Ready>,
}

/// Chooses and loads.
pub(crate) fn plan<T: Element, O: Unweighted>(
    name: &'static str,
    device: &Device,
    request: &PlanRequest,
    output: Shape,
    op: O,
) -> Result<Plan<T>> {
    let estimate = |work: Work| work.estimate_on(device.kind(), device.properties());
    let choice = |kernel: &KernelInfo| Choice { kernel: kernel.name, verdict: op.work(kernel).map(estimate) };
    let choices = op.kernels().into_iter().map(choice).collect();
    let (dtype, x, x_format, y_format) = (T::DTYPE, request.x, request.x_format, request.y_format);
    let problem = format!("{name} {dtype}, x {x:?} {x_format}, y {output:?} {y_format}; {}", op.attributes());
    let selection = choose(name, device, request, problem, choices)?;
    let undemanding = [size_of::<T>(); 2];
    let alignment = |kernel: &KernelInfo| op.alignment(kernel).map(|bytes| bytes.unwrap_or(size_of::<T>()));
    let ready = |kernel: &'static KernelInfo| -> Result<Ready> {
        let (grid, shared_bytes) = op.grid(kernel)?;
        Ok(Ready { kernel: device.load(kernel)?, grid, shared_bytes, alignment: alignment(kernel) })
    };
    let chosen = ready(selection.kernel)?;
    let (mut narrow, mut note) = (None, String::new());
    if chosen.alignment != undemanding {
        let mut applicable = selection.choices.iter().filter(|choice| choice.verdict.is_ok()).map(|choice| find(choice.kernel));
        let kernel = applicable
            .find(|kernel| alignment(kernel) == undemanding)
            .ok_or_else(|| no_kernel_for_any_alignment(name, selection.kernel))?;
        note = format!("; {} for views that are not aligned to {} bytes", kernel.name, chosen.alignment[0].max(chosen.alignment[1]));
        narrow = Some(ready(kernel)?);
    }
    if request.batch_invariant {
        note += "; batch-invariant: every candidate computes an output in the same way";
    }
    let explanation = selection.explanation(chosen.grid, chosen.shared_bytes, note);
    Ok(Plan {
        op: name,
        device: device.clone(),
        request: request.clone(),
        output,
        needs: Needs::default(),
        workspace_bytes: 0,
        executable: Box::new(Launch { device: device.clone(), op, chosen, narrow }),
        explanation,
    })
}

impl<T: Element, O: Unweighted> Executable<T> for Launch<O> {
    fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, _: &Workspace<'_>, stream: &Stream) -> Result<()> {
        let y = y.as_view();
        let ready = match &self.narrow {
            Some(narrow) if !is_aligned(&inputs.x, self.chosen.alignment[0]) || !is_aligned(&y, self.chosen.alignment[1]) => narrow,
            _ => &self.chosen,
        };
        let params = self.op.params(ready.kernel.info, tensor4(&inputs.x)?, tensor4(&y)?)?;
        let operands = [operand("x", &inputs.x, Access::Read), operand("y", &y, Access::Write)];
        // SAFETY: the op's kernels take its parameter struct; `Plan::run` has checked that the views have the planned shapes and
        // are on the device, and views are valid as long as they exist
        unsafe { self.device.launch(&ready.kernel, ready.grid, ready.shared_bytes, bytemuck::bytes_of(&params), &operands, stream) }
    }
}
