//! Tensors: a logical shape [N, C, H, W] over memory of a device, in one of two memory formats.

mod copies;

pub(crate) use copies::queue_cast;

#[cfg(feature = "cuda")]
use crate::Stream;
use crate::device::{Access, Memory, Operand, download, upload};
use crate::error::{Error, Result};
use crate::shape::elements;
use crate::{DType, Device, DeviceKind, Element, MemoryFormat, Shape, memory};
use half::{bf16, f16};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use std::marker::PhantomData;
use std::ops::Range;

/// How the elements of a tensor lie in memory.
///
/// A view of some channels of a wider tensor has that tensor's channels as its `channel_stride`: a slice of a concatenation
/// is read and written in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    shape: Shape,
    format: MemoryFormat,
    channel_stride: usize,
}

impl Layout {
    /// Elements packed without gaps.
    pub fn packed(shape: Shape, format: MemoryFormat) -> Self {
        Self { shape, format, channel_stride: shape[1] }
    }

    /// The first channels of a tensor that has `channel_stride` channels.
    ///
    /// # Errors
    /// [`Error::Attribute`] when that is fewer than the shape's.
    pub fn channel_slice(shape: Shape, format: MemoryFormat, channel_stride: usize) -> Result<Self> {
        if channel_stride < shape[1] {
            return Err(Error::Attribute {
                name: "channel_stride",
                value: channel_stride.to_string(),
                requirement: "at least the number of channels",
            });
        }
        elements(&[shape[0], channel_stride, shape[2], shape[3]])?;
        Ok(Self { shape, format, channel_stride })
    }

    /// The logical shape [N, C, H, W].
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The memory format.
    pub fn format(&self) -> MemoryFormat {
        self.format
    }

    /// Channels of the tensor that this is a slice of.
    pub fn channel_stride(&self) -> usize {
        self.channel_stride
    }

    /// Distances of neighbours along N, C, H and W, in elements; `usize::MAX` for one that does not fit.
    pub fn strides(&self) -> [usize; 4] {
        let [_, _, h, w] = self.shape;
        let (channels, pixels) = (self.channel_stride, h.saturating_mul(w));
        let image = channels.saturating_mul(pixels);
        match self.format {
            MemoryFormat::Contiguous => [image, pixels, w, 1],
            MemoryFormat::ChannelsLast => [image, 1, w.saturating_mul(channels), channels],
        }
    }

    /// Elements from the first to the last, both included; `usize::MAX` where they are more than that. No tensor is so large, and
    /// no view can be made of such a layout.
    ///
    /// ```
    /// use warpconv::{Layout, MemoryFormat};
    /// assert_eq!(Layout::packed([2, 3, 4, 5], MemoryFormat::Contiguous).extent(), 120);
    /// assert_eq!(Layout::packed([usize::MAX; 4], MemoryFormat::ChannelsLast).extent(), usize::MAX);
    /// ```
    pub fn extent(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        let distances = self.strides().into_iter().zip(self.shape).map(|(stride, size)| stride.saturating_mul(size - 1));
        distances.fold(1, usize::saturating_add)
    }

    /// Whether no gaps lie between the elements.
    pub fn is_packed(&self) -> bool {
        self.channel_stride == self.shape[1]
    }
}

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

/// A tensor that is read: a borrowed [`Tensor`], some of its channels, or memory that a service owns.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a, T: Element> {
    device: &'a Device,
    address: u64,
    layout: Layout,
    dtype: PhantomData<&'a T>,
}

/// A tensor that is written: an exclusively borrowed [`Tensor`], some of its channels, or memory that a service owns.
#[derive(Debug)]
pub struct TensorViewMut<'a, T: Element>(TensorView<'a, T>);

impl<T: Element> Tensor<T> {
    /// Memory with arbitrary content; what writes it must write all of it.
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
    /// [`Error::Length`] when their number is not the shape's; otherwise as [`Tensor::zeros`].
    pub fn from_slice(device: &Device, shape: Shape, values: &[T]) -> Result<Self> {
        Self::from_slice_in_memory_order(device, shape, MemoryFormat::Contiguous, values)
    }

    /// A tensor of `values` that lie in the order of `format`: NCHW when contiguous, NHWC when channels_last. `shape` is
    /// [N, C, H, W] in both.
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

    /// Uniform random values in [-1, 1), the same for the same seed on every device and in every format.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    pub fn rand(device: &Device, shape: Shape, format: MemoryFormat, seed: u64) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        Self::generate(device, shape, format, || (rng.next_u32() >> 8) as f32 * 2f32.powi(-23) - 1.0)
    }

    /// Normally distributed random values (mean 0, variance 1), the same for the same seed on every device and in every
    /// format.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    pub fn randn(device: &Device, shape: Shape, format: MemoryFormat, seed: u64) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        Self::generate(device, shape, format, || StandardNormal.sample(&mut rng))
    }

    fn generate(device: &Device, shape: Shape, format: MemoryFormat, mut next: impl FnMut() -> f32) -> Result<Self> {
        let values = memory::collect((0..elements(&shape)?).map(|_| T::from_f32(next())))?;
        let tensor = Self::from_slice(device, shape, &values)?;
        if format == MemoryFormat::Contiguous { Ok(tensor) } else { tensor.to_format(format) }
    }

    /// The logical shape [N, C, H, W].
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// The memory format.
    pub fn format(&self) -> MemoryFormat {
        self.layout.format
    }

    /// How the elements lie in memory.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The device that holds it.
    pub fn device(&self) -> &Device {
        self.memory.device()
    }

    /// The address of the first element on the device; 0 when there is none.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// All of it, to be read.
    pub fn view(&self) -> TensorView<'_, T> {
        TensorView { device: self.memory.device(), address: self.memory.address(), layout: self.layout, dtype: PhantomData }
    }

    /// All of it, to be written.
    pub fn view_mut(&mut self) -> TensorViewMut<'_, T> {
        TensorViewMut(self.view())
    }

    /// Some of its channels, to be read.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the channels.
    pub fn channels(&self, range: Range<usize>) -> Result<TensorView<'_, T>> {
        self.view().channels(range)
    }

    /// Some of its channels, to be written.
    ///
    /// # Errors
    /// As [`Tensor::channels`].
    pub fn channels_mut(&mut self, range: Range<usize>) -> Result<TensorViewMut<'_, T>> {
        Ok(TensorViewMut(self.view().channels(range)?))
    }

    /// Some of its images, to be read: a part of the batch.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the batch.
    pub fn images(&self, range: Range<usize>) -> Result<TensorView<'_, T>> {
        self.view().images(range)
    }

    /// Some of its images, to be written.
    ///
    /// # Errors
    /// As [`Tensor::images`].
    pub fn images_mut(&mut self, range: Range<usize>) -> Result<TensorViewMut<'_, T>> {
        self.view_mut().images(range)
    }

    /// The first `at` channels and the rest, both to be written: two layers write to one concatenation without a copy.
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

    /// Copies `values`, in NCHW order whatever the format, into the tensor. As [`TensorViewMut::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        self.view_mut().write(values)
    }

    /// Copies `values`, in the order in which the elements lie in memory, into the tensor. As
    /// [`TensorViewMut::write_in_memory_order`].
    ///
    /// # Errors
    /// As there.
    pub fn write_in_memory_order(&mut self, values: &[T]) -> Result<()> {
        self.view_mut().write_in_memory_order(values)
    }

    /// Copies its values, in NCHW order whatever the format, to `values`. As [`TensorView::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, values: &mut [T]) -> Result<()> {
        self.view().read(values)
    }

    /// Copies its values, in the order in which they lie in memory, to `values`. As [`TensorView::read_in_memory_order`].
    ///
    /// # Errors
    /// As there.
    pub fn read_in_memory_order(&self, values: &mut [T]) -> Result<()> {
        self.view().read_in_memory_order(values)
    }

    /// Its values in NCHW order, after all work queued on the device.
    ///
    /// # Errors
    /// [`Error::Driver`] when that work or the copy fails.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.view().to_vec()
    }

    /// Its values in the order in which they lie in memory: NCHW when contiguous, NHWC when channels_last.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_vec_in_memory_order(&self) -> Result<Vec<T>> {
        self.view().to_vec_in_memory_order()
    }

    /// A copy in another format (or in the same).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or a failed launch.
    pub fn to_format(&self, format: MemoryFormat) -> Result<Tensor<T>> {
        self.view().to_format(format)
    }

    /// A copy in another dtype, each element rounded once to nearest, ties to even.
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

impl<'a, T: Element> TensorView<'a, T> {
    /// A view of memory that the caller owns: the stable way to run on a service's own buffers.
    ///
    /// # Errors
    /// [`Error::Alignment`] when the address is not a multiple of the element's size; [`Error::Overflow`] for a layout of more
    /// elements than any memory holds.
    ///
    /// # Safety
    /// From `address` on, [`Layout::extent`] elements of type `T` must be initialised memory of `device`, which nobody frees or
    /// writes while the view, or work queued with it, is in use.
    pub unsafe fn from_raw(device: &'a Device, address: u64, layout: Layout) -> Result<Self> {
        if !address.is_multiple_of(size_of::<T>() as u64) {
            return Err(Error::Alignment { name: "the view", address, alignment: size_of::<T>() });
        }
        let [n, _, h, w] = layout.shape;
        elements(&[n, layout.channel_stride, h, w])?;
        Ok(Self { device, address, layout, dtype: PhantomData })
    }

    /// The elements of host memory, to be read on a host device without a copy: pictures that a decoder wrote, for instance.
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
    /// [`Error::WrongDevice`] for a GPU; [`Error::Length`] when the slice is shorter than the layout's [`Layout::extent`];
    /// [`Error::Overflow`].
    pub fn from_host_slice(device: &'a Device, values: &'a [T], layout: Layout) -> Result<Self> {
        check_host_slice(device, values.len(), &layout)?;
        // SAFETY: the slice is borrowed for as long as the view, is initialised and long enough, and work on a host device is done when
        // it is queued
        unsafe { Self::from_raw(device, values.as_ptr() as u64, layout) }
    }

    /// A view of a cudarc slice or view, for work on `stream`. As cudarc's own `device_ptr` it makes the stream wait for what
    /// writes the slice, and returns what must be dropped after the work is queued: it marks the slice as read by the stream.
    /// (In a capture of the stream, cudarc's event tracking must be off.)
    ///
    /// # Errors
    /// [`Error::WrongDevice`] when the slice or the stream is of another context; [`Error::Length`] when the slice is shorter
    /// than the layout.
    ///
    /// # Safety
    /// The layout's elements are initialised. Work on other streams than `stream` is ordered by the caller. What is returned beside the
    /// view is dropped after the last work with the view is queued, and before the slice is used again; where the stream is captured,
    /// before the capture begins.
    #[cfg(feature = "cuda")]
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

    /// The logical shape [N, C, H, W].
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// The memory format.
    pub fn format(&self) -> MemoryFormat {
        self.layout.format
    }

    /// How the elements lie in memory.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The device that holds it.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The address of the first element.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Some of its channels.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the channels.
    pub fn channels(&self, range: Range<usize>) -> Result<TensorView<'a, T>> {
        let [n, c, h, w] = self.layout.shape;
        if range.start > range.end || range.end > c {
            return Err(Error::Attribute {
                name: "the range of channels",
                value: format!("{range:?} of {c} channels"),
                requirement: "within the channels",
            });
        }
        let offset = if self.layout.extent() == 0 { 0 } else { range.start * self.layout.strides()[1] };
        let layout = Layout { shape: [n, range.len(), h, w], ..self.layout };
        Ok(TensorView { address: self.address + (offset * size_of::<T>()) as u64, layout, ..*self })
    }

    /// Some of its images: a part of the batch.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the batch.
    pub fn images(&self, range: Range<usize>) -> Result<TensorView<'a, T>> {
        let [n, c, h, w] = self.layout.shape;
        if range.start > range.end || range.end > n {
            return Err(Error::Attribute {
                name: "the range of images",
                value: format!("{range:?} of {n} images"),
                requirement: "within the batch",
            });
        }
        let offset = if self.layout.extent() == 0 { 0 } else { range.start * self.layout.strides()[0] };
        let layout = Layout { shape: [range.len(), c, h, w], ..self.layout };
        Ok(TensorView { address: self.address + (offset * size_of::<T>()) as u64, layout, ..*self })
    }

    /// Its values in NCHW order, after all work queued on the device.
    ///
    /// # Errors
    /// [`Error::Driver`] when that work or the copy fails.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut values = memory::filled(elements(&self.shape())?, T::zeroed())?;
        self.read(&mut values)?;
        Ok(values)
    }

    /// Its values in the order in which they lie in memory, without what lies between them: NCHW when contiguous, NHWC when
    /// channels_last.
    ///
    /// # Errors
    /// As [`TensorView::to_vec`].
    pub fn to_vec_in_memory_order(&self) -> Result<Vec<T>> {
        let mut values = memory::filled(elements(&self.shape())?, T::zeroed())?;
        self.read_in_memory_order(&mut values)?;
        Ok(values)
    }

    /// Copies its values, in NCHW order whatever the format, to `values`, after all work queued on the device. Done on return.
    /// Contiguous tensors without gaps are copied at once; others are rearranged on the device first, in memory of their size.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` has not as many elements; [`Error::Driver`] when queued work or the copy fails;
    /// [`Error::OutOfMemory`].
    pub fn read(&self, values: &mut [T]) -> Result<()> {
        self.read_as(MemoryFormat::Contiguous, values)
    }

    /// Copies its values to `values` in the order in which they lie in memory, without what lies between them: NCHW when
    /// contiguous, NHWC when channels_last. Done on return. Views without gaps are copied at once.
    ///
    /// # Errors
    /// As [`TensorView::read`].
    pub fn read_in_memory_order(&self, values: &mut [T]) -> Result<()> {
        self.read_as(self.format(), values)
    }

    fn read_as(&self, format: MemoryFormat, values: &mut [T]) -> Result<()> {
        check_values(self.shape(), values.len())?;
        if self.format() == format && self.layout.is_packed() {
            // SAFETY: a packed view is over as many elements as its shape has, and nobody writes them while it is there
            return unsafe { download(self.device, self.address, bytemuck::cast_slice_mut(values)) };
        }
        // another stream may still write it
        self.device.synchronize()?;
        let packed = self.to_format(format)?;
        // SAFETY: as above
        unsafe { download(self.device, packed.address(), bytemuck::cast_slice_mut(values)) }
    }

    /// Hands its values to `take` in NCHW order, a piece at a time, after all work queued on the device: for tensors of which no
    /// second copy should be held.
    ///
    /// # Errors
    /// As [`TensorView::to_vec`]; what `take` returns.
    pub(crate) fn for_each_piece(&self, mut take: impl FnMut(&[T]) -> Result<()>) -> Result<()> {
        /// Elements of a piece, about.
        const PIECE: usize = 1 << 20;
        let [n, c, h, w] = self.layout.shape;
        let count = elements(&self.layout.shape)?;
        if count == 0 {
            return Ok(());
        }
        if self.layout.is_packed() && (self.format() == MemoryFormat::Contiguous || c == 1 || h * w == 1) {
            let mut piece = memory::filled(count.min(PIECE), T::zeroed())?;
            for start in (0..count).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(count - start)];
                // SAFETY: the piece lies within the view, which is packed and over as many elements as its shape has
                unsafe { download(self.device, self.address + (start * size_of::<T>()) as u64, bytemuck::cast_slice_mut(piece))? };
                take(piece)?;
            }
            return Ok(());
        }
        // another stream may still write it
        self.device.synchronize()?;
        let image_stride = self.layout.strides()[0];
        let channels = (PIECE / (h * w)).clamp(1, c);
        for image in 0..n {
            let address = self.address + (image * image_stride * size_of::<T>()) as u64;
            let image = TensorView { address, layout: Layout { shape: [1, c, h, w], ..self.layout }, ..*self };
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

    /// A packed copy in another dtype, each element rounded once to nearest, ties to even.
    ///
    /// # Errors
    /// As [`TensorView::to_format`].
    pub fn cast<U: Element>(&self) -> Result<Tensor<U>> {
        let mut copy = Tensor::uninitialised(self.device, self.shape(), self.format())?;
        copies::cast(self, &mut copy.view_mut())?;
        Ok(copy)
    }

    /// The addresses that both views reach, when some element may belong to both.
    pub(crate) fn overlap<U: Element>(&self, other: &TensorView<'_, U>) -> Option<(u64, u64)> {
        let (start, end) = (self.address.max(other.address), self.end().min(other.end()));
        if start >= end || self.device != other.device || self.beside(other) {
            return None;
        }
        Some((start, end))
    }

    /// The address behind the last element.
    fn end(&self) -> u64 {
        self.address + (self.layout.extent() * size_of::<T>()) as u64
    }

    /// Whether both are slices of one concatenation that share no channel.
    fn beside<U: Element>(&self, other: &TensorView<'_, U>) -> bool {
        let (a, b) = (self.layout, other.layout);
        let same = T::DTYPE == U::DTYPE
            && a.format == b.format
            && a.channel_stride == b.channel_stride
            && a.shape[0] == b.shape[0]
            && a.shape[2..] == b.shape[2..];
        let distance = self.address.abs_diff(other.address) as usize / size_of::<T>();
        let (first, second) = if self.address <= other.address { (a, b) } else { (b, a) };
        let channels = distance / first.strides()[1].max(1);
        same && distance.is_multiple_of(first.strides()[1].max(1))
            && channels >= first.shape[1]
            && channels + second.shape[1] <= a.channel_stride
    }
}

impl<'a, T: Element> TensorViewMut<'a, T> {
    /// A view of memory that the caller owns and that will be written.
    ///
    /// # Errors
    /// As [`TensorView::from_raw`].
    ///
    /// # Safety
    /// As [`TensorView::from_raw`] (the elements are initialised, too: safe methods read them), and nobody else reads the elements
    /// either while the view, or work queued with it, is in use.
    pub unsafe fn from_raw(device: &'a Device, address: u64, layout: Layout) -> Result<Self> {
        // SAFETY: passed on to the caller
        Ok(Self(unsafe { TensorView::from_raw(device, address, layout)? }))
    }

    /// A view of a cudarc slice or view that work on `stream` will write. As [`TensorView::from_cuda`]; what is returned beside
    /// it marks the slice as written by the stream.
    ///
    /// # Errors
    /// As [`TensorView::from_cuda`].
    ///
    /// # Safety
    /// As [`TensorView::from_cuda`]; and nobody else reads the elements meanwhile.
    #[cfg(feature = "cuda")]
    pub unsafe fn from_cuda(
        device: &'a Device,
        slice: &'a mut impl cudarc::driver::DevicePtrMut<T>,
        layout: Layout,
        stream: &'a Stream,
    ) -> Result<(Self, cudarc::driver::SyncOnDrop<'a>)> {
        check_slice(device, slice, &layout)?;
        let (address, sync) = slice.device_ptr_mut(cuda_stream(device, stream)?);
        // SAFETY: the slice is exclusively borrowed and long enough; the rest is the caller's promise
        Ok((unsafe { Self::from_raw(device, address, layout)? }, sync))
    }

    /// Copies `values`, in NCHW order, into the elements, after all work queued on the device. Done on return.
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
    /// [`Error::Length`] when there are not as many values as elements; [`Error::OutOfMemory`] and [`Error::Driver`].
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        self.write_as(MemoryFormat::Contiguous, values)
    }

    /// Copies `values` into the elements in the order in which these lie in memory: NCHW when contiguous, NHWC when channels_last.
    /// What lies between them is left alone. After all work queued on the device; done on return.
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

    /// Copies values that lie in the order of `format`.
    fn write_as(&mut self, format: MemoryFormat, values: &[T]) -> Result<()> {
        let (shape, layout) = (self.shape(), self.0.layout);
        check_values(shape, values.len())?;
        if layout.format == format && layout.is_packed() {
            // SAFETY: a packed view is over as many elements as its shape has, and this one is exclusive
            return unsafe { upload(self.0.device, self.0.address, bytemuck::cast_slice(values)) };
        }
        let packed = Tensor::from_slice_in_memory_order(self.0.device, shape, format, values)?;
        self.0.device.synchronize()?;
        copies::copy(&packed.view(), self)
    }

    /// The elements of host memory, to be written on a host device without a copy. As [`TensorView::from_host_slice`].
    ///
    /// # Errors
    /// As there.
    pub fn from_host_slice(device: &'a Device, values: &'a mut [T], layout: Layout) -> Result<Self> {
        let address = values.as_mut_ptr() as u64;
        check_host_slice(device, values.len(), &layout)?;
        // SAFETY: the slice is exclusively borrowed for as long as the view, is initialised and long enough, and work on a host device
        // is done when it is queued
        unsafe { Self::from_raw(device, address, layout) }
    }

    /// Some of its images.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the batch.
    pub fn images(self, range: Range<usize>) -> Result<TensorViewMut<'a, T>> {
        Ok(Self(self.0.images(range)?))
    }

    /// The first `at` channels and the rest. As [`Tensor::split_channels_mut`].
    ///
    /// # Errors
    /// [`Error::Attribute`] when there are fewer than `at` channels.
    pub fn split_channels(self, at: usize) -> Result<(TensorViewMut<'a, T>, TensorViewMut<'a, T>)> {
        let all = self.shape()[1];
        Ok((Self(self.0.channels(0..at)?), Self(self.0.channels(at..all)?)))
    }

    /// The same elements, to be written, for a shorter time.
    pub fn reborrow(&mut self) -> TensorViewMut<'_, T> {
        TensorViewMut(self.0)
    }

    /// The same elements, to be read.
    pub fn as_view(&self) -> TensorView<'_, T> {
        self.0
    }

    /// The same elements, written for the last time.
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

    /// Some of its channels.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the channels.
    pub fn channels(self, range: Range<usize>) -> Result<TensorViewMut<'a, T>> {
        Ok(Self(self.0.channels(range)?))
    }
}

/// Refuses values of another number than a shape has elements.
fn check_values(shape: Shape, got: usize) -> Result<()> {
    let expected = elements(&shape)?;
    if got == expected { Ok(()) } else { Err(Error::Length { name: "values", shape: shape.to_vec(), expected, got }) }
}

/// Refuses host memory that is too short, or that the device does not reach.
fn check_host_slice(device: &Device, got: usize, layout: &Layout) -> Result<()> {
    if device.kind() != DeviceKind::Host {
        let got = "host memory, which only a host device reaches: copy it (Tensor::from_slice)".into();
        return Err(Error::WrongDevice { name: "the slice", expected: device.to_string(), got });
    }
    let expected = layout.extent();
    if got < expected {
        return Err(Error::Length { name: "the slice", shape: layout.shape.to_vec(), expected, got });
    }
    Ok(())
}

/// Refuses a cudarc slice that is elsewhere or too short.
#[cfg(feature = "cuda")]
fn check_slice<T: Element>(device: &Device, slice: &impl cudarc::driver::DeviceSlice<T>, layout: &Layout) -> Result<()> {
    crate::device::cuda::check_context(device, "the slice", slice.stream().context())?;
    let expected = layout.extent();
    if slice.len() < expected {
        return Err(Error::Length { name: "the slice", shape: layout.shape.to_vec(), expected, got: slice.len() });
    }
    Ok(())
}

#[cfg(feature = "cuda")]
fn cuda_stream<'a>(device: &Device, stream: &'a Stream) -> Result<&'a cudarc::driver::CudaStream> {
    let wrong = || Error::WrongDevice { name: "the stream", expected: device.to_string(), got: stream.device().to_string() };
    let cuda = stream.as_cuda().ok_or_else(wrong)?;
    crate::device::cuda::check_stream(device, cuda)?;
    Ok(cuda)
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

/// A tensor whose dtype is known only at run time.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyTensor {
    /// f32
    F32(Tensor<f32>),
    /// f16
    F16(Tensor<f16>),
    /// bf16
    Bf16(Tensor<bf16>),
}

/// Runs `$body` with `$tensor` bound to the tensor inside an [`AnyTensor`].
macro_rules! dispatch {
    ($any:expr, $tensor:ident => $body:expr) => {
        match $any {
            AnyTensor::F32($tensor) => $body,
            AnyTensor::F16($tensor) => $body,
            AnyTensor::Bf16($tensor) => $body,
        }
    };
}

impl AnyTensor {
    /// The dtype.
    pub fn dtype(&self) -> DType {
        fn of<T: Element>(_: &Tensor<T>) -> DType {
            T::DTYPE
        }
        dispatch!(self, t => of(t))
    }

    /// The logical shape [N, C, H, W].
    pub fn shape(&self) -> Shape {
        dispatch!(self, t => t.shape())
    }

    /// The memory format.
    pub fn format(&self) -> MemoryFormat {
        dispatch!(self, t => t.format())
    }

    /// The device that holds it.
    pub fn device(&self) -> &Device {
        dispatch!(self, t => t.device())
    }

    /// A copy as `Tensor<U>`, rounded where the dtypes differ.
    ///
    /// # Errors
    /// As [`Tensor::cast`].
    pub fn cast<U: Element>(&self) -> Result<Tensor<U>> {
        dispatch!(self, t => t.cast())
    }

    /// A copy in another format (or in the same).
    ///
    /// # Errors
    /// As [`Tensor::to_format`].
    pub fn to_format(&self, format: MemoryFormat) -> Result<AnyTensor> {
        dispatch!(self, t => Ok(t.to_format(format)?.into()))
    }

    /// Its values in NCHW order, as f32 (exact for every dtype).
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        dispatch!(self, t => memory::collect(t.to_vec()?.into_iter().map(|v| v.to_f32())))
    }
}

impl<T: Element> From<Tensor<T>> for AnyTensor {
    fn from(tensor: Tensor<T>) -> Self {
        T::into_any(tensor)
    }
}

/// A view as the launch's checker takes it.
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
