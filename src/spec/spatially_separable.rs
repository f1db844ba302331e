//! The attributes of SpatiallySeparableConv2d.

use super::{Activation, Padding, attributes, attributes::json_form};
use serde::{Deserialize, Serialize};

/// The attributes of a [`SpatiallySeparableConv2d`](crate::SpatiallySeparableConv2d): those of the
/// convolution that its two stages replace.
///
/// ```
/// use warpconv::{Padding, SpatiallySeparableSpec};
/// let spec = SpatiallySeparableSpec { padding: Padding::all(1), ..Default::default() };
/// let json = serde_json::to_string(&spec).unwrap();
/// assert_eq!(json, r#"{"stride":[1,1],"padding":[1,1,1,1],"dilation":[1,1],"groups":1,"activation":"none"}"#);
/// assert_eq!(serde_json::from_str::<SpatiallySeparableSpec>(&json).unwrap(), spec);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Attributes", into = "Attributes")]
pub struct SpatiallySeparableSpec {
    /// The step between outputs: the first number for the vertical stage, the second for the
    /// horizontal one; at least 1.
    pub stride: [usize; 2],
    /// Zeros around the input. Those at the top and bottom pad the input of the vertical stage;
    /// those at the left and right pad its result.
    pub padding: Padding,
    /// The distance of neighbouring taps: the first number for the vertical stage, the second for
    /// the horizontal one; at least 1.
    pub dilation: [usize; 2],
    /// Groups of channels in both stages: 1 is dense. With C_in groups, and C_in channels in the
    /// middle, each channel is convolved on its own. Divides C_in, C_mid and C_out.
    pub groups: usize,
    /// The nonlinearity at the end. There is none between the stages.
    pub activation: Activation,
}

impl Default for SpatiallySeparableSpec {
    fn default() -> Self {
        Self { stride: [1, 1], padding: Padding::default(), dilation: [1, 1], groups: 1, activation: Activation::None }
    }
}

json_form!(SpatiallySeparableSpec {
    #[serde(deserialize_with = "attributes::pair")]
    stride: [usize; 2],
    padding: Padding,
    #[serde(deserialize_with = "attributes::pair")]
    dilation: [usize; 2],
    #[serde(deserialize_with = "attributes::whole")]
    groups: usize,
} activation with alpha);
