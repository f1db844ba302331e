//! The stacks on which lanes run.
//!
//! A stack takes two memory mappings of the process: the stack itself, and the guard page that
//! keeps an overflow from reaching the next stack. A block needs one stack for each of its threads.
//! By default Linux allows a process 65,530 mappings, and a process that has used them all can
//! neither start a thread nor allocate. So the process has a fixed number of sets of stacks, each
//! for one block at a time; a thread that finds no free set waits for its turn. More blocks at once
//! than cores would not be faster anyway.

use super::STACK_BYTES;
use crate::device::kernel::KERNELS;
use crate::error::{Error, Result};
use corosensei::stack::DefaultStack;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

/// The largest number of sets of stacks of the process. With 256 threads in a block they take half
/// of the mappings that the process may have.
const MOST_SETS: usize = 64;
/// The number of condition variables over which waiting threads are spread, so that a free set
/// wakes few of them.
const QUEUES: usize = 64;

/// All sets of this process.
pub(super) static SETS: LazyLock<Sets> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let lanes = KERNELS.iter().map(|kernel| kernel.threads as usize).max().unwrap_or(0);
    Sets::new((2 * cores).clamp(4, MOST_SETS), lanes)
});

/// A fixed number of sets, which are lent in the order of requests.
pub(super) struct Sets {
    state: Mutex<State>,
    queues: [Condvar; QUEUES],
}

struct State {
    /// The free sets. The last one was used last: its stacks exist and are in the caches.
    idle: Vec<Vec<DefaultStack>>,
    /// The number that the next request gets.
    next: u64,
    /// Requests with a number below this one have their turn.
    admitted: u64,
}

/// A borrowed set of stacks, which is returned when it is dropped.
pub(super) struct Lent<'a> {
    pub stacks: Vec<DefaultStack>,
    sets: &'a Sets,
}

impl Sets {
    /// `sets` sets, each with room for `lanes` stacks from the beginning: a launch allocates
    /// nothing on the heap.
    fn new(sets: usize, lanes: usize) -> Self {
        let idle = (0..sets).map(|_| Vec::with_capacity(lanes)).collect();
        let state = State { idle, next: 0, admitted: sets as u64 };
        Self { state: Mutex::new(state), queues: std::array::from_fn(|_| Condvar::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, number: u64) -> &Condvar {
        &self.queues[number as usize % QUEUES]
    }

    /// Waits for a free set and borrows it. A thread that holds a set must not request another.
    pub fn take(&self) -> Lent<'_> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        while number >= state.admitted {
            state = self.queue(number).wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.lend(&mut state)
    }

    /// Borrows a set if one is free and no other thread waits for it.
    pub fn try_take(&self) -> Option<Lent<'_>> {
        let mut state = self.lock();
        (state.next < state.admitted).then(|| {
            state.next += 1;
            self.lend(&mut state)
        })
    }

    fn lend(&self, state: &mut State) -> Lent<'_> {
        Lent { stacks: state.idle.pop().expect("as many numbers have their turn as there are sets"), sets: self }
    }
}

impl Lent<'_> {
    /// Makes sure that there are at least `lanes` stacks.
    pub fn grow(&mut self, lanes: usize) -> Result<()> {
        while self.stacks.len() < lanes {
            let stack = DefaultStack::new(STACK_BYTES).map_err(|e| Error::OutOfMemory {
                bytes: lanes * STACK_BYTES,
                device: "the host device".into(),
                message: format!("the stacks of a block of {lanes} threads: {e}"),
            })?;
            self.stacks.push(stack);
        }
        Ok(())
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.sets.lock();
        state.idle.push(std::mem::take(&mut self.stacks));
        let number = state.admitted;
        state.admitted += 1;
        if number < state.next {
            self.sets.queue(number).notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_sets_are_lent_than_there_are() {
        let sets = Sets::new(3, 1);
        let (held, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut set = sets.take();
                        most.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        set.grow(1).unwrap();
                        std::thread::yield_now();
                        held.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
        assert_eq!(sets.lock().idle.len(), 3);
    }

    #[test]
    fn who_came_first_is_first_served_and_nobody_jumps_the_queue() {
        let sets = Sets::new(1, 0);
        let order = Mutex::new(Vec::new());
        let held = sets.take();
        std::thread::scope(|scope| {
            for index in 0..5 {
                let (sets, order) = (&sets, &order);
                scope.spawn(move || {
                    let _set = sets.take();
                    order.lock().unwrap().push(index);
                });
                // The next thread requests a set when this one waits.
                while sets.lock().next < index + 2 {
                    std::thread::yield_now();
                }
            }
            assert!(sets.try_take().is_none());
            drop(held);
        });
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3, 4]);
        assert!(sets.try_take().is_some());
    }
}
