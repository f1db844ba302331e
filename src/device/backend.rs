//! What a kind of device does for [`Device`](super::Device): memory, streams and launches, behind one trait.

#[cfg(feature = "checked-host")]
use super::LaunchCounters;
use super::kernel::{Kernel, KernelInfo};
use super::{Block, DeviceKind, Properties, Stream, StreamKind, Watch};
use crate::error::Result;
use std::fmt;
#[cfg(feature = "cuda")]
use std::sync::Arc;

/// A tensor that a kernel touches, for the host device's checker: its address and the elements that belong to it.
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
    /// Every element must be written exactly once, and none read.
    Write,
    /// Every element is read and then written by the same thread.
    Update,
}

impl Operand {
    /// All of some memory, as consecutive elements.
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
    /// The kernel's parameter struct.
    pub params: &'a [u8],
    #[cfg_attr(not(feature = "checked-host"), allow(dead_code))]
    pub operands: &'a [Operand],
}

/// What a kind of device does.
pub(crate) trait Backend: fmt::Debug + Send + Sync + 'static {
    fn kind(&self) -> DeviceKind;
    fn ordinal(&self) -> usize;
    fn properties(&self) -> &Properties;
    /// What is under way.
    fn watch(&self) -> &Watch;
    #[cfg(feature = "cuda")]
    fn cuda_context(&self) -> Option<&Arc<cudarc::driver::CudaContext>> {
        None
    }
    /// Memory aligned to at least 128 bytes; `bytes` is above 0. Its content is arbitrary.
    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// Waits for the work that still uses the memory.
    /// # Safety
    /// `address` is from `allocate(bytes)`, not freed yet, and no new work will use it.
    unsafe fn free(&self, address: u64, bytes: usize);
    /// Done on return.
    /// # Safety
    /// From `address` on, as many bytes are memory of this device that nobody else uses meanwhile.
    unsafe fn upload(&self, address: u64, from: &[u8]) -> Result<()>;
    /// Waits for all work queued before.
    /// # Safety
    /// From `address` on, as many bytes are initialised memory of this device that nobody writes meanwhile.
    unsafe fn download(&self, address: u64, to: &mut [u8]) -> Result<()>;
    /// Done on return.
    /// # Safety
    /// As `upload`.
    unsafe fn fill_zero(&self, address: u64, bytes: usize) -> Result<()>;
    /// Queues a copy within the device.
    /// # Safety
    /// As `upload`, for both ranges, which do not overlap, until the stream has run the copy.
    #[cfg_attr(not(feature = "bench"), allow(dead_code))]
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: &Stream) -> Result<()>;
    /// Bytes of the last cache before device memory; `None` where it is not known.
    fn cache_bytes(&self) -> Option<usize> {
        None
    }
    /// Blocks that have ended so far; `None` where that is not known.
    fn blocks_done(&self) -> Option<u64> {
        None
    }
    /// Whether launches need their operands.
    fn is_checked(&self) -> bool {
        false
    }
    fn load(&self, kernel: &'static KernelInfo) -> Result<Kernel>;
    /// Blocks of a kernel that are under way at the same time.
    fn resident_blocks(&self, kernel: &Kernel, shared_bytes: u32) -> Result<u32>;
    /// # Safety
    /// `params` is the kernel's parameter struct, whose addresses are valid for what the kernel does with them until the stream has
    /// run it. Where the device is checked, the operands are memory that the kernel may touch in the way that they say.
    unsafe fn launch(&self, launch: &Launch<'_>, stream: &Stream) -> Result<()>;
    /// Work that did not come by way of `launch` or `copy`, such as a graph, is about to be queued on a stream.
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
