//! Device memory: where it comes from, and when it goes back.
//!
//! Memory comes from a pool of the driver that is this crate's own (cuMemAllocFromPoolAsync), where
//! the driver has pools. It is freed in the turn of the stream that used it last (cuMemFreeAsync);
//! if several streams used it, in the turn of a stream that waits for events on them. The host waits
//! for nothing, and no stream waits for another. The pool gives out again what a stream has got so
//! far as to free, and may not make a stream wait for that (no internal dependencies).
//!
//! An allocation is made on a stream on which there is never any work, and which the host waits
//! for: every stream may use the memory at once.
//!
//! While a stream of use is being captured, a free on it would become a part of the graph. It is put
//! off until the capture has ended.
//!
//! Without pools memory is allocated by cuMemAlloc, and freed when the host has waited for the
//! streams that used it.

use super::driver::is_capturing;
use crate::device::MemoryOptions;
use cudarc::driver::sys::{self, CUmemPool_attribute_enum as PoolAttribute, CUresult};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A call of the driver that failed.
pub(super) type Failure = (&'static str, DriverError);

/// A stream that only this crate uses. cudarc does not count it: a second stream that it counts
/// makes it record events for every slice in the context, which may be candle's.
#[derive(Debug)]
pub(super) struct OwnStream(pub Arc<CudaStream>);

impl OwnStream {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        // SAFETY: just created in this context, and destroyed by this owner alone
        Ok(Self(unsafe { context.wrap_borrowed_stream(stream) }))
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        if self.0.context().bind_to_thread().is_ok() {
            // SAFETY: created by `new`; the device, which ends here, has lent it to nobody for longer.
            // What is queued is still done, says the driver's reference. An error could only repeat one
            // that a stream has reported.
            let _ = unsafe { result::stream::destroy(self.0.cu_stream()) };
        }
    }
}

/// The driver's `CUmemPoolProps`. cudarc's struct has other fields in each version of CUDA; the
/// layout is the same in all.
#[repr(C)]
struct PoolProperties {
    allocation_type: u32,
    handle_types: u32,
    location_type: u32,
    location: i32,
    security_attributes: u64,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<PoolProperties>() == size_of::<sys::CUmemPoolProps>(), "the driver reads all of it");

#[derive(Debug)]
struct Pool {
    handle: sys::CUmemoryPool,
    /// The stream of allocations, and of frees of what no stream has used.
    allocations: OwnStream,
    /// The stream of frees of what several streams have used.
    frees: OwnStream,
}

// SAFETY: a pool is a handle, which the driver lets any thread use
unsafe impl Send for Pool {}
// SAFETY: as above
unsafe impl Sync for Pool {}

impl Pool {
    fn new(context: &Arc<CudaContext>, keep: u64) -> Result<Self, Failure> {
        let own = || OwnStream::new(context).map_err(|e| ("cuStreamCreate", e));
        let (allocations, frees) = (own()?, own()?);
        const PINNED: u32 = 1;
        const ON_A_DEVICE: u32 = 1;
        let location = context.ordinal() as i32;
        let properties = PoolProperties {
            allocation_type: PINNED,
            handle_types: 0,
            location_type: ON_A_DEVICE,
            location,
            security_attributes: 0,
            reserved: [0; 8],
        };
        // SAFETY: the struct is the driver's, as long as the driver's and filled as it asks
        let handle = unsafe { result::mem_pool::create((&raw const properties).cast()) }.map_err(|e| ("cuMemPoolCreate", e))?;
        let pool = Self { handle, allocations, frees };
        let mut keep = keep;
        let mut no = 0i32;
        let attributes: [(_, *mut c_void); 2] = [
            (PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut keep).cast()),
            (PoolAttribute::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES, (&raw mut no).cast()),
        ];
        for (attribute, value) in attributes {
            // SAFETY: the pool is alive; the first value is of 64 bits, the second an int, as the driver's
            // reference says
            unsafe { result::mem_pool::set_attribute(pool.handle, attribute, value) }.map_err(|e| ("cuMemPoolSetAttribute", e))?;
        }
        Ok(pool)
    }

    /// Memory that any stream may use from now on.
    fn allocate(&self, bytes: usize) -> Result<u64, Failure> {
        let stream = self.allocations.0.cu_stream();
        // SAFETY: pool and stream are alive; the memory is uninitialised, which the caller knows
        let address = unsafe { result::mem_pool::alloc_async(self.handle, bytes, stream) };
        let address = address.map_err(|e| ("cuMemAllocFromPoolAsync", e))?;
        // SAFETY: the stream is alive
        unsafe { result::stream::synchronize(stream) }.map_err(|e| ("cuStreamSynchronize", e))?;
        Ok(address)
    }

    fn trim(&self) -> Result<(), DriverError> {
        // SAFETY: the pool is alive
        unsafe { result::mem_pool::trim_to(self.handle, 0) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: created by `new`. Memory of it that is still being freed goes when that is done, says
        // the driver's reference.
        let _ = unsafe { result::mem_pool::destroy(self.handle) };
    }
}

/// Memory that its owner has given up.
#[derive(Debug)]
pub(super) struct Freed {
    pub address: u64,
    pub bytes: usize,
    /// The streams with work that may still use it.
    pub streams: Vec<Arc<CudaStream>>,
    /// Whether work that this crate does not know may use it as well.
    pub by_anyone: bool,
}

/// The device memory of a context.
#[derive(Debug)]
pub(super) struct Heap {
    pool: Option<Pool>,
    /// The stream of copies that the host waits for.
    pub copies: OwnStream,
    /// Frees that a capture has put off.
    put_off: Mutex<Vec<Freed>>,
    /// Frees that a stream has not come to yet, each with an event behind it; only if there is a
    /// limit.
    under_way: Mutex<VecDeque<(CudaEvent, u64)>>,
    /// The bytes of both.
    pending: AtomicU64,
    limited: bool,
    context: Arc<CudaContext>,
}

impl Heap {
    pub fn new(context: &Arc<CudaContext>, has_pools: bool, options: &MemoryOptions) -> Result<Self, Failure> {
        Ok(Self {
            pool: has_pools.then(|| Pool::new(context, options.keep)).transpose()?,
            copies: OwnStream::new(context).map_err(|e| ("cuStreamCreate", e))?,
            put_off: Mutex::default(),
            under_way: Mutex::default(),
            pending: AtomicU64::new(0),
            limited: options.limit.is_some(),
            context: context.clone(),
        })
    }

    fn put_off(&self) -> MutexGuard<'_, Vec<Freed>> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates memory. If the GPU has no more, waits for the streams of `busy` and for what they
    /// free, and tries again. The context is bound.
    pub fn allocate(&self, bytes: usize, busy: impl Fn() -> Vec<Arc<CudaStream>>) -> Result<u64, Failure> {
        self.free_what_was_put_off();
        let Some(pool) = &self.pool else {
            // SAFETY: `bytes` is above 0; the memory is uninitialised, which the caller knows
            return unsafe { result::malloc_sync(bytes) }.map_err(|e| ("cuMemAlloc", e));
        };
        match pool.allocate(bytes) {
            Err((_, DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY))) => {
                let streams = busy().into_iter().filter(|stream| matches!(is_capturing(stream), Ok(false)));
                for stream in streams.chain([pool.frees.0.clone()]) {
                    stream.synchronize().map_err(|e| ("cuStreamSynchronize", e))?;
                }
                pool.trim().map_err(|e| ("cuMemPoolTrimTo", e))?;
                pool.allocate(bytes)
            }
            outcome => outcome,
        }
    }

    /// Frees memory when the work that uses it is done. The context is bound.
    ///
    /// # Safety
    /// It is from `allocate`, was not freed before, and no new work will use it.
    pub unsafe fn free(&self, freed: Freed) {
        self.free_what_was_put_off();
        self.pending.fetch_add(freed.bytes as u64, Ordering::Relaxed);
        if let Err(freed) = self.try_free(freed) {
            self.put_off().push(freed);
        }
    }

    /// Frees memory, or returns it if a capture is in the way.
    fn try_free(&self, freed: Freed) -> Result<(), Freed> {
        if freed.streams.iter().any(|stream| !matches!(is_capturing(stream), Ok(false))) {
            return Err(freed);
        }
        // Errors are left alone in what follows: they could only repeat one that a stream has reported.
        if freed.by_anyone && self.context.synchronize().is_err() {
            return Err(freed);
        }
        let bytes = freed.bytes as u64;
        let Some(pool) = &self.pool else {
            for stream in &freed.streams {
                let _ = stream.synchronize();
            }
            // SAFETY: as the caller of `free` promises; what was queued is done
            let _ = unsafe { result::free_sync(freed.address) };
            self.given_back(bytes);
            return Ok(());
        };
        let stream = match &freed.streams[..] {
            [] => &pool.allocations.0,
            [one] => one,
            several => {
                let waits = |stream: &Arc<CudaStream>| pool.frees.0.wait(&stream.record_event(None)?);
                if several.iter().try_for_each(waits).is_err() {
                    return Err(freed);
                }
                &pool.frees.0
            }
        };
        // SAFETY: as the caller of `free` promises; this stream comes to the free after all work that was
        // queued with the memory
        if unsafe { result::free_async(freed.address, stream.cu_stream()) }.is_err() {
            return Err(freed);
        }
        match self.limited.then(|| stream.record_event(None)) {
            Some(Ok(event)) => self.under_way().push_back((event, bytes)),
            _ => self.given_back(bytes),
        }
        Ok(())
    }

    fn under_way(&self) -> MutexGuard<'_, VecDeque<(CudaEvent, u64)>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given_back(&self, bytes: u64) {
        self.pending.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Frees what captures have put off, if these have ended.
    fn free_what_was_put_off(&self) {
        let freed = std::mem::take(&mut *self.put_off());
        let still: Vec<Freed> = freed.into_iter().filter_map(|freed| self.try_free(freed).err()).collect();
        if !still.is_empty() {
            self.put_off().extend(still);
        }
    }

    /// Waits until at most `most` bytes are freed but not given back, if that can be waited for.
    /// Returns how many there still are.
    pub fn wait_for_frees(&self, most: u64) -> u64 {
        self.free_what_was_put_off();
        loop {
            let mut under_way = self.under_way();
            under_way.retain(|(event, bytes)| {
                let done = event.is_complete();
                if done {
                    self.given_back(*bytes);
                }
                !done
            });
            let pending = self.pending.load(Ordering::Relaxed);
            let oldest = if pending > most { under_way.pop_front() } else { None };
            drop(under_way);
            let Some((event, bytes)) = oldest else { return pending };
            // An error is the loss of the device, which the allocation then reports.
            let _ = event.synchronize();
            self.given_back(bytes);
        }
    }

    /// Gives unused memory back to the system. The context is bound.
    pub fn trim(&self) -> Result<(), Failure> {
        self.free_what_was_put_off();
        self.pool.as_ref().map_or(Ok(()), |pool| pool.trim().map_err(|e| ("cuMemPoolTrimTo", e)))
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // What a capture still puts off is leaked: whoever captured may replay the graph.
            self.free_what_was_put_off();
        }
    }
}
