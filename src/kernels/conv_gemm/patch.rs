//! The gather `Patches`: a block loads the input that its rectangle of outputs sees once, and
//! multiplies it tap by tap.

use super::packing::pack_by_chunk;
use super::{CHUNK_BYTES, LOAD_CYCLES, ROW_BYTES, SECTOR_BYTES, STAGES, STEP_CYCLES, Tile, check_input, column_tiles};
use crate::Element;
use crate::geometry::{ConvGeometry, kernel_span};
use crate::kernels::KernelInfo;
use crate::kernels::candidate::LaunchConfig;
use crate::kernels::conv_params::KernelParams;
use crate::kernels::cost::{Work, least_bytes, warp_cycles, weight_bytes};
use crate::kernels::launch::{ConvConfig, Pack};
use crate::kernels::order::SumOrder;
use crate::kernels::params::ConvPatchParams;
use crate::kernels::problem::ConvProblem;

/// The same cost for patches, whose bounds are tested once in a block.
const BYTES_PER_PATCH_ELEMENT: f64 = 8.0;

/// With fewer channels in a group, a patch padded to a step would hold mostly zeros.
const MIN_PATCH_CHANNELS: usize = 16;

/// How a problem is divided into rectangles of output pixels, and what each rectangle reads of the
/// input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patch {
    tile_w_log2: usize,
    rows: usize,
    /// The columns for each phase of the horizontal stride.
    columns: usize,
    /// The number of rectangles of all images.
    rectangles: usize,
    blocks: usize,
    shared_bytes: usize,
}

impl Patch {
    /// The rectangles that load the least, or why there are none.
    pub(super) fn of(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<Self, String> {
        check_input(kernel, problem)?;
        let g = &problem.geometry;
        let channels = g.c_in / g.groups;
        if g.kernel == [1, 1] {
            return Err("it is for several taps".into());
        }
        if channels < MIN_PATCH_CHANNELS {
            return Err(format!("{channels} channels a group are fewer than {MIN_PATCH_CHANNELS}"));
        }
        let tile = Tile::of(kernel);
        // A chunk of pixels and eight rows of ldmatrix must be within a row. Of equally good widths
        // the widest is taken, whose rows are the longest runs.
        let widths = (3..=tile.m.ilog2() as usize).rev();
        let patches = widths.filter_map(|tile_w_log2| Self::new(tile, tile_w_log2, problem));
        let best = patches.min_by_key(|patch| patch.rectangles.saturating_mul(patch.pixels(g)));
        best.ok_or_else(|| "the input that a block sees does not fit shared memory".into())
    }

    /// `None` if something does not fit shared memory or 32 bits.
    fn new(tile: &Tile, tile_w_log2: usize, problem: &ConvProblem<'_>) -> Option<Self> {
        let g = &problem.geometry;
        let size = [tile.m >> tile_w_log2, 1 << tile_w_log2];
        let mut patch = [0; 2];
        for axis in 0..2 {
            let span = kernel_span(g.kernel[axis], g.dilation[axis]).ok()?;
            patch[axis] = (size[axis] - 1).checked_mul(g.stride[axis])?.checked_add(span)?;
            // Positions in tiles that reach beyond the image are 32-bit integers as well.
            g.output[axis]
                .next_multiple_of(size[axis])
                .checked_mul(g.stride[axis])?
                .checked_add(patch[axis])
                .filter(|&end| end < 1 << 31)?;
        }
        let (rows, columns) = (patch[0], patch[1].div_ceil(g.stride[1]));
        let pixels = rows.checked_mul(columns.checked_mul(g.stride[1])?)?;
        let shared_bytes = pixels.checked_mul(2 * ROW_BYTES + size_of::<i32>())?.checked_add(STAGES * tile.n * ROW_BYTES)?;
        if shared_bytes > problem.device.shared_bytes_per_block as usize {
            return None;
        }
        let rectangles = g.n * g.output[0].div_ceil(size[0]) * g.output[1].div_ceil(size[1]);
        let blocks = column_tiles(g, tile).checked_mul(rectangles).filter(|&blocks| blocks < 1 << 31)?;
        Some(Self { tile_w_log2, rows, columns, rectangles, blocks, shared_bytes })
    }

    /// The number of pixels of a patch.
    fn pixels(&self, g: &ConvGeometry) -> usize {
        self.rows * self.columns * g.stride[1]
    }

    pub(super) fn work(&self, kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Work {
        let ConvProblem { geometry: g, dtype, .. } = problem;
        let (tile, model) = (Tile::of(kernel), problem.device.model);
        let element = dtype.bytes();
        let (steps, chunks, taps) = (chunk_steps(g, element), chunks(g, element), g.kernel[0] * g.kernel[1]);
        let (patches, total_steps) = ((self.blocks * chunks) as f64, (self.blocks * steps) as f64);
        let step = (ROW_BYTES / element) as f64;
        let pixels = self.pixels(g);
        // The padding is not loaded. Runs of pixels, which are rows or whole planes, begin anywhere
        // in a sector.
        let seen = [self.rows.min(g.input[0]), (self.columns * g.stride[1]).min(g.input[1])];
        let runs = if seen[1] == g.input[1] { 1 } else { seen[0] };
        let channel_bytes = (seen[0] * seen[1] * element) as f64 + runs as f64 * SECTOR_BYTES;
        // The loads for which a block waits, one after the other: those of the first patch, and
        // each tap's share of the next patch. The last load of a share runs during products.
        let slices = pixels.div_ceil(tile.threads() / (ROW_BYTES / CHUNK_BYTES));
        let shares = slices.div_ceil(slices.div_ceil(taps));
        let (waits, covered) = (slices + (chunks - 1) * (slices - shares), (chunks - 1) * shares);
        let warp = warp_cycles(model, tile.warp_macs(*dtype), 0.0);
        let weight_tile_bytes = (tile.n * ROW_BYTES) as f64;
        Work {
            blocks: self.blocks as f64,
            blocks_per_multiprocessor: kernel.register_blocks(model).min(model.shared_memory_blocks(self.shared_bytes)) as f64,
            block_cycles: steps as f64 * (STEP_CYCLES + warp) + waits as f64 * LOAD_CYCLES + covered as f64 * (LOAD_CYCLES - warp).max(0.0),
            dram_bytes: least_bytes(problem) + (column_tiles(g, tile) * steps) as f64 * weight_tile_bytes - weight_bytes(problem),
            l2_bytes: patches * step * channel_bytes + total_steps * weight_tile_bytes,
            shared_bytes: patches * pixels as f64 * (ROW_BYTES as f64 + step * BYTES_PER_PATCH_ELEMENT)
                + total_steps * (weight_tile_bytes + tile.fragment_bytes() as f64),
            tensor_macs: total_steps * (tile.m * tile.n) as f64 * step,
            ffma: 0.0,
        }
    }

    pub(super) fn config<T: Element>(&self, tile: &Tile) -> LaunchConfig<ConvConfig<T>> {
        let (layout, pack) = match tile.n {
            64 => ("[group][64 bytes of channels][tap][c_out in tiles of 64]", pack_by_chunk::<T, 64> as Pack<T>),
            _ => ("[group][64 bytes of channels][tap][c_out in tiles of 128]", pack_by_chunk::<T, 128> as Pack<T>),
        };
        LaunchConfig {
            grid: [self.blocks as u32, 1, 1],
            shared_bytes: self.shared_bytes as u32,
            alignment: [size_of::<T>(); 2],
            order: SumOrder::ChannelChunks,
            own: ConvConfig { params: KernelParams::Patch(self.params()), persistent: false, layout, pack },
        }
    }

    fn params(&self) -> ConvPatchParams {
        // Everything fits shared memory, and therefore 32 bits.
        let int = |value: usize| value as i32;
        ConvPatchParams {
            tile_w_log2: int(self.tile_w_log2),
            patch_h: int(self.rows),
            patch_columns: int(self.columns),
            ..Default::default()
        }
    }
}

/// The number of channel steps that a patch takes one after the other.
fn chunks(g: &ConvGeometry, element_bytes: usize) -> usize {
    (g.c_in / g.groups).div_ceil(ROW_BYTES / element_bytes)
}

/// The number of steps of a group if each step is of a single tap.
pub(super) fn chunk_steps(g: &ConvGeometry, element_bytes: usize) -> usize {
    chunks(g, element_bytes) * g.kernel[0] * g.kernel[1]
}
