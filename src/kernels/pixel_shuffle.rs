//! kernels/rearrange.cu: moving pixels into channels and back.

use super::candidate::{LaunchConfig, Reason};
use super::cost::Work;
use super::launch::MAX_GRID_Y;
use super::order::SumOrder;
use super::params::{CopyAxis, PixelShuffleParams, Tensor4};
use super::unweighted::{self, Unweighted};
use super::{KernelInfo, check_image, family, to_i32};
use crate::device::kernel::{Access, Side};
use crate::error::Result;
use crate::geometry::BlockGeometry;
use crate::plan::{Estimate, Plan, PlanRequest};
use crate::spec::ChannelOrder;
use crate::{Device, Element, MemoryFormat, Shape};

/// Bytes of a wide access.
const CHUNK_BYTES: usize = 16;
/// The number of elements of a tile of `pixel_tile`, and the number of positions along its shorter
/// axis that are enough.
const TILE: usize = 1024;
const TILE_SIDE: usize = 32;
/// The cost of one byte in kernels that do not move 16 bytes at once, and if neighbours in x are
/// not neighbours in y.
const ELEMENTS: f64 = 1.5;
const TRANSPOSED: f64 = 2.0;
const SCATTERED: f64 = 6.0;
/// Bytes that L2 moves at once.
const SECTOR_BYTES: usize = 32;
/// The number of blocks that a multiprocessor runs at once, limited by threads.
pub(super) const BLOCKS_PER_MULTIPROCESSOR: f64 = 8.0;
/// Cycles of a block that waits for its loads and then for the addresses of its stores, until the
/// next block takes its place.
pub(super) const ACCESS_CYCLES: f64 = 600.0;
/// Instructions for the place of an element, which take five divisions, and for moving an element
/// into a tile or out of it.
const PLACE_INSTRUCTIONS: f64 = 120.0;
const MOVE_INSTRUCTIONS: f64 = 16.0;

/// The axes of both sides: channel, row and column of an r x r block; row and column of the block
/// among all blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    C,
    I,
    J,
    H,
    W,
    /// An axis with one position, if a group needs no more axes.
    One,
}
use Axis::{C, H, I, J, One, W};

/// The direction in which elements are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Channels become pixels: PixelShuffle.
    ToWide,
    /// Pixels become channels: PixelUnshuffle.
    ToDeep,
}

#[derive(Debug)]
struct Rearrangement {
    geometry: BlockGeometry,
    order: ChannelOrder,
    direction: Direction,
    x_format: MemoryFormat,
    y_format: MemoryFormat,
    element_bytes: usize,
}

/// How a kernel divides the axes, with the innermost axis of each group last. It is stored on the
/// stack, since running allocates nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Division {
    a: [Axis; 3],
    b: [Axis; 3],
    outer: [Axis; 3],
    /// The number of neighbours along W (pixel_rows) or C (pixel_runs) that one thread moves.
    chunk: usize,
}

impl Rearrangement {
    fn formats(&self) -> (MemoryFormat, MemoryFormat) {
        match self.direction {
            Direction::ToWide => (self.x_format, self.y_format),
            Direction::ToDeep => (self.y_format, self.x_format),
        }
    }

    /// The axes in the order of y's memory.
    fn y_order(&self) -> [Axis; 5] {
        use MemoryFormat::{ChannelsLast, Contiguous};
        match (self.direction, self.y_format, self.order) {
            (Direction::ToWide, Contiguous, _) => [C, H, I, W, J],
            (Direction::ToWide, ChannelsLast, _) => [H, I, W, J, C],
            (Direction::ToDeep, Contiguous, ChannelOrder::Crd) => [C, I, J, H, W],
            (Direction::ToDeep, Contiguous, ChannelOrder::Dcr) => [I, J, C, H, W],
            (Direction::ToDeep, Contiguous, ChannelOrder::Focus) => [J, I, C, H, W],
            (Direction::ToDeep, ChannelsLast, ChannelOrder::Crd) => [H, W, C, I, J],
            (Direction::ToDeep, ChannelsLast, ChannelOrder::Dcr) => [H, W, I, J, C],
            (Direction::ToDeep, ChannelsLast, ChannelOrder::Focus) => [H, W, J, I, C],
        }
    }

    fn extent(&self, axis: Axis) -> usize {
        let g = &self.geometry;
        match axis {
            C => g.channels,
            I | J => g.factor,
            H => g.blocks[0],
            W => g.blocks[1],
            One => 1,
        }
    }

    fn extents(&self, axes: &[Axis]) -> usize {
        axes.iter().map(|&axis| self.extent(axis)).product()
    }

    /// How a kernel divides the axes, or why it does not apply.
    fn division(&self, kernel: &KernelInfo) -> Result<Division, String> {
        use MemoryFormat::{ChannelsLast, Contiguous};
        let crd = self.order == ChannelOrder::Crd;
        let (deep, wide) = self.formats();
        let per_chunk = CHUNK_BYTES / self.element_bytes;
        let [first, second, a @ ..] = self.y_order();
        let runs = |chunk| Ok(Division { a, b: [One; 3], outer: [One, first, second], chunk });
        match (kernel.axes.access, kernel.axes.factor) {
            (Some(Access::Narrow), _) => runs(1),
            (Some(_), _) => {
                if (deep, wide) != (ChannelsLast, ChannelsLast) || crd {
                    return Err("input and output have no runs of channels in common".into());
                }
                if !self.geometry.channels.is_multiple_of(per_chunk) {
                    return Err(format!("{} channels are not a multiple of {per_chunk}", self.geometry.channels));
                }
                runs(per_chunk)
            }
            (None, Some(factor)) => {
                if kernel.axes.to != Some(if self.direction == Direction::ToWide { Side::Wide } else { Side::Deep }) {
                    return Err("it moves the other way".into());
                }
                if factor != self.geometry.factor {
                    return Err(format!("it is for r = {factor}"));
                }
                if (deep, wide) != (Contiguous, Contiguous) {
                    return Err("it is for contiguous tensors".into());
                }
                let row = self.geometry.blocks[1];
                if !row.is_multiple_of(per_chunk) {
                    return Err(format!("rows of {row} are not a multiple of {per_chunk}"));
                }
                Ok(Division { a: [One, One, W], b: [One, One, J], outer: [C, I, H], chunk: per_chunk })
            }
            (None, None) => {
                // In addition to the axes that change places, as many pixels as the tile has room
                // for.
                let (deep_side, wide_side) = match (deep, wide, self.direction) {
                    (Contiguous, Contiguous, _) => ([One, H, W], [One, One, J]),
                    (Contiguous, ChannelsLast, _) => ([One, H, W], [One, J, C]),
                    // Elements that are neighbours where they are written. Reads with gaps are
                    // served by L1.
                    (ChannelsLast, Contiguous, Direction::ToWide) if crd => ([One, C, I], [H, W, J]),
                    (ChannelsLast, Contiguous, Direction::ToDeep) if crd => ([C, I, J], [One, H, W]),
                    (ChannelsLast, Contiguous, _) => ([One, One, C], [H, W, J]),
                    // The few channels of a pixel are all in the sectors that a warp accesses on
                    // either side.
                    (ChannelsLast, ChannelsLast, _) if crd && self.has_short_runs() => ([One, One, I], [W, J, C]),
                    (ChannelsLast, ChannelsLast, _) if crd => ([One, I, J], [H, W, C]),
                    (ChannelsLast, ChannelsLast, _) => return Err("neighbours in the input are neighbours in the output".into()),
                };
                let (a, b) = if self.direction == Direction::ToWide { (deep_side, wide_side) } else { (wide_side, deep_side) };
                let mut outer = [One; 3];
                let rest = [C, I, H, W, J].into_iter().filter(|axis| !a.contains(axis) && !b.contains(axis));
                outer.iter_mut().zip(rest).for_each(|(place, axis)| *place = axis);
                Ok(Division { a, b, outer, chunk: 1 })
            }
        }
    }

    /// Whether the channels of the side with more pixels are less than a sector, in rows that fill
    /// the longer axis of a tile.
    fn has_short_runs(&self) -> bool {
        self.geometry.channels * self.element_bytes < SECTOR_BYTES && self.extents(&[W, J, C]) >= TILE / 4
    }

    /// The number of blocks of an image, and the bytes of shared memory of each.
    fn blocks(&self, kernel: &KernelInfo, division: &Division) -> (usize, usize) {
        if Self::is_tile(kernel) {
            let [a, b] = self.tile(division);
            let tiles = self.extents(&division.a).div_ceil(a) * self.extents(&division.b).div_ceil(b);
            let per_word = 4 / self.element_bytes;
            let pitch = (a.div_ceil(per_word) | 1) * per_word;
            (tiles * self.extents(&division.outer), (a + b) * 8 + b * pitch * self.element_bytes)
        } else {
            let per_thread = if kernel.axes.factor.is_some() { division.chunk * self.geometry.factor } else { division.chunk };
            ((self.elements() / per_thread).div_ceil(kernel.threads as usize), 0)
        }
    }

    /// The instructions of a block's threads, including those that have no element.
    fn block_instructions(&self, kernel: &KernelInfo, division: &Division) -> f64 {
        let threads = kernel.threads as usize;
        if !Self::is_tile(kernel) {
            return threads as f64 * PLACE_INSTRUCTIONS;
        }
        let [a, b] = self.tile(division);
        // A pass along `inner` uses as many lanes there as the next power of two; the other threads
        // are along `outer`.
        let passes = |inner: usize, outer: usize| {
            let lanes = 1 << self.lanes(inner, threads);
            inner.div_ceil(lanes) * outer.div_ceil(threads / lanes)
        };
        let setup = (a.div_ceil(threads) + b.div_ceil(threads)) as f64 * PLACE_INSTRUCTIONS;
        threads as f64 * (setup + (passes(a, b) + passes(b, a)) as f64 * MOVE_INSTRUCTIONS)
    }

    /// log2 of the number of threads of a block along this number of positions.
    fn lanes(&self, positions: usize, threads: usize) -> u32 {
        positions.next_power_of_two().min(threads).ilog2()
    }

    fn elements(&self) -> usize {
        self.extents(&[C, I, J, H, W])
    }

    /// The positions of a block of `pixel_tile` along a and b.
    fn tile(&self, division: &Division) -> [usize; 2] {
        let [a, b] = [self.extents(&division.a), self.extents(&division.b)];
        let tile_b = b.clamp(1, TILE / a.clamp(1, TILE_SIDE));
        [a.clamp(1, TILE / tile_b.min(TILE_SIDE)), tile_b]
    }

    fn is_tile(kernel: &KernelInfo) -> bool {
        kernel.axes.access.is_none() && kernel.axes.factor.is_none()
    }
}

impl Unweighted for Rearrangement {
    type Params = PixelShuffleParams;
    type Config = Division;

    fn kernels(&self) -> Vec<&'static KernelInfo> {
        let bits = self.element_bytes * 8;
        family("rearrange").filter(|kernel| kernel.name.starts_with("pixel_") && kernel.axes.bits == Some(bits)).collect()
    }

    fn candidate(&self, kernel: &'static KernelInfo) -> Result<(Work, LaunchConfig<Division>), Reason> {
        let division = self.division(kernel)?;
        let bytes = (2 * self.geometry.n * self.elements() * self.element_bytes) as f64;
        let neighbours = self.formats() == (MemoryFormat::ChannelsLast, MemoryFormat::ChannelsLast) && self.order != ChannelOrder::Crd;
        let factor = match (division.chunk, Self::is_tile(kernel)) {
            (1, true) => TRANSPOSED,
            (1, false) if neighbours => ELEMENTS,
            (1, false) => SCATTERED,
            _ => 1.0,
        };
        let (of_image, shared_bytes) = self.blocks(kernel, &division);
        let blocks = of_image as f64 * self.geometry.n as f64;
        let work = Work {
            blocks,
            blocks_per_multiprocessor: BLOCKS_PER_MULTIPROCESSOR,
            block_cycles: if Self::is_tile(kernel) { 2.0 * ACCESS_CYCLES } else { ACCESS_CYCLES },
            dram_bytes: bytes * factor,
            ffma: blocks * self.block_instructions(kernel, &division) / 2.0, // two instructions a cycle and lane
            ..Default::default()
        };
        let wide = kernel.axes.access == Some(Access::Wide) || kernel.axes.factor.is_some();
        let config = LaunchConfig {
            // There are no more blocks than elements of an image, which fit 32 bits.
            grid: [of_image as u32, self.geometry.n.clamp(1, MAX_GRID_Y) as u32, 1],
            shared_bytes: shared_bytes as u32,
            alignment: [if wide { CHUNK_BYTES } else { self.element_bytes }; 2],
            order: SumOrder::Only,
            own: division,
        };
        Ok((work, config))
    }

    fn attributes(&self) -> String {
        format!("order {:?}", self.order).to_lowercase()
    }

    fn params(&self, kernel: &KernelInfo, division: &Division, x: Tensor4, y: Tensor4) -> Result<PixelShuffleParams> {
        let (deep, wide) = if self.direction == Direction::ToWide { (x, y) } else { (y, x) };
        let chunk_axis = if kernel.axes.factor.is_some() { W } else { C };
        let side = |axis: Axis, tensor: &Tensor4, is_deep: bool| -> Result<i32> {
            let (r, c) = (self.geometry.factor as i64, self.geometry.channels as i64);
            let channel = i64::from(tensor.stride_c);
            // The distance, in channels, of neighbours along C, I and J.
            let [c_step, i_step, j_step] = match self.order {
                ChannelOrder::Crd => [r * r, r, 1],
                ChannelOrder::Dcr => [1, r * c, c],
                ChannelOrder::Focus => [1, c, r * c],
            };
            let stride = match (axis, is_deep) {
                (C, true) => c_step * channel,
                (I, true) => i_step * channel,
                (J, true) => j_step * channel,
                (H, true) | (I, false) => tensor.stride_h.into(),
                (W, true) | (J, false) => tensor.stride_w.into(),
                (C, false) => channel,
                (H, false) => r * i64::from(tensor.stride_h),
                (W, false) => r * i64::from(tensor.stride_w),
                (One, _) => 0,
            };
            let steps = if axis == chunk_axis { division.chunk as i64 } else { 1 };
            // An axis with one position may have any stride.
            if self.extent(axis) == 1 { Ok(0) } else { to_i32("a stride in elements", (stride * steps) as usize) }
        };
        let copy_axis = |axis: Axis| -> Result<CopyAxis> {
            let chunks = if axis == chunk_axis { division.chunk } else { 1 };
            let (deep, wide) = (side(axis, &deep, true)?, side(axis, &wide, false)?);
            let (x_stride, y_stride) = if self.direction == Direction::ToWide { (deep, wide) } else { (wide, deep) };
            Ok(CopyAxis { extent: to_i32("a size", self.extent(axis) / chunks)?, x_stride, y_stride })
        };
        let group = |[outer, middle, inner]: [Axis; 3]| Ok::<_, crate::Error>([copy_axis(outer)?, copy_axis(middle)?, copy_axis(inner)?]);
        let tile = self.tile(division);
        let lanes = |positions: usize| self.lanes(positions, kernel.threads as usize) as i32;
        Ok(PixelShuffleParams {
            x: x.address,
            y: y.address,
            x_batch_stride: x.stride_n,
            y_batch_stride: y.stride_n,
            a: group(division.a)?,
            b: group(division.b)?,
            outer: group(division.outer)?,
            batch: to_i32("N", self.geometry.n)?,
            tile_a: to_i32("a tile", tile[0])?,
            tile_b: to_i32("a tile", tile[1])?,
            lanes_a: lanes(tile[0]),
            lanes_b: lanes(tile[1]),
        })
    }
}

/// The op with checked sizes.
fn rearrangement<T: Element>(
    request: &PlanRequest,
    geometry: BlockGeometry,
    order: ChannelOrder,
    direction: Direction,
) -> Result<(Shape, Rearrangement)> {
    let output = if direction == Direction::ToWide { geometry.wide_shape() } else { geometry.deep_shape() };
    check_image("the number of elements of an image of y", output)?;
    check_image("the number of elements of an image of x", request.x)?;
    let (x_format, y_format) = (request.x_format, request.y_format);
    Ok((output, Rearrangement { geometry, order, direction, x_format, y_format, element_bytes: size_of::<T>() }))
}

/// Makes a plan: chooses a kernel and loads it.
pub(crate) fn plan<T: Element>(
    op: &'static str,
    device: &Device,
    request: &PlanRequest,
    geometry: BlockGeometry,
    order: ChannelOrder,
    direction: Direction,
) -> Result<Plan<T>> {
    let (output, rearrangement) = rearrangement::<T>(request, geometry, order, direction)?;
    unweighted::plan(op, device, request, output, rearrangement)
}

/// The estimated time of a plan. It is for one image if the choice may not depend on the batch.
///
/// # Errors
/// For sizes that no kernel takes.
pub(crate) fn time<T: Element>(
    device: &Device,
    request: &PlanRequest,
    geometry: BlockGeometry,
    order: ChannelOrder,
    direction: Direction,
) -> Result<Estimate> {
    let n = if request.batch_invariant { geometry.n.min(1) } else { geometry.n };
    let (_, rearrangement) = rearrangement::<T>(request, BlockGeometry { n, ..geometry }, order, direction)?;
    Ok(unweighted::least_time(device, &rearrangement))
}
