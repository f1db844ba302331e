//! The host device: runs the kernels' own sources, compiled by the host's C++ compiler, on the CPU.
//!
//! Blocks are spread over the thread that launches and the device's own threads (team.rs). Inside a
//! block, each CUDA thread (a *lane*) is a coroutine with a stack (stacks.rs): a barrier or a warp
//! collective suspends it until the other lanes have arrived. Kernels whose threads never wait for
//! one another run without coroutines, one thread after the other.

mod block;
mod calls;
#[cfg(feature = "checked-host")]
mod checker;
mod finding;
mod mbarrier;
mod stacks;
mod team;
mod wgmma;

#[cfg(feature = "checked-host")]
pub use checker::{LaunchCounters, OperandCounters};

use super::uses::{Others, Uses};
use super::{Backend, DeviceKind, GpuModel, Launch, MemoryOptions, Properties, Stream, StreamKind, Watch};
use crate::device::kernel::{HOST_VARIANTS, Kernel, KernelInfo};
use crate::error::{Error, Result};
use block::Scratch;
use finding::Findings;
use stacks::SETS;
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use team::{Role, Team};

/// A kernel's entry point on the host. It takes the address of the kernel's parameter struct.
pub(crate) type Entry = unsafe extern "C" fn(*const c_void);

/// A kernel's entry points, one for each of `HOST_VARIANTS`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entries {
    pub portable: Option<Entry>,
    pub avx2: Option<Entry>,
    pub checked: Option<Entry>,
}

/// A way in which the kernels are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostBuild {
    Portable,
    Avx2,
    Checked,
}

impl HostBuild {
    /// Chooses the build for these options from those that were `compiled`.
    fn choose(options: &HostOptions, cpu_has_avx2: bool, compiled: &[&str]) -> Result<Self> {
        if options.checked {
            return Ok(Self::Checked);
        }
        if options.simd && cpu_has_avx2 && compiled.contains(&"avx2") {
            return Ok(Self::Avx2);
        }
        if compiled.contains(&"portable") {
            return Ok(Self::Portable);
        }
        let reason = if cpu_has_avx2 { "the portable build is asked for (simd is false)" } else { "this CPU lacks them" };
        let why = format!(
            "the host device's kernels were compiled for CPUs with AVX2, FMA and F16C alone, and {reason}; \
             a build with WARPCONV_HOST_CPU=portable, or both, runs on every CPU"
        );
        Err(Error::DeviceUnavailable { requested: "host".into(), why })
    }
}

/// How a host device runs kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOptions {
    /// The number of threads that work on a launch, including the calling one: at most 1024; 0
    /// means one for each core. With 1, a launch stays on the calling thread. The other threads do
    /// not survive a `fork`: a device with several threads refuses to run in a process that was
    /// forked after it was made ([`Error::DeviceUnavailable`]).
    pub threads: usize,
    /// Runs the instrumented build, in which every access of every thread is checked. Needs the
    /// feature `checked-host`.
    pub checked: bool,
    /// Determines the order in which the blocks of a launch and the threads of a block run; 0 is
    /// the order of their indices.
    pub seed: u64,
    /// Uses AVX2, FMA and F16C if the CPU has them and the kernels were compiled for them. If
    /// false, the portable build runs. [`build_info`](crate::build_info) lists that build only if
    /// `WARPCONV_HOST_CPU` asked for it, or if the CPU that built the crate has no AVX2.
    pub simd: bool,
    /// The number of times that the threads of one block may be resumed before the kernel counts as
    /// endless. When checked, also the number of basic blocks that they may enter, so that a loop
    /// that never waits is found as well; the default, 2^32, takes half a minute. A GEMM enters up to
    /// 8 million of them for every 1000 products in a sum, so that sums of 500,000 products pass.
    pub max_steps: u64,
    /// The GPU whose multiprocessors, shared memory and rates the choice of kernels assumes, so
    /// that plans are those of that GPU. `None` means an A100, but with the shared memory of a
    /// Hopper GPU, so that every kernel fits.
    pub imitates: Option<&'static GpuModel>,
    /// How much memory the device may hold.
    pub memory: MemoryOptions,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { threads: 0, checked: false, seed: 0, simd: true, max_steps: 1 << 32, imitates: None, memory: MemoryOptions::default() }
    }
}

const ALIGNMENT: usize = 128;
/// The largest value of `HostOptions::threads`: more than any machine has cores, and few enough to
/// be started quickly.
const MOST_THREADS: usize = 1024;
/// The size of a lane's stack in bytes. Pages that a kernel does not touch cost nothing. A guard
/// page is below each stack.
const STACK_BYTES: usize = 128 * 1024;
/// The number of launches whose counters a checked device keeps: more than any layer has.
#[cfg(feature = "checked-host")]
const COUNTED_LAUNCHES: usize = 8;
/// The shared memory of a block, in bytes, as on a Hopper GPU.
const SHARED_BYTES_PER_BLOCK: u32 = 227 * 1024;

#[derive(Debug)]
pub(crate) struct HostDevice {
    options: HostOptions,
    build: HostBuild,
    properties: Properties,
    /// The threads in addition to the calling one, if there are any.
    team: Option<Team>,
    /// Memory that launches leave for later ones.
    scratch: Mutex<Vec<Scratch>>,
    watch: Watch,
    blocks_done: AtomicU64,
    #[cfg(feature = "checked-host")]
    counters: Mutex<Vec<LaunchCounters>>,
}

impl HostDevice {
    pub fn new(options: HostOptions) -> Result<Self> {
        if options.checked && !cfg!(feature = "checked-host") {
            return Err(Error::MissingFeature { feature: "checked-host" });
        }
        if options.threads > MOST_THREADS {
            return Err(Error::Limit { what: "HostOptions::threads", value: options.threads as u128, limit: MOST_THREADS as u128 });
        }
        let build = HostBuild::choose(&options, has_avx2(), HOST_VARIANTS)?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if options.threads == 0 { cores.min(MOST_THREADS) } else { options.threads };
        let team = (threads > 1).then(|| Team::new(threads - 1)).transpose()?;
        let build_name = match build {
            HostBuild::Checked => "checked",
            HostBuild::Avx2 => "AVX2",
            HostBuild::Portable => "portable",
        };
        let model = options.imitates.unwrap_or(GpuModel::nominal());
        let properties = Properties {
            name: format!("CPU, {threads} threads, {build_name} build"),
            multiprocessors: threads as u32,
            shared_bytes_per_block: options.imitates.map_or(SHARED_BYTES_PER_BLOCK, GpuModel::shared_bytes_per_block),
            compute_capability: model.compute_capability,
            model,
        };
        Ok(Self {
            options,
            build,
            properties,
            team,
            scratch: Mutex::default(),
            watch: Watch::default(),
            blocks_done: AtomicU64::new(0),
            #[cfg(feature = "checked-host")]
            counters: Mutex::default(),
        })
    }

    fn entry(&self, kernel: &KernelInfo) -> Entry {
        let entry = match self.build {
            HostBuild::Portable => kernel.host.portable,
            HostBuild::Avx2 => kernel.host.avx2,
            HostBuild::Checked => kernel.host.checked,
        };
        entry.expect("every kernel is compiled in each of HOST_VARIANTS, of which this is one")
    }

    /// Adds to the findings of a launch's blocks what only the whole launch shows, and keeps its
    /// counters. `stopped` says that blocks were left out.
    #[cfg(feature = "checked-host")]
    fn conclude(&self, launch: &Launch<'_>, check: &checker::LaunchCheck, mut findings: Findings, stopped: bool) -> Findings {
        // A block that was ended early has left elements unwritten, for a reason that is reported
        // already.
        if !stopped && !findings.list.iter().any(|f| f.kind.ends_block()) {
            findings.list.extend(check.unwritten());
        }
        let mut counters = lock(&self.counters);
        if counters.len() == COUNTED_LAUNCHES {
            counters.remove(0);
        }
        counters.push(check.counters(launch));
        findings
    }
}

/// The order in which the blocks of a launch are started.
struct BlockOrder {
    blocks: u64,
    step: u64,
    first: u64,
}

impl BlockOrder {
    /// With seed 0 the order of the indices. Otherwise it starts at some block, with steps of a
    /// size that reaches each block once.
    fn new(blocks: u64, seed: u64) -> Self {
        if seed == 0 || blocks < 2 {
            return Self { blocks, step: 1, first: 0 };
        }
        let gcd = |mut a: u64, mut b: u64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let mut step = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % blocks;
        while gcd(step, blocks) != 1 {
            step = (step + 1) % blocks;
        }
        Self { blocks, step, first: seed % blocks }
    }

    fn block(&self, position: u64) -> u64 {
        ((u128::from(position) * u128::from(self.step) + u128::from(self.first)) % u128::from(self.blocks)) as u64
    }
}

/// Locks a mutex, also if a thread has panicked while holding it: the values that are guarded here
/// are valid at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn memory_layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, ALIGNMENT).ok()
}

impl Backend for HostDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Host
    }

    fn ordinal(&self) -> usize {
        0
    }

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let fail = |message: &str| Error::OutOfMemory { bytes, device: "the host device".into(), message: message.into() };
        let layout = memory_layout(bytes).ok_or_else(|| fail("the size is too large"))?;
        crate::memory::check(bytes)?;
        // SAFETY: the caller (`Device::block`) never asks for 0 bytes
        let pointer = unsafe { alloc(layout) };
        if pointer.is_null() {
            return Err(fail("the system has no more memory"));
        }
        // What a kernel fails to write must not look like a result: NaN in every dtype.
        // SAFETY: just allocated with this size
        unsafe { std::ptr::write_bytes(pointer, 0xff, bytes) };
        Ok(pointer as u64)
    }

    unsafe fn free(&self, address: u64, bytes: usize, _: &Uses) {
        let layout = memory_layout(bytes).expect("it was allocated with this layout");
        // SAFETY: the caller promises that it is from `allocate(bytes)`
        unsafe { dealloc(address as *mut u8, layout) }
    }

    unsafe fn upload(&self, address: u64, from: &[u8]) -> Result<()> {
        // SAFETY: the caller promises valid memory that nobody else uses meanwhile: the slice
        // cannot overlap it
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), address as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn download(&self, address: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller promises initialised memory (`allocate` fills it) that nobody writes meanwhile: the exclusive slice cannot
        // overlap it
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn fill_zero(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller promises valid memory
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, _: &Stream) -> Result<()> {
        // SAFETY: the caller promises two valid ranges that do not overlap
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<u64> {
        self.allocate(bytes)
    }

    unsafe fn free_pinned(&self, address: u64, bytes: usize) {
        // SAFETY: passed on to the caller
        unsafe { self.free(address, bytes, &Uses::new(Others::Nobody)) }
    }

    unsafe fn upload_async(&self, to: u64, from: *const u8, bytes: usize, _: &Stream) -> Result<()> {
        // SAFETY: the caller promises two valid ranges, which belong to different owners
        unsafe { std::ptr::copy_nonoverlapping(from, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn download_async(&self, from: u64, to: *mut u8, bytes: usize, _: &Stream) -> Result<()> {
        // SAFETY: as in `upload_async`
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to, bytes) };
        Ok(())
    }

    fn blocks_done(&self) -> Option<u64> {
        Some(self.blocks_done.load(Ordering::Relaxed))
    }

    fn is_checked(&self) -> bool {
        self.options.checked
    }

    fn load(&self, info: &'static KernelInfo) -> Result<Kernel> {
        Ok(Kernel {
            info,
            #[cfg(feature = "cuda")]
            cuda: None,
        })
    }

    /// A single thread runs blocks one after the other.
    fn resident_blocks(&self, _: &Kernel, _: u32) -> Result<u32> {
        Ok(self.properties.multiprocessors)
    }

    unsafe fn launch(&self, launch: &Launch<'_>, _: &Stream) -> Result<()> {
        let info = launch.kernel.info;
        let limit = self.properties.shared_bytes_per_block;
        if launch.shared_bytes > limit {
            let what = "the shared memory of a block in bytes";
            return Err(Error::Limit { what, value: launch.shared_bytes.into(), limit: limit.into() });
        }
        self.team.as_ref().map_or(Ok(()), Team::check_process)?;
        let blocks = launch.grid.iter().map(|&n| u64::from(n)).product::<u64>();
        // SAFETY: the caller promises that the operands are memory that this launch may touch
        #[cfg(feature = "checked-host")]
        let check = self.options.checked.then(|| unsafe { checker::LaunchCheck::new(launch) }).transpose()?;
        let job = block::Job {
            entry: self.entry(info),
            launch,
            options: &self.options,
            #[cfg(feature = "checked-host")]
            check: check.as_ref(),
        };
        let order = BlockOrder::new(blocks, self.options.seed);
        let taken = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let next = || Some(taken.fetch_add(1, Ordering::Relaxed)).filter(|&position| position < blocks && !stop.load(Ordering::Relaxed));
        let findings: Mutex<Findings> = Mutex::default();
        let failure: Mutex<Option<Error>> = Mutex::default();
        let stacks = job.stacks();
        let work = |role: Role| {
            if stacks == 0 {
                while let Some(position) = next() {
                    job.run_plain(order.block(position));
                    self.blocks_done.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
            // A helper that had to wait for stacks would only delay the end.
            let Some(mut set) = (if role == Role::Caller { Some(SETS.take()) } else { SETS.try_take() }) else { return };
            if let Err(e) = set.grow(stacks) {
                if role == Role::Caller {
                    stop.store(true, Ordering::Relaxed);
                    *lock(&failure) = Some(e);
                }
                return;
            }
            let mut scratch = lock(&self.scratch).pop().unwrap_or_default();
            while let Some(position) = next() {
                let mut found = job.run_fibers(order.block(position), &mut scratch, &mut set.stacks);
                self.blocks_done.fetch_add(1, Ordering::Relaxed);
                if !found.is_empty() {
                    // A checked block that fails does not affect others, and the others may find
                    // more.
                    let last = !self.options.checked || found.iter().any(|f| f.kind.ends_launch());
                    let mut all = lock(&findings);
                    all.merge(&mut found);
                    stop.fetch_or(last || all.is_full(), Ordering::Relaxed);
                }
            }
            lock(&self.scratch).push(scratch);
        };
        match &self.team {
            Some(team) if blocks > 1 => team.run(usize::try_from(blocks - 1).unwrap_or(usize::MAX), &work),
            _ => work(Role::Caller),
        }
        if let Some(e) = lock(&failure).take() {
            return Err(e);
        }
        let findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        #[cfg(feature = "checked-host")]
        let findings = match &check {
            Some(check) => self.conclude(launch, check, findings, stop.into_inner()),
            None => findings,
        };
        let findings = findings.report();
        if findings.is_empty() { Ok(()) } else { Err(Error::Kernel { kernel: info.name, findings }) }
    }

    #[cfg(feature = "checked-host")]
    fn launch_counters(&self) -> Vec<LaunchCounters> {
        lock(&self.counters).clone()
    }

    fn default_stream(&self) -> StreamKind {
        StreamKind::Immediate
    }

    fn new_stream(&self) -> Result<StreamKind> {
        Ok(StreamKind::Immediate)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_chosen_that_the_cpu_runs_and_that_was_compiled() {
        let options = |checked, simd| HostOptions { checked, simd, ..Default::default() };
        let choose = |simd, cpu, compiled: &[&str]| HostBuild::choose(&options(false, simd), cpu, compiled);
        for compiled in [&["avx2"][..], &["portable", "avx2"]] {
            assert_eq!(choose(true, true, compiled).unwrap(), HostBuild::Avx2);
        }
        for (simd, cpu) in [(true, false), (false, true), (false, false)] {
            assert_eq!(choose(simd, cpu, &["portable", "avx2"]).unwrap(), HostBuild::Portable);
            let Err(error) = choose(simd, cpu, &["avx2"]) else { panic!("no such build") };
            let message = error.to_string();
            assert!(message.contains("AVX2") && message.contains("WARPCONV_HOST_CPU=portable"), "{message}");
            assert_eq!(message.contains("this CPU lacks"), !cpu, "{message}");
        }
        assert_eq!(choose(true, true, &["portable"]).unwrap(), HostBuild::Portable);
        assert_eq!(HostBuild::choose(&options(true, true), true, &["avx2", "checked"]).unwrap(), HostBuild::Checked);
    }
}
