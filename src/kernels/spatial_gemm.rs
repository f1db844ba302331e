//! kernels/spatial_gemm.cu: a dense vertical convolution and the dense horizontal one that reads
//! its result, in one launch.

use super::candidate::{Candidate, LaunchConfig, Reason};
use super::conv_gemm::{self, CHUNK_BYTES, LOAD_CYCLES, MAX_TILE, ROW_BYTES, SECTOR_BYTES, STAGES, STEP_CYCLES, Tile};
use super::conv_params::KernelParams;
use super::conv_separable::fused_bytes;
use super::cost::{Work, warp_cycles, weight_bytes};
use super::launch::{ConvCandidate, ConvConfig, Pack, WeightedConv};
use super::order::SumOrder;
use super::params::{SPATIAL_GEMM_ZERO_BYTES, SpatialSeparableParams};
use super::problem::ConvProblem;
use super::{KernelInfo, Packed};
use crate::device::kernel::Gather;
use crate::error::Result;
use crate::geometry::{ConvGeometry, kernel_span};
use crate::plan::{Estimate, Parameter};
use crate::{Device, Element};
use std::sync::Arc;

pub(crate) const FAMILY: &str = "spatial_gemm";
/// Bytes of zeros in front of the intermediate result in shared memory.
const ZERO_BYTES: usize = SPATIAL_GEMM_ZERO_BYTES as usize;
/// The width of a rectangle is a multiple of this, or the width of the output: ldmatrix loads this
/// many rows together.
const WIDTH: usize = 8;

/// How the output is divided into rectangles, and what they read of the intermediate result.
#[derive(Debug, Clone, Copy)]
struct SpatialGemmTiling {
    rows: usize,
    columns: usize,
    /// The largest number of columns of the intermediate result.
    mid_columns: usize,
    /// The largest number of tiles of pixels that these columns take.
    mid_tiles: usize,
    /// The rectangles along a column and along a row of the image.
    tiles: [usize; 2],
    shared_bytes: usize,
}

impl SpatialGemmTiling {
    /// The fastest division by the cost model with its estimated time, or why there is none.
    fn of(kernel: &'static KernelInfo, problem: &ConvProblem<'_>, column: &ConvGeometry) -> Result<(Self, Estimate), String> {
        let [height, width] = problem.geometry.output;
        let tile = Tile::of(kernel);
        let mut best: Option<(Self, Estimate)> = None;
        let whole = (width <= tile.m).then_some(width);
        for columns in whole.into_iter().chain((WIDTH..=tile.m.min(width)).step_by(WIDTH)) {
            for rows in 1..=height.min(tile.m / columns.max(1)) {
                let Some(tiling) = Self::new(tile, problem, rows, columns) else { continue };
                let estimate = tiling.work(kernel, problem, column).estimate(problem);
                if best.as_ref().is_none_or(|(_, least)| estimate.seconds < least.seconds) {
                    best = Some((tiling, estimate));
                }
            }
        }
        best.ok_or_else(|| {
            let (channels, limit) = (problem.geometry.c_in, problem.device.shared_bytes_per_block);
            format!("what a block sees of a middle of {channels} channels does not fit its {limit} bytes of shared memory")
        })
    }

    /// `None` if something does not fit shared memory.
    fn new(tile: &Tile, problem: &ConvProblem<'_>, rows: usize, columns: usize) -> Option<Self> {
        let row = &problem.geometry;
        let span = kernel_span(row.kernel[1], row.dilation[1]).ok()?;
        let mid_columns = (columns - 1).checked_mul(row.stride[1])?.checked_add(span)?.min(row.input[1]);
        let mid_tiles = rows.checked_mul(mid_columns)?.div_ceil(tile.m);
        let middle = mid_tiles.checked_mul(tile.m * chunks(row, problem.dtype.bytes()) * ROW_BYTES)?;
        let shared_bytes = middle.checked_add(STAGES * tile.stage_bytes() + ZERO_BYTES)?;
        let tiles = [row.output[0].div_ceil(rows), row.output[1].div_ceil(columns)];
        let fits = shared_bytes <= problem.device.shared_bytes_per_block as usize;
        fits.then_some(Self { rows, columns, mid_columns, mid_tiles, tiles, shared_bytes })
    }

    fn blocks(&self, row: &ConvGeometry) -> usize {
        row.n.saturating_mul(self.tiles[0]).saturating_mul(self.tiles[1])
    }

    fn work(&self, kernel: &'static KernelInfo, problem: &ConvProblem<'_>, column: &ConvGeometry) -> Work {
        let (tile, row, element, model) = (Tile::of(kernel), &problem.geometry, problem.dtype.bytes(), problem.device.model);
        let step = (ROW_BYTES / element) as f64;
        let column_steps = column.products().div_ceil(ROW_BYTES / element);
        // The GEMMs of a block, one after the other, and the steps of all of them.
        let (first, second) = (self.mid_tiles * column.c_out.div_ceil(tile.n), row.c_out.div_ceil(tile.n));
        let (first_steps, second_steps) = ((first * column_steps) as f64, (second * row.kernel[1] * chunks(row, element)) as f64);
        let (blocks, steps) = (self.blocks(row) as f64, first_steps + second_steps);
        let warp = warp_cycles(model, tile.warp_macs(problem.dtype), 0.0);
        let vectors = kernel.axes.gather == Some(Gather::Vectors);
        // Elements that pass through registers are loaded while one step is multiplied.
        let gather_cycles = STEP_CYCLES + if vectors { warp } else { warp.max(LOAD_CYCLES) };
        // A run of channels that is shorter than a sector of L2 costs a whole sector.
        let sectors = if vectors { (SECTOR_BYTES / (column.c_in * element) as f64).max(1.0) } else { 1.0 };
        let element_bytes = if vectors { 0.0 } else { tile.m as f64 * step * conv_gemm::BYTES_PER_ELEMENT };
        let (pixel_bytes, channel_bytes) = ((tile.m * ROW_BYTES) as f64, (tile.n * ROW_BYTES) as f64);
        let first_weight = weight_bytes(&ConvProblem { geometry: *column, producer: None, ..*problem });
        Work {
            blocks,
            blocks_per_multiprocessor: model.shared_memory_blocks(self.shared_bytes).min(kernel.register_blocks(model)) as f64,
            block_cycles: first_steps * gather_cycles + second_steps * (STEP_CYCLES + warp) + (first + second) as f64 * LOAD_CYCLES,
            dram_bytes: fused_bytes(problem, column) + first_weight,
            l2_bytes: blocks * (first_steps * pixel_bytes * sectors + steps * channel_bytes),
            shared_bytes: blocks
                * (steps * (tile.fragment_bytes() as f64 + channel_bytes)
                    + first_steps * (pixel_bytes + element_bytes)
                    + (self.mid_tiles * tile.m * row.c_in * element) as f64),
            tensor_macs: blocks * steps * (tile.m * tile.n) as f64 * step,
            ffma: 0.0,
        }
    }
}

/// The steps of the channels of one tap.
fn chunks(row: &ConvGeometry, element_bytes: usize) -> usize {
    row.c_in.div_ceil(ROW_BYTES / element_bytes)
}

pub(crate) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    let row = &problem.geometry;
    kernel.check_dtype(problem.dtype)?;
    let Some(column) = &problem.producer else { return Err("it is for two convolutions in a row".into()) };
    if row.groups != 1 {
        return Err(format!("it is for stages of one group, not {}", row.groups));
    }
    let gather = kernel.gather();
    let format = gather.format();
    if problem.x_format != format {
        return Err(format!("it gathers from {format} inputs"));
    }
    if gather == Gather::Vectors && !(column.c_in * problem.dtype.bytes()).is_multiple_of(CHUNK_BYTES) {
        return Err(format!("{} channels are not a multiple of {}", column.c_in, CHUNK_BYTES / problem.dtype.bytes()));
    }
    let (tiling, estimate) = SpatialGemmTiling::of(kernel, problem, column)?;
    let largest = [row.output[0], row.output[1], tiling.blocks(row), column.products()].into_iter().max().unwrap_or_default();
    if largest > i32::MAX as usize - MAX_TILE {
        return Err(format!("{:?} output pixels of {} products are above 2^31", row.output, column.products()));
    }
    let params = SpatialSeparableParams {
        tile_h: tiling.rows as i32,
        tile_w: tiling.columns as i32,
        mid_w: tiling.mid_columns as i32,
        column_tiles: tiling.tiles[1] as i32,
        ..Default::default()
    };
    let x_alignment = if gather == Gather::Vectors { CHUNK_BYTES } else { size_of::<T>() };
    let (layout, pack) = match Tile::of(kernel).n {
        32 => ("[tap][64 bytes of channels][c_out in tiles of 32]", pack_row::<T, 32> as Pack<T>),
        _ => ("[tap][64 bytes of channels][c_out in tiles of 64]", pack_row::<T, 64> as Pack<T>),
    };
    let config = LaunchConfig {
        grid: [tiling.blocks(row) as u32, 1, 1],
        shared_bytes: tiling.shared_bytes as u32,
        alignment: [x_alignment, size_of::<T>()],
        order: SumOrder::TensorCores,
        own: ConvConfig { params: KernelParams::SpatialSeparable(params), persistent: false, layout, pack },
    };
    Ok(Candidate { estimate, config })
}

/// Packs the horizontal weight. The channels of each tap are padded with zeros to whole steps.
fn pack_row<T: Element, const TILE_N: usize>(row: &ConvGeometry, weight: &Parameter) -> Result<Vec<T>> {
    let (step, chunks) = (ROW_BYTES / size_of::<T>(), chunks(row, size_of::<T>()));
    conv_gemm::pack_steps::<T, TILE_N>(row, weight, row.kernel[1] * chunks, |channel, tap| tap * chunks * step + channel)
}

/// The vertical weight with its bias, in the order of conv_gemm.cu.
pub(crate) fn pack_column<T: Element>(kernel: &'static KernelInfo, device: &Device, column: &WeightedConv<'_>) -> Result<Arc<Packed>> {
    let (layout, pack) = conv_gemm::packing::<T>(Tile::of(kernel));
    column.packed.get(device, layout, &column.epilogue, column.weight, |weight| pack(&column.geometry, weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::family;

    #[test]
    fn every_tile_has_its_order_of_the_weight() {
        for kernel in family(FAMILY) {
            let tile = Tile::of(kernel);
            assert!([32, 64].contains(&tile.n) && kernel.threads as usize == tile.threads(), "{}", kernel.name);
        }
    }
}
