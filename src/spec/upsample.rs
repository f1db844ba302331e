//! The attributes of UpsampleBilinear.

use super::attributes::pair;
use serde::Deserializer;
use serde::{Deserialize, Serialize};

/// How large the output of an [`UpsampleBilinear`](crate::UpsampleBilinear) is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UpsampleSize {
    /// This number of rows and columns.
    Output([usize; 2]),
    /// `floor(input * scale)` rows and columns. Positions are then computed with this scale, not with the ratio of the sizes, as
    /// in PyTorch.
    Scale([f64; 2]),
}

/// The attributes of an [`UpsampleBilinear`](crate::UpsampleBilinear). In JSON either `output_size`
/// or `scale` is given, each as `[h, w]` or as one number.
///
/// ```
/// use warpconv::{UpsampleBilinearSpec, UpsampleSize};
/// let spec: UpsampleBilinearSpec = serde_json::from_str(r#"{"scale": 2, "align_corners": true}"#).unwrap();
/// assert_eq!(spec, UpsampleBilinearSpec { size: UpsampleSize::Scale([2.0, 2.0]), align_corners: true });
/// assert!(serde_json::from_str::<UpsampleBilinearSpec>(r#"{"scale": 2, "output_size": [8, 8]}"#).is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Attributes", into = "Attributes")]
pub struct UpsampleBilinearSpec {
    /// How large the output is.
    pub size: UpsampleSize,
    /// Whether the centres of the corner pixels of input and output coincide, instead of their
    /// outer corners.
    pub align_corners: bool,
}

/// The attributes as they are in JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Attributes {
    #[serde(deserialize_with = "some_pair", skip_serializing_if = "Option::is_none")]
    output_size: Option<[usize; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<Scale>,
    align_corners: bool,
}

fn some_pair<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[usize; 2]>, D::Error> {
    pair(deserializer).map(Some)
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged, expecting = "[vertical, horizontal] scale or one number for both")]
enum Scale {
    Both(f64),
    Each([f64; 2]),
}

impl From<UpsampleBilinearSpec> for Attributes {
    fn from(spec: UpsampleBilinearSpec) -> Self {
        let attributes = Self { align_corners: spec.align_corners, ..Default::default() };
        match spec.size {
            UpsampleSize::Output(size) => Self { output_size: Some(size), ..attributes },
            UpsampleSize::Scale(scale) => Self { scale: Some(Scale::Each(scale)), ..attributes },
        }
    }
}

impl TryFrom<Attributes> for UpsampleBilinearSpec {
    type Error = &'static str;
    fn try_from(a: Attributes) -> Result<Self, Self::Error> {
        let size = match (a.output_size, a.scale) {
            (Some(size), None) => UpsampleSize::Output(size),
            (None, Some(Scale::Both(scale))) => UpsampleSize::Scale([scale; 2]),
            (None, Some(Scale::Each(scale))) => UpsampleSize::Scale(scale),
            _ => return Err("exactly one of output_size and scale must be given"),
        };
        Ok(Self { size, align_corners: a.align_corners })
    }
}
