//! The attributes of SubPixelConv2d.

use super::{ChannelOrder, Conv2dSpec, attributes};
use serde::{Deserialize, Serialize};

/// The attributes of a [`SubPixelConv2d`](crate::SubPixelConv2d): those of the convolution, r and
/// the order of the channels.
///
/// ```
/// use warpconv::SubPixelConv2dSpec;
/// let spec: SubPixelConv2dSpec = serde_json::from_str(r#"{"padding": 1, "r": 2, "mode": "crd"}"#).unwrap();
/// assert_eq!((spec.conv.stride, spec.factor), ([1, 1], 2));
/// assert!(serde_json::from_str::<SubPixelConv2dSpec>(r#"{"pad": 1, "r": 2}"#).is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubPixelConv2dSpec {
    /// The convolution.
    #[serde(flatten)]
    pub conv: Conv2dSpec,
    /// r: how many times larger height and width become, at least 1.
    #[serde(rename = "r", deserialize_with = "attributes::whole")]
    pub factor: usize,
    /// Which output channel of the convolution becomes which pixel.
    #[serde(rename = "mode", default)]
    pub order: ChannelOrder,
}
