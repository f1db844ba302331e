//! DeformConv2d.

use super::conv2d::Taps;
use super::{Array, conv2d, conv2d_scale};
use crate::error::{Error, Result};
use crate::numerics::Contract;
use crate::{Activation, Conv2dSpec, DType, DeformConv2dBlockSpec, DeformConv2dSpec, Padding, memory};
use std::collections::BTreeMap;

/// The tensors from which a deformable convolution samples.
#[derive(Debug, Clone, Copy)]
pub struct Deformed<'a> {
    /// The input `[N, C_in, H, W]`.
    pub x: &'a Array,
    /// Offsets `[N, 2 * offset_groups * kh * kw, H_out, W_out]`: (dy, dx) for each offset group and
    /// tap.
    pub offset: &'a Array,
    /// A mask `[N, offset_groups * kh * kw, H_out, W_out]`. Without one, all factors are 1.
    pub mask: Option<&'a Array>,
}

/// A [`conv2d`] whose tap (i, j) of channel c reads
/// `mask * S(y*sh - top + i*dh + dy, x*sw - left + j*dw + dx)`. S is bilinear between the pixels of
/// the channel and zero outside the image. dy, dx and mask belong to output pixel (y, x), the tap,
/// and the channel's offset group `c / (C_in / offset_groups)`.
///
/// Positions are rounded once to f32, as in kernels. A pixel whose weight is zero in f32 is not
/// read, so an infinite pixel next to a whole position does not matter. A position that is NaN or
/// at least one pixel outside the image reads zero. The mask always multiplies: an infinite mask
/// times the zero outside the image is NaN.
///
/// Sources: Dai et al., "Deformable Convolutional Networks", 2017; Zhu et al., "Deformable ConvNets v2", 2019;
/// `torchvision.ops.deform_conv2d`.
///
/// ```
/// use warpconv::DeformConv2dSpec;
/// use warpconv::reference::{Array, Deformed, deform_conv2d};
/// let x = Array::new([1, 1, 1, 3], vec![1.0, 2.0, 4.0])?;
/// // half a pixel to the right: between neighbours, and between the last pixel and the zeros outside
/// let offset = Array::new([1, 2, 1, 3], vec![0.0, 0.0, 0.0, 0.5, 0.5, 0.5])?;
/// let weight = Array::new([1, 1, 1, 1], vec![1.0])?;
/// let input = Deformed { x: &x, offset: &offset, mask: None };
/// let y = deform_conv2d(&DeformConv2dSpec::default(), &input, &weight, None, None, None)?;
/// assert_eq!(y.data(), [1.5, 3.0, 2.0]);
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// As [`conv2d`], for offset and mask as well; [`Error::Divisibility`] when the offset groups do
/// not divide C_in.
pub fn deform_conv2d(
    spec: &DeformConv2dSpec,
    input: &Deformed<'_>,
    weight: &Array,
    bias: Option<&Array>,
    slope: Option<&Array>,
    residual: Option<&Array>,
) -> Result<Array> {
    let (samples, plain) = sampled(spec, input, weight)?;
    conv2d(&plain, &samples, weight, bias, slope, residual)
}

/// The scale of the rounding errors of [`deform_conv2d`]: the same sum on absolute values (|x|,
/// |mask|, |weight|, |bias|, |residual|) at the same positions, without the activation.
///
/// # Errors
/// As [`deform_conv2d`].
pub fn deform_conv2d_scale(
    spec: &DeformConv2dSpec,
    input: &Deformed<'_>,
    weight: &Array,
    bias: Option<&Array>,
    residual: Option<&Array>,
) -> Result<Array> {
    let (x, mask) = (input.x.abs(), input.mask.map(Array::abs));
    let (samples, plain) = sampled(spec, &Deformed { x: &x, mask: mask.as_ref(), ..*input }, weight)?;
    conv2d_scale(&plain, &samples, weight, bias, residual)
}

/// A result for which the values between a layer's stages are rounded to a dtype.
#[derive(Debug)]
pub struct InDtype {
    /// The result.
    pub y: Array,
    /// The scale of the rounding errors of `y`, as from [`deform_conv2d_scale`].
    pub scale: Array,
    /// How far from `y` a right result may be, for each element and before the activation: the
    /// first stage is also right if it rounds some of its results the other way.
    pub moved: Array,
}

/// A [`deform_conv2d`] whose offsets and mask are computed by two convolutions of x and rounded to
/// `dtype`.
///
/// The f32 sums of a kernel may differ a little from the exact result of such a convolution, within
/// its own contract ([`crate::numerics`]). Mostly both round to the same number of the dtype, and
/// the sample is taken at the same position. Where they need not, the offset may be the
/// neighbouring number. That moves the sample by at most the difference of the two numbers times
/// the steepest slope of the channel's plane, which is the largest difference of neighbouring
/// pixels (including the zeros around the image), since a bilinear image is continuous. A different
/// mask is a different factor of the sample.
///
/// # Errors
/// [`Error::MissingTensor`]; as [`conv2d`] and [`deform_conv2d`].
pub fn deform_conv2d_block(spec: &DeformConv2dBlockSpec, tensors: &BTreeMap<String, Array>, dtype: DType) -> Result<InDtype> {
    let optional = |name: &str| tensors.get(name);
    let missing = |name: &str| Error::MissingTensor { op: "deform_conv2d_block", name: name.into(), available: String::new() };
    let needed = |name: &str| optional(name).ok_or_else(|| missing(name));
    let (x, weight, bias, residual) = (needed("x")?, needed("weight")?, optional("bias"), optional("residual"));
    let [_, _, kh, kw] = weight.dimensions("weight", "[C_out, C_in / groups, kh, kw]")?;
    // The rounded results, and how far apart two right ones may be.
    let predict = |weight: &str, bias: &str, activation| -> Result<(Array, Array)> {
        let weight = needed(weight)?;
        let [_, c_in, ph, pw] = weight.dimensions("a predictor's weight", "[channels, C_in, height, width]")?;
        let spec = spec.predictor([kh, kw], [ph, pw], activation)?;
        let (exact, scale) = (conv2d(&spec, x, weight, optional(bias), None, None)?, conv2d_scale(&spec, x, weight, optional(bias), None)?);
        let sum = Contract::new(DType::F32, c_in.saturating_mul(ph).saturating_mul(pw)).activation(activation);
        let mut apart = exact.clone();
        for (value, scale) in apart.data_mut().iter_mut().zip(scale.data()) {
            let error = sum.bound(*value, *scale);
            *value = dtype.round(*value + error) - dtype.round(*value - error);
        }
        Ok((exact.rounded(dtype), apart))
    };
    let (offset, offset_apart) = predict("offset_weight", "offset_bias", Activation::None)?;
    let mask = spec.modulated.then(|| predict("mask_weight", "mask_bias", Activation::Sigmoid)).transpose()?;
    let (mask, mask_apart) = mask.as_ref().map(|(mask, apart)| (mask, apart)).unzip();
    let input = Deformed { x, offset: &offset, mask };
    let y = deform_conv2d(&spec.deform, &input, weight, bias, optional("slope"), residual)?;
    let scale = deform_conv2d_scale(&spec.deform, &input, weight, bias, residual)?;

    let [n, c_in, h, w] = x.dimensions("x", "[N, C_in, H, W]")?;
    let absolute = x.abs();
    let plane = |plane: usize| slopes(&x.data()[plane * h * w..][..h * w], [h, w]);
    let slopes = memory::collect((0..n.saturating_mul(c_in)).map(plane))?;
    let moves = of_taps(&spec.deform, &input, [kh, kw], |tap| {
        let at = tap.moved(&offset);
        let sample = bilinear(&absolute.data()[tap.plane * h * w..][..h * w], [h, w], at);
        let moved = |axis: usize| match offset_apart.data()[tap.offset[axis]] {
            0.0 => 0.0,
            // The sum with the position is rounded to f32 as well.
            apart => slopes[tap.plane][axis] * (apart + 2.0 * DType::F32.unit_roundoff() * f64::from(at[axis]).abs()),
        };
        let largest = mask.map_or(1.0, |mask| mask.data()[tap.mask].abs()) + mask_apart.map_or(0.0, |apart| apart.data()[tap.mask]);
        largest * (moved(0) + moved(1)) + mask_apart.map_or(0.0, |apart| apart.data()[tap.mask]) * sample
    })?;
    let moved = conv2d_scale(&of_samples(&spec.deform, [kh, kw]), &moves, weight, None, None)?;
    Ok(InDtype { y, scale, moved })
}

/// The largest difference of neighbouring pixels, vertically and horizontally, including the zeros
/// around the plane.
fn slopes(plane: &[f64], [h, w]: [usize; 2]) -> [f64; 2] {
    let pixel = |y: usize, x: usize| if y < h && x < w { plane[y * w + x] } else { 0.0 };
    let (mut vertical, mut horizontal) = (0f64, 0f64);
    for y in 0..h {
        for x in 0..w {
            // The next pixel below, and the zero above the first row.
            vertical = vertical.max((pixel(y + 1, x) - pixel(y, x)).abs()).max(if y == 0 { pixel(y, x).abs() } else { 0.0 });
            horizontal = horizontal.max((pixel(y, x + 1) - pixel(y, x)).abs()).max(if x == 0 { pixel(y, x).abs() } else { 0.0 });
        }
    }
    [vertical, horizontal]
}

/// Everything that the taps of a kernel of size (kh, kw) read, `[N, C_in, H_out * kh, W_out * kw]`.
/// Tap (i, j) of output pixel (y, x) is at (y * kh + i, x * kw + j). A convolution of these samples
/// with stride (kh, kw) is the deformable convolution.
///
/// # Errors
/// As [`deform_conv2d`].
pub fn deform_samples(spec: &DeformConv2dSpec, input: &Deformed<'_>, kernel: [usize; 2]) -> Result<Array> {
    let [_, _, h, w] = input.x.dimensions("x", "[N, C_in, H, W]")?;
    of_taps(spec, input, kernel, |tap| {
        let sample = bilinear(&input.x.data()[tap.plane * h * w..][..h * w], [h, w], tap.moved(input.offset));
        sample * input.mask.map_or(1.0, |mask| mask.data()[tap.mask])
    })
}

/// The place that one tap of one output pixel reads.
struct Tap {
    /// The number of the plane, from image and channel.
    plane: usize,
    /// The position before it is moved, vertically and horizontally.
    before: [i64; 2],
    /// Indices of the two offsets and of the mask's element.
    offset: [usize; 2],
    mask: usize,
}

impl Tap {
    fn moved(&self, offset: &Array) -> [f32; 2] {
        [0, 1].map(|axis| self.before[axis] as f32 + offset.data()[self.offset[axis]] as f32)
    }
}

/// One value for each tap, in the order of [`deform_samples`].
fn of_taps(spec: &DeformConv2dSpec, input: &Deformed<'_>, kernel: [usize; 2], value_of: impl Fn(&Tap) -> f64) -> Result<Array> {
    let [n, c_in, h, w] = input.x.dimensions("x", "[N, C_in, H, W]")?;
    let [kh, kw] = kernel;
    for (name, value) in [("offset_groups", spec.offset_groups), ("kh", kh), ("kw", kw)] {
        if value == 0 {
            return Err(Error::Attribute { name, value: "0".into(), requirement: "at least 1" });
        }
    }
    if c_in % spec.offset_groups != 0 {
        return Err(Error::Divisibility {
            name: "C_in",
            value: c_in,
            divisor_name: "offset_groups",
            divisor: spec.offset_groups,
            context: String::new(),
        });
    }
    let [rows, columns] = Taps::both(&spec.conv2d(), [h, w], kernel)?;
    let (h_out, w_out, taps) = (rows.output, columns.output, kh.saturating_mul(kw));
    let channels = spec.offset_groups.saturating_mul(taps); // The channels of an existing mask do not overflow.
    input.offset.check_shape("offset", &[n, channels.saturating_mul(2), h_out, w_out])?;
    if let Some(mask) = input.mask {
        mask.check_shape("mask", &[n, channels, h_out, w_out])?;
    }
    let field = |image: usize, channels: usize, channel: usize, y: usize, x: usize| ((image * channels + channel) * h_out + y) * w_out + x;
    let shape = [h_out.saturating_mul(kh), w_out.saturating_mul(kw)];
    let mut samples = Array::zeros([n, c_in, shape[0], shape[1]])?;
    for (index, value) in samples.data_mut().iter_mut().enumerate() {
        let (plane, row, column) = (index / shape[1] / shape[0], index / shape[1] % shape[0], index % shape[1]);
        let (image, c) = (plane / c_in, plane % c_in);
        let (y, i, x, j) = (row / kh, row % kh, column / kw, column % kw);
        let tap = c / (c_in / spec.offset_groups) * taps + i * kw + j;
        *value = value_of(&Tap {
            plane,
            before: [rows.unchecked(i, y), columns.unchecked(j, x)],
            offset: [0, 1].map(|axis| field(image, 2 * channels, 2 * tap + axis, y, x)),
            mask: field(image, channels, tap, y, x),
        });
    }
    Ok(samples)
}

/// The samples, and the ordinary convolution of them that gives the result.
fn sampled(spec: &DeformConv2dSpec, input: &Deformed<'_>, weight: &Array) -> Result<(Array, Conv2dSpec)> {
    let [_, _, kh, kw] = weight.dimensions("weight", "[C_out, C_in / groups, kh, kw]")?;
    let samples = deform_samples(spec, input, [kh, kw])?;
    Ok((samples, of_samples(spec, [kh, kw])))
}

/// The ordinary convolution of the samples.
fn of_samples(spec: &DeformConv2dSpec, kernel: [usize; 2]) -> Conv2dSpec {
    Conv2dSpec { stride: kernel, padding: Padding::default(), dilation: [1, 1], ..spec.conv2d() }
}

/// The value of a plane at a position between its pixels.
fn bilinear(plane: &[f64], [h, w]: [usize; 2], [y, x]: [f32; 2]) -> f64 {
    let outside = |at: f32, size: usize| at.is_nan() || at <= -1.0 || at >= size as f32;
    if outside(y, h) || outside(x, w) {
        return 0.0;
    }
    let (y, x) = (f64::from(y), f64::from(x));
    let (top, left) = (y.floor(), x.floor());
    let mut sum = 0.0;
    for (row, row_weight) in [(top, 1.0 - (y - top)), (top + 1.0, y - top)] {
        for (column, column_weight) in [(left, 1.0 - (x - left)), (left + 1.0, x - left)] {
            let weight: f64 = row_weight * column_weight;
            let inside = row >= 0.0 && row < h as f64 && column >= 0.0 && column < w as f64;
            if inside && weight as f32 != 0.0 {
                sum += weight * plane[row as usize * w + column as usize];
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array<const N: usize>(shape: [usize; N], data: &[f64]) -> Array {
        Array::new(shape, data.to_vec()).unwrap()
    }

    /// The output pixel (0, 0) of a 1x1 kernel on a 2x2 image, moved by (dy, dx).
    fn moved(dy: f64, dx: f64, mask: f64) -> f64 {
        let spec = DeformConv2dSpec { stride: [2, 2], ..Default::default() };
        let (x, offset) = (array([1, 1, 2, 2], &[1.0, 2.0, 4.0, 8.0]), array([1, 2, 1, 1], &[dy, dx]));
        let mask = array([1, 1, 1, 1], &[mask]);
        let input = Deformed { x: &x, offset: &offset, mask: Some(&mask) };
        deform_conv2d(&spec, &input, &array([1, 1, 1, 1], &[1.0]), None, None, None).unwrap().data()[0]
    }

    #[test]
    fn samples_by_hand() {
        assert_eq!(moved(0.0, 0.0, 1.0), 1.0);
        assert_eq!(moved(1.0, 1.0, 0.5), 4.0);
        assert_eq!(moved(0.5, 0.25, 1.0), 0.5 * (0.75 + 0.25 * 2.0) + 0.5 * (0.75 * 4.0 + 0.25 * 8.0));
        // Across the border the image fades into the zeros outside.
        assert_eq!(moved(-0.75, 0.0, 1.0), 0.25);
        assert_eq!(moved(1.5, 1.5, 1.0), 2.0);
        assert_eq!(moved(-1.0, 0.0, 1.0), 0.0);
        assert_eq!(moved(0.0, 2.0, 1.0), 0.0);
        for far in [1e30, -1e30, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(moved(far, 0.0, 1.0), 0.0);
            assert_eq!(moved(0.0, far, 1.0), 0.0);
        }
        assert!(moved(9.0, 0.0, f64::INFINITY).is_nan());
        assert_eq!(moved(0.0, 0.0, f64::INFINITY), f64::INFINITY);
    }

    /// An error of an offset moves the sample by no more than that error times the slopes.
    #[test]
    fn slopes_bound_what_moves() {
        let x = array([1, 1, 3, 3], &[1.0, -2.0, 4.0, 0.5, 8.0, -1.0, 3.0, 3.0, -5.0]);
        let [vertical, horizontal] = slopes(x.data(), [3, 3]);
        assert_eq!([vertical, horizontal], [10.0, 9.0]);
        assert_eq!(slopes(&[], [0, 3]), [0.0, 0.0]);
        let at = |dy: f64, dx: f64| bilinear(x.data(), [3, 3], [dy as f32, dx as f32]);
        for step in 0..400 {
            let (dy, dx) = (f64::from(step % 20) * 0.25 - 1.5, f64::from(step / 20) * 0.25 - 1.5);
            for moved in [1.0 / 1024.0, 0.375, 2.0] {
                let allowed = moved * (vertical + horizontal);
                assert!((at(dy + moved, dx - moved) - at(dy, dx)).abs() <= allowed + 1e-12, "{dy} {dx} {moved}");
            }
        }
    }

    /// If f32 cannot tell to which of two numbers an offset is rounded, the results of both are
    /// right.
    #[test]
    fn an_offset_at_a_tie_may_be_either_neighbour() {
        let one = |value: f64| array([1, 1, 1, 1], &[value]);
        let spec = DeformConv2dBlockSpec { modulated: false, deform: DeformConv2dSpec::default() };
        let block = |dx: f64| {
            let (x, bias) = (array([1, 1, 1, 2], &[1.0, 5.0]), array([2], &[0.0, dx]));
            let weights = [("x", x), ("weight", one(2.0)), ("offset_weight", Array::zeros([2, 1, 1, 1]).unwrap()), ("offset_bias", bias)];
            let tensors = weights.into_iter().map(|(name, array)| (name.to_string(), array)).collect();
            deform_conv2d_block(&spec, &tensors, DType::Bf16).unwrap()
        };
        let whole = block(0.5);
        assert_eq!((whole.y.data(), whole.moved.data()), (&[6.0, 5.0][..], &[0.0, 0.0][..]));
        let between = block(0.5 + 1.0 / 512.0);
        assert_eq!(between.y.data(), [6.0, 5.0], "ties to even");
        let apart = 1.0 / 256.0 + 2f64.powi(-23) * 0.5;
        assert_eq!(between.moved.data()[0], 2.0 * 5.0 * apart);
    }

    #[test]
    fn offset_groups_move_their_own_channels() {
        let spec = DeformConv2dSpec { offset_groups: 2, ..Default::default() };
        let x = array([1, 4, 1, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        // The first offset group moves one pixel to the right, the second stays.
        let offset = array([1, 4, 1, 2], &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let samples = deform_samples(&spec, &Deformed { x: &x, offset: &offset, mask: None }, [1, 1]).unwrap();
        assert_eq!(samples.data(), [2.0, 0.0, 4.0, 0.0, 5.0, 6.0, 7.0, 8.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (x, weight) = (Array::zeros([1, 4, 5, 5]).unwrap(), Array::zeros([2, 4, 3, 3]).unwrap());
        let offset = |c: usize| Array::zeros([1, c, 3, 3]).unwrap();
        let spec = DeformConv2dSpec::default();
        let run = |spec: DeformConv2dSpec, offset: &Array, mask: Option<&Array>| {
            deform_conv2d(&spec, &Deformed { x: &x, offset, mask }, &weight, None, None, None)
        };
        assert!(run(spec, &offset(18), Some(&offset(9))).is_ok());
        assert!(matches!(run(spec, &offset(9), None), Err(Error::Shape { name: "offset", .. })));
        assert!(matches!(run(spec, &offset(18), Some(&offset(18))), Err(Error::Shape { name: "mask", .. })));
        let of = |offset_groups| DeformConv2dSpec { offset_groups, ..spec };
        assert!(matches!(run(of(0), &offset(18), None), Err(Error::Attribute { name: "offset_groups", .. })));
        assert!(matches!(run(of(3), &offset(54), None), Err(Error::Divisibility { divisor_name: "offset_groups", .. })));
        let prelu = DeformConv2dSpec { activation: Activation::Prelu, ..spec };
        assert!(matches!(run(prelu, &offset(18), None), Err(Error::MissingTensor { .. })));
    }
}
