//! DeformConv2d's kernels.

use super::launch::{Family, Stage, plan as plan_op};
use super::{Epilogue, PackedWeights, deform_conv};
use crate::error::Result;
use crate::geometry::DeformGeometry;
use crate::layers::{Need, Needs, Parameter, Plan, PlanRequest};
use crate::{Device, Element};

/// Chooses, packs and loads.
pub(crate) fn plan<T: Element>(
    device: &Device,
    request: &PlanRequest,
    geometry: DeformGeometry,
    weight: &Parameter,
    epilogue: Epilogue<'_>,
    packed: &PackedWeights,
) -> Result<Plan<T>> {
    let families = [Family { name: deform_conv::FAMILY, cost: deform_conv::cost, prepare: deform_conv::prepare }];
    let DeformGeometry { conv, offset, mask } = geometry;
    let plan = plan_op("deform_conv2d", &families, device, request, Stage { geometry: conv, weight, epilogue, packed })?;
    let needs = Needs { offset: Need::Required(offset), mask: Need::Optional(mask), ..plan.needs };
    Ok(Plan { needs, ..plan })
}
