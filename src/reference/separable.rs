//! Depthwise separable and spatially separable convolution: two convolutions, one after the other.

use super::{Array, conv2d, conv2d_scale};
use crate::error::{Error, Result};
use crate::{Activation, Conv2dSpec, DepthwiseSeparableSpec, Padding, SpatiallySeparableSpec};

/// The tensors of a depthwise separable convolution.
#[derive(Debug, Clone, Copy)]
pub struct DepthwiseSeparable<'a> {
    /// The input `[N, C, H, W]`.
    pub x: &'a Array,
    /// The depthwise weight `[C * m, 1, kh, kw]`.
    pub dw_weight: &'a Array,
    /// The bias of the depthwise convolution `[C * m]`.
    pub dw_bias: Option<&'a Array>,
    /// The slope `[C * m]` of prelu as the middle activation.
    pub mid_slope: Option<&'a Array>,
    /// The pointwise weight `[C_out, C * m, 1, 1]`.
    pub pw_weight: &'a Array,
    /// The bias of the pointwise convolution `[C_out]`.
    pub pw_bias: Option<&'a Array>,
    /// The slope `[C_out]` of prelu as the last activation.
    pub slope: Option<&'a Array>,
    /// A residual of the output's shape.
    pub residual: Option<&'a Array>,
}

/// A [`conv2d`] with as many groups as input channels, its bias and the middle activation, followed
/// by a 1x1 [`conv2d`] with bias, residual and activation. Nothing is rounded between them.
///
/// # Errors
/// As [`conv2d`] for each of the two; [`Error::Shape`] for a pointwise weight that is not 1x1, or a
/// depthwise weight with more than one input channel.
pub fn depthwise_separable(spec: &DepthwiseSeparableSpec, tensors: &DepthwiseSeparable<'_>) -> Result<Array> {
    let t = tensors;
    let mid = conv2d(&depthwise_spec(spec, t)?, t.x, t.dw_weight, t.dw_bias, t.mid_slope, None)?;
    conv2d(&pointwise_spec(spec), &mid, t.pw_weight, t.pw_bias, t.slope, t.residual)
}

/// The scale of the rounding errors of [`depthwise_separable`]: the pointwise convolution of
/// absolute values. Its input is the larger of two: the depthwise convolution of absolute values,
/// and what the activation makes of the true depthwise result. (If the first is infinite and the
/// second is not, the activation saturates, and no error passes through it.)
///
/// # Errors
/// As [`depthwise_separable`].
pub fn depthwise_separable_scale(spec: &DepthwiseSeparableSpec, tensors: &DepthwiseSeparable<'_>) -> Result<Array> {
    let t = tensors;
    let depthwise = depthwise_spec(spec, t)?;
    let mid = conv2d(&depthwise, t.x, t.dw_weight, t.dw_bias, t.mid_slope, None)?;
    let scale = conv2d_scale(&depthwise, t.x, t.dw_weight, t.dw_bias, None)?;
    let larger = |(&mid, &scale): (&f64, &f64)| if scale.is_finite() || mid.is_infinite() { scale.max(mid.abs()) } else { mid.abs() };
    let mid = Array::new(mid.shape(), mid.data().iter().zip(scale.data()).map(larger).collect())?;
    conv2d_scale(&pointwise_spec(spec), &mid, t.pw_weight, t.pw_bias, t.residual)
}

fn depthwise_spec(spec: &DepthwiseSeparableSpec, tensors: &DepthwiseSeparable<'_>) -> Result<Conv2dSpec> {
    let [_, channels, _, _] = tensors.x.dimensions("x", "[N, C, H, W]")?;
    let [outputs, inputs, _, _] = tensors.dw_weight.dimensions("dw_weight", "[C * multiplier, 1, kh, kw]")?;
    let [_, _, kh, kw] = tensors.pw_weight.dimensions("pw_weight", "[C_out, C * multiplier, 1, 1]")?;
    if inputs != 1 {
        let expected = "1 input channel for each output".into();
        return Err(Error::Shape { name: "dw_weight", shape: tensors.dw_weight.shape().to_vec(), expected });
    }
    if [kh, kw] != [1, 1] {
        return Err(Error::Shape { name: "pw_weight", shape: tensors.pw_weight.shape().to_vec(), expected: "a kernel of 1x1".into() });
    }
    let groups = spec.groups.unwrap_or(outputs);
    if groups != channels {
        return Err(Error::Shape { name: "x", shape: tensors.x.shape().to_vec(), expected: format!("{groups} channels") });
    }
    let DepthwiseSeparableSpec { stride, padding, dilation, mid_activation, .. } = *spec;
    Ok(Conv2dSpec { stride, padding, dilation, groups, activation: mid_activation })
}

fn pointwise_spec(spec: &DepthwiseSeparableSpec) -> Conv2dSpec {
    Conv2dSpec { activation: spec.activation, ..Default::default() }
}

/// The tensors of a spatially separable convolution.
#[derive(Debug, Clone, Copy)]
pub struct SpatiallySeparable<'a> {
    /// The input `[N, C_in, H, W]`.
    pub x: &'a Array,
    /// The vertical weight `[C_mid, C_in / groups, kh, 1]`.
    pub col_weight: &'a Array,
    /// The bias of the vertical stage `[C_mid]`.
    pub col_bias: Option<&'a Array>,
    /// The horizontal weight `[C_out, C_mid / groups, 1, kw]`.
    pub row_weight: &'a Array,
    /// The bias of the horizontal stage `[C_out]`.
    pub row_bias: Option<&'a Array>,
    /// The slope `[C_out]` of prelu.
    pub slope: Option<&'a Array>,
    /// A residual of the output's shape.
    pub residual: Option<&'a Array>,
}

/// A kh x 1 [`conv2d`] with the vertical stride, padding and dilation, and its bias; then a 1 x kw
/// [`conv2d`] with the horizontal ones, bias, residual and activation. The second pads the first's
/// result, bias included, with zeros. Nothing is rounded between them.
///
/// # Errors
/// As [`conv2d`] for each of the two; [`Error::Shape`] for a weight that is not one column or one
/// row.
pub fn spatially_separable(spec: &SpatiallySeparableSpec, tensors: &SpatiallySeparable<'_>) -> Result<Array> {
    let t = tensors;
    let [column, row] = axes(spec, t)?;
    let mid = conv2d(&column, t.x, t.col_weight, t.col_bias, None, None)?;
    conv2d(&row, &mid, t.row_weight, t.row_bias, t.slope, t.residual)
}

/// The scale of the rounding errors of [`spatially_separable`]: both convolutions on absolute
/// values.
///
/// # Errors
/// As [`spatially_separable`].
pub fn spatially_separable_scale(spec: &SpatiallySeparableSpec, tensors: &SpatiallySeparable<'_>) -> Result<Array> {
    let t = tensors;
    let [column, row] = axes(spec, t)?;
    let mid = conv2d_scale(&column, t.x, t.col_weight, t.col_bias, None)?;
    conv2d_scale(&row, &mid, t.row_weight, t.row_bias, t.residual)
}

/// The attributes of the vertical and of the horizontal convolution.
fn axes(spec: &SpatiallySeparableSpec, tensors: &SpatiallySeparable<'_>) -> Result<[Conv2dSpec; 2]> {
    let [_, _, kh, width] = tensors.col_weight.dimensions("col_weight", "[C_mid, C_in / groups, kh, 1]")?;
    let [_, _, height, kw] = tensors.row_weight.dimensions("row_weight", "[C_out, C_mid / groups, 1, kw]")?;
    for (name, array, size, expected) in
        [("col_weight", tensors.col_weight, width, "one column"), ("row_weight", tensors.row_weight, height, "one row")]
    {
        if size != 1 {
            return Err(Error::Shape { name, shape: array.shape().to_vec(), expected: expected.into() });
        }
    }
    let SpatiallySeparableSpec { stride, padding, dilation, groups, activation } = *spec;
    let [top, left, bottom, right] = match padding {
        Padding::Explicit(sides) => sides,
        Padding::Same if stride != [1, 1] => {
            let value = format!("\"same\" with stride {stride:?}");
            return Err(Error::Attribute { name: "padding", value, requirement: "explicit where a stride is above 1" });
        }
        Padding::Same => {
            let total = |kernel: usize, dilation: usize| {
                let overflow = || Error::Overflow { what: "the padding", values: format!("kernel {kernel}, dilation {dilation}") };
                kernel.saturating_sub(1).checked_mul(dilation).ok_or_else(overflow)
            };
            let (rows, columns) = (total(kh, dilation[0])?, total(kw, dilation[1])?);
            [rows / 2, columns / 2, rows - rows / 2, columns - columns / 2]
        }
    };
    let column = Conv2dSpec {
        stride: [stride[0], 1],
        padding: Padding::Explicit([top, 0, bottom, 0]),
        dilation: [dilation[0], 1],
        groups,
        activation: Activation::None,
    };
    let row = Conv2dSpec {
        stride: [1, stride[1]],
        padding: Padding::Explicit([0, left, 0, right]),
        dilation: [1, dilation[1]],
        groups,
        activation,
    };
    Ok([column, row])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], values: &[f64]) -> Array {
        Array::new(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn the_depthwise_result_is_biased_activated_and_mixed() {
        let x = array(&[1, 2, 1, 3], &[1.0, 2.0, 3.0, -1.0, -2.0, -3.0]);
        let dw_weight = array(&[2, 1, 1, 2], &[1.0, 1.0, 1.0, 2.0]);
        let (dw_bias, pw_weight) = (array(&[2], &[0.5, 1.0]), array(&[1, 2, 1, 1], &[2.0, 10.0]));
        let spec = DepthwiseSeparableSpec { mid_activation: Activation::Relu, ..Default::default() };
        let tensors = DepthwiseSeparable {
            x: &x,
            dw_weight: &dw_weight,
            dw_bias: Some(&dw_bias),
            mid_slope: None,
            pw_weight: &pw_weight,
            pw_bias: None,
            slope: None,
            residual: None,
        };
        // channel 0: [3.5, 5.5]; channel 1: relu [-4, -7]
        assert_eq!(depthwise_separable(&spec, &tensors).unwrap().data(), [7.0, 11.0]);
        assert_eq!(depthwise_separable_scale(&spec, &tensors).unwrap().data(), [7.0 + 60.0, 11.0 + 90.0]);
        let sigmoid = DepthwiseSeparableSpec { mid_activation: Activation::Sigmoid, ..spec };
        let zero = DepthwiseSeparable { x: &x.map(|_| 0.0), dw_bias: None, ..tensors };
        assert_eq!(depthwise_separable_scale(&sigmoid, &zero).unwrap().data(), [6.0, 6.0], "the sigmoid's half is larger");
        let wrong = DepthwiseSeparableSpec { groups: Some(3), ..spec };
        assert!(matches!(depthwise_separable(&wrong, &tensors), Err(Error::Shape { name: "x", .. })));
        let wide = array(&[1, 2, 1, 2], &[1.0; 4]);
        let wrong = DepthwiseSeparable { pw_weight: &wide, ..tensors };
        assert!(matches!(depthwise_separable(&spec, &wrong), Err(Error::Shape { name: "pw_weight", .. })));
        let wrong = DepthwiseSeparable { dw_weight: &wide, ..tensors };
        assert!(matches!(depthwise_separable(&spec, &wrong), Err(Error::Shape { name: "dw_weight", .. })));
    }

    #[test]
    fn zeros_pad_the_biased_map() {
        let x = array(&[1, 1, 1, 1], &[3.0]);
        let ones = |shape: &[usize]| array(shape, &vec![1.0; shape.iter().product()]);
        let (col_weight, row_weight, bias) = (ones(&[1, 1, 3, 1]), ones(&[1, 1, 1, 3]), array(&[1], &[10.0]));
        let tensors = SpatiallySeparable {
            x: &x,
            col_weight: &col_weight,
            col_bias: Some(&bias),
            row_weight: &row_weight,
            row_bias: None,
            slope: None,
            residual: None,
        };
        let spec = SpatiallySeparableSpec { padding: Padding::all(1), ..Default::default() };
        // 3 + 10 once, not 3 + 3 * 10
        assert_eq!(spatially_separable(&spec, &tensors).unwrap().data(), [13.0]);
        let same = SpatiallySeparableSpec { padding: Padding::Same, ..spec };
        assert_eq!(spatially_separable(&same, &tensors).unwrap().data(), [13.0]);
        assert_eq!(spatially_separable_scale(&same, &tensors).unwrap().data(), [13.0]);
        let strided = SpatiallySeparableSpec { stride: [2, 1], ..same };
        assert!(matches!(spatially_separable(&strided, &tensors), Err(Error::Attribute { name: "padding", .. })));
        let wrong = SpatiallySeparable { col_weight: &row_weight, ..tensors };
        assert!(matches!(spatially_separable(&spec, &wrong), Err(Error::Shape { name: "col_weight", .. })));
    }
}
