//! DeformConv2dBlock: a deformable convolution that predicts its own offsets and mask.

use super::{
    Activation, BatchNorm, Conv2d, Conv2dSpec, DeformConv2d, DeformConv2dBlockSpec, DeformConv2dSpec, Explanation, Kind, Layer, LayerSpec,
    Named, Padding, Parameter, Plan, PlanRequest, Shapes, Signature,
};
use crate::error::{Error, Result};
use crate::geometry::{elements, kernel_span, rank4};
use crate::numerics::Contract;
use crate::plan::launches::{Last, Launches, Source};
use crate::{DType, Device, Element, Shape, memory};

const OP: &str = "deform_conv2d_block";

impl DeformConv2dBlockSpec {
    /// The attributes of a predictor with a kernel of size `predictor`, for a deformable
    /// convolution with a kernel of size `kernel`. Stride and dilation are those of the deformable
    /// convolution; the padding is such that both outputs have the same size.
    ///
    /// # Errors
    /// [`Error::Attribute`] when that padding would be negative, and what [`Padding::resolve`]
    /// refuses.
    pub fn predictor(&self, kernel: [usize; 2], predictor: [usize; 2], activation: Activation) -> Result<Conv2dSpec> {
        let DeformConv2dSpec { stride, padding, dilation, .. } = self.deform;
        let mut sides = padding.resolve(kernel, dilation, stride)?;
        for axis in 0..2 {
            let (own, other) = (kernel_span(kernel[axis], dilation[axis])?, kernel_span(predictor[axis], dilation[axis])?);
            // Half of the difference goes before, the rest after.
            let more = |zeros: usize, before: bool| {
                let grown = other.saturating_sub(own);
                let shrunk = own.saturating_sub(other);
                let grown = if before { grown / 2 } else { grown.div_ceil(2) };
                let shrunk = if before { shrunk.div_ceil(2) } else { shrunk / 2 };
                zeros.checked_add(grown)?.checked_sub(shrunk)
            };
            for (side, before) in [(axis, true), (axis + 2, false)] {
                sides[side] = more(sides[side], before).ok_or_else(|| Error::Attribute {
                    name: "the predictor's kernel",
                    value: format!("{predictor:?} beside {kernel:?} with padding {:?}", self.deform.padding),
                    requirement: "smaller than the deformable one's by no more than the padding can make up for",
                })?;
            }
        }
        Ok(Conv2dSpec { stride, padding: Padding::Explicit(sides), dilation, groups: 1, activation })
    }
}

/// A [`DeformConv2d`] as networks use it: a convolution of the same input predicts the offsets. In
/// v2 another convolution, followed by a sigmoid, predicts the mask.
///
/// `offset = conv(x, offset_weight) + offset_bias`, `mask = sigmoid(conv(x, mask_weight) + mask_bias)`,
/// `y = deform_conv2d(x, offset, mask)`.
///
/// The predictors have the stride and dilation of the deformable convolution. Their kernels may
/// have any size, and their padding is chosen so that the outputs have the same size. Predictors
/// start with weights of zero, as in the papers: all offsets are 0 and, in v2, the mask is 1/2.
/// Offsets and mask are rounded once to the layer's dtype and stored in the workspace. In f16 an
/// offset beyond 65504 pixels becomes infinite; it samples zero, as any offset far outside the
/// image does.
///
/// Sources: Dai et al., "Deformable Convolutional Networks", ICCV 2017; Zhu et al., "Deformable
/// ConvNets v2", CVPR 2019.
///
/// ```
/// use warpconv::{DeformConv2dBlock, DeformConv2dBlockSpec, Device, Inputs, Layer, MemoryFormat, Parameter, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 1, 1, 3], &[1f32, 2., 4.])?;
/// let block = DeformConv2dBlock::new(DeformConv2dBlockSpec::default(), Parameter::new(&[1, 1, 1, 1], &[2f32])?)?;
/// assert_eq!(block.forward(&Inputs::new(&x))?.to_vec()?, [1., 2., 4.]); // untrained: a convolution times 1/2
/// // (dy, dx) = (0, x / 2): the brighter, the further to the right
/// let block = block.with_offset_predictor(Parameter::new(&[2, 1, 1, 1], &[0., 0.5f32])?, None)?;
/// assert_eq!(block.forward(&Inputs::new(&x))?.to_vec()?, [1.5, 4., 0.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DeformConv2dBlock {
    spec: DeformConv2dBlockSpec,
    layers: Box<Layers>,
}

#[derive(Debug, Clone)]
struct Layers {
    deform: DeformConv2d,
    offset: Conv2d,
    mask: Option<Conv2d>,
}

impl DeformConv2dBlock {
    /// A block whose deformable convolution has a weight [C_out, C_in / groups, kh, kw]. Its
    /// predictors have kernels of that size, with weights of zero.
    ///
    /// # Errors
    /// As [`DeformConv2d::new`].
    pub fn new(spec: DeformConv2dBlockSpec, weight: Parameter) -> Result<Self> {
        Self::around(spec, DeformConv2d::new(spec.deform, weight)?)
    }

    fn around(spec: DeformConv2dBlockSpec, deform: DeformConv2d) -> Result<Self> {
        let [offset, mask] = predictor_shapes(&spec.deform, rank4("weight", deform.weight().shape())?)?;
        let zeros = |shape: Shape| {
            if deform.weight().is_outline() {
                return Parameter::outline(&shape);
            }
            Parameter::from_values(&shape, memory::filled(elements(&shape)?, 0f32)?)
        };
        let predict = |name, shape, activation| predictor(name, &spec, &deform, zeros(shape)?, None, shape[0], activation);
        let offset = predict("offset_weight", offset, Activation::None)?;
        let mask = spec.modulated.then(|| predict("mask_weight", mask, Activation::Sigmoid)).transpose()?;
        Ok(Self { spec, layers: Box::new(Layers { deform, offset, mask }) })
    }

    /// Adds a bias of shape `[C_out]`.
    ///
    /// # Errors
    /// [`Error::Rank`] or [`Error::Shape`].
    pub fn with_bias(mut self, bias: Parameter) -> Result<Self> {
        self.layers.deform = self.layers.deform.with_bias(bias)?;
        Ok(self)
    }

    /// Adds the slope `[C_out]` that [`Activation::Prelu`] needs.
    ///
    /// # Errors
    /// [`Error::UnexpectedTensor`] with another activation; [`Error::Rank`] or [`Error::Shape`].
    pub fn with_slope(mut self, slope: Parameter) -> Result<Self> {
        self.layers.deform = self.layers.deform.with_slope(slope)?;
        Ok(self)
    }

    /// Folds a batch normalisation into weight and bias of the deformable convolution; the
    /// predictors do not change. The normalisation follows the layer and comes before the
    /// activation. The formula is that of [`crate::Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_batch_norm(mut self, norm: &BatchNorm) -> Result<Self> {
        self.layers.deform = self.layers.deform.fold_batch_norm(norm)?;
        Ok(self)
    }

    /// Predicts the offsets with a weight [2 * offset_groups * kh * kw, C_in, any height, any
    /// width] and a bias with one value for each of these channels.
    ///
    /// # Errors
    /// [`Error::Rank`] or [`Error::Shape`]; as [`DeformConv2dBlockSpec::predictor`].
    pub fn with_offset_predictor(mut self, weight: Parameter, bias: Option<Parameter>) -> Result<Self> {
        let channels = self.layers.offset.weight().shape()[0];
        self.layers.offset = predictor("offset_weight", &self.spec, &self.layers.deform, weight, bias, channels, Activation::None)?;
        Ok(self)
    }

    /// Predicts the mask, before its sigmoid, with a weight [offset_groups * kh * kw, C_in, any
    /// height, any width] and a bias with one value for each of these channels.
    ///
    /// # Errors
    /// [`Error::UnexpectedTensor`] in v1; otherwise as
    /// [`DeformConv2dBlock::with_offset_predictor`].
    pub fn with_mask_predictor(mut self, weight: Parameter, bias: Option<Parameter>) -> Result<Self> {
        let channels = self.layers.mask.as_ref().map(|mask| mask.weight().shape()[0]);
        let channels = channels.ok_or_else(|| unexpected_mask("mask_weight"))?;
        self.layers.mask = Some(predictor("mask_weight", &self.spec, &self.layers.deform, weight, bias, channels, Activation::Sigmoid)?);
        Ok(self)
    }

    /// The deformable convolution.
    pub fn deform(&self) -> &DeformConv2d {
        &self.layers.deform
    }

    /// The predictor of the offsets.
    pub fn offset_predictor(&self) -> &Conv2d {
        &self.layers.offset
    }

    /// The predictor of the mask; none in v1.
    pub fn mask_predictor(&self) -> Option<&Conv2d> {
        self.layers.mask.as_ref()
    }
}

fn unexpected_mask(name: &str) -> Error {
    Error::UnexpectedTensor { op: OP, name: name.into(), known: "a predictor of the mask where it is modulated only".into() }
}

/// The shapes of the weights of the two predictors (offset, mask) whose kernels have the size of
/// the deformable convolution's.
fn predictor_shapes(spec: &DeformConv2dSpec, [_, group_channels, kh, kw]: Shape) -> Result<[Shape; 2]> {
    let sizes = [kh, kw, spec.offset_groups];
    let channels = sizes.iter().try_fold(2usize, |product, &size| product.checked_mul(size));
    let c_in = group_channels.checked_mul(spec.groups);
    let (channels, c_in) = channels.zip(c_in).ok_or_else(|| Error::Overflow {
        what: "the size of a predictor",
        values: format!("{kh} * {kw} taps, {} offset groups, {group_channels} channels in {} groups", spec.offset_groups, spec.groups),
    })?;
    Ok([channels, channels / 2].map(|channels| [channels, c_in, kh, kw]))
}

/// A convolution that predicts `channels` channels, with the output size of the deformable
/// convolution.
fn predictor(
    name: &'static str,
    spec: &DeformConv2dBlockSpec,
    deform: &DeformConv2d,
    weight: Parameter,
    bias: Option<Parameter>,
    channels: usize,
    activation: Activation,
) -> Result<Conv2d> {
    let [_, group_channels, kh, kw] = rank4("weight", deform.weight().shape())?;
    let shape = rank4(name, weight.shape())?;
    let c_in = group_channels * spec.deform.groups;
    if shape[..2] != [channels, c_in] {
        let expected = format!("shape [{channels}, {c_in}, any height, any width]");
        return Err(Error::Shape { name, shape: shape.to_vec(), expected });
    }
    let layer = Conv2d::new(spec.predictor([kh, kw], [shape[2], shape[3]], activation)?, weight)?;
    bias.map_or(Ok(layer.clone()), |bias| layer.with_bias(bias))
}

impl Layer for DeformConv2dBlock {
    fn spec(&self) -> LayerSpec {
        LayerSpec::DeformConv2dBlock(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        self.layers.deform.output_shape(request)
    }

    /// Plans the block. If the request names a kernel, it is for the deformable convolution.
    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        let deform = self.layers.deform.plan::<T>(device, request)?;
        let predict = PlanRequest { kernel: None, ..request.clone() }.format(request.x_format);
        let offset = self.layers.offset.plan::<T>(device, &predict)?;
        let mask = self.layers.mask.as_ref().map(|mask| mask.plan::<T>(device, &predict)).transpose()?;
        let mut launches = Launches::new();
        let mut predict = |plan: Plan<T>| Ok::<_, Error>((launches.push(plan, Source::Input)?, request.x_format));
        let (offset, mask) = (Some(predict(offset)?), mask.map(&mut predict).transpose()?);
        // The block's candidates are those of the deformable convolution; the predictors run before
        // any of them.
        let of_deform = deform.explanation.clone();
        let plan = launches.then(of_deform.kernel, OP, request, deform, Last { x: Source::Input, offset, mask })?;
        Ok(Plan { explanation: Explanation { stages: plan.explanation.stages, ..of_deform }, ..plan })
    }
}

impl Kind for DeformConv2dBlock {
    type Spec = DeformConv2dBlockSpec;
    const SIGNATURE: Signature = Signature {
        parameters: &["weight", "bias", "slope", "offset_weight", "offset_bias", "mask_weight", "mask_bias"],
        inputs: &["x", "residual"],
    };

    fn build(spec: DeformConv2dBlockSpec, parameters: &mut Named) -> Result<Self> {
        let mut block = Self::around(spec, DeformConv2d::build(spec.deform, parameters)?)?;
        for (is_mask, weight_name, bias_name) in [(false, "offset_weight", "offset_bias"), (true, "mask_weight", "mask_bias")] {
            let (weight, bias) = (parameters.optional(weight_name), parameters.optional(bias_name));
            block = match (weight, bias) {
                (None, None) => block,
                (Some(_), _) | (_, Some(_)) if is_mask && !spec.modulated => return Err(unexpected_mask(weight_name)),
                (Some(weight), bias) if is_mask => block.with_mask_predictor(weight, bias)?,
                (Some(weight), bias) => block.with_offset_predictor(weight, bias)?,
                (None, Some(_)) => {
                    return Err(Error::MissingTensor { op: OP, name: weight_name.into(), available: format!(" beside {bias_name}") });
                }
            };
        }
        Ok(block)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        let mut all = Kind::parameters(&self.layers.deform);
        let predictors = [
            Some((&self.layers.offset, "offset_weight", "offset_bias")),
            self.layers.mask.as_ref().map(|mask| (mask, "mask_weight", "mask_bias")),
        ];
        for (layer, weight, bias) in predictors.into_iter().flatten() {
            all.push((weight, layer.weight()));
            all.extend(layer.bias().map(|parameter| (bias, parameter)));
        }
        all
    }

    fn typical_parameters(spec: &DeformConv2dBlockSpec, x: Shape, weight: Option<Shape>) -> Shapes {
        let mut all = DeformConv2d::typical_parameters(&spec.deform, x, weight);
        let of = all.iter().find(|(name, _)| *name == "weight").and_then(|(_, shape)| Shape::try_from(shape.as_slice()).ok());
        if let Some([offset, mask]) = of.and_then(|weight| predictor_shapes(&spec.deform, weight).ok()) {
            all.push(("offset_weight", offset.to_vec()));
            all.extend(spec.modulated.then(|| ("mask_weight", mask.to_vec())));
        }
        all
    }

    /// The bound for the result on offsets and a mask that are rounded to the dtype.
    /// [`crate::reference::deform_conv2d_block`] says where the bound must be wider because an
    /// offset may be rounded either way.
    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        Kind::contract(&self.layers.deform, dtype, request)
    }
}
