//! The report of a layer's cost, and the largest cost that a run may have.

use super::ReceptiveField;
use crate::error::{Error, Result};
use crate::{DType, Device, DeviceKind, Shape};
use serde::Serialize;

/// Everything on which a layer's cost depends in addition to its spec and shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operands {
    /// The dtype of x, weight, residual and y.
    pub dtype: DType,
    /// Whether a residual is added.
    pub residual: bool,
    /// Whether a deformable layer's samples are multiplied by a mask.
    pub mask: bool,
}

impl Operands {
    /// Operands without residual and mask.
    pub fn new(dtype: DType) -> Self {
        Self { dtype, residual: false, mask: false }
    }

    /// The operands with or without a mask.
    pub fn mask(self, mask: bool) -> Self {
        Self { mask, ..self }
    }

    /// The operands with or without a residual.
    pub fn residual(self, residual: bool) -> Self {
        Self { residual, ..self }
    }
}

/// The number of learned values of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Parameters {
    /// Values in the filters.
    pub weight: u64,
    /// Values in the bias.
    pub bias: u64,
    /// Values in the slope of prelu.
    pub slope: u64,
    /// All values.
    pub total: u64,
}

/// The arithmetic of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Operations {
    /// Multiply-adds of the sums.
    pub macs: u64,
    /// Floating-point operations for sampling the input between its pixels.
    pub sampling_flops: u64,
    /// 2 * macs + sampling_flops.
    pub flops: u64,
    /// Additions of the bias.
    pub bias_additions: u64,
    /// Additions of the residual.
    pub residual_additions: u64,
    /// Evaluations of the activation.
    pub activations: u64,
}

/// Bytes that one run must move if each tensor is read or written once. Bias and slope are f32
/// whatever the dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bytes {
    /// Bytes of the input.
    pub x: u64,
    /// Bytes of the filters.
    pub weight: u64,
    /// Bytes of the bias.
    pub bias: u64,
    /// Bytes of the slope of prelu.
    pub slope: u64,
    /// Bytes of the residual.
    pub residual: u64,
    /// Bytes of offsets, mask and RoIs.
    pub coordinates: u64,
    /// Bytes of the output.
    pub y: u64,
    /// All bytes that are read.
    pub read: u64,
    /// All bytes that are written.
    pub written: u64,
}

/// The cost of one layer on one input.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LayerReport {
    /// The layer's op.
    pub op: &'static str,
    /// The dtype of the tensors.
    pub dtype: DType,
    /// Shape of the input.
    pub input: Shape,
    /// Shape of the output.
    pub output: Shape,
    /// The number of learned values.
    pub parameters: Parameters,
    /// The arithmetic.
    pub operations: Operations,
    /// The memory traffic.
    pub bytes: Bytes,
    /// FLOPs for each byte read or written. If this is below a device's ratio of FLOP/s to bytes/s,
    /// memory limits the layer's speed.
    pub arithmetic_intensity: f64,
    /// The pixels of the input on which one output pixel depends. `None` if output pixels differ in
    /// more than their place, as in a transposed convolution.
    pub receptive_field: Option<ReceptiveField>,
    /// The rows and columns on which an output pixel depends, or the most for any output pixel if
    /// they differ.
    pub receptive_size: [usize; 2],
    /// The largest distance, in rows and columns of the input, between the fields of neighbouring
    /// output pixels.
    #[serde(skip)]
    pub receptive_step: [usize; 2],
}

/// The shape of one of a layer's parameters, by name.
pub type ParameterShape = (&'static str, Vec<usize>);

/// The most that one run may compute and move. A run that needs more is refused before it starts,
/// instead of taking hours or running out of memory.
///
/// ```
/// use warpconv::analysis::{Limits, Operands, analyse};
/// use warpconv::{DType, Device, Error, LayerSpec};
/// let spec = LayerSpec::from_json(r#"{"op": "upsample_bilinear", "attrs": {"scale": [1000000, 1000]}}"#)?;
/// let report = analyse(&spec, &[], &[1, 3, 64, 64].into(), Operands::new(DType::F32))?;
/// assert!(matches!(Limits::of(&Device::best()?).check(&report), Err(Error::Work { .. })));
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that are read and written, each tensor counted once.
    pub bytes: u64,
}

impl Limits {
    /// The work of a device in about a minute: 2 * 10^11 FLOPs and 4 GiB on the host device, 10^15
    /// FLOPs and 1 TiB on a GPU.
    pub fn of(device: &Device) -> Self {
        match device.kind() {
            DeviceKind::Host => Self { flops: 200_000_000_000, bytes: 4 << 30 },
            DeviceKind::Cuda => Self { flops: 1_000_000_000_000_000, bytes: 1 << 40 },
        }
    }

    /// The work of the float64 oracle in about a minute.
    #[cfg(feature = "bench")]
    pub(crate) const ORACLE: Self = Self { flops: 20_000_000_000, bytes: 1 << 30 };

    /// Refuses a layer that needs more work.
    ///
    /// # Errors
    /// [`Error::Work`].
    pub fn check(&self, report: &LayerReport) -> Result<()> {
        let (flops, bytes) = (report.operations.flops, report.bytes.read.saturating_add(report.bytes.written));
        if flops <= self.flops && bytes <= self.bytes {
            return Ok(());
        }
        Err(Error::Work { op: report.op, flops, bytes, max_flops: self.flops, max_bytes: self.bytes })
    }
}
