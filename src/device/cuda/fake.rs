//! The kernels of the fake driver (fake_driver.c): the host device runs them. For tests, and for the feature `fake-gpu`, with which
//! the whole program runs on that driver; a build without it never looks for one.

use super::Launch;
use crate::device::host::HostDevice;
use crate::device::kernel::{KERNELS, find};
use crate::{Device, HostOptions, MemoryOptions, Stream};
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

type LaunchCallback = unsafe extern "C" fn(*const c_char, *const u32, u32, *const u8);
type ParamsCallback = unsafe extern "C" fn(*const c_char) -> usize;

/// Gives the driver its kernels, if it is the fake one.
pub(super) fn attach(driver: &libloading::Library) {
    // SAFETY: only the fake driver has a function of this name, and it is as fake_driver.c declares it
    unsafe {
        if let Ok(set) = driver.get::<unsafe extern "C" fn(LaunchCallback, ParamsCallback)>(b"fake_set_callbacks\0") {
            set(launch, params_bytes);
        }
    }
}

unsafe extern "C" fn params_bytes(name: *const c_char) -> usize {
    // SAFETY: the fake driver passes a string
    let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default();
    KERNELS.iter().find(|kernel| kernel.name == name).map_or(0, |kernel| kernel.params_bytes)
}

unsafe extern "C" fn launch(name: *const c_char, grid: *const u32, shared_bytes: u32, params: *const u8) {
    static HOST: OnceLock<Device> = OnceLock::new();
    let host = HOST.get_or_init(|| {
        Device::from_backend(HostDevice::new(HostOptions::default()).expect("the host device starts"), MemoryOptions::default())
    });
    // SAFETY: the fake driver passes a kernel's name, three sizes and the kernel's parameters; its memory is this process's
    let outcome = unsafe {
        let info = find(CStr::from_ptr(name).to_str().unwrap_or_default());
        let params = std::slice::from_raw_parts(params, info.params_bytes);
        host.load(info).and_then(|kernel| {
            let launch = Launch { kernel: &kernel, grid: *grid.cast(), shared_bytes, params, operands: &[] };
            host.0.backend.launch(&launch, &Stream::default_of(host))
        })
    };
    // nothing may unwind into the driver
    if let Err(error) = outcome {
        eprintln!("the fake GPU: {error}");
        std::process::abort();
    }
}
