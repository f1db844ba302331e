//! The attributes of MaxPool2d, AvgPool2d and AdaptiveAvgPool2d.

use super::attributes::{pair, some_whole};
use serde::{Deserialize, Deserializer, Serialize};

fn ones() -> [usize; 2] {
    [1, 1]
}

fn yes() -> bool {
    true
}

fn some_pair<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[usize; 2]>, D::Error> {
    pair(deserializer).map(Some)
}

/// The attributes of a [`MaxPool2d`](crate::MaxPool2d). PyTorch's names, meanings and defaults.
///
/// ```
/// use warpconv::MaxPool2dSpec;
/// let spec: MaxPool2dSpec = serde_json::from_str(r#"{"kernel_size": 3, "stride": 2, "padding": 1}"#).unwrap();
/// assert_eq!(spec, MaxPool2dSpec { stride: Some([2, 2]), padding: [1, 1], ..MaxPool2dSpec::new([3, 3]) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxPool2dSpec {
    /// Height and width of a window.
    #[serde(deserialize_with = "pair")]
    pub kernel_size: [usize; 2],
    /// The distance of neighbouring windows; the kernel size by default.
    #[serde(default, deserialize_with = "some_pair", skip_serializing_if = "Option::is_none")]
    pub stride: Option<[usize; 2]>,
    /// Pixels of minus infinity above and below, left and right; at most half of the kernel size.
    #[serde(default, deserialize_with = "pair")]
    pub padding: [usize; 2],
    /// The distance of neighbouring pixels of a window; 1 by default.
    #[serde(default = "ones", deserialize_with = "pair")]
    pub dilation: [usize; 2],
    /// Whether a last window that reaches beyond the padded input counts, as long as it starts
    /// within the input or the padding before it.
    #[serde(default)]
    pub ceil_mode: bool,
}

impl MaxPool2dSpec {
    /// A spec of this kernel size, with defaults for all other attributes.
    pub fn new(kernel_size: [usize; 2]) -> Self {
        Self { kernel_size, stride: None, padding: [0, 0], dilation: ones(), ceil_mode: false }
    }
}

/// The attributes of an [`AvgPool2d`](crate::AvgPool2d). PyTorch's names, meanings and defaults.
///
/// ```
/// use warpconv::AvgPool2dSpec;
/// let spec: AvgPool2dSpec = serde_json::from_str(r#"{"kernel_size": [2, 3], "count_include_pad": false}"#).unwrap();
/// assert_eq!(spec, AvgPool2dSpec { count_include_pad: false, ..AvgPool2dSpec::new([2, 3]) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AvgPool2dSpec {
    /// Height and width of a window.
    #[serde(deserialize_with = "pair")]
    pub kernel_size: [usize; 2],
    /// The distance of neighbouring windows; the kernel size by default.
    #[serde(default, deserialize_with = "some_pair", skip_serializing_if = "Option::is_none")]
    pub stride: Option<[usize; 2]>,
    /// Zeros above and below, left and right; at most half of the kernel size.
    #[serde(default, deserialize_with = "pair")]
    pub padding: [usize; 2],
    /// Whether a last window that reaches beyond the padded input counts, as long as it starts
    /// within the input or the padding before it.
    #[serde(default)]
    pub ceil_mode: bool,
    /// Whether zeros of the padding count as pixels of a window. The default is true.
    #[serde(default = "yes")]
    pub count_include_pad: bool,
    /// The number by which the sums are divided, instead of the number of pixels.
    #[serde(default, deserialize_with = "some_whole", skip_serializing_if = "Option::is_none")]
    pub divisor_override: Option<usize>,
}

impl AvgPool2dSpec {
    /// A spec of this kernel size, with defaults for all other attributes.
    pub fn new(kernel_size: [usize; 2]) -> Self {
        Self { kernel_size, stride: None, padding: [0, 0], ceil_mode: false, count_include_pad: true, divisor_override: None }
    }
}

/// The attributes of an [`AdaptiveAvgPool2d`](crate::AdaptiveAvgPool2d).
///
/// ```
/// use warpconv::AdaptiveAvgPool2dSpec;
/// let spec: AdaptiveAvgPool2dSpec = serde_json::from_str(r#"{"output_size": 1}"#).unwrap();
/// assert_eq!(spec, AdaptiveAvgPool2dSpec { output_size: [1, 1] });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveAvgPool2dSpec {
    /// Height and width of the output. `[1, 1]` is the mean of the whole image.
    #[serde(deserialize_with = "pair")]
    pub output_size: [usize; 2],
}
