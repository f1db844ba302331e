//! The shared library of scripts/check-dlpack: a convolution on a tensor that another library gives by DLPack.

use std::ffi::c_void;
use std::sync::LazyLock;
use warpconv::dlpack::{Managed, ManagedTensor, ManagedTensorVersioned, Owned};
use warpconv::{Conv2d, Conv2dSpec, Device, HostOptions, Inputs, Layer, Parameter, Result};

static DEVICE: LazyLock<Result<Device>> = LazyLock::new(|| Device::host_with(HostOptions::default()));

fn double<M: Managed>(taken: Option<Owned<M>>) -> Result<*mut c_void> {
    let (Ok(device), Some(taken)) = (&*DEVICE, taken) else { return Ok(std::ptr::null_mut()) };
    let x = taken.view::<f32>(device)?;
    let channels = x.shape()[1];
    let diagonal: Vec<f32> = (0..channels * channels).map(|i| if i % (channels + 1) == 0 { 2.0 } else { 0.0 }).collect();
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[channels, channels, 1, 1], &diagonal)?)?;
    Ok(layer.forward(&Inputs::new(x))?.into_dlpack::<M>()?.into_raw().cast())
}

/// Two times the tensor, which is released; null where it is refused, with the reason on stderr.
///
/// # Safety
/// `managed` is a `DLManagedTensorVersioned` if `versioned` is not 0, else a `DLManagedTensor`, which the caller gives away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn doubled(managed: *mut c_void, versioned: i32) -> *mut c_void {
    // SAFETY: as the caller says
    let result = unsafe {
        match versioned {
            0 => double(Owned::<ManagedTensor>::from_raw(managed.cast())),
            _ => double(Owned::<ManagedTensorVersioned>::from_raw(managed.cast())),
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        std::ptr::null_mut()
    })
}

/// The bytes of all tensors that are not released yet.
#[unsafe(no_mangle)]
pub extern "C" fn held_bytes() -> u64 {
    DEVICE.as_ref().map_or(0, Device::allocated_bytes)
}
