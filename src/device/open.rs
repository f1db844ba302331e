//! Which devices there are, and how a program opens one.

use super::{Device, MemoryOptions};
#[cfg(feature = "host")]
use super::{HostOptions, host};
#[cfg(feature = "cuda")]
use super::{Inner, cuda};
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use std::sync::{Arc, Weak};
#[cfg(any(feature = "host", feature = "cuda"))]
use std::sync::{Mutex, PoisonError};

impl Device {
    /// The host device on all cores. It is the same device at each call in a process;
    /// [`Device::host_with`] makes others.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] without the feature `host`; [`Error::DeviceUnavailable`] when its
    /// threads cannot be started.
    pub fn host() -> Result<Self> {
        #[cfg(feature = "host")]
        {
            // The process that made the device is kept with it: the device's threads do not survive
            // a fork.
            static HOST: Mutex<Option<(u32, Device)>> = Mutex::new(None);
            let process = std::process::id();
            let mut host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, device)) = host.as_ref().filter(|(made_in, _)| *made_in == process) {
                return Ok(device.clone());
            }
            let device = Self::host_with(HostOptions::default())?;
            *host = Some((process, device.clone()));
            Ok(device)
        }
        #[cfg(not(feature = "host"))]
        Err(Error::MissingFeature { feature: "host" })
    }

    /// A new host device with options for threads, checker and order of threads. Each call returns
    /// a distinct device with its own threads.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] when the checker is asked for and the feature `checked-host` is
    /// off.
    #[cfg(feature = "host")]
    pub fn host_with(options: HostOptions) -> Result<Self> {
        let memory = options.memory;
        Ok(Self::from_backend(host::HostDevice::new(options)?, memory))
    }

    /// The GPU `ordinal`, with its primary context. As long as a handle exists, further calls
    /// return the same device.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] without the feature `cuda`; [`Error::DeviceUnavailable`] without a
    /// driver or such a GPU.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Self::open_cuda(ordinal, None)
    }

    /// The GPU `ordinal` as [`Device::cuda`] gives it, with a bound for its memory.
    ///
    /// # Errors
    /// As [`Device::cuda`]; [`Error::Attribute`] when the device is open already, with other
    /// options.
    pub fn cuda_with(ordinal: usize, memory: MemoryOptions) -> Result<Self> {
        Self::open_cuda(ordinal, Some(memory))
    }

    fn open_cuda(ordinal: usize, memory: Option<MemoryOptions>) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Self::open_context(cuda::primary_context(ordinal)?, memory);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (ordinal, memory);
            Err(Error::MissingFeature { feature: "cuda" })
        }
    }

    /// The GPU of a context that the caller owns. Another handle of the same context gives the same
    /// device; for a primary context that is the device of [`Device::cuda`].
    ///
    /// # Errors
    /// [`Error::Driver`] when the device's properties cannot be read.
    #[cfg(feature = "cuda")]
    pub fn from_cuda(context: Arc<cudarc::driver::CudaContext>) -> Result<Self> {
        Self::open_context(context, None)
    }

    /// The GPU of a context that the caller owns, with a bound for the memory that this crate holds
    /// on it.
    ///
    /// # Errors
    /// As [`Device::from_cuda`]; [`Error::Attribute`] when the device is open already, with other
    /// options.
    #[cfg(feature = "cuda")]
    pub fn from_cuda_with(context: Arc<cudarc::driver::CudaContext>, memory: MemoryOptions) -> Result<Self> {
        Self::open_context(context, Some(memory))
    }

    #[cfg(feature = "cuda")]
    fn open_context(context: Arc<cudarc::driver::CudaContext>, memory: Option<MemoryOptions>) -> Result<Self> {
        // The open devices by their contexts. A context lives as long as its device, so that no
        // other context has its address.
        static DEVICES: Mutex<Vec<(usize, Weak<Inner>)>> = Mutex::new(Vec::new());
        let address = context.cu_ctx() as usize;
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        devices.retain(|(_, device)| device.strong_count() > 0);
        let found = devices.iter().find(|(context, _)| *context == address).and_then(|(_, device)| device.upgrade());
        if let Some(device) = found {
            return match memory {
                Some(memory) if memory != device.memory => Err(Error::Attribute {
                    name: "the memory options",
                    value: format!("{memory:?}"),
                    requirement: "those with which the device was opened, as long as a handle of it exists",
                }),
                _ => Ok(Self(device)),
            };
        }
        let memory = memory.unwrap_or_default();
        let device = Self::from_backend(cuda::CudaDevice::new(context, &memory)?, memory);
        devices.push((address, Arc::downgrade(&device.0)));
        Ok(device)
    }

    /// The first GPU, if this build has the feature `cuda` and there are a driver and a GPU;
    /// otherwise the host device. [`Device::describe`] says which of the two it is, and why it is
    /// not a GPU. Each call returns the same device as [`Device::cuda`] or [`Device::host`] would.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] when there is neither. The message says why there is no GPU.
    pub fn best() -> Result<Self> {
        #[cfg(feature = "cuda")]
        if cuda::unavailable().is_none() {
            return Self::cuda(0);
        }
        if cfg!(feature = "host") { Self::host() } else { Err(no_device(gpu_hint())) }
    }

    /// The device that a text names: "best", "host" or "cuda:N", as in the program's `--device`.
    ///
    /// # Errors
    /// [`Error::Parse`], and the errors of the constructors.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "best" => Self::best(),
            "host" => Self::host(),
            "cuda" => Self::cuda(0),
            _ => match text.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Self::cuda(ordinal),
                None => Err(Error::Parse { source_name: format!("device {text:?}"), message: "expected best, host or cuda:N".into() }),
            },
        }
    }
}

/// Why the best device is not a GPU although there may be one.
pub(super) fn gpu_hint() -> Option<String> {
    #[cfg(feature = "cuda")]
    return cuda::unavailable();
    #[cfg(not(feature = "cuda"))]
    std::path::Path::new("/proc/driver/nvidia/version")
        .exists()
        .then(|| "an NVIDIA driver is there, but this build has no CUDA: build with --features cuda".into())
}

/// The error if there is neither a GPU nor a host device. `why` says why there is no GPU.
fn no_device(why: Option<String>) -> Error {
    let gpu = why.unwrap_or_else(|| "this build has no CUDA: build with --features cuda".into());
    let why = format!("{gpu}; and this build has no host device: build with --features host");
    Error::DeviceUnavailable { requested: "the best device".into(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_device_the_error_says_why_there_is_no_gpu() {
        let message = no_device(Some("no NVIDIA driver was found".into())).to_string();
        assert!(message.contains("no NVIDIA driver was found") && message.contains("--features host"), "{message}");
        let message = no_device(None).to_string();
        assert!(message.contains("--features cuda") && message.contains("--features host"), "{message}");
    }
}
