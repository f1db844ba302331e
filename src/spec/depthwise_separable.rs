//! The attributes of DepthwiseSeparableConv2d.

use super::activation::ActivationName;
use super::{Activation, Padding, attributes};
use serde::{Deserialize, Serialize};

/// The attributes of a [`DepthwiseSeparableConv2d`](crate::DepthwiseSeparableConv2d). Stride,
/// padding and dilation are those of the depthwise convolution.
///
/// ```
/// use warpconv::{Activation, DepthwiseSeparableSpec, Padding};
/// let spec = DepthwiseSeparableSpec { padding: Padding::all(1), mid_activation: Activation::Relu6, ..Default::default() };
/// let json = serde_json::to_string(&spec).unwrap();
/// assert_eq!(json, r#"{"stride":[1,1],"padding":[1,1,1,1],"dilation":[1,1],"mid_activation":"relu6","activation":"none"}"#);
/// assert_eq!(serde_json::from_str::<DepthwiseSeparableSpec>(&json).unwrap(), spec);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Attributes", into = "Attributes")]
pub struct DepthwiseSeparableSpec {
    /// Vertical and horizontal step between outputs, at least 1.
    pub stride: [usize; 2],
    /// Zeros around the input.
    pub padding: Padding,
    /// Vertical and horizontal distance of neighbouring taps, at least 1.
    pub dilation: [usize; 2],
    /// The number of input channels, which PyTorch calls `groups` for a depthwise convolution.
    /// `None` means as many as the depthwise weight has outputs. A divisor of that number means
    /// several outputs for each channel (keras: `depth_multiplier`).
    pub groups: Option<usize>,
    /// The nonlinearity between the two convolutions.
    pub mid_activation: Activation,
    /// The nonlinearity at the end.
    pub activation: Activation,
}

impl Default for DepthwiseSeparableSpec {
    fn default() -> Self {
        Self {
            stride: [1, 1],
            padding: Padding::default(),
            dilation: [1, 1],
            groups: None,
            mid_activation: Activation::None,
            activation: Activation::None,
        }
    }
}

/// The attributes as they are in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Attributes {
    #[serde(deserialize_with = "attributes::pair")]
    stride: [usize; 2],
    padding: Padding,
    #[serde(deserialize_with = "attributes::pair")]
    dilation: [usize; 2],
    #[serde(deserialize_with = "attributes::some_whole", skip_serializing_if = "Option::is_none")]
    groups: Option<usize>,
    mid_activation: ActivationName,
    #[serde(skip_serializing_if = "Option::is_none")]
    mid_alpha: Option<f32>,
    activation: ActivationName,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpha: Option<f32>,
}

impl Default for Attributes {
    fn default() -> Self {
        DepthwiseSeparableSpec::default().into()
    }
}

impl From<DepthwiseSeparableSpec> for Attributes {
    fn from(spec: DepthwiseSeparableSpec) -> Self {
        let DepthwiseSeparableSpec { stride, padding, dilation, groups, .. } = spec;
        let (mid_activation, mid_alpha) = spec.mid_activation.into_parts();
        let (activation, alpha) = spec.activation.into_parts();
        Self { stride, padding, dilation, groups, mid_activation, mid_alpha, activation, alpha }
    }
}

impl TryFrom<Attributes> for DepthwiseSeparableSpec {
    type Error = String;
    fn try_from(a: Attributes) -> Result<Self, String> {
        let mid_activation = Activation::from_parts(a.mid_activation, a.mid_alpha).map_err(|e| format!("in the middle: {e}"))?;
        let activation = Activation::from_parts(a.activation, a.alpha)?;
        Ok(Self { stride: a.stride, padding: a.padding, dilation: a.dilation, groups: a.groups, mid_activation, activation })
    }
}
