//! The threads of a host device.
//!
//! A launch is done by the thread that requests it and by those of the device's threads that are
//! free. The requesting thread waits for them without doing anything else. If it were a worker of
//! the caller's thread pool and took up another task of that pool meanwhile, that task could want a
//! lock that this thread holds.

use crate::error::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The role of a thread in a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The thread that requested the launch, and must complete it.
    Caller,
    /// A thread of the device, which may leave at any time.
    Helper,
}

type Work = dyn Fn(Role) + Sync;

/// A running launch.
struct Call {
    id: u64,
    work: &'static Work,
    /// The number of helpers that may still join.
    wanted: usize,
    /// The number of helpers that are working.
    helping: usize,
    panicked: bool,
}

#[derive(Default)]
struct State {
    /// The running launches, the oldest first.
    calls: Vec<Call>,
    next_id: u64,
    closing: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a call wants helpers or the device is closing.
    wanted: Condvar,
    /// Signalled when the last helper has left a call.
    left: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of a thread of the device.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(call) = state.calls.iter_mut().find(|call| call.wanted > 0) {
                call.wanted -= 1;
                call.helping += 1;
                let (id, work) = (call.id, call.work);
                drop(state);
                let outcome = catch_unwind(AssertUnwindSafe(|| work(Role::Helper)));
                state = self.lock();
                let call = state.calls.iter_mut().find(|call| call.id == id).expect("a call stays while it has helpers");
                call.helping -= 1;
                call.panicked |= outcome.is_err();
                if call.helping == 0 {
                    self.left.notify_all();
                }
            } else if state.closing {
                return;
            } else {
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// The threads of a host device, without those that call it.
pub(super) struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The process to which the threads belong. A fork does not copy them.
    process: u32,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Team({} threads)", self.threads.len())
    }
}

impl Team {
    pub fn new(threads: usize) -> Result<Self> {
        let mut team = Self { shared: Arc::default(), threads: Vec::new(), process: std::process::id() };
        for index in 0..threads {
            let shared = Arc::clone(&team.shared);
            let thread = std::thread::Builder::new().name(format!("warpconv-host-{index}")).spawn(move || shared.serve());
            let unavailable = |e: std::io::Error| Error::DeviceUnavailable {
                requested: "host".into(),
                why: format!("thread {} of {threads} could not be started: {e}", index + 1),
            };
            team.threads.push(thread.map_err(unavailable)?);
        }
        Ok(team)
    }

    /// Refuses to work in a forked process, which does not have the threads.
    pub fn check_process(&self) -> Result<()> {
        let process = std::process::id();
        if process == self.process {
            return Ok(());
        }
        let why = format!(
            "it was made in process {} and its threads stayed there; this is process {process}, forked off since: make a new device after the fork, or one with HostOptions {{ threads: 1 }} before it",
            self.process
        );
        Err(Error::DeviceUnavailable { requested: "host".into(), why })
    }

    /// Calls `work` on this thread, and meanwhile on up to `helpers` others. All of them have left
    /// when it returns.
    pub fn run(&self, helpers: usize, work: &(dyn Fn(Role) + Sync)) {
        let helpers = helpers.min(self.threads.len());
        // SAFETY: only the lifetime changes. Helpers reach the closure through its call, and `End` removes that, once none of them is
        // at work, before this function is left, be it by a panic
        let work = unsafe { std::mem::transmute::<&(dyn Fn(Role) + Sync), &'static Work>(work) };
        let mut state = self.shared.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.calls.push(Call { id, work, wanted: helpers, helping: 0, panicked: false });
        drop(state);
        let end = End { shared: &self.shared, id };
        (0..helpers).for_each(|_| self.shared.wanted.notify_one());
        work(Role::Caller);
        let panicked = end.wait();
        assert!(!panicked, "a thread of the host device panicked");
    }
}

/// Ends a call when it is dropped.
struct End<'a> {
    shared: &'a Shared,
    id: u64,
}

impl End<'_> {
    /// Lets no more helpers join, waits for the helpers to leave, and removes the call. Returns
    /// whether one of them has panicked.
    fn wait(self) -> bool {
        let panicked = self.remove();
        std::mem::forget(self);
        panicked
    }

    fn remove(&self) -> bool {
        let mut state = self.shared.lock();
        loop {
            // Other calls may have been removed meanwhile.
            let at = state.calls.iter().position(|call| call.id == self.id).expect("only this removes it");
            state.calls[at].wanted = 0;
            if state.calls[at].helping == 0 {
                return state.calls.remove(at).panicked;
            }
            state = self.shared.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.check_process().is_err() {
            // There are no threads to wait for.
            std::mem::take(&mut self.threads).into_iter().for_each(std::mem::forget);
            return;
        }
        self.shared.lock().closing = true;
        self.shared.wanted.notify_all();
        for thread in self.threads.drain(..) {
            // The thread does not panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn everybody_has_left_when_a_call_returns() {
        let team = Team::new(3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let (inside, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
                        team.run(3, &|_| {
                            inside.fetch_add(1, Ordering::Relaxed);
                            std::thread::yield_now();
                            left.fetch_add(1, Ordering::Relaxed);
                        });
                        let [inside, left] = [inside, left].map(AtomicUsize::into_inner);
                        assert_eq!(inside, left);
                        assert!((1..=4).contains(&inside), "{inside}");
                    }
                });
            }
        });
        assert!(team.shared.lock().calls.is_empty());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_ends_the_call() {
        let team = Team::new(1).unwrap();
        // The caller waits for the helper, so that the helper has joined.
        let joined = Mutex::new(false);
        let (wait, come) = (Condvar::new(), |role| role == Role::Helper);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            team.run(1, &|role| {
                let mut joined = joined.lock().unwrap();
                if come(role) {
                    *joined = true;
                    wait.notify_all();
                    drop(joined);
                    panic!("the helper's");
                }
                while !*joined {
                    joined = wait.wait(joined).unwrap();
                }
            });
        }));
        assert!(failed.is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| team.run(0, &|_| panic!("the caller's")))).is_err());
        assert!(team.shared.lock().calls.is_empty());
        let count = AtomicUsize::new(0);
        team.run(1, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert!(count.into_inner() >= 1, "the device goes on");
    }
}
