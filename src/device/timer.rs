//! Measures how long work on a device takes: on a GPU with events around replays of a CUDA graph,
//! on the host device with the clock.

use super::{Device, Stream, StreamKind};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How long a measurement may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Duration of the runs before the first sample. There is at least one such run.
    pub warm_up: Duration,
    /// Samples are taken until they have taken this long in all.
    pub budget: Duration,
    /// The least number of samples, even if the budget is exceeded; at least one.
    pub least: usize,
    /// The largest number of samples.
    pub most: usize,
}

#[cfg(feature = "bench")]
impl Effort {
    /// The effort for a GPU: about a tenth of a second.
    pub fn gpu() -> Self {
        Self { warm_up: Duration::from_millis(20), budget: Duration::from_millis(60), least: 11, most: 200 }
    }

    /// The effort for the host device, whose launches take milliseconds to seconds.
    pub fn host() -> Self {
        Self { warm_up: Duration::ZERO, budget: Duration::from_millis(50), least: 3, most: 11 }
    }

    /// The effort that suits the device.
    pub fn for_device(device: &Device) -> Self {
        if device.kind() == super::DeviceKind::Host { Self::host() } else { Self::gpu() }
    }
}

/// The result of a measurement, in seconds for one launch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// The median of the samples.
    pub median: f64,
    /// The fastest sample.
    pub min: f64,
    /// The slowest sample.
    pub max: f64,
    /// The median absolute deviation of the samples from the median, which outliers do not affect.
    #[serde(rename = "mad")]
    pub median_deviation: f64,
    /// The number of samples.
    pub samples: usize,
    /// The number of launches in each sample, by which its time is divided.
    pub launches: usize,
}

impl Time {
    /// Summarises the seconds of samples of this number of launches each. `None` without samples or
    /// launches.
    pub fn of(samples: &[f64], launches: usize) -> Option<Self> {
        if launches == 0 {
            return None;
        }
        let each = sorted(samples.iter().map(|s| s / launches as f64));
        let (&min, &max) = (each.first()?, each.last()?);
        let median = middle(&each);
        let distances = sorted(each.iter().map(|s| (s - median).abs()));
        Some(Self { median, min, max, median_deviation: middle(&distances), samples: each.len(), launches })
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

    /// The time of one of the `launches` that `queue` queues on the stream that it is given. On a
    /// GPU `queue` runs twice, the second time into a graph whose replays are timed, so it must
    /// neither allocate nor wait.
    ///
    /// # Errors
    /// [`Error::Attribute`] when `launches` is 0; errors of `queue`; [`Error::Driver`].
    ///
    /// # Safety
    /// Everything that the queued work uses lives as long as this call: `queue` frees none of it.
    pub unsafe fn measure(&self, effort: &Effort, launches: usize, mut queue: impl FnMut(&Stream) -> Result<()>) -> Result<Time> {
        let none =
            || Error::Attribute { name: "launches", value: launches.to_string(), requirement: "1 or more: they share a sample's time" };
        if launches == 0 {
            return Err(none());
        }
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
            StreamKind::Cuda(stream) => cuda::replays(&self.stream, stream, effort, &mut queue)?,
        };
        Time::of(&samples, launches).ok_or_else(none)
    }
}

/// The samples of `once`, taken after its warm-up.
fn sample(effort: &Effort, once: &mut dyn FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    let start = Instant::now();
    while start.elapsed() < effort.warm_up {
        once()?;
    }
    let start = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < effort.least.max(1) || start.elapsed() < effort.budget && samples.len() < effort.most {
        samples.push(once()?);
    }
    Ok(samples)
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::{Effort, sample};
    use crate::Stream;
    use crate::device::capture::cuda::Executable;
    use crate::device::cuda::{elapsed, failed};
    use crate::error::Result;
    use cudarc::driver::sys::CUevent_flags;
    use cudarc::driver::{CudaStream, DriverError};
    use std::sync::Arc;

    /// The seconds of each replay of what `queue` queues. The caller keeps alive what that uses.
    pub(super) fn replays(
        stream: &Stream,
        cuda: &Arc<CudaStream>,
        effort: &Effort,
        queue: &mut dyn FnMut(&Stream) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let watch = stream.device().watch();
        let failed = |call: &'static str| move |error: DriverError| failed(watch, call, error);
        let mut graph = Executable::capture(stream, queue)?;
        let event = || cuda.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed("cuEventCreate"));
        let (start, end) = (event()?, event()?);
        let mut once = || {
            // An untimed replay comes first. The timed one is queued while it runs, so that the
            // time of launching it is hidden.
            graph.launch(stream)?;
            start.record(cuda).map_err(failed("cuEventRecord"))?;
            graph.launch(stream)?;
            end.record(cuda).map_err(failed("cuEventRecord"))?;
            end.synchronize().map_err(failed("cuEventSynchronize"))?;
            let milliseconds = elapsed(&start, &end).map_err(failed("cuEventElapsedTime"))?;
            watch.step();
            Ok(f64::from(milliseconds) * 1e-3)
        };
        let samples = sample(effort, &mut once);
        // Nothing of the graph may be running when it is dropped.
        stream.synchronize()?;
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics() {
        let time = Time::of(&[4.0, 2.0, 8.0, 2.0, 200.0], 2).unwrap();
        assert_eq!(time, Time { median: 2.0, min: 1.0, max: 100.0, median_deviation: 1.0, samples: 5, launches: 2 });
        assert_eq!(Time::of(&[1.0, 3.0], 1).unwrap().median, 2.0);
        assert_eq!((Time::of(&[], 1), Time::of(&[1.0], 0)), (None, None));
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
        let nothing = Effort { warm_up: Duration::ZERO, budget: Duration::ZERO, least: 0, most: 0 };
        // SAFETY: nothing is launched
        let [one, none] = [1, 0].map(|launches| unsafe { timer.measure(&nothing, launches, |_| Ok(())) });
        assert_eq!(one.unwrap().samples, 1, "an effort that allows no sample gives one");
        assert!(matches!(none, Err(Error::Attribute { name: "launches", .. })));
    }
}
