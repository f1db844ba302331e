//! One cost model for all families, in estimated seconds, so that candidates of all families can be
//! compared.
//!
//! A kernel takes as long as the busiest of the units that it uses: DRAM, L2, the shared memory and
//! L1 of the multiprocessors, their tensor cores, or their FFMA lanes. The multiprocessor with the
//! most blocks ends last. If a block has a multiprocessor to itself, it takes as long as its own
//! steps, which wait for each other.

use super::problem::ConvProblem;
use crate::DeviceKind;
use crate::device::{GpuModel, Properties};
use crate::plan::Estimate;

/// Seconds of a launch, with the latency of its first loads and last stores.
const LAUNCH_SECONDS: f64 = 2e-6;

/// Blocks of 128 threads that keep a multiprocessor busy, where a family does not say how long a block takes on its own. More of them
/// only wait for each other, and a partial wave of so many would seem to take as long as a whole one.
pub(crate) const BUSY_BLOCKS: usize = 4;

/// The work of a launch, including products with zeros and repeated reads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    pub blocks: f64,
    /// The number of blocks that a multiprocessor runs at once.
    pub blocks_per_multiprocessor: f64,
    /// The least cycles that a block takes on an idle multiprocessor; 0 if the family does not say.
    pub block_cycles: f64,
    /// Bytes read from and written to DRAM.
    pub dram_bytes: f64,
    /// Bytes read from L2, in whole sectors, including repeated reads.
    pub l2_bytes: f64,
    /// Bytes moved between shared memory or L1 and registers, including bank conflicts.
    pub shared_bytes: f64,
    /// 16-bit products on tensor cores.
    pub tensor_macs: f64,
    /// Products on FFMA lanes.
    pub ffma: f64,
}

/// The number of multiprocessors that the choice assumes.
pub(crate) fn multiprocessors(problem: &ConvProblem<'_>) -> f64 {
    multiprocessors_of(problem.kind, problem.device)
}

/// The number of multiprocessors of a device. The host device chooses as the GPU that it imitates
/// does, whatever the number of its threads.
fn multiprocessors_of(kind: DeviceKind, device: &Properties) -> f64 {
    f64::from(if kind == DeviceKind::Host { device.model.multiprocessors } else { device.multiprocessors })
}

impl Work {
    /// The estimated time on the problem's device.
    pub fn estimate(&self, problem: &ConvProblem<'_>) -> Estimate {
        self.estimate_on(problem.kind, problem.device)
    }

    /// The estimated time on a device, for work that is not a convolution.
    pub fn estimate_on(&self, kind: DeviceKind, device: &Properties) -> Estimate {
        let model = device.model;
        let multiprocessors = multiprocessors_of(kind, device);
        let blocks = self.blocks.max(1.0);
        let waves = (blocks / (multiprocessors * self.blocks_per_multiprocessor.max(1.0))).ceil();
        // If the family does not say how long a block takes, all blocks that fit a multiprocessor
        // are assumed to be needed to keep it busy.
        let most =
            if self.block_cycles > 0.0 { (blocks / multiprocessors).ceil() } else { waves * self.blocks_per_multiprocessor.max(1.0) };
        // The time of the multiprocessor with the most blocks.
        let busiest = |amount: f64, per_cycle: f64| amount / per_cycle / blocks * most / model.clock;
        // All multiprocessors share the memory. A smaller part of the same kind has less bandwidth.
        let of_memory = |bytes: f64, per_second: f64| bytes / (per_second / f64::from(model.multiprocessors)) / multiprocessors;
        let parts = Estimate {
            seconds: 0.0,
            launch: LAUNCH_SECONDS,
            dram: of_memory(self.dram_bytes, model.dram_bytes_per_second),
            l2: of_memory(self.l2_bytes, model.l2_bytes_per_second),
            shared: busiest(self.shared_bytes, model.shared_bytes_per_cycle),
            tensor: busiest(self.tensor_macs, model.tensor_macs_per_cycle),
            ffma: busiest(self.ffma, model.ffma_per_cycle),
            latency: waves * self.block_cycles / model.clock,
        };
        let Estimate { dram, l2, shared, tensor, ffma, latency, .. } = parts;
        Estimate { seconds: LAUNCH_SECONDS + dram.max(l2).max(shared).max(tensor).max(ffma).max(latency), ..parts }
    }
}

/// The cycles that a warp needs for its products: it has a quarter of its multiprocessor.
pub(crate) fn warp_cycles(model: &GpuModel, tensor_macs: f64, ffma: f64) -> f64 {
    4.0 * (tensor_macs / model.tensor_macs_per_cycle).max(ffma / model.ffma_per_cycle)
}

/// The bytes that any kernel must move: input, weight and output, each once.
pub(crate) fn least_bytes(problem: &ConvProblem<'_>) -> f64 {
    let g = &problem.geometry;
    let input = g.n * g.c_in * g.input[0] * g.input[1];
    let output: usize = g.output_shape().iter().product();
    (input + output) as f64 * problem.dtype.bytes() as f64 + weight_bytes(problem)
}

/// The bytes of a convolution's weight in the layer's own shape.
pub(crate) fn weight_bytes(problem: &ConvProblem<'_>) -> f64 {
    let g = &problem.geometry;
    (g.c_out * (g.c_in / g.groups) * g.kernel[0] * g.kernel[1] * problem.dtype.bytes()) as f64
}
