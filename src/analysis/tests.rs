use super::*;
use crate::layers::{DepthwiseSeparableSpec, SpatiallySeparableSpec};
use crate::{Activation, Conv2dSpec, ConvTranspose2dSpec, DType, LayerSpec, Padding, PlanRequest, Shape};
use crate::{DeformRoiPoolSpec, RoiAlignSpec, RoiPoolSpec};
use rstest::rstest;
use std::ops::Range;

fn same() -> Conv2dSpec {
    Conv2dSpec { padding: Padding::Same, ..Default::default() }
}

#[test]
fn a_report_counts_everything_apart() {
    let spec = Conv2dSpec { stride: [2, 2], padding: Padding::all(1), groups: 4, activation: Activation::Prelu, ..Default::default() };
    let operands = Operands::new(DType::F16).residual(true);
    let parameters = [("weight", vec![16, 2, 3, 3]), ("bias", vec![16]), ("slope", vec![16])];
    let report = analyse(&LayerSpec::Conv2d(spec), &parameters, &[2, 8, 10, 12].into(), operands).unwrap();
    let outputs = 2 * 16 * 5 * 6;
    assert_eq!(report.output, [2, 16, 5, 6]);
    assert_eq!(report.parameters, Parameters { weight: 288, bias: 16, slope: 16, total: 320 });
    let macs = outputs * 2 * 9;
    let [bias_additions, residual_additions, activations] = [outputs; 3];
    let operations = Operations { macs, sampling_flops: 0, flops: 2 * macs, bias_additions, residual_additions, activations };
    assert_eq!(report.operations, operations);
    let (x, y) = (2 * 8 * 10 * 12 * 2, outputs * 2);
    let read = x + 576 + 64 + 64 + y;
    let bytes = Bytes { x, weight: 576, bias: 64, slope: 64, residual: y, coordinates: 0, y, read, written: y };
    assert_eq!(report.bytes, bytes);
    assert_eq!(report.arithmetic_intensity, (2 * macs) as f64 / (bytes.read + y) as f64);
    let field = report.receptive_field.unwrap();
    assert_eq!((field.size, field.jump), ([3, 3], [2, 2]));

    let bare = LayerSpec::Conv2d(Conv2dSpec::default());
    let bare = analyse(&bare, &[("weight", vec![16, 8, 1, 1])], &[0, 8, 4, 4].into(), Operands::new(DType::F32)).unwrap();
    assert_eq!((bare.parameters.total, bare.operations.flops, bare.operations.activations), (128, 0, 0));
    assert_eq!((bare.bytes.read, bare.bytes.written, bare.arithmetic_intensity), (512, 0, 0.0));
    assert_eq!(serde_json::to_value(&bare).unwrap()["bytes"]["weight"], 512);
}

/// No inserted zero is counted: as many products as the convolution has whose transpose it is.
#[test]
fn a_transposed_convolution_costs_what_the_convolution_does() {
    let transposed = ConvTranspose2dSpec { stride: [2, 2], padding: [1; 4], groups: 2, ..Default::default() };
    let parameters = [("weight", vec![8, 3, 4, 4]), ("bias", vec![6])];
    let report = analyse(&LayerSpec::ConvTranspose2d(transposed), &parameters, &[2, 8, 5, 7].into(), Operands::new(DType::F16)).unwrap();
    let spec = Conv2dSpec { stride: [2, 2], padding: Padding::all(1), groups: 2, ..Default::default() };
    let parameters = [("weight", vec![8, 3, 4, 4])];
    let forward = analyse(&LayerSpec::Conv2d(spec), &parameters, &[2, 6, 10, 14].into(), Operands::new(DType::F16)).unwrap();
    assert_eq!((report.output, forward.output), (forward.input, report.input));
    assert_eq!(report.operations.macs, forward.operations.macs);
    assert_eq!(report.parameters, Parameters { weight: 8 * 3 * 16, bias: 6, slope: 0, total: 8 * 3 * 16 + 6 });
    assert_eq!((report.bytes.x, report.bytes.y, report.receptive_field), (2 * 8 * 35 * 2, 2 * 6 * 140 * 2, None));
    assert_eq!(report.receptive_size, [2, 2]);
}

#[test]
fn two_stages_are_counted_together() {
    let spec = DepthwiseSeparableSpec {
        stride: [2, 2],
        padding: Padding::all(1),
        groups: Some(8),
        mid_activation: Activation::Relu6,
        ..Default::default()
    };
    let parameters = [("dw_weight", vec![16, 1, 3, 3]), ("dw_bias", vec![16]), ("pw_weight", vec![32, 16, 1, 1])];
    let spec = LayerSpec::DepthwiseSeparableConv2d(spec);
    let report = analyse(&spec, &parameters, &[2, 8, 10, 12].into(), Operands::new(DType::F16)).unwrap();
    let (pixels, o) = (2 * 5 * 6, report.operations);
    assert_eq!(report.output, [2, 32, 5, 6]);
    assert_eq!((report.parameters.weight, report.parameters.bias), (144 + 512, 16));
    assert_eq!((o.macs, o.bias_additions, o.activations), (pixels * (16 * 9 + 32 * 16), pixels * 16, pixels * 16));
    assert_eq!((report.bytes.read, report.bytes.written), ((2 * 8 * 120 + 656) * 2 + 64, pixels * 32 * 2));
    let field = report.receptive_field.unwrap();
    assert_eq!((field.size, field.jump), ([3, 3], [2, 2]));

    // one channel, 3x3: 6 products an output instead of 9
    let spec = SpatiallySeparableSpec { padding: Padding::Same, activation: Activation::Relu, ..Default::default() };
    let parameters = [("col_weight", vec![1, 1, 3, 1]), ("row_weight", vec![1, 1, 1, 3]), ("row_bias", vec![1])];
    let spec = LayerSpec::SpatiallySeparableConv2d(spec);
    let report = analyse(&spec, &parameters, &[1, 1, 8, 9].into(), Operands::new(DType::F32)).unwrap();
    assert_eq!((report.operations.macs, report.parameters.weight), (6 * 72, 6));
    assert_eq!((report.operations.bias_additions, report.operations.activations), (72, 72));
    let field = report.receptive_field.unwrap();
    assert_eq!((field.size, field.start), ([3, 3], [0.0, 0.0]));
}

#[test]
fn sampling_is_counted_apart() {
    let analyse =
        |spec: &LayerSpec, request: &PlanRequest, mask| analyse(spec, &[], request, Operands::new(DType::F16).mask(mask)).unwrap();
    let request = PlanRequest::new([2, 8, 14, 28]).rois(3);
    let outputs = 3 * 8 * 7 * 7;
    let align = RoiAlignSpec { sampling_ratio: 2, ..RoiAlignSpec::new([7, 7]) };
    let report = analyse(&LayerSpec::RoiAlign(align), &request, false);
    assert_eq!((report.output, report.operations.macs, report.operations.flops), ([3, 8, 7, 7], 0, outputs * (4 * 8 + 1)));
    assert_eq!((report.bytes.coordinates, report.bytes.written), (3 * 5 * 4, outputs * 2));
    // 2 x 4 pixels of a bin over the whole input
    let adaptive = LayerSpec::RoiAlign(RoiAlignSpec { sampling_ratio: 0, ..align });
    assert_eq!(analyse(&adaptive, &request, false).operations.sampling_flops, outputs * (8 * 8 + 1));
    let max = LayerSpec::RoiPool(RoiPoolSpec::new([7, 7]));
    assert_eq!(analyse(&max, &request, false).operations.sampling_flops, outputs * 8);
    let deform = DeformRoiPoolSpec { sampling_ratio: 2, ..DeformRoiPoolSpec::new([7, 7]) };
    let report = analyse(&LayerSpec::DeformRoiPool(deform), &request, true);
    assert_eq!(report.operations.sampling_flops, outputs * (4 * 8 + 2));
    assert_eq!(report.bytes.coordinates, 3 * 3 * 49 * 2 + 3 * 5 * 4);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let spec = LayerSpec::Conv2d(Conv2dSpec::default());
    let analyse = |weight: &[usize], x: Shape| {
        let parameters = [("weight", weight.to_vec()), ("bias", vec![weight[0]])];
        analyse(&spec, &parameters, &x.into(), Operands::new(DType::F32))
    };
    assert!(matches!(analyse(&[1, 1, 3], [1; 4]), Err(Error::Rank { .. })));
    assert!(matches!(analyse(&[1, 1, 3, 3], [1, 1, 2, 3]), Err(Error::EmptyOutput { axis: "height", .. })));
    assert!(matches!(analyse(&[1, 2, 3, 3], [1, 1, 3, 3]), Err(Error::Shape { name: "x", .. })));
    assert!(matches!(analyse(&[1 << 30, 1 << 30, 1, 1], [0, 1 << 30, 1, 1]), Err(Error::Overflow { .. })));
    assert!(matches!(analyse(&[1 << 20, 1 << 20, 1, 1], [1, 1 << 20, 1 << 15, 1 << 15]), Err(Error::Overflow { .. })));

    let field = ReceptiveField::input();
    assert!(matches!(field.then([0, 1], [1; 2], [1; 2], [0; 4]), Err(Error::Attribute { name: "kernel size", .. })));
    assert!(matches!(field.then([1, 1], [1, 0], [1; 2], [0; 4]), Err(Error::Attribute { name: "stride", .. })));
    let strided = field.then([1, 1], [usize::MAX, 1], [1; 2], [0; 4]).unwrap();
    assert!(matches!(strided.then([1, 1], [2, 1], [1; 2], [0; 4]), Err(Error::Overflow { .. })));
    assert!(matches!(strided.then([2, 1], [1, 1], [1; 2], [0; 4]), Err(Error::Overflow { .. })));
    assert!(matches!(strided.region([1, 0]), Err(Error::Overflow { .. })));
    assert!(matches!(doubling_receptive_field(3, 64), Err(Error::Overflow { .. })));
    assert!(matches!(doubling_receptive_field(4, 63), Err(Error::Overflow { .. })));
    assert!(matches!(stacked_receptive_field(0, 1), Err(Error::Attribute { .. })));
    assert!(matches!(Saving::stacked(3, 0, [1, 1, 8, 8]), Err(Error::Attribute { .. })));
    assert!(matches!(Saving::grouped(&Conv2dSpec { groups: 3, ..same() }, 6, [3, 3], [1, 4, 8, 8]), Err(Error::Divisibility { .. })));
}

/// The field of an output pixel found by brute force on one axis: which inputs a change of reaches
/// it.
fn seen(layers: &[[usize; 4]], output: usize) -> Range<i64> {
    let mut pixels = vec![output as i64];
    for &[kernel, stride, dilation, padding] in layers.iter().rev() {
        let taps = |p: i64| (0..kernel).map(move |i| p * stride as i64 + (i * dilation) as i64 - padding as i64);
        pixels = pixels.into_iter().flat_map(taps).collect();
    }
    *pixels.iter().min().unwrap()..*pixels.iter().max().unwrap() + 1
}

#[rstest]
#[case::one_dilated(&[[3, 1, 4, 2]])]
#[case::even_kernel(&[[2, 1, 1, 0], [4, 3, 1, 1]])]
#[case::resnet_stem(&[[7, 2, 1, 3], [3, 2, 1, 1], [3, 1, 1, 1], [3, 1, 1, 1], [3, 2, 1, 1]])]
#[case::atrous(&[[3, 2, 1, 1], [3, 1, 2, 2], [3, 1, 5, 0], [5, 2, 3, 9]])]
fn a_composed_field_is_the_one_found_by_tracing(#[case] layers: &[[usize; 4]]) {
    let mut field = ReceptiveField::input();
    for &[kernel, stride, dilation, padding] in layers {
        field = field.then([kernel, 1], [stride, 1], [dilation, 1], [padding, 0, 77, 78]).unwrap();
    }
    for output in [0, 1, 7] {
        let [rows, columns] = field.region([output, output]).unwrap();
        assert_eq!(rows, seen(layers, output));
        assert_eq!(columns, output as i64..output as i64 + 1);
    }
}

#[test]
fn closed_forms_are_compositions() {
    for kernel in 1..6 {
        let (mut stacked, mut doubling) = (ReceptiveField::input(), ReceptiveField::input());
        for layers in 0..6 {
            assert_eq!(stacked.size, [stacked_receptive_field(kernel, layers).unwrap(); 2]);
            assert_eq!(doubling.size, [doubling_receptive_field(kernel, layers as u32).unwrap(); 2]);
            let dilated = Conv2dSpec { dilation: [1 << layers; 2], ..same() };
            stacked = stacked.then_conv2d(&same(), [kernel; 2]).unwrap();
            doubling = doubling.then_conv2d(&dilated, [kernel; 2]).unwrap();
        }
    }
    assert_eq!(stacked_receptive_field(3, 3).unwrap(), 7);
    for n in 0..20 {
        assert_eq!(doubling_receptive_field(3, n).unwrap(), (1 << (n + 1)) - 1);
    }
}

#[test]
fn savings_are_the_known_ratios() {
    let near = |saving: Saving, ratio: f64| {
        assert!((saving.parameters_ratio - ratio).abs() < 1e-12, "{saving:?}");
        assert!((saving.macs_ratio - ratio).abs() < 1e-12, "{saving:?}");
    };
    let x = [2, 32, 14, 15];
    near(Saving::depthwise_separable(&same(), 48, [3, 3], x).unwrap(), 1.0 / 48.0 + 1.0 / 9.0);
    let strided = Conv2dSpec { stride: [2, 1], padding: Padding::all(2), groups: 4, ..Default::default() };
    near(Saving::depthwise_separable(&strided, 48, [5, 3], x).unwrap(), 1.0 / 48.0 + 1.0 / 15.0);
    near(Saving::grouped(&Conv2dSpec { groups: 8, ..strided }, 48, [3, 3], x).unwrap(), 1.0 / 8.0);
    near(Saving::stacked(3, 2, x).unwrap(), 18.0 / 25.0);
    near(Saving::stacked(3, 3, x).unwrap(), 27.0 / 49.0);
    for k in [3, 5, 7] {
        near(Saving::spatially_separable(&same(), 32, 32, [k, k], x).unwrap(), 2.0 / k as f64);
    }
    let one_channel = Saving::spatially_separable(&same(), 1, 1, [3, 3], [1, 1, 8, 8]).unwrap();
    assert_eq!((one_channel.dense.parameters, one_channel.factorised.parameters), (9, 6));
    // stride 2 halves the rows before the second stage, but the first still computes every column
    let spec = Conv2dSpec { stride: [2, 2], padding: Padding::all(1), ..Default::default() };
    let saving = Saving::spatially_separable(&spec, 4, 8, [3, 3], [1, 2, 8, 8]).unwrap();
    assert_eq!(saving.dense, Cost { parameters: 144, macs: 144 * 16 });
    assert_eq!(saving.factorised, Cost { parameters: 24 + 96, macs: 24 * 4 * 8 + 96 * 4 * 4 });
}
