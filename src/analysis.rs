//! Calculators: what a layer costs, what an output pixel sees, and what a factorised form saves.
//!
//! Nothing here runs a layer; all of it follows from specs and shapes, in checked arithmetic. One multiply-add (MAC) is two
//! floating-point operations (FLOPs); bias, residual and activation are listed apart. Products with the zeros of the padding are
//! counted, as is usual.
//!
//! ```
//! use warpconv::analysis::{Operands, ReceptiveField, Saving, analyse};
//! use warpconv::{Conv2dSpec, DType, LayerSpec, Padding};
//! # fn main() -> warpconv::Result<()> {
//! let spec = Conv2dSpec { padding: Padding::Same, ..Default::default() };
//! let parameters = [("weight", vec![64, 64, 3, 3]), ("bias", vec![64])];
//! let report = analyse(&LayerSpec::Conv2d(spec), &parameters, &[1, 64, 56, 56].into(), Operands::new(DType::F16))?;
//! assert_eq!(report.output, [1, 64, 56, 56]);
//! assert_eq!(report.parameters.total, 64 * 64 * 9 + 64);
//! assert_eq!(report.operations.flops, 2 * 115_605_504);
//!
//! let field = ReceptiveField::input().then_conv2d(&spec, [3, 3])?.then_conv2d(&spec, [3, 3])?;
//! assert_eq!(field.size, [5, 5]);
//!
//! let saving = Saving::depthwise_separable(&spec, 64, [3, 3], [1, 64, 56, 56])?;
//! assert!((saving.macs_ratio - (1.0 / 64.0 + 1.0 / 9.0)).abs() < 1e-12);
//! # Ok(())
//! # }
//! ```

use crate::error::{Error, Result};
use crate::geometry::{
    BlockGeometry, ConvGeometry, DeformGeometry, Shape, UpsampleGeometry, divisible, elements, kernel_span, positive, rank4,
};
use crate::layers::{
    Activation, Conv2dSpec, ConvTranspose2dSpec, DeformConv2dBlockSpec, DeformConv2dSpec, LayerSpec, Padding, PlanRequest, Pool, Pooling,
};
use crate::{DType, Device, DeviceKind, Element};
use serde::Serialize;
use std::ops::Range;

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
}

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

/// The shape of one of a layer's parameters, by name.
pub type ParameterShape = (&'static str, Vec<usize>);

/// The cost of a layer with parameters of these shapes, named as [`LayerSpec::signature`] says, on the input of `request`
/// (`&x_shape.into()`; with RoIs [`PlanRequest::rois`]). Bias and slope are counted where they are among the parameters.
///
/// # Errors
/// [`Error::Rank`], [`Error::MissingTensor`] and what the layer itself would refuse; [`Error::Overflow`] when a count does not
/// fit 64 bits.
pub fn analyse(spec: &LayerSpec, parameters: &[ParameterShape], request: &PlanRequest, operands: Operands) -> Result<LayerReport> {
    let shape = |name: &'static str| {
        let found = parameters.iter().find(|(own, _)| *own == name);
        let missing = || Error::MissingTensor { op: spec.op(), name: name.into(), available: String::new() };
        rank4(name, &found.ok_or_else(missing)?.1)
    };
    let work = match spec {
        LayerSpec::Conv2d(spec) => conv2d(spec, shape("weight")?, request.x)?,
        LayerSpec::ConvTranspose2d(spec) => conv_transpose2d(spec, shape("weight")?, request.x)?,
        LayerSpec::PixelShuffle(spec) => moved(BlockGeometry::deep(request.x, spec.factor)?.wide_shape(), Sees::AtMost([1, 1])),
        LayerSpec::PixelUnshuffle(spec) => {
            let output = BlockGeometry::wide(request.x, spec.factor)?.deep_shape();
            let receptive_field = ReceptiveField::input().then([1, 1], [spec.factor; 2], [1, 1], [0; 4])?;
            moved(output, Sees::All(receptive_field))
        }
        LayerSpec::SubPixelConv2d(spec) => {
            let work = conv2d(&spec.conv, shape("weight")?, request.x)?;
            Work { output: BlockGeometry::deep(work.output, spec.factor)?.wide_shape(), sees: Sees::AtMost(work.sees.size()), ..work }
        }
        LayerSpec::Focus(spec) => {
            let geometry = ConvGeometry::focus(spec, request.x, shape("weight")?)?;
            let slices = ReceptiveField::input().then([2, 2], [2, 2], [1, 1], [0; 4])?;
            Work {
                sees: Sees::All(slices.then_conv2d(&spec.conv, geometry.kernel)?),
                ..conv2d(&spec.conv, shape("weight")?, geometry.input_shape())?
            }
        }
        LayerSpec::UpsampleBilinear(spec) => upsample_bilinear(&UpsampleGeometry::new(spec, request.x)?)?,
        LayerSpec::DepthwiseSeparableConv2d(spec) => {
            let weights = [shape("dw_weight")?, shape("pw_weight")?];
            let geometries = spec.geometries(request.x, weights[0], weights[1])?;
            two_stages(geometries, "dw_bias", spec.mid_activation, spec.activation)?
        }
        LayerSpec::SpatiallySeparableConv2d(spec) => {
            let weights = [shape("col_weight")?, shape("row_weight")?];
            let geometries = spec.geometries(request.x, weights[0], weights[1])?;
            two_stages(geometries, "col_bias", Activation::None, spec.activation)?
        }
        LayerSpec::DeformConv2d(spec) => deform_conv2d(spec, shape("weight")?, request.x, operands.mask)?,
        LayerSpec::DeformConv2dBlock(spec) => {
            let mask = spec.modulated.then(|| shape("mask_weight")).transpose()?;
            deform_conv2d_block(spec, shape("weight")?, shape("offset_weight")?, mask, request.x)?
        }
        LayerSpec::RoiAlign(spec) => roi(spec.pooling(), request, operands)?,
        LayerSpec::RoiPool(spec) => roi(spec.pooling(), request, operands)?,
        LayerSpec::PsRoiPool(spec) => roi(spec.pooling(), request, operands)?,
        LayerSpec::DeformRoiPool(spec) => roi(spec.pooling(), request, operands)?,
        LayerSpec::DeformRoiPoolPack(spec) => pack(spec.pooling(), parameters, request, operands)?,
    };
    work.report(spec, parameters, request.x, operands)
}

/// What depends on the kind of layer.
struct Work {
    output: Shape,
    macs: u64,
    sampling_flops: u64,
    /// Elements of offsets, mask and RoIs that are in the layer's dtype, and those that are f32.
    coordinates: [u64; 2],
    activation: Activation,
    sees: Sees,
    first_stage: Option<FirstStage>,
}

/// What an output pixel sees of the input.
#[derive(Clone, Copy)]
enum Sees {
    /// All alike.
    All(ReceptiveField),
    /// Different ones; the largest has so many rows and columns.
    AtMost([usize; 2]),
}

impl Sees {
    fn size(self) -> [usize; 2] {
        match self {
            Sees::All(field) => field.size,
            Sees::AtMost(size) => size,
        }
    }
}

/// The tail of the first of two stages.
struct FirstStage {
    outputs: u64,
    /// The name of its bias.
    bias: &'static str,
    activation: Activation,
}

fn conv2d(spec: &Conv2dSpec, weight: Shape, x: Shape) -> Result<Work> {
    let geometry = ConvGeometry::conv2d(spec, x, weight)?;
    Ok(Work {
        output: geometry.output_shape(),
        macs: geometry.macs()?,
        sampling_flops: 0,
        coordinates: [0, 0],
        activation: spec.activation,
        sees: Sees::All(ReceptiveField::input().then_conv2d(spec, geometry.kernel)?),
        first_stage: None,
    })
}

/// Two convolutions in a row. What lies between them need not be moved.
fn two_stages(geometries: [ConvGeometry; 2], bias: &'static str, mid_activation: Activation, activation: Activation) -> Result<Work> {
    let [first, second] = geometries;
    let then = |field: ReceptiveField, g: &ConvGeometry| field.then(g.kernel, g.stride, g.dilation, g.padding);
    Ok(Work {
        output: second.output_shape(),
        macs: sum("the number of multiply-adds", [first.macs()?, second.macs()?])?,
        sampling_flops: 0,
        coordinates: [0, 0],
        activation,
        sees: Sees::All(then(then(ReceptiveField::input(), &first)?, &second)?),
        first_stage: Some(FirstStage { outputs: count(&first.output_shape())?, bias, activation: mid_activation }),
    })
}

fn conv_transpose2d(spec: &ConvTranspose2dSpec, weight: Shape, x: Shape) -> Result<Work> {
    let geometry = ConvGeometry::conv_transpose2d(spec, x, weight)?;
    Ok(Work {
        output: geometry.output_shape(),
        macs: geometry.macs()?,
        sampling_flops: 0,
        coordinates: [0, 0],
        activation: spec.activation,
        sees: Sees::AtMost([0, 1].map(|axis| geometry.transposed_reach(axis))),
        first_stage: None,
    })
}

/// A layer that computes nothing.
fn moved(output: Shape, sees: Sees) -> Work {
    Work { output, macs: 0, sampling_flops: 0, coordinates: [0, 0], activation: Activation::None, sees, first_stage: None }
}

/// Three blends, each of two products and a sum.
fn upsample_bilinear(g: &UpsampleGeometry) -> Result<Work> {
    let output = g.output_shape();
    let sampling_flops = product("the number of FLOPs", [count(&output)?, 9])?;
    Ok(Work { sampling_flops, ..moved(output, Sees::AtMost([2, 2])) })
}

/// A position of a sample: the two offsets are added, fractions and their complements taken, multiplied to four weights.
const FLOPS_PER_POSITION: u64 = 2 + 4 + 4;
/// A value between four pixels: four products, three additions.
const FLOPS_PER_SAMPLE: u64 = 4 + 3;

/// The receptive field is that of the places from which the offsets count.
fn deform_conv2d(spec: &DeformConv2dSpec, weight: Shape, x: Shape, mask: bool) -> Result<Work> {
    let geometry = DeformGeometry::new(spec, x, weight)?;
    let plain = conv2d(&spec.conv2d(), weight, x)?;
    let positions = count(&geometry.mask)?;
    let masks = if mask { positions } else { 0 };
    let group_channels = (geometry.conv.c_in / geometry.conv.offset_groups) as u64;
    let samples = product("the number of samples", [positions, group_channels])?;
    let sampling = [
        product("the number of FLOPs", [positions, FLOPS_PER_POSITION])?,
        product("the number of FLOPs", [samples, FLOPS_PER_SAMPLE + u64::from(mask)])?,
    ];
    let coordinates = sum("the number of coordinates", [count(&geometry.offset)?, masks])?;
    Ok(Work { sampling_flops: sum("the number of FLOPs", sampling)?, coordinates: [coordinates, 0], ..plain })
}

/// Offsets and mask count as read; the workspace that holds them between the launches is likely to stay in a GPU's cache.
fn deform_conv2d_block(spec: &DeformConv2dBlockSpec, weight: Shape, offset: Shape, mask: Option<Shape>, x: Shape) -> Result<Work> {
    let [_, _, kh, kw] = weight;
    let macs = |predictor: Shape| {
        let plain = spec.predictor([kh, kw], [predictor[2], predictor[3]], Activation::None)?;
        ConvGeometry::conv2d(&plain, x, predictor)?.macs()
    };
    let deform = deform_conv2d(&spec.deform, weight, x, spec.modulated)?;
    let macs = [deform.macs, macs(offset)?, mask.map_or(Ok(0), macs)?];
    Ok(Work { macs: sum("the number of multiply-adds", macs)?, ..deform })
}

/// An adaptive grid, and the pixels of a bin, are taken to be those of a RoI over the whole input. A bilinear sample is four
/// multiply-adds, a mean one division. Offsets and mask are counted where the layer can have them.
fn roi(pooling: Pooling, request: &PlanRequest, operands: Operands) -> Result<Work> {
    let geometry = pooling.geometry(request)?;
    let outputs = count(&geometry.output_shape())?;
    let of_a_sample = if pooling.pool == Pool::Align { 8 } else { 1 };
    let samples = product("the number of FLOPs", [outputs, geometry.samples() as u64, of_a_sample])?;
    let (means, mask) = (pooling.pool != Pool::Max, pooling.deformable && operands.mask);
    let after = product("the number of FLOPs", [outputs, u64::from(means) + u64::from(mask)])?;
    let offset = if pooling.deformable { count(&geometry.offset_shape())? } else { 0 };
    let mask = if mask { count(&geometry.mask_shape())? } else { 0 };
    Ok(Work {
        output: geometry.output_shape(),
        macs: 0,
        sampling_flops: sum("the number of FLOPs", [samples, after])?,
        coordinates: [sum("the number of coordinates", [offset, mask])?, count(&[geometry.rois, 5])?],
        activation: Activation::None,
        sees: Sees::All(ReceptiveField::input()),
        first_stage: None,
    })
}

/// Both poolings, and the fully connected layers between them. What passes between the stages is not counted as moved.
fn pack(pooling: Pooling, parameters: &[ParameterShape], request: &PlanRequest, operands: Operands) -> Result<Work> {
    let once = roi(Pooling { deformable: false, ..pooling }, request, operands)?;
    let weights = parameters.iter().filter(|(name, _)| name.ends_with("weight")).map(|(_, shape)| count(shape)).sum::<Result<u64>>()?;
    let macs = product("the number of multiply-adds", [weights, once.output[0] as u64])?;
    Ok(Work { macs, sampling_flops: product("the number of FLOPs", [once.sampling_flops, 2])?, ..once })
}

impl Work {
    fn report(self, spec: &LayerSpec, parameters: &[ParameterShape], x: Shape, operands: Operands) -> Result<LayerReport> {
        let Operands { dtype, residual, .. } = operands;
        let when = |condition: bool, number: u64| if condition { number } else { 0 };
        // bias, slope and their like (`dw_bias`) are vectors and f32
        let of = |wanted: &str| {
            let named = parameters.iter().filter(|(name, _)| name.ends_with(wanted));
            named.map(|(_, shape)| count(shape)).sum::<Result<u64>>()
        };
        let all = parameters.iter().map(|(_, shape)| count(shape)).sum::<Result<u64>>()?;
        let (bias, slope) = (of("bias")?, of("slope")?);
        let weight = all - bias - slope;
        let outputs = count(&self.output)?;
        let macs = self.macs;
        let first_stage = self.first_stage.unwrap_or(FirstStage { outputs: 0, bias: "", activation: Activation::None });
        let (between, first_activation) = (first_stage.outputs, first_stage.activation);
        let biases = || parameters.iter().filter(|(name, _)| name.ends_with("bias"));
        let (first_bias, last_bias) =
            (biases().any(|(name, _)| *name == first_stage.bias), biases().any(|(name, _)| *name != first_stage.bias));
        let operations = Operations {
            macs,
            sampling_flops: self.sampling_flops,
            flops: sum("the number of FLOPs", [macs, macs, self.sampling_flops])?,
            bias_additions: sum("the number of additions", [when(last_bias, outputs), when(first_bias, between)])?,
            residual_additions: when(residual, outputs),
            activations: sum(
                "the number of activations",
                [when(self.activation != Activation::None, outputs), when(first_activation != Activation::None, between)],
            )?,
        };
        let bytes = |count, dtype: DType| product("a size in bytes", [count, dtype.bytes() as u64]);
        let (x_bytes, weight_bytes, y_bytes) = (bytes(count(&x)?, dtype)?, bytes(weight, dtype)?, bytes(outputs, dtype)?);
        let (bias_bytes, slope_bytes) = (bytes(bias, f32::DTYPE)?, bytes(slope, f32::DTYPE)?);
        let residual_bytes = when(residual, y_bytes);
        let coordinates = sum("a size in bytes", [bytes(self.coordinates[0], dtype)?, bytes(self.coordinates[1], f32::DTYPE)?])?;
        let read = [x_bytes, weight_bytes, bias_bytes, slope_bytes, residual_bytes, coordinates];
        let bytes = Bytes {
            x: x_bytes,
            weight: weight_bytes,
            bias: bias_bytes,
            slope: slope_bytes,
            residual: residual_bytes,
            coordinates,
            y: y_bytes,
            read: sum("the number of bytes read", read)?,
            written: y_bytes,
        };
        let moved = bytes.read as f64 + bytes.written as f64;
        Ok(LayerReport {
            op: spec.op(),
            dtype,
            input: x,
            output: self.output,
            parameters: Parameters { weight, bias, slope, total: all },
            operations,
            bytes,
            arithmetic_intensity: if moved > 0.0 { operations.flops as f64 / moved } else { 0.0 },
            receptive_field: if let Sees::All(field) = self.sees { Some(field) } else { None },
            receptive_size: self.sees.size(),
        })
    }
}

fn count(shape: &[usize]) -> Result<u64> {
    Ok(elements(shape)? as u64)
}

fn sum<const N: usize>(what: &'static str, terms: [u64; N]) -> Result<u64> {
    let total = terms.iter().try_fold(0u64, |total, &term| total.checked_add(term));
    total.ok_or_else(|| Error::Overflow { what, values: format!("the sum of {terms:?}") })
}

fn product<const N: usize>(what: &'static str, factors: [u64; N]) -> Result<u64> {
    let total = factors.iter().try_fold(1u64, |total, &factor| total.checked_mul(factor));
    total.ok_or_else(|| Error::Overflow { what, values: format!("the product of {factors:?}") })
}

/// Which pixels of a stack's input one pixel of its output depends on, vertically and horizontally.
///
/// Input pixel `i` has its centre at coordinate `i`. Output pixel `p` sees the `size` pixels around `start + p * jump`, of which
/// some may lie in the padding. With dilation it sees only some of them, or all once the rates of a stack fill the gaps.
///
/// Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill, 2019.
///
/// ```
/// use warpconv::analysis::ReceptiveField;
/// // a stem: 7x7 with stride 2 and padding 3, then 3x3 pooling with stride 2 and padding 1
/// let stem = ReceptiveField::input().then([7, 7], [2, 2], [1, 1], [3; 4])?.then([3, 3], [2, 2], [1, 1], [1; 4])?;
/// assert_eq!((stem.size, stem.jump, stem.start), ([11, 11], [4, 4], [0.0, 0.0]));
/// assert_eq!(stem.region([0, 3])?, [-5..6, 7..18]);
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReceptiveField {
    /// Height and width in input pixels.
    pub size: [usize; 2],
    /// Distance in input pixels between the fields of neighbouring output pixels: the product of the strides.
    pub jump: [usize; 2],
    /// Centre of the first output pixel's field in input coordinates: whole or half, negative where padding exceeds it.
    pub start: [f64; 2],
}

impl ReceptiveField {
    /// That of no layer: a pixel sees itself.
    pub fn input() -> Self {
        Self { size: [1, 1], jump: [1, 1], start: [0.0, 0.0] }
    }

    /// With one layer more on top. `padding` is [top, left, bottom, right], of which only top and left matter.
    ///
    /// An axis on its own: `size += dilation * (kernel - 1) * jump`, `start += (dilation * (kernel - 1) / 2 - padding) * jump`,
    /// `jump *= stride`. So one layer on the input has size `dilation * (kernel - 1) + 1`.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a kernel, stride or dilation of 0; [`Error::Overflow`].
    pub fn then(self, kernel: [usize; 2], stride: [usize; 2], dilation: [usize; 2], padding: [usize; 4]) -> Result<Self> {
        let mut field = self;
        for axis in 0..2 {
            positive("kernel size", kernel[axis])?;
            positive("stride", stride[axis])?;
            positive("dilation", dilation[axis])?;
            let (span, jump) = (kernel_span(kernel[axis], dilation[axis])?, self.jump[axis]);
            let overflow = || Error::Overflow {
                what: "a receptive field",
                values: format!("size {}, jump {jump}, then a kernel that spans {span} with stride {}", self.size[axis], stride[axis]),
            };
            let growth = (span - 1).checked_mul(jump).ok_or_else(overflow)?;
            field.size[axis] = self.size[axis].checked_add(growth).ok_or_else(overflow)?;
            field.jump[axis] = jump.checked_mul(stride[axis]).ok_or_else(overflow)?;
            field.start[axis] += growth as f64 / 2.0 - padding[axis] as f64 * jump as f64;
        }
        Ok(field)
    }

    /// With a convolution of this kernel on top.
    ///
    /// # Errors
    /// As [`ReceptiveField::then`], and [`Error::Attribute`] for padding `same` with a stride above 1.
    pub fn then_conv2d(self, spec: &Conv2dSpec, kernel: [usize; 2]) -> Result<Self> {
        self.then(kernel, spec.stride, spec.dilation, spec.padding.resolve(kernel, spec.dilation, spec.stride)?)
    }

    /// The rows and the columns of the input that output pixel [row, column] sees; those below 0 or beyond the input are padding.
    ///
    /// # Errors
    /// [`Error::Overflow`] when a coordinate is 2^52 or more, where f64 no longer has halves.
    pub fn region(&self, output: [usize; 2]) -> Result<[Range<i64>; 2]> {
        const HALVES_END: f64 = (1u64 << 52) as f64;
        let axis = |axis: usize| {
            let centre = self.start[axis] + output[axis] as f64 * self.jump[axis] as f64;
            let first = centre - (self.size[axis] as f64 - 1.0) / 2.0;
            let end = first + self.size[axis] as f64;
            if self.start[axis].abs().max(first.abs()).max(end.abs()) >= HALVES_END {
                return Err(Error::Overflow { what: "the region of an output pixel", values: format!("{output:?} of {self:?}") });
            }
            Ok(first as i64..end as i64)
        };
        Ok([axis(0)?, axis(1)?])
    }
}

/// The receptive field of `layers` equal filters with stride 1 on top of each other: `(kernel - 1) * layers + 1`.
///
/// Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015: three 3x3 filters
/// see what one 7x7 filter sees.
///
/// # Errors
/// [`Error::Attribute`] for a kernel of 0; [`Error::Overflow`].
pub fn stacked_receptive_field(kernel: usize, layers: usize) -> Result<usize> {
    positive("kernel size", kernel)?;
    kernel_span(kernel, layers) // what one filter sees whose taps are `layers` apart
}

/// The receptive field of `layers` filters with stride 1 and dilation rates 1, 2, 4, ..., 2^(layers-1):
/// `(kernel - 1) * (2^layers - 1) + 1`. For 3x3 filters that is 2^(layers+1) - 1: it grows exponentially while the parameters
/// grow linearly.
///
/// Source: Yu and Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", 2016.
///
/// # Errors
/// [`Error::Attribute`] for a kernel of 0; [`Error::Overflow`].
pub fn doubling_receptive_field(kernel: usize, layers: u32) -> Result<usize> {
    positive("kernel size", kernel)?;
    let rates = 1usize.checked_shl(layers).map(|power| power - 1);
    let rates = rates.ok_or_else(|| Error::Overflow { what: "the sum of the rates", values: format!("2^{layers} - 1") })?;
    kernel_span(kernel, rates)
}

/// Parameters (without biases) and multiply-adds of one form of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Numbers learned.
    pub parameters: u64,
    /// Multiply-adds of one run.
    pub macs: u64,
}

impl Cost {
    fn of(spec: &Conv2dSpec, weight: Shape, x: Shape) -> Result<(Self, Shape)> {
        let geometry = ConvGeometry::conv2d(spec, x, weight)?;
        Ok((Self { parameters: count(&weight)?, macs: geometry.macs()? }, geometry.output_shape()))
    }

    fn plus(self, other: Self) -> Result<Self> {
        Ok(Self {
            parameters: sum("the number of parameters", [self.parameters, other.parameters])?,
            macs: sum("the number of multiply-adds", [self.macs, other.macs])?,
        })
    }
}

/// What a factorised form of a convolution costs beside the dense one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Saving {
    /// One dense convolution.
    pub dense: Cost,
    /// The factorised form of it.
    pub factorised: Cost,
    /// Parameters of the factorised form for each of the dense one.
    pub parameters_ratio: f64,
    /// Multiply-adds of the factorised form for each of the dense one; NaN for an empty batch.
    pub macs_ratio: f64,
}

impl Saving {
    fn new(dense: Cost, factorised: Cost) -> Self {
        Self {
            dense,
            factorised,
            parameters_ratio: factorised.parameters as f64 / dense.parameters as f64,
            macs_ratio: factorised.macs as f64 / dense.macs as f64,
        }
    }

    /// A depthwise convolution, then a 1x1 one: `1 / C_out + 1 / (kh * kw)` of both parameters and multiply-adds.
    ///
    /// `spec` gives stride, padding and dilation; its groups are not looked at.
    ///
    /// Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017.
    ///
    /// # Errors
    /// What either form refuses.
    pub fn depthwise_separable(spec: &Conv2dSpec, c_out: usize, kernel: [usize; 2], x: Shape) -> Result<Self> {
        let [kh, kw] = kernel;
        let c_in = x[1];
        let (dense, _) = Cost::of(&Conv2dSpec { groups: 1, ..*spec }, [c_out, c_in, kh, kw], x)?;
        let (depthwise, mid) = Cost::of(&Conv2dSpec { groups: c_in, ..*spec }, [c_in, 1, kh, kw], x)?;
        let (pointwise, _) = Cost::of(&Conv2dSpec::default(), [c_out, c_in, 1, 1], mid)?;
        Ok(Self::new(dense, depthwise.plus(pointwise)?))
    }

    /// A kh x 1 convolution to `c_mid` channels, then a 1 x kw one: for a k x k filter with all channel counts equal `2 / k` of
    /// the parameters (3x3: 9 become 6), and of the multiply-adds where stride is 1 and the padding keeps the size.
    ///
    /// `spec` gives stride, padding and dilation, of which each stage takes its own axis; its groups are not looked at.
    ///
    /// # Errors
    /// What either form refuses.
    pub fn spatially_separable(spec: &Conv2dSpec, c_mid: usize, c_out: usize, kernel: [usize; 2], x: Shape) -> Result<Self> {
        let [kh, kw] = kernel;
        let Conv2dSpec { stride, dilation, .. } = *spec;
        let [top, left, bottom, right] = spec.padding.resolve(kernel, dilation, stride)?;
        let (dense, _) = Cost::of(&Conv2dSpec { groups: 1, ..*spec }, [c_out, x[1], kh, kw], x)?;
        let column = Conv2dSpec {
            stride: [stride[0], 1],
            padding: Padding::Explicit([top, 0, bottom, 0]),
            dilation: [dilation[0], 1],
            ..Default::default()
        };
        let row = Conv2dSpec {
            stride: [1, stride[1]],
            padding: Padding::Explicit([0, left, 0, right]),
            dilation: [1, dilation[1]],
            ..Default::default()
        };
        let (column, mid) = Cost::of(&column, [c_mid, x[1], kh, 1], x)?;
        let (row, _) = Cost::of(&row, [c_out, c_mid, 1, kw], mid)?;
        Ok(Self::new(dense, column.plus(row)?))
    }

    /// Groups of channels, each convolved on its own: `1 / groups` of both parameters and multiply-adds.
    ///
    /// Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012.
    ///
    /// # Errors
    /// What either form refuses, such as groups that do not divide the channels.
    pub fn grouped(spec: &Conv2dSpec, c_out: usize, kernel: [usize; 2], x: Shape) -> Result<Self> {
        let [kh, kw] = kernel;
        positive("groups", spec.groups)?;
        divisible("C_in", x[1], "groups", spec.groups)?;
        let (dense, _) = Cost::of(&Conv2dSpec { groups: 1, ..*spec }, [c_out, x[1], kh, kw], x)?;
        let (grouped, _) = Cost::of(spec, [c_out, x[1] / spec.groups, kh, kw], x)?;
        Ok(Self::new(dense, grouped))
    }

    /// `layers` small square filters with stride 1 on top of each other instead of one large one with the same receptive field,
    /// [`stacked_receptive_field`], all of them with as many output as input channels and size-keeping padding:
    /// `layers * k^2 / ((k - 1) * layers + 1)^2` of both parameters and multiply-adds. Two 3x3 instead of one 5x5: 18 / 25.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a kernel or number of layers of 0; what either form refuses.
    pub fn stacked(kernel: usize, layers: usize, x: Shape) -> Result<Self> {
        positive("layers", layers)?;
        let spec = Conv2dSpec { padding: Padding::Same, ..Default::default() };
        let large = stacked_receptive_field(kernel, layers)?;
        let (dense, _) = Cost::of(&spec, [x[1], x[1], large, large], x)?;
        let (small, _) = Cost::of(&spec, [x[1], x[1], kernel, kernel], x)?;
        let stacked = Cost {
            parameters: product("the number of parameters", [small.parameters, layers as u64])?,
            macs: product("the number of multiply-adds", [small.macs, layers as u64])?,
        };
        Ok(Self::new(dense, stacked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{DepthwiseSeparableSpec, SpatiallySeparableSpec};
    use crate::{DeformRoiPoolSpec, RoiAlignSpec, RoiPoolSpec};
    use rstest::rstest;

    fn same() -> Conv2dSpec {
        Conv2dSpec { padding: Padding::Same, ..Default::default() }
    }

    #[test]
    fn a_report_counts_everything_apart() {
        let spec = Conv2dSpec { stride: [2, 2], padding: Padding::all(1), groups: 4, activation: Activation::Prelu, ..Default::default() };
        let operands = Operands::new(DType::F16).residual(true);
        let parameters = [("weight", vec![16, 2, 3, 3]), ("bias", vec![16]), ("slope", vec![16])];
        let report = analyse(&LayerSpec::Conv2d(spec), &parameters, &[2, 8, 10, 12].into(), operands).unwrap();
        let outputs = 2 * 16 * 5 * 6;
        assert_eq!(report.output, [2, 16, 5, 6]);
        assert_eq!(report.parameters, Parameters { weight: 288, bias: 16, slope: 16, total: 320 });
        let macs = outputs * 2 * 9;
        let [bias_additions, residual_additions, activations] = [outputs; 3];
        let operations = Operations { macs, sampling_flops: 0, flops: 2 * macs, bias_additions, residual_additions, activations };
        assert_eq!(report.operations, operations);
        let (x, y) = (2 * 8 * 10 * 12 * 2, outputs * 2);
        let read = x + 576 + 64 + 64 + y;
        let bytes = Bytes { x, weight: 576, bias: 64, slope: 64, residual: y, coordinates: 0, y, read, written: y };
        assert_eq!(report.bytes, bytes);
        assert_eq!(report.arithmetic_intensity, (2 * macs) as f64 / (bytes.read + y) as f64);
        let field = report.receptive_field.unwrap();
        assert_eq!((field.size, field.jump), ([3, 3], [2, 2]));

        let bare = LayerSpec::Conv2d(Conv2dSpec::default());
        let bare = analyse(&bare, &[("weight", vec![16, 8, 1, 1])], &[0, 8, 4, 4].into(), Operands::new(DType::F32)).unwrap();
        assert_eq!((bare.parameters.total, bare.operations.flops, bare.operations.activations), (128, 0, 0));
        assert_eq!((bare.bytes.read, bare.bytes.written, bare.arithmetic_intensity), (512, 0, 0.0));
        assert_eq!(serde_json::to_value(&bare).unwrap()["bytes"]["weight"], 512);
    }

    /// No inserted zero is counted: as many products as the convolution has whose transpose it is.
    #[test]
    fn a_transposed_convolution_costs_what_the_convolution_does() {
        let transposed = ConvTranspose2dSpec { stride: [2, 2], padding: [1; 4], groups: 2, ..Default::default() };
        let parameters = [("weight", vec![8, 3, 4, 4]), ("bias", vec![6])];
        let report =
            analyse(&LayerSpec::ConvTranspose2d(transposed), &parameters, &[2, 8, 5, 7].into(), Operands::new(DType::F16)).unwrap();
        let spec = Conv2dSpec { stride: [2, 2], padding: Padding::all(1), groups: 2, ..Default::default() };
        let parameters = [("weight", vec![8, 3, 4, 4])];
        let forward = analyse(&LayerSpec::Conv2d(spec), &parameters, &[2, 6, 10, 14].into(), Operands::new(DType::F16)).unwrap();
        assert_eq!((report.output, forward.output), (forward.input, report.input));
        assert_eq!(report.operations.macs, forward.operations.macs);
        assert_eq!(report.parameters, Parameters { weight: 8 * 3 * 16, bias: 6, slope: 0, total: 8 * 3 * 16 + 6 });
        assert_eq!((report.bytes.x, report.bytes.y, report.receptive_field), (2 * 8 * 35 * 2, 2 * 6 * 140 * 2, None));
        assert_eq!(report.receptive_size, [2, 2]);
    }

    #[test]
    fn two_stages_are_counted_together() {
        let spec = DepthwiseSeparableSpec {
            stride: [2, 2],
            padding: Padding::all(1),
            groups: Some(8),
            mid_activation: Activation::Relu6,
            ..Default::default()
        };
        let parameters = [("dw_weight", vec![16, 1, 3, 3]), ("dw_bias", vec![16]), ("pw_weight", vec![32, 16, 1, 1])];
        let spec = LayerSpec::DepthwiseSeparableConv2d(spec);
        let report = analyse(&spec, &parameters, &[2, 8, 10, 12].into(), Operands::new(DType::F16)).unwrap();
        let (pixels, o) = (2 * 5 * 6, report.operations);
        assert_eq!(report.output, [2, 32, 5, 6]);
        assert_eq!((report.parameters.weight, report.parameters.bias), (144 + 512, 16));
        assert_eq!((o.macs, o.bias_additions, o.activations), (pixels * (16 * 9 + 32 * 16), pixels * 16, pixels * 16));
        assert_eq!((report.bytes.read, report.bytes.written), ((2 * 8 * 120 + 656) * 2 + 64, pixels * 32 * 2));
        let field = report.receptive_field.unwrap();
        assert_eq!((field.size, field.jump), ([3, 3], [2, 2]));

        // one channel, 3x3: 6 products an output instead of 9
        let spec = SpatiallySeparableSpec { padding: Padding::Same, activation: Activation::Relu, ..Default::default() };
        let parameters = [("col_weight", vec![1, 1, 3, 1]), ("row_weight", vec![1, 1, 1, 3]), ("row_bias", vec![1])];
        let spec = LayerSpec::SpatiallySeparableConv2d(spec);
        let report = analyse(&spec, &parameters, &[1, 1, 8, 9].into(), Operands::new(DType::F32)).unwrap();
        assert_eq!((report.operations.macs, report.parameters.weight), (6 * 72, 6));
        assert_eq!((report.operations.bias_additions, report.operations.activations), (72, 72));
        let field = report.receptive_field.unwrap();
        assert_eq!((field.size, field.start), ([3, 3], [0.0, 0.0]));
    }

    #[test]
    fn sampling_is_counted_apart() {
        let analyse =
            |spec: &LayerSpec, request: &PlanRequest, mask| analyse(spec, &[], request, Operands::new(DType::F16).mask(mask)).unwrap();
        let request = PlanRequest::new([2, 8, 14, 28]).rois(3);
        let outputs = 3 * 8 * 7 * 7;
        let align = RoiAlignSpec { sampling_ratio: 2, ..RoiAlignSpec::new([7, 7]) };
        let report = analyse(&LayerSpec::RoiAlign(align), &request, false);
        assert_eq!((report.output, report.operations.macs, report.operations.flops), ([3, 8, 7, 7], 0, outputs * (4 * 8 + 1)));
        assert_eq!((report.bytes.coordinates, report.bytes.written), (3 * 5 * 4, outputs * 2));
        // 2 x 4 pixels of a bin over the whole input
        let adaptive = LayerSpec::RoiAlign(RoiAlignSpec { sampling_ratio: 0, ..align });
        assert_eq!(analyse(&adaptive, &request, false).operations.sampling_flops, outputs * (8 * 8 + 1));
        let max = LayerSpec::RoiPool(RoiPoolSpec::new([7, 7]));
        assert_eq!(analyse(&max, &request, false).operations.sampling_flops, outputs * 8);
        let deform = DeformRoiPoolSpec { sampling_ratio: 2, ..DeformRoiPoolSpec::new([7, 7]) };
        let report = analyse(&LayerSpec::DeformRoiPool(deform), &request, true);
        assert_eq!(report.operations.sampling_flops, outputs * (4 * 8 + 2));
        assert_eq!(report.bytes.coordinates, 3 * 3 * 49 * 2 + 3 * 5 * 4);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let spec = LayerSpec::Conv2d(Conv2dSpec::default());
        let analyse = |weight: &[usize], x: Shape| {
            let parameters = [("weight", weight.to_vec()), ("bias", vec![weight[0]])];
            analyse(&spec, &parameters, &x.into(), Operands::new(DType::F32))
        };
        assert!(matches!(analyse(&[1, 1, 3], [1; 4]), Err(Error::Rank { .. })));
        assert!(matches!(analyse(&[1, 1, 3, 3], [1, 1, 2, 3]), Err(Error::EmptyOutput { axis: "height", .. })));
        assert!(matches!(analyse(&[1, 2, 3, 3], [1, 1, 3, 3]), Err(Error::Shape { name: "x", .. })));
        assert!(matches!(analyse(&[1 << 30, 1 << 30, 1, 1], [0, 1 << 30, 1, 1]), Err(Error::Overflow { .. })));
        assert!(matches!(analyse(&[1 << 20, 1 << 20, 1, 1], [1, 1 << 20, 1 << 15, 1 << 15]), Err(Error::Overflow { .. })));

        let field = ReceptiveField::input();
        assert!(matches!(field.then([0, 1], [1; 2], [1; 2], [0; 4]), Err(Error::Attribute { name: "kernel size", .. })));
        assert!(matches!(field.then([1, 1], [1, 0], [1; 2], [0; 4]), Err(Error::Attribute { name: "stride", .. })));
        let strided = field.then([1, 1], [usize::MAX, 1], [1; 2], [0; 4]).unwrap();
        assert!(matches!(strided.then([1, 1], [2, 1], [1; 2], [0; 4]), Err(Error::Overflow { .. })));
        assert!(matches!(strided.then([2, 1], [1, 1], [1; 2], [0; 4]), Err(Error::Overflow { .. })));
        assert!(matches!(strided.region([1, 0]), Err(Error::Overflow { .. })));
        assert!(matches!(doubling_receptive_field(3, 64), Err(Error::Overflow { .. })));
        assert!(matches!(doubling_receptive_field(4, 63), Err(Error::Overflow { .. })));
        assert!(matches!(stacked_receptive_field(0, 1), Err(Error::Attribute { .. })));
        assert!(matches!(Saving::stacked(3, 0, [1, 1, 8, 8]), Err(Error::Attribute { .. })));
        assert!(matches!(Saving::grouped(&Conv2dSpec { groups: 3, ..same() }, 6, [3, 3], [1, 4, 8, 8]), Err(Error::Divisibility { .. })));
    }

    /// The field of an output pixel found by brute force on one axis: which inputs a change of reaches it.
    fn seen(layers: &[[usize; 4]], output: usize) -> Range<i64> {
        let mut pixels = vec![output as i64];
        for &[kernel, stride, dilation, padding] in layers.iter().rev() {
            let taps = |p: i64| (0..kernel).map(move |i| p * stride as i64 + (i * dilation) as i64 - padding as i64);
            pixels = pixels.into_iter().flat_map(taps).collect();
        }
        *pixels.iter().min().unwrap()..*pixels.iter().max().unwrap() + 1
    }

    #[rstest]
    #[case::one_dilated(&[[3, 1, 4, 2]])]
    #[case::even_kernel(&[[2, 1, 1, 0], [4, 3, 1, 1]])]
    #[case::resnet_stem(&[[7, 2, 1, 3], [3, 2, 1, 1], [3, 1, 1, 1], [3, 1, 1, 1], [3, 2, 1, 1]])]
    #[case::atrous(&[[3, 2, 1, 1], [3, 1, 2, 2], [3, 1, 5, 0], [5, 2, 3, 9]])]
    fn a_composed_field_is_the_one_found_by_tracing(#[case] layers: &[[usize; 4]]) {
        let mut field = ReceptiveField::input();
        for &[kernel, stride, dilation, padding] in layers {
            field = field.then([kernel, 1], [stride, 1], [dilation, 1], [padding, 0, 77, 78]).unwrap();
        }
        for output in [0, 1, 7] {
            let [rows, columns] = field.region([output, output]).unwrap();
            assert_eq!(rows, seen(layers, output));
            assert_eq!(columns, output as i64..output as i64 + 1);
        }
    }

    #[test]
    fn closed_forms_are_compositions() {
        for kernel in 1..6 {
            let (mut stacked, mut doubling) = (ReceptiveField::input(), ReceptiveField::input());
            for layers in 0..6 {
                assert_eq!(stacked.size, [stacked_receptive_field(kernel, layers).unwrap(); 2]);
                assert_eq!(doubling.size, [doubling_receptive_field(kernel, layers as u32).unwrap(); 2]);
                let dilated = Conv2dSpec { dilation: [1 << layers; 2], ..same() };
                stacked = stacked.then_conv2d(&same(), [kernel; 2]).unwrap();
                doubling = doubling.then_conv2d(&dilated, [kernel; 2]).unwrap();
            }
        }
        assert_eq!(stacked_receptive_field(3, 3).unwrap(), 7);
        for n in 0..20 {
            assert_eq!(doubling_receptive_field(3, n).unwrap(), (1 << (n + 1)) - 1);
        }
    }

    #[test]
    fn savings_are_the_known_ratios() {
        let near = |saving: Saving, ratio: f64| {
            assert!((saving.parameters_ratio - ratio).abs() < 1e-12, "{saving:?}");
            assert!((saving.macs_ratio - ratio).abs() < 1e-12, "{saving:?}");
        };
        let x = [2, 32, 14, 15];
        near(Saving::depthwise_separable(&same(), 48, [3, 3], x).unwrap(), 1.0 / 48.0 + 1.0 / 9.0);
        let strided = Conv2dSpec { stride: [2, 1], padding: Padding::all(2), groups: 4, ..Default::default() };
        near(Saving::depthwise_separable(&strided, 48, [5, 3], x).unwrap(), 1.0 / 48.0 + 1.0 / 15.0);
        near(Saving::grouped(&Conv2dSpec { groups: 8, ..strided }, 48, [3, 3], x).unwrap(), 1.0 / 8.0);
        near(Saving::stacked(3, 2, x).unwrap(), 18.0 / 25.0);
        near(Saving::stacked(3, 3, x).unwrap(), 27.0 / 49.0);
        for k in [3, 5, 7] {
            near(Saving::spatially_separable(&same(), 32, 32, [k, k], x).unwrap(), 2.0 / k as f64);
        }
        let one_channel = Saving::spatially_separable(&same(), 1, 1, [3, 3], [1, 1, 8, 8]).unwrap();
        assert_eq!((one_channel.dense.parameters, one_channel.factorised.parameters), (9, 6));
        // stride 2 halves the rows before the second stage, but the first still computes every column
        let spec = Conv2dSpec { stride: [2, 2], padding: Padding::all(1), ..Default::default() };
        let saving = Saving::spatially_separable(&spec, 4, 8, [3, 3], [1, 2, 8, 8]).unwrap();
        assert_eq!(saving.dense, Cost { parameters: 144, macs: 144 * 16 });
        assert_eq!(saving.factorised, Cost { parameters: 24 + 96, macs: 24 * 4 * 8 + 96 * 4 * 4 });
    }
}
