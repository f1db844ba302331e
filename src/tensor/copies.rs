//! Copies between formats and dtypes, by the kernels of kernels/rearrange.cu.

use super::{Layout, Tensor, TensorView, TensorViewMut, operand};
use crate::device::kernel::{KernelInfo, family, find};
use crate::device::params::{CastParams, CopyAxis, PixelShuffleParams, TRANSPOSE_PADDING_BYTES, TRANSPOSE_TILE, TransposeParams};
use crate::device::{Access, download, upload};
use crate::error::Result;
use crate::memory;
use crate::shape::to_i32;
use crate::{DType, Element, MemoryFormat, Stream};

/// Rows and columns of the tile in shared memory, and the bytes that pad its rows.
const TILE: usize = TRANSPOSE_TILE as usize;
const PADDING_BYTES: usize = TRANSPOSE_PADDING_BYTES as usize;
/// Bytes of the wider type that a thread of `cast` converts at once, if both sides are aligned.
const CHUNK_BYTES: usize = 16;
const MAX_GRID_Y: usize = 65_535;
const MAX_GRID_X: usize = 1 << 20;

/// Copies `x` into `y` of the same shape, whatever their layouts. The copy is done on return, so
/// that any stream may use `y`. If there are gaps between rows or pixels and the format changes,
/// the copy goes through a packed tensor.
pub(crate) fn copy<T: Element>(x: &TensorView<'_, T>, y: &mut TensorViewMut<'_, T>) -> Result<()> {
    assert_alike(x, &y.as_view());
    if x.format() == y.format() {
        return if runs(x, &y.as_view()).is_some() { cast(x, y) } else { move_rows(x, y) };
    }
    if !is_matrices(x) {
        return copy(&packed(x)?.view(), y);
    }
    if is_matrices(&y.as_view()) {
        return transpose(x, y);
    }
    let mut between = Tensor::uninitialised(x.device(), x.shape(), y.format())?;
    transpose(x, &mut between.view_mut())?;
    move_rows(&between.view(), y)
}

/// Waits for the work that uses either tensor, and returns the stream for a copy that the host waits
/// for. If one of them is not the crate's, that is the default stream: the caller orders its work.
fn stream_for<T: Element, U: Element>(x: &TensorView<'_, T>, y: &TensorView<'_, U>) -> Result<Stream> {
    let device = x.device();
    let uses = [x.uses(), y.uses()];
    uses.iter().flatten().try_for_each(|uses| device.wait_for_uses(Some(uses)))?;
    Ok(if uses.iter().all(Option::is_some) { Stream::of_copies(device) } else { Stream::default_of(device) })
}

/// A packed copy in the same format.
fn packed<T: Element>(x: &TensorView<'_, T>) -> Result<Tensor<T>> {
    let mut copy = Tensor::uninitialised(x.device(), x.shape(), x.format())?;
    move_rows(x, &mut copy.view_mut())?;
    Ok(copy)
}

/// Whether an image is a matrix of channels and pixels.
fn is_matrices<T: Element>(view: &TensorView<'_, T>) -> bool {
    view.layout().has_packed_planes() || view.layout().has_even_pixels()
}

/// Copies between two views of one shape and format, whatever their strides.
fn move_rows<T: Element>(x: &TensorView<'_, T>, y: &mut TensorViewMut<'_, T>) -> Result<()> {
    let y = y.as_view();
    if x.shape().contains(&0) {
        return Ok(());
    }
    let ([n, c, h, w], from, to) = (x.shape(), x.layout().strides(), y.layout().strides());
    let order = match x.format() {
        MemoryFormat::Contiguous => [1, 2, 3],
        MemoryFormat::ChannelsLast => [2, 3, 1],
    };
    let per_chunk = CHUNK_BYTES / size_of::<T>();
    let in_chunks = |view: &TensorView<'_, T>, strides: [usize; 4]| {
        (view.address() as usize).is_multiple_of(CHUNK_BYTES)
            && (0..4).all(|axis| axis == order[2] || x.shape()[axis] == 1 || strides[axis].is_multiple_of(per_chunk))
    };
    let wide = x.shape()[order[2]].is_multiple_of(per_chunk) && in_chunks(x, from) && in_chunks(&y, to);
    let chunk = if wide { per_chunk } else { 1 };
    let axis = |axis: usize| -> Result<CopyAxis> {
        let (size, step) = (x.shape()[axis], if axis == order[2] { chunk } else { 1 });
        // An axis with one position may have any stride.
        let stride = |strides: [usize; 4]| if size == 1 { Ok(0) } else { to_i32("a stride in elements", strides[axis] * step) };
        let last = |strides: [usize; 4]| strides[axis].saturating_mul(size - 1);
        to_i32("the distance of the last element of an image from its first", last(from).max(last(to)))?;
        Ok(CopyAxis { extent: to_i32("a size", size / step)?, x_stride: stride(from)?, y_stride: stride(to)? })
    };
    let once = CopyAxis { extent: 1, ..Default::default() };
    let params = PixelShuffleParams {
        x: x.address(),
        y: y.address(),
        x_batch_stride: from[0] as i64,
        y_batch_stride: to[0] as i64,
        a: [axis(order[0])?, axis(order[1])?, axis(order[2])?],
        b: [once; 3],
        outer: [once; 3],
        batch: to_i32("N", n)?,
        ..Default::default()
    };
    let accesses = to_i32("the number of elements of an image", c * h * w)? as usize / chunk;
    let device = x.device();
    let kernel = find(match (size_of::<T>(), wide) {
        (2, true) => "pixel_runs_16_wide",
        (2, false) => "pixel_runs_16_narrow",
        (_, true) => "pixel_runs_32_wide",
        (_, false) => "pixel_runs_32_narrow",
    });
    if device.admits(kernel.name).is_err() {
        return through_the_host(x, &y);
    }
    let kernel = device.load(kernel)?;
    let grid = [accesses.div_ceil(kernel.info.threads as usize) as u32, n.min(MAX_GRID_Y) as u32, 1];
    let operands = [operand("x", x, Access::Read), operand("y", &y, Access::Write)];
    let stream = stream_for(x, &y)?;
    // SAFETY: the kernel takes PixelShuffleParams; both views are of one shape and format and on this device, as the callers have made
    // sure, and stay valid until the work is waited for
    unsafe { device.launch(&kernel, grid, 0, bytemuck::bytes_of(&params), &operands, &stream)? };
    stream.synchronize()
}

/// Checks what the launches below rely on.
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
        MemoryFormat::Contiguous => (c, pixels, x.layout().strides()[1], y.layout().strides()[3]),
        MemoryFormat::ChannelsLast => (pixels, c, x.layout().strides()[3], y.layout().strides()[1]),
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
    let stream = stream_for(x, &y)?;
    // SAFETY: the kernel takes TransposeParams; both views are of one shape and on this device, as `copy` has made sure, and stay valid
    // until the work is waited for
    unsafe { device.launch(&kernel, grid, shared_bytes, bytemuck::bytes_of(&params), &operands, &stream)? };
    stream.synchronize()
}

/// Copies `x` into `y` of the same shape and format, converting each element. The copy is done on
/// return.
pub(crate) fn cast<T: Element, U: Element>(x: &TensorView<'_, T>, y: &mut TensorViewMut<'_, U>) -> Result<()> {
    if runs(x, &y.as_view()).is_some() {
        let stream = stream_for(x, &y.as_view())?;
        queue_cast(x, y, &stream)?;
        return stream.synchronize();
    }
    // Rows with gaps between them are packed before the conversion, and unpacked after it.
    let dense = packed(x)?;
    if runs(&dense.view(), &y.as_view()).is_some() {
        return cast(&dense.view(), y);
    }
    let mut converted = Tensor::uninitialised(x.device(), x.shape(), y.format())?;
    cast(&dense.view(), &mut converted.view_mut())?;
    move_rows(&converted.view(), y)
}

/// Queues a [`cast`]. The caller keeps both tensors alive until the stream has run it.
pub(crate) fn queue_cast<T: Element, U: Element>(x: &TensorView<'_, T>, y: &mut TensorViewMut<'_, U>, stream: &Stream) -> Result<()> {
    let y = y.as_view();
    assert_alike(x, &y);
    assert_eq!(x.format(), y.format(), "a cast keeps the format");
    if x.shape().contains(&0) {
        return Ok(());
    }
    let Some((batch, length, x_batch, y_batch)) = runs(x, &y) else { return through_the_host(x, &y) };
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
    let queued = unsafe { device.launch(&kernel, grid, 0, bytemuck::bytes_of(&params), &operands, stream) };
    x.record_use(stream);
    y.record_use(stream);
    queued
}

/// Converts without a kernel, for a device on which the kernel is left out. Waits for the work that
/// uses either tensor; the copy is done on return.
fn through_the_host<T: Element, U: Element>(x: &TensorView<'_, T>, y: &TensorView<'_, U>) -> Result<()> {
    let device = x.device();
    let (from, to) = (x.layout(), y.layout());
    let mut values = memory::filled(from.extent(), T::zeroed())?;
    // SAFETY: a valid view is over memory of this extent
    unsafe { download(device, x.address(), x.uses(), bytemuck::cast_slice_mut(&mut values))? };
    // y is written in runs of consecutive elements: memory between its elements belongs to others.
    let order = match to.format() {
        MemoryFormat::Contiguous => [0, 1, 2, 3],
        MemoryFormat::ChannelsLast => [0, 2, 3, 1],
    };
    let [a, b, inner, run] = order.map(|axis| x.shape()[axis]);
    let element = |position: [usize; 4]| {
        let index: usize = (0..4).map(|axis| position[axis] * from.strides()[order[axis]]).sum();
        U::from_f32(values[index].to_f32())
    };
    for index in 0..a * b * inner {
        let (i, j, k) = (index / (b * inner), index / inner % b, index % inner);
        let values: Vec<U> = memory::collect((0..run).map(|last| element([i, j, k, last])))?;
        let start: usize = [i, j, k].into_iter().zip(order).map(|(position, axis)| position * to.strides()[axis]).sum();
        // SAFETY: within the extent of a valid view that this call alone uses
        unsafe { upload(device, y.address() + (start * size_of::<U>()) as u64, y.uses(), bytemuck::cast_slice(&values))? };
    }
    Ok(())
}

/// Two views of one shape and format as the same number of consecutive runs: how many runs, their
/// length, and the distances of their starts. `None` if there are gaps between rows or pixels.
fn runs<T: Element, U: Element>(x: &TensorView<'_, T>, y: &TensorView<'_, U>) -> Option<(usize, usize, usize, usize)> {
    let [n, c, h, w] = x.shape();
    let (a, b) = (x.layout(), y.layout());
    if a.is_packed() && b.is_packed() {
        return Some((1, n * c * h * w, 0, 0));
    }
    let both = |is: fn(&Layout) -> bool| is(&a) && is(&b);
    match a.format() {
        MemoryFormat::Contiguous if both(Layout::has_packed_images) => Some((n, c * h * w, a.strides()[0], b.strides()[0])),
        MemoryFormat::ChannelsLast if both(Layout::is_matrix) => Some((n * h * w, c, a.strides()[3], b.strides()[3])),
        _ => None,
    }
}

/// The kernel that converts between two dtypes.
fn cast_kernel(from: DType, to: DType) -> &'static KernelInfo {
    let mut kernels = family("rearrange");
    kernels.find(|k| k.axes.from == Some(from) && k.dtype == Some(to)).expect("the manifest lists every pair of dtypes")
}
