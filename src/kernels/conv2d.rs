//! Conv2d's kernels.

use super::conv_params::geometry_params;
use super::launch::{Family, WeightedConv, least_time, plan as plan_op};
use super::{conv_any, conv_banded, conv_depthwise, conv_direct, conv_gemm, conv_grouped};
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::{Estimate, Plan, PlanRequest};
use crate::{Device, Element};

pub(crate) fn families<T: Element>() -> [Family<T>; 6] {
    [
        Family { name: conv_depthwise::FAMILY, candidate: conv_depthwise::candidate },
        Family { name: conv_any::FAMILY, candidate: conv_depthwise::candidate },
        Family { name: conv_banded::FAMILY, candidate: conv_depthwise::candidate },
        Family { name: conv_grouped::FAMILY, candidate: conv_grouped::candidate },
        Family { name: conv_gemm::FAMILY, candidate: conv_gemm::candidate },
        Family { name: conv_direct::FAMILY, candidate: conv_direct::candidate },
    ]
}

/// The estimated time of the plan that a convolution would get.
///
/// # Errors
/// For sizes that no kernel takes.
pub(crate) fn time<T: Element>(device: &Device, request: &PlanRequest, geometry: ConvGeometry, finite_weights: bool) -> Result<Estimate> {
    geometry_params(&geometry)?;
    Ok(least_time(&families::<T>(), device, request, geometry, finite_weights))
}

/// Chooses, packs and loads.
pub(crate) fn plan<T: Element>(op: &'static str, device: &Device, request: &PlanRequest, conv: WeightedConv<'_>) -> Result<Plan<T>> {
    plan_op(op, &families(), device, request, conv)
}
