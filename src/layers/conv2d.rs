//! Conv2d: dense, 1x1, grouped, depthwise and dilated convolution.

use super::{
    BatchNorm, Conv2dSpec, Kind, Layer, LayerSpec, Named, Parameter, Plan, PlanRequest, Shapes, Signature, Tail, Weighted, weight_and_tail,
};
use crate::error::{Error, Result};
use crate::geometry::ConvGeometry;
use crate::kernels::launch::WeightedConv;
use crate::kernels::{Epilogue, conv2d};
use crate::numerics::Contract;
use crate::{DType, Device, Element, Shape, memory};
use std::ops::Range;

/// 2-D convolution (cross-correlation, as in PyTorch), followed by bias, residual and activation:
///
/// `z[n,o,y,x] = sum over c,i,j of w[o,c,i,j] * xpad[n, g(o)*C_in/groups + c, y*sh + i*dh, x*sw + j*dw]`,
/// `y = activation(z + bias[o] + residual[n,o,y,x])`, with group `g(o) = o / (C_out / groups)`.
///
/// | kind | how |
/// | --- | --- |
/// | dense | `groups: 1` |
/// | 1x1 | a weight [C_out, C_in, 1, 1] |
/// | grouped | any `groups` that divides C_in and C_out |
/// | depthwise | `groups: C_in`, weight [C_in * multiplier, 1, kh, kw] |
/// | dilated (atrous) | `dilation` above 1, each axis its own |
///
/// Sources: PyTorch `torch.nn.Conv2d`; Dumoulin and Visin, "A guide to convolution arithmetic for
/// deep learning", 2016.
///
/// ```
/// use warpconv::{Conv2d, Conv2dSpec, Device, Inputs, Layer, Parameter, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 1, 3, 3], &[1f32, 2., 3., 4., 5., 6., 7., 8., 9.])?;
/// let sum = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1, 1, 2, 2], &[1f32; 4])?)?;
/// assert_eq!(sum.forward(&Inputs::new(&x))?.to_vec()?, [12., 16., 24., 28.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Conv2d {
    spec: Conv2dSpec,
    weighted: Weighted,
}

/// Some of the groups of a [`Conv2d`], made by [`Conv2d::split_groups`].
#[derive(Debug, Clone)]
pub struct GroupPart {
    /// The convolution of these groups.
    pub layer: Conv2d,
    /// The channels of x that these groups read.
    pub input: Range<usize>,
    /// The channels of y that these groups write.
    pub output: Range<usize>,
}

impl Conv2d {
    /// A convolution with a weight [C_out, C_in / groups, kh, kw], without bias.
    ///
    /// # Errors
    /// [`Error::Rank`], and what [`Conv2dSpec::check_weight`] refuses. With prelu the layer needs
    /// [`Conv2d::with_slope`] before it can be planned.
    pub fn new(spec: Conv2dSpec, weight: Parameter) -> Result<Self> {
        Self::of_op("conv2d", spec, weight)
    }

    /// A convolution that is part of a layer of another kind. Errors name that kind.
    pub(crate) fn of_op(op: &'static str, spec: Conv2dSpec, weight: Parameter) -> Result<Self> {
        let weighted = Weighted::new(weight, "[C_out, C_in / groups, kernel height, kernel width]", |shape| {
            spec.check_weight(shape)?;
            Ok(Tail::new(op, shape[0], spec.activation))
        })?;
        Ok(Self { spec, weighted })
    }

    /// Folds a batch normalisation into weight and bias. The normalisation follows the convolution
    /// and comes before the activation. `w' = w * gamma / sqrt(variance + epsilon)`,
    /// `b' = (b - mean) * gamma / sqrt(variance + epsilon) + beta`, computed in f64 and rounded
    /// once to f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when a vector's length is not C_out; [`Error::Attribute`] for a variance + epsilon that is not
    /// positive; [`Error::Forgotten`].
    pub fn fold_batch_norm(mut self, norm: &BatchNorm) -> Result<Self> {
        let [c_out, group_in, kh, kw] = self.weighted.shape;
        let filter = group_in * kh * kw;
        self.weighted.fold(norm, c_out, |index| index / filter)?;
        Ok(self)
    }

    /// Splits the layer into `parts` layers that each have some of its groups, one for each of
    /// several devices. Part i reads the channels [`GroupPart::input`] of x and writes the channels
    /// [`GroupPart::output`] of y. Groups do not depend on one another, so the devices exchange
    /// nothing. (Krizhevsky, Sutskever and Hinton 2012 split AlexNet in this way.)
    ///
    /// # Errors
    /// [`Error::Attribute`] when there are not between 1 and as many parts as groups.
    pub fn split_groups(&self, parts: usize) -> Result<Vec<GroupPart>> {
        let groups = self.spec.groups;
        if parts == 0 || parts > groups {
            return Err(Error::Attribute { name: "parts", value: parts.to_string(), requirement: "1 to as many as there are groups" });
        }
        self.weight().check_kept("split_groups")?;
        let [c_out, group_in, kh, kw] = self.weighted.shape;
        let (group_out, filter) = (c_out / groups, group_in * kh * kw);
        let part = |index: usize| {
            // The split is as even as possible. Every group has a weight, so the products cannot
            // overflow.
            let own = index * groups / parts..(index + 1) * groups / parts;
            let (input, output) = (own.start * group_in..own.end * group_in, own.start * group_out..own.end * group_out);
            let weight = |all: &[f32]| memory::collect(all[output.start * filter..output.end * filter].iter().copied());
            let spec = Conv2dSpec { groups: own.len(), ..self.spec };
            let mut layer = Conv2d::new(spec, self.weight().derived(&[output.len(), group_in, kh, kw], weight)?)?;
            let vector = |whole: &Parameter| Parameter::vector(&whole.values()[output.clone()]);
            layer.weighted.tail.bias = self.bias().map(vector);
            layer.weighted.tail.slope = self.slope().map(vector);
            Ok(GroupPart { layer, input, output })
        };
        (0..parts).map(part).collect()
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.weighted.tail
    }

    /// What the choice of a kernel needs to know of this layer.
    pub(crate) fn weighted(&self, geometry: ConvGeometry) -> WeightedConv<'_> {
        self.weighted.conv(geometry)
    }

    /// The geometry of the convolution on an input of shape `x`.
    ///
    /// # Errors
    /// As [`ConvGeometry::conv2d`].
    pub fn geometry(&self, x: Shape) -> Result<ConvGeometry> {
        ConvGeometry::conv2d(&self.spec, x, self.weighted.shape)
    }

    pub(crate) fn weight_shape(&self) -> Shape {
        self.weighted.shape
    }

    /// Takes bias and slope from the named parameters, and refuses a prelu without a slope.
    pub(crate) fn take_tail(mut self, parameters: &mut Named) -> Result<Self> {
        self.weighted.take_tail(parameters)?;
        Ok(self)
    }

    pub(crate) fn check_complete(&self) -> Result<()> {
        self.weighted.tail.check_complete()
    }

    pub(crate) fn epilogue(&self) -> Epilogue<'_> {
        self.weighted.tail.epilogue()
    }
}

weight_and_tail!(Conv2d, Conv2dSpec, "[C_out, C_in / groups, kh, kw]");

impl Layer for Conv2d {
    fn forget_host_weights(&mut self) {
        self.weighted.weight.forget();
    }

    fn spec(&self) -> LayerSpec {
        LayerSpec::Conv2d(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometry(request.x)?.output_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        self.weighted.tail.check_complete()?;
        let geometry = self.geometry(request.x)?;
        conv2d::plan("conv2d", device, request, self.weighted(geometry))
    }
}

impl Kind for Conv2d {
    type Spec = Conv2dSpec;
    const SIGNATURE: Signature = Signature { parameters: &["weight", "bias", "slope"], inputs: &["x", "residual"] };

    fn build(spec: Conv2dSpec, parameters: &mut Named) -> Result<Self> {
        Conv2d::new(spec, parameters.take("weight")?)?.take_tail(parameters)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        self.weighted.parameters()
    }

    fn typical_parameters(spec: &Conv2dSpec, x: Shape, weight: Option<Shape>) -> Shapes {
        Weighted::typical_parameters(spec.activation, spec.groups, x, weight, |weight| weight[0])
    }

    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let contract = self.weighted.tail.contract(Contract::new(dtype, self.geometry(request.x)?.products()));
        Ok(contract.exact(self.spec.activation.keeps_exactness()))
    }
}
