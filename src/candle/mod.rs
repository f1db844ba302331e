//! Layers for [candle](https://docs.rs/candle-core): functions and modules shaped like candle's
//! own, over this crate's kernels.
//!
//! Tensors of the CPU are computed on the host device (feature `host`), which is meant for tests and
//! for trying things out: candle's own CPU convolutions are faster. Tensors of a GPU (feature
//! `candle-cuda`) are read and written in candle's memory and on candle's stream, without a copy and
//! without waiting.
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
//! - `Conv2d::new` copies and checks the weights, so that it returns a `Result`. If a `Var` is set later, the layer keeps
//!   the values that it had before.
//! - The layers have no backward pass: asking for a gradient through one is an error of candle's, not a zero.
//! - The dtype is that of x (f32, f16 or bf16), whatever the weights were given in. Sums are f32, and a result is rounded once.
//!
//! Any layer of this crate becomes a module by [`Planned::of`], with weights by [`parameter`].
//!
//! # Memory formats
//!
//! A tensor that is channels_last by permutation (`x.permute((0, 3, 1, 2))` of `[N, H, W, C]`) is
//! read in place, and the result is channels_last as well: a chain of such layers copies nothing. The
//! result of `narrow` along any axis is also read in place, if it is aligned as well as a copy would
//! be. All other views, such as those of `expand` and `broadcast_as`, are copied first. In every case
//! the result is bit for bit that of a copy in the same format.
//!
//! # Functions or modules
//!
//! A function looks its layer up, with packed weights and plans, by the
//! [`TensorId`](candle_core::TensorId) of weight and bias. Up to 128 layers are kept; the one that was
//! used longest ago goes first, and [`forget`] drops all of them. On the CPU, a function also compares
//! the values with those that it has packed. On a GPU it does not, since that would wait for the GPU:
//! call [`forget`] after overwriting a weight in place there. The weight of a `Var` on a GPU, and a
//! weight that the model computes anew for each call, are packed at each call. A module does none of
//! this, since it owns its weights.

#[cfg(feature = "candle-cuda")]
mod cuda;
mod functions;
pub mod nn;
mod plans;
mod views;

pub use functions::{
    causal_conv1d, conv_transpose1d, conv_transpose2d, conv1d, conv2d, deform_conv2d, deform_roi_pool, forget, pixel_shuffle,
    pixel_unshuffle, ps_roi_pool, roi_align, roi_pool, upsample_bilinear, upsample_bilinear_with_scale,
};
pub use nn::{
    Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, DeformConv2d, DeformRoiPool, DepthwiseSeparable, PixelShuffle, PixelUnshuffle,
    Planned, PsRoiPool, RoiAlign, RoiPool, Upsample,
};

use crate::{Error, Parameter};
use candle_core::{DType, Result, Tensor};

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        candle_core::Error::wrap(error)
    }
}

/// Copies a tensor's values, for use as the weight or bias of a layer. Waits for the tensor's device.
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
