//! The stacks that lanes run on.
//!
//! A stack is two mappings of the process, itself and the guard page that keeps an overflow from reaching its neighbour, and a
//! block needs one for each of its threads. Linux allows a process 65,530 mappings unless told otherwise, and one that has none
//! left can neither start a thread nor allocate. So the whole process has a fixed number of sets of stacks, each for one block
//! at a time; who finds none free waits its turn. More blocks at once than cores would not be done sooner anyway.

use super::STACK_BYTES;
use crate::device::kernel::KERNELS;
use crate::error::{Error, Result};
use corosensei::stack::DefaultStack;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

/// Sets of stacks of the process at most: with 256 threads a block they are half of the mappings that it may have.
const MOST_SETS: usize = 64;
/// Waiting threads are spread over so many condition variables, so that a set that comes free wakes few of them.
const QUEUES: usize = 64;

/// Every set of this process.
pub(super) static SETS: LazyLock<Sets> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let lanes = KERNELS.iter().map(|kernel| kernel.threads as usize).max().unwrap_or(0);
    Sets::new((2 * cores).clamp(4, MOST_SETS), lanes)
});

/// A fixed number of sets, lent in the order in which they are asked for.
pub(super) struct Sets {
    state: Mutex<State>,
    queues: [Condvar; QUEUES],
}

struct State {
    /// The last one was used last: its stacks are there, and in the caches.
    idle: Vec<Vec<DefaultStack>>,
    /// The next number to be drawn by who wants a set.
    next: u64,
    /// Numbers below this one have their turn.
    admitted: u64,
}

/// A set of stacks, which goes back when it is dropped.
pub(super) struct Lent<'a> {
    pub stacks: Vec<DefaultStack>,
    sets: &'a Sets,
}

impl Sets {
    /// `lanes`: stacks of a set, for which there is room from the beginning: a launch allocates nothing on the heap.
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

    /// A set, once one is free. Who holds one must not ask for another.
    pub fn take(&self) -> Lent<'_> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        while number >= state.admitted {
            state = self.queue(number).wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.lend(&mut state)
    }

    /// A set, if one is free and nobody waits for it.
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
    /// Sees to it that there are so many stacks.
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
                // the next one asks when this one waits
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
