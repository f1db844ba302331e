//! The shadow of a block's shared memory, which finds races, reads of unwritten bytes, and accesses
//! to bytes that are still being copied.

use super::asynchronous::{writer_index, writer_name};
use super::{BlockCheck, Kind, Notes, Verdict};
use std::collections::VecDeque;

/// The last write and the last read of two bytes of shared memory, with the block's time. A time of
/// 0 means never.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cell {
    pub(super) write: u32,
    read: u32,
    /// The thread that wrote, with `PENDING` while its asynchronous copy is running, and with
    /// `COPIES` if an mbarrier has told of that. `MBARRIER` where an mbarrier is.
    pub(super) writer: u16,
    /// The thread that read, or `SOME_OF | warp` for several threads of a warp, or `MANY`.
    reader: u16,
}

pub(super) const CELL_BYTES: usize = 2;
pub(super) const PENDING: u16 = 1 << 15;
pub(super) const MBARRIER: u16 = u16::MAX;
const SOME_OF: u16 = 1 << 14;
const MANY: u16 = 1 << 15;

/// A running asynchronous copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    shared: usize,
    global: usize,
    bytes: u32,
    valid: u32,
    pub(super) group: u32,
    /// The number of the thread's copies before this one.
    pub(super) number: u64,
}

#[derive(Debug, Default)]
pub(super) struct Copies {
    pub(super) queue: VecDeque<Copy>,
    pub(super) open_group: u32,
    /// The number of copies that the thread has started.
    pub(super) started: u64,
}

impl BlockCheck {
    /// Compares an access to shared memory with those before it, and records it.
    #[inline(always)]
    pub(super) fn shared_cells(&mut self, notes: &mut Notes<'_>, offset: usize, bytes: usize, write: bool, pending: bool) {
        if write {
            self.check_readers(notes, offset, bytes);
        }
        let (lane, now, threads) = (notes.thread, self.time, self.copies.len());
        let (barrier, sync) = (self.last_barrier, self.last_sync[lane / 32]);
        let warp = (lane / 32) as u16;
        let seen = self.asynchronous.seen_by(lane, threads);
        // An access before `barrier` is ordered before this one; so is an access of the same warp
        // before `sync`, and one that mbarriers have told of.
        let other_thread = |stamp: u32, thread: u16| {
            stamp >= barrier
                && thread as usize != lane
                && (thread / 32 != warp || stamp >= sync)
                && (seen.is_empty() || stamp >= seen[writer_index(thread, threads)])
        };
        let cells = offset / CELL_BYTES..(offset + bytes - 1) / CELL_BYTES + 1;
        for (index, cell) in self.cells[cells.clone()].iter_mut().enumerate() {
            let byte = (cells.start + index) * CELL_BYTES;
            let verb = if write { "writes" } else { "reads" };
            if cell.writer == MBARRIER {
                notes.add(Kind::Mbarrier, || format!("{verb} {bytes} bytes at byte {offset} of shared memory, where an mbarrier is"));
            } else if cell.writer & PENDING != 0 {
                let writer = cell.writer & !PENDING;
                notes.add(Kind::StillCopying, || {
                    format!("{verb} {bytes} bytes at byte {offset} of shared memory, where an async copy of thread {writer} is still under way (byte {byte})")
                });
            } else if cell.write != 0 && other_thread(cell.write, cell.writer) {
                let writer = writer_name(cell.writer);
                notes.add(Kind::SharedRace, || {
                    format!(
                        "{verb} {bytes} bytes at byte {offset} of shared memory, which {writer} wrote with no barrier between (byte {byte})"
                    )
                });
            } else if cell.write == 0 && !write {
                notes.add(Kind::Uninitialised, || {
                    format!("reads {bytes} bytes at byte {offset} of shared memory, where byte {byte} was written by no thread")
                });
            }
            if write {
                let raced = match cell.reader {
                    _ if cell.read == 0 => false,
                    MANY => {
                        cell.read >= barrier && (seen.is_empty() || (0..threads).any(|other| other != lane && cell.read >= seen[other]))
                    }
                    some if some & SOME_OF != 0 => {
                        let of = some & !SOME_OF;
                        let lanes = usize::from(of) * 32..(usize::from(of) * 32 + 32).min(threads);
                        cell.read >= barrier
                            && (of != warp || cell.read >= sync)
                            && (seen.is_empty() || lanes.into_iter().any(|other| other != lane && cell.read >= seen[other]))
                    }
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
                // Only readers whose access is not ordered before this one are kept. What races
                // with them need not race with this lane.
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

    pub(super) fn copy_async(&mut self, notes: &mut Notes<'_>, shared: usize, global: usize, bytes: u32, valid: u32) -> Verdict {
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
        let Copies { open_group: group, started: number, .. } = self.copies[lane];
        self.copies[lane].started += 1;
        self.copies[lane].queue.push_back(Copy { shared, global, bytes, valid, group, number });
        Verdict::GoOn
    }

    /// Does the copies that the wait demands and no others: copies happen as late as they may.
    ///
    /// # Safety
    /// The global memory that the lane copies from is still valid.
    pub(super) unsafe fn copy_wait(&mut self, lane: usize, pending: u32) {
        let open = self.copies[lane].open_group;
        while let Some(&copy) = self.copies[lane].queue.front() {
            // Groups are committed in order. The open group is not waited for.
            if copy.group + pending >= open {
                break;
            }
            self.copies[lane].queue.pop_front();
            // SAFETY: passed on to the caller
            unsafe { self.complete(copy, lane as u16) };
        }
    }

    /// Does a copy. `writer` is who has written its bytes then.
    ///
    /// # Safety
    /// The global memory that is copied from is still valid.
    pub(super) unsafe fn complete(&mut self, copy: Copy, writer: u16) {
        let Copy { shared, global, bytes, valid, .. } = copy;
        // SAFETY: `copy_async` has checked that both lie in memory of the launch
        unsafe {
            std::ptr::copy_nonoverlapping(global as *const u8, shared as *mut u8, valid as usize);
            std::ptr::write_bytes((shared + valid as usize) as *mut u8, 0, (bytes - valid) as usize);
        }
        let first = (shared - self.shared.start) / CELL_BYTES;
        for cell in &mut self.cells[first..first + bytes as usize / CELL_BYTES] {
            cell.write = self.time;
            cell.writer = writer;
        }
    }
}
