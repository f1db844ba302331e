//! The attributes of SpatiallySeparableConv2d.

use super::activation::ActivationName;
use super::{Activation, Padding, attributes};
use serde::{Deserialize, Serialize};

/// The attributes of a [`SpatiallySeparableConv2d`](crate::SpatiallySeparableConv2d): those of the convolution that its two stages replace.
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
    /// The step between outputs: of the vertical stage, and of the horizontal one; at least 1.
    pub stride: [usize; 2],
    /// Zeros around the input: those at the top and bottom for the vertical stage, those at the left and right for the result of
    /// it.
    pub padding: Padding,
    /// The distance of neighbouring taps: of the vertical stage, and of the horizontal one; at least 1.
    pub dilation: [usize; 2],
    /// Groups of channels in both stages: 1 is dense, C_in (with as many channels in the middle) applies to each channel on its
    /// own. Divides C_in, C_mid and C_out.
    pub groups: usize,
    /// The nonlinearity at the end. There is none in the middle.
    pub activation: Activation,
}

impl Default for SpatiallySeparableSpec {
    fn default() -> Self {
        Self { stride: [1, 1], padding: Padding::default(), dilation: [1, 1], groups: 1, activation: Activation::None }
    }
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Attributes {
    #[serde(deserialize_with = "attributes::pair")]
    stride: [usize; 2],
    padding: Padding,
    #[serde(deserialize_with = "attributes::pair")]
    dilation: [usize; 2],
    #[serde(deserialize_with = "attributes::whole")]
    groups: usize,
    activation: ActivationName,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpha: Option<f32>,
}

impl Default for Attributes {
    fn default() -> Self {
        SpatiallySeparableSpec::default().into()
    }
}

impl From<SpatiallySeparableSpec> for Attributes {
    fn from(spec: SpatiallySeparableSpec) -> Self {
        let SpatiallySeparableSpec { stride, padding, dilation, groups, .. } = spec;
        let (activation, alpha) = spec.activation.into_parts();
        Self { stride, padding, dilation, groups, activation, alpha }
    }
}

impl TryFrom<Attributes> for SpatiallySeparableSpec {
    type Error = String;
    fn try_from(a: Attributes) -> Result<Self, String> {
        let activation = Activation::from_parts(a.activation, a.alpha)?;
        Ok(Self { stride: a.stride, padding: a.padding, dilation: a.dilation, groups: a.groups, activation })
    }
}
