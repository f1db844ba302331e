//! Plans on the host device: what `run` refuses, what it writes, views, in-place addition, and that it allocates nothing.

use crate::heap::allocations;
use half::f16;
use rstest::rstest;
use warpconv::{
    Activation, AnyLayer, Conv2d, Conv2dSpec, DeformConv2d, DeformConv2dSpec, DepthwiseSeparableConv2d, DepthwiseSeparableSpec, Device,
    Error, HostOptions, Inputs, Layer, LayerSpec, MemoryFormat, Padding, Parameter, PixelShuffle, PixelShuffleSpec, PlanRequest, RoIs,
    RoiAlign, RoiAlignSpec, Stream, Tensor, Workspace, WorkspaceMemory,
};

fn layer(c_in: usize, c_out: usize, activation: Activation) -> Conv2d {
    let weight: Vec<f32> = (0..c_out * c_in * 9).map(|i| ((i * 37) % 129) as f32 / 64.0 - 1.0).collect();
    let spec = Conv2dSpec { padding: Padding::Same, activation, ..Default::default() };
    Conv2d::new(spec, Parameter::new(&[c_out, c_in, 3, 3], &weight).unwrap()).unwrap()
}

#[test]
fn running_allocates_nothing() {
    // one thread: the launch stays on the calling thread, whose allocations are counted
    let device = Device::host_with(HostOptions { threads: 1, ..Default::default() }).unwrap();
    let layer = layer(3, 5, Activation::Silu);
    let x = Tensor::<f16>::randn(&device, [2, 3, 16, 16], MemoryFormat::ChannelsLast, 1).unwrap();
    let residual = Tensor::<f16>::randn(&device, [2, 5, 16, 16], MemoryFormat::Contiguous, 2).unwrap();
    let plan = layer.plan::<f16>(&device, &PlanRequest::new(x.shape()).format(MemoryFormat::ChannelsLast)).unwrap();
    let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
    let stream = Stream::default_of(&device);
    let inputs = Inputs::new(&x).residual(&residual);
    // a worker's scratch memory grows to the needs of the largest block that it has run
    plan.run(&inputs, &mut y, Workspace::none(), &stream).unwrap();
    let on_device = device.allocations();
    let mut results = Vec::with_capacity(8);
    let on_heap = allocations(|| {
        for _ in 0..8 {
            results.push(plan.run(&inputs, &mut y, Workspace::none(), &stream));
        }
    });
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(on_heap, 0, "heap allocations of 8 runs");
    assert_eq!(device.allocations() - on_device, 0, "device allocations of 8 runs");
    assert!(allocations(|| drop(vec![0u8; 16])) > 0, "the counter counts");
    assert_eq!(plan.workspace_bytes(), 0);
}

/// Runs of a plan for this layer, by the kernel of this name or the chosen one.
#[track_caller]
fn runs_allocate_nothing(layer: &impl Layer, device: &Device, request: &PlanRequest, inputs: &Inputs<'_, f16>) {
    let plan = layer.plan::<f16>(device, request).unwrap();
    let mut y = Tensor::zeros(device, plan.output_shape(), plan.output_format()).unwrap();
    let (stream, mut memory) = (Stream::default_of(device), WorkspaceMemory::new(device, plan.workspace_bytes()).unwrap());
    let mut run = || plan.run(inputs, &mut y, memory.workspace(), &stream);
    run().unwrap();
    let (on_device, mut result) = (device.allocations(), Ok(()));
    let on_heap = allocations(|| result = run());
    result.unwrap();
    assert_eq!((on_heap, device.allocations() - on_device), (0, 0), "{}", plan.explain());
}

#[test]
fn no_kind_of_launch_allocates() {
    let device = Device::host_with(HostOptions { threads: 1, ..Default::default() }).unwrap();
    let last = MemoryFormat::ChannelsLast;
    let weight = |shape: &[usize]| Parameter::new(shape, &vec![0.5f32; shape.iter().product()]).unwrap();
    let x = Tensor::<f16>::randn(&device, [1, 16, 6, 6], last, 1).unwrap();
    let request = PlanRequest::new(x.shape()).format(last);

    // two launches with a tensor between them
    let spec = DepthwiseSeparableSpec { padding: Padding::Same, ..Default::default() };
    let separable = DepthwiseSeparableConv2d::new(spec, weight(&[16, 1, 3, 3]), weight(&[16, 16, 1, 1])).unwrap();
    runs_allocate_nothing(&separable, &device, &request.clone().kernel("pair"), &Inputs::new(&x));
    // a launch for parts of the sums, and one that adds them up
    let conv = Conv2d::new(Conv2dSpec { padding: Padding::Same, ..Default::default() }, weight(&[16, 16, 3, 3])).unwrap();
    let wider = request.clone().workspace_limit(1 << 20);
    let plan = conv.plan::<f16>(&device, &wider).unwrap();
    let applicable = plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok());
    let split: Vec<&str> = applicable.map(|choice| choice.kernel).filter(|kernel| kernel.ends_with("_split")).collect();
    assert!(!split.is_empty(), "{}", plan.explain());
    for kernel in split {
        runs_allocate_nothing(&conv, &device, &wider.clone().kernel(kernel), &Inputs::new(&x));
    }
    // inputs beside x
    let offset = Tensor::<f16>::zeros(&device, [1, 18, 6, 6], last).unwrap();
    let spec = DeformConv2dSpec { padding: Padding::Same, ..Default::default() };
    let deform = DeformConv2d::new(spec, weight(&[16, 16, 3, 3])).unwrap();
    runs_allocate_nothing(&deform, &device, &request, &Inputs::new(&x).offset(&offset));
    let rois = RoIs::from_slice(&device, 1, &[[0.0, 1.0, 1.0, 5.0, 4.0]]).unwrap();
    let align = RoiAlign::new(RoiAlignSpec::new([2, 2])).unwrap();
    runs_allocate_nothing(&align, &device, &request.clone().rois(1), &Inputs::new(&x).rois(&rois));
    // no weights
    let shuffle = PixelShuffle::new(PixelShuffleSpec { factor: 2, order: Default::default() }).unwrap();
    runs_allocate_nothing(&shuffle, &device, &request, &Inputs::new(&x));
}

#[test]
fn a_plan_is_shared_between_threads() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let layer = layer(4, 6, Activation::Gelu);
    let plan = layer.plan::<f32>(&device, &PlanRequest::new([1, 4, 9, 9])).unwrap();
    let run = |seed: u64| {
        let x = Tensor::<f32>::randn(&device, [1, 4, 9, 9], MemoryFormat::Contiguous, seed).unwrap();
        let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::new(&device).unwrap()).unwrap();
        y.to_vec().unwrap()
    };
    let alone: Vec<_> = (0..8).map(run).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|seed| scope.spawn(move || run(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn tensors_that_do_not_fit_the_plan_are_refused() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let other = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let layer = layer(3, 4, Activation::None);
    let plan = layer.plan::<f32>(&device, &PlanRequest::new([1, 3, 8, 8])).unwrap();
    let stream = Stream::default_of(&device);
    let zeros = |device: &Device, shape, format| Tensor::<f32>::zeros(device, shape, format).unwrap();
    let x = zeros(&device, [1, 3, 8, 8], MemoryFormat::Contiguous);
    let mut y = zeros(&device, [1, 4, 8, 8], MemoryFormat::Contiguous);

    let wide = zeros(&device, [1, 3, 8, 9], MemoryFormat::Contiguous);
    let refused = plan.run(&Inputs::new(&wide), &mut y, Workspace::none(), &stream).unwrap_err();
    assert!(matches!(refused, Error::Shape { name: "x", .. }), "{refused}");
    assert!(refused.to_string().contains("[1, 3, 8, 9]") && refused.to_string().contains("[1, 3, 8, 8]"), "{refused}");

    let last = zeros(&device, [1, 3, 8, 8], MemoryFormat::ChannelsLast);
    let refused = plan.run(&Inputs::new(&last), &mut y, Workspace::none(), &stream).unwrap_err();
    assert!(matches!(refused, Error::Format { name: "x", .. }), "{refused}");

    let elsewhere = zeros(&other, [1, 3, 8, 8], MemoryFormat::Contiguous);
    let refused = plan.run(&Inputs::new(&elsewhere), &mut y, Workspace::none(), &stream).unwrap_err();
    assert!(matches!(refused, Error::WrongDevice { name: "x", .. }), "{refused}");
    let refused = plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&other)).unwrap_err();
    assert!(matches!(refused, Error::WrongDevice { name: "the stream", .. }), "{refused}");

    let mut small = zeros(&device, [1, 4, 8, 7], MemoryFormat::Contiguous);
    let refused = plan.run(&Inputs::new(&x), &mut small, Workspace::none(), &stream).unwrap_err();
    assert!(matches!(refused, Error::Shape { name: "y", .. }), "{refused}");

    let refused = plan.run(&Inputs::new(&x).residual(&x), &mut y, Workspace::none(), &stream).unwrap_err();
    assert!(matches!(refused, Error::Shape { name: "residual", .. }), "{refused}");
}

#[test]
fn an_output_over_an_input_is_refused() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let weight = Parameter::new(&[2, 2, 1, 1], &[1f32, 0., 0., 1.]).unwrap();
    let layer = Conv2d::new(Conv2dSpec::default(), weight).unwrap();
    let plan = layer.plan::<f32>(&device, &PlanRequest::new([1, 2, 4, 4])).unwrap();
    let stream = Stream::default_of(&device);
    let memory = Tensor::<f32>::zeros(&device, [1, 6, 4, 4], MemoryFormat::Contiguous).unwrap();
    let part = |channel: usize| {
        let layout = warpconv::Layout::channel_slice([1, 2, 4, 4], MemoryFormat::Contiguous, 6).unwrap();
        let address = memory.address() + (channel * 16 * 4) as u64;
        // SAFETY: within the memory above, and `run` refuses the overlapping pairs
        unsafe {
            (
                warpconv::TensorView::<f32>::from_raw(&device, address, layout).unwrap(),
                warpconv::TensorViewMut::from_raw(&device, address, layout).unwrap(),
            )
        }
    };
    let refused = plan.run(&Inputs::new(part(0).0), part(1).1, Workspace::none(), &stream).unwrap_err();
    assert!(matches!(refused, Error::Aliased { name: "x", .. }), "{refused}");
    plan.run(&Inputs::new(part(0).0), part(2).1, Workspace::none(), &stream).expect("channels beside each other are no overlap");
    let refused = plan.run(&Inputs::new(part(0).0).residual(part(3).0), part(4).1, Workspace::none(), &stream).unwrap_err();
    assert!(matches!(refused, Error::Aliased { name: "residual", .. }), "{refused}");
}

#[rstest]
fn concatenation_needs_no_copy(#[values(MemoryFormat::Contiguous, MemoryFormat::ChannelsLast)] format: MemoryFormat) {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let (left, right) = (layer(3, 4, Activation::Relu), layer(2, 5, Activation::Tanh));
    let x = Tensor::<f32>::randn(&device, [2, 5, 6, 7], format, 3).unwrap();
    let stream = Stream::default_of(&device);
    let mut whole = Tensor::<f32>::zeros(&device, [2, 11, 6, 7], format).unwrap();
    let plans = [(&left, 0..3, 0..4), (&right, 3..5, 6..11)];
    for (layer, input, output) in plans.clone() {
        let view = x.channels(input).unwrap();
        let plan = layer.plan::<f32>(&device, &PlanRequest::new(view.shape()).format(format)).unwrap();
        plan.run(&Inputs::new(view), whole.channels_mut(output).unwrap(), Workspace::none(), &stream).unwrap();
    }
    for (layer, input, output) in plans {
        let copied = x.channels(input).unwrap().to_format(format).unwrap();
        let expected = layer.forward(&Inputs::new(&copied)).unwrap().to_vec().unwrap();
        assert_eq!(whole.channels(output).unwrap().to_vec().unwrap(), expected);
    }
    assert!(whole.channels(4..6).unwrap().to_vec().unwrap().iter().all(|&v| v == 0.0), "channels between the two are untouched");
}

#[test]
fn accumulation_adds_to_the_output() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let layer = layer(3, 4, Activation::Relu);
    let x = Tensor::<f32>::randn(&device, [1, 3, 6, 6], MemoryFormat::Contiguous, 1).unwrap();
    let before = Tensor::<f32>::randn(&device, [1, 4, 6, 6], MemoryFormat::Contiguous, 2).unwrap();
    let expected = layer.forward(&Inputs::new(&x).residual(&before)).unwrap().to_vec().unwrap();
    let mut y = before.to_format(MemoryFormat::Contiguous).unwrap();
    let plan = layer.plan::<f32>(&device, &PlanRequest::new(x.shape())).unwrap();
    plan.run(&Inputs::new(&x).accumulate(), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
    assert_eq!(y.to_vec().unwrap(), expected);
}

#[test]
fn formats_may_differ_between_input_output_and_residual() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let layer = layer(3, 4, Activation::None);
    let x = Tensor::<f16>::randn(&device, [2, 3, 5, 6], MemoryFormat::Contiguous, 1).unwrap();
    let residual = Tensor::<f16>::randn(&device, [2, 4, 5, 6], MemoryFormat::Contiguous, 2).unwrap();
    let expected = layer.forward(&Inputs::new(&x).residual(&residual)).unwrap().to_vec().unwrap();
    for [input, output, added] in
        [[0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]].map(|f: [usize; 3]| f.map(|i| MemoryFormat::ALL[i]))
    {
        let (x, residual) = (x.to_format(input).unwrap(), residual.to_format(added).unwrap());
        let plan = layer.plan::<f16>(&device, &PlanRequest::new(x.shape()).format(input).output_format(output)).unwrap();
        let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
        plan.run(&Inputs::new(&x).residual(&residual), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
        assert_eq!(y.to_vec().unwrap(), expected, "{input} to {output}, residual {added}");
    }
}

#[test]
fn the_choice_of_a_kernel_is_explained_and_can_be_overridden() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let layer = layer(3, 4, Activation::None);
    let request = PlanRequest::new([1, 3, 8, 8]).format(MemoryFormat::ChannelsLast);
    let plan = layer.plan::<f16>(&device, &request).unwrap();
    let explanation = plan.explain();
    assert_ne!(explanation.kernel, "conv_direct_f16_contiguous");
    assert_eq!(explanation.choices[0].kernel, explanation.kernel);
    let text = explanation.to_string();
    assert_eq!(text.matches("it is for f32, not f16").count(), 1, "one line for all kernels that one reason rules out: {text}");
    let refused = |choice: &&warpconv::Choice| choice.verdict.as_ref().is_err_and(|reason| reason == "it is for f32, not f16");
    let others = explanation.choices.iter().filter(refused).count() - 1;
    assert!(text.contains(&format!(" and {others} more ")), "{text}");
    for choice in explanation.choices.iter().filter(|choice| choice.verdict.is_ok()) {
        assert!(text.contains(choice.kernel), "{} applies and has a line: {text}", choice.kernel);
    }
    let other = layer.plan::<f16>(&device, &request.clone().kernel("conv_direct_f16_contiguous")).unwrap();
    assert_eq!(other.explain().kernel, "conv_direct_f16_contiguous");
    let x = Tensor::<f16>::randn(&device, [1, 3, 8, 8], MemoryFormat::ChannelsLast, 1).unwrap();
    let run = |plan: &warpconv::Plan<f16>| {
        let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).unwrap();
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&device)).unwrap();
        y.to_vec().unwrap()
    };
    let direct = layer.plan::<f16>(&device, &request.clone().kernel("conv_direct_f16_channels_last")).unwrap();
    assert_eq!(run(&direct), run(&other), "both add in the same order");
    let refused = layer.plan::<f16>(&device, &request.clone().kernel("conv_direct_f32_contiguous")).unwrap_err();
    assert!(matches!(&refused, Error::NoKernel { reasons, .. } if reasons.contains("it is for f32")), "{refused}");
    let refused = layer.plan::<f16>(&device, &request.kernel("winograd")).unwrap_err();
    assert!(
        matches!(&refused, Error::NoKernel { reasons, .. } if reasons.starts_with("winograd is not the name of a kernel; those that apply here are conv_")),
        "{refused}"
    );
}

#[test]
fn packed_weights_are_shared_among_plans() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let layer = layer(3, 4, Activation::None);
    let count = |request: &PlanRequest| {
        let before = device.allocations();
        layer.plan::<f32>(&device, request).unwrap();
        device.allocations() - before
    };
    assert!(count(&PlanRequest::new([1, 3, 8, 8])) > 0);
    assert_eq!(count(&PlanRequest::new([4, 3, 16, 16])), 0, "another shape uses the same packed weights");
}

#[test]
fn an_empty_batch_is_a_valid_input() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    for format in MemoryFormat::ALL {
        let x = Tensor::<f32>::zeros(&device, [0, 3, 8, 8], format).unwrap();
        let y = layer(3, 4, Activation::None).forward(&Inputs::new(&x)).unwrap();
        assert_eq!((y.shape(), y.to_vec().unwrap().len()), ([0, 4, 8, 8], 0));
    }
}

#[test]
fn types_are_send_and_sync() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Conv2d>();
    check::<warpconv::AnyLayer>();
    check::<warpconv::Plan<f16>>();
    check::<Tensor<f32>>();
    check::<Device>();
    check::<Stream>();
    check::<Error>();
}

/// What was packed goes on, in other shapes too; what was not is refused.
#[rstest]
#[case::conv("conv2d", &[("weight", [4, 8, 3, 3])])]
#[case::sub_pixel("sub_pixel_conv", &[("weight", [16, 8, 3, 3])])]
#[case::focus("focus", &[("weight", [4, 32, 3, 3])])]
#[case::transposed("conv_transpose2d", &[("weight", [8, 4, 3, 3])])]
#[case::pair("depthwise_separable", &[("dw_weight", [8, 1, 3, 3]), ("pw_weight", [4, 8, 1, 1])])]
fn host_weights_are_forgotten(#[case] op: &str, #[case] weights: &[(&str, [usize; 4])]) {
    let device = Device::host_with(HostOptions::default()).unwrap();
    let attributes = if op == "sub_pixel_conv" { r#","attrs":{"r":2}"# } else { "" };
    let spec = LayerSpec::from_json(&format!(r#"{{"op":"{op}"{attributes}}}"#)).unwrap();
    let parameters = weights.iter().map(|(name, shape)| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| ((i * 37) % 129) as f32 / 64.0 - 1.0).collect();
        (name.to_string(), Parameter::new(shape, &values).unwrap())
    });
    let mut layer = AnyLayer::new(spec, parameters.collect()).unwrap();
    let x = Tensor::<f32>::randn(&device, [1, 8, 8, 8], MemoryFormat::Contiguous, 1).unwrap();
    let before = layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap();
    layer.forget_host_weights();
    assert_eq!(layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap(), before);
    let refused = layer.plan::<f16>(&device, &PlanRequest::new(x.shape())).unwrap_err();
    assert!(matches!(refused, Error::Forgotten { .. }), "{refused}");
}

#[test]
fn what_needs_forgotten_weights_says_so() {
    let mut layer = layer(3, 4, Activation::None);
    layer.forget_host_weights();
    assert!(layer.weight().values().is_empty());
    let refused = warpconv::factorise::low_rank(layer.weight(), 1).unwrap_err();
    assert!(matches!(refused, Error::Forgotten { .. }), "{refused}");
}

#[test]
fn a_plan_for_each_batch_gives_what_the_layer_gives() {
    let device = Device::host().unwrap();
    let spec = Conv2dSpec { padding: Padding::all(1), activation: Activation::Relu, ..Default::default() };
    let weight = Parameter::new(&[8, 8, 3, 3], &(0..576).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>()).unwrap();
    let layer = Conv2d::new(spec, weight).unwrap();
    let request = PlanRequest::new([5, 8, 6, 7]).format(MemoryFormat::ChannelsLast);
    let plans = layer.plan_up_to_batch::<f16>(&device, &request).unwrap();
    assert_eq!((plans.largest(), plans.output_shape(), plans.workspace_bytes()), (5, [5, 8, 6, 7], 0));
    let x = Tensor::<f16>::randn(&device, [6, 8, 6, 7], MemoryFormat::ChannelsLast, 1).unwrap();
    let mut y = Tensor::<f16>::zeros(&device, [6, 8, 6, 7], MemoryFormat::ChannelsLast).unwrap();
    let stream = Stream::default_of(&device);
    for n in 1..=5 {
        let inputs = Inputs::new(x.images(1..1 + n).unwrap());
        plans.run(&inputs, y.images_mut(1..1 + n).unwrap(), Workspace::none(), &stream).unwrap();
        let expected = layer.forward(&inputs).unwrap().to_vec().unwrap();
        assert_eq!(y.images(1..1 + n).unwrap().to_vec().unwrap(), expected, "{n} images");
        assert_eq!(plans.get(n).unwrap().output_shape()[0], n);
    }
    for n in [0, 6] {
        let error = plans.run(&Inputs::new(x.images(0..n).unwrap()), &mut y, Workspace::none(), &stream).unwrap_err();
        assert!(matches!(error, Error::Shape { name: "x", .. }) && error.to_string().contains("between 1 and 5 images"), "{error}");
    }
    assert!(matches!(layer.plan_up_to_batch::<f16>(&device, &PlanRequest::new([0, 8, 6, 7])), Err(Error::Attribute { .. })));
}

#[test]
fn a_cache_forgets_the_plan_that_was_used_longest_ago() {
    let device = Device::host().unwrap();
    let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[2, 3, 1, 1], &[0.5f32; 6]).unwrap()).unwrap();
    let plans = warpconv::PlanCache::<_, f32>::new(layer, &device, 2);
    let get = |side: usize| plans.get(&PlanRequest::new([1, 3, side, side])).unwrap();
    assert!(plans.is_empty());
    let (four, five) = (get(4), get(5));
    assert!(std::sync::Arc::ptr_eq(&four, &get(4)));
    get(6); // 5 goes
    assert_eq!(plans.len(), 2);
    assert!(std::sync::Arc::ptr_eq(&four, &get(4)) && !std::sync::Arc::ptr_eq(&five, &get(5)));
    assert_eq!(five.output_shape(), [1, 2, 5, 5], "who has a plan keeps it");
    assert!(plans.get(&PlanRequest::new([1, 4, 4, 4])).is_err());
    let request = PlanRequest::new([1, 3, 4, 4]);
    plans.get(&request).unwrap();
    assert_eq!(allocations(|| drop(plans.get(&request).unwrap())), 0, "a hit allocates nothing");
    std::thread::scope(|scope| {
        for side in 1..9 {
            let plans = &plans;
            scope.spawn(move || assert_eq!(plans.get(&PlanRequest::new([1, 3, side, 3])).unwrap().output_shape(), [1, 2, side, 3]));
        }
    });
    assert_eq!(plans.len(), 2);
}
