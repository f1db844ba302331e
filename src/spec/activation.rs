//! The nonlinearity at the end of a layer.

use serde::{Deserialize, Serialize};

/// y = activation(z), applied after bias and residual.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Activation {
    /// z
    #[default]
    None,
    /// max(z, 0)
    Relu,
    /// min(max(z, 0), 6)
    Relu6,
    /// z, or alpha * z where z < 0
    LeakyRelu {
        /// The slope below 0.
        alpha: f32,
    },
    /// z, or slope\[channel\] * z where z < 0. The layer takes the slope as a parameter of shape
    /// `[C_out]`.
    Prelu,
    /// 1 / (1 + exp(-z))
    Sigmoid,
    /// tanh(z)
    Tanh,
    /// z * sigmoid(z), also called swish
    Silu,
    /// z * Phi(z) with the exact normal distribution function (erf, not the tanh approximation)
    Gelu,
    /// z * clamp(z + 3, 0, 6) / 6
    Hardswish,
}

/// The activation's name in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ActivationName {
    #[default]
    None,
    Relu,
    Relu6,
    LeakyRelu,
    Prelu,
    Sigmoid,
    Tanh,
    Silu,
    Gelu,
    Hardswish,
}

/// PyTorch's default `negative_slope`.
const DEFAULT_ALPHA: f32 = 0.01;

impl Activation {
    /// Every activation, LeakyRelu with the given alpha.
    pub fn all(alpha: f32) -> [Activation; 10] {
        use Activation::*;
        [None, Relu, Relu6, LeakyRelu { alpha }, Prelu, Sigmoid, Tanh, Silu, Gelu, Hardswish]
    }

    /// The name in JSON: "none", "relu", "leaky_relu", ...
    pub fn name(self) -> &'static str {
        match self {
            Activation::None => "none",
            Activation::Relu => "relu",
            Activation::Relu6 => "relu6",
            Activation::LeakyRelu { .. } => "leaky_relu",
            Activation::Prelu => "prelu",
            Activation::Sigmoid => "sigmoid",
            Activation::Tanh => "tanh",
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::Hardswish => "hardswish",
        }
    }

    /// Whether sums that are exact in f32 are still exact after the activation (none and relu do
    /// this). Such results can be compared bit for bit.
    pub fn keeps_exactness(self) -> bool {
        matches!(self, Activation::None | Activation::Relu)
    }

    /// The activation that two attributes in JSON name. An alpha is refused unless it is for
    /// leaky_relu.
    pub(crate) fn from_parts(name: ActivationName, alpha: Option<f32>) -> Result<Self, String> {
        if alpha.is_some() && name != ActivationName::LeakyRelu {
            return Err(format!("alpha belongs to leaky_relu, but the activation is {name:?}").to_lowercase());
        }
        Ok(match name {
            ActivationName::None => Activation::None,
            ActivationName::Relu => Activation::Relu,
            ActivationName::Relu6 => Activation::Relu6,
            ActivationName::LeakyRelu => Activation::LeakyRelu { alpha: alpha.unwrap_or(DEFAULT_ALPHA) },
            ActivationName::Prelu => Activation::Prelu,
            ActivationName::Sigmoid => Activation::Sigmoid,
            ActivationName::Tanh => Activation::Tanh,
            ActivationName::Silu => Activation::Silu,
            ActivationName::Gelu => Activation::Gelu,
            ActivationName::Hardswish => Activation::Hardswish,
        })
    }

    pub(crate) fn into_parts(self) -> (ActivationName, Option<f32>) {
        match self {
            Activation::None => (ActivationName::None, None),
            Activation::Relu => (ActivationName::Relu, None),
            Activation::Relu6 => (ActivationName::Relu6, None),
            Activation::LeakyRelu { alpha } => (ActivationName::LeakyRelu, Some(alpha)),
            Activation::Prelu => (ActivationName::Prelu, None),
            Activation::Sigmoid => (ActivationName::Sigmoid, None),
            Activation::Tanh => (ActivationName::Tanh, None),
            Activation::Silu => (ActivationName::Silu, None),
            Activation::Gelu => (ActivationName::Gelu, None),
            Activation::Hardswish => (ActivationName::Hardswish, None),
        }
    }
}
