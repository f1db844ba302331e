//! The kernels for contiguous 16-bit inputs: planes copied as they are for 1x1, patches loaded once for all taps.
#![cfg(feature = "host")]

use rstest::rstest;
use warpconv::half::{bf16, f16};
use warpconv::{
    Activation, Conv2d, Conv2dSpec, Device, Element, Inputs, LaunchCounters, Layer, LayerSpec, MemoryFormat, Padding, PlanRequest, Shape,
    Stream, Tensor, Workspace,
};

use crate::common::{checked, grid, parameter};

fn layer(spec: Conv2dSpec, weight: Shape) -> Conv2d {
    Conv2d::new(spec, parameter(&weight, 1)).unwrap()
}

/// What a kernel gives for channels 2.. of a tensor with `more` others, or as a whole, and what the launch did.
fn run<T: Element>(
    layer: &Conv2d,
    x: Shape,
    y_format: MemoryFormat,
    kernel: &str,
    more: usize,
    residual: bool,
) -> (Vec<f32>, LaunchCounters) {
    let device = checked(0);
    let [n, c, h, w] = x;
    let values: Vec<T> = grid(n * (c + more) * h * w, 2).into_iter().map(T::from_f32).collect();
    let wide = Tensor::from_slice(&device, [n, c + more, h, w], &values).unwrap();
    let first = more.min(2);
    let request = PlanRequest::new(x).output_format(y_format).kernel(kernel);
    let plan = layer.plan::<T>(&device, &request).unwrap();
    let mut y = Tensor::<T>::zeros(&device, plan.output_shape(), y_format).unwrap();
    let other = Tensor::<T>::from_slice(
        &device,
        plan.output_shape(),
        &grid(plan.output_shape().iter().product(), 3).into_iter().map(T::from_f32).collect::<Vec<_>>(),
    )
    .unwrap();
    let inputs = Inputs::new(wide.channels(first..first + c).unwrap());
    let inputs = if residual { inputs.residual(&other) } else { inputs };
    plan.run(&inputs, &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    // before y is read back, which may launch a conversion
    let counters = device.last_launch_counters().unwrap();
    (y.to_vec().unwrap().iter().map(|v| v.to_f32()).collect(), counters)
}

fn names<T: Element>(layer: &Conv2d, x: Shape, gather: &str) -> Vec<&'static str> {
    let plan = layer.plan::<T>(&Device::host().unwrap(), &PlanRequest::new(x)).unwrap();
    let applies = plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok()).map(|choice| choice.kernel);
    applies.filter(|kernel| kernel.contains(gather)).collect()
}

/// Every kernel of a gather, and its figures for the whole tensor and contiguous outputs.
fn agrees_with_direct<T: Element>(layer: &Conv2d, x: Shape, gather: &str, check: impl Fn(&str, &LaunchCounters)) {
    let LayerSpec::Conv2d(Conv2dSpec { groups, .. }) = layer.spec() else { unreachable!() };
    let kernels = names::<T>(layer, x, gather);
    assert!(!kernels.is_empty(), "{gather} on {x:?}");
    for y_format in MemoryFormat::ALL {
        for residual in [false, true] {
            let direct = format!("conv_direct_{}_contiguous", T::DTYPE);
            let expected = run::<T>(layer, x, y_format, &direct, 0, residual).0;
            for kernel in &kernels {
                let (y, counters) = run::<T>(layer, x, y_format, kernel, 0, residual);
                assert_eq!(counters.kernel, *kernel);
                assert!(y == expected, "{kernel} on {x:?} to {y_format}");
                // parts of a chunk of channels are read from the staged sums one by one
                let whole = y_format == MemoryFormat::Contiguous || (layer.weight().shape()[0] / groups).is_multiple_of(8);
                assert!(counters.bank_conflicts == 0 || !whole, "{kernel} on {x:?} to {y_format}: {counters:?}");
                check(kernel, &counters);
            }
        }
    }
}

#[rstest]
#[case::copies_of_16_bytes([2, 40, 8, 5], 72, 1)]
#[case::copies_of_8_bytes_across_images([3, 40, 6, 6], 24, 1)]
#[case::groups([1, 48, 4, 4], 32, 2)]
fn planes_are_copied_once_for_each_column_of_tiles(#[case] x: Shape, #[case] c_out: usize, #[case] groups: usize) {
    let spec = Conv2dSpec { groups, activation: Activation::Relu, ..Default::default() };
    let layer = layer(spec, [c_out, x[1] / groups, 1, 1]);
    let check = |kernel: &str, counters: &LaunchCounters| {
        let columns = (c_out / groups).div_ceil(if kernel.ends_with("x128") { 128 } else { 64 });
        let read = counters.operand("x").unwrap();
        assert_eq!(read.bytes_read, read.bytes * columns as u64, "{kernel}: {counters:?}");
    };
    agrees_with_direct::<f16>(&layer, x, "planes", check);
    agrees_with_direct::<bf16>(&layer, x, "planes", check);
}

#[test]
fn planes_of_other_kinds_are_left_to_others() {
    let one = layer(Conv2dSpec::default(), [8, 16, 1, 1]);
    assert!(names::<f16>(&one, [1, 16, 7, 7], "planes").is_empty(), "49 pixels");
    assert!(!names::<f16>(&one, [1, 16, 7, 8], "planes").is_empty());
    let strided = layer(Conv2dSpec { stride: [2, 1], ..Default::default() }, [8, 16, 1, 1]);
    assert!(names::<f16>(&strided, [1, 16, 8, 8], "planes").is_empty());
    let padded = layer(Conv2dSpec { padding: Padding::all(1), ..Default::default() }, [8, 16, 1, 1]);
    assert!(names::<f16>(&padded, [1, 16, 8, 8], "planes").is_empty());
}

/// Slices of planes of whole copies are aligned; where the tensor's own address is not, the narrow kernel runs.
#[test]
fn unaligned_views_take_the_narrow_kernel() {
    let layer = layer(Conv2dSpec::default(), [24, 16, 1, 1]);
    let x = [2, 16, 6, 6];
    let expected = run::<f16>(&layer, x, MemoryFormat::Contiguous, "conv_direct_f16_contiguous", 3, false).0;
    let (y, counters) = run::<f16>(&layer, x, MemoryFormat::Contiguous, "conv_gemm_f16_planes_64x64", 3, false);
    assert!(y == expected && counters.kernel == "conv_gemm_f16_planes_64x64", "{counters:?}");

    let device = checked(0);
    let elements = x.iter().product::<usize>();
    let odd = Tensor::<f16>::randn(&device, [1, elements + 1, 1, 1], MemoryFormat::Contiguous, 5).unwrap();
    let layout = warpconv::Layout::packed(x, MemoryFormat::Contiguous);
    // SAFETY: the elements are within `odd`, which outlives the view
    let view = unsafe { warpconv::TensorView::<f16>::from_raw(&device, odd.address() + 2, layout) }.unwrap();
    let plan = layer.plan::<f16>(&device, &PlanRequest::new(x).kernel("conv_gemm_f16_planes_64x64")).unwrap();
    let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
    plan.run(&Inputs::new(view), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    assert!(!device.last_launch_counters().unwrap().kernel.contains("planes"));
}

/// `ratio`: of what blocks load, halos included, to the input, for each column of tiles.
#[rstest]
#[case::three([1, 40, 16, 16], 72, [3, 3], [1, 1], [1, 1], 1, 1.3)]
#[case::stride_2([2, 32, 15, 17], 16, [3, 3], [2, 2], [1, 1], 1, 1.1)]
#[case::dilated([1, 16, 9, 20], 8, [3, 3], [1, 1], [2, 3], 1, 2.2)]
#[case::uneven([1, 20, 11, 9], 9, [2, 5], [3, 2], [2, 1], 1, 1.0)]
#[case::groups([2, 64, 7, 7], 20, [3, 3], [1, 1], [1, 1], 2, 1.0)]
#[case::wide_row([1, 16, 3, 70], 8, [1, 7], [1, 1], [1, 1], 1, 1.1)]
fn patches_are_loaded_once_for_all_taps(
    #[case] x: Shape,
    #[case] c_out: usize,
    #[case] kernel: [usize; 2],
    #[case] stride: [usize; 2],
    #[case] dilation: [usize; 2],
    #[case] groups: usize,
    #[case] ratio: f64,
) {
    let ([kh, kw], channels) = (kernel, x[1] / groups);
    let padding = Padding::Explicit([dilation[0] * (kh / 2), dilation[1] * (kw / 2), dilation[0] * (kh / 2), dilation[1] * (kw / 2)]);
    let layer = layer(Conv2dSpec { stride, dilation, groups, padding, ..Default::default() }, [c_out, channels, kh, kw]);
    let check = |kernel: &str, counters: &LaunchCounters| {
        let columns = (c_out / groups).div_ceil(if kernel.ends_with("x128") { 128 } else { 64 });
        let read = counters.operand("x").unwrap();
        assert!(read.bytes_read as f64 <= ratio * (read.bytes * columns as u64) as f64, "{kernel}: {counters:?}");
    };
    agrees_with_direct::<f16>(&layer, x, "patches", check);
    agrees_with_direct::<bf16>(&layer, x, "patches", check);
}
