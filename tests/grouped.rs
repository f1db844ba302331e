//! Narrow groups on tensor cores, on the host device: every kernel of the family against the oracle, in several orders of the
//! threads, and the choice of that family for the layers of real networks.

use half::{bf16, f16};
use rstest::rstest;
use std::collections::BTreeSet;
use warpconv::cases::{Kind, Problem};
use warpconv::check::DTypeAndFormats;
use warpconv::{
    Activation, Conv2d, Conv2dSpec, DType, Device, Element, HostOptions, Inputs, LaunchCounters, Layer, MemoryFormat, OperandCounters,
    Padding, Parameter, PlanRequest, Stream, Tensor, Workspace,
};

use crate::common::{bits, check_where, checked, kinds_of};

/// The kernels of the family that ran, all of them right.
fn check_kind(kind: &str, count: u64, device: &Device) -> BTreeSet<&'static str> {
    let kinds: Vec<Kind> = kinds_of("conv2d").into_iter().filter(|k| k.name == kind).collect();
    check_all((0..count).map(|i| Problem::of_kinds(&kinds, 5, i)), device)
}

fn check_all(problems: impl Iterator<Item = Problem>, device: &Device) -> BTreeSet<&'static str> {
    let wanted = |(dtype, x, y): DTypeAndFormats, _: Option<&str>| dtype != DType::F32 && x == y;
    let ran = problems.flat_map(|problem| check_where(&problem, device, &wanted));
    ran.filter(|kernel| kernel.starts_with("conv_grouped")).collect()
}

#[rstest]
fn every_kernel_is_right_in_every_order_of_threads(#[values(0, 1, 2)] seed: u64) {
    let device = Device::host_with(HostOptions { seed, ..Default::default() }).unwrap();
    let ran = check_kind("grouped_vectors", if seed == 0 { 60 } else { 24 }, &device);
    assert_eq!(ran.len(), 10, "{ran:?}");
    check_kind("grouped_narrow", 8, &device);
    check_kind("grouped_wide", 8, &device);
}

#[rstest]
fn the_checker_finds_nothing(#[values(1, 2, 3, 4, 5)] seed: u64) {
    let device = checked(seed);
    check_kind("grouped_vectors", 4, &device);
    check_kind("grouped_narrow", 1, &device);
    check_kind("channel_slices", 2, &device);
}

/// Planes and rows of every alignment: runs of 8, 4, 2 pixels and of one, over the ends of rows and within them; tiles narrower
/// than a run; strides, dilation and padding on one side; quads that are not full; slices whose images are not aligned.
#[rstest]
fn contiguous_tensors_of_every_alignment(#[values(1, 2)] seed: u64) {
    let device = checked(seed);
    let problem = |groups: usize, [c_in, c_out]: [usize; 2], image: [usize; 2], stride: usize, dilation: usize, padding: [usize; 4]| {
        let padding = Padding::Explicit(padding);
        let spec = Conv2dSpec { stride: [stride; 2], padding, dilation: [dilation; 2], groups, activation: Activation::Silu };
        let weight = [groups * c_out, c_in, 3, 3];
        Problem::conv2d(spec, [1, groups * c_in, image[0], image[1]], weight).with("bias", Some(&weight[..1])).with_residual(true)
    };
    let problems = [
        problem(8, [4, 4], [8, 16], 1, 1, [1; 4]),
        problem(4, [8, 8], [4, 28], 1, 1, [1; 4]),
        problem(2, [16, 16], [14, 14], 1, 1, [1; 4]),
        problem(4, [8, 4], [7, 7], 1, 1, [1; 4]),
        problem(2, [24, 24], [14, 14], 2, 1, [1; 4]),
        problem(2, [3, 5], [3, 64], 1, 1, [1; 4]),
        problem(2, [6, 32], [2, 72], 1, 2, [2, 5, 2, 0]),
        problem(2, [8, 16], [6, 4], 1, 1, [0, 2, 1, 0]),
        problem(2, [8, 16], [5, 42], 3, 1, [0; 4]),
        Problem { x_margin: [1, 0], y_margin: [0, 3], ..problem(4, [4, 4], [6, 14], 1, 1, [1; 4]) },
        Problem { x_margin: [3, 2], y_margin: [1, 2], ..problem(2, [8, 16], [3, 9], 1, 1, [1; 4]) },
    ];
    let ran = check_all(problems.into_iter(), &device);
    assert!(
        ran.iter().any(|kernel| kernel.ends_with("f16_4x8_wide")) && ran.iter().any(|kernel| kernel.ends_with("f16_24_wide")),
        "{ran:?}"
    );
}

/// What a grouped 3x3 of 16 channels moves, in a grid that fills a GPU with tiles of full size.
fn counters(n: usize, groups: usize, [h, w]: [usize; 2], format: MemoryFormat, seed: u64) -> LaunchCounters {
    let device = checked(seed);
    let x = Tensor::<f16>::randn(&device, [n, 16, h, w], format, 1).unwrap();
    let values: Vec<f32> = (0..16 * 16 / groups * 9).map(|i| (i * 37 % 65) as f32 / 64.0 - 0.5).collect();
    let spec = Conv2dSpec { groups, padding: Padding::all(1), ..Default::default() };
    let layer = Conv2d::new(spec, Parameter::new(&[16, 16 / groups, 3, 3], &values).unwrap()).unwrap();
    let request = PlanRequest::new(x.shape()).format(format).kernel("conv_grouped_f16_4x8_wide");
    let plan = layer.plan::<f16>(&device, &request).unwrap();
    let mut y = Tensor::zeros(&device, plan.output_shape(), format).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    device.last_launch_counters().unwrap()
}

/// Each output is written once, in whole sectors; blocks read the halo twice and nothing else, where they walk down the image not
/// even that; weights come to a block once; few passes of shared memory are for bank conflicts.
#[rstest]
#[case(8, 4, [56, 56], 1.6)]
#[case(32, 2, [28, 28], 1.6)]
#[case(432, 4, [41, 14], 1.1)]
fn little_is_moved_twice(
    #[case] n: usize,
    #[case] groups: usize,
    #[case] image: [usize; 2],
    #[case] most: f64,
    #[values(MemoryFormat::ChannelsLast, MemoryFormat::Contiguous)] format: MemoryFormat,
) {
    let counters = counters(n, groups, image, format, 1);
    let of = |name: &str| counters.operand(name).unwrap();
    let (x, y, weight) = (of("x"), of("y"), of("weight"));
    let sectors = |operand: &OperandCounters| operand.block_sectors as f64 * 32.0 / operand.bytes as f64;
    let conflicts = counters.bank_conflicts as f64 / counters.shared_wavefronts as f64;
    let summary = format!(
        "{} blocks read {:.3} of x and {} bytes of weights each, write {:.3} of y, {conflicts:.3} of the wavefronts are conflicts",
        counters.blocks,
        sectors(x),
        weight.bytes_read / counters.blocks,
        sectors(y)
    );
    println!("{format:?}: {summary}");
    assert_eq!([x.unique_bytes, y.bytes_written], [x.bytes, y.bytes], "{summary}");
    assert_eq!(weight.bytes_read, counters.blocks * weight.bytes, "{summary}");
    assert!(sectors(x) < most && sectors(y) < 1.1 && conflicts < 0.06, "{summary}");
}

/// Groups, their channels, the image, stride, dilation and padding of a 3x3.
type Walk = (usize, [usize; 2], [usize; 2], usize, usize, [usize; 4]);
/// Images of which so many blocks result that blocks walk.
const CROWD: usize = 432;

fn walking((groups, [c_in, c_out], _, stride, dilation, padding): Walk) -> Conv2d {
    let spec =
        Conv2dSpec { groups, stride: [stride; 2], dilation: [dilation; 2], padding: Padding::Explicit(padding), ..Default::default() };
    let values: Vec<f32> = (0..groups * c_out * c_in * 9).map(|i| (i * 37 % 65) as f32 / 64.0 - 0.5).collect();
    Conv2d::new(spec, Parameter::new(&[groups * c_out, c_in, 3, 3], &values).unwrap()).unwrap()
}

/// `count` images, every third one alike: finite; a NaN or an infinity in every row; zeros but for some rows of infinities.
fn crowd<T: Element>(device: &Device, (groups, [c_in, _], [h, w], ..): Walk, count: usize) -> Tensor<T> {
    let image = |kind: usize| {
        (0..groups * c_in * h * w).map(move |i| {
            let (row, column) = (i / w % h, i % w);
            let value = (i * 53 % 127) as f32 / 64.0 - 1.0;
            T::from_f32(match kind {
                1 if i / w / h == row % (groups * c_in) && column == row % w => [f32::NAN, f32::INFINITY][row % 2],
                2 => [0.0, f32::NEG_INFINITY][(row % 7 == 0) as usize],
                _ => value,
            })
        })
    };
    let images: Vec<Vec<T>> = (0..3).map(|kind| image(kind).collect()).collect();
    let values: Vec<T> = (0..count).flat_map(|n| images[n % 3].iter().copied()).collect();
    Tensor::from_slice(device, [count, groups * c_in, h, w], &values).unwrap()
}

/// The bits of each image's outputs, and the blocks and output pixels of an image.
fn walked<T: Element>(walk: Walk, kernel: &str, format: MemoryFormat, count: usize, device: &Device) -> (Vec<Vec<u32>>, [usize; 2]) {
    let x = crowd::<T>(device, walk, count).to_format(format).unwrap();
    let plan = walking(walk).plan::<T>(device, &PlanRequest::new(x.shape()).format(format).kernel(kernel)).unwrap();
    let mut y = Tensor::<T>::zeros(device, plan.output_shape(), format).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(device)).unwrap();
    let bits = bits(&y);
    let [_, _, h, w] = plan.output_shape();
    (bits.chunks_exact(bits.len() / count).map(<[u32]>::to_vec).collect(), [plan.explain().grid[0] as usize, h * w])
}

/// Blocks that walk down an image sum the same as those of one tile: padding, NaN and infinities of rows that the ring has held
/// before are gone, and what a tile reads is there.
#[rstest]
#[case::wide((4, [4, 4], [75, 8], 1, 1, [1; 4]), "4x8_wide")]
#[case::two_columns_of_blocks((2, [4, 4], [73, 33], 1, 1, [1; 4]), "4x8_wide")]
#[case::dilated((4, [8, 8], [75, 7], 1, 2, [2; 4]), "4x8_wide")]
#[case::strided((4, [4, 8], [221, 15], 2, 1, [1; 4]), "4x8_wide")]
#[case::far_padding((4, [4, 8], [61, 6], 1, 1, [9, 11, 4, 1]), "4x8_wide")]
#[case::no_padding((4, [4, 2], [99, 10], 1, 1, [0; 4]), "4x8_wide")]
#[case::sixteen((2, [16, 16], [75, 8], 1, 1, [1; 4]), "16_wide")]
#[case::twenty_four((2, [8, 24], [75, 8], 1, 1, [1; 4]), "24_wide")]
#[case::thirty_two((2, [8, 32], [75, 8], 1, 1, [1; 4]), "16_wide")]
#[case::narrow((2, [3, 5], [73, 8], 1, 1, [1; 4]), "4x8_narrow")]
#[case::narrow_strided((2, [6, 11], [147, 13], 2, 1, [2, 0, 1, 3]), "16_narrow")]
fn walks_sum_the_same(#[case] walk: Walk, #[case] kernel: &str, #[values(0, 7)] seed: u64) {
    let device = Device::host_with(HostOptions { seed, ..Default::default() }).unwrap();
    let wide = kernel.ends_with("wide");
    for format in MemoryFormat::ALL.into_iter().filter(|&format| wide || format == MemoryFormat::ChannelsLast) {
        let kernel = format!("conv_grouped_{}_{kernel}", if seed == 0 { "f16" } else { "bf16" });
        let runs = |count| {
            if seed == 0 {
                walked::<f16>(walk, &kernel, format, count, &device)
            } else {
                walked::<bf16>(walk, &kernel, format, count, &device)
            }
        };
        let ((few, [most, _]), (many, [blocks, pixels])) = (runs(3), runs(CROWD));
        // a tile has at most 256 pixels
        assert!(blocks < most && blocks * 256 < pixels, "{kernel} {format}: {blocks} or {most} blocks for {pixels} pixels");
        for (n, image) in many.iter().enumerate() {
            assert!(image == &few[n % 3], "{kernel} {format}: image {n}");
        }
    }
}

#[rstest]
#[case((4, [4, 4], [45, 8], 1, 2, [3, 2, 2, 1]), "4x8_wide")]
#[case((2, [3, 5], [73, 8], 1, 1, [1; 4]), "4x8_narrow")]
fn the_checker_finds_nothing_in_walks(#[case] walk: Walk, #[case] kernel: &str, #[values(1, 2, 3)] seed: u64) {
    let device = checked(seed);
    for format in MemoryFormat::ALL.into_iter().filter(|&format| kernel.ends_with("wide") || format == MemoryFormat::ChannelsLast) {
        let (_, [blocks, pixels]) = walked::<f16>(walk, &format!("conv_grouped_f16_{kernel}"), format, CROWD, &device);
        assert!(blocks * 256 < pixels, "{format}: {blocks} blocks for {pixels} pixels");
    }
}

/// The kernel that is chosen for a layer of 32 images in f16, the padding half the kernel.
fn chosen(groups: usize, [c_in, c_out]: [usize; 2], image: usize, kernel: usize, stride: usize, format: MemoryFormat) -> &'static str {
    let shape = [groups * c_out, c_in, kernel, kernel];
    let weight = Parameter::new(&shape, &vec![0.0; shape.iter().product()]).unwrap();
    let spec = Conv2dSpec { groups, stride: [stride; 2], padding: Padding::Explicit([kernel / 2; 4]), ..Default::default() };
    let request = PlanRequest::new([32, groups * c_in, image, image]).format(format);
    let plan =
        Conv2d::new(spec, weight).unwrap().plan::<f16>(&Device::host_with(warpconv::HostOptions::default()).unwrap(), &request).unwrap();
    println!("{}", plan.explain());
    plan.explain().kernel
}

#[rstest]
// ResNeXt-50 32x4d
#[case(32, [4, 4], 56, 3, 1)]
#[case(32, [8, 8], 56, 3, 2)]
#[case(32, [8, 8], 28, 3, 1)]
#[case(32, [16, 16], 14, 3, 1)]
// RegNetX-200MF (8), -400MF (16), -600MF (24)
#[case(3, [8, 8], 112, 3, 2)]
#[case(4, [16, 16], 28, 3, 1)]
#[case(25, [16, 16], 14, 3, 1)]
#[case(2, [24, 24], 56, 3, 1)]
#[case(10, [24, 24], 14, 3, 1)]
// ShuffleNet, 8 groups
#[case(8, [12, 48], 28, 1, 1)]
fn real_layers_take_the_family(
    #[case] groups: usize,
    #[case] channels: [usize; 2],
    #[case] image: usize,
    #[case] kernel: usize,
    #[case] stride: usize,
) {
    for format in MemoryFormat::ALL {
        let name = chosen(groups, channels, image, kernel, stride, format);
        assert!(name.starts_with("conv_grouped_f16_") && name.ends_with("_wide"), "{format}: {name}");
    }
}

/// By the cost model these are close; which of the two is faster only a GPU can say.
#[rstest]
#[case(32, [16, 16], 28, 3, 2)]
#[case(32, [32, 32], 14, 3, 2)]
#[case(32, [32, 32], 7, 3, 1)]
fn wider_groups_take_tensor_cores(
    #[case] groups: usize,
    #[case] channels: [usize; 2],
    #[case] image: usize,
    #[case] kernel: usize,
    #[case] stride: usize,
) {
    for format in MemoryFormat::ALL {
        let name = chosen(groups, channels, image, kernel, stride, format);
        assert!(name.starts_with("conv_grouped_f16_") || name.starts_with("conv_gemm_f16_"), "{format}: {name}");
    }
}

#[rstest]
#[case(2)]
#[case(3)]
#[case(5)]
fn groups_are_split_over_devices(#[case] parts: usize) {
    let spec = Conv2dSpec { padding: Padding::all(1), groups: 5, activation: Activation::Prelu, ..Default::default() };
    let values = |count: usize| (0..count).map(|i| (i * 37 % 65) as f32 / 64.0 - 0.5).collect::<Vec<_>>();
    let layer = Conv2d::new(spec, Parameter::new(&[10, 3, 3, 3], &values(270)).unwrap()).unwrap();
    let layer = layer.with_bias(Parameter::vector(&values(10))).unwrap().with_slope(Parameter::vector(&values(10))).unwrap();
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let x = Tensor::<f32>::from_slice(&device, [2, 15, 6, 7], &values(2 * 15 * 42)).unwrap();
    let whole = layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
    let split = layer.split_groups(parts).unwrap();
    assert_eq!(split.len(), parts);
    for part in split {
        let own = Device::host_with(warpconv::HostOptions::default()).unwrap();
        let slice = x.channels(part.input).unwrap().to_format(MemoryFormat::Contiguous).unwrap().to_device(&own).unwrap();
        let y = part.layer.forward(&Inputs::new(&slice)).unwrap().to_vec().unwrap();
        let plane = 42;
        for (n, image) in y.chunks_exact(part.output.len() * plane).enumerate() {
            let first = (n * 10 + part.output.start) * plane;
            assert_eq!(image, &whole[first..first + image.len()], "channels {:?} of image {n}", part.output);
        }
    }
    assert!(layer.split_groups(6).is_err() && layer.split_groups(0).is_err());
}
