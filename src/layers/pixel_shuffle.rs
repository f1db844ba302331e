//! PixelShuffle and PixelUnshuffle: moving channels into pixels and back.

use super::{Kind, Layer, LayerSpec, Named, Parameter, PixelShuffleSpec, Plan, PlanRequest, Shapes, Signature};
use crate::error::Result;
use crate::geometry::{BlockGeometry, positive};
use crate::kernels::pixel_shuffle::{Direction, plan, time};
use crate::numerics::Contract;
use crate::plan::Estimate;
use crate::{DType, Device, Element, Shape};

/// Moves channels into pixels: [N, C * r * r, H, W] becomes [N, C, H * r, W * r]. Elements are
/// copied bit by bit.
///
/// `y[n, c, h*r + i, w*r + j] = x[n, k(c, i, j), h, w]`, with k of
/// [`ChannelOrder`](crate::ChannelOrder). With r = 1, and a plan whose output has another format
/// than its input, the layer converts the format. It allocates nothing and can be captured in a
/// CUDA graph.
///
/// Sources: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
/// Network", 2016; PyTorch `torch.nn.PixelShuffle`.
///
/// ```
/// use warpconv::{Device, Inputs, Layer, PixelShuffle, PixelShuffleSpec, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 4, 1, 2], &[1f32, 2., 3., 4., 5., 6., 7., 8.])?;
/// let layer = PixelShuffle::new(PixelShuffleSpec { factor: 2, order: Default::default() })?;
/// assert_eq!(layer.forward(&Inputs::new(&x))?.to_vec()?, [1., 3., 2., 4., 5., 7., 6., 8.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelShuffle {
    spec: PixelShuffleSpec,
}

/// Moves pixels into channels: [N, C, H * r, W * r] becomes [N, C * r * r, H, W]. With the same
/// spec it is the exact inverse of [`PixelShuffle`].
///
/// Sources: PyTorch `torch.nn.PixelUnshuffle`; ONNX `SpaceToDepth`.
///
/// ```
/// use warpconv::{Device, Inputs, Layer, PixelShuffleSpec, PixelUnshuffle, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 1, 2, 4], &[1f32, 3., 2., 4., 5., 7., 6., 8.])?;
/// let layer = PixelUnshuffle::new(PixelShuffleSpec { factor: 2, order: Default::default() })?;
/// assert_eq!(layer.forward(&Inputs::new(&x))?.to_vec()?, [1., 2., 3., 4., 5., 6., 7., 8.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelUnshuffle {
    spec: PixelShuffleSpec,
}

/// The bound for elements that are copied as they are.
fn exact_copy(dtype: DType) -> Contract {
    Contract::new(dtype, 1).exact(true)
}

impl PixelShuffle {
    /// A layer without parameters.
    ///
    /// # Errors
    /// [`crate::Error::Attribute`] for a factor of 0.
    pub fn new(spec: PixelShuffleSpec) -> Result<Self> {
        positive("r", spec.factor)?;
        Ok(Self { spec })
    }

    /// The layer's attributes.
    pub fn attributes(&self) -> &PixelShuffleSpec {
        &self.spec
    }

    /// The geometry of the layer on an input of shape `x`.
    ///
    /// # Errors
    /// As [`BlockGeometry::deep`].
    pub fn geometry(&self, x: Shape) -> Result<BlockGeometry> {
        BlockGeometry::deep(x, self.spec.factor)
    }

    /// The estimated time of a plan.
    pub(crate) fn time<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Estimate> {
        time::<T>(device, request, self.geometry(request.x)?, self.spec.order, Direction::ToWide)
    }
}

impl Layer for PixelShuffle {
    fn spec(&self) -> LayerSpec {
        LayerSpec::PixelShuffle(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometry(request.x)?.wide_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        plan("pixel_shuffle", device, request, self.geometry(request.x)?, self.spec.order, Direction::ToWide)
    }
}

impl Kind for PixelShuffle {
    type Spec = PixelShuffleSpec;
    const SIGNATURE: Signature = Signature { parameters: &[], inputs: &["x"] };

    fn build(spec: PixelShuffleSpec, _: &mut Named) -> Result<Self> {
        Self::new(spec)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        vec![]
    }

    fn typical_parameters(_: &PixelShuffleSpec, _: Shape, _: Option<Shape>) -> Shapes {
        vec![]
    }

    fn contract(&self, dtype: DType, _: &PlanRequest) -> Result<Contract> {
        Ok(exact_copy(dtype))
    }
}

impl PixelUnshuffle {
    /// A layer without parameters.
    ///
    /// # Errors
    /// [`crate::Error::Attribute`] for a factor of 0.
    pub fn new(spec: PixelShuffleSpec) -> Result<Self> {
        positive("r", spec.factor)?;
        Ok(Self { spec })
    }

    /// The layer's attributes.
    pub fn attributes(&self) -> &PixelShuffleSpec {
        &self.spec
    }

    /// The geometry of the layer on an input of shape `x`.
    ///
    /// # Errors
    /// As [`BlockGeometry::wide`].
    pub fn geometry(&self, x: Shape) -> Result<BlockGeometry> {
        BlockGeometry::wide(x, self.spec.factor)
    }

    /// The estimated time of a plan.
    pub(crate) fn time<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Estimate> {
        time::<T>(device, request, self.geometry(request.x)?, self.spec.order, Direction::ToDeep)
    }
}

impl Layer for PixelUnshuffle {
    fn spec(&self) -> LayerSpec {
        LayerSpec::PixelUnshuffle(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometry(request.x)?.deep_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        plan("pixel_unshuffle", device, request, self.geometry(request.x)?, self.spec.order, Direction::ToDeep)
    }
}

impl Kind for PixelUnshuffle {
    type Spec = PixelShuffleSpec;
    const SIGNATURE: Signature = PixelShuffle::SIGNATURE;

    fn build(spec: PixelShuffleSpec, _: &mut Named) -> Result<Self> {
        Self::new(spec)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        vec![]
    }

    fn typical_parameters(_: &PixelShuffleSpec, _: Shape, _: Option<Shape>) -> Shapes {
        vec![]
    }

    fn contract(&self, dtype: DType, _: &PlanRequest) -> Result<Contract> {
        Ok(exact_copy(dtype))
    }
}
