//! Copies between tensors and pinned memory that a stream does in its turn.

use super::{TensorView, TensorViewMut};
use crate::device::{Pending, PinnedBuffer};
use crate::error::{Error, Result};
use crate::shape::elements;
use crate::{Element, Stream};

impl<T: Element> TensorView<'_, T> {
    /// Queues a copy of the elements, in the order in which they lie in memory, to pinned memory,
    /// and returns. The stream copies them when it has done the work that is queued before; the
    /// host device has done so on return.
    ///
    /// Freeing and reading the tensor wait for the copy, as for every work that uses it.
    ///
    /// # Errors
    /// [`Error::Length`] when the buffer has not as many elements; [`Error::Attribute`] for a view
    /// that is not packed ([`TensorView::to_format`] packs it); [`Error::WrongDevice`] for a stream
    /// or a buffer of another device; [`Error::Capturing`] on a stream that is being captured;
    /// [`Error::Driver`]. The buffer is freed.
    pub fn read_async(&self, into: PinnedBuffer<T>, stream: &Stream) -> Result<Pending<T>> {
        check(self, into.len(), stream)?;
        // SAFETY: a packed view is over as many elements as its shape has. Who writes them on another
        // stream is ordered by the caller, as for every run; the use is recorded below, so that
        // freeing them waits for the copy.
        let pending = unsafe { into.download(self.address(), stream) };
        self.record_use(stream);
        pending
    }
}

impl<T: Element> TensorViewMut<'_, T> {
    /// Queues a copy of pinned memory into the elements, in the order in which they lie in memory,
    /// and returns. Work that is queued on the stream from then on finds them there; the host
    /// device has copied them on return.
    ///
    /// # Errors
    /// As [`TensorView::read_async`].
    pub fn write_async(&mut self, from: PinnedBuffer<T>, stream: &Stream) -> Result<Pending<T>> {
        let view = self.as_view();
        check(&view, from.len(), stream)?;
        // SAFETY: as in `read_async`; the view is exclusive
        let pending = unsafe { from.upload(view.address(), stream) };
        view.record_use(stream);
        pending
    }
}

fn check<T: Element>(view: &TensorView<'_, T>, got: usize, stream: &Stream) -> Result<()> {
    let expected = elements(&view.shape())?;
    if got != expected {
        return Err(Error::Length { name: "the pinned buffer", shape: view.shape().to_vec(), expected, got });
    }
    if stream.device() != view.device() {
        return Err(crate::device::wrong_device("the stream", view.device(), stream.device()));
    }
    if !view.layout().is_packed() {
        let value = format!("{:?} of {:?}", view.layout().strides(), view.shape());
        return Err(Error::Attribute { name: "strides", value, requirement: "those of a packed tensor, which is copied in one piece" });
    }
    Ok(())
}
