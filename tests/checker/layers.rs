//! The crate's own kernels, by way of its layers: nothing is found, and the bits are the same in every order of threads.

use half::{bf16, f16};
use warpconv::cases::{Problem, kinds};
use warpconv::check::{Case, Kernels};
use warpconv::{
    Activation, Conv2d, Conv2dSpec, DType, Device, Element, Inputs, LaunchCounters, Layer, MemoryFormat, Padding, Parameter, PlanRequest,
    Shape, Stream, Tensor, Workspace, reference,
};

use crate::common::{self, bits};

use super::{SEEDS, checked};

/// What is read and written in place: x and y are slices of wider tensors, the residual a third one or y itself.
fn run_conv2d<T: Element>(device: &Device, layer: &Conv2d, x: Shape, formats: [MemoryFormat; 2]) -> Vec<Vec<u32>> {
    let random = |[n, c, h, w]: Shape, more: usize, format, seed| Tensor::<T>::randn(device, [n, c + more, h, w], format, seed).unwrap();
    let request = PlanRequest::new(x).format(formats[0]).output_format(formats[1]);
    let candidates = layer.plan::<T>(device, &request).unwrap().explain().choices.clone();
    let mut results = Vec::new();
    for kernel in candidates.into_iter().filter(|c| c.verdict.is_ok()).map(|c| c.kernel) {
        let plan = layer.plan::<T>(device, &request.clone().kernel(kernel)).unwrap();
        let c_out = plan.output_shape()[1];
        let wide_x = random(x, 5, formats[0], 1);
        let view = wide_x.channels(2..2 + x[1]).unwrap();
        let residual = random(plan.output_shape(), 0, formats[0], 2);
        let stream = Stream::default_of(device);
        for inputs in [Inputs::new(view), Inputs::new(view).residual(&residual), Inputs::new(view).accumulate()] {
            let mut y = random(plan.output_shape(), 4, formats[1], 3);
            let slice = y.channels_mut(3..3 + c_out).unwrap();
            plan.run(&inputs, slice, Workspace::none(), &stream).unwrap_or_else(|e| panic!("{kernel} on {x:?}: {e}"));
            results.push(bits(&y));
        }
    }
    results
}

fn conv2d_is_clean<T: Element>() {
    let square = |stride: usize, dilation: usize, groups| Conv2dSpec {
        stride: [stride, stride],
        dilation: [dilation, dilation],
        groups,
        padding: Padding::all(1),
        activation: Activation::Prelu,
    };
    let uneven = Conv2dSpec {
        stride: [2, 1],
        dilation: [1, 3],
        padding: Padding::Explicit([0, 3, 2, 1]),
        activation: Activation::Silu,
        ..Default::default()
    };
    let wide = Conv2dSpec { padding: Padding::all(4), dilation: [4, 4], ..Default::default() };
    // (why it is awkward, spec, input, weight)
    let cases: [(&str, Conv2dSpec, Shape, Shape); 6] = [
        ("one element", Conv2dSpec::default(), [1, 1, 1, 1], [1, 1, 1, 1]),
        ("odd channels, 1x1", Conv2dSpec::default(), [2, 7, 5, 3], [9, 7, 1, 1]),
        ("every axis differs", uneven, [2, 3, 9, 8], [5, 3, 3, 2]),
        ("most taps in the padding", wide, [1, 4, 3, 3], [8, 4, 3, 3]),
        ("groups of 2 and 3 channels", square(1, 1, 3), [1, 6, 7, 6], [9, 2, 3, 3]),
        ("depthwise with multiplier 2, stride 2", square(2, 1, 8), [3, 8, 9, 9], [16, 1, 3, 3]),
    ];
    let plain = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let checked = SEEDS.map(checked);
    for (why, spec, x, weight) in cases {
        let values = |count: usize| (0..count).map(|i| (i * 29 % 31) as f32 / 16.0 - 0.9).collect::<Vec<_>>();
        let mut layer = Conv2d::new(spec, Parameter::new(&weight, &values(weight.iter().product())).unwrap()).unwrap();
        layer = layer.with_bias(Parameter::vector(&values(weight[0]))).unwrap();
        if spec.activation == Activation::Prelu {
            layer = layer.with_slope(Parameter::vector(&values(weight[0]))).unwrap();
        }
        for formats in MemoryFormat::ALL.into_iter().flat_map(|a| MemoryFormat::ALL.map(|b| [a, b])) {
            let expected = run_conv2d::<T>(&plain, &layer, x, formats);
            for device in &checked {
                assert!(run_conv2d::<T>(device, &layer, x, formats) == expected, "{why}, {formats:?}: differs in some bit");
            }
        }
    }
}

#[test]
fn conv2d_f32_is_clean_and_the_same_in_every_order() {
    conv2d_is_clean::<f32>();
}

#[test]
fn conv2d_f16_is_clean_and_the_same_in_every_order() {
    conv2d_is_clean::<f16>();
}

#[test]
fn conv2d_bf16_is_clean_and_the_same_in_every_order() {
    conv2d_is_clean::<bf16>();
}

/// A problem of every kind through every kernel that applies: findings are failures, and the bits do not depend on the order of threads.
#[test]
fn every_kernel_gives_the_same_bits_in_every_order() {
    let devices = [Device::host_with(warpconv::HostOptions::default()).unwrap(), common::checked(4), common::checked(5)];
    let mut compared = 0;
    for problem in (0..kinds().count() as u64).map(|index| Problem::random(6, index)) {
        for (dtype, format) in [(DType::F32, MemoryFormat::Contiguous), (DType::F16, MemoryFormat::ChannelsLast)] {
            let tensors = problem.tensors(dtype).unwrap();
            let (output, scale) = reference::layer(&problem.layer, &tensors).unwrap();
            let case = Case::new(problem.layer, &tensors, output, scale.into_data()).unwrap();
            let runs = devices.each_ref().map(|device| case.check(dtype, format, format, Kernels::All, device));
            for ((plain, one), other) in runs[0].iter().zip(&runs[1]).zip(&runs[2]) {
                assert!(
                    plain.outcome.is_ok() && one.outcome.is_ok() && other.outcome.is_ok(),
                    "{plain:?}, {one:?}, {other:?} of {problem:?}"
                );
                assert_eq!((plain.digest, plain.digest), (one.digest, other.digest), "{}: {problem:?}", plain.kernel);
                compared += usize::from(plain.digest.is_some());
            }
        }
    }
    assert!(compared > 500, "{compared}");
}

fn copies_are_clean<T: Element, U: Element>(device: &Device) {
    for shape in [[1, 1, 1, 1], [2, 33, 5, 7], [1, 70, 6, 11], [3, 2, 32, 33]] {
        for format in MemoryFormat::ALL {
            let [n, c, h, w] = shape;
            let wide = Tensor::<T>::randn(device, [n, c + 3, h, w], format, 7).unwrap();
            let slice = wide.channels(1..1 + c).unwrap();
            let values: Vec<f32> = slice.to_vec().unwrap().iter().map(|v| v.to_f32()).collect();
            for to in MemoryFormat::ALL {
                let copy: Vec<f32> = slice.to_format(to).unwrap().to_vec().unwrap().iter().map(|v| v.to_f32()).collect();
                assert_eq!(copy, values, "{shape:?}");
            }
            let rounded: Vec<f32> = values.iter().map(|&v| U::from_f32(v).to_f32()).collect();
            let cast: Vec<f32> = slice.cast::<U>().unwrap().to_vec().unwrap().iter().map(|v| v.to_f32()).collect();
            assert_eq!(cast, rounded, "{shape:?}");
            let whole: Vec<f32> = wide.to_vec().unwrap().iter().map(|v| U::from_f32(v.to_f32()).to_f32()).collect();
            let cast: Vec<f32> = wide.cast::<U>().unwrap().to_vec().unwrap().iter().map(|v| v.to_f32()).collect();
            assert_eq!(cast, whole, "{shape:?}");
        }
    }
}

#[test]
fn copies_between_formats_and_dtypes_are_clean() {
    for seed in SEEDS {
        let device = checked(seed);
        copies_are_clean::<f32, f16>(&device);
        copies_are_clean::<f32, f32>(&device);
        copies_are_clean::<f16, bf16>(&device);
        copies_are_clean::<bf16, f32>(&device);
    }
}

#[test]
fn transpose_moves_every_byte_once_and_meets_no_bank_conflict() {
    fn counters<T: Element>(shape: Shape) -> LaunchCounters {
        let device = checked(0);
        let x = Tensor::<T>::zeros(&device, shape, MemoryFormat::Contiguous).unwrap();
        x.to_format(MemoryFormat::ChannelsLast).unwrap();
        device.last_launch_counters().unwrap()
    }
    for shape in [[1, 64, 8, 8], [2, 33, 5, 7]] {
        let elements: u64 = shape.iter().product::<usize>() as u64;
        for (c, bytes) in [(counters::<f32>(shape), 4 * elements), (counters::<f16>(shape), 2 * elements)] {
            assert_eq!(c.bank_conflicts, 0, "{c:#?}");
            assert_eq!((c.global_bytes_read(), c.global_bytes_written(), c.unique_bytes()), (bytes, bytes, 2 * bytes), "{c:#?}");
        }
    }
}

/// The corpus of the repository, through the program.
#[test]
#[cfg(feature = "cli")]
fn the_corpus_is_clean_in_every_order() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torch_dev");
    for seed in SEEDS {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_warpconv"));
        command.args(["conformance", corpus, "--filter", "^conv2d/", "--deny-skips", "--device", "host", "--checked"]);
        // every kernel in one order, the chosen ones in all
        command.args((seed == SEEDS[0]).then_some("--all-kernels"));
        let output = command.args(["--seed", &seed.to_string()]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.ends_with("89 passed, 0 failed, 0 skipped\n"), "seed {seed}:\n{text}");
    }
}
