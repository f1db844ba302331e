//! One cost model for all families: estimated seconds, so that the cheapest candidate is the fastest by the same measure.
//!
//! A kernel is as slow as the busiest of the units that it uses: DRAM, the shared memory and L1 of the multiprocessors, their
//! tensor cores, their FFMA lanes. The multiprocessor with the most blocks ends last; and where a block has one to itself, it is
//! as slow as its own steps, which wait for each other.

use super::launch::Problem;
use crate::DeviceKind;
use crate::device::Properties;

/// Cycles a second.
const CLOCK: f64 = 1.4e9;
/// Of DRAM, for each multiprocessor: an A100 has 1.5 TB/s for 108.
const DRAM_BYTES_PER_SECOND: f64 = 14e9;
/// Of L2, for each multiprocessor: an A100 has about 5 TB/s for 108.
const L2_BYTES_PER_SECOND: f64 = 46e9;
/// Of shared memory and L1 together, each cycle.
const SHARED_BYTES_PER_CYCLE: f64 = 128.0;
/// What mma.sync reaches of 16-bit products, each cycle.
const TENSOR_MACS_PER_CYCLE: f64 = 700.0;
/// Strict f32 products, each cycle.
const FFMA_PER_CYCLE: f64 = 64.0;
/// A launch, and the latency of the first loads and the last stores.
const LAUNCH_SECONDS: f64 = 2e-6;
/// The host device has as many multiprocessors as the GPU that it imitates, so that both select alike.
const NOMINAL_MULTIPROCESSORS: u32 = 108;
/// That the blocks of one of its multiprocessors share.
pub(super) const SHARED_BYTES_PER_MULTIPROCESSOR: usize = 164 * 1024;

/// What a launch does, zero products and repeated reads included.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    pub blocks: f64,
    /// How many fit a multiprocessor at once.
    pub blocks_per_multiprocessor: f64,
    /// What a block takes at least, however idle its multiprocessor is; 0 where the family does not say.
    pub block_cycles: f64,
    /// Read from and written to DRAM.
    pub dram_bytes: f64,
    /// Read from L2, in whole sectors, repeated reads included.
    pub l2_bytes: f64,
    /// Moved between shared memory or L1 and registers, bank conflicts included.
    pub shared_bytes: f64,
    /// 16-bit products on tensor cores.
    pub tensor_macs: f64,
    /// Products on FFMA lanes.
    pub ffma: f64,
}

/// The multiprocessors that a selection counts on.
pub(crate) fn multiprocessors(problem: &Problem<'_>) -> f64 {
    multiprocessors_of(problem.kind, problem.device)
}

fn multiprocessors_of(kind: DeviceKind, device: &Properties) -> f64 {
    f64::from(if kind == DeviceKind::Host { NOMINAL_MULTIPROCESSORS } else { device.multiprocessors })
}

impl Work {
    /// Estimated seconds on the problem's device.
    pub fn seconds(&self, problem: &Problem<'_>) -> f64 {
        self.seconds_on(problem.kind, problem.device)
    }

    /// Estimated seconds on a device, for what is no convolution.
    pub fn seconds_on(&self, kind: DeviceKind, device: &Properties) -> f64 {
        let multiprocessors = multiprocessors_of(kind, device);
        let blocks = self.blocks.max(1.0);
        let waves = (blocks / (multiprocessors * self.blocks_per_multiprocessor.max(1.0))).ceil();
        // a family that does not say how long a block takes on its own is taken to need all that fit to keep a multiprocessor busy
        let most =
            if self.block_cycles > 0.0 { (blocks / multiprocessors).ceil() } else { waves * self.blocks_per_multiprocessor.max(1.0) };
        let cycles =
            (self.shared_bytes / SHARED_BYTES_PER_CYCLE).max(self.tensor_macs / TENSOR_MACS_PER_CYCLE).max(self.ffma / FFMA_PER_CYCLE);
        let units = (cycles / blocks * most).max(waves * self.block_cycles) / CLOCK;
        let memory = (self.dram_bytes / DRAM_BYTES_PER_SECOND).max(self.l2_bytes / L2_BYTES_PER_SECOND) / multiprocessors;
        LAUNCH_SECONDS + units.max(memory)
    }
}

/// Cycles of a warp for its products: it has a quarter of its multiprocessor.
pub(crate) fn warp_cycles(tensor_macs: f64, ffma: f64) -> f64 {
    4.0 * (tensor_macs / TENSOR_MACS_PER_CYCLE).max(ffma / FFMA_PER_CYCLE)
}

/// Estimated seconds of a kernel that does nothing but move bytes.
pub(crate) fn copy_seconds(bytes: f64) -> f64 {
    LAUNCH_SECONDS + bytes / (DRAM_BYTES_PER_SECOND * f64::from(NOMINAL_MULTIPROCESSORS))
}

/// Bytes that any kernel must move: input, weight and output once each.
pub(crate) fn least_bytes(problem: &Problem<'_>) -> f64 {
    let g = &problem.geometry;
    let input = g.n * g.c_in * g.input[0] * g.input[1];
    let output: usize = g.output_shape().iter().product();
    (input + output) as f64 * problem.dtype.bytes() as f64 + weight_bytes(problem)
}

/// Of a convolution's weight as the layer has it.
pub(crate) fn weight_bytes(problem: &Problem<'_>) -> f64 {
    let g = &problem.geometry;
    (g.c_out * (g.c_in / g.groups) * g.kernel[0] * g.kernel[1] * problem.dtype.bytes()) as f64
}
