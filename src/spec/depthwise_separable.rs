//! The attributes of DepthwiseSeparableConv2d.

use super::{Activation, Padding, attributes, attributes::json_form};
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

json_form!(DepthwiseSeparableSpec {
    #[serde(deserialize_with = "attributes::pair")]
    stride: [usize; 2],
    padding: Padding,
    #[serde(deserialize_with = "attributes::pair")]
    dilation: [usize; 2],
    #[serde(deserialize_with = "attributes::some_whole", skip_serializing_if = "Option::is_none")]
    groups: Option<usize>,
} mid_activation with mid_alpha in "the middle", activation with alpha);
