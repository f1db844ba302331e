//! Points in a stream's queue of work, with which streams wait for one another and the host waits
//! for less than a whole stream.

use super::{Device, Stream, StreamKind, wrong_device};
use crate::error::Result;

/// A point in a stream's queue of work. Other streams and the host can wait until the stream has
/// reached it.
///
/// An event is recorded by [`Stream::record`], any number of times: it always stands for the point
/// recorded last. An event that was never recorded is complete. On the host device work is done
/// when it is queued, so every event is complete there.
///
/// ```
/// use warpconv::{Device, Event, Stream};
/// let device = Device::best()?;
/// let (copies, layers) = (Stream::new(&device)?, Stream::new(&device)?);
/// let uploaded = Event::new(&device)?;
/// // ... queue an upload on `copies` ...
/// copies.record(&uploaded)?;
/// layers.wait(&uploaded)?; // what is queued on `layers` from now on finds the upload done; the host does not wait
/// // ... run plans on `layers` ...
/// layers.synchronize()?;
/// assert!(uploaded.is_complete()?);
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug)]
pub struct Event {
    #[cfg(feature = "cuda")]
    cuda: Option<cudarc::driver::CudaEvent>,
    device: Device,
}

impl Event {
    /// A new event of the device, which is not recorded yet. It measures no times.
    ///
    /// # Errors
    /// [`crate::Error::Driver`] or [`crate::Error::DeviceLost`].
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "cuda")]
            cuda: match device.cuda_context() {
                Some(context) => {
                    let flags = cudarc::driver::sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
                    Some(context.new_event(Some(flags)).map_err(|e| super::cuda::failed(device.watch(), "cuEventCreate", e))?)
                }
                None => None,
            },
            device: device.clone(),
        })
    }

    /// The device whose streams may record the event and wait for it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the stream has reached the point that was recorded last. Does not wait.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] when something queued has failed; [`crate::Error::Driver`].
    pub fn is_complete(&self) -> Result<bool> {
        #[cfg(feature = "cuda")]
        if let Some(event) = &self.cuda {
            return event.try_is_complete().map_err(|e| super::cuda::failed(self.device.watch(), "cuEventQuery", e));
        }
        Ok(true)
    }

    /// Waits until the stream has reached the point that was recorded last. Does not wait for work
    /// that was queued later.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] when something queued has failed; [`crate::Error::Driver`].
    pub fn synchronize(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(event) = &self.cuda {
            event.synchronize().map_err(|e| super::cuda::failed(self.device.watch(), "cuEventSynchronize", e))?;
            self.device.watch().step();
        }
        Ok(())
    }
}

impl Stream {
    /// Records in `event` the point behind all work that is queued on the stream now.
    ///
    /// # Errors
    /// [`crate::Error::WrongDevice`] for an event of another device; [`crate::Error::Capturing`] on
    /// a stream that is captured without [`Stream::allow_capture`]; [`crate::Error::Driver`].
    pub fn record(&self, event: &Event) -> Result<()> {
        self.check_event(event)?;
        match &self.kind {
            StreamKind::Immediate => Ok(()),
            #[cfg(feature = "cuda")]
            StreamKind::Cuda(stream) => match &event.cuda {
                Some(event) => event.record(stream).map_err(|e| super::cuda::failed(self.device.watch(), "cuEventRecord", e)),
                None => Ok(()),
            },
        }
    }

    /// Makes all work that is queued on the stream from now on wait for `event`, as it was recorded
    /// last. The host does not wait.
    ///
    /// # Errors
    /// As [`Stream::record`].
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.check_event(event)?;
        match &self.kind {
            StreamKind::Immediate => Ok(()),
            #[cfg(feature = "cuda")]
            StreamKind::Cuda(stream) => match &event.cuda {
                Some(event) => stream.wait(event).map_err(|e| super::cuda::failed(self.device.watch(), "cuStreamWaitEvent", e)),
                None => Ok(()),
            },
        }
    }

    fn check_event(&self, event: &Event) -> Result<()> {
        if event.device != self.device {
            return Err(wrong_device("the event", &self.device, &event.device));
        }
        self.refuse_capture()
    }
}
