//! Convolutions with more output tiles than the device runs blocks: a block then takes one tile after the other.
#![cfg(feature = "host")]

use half::f16;
use rstest::rstest;
use warpconv::{
    Activation, Conv2d, Conv2dSpec, Device, Element, HostOptions, Inputs, Layer, MemoryFormat, Padding, PlanRequest, Precision, Tensor,
};

use crate::common::{bits, parameter};

const CHANNELS_LAST: MemoryFormat = MemoryFormat::ChannelsLast;
const CONTIGUOUS: MemoryFormat = MemoryFormat::Contiguous;

fn device(threads: usize, checked: bool, seed: u64) -> Device {
    Device::host_with(HostOptions { threads, checked, seed, ..Default::default() }).unwrap()
}

/// Two groups of 32 channels, the last tile of which is not whole: tiles of pixels, of groups and of columns follow each other.
fn conv(kernel: usize) -> Conv2d {
    let spec = Conv2dSpec {
        padding: Padding::all(kernel / 2 * 2),
        dilation: [2; 2],
        groups: 2,
        activation: Activation::Relu,
        ..Default::default()
    };
    let weight = parameter(&[272, 32, kernel, kernel], 1);
    Conv2d::new(spec, weight).unwrap().with_bias(parameter(&[272], 2)).unwrap()
}

/// The input's shape, and the formats of input and output.
#[derive(Clone, Copy)]
struct Case {
    x: [usize; 4],
    formats: [MemoryFormat; 2],
}

/// The bits of a result on a device, and its blocks.
fn run<T: Element>(device: &Device, layer: &impl Layer, Case { x, formats: [x_format, y_format] }: Case, name: &str) -> (Vec<u32>, u32) {
    let request = PlanRequest::new(x).format(x_format).output_format(y_format).precision(Precision::Tf32);
    let x = Tensor::<T>::randn(device, x, x_format, 7).unwrap();
    let plan = layer.plan::<T>(device, &request.kernel(name)).unwrap();
    assert_eq!(plan.explain().kernel, name);
    let mut y = Tensor::<T>::zeros(device, plan.output_shape(), plan.output_format()).unwrap();
    let residual = Tensor::<T>::randn(device, plan.output_shape(), plan.output_format(), 8).unwrap();
    let inputs = Inputs::new(&x).residual(&residual);
    let mut memory = warpconv::WorkspaceMemory::new(device, plan.workspace_bytes()).unwrap();
    plan.run(&inputs, &mut y, memory.workspace(), &warpconv::Stream::default_of(device)).unwrap();
    (bits(&y), plan.explain().grid[0])
}

/// However many tiles a block takes, the result is the same; the checker finds nothing in what is copied for the next tile while the
/// sums of this one pass through shared memory.
fn walks_like_single_tiles<T: Element>(layer: &impl Layer, case: Case, name: &str) {
    let (alone, tiles) = run::<T>(&device(64, false, 0), layer, case, name);
    assert!((4..=64).contains(&tiles), "{name} has {tiles} tiles");
    for threads in [1, 3] {
        let (walked, blocks) = run::<T>(&device(threads, false, 0), layer, case, name);
        assert_eq!(blocks, threads as u32, "{name}");
        assert!(walked == alone, "{name}: {threads} blocks of {tiles} tiles differ from single tiles");
    }
    for seed in [0, 1] {
        let (walked, _) = run::<T>(&device(1, true, seed), layer, case, name);
        assert!(walked == alone, "{name} differs with seed {seed}");
    }
}

#[rstest]
fn tiles_follow_each_other(
    #[values("vectors_256x128", "vectors_128x64", "vectors_64x128", "vectors_64x64", "vectors_128x32")] kernel: &str,
    #[values(CHANNELS_LAST, CONTIGUOUS)] y_format: MemoryFormat,
) {
    let case = Case { x: [2, 64, 17, 19], formats: [CHANNELS_LAST, y_format] };
    walks_like_single_tiles::<f16>(&conv(3), case, &format!("conv_gemm_f16_{kernel}"));
}

#[rstest]
fn tiles_of_1x1_follow_each_other(#[values("matrix_128x64", "matrix_64x64", "matrix_128x32")] matrix: &str) {
    let case = Case { x: [2, 64, 17, 19], formats: [CHANNELS_LAST; 2] };
    walks_like_single_tiles::<f16>(&conv(1), case, &format!("conv_gemm_f16_{matrix}"));
}

#[rstest]
fn tiles_of_planes_follow_each_other(#[values("planes_128x64", "planes_64x128", "planes_64x64")] planes: &str) {
    let case = Case { x: [2, 64, 16, 20], formats: [CONTIGUOUS; 2] };
    walks_like_single_tiles::<f16>(&conv(1), case, &format!("conv_gemm_f16_{planes}"));
}

#[rstest]
fn tiles_of_f32_follow_each_other(#[values("f32", "tf32")] math: &str, #[values("128x64", "64x64")] tile: &str) {
    let case = Case { x: [1, 64, 17, 19], formats: [CHANNELS_LAST; 2] };
    walks_like_single_tiles::<f32>(&conv(3), case, &format!("conv_gemm_{math}_vectors_{tile}"));
}
