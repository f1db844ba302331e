//! DeformRoiPoolPack: deformable RoI pooling that predicts its own offsets.

use super::any::Shapes;
use super::{Activation, Conv2d, Conv2dSpec, DeformRoiPoolSpec, Kind, Layer, LayerSpec, Named, Parameter, Plan, PlanRequest, Signature};
use crate::error::{Error, Result};
use crate::geometry::{RoiGeometry, elements};
use crate::kernels::{roi_pool, several};
use crate::numerics::Contract;
use crate::plan::launches::{Last, Launches, PACK, Source};
use crate::{DType, Device, Element, MemoryFormat, Shape};

const OP: &str = "deform_roi_pool_pack";

/// A fully connected layer: `y = W x + b`.
#[derive(Debug, Clone)]
pub struct FullyConnected {
    /// The weight [outputs, inputs], or the same as a 1x1 filter [outputs, inputs, 1, 1].
    pub weight: Parameter,
    /// The bias `[outputs]`.
    pub bias: Option<Parameter>,
}

/// Fully connected layers in sequence, with a relu after each but the last. They run as 1x1
/// convolutions of K images of one pixel.
#[derive(Debug, Clone)]
struct Chain(Vec<Conv2d>);

impl Chain {
    /// A chain with the activation `last` after its last layer.
    fn new(layers: Vec<FullyConnected>, last: Activation) -> Result<Self> {
        let count = layers.len();
        let convolution = |(index, FullyConnected { weight, bias }): (usize, FullyConnected)| {
            let (outputs, inputs) = match *weight.shape() {
                [outputs, inputs] | [outputs, inputs, 1, 1] => (outputs, inputs),
                _ => {
                    let meaning = "[outputs, inputs], or 4 as a 1x1 filter: [outputs, inputs, 1, 1]";
                    let (name, shape) = ("a fully connected weight", weight.shape().to_vec());
                    return Err(Error::Rank { name, shape, expected: 2, meaning });
                }
            };
            let activation = if index + 1 == count { last } else { Activation::Relu };
            let filter = weight.reshaped(&[outputs, inputs, 1, 1])?;
            let layer = Conv2d::new(Conv2dSpec { activation, ..Default::default() }, filter)?;
            bias.map_or(Ok(layer.clone()), |bias| layer.with_bias(bias))
        };
        layers.into_iter().enumerate().map(convolution).collect::<Result<_>>().map(Self)
    }

    /// Takes the parameters `names`, a weight and a bias for each layer in turn, as far as there
    /// are weights.
    fn take(names: &[[&'static str; 2]], parameters: &mut Named) -> Vec<FullyConnected> {
        let layer = |&[weight, bias]: &[&'static str; 2]| {
            Some(FullyConnected { weight: parameters.optional(weight)?, bias: parameters.optional(bias) })
        };
        names.iter().map_while(layer).collect()
    }

    fn named<'a>(&'a self, names: &'a [[&'static str; 2]]) -> impl Iterator<Item = (&'static str, &'a Parameter)> {
        let layers = self.0.iter().zip(names);
        layers
            .flat_map(|(layer, &[weight, bias])| [(weight, Some(layer.weight())), (bias, layer.bias())])
            .filter_map(|(name, p)| Some((name, p?)))
    }

    /// The plans for K inputs of `inputs` numbers each. The output of the last plan has the shape
    /// `output`.
    fn plan<T: Element>(
        &self,
        device: &Device,
        name: &'static str,
        inputs: usize,
        output: Shape,
        asked: &PlanRequest,
    ) -> Result<Vec<Plan<T>>> {
        let mut plans: Vec<Plan<T>> = vec![];
        let mut width = inputs;
        for layer in &self.0 {
            // With one pixel an image both formats are the same in memory; kernels for this one
            // read vectors.
            let request = PlanRequest::new([output[0], width, 1, 1]).format(MemoryFormat::ChannelsLast);
            let PlanRequest { precision, batch_invariant, .. } = *asked;
            let plan = layer.plan::<T>(device, &PlanRequest { precision, batch_invariant, ..request })?;
            width = plan.output[1];
            plans.push(plan);
        }
        let wanted = elements(&output[1..])?;
        if width != wanted {
            let expected = format!("{wanted} outputs in its last fully connected layer, those of {output:?} for each RoI");
            return Err(Error::Shape { name, shape: vec![output[0], width], expected });
        }
        Ok(plans)
    }
}

/// A [`super::DeformRoiPool`] that predicts its offsets from the RoI's own features. In the
/// modulated form it predicts a mask as well.
///
/// RoIs are first pooled without offsets. The result, flattened as `[C_out * ph * pw]` in NCHW
/// order whatever the format, passes through fully connected layers with a relu between them, which
/// give `2 * offset_groups * ph * pw` offsets. A second chain, if there is one, ends in a sigmoid
/// and gives `offset_groups * ph * pw` factors of a mask. Then the RoIs are pooled again, with
/// both.
///
/// The paper has one fully connected layer; mmcv has three, with 1024 numbers between them. In
/// both, the last layer starts with weights of zero, so that nothing moves at first. Values between
/// stages are rounded once to the dtype of x and stored in the workspace. In f16 a number beyond
/// 65504 between two fully connected layers becomes infinite; the offsets computed from it become
/// infinite or NaN, and such a bin samples zero. If that can happen, plan for bf16 or f32.
///
/// Inputs: x `[N, C, H, W]`, rois `[K, 5]`; output `[K, C_out, ph, pw]`. In JSON the parameters are `offset_fc1_weight`
/// [outputs, inputs], `offset_fc1_bias`, up to `offset_fc3`, and `mask_fc1` to `mask_fc3`.
///
/// Sources: Dai et al., "Deformable Convolutional Networks", 2017, section 2.2; Zhu et al., "Deformable ConvNets v2", 2019; mmcv's
/// `DeformRoIPoolPack` and `ModulatedDeformRoIPoolPack`.
///
/// ```
/// use warpconv::{DeformRoiPoolPack, DeformRoiPoolSpec, Device, FullyConnected, Inputs, Layer, Parameter, RoIs, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 1, 1, 4], &[0f32, 1., 2., 3.])?;
/// let rois = RoIs::from_slice(&device, 1, &[[0., 1., 0., 2., 1.]])?;
/// let spec = DeformRoiPoolSpec { sampling_ratio: 1, gamma: 1.0, ..DeformRoiPoolSpec::new([1, 1]) };
/// // the pooled feature is 1, and so is the offset to the right
/// let offset = FullyConnected { weight: Parameter::new(&[2, 1], &[1f32, 0.])?, bias: None };
/// let pack = DeformRoiPoolPack::new(spec, vec![offset])?;
/// assert_eq!(pack.forward(&Inputs::new(&x).rois(&rois))?.to_vec()?, [2.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DeformRoiPoolPack {
    spec: DeformRoiPoolSpec,
    offset: Chain,
    mask: Option<Chain>,
}

const OFFSET: [[&str; 2]; 3] =
    [["offset_fc1_weight", "offset_fc1_bias"], ["offset_fc2_weight", "offset_fc2_bias"], ["offset_fc3_weight", "offset_fc3_bias"]];
const MASK: [[&str; 2]; 3] =
    [["mask_fc1_weight", "mask_fc1_bias"], ["mask_fc2_weight", "mask_fc2_bias"], ["mask_fc3_weight", "mask_fc3_bias"]];
const PARAMETERS: [&str; 12] = {
    let mut names = [""; 12];
    let mut i = 0;
    while i < 6 {
        names[i] = OFFSET[i / 2][i % 2];
        names[6 + i] = MASK[i / 2][i % 2];
        i += 1;
    }
    names
};

impl DeformRoiPoolPack {
    /// A layer with these one to three fully connected layers for the offsets.
    ///
    /// # Errors
    /// As [`super::DeformRoiPool::new`]; [`Error::Attribute`] for another number of layers;
    /// [`Error::Rank`] or [`Error::Shape`].
    pub fn new(spec: DeformRoiPoolSpec, offset: Vec<FullyConnected>) -> Result<Self> {
        spec.pooling().check()?;
        Ok(Self { spec, offset: Self::chain(offset, Activation::None)?, mask: None })
    }

    /// Adds these one to three fully connected layers for the mask: the modulated form.
    ///
    /// # Errors
    /// As [`DeformRoiPoolPack::new`].
    pub fn with_mask(self, mask: Vec<FullyConnected>) -> Result<Self> {
        Ok(Self { mask: Some(Self::chain(mask, Activation::Sigmoid)?), ..self })
    }

    fn chain(layers: Vec<FullyConnected>, last: Activation) -> Result<Chain> {
        if !(1..=OFFSET.len()).contains(&layers.len()) {
            let (name, value) = ("the number of fully connected layers", layers.len().to_string());
            return Err(Error::Attribute { name, value, requirement: "1 to 3" });
        }
        Chain::new(layers, last)
    }

    /// The layer's attributes.
    pub fn attributes(&self) -> &DeformRoiPoolSpec {
        &self.spec
    }

    fn geometry(&self, request: &PlanRequest) -> Result<RoiGeometry> {
        self.spec.pooling().geometry(request)
    }
}

impl Layer for DeformRoiPoolPack {
    fn spec(&self) -> LayerSpec {
        LayerSpec::DeformRoiPoolPack(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometry(request)?.output_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        let geometry = self.geometry(request)?;
        // A kernel named by the request would be ambiguous: each launch chooses its own.
        let each = PlanRequest { kernel: None, ..request.clone() };
        let features = elements(&geometry.output_shape()[1..])?;
        let mut launches = Launches::<T>::new();
        let pool = roi_pool::plan(device, &each.clone().output_format(MemoryFormat::Contiguous), geometry)?;
        let pooled = launches.push(pool, Source::Input)?;
        let mut connect = |chain: &Chain, name, shape| {
            let plans = chain.plan(device, name, features, shape, &each)?;
            let result = plans.into_iter().try_fold(pooled, |x, plan| launches.push(plan, x))?;
            Ok::<_, Error>((result, MemoryFormat::Contiguous))
        };
        let offset = Some(connect(&self.offset, "offset", geometry.offset_shape())?);
        let mask = self.mask.as_ref().map(|mask| connect(mask, "mask", geometry.mask_shape())).transpose()?;
        let last = roi_pool::plan(device, &each, geometry)?;
        several::only(launches.then(PACK, OP, request, last, Last { x: Source::Input, offset, mask })?)
    }
}

impl Kind for DeformRoiPoolPack {
    type Spec = DeformRoiPoolSpec;
    const SIGNATURE: Signature = Signature { parameters: &PARAMETERS, inputs: &["x", "rois"] };

    fn build(spec: DeformRoiPoolSpec, parameters: &mut Named) -> Result<Self> {
        // The first layer is required.
        let first = FullyConnected { weight: parameters.take(OFFSET[0][0])?, bias: parameters.optional(OFFSET[0][1]) };
        let pack = Self::new(spec, [first].into_iter().chain(Chain::take(&OFFSET[1..], parameters)).collect())?;
        let mask = Chain::take(&MASK, parameters);
        if mask.is_empty() { Ok(pack) } else { pack.with_mask(mask) }
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        self.offset.named(&OFFSET).chain(self.mask.iter().flat_map(|mask| mask.named(&MASK))).collect()
    }

    /// One fully connected layer, as in the paper.
    fn typical_parameters(spec: &DeformRoiPoolSpec, x: Shape, _: Option<Shape>) -> Shapes {
        let bins = spec.output_size[0].saturating_mul(spec.output_size[1]);
        let features = if spec.position_sensitive { x[1] } else { x[1].saturating_mul(bins) };
        vec![(OFFSET[0][0], vec![bins.saturating_mul(2).saturating_mul(spec.offset_groups), features])]
    }

    /// The bound for the last stage, given exact offsets. Rounding the offsets to T moves the
    /// samples, so results in 16-bit types must be compared stage by stage.
    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        Ok(Contract::new(dtype, 4 * self.geometry(request)?.samples()).rounded(2).computed(1))
    }
}
