//! Spatially separable convolution that is dense in both stages: two products of matrices in one launch and in two.

use half::{bf16, f16};
use rstest::rstest;
use warpconv::cases::{Problem, Values};
use warpconv::reference::{self, Array};
use warpconv::{
    Activation, Element, Inputs, Layer, LayerSpec, MemoryFormat, Padding, Parameter, PlanRequest, Shape, SpatiallySeparableConv2d,
    SpatiallySeparableSpec, Stream, Tensor, Workspace,
};

use crate::common::{check, checked};

use super::{DEVICE, applicable, drawn, run, whole};

/// A layer that is dense in both stages, with biases in both.
fn dense(channels: [usize; 3], kernel: [usize; 2], values: &[f32], spec: SpatiallySeparableSpec) -> SpatiallySeparableConv2d {
    let ([c_in, c_mid, c_out], [kh, kw]) = (channels, kernel);
    let column = drawn(&[c_mid, c_in, kh, 1], values, 1);
    let layer = SpatiallySeparableConv2d::new(spec, column, drawn(&[c_out, c_mid, 1, kw], values, 2)).unwrap();
    let biases = [drawn(&[c_mid], &[-1.0, 0.0, 3.0], 3), drawn(&[c_out], &[-5.0, 7.0], 4)];
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
    let two = SpatiallySeparableConv2d::new(two, drawn(&[8, 4, 3, 1], &[1.0], 0), drawn(&[8, 4, 1, 3], &[1.0], 0)).unwrap();
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
