//! Two convolutions in a row: by a kernel that computes both, or as a pair of launches.

use super::conv_params::geometry_params;
use super::launch::{Before, Family, Stage, candidates, least, least_time, plan_among};
use super::problem::Problem;
use super::several::Several;
use super::{KernelInfo, conv_separable, conv2d, spatial_gemm, spatial_separable};
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::{Estimate, PAIR, Plan, PlanRequest, pair};
use crate::{Device, Element, MemoryFormat};

/// The estimated time of two launches (for one image, where the choice may not depend on the batch), and what to ask of each.
fn cheapest_pair<T: Element>(
    device: &Device,
    request: &PlanRequest,
    geometries: [ConvGeometry; 2],
    finite_weights: [bool; 2],
) -> (Estimate, [PlanRequest; 2]) {
    let [first, second] = geometries;
    let pairs = MemoryFormat::ALL.map(|middle| {
        // the workspace is for the tensor between: a result does not depend on how much more of it is allowed
        let one = |x, x_format, y_format| PlanRequest { x, x_format, y_format, kernel: None, workspace_limit: 0, ..request.clone() };
        let requests = [one(first.input_shape(), request.x_format, middle), one(second.input_shape(), middle, request.y_format)];
        let families = conv2d::families::<T>();
        let stages = geometries.iter().zip(&requests).zip(finite_weights);
        let cost = stages.map(|((geometry, request), finite)| least_time(&families, device, request, *geometry, finite));
        (cost.sum::<Estimate>(), requests)
    });
    let [contiguous, channels_last] = pairs;
    if contiguous.0.seconds <= channels_last.0.seconds { contiguous } else { channels_last }
}

/// The estimated seconds of the plan that a vertical and a horizontal convolution would get.
///
/// # Errors
/// For sizes that no kernel takes.
#[cfg_attr(not(feature = "factorise"), allow(dead_code))]
pub(crate) fn spatial_seconds<T: Element>(device: &Device, request: &PlanRequest, geometries: [ConvGeometry; 2]) -> Result<f64> {
    let [column, row] = geometries;
    geometry_params(&column)?;
    geometry_params(&row)?;
    let problem = Problem { before: Some(column), ..Problem::new::<T>(device, request, row) };
    let fused = least(&candidates(&spatial_families::<T>(), &problem));
    Ok(cheapest_pair::<T>(device, request, geometries, [true; 2]).0.or_less(fused).seconds)
}

/// A vertical and a horizontal convolution.
pub(crate) fn spatially<T: Element>(op: &'static str, device: &Device, request: &PlanRequest, stages: [Stage<'_>; 2]) -> Result<Plan<T>> {
    let [column, row] = stages;
    let pack = |kernel: &'static KernelInfo, device: &Device, column: &Stage<'_>| match kernel.family {
        spatial_gemm::FAMILY => spatial_gemm::pack_column::<T>(kernel, device, column),
        _ => spatial_separable::pack_column::<T>(device, column),
    };
    let before = Before { stage: column, pack, names: ["col_weight", "col_bias", "mid_slope"] };
    either(op, device, request, &spatial_families(), before, row)
}

/// Those whose kernels compute both.
fn spatial_families<T: Element>() -> [Family<T>; 2] {
    [
        Family { name: spatial_separable::FAMILY, candidate: spatial_separable::candidate },
        Family { name: spatial_gemm::FAMILY, candidate: spatial_gemm::candidate },
    ]
}

/// A depthwise and a pointwise convolution.
pub(crate) fn depthwise<T: Element>(op: &'static str, device: &Device, request: &PlanRequest, stages: [Stage<'_>; 2]) -> Result<Plan<T>> {
    let [depthwise, pointwise] = stages;
    let families = [Family { name: conv_separable::FAMILY, candidate: conv_separable::candidate }];
    let pack = |_: &'static KernelInfo, device: &Device, depthwise: &Stage<'_>| conv_separable::pack_depthwise::<T>(device, depthwise);
    let before = Before { stage: depthwise, pack, names: ["dw_weight", "dw_bias", "mid_slope"] };
    either(op, device, request, &families, before, pointwise)
}

/// Chooses among the kernels of `families`, which compute both convolutions, and a pair of launches with the tensor between them in
/// the format that costs least.
fn either<T: Element>(
    op: &'static str,
    device: &Device,
    request: &PlanRequest,
    families: &[Family<T>],
    before: Before<'_>,
    second: Stage<'_>,
) -> Result<Plan<T>> {
    let stages = [before.stage, second];
    // estimates compute with sizes that a kernel can take
    for stage in &stages {
        geometry_params(&stage.geometry)?;
    }
    let finite = stages.map(|stage| stage.weight.is_finite_in(T::DTYPE));
    let (estimate, requests) = cheapest_pair::<T>(device, request, stages.map(|stage| stage.geometry), finite);
    let one = |index: usize| {
        let Stage { geometry, weight, epilogue, packed } = stages[index];
        conv2d::plan::<T>("conv2d", device, &requests[index], geometry, weight, epilogue, packed)
    };
    let several = Several { name: PAIR, estimate: Ok(estimate), plan: Box::new(|| pair(op, request, one(0)?, one(1)?)) };
    plan_among(op, families, device, request, Some(before), second, Some(&several))
}
