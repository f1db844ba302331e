//! The CPU time of a launch.

use super::Bench;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// CPU time of launching a tiny convolution: through a plan, and by cudarc's bare launch of the
/// same kernel with the same parameters. The time ends when the work is queued.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LaunchOverhead {
    /// Median seconds of [`crate::Plan::run`].
    pub run_seconds: f64,
    /// Median seconds of cudarc's `launch_kernel`.
    pub bare_seconds: f64,
}

impl LaunchOverhead {
    /// The seconds that a plan adds to a bare launch.
    pub fn seconds(&self) -> f64 {
        self.run_seconds - self.bare_seconds
    }
}

impl Bench {
    /// Measures the overhead on a GPU. `None` on the host device, where a launch does the work
    /// itself.
    ///
    /// # Errors
    /// Errors of launches and allocations.
    pub fn launch_overhead(&self) -> Result<Option<LaunchOverhead>> {
        #[cfg(feature = "cuda")]
        return on_a_gpu::measure(&self.device);
        #[cfg(not(feature = "cuda"))]
        Ok(None)
    }
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::LaunchOverhead;
    use crate::error::Result;
    use crate::kernels::find;
    use crate::{Conv2d, Conv2dSpec, Device, Inputs, Layer, MemoryFormat, Padding, Parameter, PlanRequest, Stream, Tensor, Workspace};
    use half::f16;
    use std::time::Instant;

    /// Samples of each way, taken in turns.
    const SAMPLES: usize = 31;
    /// Launches in a sample: far fewer than the driver queues before it blocks the caller.
    const LAUNCHES: usize = 32;

    pub(super) fn measure(device: &Device) -> Result<Option<LaunchOverhead>> {
        let spec = Conv2dSpec { padding: Padding::Same, ..Default::default() };
        let layer = Conv2d::new(spec, Parameter::new(&[8, 8, 3, 3], &[0.5f32; 8 * 8 * 9])?)?.with_bias(Parameter::vector(&[1.0; 8]))?;
        let format = MemoryFormat::ChannelsLast;
        let plan = layer.plan::<f16>(device, &PlanRequest::new([1, 8, 2, 2]).format(format))?;
        let x = Tensor::<f16>::zeros(device, [1, 8, 2, 2], format)?;
        let mut y = Tensor::zeros(device, plan.output_shape(), format)?;
        let stream = Stream::new(device)?;
        let inputs = Inputs::new(&x);
        let params = plan.executable.parameters(&inputs, &y.view())?;
        let explanation = plan.explain();
        let kernel = device.load(find(explanation.kernel))?;
        let (Some(function), Some(cuda)) = (&kernel.cuda, stream.as_cuda()) else { return Ok(None) };
        let sample = |launch: &mut dyn FnMut() -> Result<()>| {
            let start = Instant::now();
            (0..LAUNCHES).try_for_each(|_| launch())?;
            let seconds = start.elapsed().as_secs_f64() / LAUNCHES as f64;
            stream.synchronize()?;
            Ok::<_, crate::Error>(seconds)
        };
        let (mut run, mut bare) = (vec![], vec![]);
        for _ in 0..SAMPLES {
            run.push(sample(&mut || plan.run(&inputs, &mut y, Workspace::none(), &stream))?);
            bare.push(sample(&mut || {
                // SAFETY: these are the plan's kernel and its parameters, whose tensors and weights outlive the work, which each
                // sample waits for; the run before has made the context current
                unsafe { function.launch(explanation.grid, explanation.threads, explanation.shared_bytes, &params, cuda) }
                    .map_err(|e| crate::device::cuda::failed(device.watch(), "cuLaunchKernel", e))
            })?);
        }
        let [run_seconds, bare_seconds] = [run, bare].map(|mut samples| {
            samples.sort_by(f64::total_cmp);
            samples[SAMPLES / 2]
        });
        Ok(Some(LaunchOverhead { run_seconds, bare_seconds }))
    }
}
