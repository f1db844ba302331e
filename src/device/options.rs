//! Options for the memory of a device.

/// How much memory a device may hold.
///
/// ```
/// use warpconv::{Device, Error, HostOptions, MemoryFormat, MemoryOptions, Tensor};
/// # #[cfg(feature = "host")] {
/// let memory = MemoryOptions { limit: Some(1 << 20), ..Default::default() };
/// let device = Device::host_with(HostOptions { memory, ..Default::default() })?;
/// let half = Tensor::<f32>::zeros(&device, [1, 1, 256, 512], MemoryFormat::Contiguous)?;
/// let refused = Tensor::<f32>::zeros(&device, [1, 2, 256, 512], MemoryFormat::Contiguous).unwrap_err();
/// assert!(matches!(refused, Error::MemoryLimit { limit: 1_048_576, asked: 1_048_576, held: 524_288, .. }));
/// # }
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    /// The most bytes that tensors, RoIs, workspaces and packed weights may hold together. An
    /// allocation above it is an [`Error::MemoryLimit`](crate::Error::MemoryLimit). On a GPU, memory
    /// counts until the work that used it is done; an allocation waits for that if it has to.
    pub limit: Option<u64>,
    /// The bytes of freed memory that a GPU keeps for later allocations. When a stream is waited
    /// for, the driver gives back what is above it. The default is to keep all, so that a service
    /// allocates nothing new after its first requests; [`Device::trim`](crate::Device::trim) gives
    /// it back. A GPU without memory pools, and the host device, keep nothing.
    pub keep: u64,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { limit: None, keep: u64::MAX }
    }
}
