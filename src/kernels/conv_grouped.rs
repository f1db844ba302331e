//! kernels/conv_grouped.cu: groups of 2 to 64 input channels on tensor cores, with several taps in
//! one MMA.

use super::candidate::{Candidate, LaunchConfig, Reason};
use super::conv_params::KernelParams;
use super::cost::{Work, least_bytes, multiprocessors};
use super::known::Known;
use super::launch::{ConvCandidate, ConvConfig, MAX_GRID_Y};
use super::order::SumOrder;
use super::params::{
    ConvGroupedParams, GROUPED_FRAGMENT_BYTES, GROUPED_STAGING_WORDS_2, GROUPED_STAGING_WORDS_3, GROUPED_STAGING_WORDS_4,
    GROUPED_WARP_PIXELS, GROUPED_WARPS,
};
use super::problem::ConvProblem;
use super::{KernelInfo, MAX_COUNT};
use crate::device::GpuModel;
use crate::device::kernel::{Access, Outputs};
use crate::error::Result;
use crate::geometry::{ConvGeometry, kernel_span};
use crate::plan::Estimate;
use crate::{Element, MemoryFormat};

use slots::{LAYOUT, QUAD, Slots, pack};

mod slots;

pub(crate) const FAMILY: &str = "conv_grouped";

const WARPS: usize = GROUPED_WARPS as usize;
/// The number of pixels that a warp sums at once.
const WARP_PIXELS: usize = GROUPED_WARP_PIXELS as usize;
/// The largest number of pixels of a block.
const MAX_PIXELS: usize = 256;
/// The bytes of a quad of channels.
const QUAD_BYTES: usize = 8;
/// Wider groups fill an MMA's k and n by themselves.
const MAX_CHANNELS: usize = 64;
/// The elements of a 16-byte access.
const VECTOR: usize = 8;
/// The number of blocks for each block that a device holds at once, below which walking does not
/// pay: the last blocks would leave most of the device idle.
const WAVES: usize = 2;
/// The cost of element-by-element accesses compared with 16-byte ones.
const NARROW_ACCESS: f64 = 3.0;
/// The bytes that L2 moves at once.
const SECTOR_BYTES: usize = 32;
/// The bytes of the weights of 8 output channels for one step.
const FRAGMENT_BYTES: usize = GROUPED_FRAGMENT_BYTES as usize;

/// The template arguments of a kernel.
#[derive(Debug, Clone, Copy)]
struct GroupedKernel {
    /// The number of n8 tiles of output channels of a warp.
    tiles: usize,
    /// Whether each of these tiles is a group of its own.
    own: bool,
    wide: bool,
    /// The number of blocks that fit a multiprocessor's registers.
    register_blocks: usize,
}

impl GroupedKernel {
    fn of(kernel: &KernelInfo, model: &GpuModel) -> Self {
        let Outputs { tiles, own } = kernel.axes.outputs.expect("every kernel of the family has its output channels");
        Self { tiles, own, wide: kernel.axes.access == Some(Access::Wide), register_blocks: kernel.register_blocks(model) }
    }

    /// The bytes of the sums of all warps of a block, which pass through shared memory.
    fn staging_bytes(self) -> usize {
        let words = match self.tiles {
            2 => GROUPED_STAGING_WORDS_2,
            3 => GROUPED_STAGING_WORDS_3,
            _ => GROUPED_STAGING_WORDS_4,
        };
        WARPS * words as usize * size_of::<f32>()
    }

    /// The factor by which accesses to a tensor cost more than 16-byte ones. `run` is the number of
    /// neighbours in one access to a contiguous tensor.
    fn access(self, format: MemoryFormat, run: usize) -> f64 {
        match format {
            MemoryFormat::ChannelsLast if self.wide => 1.0,
            MemoryFormat::ChannelsLast => NARROW_ACCESS,
            MemoryFormat::Contiguous => 1.0 + (NARROW_ACCESS - 1.0) * (VECTOR / run - 1) as f64 / (VECTOR - 1) as f64,
        }
    }
}

/// How a problem is divided into blocks.
#[derive(Debug, Clone, Copy)]
struct GroupedTiling {
    slots: Slots,
    tile_h: usize,
    tile_w_log2: usize,
    /// The number of tiles of a block, one below the other.
    walk: usize,
    patch: [usize; 2],
    /// The rows of a patch that the patch above does not have.
    fresh: usize,
    pixel_bytes: usize,
    row_bytes: usize,
    block_groups: usize,
    blocks: usize,
    /// The bytes of the weights in shared memory; 0 if they would leave too little of it.
    weight_bytes: usize,
    shared_bytes: usize,
    estimate: Estimate,
}

impl GroupedTiling {
    /// The fastest division by the cost model, or why there is none.
    fn of(variant: GroupedKernel, problem: &ConvProblem<'_>) -> Result<Self, String> {
        let g = &problem.geometry;
        let slots = Slots::of(g);
        let mut best: Option<Self> = None;
        // The number of groups whose channels are whole 16-byte vectors. For kernels with several
        // groups in a warp, whole sets of those.
        let set = if variant.own { variant.tiles } else { 1 };
        let channels = g.c_in / g.groups;
        let vectors = variant.wide && problem.x_format == MemoryFormat::ChannelsLast;
        let unit = if vectors && !(set * channels).is_multiple_of(VECTOR) { 2 * set } else { set };
        for block_groups in [32, 64, 128].map(|slab| (slab / channels).max(1).next_multiple_of(unit)) {
            for tile_w_log2 in (0..=6usize).filter(|log2| (1 << log2) < 2 * g.output[1]) {
                for rows_log2 in 0..=MAX_PIXELS.ilog2() as usize - tile_w_log2 {
                    let tile_h = g.output[0].div_ceil(g.output[0].div_ceil(1 << rows_log2));
                    let tiles = g.output[0].div_ceil(tile_h);
                    for walk_log2 in (0..usize::BITS).take_while(|&log2| 1 << log2 < 2 * tiles) {
                        let walk = tiles.div_ceil(tiles.div_ceil(1 << walk_log2));
                        let block_groups = block_groups.min(g.groups.next_multiple_of(unit));
                        let tiling = Self::new(variant, problem, slots, block_groups, [tile_h, walk], tile_w_log2);
                        best = match (best, tiling) {
                            (Some(best), Some(tiling)) if best.estimate.seconds <= tiling.estimate.seconds => Some(best),
                            (best, tiling) => tiling.or(best),
                        };
                    }
                }
            }
        }
        let best = best.ok_or_else(|| {
            "the input that one output pixel sees does not fit shared memory, or a group's weights 2^31 bytes".to_string()
        })?;
        Ok(best.without_conflicts(variant, problem))
    }

    fn new(
        variant: GroupedKernel,
        problem: &ConvProblem<'_>,
        slots: Slots,
        block_groups: usize,
        [tile_h, walk]: [usize; 2],
        tile_w_log2: usize,
    ) -> Option<Self> {
        let g = &problem.geometry;
        let tile = [tile_h, 1 << tile_w_log2];
        let mut patch = [0; 2];
        for axis in 0..2 {
            let span = kernel_span(g.kernel[axis], g.dilation[axis]).ok()?;
            patch[axis] = (tile[axis] - 1).checked_mul(g.stride[axis])?.checked_add(span)?;
            // Positions in tiles that reach beyond the image are 32-bit integers as well.
            g.output[axis].next_multiple_of(tile[axis]).checked_mul(g.stride[axis])?.checked_add(span).filter(|&end| end < 1 << 31)?;
        }
        let pixel_bytes = (block_groups * slots.group_quads * QUAD_BYTES).next_multiple_of(16);
        let strips = g.output[0].div_ceil(tile[0]).div_ceil(walk) * g.output[1].div_ceil(tile[1]);
        let blocks = strips.checked_mul(g.groups.div_ceil(block_groups)).filter(|&blocks| blocks < 1 << 31)?;
        let row_bytes = patch[1].checked_mul(pixel_bytes)?;
        let mut tiling = Self {
            slots,
            tile_h,
            tile_w_log2,
            walk,
            patch,
            fresh: patch[0].min(tile[0] * g.stride[0]),
            pixel_bytes,
            row_bytes,
            block_groups,
            blocks,
            weight_bytes: 0,
            shared_bytes: 0,
            estimate: Estimate::default(),
        };
        tiling.finish(variant, problem, 1.0)
    }

    /// Fills in shared memory and cost. `None` if it does not fit. `conflicts` is the number of
    /// passes of a shared load, divided by the least number.
    fn finish(&mut self, variant: GroupedKernel, problem: &ConvProblem<'_>, conflicts: f64) -> Option<Self> {
        let g = &problem.geometry;
        let ring_bytes = self.ring_rows().checked_mul(self.row_bytes)?;
        let fixed = variant.staging_bytes() + self.slots.steps * 4 * size_of::<i32>();
        self.shared_bytes = ring_bytes.checked_add(fixed)?;
        let limit = problem.device.shared_bytes_per_block as usize;
        if self.shared_bytes > limit {
            return None;
        }
        let resident_with = |bytes: usize| problem.device.model.shared_memory_blocks(bytes).min(variant.register_blocks);
        let resident = resident_with(self.shared_bytes);
        let blocks = (self.blocks * g.n) as f64;
        if self.walk > 1 && blocks < multiprocessors(problem) * (WAVES * resident) as f64 {
            return None;
        }
        // A second block on the multiprocessor hides more latency than weights in shared memory
        // save.
        let weight_bytes = self.block_groups.min(g.groups) * self.slots.steps * self.slots.n_tiles * FRAGMENT_BYTES;
        // The kernel counts the weights in 32 bits, wherever it reads them.
        if weight_bytes > MAX_COUNT {
            return None;
        }
        let with_weights = self.shared_bytes + weight_bytes;
        self.weight_bytes = if with_weights <= limit && resident_with(with_weights) == resident { weight_bytes } else { 0 };
        self.shared_bytes += self.weight_bytes;
        let sets = if variant.own {
            self.block_groups.div_ceil(variant.tiles)
        } else {
            self.block_groups * self.slots.n_tiles.div_ceil(variant.tiles)
        };
        let chunks = (self.tile_h << self.tile_w_log2).div_ceil(WARP_PIXELS);
        let items = blocks * (sets * chunks * self.walk) as f64;
        // The warps of a block wait for the slowest warp.
        let rounds = (sets * chunks).div_ceil(WARPS) as f64 * WARPS as f64 / (sets * chunks) as f64;
        let steps = items * rounds * self.slots.steps as f64;
        let a_loads = if variant.own { variant.tiles } else { 1 };
        let (columns, x_run) = self.reads(problem);
        let rows = (self.patch[0] + (self.walk - 1) * self.fresh).min(g.input[0]);
        let groups = self.block_groups.min(g.groups);
        let seen = blocks * (rows * columns * groups * self.slots.group_quads * QUAD_BYTES) as f64;
        let input = (g.n * g.c_in * g.input[0] * g.input[1] * problem.dtype.bytes()) as f64;
        let x_access = variant.access(problem.x_format, x_run) * self.fill_turns(problem, x_run);
        // Runs of 8 pixels of the tile.
        let y_run = if self.tile_w_log2 >= 3 { vector_of(g.output[1]) } else { 1 };
        let y_access = variant.access(problem.y_format, y_run);
        let output_bytes = (g.output_shape().iter().product::<usize>() * problem.dtype.bytes()) as f64;
        let tile = [(self.walk * self.tile_h).min(g.output[0]), (1 << self.tile_w_log2).min(g.output[1])];
        let sectors = Self::sectors(problem.x_format, groups * g.c_in / g.groups, [rows, columns], columns >= g.input[1])
            + Self::sectors(problem.y_format, groups * g.c_out / g.groups, tile, tile[1] == g.output[1])
            + weight_bytes / SECTOR_BYTES;
        let work = Work {
            blocks,
            blocks_per_multiprocessor: resident as f64,
            // L2 serves half of what neighbouring blocks read again. A walk reads the rows that its
            // tiles share only once.
            dram_bytes: least_bytes(problem) + (seen - input).max(0.0) / 2.0,
            l2_bytes: blocks * (sectors * SECTOR_BYTES) as f64,
            shared_bytes: steps * (a_loads as f64 * (WARP_PIXELS * 32) as f64 * conflicts + (variant.tiles * 256) as f64)
                + seen * x_access
                + output_bytes * 4.0 * y_access,
            tensor_macs: steps * (variant.tiles * 8 * WARP_PIXELS * 16) as f64,
            ..Default::default()
        };
        // A block alone on its multiprocessor does not load while it multiplies, except for the
        // next tile of a walk, which needs no registers.
        let under_way = self.walk > 1 && variant.wide && problem.x_format == MemoryFormat::ChannelsLast;
        let alone = if resident == 1 && !under_way { 1.5 } else { 1.0 };
        self.estimate = work.estimate(problem) * alone;
        Some(*self)
    }

    /// The rows of input in shared memory: those of a tile, and the fresh rows of the next one.
    fn ring_rows(&self) -> usize {
        self.patch[0] + if self.walk > 1 { self.fresh } else { 0 }
    }

    /// The columns of the patch that are read, including what is in the same accesses, and the
    /// number of neighbours of a plane in one access.
    fn reads(&self, problem: &ConvProblem<'_>) -> (usize, usize) {
        let [h, w] = problem.geometry.input;
        let columns = self.patch[1];
        match problem.x_format {
            MemoryFormat::ChannelsLast => (columns.min(w), 1),
            MemoryFormat::Contiguous if columns >= w => (w, vector_of(h * w)),
            MemoryFormat::Contiguous => {
                let run = vector_of(w);
                ((columns.next_multiple_of(run) + run).min(w), run)
            }
        }
    }

    /// The number of L2 sectors that an area with this number of channels covers. `whole` says
    /// whether its rows follow each other without gaps.
    fn sectors(format: MemoryFormat, channels: usize, [rows, columns]: [usize; 2], whole: bool) -> usize {
        let sectors = |elements: usize| (elements * size_of::<u16>()).div_ceil(SECTOR_BYTES);
        match format {
            MemoryFormat::ChannelsLast => rows * columns * sectors(channels),
            MemoryFormat::Contiguous if whole => channels * sectors(rows * columns),
            // A row begins anywhere in a sector.
            MemoryFormat::Contiguous => channels * rows * sectors(columns + SECTOR_BYTES / size_of::<u16>() / 2),
        }
    }

    /// The number of passes of a half-warp's 8-byte stores to the patch. Its lanes are first along
    /// quads, then along runs of pixels.
    fn fill_turns(&self, problem: &ConvProblem<'_>, run: usize) -> f64 {
        let quads = self.block_groups.min(problem.geometry.groups) * self.slots.group_quads;
        let alike = problem.x_format == MemoryFormat::ChannelsLast || quads.is_multiple_of(16);
        // Four pixels are half of all banks apart.
        if alike || (run >= 4 && quads.is_multiple_of(8) && (self.pixel_bytes / 16) % 2 == 1) { 1.0 } else { 2.0 }
    }

    /// The tiling with those distances of pixels and rows in shared memory for which the loads of A
    /// have the fewest bank conflicts.
    fn without_conflicts(self, variant: GroupedKernel, problem: &ConvProblem<'_>) -> Self {
        let mut best = (f64::INFINITY, self);
        for row_pad in (0..128).step_by(16) {
            for pixel_pad in (0..128).step_by(16) {
                let pixel_bytes = self.pixel_bytes + pixel_pad;
                let mut padded = Self { pixel_bytes, row_bytes: self.patch[1] * pixel_bytes + row_pad, ..self };
                let turns = padded.turns(&problem.geometry);
                if let Some(finished) = padded.finish(variant, problem, turns)
                    && finished.estimate.seconds < best.0
                {
                    best = (finished.estimate.seconds, finished);
                }
            }
        }
        best.1
    }

    /// The average number of passes of a half-warp's 8-byte load of A. It is 1 if no two lanes want
    /// different words of a bank.
    fn turns(&self, g: &ConvGeometry) -> f64 {
        // Further steps repeat the pattern.
        let steps = self.slots.steps.min(24);
        let mut turns = 0;
        for step in 0..steps {
            let mut banks = [[usize::MAX; 4]; 16];
            let mut worst = 1;
            for part in 0..4 {
                let Some((i, j, channel)) = self.slots.at(step * 4 + part, g) else { continue };
                let tap = i * g.dilation[0] * self.row_bytes + j * g.dilation[1] * self.pixel_bytes + channel / QUAD * QUAD_BYTES;
                for pixel in 0..4usize {
                    let (row, column) = (pixel >> self.tile_w_log2, pixel & ((1 << self.tile_w_log2) - 1));
                    let word = (tap + row * g.stride[0] * self.row_bytes + column * g.stride[1] * self.pixel_bytes) / QUAD_BYTES;
                    let bank = &mut banks[word % 16];
                    let used = bank.iter().take_while(|&&w| w != usize::MAX).count();
                    if !bank[..used].contains(&word) && used < bank.len() {
                        bank[used] = word;
                        worst = worst.max(used + 1);
                    }
                }
            }
            turns += worst;
        }
        turns as f64 / steps as f64
    }

    fn params(&self, problem: &ConvProblem<'_>) -> ConvGroupedParams {
        // Everything fits shared memory, and therefore 32 bits.
        let int = |value: usize| value as i32;
        ConvGroupedParams {
            tile_h: int(self.tile_h),
            tile_w_log2: int(self.tile_w_log2),
            patch_h: int(self.patch[0]),
            patch_w: int(self.patch[1]),
            pixel_bytes: int(self.pixel_bytes),
            row_bytes: int(self.row_bytes),
            block_groups: int(self.block_groups),
            group_quads: int(self.slots.group_quads),
            row_slots: int(self.slots.row),
            steps: int(self.slots.steps),
            n_tiles: int(self.slots.n_tiles),
            x_planes: (problem.x_format == MemoryFormat::Contiguous).into(),
            y_planes: (problem.y_format == MemoryFormat::Contiguous).into(),
            weight_bytes: int(self.weight_bytes),
            walk: int(self.walk),
            fresh_h: int(self.fresh),
            fresh_bytes: int(self.fresh * self.row_bytes),
            ring_bytes: int(self.ring_rows() * self.row_bytes),
            ..Default::default()
        }
    }
}

/// The tilings of kernels for problems, kept because there are a thousand to choose from.
static TILINGS: Known<Result<GroupedTiling, String>> = Known::new();

fn tiling(kernel: &KernelInfo, problem: &ConvProblem<'_>) -> Result<GroupedTiling, String> {
    TILINGS.get(kernel, problem, || GroupedTiling::of(GroupedKernel::of(kernel, problem.device.model), problem))
}

/// The widest access, in elements, with which a plane or its rows of this number of elements can be
/// read.
fn vector_of(elements: usize) -> usize {
    1 << elements.trailing_zeros().min(VECTOR.ilog2())
}

pub(crate) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    let g = &problem.geometry;
    let variant = GroupedKernel::of(kernel, problem.device.model);
    kernel.check_dtype(problem.dtype)?;
    let (channels, outputs) = (g.c_in / g.groups, g.c_out / g.groups);
    if g.groups == 1 {
        return Err("it is for several groups".into());
    }
    if channels < 2 {
        return Err("1 input channel a group fills a quarter of a slot of the MMA's k".into());
    }
    if channels > MAX_CHANNELS {
        return Err(format!("it is for at most {MAX_CHANNELS} input channels a group, not {channels}"));
    }
    if variant.own != (outputs <= 8) {
        return Err(format!("it is for {} output channels a group, not {outputs}", if variant.own { "up to 8" } else { "more than 8" }));
    }
    let channels_last = [problem.x_format, problem.y_format].map(|format| format == MemoryFormat::ChannelsLast);
    if !variant.wide && channels_last == [false; 2] {
        return Err("the wide kernel takes contiguous tensors of any alignment".into());
    }
    if variant.wide && channels_last[0] && !(channels.is_multiple_of(QUAD) && g.c_in.is_multiple_of(8)) {
        return Err(format!("its 16-byte loads are for multiples of 4 channels a group and of 8 in all, not {channels} and {}", g.c_in));
    }
    if variant.wide && channels_last[1] {
        let run = if variant.own { variant.tiles * outputs } else { outputs };
        if !run.is_multiple_of(8) || !g.c_out.is_multiple_of(8) {
            return Err(format!("its 16-byte stores are for multiples of 8 output channels, not {run} a warp and {} in all", g.c_out));
        }
    }
    let tiling = tiling(kernel, problem)?;
    let config = LaunchConfig {
        grid: [tiling.blocks as u32, g.n.clamp(1, MAX_GRID_Y) as u32, 1],
        shared_bytes: tiling.shared_bytes as u32,
        // The kernel takes any contiguous tensor, and uses vectors if it is aligned.
        alignment: channels_last.map(|last| if variant.wide && last { VECTOR * size_of::<T>() } else { size_of::<T>() }),
        order: SumOrder::Slots,
        own: ConvConfig { params: KernelParams::Grouped(tiling.params(problem)), persistent: false, layout: LAYOUT, pack },
    };
    Ok(Candidate { estimate: tiling.estimate, config })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2dSpec, Device, PlanRequest, half::f16};

    /// Planning such a layer spends most of its time on this search.
    #[test]
    fn a_tiling_is_searched_once_for_a_problem() {
        let device = Device::host().unwrap();
        let (x, spec) = ([3, 64, 20, 20], Conv2dSpec { groups: 8, ..Default::default() });
        let request = PlanRequest::new(x).format(MemoryFormat::ChannelsLast);
        let geometry = ConvGeometry::conv2d(&spec, x, [64, 8, 3, 3]).unwrap();
        let problem = ConvProblem::new::<f16>(&device, &request, geometry);
        let applicable: Vec<_> = super::super::family(FAMILY).filter(|kernel| candidate::<f16>(kernel, &problem).is_ok()).collect();
        assert!(!applicable.is_empty());
        for kernel in applicable {
            TILINGS.get(kernel, &problem, || panic!("{} is searched again", kernel.name)).unwrap();
        }
    }
}
