//! kernels/upsample.cu: bilinear interpolation.

use super::candidate::{LaunchConfig, Reason};
use super::cost::Work;
use super::launch::MAX_GRID_Y;
use super::order::SumOrder;
use super::params::{Tensor4, UpsampleParams};
use super::pixel_shuffle::{ACCESS_CYCLES, BLOCKS_PER_MULTIPROCESSOR};
use super::unweighted::{Unweighted, plan as plan_op};
use super::{KernelInfo, MAX_POSITION, at_most, check_image, family, to_i32};
use crate::device::kernel::Access;
use crate::error::Result;
use crate::geometry::UpsampleGeometry;
use crate::plan::{Plan, PlanRequest};
use crate::shape::elements;
use crate::{DType, Device, Element, MemoryFormat};

const FAMILY: &str = "upsample";
/// Bytes of a wide access.
pub(super) const CHUNK_BYTES: usize = 16;
/// The largest axis for which f32 represents the centres of pixels, p + 0.5.
const MAX_AXIS: usize = MAX_POSITION / 2;
/// The cost of one byte if a thread moves one element, and if neighbouring threads do not move
/// neighbouring elements.
pub(super) const ELEMENTS: f64 = 2.0;
pub(super) const SCATTERED: f64 = 8.0;
/// Instructions for the place of a thread and the positions between which it blends, and for each
/// element: loads, conversions, three blends.
const POSITION_INSTRUCTIONS: f64 = 100.0;
const BLEND_INSTRUCTIONS: f64 = 20.0;

#[derive(Debug)]
struct Upsampling {
    geometry: UpsampleGeometry,
    dtype: DType,
    x_format: MemoryFormat,
    y_format: MemoryFormat,
}

impl Upsampling {
    fn per_thread(&self, kernel: &KernelInfo) -> usize {
        if kernel.axes.access == Some(Access::Wide) { CHUNK_BYTES / self.dtype.bytes() } else { 1 }
    }

    /// The number of blocks of an image, whose elements fit 32 bits.
    fn blocks(&self, kernel: &KernelInfo) -> usize {
        let [_, c, h, w] = self.geometry.output_shape();
        (c * h * w / self.per_thread(kernel)).div_ceil(kernel.threads as usize)
    }
}

impl Unweighted for Upsampling {
    type Params = UpsampleParams;
    type Config = ();

    fn kernels(&self) -> Vec<&'static KernelInfo> {
        family(FAMILY).filter(|kernel| kernel.dtype == Some(self.dtype)).collect()
    }

    fn candidate(&self, kernel: &'static KernelInfo) -> Result<(Work, LaunchConfig<()>), Reason> {
        let (g, per_thread) = (&self.geometry, self.per_thread(kernel));
        let format = kernel.format.expect("every kernel of the family is for a format of the output");
        if per_thread > 1 {
            let (what, size) = if format == MemoryFormat::Contiguous { ("columns", g.output[1]) } else { ("channels", g.channels) };
            if self.y_format != format {
                return Err(format!("it writes {format} outputs"));
            }
            if format == MemoryFormat::ChannelsLast && self.x_format != format {
                return Err(format!("it reads {format} inputs"));
            }
            if !size.is_multiple_of(per_thread) {
                return Err(format!("{size} {what} are not a multiple of {per_thread}"));
            }
        }
        let bytes = (elements(&g.input_shape()).unwrap_or(0) + elements(&g.output_shape()).unwrap_or(0)) * self.dtype.bytes();
        let factor = match per_thread {
            1 if self.y_format == format => ELEMENTS,
            1 => SCATTERED,
            _ => 1.0,
        };
        let of_image = self.blocks(kernel);
        let blocks = of_image as f64 * g.n as f64;
        let instructions = POSITION_INSTRUCTIONS + per_thread as f64 * BLEND_INSTRUCTIONS;
        let work = Work {
            blocks,
            blocks_per_multiprocessor: BLOCKS_PER_MULTIPROCESSOR,
            block_cycles: ACCESS_CYCLES,
            dram_bytes: bytes as f64 * factor,
            ffma: blocks * f64::from(kernel.threads) * instructions / 2.0, // two instructions a cycle and lane
            ..Default::default()
        };
        let aligned = |wide: bool| if wide { CHUNK_BYTES } else { self.dtype.bytes() };
        let config = LaunchConfig {
            grid: [of_image as u32, g.n.clamp(1, MAX_GRID_Y) as u32, 1],
            shared_bytes: 0,
            alignment: [aligned(per_thread > 1 && format == MemoryFormat::ChannelsLast), aligned(per_thread > 1)],
            order: SumOrder::Only,
            own: (),
        };
        Ok((work, config))
    }

    fn attributes(&self) -> String {
        format!("align_corners {}", self.geometry.align_corners)
    }

    fn params(&self, _: &KernelInfo, (): &(), x: Tensor4, y: Tensor4) -> Result<UpsampleParams> {
        let g = &self.geometry;
        Ok(UpsampleParams {
            x,
            y,
            n: to_i32("N", g.n)?,
            c: to_i32("C", g.channels)?,
            h: to_i32("the input height", g.input[0])?,
            w: to_i32("the input width", g.input[1])?,
            h_out: to_i32("the output height", g.output[0])?,
            w_out: to_i32("the output width", g.output[1])?,
            scale_h: g.scale[0],
            scale_w: g.scale[1],
            align_corners: g.align_corners.into(),
            reserved: 0,
        })
    }
}

/// Makes a plan: chooses a kernel and loads it.
pub(crate) fn plan<T: Element>(device: &Device, request: &PlanRequest, geometry: UpsampleGeometry) -> Result<Plan<T>> {
    check_image("the number of elements of an image of x", geometry.input_shape())?;
    check_image("the number of elements of an image of y", geometry.output_shape())?;
    for size in geometry.input.into_iter().chain(geometry.output) {
        at_most(MAX_AXIS, "a height or width, of which positions are f32,", size)?;
    }
    let (x_format, y_format) = (request.x_format, request.y_format);
    let upsampling = Upsampling { geometry, dtype: T::DTYPE, x_format, y_format };
    plan_op("upsample_bilinear", device, request, geometry.output_shape(), upsampling)
}
