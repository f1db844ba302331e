//! ConvTranspose2d.

use super::Array;
use super::conv2d::{activate_channels, check_slope};
use crate::ConvTranspose2dSpec;
use crate::error::{Error, Result};

/// Each input pixel contributes to several outputs: `x[n,c,y,x] * w[c,o,i,j]` is added at row
/// `y*sh + i*dh - top` and column `x*sw + j*dw - left` of channel `g(c)*C_out/groups + o`, if these
/// are inside the output, with group `g(c) = c / (C_in / groups)`. Then
/// `y = activation(z + bias[o] + residual[n,o,y,x])`.
///
/// Shapes: x `[N, C_in, H, W]`, weight `[C_in, C_out / groups, kh, kw]`, bias and slope `[C_out]`,
/// residual as the output. The output has
/// `(H - 1)*sh + dh*(kh - 1) + 1 + output_padding - top - bottom` rows, and columns likewise.
///
/// ```
/// use warpconv::ConvTranspose2dSpec;
/// use warpconv::reference::{Array, conv_transpose2d};
/// let x = Array::new([1, 1, 1, 3], vec![1.0, 2.0, 3.0])?;
/// let weight = Array::new([1, 1, 1, 3], vec![1.0, 10.0, 100.0])?;
/// let spec = ConvTranspose2dSpec { stride: [1, 2], output_padding: [0, 1], ..Default::default() };
/// let y = conv_transpose2d(&spec, &x, &weight, None, None, None)?;
/// assert_eq!(y.data(), [1.0, 10.0, 102.0, 20.0, 203.0, 30.0, 300.0, 0.0]);
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// [`Error::Rank`] or [`Error::Shape`] for a tensor that does not fit; [`Error::Attribute`] for a
/// stride, dilation, groups, image or filter of 0, or an output_padding that is not below stride or
/// dilation; [`Error::Divisibility`]; [`Error::EmptyTransposedOutput`]; [`Error::Overflow`];
/// [`Error::UnexpectedTensor`] for a slope without prelu; [`Error::MissingTensor`] for prelu
/// without a slope.
pub fn conv_transpose2d(
    spec: &ConvTranspose2dSpec,
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    slope: Option<&Array>,
    residual: Option<&Array>,
) -> Result<Array> {
    let channels = weight.shape().get(1).map_or(0, |&group_out| group_out.saturating_mul(spec.groups));
    check_slope("conv_transpose2d", spec.activation, slope, channels)?;
    let mut y = linear(spec, x, weight, bias, residual)?;
    activate_channels(spec.activation, &mut y, slope);
    Ok(y)
}

/// The scale of the rounding errors of [`conv_transpose2d`]: the same sum on absolute values (|x|,
/// |weight|, |bias|, |residual|), without the activation.
///
/// # Errors
/// As [`conv_transpose2d`].
pub fn conv_transpose2d_scale(
    spec: &ConvTranspose2dSpec,
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    residual: Option<&Array>,
) -> Result<Array> {
    linear(spec, &x.abs(), &weight.abs(), bias.map(Array::abs).as_ref(), residual.map(Array::abs).as_ref())
}

/// The result before the activation.
fn linear(spec: &ConvTranspose2dSpec, x: &Array, weight: &Array, bias: Option<&Array>, residual: Option<&Array>) -> Result<Array> {
    let [n, c_in, h, w] = x.dimensions("x", "[N, C_in, H, W]")?;
    let [weight_in, group_out, kh, kw] = weight.dimensions("weight", "[C_in, C_out / groups, kh, kw]")?;
    for (name, value) in [("groups", spec.groups), ("C_in", c_in), ("C_out / groups", group_out), ("kh", kh), ("kw", kw)] {
        if value == 0 {
            return Err(Error::Attribute { name, value: "0".into(), requirement: "at least 1" });
        }
    }
    if c_in % spec.groups != 0 {
        return Err(Error::Divisibility {
            name: "C_in",
            value: c_in,
            divisor_name: "groups",
            divisor: spec.groups,
            context: String::new(),
        });
    }
    if weight_in != c_in {
        return Err(Error::Shape { name: "weight", shape: weight.shape().to_vec(), expected: format!("{c_in} input channels, as x has") });
    }
    let overflow = || Error::Overflow { what: "C_out", values: format!("{group_out} in each of {} groups", spec.groups) };
    let (c_out, group_in) = (group_out.checked_mul(spec.groups).ok_or_else(overflow)?, c_in / spec.groups);
    let (h_out, w_out) = (output_size("height", 0, spec, h, kh)?, output_size("width", 1, spec, w, kw)?);

    let shape = [n, c_out, h_out, w_out];
    let mut y = Array::zeros(shape)?;
    if let Some(bias) = bias {
        bias.check_shape("bias", &[c_out])?;
    }
    if let Some(residual) = residual {
        residual.check_shape("residual", &shape)?;
    }
    let [top, left, ..] = spec.padding;
    let sums = y.data_mut();
    for image in 0..n {
        for c in 0..c_in {
            for o in 0..group_out {
                let filter = &weight.data()[(c * group_out + o) * kh * kw..][..kh * kw];
                let plane = &mut sums[(image * c_out + c / group_in * group_out + o) * h_out * w_out..][..h_out * w_out];
                for (pixel, x) in x.data()[(image * c_in + c) * h * w..][..h * w].iter().enumerate() {
                    for (tap, weight) in filter.iter().enumerate() {
                        let row = (pixel / w * spec.stride[0] + tap / kw * spec.dilation[0]).checked_sub(top);
                        let column = (pixel % w * spec.stride[1] + tap % kw * spec.dilation[1]).checked_sub(left);
                        let (Some(row), Some(column)) = (row, column) else { continue };
                        if row < h_out && column < w_out {
                            plane[row * w_out + column] += x * weight;
                        }
                    }
                }
            }
        }
    }
    for (index, sum) in sums.iter_mut().enumerate() {
        *sum += bias.map_or(0.0, |bias| bias.data()[index / (h_out * w_out) % c_out]);
        *sum += residual.map_or(0.0, |residual| residual.data()[index]);
    }
    Ok(y)
}

/// The size of the output along one axis: 0 for height, 1 for width.
fn output_size(name: &'static str, axis: usize, spec: &ConvTranspose2dSpec, input: usize, kernel: usize) -> Result<usize> {
    let (stride, dilation, extra) = (spec.stride[axis], spec.dilation[axis], spec.output_padding[axis]);
    for (name, value) in [("stride", stride), ("dilation", dilation), ("image size", input)] {
        if value == 0 {
            return Err(Error::Attribute { name, value: "0".into(), requirement: "at least 1" });
        }
    }
    if extra >= stride && extra >= dilation {
        let requirement = "below stride or dilation";
        return Err(Error::Attribute { name: "output_padding", value: extra.to_string(), requirement });
    }
    // Sizes are below 2^64, so 128 bits hold these products and their sum `full`.
    let (reach, span) = ((input - 1) as u128 * stride as u128, (kernel - 1) as u128 * dilation as u128);
    let (before, after) = (spec.padding[axis], spec.padding[axis + 2]);
    let full = reach.checked_add(span).and_then(|size| size.checked_add(1 + extra as u128)).unwrap_or(u128::MAX);
    if full > isize::MAX as u128 {
        let values = format!("{name} {input}, stride {stride}, kernel {kernel}, dilation {dilation}");
        return Err(Error::Overflow { what: "the size before padding is cut off", values });
    }
    if before as u128 + after as u128 >= full {
        return Err(Error::EmptyTransposedOutput { axis: name, input, stride, full: full as usize, before, after });
    }
    Ok(full as usize - before - after)
}
