//! A block of MobileNetV2 in candle: its three convolutions with batch norm, nonlinearity and residual fused.
//!
//! With `--features candle`. On a GPU it is the same program with `--features candle-cuda` and `Device::new_cuda(0)?`.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Conv2dConfig, VarBuilder, VarMap, batch_norm};
use warpconv::Activation;
use warpconv::candle::nn::{Conv2d, conv2d_no_bias};
use warpconv::candle::{DepthwiseSeparable, deform_conv2d};

fn main() -> Result<()> {
    let device = Device::Cpu;
    let weights = VarMap::new(); // random; of a file: VarBuilder::from_mmaped_safetensors
    let vb = VarBuilder::from_varmap(&weights, DType::F32, &device);

    // a convolution by candle-nn's names, and the batch norm behind it in its weight and bias
    let conv = |c_in, c_out, kernel, groups, name: &str| -> Result<Conv2d> {
        let config = Conv2dConfig { padding: kernel / 2, groups, ..Default::default() };
        let norm = batch_norm(c_out, 1e-5, vb.pp(format!("{name}.1")))?;
        conv2d_no_bias(c_in, c_out, kernel, config, vb.pp(format!("{name}.0")))?.absorb_bn(&norm)
    };
    let expand = conv(16, 96, 1, 1, "conv.0")?.with_activation(Activation::Relu6)?;
    let depthwise = conv(96, 96, 3, 96, "conv.1")?.with_activation(Activation::Relu6)?;
    let project = conv(96, 16, 1, 1, "conv.2")?;
    // the last two as one
    let rest = DepthwiseSeparable::fuse(&depthwise, &project)?;

    let x = Tensor::randn(0f32, 1.0, (2, 16, 14, 14), &device)?;
    let y = rest.forward_residual(&expand.forward(&x)?, &x)?;
    println!("a block of MobileNetV2: {:?} -> {:?}", x.dims(), y.dims());

    // candle's tensors in channels_last and in half precision are read as they lie
    let camera = Tensor::rand(0f32, 1.0, (1, 32, 32, 16), &device)?.to_dtype(DType::F16)?;
    let y = expand.forward(&camera.permute((0, 3, 1, 2))?)?;
    println!("channels_last in, channels_last out: strides {:?} of {:?}", y.stride(), y.dims());

    // what candle has not
    let offset = Tensor::randn(0f32, 0.5, (2, 18, 14, 14), &device)?;
    let weight = Tensor::randn(0f32, 0.1, (8, 16, 3, 3), &device)?;
    let y = deform_conv2d(&x, &offset, &weight, None, 1, 1, 1, None)?;
    println!("deformable convolution: {:?}", y.dims());
    Ok(())
}
