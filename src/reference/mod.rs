//! The oracle: every operation as the plainest possible loops, in f64.
//!
//! It answers what the result ought to be, for the tests, for [`crate::numerics`] and for whoever checks a kernel of their own. It
//! takes the specs as data and shares nothing else with layers, geometry or kernels: output sizes, padding and activations are
//! computed here once more, so that a mistake there is not repeated here. It runs on the CPU alone and is not fast.
//!
//! An [`Array`] has any shape and is row-major, so images are NCHW. To know what a kernel of some dtype should give, round the
//! operands to that dtype first ([`Array::rounded`]): the sums here are then those of the kernel without its rounding.
//!
//! NaN and infinity propagate as the definitions say, zero weights included (`0 * infinity` is NaN). The padding is no exception,
//! since it is no product: taps that lie in it are skipped, here and in the kernels, so that an infinite weight over the padding
//! leaves the sum as it is.
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
mod rearrange;
mod roi;

pub use activation::activate;
pub use array::Array;
pub use batch_norm::batch_norm;
pub use conv_transpose2d::{conv_transpose2d, conv_transpose2d_scale};
pub use conv2d::{conv2d, conv2d_scale};
pub use rearrange::{from_memory_order, to_memory_order};
pub use roi::{deform_roi_pool, deform_roi_pool_pack, ps_roi_pool, roi_align, roi_pool};

use crate::error::{Error, Result};
use crate::layers::LayerSpec;
use std::collections::BTreeMap;

/// The result of a layer of any kind and its scale, from its spec and its tensors by name, as [`LayerSpec::signature`] lists
/// them.
///
/// # Errors
/// [`Error::MissingTensor`] or [`Error::UnexpectedTensor`]; what the operation itself refuses.
pub fn layer(spec: &LayerSpec, tensors: &BTreeMap<String, Array>) -> Result<(Array, Array)> {
    let (op, signature) = (spec.op(), spec.signature());
    let known: Vec<&str> = signature.parameters.iter().chain(signature.inputs).copied().collect();
    if let Some(name) = tensors.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(Error::UnexpectedTensor { op, name: name.clone(), known: known.join(", ") });
    }
    let optional = |name: &str| tensors.get(name);
    let needed = |name: &str| optional(name).ok_or_else(|| Error::MissingTensor { op, name: name.into(), available: String::new() });
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
            let connected = |stage: &str| -> Vec<(&Array, Option<&Array>)> {
                let layer = |i| Some((optional(&format!("{stage}_fc{i}_weight"))?, optional(&format!("{stage}_fc{i}_bias"))));
                (1..=3).map_while(layer).collect()
            };
            let (x, rois) = (needed("x")?, needed("rois")?);
            needed("offset_fc1_weight")?;
            deform_roi_pool_pack(spec, x, rois, &connected("offset"), &connected("mask"))
        }
    }
}
