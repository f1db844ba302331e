//! What needs a GPU, and what is said when there is none. Without one (or without the feature `cuda`) the tests on a GPU are
//! listed as ignored; the last line says whether a GPU was tested.

use half::{bf16, f16};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::process::ExitCode;
use std::time::Duration;
use warpconv::bench::{Bench, Configuration, Effort, Scale, Status, Suite};
use warpconv::cases::{Problem, kinds};
use warpconv::check::{Case, Kernels};
use warpconv::reference::{self, Array};
use warpconv::tuning::{TunedKernel, TuningRow};
use warpconv::{
    Activation, AnyLayer, ChosenBy, Conv2d, Conv2dSpec, DType, Device, DeviceKind, Element, Error, Event, Graph, Inputs, Layer, LayerSpec,
    MemoryFormat, Padding, Parameter, PixelShuffle, PixelShuffleSpec, PlanRequest, Stream, Tensor, TuningTable, Workspace,
};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // one after the other: while one test captures a stream, no other may wait for the device
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, trials());
    if !arguments.list {
        match Device::cuda(0) {
            Ok(device) => println!("A GPU was tested: {device}, {}.", device.describe()),
            Err(why) => println!("No GPU was tested: {why}."),
        }
    }
    conclusion.exit_code()
}

/// Also run by src/device/cuda/tests.rs, on a fake driver.
pub fn trials() -> Vec<Trial> {
    let without = |name: &str, test: fn()| {
        Trial::test(format!("without_gpu::{name}"), move || {
            test();
            Ok(())
        })
    };
    let mut trials = vec![
        without("a_missing_gpu_is_an_error_that_says_why", a_missing_gpu_is_an_error_that_says_why),
        without("the_best_device_is_always_there", the_best_device_is_always_there),
    ];
    let mut with = |name: &str, test: fn(&Device)| {
        let run = move || match Device::cuda(0) {
            Ok(device) => {
                test(&device);
                Ok::<_, Failed>(Completion::Completed)
            }
            Err(_) => Ok(Completion::ignored_with("no GPU")),
        };
        trials.push(Trial::ignorable_test(format!("with_gpu::{name}"), run));
    };
    with("layers_match_the_oracle", layers_match_the_oracle);
    with("direct_kernels_equal_the_host_device_bit_for_bit", direct_kernels_equal_the_host_device_bit_for_bit);
    with("conversions_equal_the_host_device_bit_for_bit", conversions_equal_the_host_device_bit_for_bit);
    with("running_allocates_nothing", running_allocates_nothing);
    with("a_plan_is_shared_between_threads_and_streams", a_plan_is_shared_between_threads_and_streams);
    with("uploads_and_conversions_are_done_on_return", uploads_and_conversions_are_done_on_return);
    with("a_graph_replays_on_new_inputs", a_graph_replays_on_new_inputs);
    with("rows_of_the_suite_are_checked_and_timed", rows_of_the_suite_are_checked_and_timed);
    with("kernels_are_tuned", kernels_are_tuned);
    with("too_much_memory_is_an_error", too_much_memory_is_an_error);
    with("devices_are_told_apart", devices_are_told_apart);
    with("a_stream_waits_for_anothers_event", a_stream_waits_for_anothers_event);
    #[cfg(feature = "cuda")]
    {
        with("a_captured_chain_replays_on_new_input", on_cudarc::a_captured_chain_replays_on_new_input);
        with("slices_are_read_and_written_in_place", on_cudarc::slices_are_read_and_written_in_place);
        with("slices_and_streams_of_others_are_refused", on_cudarc::slices_and_streams_of_others_are_refused);
    }
    trials
}

/// Two layers on two streams, the second of which reads what the first writes, with nothing but an event between them.
fn a_stream_waits_for_anothers_event(device: &Device) {
    let weight = |value: f32| Parameter::new(&[8, 8, 1, 1], &[value; 64]).unwrap();
    let shape = [4, 8, 64, 64];
    let layers = [weight(0.5), weight(0.25)].map(|weight| Conv2d::new(Conv2dSpec::default(), weight).unwrap());
    let plans = layers.map(|layer| layer.plan::<f32>(device, &PlanRequest::new(shape)).unwrap());
    let x = Tensor::from_slice(device, shape, &[1f32; 4 * 8 * 64 * 64]).unwrap();
    let [mut mid, mut y] = [(); 2].map(|()| Tensor::<f32>::zeros(device, shape, MemoryFormat::Contiguous).unwrap());
    let [first, second] = [(); 2].map(|()| Stream::new(device).unwrap());
    let event = Event::new(device).unwrap();
    assert!(event.is_complete().unwrap(), "never recorded");
    plans[0].run(&Inputs::new(&x), &mut mid, Workspace::none(), &first).unwrap();
    first.record(&event).unwrap();
    second.wait(&event).unwrap();
    plans[1].run(&Inputs::new(&mid), &mut y, Workspace::none(), &second).unwrap();
    event.synchronize().unwrap();
    assert!(event.is_complete().unwrap());
    second.synchronize().unwrap();
    assert!(y.to_vec().unwrap().iter().all(|&value| value == 8.0));
}

fn a_missing_gpu_is_an_error_that_says_why() {
    match Device::cuda(99).unwrap_err() {
        Error::DeviceUnavailable { requested, why } if cfg!(feature = "cuda") => {
            assert_eq!(requested, "cuda:99");
            assert!(why.contains("driver") || why.contains("GPU") || why.contains("cuda:0"), "{why}");
        }
        error @ Error::MissingFeature { feature: "cuda" } if !cfg!(feature = "cuda") => {
            assert!(error.to_string().contains("--features cuda"), "{error}");
        }
        error => panic!("{error}"),
    }
}

fn the_best_device_is_always_there() {
    if cfg!(not(feature = "host")) {
        return;
    }
    let best = Device::best().unwrap();
    let expected = if Device::cuda(0).is_ok() { DeviceKind::Cuda } else { DeviceKind::Host };
    assert_eq!(best.kind(), expected, "{}", best.describe());
    if cfg!(feature = "cuda") && expected == DeviceKind::Host {
        assert!(best.describe().contains("driver") || best.describe().contains("GPU"), "{}", best.describe());
    }
}

/// Runs `$test::<T>(...)` for each dtype.
macro_rules! for_each_dtype {
    ($test:ident($($argument:expr),*)) => {{
        $test::<f32>($($argument),*);
        $test::<f16>($($argument),*);
        $test::<bf16>($($argument),*);
    }};
}

fn layers_match_the_oracle(device: &Device) {
    for index in 0..2 * kinds().count() as u64 {
        let problem = Problem::random(7, index);
        for dtype in DType::ALL {
            let tensors = problem.tensors(dtype).unwrap();
            let (output, scale) = reference::layer(&problem.layer, &tensors).unwrap();
            let case = Case::new(problem.layer, &tensors, output, scale.into_data()).unwrap();
            let case = case.frames(problem.frames());
            for format in MemoryFormat::ALL {
                for run in case.check(dtype, format, format, Kernels::All, device) {
                    assert!(run.outcome.is_ok(), "{run:?} of {problem:?}");
                }
            }
        }
    }
}

fn direct_kernels_equal_the_host_device_bit_for_bit(device: &Device) {
    let Ok(host) = Device::host() else { return };
    for index in 0..kinds().count() as u64 {
        let mut problem = Problem::random(11, index);
        // functions like exp differ between libraries in the last bits
        let LayerSpec::Conv2d(mut spec) = problem.layer else { continue };
        spec.activation = Activation::Relu6;
        problem.layer = LayerSpec::Conv2d(spec);
        problem = problem.with("slope", None);
        for format in MemoryFormat::ALL {
            for_each_dtype!(equals_the_host(device, &host, &problem, format));
        }
    }
}

fn equals_the_host<T: Element>(device: &Device, host: &Device, problem: &Problem, format: MemoryFormat) {
    let mut tensors = problem.tensors(T::DTYPE).unwrap();
    let values = |array: &Array| array.data().iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
    let [x, residual] = ["x", "residual"].map(|name| tensors.remove(name).map(|array| values(&array)));
    let parameter = |(name, array): (String, Array)| {
        let values: Vec<f32> = array.data().iter().map(|&v| v as f32).collect();
        (name, Parameter::new(array.shape(), &values).unwrap().allow_non_finite())
    };
    let layer = AnyLayer::new(problem.layer, tensors.into_iter().map(parameter).collect()).unwrap();
    let kernel = format!("conv_direct_{}_{format}", T::DTYPE);
    let [gpu, cpu] = [device, host].map(|device| {
        let new = |shape, values: &[T]| Tensor::from_slice(device, shape, values).unwrap().to_format(format).unwrap();
        let x = new(problem.x().unwrap(), x.as_ref().unwrap());
        let plan = layer.plan::<T>(device, &PlanRequest::new(problem.x().unwrap()).format(format).kernel(&kernel)).unwrap();
        let residual = residual.as_ref().map(|values| new(plan.output_shape(), values));
        let mut inputs = Inputs::new(&x);
        if let Some(residual) = &residual {
            inputs = inputs.residual(residual);
        }
        let mut y = Tensor::zeros(device, plan.output_shape(), format).unwrap();
        plan.run(&inputs, &mut y, Workspace::none(), &Stream::default_of(device)).unwrap();
        y.to_vec().unwrap()
    });
    assert_same_bits(&gpu, &cpu, &format!("{kernel} on {problem:?}"));
}

/// Any NaN equals any other.
fn assert_same_bits<T: Element>(a: &[T], b: &[T], what: &str) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let (a, b) = (a.to_f32(), b.to_f32());
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "element {i}: {a} and {b}: {what}");
    }
}

fn conversions_equal_the_host_device_bit_for_bit(device: &Device) {
    let Ok(host) = Device::host() else { return };
    let special = [0.0, -0.0, 1e-45, 6e-8, 3e-5, 65504.0, 65519.9, 65520.0, 1e30, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let shape = [2, 37, 5, 13];
    let mut values: Vec<f32> = Tensor::<f32>::randn(&host, shape, MemoryFormat::Contiguous, 5).unwrap().to_vec().unwrap();
    values[..special.len()].copy_from_slice(&special);
    let [gpu, cpu] = [device, &host].map(|device| Tensor::from_slice(device, shape, &values).unwrap());
    fn one<T: Element>(gpu: &Tensor<f32>, cpu: &Tensor<f32>) {
        let [g, c] = [gpu, cpu].map(|tensor| tensor.cast::<T>().unwrap());
        assert_same_bits(&g.to_vec().unwrap(), &c.to_vec().unwrap(), &format!("f32 to {}", T::DTYPE));
        let [gl, cl] = [&g, &c].map(|tensor| tensor.channels(3..30).unwrap().to_format(MemoryFormat::ChannelsLast).unwrap());
        assert_same_bits(&gl.to_vec_in_memory_order().unwrap(), &cl.to_vec_in_memory_order().unwrap(), "to channels_last");
        assert_same_bits(&gl.to_vec().unwrap(), &cl.to_vec().unwrap(), "and back");
        fn back<T: Element, U: Element>(g: &Tensor<T>, c: &Tensor<T>) {
            let [g, c] = [g, c].map(|tensor| tensor.cast::<U>().unwrap().to_vec().unwrap());
            assert_same_bits(&g, &c, &format!("{} to {}", T::DTYPE, U::DTYPE));
        }
        back::<T, f32>(&g, &c);
        back::<T, f16>(&g, &c);
        back::<T, bf16>(&g, &c);
    }
    for_each_dtype!(one(&gpu, &cpu));
}

fn layer(c_in: usize, c_out: usize, activation: Activation) -> Conv2d {
    let weight: Vec<f32> = (0..c_out * c_in * 9).map(|i| ((i * 37) % 129) as f32 / 64.0 - 1.0).collect();
    let spec = Conv2dSpec { padding: Padding::Same, activation, ..Default::default() };
    Conv2d::new(spec, Parameter::new(&[c_out, c_in, 3, 3], &weight).unwrap()).unwrap()
}

fn running_allocates_nothing(device: &Device) {
    let layer = layer(3, 5, Activation::Silu);
    let x = Tensor::<f16>::randn(device, [2, 3, 16, 16], MemoryFormat::ChannelsLast, 1).unwrap();
    let plan = layer.plan::<f16>(device, &PlanRequest::new(x.shape()).format(MemoryFormat::ChannelsLast)).unwrap();
    let mut y = Tensor::zeros(device, plan.output_shape(), plan.output_format()).unwrap();
    let stream = Stream::default_of(device);
    let before = device.allocations();
    for _ in 0..8 {
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap();
    }
    assert_eq!(device.allocations(), before);
    assert_eq!(layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap(), y.to_vec().unwrap());
}

fn a_plan_is_shared_between_threads_and_streams(device: &Device) {
    let layer = layer(4, 6, Activation::Gelu);
    let plan = layer.plan::<f32>(device, &PlanRequest::new([1, 4, 33, 31])).unwrap();
    let run = |seed: u64| {
        let x = Tensor::<f32>::randn(device, [1, 4, 33, 31], MemoryFormat::Contiguous, seed).unwrap();
        let mut y = Tensor::zeros(device, plan.output_shape(), plan.output_format()).unwrap();
        let stream = Stream::new(device).unwrap();
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap();
        stream.synchronize().unwrap();
        y.to_vec().unwrap()
    };
    let alone: Vec<_> = (0..8).map(run).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|seed| scope.spawn(move || run(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

fn a_graph_replays_on_new_inputs(device: &Device) {
    let spec = Conv2dSpec { padding: Padding::all(1), activation: Activation::Relu, ..Default::default() };
    let values: Vec<f32> = (0..4 * 4 * 9).map(|i| (i * 7 % 11) as f32 / 16.0 - 0.25).collect();
    let layer = Conv2d::new(spec, Parameter::new(&[4, 4, 3, 3], &values).unwrap()).unwrap();
    let (shape, format) = ([2, 4, 9, 7], MemoryFormat::ChannelsLast);
    let plan = std::sync::Arc::new(layer.plan::<f32>(device, &PlanRequest::new(shape).format(format)).unwrap());
    let mut slots = None;
    let mut graph = Graph::capture(device, |recorder| {
        let [x, middle, y] = [(); 3].map(|()| recorder.tensor(Tensor::<f32>::zeros(device, shape, format).unwrap()));
        recorder.run(plan.clone(), move |tensors| Ok(Inputs::new(tensors.view(x)?)), middle)?;
        recorder.run(plan.clone(), move |tensors| Ok(Inputs::new(tensors.view(middle)?).residual(tensors.view(x)?)), y)?;
        slots = Some((x, y));
        Ok(())
    })
    .unwrap();
    drop(plan); // the graph keeps it
    let (x, y) = slots.unwrap();
    let stream = Stream::new(device).unwrap();
    for seed in 0..3 {
        let input = Tensor::<f32>::randn(device, shape, format, seed).unwrap();
        graph.view_mut(x).unwrap().write(&input.to_vec().unwrap()).unwrap();
        graph.replay(&stream).unwrap();
        let middle = layer.forward(&Inputs::new(&input)).unwrap();
        let expected = layer.forward(&Inputs::new(&middle).residual(&input)).unwrap();
        assert_eq!(graph.view(y).unwrap().to_vec().unwrap(), expected.to_vec().unwrap(), "replay with input {seed}");
    }
}

/// Another stream than theirs may use the results at once.
fn uploads_and_conversions_are_done_on_return(device: &Device) {
    let layer = layer(3, 4, Activation::None);
    let stream = Stream::new(device).unwrap();
    let shape = [1, 3, 300, 200];
    let values: Vec<f32> = (0..3 * 300 * 200).map(|i| (i % 127) as f32 / 64.0).collect();
    let plan = |format| layer.plan::<f32>(device, &PlanRequest::new(shape).format(format)).unwrap();
    let (nchw, nhwc) = (plan(MemoryFormat::Contiguous), plan(MemoryFormat::ChannelsLast));
    let new = |format| Tensor::<f32>::zeros(device, nchw.output_shape(), format).unwrap();
    let (mut y, mut y_last, mut y_cast) = (new(MemoryFormat::Contiguous), new(MemoryFormat::ChannelsLast), new(MemoryFormat::Contiguous));
    let x = Tensor::from_slice(device, shape, &values).unwrap();
    nchw.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap();
    stream.synchronize().unwrap();
    let x_last = x.to_format(MemoryFormat::ChannelsLast).unwrap();
    nhwc.run(&Inputs::new(&x_last), &mut y_last, Workspace::none(), &stream).unwrap();
    stream.synchronize().unwrap();
    let x_half = x.cast::<f16>().unwrap();
    let x_cast = x_half.cast::<f32>().unwrap();
    nchw.run(&Inputs::new(&x_cast), &mut y_cast, Workspace::none(), &stream).unwrap();
    stream.synchronize().unwrap();
    let expected = layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
    for (what, y) in [("upload", y), ("format", y_last), ("cast", y_cast)] {
        assert_eq!(y.to_vec().unwrap(), expected, "{what}");
    }
}

/// Several inputs rotate in each graph, and its events give a time.
fn rows_of_the_suite_are_checked_and_timed(device: &Device) {
    let effort = Effort { warm_up: Duration::ZERO, budget: Duration::ZERO, least: 3, most: 3 };
    let bench = Bench::new(device, Scale::Tiny).unwrap().effort(effort);
    let floors = bench.floors().unwrap();
    assert!(floors.copy_bytes_per_second > 0.0 && floors.tensor_flops_per_second > 0.0 && floors.empty_node_seconds > 0.0);
    let suite = Suite::built_in().unwrap();
    let rows = [
        "mobilenet_v2/dw3_960x7 b8 f16 channels_last",
        "mobilenet_v2/dw3_32x112 b8",
        "efficientnet_b0/1x1_16to96x112 b8 f16 channels_last tail",
    ];
    let wanted = |c: &Configuration<'_>| rows.iter().any(|row| c.id().starts_with(row));
    let configurations: Vec<_> = suite.configurations().into_iter().filter(wanted).collect();
    assert_eq!(configurations.len(), 7);
    for configuration in configurations {
        let result = bench.run(&configuration, &floors);
        assert_eq!(result.status, Status::Timed, "{result:?}");
        let time = result.time.unwrap();
        assert!(time.samples == 3 && time.launches >= 16 && time.median > 0.0, "{result:?}");
        assert!(result.checked.unwrap().sampled > 0);
    }
}

/// Every kernel is checked and timed, and a plan goes by the table.
fn kernels_are_tuned(device: &Device) {
    let effort = Effort { warm_up: Duration::ZERO, budget: Duration::ZERO, least: 3, most: 3 };
    let bench = Bench::new(device, Scale::Tiny).unwrap().effort(effort);
    let suite = Suite::built_in().unwrap();
    let id = "mobilenet_v2/dw3_960x7 b8 f16 channels_last";
    let configuration = suite.configurations().into_iter().find(|c| c.id() == id).unwrap();
    let row = bench.tune(&configuration).unwrap().expect("there is a choice");
    assert!(row.kernels.len() > 1 && row.kernels.iter().all(|kernel| kernel.time.is_some()), "{row:?}");

    let other = Device::cuda(0).unwrap();
    let layer = PixelShuffle::new(PixelShuffleSpec { factor: 2, order: Default::default() }).unwrap();
    // the table below stays with the device, which other tests share: the problem is one that none of them has
    let x = Tensor::<f16>::randn(&other, [3, 24, 16, 40], MemoryFormat::Contiguous, 1).unwrap();
    let request = PlanRequest::new(x.shape());
    let tuned = layer.tune(&request, &Inputs::new(&x)).unwrap();
    assert_eq!(tuned.plan.explain().chosen_by, ChosenBy::Measurement(tuned.times.len()));
    let (slowest, _) = *tuned.times.last().unwrap();
    let kernel = TunedKernel { kernel: slowest.into(), estimate: 1.0, time: row.kernels[0].time, message: None };
    let row = TuningRow { id: "test".into(), problem: tuned.plan.explain().problem.clone(), kernels: vec![kernel] };
    let table = TuningTable { rows: vec![row], ..TuningTable::new("t", &other, true) };
    assert!(other.add_tuning(&table));
    assert_eq!(layer.plan::<f16>(&other, &request).unwrap().explain().kernel, slowest);
    if let Ok(host) = Device::host() {
        assert!(!host.add_tuning(&table), "a table of a GPU has no say on the host device");
    }
}

fn too_much_memory_is_an_error(device: &Device) {
    let error = Tensor::<f32>::zeros(device, [1 << 15, 1 << 10, 1 << 10, 1 << 10], MemoryFormat::Contiguous).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { bytes, .. } if bytes == 1 << 47), "{error}");
    Tensor::<f32>::zeros(device, [1, 1, 8, 8], MemoryFormat::Contiguous).unwrap();
}

fn devices_are_told_apart(device: &Device) {
    let other = Device::cuda(0).unwrap();
    assert_eq!(*device, other, "one GPU is one device");
    #[cfg(feature = "cuda")]
    assert_eq!(Device::from_cuda(warpconv::cudarc::driver::CudaContext::new(0).unwrap()).unwrap(), other);
    assert!(matches!(Device::cuda(1000).unwrap_err(), Error::DeviceUnavailable { .. }));
    assert_eq!(Device::parse("cuda:0").unwrap().kind(), DeviceKind::Cuda);
    let layer = layer(3, 4, Activation::None);
    let plan = layer.plan::<f32>(device, &PlanRequest::new([1, 3, 8, 8])).unwrap();
    let Ok(host) = Device::host() else { return };
    let zeros = |device: &Device, channels| Tensor::<f32>::zeros(device, [1, channels, 8, 8], MemoryFormat::Contiguous).unwrap();
    let (x, mut y) = (zeros(device, 3), zeros(device, 4));
    let on_host = zeros(&host, 3);
    let stream = Stream::default_of(device);
    let refused = plan.run(&Inputs::new(&on_host), &mut y, Workspace::none(), &stream).unwrap_err();
    assert!(matches!(refused, Error::WrongDevice { name: "x", .. }), "{refused}");
    let refused = plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&host)).unwrap_err();
    assert!(matches!(refused, Error::WrongDevice { name: "the stream", .. }), "{refused}");
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap();
    assert_eq!(y.to_device(&host).unwrap().to_vec().unwrap(), vec![0.0; 4 * 64]);
}

#[cfg(feature = "cuda")]
mod on_cudarc {
    use super::*;
    use warpconv::cudarc::driver::{CudaContext, sys};
    use warpconv::{Layout, TensorView, TensorViewMut};

    pub fn a_captured_chain_replays_on_new_input(device: &Device) {
        let shape = [2, 3, 17, 19];
        let layout = Layout::packed(shape, MemoryFormat::ChannelsLast);
        let layers = [layer(3, 8, Activation::Relu), layer(8, 8, Activation::Silu), layer(8, 4, Activation::None)];
        let request = |channels| PlanRequest::new([2, channels, 17, 19]).format(MemoryFormat::ChannelsLast);
        let plans: Vec<_> = layers.iter().zip([3, 8, 8]).map(|(layer, c)| layer.plan::<f32>(device, &request(c)).unwrap()).collect();
        let new = |channels| Tensor::<f32>::zeros(device, [2, channels, 17, 19], MemoryFormat::ChannelsLast).unwrap();
        let (mut a, mut b, mut y) = (new(8), new(8), new(4));
        let input = |seed| Tensor::<f32>::randn(device, shape, MemoryFormat::ChannelsLast, seed).unwrap();
        let expected = |x: &Tensor<f32>| {
            let a = layers[0].forward(&Inputs::new(x)).unwrap();
            let b = layers[1].forward(&Inputs::new(&a).residual(&a)).unwrap();
            layers[2].forward(&Inputs::new(&b)).unwrap().to_vec().unwrap()
        };

        let stream = Stream::new(device).unwrap();
        let cuda = stream.as_cuda().unwrap();
        let mut slice = cuda.clone_htod(&input(1).to_vec_in_memory_order().unwrap()).unwrap();
        {
            // SAFETY: the slice is initialised, and everything here is on one stream
            let (x, read) = unsafe { TensorView::from_cuda(device, &slice, layout, &stream).unwrap() };
            drop(read); // before the capture, which may not hold events from outside
            cuda.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            let refused = plans[0].run(&Inputs::new(x), &mut a, Workspace::none(), &stream);
            assert!(matches!(refused, Err(Error::Capturing)), "{refused:?}");
            // SAFETY: plans, tensors and the slice outlive the graph
            let stream = unsafe { stream.clone().allow_capture() };
            plans[0].run(&Inputs::new(x), &mut a, Workspace::none(), &stream).unwrap();
            plans[1].run(&Inputs::new(&a).residual(&a), &mut b, Workspace::none(), &stream).unwrap();
            plans[2].run(&Inputs::new(&b), &mut y, Workspace::none(), &stream).unwrap();
        }
        let graph = cuda.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().expect("three launches");
        assert!(y.to_vec().unwrap().iter().all(|&v| v == 0.0), "a capture runs nothing");
        for seed in 1..4 {
            let x = input(seed);
            cuda.memcpy_htod(&x.to_vec_in_memory_order().unwrap(), &mut slice).unwrap();
            graph.launch().unwrap();
            stream.synchronize().unwrap();
            assert_eq!(y.to_vec().unwrap(), expected(&x), "replay with input {seed}");
        }
    }

    pub fn slices_are_read_and_written_in_place(device: &Device) {
        let layer = layer(3, 5, Activation::Relu6);
        let stream = Stream::new(device).unwrap();
        let cuda = stream.as_cuda().unwrap();
        let [x_layout, y_layout] = [[1, 3, 9, 9], [1, 5, 9, 9]].map(|shape| Layout::packed(shape, MemoryFormat::Contiguous));
        let x = Tensor::<f32>::randn(device, x_layout.shape(), MemoryFormat::Contiguous, 3).unwrap();
        let x_slice = cuda.clone_htod(&x.to_vec().unwrap()).unwrap();
        let mut y_slice = cuda.alloc_zeros::<f32>(y_layout.extent()).unwrap();
        let plan = layer.plan::<f32>(device, &PlanRequest::new(x.shape())).unwrap();
        {
            // SAFETY: the slices are initialised, and all work on them is on one stream
            let (x, _read) = unsafe { TensorView::from_cuda(device, &x_slice, x_layout, &stream).unwrap() };
            // SAFETY: as above
            let (y, _written) = unsafe { TensorViewMut::from_cuda(device, &mut y_slice, y_layout, &stream).unwrap() };
            plan.run(&Inputs::new(x), y, Workspace::none(), &stream).unwrap();
        }
        let expected = layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
        assert_eq!(cuda.clone_dtoh(&y_slice).unwrap(), expected);
    }

    pub fn slices_and_streams_of_others_are_refused(device: &Device) {
        let stream = Stream::new(device).unwrap();
        let cuda = stream.as_cuda().unwrap();
        let slice = cuda.alloc_zeros::<f32>(10).unwrap();
        let layout = |w| Layout::packed([1, 1, 1, w], MemoryFormat::Contiguous);
        // SAFETY: refused, or not used
        let view = |device, layout| unsafe { TensorView::from_cuda(device, &slice, layout, &stream).map(|_| ()) };
        view(device, layout(10)).unwrap();
        assert!(matches!(view(device, layout(11)), Err(Error::Length { expected: 11, got: 10, .. })));
        if let Ok(host) = Device::host() {
            assert!(matches!(view(&host, layout(10)), Err(Error::WrongDevice { name: "the slice", .. })));
            assert!(matches!(Stream::from_cuda(&host, cuda.clone()), Err(Error::WrongDevice { name: "the stream", .. })));
        }
        // another handle of the same context is as good
        let context = CudaContext::new(0).unwrap();
        Stream::from_cuda(device, context.new_stream().unwrap()).unwrap();
        let same = Device::from_cuda(context).unwrap();
        assert_eq!(same.properties(), device.properties());
    }
}
