//! Pinned memory of the host, and copies to and from it that a stream does in its turn.

use super::{Device, Event, Stream, wrong_device};
use crate::Element;
use crate::error::Result;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Memory of the host that a GPU copies from and to by itself, while the host goes on: it is
/// pinned, so that the system does not move it. On the host device it is ordinary memory.
///
/// Pinned memory is dear to allocate and is taken from all programs: allocate a few buffers when a
/// service starts, and use them again and again. [`Pending::wait`] gives a buffer back.
///
/// ```
/// use warpconv::{Device, MemoryFormat, PinnedBuffer, Stream, Tensor};
/// let device = Device::best()?;
/// let stream = Stream::new(&device)?;
/// let mut x = Tensor::<f32>::zeros(&device, [1, 1, 1, 2], MemoryFormat::Contiguous)?;
/// let mut buffer = PinnedBuffer::zeros(&device, 2)?;
/// buffer.copy_from_slice(&[1., 2.]);
/// let uploaded = x.view_mut().write_async(buffer, &stream)?;
/// // ... queue layers on the same stream: they find the values there ...
/// let buffer = uploaded.wait()?; // waits for the upload alone
/// let downloaded = x.view().read_async(buffer, &stream)?;
/// assert_eq!(downloaded.wait()?[..], [1., 2.]);
/// # Ok::<(), warpconv::Error>(())
/// ```
pub struct PinnedBuffer<T: Element> {
    values: *mut T,
    len: usize,
    device: Device,
}

// SAFETY: the buffer owns its memory as a box of a slice does, and elements are numbers
unsafe impl<T: Element> Send for PinnedBuffer<T> {}
// SAFETY: as above
unsafe impl<T: Element> Sync for PinnedBuffer<T> {}

impl<T: Element> PinnedBuffer<T> {
    /// A buffer of `len` zeros, for copies to and from `device`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::Overflow`] or [`crate::Error::Driver`].
    pub fn zeros(device: &Device, len: usize) -> Result<Self> {
        crate::shape::elements(&[len])?;
        let bytes = len * size_of::<T>();
        if bytes == 0 {
            return Ok(Self { values: std::ptr::NonNull::dangling().as_ptr(), len, device: device.clone() });
        }
        let values = device.0.backend.allocate_pinned(bytes)? as *mut T;
        // SAFETY: just allocated with this size, and aligned for any element; zeros are numbers
        unsafe { std::ptr::write_bytes(values.cast::<u8>(), 0, bytes) };
        Ok(Self { values, len, device: device.clone() })
    }

    /// The device for whose copies it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// Queues a copy of all values to device memory.
    ///
    /// # Safety
    /// From `address` on there are as many bytes of memory of the stream's device, which no other
    /// work uses until the stream has run the copy.
    pub(crate) unsafe fn upload(self, address: u64, stream: &Stream) -> Result<Pending<T>> {
        let pending = Pending::new(self, stream)?;
        let (values, bytes) = (pending.buffer().values, pending.buffer().bytes());
        if bytes > 0 {
            // SAFETY: the buffer lives until the copy is done, as `Pending` sees to; the rest is the
            // caller's promise
            unsafe { stream.device().0.backend.upload_async(address, values.cast(), bytes, stream)? };
        }
        pending.record(stream)
    }

    /// Queues a copy of device memory over all values.
    ///
    /// # Safety
    /// From `address` on there are as many bytes of initialised memory of the stream's device,
    /// which no other work writes until the stream has run the copy.
    pub(crate) unsafe fn download(self, address: u64, stream: &Stream) -> Result<Pending<T>> {
        let pending = Pending::new(self, stream)?;
        let (values, bytes) = (pending.buffer().values, pending.buffer().bytes());
        if bytes > 0 {
            // SAFETY: the buffer lives, and nobody reads it, until the copy is done, as `Pending` sees to;
            // the rest is the caller's promise
            unsafe { stream.device().0.backend.download_async(address, values.cast(), bytes, stream)? };
        }
        pending.record(stream)
    }
}

impl<T: Element> Deref for PinnedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: owned memory of this length, initialised by `zeros`, which no copy under way uses: a
        // `Pending` would have the buffer
        unsafe { std::slice::from_raw_parts(self.values, self.len) }
    }
}

impl<T: Element> DerefMut for PinnedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`
        unsafe { std::slice::from_raw_parts_mut(self.values, self.len) }
    }
}

impl<T: Element> fmt::Debug for PinnedBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pinned elements for {}", self.len, self.device)
    }
}

impl<T: Element> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        if self.bytes() > 0 {
            // SAFETY: from `allocate_pinned` with this size, and no copy under way uses it: a `Pending` would
            // have the buffer
            unsafe { self.device.0.backend.free_pinned(self.values as u64, self.bytes()) }
        }
    }
}

/// A copy that a stream will do, with the buffer that it uses: nobody can touch the buffer before
/// the copy is done. Dropping it waits for the copy.
#[derive(Debug)]
#[must_use = "dropping it waits for the copy"]
pub struct Pending<T: Element> {
    /// None once it is given back.
    buffer: Option<PinnedBuffer<T>>,
    done: Event,
    /// Whether `done` stands behind the copy. Until then only the whole stream can be waited for.
    stream: Option<Stream>,
}

impl<T: Element> Pending<T> {
    fn new(buffer: PinnedBuffer<T>, stream: &Stream) -> Result<Self> {
        if buffer.device != *stream.device() {
            return Err(wrong_device("the pinned buffer", stream.device(), &buffer.device));
        }
        // a captured copy would use the buffer whenever the graph is replayed
        stream.refuse_any_capture()?;
        Ok(Self { buffer: Some(buffer), done: Event::new(stream.device())?, stream: Some(stream.clone()) })
    }

    fn buffer(&self) -> &PinnedBuffer<T> {
        self.buffer.as_ref().expect("the buffer is there until `wait` gives it back")
    }

    fn record(mut self, stream: &Stream) -> Result<Self> {
        stream.record(&self.done)?;
        self.stream = None;
        Ok(self)
    }

    /// Whether the copy is done. Does not wait.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] when something queued has failed; [`crate::Error::Driver`].
    pub fn is_complete(&self) -> Result<bool> {
        self.done.is_complete()
    }

    /// Waits for the copy, and for nothing that was queued later, and gives the buffer back.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] when something queued has failed; [`crate::Error::Driver`].
    pub fn wait(mut self) -> Result<PinnedBuffer<T>> {
        self.settle()?;
        Ok(self.buffer.take().expect("it is given back once"))
    }

    fn settle(&self) -> Result<()> {
        match &self.stream {
            Some(stream) => stream.synchronize(),
            None => self.done.synchronize(),
        }
    }
}

impl<T: Element> Drop for Pending<T> {
    fn drop(&mut self) {
        if self.buffer.is_some() && self.settle().is_err() {
            // nobody knows whether the copy still uses it
            std::mem::forget(self.buffer.take());
        }
    }
}
