//! The table of all kernels, which build.rs writes from kernels/manifest.toml.

use super::params;
use crate::{DType, MemoryFormat};

/// A kernel of the manifest.
#[derive(Debug)]
pub(crate) struct KernelInfo {
    /// Its entry point, and the name that users see.
    pub name: &'static str,
    /// The file that it is from.
    pub family: &'static str,
    /// Threads a block.
    pub threads: u32,
    /// Whether its threads meet.
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    pub collectives: bool,
    /// sizeof its parameter struct.
    pub params_bytes: usize,
    pub dtype: Option<DType>,
    pub format: Option<MemoryFormat>,
    /// The manifest's other axes.
    pub tags: &'static [(&'static str, &'static str)],
    #[cfg(feature = "host")]
    pub host: crate::device::host::Entries,
    /// The fatbin that it is in: an index of `FATBINS`.
    #[cfg(feature = "cuda")]
    pub image: usize,
}

impl KernelInfo {
    /// Why the kernel cannot take a dtype.
    pub fn check_dtype(&self, dtype: DType) -> Result<(), String> {
        if self.dtype == Some(dtype) { Ok(()) } else { Err(format!("it is for {}, not {dtype}", self.dtype.map_or("any", DType::name))) }
    }

    pub fn tag(&self, axis: &str) -> Option<&'static str> {
        self.tags.iter().find(|(name, _)| *name == axis).map(|(_, value)| *value)
    }
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

/// The one kernel of a family that has these properties. The manifest holds it: a test asks for each.
pub(crate) fn find(name: &str) -> &'static KernelInfo {
    KERNELS.iter().find(|kernel| kernel.name == name).expect("the manifest names every kernel that the crate asks for")
}
