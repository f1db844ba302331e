//! Shape inference: from a spec and an input's shape to the output's, in checked arithmetic. Every output size in the crate
//! is computed here, and only here.

use crate::error::{Error, Result};
use crate::layers::{Conv2dSpec, ConvTranspose2dSpec, Pooling};

/// A logical shape [N, C, H, W].
pub type Shape = [usize; 4];

/// `shape` as a [`Shape`], or an error that names the tensor.
pub fn rank4(name: &'static str, shape: &[usize]) -> Result<Shape> {
    shape.try_into().map_err(|_| Error::Rank { name, shape: shape.to_vec(), expected: 4, meaning: "[N, C, H, W]" })
}

/// Elements of a shape.
///
/// # Errors
/// [`Error::Overflow`] when their number, or their size in bytes at 8 bytes each, does not fit 63 bits. Sizes of 0 count as 1
/// there, so that the strides of an empty tensor fit too.
pub fn elements(shape: &[usize]) -> Result<usize> {
    let extent = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)));
    if extent.is_none_or(|count| count > isize::MAX as usize / 8) {
        return Err(Error::Overflow { what: "the number of elements", values: format!("shape {shape:?}") });
    }
    Ok(shape.iter().product())
}

/// The extent of a dilated kernel, `dilation * (kernel - 1) + 1`: its receptive field on its own input.
pub fn kernel_span(kernel: usize, dilation: usize) -> Result<usize> {
    let overflow = || Error::Overflow { what: "dilation * (kernel - 1) + 1", values: format!("dilation {dilation}, kernel {kernel}") };
    kernel.checked_sub(1).and_then(|k| k.checked_mul(dilation)).and_then(|s| s.checked_add(1)).ok_or_else(overflow)
}

/// One axis of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Input size.
    pub input: usize,
    /// Zeros before and after the input.
    pub padding: [usize; 2],
    /// Kernel size.
    pub kernel: usize,
    /// Step of the kernel between outputs.
    pub stride: usize,
    /// Distance of neighbouring taps.
    pub dilation: usize,
}

impl Axis {
    /// `floor((input + padding - dilation * (kernel - 1) - 1) / stride) + 1`.
    ///
    /// ```
    /// use warpconv::geometry::Axis;
    /// let axis = Axis { input: 224, padding: [3, 3], kernel: 7, stride: 2, dilation: 1 };
    /// assert_eq!(axis.conv_output("height")?, 112);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::EmptyOutput`] when the kernel does not fit the padded input; [`Error::Attribute`] for a stride, dilation or
    /// kernel of 0; [`Error::Overflow`].
    pub fn conv_output(self, axis: &'static str) -> Result<usize> {
        let Axis { input, padding: [before, after], kernel, stride, dilation } = self;
        positive("kernel size", kernel)?;
        positive("stride", stride)?;
        positive("dilation", dilation)?;
        let span = kernel_span(kernel, dilation)?;
        let padded = input.checked_add(before).and_then(|s| s.checked_add(after)).ok_or_else(|| Error::Overflow {
            what: "the padded input size",
            values: format!("{axis} {input}, padding {before} + {after}"),
        })?;
        if span > padded {
            return Err(Error::EmptyOutput { axis, input, before, after, kernel, dilation, span });
        }
        Ok((padded - span) / stride + 1)
    }

    /// `(input - 1) * stride + dilation * (kernel - 1) + 1 + extra - padding`: the size of a transposed convolution, whose padding
    /// is cut off. `extra` is its output_padding.
    ///
    /// ```
    /// use warpconv::geometry::Axis;
    /// let axis = Axis { input: 112, padding: [1, 1], kernel: 4, stride: 2, dilation: 1 };
    /// assert_eq!(axis.transposed_output("height", 0)?, 224);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Attribute`] for an input, stride, dilation or kernel of 0, or an `extra` that is not below stride or dilation;
    /// [`Error::EmptyTransposedOutput`] when the padding leaves nothing; [`Error::Overflow`].
    pub fn transposed_output(self, axis: &'static str, extra: usize) -> Result<usize> {
        let Axis { input, padding: [before, after], kernel, stride, dilation } = self;
        positive("input size", input)?;
        positive("kernel size", kernel)?;
        positive("stride", stride)?;
        positive("dilation", dilation)?;
        if extra >= stride.max(dilation) {
            let requirement = "below the stride or the dilation";
            return Err(Error::Attribute { name: "output_padding", value: extra.to_string(), requirement });
        }
        let overflow = || Error::Overflow {
            what: "the size before padding is cut off",
            values: format!("{axis} {input}, stride {stride}, kernel {kernel}, dilation {dilation}, output_padding {extra}"),
        };
        let full = (input - 1).checked_mul(stride).and_then(|s| s.checked_add(kernel_span(kernel, dilation).ok()?)?.checked_add(extra));
        let full = full.ok_or_else(overflow)?;
        let cut = before.checked_add(after).ok_or_else(overflow)?;
        if cut >= full {
            return Err(Error::EmptyTransposedOutput { axis, input, stride, full, before, after });
        }
        Ok(full - cut)
    }
}

/// Refuses 0.
pub(crate) fn positive(name: &'static str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::Attribute { name, value: "0".into(), requirement: "at least 1" });
    }
    Ok(())
}

/// Refuses a number of channels that the groups do not divide.
pub(crate) fn divisible(name: &'static str, value: usize, divisor_name: &'static str, divisor: usize) -> Result<()> {
    if !value.is_multiple_of(divisor) {
        return Err(Error::Divisibility { name, value, divisor_name, divisor });
    }
    Ok(())
}

/// A convolution whose every size is known and fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Images.
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
    /// The transpose: stride and dilation are those of the outputs that an input reaches, padding is what is cut off.
    pub transposed: bool,
}

impl ConvGeometry {
    /// The geometry of `spec` with a weight [C_out, C_in / groups, kh, kw] on an input of shape `x`.
    ///
    /// # Errors
    /// What [`Conv2dSpec::check_weight`] refuses; [`Error::Shape`] when the channels of `x` are not the weight's;
    /// [`Error::EmptyOutput`]; [`Error::Overflow`].
    pub fn conv2d(spec: &Conv2dSpec, x: Shape, weight: Shape) -> Result<Self> {
        spec.check_weight(weight)?;
        let [n, c_in, h, w] = x;
        let [c_out, group_channels, kh, kw] = weight;
        let expected = group_channels.checked_mul(spec.groups);
        if expected != Some(c_in) {
            return Err(Error::Shape {
                name: "x",
                shape: x.to_vec(),
                expected: format!("{group_channels} channels in each of {} groups, as the weight {weight:?} has", spec.groups),
            });
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
            transposed: false,
        };
        geometry.checked(weight)
    }

    /// The geometry of `spec` with a weight [C_in, C_out / groups, kh, kw] on an input of shape `x`.
    ///
    /// # Errors
    /// What [`ConvTranspose2dSpec::check_weight`] refuses; [`Error::Shape`] when the channels of `x` are not the weight's;
    /// [`Error::Attribute`] for an image without pixels; [`Error::EmptyTransposedOutput`]; [`Error::Overflow`].
    pub fn conv_transpose2d(spec: &ConvTranspose2dSpec, x: Shape, weight: Shape) -> Result<Self> {
        spec.check_weight(weight)?;
        let [n, c_in, h, w] = x;
        let [weight_in, group_out, kh, kw] = weight;
        if c_in != weight_in {
            let expected = format!("{weight_in} channels, as the weight {weight:?} has");
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
            transposed: true,
        };
        geometry.checked(weight)
    }

    /// Itself, if all that is counted fits.
    fn checked(self, weight: Shape) -> Result<Self> {
        elements(&self.input_shape())?;
        elements(&weight)?;
        elements(&self.output_shape())?;
        self.macs()?;
        Ok(self)
    }

    /// [N, C_in, H, W].
    pub fn input_shape(&self) -> Shape {
        [self.n, self.c_in, self.input[0], self.input[1]]
    }

    /// [N, C_out, H_out, W_out].
    pub fn output_shape(&self) -> Shape {
        [self.n, self.c_out, self.output[0], self.output[1]]
    }

    /// Along an axis, the distance of the taps that an output sees: 1, or `stride / gcd(stride, dilation)` of a transposed
    /// convolution, where an output sees only those taps that do not fall between the inputs.
    pub fn period(&self, axis: usize) -> usize {
        if self.transposed { self.stride[axis] / gcd(self.stride[axis], self.dilation[axis]) } else { 1 }
    }

    /// Products that are summed into one output element, those with padding's zeros included; the most where outputs differ, as
    /// those of a transposed convolution do.
    pub fn products(&self) -> usize {
        self.c_in / self.groups * self.kernel[0].div_ceil(self.period(0)) * self.kernel[1].div_ceil(self.period(1))
    }

    /// Multiply-adds: outputs times [`ConvGeometry::products`], so those with padding's zeros included. Of a transposed
    /// convolution inputs times taps and channels, so those that the padding cuts off included, and no inserted zeros.
    pub fn macs(&self) -> Result<u64> {
        let pixels = if self.transposed { self.input } else { self.output };
        let factors = [self.n, self.c_out, pixels[0], pixels[1], self.c_in / self.groups, self.kernel[0], self.kernel[1]];
        factors
            .iter()
            .try_fold(1u64, |product, &f| product.checked_mul(f as u64))
            .ok_or_else(|| Error::Overflow { what: "the number of multiply-adds", values: format!("{self:?}") })
    }
}

/// A pooling of regions of interest whose every size is known and fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiGeometry {
    /// [N, C, H, W].
    pub x: Shape,
    /// RoIs: K.
    pub rois: usize,
    /// Channels of the output.
    pub c_out: usize,
    /// Height and width of the output.
    pub pooled: [usize; 2],
    /// Groups of output channels that have offsets and a mask of their own.
    pub classes: usize,
    pub(crate) pooling: Pooling,
}

impl RoiGeometry {
    /// The geometry of `pooling` on `rois` RoIs of an input of shape `x`.
    ///
    /// # Errors
    /// What [`Pooling::check`] refuses; [`Error::Attribute`] for an input without rows or columns; [`Error::Divisibility`] when
    /// the bins of a position-sensitive pooling do not divide C, or the offset groups the output's channels; [`Error::Overflow`].
    pub(crate) fn new(pooling: Pooling, x: Shape, rois: usize) -> Result<Self> {
        pooling.check()?;
        let [_, c, h, w] = x;
        positive("the height of x", h)?;
        positive("the width of x", w)?;
        let pooled = pooling.output_size;
        let bins = elements(&pooled)?;
        let c_out = if pooling.position_sensitive {
            divisible("C", c, "output height * output width", bins)?;
            c / bins
        } else {
            c
        };
        divisible("C_out", c_out, "offset_groups", pooling.classes)?;
        let geometry = Self { x, rois, c_out, pooled, classes: pooling.classes, pooling };
        elements(&x)?;
        for shape in [geometry.output_shape(), geometry.offset_shape(), geometry.mask_shape()] {
            elements(&shape)?;
        }
        Ok(geometry)
    }

    /// [K, C_out, ph, pw].
    pub fn output_shape(&self) -> Shape {
        [self.rois, self.c_out, self.pooled[0], self.pooled[1]]
    }

    /// [K, 2 * classes, ph, pw]: right and down for each.
    pub fn offset_shape(&self) -> Shape {
        [self.rois, 2 * self.classes, self.pooled[0], self.pooled[1]]
    }

    /// [K, classes, ph, pw].
    pub fn mask_shape(&self) -> Shape {
        [self.rois, self.classes, self.pooled[0], self.pooled[1]]
    }

    /// What one bin of one channel is taken to read, as (samples or pixels): those of its grid where the attributes fix it, else
    /// as many as a RoI over the whole input has.
    pub fn samples(&self) -> usize {
        let [ph, pw] = self.pooled;
        match usize::try_from(self.pooling.sampling_ratio) {
            Ok(ratio) if ratio > 0 => ratio * ratio,
            _ => self.x[2].div_ceil(ph) * self.x[3].div_ceil(pw),
        }
    }
}

/// The greatest common divisor of two positive numbers.
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
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
        // an empty batch makes x, y and the multiply-adds small, whatever the weight
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
