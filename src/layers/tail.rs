//! The tail of a convolution: bias, slope and activation.

use super::{Activation, Named, Parameter, Shapes};
use crate::error::{Error, Result};
use crate::kernels::Epilogue;
use crate::numerics::Contract;

/// The tail `activation(z + bias + residual)` of a layer with `channels` output channels.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    op: &'static str,
    channels: usize,
    pub activation: Activation,
    pub bias: Option<Parameter>,
    pub slope: Option<Parameter>,
}

impl Tail {
    pub fn new(op: &'static str, channels: usize, activation: Activation) -> Self {
        Self { op, channels, activation, bias: None, slope: None }
    }

    /// # Errors
    /// [`Error::Rank`] or [`Error::Shape`].
    pub fn set_bias(&mut self, bias: Parameter) -> Result<()> {
        bias.check_vector("bias", self.channels, "one value for each output channel")?;
        self.bias = Some(bias);
        Ok(())
    }

    /// # Errors
    /// [`Error::UnexpectedTensor`] without a prelu; [`Error::Rank`] or [`Error::Shape`].
    pub fn set_slope(&mut self, slope: Parameter) -> Result<()> {
        if self.activation != Activation::Prelu {
            let known = format!("a slope with activation prelu only, not {}", self.activation.name());
            return Err(Error::UnexpectedTensor { op: self.op, name: "slope".into(), known });
        }
        slope.check_vector("slope", self.channels, "one value for each output channel")?;
        self.slope = Some(slope);
        Ok(())
    }

    /// Takes the parameters with the names `bias` and `slope`.
    pub fn take(&mut self, bias: &'static str, slope: &'static str, named: &mut Named) -> Result<()> {
        named.optional(bias).map_or(Ok(()), |bias| self.set_bias(bias))?;
        named.optional(slope).map_or(Ok(()), |slope| self.set_slope(slope))?;
        self.check_complete()
    }

    /// Refuses a prelu without its slope.
    pub fn check_complete(&self) -> Result<()> {
        if self.activation == Activation::Prelu && self.slope.is_none() {
            let name = "slope [C_out] for activation prelu".into();
            return Err(Error::MissingTensor { op: self.op, name, available: String::new() });
        }
        Ok(())
    }

    /// Bias and slope, as far as the layer has them.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, &Parameter)> {
        [("bias", &self.bias), ("slope", &self.slope)].into_iter().filter_map(|(name, parameter)| Some((name, parameter.as_ref()?)))
    }

    /// The shape of the slope, if a layer with this activation needs one.
    pub fn typical_parameters(activation: Activation, channels: usize) -> Shapes {
        if activation == Activation::Prelu { vec![("slope", vec![channels])] } else { vec![] }
    }

    /// The contract of a sum after the tail: with the activation's own error and slope.
    pub fn contract(&self, sum: Contract) -> Contract {
        sum.gain(self.gain()).activation(self.activation)
    }

    /// The steepest slope that the user has set, for [`Contract::gain`].
    pub fn gain(&self) -> f64 {
        let gain = match (self.activation, &self.slope) {
            (Activation::LeakyRelu { alpha }, _) => alpha.abs(),
            (Activation::Prelu, Some(slope)) => slope.values().iter().fold(0.0, |steepest: f32, s| steepest.max(s.abs())),
            _ => 1.0,
        };
        gain.into()
    }

    pub fn epilogue(&self) -> Epilogue<'_> {
        Epilogue { bias: self.bias.as_ref(), slope: self.slope.as_ref(), activation: self.activation, sub_pixel: None }
    }
}
