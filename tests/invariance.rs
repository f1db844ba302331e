//! `PlanRequest::batch_invariant`: an image's result is the same in every batch and for every view; and what weights that are not
//! finite give.
#![cfg(feature = "host")]

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rstest::rstest;
use std::collections::BTreeMap;
use warpconv::cases::{Frame, Kind, Problem, Values, kinds};
use warpconv::check::every_run;
use warpconv::layers::{AnyLayer, LayerSpec, RoIs};
use warpconv::{
    Conv2d, Conv2dSpec, ConvTranspose2d, ConvTranspose2dSpec, Device, Element, Error, Inputs, Layer, MemoryFormat, Padding, Parameter,
    PlanRequest, Stream, Tensor, TensorView, TensorViewMut, WorkspaceMemory,
};

/// The batch of which every other is a part, and those parts.
const IMAGES: usize = 33;
const BATCHES: [usize; 5] = [1, 2, 3, 8, IMAGES];

/// A layer of every kind: its JSON, the shapes of its parameters, [C, H, W] of x and of its other inputs.
type Sample = (&'static str, &'static [(&'static str, &'static [usize])], [usize; 3], &'static [(&'static str, [usize; 3])]);

/// Shapes at which batches of different sizes got kernels of different orders, and views that are not aligned another.
const SAMPLES: &[Sample] = &[
    (r#"{"op": "conv2d", "attrs": {"padding": 1}}"#, &[("weight", &[64, 128, 3, 3])], [128, 7, 5], &[("residual", [64, 7, 5])]),
    (r#"{"op": "conv2d", "attrs": {"padding": 1}}"#, &[("weight", &[12, 16, 3, 3])], [16, 9, 8], &[]),
    (r#"{"op": "conv2d", "attrs": {}}"#, &[("weight", &[72, 64, 1, 1]), ("bias", &[72])], [64, 4, 6], &[]),
    (r#"{"op": "conv2d", "attrs": {"padding": 1, "groups": 4}}"#, &[("weight", &[32, 8, 3, 3])], [32, 6, 6], &[]),
    (r#"{"op": "conv2d", "attrs": {"padding": 1, "stride": 2, "groups": 16}}"#, &[("weight", &[16, 1, 3, 3])], [16, 9, 9], &[]),
    (r#"{"op": "conv2d", "attrs": {"padding": 3, "groups": 8}}"#, &[("weight", &[8, 1, 7, 7])], [8, 9, 12], &[]),
    (r#"{"op": "conv2d", "attrs": {"padding": 6, "dilation": 6}}"#, &[("weight", &[8, 64, 3, 3])], [64, 7, 7], &[]),
    (r#"{"op": "conv_transpose2d", "attrs": {"stride": 2, "padding": 1}}"#, &[("weight", &[64, 24, 4, 4])], [64, 3, 4], &[]),
    (r#"{"op": "conv_transpose2d", "attrs": {"stride": 2}}"#, &[("weight", &[16, 8, 3, 3])], [16, 4, 3], &[]),
    (r#"{"op": "sub_pixel_conv", "attrs": {"r": 2, "padding": 1}}"#, &[("weight", &[16, 64, 3, 3])], [64, 5, 4], &[]),
    (r#"{"op": "focus", "attrs": {"padding": 1}}"#, &[("weight", &[16, 12, 3, 3])], [3, 8, 8], &[]),
    (r#"{"op": "pixel_shuffle", "attrs": {"r": 2}}"#, &[], [16, 4, 4], &[]),
    (r#"{"op": "pixel_unshuffle", "attrs": {"r": 2}}"#, &[], [4, 8, 8], &[]),
    (r#"{"op": "upsample_bilinear", "attrs": {"scale": 1.7}}"#, &[], [8, 5, 7], &[]),
    (r#"{"op": "max_pool2d", "attrs": {"kernel_size": 3, "stride": 2, "padding": 1}}"#, &[], [8, 5, 7], &[]),
    (r#"{"op": "avg_pool2d", "attrs": {"kernel_size": 3, "stride": 2}}"#, &[], [8, 5, 7], &[]),
    (r#"{"op": "adaptive_avg_pool2d", "attrs": {"output_size": 1}}"#, &[], [16, 9, 9], &[]),
    (
        r#"{"op": "depthwise_separable", "attrs": {"padding": 1, "mid_activation": "relu"}}"#,
        &[("dw_weight", &[64, 1, 3, 3]), ("pw_weight", &[128, 64, 1, 1])],
        [64, 6, 5],
        &[],
    ),
    (
        r#"{"op": "spatially_separable", "attrs": {"padding": 1}}"#,
        &[("col_weight", &[32, 32, 3, 1]), ("row_weight", &[32, 32, 1, 3])],
        [32, 7, 6],
        &[],
    ),
    (
        r#"{"op": "spatially_separable", "attrs": {"padding": 1, "groups": 16}}"#,
        &[("col_weight", &[16, 1, 3, 1]), ("row_weight", &[16, 1, 1, 3])],
        [16, 7, 6],
        &[],
    ),
    (
        r#"{"op": "deform_conv2d", "attrs": {"padding": 1}}"#,
        &[("weight", &[72, 32, 3, 3])],
        [32, 5, 6],
        &[("offset", [18, 5, 6]), ("mask", [9, 5, 6])],
    ),
    (
        r#"{"op": "deform_conv2d_block", "attrs": {"deform": {"padding": 1}, "modulated": true}}"#,
        &[("weight", &[16, 32, 3, 3]), ("offset_weight", &[18, 32, 3, 3]), ("mask_weight", &[9, 32, 3, 3])],
        [32, 5, 4],
        &[],
    ),
    (r#"{"op": "roi_align", "attrs": {"output_size": [3, 3]}}"#, &[], [16, 40, 40], &[]),
    (r#"{"op": "roi_pool", "attrs": {"output_size": [3, 2]}}"#, &[], [16, 12, 12], &[]),
    (r#"{"op": "ps_roi_pool", "attrs": {"output_size": [2, 2]}}"#, &[], [16, 12, 12], &[]),
    (r#"{"op": "deform_roi_pool", "attrs": {"output_size": [2, 2]}}"#, &[], [16, 12, 12], &[("offset", [2, 2, 2]), ("mask", [1, 2, 2])]),
    (r#"{"op": "deform_roi_pool_pack", "attrs": {"output_size": [2, 2]}}"#, &[("offset_fc1_weight", &[8, 64])], [16, 12, 12], &[]),
];

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

fn built(text: &str, shapes: &[(&str, &[usize])]) -> AnyLayer {
    let parameter = |(seed, (name, shape)): (usize, &(&str, &[usize]))| {
        (name.to_string(), Parameter::new(shape, &random(shape.iter().product(), seed as u64)).unwrap())
    };
    AnyLayer::new(LayerSpec::from_json(text).unwrap(), shapes.iter().enumerate().map(parameter).collect()).unwrap()
}

/// How tensors lie.
#[derive(Debug, Clone, Copy, PartialEq)]
enum View {
    Packed,
    /// Some channels of a tensor that has one more before them, so that they are not aligned.
    Slice,
    /// A crop of pictures, with images before and behind it, at odd distances.
    Crop,
    /// Rows with padding behind them, up to a multiple of 16 elements.
    Pitch,
}

const VIEWS: [View; 4] = [View::Packed, View::Slice, View::Crop, View::Pitch];

impl View {
    /// What lies around tensors of this shape.
    fn frame(self, [_, _, _, w]: [usize; 4]) -> Frame {
        match self {
            View::Packed => Frame::default(),
            View::Slice => Frame { channels: [1, 0], ..Default::default() },
            View::Crop => Frame { images: [1, 2], channels: [0, 0], rows: [2, 1], columns: [1, 4] },
            View::Pitch => Frame { columns: [0, (w + 1).next_multiple_of(16) - w], ..Default::default() },
        }
    }
}

/// The first `n` images of `values`, all of [c, h, w], as they lie in a view.
struct Images<T: Element> {
    tensor: Tensor<T>,
    shape: [usize; 4],
    frame: Frame,
}

/// The shape of the tensor around a part.
fn around(shape: [usize; 4], frame: Frame) -> [usize; 4] {
    let axes = [frame.images, frame.channels, frame.rows, frame.columns];
    std::array::from_fn(|axis| shape[axis] + axes[axis][0] + axes[axis][1])
}

impl<T: Element> Images<T> {
    fn new(device: &Device, values: &[f32], [c, h, w]: [usize; 3], n: usize, format: MemoryFormat, view: View) -> Self {
        let shape = [n, c, h, w];
        let frame = view.frame(shape);
        let tensor = Tensor::zeros(device, around(shape, frame), format).unwrap();
        let mut images = Self { tensor, shape, frame };
        let values: Vec<T> = values[..n * c * h * w].iter().map(|&v| T::from_f32(v)).collect();
        images.view_mut().write(&values).unwrap();
        images
    }

    fn view(&self) -> TensorView<'_, T> {
        let Self { shape: [n, c, h, w], frame: Frame { images, channels, rows, columns }, tensor } = self;
        let part = tensor.images(images[0]..images[0] + n).unwrap().channels(channels[0]..channels[0] + c).unwrap();
        part.crop(rows[0]..rows[0] + h, columns[0]..columns[0] + w).unwrap()
    }

    fn view_mut(&mut self) -> TensorViewMut<'_, T> {
        let Self { shape: [n, c, h, w], frame: Frame { images, channels, rows, columns }, tensor } = self;
        let part = tensor.images_mut(images[0]..images[0] + *n).unwrap().channels(channels[0]..channels[0] + *c).unwrap();
        part.crop(rows[0]..rows[0] + *h, columns[0]..columns[0] + *w).unwrap()
    }
}

/// The result of the first `n` images, in NCHW order.
fn run<T: Element>(layer: &AnyLayer, sample: &Sample, n: usize, format: MemoryFormat, view: View, kernel: Option<&str>) -> Vec<u32> {
    let device = DEVICE.clone();
    let (_, _, x, others) = sample;
    let named = [("x", *x)].into_iter().chain(others.iter().copied());
    let values = |seed: usize, [c, h, w]: [usize; 3]| random(IMAGES * c * h * w, 100 + seed as u64);
    let images: Vec<_> = named
        .enumerate()
        .map(|(seed, (name, shape))| (name, Images::<T>::new(&device, &values(seed, shape), shape, n, format, view)))
        .collect();
    let views: BTreeMap<&str, TensorView<'_, T>> = images.iter().map(|(name, images)| (*name, images.view())).collect();
    let [_, h, w] = *x;
    let roi = |k: usize| [k as f32, 0.3, 0.2, w as f32 - 1.5 - k as f32 * 0.1, h as f32 - 1.4];
    let rois = layer.spec().signature().inputs.contains(&"rois").then(|| {
        let regions: Vec<_> = (0..n).map(roi).collect();
        RoIs::from_slice(&device, n, &regions).unwrap()
    });
    let inputs = Inputs::from_named(&layer.spec(), &views, rois.as_ref().map(RoIs::view)).unwrap();
    let mut request = PlanRequest::new([n, x[0], h, w]).format(format).batch_invariant();
    if rois.is_some() {
        request = request.rois(n);
    }
    if let Some(kernel) = kernel {
        request = request.kernel(kernel);
    }
    let plan = layer.plan::<T>(&device, &request).unwrap();
    let [outer, c, h, w] = plan.output_shape();
    let mut y = Images::<T>::new(&device, &vec![0.0; outer * c * h * w], [c, h, w], outer, format, view);
    let mut memory = WorkspaceMemory::new(&device, plan.workspace_bytes()).unwrap();
    plan.run(&inputs, y.view_mut(), memory.workspace(), &Stream::default_of(&device)).unwrap();
    y.view().to_vec().unwrap().iter().map(|v| v.to_f32().to_bits()).collect()
}

static DEVICE: std::sync::LazyLock<Device> = std::sync::LazyLock::new(|| Device::host().unwrap());

fn same_in_every_batch<T: Element>(sample: &Sample) {
    let layer = built(sample.0, sample.1);
    for format in MemoryFormat::ALL {
        let all = run::<T>(&layer, sample, IMAGES, format, View::Packed, None);
        let image = all.len() / IMAGES;
        assert!(all.iter().any(|bits| *bits != 0));
        for n in BATCHES {
            // crops of a few batches
            for view in VIEWS.into_iter().take(if n <= 3 { 4 } else { 2 }) {
                let part = run::<T>(&layer, sample, n, format, view, None);
                assert!(part == all[..n * image], "{} {} {format}, N = {n}, {view:?}", sample.0, T::DTYPE);
            }
        }
    }
}

#[rstest]
fn an_image_has_the_same_bits_in_every_batch_and_view(#[values(0, 1, 2, 3, 4, 5)] part: usize) {
    for sample in SAMPLES.iter().skip(part).step_by(6) {
        same_in_every_batch::<f32>(sample);
        same_in_every_batch::<f16>(sample);
        same_in_every_batch::<bf16>(sample);
    }
}

/// The example of a report: another kernel at batch 3 than at 1.
#[test]
fn a_large_image_has_the_same_bits_in_every_batch() {
    let sample: Sample = (r#"{"op": "conv2d", "attrs": {"padding": 1}}"#, &[("weight", &[12, 16, 3, 3])], [16, 64, 64], &[]);
    let layer = built(sample.0, sample.1);
    for format in MemoryFormat::ALL {
        let alone = run::<f16>(&layer, &sample, 1, format, View::Packed, None);
        assert!(run::<f16>(&layer, &sample, 3, format, View::Packed, None)[..alone.len()] == alone, "{format}");
        assert!(run::<f16>(&layer, &sample, 1, format, View::Slice, None) == alone, "{format}");
    }
}

/// The candidates of a batch-invariant plan add up in one order, so that all of them give the same bits.
#[test]
fn kernels_of_one_order_give_the_same_bits() {
    fn check<T: Element>(sample: &Sample, compared: &mut usize) {
        let layer = built(sample.0, sample.1);
        for format in MemoryFormat::ALL {
            let [c, h, w] = sample.2;
            let request = PlanRequest::new([3, c, h, w]).format(format).batch_invariant().rois(3);
            let plan = layer.plan::<T>(&DEVICE, &request).unwrap();
            // a block's and a pack's kernels belong to one stage each
            let named = plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok());
            let results: Vec<_> =
                named.map(|choice| (choice.kernel, run::<T>(&layer, sample, 3, format, View::Packed, Some(choice.kernel)))).collect();
            let alike = results.iter().filter(|(kernel, _)| *kernel != "pair");
            *compared += alike.clone().count().saturating_sub(1);
            for (kernel, bits) in alike.clone() {
                assert!(Some(bits) == alike.clone().next().map(|(_, bits)| bits), "{} {}: {kernel}", sample.0, T::DTYPE);
            }
        }
    }
    let mut compared = 0;
    for sample in SAMPLES {
        check::<f32>(sample, &mut compared);
        check::<f16>(sample, &mut compared);
    }
    assert!(compared > 100, "{compared}");
}

/// Filters, channels, kernel, stride and size of the input of ResNet-50's convolutions.
const RESNET: [[usize; 5]; 23] = [
    [64, 3, 7, 2, 224],
    [64, 64, 1, 1, 56],
    [64, 64, 3, 1, 56],
    [256, 64, 1, 1, 56],
    [64, 256, 1, 1, 56],
    [128, 256, 1, 1, 56],
    [128, 128, 3, 2, 56],
    [512, 128, 1, 1, 28],
    [512, 256, 1, 2, 56],
    [128, 512, 1, 1, 28],
    [128, 128, 3, 1, 28],
    [256, 512, 1, 1, 28],
    [256, 256, 3, 2, 28],
    [1024, 256, 1, 1, 14],
    [1024, 512, 1, 2, 28],
    [256, 1024, 1, 1, 14],
    [256, 256, 3, 1, 14],
    [512, 1024, 1, 1, 14],
    [512, 512, 3, 2, 14],
    [2048, 512, 1, 1, 7],
    [2048, 1024, 1, 2, 14],
    [512, 2048, 1, 1, 7],
    [512, 512, 3, 1, 7],
];

#[test]
fn the_order_of_sums_does_not_depend_on_the_batch() {
    for [c_out, c_in, kernel, stride, size] in RESNET {
        let spec = Conv2dSpec { stride: [stride; 2], padding: Padding::all(kernel / 2), ..Default::default() };
        let weight = Parameter::new(&[c_out, c_in, kernel, kernel], &vec![0f32; c_out * c_in * kernel * kernel]).unwrap();
        let layer = Conv2d::new(spec, weight).unwrap();
        for format in MemoryFormat::ALL {
            let order = |n: usize| {
                let request = PlanRequest::new([n, c_in, size, size]).format(format).batch_invariant();
                let note = layer.plan::<f16>(&DEVICE, &request).unwrap().explain().note.clone();
                note.split_once("; batch-invariant: ").expect("it says so").1.to_string()
            };
            let alone = order(1);
            assert!(alone.contains("sums by tensor cores"), "{alone}");
            for n in [2, 4, 8, 32, 256] {
                assert_eq!(order(n), alone, "{c_out} x {c_in}, {kernel}x{kernel}, {size}, {format}, N = {n}");
            }
        }
    }
}

#[test]
fn kernels_of_another_order_do_not_apply() {
    let layer = built(SAMPLES[0].0, SAMPLES[0].1);
    let request = PlanRequest::new([1, 128, 7, 5]).format(MemoryFormat::ChannelsLast).batch_invariant();
    for kernel in ["conv_gemm_f16_vectors_32x64_k4", "conv_direct_f16_channels_last"] {
        let error = layer.plan::<f16>(&DEVICE, &request.clone().kernel(kernel)).unwrap_err();
        assert!(matches!(&error, Error::NoKernel { reasons, .. } if reasons.contains("batch-invariant plans of this layer by")), "{error}");
    }
}

// ---- Weights that are not finite.

/// An infinite weight over the padding makes no product, in any kernel that applies; nor in PyTorch's transposed convolution.
#[test]
fn padding_makes_no_product() {
    let (inf, one) = (f32::INFINITY, 1f32);
    let weight = |values: &[f32]| Parameter::new(&[1, 1, 1, 3], values).unwrap().allow_non_finite();
    let spec = Conv2dSpec { padding: Padding::Explicit([0, 1, 0, 1]), ..Default::default() };
    let convolution = Conv2d::new(spec, weight(&[inf, one, one])).unwrap();
    let transposed = ConvTranspose2d::new(ConvTranspose2dSpec::default(), weight(&[one, one, inf])).unwrap();
    let x = Tensor::from_slice(&DEVICE, [1, 1, 1, 3], &[1f32, 2.0, 3.0]).unwrap();
    let of = |layer: &AnyLayer| layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
    // the first output sees the padding with the infinite weight: 1 * 1 + 1 * 2
    assert_eq!(of(&AnyLayer::Conv2d(convolution.clone())), [3.0, inf, inf]);
    assert_eq!(of(&AnyLayer::ConvTranspose2d(transposed)), [1.0, 3.0, inf, inf, inf]);
    let plan = convolution.plan::<f32>(&DEVICE, &PlanRequest::new(x.shape())).unwrap();
    assert!(
        plan.explain().choices.iter().any(|choice| choice.verdict.as_ref().is_err_and(|reason| reason.contains("zeros of the padding")))
    );
    // without padding every kernel makes the same products
    let dense = Conv2d::new(Conv2dSpec::default(), weight(&[inf, one, one])).unwrap();
    let plan = dense.plan::<f32>(&DEVICE, &PlanRequest::new(x.shape())).unwrap();
    assert!(plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok()).count() > 1);
}

/// Kernels agree with the oracle, and with one another, on weights that are infinite or NaN: `verify` draws them too.
#[rstest]
fn kernels_agree_on_special_weights(
    #[values("conv2d", "conv_transpose2d", "deform_conv2d", "depthwise_separable", "spatially_separable")] op: &str,
) {
    let special: Vec<Kind> = kinds().filter(|kind| kind.op == op && kind.name.ends_with("special_weights")).collect();
    assert_eq!(special.len(), 1);
    let mut seen = 0;
    for index in 0..12 {
        let problem = Problem::of_kinds(&special, 3, index);
        assert_eq!(problem.values, Values::SpecialWeights);
        for run in every_run(&problem, &DEVICE).unwrap() {
            assert!(run.outcome.is_ok(), "{run}: {problem:?}");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn a_weight_that_is_not_finite_is_an_error_unless_allowed() {
    let of = |weight: f32| Conv2d::new(Conv2dSpec::default(), Parameter::new(&[2, 1, 1, 1], &[1.0, weight]).unwrap()).unwrap();
    let plan = |layer: &Conv2d| layer.plan::<f16>(&DEVICE, &PlanRequest::new([1, 1, 2, 2])).map(|_| ());
    assert!(plan(&of(65504.0)).is_ok());
    for weight in [65520.0, f32::NAN, f32::NEG_INFINITY] {
        let error = plan(&of(weight)).unwrap_err();
        assert!(matches!(&error, Error::NonFinite { position, .. } if *position == [1, 0, 0, 0]), "{error}");
        assert!(error.to_string().contains("not finite in f16: Parameter::allow_non_finite"), "{error}");
    }
    assert!(of(65520.0).plan::<f32>(&DEVICE, &PlanRequest::new([1, 1, 2, 2])).is_ok());
}
