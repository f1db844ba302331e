//! wgmma: matrices in shared memory, as descriptors tell of them, and the operations of a
//! warpgroup that are under way. Names of sections are those of the PTX ISA, "Asynchronous
//! Warpgroup Level Matrix Instructions".

use super::calls::Region;
use std::collections::VecDeque;

/// The threads of a warpgroup.
pub(super) const THREADS: usize = 128;
/// The rows of A that an operation reads.
const ROWS: usize = 64;
/// The bytes of each row that an operation reads, and of the chunks that a swizzle exchanges.
const ROW_BYTES: usize = 32;
const CHUNK_BYTES: usize = 16;
/// The rows that a pattern of a swizzle has.
const PATTERN_ROWS: u32 = 8;
/// The largest number of columns, that is, of rows of B.
const MOST_COLUMNS: usize = 256;
/// Addresses of shared memory are of so many bits in a descriptor.
const ADDRESS_MASK: u64 = 0x3_ffff;

/// The work of an operation, `WcWgmma::act` of kernels/host/async_calls.h.
pub(super) type Multiply = unsafe extern "C" fn(*const *mut f32, *const u8, *const u8, u32);

/// The Rust form of `WcWgmma`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub act: Multiply,
    pub sums: *mut f32,
    pub a: u64,
    pub b: u64,
    pub columns: u32,
    pub accumulate: u32,
}

impl Request {
    /// Whether two lanes request the same operation: all but their sums.
    fn is_like(&self, other: &Request) -> bool {
        let key = |r: &Request| (r.a, r.b, r.columns, r.accumulate);
        std::ptr::fn_addr_eq(self.act, other.act) && key(self) == key(other)
    }
}

/// An operand: rows of `swizzle` bytes of k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matrix {
    start: u32,
    /// Bytes from one pattern of eight rows to the next.
    groups: u32,
    swizzle: u32,
}

impl Matrix {
    /// Reads a descriptor bit by bit ("Matrix Descriptor Format").
    pub fn decode(descriptor: u64) -> Result<Self, String> {
        let bits = |first: u32, count: u32| (descriptor >> first & ((1 << count) - 1)) as u32;
        for (first, count) in [(14, 2), (30, 2), (46, 3), (52, 10)] {
            if bits(first, count) != 0 {
                return Err(format!("bits {first} to {} are reserved, and not 0", first + count - 1));
            }
        }
        let (start, leading, groups, base) = (bits(0, 14) * 16, bits(16, 14), bits(32, 14) * 16, bits(49, 3));
        let swizzle = match bits(62, 2) {
            1 => 128,
            2 => 64,
            0 => return Err("it has no swizzle, which the host device does not know".into()),
            _ => return Err("it has the swizzle of 32 bytes, which the host device does not know".into()),
        };
        let pattern = swizzle * PATTERN_ROWS;
        if leading != 1 {
            return Err(format!("the leading dimension's offset is {leading}, and 1 for swizzled rows of k"));
        }
        if base != 0 {
            return Err(format!("the base offset is {base}, and 0 for patterns that begin at multiples of their {pattern} bytes"));
        }
        if start % pattern + ROW_BYTES as u32 > swizzle {
            return Err(format!(
                "it begins at byte {} of a pattern of {pattern} bytes, not in its first row of {swizzle}",
                start % pattern
            ));
        }
        if groups == 0 || groups % pattern != 0 {
            return Err(format!("patterns of {pattern} bytes are {groups} bytes apart, no multiple of that"));
        }
        Ok(Self { start, groups, swizzle })
    }

    /// The byte of shared memory at which a chunk of a row begins ("Swizzling Modes"): of the
    /// address's bits, those that number the chunks of a row are exchanged by those that number the
    /// rows, from bit 7 on. `base` is the address of shared memory.
    pub fn chunk(&self, base: usize, row: usize, chunk: usize) -> usize {
        let (row, low) = (row as u32, (base as u64 & ADDRESS_MASK) as u32);
        let start = if self.start < low { self.start + ADDRESS_MASK as u32 + 1 } else { self.start };
        let at = start + row / PATTERN_ROWS * self.groups + row % PATTERN_ROWS * self.swizzle + (chunk * CHUNK_BYTES) as u32;
        let places = self.swizzle / CHUNK_BYTES as u32 - 1;
        ((at ^ (at >> 7 & places) << 4) - low) as usize
    }

    /// Every chunk of the first `rows` rows: the byte at which it begins.
    pub fn chunks(&self, base: usize, rows: usize) -> impl Iterator<Item = usize> {
        (0..rows).flat_map(move |row| (0..ROW_BYTES / CHUNK_BYTES).map(move |chunk| self.chunk(base, row, chunk)))
    }
}

/// An operation that is under way for at least one warp.
#[derive(Debug)]
pub(super) struct Operation {
    act: Multiply,
    sums: [*mut f32; THREADS],
    a: Matrix,
    b: Matrix,
    columns: usize,
    accumulate: bool,
    /// The group of operations to which it belongs.
    group: u32,
    /// Whether the sums are written.
    done: bool,
    /// The warps that have waited for it.
    waited: [bool; 4],
}

impl Operation {
    /// The operands and their rows.
    pub fn operands(&self) -> [(Matrix, usize); 2] {
        [(self.a, ROWS), (self.b, self.columns)]
    }

    /// Where the sums of a thread of the warpgroup lie.
    #[cfg(feature = "checked-host")]
    pub fn sums_of(&self, thread: usize) -> Region {
        Region { start: self.sums[thread] as usize, bytes: 2 * self.columns }
    }

    /// Whether a thread of the warpgroup may not touch this address of its stack yet.
    #[cfg(feature = "checked-host")]
    pub fn holds(&self, thread: usize, address: usize, bytes: usize) -> bool {
        let sums = self.sums_of(thread);
        !self.waited[thread / 32] && address < sums.start + sums.bytes && sums.start < address + bytes
    }

    /// Reads the operands and writes the sums.
    ///
    /// # Safety
    /// The operands lie in `shared`, and the sums on the stacks of lanes that have not ended.
    unsafe fn run(&mut self, shared: Region) {
        let mut operands = [[0u8; MOST_COLUMNS * ROW_BYTES]; 2];
        for ((matrix, rows), rows_of_k) in self.operands().into_iter().zip(&mut operands) {
            for (to, from) in rows_of_k.chunks_exact_mut(CHUNK_BYTES).zip(matrix.chunks(shared.start, rows)) {
                // SAFETY: `arrive` has checked that the chunk lies in shared memory
                let chunk = unsafe { std::slice::from_raw_parts((shared.start + from) as *const u8, CHUNK_BYTES) };
                to.copy_from_slice(chunk);
            }
        }
        // SAFETY: the kernel's own function for these columns; the sums are as the caller promises
        unsafe { (self.act)(self.sums.as_ptr(), operands[0].as_ptr(), operands[1].as_ptr(), self.accumulate.into()) };
        self.done = true;
    }
}

/// What the threads of a warpgroup do together.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Multiply(Request),
    Commit,
}

/// What becomes of a thread that takes part in a step.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Others are missing.
    Waits,
    /// It was the last, and the step is done.
    Complete,
    /// The thread is at another step than those before it.
    Mixed,
    /// The thread multiplies other matrices than those before it.
    Different,
    /// A matrix is not as it must be.
    Malformed(String),
}

/// A warpgroup: the threads that have arrived at a step, and the operations under way.
#[derive(Debug, Default)]
pub(super) struct Warpgroup {
    pub arrived: usize,
    step: Option<Step>,
    /// The place from which the first thread called the step.
    pub place: usize,
    sums: Vec<*mut f32>,
    pub operations: VecDeque<Operation>,
    /// The number of operations that all warps have waited for.
    pub retired: u32,
    committed: u32,
}

impl Warpgroup {
    pub fn clear(&mut self) {
        self.arrived = 0;
        self.operations.clear();
        self.retired = 0;
        self.committed = 0;
    }

    /// Records that a thread takes part in a step.
    pub fn arrive(&mut self, thread: usize, step: Step, place: usize, shared: Region) -> Arrival {
        if self.arrived == 0 {
            (self.step, self.place) = (Some(step), place);
            self.sums.clear();
            self.sums.resize(THREADS, std::ptr::null_mut());
        }
        match (self.step, step) {
            (Some(Step::Multiply(first)), Step::Multiply(this)) if first.is_like(&this) => self.sums[thread] = this.sums,
            (Some(Step::Multiply(_)), Step::Multiply(_)) => return Arrival::Different,
            (Some(Step::Commit), Step::Commit) => {}
            _ => return Arrival::Mixed,
        }
        self.arrived += 1;
        if self.arrived < THREADS {
            return Arrival::Waits;
        }
        self.arrived = 0;
        match step {
            Step::Commit => self.committed += 1,
            Step::Multiply(request) => match self.begin(&request, shared) {
                Ok(operation) => self.operations.push_back(operation),
                Err(what) => return Arrival::Malformed(what),
            },
        }
        Arrival::Complete
    }

    fn begin(&self, request: &Request, shared: Region) -> Result<Operation, String> {
        let matrix = |name: &str, descriptor: u64, rows: usize| {
            let wrong = |what: String| format!("the descriptor of {name} is {descriptor:#018x}: {what}");
            let matrix = Matrix::decode(descriptor).map_err(wrong)?;
            match matrix.chunks(shared.start, rows).find(|chunk| chunk + CHUNK_BYTES > shared.bytes) {
                Some(chunk) => Err(wrong(format!("byte {chunk} is not one of the {} of shared memory", shared.bytes))),
                None => Ok(matrix),
            }
        };
        let columns = request.columns as usize;
        assert!(columns <= MOST_COLUMNS, "kernels/device/wgmma.cuh has no wider one");
        Ok(Operation {
            act: request.act,
            sums: std::array::from_fn(|thread| self.sums[thread]),
            a: matrix("A", request.a, ROWS)?,
            b: matrix("B", request.b, columns)?,
            columns,
            accumulate: request.accumulate != 0,
            group: self.committed,
            done: false,
            waited: [false; 4],
        })
    }

    /// Does the earliest operation that is not done. Returns false if there is none.
    ///
    /// # Safety
    /// As [`Operation::run`], for all operations.
    pub unsafe fn advance(&mut self, shared: Region) -> bool {
        match self.operations.iter_mut().find(|operation| !operation.done) {
            // SAFETY: passed on to the caller
            Some(operation) => unsafe { operation.run(shared) },
            None => return false,
        }
        true
    }

    /// Completes, for one warp, all groups but the latest `pending`. `each` is told the number of
    /// each operation for which the warp had not waited before.
    ///
    /// # Safety
    /// As [`Warpgroup::advance`].
    pub unsafe fn wait(&mut self, warp: usize, pending: u32, shared: Region, mut each: impl FnMut(u32)) {
        let covered = self.operations.iter().take_while(|operation| operation.group + pending < self.committed).count();
        for (number, operation) in self.operations.iter_mut().take(covered).enumerate() {
            if !operation.done {
                // SAFETY: passed on to the caller
                unsafe { operation.run(shared) };
            }
            if !std::mem::replace(&mut operation.waited[warp], true) {
                each(self.retired + number as u32);
            }
        }
        while self.operations.front().is_some_and(|operation| operation.waited == [true; 4]) {
            self.operations.pop_front();
            self.retired += 1;
        }
    }

    /// Whether a warp has not waited for an operation.
    pub fn is_busy(&self, warp: usize) -> bool {
        self.operations.iter().any(|operation| !operation.waited[warp])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A descriptor by its fields: the address, the leading offset and the distance of patterns in
    /// units of 16 bytes, the base offset and the mode.
    fn descriptor(start: u64, leading: u64, groups: u64, base: u64, mode: u64) -> u64 {
        start | leading << 16 | groups << 32 | base << 49 | mode << 62
    }

    /// The places of the chunks of eight rows, written out: the pattern of 128 bytes is the table
    /// of the manual's figure "128B swizzle mode", that of 64 bytes of "64B swizzle mode", where two
    /// rows share a line of 128 bytes.
    #[test]
    fn swizzles_are_those_of_the_manual() {
        let of_128: [[usize; 8]; 8] = [
            [0, 1, 2, 3, 4, 5, 6, 7],
            [1, 0, 3, 2, 5, 4, 7, 6],
            [2, 3, 0, 1, 6, 7, 4, 5],
            [3, 2, 1, 0, 7, 6, 5, 4],
            [4, 5, 6, 7, 0, 1, 2, 3],
            [5, 4, 7, 6, 1, 0, 3, 2],
            [6, 7, 4, 5, 2, 3, 0, 1],
            [7, 6, 5, 4, 3, 2, 1, 0],
        ];
        let of_64: [[usize; 4]; 8] =
            [[0, 1, 2, 3], [0, 1, 2, 3], [1, 0, 3, 2], [1, 0, 3, 2], [2, 3, 0, 1], [2, 3, 0, 1], [3, 2, 1, 0], [3, 2, 1, 0]];
        // shared memory begins at an address whose low bits come round to 0 within it
        for base in [0x7000_0000_0000, 0x7000_0003_fc80] {
            let first = base + (1024 - base % 1024) % 1024;
            for row in 0..24 {
                let (pattern, r) = (row / 8, row % 8);
                for k in [0, 2] {
                    for chunk in 0..2 {
                        let start = ((first as u64 & ADDRESS_MASK) >> 4) + k as u64;
                        let wide = Matrix::decode(descriptor(start, 1, 128, 0, 1)).unwrap();
                        let place = first - base + pattern * 2048 + r * 128 + of_128[r][k + chunk] * 16;
                        assert_eq!(wide.chunk(base, row, chunk), place, "128: row {row}, chunk {}", k + chunk);
                        let narrow = Matrix::decode(descriptor(start + 32, 1, 64, 0, 2)).unwrap();
                        let place = first - base + 512 + pattern * 1024 + r * 64 + of_64[r][k + chunk] * 16;
                        assert_eq!(narrow.chunk(base, row, chunk), place, "64: row {row}, chunk {}", k + chunk);
                    }
                }
            }
        }
    }

    #[test]
    fn malformed_descriptors_are_refused() {
        let right = descriptor(64, 1, 64, 0, 1);
        assert!(Matrix::decode(right).is_ok());
        for (wrong, why) in [
            (right | 1 << 15, "bits 14 to 15 are reserved"),
            (right | 1 << 47, "bits 46 to 48 are reserved"),
            (right | 1 << 60, "bits 52 to 61 are reserved"),
            (descriptor(64, 64, 64, 0, 1), "the leading dimension's offset is 64"),
            (descriptor(64, 1, 64, 2, 1), "the base offset is 2"),
            (descriptor(72, 1, 64, 0, 1), "it begins at byte 128 of a pattern of 1024 bytes"),
            (descriptor(71, 1, 64, 0, 1), "it begins at byte 112 of a pattern of 1024 bytes"),
            (descriptor(64, 1, 32, 0, 1), "patterns of 1024 bytes are 512 bytes apart"),
            (descriptor(64, 1, 0, 0, 2), "patterns of 512 bytes are 0 bytes apart"),
            (descriptor(64, 1, 64, 0, 0), "it has no swizzle"),
            (descriptor(64, 1, 64, 0, 3), "it has the swizzle of 32 bytes"),
        ] {
            let what = Matrix::decode(wrong).unwrap_err();
            assert!(what.starts_with(why), "{what}");
        }
    }
}
