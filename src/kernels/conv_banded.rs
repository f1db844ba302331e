//! kernels/depthwise_toeplitz.cu: large depthwise filters on tensor cores, by kernels called
//! banded.

use super::KernelInfo;
use super::candidate::{Candidate, LaunchConfig, Reason};
use super::conv_params::KernelParams;
use super::cost::{BUSY_BLOCKS, Work, least_bytes};
use super::launch::{ConvCandidate, ConvConfig, MAX_GRID_Y};
use super::order::SumOrder;
use super::params::{ConvDepthwiseParams, TOEPLITZ_BLOCK, TOEPLITZ_COLUMNS, TOEPLITZ_MOVED_BYTES, TOEPLITZ_STEP, TOEPLITZ_WARPS};
use super::problem::ConvProblem;
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::{Estimate, Parameter};
use crate::{Element, MemoryFormat, memory};

pub(crate) const FAMILY: &str = "depthwise_toeplitz";

/// The orders of the packed weight: for an even and for an odd padding on the left, by which the
/// weight is shifted.
const LAYOUTS: [&str; 2] = ["[c_out][copy][band]", "[c_out][copy][band moved by 1]"];
/// The output columns of a block.
const COLUMNS: usize = TOEPLITZ_COLUMNS as usize;
/// The output columns of an MMA. The zeros in front of the weights of a band's row are one less.
const BLOCK: usize = TOEPLITZ_BLOCK as usize;
/// The k of an MMA.
const STEP: usize = TOEPLITZ_STEP as usize;
/// Instructions for each staged element, and for each output on its way through shared memory and
/// the epilogue.
const STAGING_INSTRUCTIONS: f64 = 6.0;
const OUTPUT_INSTRUCTIONS: f64 = 12.0;
/// Instructions of a warp for each kernel row, in addition to loads and MMAs.
const ROW_INSTRUCTIONS: f64 = 8.0;
/// The factor by which accesses cost more if threads read or write 2 bytes that are not next to
/// their neighbours'.
const SCATTERED: f64 = 4.0;
/// The channels of a pixel that fill a sector of 32 bytes.
const SECTOR_CHANNELS: usize = 16;

/// The columns of the input that 8 outputs read, starting from an even column: whole steps of MMAs.
fn width(g: &ConvGeometry) -> usize {
    (BLOCK - 1 + g.kernel[1] + g.padding[1] % 2).next_multiple_of(STEP)
}

/// The elements of one copy of a band. The copies are 8 or 24 banks apart, and a warp reads 7
/// neighbouring words of each.
fn band_elements(g: &ConvGeometry) -> usize {
    ((g.kernel[0] * width(g) / STEP + 1) | 1) * 16
}

/// Whether a kernel of the family is a banded one.
pub(super) fn is_banded(kernel: &KernelInfo) -> bool {
    kernel.family == FAMILY
}

/// How a launch is divided into blocks.
#[derive(Debug, Clone, Copy)]
struct BandedTiling {
    rows: usize,
    channels: usize,
    /// The blocks of an image along channels, columns and rows.
    tiles: [usize; 3],
    patch_h: usize,
    /// The bytes of a channel's patch, which later holds its sums.
    area_bytes: usize,
    shared_bytes: usize,
    estimate: Estimate,
}

impl BandedTiling {
    /// The fastest division by the cost model. Blocks that meet a special value add in another
    /// order. So if a result may not depend on the batch, neither may the channels of a block.
    fn of(kernel: &KernelInfo, problem: &ConvProblem<'_>) -> Result<Self, Reason> {
        let configured = problem.for_configuration();
        let tilings = [16, 8, 4].into_iter().filter_map(|channels| Self::new(kernel, channels, &configured));
        let best = tilings.min_by(|a, b| a.estimate.seconds.total_cmp(&b.estimate.seconds));
        let best = best.and_then(|best| Self::new(kernel, best.channels, problem));
        best.ok_or_else(|| "what a block sees of 4 channels does not fit shared memory".into())
    }

    fn new(kernel: &KernelInfo, channels: usize, problem: &ConvProblem<'_>) -> Option<Self> {
        let rows = kernel.axes.rows.expect("the manifest has the rows of every banded kernel");
        let g = &problem.geometry;
        let tiles = [g.c_out.div_ceil(channels), g.output[1].div_ceil(COLUMNS), g.output[0].div_ceil(rows)];
        tiles.iter().try_fold(1usize, |all, &tiles| all.checked_mul(tiles)).filter(|&tiles| tiles < 1 << 31)?;
        let (steps, pitch) = (width(g) / STEP, COLUMNS - BLOCK + width(g));
        let patch_h = rows - 1 + g.kernel[0];
        let (patch, sums) = (patch_h.checked_mul(pitch)?, rows * COLUMNS);
        let area = (patch * 2).next_multiple_of(32).max(sums * size_of::<f32>());
        // One word for each warp.
        let rest = TOEPLITZ_MOVED_BYTES as usize + TOEPLITZ_WARPS as usize * size_of::<u32>();
        let shared_bytes = channels.checked_mul(area.checked_add(2 * 2 * band_elements(g))?)?.checked_add(rest)?;
        if shared_bytes > problem.device.shared_bytes_per_block as usize {
            return None;
        }
        let model = problem.device.model;
        let resident = kernel.register_blocks(model).min(model.shared_memory_blocks(shared_bytes)).min(BUSY_BLOCKS);
        let blocks = (tiles.iter().product::<usize>() * g.n) as f64;
        let areas = blocks * channels as f64;
        let staged = areas * patch as f64;
        // The kernel rows of the warps' products. Each loads 512 bytes of the patch and 256 bytes
        // of a band.
        let kernel_rows = areas * g.kernel[0] as f64;
        let fragments = rows / STEP * COLUMNS / BLOCK;
        let loads = rows / STEP * (pitch / BLOCK).div_ceil(2);
        let instructions = (loads + steps * (fragments + 2)) as f64 + ROW_INSTRUCTIONS;
        let scattered = |format| if format == MemoryFormat::ChannelsLast && !g.c_in.is_multiple_of(4) { SCATTERED } else { 1.0 };
        let [staging, storing] = [problem.x_format, problem.y_format].map(scattered);
        // The padding is not read.
        let seen = |axis: usize, tile: usize, size: usize| (tile - 1 + g.kernel[axis]).min(g.input[axis] + size - tile);
        let inside = seen(0, rows, rows) * seen(1, COLUMNS, COLUMNS);
        let sectors = |format| if format == MemoryFormat::ChannelsLast { SECTOR_CHANNELS.div_ceil(channels) as f64 } else { 1.0 };
        let outputs = areas * sums as f64;
        let work = Work {
            blocks,
            blocks_per_multiprocessor: resident as f64,
            dram_bytes: least_bytes(problem),
            l2_bytes: areas * 2.0 * inside as f64 * sectors(problem.x_format) + areas * 4.0 * band_elements(g) as f64,
            shared_bytes: kernel_rows * (loads * 512 + steps * 256) as f64
                + staged * 2.0 * staging
                + outputs * 8.0
                + areas * 4.0 * band_elements(g) as f64,
            tensor_macs: kernel_rows * (steps * fragments * 16 * 8 * STEP) as f64,
            ffma: kernel_rows * instructions * 32.0 + staged * STAGING_INSTRUCTIONS * staging + outputs * OUTPUT_INSTRUCTIONS * storing,
            ..Default::default()
        };
        // A block alone on its multiprocessor does not load while it multiplies.
        let alone = if resident == 1 { 1.5 } else { 1.0 };
        Some(Self { rows, channels, tiles, patch_h, area_bytes: area, shared_bytes, estimate: work.estimate(problem) * alone })
    }
}

/// The candidate for a depthwise problem.
pub(super) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    let g = &problem.geometry;
    if g.c_out != g.c_in {
        return Err(format!("it computes one output of an input channel, not {}", g.c_out / g.c_in));
    }
    if (g.stride, g.dilation) != ([1; 2], [1; 2]) {
        return Err(format!("it is for stride and dilation 1, not {:?} and {:?}", g.stride, g.dilation));
    }
    if g.kernel == [3; 2] || g.kernel == [5; 2] {
        return Err(format!("memory bounds {0}x{0}, which has kernels of its own", g.kernel[0]));
    }
    if kernel.axes.width != Some(width(g)) {
        return Err(format!("8 neighbouring outputs see {} columns from an even one on", width(g)));
    }
    let tiling = BandedTiling::of(kernel, problem)?;
    let params = ConvDepthwiseParams {
        channels: tiling.channels as i32,
        columns: COLUMNS as i32,
        strips: 1,
        rows: tiling.rows as i32,
        channel_tiles: tiling.tiles[0] as i32,
        column_tiles: tiling.tiles[1] as i32,
        patch_h: tiling.patch_h as i32,
        patch_w: (COLUMNS - BLOCK + width(g)) as i32,
        band_words: (band_elements(g) / 2) as i32,
        area_bytes: tiling.area_bytes as i32,
        ..Default::default()
    };
    let config = LaunchConfig {
        grid: [tiling.tiles.iter().product::<usize>() as u32, g.n.clamp(1, MAX_GRID_Y) as u32, 1],
        shared_bytes: tiling.shared_bytes as u32,
        // The kernel checks the alignment itself.
        alignment: [size_of::<T>(); 2],
        order: SumOrder::Bands,
        own: ConvConfig { params: KernelParams::Depthwise(params), persistent: false, layout: LAYOUTS[g.padding[1] % 2], pack },
    };
    Ok(Candidate { estimate: tiling.estimate, config })
}

/// The rows of a kernel, each in `width` elements after 7 zeros: once as they are, and once without
/// the first zero.
fn pack<T: Element>(g: &ConvGeometry, weight: &Parameter) -> Result<Vec<T>> {
    let [kh, kw] = g.kernel;
    let elements = band_elements(g);
    let lead = BLOCK - 1 + g.padding[1] % 2;
    let mut packed = memory::filled(g.c_out * 2 * elements, T::from_f32(0.0))?;
    for (index, &value) in weight.values().iter().enumerate() {
        let (channel, i, j) = (index / (kh * kw), index / kw % kh, index % kw);
        let at = i * width(g) + lead + j;
        for copy in 0..2 {
            packed[(channel * 2 + copy) * elements + at - copy] = T::from_f32(value);
        }
    }
    Ok(packed)
}
