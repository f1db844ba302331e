//! One cost model for all families: estimated seconds, so that the cheapest candidate is the fastest by the same measure.
//!
//! A kernel is as slow as the busiest of the units that it uses: DRAM, the shared memory and L1 of the multiprocessors, their
//! tensor cores, their FFMA lanes. The multiprocessor with the most blocks ends last; and where a block has one to itself, it is
//! as slow as its own steps, which wait for each other.

use super::problem::Problem;
use crate::DeviceKind;
use crate::device::{GpuModel, Properties};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Mul};

/// A launch, and the latency of the first loads and the last stores.
const LAUNCH_SECONDS: f64 = 2e-6;

/// The time that the cost model expects of a plan, and what each unit of the GPU would need if it alone were busy. All are seconds.
///
/// Estimates serve to compare candidates: no constant of the model is fitted to measured times.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
#[non_exhaustive]
pub struct Estimate {
    /// The whole: launches, and of each the slowest of the parts below.
    pub seconds: f64,
    /// Launches, with the latency of their first loads and last stores.
    pub launch: f64,
    /// Device memory.
    pub dram: f64,
    /// Reads from L2.
    pub l2: f64,
    /// Shared memory and L1.
    pub shared: f64,
    /// Tensor cores.
    pub tensor: f64,
    /// FFMA lanes: f32 products, and the instructions beside them.
    pub ffma: f64,
    /// Blocks that wait for their own steps, one after the other.
    pub latency: f64,
}

impl Estimate {
    /// The parts with their names, the slowest first.
    pub fn parts(&self) -> [(&'static str, f64); 7] {
        let mut parts = [
            ("launch", self.launch),
            ("DRAM", self.dram),
            ("L2", self.l2),
            ("shared memory", self.shared),
            ("tensor cores", self.tensor),
            ("FFMA", self.ffma),
            ("latency", self.latency),
        ];
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        parts
    }

    /// The cheaper one; the first of equals.
    pub(crate) fn or_less(self, other: Self) -> Self {
        if other.seconds < self.seconds { other } else { self }
    }
}

impl Add for Estimate {
    type Output = Self;

    /// One after the other.
    fn add(self, next: Self) -> Self {
        Self {
            seconds: self.seconds + next.seconds,
            launch: self.launch + next.launch,
            dram: self.dram + next.dram,
            l2: self.l2 + next.l2,
            shared: self.shared + next.shared,
            tensor: self.tensor + next.tensor,
            ffma: self.ffma + next.ffma,
            latency: self.latency + next.latency,
        }
    }
}

impl Sum for Estimate {
    fn sum<I: Iterator<Item = Self>>(estimates: I) -> Self {
        estimates.fold(Self::default(), Add::add)
    }
}

impl Mul<f64> for Estimate {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self {
            seconds: self.seconds * factor,
            launch: self.launch * factor,
            dram: self.dram * factor,
            l2: self.l2 * factor,
            shared: self.shared * factor,
            tensor: self.tensor * factor,
            ffma: self.ffma * factor,
            latency: self.latency * factor,
        }
    }
}

/// "12.3 us (DRAM 10.1, L2 4.0, launch 2.0)": parts below a twentieth of the whole are left out.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = if self.seconds < 1e-3 { ("us", 1e6) } else { ("ms", 1e3) };
        let parts = self.parts().into_iter().filter(|(_, seconds)| *seconds > self.seconds / 20.0);
        let parts: Vec<String> = parts.map(|(name, seconds)| format!("{name} {:.1}", seconds * scale)).collect();
        write!(f, "{:.1} {unit} ({})", self.seconds * scale, parts.join(", "))
    }
}

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

/// The host device selects as the GPU does that it imitates, however many threads it has.
fn multiprocessors_of(kind: DeviceKind, device: &Properties) -> f64 {
    f64::from(if kind == DeviceKind::Host { device.model.multiprocessors } else { device.multiprocessors })
}

impl Work {
    /// The estimated time on the problem's device.
    pub fn estimate(&self, problem: &Problem<'_>) -> Estimate {
        self.estimate_on(problem.kind, problem.device)
    }

    /// The estimated time on a device, for what is no convolution.
    pub fn estimate_on(&self, kind: DeviceKind, device: &Properties) -> Estimate {
        let model = device.model;
        let multiprocessors = multiprocessors_of(kind, device);
        let blocks = self.blocks.max(1.0);
        let waves = (blocks / (multiprocessors * self.blocks_per_multiprocessor.max(1.0))).ceil();
        // a family that does not say how long a block takes on its own is taken to need all that fit to keep a multiprocessor busy
        let most =
            if self.block_cycles > 0.0 { (blocks / multiprocessors).ceil() } else { waves * self.blocks_per_multiprocessor.max(1.0) };
        // the multiprocessor with the most blocks
        let busiest = |amount: f64, per_cycle: f64| amount / per_cycle / blocks * most / model.clock;
        // memory serves all of them; a smaller part of the same kind has less of it
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

/// Cycles of a warp for its products: it has a quarter of its multiprocessor.
pub(crate) fn warp_cycles(model: &GpuModel, tensor_macs: f64, ffma: f64) -> f64 {
    4.0 * (tensor_macs / model.tensor_macs_per_cycle).max(ffma / model.ffma_per_cycle)
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
