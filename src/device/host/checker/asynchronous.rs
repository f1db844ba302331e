//! What the checker knows of mbarriers, of the proxy fence and of wgmma: which accesses are ordered
//! although no barrier of the whole block lies between.

use super::shared::{CELL_BYTES, Copies, MBARRIER, PENDING};
use super::{BlockCheck, Kind, Notes, Region};
use crate::device::host::wgmma::{Operation, THREADS};

/// Marks, in the place of a thread, its asynchronous copies that an mbarrier has told of. Their
/// writes are ordered by that mbarrier, and the thread's other writes are not.
pub(super) const COPIES: u16 = 1 << 13;

/// Up to which time the accesses of each writer are known: those before it. Threads come first,
/// then the copies of each thread.
#[derive(Debug, Default)]
struct Clock {
    /// Ordered before what follows.
    seen: Vec<u32>,
    /// Ordered and behind a proxy fence, so that a wgmma may read what was written.
    fenced: Vec<u32>,
}

impl Clock {
    fn clear(&mut self, writers: usize) {
        for times in [&mut self.seen, &mut self.fenced] {
            times.clear();
            times.resize(writers, 0);
        }
    }
}

fn join(to: &mut [u32], from: &[u32]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.max(*to));
}

/// An arrival at an mbarrier that waits for the copies of a thread.
#[derive(Debug)]
pub(in crate::device::host) struct CopiesArrival {
    pub lane: usize,
    pub mbarrier: usize,
    pub place: usize,
    /// The number of copies that the thread had started.
    copies: u64,
}

/// The state of a block that uses these operations; empty in others.
#[derive(Debug, Default)]
pub(super) struct Asynchronous {
    /// A clock for each thread, one after the other.
    seen: Vec<u32>,
    fenced: Vec<u32>,
    /// For each mbarrier: what the arrivals of the running phase know, and those of the phase before.
    phases: Vec<[Clock; 2]>,
    pub(super) arrivals: Vec<CopiesArrival>,
    warpgroups: usize,
    /// For each cell and warpgroup: the number of the latest wgmma that reads it, from 1 on.
    readers: Vec<u32>,
    /// For each warpgroup and wgmma: when each of its warps had waited for it; 0 is never.
    waited: Vec<Vec<[u32; 4]>>,
    /// For each thread and warpgroup: the number of wgmmas that it knows to be complete.
    known: Vec<u32>,
    /// For each warpgroup: the threads whose sums no access has touched since a wgmma_fence.
    clean: Vec<u128>,
    /// For each thread: where sums of a wgmma lie on its stack.
    sums: Vec<Vec<Region>>,
}

impl Asynchronous {
    pub(super) fn clear(&mut self) {
        self.seen.clear();
        self.fenced.clear();
        self.phases.clear();
        self.arrivals.clear();
        self.readers.clear();
        self.waited.clear();
        self.known.clear();
        self.clean.clear();
        self.sums.clear();
    }

    /// The times up to which a thread knows the accesses of all writers, beyond what barriers and
    /// `sync_warp` say; empty in a block without these operations.
    pub(super) fn seen_by(&self, lane: usize, threads: usize) -> &[u32] {
        if self.seen.is_empty() { &[] } else { &self.seen[2 * threads * lane..2 * threads * (lane + 1)] }
    }
}

/// The place of a writer in a clock.
pub(super) fn writer_index(writer: u16, threads: usize) -> usize {
    if writer & COPIES != 0 { threads + usize::from(writer & !COPIES) } else { usize::from(writer) }
}

/// A writer in words.
pub(super) fn writer_name(writer: u16) -> String {
    if writer & COPIES != 0 { format!("an async copy of thread {}", writer & !COPIES) } else { format!("thread {writer}") }
}

impl BlockCheck {
    fn threads(&self) -> usize {
        self.copies.len()
    }

    /// Begins to keep clocks, at the first of these operations.
    fn activate(&mut self) {
        let (threads, state) = (self.threads(), &mut self.asynchronous);
        if !state.seen.is_empty() {
            return;
        }
        state.seen.resize(2 * threads * threads, 0);
        state.fenced.resize(2 * threads * threads, 0);
        for lane in 0..threads {
            let warp = lane / 32 * 32..(lane / 32 * 32 + 32).min(threads);
            state.seen[2 * threads * lane..][warp].fill(self.last_sync[lane / 32]);
        }
        state.warpgroups = threads / THREADS;
        state.readers.resize(self.cells.len() * state.warpgroups, 0);
        state.waited.resize_with(state.warpgroups, Vec::new);
        state.known.resize(threads * state.warpgroups, 0);
        state.clean.resize(state.warpgroups, 0);
        state.sums.resize_with(threads, Vec::new);
    }

    /// Makes what a set of threads knows known to all of them. A barrier of the block orders what
    /// came before it without clocks, but not across proxies.
    pub(super) fn share_knowledge(&mut self, lanes: std::ops::Range<usize>, synced: Option<u32>) {
        let (threads, state) = (self.threads(), &mut self.asynchronous);
        if state.seen.is_empty() {
            return;
        }
        let lanes = lanes.start..lanes.end.min(threads);
        let width = 2 * threads;
        for (clocks, own) in [(&mut state.seen, synced), (&mut state.fenced, None)] {
            let mut joined = clocks[width * lanes.start..][..width].to_vec();
            for lane in lanes.clone() {
                join(&mut joined, &clocks[width * lane..][..width]);
            }
            if let Some(time) = own {
                joined[lanes.clone()].fill(time);
            }
            for lane in lanes.clone() {
                clocks[width * lane..][..width].copy_from_slice(&joined);
            }
        }
    }

    /// Records a new mbarrier in 8 bytes of shared memory.
    pub fn make_mbarrier(&mut self, address: usize) {
        self.activate();
        self.asynchronous.phases.push(Default::default());
        let writers = 2 * self.threads();
        for clock in self.asynchronous.phases.last_mut().expect("just added") {
            clock.clear(writers);
        }
        let first = (address - self.shared.start) / CELL_BYTES;
        for cell in &mut self.cells[first..first + 8 / CELL_BYTES] {
            cell.write = self.time;
            cell.writer = MBARRIER;
        }
    }

    /// Records that a thread arrives: what it knows, those know that wait for the phase.
    pub fn arrive(&mut self, lane: usize, mbarrier: usize) {
        self.time += 1;
        let (width, state) = (2 * self.copies.len(), &mut self.asynchronous);
        let phase = &mut state.phases[mbarrier][0];
        join(&mut phase.seen, &state.seen[width * lane..][..width]);
        join(&mut phase.fenced, &state.fenced[width * lane..][..width]);
        phase.seen[lane] = self.time;
    }

    /// Records that an mbarrier's phase has ended.
    pub fn end_phase(&mut self, mbarrier: usize) {
        let writers = 2 * self.threads();
        let phases = &mut self.asynchronous.phases[mbarrier];
        phases.swap(0, 1);
        phases[0].clear(writers);
    }

    /// Records that a thread has seen the end of a phase.
    pub fn pass(&mut self, lane: usize, mbarrier: usize) {
        let (width, state) = (2 * self.copies.len(), &mut self.asynchronous);
        let phase = &state.phases[mbarrier][1];
        join(&mut state.seen[width * lane..][..width], &phase.seen);
        join(&mut state.fenced[width * lane..][..width], &phase.fenced);
    }

    /// Records that a thread will have arrived once its copies are complete.
    pub fn arrive_later(&mut self, lane: usize, mbarrier: usize, place: usize) {
        let copies = self.copies[lane].started;
        self.asynchronous.arrivals.push(CopiesArrival { lane, mbarrier, place, copies });
    }

    /// Takes out the first arrival of a thread all of whose copies a wait covers that leaves
    /// `pending` groups under way.
    pub fn covered_arrival(&self, lane: usize, pending: u32) -> Option<usize> {
        let Copies { queue, open_group, .. } = &self.copies[lane];
        let left = queue.iter().find(|copy| copy.group + pending >= *open_group).map_or(u64::MAX, |copy| copy.number);
        self.asynchronous.arrivals.iter().position(|arrival| arrival.lane == lane && arrival.copies <= left)
    }

    /// The number of arrivals that wait for copies.
    pub fn late_arrivals(&self) -> usize {
        self.asynchronous.arrivals.len()
    }

    /// Completes the copies that an arrival waits for. The caller lets the arrival count.
    ///
    /// # Safety
    /// The global memory that the thread copies from is still valid.
    pub unsafe fn complete_copies(&mut self, arrival: usize) -> CopiesArrival {
        let arrival = self.asynchronous.arrivals.remove(arrival);
        self.time += 1;
        let lane = arrival.lane;
        while self.copies[lane].queue.front().is_some_and(|copy| copy.number < arrival.copies) {
            let copy = self.copies[lane].queue.pop_front().expect("there is a first one");
            // SAFETY: passed on to the caller
            unsafe { self.complete(copy, lane as u16 | COPIES) };
        }
        self.time += 1;
        let threads = self.threads();
        let state = &mut self.asynchronous;
        state.phases[arrival.mbarrier][0].seen[threads + lane] = self.time;
        arrival
    }

    /// Records that a thread itself has waited for copies of which an mbarrier tells as well.
    pub fn know_own_copies(&mut self, lane: usize) {
        let threads = self.threads();
        self.asynchronous.seen[2 * threads * lane + threads + lane] = self.time;
    }

    /// Records a proxy fence: what the thread knows, its wgmma may read.
    pub fn fence_proxy(&mut self, lane: usize) {
        self.activate();
        self.time += 1;
        let threads = self.threads();
        let (width, state) = (2 * threads, &mut self.asynchronous);
        let (seen, fenced) = (&state.seen[width * lane..][..width], &mut state.fenced[width * lane..][..width]);
        for (fenced, &seen) in fenced.iter_mut().zip(seen) {
            *fenced = seen.max(self.last_barrier);
        }
        let warp = lane / 32 * 32..(lane / 32 * 32 + 32).min(threads);
        fenced[warp].iter_mut().for_each(|time| *time = self.last_sync[lane / 32].max(*time));
        fenced[lane] = self.time;
    }

    /// Records a wgmma_fence.
    pub fn fence_sums(&mut self, lane: usize) {
        self.activate();
        if let Some(clean) = self.asynchronous.clean.get_mut(lane / THREADS) {
            *clean |= 1 << (lane % THREADS);
        }
    }

    /// Looks at an access to a thread's stack: whether it touches sums that are not in use. They
    /// need a fence then.
    pub fn touch_sums(&mut self, lane: usize, address: usize, bytes: usize) {
        let state = &mut self.asynchronous;
        let hit = |sums: &Region| address < sums.start + sums.bytes && sums.start < address + bytes;
        if state.sums.get(lane).is_some_and(|sums| sums.iter().any(hit)) {
            state.clean[lane / THREADS] &= !(1 << (lane % THREADS));
        }
    }

    /// Checks what a wgmma reads, and records that it does.
    pub fn multiply(&mut self, notes: &mut Notes<'_>, warpgroup: usize, operation: &Operation) {
        self.activate();
        let threads = self.threads();
        let width = 2 * threads;
        let own = warpgroup * THREADS..(warpgroup + 1) * THREADS;
        let state = &mut self.asynchronous;
        let unfenced = (!state.clean[warpgroup]).trailing_zeros() as usize;
        if unfenced < THREADS {
            notes.add(Kind::MissingWgmmaFence, || {
                format!("begins a wgmma, although thread {} has touched its sums since its last wgmma_fence", own.start + unfenced)
            });
        }
        for lane in own.clone() {
            let sums = operation.sums_of(lane % THREADS);
            if !state.sums[lane].iter().any(|known| known.start == sums.start) {
                state.sums[lane].push(sums);
            }
        }
        // What every thread of the warpgroup knows. A thread knows of its own writes.
        let (mut seen, mut fenced) = (vec![u32::MAX; width], vec![u32::MAX; width]);
        for lane in own.clone() {
            let sync = self.last_sync[lane / 32];
            let clocks = state.seen[width * lane..][..width].iter().zip(&state.fenced[width * lane..][..width]).enumerate();
            for (writer, (&own_seen, &own_fenced)) in clocks {
                let known = if writer == lane {
                    u32::MAX
                } else if writer / 32 == lane / 32 {
                    own_seen.max(sync)
                } else {
                    own_seen
                };
                seen[writer] = seen[writer].min(known.max(self.last_barrier));
                fenced[writer] = fenced[writer].min(own_fenced);
            }
        }
        let number = state.waited[warpgroup].len() as u32 + 1;
        state.waited[warpgroup].push([0; 4]);
        for (name, (matrix, rows)) in ["A", "B"].into_iter().zip(operation.operands()) {
            for byte in matrix.chunks(self.shared.start, rows) {
                self.traffic.shared_read += 16;
                for index in byte / CELL_BYTES..(byte + 16) / CELL_BYTES {
                    let (cell, at) = (self.cells[index], index * CELL_BYTES);
                    self.asynchronous.readers[index * self.asynchronous.warpgroups + warpgroup] = number;
                    let writer = || writer_name(cell.writer);
                    if cell.writer == MBARRIER {
                        notes.add(Kind::Mbarrier, || format!("reads byte {at} of shared memory as part of {name}, where an mbarrier is"));
                    } else if cell.writer & PENDING != 0 {
                        let writer = cell.writer & !PENDING;
                        notes.add(Kind::StillCopying, || {
                            format!("reads byte {at} of shared memory as part of {name}, where an async copy of thread {writer} is still under way")
                        });
                    } else if cell.write == 0 {
                        notes.add(Kind::Uninitialised, || {
                            format!("reads byte {at} of shared memory as part of {name}, which was written by no thread")
                        });
                    } else if cell.write >= seen[writer_index(cell.writer, threads)] {
                        notes.add(Kind::SharedRace, || {
                            format!("reads byte {at} of shared memory as part of {name}, which {} wrote with no barrier between", writer())
                        });
                    } else if cell.write >= fenced[writer_index(cell.writer, threads)] {
                        notes.add(Kind::MissingProxyFence, || {
                            format!(
                                "reads byte {at} of shared memory as part of {name}, which {} wrote with no fence_proxy_async between",
                                writer()
                            )
                        });
                    }
                }
            }
        }
    }

    /// Records that a warp has waited for a wgmma.
    pub fn waited(&mut self, warpgroup: usize, warp: usize, number: u32) {
        self.asynchronous.waited[warpgroup][number as usize][warp] = self.time;
        self.time += 1;
    }

    /// Whether a thread knows that a wgmma is complete: it has waited itself, or knows a thread that
    /// has.
    fn knows_complete(&mut self, lane: usize, warpgroup: usize, number: u32) -> bool {
        let threads = self.threads();
        let (barrier, state) = (self.last_barrier, &mut self.asynchronous);
        let known = &mut state.known[lane * state.warpgroups + warpgroup];
        let seen = &state.seen[2 * threads * lane..];
        while *known < number {
            let warps = state.waited[warpgroup][*known as usize];
            let complete = warps.iter().enumerate().any(|(warp, &time)| {
                let first = warpgroup * THREADS + warp * 32;
                time != 0 && (time < barrier || first / 32 == lane / 32 || seen[first..first + 32].iter().any(|&seen| time < seen))
            });
            if !complete {
                return false;
            }
            *known += 1;
        }
        true
    }

    /// Compares a write to shared memory with the wgmmas that read there.
    pub(super) fn check_readers(&mut self, notes: &mut Notes<'_>, offset: usize, bytes: usize) {
        if self.asynchronous.readers.is_empty() {
            return;
        }
        for index in offset / CELL_BYTES..(offset + bytes - 1) / CELL_BYTES + 1 {
            for warpgroup in 0..self.asynchronous.warpgroups {
                let number = self.asynchronous.readers[index * self.asynchronous.warpgroups + warpgroup];
                if number == 0 || self.knows_complete(notes.thread, warpgroup, number) {
                    continue;
                }
                let (first, last, byte) = (warpgroup * THREADS, (warpgroup + 1) * THREADS - 1, index * CELL_BYTES);
                notes.add(Kind::OperandInUse, || {
                    format!("writes {bytes} bytes at byte {offset} of shared memory, which a wgmma of threads {first} to {last} may still read, as far as the thread knows (byte {byte})")
                });
            }
        }
    }
}
