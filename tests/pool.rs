//! MaxPool2d, AvgPool2d and AdaptiveAvgPool2d on the host device: every kernel against the oracle and against plain loops, exact results
//! where division is exact, NaN, and what is refused.
#![cfg(feature = "host")]

use crate::common::{checked, problems_of};
use half::f16;
use proptest::prelude::*;
use rstest::rstest;
use std::collections::BTreeSet;
use std::sync::LazyLock;
use warpconv::analysis::{Operands, analyse};
use warpconv::cases::{Problem, Values};
use warpconv::check::every_run;
use warpconv::{
    AdaptiveAvgPool2d, AdaptiveAvgPool2dSpec, AvgPool2d, AvgPool2dSpec, DType, Device, Error, Inputs, Layer, LayerSpec, MaxPool2d,
    MaxPool2dSpec, MemoryFormat, PlanRequest, Shape, Tensor,
};

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host().unwrap());

const OPS: [&str; 3] = ["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"];

/// Every kernel, dtype and pair of formats of a problem against the oracle: the kernels that ran, and whether every element was
/// compared bit for bit.
fn check(problem: &Problem, device: &Device) -> (BTreeSet<&'static str>, bool) {
    let (mut ran, mut exact) = (BTreeSet::new(), true);
    for run in every_run(problem, device).unwrap() {
        let report = run.outcome.as_ref().unwrap_or_else(|_| panic!("{run}: {}", serde_json::to_string(problem).unwrap()));
        exact &= report.exact == report.elements;
        ran.insert(run.kernel);
    }
    (ran, exact)
}

#[test]
fn every_kernel_agrees_with_the_oracle() {
    let ran: BTreeSet<_> = problems_of(&OPS, 1, 70).flat_map(|problem| check(&problem, &DEVICE).0).collect();
    assert_eq!(ran.len(), 12, "{ran:?}");
}

#[rstest]
fn the_checker_finds_nothing(#[values(1, 2, 3)] seed: u64) {
    let device = checked(seed);
    problems_of(&OPS, seed, 7).for_each(|problem| drop(check(&problem, &device)));
}

/// The largest pixel is a pixel, and a division by a power of 2 is exact.
#[rstest]
#[case::max(r#"{"op": "max_pool2d", "attrs": {"kernel_size": 3, "stride": 2, "padding": 1}}"#, [2, 8, 7, 6], true)]
#[case::mean_of_4(r#"{"op": "avg_pool2d", "attrs": {"kernel_size": 2}}"#, [2, 8, 6, 9], true)]
#[case::mean_of_9(r#"{"op": "avg_pool2d", "attrs": {"kernel_size": 3}}"#, [2, 8, 6, 9], false)]
#[case::padded(r#"{"op": "avg_pool2d", "attrs": {"kernel_size": 2, "padding": 1, "count_include_pad": false}}"#, [1, 8, 6, 8], false)]
#[case::divisor(r#"{"op": "avg_pool2d", "attrs": {"kernel_size": 3, "padding": 1, "divisor_override": 8}}"#, [2, 3, 6, 9], true)]
#[case::global(r#"{"op": "adaptive_avg_pool2d", "attrs": {"output_size": 1}}"#, [2, 16, 8, 16], true)]
#[case::global_of_49(r#"{"op": "adaptive_avg_pool2d", "attrs": {"output_size": 1}}"#, [2, 16, 7, 7], false)]
fn results_are_rounded_once(#[case] layer: &str, #[case] x: Shape, #[case] expected: bool) {
    let problem = Problem::new(LayerSpec::from_json(layer).unwrap(), &[("x", &x)]);
    let (ran, exact) = check(&problem, &DEVICE);
    assert!(ran.len() >= 6 && exact == expected, "{ran:?}");
}

/// PyTorch's own loop, as its documentation states it, for windows of any kind.
#[rstest]
fn means_and_maxima_are_those_of_plain_loops(#[values(false, true)] ceil_mode: bool, #[values(false, true)] count_include_pad: bool) {
    let [h, w, kernel, stride, padding] = [9usize, 8, 3, 2, 1];
    let values: Vec<f32> = (0..h * w).map(|i| ((i * 37) % 101) as f32 / 16.0 - 3.0).collect();
    let x = Tensor::from_slice(&DEVICE, [1, 1, h, w], &values).unwrap();
    let max = MaxPool2dSpec { stride: Some([stride; 2]), padding: [padding; 2], ceil_mode, ..MaxPool2dSpec::new([kernel; 2]) };
    let mean =
        AvgPool2dSpec { stride: Some([stride; 2]), padding: [padding; 2], ceil_mode, count_include_pad, ..AvgPool2dSpec::new([kernel; 2]) };
    let max = MaxPool2d::new(max).unwrap().forward(&Inputs::new(&x)).unwrap();
    let mean = AvgPool2d::new(mean).unwrap().forward(&Inputs::new(&x)).unwrap();
    // 9 rows: 5 windows either way. 8 columns: the fifth window starts at column 7 and ends beyond the padding.
    let outputs = [5, if ceil_mode { 5 } else { 4 }];
    assert_eq!((max.shape(), mean.shape()), ([1, 1, outputs[0], outputs[1]], [1, 1, outputs[0], outputs[1]]));
    let (max, mean) = (max.to_vec().unwrap(), mean.to_vec().unwrap());
    for p in 0..outputs[0] {
        for q in 0..outputs[1] {
            let [top, left] = [p * stride, q * stride]; // from the padding on
            let [bottom, right] = [(top + kernel).min(h + 2 * padding), (left + kernel).min(w + 2 * padding)];
            let (mut largest, mut sum, mut inside) = (f32::NEG_INFINITY, 0.0, 0);
            for i in top.max(padding)..bottom.min(h + padding) {
                for j in left.max(padding)..right.min(w + padding) {
                    let value = values[(i - padding) * w + j - padding];
                    largest = largest.max(value);
                    sum += value;
                    inside += 1;
                }
            }
            let pixels = if count_include_pad { (bottom - top) * (right - left) } else { inside };
            assert_eq!(max[p * outputs[1] + q], largest, "{p} {q}");
            assert_eq!(mean[p * outputs[1] + q], sum / pixels as f32, "{p} {q}");
        }
    }
}

/// NaN is larger than every number, also than one that comes after it, in every kernel.
#[test]
fn nan_propagates() {
    let spec = LayerSpec::MaxPool2d(MaxPool2dSpec { padding: [1, 1], ..MaxPool2dSpec::new([3, 3]) });
    for seed in 0..4 {
        let problem = Problem { values: Values::Special, seed, ..Problem::new(spec, &[("x", &[2, 16, 14, 14])]) };
        check(&problem, &DEVICE);
    }
    let mut values = [f16::from_f32(-1.0); 16];
    values[5] = f16::NAN;
    let x = Tensor::from_slice(&DEVICE, [1, 1, 4, 4], &values).unwrap();
    let y = MaxPool2d::new(MaxPool2dSpec::new([2, 2])).unwrap().forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
    assert!(y[0].is_nan() && y[1..].iter().all(|v| v.to_f32() == -1.0), "{y:?}");
}

/// Both taps of a dilated window may be beside the image: nothing is larger than minus infinity then, as in PyTorch.
#[test]
fn a_window_beside_the_image_is_minus_infinity() {
    let spec = MaxPool2dSpec { padding: [0, 1], dilation: [1, 3], ..MaxPool2dSpec::new([1, 2]) };
    let (ran, _) = check(&Problem::new(LayerSpec::MaxPool2d(spec), &[("x", &[1, 8, 3, 2])]), &DEVICE);
    assert_eq!(ran.len(), 12);
    let x = Tensor::from_slice(&DEVICE, [1, 1, 1, 2], &[1f32, 2.0]).unwrap();
    assert_eq!(MaxPool2d::new(spec).unwrap().forward(&Inputs::new(&x)).unwrap().to_vec().unwrap(), [f32::NEG_INFINITY]);
}

/// A mean of an image by a block of threads is added up in another order than one by a single thread. A plan whose results may not
/// depend on the batch or on views has the latter.
#[test]
fn batch_invariant_means_are_of_one_order() {
    let global = AdaptiveAvgPool2d::global();
    let request = PlanRequest::new([2, 64, 16, 16]).format(MemoryFormat::ChannelsLast);
    let kernel = |request: &PlanRequest| global.plan::<f16>(&DEVICE, request).unwrap().explain().kernel;
    assert_eq!(kernel(&request), "pool_blocks_f16_wide");
    assert_eq!(kernel(&request.clone().batch_invariant()), "pool_f16_wide");
    let max = MaxPool2d::new(MaxPool2dSpec::new([16, 16])).unwrap();
    assert_eq!(max.plan::<f16>(&DEVICE, &request.batch_invariant()).unwrap().explain().kernel, "pool_blocks_f16_wide");
}

#[test]
fn every_byte_of_the_output_is_written_once() {
    let device = checked(1);
    let pool = MaxPool2d::new(MaxPool2dSpec { stride: Some([2, 2]), padding: [1, 1], ..MaxPool2dSpec::new([3, 3]) }).unwrap();
    for format in MemoryFormat::ALL {
        let x = Tensor::<f16>::rand(&device, [2, 8, 9, 16], format, 5).unwrap();
        pool.forward(&Inputs::new(&x)).unwrap();
        let counters = device.last_launch_counters().unwrap();
        let y = counters.operands.iter().find(|operand| operand.name == "y").unwrap();
        assert_eq!((y.bytes_written, y.unique_bytes), (2 * 2 * 8 * 40, 2 * 2 * 8 * 40), "{}", counters.kernel);
    }
}

#[test]
fn what_cannot_be_pooled_is_refused() {
    let max = MaxPool2dSpec::new([3, 3]);
    for spec in [
        MaxPool2dSpec::new([0, 3]),
        MaxPool2dSpec { stride: Some([1, 0]), ..max },
        MaxPool2dSpec { dilation: [0, 1], ..max },
        MaxPool2dSpec { padding: [2, 0], ..max },
        MaxPool2dSpec { padding: [0, 2], dilation: [4, 4], ..max },
    ] {
        assert!(matches!(MaxPool2d::new(spec), Err(Error::Attribute { .. })), "{spec:?}");
    }
    let average = AvgPool2dSpec::new([2, 2]);
    for spec in [AvgPool2dSpec { divisor_override: Some(0), ..average }, AvgPool2dSpec { padding: [0, 2], ..average }] {
        assert!(matches!(AvgPool2d::new(spec), Err(Error::Attribute { .. })), "{spec:?}");
    }
    assert!(matches!(AdaptiveAvgPool2d::new(AdaptiveAvgPool2dSpec { output_size: [1, 0] }), Err(Error::Attribute { .. })));
    let pool = MaxPool2d::new(max).unwrap();
    assert!(matches!(pool.output_shape(&[1, 1, 2, 9].into()), Err(Error::EmptyOutput { axis: "height", .. })));
    assert!(matches!(pool.output_shape(&[1, 1, 0, 9].into()), Err(Error::Attribute { .. })));
    let wide = MaxPool2d::new(MaxPool2dSpec { dilation: [1, 1 << 31], padding: [0, 1], ..MaxPool2dSpec::new([1, 2]) }).unwrap();
    assert!(matches!(wide.plan::<f16>(&DEVICE, &PlanRequest::new([1, 1, 1, 1 << 31])), Err(Error::Limit { .. })));
    let many = AdaptiveAvgPool2d::new(AdaptiveAvgPool2dSpec { output_size: [1 << 16, 1] }).unwrap();
    assert!(matches!(many.plan::<f16>(&DEVICE, &PlanRequest::new([1, 1, 1 << 16, 1])), Err(Error::Limit { .. })));
    for (op, attrs) in [
        ("max_pool2d", "{}"),
        ("max_pool2d", r#"{"kernel_size": 3, "count_include_pad": true}"#),
        ("avg_pool2d", r#"{"kernel_size": 3, "dilation": 2}"#),
        ("avg_pool2d", r#"{"kernel_size": [3, 3, 3]}"#),
        ("adaptive_avg_pool2d", r#"{"output_size": -1}"#),
    ] {
        assert!(LayerSpec::from_json(&format!(r#"{{"op": "{op}", "attrs": {attrs}}}"#)).is_err(), "{op} {attrs}");
    }
    for layer in [
        LayerSpec::MaxPool2d(MaxPool2dSpec { stride: Some([2, 1]), ceil_mode: true, ..max }),
        LayerSpec::AvgPool2d(AvgPool2dSpec { divisor_override: Some(7), count_include_pad: false, ..average }),
        LayerSpec::AdaptiveAvgPool2d(AdaptiveAvgPool2dSpec { output_size: [3, 5] }),
    ] {
        assert_eq!(LayerSpec::from_json(&serde_json::to_string(&layer).unwrap()).unwrap(), layer);
    }
}

#[test]
fn the_calculators_know_it() {
    let of = |layer: LayerSpec| analyse(&layer, &[], &[1, 8, 6, 6].into(), Operands::new(DType::F16)).unwrap();
    let max = of(LayerSpec::MaxPool2d(MaxPool2dSpec { stride: Some([2, 2]), padding: [1, 1], ..MaxPool2dSpec::new([3, 3]) }));
    assert_eq!((max.output, max.operations.macs, max.operations.flops), ([1, 8, 3, 3], 0, 9 * 72));
    assert_eq!((max.bytes.read, max.bytes.written, max.receptive_size), (576, 144, [3, 3]));
    let mean = of(LayerSpec::AvgPool2d(AvgPool2dSpec::new([2, 2])));
    assert_eq!((mean.output, mean.operations.flops), ([1, 8, 3, 3], 5 * 72));
    let global = of(LayerSpec::AdaptiveAvgPool2d(AdaptiveAvgPool2dSpec { output_size: [1, 1] }));
    assert_eq!((global.output, global.operations.flops, global.receptive_size), ([1, 8, 1, 1], 37 * 8, [6, 6]));
    // windows of 6 pixels among 4 outputs have 2 pixels; among 5 outputs as well
    let shared = of(LayerSpec::AdaptiveAvgPool2d(AdaptiveAvgPool2dSpec { output_size: [4, 5] }));
    assert_eq!(shared.receptive_step, [2, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]

    #[test]
    fn any_window_is_pooled(
        n in 0usize..3, channels in 1usize..20, input in [1usize..20, 1usize..20], kernel in [1usize..7, 1usize..7],
        stride in [1usize..5, 1usize..5], half in [0usize..4, 0usize..4], ceil_mode: bool, mean: bool, full_mantissa: bool,
    ) {
        let padding = [half[0].min(kernel[0] / 2), half[1].min(kernel[1] / 2)];
        let stride = Some(stride);
        let layer = if mean {
            LayerSpec::AvgPool2d(AvgPool2dSpec { stride, padding, ceil_mode, ..AvgPool2dSpec::new(kernel) })
        } else {
            LayerSpec::MaxPool2d(MaxPool2dSpec { stride, padding, ceil_mode, ..MaxPool2dSpec::new(kernel) })
        };
        let values = if full_mantissa { Values::FullMantissa } else { Values::Exact };
        let problem = Problem { values, ..Problem::new(layer, &[("x", &[n, channels, input[0], input[1]])]) };
        prop_assume!(problem.output_shape().is_ok());
        check(&problem, &DEVICE);
    }
}
