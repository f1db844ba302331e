//! The counters of a checked launch.

/// What one launch on a checked host device has moved, and how often its threads have waited for
/// one another.
///
/// Bytes are those that the threads asked for, not those that a cache or DRAM moves. Bank conflicts
/// follow a model of 32 banks of 4 bytes. A request is the k-th execution of one instruction by the
/// lanes of a warp since they last met (at a barrier or a warp collective). 16-byte accesses are
/// served by quarter-warps, 8-byte ones by half-warps, smaller ones by the whole warp at once. Each
/// such part takes as many wavefronts as the largest number of distinct 4-byte words that it
/// accesses in one bank. `ldmatrix` counts as a 16-byte read of each lane's row, `cp.async` as a
/// write of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LaunchCounters {
    /// The kernel.
    pub kernel: &'static str,
    /// Blocks of the grid.
    pub blocks: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Traffic of each tensor of the launch.
    pub operands: Vec<OperandCounters>,
    /// Barriers passed, added up over the blocks.
    pub barriers: u64,
    /// Warp collectives done (tensor-core tiles, ldmatrix, shuffles, votes, `sync_warp`), added up
    /// over the warps.
    pub collectives: u64,
    /// Bytes that threads read from shared memory.
    pub shared_bytes_read: u64,
    /// Bytes that threads wrote to shared memory, async copies included.
    pub shared_bytes_written: u64,
    /// Wavefronts: passes that the banks of shared memory need for all requests.
    pub shared_wavefronts: u64,
    /// The wavefronts that would not be needed without bank conflicts.
    pub bank_conflicts: u64,
}

/// The traffic of one tensor of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OperandCounters {
    /// The tensor's name: "x", "weight", "y", ...
    pub name: &'static str,
    /// Bytes of the tensor's elements.
    pub bytes: u64,
    /// Bytes that threads read.
    pub bytes_read: u64,
    /// Bytes that threads wrote.
    pub bytes_written: u64,
    /// Bytes of the elements that were accessed at least once.
    pub unique_bytes: u64,
    /// Sectors of 32 bytes that blocks read or wrote, each counted once for each block. L2 moves
    /// this many if a block's repeated accesses are served by its L1.
    pub block_sectors: u64,
}

impl LaunchCounters {
    /// Bytes that threads read from global memory.
    pub fn global_bytes_read(&self) -> u64 {
        self.operands.iter().map(|o| o.bytes_read).sum()
    }

    /// Bytes that threads wrote to global memory.
    pub fn global_bytes_written(&self) -> u64 {
        self.operands.iter().map(|o| o.bytes_written).sum()
    }

    /// Bytes of global memory that were accessed at least once: the least that the launch must
    /// move.
    pub fn unique_bytes(&self) -> u64 {
        self.operands.iter().map(|o| o.unique_bytes).sum()
    }

    /// The traffic of one tensor.
    pub fn operand(&self, name: &str) -> Option<&OperandCounters> {
        self.operands.iter().find(|o| o.name == name)
    }
}
