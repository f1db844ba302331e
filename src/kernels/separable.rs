//! Two convolutions, one after the other: by a kernel that computes both, or as two launches.

use super::conv_params::geometry_params;
use super::launch::{Family, FusedProducer, WeightedConv, candidates, least, least_time, plan_among};
use super::problem::ConvProblem;
use super::several::Several;
use super::{KernelInfo, conv_separable, conv2d, spatial_gemm, spatial_separable};
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::{Estimate, PAIR, Plan, PlanRequest, pair};
use crate::{Device, Element, MemoryFormat};

/// The estimated time of two launches, and the request for each. The time is for one image if the
/// choice may not depend on the batch.
fn cheapest_pair<T: Element>(
    device: &Device,
    request: &PlanRequest,
    geometries: [ConvGeometry; 2],
    finite_weights: [bool; 2],
) -> (Estimate, [PlanRequest; 2]) {
    let [first, second] = geometries;
    let pairs = MemoryFormat::ALL.map(|middle| {
        // The workspace is for the tensor between the launches. A result does not depend on how
        // much more workspace is allowed.
        let one = |x, x_format, y_format| PlanRequest { x, x_format, y_format, kernel: None, workspace_limit: 0, ..request.clone() };
        let requests = [one(first.input_shape(), request.x_format, middle), one(second.input_shape(), middle, request.y_format)];
        let families = conv2d::families::<T>();
        let convs = geometries.iter().zip(&requests).zip(finite_weights);
        let cost = convs.map(|((geometry, request), finite)| least_time(&families, device, request, *geometry, finite));
        (cost.sum::<Estimate>(), requests)
    });
    let [contiguous, channels_last] = pairs;
    if contiguous.0.seconds <= channels_last.0.seconds { contiguous } else { channels_last }
}

/// The estimated seconds of the plan of a vertical convolution followed by a horizontal one.
///
/// # Errors
/// For sizes that no kernel takes.
#[cfg_attr(not(feature = "factorise"), allow(dead_code))]
pub(crate) fn spatial_seconds<T: Element>(device: &Device, request: &PlanRequest, geometries: [ConvGeometry; 2]) -> Result<f64> {
    let [column, row] = geometries;
    geometry_params(&column)?;
    geometry_params(&row)?;
    let problem = ConvProblem { producer: Some(column), ..ConvProblem::new::<T>(device, request, row) };
    let fused = least(&candidates(&spatial_families::<T>(), &problem));
    Ok(cheapest_pair::<T>(device, request, geometries, [true; 2]).0.or_less(fused).seconds)
}

/// Plans a vertical convolution followed by a horizontal one.
pub(crate) fn spatially<T: Element>(
    op: &'static str,
    device: &Device,
    request: &PlanRequest,
    convs: [WeightedConv<'_>; 2],
) -> Result<Plan<T>> {
    let [column, row] = convs;
    let pack = |kernel: &'static KernelInfo, device: &Device, column: &WeightedConv<'_>| match kernel.family {
        spatial_gemm::FAMILY => spatial_gemm::pack_column::<T>(kernel, device, column),
        _ => spatial_separable::pack_column::<T>(device, column),
    };
    let producer = FusedProducer { conv: column, pack, names: ["col_weight", "col_bias", "mid_slope"] };
    either(op, device, request, &spatial_families(), producer, row)
}

/// The families whose kernels compute both.
fn spatial_families<T: Element>() -> [Family<T>; 2] {
    [
        Family { name: spatial_separable::FAMILY, candidate: spatial_separable::candidate },
        Family { name: spatial_gemm::FAMILY, candidate: spatial_gemm::candidate },
    ]
}

/// Plans a depthwise convolution followed by a pointwise one.
pub(crate) fn depthwise<T: Element>(
    op: &'static str,
    device: &Device,
    request: &PlanRequest,
    convs: [WeightedConv<'_>; 2],
) -> Result<Plan<T>> {
    let [depthwise, pointwise] = convs;
    let families = [Family { name: conv_separable::FAMILY, candidate: conv_separable::candidate }];
    let pack =
        |_: &'static KernelInfo, device: &Device, depthwise: &WeightedConv<'_>| conv_separable::pack_depthwise::<T>(device, depthwise);
    let producer = FusedProducer { conv: depthwise, pack, names: ["dw_weight", "dw_bias", "mid_slope"] };
    either(op, device, request, &families, producer, pointwise)
}

/// Chooses among the kernels of `families`, which compute both convolutions, and two launches with
/// the tensor between them in the cheaper format.
fn either<T: Element>(
    op: &'static str,
    device: &Device,
    request: &PlanRequest,
    families: &[Family<T>],
    producer: FusedProducer<'_>,
    second: WeightedConv<'_>,
) -> Result<Plan<T>> {
    let convs = [producer.conv, second];
    // Estimates are computed from sizes that a kernel accepts.
    for conv in &convs {
        geometry_params(&conv.geometry)?;
    }
    let finite = convs.map(|conv| conv.weight.is_finite_in(T::DTYPE));
    let (estimate, requests) = cheapest_pair::<T>(device, request, convs.map(|conv| conv.geometry), finite);
    let one = |index: usize| conv2d::plan::<T>("conv2d", device, &requests[index], convs[index]);
    let several = Several { name: PAIR, estimate: Ok(estimate), plan: Box::new(|| pair(op, request, one(0)?, one(1)?)) };
    plan_among(op, families, device, request, Some(producer), second, Some(&several))
}
