//! The operations that a lane requests from the host device: the Rust side of
//! kernels/host/cuda_host.h and kernels/host/async_calls.h.

use super::block::{Block, State};
use super::finding::Kind;
use super::mbarrier::Wait;
use super::wgmma::{Arrival, Request, Step};
use std::ffi::c_void;

/// The Rust form of `WcDim3`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Dim3 {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

impl Dim3 {
    /// The block with this linear index of a grid.
    pub fn of_linear(index: u64, [x, y, _]: [u32; 3]) -> Self {
        let (x, y) = (u64::from(x), u64::from(y));
        Self { x: (index % x) as u32, y: (index / x % y) as u32, z: (index / x / y) as u32 }
    }
}

/// The Rust form of `WcLane`: one CUDA thread.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    pub thread: Dim3,
    pub block: Dim3,
    pub block_dim: Dim3,
    pub grid_dim: Dim3,
    pub shared: *mut u8,
    pub calls: *const Calls,
    pub state: *mut Block,
    pub linear: u32,
    /// Whether the lane has requested a wgmma: the checker then watches its stack, where the sums
    /// are. The C++ form has no use for it but callbacks.cpp.
    pub reserved: u32,
    /// The lane's own memory, for the checker.
    pub stack: Region,
    pub params: Region,
}

/// A range of addresses.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Region {
    pub start: usize,
    pub bytes: usize,
}

impl Region {
    #[inline(always)]
    pub fn holds(self, address: usize, bytes: usize) -> bool {
        let offset = address.wrapping_sub(self.start);
        offset < self.bytes && offset + bytes <= self.bytes
    }
}

/// The work of a collective, which is done by the last of 32 lanes to arrive.
pub(super) type Act = unsafe extern "C" fn(*mut *mut c_void);

/// The Rust form of `WcAsyncCalls`, which begins with `WcHostCalls`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Calls {
    barrier: unsafe extern "C" fn(*mut Lane),
    sync_warp: unsafe extern "C" fn(*mut Lane),
    collective: unsafe extern "C" fn(*mut Lane, Act, *mut c_void),
    copy_async: unsafe extern "C" fn(*mut Lane, *mut u8, *const u8, u32, u32),
    copy_commit: unsafe extern "C" fn(*mut Lane),
    copy_wait: unsafe extern "C" fn(*mut Lane, u32),
    touch: unsafe extern "C" fn(*mut Lane, *const u8, u64, u32),
    mbarrier_init: unsafe extern "C" fn(*mut Lane, usize, u32),
    mbarrier_arrive: unsafe extern "C" fn(*mut Lane, usize, u32),
    mbarrier_arrive_copies: unsafe extern "C" fn(*mut Lane, usize),
    mbarrier_wait: unsafe extern "C" fn(*mut Lane, usize, u32),
    fence_proxy: unsafe extern "C" fn(*mut Lane),
    wgmma_fence: unsafe extern "C" fn(*mut Lane),
    wgmma: unsafe extern "C" fn(*mut Lane, *const Request),
    wgmma_commit: unsafe extern "C" fn(*mut Lane),
    wgmma_wait: unsafe extern "C" fn(*mut Lane, u32),
}

/// The table of calls for a launch without checker. A checked launch has its own
/// (checker/functions.rs), which knows from where in the kernel a call came.
pub(super) static CALLS: Calls = Calls {
    barrier,
    sync_warp,
    collective,
    copy_async,
    copy_commit,
    copy_wait,
    touch,
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

/// The block of the running lane.
///
/// # Safety
/// `lane` is the lane that runs on this OS thread, passed by its kernel. The scheduler does not
/// access the block while a lane runs, and the borrow must end before the lane is suspended.
pub(super) unsafe fn block<'a>(lane: *mut Lane) -> (&'a mut Block, usize) {
    // SAFETY: the caller's lane is alive; its `state` was set by `Job::lane` and outlives it
    unsafe { (&mut *(*lane).state, (*lane).linear as usize) }
}

/// Returns control to the scheduler until the lane's state is `Ready` again.
///
/// # Safety
/// As [`block`]; no borrow of the block is alive.
pub(super) unsafe fn suspend(lane: *mut Lane) {
    // SAFETY: the lane's coroutine stored its yielder when it started, and it runs now
    unsafe {
        let yielder = (&(*(*lane).state).yielders)[(*lane).linear as usize];
        (*yielder).suspend(());
    }
}

/// Ends the block of a lane that tries to wait for others although its kernel's threads run one
/// after the other.
///
/// # Safety
/// As [`block`].
unsafe fn refuse_meeting(lane: *mut Lane, place: usize) {
    // SAFETY: passed on to the caller
    unsafe {
        let (block, index) = block(lane);
        if !block.alone {
            return;
        }
        let what = "waits for other threads in a kernel that the manifest says has no collectives".into();
        block.fault(Kind::UndeclaredMeeting, index, place, what);
        suspend(lane);
    }
    unreachable!("a faulted lane is never resumed");
}

/// A barrier, called from `place` (0 if that is not known).
///
/// # Safety
/// As [`block`].
pub(super) unsafe fn barrier_at(lane: *mut Lane, place: usize) {
    // SAFETY: passed on to the caller
    unsafe {
        refuse_meeting(lane, place);
        let (block, index) = block(lane);
        if !block.arrive_at_barrier(index, place) {
            suspend(lane);
        }
    }
}

unsafe extern "C" fn noop(_: *mut *mut c_void) {}

/// A collective that orders memory accesses and does nothing else.
///
/// # Safety
/// As [`block`].
pub(super) unsafe fn sync_warp_at(lane: *mut Lane, place: usize) {
    // SAFETY: passed on to the caller; `noop` reads no arguments
    unsafe { collective_at(lane, noop, std::ptr::null_mut(), place) }
}

/// A collective of a warp, called from `place` (0 if that is not known).
///
/// # Safety
/// As [`block`]; `act` may be run over the arguments of the warp's lanes.
pub(super) unsafe fn collective_at(lane: *mut Lane, act: Act, argument: *mut c_void, place: usize) {
    // SAFETY: passed on to the caller; no borrow of the block is used after a `suspend`
    unsafe {
        refuse_meeting(lane, place);
        let (block, index) = block(lane);
        let warp = &mut block.warps[index / 32];
        if warp.arrived > 0 && !std::ptr::fn_addr_eq(warp.act, act) {
            let other = warp.place;
            block.fault(Kind::MixedCollectives, index, place, "is in another collective than lanes of its warp".into());
            block.findings.list.last_mut().expect("just added").other = other;
            suspend(lane);
            unreachable!("a faulted lane is never resumed");
        }
        if warp.arrived == 0 {
            (warp.act, warp.place) = (act, place);
        }
        let first = warp.place;
        warp.arguments[index % 32] = argument;
        warp.arrived += 1;
        let complete = warp.arrived == 32;
        if first != place {
            block.two_places(Kind::MixedCollectives, index, place, first, "is at another call of the collective than lanes of its warp");
        }
        if complete {
            let warp = &mut block.warps[index / 32];
            warp.arrived = 0;
            let arguments = warp.arguments.as_mut_ptr();
            // the arguments lie on the stacks of 32 suspended (or this) lanes; `act` is not
            // instrumented, so that it calls nothing here
            act(arguments);
            block.release_warp(index / 32, std::ptr::fn_addr_eq(act, noop as Act));
        } else {
            block.states[index] = State::InCollective;
            suspend(lane);
        }
    }
}

/// Suspends a lane for ever.
///
/// # Safety
/// As [`suspend`].
unsafe fn end(lane: *mut Lane) -> ! {
    // SAFETY: passed on to the caller
    unsafe { suspend(lane) };
    unreachable!("a faulted lane is never resumed");
}

/// Makes an mbarrier at `address`.
///
/// # Safety
/// As [`block`].
pub(super) unsafe fn mbarrier_init_at(lane: *mut Lane, address: usize, count: u32, place: usize) {
    // SAFETY: passed on to the caller
    unsafe {
        refuse_meeting(lane, place);
        let (block, index) = block(lane);
        if !block.make_mbarrier(index, address, count, place) {
            end(lane);
        }
    }
}

/// Counts as `count` arrivals at an mbarrier.
///
/// # Safety
/// As [`block`].
pub(super) unsafe fn mbarrier_arrive_at(lane: *mut Lane, address: usize, count: u32, place: usize) {
    // SAFETY: passed on to the caller
    unsafe {
        let (block, index) = block(lane);
        if !block.arrive_at_mbarrier(index, address, count, place) {
            end(lane);
        }
    }
}

/// Waits for the phase of this parity.
///
/// # Safety
/// As [`block`].
pub(super) unsafe fn mbarrier_wait_at(lane: *mut Lane, address: usize, parity: u32, place: usize) {
    // SAFETY: passed on to the caller; no borrow of the block is used after a `suspend`
    unsafe {
        loop {
            let (block, index) = block(lane);
            match block.wait_at_mbarrier(index, address, parity, place) {
                Some(Wait::Over) => return,
                Some(Wait::Blocked) => suspend(lane),
                Some(Wait::Missed) | None => end(lane),
            }
        }
    }
}

/// A step that the threads of a warpgroup take together.
///
/// # Safety
/// As [`block`]; a request's function may be run over the sums of the warpgroup's lanes.
pub(super) unsafe fn warpgroup_at(lane: *mut Lane, step: Step, place: usize) {
    // SAFETY: passed on to the caller; no borrow of the block is used after a `suspend`
    unsafe {
        refuse_meeting(lane, place);
        let (block, index) = block(lane);
        match block.arrive_in_warpgroup(index, step, place) {
            Arrival::Complete => {}
            Arrival::Waits => suspend(lane),
            Arrival::Mixed | Arrival::Different | Arrival::Malformed(_) => end(lane),
        }
        if matches!(step, Step::Multiply(_)) {
            (*lane).reserved = 1;
        }
    }
}

/// Gives all lanes of a warp the least number of groups that one of them leaves under way.
unsafe extern "C" fn least(arguments: *mut *mut c_void) {
    // SAFETY: `wgmma_wait_at` passes the address of a `u32` of each of 32 lanes
    unsafe {
        let least = (0..32).map(|lane| *(*arguments.add(lane)).cast::<u32>()).min().unwrap_or(0);
        (0..32).for_each(|lane| *(*arguments.add(lane)).cast::<u32>() = least);
    }
}

/// Waits until at most `pending` groups of wgmma are under way.
///
/// # Safety
/// As [`block`].
pub(super) unsafe fn wgmma_wait_at(lane: *mut Lane, mut pending: u32, place: usize) {
    // SAFETY: passed on to the caller; `least` reads the numbers of lanes that wait in the same call
    unsafe {
        collective_at(lane, least, (&raw mut pending).cast(), place);
        let (block, index) = block(lane);
        block.wait_for_wgmma(index, pending);
    }
}

unsafe extern "C" fn barrier(lane: *mut Lane) {
    // SAFETY: called by a kernel on its own lane
    unsafe { barrier_at(lane, 0) }
}

unsafe extern "C" fn sync_warp(lane: *mut Lane) {
    // SAFETY: called by a kernel on its own lane
    unsafe { sync_warp_at(lane, 0) }
}

unsafe extern "C" fn collective(lane: *mut Lane, act: Act, argument: *mut c_void) {
    // SAFETY: called by a kernel on its own lane
    unsafe { collective_at(lane, act, argument, 0) }
}

unsafe extern "C" fn copy_async(_lane: *mut Lane, shared: *mut u8, global: *const u8, bytes: u32, valid: u32) {
    // SAFETY: the kernel promises both addresses, as it does to the hardware, and `valid <= bytes`
    // (kernels/device/async_copy.cuh)
    unsafe {
        if valid > 0 {
            std::ptr::copy_nonoverlapping(global, shared, valid as usize);
        }
        std::ptr::write_bytes(shared.add(valid as usize), 0, (bytes - valid) as usize);
    }
}

unsafe extern "C" fn copy_commit(_lane: *mut Lane) {}

unsafe extern "C" fn copy_wait(_lane: *mut Lane, _pending: u32) {}

unsafe extern "C" fn touch(_lane: *mut Lane, _address: *const u8, _bytes: u64, _write: u32) {}

unsafe extern "C" fn mbarrier_init(lane: *mut Lane, address: usize, count: u32) {
    // SAFETY: called by a kernel on its own lane
    unsafe { mbarrier_init_at(lane, address, count, 0) }
}

unsafe extern "C" fn mbarrier_arrive(lane: *mut Lane, address: usize, count: u32) {
    // SAFETY: called by a kernel on its own lane
    unsafe { mbarrier_arrive_at(lane, address, count, 0) }
}

/// The copies of a launch without checker are complete when they begin.
unsafe extern "C" fn mbarrier_arrive_copies(lane: *mut Lane, address: usize) {
    // SAFETY: called by a kernel on its own lane
    unsafe { mbarrier_arrive_at(lane, address, 1, 0) }
}

unsafe extern "C" fn mbarrier_wait(lane: *mut Lane, address: usize, parity: u32) {
    // SAFETY: called by a kernel on its own lane
    unsafe { mbarrier_wait_at(lane, address, parity, 0) }
}

unsafe extern "C" fn fence_proxy(_lane: *mut Lane) {}

unsafe extern "C" fn wgmma_fence(_lane: *mut Lane) {}

unsafe extern "C" fn wgmma(lane: *mut Lane, request: *const Request) {
    // SAFETY: called by a kernel on its own lane, with a request of kernels/device/wgmma.cuh
    unsafe { warpgroup_at(lane, Step::Multiply(*request), 0) }
}

unsafe extern "C" fn wgmma_commit(lane: *mut Lane) {
    // SAFETY: called by a kernel on its own lane
    unsafe { warpgroup_at(lane, Step::Commit, 0) }
}

unsafe extern "C" fn wgmma_wait(lane: *mut Lane, pending: u32) {
    // SAFETY: called by a kernel on its own lane
    unsafe { wgmma_wait_at(lane, pending, 0) }
}
