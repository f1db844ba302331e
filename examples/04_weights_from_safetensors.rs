//! Builds a small network from a safetensors file with PyTorch's names: convolution, batch normalisation folded into it, and a
//! depthwise convolution.

use warpconv::io::{TensorFile, save};
use warpconv::{Activation, AnyTensor, Conv2d, Conv2dSpec, ConvTranspose2d, Device, Inputs, Layer, Padding, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::best()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    write_a_model(&device, &path)?;

    // A service would use `TensorFile::open(&path)`; `from_bytes` also takes memory that is there already.
    let file = TensorFile::from_bytes(std::fs::read(&path)?)?;
    println!("{file:?}: {}", file.names().collect::<Vec<_>>().join(", "));

    let stem = file.prefix("backbone.stem");
    let spec = Conv2dSpec { padding: Padding::all(1), activation: Activation::Relu, ..Default::default() };
    let conv: Conv2d = stem.prefix("conv").layer(spec)?; // backbone.stem.conv.weight, and .bias if there is one

    // An inference network needs no batch normalisation of its own: every layer with weights takes it up, on the right axis.
    let norm = warpconv::BatchNorm { gamma: vec![2.0; 4], beta: vec![1.0; 4], mean: vec![0.0; 4], variance: vec![1.0; 4], epsilon: 0.0 };
    let conv = conv.fold_batch_norm(&norm)?;
    let up: ConvTranspose2d = file.prefix("head.up").layer(Default::default())?;

    let x = Tensor::from_slice(&device, [1, 3, 5, 5], &[1f32; 75])?;
    let features = conv.forward(&Inputs::new(&x))?;
    let y = up.forward(&Inputs::new(&features))?;
    println!("{:?} -> {:?} -> {:?}", x.shape(), features.shape(), y.shape());
    assert_eq!(features.to_vec()?[12], 2.0 * 27.0 + 1.0);

    // What is missing is named, with the file and the part of the model.
    println!("as expected: {}", file.prefix("head.down").layer::<Conv2d>(spec).unwrap_err());
    Ok(())
}

/// Stands for `safetensors.torch.save_file(model.state_dict(), path)`.
fn write_a_model(device: &Device, path: &std::path::Path) -> warpconv::Result<()> {
    let ones = |shape: [usize; 4]| Tensor::from_slice(device, shape, &vec![1f32; shape.iter().product()]).map(AnyTensor::from);
    save(path, &[("backbone.stem.conv.weight", &ones([4, 3, 3, 3])?), ("head.up.weight", &ones([4, 2, 2, 2])?)])
}
