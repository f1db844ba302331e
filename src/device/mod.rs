//! Devices: where memory lives and kernels run. A device knows no convolution.
//!
//! Two kinds, behind one interface: a CUDA device (feature `cuda`), and the host device (feature `host`), which runs the
//! same kernel sources on the CPU.

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
pub(crate) mod params;
mod properties;
mod stream;
mod timer;
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
pub use properties::{DeviceKind, Properties};
pub use stream::Stream;
pub(crate) use stream::StreamKind;
pub use timer::{Effort, Time, Timer};
pub(crate) use watch::Watch;

struct Inner {
    id: u64,
    backend: Arc<dyn Backend>,
    allocations: AtomicU64,
    allocated: Arc<AtomicU64>,
    launches: AtomicU64,
    kept: OnceLock<Box<dyn Any + Send + Sync>>,
    stores: Mutex<Vec<Weak<dyn Store>>>,
    left_out: RwLock<Vec<String>>,
}

/// What keeps memory of devices without keeping the devices: a layer's packed weights.
pub(crate) trait Store: Send + Sync {
    /// Frees what it keeps of the device with this [`Device::id`], which goes.
    fn release(&self, device: u64);
}

impl Drop for Inner {
    fn drop(&mut self) {
        let stores = std::mem::take(&mut *self.stores.lock().unwrap_or_else(PoisonError::into_inner));
        stores.iter().filter_map(Weak::upgrade).for_each(|store| store.release(self.id));
    }
}

/// Where tensors live and layers run. Cheap to clone; two clones are the same device.
///
/// A device goes when its last handle does; tensors, streams and plans hold one, layers do not. The weights that a layer has
/// packed for a device go with it. One exception: the device of [`Device::host`] stays until the program ends.
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
    fn from_backend(backend: impl Backend) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Inner {
            id,
            backend: Arc::new(backend),
            allocations: AtomicU64::new(0),
            allocated: Arc::default(),
            launches: AtomicU64::new(0),
            kept: OnceLock::new(),
            stores: Mutex::default(),
            left_out: RwLock::default(),
        }))
    }

    /// What no other device of this program has.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// From now on tells a store when the device goes.
    pub(crate) fn add_store(&self, store: Weak<dyn Store>) {
        let mut stores = self.0.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|store| store.strong_count() > 0);
        stores.push(store);
    }

    /// What the device is, in words; for a host device also why no GPU is used.
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

    /// Host or CUDA.
    pub fn kind(&self) -> DeviceKind {
        self.0.backend.kind()
    }

    /// Its name and limits.
    pub fn properties(&self) -> &Properties {
        self.0.backend.properties()
    }

    /// The cudarc context of a GPU; `None` for the host device.
    #[cfg(feature = "cuda")]
    pub fn cuda_context(&self) -> Option<&Arc<cudarc::driver::CudaContext>> {
        self.0.backend.cuda_context()
    }

    /// Allocations of device memory so far: a planned layer's `run` adds none.
    pub fn allocations(&self) -> u64 {
        self.0.allocations.load(Ordering::Relaxed)
    }

    /// Bytes of device memory that the crate holds on the device now: tensors, RoIs, workspaces and packed weights. Memory that the
    /// caller lends as a view is not counted, nor is what the driver itself takes (its context and loaded code).
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

    /// Kernel launches so far, failed ones included: what is refused beforehand adds none.
    pub fn launches(&self) -> u64 {
        self.0.launches.load(Ordering::Relaxed)
    }

    /// What the last launch on a checked host device moved and how its threads met; `None` on another device or before a
    /// launch. When several threads launch at once, the last to end counts.
    #[cfg(feature = "checked-host")]
    #[cfg_attr(docsrs, doc(cfg(feature = "checked-host")))]
    pub fn last_launch_counters(&self) -> Option<LaunchCounters> {
        self.0.backend.launch_counters().pop()
    }

    /// The same of the latest launches, so many.
    #[cfg(test)]
    pub(crate) fn latest_launch_counters(&self, launches: usize) -> Vec<LaunchCounters> {
        let mut counters = self.0.backend.launch_counters();
        counters.split_off(counters.len().saturating_sub(launches))
    }

    /// Bytes of the last cache before device memory (L2), which a benchmark must exceed; `None` on the host device.
    pub fn cache_bytes(&self) -> Option<usize> {
        self.0.backend.cache_bytes()
    }

    /// What a part of the crate that stands above devices keeps with this one and its clones. There is one such thing: the tuning
    /// tables. None where something else is kept.
    pub(crate) fn kept<V: Any + Send + Sync>(&self, first: impl FnOnce() -> V) -> Option<&V> {
        self.0.kept.get_or_init(|| Box::new(first())).downcast_ref()
    }

    /// Waits for all work queued on the device.
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

    /// Writes the name of the kernel under way into a file from now on: one line of fixed length, written over before each launch and
    /// emptied when a wait ends. A program that a GPU takes down with it leaves there what it was doing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn trace(&self, path: impl AsRef<Path>) -> Result<()> {
        self.watch().trace(path.as_ref())
    }

    /// The kernels launched since the last wait that ended, the latest last, and a number that changes with every launch and wait:
    /// while it stays the same, the device has not got on. For programs that watch over a device from another thread.
    pub fn under_way(&self) -> (u64, Vec<&'static str>) {
        self.watch().under_way()
    }

    /// Blocks of kernels that have ended on the device so far; `None` on a GPU, which does not tell. Beside
    /// [`Explanation::blocks`](crate::Explanation::blocks) it says how far a run is, for who watches from another thread. (A plan that
    /// splits its sums ends a few more blocks than that.)
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

    /// Plans no launch of kernels of these names from now on: for a GPU on which one of them fails. Layers choose among the others,
    /// and where none applies they say so; copies between formats and dtypes go through the host.
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
    /// The reason why not, as an explanation prints it.
    pub(crate) fn admits(&self, kernel: &str) -> Result<(), String> {
        let left_out = self.0.left_out.read().unwrap_or_else(PoisonError::into_inner);
        if left_out.iter().any(|name| name == kernel) { Err("is left out on this device".into()) } else { Ok(()) }
    }

    /// Whether the device can still be used.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when it is lost, with the kernel of which it died.
    pub fn alive(&self) -> Result<()> {
        self.watch().alive()
    }

    /// Whether launches are checked, and their operands must be told.
    pub(crate) fn is_checked(&self) -> bool {
        self.0.backend.is_checked()
    }

    /// # Errors
    /// [`Error::NoKernel`] for a kernel that is left out; what the driver says.
    pub(crate) fn load(&self, kernel: &'static KernelInfo) -> Result<Kernel> {
        let refuse = |reason| Error::NoKernel { op: "this launch", reasons: format!("{} {reason}", kernel.name) };
        self.admits(kernel.name).map_err(refuse)?;
        self.0.backend.load(kernel)
    }

    /// How many blocks of a kernel, with so much shared memory each, run at the same time; at least 1. For plans: it asks the driver.
    pub(crate) fn resident_blocks(&self, kernel: &Kernel, shared_bytes: u32) -> Result<u32> {
        Ok(self.0.backend.resident_blocks(kernel, shared_bytes)?.max(1))
    }

    /// The one place where kernels are launched.
    ///
    /// # Safety
    /// `params` is the kernel's parameter struct, and the addresses in it are valid for what the kernel does with them until the
    /// stream has run it. Where the device [`Device::is_checked`], the operands are all that the kernel touches.
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

/// The error where something is on another device than it must be. Two devices of one name are told apart by number.
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
