//! SubPixelConv2d: a convolution followed by PixelShuffle.

use super::{
    BatchNorm, ChannelOrder, Conv2d, Kind, Layer, LayerSpec, Named, PAIR, Parameter, PixelShuffle, PixelShuffleSpec, Plan, PlanRequest,
    Shapes, Signature, SubPixelConv2dSpec, Tail, pair,
};
use crate::error::{Error, Result};
use crate::geometry::{BlockGeometry, ConvGeometry, divisible, positive};
use crate::kernels::launch::{WeightedConv, plan_among};
use crate::kernels::several::{Several, only};
use crate::kernels::{Epilogue, PackedWeights, SubPixel, conv2d, sub_pixel};
use crate::numerics::Contract;
use crate::plan::Estimate;
use crate::{DType, Device, Element, Shape};

const OP: &str = "sub_pixel_conv";

/// Sub-pixel convolution: `y = PixelShuffle(Conv2d(x))`. It upsamples with learned filters, one
/// filter for each pixel of an r x r block. Bias and slope have one value for each channel of the
/// convolution.
///
/// As one launch, the convolution's store shuffles, so that each byte of y is written once and
/// nothing else is written. Weight, bias and slope are packed in such an order that neighbouring
/// channels of the convolution are neighbouring channels of y. The layer can also run as two
/// launches: a convolution into the workspace, and a launch that shuffles. The plan chooses by
/// cost, and [`Plan::explain`] says why.
///
/// Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
/// Network", 2016.
///
/// ```
/// use warpconv::{ChannelOrder, Conv2dSpec, Device, Inputs, Layer, Parameter, SubPixelConv2d, SubPixelConv2dSpec, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 1, 1, 2], &[1f32, 2.])?;
/// let spec = SubPixelConv2dSpec { conv: Conv2dSpec::default(), factor: 2, order: ChannelOrder::Crd };
/// let layer = SubPixelConv2d::new(spec, Parameter::new(&[4, 1, 1, 1], &[1f32, 10., 100., 1000.])?)?;
/// assert_eq!(layer.forward(&Inputs::new(&x))?.to_vec()?, [1., 10., 2., 20., 100., 1000., 200., 2000.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SubPixelConv2d {
    spec: SubPixelConv2dSpec,
    conv: Conv2d,
    /// How the store shuffles when the layer runs as one launch. `None` if groups and channel order
    /// do not allow that.
    fused: Option<SubPixel>,
    packed: PackedWeights,
}

impl SubPixelConv2d {
    /// A convolution with a weight [C * r * r, C_in / groups, kh, kw], without bias.
    ///
    /// # Errors
    /// As [`Conv2d::new`]; [`crate::Error::Attribute`] for a factor of 0; [`crate::Error::Divisibility`] when r * r does not divide
    /// the output channels.
    pub fn new(spec: SubPixelConv2dSpec, weight: Parameter) -> Result<Self> {
        let conv = Conv2d::of_op(OP, spec.conv, weight)?;
        positive("r", spec.factor)?;
        let (c_out, squares) = (conv.weight().shape()[0], spec.factor.saturating_mul(spec.factor));
        divisible("C_out", c_out, "r * r", squares)?;
        let (channels, groups) = (c_out / squares, spec.conv.groups);
        // The channels of a group must stay together.
        let run = match spec.order {
            ChannelOrder::Dcr => Some(channels),
            ChannelOrder::Crd if channels.is_multiple_of(groups) => Some(channels / groups),
            ChannelOrder::Crd => Some(1),
            ChannelOrder::Focus => (groups == 1).then_some(channels),
        };
        let fused = run.map(|run| SubPixel { run, factor: spec.factor, order: spec.order });
        Ok(Self { spec, conv, fused, packed: PackedWeights::default() })
    }

    /// Adds a bias of shape `[C * r * r]`.
    ///
    /// # Errors
    /// As [`Conv2d::with_bias`].
    pub fn with_bias(self, bias: Parameter) -> Result<Self> {
        Ok(Self { conv: self.conv.with_bias(bias)?, packed: PackedWeights::default(), ..self })
    }

    /// Adds the slope `[C * r * r]` that [`crate::Activation::Prelu`] needs.
    ///
    /// # Errors
    /// As [`Conv2d::with_slope`].
    pub fn with_slope(self, slope: Parameter) -> Result<Self> {
        Ok(Self { conv: self.conv.with_slope(slope)?, packed: PackedWeights::default(), ..self })
    }

    /// Folds a batch normalisation of C * r * r channels, which stands between the convolution and
    /// the shuffle, into weight and bias. The formula is that of [`Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_batch_norm(self, norm: &BatchNorm) -> Result<Self> {
        Ok(Self { conv: self.conv.fold_batch_norm(norm)?, packed: PackedWeights::default(), ..self })
    }

    /// Folds a batch normalisation of C channels, which stands between the shuffle and the
    /// activation, into weight and bias. Each channel of the convolution takes the values of the
    /// channel of y that it becomes. The formula is that of [`Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_shuffled_batch_norm(self, norm: &BatchNorm) -> Result<Self> {
        let squares = self.spec.factor * self.spec.factor;
        let all = self.conv.weight().shape()[0];
        let channels = all / squares;
        let spread = |name, values: &[f32]| {
            if values.len() != channels {
                let expected = format!("shape [{channels}]: one value for each channel behind the shuffle");
                return Err(Error::Shape { name, shape: vec![values.len()], expected });
            }
            crate::memory::collect((0..all).map(|channel| {
                values[match self.spec.order {
                    ChannelOrder::Crd => channel / squares,
                    ChannelOrder::Dcr | ChannelOrder::Focus => channel % channels,
                }]
            }))
        };
        let norm = BatchNorm {
            gamma: spread("gamma", &norm.gamma)?,
            beta: spread("beta", &norm.beta)?,
            mean: spread("mean", &norm.mean)?,
            variance: spread("variance", &norm.variance)?,
            epsilon: norm.epsilon,
        };
        self.fold_batch_norm(&norm)
    }

    /// The layer's attributes.
    pub fn attributes(&self) -> &SubPixelConv2dSpec {
        &self.spec
    }

    /// The convolution as it would run without the shuffle.
    pub fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// The geometry of the convolution and that of the shuffle, on an input of shape `x`.
    ///
    /// # Errors
    /// As [`Conv2d::geometry`]; [`crate::Error::Overflow`].
    pub fn geometry(&self, x: Shape) -> Result<(ConvGeometry, BlockGeometry)> {
        let conv = self.conv.geometry(x)?;
        Ok((conv, BlockGeometry::deep(conv.output_shape(), self.spec.factor)?))
    }

    /// The requests for the convolution and for the launch that shuffles its result.
    fn requests(&self, request: &PlanRequest, conv: &ConvGeometry) -> [PlanRequest; 2] {
        let shuffle = PlanRequest { kernel: None, x: conv.output_shape(), ..request.clone() };
        [PlanRequest { kernel: None, y_format: request.x_format, ..request.clone() }, shuffle]
    }

    fn shuffle(&self) -> Result<PixelShuffle> {
        PixelShuffle::new(PixelShuffleSpec { factor: self.spec.factor, order: self.spec.order })
    }

    /// The layer as two launches: convolution, then shuffle.
    fn pair<T: Element>(&self, device: &Device, request: &PlanRequest, geometry: &ConvGeometry) -> Result<Plan<T>> {
        let [conv, shuffle] = self.requests(request, geometry);
        pair(OP, request, self.conv.plan::<T>(device, &conv)?, self.shuffle()?.plan::<T>(device, &shuffle)?)
    }

    /// The estimated time of the two launches.
    fn pair_time<T: Element>(&self, device: &Device, request: &PlanRequest, geometry: &ConvGeometry) -> Result<Estimate> {
        let [conv, shuffle] = self.requests(request, geometry);
        let finite = self.conv.weight().is_finite_in(T::DTYPE);
        Ok(conv2d::time::<T>(device, &conv, *geometry, finite)? + self.shuffle()?.time::<T>(device, &shuffle)?)
    }
}

impl Layer for SubPixelConv2d {
    fn forget_host_weights(&mut self) {
        self.conv.forget_host_weights();
    }

    fn spec(&self) -> LayerSpec {
        LayerSpec::SubPixelConv2d(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometry(request.x)?.1.wide_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        self.conv.check_complete()?;
        let (geometry, _) = self.geometry(request.x)?;
        let Some(sub_pixel) = &self.fused else { return only(self.pair(device, request, &geometry)?) };
        let several = Several {
            name: PAIR,
            estimate: self.pair_time::<T>(device, request, &geometry).map_err(|error| error.to_string()),
            plan: Box::new(|| self.pair(device, request, &geometry)),
        };
        // The epilogue's channels are in the order that the store expects; the weight's order is
        // canonical.
        let vector = |parameter: Option<&Parameter>| parameter.map(|p| sub_pixel.permuted(p)).transpose();
        let (bias, slope) = (vector(self.conv.bias())?, vector(self.conv.slope())?);
        let (activation, sub_pixel) = (self.spec.conv.activation, Some(*sub_pixel));
        let epilogue = Epilogue { bias: bias.as_ref(), slope: slope.as_ref(), activation, sub_pixel };
        let conv = WeightedConv { geometry, weight: self.conv.weight(), epilogue, packed: &self.packed };
        plan_among(OP, &sub_pixel::families(), device, request, None, conv, Some(&several))
    }
}

impl Kind for SubPixelConv2d {
    type Spec = SubPixelConv2dSpec;
    const SIGNATURE: Signature = Signature { parameters: &["weight", "bias", "slope"], inputs: &["x"] };

    fn build(spec: SubPixelConv2dSpec, parameters: &mut Named) -> Result<Self> {
        let mut layer = Self::new(spec, parameters.take("weight")?)?;
        layer.conv = layer.conv.take_tail(parameters)?;
        Ok(layer)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        Kind::parameters(&self.conv)
    }

    fn typical_parameters(spec: &SubPixelConv2dSpec, x: Shape, weight: Option<Shape>) -> Shapes {
        let c_out = x[1].saturating_mul(spec.factor.saturating_mul(spec.factor));
        let weight = weight.unwrap_or([c_out, x[1] / spec.conv.groups.max(1), 3, 3]);
        let tail = Tail::typical_parameters(spec.conv.activation, weight[0]);
        [("weight", weight.to_vec())].into_iter().chain(tail).collect()
    }

    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        Kind::contract(&self.conv, dtype, request)
    }
}
