//! The checker: sees every access of every lane, through the compiler's instrumentation (kernels/host/callbacks.cpp).
//!
//! A launch has one [`LaunchCheck`]: its operands, and for each of their elements who has touched it. A block has one
//! [`BlockCheck`]: the shadow of its shared memory, its lanes' async copies, and its counters. A finding after which the
//! access can still be made (a race, an uninitialised read) is noted and the lane goes on; one that would corrupt memory
//! suspends the lane for good and ends its block, while other blocks go on to find more.

use super::block::Block;
use super::calls::{Act, Calls, Dim3, Lane, Region, barrier_at, block, collective_at, suspend, sync_warp_at};
use super::finding::{Finding, Findings, Kind};
use crate::device::kernel::host_checked_calls;
use crate::device::{Access, Launch, Operand};
use crate::error::Result;
use crate::memory;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// What one launch on a checked host device has moved and how often its threads have met.
///
/// Bytes are those that the threads asked for, not those that a cache or DRAM moves. Bank conflicts follow a model of 32
/// banks of 4 bytes: the k-th execution of one instruction since the lanes of a warp last met (at a barrier or a warp
/// collective) is one request of those lanes. 16-byte accesses are served by quarter-warps, 8-byte ones by half-warps,
/// smaller ones by the whole warp at once; each such part takes as many wavefronts as the most distinct 4-byte words that
/// it touches in one bank. `ldmatrix` counts as a 16-byte read of each lane's row, `cp.async` as a write of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LaunchCounters {
    /// The kernel.
    pub kernel: &'static str,
    /// Blocks of the grid.
    pub blocks: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Traffic of each tensor of the launch.
    pub operands: Vec<OperandCounters>,
    /// Barriers passed, summed over the blocks.
    pub barriers: u64,
    /// Warp collectives done (tensor-core tiles, ldmatrix, shuffles, votes, `sync_warp`), summed over the warps.
    pub collectives: u64,
    /// Bytes that threads read from shared memory.
    pub shared_bytes_read: u64,
    /// Bytes that threads wrote to shared memory, async copies included.
    pub shared_bytes_written: u64,
    /// Passes that the banks of shared memory need for all requests.
    pub shared_wavefronts: u64,
    /// Those of them that would not be needed without bank conflicts.
    pub bank_conflicts: u64,
}

/// The traffic of one tensor of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OperandCounters {
    /// "x", "weight", "y", ...
    pub name: &'static str,
    /// Bytes of the tensor's elements.
    pub bytes: u64,
    /// Bytes that threads read.
    pub bytes_read: u64,
    /// Bytes that threads wrote.
    pub bytes_written: u64,
    /// Bytes of those elements that were touched at all.
    pub unique_bytes: u64,
    /// Sectors of 32 bytes that blocks read or wrote, each counted once for each block: what L2 moves if a block's own repeated
    /// accesses stay in its L1.
    pub block_sectors: u64,
}

/// What L2 moves at once.
const SECTOR_BYTES: usize = 32;

impl LaunchCounters {
    /// Bytes that threads read from global memory.
    pub fn global_bytes_read(&self) -> u64 {
        self.operands.iter().map(|o| o.bytes_read).sum()
    }

    /// Bytes that threads wrote to global memory.
    pub fn global_bytes_written(&self) -> u64 {
        self.operands.iter().map(|o| o.bytes_written).sum()
    }

    /// Bytes of global memory that were touched at all: the least that the launch must move.
    pub fn unique_bytes(&self) -> u64 {
        self.operands.iter().map(|o| o.unique_bytes).sum()
    }

    /// The traffic of one tensor.
    pub fn operand(&self, name: &str) -> Option<&OperandCounters> {
        self.operands.iter().find(|o| o.name == name)
    }
}

/// A dimension of an operand's memory: how often, how far in elements.
#[derive(Debug, Clone, Copy, Default)]
struct Dimension {
    size: usize,
    stride: usize,
}

/// An operand and who has touched its elements. Elements are numbered in the order of their addresses.
#[derive(Debug)]
struct Tracked {
    operand: Operand,
    start: usize,
    /// Bytes from the first element to the end of the last.
    extent: usize,
    /// log2 of an element's bytes.
    shift: u32,
    /// From the widest stride to the narrowest; neighbours that are one run are merged.
    dimensions: Vec<Dimension>,
    packed: bool,
    /// Of an [`Access::Read`]: 1 for elements that were read.
    touched: Vec<AtomicU8>,
    /// Of the others: 0, or the thread that touched the element (`owner`), and `WRITTEN`.
    owners: Vec<AtomicU64>,
}

const WRITTEN: u64 = 1 << 63;
const THREAD_BITS: u32 = 12;

fn owner(block: u64, thread: usize) -> u64 {
    ((block << THREAD_BITS) | thread as u64) + 1
}

impl Tracked {
    fn new(operand: &Operand) -> Result<Self> {
        let mut axes: Vec<Dimension> =
            (0..4).map(|i| Dimension { size: operand.shape[i], stride: operand.strides[i] }).filter(|d| d.size != 1).collect();
        axes.sort_by_key(|d| std::cmp::Reverse(d.stride));
        let mut dimensions: Vec<Dimension> = Vec::new();
        for axis in axes {
            match dimensions.last_mut() {
                Some(outer) if outer.stride == axis.stride * axis.size => {
                    *outer = Dimension { size: outer.size * axis.size, stride: axis.stride };
                }
                _ => dimensions.push(axis),
            }
        }
        if dimensions.is_empty() {
            dimensions.push(Dimension { size: 1, stride: 1 });
        }
        let count = operand.shape.iter().product::<usize>();
        let last: usize = dimensions.iter().map(|d| d.size.saturating_sub(1) * d.stride).sum();
        let element = operand.element_bytes as usize;
        let (touched, owners) = if operand.access == Access::Read { (count, 0) } else { (0, count) };
        Ok(Self {
            operand: *operand,
            start: operand.address as usize,
            extent: if count == 0 { 0 } else { (last + 1) * element },
            shift: element.trailing_zeros(),
            packed: dimensions.len() == 1 && dimensions[0].stride == 1,
            dimensions,
            touched: memory::collect((0..touched).map(|_| AtomicU8::new(0)))?,
            owners: memory::collect((0..owners).map(|_| AtomicU64::new(0)))?,
        })
    }

    /// The elements that `bytes` from `offset` on touch, when all of them belong to the operand.
    #[inline(always)]
    fn elements(&self, offset: usize, bytes: usize) -> Option<(usize, usize)> {
        let first = offset >> self.shift;
        let count = ((offset + bytes - 1) >> self.shift) - first + 1;
        if self.packed {
            return (offset + bytes <= self.extent).then_some((first, count));
        }
        let (mut rest, mut index) = (first, 0);
        for d in &self.dimensions {
            let at = if (rest | d.stride) >> 32 == 0 { (rest as u32 / d.stride as u32) as usize } else { rest / d.stride };
            if at >= d.size {
                return None;
            }
            rest -= at * d.stride;
            index = index * d.size + at;
        }
        let run = self.dimensions[self.dimensions.len() - 1];
        let left = if run.stride == 1 { run.size - index % run.size } else { 1 };
        (rest == 0 && count <= left).then_some((index, count))
    }

    /// Calls `each` with the address and the bytes of every run of consecutive elements.
    fn for_each_run(&self, mut each: impl FnMut(usize, usize)) {
        if self.extent == 0 {
            return;
        }
        let (run, outer) = match self.dimensions.split_last() {
            Some((last, outer)) if last.stride == 1 => (last.size, outer),
            _ => (1, &self.dimensions[..]),
        };
        for mut index in 0..outer.iter().map(|d| d.size).product::<usize>() {
            let mut element = 0;
            for d in outer.iter().rev() {
                element += index % d.size * d.stride;
                index /= d.size;
            }
            each(self.start + (element << self.shift), run << self.shift);
        }
    }

    /// "element [0, 3, 2, 1] of y" for an element by its number.
    fn name_of(&self, mut index: usize) -> String {
        let mut element = 0;
        for d in self.dimensions.iter().rev() {
            element += index % d.size * d.stride;
            index /= d.size;
        }
        let Operand { shape, strides, name, .. } = self.operand;
        let mut axes = [0, 1, 2, 3];
        axes.sort_by_key(|&i| std::cmp::Reverse(strides[i]));
        let mut position = [0; 4];
        for i in axes.into_iter().filter(|&i| shape[i] > 1) {
            position[i] = element / strides[i];
            element %= strides[i];
        }
        format!("element {position:?} of {name}")
    }
}

/// What the blocks of a launch share.
#[derive(Debug)]
pub(super) struct LaunchCheck {
    operands: Vec<Tracked>,
    grid: [u32; 3],
    totals: Mutex<Traffic>,
}

impl LaunchCheck {
    /// Prepares the launch and fills its outputs with NaN: what the kernel fails to write must not look like a result.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when there is no room to note who touches each element.
    ///
    /// # Safety
    /// The operands are memory that the launch may touch.
    pub unsafe fn new(launch: &Launch<'_>) -> Result<Self> {
        let operands = launch.operands.iter().map(Tracked::new).collect::<Result<Vec<_>>>()?;
        for output in operands.iter().filter(|t| t.operand.access == Access::Write) {
            // SAFETY: only the elements of an operand that the launch is to overwrite
            output.for_each_run(|address, bytes| unsafe { std::ptr::write_bytes(address as *mut u8, 0xff, bytes) });
        }
        Ok(Self { totals: Mutex::new(Traffic::new(operands.len())), grid: launch.grid, operands })
    }

    /// The output elements that no thread has written, to be asked for when no thread was ended early.
    pub fn unwritten(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for output in self.operands.iter().filter(|t| t.operand.access != Access::Read) {
            let mut left = output.owners.iter().enumerate().filter(|(_, o)| o.load(Relaxed) & WRITTEN == 0).map(|(i, _)| i);
            if let Some(first) = left.next() {
                let (name, count, all) = (output.operand.name, left.count() + 1, output.owners.len());
                findings.push(Finding {
                    kind: Kind::Unwritten,
                    order: u64::MAX,
                    block: None,
                    thread: None,
                    place: 0,
                    other: 0,
                    what: format!("{count} of {all} elements of {name} were written by no thread, {} first", output.name_of(first)),
                });
            }
        }
        findings
    }

    pub fn counters(&self, launch: &Launch<'_>) -> LaunchCounters {
        let totals = self.totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let operand = |((tracked, (read, written)), sectors): ((&Tracked, &(u64, u64)), &u64)| {
            let touched = tracked.touched.iter().filter(|t| t.load(Relaxed) != 0).count()
                + tracked.owners.iter().filter(|o| o.load(Relaxed) != 0).count();
            let elements = tracked.touched.len() + tracked.owners.len();
            OperandCounters {
                name: tracked.operand.name,
                bytes: (elements as u64) << tracked.shift,
                bytes_read: *read,
                bytes_written: *written,
                unique_bytes: (touched as u64) << tracked.shift,
                block_sectors: *sectors,
            }
        };
        LaunchCounters {
            kernel: launch.kernel.info.name,
            blocks: launch.grid.iter().map(|&n| u64::from(n)).product(),
            threads: launch.kernel.info.threads,
            operands: self.operands.iter().zip(&totals.global).zip(&totals.sectors).map(operand).collect(),
            barriers: totals.barriers,
            collectives: totals.collectives,
            shared_bytes_read: totals.shared_read,
            shared_bytes_written: totals.shared_written,
            shared_wavefronts: totals.wavefronts,
            bank_conflicts: totals.conflicts,
        }
    }

    /// "thread 3 of block (1, 0, 0)"
    fn thread(&self, owner: u64) -> String {
        let owner = (owner & !WRITTEN) - 1;
        let Dim3 { x, y, z } = Dim3::of_linear(owner >> THREAD_BITS, self.grid);
        format!("thread {} of block ({x}, {y}, {z})", owner & ((1 << THREAD_BITS) - 1))
    }
}

/// Counters of a block, or of the blocks so far.
#[derive(Debug, Default)]
struct Traffic {
    /// Bytes read and written, for each operand.
    global: Vec<(u64, u64)>,
    /// Of 32 bytes, for each operand.
    sectors: Vec<u64>,
    barriers: u64,
    collectives: u64,
    shared_read: u64,
    shared_written: u64,
    wavefronts: u64,
    conflicts: u64,
}

impl Traffic {
    fn new(operands: usize) -> Self {
        Self { global: vec![(0, 0); operands], sectors: vec![0; operands], ..Self::default() }
    }

    fn add(&mut self, other: &Traffic) {
        for (total, new) in self.global.iter_mut().zip(&other.global) {
            total.0 += new.0;
            total.1 += new.1;
        }
        for (total, new) in self.sectors.iter_mut().zip(&other.sectors) {
            *total += new;
        }
        self.barriers += other.barriers;
        self.collectives += other.collectives;
        self.shared_read += other.shared_read;
        self.shared_written += other.shared_written;
        self.wavefronts += other.wavefronts;
        self.conflicts += other.conflicts;
    }
}

impl Region {
    #[inline(always)]
    fn holds(self, address: usize, bytes: usize) -> bool {
        let offset = address.wrapping_sub(self.start);
        offset < self.bytes && offset + bytes <= self.bytes
    }
}

/// Last write and last read of two bytes of shared memory, stamped with the block's time. A stamp of 0 is never.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    write: u32,
    read: u32,
    /// The thread that wrote, with `PENDING` while its async copy is under way.
    writer: u16,
    /// The thread that read, or `SOME_OF | warp`, or `MANY`.
    reader: u16,
}

const CELL_BYTES: usize = 2;
const PENDING: u16 = 1 << 15;
const SOME_OF: u16 = 1 << 14;
const MANY: u16 = 1 << 15;

/// An async copy under way.
#[derive(Debug, Clone, Copy)]
struct Copy {
    shared: usize,
    global: usize,
    bytes: u32,
    valid: u32,
    group: u32,
}

#[derive(Debug, Default)]
struct Copies {
    queue: VecDeque<Copy>,
    open_group: u32,
}

/// An access to shared memory, until the warp meets and its lanes' accesses are matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    place: usize,
    offset: u32,
    bytes: u32,
}

/// So many accesses of one lane between two meetings are counted; later ones are checked, but not counted as requests.
const MAX_REQUESTS: usize = 1 << 14;

/// What the checker knows of the block that an OS thread runs.
#[derive(Debug, Default)]
pub(super) struct BlockCheck {
    launch: Option<std::ptr::NonNull<LaunchCheck>>,
    linear: u64,
    shared: Region,
    cells: Vec<Cell>,
    /// Advances whenever threads meet in a way that orders memory.
    time: u32,
    last_barrier: u32,
    /// Of each warp: the time of its last `sync_warp` or barrier.
    last_sync: Vec<u32>,
    copies: Vec<Copies>,
    requests: Vec<Vec<Request>>,
    traffic: Traffic,
    /// Of each operand, the latest block that touched each sector.
    sectors: Vec<Vec<u32>>,
    /// This block, among all that this object has served.
    generation: u32,
}

/// Whether the lane may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
enum Verdict {
    GoOn,
    End,
}

/// A place to note findings of one lane at one place.
struct Notes<'a> {
    findings: &'a mut Findings,
    order: u64,
    block: Dim3,
    thread: usize,
    place: usize,
}

impl Notes<'_> {
    #[cold]
    fn add(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        if !self.findings.has(kind, self.place) && !self.findings.is_full() {
            let (order, block, thread, place) = (self.order, Some(self.block), Some(self.thread), self.place);
            self.findings.list.push(Finding { kind, order, block, thread, place, other: 0, what: what() });
        }
    }
}

impl BlockCheck {
    pub fn start(&mut self, launch: &LaunchCheck, linear: u64, threads: usize, shared: Region) {
        self.launch = Some(std::ptr::NonNull::from(launch));
        self.linear = linear;
        self.shared = shared;
        self.cells.clear();
        self.cells.resize(shared.bytes.div_ceil(CELL_BYTES), Cell::default());
        self.time = 1;
        self.last_barrier = 0;
        self.last_sync.clear();
        self.last_sync.resize(threads.div_ceil(32), 0);
        self.copies.resize_with(threads, Copies::default);
        for copies in &mut self.copies {
            copies.queue.clear();
            copies.open_group = 0;
        }
        self.requests.resize_with(threads, Vec::new);
        self.requests.iter_mut().for_each(Vec::clear);
        self.traffic = Traffic::new(launch.operands.len());
        self.generation += 1;
        self.sectors.resize_with(launch.operands.len().max(self.sectors.len()), Vec::new);
        for (seen, tracked) in self.sectors.iter_mut().zip(&launch.operands) {
            let sectors = tracked.extent / SECTOR_BYTES + 2;
            seen.resize(sectors.max(seen.len()), 0);
        }
    }

    /// Ends the block; its counters go to the launch.
    pub fn finish(&mut self, launch: &LaunchCheck) {
        (0..self.last_sync.len()).for_each(|warp| self.match_requests(warp));
        launch.totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&self.traffic);
        self.launch = None;
    }

    /// All threads of the block have met.
    pub fn barrier(&mut self) {
        self.time += 1;
        self.last_barrier = self.time;
        self.last_sync.fill(self.time);
        self.traffic.barriers += 1;
        (0..self.last_sync.len()).for_each(|warp| self.match_requests(warp));
    }

    /// A warp has met, in a way that orders its accesses to memory or not.
    pub fn meeting(&mut self, warp: usize, orders: bool) {
        if orders {
            self.time += 1;
            self.last_sync[warp] = self.time;
        }
        self.traffic.collectives += 1;
        self.match_requests(warp);
    }

    #[inline(always)]
    fn access(&mut self, notes: &mut Notes<'_>, address: usize, bytes: usize, write: bool, aligned: bool) -> Verdict {
        let lane = notes.thread;
        let offset = address.wrapping_sub(self.shared.start);
        let in_shared = offset < self.shared.bytes;
        if aligned && address & (bytes - 1) != 0 {
            let verb = if write { "writes" } else { "reads" };
            let name = self.describe(address);
            notes.add(Kind::Misaligned, || format!("{verb} {bytes} bytes at an address that is not a multiple of {bytes}: {name}"));
            return Verdict::End;
        }
        if !in_shared {
            return self.global(notes, address, bytes, write);
        }
        if offset + bytes > self.shared.bytes {
            return self.outside(notes, address, bytes, write);
        }
        if write {
            self.traffic.shared_written += bytes as u64;
        } else {
            self.traffic.shared_read += bytes as u64;
        }
        self.log(lane, notes.place, offset, bytes, aligned);
        self.shared_cells(notes, offset, bytes, write, false);
        Verdict::GoOn
    }

    /// Checks an access to shared memory against those before it, and notes it in their place.
    #[inline(always)]
    fn shared_cells(&mut self, notes: &mut Notes<'_>, offset: usize, bytes: usize, write: bool, pending: bool) {
        let (lane, now) = (notes.thread, self.time);
        let (barrier, sync) = (self.last_barrier, self.last_sync[lane / 32]);
        let warp = (lane / 32) as u16;
        // an access before `barrier` is ordered before this one, one of the same warp if before `sync`
        let other_thread = |stamp: u32, thread: u16| stamp >= barrier && thread as usize != lane && (thread / 32 != warp || stamp >= sync);
        let cells = offset / CELL_BYTES..(offset + bytes - 1) / CELL_BYTES + 1;
        for (index, cell) in self.cells[cells.clone()].iter_mut().enumerate() {
            let byte = (cells.start + index) * CELL_BYTES;
            let verb = if write { "writes" } else { "reads" };
            if cell.writer & PENDING != 0 {
                let writer = cell.writer & !PENDING;
                notes.add(Kind::StillCopying, || {
                    format!("{verb} {bytes} bytes at byte {offset} of shared memory, where an async copy of thread {writer} is still under way (byte {byte})")
                });
            } else if cell.write != 0 && other_thread(cell.write, cell.writer) {
                let writer = cell.writer;
                notes.add(Kind::SharedRace, || {
                    format!("{verb} {bytes} bytes at byte {offset} of shared memory, which thread {writer} wrote with no barrier between (byte {byte})")
                });
            } else if cell.write == 0 && !write {
                notes.add(Kind::Uninitialised, || {
                    format!("reads {bytes} bytes at byte {offset} of shared memory, where byte {byte} was written by no thread")
                });
            }
            if write {
                let raced = match cell.reader {
                    _ if cell.read == 0 => false,
                    MANY => cell.read >= barrier,
                    some if some & SOME_OF != 0 => cell.read >= barrier && (some & !SOME_OF != warp || cell.read >= sync),
                    reader => other_thread(cell.read, reader),
                };
                if raced {
                    let reader = match cell.reader {
                        MANY => "several threads".into(),
                        some if some & SOME_OF != 0 => format!("several threads of warp {}", some & !SOME_OF),
                        reader => format!("thread {reader}"),
                    };
                    notes.add(Kind::SharedRace, || {
                        format!("writes {bytes} bytes at byte {offset} of shared memory, which {reader} read with no barrier between (byte {byte})")
                    });
                }
                cell.write = now;
                cell.writer = lane as u16 | if pending { PENDING } else { 0 };
            } else {
                // readers whose access is not ordered before this one; what races with them need not race with this lane
                cell.reader = match cell.reader {
                    reader if cell.read == 0 || cell.read < barrier || reader == lane as u16 => lane as u16,
                    MANY => MANY,
                    reader => {
                        let of = if reader & SOME_OF != 0 { reader & !SOME_OF } else { reader / 32 };
                        match (of == warp, cell.read < sync) {
                            (true, true) => lane as u16,
                            (true, false) => SOME_OF | warp,
                            (false, _) => MANY,
                        }
                    }
                };
                cell.read = now;
            }
        }
    }

    fn global(&mut self, notes: &mut Notes<'_>, address: usize, bytes: usize, write: bool) -> Verdict {
        let launch = self.launch.expect("a lane runs in a launch");
        // SAFETY: the launch outlives its blocks
        let launch = unsafe { launch.as_ref() };
        let mut refused = None;
        for (number, tracked) in launch.operands.iter().enumerate() {
            let offset = address.wrapping_sub(tracked.start);
            if offset >= tracked.extent {
                continue;
            }
            let Some((first, count)) = tracked.elements(offset, bytes) else { continue };
            match (tracked.operand.access, write) {
                (Access::Read, false) => {
                    for touched in &tracked.touched[first..first + count] {
                        if touched.load(Relaxed) == 0 {
                            touched.store(1, Relaxed);
                        }
                    }
                }
                (Access::Write, true) | (Access::Update, _) => {
                    let me = owner(self.linear, notes.thread);
                    for element in first..first + count {
                        own(launch, tracked, element, me, write, notes);
                    }
                }
                _ => {
                    refused = Some((tracked, first));
                    continue;
                }
            }
            let traffic = &mut self.traffic.global[number];
            *(if write { &mut traffic.1 } else { &mut traffic.0 }) += bytes as u64;
            let start = tracked.start % SECTOR_BYTES;
            let sectors = (start + offset) / SECTOR_BYTES..(start + offset + bytes - 1) / SECTOR_BYTES + 1;
            for seen in &mut self.sectors[number][sectors] {
                self.traffic.sectors[number] += u64::from(*seen != self.generation);
                *seen = self.generation;
            }
            return Verdict::GoOn;
        }
        let Some((tracked, first)) = refused else {
            return self.outside(notes, address, bytes, write);
        };
        let name = tracked.name_of(first);
        if write {
            notes.add(Kind::WrongDirection, || format!("writes {bytes} bytes to {name}, which this launch may only read"));
            return Verdict::End;
        }
        notes.add(Kind::WrongDirection, || format!("reads {bytes} bytes from {name}, an output that this launch may only write"));
        Verdict::GoOn
    }

    #[cold]
    fn outside(&self, notes: &mut Notes<'_>, address: usize, bytes: usize, write: bool) -> Verdict {
        let verb = if write { "writes" } else { "reads" };
        let place = self.describe_outside(address, bytes);
        notes.add(Kind::OutOfBounds, || format!("{verb} {bytes} bytes outside every tensor of the launch, {place}"));
        Verdict::End
    }

    /// The tensors of the launch and the block's shared memory.
    fn regions(&self) -> impl Iterator<Item = (&'static str, Region)> {
        // SAFETY: the launch outlives its blocks
        let launch = unsafe { self.launch.expect("a lane runs in a launch").as_ref() };
        let tensors = launch.operands.iter().map(|t| (t.operand.name, Region { start: t.start, bytes: t.extent }));
        tensors.chain([("shared memory", self.shared)]).filter(|(_, region)| region.bytes > 0)
    }

    /// "byte 6 of x"
    #[cold]
    fn describe(&self, address: usize) -> String {
        match self.regions().find(|(_, region)| region.holds(address, 1)) {
            Some((name, region)) => format!("byte {} of {name}", address - region.start),
            None => format!("address {address:#x}"),
        }
    }

    /// Where an address is that belongs to no tensor, from the nearest of them.
    #[cold]
    fn describe_outside(&self, address: usize, bytes: usize) -> String {
        const FAR: usize = 1 << 24;
        let (mut nearest, mut text) = (FAR, format!("far from all of them (address {address:#x})"));
        for (name, Region { start, bytes: length }) in self.regions() {
            let end = start + length;
            let (distance, found) = if address == end {
                (0, format!("just past the end of {name}"))
            } else if address > end {
                (address - end, format!("{} bytes past the end of {name}", address - end))
            } else if address + bytes > end {
                (0, format!("reaching {} bytes past the end of {name}", address + bytes - end))
            } else if address >= start {
                (0, format!("between the elements of the view {name} (byte {} from its first element)", address - start))
            } else {
                (start - address, format!("{} bytes before {name}", start - address))
            };
            if distance < nearest {
                (nearest, text) = (distance, found);
            }
        }
        text
    }

    #[inline(always)]
    fn log(&mut self, lane: usize, place: usize, offset: usize, bytes: usize, whole: bool) {
        let requests = &mut self.requests[lane];
        if requests.len() >= MAX_REQUESTS {
            return;
        }
        if whole {
            requests.push(Request { place, offset: offset as u32, bytes: bytes as u32 });
        } else {
            // the compiler splits it: count words
            requests.extend((offset..offset + bytes).step_by(4).map(|at| Request { place, offset: at as u32, bytes: 4 }));
        }
    }

    /// Counts the wavefronts of a warp's accesses since its last meeting.
    fn match_requests(&mut self, warp: usize) {
        let lanes = warp * 32..self.requests.len().min(warp * 32 + 32);
        let requests = &mut self.requests[lanes];
        let longest = requests.iter().map(Vec::len).max().unwrap_or(0);
        if longest == 0 {
            return;
        }
        // mostly every lane that accesses at all takes the same way; a lane that does not has its accesses matched by place
        let guide = requests.iter().position(|r| r.len() == longest).expect("one of them is the longest");
        let same =
            |r: &Vec<Request>| r.is_empty() || (r.len() == longest && r.iter().zip(&requests[guide]).all(|(a, b)| a.place == b.place));
        if requests.iter().all(same) {
            for step in 0..longest {
                count_wavefronts(&mut self.traffic, requests.iter().enumerate().filter_map(|(l, r)| Some((l, *r.get(step)?))));
            }
        } else {
            let mut all: Vec<(usize, u32, usize, Request)> = Vec::new();
            let mut seen: Vec<(usize, u32)> = Vec::new();
            for (lane, list) in requests.iter().enumerate() {
                seen.clear();
                for request in list {
                    let known = seen.iter().position(|(place, _)| *place == request.place);
                    let index = known.unwrap_or_else(|| {
                        seen.push((request.place, 0));
                        seen.len() - 1
                    });
                    all.push((request.place, seen[index].1, lane, *request));
                    seen[index].1 += 1;
                }
            }
            all.sort_unstable();
            for one in all.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
                count_wavefronts(&mut self.traffic, one.iter().map(|&(_, _, lane, request)| (lane, request)));
            }
        }
        requests.iter_mut().for_each(Vec::clear);
    }

    fn copy_async(&mut self, notes: &mut Notes<'_>, shared: usize, global: usize, bytes: u32, valid: u32) -> Verdict {
        let lane = notes.thread;
        let mask = bytes as usize - 1;
        if (shared | if valid > 0 { global } else { 0 }) & mask != 0 {
            let name = if shared & mask != 0 { self.describe(shared) } else { self.describe(global) };
            notes.add(Kind::Misaligned, || format!("copies {bytes} bytes with an address that is not a multiple of {bytes}: {name}"));
            return Verdict::End;
        }
        if !self.shared.holds(shared, bytes as usize) {
            return self.outside(notes, shared, bytes as usize, true);
        }
        if valid > 0 && self.global(notes, global, valid as usize, false) == Verdict::End {
            return Verdict::End;
        }
        let offset = shared - self.shared.start;
        self.traffic.shared_written += u64::from(bytes);
        self.log(lane, notes.place, offset, bytes as usize, true);
        self.shared_cells(notes, offset, bytes as usize, true, true);
        let group = self.copies[lane].open_group;
        self.copies[lane].queue.push_back(Copy { shared, global, bytes, valid, group });
        Verdict::GoOn
    }

    /// Does what the wait demands, no more: copies come as late as they may.
    ///
    /// # Safety
    /// The global memory of the lane's copies is still valid.
    unsafe fn copy_wait(&mut self, lane: usize, pending: u32) {
        let open = self.copies[lane].open_group;
        while let Some(&Copy { shared, global, bytes, valid, group }) = self.copies[lane].queue.front() {
            // groups are committed in order; the open one is not waited for
            if group + pending >= open {
                break;
            }
            self.copies[lane].queue.pop_front();
            // SAFETY: `copy_async` has checked that both lie in memory of the launch
            unsafe {
                std::ptr::copy_nonoverlapping(global as *const u8, shared as *mut u8, valid as usize);
                std::ptr::write_bytes((shared + valid as usize) as *mut u8, 0, (bytes - valid) as usize);
            }
            let first = (shared - self.shared.start) / CELL_BYTES;
            for cell in &mut self.cells[first..first + bytes as usize / CELL_BYTES] {
                cell.write = self.time;
                cell.writer = lane as u16;
            }
        }
    }
}

/// Notes that a thread touches an element of an output.
#[inline(always)]
fn own(launch: &LaunchCheck, tracked: &Tracked, element: usize, me: u64, write: bool, notes: &mut Notes<'_>) {
    let word = &tracked.owners[element];
    let mine = if write { me | WRITTEN } else { me };
    let before = match word.compare_exchange(0, mine, Relaxed, Relaxed) {
        Ok(_) => return,
        Err(before) => before,
    };
    let verb = if write { "writes" } else { "reads" };
    if before & !WRITTEN != me {
        notes.add(Kind::GlobalRace, || {
            let did = if before & WRITTEN != 0 { "wrote" } else { "read" };
            format!("{verb} {}, which {} {did}", tracked.name_of(element), launch.thread(before))
        });
    } else if write && before & WRITTEN != 0 {
        notes.add(Kind::WrittenTwice, || format!("writes {} a second time", tracked.name_of(element)));
    } else if write {
        word.store(mine, Relaxed);
    }
}

/// Adds the wavefronts of one request: (lane, access) of the lanes that take part.
fn count_wavefronts(traffic: &mut Traffic, accesses: impl Iterator<Item = (usize, Request)>) {
    const BANKS: u32 = 32;
    // 32 words at most fall into one part of the warp, hence into one bank
    let mut words = [[0u32; 32]; BANKS as usize];
    let mut used = [0u8; BANKS as usize];
    let mut part = None;
    let mut close = |used: &mut [u8; BANKS as usize]| {
        let most = u64::from(used.iter().copied().max().unwrap_or(0));
        traffic.wavefronts += most;
        traffic.conflicts += most.saturating_sub(1);
        used.fill(0);
    };
    for (lane, Request { offset, bytes, .. }) in accesses {
        let lanes_at_once = match bytes {
            16 => 8,
            8 => 16,
            _ => 32,
        };
        if part.replace(lane / lanes_at_once).is_some_and(|p| p != lane / lanes_at_once) {
            close(&mut used);
        }
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let bank = (word % BANKS) as usize;
            let count = usize::from(used[bank]);
            if count < 32 && !words[bank][..count].contains(&word) {
                words[bank][count] = word;
                used[bank] += 1;
            }
        }
    }
    close(&mut used);
}

/// `WcChecker` of kernels/host/callbacks.cpp.
#[repr(C)]
struct Functions {
    access: unsafe extern "C" fn(*mut Lane, usize, u64, u32, usize),
    barrier: unsafe extern "C" fn(*mut Lane, usize),
    sync_warp: unsafe extern "C" fn(*mut Lane, usize),
    collective: unsafe extern "C" fn(*mut Lane, Act, *mut c_void, usize),
    copy_async: unsafe extern "C" fn(*mut Lane, usize, usize, u32, u32, usize),
    copy_commit: unsafe extern "C" fn(*mut Lane),
    copy_wait: unsafe extern "C" fn(*mut Lane, u32),
    endless: unsafe extern "C" fn(*mut Lane, usize),
}

static FUNCTIONS: Functions = Functions { access, barrier, sync_warp, collective, copy_async, copy_commit, copy_wait, endless };

/// The table that the lanes of a checked launch call.
pub(super) fn calls() -> *const Calls {
    // SAFETY: both tables have the layout that callbacks.cpp declares and live as long as the program
    unsafe { host_checked_calls((&raw const FUNCTIONS).cast()).cast() }
}

/// Flags of an access in callbacks.cpp.
const FLAG_WRITE: u32 = 1;
const FLAG_UNALIGNED: u32 = 2;

/// The block's checker and a place for its findings.
fn parts(block: &mut Block, thread: usize, place: usize) -> (&mut BlockCheck, Notes<'_>) {
    let Block { check, findings, order, index, .. } = block;
    (check, Notes { findings, order: *order, block: *index, thread, place })
}

/// Suspends a lane for good if the access must not be made.
///
/// # Safety
/// As [`block`].
unsafe fn obey(lane: *mut Lane, verdict: Verdict) {
    if verdict == Verdict::End {
        // SAFETY: called by a kernel on its own lane
        unsafe {
            block(lane).0.ended = true;
            suspend(lane);
        }
        unreachable!("a faulted lane is never resumed");
    }
}

unsafe extern "C" fn access(lane: *mut Lane, address: usize, bytes: u64, flags: u32, place: usize) {
    // SAFETY: called by a kernel on its own lane
    let verdict = unsafe {
        let (block, index) = block(lane);
        let (check, mut notes) = parts(block, index, place);
        let aligned = flags & FLAG_UNALIGNED == 0;
        if bytes == 0 { Verdict::GoOn } else { check.access(&mut notes, address, bytes as usize, flags & FLAG_WRITE != 0, aligned) }
    };
    // SAFETY: as above
    unsafe { obey(lane, verdict) }
}

unsafe extern "C" fn barrier(lane: *mut Lane, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe { barrier_at(lane, place) }
}

unsafe extern "C" fn sync_warp(lane: *mut Lane, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe { sync_warp_at(lane, place) }
}

unsafe extern "C" fn collective(lane: *mut Lane, act: Act, argument: *mut c_void, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe { collective_at(lane, act, argument, place) }
}

unsafe extern "C" fn copy_async(lane: *mut Lane, shared: usize, global: usize, bytes: u32, valid: u32, place: usize) {
    // SAFETY: called by a kernel on its own lane
    let verdict = unsafe {
        let (block, index) = block(lane);
        let (check, mut notes) = parts(block, index, place);
        check.copy_async(&mut notes, shared, global, bytes, valid)
    };
    // SAFETY: as above
    unsafe { obey(lane, verdict) }
}

unsafe extern "C" fn copy_commit(lane: *mut Lane) {
    // SAFETY: called by a kernel on its own lane
    let (block, index) = unsafe { block(lane) };
    block.check.copies[index].open_group += 1;
}

unsafe extern "C" fn copy_wait(lane: *mut Lane, pending: u32) {
    // SAFETY: called by a kernel on its own lane, whose launch's memory is alive
    unsafe {
        let (block, index) = block(lane);
        block.check.copy_wait(index, pending);
    }
}

unsafe extern "C" fn endless(lane: *mut Lane, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe {
        let (block, index) = block(lane);
        block.fault(
            Kind::Endless,
            index,
            place,
            "the block's threads have taken all the steps that HostOptions::max_steps allows: it never ends, or does more than that".into(),
        );
        suspend(lane);
    }
    unreachable!("a faulted lane is never resumed");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(shape: [usize; 4], strides: [usize; 4]) -> Tracked {
        Tracked::new(&Operand { name: "x", address: 4096, element_bytes: 4, shape, strides, access: Access::Read }).unwrap()
    }

    /// Every element of a view is inside, has a number of its own and its own name; nothing else is inside.
    fn covers_its_elements_only(shape: [usize; 4], strides: [usize; 4]) {
        let view = tracked(shape, strides);
        let mut positions = std::collections::BTreeMap::new();
        for n in 0..shape[0] {
            for c in 0..shape[1] {
                for h in 0..shape[2] {
                    for w in 0..shape[3] {
                        positions.insert(n * strides[0] + c * strides[1] + h * strides[2] + w * strides[3], [n, c, h, w]);
                    }
                }
            }
        }
        let mut numbers = Vec::new();
        for element in 0..view.extent / 4 {
            let found = view.elements(element * 4, 4);
            assert_eq!(found.is_some(), positions.contains_key(&element), "element {element} of {shape:?} {strides:?}");
            if let Some((number, 1)) = found {
                assert_eq!(view.name_of(number), format!("element {:?} of x", positions[&element]));
                numbers.push(number);
            }
            let pair = positions.contains_key(&element) && positions.contains_key(&(element + 1));
            assert_eq!(view.elements(element * 4, 8).is_some(), pair, "two elements from {element} of {shape:?} {strides:?}");
        }
        assert_eq!(numbers, (0..positions.len()).collect::<Vec<_>>());
        let mut bytes = 0;
        view.for_each_run(|address, run| {
            assert!(positions.contains_key(&((address - 4096) / 4)));
            bytes += run;
        });
        assert_eq!(bytes, 4 * positions.len());
    }

    #[test]
    fn views_cover_their_elements_only() {
        covers_its_elements_only([2, 3, 4, 5], [60, 20, 5, 1]); // packed
        covers_its_elements_only([2, 3, 4, 5], [140, 20, 5, 1]); // channels 0..3 of 7, contiguous
        covers_its_elements_only([2, 3, 4, 5], [140, 1, 35, 7]); // the same, channels_last
        covers_its_elements_only([2, 1, 4, 5], [140, 1, 35, 7]); // one channel
        covers_its_elements_only([3, 2, 2, 2], [97, 40, 11, 3]); // gaps in every axis
        covers_its_elements_only([1, 1, 1, 1], [1, 1, 1, 1]);
        assert_eq!(tracked([0, 3, 4, 5], [60, 20, 5, 1]).extent, 0);
    }

    #[test]
    fn lines_of_banks() {
        let wavefronts = |accesses: &[(usize, u32, u32)]| {
            let mut traffic = Traffic::default();
            let request = |&(lane, offset, bytes)| (lane, Request { place: 0, offset, bytes });
            count_wavefronts(&mut traffic, accesses.iter().map(request));
            (traffic.wavefronts, traffic.conflicts)
        };
        assert_eq!(wavefronts(&[(0, 0, 4), (1, 0, 4), (2, 4, 4)]), (1, 0)); // a broadcast
        assert_eq!(wavefronts(&[(0, 0, 4), (1, 128, 4), (31, 256, 4)]), (3, 2));
        assert_eq!(wavefronts(&[(0, 0, 16), (8, 0, 16)]), (2, 0)); // two quarter-warps
        assert_eq!(wavefronts(&[(0, 0, 8), (15, 128, 8), (16, 0, 8)]), (3, 1));
    }
}
