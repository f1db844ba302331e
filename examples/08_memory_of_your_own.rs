//! Runs on memory that the caller owns, without a copy: here host memory on the host device. On a GPU the same is done with
//! cudarc's slices (`TensorView::from_cuda`) or raw addresses (`TensorView::from_raw`), whose life only the caller can promise.

use warpconv::{
    Device, Inputs, Layer, Layout, MemoryFormat, PlanRequest, Stream, TensorView, TensorViewMut, UpsampleBilinear, UpsampleBilinearSpec,
    UpsampleSize, Workspace,
};

fn main() -> warpconv::Result<()> {
    let device = Device::host()?;

    // A decoder's pixels: 2 x 2, red, green and blue one after the other.
    let pixels = [1f32, 0., 0., 0., 1., 0., 0., 0., 1., 1., 1., 1.];
    let mut canvas = vec![0f32; 3 * 4 * 4];

    let spec = UpsampleBilinearSpec { size: UpsampleSize::Output([4, 4]), align_corners: true };
    let layer = UpsampleBilinear::new(spec)?;
    let plan = layer.plan::<f32>(&device, &PlanRequest::new([1, 3, 2, 2]).format(MemoryFormat::ChannelsLast))?;

    let layout = |shape| Layout::packed(shape, MemoryFormat::ChannelsLast);
    let x = TensorView::from_host_slice(&device, &pixels, layout([1, 3, 2, 2]))?;
    let y = TensorViewMut::from_host_slice(&device, &mut canvas, layout(plan.output_shape()))?;
    plan.run(&Inputs::new(x), y, Workspace::none(), &Stream::default_of(&device))?;

    for row in canvas.chunks(12) {
        println!("{:.2?}", row);
    }
    assert_eq!((&canvas[..3], &canvas[45..]), (&[1f32, 0., 0.][..], &[1f32, 1., 1.][..]), "corners stay");
    Ok(())
}
