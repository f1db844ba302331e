//! Layouts with gaps: crops of pictures, rows with padding behind them, images that lie apart. What is read and written in place is,
//! bit for bit, what packed copies give, and nothing around it is touched.
#![cfg(feature = "host")]

use half::{bf16, f16};
use proptest::prelude::*;
use std::collections::BTreeSet;
use warpconv::cases::{Kind, Problem, kinds};
use warpconv::check::{Run, every_run, runs_where};
use warpconv::{
    Conv2d, Conv2dSpec, DType, Device, Element, Error, Inputs, Layer, Layout, MemoryFormat, Padding, Parameter, PlanRequest, Shape, Stream,
    Tensor, TensorView, TensorViewMut, Workspace,
};

use crate::common::checked;

fn passed(problem: &Problem, runs: &[Run]) {
    for run in runs {
        assert!(run.outcome.is_ok(), "{run}\n{problem:?}");
    }
}

/// Random problems of the kinds that `wanted` names whose input and output are crops of larger pictures.
fn framed(wanted: impl Fn(&Kind) -> bool, count: usize) -> Vec<Problem> {
    let kinds: Vec<Kind> = kinds().filter(wanted).collect();
    let problems = (0..).map(|index| Problem::of_kinds(&kinds, 11, index));
    let framed = problems.filter(|p| p.x_frame != [[0; 2]; 3] && !p.output_shape().unwrap().contains(&0));
    framed.take(count).collect()
}

/// The checker knows which elements are the crop's: reads and writes of what lies around are findings.
#[test]
fn every_op_stays_within_its_crops() {
    let device = checked(0);
    let (mut ops, mut kernels) = (BTreeSet::new(), BTreeSet::new());
    let slices = |kind: &Kind| kind.name.contains("slices") || kind.name == "vectors";
    for (index, problem) in framed(slices, 40).into_iter().enumerate() {
        let dtype = DType::ALL[index % 3];
        let runs = runs_where(&problem, &device, &|variant, _| variant.0 == dtype).unwrap();
        passed(&problem, &runs);
        ops.insert(problem.layer.op());
        kernels.extend(runs.iter().map(|run| run.kernel));
    }
    assert!(ops.len() >= 10 && kernels.len() > 60, "{ops:?} {} kernels", kernels.len());
}

/// Rows at a distance of whole vectors launch the kernel that is named, but for those that read pixels as a matrix: the same bits.
#[test]
fn aligned_crops_give_the_bits_of_packed_tensors() {
    let device = Device::host().unwrap();
    let mut compared = BTreeSet::new();
    let kinds: Vec<Kind> = kinds().collect();
    for index in 0..60 {
        let packed = Problem::of_kinds(&kinds, 4, index);
        let (Ok(x), Ok(y)) = (packed.x(), packed.output_shape()) else { continue };
        if !packed.is_packed() || y.contains(&0) {
            continue;
        }
        let frame = |[.., w]: Shape| [[1, 1], [2, 1], [8, w.next_multiple_of(8) - w + 8]];
        let cropped = Problem { x_frame: frame(x), y_frame: frame(y), ..packed.clone() };
        let [packed_runs, cropped_runs] = [&packed, &cropped].map(|problem| every_run(problem, &device).unwrap());
        passed(&cropped, &cropped_runs);
        for (a, b) in packed_runs.iter().zip(&cropped_runs) {
            assert_eq!((a.kernel, a.dtype, a.x_format, a.y_format), (b.kernel, b.dtype, b.x_format, b.y_format));
            let vectors_of_channels = x[1].is_multiple_of(8) && y[1].is_multiple_of(8);
            let aligned = [a.x_format, a.y_format].iter().all(|format| *format == MemoryFormat::Contiguous || vectors_of_channels);
            let matrix = a.kernel.contains("_planes_") || a.kernel.contains("_matrix_");
            if aligned && !matrix && !a.kernel.starts_with("pair") {
                assert!(a.digest.is_some() && a.digest == b.digest, "{a}\n{b}\n{packed:?}");
                compared.insert(a.kernel);
            }
        }
    }
    assert!(compared.len() > 80, "{}", compared.len());
}

/// A 1x1 convolution of a packed picture reads it as a matrix; of a crop it cannot.
#[test]
fn a_plan_takes_another_kernel_for_a_crop_and_says_so() {
    let device = Device::host().unwrap();
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[64, 32, 1, 1], &[0.25f32; 64 * 32]).unwrap()).unwrap();
    for format in MemoryFormat::ALL {
        let kernel = if format == MemoryFormat::Contiguous { "conv_gemm_f16_planes_64x64" } else { "conv_gemm_f16_matrix_64x64" };
        let plan = layer.plan::<f16>(&device, &PlanRequest::new([2, 32, 8, 16]).format(format).kernel(kernel)).unwrap();
        assert!(plan.explain().note.contains("or whose rows or pixels lie apart"), "{}", plan.explain().note);
        let values: Vec<f16> = (0..3 * 32 * 11 * 32).map(|i| f16::from_f32((i * 37 % 129) as f32 / 64.0 - 1.0)).collect();
        let wide = Tensor::from_slice(&device, [3, 32, 11, 32], &values).unwrap().to_format(format).unwrap();
        let mut y = Tensor::<f16>::zeros(&device, [2, 64, 8, 16], format).unwrap();
        let crop = wide.images(1..3).unwrap().crop(2..10, 8..24).unwrap();
        plan.run(&Inputs::new(crop), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
        let expected = layer.forward(&Inputs::new(&crop.to_format(format).unwrap())).unwrap();
        // sums of 256ths are exact, whatever their order
        assert_eq!(y.to_vec().unwrap(), expected.to_vec().unwrap(), "{format}");
    }
}

/// A host device, and one that leaves out the kernels that copy: there the host does their work.
fn with_and_without_copies() -> [Device; 2] {
    let devices = [(); 2].map(|()| checked(0));
    let dtypes = DType::ALL.map(DType::name);
    let casts = dtypes.iter().flat_map(|from| dtypes.map(|to| format!("cast_{from}_{to}")));
    let moves = ["16", "32"].iter().flat_map(|bits| ["wide", "narrow"].map(|access| format!("pixel_runs_{bits}_{access}")));
    devices[1].leave_out(casts.chain(moves).chain(["transpose_16", "transpose_32"].map(String::from))).unwrap();
    devices
}

/// Strides for a shape: gaps behind every axis, in a random order of the three outer ones.
fn strides() -> impl Strategy<Value = (Shape, MemoryFormat, [usize; 4])> {
    let shape = [1usize..4, 1usize..10, 1usize..6, 1usize..18];
    let order = prop_oneof![Just([0, 1, 2]), Just([1, 0, 2]), Just([2, 0, 1]), Just([0, 2, 1])];
    let gaps = prop::array::uniform4(prop_oneof![Just(0usize), Just(8), 0usize..5]);
    (shape, any::<bool>(), order, gaps).prop_map(|(shape, last, order, gaps)| {
        let (format, axes) = if last { (MemoryFormat::ChannelsLast, [0, 2, 3, 1]) } else { (MemoryFormat::Contiguous, [0, 1, 2, 3]) };
        let mut strides = [0; 4];
        let mut next = 1;
        for (axis, gap) in [axes[3]].into_iter().chain(order.into_iter().rev().map(|place| axes[place])).zip(gaps) {
            strides[axis] = next;
            next = next * shape[axis] + gap;
        }
        (shape, format, strides)
    })
}

fn positions([n, c, h, w]: Shape) -> impl Iterator<Item = [usize; 4]> {
    (0..n * c * h * w).map(move |i| [i / (c * h * w), i / (h * w) % c, i / w % h, i % w])
}

fn place(position: [usize; 4], strides: [usize; 4]) -> usize {
    position.iter().zip(strides).map(|(index, stride)| index * stride).sum()
}

/// Memory of numbers, of which the view's are read, written and converted.
fn copies_of<T: Element>(device: &Device, shape: Shape, format: MemoryFormat, strides: [usize; 4], shift: usize) {
    let layout = Layout::strided(shape, format, strides).unwrap();
    let mut memory: Vec<T> = (0..shift + layout.extent() + 3).map(|i| T::from_f32((i % 251) as f32)).collect();
    let before = memory.clone();
    let expected: Vec<T> = positions(shape).map(|position| before[shift + place(position, strides)]).collect();
    let view = TensorView::from_host_slice(device, &memory[shift..], layout).unwrap();
    assert_eq!(view.to_vec().unwrap(), expected);
    for other in MemoryFormat::ALL {
        let packed = view.to_format(other).unwrap();
        assert!(packed.layout().is_packed());
        assert_eq!(packed.to_vec().unwrap(), expected, "{layout:?} to {other}");
    }
    assert_eq!(view.cast::<f32>().unwrap().to_vec().unwrap(), expected.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
    assert_eq!(view.cast::<bf16>().unwrap().to_vec().unwrap(), expected.iter().map(|v| bf16::from_f32(v.to_f32())).collect::<Vec<_>>());
    // what is written is the view and not what lies between
    let values: Vec<T> = expected.iter().map(|v| T::from_f32(-1.0 - v.to_f32())).collect();
    TensorViewMut::from_host_slice(device, &mut memory[shift..], layout).unwrap().write(&values).unwrap();
    let mut written = before;
    for (position, value) in positions(shape).zip(&values) {
        written[shift + place(position, strides)] = *value;
    }
    assert!(memory == written, "{layout:?}");
}

/// The result of a convolution from one whatever layout into another is that of packed tensors, and the gaps stay as they are.
fn convolved<T: Element>(device: &Device, shape: Shape, format: MemoryFormat, strides: [usize; 4], y_gaps: [usize; 4]) {
    let layout = Layout::strided(shape, format, strides).unwrap();
    let memory: Vec<T> = (0..layout.extent()).map(|i| T::from_f32((i * 7 % 129) as f32 / 64.0 - 1.0)).collect();
    let c = shape[1];
    let weight: Vec<f32> = (0..5 * c * 9).map(|i| (i * 5 % 65) as f32 / 64.0 - 0.5).collect();
    let spec = Conv2dSpec { padding: Padding::all(1), ..Default::default() };
    let layer = Conv2d::new(spec, Parameter::new(&[5, c, 3, 3], &weight).unwrap()).unwrap();
    let plan = layer.plan::<T>(device, &PlanRequest::new(shape).format(format).batch_invariant()).unwrap();
    let x = TensorView::from_host_slice(device, &memory, layout).unwrap();
    let run = |x: TensorView<'_, T>, y: TensorViewMut<'_, T>| {
        plan.run(&Inputs::new(x), y, Workspace::none(), &Stream::default_of(device)).unwrap();
    };
    let packed = x.to_format(format).unwrap();
    let mut expected = Tensor::<T>::zeros(device, plan.output_shape(), format).unwrap();
    run(packed.view(), expected.view_mut());
    let y_shape = plan.output_shape();
    let axes = if format == MemoryFormat::ChannelsLast { [0, 2, 3, 1] } else { [0, 1, 2, 3] };
    let (mut y_strides, mut next) = ([0; 4], 1);
    for (axis, gap) in axes.into_iter().rev().zip(y_gaps) {
        y_strides[axis] = next;
        next = next * y_shape[axis] + gap;
    }
    let y_layout = Layout::strided(y_shape, format, y_strides).unwrap();
    let mut y = vec![T::from_f32(77.0); y_layout.extent()];
    run(x, TensorViewMut::from_host_slice(device, &mut y, y_layout).unwrap());
    let mut wanted = vec![T::from_f32(77.0); y_layout.extent()];
    for (position, value) in positions(y_shape).zip(expected.to_vec().unwrap()) {
        wanted[place(position, y_strides)] = value;
    }
    assert!(y == wanted, "{layout:?} to {y_layout:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn views_of_any_strides_are_copied((shape, format, strides) in strides(), shift in 0usize..9) {
        for device in DEVICES.iter() {
            copies_of::<f32>(device, shape, format, strides, shift);
            copies_of::<f16>(device, shape, format, strides, shift);
        }
    }

    #[test]
    fn convolutions_take_any_strides((shape, format, strides) in strides(), y_gaps in prop::array::uniform4(0usize..5)) {
        convolved::<f32>(&DEVICES[0], shape, format, strides, y_gaps);
        convolved::<f16>(&DEVICES[0], shape, format, strides, y_gaps);
    }
}

static DEVICES: std::sync::LazyLock<[Device; 2]> = std::sync::LazyLock::new(with_and_without_copies);

/// Two crops of one tensor may be input and output of a run, unless they share elements.
#[test]
fn crops_that_overlap_are_refused_as_output() {
    let device = Device::host().unwrap();
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[2, 2, 1, 1], &[1f32, 0., 0., 1.]).unwrap()).unwrap();
    for format in MemoryFormat::ALL {
        let plan = layer.plan::<f32>(&device, &PlanRequest::new([1, 2, 3, 4]).format(format)).unwrap();
        let tensor = Tensor::<f32>::randn(&device, [1, 2, 6, 9], format, 5).unwrap();
        for to in [[1, 3], [0, 0], [3, 5], [1, 5], [3, 2], [1, 2]] {
            let x = tensor.view().crop(1..4, 2..6).unwrap();
            let (start, y_layout) = tensor.layout().crop(to[0]..to[0] + 3, to[1]..to[1] + 4).unwrap();
            // SAFETY: within the tensor, which outlives the view; that it is read meanwhile is what the plan refuses
            let y = unsafe { TensorViewMut::<f32>::from_raw(&device, tensor.address() + 4 * start as u64, y_layout) }.unwrap();
            let refused = plan.run(&Inputs::new(x), y, Workspace::none(), &Stream::default_of(&device));
            assert!(matches!(refused, Err(Error::Aliased { name: "x", .. })), "{format} {to:?}");
        }
    }
    // beside and below
    for format in MemoryFormat::ALL {
        let plan = layer.plan::<f32>(&device, &PlanRequest::new([1, 2, 3, 4]).format(format)).unwrap();
        let tensor = Tensor::<f32>::randn(&device, [1, 2, 7, 9], format, 5).unwrap();
        for to in [[0, 4], [1, 5], [4, 0], [4, 3], [3, 4]] {
            let x = tensor.view().crop(0..3, 0..4).unwrap();
            let (start, y_layout) = tensor.layout().crop(to[0]..to[0] + 3, to[1]..to[1] + 4).unwrap();
            // SAFETY: within the tensor, which outlives the view; nobody else reads this part meanwhile
            let y = unsafe { TensorViewMut::<f32>::from_raw(&device, tensor.address() + 4 * start as u64, y_layout) }.unwrap();
            plan.run(&Inputs::new(x), y, Workspace::none(), &Stream::default_of(&device)).unwrap();
            let y = tensor.crop(to[0]..to[0] + 3, to[1]..to[1] + 4).unwrap().to_vec().unwrap();
            assert_eq!(tensor.crop(0..3, 0..4).unwrap().to_vec().unwrap(), y, "{format} {to:?}");
        }
    }
}

#[test]
fn crops_are_ranges_within_the_picture() {
    let device = Device::host().unwrap();
    let x = Tensor::<f32>::zeros(&device, [1, 2, 4, 5], MemoryFormat::Contiguous).unwrap();
    #[allow(clippy::reversed_empty_ranges)]
    for (rows, columns) in [(0..5, 0..5), (0..4, 3..6), (3..2, 0..1), (0..1, usize::MAX..usize::MAX)] {
        assert!(matches!(x.crop(rows, columns), Err(Error::Attribute { .. })));
    }
    assert_eq!(x.crop(4..4, 0..5).unwrap().to_vec().unwrap(), Vec::<f32>::new());
    let values = [0f32; 20];
    let pitched = Layout::strided([1, 1, 4, 5], MemoryFormat::Contiguous, [0, 0, 6, 1]).unwrap();
    assert!(matches!(TensorView::from_host_slice(&device, &values, pitched), Err(Error::Length { expected: 23, got: 20, .. })));
    // an image that reaches too far for 32 bits is refused when it is read
    let far = Layout::strided([1, 1, 3, 1], MemoryFormat::Contiguous, [0, 0, 1 << 31, 1]).unwrap();
    // SAFETY: refused before anything is read
    let far = unsafe { TensorView::<f32>::from_raw(&device, 4096, far) }.unwrap();
    assert!(matches!(far.to_format(MemoryFormat::Contiguous), Err(Error::Limit { .. })));
}
