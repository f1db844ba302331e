//! Builders that take a layer's weights from a [`VarBuilder`].

use super::{Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, DeformConv2d, DepthwiseSeparable};
use crate::DeformConv2dSpec;
use candle_core::{Result, Tensor};
use candle_nn::{Conv1dConfig, Conv2dConfig, ConvTranspose1dConfig, ConvTranspose2dConfig, VarBuilder};

/// The prefix of a [`VarBuilder`], as a layer's name.
fn name(vb: &VarBuilder<'_>) -> Option<String> {
    Some(vb.prefix()).filter(|prefix| !prefix.is_empty())
}

/// Builders that candle-nn has as well. candle-nn's own builder gets the parameters: so their names
/// and initial values are the same.
macro_rules! builders {
    ($($(#[$docs:meta])* $name:ident($config:ident) -> $layer:ident = $make:expr;)*) => {$(
        $(#[$docs])*
        ///
        /// # Errors
        /// As candle's, and for shapes and attributes that do not fit one another.
        pub fn $name(in_channels: usize, out_channels: usize, kernel_size: usize, config: $config, vb: VarBuilder<'_>) -> Result<$layer> {
            let name = name(&vb);
            let layer = candle_nn::$name(in_channels, out_channels, kernel_size, config, vb)?;
            let make: fn(_, _, _, _) -> Result<$layer> = $make;
            make(*layer.config(), layer.weight(), layer.bias(), name)
        }
    )*};
}

fn make_conv1d(config: Conv1dConfig, weight: &Tensor, bias: Option<&Tensor>, name: Option<String>) -> Result<Conv1d> {
    let Conv1dConfig { padding, stride, dilation, groups, .. } = config;
    Conv1d::build([padding; 2], stride, dilation, groups, weight, bias, name)
}

fn make_conv_transpose1d(
    config: ConvTranspose1dConfig,
    weight: &Tensor,
    bias: Option<&Tensor>,
    name: Option<String>,
) -> Result<ConvTranspose1d> {
    ConvTranspose1d::build(config, weight, bias, name)
}

fn make_conv2d(config: Conv2dConfig, weight: &Tensor, bias: Option<&Tensor>, name: Option<String>) -> Result<Conv2d> {
    Conv2d::build(Conv2d::spec(config), weight, bias, name)
}

fn make_conv_transpose2d(
    config: ConvTranspose2dConfig,
    weight: &Tensor,
    bias: Option<&Tensor>,
    name: Option<String>,
) -> Result<ConvTranspose2d> {
    ConvTranspose2d::build(ConvTranspose2d::spec(config), weight, bias, name)
}

builders! {
    /// As [`candle_nn::conv1d`]: `weight` and `bias`.
    conv1d(Conv1dConfig) -> Conv1d = make_conv1d;
    /// As [`candle_nn::conv1d_no_bias`]: `weight`.
    conv1d_no_bias(Conv1dConfig) -> Conv1d = make_conv1d;
    /// As [`candle_nn::conv_transpose1d`]: `weight` and `bias`.
    conv_transpose1d(ConvTranspose1dConfig) -> ConvTranspose1d = make_conv_transpose1d;
    /// As [`candle_nn::conv_transpose1d_no_bias`]: `weight`.
    conv_transpose1d_no_bias(ConvTranspose1dConfig) -> ConvTranspose1d = make_conv_transpose1d;
    /// As [`candle_nn::conv2d`]: `weight` and `bias`.
    conv2d(Conv2dConfig) -> Conv2d = make_conv2d;
    /// As [`candle_nn::conv2d_no_bias`]: `weight`.
    conv2d_no_bias(Conv2dConfig) -> Conv2d = make_conv2d;
    /// As [`candle_nn::conv_transpose2d`]: `weight` and `bias`.
    conv_transpose2d(ConvTranspose2dConfig) -> ConvTranspose2d = make_conv_transpose2d;
    /// As [`candle_nn::conv_transpose2d_no_bias`]: `weight`.
    conv_transpose2d_no_bias(ConvTranspose2dConfig) -> ConvTranspose2d = make_conv_transpose2d;
}

/// A deformable convolution with parameters named as torchvision's: `weight`, and `bias` if the
/// [`VarBuilder`] has one.
///
/// # Errors
/// When there is no weight of this shape, and for attributes that do not fit it.
pub fn deform_conv2d(
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    spec: DeformConv2dSpec,
    vb: VarBuilder<'_>,
) -> Result<DeformConv2d> {
    let config = Conv2dConfig { groups: spec.groups, ..Default::default() };
    let name = name(&vb);
    let layer = like_conv2d(in_channels, out_channels, kernel_size, config, vb)?;
    DeformConv2d::build(spec, layer.weight(), layer.bias(), name)
}

/// candle's convolution, with a bias if the [`VarBuilder`] has one.
fn like_conv2d(c_in: usize, c_out: usize, kernel: usize, config: Conv2dConfig, vb: VarBuilder<'_>) -> Result<candle_nn::Conv2d> {
    let build = if vb.contains_tensor("bias") { candle_nn::conv2d } else { candle_nn::conv2d_no_bias };
    build(c_in, c_out, kernel, config, vb)
}

/// A depthwise convolution, whose parameters are named `depthwise`, followed by a 1x1 convolution
/// named `pointwise`. Each has a `weight`, and a `bias` if the [`VarBuilder`] has one. The config's
/// stride, padding and dilation are those of the depthwise convolution; its groups are ignored.
///
/// # Errors
/// When there are no weights of these shapes, and for attributes that do not fit them.
pub fn depthwise_separable(
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    config: Conv2dConfig,
    vb: VarBuilder<'_>,
) -> Result<DepthwiseSeparable> {
    let config = Conv2dConfig { groups: in_channels, ..config };
    let part = |c_out, kernel, config, part: &str| {
        let vb = vb.pp(part);
        let name = name(&vb);
        let layer = like_conv2d(in_channels, c_out, kernel, config, vb)?;
        make_conv2d(config, layer.weight(), layer.bias(), name)
    };
    let depthwise = part(in_channels, kernel_size, config, "depthwise")?;
    let pointwise = part(out_channels, 1, Conv2dConfig::default(), "pointwise")?;
    DepthwiseSeparable::fuse(&depthwise, &pointwise)
}
