//! Views: borrowed tensors, some of their channels or images, and memory that others own.

use super::layout::may_meet;
use super::{Layout, Tensor};
use crate::device::{Access, Operand, Uses, wrong_device};
use crate::error::{Error, Result};
use crate::shape::elements;
use crate::{Device, DeviceKind, Element, MemoryFormat, Shape, Stream};
use std::marker::PhantomData;
use std::ops::Range;

/// A tensor for reading: a borrowed [`Tensor`], a part of one, or memory that a service owns.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a, T: Element> {
    pub(super) device: &'a Device,
    pub(super) address: u64,
    pub(super) layout: Layout,
    /// The work that uses the memory. None if it is not the crate's.
    pub(super) uses: Option<&'a Uses>,
    pub(super) dtype: PhantomData<&'a T>,
}

/// A tensor for writing: an exclusively borrowed [`Tensor`], a part of one, or memory that a
/// service owns.
#[derive(Debug)]
pub struct TensorViewMut<'a, T: Element>(pub(super) TensorView<'a, T>);

impl<'a, T: Element> TensorView<'a, T> {
    /// A view of memory that the caller owns. This is the stable way to run on a service's own
    /// buffers.
    ///
    /// # Errors
    /// [`Error::Alignment`] when the address is not a multiple of the element's size;
    /// [`Error::Overflow`] for a layout of more elements than any memory holds.
    ///
    /// # Safety
    /// From `address` on there are [`Layout::extent`] elements of type `T` in initialised memory of
    /// `device`. Nothing frees or writes that memory while the view, or work queued with it, is in
    /// use.
    pub unsafe fn from_raw(device: &'a Device, address: u64, layout: Layout) -> Result<Self> {
        if !address.is_multiple_of(size_of::<T>() as u64) {
            return Err(Error::Alignment { name: "the view", address, alignment: size_of::<T>() });
        }
        elements(&layout.shape())?;
        if layout.extent() > isize::MAX as usize / 8 {
            return Err(Error::Overflow { what: "the extent of a view", values: format!("{layout:?}") });
        }
        Ok(Self { device, address, layout, uses: None, dtype: PhantomData })
    }

    /// A view of host memory, for reading on a host device without a copy, such as a picture that a
    /// decoder wrote.
    ///
    /// ```
    /// use warpconv::{Conv2d, Conv2dSpec, Device, Inputs, Layer, Layout, MemoryFormat, Parameter, TensorView};
    /// let device = Device::host()?;
    /// let pixels = vec![1f32; 3 * 8 * 8];
    /// let x = TensorView::from_host_slice(&device, &pixels, Layout::packed([1, 3, 8, 8], MemoryFormat::ChannelsLast))?;
    /// let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1, 3, 1, 1], &[0.5f32; 3])?)?;
    /// assert_eq!(layer.forward(&Inputs::new(x))?.to_vec()?, [1.5; 64]);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::WrongDevice`] for a GPU; [`Error::Length`] when the slice is shorter than the
    /// layout's [`Layout::extent`]; [`Error::Overflow`].
    pub fn from_host_slice(device: &'a Device, values: &'a [T], layout: Layout) -> Result<Self> {
        check_host_slice(device, values.len(), &layout)?;
        // SAFETY: the slice is borrowed for as long as the view, is initialised and long enough, and work on a host device is done when
        // it is queued
        unsafe { Self::from_raw(device, values.as_ptr() as u64, layout) }
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

    /// The device on which the elements are.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The address of the first element. Code that queues work of its own with it announces that by
    /// [`TensorView::used_on`].
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Announces that work which other code has queued on `stream` uses the tensor: freeing and
    /// reading the tensor then wait for it. Runs and copies of this crate announce themselves.
    ///
    /// # Errors
    /// [`Error::WrongDevice`] for a stream of another device.
    pub fn used_on(&self, stream: &Stream) -> Result<()> {
        if stream.device() != self.device {
            return Err(wrong_device("the stream", self.device, stream.device()));
        }
        self.record_use(stream);
        Ok(())
    }

    /// Records that work which is queued on `stream` uses the memory.
    pub(crate) fn record_use(&self, stream: &Stream) {
        if let Some(uses) = self.uses {
            uses.record(stream);
        }
    }

    /// The work that uses the memory. None if it is not the crate's.
    pub(crate) fn uses(&self) -> Option<&'a Uses> {
        self.uses
    }

    /// Some of the channels.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the channels.
    pub fn channels(&self, range: Range<usize>) -> Result<TensorView<'a, T>> {
        self.layout.channels(range).map(|part| self.part(part))
    }

    /// Some of the images: a part of the batch.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the batch.
    pub fn images(&self, range: Range<usize>) -> Result<TensorView<'a, T>> {
        self.layout.images(range).map(|part| self.part(part))
    }

    /// A rectangle of every image, read in place: a region of interest of a picture, without a
    /// copy.
    ///
    /// ```
    /// use warpconv::{Device, Tensor};
    /// let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
    /// let x = Tensor::from_slice(&Device::best()?, [1, 1, 3, 4], &values)?;
    /// assert_eq!(x.crop(1..3, 1..4)?.to_vec()?, [5., 6., 7., 9., 10., 11.]);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Attribute`] when a range is not within the rows or the columns.
    pub fn crop(&self, rows: Range<usize>, columns: Range<usize>) -> Result<TensorView<'a, T>> {
        self.layout.crop(rows, columns).map(|part| self.part(part))
    }

    /// A part that starts this number of elements after the first.
    fn part(&self, (start, layout): (usize, Layout)) -> TensorView<'a, T> {
        TensorView { address: self.address + (start * size_of::<T>()) as u64, layout, ..*self }
    }

    /// The addresses that both views cover, if an element may belong to both.
    pub(crate) fn overlap<U: Element>(&self, other: &TensorView<'_, U>) -> Option<(u64, u64)> {
        let (start, end) = (self.address.max(other.address), self.end().min(other.end()));
        if start >= end || self.device != other.device || self.is_beside(other) {
            return None;
        }
        Some((start, end))
    }

    /// The address after the last element.
    fn end(&self) -> u64 {
        self.address.saturating_add((self.layout.extent() * size_of::<T>()) as u64)
    }

    /// Whether both are parts of one tensor and share no element.
    fn is_beside<U: Element>(&self, other: &TensorView<'_, U>) -> bool {
        let bytes = self.address.abs_diff(other.address) as usize;
        let (first, second) = if self.address <= other.address { (&self.layout, &other.layout) } else { (&other.layout, &self.layout) };
        T::DTYPE == U::DTYPE && bytes.is_multiple_of(size_of::<T>()) && !may_meet(first, second, bytes / size_of::<T>())
    }
}

impl<'a, T: Element> TensorViewMut<'a, T> {
    /// A view, for writing, of memory that the caller owns.
    ///
    /// # Errors
    /// As [`TensorView::from_raw`].
    ///
    /// # Safety
    /// As [`TensorView::from_raw`] (the elements are initialised here as well, since safe methods
    /// read them). In addition, nothing else reads the elements while the view, or work queued with
    /// it, is in use.
    pub unsafe fn from_raw(device: &'a Device, address: u64, layout: Layout) -> Result<Self> {
        // SAFETY: passed on to the caller
        Ok(Self(unsafe { TensorView::from_raw(device, address, layout)? }))
    }

    /// A view of host memory, for writing on a host device without a copy. As
    /// [`TensorView::from_host_slice`].
    ///
    /// # Errors
    /// As [`TensorView::from_host_slice`].
    pub fn from_host_slice(device: &'a Device, values: &'a mut [T], layout: Layout) -> Result<Self> {
        let address = values.as_mut_ptr() as u64;
        check_host_slice(device, values.len(), &layout)?;
        // SAFETY: the slice is exclusively borrowed for as long as the view, is initialised and long enough, and work on a host device
        // is done when it is queued
        unsafe { Self::from_raw(device, address, layout) }
    }

    /// Some of the images.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the batch.
    pub fn images(self, range: Range<usize>) -> Result<TensorViewMut<'a, T>> {
        Ok(Self(self.0.images(range)?))
    }

    /// The first `at` channels and the other channels. As [`Tensor::split_channels_mut`].
    ///
    /// # Errors
    /// [`Error::Attribute`] when there are fewer than `at` channels.
    pub fn split_channels(self, at: usize) -> Result<(TensorViewMut<'a, T>, TensorViewMut<'a, T>)> {
        let all = self.shape()[1];
        Ok((Self(self.0.channels(0..at)?), Self(self.0.channels(at..all)?)))
    }

    /// A rectangle of every image. The pixels around it do not change.
    ///
    /// # Errors
    /// As [`TensorView::crop`].
    pub fn crop(self, rows: Range<usize>, columns: Range<usize>) -> Result<TensorViewMut<'a, T>> {
        Ok(Self(self.0.crop(rows, columns)?))
    }

    /// The same elements, for writing, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> TensorViewMut<'_, T> {
        TensorViewMut(self.0)
    }

    /// The same elements, for reading.
    pub fn as_view(&self) -> TensorView<'_, T> {
        self.0
    }

    /// The same elements, for reading from now on.
    pub fn into_view(self) -> TensorView<'a, T> {
        self.0
    }

    /// The logical shape [N, C, H, W].
    pub fn shape(&self) -> Shape {
        self.0.shape()
    }

    /// The memory format.
    pub fn format(&self) -> MemoryFormat {
        self.0.format()
    }

    /// The order of the elements in memory.
    pub fn layout(&self) -> Layout {
        self.0.layout
    }

    /// Some of the channels.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the channels.
    pub fn channels(self, range: Range<usize>) -> Result<TensorViewMut<'a, T>> {
        Ok(Self(self.0.channels(range)?))
    }
}

/// Refuses host memory that is too short, or that the device cannot access.
fn check_host_slice(device: &Device, got: usize, layout: &Layout) -> Result<()> {
    if device.kind() != DeviceKind::Host {
        let got = "host memory, which only a host device reaches: copy it (Tensor::from_slice)".into();
        return Err(Error::WrongDevice { name: "the slice", expected: device.to_string(), got });
    }
    let expected = layout.extent();
    if got < expected {
        return Err(Error::Length { name: "the slice", shape: layout.shape().to_vec(), expected, got });
    }
    Ok(())
}

impl<'a, T: Element> From<&'a Tensor<T>> for TensorView<'a, T> {
    fn from(tensor: &'a Tensor<T>) -> Self {
        tensor.view()
    }
}

impl<'a, T: Element> From<&'a mut Tensor<T>> for TensorViewMut<'a, T> {
    fn from(tensor: &'a mut Tensor<T>) -> Self {
        tensor.view_mut()
    }
}

/// The view as an operand, for the checker of a launch.
pub(crate) fn operand<T: Element>(name: &'static str, view: &TensorView<'_, T>, access: Access) -> Operand {
    let layout = view.layout();
    Operand {
        name,
        address: view.address(),
        element_bytes: size_of::<T>() as u32,
        shape: layout.shape(),
        strides: layout.strides(),
        access,
    }
}
