//! The figures of GPUs from which the cost model estimates times, known before anything is
//! measured.

use std::fmt;

/// The figures of a GPU for the cost model: its rates, at its boost clock.
///
/// The rates are those of the whole GPU. A part with more or fewer multiprocessors is assumed to be
/// faster or slower in proportion. The rates are data sheet figures if NVIDIA publishes them (in
/// the white papers of the architectures, the data sheets of the parts, and the table of arithmetic
/// throughput in the CUDA C++ Programming Guide), and judgement otherwise: see [`GpuModel::ALL`].
#[derive(Debug)]
#[non_exhaustive]
pub struct GpuModel {
    /// The part of the driver's name for the GPU that identifies it, such as "H200".
    pub name: &'static str,
    /// Compute capability (major, minor).
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Assumed clock of a multiprocessor, in Hz.
    pub clock: f64,
    /// Bandwidth of device memory, in bytes a second.
    pub dram_bytes_per_second: f64,
    /// Bandwidth of reads that hit L2, in bytes a second.
    pub l2_bytes_per_second: f64,
    /// Shared memory of a multiprocessor, which its blocks divide among them, in bytes.
    pub shared_bytes_per_multiprocessor: usize,
    /// The rate of a multiprocessor's shared memory and L1 together, in bytes a cycle.
    pub shared_bytes_per_cycle: f64,
    /// The rate of `mma.sync` on one multiprocessor, in products of 16-bit numbers (with f32 sums)
    /// a cycle.
    pub tensor_macs_per_cycle: f64,
    /// The rate of strict f32 products on one multiprocessor, in products a cycle.
    pub ffma_per_cycle: f64,
}

const KIB: usize = 1024;

impl GpuModel {
    /// The GPUs that the cost model knows. The host device imitates the first.
    ///
    /// The rates of L2 and of `mma.sync` are judgement from published microbenchmarks (Luo et al.,
    /// arXiv 2402.13499 and 2501.12084; Lam, "Nvidia's H100: Funny L2, and Tons of Bandwidth",
    /// 2023). `mma.sync` reaches about two thirds of the tensor cores' peak on an A100 and on a
    /// Hopper GPU, where only `wgmma` reaches the rest, and four fifths of the lower peaks of 8.6,
    /// 8.9 and 12.0. No figures of `mma.sync` or L2 are published for the B200: those of an H100's
    /// multiprocessors are used.
    pub const ALL: &'static [GpuModel] = &[
        GpuModel {
            name: "A100",
            compute_capability: (8, 0),
            multiprocessors: 108,
            clock: 1.4e9,
            dram_bytes_per_second: 1.512e12,
            l2_bytes_per_second: 4.968e12,
            shared_bytes_per_multiprocessor: 164 * KIB,
            shared_bytes_per_cycle: 128.0,
            tensor_macs_per_cycle: 700.0,
            ffma_per_cycle: 64.0,
        },
        GpuModel {
            name: "A10",
            compute_capability: (8, 6),
            multiprocessors: 72,
            clock: 1.695e9,
            dram_bytes_per_second: 0.6e12,
            l2_bytes_per_second: 2.2e12,
            shared_bytes_per_multiprocessor: 100 * KIB,
            shared_bytes_per_cycle: 128.0,
            tensor_macs_per_cycle: 410.0,
            ffma_per_cycle: 128.0,
        },
        GpuModel {
            name: "L40S",
            compute_capability: (8, 9),
            multiprocessors: 142,
            clock: 2.52e9,
            dram_bytes_per_second: 0.864e12,
            l2_bytes_per_second: 5.0e12,
            shared_bytes_per_multiprocessor: 100 * KIB,
            shared_bytes_per_cycle: 128.0,
            tensor_macs_per_cycle: 410.0,
            ffma_per_cycle: 128.0,
        },
        GpuModel {
            name: "H100",
            compute_capability: (9, 0),
            multiprocessors: 132,
            clock: 1.83e9,
            dram_bytes_per_second: 3.35e12,
            l2_bytes_per_second: 5.6e12,
            shared_bytes_per_multiprocessor: 228 * KIB,
            shared_bytes_per_cycle: 128.0,
            tensor_macs_per_cycle: 1270.0,
            ffma_per_cycle: 128.0,
        },
        GpuModel {
            name: "H200",
            compute_capability: (9, 0),
            multiprocessors: 132,
            clock: 1.83e9,
            dram_bytes_per_second: 4.8e12,
            l2_bytes_per_second: 5.6e12,
            shared_bytes_per_multiprocessor: 228 * KIB,
            shared_bytes_per_cycle: 128.0,
            tensor_macs_per_cycle: 1270.0,
            ffma_per_cycle: 128.0,
        },
        GpuModel {
            name: "B200",
            compute_capability: (10, 0),
            multiprocessors: 148,
            clock: 1.85e9,
            dram_bytes_per_second: 8.0e12,
            l2_bytes_per_second: 6.3e12,
            shared_bytes_per_multiprocessor: 228 * KIB,
            shared_bytes_per_cycle: 128.0,
            tensor_macs_per_cycle: 1270.0,
            ffma_per_cycle: 128.0,
        },
        GpuModel {
            name: "RTX PRO 6000",
            compute_capability: (12, 0),
            multiprocessors: 188,
            clock: 2.6e9,
            dram_bytes_per_second: 1.792e12,
            l2_bytes_per_second: 6.6e12,
            shared_bytes_per_multiprocessor: 100 * KIB,
            shared_bytes_per_cycle: 128.0,
            tensor_macs_per_cycle: 410.0,
            ffma_per_cycle: 128.0,
        },
    ];

    /// The model that the host device imitates unless told otherwise.
    pub(crate) fn nominal() -> &'static Self {
        &Self::ALL[0]
    }

    /// The model of a GPU: the one of the same compute capability whose name is part of the GPU's
    /// name; otherwise the first of that capability; otherwise the first of the nearest capability.
    ///
    /// ```
    /// # use warpconv::GpuModel;
    /// assert_eq!(GpuModel::of("NVIDIA H200", (9, 0)).name, "H200");
    /// assert_eq!(GpuModel::of("NVIDIA GeForce RTX 4090", (8, 9)).name, "L40S");
    /// assert_eq!(GpuModel::of("a GPU of the future", (13, 0)).name, "RTX PRO 6000");
    /// ```
    pub fn of(name: &str, compute_capability: (u32, u32)) -> &'static Self {
        let number = |(major, minor): (u32, u32)| u64::from(major) * 10 + u64::from(minor);
        let distance = |model: &&Self| (number(model.compute_capability).abs_diff(number(compute_capability)), !name.contains(model.name));
        Self::ALL.iter().min_by_key(distance).unwrap_or(Self::nominal())
    }

    /// The number of blocks that fit a multiprocessor's shared memory, at least one. The system
    /// reserves one kilobyte for each block.
    pub(crate) fn shared_memory_blocks(&self, shared_bytes_per_block: usize) -> usize {
        (self.shared_bytes_per_multiprocessor / (shared_bytes_per_block + KIB)).max(1)
    }

    /// The most shared memory that one block may have, in bytes: all but the kilobyte that the
    /// system reserves.
    #[cfg(feature = "host")]
    pub(crate) fn shared_bytes_per_block(&self) -> u32 {
        (self.shared_bytes_per_multiprocessor - KIB) as u32
    }

    /// The model of this name, in upper or lower case.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|model| model.name.eq_ignore_ascii_case(name))
    }
}

/// Models are equal if their names are: each has a name of its own.
impl PartialEq for GpuModel {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for GpuModel {}

impl fmt::Display for GpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
