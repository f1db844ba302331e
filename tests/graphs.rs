//! Graphs: chains of plans that are captured once and replayed.

use std::sync::Arc;
use warpconv::{
    Activation, Conv2d, Conv2dSpec, Device, Error, Graph, HostOptions, Inputs, Layer, MemoryFormat, Padding, Parameter, PlanRequest, RoIs,
    RoiAlign, RoiAlignSpec, Stream, Tensor,
};

const SHAPE: [usize; 4] = [2, 4, 9, 7];

fn device() -> Device {
    Device::host_with(HostOptions::default()).unwrap()
}

fn layer(seed: usize) -> Conv2d {
    let spec = Conv2dSpec { padding: Padding::all(1), activation: Activation::Relu, ..Default::default() };
    let values: Vec<f32> = (0..4 * 4 * 9).map(|i| ((i * 7 + seed) % 11) as f32 / 16.0 - 0.25).collect();
    Conv2d::new(spec, Parameter::new(&[4, 4, 3, 3], &values).unwrap()).unwrap()
}

fn zeros(device: &Device, format: MemoryFormat) -> Tensor<f32> {
    Tensor::zeros(device, SHAPE, format).unwrap()
}

/// Two layers, the second with the first one's input as its residual, in both formats.
#[test]
fn a_chain_is_replayed_on_new_inputs() {
    for format in MemoryFormat::ALL {
        let (device, layers) = (device(), [layer(1), layer(5)]);
        let plan = |layer: &Conv2d| Arc::new(layer.plan::<f32>(&device, &PlanRequest::new(SHAPE).format(format)).unwrap());
        let plans = layers.each_ref().map(plan);
        let mut slots = None;
        let mut graph = Graph::capture(&device, |recorder| {
            let [x, middle, y] = [(); 3].map(|()| recorder.tensor(zeros(&device, format)));
            recorder.run(plans[0].clone(), move |tensors| Ok(Inputs::new(tensors.view(x)?)), middle)?;
            recorder.run(plans[1].clone(), move |tensors| Ok(Inputs::new(tensors.view(middle)?).residual(tensors.view(x)?)), y)?;
            slots = Some((x, y));
            Ok(())
        })
        .unwrap();
        let (x, y) = slots.unwrap();
        assert_eq!((graph.len(), device.launches()), (2, 0), "a capture runs nothing");
        let stream = Stream::new(&device).unwrap();
        for seed in 0..3 {
            let input = Tensor::<f32>::randn(&device, SHAPE, format, seed).unwrap();
            graph.view_mut(x).unwrap().write(&input.to_vec().unwrap()).unwrap();
            let allocations = device.allocations();
            graph.replay(&stream).unwrap();
            assert_eq!(device.allocations(), allocations, "a replay allocates nothing");
            let first = layers[0].forward(&Inputs::new(&input)).unwrap();
            let expected = layers[1].forward(&Inputs::new(&first).residual(&input)).unwrap();
            assert_eq!(graph.view(y).unwrap().to_vec().unwrap(), expected.to_vec().unwrap(), "{format}, input {seed}");
        }
    }
}

/// The channels of one tensor are written by two runs; RoIs are kept, too. The graph moves to another thread.
#[test]
fn slices_and_rois_are_kept() {
    let (device, layer) = (device(), layer(3));
    let plan = Arc::new(layer.plan::<f32>(&device, &PlanRequest::new(SHAPE)).unwrap());
    let pool = RoiAlign::new(RoiAlignSpec::new([2, 2])).unwrap();
    let pool_plan = pool.plan::<f32>(&device, &PlanRequest::new([2, 8, 9, 7]).rois(1)).unwrap();
    let boxes = [[1.0f32, 0.0, 0.5, 4.0, 5.0]];
    let input = Tensor::<f32>::randn(&device, SHAPE, MemoryFormat::Contiguous, 1).unwrap();
    let first = layer.forward(&Inputs::new(&input)).unwrap().to_vec().unwrap();
    let mut slots = None;
    let mut graph = Graph::capture(&device, |recorder| {
        let x = recorder.tensor(input);
        let both = recorder.tensor(Tensor::zeros(&device, [2, 8, 9, 7], MemoryFormat::Contiguous)?);
        let pooled = recorder.tensor(Tensor::zeros(&device, [1, 8, 2, 2], MemoryFormat::Contiguous)?);
        let rois = recorder.rois(RoIs::from_slice(&device, 2, &boxes)?);
        for part in [0..4, 4..8] {
            recorder.run(plan.clone(), move |tensors| Ok(Inputs::new(tensors.view(x)?)), both.channels(part))?;
        }
        recorder.run(pool_plan, move |tensors| Ok(Inputs::new(tensors.view(both)?).rois(tensors.rois(rois)?)), pooled)?;
        slots = Some((both, pooled));
        Ok(())
    })
    .unwrap();
    let (both, pooled) = slots.unwrap();
    let graph = std::thread::spawn(move || {
        graph.replay(&Stream::new(graph.device()).unwrap()).unwrap();
        graph
    })
    .join()
    .unwrap();
    let wide = graph.view(both).unwrap();
    for part in [0..4, 4..8] {
        assert_eq!(wide.channels(part).unwrap().to_vec().unwrap(), first);
    }
    let wide = wide.to_format(MemoryFormat::Contiguous).unwrap();
    let expected = pool.forward(&Inputs::new(&wide).rois(RoIs::from_slice(&device, 2, &boxes).unwrap().view())).unwrap();
    assert_eq!(graph.view(pooled).unwrap().to_vec().unwrap(), expected.to_vec().unwrap());
}

/// What a run of a plan refuses is refused when it is recorded; what would read the output that it writes, too.
#[test]
fn wrong_runs_are_not_recorded() {
    let (device, other) = (device(), device());
    let plan = Arc::new(layer(1).plan::<f32>(&device, &PlanRequest::new(SHAPE)).unwrap());
    let mut foreign = None;
    Graph::capture(&device, |recorder| {
        foreign = Some(recorder.tensor(zeros(&device, MemoryFormat::Contiguous)));
        Ok(())
    })
    .unwrap();
    let foreign = foreign.unwrap();
    Graph::capture(&device, |recorder| {
        let x = recorder.tensor(zeros(&device, MemoryFormat::Contiguous));
        let y = recorder.tensor(zeros(&device, MemoryFormat::Contiguous));
        let wide = recorder.tensor(zeros(&device, MemoryFormat::ChannelsLast));
        let elsewhere = recorder.tensor(zeros(&other, MemoryFormat::Contiguous));
        let mut run = |x, y| recorder.run(plan.clone(), move |tensors| Ok(Inputs::new(tensors.view(x)?)), y).unwrap_err();
        assert!(matches!(run(x, x), Error::Attribute { name: "an input", .. }));
        assert!(matches!(run(foreign, y), Error::Attribute { name: "the slot", .. }));
        assert!(matches!(run(x, foreign), Error::Attribute { name: "the slot", .. }));
        assert!(matches!(run(wide, y), Error::Format { name: "x", .. }));
        assert!(matches!(run(elsewhere, y), Error::WrongDevice { name: "x", .. }));
        Ok(())
    })
    .unwrap();
    let mut empty = Graph::capture(&device, |_| Ok(())).unwrap();
    assert!(empty.is_empty());
    let stream = Stream::new(&other).unwrap();
    assert!(matches!(empty.replay(&stream), Err(Error::WrongDevice { name: "the stream", .. })));
}
