//! The device against a fake driver (fake_driver.c), so that it is tested where there is no GPU: the tests of tests/cuda.rs, in
//! which the host device computes what is launched, and what a real driver seldom shows.

use super::*;
use crate::bench::{Bench, Scale};
use crate::device::kernel::find;
use crate::{Conv2d, Conv2dSpec, Device, Inputs, Layer, MemoryFormat, Parameter, PlanRequest, Tensor, Workspace};
use cudarc::driver::sys;
use std::ffi::{CStr, c_char};
use std::path::Path;
use std::process::Command;

#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../../../tests/cuda.rs"]
mod on_a_gpu;

/// fake_driver.c's settings.
enum Setting {
    Capability,
    DriverVersion,
    LoadError,
    Gpus,
    Pools,
}

/// The fake driver, loaded under the name by which cudarc asks for the real one.
struct Fake(libloading::Library);

impl Fake {
    fn load(directory: &Path) -> Self {
        // SAFETY: the library's functions are as fake_driver.c declares them
        unsafe {
            let fake = Self(libloading::Library::new(directory.join("libcuda.so.1")).unwrap());
            fake::attach(&fake.0);
            fake
        }
    }

    fn set(&self, setting: Setting, value: i64) {
        // SAFETY: as in `load`, which made sure of the library
        unsafe { self.0.get::<unsafe extern "C" fn(i32, i64)>(b"fake_set\0").unwrap()(setting as i32, value) }
    }

    /// The driver's calls since the last time.
    fn take_log(&self) -> String {
        // SAFETY: as in `load`; the string is valid until the next call
        unsafe {
            let log = self.0.get::<unsafe extern "C" fn() -> *const c_char>(b"fake_take_log\0").unwrap()();
            CStr::from_ptr(log).to_str().unwrap().trim_end().to_string()
        }
    }

    fn bytes_in_use(&self) -> i64 {
        // SAFETY: as in `load`
        unsafe { self.0.get::<unsafe extern "C" fn() -> i64>(b"fake_bytes_in_use\0").unwrap()() }
    }

    /// The bytes in use, with what the pool keeps and what streams have not freed yet.
    fn bytes_reserved(&self) -> i64 {
        // SAFETY: as in `load`
        unsafe { self.0.get::<unsafe extern "C" fn() -> i64>(b"fake_bytes_reserved\0").unwrap()() }
    }
}

const DIRECTORY: &str = "WARPCONV_FAKE_DRIVER";

/// Runs `body`, that of the test of this name, in a process of its own, for which the fake driver is the driver: the test starts
/// itself again there, with a fault of fake_driver.c if one is wanted.
fn in_a_process(test: &str, fault: Option<&str>, body: impl FnOnce()) {
    if std::env::var_os(DIRECTORY).is_some() {
        return body();
    }
    // SAFETY: the driver's library may be loaded by any program at any time
    if unsafe { libloading::Library::new("libcuda.so.1") }.is_ok() {
        eprintln!("there is a real driver: tests/cuda.rs tests with it");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("libcuda.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/device/cuda/fake_driver.c");
    let mut compiler = Command::new(std::env::var("CXX").unwrap_or("c++".into()));
    compiler.args(["-x", "c", "-std=gnu11", "-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"]).arg(&library).arg(source);
    assert!(compiler.status().unwrap().success(), "{compiler:?}");
    let name = format!("device::cuda::tests::{test}");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &name, "--nocapture"]).env(DIRECTORY, directory.path());
    child.envs(fault.map(|fault| ("WARPCONV_FAKE_FAULT", fault)));
    let output = child.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    println!("{text}");
}

fn fake() -> Fake {
    let fake = Fake::load(Path::new(&std::env::var_os(DIRECTORY).expect("run by `in_a_process`")));
    fake.set(Setting::Gpus, 1);
    fake.set(Setting::Capability, 90);
    fake.set(Setting::DriverVersion, 13_000);
    fake
}

#[test]
fn the_tests_for_gpus_pass_on_a_fake_driver() {
    in_a_process("the_tests_for_gpus_pass_on_a_fake_driver", None, child_runs_the_tests_for_gpus);
}

fn child_runs_the_tests_for_gpus() {
    let _fake = fake();
    let arguments = libtest_mimic::Arguments { test_threads: Some(1), ..Default::default() };
    let conclusion = libtest_mimic::run(&arguments, on_a_gpu::trials());
    assert!(!conclusion.has_failed() && conclusion.num_ignored == 0, "{conclusion:?}");
}

#[test]
fn what_is_asked_of_the_driver() {
    in_a_process("what_is_asked_of_the_driver", None, child_asks_the_driver);
}

fn child_asks_the_driver() {
    let fake = fake();
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[2, 3, 3, 3], &[0.5f32; 54]).unwrap()).unwrap();
    let request = PlanRequest::new([1, 3, 8, 8]);
    {
        let device = Device::cuda(0).unwrap();
        assert_eq!(device.describe(), "Fake GPU 0");
        assert_eq!(device.properties().compute_capability, (9, 0));
        assert_eq!(Device::best().unwrap().kind(), DeviceKind::Cuda);
        let none = Device::cuda(1).unwrap_err().to_string();
        assert!(none.contains("cuda:1") && none.contains("cuda:0 (Fake GPU 0)"), "{none}");

        let x = Tensor::<f32>::zeros(&device, [1, 3, 8, 8], MemoryFormat::Contiguous).unwrap();
        fake.take_log();
        let plan = layer.plan::<f32>(&device, &request).unwrap();
        let planning = fake.take_log();
        assert!(planning.contains("cuModuleLoadData cuModuleGetFunction cuFuncSetAttribute"), "{planning}");
        let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
        let stream = Stream::new(&device).unwrap();
        fake.take_log();
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap();
        assert_eq!(fake.take_log(), "cuLaunchKernel", "a run is one launch and nothing else");
        std::thread::scope(|scope| {
            scope.spawn(|| plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap());
        });
        layer.plan::<f32>(&device, &request).unwrap();
        assert!(!fake.take_log().contains("cuModuleLoadData"), "a family is loaded once");

        // limits are ours to refuse, before the driver does
        let kernel = device.load(find("transpose_32")).unwrap();
        let launch = |grid, shared_bytes| {
            let launch = Launch { kernel: &kernel, grid, shared_bytes, params: &[], operands: &[] };
            // SAFETY: refused before the driver is called
            unsafe { device.0.backend.launch(&launch, &stream) }.unwrap_err()
        };
        let error = launch([1, 65_536, 1], 0);
        assert!(matches!(error, Error::Limit { what: "the number of blocks along y", value: 65_536, limit: 65_535 }), "{error}");
        assert!(matches!(launch([1, 1, 1], 300_000), Error::Limit { value: 300_000, .. }));

        // an event is complete when its stream has got there, and not before
        let event = crate::Event::new(&device).unwrap();
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap();
        stream.record(&event).unwrap();
        assert!(!event.is_complete().unwrap());
        fake.take_log();
        event.synchronize().unwrap();
        assert_eq!(fake.take_log(), "cuEventSynchronize", "nothing else is waited for");
        assert!(event.is_complete().unwrap());

        // a wait that would spoil a capture is an error of the driver, not a panic
        let cuda = stream.as_cuda().unwrap();
        cuda.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        assert!(matches!(x.to_vec(), Err(Error::Capturing)), "its stream cannot be waited for");
        assert!(matches!(device.synchronize(), Err(Error::Driver { call: "cuCtxSynchronize", .. })));
        assert!(matches!(stream.record(&event), Err(Error::Capturing)) && matches!(stream.wait(&event), Err(Error::Capturing)));
        assert!(cuda.end_capture(sys::CUgraphInstantiate_flags(0)).is_err());
        stream.synchronize().unwrap();
    }
    let end = fake.take_log();
    assert!(end.contains("cuCtxSynchronize cuModuleUnload"), "code is unloaded when nothing can run it any more: {end}");
    drop(layer); // the packed weights with it
    assert_eq!(fake.bytes_in_use(), 0, "everything is freed");
}

/// Above the calls of the driver, which are the same for both: this is the crate's own work.
#[test]
fn what_a_plan_adds_to_a_launch_is_measured() {
    in_a_process("what_a_plan_adds_to_a_launch_is_measured", None, child_measures_a_launch);
}

fn child_measures_a_launch() {
    let _fake = fake();
    let device = Device::cuda(0).unwrap();
    let launch = Bench::new(&device, Scale::Tiny).unwrap().launch_overhead().unwrap().expect("a GPU");
    println!("{launch:?}: {:.3} us more", launch.seconds() * 1e6);
    assert!(launch.bare_seconds > 0.0 && launch.run_seconds > 0.0, "{launch:?}");
}

#[test]
fn code_that_does_not_run_is_told_apart() {
    in_a_process("code_that_does_not_run_is_told_apart", None, child_loads_what_does_not_run);
}

fn child_loads_what_does_not_run() {
    let fake = fake();
    let nvcc = build_info().nvcc.expect("the feature cuda");
    let load = || Device::cuda(0).unwrap().load(find("cast_f32_f16")).unwrap_err();

    fake.set(Setting::Capability, 75);
    let error = load();
    assert!(matches!(error, Error::NoKernelImage { .. }), "{error}");
    let words = error.to_string();
    assert!(words.contains("Fake GPU 0") && words.contains("7.5") && words.contains("WARPCONV_CUDA_ARCHS=75"), "{words}");
    assert!(words.contains(build_info().cuda_code[0]), "{words}");
    let best = Device::best().unwrap();
    assert_eq!(best.kind(), DeviceKind::Host, "a GPU that runs no kernel of ours is not the best device");
    assert!(best.describe().contains("7.5"), "{}", best.describe());

    fake.set(Setting::Capability, 90);
    fake.set(Setting::DriverVersion, i64::from(nvcc.0 - 1) * 1000 + 40);
    for code in [CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, CUresult::CUDA_ERROR_INVALID_IMAGE] {
        fake.set(Setting::LoadError, code as i64);
        let error = load();
        assert!(matches!(error, Error::DriverTooOld { .. }), "{error}");
        let words = error.to_string();
        assert!(words.contains(&format!("{}.4", nvcc.0 - 1)) && words.contains(&version(nvcc)), "{words}");
    }
    fake.set(Setting::DriverVersion, 99_000);
    assert!(matches!(load(), Error::Driver { call: "cuModuleLoadData", .. }));
    fake.set(Setting::LoadError, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU as i64);
    assert!(matches!(load(), Error::NoKernelImage { .. }));
}

#[test]
fn a_driver_without_a_gpu_is_no_device() {
    in_a_process("a_driver_without_a_gpu_is_no_device", None, child_has_no_gpu);
}

fn child_has_no_gpu() {
    let fake = fake();
    fake.set(Setting::Gpus, 0);
    let error = Device::cuda(0).unwrap_err();
    assert!(matches!(error, Error::DeviceUnavailable { .. }) && error.to_string().contains("no GPU"), "{error}");
    assert!(Device::best().unwrap().describe().contains("no GPU"));
}

#[test]
fn what_is_freed_is_not_in_use() {
    in_a_process("what_is_freed_is_not_in_use", None, child_frees_what_is_in_use);
}

/// The work is queued, and runs when somebody waits for it.
fn child_frees_what_is_in_use() {
    let fake = fake();
    let device = Device::cuda(0).unwrap();
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[2, 3, 3, 3], &[0.5f32; 54]).unwrap()).unwrap();
    let shape = [1, 3, 8, 8];
    let x = || Tensor::<f32>::randn(&device, shape, MemoryFormat::Contiguous, 1).unwrap();
    let expected = layer.forward(&Inputs::new(&x())).unwrap().to_vec().unwrap();
    let plan = layer.plan::<f32>(&device, &PlanRequest::new(shape)).unwrap();
    for stream in [Stream::default_of(&device), Stream::new(&device).unwrap()] {
        let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
        let used = x();
        plan.run(&Inputs::new(&used), &mut y, Workspace::none(), &stream).unwrap();
        drop((used, stream));
        assert_eq!(y.to_vec().unwrap(), expected);
    }
    // a replay is work too
    let shared = std::sync::Arc::new(layer.plan::<f32>(&device, &PlanRequest::new(shape)).unwrap());
    let mut graph = crate::Graph::capture(&device, |recorder| {
        let [x, y] = [shape, plan.output_shape()].map(|shape| Tensor::<f32>::zeros(&device, shape, MemoryFormat::Contiguous).unwrap());
        let (x, y) = (recorder.tensor(x), recorder.tensor(y));
        recorder.run(shared, move |tensors| Ok(Inputs::new(tensors.view(x)?)), y)
    })
    .unwrap();
    fake.take_log();
    let stream = Stream::new(&device).unwrap();
    graph.replay(&stream).unwrap();
    drop(graph);
    let log = fake.take_log();
    assert!(!log.contains("Synchronize"), "{log}");
    assert_eq!(log.matches("cuMemFreeAsync").count(), 2, "x and y: {log}");
    stream.synchronize().unwrap();
}

mod memory;

#[test]
fn pinned_memory_is_copied_in_a_streams_turn() {
    in_a_process("pinned_memory_is_copied_in_a_streams_turn", None, child_copies_pinned_memory);
}

/// Copies are queued, and run when somebody waits: what is freed or refilled too early would show.
fn child_copies_pinned_memory() {
    use crate::PinnedBuffer;
    let fake = fake();
    let device = Device::cuda(0).unwrap();
    let [stream, other] = [(); 2].map(|()| Stream::new(&device).unwrap());
    let shape = [1, 1, 2, 4];
    let mut x = Tensor::<f32>::zeros(&device, shape, MemoryFormat::Contiguous).unwrap();
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1, 1, 1, 1], &[2f32]).unwrap()).unwrap();
    let plan = layer.plan::<f32>(&device, &PlanRequest::new(shape)).unwrap();
    let mut y = Tensor::zeros(&device, shape, MemoryFormat::Contiguous).unwrap();
    let [mut from, to] = [(); 2].map(|()| PinnedBuffer::<f32>::zeros(&device, 8).unwrap());
    device.synchronize().unwrap();
    fake.take_log();
    let numbers: Vec<f32> = (0..8).map(|i| i as f32).collect();
    from.copy_from_slice(&numbers);
    let uploaded = x.view_mut().write_async(from, &stream).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap();
    let downloaded = y.view().read_async(to, &stream).unwrap();
    assert!(!uploaded.is_complete().unwrap() && !downloaded.is_complete().unwrap());
    let log = fake.take_log();
    assert!(!log.contains("Synchronize"), "nobody waits: {log}");
    other.synchronize().unwrap();
    assert!(!downloaded.is_complete().unwrap(), "another stream says nothing of this one");
    fake.take_log();
    let to = downloaded.wait().unwrap();
    assert_eq!(fake.take_log(), "cuEventSynchronize", "the copy alone is waited for");
    assert_eq!(to[..], numbers.iter().map(|v| 2.0 * v).collect::<Vec<_>>());
    drop(uploaded.wait().unwrap());

    // a copy that nobody waits for keeps its buffer, and a tensor that goes waits for the copy
    let mut from = to;
    from.fill(5.0);
    let uploaded = x.view_mut().write_async(from, &stream).unwrap();
    drop(uploaded);
    assert_eq!(x.to_vec().unwrap(), [5.0; 8]);
    let read = PinnedBuffer::<f32>::zeros(&device, 8).unwrap();
    let pending = x.view().read_async(read, &stream).unwrap();
    drop(x);
    assert_eq!(pending.wait().unwrap()[..], [5.0; 8], "not what is there behind the tensor's end");
    // what is forgotten is leaked, not freed under the copy
    let kept = PinnedBuffer::<f32>::zeros(&device, 8).unwrap();
    std::mem::forget(y.view_mut().write_async(kept, &stream).unwrap());
    assert_eq!(y.to_vec().unwrap(), [0.0; 8]);

    // a captured stream would use the buffer whenever the graph is replayed
    let buffer = PinnedBuffer::<f32>::zeros(&device, 8).unwrap();
    let cuda = stream.as_cuda().unwrap();
    cuda.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    // SAFETY: nothing is captured
    let allowed = unsafe { stream.clone().allow_capture() };
    assert!(matches!(y.view_mut().write_async(buffer, &allowed), Err(Error::Capturing)));
    let _ = cuda.end_capture(sys::CUgraphInstantiate_flags(0));
}

#[test]
fn an_illegal_access_loses_the_device() {
    let fault = "illegal:conv_direct_f32_contiguous";
    in_a_process("an_illegal_access_loses_the_device", Some(fault), child_loses_the_device);
}

fn child_loses_the_device() {
    let fake = fake();
    let device = Device::cuda(0).unwrap();
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[2, 3, 3, 3], &[0.5f32; 54]).unwrap()).unwrap();
    let x = Tensor::<f32>::zeros(&device, [1, 3, 8, 8], MemoryFormat::Contiguous).unwrap();
    let plan = layer.plan::<f32>(&device, &PlanRequest::new([1, 3, 8, 8]).kernel("conv_direct_f32_contiguous")).unwrap();
    let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
    let run = |y: &mut Tensor<f32>| plan.run(&Inputs::new(&x), y, Workspace::none(), &Stream::default_of(&device));
    run(&mut y).expect("a launch that fails does so later");
    assert_eq!(device.under_way().1, ["conv_direct_f32_contiguous"]);
    device.alive().unwrap();
    let lost = |error: Error| match error {
        Error::DeviceLost { kernel, call, message, code: Some(700) } => (kernel, call, message),
        other => panic!("{other}"),
    };
    let first = lost(y.to_vec().unwrap_err());
    assert_eq!((first.0.as_str(), first.1), ("conv_direct_f32_contiguous", "cuStreamSynchronize"));
    assert!(first.2.contains("ILLEGAL_ADDRESS"), "{first:?}");
    // whatever comes next repeats the first, and launches nothing
    assert_eq!(lost(device.alive().unwrap_err()), first);
    assert_eq!(lost(Tensor::<f32>::zeros(&device, [1, 1, 1, 1], MemoryFormat::Contiguous).unwrap_err()), first);
    fake.take_log();
    assert_eq!(lost(run(&mut y).unwrap_err()), first);
    assert!(!fake.take_log().contains("cuLaunchKernel"));
    let timer = Bench::new(&device, Scale::Tiny).map(|_| ());
    assert!(matches!(timer, Err(Error::DeviceLost { .. })));
    drop((plan, layer, x, y)); // what is freed on a lost device is no panic
}
