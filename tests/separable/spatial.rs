//! Spatially separable convolution of single channels: a column and a row for each, in one launch and in two.

use half::{bf16, f16};
use rstest::rstest;
use warpconv::{
    Activation, DType, Element, Error, Inputs, Layer, MemoryFormat, Padding, Parameter, PlanRequest, Shape, SpatiallySeparableConv2d,
    SpatiallySeparableSpec, Stream, Tensor, Workspace,
};

use crate::common::checked;

use super::{DEVICE, applicable, drawn, run};

#[test]
fn what_does_not_fit_a_column_and_a_row_is_refused() {
    let zeros = |shape: &[usize]| Parameter::new(shape, &vec![0f32; shape.iter().product()]).unwrap();
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

/// A layer that is depthwise in both stages, with biases, and none of its values a round number.
fn spatial(channels: usize, kernel: [usize; 2], spec: SpatiallySeparableSpec) -> SpatiallySeparableConv2d {
    let (values, biases) = ([-0.37, 0.81, 1.13, -0.59, 0.23], [0.71, -1.29, 0.43]);
    let spec = SpatiallySeparableSpec { groups: channels, ..spec };
    let column = drawn(&[channels, 1, kernel[0], 1], &values, 1);
    let layer = SpatiallySeparableConv2d::new(spec, column, drawn(&[channels, 1, 1, kernel[1]], &values, 2)).unwrap();
    layer.with_col_bias(drawn(&[channels], &biases, 3)).unwrap().with_row_bias(drawn(&[channels], &biases, 4)).unwrap()
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
    let dense = SpatiallySeparableConv2d::new(spec, drawn(&[4, 2, 1, 1], &[1.0], 0), drawn(&[4, 4, 1, 3], &[1.0], 0)).unwrap();
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
