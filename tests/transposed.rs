//! Transposed convolution on the host device: every kernel against the oracle, its definition as the transpose of a convolution,
//! the forms with inserted zeros, the phases, and what must be refused.

use half::f16;
use proptest::prelude::*;
use rstest::rstest;
use std::collections::BTreeSet;
use std::sync::LazyLock;
use warpconv::cases::{Problem, Values};
use warpconv::layers::bilinear_kernel;
use warpconv::{
    Activation, Conv2d, Conv2dSpec, ConvTranspose2d, ConvTranspose2dSpec, Device, Element, Error, HostOptions, Inputs, Layer, LayerSpec,
    MemoryFormat, Padding, Parameter, PlanRequest, Shape, Stream, Tensor, Workspace,
};

use crate::common::{bits, check, checked, grid, kinds_of};

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host().unwrap());

#[rstest]
fn awkward_problems(#[values(0, 1, 2)] seed: u64) {
    let device = Device::host_with(HostOptions { seed, ..Default::default() }).unwrap();
    let kinds = kinds_of("conv_transpose2d");
    let ran: BTreeSet<_> = (0..3 * kinds.len() as u64).flat_map(|index| check(&Problem::of_kinds(&kinds, seed, index), &device)).collect();
    assert_eq!(ran.len(), 32, "{ran:?}");
}

#[rstest]
fn the_checker_finds_nothing(#[values(1, 2)] seed: u64) {
    let device = checked(seed);
    let kinds = kinds_of("conv_transpose2d");
    // images of a few pixels; the checker is slow
    let small = |problem: &Problem| problem.output_shape().unwrap().iter().product::<usize>() < 5000;
    (0..kinds.len() as u64).map(|index| Problem::of_kinds(&kinds, seed, index)).filter(small).for_each(|problem| {
        check(&problem, &device);
    });
}

fn activations() -> impl Strategy<Value = Activation> {
    prop::sample::select(Activation::all(0.25).to_vec())
}

prop_compose! {
    fn transposed()(
        n in 0usize..3, groups in 1usize..4, group_in in 1usize..9, group_out in 1usize..9, image in [1usize..7, 1usize..7],
        kernel in [1usize..6, 1usize..6], stride in [1usize..5, 1usize..5], dilation in [1usize..5, 1usize..5],
        padding in [0usize..4, 0usize..4, 0usize..4, 0usize..4], extra in [0usize..5, 0usize..5], activation in activations(),
        bias: bool, residual: bool, full_mantissa: bool, seed: u64,
    ) -> Option<Problem> {
        let output_padding = [0, 1].map(|axis| extra[axis].min(stride[axis].max(dilation[axis]) - 1));
        let spec = ConvTranspose2dSpec { stride, padding, output_padding, dilation, groups, activation };
        let weight = [groups * group_in, group_out, kernel[0], kernel[1]];
        let problem = Problem::conv_transpose2d(spec, [n, groups * group_in, image[0], image[1]], weight);
        let values = if full_mantissa { Values::FullMantissa } else { Values::Exact };
        problem.output_shape().ok()?;
        let problem = problem.with("bias", bias.then_some(&[groups * group_out])).with_residual(residual);
        Some(Problem { values, seed, ..problem })
    }
}

fn run(layer: &impl Layer, x: Shape, values: &[f32]) -> (Shape, Vec<f32>) {
    let y = layer.forward(&Inputs::new(&Tensor::from_slice(&DEVICE, x, values).unwrap())).unwrap();
    (y.shape(), y.to_vec().unwrap())
}

/// A convolution, and the transposed one that has its weight and gives its input's shape back.
fn pair(conv: Conv2dSpec, image: [usize; 2], weight: Shape, values: &[f32]) -> (Conv2d, ConvTranspose2d) {
    let Padding::Explicit(padding) = conv.padding else { panic!("the padding is explicit") };
    let kernel = [weight[2], weight[3]];
    let output_padding = [0, 1].map(|axis| {
        let span = conv.dilation[axis] * (kernel[axis] - 1) + 1;
        (image[axis] + padding[axis] + padding[axis + 2] - span) % conv.stride[axis]
    });
    let Conv2dSpec { stride, dilation, groups, activation, .. } = conv;
    let spec = ConvTranspose2dSpec { stride, padding, output_padding, dilation, groups, activation };
    let weight = Parameter::new(&weight, values).unwrap();
    (Conv2d::new(conv, weight.clone()).unwrap(), ConvTranspose2d::new(spec, weight).unwrap())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_agrees_with_the_oracle(problem in transposed()) {
        prop_assume!(problem.is_some());
        check(&problem.unwrap(), &DEVICE);
    }

    /// <conv(x), y> = <x, conv_transpose(y)>, exactly.
    #[test]
    fn it_is_the_adjoint_of_the_convolution(
        groups in 1usize..3, channels in [1usize..4, 1usize..4], kernel in [1usize..5, 1usize..5], stride in [1usize..5, 1usize..5],
        dilation in [1usize..4, 1usize..4], padding in [0usize..3, 0usize..3, 0usize..3, 0usize..3], more in [0usize..7, 0usize..7], seed: u64,
    ) {
        let image = [0, 1].map(|axis| dilation[axis] * (kernel[axis] - 1) + 1 + more[axis]);
        let spec = Conv2dSpec { stride, padding: Padding::Explicit(padding), dilation, groups, activation: Activation::None };
        let weight = [groups * channels[0], channels[1], kernel[0], kernel[1]];
        let (conv, transpose) = pair(spec, image, weight, &grid(weight.iter().product(), seed));
        let x_shape = [2, groups * channels[1], image[0], image[1]];
        let x = grid(x_shape.iter().product(), seed ^ 1);
        let (y_shape, forward) = run(&conv, x_shape, &x);
        let y = grid(y_shape.iter().product(), seed ^ 2);
        let (shape, backward) = run(&transpose, y_shape, &y);
        prop_assert_eq!(shape, x_shape);
        prop_assert_eq!(dot(&forward, &y), dot(&x, &backward));
    }

    /// The form with inserted zeros: s - 1 between the pixels, a border of s - 1, then the flipped filter at stride 1.
    #[test]
    fn it_is_zero_insertion_and_the_flipped_filter(n in 1usize..6, kernel in 1usize..7, stride in 1usize..6, channels in [1usize..4, 1usize..4], seed: u64) {
        prop_assume!(kernel < stride * n + stride);
        let [c_in, c_out] = channels;
        let weight = [c_in, c_out, kernel, kernel];
        let (x, w) = (grid(c_in * n * n, seed), grid(weight.iter().product(), seed ^ 1));
        let size = stride * (n - 1) + 1 + 2 * (stride - 1);
        let mut inserted = vec![0.0; c_in * size * size];
        for (index, &value) in x.iter().enumerate() {
            let (c, row, column) = (index / (n * n), index / n % n, index % n);
            inserted[(c * size + row * stride + stride - 1) * size + column * stride + stride - 1] = value;
        }
        let mut flipped = vec![0.0; w.len()];
        for (index, &value) in w.iter().enumerate() {
            let (c, o, tap) = (index / (kernel * kernel) / c_out, index / (kernel * kernel) % c_out, index % (kernel * kernel));
            flipped[(o * c_in + c) * kernel * kernel + kernel * kernel - 1 - tap] = value;
        }
        let filter = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[c_out, c_in, kernel, kernel], &flipped).unwrap()).unwrap();
        let (expected_shape, expected) = run(&filter, [1, c_in, size, size], &inserted);
        let outputs = stride * n + stride - kernel;
        prop_assert_eq!(expected_shape, [1, c_out, outputs, outputs]);

        // a kernel below the stride: rows in front that no tap reaches, and as many behind, which output_padding gives
        let (cut, front) = (kernel.saturating_sub(stride), stride.saturating_sub(kernel));
        let spec = ConvTranspose2dSpec { stride: [stride; 2], padding: [cut; 4], output_padding: [front; 2], ..Default::default() };
        let layer = ConvTranspose2d::new(spec, Parameter::new(&weight, &w).unwrap()).unwrap();
        let (shape, y) = run(&layer, [1, c_in, n, n], &x);
        prop_assert_eq!(shape, [1, c_out, outputs - front, outputs - front]);
        for (index, &value) in expected.iter().enumerate() {
            let (o, row, column) = (index / (outputs * outputs), index / outputs % outputs, index % outputs);
            let own = if row < front || column < front { 0.0 } else { y[(o * shape[2] + row - front) * shape[3] + column - front] };
            prop_assert_eq!(value, own, "channel {} row {} column {}", o, row, column);
        }
    }
}

#[rstest]
#[case([2, 1], [1, 2], 1, [3, 2], [1, 0, 0, 2])]
#[case([3, 2], [2, 1], 2, [2, 3], [0, 1, 1, 0])]
fn its_matrix_is_the_transpose_of_the_convolutions(
    #[case] stride: [usize; 2],
    #[case] dilation: [usize; 2],
    #[case] groups: usize,
    #[case] kernel: [usize; 2],
    #[case] padding: [usize; 4],
) {
    let image = [6, 7];
    let spec = Conv2dSpec { stride, padding: Padding::Explicit(padding), dilation, groups, activation: Activation::None };
    let weight = [groups * 2, 2, kernel[0], kernel[1]];
    let (conv, transpose) = pair(spec, image, weight, &grid(weight.iter().product(), 3));
    // an image of a batch for each unit vector: the rows of the result are the columns of the matrix
    type Apply<'a> = dyn Fn(Shape, &[f32]) -> (Shape, Vec<f32>) + 'a;
    let matrix = |layer: &Apply<'_>, [_, c, h, w]: Shape| {
        let count = c * h * w;
        let unit: Vec<f32> = (0..count * count).map(|i| if i / count == i % count { 1.0 } else { 0.0 }).collect();
        let (_, columns) = layer([count, c, h, w], &unit);
        (count, columns)
    };
    let x = [1, groups * 2, image[0], image[1]];
    let y = conv.output_shape(&x.into()).unwrap();
    assert_eq!(transpose.output_shape(&y.into()).unwrap(), x);
    let (inputs, forward) = matrix(&|x, values| run(&conv, x, values), x);
    let (outputs, backward) = matrix(&|x, values| run(&transpose, x, values), y);
    for i in 0..inputs {
        for o in 0..outputs {
            assert_eq!(forward[i * outputs + o], backward[o * inputs + i], "input {i}, output {o}");
        }
    }
}

/// Kernel, stride, dilation and output_padding of one axis: phases without taps, with different numbers of taps, taps that share
/// a factor with the stride, and rows that only the bias reaches.
#[rstest]
#[case::below_the_stride(2, 5, 1, 0)]
#[case::one_tap(1, 3, 1, 2)]
#[case::no_multiple(5, 3, 1, 0)]
#[case::no_multiple_of_four(7, 4, 1, 3)]
#[case::common_factor(3, 4, 2, 3)]
#[case::common_factor_three(4, 6, 9, 8)]
#[case::stride_divides(3, 2, 4, 3)]
#[case::coprime(4, 5, 3, 0)]
#[case::bias_rows(2, 2, 7, 6)]
#[case::one_row_of_each_phase(3, 9, 1, 8)]
fn phases(#[case] kernel: usize, #[case] stride: usize, #[case] dilation: usize, #[case] extra: usize) {
    for (x, c_out) in [([2, 32, 3, 4], 24), ([1, 5, 4, 2], 9), ([3, 8, 1, 1], 16)] {
        for padding in [[0; 4], [1, 0, 0, 1]] {
            let spec = ConvTranspose2dSpec {
                stride: [stride, 2],
                padding,
                output_padding: [extra, 1],
                dilation: [dilation, 1],
                ..Default::default()
            };
            let problem =
                Problem::conv_transpose2d(spec, x, [x[1], c_out, kernel, 3]).with("bias", Some(&[c_out])).with_residual(x[0] == 2);
            let ran = check(&problem, &DEVICE);
            assert!(ran.iter().any(|kernel| kernel.contains("_vectors_")) == x[1].is_multiple_of(8), "{ran:?}");
        }
    }
}

#[test]
fn outputs_without_taps_hold_the_epilogue_of_zero() {
    let spec = ConvTranspose2dSpec { stride: [3, 2], output_padding: [2, 1], activation: Activation::Relu, ..Default::default() };
    let weight = Parameter::new(&[1, 2, 1, 1], &[1f32, 2.0]).unwrap();
    let layer = ConvTranspose2d::new(spec, weight).unwrap().with_bias(Parameter::vector(&[0.5f32, -0.5])).unwrap();
    let (shape, y) = run(&layer, [1, 1, 1, 2], &[1.0, 2.0]);
    assert_eq!(shape, [1, 2, 3, 4]);
    assert_eq!(y, [1.5, 0.5, 2.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.5, 0.0, 3.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

#[rstest]
fn the_bilinear_kernel_interpolates(#[values(1, 2, 3, 4, 5)] stride: usize) {
    let kernel = 2 * stride - stride % 2;
    let weight = Parameter::new(&[1, 1, kernel, kernel], &bilinear_kernel(kernel, stride).unwrap()).unwrap();
    let spec = ConvTranspose2dSpec { stride: [stride; 2], padding: [(kernel - stride) / 2; 4], ..Default::default() };
    let (h, w) = (5, 6);
    let x = grid(h * w, 7);
    let (shape, y) = run(&ConvTranspose2d::new(spec, weight).unwrap(), [1, 1, h, w], &x);
    assert_eq!(shape, [1, 1, h * stride, w * stride]);
    let source = |at: usize| (at as f64 + 0.5) / stride as f64 - 0.5;
    let inside = |at: f64, size: usize| (0.0..=(size - 1) as f64).contains(&at);
    let mut compared = 0;
    for (index, &value) in y.iter().enumerate() {
        let (row, column) = (source(index / (w * stride)), source(index % (w * stride)));
        if !inside(row, h) || !inside(column, w) {
            continue;
        }
        let (top, left) = (row.floor() as usize, column.floor() as usize);
        let pixel = |i: usize, j: usize| f64::from(x[i.min(h - 1) * w + j.min(w - 1)]);
        let (down, right) = (row - top as f64, column - left as f64);
        let upper = pixel(top, left) * (1.0 - right) + pixel(top, left + 1) * right;
        let lower = pixel(top + 1, left) * (1.0 - right) + pixel(top + 1, left + 1) * right;
        let expected = upper * (1.0 - down) + lower * down;
        assert!((f64::from(value) - expected).abs() < 1e-6, "{row}, {column}: {value} is not {expected}");
        compared += 1;
    }
    assert!(compared >= (h - 1) * (w - 1) * stride * stride, "{compared}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let spec = ConvTranspose2dSpec { stride: [2, 2], padding: [1; 4], ..Default::default() };
    let parameter = |shape: &[usize]| Parameter::new(shape, &vec![0.5f32; shape.iter().product()]).unwrap();
    let refused = |spec: ConvTranspose2dSpec, weight: &[usize], x: Shape| -> Error {
        let layer = match ConvTranspose2d::new(spec, parameter(weight)) {
            Ok(layer) => layer,
            Err(error) => return error,
        };
        let error = layer.output_shape(&x.into()).err();
        let planned = layer.plan::<f32>(&DEVICE, &PlanRequest::new(x)).err();
        assert!(planned.is_some() && error.as_ref().is_none_or(|e| e.to_string() == planned.as_ref().unwrap().to_string()));
        planned.unwrap()
    };
    let (weight, x) = ([4, 6, 3, 3], [1, 4, 5, 5]);
    assert!(matches!(refused(spec, &[4, 6, 3], x), Error::Rank { name: "weight", .. }));
    assert!(matches!(refused(spec, &[4, 6, 0, 3], x), Error::Attribute { name: "kernel height", .. }));
    assert!(matches!(refused(spec, &[4, 0, 3, 3], x), Error::Attribute { name: "C_out / groups", .. }));
    assert!(matches!(refused(spec, &weight, [1, 6, 5, 5]), Error::Shape { name: "x", .. }));
    assert!(matches!(refused(spec, &weight, [1, 4, 0, 5]), Error::Attribute { name: "input size", .. }));
    let attribute = |spec, expected: &str| {
        let error = refused(spec, &weight, x);
        assert!(matches!(&error, Error::Attribute { name, .. } if *name == expected), "{error}");
    };
    attribute(ConvTranspose2dSpec { stride: [0, 2], ..spec }, "stride");
    attribute(ConvTranspose2dSpec { dilation: [1, 0], ..spec }, "dilation");
    attribute(ConvTranspose2dSpec { groups: 0, ..spec }, "groups");
    attribute(ConvTranspose2dSpec { output_padding: [0, 2], ..spec }, "output_padding");
    attribute(ConvTranspose2dSpec { output_padding: [3, 0], dilation: [3, 3], ..spec }, "output_padding");
    assert!(matches!(refused(ConvTranspose2dSpec { groups: 3, ..spec }, &weight, x), Error::Divisibility { name: "C_in", .. }));
    let cut = ConvTranspose2dSpec { padding: [0, 5, 0, 6], ..spec };
    let error = refused(cut, &weight, x);
    assert!(matches!(error, Error::EmptyTransposedOutput { axis: "width", full: 11, .. }), "{error}");
    assert!(matches!(refused(ConvTranspose2dSpec { padding: [usize::MAX; 4], ..spec }, &weight, x), Error::Overflow { .. }));
    assert!(matches!(refused(ConvTranspose2dSpec { stride: [usize::MAX / 2; 2], ..spec }, &weight, x), Error::Overflow { .. }));
    // what the kernels cannot count
    let far = ConvTranspose2dSpec { stride: [1 << 20, 1], padding: [0; 4], ..spec };
    assert!(matches!(refused(far, &[1, 1, 1, 1], [1, 1, 1, 1]), Error::Limit { limit: 65535, .. }));
    let wide = ConvTranspose2dSpec { stride: [1, 1], dilation: [1 << 31, 1], padding: [1 << 31, 0, 1 << 31, 0], ..spec };
    assert!(matches!(refused(wide, &[1, 1, 3, 1], [1, 1, 1, 1]), Error::Limit { .. }));
    // a stride above what tensors can have, of which all is cut off but one row
    let bounded = ConvTranspose2dSpec { stride: [1 << 16, 1], dilation: [2, 1], padding: [0; 4], ..spec };
    let layer = ConvTranspose2d::new(bounded, parameter(&[1, 1, 2, 1])).unwrap();
    assert_eq!(run(&layer, [1, 1, 1, 1], &[2.0]), ([1, 1, 3, 1], vec![1.0, 0.0, 1.0]));

    let layer = || ConvTranspose2d::new(ConvTranspose2dSpec { groups: 2, ..spec }, parameter(&weight)).unwrap();
    assert!(matches!(layer().with_bias(parameter(&[6])), Err(Error::Shape { name: "bias", .. })));
    assert!(layer().with_bias(parameter(&[12])).is_ok());
    assert!(matches!(layer().with_slope(parameter(&[12])), Err(Error::UnexpectedTensor { .. })));
    let prelu = ConvTranspose2d::new(ConvTranspose2dSpec { activation: Activation::Prelu, ..spec }, parameter(&weight)).unwrap();
    assert!(matches!(prelu.plan::<f32>(&DEVICE, &PlanRequest::new(x)), Err(Error::MissingTensor { .. })));

    let json = |attrs: &str| LayerSpec::from_json(&format!(r#"{{"op": "conv_transpose2d", "attrs": {attrs}}}"#)).unwrap_err().to_string();
    assert!(json(r#"{"padding": "same"}"#).contains("not defined for a transposed convolution"));
    assert!(json(r#"{"output_padding": -1}"#).contains("output_padding") || json(r#"{"output_padding": -1}"#).contains("none negative"));
    assert!(json(r#"{"strides": 2}"#).contains("unknown field"));

    assert!(matches!(bilinear_kernel(2, 2), Err(Error::Attribute { name: "kernel", .. })));
    assert!(matches!(bilinear_kernel(3, 0), Err(Error::Attribute { name: "stride", .. })));
    assert!(matches!(bilinear_kernel(usize::MAX, 2), Err(Error::Overflow { .. })));
}

/// A layer whose every sum is rounded, with all that an epilogue may have.
fn rounded(spec: ConvTranspose2dSpec, c_in: usize, c_out: usize, kernel: [usize; 2]) -> ConvTranspose2d {
    let values = |count: usize| (0..count).map(|i| (i as f32 * 0.7).sin() * 0.3).collect::<Vec<_>>();
    let shape = [c_in, c_out / spec.groups, kernel[0], kernel[1]];
    let weight = Parameter::new(&shape, &values(shape.iter().product())).unwrap();
    let layer = ConvTranspose2d::new(ConvTranspose2dSpec { activation: Activation::Prelu, ..spec }, weight).unwrap();
    layer.with_bias(Parameter::vector(&values(c_out))).unwrap().with_slope(Parameter::vector(&values(c_out))).unwrap()
}

fn run_with<T: Element>(layer: &ConvTranspose2d, request: &PlanRequest, kernel: &str, x: &Tensor<T>, residual: &Tensor<T>) -> Tensor<T> {
    let device = x.device();
    let plan = layer.plan::<T>(device, &request.clone().kernel(kernel)).unwrap();
    let mut y = Tensor::<T>::zeros(device, plan.output_shape(), plan.output_format()).unwrap();
    plan.run(&Inputs::new(x).residual(residual), &mut y, Workspace::none(), &Stream::default_of(device)).unwrap();
    y
}

/// Columns of one GEMM hold the very sums of the phases, in the same order: of images and of their edges, where infinities and NaN
/// must reach as far and no further. [C_in, H, W], C_out, kernel, stride, padding, output_padding, groups.
#[rstest]
#[case::unet([16, 5, 9], 8, [2, 2], [2, 2], [0; 4], [0; 2], 1)]
#[case::dcgan([64, 6, 5], 24, [4, 4], [2, 2], [1; 4], [0; 2], 1)]
#[case::dcgan_rgb([32, 9, 4], 3, [4, 4], [2, 2], [1; 4], [0; 2], 1)]
#[case::fcn([24, 3, 4], 5, [16, 16], [8, 8], [4; 4], [0; 2], 1)]
#[case::four_sides([8, 6, 7], 6, [6, 4], [3, 2], [5, 0, 2, 3], [2, 1], 1)]
#[case::padding_of_blocks([40, 5, 6], 16, [6, 4], [2, 2], [4, 3, 0, 5], [0, 1], 1)]
#[case::one_axis([16, 4, 5], 8, [1, 3], [1, 3], [0, 2, 0, 1], [0; 2], 1)]
#[case::groups([48, 4, 4], 24, [4, 2], [2, 2], [1, 0, 1, 0], [1, 0], 3)]
#[case::groups_of_chunks([32, 5, 3], 32, [2, 4], [2, 4], [1, 1, 0, 2], [0, 3], 2)]
fn columns_hold_the_sums_of_the_phases(
    #[case] image: [usize; 3],
    #[case] c_out: usize,
    #[case] kernel: [usize; 2],
    #[case] stride: [usize; 2],
    #[case] padding: [usize; 4],
    #[case] output_padding: [usize; 2],
    #[case] groups: usize,
) {
    fn check<T: Element>(layer: &ConvTranspose2d, x_shape: Shape, tiles: &[&str]) {
        for x_format in MemoryFormat::ALL {
            let mut values = Tensor::<T>::randn(&DEVICE, x_shape, MemoryFormat::Contiguous, 5).unwrap().to_vec().unwrap();
            let count = values.len();
            let plane = x_shape[2] * x_shape[3];
            for (at, special) in [(0, f32::INFINITY), (plane - 1, f32::NAN), (count - 1, f32::NEG_INFINITY)] {
                values[at] = T::from_f32(special);
            }
            let x = Tensor::from_slice(&DEVICE, x_shape, &values).unwrap().to_format(x_format).unwrap();
            let residual = Tensor::<T>::randn(&DEVICE, layer.output_shape(&x_shape.into()).unwrap(), x_format, 6).unwrap();
            for y_format in MemoryFormat::ALL {
                let request = PlanRequest::new(x_shape).format(x_format).output_format(y_format);
                let gathers: &[_] = if x_format == MemoryFormat::Contiguous { &["pixels"] } else { &["vectors", "channels"] };
                for gather in gathers {
                    for tile in if *gather == "vectors" { tiles } else { &["64x64"] } {
                        let of = |form: &str, tile: &str| {
                            let kernel = format!("conv_transpose_{form}{}_{gather}_{tile}", T::DTYPE);
                            run_with::<T>(layer, &request, &kernel, &x, &residual)
                        };
                        let phases = if *tile == "128x32" { "64x64" } else { tile }; // which have no tile as narrow
                        assert_eq!(
                            bits(&of("columns_", tile)),
                            bits(&of("", phases)),
                            "{} {x_format} to {y_format}: {gather} {tile}",
                            T::DTYPE
                        );
                    }
                }
            }
        }
    }
    let [c_in, h, w] = image;
    let spec = ConvTranspose2dSpec { stride, padding, output_padding, groups, ..Default::default() };
    let layer = rounded(spec, c_in, c_out, kernel);
    check::<f16>(&layer, [2, c_in, h, w], &["128x128", "64x64", "128x32"]);
    check::<f32>(&layer, [2, c_in, h, w], &["64x64"]);
}

/// With all phases in the columns of a block, x is read once a tap, where the phases read it once each.
#[rstest]
#[case::unet(8, 2, 2, 0, 1, 4)]
#[case::dcgan_rgb(3, 4, 2, 1, 4, 4)]
#[case::fcn(1, 8, 4, 2, 4, 16)]
fn columns_read_the_input_once(
    #[case] c_out: usize,
    #[case] kernel: usize,
    #[case] stride: usize,
    #[case] padding: usize,
    #[case] taps: u64,
    #[case] phases: u64,
) {
    let device = checked(0);
    let spec = ConvTranspose2dSpec { stride: [stride; 2], padding: [padding; 4], ..Default::default() };
    let layer = rounded(spec, 32, c_out, [kernel; 2]);
    let (x, request) = ([1, 32, 16, 16], PlanRequest::new([1, 32, 16, 16]).format(MemoryFormat::ChannelsLast));
    let x = Tensor::<f16>::randn(&device, x, MemoryFormat::ChannelsLast, 1).unwrap();
    let residual = Tensor::<f16>::randn(&device, layer.output_shape(&x.shape().into()).unwrap(), MemoryFormat::ChannelsLast, 2).unwrap();
    let counters = |form: &str| {
        let _y = run_with::<f16>(&layer, &request, &format!("conv_transpose_{form}f16_vectors_64x64"), &x, &residual);
        let counters = device.last_launch_counters().unwrap();
        let of = |name: &str| counters.operand(name).unwrap().clone();
        (of("x"), of("y"))
    };
    let ((x, y), (x_of_phases, y_of_phases)) = (counters("columns_"), counters(""));
    assert_eq!((x.unique_bytes, y.bytes_written), (x.bytes, y.bytes));
    assert_eq!((y_of_phases.bytes_written, y.unique_bytes), (y.bytes, y.bytes));
    // a block's taps overlap; those of the border see less
    assert!(x.bytes_read <= taps * x.bytes && x.block_sectors * 32 <= 2 * x.bytes, "{x:?}");
    assert!(x_of_phases.bytes_read >= (phases - 1) * x.bytes_read, "{x:?} {x_of_phases:?}");
    assert!(x_of_phases.block_sectors > phases / 2 * x.block_sectors, "{x:?} {x_of_phases:?}");
}

#[rstest]
#[case(3, 2, 1, Some("a kernel of [3, 3] is no multiple of a stride of [2, 2]"))]
#[case(4, 2, 3, Some("a dilation of [3, 3]"))]
#[case(3, 1, 1, Some("a stride of 1 has one phase"))]
#[case(4, 2, 1, None)]
fn columns_say_where_they_do_not_apply(
    #[case] kernel: usize,
    #[case] stride: usize,
    #[case] dilation: usize,
    #[case] reason: Option<&str>,
) {
    let spec = ConvTranspose2dSpec { stride: [stride; 2], dilation: [dilation; 2], ..Default::default() };
    let layer = ConvTranspose2d::new(spec, Parameter::new(&[8, 8, kernel, kernel], &vec![0.5f32; 64 * kernel * kernel]).unwrap()).unwrap();
    let plan = layer.plan::<f16>(&DEVICE, &PlanRequest::new([1, 8, 9, 9]).format(MemoryFormat::ChannelsLast)).unwrap();
    let choice = plan.explain().choices.iter().find(|choice| choice.kernel == "conv_transpose_columns_f16_vectors_64x64").unwrap();
    match (&choice.verdict, reason) {
        (Ok(estimate), None) => assert!(estimate.seconds > 0.0),
        (Err(said), Some(reason)) => assert!(said.contains(reason), "{said}"),
        other => panic!("{other:?}"),
    }
}

/// The kernels that layers of real networks get, in f16: all phases at once where the taps allow it and those of one would not fill a
/// tile, or where blocks beside the output cost nothing. [N, C_in, H, W], C_out, kernel, stride, padding.
#[rstest]
#[case::unet_up([4, 128, 64, 64], 64, 2, 2, 0, "columns_f16", "vectors_128x128")]
#[case::dcgan_generator([64, 512, 8, 8], 256, 4, 2, 1, "f16", "vectors_128x64")]
#[case::dcgan_last([64, 64, 32, 32], 3, 4, 2, 1, "columns_f16", "vectors_128x32")]
#[case::dcgan_rgb([1, 128, 32, 32], 3, 4, 2, 1, "columns_f16", "vectors_64x64")]
#[case::decoder([1, 256, 64, 64], 128, 3, 2, 1, "f16", "vectors_128x64")]
#[case::fcn_8s([1, 21, 70, 70], 21, 16, 8, 0, "columns_f16", "channels_64x64")]
#[case::fcn_8s_cut([1, 21, 70, 70], 21, 16, 8, 4, "columns_f16", "channels_64x64")]
fn real_layers_get_tensor_cores(
    #[case] x: Shape,
    #[case] c_out: usize,
    #[case] kernel: usize,
    #[case] stride: usize,
    #[case] padding: usize,
    #[case] form: &str,
    #[case] expected: &str,
) {
    let shape = [x[1], c_out, kernel, kernel];
    let weight = Parameter::new(&shape, &vec![0.0; shape.iter().product()]).unwrap();
    let spec = ConvTranspose2dSpec { stride: [stride; 2], padding: [padding; 4], ..Default::default() };
    let layer = ConvTranspose2d::new(spec, weight).unwrap();
    for (format, expected) in [(MemoryFormat::ChannelsLast, expected), (MemoryFormat::Contiguous, "pixels_64x64")] {
        let plan = layer.plan::<f16>(&DEVICE, &PlanRequest::new(x).format(format)).unwrap();
        assert_eq!(plan.explain().kernel, format!("conv_transpose_{form}_{expected}"), "{}", plan.explain());
    }
}
