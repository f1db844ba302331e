//! Pictures as they lie in memory: frames whose rows are padded, and a rectangle of each, are read and written without a copy.
//! Then the way to a GPU and back: pinned buffers, which a stream copies in its turn.

use warpconv::{
    Conv2d, Conv2dSpec, Device, Inputs, Layer, Layout, MemoryFormat, Padding, Parameter, PinnedBuffer, PlanRequest, Stream, Tensor,
    TensorView, Workspace,
};

fn main() -> warpconv::Result<()> {
    // A blur of each of three colours.
    let spec = Conv2dSpec { groups: 3, padding: Padding::all(1), ..Default::default() };
    let blur = Conv2d::new(spec, Parameter::new(&[3, 1, 3, 3], &[1f32 / 9.0; 27])?)?;

    // A decoder's frame: 3 planes of 48 rows of 60 pixels, each row padded to 64.
    let host = Device::host()?;
    let mut frame = vec![0f32; 3 * 48 * 64];
    frame.iter_mut().enumerate().for_each(|(index, pixel)| *pixel = if index % 64 < 60 { 1.0 } else { f32::NAN });
    let layout = Layout::strided([1, 3, 48, 60], MemoryFormat::Contiguous, [3 * 48 * 64, 48 * 64, 64, 1])?;
    let picture = TensorView::from_host_slice(&host, &frame, layout)?;

    // The plan is for the size alone; which memory it reads is known when it runs.
    let plan = blur.plan::<f32>(&host, &PlanRequest::new([1, 3, 32, 32]))?;
    let mut canvas = Tensor::<f32>::zeros(&host, [1, 3, 64, 64], MemoryFormat::Contiguous)?;
    plan.run(&Inputs::new(picture.crop(8..40, 28..60)?), canvas.crop_mut(0..32, 32..64)?, Workspace::none(), &Stream::default_of(&host))?;
    let corner = canvas.crop(0..2, 31..34)?.channels(0..1)?.to_vec()?;
    println!("the canvas beside and in the rectangle: {corner:.2?}");
    assert_eq!((corner[0], corner[3]), (0.0, 0.0), "what lies around is left alone");
    assert!((corner[5] - 1.0).abs() < 1e-6, "and no padding was read");

    // On a GPU: the host fills one buffer while the device works on what it was given before.
    let device = Device::best()?;
    let stream = Stream::new(&device)?;
    let plan = blur.plan::<f32>(&device, &PlanRequest::new([1, 3, 32, 32]))?;
    let mut x = Tensor::<f32>::zeros(&device, [1, 3, 32, 32], MemoryFormat::Contiguous)?;
    let mut y = Tensor::<f32>::zeros(&device, [1, 3, 32, 32], MemoryFormat::Contiguous)?;
    let (mut input, mut output) = (PinnedBuffer::zeros(&device, x.shape().iter().product())?, PinnedBuffer::zeros(&device, 3 * 32 * 32)?);
    for brightness in [1f32, 2.0] {
        input.fill(brightness);
        let uploaded = x.view_mut().write_async(input, &stream)?;
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &stream)?;
        let downloaded = y.view().read_async(output, &stream)?;
        // Each wait is for one copy; the buffers come back to be filled again.
        (input, output) = (uploaded.wait()?, downloaded.wait()?);
        println!("brightness {brightness}: {:.2} at the corner, {:.2} inside", output[0], output[33]);
        assert!((output[33] - brightness).abs() < 1e-5);
    }
    Ok(())
}
