//! Deformable convolution v2: by hand with given offsets and mask, and as a block that predicts both from its input.

use warpconv::{
    DeformConv2d, DeformConv2dBlock, DeformConv2dBlockSpec, DeformConv2dSpec, Device, Inputs, Layer, Padding, Parameter, Tensor,
};

fn main() -> warpconv::Result<()> {
    let device = Device::best()?;

    // A 1x1 filter that looks half a pixel to the right: it averages neighbours, by bilinear interpolation.
    let layer = DeformConv2d::new(DeformConv2dSpec::default(), Parameter::new(&[1, 1, 1, 1], &[1f32])?)?;
    let x = Tensor::from_slice(&device, [1, 1, 1, 4], &[0f32, 10., 20., 30.])?;
    // [N, 2 * offset_groups * kh * kw, H_out, W_out]: the vertical offset of a tap, then its horizontal one
    let offset = Tensor::from_slice(&device, [1, 2, 1, 4], &[0f32, 0., 0., 0., 0.5, 0.5, 0.5, 0.5])?;
    let y = layer.forward(&Inputs::new(&x).offset(&offset))?.to_vec()?;
    assert_eq!(y, [5., 15., 25., 15.], "outside of the picture there are zeros");

    // With a mask each sample also has a weight.
    let mask = Tensor::from_slice(&device, [1, 1, 1, 4], &[1f32, 0.5, 0.25, 0.])?;
    let y = layer.forward(&Inputs::new(&x).offset(&offset).mask(&mask))?.to_vec()?;
    assert_eq!(y, [5., 7.5, 6.25, 0.]);

    // The block predicts offsets and mask with convolutions of its own. Fresh predictors are zero: the offsets are 0 and the mask
    // is sigmoid(0) = 1/2, so that it begins as half of the plain convolution.
    let deform = DeformConv2dSpec { padding: Padding::all(1), ..Default::default() };
    let spec = DeformConv2dBlockSpec { deform, modulated: true };
    let block = DeformConv2dBlock::new(spec, Parameter::new(&[8, 4, 3, 3], &[0.1f32; 288])?)?;
    let x = Tensor::from_slice(&device, [1, 4, 6, 6], &[1f32; 144])?;
    let y = block.forward(&Inputs::new(&x))?;
    println!("{:?}: {} in the middle", y.shape(), y.to_vec()?[7]);
    assert!((y.to_vec()?[7] - 1.8).abs() < 1e-5);
    Ok(())
}
