//! Conv2d.

use super::{Array, activate};
use crate::error::{Error, Result};
use crate::{Activation, Conv2dSpec, Padding};
use std::ops::Range;

/// `z[n,o,y,x] = sum over c,i,j of w[o,c,i,j] * xpad[n, g(o)*C_in/groups + c, y*sh + i*dh, x*sw + j*dw]`,
/// `y = activation(z + bias[o] + residual[n,o,y,x])`, with group `g(o) = o / (C_out / groups)`.
///
/// Shapes: x `[N, C_in, H, W]`, weight `[C_out, C_in / groups, kh, kw]`, bias and slope `[C_out]`,
/// residual as the output. Taps in the padding are skipped.
///
/// # Errors
/// [`Error::Rank`] or [`Error::Shape`] for a tensor that does not fit; [`Error::Attribute`] for a
/// stride, dilation, groups or filter of 0, or padding `same` with a stride above 1;
/// [`Error::Divisibility`]; [`Error::EmptyOutput`]; [`Error::Overflow`];
/// [`Error::UnexpectedTensor`] for a slope without prelu; [`Error::MissingTensor`] for prelu
/// without a slope.
pub fn conv2d(
    spec: &Conv2dSpec,
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    slope: Option<&Array>,
    residual: Option<&Array>,
) -> Result<Array> {
    check_slope("conv2d", spec.activation, slope, weight.shape().first().copied().unwrap_or(0))?;
    let mut y = linear(spec, x, weight, bias, residual)?;
    activate_channels(spec.activation, &mut y, slope);
    Ok(y)
}

/// Refuses a slope without prelu, prelu without a slope, and a slope whose shape is not [channels].
pub(super) fn check_slope(op: &'static str, activation: Activation, slope: Option<&Array>, channels: usize) -> Result<()> {
    match (activation, slope) {
        (Activation::Prelu, None) => Err(Error::MissingTensor { op, name: "slope".into(), available: String::new() }),
        (Activation::Prelu, Some(slope)) => slope.check_shape("slope", &[channels]),
        (_, None) => Ok(()),
        (_, Some(_)) => Err(Error::UnexpectedTensor { op, name: "slope".into(), known: "a slope with prelu only".into() }),
    }
}

/// Replaces every z of `[N, C, H, W]` by its activation.
pub(super) fn activate_channels(activation: Activation, z: &mut Array, slope: Option<&Array>) {
    if activation == Activation::None || z.data().is_empty() {
        return;
    }
    let (channels, pixels) = (z.shape()[1], z.shape()[2] * z.shape()[3]);
    for (plane, values) in z.data_mut().chunks_exact_mut(pixels).enumerate() {
        let slope = slope.map_or(0.0, |s| s.data()[plane % channels]);
        values.iter_mut().for_each(|z| *z = activate(activation, *z, slope));
    }
}

/// The scale of the rounding errors of [`conv2d`]: the same sum on absolute values (|x|, |weight|,
/// |bias|, |residual|), without the activation.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_scale(spec: &Conv2dSpec, x: &Array, weight: &Array, bias: Option<&Array>, residual: Option<&Array>) -> Result<Array> {
    linear(spec, &x.abs(), &weight.abs(), bias.map(Array::abs).as_ref(), residual.map(Array::abs).as_ref())
}

/// The result before the activation.
fn linear(spec: &Conv2dSpec, x: &Array, weight: &Array, bias: Option<&Array>, residual: Option<&Array>) -> Result<Array> {
    let [n, c_in, h, w] = x.dimensions("x", "[N, C_in, H, W]")?;
    let [c_out, group_in, kh, kw] = weight.dimensions("weight", "[C_out, C_in / groups, kh, kw]")?;
    for (name, value) in [("groups", spec.groups), ("C_out", c_out), ("C_in / groups", group_in), ("kh", kh), ("kw", kw)] {
        if value == 0 {
            return Err(Error::Attribute { name, value: "0".into(), requirement: "at least 1" });
        }
    }
    for (name, value) in [("C_in", c_in), ("C_out", c_out)] {
        if value % spec.groups != 0 {
            return Err(Error::Divisibility { name, value, divisor_name: "groups", divisor: spec.groups, context: String::new() });
        }
    }
    if group_in != c_in / spec.groups {
        let expected = format!("{} channels, as x {:?} has in each of {} groups", c_in / spec.groups, x.shape(), spec.groups);
        return Err(Error::Shape { name: "weight", shape: weight.shape().to_vec(), expected });
    }
    let group_out = c_out / spec.groups;
    let [rows, columns] = Taps::both(spec, [h, w], [kh, kw])?;
    let (h_out, w_out, stride) = (rows.output, columns.output, spec.stride[1]);

    let shape = [n, c_out, h_out, w_out];
    let mut y = Array::zeros(shape)?;
    if let Some(bias) = bias {
        bias.check_shape("bias", &[c_out])?;
    }
    if let Some(residual) = residual {
        residual.check_shape("residual", &shape)?;
    }
    let (x, weight) = (x.data(), weight.data());
    // One row of the output at a time stays in cache while all its products are added.
    for (row, sums) in y.data_mut().chunks_exact_mut(w_out).enumerate() {
        let (image, o, p) = (row / h_out / c_out, row / h_out % c_out, row % h_out);
        for c in 0..group_in {
            let channel = image * c_in + o / group_out * group_in + c;
            for i in 0..kh {
                let Some(at) = rows.position(i, p) else { continue };
                let x = &x[(channel * h + at) * w..][..w];
                let weight = &weight[((o * group_in + c) * kh + i) * kw..][..kw];
                for (j, &weight) in weight.iter().enumerate() {
                    let inside = columns.outputs_inside(j);
                    let Some(first) = columns.position(j, inside.start) else { continue };
                    let sums = &mut sums[inside];
                    if stride == 1 {
                        sums.iter_mut().zip(&x[first..]).for_each(|(sum, &x)| *sum += weight * x);
                    } else {
                        sums.iter_mut().zip(x[first..].iter().step_by(stride)).for_each(|(sum, &x)| *sum += weight * x);
                    }
                }
            }
        }
        if let Some(bias) = bias {
            sums.iter_mut().for_each(|sum| *sum += bias.data()[o]);
        }
        if let Some(residual) = residual {
            sums.iter_mut().zip(&residual.data()[row * w_out..]).for_each(|(sum, r)| *sum += r);
        }
    }
    Ok(y)
}

/// The positions of the taps along one axis.
pub(super) struct Taps {
    input: usize,
    before: usize,
    stride: usize,
    dilation: usize,
    pub output: usize,
}

impl Taps {
    /// The taps of rows and of columns.
    pub fn both(spec: &Conv2dSpec, [h, w]: [usize; 2], [kh, kw]: [usize; 2]) -> Result<[Self; 2]> {
        Ok([Self::new("height", 0, spec, h, kh)?, Self::new("width", 1, spec, w, kw)?])
    }

    /// The taps of one axis: 0 for rows, 1 for columns.
    fn new(name: &'static str, axis: usize, spec: &Conv2dSpec, input: usize, kernel: usize) -> Result<Self> {
        let (stride, dilation) = (spec.stride[axis], spec.dilation[axis]);
        for (name, value) in [("stride", stride), ("dilation", dilation)] {
            if value == 0 {
                return Err(Error::Attribute { name, value: "0".into(), requirement: "at least 1" });
            }
        }
        // Sizes are below 2^64, so 128 bits hold their products.
        let span = dilation as u128 * (kernel - 1) as u128 + 1;
        let (before, after) = match spec.padding {
            Padding::Explicit(sides) => (sides[axis] as u128, sides[axis + 2] as u128),
            // Both axes must have stride 1, as in PyTorch.
            Padding::Same if spec.stride != [1, 1] => {
                let value = format!("\"same\" with stride {:?}", spec.stride);
                return Err(Error::Attribute { name: "padding", value, requirement: "explicit where a stride is above 1" });
            }
            Padding::Same => ((span - 1) / 2, (span - 1) - (span - 1) / 2),
        };
        let padded = input as u128 + before + after;
        let too_large = |what| Error::Overflow { what, values: format!("{name} {input}, padding {before} + {after}, span {span}") };
        if padded > isize::MAX as u128 || span > isize::MAX as u128 {
            return Err(too_large("the padded input size"));
        }
        let (before, after, span) = (before as usize, after as usize, span as usize);
        if (padded as usize) < span {
            return Err(Error::EmptyOutput { axis: name, input, before, after, kernel, dilation, span });
        }
        let output = (padded as usize - span) / stride + 1;
        Ok(Self { input, before, stride, dilation, output })
    }

    /// The input position of tap `tap` of output `p`. `None` if it is in the padding.
    fn position(&self, tap: usize, p: usize) -> Option<usize> {
        (p * self.stride + tap * self.dilation).checked_sub(self.before).filter(|&at| at < self.input)
    }

    /// The input position of tap `tap` of output `p`, also if it is in the padding.
    pub fn unchecked(&self, tap: usize, p: usize) -> i64 {
        (p * self.stride + tap * self.dilation) as i64 - self.before as i64
    }

    /// The outputs whose tap `tap` is not in the padding.
    fn outputs_inside(&self, tap: usize) -> Range<usize> {
        let offset = tap * self.dilation;
        let first = self.before.saturating_sub(offset).div_ceil(self.stride).min(self.output);
        let end = (self.input + self.before).saturating_sub(offset).div_ceil(self.stride).min(self.output);
        first..end.max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A convolution whose operands are k/64, |k| <= 64: all its sums are exact, so results can be
    /// compared bit for bit.
    #[derive(Debug, Clone)]
    struct Problem {
        spec: Conv2dSpec,
        x: Array,
        weight: Array,
        bias: Option<Array>,
        residual: Option<Array>,
    }

    impl Problem {
        fn conv2d(&self) -> Array {
            conv2d(&self.spec, &self.x, &self.weight, self.bias.as_ref(), None, self.residual.as_ref()).unwrap()
        }
    }

    fn array<const N: usize>(shape: [usize; N]) -> impl Strategy<Value = Array> {
        let count = shape.iter().product::<usize>();
        prop::collection::vec((-64..=64i32).prop_map(|k| f64::from(k) / 64.0), count).prop_map(move |data| Array::new(shape, data).unwrap())
    }

    prop_compose! {
        fn spec(max_groups: usize)(
            stride in [1..4usize, 1..4usize],
            padding in [0..5usize, 0..5usize, 0..5usize, 0..5usize],
            dilation in [1..4usize, 1..4usize],
            groups in 1..=max_groups,
        ) -> Conv2dSpec {
            Conv2dSpec { stride, padding: Padding::Explicit(padding), dilation, groups, activation: Activation::None }
        }
    }

    /// Problems whose kernel fits the image, with up to `max_groups` groups.
    fn problem(max_groups: usize) -> impl Strategy<Value = Problem> {
        let sizes = (0..3usize, 1..3usize, 1..3usize, [1..5usize, 1..5usize], [0..6usize, 0..6usize]);
        (spec(max_groups), sizes, any::<[bool; 2]>()).prop_flat_map(|(spec, (n, group_in, group_out, kernel, extra), [bias, residual])| {
            let Padding::Explicit(p) = spec.padding else { unreachable!("spec() makes explicit padding") };
            let span = |i: usize| spec.dilation[i] * (kernel[i] - 1) + 1;
            let size = |i: usize| (span(i) + extra[i]).saturating_sub(p[i] + p[i + 2]);
            let output = |i: usize| (size(i) + p[i] + p[i + 2] - span(i)) / spec.stride[i] + 1;
            let c_out = group_out * spec.groups;
            (
                array([n, group_in * spec.groups, size(0), size(1)]),
                array([c_out, group_in, kernel[0], kernel[1]]),
                array([c_out]),
                array([n, c_out, output(0), output(1)]),
            )
                .prop_map(move |(x, weight, b, r)| Problem {
                    spec,
                    x,
                    weight,
                    bias: bias.then_some(b),
                    residual: residual.then_some(r),
                })
        })
    }

    fn shape(array: &Array) -> [usize; 4] {
        array.shape().try_into().unwrap()
    }

    fn at(array: &Array, index: [usize; 4]) -> f64 {
        let s = array.shape();
        array.data()[((index[0] * s[1] + index[1]) * s[2] + index[2]) * s[3] + index[3]]
    }

    /// An array whose element at [n, c, h, w] is `f([n, c, h, w])`.
    fn build(shape: [usize; 4], mut f: impl FnMut([usize; 4]) -> f64) -> Array {
        let [n, c, h, w] = shape;
        let mut data = Vec::new();
        for n in 0..n {
            for c in 0..c {
                for y in 0..h {
                    for x in 0..w {
                        data.push(f([n, c, y, x]));
                    }
                }
            }
        }
        Array::new(shape, data).unwrap()
    }

    fn channels(x: &Array, range: Range<usize>) -> Array {
        let [n, _, h, w] = shape(x);
        build([n, range.len(), h, w], |[n, c, y, x_]| at(x, [n, range.start + c, y, x_]))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// Compares the optimised loops with the definition, written out word by word on a padded
        /// copy of x.
        #[test]
        fn equals_the_definition(p in problem(3)) {
            let Padding::Explicit([top, left, bottom, right]) = p.spec.padding else { unreachable!() };
            let [n, c, h, w] = shape(&p.x);
            let padded = build([n, c, h + top + bottom, w + left + right], |[n, c, y, x]| {
                if (top..top + h).contains(&y) && (left..left + w).contains(&x) { at(&p.x, [n, c, y - top, x - left]) } else { 0.0 }
            });
            let [c_out, group_in, kh, kw] = shape(&p.weight);
            let ([sh, sw], [dh, dw], group_out) = (p.spec.stride, p.spec.dilation, c_out / p.spec.groups);
            let actual = p.conv2d();
            let h_out = (h + top + bottom - dh * (kh - 1) - 1) / sh + 1;
            let w_out = (w + left + right - dw * (kw - 1) - 1) / sw + 1;
            let expected = build([n, c_out, h_out, w_out], |[n, o, y, x]| {
                let mut sum = 0.0;
                for c in 0..group_in {
                    for i in 0..kh {
                        for j in 0..kw {
                            let from = [n, o / group_out * group_in + c, y * sh + i * dh, x * sw + j * dw];
                            sum += at(&p.weight, [o, c, i, j]) * at(&padded, from);
                        }
                    }
                }
                sum + p.bias.as_ref().map_or(0.0, |b| b.data()[o]) + p.residual.as_ref().map_or(0.0, |r| at(r, [n, o, y, x]))
            });
            prop_assert_eq!(actual, expected);
        }

        #[test]
        fn dilation_is_a_filter_with_zeros_inserted(p in problem(2)) {
            let ([c_out, c, kh, kw], [dh, dw]) = (shape(&p.weight), p.spec.dilation);
            let weight = build([c_out, c, dh * (kh - 1) + 1, dw * (kw - 1) + 1], |[o, c, i, j]| {
                if i % dh == 0 && j % dw == 0 { at(&p.weight, [o, c, i / dh, j / dw]) } else { 0.0 }
            });
            let plain = Problem { spec: Conv2dSpec { dilation: [1, 1], ..p.spec }, weight, ..p.clone() };
            prop_assert_eq!(p.conv2d(), plain.conv2d());
        }

        #[test]
        fn stride_is_a_selection_of_outputs(p in problem(2)) {
            let every = Problem { spec: Conv2dSpec { stride: [1, 1], ..p.spec }, residual: None, ..p.clone() }.conv2d();
            let strided = Problem { residual: None, ..p.clone() }.conv2d();
            let [sh, sw] = p.spec.stride;
            let selected = build(shape(&strided), |[n, o, y, x]| at(&every, [n, o, y * sh, x * sw]));
            prop_assert_eq!(strided, selected);
        }

        #[test]
        fn groups_are_convolutions_side_by_side(p in problem(4)) {
            let whole = p.conv2d();
            let ([c_out, group_in, kh, kw], groups) = (shape(&p.weight), p.spec.groups);
            let group_out = c_out / groups;
            for g in 0..groups {
                let out = g * group_out..(g + 1) * group_out;
                let part = Problem {
                    spec: Conv2dSpec { groups: 1, ..p.spec },
                    x: channels(&p.x, g * group_in..(g + 1) * group_in),
                    weight: build([group_out, group_in, kh, kw], |[o, c, i, j]| at(&p.weight, [out.start + o, c, i, j])),
                    bias: p.bias.as_ref().map(|b| Array::new([group_out], b.data()[out.clone()].to_vec()).unwrap()),
                    residual: p.residual.as_ref().map(|r| channels(r, out.clone())),
                };
                prop_assert_eq!(channels(&whole, out), part.conv2d());
            }
        }

        #[test]
        fn groups_are_a_dense_filter_with_zeros_between_the_groups(p in problem(4)) {
            let [c_out, group_in, kh, kw] = shape(&p.weight);
            let group_out = c_out / p.spec.groups;
            let weight = build([c_out, group_in * p.spec.groups, kh, kw], |[o, c, i, j]| {
                if c / group_in == o / group_out { at(&p.weight, [o, c % group_in, i, j]) } else { 0.0 }
            });
            let dense = Problem { spec: Conv2dSpec { groups: 1, ..p.spec }, weight, ..p.clone() };
            prop_assert_eq!(p.conv2d(), dense.conv2d());
        }

        #[test]
        fn same_keeps_the_size_with_the_odd_zero_at_the_end(p in problem(2), size in [1..8usize, 1..8usize]) {
            let ([n, c, ..], [_, _, kh, kw]) = (shape(&p.x), shape(&p.weight));
            let x = build([n, c, size[0], size[1]], |[n, c, y, x]| (n * 7 + c * 5 + y * 3 + x) as f64);
            let spec = Conv2dSpec { stride: [1, 1], padding: Padding::Same, ..p.spec };
            let same = Problem { spec, x, residual: None, ..p.clone() };
            let y = same.conv2d();
            prop_assert_eq!(&y.shape()[2..], size);
            let total = [p.spec.dilation[0] * (kh - 1), p.spec.dilation[1] * (kw - 1)];
            let before = [total[0] / 2, total[1] / 2];
            let padding = Padding::Explicit([before[0], before[1], total[0] - before[0], total[1] - before[1]]);
            let explicit = Problem { spec: Conv2dSpec { padding, ..spec }, ..same };
            prop_assert_eq!(y, explicit.conv2d());
        }

        #[test]
        fn linear_in_x_and_in_weight(p in problem(2), factor in -4..4i32, shift in 0..9usize) {
            let p = Problem { bias: None, residual: None, ..p };
            let combine = |a: &Array, b: &Array| {
                let data = a.data().iter().zip(b.data()).map(|(a, b)| a + f64::from(factor) * b).collect();
                Array::new(a.shape(), data).unwrap()
            };
            let other = |a: &Array| {
                let mut data = a.data().to_vec();
                let middle = shift % data.len().max(1);
                data.rotate_left(middle);
                Array::new(a.shape(), data).unwrap()
            };
            let with_x = |x: Array| Problem { x, ..p.clone() }.conv2d();
            let with_weight = |weight: Array| Problem { weight, ..p.clone() }.conv2d();
            prop_assert_eq!(with_x(combine(&p.x, &other(&p.x))), combine(&p.conv2d(), &with_x(other(&p.x))));
            let both = combine(&p.weight, &other(&p.weight));
            prop_assert_eq!(with_weight(both), combine(&p.conv2d(), &with_weight(other(&p.weight))));
        }

        #[test]
        fn no_sum_is_above_the_scale(p in problem(2)) {
            let scale = conv2d_scale(&p.spec, &p.x, &p.weight, p.bias.as_ref(), p.residual.as_ref()).unwrap();
            prop_assert!(p.conv2d().data().iter().zip(scale.data()).all(|(y, scale)| y.abs() <= *scale));
        }
    }

    fn filled(shape: [usize; 4], value: f64) -> Array {
        Array::zeros(shape).unwrap().map(|_| value)
    }

    #[test]
    fn what_is_not_finite_propagates_but_not_into_the_padding() {
        let spec = Conv2dSpec { padding: Padding::all(1), ..Default::default() };
        // An infinite corner of the filter meets x in one output only; elsewhere it is over the
        // padding.
        let mut weight = filled([1, 1, 3, 3], 1.0);
        weight.data_mut()[0] = f64::INFINITY;
        let y = conv2d(&spec, &filled([1, 1, 2, 2], 1.0), &weight, None, None, None).unwrap();
        assert_eq!(y.data(), [4.0, 4.0, 4.0, f64::INFINITY]);
        // A weight of zero is multiplied nevertheless.
        let mut x = filled([1, 1, 1, 3], 1.0);
        x.data_mut()[0] = f64::INFINITY;
        let y = conv2d(&spec, &x, &filled([1, 1, 3, 3], 0.0), None, None, None).unwrap();
        assert!(y.data()[0].is_nan() && y.data()[1].is_nan() && y.data()[2] == 0.0, "{y:?}");
    }

    #[test]
    fn each_channel_has_its_slope() {
        let spec = Conv2dSpec { activation: Activation::Prelu, ..Default::default() };
        let slope = Array::new([2], vec![0.5, 0.25]).unwrap();
        let y = conv2d(&spec, &filled([2, 1, 1, 2], -8.0), &filled([2, 1, 1, 1], 1.0), None, Some(&slope), None).unwrap();
        assert_eq!(y.data(), [-4.0, -4.0, -2.0, -2.0, -4.0, -4.0, -2.0, -2.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (x, weight) = (filled([1, 4, 5, 5], 1.0), filled([4, 4, 3, 3], 1.0));
        let spec = Conv2dSpec::default();
        let run = |spec, x: &Array, weight: &Array| conv2d(&spec, x, weight, None, None, None).unwrap_err();
        let vector = Array::zeros([5]).unwrap();
        assert!(matches!(run(spec, &vector, &weight), Error::Rank { name: "x", .. }));
        assert!(matches!(run(spec, &x, &vector), Error::Rank { name: "weight", .. }));
        assert!(matches!(run(spec, &x, &filled([4, 3, 3, 3], 1.0)), Error::Shape { name: "weight", .. }));
        assert!(matches!(run(spec, &x, &filled([4, 4, 0, 3], 1.0)), Error::Attribute { name: "kh", .. }));
        assert!(matches!(run(spec, &x, &filled([4, 4, 6, 3], 1.0)), Error::EmptyOutput { axis: "height", .. }));
        assert!(matches!(run(Conv2dSpec { groups: 0, ..spec }, &x, &weight), Error::Attribute { name: "groups", .. }));
        assert!(matches!(run(Conv2dSpec { groups: 3, ..spec }, &x, &weight), Error::Divisibility { name: "C_in", .. }));
        assert!(matches!(run(Conv2dSpec { stride: [1, 0], ..spec }, &x, &weight), Error::Attribute { name: "stride", .. }));
        assert!(matches!(run(Conv2dSpec { dilation: [0, 1], ..spec }, &x, &weight), Error::Attribute { name: "dilation", .. }));
        assert!(matches!(run(Conv2dSpec { dilation: [usize::MAX, 1], ..spec }, &x, &weight), Error::Overflow { .. }));
        assert!(matches!(run(Conv2dSpec { padding: Padding::all(usize::MAX), ..spec }, &x, &weight), Error::Overflow { .. }));
        let same = Conv2dSpec { padding: Padding::Same, stride: [1, 2], ..spec };
        assert!(matches!(run(same, &x, &weight), Error::Attribute { name: "padding", .. }));
        assert!(matches!(conv2d(&spec, &x, &weight, Some(&vector), None, None), Err(Error::Shape { name: "bias", .. })));
        assert!(matches!(conv2d(&spec, &x, &weight, None, None, Some(&x)), Err(Error::Shape { name: "residual", .. })));
        assert!(matches!(conv2d(&spec, &x, &weight, None, Some(&vector), None), Err(Error::UnexpectedTensor { .. })));
        let prelu = Conv2dSpec { activation: Activation::Prelu, ..spec };
        assert!(matches!(run(prelu, &x, &weight), Error::MissingTensor { .. }));
        assert!(matches!(conv2d(&prelu, &x, &weight, None, Some(&vector), None), Err(Error::Shape { name: "slope", .. })));
    }
}
