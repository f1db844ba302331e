//! What a lane asks of the host device: the Rust side of kernels/host/cuda_host.h.

use super::block::{Block, State};
use std::ffi::c_void;

/// `WcDim3`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Dim3 {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

/// `WcLane`: one CUDA thread.
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
    pub reserved: u32,
}

/// A collective's work, done by the last of 32 lanes to arrive.
type Act = unsafe extern "C" fn(*mut *mut c_void);

/// `WcHostCalls`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Calls {
    barrier: unsafe extern "C" fn(*mut Lane),
    sync_warp: unsafe extern "C" fn(*mut Lane),
    collective: unsafe extern "C" fn(*mut Lane, Act, *mut c_void),
    copy_async: unsafe extern "C" fn(*mut Lane, *mut u8, *const u8, u32, u32),
    copy_commit: unsafe extern "C" fn(*mut Lane),
    copy_wait: unsafe extern "C" fn(*mut Lane, u32),
    touch: unsafe extern "C" fn(*mut Lane, *const u8, u64, u32, *const c_void),
}

pub(super) static CALLS: Calls = Calls { barrier, sync_warp, collective, copy_async, copy_commit, copy_wait, touch };

/// The block of a running lane.
///
/// # Safety
/// `lane` is the lane that runs on this OS thread, called from its kernel. The scheduler does not touch the block while a
/// lane runs, and the borrow must end before the lane is suspended.
unsafe fn block<'a>(lane: *mut Lane) -> (&'a mut Block, usize) {
    // SAFETY: see above; `state` is set by `Block::start` and outlives its lanes
    unsafe { (&mut *(*lane).state, (*lane).linear as usize) }
}

/// Hands control back to the scheduler until the lane's state is `Ready` again.
///
/// # Safety
/// As [`block`], and no borrow of the block is alive.
unsafe fn suspend(lane: *mut Lane) {
    // SAFETY: the lane's coroutine stored its yielder when it started, and it runs now
    unsafe {
        let yielder = (&(*(*lane).state).yielders)[(*lane).linear as usize];
        (*yielder).suspend(());
    }
}

unsafe extern "C" fn barrier(lane: *mut Lane) {
    // SAFETY: called by a kernel on its own lane
    unsafe {
        let (block, index) = block(lane);
        if !block.arrive_at_barrier(index) {
            suspend(lane);
        }
    }
}

unsafe extern "C" fn noop(_: *mut *mut c_void) {}

unsafe extern "C" fn sync_warp(lane: *mut Lane) {
    // SAFETY: called by a kernel on its own lane; `noop` reads no arguments
    unsafe { collective(lane, noop, std::ptr::null_mut()) }
}

unsafe extern "C" fn collective(lane: *mut Lane, act: Act, argument: *mut c_void) {
    // SAFETY: called by a kernel on its own lane
    unsafe {
        let (block, index) = block(lane);
        let warp = &mut block.warps[index / 32];
        if warp.arrived > 0 && !std::ptr::fn_addr_eq(warp.act, act) {
            block.fault(index, "lanes of one warp are in different collectives".into());
            suspend(lane);
            unreachable!("a faulted lane is never resumed");
        }
        warp.act = act;
        warp.arguments[index % 32] = argument;
        warp.arrived += 1;
        if warp.arrived == 32 {
            warp.arrived = 0;
            let arguments = warp.arguments.as_mut_ptr();
            // the arguments lie on the stacks of 32 suspended (or this) lanes
            act(arguments);
            block.release_warp(index / 32);
        } else {
            block.states[index] = State::InCollective;
            suspend(lane);
        }
    }
}

unsafe extern "C" fn copy_async(_lane: *mut Lane, shared: *mut u8, global: *const u8, bytes: u32, valid: u32) {
    // SAFETY: the kernel promises both addresses, as it does to the hardware
    unsafe {
        if valid > 0 {
            std::ptr::copy_nonoverlapping(global, shared, valid as usize);
        }
        std::ptr::write_bytes(shared.add(valid as usize), 0, (bytes - valid) as usize);
    }
}

unsafe extern "C" fn copy_commit(_lane: *mut Lane) {}

unsafe extern "C" fn copy_wait(_lane: *mut Lane, _pending: u32) {}

unsafe extern "C" fn touch(_lane: *mut Lane, _address: *const u8, _bytes: u64, _write: u32, _place: *const c_void) {}
