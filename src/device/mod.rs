//! Devices, in whose memory tensors live and on which kernels run. A device knows no convolution.
//!
//! There are two kinds with the same interface: a CUDA device (feature `cuda`), and the host device
//! (feature `host`), which runs the same kernel sources on the CPU.

mod backend;
mod capture;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod event;
mod gpu;
#[cfg(feature = "host")]
pub(crate) mod host;
mod info;
#[cfg_attr(not(any(feature = "host", feature = "cuda")), allow(dead_code))]
pub(crate) mod kernel;
mod memory;
mod open;
mod options;
pub(crate) mod params;
mod pinned;
mod properties;
mod stream;
mod timer;
mod uses;
mod watch;

use crate::error::{Error, Result};
use kernel::{Kernel, KernelInfo};
use open::gpu_hint;
use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

pub(crate) use backend::{Access, Backend, Launch, Operand};
pub(crate) use capture::{Captured, capture};
pub use event::Event;
pub use gpu::GpuModel;
#[cfg(feature = "host")]
pub use host::HostOptions;
#[cfg(feature = "checked-host")]
pub use host::{LaunchCounters, OperandCounters};
pub use info::DeviceInfo;
pub(crate) use memory::{Block, Memory, download, upload};
pub use options::MemoryOptions;
pub use pinned::{Pending, PinnedBuffer};
pub use properties::{DeviceKind, Properties};
pub use stream::Stream;
pub(crate) use stream::StreamKind;
pub use timer::{Effort, Time, Timer};
pub(crate) use uses::Uses;
pub(crate) use watch::Watch;

struct Inner {
    id: u64,
    backend: Arc<dyn Backend>,
    allocations: AtomicU64,
    allocated: Arc<AtomicU64>,
    memory: MemoryOptions,
    launches: AtomicU64,
    kept: OnceLock<Box<dyn Any + Send + Sync>>,
    stores: Mutex<Vec<Weak<dyn Store>>>,
    left_out: RwLock<Vec<String>>,
}

/// An owner of device memory that does not keep the device alive: a layer's packed weights.
pub(crate) trait Store: Send + Sync {
    /// Frees the memory on the device with this [`Device::id`], which is about to end.
    fn release(&self, device: u64);
}

impl Drop for Inner {
    fn drop(&mut self) {
        let stores = std::mem::take(&mut *self.stores.lock().unwrap_or_else(PoisonError::into_inner));
        stores.iter().filter_map(Weak::upgrade).for_each(|store| store.release(self.id));
    }
}

/// The place where tensors live and layers run. A device is cheap to clone; clones are the same
/// device.
///
/// A device ends with its last handle. Tensors, streams and plans hold a handle; layers do not. The
/// weights that a layer has packed for a device are freed with the device. There is one exception:
/// the device of [`Device::host`] lasts until the program ends.
///
/// ```
/// let device = warpconv::Device::best()?;
/// println!("{device}: {}", device.describe());
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Clone)]
pub struct Device(Arc<Inner>);

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({self} #{})", self.0.id)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            DeviceKind::Host => f.write_str("host"),
            DeviceKind::Cuda => write!(f, "cuda:{}", self.0.backend.ordinal()),
        }
    }
}

impl Device {
    #[cfg(any(feature = "host", feature = "cuda"))]
    fn from_backend(backend: impl Backend, memory: MemoryOptions) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Inner {
            id,
            backend: Arc::new(backend),
            allocations: AtomicU64::new(0),
            allocated: Arc::default(),
            memory,
            launches: AtomicU64::new(0),
            kept: OnceLock::new(),
            stores: Mutex::default(),
            left_out: RwLock::default(),
        }))
    }

    /// A number that no other device of this program has.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// Registers a store, which is told when the device ends.
    pub(crate) fn add_store(&self, store: Weak<dyn Store>) {
        let mut stores = self.0.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|store| store.strong_count() > 0);
        stores.push(store);
    }

    /// What the device is, in words. For a host device also why no GPU is used.
    pub fn describe(&self) -> String {
        let name = &self.properties().name;
        match self.kind() {
            DeviceKind::Cuda => name.clone(),
            DeviceKind::Host => match gpu_hint() {
                Some(hint) => format!("{name}; {hint}"),
                None => name.clone(),
            },
        }
    }

    /// The kind of the device: host or CUDA.
    pub fn kind(&self) -> DeviceKind {
        self.0.backend.kind()
    }

    /// The name and limits of the device.
    pub fn properties(&self) -> &Properties {
        self.0.backend.properties()
    }

    /// The cudarc context of a GPU. `None` for the host device.
    #[cfg(feature = "cuda")]
    pub fn cuda_context(&self) -> Option<&Arc<cudarc::driver::CudaContext>> {
        self.0.backend.cuda_context()
    }

    /// The number of allocations of device memory so far. A planned layer's `run` adds none.
    pub fn allocations(&self) -> u64 {
        self.0.allocations.load(Ordering::Relaxed)
    }

    /// Bytes of device memory that the crate holds on the device now, for tensors, RoIs, workspaces
    /// and packed weights. Not counted are memory that the caller lends as a view, what the driver
    /// itself needs (its context and loaded code), and memory that is freed: it may be kept for
    /// later allocations ([`MemoryOptions::keep`], [`Device::trim`]).
    ///
    /// ```
    /// use warpconv::{Device, MemoryFormat, Tensor};
    /// let device = Device::best()?;
    /// let x = Tensor::<f32>::zeros(&device, [1, 3, 224, 224], MemoryFormat::ChannelsLast)?;
    /// assert!(device.allocated_bytes() >= 4 * 3 * 224 * 224);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    pub fn allocated_bytes(&self) -> u64 {
        self.0.allocated.load(Ordering::Relaxed)
    }

    /// Gives memory back to the system that the device keeps for later allocations:
    /// [`MemoryOptions::keep`] says how much that may be. Waits for nothing: memory that work under
    /// way still uses is kept. The host device keeps none.
    ///
    /// # Errors
    /// [`Error::Driver`] or [`Error::DeviceLost`].
    pub fn trim(&self) -> Result<()> {
        self.0.backend.trim()
    }

    /// Waits for the work that uses some memory: all work of the device if the uses are not known.
    pub(crate) fn wait_for_uses(&self, uses: Option<&Uses>) -> Result<()> {
        self.0.backend.wait_for_uses(uses)
    }

    /// The number of kernel launches so far, including failed ones. A launch that is refused
    /// beforehand does not count.
    pub fn launches(&self) -> u64 {
        self.0.launches.load(Ordering::Relaxed)
    }

    /// What the last launch on a checked host device moved, and how its threads met. `None` on
    /// another device and before the first launch. If several threads launch at once, it is the
    /// launch that ended last.
    #[cfg(feature = "checked-host")]
    #[cfg_attr(docsrs, doc(cfg(feature = "checked-host")))]
    pub fn last_launch_counters(&self) -> Option<LaunchCounters> {
        self.0.backend.launch_counters().pop()
    }

    /// The counters of this number of latest launches.
    #[cfg(test)]
    pub(crate) fn latest_launch_counters(&self, launches: usize) -> Vec<LaunchCounters> {
        let mut counters = self.0.backend.launch_counters();
        counters.split_off(counters.len().saturating_sub(launches))
    }

    /// The size in bytes of the last cache before device memory (L2), which the data of a benchmark
    /// must exceed. `None` on the host device.
    pub fn cache_bytes(&self) -> Option<usize> {
        self.0.backend.cache_bytes()
    }

    /// A value that a part of the crate above this floor keeps with the device and its clones.
    /// There is one such value: the tuning tables. `None` if a value of another type is kept.
    pub(crate) fn kept<V: Any + Send + Sync>(&self, first: impl FnOnce() -> V) -> Option<&V> {
        self.0.kept.get_or_init(|| Box::new(first())).downcast_ref()
    }

    /// Waits for all work that is queued on the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when something queued has failed; [`Error::Driver`].
    pub fn synchronize(&self) -> Result<()> {
        self.0.backend.synchronize()?;
        self.watch().waited();
        Ok(())
    }

    pub(crate) fn watch(&self) -> &Watch {
        self.0.backend.watch()
    }

    /// From now on writes the name of the running kernel into a file: one line of fixed length,
    /// overwritten before each launch and emptied when a wait ends. If a kernel crashes the GPU and
    /// the program with it, the file says which kernel that was.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn trace(&self, path: impl AsRef<Path>) -> Result<()> {
        self.watch().trace(path.as_ref())
    }

    /// The kernels launched since the last wait that ended, the latest last, and a number that
    /// changes with every launch and wait: as long as it stays the same, the device has made no
    /// progress. For programs that watch a device from another thread.
    pub fn under_way(&self) -> (u64, Vec<&'static str>) {
        self.watch().under_way()
    }

    /// The number of blocks of kernels that have ended on the device so far. `None` on a GPU, which
    /// does not report it. Compared with [`Explanation::blocks`](crate::Explanation::blocks) it
    /// says how far a run is, for programs that watch from another thread. (A plan that splits its
    /// sums ends a few more blocks than that.)
    ///
    /// ```
    /// # #[cfg(feature = "host")] {
    /// use warpconv::{Device, HostOptions, Inputs, Layer, MemoryFormat, PixelShuffle, PixelShuffleSpec, PlanRequest, Tensor};
    /// let device = Device::host_with(HostOptions::default())?;
    /// let layer = PixelShuffle::new(PixelShuffleSpec { factor: 2, order: Default::default() })?;
    /// let x = Tensor::<f32>::zeros(&device, [1, 8, 64, 64], MemoryFormat::Contiguous)?;
    /// let blocks = layer.plan::<f32>(&device, &PlanRequest::new(x.shape()))?.explain().blocks();
    /// assert_eq!(device.blocks_done(), Some(0));
    /// layer.forward(&Inputs::new(&x))?;
    /// assert_eq!(device.blocks_done(), Some(blocks));
    /// # }
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    pub fn blocks_done(&self) -> Option<u64> {
        self.0.backend.blocks_done()
    }

    /// From now on plans no launch of kernels of these names. This is for a GPU on which one of
    /// them fails. Layers choose among the others, and return an error if none applies. Conversions
    /// of formats and dtypes go through the host if their kernel is left out.
    ///
    /// # Errors
    /// [`Error::NoKernel`] when a name is not that of a kernel.
    pub fn leave_out(&self, kernels: impl IntoIterator<Item = String>) -> Result<()> {
        let kernels: Vec<String> = kernels.into_iter().collect();
        kernels.iter().try_for_each(|name| kernel::check_name(name))?;
        self.0.left_out.write().unwrap_or_else(PoisonError::into_inner).extend(kernels);
        Ok(())
    }

    /// Whether plans may choose a kernel.
    ///
    /// # Errors
    /// The reason why they may not, as an explanation prints it.
    pub(crate) fn admits(&self, kernel: &str) -> Result<(), String> {
        let left_out = self.0.left_out.read().unwrap_or_else(PoisonError::into_inner);
        if left_out.iter().any(|name| name == kernel) { Err("is left out on this device".into()) } else { Ok(()) }
    }

    /// Whether the device can still be used.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when it is lost, with the kernel that caused it.
    pub fn alive(&self) -> Result<()> {
        self.watch().alive()
    }

    /// Whether launches are checked and need their operands.
    pub(crate) fn is_checked(&self) -> bool {
        self.0.backend.is_checked()
    }

    /// # Errors
    /// [`Error::NoKernel`] for a kernel that is left out; errors of the driver.
    pub(crate) fn load(&self, kernel: &'static KernelInfo) -> Result<Kernel> {
        let refuse = |reason| Error::NoKernel { op: "this launch", reasons: format!("{} {reason}", kernel.name) };
        self.admits(kernel.name).map_err(refuse)?;
        self.0.backend.load(kernel)
    }

    /// The number of blocks of a kernel, each with this much shared memory, that run at the same
    /// time; at least 1. To be called when planning, since it asks the driver.
    pub(crate) fn resident_blocks(&self, kernel: &Kernel, shared_bytes: u32) -> Result<u32> {
        Ok(self.0.backend.resident_blocks(kernel, shared_bytes)?.max(1))
    }

    /// The one place where kernels are launched.
    ///
    /// # Safety
    /// `params` is the kernel's parameter struct. Its addresses stay valid, for what the kernel
    /// does with them, until the stream has run the kernel. If [`Device::is_checked`], the operands
    /// are everything that the kernel accesses.
    pub(crate) unsafe fn launch(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        params: &[u8],
        operands: &[Operand],
        stream: &Stream,
    ) -> Result<()> {
        debug_assert_eq!(params.len(), kernel.info.params_bytes);
        self.watch().launching(kernel.info.name)?;
        self.0.launches.fetch_add(1, Ordering::Relaxed);
        let launch = Launch { kernel, grid, shared_bytes, params, operands };
        // SAFETY: passed on to the caller
        unsafe { self.0.backend.launch(&launch, stream) }
    }
}

/// The error for something that is on the wrong device. Two devices of the same name are
/// distinguished by number.
pub(crate) fn wrong_device(name: &'static str, expected: &Device, got: &Device) -> Error {
    let alike = expected.to_string() == got.to_string();
    let named = |device: &Device| if alike { format!("{device} (device #{})", device.id()) } else { device.to_string() };
    Error::WrongDevice { name, expected: named(expected), got: named(got) }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;

    #[test]
    fn devices_of_one_name_are_told_apart_by_number() {
        let [a, b] = [(); 2].map(|()| Device::host_with(HostOptions { threads: 1, ..Default::default() }).unwrap());
        let message = wrong_device("x", &a, &b).to_string();
        let [a, b] = [a, b].map(|device| format!("{device} (device #{})", device.id()));
        assert!(a != b && message.contains(&a) && message.contains(&b), "{message}");
    }
}
