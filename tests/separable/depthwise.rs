//! Depthwise separable convolution: one launch against two, what moves, folding, and what real layers get.

use half::{bf16, f16};
use rstest::rstest;
use warpconv::cases::Problem;
use warpconv::reference::{self, Array, DepthwiseSeparable};
use warpconv::{
    Activation, BatchNorm, Conv2dSpec, DepthwiseSeparableConv2d, DepthwiseSeparableSpec, Element, Error, Inputs, Layer, LayerSpec,
    MemoryFormat, Padding, Parameter, PlanRequest, Shape, Stream, Tensor, Workspace,
};

use crate::common::{check, checked};

use super::{DEVICE, applicable, drawn, run, whole};

/// Every fused kernel, the pair, and the oracle rounded once: where no sum rounds, they are equal bit for bit.
fn one_launch_is_two<T: Element>(x: Shape, multiplier: usize, c_out: usize, kernel: [usize; 2], spec: DepthwiseSeparableSpec) {
    let outputs = x[1] * multiplier;
    let spec = DepthwiseSeparableSpec { groups: Some(x[1]), padding: Padding::all(1), ..spec };
    let dw_weight = drawn(&[outputs, 1, kernel[0], kernel[1]], &[-1.0, 0.0, 1.0], 1);
    let pw_weight = drawn(&[c_out, outputs, 1, 1], &[-2.0, -1.0, 0.0, 1.0, 2.0], 2);
    let (dw_bias, pw_bias) = (drawn(&[outputs], &[-1.0, 0.0, 3.0], 3), drawn(&[c_out], &[-5.0, 7.0], 4));
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
    let layer = DepthwiseSeparableConv2d::new(spec, drawn(&[32, 1, 3, 3], &[1.0], 0), drawn(&[64, 32, 1, 1], &[1.0], 0)).unwrap();
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
    let (dw_weight, pw_weight) = (drawn(&[8, 1, 3, 3], &[0.25, -0.5, 1.0], 1), drawn(&[12, 8, 1, 1], &[0.5, -0.25, 0.125], 2));
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
    let layer = DepthwiseSeparableConv2d::new(spec, drawn(&[512, 1, 7, 7], &[1.0], 0), drawn(&[2048, 512, 1, 1], &[1.0], 0)).unwrap();
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
    DepthwiseSeparableConv2d::new(spec, drawn(&[x[1], 1, 3, 3], &[1.0], 0), drawn(&[c_out, x[1], 1, 1], &[1.0], 0)).unwrap()
}
