//! Convolutions over sequences [N, C, L].

use super::{Conv2d, ConvTranspose2d};
use crate::{Activation, Conv2dSpec, ConvTranspose2dSpec, Padding};
use candle_core::{Module, Result, Tensor};
use candle_nn::{Conv1dConfig, ConvTranspose1dConfig};

/// A 1-D convolution over [N, C, L]. It runs as a [`Conv2d`] over images of one row. An input that
/// is a transposed view of [N, L, C] is read in place.
#[derive(Debug, Clone)]
pub struct Conv1d(Conv2d);

impl Conv1d {
    /// A layer with a weight [C_out, C_in / groups, k] and perhaps a bias `[C_out]`. The config's
    /// `cudnn_fwd_algo` is ignored, since cuDNN is not used.
    ///
    /// # Errors
    /// For shapes and attributes that do not fit one another.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, config: Conv1dConfig) -> Result<Self> {
        let Conv1dConfig { padding, stride, dilation, groups, .. } = config;
        Self::build([padding; 2], stride, dilation, groups, weight, bias, None)
    }

    /// A causal convolution: position l of the output depends on positions 0 to l of the input, and
    /// the output is as long as the input, without a `narrow` after it. With as many groups as
    /// channels it is the convolution of Mamba and RWKV.
    ///
    /// # Errors
    /// As [`Conv1d::new`].
    pub fn causal(weight: &Tensor, bias: Option<&Tensor>, dilation: usize, groups: usize) -> Result<Self> {
        let before = weight.dim(2)?.saturating_sub(1).saturating_mul(dilation);
        Self::build([before, 0], 1, dilation, groups, weight, bias, None)
    }

    pub(super) fn build(
        [before, after]: [usize; 2],
        stride: usize,
        dilation: usize,
        groups: usize,
        weight: &Tensor,
        bias: Option<&Tensor>,
        name: Option<String>,
    ) -> Result<Self> {
        weight.dims3()?;
        let padding = Padding::Explicit([0, before, 0, after]);
        let spec = Conv2dSpec { padding, stride: [1, stride], dilation: [1, dilation], groups, ..Default::default() };
        Ok(Self(Conv2d::build(spec, &weight.unsqueeze(2)?, bias, name)?))
    }

    /// The layer that computes what a layer of candle does.
    ///
    /// # Errors
    /// As [`Conv1d::new`].
    pub fn from_candle(layer: &candle_nn::Conv1d) -> Result<Self> {
        Self::new(layer.weight(), layer.bias(), *layer.config())
    }

    /// The layer that runs, which takes images of one row.
    pub fn layer(&self) -> &crate::Conv2d {
        self.0.layer()
    }

    /// As [`Conv2d::absorb_bn`].
    ///
    /// # Errors
    /// As there.
    pub fn absorb_bn(&self, norm: &candle_nn::BatchNorm) -> Result<Self> {
        Ok(Self(self.0.absorb_bn(norm)?))
    }

    /// As [`Conv2d::with_activation`].
    ///
    /// # Errors
    /// As there.
    pub fn with_activation(&self, activation: Activation) -> Result<Self> {
        Ok(Self(self.0.with_activation(activation)?))
    }
}

impl Module for Conv1d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.dims3()?;
        self.0.forward(&x.unsqueeze(2)?)?.squeeze(2)
    }
}

/// A transposed 1-D convolution over [N, C, L], such as the upsampling layers of HiFi-GAN and
/// EnCodec. It runs as a [`ConvTranspose2d`] over images of one row.
#[derive(Debug, Clone)]
pub struct ConvTranspose1d(ConvTranspose2d);

impl ConvTranspose1d {
    /// A layer with a weight [C_in, C_out / groups, k] and perhaps a bias `[C_out]`.
    ///
    /// # Errors
    /// For shapes and attributes that do not fit one another.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, config: ConvTranspose1dConfig) -> Result<Self> {
        Self::build(config, weight, bias, None)
    }

    pub(super) fn build(config: ConvTranspose1dConfig, weight: &Tensor, bias: Option<&Tensor>, name: Option<String>) -> Result<Self> {
        weight.dims3()?;
        Ok(Self(ConvTranspose2d::build(transposed_spec(config), &weight.unsqueeze(2)?, bias, name)?))
    }

    /// The layer that computes what a layer of candle does.
    ///
    /// # Errors
    /// As [`ConvTranspose1d::new`].
    pub fn from_candle(layer: &candle_nn::ConvTranspose1d) -> Result<Self> {
        Self::new(layer.weight(), layer.bias(), *layer.config())
    }

    /// The layer that runs, which takes images of one row.
    pub fn layer(&self) -> &crate::ConvTranspose2d {
        self.0.layer()
    }

    /// As [`ConvTranspose2d::absorb_bn`].
    ///
    /// # Errors
    /// As there.
    pub fn absorb_bn(&self, norm: &candle_nn::BatchNorm) -> Result<Self> {
        Ok(Self(self.0.absorb_bn(norm)?))
    }

    /// As [`ConvTranspose2d::with_activation`].
    ///
    /// # Errors
    /// As there.
    pub fn with_activation(&self, activation: Activation) -> Result<Self> {
        Ok(Self(self.0.with_activation(activation)?))
    }
}

impl Module for ConvTranspose1d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.dims3()?;
        self.0.forward(&x.unsqueeze(2)?)?.squeeze(2)
    }
}

/// The attributes of a transposed 1-D convolution, over images of one row.
pub(in crate::candle) fn transposed_spec(config: ConvTranspose1dConfig) -> ConvTranspose2dSpec {
    let ConvTranspose1dConfig { padding, output_padding, stride, dilation, groups } = config;
    ConvTranspose2dSpec {
        padding: [0, padding, 0, padding],
        output_padding: [0, output_padding],
        stride: [1, stride],
        dilation: [1, dilation],
        groups,
        ..Default::default()
    }
}
