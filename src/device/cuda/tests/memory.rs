//! When device memory is freed, what reading it waits for, and how it is bounded.

use super::*;

#[test]
fn memory_is_freed_in_the_turn_of_its_streams() {
    in_a_process("memory::memory_is_freed_in_the_turn_of_its_streams", None, child_frees_in_turn);
}

/// On a fake GPU that does nothing before somebody waits for it.
fn child_frees_in_turn() {
    let fake = fake();
    let device = Device::cuda(0).unwrap();
    let [slow, fast] = [(); 2].map(|()| Stream::new(&device).unwrap());
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1, 1, 1, 1], &[2f32]).unwrap()).unwrap();
    let shape = [1, 1, 2, 4];
    let plan = layer.plan::<f32>(&device, &PlanRequest::new(shape)).unwrap();
    let ones = || Tensor::from_slice(&device, shape, &[1f32; 8]).unwrap();
    let zeros = || Tensor::<f32>::zeros(&device, shape, MemoryFormat::Contiguous).unwrap();
    let run = |x: &Tensor<f32>, y: &mut Tensor<f32>, stream| plan.run(&Inputs::new(x), y, Workspace::none(), stream).unwrap();
    let (x, mut of_slow, mut of_fast) = (ones(), zeros(), zeros());
    run(&x, &mut of_slow, &slow);
    run(&x, &mut of_fast, &fast);

    // reading waits for the stream that wrote the tensor, and for no other
    fake.take_log();
    assert_eq!(of_fast.to_vec().unwrap(), [2.0; 8]);
    assert_eq!(fake.take_log(), "cuStreamSynchronize cuMemcpyDtoHAsync cuStreamSynchronize");
    let event = crate::Event::new(&device).unwrap();
    slow.record(&event).unwrap();
    assert!(!event.is_complete().unwrap(), "the slow stream has not been waited for");

    // x was used on both, so that it is freed behind both; nobody waits
    let address = x.address();
    fake.take_log();
    drop(x);
    let log = fake.take_log();
    let events = "cuEventCreate cuEventRecord cuStreamWaitEvent";
    assert_eq!(log, format!("{events} {events} cuMemFreeAsync"));
    let before = device.allocated_bytes();
    let others: Vec<_> = (0..4).map(|_| ones()).collect();
    assert!(others.iter().all(|other| other.address() != address), "work on the slow stream still reads it");
    assert_eq!(device.allocated_bytes(), before + 4 * 32);
    assert!(!event.is_complete().unwrap());
    assert_eq!(of_slow.to_vec().unwrap(), [2.0; 8]);

    // used on one stream, freed on it: the next work there may be queued at once
    fake.take_log();
    drop(of_fast);
    assert_eq!(fake.take_log(), "cuMemFreeAsync", "it was read, so no stream uses it");
    let x = ones();
    let mut y = zeros();
    run(&x, &mut y, &fast);
    fake.take_log();
    drop(x);
    assert_eq!(fake.take_log(), "cuMemFreeAsync");
    assert_eq!(y.to_vec().unwrap(), [2.0; 8]);

    // what other code queues is announced, or everything is waited for
    y.used_on(&slow).unwrap();
    fake.take_log();
    y.to_vec().unwrap();
    assert_eq!(fake.take_log(), "cuStreamSynchronize cuMemcpyDtoHAsync cuStreamSynchronize");
    let lent = y.into_dlpack::<crate::dlpack::ManagedTensor>().unwrap();
    fake.take_log();
    drop(lent);
    let log = fake.take_log();
    assert!(log.starts_with("cuCtxSynchronize") && log.ends_with("cuMemFreeAsync"), "{log}");

    // a capture is not disturbed, and what it may use is freed when it has ended
    let (x, mut y) = (ones(), zeros());
    run(&x, &mut y, &slow);
    let cuda = slow.as_cuda().unwrap();
    cuda.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    // SAFETY: the graph is never launched
    let allowed = unsafe { slow.clone().allow_capture() };
    run(&x, &mut y, &allowed);
    fake.take_log();
    drop(x);
    assert!(!fake.take_log().contains("Free"));
    let other = ones();
    assert!(!fake.take_log().contains("Free"), "the capture goes on");
    let graph = cuda.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap();
    assert!(graph.is_some(), "nothing has spoilt it");
    drop((graph, other));
    let log = fake.take_log();
    assert_eq!(log.matches("cuMemFreeAsync").count(), 2, "the one that was put off, too: {log}");
    assert_eq!(y.to_vec().unwrap(), [2.0; 8]);

    // what is kept goes back when it is asked for
    drop((of_slow, others, y));
    [slow, fast].iter().for_each(|stream| stream.synchronize().unwrap());
    device.synchronize().unwrap();
    assert!(fake.bytes_reserved() > fake.bytes_in_use());
    device.trim().unwrap();
    assert_eq!(fake.bytes_reserved(), fake.bytes_in_use());
}

#[test]
fn without_pools_the_streams_of_use_are_waited_for() {
    in_a_process("memory::without_pools_the_streams_of_use_are_waited_for", None, child_has_no_pools);
}

fn child_has_no_pools() {
    let fake = fake();
    fake.set(Setting::Pools, 0);
    let device = Device::cuda(0).unwrap();
    let [stream, other] = [(); 2].map(|()| Stream::new(&device).unwrap());
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1, 1, 1, 1], &[2f32]).unwrap()).unwrap();
    let shape = [1, 1, 2, 4];
    let plan = layer.plan::<f32>(&device, &PlanRequest::new(shape)).unwrap();
    let x = Tensor::from_slice(&device, shape, &[1f32; 8]).unwrap();
    let mut y = Tensor::<f32>::zeros(&device, shape, MemoryFormat::Contiguous).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap();
    let event = crate::Event::new(&device).unwrap();
    other.record(&event).unwrap();
    fake.take_log();
    drop(x);
    assert_eq!(fake.take_log(), "cuStreamSynchronize cuMemFree");
    assert!(!event.is_complete().unwrap(), "the other stream is not waited for");
    assert_eq!(y.to_vec().unwrap(), [2.0; 8]);
}

#[test]
fn a_bound_for_memory_is_respected() {
    in_a_process("memory::a_bound_for_memory_is_respected", None, child_has_a_bound);
}

fn child_has_a_bound() {
    let fake = fake();
    let memory = MemoryOptions { limit: Some(8192), keep: 2048 };
    let device = Device::cuda_with(0, memory).unwrap();
    assert_eq!(Device::cuda(0).unwrap(), device, "whoever sets no bound gets the device as it is");
    assert!(matches!(Device::cuda_with(0, MemoryOptions::default()), Err(Error::Attribute { name: "the memory options", .. })));
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1, 1, 1, 1], &[2f32]).unwrap()).unwrap();
    let shape = [1, 1, 16, 32]; // 2048 bytes
    let plan = layer.plan::<f32>(&device, &PlanRequest::new(shape)).unwrap();
    let new = || Tensor::<f32>::zeros(&device, shape, MemoryFormat::Contiguous);
    let weights = device.allocated_bytes();
    let (x, mut y) = (new().unwrap(), new().unwrap());
    let third = new().unwrap();
    let Err(Error::MemoryLimit { limit: 8192, asked: 2048, held, .. }) = new() else { panic!("a fourth is too much") };
    assert_eq!(held, 3 * 2048 + weights);
    assert_eq!(device.allocated_bytes(), held, "what was refused does not count");

    // freed under way, it counts until its stream has come to it: the allocation waits for that
    let stream = Stream::new(&device).unwrap();
    plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream).unwrap();
    drop(x);
    assert_eq!(device.allocated_bytes(), held - 2048);
    fake.take_log();
    let fourth = new().unwrap();
    let log = fake.take_log();
    assert!(log.starts_with("cuEventSynchronize cuMemAllocFromPoolAsync"), "{log}");
    assert!(fake.bytes_reserved() <= 8192, "{} bytes", fake.bytes_reserved());
    assert_eq!(y.to_vec().unwrap(), [0.0; 512]);

    // a free that a capture puts off cannot be waited for
    plan.run(&Inputs::new(&third), &mut y, Workspace::none(), &stream).unwrap();
    let cuda = stream.as_cuda().unwrap();
    cuda.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    drop(third);
    let refused = new().unwrap_err();
    assert!(matches!(refused, Error::MemoryLimit { held: all, .. } if all == held), "{refused}");
    let words = refused.to_string();
    assert!(["8192", "2048", &held.to_string(), "cuda:0"].iter().all(|part| words.contains(part)), "{words}");
    cuda.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap();
    let third = new().unwrap();

    // no more is kept than was allowed
    drop((y, third, fourth));
    device.synchronize().unwrap();
    assert_eq!(fake.bytes_reserved() - fake.bytes_in_use(), 2048);
}
