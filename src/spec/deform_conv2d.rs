//! The attributes of DeformConv2d.

use super::{Activation, Conv2dSpec, Padding, attributes, attributes::json_form};
use serde::{Deserialize, Serialize};

/// The attributes of a [`DeformConv2d`](crate::DeformConv2d): those of [`Conv2dSpec`] and the
/// groups of channels that share their offsets.
///
/// ```
/// use warpconv::{DeformConv2dSpec, Padding};
/// let spec = DeformConv2dSpec { padding: Padding::all(1), offset_groups: 4, ..Default::default() };
/// let json = serde_json::to_string(&spec).unwrap();
/// assert_eq!(json, r#"{"stride":[1,1],"padding":[1,1,1,1],"dilation":[1,1],"groups":1,"offset_groups":4,"activation":"none"}"#);
/// assert_eq!(serde_json::from_str::<DeformConv2dSpec>(&json).unwrap(), spec);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Attributes", into = "Attributes")]
pub struct DeformConv2dSpec {
    /// Vertical and horizontal step between outputs, at least 1.
    pub stride: [usize; 2],
    /// Zeros around the input. The taps' places are counted from the padded corner.
    pub padding: Padding,
    /// Vertical and horizontal distance of neighbouring taps before they are moved, at least 1.
    pub dilation: [usize; 2],
    /// Groups of channels, each convolved on its own. Divides C_in and C_out.
    pub groups: usize,
    /// Groups of input channels, each with its own offsets and mask. Divides C_in.
    pub offset_groups: usize,
    /// The nonlinearity at the end.
    pub activation: Activation,
}

impl Default for DeformConv2dSpec {
    fn default() -> Self {
        Conv2dSpec::default().into()
    }
}

/// A deformable convolution with one offset group.
impl From<Conv2dSpec> for DeformConv2dSpec {
    fn from(spec: Conv2dSpec) -> Self {
        let Conv2dSpec { stride, padding, dilation, groups, activation } = spec;
        Self { stride, padding, dilation, groups, offset_groups: 1, activation }
    }
}

json_form!(DeformConv2dSpec {
    #[serde(deserialize_with = "attributes::pair")]
    stride: [usize; 2],
    padding: Padding,
    #[serde(deserialize_with = "attributes::pair")]
    dilation: [usize; 2],
    #[serde(deserialize_with = "attributes::whole")]
    groups: usize,
    #[serde(deserialize_with = "attributes::whole")]
    offset_groups: usize,
} activation with alpha);

impl DeformConv2dSpec {
    /// The ordinary convolution that this layer is when all offsets are zero.
    pub fn conv2d(&self) -> Conv2dSpec {
        let Self { stride, padding, dilation, groups, activation, .. } = *self;
        Conv2dSpec { stride, padding, dilation, groups, activation }
    }
}
