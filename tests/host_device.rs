//! The host device among the threads and processes of its callers.
#![cfg(feature = "host")]

#[cfg(target_os = "linux")]
use crate::heap::live_bytes;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rstest::rstest;
use std::process::{Command, ExitStatus};
use std::sync::{Barrier, Mutex, mpsc};
use std::time::Duration;
use warpconv::half::f16;
use warpconv::{
    Conv2d, Conv2dSpec, Device, DeviceKind, Error, HostOptions, Inputs, Layer, MemoryFormat, Padding, Parameter, Plan, PlanRequest, Result,
    Stream, Tensor, Workspace,
};

fn host(threads: usize) -> Device {
    Device::host_with(HostOptions { threads, ..Default::default() }).unwrap()
}

/// A convolution whose threads meet, 128 of them a block and so as many stacks, in several blocks.
struct Work {
    plan: Plan<f16>,
    x: Tensor<f16>,
}

impl Work {
    fn on(device: &Device) -> Self {
        let weight: Vec<f32> = (0..16 * 16 * 9).map(|i| ((i * 37) % 129) as f32 / 64.0 - 1.0).collect();
        let spec = Conv2dSpec { padding: Padding::Same, ..Default::default() };
        let layer = Conv2d::new(spec, Parameter::new(&[16, 16, 3, 3], &weight).unwrap()).unwrap();
        let x: Vec<f16> = (0..16 * 16 * 8).map(|i| f16::from_f32(((i * 13) % 65) as f32 / 64.0)).collect();
        let x = Tensor::from_slice_in_memory_order(device, [1, 16, 16, 8], MemoryFormat::ChannelsLast, &x);
        let request = PlanRequest::new([1, 16, 16, 8]).format(MemoryFormat::ChannelsLast).kernel("conv_gemm_f16_vectors_64x64");
        Self { plan: layer.plan(device, &request).unwrap(), x: x.unwrap() }
    }

    fn output(&self) -> Tensor<f16> {
        Tensor::zeros(self.plan.device(), self.plan.output_shape(), self.plan.output_format()).unwrap()
    }

    fn run(&self, y: &mut Tensor<f16>) -> Result<()> {
        self.plan.run(&Inputs::new(&self.x), y, Workspace::none(), &Stream::default_of(self.plan.device()))
    }

    fn result(&self) -> Vec<f16> {
        let mut y = self.output();
        self.run(&mut y).unwrap();
        y.to_vec().unwrap()
    }
}

/// 600 threads with 128 stacks each would be 153,600 mappings; Linux allows 65,530.
#[rstest]
#[case::the_callers_threads(&[1])]
#[case::a_device_with_threads(&[4])]
#[case::several_devices(&[1, 2, 3, 4, 1, 2])]
fn six_hundred_threads_run_plans_at_once(#[case] devices: &[usize]) {
    const THREADS: usize = 600;
    let works: Vec<Work> = devices.iter().map(|&threads| Work::on(&host(threads))).collect();
    let expected = works[0].result();
    let all = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for index in 0..THREADS {
            let (works, expected, all) = (&works, &expected, &all);
            scope.spawn(move || {
                let work = &works[index % works.len()];
                all.wait();
                let result = work.result();
                // nobody ends, and gives back what its thread has, before everybody has run
                all.wait();
                assert!(&result == expected, "thread {index}");
            });
        }
    });
}

/// A worker of the caller's pool that waited for the device by running another of the pool's tasks would wait for its own lock.
#[test]
fn a_callers_worker_waits_without_taking_up_other_tasks() {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let work = Work::on(&host(2));
        let expected = work.result();
        let y = Mutex::new(work.output());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let run = |_| {
            let mut y = y.lock().unwrap();
            work.run(&mut y).unwrap();
            y.to_vec().unwrap() == expected
        };
        done.send(pool.install(|| (0..64).into_par_iter().all(run))).unwrap();
    });
    assert!(wait.recv_timeout(Duration::from_secs(120)).expect("no deadlock"));
}

#[rstest]
#[case::more_than_start_in_a_moment(100_000)]
#[case::more_than_32_bits(1 << 32)]
#[case::the_first(1025)]
fn too_many_threads_are_refused(#[case] threads: usize) {
    let error = Device::host_with(HostOptions { threads, ..Default::default() }).unwrap_err();
    assert!(matches!(error, Error::Limit { what: "HostOptions::threads", limit: 1024, value } if value == threads as u128), "{error}");
}

#[test]
fn as_many_threads_as_allowed_can_be_had() {
    assert_eq!(host(1024).properties().multiprocessors, 1024);
}

/// Runs this test once more, in a process of its own in which `CHILD` is set.
#[cfg(target_os = "linux")]
fn in_own_process(test: &str) -> ExitStatus {
    let program = std::env::current_exe().unwrap();
    // a filter that no test has would succeed
    let (_, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::{test}");
    let listed = Command::new(&program).args(["--exact", &name, "--list"]).output().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains(&format!("{name}: test")), "{name}");
    Command::new(program).args(["--exact", &name, "--nocapture", "--test-threads", "1"]).env(CHILD, "1").status().unwrap()
}

#[cfg(target_os = "linux")]
const CHILD: &str = "WARPCONV_TEST_CHILD";

#[cfg(target_os = "linux")]
#[test]
fn stacks_that_cannot_be_had_are_an_error() {
    if std::env::var_os(CHILD).is_none() {
        assert!(in_own_process("stacks_that_cannot_be_had_are_an_error").success());
        return;
    }
    let work = Work::on(&host(1));
    let mut y = work.output();
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
    let mut unlimited = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a valid struct
    let set = |limit| unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
    // SAFETY: writes a valid struct
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut unlimited) }, 0);
    // 128 stacks are 16 MiB
    assert_eq!(set(libc::rlimit { rlim_cur: pages * 4096 + (4 << 20), ..unlimited }), 0);
    let error = work.run(&mut y).unwrap_err();
    assert_eq!(set(unlimited), 0);
    assert!(matches!(error, Error::OutOfMemory { bytes, .. } if bytes == 128 * 128 * 1024), "{error}");
    assert!(error.to_string().contains("the stacks of a block of 128 threads"), "{error}");
    // what could be had is not lost
    work.run(&mut y).unwrap();
    assert_eq!(y.to_vec().unwrap(), work.result());
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_with_threads_refuses_to_run_after_a_fork() {
    if std::env::var_os(CHILD).is_none() {
        assert!(in_own_process("a_device_with_threads_refuses_to_run_after_a_fork").success());
        return;
    }
    let works = [1, 2].map(|threads| Work::on(&host(threads)));
    let expected = works[0].result();
    assert_eq!(works[1].result(), expected);
    assert_eq!(Work::on(&Device::host().unwrap()).result(), expected);
    // SAFETY: the other threads, the harness's and the devices', wait and hold no lock that the child would need
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends a child that hangs
        unsafe { libc::alarm(60) };
        let mut y = works[1].output();
        let error = works[1].run(&mut y).unwrap_err();
        let refused = matches!(&error, Error::DeviceUnavailable { why, .. } if why.contains("fork"));
        // what the message advises works
        let advised = works[0].result() == expected && Work::on(&host(2)).result() == expected;
        // the child has a shared device of its own
        let advised = advised && Work::on(&Device::host().unwrap()).result() == expected;
        drop((works, y));
        // SAFETY: leaves without the parent's handlers
        unsafe { libc::_exit(if refused && advised { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the child's status is {status:#x}");
    assert_eq!(works[1].result(), expected, "the parent goes on");
}

#[test]
fn the_shared_host_device_is_one_and_others_are_their_own() {
    let shared = Device::host().unwrap();
    assert_eq!(Device::host().unwrap(), shared);
    assert_eq!(Device::parse("host").unwrap(), shared);
    assert_eq!(Device::best().unwrap(), Device::best().unwrap());
    if Device::best().unwrap().kind() == DeviceKind::Host {
        assert_eq!(Device::best().unwrap(), shared);
    }
    assert_ne!(Device::host_with(HostOptions::default()).unwrap(), shared);
}

/// Threads, mappings and bytes on the heap of this process. Not its resident bytes: of what is freed the allocator keeps some, in
/// each of its arenas, and how much depends on which thread gets which.
#[cfg(target_os = "linux")]
fn held() -> (usize, usize, usize) {
    let mappings = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    (std::fs::read_dir("/proc/self/task").unwrap().count(), mappings, live_bytes())
}

#[cfg(target_os = "linux")]
#[test]
fn a_layer_keeps_neither_threads_nor_memory_of_devices_that_are_gone() {
    if std::env::var_os(CHILD).is_none() {
        assert!(in_own_process("a_layer_keeps_neither_threads_nor_memory_of_devices_that_are_gone").success());
        return;
    }
    const DEVICES: usize = 40;
    // 4 MiB on each device
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1024, 1024, 1, 1], &vec![0.5f32; 1 << 20]).unwrap()).unwrap();
    let meet = || drop(layer.plan::<f32>(&host(3), &PlanRequest::new([1, 1024, 4, 4])).unwrap());
    meet();
    let (threads, mappings, bytes) = held();
    (0..DEVICES).for_each(|_| meet());
    let (threads_after, mappings_after, bytes_after) = held();
    assert_eq!(threads_after, threads);
    // the allocator's arenas are mappings, too: at most eight for each core, each of two
    let arenas = 16 * std::thread::available_parallelism().unwrap().get();
    assert!(mappings_after <= mappings + arenas, "{mappings} mappings became {mappings_after}");
    // what a device leaves would be here so often
    assert!(bytes_after < bytes + 64 * DEVICES, "{bytes} bytes became {bytes_after}");
}
