//! Shape inference: from a spec and an input's shape to the output's, in checked arithmetic. Every output size in the crate
//! is computed here, and only here.

use crate::error::{Error, Result};
pub use crate::shape::{Shape, elements, kernel_span, rank4};
pub(crate) use crate::shape::{divisible, gcd, positive};
use crate::spec::{Conv2dSpec, ConvTranspose2dSpec, DeformConv2dSpec, FocusSpec, Pooling, UpsampleBilinearSpec, UpsampleSize};

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
    /// Groups of input channels with offsets of their own, where the convolution is deformable; else 1.
    pub offset_groups: usize,
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

    /// Along an axis of a transposed convolution, the inputs from the first to the last that an output sees, the most of any output.
    pub fn transposed_reach(&self, axis: usize) -> usize {
        let period = self.period(axis);
        (self.kernel[axis].div_ceil(period) - 1) * (self.dilation[axis] / (self.stride[axis] / period)) + 1
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

/// The two sides of a rearrangement of pixels into channels: *deep*, [N, C * r * r, H, W], and *wide*, [N, C, H * r, W * r].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockGeometry {
    /// Images.
    pub n: usize,
    /// Channels of the wide side: C.
    pub channels: usize,
    /// r: the deep side has a channel for each of the r x r pixels of a block.
    pub factor: usize,
    /// H and W: blocks of the wide side, pixels of the deep one.
    pub blocks: [usize; 2],
}

impl BlockGeometry {
    /// From the shape of the deep side.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a factor of 0; [`Error::Divisibility`] when r * r does not divide the channels;
    /// [`Error::Overflow`].
    pub fn deep(shape: Shape, factor: usize) -> Result<Self> {
        positive("r", factor)?;
        let [n, c, h, w] = shape;
        let squares = factor.checked_mul(factor).ok_or_else(|| overflow_of("r * r", factor))?;
        divisible("the number of channels", c, "r * r", squares)?;
        Self { n, channels: c / squares, factor, blocks: [h, w] }.checked()
    }

    /// From the shape of the wide side.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a factor of 0; [`Error::Divisibility`] when r does not divide height and width;
    /// [`Error::Overflow`].
    pub fn wide(shape: Shape, factor: usize) -> Result<Self> {
        positive("r", factor)?;
        let [n, channels, h, w] = shape;
        divisible("the input height", h, "r", factor)?;
        divisible("the input width", w, "r", factor)?;
        Self { n, channels, factor, blocks: [h / factor, w / factor] }.checked()
    }

    /// With all products known to fit.
    fn checked(self) -> Result<Self> {
        let Self { n, channels, factor: r, blocks: [h, w] } = self;
        let product = |a: usize, b: usize| a.checked_mul(b).ok_or_else(|| overflow_of("a rearranged size", r));
        elements(&[n, product(product(channels, r)?, r)?, h, w])?;
        elements(&[n, channels, product(h, r)?, product(w, r)?])?;
        Ok(self)
    }

    /// [N, C * r * r, H, W].
    pub fn deep_shape(&self) -> Shape {
        [self.n, self.channels * self.factor * self.factor, self.blocks[0], self.blocks[1]]
    }

    /// [N, C, H * r, W * r].
    pub fn wide_shape(&self) -> Shape {
        [self.n, self.channels, self.blocks[0] * self.factor, self.blocks[1] * self.factor]
    }
}

fn overflow_of(what: &'static str, factor: usize) -> Error {
    Error::Overflow { what, values: format!("r = {factor}") }
}

/// Bilinear interpolation whose every size is known and fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpsampleGeometry {
    /// Images.
    pub n: usize,
    /// Channels.
    pub channels: usize,
    /// Input height and width, at least 1.
    pub input: [usize; 2],
    /// Output height and width, at least 1.
    pub output: [usize; 2],
    /// Input pixels for each output pixel, vertically and horizontally, in f32 as PyTorch computes it.
    pub scale: [f32; 2],
    /// Whether the centres of the corner pixels coincide.
    pub align_corners: bool,
}

impl UpsampleGeometry {
    /// The geometry of `spec` on an input of shape `x`.
    ///
    /// # Errors
    /// [`Error::Attribute`] for an empty input or output, or a scale that is not positive and finite; [`Error::Overflow`].
    pub fn new(spec: &UpsampleBilinearSpec, x: Shape) -> Result<Self> {
        let [n, channels, h, w] = x;
        positive("the input height", h)?;
        positive("the input width", w)?;
        let output = match spec.size {
            UpsampleSize::Output(size) => size,
            UpsampleSize::Scale(scale) => {
                let scaled = |input: usize, scale: f64| {
                    if !(scale.is_finite() && scale > 0.0) {
                        return Err(Error::Attribute { name: "scale", value: scale.to_string(), requirement: "positive and finite" });
                    }
                    let size = (input as f64 * scale).floor();
                    let overflow = || Error::Overflow { what: "the output size", values: format!("{input} * {scale}") };
                    if size < 2f64.powi(53) { Ok(size as usize) } else { Err(overflow()) }
                };
                [scaled(h, scale[0])?, scaled(w, scale[1])?]
            }
        };
        positive("the output height", output[0])?;
        positive("the output width", output[1])?;
        let ratio = |axis: usize| match spec.size {
            _ if spec.align_corners && output[axis] == 1 => 0.0,
            _ if spec.align_corners => (x[2 + axis] - 1) as f32 / (output[axis] - 1) as f32,
            UpsampleSize::Output(_) => x[2 + axis] as f32 / output[axis] as f32,
            UpsampleSize::Scale(scale) => (1.0 / scale[axis]) as f32,
        };
        let scale = [ratio(0), ratio(1)];
        let geometry = Self { n, channels, input: [h, w], output, scale, align_corners: spec.align_corners };
        elements(&geometry.input_shape())?;
        elements(&geometry.output_shape())?;
        Ok(geometry)
    }

    /// [N, C, H, W].
    pub fn input_shape(&self) -> Shape {
        [self.n, self.channels, self.input[0], self.input[1]]
    }

    /// [N, C, H_out, W_out].
    pub fn output_shape(&self) -> Shape {
        [self.n, self.channels, self.output[0], self.output[1]]
    }
}

impl ConvGeometry {
    /// The convolution of a Focus layer with a weight [C_out, 4 * C / groups, kh, kw], on the slices of an input of shape `x`.
    ///
    /// # Errors
    /// [`Error::Divisibility`] for an odd height or width; [`Error::Shape`] when the weight has other input channels; otherwise
    /// as [`ConvGeometry::conv2d`].
    pub fn focus(spec: &FocusSpec, x: Shape, weight: Shape) -> Result<Self> {
        let slices = BlockGeometry::wide(x, 2)?.deep_shape();
        if weight[1].checked_mul(spec.conv.groups) != Some(slices[1]) {
            let expected = format!("{} channels in all groups together: 4 for each of x {x:?}", slices[1]);
            return Err(Error::Shape { name: "weight", shape: weight.to_vec(), expected });
        }
        Self::conv2d(&spec.conv, slices, weight)
    }

    /// A Focus layer without dilation and groups as one convolution of x itself: every tap of a slice is a tap of x, so that
    /// kernel, stride and padding are twice as large. `self` is that of [`ConvGeometry::focus`].
    ///
    /// # Errors
    /// [`Error::Overflow`].
    pub(crate) fn focus_fused(&self) -> Result<Self> {
        let twice =
            |v: usize| v.checked_mul(2).ok_or_else(|| Error::Overflow { what: "a size of the fused filter", values: format!("2 * {v}") });
        let pair = |[h, w]: [usize; 2]| Ok::<_, Error>([twice(h)?, twice(w)?]);
        let [top, left, bottom, right] = self.padding;
        let padding = [twice(top)?, twice(left)?, twice(bottom)?, twice(right)?];
        let (kernel, stride, input) = (pair(self.kernel)?, pair(self.stride)?, pair(self.input)?);
        Ok(Self { c_in: self.c_in / 4, input, kernel, stride, padding, ..*self })
    }
}

/// A deformable convolution whose every size is known and fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeformGeometry {
    /// That of the taps' places before they are moved.
    pub conv: ConvGeometry,
    /// The shape of the offsets, [N, 2 * offset_groups * kh * kw, H_out, W_out].
    pub offset: Shape,
    /// The shape of the mask, [N, offset_groups * kh * kw, H_out, W_out].
    pub mask: Shape,
}

impl DeformGeometry {
    /// The geometry of `spec` with a weight [C_out, C_in / groups, kh, kw] on an input of shape `x`.
    ///
    /// # Errors
    /// What [`ConvGeometry::conv2d`] and [`DeformGeometry::check_weight`] refuse.
    pub fn new(spec: &DeformConv2dSpec, x: Shape, weight: Shape) -> Result<Self> {
        Self::check_weight(spec, weight)?;
        let plain = ConvGeometry::conv2d(&spec.conv2d(), x, weight)?;
        let conv = ConvGeometry { offset_groups: spec.offset_groups, ..plain };
        let [_, _, kh, kw] = weight;
        let overflow = || Error::Overflow {
            what: "the number of offset channels",
            values: format!("2 * {} offset groups * {kh} * {kw} taps", spec.offset_groups),
        };
        let taps = kh.checked_mul(kw).and_then(|taps| taps.checked_mul(spec.offset_groups));
        let [mask, offset] = [1, 2].map(|each| taps.and_then(|taps| taps.checked_mul(each)));
        let field = |channels| [conv.n, channels, conv.output[0], conv.output[1]];
        let (offset, mask) = (field(offset.ok_or_else(overflow)?), field(mask.ok_or_else(overflow)?));
        elements(&offset)?;
        Ok(Self { conv, offset, mask })
    }

    /// Whether the attributes can be applied with a weight [C_out, C_in / groups, kh, kw].
    ///
    /// # Errors
    /// What [`Conv2dSpec::check_weight`] refuses; [`Error::Attribute`] for offset_groups of 0; [`Error::Divisibility`] when they
    /// do not divide C_in.
    pub fn check_weight(spec: &DeformConv2dSpec, weight: Shape) -> Result<()> {
        spec.conv2d().check_weight(weight)?;
        positive("offset_groups", spec.offset_groups)?;
        let c_in = weight[1]
            .checked_mul(spec.groups)
            .ok_or_else(|| Error::Overflow { what: "C_in", values: format!("{} channels in each of {} groups", weight[1], spec.groups) })?;
        divisible("C_in", c_in, "offset_groups", spec.offset_groups)
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
    pub offset_groups: usize,
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
        divisible("C_out", c_out, "offset_groups", pooling.offset_groups)?;
        // groups without channels may be any number
        elements(&[pooling.offset_groups, 2])?;
        let geometry = Self { x, rois, c_out, pooled, offset_groups: pooling.offset_groups, pooling };
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

    /// [K, 2 * offset_groups, ph, pw]: right and down for each.
    pub fn offset_shape(&self) -> Shape {
        [self.rois, 2 * self.offset_groups, self.pooled[0], self.pooled[1]]
    }

    /// [K, offset_groups, ph, pw].
    pub fn mask_shape(&self) -> Shape {
        [self.rois, self.offset_groups, self.pooled[0], self.pooled[1]]
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

    #[test]
    fn offsets_have_two_channels_for_each_group_and_tap() {
        let spec = DeformConv2dSpec { stride: [2, 1], offset_groups: 3, ..Default::default() };
        let geometry = DeformGeometry::new(&spec, [2, 6, 9, 8], [5, 6, 2, 3]).unwrap();
        assert_eq!((geometry.offset, geometry.mask), ([2, 36, 4, 6], [2, 18, 4, 6]));
        let spec = |offset_groups| DeformConv2dSpec { offset_groups, ..Default::default() };
        assert!(matches!(DeformGeometry::new(&spec(4), [2, 6, 9, 8], [5, 6, 2, 3]), Err(Error::Divisibility { name: "C_in", .. })));
        assert!(matches!(DeformGeometry::new(&spec(0), [2, 6, 9, 8], [5, 6, 2, 3]), Err(Error::Attribute { name: "offset_groups", .. })));
        let huge = 1 << 20;
        let refused = DeformGeometry::new(&spec(huge), [1, huge, huge, huge], [1, huge, 1 << 12, 1]);
        assert!(matches!(refused, Err(Error::Overflow { .. })), "{refused:?}");
    }
}
