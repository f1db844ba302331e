//! The trait behind [`Device`](super::Device): what each kind of device does for memory, streams
//! and launches.

#[cfg(feature = "checked-host")]
use super::LaunchCounters;
use super::kernel::{Kernel, KernelInfo};
use super::uses::Uses;
use super::{Block, DeviceKind, Properties, Stream, StreamKind, Watch};
use crate::error::Result;
use std::fmt;
#[cfg(feature = "cuda")]
use std::sync::Arc;

/// A tensor that a kernel accesses, for the host device's checker: its address and the elements
/// that belong to it.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "checked-host"), allow(dead_code))]
pub(crate) struct Operand {
    pub name: &'static str,
    pub address: u64,
    pub element_bytes: u32,
    pub shape: [usize; 4],
    pub strides: [usize; 4],
    pub access: Access,
}

/// What a kernel may do with an [`Operand`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// Every element must be written exactly once. None may be read.
    Write,
    /// Every element is read and then written by the same thread.
    Update,
}

impl Operand {
    /// An operand that is all of some memory, as consecutive elements.
    pub fn packed(name: &'static str, memory: &Block, element_bytes: usize, access: Access) -> Self {
        let count = memory.bytes() / element_bytes;
        Self {
            name,
            address: memory.address(),
            element_bytes: element_bytes as u32,
            shape: [1, 1, 1, count],
            strides: [0, 0, 0, 1],
            access,
        }
    }
}

/// One launch of a kernel.
#[cfg_attr(not(any(feature = "host", feature = "cuda")), allow(dead_code))]
pub(crate) struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub shared_bytes: u32,
    /// The bytes of the kernel's parameter struct.
    pub params: &'a [u8],
    #[cfg_attr(not(feature = "checked-host"), allow(dead_code))]
    pub operands: &'a [Operand],
}

/// The operations of one kind of device.
pub(crate) trait Backend: fmt::Debug + Send + Sync + 'static {
    fn kind(&self) -> DeviceKind;
    fn ordinal(&self) -> usize;
    fn properties(&self) -> &Properties;
    /// The record of running kernels.
    fn watch(&self) -> &Watch;
    #[cfg(feature = "cuda")]
    fn cuda_context(&self) -> Option<&Arc<cudarc::driver::CudaContext>> {
        None
    }
    /// Allocates memory that is aligned to at least 128 bytes. `bytes` is above 0. The content is
    /// arbitrary.
    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// Frees memory when the work that still uses it is done.
    /// # Safety
    /// `address` is from `allocate(bytes)`, not freed yet, no new work will use it, and work that
    /// was queued with it is among `uses`.
    unsafe fn free(&self, address: u64, bytes: usize, uses: &Uses);
    /// Waits until at most `most` bytes are freed for which work under way is still waited for, if
    /// that is possible. Returns how many there still are.
    fn wait_for_frees(&self, _most: u64) -> u64 {
        0
    }
    /// Gives memory back to the system that nothing uses.
    fn trim(&self) -> Result<()> {
        Ok(())
    }
    /// Waits for work that uses some memory. `None` is memory of others, for which all work of the
    /// device is waited for.
    fn wait_for_uses(&self, _uses: Option<&Uses>) -> Result<()> {
        Ok(())
    }
    /// The stream for copies that the host waits for. Nothing else is queued on it.
    fn stream_of_copies(&self) -> StreamKind {
        self.default_stream()
    }
    /// Copies to the device. The copy is done on return.
    /// # Safety
    /// From `address` on there are `from.len()` bytes of this device's memory, which nothing else
    /// uses meanwhile.
    unsafe fn upload(&self, address: u64, from: &[u8]) -> Result<()>;
    /// Copies to the host. The copy is done on return.
    /// # Safety
    /// From `address` on there are `to.len()` bytes of this device's memory. They are initialised,
    /// and nothing writes them meanwhile: work that did is done.
    unsafe fn download(&self, address: u64, to: &mut [u8]) -> Result<()>;
    /// Fills memory with zeros. The memory is filled on return.
    /// # Safety
    /// As `upload`.
    unsafe fn fill_zero(&self, address: u64, bytes: usize) -> Result<()>;
    /// Queues a copy within the device.
    /// # Safety
    /// As `upload`, for both ranges, which do not overlap, until the stream has run the copy.
    #[cfg_attr(not(feature = "bench"), allow(dead_code))]
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: &Stream) -> Result<()>;
    /// Host memory that the device copies from and to by itself. `bytes` is above 0. The content is
    /// arbitrary.
    fn allocate_pinned(&self, bytes: usize) -> Result<u64>;
    /// # Safety
    /// `address` is from `allocate_pinned(bytes)`, not freed yet, and no copy under way uses it.
    unsafe fn free_pinned(&self, address: u64, bytes: usize);
    /// Queues a copy from pinned memory.
    /// # Safety
    /// `from` is memory of `allocate_pinned` and `to` memory of this device, of as many bytes,
    /// which nobody else uses until the stream has run the copy.
    unsafe fn upload_async(&self, to: u64, from: *const u8, bytes: usize, stream: &Stream) -> Result<()>;
    /// Queues a copy to pinned memory.
    /// # Safety
    /// As `upload_async`, the other way round.
    unsafe fn download_async(&self, from: u64, to: *mut u8, bytes: usize, stream: &Stream) -> Result<()>;
    /// The size in bytes of the last cache before device memory. `None` if it is not known.
    fn cache_bytes(&self) -> Option<usize> {
        None
    }
    /// The number of blocks that have ended so far. `None` if it is not known.
    fn blocks_done(&self) -> Option<u64> {
        None
    }
    /// Whether launches need their operands.
    fn is_checked(&self) -> bool {
        false
    }
    fn load(&self, kernel: &'static KernelInfo) -> Result<Kernel>;
    /// The number of blocks of a kernel that run at the same time.
    fn resident_blocks(&self, kernel: &Kernel, shared_bytes: u32) -> Result<u32>;
    /// Queues a launch.
    /// # Safety
    /// `params` is the kernel's parameter struct. Its addresses stay valid, for what the kernel
    /// does with them, until the stream has run the kernel. If the device is checked, the operands
    /// are memory that the kernel may access in the way that they say.
    unsafe fn launch(&self, launch: &Launch<'_>, stream: &Stream) -> Result<()>;
    /// Announces work on a stream that does not come through `launch` or `copy`, such as a graph.
    #[cfg(feature = "cuda")]
    fn queued_on(&self, _stream: &Stream) {}
    fn default_stream(&self) -> StreamKind;
    fn new_stream(&self) -> Result<StreamKind>;
    fn synchronize(&self) -> Result<()>;
    #[cfg(feature = "checked-host")]
    fn launch_counters(&self) -> Vec<LaunchCounters> {
        Vec::new()
    }
}
