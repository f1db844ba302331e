//! Memory of a device, and copies between it and the host.

#[cfg(feature = "bench")]
use super::Stream;
use super::uses::{Others, Uses};
use super::{Backend, Device};
use crate::error::{Error, Result};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

impl Device {
    /// Allocates memory of this device. `bytes` may be 0.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Memory> {
        Ok(Memory { block: self.block(bytes, Others::Nobody)?, device: self.clone() })
    }

    fn block(&self, bytes: usize, others: Others) -> Result<Block> {
        let reserved = Reserved::new(self, bytes as u64)?;
        let address = if bytes == 0 { 0 } else { self.0.backend.allocate(bytes)? };
        self.0.allocations.fetch_add(1, Ordering::Relaxed);
        Ok(Block { backend: self.0.backend.clone(), uses: Arc::new(Uses::new(others)), address, bytes, _reserved: reserved })
    }
}

/// Bytes of a device's memory that count as allocated, until this goes.
#[derive(Debug)]
struct Reserved {
    /// The device's count of allocated bytes. It outlives the device if this memory does.
    allocated: Arc<AtomicU64>,
    bytes: u64,
}

impl Reserved {
    /// # Errors
    /// [`Error::MemoryLimit`] when the device would then hold more than its limit.
    fn new(device: &Device, bytes: u64) -> Result<Self> {
        let allocated = device.0.allocated.clone();
        let before = allocated.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Self { allocated, bytes };
        if let Some(limit) = device.0.memory.limit
            && bytes > 0
        {
            // Memory that was freed while work uses it counts until that work is done.
            let room = limit.checked_sub(before.saturating_add(bytes));
            let pending = device.0.backend.wait_for_frees(room.unwrap_or(u64::MAX));
            if room.is_none_or(|room| pending > room) {
                let held = before + if room.is_none() { 0 } else { pending };
                return Err(Error::MemoryLimit { device: device.to_string(), limit, asked: bytes, held });
            }
        }
        Ok(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.allocated.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Memory of a device, freed on drop. It does not keep the device alive, only what is needed to
/// free the memory.
#[derive(Debug)]
pub(crate) struct Block {
    backend: Arc<dyn Backend>,
    uses: Arc<Uses>,
    address: u64,
    bytes: usize,
    _reserved: Reserved,
}

impl Block {
    /// A copy of `values` on the device, for plans that run on any stream of it: their uses are not
    /// recorded one by one.
    pub fn shared<V: bytemuck::NoUninit>(device: &Device, values: &[V]) -> Result<Self> {
        Self::from_slice(device, values, Others::ThisCrate)
    }

    fn from_slice<V: bytemuck::NoUninit>(device: &Device, values: &[V], others: Others) -> Result<Self> {
        let block = device.block(size_of_val(values), others)?;
        block.upload(bytemuck::cast_slice(values))?;
        Ok(block)
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    /// The work that uses this memory.
    pub fn uses(&self) -> &Arc<Uses> {
        &self.uses
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
        if self.bytes > 0 {
            // SAFETY: it came from `allocate` with these bytes, and its only owner goes; what borrowed it is gone, but for work under
            // way, which was recorded when it was queued
            unsafe { self.backend.free(self.address, self.bytes, &self.uses) }
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
        Ok(Self { block: Block::from_slice(device, values, Others::Nobody)?, device: device.clone() })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Queues a copy of all of `from`, which must have the same size. The caller keeps both alive
    /// until the stream has run the copy.
    #[cfg(feature = "bench")]
    pub fn queue_copy(&self, from: &Memory, stream: &Stream) -> Result<()> {
        assert!(from.bytes == self.bytes && from.device == self.device && !std::ptr::eq(from, self), "a copy is between equals");
        // SAFETY: both are alive and of this length, and two memories do not overlap. The use is
        // recorded below, so that freeing them waits for the copy.
        let queued = if self.bytes == 0 { Ok(()) } else { unsafe { self.backend.copy(self.address, from.address, self.bytes, stream) } };
        [self, from].iter().for_each(|memory| memory.uses.record(stream));
        queued
    }
}

/// Copies from the host to device memory, after the work that uses it (`None`: after all work of
/// the device).
///
/// # Safety
/// From `address` on there are `from.len()` bytes of memory of `device` with these uses, which
/// nothing else uses meanwhile.
pub(crate) unsafe fn upload(device: &Device, address: u64, uses: Option<&Uses>, from: &[u8]) -> Result<()> {
    device.wait_for_uses(uses)?;
    // SAFETY: passed on to the caller
    if from.is_empty() { Ok(()) } else { unsafe { device.0.backend.upload(address, from) } }
}

/// Copies from device memory to the host, after the work that uses it (`None`: after all work of the
/// device).
///
/// # Safety
/// From `address` on there are `to.len()` bytes of memory of `device` with these uses. They are
/// initialised, and nothing writes them meanwhile.
pub(crate) unsafe fn download(device: &Device, address: u64, uses: Option<&Uses>, to: &mut [u8]) -> Result<()> {
    if !to.is_empty() {
        device.wait_for_uses(uses)?;
        // SAFETY: passed on to the caller
        unsafe { device.0.backend.download(address, to)? };
        device.watch().waited();
    }
    Ok(())
}
