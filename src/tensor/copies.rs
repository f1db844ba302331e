//! Copies between formats and dtypes. kernels/rearrange.cu.

use super::{TensorView, TensorViewMut, operand};
use crate::device::kernel::{KernelInfo, family, find};
use crate::device::params::{CastParams, TransposeParams};
use crate::device::{Access, download, upload};
use crate::error::Result;
use crate::memory;
use crate::shape::to_i32;
use crate::{DType, Element, MemoryFormat, Stream};

/// The tile of `TransposeTile` in rearrange.cu, and the bytes that pad its rows.
const TILE: usize = 32;
const PADDING_BYTES: usize = 4;
/// Of the wider type, that a thread of `cast` converts at once where both sides are aligned.
const CHUNK_BYTES: usize = 16;
const MAX_GRID_Y: usize = 65_535;
const MAX_GRID_X: usize = 1 << 20;

/// Copies `x` into `y` of the same shape, whatever their formats. Done on return, so that any stream may use `y`.
pub(crate) fn copy<T: Element>(x: &TensorView<'_, T>, y: &mut TensorViewMut<'_, T>) -> Result<()> {
    assert_alike(x, &y.as_view());
    if x.format() == y.format() { cast(x, y) } else { transpose(x, y) }
}

/// What the launches below rely on.
fn assert_alike<T: Element, U: Element>(x: &TensorView<'_, T>, y: &TensorView<'_, U>) {
    assert!(x.shape() == y.shape() && x.device() == y.device(), "a copy is between tensors of one shape on one device");
}

fn transpose<T: Element>(x: &TensorView<'_, T>, y: &mut TensorViewMut<'_, T>) -> Result<()> {
    let y = y.as_view();
    let [n, c, h, w] = x.shape();
    if x.shape().contains(&0) {
        return Ok(());
    }
    let pixels = h * w;
    let (rows, columns, x_row, y_row) = match x.format() {
        MemoryFormat::Contiguous => (c, pixels, pixels, y.layout().channel_stride()),
        MemoryFormat::ChannelsLast => (pixels, c, x.layout().channel_stride(), pixels),
    };
    let params = TransposeParams {
        x: x.address(),
        y: y.address(),
        x_batch_stride: x.layout().strides()[0] as i64,
        y_batch_stride: y.layout().strides()[0] as i64,
        x_row_stride: x_row as i64,
        y_row_stride: y_row as i64,
        batch: to_i32("N", n)?,
        rows: to_i32("the rows of the transposed matrix", rows)?,
        columns: to_i32("the columns of the transposed matrix", columns)?,
        reserved: 0,
    };
    let tiles = rows.div_ceil(TILE) * columns.div_ceil(TILE);
    let grid = [to_i32("the number of tiles", tiles)? as u32, n.min(MAX_GRID_Y) as u32, 1];
    let device = x.device();
    let kernel = find(if size_of::<T>() == 2 { "transpose_16" } else { "transpose_32" });
    if device.admits(kernel.name).is_err() {
        return through_the_host(x, &y);
    }
    let kernel = device.load(kernel)?;
    let shared_bytes = (TILE * (TILE * size_of::<T>() + PADDING_BYTES)) as u32;
    let operands = [operand("x", x, Access::Read), operand("y", &y, Access::Write)];
    let stream = Stream::default_of(device);
    // SAFETY: the kernel takes TransposeParams; both views are of one shape and on this device, as `copy` has made sure, and stay valid
    // until the work is waited for
    unsafe { device.launch(&kernel, grid, shared_bytes, bytemuck::bytes_of(&params), &operands, &stream)? };
    stream.synchronize()
}

/// Copies `x` into `y` of the same shape and format, converting each element. Done on return.
pub(crate) fn cast<T: Element, U: Element>(x: &TensorView<'_, T>, y: &mut TensorViewMut<'_, U>) -> Result<()> {
    let stream = Stream::default_of(x.device());
    queue_cast(x, y, &stream)?;
    stream.synchronize()
}

/// As [`cast`], queued: the caller keeps both until the stream has run it.
pub(crate) fn queue_cast<T: Element, U: Element>(x: &TensorView<'_, T>, y: &mut TensorViewMut<'_, U>, stream: &Stream) -> Result<()> {
    let y = y.as_view();
    assert_alike(x, &y);
    assert_eq!(x.format(), y.format(), "a cast keeps the format");
    if x.shape().contains(&0) {
        return Ok(());
    }
    let (batch, length, x_batch, y_batch) = runs(x, &y);
    let params = CastParams {
        x: x.address(),
        y: y.address(),
        x_batch_stride: x_batch as i64,
        y_batch_stride: y_batch as i64,
        length: length as i64,
        batch: batch as i64,
    };
    let device = x.device();
    let kernel = cast_kernel(T::DTYPE, U::DTYPE);
    if device.admits(kernel.name).is_err() {
        return through_the_host(x, &y);
    }
    let kernel = device.load(kernel)?;
    let per_thread = CHUNK_BYTES / size_of::<T>().max(size_of::<U>());
    let blocks = length.div_ceil(kernel.info.threads as usize * per_thread).min(MAX_GRID_X);
    let grid = [blocks as u32, batch.min(MAX_GRID_Y) as u32, 1];
    let operands = [operand("x", x, Access::Read), operand("y", &y, Access::Write)];
    // SAFETY: the kernel takes CastParams; both views are of one shape and format and on this device, as was made sure above, and stay
    // valid until the stream has run it, as the caller promises
    unsafe { device.launch(&kernel, grid, 0, bytemuck::bytes_of(&params), &operands, stream) }
}

/// The same without a kernel, for one that is left out: after all work queued on the device, done on return.
fn through_the_host<T: Element, U: Element>(x: &TensorView<'_, T>, y: &TensorView<'_, U>) -> Result<()> {
    let (device, [n, c, h, w]) = (x.device(), x.shape());
    let (from, to) = (x.layout(), y.layout());
    let mut values = memory::filled(from.extent(), T::zeroed())?;
    // SAFETY: a valid view is over memory of this extent
    unsafe { download(device, x.address(), bytemuck::cast_slice_mut(&mut values))? };
    // y is written in runs of consecutive elements: what lies between them belongs to others
    let [y_batch, _, y_row, y_column] = to.strides();
    let (outer, length) = match to.format() {
        MemoryFormat::Contiguous => (1, c * h * w),
        MemoryFormat::ChannelsLast => (h * w, c),
    };
    let [x_batch, x_channel, x_row, x_column] = from.strides();
    let element = |image: usize, channel: usize, pixel: usize| {
        U::from_f32(values[image * x_batch + channel * x_channel + pixel / w * x_row + pixel % w * x_column].to_f32())
    };
    for image in 0..n {
        for pixel in 0..outer {
            let run = (0..length).map(|index| match to.format() {
                MemoryFormat::Contiguous => element(image, index / (h * w), index % (h * w)),
                MemoryFormat::ChannelsLast => element(image, index, pixel),
            });
            let run: Vec<U> = memory::collect(run)?;
            let start = image * y_batch + pixel / w * y_row + pixel % w * y_column;
            // SAFETY: within the extent of a valid view that this call alone uses
            unsafe { upload(device, y.address() + (start * size_of::<U>()) as u64, bytemuck::cast_slice(&run))? };
        }
    }
    Ok(())
}

/// Two views of one shape and format as equally many consecutive runs: how many, how long, and the distances of their starts.
fn runs<T: Element, U: Element>(x: &TensorView<'_, T>, y: &TensorView<'_, U>) -> (usize, usize, usize, usize) {
    let [n, c, h, w] = x.shape();
    let (a, b) = (x.layout(), y.layout());
    if a.is_packed() && b.is_packed() {
        return (1, n * c * h * w, 0, 0);
    }
    match a.format() {
        MemoryFormat::Contiguous => (n, c * h * w, a.strides()[0], b.strides()[0]),
        MemoryFormat::ChannelsLast => (n * h * w, c, a.channel_stride(), b.channel_stride()),
    }
}

/// The kernel that converts between two dtypes.
fn cast_kernel(from: DType, to: DType) -> &'static KernelInfo {
    let mut kernels = family("rearrange");
    kernels.find(|k| k.axes.from == Some(from) && k.dtype == Some(to)).expect("the manifest lists every pair of dtypes")
}
