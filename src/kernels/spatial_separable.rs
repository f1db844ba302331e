//! kernels/spatial_separable.cu: a vertical convolution of each channel and the horizontal one that reads its result, in one
//! launch.

use super::candidate::{Candidate, LaunchConfig, Reason};
use super::conv_params::KernelParams;
use super::conv_separable::fused_bytes;
use super::cost::{BUSY_BLOCKS, Work};
use super::launch::{ConvCandidate, ConvConfig, MAX_GRID_Y, WeightedConv};
use super::order::SumOrder;
use super::params::{SPATIAL_OUTPUTS, SpatialSeparableParams};
use super::problem::ConvProblem;
use super::{KernelInfo, Packed, conv_direct};
use crate::device::GpuModel;
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::{Estimate, Parameter};
use crate::{Device, Element, MemoryFormat};
use std::sync::Arc;

pub(crate) const FAMILY: &str = "spatial_separable";

/// The outputs of a thread along a stage's axis, and the number of taps that share their window.
const OUTPUTS: usize = SPATIAL_OUTPUTS as usize;
/// The possible sizes of a tile: rows, columns, and vectors of channels or planes.
const ROWS: [usize; 5] = [4, 8, 16, 32, 64];
const COLUMNS: [usize; 6] = [4, 8, 16, 32, 64, 128];
const CHANNELS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// The number of neighbouring vectors of channels that a warp should read: with wide vectors a
/// whole sector of L2, and a whole wavefront of shared memory.
const CHANNELS_GOAL: usize = 8;

/// Instructions in addition to products, for each product, as in conv_depthwise.rs: if neighbouring
/// taps share their pixels, and if each tap loads its own.
const DENSE_INSTRUCTIONS: f64 = 0.5;
const SPARSE_INSTRUCTIONS: f64 = 1.25;
/// Instructions of a load with its bounds test and address, which the elements of a thread's vector
/// share.
const LOAD_INSTRUCTIONS: f64 = 8.0;
/// Instructions for each element of the intermediate result: bias, rounding, and the store to
/// shared memory.
const FINISH_INSTRUCTIONS: f64 = 4.0;

/// A kernel of the family, with the axes that the manifest gives it.
#[derive(Debug, Clone, Copy)]
struct SpatialKernel {
    format: MemoryFormat,
    /// The channels of a thread.
    vector: usize,
    threads: usize,
    /// The number of blocks that fit a multiprocessor's registers.
    resident: usize,
}

impl SpatialKernel {
    fn new(kernel: &KernelInfo, model: &GpuModel) -> Self {
        let vector = kernel.axes.vector.unwrap_or(1);
        let format = kernel.format.expect("every kernel of the family is for one format");
        Self { format, vector, threads: kernel.threads as usize, resident: kernel.register_blocks(model).min(BUSY_BLOCKS) }
    }
}

/// How a launch is divided into blocks.
#[derive(Debug, Clone, Copy)]
struct SpatialTiling {
    /// The vectors of channels, or the planes, of a block.
    channels: usize,
    rows: usize,
    columns: usize,
    /// The columns of the intermediate result in shared memory, and those that are computed.
    mid_w: usize,
    mid_columns: usize,
    /// The blocks of an image along channels, columns and rows.
    tiles: [usize; 3],
    shared_bytes: usize,
}

impl SpatialTiling {
    /// The cheapest tile that fits shared memory, with its estimated time.
    fn new(variant: &SpatialKernel, problem: &ConvProblem<'_>, column: &ConvGeometry) -> Result<(Self, Estimate), String> {
        let row = &problem.geometry;
        let vectors = row.c_out / variant.vector;
        let mut best: Option<(Self, Estimate)> = None;
        // The first size that covers everything is as good as any larger one.
        let up_to = |sizes: &'static [usize], total: usize| {
            let enough = sizes.iter().position(|&size| size >= total).map_or(sizes.len(), |index| index + 1);
            &sizes[..enough]
        };
        for &channels in up_to(&CHANNELS, vectors) {
            for &rows in up_to(&ROWS, row.output[0]) {
                for &columns in up_to(&COLUMNS, row.output[1]) {
                    let tiling = Self::cut(variant, problem, column, [channels.min(vectors), rows, columns]);
                    if tiling.shared_bytes > problem.device.shared_bytes_per_block as usize {
                        continue;
                    }
                    let estimate = tiling.work(variant, problem, column).estimate(problem);
                    if best.as_ref().is_none_or(|(_, least)| estimate.seconds < least.seconds) {
                        best = Some((tiling, estimate));
                    }
                }
            }
        }
        best.ok_or_else(|| {
            let limit = problem.device.shared_bytes_per_block;
            format!("the middle of {OUTPUTS} x {OUTPUTS} outputs does not fit the {limit} bytes of shared memory that a block has")
        })
    }

    fn cut(variant: &SpatialKernel, problem: &ConvProblem<'_>, column: &ConvGeometry, [channels, rows, columns]: [usize; 3]) -> Self {
        let row = &problem.geometry;
        let (taps_h, taps_w) = (column.kernel[0].next_multiple_of(OUTPUTS), row.kernel[1].next_multiple_of(OUTPUTS));
        let reach = (row.kernel[1] - 1).saturating_mul(row.dilation[1]).saturating_add(1);
        let mid_columns = (columns - 1).saturating_mul(row.stride[1]).saturating_add(reach);
        let (mid_w, shared_bytes) = match variant.format {
            MemoryFormat::ChannelsLast => {
                let pixel = channels * variant.vector * problem.dtype.bytes();
                (mid_columns, mid_columns.saturating_mul(rows * pixel))
            }
            // Whole 16 bytes, including those that the last window reads in advance.
            MemoryFormat::Contiguous => {
                let mid_w = mid_columns.max(columns + taps_w).checked_next_multiple_of(OUTPUTS).unwrap_or(usize::MAX);
                let plane = mid_w.saturating_mul(rows).saturating_add(taps_h + taps_w);
                (mid_w, plane.saturating_mul(channels * size_of::<f32>()))
            }
        };
        let tiles = [(row.c_out / variant.vector).div_ceil(channels), row.output[1].div_ceil(columns), row.output[0].div_ceil(rows)];
        Self { channels, rows, columns, mid_w, mid_columns, tiles, shared_bytes }
    }

    fn blocks(&self, row: &ConvGeometry) -> f64 {
        self.tiles.iter().map(|&tiles| tiles as f64).product::<f64>() * row.n as f64
    }

    fn work(&self, variant: &SpatialKernel, problem: &ConvProblem<'_>, column: &ConvGeometry) -> Work {
        let row = &problem.geometry;
        let blocks = self.blocks(row);
        let bytes = problem.dtype.bytes() as f64;
        let (channels, vector) = ((self.channels * variant.vector) as f64, variant.vector as f64);
        let lines = blocks * channels * self.rows.min(row.output[0].next_multiple_of(OUTPUTS)) as f64;
        // The elements of the intermediate result, and of y.
        let (middle, outputs) = (lines * self.mid_columns as f64, lines * self.columns as f64);
        // For each element of a stage: its instructions, and the elements that it loads.
        let pass = |taps: usize, stride: usize, dilation: usize| {
            let dense = stride == 1 && dilation == 1;
            let overhead = if dense { DENSE_INSTRUCTIONS } else { SPARSE_INSTRUCTIONS };
            let each = match variant.format {
                MemoryFormat::ChannelsLast => 1.0 + overhead * (1.0 + LOAD_INSTRUCTIONS / vector),
                MemoryFormat::Contiguous => 1.0 + overhead,
            };
            let loads = if dense { (OUTPUTS - 1 + taps) as f64 / OUTPUTS as f64 } else { taps as f64 };
            (taps as f64 * each, loads)
        };
        let (vertical, vertical_loads) = pass(column.kernel[0], column.stride[0], column.dilation[0]);
        let (horizontal, horizontal_loads) = pass(row.kernel[1], row.stride[1], row.dilation[1]);
        let mid_bytes = if variant.format == MemoryFormat::Contiguous { size_of::<f32>() as f64 } else { bytes };
        // The share of threads that have an item in the last round.
        let busy = |items: f64| items / ((items / variant.threads as f64).ceil() * variant.threads as f64);
        let strips = self.rows.div_ceil(OUTPUTS) as f64;
        let mid_busy = busy(self.channels as f64 * self.mid_columns as f64 * strips);
        let busy = busy((self.channels * self.columns.div_ceil(OUTPUTS) * self.rows) as f64);
        let scattered = match variant.format {
            MemoryFormat::ChannelsLast => (CHANNELS_GOAL as f64 * 16.0 / bytes / channels / vector).clamp(1.0, 2.0),
            MemoryFormat::Contiguous => 1.0,
        };
        let window = (self.rows.min(row.output[0]) - 1) * column.stride[0] + (column.kernel[0] - 1) * column.dilation[0] + 1;
        let seen = window.min(column.input[0]) * self.mid_columns.min(column.input[1]);
        let resident = variant.resident.min(problem.device.model.shared_memory_blocks(self.shared_bytes));
        Work {
            blocks,
            blocks_per_multiprocessor: resident as f64,
            dram_bytes: fused_bytes(problem, column),
            l2_bytes: (blocks * seen as f64 * channels + outputs) * bytes * scattered,
            shared_bytes: middle * (vertical_loads * bytes + mid_bytes) / mid_busy + outputs * horizontal_loads * mid_bytes / busy,
            ffma: middle * (vertical + FINISH_INSTRUCTIONS) / mid_busy + outputs * horizontal / busy,
            ..Default::default()
        }
    }
}

pub(crate) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    let row = &problem.geometry;
    kernel.check_dtype(problem.dtype)?;
    let Some(column) = &problem.producer else { return Err("it is for two convolutions in a row".into()) };
    if [column.c_in, column.c_out, row.c_out] != [row.groups; 3] {
        return Err(format!(
            "{} to {} to {} channels in {} groups are not one of each in every group",
            column.c_in, column.c_out, row.c_out, row.groups
        ));
    }
    let variant = SpatialKernel::new(kernel, problem.device.model);
    if [problem.x_format, problem.y_format] != [variant.format; 2] {
        return Err(format!("it is for {0} input and output, not {1} to {2}", variant.format, problem.x_format, problem.y_format));
    }
    if !row.c_out.is_multiple_of(variant.vector) {
        return Err(format!("{} channels are no multiple of {}", row.c_out, variant.vector));
    }
    let (tiling, estimate) = SpatialTiling::new(&variant, problem, column)?;
    if tiling.tiles.iter().try_fold(1, |product: usize, &tiles| product.checked_mul(tiles)).is_none_or(|tiles| tiles > i32::MAX as usize) {
        return Err("an image has too many tiles".into());
    }
    let [channel_tiles, column_tiles, _] = tiling.tiles;
    let params = SpatialSeparableParams {
        channels: tiling.channels as i32,
        tile_h: tiling.rows as i32,
        tile_w: tiling.columns as i32,
        mid_w: tiling.mid_w as i32,
        channel_tiles: channel_tiles as i32,
        column_tiles: column_tiles as i32,
        ..Default::default()
    };
    let config = LaunchConfig {
        grid: [tiling.tiles.iter().product::<usize>() as u32, row.n.clamp(1, MAX_GRID_Y) as u32, 1],
        shared_bytes: tiling.shared_bytes as u32,
        alignment: [variant.vector * size_of::<T>(); 2],
        order: SumOrder::Chain,
        own: ConvConfig {
            params: KernelParams::SpatialSeparable(params),
            persistent: false,
            layout: conv_direct::LAYOUT,
            pack: conv_direct::pack,
        },
    };
    Ok(Candidate { estimate, config })
}

/// The vertical weight with its bias, in the order of the horizontal one.
pub(crate) fn pack_column<T: Element>(device: &Device, column: &WeightedConv<'_>) -> Result<Arc<Packed>> {
    let pack = |weight: &Parameter| conv_direct::pack::<T>(&column.geometry, weight);
    column.packed.get(device, conv_direct::LAYOUT, &column.epilogue, column.weight, pack)
}
