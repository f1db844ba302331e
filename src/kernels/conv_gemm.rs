//! kernels/conv_gemm.cu: convolution as an implicit GEMM, on tensor cores (16-bit types) or FFMA
//! lanes (f32). The phases of a transposed convolution are such GEMMs as well (conv_transpose.rs).

mod packing;
mod patch;

use super::candidate::{Candidate, LaunchConfig, Reason};
use super::conv_params::KernelParams;
use super::cost::{Work, least_bytes, warp_cycles, weight_bytes};
use super::launch::{ConvCandidate, ConvConfig, Pack};
use super::order::SumOrder;
use super::params::{GEMM_CHUNK_BYTES, GEMM_ROW_BYTES, GEMM_STAGES};
use super::problem::ConvProblem;
use super::{KernelInfo, conv_transpose, find};
use crate::device::GpuModel;
use crate::device::kernel::Gather;
pub(super) use crate::device::kernel::Tile;
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::{Estimate, padded};
use crate::spec::Precision;
use crate::{DType, Element};
use packing::pack_tf32;
pub(super) use packing::{pack, pack_steps, packing};
use patch::Patch;

pub(crate) const FAMILY: &str = "conv_gemm";

/// The number of stages in the pipeline from global to shared memory.
pub(super) const STAGES: usize = GEMM_STAGES as usize;
/// The bytes of k that one step multiplies.
pub(super) const ROW_BYTES: usize = GEMM_ROW_BYTES as usize;
/// The bytes of one copy.
pub(super) const CHUNK_BYTES: usize = GEMM_CHUNK_BYTES as usize;
/// The number of pixels by which a tile may reach beyond the last one.
pub(super) const MAX_TILE: usize = 256;
/// The cost of one load by the element gathers, including its bounds test, in bytes of shared
/// memory traffic.
pub(super) const BYTES_PER_ELEMENT: f64 = 16.0;

/// The tile for which every gather has a kernel.
const EVERY_GATHER: Tile = Tile { m: 64, n: 64, warp_m: 32, warp_n: 32, slices: 1 };

impl Tile {
    pub fn of(kernel: &'static KernelInfo) -> &'static Self {
        kernel.axes.tile.as_ref().expect("every kernel of an implicit GEMM has a tile: a test asks each")
    }

    /// The tile 64x64, for which every gather has a kernel.
    pub fn of_every_gather() -> &'static Self {
        &EVERY_GATHER
    }

    fn step_bytes(&self) -> usize {
        (self.m + self.n) * ROW_BYTES
    }

    /// The bytes of a stage, which holds one step for each slice.
    pub fn stage_bytes(&self) -> usize {
        self.slices * self.step_bytes()
    }

    /// The bytes that the warps read in a step.
    pub fn fragment_bytes(&self) -> usize {
        (self.m * (self.n / self.warp_n) + self.n * (self.m / self.warp_m)) * ROW_BYTES
    }

    /// The bytes of shared memory that the copies of a step write and its multiplications read.
    pub fn shared_bytes_per_stage(&self) -> usize {
        self.step_bytes() + self.fragment_bytes()
    }

    pub fn threads(&self) -> usize {
        32 * self.m / self.warp_m * self.n / self.warp_n * self.slices
    }

    /// Which steps a slice computes must not depend on the taps that a tile leaves out. Otherwise
    /// an image's sums would depend on its batch.
    fn check_slices(&self, g: &ConvGeometry, dtype: DType) -> Result<(), String> {
        let (channels, per_step) = (g.c_in / g.groups, ROW_BYTES / dtype.bytes());
        let skips = channels.is_multiple_of(per_step) && g.kernel != [1, 1];
        if skips && !(channels / per_step).is_multiple_of(self.slices) {
            return Err(format!("{channels} channels of a tap are no whole steps of {} slices", self.slices));
        }
        Ok(())
    }

    /// The products of a warp in a step.
    pub fn warp_macs(&self, dtype: DType) -> f64 {
        (self.warp_m * self.warp_n * ROW_BYTES / dtype.bytes()) as f64
    }
}

/// The number of blocks of a kernel that a multiprocessor holds at once.
pub(super) fn blocks_per_multiprocessor(kernel: &'static KernelInfo, model: &GpuModel) -> usize {
    kernel.register_blocks(model).min(model.shared_memory_blocks(STAGES * Tile::of(kernel).stage_bytes()))
}

/// How a problem is divided into tiles.
pub(super) struct GemmTiling {
    /// Output pixels. For a transposed convolution, those of its largest phase.
    pub rows: usize,
    /// The number of column tiles, times the groups.
    tiles_of_a_row: usize,
    row_tiles: usize,
    phases: usize,
    /// The number of steps along k, over all phases.
    pub steps: usize,
}

impl GemmTiling {
    pub fn new(g: &ConvGeometry, tile: &Tile, dtype: DType) -> Self {
        let apart = if g.transposed { g.stride } else { [1, 1] };
        let rows = g.n * g.output[0].div_ceil(apart[0]) * g.output[1].div_ceil(apart[1]);
        Self {
            rows,
            tiles_of_a_row: column_tiles(g, tile),
            row_tiles: rows.div_ceil(tile.m).max(1),
            phases: apart[0].min(g.output[0]) * apart[1].min(g.output[1]),
            steps: steps(g, dtype.bytes()),
        }
    }

    /// The tiling, if the problem is within the limits of the kernel and the device.
    pub fn fitting(g: &ConvGeometry, tile: &Tile, problem: &ConvProblem<'_>) -> Result<Self, String> {
        let tiling = Self::new(g, tile, problem.dtype);
        if tiling.rows > i32::MAX as usize - MAX_TILE {
            return Err(format!("{} output pixels are above 2^31", tiling.rows));
        }
        // The positions that a block computes reach one grid beyond its last tile.
        if tiling.blocks() > i32::MAX as usize / 2 {
            return Err(format!("{} tiles are above 2^30", tiling.blocks()));
        }
        if STAGES * tile.stage_bytes() > problem.device.shared_bytes_per_block as usize {
            return Err(format!("a block has {} bytes of shared memory", problem.device.shared_bytes_per_block));
        }
        Ok(tiling)
    }

    /// The bytes of the packed weights.
    fn weight_bytes(&self, tile: &Tile) -> f64 {
        self.tiles_of_a_row as f64 * (tile.n * self.steps * ROW_BYTES) as f64
    }

    pub fn blocks(&self) -> usize {
        self.row_tiles.saturating_mul(self.tiles_of_a_row).saturating_mul(self.phases)
    }

    /// The steps of a block. For a transposed convolution, those of the average phase.
    fn block_steps(&self) -> f64 {
        self.steps as f64 / self.phases.max(1) as f64
    }

    /// The cycles of a block whose `steps` wait for each other. As many steps run at once as there
    /// are slices, whose sums are added at the end.
    fn block_cycles(tile: &Tile, steps: f64, step_cycles: f64) -> f64 {
        ((steps / tile.slices as f64).ceil() + (tile.slices - 1) as f64 / 2.0) * step_cycles
    }

    /// The steps of all blocks.
    pub fn total_steps(&self) -> f64 {
        self.row_tiles as f64 * self.tiles_of_a_row as f64 * self.steps as f64
    }
}

/// The number of tiles of output channels, over all groups.
fn column_tiles(g: &ConvGeometry, tile: &Tile) -> usize {
    (g.c_out / g.groups).div_ceil(tile.n).saturating_mul(g.groups)
}

/// The number of rows of `ROW_BYTES` that hold the weights of one output channel.
fn steps(g: &ConvGeometry, element_bytes: usize) -> usize {
    let per_step = ROW_BYTES / element_bytes;
    if g.transposed { conv_transpose::steps(g, per_step) } else { g.products().div_ceil(per_step) }
}

/// The bytes of one copy of pixels: the largest power of two that divides a plane, up to a chunk.
fn plane_copy(g: &ConvGeometry, element_bytes: usize) -> usize {
    let plane = g.input[0] * g.input[1] * element_bytes;
    CHUNK_BYTES.min(1 << plane.trailing_zeros().min(31))
}

/// A product in tf32 takes tensor cores as long as this many products of 16 bits.
const TF32_MACS: f64 = 2.0;
/// Cycles of a block between two barriers in addition to its products: the barrier, the latencies
/// of `ldmatrix` and `mma`, and the part of L2's latency that the stages do not hide.
pub(super) const STEP_CYCLES: f64 = 150.0;
/// Cycles of a load from L2 or DRAM for which a block waits.
pub(super) const LOAD_CYCLES: f64 = 400.0;
/// The largest number of parts of k. With more, adding the parts takes longer than multiplying.
const MAX_PARTS: usize = 16;
const SUM_BLOCKS_PER_MULTIPROCESSOR: f64 = 8.0;
/// The bytes that L2 delivers at once.
pub(super) const SECTOR_BYTES: f64 = 32.0;

pub(crate) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    if kernel.gather() == Gather::Patches {
        let (tile, patch) = (Tile::of(kernel), Patch::of(kernel, problem)?);
        return Ok(Candidate { estimate: patch.work(kernel, problem).estimate(problem), config: patch.config(tile) });
    }
    let multiply = Multiplication::new(kernel, problem)?;
    let Multiplication { tile, tiling, whole, .. } = &multiply;
    let mut config = config(kernel, tile, tiling, problem);
    if !is_split(kernel) {
        return Ok(Candidate { estimate: whole.estimate(problem), config });
    }
    let (parts, estimate) = multiply.parts(problem)?;
    (config.grid[1], config.own.persistent) = (parts as u32, false);
    Ok(Candidate { estimate, config })
}

/// The candidate for a problem that a kernel computes as another convolution, `gemm`, with as many
/// products in a sum.
pub(super) fn candidate_as<T: Element>(
    kernel: &'static KernelInfo,
    problem: &ConvProblem<'_>,
    gemm: ConvGeometry,
) -> Result<ConvCandidate<T>, Reason> {
    let other = ConvProblem { geometry: gemm, ..*problem };
    let Multiplication { tile, tiling, whole: mut work, .. } = Multiplication::new(kernel, &other)?;
    work.dram_bytes += least_bytes(problem) - least_bytes(&other);
    Ok(Candidate { estimate: work.estimate(problem), config: config(kernel, tile, &tiling, &other) })
}

/// The launch of a kernel that computes all tiles.
pub(super) fn config<T: Element>(
    kernel: &KernelInfo,
    tile: &Tile,
    tiling: &GemmTiling,
    problem: &ConvProblem<'_>,
) -> LaunchConfig<ConvConfig<T>> {
    let x_alignment = match kernel.gather() {
        Gather::Vectors | Gather::Matrix => CHUNK_BYTES,
        Gather::Planes => plane_copy(&problem.geometry, size_of::<T>()),
        _ => size_of::<T>(),
    };
    let (layout, pack) = match tile.n {
        64 if kernel.axes.math.is_some() => {
            ("[group][64 bytes of (tap, channel)][c_out in tiles of 64], tf32", pack_tf32::<T, 64> as Pack<T>)
        }
        _ => packing(tile),
    };
    LaunchConfig {
        grid: [tiling.blocks() as u32, 1, 1],
        shared_bytes: (STAGES * tile.stage_bytes()) as u32,
        // The store takes any output, and uses vectors if it is aligned.
        alignment: [x_alignment, size_of::<T>()],
        order: if tile.slices > 1 { SumOrder::Slices(tile.slices) } else { SumOrder::of_gemm(kernel) },
        own: ConvConfig { params: KernelParams::default(), persistent: kernel.persistent, layout, pack },
    }
}

/// The checks of the input that all kernels share.
fn check_input(kernel: &KernelInfo, problem: &ConvProblem<'_>) -> Result<(), String> {
    if kernel.dtype != Some(problem.dtype) {
        return Err(format!("it is for {}, not {}", kernel.dtype.map_or("any", DType::name), problem.dtype));
    }
    let format = kernel.gather().format();
    if problem.x_format != format {
        return Err(format!("it gathers from {format} inputs"));
    }
    Ok(())
}

/// The work of a kernel for a problem to which it applies.
struct Multiplication {
    tile: &'static Tile,
    tiling: GemmTiling,
    step_cycles: f64,
    /// The work of one launch.
    whole: Work,
}

impl Multiplication {
    fn new(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<Self, String> {
        let ConvProblem { geometry: g, dtype, .. } = problem;
        check_input(kernel, problem)?;
        let tf32 = kernel.axes.math.is_some();
        if tf32 && problem.precision != Precision::Tf32 {
            return Err("it rounds what it multiplies to tf32: PlanRequest::precision allows that".into());
        }
        let gather = kernel.gather();
        let channels = g.c_in / g.groups;
        let vectors = gather.is_vectors();
        if vectors && channels * dtype.bytes() % CHUNK_BYTES != 0 {
            return Err(format!("{channels} channels a group are not a multiple of {}", CHUNK_BYTES / dtype.bytes()));
        }
        if (gather == Gather::Planes || gather == Gather::Matrix) && (g.kernel != [1, 1] || g.stride != [1, 1] || g.padding != [0; 4]) {
            return Err("it is for 1x1 with stride 1 and no padding".into());
        }
        if gather == Gather::Planes && plane_copy(g, dtype.bytes()) < CHUNK_BYTES / 2 {
            let pixels = CHUNK_BYTES / 2 / dtype.bytes();
            return Err(format!("a plane of {} pixels is not a multiple of {pixels}", g.input[0] * g.input[1]));
        }
        let tile = Tile::of(kernel);
        let tiling = GemmTiling::fitting(g, tile, problem)?;
        let total_steps = tiling.total_steps();
        let macs = total_steps * (tile.m * tile.n * ROW_BYTES / dtype.bytes()) as f64;
        let mut shared_bytes = total_steps * tile.shared_bytes_per_stage() as f64;
        let through_registers = gather.is_through_registers();
        if gather == Gather::Planes {
            // Copies of half the width are twice as many.
            shared_bytes += total_steps * (tile.m * ROW_BYTES) as f64 * (CHUNK_BYTES / plane_copy(g, dtype.bytes()) - 1) as f64;
        } else if through_registers {
            shared_bytes += total_steps * (tile.m * ROW_BYTES / dtype.bytes()) as f64 * BYTES_PER_ELEMENT;
        }
        // A run of channels that is shorter than a sector of L2 costs a whole sector.
        let sectors = if vectors { (SECTOR_BYTES / (channels * dtype.bytes()) as f64).max(1.0) } else { 1.0 };
        let (tensor_macs, ffma) = match dtype {
            DType::F32 if !tf32 => (0.0, 1.0),
            DType::F32 => (TF32_MACS, 0.0),
            _ => (1.0, 0.0),
        };
        let warp = warp_cycles(problem.device.model, tile.warp_macs(*dtype) * tensor_macs, tile.warp_macs(*dtype) * ffma);
        // Elements that pass through registers are loaded while one step is multiplied.
        let step_cycles = STEP_CYCLES + if through_registers { warp.max(LOAD_CYCLES) } else { warp };
        tile.check_slices(g, *dtype)?;
        let whole = Work {
            l2_bytes: total_steps * (tile.m as f64 * sectors + tile.n as f64) * ROW_BYTES as f64,
            blocks: tiling.blocks() as f64,
            blocks_per_multiprocessor: blocks_per_multiprocessor(kernel, problem.device.model) as f64,
            block_cycles: GemmTiling::block_cycles(tile, tiling.block_steps(), step_cycles),
            // Weights count as they are packed: a group with few channels is mostly padding.
            dram_bytes: least_bytes(problem) + tiling.weight_bytes(tile) - weight_bytes(problem),
            shared_bytes,
            tensor_macs: macs * tensor_macs,
            ffma: macs * ffma,
        };
        Ok(Self { tile, tiling, step_cycles, whole })
    }

    /// The fastest number of parts among those that the request allows, and the estimated time.
    fn parts(&self, problem: &ConvProblem<'_>) -> Result<(usize, Estimate), Reason> {
        let ConvProblem { geometry: g, dtype, workspace_limit, .. } = problem;
        if problem.batch_invariant {
            return Err("where its sums are split depends on the other images of a batch".into());
        }
        let chunk = CHUNK_BYTES / dtype.bytes();
        if !g.c_out.is_multiple_of(chunk) {
            return Err(format!("{} output channels are not a multiple of {chunk}", g.c_out));
        }
        if parts_bytes(g, 1) > i32::MAX as usize {
            return Err(format!("{} bytes of sums are above 2^31", parts_bytes(g, 1)));
        }
        if self.tiling.steps < 2 {
            return Err(format!("{} products are a single step", g.products()));
        }
        let allowed = |&parts: &usize| padded(parts_bytes(g, parts)).is_ok_and(|bytes| bytes <= *workspace_limit);
        let possible = (2..=MAX_PARTS.min(self.tiling.steps)).filter(allowed);
        let timed = possible.map(|parts| (parts, self.split(parts, problem)));
        timed.min_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds)).ok_or_else(|| {
            let bytes = parts_bytes(g, 2);
            format!("two parts need {bytes} bytes of workspace: PlanRequest::workspace_limit allows {workspace_limit}")
        })
    }

    /// The estimated time of both launches.
    fn split(&self, parts: usize, problem: &ConvProblem<'_>) -> Estimate {
        let bytes = parts_bytes(&problem.geometry, parts) as f64;
        let steps = (self.tiling.steps as f64 / parts as f64).ceil();
        let multiply = Work {
            blocks: self.whole.blocks * parts as f64,
            block_cycles: GemmTiling::block_cycles(self.tile, steps, self.step_cycles),
            l2_bytes: self.whole.l2_bytes + bytes,
            ..self.whole
        };
        let add = Work {
            blocks: sum_blocks(&problem.geometry, problem.dtype) as f64,
            blocks_per_multiprocessor: SUM_BLOCKS_PER_MULTIPROCESSOR,
            l2_bytes: bytes,
            ..Default::default()
        };
        multiply.estimate(problem) + add.estimate(problem)
    }
}

/// Whether the kernel leaves adding the parts of k to split_sum.cu.
pub(super) fn is_split(kernel: &KernelInfo) -> bool {
    kernel.axes.parts.is_some()
}

/// The bytes of workspace for the sums of this number of parts.
pub(super) fn parts_bytes(g: &ConvGeometry, parts: usize) -> usize {
    g.output_shape().iter().product::<usize>().saturating_mul(parts * size_of::<f32>())
}

/// The kernel of split_sum.cu for a 16-bit type.
pub(super) fn sum_kernel(dtype: DType) -> &'static KernelInfo {
    find(if dtype == DType::Bf16 { "split_sum_bf16" } else { "split_sum_f16" })
}

/// The number of blocks of that kernel.
pub(super) fn sum_blocks(g: &ConvGeometry, dtype: DType) -> usize {
    g.output_shape().iter().product::<usize>().div_ceil(CHUNK_BYTES / dtype.bytes() * sum_kernel(dtype).threads as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::family;

    #[test]
    fn every_split_kernel_has_one_that_adds_up() {
        for kernel in family(FAMILY).filter(|kernel| is_split(kernel)) {
            let sum = sum_kernel(kernel.dtype.expect("it has a dtype"));
            assert_eq!(sum.dtype, kernel.dtype);
        }
    }

    #[test]
    fn the_manifest_has_these_tiles() {
        let tiled = |kernel: &&KernelInfo| kernel.axes.tile.is_some();
        for kernel in family(FAMILY).chain(family(conv_transpose::FAMILY)).chain(family("conv_separable")).filter(tiled) {
            let tile = Tile::of(kernel);
            assert_eq!(kernel.threads as usize, tile.threads(), "{}", kernel.name);
            assert!(tile.m <= MAX_TILE && [32, 64, 128, 256].contains(&tile.n));
        }
    }
}
