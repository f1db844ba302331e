//! Batch normalisation, which is folded into the convolution before it.

use super::Parameter;
use crate::error::{Error, Result};
use crate::memory;

/// The statistics and affine parameters of a batch normalisation: one value of each for every
/// output channel of the layer before it.
///
/// A network for inference needs no layer for batch normalisation: `fold_batch_norm` of the layer
/// before it, such as [`Conv2d::fold_batch_norm`](crate::Conv2d::fold_batch_norm), changes weight
/// and bias instead.
/// [`Scope::batch_norm`](crate::io::Scope::batch_norm) reads one from a file by PyTorch's names.
///
/// Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
/// Internal Covariate Shift", 2015.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNorm {
    /// Scale (PyTorch's `weight`).
    pub gamma: Vec<f32>,
    /// Shift (PyTorch's `bias`).
    pub beta: Vec<f32>,
    /// Running mean (PyTorch's `running_mean`).
    pub mean: Vec<f32>,
    /// Running variance (PyTorch's `running_var`).
    pub variance: Vec<f32>,
    /// Epsilon, which is added to the variance: 1e-5 in PyTorch unless the model says otherwise.
    pub epsilon: f32,
}

impl BatchNorm {
    /// The weight and bias of one layer that does what the layer with `weight` and `bias` followed
    /// by this normalisation does: `w' = w * gamma / sqrt(variance + epsilon)`,
    /// `b' = (b - mean) * gamma / sqrt(variance + epsilon) + beta`. Both are computed in f64 and
    /// rounded once to f32. `channel_of` gives the output channel of each element of the weight.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is not one value for each of the output channels; [`Error::Attribute`] for a variance +
    /// epsilon that is not positive; [`Error::Forgotten`].
    pub(crate) fn fold(
        &self,
        weight: &Parameter,
        bias: Option<&Parameter>,
        channels: usize,
        channel_of: impl Fn(usize) -> usize,
    ) -> Result<(Parameter, Parameter)> {
        weight.check_kept("fold_batch_norm")?;
        let named = [("gamma", &self.gamma), ("beta", &self.beta), ("mean", &self.mean), ("variance", &self.variance)];
        for (name, values) in named {
            if values.len() != channels {
                let expected = format!("shape [{channels}]: one value for each output channel");
                return Err(Error::Shape { name, shape: vec![values.len()], expected });
            }
        }
        let mut scales = memory::filled(channels, 0f64)?;
        for (scale, (variance, gamma)) in scales.iter_mut().zip(self.variance.iter().zip(&self.gamma)) {
            let variance = f64::from(*variance) + f64::from(self.epsilon);
            if variance.is_nan() || variance <= 0.0 {
                return Err(Error::Attribute { name: "variance + epsilon", value: variance.to_string(), requirement: "positive" });
            }
            *scale = f64::from(*gamma) / variance.sqrt();
        }
        let scaled = |index: usize, w: f32| (f64::from(w) * scales[channel_of(index)]) as f32;
        let folded =
            weight.derived(weight.shape(), |values| memory::collect(values.iter().enumerate().map(|(index, &w)| scaled(index, w))))?;
        let shifted = (0..channels).map(|channel| {
            let before = bias.map_or(0.0, |bias| f64::from(bias.values()[channel]));
            ((before - f64::from(self.mean[channel])) * scales[channel] + f64::from(self.beta[channel])) as f32
        });
        Ok((folded, Parameter::vector(&memory::collect(shifted)?)))
    }
}
