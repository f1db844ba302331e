//! Convolutions with fewer output tiles than multiprocessors: tiles of 32 pixels, k in slices of a block, k in parts of the grid.
#![cfg(feature = "host")]

use half::f16;
use rstest::rstest;
use warpconv::{
    Activation, Conv2d, Conv2dSpec, Device, Error, Inputs, LaunchCounters, Layer, MemoryFormat, Padding, Plan, PlanRequest, Stream, Tensor,
    Workspace, WorkspaceMemory,
};

use crate::common::{checked, grid, parameter};

const WORKSPACE: usize = 1 << 20;
const SLICED: [&str; 2] = ["conv_gemm_f16_vectors_64x64_k2", "conv_gemm_f16_vectors_32x64_k4"];
const SPLIT: [&str; 2] = ["conv_gemm_f16_vectors_64x64_split", "conv_gemm_f16_vectors_32x64_split"];

fn layer(c_in: usize, c_out: usize, kernel: usize, dilation: usize) -> Conv2d {
    let padding = Padding::all(dilation * (kernel / 2));
    let spec = Conv2dSpec { padding, dilation: [dilation; 2], activation: Activation::Relu, ..Default::default() };
    let weight = parameter(&[c_out, c_in, kernel, kernel], 1);
    Conv2d::new(spec, weight).unwrap().with_bias(parameter(&[c_out], 2)).unwrap()
}

fn request(x: [usize; 4]) -> PlanRequest {
    PlanRequest::new(x).format(MemoryFormat::ChannelsLast)
}

fn launch(plan: &Plan<f16>, inputs: &Inputs<'_, f16>) -> Tensor<f16> {
    let device = plan.device();
    let mut y = Tensor::<f16>::zeros(device, plan.output_shape(), plan.output_format()).unwrap();
    let mut memory = WorkspaceMemory::new(device, plan.workspace_bytes()).unwrap();
    plan.run(inputs, &mut y, memory.workspace(), &Stream::default_of(device)).unwrap();
    y
}

fn run(plan: &Plan<f16>, inputs: &Inputs<'_, f16>) -> Vec<f16> {
    launch(plan, inputs).to_vec().unwrap()
}

/// Of the plan's last launch: reading y back may launch a conversion.
fn counters(plan: &Plan<f16>, inputs: &Inputs<'_, f16>) -> LaunchCounters {
    launch(plan, inputs);
    plan.device().last_launch_counters().unwrap()
}

fn randn(device: &Device, shape: [usize; 4], seed: u64) -> Tensor<f16> {
    Tensor::<f16>::randn(device, shape, MemoryFormat::ChannelsLast, seed).unwrap()
}

/// Sums that are exact are the same however they are split; the tail is applied once.
#[rstest]
fn parts_and_slices_give_the_whole_sum(#[values(1, 3)] kernel: usize, #[values(false, true)] contiguous: bool) {
    let device = Device::host().unwrap();
    let (shape, layer) = ([2, 128, 7, 5], layer(128, 72, kernel, 1));
    let x = Tensor::from_slice(&device, shape, &grid(2 * 128 * 35, 3).into_iter().map(f16::from_f32).collect::<Vec<_>>()).unwrap();
    let x = x.to_format(MemoryFormat::ChannelsLast).unwrap();
    let residual = randn(&device, [2, 72, 7, 5], 3);
    let mut request = request(shape).workspace_limit(WORKSPACE);
    if contiguous {
        request = request.output_format(MemoryFormat::Contiguous);
    }
    let inputs = Inputs::new(&x).residual(&residual);
    let of = |kernel: &str| run(&layer.plan::<f16>(&device, &request.clone().kernel(kernel)).unwrap(), &inputs);
    let whole = of("conv_gemm_f16_vectors_64x64");
    assert!(whole.iter().any(|y| y.to_f32() > 1.0));
    for name in SLICED.into_iter().chain(SPLIT) {
        assert_eq!(of(name), whole, "{name}");
    }
}

/// The taps that a tile leaves out differ between an image alone and in a batch; its sums do not.
#[test]
fn slices_do_not_depend_on_the_batch() {
    let device = Device::host().unwrap();
    let (layer, images) = (layer(128, 64, 3, 3), 3);
    let alone: Vec<_> = (0..images).map(|i| randn(&device, [1, 128, 7, 5], i)).collect();
    let values: Vec<f16> = alone.iter().flat_map(|x| x.to_vec().unwrap()).collect();
    let batch = Tensor::from_slice(&device, [images as usize, 128, 7, 5], &values).unwrap().to_format(MemoryFormat::ChannelsLast).unwrap();
    for name in SLICED {
        let of = |x: &Tensor<f16>| run(&layer.plan(&device, &request(x.shape()).kernel(name)).unwrap(), &Inputs::new(x));
        let each: Vec<f16> = alone.iter().flat_map(of).collect();
        assert_eq!(of(&batch), each, "{name}");
    }
    // 96 channels of a tap are three steps: two slices would have others of them where a tap is left out
    let odd = self::layer(96, 64, 3, 3).plan::<f16>(&device, &request([1, 96, 7, 5]).kernel(SLICED[0])).unwrap_err();
    assert!(matches!(&odd, Error::NoKernel { reasons, .. } if reasons.contains("no whole steps of 2 slices")), "{odd}");
}

/// Copies, fragments and staged sums, of every tile and gather.
#[rstest]
#[case::tensor_cores("f16_vectors", &["256x128", "128x128", "128x64", "64x128", "64x64", "128x32", "32x64", "64x64_k2", "32x64_k4"])]
#[case::single_channels("f16_channels", &["128x64", "64x64"])]
fn no_bank_conflicts(#[case] gather: &str, #[case] tiles: &[&str], #[values(1, 3)] kernel: usize) {
    let device = checked(0);
    let (shape, layer) = ([1, 128, 16, 16], layer(128, 128, kernel, 1));
    let x = randn(&device, shape, 1);
    for tile in tiles {
        let name = format!("conv_gemm_{gather}_{tile}");
        let counters = counters(&layer.plan(&device, &request(shape).kernel(&name)).unwrap(), &Inputs::new(&x));
        assert_eq!(counters.kernel, name);
        assert_eq!(counters.bank_conflicts, 0, "{name}: {counters:#?}");
    }
}

/// Of 3x3 taps that are 36 pixels apart, an image of 20 x 20 meets one: the weights of the others are never read. Of taps side by side
/// only the lower three lie in the padding, for the last of the seven tiles: 16 pixels of the last row.
#[test]
fn taps_that_lie_in_the_padding_are_left_out() {
    let (device, shape) = (checked(0), [1, 64, 20, 20]);
    let x = randn(&device, shape, 2);
    let read = |dilation: usize| {
        let plan = layer(64, 64, 3, dilation).plan(&device, &request(shape).kernel("conv_gemm_f16_vectors_64x64")).unwrap();
        counters(&plan, &Inputs::new(&x)).operand("weight").unwrap().bytes_read
    };
    const TAP: u64 = 64 * 64 * 2;
    assert_eq!((read(36), read(1)), (7 * TAP, (7 * 9 - 3) * TAP));
}

#[rstest]
#[case::resnet50_stage_4_spatial([1, 512, 7, 7], 512, 3)]
#[case::resnet50_stage_4_reduce([1, 2048, 7, 7], 512, 1)]
#[case::resnet50_stage_3_spatial([1, 256, 14, 14], 256, 3)]
#[case::resnet50_classifier([1, 2048, 1, 1], 1000, 1)]
fn few_tiles_take_small_or_sliced_ones(#[case] shape: [usize; 4], #[case] c_out: usize, #[case] kernel: usize) {
    let (device, layer) = (Device::host().unwrap(), layer(shape[1], c_out, kernel, 1));
    let plan = layer.plan::<f16>(&device, &request(shape)).unwrap();
    println!("{}", plan.explain());
    let name = plan.explain().kernel;
    assert!(name.contains("_32x") || name.contains("_k"), "{}", plan.explain());
    assert_eq!(plan.workspace_bytes(), 0);

    let allowed = layer.plan::<f16>(&device, &request(shape).workspace_limit(WORKSPACE)).unwrap();
    println!("{}", allowed.explain());
    assert!(allowed.explain().kernel.ends_with("_split"), "{}", allowed.explain());
    assert!((1..=WORKSPACE).contains(&allowed.workspace_bytes()));
    assert!(allowed.explain().note.contains("bytes of workspace"), "{}", allowed.explain());

    // who leaves out the kernel that adds up the parts has no parts
    let without = Device::host_with(warpconv::HostOptions::default()).unwrap();
    without.leave_out(["split_sum_f16".to_string()]).unwrap();
    let plan = layer.plan::<f16>(&without, &request(shape).workspace_limit(WORKSPACE)).unwrap();
    assert!(!plan.explain().kernel.ends_with("_split") && plan.workspace_bytes() == 0, "{}", plan.explain());
}

#[test]
fn many_tiles_are_not_split() {
    let (device, shape) = (Device::host().unwrap(), [8, 64, 56, 56]);
    let plan = layer(64, 64, 3, 1).plan::<f16>(&device, &request(shape).workspace_limit(usize::MAX)).unwrap();
    assert!(!plan.explain().kernel.contains("_split") && !plan.explain().kernel.contains("_k"), "{}", plan.explain());
}

#[test]
fn k_is_split_only_where_the_request_allows_it() {
    let (device, shape) = (Device::host().unwrap(), [1, 512, 7, 7]);
    let layer = layer(512, 64, 3, 1);
    let refused = |request: PlanRequest| match layer.plan::<f16>(&device, &request.kernel(SPLIT[0])).unwrap_err() {
        Error::NoKernel { reasons, .. } => reasons,
        other => panic!("{other}"),
    };
    assert!(refused(request(shape)).contains("PlanRequest::workspace_limit"), "{}", refused(request(shape)));
    let invariant = refused(request(shape).workspace_limit(WORKSPACE).batch_invariant());
    assert!(invariant.contains("batch"), "{invariant}");
    // two parts of 49 pixels and 64 channels in f32
    let least = 2 * 49 * 64 * 4;
    assert!(refused(request(shape).workspace_limit(least - 1)).contains(&least.to_string()));
    let plan = layer.plan::<f16>(&device, &request(shape).workspace_limit(least).kernel(SPLIT[0])).unwrap();
    assert_eq!((plan.workspace_bytes(), plan.explain().grid[1]), (least, 2));
    // and never runs without it
    let x = randn(&device, shape, 1);
    let mut y = Tensor::<f16>::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
    let error = plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap_err();
    assert!(matches!(error, Error::Workspace { needed, got: 0 } if needed == least), "{error}");
    assert_eq!(run(&plan, &Inputs::new(&x)), run(&plan, &Inputs::new(&x)));
}

/// Each launch reads and writes what it must: the weight once, the sums of the parts once each way.
#[test]
fn the_second_launch_reads_the_sums_once() {
    let device = checked(0);
    let (shape, layer) = ([1, 256, 4, 8], layer(256, 64, 1, 1));
    let x = randn(&device, shape, 1);
    let plan = layer.plan::<f16>(&device, &request(shape).workspace_limit(WORKSPACE).kernel(SPLIT[1])).unwrap();
    let counters = counters(&plan, &Inputs::new(&x));
    assert_eq!(counters.kernel, "split_sum_f16");
    let read = counters.operands.iter().find(|operand| operand.name == "sums").unwrap();
    assert_eq!(read.bytes_read as usize, plan.workspace_bytes(), "{counters:#?}");
}
