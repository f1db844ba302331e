//! Mbarriers: how often threads have arrived at one, and which phase each of them waits for.

/// What becomes of a thread that waits for a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The phase has ended.
    Over,
    /// The phase goes on.
    Blocked,
    /// The phase has ended, and so has the next one. On a GPU, which knows of a phase only whether
    /// its number is odd, the thread would wait for one more.
    Missed,
}

/// An mbarrier of a block.
#[derive(Debug)]
pub(super) struct Mbarrier {
    pub address: usize,
    /// The arrivals that end a phase.
    pub count: u32,
    /// The arrivals that are still to come in this phase.
    pub missing: u32,
    /// The number of phases that have ended.
    pub ended: i64,
    /// For each thread, the phase that it waited for last. A thread waits for one phase after the
    /// other, from 0 on, or from -1 on if its first wait has parity 1.
    targets: Vec<Option<i64>>,
}

/// The mbarriers of a block, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Mbarriers {
    list: Vec<Mbarrier>,
}

impl Mbarriers {
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// Makes an mbarrier, unless there is one at this address.
    pub fn make(&mut self, address: usize, count: u32, threads: usize) -> bool {
        if self.find(address).is_some() {
            return false;
        }
        self.list.push(Mbarrier { address, count, missing: count, ended: 0, targets: vec![None; threads] });
        true
    }

    pub fn find(&self, address: usize) -> Option<usize> {
        self.list.iter().position(|barrier| barrier.address == address)
    }

    pub fn get(&self, barrier: usize) -> &Mbarrier {
        &self.list[barrier]
    }

    /// Counts arrivals, at most as many as are missing. Returns whether that ends the phase.
    pub fn arrive(&mut self, barrier: usize, count: u32) -> bool {
        let barrier = &mut self.list[barrier];
        barrier.missing -= count;
        if barrier.missing > 0 {
            return false;
        }
        barrier.missing = barrier.count;
        barrier.ended += 1;
        true
    }

    /// Looks whether the phase that a thread waits for has ended.
    pub fn wait(&mut self, barrier: usize, thread: usize, parity: u32) -> Wait {
        let Mbarrier { targets, ended, .. } = &mut self.list[barrier];
        let target = match targets[thread] {
            None => -i64::from(parity),
            Some(last) if last & 1 == i64::from(parity) => last,
            Some(last) => last + 1,
        };
        targets[thread] = Some(target);
        match *ended - target {
            ..=0 => Wait::Blocked,
            1 => Wait::Over,
            2.. => Wait::Missed,
        }
    }

    /// The phase that a thread waits for.
    pub fn target(&self, barrier: usize, thread: usize) -> i64 {
        self.list[barrier].targets[thread].unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_end_when_the_last_arrival_comes() {
        let mut barriers = Mbarriers::default();
        assert!(barriers.make(64, 3, 2));
        assert!(!barriers.make(64, 3, 2), "there is one");
        let barrier = barriers.find(64).unwrap();
        assert_eq!(barriers.wait(barrier, 0, 1), Wait::Over, "the phase before the first has ended");
        assert_eq!(barriers.wait(barrier, 1, 0), Wait::Blocked);
        assert!(!barriers.arrive(barrier, 2));
        assert_eq!((barriers.wait(barrier, 1, 0), barriers.get(barrier).missing), (Wait::Blocked, 1));
        assert!(barriers.arrive(barrier, 1));
        assert_eq!(barriers.wait(barrier, 1, 0), Wait::Over);
        assert_eq!(barriers.wait(barrier, 1, 0), Wait::Over, "again");
        assert_eq!(barriers.wait(barrier, 0, 0), Wait::Over);
        assert_eq!(barriers.wait(barrier, 0, 1), Wait::Blocked);
        assert!(barriers.arrive(barrier, 3) && barriers.arrive(barrier, 3));
        assert_eq!(barriers.wait(barrier, 0, 1), Wait::Missed, "phase 2 has ended, too");
        assert_eq!(barriers.target(barrier, 0), 1);
    }
}
