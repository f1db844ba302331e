//! The parameter structs of convolutions, and the geometry in the form in which they hold it.

use super::params::{
    ConvDepthwiseParams, ConvGeometryParams, ConvGroupedParams, ConvParams, ConvPatchParams, ConvSeparableParams, ConvTransposeParams,
    DeformConvParams, SpatialSeparableParams, Tensor4,
};
use super::{MAX_PRODUCTS, at_most, check_image, to_i32};
use crate::error::{Error, Result};
use crate::geometry::ConvGeometry;

/// The parameter struct of a kernel: what all kernels take, and what a family adds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KernelParams {
    Conv(ConvParams),
    Patch(ConvPatchParams),
    Depthwise(ConvDepthwiseParams),
    Grouped(ConvGroupedParams),
    Transpose(ConvTransposeParams),
    Separable(ConvSeparableParams),
    SpatialSeparable(SpatialSeparableParams),
    Deform(DeformConvParams),
}

impl Default for KernelParams {
    fn default() -> Self {
        KernelParams::Conv(ConvParams::default())
    }
}

impl KernelParams {
    pub fn conv(&mut self) -> &mut ConvParams {
        match self {
            KernelParams::Conv(params) => params,
            KernelParams::Patch(params) => &mut params.conv,
            KernelParams::Depthwise(params) => &mut params.conv,
            KernelParams::Grouped(params) => &mut params.conv,
            KernelParams::Transpose(params) => &mut params.conv,
            KernelParams::Separable(params) => &mut params.conv,
            KernelParams::SpatialSeparable(params) => &mut params.conv,
            KernelParams::Deform(params) => &mut params.conv,
        }
    }

    /// The parameters of the convolution that the kernel computes first, whose result is the input
    /// of its own.
    pub fn producer(&mut self) -> Option<&mut ConvParams> {
        match self {
            KernelParams::Separable(params) => Some(&mut params.depthwise),
            KernelParams::SpatialSeparable(params) => Some(&mut params.column),
            _ => None,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            KernelParams::Conv(params) => bytemuck::bytes_of(params),
            KernelParams::Patch(params) => bytemuck::bytes_of(params),
            KernelParams::Depthwise(params) => bytemuck::bytes_of(params),
            KernelParams::Grouped(params) => bytemuck::bytes_of(params),
            KernelParams::Transpose(params) => bytemuck::bytes_of(params),
            KernelParams::Separable(params) => bytemuck::bytes_of(params),
            KernelParams::SpatialSeparable(params) => bytemuck::bytes_of(params),
            KernelParams::Deform(params) => bytemuck::bytes_of(params),
        }
    }

    pub fn set_tensors(&mut self, x: Tensor4, y: Tensor4) {
        let conv = self.conv();
        (conv.x, conv.y) = (x, y);
        if let Some(producer) = self.producer() {
            producer.x = x;
        }
    }
}

/// The geometry as kernels take it. Every size, and every position that kernels compute, fits 32
/// bits.
pub(super) fn geometry_params(g: &ConvGeometry) -> Result<ConvGeometryParams> {
    let params = sizes(g)?;
    for axis in 0..2 {
        // In a transposed convolution, the larger tensor, which is padded, is the output.
        let (what, image) = if g.transposed {
            ("(input size - 1) * stride + dilation * (kernel - 1) + padding, the farthest position that kernels compute,", g.input)
        } else {
            ("(output size - 1) * stride + dilation * (kernel - 1) + padding, the farthest position that kernels compute,", g.output)
        };
        let last = (image[axis] - 1).checked_mul(g.stride[axis]);
        let taps = (g.kernel[axis] - 1).checked_mul(g.dilation[axis]);
        let reach = last.zip(taps).and_then(|(last, taps)| last.checked_add(taps)?.checked_add(g.padding[axis]));
        let values =
            || format!("{} - 1, {}, {}, {} - 1, {}", image[axis], g.stride[axis], g.dilation[axis], g.kernel[axis], g.padding[axis]);
        to_i32(what, reach.ok_or_else(|| Error::Overflow { what, values: values() })?)?;
        if g.transposed {
            to_i32("the padded output size", g.output[axis].saturating_add(g.padding[axis]))?;
        }
    }
    check_image("the number of elements of an image of x", g.input_shape())?;
    check_image("the number of elements of an image of y", g.output_shape())?;
    let products = [g.kernel[0], g.kernel[1]].iter().try_fold(g.c_in / g.groups, |products, &taps| products.checked_mul(taps));
    at_most(MAX_PRODUCTS, "C_in / groups times the taps", products.unwrap_or(usize::MAX))?;
    Ok(params)
}

/// The sizes of [`geometry_params`], each checked by itself.
fn sizes(g: &ConvGeometry) -> Result<ConvGeometryParams> {
    Ok(ConvGeometryParams {
        n: to_i32("N", g.n)?,
        c_in: to_i32("C_in", g.c_in)?,
        h: to_i32("the input height", g.input[0])?,
        w: to_i32("the input width", g.input[1])?,
        c_out: to_i32("C_out", g.c_out)?,
        h_out: to_i32("the output height", g.output[0])?,
        w_out: to_i32("the output width", g.output[1])?,
        kernel_h: to_i32("the kernel height", g.kernel[0])?,
        kernel_w: to_i32("the kernel width", g.kernel[1])?,
        stride_h: to_i32("the vertical stride", g.stride[0])?,
        stride_w: to_i32("the horizontal stride", g.stride[1])?,
        pad_top: to_i32("the top padding", g.padding[0])?,
        pad_left: to_i32("the left padding", g.padding[1])?,
        dilation_h: to_i32("the vertical dilation", g.dilation[0])?,
        dilation_w: to_i32("the horizontal dilation", g.dilation[1])?,
        groups: to_i32("groups", g.groups)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{MAX_COUNT, MAX_PRODUCTS};
    use crate::{Conv2dSpec, ConvTranspose2dSpec};

    /// Limits of weights for which no test has the memory. tests/extremes.rs tests the others.
    #[test]
    fn products_and_channels_are_limited() {
        let limit = |c_in: usize, c_out: usize, kernel: usize| {
            let geometry = ConvGeometry::conv2d(&Conv2dSpec::default(), [1, c_in, 1, kernel], [c_out, c_in, 1, kernel]);
            match geometry_params(&geometry.unwrap()) {
                Ok(_) => None,
                Err(Error::Limit { what, limit, .. }) => Some((what, limit as usize)),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(limit(1 << 10, 1, 1 << 20), None);
        assert_eq!(limit(1 << 10, 1, (1 << 20) + 1), Some(("C_in / groups times the taps", MAX_PRODUCTS)));
        assert_eq!(limit(1, MAX_COUNT, 1), None);
        assert_eq!(limit(1, MAX_COUNT + 1, 1), Some(("C_out", MAX_COUNT)));
    }

    /// The position of an output, including the padding before it, fits 32 bits, even if an
    /// output_padding makes it larger than any tap's.
    #[test]
    fn padded_outputs_are_limited() {
        let (stride, before) = (3 << 29, (1 << 29) - (1 << 16));
        let geometry = |after| {
            let spec = ConvTranspose2dSpec {
                stride: [1, stride],
                padding: [0, before, 0, after],
                output_padding: [0, stride - 1],
                ..Default::default()
            };
            geometry_params(&ConvGeometry::conv_transpose2d(&spec, [1, 1, 1, 2], [1, 1, 1, 1]).unwrap())
        };
        assert!(geometry((1 << 30) + (1 << 16)).is_ok());
        let refused = geometry(1 << 30);
        assert!(matches!(refused, Err(Error::Limit { what: "the padded output size", .. })), "{refused:?}");
    }
}
