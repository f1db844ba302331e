//! Streams: queues of work on a device.

use super::Device;
#[cfg(feature = "cuda")]
use super::cuda;
#[cfg(feature = "cuda")]
use crate::error::Error;
use crate::error::Result;
#[cfg(feature = "cuda")]
use std::sync::Arc;

/// A queue of work on a device.
#[derive(Debug, Clone)]
pub struct Stream {
    pub(super) device: Device,
    pub(crate) kind: StreamKind,
    /// Whether the user has promised to keep alive what is captured on the stream.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    capture_allowed: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum StreamKind {
    /// The stream of the host device, on which work is done when it is queued.
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    Immediate,
    #[cfg(feature = "cuda")]
    Cuda(Arc<cudarc::driver::CudaStream>),
}

impl Stream {
    /// The device's default stream, which [`Layer::forward`](crate::Layer::forward) uses.
    pub fn default_of(device: &Device) -> Self {
        Self { device: device.clone(), kind: device.0.backend.default_stream(), capture_allowed: false }
    }

    /// The stream of copies that are waited for before anything else is done.
    pub(crate) fn of_copies(device: &Device) -> Self {
        Self { device: device.clone(), kind: device.0.backend.stream_of_copies(), capture_allowed: false }
    }

    /// A new stream, which runs concurrently with others. Synchronise before another stream uses
    /// the results of this one. On the host device work is done when it is queued.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self { device: device.clone(), kind: device.0.backend.new_stream()?, capture_allowed: false })
    }

    /// A stream that the caller owns, in the device's context.
    ///
    /// # Errors
    /// [`Error::WrongDevice`](crate::Error::WrongDevice) when it belongs to another context.
    #[cfg(feature = "cuda")]
    pub fn from_cuda(device: &Device, stream: Arc<cudarc::driver::CudaStream>) -> Result<Self> {
        cuda::check_stream(device, &stream)?;
        Ok(Self { device: device.clone(), kind: StreamKind::Cuda(stream), capture_allowed: false })
    }

    /// Lets plans run on the stream while it is being captured.
    ///
    /// A graph that is captured through `Stream::as_cuda` holds the addresses of plans, tensors
    /// and workspace, and replays use these whether or not they are still alive. So
    /// [`Plan::run`](crate::Plan::run) refuses a stream that is being captured.
    /// [`Graph`](crate::Graph) captures safely, since it owns what its runs use.
    ///
    /// # Safety
    /// Every plan, tensor and workspace of the runs that are captured on the stream, or on a clone
    /// of it, stays alive and in place until the captured graph, everything instantiated from it
    /// and its last replay have ended.
    #[must_use]
    pub unsafe fn allow_capture(mut self) -> Self {
        self.capture_allowed = true;
        self
    }

    /// Refuses a stream that is being captured, unless the user has promised to keep alive what is
    /// captured.
    pub(crate) fn refuse_capture(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let StreamKind::Cuda(stream) = &self.kind
            && !self.capture_allowed
            && cuda::is_capturing(stream)?
        {
            return Err(Error::Capturing);
        }
        Ok(())
    }

    /// Refuses a stream that is being captured, whatever the user has promised.
    pub(crate) fn refuse_any_capture(&self) -> Result<()> {
        Self { capture_allowed: false, ..self.clone() }.refuse_capture()
    }

    /// The cudarc stream of a GPU. `None` for the host device.
    #[cfg(feature = "cuda")]
    pub fn as_cuda(&self) -> Option<&Arc<cudarc::driver::CudaStream>> {
        match &self.kind {
            StreamKind::Cuda(stream) => Some(stream),
            StreamKind::Immediate => None,
        }
    }

    /// The stream's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits for the work that is queued on the stream.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost) when something queued has failed;
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn synchronize(&self) -> Result<()> {
        let watch = self.device.watch();
        match &self.kind {
            StreamKind::Immediate => {}
            #[cfg(feature = "cuda")]
            StreamKind::Cuda(stream) => stream.synchronize().map_err(|e| cuda::failed(watch, "cuStreamSynchronize", e))?,
        }
        watch.waited();
        Ok(())
    }
}
