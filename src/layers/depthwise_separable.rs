//! DepthwiseSeparableConv2d: a depthwise convolution followed by a pointwise one.

use super::{
    Activation, BatchNorm, Conv2d, Conv2dSpec, DepthwiseSeparableSpec, Kind, Layer, LayerSpec, Named, Parameter, Plan, PlanRequest, Shapes,
    Signature, Tail,
};
use crate::error::{Error, Result};
use crate::geometry::{ConvGeometry, divisible, positive, rank4};
use crate::kernels::separable;
use crate::numerics::Contract;
use crate::{DType, Device, Element, Shape};

const OP: &str = "depthwise_separable";

impl DepthwiseSeparableSpec {
    /// The attributes of the two convolutions for weights of these shapes.
    fn stages(&self, dw_weight: Shape, pw_weight: Shape) -> Result<[Conv2dSpec; 2]> {
        let [outputs, inputs, ..] = dw_weight;
        let refuse = |name, shape: Shape, expected| Error::Shape { name, shape: shape.to_vec(), expected };
        if inputs != 1 {
            return Err(refuse("dw_weight", dw_weight, "1 input channel for each output, as a depthwise convolution has".into()));
        }
        if pw_weight[2..] != [1, 1] {
            return Err(refuse("pw_weight", pw_weight, "a kernel of 1x1".into()));
        }
        if pw_weight[1] != outputs {
            let expected = format!("{outputs} input channels, as the depthwise convolution has outputs ({dw_weight:?})");
            return Err(refuse("pw_weight", pw_weight, expected));
        }
        let groups = self.groups.unwrap_or(outputs);
        positive("groups", groups)?;
        divisible("the number of depthwise outputs", outputs, "groups", groups)?;
        let DepthwiseSeparableSpec { stride, padding, dilation, .. } = *self;
        let depthwise = Conv2dSpec { stride, padding, dilation, groups, activation: self.mid_activation };
        let pointwise = Conv2dSpec { activation: self.activation, ..Default::default() };
        depthwise.check_weight(dw_weight)?;
        pointwise.check_weight(pw_weight)?;
        Ok([depthwise, pointwise])
    }

    /// The geometries of the two convolutions on an input of shape `x` for weights of these shapes.
    ///
    /// # Errors
    /// What [`DepthwiseSeparableConv2d::new`] refuses, and as [`ConvGeometry::conv2d`].
    pub fn geometries(&self, x: Shape, dw_weight: Shape, pw_weight: Shape) -> Result<[ConvGeometry; 2]> {
        let [depthwise, pointwise] = self.stages(dw_weight, pw_weight)?;
        let depthwise = ConvGeometry::conv2d(&depthwise, x, dw_weight)?;
        Ok([depthwise, ConvGeometry::conv2d(&pointwise, depthwise.output_shape(), pw_weight)?])
    }
}

/// A depthwise convolution followed by a 1x1 (pointwise) one:
///
/// `mid[n,c,p,q] = mid_activation(dw_bias[c] + sum over i,j of dw_weight[c,i,j] * xpad[n, c / m, p*sh + i*dh, q*sw + j*dw])`,
/// `y[n,o,p,q] = activation(pw_bias[o] + residual[n,o,p,q] + sum over c of pw_weight[o,c] * mid[n,c,p,q])`.
///
/// `m` is the number of outputs of each input channel. Compared with a dense convolution of the
/// same size, the layer has `1 / C_out + 1 / (kh * kw)` of the parameters and products
/// ([`crate::analysis::Saving::depthwise_separable`]).
///
/// | form | attributes |
/// | --- | --- |
/// | MobileNetV1 | batch norm and relu (MobileNetV2 on: relu6) after both: `mid_activation`, `activation`, [`Self::fold_mid_batch_norm`], [`Self::fold_batch_norm`] |
/// | MobileNetV2, the end of a block | relu6 in the middle, nothing at the end, the block's input as the residual |
/// | Xception, keras `SeparableConv2D` | nothing in the middle, no `dw_bias`; `depth_multiplier` m: `groups` = C, `dw_weight` [C * m, 1, kh, kw] |
/// | MobileFaceNet | prelu in the middle: `mid_slope` |
///
/// keras stores `depthwise_kernel` [kh, kw, C, m] and `pointwise_kernel` [1, 1, C * m, C_out].
/// Depthwise output `c * m + i` of this crate is (c, i) there. So `dw_weight` is `depthwise_kernel`
/// with its axes in the order (2, 3, 0, 1), and `pw_weight` is `pointwise_kernel` with its axes in
/// the order (3, 2, 0, 1). TensorFlow's `same` with a stride above 1 puts the extra zero at the
/// bottom and right: write that padding as [`crate::Padding::Explicit`].
///
/// The layer runs as one launch, which keeps `mid` in shared memory, or as two, with `mid` in the
/// plan's workspace. The plan chooses by cost, and [`Plan::explain`] says why. Either way `mid` is
/// rounded once to the dtype. In f16 a value of `mid` beyond 65504 becomes infinite, and the
/// outputs that read it become infinite or NaN, even if the exact y is small. If that can happen,
/// plan for bf16 or f32. Alternatively, if `mid_activation` is linear on either side of 0 (as relu
/// is), divide `dw_weight` and `dw_bias` by a power of two and multiply `pw_weight` by it.
///
/// Sources: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017; Chollet,
/// "Xception: Deep Learning with Depthwise Separable Convolutions", 2017.
///
/// ```
/// use warpconv::{DepthwiseSeparableConv2d, DepthwiseSeparableSpec, Device, Inputs, Layer, Parameter, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 2, 1, 3], &[1f32, 2., 3., 10., 20., 30.])?;
/// let dw_weight = Parameter::new(&[2, 1, 1, 2], &[1f32, 1., -1., 1.])?; // a sum, a difference
/// let pw_weight = Parameter::new(&[1, 2, 1, 1], &[100f32, 1.])?;
/// let layer = DepthwiseSeparableConv2d::new(DepthwiseSeparableSpec::default(), dw_weight, pw_weight)?;
/// assert_eq!(layer.forward(&Inputs::new(&x))?.to_vec()?, [310., 510.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DepthwiseSeparableConv2d {
    spec: DepthwiseSeparableSpec,
    depthwise: Conv2d,
    pointwise: Conv2d,
}

impl DepthwiseSeparableConv2d {
    /// A layer with the weights [C * m, 1, kh, kw] and [C_out, C * m, 1, 1], without biases.
    ///
    /// # Errors
    /// [`Error::Rank`] or [`Error::Shape`] for weights that do not fit one another; [`Error::Divisibility`] when `groups` do not
    /// divide the depthwise outputs; what [`Conv2dSpec::check_weight`] refuses.
    pub fn new(spec: DepthwiseSeparableSpec, dw_weight: Parameter, pw_weight: Parameter) -> Result<Self> {
        let [depthwise, pointwise] = spec.stages(rank4("dw_weight", dw_weight.shape())?, rank4("pw_weight", pw_weight.shape())?)?;
        Ok(Self { spec, depthwise: Conv2d::new(depthwise, dw_weight)?, pointwise: Conv2d::new(pointwise, pw_weight)? })
    }

    /// Adds a bias of shape `[C * m]` to the depthwise convolution.
    ///
    /// # Errors
    /// [`Error::Rank`] or [`Error::Shape`].
    pub fn with_dw_bias(mut self, bias: Parameter) -> Result<Self> {
        bias.check_vector("dw_bias", self.depthwise.weight().shape()[0], "one value for each depthwise output")?;
        self.depthwise = self.depthwise.with_bias(bias)?;
        Ok(self)
    }

    /// Adds the slope `[C * m]` that [`Activation::Prelu`] as the middle activation needs.
    ///
    /// # Errors
    /// [`Error::UnexpectedTensor`] with another activation; [`Error::Rank`] or [`Error::Shape`].
    pub fn with_mid_slope(mut self, slope: Parameter) -> Result<Self> {
        self.check_slope("mid_slope", self.spec.mid_activation)?;
        slope.check_vector("mid_slope", self.depthwise.weight().shape()[0], "one value for each depthwise output")?;
        self.depthwise = self.depthwise.with_slope(slope)?;
        Ok(self)
    }

    /// Adds a bias of shape `[C_out]` to the pointwise convolution.
    ///
    /// # Errors
    /// [`Error::Rank`] or [`Error::Shape`].
    pub fn with_pw_bias(mut self, bias: Parameter) -> Result<Self> {
        bias.check_vector("pw_bias", self.pointwise.weight().shape()[0], "one value for each output channel")?;
        self.pointwise = self.pointwise.with_bias(bias)?;
        Ok(self)
    }

    /// Adds the slope `[C_out]` that [`Activation::Prelu`] as the last activation needs.
    ///
    /// # Errors
    /// [`Error::UnexpectedTensor`] with another activation; [`Error::Rank`] or [`Error::Shape`].
    pub fn with_slope(mut self, slope: Parameter) -> Result<Self> {
        self.check_slope("slope", self.spec.activation)?;
        self.pointwise = self.pointwise.with_slope(slope)?;
        Ok(self)
    }

    fn check_slope(&self, name: &'static str, activation: Activation) -> Result<()> {
        if activation != Activation::Prelu {
            let known = format!("a {name} with activation prelu only, not {}", activation.name());
            return Err(Error::UnexpectedTensor { op: OP, name: name.into(), known });
        }
        Ok(())
    }

    /// Folds a batch normalisation that stands between the depthwise convolution and its
    /// activation. The formula is that of [`Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_mid_batch_norm(mut self, norm: &BatchNorm) -> Result<Self> {
        self.depthwise = self.depthwise.fold_batch_norm(norm)?;
        Ok(self)
    }

    /// Folds a batch normalisation that stands between the pointwise convolution and its
    /// activation. The formula is that of [`Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_batch_norm(mut self, norm: &BatchNorm) -> Result<Self> {
        self.pointwise = self.pointwise.fold_batch_norm(norm)?;
        Ok(self)
    }

    /// The layer's attributes.
    pub fn attributes(&self) -> &DepthwiseSeparableSpec {
        &self.spec
    }

    /// The depthwise convolution, with the middle activation.
    pub fn depthwise(&self) -> &Conv2d {
        &self.depthwise
    }

    /// The pointwise convolution.
    pub fn pointwise(&self) -> &Conv2d {
        &self.pointwise
    }

    /// The geometries of the two convolutions on an input of shape `x`.
    ///
    /// # Errors
    /// As [`ConvGeometry::conv2d`].
    pub fn geometries(&self, x: Shape) -> Result<[ConvGeometry; 2]> {
        let depthwise = self.depthwise.geometry(x)?;
        Ok([depthwise, self.pointwise.geometry(depthwise.output_shape())?])
    }

    fn check_complete(&self) -> Result<()> {
        for (name, tail) in [("mid_slope [C * m]", self.depthwise.tail()), ("slope [C_out]", self.pointwise.tail())] {
            if tail.activation == Activation::Prelu && tail.slope.is_none() {
                return Err(Error::MissingTensor { op: OP, name: format!("{name} for activation prelu"), available: String::new() });
            }
        }
        Ok(())
    }
}

impl Layer for DepthwiseSeparableConv2d {
    fn forget_host_weights(&mut self) {
        self.depthwise.forget_host_weights();
        self.pointwise.forget_host_weights();
    }

    fn spec(&self) -> LayerSpec {
        LayerSpec::DepthwiseSeparableConv2d(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometries(request.x)?[1].output_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        self.check_complete()?;
        let [depthwise, pointwise] = self.geometries(request.x)?;
        separable::depthwise(OP, device, request, [self.depthwise.weighted(depthwise), self.pointwise.weighted(pointwise)])
    }
}

impl Kind for DepthwiseSeparableConv2d {
    type Spec = DepthwiseSeparableSpec;
    const SIGNATURE: Signature =
        Signature { parameters: &["dw_weight", "dw_bias", "mid_slope", "pw_weight", "pw_bias", "slope"], inputs: &["x", "residual"] };

    fn build(spec: DepthwiseSeparableSpec, parameters: &mut Named) -> Result<Self> {
        let mut layer = Self::new(spec, parameters.take("dw_weight")?, parameters.take("pw_weight")?)?;
        if let Some(bias) = parameters.optional("dw_bias") {
            layer = layer.with_dw_bias(bias)?;
        }
        if let Some(slope) = parameters.optional("mid_slope") {
            layer = layer.with_mid_slope(slope)?;
        }
        if let Some(bias) = parameters.optional("pw_bias") {
            layer = layer.with_pw_bias(bias)?;
        }
        if let Some(slope) = parameters.optional("slope") {
            layer = layer.with_slope(slope)?;
        }
        layer.check_complete()?;
        Ok(layer)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        let (depthwise, pointwise) = (self.depthwise.tail(), self.pointwise.tail());
        let optional =
            [("dw_bias", &depthwise.bias), ("mid_slope", &depthwise.slope), ("pw_bias", &pointwise.bias), ("slope", &pointwise.slope)];
        let weights = [("dw_weight", self.depthwise.weight()), ("pw_weight", self.pointwise.weight())];
        weights.into_iter().chain(optional.into_iter().filter_map(|(name, parameter)| Some((name, parameter.as_ref()?)))).collect()
    }

    /// Shapes of parameters. `weight` is the shape of the depthwise weight.
    fn typical_parameters(spec: &DepthwiseSeparableSpec, x: Shape, weight: Option<Shape>) -> Shapes {
        let dw_weight = weight.unwrap_or([x[1], 1, 3, 3]);
        let outputs = dw_weight[0];
        let mut shapes = vec![("dw_weight", dw_weight.to_vec()), ("pw_weight", vec![outputs, outputs, 1, 1])];
        if spec.mid_activation == Activation::Prelu {
            shapes.push(("mid_slope", vec![outputs]));
        }
        shapes.extend(Tail::typical_parameters(spec.activation, outputs));
        shapes
    }

    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let products = self.geometries(request.x)?.map(|geometry| geometry.products());
        let gain = self.depthwise.tail().gain().max(1.0) * self.pointwise.tail().gain().max(1.0);
        let sum = Contract::new(dtype, products[0] + products[1]).rounded(2).computed(products[0]);
        Ok(self.pointwise.tail().contract(sum).gain(gain))
    }
}
