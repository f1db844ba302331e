//! Views of memory that cudarc owns.

use super::{Layout, TensorView, TensorViewMut};
use crate::error::{Error, Result};
use crate::{Device, Element, Stream};

impl<'a, T: Element> TensorView<'a, T> {
    /// A view of a cudarc slice or view, for work on `stream`. Like cudarc's own `device_ptr`, it
    /// makes the stream wait for writes to the slice. The second value that it returns must be
    /// dropped after the work is queued: that marks the slice as read by the stream. (While the
    /// stream is being captured, cudarc's event tracking must be off.)
    ///
    /// # Errors
    /// [`Error::WrongDevice`] when the slice or the stream is of another context; [`Error::Length`]
    /// when the slice is shorter than the layout.
    ///
    /// # Safety
    /// The layout's elements are initialised. The caller orders work on other streams than
    /// `stream`. The second returned value is dropped after the last work with the view is queued,
    /// and before the slice is used again; if the stream is captured, before the capture begins.
    pub unsafe fn from_cuda(
        device: &'a Device,
        slice: &'a impl cudarc::driver::DevicePtr<T>,
        layout: Layout,
        stream: &'a Stream,
    ) -> Result<(Self, cudarc::driver::SyncOnDrop<'a>)> {
        check_slice(device, slice, &layout)?;
        let (address, sync) = slice.device_ptr(cuda_stream(device, stream)?);
        // SAFETY: the slice is borrowed and long enough; the rest is the caller's promise
        Ok((unsafe { Self::from_raw(device, address, layout)? }, sync))
    }
}

impl<'a, T: Element> TensorViewMut<'a, T> {
    /// A view of a cudarc slice or view that work on `stream` will write. As
    /// [`TensorView::from_cuda`], except that the second returned value marks the slice as written
    /// by the stream.
    ///
    /// # Errors
    /// As [`TensorView::from_cuda`].
    ///
    /// # Safety
    /// As [`TensorView::from_cuda`]; nothing else reads the elements meanwhile.
    pub unsafe fn from_cuda(
        device: &'a Device,
        slice: &'a mut impl cudarc::driver::DevicePtrMut<T>,
        layout: Layout,
        stream: &'a Stream,
    ) -> Result<(Self, cudarc::driver::SyncOnDrop<'a>)> {
        check_slice(device, slice, &layout)?;
        let (address, sync) = slice.device_ptr_mut(cuda_stream(device, stream)?);
        // SAFETY: the slice is exclusively borrowed and long enough; the rest is the caller's
        // promise
        Ok((unsafe { Self::from_raw(device, address, layout)? }, sync))
    }
}

/// Refuses a cudarc slice of another context, or one that is too short.
fn check_slice<T: Element>(device: &Device, slice: &impl cudarc::driver::DeviceSlice<T>, layout: &Layout) -> Result<()> {
    crate::device::cuda::check_context(device, "the slice", slice.stream().context())?;
    let expected = layout.extent();
    if slice.len() < expected {
        return Err(Error::Length { name: "the slice", shape: layout.shape().to_vec(), expected, got: slice.len() });
    }
    Ok(())
}

fn cuda_stream<'a>(device: &Device, stream: &'a Stream) -> Result<&'a cudarc::driver::CudaStream> {
    let wrong = || Error::WrongDevice { name: "the stream", expected: device.to_string(), got: stream.device().to_string() };
    let cuda = stream.as_cuda().ok_or_else(wrong)?;
    crate::device::cuda::check_stream(device, cuda)?;
    Ok(cuda)
}
