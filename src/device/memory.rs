//! Memory of a device, and copies between it and the host.

#[cfg(feature = "bench")]
use super::Stream;
use super::{Backend, Device};
use crate::error::Result;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

impl Device {
    /// Allocates memory of this device. `bytes` may be 0.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Memory> {
        Ok(Memory { block: self.block(bytes)?, device: self.clone() })
    }

    fn block(&self, bytes: usize) -> Result<Block> {
        let address = if bytes == 0 { 0 } else { self.0.backend.allocate(bytes)? };
        self.0.allocations.fetch_add(1, Ordering::Relaxed);
        self.0.allocated.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Block { backend: self.0.backend.clone(), allocated: self.0.allocated.clone(), address, bytes })
    }
}

/// Memory of a device, freed on drop. It does not keep the device alive, only what is needed to
/// free the memory.
#[derive(Debug)]
pub(crate) struct Block {
    backend: Arc<dyn Backend>,
    /// The device's count of allocated bytes. It outlives the device if this memory does.
    allocated: Arc<AtomicU64>,
    address: u64,
    bytes: usize,
}

impl Block {
    /// A copy of `values` on the device.
    pub fn from_slice<V: bytemuck::NoUninit>(device: &Device, values: &[V]) -> Result<Self> {
        let block = device.block(size_of_val(values))?;
        block.upload(bytemuck::cast_slice(values))?;
        Ok(block)
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn upload(&self, from: &[u8]) -> Result<()> {
        assert!(from.len() <= self.bytes, "an upload fits its memory");
        // SAFETY: this memory is alive and long enough, and so far only its owner, who uploads, has
        // its address
        if from.is_empty() { Ok(()) } else { unsafe { self.backend.upload(self.address, from) } }
    }

    pub fn fill_zero(&self) -> Result<()> {
        // SAFETY: this memory is alive, of this length, and so far only its owner has its address
        if self.bytes == 0 { Ok(()) } else { unsafe { self.backend.fill_zero(self.address, self.bytes) } }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.allocated.fetch_sub(self.bytes as u64, Ordering::Relaxed);
        if self.bytes > 0 {
            // SAFETY: it came from `allocate` with these bytes, and its only owner goes; what borrowed it is gone, but for work under
            // way, which `free` waits for
            unsafe { self.backend.free(self.address, self.bytes) }
        }
    }
}

/// Memory of a device, freed on drop. It keeps the device alive.
pub(crate) struct Memory {
    // The memory is freed before the device ends.
    block: Block,
    device: Device,
}

impl Deref for Memory {
    type Target = Block;
    fn deref(&self) -> &Block {
        &self.block
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x} on {}", self.bytes, self.address, self.device)
    }
}

impl Memory {
    /// A copy of `values` on the device.
    pub fn from_slice<V: bytemuck::NoUninit>(device: &Device, values: &[V]) -> Result<Self> {
        Ok(Self { block: Block::from_slice(device, values)?, device: device.clone() })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Queues a copy of all of `from`, which must have the same size. The caller keeps both alive
    /// until the stream has run the copy.
    #[cfg(feature = "bench")]
    pub fn queue_copy(&self, from: &Memory, stream: &Stream) -> Result<()> {
        assert!(from.bytes == self.bytes && from.device == self.device && !std::ptr::eq(from, self), "a copy is between equals");
        // SAFETY: both are alive and of this length, and two memories do not overlap. Freeing them
        // waits for the copy.
        if self.bytes == 0 { Ok(()) } else { unsafe { self.backend.copy(self.address, from.address, self.bytes, stream) } }
    }
}

/// Copies from the host to device memory, after all work queued before.
///
/// # Safety
/// From `address` on there are `from.len()` bytes of memory of `device`, which nothing else uses
/// meanwhile.
pub(crate) unsafe fn upload(device: &Device, address: u64, from: &[u8]) -> Result<()> {
    device.synchronize()?;
    // SAFETY: passed on to the caller
    if from.is_empty() { Ok(()) } else { unsafe { device.0.backend.upload(address, from) } }
}

/// Copies from device memory to the host, after all work queued before.
///
/// # Safety
/// From `address` on there are `to.len()` bytes of memory of `device`. They are initialised, and
/// nothing writes them meanwhile.
pub(crate) unsafe fn download(device: &Device, address: u64, to: &mut [u8]) -> Result<()> {
    if !to.is_empty() {
        // SAFETY: passed on to the caller
        unsafe { device.0.backend.download(address, to)? };
        device.watch().waited();
    }
    Ok(())
}
