//! Tensors: a logical shape [N, C, H, W] in memory of a device, in one of two memory formats.

mod any;
mod copies;
#[cfg(feature = "cuda")]
mod cuda;
mod layout;
mod queued;
#[cfg(feature = "rand")]
mod random;
mod values;
mod view;

pub use any::AnyTensor;
pub(crate) use any::with_tensor;
#[cfg(feature = "bench")]
pub(crate) use copies::queue_cast;
pub use layout::Layout;
pub(crate) use view::operand;
pub use view::{TensorView, TensorViewMut};

use crate::device::{Memory, Uses};
use crate::error::{Error, Result};
use crate::shape::elements;
use crate::{Device, Element, MemoryFormat, Shape, Stream};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// A tensor that owns its memory.
///
/// ```
/// use warpconv::{Device, MemoryFormat, Tensor};
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 2, 1, 2], &[1f32, 2., 10., 20.])?;
/// let y = x.to_format(MemoryFormat::ChannelsLast)?;
/// assert_eq!(y.to_vec_in_memory_order()?, [1., 10., 2., 20.]);
/// assert_eq!(y.to_vec()?, [1., 2., 10., 20.]); // always in NCHW order
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug)]
pub struct Tensor<T: Element> {
    memory: Memory,
    layout: Layout,
    dtype: PhantomData<T>,
}

impl<T: Element> Tensor<T> {
    /// Memory with arbitrary content. Code that writes it must write all of it.
    pub(crate) fn uninitialised(device: &Device, shape: Shape, format: MemoryFormat) -> Result<Self> {
        let bytes = elements(&shape)? * size_of::<T>();
        Ok(Self { memory: device.allocate(bytes)?, layout: Layout::packed(shape, format), dtype: PhantomData })
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::Overflow`], [`Error::OutOfMemory`] or [`Error::Driver`].
    pub fn zeros(device: &Device, shape: Shape, format: MemoryFormat) -> Result<Self> {
        let tensor = Self::uninitialised(device, shape, format)?;
        tensor.memory.fill_zero()?;
        Ok(tensor)
    }

    /// A contiguous tensor of `values` in NCHW order.
    ///
    /// # Errors
    /// [`Error::Length`] when the number of values does not fit the shape; otherwise as
    /// [`Tensor::zeros`].
    pub fn from_slice(device: &Device, shape: Shape, values: &[T]) -> Result<Self> {
        Self::from_slice_in_memory_order(device, shape, MemoryFormat::Contiguous, values)
    }

    /// A tensor of `values` that are in the order of `format`: NCHW when contiguous, NHWC when
    /// channels_last. `shape` is [N, C, H, W] in both formats.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn from_slice_in_memory_order(device: &Device, shape: Shape, format: MemoryFormat, values: &[T]) -> Result<Self> {
        let expected = elements(&shape)?;
        if values.len() != expected {
            return Err(Error::Length { name: "tensor", shape: shape.to_vec(), expected, got: values.len() });
        }
        let tensor = Self::uninitialised(device, shape, format)?;
        tensor.memory.upload(bytemuck::cast_slice(values))?;
        Ok(tensor)
    }

    /// The tensor with another name of its element type, for code that knows `T` only through
    /// [`Element::DTYPE`].
    fn of_same_dtype<U: Element>(self) -> Tensor<U> {
        assert_eq!(T::DTYPE, U::DTYPE, "the elements stay what they are");
        Tensor { memory: self.memory, layout: self.layout, dtype: PhantomData }
    }

    /// The logical shape [N, C, H, W].
    pub fn shape(&self) -> Shape {
        self.layout.shape()
    }

    /// The memory format.
    pub fn format(&self) -> MemoryFormat {
        self.layout.format()
    }

    /// The order of the elements in memory.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The device on which the tensor is.
    pub fn device(&self) -> &Device {
        self.memory.device()
    }

    /// The work that uses the tensor, for whoever queues more of it.
    pub(crate) fn uses(&self) -> &Arc<Uses> {
        self.memory.uses()
    }

    /// Announces that work which other code has queued on `stream` uses the tensor. As
    /// [`TensorView::used_on`].
    ///
    /// # Errors
    /// As [`TensorView::used_on`].
    pub fn used_on(&self, stream: &Stream) -> Result<()> {
        self.view().used_on(stream)
    }

    /// The address of the first element on the device, or 0 if there are no elements. Code that
    /// queues work of its own with it announces that by [`Tensor::used_on`].
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// The whole tensor, for reading.
    pub fn view(&self) -> TensorView<'_, T> {
        TensorView {
            device: self.memory.device(),
            address: self.memory.address(),
            layout: self.layout,
            uses: Some(self.memory.uses()),
            dtype: PhantomData,
        }
    }

    /// The whole tensor, for writing.
    pub fn view_mut(&mut self) -> TensorViewMut<'_, T> {
        TensorViewMut(self.view())
    }

    /// Some of the channels, for reading.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the channels.
    pub fn channels(&self, range: Range<usize>) -> Result<TensorView<'_, T>> {
        self.view().channels(range)
    }

    /// Some of the channels, for writing.
    ///
    /// # Errors
    /// As [`Tensor::channels`].
    pub fn channels_mut(&mut self, range: Range<usize>) -> Result<TensorViewMut<'_, T>> {
        Ok(TensorViewMut(self.view().channels(range)?))
    }

    /// Some of the images (a part of the batch), for reading.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the batch.
    pub fn images(&self, range: Range<usize>) -> Result<TensorView<'_, T>> {
        self.view().images(range)
    }

    /// Some of the images, for writing.
    ///
    /// # Errors
    /// As [`Tensor::images`].
    pub fn images_mut(&mut self, range: Range<usize>) -> Result<TensorViewMut<'_, T>> {
        self.view_mut().images(range)
    }

    /// A rectangle of every image, for reading. As [`TensorView::crop`].
    ///
    /// # Errors
    /// As [`TensorView::crop`].
    pub fn crop(&self, rows: Range<usize>, columns: Range<usize>) -> Result<TensorView<'_, T>> {
        self.view().crop(rows, columns)
    }

    /// A rectangle of every image, for writing. The pixels around it do not change.
    ///
    /// # Errors
    /// As [`TensorView::crop`].
    pub fn crop_mut(&mut self, rows: Range<usize>, columns: Range<usize>) -> Result<TensorViewMut<'_, T>> {
        self.view_mut().crop(rows, columns)
    }

    /// The first `at` channels and the other channels, both for writing: two layers write to one
    /// concatenation without a copy.
    ///
    /// ```
    /// use warpconv::{Device, MemoryFormat, Tensor};
    /// let mut both = Tensor::<f32>::zeros(&Device::best()?, [1, 3, 1, 2], MemoryFormat::ChannelsLast)?;
    /// let (mut first, mut second) = both.split_channels_mut(1)?;
    /// first.write(&[1., 2.])?;
    /// second.write(&[10., 20., 100., 200.])?;
    /// assert_eq!(both.to_vec_in_memory_order()?, [1., 10., 100., 2., 20., 200.]);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Attribute`] when there are fewer than `at` channels.
    pub fn split_channels_mut(&mut self, at: usize) -> Result<(TensorViewMut<'_, T>, TensorViewMut<'_, T>)> {
        self.view_mut().split_channels(at)
    }

    /// Copies `values` into the tensor. They are in NCHW order whatever the format. As
    /// [`TensorViewMut::write`].
    ///
    /// # Errors
    /// As [`TensorViewMut::write`].
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        self.view_mut().write(values)
    }

    /// Copies `values` into the tensor. They are in the order of the elements in memory. As
    /// [`TensorViewMut::write_in_memory_order`].
    ///
    /// # Errors
    /// As [`TensorViewMut::write_in_memory_order`].
    pub fn write_in_memory_order(&mut self, values: &[T]) -> Result<()> {
        self.view_mut().write_in_memory_order(values)
    }

    /// Copies the tensor's values to `values`, in NCHW order whatever the format. As
    /// [`TensorView::read`].
    ///
    /// # Errors
    /// As [`TensorView::read`].
    pub fn read(&self, values: &mut [T]) -> Result<()> {
        self.view().read(values)
    }

    /// Copies the tensor's values to `values`, in the order of the elements in memory. As
    /// [`TensorView::read_in_memory_order`].
    ///
    /// # Errors
    /// As [`TensorView::read_in_memory_order`].
    pub fn read_in_memory_order(&self, values: &mut [T]) -> Result<()> {
        self.view().read_in_memory_order(values)
    }

    /// The values in NCHW order. As [`TensorView::to_vec`].
    ///
    /// # Errors
    /// As [`TensorView::to_vec`].
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.view().to_vec()
    }

    /// The values in the order of the elements in memory: NCHW when contiguous, NHWC when
    /// channels_last.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_vec_in_memory_order(&self) -> Result<Vec<T>> {
        self.view().to_vec_in_memory_order()
    }

    /// A copy in another format, or in the same.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or a failed launch.
    pub fn to_format(&self, format: MemoryFormat) -> Result<Tensor<T>> {
        self.view().to_format(format)
    }

    /// A copy in another dtype. Each element is rounded once, to nearest, ties to even.
    ///
    /// # Errors
    /// As [`Tensor::to_format`].
    pub fn cast<U: Element>(&self) -> Result<Tensor<U>> {
        self.view().cast()
    }

    /// A copy on another device, through the host.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`] and [`Tensor::zeros`].
    pub fn to_device(&self, device: &Device) -> Result<Tensor<T>> {
        Tensor::from_slice_in_memory_order(device, self.shape(), self.format(), &self.to_vec_in_memory_order()?)
    }
}
