//! The oracle: every operation as the plainest possible loops, in f64.
//!
//! The oracle says what a result ought to be: for the tests, for [`crate::numerics`], and for
//! anyone who checks a kernel of their own. It takes specs as data and computes output sizes,
//! padding and activations itself, so that a mistake in layers, geometry or kernels is not repeated
//! here. With those it shares only the count of a shape's elements. It runs on one core of the CPU
//! and is not fast.
//!
//! An [`Array`] has any shape and is row-major, so images are NCHW. To learn what a kernel of some
//! dtype should give, first round the operands to that dtype ([`Array::rounded`]): the sums here
//! are then those of the kernel without its rounding.
//!
//! NaN and infinity propagate as the definitions say, also through weights of zero (`0 * infinity`
//! is NaN). Padding makes no product: taps in the padding are left out, so an infinite weight over
//! the padding does not change the sum ([`crate::numerics`] requires the same of kernels).
//!
//! ```
//! use warpconv::Conv2dSpec;
//! use warpconv::reference::{Array, conv2d};
//! let x = Array::new([1, 1, 3, 3], (1..=9).map(f64::from).collect())?;
//! let weight = Array::new([1, 1, 2, 2], vec![1.0; 4])?;
//! let y = conv2d(&Conv2dSpec::default(), &x, &weight, None, None, None)?;
//! assert_eq!(y.shape(), [1, 1, 2, 2]);
//! assert_eq!(y.data(), [12.0, 16.0, 24.0, 28.0]);
//! # Ok::<(), warpconv::Error>(())
//! ```

mod activation;
mod array;
mod batch_norm;
mod conv2d;
mod conv_transpose2d;
mod deform_conv2d;
mod pixel_shuffle;
mod pool;
mod rearrange;
mod roi;
mod separable;
mod upsample;

pub use activation::activate;
pub use array::Array;
pub use batch_norm::batch_norm;
pub use conv_transpose2d::{conv_transpose2d, conv_transpose2d_scale};
pub use conv2d::{conv2d, conv2d_scale};
pub use deform_conv2d::{Deformed, InDtype, deform_conv2d, deform_conv2d_block, deform_conv2d_scale, deform_samples};
pub use pixel_shuffle::{focus, focus_scale, pixel_shuffle, pixel_unshuffle, sub_pixel_conv, sub_pixel_conv_scale};
pub use pool::{adaptive_avg_pool2d, avg_pool2d, max_pool2d};
pub use rearrange::{from_memory_order, to_memory_order};
pub use roi::{deform_roi_pool, deform_roi_pool_pack, ps_roi_pool, roi_align, roi_pool};
pub use separable::{
    DepthwiseSeparable, SpatiallySeparable, depthwise_separable, depthwise_separable_scale, spatially_separable, spatially_separable_scale,
};
pub use upsample::upsample_bilinear;

use crate::error::{Error, Result};
use crate::layers::{Activation, DeformConv2dBlockSpec, LayerSpec};
use std::collections::BTreeMap;

/// The result of a layer of any kind, and the scale of its rounding errors. The tensors have the
/// names that [`LayerSpec::signature`] lists.
///
/// # Errors
/// [`Error::MissingTensor`] or [`Error::UnexpectedTensor`]; what the operation itself refuses.
pub fn layer(spec: &LayerSpec, tensors: &BTreeMap<String, Array>) -> Result<(Array, Array)> {
    let (op, signature) = (spec.op(), spec.signature());
    let known: Vec<&str> = signature.parameters.iter().chain(signature.inputs).copied().collect();
    if let Some(name) = tensors.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(Error::UnexpectedTensor { op, name: name.clone(), known: known.join(", ") });
    }
    let given = Given { op, tensors };
    let (needed, optional) = (|name: &str| given.needed(name), |name: &str| given.optional(name));
    match spec {
        LayerSpec::Conv2d(spec) => {
            let (x, weight, bias, residual) = (needed("x")?, needed("weight")?, optional("bias"), optional("residual"));
            let y = conv2d(spec, x, weight, bias, optional("slope"), residual)?;
            Ok((y, conv2d_scale(spec, x, weight, bias, residual)?))
        }
        LayerSpec::ConvTranspose2d(spec) => {
            let (x, weight, bias, residual) = (needed("x")?, needed("weight")?, optional("bias"), optional("residual"));
            let y = conv_transpose2d(spec, x, weight, bias, optional("slope"), residual)?;
            Ok((y, conv_transpose2d_scale(spec, x, weight, bias, residual)?))
        }
        LayerSpec::PixelShuffle(spec) => {
            let y = pixel_shuffle(spec.factor, spec.order, needed("x")?)?;
            let scale = y.abs();
            Ok((y, scale))
        }
        LayerSpec::PixelUnshuffle(spec) => {
            let y = pixel_unshuffle(spec.factor, spec.order, needed("x")?)?;
            let scale = y.abs();
            Ok((y, scale))
        }
        LayerSpec::SubPixelConv2d(spec) => {
            let (x, weight, bias) = (needed("x")?, needed("weight")?, optional("bias"));
            let y = sub_pixel_conv(spec, x, weight, bias, optional("slope"))?;
            Ok((y, sub_pixel_conv_scale(spec, x, weight, bias)?))
        }
        LayerSpec::Focus(spec) => {
            let (x, weight, bias, residual) = (needed("x")?, needed("weight")?, optional("bias"), optional("residual"));
            let y = focus(spec, x, weight, bias, optional("slope"), residual)?;
            Ok((y, focus_scale(spec, x, weight, bias, residual)?))
        }
        LayerSpec::UpsampleBilinear(spec) => {
            let x = needed("x")?;
            Ok((upsample_bilinear(spec, x)?, upsample_bilinear(spec, &x.abs())?))
        }
        LayerSpec::MaxPool2d(spec) => {
            let y = max_pool2d(spec, needed("x")?)?;
            let scale = y.abs();
            Ok((y, scale))
        }
        LayerSpec::AvgPool2d(spec) => {
            let x = needed("x")?;
            Ok((avg_pool2d(spec, x)?, avg_pool2d(spec, &x.abs())?))
        }
        LayerSpec::AdaptiveAvgPool2d(spec) => {
            let x = needed("x")?;
            Ok((adaptive_avg_pool2d(spec, x)?, adaptive_avg_pool2d(spec, &x.abs())?))
        }
        LayerSpec::DepthwiseSeparableConv2d(spec) => {
            let tensors = given.depthwise_separable()?;
            Ok((depthwise_separable(spec, &tensors)?, depthwise_separable_scale(spec, &tensors)?))
        }
        LayerSpec::SpatiallySeparableConv2d(spec) => {
            let tensors = given.spatially_separable()?;
            Ok((spatially_separable(spec, &tensors)?, spatially_separable_scale(spec, &tensors)?))
        }
        LayerSpec::DeformConv2dBlock(spec) => {
            let (x, weight, bias, residual) = (needed("x")?, needed("weight")?, optional("bias"), optional("residual"));
            let (offset, mask) = given.predicted(spec)?;
            let input = Deformed { x, offset: &offset, mask: mask.as_ref() };
            let y = deform_conv2d(&spec.deform, &input, weight, bias, optional("slope"), residual)?;
            Ok((y, deform_conv2d_scale(&spec.deform, &input, weight, bias, residual)?))
        }
        LayerSpec::DeformConv2d(spec) => {
            let input = Deformed { x: needed("x")?, offset: needed("offset")?, mask: optional("mask") };
            let (weight, bias, residual) = (needed("weight")?, optional("bias"), optional("residual"));
            let y = deform_conv2d(spec, &input, weight, bias, optional("slope"), residual)?;
            Ok((y, deform_conv2d_scale(spec, &input, weight, bias, residual)?))
        }
        LayerSpec::RoiAlign(spec) => {
            let (x, rois) = (needed("x")?, needed("rois")?);
            Ok((roi_align(spec, x, rois)?, roi_align(spec, &x.abs(), rois)?))
        }
        LayerSpec::RoiPool(spec) => {
            let (x, rois) = (needed("x")?, needed("rois")?);
            Ok((roi_pool(spec, x, rois)?, roi_pool(spec, &x.abs(), rois)?))
        }
        LayerSpec::PsRoiPool(spec) => {
            let (x, rois) = (needed("x")?, needed("rois")?);
            Ok((ps_roi_pool(spec, x, rois)?, ps_roi_pool(spec, &x.abs(), rois)?))
        }
        LayerSpec::DeformRoiPool(spec) => {
            let (x, rois, offset, mask) = (needed("x")?, needed("rois")?, optional("offset"), optional("mask"));
            let scale = deform_roi_pool(spec, &x.abs(), rois, offset, mask.map(Array::abs).as_ref())?;
            Ok((deform_roi_pool(spec, x, rois, offset, mask)?, scale))
        }
        LayerSpec::DeformRoiPoolPack(spec) => {
            let (x, rois) = (needed("x")?, needed("rois")?);
            needed("offset_fc1_weight")?;
            deform_roi_pool_pack(spec, x, rois, &given.connected("offset"), &given.connected("mask"))
        }
    }
}

/// The tensors that a layer was given.
struct Given<'a> {
    op: &'static str,
    tensors: &'a BTreeMap<String, Array>,
}

impl<'a> Given<'a> {
    fn optional(&self, name: &str) -> Option<&'a Array> {
        self.tensors.get(name)
    }

    fn needed(&self, name: &str) -> Result<&'a Array> {
        let missing = || Error::MissingTensor { op: self.op, name: name.into(), available: String::new() };
        self.optional(name).ok_or_else(missing)
    }

    fn depthwise_separable(&self) -> Result<DepthwiseSeparable<'a>> {
        Ok(DepthwiseSeparable {
            x: self.needed("x")?,
            dw_weight: self.needed("dw_weight")?,
            dw_bias: self.optional("dw_bias"),
            mid_slope: self.optional("mid_slope"),
            pw_weight: self.needed("pw_weight")?,
            pw_bias: self.optional("pw_bias"),
            slope: self.optional("slope"),
            residual: self.optional("residual"),
        })
    }

    fn spatially_separable(&self) -> Result<SpatiallySeparable<'a>> {
        Ok(SpatiallySeparable {
            x: self.needed("x")?,
            col_weight: self.needed("col_weight")?,
            col_bias: self.optional("col_bias"),
            row_weight: self.needed("row_weight")?,
            row_bias: self.optional("row_bias"),
            slope: self.optional("slope"),
            residual: self.optional("residual"),
        })
    }

    /// The offset and the mask that the predictors of a deformable block make of x.
    fn predicted(&self, spec: &DeformConv2dBlockSpec) -> Result<(Array, Option<Array>)> {
        let [_, _, kh, kw] = self.needed("weight")?.dimensions("weight", "[C_out, C_in / groups, kh, kw]")?;
        let predict = |weight: &str, bias: &str, activation| {
            let weight = self.needed(weight)?;
            let [_, _, ph, pw] = weight.dimensions("a predictor's weight", "[channels, C_in, height, width]")?;
            conv2d(&spec.predictor([kh, kw], [ph, pw], activation)?, self.needed("x")?, weight, self.optional(bias), None, None)
        };
        let mask = || predict("mask_weight", "mask_bias", Activation::Sigmoid);
        Ok((predict("offset_weight", "offset_bias", Activation::None)?, spec.modulated.then(mask).transpose()?))
    }

    /// The weights and biases of a deformable pack's fully connected layers, of which `stage` says
    /// what they predict.
    fn connected(&self, stage: &str) -> Vec<(&'a Array, Option<&'a Array>)> {
        let layer = |i| Some((self.optional(&format!("{stage}_fc{i}_weight"))?, self.optional(&format!("{stage}_fc{i}_bias"))));
        (1..=3).map_while(layer).collect()
    }
}
