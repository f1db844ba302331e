//! UpsampleBilinear on the host device: every kernel against the oracle, exact results where weights are exact, the recipe that it
//! is made for, and what is refused.
#![cfg(feature = "host")]

use half::f16;
use proptest::prelude::*;
use rstest::rstest;
use std::collections::BTreeSet;
use std::sync::LazyLock;
use warpconv::analysis::{Operands, analyse};
use warpconv::cases::{Problem, Values};
use warpconv::check::every_run;
use warpconv::{
    Activation, Conv2d, Conv2dSpec, DType, Device, Error, Inputs, Layer, LayerSpec, MemoryFormat, Padding, Parameter, PlanRequest, Shape,
    Tensor, UpsampleBilinear, UpsampleBilinearSpec, UpsampleSize, reference,
};

use crate::common::{check, checked, problems_of};

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host().unwrap());

fn problem(size: UpsampleSize, align_corners: bool, x: Shape) -> Problem {
    Problem::new(LayerSpec::UpsampleBilinear(UpsampleBilinearSpec { size, align_corners }), &[("x", &x)])
}

#[test]
fn every_kernel_agrees_with_the_oracle() {
    let ran: BTreeSet<_> = problems_of(&["upsample_bilinear"], 1, 60).flat_map(|problem| check(&problem, &DEVICE)).collect();
    assert_eq!(ran.len(), 12, "{ran:?}");
}

#[rstest]
fn the_checker_finds_nothing(#[values(1, 2, 3)] seed: u64) {
    let device = checked(seed);
    problems_of(&["upsample_bilinear"], seed, 6).for_each(|problem| drop(check(&problem, &device)));
}

/// Weights that are multiples of 1/8 are exact, and so are the results before they are rounded once.
#[rstest]
#[case::twice(UpsampleSize::Scale([2.0, 2.0]), false, [2, 8, 5, 6], true)]
#[case::four_times(UpsampleSize::Output([12, 16]), false, [1, 3, 3, 4], true)]
#[case::half(UpsampleSize::Output([4, 3]), false, [1, 8, 8, 6], true)]
#[case::itself(UpsampleSize::Output([6, 4]), false, [1, 5, 6, 4], true)]
#[case::aligned(UpsampleSize::Output([9, 5]), true, [1, 8, 5, 3], true)]
#[case::one_pixel(UpsampleSize::Output([1, 1]), true, [1, 8, 5, 6], true)]
#[case::three_times(UpsampleSize::Scale([3.0, 1.0]), false, [1, 3, 4, 5], false)]
fn results_are_rounded_once(#[case] size: UpsampleSize, #[case] align_corners: bool, #[case] x: Shape, #[case] expected: bool) {
    let runs = every_run(&problem(size, align_corners, x), &DEVICE).unwrap();
    let reports: Vec<_> = runs.iter().map(|run| run.outcome.as_ref().unwrap_or_else(|_| panic!("{run}"))).collect();
    // bit for bit, in every element
    let exact = reports.iter().all(|report| report.exact == report.elements);
    assert!(!reports.is_empty() && exact == expected);
}

/// Positions at and beside the boundaries of pixels, where f32 decides between two of them.
#[test]
fn boundaries_of_pixels_agree_with_the_oracle() {
    for (input, output) in [(7, 3), (49, 7), (41, 123), (10, 3), (3, 1000), (100, 99)] {
        for align_corners in [false, true] {
            let problem = problem(UpsampleSize::Output([1, output]), align_corners, [1, 8, 1, input]);
            for values in [Values::FullMantissa, Values::Special] {
                check(&Problem { values, ..problem.clone() }, &DEVICE);
            }
        }
    }
}

/// As segmentation networks upsample: a dilated convolution, then bilinear interpolation. Where the convolution is linear, the two may
/// change places if the interpolation is constant: a constant picture stays constant.
#[test]
fn the_recipe_of_segmentation_composes() {
    let x = Tensor::<f16>::rand(&DEVICE, [2, 16, 9, 12], MemoryFormat::ChannelsLast, 5).unwrap();
    let spec = Conv2dSpec { dilation: [2, 2], padding: Padding::Same, activation: Activation::Relu, ..Default::default() };
    let weights: Vec<f32> = (0..8 * 16 * 9).map(|i| ((i * 37) % 129) as f32 / 640.0 - 0.1).collect();
    let conv = Conv2d::new(spec, Parameter::new(&[8, 16, 3, 3], &weights).unwrap()).unwrap();
    let up = UpsampleBilinear::new(UpsampleBilinearSpec { size: UpsampleSize::Scale([8.0, 8.0]), align_corners: false }).unwrap();
    let features = conv.forward(&Inputs::new(&x)).unwrap();
    let y = up.forward(&Inputs::new(&features)).unwrap();
    assert_eq!((y.shape(), y.format()), ([2, 8, 72, 96], MemoryFormat::ChannelsLast));
    let features = reference::Array::from_slice(features.shape(), &features.to_vec().unwrap()).unwrap();
    let expected = reference::upsample_bilinear(up.attributes(), &features).unwrap();
    let worst = y.to_vec().unwrap().iter().zip(expected.data()).map(|(a, b)| (a.to_f64() - b).abs()).fold(0.0, f64::max);
    assert!(worst < 4e-3, "{worst}");
    // no checkerboard: a constant stays constant, pixel by pixel
    let flat = Tensor::from_slice(&DEVICE, [1, 1, 3, 4], &[f16::from_f32(0.75); 12]).unwrap();
    assert!(up.forward(&Inputs::new(&flat)).unwrap().to_vec().unwrap().iter().all(|v| v.to_f32() == 0.75));
}

#[test]
fn every_byte_of_the_output_is_written_once() {
    let device = checked(1);
    let up = UpsampleBilinear::new(UpsampleBilinearSpec { size: UpsampleSize::Output([10, 16]), align_corners: false }).unwrap();
    for format in MemoryFormat::ALL {
        let x = Tensor::<f16>::rand(&device, [2, 8, 5, 8], format, 5).unwrap();
        up.forward(&Inputs::new(&x)).unwrap();
        let counters = device.last_launch_counters().unwrap();
        let y = counters.operands.iter().find(|operand| operand.name == "y").unwrap();
        assert_eq!((y.bytes_written, y.unique_bytes), (2 * 2 * 8 * 160, 2 * 2 * 8 * 160), "{}", counters.kernel);
        assert!(counters.kernel.ends_with("_wide"), "{}", counters.kernel);
    }
}

#[test]
fn what_cannot_be_interpolated_is_refused() {
    let spec = |size| UpsampleBilinearSpec { size, align_corners: false };
    for size in [
        UpsampleSize::Output([0, 4]),
        UpsampleSize::Output([4, 0]),
        UpsampleSize::Scale([0.0, 1.0]),
        UpsampleSize::Scale([1.0, -2.0]),
        UpsampleSize::Scale([f64::NAN, 1.0]),
        UpsampleSize::Scale([f64::INFINITY, 1.0]),
    ] {
        assert!(matches!(UpsampleBilinear::new(spec(size)), Err(Error::Attribute { .. })), "{size:?}");
    }
    let layer = |size| UpsampleBilinear::new(spec(size)).unwrap();
    assert!(matches!(layer(UpsampleSize::Scale([0.25, 1.0])).output_shape(&[1, 1, 2, 2].into()), Err(Error::Attribute { .. })));
    assert!(matches!(layer(UpsampleSize::Output([2, 2])).output_shape(&[1, 1, 0, 2].into()), Err(Error::Attribute { .. })));
    assert!(matches!(layer(UpsampleSize::Scale([1e300, 1.0])).output_shape(&[1, 1, 2, 2].into()), Err(Error::Overflow { .. })));
    let huge = layer(UpsampleSize::Output([1 << 20, 1 << 20]));
    assert!(matches!(huge.plan::<f16>(&DEVICE, &PlanRequest::new([1, 1, 2, 2])), Err(Error::Limit { .. })));
    let overflowing = UpsampleBilinear::new(spec(UpsampleSize::Output([usize::MAX, 2])));
    assert!(matches!(overflowing, Err(Error::Overflow { .. })), "{overflowing:?}");
    for text in ["{}", r#"{"scale": 2, "output_size": 4}"#, r#"{"scale": "2"}"#, r#"{"output_size": -1}"#, r#"{"output_size": [1, 2, 3]}"#]
    {
        assert!(LayerSpec::from_json(&format!(r#"{{"op": "upsample_bilinear", "attrs": {text}}}"#)).is_err(), "{text}");
    }
    for size in [UpsampleSize::Output([3, 5]), UpsampleSize::Scale([1.5, 2.0])] {
        let layer = LayerSpec::UpsampleBilinear(spec(size));
        assert_eq!(LayerSpec::from_json(&serde_json::to_string(&layer).unwrap()).unwrap(), layer);
    }
}

#[test]
fn the_calculators_know_it() {
    let layer = LayerSpec::UpsampleBilinear(UpsampleBilinearSpec { size: UpsampleSize::Scale([2.0, 2.0]), align_corners: false });
    let report = analyse(&layer, &[], &[1, 8, 4, 4].into(), Operands::new(DType::F16)).unwrap();
    assert_eq!((report.output, report.operations.macs, report.operations.flops), ([1, 8, 8, 8], 0, 9 * 512));
    assert_eq!((report.bytes.read, report.bytes.written, report.parameters.total), (256, 1024, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]

    #[test]
    fn any_size_is_interpolated(
        n in 0usize..3, channels in 1usize..20, input in [1usize..20, 1usize..20], output in [1usize..40, 1usize..40], align_corners: bool,
        margins in [0usize..9, 0usize..9, 0usize..9, 0usize..9], full_mantissa: bool,
    ) {
        let problem = problem(UpsampleSize::Output(output), align_corners, [n, channels, input[0], input[1]]);
        let values = if full_mantissa { Values::FullMantissa } else { Values::Exact };
        let [a, b, c, d] = margins;
        check(&Problem { values, x_margin: [a, b], y_margin: [c, d], ..problem }, &DEVICE);
    }
}
