//! Depthwise separable and spatially separable convolution on the host device: every form against the oracle and against each
//! other, what is refused, and which form real layers get.

use half::{bf16, f16};
use proptest::prelude::*;
use rstest::rstest;
use std::sync::LazyLock;
use warpconv::cases::{Problem, Values};
use warpconv::factorise::{low_rank, ranks, separate};
use warpconv::reference::{self, Array, DepthwiseSeparable};
use warpconv::{
    Activation, AnyLayer, BatchNorm, Conv2d, Conv2dSpec, DType, DepthwiseSeparableConv2d, DepthwiseSeparableSpec, Device, Element, Error,
    Inputs, Layer, LayerSpec, MemoryFormat, Padding, Parameter, PlanRequest, Shape, SpatiallySeparableConv2d, SpatiallySeparableSpec,
    Stream, Tensor, Workspace, WorkspaceMemory,
};

use crate::common::{check, checked, kinds_of};

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host().unwrap());

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_form_agrees_with_the_oracle(seed: u64, index in 0u64..10_000, spatially: bool) {
        let op = if spatially { "spatially_separable" } else { "depthwise_separable" };
        check(&Problem::of_kinds(&kinds_of(op), seed, index), &DEVICE);
    }
}

#[rstest]
fn the_checker_finds_nothing(#[values("depthwise_separable", "spatially_separable")] op: &str, #[values(1, 2)] seed: u64) {
    let device = checked(seed);
    let kinds = kinds_of(op);
    for index in 0..kinds.len() as u64 {
        check(&Problem::of_kinds(&kinds, seed, index), &device);
    }
}

/// Small whole numbers, drawn from `values` in an order that looks random.
fn whole(count: usize, values: &[f32], seed: usize) -> Vec<f32> {
    (0..count).map(|index| values[((index + seed).wrapping_mul(0x9e37_79b9) >> 7) % values.len()]).collect()
}

fn parameter(shape: &[usize], values: &[f32], seed: usize) -> Parameter {
    Parameter::new(shape, &whole(shape.iter().product(), values, seed)).unwrap()
}

fn run<T: Element>(layer: &impl Layer, x: &Tensor<T>, kernel: &str, y_format: MemoryFormat) -> Vec<f32> {
    let request = PlanRequest::new(x.shape()).format(x.format()).output_format(y_format).kernel(kernel);
    let plan = layer.plan::<T>(&DEVICE, &request).unwrap();
    assert_eq!(plan.explain().kernel, kernel);
    assert_eq!(plan.workspace_bytes() > 0, kernel == "pair", "one launch needs no workspace");
    let mut y = Tensor::zeros(&DEVICE, plan.output_shape(), y_format).unwrap();
    let mut memory = WorkspaceMemory::new(&DEVICE, plan.workspace_bytes()).unwrap();
    plan.run(&Inputs::new(x), &mut y, memory.workspace(), &Stream::default_of(&DEVICE)).unwrap();
    y.to_vec().unwrap().into_iter().map(Element::to_f32).collect()
}

fn applicable<T: Element>(layer: &impl Layer, x: &Tensor<T>) -> Vec<&'static str> {
    let plan = layer.plan::<T>(&DEVICE, &PlanRequest::new(x.shape()).format(x.format())).unwrap();
    let choices = plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok());
    choices.map(|choice| choice.kernel).collect()
}

/// Every fused kernel, the pair, and the oracle rounded once: where no sum rounds, they are equal bit for bit.
fn one_launch_is_two<T: Element>(x: Shape, multiplier: usize, c_out: usize, kernel: [usize; 2], spec: DepthwiseSeparableSpec) {
    let outputs = x[1] * multiplier;
    let spec = DepthwiseSeparableSpec { groups: Some(x[1]), padding: Padding::all(1), ..spec };
    let dw_weight = parameter(&[outputs, 1, kernel[0], kernel[1]], &[-1.0, 0.0, 1.0], 1);
    let pw_weight = parameter(&[c_out, outputs, 1, 1], &[-2.0, -1.0, 0.0, 1.0, 2.0], 2);
    let (dw_bias, pw_bias) = (parameter(&[outputs], &[-1.0, 0.0, 3.0], 3), parameter(&[c_out], &[-5.0, 7.0], 4));
    let values = whole(x.iter().product(), &[-2.0, -1.0, 1.0, 2.0], 5);
    let array = |p: &Parameter| Array::from_slice(p.shape(), p.values()).unwrap();
    let tensors = DepthwiseSeparable {
        x: &Array::from_slice(x, &values).unwrap(),
        dw_weight: &array(&dw_weight),
        dw_bias: Some(&array(&dw_bias)),
        mid_slope: None,
        pw_weight: &array(&pw_weight),
        pw_bias: Some(&array(&pw_bias)),
        slope: None,
        residual: None,
    };
    let expected = reference::depthwise_separable(&spec, &tensors).unwrap().rounded(T::DTYPE);
    let expected: Vec<f32> = expected.data().iter().map(|&v| v as f32 + 0.0).collect();
    let layer = DepthwiseSeparableConv2d::new(spec, dw_weight, pw_weight).unwrap();
    let layer = layer.with_dw_bias(dw_bias).unwrap().with_pw_bias(pw_bias).unwrap();
    let values: Vec<T> = values.iter().map(|&v| T::from_f32(v)).collect();
    let contiguous = Tensor::from_slice(&DEVICE, x, &values).unwrap();
    for x_format in MemoryFormat::ALL {
        let x = contiguous.to_format(x_format).unwrap();
        let kernels = applicable(&layer, &x);
        assert!(kernels.contains(&"pair") && kernels.len() >= 2, "{kernels:?}");
        let vectors = x_format == MemoryFormat::ChannelsLast && multiplier == 1 && x.shape()[1].is_multiple_of(16 / size_of::<T>());
        assert_eq!(kernels.iter().any(|name| name.contains("vectors")), vectors, "{kernels:?}");
        for kernel in kernels {
            for y_format in MemoryFormat::ALL {
                let y: Vec<f32> = run(&layer, &x, kernel, y_format).into_iter().map(|v| v + 0.0).collect();
                assert_eq!(y, expected, "{kernel} {x_format} to {y_format}");
            }
        }
    }
}

#[rstest]
#[case::tile_edges([2, 24, 5, 13], 1, 65, [3, 3], Activation::Relu)]
#[case::several_tiles([1, 40, 9, 9], 1, 130, [3, 3], Activation::None)]
#[case::all_columns([1, 64, 4, 4], 1, 256, [3, 3], Activation::Relu6)]
#[case::odd_channels([2, 7, 6, 5], 1, 9, [3, 2], Activation::Relu)]
#[case::multiplier([1, 8, 6, 7], 3, 20, [1, 3], Activation::None)]
fn one_launch_gives_the_bits_of_two(
    #[case] x: Shape,
    #[case] multiplier: usize,
    #[case] c_out: usize,
    #[case] kernel: [usize; 2],
    #[case] mid_activation: Activation,
) {
    for (stride, activation) in [([1, 1], Activation::None), ([2, 1], Activation::Relu)] {
        let spec = DepthwiseSeparableSpec { stride, mid_activation, activation, ..Default::default() };
        one_launch_is_two::<f32>(x, multiplier, c_out, kernel, spec);
        one_launch_is_two::<f16>(x, multiplier, c_out, kernel, spec);
        one_launch_is_two::<bf16>(x, multiplier, c_out, kernel, spec);
    }
}

/// In one launch the middle is in no tensor: x is read, y written once.
#[test]
fn the_middle_is_never_in_global_memory() {
    let device = checked(0);
    let spec = DepthwiseSeparableSpec { padding: Padding::all(1), mid_activation: Activation::Relu, ..Default::default() };
    let layer = DepthwiseSeparableConv2d::new(spec, parameter(&[32, 1, 3, 3], &[1.0], 0), parameter(&[64, 32, 1, 1], &[1.0], 0)).unwrap();
    let x = Tensor::<f16>::randn(&device, [1, 32, 8, 8], MemoryFormat::ChannelsLast, 1).unwrap();
    let request = PlanRequest::new(x.shape()).format(x.format()).kernel("conv_separable_f16_vectors_64x64");
    let plan = layer.plan::<f16>(&device, &request).unwrap();
    let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    let counters = device.last_launch_counters().unwrap();
    let of = |name: &str| counters.operands.iter().find(|operand| operand.name == name).unwrap();
    assert_eq!((of("y").bytes_read, of("y").bytes_written), (0, 64 * 64 * 2));
    assert_eq!(of("x").unique_bytes, 64 * 32 * 2);
    assert!(of("x").bytes_written == 0 && of("x").bytes_read <= 9 * of("x").bytes, "at most once a tap");
    let names: Vec<&str> = counters.operands.iter().map(|operand| operand.name).collect();
    assert_eq!(names, ["x", "weight", "dw_weight", "y"]);
    assert_eq!(counters.bank_conflicts, 0, "{counters:?}");
}

#[test]
fn prelu_in_the_middle_and_a_residual() {
    let spec = DepthwiseSeparableSpec { mid_activation: Activation::Prelu, activation: Activation::Prelu, ..Default::default() };
    let shapes: [(&str, &[usize]); 8] = [
        ("x", &[2, 16, 6, 6]),
        ("dw_weight", &[16, 1, 3, 3]),
        ("dw_bias", &[16]),
        ("mid_slope", &[16]),
        ("pw_weight", &[40, 16, 1, 1]),
        ("pw_bias", &[40]),
        ("slope", &[40]),
        ("residual", &[2, 40, 4, 4]),
    ];
    let kernels = check(&Problem::new(LayerSpec::DepthwiseSeparableConv2d(spec), &shapes), &DEVICE);
    assert!(kernels.iter().any(|name| name.contains("vectors")) && kernels.iter().any(|name| name.contains("pixels")));
}

#[test]
fn batch_norms_fold_into_both_stages() {
    let ramp = |count: usize, from: f32, step: f32| (0..count).map(|i| from + step * i as f32).collect::<Vec<f32>>();
    let norm = |channels| (ramp(channels, 0.5, 0.1), ramp(channels, -0.3, 0.05), ramp(channels, 0.1, -0.02), ramp(channels, 0.4, 0.03));
    let (first, second) = (norm(8), norm(12));
    let spec = DepthwiseSeparableSpec { mid_activation: Activation::Relu6, activation: Activation::Relu6, ..Default::default() };
    let (dw_weight, pw_weight) = (parameter(&[8, 1, 3, 3], &[0.25, -0.5, 1.0], 1), parameter(&[12, 8, 1, 1], &[0.5, -0.25, 0.125], 2));
    let x = Tensor::<f32>::randn(&DEVICE, [1, 8, 7, 7], MemoryFormat::Contiguous, 3).unwrap();
    let array = |shape: &[usize], values: &[f32]| Array::from_slice(shape, values).unwrap();
    let folded = |norm: &(Vec<f32>, Vec<f32>, Vec<f32>, Vec<f32>), y: &Array| {
        let [gamma, beta, mean, variance] = [&norm.0, &norm.1, &norm.2, &norm.3].map(|v| array(&[v.len()], v));
        let y = reference::batch_norm(y, &gamma, &beta, &mean, &variance, 1e-3).unwrap();
        y.map(|z| reference::activate(Activation::Relu6, z, 0.0))
    };
    let depthwise = Conv2dSpec { groups: 8, ..Default::default() };
    let conv =
        |spec: &Conv2dSpec, x: &Array, w: &Parameter| reference::conv2d(spec, x, &array(w.shape(), w.values()), None, None, None).unwrap();
    let mid = folded(&first, &conv(&depthwise, &array(&x.shape(), &x.to_vec().unwrap()), &dw_weight));
    let expected = folded(&second, &conv(&Conv2dSpec::default(), &mid, &pw_weight));

    fn statistics(norm: &(Vec<f32>, Vec<f32>, Vec<f32>, Vec<f32>)) -> BatchNorm {
        let (gamma, beta, mean, variance) = norm.clone();
        BatchNorm { gamma, beta, mean, variance, epsilon: 1e-3 }
    }
    let layer = DepthwiseSeparableConv2d::new(spec, dw_weight, pw_weight).unwrap();
    let layer = layer.fold_mid_batch_norm(&statistics(&first)).unwrap().fold_batch_norm(&statistics(&second)).unwrap();
    let y = layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
    assert!(y.iter().zip(expected.data()).all(|(&y, e)| (f64::from(y) - e).abs() < 1e-4), "{y:?} {expected:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |shape: &[usize]| Parameter::new(shape, &vec![0f32; shape.iter().product()]).unwrap();
    let spec = DepthwiseSeparableSpec::default();
    let new = |spec, dw: &[usize], pw: &[usize]| DepthwiseSeparableConv2d::new(spec, zeros(dw), zeros(pw)).unwrap_err();
    let (dw, pw) = (&[8, 1, 3, 3][..], &[4, 8, 1, 1][..]);
    assert!(matches!(new(spec, &[8, 1, 3], pw), Error::Rank { name: "dw_weight", .. }));
    assert!(matches!(new(spec, dw, &[4, 8]), Error::Rank { name: "pw_weight", .. }));
    assert!(matches!(new(spec, &[8, 2, 3, 3], pw), Error::Shape { name: "dw_weight", .. }));
    assert!(matches!(new(spec, dw, &[4, 8, 1, 3]), Error::Shape { name: "pw_weight", .. }));
    assert!(matches!(new(spec, dw, &[4, 7, 1, 1]), Error::Shape { name: "pw_weight", .. }));
    assert!(matches!(new(spec, &[8, 1, 0, 3], pw), Error::Attribute { name: "kernel height", .. }));
    assert!(matches!(new(DepthwiseSeparableSpec { groups: Some(3), ..spec }, dw, pw), Error::Divisibility { divisor: 3, .. }));
    assert!(matches!(new(DepthwiseSeparableSpec { groups: Some(0), ..spec }, dw, pw), Error::Attribute { name: "groups", .. }));
    assert!(matches!(new(DepthwiseSeparableSpec { stride: [0, 1], ..spec }, dw, pw), Error::Attribute { name: "stride", .. }));
    let same = DepthwiseSeparableSpec { padding: Padding::Same, stride: [2, 2], ..spec };
    assert!(matches!(new(same, dw, pw), Error::Attribute { name: "padding", .. }));

    let layer = || DepthwiseSeparableConv2d::new(spec, zeros(dw), zeros(pw)).unwrap();
    assert!(matches!(layer().with_dw_bias(zeros(&[4])), Err(Error::Shape { name: "dw_bias", .. })));
    assert!(matches!(layer().with_pw_bias(zeros(&[8])), Err(Error::Shape { name: "pw_bias", .. })));
    assert!(matches!(layer().with_mid_slope(zeros(&[8])), Err(Error::UnexpectedTensor { op: "depthwise_separable", .. })));
    assert!(matches!(layer().with_slope(zeros(&[4])), Err(Error::UnexpectedTensor { .. })));
    let refused = |layer: &DepthwiseSeparableConv2d, request: PlanRequest| layer.plan::<f32>(&DEVICE, &request).unwrap_err();
    assert!(matches!(refused(&layer(), PlanRequest::new([1, 4, 9, 9])), Error::Shape { name: "x", .. }));
    assert!(matches!(refused(&layer(), PlanRequest::new([1, 8, 2, 9])), Error::EmptyOutput { axis: "height", .. }));
    assert!(matches!(refused(&layer(), PlanRequest::new([1, 8, 9, 9]).kernel("conv_gemm")), Error::NoKernel { .. }));
    let prelu = DepthwiseSeparableSpec { mid_activation: Activation::Prelu, ..spec };
    let prelu = DepthwiseSeparableConv2d::new(prelu, zeros(dw), zeros(pw)).unwrap();
    assert!(matches!(refused(&prelu, PlanRequest::new([1, 8, 9, 9])), Error::MissingTensor { .. }));
    assert!(matches!(prelu.with_mid_slope(zeros(&[4])), Err(Error::Shape { name: "mid_slope", .. })));
    let unknown = LayerSpec::from_json(r#"{"op": "depthwise_separable", "attrs": {"mid_alpha": 0.5, "mid_activation": "relu"}}"#);
    assert!(unknown.unwrap_err().to_string().contains("in the middle"));

    let spec = SpatiallySeparableSpec::default();
    let new = |spec, col: &[usize], row: &[usize]| SpatiallySeparableConv2d::new(spec, zeros(col), zeros(row)).unwrap_err();
    let (col, row) = (&[6, 4, 3, 1][..], &[8, 6, 1, 3][..]);
    assert!(matches!(new(spec, &[6, 4, 3], row), Error::Rank { name: "col_weight", .. }));
    assert!(matches!(new(spec, &[6, 4, 3, 2], row), Error::Shape { name: "col_weight", .. }));
    assert!(matches!(new(spec, col, &[8, 6, 2, 3]), Error::Shape { name: "row_weight", .. }));
    assert!(matches!(new(spec, col, &[8, 5, 1, 3]), Error::Shape { name: "row_weight", .. }));
    assert!(matches!(new(SpatiallySeparableSpec { groups: 4, ..spec }, col, &[8, 1, 1, 3]), Error::Divisibility { name: "C_mid", .. }));
    assert!(matches!(new(SpatiallySeparableSpec { dilation: [1, 0], ..spec }, col, row), Error::Attribute { name: "dilation", .. }));
    let same = SpatiallySeparableSpec { padding: Padding::Same, stride: [1, 2], ..spec };
    assert!(matches!(new(same, col, row), Error::Attribute { name: "padding", .. }));
    let layer = || SpatiallySeparableConv2d::new(spec, zeros(col), zeros(row)).unwrap();
    assert!(matches!(layer().with_col_bias(zeros(&[8])), Err(Error::Shape { name: "col_bias", .. })));
    assert!(matches!(layer().with_row_bias(zeros(&[6])), Err(Error::Shape { name: "row_bias", .. })));
    assert!(matches!(layer().with_slope(zeros(&[8])), Err(Error::UnexpectedTensor { .. })));
    let refused = |request: PlanRequest| layer().plan::<f32>(&DEVICE, &request).unwrap_err();
    assert!(matches!(refused(PlanRequest::new([1, 5, 9, 9])), Error::Shape { name: "x", .. }));
    assert!(matches!(refused(PlanRequest::new([1, 4, 9, 2])), Error::EmptyOutput { axis: "width", .. }));
    assert!(matches!(refused(PlanRequest::new([1, 4, 9, 9]).kernel("conv_gemm")), Error::NoKernel { .. }));

    let x = Tensor::<f32>::zeros(&DEVICE, [1, 4, 9, 9], MemoryFormat::Contiguous).unwrap();
    let plan = layer().plan::<f32>(&DEVICE, &PlanRequest::new(x.shape())).unwrap();
    let mut y = Tensor::zeros(&DEVICE, plan.output_shape(), plan.output_format()).unwrap();
    let stream = Stream::default_of(&DEVICE);
    let short = plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream);
    assert!(matches!(short, Err(Error::Workspace { needed, got: 0 }) if needed == plan.workspace_bytes()));
    let text = plan.explain().to_string();
    assert!(text.contains("pair of 2 launches") && text.contains("stage 1") && text.contains("stage 2"), "{text}");
}

/// The form that pairs of MobileNetV1 get: input, stride and C_out.
#[rstest]
#[case::first([16, 32, 112, 112], 1, 64)]
#[case::downsampling([16, 64, 112, 112], 2, 128)]
#[case::middle([16, 128, 56, 56], 1, 128)]
#[case::wide([16, 256, 28, 28], 1, 256)]
fn mobilenets_pairs_are_one_launch(#[case] x: Shape, #[case] stride: usize, #[case] c_out: usize) {
    let layer = mobilenet(x, stride, c_out);
    let plan = layer.plan::<f16>(&DEVICE, &PlanRequest::new(x).format(MemoryFormat::ChannelsLast)).unwrap();
    let explanation = plan.explain();
    assert!(explanation.kernel.starts_with("conv_separable_f16_vectors"), "{explanation}");
    assert!(explanation.choices.iter().any(|choice| choice.kernel == "pair" && choice.verdict.is_ok()), "{explanation}");
    assert!(explanation.choices.iter().skip(1).filter_map(|choice| choice.verdict.as_ref().ok()).is_sorted(), "{explanation}");
}

/// With C_out far above a block's columns the depthwise part would be computed again and again.
#[test]
fn many_columns_of_a_large_filter_are_two_launches() {
    let spec = DepthwiseSeparableSpec { padding: Padding::all(3), ..Default::default() };
    let layer =
        DepthwiseSeparableConv2d::new(spec, parameter(&[512, 1, 7, 7], &[1.0], 0), parameter(&[2048, 512, 1, 1], &[1.0], 0)).unwrap();
    let plan = layer.plan::<f16>(&DEVICE, &PlanRequest::new([16, 512, 28, 28]).format(MemoryFormat::ChannelsLast)).unwrap();
    assert_eq!(plan.explain().kernel, "pair", "{}", plan.explain());
    assert!(plan.explain().choices.iter().any(|choice| choice.kernel.starts_with("conv_separable") && choice.verdict.is_ok()));
}

fn mobilenet(x: Shape, stride: usize, c_out: usize) -> DepthwiseSeparableConv2d {
    let spec = DepthwiseSeparableSpec {
        stride: [stride; 2],
        padding: Padding::all(1),
        mid_activation: Activation::Relu,
        activation: Activation::Relu,
        ..Default::default()
    };
    DepthwiseSeparableConv2d::new(spec, parameter(&[x[1], 1, 3, 3], &[1.0], 0), parameter(&[c_out, x[1], 1, 1], &[1.0], 0)).unwrap()
}

/// A layer that is depthwise in both stages, with biases, and none of its values a round number.
fn spatial(channels: usize, kernel: [usize; 2], spec: SpatiallySeparableSpec) -> SpatiallySeparableConv2d {
    let (values, biases) = ([-0.37, 0.81, 1.13, -0.59, 0.23], [0.71, -1.29, 0.43]);
    let spec = SpatiallySeparableSpec { groups: channels, ..spec };
    let column = parameter(&[channels, 1, kernel[0], 1], &values, 1);
    let layer = SpatiallySeparableConv2d::new(spec, column, parameter(&[channels, 1, 1, kernel[1]], &values, 2)).unwrap();
    layer.with_col_bias(parameter(&[channels], &biases, 3)).unwrap().with_row_bias(parameter(&[channels], &biases, 4)).unwrap()
}

/// Sums of the same products in the same order, the middle rounded once: equal where nothing is exact, too.
fn spatially_one_launch_is_two<T: Element>(x: Shape, kernel: [usize; 2], spec: SpatiallySeparableSpec) {
    let layer = spatial(x[1], kernel, spec);
    for format in MemoryFormat::ALL {
        let x = Tensor::<T>::randn(&DEVICE, x, format, 11).unwrap();
        let paired = layer.plan::<T>(&DEVICE, &PlanRequest::new(x.shape()).format(format).kernel("pair")).unwrap();
        let stages = &paired.explain().stages;
        assert_eq!(stages.len(), 2, "{}", paired.explain());
        // tensor cores add in another order; FFMA does not
        let tensor_cores = stages.iter().any(|stage| stage.kernel.starts_with("conv_gemm") || stage.kernel.contains("banded"));
        if T::DTYPE != DType::F32 && tensor_cores {
            continue;
        }
        let expected = run(&layer, &x, "pair", format);
        let fused: Vec<_> = applicable(&layer, &x).into_iter().filter(|name| *name != "pair").collect();
        let vectors = format == MemoryFormat::ChannelsLast && x.shape()[1].is_multiple_of(16 / size_of::<T>());
        assert_eq!(fused.len(), 1 + usize::from(vectors), "{fused:?}");
        for kernel in fused {
            assert!(kernel.starts_with("spatial_separable"), "{kernel}");
            let y = run(&layer, &x, kernel, format);
            assert!(y.iter().zip(&expected).all(|(a, b)| (a + 0.0).to_bits() == (b + 0.0).to_bits()), "{kernel} {format}");
        }
    }
}

#[rstest]
#[case::tile_edges([2, 16, 9, 35], [3, 3], Padding::Same, [1, 1], [1, 1], Activation::Relu)]
#[case::long_lines([1, 8, 23, 41], [21, 21], Padding::Same, [1, 1], [1, 1], Activation::None)]
#[case::even_kernel_odd_width([1, 12, 10, 7], [2, 6], Padding::Explicit([0, 3, 1, 2]), [1, 1], [1, 1], Activation::Hardswish)]
#[case::strided([1, 8, 13, 18], [5, 3], Padding::all(2), [2, 3], [1, 1], Activation::Sigmoid)]
#[case::dilated([1, 24, 17, 16], [3, 5], Padding::Same, [1, 1], [3, 2], Activation::None)]
#[case::strided_and_dilated([2, 3, 15, 22], [3, 4], Padding::all(4), [3, 2], [2, 3], Activation::Gelu)]
#[case::padding_over_image([1, 8, 2, 3], [5, 7], Padding::all(6), [1, 1], [1, 1], Activation::None)]
fn one_launch_of_a_column_and_a_row_gives_the_bits_of_two(
    #[case] x: Shape,
    #[case] kernel: [usize; 2],
    #[case] padding: Padding,
    #[case] stride: [usize; 2],
    #[case] dilation: [usize; 2],
    #[case] activation: Activation,
) {
    let spec = SpatiallySeparableSpec { stride, padding, dilation, activation, groups: x[1] };
    spatially_one_launch_is_two::<f32>(x, kernel, spec);
    spatially_one_launch_is_two::<f16>(x, kernel, spec);
    spatially_one_launch_is_two::<bf16>(x, kernel, spec);
}

/// In a tile as wide as the image a byte of x is read once, and again for the rows between two fours of them; y is written once, and
/// there is no other tensor.
#[rstest]
#[case::vectors(MemoryFormat::ChannelsLast, "spatial_separable_f16_channels_last_v8")]
#[case::channels(MemoryFormat::ChannelsLast, "spatial_separable_f16_channels_last_v1")]
#[case::pairs(MemoryFormat::Contiguous, "spatial_separable_f16_contiguous")]
fn a_column_and_a_row_move_each_byte_once(#[case] format: MemoryFormat, #[case] kernel: &str) {
    let device = checked(0);
    let layer = spatial(64, [3, 3], SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() });
    let x = Tensor::<f16>::randn(&device, [2, 64, 8, 4], format, 1).unwrap();
    let plan = layer.plan::<f16>(&device, &PlanRequest::new(x.shape()).format(format).kernel(kernel)).unwrap();
    let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    let counters = device.last_launch_counters().unwrap();
    let of = |name: &str| counters.operands.iter().find(|operand| operand.name == name).unwrap();
    let row = 2 * 64 * 4 * 2;
    assert_eq!((of("x").unique_bytes, of("x").bytes_read, of("x").bytes_written), (8 * row, (8 + 2) * row, 0));
    assert_eq!((of("y").bytes_read, of("y").bytes_written), (0, 8 * row));
    let names: Vec<_> = counters.operands.iter().map(|operand| operand.name).collect();
    assert_eq!(names, ["x", "weight", "bias", "col_weight", "col_bias", "y"]);
}

#[test]
fn a_middle_beyond_shared_memory_is_two_launches() {
    let spec = SpatiallySeparableSpec { dilation: [1, 60_000], padding: Padding::Same, ..Default::default() };
    let (layer, x) = (spatial(1, [1, 3], spec), [1, 1, 1, 70_000]);
    for format in MemoryFormat::ALL {
        let plan = layer.plan::<f32>(&DEVICE, &PlanRequest::new(x).format(format)).unwrap();
        let explanation = plan.explain();
        assert_eq!(explanation.kernel, "pair");
        assert!(
            explanation.choices.iter().any(|choice| choice.verdict.as_ref().is_err_and(|reason| reason.contains("shared memory"))),
            "{explanation}"
        );
    }
    // several channels in a group are no sums of one line
    let dense = SpatiallySeparableConv2d::new(spec, parameter(&[4, 2, 1, 1], &[1.0], 0), parameter(&[4, 4, 1, 3], &[1.0], 0)).unwrap();
    let plan = dense.plan::<f32>(&DEVICE, &PlanRequest::new([1, 2, 4, 8])).unwrap();
    assert_eq!(plan.explain().kernel, "pair");
    let refused = dense.plan::<f32>(&DEVICE, &PlanRequest::new([1, 2, 4, 8]).kernel("spatial_separable_f32_contiguous")).unwrap_err();
    assert!(matches!(&refused, Error::NoKernel { reasons, .. } if reasons.contains("2 to 4 to 4 channels")), "{refused}");
}

/// Filters of one channel are bound by what they move.
#[rstest]
#[case::sobel([1, 3, 1080, 1920], [3, 3])]
#[case::blur([1, 3, 1080, 1920], [5, 5])]
#[case::batch([16, 64, 112, 112], [3, 3])]
#[case::many_channels([8, 256, 56, 56], [7, 7])]
fn a_column_and_a_row_are_one_launch(#[case] x: Shape, #[case] kernel: [usize; 2]) {
    let layer = spatial(x[1], kernel, SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() });
    for format in MemoryFormat::ALL {
        let plan = layer.plan::<f16>(&DEVICE, &PlanRequest::new(x).format(format)).unwrap();
        let explanation = plan.explain();
        assert!(explanation.kernel.starts_with("spatial_separable_f16"), "{explanation}");
        assert_eq!(plan.workspace_bytes(), 0);
        assert!(explanation.choices.iter().any(|choice| choice.kernel == "pair" && choice.verdict.is_ok()), "{explanation}");
    }
}

/// A layer that is dense in both stages, with biases in both.
fn dense(channels: [usize; 3], kernel: [usize; 2], values: &[f32], spec: SpatiallySeparableSpec) -> SpatiallySeparableConv2d {
    let ([c_in, c_mid, c_out], [kh, kw]) = (channels, kernel);
    let column = parameter(&[c_mid, c_in, kh, 1], values, 1);
    let layer = SpatiallySeparableConv2d::new(spec, column, parameter(&[c_out, c_mid, 1, kw], values, 2)).unwrap();
    let biases = [parameter(&[c_mid], &[-1.0, 0.0, 3.0], 3), parameter(&[c_out], &[-5.0, 7.0], 4)];
    let [col_bias, row_bias] = biases;
    layer.with_col_bias(col_bias).unwrap().with_row_bias(row_bias).unwrap()
}

/// What `layer` has to give where no sum rounds.
fn exact<T: Element>(layer: &SpatiallySeparableConv2d, x: Shape, values: &[f32]) -> Vec<f32> {
    let array = |p: &Parameter| Array::from_slice(p.shape(), p.values()).unwrap();
    let (column, row) = (layer.column(), layer.row());
    let [col_bias, row_bias] = [column, row].map(|stage| stage.bias().map(array));
    let tensors = reference::SpatiallySeparable {
        x: &Array::from_slice(x, values).unwrap(),
        col_weight: &array(column.weight()),
        col_bias: col_bias.as_ref(),
        row_weight: &array(row.weight()),
        row_bias: row_bias.as_ref(),
        slope: None,
        residual: None,
    };
    let expected = reference::spatially_separable(layer.attributes(), &tensors).unwrap().rounded(T::DTYPE);
    expected.data().iter().map(|&v| v as f32 + 0.0).collect()
}

/// Every kernel for both stages against the oracle rounded once, bit for bit: the values are such that no sum rounds.
fn dense_stages_are_exact<T: Element>(x: Shape, channels: [usize; 2], kernel: [usize; 2], spec: SpatiallySeparableSpec) {
    let layer = dense([x[1], channels[0], channels[1]], kernel, &[-1.0, 0.0, 0.0, 1.0], spec);
    let values = whole(x.iter().product(), &[-1.0, 0.0, 1.0], 5);
    let expected = exact::<T>(&layer, x, &values);
    let contiguous = Tensor::from_slice(&DEVICE, x, &values.iter().map(|&v| T::from_f32(v)).collect::<Vec<_>>()).unwrap();
    for (x_format, y_format) in MemoryFormat::ALL.into_iter().flat_map(|x| MemoryFormat::ALL.map(|y| (x, y))) {
        let x = contiguous.to_format(x_format).unwrap();
        let kernels = applicable(&layer, &x);
        let gathers = match x_format {
            MemoryFormat::ChannelsLast if x.shape()[1].is_multiple_of(8) => 4,
            MemoryFormat::ChannelsLast => 1,
            MemoryFormat::Contiguous => 2,
        };
        assert_eq!(kernels.len(), 1 + gathers, "{kernels:?}");
        for kernel in kernels {
            let y: Vec<f32> = run(&layer, &x, kernel, y_format).into_iter().map(|v| v + 0.0).collect();
            assert_eq!(y, expected, "{kernel} {x_format} to {y_format}");
        }
    }
}

#[rstest]
#[case::tile_edges([2, 24, 9, 21], [33, 65], [3, 3], Padding::Same, [1, 1], [1, 1], Activation::Relu)]
#[case::several_tiles([1, 40, 5, 17], [72, 136], [1, 7], Padding::Same, [1, 1], [1, 1], Activation::None)]
#[case::tall([1, 16, 70, 2], [24, 8], [7, 1], Padding::Same, [1, 1], [1, 1], Activation::Relu6)]
#[case::no_vectors([2, 3, 8, 11], [5, 7], [3, 2], Padding::Explicit([0, 1, 2, 3]), [1, 1], [1, 1], Activation::None)]
#[case::wide([1, 8, 3, 150], [16, 16], [3, 3], Padding::default(), [1, 1], [1, 1], Activation::None)]
#[case::strided([1, 8, 13, 40], [40, 24], [5, 3], Padding::all(2), [2, 3], [1, 1], Activation::None)]
#[case::dilated([1, 32, 17, 30], [32, 16], [3, 5], Padding::Same, [1, 1], [3, 2], Activation::Relu)]
#[case::padding_over_image([1, 8, 2, 3], [24, 9], [5, 7], Padding::all(12), [1, 1], [1, 1], Activation::None)]
#[case::pixel([2, 16, 1, 1], [24, 8], [7, 7], Padding::Same, [1, 1], [1, 1], Activation::None)]
fn dense_stages_in_one_launch_are_exact(
    #[case] x: Shape,
    #[case] channels: [usize; 2],
    #[case] kernel: [usize; 2],
    #[case] padding: Padding,
    #[case] stride: [usize; 2],
    #[case] dilation: [usize; 2],
    #[case] activation: Activation,
) {
    let spec = SpatiallySeparableSpec { stride, padding, dilation, activation, ..Default::default() };
    dense_stages_are_exact::<f16>(x, channels, kernel, spec);
    dense_stages_are_exact::<bf16>(x, channels, kernel, spec);
}

/// Both sums run over k in the order of conv_gemm, and the middle is rounded once: equal where nothing is exact, too.
#[test]
fn dense_stages_in_one_launch_give_the_bits_of_two() {
    let (x, channels) = ([2, 32, 24, 40], [32, 32, 64]); // single steps a tap: no slices, which add in another order
    let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
    let layer = dense(channels, [3, 5], &[-0.37, 0.81, 1.13, -0.59, 0.23], spec);
    let x = Tensor::<f16>::randn(&DEVICE, x, MemoryFormat::ChannelsLast, 11).unwrap();
    let plan = layer.plan::<f16>(&DEVICE, &PlanRequest::new(x.shape()).format(x.format()).kernel("pair")).unwrap();
    let plain = |name: &str| name.starts_with("conv_gemm_f16") && !name.contains("_k");
    assert!(plan.explain().stages.iter().all(|stage| plain(stage.kernel)), "{}", plan.explain());
    let expected = run(&layer, &x, "pair", MemoryFormat::ChannelsLast);
    for kernel in applicable(&layer, &x) {
        let y = run(&layer, &x, kernel, MemoryFormat::ChannelsLast);
        assert!(y.iter().zip(&expected).all(|(a, b)| (a + 0.0).to_bits() == (b + 0.0).to_bits()), "{kernel}");
    }
}

/// An image of a batch has the bits that it has alone.
#[test]
fn dense_stages_do_not_depend_on_the_batch() {
    let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
    let layer = dense([16, 24, 40], [3, 3], &[-0.37, 0.81, 1.13], spec);
    let batch = Tensor::<bf16>::randn(&DEVICE, [3, 16, 7, 9], MemoryFormat::Contiguous, 7).unwrap();
    let values = batch.to_vec().unwrap();
    let image = values.len() / 3;
    for kernel in ["spatial_gemm_bf16_vectors_64x64", "spatial_gemm_bf16_vectors_128x64", "spatial_gemm_bf16_channels_64x64"] {
        let y = run(&layer, &batch.to_format(MemoryFormat::ChannelsLast).unwrap(), kernel, MemoryFormat::Contiguous);
        for n in 0..3 {
            let x = Tensor::from_slice(&DEVICE, [1, 16, 7, 9], &values[n * image..][..image]).unwrap();
            let alone = run(&layer, &x.to_format(MemoryFormat::ChannelsLast).unwrap(), kernel, MemoryFormat::Contiguous);
            assert_eq!(alone, y[n * alone.len()..][..alone.len()], "{kernel} {n}");
        }
    }
}

/// Biases, slope and residual, padding that is no bias, infinities and NaN in x: none of them gets where it does not belong.
#[rstest]
#[case::narrow([2, 8, 6, 19], [24, 40], [3, 3], 1)]
#[case::odd([1, 5, 4, 9], [33, 70], [1, 7], 1)]
#[case::dilated([1, 16, 9, 12], [8, 8], [3, 3], 4)]
fn dense_stages_under_the_checker(#[case] x: Shape, #[case] channels: [usize; 2], #[case] kernel: [usize; 2], #[case] dilation: usize) {
    let ([c_mid, c_out], [kh, kw]) = (channels, kernel);
    let spec =
        SpatiallySeparableSpec { padding: Padding::all(4), dilation: [dilation; 2], activation: Activation::Prelu, ..Default::default() };
    let (col_weight, row_weight) = ([c_mid, x[1], kh, 1], [c_out, c_mid, 1, kw]);
    let shapes: [(&str, &[usize]); 6] = [
        ("x", &x),
        ("col_weight", &col_weight),
        ("col_bias", &[c_mid]),
        ("row_weight", &row_weight),
        ("row_bias", &[c_out]),
        ("slope", &[c_out]),
    ];
    let problem = Problem::new(LayerSpec::SpatiallySeparableConv2d(spec), &shapes).with_residual(true);
    for (seed, values) in [(1, Values::Special), (2, Values::FullMantissa), (3, Values::Exact)] {
        let device = checked(seed);
        let kernels = check(&Problem { values, ..problem.clone() }, &device);
        assert!(kernels.iter().any(|name| name.starts_with("spatial_gemm_f16_channels")), "{kernels:?}");
        assert!(kernels.iter().any(|name| name.starts_with("spatial_gemm_bf16_pixels")), "{kernels:?}");
    }
}

/// The middle is in no tensor, y is written once, x is read once a tap and tile of channels; and no two lanes want different words
/// of a bank, be the rectangle as wide as the image or not.
#[rstest]
#[case::as_wide_as_the_image([1, 32, 8, 17], "spatial_gemm_f16_vectors_64x64")]
#[case::whole_eights([1, 32, 4, 80], "spatial_gemm_f16_vectors_64x64")]
#[case::large_tile([1, 32, 16, 16], "spatial_gemm_f16_vectors_128x64")]
#[case::narrow_tile([1, 32, 16, 16], "spatial_gemm_f16_vectors_128x32")]
fn a_dense_middle_is_in_shared_memory(#[case] x: Shape, #[case] kernel: &str) {
    let device = checked(0);
    let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
    let layer = dense([32, 64, 128], [3, 3], &[1.0, -1.0], spec);
    let x = Tensor::<f16>::randn(&device, x, MemoryFormat::ChannelsLast, 1).unwrap();
    let plan = layer.plan::<f16>(&device, &PlanRequest::new(x.shape()).format(x.format()).kernel(kernel)).unwrap();
    assert_eq!(plan.workspace_bytes(), 0);
    let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    let counters = device.last_launch_counters().unwrap();
    let of = |name: &str| counters.operands.iter().find(|operand| operand.name == name).unwrap();
    assert_eq!((of("y").bytes_read, of("y").bytes_written), (0, of("y").bytes));
    assert_eq!(of("x").unique_bytes, of("x").bytes);
    let mid_tiles = if kernel.ends_with("x32") { 2 } else { 1 };
    assert!(of("x").bytes_read <= mid_tiles * 4 * of("x").bytes, "3 taps, and the columns between rectangles: {counters:?}");
    let names: Vec<_> = counters.operands.iter().map(|operand| operand.name).collect();
    assert_eq!(names, ["x", "weight", "bias", "col_weight", "col_bias", "y"]);
    assert_eq!(counters.bank_conflicts, 0, "{counters:?}");
}

#[test]
fn dense_stages_that_one_launch_does_not_take() {
    let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
    let reason = |explanation: &warpconv::Explanation, kernel: &str| {
        let choice = explanation.choices.iter().find(|choice| choice.kernel == kernel).unwrap();
        choice.verdict.clone().unwrap_err()
    };
    let explain = |layer: &SpatiallySeparableConv2d, x: Shape| {
        let request = PlanRequest::new(x).format(MemoryFormat::ChannelsLast);
        layer.plan::<f16>(&DEVICE, &request).unwrap().explain().clone()
    };
    let kernel = "spatial_gemm_f16_vectors_64x64";
    let large = explain(&dense([8, 2048, 8], [1, 3], &[1.0], spec), [1, 8, 8, 8]);
    assert_eq!(large.kernel, "pair");
    assert!(reason(&large, kernel).contains("2048 channels does not fit"), "{large}");
    let odd = explain(&dense([12, 8, 8], [3, 3], &[1.0], spec), [1, 12, 8, 8]);
    assert!(reason(&odd, kernel).contains("12 channels are not a multiple of 8"), "{odd}");
    assert!(odd.choices.iter().any(|choice| choice.kernel == "spatial_gemm_f16_channels_64x64" && choice.verdict.is_ok()), "{odd}");
    let planes = reason(&large, "spatial_gemm_f16_pixels_64x64");
    assert!(planes.contains("contiguous"), "{planes}");
    let two = SpatiallySeparableSpec { groups: 2, ..spec };
    let two = SpatiallySeparableConv2d::new(two, parameter(&[8, 4, 3, 1], &[1.0], 0), parameter(&[8, 4, 1, 3], &[1.0], 0)).unwrap();
    assert!(reason(&explain(&two, [1, 8, 8, 8]), kernel).contains("one group, not 2"));
    let strict = dense([8, 8, 8], [3, 3], &[1.0], spec).plan::<f32>(&DEVICE, &PlanRequest::new([1, 8, 8, 8])).unwrap();
    assert!(reason(strict.explain(), kernel).contains("it is for f16"));
    // a view that is not aligned takes the kernel that loads single elements, with the same weights
    let plan = dense([8, 8, 8], [3, 3], &[1.0], spec);
    let request = PlanRequest::new([1, 8, 8, 8]).format(MemoryFormat::ChannelsLast).kernel(kernel);
    let note = plan.plan::<f16>(&DEVICE, &request).unwrap().explain().note.clone();
    assert!(note.contains("for views that are not aligned"), "{note}");
}

/// What factorised layers of real networks get, in both formats.
#[rstest]
#[case::inception_v3([32, 192, 17, 17], [192, 192], [7, 7], "pair", "pair")]
#[case::inception_v3_single([1, 192, 17, 17], [192, 192], [7, 7], "pair", "pair")]
#[case::erfnet_16([1, 16, 256, 512], [16, 16], [3, 3], "spatial_gemm_f16_vectors_128x32", "spatial_gemm_f16_pixels_128x32")]
#[case::erfnet_64([1, 64, 128, 256], [64, 64], [3, 3], "spatial_gemm_f16_vectors_64x64", "pair")]
#[case::erfnet_64_batch([8, 64, 128, 256], [64, 64], [3, 3], "spatial_gemm_f16_vectors_128x64", "pair")]
#[case::erfnet_128([1, 128, 64, 128], [128, 128], [3, 3], "pair", "pair")]
#[case::low_rank_vgg([8, 64, 112, 112], [24, 128], [3, 3], "spatial_gemm_f16_vectors_128x32", "pair")]
#[case::low_rank_wide([8, 256, 56, 56], [64, 256], [3, 3], "pair", "pair")]
fn dense_stages_of_real_networks(
    #[case] x: Shape,
    #[case] channels: [usize; 2],
    #[case] kernel: [usize; 2],
    #[case] channels_last: &str,
    #[case] contiguous: &str,
) {
    let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
    let layer = dense([x[1], channels[0], channels[1]], kernel, &[1.0], spec);
    for (format, expected) in [(MemoryFormat::ChannelsLast, channels_last), (MemoryFormat::Contiguous, contiguous)] {
        let plan = layer.plan::<f16>(&DEVICE, &PlanRequest::new(x).format(format)).unwrap();
        let explanation = plan.explain();
        assert!(explanation.kernel.starts_with(expected), "{format}: {explanation}");
        assert!(explanation.choices.iter().any(|choice| choice.kernel == "pair" && choice.verdict.is_ok()), "{explanation}");
        assert!(explanation.choices.iter().any(|choice| choice.kernel.starts_with("spatial_gemm") && choice.verdict.is_ok()));
    }
}

#[test]
fn a_separated_filter_is_the_dense_one() {
    let sobel = [-1f32, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0];
    let gauss = [1f32, 4.0, 6.0, 4.0, 1.0].map(|r| [1f32, 4.0, 6.0, 4.0, 1.0].map(|c| r * c));
    let values = whole(2 * 3 * 9 * 11, &[-3.0, -1.0, 0.0, 2.0, 5.0], 9);
    for (size, filter) in [(3, &sobel[..]), (5, gauss.as_flattened())] {
        let kernel = Parameter::new(&[size, size], filter).unwrap();
        let (col_weight, row_weight) = separate(&kernel).unwrap().depthwise_weights(3).unwrap();
        let spec = SpatiallySeparableSpec { padding: Padding::Same, groups: 3, ..Default::default() };
        let separated = SpatiallySeparableConv2d::new(spec, col_weight, row_weight).unwrap();
        let spec = Conv2dSpec { padding: Padding::Same, groups: 3, ..Default::default() };
        let dense = Conv2d::new(spec, Parameter::new(&[3, 1, size, size], &filter.repeat(3)).unwrap()).unwrap();
        let x = Tensor::from_slice(&DEVICE, [2, 3, 9, 11], &values).unwrap();
        let [a, b] = [separated.forward(&Inputs::new(&x)).unwrap(), dense.forward(&Inputs::new(&x)).unwrap()];
        assert_eq!(a.to_vec().unwrap(), b.to_vec().unwrap());
    }
}

#[test]
fn a_factorised_layer_is_the_dense_one_up_to_its_error() {
    let (c_out, c_in, weight) = (6, 4, whole(6 * 4 * 9, &[-0.5, -0.25, 0.125, 0.75], 3));
    let kernel = Parameter::new(&[c_out, c_in, 3, 3], &weight).unwrap();
    let x = Tensor::<f32>::randn(&DEVICE, [1, c_in, 8, 8], MemoryFormat::Contiguous, 4).unwrap();
    let padding = Padding::all(1);
    let dense = Conv2d::new(Conv2dSpec { stride: [2, 1], padding, ..Default::default() }, kernel.clone()).unwrap();
    let expected = dense.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
    let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let mut before = f64::INFINITY;
    for c_mid in [4, 8, 12] {
        let factors = low_rank(&kernel, c_mid).unwrap();
        let spec = SpatiallySeparableSpec { stride: [2, 1], padding, ..Default::default() };
        let layer = SpatiallySeparableConv2d::new(spec, factors.col_weight, factors.row_weight).unwrap();
        let y = layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
        let difference: Vec<f32> = y.iter().zip(&expected).map(|(a, b)| a - b).collect();
        // each output is a sum of at most 36 inputs with the remainder
        assert!(norm(&difference) <= factors.error * norm(&x.to_vec().unwrap()) * 3.0 + 1e-4, "{c_mid}");
        assert!(factors.error < before);
        before = factors.error;
    }
    assert!(before < 1e-6, "all singular values are there");
}

/// The errors are those of the factors, the times those of the plans.
#[test]
fn ranks_are_what_their_layers_cost() {
    let (c_out, c_in) = (32, 24);
    let kernel = parameter(&[c_out, c_in, 3, 3], &[-0.5, -0.25, 0.125, 0.75], 3);
    let spec = SpatiallySeparableSpec { stride: [2, 1], padding: Padding::all(1), ..Default::default() };
    let x = [4, c_in, 60, 52];
    let request = PlanRequest::new(x).format(MemoryFormat::ChannelsLast);
    let seconds = |plan: &warpconv::Plan<f16>| plan.explain().choices[0].verdict.clone().unwrap().seconds;
    let found = ranks::<f16>(&kernel, &spec, &DEVICE, &request).unwrap();
    assert_eq!(found.ranks.len(), c_in * 3);
    let norm = kernel.values().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    for c_mid in [1, 8, 30, 64, 72] {
        let factors = low_rank(&kernel, c_mid).unwrap();
        let rank = found.ranks[c_mid - 1];
        assert_eq!(rank.c_mid, c_mid);
        assert!((rank.relative_error * norm - factors.error).abs() < 1e-9 * norm, "{rank:?}");
        let layer = SpatiallySeparableConv2d::new(spec, factors.col_weight, factors.row_weight).unwrap();
        assert_eq!(rank.cost.seconds, seconds(&layer.plan(&DEVICE, &request).unwrap()), "{c_mid}");
        let [column, row] = layer.geometries(x).unwrap();
        assert_eq!(rank.cost.macs, column.macs().unwrap() + row.macs().unwrap());
    }
    let dense = Conv2d::new(Conv2dSpec { stride: [2, 1], padding: Padding::all(1), ..Default::default() }, kernel).unwrap();
    assert_eq!(found.dense.seconds, seconds(&dense.plan(&DEVICE, &request).unwrap()));
}

#[test]
fn the_fastest_rank_is_within_the_tolerance_or_the_dense_layer_is() {
    // 4 separable filters of 64 channels, and a little of everything else
    let part = |index: usize, seed: usize| (((index + seed) * 7919 % 127) as f32 / 64.0) - 1.0;
    let value = |i: usize| {
        let (o, c, row, column) = (i / 576, i / 9 % 64, i / 3 % 3, i % 3);
        let sum: f32 = (0..4).map(|m| part(c * 3 + row, 1000 * m) * part(o * 3 + column, 5000 + 1000 * m)).sum();
        sum + 1e-4 * part(i, 77)
    };
    let kernel = Parameter::new(&[64, 64, 3, 3], &(0..64 * 64 * 9).map(value).collect::<Vec<_>>()).unwrap();
    let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
    let request = PlanRequest::new([8, 64, 112, 112]).format(MemoryFormat::ChannelsLast);
    let found = ranks::<f16>(&kernel, &spec, &DEVICE, &request).unwrap();
    assert!(found.ranks.is_sorted_by(|a, b| a.relative_error >= b.relative_error && a.cost.macs < b.cost.macs));
    let rank = found.fastest_within(1e-3).unwrap();
    assert!(rank.relative_error <= 1e-3 && (4..=32).contains(&rank.c_mid) && rank.cost.seconds < found.dense.seconds, "{rank:?}");
    // another one is slower, or as fast and less exact, or beyond the tolerance
    for other in &found.ranks {
        let worse = other.cost.seconds > rank.cost.seconds || other.cost.seconds == rank.cost.seconds && other.c_mid <= rank.c_mid;
        assert!(worse || other.relative_error > 1e-3, "{other:?}");
    }
    // all singular values take more products than the dense layer
    assert_eq!(found.fastest_within(0.0), None);
    assert_eq!(found.fastest_within(f64::NAN), None);

    let refused = |spec, kernel, x| ranks::<f16>(kernel, spec, &DEVICE, &PlanRequest::new(x)).unwrap_err();
    let grouped = SpatiallySeparableSpec { groups: 2, ..spec };
    assert!(matches!(refused(&grouped, &kernel, [1, 64, 8, 8]), Error::Attribute { name: "groups", .. }));
    assert!(matches!(refused(&spec, &kernel, [1, 32, 8, 8]), Error::Shape { name: "x", .. }));
    assert!(matches!(refused(&spec, &Parameter::vector(&[1f32]), [1, 1, 8, 8]), Error::Rank { expected: 4, .. }));
}

#[test]
fn layers_are_their_own_json_and_parameters() {
    for op in ["depthwise_separable", "spatially_separable"] {
        for index in 0..30 {
            let problem = Problem::of_kinds(&kinds_of(op), 4, index);
            let json = serde_json::to_string(&problem.layer).unwrap();
            assert_eq!(LayerSpec::from_json(&json).unwrap(), problem.layer, "{json}");
            let names = problem.layer.signature().parameters;
            let parameters = problem.shapes.iter().filter(|(name, _)| names.contains(&name.as_str()));
            let parameters =
                parameters.map(|(name, shape)| (name.clone(), Parameter::new(shape, &vec![0f32; shape.iter().product()]).unwrap()));
            let parameters: std::collections::BTreeMap<_, _> = parameters.collect();
            let layer = AnyLayer::new(problem.layer, parameters.clone()).unwrap();
            let own: std::collections::BTreeMap<_, _> =
                layer.parameters().into_iter().map(|(name, p)| (name.to_string(), p.clone())).collect();
            assert_eq!(own, parameters);
        }
    }
}

/// The corpus, through the program: 19 valid cases and 5 that must be refused.
#[cfg(feature = "cli")]
#[rstest]
#[case::every_kernel(&["--all-kernels"])]
#[case::checked(&["--checked", "--seed", "1"])]
fn the_corpus_passes(#[case] options: &[&str]) {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torch_dev");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_warpconv"));
    command.args(["conformance", corpus, "--filter", "^(depthwise|spatially)_separable/", "--deny-skips", "--device", "host"]);
    let output = command.args(["--dtype", "all", "--format", "all"]).args(options).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.ends_with("24 passed, 0 failed, 0 skipped\n"), "{stdout}\n{stderr}");
}
