//! How candle's tensors lie in memory, in this crate's terms.

use crate::{Element, Layout, MemoryFormat};
use candle_core::{Layout as CandleLayout, Result, Tensor};

/// To what the memory of a new tensor is aligned, in bytes: by the C library's allocator and, with more, by CUDA's.
const FRESH: usize = 16;

/// The layout of a tensor [N, C, H, W] that kernels read where it is; `None` where it must be copied first.
///
/// A view that is aligned worse than a packed tensor of its shape counts as one to be copied: a plan has a second kernel for
/// such views, which may add up in another order, and the result would differ from that of the copy in its last bits.
pub(super) fn as_it_lies<T: Element>(layout: &CandleLayout) -> Option<Layout> {
    let (Ok(shape), Ok(strides)) = (<[usize; 4]>::try_from(layout.dims()), <[usize; 4]>::try_from(layout.stride())) else {
        return None;
    };
    if shape.contains(&0) {
        return Some(Layout::packed(shape, MemoryFormat::Contiguous));
    }
    [MemoryFormat::Contiguous, MemoryFormat::ChannelsLast].into_iter().find_map(|format| {
        let view = Layout::channel_slice(shape, format, channel_stride(shape, strides, format)?).ok()?;
        let same = |axis: usize| shape[axis] == 1 || view.strides()[axis] == strides[axis];
        let bytes = |count: usize| count.saturating_mul(size_of::<T>());
        // those of images and planes, or of images, rows and pixels: what kernels ask of a format
        let axes: &[usize] = if format == MemoryFormat::Contiguous { &[0, 1] } else { &[0, 2, 3] };
        let alignment = |layout: &Layout| axes.iter().map(|&axis| layout.strides()[axis]).map(|s| lowest_bit(bytes(s))).min();
        let needed = alignment(&Layout::packed(shape, format)).unwrap_or(FRESH);
        let fits = alignment(&view).is_none_or(|got| got >= needed) && lowest_bit(bytes(layout.start_offset())) >= needed;
        ((0..4).all(same) && fits).then_some(view)
    })
}

/// The channels of the tensor that this would be a slice of.
fn channel_stride([n, c, h, w]: [usize; 4], [image, _, row, pixel]: [usize; 4], format: MemoryFormat) -> Option<usize> {
    let whole = |stride: usize, pixels: usize| stride.is_multiple_of(pixels).then_some(stride / pixels);
    if n > 1 {
        return whole(image, h.checked_mul(w)?);
    }
    match format {
        MemoryFormat::ChannelsLast if w > 1 => Some(pixel),
        MemoryFormat::ChannelsLast if h > 1 => Some(row),
        _ => Some(c),
    }
}

/// The largest power of two up to [`FRESH`] that divides a number of bytes.
fn lowest_bit(bytes: usize) -> usize {
    if bytes == 0 { FRESH } else { FRESH.min(1 << bytes.trailing_zeros().min(4)) }
}

/// The tensor itself where kernels read it as it lies; a packed copy otherwise, of channels_last in that format.
pub(super) fn readable<T: Element>(tensor: &Tensor) -> Result<Tensor> {
    if as_it_lies::<T>(tensor.layout()).is_some() {
        return Ok(tensor.clone());
    }
    if tensor.rank() == 4 && tensor.stride()[1] == 1 && tensor.dims()[1] > 1 {
        return tensor.permute((0, 2, 3, 1))?.contiguous()?.permute((0, 3, 1, 2));
    }
    // `contiguous` leaves alone what has no gaps, wherever it starts
    if tensor.is_contiguous() { tensor.force_contiguous() } else { tensor.contiguous() }
}
