//! PixelShuffle, PixelUnshuffle, SubPixelConv2d and Focus on the host device: exact inverses, fused against two-step forms, every
//! kernel against the oracle, what moves, and what is refused.
#![cfg(feature = "host")]

use half::{bf16, f16};
use proptest::prelude::*;
use rstest::rstest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use warpconv::analysis::{Operands, analyse};
use warpconv::cases::{Problem, Values};
use warpconv::{
    Activation, AnyLayer, ChannelOrder, Conv2d, Conv2dSpec, DType, Device, Element, Error, Focus, FocusSpec, Inputs, Layer, LayerSpec,
    MemoryFormat, Padding, Parameter, PixelShuffle, PixelShuffleSpec, PixelUnshuffle, PlanRequest, Shape, Stream, SubPixelConv2d,
    SubPixelConv2dSpec, Tensor, Workspace, WorkspaceMemory,
};

use crate::common::{bits, check, checked, problems_of};

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host_with(warpconv::HostOptions::default()).unwrap());
const ORDERS: [ChannelOrder; 3] = [ChannelOrder::Crd, ChannelOrder::Dcr, ChannelOrder::Focus];

#[test]
fn every_kernel_agrees_with_the_oracle() {
    let rearranging: BTreeSet<_> =
        problems_of(&["pixel_shuffle", "pixel_unshuffle"], 1, 160).flat_map(|problem| check(&problem, &DEVICE)).collect();
    assert_eq!(rearranging.len(), 4 + 8 + 2, "{rearranging:?}");
    let convolving: BTreeSet<_> = problems_of(&["sub_pixel_conv", "focus"], 2, 40).flat_map(|problem| check(&problem, &DEVICE)).collect();
    for family in ["conv_gemm_f16_vectors", "conv_gemm_bf16_pixels", "conv_gemm_f32_channels", "conv_direct_f32", "pair"] {
        assert!(convolving.iter().any(|kernel| kernel.starts_with(family)), "{family}: {convolving:?}");
    }
}

#[rstest]
fn the_checker_finds_nothing(#[values(1, 2)] seed: u64) {
    let device = checked(seed);
    problems_of(&["pixel_shuffle", "pixel_unshuffle"], seed, 12).for_each(|problem| drop(check(&problem, &device)));
    for problem in problems_of(&["sub_pixel_conv", "focus"], seed, 4) {
        check(&problem, &device);
    }
}

fn forward<T: Element>(layer: &impl Layer, x: &Tensor<T>) -> Tensor<T> {
    layer.forward(&Inputs::new(x)).unwrap()
}

/// NaN, infinities and subnormals are moved like everything else.
fn awkward<T: Element>(shape: Shape, format: MemoryFormat) -> Tensor<T> {
    let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 6e-8];
    let value = |i: usize| if i % 7 == 3 { special[i / 7 % special.len()] } else { i as f32 % 251.0 - 120.0 };
    let values: Vec<T> = (0..shape.iter().product()).map(|i| T::from_f32(value(i))).collect();
    Tensor::from_slice(&DEVICE, shape, &values).unwrap().to_format(format).unwrap()
}

fn inverts<T: Element>(factor: usize, order: ChannelOrder, format: MemoryFormat) {
    let spec = PixelShuffleSpec { factor, order };
    let (shuffle, unshuffle) = (PixelShuffle::new(spec).unwrap(), PixelUnshuffle::new(spec).unwrap());
    for [channels, height, width] in [[3, 2, 5], [8, 3, 8], [1, 1, 16]] {
        let deep = awkward::<T>([2, channels * factor * factor, height, width], format);
        assert_eq!(bits(&forward(&unshuffle, &forward(&shuffle, &deep))), bits(&deep));
        let wide = awkward::<T>([2, channels, height * factor, width * factor], format);
        assert_eq!(bits(&forward(&shuffle, &forward(&unshuffle, &wide))), bits(&wide));
    }
}

#[rstest]
fn the_two_are_exact_inverses(#[values(1, 2, 3, 4, 5)] factor: usize) {
    for order in ORDERS {
        for format in MemoryFormat::ALL {
            inverts::<f32>(factor, order, format);
            inverts::<f16>(factor, order, format);
            inverts::<bf16>(factor, order, format);
        }
    }
}

/// The survey's statement: sub-pixel shuffling of Focus's slices gives the picture back. A Focus layer whose filters are the unit
/// vectors gives the slices themselves.
#[test]
fn shuffling_the_slices_of_focus_gives_the_picture_back() {
    let picture = Tensor::<f16>::randn(&DEVICE, [1, 3, 6, 10], MemoryFormat::ChannelsLast, 1).unwrap();
    let unit: Vec<f32> = (0..144).map(|i| if i / 12 == i % 12 { 1.0 } else { 0.0 }).collect();
    let focus = Focus::new(FocusSpec::default(), Parameter::new(&[12, 12, 1, 1], &unit).unwrap()).unwrap();
    let slices = forward(&focus, &picture);
    let (source, values) = (picture.to_vec().unwrap(), slices.to_vec().unwrap());
    for (slice, [row, column]) in [[0, 0], [1, 0], [0, 1], [1, 1]].into_iter().enumerate() {
        for (c, p, q) in (0..3).flat_map(|c| (0..3).flat_map(move |p| (0..5).map(move |q| (c, p, q)))) {
            let expected = source[(c * 6 + 2 * p + row) * 10 + 2 * q + column];
            assert_eq!(values[((slice * 3 + c) * 3 + p) * 5 + q], expected);
        }
    }
    let spec = PixelShuffleSpec { factor: 2, order: ChannelOrder::Focus };
    assert_eq!(bits(&forward(&PixelShuffle::new(spec).unwrap(), &slices)), bits(&picture));
}

/// The fused form and the pair, of the same layer on the same tensors.
fn both_forms<T: Element>(layer: &AnyLayer, problem: &Problem, formats: [MemoryFormat; 2]) -> [Vec<u32>; 2] {
    let tensors = problem.tensors(T::DTYPE).unwrap();
    let place = |name: &str| {
        let array = tensors.get(name)?;
        let values: Vec<T> = array.data().iter().map(|&v| T::from_f64(v)).collect();
        let tensor = Tensor::from_slice(&DEVICE, array.shape().try_into().unwrap(), &values).unwrap();
        Some(tensor.to_format(formats[0]).unwrap())
    };
    let (x, residual) = (place("x").unwrap(), place("residual"));
    let run = |request: &PlanRequest| {
        let plan = layer.plan::<T>(&DEVICE, request).unwrap();
        let mut y = Tensor::zeros(&DEVICE, plan.output_shape(), plan.output_format()).unwrap();
        let mut memory = WorkspaceMemory::new(&DEVICE, plan.workspace_bytes()).unwrap();
        let inputs = residual.as_ref().map_or(Inputs::new(&x), |residual| Inputs::new(&x).residual(residual));
        plan.run(&inputs, &mut y, memory.workspace(), &Stream::default_of(&DEVICE)).unwrap();
        (bits(&y), plan.explain().kernel, plan.workspace_bytes())
    };
    let request = PlanRequest::new(x.shape()).format(formats[0]).output_format(formats[1]);
    let choices = layer.plan::<T>(&DEVICE, &request).unwrap().explain().choices.clone();
    let fused = choices.iter().find(|choice| choice.verdict.is_ok() && choice.kernel != "pair").unwrap();
    let (fused, kernel, workspace) = run(&request.clone().kernel(fused.kernel));
    assert!(kernel != "pair" && workspace == 0, "{kernel}");
    let (pair, kernel, workspace) = run(&request.kernel("pair"));
    assert!(kernel == "pair" && workspace > 0, "{kernel}");
    [fused, pair]
}

fn layer_of(problem: &Problem) -> AnyLayer {
    let tensors = problem.tensors(DType::F32).unwrap();
    let own = problem.layer.signature().parameters;
    let parameter = |name: &&str| {
        let array = tensors.get(*name)?;
        let values: Vec<f32> = array.data().iter().map(|&v| v as f32).collect();
        Some((name.to_string(), Parameter::new(array.shape(), &values).unwrap()))
    };
    AnyLayer::new(problem.layer, own.iter().filter_map(parameter).collect::<BTreeMap<_, _>>()).unwrap()
}

fn forms_agree(problem: &Problem) {
    // sums of multiples of 1/64 are exact in any order, so that both round the same number
    let problem = Problem { values: Values::Exact, ..problem.clone() };
    let layer = layer_of(&problem);
    for formats in MemoryFormat::ALL.into_iter().flat_map(|x| MemoryFormat::ALL.map(|y| [x, y])) {
        for [fused, pair] in [
            both_forms::<f32>(&layer, &problem, formats),
            both_forms::<f16>(&layer, &problem, formats),
            both_forms::<bf16>(&layer, &problem, formats),
        ] {
            assert_eq!(fused, pair, "{formats:?} {problem:?}");
        }
    }
}

fn sub_pixel(conv: Conv2dSpec, factor: usize, order: ChannelOrder, x: Shape, weight: Shape) -> Problem {
    let layer = LayerSpec::SubPixelConv2d(SubPixelConv2dSpec { conv, factor, order });
    Problem::new(layer, &[("x", &x), ("weight", &weight)]).with("bias", Some(&weight[..1]))
}

#[rstest]
#[case::dense(1, [1, 8, 5, 6], [32, 8, 3, 3], 2)]
#[case::one_channel(1, [2, 3, 4, 7], [9, 3, 3, 3], 3)]
#[case::groups_of_whole_blocks(2, [1, 4, 5, 5], [16, 2, 3, 3], 2)]
#[case::groups_that_share_a_block(4, [1, 8, 4, 5], [4, 2, 3, 3], 2)]
#[case::four(1, [1, 5, 3, 4], [48, 5, 1, 1], 4)]
fn sub_pixel_convolution_is_convolution_then_shuffle(
    #[case] groups: usize,
    #[case] x: Shape,
    #[case] weight: Shape,
    #[case] factor: usize,
) {
    for order in [ChannelOrder::Crd, ChannelOrder::Dcr].into_iter().chain((groups == 1).then_some(ChannelOrder::Focus)) {
        let conv = Conv2dSpec { groups, padding: Padding::all(weight[2] / 2), activation: Activation::Prelu, ..Default::default() };
        forms_agree(&sub_pixel(conv, factor, order, x, weight).with("slope", Some(&weight[..1])));
    }
}

#[rstest]
#[case(1, [1, 1], [0; 4], [1, 3, 8, 10])]
#[case(3, [1, 1], [1; 4], [2, 3, 8, 6])]
#[case(3, [2, 1], [1, 0, 2, 1], [1, 5, 10, 12])]
#[case(5, [2, 2], [2; 4], [1, 8, 8, 8])]
fn focus_is_one_convolution_of_the_picture(
    #[case] kernel: usize,
    #[case] stride: [usize; 2],
    #[case] padding: [usize; 4],
    #[case] x: Shape,
) {
    let conv = Conv2dSpec { stride, padding: Padding::Explicit(padding), activation: Activation::Relu, ..Default::default() };
    let weight = [6, 4 * x[1], kernel, kernel];
    let problem = Problem::new(LayerSpec::Focus(FocusSpec { conv }), &[("x", &x), ("weight", &weight)]);
    forms_agree(&problem.with("bias", Some(&[6])).with_residual(true));
}

#[test]
fn focus_with_dilation_or_groups_writes_the_slices_first() {
    for (dilation, groups) in [([2, 1], 1), ([1, 1], 2), ([2, 3], 4)] {
        let conv = Conv2dSpec { dilation, groups, padding: Padding::Same, ..Default::default() };
        let shapes: [(&str, &[usize]); 2] = [("x", &[1, 2, 8, 10]), ("weight", &[8, 8 / groups, 3, 3])];
        let problem = Problem::new(LayerSpec::Focus(FocusSpec { conv }), &shapes).with_residual(true);
        assert_eq!(check(&problem, &DEVICE), BTreeSet::from(["pair"]));
        let plan = layer_of(&problem).plan::<f16>(&DEVICE, &PlanRequest::new([1, 2, 8, 10])).unwrap();
        let [slices, conv] = &plan.explain().stages[..] else { panic!("{}", plan.explain()) };
        assert!(slices.kernel.starts_with("pixel_") && conv.kernel.starts_with("conv_"), "{}", plan.explain());
        assert_eq!(plan.workspace_bytes(), 2 * 160usize.next_multiple_of(128));
    }
}

/// (read, written) of each tensor by name in the last launch.
fn traffic(device: &Device) -> BTreeMap<&'static str, (u64, u64)> {
    let counters = device.last_launch_counters().expect("a checked device counts");
    counters.operands.iter().map(|operand| (operand.name, (operand.bytes_read, operand.bytes_written))).collect()
}

#[test]
fn rearranging_reads_and_writes_each_byte_once() {
    let device = checked(3);
    for (order, factor) in ORDERS.into_iter().flat_map(|order| [2, 3, 5].map(|factor| (order, factor))) {
        let layer = PixelShuffle::new(PixelShuffleSpec { factor, order }).unwrap();
        for (x_format, y_format) in MemoryFormat::ALL.into_iter().flat_map(|x| MemoryFormat::ALL.map(|y| (x, y))) {
            let x = Tensor::<f16>::randn(&device, [2, 8 * factor * factor, 3, 16], x_format, 1).unwrap();
            let request = PlanRequest::new(x.shape()).format(x_format).output_format(y_format);
            let plan = layer.plan::<f16>(&device, &request).unwrap();
            let kernels: Vec<_> = plan.explain().choices.iter().filter(|c| c.verdict.is_ok()).map(|c| c.kernel).collect();
            for kernel in kernels {
                let plan = layer.plan::<f16>(&device, &request.clone().kernel(kernel)).unwrap();
                let mut y = Tensor::zeros(&device, plan.output_shape(), y_format).unwrap();
                plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
                let bytes = 2 * x.shape().iter().product::<usize>() as u64;
                assert_eq!(traffic(&device), BTreeMap::from([("x", (bytes, 0)), ("y", (0, bytes))]), "{kernel}");
            }
        }
    }
}

#[test]
fn the_fused_forms_write_each_byte_once_and_nothing_else() {
    let device = checked(4);
    for format in MemoryFormat::ALL {
        let x = Tensor::<f16>::randn(&device, [1, 16, 8, 8], format, 1).unwrap();
        let conv = Conv2dSpec { padding: Padding::all(1), ..Default::default() };
        let weight = Parameter::new(&[64, 16, 3, 3], &[0.25f32; 64 * 16 * 9]).unwrap();
        let spec = SubPixelConv2dSpec { conv, factor: 2, order: ChannelOrder::Crd };
        let y = forward(&SubPixelConv2d::new(spec, weight).unwrap(), &x);
        assert_eq!(y.shape(), [1, 16, 16, 16]);
        let written = |name: &str| traffic(&device)[name].1;
        assert_eq!((written("y"), traffic(&device).values().map(|(_, written)| written).sum::<u64>()), (2 * 16 * 256, 2 * 16 * 256));

        let x = Tensor::<f16>::randn(&device, [1, 3, 16, 16], format, 1).unwrap();
        let weight = Parameter::new(&[16, 12, 3, 3], &[0.25f32; 16 * 12 * 9]).unwrap();
        let launches = device.launches();
        forward(&Focus::new(FocusSpec { conv }, weight).unwrap(), &x);
        assert_eq!(device.launches(), launches + 1);
        assert_eq!(traffic(&device).values().map(|(_, written)| written).sum::<u64>(), 2 * 16 * 64);
    }
}

/// Of 16-byte runs of channels the tensor-core kernel stores whole ones: as many stores as chunks.
#[rstest]
#[case::rearranged_rows(MemoryFormat::Contiguous, ChannelOrder::Crd, "pixel_rows_16_r2_to_wide")]
#[case::runs_of_channels(MemoryFormat::ChannelsLast, ChannelOrder::Dcr, "pixel_runs_16_wide")]
#[case::transposed_blocks(MemoryFormat::ChannelsLast, ChannelOrder::Crd, "pixel_tile_16")]
fn real_layers_get_the_kernel_made_for_them(#[case] format: MemoryFormat, #[case] order: ChannelOrder, #[case] expected: &str) {
    let layer = PixelShuffle::new(PixelShuffleSpec { factor: 2, order }).unwrap();
    let plan = layer.plan::<f16>(&DEVICE, &PlanRequest::new([1, 256, 64, 64]).format(format)).unwrap();
    assert_eq!(plan.explain().kernel, expected, "{}", plan.explain());
}

#[test]
fn what_cannot_be_rearranged_is_refused() {
    let spec = PixelShuffleSpec { factor: 2, order: ChannelOrder::Crd };
    let (shuffle, unshuffle) = (PixelShuffle::new(spec).unwrap(), PixelUnshuffle::new(spec).unwrap());
    assert!(matches!(PixelShuffle::new(PixelShuffleSpec { factor: 0, ..spec }), Err(Error::Attribute { name: "r", .. })));
    assert!(matches!(PixelUnshuffle::new(PixelShuffleSpec { factor: 0, ..spec }), Err(Error::Attribute { name: "r", .. })));
    assert!(matches!(shuffle.output_shape(&[1, 6, 2, 2].into()), Err(Error::Divisibility { value: 6, divisor: 4, .. })));
    assert!(matches!(unshuffle.output_shape(&[1, 1, 3, 2].into()), Err(Error::Divisibility { name: "the input height", .. })));
    assert!(matches!(unshuffle.output_shape(&[1, 1, 2, 3].into()), Err(Error::Divisibility { name: "the input width", .. })));
    let huge = PixelShuffle::new(PixelShuffleSpec { factor: usize::MAX, ..spec }).unwrap();
    assert!(matches!(huge.output_shape(&[1, 4, 2, 2].into()), Err(Error::Overflow { .. })));
    assert!(matches!(shuffle.output_shape(&[0, 4, 1 << 62, 2].into()), Err(Error::Overflow { .. })));
    assert!(matches!(shuffle.plan::<f16>(&DEVICE, &PlanRequest::new([1, 4, 1 << 16, 1 << 16])), Err(Error::Limit { .. })));
    for text in [r#"{"r": 2, "mode": "xyz"}"#, r#"{"mode": "crd"}"#, r#"{"r": -1}"#, r#"{"r": 2, "factor": 2}"#] {
        assert!(LayerSpec::from_json(&format!(r#"{{"op": "pixel_shuffle", "attrs": {text}}}"#)).is_err(), "{text}");
    }
    let x = Tensor::<f32>::zeros(&DEVICE, [1, 4, 2, 2], MemoryFormat::Contiguous).unwrap();
    assert!(matches!(shuffle.forward(&Inputs::new(&x).accumulate()), Err(Error::UnexpectedTensor { op: "pixel_shuffle", .. })));
}

#[test]
fn what_cannot_be_convolved_is_refused() {
    let parameter = |shape: &[usize]| Parameter::new(shape, &vec![0f32; shape.iter().product()]).unwrap();
    let spec = SubPixelConv2dSpec { conv: Conv2dSpec::default(), factor: 2, order: ChannelOrder::Crd };
    assert!(matches!(SubPixelConv2d::new(spec, parameter(&[6, 3, 1, 1])), Err(Error::Divisibility { name: "C_out", value: 6, .. })));
    assert!(matches!(SubPixelConv2d::new(spec, parameter(&[4, 3, 1])), Err(Error::Rank { name: "weight", .. })));
    let zero = SubPixelConv2dSpec { factor: 0, ..spec };
    assert!(matches!(SubPixelConv2d::new(zero, parameter(&[4, 3, 1, 1])), Err(Error::Attribute { name: "r", .. })));
    let prelu = SubPixelConv2dSpec { conv: Conv2dSpec { activation: Activation::Prelu, ..spec.conv }, ..spec };
    let incomplete = SubPixelConv2d::new(prelu, parameter(&[4, 3, 1, 1])).unwrap();
    let request = PlanRequest::new([1, 3, 2, 2]);
    assert!(matches!(incomplete.plan::<f16>(&DEVICE, &request), Err(Error::MissingTensor { op: "sub_pixel_conv", .. })));
    let complete = SubPixelConv2d::new(spec, parameter(&[4, 3, 1, 1])).unwrap();
    assert!(matches!(complete.clone().with_slope(parameter(&[4])), Err(Error::UnexpectedTensor { op: "sub_pixel_conv", .. })));
    assert!(matches!(complete.clone().with_bias(parameter(&[1])), Err(Error::Shape { name: "bias", .. })));
    assert!(matches!(complete.plan::<f16>(&DEVICE, &PlanRequest::new([1, 4, 2, 2])), Err(Error::Shape { name: "x", .. })));
    let grouped = complete.plan::<f16>(&DEVICE, &request).unwrap();
    let refused = grouped.explain().choices.iter().filter(|c| c.verdict == Err("its store does not shuffle".into())).count();
    assert!(refused > 10, "{}", grouped.explain());
    let x = Tensor::<f16>::zeros(&DEVICE, [1, 3, 2, 2], MemoryFormat::Contiguous).unwrap();
    assert!(matches!(complete.forward(&Inputs::new(&x).accumulate()), Err(Error::UnexpectedTensor { .. })));

    let focus = Focus::new(FocusSpec::default(), parameter(&[2, 12, 3, 3])).unwrap();
    assert!(matches!(focus.output_shape(&[1, 3, 7, 8].into()), Err(Error::Divisibility { name: "the input height", value: 7, .. })));
    assert!(matches!(focus.output_shape(&[1, 3, 8, 7].into()), Err(Error::Divisibility { name: "the input width", value: 7, .. })));
    assert!(matches!(focus.output_shape(&[1, 4, 8, 8].into()), Err(Error::Shape { name: "weight", .. })));
    assert!(matches!(focus.output_shape(&[1, 3, 4, 4].into()), Err(Error::EmptyOutput { .. })));
    assert!(matches!(Focus::new(FocusSpec::default(), parameter(&[2, 3, 3, 3])), Err(Error::Divisibility { .. })));
    let prelu = FocusSpec { conv: Conv2dSpec { activation: Activation::Prelu, ..Default::default() } };
    let incomplete = Focus::new(prelu, parameter(&[2, 12, 3, 3])).unwrap();
    assert!(matches!(incomplete.plan::<f32>(&DEVICE, &PlanRequest::new([1, 3, 8, 8])), Err(Error::MissingTensor { op: "focus", .. })));
}

/// The calculators: Focus costs what the convolution of the slices does, and what is only moved costs no operation.
#[test]
fn the_calculators_know_them() {
    let focus = LayerSpec::Focus(FocusSpec { conv: Conv2dSpec { padding: Padding::all(1), ..Default::default() } });
    let report = analyse(&focus, &[("weight", vec![32, 12, 3, 3])], &[1, 3, 64, 64].into(), Operands::new(DType::F16)).unwrap();
    assert_eq!((report.output, report.operations.macs), ([1, 32, 32, 32], 32 * 32 * 32 * 12 * 9));
    assert_eq!((report.parameters.total, report.bytes.x, report.bytes.y), (32 * 12 * 9, 2 * 3 * 4096, 2 * 32 * 1024));
    let field = report.receptive_field.unwrap();
    assert_eq!((field.size, field.jump), ([6, 6], [2, 2]));
    let spec = PixelShuffleSpec { factor: 2, order: ChannelOrder::Crd };
    let analyse = |layer, parameters: &[(&'static str, Vec<usize>)], x: Shape| {
        analyse(&layer, parameters, &x.into(), Operands::new(DType::F16)).unwrap()
    };
    let shuffle = analyse(LayerSpec::PixelShuffle(spec), &[], [1, 16, 8, 8]);
    assert_eq!((shuffle.output, shuffle.operations.flops, shuffle.bytes.read, shuffle.bytes.written), ([1, 4, 16, 16], 0, 2048, 2048));
    assert_eq!(analyse(LayerSpec::PixelUnshuffle(spec), &[], [1, 4, 16, 16]).receptive_field.unwrap().jump, [2, 2]);
    let layer = LayerSpec::SubPixelConv2d(SubPixelConv2dSpec { conv: Conv2dSpec::default(), factor: 2, order: ChannelOrder::Crd });
    let report = analyse(layer, &[("weight", vec![12, 8, 1, 1]), ("bias", vec![12])], [1, 8, 4, 4]);
    assert_eq!((report.output, report.operations.macs, report.bytes.y), ([1, 3, 8, 8], 16 * 96, 2 * 3 * 64));
}

#[test]
fn nothing_is_rearranged_to_nothing() {
    let spec = PixelShuffleSpec { factor: 2, order: ChannelOrder::Crd };
    for format in MemoryFormat::ALL {
        for shape in [[0, 4, 2, 2], [1, 0, 2, 2], [1, 4, 0, 2], [1, 4, 2, 0]] {
            let x = Tensor::<f16>::zeros(&DEVICE, shape, format).unwrap();
            let y = forward(&PixelShuffle::new(spec).unwrap(), &x);
            assert_eq!(y.shape(), [shape[0], shape[1] / 4, 2 * shape[2], 2 * shape[3]]);
            assert_eq!(forward(&PixelUnshuffle::new(spec).unwrap(), &y).shape(), shape);
        }
    }
}

/// The corpus's cases of these ops and of UpsampleBilinear, 34 valid ones and 9 that must be refused, with every kernel; also under
/// the checker.
#[cfg(feature = "cli")]
#[rstest]
#[case::in_every_dtype_and_format(&["--dtype", "all", "--format", "all"])]
#[case::under_the_checker(&["--checked", "--seed", "1", "--dtype", "all", "--format", "all"])]
fn every_case_of_the_corpus_passes(#[case] options: &[&str]) {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torch_dev");
    let ops = "^(pixel_shuffle|pixel_unshuffle|sub_pixel_conv|focus|upsample_bilinear)/";
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_warpconv"));
    command.args(["conformance", corpus, "--filter", ops, "--deny-skips", "--device", "host", "--all-kernels"]).args(options);
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{options:?}\n{stdout}\n{stderr}");
    assert_eq!(stdout.lines().last(), Some("43 passed, 0 failed, 0 skipped"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]

    #[test]
    fn any_shape_is_rearranged(
        factor in 1usize..6, order in prop::sample::select(ORDERS.to_vec()), n in 0usize..3, channels in 1usize..20, blocks in [1usize..5, 1usize..40],
        to_wide: bool, margins in [0usize..9, 0usize..9, 0usize..9, 0usize..9],
    ) {
        let spec = PixelShuffleSpec { factor, order };
        let (layer, x) = if to_wide {
            (LayerSpec::PixelShuffle(spec), [n, channels * factor * factor, blocks[0], blocks[1]])
        } else {
            (LayerSpec::PixelUnshuffle(spec), [n, channels, blocks[0] * factor, blocks[1] * factor])
        };
        let [a, b, c, d] = margins;
        check(&Problem { x_margin: [a, b], y_margin: [c, d], ..Problem::new(layer, &[("x", &x)]) }, &DEVICE);
    }
}

/// A service that upscales: bias and activation belong to the convolution's channels, and a slice of a wider tensor takes the result.
#[test]
fn a_slice_of_a_wider_tensor_takes_the_result() {
    for margin in [[8, 8], [3, 2]] {
        for order in ORDERS {
            let conv = Conv2dSpec { padding: Padding::all(1), activation: Activation::Silu, ..Default::default() };
            let problem = sub_pixel(conv, 2, order, [2, 8, 5, 4], [32, 8, 3, 3]);
            check(&Problem { x_margin: margin, y_margin: margin, ..problem }, &DEVICE);
        }
    }
    let plain = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[4, 2, 1, 1], &[1f32; 8]).unwrap()).unwrap();
    let spec = SubPixelConv2dSpec { conv: Conv2dSpec::default(), factor: 1, order: ChannelOrder::Crd };
    let once = SubPixelConv2d::new(spec, plain.weight().clone()).unwrap();
    let x = awkward::<f32>([1, 2, 3, 5], MemoryFormat::ChannelsLast);
    assert_eq!(bits(&forward(&once, &x)), bits(&forward(&plain, &x)), "r = 1 shuffles nothing");
}
