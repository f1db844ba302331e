//! Conv2d's kernels.

use super::launch::{Family, Stage, geometry_params, least_cost, plan as plan_op};
use super::{Epilogue, PackedWeights, conv_depthwise, conv_direct, conv_gemm, conv_grouped};
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::layers::{Parameter, Plan, PlanRequest};
use crate::{Device, Element};

pub(crate) fn families<T: Element>() -> [Family<T>; 4] {
    [
        Family { name: conv_depthwise::FAMILY, cost: conv_depthwise::cost, prepare: conv_depthwise::prepare },
        Family { name: conv_grouped::FAMILY, cost: conv_grouped::cost, prepare: conv_grouped::prepare },
        Family { name: conv_gemm::FAMILY, cost: conv_gemm::cost, prepare: conv_gemm::prepare },
        Family { name: conv_direct::FAMILY, cost: conv_direct::cost, prepare: conv_direct::prepare },
    ]
}

/// The estimated time of the plan that a convolution would get.
///
/// # Errors
/// For sizes that no kernel takes.
pub(crate) fn seconds<T: Element>(device: &Device, request: &PlanRequest, geometry: ConvGeometry) -> Result<f64> {
    geometry_params(&geometry)?;
    Ok(least_cost(&families::<T>(), device, request, geometry, true).seconds)
}

/// Chooses, packs and loads.
pub(crate) fn plan<T: Element>(
    op: &'static str,
    device: &Device,
    request: &PlanRequest,
    geometry: ConvGeometry,
    weight: &Parameter,
    epilogue: Epilogue<'_>,
    packed: &PackedWeights,
) -> Result<Plan<T>> {
    plan_op(op, &families(), device, request, Stage { geometry, weight, epilogue, packed })
}
