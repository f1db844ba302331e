//! Sizes at which arithmetic goes wrong: 0 and 1 on every axis, the limits of 32 bits from both sides, and whatever else a spec can
//! say. Nothing panics, nothing reads or writes outside, and what is too large is refused when it is planned.
#![cfg(feature = "host")]

use half::{bf16, f16};
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use warpconv::cases::Problem;
use warpconv::check::{Case, Kernels, every_run};
use warpconv::reference::{self, Array};
use warpconv::testing::{Operand, launch};
use warpconv::{
    Activation, AnyLayer, Conv2d, Conv2dSpec, DType, Device, Element, Error, Inputs, Layer, LayerSpec, MemoryFormat, Parameter,
    PlanRequest, Shape, Tensor,
};

use crate::common::checked;

mod any_spec;

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host().unwrap());

fn layer(op: &str, attrs: &Value) -> LayerSpec {
    LayerSpec::from_json(&json!({"op": op, "attrs": attrs}).to_string()).unwrap()
}

// ---- axes of 0 and 1

/// The sizes of a problem of every op.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    n: usize,
    c: usize,
    h: usize,
    w: usize,
    outputs: usize,
    rois: usize,
}

const USUAL: Sizes = Sizes { n: 2, c: 8, h: 3, w: 5, outputs: 8, rois: 2 };

/// A problem of each op, of some in several forms, whose kernels are different ones.
fn problems(sizes: Sizes) -> Vec<Problem> {
    let Sizes { n, c, h, w, outputs: o, rois } = sizes;
    let image = [n, c, h, w];
    let of = |op: &str, attrs: Value, shapes: &[(&str, &[usize])]| Problem::new(layer(op, &attrs), shapes);
    let weighted = |op: &str, attrs: Value, x: &[usize], weight: &[usize]| of(op, attrs, &[("x", x), ("weight", weight)]);
    let pooled = |op: &str, attrs: Value, channels: usize| of(op, attrs, &[("x", &[n, channels, h, w]), ("rois", &[rois, 5])]);
    let deformable = || weighted("conv2d", json!({"padding": 1}), &image, &[o, c, 2, 2]).deformable(1, true);
    let block = of(
        "deform_conv2d_block",
        json!({"modulated": false, "deform": {"padding": 1}}),
        &[("x", &image), ("weight", &[o, c, 2, 2]), ("offset_weight", &[8, c, 2, 2])],
    );
    let fully_connected = [2 * 6, 6 * c];
    vec![
        weighted("conv2d", json!({"padding": 1}), &image, &[o, c, 3, 3]),
        weighted("conv2d", json!({}), &image, &[o, c, 1, 1]),
        weighted("conv2d", json!({"padding": 1, "groups": c.max(1)}), &image, &[c, 1, 3, 3]),
        weighted("conv2d", json!({"padding": 3, "groups": c.max(1)}), &image, &[c, 1, 7, 7]),
        weighted("conv2d", json!({"padding": 1, "groups": 2}), &image, &[o, c / 2, 3, 3]),
        weighted("conv_transpose2d", json!({"stride": 2, "padding": 1}), &image, &[c, o, 4, 4]),
        weighted("conv_transpose2d", json!({"stride": [1, 3]}), &image, &[c, o, 3, 2]),
        weighted("sub_pixel_conv", json!({"padding": 1, "r": 2}), &image, &[4 * o, c, 3, 3]),
        weighted("focus", json!({"padding": 1}), &[n, c, 2 * h, 2 * w], &[o, 4 * c, 3, 3]),
        of("depthwise_separable", json!({"padding": 1}), &[("x", &image), ("dw_weight", &[c, 1, 3, 3]), ("pw_weight", &[o, c, 1, 1])]),
        of("spatially_separable", json!({"padding": 1}), &[("x", &image), ("col_weight", &[o, c, 3, 1]), ("row_weight", &[o, o, 1, 3])]),
        of(
            "spatially_separable",
            json!({"padding": 1, "groups": c.max(1)}),
            &[("x", &image), ("col_weight", &[c, 1, 3, 1]), ("row_weight", &[c, 1, 1, 3])],
        ),
        deformable(),
        block,
        of("pixel_shuffle", json!({"r": 2}), &[("x", &[n, 4 * c, h, w])]),
        of("pixel_unshuffle", json!({"r": 2}), &[("x", &[n, c, 2 * h, 2 * w])]),
        of("upsample_bilinear", json!({"output_size": [4, 3]}), &[("x", &image)]),
        of("max_pool2d", json!({"kernel_size": 2, "padding": 1, "ceil_mode": true}), &[("x", &image)]),
        of("avg_pool2d", json!({"kernel_size": 2, "padding": 1, "ceil_mode": true}), &[("x", &image)]),
        of("adaptive_avg_pool2d", json!({"output_size": [1, 2]}), &[("x", &image)]),
        pooled("roi_align", json!({"output_size": [2, 3]}), c),
        pooled("roi_pool", json!({"output_size": [2, 3]}), c),
        pooled("ps_roi_pool", json!({"output_size": [2, 3]}), 6 * c),
        pooled("deform_roi_pool", json!({"output_size": [2, 3]}), c),
        pooled("deform_roi_pool_pack", json!({"output_size": [2, 3]}), c).with("offset_fc1_weight", Some(&fully_connected)),
    ]
}

/// Every op with every size of its tensors at 0 and at 1, in every dtype, format and kernel, under the checker. What cannot be is an
/// error and no panic.
#[rstest]
#[case::images(|sizes, value| Sizes { n: value, ..sizes })]
#[case::channels(|sizes, value| Sizes { c: value, ..sizes })]
#[case::height(|sizes, value| Sizes { h: value, ..sizes })]
#[case::width(|sizes, value| Sizes { w: value, ..sizes })]
#[case::both(|sizes, value| Sizes { h: value, w: value, ..sizes })]
#[case::outputs(|sizes, value| Sizes { outputs: value, ..sizes })]
#[case::rois(|sizes, value| Sizes { rois: value, ..sizes })]
fn nothing_is_touched_outside_of_what_is_there(#[case] change: fn(Sizes, usize) -> Sizes) {
    let device = checked(1);
    let mut ran = BTreeSet::new();
    for value in [0, 1] {
        for (problem, usual) in problems(change(USUAL, value)).into_iter().zip(problems(USUAL)) {
            if problem == usual {
                continue;
            }
            if let Err(error) = problem.output_shape() {
                assert!(value == 0 || problem.layer.op() == "conv2d" || problem.layer.op().ends_with("block"), "{problem:?}: {error}");
                continue;
            }
            for run in every_run(&problem, &device).unwrap() {
                assert!(run.outcome.is_ok(), "{run}: {}", serde_json::to_string(&problem).unwrap());
                ran.insert(problem.layer.op());
            }
        }
    }
    assert!(ran.len() >= 4, "{ran:?}");
}

fn array(shape: &[usize], values: &[f64]) -> Array {
    Array::new(shape, values.to_vec()).unwrap()
}

/// Positions between the padding and an image without rows, or without columns, see nothing.
#[test]
fn a_deformable_convolution_of_no_pixels_reads_none() {
    let device = checked(1);
    for x in [[1, 1, 0, 1], [1, 1, 1, 0], [1, 1, 0, 0]] {
        let (height, width) = (x[2] + 2, x[3] + 2);
        let offsets: Vec<f64> = (0..2 * height * width).map(|i| if i < height * width { -0.5 } else { 0.0 }).collect();
        let spec = layer("deform_conv2d", &json!({"padding": 1}));
        let tensors = BTreeMap::from([
            ("x".to_string(), array(&x, &[])),
            ("weight".to_string(), array(&[1, 1, 1, 1], &[1.0])),
            ("bias".to_string(), array(&[1], &[0.5])),
            ("offset".to_string(), array(&[1, 2, height, width], &offsets)),
        ]);
        let (output, scale) = reference::layer(&spec, &tensors).unwrap();
        assert!(output.data().iter().all(|&y| y == 0.5));
        let case = Case::new(spec, &tensors, output, scale.into_data()).unwrap();
        for dtype in DType::ALL {
            for (x, y) in MemoryFormat::ALL.into_iter().flat_map(|x| MemoryFormat::ALL.map(|y| (x, y))) {
                for run in case.check(dtype, x, y, Kernels::All, &device) {
                    assert!(run.outcome.is_ok(), "{run}");
                }
            }
        }
    }
}

// ---- large values

/// z * 6 is above the largest number where z is not.
#[test]
fn hardswish_of_large_numbers_is_themselves() {
    fn run<T: Element>(z: f32, format: MemoryFormat) -> f32 {
        let spec = Conv2dSpec { activation: Activation::Hardswish, ..Default::default() };
        let layer = Conv2d::new(spec, Parameter::new(&[1, 1, 1, 1], &[1f32]).unwrap()).unwrap();
        let x = Tensor::from_slice(&DEVICE, [1, 1, 1, 1], &[T::from_f32(z)]).unwrap().to_format(format).unwrap();
        let y = layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap()[0].to_f32();
        assert_eq!(y, if z > 0.0 { T::from_f32(z).to_f32() } else { 0.0 }, "{z} {:?} {format}", T::DTYPE);
        y
    }
    for format in MemoryFormat::ALL {
        for z in [1e38, f32::MAX, -1e38, -f32::MAX] {
            run::<f32>(z, format);
            run::<bf16>(if z.abs() > 3e38 { z.signum() * 3e38 } else { z }, format);
        }
        assert_eq!(run::<f16>(1e38, format), f32::INFINITY);
        run::<f16>(65504.0, format);
        run::<f16>(-65504.0, format);
    }
    assert_eq!(reference::activate(Activation::Hardswish, 1e308, 0.0), 1e308);
}

// ---- limits

/// What 32 bits count: 2^31 - 2^16.
const MAX_COUNT: usize = 2_147_418_112;

fn plan<T: Element>(op: &str, attrs: &Value, weight: Option<Shape>, x: Shape) -> Result<(), Error> {
    let weight = weight.map(|shape| ("weight".to_string(), Parameter::new(&shape, &vec![0.5f32; shape.iter().product()]).unwrap()));
    let layer = AnyLayer::new(layer(op, attrs), weight.into_iter().collect())?;
    layer.plan::<T>(&DEVICE, &PlanRequest::new(x).rois(1)).map(drop)
}

/// Each limit: what is at it is planned, and one more is an error that names both.
#[rstest]
// elements of an image, of x and of y
#[case::x("conv2d", json!({"stride": [1, 1 << 20]}), Some([1, 1, 1, 1]), [1, 1, 1, MAX_COUNT], [1, 1, 1, MAX_COUNT + 1], MAX_COUNT)]
#[case::image("conv2d", json!({}), Some([1, 2, 1, 1]), [1, 2, 1, MAX_COUNT / 2], [1, 2, 1, MAX_COUNT / 2 + 1], MAX_COUNT)]
#[case::batch("conv2d", json!({}), Some([1, 1, 1, 1]), [MAX_COUNT, 1, 1, 1], [MAX_COUNT + 1, 1, 1, 1], MAX_COUNT)]
#[case::empty("conv2d", json!({"padding": [1, 0]}), Some([1, 1, 1, 1]), [1, 1, 0, MAX_COUNT / 2], [1, 1, 0, MAX_COUNT / 2 + 1], MAX_COUNT)]
#[case::outputs("conv2d", json!({}), Some([4, 1, 1, 1]), [1, 1, 1, MAX_COUNT / 4], [1, 1, 1, MAX_COUNT / 4 + 1], MAX_COUNT)]
#[case::transposed("conv_transpose2d", json!({"stride": [1, 2]}), Some([1, 1, 1, 2]), [1, 1, 1, MAX_COUNT / 2], [1, 1, 1, MAX_COUNT / 2 + 1], MAX_COUNT)]
#[case::shuffle("pixel_shuffle", json!({"r": 2}), None, [1, 4, 1, MAX_COUNT / 4], [1, 4, 1, MAX_COUNT / 4 + 1], MAX_COUNT)]
#[case::unshuffle("pixel_unshuffle", json!({"r": 2}), None, [1, 1, 2, MAX_COUNT / 2], [1, 1, 2, MAX_COUNT / 2 + 2], MAX_COUNT)]
#[case::pooled("roi_align", json!({"output_size": 1}), None, [1, 1, 1 << 12, (1 << 19) - (1 << 4)], [1, 1, 1 << 12, 1 << 19], MAX_COUNT)]
// positions that are f32
#[case::upsampled("upsample_bilinear", json!({"output_size": [1, 4]}), None, [1, 1, 1, 1 << 23], [1, 1, 1, (1 << 23) + 1], 1 << 23)]
#[case::rows("upsample_bilinear", json!({"scale": [2, 1]}), None, [1, 1, 1 << 22, 1], [1, 1, (1 << 22) + 1, 1], 1 << 23)]
#[case::adaptive("adaptive_avg_pool2d", json!({"output_size": [1, 16]}), None, [1, 1, 1, MAX_COUNT / 16 - 1], [1, 1, 1, MAX_COUNT / 16], MAX_COUNT)]
#[case::padded_pool("max_pool2d", json!({"kernel_size": [1, 2], "padding": [0, 1]}), None, [1, 1, 1, MAX_COUNT - 6], [1, 1, 1, MAX_COUNT - 5], MAX_COUNT)]
#[case::roi("roi_align", json!({"output_size": 1}), None, [1, 1, 1, 1 << 24], [1, 1, 1, (1 << 24) + 1], 1 << 24)]
#[case::deformed("deform_conv2d", json!({}), Some([1, 1, 1, 1]), [1, 1, 1, 1 << 24], [1, 1, 1, (1 << 24) + 1], 1 << 24)]
#[case::deformed_padding("deform_conv2d", json!({"padding": [0, 8], "stride": [1, 16]}), Some([1, 1, 1, 1]), [1, 1, 1, 1 << 24], [1, 1, 1, (1 << 24) + 1], 1 << 24)]
fn limits_are_named_when_a_layer_is_planned(
    #[case] op: &str,
    #[case] attrs: Value,
    #[case] weight: Option<Shape>,
    #[case] at: Shape,
    #[case] beyond: Shape,
    #[case] expected: usize,
) {
    plan::<f16>(op, &attrs, weight, at).unwrap();
    plan::<f32>(op, &attrs, weight, at).unwrap();
    let error = plan::<f16>(op, &attrs, weight, beyond).unwrap_err();
    assert!(matches!(error, Error::Limit { limit, value, .. } if limit == expected as u128 && value > limit), "{error}");
}

/// A row that is as long as f32 positions reach is interpolated to itself, to its last pixel.
#[test]
fn the_longest_row_is_itself_when_it_is_interpolated() {
    let size = 1 << 23;
    let values: Vec<f16> = (0..size).map(|i| f16::from_f32((i % 2039) as f32)).collect();
    let x = Tensor::from_slice(&DEVICE, [1, 1, 1, size], &values).unwrap();
    let up = AnyLayer::new(layer("upsample_bilinear", &json!({"output_size": [1, size]})), BTreeMap::new()).unwrap();
    assert!(up.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap() == values);
}

/// Bins whose threads fit 32 bits in one kernel and not in the one beneath it, which is for views of any alignment.
#[test]
fn bins_that_no_kernel_counts_are_refused() {
    let attrs = json!({"output_size": [7, 16]});
    let pool = AnyLayer::new(layer("roi_align", &attrs), BTreeMap::new()).unwrap();
    let request = |rois| PlanRequest::new([1, 256, 8, 8]).format(MemoryFormat::ChannelsLast).rois(rois);
    let most = MAX_COUNT / (7 * 16 * 256 / 8);
    pool.plan::<f16>(&DEVICE, &request(most)).unwrap();
    for rois in [most + 1, 1 << 24] {
        let error = pool.plan::<f16>(&DEVICE, &request(rois)).unwrap_err();
        assert!(matches!(error, Error::Limit { what: "the number of bins times slices of channels", .. }), "{error}");
    }
    let wide = AnyLayer::new(layer("roi_align", &json!({"output_size": [32, 16_777_216]})), BTreeMap::new()).unwrap();
    assert!(matches!(wide.plan::<f16>(&DEVICE, &request(4)), Err(Error::Limit { .. })));
}

/// Column tiles of weights begin where they should, also beyond 2^31 bytes: there are more than 2^25 output channels of 64 bytes.
#[test]
fn weights_beyond_2_gigabytes_have_their_place() {
    let device = checked(1);
    for tile in [1, (1 << 19) - 1, 1 << 19, (1 << 20) + 3] {
        let y = Tensor::<f32>::zeros(&device, [1, 1, 1, 64], MemoryFormat::Contiguous).unwrap();
        // SAFETY: the kernel writes its 64 numbers
        unsafe { launch(&device, "far_weights", [1, 1, 1], 0, &[Operand::write("y", &y)], &[tile]).unwrap() };
        assert!(y.to_vec().unwrap().iter().all(|&before| before == tile as f32), "{tile}: {:?}", y.to_vec().unwrap());
    }
}

/// Problems whose sizes once wrapped on their way to a kernel, which then read or wrote outside, or wrote too little.
#[rstest]
#[case::shared_memory("conv2d", json!({"stride": [MAX_COUNT - 1, MAX_COUNT]}), [1, 1, 1, 1], [1, 1, 8, 8])]
#[case::stride_and_output("conv_transpose2d", json!({"stride": [1, MAX_COUNT], "dilation": [1, MAX_COUNT], "output_padding": [0, 1]}), [1, 1, 1, 1], [1, 1, 1, 1])]
#[case::dilation("conv2d", json!({"dilation": [1, 1 << 29], "padding": [0, 1 << 28]}), [1, 1, 1, 2], [1, 1, 1, 1])]
fn what_once_wrapped_does_not(#[case] op: &str, #[case] attrs: Value, #[case] weight: Shape, #[case] x: Shape) {
    let problem = Problem::new(layer(op, &attrs), &[("x", &x), ("weight", &weight)]);
    let runs = every_run(&problem, &checked(1)).unwrap();
    assert!(runs.len() >= 12);
    for run in runs {
        assert!(run.outcome.is_ok(), "{run}");
    }
}

#[test]
fn a_stride_above_the_limit_is_refused() {
    let attrs = json!({"stride": [2_147_483_646u32, 2_147_483_647u32]});
    let error = plan::<f32>("conv2d", &attrs, Some([1, 1, 1, 1]), [1, 1, 8, 8]).unwrap_err();
    assert!(matches!(error, Error::Limit { what: "the vertical stride", value: 2_147_483_646, .. }), "{error}");
}

// ---- many pixels a block

/// The last layer of super-resolution has 12 channels for 3: a block moves a tile of them, whatever lies between two pixels.
#[rstest]
fn blocks_move_many_pixels(#[values(1, 3, 4, 16, 64)] channels: usize, #[values(2, 3, 4)] factor: usize) {
    for (op, x) in
        [("pixel_shuffle", [1, channels * factor * factor, 128, 128]), ("pixel_unshuffle", [1, channels, 128 * factor, 128 * factor])]
    {
        for (x_format, y_format) in MemoryFormat::ALL.into_iter().flat_map(|x| MemoryFormat::ALL.map(|y| (x, y))) {
            for mode in ["crd", "dcr"] {
                let layer = AnyLayer::new(layer(op, &json!({"r": factor, "mode": mode})), BTreeMap::new()).unwrap();
                let request = PlanRequest::new(x).format(x_format).output_format(y_format);
                let plan = layer.plan::<f16>(&DEVICE, &request).unwrap();
                let moved = x.iter().product::<usize>() / plan.explain().grid[0] as usize;
                assert!(moved >= 256, "{op} {mode} {x:?} {x_format} to {y_format}: {moved} elements a block: {}", plan.explain());
            }
        }
    }
}
