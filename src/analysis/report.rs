//! What a report of a layer's cost says, and the most that a run may cost.

use super::ReceptiveField;
use crate::error::{Error, Result};
use crate::{DType, Device, DeviceKind, Shape};
use serde::Serialize;

/// What a layer's cost depends on besides its spec and shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operands {
    /// The dtype of x, weight, residual and y.
    pub dtype: DType,
    /// Whether a residual is added.
    pub residual: bool,
    /// Whether a deformable layer's samples are multiplied with a mask.
    pub mask: bool,
}

impl Operands {
    /// Neither residual nor mask.
    pub fn new(dtype: DType) -> Self {
        Self { dtype, residual: false, mask: false }
    }

    /// With or without a mask.
    pub fn mask(self, mask: bool) -> Self {
        Self { mask, ..self }
    }

    /// With or without a residual.
    pub fn residual(self, residual: bool) -> Self {
        Self { residual, ..self }
    }
}

/// Numbers that a layer has learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Parameters {
    /// In the filters.
    pub weight: u64,
    /// In the bias.
    pub bias: u64,
    /// In the slope of a prelu.
    pub slope: u64,
    /// All of them.
    pub total: u64,
}

/// Arithmetic of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Operations {
    /// Multiply-adds of the sums.
    pub macs: u64,
    /// Floating-point operations that sample the input between its pixels.
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

/// Bytes that one run has to move when each tensor is read or written once. Bias and slope are f32 whatever the dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bytes {
    /// Of the input.
    pub x: u64,
    /// Of the filters.
    pub weight: u64,
    /// Of the bias.
    pub bias: u64,
    /// Of the slope of a prelu.
    pub slope: u64,
    /// Of the residual.
    pub residual: u64,
    /// Of offsets, mask and RoIs.
    pub coordinates: u64,
    /// Of the output.
    pub y: u64,
    /// All that is read.
    pub read: u64,
    /// All that is written.
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
    /// Numbers learned.
    pub parameters: Parameters,
    /// Arithmetic.
    pub operations: Operations,
    /// Memory traffic.
    pub bytes: Bytes,
    /// FLOPs for each byte read or written. Below a device's ratio of FLOP/s to bytes/s, memory bounds the layer.
    pub arithmetic_intensity: f64,
    /// What one output pixel sees of the input; none where outputs differ in it other than by place, as those of a transposed
    /// convolution do.
    pub receptive_field: Option<ReceptiveField>,
    /// Its rows and columns, or the most that any output pixel sees where they differ.
    pub receptive_size: [usize; 2],
    /// Rows and columns of the input from what one output pixel sees to what its neighbour sees, at most.
    #[serde(skip)]
    pub receptive_step: [usize; 2],
}

/// The shape of one of a layer's parameters, by name.
pub type ParameterShape = (&'static str, Vec<usize>);

/// The most that one run may compute and move. What takes more is refused before it begins, instead of running for hours or out
/// of memory.
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
    /// Bytes that are read and written, each tensor once.
    pub bytes: u64,
}

impl Limits {
    /// What a device does in about a minute: 2 * 10^11 FLOPs and 4 GiB on the host device, 10^15 FLOPs and 1 TiB on a GPU.
    pub fn of(device: &Device) -> Self {
        match device.kind() {
            DeviceKind::Host => Self { flops: 200_000_000_000, bytes: 4 << 30 },
            DeviceKind::Cuda => Self { flops: 1_000_000_000_000_000, bytes: 1 << 40 },
        }
    }

    /// What the float64 oracle does in about a minute.
    #[cfg(feature = "bench")]
    pub(crate) const ORACLE: Self = Self { flops: 20_000_000_000, bytes: 1 << 30 };

    /// Refuses a layer that is more work.
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
