//! GPUs, through cudarc.
//!
//! Memory is allocated with cuMemAlloc, and freed with cuMemFree once every stream with work of
//! this crate is done, so no stream is special. Launches do not use cudarc's launch builder and its
//! events: a launch is a single cuLaunchKernel, which can be captured in a graph.
//!
//! Every function of the driver that is called here exists since CUDA 12.0 or longer, whatever CUDA
//! version cudarc is bound to, because cudarc panics if a driver lacks a function. fake_driver.c,
//! with which this is tested, has no other functions.

use super::{Backend, Device, DeviceKind, GpuModel, Launch, Properties, Stream, StreamKind, Watch};
use crate::build_info;
use crate::device::kernel::{FATBINS, Kernel, KernelInfo};
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as FunctionAttribute, CUresult};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Embedded code, aligned as the driver reads it. Unused if DOCS_RS leaves the code out.
#[repr(C, align(64))]
#[allow(dead_code)]
pub(crate) struct Aligned<Bytes: ?Sized>(pub Bytes);

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
fn ends_context(result: CUresult) -> bool {
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
                fake::attach(&library);
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
fn driver_version() -> Result<(u32, u32)> {
    let mut version = 0;
    // SAFETY: writes one integer, which is there; the driver is loaded, or there would be no
    // context
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| driver_error("cuDriverGetVersion", e))?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

fn no_kernel_image(gpu: &str, (major, minor): (u32, u32)) -> Error {
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

/// The code of a fatbin on a device.
#[derive(Debug)]
struct Module {
    handle: sys::CUmodule,
    context: Arc<CudaContext>,
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
    handle: sys::CUfunction,
    _module: Arc<Module>,
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

#[derive(Debug)]
pub(crate) struct CudaDevice {
    /// The loaded modules by their index in `FATBINS`.
    modules: Mutex<HashMap<usize, Arc<Module>>>,
    default_stream: Arc<CudaStream>,
    properties: Properties,
    grid_limit: [u32; 3],
    driver: (u32, u32),
    watch: Watch,
    /// Streams on which work was queued since memory was last freed.
    busy: Mutex<Vec<Arc<CudaStream>>>,
    context: Arc<CudaContext>,
}

/// The primary context of a GPU.
pub(super) fn primary_context(ordinal: usize) -> Result<Arc<CudaContext>> {
    let fail = |why| Error::DeviceUnavailable { requested: format!("cuda:{ordinal}"), why };
    let gpus = gpus().map_err(|why| fail(format!("{why}; the host device needs no GPU")))?;
    if ordinal >= gpus.len() {
        let list: Vec<String> = gpus.iter().enumerate().map(|(i, gpu)| format!("cuda:{i} ({})", gpu.name)).collect();
        return Err(fail(if list.is_empty() { "there is no GPU".into() } else { format!("there are {}", list.join(", ")) }));
    }
    CudaContext::new(ordinal).map_err(|e| fail(driver_error("cuDevicePrimaryCtxRetain", e).to_string()))
}

impl CudaDevice {
    pub fn new(context: Arc<CudaContext>) -> Result<Self> {
        let attribute = |name| context.attribute(name).map(|v| v as u32).map_err(|e| driver_error("cuDeviceGetAttribute", e));
        let name = context.name().map_err(|e| driver_error("cuDeviceGetName", e))?;
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        Ok(Self {
            modules: Mutex::default(),
            default_stream: context.default_stream(),
            properties: Properties {
                model: GpuModel::of(&name, capability),
                name,
                multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                shared_bytes_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
                compute_capability: capability,
            },
            grid_limit: [
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
            ],
            driver: driver_version()?,
            watch: Watch::default(),
            busy: Mutex::default(),
            context,
        })
    }

    /// Converts the error of a call that failed.
    fn failed(&self, call: &'static str) -> impl Fn(DriverError) -> Error {
        move |error| failed(&self.watch, call, error)
    }

    /// Makes the device's context current on this thread.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(self.failed("cuCtxSetCurrent"))
    }

    /// Records that work is about to be queued on a stream.
    fn queued(&self, stream: &Arc<CudaStream>) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.iter().all(|known| known.cu_stream() != stream.cu_stream()) {
            busy.push(stream.clone());
        }
    }

    /// Waits for everything that was queued. A stream that is being captured is left out, since
    /// waiting for it is not allowed: a capture runs nothing, and the owner of its replays is
    /// responsible for their memory.
    fn settle(&self) {
        let busy = std::mem::take(&mut *self.busy.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in busy.iter().filter(|stream| matches!(is_capturing(stream), Ok(false))) {
            // An error is recorded as the loss of the device, or can only repeat one that a stream
            // has reported.
            let _ = stream.synchronize().map_err(self.failed("cuStreamSynchronize"));
        }
    }

    /// The driver's stream, on which a copy is about to be queued. Binds the context.
    fn own<'a>(&self, stream: &'a Stream) -> Result<&'a Arc<CudaStream>> {
        let wrong = || Error::WrongDevice { name: "the stream", expected: "a GPU".into(), got: "the host device".into() };
        let stream = stream.as_cuda().ok_or_else(wrong)?;
        self.bind()?;
        self.queued(stream);
        Ok(stream)
    }

    /// The code of a fatbin, loaded when it is first needed.
    fn module(&self, index: usize) -> Result<Arc<Module>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&index) {
            return Ok(module.clone());
        }
        let capability = self.properties.compute_capability;
        let Some(image) = FATBINS.get(index).filter(|_| build_info().runs_on(capability)) else {
            return Err(no_kernel_image(&self.properties.name, capability));
        };
        // SAFETY: the image is a whole fatbin, as nvcc wrote it, aligned by `Aligned`; the context
        // is bound by `load`
        let handle = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(|e| self.load_error(e))?;
        let module = Arc::new(Module { handle, context: self.context.clone() });
        modules.insert(index, module.clone());
        Ok(module)
    }

    fn load_error(&self, error: DriverError) -> Error {
        let older = build_info().nvcc.filter(|&nvcc| self.driver < nvcc);
        match (error.0, older) {
            (
                CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                | CUresult::CUDA_ERROR_INVALID_PTX
                | CUresult::CUDA_ERROR_INVALID_IMAGE
                | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
                Some(nvcc),
            ) => Error::DriverTooOld { driver: version(self.driver), needed: version(nvcc) },
            (CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, None) => no_kernel_image(&self.properties.name, self.properties.compute_capability),
            _ => failed(&self.watch, "cuModuleLoadData", error),
        }
    }
}

fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

impl Backend for CudaDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Cuda
    }

    fn ordinal(&self) -> usize {
        self.context.ordinal()
    }

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn cuda_context(&self) -> Option<&Arc<CudaContext>> {
        Some(&self.context)
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: `bytes` is above 0; the memory is uninitialised, which the caller knows
        unsafe { result::malloc_sync(bytes) }.map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free =
                    result::mem_get_info().map_or_else(|_| String::new(), |(free, total)| format!(" ({free} of {total} bytes are free)"));
                let device = format!("cuda:{} ({})", self.ordinal(), self.properties.name);
                Error::OutOfMemory { bytes, device, message: format!("the GPU's memory does not suffice{free}") }
            }
            _ => failed(&self.watch, "cuMemAlloc", e),
        })
    }

    unsafe fn free(&self, address: u64, _: usize) {
        if self.bind().is_ok() {
            // The driver API's reference says of cuMemFree only that it "may perform implicit
            // synchronization".
            self.settle();
            // SAFETY: from `allocate`, and no new work uses it, the caller says; what was queued is done. An error could only repeat
            // one that a stream has reported.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    unsafe fn upload(&self, address: u64, from: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller promises valid memory
        unsafe { result::memcpy_htod_sync(address, from) }.map_err(self.failed("cuMemcpyHtoD"))?;
        // The last part of a copy from pageable memory may still be running.
        self.default_stream.synchronize().map_err(self.failed("cuStreamSynchronize"))
    }

    unsafe fn download(&self, address: u64, to: &mut [u8]) -> Result<()> {
        self.synchronize()?;
        // SAFETY: the caller promises valid memory
        unsafe { result::memcpy_dtoh_sync(to, address) }.map_err(self.failed("cuMemcpyDtoH"))
    }

    unsafe fn fill_zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller promises valid memory
        unsafe { result::memset_d8_sync(address, 0, bytes) }.map_err(self.failed("cuMemsetD8"))?;
        self.default_stream.synchronize().map_err(self.failed("cuStreamSynchronize"))
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: &Stream) -> Result<()> {
        let stream = self.own(stream)?;
        // SAFETY: the caller promises valid memory until the stream has run the copy
        unsafe { result::memcpy_dtod_async(to, from, bytes, stream.cu_stream()) }.map_err(self.failed("cuMemcpyDtoDAsync"))
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: `bytes` is above 0; the memory is uninitialised, which the caller knows
        let pointer = unsafe { result::malloc_host(bytes, 0) }.map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let message = "the system does not pin so much memory".into();
                Error::OutOfMemory { bytes, device: format!("the host, pinned for cuda:{}", self.ordinal()), message }
            }
            _ => failed(&self.watch, "cuMemHostAlloc", e),
        })?;
        Ok(pointer as u64)
    }

    unsafe fn free_pinned(&self, address: u64, _: usize) {
        if self.bind().is_ok() {
            // SAFETY: from `allocate_pinned`, and no copy uses it, the caller says. An error could only repeat one that a stream has
            // reported.
            let _ = unsafe { result::free_host(address as *mut c_void) };
        }
    }

    unsafe fn upload_async(&self, to: u64, from: *const u8, bytes: usize, stream: &Stream) -> Result<()> {
        let stream = self.own(stream)?;
        // SAFETY: the caller promises memory of this length that stays as it is until the stream has run the copy
        let from = unsafe { std::slice::from_raw_parts(from, bytes) };
        // SAFETY: as the caller promises; the context is bound
        unsafe { result::memcpy_htod_async(to, from, stream.cu_stream()) }.map_err(self.failed("cuMemcpyHtoDAsync"))
    }

    unsafe fn download_async(&self, from: u64, to: *mut u8, bytes: usize, stream: &Stream) -> Result<()> {
        let stream = self.own(stream)?;
        // SAFETY: the caller promises memory of this length that nobody else uses until the stream has run the copy
        let to = unsafe { std::slice::from_raw_parts_mut(to, bytes) };
        // SAFETY: as the caller promises; the context is bound
        unsafe { result::memcpy_dtoh_async(to, from, stream.cu_stream()) }.map_err(self.failed("cuMemcpyDtoHAsync"))
    }

    fn cache_bytes(&self) -> Option<usize> {
        let bytes = self.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).ok()?;
        usize::try_from(bytes).ok().filter(|&bytes| bytes > 0)
    }

    fn load(&self, info: &'static KernelInfo) -> Result<Kernel> {
        self.bind()?;
        let module = self.module(info.image)?;
        let name = CString::new(info.name).expect("names in the manifest have no NUL");
        // SAFETY: the module is loaded, the name ends in a NUL, and the context is bound
        let handle = unsafe { result::module::get_function(module.handle, name) }.map_err(self.failed("cuModuleGetFunction"))?;
        // Kernels have no static shared memory, so all shared memory of a block is dynamic. The
        // limit is set once, so that a launch is a single call.
        let shared_bytes = self.properties.shared_bytes_per_block;
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function was just loaded
        unsafe { result::function::set_function_attribute(handle, attribute, shared_bytes as i32) }
            .map_err(self.failed("cuFuncSetAttribute"))?;
        Ok(Kernel { info, cuda: Some(Function { handle, _module: module }) })
    }

    fn resident_blocks(&self, kernel: &Kernel, shared_bytes: u32) -> Result<u32> {
        let Some(function) = &kernel.cuda else {
            return Err(Error::WrongDevice { name: "the kernel", expected: "a GPU".into(), got: "the host device".into() });
        };
        self.bind()?;
        // SAFETY: the function's module is loaded, and the context is bound
        let of_each = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(function.handle, kernel.info.threads as i32, shared_bytes as usize)
        };
        let of_each = of_each.map_err(self.failed("cuOccupancyMaxActiveBlocksPerMultiprocessor"))?;
        Ok(self.properties.multiprocessors.saturating_mul(of_each.max(0) as u32))
    }

    unsafe fn launch(&self, launch: &Launch<'_>, stream: &Stream) -> Result<()> {
        let (Some(function), Some(stream)) = (&launch.kernel.cuda, stream.as_cuda()) else {
            return Err(Error::WrongDevice { name: "the kernel or the stream", expected: "a GPU".into(), got: "the host device".into() });
        };
        let limits = ["the number of blocks along x", "the number of blocks along y", "the number of blocks along z"];
        for ((what, blocks), limit) in limits.into_iter().zip(launch.grid).zip(self.grid_limit) {
            check_limit(what, blocks, limit)?;
        }
        check_limit("the shared memory of a block in bytes", launch.shared_bytes, self.properties.shared_bytes_per_block)?;
        self.bind()?;
        self.queued(stream);
        // SAFETY: as the caller promises; the context is bound
        unsafe { function.launch(launch.grid, launch.kernel.info.threads, launch.shared_bytes, launch.params, stream) }
            .map_err(self.failed("cuLaunchKernel"))
    }

    fn queued_on(&self, stream: &Stream) {
        if let Some(stream) = stream.as_cuda() {
            self.queued(stream);
        }
    }

    fn default_stream(&self) -> StreamKind {
        StreamKind::Cuda(self.default_stream.clone())
    }

    fn new_stream(&self) -> Result<StreamKind> {
        Ok(StreamKind::Cuda(self.context.new_stream().map_err(self.failed("cuStreamCreate"))?))
    }

    fn synchronize(&self) -> Result<()> {
        self.context.synchronize().map_err(self.failed("cuCtxSynchronize"))
    }
}

fn check_limit(what: &'static str, value: u32, limit: u32) -> Result<()> {
    if value > limit { Err(Error::Limit { what, value: value.into(), limit: limit.into() }) } else { Ok(()) }
}

#[cfg(any(feature = "fake-gpu", all(test, feature = "host", target_os = "linux")))]
mod fake;
#[cfg(all(test, feature = "host", target_os = "linux"))]
mod tests;
