//! kernels/conv_separable.cu: a depthwise convolution and the pointwise one that reads its result,
//! in one launch.

use super::candidate::{Candidate, Reason};
use super::conv_params::KernelParams;
use super::cost::{Work, least_bytes};
use super::launch::{ConvCandidate, WeightedConv};
use super::params::ConvSeparableParams;
use super::problem::ConvProblem;
use super::{Epilogue, KernelInfo, Packed, conv_gemm};
use crate::device::kernel::Gather;
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::Parameter;
use crate::{DType, Device, Element, memory};
use std::sync::Arc;

pub(crate) const FAMILY: &str = "conv_separable";
/// The order of the depthwise weight.
const LAYOUT: &str = "[tap][c_out padded to 64 bytes]";

/// Instructions of a thread for each tap of its 16 bytes of channels, in addition to products: the
/// load with its bounds test, and conversions.
const VECTOR_INSTRUCTIONS: f64 = 16.0;
/// The same instructions for each element that is loaded on its own.
const ELEMENT_INSTRUCTIONS: f64 = 8.0;
/// Instructions for each element of the intermediate result: bias, activation, rounding, and the
/// store to shared memory.
const FINISH_INSTRUCTIONS: f64 = 8.0;

pub(crate) fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    let ConvProblem { geometry: pointwise, dtype, .. } = problem;
    kernel.check_dtype(*dtype)?;
    let Some(depthwise) = &problem.producer else { return Err("it is for two convolutions in a row".into()) };
    let gather = kernel.gather();
    let format = gather.format();
    if problem.x_format != format {
        return Err(format!("it gathers from {format} inputs"));
    }
    let vectors = gather == Gather::Vectors;
    if vectors && depthwise.c_out != depthwise.c_in {
        return Err(format!("{} depthwise outputs are not one for each of {} input channels", depthwise.c_out, depthwise.c_in));
    }
    if vectors && depthwise.c_in * dtype.bytes() % conv_gemm::CHUNK_BYTES != 0 {
        return Err(format!("{} channels are not a multiple of {}", depthwise.c_in, conv_gemm::CHUNK_BYTES / dtype.bytes()));
    }
    let tile = conv_gemm::Tile::of(kernel);
    let tiling = conv_gemm::GemmTiling::fitting(pointwise, tile, problem)?;
    // The fallback for views that are not aligned must fit as well.
    conv_gemm::GemmTiling::fitting(pointwise, conv_gemm::Tile::of_every_gather(), problem)?;
    let mut config = conv_gemm::config(kernel, tile, &tiling, problem);
    (config.own.params, config.own.persistent) = (KernelParams::Separable(ConvSeparableParams::default()), false);
    Ok(Candidate { estimate: work(kernel, problem, depthwise, &tiling).estimate(problem), config })
}

fn work(kernel: &'static KernelInfo, problem: &ConvProblem<'_>, depthwise: &ConvGeometry, tiling: &conv_gemm::GemmTiling) -> Work {
    let (dtype, tile, vectors) = (problem.dtype, conv_gemm::Tile::of(kernel), kernel.gather() == Gather::Vectors);
    let total_steps = tiling.blocks() as f64 * tiling.steps as f64;
    let step = (conv_gemm::ROW_BYTES / dtype.bytes()) as f64;
    // Each stage: the block computes its share of the intermediate result by itself.
    let middle = total_steps * tile.m as f64 * step;
    let taps = (depthwise.kernel[0] * depthwise.kernel[1]) as f64;
    let vector = (conv_gemm::CHUNK_BYTES / dtype.bytes()) as f64;
    let each = 1.0 + if vectors { VECTOR_INSTRUCTIONS / vector } else { ELEMENT_INSTRUCTIONS };
    let macs = middle * tile.n as f64;
    let bytes = dtype.bytes() as f64;
    let instructions = middle * (taps * each + FINISH_INSTRUCTIONS) + if dtype == DType::F32 { macs } else { 0.0 };
    // What a tile reads of x comes from L2 once; the reads of its taps come from L1.
    let (columns, rows) = (tile.m.min(depthwise.output[1]), tile.m.div_ceil(depthwise.output[1].max(1)));
    let window = |axis: usize, outputs: usize| {
        (outputs.max(1) - 1) * depthwise.stride[axis] + (depthwise.kernel[axis] - 1) * depthwise.dilation[axis] + 1
    };
    let seen = (window(0, rows) as f64 * window(1, columns) as f64).min(tile.m as f64 * taps);
    Work {
        blocks: tiling.blocks() as f64,
        blocks_per_multiprocessor: conv_gemm::blocks_per_multiprocessor(kernel, problem.device.model) as f64,
        dram_bytes: fused_bytes(problem, depthwise),
        l2_bytes: total_steps * (seen * step * bytes + (tile.n * conv_gemm::ROW_BYTES) as f64),
        shared_bytes: total_steps * tile.shared_bytes_per_stage() as f64 + middle * taps * bytes * if vectors { 1.5 } else { 2.0 },
        tensor_macs: if dtype == DType::F32 { 0.0 } else { macs },
        ffma: instructions,
        ..Default::default()
    }
}

/// The bytes that must move: those of a convolution, with the input of the first convolution
/// instead of its own.
pub(super) fn fused_bytes(problem: &ConvProblem<'_>, before: &ConvGeometry) -> f64 {
    let elements = |shape: [usize; 4]| shape.iter().map(|&size| size as f64).product::<f64>();
    let replaced = elements(before.input_shape()) - elements(before.output_shape());
    least_bytes(problem) + replaced * problem.dtype.bytes() as f64
}

/// The depthwise weight with its epilogue. All of it is padded with zeros, so that kernels read
/// whole steps of 64 bytes.
pub(crate) fn pack_depthwise<T: Element>(device: &Device, depthwise: &WeightedConv<'_>) -> Result<Arc<Packed>> {
    let WeightedConv { geometry, weight, epilogue, packed } = depthwise;
    let padded = geometry.c_out.next_multiple_of(conv_gemm::ROW_BYTES / size_of::<T>());
    let pad = |vector: Option<&Parameter>| {
        let longer = |values: &[f32]| {
            let mut longer = memory::filled(padded, 0.0)?;
            longer[..values.len()].copy_from_slice(values);
            Ok(longer)
        };
        vector.map(|vector| vector.derived(&[padded], longer)).transpose()
    };
    let (bias, slope) = (pad(epilogue.bias)?, pad(epilogue.slope)?);
    let epilogue = Epilogue { bias: bias.as_ref(), slope: slope.as_ref(), activation: epilogue.activation, sub_pixel: None };
    let taps = geometry.kernel[0] * geometry.kernel[1];
    packed.get(device, LAYOUT, &epilogue, weight, |weight| {
        let mut all = memory::filled(taps * padded, T::from_f32(0.0))?;
        for (index, &value) in weight.values().iter().enumerate() {
            all[index % taps * padded + index / taps] = T::from_f32(value);
        }
        Ok(all)
    })
}
