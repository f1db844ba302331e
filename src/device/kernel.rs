//! The table of all kernels, which build.rs writes from kernels/manifest.toml.

use super::{GpuModel, params};
use crate::error::{Error, Result};
use crate::spec::Pool;
use crate::text::nearest;
use crate::{DType, MemoryFormat};

/// A kernel, as kernels/manifest.toml describes it.
#[derive(Debug)]
pub(crate) struct KernelInfo {
    /// The name of the entry point, which is also the name that users see.
    pub name: &'static str,
    /// The family: the file in which the kernel is.
    pub family: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// The least number of blocks that fit a multiprocessor. From it nvcc derives the limit of
    /// registers.
    pub launch_bound: usize,
    /// Registers of a thread in nvcc's output: pairs of an architecture ("80") and their number.
    pub registers: &'static [(u32, u32)],
    /// Whether the threads of a block wait for one another.
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    pub collectives: bool,
    /// Whether the grid is at most as large as the device can run at once, and a block takes one
    /// tile after the other.
    pub persistent: bool,
    /// The size of the parameter struct in bytes.
    pub params_bytes: usize,
    pub dtype: Option<DType>,
    pub format: Option<MemoryFormat>,
    /// The other axes in the manifest.
    pub axes: Axes,
    #[cfg(feature = "host")]
    pub host: crate::device::host::Entries,
    /// The fatbin that contains the kernel, as an index of `FATBINS`.
    #[cfg(feature = "cuda")]
    pub image: usize,
}

/// Registers of a multiprocessor, and the unit in which a warp gets them.
const REGISTERS: usize = 65_536;
const REGISTER_UNIT: usize = 256;

impl KernelInfo {
    /// The number of blocks that fit a multiprocessor's registers. It follows from the registers in
    /// nvcc's output for the newest measured architecture that is not newer than the model's, or
    /// from the launch bound if none is measured.
    pub fn register_blocks(&self, model: &GpuModel) -> usize {
        let (major, minor) = model.compute_capability;
        let older = self.registers.iter().filter(|(architecture, _)| *architecture <= 10 * major + minor);
        let Some(&(_, registers)) = older.max_by_key(|(architecture, _)| *architecture) else { return self.launch_bound };
        let of_warp = (32 * registers as usize).next_multiple_of(REGISTER_UNIT);
        (REGISTERS / (of_warp * self.threads.div_ceil(32) as usize)).max(1)
    }

    /// How a kernel of an implicit GEMM reads its pixels.
    pub fn gather(&self) -> Gather {
        self.axes.gather.expect("the manifest has the gather of every implicit GEMM")
    }

    /// Why the kernel cannot be used for a dtype.
    pub fn check_dtype(&self, dtype: DType) -> Result<(), String> {
        if self.dtype == Some(dtype) { Ok(()) } else { Err(format!("it is for {}, not {dtype}", self.dtype.map_or("any", DType::name))) }
    }
}

/// The properties that distinguish a kernel from others of its family: its axes in the manifest.
#[derive(Debug)]
pub(crate) struct Axes {
    pub gather: Option<Gather>,
    pub access: Option<Access>,
    pub tile: Option<Tile>,
    pub math: Option<Math>,
    pub form: Option<Form>,
    pub parts: Option<Parts>,
    pub outputs: Option<Outputs>,
    pub pool: Option<Pool>,
    pub to: Option<Side>,
    /// The dtype that a conversion reads.
    pub from: Option<DType>,
    /// Channels of a thread.
    pub vector: Option<usize>,
    /// The height and width of the filters for which an unrolled kernel is made.
    pub size: Option<usize>,
    /// The stride for which an unrolled kernel is made.
    pub stride: Option<usize>,
    /// Columns of a band.
    pub width: Option<usize>,
    /// Output rows of a block of bands.
    pub rows: Option<usize>,
    /// The factor r of a rearrangement.
    pub factor: Option<usize>,
    /// Bits of the elements that a rearrangement moves.
    pub bits: Option<usize>,
}

impl Axes {
    pub const NONE: Self = Self {
        gather: None,
        access: None,
        tile: None,
        math: None,
        form: None,
        parts: None,
        outputs: None,
        pool: None,
        to: None,
        from: None,
        vector: None,
        size: None,
        stride: None,
        width: None,
        rows: None,
        factor: None,
        bits: None,
    };
}

/// How an implicit GEMM reads its pixels (kernels/device/gather.cuh).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gather {
    /// Reads 16 bytes of channels at once.
    Vectors,
    /// Reads 16 bytes of channels at once. The pixels are the rows of a matrix.
    Matrix,
    /// Reads a channels_last input channel by channel.
    Channels,
    /// Reads a contiguous input pixel by pixel.
    Pixels,
    /// Reads runs of pixels of a contiguous input. The pixels are the columns of a matrix.
    Planes,
    /// Reads a contiguous input once for all taps.
    Patches,
}

impl Gather {
    /// Whether pixels are read in vectors of channels.
    pub fn is_vectors(self) -> bool {
        matches!(self, Gather::Vectors | Gather::Matrix)
    }

    /// Whether the pixels of x must be the rows, or the columns, of one matrix: without gaps
    /// between rows, and, if pixels are rows, also without gaps between images.
    pub fn needs_matrix(self) -> bool {
        matches!(self, Gather::Matrix | Gather::Planes)
    }

    /// Whether elements pass through registers one by one.
    pub fn is_through_registers(self) -> bool {
        matches!(self, Gather::Channels | Gather::Pixels)
    }

    /// The format of the inputs that the gather reads.
    pub fn format(self) -> MemoryFormat {
        match self {
            Gather::Vectors | Gather::Matrix | Gather::Channels => MemoryFormat::ChannelsLast,
            Gather::Pixels | Gather::Planes | Gather::Patches => MemoryFormat::Contiguous,
        }
    }
}

/// Whether a kernel moves 16 bytes at once or single elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Wide,
    Narrow,
}

/// The type to which f32 operands are rounded before they are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Math {
    Tf32,
}

/// The form of a computation, where a family has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// All phases of a transposed convolution are columns of one GEMM.
    Columns,
    /// The threads of a block share the pixels of a pooling's window.
    Blocks,
}

/// Whether k is split over blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    Split,
}

/// The side of a rearrangement that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Wide,
    Deep,
}

/// The output channels of a warp of conv_grouped.cu: `tiles` times 8, and whether each 8 are a
/// group of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outputs {
    pub tiles: usize,
    pub own: bool,
}

/// The pixels and output channels of a block and of its warps, in an implicit GEMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    pub m: usize,
    pub n: usize,
    pub warp_m: usize,
    pub warp_n: usize,
    /// The number of sets of warps that share the steps of a block.
    pub slices: usize,
}

/// A kernel loaded on a device.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub info: &'static KernelInfo,
    #[cfg(feature = "cuda")]
    pub cuda: Option<crate::device::cuda::Function>,
}

mod table {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}
pub(crate) use table::*;

/// The kernels of a family.
pub(crate) fn family(family: &str) -> impl Iterator<Item = &'static KernelInfo> {
    KERNELS.iter().filter(move |kernel| kernel.family == family)
}

/// # Errors
/// [`Error::NoKernel`] if no kernel has this name. The message suggests the nearest name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if KERNELS.iter().any(|kernel| kernel.name == name) {
        return Ok(());
    }
    let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
    let nearest = nearest(name, &names).map_or_else(String::new, |nearest| format!(" (did you mean {nearest}?)"));
    Err(Error::NoKernel { op: "any layer", reasons: format!("{name} is not the name of a kernel{nearest}") })
}

/// The kernel of this name, which the manifest must contain: a test asks for each name that the
/// crate uses.
pub(crate) fn find(name: &str) -> &'static KernelInfo {
    KERNELS.iter().find(|kernel| kernel.name == name).expect("the manifest names every kernel that the crate asks for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_blocks_fit_the_measured_registers_as_the_launch_bound_asks_for() {
        let measured = KERNELS.iter().filter(|kernel| !kernel.registers.is_empty());
        assert!(measured.clone().count() > KERNELS.len() / 2, "the baseline of scripts/sass-report has most kernels");
        for (kernel, model) in measured.flat_map(|kernel| GpuModel::ALL.iter().map(move |model| (kernel, model))) {
            let blocks = kernel.register_blocks(model);
            assert!(blocks >= kernel.launch_bound, "{} on a {model}: {blocks} blocks", kernel.name);
        }
    }

    #[test]
    fn the_newest_architecture_that_is_not_newer_than_the_gpu_says_how_many_blocks_fit() {
        let kernel = &KERNELS[0];
        let with = |registers| KernelInfo { registers, launch_bound: 3, threads: 128, axes: Axes::NONE, ..*kernel };
        let blocks = |registers, name| with(registers).register_blocks(GpuModel::named(name).unwrap());
        // 40 registers are 1280 for a warp, rounded up to a multiple of 256, and 5120 for a block.
        assert_eq!(blocks(&[(80, 40), (90, 128)], "A100"), 12);
        assert_eq!(blocks(&[(80, 40), (90, 128)], "L40S"), 12);
        assert_eq!(blocks(&[(80, 40), (90, 128)], "H200"), 4);
        assert_eq!(blocks(&[(90, 128)], "A100"), 3, "the launch bound");
    }
}
