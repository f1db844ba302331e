//! DeformConv2d: a convolution whose taps read the input at positions that an offset moves.

use super::{
    BatchNorm, DeformConv2dSpec, Kind, Layer, LayerSpec, Named, Parameter, Plan, PlanRequest, Shapes, Signature, Tail, Weighted,
    weight_and_tail,
};
use crate::error::Result;
use crate::geometry::DeformGeometry;
use crate::kernels::deform_conv2d;
use crate::numerics::Contract;
use crate::{DType, Device, Element, Shape};

/// Roundings in f32 that make one sample: the weights of its four corners, the products with them,
/// and the mask.
const SAMPLE_ROUNDINGS: usize = 9;

/// Deformable convolution: v1 and, with a mask, v2 (modulated):
///
/// `z[n,o,y,x] = sum over c,i,j of w[o,c,i,j] * mask * S(y*sh - top + i*dh + dy, x*sw - left + j*dw + dx)`,
/// `y = activation(z + bias[o] + residual[n,o,y,x])`.
///
/// S is channel c of the group, interpolated bilinearly between its pixels, and zero outside the
/// image. A position between the last pixel and the first one outside is a blend of that pixel and
/// zero. `dy`, `dx` and `mask` belong to output pixel (y, x), tap t = (i, j) and offset group q of
/// channel c:
///
/// | input of [`super::Inputs`] | shape | channels |
/// | --- | --- | --- |
/// | `x` | `[N, C_in, H, W]` | |
/// | `offset` | `[N, 2 * offset_groups * kh * kw, H_out, W_out]` | dy is `2 * (q * kh * kw + t)`, dx the next one, in pixels |
/// | `mask`, v2 only | `[N, offset_groups * kh * kw, H_out, W_out]` | `q * kh * kw + t` |
/// | `residual`, optional | `[N, C_out, H_out, W_out]` | |
///
/// Offset and mask may be in either format, and in the layer's dtype or in f32. Positions and
/// weights of the interpolation are f32; `mask * S` is rounded once to the dtype. Any offset is
/// safe: NaN, infinite and far offsets sample zero. A pixel whose weight is zero is not read, so an
/// infinite pixel next to a whole position does not spread (in torchvision the result is NaN). The
/// mask always multiplies: an infinite mask times a sample of zero is NaN.
///
/// The layer runs as one kernel without a workspace: samples go straight into the tiles that are
/// multiplied.
///
/// Sources: Dai et al., "Deformable Convolutional Networks", ICCV 2017; Zhu et al., "Deformable ConvNets v2: More Deformable,
/// Better Results", CVPR 2019; semantics of `torchvision.ops.deform_conv2d`.
///
/// ```
/// use warpconv::{DeformConv2d, DeformConv2dSpec, Device, Inputs, Layer, Parameter, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 1, 1, 3], &[1f32, 2., 4.])?;
/// let layer = DeformConv2d::new(DeformConv2dSpec::default(), Parameter::new(&[1, 1, 1, 1], &[10f32])?)?;
/// // every tap half a pixel to the right
/// let offset = Tensor::from_slice(&device, [1, 2, 1, 3], &[0f32, 0., 0., 0.5, 0.5, 0.5])?;
/// assert_eq!(layer.forward(&Inputs::new(&x).offset(&offset))?.to_vec()?, [15., 30., 20.]);
/// let mask = Tensor::from_slice(&device, [1, 1, 1, 3], &[1f32, 0.5, 0.])?;
/// assert_eq!(layer.forward(&Inputs::new(&x).offset(&offset).mask(&mask))?.to_vec()?, [15., 15., 0.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DeformConv2d {
    spec: DeformConv2dSpec,
    weighted: Weighted,
}

impl DeformConv2d {
    /// A deformable convolution with a weight [C_out, C_in / groups, kh, kw], without bias.
    ///
    /// # Errors
    /// [`crate::Error::Rank`], and what [`DeformGeometry::check_weight`] refuses. With prelu the layer
    /// needs [`DeformConv2d::with_slope`] before it can be planned.
    pub fn new(spec: DeformConv2dSpec, weight: Parameter) -> Result<Self> {
        let weighted = Weighted::new(weight, "[C_out, C_in / groups, kernel height, kernel width]", |shape| {
            DeformGeometry::check_weight(&spec, shape)?;
            Ok(Tail::new("deform_conv2d", shape[0], spec.activation))
        })?;
        Ok(Self { spec, weighted })
    }

    /// Folds a batch normalisation into weight and bias. The normalisation follows the layer and
    /// comes before the activation. The formula is that of [`crate::Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_batch_norm(mut self, norm: &BatchNorm) -> Result<Self> {
        let [c_out, group_in, kh, kw] = self.weighted.shape;
        let filter = group_in * kh * kw;
        self.weighted.fold(norm, c_out, |index| index / filter)?;
        Ok(self)
    }

    /// The geometry of the layer on an input of shape `x`, with the shapes of offset and mask.
    ///
    /// # Errors
    /// As [`DeformGeometry::new`].
    pub fn geometry(&self, x: Shape) -> Result<DeformGeometry> {
        DeformGeometry::new(&self.spec, x, self.weighted.shape)
    }
}

weight_and_tail!(DeformConv2d, DeformConv2dSpec, "[C_out, C_in / groups, kh, kw]");

impl Layer for DeformConv2d {
    fn forget_host_weights(&mut self) {
        self.weighted.weight.forget();
    }

    fn spec(&self) -> LayerSpec {
        LayerSpec::DeformConv2d(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometry(request.x)?.conv.output_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        self.weighted.tail.check_complete()?;
        let geometry = self.geometry(request.x)?;
        deform_conv2d::plan(device, request, geometry, self.weighted.conv(geometry.conv))
    }
}

impl Kind for DeformConv2d {
    type Spec = DeformConv2dSpec;
    const SIGNATURE: Signature = Signature { parameters: &["weight", "bias", "slope"], inputs: &["x", "offset", "mask", "residual"] };

    fn build(spec: DeformConv2dSpec, parameters: &mut Named) -> Result<Self> {
        let mut layer = DeformConv2d::new(spec, parameters.take("weight")?)?;
        layer.weighted.take_tail(parameters)?;
        Ok(layer)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        self.weighted.parameters()
    }

    fn typical_parameters(spec: &DeformConv2dSpec, x: Shape, weight: Option<Shape>) -> Shapes {
        Weighted::typical_parameters(spec.activation, spec.groups, x, weight, |weight| weight[0])
    }

    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        // Samples are rounded to T before they are multiplied. In f32 this rounding changes
        // nothing.
        let sum = Contract::new(dtype, self.geometry(request.x)?.conv.products()).rounded(usize::from(dtype != DType::F32));
        Ok(self.weighted.tail.contract(sum.computed(SAMPLE_ROUNDINGS)))
    }
}
