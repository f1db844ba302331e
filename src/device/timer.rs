//! How long work on a device takes: on a GPU by events around replays of a CUDA graph, on the host device by the clock.

use super::{Device, Stream, StreamKind};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How much of the time of the machine a measurement may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Runs before the first that counts: at least one, and as many as fit this time.
    pub warm_up: Duration,
    /// Samples go on until they have taken this long ...
    pub budget: Duration,
    /// ... but there are at least so many ...
    pub least: usize,
    /// ... and at most so many.
    pub most: usize,
}

impl Effort {
    /// For a GPU: about a tenth of a second.
    pub fn gpu() -> Self {
        Self { warm_up: Duration::from_millis(20), budget: Duration::from_millis(60), least: 11, most: 200 }
    }

    /// For the host device, whose launches take milliseconds to seconds.
    pub fn host() -> Self {
        Self { warm_up: Duration::ZERO, budget: Duration::from_millis(50), least: 3, most: 11 }
    }

    /// What suits the device.
    pub fn for_device(device: &Device) -> Self {
        if device.kind() == super::DeviceKind::Host { Self::host() } else { Self::gpu() }
    }
}

/// What a measurement gave, in seconds for one launch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// The middle sample.
    pub median: f64,
    /// The fastest.
    pub min: f64,
    /// The slowest.
    pub max: f64,
    /// The median of the samples' distances from the median: their spread, without outliers.
    pub mad: f64,
    /// How many samples.
    pub samples: usize,
    /// Launches in each sample, whose time is divided by their number.
    pub launches: usize,
}

impl Time {
    /// From the seconds of each sample, all of so many launches.
    ///
    /// # Panics
    /// Without a sample.
    pub fn of(samples: &[f64], launches: usize) -> Self {
        let each = sorted(samples.iter().map(|s| s / launches as f64));
        let median = middle(&each);
        let distances = sorted(each.iter().map(|s| (s - median).abs()));
        Self { median, min: each[0], max: each[each.len() - 1], mad: middle(&distances), samples: each.len(), launches }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[half - 1] + sorted[half]) / 2.0 } else { sorted[half] }
}

/// Times work on a stream of its own.
#[derive(Debug)]
pub struct Timer {
    stream: Stream,
}

impl Timer {
    /// A timer on a new stream of the device.
    ///
    /// # Errors
    /// [`crate::Error::Driver`].
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self { stream: Stream::new(device)? })
    }

    /// The time of one of the `launches` that `queue` queues on the stream that it is given. On a GPU `queue` runs twice, the
    /// second time into a graph, whose replays are timed: it may neither allocate nor wait.
    ///
    /// # Errors
    /// What `queue` returns; [`crate::Error::Driver`].
    ///
    /// # Safety
    /// What the queued work uses lives as long as this call: `queue` frees none of it.
    pub unsafe fn measure(&self, effort: &Effort, launches: usize, mut queue: impl FnMut(&Stream) -> Result<()>) -> Result<Time> {
        queue(&self.stream)?;
        self.stream.synchronize()?;
        let samples = match &self.stream.kind {
            StreamKind::Immediate => {
                let mut once = || {
                    let start = Instant::now();
                    queue(&self.stream)?;
                    Ok(start.elapsed().as_secs_f64())
                };
                sample(effort, &mut once)?
            }
            #[cfg(feature = "cuda")]
            StreamKind::Cuda(stream) => cuda::replays(self.stream.device(), stream, effort, || {
                // SAFETY: the caller keeps alive what is captured, and the graph does not outlive this call
                queue(&unsafe { self.stream.clone().allow_capture() })
            })?,
        };
        Ok(Time::of(&samples, launches))
    }
}

/// Samples of `once`, after its warm-up.
fn sample(effort: &Effort, once: &mut dyn FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    let start = Instant::now();
    while start.elapsed() < effort.warm_up {
        once()?;
    }
    let start = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < effort.least || start.elapsed() < effort.budget && samples.len() < effort.most {
        samples.push(once()?);
    }
    Ok(samples)
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::{Effort, sample};
    use crate::device::Device;
    use crate::device::cuda::failed;
    use crate::error::{Error, Result};
    use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
    use cudarc::driver::{CudaStream, DriverError};
    use std::sync::Arc;

    /// Seconds of each replay of what `queue` queues.
    pub(super) fn replays(
        device: &Device,
        stream: &Arc<CudaStream>,
        effort: &Effort,
        queue: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<f64>> {
        let failed = |call: &'static str| move |error: DriverError| failed(device.watch(), call, error);
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(failed("cuStreamBeginCapture"))?;
        let queued = queue();
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).map_err(failed("cuStreamEndCapture"));
        queued?; // rather than what it did to the capture
        let nothing = || Error::Driver { call: "cuStreamEndCapture", code: 0, message: "nothing was captured".into() };
        let graph = graph?.ok_or_else(nothing)?;
        graph.upload().map_err(failed("cuGraphUpload"))?;
        let event = || stream.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed("cuEventCreate"));
        let (start, end) = (event()?, event()?);
        let mut once = || {
            // an untimed replay first: the timed one is queued behind it while it runs, so that no launch shows
            graph.launch().map_err(failed("cuGraphLaunch"))?;
            start.record(stream).map_err(failed("cuEventRecord"))?;
            graph.launch().map_err(failed("cuGraphLaunch"))?;
            end.record(stream).map_err(failed("cuEventRecord"))?;
            let milliseconds = start.elapsed_ms(&end).map_err(failed("cuEventElapsedTime"))?;
            device.watch().step();
            Ok(f64::from(milliseconds) * 1e-3)
        };
        let samples = sample(effort, &mut once);
        // nothing of the graph may be under way when it goes
        stream.synchronize().map_err(failed("cuStreamSynchronize"))?;
        device.watch().waited();
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics() {
        let time = Time::of(&[4.0, 2.0, 8.0, 2.0, 200.0], 2);
        assert_eq!(time, Time { median: 2.0, min: 1.0, max: 100.0, mad: 1.0, samples: 5, launches: 2 });
        assert_eq!(Time::of(&[1.0, 3.0], 1).median, 2.0);
    }

    #[cfg(feature = "host")]
    #[test]
    fn the_host_device_is_timed_by_the_clock() {
        let timer = Timer::new(&Device::host().unwrap()).unwrap();
        let mut runs = 0;
        let sleep = |_: &Stream| {
            runs += 1;
            std::thread::sleep(Duration::from_millis(4));
            Ok(())
        };
        // SAFETY: nothing is launched
        let time = unsafe { timer.measure(&Effort { budget: Duration::ZERO, ..Effort::host() }, 2, sleep) }.unwrap();
        assert_eq!((time.samples, runs), (3, 4));
        assert!(time.min >= 0.002 && time.min <= time.median && time.median <= time.max);
    }
}
