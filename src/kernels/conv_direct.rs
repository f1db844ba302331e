//! kernels/conv_direct.cu: the kernel that handles every configuration.

use super::candidate::{Candidate, LaunchConfig, Reason};
use super::conv_params::KernelParams;
use super::cost::{Work, least_bytes};
use super::launch::{ConvCandidate, ConvConfig, MAX_GRID_Y};
use super::order::SumOrder;
use super::problem::ConvProblem;
use super::{KernelInfo, WeightPlace, pack_rows};
use crate::Element;
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::Parameter;

pub(crate) const FAMILY: &str = "conv_direct";
/// The order of the packed weight.
pub(crate) const LAYOUT: &str = "[tap][c_in / groups][c_out]";

/// Bytes that one product loads from L1: its own operand, rounded up to 4 bytes a lane, and a
/// broadcast one. The address arithmetic of both takes as long as 8 more bytes.
const BYTES_PER_PRODUCT: f64 = 16.0;
/// Instructions for each tap, whatever its channels: two bounds tests, the addresses of pixel and
/// weights, the loops.
const TAP_INSTRUCTIONS: f64 = 16.0;
/// The factor by which writes cost more if neighbouring threads do not write neighbouring elements.
pub(super) const UNCOALESCED: f64 = 4.0;

pub(crate) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    kernel.check_dtype(problem.dtype)?;
    let macs = problem.geometry.macs().map_err(|e| e.to_string())? as f64;
    let scattered = if kernel.format == Some(problem.y_format) { 1.0 } else { UNCOALESCED };
    let (blocks, idle) = blocks(kernel, problem);
    let work = Work {
        blocks,
        blocks_per_multiprocessor: 8.0,
        dram_bytes: least_bytes(problem) * scattered,
        shared_bytes: macs * BYTES_PER_PRODUCT * scattered,
        ffma: idle * (macs + macs / (problem.geometry.c_in / problem.geometry.groups) as f64 * TAP_INSTRUCTIONS),
        ..Default::default()
    };
    Ok(Candidate { estimate: work.estimate(problem), config: config(kernel, problem) })
}

/// The number of blocks of all images, and the number of lanes that issue instructions for each
/// lane with an output.
pub(super) fn blocks(kernel: &KernelInfo, problem: &ConvProblem<'_>) -> (f64, f64) {
    let [n, c_out, h, w] = problem.geometry.output_shape();
    let (outputs, threads) = (c_out * h * w, kernel.threads as usize);
    let blocks = outputs.div_ceil(threads);
    (blocks as f64 * n as f64, (blocks * threads) as f64 / outputs.max(1) as f64)
}

/// The launch of a kernel whose threads compute one output each.
pub(super) fn config<T: Element>(kernel: &KernelInfo, problem: &ConvProblem<'_>) -> LaunchConfig<ConvConfig<T>> {
    let [n, c_out, h, w] = problem.geometry.output_shape();
    let blocks = (c_out * h * w).div_ceil(kernel.threads as usize);
    LaunchConfig {
        grid: [blocks as u32, n.clamp(1, MAX_GRID_Y) as u32, 1],
        shared_bytes: 0,
        alignment: [size_of::<T>(); 2],
        order: SumOrder::Chain,
        own: ConvConfig { params: KernelParams::default(), persistent: false, layout: LAYOUT, pack },
    }
}

pub(crate) fn pack<T: Element>(g: &ConvGeometry, weight: &Parameter) -> Result<Vec<T>> {
    let (channels, outputs, taps) = (g.c_in / g.groups, g.c_out / g.groups, g.kernel[0] * g.kernel[1]);
    let index = |row, output, group| WeightPlace { group, output, channel: row % channels, tap: row / channels }.index(g);
    pack_rows(taps * channels, g.c_out, |row, out: &mut [T]| {
        for (group, out) in out.chunks_mut(outputs).enumerate() {
            let (first, stride) = (index(row, 0, group), index(row, 1, group) - index(row, 0, group));
            let values = weight.values()[first..].iter().step_by(stride);
            out.iter_mut().zip(values).for_each(|(out, &value)| *out = T::from_f32(value));
        }
    })
}
