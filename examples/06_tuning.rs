//! Chooses a kernel by measuring instead of estimating, and by name.

use half::f16;
use warpconv::{Conv2d, Conv2dSpec, Device, Inputs, Layer, MemoryFormat, Padding, Parameter, PlanRequest, Tensor};

fn main() -> warpconv::Result<()> {
    let device = Device::best()?;
    let spec = Conv2dSpec { padding: Padding::all(1), groups: 16, ..Default::default() };
    let layer = Conv2d::new(spec, Parameter::new(&[16, 1, 3, 3], &[0.1f32; 144])?)?;
    let request = PlanRequest::new([1, 16, 20, 20]).format(MemoryFormat::ChannelsLast);

    // What the cost model expects of each kernel, and why others do not apply.
    print!("{}", layer.plan::<f16>(&device, &request)?.explain());

    // The measured times, the fastest first. The plan is ready to run.
    let x = Tensor::<f16>::randn(&device, [1, 16, 20, 20], MemoryFormat::ChannelsLast, 1)?;
    let tuned = layer.tune(&request, &Inputs::new(&x))?;
    for (kernel, time) in &tuned.times {
        println!("{kernel:<40} {:9.1} us", time.as_secs_f64() * 1e6);
    }
    assert_eq!(tuned.plan.explain().kernel, tuned.times[0].0);

    // By name: for tests, and to pin what was measured elsewhere. A name that does not exist or does not apply is an error.
    let (name, _) = tuned.times[tuned.times.len() - 1];
    let plan = layer.plan::<f16>(&device, &request.clone().kernel(name))?;
    assert_eq!(plan.explain().kernel, name);
    println!("as expected: {}", layer.plan::<f16>(&device, &request.kernel("conv_fast")).unwrap_err());
    Ok(())
}
