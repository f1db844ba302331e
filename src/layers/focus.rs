//! Focus: a convolution of an input whose 2x2 blocks of pixels have become channels.

use super::{
    BatchNorm, ChannelOrder, Conv2d, FocusSpec, Kind, Layer, LayerSpec, Named, PAIR, Parameter, PixelShuffleSpec, PixelUnshuffle, Plan,
    PlanRequest, Shapes, Signature, Tail, pair,
};
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::kernels::launch::{WeightedConv, plan_among};
use crate::kernels::several::{Several, only};
use crate::kernels::{PackedWeights, conv2d};
use crate::numerics::Contract;
use crate::plan::Estimate;
use crate::{DType, Device, Element, Shape, memory};

const OP: &str = "focus";
/// The rearrangement of the input into slices.
const SLICES: PixelShuffleSpec = PixelShuffleSpec { factor: 2, order: ChannelOrder::Focus };

/// The stem of YOLOv5. The input has an even height and width. Its slices `x[::2, ::2]`,
/// `x[1::2, ::2]`, `x[::2, 1::2]`, `x[1::2, 1::2]` (row, column) become 4 * C channels, which a
/// [`Conv2d`] then reads.
///
/// Without dilation and groups the layer can run as one convolution of x itself, so that no slice
/// is written: filter tap (i, j) of slice (a, b) is tap (2i + a, 2j + b) of a filter of twice the
/// size, with twice the stride and padding. Every kernel of Conv2d applies to it. The layer can
/// also run as two launches: one writes the slices to the workspace, the other convolves them. With
/// dilation or groups that is the only way. The plan chooses by cost, and [`Plan::explain`] says
/// why.
///
/// Source: Jocher, "YOLOv5", 2020, `models/common.py`.
///
/// ```
/// use warpconv::{Device, Focus, FocusSpec, Inputs, Layer, Parameter, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 1, 2, 2], &[1f32, 2., 3., 4.])?;
/// let layer = Focus::new(FocusSpec::default(), Parameter::new(&[1, 4, 1, 1], &[1000f32, 100., 10., 1.])?)?;
/// assert_eq!(layer.forward(&Inputs::new(&x))?.to_vec()?, [1324.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Focus {
    spec: FocusSpec,
    conv: Conv2d,
    /// The weight [C_out, C, 2 kh, 2 kw] for a convolution of x itself, if there is one.
    fused: Option<Parameter>,
    packed: PackedWeights,
}

impl Focus {
    /// A layer with a weight [C_out, 4 * C / groups, kh, kw], without bias.
    ///
    /// # Errors
    /// As [`Conv2d::new`]; [`crate::Error::Divisibility`] when the weight's input channels are not
    /// divisible by 4.
    pub fn new(spec: FocusSpec, weight: Parameter) -> Result<Self> {
        Self::around(spec, Conv2d::of_op(OP, spec.conv, weight)?)
    }

    fn around(spec: FocusSpec, conv: Conv2d) -> Result<Self> {
        let input_channels = conv.weight().shape()[1].saturating_mul(spec.conv.groups);
        crate::geometry::divisible("the weight's C_in", input_channels, "the number of slices", 4)?;
        let fused = (spec.conv.dilation == [1, 1] && spec.conv.groups == 1).then(|| unsliced(conv.weight())).transpose()?;
        Ok(Self { spec, conv, fused, packed: PackedWeights::default() })
    }

    /// Adds a bias of shape `[C_out]`.
    ///
    /// # Errors
    /// As [`Conv2d::with_bias`].
    pub fn with_bias(self, bias: Parameter) -> Result<Self> {
        Ok(Self { conv: self.conv.with_bias(bias)?, packed: PackedWeights::default(), ..self })
    }

    /// Adds the slope `[C_out]` that [`crate::Activation::Prelu`] needs.
    ///
    /// # Errors
    /// As [`Conv2d::with_slope`].
    pub fn with_slope(self, slope: Parameter) -> Result<Self> {
        Ok(Self { conv: self.conv.with_slope(slope)?, packed: PackedWeights::default(), ..self })
    }

    /// Folds a batch normalisation into weight and bias. The normalisation follows the convolution
    /// and comes before the activation. The formula is that of [`Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_batch_norm(self, norm: &BatchNorm) -> Result<Self> {
        Self::around(self.spec, self.conv.fold_batch_norm(norm)?)
    }

    /// The layer's attributes.
    pub fn attributes(&self) -> &FocusSpec {
        &self.spec
    }

    /// The convolution as it would run on the slices.
    pub fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// The geometry of the convolution of the slices, for an input of shape `x`.
    ///
    /// # Errors
    /// As [`ConvGeometry::focus`].
    pub fn geometry(&self, x: Shape) -> Result<ConvGeometry> {
        ConvGeometry::focus(&self.spec, x, self.conv.weight_shape())
    }

    /// The requests for the launch that writes the slices and for the convolution that reads them.
    fn requests(&self, request: &PlanRequest, conv: &ConvGeometry) -> [PlanRequest; 2] {
        let slices = PlanRequest { kernel: None, y_format: request.x_format, ..request.clone() };
        let conv = PlanRequest { kernel: None, x: conv.input_shape(), ..request.clone() };
        [slices, conv]
    }

    /// The layer as two launches: slices, then convolution.
    fn pair<T: Element>(&self, device: &Device, request: &PlanRequest, geometry: &ConvGeometry) -> Result<Plan<T>> {
        let [slices, conv] = self.requests(request, geometry);
        let unshuffle = PixelUnshuffle::new(SLICES)?;
        pair(OP, request, unshuffle.plan::<T>(device, &slices)?, self.conv.plan::<T>(device, &conv)?)
    }

    /// The estimated time of the two launches.
    fn pair_time<T: Element>(&self, device: &Device, request: &PlanRequest, geometry: &ConvGeometry) -> Result<Estimate> {
        let [slices, conv] = self.requests(request, geometry);
        let unshuffle = PixelUnshuffle::new(SLICES)?;
        let finite = self.conv.weight().is_finite_in(T::DTYPE);
        Ok(unshuffle.time::<T>(device, &slices)? + conv2d::time::<T>(device, &conv, *geometry, finite)?)
    }
}

/// The weight for x itself: W'[o, c, 2i + a, 2j + b] = W[o, (2b + a) * C + c, i, j].
fn unsliced(weight: &Parameter) -> Result<Parameter> {
    let &[c_out, slices, kh, kw] = weight.shape() else { unreachable!("Conv2d has made sure of four dimensions") };
    let channels = slices / 4;
    weight.derived(&[c_out, channels, 2 * kh, 2 * kw], |sliced| {
        let mut values = memory::filled(sliced.len(), 0f32)?;
        for (index, &value) in sliced.iter().enumerate() {
            let (j, i, channel, o) = (index % kw, index / kw % kh, index / kw / kh % slices, index / kw / kh / slices);
            let (slice, c) = (channel / channels, channel % channels);
            let (row, column) = (2 * i + slice % 2, 2 * j + slice / 2);
            values[((o * channels + c) * 2 * kh + row) * 2 * kw + column] = value;
        }
        Ok(values)
    })
}

impl Layer for Focus {
    fn forget_host_weights(&mut self) {
        self.conv.forget_host_weights();
        self.fused.iter_mut().for_each(Parameter::forget);
    }

    fn spec(&self) -> LayerSpec {
        LayerSpec::Focus(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometry(request.x)?.output_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        self.conv.check_complete()?;
        let geometry = self.geometry(request.x)?;
        let Some(weight) = &self.fused else { return only(self.pair(device, request, &geometry)?) };
        let several = Several {
            name: PAIR,
            estimate: self.pair_time::<T>(device, request, &geometry).map_err(|error| error.to_string()),
            plan: Box::new(|| self.pair(device, request, &geometry)),
        };
        let conv = WeightedConv { geometry: geometry.focus_fused()?, weight, epilogue: self.conv.epilogue(), packed: &self.packed };
        plan_among(OP, &conv2d::families(), device, request, None, conv, Some(&several))
    }
}

impl Kind for Focus {
    type Spec = FocusSpec;
    const SIGNATURE: Signature = Conv2d::SIGNATURE;

    fn build(spec: FocusSpec, parameters: &mut Named) -> Result<Self> {
        let mut layer = Self::new(spec, parameters.take("weight")?)?;
        layer.conv = layer.conv.take_tail(parameters)?;
        Ok(layer)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        Kind::parameters(&self.conv)
    }

    fn typical_parameters(spec: &FocusSpec, x: Shape, weight: Option<Shape>) -> Shapes {
        let weight = weight.unwrap_or([x[1], x[1].saturating_mul(4) / spec.conv.groups.max(1), 3, 3]);
        let tail = Tail::typical_parameters(spec.conv.activation, weight[0]);
        [("weight", weight.to_vec())].into_iter().chain(tail).collect()
    }

    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let contract = self.conv.tail().contract(Contract::new(dtype, self.geometry(request.x)?.products()));
        Ok(contract.exact(self.spec.conv.activation.keeps_exactness()))
    }
}
