//! Layers for [candle](https://docs.rs/candle-core): functions and modules shaped like candle's
//! own, over this crate's kernels.
//!
//! Tensors of the CPU run on the host device (feature `host`), which is there for tests and for
//! trying things out: candle's own CPU convolutions are faster. Tensors of a GPU (feature
//! `candle-cuda`) run where they are, on candle's own stream, without a copy and without waiting.
//!
//! ```
//! use candle_core::{Device, Module, Tensor};
//! use candle_nn::Conv2dConfig;
//! use warpconv::{Activation, candle};
//! # fn main() -> candle_core::Result<()> {
//! let x = Tensor::randn(0f32, 1.0, (1, 32, 14, 14), &Device::Cpu)?;
//! let w = Tensor::randn(0f32, 1.0, (64, 1, 3, 3), &Device::Cpu)?;
//!
//! // as `x.conv2d(&w, 1, 1, 1, 32)`, but one launch for all 32 groups
//! let y = candle::conv2d(&x, &w, None, 1, 1, 1, 32)?;
//! assert_eq!(y.dims(), [1, 64, 14, 14]);
//!
//! // a module plans once for each shape, and fuses bias, batch norm and nonlinearity
//! let config = Conv2dConfig { padding: 1, groups: 32, ..Default::default() };
//! let conv = candle::Conv2d::new(&w, None, config)?.with_activation(Activation::Silu)?;
//! assert_eq!(conv.forward(&x)?.dims(), y.dims());
//! # Ok(())
//! # }
//! ```
//!
//! # In a model
//!
//! [`nn`] has builders with the names, arguments and parameter names of candle-nn. A model that
//! says `use candle_nn::{Conv2d, conv2d_no_bias}` says `use warpconv::candle::nn::{Conv2d,
//! conv2d_no_bias}` instead. What differs:
//!
//! - `Conv2d::new` copies and checks the weights, and so returns a `Result`. Values that a `Var` gets later are not seen.
//! - Forward only: a gradient through one of these layers is an error of candle's, not a zero.
//! - The dtype is that of x (f32, f16 or bf16), whatever the weights were given in. Sums are f32, and a result is rounded once.
//!
//! Any layer of this crate becomes a module by [`Planned::of`], with weights by [`parameter`].
//!
//! # Memory formats
//!
//! A tensor that is channels_last by permutation (`x.permute((0, 3, 1, 2))` of `[N, H, W, C]`) is
//! read as it lies, and the result lies alike: a chain of such layers copies nothing. So is a
//! `narrow` along any axis, where what is left is aligned as well as a copy would be. All else is
//! copied first. The result is bit for bit that of a copy in the same format.
//!
//! # Functions or modules
//!
//! A function finds its layer, with packed weights and plans, again by the
//! [`TensorId`](candle_core::TensorId) of weight and bias: up to 128 layers, of which the one that
//! was used longest ago goes, and [`forget`] drops all. On the CPU the values are compared besides.
//! On a GPU they are not, which would wait for it: a weight that is overwritten in place there
//! needs [`forget`]; that of a `Var` is packed anew at each call. A weight that is computed for
//! each call is packed for each call. Modules do none of this.

#[cfg(feature = "candle-cuda")]
mod cuda;
mod functions;
pub mod nn;
mod plans;
mod views;

pub use functions::{
    causal_conv1d, conv_transpose2d, conv1d, conv2d, deform_conv2d, deform_roi_pool, forget, pixel_shuffle, pixel_unshuffle, ps_roi_pool,
    roi_align, roi_pool, upsample_bilinear, upsample_bilinear_with_scale,
};
pub use nn::{
    Conv1d, Conv2d, ConvTranspose2d, DeformConv2d, DeformRoiPool, DepthwiseSeparable, PixelShuffle, PixelUnshuffle, Planned, PsRoiPool,
    RoiAlign, RoiPool, Upsample,
};

use crate::{Error, Parameter};
use candle_core::{DType, Result, Tensor};

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        candle_core::Error::wrap(error)
    }
}

/// A copy of a tensor's values, as the weight or bias of a layer. Waits for the device that holds
/// it.
///
/// # Errors
/// For dtypes other than f64, f32, f16 and bf16; what reading the tensor returns.
pub fn parameter(tensor: &Tensor) -> Result<Parameter> {
    match tensor.dtype() {
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => {}
        other => return Err(candle_core::Error::UnsupportedDTypeForOp(other, "a weight").bt()),
    }
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(Parameter::from_values(tensor.dims(), values)?)
}
