//! Memory that a plan may use while it runs.

use crate::device::{Memory, Uses, wrong_device};
use crate::error::{Error, Result};
use crate::{Device, Element, Layout, Stream, TensorViewMut};
use std::marker::PhantomData;
use std::sync::Arc;

/// The alignment of every part of a workspace, in bytes.
const ALIGNMENT: usize = 256;

/// A number of bytes, rounded up to where the next part may begin.
pub(crate) fn padded(bytes: usize) -> Result<usize> {
    // The message is made only when needed: this code runs in every launch.
    let overflow = || Error::Overflow { what: "the size of a workspace", values: format!("{bytes} bytes") };
    bytes.checked_next_multiple_of(ALIGNMENT).ok_or_else(overflow)
}

/// The bytes of two parts of a workspace together.
pub(crate) fn together(one: usize, other: usize) -> Result<usize> {
    let overflow = || Error::Overflow { what: "the size of a workspace", values: format!("{one} + {other} bytes") };
    one.checked_add(other).ok_or_else(overflow)
}

/// Memory for workspaces, freed on drop. It may serve any number of plans that run one after the
/// other on one stream.
#[derive(Debug)]
pub struct WorkspaceMemory(Memory);

impl WorkspaceMemory {
    /// Allocates `bytes` bytes: [`crate::Plan::workspace_bytes`] says how many a plan needs.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::Driver`].
    pub fn new(device: &Device, bytes: usize) -> Result<Self> {
        device.allocate(bytes).map(Self)
    }

    /// The work that uses the memory, for whoever queues more of it.
    pub(crate) fn uses(&self) -> &Arc<Uses> {
        self.0.uses()
    }

    /// All of this memory, for one run.
    pub fn workspace(&mut self) -> Workspace<'_> {
        Workspace {
            device: Some(self.0.device()),
            address: self.0.address(),
            bytes: self.0.bytes(),
            uses: Some(self.0.uses()),
            memory: PhantomData,
        }
    }
}

/// Device memory that a plan may use while it runs. [`crate::Plan::workspace_bytes`] says how many
/// bytes it needs: none, unless a layer runs as several launches.
#[derive(Debug, Default)]
pub struct Workspace<'a> {
    device: Option<&'a Device>,
    address: u64,
    bytes: usize,
    /// The work that uses the memory. None if it is not the crate's.
    uses: Option<&'a Uses>,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Workspace<'a> {
    /// No memory.
    pub fn none() -> Self {
        Self::default()
    }

    /// Memory that a service owns.
    ///
    /// # Errors
    /// [`Error::Alignment`] when the address is not a multiple of 256.
    ///
    /// # Safety
    /// From `address` on there must be `bytes` bytes of initialised memory of `device`, with any
    /// content. Nothing else may use or free that memory while work queued with the workspace runs.
    pub unsafe fn from_raw(device: &'a Device, address: u64, bytes: usize) -> Result<Self> {
        if !address.is_multiple_of(ALIGNMENT as u64) {
            return Err(Error::Alignment { name: "the workspace", address, alignment: ALIGNMENT });
        }
        Ok(Self { device: Some(device), address, bytes, uses: None, memory: PhantomData })
    }

    /// Records that work which is queued on `stream` uses the memory.
    pub(crate) fn record_use(&self, stream: &Stream) {
        if let Some(uses) = self.uses {
            uses.record(stream);
        }
    }

    pub(crate) fn check(&self, device: &Device, needed: usize) -> Result<()> {
        if self.bytes < needed {
            return Err(Error::Workspace { needed, got: self.bytes });
        }
        match self.device {
            Some(own) if needed > 0 && own != device => Err(wrong_device("the workspace", device, own)),
            _ => Ok(()),
        }
    }

    /// A tensor in the workspace, `place` bytes from its start. Parts of one run must not overlap,
    /// except for a result and the launches that read it.
    pub(crate) fn part<T: Element>(&self, device: &'a Device, place: usize, layout: Layout) -> Result<TensorViewMut<'a, T>> {
        self.check(device, together(place, layout.extent() * size_of::<T>())?)?;
        // SAFETY: the workspace is memory of the device, at least as long as it was checked to be, and exclusively ours for 'a; the
        // launches of a run follow one another on one stream
        unsafe { TensorViewMut::from_raw(device, self.address + place as u64, layout) }
    }

    /// The workspace without its first `bytes` bytes; empty if it is no longer than that.
    pub(crate) fn after(&self, bytes: usize) -> Workspace<'_> {
        let bytes = bytes.min(self.bytes);
        Workspace {
            device: self.device,
            address: self.address + bytes as u64,
            bytes: self.bytes - bytes,
            uses: self.uses,
            memory: PhantomData,
        }
    }
}
