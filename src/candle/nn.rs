//! Modules, and builders with candle-nn's names and arguments, from a [`VarBuilder`].

use super::parameter;
use super::plans::{Plans, Role};
use crate::{
    Activation, BatchNorm, Conv2dSpec, ConvTranspose2dSpec, DeformConv2dSpec, DepthwiseSeparableSpec, Explanation, Layer, Padding,
};
use crate::{Device, PixelShuffleSpec, UpsampleBilinearSpec, UpsampleSize};
use candle_core::{Module, Result, Tensor};
use candle_nn::{Conv1dConfig, Conv2dConfig, ConvTranspose2dConfig, VarBuilder};
use std::sync::Arc;

/// A layer of this crate as a module of candle. It plans once for each shape, dtype and device that
/// comes, and keeps the latest 64 plans of each dtype and device. Cheap to clone: clones share
/// plans and packed weights.
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

    /// The same with a name that errors begin with: the builders give the prefix of their
    /// [`VarBuilder`].
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

/// What the layers with a weight, a bias and an activation have in common.
macro_rules! convolutions {
    ($($layer:ident($spec:ident)),*) => {$(
        impl Planned<crate::$layer> {
            /// A layer of any attributes, with a weight and perhaps a bias.
            fn build(spec: $spec, weight: &Tensor, bias: Option<&Tensor>, name: Option<String>) -> Result<Self> {
                let layer = crate::$layer::new(spec, parameter(weight)?)?;
                let layer = match bias {
                    Some(bias) => layer.with_bias(parameter(bias)?)?,
                    None => layer,
                };
                Ok(Self::with_name(layer, name))
            }

            /// The layer with a batch norm behind it (and before the activation), folded into
            /// weight and bias.
            ///
            /// # Errors
            /// When the numbers of channels differ, or a variance is not positive.
            pub fn absorb_bn(&self, norm: &candle_nn::BatchNorm) -> Result<Self> {
                Ok(self.replaced(self.layer().clone().fold_batch_norm(&batch_norm(norm)?)?))
            }

            /// The layer with a nonlinearity at its end, in the same launch.
            ///
            /// # Errors
            /// None but those of [`Self::new`]. ([`Activation::Prelu`] needs a slope:
            /// [`Self::with_prelu`].)
            pub fn with_activation(&self, activation: Activation) -> Result<Self> {
                let layer = self.layer();
                let changed = crate::$layer::new($spec { activation, ..*layer.attributes() }, layer.weight().clone())?;
                Ok(self.replaced(match layer.bias() {
                    Some(bias) => changed.with_bias(bias.clone())?,
                    None => changed,
                }))
            }

            /// The layer with a prelu at its end, of a slope for each output channel.
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

/// The prefix of a [`VarBuilder`], as a layer's name.
fn name(vb: &VarBuilder<'_>) -> Option<String> {
    Some(vb.prefix()).filter(|prefix| !prefix.is_empty())
}

impl Conv2d {
    /// From a weight [C_out, C_in / groups, kh, kw] and perhaps a bias `[C_out]`. `cudnn_fwd_algo`
    /// does not apply.
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

    /// From candle's own layer.
    ///
    /// # Errors
    /// As [`Conv2d::new`].
    pub fn from_candle(layer: &candle_nn::Conv2d) -> Result<Self> {
        Self::new(layer.weight(), layer.bias(), *layer.config())
    }
}

impl ConvTranspose2d {
    /// From a weight [C_in, C_out, kh, kw] and perhaps a bias `[C_out]`. (Groups, which candle's
    /// config has not: [`Planned::of`].)
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

    /// From candle's own layer.
    ///
    /// # Errors
    /// As [`ConvTranspose2d::new`].
    pub fn from_candle(layer: &candle_nn::ConvTranspose2d) -> Result<Self> {
        Self::new(layer.weight(), layer.bias(), *layer.config())
    }
}

impl DeformConv2d {
    /// From a weight [C_out, C_in / groups, kh, kw] and perhaps a bias `[C_out]`.
    ///
    /// # Errors
    /// For shapes and attributes that do not fit one another.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, spec: DeformConv2dSpec) -> Result<Self> {
        Self::build(spec, weight, bias, None)
    }

    /// With offsets [N, 2 * offset_groups * kh * kw, H_out, W_out] and perhaps a mask [N,
    /// offset_groups * kh * kw, H_out, W_out], as torchvision's module; both in the dtype of x or
    /// in f32.
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
    /// Two layers as one: a depthwise convolution and the 1x1 convolution behind it, each with its
    /// bias and activation (and batch norm, where it has been absorbed). Where one launch is
    /// faster, what is between the two never leaves the multiprocessor.
    ///
    /// # Errors
    /// When the first is not depthwise, the second is not 1x1 with stride 1, or their channels do
    /// not fit.
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
    /// Bilinear, by a factor along both axes, as `torch.nn.Upsample(scale_factor=...,
    /// mode="bilinear")`.
    ///
    /// # Errors
    /// For a scale that is not positive and finite.
    pub fn new(scale: f64, align_corners: bool) -> Result<Self> {
        let size = UpsampleSize::Scale([scale; 2]);
        Ok(Self::of(crate::UpsampleBilinear::new(UpsampleBilinearSpec { size, align_corners })?))
    }
}

/// Modules that pool RoIs.
macro_rules! pools {
    ($($pool:ident),*) => {$(
        impl Planned<crate::$pool> {
            /// Pools regions [K, 5] of x: batch index, x1, y1, x2, y2, in any float dtype. On the
            /// CPU an index that is not of the batch is an error; on a GPU, where nobody reads it,
            /// such a RoI gives zeros.
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

/// A 1-D convolution over [N, C, L]: [`Conv2d`] on images of one row. Input that is a transposed
/// [N, L, C] is read as it lies.
#[derive(Debug, Clone)]
pub struct Conv1d(Conv2d);

impl Conv1d {
    /// From a weight [C_out, C_in / groups, k] and perhaps a bias `[C_out]`. `cudnn_fwd_algo` does
    /// not apply.
    ///
    /// # Errors
    /// For shapes and attributes that do not fit one another.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, config: Conv1dConfig) -> Result<Self> {
        let Conv1dConfig { padding, stride, dilation, groups, .. } = config;
        Self::build([padding; 2], stride, dilation, groups, weight, bias, None)
    }

    /// A causal convolution: position l of the output sees positions up to l of the input, and is
    /// as long. That is Mamba's and RWKV's with as many groups as channels, and needs no `narrow`
    /// behind it.
    ///
    /// # Errors
    /// As [`Conv1d::new`].
    pub fn causal(weight: &Tensor, bias: Option<&Tensor>, dilation: usize, groups: usize) -> Result<Self> {
        let before = weight.dim(2)?.saturating_sub(1).saturating_mul(dilation);
        Self::build([before, 0], 1, dilation, groups, weight, bias, None)
    }

    fn build(
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

    /// From candle's own layer.
    ///
    /// # Errors
    /// As [`Conv1d::new`].
    pub fn from_candle(layer: &candle_nn::Conv1d) -> Result<Self> {
        Self::new(layer.weight(), layer.bias(), *layer.config())
    }

    /// The layer that runs: on images of one row.
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

/// Builders of which candle has the like: parameters, their names and how new ones begin are
/// candle's.
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
    /// As [`candle_nn::conv2d`]: `weight` and `bias`.
    conv2d(Conv2dConfig) -> Conv2d = make_conv2d;
    /// As [`candle_nn::conv2d_no_bias`]: `weight`.
    conv2d_no_bias(Conv2dConfig) -> Conv2d = make_conv2d;
    /// As [`candle_nn::conv_transpose2d`]: `weight` and `bias`.
    conv_transpose2d(ConvTranspose2dConfig) -> ConvTranspose2d = make_conv_transpose2d;
    /// As [`candle_nn::conv_transpose2d_no_bias`]: `weight`.
    conv_transpose2d_no_bias(ConvTranspose2dConfig) -> ConvTranspose2d = make_conv_transpose2d;
}

/// A deformable convolution with torchvision's `weight` and `bias`, the bias where the
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

/// candle's convolution, with a bias where there is one.
fn like_conv2d(c_in: usize, c_out: usize, kernel: usize, config: Conv2dConfig, vb: VarBuilder<'_>) -> Result<candle_nn::Conv2d> {
    let build = if vb.contains_tensor("bias") { candle_nn::conv2d } else { candle_nn::conv2d_no_bias };
    build(c_in, c_out, kernel, config, vb)
}

/// A depthwise convolution `depthwise` with the config's stride, padding and dilation (its groups
/// are the channels) and the 1x1 convolution `pointwise` behind it, each with a `weight`, and with
/// a `bias` where the [`VarBuilder`] has one.
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
