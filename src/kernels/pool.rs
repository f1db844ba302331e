//! kernels/pool.cu: the largest pixel or the mean of each window.

use super::candidate::{LaunchConfig, Reason};
use super::cost::Work;
use super::launch::MAX_GRID_Y;
use super::order::SumOrder;
use super::params::{POOL_BLOCK_THREADS, POOL_NARROW_ROWS, POOL_WIDE_ROWS, PoolAxis, PoolParams, Tensor4};
use super::pixel_shuffle::{ACCESS_CYCLES, BLOCKS_PER_MULTIPROCESSOR};
use super::unweighted::{Unweighted, plan as plan_op};
use super::upsample::{CHUNK_BYTES, ELEMENTS, SCATTERED};
use super::{KernelInfo, check_image, family, product, to_i32};
use crate::device::kernel::{Access, Form};
use crate::error::Result;
use crate::geometry::{PoolGeometry, Pooled, Windows};
use crate::plan::{Plan, PlanRequest};
use crate::shape::elements;
use crate::{DType, Device, Element, MemoryFormat};

const FAMILY: &str = "pool";
/// The largest number of threads that have channels of their own in a block that shares windows.
const MAX_LANES: usize = 32;
/// Instructions for the windows of a thread, for the address of a pixel, and for each element.
const WINDOW_INSTRUCTIONS: f64 = 150.0;
const PIXEL_INSTRUCTIONS: f64 = 10.0;
const ELEMENT_INSTRUCTIONS: f64 = 5.0;
/// Cycles of a load from L1.
const L1_CYCLES: f64 = 40.0;
/// Cycles of one addition through shared memory, with its barrier.
const SHARED_CYCLES: f64 = 60.0;
/// Pixels of a window whose loads are under way at once.
const LOADS_AT_ONCE: f64 = 4.0;

#[derive(Debug)]
struct Pooling {
    geometry: PoolGeometry,
    dtype: DType,
    x_format: MemoryFormat,
    y_format: MemoryFormat,
    batch_invariant: bool,
}

/// How the threads of a kernel share the outputs of an image.
struct Division {
    /// Channels of a thread.
    chunk: usize,
    /// Threads of a block that have channels of their own, if the block shares windows.
    lanes: usize,
    blocks: usize,
}

impl Pooling {
    fn channels_inner(&self) -> bool {
        self.x_format == MemoryFormat::ChannelsLast
    }

    fn is_max(&self) -> bool {
        self.geometry.pooled == Pooled::Max
    }

    fn division(&self, kernel: &KernelInfo) -> Division {
        let [_, channels, h, w] = self.geometry.output_shape();
        let is_wide = kernel.axes.access == Some(Access::Wide);
        let chunk = if is_wide { CHUNK_BYTES / self.dtype.bytes() } else { 1 };
        let chunks = channels / chunk;
        if kernel.axes.form == Some(Form::Blocks) {
            // Neighbouring channels of a contiguous x are planes apart: a warp has one of them.
            let threads = POOL_BLOCK_THREADS as usize;
            let lanes = if self.channels_inner() { chunks.clamp(1, MAX_LANES).next_power_of_two() } else { threads / MAX_LANES };
            return Division { chunk, lanes, blocks: chunks.div_ceil(lanes) * h * w };
        }
        let rows = if is_wide { POOL_WIDE_ROWS } else { POOL_NARROW_ROWS };
        Division { chunk, lanes: 1, blocks: (chunks * h.div_ceil(rows as usize) * w).div_ceil(kernel.threads as usize) }
    }
}

impl Unweighted for Pooling {
    type Params = PoolParams;
    type Config = ();

    fn kernels(&self) -> Vec<&'static KernelInfo> {
        family(FAMILY).filter(|kernel| kernel.dtype == Some(self.dtype)).collect()
    }

    fn candidate(&self, kernel: &'static KernelInfo) -> Result<(Work, LaunchConfig<()>), Reason> {
        let g = &self.geometry;
        let Division { chunk, lanes, blocks: of_image } = self.division(kernel);
        let (is_wide, is_shared) = (chunk > 1, kernel.axes.form == Some(Form::Blocks));
        if is_wide {
            if self.x_format != MemoryFormat::ChannelsLast {
                return Err("it reads channels_last inputs".into());
            }
            if !is_shared && self.y_format != MemoryFormat::ChannelsLast {
                return Err("it writes channels_last outputs".into());
            }
            if !g.channels.is_multiple_of(chunk) {
                return Err(format!("{} channels are not a multiple of {chunk}", g.channels));
            }
        }
        if is_shared && self.batch_invariant && !self.is_max() {
            return Err("its order of sums is not that of the kernel for views of any alignment".into());
        }
        if to_i32("the number of blocks", of_image).is_err() {
            return Err(format!("{of_image} blocks are more than a grid has"));
        }
        let window = g.window();
        let pixels = window[0] as f64 * window[1] as f64;
        let bytes = (elements(&g.input_shape()).unwrap_or(0) + elements(&g.output_shape()).unwrap_or(0)) * self.dtype.bytes();
        let factor = match (is_wide, self.x_format == self.y_format) {
            (true, _) => 1.0,
            (false, true) => ELEMENTS,
            (false, false) if is_shared => ELEMENTS,
            (false, false) => SCATTERED,
        };
        let of_pixel = PIXEL_INSTRUCTIONS + chunk as f64 * ELEMENT_INSTRUCTIONS;
        let threads = f64::from(kernel.threads);
        // The pixels that a thread loads, and the cycles in which it waits for them. A thread with
        // windows of its own finds those in L1 that a neighbouring window has, too.
        let (loaded, cycles) = if is_shared {
            let slots = threads / lanes as f64;
            let loaded = (pixels / slots).ceil();
            (loaded, loaded / LOADS_AT_ONCE * ACCESS_CYCLES + slots.log2() * SHARED_CYCLES)
        } else {
            let rows = f64::from(if is_wide { POOL_WIDE_ROWS } else { POOL_NARROW_ROWS });
            let own = match g.windows {
                Windows::Regular(axes) => axes.map(|axis| axis.kernel.min(axis.stride) as f64).iter().product(),
                Windows::Adaptive => pixels,
            };
            (pixels * rows, own * ACCESS_CYCLES + (pixels - own) * L1_CYCLES)
        };
        let blocks = of_image as f64 * g.n as f64;
        let outputs = elements(&g.output_shape()).unwrap_or(0) as f64;
        let l2_bytes = if is_shared { outputs * pixels * self.dtype.bytes() as f64 } else { bytes as f64 };
        let work = Work {
            blocks,
            blocks_per_multiprocessor: BLOCKS_PER_MULTIPROCESSOR,
            block_cycles: ACCESS_CYCLES + cycles,
            dram_bytes: bytes as f64 * factor,
            l2_bytes,
            ffma: blocks * threads * (WINDOW_INSTRUCTIONS + loaded * of_pixel) / 2.0, // two instructions a cycle and lane
            ..Default::default()
        };
        let aligned = |wide: bool| if wide { CHUNK_BYTES } else { self.dtype.bytes() };
        let config = LaunchConfig {
            grid: [of_image as u32, g.n.clamp(1, MAX_GRID_Y) as u32, 1],
            shared_bytes: if is_shared { POOL_BLOCK_THREADS * 4 * chunk as u32 } else { 0 },
            alignment: [aligned(is_wide), aligned(is_wide && !is_shared)],
            order: if is_shared && !self.is_max() { SumOrder::Pairwise } else { SumOrder::Only },
            own: (),
        };
        Ok((work, config))
    }

    fn attributes(&self) -> String {
        match self.geometry.windows {
            Windows::Regular([rows, columns]) => {
                let [kernel, stride, padding, dilation] = [
                    [rows.kernel, columns.kernel],
                    [rows.stride, columns.stride],
                    [rows.padding[0], columns.padding[0]],
                    [rows.dilation, columns.dilation],
                ];
                format!("kernel {kernel:?}, stride {stride:?}, padding {padding:?}, dilation {dilation:?}")
            }
            Windows::Adaptive => "adaptive".into(),
        }
    }

    fn params(&self, kernel: &KernelInfo, (): &(), x: Tensor4, y: Tensor4) -> Result<PoolParams> {
        let g = &self.geometry;
        let axis = |index: usize| match g.windows {
            Windows::Regular(axes) => {
                let axis = axes[index];
                Ok::<_, crate::Error>(PoolAxis {
                    kernel: to_i32("kernel_size", axis.kernel)?,
                    stride: to_i32("stride", axis.stride)?,
                    padding: to_i32("padding", axis.padding[0])?,
                    dilation: to_i32("dilation", axis.dilation)?,
                })
            }
            Windows::Adaptive => Ok(PoolAxis::default()),
        };
        let (count_padding, divisor) = match g.pooled {
            Pooled::Max => (false, None),
            Pooled::Mean { count_padding, divisor } => (count_padding, divisor),
        };
        Ok(PoolParams {
            x,
            y,
            n: to_i32("N", g.n)?,
            c: to_i32("C", g.channels)?,
            h: to_i32("the input height", g.input[0])?,
            w: to_i32("the input width", g.input[1])?,
            h_out: to_i32("the output height", g.output[0])?,
            w_out: to_i32("the output width", g.output[1])?,
            rows: axis(0)?,
            columns: axis(1)?,
            max: self.is_max().into(),
            divisor: to_i32("divisor_override", divisor.unwrap_or(0))?,
            count_padding: count_padding.into(),
            channels_inner: self.channels_inner().into(),
            lanes: self.division(kernel).lanes.ilog2() as i32,
            reserved: 0,
        })
    }
}

/// Makes a plan: chooses a kernel and loads it.
pub(crate) fn plan<T: Element>(op: &'static str, device: &Device, request: &PlanRequest, geometry: PoolGeometry) -> Result<Plan<T>> {
    check_image("the number of elements of an image of x", geometry.input_shape())?;
    check_image("the number of elements of an image of y", geometry.output_shape())?;
    to_i32("the number of pixels of a window", product("the number of pixels of a window", &geometry.window())?)?;
    // Positions reach one window and one stride beyond the padded input.
    for axis in 0..2 {
        let (input, output) = (geometry.input[axis], geometry.output[axis]);
        match geometry.windows {
            Windows::Regular(axes) => {
                let axis = axes[axis];
                let reach = crate::shape::kernel_span(axis.kernel, axis.dilation)?;
                let reach = [input, axis.padding[0], axis.padding[1], axis.stride, reach].into_iter().fold(0, usize::saturating_add);
                to_i32("the padded input size with a window and a stride", reach)?;
            }
            Windows::Adaptive => {
                to_i32("the input size times the output size", product("the input size times the output size", &[input + 1, output])?)?;
            }
        }
    }
    if let Pooled::Mean { divisor: Some(divisor), .. } = geometry.pooled {
        to_i32("divisor_override", divisor)?;
    }
    let PlanRequest { x_format, y_format, batch_invariant, .. } = *request;
    let pooling = Pooling { geometry, dtype: T::DTYPE, x_format, y_format, batch_invariant };
    plan_op(op, device, request, geometry.output_shape(), pooling)
}
