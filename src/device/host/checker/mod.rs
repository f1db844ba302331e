//! The checker. It sees every access of every lane, through the compiler's instrumentation
//! (kernels/host/callbacks.cpp).
//!
//! A launch has one [`LaunchCheck`]: its operands, and for each of their elements the threads that
//! have accessed it. A block has one [`BlockCheck`]: the shadow of its shared memory, the
//! asynchronous copies of its lanes, and its counters. After a finding whose access can still
//! happen (a race, an uninitialised read), the lane goes on. An access that would corrupt memory
//! suspends the lane for ever and ends its block, while other blocks go on and may find more.

mod asynchronous;
mod counters;
mod functions;
mod launch;
mod shared;
mod tracked;
mod traffic;

use super::calls::{Dim3, Region};
use super::finding::{Finding, Findings, Kind};
use crate::device::Access;
use asynchronous::Asynchronous;
pub use counters::{LaunchCounters, OperandCounters};
pub(super) use functions::calls;
pub(super) use launch::LaunchCheck;
use launch::own;
use shared::{CELL_BYTES, Cell, Copies};
use std::sync::atomic::Ordering::Relaxed;
use tracked::owner;
use traffic::{Request, SECTOR_BYTES, Traffic};

/// What the checker knows about the block that an OS thread runs.
#[derive(Debug, Default)]
pub(super) struct BlockCheck {
    launch: Option<std::ptr::NonNull<LaunchCheck>>,
    linear: u64,
    shared: Region,
    cells: Vec<Cell>,
    /// A time that advances whenever threads meet in a way that orders memory accesses.
    time: u32,
    last_barrier: u32,
    /// For each warp: the time of its last `sync_warp` or barrier.
    last_sync: Vec<u32>,
    copies: Vec<Copies>,
    asynchronous: Asynchronous,
    requests: Vec<Vec<Request>>,
    traffic: Traffic,
    /// For each operand and sector: the latest block that accessed it.
    sectors: Vec<Vec<u32>>,
    /// The number of this block among all that this object has checked.
    generation: u32,
}

/// Whether the lane may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
enum Verdict {
    GoOn,
    End,
}

/// Records the findings of one lane at one place.
pub(super) struct Notes<'a> {
    pub findings: &'a mut Findings,
    pub order: u64,
    pub block: Dim3,
    pub thread: usize,
    pub place: usize,
}

impl Notes<'_> {
    #[cold]
    pub fn add(&mut self, kind: Kind, what: impl FnOnce() -> String) {
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
            copies.started = 0;
        }
        self.asynchronous.clear();
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

    /// Ends the block. Its counters are added to those of the launch.
    pub fn finish(&mut self, launch: &LaunchCheck) {
        (0..self.last_sync.len()).for_each(|warp| self.match_requests(warp));
        launch.totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&self.traffic);
        self.launch = None;
    }

    /// Records that all threads of the block have met.
    pub fn barrier(&mut self) {
        self.time += 1;
        self.last_barrier = self.time;
        self.last_sync.fill(self.time);
        self.share_knowledge(0..self.copies.len(), None);
        self.traffic.barriers += 1;
        (0..self.last_sync.len()).for_each(|warp| self.match_requests(warp));
    }

    /// Records that a warp has met. `orders` says whether that orders its accesses to memory.
    pub fn meeting(&mut self, warp: usize, orders: bool) {
        if orders {
            self.time += 1;
            self.last_sync[warp] = self.time;
            self.share_knowledge(warp * 32..warp * 32 + 32, Some(self.time));
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

    /// The place of an address in words: "byte 6 of x".
    #[cold]
    fn describe(&self, address: usize) -> String {
        match self.regions().find(|(_, region)| region.holds(address, 1)) {
            Some((name, region)) => format!("byte {} of {name}", address - region.start),
            None => format!("address {address:#x}"),
        }
    }

    /// The place, relative to the nearest tensor, of an address that belongs to no tensor.
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
}
