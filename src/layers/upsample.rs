//! UpsampleBilinear: bilinear interpolation to another size.

use super::attributes::pair;
use super::{Kind, Layer, LayerSpec, Named, Parameter, Plan, PlanRequest, Shapes, Signature};
use crate::error::Result;
use crate::geometry::UpsampleGeometry;
use crate::kernels::upsample;
use crate::numerics::Contract;
use crate::{DType, Device, Element, Shape};
use serde::{Deserialize, Deserializer, Serialize};

/// How large the output of an [`UpsampleBilinear`] is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UpsampleSize {
    /// So many rows and columns.
    Output([usize; 2]),
    /// `floor(input * scale)` rows and columns. Positions are then computed with this scale, not with the ratio of the sizes, as
    /// in PyTorch.
    Scale([f64; 2]),
}

/// The attributes of an [`UpsampleBilinear`]. In JSON either `output_size` or `scale` is given, each as `[h, w]` or as one number.
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
    /// Whether the centres of the corner pixels of input and output coincide, instead of their outer corners.
    pub align_corners: bool,
}

/// The JSON form.
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

/// Bilinear interpolation to another size, as PyTorch's `interpolate(mode="bilinear")` without antialiasing.
///
/// Output pixel p lies at `max((p + 0.5) * scale - 0.5, 0)` of the input, with scale = input / output; or at
/// `p * (input - 1) / (output - 1)` where corners are aligned. It is blended from the neighbours floor and floor + 1 (at most the
/// last), row and column alike. Positions and weights are f32, and so is the blending; the result is rounded once.
///
/// After a dilated convolution it replaces a transposed one in segmentation networks.
///
/// Sources: PyTorch `torch.nn.functional.interpolate`; Chen et al., "Rethinking Atrous Convolution for Semantic Image
/// Segmentation", 2017, for its use.
///
/// ```
/// use warpconv::{Device, Inputs, Layer, Tensor, UpsampleBilinear, UpsampleBilinearSpec, UpsampleSize};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 1, 1, 2], &[0f32, 4.0])?;
/// let spec = UpsampleBilinearSpec { size: UpsampleSize::Output([1, 4]), align_corners: false };
/// assert_eq!(UpsampleBilinear::new(spec)?.forward(&Inputs::new(&x))?.to_vec()?, [0.0, 1.0, 3.0, 4.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpsampleBilinear {
    spec: UpsampleBilinearSpec,
}

impl UpsampleBilinear {
    /// A layer without parameters.
    ///
    /// # Errors
    /// [`crate::Error::Attribute`] for an output size of 0, or a scale that is not positive and finite.
    pub fn new(spec: UpsampleBilinearSpec) -> Result<Self> {
        // an input of any size shows what is wrong with the attributes alone
        if let UpsampleSize::Output(_) = spec.size {
            UpsampleGeometry::new(&spec, [0, 0, 1, 1])?;
        }
        if let UpsampleSize::Scale(scale) = spec.size
            && !scale.iter().all(|s| s.is_finite() && *s > 0.0)
        {
            let value = format!("{scale:?}");
            return Err(crate::Error::Attribute { name: "scale", value, requirement: "positive and finite" });
        }
        Ok(Self { spec })
    }

    /// Its attributes.
    pub fn attributes(&self) -> &UpsampleBilinearSpec {
        &self.spec
    }

    /// The geometry on an input of shape `x`.
    ///
    /// # Errors
    /// As [`UpsampleGeometry::new`].
    pub fn geometry(&self, x: Shape) -> Result<UpsampleGeometry> {
        UpsampleGeometry::new(&self.spec, x)
    }
}

impl Layer for UpsampleBilinear {
    fn spec(&self) -> LayerSpec {
        LayerSpec::UpsampleBilinear(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometry(request.x)?.output_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        upsample::plan(device, request, self.geometry(request.x)?)
    }
}

impl Kind for UpsampleBilinear {
    type Spec = UpsampleBilinearSpec;
    const SIGNATURE: Signature = Signature { parameters: &[], inputs: &["x"] };

    fn build(spec: UpsampleBilinearSpec, _: &mut Named) -> Result<Self> {
        Self::new(spec)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        vec![]
    }

    fn typical_parameters(_: &UpsampleBilinearSpec, _: Shape, _: Option<Shape>) -> Shapes {
        vec![]
    }

    /// Bit for bit where every weight is a multiple of 1/8, as with a scale of 2 or 4: the blend of multiples of 1/64 is then
    /// one of 2^-12.
    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let g = self.geometry(request.x)?;
        let half = if g.align_corners { 0.0 } else { 0.5 };
        let mut axes = g.output.into_iter().zip(g.scale);
        let eighths = |(size, scale): (usize, f32)| {
            // all positions are so if the first, and the step, are
            let (step, first) = (8.0 * scale, 8.0 * (scale * half - half));
            step.fract() == 0.0 && first.fract() == 0.0 && size < 1 << 20
        };
        // a blend rounds each of its products, a weight and the number that it is multiplied with
        Ok(Contract::new(dtype, 4).computed(2).exact(axes.all(eighths)))
    }
}
