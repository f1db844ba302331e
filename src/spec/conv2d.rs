//! The attributes of Conv2d.

use super::activation::ActivationName;
use super::{Activation, Padding, attributes};
use crate::error::Result;
use crate::shape::{Shape, grouped, positive};
use serde::{Deserialize, Serialize};

/// The attributes of a [`Conv2d`](crate::Conv2d). PyTorch's semantics, with padding for each side.
///
/// ```
/// use warpconv::{Activation, Conv2dSpec, Padding};
/// let spec = Conv2dSpec { stride: [2, 2], padding: Padding::all(1), activation: Activation::Relu, ..Default::default() };
/// let json = serde_json::to_string(&spec).unwrap();
/// assert_eq!(json, r#"{"stride":[2,2],"padding":[1,1,1,1],"dilation":[1,1],"groups":1,"activation":"relu"}"#);
/// assert_eq!(serde_json::from_str::<Conv2dSpec>(&json).unwrap(), spec);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Attributes", into = "Attributes")]
pub struct Conv2dSpec {
    /// Vertical and horizontal step between outputs, at least 1.
    pub stride: [usize; 2],
    /// Zeros around the input.
    pub padding: Padding,
    /// Vertical and horizontal distance of neighbouring taps, at least 1.
    pub dilation: [usize; 2],
    /// Groups of channels, each convolved on its own: 1 is dense, C_in is depthwise. Divides C_in
    /// and C_out.
    pub groups: usize,
    /// The nonlinearity at the end.
    pub activation: Activation,
}

impl Default for Conv2dSpec {
    fn default() -> Self {
        Self { stride: [1, 1], padding: Padding::default(), dilation: [1, 1], groups: 1, activation: Activation::None }
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
    #[serde(deserialize_with = "attributes::whole")]
    groups: usize,
    activation: ActivationName,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpha: Option<f32>,
}

impl Default for Attributes {
    fn default() -> Self {
        Conv2dSpec::default().into()
    }
}

impl From<Conv2dSpec> for Attributes {
    fn from(spec: Conv2dSpec) -> Self {
        let (activation, alpha) = spec.activation.into_parts();
        Self { stride: spec.stride, padding: spec.padding, dilation: spec.dilation, groups: spec.groups, activation, alpha }
    }
}

impl TryFrom<Attributes> for Conv2dSpec {
    type Error = String;
    fn try_from(a: Attributes) -> Result<Self, String> {
        let activation = Activation::from_parts(a.activation, a.alpha)?;
        Ok(Self { stride: a.stride, padding: a.padding, dilation: a.dilation, groups: a.groups, activation })
    }
}

impl Conv2dSpec {
    /// Checks that these attributes can be applied with a weight [C_out, C_in / groups, kh, kw].
    ///
    /// # Errors
    /// [`crate::Error::Attribute`] for a stride, dilation or groups of 0, `same` with a stride above 1, or a weight without channels
    /// or taps; [`crate::Error::Divisibility`] when the groups do not divide C_out.
    pub fn check_weight(&self, weight: Shape) -> Result<()> {
        positive("stride", self.stride[0].min(self.stride[1]))?;
        positive("dilation", self.dilation[0].min(self.dilation[1]))?;
        positive("groups", self.groups)?;
        let [c_out, group_channels, kh, kw] = weight;
        positive("C_out", c_out)?;
        positive("C_in / groups", group_channels)?;
        positive("kernel height", kh)?;
        positive("kernel width", kw)?;
        let c_in = group_channels.checked_mul(self.groups).map_or(format!("{} * {group_channels}", self.groups), |c_in| c_in.to_string());
        grouped("C_out", c_out, self.groups, weight, &c_in, &c_out.to_string())?;
        self.padding.resolve([kh, kw], self.dilation, self.stride)?;
        Ok(())
    }
}
