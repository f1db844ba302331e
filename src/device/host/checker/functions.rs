//! The functions that the instrumented kernels call.

use super::{BlockCheck, Notes, Verdict};
use crate::device::host::block::Block;
use crate::device::host::calls::{Act, Calls, Lane, barrier_at, block, collective_at, suspend, sync_warp_at};
use crate::device::host::finding::Kind;
use crate::device::kernel::host_checked_calls;
use std::ffi::c_void;

/// The Rust form of `WcChecker` in kernels/host/callbacks.cpp.
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
pub(in crate::device::host) fn calls() -> *const Calls {
    // SAFETY: both tables have the layout that callbacks.cpp declares and live as long as the
    // program
    unsafe { host_checked_calls((&raw const FUNCTIONS).cast()).cast() }
}

/// The flags of an access, as in callbacks.cpp.
const FLAG_WRITE: u32 = 1;
const FLAG_UNALIGNED: u32 = 2;

/// The block's checker, and the place for its findings.
fn parts(block: &mut Block, thread: usize, place: usize) -> (&mut BlockCheck, Notes<'_>) {
    let Block { check, findings, order, index, .. } = block;
    (check, Notes { findings, order: *order, block: *index, thread, place })
}

/// Suspends a lane for ever if its access must not happen.
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
