//! Deformable convolution on the host device: equalities that must hold bit for bit, awkward problems against the oracle, the
//! checker under offsets of every kind, and what is refused.

use half::{bf16, f16};
use proptest::prelude::*;
use rstest::rstest;
use std::collections::BTreeSet;
use std::sync::LazyLock;
use warpconv::analysis::{Operands, analyse};
use warpconv::cases::Problem;
use warpconv::numerics::Contract;
use warpconv::reference::{Array, Deformed, deform_conv2d, deform_conv2d_scale, deform_samples};
use warpconv::{
    Activation, Conv2d, Conv2dSpec, DType, DeformConv2d, DeformConv2dSpec, Device, Element, Error, HostOptions, Inputs, Layer, LayerSpec,
    MemoryFormat, OffsetOrMask, Padding, Parameter, PlanRequest, Shape, Stream, Tensor, Workspace,
};

use crate::common::{check, checked, fractions, grid, kinds_of, parameter};

mod block;

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host_with(warpconv::HostOptions::default()).unwrap());

fn tensor<T: Element>(shape: Shape, values: &[f32], format: MemoryFormat) -> Tensor<T> {
    let values: Vec<T> = values.iter().map(|&v| T::from_f32(v)).collect();
    Tensor::from_slice(&DEVICE, shape, &values).unwrap().to_format(format).unwrap()
}

fn floats<T: Element>(tensor: &Tensor<T>) -> Vec<f32> {
    tensor.to_vec().unwrap().into_iter().map(Element::to_f32).collect()
}

/// A deformable convolution without bias, and all that it is applied to.
struct Deform {
    spec: DeformConv2dSpec,
    x: (Shape, Vec<f32>),
    weight: (Shape, Vec<f32>),
    offset: Vec<f32>,
    mask: Option<Vec<f32>>,
}

impl Deform {
    fn layer(&self) -> DeformConv2d {
        DeformConv2d::new(self.spec, Parameter::new(&self.weight.0, &self.weight.1).unwrap()).unwrap()
    }

    fn run<T: Element>(&self, format: MemoryFormat) -> Vec<f32> {
        let (layer, x) = (self.layer(), tensor::<T>(self.x.0, &self.x.1, format));
        let geometry = layer.geometry(self.x.0).unwrap();
        let offset = tensor::<T>(geometry.offset, &self.offset, format);
        let mask = self.mask.as_ref().map(|mask| tensor::<T>(geometry.mask, mask, format));
        let mut inputs = Inputs::new(&x).offset(&offset);
        if let Some(mask) = &mask {
            inputs = inputs.mask(mask);
        }
        let request = PlanRequest::new(self.x.0).format(format);
        let plan = layer.plan::<T>(&DEVICE, &request).unwrap();
        assert_eq!(plan.workspace_bytes(), 0);
        let mut results = Vec::new();
        for choice in plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok()) {
            let plan = layer.plan::<T>(&DEVICE, &request.clone().kernel(choice.kernel)).unwrap();
            let mut y = Tensor::<T>::zeros(&DEVICE, plan.output_shape(), format).unwrap();
            plan.run(&inputs, &mut y, Workspace::none(), &Stream::default_of(&DEVICE)).unwrap();
            results.push((choice.kernel, floats(&y)));
        }
        let (first, y) = results[0].clone();
        for (kernel, other) in &results {
            assert_eq!(&y, other, "{first} and {kernel}");
        }
        y
    }
}

fn convolve<T: Element>(spec: Conv2dSpec, x: &(Shape, Vec<f32>), weight: &(Shape, Vec<f32>), format: MemoryFormat) -> Vec<f32> {
    let layer = Conv2d::new(spec, Parameter::new(&weight.0, &weight.1).unwrap()).unwrap();
    floats(&layer.forward(&Inputs::new(&tensor::<T>(x.0, &x.1, format))).unwrap())
}

/// In every dtype and format, by every kernel, bit for bit.
fn same_as_conv2d(deform: &Deform, spec: Conv2dSpec) {
    same(deform, spec, &deform.x, &deform.weight);
}

fn same(deform: &Deform, spec: Conv2dSpec, x: &(Shape, Vec<f32>), weight: &(Shape, Vec<f32>)) {
    for format in MemoryFormat::ALL {
        assert_eq!(deform.run::<f32>(format), convolve::<f32>(spec, x, weight, format), "f32 {format}");
        assert_eq!(deform.run::<f16>(format), convolve::<f16>(spec, x, weight, format), "f16 {format}");
        assert_eq!(deform.run::<bf16>(format), convolve::<bf16>(spec, x, weight, format), "bf16 {format}");
    }
}

/// Channels (in and out, of all groups), groups, offset groups: by 16-byte vectors, by elements, by the direct kernel alone.
const CHANNELS: [(usize, usize, usize, usize); 5] = [(16, 24, 1, 2), (32, 16, 2, 1), (3, 5, 1, 1), (12, 8, 2, 3), (6, 6, 6, 2)];

/// With sums that are exact in f32, and the given offset (dy, dx) for each tap (i, j).
fn exact(
    spec: Conv2dSpec,
    (c_in, c_out, groups, offset_groups): (usize, usize, usize, usize),
    moved: impl Fn(usize, usize) -> [f32; 2],
) -> Deform {
    let spec = DeformConv2dSpec { groups, offset_groups, ..spec.into() };
    let (x, weight) = ([2, c_in, 7, 9], [c_out, c_in / groups, 3, 3]);
    let layer = DeformConv2d::new(spec, parameter(&weight, 2)).unwrap();
    let [n, channels, h, w] = layer.geometry(x).unwrap().offset;
    let value = |index: usize| {
        let pair = index / (h * w) % channels;
        moved(pair / 2 % 9 / 3, pair / 2 % 3)[pair % 2]
    };
    Deform {
        spec,
        x: (x, grid(x.iter().product(), 1)),
        weight: (weight, layer.weight().values().to_vec()),
        offset: (0..n * channels * h * w).map(value).collect(),
        mask: None,
    }
}

#[rstest]
fn without_offsets_it_is_a_convolution(#[values(0, 1, 2, 3, 4)] channels: usize) {
    let spec = Conv2dSpec { stride: [1, 2], padding: Padding::Explicit([2, 1, 0, 3]), dilation: [2, 1], ..Default::default() };
    let mut deform = exact(spec, CHANNELS[channels], |_, _| [0.0, 0.0]);
    let plain = Conv2dSpec { groups: CHANNELS[channels].2, ..spec };
    same_as_conv2d(&deform, plain);
    deform.mask = Some(vec![1.0; deform.offset.len() / 2]);
    same_as_conv2d(&deform, plain);
}

#[rstest]
fn whole_offsets_shift_the_convolution(#[values(0, 1, 2, 3, 4)] channels: usize) {
    let spec = Conv2dSpec { padding: Padding::all(2), groups: CHANNELS[channels].2, ..Default::default() };
    let deform = exact(spec, CHANNELS[channels], |_, _| [1.0, -2.0]);
    same_as_conv2d(&deform, Conv2dSpec { padding: Padding::Explicit([1, 4, 3, 0]), ..spec });
}

#[rstest]
fn dilation_is_constant_offsets(#[values(0, 1, 2, 3, 4)] channels: usize) {
    let spec = Conv2dSpec { padding: Padding::all(1), groups: CHANNELS[channels].2, ..Default::default() };
    let deform = exact(spec, CHANNELS[channels], |i, j| [i as f32 - 1.0, 2.0 * (j as f32 - 1.0)]);
    same_as_conv2d(&deform, Conv2dSpec { padding: Padding::Explicit([2, 3, 2, 3]), dilation: [2, 3], ..spec });
}

/// All samples side by side in an image k times as large, and a convolution of it with stride k.
#[rstest]
fn it_is_a_strided_convolution_of_its_samples(#[values(0, 1, 2, 3, 4)] channels: usize) {
    let spec = Conv2dSpec { padding: Padding::all(1), groups: CHANNELS[channels].2, ..Default::default() };
    let mut deform = exact(spec, CHANNELS[channels], |_, _| [0.0, 0.0]);
    // half pixels between values of five bits: samples that bf16 holds
    deform.x.1 = fractions(deform.x.1.len(), 16, 3);
    deform.offset = fractions(deform.offset.len(), 6, 4).into_iter().map(|v| (v * 6.0).round() / 2.0).collect();
    let geometry = deform.layer().geometry(deform.x.0).unwrap();
    let array = |shape: Shape, values: &[f32]| Array::from_slice(shape, values).unwrap();
    let (x, offset) = (array(deform.x.0, &deform.x.1), array(geometry.offset, &deform.offset));
    let samples = deform_samples(&deform.spec, &Deformed { x: &x, offset: &offset, mask: None }, [3, 3]).unwrap();
    let image = (samples.shape().try_into().unwrap(), samples.data().iter().map(|&v| v as f32).collect());
    let strided = Conv2dSpec { stride: [3, 3], padding: Padding::default(), ..spec };
    same(&deform, strided, &image, &deform.weight);
}

#[test]
fn a_mask_of_ones_is_v1_and_of_zeros_nothing() {
    for (index, &channels) in CHANNELS.iter().enumerate() {
        let mut v1 = exact(Conv2dSpec { padding: Padding::all(1), ..Default::default() }, channels, |_, _| [0.0; 2]);
        let random = |len, seed| Tensor::<f32>::rand(&DEVICE, [1, 1, 1, len], MemoryFormat::Contiguous, seed).unwrap().to_vec().unwrap();
        (v1.offset, v1.x.1) = (random(v1.offset.len(), 7), random(v1.x.1.len(), 8));
        let with = |mask: f32| Deform {
            mask: Some(vec![mask; v1.offset.len() / 2]),
            x: v1.x.clone(),
            weight: v1.weight.clone(),
            offset: v1.offset.clone(),
            spec: v1.spec,
        };
        // kernels sum in different orders: each is compared with itself, through the chosen one
        let run = |deform: &Deform, format| {
            let geometry = deform.layer().geometry(deform.x.0).unwrap();
            let (x, offset) = (tensor::<f16>(deform.x.0, &deform.x.1, format), tensor::<f16>(geometry.offset, &deform.offset, format));
            let mask = deform.mask.as_ref().map(|mask| tensor::<f16>(geometry.mask, mask, format));
            let inputs = Inputs::new(&x).offset(&offset);
            floats(&deform.layer().forward(&mask.as_ref().map_or(inputs, |mask| inputs.mask(mask))).unwrap())
        };
        for format in MemoryFormat::ALL {
            assert_eq!(run(&v1, format), run(&with(1.0), format), "{index} {format}");
            assert!(run(&with(0.0), format).iter().all(|&y| y == 0.0));
        }
    }
}

#[rstest]
fn awkward_problems(#[values(0, 1, 2, 3)] seed: u64) {
    let kinds = kinds_of("deform_conv2d");
    let device = Device::host_with(HostOptions { seed, ..Default::default() }).unwrap();
    let ran: BTreeSet<_> = (0..2 * kinds.len() as u64).flat_map(|index| check(&Problem::of_kinds(&kinds, seed, index), &device)).collect();
    assert_eq!(ran.len(), 21, "{ran:?}");
}

#[rstest]
fn the_checker_finds_nothing(#[values(1, 2, 3)] seed: u64) {
    let kinds = kinds_of("deform_conv2d");
    let device = checked(seed);
    for index in 0..kinds.len() as u64 {
        check(&Problem::of_kinds(&kinds, 100 + seed, index), &device);
    }
}

/// Positions that no pixel is near: the result is that of zeros, and nothing outside the tensors is read.
#[rstest]
fn positions_far_outside_read_nothing(#[values(0, 1, 2, 3, 4)] channels: usize) {
    let device = checked(0);
    let spec = Conv2dSpec { padding: Padding::all(1), ..Default::default() };
    for far in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, 65504.0, -2147483904.0, 1e10] {
        let deform = exact(spec, CHANNELS[channels], |_, _| [far, 0.0]);
        let bias = Parameter::vector(&vec![0.5f32; deform.weight.0[0]]);
        let layer = deform.layer().with_bias(bias).unwrap();
        let geometry = layer.geometry(deform.x.0).unwrap();
        for format in MemoryFormat::ALL {
            let x = Tensor::from_slice(&device, deform.x.0, &deform.x.1).unwrap().to_format(format).unwrap().cast::<f16>().unwrap();
            let offset = Tensor::from_slice(&device, geometry.offset, &deform.offset).unwrap();
            let y = layer.forward(&Inputs::new(&x).offset(OffsetOrMask::F32(offset.view()))).unwrap();
            assert!(floats(&y).iter().all(|&y| y == 0.5), "{far}");
        }
    }
}

#[test]
fn offsets_in_f32_keep_their_precision_beside_16_bits() {
    let mut deform = exact(Conv2dSpec { padding: Padding::all(1), ..Default::default() }, CHANNELS[0], |_, _| [0.0; 2]);
    deform.offset = Tensor::<f32>::rand(&DEVICE, [1, 1, 1, deform.offset.len()], MemoryFormat::Contiguous, 3).unwrap().to_vec().unwrap();
    let (layer, mask) = (deform.layer(), vec![1.0 / 3.0; deform.offset.len() / 2]);
    let geometry = layer.geometry(deform.x.0).unwrap();
    let array = |shape: &[usize], values: &[f32]| Array::from_slice(shape, values).unwrap();
    let (x, weight) = (array(&deform.x.0, &deform.x.1), array(&deform.weight.0, &deform.weight.1));
    let (offset, mask_array) = (array(&geometry.offset, &deform.offset), array(&geometry.mask, &mask));
    let input = Deformed { x: &x, offset: &offset, mask: Some(&mask_array) };
    let expected = deform_conv2d(&deform.spec, &input, &weight, None, None, None).unwrap();
    let scale = deform_conv2d_scale(&deform.spec, &input, &weight, None, None).unwrap();
    for (x_format, field_format) in MemoryFormat::ALL.into_iter().flat_map(|x| MemoryFormat::ALL.map(|y| (x, y))) {
        let x = tensor::<bf16>(deform.x.0, &deform.x.1, x_format);
        let offset = tensor::<f32>(geometry.offset, &deform.offset, field_format);
        let mask = tensor::<f32>(geometry.mask, &mask, field_format);
        let inputs = Inputs::new(&x).offset(OffsetOrMask::F32(offset.view())).mask(OffsetOrMask::F32(mask.view()));
        let y = floats(&layer.forward(&inputs).unwrap());
        let contract = Contract::new(DType::Bf16, geometry.conv.products()).rounded(1);
        let report = contract.check(&y, expected.data(), scale.data()).unwrap();
        assert!(report.passed(), "{report:?}");
    }
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    for &channels in &CHANNELS {
        let mut deform = exact(Conv2dSpec { padding: Padding::all(1), ..Default::default() }, channels, |_, _| [0.0; 2]);
        deform.offset = fractions(deform.offset.len(), 32, 5);
        for format in MemoryFormat::ALL {
            let layer = deform.layer();
            let geometry = layer.geometry(deform.x.0).unwrap();
            let run = |first: usize, n: usize| {
                let part = |shape: Shape, values: &[f32]| {
                    let image = values.len() / shape[0];
                    tensor::<f16>([n, shape[1], shape[2], shape[3]], &values[first * image..(first + n) * image], format)
                };
                let (x, offset) = (part(deform.x.0, &deform.x.1), part(geometry.offset, &deform.offset));
                floats(&layer.forward(&Inputs::new(&x).offset(&offset)).unwrap())
            };
            assert_eq!(run(0, 2), [run(0, 1), run(1, 1)].concat(), "{channels:?} {format}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let deform = exact(Conv2dSpec::default(), (4, 4, 1, 2), |_, _| [0.0; 2]);
    let layer = deform.layer();
    let geometry = layer.geometry(deform.x.0).unwrap();
    let zeros = |shape| Tensor::<f32>::zeros(&DEVICE, shape, MemoryFormat::Contiguous).unwrap();
    let (x, offset, mask) = (zeros(deform.x.0), zeros(geometry.offset), zeros(geometry.mask));
    let run = |inputs: &Inputs<'_, f32>| layer.forward(inputs).map(|_| ());
    run(&Inputs::new(&x).offset(&offset).mask(&mask)).unwrap();
    assert!(matches!(run(&Inputs::new(&x)), Err(Error::MissingTensor { .. })));
    assert!(matches!(run(&Inputs::new(&x).offset(&mask)), Err(Error::Shape { name: "offset", .. })));
    assert!(matches!(run(&Inputs::new(&x).offset(&offset).mask(&offset)), Err(Error::Shape { name: "mask", .. })));
    let elsewhere = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let far = Tensor::<f32>::zeros(&elsewhere, geometry.offset, MemoryFormat::Contiguous).unwrap();
    assert!(matches!(run(&Inputs::new(&x).offset(&far)), Err(Error::WrongDevice { name: "offset", .. })));
    // a plain convolution has no offsets
    let plain = Conv2d::new(Conv2dSpec::default(), layer.weight().clone()).unwrap();
    assert!(matches!(plain.forward(&Inputs::new(&x).offset(&offset)), Err(Error::UnexpectedTensor { .. })));

    let new = |spec: DeformConv2dSpec| DeformConv2d::new(spec, layer.weight().clone()).map(|_| ());
    let of = |offset_groups| DeformConv2dSpec { offset_groups, ..Default::default() };
    assert!(matches!(new(of(0)), Err(Error::Attribute { name: "offset_groups", .. })));
    assert!(matches!(new(of(3)), Err(Error::Divisibility { divisor_name: "offset_groups", .. })));
    assert!(matches!(new(DeformConv2dSpec { groups: 3, ..of(1) }), Err(Error::Divisibility { name: "C_out", .. })));
    let prelu = DeformConv2d::new(DeformConv2dSpec { activation: Activation::Prelu, ..of(1) }, layer.weight().clone()).unwrap();
    assert!(matches!(prelu.plan::<f32>(&DEVICE, &deform.x.0.into()), Err(Error::MissingTensor { op: "deform_conv2d", .. })));
    let unknown = LayerSpec::from_json(r#"{"op": "deform_conv2d", "attrs": {"offset_group": 2}}"#).unwrap_err();
    assert!(unknown.to_string().contains("offset_group"), "{unknown}");
}

#[rstest]
#[case::resnet50_c4(256, 256, 14, 1, MemoryFormat::ChannelsLast, "deform_conv_f16_vectors_")]
#[case::resnet50_c3(128, 128, 28, 4, MemoryFormat::ChannelsLast, "deform_conv_f16_vectors_")]
#[case::contiguous(256, 256, 14, 1, MemoryFormat::Contiguous, "deform_conv_f16_pixels_")]
#[case::odd_channels(60, 60, 28, 4, MemoryFormat::ChannelsLast, "deform_conv_f16_channels_")]
fn real_layers_take_tensor_cores(
    #[case] c_in: usize,
    #[case] c_out: usize,
    #[case] image: usize,
    #[case] offset_groups: usize,
    #[case] format: MemoryFormat,
    #[case] name: &str,
) {
    let spec = DeformConv2dSpec { padding: Padding::all(1), offset_groups, ..Default::default() };
    let layer = DeformConv2d::new(spec, Parameter::new(&[c_out, c_in, 3, 3], &vec![0f32; c_out * c_in * 9]).unwrap()).unwrap();
    let plan = layer.plan::<f16>(&DEVICE, &PlanRequest::new([8, c_in, image, image]).format(format)).unwrap();
    assert!(plan.explain().kernel.starts_with(name), "{}", plan.explain());
}

prop_compose! {
    /// A valid deformable convolution with at most a few hundred thousand products.
    fn problems()(
        n in 1usize..3, groups in 1usize..4, offset_groups in 1usize..5, unit in 1usize..9, group_out in 1usize..9,
        kernel in [1usize..5, 1usize..5], stride in [1usize..4, 1usize..4], dilation in [1usize..4, 1usize..4],
        padding in [0usize..5, 0usize..5, 0usize..5, 0usize..5], extra in [0usize..8, 0usize..8],
        activation in prop::sample::select(Activation::all(0.25).to_vec()), [bias, mask, residual]: [bool; 3], seed: u64,
    ) -> Problem {
        // an input that is as large as the kernel needs, or larger
        let size = |i: usize| {
            let span = dilation[i] * (kernel[i] - 1) + 1;
            span.saturating_sub(padding[i] + padding[i + 2]).max(1) + extra[i]
        };
        let spec = Conv2dSpec { stride, padding: Padding::Explicit(padding), dilation, groups, activation };
        let c_in = groups * offset_groups * unit;
        let (x, weight) = ([n, c_in, size(0), size(1)], [groups * group_out, c_in / groups, kernel[0], kernel[1]]);
        let plain = Problem::conv2d(spec, x, weight).with("bias", bias.then_some(&weight[..1])).with_residual(residual);
        Problem { values: warpconv::cases::Values::FullMantissa, seed, ..plain.deformable(offset_groups, mask) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_agrees_with_the_oracle(problem in problems()) {
        check(&problem, &DEVICE);
    }
}

#[test]
fn the_calculators_count_samples_apart() {
    let spec = DeformConv2dSpec { padding: Padding::all(1), offset_groups: 2, ..Default::default() };
    let of = |mask: bool| {
        let operands = Operands::new(DType::F16).mask(mask);
        analyse(&LayerSpec::DeformConv2d(spec), &[("weight", vec![8, 4, 3, 3])], &[1, 4, 5, 6].into(), operands).unwrap()
    };
    let (v1, v2) = (of(false), of(true));
    let positions = 30 * 9 * 2;
    assert_eq!((v1.operations.macs, v1.operations.sampling_flops), (30 * 8 * 36, positions * 10 + positions * 2 * 7));
    assert_eq!(v1.operations.flops, 2 * v1.operations.macs + v1.operations.sampling_flops);
    assert_eq!(v2.operations.sampling_flops, v1.operations.sampling_flops + positions * 2);
    assert_eq!((v1.bytes.coordinates, v2.bytes.coordinates), (2 * 2 * positions, 2 * 3 * positions));
    assert_eq!(v1.bytes.read, 2 * (120 + 288) + v1.bytes.coordinates);
}

/// Whatever the gather: the samples of a pixel, tap and offset group are looked up once for all channels, and offsets of whole
/// pixels load no more than a convolution does.
#[test]
fn each_offset_is_read_once() {
    let device = checked(0);
    let spec = DeformConv2dSpec { padding: Padding::all(1), ..Default::default() };
    let layer = DeformConv2d::new(spec, parameter(&[64, 32, 3, 3], 1)).unwrap();
    let mut kernels = 0;
    for format in MemoryFormat::ALL {
        let request = PlanRequest::new([1, 32, 8, 8]).format(format);
        let zeros = |shape| Tensor::<f16>::zeros(&device, shape, format).unwrap();
        let geometry = layer.geometry([1, 32, 8, 8]).unwrap();
        let (x, offset, mask, mut y) = (zeros([1, 32, 8, 8]), zeros(geometry.offset), zeros(geometry.mask), zeros([1, 64, 8, 8]));
        let plan = layer.plan::<f16>(&device, &request).unwrap();
        for choice in plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok() && !choice.kernel.contains("direct")) {
            let plan = layer.plan::<f16>(&device, &request.clone().kernel(choice.kernel)).unwrap();
            plan.run(&Inputs::new(&x).offset(&offset).mask(&mask), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
            let counters = device.last_launch_counters().unwrap();
            let read = |name: &str| counters.operands.iter().find(|operand| operand.name == name).unwrap();
            assert_eq!(read("offset").bytes_read, read("offset").bytes, "{counters:#?}");
            assert_eq!(read("mask").bytes_read, read("mask").bytes, "{counters:#?}");
            let taps_inside = (3 * 8 - 2) * (3 * 8 - 2);
            assert_eq!(read("x").bytes_read, taps_inside * 32 * 2, "{counters:#?}");
            kernels += 1;
        }
    }
    assert_eq!(kernels, 6);
}
