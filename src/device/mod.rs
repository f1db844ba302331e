//! Devices: where memory lives and kernels run. A device knows no convolution.
//!
//! Two kinds, behind one interface: a CUDA device (feature `cuda`), and the host device (feature `host`), which runs the
//! same kernel sources on the CPU.

mod capture;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod event;
mod gpu;
#[cfg(feature = "host")]
pub(crate) mod host;
#[cfg_attr(not(any(feature = "host", feature = "cuda")), allow(dead_code))]
pub(crate) mod kernel;
pub(crate) mod params;
mod timer;
mod watch;

use crate::error::{Error, Result};
use kernel::{Kernel, KernelInfo};
use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

pub(crate) use capture::{Captured, capture};
pub use event::Event;
pub use gpu::GpuModel;
#[cfg(feature = "host")]
pub use host::HostOptions;
#[cfg(feature = "checked-host")]
pub use host::{LaunchCounters, OperandCounters};
pub use timer::{Effort, Time, Timer};
pub(crate) use watch::Watch;

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
        let count = memory.bytes / element_bytes;
        Self { name, address: memory.address, element_bytes: element_bytes as u32, shape: [1, 1, 1, count], strides: [0, 0, 0, 1], access }
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

    /// The host device on all cores: the same one at each call in a process. [`Device::host_with`] makes others.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] without the feature `host`; [`Error::DeviceUnavailable`] when its threads cannot be started.
    pub fn host() -> Result<Self> {
        #[cfg(feature = "host")]
        {
            // with the process that made it: its threads do not survive a fork
            static HOST: Mutex<Option<(u32, Device)>> = Mutex::new(None);
            let process = std::process::id();
            let mut host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, device)) = host.as_ref().filter(|(made_in, _)| *made_in == process) {
                return Ok(device.clone());
            }
            let device = Self::host_with(HostOptions::default())?;
            *host = Some((process, device.clone()));
            Ok(device)
        }
        #[cfg(not(feature = "host"))]
        Err(Error::MissingFeature { feature: "host" })
    }

    /// A new host device with options: threads, checker, order of threads. Each call gives a distinct device, with threads of its
    /// own.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] when the checker is asked for and the feature `checked-host` is off.
    #[cfg(feature = "host")]
    pub fn host_with(options: HostOptions) -> Result<Self> {
        Ok(Self::from_backend(host::HostDevice::new(options)?))
    }

    /// The GPU `ordinal`, with its primary context: the same device as long as a handle of it is there.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] without the feature `cuda`; [`Error::DeviceUnavailable`] without a driver or such a GPU.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Self::from_cuda(cuda::primary_context(ordinal)?);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = ordinal;
            Err(Error::MissingFeature { feature: "cuda" })
        }
    }

    /// The GPU of a context that the caller owns. Another handle of the same context gives the same device: that of
    /// [`Device::cuda`] for a primary context.
    ///
    /// # Errors
    /// [`Error::Driver`] when the device's properties cannot be read.
    #[cfg(feature = "cuda")]
    pub fn from_cuda(context: Arc<cudarc::driver::CudaContext>) -> Result<Self> {
        // the devices that are there, by their contexts. A context lives as long as its device, so that no other has its address.
        static DEVICES: Mutex<Vec<(usize, Weak<Inner>)>> = Mutex::new(Vec::new());
        let address = context.cu_ctx() as usize;
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        devices.retain(|(_, device)| device.strong_count() > 0);
        let found = devices.iter().find(|(context, _)| *context == address).and_then(|(_, device)| device.upgrade());
        if let Some(device) = found {
            return Ok(Self(device));
        }
        let device = Self::from_backend(cuda::CudaDevice::new(context)?);
        devices.push((address, Arc::downgrade(&device.0)));
        Ok(device)
    }

    /// The first GPU when this build has the feature `cuda` and there are a driver and a GPU; otherwise the host device.
    /// [`Device::describe`] says which it is, and why it is not a GPU. The same device at each call, as [`Device::cuda`] and
    /// [`Device::host`] give it.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] when neither can be had: it says why there is no GPU.
    pub fn best() -> Result<Self> {
        #[cfg(feature = "cuda")]
        if cuda::unavailable().is_none() {
            return Self::cuda(0);
        }
        if cfg!(feature = "host") { Self::host() } else { Err(no_device(gpu_hint())) }
    }

    /// "best", "host" or "cuda:N", as the program's `--device` takes it.
    ///
    /// # Errors
    /// [`Error::Parse`], and those of the constructors.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "best" => Self::best(),
            "host" => Self::host(),
            "cuda" => Self::cuda(0),
            _ => match text.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Self::cuda(ordinal),
                None => Err(Error::Parse { source_name: format!("device {text:?}"), message: "expected best, host or cuda:N".into() }),
            },
        }
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

    /// Memory of this device; `bytes` may be 0.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Memory> {
        Ok(Memory { block: self.block(bytes)?, device: self.clone() })
    }

    fn block(&self, bytes: usize) -> Result<Block> {
        let address = if bytes == 0 { 0 } else { self.0.backend.allocate(bytes)? };
        self.0.allocations.fetch_add(1, Ordering::Relaxed);
        self.0.allocated.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Block { backend: self.0.backend.clone(), allocated: self.0.allocated.clone(), address, bytes })
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

/// Why the best device is not a GPU, when there may be one.
fn gpu_hint() -> Option<String> {
    #[cfg(feature = "cuda")]
    return cuda::unavailable();
    #[cfg(not(feature = "cuda"))]
    std::path::Path::new("/proc/driver/nvidia/version")
        .exists()
        .then(|| "an NVIDIA driver is there, but this build has no CUDA: build with --features cuda".into())
}

/// The error where there is neither a GPU nor a host device; `why` there is no GPU.
fn no_device(why: Option<String>) -> Error {
    let gpu = why.unwrap_or_else(|| "this build has no CUDA: build with --features cuda".into());
    let why = format!("{gpu}; and this build has no host device: build with --features host");
    Error::DeviceUnavailable { requested: "the best device".into(), why }
}

/// The error where something is on another device than it must be. Two devices of one name are told apart by number.
pub(crate) fn wrong_device(name: &'static str, expected: &Device, got: &Device) -> Error {
    let alike = expected.to_string() == got.to_string();
    let named = |device: &Device| if alike { format!("{device} (device #{})", device.id()) } else { device.to_string() };
    Error::WrongDevice { name, expected: named(expected), got: named(got) }
}

/// Memory of a device that does not keep the device, only what can free it. Freed on drop.
#[derive(Debug)]
pub(crate) struct Block {
    backend: Arc<dyn Backend>,
    /// The device's count of bytes, which outlives the device where this does.
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
        // SAFETY: this memory is alive and long enough, and so far only its owner, who uploads, has its address
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

/// Memory of a device, freed on drop. Keeps the device.
pub(crate) struct Memory {
    // freed before the device goes
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

    /// Queues a copy of all of `from`, which is as long. The caller keeps both until the stream has run it.
    pub fn queue_copy(&self, from: &Memory, stream: &Stream) -> Result<()> {
        assert!(from.bytes == self.bytes && from.device == self.device && !std::ptr::eq(from, self), "a copy is between equals");
        // SAFETY: both are alive and of this length, and two memories do not overlap. Freeing them waits for the copy.
        if self.bytes == 0 { Ok(()) } else { unsafe { self.backend.copy(self.address, from.address, self.bytes, stream) } }
    }
}

/// Copies to device memory from the host, after all work queued before.
///
/// # Safety
/// `from.len()` bytes from `address` on are memory of `device`, which nobody else uses meanwhile.
pub(crate) unsafe fn upload(device: &Device, address: u64, from: &[u8]) -> Result<()> {
    device.synchronize()?;
    // SAFETY: passed on to the caller
    if from.is_empty() { Ok(()) } else { unsafe { device.0.backend.upload(address, from) } }
}

/// Copies device memory to the host, after all work queued before.
///
/// # Safety
/// `to.len()` bytes from `address` on are initialised memory of `device`, which nobody writes meanwhile.
pub(crate) unsafe fn download(device: &Device, address: u64, to: &mut [u8]) -> Result<()> {
    if !to.is_empty() {
        // SAFETY: passed on to the caller
        unsafe { device.0.backend.download(address, to)? };
        device.watch().waited();
    }
    Ok(())
}

/// A queue of work on a device.
#[derive(Debug, Clone)]
pub struct Stream {
    device: Device,
    pub(crate) kind: StreamKind,
    /// Whether someone has promised that what is captured on it lives on.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    capture_allowed: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum StreamKind {
    /// Work is done when it is queued.
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    Immediate,
    #[cfg(feature = "cuda")]
    Cuda(Arc<cudarc::driver::CudaStream>),
}

impl Stream {
    /// The device's own stream, which [`Layer::forward`](crate::Layer::forward) uses.
    pub fn default_of(device: &Device) -> Self {
        Self { device: device.clone(), kind: device.0.backend.default_stream(), capture_allowed: false }
    }

    /// A new stream, which runs beside the others: synchronise before another stream uses what this one computes. On the host
    /// device work is done when it is queued.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self { device: device.clone(), kind: device.0.backend.new_stream()?, capture_allowed: false })
    }

    /// A stream that the caller owns. It must belong to the device's context.
    ///
    /// # Errors
    /// [`Error::WrongDevice`] when it belongs to another context.
    #[cfg(feature = "cuda")]
    pub fn from_cuda(device: &Device, stream: Arc<cudarc::driver::CudaStream>) -> Result<Self> {
        cuda::check_stream(device, &stream)?;
        Ok(Self { device: device.clone(), kind: StreamKind::Cuda(stream), capture_allowed: false })
    }

    /// Lets plans run on the stream while it is captured.
    ///
    /// A graph that is captured by way of [`Stream::as_cuda`] holds the addresses of plans, tensors and workspace, and replays use
    /// them whether they still live or not. Therefore [`Plan::run`](crate::Plan::run) refuses a stream that is captured.
    /// [`Graph`](crate::Graph) captures safely: it owns what its runs use.
    ///
    /// # Safety
    /// Every plan, tensor and workspace of the runs that are captured on the stream, or a clone of it, stays alive and where it is until
    /// the captured graph, what was instantiated from it and its last replay are done with it.
    #[must_use]
    pub unsafe fn allow_capture(mut self) -> Self {
        self.capture_allowed = true;
        self
    }

    /// Refuses a stream that is captured by someone who has not promised that what is captured lives on.
    pub(crate) fn refuse_capture(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let StreamKind::Cuda(stream) = &self.kind
            && !self.capture_allowed
            && cuda::is_capturing(stream)?
        {
            return Err(Error::Capturing);
        }
        Ok(())
    }

    /// The cudarc stream of a GPU; `None` for the host device.
    #[cfg(feature = "cuda")]
    pub fn as_cuda(&self) -> Option<&Arc<cudarc::driver::CudaStream>> {
        match &self.kind {
            StreamKind::Cuda(stream) => Some(stream),
            StreamKind::Immediate => None,
        }
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits for the work queued on it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when something queued has failed; [`Error::Driver`].
    pub fn synchronize(&self) -> Result<()> {
        let watch = self.device.watch();
        match &self.kind {
            StreamKind::Immediate => {}
            #[cfg(feature = "cuda")]
            StreamKind::Cuda(stream) => stream.synchronize().map_err(|e| cuda::failed(watch, "cuStreamSynchronize", e))?,
        }
        watch.waited();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_device_the_error_says_why_there_is_no_gpu() {
        let message = no_device(Some("no NVIDIA driver was found".into())).to_string();
        assert!(message.contains("no NVIDIA driver was found") && message.contains("--features host"), "{message}");
        let message = no_device(None).to_string();
        assert!(message.contains("--features cuda") && message.contains("--features host"), "{message}");
    }

    #[cfg(feature = "host")]
    #[test]
    fn devices_of_one_name_are_told_apart_by_number() {
        let [a, b] = [(); 2].map(|()| Device::host_with(HostOptions { threads: 1, ..Default::default() }).unwrap());
        let message = wrong_device("x", &a, &b).to_string();
        let [a, b] = [a, b].map(|device| format!("{device} (device #{})", device.id()));
        assert!(a != b && message.contains(&a) && message.contains(&b), "{message}");
    }
}
