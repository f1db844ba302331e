//! The attributes of Conv2d.

use super::{Activation, Padding, attributes, attributes::json_form};
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

json_form!(Conv2dSpec {
    #[serde(deserialize_with = "attributes::pair")]
    stride: [usize; 2],
    padding: Padding,
    #[serde(deserialize_with = "attributes::pair")]
    dilation: [usize; 2],
    #[serde(deserialize_with = "attributes::whole")]
    groups: usize,
} activation with alpha);

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
