//! ConvTranspose2d: transposed convolution, for learned upsampling.

use super::{
    BatchNorm, ConvTranspose2dSpec, Kind, Layer, LayerSpec, Named, Parameter, Plan, PlanRequest, Shapes, Signature, Tail, Weighted,
    weight_and_tail,
};
use crate::error::{Error, Result};
use crate::geometry::{ConvGeometry, elements, positive};
use crate::kernels::conv_transpose;
use crate::numerics::Contract;
use crate::{DType, Device, Element, Shape};

/// Transposed convolution, followed by bias, residual and activation. Each input pixel contributes
/// to the outputs from which a convolution would have read it: `x[n,c,p,q] * w[c,o,i,j]` is added
/// at row `p*sh + i*dh - top`, column `q*sw + j*dw - left` of channel `g(c)*C_out/groups + o`, with
/// group `g(c) = c / (C_in / groups)`. Then `y = activation(z + bias + residual)`.
///
/// The output has `(H - 1)*sh + dh*(kh - 1) + 1 + output_padding - top - bottom` rows, and columns
/// likewise.
///
/// **It is not an inverse.** Written as a matrix on the flattened image, it is the transpose of the
/// matrix of the [`super::Conv2d`] with the same weight, stride, padding and dilation. It restores
/// the *shape* of that convolution's input, not its values. (So "deconvolution" is a misnomer.)
/// Therefore `<conv(x), y> = <x, conv_transpose(y)>`, and this layer is the gradient of a
/// convolution with respect to its input.
///
/// # How it relates to inserted zeros
/// The same result comes from inserting `s - 1` zeros between the input's pixels, adding a border
/// of zeros, and convolving with the flipped filter at stride 1. A border of `k - 1 - p` zeros on a
/// side corresponds to the layer with padding `p`. A border of `s - 1` zeros, which gives
/// `s*n + (s - k)` outputs for `n` inputs, therefore corresponds to padding `k - s` on each side,
/// since `k - 1 - (k - s) = s - 1`. If `k < s`, that padding is negative: the border reaches beyond
/// all taps. The layer with padding 0 and output_padding `s - k` then has `s*n` outputs; the form
/// with zeros has these and `s - k` more at the front, which no tap reaches either. The kernels
/// insert no zeros: they compute each of the `sh*sw` phases of the output as a small dense
/// convolution (kernels/conv_transpose.cu).
///
/// [`bilinear_kernel`] gives a filter that makes the layer a bilinear upsampler.
///
/// Sources: Zeiler et al., "Deconvolutional Networks", 2010; Dumoulin and Visin, "A guide to convolution arithmetic for deep
/// learning", 2016; PyTorch `torch.nn.ConvTranspose2d`.
///
/// ```
/// use warpconv::{ConvTranspose2d, ConvTranspose2dSpec, Device, Inputs, Layer, Parameter, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let x = Tensor::from_slice(&device, [1, 1, 2, 2], &[1f32, 2., 3., 4.])?;
/// let spec = ConvTranspose2dSpec { stride: [2, 2], ..Default::default() };
/// let spread = ConvTranspose2d::new(spec, Parameter::new(&[1, 1, 2, 2], &[1f32, 10., 100., 1000.])?)?;
/// let y = spread.forward(&Inputs::new(&x))?;
/// assert_eq!(y.shape(), [1, 1, 4, 4]);
/// assert_eq!(y.to_vec()?[..8], [1., 10., 2., 20., 100., 1000., 200., 2000.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ConvTranspose2d {
    spec: ConvTranspose2dSpec,
    weighted: Weighted,
}

impl ConvTranspose2d {
    /// A transposed convolution with a weight [C_in, C_out / groups, kh, kw], without bias.
    ///
    /// # Errors
    /// [`Error::Rank`], and what [`ConvTranspose2dSpec::check_weight`] refuses;
    /// [`Error::Overflow`].
    pub fn new(spec: ConvTranspose2dSpec, weight: Parameter) -> Result<Self> {
        let weighted = Weighted::new(weight, "[C_in, C_out / groups, kernel height, kernel width]", |shape| {
            spec.check_weight(shape)?;
            let c_out = shape[1].checked_mul(spec.groups);
            let overflow = || Error::Overflow { what: "C_out", values: format!("weight {shape:?}, groups {}", spec.groups) };
            Ok(Tail::new("conv_transpose2d", c_out.ok_or_else(overflow)?, spec.activation))
        })?;
        Ok(Self { spec, weighted })
    }

    /// Folds a batch normalisation into weight and bias. The normalisation follows the layer and
    /// comes before the activation. Output channels are those of the weight [C_in, C_out / groups,
    /// kh, kw]. The formula is that of [`crate::Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_batch_norm(mut self, norm: &BatchNorm) -> Result<Self> {
        let [c_in, group_out, kh, kw] = self.weighted.shape;
        let (taps, group_in) = (kh * kw, c_in / self.spec.groups);
        let channel_of = |index: usize| index / (group_out * taps) / group_in * group_out + index / taps % group_out;
        self.weighted.fold(norm, group_out * self.spec.groups, channel_of)?;
        Ok(self)
    }

    /// The geometry of the layer on an input of shape `x`.
    ///
    /// # Errors
    /// As [`ConvGeometry::conv_transpose2d`].
    pub fn geometry(&self, x: Shape) -> Result<ConvGeometry> {
        ConvGeometry::conv_transpose2d(&self.spec, x, self.weighted.shape)
    }
}

weight_and_tail!(ConvTranspose2d, ConvTranspose2dSpec, "[C_in, C_out / groups, kh, kw]");

impl Layer for ConvTranspose2d {
    fn forget_host_weights(&mut self) {
        self.weighted.weight.forget();
    }

    fn spec(&self) -> LayerSpec {
        LayerSpec::ConvTranspose2d(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometry(request.x)?.output_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        self.weighted.tail.check_complete()?;
        let geometry = self.geometry(request.x)?;
        conv_transpose::plan(device, request, self.weighted.conv(geometry))
    }
}

impl Kind for ConvTranspose2d {
    type Spec = ConvTranspose2dSpec;
    const SIGNATURE: Signature = Signature { parameters: &["weight", "bias", "slope"], inputs: &["x", "residual"] };

    fn build(spec: ConvTranspose2dSpec, parameters: &mut Named) -> Result<Self> {
        let mut layer = ConvTranspose2d::new(spec, parameters.take("weight")?)?;
        layer.weighted.take_tail(parameters)?;
        Ok(layer)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        self.weighted.parameters()
    }

    fn typical_parameters(spec: &ConvTranspose2dSpec, x: Shape, weight: Option<Shape>) -> Shapes {
        let c_out = |weight: Shape| weight[1].saturating_mul(spec.groups);
        Weighted::typical_parameters(spec.activation, spec.groups, x, weight, c_out)
    }

    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let contract = self.weighted.tail.contract(Contract::new(dtype, self.geometry(request.x)?.products()));
        Ok(contract.exact(self.spec.activation.keeps_exactness()))
    }
}

/// A filter [kernel, kernel] with which a [`ConvTranspose2d`] of this stride upsamples bilinearly.
/// It is the product of two tents, `1 - |i - (kernel - 1) / 2| / stride` where that is positive.
///
/// The usual size is `kernel = 2 * stride - stride % 2`, with padding `(kernel - stride) / 2`. Away
/// from the border, beyond which there are zeros, this interpolates as bilinear upsampling without
/// aligned corners does. Unlike that, the filter can be trained further. For the same filter in all
/// channels, repeat it into a weight [C, 1, kernel, kernel] and set `groups` to C.
///
/// Source: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation",
/// 2015.
///
/// ```
/// use warpconv::layers::bilinear_kernel;
/// use warpconv::{ConvTranspose2d, ConvTranspose2dSpec, Device, Inputs, Layer, Parameter, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let weight = Parameter::new(&[1, 1, 4, 4], &bilinear_kernel(4, 2)?)?;
/// let upsampler = ConvTranspose2d::new(ConvTranspose2dSpec { stride: [2, 2], padding: [1; 4], ..Default::default() }, weight)?;
/// let x = Tensor::from_slice(&Device::best()?, [1, 1, 3, 3], &[0f32, 4., 8., 0., 4., 8., 0., 4., 8.])?;
/// let y = upsampler.forward(&Inputs::new(&x))?;
/// assert_eq!(y.shape(), [1, 1, 6, 6]);
/// assert_eq!(y.to_vec()?[12..17], [0., 1., 3., 5., 7.]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Attribute`] for a stride of 0, or a kernel below `2 * stride - 1`: its weights would not add up to 1 everywhere;
/// [`Error::Overflow`].
pub fn bilinear_kernel(kernel: usize, stride: usize) -> Result<Vec<f32>> {
    positive("stride", stride)?;
    if kernel.saturating_add(1) / 2 < stride {
        let value = format!("{kernel} with stride {stride}");
        return Err(Error::Attribute { name: "kernel", value, requirement: "at least 2 * stride - 1" });
    }
    elements(&[kernel, kernel])?;
    let centre = (kernel as f64 - 1.0) / 2.0;
    let tent: Vec<f64> = (0..kernel).map(|i| (1.0 - (i as f64 - centre).abs() / stride as f64).max(0.0)).collect();
    Ok(tent.iter().flat_map(|row| tent.iter().map(move |column| (row * column) as f32)).collect())
}
