//! What kind of device it is, and what the choice of kernels may know of it.

use super::GpuModel;

/// The kind of a [`Device`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The kernels run on the CPU.
    Host,
    /// The kernels run on an NVIDIA GPU.
    Cuda,
}

impl DeviceKind {
    /// "host" or "cuda".
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Host => "host",
            DeviceKind::Cuda => "cuda",
        }
    }
}

/// What kernel selection may know of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// "NVIDIA H200", or the CPU build that runs.
    pub name: String,
    /// Streaming multiprocessors, or worker threads.
    pub multiprocessors: u32,
    /// Dynamic shared memory that a block may ask for, in bytes.
    pub shared_bytes_per_block: u32,
    /// Compute capability (major, minor); of the host device: the one that it imitates.
    pub compute_capability: (u32, u32),
    /// The GPU by whose figures the cost model estimates times; of the host device: the one that it imitates.
    pub model: &'static GpuModel,
}
