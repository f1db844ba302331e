//! A service whose batches and pictures differ from request to request: a plan for each batch size, a bounded cache of plans for
//! each size of picture, and errors sorted by who must act.

use warpconv::{
    Activation, Conv2d, Conv2dSpec, Device, Error, ErrorKind, Inputs, Layer, MemoryFormat, Padding, Parameter, PlanCache, PlanRequest,
    Stream, Tensor, Workspace,
};

fn main() -> warpconv::Result<()> {
    let device = Device::best()?;
    let stream = Stream::default_of(&device);
    let spec = Conv2dSpec { padding: Padding::all(1), activation: Activation::Relu, ..Default::default() };
    let layer = Conv2d::new(spec, Parameter::new(&[4, 3, 3, 3], &[0.1f32; 108])?)?;

    // Batches of 1 to 4 pictures over one pair of tensors. The plans share the packed weights.
    let plans = layer.plan_up_to_batch::<f32>(&device, &PlanRequest::new([4, 3, 16, 16]))?;
    let x = Tensor::<f32>::randn(&device, [4, 3, 16, 16], MemoryFormat::Contiguous, 7)?;
    let mut y = Tensor::<f32>::zeros(&device, plans.output_shape(), MemoryFormat::Contiguous)?;
    let held = device.allocated_bytes();
    for waiting in [3, 1, 4] {
        plans.run(&Inputs::new(x.images(0..waiting)?), y.images_mut(0..waiting)?, Workspace::none(), &stream)?;
    }
    assert_eq!(device.allocated_bytes(), held, "memory stands still");

    // Pictures of any size: the eight latest sizes stay planned.
    let cache = PlanCache::<_, f32>::new(layer, &device, 8);
    for side in [16, 24, 16] {
        let plan = cache.get(&PlanRequest::new([1, 3, side, side]))?;
        let picture = Tensor::<f32>::zeros(&device, [1, 3, side, side], MemoryFormat::Contiguous)?;
        let mut result = Tensor::<f32>::zeros(&device, plan.output_shape(), plan.output_format())?;
        plan.run(&Inputs::new(&picture), &mut result, Workspace::none(), &stream)?;
    }
    assert_eq!(cache.len(), 2);

    let error = cache.get(&PlanRequest::new([1, 1, 16, 16])).unwrap_err();
    println!("{} {error}", status(&error));
    assert_eq!(status(&error), 400);
    Ok(())
}

/// The HTTP status of a failure.
fn status(error: &Error) -> u16 {
    match error.kind() {
        ErrorKind::Shape => 400,
        ErrorKind::Resource => 503,
        _ if error.is_sticky() => std::process::exit(1), // the GPU is lost: let the supervisor start a new process
        _ => 500,
    }
}
