//! Plans a layer once and runs it often: without allocation, without synchronisation, on a stream of its own. Then captures two
//! runs in a graph, which a GPU replays as one launch.

use half::f16;
use warpconv::{
    Activation, Conv2d, Conv2dSpec, Device, Event, Graph, Inputs, Layer, MemoryFormat, Padding, Parameter, PlanRequest, Stream, Tensor,
    Workspace,
};

fn main() -> warpconv::Result<()> {
    let device = Device::best()?;
    let spec = Conv2dSpec { padding: Padding::all(1), activation: Activation::Silu, ..Default::default() };
    let layer = Conv2d::new(spec, Parameter::new(&[16, 16, 3, 3], &[0.01f32; 16 * 16 * 9])?)?;

    // Planning validates, chooses the kernel, packs the weights on the device and loads the code.
    let shape = [2, 16, 24, 24];
    let plan = layer.plan::<f16>(&device, &PlanRequest::new(shape).format(MemoryFormat::ChannelsLast))?;
    print!("{}", plan.explain());

    let x = Tensor::<f16>::randn(&device, shape, MemoryFormat::ChannelsLast, 42)?;
    let mut y = Tensor::<f16>::zeros(&device, plan.output_shape(), plan.output_format())?;

    // On a GPU `run` only queues. An event lets another stream, or the host, wait for exactly this much.
    let (stream, other) = (Stream::new(&device)?, Stream::new(&device)?);
    let done = Event::new(&device)?;
    let allocations = device.allocations();
    for _ in 0..3 {
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream)?;
    }
    stream.record(&done)?;
    other.wait(&done)?; // what is queued on `other` from here on finds y complete
    done.synchronize()?;
    assert_eq!(device.allocations(), allocations, "running allocates nothing");

    // The same layer twice, as a graph that owns what it uses.
    let plan = std::sync::Arc::new(plan);
    let (mut input, mut output) = (None, None);
    let mut graph = Graph::capture(&device, |recorder| {
        let empty = || Tensor::<f16>::zeros(&device, shape, MemoryFormat::ChannelsLast);
        let (a, b, c) = (recorder.tensor(x), recorder.tensor(empty()?), recorder.tensor(empty()?));
        recorder.run(plan.clone(), move |tensors| Ok(Inputs::new(tensors.view(a)?)), b)?;
        recorder.run(plan.clone(), move |tensors| Ok(Inputs::new(tensors.view(b)?)), c)?;
        (input, output) = (Some(a), Some(c));
        Ok(())
    })?;
    let (input, output) = (input.expect("captured"), output.expect("captured"));
    graph.view_mut(input)?.write(&vec![f16::ONE; 2 * 16 * 24 * 24])?;
    graph.replay(&stream)?;
    println!("first output of the chain: {}", graph.view(output)?.to_vec()?[0]);
    Ok(())
}
