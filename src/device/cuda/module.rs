//! Code on a GPU: the modules of loaded fatbins, and the kernels in them.

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use std::ffi::c_void;
use std::sync::Arc;

/// Embedded code, aligned as the driver reads it. Unused if DOCS_RS leaves the code out.
#[repr(C, align(64))]
#[allow(dead_code)]
pub(crate) struct Aligned<Bytes: ?Sized>(pub Bytes);

/// The code of a fatbin on a device.
#[derive(Debug)]
pub(super) struct Module {
    pub handle: sys::CUmodule,
    pub context: Arc<CudaContext>,
}

// SAFETY: a module is a handle, which the driver lets any thread use whose current context is the module's; that is made current
// before each use
unsafe impl Send for Module {}
// SAFETY: as above
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // Kernels of the module may be running on a stream that the caller owns, and unloading
            // is not documented to wait for them. Errors could only repeat what a stream has
            // reported.
            let _ = self.context.synchronize();
            // SAFETY: loaded by `CudaDevice::module`; every function of it holds this module, so that none is left, and nothing that
            // was launched of them is under way
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}

/// A kernel on a device.
#[derive(Debug)]
pub(crate) struct Function {
    pub(super) handle: sys::CUfunction,
    pub(super) _module: Arc<Module>,
}

impl Function {
    /// Launches by cudarc's launch and nothing else.
    ///
    /// # Safety
    /// `params` is the kernel's parameter struct, and the addresses in it are valid until the
    /// stream has run it. The stream's context is current.
    pub unsafe fn launch(
        &self,
        [x, y, z]: [u32; 3],
        threads: u32,
        shared: u32,
        params: &[u8],
        stream: &CudaStream,
    ) -> Result<(), DriverError> {
        let mut params = [params.as_ptr().cast::<c_void>().cast_mut()];
        // SAFETY: the kernel takes one struct by value, whose bytes these are and which the driver copies before it returns; the
        // module that the function is of is loaded as long as `self`; the rest is passed on to the
        // caller
        unsafe { result::launch_kernel(self.handle, (x, y, z), (threads, 1, 1), shared, stream.cu_stream(), &mut params) }
    }
}

// SAFETY: as a module's handle
unsafe impl Send for Function {}
// SAFETY: as above
unsafe impl Sync for Function {}
