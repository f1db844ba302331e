//! The part of the checker that the blocks of a launch share.

use super::counters::{LaunchCounters, OperandCounters};
use super::tracked::{THREAD_BITS, Tracked, WRITTEN};
use super::traffic::Traffic;
use super::{Dim3, Finding, Kind, Notes};
use crate::device::{Access, Launch};
use crate::error::Result;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

/// What the checker knows about a launch: its operands and their elements.
#[derive(Debug)]
pub(in crate::device::host) struct LaunchCheck {
    pub(super) operands: Vec<Tracked>,
    grid: [u32; 3],
    pub(super) totals: Mutex<Traffic>,
}

impl LaunchCheck {
    /// Prepares the launch and fills its outputs with NaN, so that elements which the kernel does
    /// not write cannot look like results.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when there is no memory for recording the accesses to each
    /// element.
    ///
    /// # Safety
    /// The operands are memory that the launch may access.
    pub unsafe fn new(launch: &Launch<'_>) -> Result<Self> {
        let operands = launch.operands.iter().map(Tracked::new).collect::<Result<Vec<_>>>()?;
        for output in operands.iter().filter(|t| t.operand.access == Access::Write) {
            // SAFETY: only the elements of an operand that the launch is to overwrite
            output.for_each_run(|address, bytes| unsafe { std::ptr::write_bytes(address as *mut u8, 0xff, bytes) });
        }
        Ok(Self { totals: Mutex::new(Traffic::new(operands.len())), grid: launch.grid, operands })
    }

    /// The output elements that no thread has written. To be called if no thread was ended early.
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

    /// A thread in words: "thread 3 of block (1, 0, 0)".
    fn thread(&self, owner: u64) -> String {
        let owner = (owner & !WRITTEN) - 1;
        let Dim3 { x, y, z } = Dim3::of_linear(owner >> THREAD_BITS, self.grid);
        format!("thread {} of block ({x}, {y}, {z})", owner & ((1 << THREAD_BITS) - 1))
    }
}

/// Records that a thread accesses an element of an output.
#[inline(always)]
pub(super) fn own(launch: &LaunchCheck, tracked: &Tracked, element: usize, me: u64, write: bool, notes: &mut Notes<'_>) {
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
