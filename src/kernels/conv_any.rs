//! The channels_last kernels of kernels/depthwise_any_size.cu: any size, stride, dilation and
//! channel multiplier.

use super::candidate::{Candidate, LaunchConfig, Reason};
use super::conv_depthwise::split_evenly;
use super::conv_params::KernelParams;
use super::cost::{Work, least_bytes, warp_cycles};
use super::launch::{ConvCandidate, ConvConfig, MAX_GRID_Y};
use super::order::SumOrder;
use super::params::{ConvDepthwiseParams, DEPTHWISE_ANY_COLUMNS, DEPTHWISE_ANY_ROWS, DEPTHWISE_ANY_SUM_PITCH, DEPTHWISE_ANY_TAPS};
use super::problem::ConvProblem;
use super::{KernelInfo, conv_direct};
use crate::geometry::ConvGeometry;
use crate::plan::Estimate;
use crate::{Element, MemoryFormat};
use std::cmp::Reverse;
use std::collections::BTreeSet;

pub(crate) const FAMILY: &str = "depthwise_any_size";

/// The output pixels of a thread, and the number of taps whose weights it loads at once.
const ROWS: usize = DEPTHWISE_ANY_ROWS as usize;
const COLUMNS: usize = DEPTHWISE_ANY_COLUMNS as usize;
const TAPS: usize = DEPTHWISE_ANY_TAPS as usize;
/// The distance in pixels, in shared memory, between the sums of one strip and those of the next.
const SUM_PITCH: usize = DEPTHWISE_ANY_SUM_PITCH as usize;
/// The number of threads of a warp that share a strip: at least those for 16 channels of 16 bits, a
/// sector.
const LANES: [usize; 3] = [32, 16, 8];
/// The bytes that all banks of shared memory deliver at once, and the bytes of the widest access.
const BANKS: usize = 128;
const ACCESS: usize = 16;
/// Instructions in addition to products, as counted in nvcc's output: for each row of the window
/// and phase of its taps, each of its pixels (without conversions), each four taps of an output
/// row, each staged access, each four staged weights, each output.
const WINDOW_INSTRUCTIONS: f64 = 40.0;
const PIXEL_INSTRUCTIONS: f64 = 2.0;
const FOUR_INSTRUCTIONS: f64 = 12.0;
const STAGING_INSTRUCTIONS: f64 = 36.0;
const WEIGHT_INSTRUCTIONS: f64 = 48.0;
const OUTPUT_INSTRUCTIONS: f64 = 8.0;
/// Seconds until the first blocks have their pixels and weights in shared memory. The unrolled
/// kernels start with their first row.
const START_SECONDS: f64 = 1e-6;

/// Whether a kernel of the family is one for any size.
pub(super) fn is_any(kernel: &KernelInfo) -> bool {
    kernel.format == Some(MemoryFormat::ChannelsLast) && kernel.axes.size.is_none()
}

/// The channels of an access.
fn vector(kernel: &KernelInfo) -> usize {
    kernel.axes.vector.expect("the manifest has the vector of every such kernel")
}

/// One axis without its dilation, as `spread` of the kernel computes it.
#[derive(Debug, Clone, Copy)]
struct Axis {
    /// The distance of a block's pixels in the image, and of its outputs.
    pixels: usize,
    outputs: usize,
    /// The stride of these outputs over these pixels.
    stride: usize,
    /// The outputs of a phase are this distance apart. The fields are the number of phases and the
    /// number of outputs of each.
    phases: usize,
    size: usize,
}

impl Axis {
    fn new(g: &ConvGeometry, axis: usize) -> Self {
        let pixels = if g.kernel[axis] == 1 { g.stride[axis] } else { g.dilation[axis] };
        let (mut divisor, mut rest) = (g.stride[axis], pixels);
        while rest > 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        let outputs = pixels / divisor;
        let phases = outputs.min(g.output[axis]).max(1);
        Self { pixels, outputs, stride: g.stride[axis] / divisor, phases, size: g.output[axis].div_ceil(phases) }
    }

    /// The number of pixels that this number of outputs reads.
    fn seen(&self, outputs: usize, kernel: usize) -> Option<usize> {
        (outputs - 1).checked_mul(self.stride)?.checked_add(kernel)
    }
}

/// How a launch is divided into blocks.
#[derive(Debug, Clone, Copy)]
struct AnySizeTiling {
    /// The vectors of channels of a block, and its strips beside and below each other.
    channels: usize,
    columns: usize,
    strips: usize,
    /// The blocks of an image along the same axes, over all phases.
    tiles: [usize; 3],
    /// The rows of the patch, and the elements of one row.
    patch: [usize; 2],
    shared_bytes: usize,
    estimate: Estimate,
}

impl AnySizeTiling {
    /// The fastest division by the cost model.
    fn of(kernel: &KernelInfo, problem: &ConvProblem<'_>) -> Result<Self, String> {
        let (vector, threads) = (vector(kernel), kernel.threads as usize);
        let cuts = LANES.into_iter().flat_map(|lanes| (1..=threads / lanes).map(move |columns| (lanes, columns)));
        let resident = kernel.register_blocks(problem.device.model);
        let tilings = cuts.filter_map(|(lanes, columns)| Self::new(vector, resident, lanes, columns, threads / lanes / columns, problem));
        let best = tilings.min_by(|a, b| a.estimate.seconds.total_cmp(&b.estimate.seconds));
        best.ok_or_else(|| {
            let limit = problem.device.shared_bytes_per_block;
            format!("what {ROWS} x {COLUMNS} output pixels see does not fit the {limit} bytes of shared memory that a block has")
        })
    }

    /// The division with at most this number of columns and strips, for a kernel of which
    /// `resident` blocks fit a multiprocessor's registers.
    fn new(vector: usize, resident: usize, lanes: usize, columns: usize, strips: usize, problem: &ConvProblem<'_>) -> Option<Self> {
        let (g, bytes) = (&problem.geometry, problem.dtype.bytes());
        let [vertical, horizontal] = [0, 1].map(|axis| Axis::new(g, axis));
        let multiplier = g.c_out / g.c_in;
        let of_thread = if vector == 1 { 1 } else { 2 };
        let channels = lanes * of_thread;
        let (columns, column_tiles) = split_evenly(horizontal.size.div_ceil(COLUMNS), columns);
        let (strips, row_tiles) = split_evenly(vertical.size.div_ceil(ROWS), strips);
        let tiles = [g.c_out.div_ceil(channels), column_tiles.checked_mul(horizontal.phases)?, row_tiles.checked_mul(vertical.phases)?];
        let all = tiles.iter().try_fold(1usize, |all, &tiles| all.checked_mul(tiles)).filter(|&tiles| tiles < 1 << 31)?;
        // Positions of the last block reach beyond the image.
        for (axis, of, outputs) in [(0, vertical, row_tiles * strips * ROWS), (1, horizontal, column_tiles * columns * COLUMNS)] {
            let last = of.seen(outputs, g.kernel[axis])?.checked_mul(of.pixels)?.checked_add(of.outputs.checked_mul(g.stride[axis])?)?;
            i32::try_from(last.checked_add(g.padding[axis])?).ok()?;
        }
        // With a multiplier, a block may begin in the middle of an input channel's outputs.
        let inputs = if vector == 1 { (channels + multiplier - 2) / multiplier + 1 } else { channels };
        let seen = [vertical.seen(strips * ROWS, g.kernel[0])?, horizontal.seen(columns * COLUMNS, g.kernel[1])?];
        let pitch = pitch(seen[1].checked_mul(inputs)?.checked_mul(bytes)?, inputs * bytes, ROWS * vertical.stride);
        let patch = [seen[0], pitch / bytes];
        let phases = horizontal.stride.min(g.kernel[1]);
        let fours = g.kernel[0] * phases * g.kernel[1].div_ceil(horizontal.stride).div_ceil(TAPS);
        let weights = fours.checked_mul(TAPS * channels * size_of::<f32>())?;
        let sums = columns * strips * SUM_PITCH * channels * size_of::<f32>();
        let shared_bytes = patch[0].checked_mul(pitch)?.next_multiple_of(ACCESS).max(sums).checked_add(weights)?;
        if shared_bytes > problem.device.shared_bytes_per_block as usize {
            return None;
        }
        let resident = resident.min(problem.device.model.shared_memory_blocks(shared_bytes));
        let blocks = (all * g.n) as f64;
        let threads = blocks * (columns * strips * lanes).next_multiple_of(32) as f64;
        let windows = vertical.seen(ROWS, g.kernel[0])? * phases;
        let pixels = (windows * (COLUMNS - 1) + windows / phases * g.kernel[1]) as f64;
        let products = (ROWS * COLUMNS * of_thread * g.kernel[0] * g.kernel[1]) as f64;
        let outputs = (ROWS * COLUMNS * of_thread) as f64;
        let staged = blocks * (seen[0] * seen[1] * inputs) as f64;
        let instructions = products
            + windows as f64 * WINDOW_INSTRUCTIONS
            + pixels * (PIXEL_INSTRUCTIONS + of_thread as f64)
            + (fours * ROWS) as f64 * FOUR_INSTRUCTIONS
            + outputs * OUTPUT_INSTRUCTIONS;
        let loads = pixels * (of_thread * bytes) as f64 + (fours * ROWS * of_thread * TAPS * size_of::<f32>()) as f64 + outputs * 8.0;
        // The padding is not read. Channels are read in whole sectors.
        let inside = (seen[0].min(g.input[0]) * seen[1].min(g.input[1]) * (inputs * bytes).next_multiple_of(32)) as f64;
        let work = Work {
            blocks,
            blocks_per_multiprocessor: resident as f64,
            block_cycles: warp_cycles(problem.device.model, 0.0, 32.0 * instructions),
            dram_bytes: least_bytes(problem),
            l2_bytes: blocks * (inside + (g.kernel[0] * g.kernel[1] * channels * bytes) as f64),
            shared_bytes: threads * loads + staged * bytes as f64 + blocks * weights as f64,
            ffma: threads * instructions
                + staged / vector as f64 * STAGING_INSTRUCTIONS
                + blocks * (fours * channels) as f64 * WEIGHT_INSTRUCTIONS,
            ..Default::default()
        };
        // A block alone on its multiprocessor does not load while it multiplies.
        let alone = if resident == 1 { 1.5 } else { 1.0 };
        let start = Estimate { seconds: START_SECONDS, latency: START_SECONDS, ..Default::default() };
        let estimate = start + work.estimate(problem) * alone;
        Some(Self { channels: channels / vector, columns, strips, tiles, patch, shared_bytes, estimate })
    }
}

/// The bytes from one row of a patch to the next, at least `row`. The strips that a warp reads at
/// once are `rows` rows apart; with this pitch they are in as many different banks as 16-byte
/// accesses allow.
fn pitch(row: usize, pixel: usize, rows: usize) -> usize {
    let row = row.next_multiple_of(ACCESS);
    let apart =
        |pitch: usize| (0..BANKS / pixel).map(|strip| strip * (rows.wrapping_mul(pitch) % BANKS) % BANKS).collect::<BTreeSet<_>>().len();
    (row..row + BANKS).step_by(ACCESS).min_by_key(|&pitch| Reverse(apart(pitch))).unwrap_or(row)
}

/// The candidate for a depthwise problem in channels_last.
pub(super) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    let tiling = AnySizeTiling::of(kernel, problem)?;
    let params = ConvDepthwiseParams {
        channels: tiling.channels as i32,
        columns: tiling.columns as i32,
        strips: tiling.strips as i32,
        rows: ROWS as i32,
        channel_tiles: tiling.tiles[0] as i32,
        column_tiles: tiling.tiles[1] as i32,
        patch_h: tiling.patch[0] as i32,
        patch_w: tiling.patch[1] as i32,
        ..Default::default()
    };
    let phases = Axis::new(&problem.geometry, 1).stride.min(problem.geometry.kernel[1]);
    let config = LaunchConfig {
        grid: [tiling.tiles.iter().product::<usize>() as u32, problem.geometry.n.clamp(1, MAX_GRID_Y) as u32, 1],
        shared_bytes: tiling.shared_bytes as u32,
        alignment: [vector(kernel) * size_of::<T>(); 2],
        order: if phases > 1 { SumOrder::ChainByPhases(phases) } else { SumOrder::Chain },
        own: ConvConfig {
            params: KernelParams::Depthwise(params),
            persistent: false,
            layout: conv_direct::LAYOUT,
            pack: conv_direct::pack,
        },
    };
    Ok(Candidate { estimate: tiling.estimate, config })
}
