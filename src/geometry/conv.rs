//! Convolutions and transposed convolutions.

use super::{Axis, Shape, elements, gcd};
use crate::error::{Error, Result};
use crate::spec::{Conv2dSpec, ConvTranspose2dSpec};

/// A convolution all of whose sizes are known and fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvGeometry {
    /// The number of images.
    pub n: usize,
    /// Input channels.
    pub c_in: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output channels.
    pub c_out: usize,
    /// Output height and width.
    pub output: [usize; 2],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zeros at the top, left, bottom and right.
    pub padding: [usize; 4],
    /// Vertical and horizontal dilation.
    pub dilation: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
    /// The number of groups of input channels with their own offsets in a deformable convolution; 1
    /// in others.
    pub offset_groups: usize,
    /// Whether the convolution is transposed. Then stride and dilation are those of the outputs
    /// that an input contributes to, and the padding is cut off.
    pub transposed: bool,
}

impl ConvGeometry {
    /// The geometry of `spec` with a weight [C_out, C_in / groups, kh, kw] on an input of shape
    /// `x`.
    ///
    /// # Errors
    /// What [`Conv2dSpec::check_weight`] refuses; [`Error::Shape`] when the channels of `x` do not
    /// fit the weight; [`Error::EmptyOutput`]; [`Error::Overflow`].
    pub fn conv2d(spec: &Conv2dSpec, x: Shape, weight: Shape) -> Result<Self> {
        spec.check_weight(weight)?;
        let [n, c_in, h, w] = x;
        let [c_out, group_channels, kh, kw] = weight;
        let expected = group_channels.checked_mul(spec.groups);
        if expected != Some(c_in) {
            let groups = spec.groups;
            let wanted = expected.map_or(format!("{groups} * {group_channels}"), |c_in| c_in.to_string());
            let by_group = if groups == 1 { String::new() } else { format!(", {group_channels} in each of {groups} groups") };
            let expected = format!("C_in = {wanted} channels{by_group}, as the weight {weight:?} has");
            return Err(Error::Shape { name: "x", shape: x.to_vec(), expected });
        }
        let padding = spec.padding.resolve([kh, kw], spec.dilation, spec.stride)?;
        let axis = |i: usize, input, kernel| Axis {
            input,
            padding: [padding[i], padding[i + 2]],
            kernel,
            stride: spec.stride[i],
            dilation: spec.dilation[i],
        };
        let output = [axis(0, h, kh).conv_output("height")?, axis(1, w, kw).conv_output("width")?];
        let geometry = Self {
            n,
            c_in,
            input: [h, w],
            c_out,
            output,
            kernel: [kh, kw],
            stride: spec.stride,
            padding,
            dilation: spec.dilation,
            groups: spec.groups,
            offset_groups: 1,
            transposed: false,
        };
        geometry.checked(weight)
    }

    /// The geometry of `spec` with a weight [C_in, C_out / groups, kh, kw] on an input of shape
    /// `x`.
    ///
    /// # Errors
    /// What [`ConvTranspose2dSpec::check_weight`] refuses; [`Error::Shape`] when the channels of
    /// `x` do not fit the weight; [`Error::Attribute`] for an image without pixels;
    /// [`Error::EmptyTransposedOutput`]; [`Error::Overflow`].
    pub fn conv_transpose2d(spec: &ConvTranspose2dSpec, x: Shape, weight: Shape) -> Result<Self> {
        spec.check_weight(weight)?;
        let [n, c_in, h, w] = x;
        let [weight_in, group_out, kh, kw] = weight;
        if c_in != weight_in {
            let expected = format!("C_in = {weight_in} channels, as the weight {weight:?} has");
            return Err(Error::Shape { name: "x", shape: x.to_vec(), expected });
        }
        let overflow = || Error::Overflow { what: "C_out", values: format!("weight {weight:?}, groups {}", spec.groups) };
        let axis = |i: usize, input, kernel| Axis {
            input,
            padding: [spec.padding[i], spec.padding[i + 2]],
            kernel,
            stride: spec.stride[i],
            dilation: spec.dilation[i],
        };
        let [extra_h, extra_w] = spec.output_padding;
        let output = [axis(0, h, kh).transposed_output("height", extra_h)?, axis(1, w, kw).transposed_output("width", extra_w)?];
        let geometry = Self {
            n,
            c_in,
            input: [h, w],
            c_out: group_out.checked_mul(spec.groups).ok_or_else(overflow)?,
            output,
            kernel: [kh, kw],
            stride: spec.stride,
            padding: spec.padding,
            dilation: spec.dilation,
            groups: spec.groups,
            offset_groups: 1,
            transposed: true,
        };
        geometry.checked(weight)
    }

    /// Checks that everything that is counted fits.
    fn checked(self, weight: Shape) -> Result<Self> {
        elements(&self.input_shape())?;
        elements(&weight)?;
        elements(&self.output_shape())?;
        self.macs()?;
        Ok(self)
    }

    /// The shape of the input, [N, C_in, H, W].
    pub fn input_shape(&self) -> Shape {
        [self.n, self.c_in, self.input[0], self.input[1]]
    }

    /// The shape of the output, [N, C_out, H_out, W_out].
    pub fn output_shape(&self) -> Shape {
        [self.n, self.c_out, self.output[0], self.output[1]]
    }

    /// The distance, along an axis, of the taps that one output reads. It is 1, or
    /// `stride / gcd(stride, dilation)` in a transposed convolution, where an output reads only
    /// those taps that meet an input.
    pub fn period(&self, axis: usize) -> usize {
        if self.transposed { self.stride[axis] / gcd(self.stride[axis], self.dilation[axis]) } else { 1 }
    }

    /// The number of inputs from the first to the last that an output of a transposed convolution
    /// reads along an axis, for the output that reads the most.
    pub fn transposed_reach(&self, axis: usize) -> usize {
        let period = self.period(axis);
        (self.kernel[axis].div_ceil(period) - 1) * (self.dilation[axis] / (self.stride[axis] / period)) + 1
    }

    /// The number of products in one output element, including products with zeros of the padding.
    /// If outputs differ, as in a transposed convolution, it is the largest number.
    pub fn products(&self) -> usize {
        self.c_in / self.groups * self.kernel[0].div_ceil(self.period(0)) * self.kernel[1].div_ceil(self.period(1))
    }

    /// The number of multiply-adds: outputs times [`ConvGeometry::products`], including those with
    /// zeros of the padding. For a transposed convolution it is inputs times taps and channels,
    /// including those that the padding cuts off, without inserted zeros.
    pub fn macs(&self) -> Result<u64> {
        let pixels = if self.transposed { self.input } else { self.output };
        let factors = [self.n, self.c_out, pixels[0], pixels[1], self.c_in / self.groups, self.kernel[0], self.kernel[1]];
        factors
            .iter()
            .try_fold(1u64, |product, &f| product.checked_mul(f as u64))
            .ok_or_else(|| Error::Overflow { what: "the number of multiply-adds", values: format!("{self:?}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_near_the_limit_are_errors_not_panics() {
        let axis = Axis { input: usize::MAX, padding: [1, 0], kernel: 3, stride: 1, dilation: 1 };
        assert!(matches!(axis.conv_output("width"), Err(Error::Overflow { .. })));
        let axis = Axis { input: 8, padding: [0, 0], kernel: usize::MAX, stride: 1, dilation: 3 };
        assert!(matches!(axis.conv_output("width"), Err(Error::Overflow { .. })));
        assert!(elements(&[1 << 31, 1 << 31, 2, 1]).is_err());
        assert!(elements(&[0, usize::MAX, 2]).is_err());
        assert_eq!(elements(&[0, 1 << 40]).unwrap(), 0);
        // With an empty batch x, y and the multiply-adds are small, whatever the weight.
        let spec = Conv2dSpec::default();
        let huge = 1 << 31;
        let geometry = ConvGeometry::conv2d(&spec, [0, huge, huge, huge], [1, huge, huge, huge]);
        assert!(matches!(geometry, Err(Error::Overflow { .. })), "{geometry:?}");
        let axis = Axis { input: usize::MAX, padding: [0, 0], kernel: 3, stride: 2, dilation: 1 };
        assert!(matches!(axis.transposed_output("width", 0), Err(Error::Overflow { .. })));
        let axis = Axis { input: 1, padding: [usize::MAX, 1], kernel: 3, stride: 2, dilation: 1 };
        assert!(matches!(axis.transposed_output("width", 0), Err(Error::Overflow { .. })));
        let spec = ConvTranspose2dSpec { groups: 1 << 33, ..Default::default() };
        let geometry = ConvGeometry::conv_transpose2d(&spec, [0, 1 << 33, 1, 1], [1 << 33, 1 << 33, 1, 1]);
        assert!(matches!(geometry, Err(Error::Overflow { .. })), "{geometry:?}");
    }

    #[test]
    fn a_transposed_output_sees_only_its_taps() {
        let spec = ConvTranspose2dSpec { stride: [2, 4], dilation: [1, 6], output_padding: [1, 5], ..Default::default() };
        let geometry = ConvGeometry::conv_transpose2d(&spec, [2, 8, 5, 6], [8, 3, 5, 5]).unwrap();
        assert_eq!(geometry.output_shape(), [2, 3, 14, 50]);
        assert_eq!([geometry.period(0), geometry.period(1)], [2, 2]);
        assert_eq!(geometry.products(), 8 * 3 * 3);
        assert_eq!(geometry.macs().unwrap(), 2 * 8 * 30 * 3 * 25);
    }
}
