//! One block of a launch: its lanes, the barriers and collectives at which they wait, and the order
//! in which they run.

use super::calls::{Act, CALLS, Calls, Dim3, Lane, Region};
#[cfg(feature = "checked-host")]
use super::checker::{self, BlockCheck, LaunchCheck};
use super::finding::{Finding, Findings, Kind};
use super::mbarrier::{Mbarriers, Wait};
use super::wgmma::{self, Arrival, Step, Warpgroup};
use super::{Entry, HostOptions, STACK_BYTES};
use crate::device::Launch;
#[cfg(feature = "checked-host")]
use crate::device::kernel::host_set_fuel;
use crate::device::kernel::{host_get_lane, host_set_lane};
use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::ffi::c_void;

/// What a lane waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    AtBarrier,
    InCollective,
    AtMbarrier,
    InWarpgroup,
    Done,
}

/// A collective of a warp: the lanes that have arrived and their arguments.
#[derive(Debug)]
pub(super) struct Warp {
    pub act: Act,
    /// The place from which the first lane called it.
    pub place: usize,
    pub arguments: [*mut c_void; 32],
    pub arrived: u32,
}

unsafe extern "C" fn nothing(_: *mut *mut c_void) {}

/// The state that the lanes of a block share with the scheduler.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub index: Dim3,
    /// The linear index of the block.
    pub order: u64,
    /// Whether the threads of the block run one after the other and cannot wait for one another.
    pub alone: bool,
    pub states: Vec<State>,
    pub yielders: Vec<*const Yielder<(), ()>>,
    pub warps: Vec<Warp>,
    pub at_barrier: usize,
    /// The places from which the lanes called the barrier at which they wait.
    places: Vec<usize>,
    shared: Region,
    mbarriers: Mbarriers,
    /// The mbarrier at which each lane waits, and the place from which it called the wait.
    waits: Vec<(usize, usize)>,
    warpgroups: Vec<Warpgroup>,
    pub findings: Findings,
    /// Whether a lane was suspended for good, which ends the block.
    pub ended: bool,
    #[cfg(feature = "checked-host")]
    pub check: BlockCheck,
    pub checked: bool,
}

impl Block {
    fn start(&mut self, index: Dim3, order: u64, threads: usize, shared: Region) {
        self.index = index;
        self.order = order;
        self.alone = false;
        self.states.clear();
        self.states.resize(threads, State::Ready);
        self.yielders.clear();
        self.yielders.resize(threads, std::ptr::null());
        self.warps.clear();
        let warp = || Warp { act: nothing, place: 0, arguments: [std::ptr::null_mut(); 32], arrived: 0 };
        self.warps.resize_with(threads.div_ceil(32), warp);
        self.at_barrier = 0;
        self.places.clear();
        self.places.resize(threads, 0);
        self.shared = shared;
        self.mbarriers.clear();
        self.waits.clear();
        self.waits.resize(threads, (0, 0));
        self.warpgroups.resize_with(threads / wgmma::THREADS, Warpgroup::default);
        self.warpgroups.iter_mut().for_each(Warpgroup::clear);
        self.findings.list.clear();
        self.ended = false;
        self.checked = false;
    }

    /// Records that a lane has arrived. Returns whether it was the last, so that it may go on.
    pub fn arrive_at_barrier(&mut self, lane: usize, place: usize) -> bool {
        self.states[lane] = State::AtBarrier;
        self.places[lane] = place;
        self.at_barrier += 1;
        if self.at_barrier < self.states.len() {
            return false;
        }
        self.at_barrier = 0;
        self.states.fill(State::Ready);
        if let Some(other) = self.places.iter().position(|&p| p != place) {
            let what = "is at another barrier than other threads of the block";
            self.two_places(Kind::DivergentBarrier, lane, place, self.places[other], what);
        }
        #[cfg(feature = "checked-host")]
        if self.checked {
            self.check.barrier();
        }
        true
    }

    /// Records that all lanes of a warp have arrived. `orders` says whether that orders their
    /// accesses to memory.
    #[cfg_attr(not(feature = "checked-host"), allow(unused_variables))]
    pub fn release_warp(&mut self, warp: usize, orders: bool) {
        for state in &mut self.states[warp * 32..warp * 32 + 32] {
            if *state == State::InCollective {
                *state = State::Ready;
            }
        }
        #[cfg(feature = "checked-host")]
        if self.checked {
            self.check.meeting(warp, orders);
        }
    }

    /// Makes an mbarrier. Returns false if that ends the block.
    pub fn make_mbarrier(&mut self, lane: usize, address: usize, count: u32, place: usize) -> bool {
        let wrong = if !address.is_multiple_of(8) || !self.shared.holds(address, 8) {
            "is not 8 bytes of shared memory from a multiple of 8 on"
        } else if !(1..1 << 20).contains(&count) {
            "needs a count of 1 to 1048575"
        } else if !self.mbarriers.make(address, count, self.states.len()) {
            "is there already"
        } else {
            #[cfg(feature = "checked-host")]
            if self.checked {
                self.check.make_mbarrier(address);
            }
            return true;
        };
        let name = self.mbarrier_name(address);
        self.fault(Kind::Mbarrier, lane, place, format!("makes {name}, which {wrong}"));
        false
    }

    fn mbarrier_name(&self, address: usize) -> String {
        format!("the mbarrier at byte {} of shared memory", address.wrapping_sub(self.shared.start) as isize)
    }

    fn find_mbarrier(&mut self, lane: usize, address: usize, place: usize, verb: &str) -> Option<usize> {
        let found = self.mbarriers.find(address);
        if found.is_none() {
            let name = self.mbarrier_name(address);
            self.fault(Kind::Mbarrier, lane, place, format!("{verb} {name}, which no thread has made"));
        }
        found
    }

    /// Counts as `count` arrivals. Returns false if that ends the block.
    pub fn arrive_at_mbarrier(&mut self, lane: usize, address: usize, count: u32, place: usize) -> bool {
        let Some(mbarrier) = self.find_mbarrier(lane, address, place, "arrives at") else { return false };
        #[cfg(feature = "checked-host")]
        if self.checked {
            self.check.arrive(lane, mbarrier);
        }
        self.count_arrivals(lane, mbarrier, count, place)
    }

    fn count_arrivals(&mut self, lane: usize, mbarrier: usize, count: u32, place: usize) -> bool {
        let (missing, phase) = (self.mbarriers.get(mbarrier).missing, self.mbarriers.get(mbarrier).ended);
        if count == 0 || count > missing {
            let name = self.mbarrier_name(self.mbarriers.get(mbarrier).address);
            let what = format!("arrives {count} times at {name}, whose phase {phase} lacks {missing} arrivals");
            self.fault(Kind::Mbarrier, lane, place, what);
            return false;
        }
        if self.mbarriers.arrive(mbarrier, count) {
            #[cfg(feature = "checked-host")]
            if self.checked {
                self.check.end_phase(mbarrier);
            }
            for (state, wait) in self.states.iter_mut().zip(&self.waits) {
                if *state == State::AtMbarrier && wait.0 == mbarrier {
                    *state = State::Ready;
                }
            }
        }
        true
    }

    /// Looks whether the phase that a lane waits for is over. `None` and a missed phase end the block.
    pub fn wait_at_mbarrier(&mut self, lane: usize, address: usize, parity: u32, place: usize) -> Option<Wait> {
        let mbarrier = self.find_mbarrier(lane, address, place, "waits at")?;
        let wait = self.mbarriers.wait(mbarrier, lane, parity & 1);
        match wait {
            Wait::Blocked => {
                self.states[lane] = State::AtMbarrier;
                self.waits[lane] = (mbarrier, place);
            }
            Wait::Over =>
            {
                #[cfg(feature = "checked-host")]
                if self.checked {
                    self.check.pass(lane, mbarrier);
                }
            }
            Wait::Missed => {
                let (name, phase) = (self.mbarrier_name(address), self.mbarriers.target(mbarrier, lane));
                let what = format!("waits for the end of phase {phase} of {name}, where phase {} has ended as well", phase + 1);
                self.fault(Kind::Mbarrier, lane, place, what);
            }
        }
        Some(wait)
    }

    /// Records that a lane takes part in a step of its warpgroup.
    pub fn arrive_in_warpgroup(&mut self, lane: usize, step: Step, place: usize) -> Arrival {
        let (number, thread) = (lane / wgmma::THREADS, lane % wgmma::THREADS);
        let Some(warpgroup) = self.warpgroups.get_mut(number) else {
            self.fault(Kind::MixedCollectives, lane, place, "is in a warpgroup of fewer than 128 threads".into());
            return Arrival::Mixed;
        };
        let arrival = warpgroup.arrive(thread, step, place, self.shared);
        let first = warpgroup.place;
        match &arrival {
            Arrival::Waits => self.states[lane] = State::InWarpgroup,
            Arrival::Mixed => {
                self.fault(Kind::MixedCollectives, lane, place, "is at another step of wgmma than threads of its warpgroup".into());
                self.findings.list.last_mut().expect("just added").other = first;
            }
            Arrival::Different => {
                self.fault(Kind::MixedCollectives, lane, place, "multiplies other matrices than threads of its warpgroup".into());
            }
            Arrival::Malformed(what) => self.fault(Kind::MalformedMatrix, number * wgmma::THREADS, place, what.clone()),
            Arrival::Complete => {
                let lanes = number * wgmma::THREADS..(number + 1) * wgmma::THREADS;
                for state in &mut self.states[lanes] {
                    if *state == State::InWarpgroup {
                        *state = State::Ready;
                    }
                }
                #[cfg(feature = "checked-host")]
                if self.checked && matches!(step, Step::Multiply(_)) {
                    let Block { check, findings, order, index, warpgroups, .. } = self;
                    let mut notes =
                        checker::Notes { findings, order: *order, block: *index, thread: number * wgmma::THREADS, place: first };
                    check.multiply(&mut notes, number, warpgroups[number].operations.back().expect("it has begun"));
                }
            }
        }
        if first != place && matches!(arrival, Arrival::Waits | Arrival::Complete) {
            self.two_places(Kind::MixedCollectives, lane, place, first, "is at another call of wgmma than threads of its warpgroup");
        }
        arrival
    }

    /// Completes the groups of wgmma that a lane has waited for, all but the latest `pending`.
    ///
    /// # Safety
    /// The requests' functions may be run over the sums of the warpgroup's lanes.
    pub unsafe fn wait_for_wgmma(&mut self, lane: usize, pending: u32) {
        let (number, warp) = (lane / wgmma::THREADS, lane % wgmma::THREADS / 32);
        let Some(warpgroup) = self.warpgroups.get_mut(number) else { return };
        #[cfg(feature = "checked-host")]
        let (checked, check) = (self.checked, &mut self.check);
        let each = |_operation: u32| {
            #[cfg(feature = "checked-host")]
            if checked {
                check.waited(number, warp, _operation);
            }
        };
        // SAFETY: passed on to the caller; no lane with operations under way has ended (`finished`)
        unsafe { warpgroup.wait(warp, pending, self.shared, each) };
    }

    /// Records that a lane has ended.
    fn finished(&mut self, lane: usize) {
        self.states[lane] = State::Done;
        let busy = |warpgroup: &Warpgroup| warpgroup.is_busy(lane % wgmma::THREADS / 32);
        if self.warpgroups.get(lane / wgmma::THREADS).is_some_and(busy) {
            self.fault(Kind::Unwaited, lane, 0, "ends before it has waited for a wgmma, which would write to its registers".into());
        }
    }

    /// Lets some of the operations under way happen now, as a GPU might.
    ///
    /// # Safety
    /// As [`Block::wait_for_wgmma`]; what is copied from is valid.
    unsafe fn happen(&mut self, rng: &mut SmallRng) {
        for warpgroup in &mut self.warpgroups {
            if !warpgroup.operations.is_empty() && rng.random_bool(0.25) {
                // SAFETY: passed on to the caller
                unsafe { warpgroup.advance(self.shared) };
            }
        }
        #[cfg(feature = "checked-host")]
        if self.checked && self.check.late_arrivals() > 0 {
            for _ in 0..rng.random_range(0..16) {
                if self.check.late_arrivals() > 0 && !self.ended {
                    // SAFETY: passed on to the caller
                    unsafe { self.complete_copies(rng.random_range(0..self.check.late_arrivals())) };
                }
            }
        }
    }

    /// Completes the copies of one arrival at an mbarrier, and counts it.
    ///
    /// # Safety
    /// What is copied from is valid.
    #[cfg(feature = "checked-host")]
    pub unsafe fn complete_copies(&mut self, arrival: usize) {
        // SAFETY: passed on to the caller
        let arrival = unsafe { self.check.complete_copies(arrival) };
        self.count_arrivals(arrival.lane, arrival.mbarrier, 1, arrival.place);
    }

    /// Records that a lane arrives at an mbarrier when its copies are complete. Returns false if that
    /// ends the block.
    #[cfg(feature = "checked-host")]
    pub fn arrive_later(&mut self, lane: usize, address: usize, place: usize) -> bool {
        let Some(mbarrier) = self.find_mbarrier(lane, address, place, "arrives at") else { return false };
        self.check.arrive_later(lane, mbarrier, place);
        true
    }

    /// What the checker says of an access to a lane's own stack, on which the sums of wgmma are.
    #[cfg(feature = "checked-host")]
    pub fn touch_stack(&mut self, lane: usize, address: usize, bytes: usize, write: bool, place: usize) {
        let Some(warpgroup) = self.warpgroups.get(lane / wgmma::THREADS) else { return };
        if warpgroup.operations.iter().any(|operation| operation.holds(lane % wgmma::THREADS, address, bytes)) {
            let verb = if write { "writes" } else { "reads" };
            let mut notes = checker::Notes { findings: &mut self.findings, order: self.order, block: self.index, thread: lane, place };
            notes.add(Kind::SumsInUse, || format!("{verb} sums before it has waited for the wgmma that adds to them"));
        } else {
            self.check.touch_sums(lane, address, bytes);
        }
    }

    /// Completes what no lane needs to ask for: copies of which mbarriers tell. Returns whether there
    /// was any.
    ///
    /// # Safety
    /// What is copied from is valid.
    unsafe fn complete_all_copies(&mut self) -> bool {
        #[cfg(feature = "checked-host")]
        if self.checked && self.check.late_arrivals() > 0 {
            while self.check.late_arrivals() > 0 && !self.ended {
                // SAFETY: passed on to the caller
                unsafe { self.complete_copies(0) };
            }
            return true;
        }
        false
    }

    fn note(&mut self, kind: Kind, thread: Option<usize>, place: usize, other: usize, what: String) {
        self.findings.list.push(Finding { kind, order: self.order, block: Some(self.index), thread, place, other, what });
    }

    /// Records that two calls met that should have been one. Reported only if their source lines
    /// differ as well.
    pub fn two_places(&mut self, kind: Kind, lane: usize, place: usize, other: usize, what: &str) {
        if !self.findings.has(kind, place) && !self.findings.is_full() {
            self.note(kind, Some(lane), place, other, what.into());
        }
    }

    /// Ends the block: the lane is suspended and is not resumed.
    pub fn fault(&mut self, kind: Kind, lane: usize, place: usize, what: String) {
        self.note(kind, Some(lane), place, 0, what);
        self.ended = true;
    }

    /// Deadlock: no thread can proceed.
    fn stuck(&mut self) {
        if self.states.iter().any(|state| matches!(state, State::AtMbarrier | State::InWarpgroup)) {
            return self.deadlock();
        }
        let count = |wanted: State| self.states.iter().filter(|&&state| state == wanted).count();
        let (barrier, collective, done) = (count(State::AtBarrier), count(State::InCollective), count(State::Done));
        let waiting = self.states.iter().position(|&state| state == State::AtBarrier);
        let place = waiting.map_or(0, |lane| self.places[lane]);
        let other = self.warps.iter().find(|warp| warp.arrived > 0).map_or(0, |warp| warp.place);
        let what = format!(
            "cannot go on: of {} threads {barrier} wait at a barrier, {collective} in a warp collective, {done} have finished",
            self.states.len()
        );
        let kind = if barrier > 0 { Kind::DivergentBarrier } else { Kind::MixedCollectives };
        let (place, other) = if place == 0 { (other, 0) } else { (place, other) };
        self.note(kind, None, place, other, what);
        self.ended = true;
    }

    /// Deadlock of threads that wait at mbarriers or for their warpgroup: says who waits for what.
    fn deadlock(&mut self) {
        let mut waits: Vec<(String, Vec<usize>)> = Vec::new();
        let mut place = 0;
        for (lane, state) in self.states.iter().enumerate() {
            let what = match state {
                State::Ready | State::Done => continue,
                State::AtBarrier => "at a barrier".into(),
                State::InCollective => "in a warp collective".into(),
                State::InWarpgroup => format!("for the rest of warpgroup {} at a wgmma", lane / wgmma::THREADS),
                State::AtMbarrier => {
                    let (number, at) = self.waits[lane];
                    place = if place == 0 { at } else { place };
                    let mbarrier = self.mbarriers.get(number);
                    let (name, phase) = (self.mbarrier_name(mbarrier.address), self.mbarriers.target(number, lane));
                    format!("for the end of phase {phase} of {name}, which lacks {} of {} arrivals", mbarrier.missing, mbarrier.count)
                }
            };
            match waits.iter_mut().find(|(known, _)| *known == what) {
                Some((_, lanes)) => lanes.push(lane),
                None => waits.push((what, vec![lane])),
            }
        }
        let waits: Vec<String> = waits.iter().map(|(what, lanes)| format!("{} wait {what}", threads_in_words(lanes))).collect();
        let done = self.states.iter().filter(|&&state| state == State::Done).count();
        let group = self.warpgroups.iter().find(|warpgroup| warpgroup.arrived > 0);
        let place = if place == 0 { group.map_or(0, |warpgroup| warpgroup.place) } else { place };
        self.note(Kind::Deadlock, None, place, 0, format!("cannot go on: {}; {done} have finished", waits.join("; ")));
        self.ended = true;
    }
}

/// The numbers in words: "threads 0 to 31, 64".
fn threads_in_words(threads: &[usize]) -> String {
    let run = |run: &[usize]| match run {
        [one] => one.to_string(),
        _ => format!("{} to {}", run[0], run[run.len() - 1]),
    };
    let runs: Vec<String> = threads.chunk_by(|a, b| a + 1 == *b).map(run).collect();
    format!("thread{} {}", if threads.len() == 1 { "" } else { "s" }, runs.join(", "))
}

/// What running a block needs in addition to stacks. The device keeps it between launches, so that
/// running allocates nothing.
#[derive(Default)]
pub(super) struct Scratch {
    block: Block,
    lanes: Vec<Lane>,
    order: Vec<u32>,
    shared: Vec<u128>,
    fibers: Vec<Fiber>,
}

// SAFETY: between two blocks, which is when it changes threads, nobody follows the addresses in `block` and `lanes`, and `fibers`
// is empty: a block that ends by a panic drops its scratch where it ran
unsafe impl Send for Scratch {}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

type Fiber = Coroutine<(), (), (), DefaultStack>;

/// A launch, as far as its blocks need to know it.
pub(super) struct Job<'a> {
    pub entry: Entry,
    pub launch: &'a Launch<'a>,
    pub options: &'a HostOptions,
    #[cfg(feature = "checked-host")]
    pub check: Option<&'a LaunchCheck>,
}

impl Job<'_> {
    /// The number of stacks that a block needs: one for each thread if its threads wait for one
    /// another; otherwise one, if the checker may have to end it.
    pub fn stacks(&self) -> usize {
        match (self.launch.kernel.info.collectives, self.options.checked) {
            (true, _) => self.launch.kernel.info.threads as usize,
            (false, checked) => checked.into(),
        }
    }

    fn lane(&self, block: Dim3, thread: u32, shared: *mut u8, state: *mut Block, calls: *const Calls) -> Lane {
        let [x, y, z] = self.launch.grid;
        let threads = self.launch.kernel.info.threads;
        Lane {
            thread: Dim3 { x: thread, y: 0, z: 0 },
            block,
            block_dim: Dim3 { x: threads, y: 1, z: 1 },
            grid_dim: Dim3 { x, y, z },
            shared,
            calls,
            state,
            linear: thread,
            reserved: 0,
            stack: Region::default(),
            params: Region { start: self.launch.params.as_ptr() as usize, bytes: self.launch.params.len() },
        }
    }

    /// Runs the block with this linear index if [`Job::stacks`] is 0. Threads that never wait for
    /// one another need no coroutines and run one after the other.
    pub fn run_plain(&self, index: u64) {
        let block = Dim3::of_linear(index, self.launch.grid);
        let mut lane = self.lane(block, 0, std::ptr::null_mut(), std::ptr::null_mut(), &raw const CALLS);
        assert_eq!(self.launch.shared_bytes, 0, "threads that never meet share nothing");
        // SAFETY: the lane lives until `host_set_lane(outer)`; the entry's parameters are of its struct, valid by `launch`'s
        // contract. A kernel without collectives makes no host call and has no shared memory, so the null pointers are not read:
        // the checker refuses a kernel that the manifest calls so and that meets others.
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

    /// Runs the block with this linear index with its threads as coroutines. If the threads wait
    /// for one another, each has its own coroutine. Otherwise they run one after the other in a
    /// single one, which the checker can end at any access. There must be at least [`Job::stacks`]
    /// stacks.
    pub fn run_fibers(&self, linear: u64, scratch: &mut Scratch, stacks: &mut Vec<DefaultStack>) -> Vec<Finding> {
        let index = Dim3::of_linear(linear, self.launch.grid);
        let threads = self.launch.kernel.info.threads as usize;
        let together = self.launch.kernel.info.collectives;
        let Scratch { block, lanes, order, shared, fibers } = scratch;
        // Filled with NaN in every dtype, so that memory that no thread has written does not look
        // like a number.
        shared.clear();
        shared.resize((self.launch.shared_bytes as usize).div_ceil(16) + (1024 + 128) / 16, u128::MAX);
        let base = shared.as_mut_ptr().cast::<u8>();
        // A multiple of 128 and of no larger power of two, so that a kernel that counts on more is
        // found out.
        // SAFETY: 1024 + 128 bytes more than needed were allocated
        let base = unsafe { base.add(base.align_offset(1024) + 128) };
        let region = Region { start: base as usize, bytes: self.launch.shared_bytes as usize };
        block.start(index, linear, threads, region);
        block.alone = !together;
        let count = if together { threads } else { 1 };
        #[allow(unused_mut)]
        let mut calls = &raw const CALLS;
        #[cfg(feature = "checked-host")]
        if let Some(launch) = self.check {
            calls = checker::calls();
            block.checked = true;
            block.check.start(launch, linear, threads, region);
            // SAFETY: sets a number that is this OS thread's own
            unsafe { host_set_fuel(self.options.max_steps) };
        }
        let block: *mut Block = block;
        lanes.clear();
        // The coroutines take the stacks from the end.
        let stacks_of_lanes =
            stacks.iter().rev().take(count).cycle().map(|s| Region { start: s.base().get() - STACK_BYTES, bytes: STACK_BYTES });
        let lane = |(thread, stack)| Lane { stack, ..self.lane(index, thread, base, block, calls) };
        lanes.extend((0..threads as u32).zip(stacks_of_lanes).map(lane));
        order.clear();
        order.extend(0..threads as u32);
        let mut rng =
            (self.options.seed != 0).then(|| SmallRng::seed_from_u64(self.options.seed ^ linear.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // SAFETY: `lanes`, `shared` and the parameters outlive the calls; while they run, `block` is reached by this address alone, by
        // one at a time: a lane's host call, which is over before the lane is suspended, or the scheduler between two lanes' turns
        unsafe {
            let outer = host_get_lane();
            if together {
                self.schedule(block, lanes, order, stacks, fibers, rng.as_mut());
            } else {
                if let Some(rng) = &mut rng {
                    order.shuffle(rng);
                }
                self.run_in_turn(block, lanes, order, stacks);
            }
            host_set_lane(outer);
        }
        // SAFETY: no lane runs any more, and nobody else has the address
        let block = unsafe { &mut *block };
        #[cfg(feature = "checked-host")]
        if let Some(launch) = self.check {
            block.check.finish(launch);
        }
        std::mem::take(&mut block.findings.list)
    }

    /// Runs one lane after the other in one coroutine.
    ///
    /// # Safety
    /// `block` is the state of `lanes`, and nothing else accesses either meanwhile. The entry may
    /// be run with the launch's parameters.
    unsafe fn run_in_turn(&self, block: *mut Block, lanes: &mut [Lane], order: &[u32], stacks: &mut Vec<DefaultStack>) {
        let (entry, params) = (self.entry, self.launch.params.as_ptr());
        let (lanes, order) = (lanes.as_mut_ptr(), order as *const [u32]);
        let stack = stacks.pop().expect("there are `Job::stacks`");
        // SAFETY: lanes, order, block and parameters outlive the coroutine, which ends in this
        // function
        let mut fiber = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| unsafe {
            (*block).yielders.fill(yielder);
            for &lane in &*order {
                host_set_lane(lanes.add(lane as usize).cast());
                entry(params.cast());
            }
        });
        fiber.resume(());
        stacks.push(stack_of(fiber));
    }

    /// Runs the lanes, each in its own coroutine, until all are done, one has ended the block, or
    /// none can proceed.
    ///
    /// # Safety
    /// As [`Job::run_in_turn`].
    unsafe fn schedule(
        &self,
        block: *mut Block,
        lanes: &mut [Lane],
        order: &mut [u32],
        stacks: &mut Vec<DefaultStack>,
        fibers: &mut Vec<Fiber>,
        mut rng: Option<&mut SmallRng>,
    ) {
        let (entry, params) = (self.entry, self.launch.params.as_ptr());
        fibers.clear();
        fibers.extend((0..lanes.len()).map(|lane| {
            let stack = stacks.pop().expect("there are `Job::stacks`");
            // SAFETY: block and parameters outlive the coroutines, which end in this function; one
            // lane runs at a time
            Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| unsafe {
                (&mut (*block).yielders)[lane] = yielder;
                entry(params.cast());
            })
        }));
        let mut steps = 0u64;
        let mut done = 0;
        'block: while done < lanes.len() {
            let mut progress = false;
            if let Some(rng) = &mut rng {
                order.shuffle(rng);
            }
            for warp in order.chunks(32) {
                // The lanes of a warp take turns until all of them wait. Then it is the next warp's
                // turn.
                loop {
                    let mut ran = false;
                    for &lane in warp {
                        let lane = lane as usize;
                        // SAFETY: no lane runs now
                        if unsafe { (&(*block).states)[lane] } != State::Ready {
                            continue;
                        }
                        ran = true;
                        steps += 1;
                        // SAFETY: the lane lives until the caller sets another
                        unsafe { host_set_lane((&raw mut lanes[lane]).cast()) };
                        let result = fibers[lane].resume(());
                        // SAFETY: no lane runs now
                        let block = unsafe { &mut *block };
                        if let CoroutineResult::Return(()) = result {
                            block.finished(lane);
                            done += 1;
                        }
                        if block.ended {
                            break 'block;
                        }
                    }
                    progress |= ran;
                    if let Some(rng) = &mut rng {
                        // SAFETY: no lane runs now; the launch's memory and the lanes' stacks are alive
                        unsafe { (*block).happen(rng) };
                        // SAFETY: no lane runs now
                        if unsafe { (*block).ended } {
                            break 'block;
                        }
                    }
                    if steps > self.options.max_steps {
                        let what = format!(
                            "the block's threads have taken {steps} turns, more than HostOptions::max_steps allows: it never ends, or does more than that"
                        );
                        // SAFETY: no lane runs now
                        unsafe { (*block).fault(Kind::Endless, 0, 0, what) };
                        break 'block;
                    }
                    if !ran || rng.is_some() {
                        break;
                    }
                }
            }
            if !progress && done < lanes.len() {
                // SAFETY: no lane runs now; the launch's memory is alive
                unsafe {
                    if !(*block).complete_all_copies() {
                        (*block).stuck();
                    }
                    if (*block).ended {
                        break;
                    }
                }
            }
        }
        stacks.extend(fibers.drain(..).rev().map(stack_of));
    }
}

/// Ends a coroutine at whatever point it is, and returns its stack.
fn stack_of(mut fiber: Fiber) -> DefaultStack {
    if !fiber.done() {
        // SAFETY: its frames are those of a kernel (C++ without destructors) and of a host call
        // that holds nothing
        unsafe { fiber.force_reset() };
    }
    fiber.into_stack()
}
