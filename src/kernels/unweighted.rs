//! Ops without weights that move or blend elements: one tensor in, one tensor out, with a speed
//! that memory limits. This module chooses among their kernels and launches them.

use super::candidate::{ByAlignment, Candidate, Entry, LaunchConfig, LoadedLaunch, Reason, choose};
use super::cost::Work;
use super::launch::{is_aligned, least};
use super::params::Tensor4;
use super::{KernelInfo, operand, tensor4};
use crate::device::Access;
use crate::error::Result;
use crate::plan::{Estimate, Executable, Inputs, Needs, Plan, PlanRequest, Workspace};
use crate::tensor::TensorViewMut;
use crate::{Device, Element, Shape, Stream};
use std::fmt::Debug;

/// An op for one shape and format of its input. It knows its kernels.
pub(crate) trait Unweighted: Debug + Send + Sync + 'static {
    /// The parameter struct of the op's kernels.
    type Params: bytemuck::NoUninit;
    /// What the parameters depend on in addition to the tensors.
    type Config: Copy + Debug + Send + Sync;

    /// The kernels that the op may run. At least one applies and needs no more than an element's
    /// alignment.
    fn kernels(&self) -> Vec<&'static KernelInfo>;

    /// The work of a kernel and its launch, or why it does not apply.
    fn candidate(&self, kernel: &'static KernelInfo) -> Result<(Work, LaunchConfig<Self::Config>), Reason>;

    /// What the times of the op's kernels depend on in addition to shapes, formats and dtype.
    fn attributes(&self) -> String;

    fn params(&self, kernel: &KernelInfo, config: &Self::Config, x: Tensor4, y: Tensor4) -> Result<Self::Params>;
}

fn candidates<O: Unweighted>(device: &Device, op: &O) -> Vec<Entry<O::Config>> {
    let candidate = |kernel| {
        let (work, config) = op.candidate(kernel)?;
        Ok(Candidate { estimate: work.estimate_on(device.kind(), device.properties()), config })
    };
    op.kernels().into_iter().map(|kernel| Entry::of_kernel(kernel, candidate(kernel))).collect()
}

/// The estimated time of the plan that the op would get.
pub(crate) fn least_time<O: Unweighted>(device: &Device, op: &O) -> Estimate {
    least(&candidates(device, op))
}

#[derive(Debug)]
struct Launch<O: Unweighted> {
    device: Device,
    op: O,
    launch: ByAlignment<O::Config>,
}

/// Makes a plan: chooses a kernel and loads it.
pub(crate) fn plan<T: Element, O: Unweighted>(
    name: &'static str,
    device: &Device,
    request: &PlanRequest,
    output: Shape,
    op: O,
) -> Result<Plan<T>> {
    let (dtype, x, x_format, y_format) = (T::DTYPE, request.x, request.x_format, request.y_format);
    let problem = format!("{name} {dtype}, x {x:?} {x_format}, y {output:?} {y_format}; {}", op.attributes());
    let selection = choose(name, device, request, problem, candidates(device, &op))?;
    let (launch, mut note) = selection.load::<T, _>(|kernel, config| LoadedLaunch::new(device, kernel, config, config.own))?;
    if request.batch_invariant {
        note += "; batch-invariant: every candidate computes an output in the same way";
    }
    let explanation = selection.explain(&launch.chosen, note);
    Ok(Plan {
        op: name,
        device: device.clone(),
        request: request.clone(),
        output,
        needs: Needs::default(),
        workspace_bytes: 0,
        executable: Box::new(Launch { device: device.clone(), op, launch }),
        explanation,
    })
}

impl<T: Element, O: Unweighted> Executable<T> for Launch<O> {
    unsafe fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, _: &Workspace<'_>, stream: &Stream) -> Result<()> {
        let y = y.as_view();
        let LoadedLaunch { kernel, grid, shared_bytes, own, .. } =
            self.launch.of_views(|[of_x, of_y], _| is_aligned(&inputs.x, of_x) && is_aligned(&y, of_y));
        let params = self.op.params(kernel.info, own, tensor4(&inputs.x)?, tensor4(&y)?)?;
        let operands = [operand("x", &inputs.x, Access::Read), operand("y", &y, Access::Write)];
        // SAFETY: the op's kernels take its parameter struct; the views have the planned shapes and are on the device, the caller
        // says, and are valid as long as they exist
        unsafe { self.device.launch(kernel, *grid, *shared_bytes, bytemuck::bytes_of(&params), &operands, stream) }
    }
}
