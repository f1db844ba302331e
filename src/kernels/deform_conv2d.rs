//! The choice among the kernels of DeformConv2d.

use super::conv_params::geometry_params;
use super::launch::{Family, WeightedConv, plan as plan_op};
use super::{MAX_POSITION, at_most, check_image, deform_conv};
use crate::error::Result;
use crate::geometry::DeformGeometry;
use crate::plan::{Need, Needs, Plan, PlanRequest};
use crate::{Device, Element};

/// Makes a plan: chooses a kernel, packs the weights and loads the kernel.
pub(crate) fn plan<T: Element>(
    device: &Device,
    request: &PlanRequest,
    geometry: DeformGeometry,
    weighted: WeightedConv<'_>,
) -> Result<Plan<T>> {
    let families = [Family { name: deform_conv::FAMILY, candidate: deform_conv::candidate }];
    let DeformGeometry { conv, offset, mask } = geometry;
    geometry_params(&conv)?;
    for axis in 0..2 {
        let last = (conv.output[axis] - 1) * conv.stride[axis] + (conv.kernel[axis] - 1) * conv.dilation[axis];
        let farthest = conv.input[axis].max(last).max(conv.padding[axis]);
        at_most(MAX_POSITION, "the height or width of x with its padding, of which positions are f32,", farthest)?;
    }
    check_image("the number of offsets of an image", offset)?;
    check_image("the number of factors of an image's mask", mask)?;
    let plan = plan_op("deform_conv2d", &families, device, request, weighted)?;
    let needs = Needs { offset: Need::Required(offset), mask: Need::Optional(mask), ..plan.needs };
    Ok(Plan { needs, ..plan })
}
