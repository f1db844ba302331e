//! One block of a launch: its lanes, their meetings, and the order in which they run.

use super::calls::{CALLS, Dim3, Lane};
use super::{Entry, HostOptions};
use crate::device::Launch;
use crate::kernels::{host_get_lane, host_set_lane};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::cell::RefCell;
use std::ffi::c_void;

/// A lane's stack; the pages that a kernel does not touch cost nothing. A guard page lies below.
const STACK_BYTES: usize = 128 * 1024;

/// What a lane is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    AtBarrier,
    InCollective,
    Done,
}

/// A warp's meeting: the lanes that have come and what they brought.
#[derive(Debug)]
pub(super) struct Warp {
    pub act: unsafe extern "C" fn(*mut *mut c_void),
    pub arguments: [*mut c_void; 32],
    pub arrived: u32,
}

unsafe extern "C" fn nothing(_: *mut *mut c_void) {}

/// The state that the lanes of a block share with the scheduler.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub index: Dim3,
    pub states: Vec<State>,
    pub yielders: Vec<*const Yielder<(), ()>>,
    pub warps: Vec<Warp>,
    pub at_barrier: usize,
    pub findings: Vec<String>,
}

impl Block {
    fn start(&mut self, index: Dim3, threads: usize) {
        self.index = index;
        self.states.clear();
        self.states.resize(threads, State::Ready);
        self.yielders.clear();
        self.yielders.resize(threads, std::ptr::null());
        self.warps.clear();
        self.warps.extend((0..threads.div_ceil(32)).map(|_| Warp { act: nothing, arguments: [std::ptr::null_mut(); 32], arrived: 0 }));
        self.at_barrier = 0;
        self.findings.clear();
    }

    /// Whether the lane was the last and may go on.
    pub fn arrive_at_barrier(&mut self, lane: usize) -> bool {
        self.states[lane] = State::AtBarrier;
        self.at_barrier += 1;
        if self.at_barrier < self.states.len() {
            return false;
        }
        self.at_barrier = 0;
        self.states.fill(State::Ready);
        true
    }

    pub fn release_warp(&mut self, warp: usize) {
        for state in &mut self.states[warp * 32..warp * 32 + 32] {
            if *state == State::InCollective {
                *state = State::Ready;
            }
        }
    }

    /// Ends the block: the lane is suspended and the scheduler does not come back to it.
    pub fn fault(&mut self, lane: usize, what: String) {
        let Dim3 { x, y, z } = self.index;
        self.findings.push(format!("block ({x}, {y}, {z}) thread {lane}: {what}"));
    }

    /// Why nobody can go on.
    fn stuck(&mut self) {
        let Dim3 { x, y, z } = self.index;
        let count = |wanted: State| self.states.iter().filter(|&&state| state == wanted).count();
        let (barrier, collective, done) = (count(State::AtBarrier), count(State::InCollective), count(State::Done));
        self.findings.push(format!(
            "block ({x}, {y}, {z}): divergent barrier or collective: of {} threads, {barrier} wait at a barrier, {collective} in a warp collective, {done} have finished",
            self.states.len()
        ));
    }
}

/// What a worker thread keeps between blocks, so that running allocates nothing.
#[derive(Default)]
struct Scratch {
    block: Block,
    lanes: Vec<Lane>,
    order: Vec<u32>,
    shared: Vec<u128>,
    stacks: Vec<DefaultStack>,
    fibers: Vec<Fiber>,
}

type Fiber = Coroutine<(), (), (), DefaultStack>;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A launch, as its blocks see it.
pub(super) struct Job<'a> {
    pub entry: Entry,
    pub launch: &'a Launch<'a>,
    pub options: &'a HostOptions,
}

// SAFETY: the launch holds addresses of device memory, which are valid on every thread; nothing else is a pointer
unsafe impl Sync for Job<'_> {}

impl Job<'_> {
    /// Runs the block with this linear index.
    pub fn run(&self, index: u64) -> Result<(), Vec<String>> {
        let [gx, gy, _] = self.launch.grid;
        let block = Dim3 {
            x: (index % u64::from(gx)) as u32,
            y: (index / u64::from(gx) % u64::from(gy)) as u32,
            z: (index / u64::from(gx) / u64::from(gy)) as u32,
        };
        if !self.launch.kernel.info.collectives && !self.options.checked {
            self.run_alone(block);
            return Ok(());
        }
        SCRATCH.with_borrow_mut(|scratch| self.run_together(block, index, scratch))
    }

    fn lane(&self, block: Dim3, thread: u32, shared: *mut u8, state: *mut Block) -> Lane {
        let [x, y, z] = self.launch.grid;
        let threads = self.launch.kernel.info.threads;
        Lane {
            thread: Dim3 { x: thread, y: 0, z: 0 },
            block,
            block_dim: Dim3 { x: threads, y: 1, z: 1 },
            grid_dim: Dim3 { x, y, z },
            shared,
            calls: &CALLS,
            state,
            linear: thread,
            reserved: 0,
        }
    }

    /// Threads that never meet need no coroutines: one after the other.
    fn run_alone(&self, block: Dim3) {
        let mut lane = self.lane(block, 0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the lane lives until `host_set_lane(null)`; the entry's parameters are of its struct, valid by `launch`'s
        // contract. A kernel without collectives makes no host call, so the null pointers are not read.
        unsafe {
            let outer = host_get_lane();
            host_set_lane((&raw mut lane).cast());
            for thread in 0..lane.block_dim.x {
                (&raw mut lane.thread.x).write_volatile(thread);
                (&raw mut lane.linear).write_volatile(thread);
                (self.entry)(self.launch.params.as_ptr().cast());
            }
            host_set_lane(outer);
        }
    }

    fn run_together(&self, index: Dim3, linear: u64, scratch: &mut Scratch) -> Result<(), Vec<String>> {
        let threads = self.launch.kernel.info.threads as usize;
        let Scratch { block, lanes, order, shared, stacks, fibers } = scratch;
        block.start(index, threads);
        // NaN in every dtype, so that what nobody wrote does not look like a number
        shared.clear();
        shared.resize((self.launch.shared_bytes as usize).div_ceil(16) + 8, u128::MAX);
        let base = shared.as_mut_ptr().cast::<u8>();
        // SAFETY: 128 bytes more than needed were allocated
        let base = unsafe { base.add(base.align_offset(128)) };
        let block: *mut Block = block;
        lanes.clear();
        lanes.extend((0..threads as u32).map(|thread| self.lane(index, thread, base, block)));
        while stacks.len() < threads {
            match DefaultStack::new(STACK_BYTES) {
                Ok(stack) => stacks.push(stack),
                Err(e) => return Err(vec![format!("no memory for the stacks of {threads} lanes: {e}")]),
            }
        }
        let (entry, params) = (self.entry, self.launch.params.as_ptr());
        fibers.clear();
        fibers.extend((0..threads).map(|lane| {
            let stack = stacks.pop().expect("filled above");
            // SAFETY: the parameters outlive the fibers, which end in this function; one lane runs at a time
            Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| unsafe {
                (&mut (*block).yielders)[lane] = yielder;
                entry(params.cast());
            })
        }));
        order.clear();
        order.extend(0..threads as u32);
        self.schedule(block, lanes, order, fibers, linear);
        for mut fiber in fibers.drain(..) {
            if !fiber.done() {
                // SAFETY: its frames are those of a kernel (C++ without destructors) and of a host call that holds nothing
                unsafe { fiber.force_reset() };
            }
            stacks.push(fiber.into_stack());
        }
        // SAFETY: no lane runs any more
        let block = unsafe { &mut *block };
        if block.findings.is_empty() { Ok(()) } else { Err(std::mem::take(&mut block.findings)) }
    }

    /// Lets the lanes run until all are done, one has faulted, or none can go on.
    fn schedule(&self, block: *mut Block, lanes: &mut [Lane], order: &mut [u32], fibers: &mut [Fiber], linear: u64) {
        let mut rng =
            (self.options.seed != 0).then(|| SmallRng::seed_from_u64(self.options.seed ^ linear.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let mut steps = 0u64;
        let mut done = 0;
        // SAFETY: `lanes` outlives the calls; `block` is only touched between two lanes' turns
        unsafe {
            let outer = host_get_lane();
            'block: while done < lanes.len() {
                let mut progress = false;
                if let Some(rng) = &mut rng {
                    order.shuffle(rng);
                }
                for warp in order.chunks(32) {
                    // a warp's lanes take turns until all of them wait, which is when the next warp's turn comes
                    loop {
                        let mut turn = false;
                        for &lane in warp {
                            let lane = lane as usize;
                            if (&(*block).states)[lane] != State::Ready {
                                continue;
                            }
                            turn = true;
                            steps += 1;
                            host_set_lane((&raw mut lanes[lane]).cast());
                            if let CoroutineResult::Return(()) = fibers[lane].resume(()) {
                                (&mut (*block).states)[lane] = State::Done;
                                done += 1;
                            }
                            if !(*block).findings.is_empty() {
                                break 'block;
                            }
                        }
                        progress |= turn;
                        if steps > self.options.max_steps {
                            let what = format!("the kernel seems endless: {steps} turns of the block's threads");
                            (*block).fault(0, what);
                            break 'block;
                        }
                        if !turn || rng.is_some() {
                            break;
                        }
                    }
                }
                if !progress && done < lanes.len() {
                    (*block).stuck();
                    break;
                }
            }
            host_set_lane(outer);
        }
    }
}
