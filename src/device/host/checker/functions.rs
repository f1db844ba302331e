//! The functions that the instrumented kernels call.

use super::{BlockCheck, Notes, Verdict};
use crate::device::host::block::Block;
use crate::device::host::calls::{
    Act, Calls, Lane, barrier_at, block, collective_at, mbarrier_arrive_at, mbarrier_init_at, mbarrier_wait_at, suspend, sync_warp_at,
    warpgroup_at, wgmma_wait_at,
};
use crate::device::host::finding::Kind;
use crate::device::host::wgmma::{Request, Step};
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
    stack: unsafe extern "C" fn(*mut Lane, usize, u64, u32, usize),
    mbarrier_init: unsafe extern "C" fn(*mut Lane, usize, u32, usize),
    mbarrier_arrive: unsafe extern "C" fn(*mut Lane, usize, u32, usize),
    mbarrier_arrive_copies: unsafe extern "C" fn(*mut Lane, usize, usize),
    mbarrier_wait: unsafe extern "C" fn(*mut Lane, usize, u32, usize),
    fence_proxy: unsafe extern "C" fn(*mut Lane),
    wgmma_fence: unsafe extern "C" fn(*mut Lane),
    wgmma: unsafe extern "C" fn(*mut Lane, *const Request, usize),
    wgmma_commit: unsafe extern "C" fn(*mut Lane, usize),
    wgmma_wait: unsafe extern "C" fn(*mut Lane, u32, usize),
}

static FUNCTIONS: Functions = Functions {
    access,
    barrier,
    sync_warp,
    collective,
    copy_async,
    copy_commit,
    copy_wait,
    endless,
    stack,
    mbarrier_init,
    mbarrier_arrive,
    mbarrier_arrive_copies,
    mbarrier_wait,
    fence_proxy,
    wgmma_fence,
    wgmma,
    wgmma_commit,
    wgmma_wait,
};

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
        while let Some(arrival) = block.check.covered_arrival(index, pending)
            && !block.ended
        {
            block.complete_copies(arrival);
            block.check.know_own_copies(index);
        }
        block.check.copy_wait(index, pending);
    }
}

unsafe extern "C" fn stack(lane: *mut Lane, address: usize, bytes: u64, flags: u32, place: usize) {
    // SAFETY: called by a kernel on its own lane
    let (block, index) = unsafe { block(lane) };
    block.touch_stack(index, address, bytes as usize, flags & FLAG_WRITE != 0, place);
}

unsafe extern "C" fn mbarrier_init(lane: *mut Lane, address: usize, count: u32, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe { mbarrier_init_at(lane, address, count, place) }
}

unsafe extern "C" fn mbarrier_arrive(lane: *mut Lane, address: usize, count: u32, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe { mbarrier_arrive_at(lane, address, count, place) }
}

unsafe extern "C" fn mbarrier_arrive_copies(lane: *mut Lane, address: usize, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe {
        let (block, index) = block(lane);
        if !block.arrive_later(index, address, place) {
            obey(lane, Verdict::End);
        }
    }
}

unsafe extern "C" fn mbarrier_wait(lane: *mut Lane, address: usize, parity: u32, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe { mbarrier_wait_at(lane, address, parity, place) }
}

unsafe extern "C" fn fence_proxy(lane: *mut Lane) {
    // SAFETY: called by a kernel on its own lane
    let (block, index) = unsafe { block(lane) };
    block.check.fence_proxy(index);
}

unsafe extern "C" fn wgmma_fence(lane: *mut Lane) {
    // SAFETY: called by a kernel on its own lane
    let (block, index) = unsafe { block(lane) };
    block.check.fence_sums(index);
}

unsafe extern "C" fn wgmma(lane: *mut Lane, request: *const Request, place: usize) {
    // SAFETY: called by a kernel on its own lane, with a request of kernels/device/wgmma.cuh
    unsafe { warpgroup_at(lane, Step::Multiply(*request), place) }
}

unsafe extern "C" fn wgmma_commit(lane: *mut Lane, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe { warpgroup_at(lane, Step::Commit, place) }
}

unsafe extern "C" fn wgmma_wait(lane: *mut Lane, pending: u32, place: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe { wgmma_wait_at(lane, pending, place) }
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
