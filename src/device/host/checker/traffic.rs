//! Counters of a block's traffic, and of the bank conflicts of its accesses to shared memory.

use super::BlockCheck;

/// The bytes that L2 moves at once.
pub(super) const SECTOR_BYTES: usize = 32;

/// Counters of one block, or of all blocks so far.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Bytes read and bytes written, for each operand.
    pub(super) global: Vec<(u64, u64)>,
    /// Sectors of 32 bytes, for each operand.
    pub(super) sectors: Vec<u64>,
    pub(super) barriers: u64,
    pub(super) collectives: u64,
    pub(super) shared_read: u64,
    pub(super) shared_written: u64,
    pub(super) wavefronts: u64,
    pub(super) conflicts: u64,
}

impl Traffic {
    pub(super) fn new(operands: usize) -> Self {
        Self { global: vec![(0, 0); operands], sectors: vec![0; operands], ..Self::default() }
    }

    pub(super) fn add(&mut self, other: &Traffic) {
        for (total, new) in self.global.iter_mut().zip(&other.global) {
            total.0 += new.0;
            total.1 += new.1;
        }
        for (total, new) in self.sectors.iter_mut().zip(&other.sectors) {
            *total += new;
        }
        self.barriers += other.barriers;
        self.collectives += other.collectives;
        self.shared_read += other.shared_read;
        self.shared_written += other.shared_written;
        self.wavefronts += other.wavefronts;
        self.conflicts += other.conflicts;
    }
}

/// An access to shared memory. It is kept until the warp meets and the accesses of its lanes are
/// matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Request {
    place: usize,
    offset: u32,
    bytes: u32,
}

/// The number of accesses of one lane between two meetings that are counted. Later ones are
/// checked, but not counted as requests.
const MAX_REQUESTS: usize = 1 << 14;

impl BlockCheck {
    #[inline(always)]
    pub(super) fn log(&mut self, lane: usize, place: usize, offset: usize, bytes: usize, whole: bool) {
        let requests = &mut self.requests[lane];
        if requests.len() >= MAX_REQUESTS {
            return;
        }
        if whole {
            requests.push(Request { place, offset: offset as u32, bytes: bytes as u32 });
        } else {
            // The compiler splits this access, so words are counted.
            requests.extend((offset..offset + bytes).step_by(4).map(|at| Request { place, offset: at as u32, bytes: 4 }));
        }
    }

    /// Counts the wavefronts of a warp's accesses since its last meeting.
    pub(super) fn match_requests(&mut self, warp: usize) {
        let lanes = warp * 32..self.requests.len().min(warp * 32 + 32);
        let requests = &mut self.requests[lanes];
        let longest = requests.iter().map(Vec::len).max().unwrap_or(0);
        if longest == 0 {
            return;
        }
        // Mostly, every lane that accesses shared memory at all executes the same instructions. The
        // accesses of a lane that does not are matched by their place.
        let guide = requests.iter().position(|r| r.len() == longest).expect("one of them is the longest");
        let same =
            |r: &Vec<Request>| r.is_empty() || (r.len() == longest && r.iter().zip(&requests[guide]).all(|(a, b)| a.place == b.place));
        if requests.iter().all(same) {
            for step in 0..longest {
                count_wavefronts(&mut self.traffic, requests.iter().enumerate().filter_map(|(l, r)| Some((l, *r.get(step)?))));
            }
        } else {
            let mut all: Vec<(usize, u32, usize, Request)> = Vec::new();
            let mut seen: Vec<(usize, u32)> = Vec::new();
            for (lane, list) in requests.iter().enumerate() {
                seen.clear();
                for request in list {
                    let known = seen.iter().position(|(place, _)| *place == request.place);
                    let index = known.unwrap_or_else(|| {
                        seen.push((request.place, 0));
                        seen.len() - 1
                    });
                    all.push((request.place, seen[index].1, lane, *request));
                    seen[index].1 += 1;
                }
            }
            all.sort_unstable();
            for one in all.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
                count_wavefronts(&mut self.traffic, one.iter().map(|&(_, _, lane, request)| (lane, request)));
            }
        }
        requests.iter_mut().for_each(Vec::clear);
    }
}

/// Adds the wavefronts of one request. `accesses` are the lanes that take part, with their access.
fn count_wavefronts(traffic: &mut Traffic, accesses: impl Iterator<Item = (usize, Request)>) {
    const BANKS: u32 = 32;
    // At most 32 words belong to one part of the warp, and so to one bank.
    let mut words = [[0u32; 32]; BANKS as usize];
    let mut used = [0u8; BANKS as usize];
    let mut part = None;
    let mut close = |used: &mut [u8; BANKS as usize]| {
        let most = u64::from(used.iter().copied().max().unwrap_or(0));
        traffic.wavefronts += most;
        traffic.conflicts += most.saturating_sub(1);
        used.fill(0);
    };
    for (lane, Request { offset, bytes, .. }) in accesses {
        let lanes_at_once = match bytes {
            16 => 8,
            8 => 16,
            _ => 32,
        };
        if part.replace(lane / lanes_at_once).is_some_and(|p| p != lane / lanes_at_once) {
            close(&mut used);
        }
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let bank = (word % BANKS) as usize;
            let count = usize::from(used[bank]);
            if count < 32 && !words[bank][..count].contains(&word) {
                words[bank][count] = word;
                used[bank] += 1;
            }
        }
    }
    close(&mut used);
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_banks() {
        let wavefronts = |accesses: &[(usize, u32, u32)]| {
            let mut traffic = Traffic::default();
            let request = |&(lane, offset, bytes)| (lane, Request { place: 0, offset, bytes });
            count_wavefronts(&mut traffic, accesses.iter().map(request));
            (traffic.wavefronts, traffic.conflicts)
        };
        assert_eq!(wavefronts(&[(0, 0, 4), (1, 0, 4), (2, 4, 4)]), (1, 0)); // a broadcast
        assert_eq!(wavefronts(&[(0, 0, 4), (1, 128, 4), (31, 256, 4)]), (3, 2));
        assert_eq!(wavefronts(&[(0, 0, 16), (8, 0, 16)]), (2, 0)); // two quarter-warps
        assert_eq!(wavefronts(&[(0, 0, 8), (15, 128, 8), (16, 0, 8)]), (3, 1));
    }
}
