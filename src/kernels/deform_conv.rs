//! kernels/deform_conv.cu: deformable convolution as an implicit GEMM, and the direct kernel that
//! handles every configuration.

use super::candidate::{Candidate, LaunchConfig, Reason};
use super::conv_gemm::{CHUNK_BYTES, GemmTiling, MAX_TILE, ROW_BYTES, STAGES, Tile, packing};
use super::conv_params::KernelParams;
use super::cost::{Work, least_bytes};
use super::launch::{ConvCandidate, ConvConfig};
use super::order::SumOrder;
use super::params::{DEFORM_SAMPLE_BYTES, DEFORM_SEGMENTS, DEFORM_SEGMENTS_OF_64, DeformConvParams};
use super::problem::ConvProblem;
use super::{KernelInfo, conv_direct};
use crate::device::kernel::Gather;
use crate::geometry::gcd;
use crate::plan::Estimate;
use crate::{DType, Element};

pub(crate) const FAMILY: &str = "deform_conv";

/// The cost of interpolating one value, in products on FFMA lanes.
const FFMA_PER_SAMPLE: f64 = 10.0;
/// The cost of the four loads of a value, in bytes from L1: in vectors, and one by one with a test
/// for each.
const BYTES_PER_SAMPLE: [f64; 2] = [8.0, 64.0];
/// The same cost if every product samples again.
const BYTES_PER_DIRECT_SAMPLE: f64 = 64.0;
const FFMA_PER_DIRECT_SAMPLE: f64 = 16.0;

/// The number of parts of k (a tap and an offset group) whose samples the table holds.
fn segments(tile: &Tile) -> usize {
    if tile.m == 64 { DEFORM_SEGMENTS_OF_64 as usize } else { DEFORM_SEGMENTS as usize }
}

fn shared_bytes(tile: &Tile) -> usize {
    STAGES * tile.stage_bytes() + segments(tile) * tile.m * DEFORM_SAMPLE_BYTES as usize
}

pub(crate) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    kernel.check_dtype(problem.dtype)?;
    // This fits 32 bits, since C_in does.
    let params = KernelParams::Deform(DeformConvParams { offset_groups: problem.geometry.offset_groups as i32, ..Default::default() });
    let Some(gather) = kernel.axes.gather else {
        let config = conv_direct::config(kernel, problem);
        let config = LaunchConfig { own: ConvConfig { params, ..config.own }, ..config };
        return Ok(Candidate { estimate: direct_estimate(kernel, problem)?, config });
    };
    let (tile, vectors) = (Tile::of(kernel), gather == Gather::Vectors);
    let tiling = fitting(tile, gather, problem)?;
    let (layout, pack) = packing(tile);
    let config = LaunchConfig {
        grid: [tiling.blocks() as u32, 1, 1],
        shared_bytes: shared_bytes(tile) as u32,
        alignment: [if vectors { CHUNK_BYTES } else { size_of::<T>() }, size_of::<T>()],
        order: SumOrder::of_gemm(kernel),
        own: ConvConfig { params, persistent: false, layout, pack },
    };
    Ok(Candidate { estimate: gemm_work(tile, &tiling, vectors, problem).estimate(problem), config })
}

fn direct_estimate(kernel: &KernelInfo, problem: &ConvProblem<'_>) -> Result<Estimate, String> {
    let macs = problem.geometry.macs().map_err(|e| e.to_string())? as f64;
    let (blocks, idle) = conv_direct::blocks(kernel, problem);
    let scattered = if kernel.format == Some(problem.y_format) { 1.0 } else { conv_direct::UNCOALESCED };
    let work = Work {
        blocks,
        blocks_per_multiprocessor: 4.0,
        dram_bytes: least_bytes(problem) * scattered,
        shared_bytes: macs * BYTES_PER_DIRECT_SAMPLE * scattered,
        ffma: idle * macs * FFMA_PER_DIRECT_SAMPLE,
        ..Default::default()
    };
    Ok(work.estimate(problem))
}

/// How the problem is divided into tiles, or why it cannot be.
fn fitting(tile: &Tile, gather: Gather, problem: &ConvProblem<'_>) -> Result<GemmTiling, Reason> {
    let ConvProblem { geometry: g, dtype, .. } = problem;
    let format = gather.format();
    if problem.x_format != format {
        return Err(format!("it gathers from {format} inputs"));
    }
    let (channels, offset_channels) = (g.c_in / g.groups, g.c_in / g.offset_groups);
    let (vectors, chunk) = (gather == Gather::Vectors, CHUNK_BYTES / dtype.bytes());
    if vectors && !(channels.is_multiple_of(chunk) && offset_channels.is_multiple_of(chunk)) {
        return Err(format!("{channels} channels a group, {offset_channels} an offset group are not multiples of {chunk}"));
    }
    let step = ROW_BYTES / dtype.bytes();
    // No segment is shorter than the common divisor of the groups' boundaries.
    let touched = 1 + (step - 1).div_ceil(gcd(channels, offset_channels));
    if touched > segments(tile) {
        return Err(format!("{touched} samples of a pixel in {step} products are more than {}", segments(tile)));
    }
    let tiling = GemmTiling::new(g, tile, *dtype);
    if tiling.rows > i32::MAX as usize - MAX_TILE || tiling.blocks() > i32::MAX as usize {
        return Err(format!("{} output pixels in {} blocks are above 2^31", tiling.rows, tiling.blocks()));
    }
    if shared_bytes(tile) > problem.device.shared_bytes_per_block as usize {
        return Err(format!("a block has {} bytes of shared memory", problem.device.shared_bytes_per_block));
    }
    Ok(tiling)
}

fn gemm_work(tile: &Tile, tiling: &GemmTiling, vectors: bool, problem: &ConvProblem<'_>) -> Work {
    let dtype = problem.dtype;
    let (step, total_steps) = (ROW_BYTES / dtype.bytes(), tiling.total_steps());
    let macs = total_steps * (tile.m * tile.n * step) as f64;
    let samples = total_steps * (tile.m * step) as f64;
    Work {
        blocks: tiling.blocks() as f64,
        // The sampling of one block keeps a multiprocessor busy.
        blocks_per_multiprocessor: 1.0,
        dram_bytes: least_bytes(problem),
        l2_bytes: total_steps * tile.stage_bytes() as f64,
        shared_bytes: total_steps * (tile.stage_bytes() + tile.fragment_bytes()) as f64
            + samples * BYTES_PER_SAMPLE[usize::from(!vectors)] * dtype.bytes() as f64 / 2.0,
        tensor_macs: if dtype == DType::F32 { 0.0 } else { macs },
        ffma: samples * FFMA_PER_SAMPLE + if dtype == DType::F32 { macs } else { 0.0 },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::family;

    #[test]
    fn the_manifest_has_these_tiles() {
        for kernel in family(FAMILY).filter(|kernel| kernel.axes.gather.is_some()) {
            let tile = Tile::of(kernel);
            assert_eq!(kernel.threads as usize, tile.threads(), "{}", kernel.name);
            assert!((kernel.threads as usize).is_multiple_of(tile.m), "{}: a thread fills the table for one pixel", kernel.name);
        }
    }
}
