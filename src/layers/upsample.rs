//! UpsampleBilinear: bilinear interpolation to another size.

use super::{Kind, Layer, LayerSpec, Named, Parameter, Plan, PlanRequest, Shapes, Signature, UpsampleBilinearSpec, UpsampleSize};
use crate::error::Result;
use crate::geometry::UpsampleGeometry;
use crate::kernels::upsample;
use crate::numerics::Contract;
use crate::{DType, Device, Element, Shape};

/// Bilinear interpolation to another size, as PyTorch's `interpolate(mode="bilinear")` without
/// antialiasing.
///
/// Output pixel p is at position `max((p + 0.5) * scale - 0.5, 0)` of the input, with scale = input
/// / output. If corners are aligned, it is at `p * (input - 1) / (output - 1)`. It is blended from
/// the pixels at floor and floor + 1 of that position (at most the last pixel), for rows and
/// columns alike. Positions, weights and the blending are f32; the result is rounded once.
///
/// In segmentation networks it follows dilated convolutions, in place of a transposed convolution.
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
    /// [`crate::Error::Attribute`] for an output size of 0, or a scale that is not positive and
    /// finite.
    pub fn new(spec: UpsampleBilinearSpec) -> Result<Self> {
        // The attributes alone can be checked with an input of any size.
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

    /// The layer's attributes.
    pub fn attributes(&self) -> &UpsampleBilinearSpec {
        &self.spec
    }

    /// The geometry of the layer on an input of shape `x`.
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

    /// The contract. Results are compared bit for bit if every weight is a multiple of 1/8, as with
    /// a scale of 2 or 4: a blend of multiples of 1/64 is then a multiple of 2^-12, which is exact.
    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let g = self.geometry(request.x)?;
        let half = if g.align_corners { 0.0 } else { 0.5 };
        let mut axes = g.output.into_iter().zip(g.scale);
        let eighths = |(size, scale): (usize, f32)| {
            // All positions are multiples if the first position and the step are.
            let (step, first) = (8.0 * scale, 8.0 * (scale * half - half));
            step.fract() == 0.0 && first.fract() == 0.0 && size < 1 << 20
        };
        // A blend rounds each of its products: a weight, and the weight times a pixel.
        Ok(Contract::new(dtype, 4).computed(2).exact(axes.all(eighths)))
    }
}
