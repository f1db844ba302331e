//! What users are told, word for word: what was given, what is allowed, and where it helps what to do. A message that changes is
//! read anew here.
#![cfg(feature = "host")]

use std::collections::BTreeMap;
use warpconv::reference::Array;
use warpconv::{
    AnyLayer, Conv2d, Conv2dSpec, ConvTranspose2d, ConvTranspose2dSpec, Device, Inputs, Layer, LayerSpec, Padding, Parameter, PixelShuffle,
    PixelShuffleSpec, PlanRequest, RoIs, Tensor,
};

use crate::common::parameter;

const PAIR: &str = "[height, width] or one number for both, none negative";
const PADDING: &str = "zeros on each side: a number, [height, width], [top, left, bottom, right], none negative, or \"same\"";
const WHOLE: &str = "a whole number, 0 or larger";

fn conv2d(attrs: &str) -> String {
    format!(r#"{{"op": "conv2d", "attrs": {attrs}}}"#)
}

fn shuffle(attrs: &str) -> String {
    format!(r#"{{"op": "pixel_shuffle", "attrs": {attrs}}}"#)
}

/// Reads each layer, and compares the text of its error with the expected one.
#[track_caller]
fn refused(cases: Vec<(String, String)>) {
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(text, expected)| {
            let got = LayerSpec::from_json(&text).map_or_else(|error| error.to_string(), |spec| format!("accepted: {spec:?}"));
            (got != format!("layer: {expected}")).then(|| format!("{text}\n  expected layer: {expected}\n  got      {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} messages are others:\n{}", wrong.len(), wrong.join("\n"));
}

/// Names of ONNX, of PyTorch and mistyped ones.
#[test]
fn of_names_in_a_layers_json() {
    const CONV2D: &str = "expected one of `stride`, `padding`, `dilation`, `groups`, `activation`, `alpha`";
    let unknown = |name: &str, hint: &str| format!("conv2d: unknown field `{name}`, {CONV2D}{hint}");
    let ops = LayerSpec::OPS.join("`, `");
    let op = |name: &str, hint: &str| format!("unknown variant `{name}`, expected one of `{ops}`{hint}");
    refused(vec![
        (conv2d(r#"{"strides": 2}"#), unknown("strides", "; did you mean `stride`?")),
        (conv2d(r#"{"pads": [1, 1, 1, 1]}"#), unknown("pads", "; did you mean `padding`?")),
        (conv2d(r#"{"pading": 1}"#), unknown("pading", "; did you mean `padding`?")),
        (conv2d(r#"{"dilations": [1, 1]}"#), unknown("dilations", "; did you mean `dilation`?")),
        (conv2d(r#"{"group": 2}"#), unknown("group", "; did you mean `groups`?")),
        (conv2d(r#"{"negative_slope": 0.1}"#), unknown("negative_slope", "; did you mean `alpha`?")),
        (conv2d(r#"{"kernel_size": 3}"#), unknown("kernel_size", "; the size of the kernel is that of the weight")),
        (conv2d(r#"{"kernel_shape": [3, 3]}"#), unknown("kernel_shape", "; the size of the kernel is that of the weight")),
        (conv2d(r#"{"in_channels": 3}"#), unknown("in_channels", "; the numbers of channels are those of the weight")),
        (conv2d(r#"{"bias": true}"#), unknown("bias", "; tensors are no attributes: they are given apart, by name")),
        (
            conv2d(r#"{"auto_pad": "SAME_UPPER"}"#),
            unknown("auto_pad", "; `padding` is of zeros: a number, [height, width], [top, left, bottom, right] or \"same\""),
        ),
        (conv2d(r#"{"quantisation": 1}"#), unknown("quantisation", "")),
        (shuffle(r#"{"upscale_factor": 2}"#), "pixel_shuffle: unknown field `upscale_factor`, expected `r` or `mode`; did you mean `r`?".into()),
        (shuffle(r#"{"blocksize": 2}"#), "pixel_shuffle: unknown field `blocksize`, expected `r` or `mode`; did you mean `r`?".into()),
        (
            shuffle(r#"{"r": 2, "mode": "DCR"}"#),
            "mode of pixel_shuffle: unknown variant `DCR`, expected one of `crd`, `dcr`, `focus`; did you mean `dcr`?".into(),
        ),
        (
            r#"{"op": "sub_pixel_conv", "attrs": {"pads": 1, "r": 2}}"#.into(),
            "sub_pixel_conv: unknown field `pads`; did you mean `padding`?".into(),
        ),
        (
            r#"{"op": "upsample_bilinear", "attrs": {"scale_factor": 2}}"#.into(),
            "upsample_bilinear: unknown field `scale_factor`, expected one of `output_size`, `scale`, `align_corners`; did you mean `scale`?".into(),
        ),
        (
            r#"{"op": "roi_pool", "attrs": {"pooled_shape": 2}}"#.into(),
            "roi_pool: unknown field `pooled_shape`, expected `output_size` or `spatial_scale`; did you mean `output_size`?".into(),
        ),
        (
            r#"{"op": "deform_conv2d", "attrs": {"deformable_groups": 2}}"#.into(),
            "deform_conv2d: unknown field `deformable_groups`, expected one of `stride`, `padding`, `dilation`, `groups`, `offset_groups`, `activation`, `alpha`; did you mean `offset_groups`?".into(),
        ),
        (r#"{"op": "Conv"}"#.into(), op("Conv", "; did you mean `conv2d`?")),
        (r#"{"op": "torch.nn.ConvTranspose2d"}"#.into(), op("torch.nn.ConvTranspose2d", "; did you mean `conv_transpose2d`?")),
        (r#"{"op": "DepthToSpace"}"#.into(), op("DepthToSpace", "; did you mean `pixel_shuffle`?")),
        (r#"{"op": "PixelUnshuffle"}"#.into(), op("PixelUnshuffle", "; did you mean `pixel_unshuffle`?")),
        (r#"{"op": "RoiAlign"}"#.into(), op("RoiAlign", "; did you mean `roi_align`?")),
        (r#"{"op": "conv3d"}"#.into(), op("conv3d", "; did you mean `conv2d`?")),
        (r#"{"op": "winograd"}"#.into(), op("winograd", "")),
        (
            conv2d(r#"{"activation": "ReLU"}"#),
            "activation of conv2d: unknown variant `ReLU`, expected one of `none`, `relu`, `relu6`, `leaky_relu`, `prelu`, `sigmoid`, `tanh`, `silu`, `gelu`, `hardswish`; did you mean `relu`?".into(),
        ),
        (
            conv2d(r#"{"activation": "swish"}"#),
            "activation of conv2d: unknown variant `swish`, expected one of `none`, `relu`, `relu6`, `leaky_relu`, `prelu`, `sigmoid`, `tanh`, `silu`, `gelu`, `hardswish`; did you mean `silu`?".into(),
        ),
    ]);
}

#[test]
fn of_values_in_a_layers_json() {
    refused(vec![
        (conv2d(r#"{"padding": [1, -1, 1, 1]}"#), format!("padding of conv2d: invalid value: integer `-1`, expected {WHOLE}")),
        (conv2d(r#"{"padding": -1}"#), format!("padding of conv2d: invalid type: integer `-1`, expected {PADDING}")),
        (conv2d(r#"{"padding": [1, 2, 3]}"#), format!("padding of conv2d: invalid length 3, expected {PADDING}")),
        (conv2d(r#"{"padding": "valid"}"#), format!("padding of conv2d: invalid value: string \"valid\", expected {PADDING}")),
        (conv2d(r#"{"stride": [2, -2]}"#), format!("stride of conv2d: invalid value: integer `-2`, expected {WHOLE}")),
        (conv2d(r#"{"stride": "two"}"#), format!("stride of conv2d: invalid type: string \"two\", expected {PAIR}")),
        (conv2d(r#"{"dilation": [1, 1, 1]}"#), format!("dilation of conv2d: invalid length 3, expected {PAIR}")),
        (conv2d(r#"{"groups": -1}"#), format!("groups of conv2d: invalid value: integer `-1`, expected {WHOLE}")),
        (conv2d(r#"{"groups": 1.5}"#), format!("groups of conv2d: invalid type: floating point `1.5`, expected {WHOLE}")),
        (conv2d(r#"{"groups": null}"#), format!("groups of conv2d: invalid type: null, expected {WHOLE}")),
        (conv2d(r#"{"alpha": 0.1}"#), "conv2d: alpha belongs to leaky_relu, but the activation is none".into()),
        (conv2d(r#"{"stride": 1, "stride": 2}"#), "duplicate field `stride` at line 1 column 52".into()),
        (shuffle(r#"{"r": "two"}"#), format!("r of pixel_shuffle: invalid type: string \"two\", expected {WHOLE}")),
        (shuffle("{}"), "pixel_shuffle: missing field `r`".into()),
        (r#"{"op": "pixel_shuffle"}"#.into(), "pixel_shuffle: missing field `r`".into()),
        (
            r#"{"op": "conv_transpose2d", "attrs": {"padding": "same"}}"#.into(),
            "conv_transpose2d: padding \"same\" is not defined for a transposed convolution".into(),
        ),
        (r#"{"op": "upsample_bilinear"}"#.into(), "upsample_bilinear: exactly one of output_size and scale must be given".into()),
    ]);
}

#[test]
fn of_what_is_no_layer() {
    refused(vec![
        (String::new(), "it is empty, where JSON is expected".into()),
        ("\u{feff} \n".into(), "it is empty, where JSON is expected".into()),
        ("{".into(), "EOF while parsing an object at line 1 column 1".into()),
        ("3".into(), "invalid type: integer `3`, expected a layer, {\"op\": ..., \"attrs\": {...}} at line 1 column 1".into()),
        (r#"{"attrs": {}}"#.into(), "missing field `op` at line 1 column 13".into()),
        (
            r#"{"op": "conv2d", "attrs": 7}"#.into(),
            "invalid type: integer `7`, expected attributes, {\"name\": value, ...} at line 1 column 27".into(),
        ),
        (
            r#"{"op": "conv2d", "attributes": {}}"#.into(),
            "unknown field `attributes`, expected `op` or `attrs` at line 1 column 29; did you mean `attrs`?".into(),
        ),
    ]);
}

#[test]
fn attributes_and_a_byte_order_mark_may_be_left_out_or_there() {
    let plain = LayerSpec::Conv2d(Conv2dSpec::default());
    for text in [r#"{"op": "conv2d"}"#, r#"{"op": "conv2d", "attrs": {}}"#, "\u{feff}{\"op\": \"conv2d\"}"] {
        assert_eq!(LayerSpec::from_json(text).unwrap(), plain);
    }
    assert_eq!(serde_json::from_str::<LayerSpec>(r#"{"op": "conv2d"}"#).unwrap(), plain);
}

/// Asks for an error, and compares its text.
#[track_caller]
fn says<T: std::fmt::Debug>(result: warpconv::Result<T>, expected: &str) {
    assert_eq!(result.unwrap_err().to_string(), expected);
}

/// A convolution of one channel to two, 3 x 3.
fn dense() -> Conv2d {
    Conv2d::new(Conv2dSpec::default(), parameter(&[2, 1, 3, 3], 0)).unwrap()
}

#[test]
fn of_regions() {
    let device = Device::host().unwrap();
    let rois = |shape: &[usize]| {
        let layer = LayerSpec::from_json(r#"{"op": "roi_align", "attrs": {"output_size": 1}}"#).unwrap();
        warpconv::cases::Problem::new(layer, &[("x", &[1, 1, 2, 2]), ("rois", shape)]).check()
    };
    let meaning = "[K, 5]: batch index, x1, y1, x2, y2";
    says(
        rois(&[7, 4]),
        &format!("rois has shape [7, 4], but must have shape {meaning} (boxes [K, 4] of one image need a column of zeros in front)"),
    );
    says(rois(&[7, 6]), &format!("rois has shape [7, 6], but must have shape {meaning}"));
    says(rois(&[5]), &format!("rois has shape [5] (rank 1), but must have rank 2: {meaning}"));
    says(
        RoIs::from_slice(&device, 2, &[[2.0, 0.0, 0.0, 1.0, 1.0]]),
        "a RoI's batch index is 2 (RoI 0, batch of 2), but must be the index of an image of the batch",
    );
}

#[test]
fn of_groups_and_channels() {
    let grouped = |groups, weight: &[usize]| Conv2d::new(Conv2dSpec { groups, ..Default::default() }, parameter(weight, 0));
    says(
        grouped(4, &[6, 2, 3, 3]),
        "C_out is 6, which is not divisible by groups = 4; the weight [6, 2, 3, 3] with groups = 4 is for C_in = 8 and C_out = 6",
    );
    let transposed = ConvTranspose2d::new(ConvTranspose2dSpec { groups: 4, ..Default::default() }, parameter(&[6, 2, 3, 3], 0));
    says(
        transposed,
        "C_in is 6, which is not divisible by groups = 4; the weight [6, 2, 3, 3] with groups = 4 is for C_in = 6 and C_out = 8",
    );
    says(
        grouped(3, &[6, 2, 1, 1]).unwrap().output_shape(&[1, 4, 8, 8].into()),
        "x has shape [1, 4, 8, 8], but must have C_in = 6 channels, 2 in each of 3 groups, as the weight [6, 2, 1, 1] has",
    );
    let dense = dense();
    says(
        dense.output_shape(&[1, 3, 8, 8].into()),
        "x has shape [1, 3, 8, 8], but must have C_in = 1 channels, as the weight [2, 1, 3, 3] has",
    );
    says(
        dense.output_shape(&[1, 1, 2, 8].into()),
        "the output height is not positive: a kernel of 3 with dilation 1 spans 3 and does not fit an input height of 2 with padding 0 + 0",
    );
    says(
        PixelShuffle::new(PixelShuffleSpec { factor: 2, order: Default::default() }).unwrap().output_shape(&[1, 6, 2, 2].into()),
        "the number of channels is 6, which is not divisible by r * r = 4",
    );
}

/// Each by its own name: the size that is too large.
#[test]
fn of_sizes() {
    let device = Device::host().unwrap();
    let plan = |spec: Conv2dSpec, x| Conv2d::new(spec, parameter(&[1, 1, 1, 1], 0)).unwrap().plan::<f32>(&device, &PlanRequest::new(x));
    says(plan(Conv2dSpec::default(), [1, 1, 1, 3_000_000_000]), "the input width is 3000000000, above the limit of 2147418112");
    let far = Conv2dSpec { padding: Padding::all(1_000_000_000), stride: [100_000_000; 2], ..Default::default() };
    says(
        plan(far, [1, 1, 1, 1]),
        "(output size - 1) * stride + dilation * (kernel - 1) + padding, the farthest position that kernels compute, is 3000000000, above the limit of 2147418112",
    );
}

#[test]
fn of_kernels() {
    let device = Device::host().unwrap();
    let dense = dense();
    let named = |name: &str| dense.plan::<f32>(&device, &PlanRequest::new([1, 1, 8, 8]).kernel(name)).unwrap_err().to_string();
    let all = dense.plan::<f32>(&device, &PlanRequest::new([1, 1, 8, 8])).unwrap().explain().choices.clone();
    let mut applying: Vec<&str> = all.iter().filter(|choice| choice.verdict.is_ok()).map(|choice| choice.kernel).collect();
    let message = named("conv_direct_f32_contiguos");
    let (text, list) = message.split_once("; those that apply here are ").unwrap();
    assert_eq!(
        text,
        "no kernel of conv2d applies: conv_direct_f32_contiguos is not the name of a kernel (did you mean conv_direct_f32_contiguous?)"
    );
    let mut listed: Vec<&str> = list.split(", ").collect();
    applying.sort_unstable();
    listed.sort_unstable();
    assert!(listed == applying || list.contains(" and "), "{list}");
    let other = named("pixel_shuffle_none");
    assert!(
        other.starts_with("no kernel of conv2d applies: pixel_shuffle_none is not the name of a kernel; those that apply here are conv_"),
        "{other}"
    );
    let other = named("roi_pool_align_f32_planes");
    assert!(other.contains("is not the name of a kernel"), "{other}");
}

#[test]
fn of_parameters_by_name() {
    let any = |text: &str, names: &[(&str, &[usize])]| {
        let named: BTreeMap<String, Parameter> = names.iter().map(|(name, shape)| (name.to_string(), parameter(shape, 0))).collect();
        AnyLayer::new(LayerSpec::from_json(text).unwrap(), named)
    };
    let conv2d = r#"{"op": "conv2d"}"#;
    says(any(conv2d, &[]), "conv2d needs weight, which was not given (there is no tensor at all)");
    says(any(conv2d, &[("bias", &[2])]), "conv2d needs weight, which was not given (there are: bias)");
    says(any(conv2d, &[("weigth", &[2])]), "conv2d has no weigth; it takes weight, bias, slope; did you mean `weight`?");
    says(any(conv2d, &[("conv1.weight", &[2])]), "conv2d has no conv1.weight; it takes weight, bias, slope; did you mean `weight`?");
    says(any(conv2d, &[("gain", &[2])]), "conv2d has no gain; it takes weight, bias, slope");
    says(
        any(r#"{"op": "pixel_shuffle", "attrs": {"r": 2}}"#, &[("weight", &[2])]),
        "pixel_shuffle has no weight; it takes no such tensors",
    );
    says(
        any(conv2d, &[("weight", &[2, 9])]),
        "weight has shape [2, 9] (rank 2), but must have rank 4: [C_out, C_in / groups, kernel height, kernel width]",
    );
    let many: Vec<(String, [usize; 1])> = (0..30).map(|i| (format!("layer{i:02}"), [1])).collect();
    let many: Vec<(&str, &[usize])> = many.iter().map(|(name, shape)| (name.as_str(), &shape[..])).collect();
    says(any(conv2d, &many), "conv2d has no layer00; it takes weight, bias, slope");
}

#[test]
fn of_tensors_and_devices() {
    let device = Device::host().unwrap();
    let dense = dense();
    let x = Tensor::<f32>::from_slice(&device, [1, 1, 3, 3], &[0.0; 9]).unwrap();
    let other = Tensor::<f32>::from_slice(&device, [1, 1, 3, 3], &[0.0; 9]).unwrap();
    says(dense.forward(&Inputs::new(&x).residual(&other)), "residual has shape [1, 1, 3, 3], but must have shape [1, 2, 1, 1]");
    says(dense.forward(&Inputs::new(&x).offset(&other)), "conv2d has no offset; it takes x, residual");
    says(Tensor::<f32>::from_slice(&device, [1, 1, 3, 3], &[0.0; 8]), "tensor: shape [1, 1, 3, 3] has 9 elements, but 8 were given");
    says(Parameter::new(&[2, 2], &[0f32; 3]), "parameter: shape [2, 2] has 4 elements, but 3 were given");
    says(Array::new([2, 2], vec![0.0; 3]), "array: shape [2, 2] has 4 elements, but 3 were given");
    says(Device::parse("gpu"), "device \"gpu\": expected best, host or cuda:N");
}
