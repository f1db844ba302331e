//! Allocates a tensor, runs one layer on it, and reads the result.
//!
//! `cargo run --example 01_allocate_and_run`: on the first GPU where there is one and the build has the feature `cuda`, else on the
//! host device, which runs the same kernels on the CPU.

use warpconv::{Activation, Conv2d, Conv2dSpec, Device, Inputs, Layer, Padding, Parameter, Tensor};

fn main() -> warpconv::Result<()> {
    let device = Device::best()?;
    println!("{device}: {}", device.describe());

    // A 3x3 mean filter over one channel, with the picture's size kept by a padding of one zero on each side.
    let spec = Conv2dSpec { padding: Padding::all(1), activation: Activation::Relu, ..Default::default() };
    let layer = Conv2d::new(spec, Parameter::new(&[1, 1, 3, 3], &[1.0f32 / 9.0; 9])?)?;

    // Shapes are [N, C, H, W], whatever the memory format.
    let x = Tensor::from_slice(&device, [1, 1, 4, 4], &[9f32; 16])?;

    // `forward` plans, allocates the output and runs. Everything that does not fit is an error that says what and why.
    let y = layer.forward(&Inputs::new(&x))?;
    for row in y.to_vec()?.chunks(4) {
        println!("{row:?}");
    }
    assert_eq!(y.to_vec()?[..2].iter().map(|v| v.round()).collect::<Vec<_>>(), [4.0, 6.0]);

    let wrong = Tensor::from_slice(&device, [1, 3, 4, 4], &[0f32; 48])?;
    println!("as expected: {}", layer.forward(&Inputs::new(&wrong)).unwrap_err());
    Ok(())
}
