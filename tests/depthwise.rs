//! Depthwise convolution on the host device: every kernel of its family against the oracle at the edges of vectors, strips and
//! tiles, and which of them real layers get.

use half::f16;
use rstest::rstest;
use std::collections::BTreeSet;
use warpconv::cases::{Problem, Values};
use warpconv::check::{Arrays, Case, Kernels};
use warpconv::{Activation, Conv2d, Conv2dSpec, DType, Device, HostOptions, Layer, MemoryFormat, Padding, Parameter, PlanRequest};
use warpconv::{Shape, reference};

fn depthwise(x: Shape, multiplier: usize, kernel: [usize; 2], stride: usize, dilation: usize, padding: [usize; 4]) -> Problem {
    let activation = if x[1].is_multiple_of(3) { Activation::Silu } else { Activation::None };
    let spec = Conv2dSpec { stride: [stride; 2], padding: Padding::Explicit(padding), dilation: [dilation; 2], groups: x[1], activation };
    let weight = [x[1] * multiplier, 1, kernel[0], kernel[1]];
    let bias = (!x[1].is_multiple_of(4)).then_some(&weight[..1]);
    Problem::conv2d(spec, x, weight).with("bias", bias).with_residual(x[2].is_multiple_of(2))
}

/// Runs every depthwise kernel that applies, and gives their names.
fn check(problem: &Problem) -> BTreeSet<&'static str> {
    check_on(&Device::host().unwrap(), problem)
}

fn check_on(device: &Device, problem: &Problem) -> BTreeSet<&'static str> {
    let mut kernels = BTreeSet::new();
    for dtype in DType::ALL {
        let tensors: Arrays = problem.tensors(dtype).unwrap();
        let (output, scale) = reference::layer(&problem.layer, &tensors).unwrap();
        let case = Case::new(problem.layer, &tensors, output, scale.into_data()).unwrap().margins(problem.x_margin, problem.y_margin);
        for format in MemoryFormat::ALL {
            for run in case.check(dtype, format, format, Kernels::All, device) {
                if let Err(failure) = run.outcome {
                    panic!("{problem:?}: {dtype} {format} {}: {failure}", run.kernel);
                }
                kernels.insert(run.kernel);
            }
        }
    }
    kernels.retain(|kernel| kernel.starts_with("conv_depthwise"));
    kernels
}

#[rstest]
fn the_unrolled_kernels_agree_with_the_oracle(#[values(3, 5, 7)] size: usize, #[values(1, 2)] stride: usize) {
    let same = [size / 2; 4];
    let problems = [
        // a column more than a strip, a row more than two strips of 4
        depthwise([2, 8, 9, 5], 1, [size; 2], stride, 1, same),
        // smaller than the kernel
        depthwise([1, 16, 2, 3], 1, [size; 2], stride, 1, same),
        // several tiles along every axis; channels for less than a block, and more than one
        depthwise([1, 24, 70, 19], 1, [size; 2], stride, 1, same),
        depthwise([1, 8, 6, 150], 1, [size; 2], stride, 1, same),
        depthwise([2, 264, 8, 8], 1, [size; 2], stride, 1, same),
        // no padding; padding that differs on every side, above the kernel
        depthwise([1, 6, 12, 14], 1, [size; 2], stride, 1, [0; 4]),
        depthwise([1, 10, 7, 8], 1, [size; 2], stride, 1, [size + 2, 1, 0, size + 4]),
        // odd channels
        depthwise([1, 33, 8, 9], 1, [size; 2], stride, 1, same),
        depthwise([1, 3, 16, 18], 1, [size; 2], stride, 1, same),
        Problem { values: Values::FullMantissa, ..depthwise([1, 8, 16, 15], 1, [size; 2], stride, 1, same) },
        Problem { values: Values::Special, ..depthwise([1, 8, 16, 15], 1, [size; 2], stride, 1, same) },
    ];
    let mut kernels: BTreeSet<_> = problems.iter().flat_map(check).collect();
    // slices that no vector is aligned in, and slices that every vector is aligned in
    for [x_margin, y_margin] in [[[1, 3], [3, 2]], [[8, 8], [16, 8]]] {
        kernels.extend(check(&Problem { x_margin, y_margin, ..depthwise([2, 16, 9, 10], 1, [size; 2], stride, 1, same) }));
    }
    // two widths of vectors at 3x3, one above, and the contiguous kernel; in each dtype, and the kernels for any size
    let unrolled = kernels.iter().filter(|kernel| kernel.contains(&format!("{size}x{size}_s{stride}"))).count();
    assert_eq!(unrolled, if size == 3 { 9 } else { 6 }, "{kernels:?}");
    assert_eq!(kernels.iter().filter(|kernel| kernel.contains("any")).count(), 9, "{kernels:?}");
}

#[test]
fn any_size_stride_dilation_and_multiplier_agrees_with_the_oracle() {
    for problem in [
        depthwise([1, 8, 20, 33], 1, [31, 31], 1, 1, [15; 4]),
        depthwise([2, 3, 9, 40], 1, [13, 9], 1, 1, [6, 4, 6, 4]),
        depthwise([1, 8, 30, 30], 1, [3, 3], 1, 12, [12; 4]),
        depthwise([1, 16, 11, 12], 1, [5, 3], 3, 2, [1, 2, 3, 4]),
        depthwise([1, 4, 10, 11], 2, [3, 3], 1, 1, [1; 4]),
        depthwise([2, 5, 10, 12], 3, [7, 7], 2, 1, [3; 4]),
        depthwise([1, 8, 9, 9], 1, [1, 1], 1, 1, [0; 4]),
        depthwise([1, 8, 9, 31], 1, [1, 21], 1, 1, [0, 10, 0, 10]),
        depthwise([1, 8, 9, 9], 1, [2, 4], 1, 1, [0, 1, 1, 2]),
        Problem { values: Values::Special, ..depthwise([1, 8, 16, 15], 1, [9, 9], 1, 1, [4; 4]) },
        Problem { x_margin: [3, 1], y_margin: [1, 1], ..depthwise([1, 8, 10, 10], 2, [4, 4], 1, 1, [2; 4]) },
    ] {
        let kernels = check(&problem);
        assert!(kernels.iter().any(|kernel| kernel.contains("contiguous_any")), "{problem:?}: {kernels:?}");
        assert!(kernels.iter().any(|kernel| kernel.contains("channels_last_any")), "{problem:?}: {kernels:?}");
    }
}

#[rstest]
fn the_checker_finds_nothing(#[values(1, 2)] seed: u64) {
    let device = Device::host_with(HostOptions { checked: true, seed, ..Default::default() }).unwrap();
    for size in [3, 5, 7] {
        for stride in [1, 2] {
            check_on(&device, &depthwise([1, 8, 9, 13], 1, [size; 2], stride, 1, [size / 2; 4]));
        }
    }
    check_on(&device, &depthwise([2, 3, 9, 20], 1, [13, 9], 1, 1, [6, 4, 6, 4]));
    check_on(&device, &depthwise([1, 4, 10, 11], 2, [3, 3], 2, 3, [3; 4]));
}

/// The kernel that a layer of a real network gets: channels, image, kernel, stride and dilation.
#[rstest]
#[case::mobilenet_v2_first([16, 32, 112, 112], 3, 1, 1, "3x3_s1_v8", "3x3_s1")]
#[case::mobilenet_v2_downsampling([16, 96, 112, 112], 3, 2, 1, "3x3_s2_v8", "3x3_s2")]
#[case::mobilenet_v2_middle([16, 576, 14, 14], 3, 1, 1, "3x3_s1_v8", "3x3_s1")]
#[case::mobilenet_v2_alone([1, 576, 14, 14], 3, 1, 1, "3x3_s1_v8", "3x3_s1")]
#[case::ten_channels([16, 10, 112, 112], 3, 1, 1, "3x3_s1_v2", "3x3_s1")]
#[case::efficientnet_b0([16, 240, 28, 28], 5, 1, 1, "5x5_s1_v2", "5x5_s1")]
#[case::efficientnet_b0_downsampling([16, 144, 56, 56], 5, 2, 1, "5x5_s2_v2", "5x5_s2")]
#[case::convnext_t_first([16, 96, 56, 56], 7, 1, 1, "7x7_s1_v2", "7x7_s1")]
#[case::convnext_t_last([16, 768, 7, 7], 7, 1, 1, "7x7_s1_v2", "7x7_s1")]
#[case::replknet([4, 256, 56, 56], 31, 1, 1, "any_v8", "any")]
#[case::deeplab_v3_plus([4, 304, 65, 65], 3, 1, 12, "any_v8", "any")]
fn real_layers_get_the_kernel_made_for_them(
    #[case] x: Shape,
    #[case] size: usize,
    #[case] stride: usize,
    #[case] dilation: usize,
    #[case] channels_last: &str,
    #[case] contiguous: &str,
) {
    let device = Device::host().unwrap();
    let weight = Parameter::new(&[x[1], 1, size, size], &vec![0.5; x[1] * size * size]).unwrap();
    let padding = Padding::all(dilation * (size / 2));
    let spec = Conv2dSpec { stride: [stride; 2], padding, dilation: [dilation; 2], groups: x[1], ..Default::default() };
    let layer = Conv2d::new(spec, weight).unwrap();
    for (format, expected) in [(MemoryFormat::ChannelsLast, channels_last), (MemoryFormat::Contiguous, contiguous)] {
        let plan = layer.plan::<f16>(&device, &PlanRequest::new(x).format(format)).unwrap();
        assert_eq!(plan.explain().kernel, format!("conv_depthwise_f16_{format}_{expected}"), "{}", plan.explain());
    }
}
