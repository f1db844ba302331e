//! The work of each kind of layer.

use super::report::{Bytes, LayerReport, Operands, Operations, ParameterShape, Parameters};
use super::{ReceptiveField, count, product, sum};
use crate::error::{Error, Result};
use crate::geometry::{BlockGeometry, ConvGeometry, DeformGeometry, PoolGeometry, Pooled, Shape, UpsampleGeometry, Windows, rank4};
use crate::layers::{
    Activation, Conv2dSpec, ConvTranspose2dSpec, DeformConv2dBlockSpec, DeformConv2dSpec, LayerSpec, PlanRequest, Pool, Pooling,
};
use crate::{DType, Element};

/// The cost of a layer with parameters of these shapes, named as in [`LayerSpec::signature`], on
/// the input of `request` (`&x_shape.into()`; with RoIs [`PlanRequest::rois`]). Bias and slope are
/// counted if they are among the parameters.
///
/// # Errors
/// [`Error::Rank`], [`Error::MissingTensor`] and what the layer itself would refuse;
/// [`Error::Overflow`] when a count does not fit 64 bits.
pub fn analyse(spec: &LayerSpec, parameters: &[ParameterShape], request: &PlanRequest, operands: Operands) -> Result<LayerReport> {
    let shape = |name: &'static str| {
        let found = parameters.iter().find(|(own, _)| *own == name);
        let missing = || Error::MissingTensor { op: spec.op(), name: name.into(), available: String::new() };
        rank4(name, &found.ok_or_else(missing)?.1)
    };
    let work = match spec {
        LayerSpec::Conv2d(spec) => conv2d(spec, shape("weight")?, request.x)?,
        LayerSpec::ConvTranspose2d(spec) => conv_transpose2d(spec, shape("weight")?, request.x)?,
        LayerSpec::PixelShuffle(spec) => {
            moved(BlockGeometry::deep(request.x, spec.factor)?.wide_shape(), Sees::AtMost { size: [1, 1], step: [1, 1] })
        }
        LayerSpec::PixelUnshuffle(spec) => {
            let output = BlockGeometry::wide(request.x, spec.factor)?.deep_shape();
            let receptive_field = ReceptiveField::input().then([1, 1], [spec.factor; 2], [1, 1], [0; 4])?;
            moved(output, Sees::All(receptive_field))
        }
        LayerSpec::SubPixelConv2d(spec) => {
            let work = conv2d(&spec.conv, shape("weight")?, request.x)?;
            let sees = Sees::AtMost { size: work.sees.size(), step: work.sees.step() };
            Work { output: BlockGeometry::deep(work.output, spec.factor)?.wide_shape(), sees, ..work }
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
        LayerSpec::MaxPool2d(spec) => pool(&PoolGeometry::max(spec, request.x)?)?,
        LayerSpec::AvgPool2d(spec) => pool(&PoolGeometry::average(spec, request.x)?)?,
        LayerSpec::AdaptiveAvgPool2d(spec) => pool(&PoolGeometry::adaptive(spec, request.x)?)?,
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

/// The part of the cost that depends on the kind of layer.
struct Work {
    output: Shape,
    macs: u64,
    sampling_flops: u64,
    /// The number of elements of offsets, mask and RoIs: first those in the layer's dtype, then
    /// those in f32.
    coordinates: [u64; 2],
    activation: Activation,
    sees: Sees,
    first_stage: Option<FirstStage>,
}

/// The pixels of the input on which an output pixel depends.
#[derive(Clone, Copy)]
enum Sees {
    /// All output pixels depend on fields of the same form.
    All(ReceptiveField),
    /// Output pixels differ: the rows and columns of the largest field, and the largest distance to
    /// the next one.
    AtMost { size: [usize; 2], step: [usize; 2] },
}

impl Sees {
    fn size(self) -> [usize; 2] {
        match self {
            Sees::All(field) => field.size,
            Sees::AtMost { size, .. } => size,
        }
    }

    fn step(self) -> [usize; 2] {
        match self {
            Sees::All(field) => field.jump,
            Sees::AtMost { step, .. } => step,
        }
    }
}

/// The bias and activation of the first of two stages.
struct FirstStage {
    outputs: u64,
    /// The name of the stage's bias.
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

/// Two convolutions, one after the other. The tensor between them need not be moved.
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
        sees: Sees::AtMost { size: [0, 1].map(|axis| geometry.transposed_reach(axis)), step: [1, 1] },
        first_stage: None,
    })
}

/// A layer that computes nothing.
fn moved(output: Shape, sees: Sees) -> Work {
    Work { output, macs: 0, sampling_flops: 0, coordinates: [0, 0], activation: Activation::None, sees, first_stage: None }
}

/// Three blends, each with two products and a sum.
fn upsample_bilinear(g: &UpsampleGeometry) -> Result<Work> {
    let output = g.output_shape();
    let sampling_flops = product("the number of FLOPs", [count(&output)?, 9])?;
    let step = g.scale.map(|pixels| pixels.ceil().max(1.0) as usize);
    Ok(Work { sampling_flops, ..moved(output, Sees::AtMost { size: [2, 2], step }) })
}

/// A comparison or an addition for each pixel of the largest window, and a division for a mean.
fn pool(g: &PoolGeometry) -> Result<Work> {
    let output = g.output_shape();
    let size = g.window();
    let of_window = product("the number of FLOPs", [size[0] as u64, size[1] as u64])?;
    let flops = sum("the number of FLOPs", [of_window, u64::from(g.pooled != Pooled::Max)])?;
    let sees = match g.windows {
        Windows::Regular([rows, columns]) => {
            let of = |value: fn(crate::geometry::Axis) -> usize| [value(rows), value(columns)];
            let [top, left] = of(|axis| axis.padding[0]);
            let field = ReceptiveField::input().then(
                of(|axis| axis.kernel),
                of(|axis| axis.stride),
                of(|axis| axis.dilation),
                [top, left, top, left],
            )?;
            Sees::All(field)
        }
        Windows::Adaptive => Sees::AtMost { size, step: [0, 1].map(|axis| g.input[axis].div_ceil(g.output[axis])) },
    };
    Ok(Work { sampling_flops: product("the number of FLOPs", [count(&output)?, flops])?, ..moved(output, sees) })
}

/// FLOPs for the position of a sample: two additions of offsets, four for the fractions and their
/// complements, four products that give the weights.
const FLOPS_PER_POSITION: u64 = 2 + 4 + 4;
/// FLOPs for a value between four pixels: four products and three additions.
const FLOPS_PER_SAMPLE: u64 = 4 + 3;

/// The receptive field is that of the positions before the offsets move them.
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

/// Offsets and mask count as read. The workspace that holds them between the launches is likely to
/// stay in a GPU's cache.
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

/// An adaptive grid, and the pixels of a bin, are counted as for a RoI that covers the whole input.
/// A bilinear sample is four multiply-adds, a mean one division. Offsets and mask are counted if
/// the layer can have them.
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

/// Both poolings and the fully connected layers between them. Values that pass between the stages
/// are not counted as moved.
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
        // Bias, slope and other vectors (such as `dw_bias`) are f32.
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
            receptive_step: self.sees.step(),
        })
    }
}
