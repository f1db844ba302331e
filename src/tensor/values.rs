//! Copies of values from and to the host, and copies of views in another format or dtype.

use super::{Tensor, TensorView, TensorViewMut, copies};
use crate::device::{download, upload};
use crate::error::{Error, Result};
use crate::shape::elements;
use crate::{Element, MemoryFormat, Shape, memory};

impl<T: Element> TensorView<'_, T> {
    /// The values in NCHW order.
    ///
    /// Waits for the streams on which work uses the tensor, and for no others. For a view of memory
    /// that is not the crate's, such as [`TensorView::from_raw`], waits for all work of the device.
    ///
    /// # Errors
    /// [`Error::Driver`] when that work or the copy fails; [`Error::Capturing`] when a stream that
    /// uses the tensor is being captured, since it cannot be waited for.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut values = memory::filled(elements(&self.shape())?, T::zeroed())?;
        self.read(&mut values)?;
        Ok(values)
    }

    /// The values in the order of the elements in memory, without the gaps between them: NCHW when
    /// contiguous, NHWC when channels_last.
    ///
    /// # Errors
    /// As [`TensorView::to_vec`].
    pub fn to_vec_in_memory_order(&self) -> Result<Vec<T>> {
        let mut values = memory::filled(elements(&self.shape())?, T::zeroed())?;
        self.read_in_memory_order(&mut values)?;
        Ok(values)
    }

    /// Copies the values to `values`, in NCHW order whatever the format. Waits as
    /// [`TensorView::to_vec`]; the copy is done on return. Contiguous tensors without gaps are copied in one
    /// piece. Others are first rearranged on the device, in additional memory of the same size.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` does not have as many elements; [`Error::OutOfMemory`];
    /// otherwise as [`TensorView::to_vec`].
    pub fn read(&self, values: &mut [T]) -> Result<()> {
        self.read_as(MemoryFormat::Contiguous, values)
    }

    /// Copies the values to `values` in the order of the elements in memory, without the gaps
    /// between them: NCHW when contiguous, NHWC when channels_last. The copy is done on return.
    /// Views without gaps are copied in one piece.
    ///
    /// # Errors
    /// As [`TensorView::read`].
    pub fn read_in_memory_order(&self, values: &mut [T]) -> Result<()> {
        self.read_as(self.format(), values)
    }

    fn read_as(&self, format: MemoryFormat, values: &mut [T]) -> Result<()> {
        check_values(self.shape(), values.len())?;
        if self.format() == format && self.layout.is_packed() {
            // SAFETY: a packed view is over as many elements as its shape has, and nobody writes
            // them while it is there
            return unsafe { download(self.device, self.address, self.uses, bytemuck::cast_slice_mut(values)) };
        }
        // Another stream may still write the tensor.
        self.device.wait_for_uses(self.uses)?;
        let packed = self.to_format(format)?;
        // SAFETY: as above
        unsafe { download(self.device, packed.address(), Some(packed.uses()), bytemuck::cast_slice_mut(values)) }
    }

    /// Passes the values to `take` in NCHW order, in pieces, so that no second copy of a large
    /// tensor is held. Waits as [`TensorView::to_vec`].
    ///
    /// # Errors
    /// As [`TensorView::to_vec`]; errors of `take`.
    pub(crate) fn for_each_piece(&self, mut take: impl FnMut(&[T]) -> Result<()>) -> Result<()> {
        /// The approximate number of elements of a piece.
        const PIECE: usize = 1 << 20;
        let [n, c, h, w] = self.shape();
        let count = elements(&self.shape())?;
        if count == 0 {
            return Ok(());
        }
        if self.layout.is_packed() && (self.format() == MemoryFormat::Contiguous || c == 1 || h * w == 1) {
            let mut piece = memory::filled(count.min(PIECE), T::zeroed())?;
            for start in (0..count).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(count - start)];
                // SAFETY: the piece lies within the view, which is packed and over as many elements
                // as its shape has
                unsafe {
                    download(self.device, self.address + (start * size_of::<T>()) as u64, self.uses, bytemuck::cast_slice_mut(piece))?
                };
                take(piece)?;
            }
            return Ok(());
        }
        // Another stream may still write the tensor.
        self.device.wait_for_uses(self.uses)?;
        let channels = (PIECE / (h * w)).clamp(1, c);
        for image in 0..n {
            let image = self.images(image..image + 1)?;
            for first in (0..c).step_by(channels) {
                let part = image.channels(first..c.min(first + channels))?;
                take(&part.to_format(MemoryFormat::Contiguous)?.to_vec_in_memory_order()?)?;
            }
        }
        Ok(())
    }

    /// A packed copy in `format`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or a failed launch.
    pub fn to_format(&self, format: MemoryFormat) -> Result<Tensor<T>> {
        let mut copy = Tensor::uninitialised(self.device, self.shape(), format)?;
        copies::copy(self, &mut copy.view_mut())?;
        Ok(copy)
    }

    /// A packed copy in another dtype. Each element is rounded once, to nearest, ties to even.
    ///
    /// # Errors
    /// As [`TensorView::to_format`].
    pub fn cast<U: Element>(&self) -> Result<Tensor<U>> {
        let mut copy = Tensor::uninitialised(self.device, self.shape(), self.format())?;
        copies::cast(self, &mut copy.view_mut())?;
        Ok(copy)
    }
}

impl<T: Element> TensorViewMut<'_, T> {
    /// Copies `values`, in NCHW order, into the elements. Waits for the work that uses the tensor, as
    /// [`TensorView::to_vec`]; the copy is done on return.
    ///
    /// ```
    /// use warpconv::{Device, MemoryFormat, Tensor};
    /// let mut x = Tensor::<f32>::zeros(&Device::best()?, [1, 2, 1, 2], MemoryFormat::ChannelsLast)?;
    /// x.view_mut().write(&[1., 2., 10., 20.])?;
    /// assert_eq!(x.to_vec_in_memory_order()?, [1., 10., 2., 20.]);
    /// x.channels_mut(1..2)?.write(&[7., 8.])?;
    /// assert_eq!(x.to_vec()?, [1., 2., 7., 8.]);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] when there are not as many values as elements; [`Error::OutOfMemory`] and
    /// [`Error::Driver`].
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        self.write_as(MemoryFormat::Contiguous, values)
    }

    /// Copies `values` into the elements in the order of these in memory: NCHW when contiguous,
    /// NHWC when channels_last. Memory between the elements does not change. Waits for the work that
    /// uses the tensor, as [`TensorView::to_vec`]; the copy is done on return.
    ///
    /// ```
    /// use warpconv::{Device, MemoryFormat, Tensor};
    /// // a camera's pixels, as they come
    /// let mut x = Tensor::<f32>::zeros(&Device::best()?, [1, 3, 1, 2], MemoryFormat::ChannelsLast)?;
    /// x.write_in_memory_order(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])?;
    /// assert_eq!(x.to_vec()?, [0.1, 0.4, 0.2, 0.5, 0.3, 0.6]);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`TensorViewMut::write`].
    pub fn write_in_memory_order(&mut self, values: &[T]) -> Result<()> {
        self.write_as(self.format(), values)
    }

    /// Copies values that are in the order of `format`.
    fn write_as(&mut self, format: MemoryFormat, values: &[T]) -> Result<()> {
        let (shape, layout) = (self.shape(), self.0.layout);
        check_values(shape, values.len())?;
        if layout.format() == format && layout.is_packed() {
            // SAFETY: a packed view is over as many elements as its shape has, and this one is
            // exclusive
            return unsafe { upload(self.0.device, self.0.address, self.0.uses, bytemuck::cast_slice(values)) };
        }
        let packed = Tensor::from_slice_in_memory_order(self.0.device, shape, format, values)?;
        self.0.device.wait_for_uses(self.0.uses)?;
        copies::copy(&packed.view(), self)
    }
}

/// Refuses values whose number does not fit a shape.
fn check_values(shape: Shape, got: usize) -> Result<()> {
    let expected = elements(&shape)?;
    if got == expected { Ok(()) } else { Err(Error::Length { name: "values", shape: shape.to_vec(), expected, got }) }
}
