//! Depthwise convolution on the host device: every kernel of its family against the oracle at the edges of vectors, strips and
//! tiles, and which of them real layers get.

use half::f16;
use rstest::rstest;
use std::collections::BTreeSet;
use std::sync::LazyLock;
use warpconv::cases::{Problem, Values};
use warpconv::{Activation, Conv2d, Conv2dSpec, Device, Element, Error, Inputs, LaunchCounters, Layer, MemoryFormat};
use warpconv::{Padding, Parameter, PlanRequest, Shape, Stream, Tensor, Workspace};

use crate::common::{bits, check_where, checked};

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host().unwrap());

fn depthwise(x: Shape, multiplier: usize, kernel: [usize; 2], stride: usize, dilation: usize, padding: [usize; 4]) -> Problem {
    let activation = if x[1].is_multiple_of(3) { Activation::Silu } else { Activation::None };
    let spec = Conv2dSpec { stride: [stride; 2], padding: Padding::Explicit(padding), dilation: [dilation; 2], groups: x[1], activation };
    let weight = [x[1] * multiplier, 1, kernel[0], kernel[1]];
    let bias = (!x[1].is_multiple_of(4)).then_some(&weight[..1]);
    Problem::conv2d(spec, x, weight).with("bias", bias).with_residual(x[2].is_multiple_of(2))
}

/// Runs every kernel that applies where input and output have one format, and gives the names of the depthwise ones.
fn depthwise_kernels(problem: &Problem, device: &Device) -> BTreeSet<&'static str> {
    let mut kernels = check_where(problem, device, &|(_, x, y), _| x == y);
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
    let mut kernels: BTreeSet<_> = problems.iter().flat_map(|problem| depthwise_kernels(problem, &DEVICE)).collect();
    // slices that no vector is aligned in, and slices that every vector is aligned in
    for [x_margin, y_margin] in [[[1, 3], [3, 2]], [[8, 8], [16, 8]]] {
        kernels.extend(depthwise_kernels(
            &Problem { x_margin, y_margin, ..depthwise([2, 16, 9, 10], 1, [size; 2], stride, 1, same) },
            &DEVICE,
        ));
    }
    // in each dtype one for channels_last and one for contiguous tensors, at 3x3 of 16 bits a second width of vectors with stride 1; none
    // at 7x7 with stride 2; and the kernels for any size
    let unrolled = kernels.iter().filter(|kernel| kernel.contains(&format!("{size}x{size}_s{stride}"))).count();
    assert_eq!(
        unrolled,
        match [size, stride] {
            [3, 1] => 8,
            [7, 2] => 0,
            _ => 6,
        },
        "{kernels:?}"
    );
    assert_eq!(kernels.iter().filter(|kernel| kernel.contains("any")).count(), 9, "{kernels:?}");
}

#[test]
fn any_size_stride_dilation_and_multiplier_agrees_with_the_oracle() {
    for problem in [
        // larger than the image, with padding larger than the image besides
        depthwise([1, 8, 20, 33], 1, [31, 31], 1, 1, [15; 4]),
        depthwise([1, 8, 3, 5], 1, [9, 9], 1, 1, [9, 12, 4, 11]),
        // not square: fours of taps with and without a rest, one row, one column, one tap
        depthwise([2, 3, 9, 40], 1, [13, 9], 1, 1, [6, 4, 6, 4]),
        depthwise([1, 8, 9, 31], 1, [1, 21], 1, 1, [0, 10, 0, 10]),
        depthwise([1, 16, 9, 10], 1, [1, 7], 1, 1, [0, 3, 0, 3]),
        depthwise([1, 8, 17, 4], 1, [6, 1], 1, 1, [2, 0, 3, 0]),
        depthwise([1, 8, 9, 9], 1, [1, 1], 1, 1, [0; 4]),
        depthwise([1, 8, 9, 9], 1, [1, 1], 3, 2, [0; 4]),
        depthwise([1, 8, 9, 9], 1, [2, 4], 1, 1, [0, 1, 1, 2]),
        // outputs of one row or column, of several blocks in each direction
        depthwise([1, 8, 30, 1], 1, [5, 3], 1, 1, [2, 1, 2, 1]),
        depthwise([1, 72, 41, 70], 1, [4, 4], 1, 1, [2, 1, 1, 2]),
        // dilation: outputs in as many phases, some without a second output; more phases than outputs
        depthwise([1, 16, 20, 33], 1, [3, 3], 1, 6, [6; 4]),
        depthwise([1, 8, 30, 30], 1, [3, 3], 1, 12, [12; 4]),
        depthwise([1, 8, 5, 7], 1, [3, 3], 1, 18, [18; 4]),
        // stride: taps in as many phases, more phases than taps; with dilation, coprime and not
        depthwise([2, 24, 21, 19], 1, [13, 13], 2, 1, [6; 4]),
        depthwise([1, 8, 23, 30], 1, [3, 2], 4, 1, [1; 4]),
        depthwise([1, 16, 11, 12], 1, [5, 3], 3, 2, [1, 2, 3, 4]),
        depthwise([1, 8, 30, 41], 1, [3, 4], 6, 4, [3; 4]),
        depthwise([1, 8, 25, 26], 1, [4, 3], 2, 4, [4; 4]),
        // no vector divides the channels; several outputs of an input channel, which a block's outputs begin in the middle of
        depthwise([1, 33, 9, 14], 1, [4, 5], 1, 1, [2; 4]),
        depthwise([1, 4, 10, 11], 2, [3, 3], 1, 1, [1; 4]),
        depthwise([2, 5, 10, 12], 3, [7, 7], 2, 1, [3; 4]),
        depthwise([1, 23, 6, 9], 3, [3, 5], 1, 2, [2; 4]),
        // zeros beyond the last tap must not meet an infinity
        Problem { values: Values::Special, ..depthwise([1, 8, 16, 15], 1, [9, 9], 1, 1, [4; 4]) },
        Problem { values: Values::Special, ..depthwise([1, 8, 12, 15], 1, [3, 7], 2, 1, [1, 3, 1, 3]) },
        Problem { values: Values::Special, ..depthwise([1, 5, 12, 15], 1, [4, 6], 1, 1, [2; 4]) },
        Problem { values: Values::FullMantissa, ..depthwise([1, 8, 12, 15], 1, [6, 7], 2, 1, [3; 4]) },
        // slices that no vector is aligned in, and slices that every vector is aligned in
        Problem { x_margin: [3, 1], y_margin: [1, 1], ..depthwise([1, 8, 10, 10], 2, [4, 4], 1, 1, [2; 4]) },
        Problem { x_margin: [8, 8], y_margin: [16, 8], ..depthwise([2, 16, 9, 10], 1, [4, 4], 1, 1, [2; 4]) },
    ] {
        let kernels = depthwise_kernels(&problem, &DEVICE);
        assert!(kernels.iter().any(|kernel| kernel.contains("contiguous_any")), "{problem:?}: {kernels:?}");
        assert!(kernels.iter().any(|kernel| kernel.contains("channels_last_any")), "{problem:?}: {kernels:?}");
    }
}

#[test]
fn the_banded_kernels_agree_with_the_oracle() {
    let same = |size: usize| [size / 2; 4];
    let mut kernels = BTreeSet::new();
    for problem in [
        // less than a block, an odd number of channels, several tiles along every axis
        depthwise([1, 8, 9, 11], 1, [7; 2], 1, 1, same(7)),
        depthwise([1, 3, 17, 33], 1, [7; 2], 1, 1, same(7)),
        depthwise([2, 20, 35, 40], 1, [7; 2], 1, 1, same(7)),
        // the widest of each width, with even and odd padding; small and large against the image
        depthwise([1, 4, 10, 38], 1, [3, 9], 1, 1, [1, 4, 1, 4]),
        depthwise([1, 6, 12, 20], 1, [9, 9], 1, 1, [4, 3, 4, 5]),
        depthwise([1, 4, 12, 20], 1, [2, 25], 1, 1, [0, 12, 1, 12]),
        depthwise([1, 5, 8, 14], 1, [31; 2], 1, 1, same(31)),
        // one row of weights, one column, no padding
        depthwise([1, 8, 9, 31], 1, [1, 21], 1, 1, [0, 10, 0, 10]),
        depthwise([1, 8, 40, 9], 1, [21, 1], 1, 1, [0; 4]),
        Problem { values: Values::FullMantissa, ..depthwise([1, 8, 16, 15], 1, [13; 2], 1, 1, same(13)) },
        Problem { values: Values::Special, ..depthwise([1, 8, 16, 15], 1, [9; 2], 1, 1, same(9)) },
        Problem { values: Values::Special, ..depthwise([2, 5, 20, 36], 1, [13; 2], 1, 1, same(13)) },
        // slices that nothing is aligned in, and slices that everything is aligned in
        Problem { x_margin: [1, 3], y_margin: [3, 2], ..depthwise([2, 16, 9, 10], 1, [7; 2], 1, 1, same(7)) },
        Problem { x_margin: [8, 8], y_margin: [16, 8], ..depthwise([2, 16, 9, 16], 1, [7; 2], 1, 1, same(7)) },
    ] {
        kernels.extend(depthwise_kernels(&problem, &DEVICE));
    }
    assert_eq!(kernels.iter().filter(|kernel| kernel.contains("banded")).count(), 12, "{kernels:?}");
}

/// An infinity meets the zeros of a band beside the weights: outputs that do not see it must stay finite.
#[test]
fn an_infinity_reaches_only_the_outputs_that_see_it() {
    let device = Device::host().unwrap();
    let spec = Conv2dSpec { padding: Padding::all(3), groups: 1, ..Default::default() };
    let layer = Conv2d::new(spec, Parameter::new(&[1, 1, 7, 7], &[1.0; 49]).unwrap()).unwrap();
    let mut values = vec![f16::ONE; 20 * 40];
    values[10 * 40 + 17] = f16::INFINITY;
    let x = Tensor::from_slice(&device, [1, 1, 20, 40], &values).unwrap();
    for rows in [16, 32] {
        let request = PlanRequest::new(x.shape()).kernel(format!("conv_depthwise_f16_banded_16x{rows}"));
        let plan = layer.plan::<f16>(&device, &request).unwrap();
        let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
        for (at, value) in y.to_vec().unwrap().into_iter().enumerate() {
            let sees = (at / 40).abs_diff(10) <= 3 && (at % 40).abs_diff(17) <= 3;
            assert!(if sees { value == f16::INFINITY } else { value.is_finite() }, "{rows} rows, pixel {at}: {value}");
        }
    }
}

/// What the banded kernels move: each output once, of the input what the blocks' patches cover, and nothing in turns that banks
/// of shared memory could do at once.
#[rstest]
fn the_banded_kernels_read_a_patch_once_and_without_conflicts(
    #[values(MemoryFormat::Contiguous, MemoryFormat::ChannelsLast)] format: MemoryFormat,
    #[values((7, "16x16"), (13, "32x32"), (31, "48x16"))] (size, tile): (usize, &str),
) {
    let device = checked(0);
    let (channels, image) = (16, [32, 64]);
    let weight = Parameter::new(&[channels, 1, size, size], &vec![0.5; channels * size * size]).unwrap();
    let spec = Conv2dSpec { padding: Padding::all(size / 2), groups: channels, ..Default::default() };
    let layer = Conv2d::new(spec, weight).unwrap();
    let x = Tensor::<f16>::rand(&device, [1, channels, image[0], image[1]], format, 1).unwrap();
    let request = PlanRequest::new(x.shape()).format(format).kernel(format!("conv_depthwise_f16_banded_{tile}"));
    let plan = layer.plan::<f16>(&device, &request).unwrap();
    let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    let counters = device.last_launch_counters().unwrap();
    assert_eq!(counters.bank_conflicts, 0, "{counters:?}");
    let bytes = (channels * image[0] * image[1] * 2) as u64;
    let [x, y] = ["x", "y"].map(|name| counters.operand(name).unwrap());
    assert_eq!((x.unique_bytes, y.unique_bytes, y.bytes_written), (bytes, bytes, bytes));
    // the patches, without what lies in the padding
    let (width, rows) = tile.split_once('x').unwrap();
    let (pitch, rows) = (24 + width.parse::<usize>().unwrap(), rows.parse::<usize>().unwrap());
    let (shift, pad) = (size / 2 % 2, size / 2);
    let covered = |tile: usize, from: usize, span: usize, image: usize| {
        (0..image / tile).map(|t| (t * tile + span).saturating_sub(from).min(image) - (t * tile).saturating_sub(from)).sum::<usize>()
    };
    let seen = covered(rows, pad, rows - 1 + size, image[0]) * covered(32, pad + shift, pitch, image[1]);
    assert_eq!(x.bytes_read, (channels * seen * 2) as u64);
}

/// A depthwise layer in channels_last through one kernel, on the checked host device: the bits of its output, and the counters.
fn counted<T: Element>(kernel: &str, x: Shape, size: usize, stride: usize, dilation: usize, seed: u64) -> (Vec<u32>, LaunchCounters) {
    let device = checked(seed);
    let values: Vec<f32> = (0..x[1] * size * size).map(|i| (i as f32).sin()).collect();
    let weight = Parameter::new(&[x[1], 1, size, size], &values).unwrap();
    let padding = Padding::all(dilation * (size / 2));
    let spec = Conv2dSpec { stride: [stride; 2], padding, dilation: [dilation; 2], groups: x[1], ..Default::default() };
    let layer = Conv2d::new(spec, weight).unwrap();
    let x = Tensor::<T>::randn(&device, x, MemoryFormat::ChannelsLast, 1).unwrap();
    let plan = layer.plan::<T>(&device, &PlanRequest::new(x.shape()).format(MemoryFormat::ChannelsLast).kernel(kernel)).unwrap();
    let mut y = Tensor::<T>::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    let counters = device.last_launch_counters().unwrap();
    (bits(&y), counters)
}

/// What the channels_last kernels for any size move: each output once, of the input the blocks' patches, and at most a fifth of
/// the passes of shared memory for bank conflicts (where a warp's strips are not all below each other). Of a dilated kernel the
/// patches are no larger.
#[rstest]
#[case::many_channels([8, 64, 32, 32], 9, 1, 1, 2.3)]
#[case::strided([8, 32, 32, 32], 13, 2, 1, 2.3)]
#[case::dilated([1, 64, 36, 48], 3, 1, 6, 1.4)]
fn the_channels_last_kernels_for_any_size_read_a_patch_once(
    #[case] x: Shape,
    #[case] size: usize,
    #[case] stride: usize,
    #[case] dilation: usize,
    #[case] most: f64,
) {
    for (kernel, counters) in [
        ("f16_v8", counted::<f16>("conv_depthwise_f16_channels_last_any_v8", x, size, stride, dilation, 0).1),
        ("f32_v4", counted::<f32>("conv_depthwise_f32_channels_last_any_v4", x, size, stride, dilation, 0).1),
    ] {
        let [x, y] = ["x", "y"].map(|name| counters.operand(name).unwrap());
        assert_eq!((x.unique_bytes, y.bytes_written), (x.bytes, y.bytes), "{kernel}");
        let read = x.block_sectors as f64 * 32.0 / x.bytes as f64;
        let conflicts = counters.bank_conflicts as f64 / counters.shared_wavefronts as f64;
        println!("{kernel}: {} blocks read x {read:.2} times, {conflicts:.3} of the wavefronts are conflicts", counters.blocks);
        assert!(read <= most && conflicts <= 0.2, "{kernel}: {read} {conflicts} {counters:?}");
        // a thread reads for itself alone
        assert_eq!(x.bytes_read, x.block_sectors * 32, "{kernel}");
    }
}

#[test]
fn the_order_of_threads_changes_no_bit() {
    for (stride, dilation) in [(1, 1), (2, 1), (1, 3)] {
        let run = |seed| counted::<f16>("conv_depthwise_f16_channels_last_any_v8", [2, 24, 13, 18], 5, stride, dilation, seed).0;
        let first = run(0);
        assert!([1, 2, 3].into_iter().all(|seed| run(seed) == first), "stride {stride}, dilation {dilation}");
    }
}

#[test]
fn what_does_not_fit_shared_memory_is_refused_with_the_reason() {
    let device = Device::host().unwrap();
    let weight = Parameter::new(&[8, 1, 120, 120], &vec![0.5; 8 * 120 * 120]).unwrap();
    let layer = Conv2d::new(Conv2dSpec { groups: 8, ..Default::default() }, weight).unwrap();
    let request = PlanRequest::new([1, 8, 130, 130]).format(MemoryFormat::ChannelsLast);
    let refused = layer.plan::<f16>(&device, &request.kernel("conv_depthwise_f16_channels_last_any_v8")).unwrap_err();
    assert!(matches!(&refused, Error::NoKernel { reasons, .. } if reasons.contains("shared memory that a block has")), "{refused}");
}

#[rstest]
fn the_checker_finds_nothing(#[values(1, 2)] seed: u64) {
    let device = checked(seed);
    for size in [3, 5, 7] {
        for stride in [1, 2] {
            depthwise_kernels(&depthwise([1, 8, 9, 13], 1, [size; 2], stride, 1, [size / 2; 4]), &device);
        }
    }
    depthwise_kernels(&depthwise([2, 3, 9, 20], 1, [13, 9], 1, 1, [6, 4, 6, 4]), &device);
    depthwise_kernels(&depthwise([1, 4, 10, 11], 2, [3, 3], 2, 3, [3; 4]), &device);
    depthwise_kernels(&depthwise([1, 24, 13, 11], 1, [5, 6], 2, 1, [2; 4]), &device);
    depthwise_kernels(&depthwise([1, 5, 17, 34], 1, [7; 2], 1, 1, [3; 4]), &device);
    depthwise_kernels(&Problem { values: Values::Special, ..depthwise([1, 4, 9, 12], 1, [15; 2], 1, 1, [7; 4]) }, &device);
    depthwise_kernels(&depthwise([1, 4, 9, 12], 1, [11, 27], 1, 1, [5, 13, 5, 13]), &device);
}

/// The kernel that a layer of a real network gets: channels, image, kernel, stride and dilation.
#[rstest]
#[case::mobilenet_v2_first([16, 32, 112, 112], 3, 1, 1, "3x3_s1_v8", "3x3_s1")]
#[case::mobilenet_v2_downsampling([16, 96, 112, 112], 3, 2, 1, "3x3_s2_v8", "3x3_s2")]
#[case::mobilenet_v2_middle([16, 576, 14, 14], 3, 1, 1, "3x3_s1_v8", "3x3_s1")]
#[case::mobilenet_v2_alone([1, 576, 14, 14], 3, 1, 1, "3x3_s1_v8", "3x3_s1")]
#[case::ten_channels([16, 10, 112, 112], 3, 1, 1, "any_v1", "3x3_s1")]
#[case::efficientnet_b0([16, 240, 28, 28], 5, 1, 1, "5x5_s1_v2", "5x5_s1")]
#[case::efficientnet_b0_downsampling([16, 144, 56, 56], 5, 2, 1, "5x5_s2_v2", "5x5_s2")]
#[case::convnext_t_first([16, 96, 56, 56], 7, 1, 1, "banded_16x32", "banded_16x32")]
#[case::convnext_t_last([16, 768, 7, 7], 7, 1, 1, "7x7_s1_v2", "7x7_s1")]
#[case::replknet([4, 256, 56, 56], 31, 1, 1, "banded_48x32", "banded_48x32")]
#[case::deeplab_v3_plus_6([4, 304, 65, 65], 3, 1, 6, "any_v8", "any")]
#[case::deeplab_v3_plus_12([4, 304, 65, 65], 3, 1, 12, "any_v8", "any")]
#[case::deeplab_v3_plus_18([4, 304, 65, 65], 3, 1, 18, "any_v8", "any")]
#[case::large_and_downsampling([8, 128, 56, 56], 13, 2, 1, "any_v8", "any")]
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
        // the banded kernels are for both formats
        let made = if expected.starts_with("banded") { expected.to_string() } else { format!("{format}_{expected}") };
        assert_eq!(plan.explain().kernel, format!("conv_depthwise_f16_{made}"), "{}", plan.explain());
    }
}
