//! The kind of a device, and the properties on which the choice of kernels may depend.

use super::GpuModel;

/// The kind of a [`Device`](crate::Device).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The kernels run on the CPU.
    Host,
    /// The kernels run on an NVIDIA GPU.
    Cuda,
}

impl DeviceKind {
    /// The name of the kind: "host" or "cuda".
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Host => "host",
            DeviceKind::Cuda => "cuda",
        }
    }
}

/// The properties of a device on which the choice of kernels may depend.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// The name: "NVIDIA H200", for example, or the build of the host device that runs.
    pub name: String,
    /// The number of streaming multiprocessors, or of worker threads.
    pub multiprocessors: u32,
    /// The most dynamic shared memory that a block may have, in bytes.
    pub shared_bytes_per_block: u32,
    /// The compute capability (major, minor). For the host device: that of the GPU that it
    /// imitates.
    pub compute_capability: (u32, u32),
    /// The GPU whose figures the cost model uses. For the host device: the one that it imitates.
    pub model: &'static GpuModel,
}
