//! Depthwise convolutions, one input channel for each output channel: kernels/depthwise_unrolled.cu and the contiguous kernels of
//! kernels/depthwise_any_size.cu. The other kernels are prepared by conv_any.rs and conv_banded.rs.

use super::candidate::{Candidate, LaunchConfig, Reason};
use super::conv_params::KernelParams;
use super::cost::{BUSY_BLOCKS, Work, least_bytes, multiprocessors};
use super::launch::{ConvCandidate, ConvConfig, MAX_GRID_Y, Pack};
use super::order::SumOrder;
use super::params::{ConvDepthwiseParams, DEPTHWISE_STRIP, DEPTHWISE_WIDE_STRIP};
use super::problem::ConvProblem;
use super::{KernelInfo, conv_any, conv_banded, conv_direct};
use crate::device::GpuModel;
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::Parameter;
use crate::{Element, MemoryFormat, memory};

pub(crate) const FAMILY: &str = "depthwise_unrolled";

/// The number of lanes of a warp that read neighbouring channels: with 16 bytes each they read 256
/// bytes of a pixel.
const CHANNEL_LANES: usize = 16;
/// The same number for vectors of less than 16 bytes.
const NARROW_CHANNEL_LANES: usize = 32;
/// The output columns of a thread with fewer than 4 channels, and the output rows of a thread of
/// the contiguous kernel for any size.
const STRIP: usize = DEPTHWISE_STRIP as usize;
/// The bytes of shared memory with which several blocks fit a multiprocessor.
const SHARED_GOAL: usize = 48 * 1024;
/// How many times the device should be filled if there is enough work.
const WAVES: usize = 2;
/// Instructions in addition to products: for each vector of a thread's window in channels_last
/// (load, conversion, address), and for each element that is staged in shared memory.
const LOAD_INSTRUCTIONS: f64 = 8.0;
const STAGING_INSTRUCTIONS: f64 = 4.0;
/// Instructions in addition to products, for each product of the contiguous `any` kernel, whose
/// loops are not unrolled: if neighbouring taps share their pixels, and if each tap loads its own.
const DENSE_INSTRUCTIONS: f64 = 0.5;
const SPARSE_INSTRUCTIONS: f64 = 1.25;

/// A kernel of the family that has no module of its own, with the axes that the manifest gives it.
#[derive(Debug, Clone, Copy)]
struct DepthwiseKernel {
    format: MemoryFormat,
    /// The kernel size and stride of an unrolled kernel.
    unrolled: Option<[usize; 2]>,
    /// The channels of a thread.
    vector: usize,
    /// The output columns of a thread.
    columns: usize,
    threads: usize,
    /// The number of blocks that fit a multiprocessor's registers.
    resident: usize,
}

impl DepthwiseKernel {
    fn new(kernel: &KernelInfo, model: &GpuModel) -> Self {
        let vector = kernel.axes.vector.unwrap_or(1);
        let unrolled = kernel.axes.size.zip(kernel.axes.stride).map(|(size, stride)| [size, stride]);
        let format = kernel.format.expect("every kernel of the family is for one format");
        let resident = kernel.register_blocks(model).min(BUSY_BLOCKS);
        Self {
            format,
            unrolled,
            vector,
            columns: if vector >= 4 { DEPTHWISE_WIDE_STRIP as usize } else { STRIP },
            threads: kernel.threads as usize,
            resident,
        }
    }
}

/// How a launch is divided into blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct DepthwiseTiling {
    /// The threads of a block along channels (or vectors of them), columns and rows.
    channels: usize,
    columns: usize,
    strips: usize,
    /// The output rows of a thread.
    rows: usize,
    /// The blocks of an image along the same axes.
    tiles: [usize; 3],
    /// The height and width of a channel's patch in shared memory.
    patch: [usize; 2],
    shared_bytes: usize,
}

/// Splits `total` into parts of at most `most` that are as equal as possible. Returns the size of a
/// part and the number of parts.
pub(super) fn split_evenly(total: usize, most: usize) -> (usize, usize) {
    let parts = total.div_ceil(most.max(1)).max(1);
    let size = total.div_ceil(parts).max(1);
    (size, total.div_ceil(size).max(1))
}

impl DepthwiseTiling {
    /// The largest blocks that still fill the device. If they need shared memory, blocks that leave
    /// room for several.
    fn new(variant: &DepthwiseKernel, problem: &ConvProblem<'_>) -> Result<Self, String> {
        let g = &problem.geometry;
        let multiprocessors = multiprocessors(problem) as usize;
        let wanted = WAVES * variant.resident * multiprocessors;
        let fixed = variant.format == MemoryFormat::Contiguous && variant.unrolled.is_none();
        let mut best: Option<((bool, usize), Self)> = None;
        // Idle threads and windows of few rows pay off only if multiprocessors would be idle
        // otherwise.
        for shrink in if variant.format == MemoryFormat::ChannelsLast { vec![1] } else { vec![1, 2, 4, 8, 16] } {
            for rows in if fixed { vec![STRIP] } else { vec![64, 32, 16, 8, 4, 2, 1] } {
                let tiling = Self::cut(variant, problem, rows, shrink);
                let fits = |tiling: &Self| tiling.shared_bytes <= SHARED_GOAL;
                let cheap = shrink == 1 && rows >= STRIP;
                if fits(&tiling) && tiling.blocks(g) >= wanted && cheap {
                    return Ok(tiling);
                }
                let rank = (fits(&tiling), tiling.blocks(g).min(if cheap { wanted } else { multiprocessors }));
                let possible = tiling.shared_bytes <= problem.device.shared_bytes_per_block as usize;
                if possible && best.as_ref().is_none_or(|(before, _)| rank > *before) {
                    best = Some((rank, tiling));
                }
            }
        }
        best.map(|(_, tiling)| tiling).ok_or_else(|| {
            let limit = problem.device.shared_bytes_per_block;
            format!("what {STRIP} x {STRIP} output pixels see does not fit the {limit} bytes of shared memory that a block has")
        })
    }

    /// The division with strips of at most `rows` rows and, in the contiguous format, 1 / `shrink`
    /// of the threads working.
    fn cut(variant: &DepthwiseKernel, problem: &ConvProblem<'_>, rows: usize, shrink: usize) -> Self {
        let g = &problem.geometry;
        let [height, width] = g.output;
        let groups = width.div_ceil(variant.columns);
        let vectors = g.c_out / variant.vector;
        let threads = variant.threads / shrink;
        let fixed = variant.format == MemoryFormat::Contiguous && variant.unrolled.is_none();
        // A strip of a fixed height may reach below the image.
        let cut_rows = |strips: usize| {
            let (rows, row_tiles) = if fixed { (rows, height.div_ceil(rows * strips)) } else { split_evenly(height, rows * strips) };
            if fixed { (rows, row_tiles) } else { (rows.div_ceil(strips), row_tiles) }
        };
        match variant.format {
            MemoryFormat::ChannelsLast => {
                let lanes = if variant.vector * problem.dtype.bytes() == 16 { CHANNEL_LANES } else { NARROW_CHANNEL_LANES };
                let (channels, channel_tiles) = split_evenly(vectors, lanes);
                let slots = threads / channels;
                let (columns, column_tiles) = split_evenly(groups, slots);
                let strips = (slots / columns).clamp(1, height.div_ceil(rows).max(1));
                let (rows, row_tiles) = cut_rows(strips);
                let tiles = [channel_tiles, column_tiles, row_tiles];
                Self { channels, columns, strips, rows, tiles, patch: [0, 0], shared_bytes: 0 }
            }
            MemoryFormat::Contiguous => {
                let (columns, column_tiles) = split_evenly(groups, threads.min(32));
                let strips = (threads / columns).clamp(1, height.div_ceil(rows).max(1));
                let (rows, row_tiles) = cut_rows(strips);
                let (channels, channel_tiles) = split_evenly(vectors, threads / (columns * strips));
                let span = |axis: usize| (g.kernel[axis] - 1) * g.dilation[axis] + 1;
                let patch_h = (strips * rows - 1) * g.stride[0] + span(0);
                // Whole 16 bytes for each thread. Beyond the last, the dense `any` kernel reads 4
                // pixels in advance.
                let row = match variant.unrolled {
                    Some([size, stride]) => (columns - 1) * STRIP * stride + ((STRIP - 1) * stride + size).next_multiple_of(4),
                    None => ((columns * STRIP - 1) * g.stride[1] + span(1)).max(columns * STRIP + g.kernel[1].next_multiple_of(4)),
                };
                let patch = [patch_h, row.next_multiple_of(4)];
                let weights = if variant.unrolled.is_none() { g.kernel[0] * g.kernel[1].next_multiple_of(4) } else { 0 };
                let elements = patch[0].saturating_mul(patch[1]).saturating_add(weights);
                let shared_bytes = channels.saturating_mul(elements).saturating_mul(size_of::<f32>());
                Self { channels, columns, strips, rows, tiles: [channel_tiles, column_tiles, row_tiles], patch, shared_bytes }
            }
        }
    }

    fn blocks(&self, g: &ConvGeometry) -> usize {
        self.tiles.iter().product::<usize>() * g.n
    }

    fn work(&self, variant: &DepthwiseKernel, problem: &ConvProblem<'_>) -> Work {
        let g = &problem.geometry;
        let blocks = self.blocks(g) as f64;
        let active = (self.channels * self.columns * self.strips) as f64;
        let threads = blocks * active;
        let taps = (g.kernel[0] * g.kernel[1]) as f64;
        let products = threads * (self.rows * variant.columns * variant.vector) as f64 * taps;
        // The vectors that the threads read. In the unrolled kernels each vector of a strip's
        // window is read once.
        let window = |axis: usize, outputs: usize| ((outputs - 1) * g.stride[axis] + g.kernel[axis]) as f64;
        let loads = threads * window(0, self.rows) * window(1, variant.columns);
        let staged = blocks * (self.channels * self.patch[0] * self.patch[1]) as f64;
        let dense = g.stride[1] == 1 && g.dilation[1] == 1;
        let overhead = if dense { DENSE_INSTRUCTIONS } else { SPARSE_INSTRUCTIONS };
        let (instructions, l1_bytes) = match (variant.format, variant.unrolled) {
            (MemoryFormat::ChannelsLast, _) => {
                (products + loads * LOAD_INSTRUCTIONS, loads * (variant.vector * problem.dtype.bytes()) as f64)
            }
            (MemoryFormat::Contiguous, Some(_)) => {
                (products + loads + staged * STAGING_INSTRUCTIONS, (loads + staged) * size_of::<f32>() as f64)
            }
            (MemoryFormat::Contiguous, None) => {
                let instructions = products * (1.0 + overhead) + staged * STAGING_INSTRUCTIONS;
                (instructions, (products * overhead / 2.0 + staged) * size_of::<f32>() as f64)
            }
        };
        let idle = variant.threads as f64 / active;
        let resident = variant.resident.min(problem.device.model.shared_memory_blocks(self.shared_bytes));
        Work {
            blocks,
            blocks_per_multiprocessor: resident as f64,
            dram_bytes: least_bytes(problem),
            shared_bytes: l1_bytes * idle,
            ffma: instructions * idle,
            ..Default::default()
        }
    }

    fn config<T: Element>(&self, variant: &DepthwiseKernel, g: &ConvGeometry) -> LaunchConfig<ConvConfig<T>> {
        let [channel_tiles, column_tiles, _] = self.tiles;
        let params = ConvDepthwiseParams {
            channels: self.channels as i32,
            columns: self.columns as i32,
            strips: self.strips as i32,
            rows: self.rows as i32,
            channel_tiles: channel_tiles as i32,
            column_tiles: column_tiles as i32,
            patch_h: self.patch[0] as i32,
            patch_w: self.patch[1] as i32,
            ..Default::default()
        };
        // The contiguous kernels check the alignment themselves.
        let (layout, pack) = match variant.format {
            MemoryFormat::ChannelsLast => (conv_direct::LAYOUT, conv_direct::pack as Pack<T>),
            MemoryFormat::Contiguous => ("[c_out][tap]", pack as Pack<T>),
        };
        LaunchConfig {
            grid: [self.tiles.iter().product::<usize>() as u32, g.n.clamp(1, MAX_GRID_Y) as u32, 1],
            shared_bytes: self.shared_bytes as u32,
            alignment: [variant.vector * size_of::<T>(); 2],
            order: SumOrder::Chain,
            own: ConvConfig { params: KernelParams::Depthwise(params), persistent: false, layout, pack },
        }
    }
}

pub(crate) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    let g = &problem.geometry;
    kernel.check_dtype(problem.dtype)?;
    if g.groups != g.c_in {
        return Err(format!("{} channels in each of {} groups are not depthwise", g.c_in / g.groups, g.groups));
    }
    if conv_banded::is_banded(kernel) {
        return conv_banded::candidate(kernel, problem);
    }
    let variant = DepthwiseKernel::new(kernel, problem.device.model);
    if [problem.x_format, problem.y_format] != [variant.format; 2] {
        return Err(format!("it is for {0} input and output, not {1} to {2}", variant.format, problem.x_format, problem.y_format));
    }
    if let Some([size, stride]) = variant.unrolled
        && (g.kernel, g.stride, g.dilation) != ([size; 2], [stride; 2], [1; 2])
    {
        let [kh, kw] = g.kernel;
        return Err(format!(
            "it is for {size}x{size} with stride {stride}, not {kh}x{kw} with stride {:?} and dilation {:?}",
            g.stride, g.dilation
        ));
    }
    let multiplier = g.c_out / g.c_in;
    if variant.vector > 1 && multiplier != 1 {
        return Err(format!("it computes one output of an input channel, not {multiplier}"));
    }
    if !g.c_out.is_multiple_of(variant.vector) {
        return Err(format!("{} output channels are no multiple of {}", g.c_out, variant.vector));
    }
    if conv_any::is_any(kernel) {
        return conv_any::candidate(kernel, problem);
    }
    let tiling = DepthwiseTiling::new(&variant, problem)?;
    if tiling.tiles.iter().product::<usize>() > i32::MAX as usize {
        return Err("an image has too many tiles".into());
    }
    Ok(Candidate { estimate: tiling.work(&variant, problem).estimate(problem), config: tiling.config(&variant, g) })
}

/// Packs the weight in the canonical order, for C_in / groups = 1.
fn pack<T: Element>(_: &ConvGeometry, weight: &Parameter) -> Result<Vec<T>> {
    memory::collect(weight.values().iter().map(|&v| T::from_f32(v)))
}
