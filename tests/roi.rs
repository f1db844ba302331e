//! Pooling of regions of interest, on the host device: hand-computed cases, the corpus, random problems through every kernel, and
//! the equalities between the layers.

use half::{bf16, f16};
use proptest::prelude::*;
use rstest::rstest;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use warpconv::cases::{Kind, Problem};
use warpconv::reference::{self, Array};
use warpconv::{
    DeformRoiPool, DeformRoiPoolSpec, Device, Element, Error, HostOptions, Inputs, Layer, LayerSpec, MemoryFormat, OffsetOrMask,
    PlanRequest, PsRoiPool, PsRoiPoolSpec, RoIs, RoiAlign, RoiAlignSpec, RoiPool, RoiPoolSpec, RoisView, Stream, Tensor, Workspace,
};

use crate::common::{array, bits, check, checked, kinds_of};

mod pack;

const OPS: [&str; 4] = ["roi_align", "roi_pool", "ps_roi_pool", "deform_roi_pool"];

fn kinds_named(op: &str, names: &[&str]) -> Vec<Kind> {
    kinds_of(op).into_iter().filter(|kind| names.contains(&kind.name)).collect()
}

/// Every kind of problem, through every kernel, in another order of the threads for each seed.
#[rstest]
fn every_kernel_is_right(#[values("roi_align", "roi_pool", "ps_roi_pool", "deform_roi_pool")] op: &str, #[values(0, 7)] seed: u64) {
    let device = Device::host_with(HostOptions { seed, ..Default::default() }).unwrap();
    let kinds = kinds_of(op);
    let ran: BTreeSet<_> = (0..3 * kinds.len() as u64).flat_map(|i| check(&Problem::of_kinds(&kinds, seed + 3, i), &device)).collect();
    // channels_last: 16 bytes and one element; planes: all dtypes
    assert_eq!(ran.len(), if op == "ps_roi_pool" { 3 } else { 9 }, "{ran:?}");
}

#[rstest]
fn the_checker_finds_nothing(#[values("roi_align", "roi_pool", "ps_roi_pool", "deform_roi_pool")] op: &str, #[values(1, 2)] seed: u64) {
    let device = checked(seed);
    let kinds = kinds_named(
        op,
        &["channels_at_tile_edge", "special_values", "channel_slices", "vectors_in_slices", "grid_fixed", "offset", "classes"],
    );
    for i in 0..2 * kinds.len() as u64 {
        check(&Problem::of_kinds(&kinds, seed, i), &device);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]
    #[test]
    fn random_problems_meet_the_oracle(seed in any::<u32>(), op in 0..4usize) {
        let kinds = kinds_named(OPS[op], &["plain", "grid_adaptive", "special_values", "modulated", "position_sensitive"]);
        check(&Problem::of_kinds(&kinds, seed.into(), u64::from(seed) % 97), &Device::host_with(warpconv::HostOptions::default()).unwrap());
    }
}

/// Two independent statements of the same definitions; the corpus's positions are f64.
#[test]
fn the_oracle_equals_the_corpus() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch_dev");
    let corpus: Value = serde_json::from_slice(&std::fs::read(directory.join("cases.json")).unwrap()).unwrap();
    let file = std::fs::read(directory.join("tensors.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let of_the_family = |list: &str| -> Vec<Value> {
        corpus[list].as_array().unwrap().iter().filter(|case| OPS.contains(&case["op"].as_str().unwrap())).cloned().collect()
    };
    let compute = |case: &Value| -> warpconv::Result<(Array, Array)> {
        let spec = LayerSpec::from_json(&serde_json::json!({ "op": case["op"], "attrs": case["attrs"] }).to_string())?;
        let inputs = case["inputs"].as_object().unwrap();
        reference::layer(&spec, &inputs.iter().map(|(name, key)| (name.clone(), array(&tensors, key))).collect())
    };
    let cases = of_the_family("cases");
    assert_eq!(cases.len(), 44);
    for case in &cases {
        let name = &case["name"];
        let (y, scale) = compute(case).unwrap();
        let room = case["coord_atol"].as_f64().unwrap_or(0.0) + 1e-12;
        for (own, key) in [(y, "output"), (scale, "scale")] {
            let expected = array(&tensors, &case[key]);
            assert_eq!(own.shape(), expected.shape(), "{name}");
            for (i, (own, expected)) in own.data().iter().zip(expected.data()).enumerate() {
                assert!((own - expected).abs() <= room, "{name}: {key} {i} is {own}, not {expected}");
            }
        }
    }
    let invalid = of_the_family("invalid");
    assert_eq!(invalid.len(), 10);
    for case in &invalid {
        assert!(compute(case).is_err(), "{} was accepted", case["name"]);
    }
}

/// x[n, c, h, w] = 100 c + 10 h + w: bilinear values are the position's own.
fn ramp(device: &Device, shape: [usize; 4], format: MemoryFormat) -> Tensor<f32> {
    let [n, c, h, w] = shape;
    let values = (0..n * c * h * w).map(|i| (100 * (i / (h * w) % c) + 10 * (i / w % h) + i % w) as f32).collect::<Vec<_>>();
    Tensor::from_slice(device, shape, &values).unwrap().to_format(format).unwrap()
}

#[rstest]
// one sample at the centre of each bin: 1.5 and 3.5 less the half pixel
#[case::aligned(RoiAlignSpec { sampling_ratio: 1, aligned: true, ..RoiAlignSpec::new([1, 2]) }, [0.5, 1.0, 4.5, 3.0], &[16.0, 18.0])]
#[case::not_aligned(RoiAlignSpec { sampling_ratio: 1, ..RoiAlignSpec::new([1, 2]) }, [0.5, 1.0, 4.5, 3.0], &[21.5, 23.0])]
// the mean of a symmetric grid on a ramp is its centre
#[case::grid(RoiAlignSpec { sampling_ratio: 4, ..RoiAlignSpec::new([1, 1]) }, [1.0, 0.0, 3.0, 2.0], &[12.0])]
#[case::adaptive(RoiAlignSpec::new([1, 1]), [1.0, 0.0, 2.5, 2.0], &[11.75])]
#[case::scaled(RoiAlignSpec { spatial_scale: 0.25, sampling_ratio: 1, ..RoiAlignSpec::new([1, 1]) }, [4.0, 4.0, 12.0, 12.0], &[22.0])]
// at least a pixel wide, from (2, 1) on
#[case::tiny(RoiAlignSpec::new([1, 1]), [2.0, 1.0, 2.0, 1.0], &[17.5])]
#[case::tiny_aligned(RoiAlignSpec { aligned: true, ..RoiAlignSpec::new([1, 1]) }, [2.0, 1.0, 2.0, 1.0], &[0.0])]
#[case::reversed(RoiAlignSpec { aligned: true, ..RoiAlignSpec::new([1, 1]) }, [3.0, 3.0, 1.0, 1.0], &[0.0])]
#[case::reversed_fixed_grid(RoiAlignSpec { sampling_ratio: 1, aligned: true, ..RoiAlignSpec::new([1, 1]) }, [3.0, 3.0, 2.0, 2.0], &[22.0])]
// (-1, -1) and (4, 4) are inside and clamped, beyond is 0
#[case::last_inside(RoiAlignSpec { sampling_ratio: 1, ..RoiAlignSpec::new([1, 1]) }, [-2.0, -2.0, 0.0, 0.0], &[0.0, 100.0])]
#[case::last_inside_at_the_end(RoiAlignSpec { sampling_ratio: 1, ..RoiAlignSpec::new([1, 1]) }, [3.0, 3.0, 5.0, 5.0], &[33.0])]
#[case::outside(RoiAlignSpec { sampling_ratio: 1, ..RoiAlignSpec::new([1, 1]) }, [3.25, 3.0, 5.0, 5.5], &[0.0])]
#[case::half_outside(RoiAlignSpec { sampling_ratio: 2, ..RoiAlignSpec::new([1, 1]) }, [2.0, 1.0, 8.0, 1.0], &[9.0])]
#[case::infinite(RoiAlignSpec::new([1, 1]), [0.0, 0.0, f32::INFINITY, 4.0], &[0.0])]
#[case::not_a_number(RoiAlignSpec { sampling_ratio: 2, ..RoiAlignSpec::new([1, 1]) }, [0.0, f32::NAN, 4.0, 4.0], &[0.0])]
fn roi_align_by_hand(#[case] spec: RoiAlignSpec, #[case] corners: [f32; 4], #[case] expected: &[f32]) {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let [x1, y1, x2, y2] = corners;
    let rois = RoIs::from_slice(&device, 1, &[[0.0, x1, y1, x2, y2]]).unwrap();
    for format in MemoryFormat::ALL {
        let x = ramp(&device, [1, 2, 4, 4], format);
        let y = RoiAlign::new(spec).unwrap().forward(&Inputs::new(&x).rois(&rois)).unwrap().to_vec().unwrap();
        assert_eq!(&y[..expected.len()], expected, "{format}");
    }
}

#[test]
fn roi_pool_and_ps_roi_pool_by_hand() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let rois = [[0.0, 0.5, -0.5, 2.5, 1.4], [0.0, 3.0, 3.0, 1.0, 1.0], [0.0, 9.0, 9.0, 12.0, 12.0], [0.0, f32::NAN, 0.0, 3.0, 3.0]];
    let rois = RoIs::from_slice(&device, 1, &rois).unwrap();
    for format in MemoryFormat::ALL {
        let x = ramp(&device, [1, 4, 4, 4], format);
        // 0.5 is rounded to 1, -0.5 to -1: columns 1 to 3, rows -1 to 1; two bins of 1.5 overlap in the middle one
        let max = RoiPool::new(RoiPoolSpec::new([2, 2])).unwrap().forward(&Inputs::new(&x).rois(&rois)).unwrap().to_vec().unwrap();
        assert_eq!(max[..4], [2.0, 3.0, 12.0, 13.0], "{format}");
        // reversed: one pixel from (3, 3) on
        assert_eq!(max[16..20], [33.0; 4], "{format}");
        assert_eq!(max[32..], [0.0; 32], "{format}: outside, and empty");
        // size 2 from 1 and from -1 on: one pixel a bin; rows above the image are empty, and the last row and column unread
        let mean = PsRoiPool::new(PsRoiPoolSpec::new([2, 2])).unwrap().forward(&Inputs::new(&x).rois(&rois)).unwrap();
        assert_eq!(mean.shape(), [4, 1, 2, 2]);
        assert_eq!(mean.to_vec().unwrap(), [[0.0, 0.0, 201.0, 302.0], [0.0; 4], [0.0; 4], [0.0; 4]].concat(), "{format}");
    }
    // NaN is the largest, and minus infinity may be
    let special = [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
    let x = Tensor::from_slice(&device, [1, 1, 1, 6], &special).unwrap();
    let rois = RoIs::from_slice(&device, 1, &[[0.0, 0.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, 5.0, 0.0], [0.0, 1.0, 0.0, 3.0, 0.0]]).unwrap();
    let y = RoiPool::new(RoiPoolSpec::new([1, 1])).unwrap().forward(&Inputs::new(&x).rois(&rois)).unwrap().to_vec().unwrap();
    assert!(y[0].is_nan() && y[1] == f32::NEG_INFINITY && y[2] == f32::INFINITY, "{y:?}");
}

/// Section 2.2 of Dai et al., 2017, for two classes with 1 x 2 bins: bin j of class c reads channel 2 c + j, moved by the class's own
/// offset.
#[test]
fn deformable_position_sensitive_pooling_by_hand() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let spec =
        DeformRoiPoolSpec { sampling_ratio: 1, gamma: 0.5, position_sensitive: true, offset_groups: 2, ..DeformRoiPoolSpec::new([1, 2]) };
    let pool = DeformRoiPool::new(spec).unwrap();
    // samples at (0.5, 0.5) and (0.5, 2.5) before they move; 4 wide and 2 high, half of which an offset of 1 moves them
    let rois = RoIs::from_slice(&device, 1, &[[0.0, 0.0, 0.0, 4.0, 2.0]]).unwrap();
    let offset = [[0.0, 0.25], [1.0, 0.0], [0.5, -0.5], [0.0, 2.0]].concat(); // class 0: x, y; class 1: x, y
    let mask = [1.0, 0.5, 2.0, 1.0];
    for format in MemoryFormat::ALL {
        let x = ramp(&device, [1, 4, 4, 4], format);
        let offset = Tensor::from_slice(&device, [1, 4, 1, 2], &offset).unwrap();
        let y = pool.forward(&Inputs::new(&x).rois(&rois).offset(&offset)).unwrap();
        assert_eq!(y.shape(), [1, 2, 1, 2]);
        // (1.5, 0.5) of channel 0, (0.5, 3) of 1, (0.5, 1.5) of 2, (2.5, 1.5) of 3
        assert_eq!(y.to_vec().unwrap(), [15.5, 108.0, 206.5, 326.5], "{format}");
        let mask = Tensor::from_slice(&device, [1, 2, 1, 2], &mask).unwrap();
        let modulated = pool.forward(&Inputs::new(&x).rois(&rois).offset(&offset).mask(&mask)).unwrap().to_vec().unwrap();
        assert_eq!(modulated, [15.5, 54.0, 413.0, 326.5], "{format}");
    }
    // the offsets as the paper has them: pooled from a map with two numbers for each class and bin
    let (x, map) = (
        ramp(&device, [1, 4, 4, 4], MemoryFormat::ChannelsLast),
        Tensor::<f32>::rand(&device, [1, 8, 4, 4], MemoryFormat::ChannelsLast, 3).unwrap(),
    );
    let pooled = PsRoiPool::new(PsRoiPoolSpec::new([1, 2])).unwrap().forward(&Inputs::new(&map).rois(&rois)).unwrap();
    assert_eq!(pooled.shape(), [1, 4, 1, 2]);
    assert_eq!(pool.forward(&Inputs::new(&x).rois(&rois).offset(&pooled)).unwrap().shape(), [1, 2, 1, 2]);
}

fn zero_offset_is_roi_align_in<T: Element>(format: MemoryFormat, sampling_ratio: i32) {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let x = Tensor::<T>::rand(&device, [2, 24, 11, 13], format, 1).unwrap();
    let rois = [[0.0, 1.2, 2.3, 30.4, 17.5], [1.0, -8.0, -3.0, 40.0, 9.0], [1.0, 4.0, 4.0, 4.5, 5.0]];
    let rois = RoIs::from_slice(&device, 2, &rois).unwrap();
    let inputs = Inputs::new(&x).rois(&rois);
    let align = RoiAlignSpec { output_size: [3, 5], spatial_scale: 0.3, sampling_ratio, aligned: true };
    let align = RoiAlign::new(align).unwrap().forward(&inputs).unwrap();
    let deform = DeformRoiPool::new(DeformRoiPoolSpec { spatial_scale: 0.3, sampling_ratio, ..DeformRoiPoolSpec::new([3, 5]) }).unwrap();
    let (zeros, ones) = (Tensor::<T>::zeros(&device, [3, 2, 3, 5], format).unwrap(), vec![1f32; 3 * 15]);
    let (zeros_f32, ones) = (zeros.cast::<f32>().unwrap(), Tensor::from_slice(&device, [3, 1, 3, 5], &ones).unwrap());
    let in_f32 = |tensor| OffsetOrMask::F32(Tensor::view(tensor));
    for inputs in [inputs, inputs.offset(&zeros), inputs.offset(in_f32(&zeros_f32)), inputs.mask(in_f32(&ones))] {
        assert_eq!(bits(&deform.forward(&inputs).unwrap()), bits(&align), "{format} {sampling_ratio}");
    }
}

#[rstest]
fn deformable_pooling_without_offset_is_roi_align(#[values(0, 2)] sampling_ratio: i32) {
    for format in MemoryFormat::ALL {
        zero_offset_is_roi_align_in::<f32>(format, sampling_ratio);
        zero_offset_is_roi_align_in::<f16>(format, sampling_ratio);
        zero_offset_is_roi_align_in::<bf16>(format, sampling_ratio);
    }
}

/// An offset of gamma 1 by (dx, dy) is a RoI that was moved.
#[test]
fn a_constant_offset_moves_the_roi() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let x = Tensor::<f32>::rand(&device, [1, 8, 16, 16], MemoryFormat::ChannelsLast, 1).unwrap();
    let pool = DeformRoiPool::new(DeformRoiPoolSpec { sampling_ratio: 2, gamma: 1.0, ..DeformRoiPoolSpec::new([2, 2]) }).unwrap();
    let rois = |corners: [f32; 4]| {
        let [x1, y1, x2, y2] = corners;
        RoIs::from_slice(&device, 1, &[[0.0, x1, y1, x2, y2]]).unwrap()
    };
    let offset = Tensor::from_slice(&device, [1, 2, 2, 2], &[0.5f32, 0.5, 0.5, 0.5, -0.25, -0.25, -0.25, -0.25]).unwrap();
    let (here, there) = (rois([2.0, 4.0, 10.0, 8.0]), rois([6.0, 3.0, 14.0, 7.0]));
    let moved = pool.forward(&Inputs::new(&x).rois(&here).offset(&offset)).unwrap().to_vec().unwrap();
    assert_eq!(moved, pool.forward(&Inputs::new(&x).rois(&there)).unwrap().to_vec().unwrap());
}

/// Far more samples than a loop could visit: only those inside the image are.
#[rstest]
fn an_adaptive_grid_of_any_size_ends(#[values(1e4, 1e6, 1.6e7)] far: f32) {
    let device = checked(0);
    let spec = RoiAlignSpec::new([2, 1]);
    let values = [[0.0, -far, -far, far, far], [0.0, -far, 1.0, 3.0, 2.0]];
    for format in MemoryFormat::ALL {
        let x = ramp(&device, [1, 4, 5, 6], format);
        let rois = RoIs::from_slice(&device, 1, &values).unwrap();
        let y = RoiAlign::new(spec).unwrap().forward(&Inputs::new(&x).rois(&rois)).unwrap().to_vec().unwrap();
        let x = Array::from_slice([1, 4, 5, 6], &x.to_vec().unwrap()).unwrap();
        let expected = reference::roi_align(&spec, &x, &Array::from_slice([2, 5], &values.concat()).unwrap()).unwrap();
        for (own, expected) in y.iter().zip(expected.data()) {
            assert!((f64::from(*own) - expected).abs() <= 4e-6 * expected.abs(), "{own} {expected}");
        }
        assert!(y.iter().any(|&v| v != 0.0));
    }
}

/// Offsets that a diverged network may give, none of which may read outside x.
#[test]
fn any_offset_is_safe() {
    let device = checked(0);
    let offsets = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, 1e9, -1e9, 65504.0];
    for (format, sampling_ratio) in [(MemoryFormat::Contiguous, 0), (MemoryFormat::ChannelsLast, 0), (MemoryFormat::ChannelsLast, 33)] {
        let x = Tensor::<f32>::rand(&device, [1, 8, 40, 40], format, 1).unwrap();
        let rois = RoIs::from_slice(&device, 1, &[[0.0, 1.0, 1.0, 39.0, 39.0]; 8]).unwrap();
        let values: Vec<f32> = offsets.iter().flat_map(|&v| [v, 0.0]).collect();
        let offset = Tensor::from_slice(&device, [8, 2, 1, 1], &values).unwrap();
        let pool = DeformRoiPool::new(DeformRoiPoolSpec { sampling_ratio, ..DeformRoiPoolSpec::new([1, 1]) }).unwrap();
        let y = pool.forward(&Inputs::new(&x).rois(&rois).offset(&offset)).unwrap().to_vec().unwrap();
        assert_eq!(y, [0.0; 64], "{format} {sampling_ratio}");
    }
}

#[test]
fn nothing_to_pool() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let align = RoiAlign::new(RoiAlignSpec::new([3, 2])).unwrap();
    for n in [0, 2] {
        let x = Tensor::<f32>::rand(&device, [n, 3, 5, 5], MemoryFormat::Contiguous, 1).unwrap();
        let rois = RoIs::from_slice(&device, n, &[]).unwrap();
        let launches = device.launches();
        assert_eq!(align.forward(&Inputs::new(&x).rois(&rois)).unwrap().shape(), [0, 3, 3, 2]);
        assert_eq!(device.launches(), launches);
    }
    // no channels
    let x = Tensor::<f32>::zeros(&device, [1, 0, 5, 5], MemoryFormat::ChannelsLast).unwrap();
    let rois = RoIs::from_slice(&device, 1, &[[0.0; 5]]).unwrap();
    assert_eq!(align.forward(&Inputs::new(&x).rois(&rois)).unwrap().shape(), [1, 0, 3, 2]);
}

/// RoIs that a detector left on the device: bad batch indices give zeros through `run`, and an error from `forward`.
#[test]
fn batch_indices_out_of_range() {
    let device = checked(0);
    for bad in [-1.0, 2.0, 0.5, f32::NAN, f32::INFINITY, 3e9] {
        let refused = RoIs::from_slice(&device, 2, &[[bad, 0.0, 0.0, 4.0, 4.0]]);
        assert!(matches!(refused, Err(Error::Attribute { name: "a RoI's batch index", .. })), "{bad}");
    }
    let values = [[-1.0, 0., 0., 4., 4.], [2.0, 0., 0., 4., 4.], [f32::NAN, 0., 0., 4., 4.], [1.0, 0., 0., 4., 4.], [3e9, 0., 0., 4., 4.]];
    let on_device = Tensor::from_slice(&device, [5, 5, 1, 1], &values.concat()).unwrap();
    let rois = RoisView::from_tensor(&on_device).unwrap();
    let max = RoiPool::new(RoiPoolSpec::new([1, 1])).unwrap();
    let align = RoiAlign::new(RoiAlignSpec::new([1, 1])).unwrap();
    for format in MemoryFormat::ALL {
        let x = ramp(&device, [2, 1, 5, 5], format);
        let inputs = Inputs::new(&x).rois(rois);
        let request = PlanRequest::new(x.shape()).format(format).rois(5);
        let run = |plan: warpconv::Plan<f32>| {
            let mut y = Tensor::zeros(&device, [5, 1, 1, 1], format).unwrap();
            plan.run(&inputs, &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
            y.to_vec().unwrap()
        };
        assert_eq!(run(max.plan(&device, &request).unwrap()), [0.0, 0.0, 0.0, 44.0, 0.0], "{format}");
        assert_eq!(run(align.plan(&device, &request).unwrap()), [0.0, 0.0, 0.0, 22.0, 0.0], "{format}");
        assert!(matches!(max.forward(&inputs), Err(Error::Attribute { name: "a RoI's batch index", .. })));
    }
    let good = Tensor::from_slice(&device, [1, 5, 1, 1], &values[3]).unwrap();
    let x = ramp(&device, [2, 1, 5, 5], MemoryFormat::Contiguous);
    let y = max.forward(&Inputs::new(&x).rois(RoisView::from_tensor(&good).unwrap())).unwrap();
    assert_eq!(y.to_vec().unwrap(), [44.0]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let request = |x| PlanRequest::new(x).rois(2);
    let plan = |layer: &DeformRoiPool, request: &PlanRequest| layer.plan::<f32>(&device, request).map(|_| ());
    let deform = DeformRoiPoolSpec::new([2, 2]);
    assert!(matches!(DeformRoiPool::new(DeformRoiPoolSpec { output_size: [0, 2], ..deform }), Err(Error::Attribute { .. })));
    assert!(matches!(DeformRoiPool::new(DeformRoiPoolSpec { offset_groups: 0, ..deform }), Err(Error::Attribute { .. })));
    assert!(matches!(DeformRoiPool::new(DeformRoiPoolSpec { gamma: f32::NAN, ..deform }), Err(Error::Attribute { .. })));
    for spatial_scale in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        assert!(matches!(RoiPool::new(RoiPoolSpec { spatial_scale, output_size: [1, 1] }), Err(Error::Attribute { .. })));
    }
    assert!(matches!(RoiAlign::new(RoiAlignSpec { sampling_ratio: 4097, ..RoiAlignSpec::new([1, 1]) }), Err(Error::Limit { .. })));
    let classes = DeformRoiPool::new(DeformRoiPoolSpec { offset_groups: 3, ..deform }).unwrap();
    assert!(matches!(plan(&classes, &request([1, 8, 4, 4])), Err(Error::Divisibility { name: "C_out", .. })));
    let sensitive = DeformRoiPool::new(DeformRoiPoolSpec { position_sensitive: true, ..deform }).unwrap();
    assert!(matches!(plan(&sensitive, &request([1, 6, 4, 4])), Err(Error::Divisibility { name: "C", .. })));
    let layer = DeformRoiPool::new(deform).unwrap();
    assert!(matches!(plan(&layer, &PlanRequest::new([1, 6, 4, 4])), Err(Error::MissingTensor { .. })));
    assert!(matches!(plan(&layer, &request([1, 6, 0, 4])), Err(Error::Attribute { .. })));
    assert!(matches!(plan(&layer, &request([1, 1, 1 << 25, 1])), Err(Error::Limit { .. })));
    assert!(matches!(plan(&layer, &PlanRequest::new([1, 6, 4, 4]).rois(usize::MAX)), Err(Error::Overflow { .. })));
    assert!(matches!(plan(&layer, &PlanRequest::new([1, 1, 4, 4]).rois(1 << 30)), Err(Error::NoKernel { .. } | Error::Limit { .. })));
    for json in [r#"{"op": "roi_align", "attrs": {}}"#, r#"{"op": "roi_pool", "attrs": {"output_size": 2, "aligned": true}}"#] {
        assert!(matches!(LayerSpec::from_json(json), Err(Error::Parse { .. })), "{json}");
    }

    let x = Tensor::<f32>::rand(&device, [1, 6, 4, 4], MemoryFormat::Contiguous, 1).unwrap();
    let rois = RoIs::from_slice(&device, 1, &[[0.0; 5]; 2]).unwrap();
    assert!(matches!(layer.forward(&Inputs::new(&x)), Err(Error::MissingTensor { .. })));
    let wrong = Tensor::<f32>::zeros(&device, [2, 2, 2, 3], MemoryFormat::Contiguous).unwrap();
    assert!(matches!(layer.forward(&Inputs::new(&x).rois(&rois).offset(&wrong)), Err(Error::Shape { name: "offset", .. })));
    let right = Tensor::<f32>::zeros(&device, [2, 2, 2, 2], MemoryFormat::Contiguous).unwrap();
    let max = RoiPool::new(RoiPoolSpec::new([2, 2])).unwrap();
    assert!(matches!(max.forward(&Inputs::new(&x).rois(&rois).offset(&right)), Err(Error::UnexpectedTensor { .. })));
    let larger = RoIs::from_slice(&device, 2, &[[1.0; 5]; 2]).unwrap();
    assert!(matches!(max.forward(&Inputs::new(&x).rois(&larger)), Err(Error::Attribute { .. })), "made for a larger batch");
    let plan = max.plan::<f32>(&device, &PlanRequest::new(x.shape()).rois(3)).unwrap();
    let mut y = Tensor::zeros(&device, [3, 6, 2, 2], MemoryFormat::Contiguous).unwrap();
    let three = plan.run(&Inputs::new(&x).rois(&rois), &mut y, Workspace::none(), &Stream::default_of(&device));
    assert!(matches!(three, Err(Error::Shape { name: "rois", .. })));
}

/// What is chosen: vectors over channels where there are any.
#[test]
fn channels_last_takes_vectors() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let chosen = |x: [usize; 4], format| {
        let align = RoiAlign::new(RoiAlignSpec { sampling_ratio: 2, ..RoiAlignSpec::new([7, 7]) }).unwrap();
        align.plan::<f16>(&device, &PlanRequest::new(x).format(format).rois(512)).unwrap().explain().kernel
    };
    assert_eq!(chosen([2, 256, 50, 68], MemoryFormat::ChannelsLast), "roi_align_f16_channels_last_v8");
    assert_eq!(chosen([2, 255, 50, 68], MemoryFormat::ChannelsLast), "roi_align_f16_channels_last_v1");
    assert_eq!(chosen([2, 256, 50, 68], MemoryFormat::Contiguous), "roi_align_f16_planes");
}

/// A lane computes one row's or column's position for all the channels of its warp.
#[test]
fn positions_are_computed_once_for_a_warp() {
    let device = checked(0);
    let x = Tensor::<f16>::rand(&device, [1, 256, 16, 16], MemoryFormat::ChannelsLast, 1).unwrap();
    let rois = RoIs::from_slice(&device, 1, &[[0.0, 1.0, 1.0, 15.0, 15.0]]).unwrap();
    let align = RoiAlign::new(RoiAlignSpec { sampling_ratio: 2, ..RoiAlignSpec::new([7, 7]) }).unwrap();
    let request = PlanRequest::new(x.shape()).format(x.format()).rois(1).kernel("roi_align_f16_channels_last_v8");
    let plan = align.plan::<f16>(&device, &request).unwrap();
    let mut y = Tensor::zeros(&device, plan.output_shape(), x.format()).unwrap();
    plan.run(&Inputs::new(&x).rois(&rois), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    let counters = device.last_launch_counters().unwrap();
    let bins = 7 * 7;
    assert_eq!((counters.shared_bytes_written, counters.bank_conflicts), (bins * 32 * 16, 0));
    let x = counters.operands.iter().find(|operand| operand.name == "x").unwrap();
    assert_eq!(x.bytes_read, bins * 2 * 2 * 4 * 256 * 2);
    let y = counters.operands.iter().find(|operand| operand.name == "y").unwrap();
    assert_eq!((y.bytes_written, y.unique_bytes), (bins * 256 * 2, bins * 256 * 2));
}
