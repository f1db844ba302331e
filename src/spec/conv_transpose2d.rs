//! The attributes of ConvTranspose2d.

use super::{Activation, attributes, attributes::json_form};
use crate::error::{Error, Result};
use crate::shape::{Shape, grouped, positive};
use serde::{Deserialize, Serialize};

/// The attributes of a [`ConvTranspose2d`](crate::ConvTranspose2d). PyTorch's semantics, with
/// padding for each side.
///
/// ```
/// use warpconv::ConvTranspose2dSpec;
/// let spec = ConvTranspose2dSpec { stride: [2, 2], padding: [1; 4], output_padding: [1, 1], ..Default::default() };
/// let json = serde_json::to_string(&spec).unwrap();
/// assert!(json.starts_with(r#"{"stride":[2,2],"padding":[1,1,1,1],"output_padding":[1,1],"dilation":[1,1],"groups":1"#));
/// assert_eq!(serde_json::from_str::<ConvTranspose2dSpec>(r#"{"stride": 2, "padding": 1, "output_padding": 1}"#).unwrap(), spec);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Attributes", into = "Attributes")]
pub struct ConvTranspose2dSpec {
    /// Vertical and horizontal distance, in outputs, of the places to which neighbouring inputs
    /// contribute; at least 1.
    pub stride: [usize; 2],
    /// Rows and columns that are cut off the result at the top, left, bottom and right. They are
    /// the padding of the convolution of which this is the transpose.
    pub padding: [usize; 4],
    /// Rows added at the bottom and columns added at the right, below stride or dilation. A strided
    /// convolution maps several input sizes to one output size; this number tells which of them the
    /// result has. Outputs that no tap reaches are bias and residual alone.
    pub output_padding: [usize; 2],
    /// Vertical and horizontal distance of neighbouring taps, at least 1.
    pub dilation: [usize; 2],
    /// Groups of channels, each convolved on its own. Divides C_in.
    pub groups: usize,
    /// The nonlinearity at the end.
    pub activation: Activation,
}

impl Default for ConvTranspose2dSpec {
    fn default() -> Self {
        let activation = Activation::None;
        Self { stride: [1, 1], padding: [0; 4], output_padding: [0, 0], dilation: [1, 1], groups: 1, activation }
    }
}

json_form!(ConvTranspose2dSpec {
    #[serde(deserialize_with = "attributes::pair")]
    stride: [usize; 2],
    #[serde(deserialize_with = "attributes::explicit_padding")]
    padding: [usize; 4],
    #[serde(deserialize_with = "attributes::pair")]
    output_padding: [usize; 2],
    #[serde(deserialize_with = "attributes::pair")]
    dilation: [usize; 2],
    #[serde(deserialize_with = "attributes::whole")]
    groups: usize,
} activation with alpha);

impl ConvTranspose2dSpec {
    /// Checks that these attributes can be applied with a weight [C_in, C_out / groups, kh, kw].
    ///
    /// # Errors
    /// [`Error::Attribute`] for a stride, dilation or groups of 0, an output_padding that is not below stride or dilation, or a
    /// weight without channels or taps; [`Error::Divisibility`] when the groups do not divide C_in.
    pub fn check_weight(&self, weight: Shape) -> Result<()> {
        positive("stride", self.stride[0].min(self.stride[1]))?;
        positive("dilation", self.dilation[0].min(self.dilation[1]))?;
        positive("groups", self.groups)?;
        for axis in 0..2 {
            if self.output_padding[axis] >= self.stride[axis].max(self.dilation[axis]) {
                let value = format!("{:?} with stride {:?} and dilation {:?}", self.output_padding, self.stride, self.dilation);
                let requirement = "below the stride or the dilation of its axis";
                return Err(Error::Attribute { name: "output_padding", value, requirement });
            }
        }
        let [c_in, group_out, kh, kw] = weight;
        positive("C_in", c_in)?;
        positive("C_out / groups", group_out)?;
        positive("kernel height", kh)?;
        positive("kernel width", kw)?;
        let c_out = group_out.checked_mul(self.groups).map_or(format!("{} * {group_out}", self.groups), |c_out| c_out.to_string());
        grouped("C_in", c_in, self.groups, weight, &c_in.to_string(), &c_out)
    }
}
