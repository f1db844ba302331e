//! Two convolutions in a row: one launch where a kernel does both and is estimated to be faster, else a pair.

use super::cost::Estimate;
use super::launch::{self, Before, Family, Stage};
use super::{KernelInfo, conv_separable, conv2d, no_such_kernel, overruling, spatial_gemm, spatial_separable};
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::layers::{Choice, ChosenBy, Needs, PAIR, Plan, PlanRequest, sequence};
use crate::{Device, Element, MemoryFormat};

/// Two launches with the tensor between them in the workspace, in the format that costs least.
struct Pair<'a> {
    stages: [Stage<'a>; 2],
    requests: [PlanRequest; 2],
    cost: Estimate,
}

impl<'a> Pair<'a> {
    fn new<T: Element>(device: &Device, request: &PlanRequest, stages: [Stage<'a>; 2]) -> Self {
        let finite = stages.map(|stage| stage.weight.is_finite_in(T::DTYPE));
        let (cost, requests) = cheapest_pair::<T>(device, request, stages.map(|stage| stage.geometry), finite);
        Self { stages, requests, cost }
    }

    fn choice(&self) -> Choice {
        Choice { kernel: PAIR, verdict: Ok(self.cost) }
    }

    fn plan<T: Element>(&self, op: &'static str, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        let one = |index: usize| {
            let Stage { geometry, weight, epilogue, packed } = self.stages[index];
            conv2d::plan::<T>("conv2d", device, &self.requests[index], geometry, weight, epilogue, packed)
        };
        let (first, second) = (one(0)?, one(1)?);
        let needs = Needs::residual(second.output_shape());
        sequence(op, request, needs, first, second)
    }
}

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
        let cost = stages.map(|((geometry, request), finite)| launch::least_cost(&families, device, request, *geometry, finite));
        (cost.sum::<Estimate>(), requests)
    });
    let [contiguous, channels_last] = pairs;
    if contiguous.0.seconds <= channels_last.0.seconds { contiguous } else { channels_last }
}

/// The estimated seconds of the plan that a vertical and a horizontal convolution would get.
///
/// # Errors
/// For sizes that no kernel takes.
pub(crate) fn spatial_seconds<T: Element>(device: &Device, request: &PlanRequest, geometries: [ConvGeometry; 2]) -> Result<f64> {
    let [column, row] = geometries;
    launch::geometry_params(&column)?;
    launch::geometry_params(&row)?;
    let problem = launch::Problem { before: Some(column), ..launch::Problem::new::<T>(device, request, row) };
    let fused = launch::candidates(&spatial_families::<T>(), &problem).into_iter().filter_map(|choice| choice.verdict.ok());
    Ok(fused.fold(cheapest_pair::<T>(device, request, geometries, [true; 2]).0, Estimate::or_less).seconds)
}

/// A vertical and a horizontal convolution.
pub(crate) fn spatially<T: Element>(op: &'static str, device: &Device, request: &PlanRequest, stages: [Stage<'_>; 2]) -> Result<Plan<T>> {
    let [column, row] = stages;
    let pack = |kernel: &KernelInfo, device: &Device, column: &Stage<'_>| match kernel.family {
        spatial_gemm::FAMILY => spatial_gemm::pack_column::<T>(kernel, device, column),
        _ => spatial_separable::pack_column::<T>(device, column),
    };
    let before = Before { stage: column, pack, names: ["col_weight", "col_bias", "mid_slope"] };
    either(op, device, request, &spatial_families(), before, row)
}

/// Those whose kernels compute both.
fn spatial_families<T: Element>() -> [Family<T>; 2] {
    [
        Family { name: spatial_separable::FAMILY, cost: spatial_separable::cost, prepare: spatial_separable::prepare },
        Family { name: spatial_gemm::FAMILY, cost: spatial_gemm::cost, prepare: spatial_gemm::prepare },
    ]
}

/// A depthwise and a pointwise convolution.
pub(crate) fn depthwise<T: Element>(op: &'static str, device: &Device, request: &PlanRequest, stages: [Stage<'_>; 2]) -> Result<Plan<T>> {
    let [depthwise, pointwise] = stages;
    let families = [Family { name: conv_separable::FAMILY, cost: conv_separable::cost, prepare: conv_separable::prepare }];
    let pack = |_: &KernelInfo, device: &Device, depthwise: &Stage<'_>| conv_separable::pack_depthwise::<T>(device, depthwise);
    let before = Before { stage: depthwise, pack, names: ["dw_weight", "dw_bias", "mid_slope"] };
    either(op, device, request, &families, before, pointwise)
}

/// The cheaper one of a pair and a kernel of `families`, which computes both stages, or what the request names.
fn either<T: Element>(
    op: &'static str,
    device: &Device,
    request: &PlanRequest,
    families: &[Family<T>],
    before: Before<'_>,
    second: Stage<'_>,
) -> Result<Plan<T>> {
    let first = before.stage;
    // estimates compute with sizes that a kernel can take
    launch::geometry_params(&first.geometry)?;
    launch::geometry_params(&second.geometry)?;
    let finite_weights = launch::are_finite::<T>(&[first, second])?;
    let pair = Pair::new::<T>(device, request, [first, second]);
    let problem = launch::Problem::new::<T>(device, request, second.geometry);
    let problem = launch::Problem { before: Some(first.geometry), finite_weights, ..problem };
    let cost = |choice: &Choice| choice.verdict.as_ref().map_or(f64::INFINITY, |estimate| estimate.seconds);
    // estimates like the pair's: for one image, where the choice may not depend on the batch
    let mut fused = launch::candidates(families, &problem.for_configuration());
    if request.batch_invariant {
        launch::keep_one_order(families, &problem, &mut fused);
    }
    let (described, all) = (problem.describe(op), [fused.as_slice(), &[pair.choice()]].concat());
    let (wanted, chosen_by) = overruling(device, request, &described, &all).unzip();
    if let Some(name) = wanted.as_deref().filter(|name| all.iter().all(|choice| choice.kernel != *name)) {
        return Err(no_such_kernel(op, name, &all));
    }
    let paired = match wanted.as_deref() {
        Some(name) => name == PAIR,
        None => fused.iter().all(|choice| cost(choice) >= pair.cost.seconds),
    };
    let mut plan = if paired {
        let mut plan = pair.plan(op, device, request)?;
        plan.explanation.problem = described;
        plan.explanation.chosen_by = chosen_by.unwrap_or(ChosenBy::CostModel);
        fused.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        plan.explanation.choices = fused;
        plan.explanation.choices.insert(0, pair.choice());
        plan
    } else {
        let mut plan = launch::plan_after(op, families, device, request, Some(before), second)?;
        plan.explanation.choices.push(pair.choice());
        plan
    };
    // the chosen one stays in front
    plan.explanation.choices[1..].sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    Ok(plan)
}
