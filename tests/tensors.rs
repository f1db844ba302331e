//! Tensors: formats, casts, views and their errors, on the host device. The expected orders are written out by index here.

use half::{bf16, f16};
use rstest::rstest;
use warpconv::factorise::separate;
use warpconv::reference::Array;
use warpconv::{
    AnyTensor, DType, DeformConv2dBlock, DeformConv2dBlockSpec, Device, Element, Error, Layout, MemoryFormat, Parameter, PinnedBuffer,
    Shape, Stream, Tensor, TensorView, UpsampleBilinearSpec, UpsampleSize,
};

/// The index in memory of element [n, c, h, w] of a packed tensor.
fn position(shape: Shape, format: MemoryFormat, [n, c, h, w]: [usize; 4]) -> usize {
    let [_, channels, height, width] = shape;
    match format {
        MemoryFormat::Contiguous => ((n * channels + c) * height + h) * width + w,
        MemoryFormat::ChannelsLast => ((n * height + h) * width + w) * channels + c,
    }
}

fn indices([n, c, h, w]: Shape) -> impl Iterator<Item = [usize; 4]> {
    (0..n).flat_map(move |n| (0..c).flat_map(move |c| (0..h).flat_map(move |h| (0..w).map(move |w| [n, c, h, w]))))
}

fn numbered<T: Element>(shape: Shape) -> Vec<T> {
    (0..shape.iter().product::<usize>()).map(|i| T::from_f32((i % 251) as f32 - 100.0)).collect()
}

#[rstest]
#[case([1, 1, 1, 1])]
#[case([2, 3, 5, 7])]
#[case([1, 33, 4, 9])] // one more channel than a tile
#[case([3, 32, 8, 4])] // whole tiles
#[case([2, 65, 1, 67])]
#[case([0, 3, 4, 4])] // no image
#[case([2, 3, 0, 4])] // no pixel
fn formats_are_permutations(#[case] shape: Shape) {
    fn check<T: Element>(device: &Device, shape: Shape) {
        let values = numbered::<T>(shape);
        let x = Tensor::from_slice(device, shape, &values).unwrap();
        let y = x.to_format(MemoryFormat::ChannelsLast).unwrap();
        assert_eq!((y.shape(), y.format()), (shape, MemoryFormat::ChannelsLast));
        let memory = y.to_vec_in_memory_order().unwrap();
        for index in indices(shape) {
            let expected = values[position(shape, MemoryFormat::Contiguous, index)];
            assert_eq!(memory[position(shape, MemoryFormat::ChannelsLast, index)], expected, "{index:?} of {shape:?}");
        }
        assert_eq!(y.to_vec().unwrap(), values);
        assert_eq!(y.to_format(MemoryFormat::ChannelsLast).unwrap().to_vec_in_memory_order().unwrap(), memory);
        assert_eq!(y.to_format(MemoryFormat::Contiguous).unwrap().to_vec_in_memory_order().unwrap(), values);
    }
    for device in with_and_without_copies() {
        check::<f32>(&device, shape);
        check::<f16>(&device, shape);
        check::<bf16>(&device, shape);
    }
}

/// A host device, and one that leaves out the kernels that copy between formats and dtypes: there the host does their work.
fn with_and_without_copies() -> [Device; 2] {
    let devices = [(); 2].map(|()| Device::host_with(warpconv::HostOptions::default()).unwrap());
    let dtypes = DType::ALL.map(DType::name);
    let casts = dtypes.iter().flat_map(|from| dtypes.map(|to| format!("cast_{from}_{to}")));
    devices[1].leave_out(casts.chain(["transpose_16", "transpose_32"].map(String::from))).unwrap();
    devices
}

#[test]
fn casts_round_every_16_bit_pattern_as_half_does() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    // every f16 and every bf16, and around each the f32 at, just below and just above the tie with its successor
    let mut values: Vec<f32> = Vec::new();
    for bits in 0..=u16::MAX {
        for value in [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()] {
            let tie = |next: f32| (value + next) / 2.0;
            for centre in [value, tie(f16::from_bits(bits.wrapping_add(1)).to_f32()), tie(bf16::from_bits(bits.wrapping_add(1)).to_f32())] {
                let around = [centre.to_bits().wrapping_sub(1), centre.to_bits(), centre.to_bits().wrapping_add(1)];
                values.extend(around.map(f32::from_bits));
            }
        }
    }
    let x = Tensor::from_slice(&device, [1, 1, 1, values.len()], &values).unwrap();
    let half = x.cast::<f16>().unwrap().to_vec().unwrap();
    let brain = x.cast::<bf16>().unwrap().to_vec().unwrap();
    for ((&value, half), brain) in values.iter().zip(half).zip(brain) {
        assert_eq!(half.is_nan(), value.is_nan(), "{value:e}");
        assert_eq!(brain.is_nan(), value.is_nan(), "{value:e}");
        if !value.is_nan() {
            assert_eq!(half.to_bits(), f16::from_f32(value).to_bits(), "{value:e} to f16");
            assert_eq!(brain.to_bits(), bf16::from_f32(value).to_bits(), "{value:e} to bf16");
        }
    }
    let every: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let x = Tensor::from_slice(&device, [1, 1, 256, 256], &every).unwrap();
    let same = x.cast::<f16>().unwrap().to_vec().unwrap();
    assert!(every.iter().zip(&same).all(|(a, b)| a.to_bits() == b.to_bits()), "a cast to the same dtype keeps every bit, NaN's too");
    let wide = x.cast::<f32>().unwrap().to_vec().unwrap();
    assert!(every.iter().zip(&wide).all(|(a, b)| a.is_nan() && b.is_nan() || a.to_f32() == *b));
}

#[rstest]
fn all_builds_of_the_kernels_agree(#[values(MemoryFormat::Contiguous, MemoryFormat::ChannelsLast)] format: MemoryFormat) {
    let values: Vec<f32> = (0..4096).map(|i| f32::from_bits(i * 1_048_573)).collect();
    let run = |simd: bool, checked: bool| {
        let device = Device::host_with(warpconv::HostOptions { simd, checked, ..Default::default() }).unwrap();
        let x = Tensor::from_slice(&device, [2, 8, 16, 16], &values).unwrap().to_format(format).unwrap();
        let wide = x.cast::<f16>().unwrap().cast::<f32>().unwrap().cast::<bf16>().unwrap().cast::<f32>().unwrap();
        wide.to_vec().unwrap().into_iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect::<Vec<_>>()
    };
    let plain = run(true, false);
    // the checked build converts by the portable code, not by F16C's instructions
    assert_eq!(plain, run(true, true));
    if warpconv::build_info().host_variants.contains(&"portable") {
        assert_eq!(plain, run(false, false));
    }
}

#[rstest]
fn channel_slices_read_and_write_in_place(
    #[values(MemoryFormat::Contiguous, MemoryFormat::ChannelsLast)] format: MemoryFormat,
    #[values(0, 1)] without_copies: usize,
) {
    let device = &with_and_without_copies()[without_copies];
    let shape = [2, 7, 3, 5];
    let values = numbered::<f32>(shape);
    let mut x = Tensor::from_slice(device, shape, &values).unwrap().to_format(format).unwrap();
    let slice = x.channels(2..5).unwrap();
    assert_eq!(slice.shape(), [2, 3, 3, 5]);
    assert_eq!(slice.layout(), Layout::channel_slice([2, 3, 3, 5], format, 7).unwrap());
    let expected: Vec<f32> =
        indices([2, 3, 3, 5]).map(|[n, c, h, w]| values[position(shape, MemoryFormat::Contiguous, [n, c + 2, h, w])]).collect();
    assert_eq!(slice.to_vec().unwrap(), expected);
    for other in MemoryFormat::ALL {
        let packed = slice.to_format(other).unwrap();
        assert!(packed.layout().is_packed());
        assert_eq!(packed.to_vec().unwrap(), expected);
    }
    assert_eq!(slice.cast::<f16>().unwrap().to_vec().unwrap(), expected.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>());
    assert!(matches!(x.channels(5..8), Err(Error::Attribute { .. })));
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = x.channels(5..4);
    assert!(matches!(reversed, Err(Error::Attribute { .. })));
    assert_eq!(x.channels(7..7).unwrap().to_vec().unwrap(), Vec::<f32>::new());
    let launches = device.launches();
    // what is written is the slice, and not its neighbours
    x.channels_mut(2..5).unwrap().write(&vec![-1.0; expected.len()]).unwrap();
    let kept = |index: [usize; 4]| !(2..5).contains(&index[1]);
    let place = |index| values[position(shape, MemoryFormat::Contiguous, index)];
    let written: Vec<f32> = indices(shape).map(|index| if kept(index) { place(index) } else { -1.0 }).collect();
    assert_eq!(x.to_vec().unwrap(), written);
    assert_eq!(device.launches() > launches, without_copies == 0, "the host does what the kernels would");
}

#[test]
fn memory_of_a_service_is_used_where_it_lies() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let address = values.as_ptr() as u64;
    let layout = Layout::channel_slice([1, 2, 2, 2], MemoryFormat::ChannelsLast, 6).unwrap();
    // SAFETY: 24 floats outlive the view and nobody writes them
    let view: TensorView<'_, f32> = unsafe { TensorView::from_raw(&device, address, layout) }.unwrap();
    assert_eq!(view.to_vec().unwrap(), [0., 6., 12., 18., 1., 7., 13., 19.]);
    // SAFETY: refused before anything is read
    let odd = unsafe { TensorView::<f32>::from_raw(&device, address + 2, layout) };
    assert!(matches!(odd, Err(Error::Alignment { alignment: 4, .. })));
    assert!(Layout::channel_slice([1, 7, 2, 2], MemoryFormat::ChannelsLast, 6).is_err());
}

#[test]
fn wrong_lengths_and_sizes_are_errors() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    assert!(matches!(Tensor::from_slice(&device, [1, 2, 2, 2], &[0f32; 7]), Err(Error::Length { expected: 8, got: 7, .. })));
    let huge = [usize::MAX, 2, 2, 2];
    assert!(matches!(Tensor::<f32>::zeros(&device, huge, MemoryFormat::Contiguous), Err(Error::Overflow { .. })));
    // fits 63 bits, but no machine has it
    let large = [1 << 20, 1 << 20, 1 << 10, 1];
    assert!(matches!(Tensor::<f32>::zeros(&device, large, MemoryFormat::Contiguous), Err(Error::OutOfMemory { .. })));
}

#[test]
fn what_no_memory_holds_is_an_error_and_never_the_end_of_the_process() {
    let device = Device::host().unwrap();
    let out_of_memory = |what: &str, error: Option<Error>| assert!(matches!(error, Some(Error::OutOfMemory { .. })), "{what}: {error:?}");
    let large = [1, 1, 1 << 20, 1 << 20];
    out_of_memory("rand", Tensor::<f16>::rand(&device, large, MemoryFormat::Contiguous, 1).err());
    out_of_memory("randn", Tensor::<f32>::randn(&device, large, MemoryFormat::ChannelsLast, 1).err());
    out_of_memory("an array", Array::zeros([1 << 40]).err());
    let sobel = separate(&Parameter::new(&[3, 3], &[1f32, 0., -1., 2., 0., -2., 1., 0., -1.]).unwrap()).unwrap();
    out_of_memory("weights", sobel.depthwise_weights(1 << 40).err());
    // predictors of zeros, whose size grows with the square of the filter's
    let block = DeformConv2dBlockSpec::default();
    let weight = Parameter::new(&[1, 1, 1, 1 << 20], &vec![0f32; 1 << 20]).unwrap();
    out_of_memory("predictors", DeformConv2dBlock::new(block, weight).err());
    let spec = UpsampleBilinearSpec { size: UpsampleSize::Output([1 << 20, 1 << 20]), align_corners: false };
    out_of_memory("the oracle", warpconv::reference::upsample_bilinear(&spec, &Array::zeros([1, 1, 2, 2]).unwrap()).err());
}

/// An allocation that the system grants, although the machine cannot hold it, would end the process when it is written.
#[test]
#[cfg(target_os = "linux")]
fn more_than_the_machine_has_left_is_refused_before_it_is_written() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    let device = Device::host().unwrap();
    let refused = Tensor::<f32>::zeros(&device, [1, 1, 2 * kilobytes, 256], MemoryFormat::Contiguous).unwrap_err();
    assert!(matches!(refused, Error::OutOfMemory { .. }) && refused.to_string().contains("bytes left"), "{refused}");
}

#[test]
fn random_tensors_depend_on_the_seed_alone() {
    let (a, b) =
        (Device::host_with(warpconv::HostOptions::default()).unwrap(), Device::host_with(warpconv::HostOptions::default()).unwrap());
    let shape = [2, 3, 16, 16];
    let x = Tensor::<f32>::randn(&a, shape, MemoryFormat::Contiguous, 7).unwrap().to_vec().unwrap();
    assert_eq!(Tensor::<f32>::randn(&b, shape, MemoryFormat::ChannelsLast, 7).unwrap().to_vec().unwrap(), x);
    assert_ne!(Tensor::<f32>::randn(&a, shape, MemoryFormat::Contiguous, 8).unwrap().to_vec().unwrap(), x);
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / x.len() as f32;
    assert!(mean.abs() < 0.1 && (variance - 1.0).abs() < 0.15, "mean {mean}, variance {variance}");
    let uniform = Tensor::<f32>::rand(&a, shape, MemoryFormat::Contiguous, 7).unwrap().to_vec().unwrap();
    assert!(uniform.iter().all(|v| (-1.0..1.0).contains(v)) && uniform.iter().any(|v| *v < -0.9) && uniform.iter().any(|v| *v > 0.9));
}

#[test]
fn any_tensor_forwards_to_its_dtype() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let x: AnyTensor = Tensor::from_slice(&device, [1, 1, 1, 3], &[1.5f32, -2.0, 3.25].map(bf16::from_f32)).unwrap().into();
    assert_eq!((x.dtype(), x.shape(), x.format()), (DType::Bf16, [1, 1, 1, 3], MemoryFormat::Contiguous));
    assert_eq!(x.to_f32_vec().unwrap(), [1.5, -2.0, 3.25]);
    assert_eq!(x.cast::<f16>().unwrap().to_vec().unwrap(), [1.5f32, -2.0, 3.25].map(f16::from_f32));
    assert_eq!(x.to_format(MemoryFormat::ChannelsLast).unwrap().format(), MemoryFormat::ChannelsLast);
    assert_eq!(x.device(), &device);
}

#[test]
fn tensors_move_between_devices() {
    let (a, b) =
        (Device::host_with(warpconv::HostOptions::default()).unwrap(), Device::host_with(warpconv::HostOptions::default()).unwrap());
    assert_ne!(a, b, "each call gives a distinct device");
    let x = Tensor::<f16>::randn(&a, [1, 3, 4, 4], MemoryFormat::ChannelsLast, 1).unwrap();
    let y = x.to_device(&b).unwrap();
    assert_eq!((y.device(), y.format()), (&b, MemoryFormat::ChannelsLast));
    assert_eq!(x.to_vec().unwrap(), y.to_vec().unwrap());
}

#[rstest]
#[case(MemoryFormat::Contiguous)]
#[case(MemoryFormat::ChannelsLast)]
fn tensors_are_refilled_and_read_in_place(#[case] format: MemoryFormat) {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let shape = [3, 4, 2, 5];
    let values = numbered::<f32>(shape);
    let mut x = Tensor::zeros(&device, shape, format).unwrap();
    let allocations = device.allocations();
    x.write_in_memory_order(&values).unwrap();
    let mut read = vec![0f32; 120];
    x.read_in_memory_order(&mut read).unwrap();
    assert_eq!(read, values);
    assert_eq!(device.allocations(), allocations, "a copy as the elements lie needs no other memory");
    x.write(&values).unwrap();
    x.read(&mut read).unwrap();
    assert_eq!(read, values);
    for index in indices(shape) {
        let memory = x.to_vec_in_memory_order().unwrap();
        assert_eq!(memory[position(shape, format, index)], values[position(shape, MemoryFormat::Contiguous, index)]);
    }
    // parts: channels 1 and 2 of image 1
    let part = x.images(1..2).unwrap().channels(1..3).unwrap();
    assert_eq!(part.to_vec().unwrap(), values[50..70]);
    let in_order = part.to_vec_in_memory_order().unwrap();
    for index in indices([1, 2, 2, 5]) {
        assert_eq!(in_order[position([1, 2, 2, 5], format, index)], values[50 + position([1, 2, 2, 5], MemoryFormat::Contiguous, index)]);
    }
    x.images_mut(1..2).unwrap().channels(1..3).unwrap().write_in_memory_order(&[7.0; 20]).unwrap();
    let mut expected = values.clone();
    expected[50..70].fill(7.0);
    assert_eq!(x.to_vec().unwrap(), expected, "what lies between is left alone");
    let (mut first, second) = x.split_channels_mut(3).unwrap();
    assert_eq!((first.shape(), second.shape()), ([3, 3, 2, 5], [3, 1, 2, 5]));
    first.write(&[1.0; 90]).unwrap();
    let is_ones = |n: usize| expected[n * 40 + 30..n * 40 + 40].to_vec();
    assert_eq!(second.as_view().to_vec().unwrap(), [is_ones(0), is_ones(1), is_ones(2)].concat());

    let name = |error: Error| match error {
        Error::Length { name, expected, got, .. } => (name, expected, got),
        other => panic!("{other}"),
    };
    assert_eq!(name(x.write(&[0.0; 119]).unwrap_err()), ("values", 120, 119));
    assert_eq!(name(x.read(&mut [0.0; 121]).unwrap_err()), ("values", 120, 121));
    assert!(matches!(x.images(2..4), Err(Error::Attribute { name: "the range of images", .. })));
    assert!(matches!(x.split_channels_mut(5), Err(Error::Attribute { name: "the range of channels", .. })));
}

#[test]
fn host_slices_are_read_and_written_where_they_are() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let layer = warpconv::PixelShuffle::new(warpconv::PixelShuffleSpec { factor: 2, order: warpconv::ChannelOrder::Crd }).unwrap();
    let layout = |shape| Layout::packed(shape, MemoryFormat::Contiguous);
    let (x, mut y) = ([1f32, 2., 3., 4.], [0f32; 5]);
    let plan = warpconv::Layer::plan::<f32>(&layer, &device, &warpconv::PlanRequest::new([1, 4, 1, 1])).unwrap();
    let input = TensorView::from_host_slice(&device, &x, layout([1, 4, 1, 1])).unwrap();
    let output = warpconv::TensorViewMut::from_host_slice(&device, &mut y[1..], layout([1, 1, 2, 2])).unwrap();
    plan.run(&warpconv::Inputs::new(input), output, warpconv::Workspace::none(), &warpconv::Stream::default_of(&device)).unwrap();
    assert_eq!(y, [0., 1., 2., 3., 4.]);
    let short = TensorView::from_host_slice(&device, &x, layout([1, 5, 1, 1])).unwrap_err();
    assert!(matches!(short, Error::Length { expected: 5, got: 4, .. }), "{short}");
}

#[test]
fn a_device_counts_the_bytes_that_it_holds() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    assert_eq!(device.allocated_bytes(), 0);
    let x = Tensor::<f16>::zeros(&device, [1, 3, 5, 7], MemoryFormat::Contiguous).unwrap();
    assert_eq!(device.allocated_bytes(), 210);
    let y = x.cast::<f32>().unwrap();
    assert_eq!(device.allocated_bytes(), 630);
    drop((x, y));
    assert_eq!(device.allocated_bytes(), 0);
}

#[test]
fn events_of_a_host_device_are_complete() {
    let [a, b] = [(); 2].map(|()| Device::host_with(warpconv::HostOptions { threads: 1, ..Default::default() }).unwrap());
    let event = warpconv::Event::new(&a).unwrap();
    let stream = warpconv::Stream::new(&a).unwrap();
    assert!(event.is_complete().unwrap(), "never recorded");
    stream.record(&event).unwrap();
    stream.wait(&event).unwrap();
    event.synchronize().unwrap();
    assert!(event.is_complete().unwrap());
    assert!(matches!(warpconv::Stream::new(&b).unwrap().wait(&event), Err(Error::WrongDevice { name: "the event", .. })));
}

/// On the host device copies are done when they are queued; on a GPU, src/device/cuda/tests.rs and the doc tests.
#[test]
fn pinned_buffers_are_copied_and_given_back() {
    let [device, other] = [(); 2].map(|()| Device::host_with(warpconv::HostOptions::default()).unwrap());
    let stream = Stream::new(&device).unwrap();
    let mut x = Tensor::<f16>::zeros(&device, [1, 3, 1, 2], MemoryFormat::ChannelsLast).unwrap();
    let mut buffer = PinnedBuffer::<f16>::zeros(&device, 6).unwrap();
    assert!(buffer.iter().all(|value| *value == f16::ZERO));
    buffer.copy_from_slice(&numbered::<f16>([1, 1, 1, 6]));
    let pending = x.view_mut().write_async(buffer, &stream).unwrap();
    assert!(pending.is_complete().unwrap());
    let mut buffer = pending.wait().unwrap();
    assert_eq!(x.to_vec_in_memory_order().unwrap(), buffer[..]);
    buffer.fill(f16::ONE);
    let buffer = x.view().read_async(buffer, &stream).unwrap().wait().unwrap();
    assert_eq!(buffer[..], numbered::<f16>([1, 1, 1, 6]));

    let short = PinnedBuffer::zeros(&device, 5).unwrap();
    assert!(matches!(x.view().read_async(short, &stream), Err(Error::Length { expected: 6, got: 5, .. })));
    let of_other = PinnedBuffer::zeros(&other, 6).unwrap();
    assert!(matches!(x.view().read_async(of_other, &stream), Err(Error::WrongDevice { name: "the pinned buffer", .. })));
    let there = Stream::new(&other).unwrap();
    assert!(matches!(x.view().read_async(buffer, &there), Err(Error::WrongDevice { name: "the stream", .. })));
    let four = PinnedBuffer::zeros(&device, 4).unwrap();
    let refused = x.channels_mut(0..2).unwrap().write_async(four, &stream);
    assert!(matches!(refused, Err(Error::Attribute { name: "strides", .. })));
    assert!(PinnedBuffer::<f32>::zeros(&device, 0).unwrap().is_empty());
    assert!(matches!(PinnedBuffer::<f32>::zeros(&device, usize::MAX), Err(Error::Overflow { .. })));
}
