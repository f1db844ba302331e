//! GPUs, through cudarc.
//!
//! heap.rs says where memory comes from and when it goes back. Launches do not use cudarc's launch
//! builder and its events: a launch is a single cuLaunchKernel, which can be captured in a graph.
//!
//! Every function of the driver that is called here exists since CUDA 12.0 or longer, whatever CUDA
//! version cudarc is bound to, because cudarc panics if a driver lacks a function. fake_driver.c,
//! with which this is tested, has no other functions.

mod driver;
mod heap;
mod module;
mod streams;

pub(super) use driver::primary_context;
pub(crate) use driver::{check_context, check_stream, driver_error, elapsed, failed, is_capturing, unavailable};
#[allow(unused_imports)] // by the table of code, which DOCS_RS leaves out
pub(crate) use module::Aligned;
pub(crate) use module::Function;
pub(crate) use streams::Streams;

use super::uses::{Others, Uses};
use super::{Backend, DeviceKind, GpuModel, Launch, MemoryOptions, Properties, Stream, StreamKind, Watch};
use crate::build_info;
use crate::device::kernel::{FATBINS, Kernel, KernelInfo};
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as FunctionAttribute, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use driver::{driver_version, no_kernel_image, version};
use heap::{Failure, Freed, Heap};
use module::Module;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug)]
pub(crate) struct CudaDevice {
    /// The loaded modules by their index in `FATBINS`.
    modules: Mutex<HashMap<usize, Arc<Module>>>,
    default_stream: Arc<CudaStream>,
    properties: Properties,
    grid_limit: [u32; 3],
    driver: (u32, u32),
    watch: Watch,
    /// Streams on which work of this crate may be under way.
    busy: Mutex<Streams>,
    heap: Heap,
    context: Arc<CudaContext>,
}

impl CudaDevice {
    pub fn new(context: Arc<CudaContext>, memory: &MemoryOptions) -> Result<Self> {
        let attribute = |name| context.attribute(name).map(|v| v as u32).map_err(|e| driver_error("cuDeviceGetAttribute", e));
        let name = context.name().map_err(|e| driver_error("cuDeviceGetName", e))?;
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let has_pools = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0;
        let heap = Heap::new(&context, has_pools, memory).map_err(|(call, e)| driver_error(call, e))?;
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
            heap,
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

    /// Records that work was queued on a stream.
    fn queued(&self, stream: &Arc<CudaStream>) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).add(stream);
    }

    /// The streams on which work of this crate may be under way.
    fn busy(&self) -> Vec<Arc<CudaStream>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).now().into_iter().map(|(stream, _)| stream).collect()
    }

    /// Waits until copies on the crate's own stream are done.
    fn wait_for_copies(&self) -> Result<()> {
        self.heap.copies.0.synchronize().map_err(self.failed("cuStreamSynchronize"))
    }

    /// Queues a copy on a stream of the driver, and remembers the stream.
    fn queue(&self, call: &'static str, stream: &Stream, copy: impl FnOnce(&CudaStream) -> Result<(), DriverError>) -> Result<()> {
        let wrong = || Error::WrongDevice { name: "the stream", expected: "a GPU".into(), got: "the host device".into() };
        let stream = stream.as_cuda().ok_or_else(wrong)?;
        self.bind()?;
        let outcome = copy(stream).map_err(self.failed(call));
        self.queued(stream);
        outcome
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
        self.heap.allocate(bytes, || self.busy()).map_err(|(call, e)| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free =
                    result::mem_get_info().map_or_else(|_| String::new(), |(free, total)| format!(" ({free} of {total} bytes are free)"));
                let device = format!("cuda:{} ({})", self.ordinal(), self.properties.name);
                Error::OutOfMemory { bytes, device, message: format!("the GPU's memory does not suffice{free}") }
            }
            _ => failed(&self.watch, call, e),
        })
    }

    unsafe fn free(&self, address: u64, bytes: usize, uses: &Uses) {
        if self.bind().is_ok() {
            let mut streams: Vec<_> = uses.streams().now().into_iter().map(|(stream, _)| stream).collect();
            let others = uses.others();
            if others != Others::Nobody {
                streams.extend(self.busy());
            }
            // SAFETY: from `allocate`, and no new work uses it, the caller says; work that was queued
            // is on these streams
            unsafe { self.heap.free(Freed { address, bytes, streams, by_anyone: others == Others::Anyone }) }
        }
    }

    fn wait_for_frees(&self, most: u64) -> u64 {
        if self.bind().is_ok() { self.heap.wait_for_frees(most) } else { 0 }
    }

    fn trim(&self) -> Result<()> {
        self.bind()?;
        self.heap.trim().map_err(|(call, e): Failure| failed(&self.watch, call, e))
    }

    fn wait_for_uses(&self, uses: Option<&Uses>) -> Result<()> {
        let Some(uses) = uses.filter(|uses| uses.others() == Others::Nobody) else { return self.synchronize() };
        let streams = uses.streams().now();
        for (stream, _) in &streams {
            // Work that was queued before the capture cannot be waited for before it has ended.
            if is_capturing(stream)? {
                return Err(Error::Capturing);
            }
            stream.synchronize().map_err(self.failed("cuStreamSynchronize"))?;
        }
        uses.streams().forget(&streams);
        Ok(())
    }

    fn stream_of_copies(&self) -> StreamKind {
        StreamKind::Cuda(self.heap.copies.0.clone())
    }

    unsafe fn upload(&self, address: u64, from: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller promises valid memory, which nothing else uses; the copy is waited for
        unsafe { result::memcpy_htod_async(address, from, self.heap.copies.0.cu_stream()) }.map_err(self.failed("cuMemcpyHtoDAsync"))?;
        self.wait_for_copies()
    }

    unsafe fn download(&self, address: u64, to: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: as in `upload`
        unsafe { result::memcpy_dtoh_async(to, address, self.heap.copies.0.cu_stream()) }.map_err(self.failed("cuMemcpyDtoHAsync"))?;
        self.wait_for_copies()
    }

    unsafe fn fill_zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: as in `upload`
        unsafe { result::memset_d8_async(address, 0, bytes, self.heap.copies.0.cu_stream()) }.map_err(self.failed("cuMemsetD8Async"))?;
        self.wait_for_copies()
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: &Stream) -> Result<()> {
        // SAFETY: the caller promises valid memory until the stream has run the copy
        self.queue("cuMemcpyDtoDAsync", stream, |stream| unsafe { result::memcpy_dtod_async(to, from, bytes, stream.cu_stream()) })
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
        // SAFETY: the caller promises memory of this length that stays as it is until the stream has run the copy
        let from = unsafe { std::slice::from_raw_parts(from, bytes) };
        // SAFETY: as the caller promises; `queue` binds the context
        self.queue("cuMemcpyHtoDAsync", stream, |stream| unsafe { result::memcpy_htod_async(to, from, stream.cu_stream()) })
    }

    unsafe fn download_async(&self, from: u64, to: *mut u8, bytes: usize, stream: &Stream) -> Result<()> {
        // SAFETY: the caller promises memory of this length that nobody else uses until the stream has run the copy
        let to = unsafe { std::slice::from_raw_parts_mut(to, bytes) };
        // SAFETY: as the caller promises; `queue` binds the context
        self.queue("cuMemcpyDtoHAsync", stream, |stream| unsafe { result::memcpy_dtoh_async(to, from, stream.cu_stream()) })
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
        // SAFETY: as the caller promises; the context is bound
        let outcome = unsafe { function.launch(launch.grid, launch.kernel.info.threads, launch.shared_bytes, launch.params, stream) };
        self.queued(stream);
        outcome.map_err(self.failed("cuLaunchKernel"))
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
