//! Modules, and builders with candle-nn's names and arguments, which take their weights from a
//! [`VarBuilder`](candle_nn::VarBuilder).

mod builders;
mod one_dimension;

pub use builders::{
    conv_transpose1d, conv_transpose1d_no_bias, conv_transpose2d, conv_transpose2d_no_bias, conv1d, conv1d_no_bias, conv2d, conv2d_no_bias,
    deform_conv2d, depthwise_separable,
};
pub(super) use one_dimension::transposed_spec;
pub use one_dimension::{Conv1d, ConvTranspose1d};

use super::parameter;
use super::plans::{Plans, Role};
use crate::{
    Activation, BatchNorm, Conv2dSpec, ConvTranspose2dSpec, DeformConv2dSpec, DepthwiseSeparableSpec, Explanation, Layer, Padding,
};
use crate::{Device, PixelShuffleSpec, UpsampleBilinearSpec, UpsampleSize};
use candle_core::{Module, Result, Tensor};
use candle_nn::{Conv2dConfig, ConvTranspose2dConfig};
use std::sync::Arc;

/// A layer of this crate as a module of candle.
///
/// The module makes a plan when it meets a shape, dtype or device for the first time, and keeps the
/// 64 plans used last for each dtype and device. Clones are cheap: they share plans and packed
/// weights.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use warpconv::{Conv2dSpec, SubPixelConv2d, SubPixelConv2dSpec, candle::{Planned, parameter}};
/// # fn main() -> candle_core::Result<()> {
/// let weight = Tensor::randn(0f32, 1.0, (12, 8, 3, 3), &Device::Cpu)?;
/// let spec = SubPixelConv2dSpec { conv: Conv2dSpec::default(), factor: 2, order: Default::default() };
/// let layer = Planned::of(SubPixelConv2d::new(spec, parameter(&weight)?)?);
/// let y = layer.forward(&Tensor::zeros((1, 8, 10, 10), candle_core::DType::F16, &Device::Cpu)?)?;
/// assert_eq!(y.dims(), [1, 3, 16, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Planned<L: Layer>(Arc<Plans<L>>);

impl<L: Layer> Clone for Planned<L> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// [`crate::Conv2d`] as a module.
pub type Conv2d = Planned<crate::Conv2d>;
/// [`crate::ConvTranspose2d`] as a module.
pub type ConvTranspose2d = Planned<crate::ConvTranspose2d>;
/// [`crate::DepthwiseSeparableConv2d`] as a module: a depthwise and a 1x1 convolution in one.
pub type DepthwiseSeparable = Planned<crate::DepthwiseSeparableConv2d>;
/// [`crate::DeformConv2d`] as a module: [`Planned::forward_at`] takes offsets and mask.
/// [`crate::DeformConv2dBlock`], which predicts them from x, is a module by [`Planned::of`].
pub type DeformConv2d = Planned<crate::DeformConv2d>;
/// [`crate::PixelShuffle`] as a module.
pub type PixelShuffle = Planned<crate::PixelShuffle>;
/// [`crate::PixelUnshuffle`] as a module.
pub type PixelUnshuffle = Planned<crate::PixelUnshuffle>;
/// [`crate::UpsampleBilinear`] as a module.
pub type Upsample = Planned<crate::UpsampleBilinear>;
/// [`crate::RoiAlign`] as a module: [`Planned::forward_rois`].
pub type RoiAlign = Planned<crate::RoiAlign>;
/// [`crate::RoiPool`] as a module: [`Planned::forward_rois`].
pub type RoiPool = Planned<crate::RoiPool>;
/// [`crate::PsRoiPool`] as a module: [`Planned::forward_rois`].
pub type PsRoiPool = Planned<crate::PsRoiPool>;
/// [`crate::DeformRoiPool`] as a module: [`Planned::forward_rois`], or [`Planned::forward_rois_at`]
/// with offsets.
pub type DeformRoiPool = Planned<crate::DeformRoiPool>;

impl<L: Layer> Planned<L> {
    /// A module of any layer.
    pub fn of(layer: L) -> Self {
        Self::with_name(layer, None)
    }

    fn with_name(layer: L, name: Option<String>) -> Self {
        Self(Arc::new(Plans::new(layer, name)))
    }

    /// The same layer with a name, with which its errors begin. The builders name a layer by the
    /// prefix of their [`VarBuilder`](candle_nn::VarBuilder).
    pub fn named(self, name: impl Into<String>) -> Self
    where
        L: Clone,
    {
        Self::with_name(self.layer().clone(), Some(name.into()))
    }

    /// The layer.
    pub fn layer(&self) -> &L {
        &self.0.layer
    }

    /// Which kernel runs on a device for an input like `x`, and why.
    ///
    /// # Errors
    /// As the layer's [`Layer::plan`].
    pub fn explain(&self, x: &Tensor, device: &Device) -> Result<Explanation> {
        self.0.explain(x, device)
    }

    pub(super) fn run(&self, x: &Tensor, others: &[(Role, &Tensor)]) -> Result<Tensor> {
        self.0.run(x, others)
    }

    /// A module of another layer, which goes by the same name.
    fn replaced<M: Layer>(&self, layer: M) -> Planned<M> {
        Planned::with_name(layer, self.0.name.clone())
    }
}

impl<L: Layer> Module for Planned<L> {
    /// Layers that read more than x, such as [`DeformConv2d`], return an error that says what is
    /// missing.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, &[])
    }
}

/// The statistics of candle's batch norm.
fn batch_norm(norm: &candle_nn::BatchNorm) -> Result<BatchNorm> {
    let values = |tensor: &Tensor| Ok::<_, candle_core::Error>(parameter(tensor)?.values().to_vec());
    let (mean, variance) = (values(norm.running_mean())?, values(norm.running_var())?);
    let (gamma, beta) = match norm.weight_and_bias() {
        Some((weight, bias)) => (values(weight)?, values(bias)?),
        None => (vec![1.0; mean.len()], vec![0.0; mean.len()]),
    };
    Ok(BatchNorm { gamma, beta, mean, variance, epsilon: norm.eps() as f32 })
}

/// The methods that all layers with a weight, a bias and an activation have in common.
macro_rules! convolutions {
    ($($layer:ident($spec:ident)),*) => {$(
        impl Planned<crate::$layer> {
            /// A layer with these attributes, a weight and perhaps a bias.
            fn build(spec: $spec, weight: &Tensor, bias: Option<&Tensor>, name: Option<String>) -> Result<Self> {
                let layer = crate::$layer::new(spec, parameter(weight)?)?;
                let layer = match bias {
                    Some(bias) => layer.with_bias(parameter(bias)?)?,
                    None => layer,
                };
                Ok(Self::with_name(layer, name))
            }

            /// The layer followed by a batch norm, which is folded into weight and bias. The
            /// activation comes after the batch norm.
            ///
            /// # Errors
            /// When the numbers of channels differ, or a variance is not positive.
            pub fn absorb_bn(&self, norm: &candle_nn::BatchNorm) -> Result<Self> {
                Ok(self.replaced(self.layer().clone().fold_batch_norm(&batch_norm(norm)?)?))
            }

            /// The layer with an activation at its end, computed in the same launch. For
            /// [`Activation::Prelu`], which needs a slope, see [`Self::with_prelu`].
            ///
            /// # Errors
            /// As [`Self::new`].
            pub fn with_activation(&self, activation: Activation) -> Result<Self> {
                let layer = self.layer();
                let changed = crate::$layer::new($spec { activation, ..*layer.attributes() }, layer.weight().clone())?;
                Ok(self.replaced(match layer.bias() {
                    Some(bias) => changed.with_bias(bias.clone())?,
                    None => changed,
                }))
            }

            /// The layer with a prelu at its end. The slope has a value for each output channel.
            ///
            /// # Errors
            /// For a slope of another shape.
            pub fn with_prelu(&self, slope: &Tensor) -> Result<Self> {
                let changed = self.with_activation(Activation::Prelu)?;
                Ok(self.replaced(changed.layer().clone().with_slope(parameter(slope)?)?))
            }

            /// `activation(layer(x) + residual)`, in one launch.
            ///
            /// # Errors
            /// For a residual of another shape, dtype or device than the output's, and as
            /// [`Module::forward`].
            pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
                self.run(x, &[(Role::Residual, residual)])
            }
        }
    )*};
}

convolutions!(Conv2d(Conv2dSpec), ConvTranspose2d(ConvTranspose2dSpec), DeformConv2d(DeformConv2dSpec));

impl Conv2d {
    /// A layer with a weight [C_out, C_in / groups, kh, kw] and perhaps a bias `[C_out]`. The
    /// config's `cudnn_fwd_algo` is ignored, since cuDNN is not used.
    ///
    /// # Errors
    /// For shapes and attributes that do not fit one another.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<Self> {
        Self::build(Self::spec(config), weight, bias, None)
    }

    fn spec(Conv2dConfig { padding, stride, dilation, groups, .. }: Conv2dConfig) -> Conv2dSpec {
        let (stride, dilation) = ([stride; 2], [dilation; 2]);
        Conv2dSpec { padding: Padding::all(padding), stride, dilation, groups, ..Default::default() }
    }

    /// The layer that computes what a layer of candle does.
    ///
    /// # Errors
    /// As [`Conv2d::new`].
    pub fn from_candle(layer: &candle_nn::Conv2d) -> Result<Self> {
        Self::new(layer.weight(), layer.bias(), *layer.config())
    }
}

impl ConvTranspose2d {
    /// A layer with a weight [C_in, C_out, kh, kw] and perhaps a bias `[C_out]`. candle's config has
    /// no groups; [`Planned::of`] makes a module of a transposed layer with groups.
    ///
    /// # Errors
    /// For shapes and attributes that do not fit one another.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, config: ConvTranspose2dConfig) -> Result<Self> {
        Self::build(Self::spec(config), weight, bias, None)
    }

    fn spec(ConvTranspose2dConfig { padding, output_padding, stride, dilation }: ConvTranspose2dConfig) -> ConvTranspose2dSpec {
        let (stride, dilation, output_padding) = ([stride; 2], [dilation; 2], [output_padding; 2]);
        ConvTranspose2dSpec { padding: [padding; 4], stride, dilation, output_padding, ..Default::default() }
    }

    /// The layer that computes what a layer of candle does.
    ///
    /// # Errors
    /// As [`ConvTranspose2d::new`].
    pub fn from_candle(layer: &candle_nn::ConvTranspose2d) -> Result<Self> {
        Self::new(layer.weight(), layer.bias(), *layer.config())
    }
}

impl DeformConv2d {
    /// A layer with a weight [C_out, C_in / groups, kh, kw] and perhaps a bias `[C_out]`.
    ///
    /// # Errors
    /// For shapes and attributes that do not fit one another.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, spec: DeformConv2dSpec) -> Result<Self> {
        Self::build(spec, weight, bias, None)
    }

    /// Runs the layer with offsets [N, 2 * offset_groups * kh * kw, H_out, W_out] and perhaps a mask
    /// [N, offset_groups * kh * kw, H_out, W_out], like torchvision's module. Each of the two is in
    /// the dtype of x or in f32.
    ///
    /// # Errors
    /// For other shapes, dtypes or devices, and as [`Module::forward`].
    pub fn forward_at(&self, x: &Tensor, offset: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        match mask {
            Some(mask) => self.run(x, &[(Role::Offset, offset), (Role::Mask, mask)]),
            None => self.run(x, &[(Role::Offset, offset)]),
        }
    }
}

impl DepthwiseSeparable {
    /// Makes one layer of a depthwise convolution and the 1x1 convolution that follows it. Both keep
    /// their bias, their activation and a batch norm that they have absorbed. If a single launch is
    /// faster than two, the values between the two convolutions never leave the multiprocessor.
    ///
    /// # Errors
    /// When `depthwise` is not a depthwise convolution, `pointwise` is not a 1x1 convolution with
    /// stride 1, or their channels do not fit.
    pub fn fuse(depthwise: &Conv2d, pointwise: &Conv2d) -> Result<Self> {
        let (first, second) = (depthwise.layer(), pointwise.layer());
        let Conv2dSpec { stride, padding, dilation, groups, activation: mid_activation } = *first.attributes();
        let Conv2dSpec { activation, .. } = *second.attributes();
        if *second.attributes() != (Conv2dSpec { activation, ..Default::default() }) {
            let value = format!("{:?}", second.attributes());
            let requirement = "without stride, padding, dilation and groups";
            return Err(crate::Error::Attribute { name: "the pointwise convolution", value, requirement }.into());
        }
        let spec = DepthwiseSeparableSpec { stride, padding, dilation, groups: Some(groups), mid_activation, activation };
        let mut layer = crate::DepthwiseSeparableConv2d::new(spec, first.weight().clone(), second.weight().clone())?;
        if let Some(bias) = first.bias() {
            layer = layer.with_dw_bias(bias.clone())?;
        }
        if let Some(slope) = first.slope() {
            layer = layer.with_mid_slope(slope.clone())?;
        }
        if let Some(bias) = second.bias() {
            layer = layer.with_pw_bias(bias.clone())?;
        }
        if let Some(slope) = second.slope() {
            layer = layer.with_slope(slope.clone())?;
        }
        Ok(pointwise.replaced(layer))
    }

    /// `activation(layer(x) + residual)`.
    ///
    /// # Errors
    /// For a residual of another shape, dtype or device than the output's, and as
    /// [`Module::forward`].
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, &[(Role::Residual, residual)])
    }
}

impl PixelShuffle {
    /// [N, C * r^2, H, W] to [N, C, r * H, r * W], as candle_nn's `pixel_shuffle`.
    ///
    /// # Errors
    /// For a factor of 0.
    pub fn new(factor: usize) -> Result<Self> {
        Ok(Self::of(crate::PixelShuffle::new(PixelShuffleSpec { factor, order: Default::default() })?))
    }
}

impl PixelUnshuffle {
    /// [N, C, r * H, r * W] to [N, C * r^2, H, W], as candle_nn's `pixel_unshuffle`.
    ///
    /// # Errors
    /// For a factor of 0.
    pub fn new(factor: usize) -> Result<Self> {
        Ok(Self::of(crate::PixelUnshuffle::new(PixelShuffleSpec { factor, order: Default::default() })?))
    }
}

impl Upsample {
    /// Bilinear upsampling by the same factor along both axes, like
    /// `torch.nn.Upsample(scale_factor=..., mode="bilinear")`.
    ///
    /// # Errors
    /// For a scale that is not positive and finite.
    pub fn new(scale: f64, align_corners: bool) -> Result<Self> {
        let size = UpsampleSize::Scale([scale; 2]);
        Ok(Self::of(crate::UpsampleBilinear::new(UpsampleBilinearSpec { size, align_corners })?))
    }
}

/// The method of all modules that pool RoIs.
macro_rules! pools {
    ($($pool:ident),*) => {$(
        impl Planned<crate::$pool> {
            /// Pools regions of x. `rois` [K, 5] holds a batch index, x1, y1, x2 and y2 for each
            /// region, in any float dtype. A batch index beyond the batch is an error on the CPU.
            /// On a GPU, where the host does not read the indices, such a region gives zeros.
            ///
            /// # Errors
            /// For other shapes or devices, and as [`Module::forward`].
            pub fn forward_rois(&self, x: &Tensor, rois: &Tensor) -> Result<Tensor> {
                self.run(x, &[(Role::Rois, rois)])
            }
        }
    )*};
}

pools!(RoiAlign, RoiPool, PsRoiPool, DeformRoiPool);

impl DeformRoiPool {
    /// As [`Planned::forward_rois`], with offsets [K, 2 * offset_groups, ph, pw] in the dtype of x
    /// or in f32.
    ///
    /// # Errors
    /// For other shapes, dtypes or devices, and as [`Module::forward`].
    pub fn forward_rois_at(&self, x: &Tensor, rois: &Tensor, offset: &Tensor) -> Result<Tensor> {
        self.run(x, &[(Role::Rois, rois), (Role::Offset, offset)])
    }
}
