//! The driver as a whole: whether there is one, which GPUs there are, and what its errors mean.

use crate::build_info;
use crate::device::{Device, Watch};
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};
use std::sync::{Arc, OnceLock};

fn words(error: DriverError) -> String {
    let description = error.error_string().ok().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{:?}: {description}", error.0)
}

/// Converts an error of the driver, when there is no device yet.
pub(crate) fn driver_error(call: &'static str, error: DriverError) -> Error {
    Error::Driver { call, code: error.0 as u32, message: words(error) }
}

/// Converts an error of the driver on a device. Only this function decides whether the device is
/// lost.
pub(crate) fn failed(watch: &Watch, call: &'static str, error: DriverError) -> Error {
    if ends_context(error.0) { watch.lose(call, error.0 as u32, words(error)) } else { driver_error(call, error) }
}

/// Whether a result means that the context can no longer be used. Results are compared by number,
/// since some have no name in older versions of CUDA.
pub(super) fn ends_context(result: CUresult) -> bool {
    // Uncorrectable ECC and NVLink errors; illegal address, launch timeout, context destroyed,
    // assert, hardware stack error, illegal instruction, misaligned address, invalid address space,
    // invalid program counter, launch failed; unknown error.
    matches!(result as u32, 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 999)
}

/// Why the first GPU cannot be used, or `None` if it can. Never panics.
pub(crate) fn unavailable() -> Option<String> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    ANSWER
        .get_or_init(|| match gpus().map(|gpus| gpus.into_iter().next()) {
            Ok(Some(gpu)) if build_info().runs_on(gpu.capability) => None,
            Ok(Some(gpu)) => Some(no_kernel_image(&gpu.name, gpu.capability).to_string()),
            Ok(None) => Some("there is no NVIDIA GPU".into()),
            Err(why) => Some(why),
        })
        .clone()
}

struct Gpu {
    name: String,
    capability: (u32, u32),
}

/// All GPUs, or why there are none.
fn gpus() -> Result<Vec<Gpu>, String> {
    driver()?;
    let all = || -> Result<Vec<_>, DriverError> {
        (0..result::device::get_count()?)
            .map(|ordinal| {
                let device = result::device::get(ordinal)?;
                // SAFETY: the driver has just returned this device
                let attribute = |name| unsafe { result::device::get_attribute(device, name) };
                let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
                let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
                Ok(Gpu { name: result::device::get_name(device)?, capability: (major as u32, minor as u32) })
            })
            .collect()
    };
    all().map_err(|e| driver_error("listing the GPUs", e).to_string())
}

const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// Initialises the driver, or says why that is impossible. Nothing else of cudarc may be called
/// before, since cudarc panics if there is no driver.
fn driver() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER
        .get_or_init(|| {
            // cudarc's own test, `is_culib_present`, does not exist when another crate makes cudarc
            // link the driver.
            // SAFETY: the driver's library may be loaded by any program at any time
            let library = unsafe { libloading::Library::new(LIBRARY) };
            let library = library.map_err(|_| format!("there is no NVIDIA driver ({LIBRARY} cannot be loaded)"))?;
            #[cfg(feature = "fake-gpu")]
            {
                super::fake::attach(&library);
                std::mem::forget(library); // with what was attached
            }
            #[cfg(not(feature = "fake-gpu"))]
            drop(library);
            match result::init() {
                Ok(()) => Ok(()),
                Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Err("there is an NVIDIA driver, but no GPU".into()),
                Err(e) => Err(format!("the NVIDIA driver does not start: {}", driver_error("cuInit", e))),
            }
        })
        .clone()
}

/// Milliseconds between two events that are complete. If cudarc is bound to CUDA 13, its own call
/// is of a function that drivers before CUDA 12.8 lack.
pub(crate) fn elapsed(start: &CudaEvent, end: &CudaEvent) -> Result<f32, DriverError> {
    type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> CUresult;
    static FUNCTION: OnceLock<Option<ElapsedTime>> = OnceLock::new();
    let function = FUNCTION.get_or_init(|| {
        // SAFETY: the driver's library is loaded already, and it has had this function, with this
        // signature, from the start
        unsafe {
            let library = libloading::Library::new(LIBRARY).ok()?;
            let function = *library.get::<ElapsedTime>(b"cuEventElapsedTime\0").ok()?;
            std::mem::forget(library); // with the function
            Some(function)
        }
    });
    let function = function.ok_or(DriverError(CUresult::CUDA_ERROR_NOT_FOUND))?;
    let mut milliseconds = 0.0;
    // SAFETY: both events are alive; the function writes one number
    unsafe { function(&mut milliseconds, start.cu_event(), end.cu_event()) }.result()?;
    Ok(milliseconds)
}

/// The newest CUDA version that the driver supports, such as (13, 0).
pub(super) fn driver_version() -> Result<(u32, u32)> {
    let mut version = 0;
    // SAFETY: writes one integer, which is there; the driver is loaded, or there would be no
    // context
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| driver_error("cuDriverGetVersion", e))?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

pub(super) fn no_kernel_image(gpu: &str, (major, minor): (u32, u32)) -> Error {
    let code = build_info().cuda_code;
    Error::NoKernelImage {
        gpu: gpu.into(),
        capability: format!("{major}.{minor}"),
        capability_number: format!("{major}{minor}"),
        embedded: if code.is_empty() { "none".into() } else { code.join(", ") },
    }
}

/// Whether a stream is being captured, by this crate or by others.
pub(crate) fn is_capturing(stream: &CudaStream) -> Result<bool> {
    // SAFETY: the stream is alive. Unlike cudarc's own call this needs no current context, so that
    // it costs next to nothing.
    let status = unsafe { result::stream::is_capturing(stream.cu_stream()) }.map_err(|e| driver_error("cuStreamIsCapturing", e))?;
    Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// Refuses a stream whose context is not the device's.
pub(crate) fn check_stream(device: &Device, stream: &CudaStream) -> Result<()> {
    check_context(device, "the stream", stream.context())
}

/// Refuses an object whose context is not the device's.
pub(crate) fn check_context(device: &Device, name: &'static str, context: &CudaContext) -> Result<()> {
    match device.cuda_context() {
        Some(own) if own.cu_ctx() == context.cu_ctx() => Ok(()),
        _ => {
            let got = format!("another context (of GPU {})", context.ordinal());
            Err(Error::WrongDevice { name, expected: device.to_string(), got })
        }
    }
}

/// The primary context of a GPU.
pub(in crate::device) fn primary_context(ordinal: usize) -> Result<Arc<CudaContext>> {
    let fail = |why| Error::DeviceUnavailable { requested: format!("cuda:{ordinal}"), why };
    let gpus = gpus().map_err(|why| fail(format!("{why}; the host device needs no GPU")))?;
    if ordinal >= gpus.len() {
        let list: Vec<String> = gpus.iter().enumerate().map(|(i, gpu)| format!("cuda:{i} ({})", gpu.name)).collect();
        return Err(fail(if list.is_empty() { "there is no GPU".into() } else { format!("there are {}", list.join(", ")) }));
    }
    CudaContext::new(ordinal).map_err(|e| fail(driver_error("cuDevicePrimaryCtxRetain", e).to_string()))
}

pub(super) fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}
