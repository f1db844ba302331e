//! The attributes of PixelShuffle and PixelUnshuffle.

use super::attributes;
use serde::{Deserialize, Serialize};

/// The order of the C * r * r channels: the channel that holds the pixel in row i and column j of a
/// block of channel c.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// c * r * r + i * r + j: PyTorch's `PixelShuffle`; ONNX's `DepthToSpace` in mode CRD.
    #[default]
    Crd,
    /// (i * r + j) * C + c: TensorFlow's `depth_to_space`; ONNX's `DepthToSpace` in mode DCR.
    Dcr,
    /// (j * r + i) * C + c. For r = 2 these are the slices of YOLOv5's Focus in their order:
    /// `x[::2, ::2]`, `x[1::2, ::2]`, `x[::2, 1::2]`, `x[1::2, 1::2]`.
    Focus,
}

/// The attributes of a [`PixelShuffle`](crate::PixelShuffle) or a
/// [`PixelUnshuffle`](crate::PixelUnshuffle).
///
/// ```
/// use warpconv::{ChannelOrder, PixelShuffleSpec};
/// let spec: PixelShuffleSpec = serde_json::from_str(r#"{"r": 3, "mode": "dcr"}"#).unwrap();
/// assert_eq!(spec, PixelShuffleSpec { factor: 3, order: ChannelOrder::Dcr });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelShuffleSpec {
    /// r: how many times larger height and width become, at least 1.
    #[serde(rename = "r", deserialize_with = "attributes::whole")]
    pub factor: usize,
    /// The order of the channels.
    #[serde(rename = "mode", default)]
    pub order: ChannelOrder,
}
