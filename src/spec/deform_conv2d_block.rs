//! The attributes of DeformConv2dBlock.

use super::DeformConv2dSpec;
use serde::{Deserialize, Serialize};

/// The attributes of a [`DeformConv2dBlock`](crate::DeformConv2dBlock).
///
/// ```
/// use warpconv::{DeformConv2dBlockSpec, DeformConv2dSpec, Padding};
/// let spec: DeformConv2dBlockSpec = serde_json::from_str(r#"{"modulated": false, "deform": {"padding": 1}}"#).unwrap();
/// let deform = DeformConv2dSpec { padding: Padding::all(1), ..Default::default() };
/// assert_eq!(spec, DeformConv2dBlockSpec { modulated: false, deform });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeformConv2dBlockSpec {
    /// Whether the block also predicts a mask (deformable convolution v2); true by default.
    pub modulated: bool,
    /// The deformable convolution.
    pub deform: DeformConv2dSpec,
}

impl Default for DeformConv2dBlockSpec {
    fn default() -> Self {
        Self { modulated: true, deform: DeformConv2dSpec::default() }
    }
}
