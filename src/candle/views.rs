//! How candle's tensors lie in memory, in this crate's terms.

use crate::{Element, Layout, MemoryFormat};
use candle_core::{Layout as CandleLayout, Result, Tensor};

/// The alignment of a new tensor's memory, in bytes: the C library's allocator guarantees this, and
/// CUDA's more.
const FRESH: usize = 16;

/// The layout of a tensor [N, C, H, W] that kernels read in place; `None` if it must be copied
/// first.
///
/// A view that is aligned worse than a packed tensor of its shape must be copied, too. A plan has a
/// second kernel for such views, which may add products in another order: the result would differ
/// from that of the copy in its last bits.
pub(super) fn as_it_lies<T: Element>(layout: &CandleLayout) -> Option<Layout> {
    let shape = <[usize; 4]>::try_from(layout.dims()).ok()?;
    let strides = <[usize; 4]>::try_from(layout.stride()).ok()?;
    [MemoryFormat::Contiguous, MemoryFormat::ChannelsLast].into_iter().find_map(|format| {
        let view = Layout::strided(shape, format, strides).ok()?;
        let needed = alignment::<T>(&Layout::packed(shape, format));
        let start = lowest_bit(layout.start_offset().saturating_mul(size_of::<T>()));
        (alignment::<T>(&view) >= needed && start >= needed).then_some(view)
    })
}

/// The alignment, in bytes, of everything that kernels read as a run, provided that the first element
/// is aligned. A run is a plane of a contiguous tensor, a row if there are gaps between rows, or a
/// pixel of a channels_last tensor.
fn alignment<T: Element>(layout: &Layout) -> usize {
    let [image, plane, row, pixel] = layout.strides();
    let runs = match layout.format() {
        MemoryFormat::Contiguous if row == layout.shape()[3] => [image, plane, plane],
        MemoryFormat::Contiguous => [image, plane, row],
        MemoryFormat::ChannelsLast => [image, row, pixel],
    };
    runs.into_iter().map(|stride| lowest_bit(stride.saturating_mul(size_of::<T>()))).min().unwrap_or(FRESH)
}

/// The largest power of two up to [`FRESH`] that divides a number of bytes.
fn lowest_bit(bytes: usize) -> usize {
    if bytes == 0 { FRESH } else { FRESH.min(1 << bytes.trailing_zeros().min(4)) }
}

/// The tensor itself if kernels can read it in place, else a packed copy. The copy of a channels_last
/// tensor is channels_last. A view with a stride of 0, as `expand` makes it, is copied.
pub(super) fn readable<T: Element>(tensor: &Tensor) -> Result<Tensor> {
    if as_it_lies::<T>(tensor.layout()).is_some() {
        return Ok(tensor.clone());
    }
    if tensor.rank() == 4 && tensor.stride()[1] == 1 && tensor.dims()[1] > 1 {
        return tensor.permute((0, 2, 3, 1))?.force_contiguous()?.permute((0, 3, 1, 2));
    }
    // `contiguous` would return a tensor without gaps as it is, even if its first element is not
    // aligned.
    tensor.force_contiguous()
}
