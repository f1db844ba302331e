//! Captures of streams as CUDA graphs. Everything that a captured launch uses must live as long as
//! the graph, which [`crate::Graph`] ensures.

use super::{Device, Stream};
use crate::error::Result;

/// A capture: on a GPU a graph that is ready to be launched, on the host device nothing.
#[derive(Debug)]
pub(crate) enum Captured {
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    Nothing,
    #[cfg(feature = "cuda")]
    Cuda(cuda::Executable),
}

/// Captures what `queue` queues on the stream that it is given. If the device has no graphs,
/// `queue` is not called.
///
/// # Safety
/// Everything that the queued work uses stays alive and in place as long as the returned value, and
/// as long as replays of it run.
pub(crate) unsafe fn capture(device: &Device, queue: &mut dyn FnMut(&Stream) -> Result<()>) -> Result<Captured> {
    #[cfg(feature = "cuda")]
    if device.kind() == super::DeviceKind::Cuda {
        return cuda::Executable::capture(&Stream::new(device)?, queue).map(Captured::Cuda);
    }
    let _ = (device, queue);
    Ok(Captured::Nothing)
}

impl Captured {
    /// Queues the captured work on a stream of the device. Returns false if nothing was captured.
    pub fn replay(&mut self, stream: &Stream) -> Result<bool> {
        match self {
            Captured::Nothing => {
                let _ = stream;
                Ok(false)
            }
            #[cfg(feature = "cuda")]
            Captured::Cuda(graph) => graph.launch(stream).map(|()| true),
        }
    }
}

#[cfg(feature = "cuda")]
pub(super) mod cuda {
    use crate::Stream;
    use crate::device::cuda;
    use crate::error::{Error, Result};
    use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    use cudarc::driver::{CudaGraph, CudaStream, DriverError, result};
    use std::fmt;
    use std::sync::Arc;

    fn failed(stream: &Stream, call: &'static str) -> impl Fn(DriverError) -> Error {
        move |error| cuda::failed(stream.device().watch(), call, error)
    }

    /// A graph that is ready to be launched.
    pub(crate) struct Executable {
        graph: CudaGraph,
    }

    // SAFETY: the driver allows the use of a graph from any thread, by one at a time: launching it takes `&mut self`, and `&self`
    // does nothing
    unsafe impl Send for Executable {}
    // SAFETY: as above
    unsafe impl Sync for Executable {}

    impl fmt::Debug for Executable {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a CUDA graph")
        }
    }

    /// Ends a capture that a panic or an error has interrupted.
    struct Capturing<'a>(Option<&'a Arc<CudaStream>>);

    impl Drop for Capturing<'_> {
        fn drop(&mut self) {
            if let Some(stream) = self.0 {
                // An error here could only repeat the one that led here.
                let _ = stream.end_capture(CUgraphInstantiate_flags(0));
            }
        }
    }

    impl Executable {
        pub fn capture(stream: &Stream, queue: &mut dyn FnMut(&Stream) -> Result<()>) -> Result<Self> {
            let wrong = || Error::WrongDevice { name: "the stream", expected: "a GPU".into(), got: stream.device().to_string() };
            let cuda = stream.as_cuda().ok_or_else(wrong)?;
            // Other threads may go on with operations that a capture does not allow.
            cuda.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(failed(stream, "cuStreamBeginCapture"))?;
            let mut under_way = Capturing(Some(cuda));
            // SAFETY: the caller of `capture` keeps alive what is captured
            queue(&unsafe { stream.clone().allow_capture() })?;
            under_way.0 = None;
            let graph = cuda.end_capture(CUgraphInstantiate_flags(0)).map_err(failed(stream, "cuStreamEndCapture"))?;
            let nothing = || Error::Driver { call: "cuStreamEndCapture", code: 0, message: "nothing was captured".into() };
            let graph = graph.ok_or_else(nothing)?;
            graph.upload().map_err(failed(stream, "cuGraphUpload"))?;
            Ok(Self { graph })
        }

        pub fn launch(&mut self, stream: &Stream) -> Result<()> {
            let wrong = || Error::WrongDevice { name: "the stream", expected: "a GPU".into(), got: stream.device().to_string() };
            let cuda = stream.as_cuda().ok_or_else(wrong)?;
            cuda.context().bind_to_thread().map_err(failed(stream, "cuCtxSetCurrent"))?;
            // SAFETY: the graph is instantiated and alive, and what its nodes use lives as long as `self`: the caller of `capture` has
            // promised it. The stream is alive.
            let outcome = unsafe { result::graph::launch(self.graph.cu_graph_exec(), cuda.cu_stream()) };
            stream.device().0.backend.queued_on(stream);
            outcome.map_err(failed(stream, "cuGraphLaunch"))
        }
    }
}
