//! SubPixelConv2d's kernels: those of Conv2d whose store can shuffle.

use super::launch::{Family, Stage, plan as plan_op};
use super::{Epilogue, PackedWeights, conv_direct, conv_gemm, conv2d};
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::layers::{Parameter, Plan, PlanRequest};
use crate::{Device, Element};

/// Chooses, packs and loads. The channels of the epilogue are in the order that the store expects; the weight's are canonical.
pub(crate) fn plan<T: Element>(
    device: &Device,
    request: &PlanRequest,
    geometry: ConvGeometry,
    weight: &Parameter,
    epilogue: Epilogue<'_>,
    packed: &PackedWeights,
) -> Result<Plan<T>> {
    let shuffles = |family: &Family<T>| [conv_gemm::FAMILY, conv_direct::FAMILY].contains(&family.name);
    let families = conv2d::families::<T>()
        .map(|family| if shuffles(&family) { family } else { Family { cost: |_, _| Err("its store does not shuffle".into()), ..family } });
    plan_op("sub_pixel_conv", &families, device, request, Stage { geometry, weight, epilogue, packed })
}
