//! SpatiallySeparableConv2d: a vertical convolution followed by a horizontal one.

use super::{
    Activation, BatchNorm, Conv2d, Conv2dSpec, Kind, Layer, LayerSpec, Named, Padding, Parameter, Plan, PlanRequest, Shapes, Signature,
    SpatiallySeparableSpec, Tail,
};
use crate::error::{Error, Result};
use crate::geometry::{ConvGeometry, divisible, rank4};
use crate::kernels::separable;
use crate::numerics::Contract;
use crate::{DType, Device, Element, Shape};

const OP: &str = "spatially_separable";

impl SpatiallySeparableSpec {
    /// The attributes of the two stages for weights of these shapes.
    pub(crate) fn stages(&self, col_weight: Shape, row_weight: Shape) -> Result<[Conv2dSpec; 2]> {
        let refuse = |name, shape: Shape, expected| Error::Shape { name, shape: shape.to_vec(), expected };
        if col_weight[3] != 1 {
            return Err(refuse("col_weight", col_weight, "one column: [C_mid, C_in / groups, kh, 1]".into()));
        }
        if row_weight[2] != 1 {
            return Err(refuse("row_weight", row_weight, "one row: [C_out, C_mid / groups, 1, kw]".into()));
        }
        let SpatiallySeparableSpec { stride, padding, dilation, groups, activation } = *self;
        // of both stages: the second's padding is refused before the first is run
        Conv2dSpec { stride, padding, dilation, groups, activation }.check_weight([
            row_weight[0],
            col_weight[1],
            col_weight[2],
            row_weight[3],
        ])?;
        let [top, left, bottom, right] = padding.resolve([col_weight[2], row_weight[3]], dilation, stride)?;
        let axis = |stride, padding, dilation, activation| Conv2dSpec {
            stride,
            padding: Padding::Explicit(padding),
            dilation,
            groups,
            activation,
        };
        let column = axis([stride[0], 1], [top, 0, bottom, 0], [dilation[0], 1], Activation::None);
        let row = axis([1, stride[1]], [0, left, 0, right], [1, dilation[1]], activation);
        divisible("C_mid", col_weight[0], "groups", groups)?;
        column.check_weight(col_weight)?;
        row.check_weight(row_weight)?;
        if row_weight[1] != col_weight[0] / groups {
            let expected =
                format!("{} input channels in each of {groups} groups, as col_weight {col_weight:?} has outputs", col_weight[0] / groups);
            return Err(refuse("row_weight", row_weight, expected));
        }
        Ok([column, row])
    }

    /// The geometries of the two stages on an input of shape `x` for weights of these shapes.
    ///
    /// # Errors
    /// What [`SpatiallySeparableConv2d::new`] refuses, and as [`ConvGeometry::conv2d`].
    pub fn geometries(&self, x: Shape, col_weight: Shape, row_weight: Shape) -> Result<[ConvGeometry; 2]> {
        let [column, row] = self.stages(col_weight, row_weight)?;
        let column = ConvGeometry::conv2d(&column, x, col_weight)?;
        Ok([column, ConvGeometry::conv2d(&row, column.output_shape(), row_weight)?])
    }
}

/// A vertical kh x 1 convolution followed by a horizontal 1 x kw one:
///
/// `mid[n,m,p,x] = col_bias[m] + sum over c,i of col_weight[m,c,i] * xpad[n, c, p*sh + i*dh, x]`,
/// `y[n,o,p,q] = activation(row_bias[o] + residual[n,o,p,q] + sum over m,j of row_weight[o,m,j] * midpad[n, m, p, q*sw + j*dw])`.
///
/// The horizontal padding adds zeros around `mid`, whose values include the bias. Without a
/// `col_bias` the layer is the convolution with the filter
/// `w[o,c,i,j] = sum over m of row_weight[o,m,j] * col_weight[m,c,i]`. A 3x3 filter of one channel
/// then takes 6 products instead of 9, and a k x k filter `2 / k` of the products
/// ([`crate::analysis::Saving::spatially_separable`]). [`crate::factorise`] computes the factors of
/// one filter, and the best ones for a dense layer.
///
/// The layer can run as one launch, which writes `mid` to no tensor, in two cases: each stage has
/// one input channel for each output channel (`groups` is C_in, C_mid and C_out), or both are dense
/// (`groups` is 1) and the dtype has 16 bits. If two launches are estimated to be faster, and in
/// all other cases, it runs as two, with `mid` in the plan's workspace.
///
/// Either way `mid` is rounded once to the dtype. In f16 a value of `mid` beyond 65504 becomes
/// infinite, and the outputs that read it become infinite or NaN, even if the exact y is small. If
/// that can happen, plan for bf16 or f32, or divide `col_weight` and `col_bias` by a power of two
/// and multiply `row_weight` by it.
///
/// Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016; Jaderberg, Vedaldi and Zisserman,
/// "Speeding up Convolutional Neural Networks with Low Rank Expansions", 2014.
///
/// ```
/// use warpconv::factorise::separate;
/// use warpconv::{Device, Inputs, Layer, Padding, Parameter, SpatiallySeparableConv2d, SpatiallySeparableSpec, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let sobel = separate(&Parameter::new(&[3, 3], &[-1f32, 0., 1., -2., 0., 2., -1., 0., 1.])?)?;
/// let (col_weight, row_weight) = sobel.depthwise_weights(1)?;
/// let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
/// let edges = SpatiallySeparableConv2d::new(spec, col_weight, row_weight)?;
/// let x = Tensor::from_slice(&device, [1, 1, 3, 4], &[0f32, 0., 1., 1., 0., 0., 1., 1., 0., 0., 1., 1.])?;
/// assert_eq!(edges.forward(&Inputs::new(&x))?.to_vec()?[4..8], [0., 4., 4., -4.]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SpatiallySeparableConv2d {
    spec: SpatiallySeparableSpec,
    column: Conv2d,
    row: Conv2d,
}

impl SpatiallySeparableConv2d {
    /// A layer with the weights [C_mid, C_in / groups, kh, 1] and [C_out, C_mid / groups, 1, kw],
    /// without biases.
    ///
    /// # Errors
    /// [`Error::Rank`] or [`Error::Shape`] for weights that are no column and row or do not fit one another; what
    /// [`Conv2dSpec::check_weight`] refuses.
    pub fn new(spec: SpatiallySeparableSpec, col_weight: Parameter, row_weight: Parameter) -> Result<Self> {
        let [column, row] = spec.stages(rank4("col_weight", col_weight.shape())?, rank4("row_weight", row_weight.shape())?)?;
        Ok(Self { spec, column: Conv2d::new(column, col_weight)?, row: Conv2d::new(row, row_weight)? })
    }

    /// Adds a bias of shape `[C_mid]` to the vertical stage.
    ///
    /// # Errors
    /// [`Error::Rank`] or [`Error::Shape`].
    pub fn with_col_bias(mut self, bias: Parameter) -> Result<Self> {
        bias.check_vector("col_bias", self.column.weight().shape()[0], "one value for each channel in the middle")?;
        self.column = self.column.with_bias(bias)?;
        Ok(self)
    }

    /// Adds a bias of shape `[C_out]` to the horizontal stage.
    ///
    /// # Errors
    /// [`Error::Rank`] or [`Error::Shape`].
    pub fn with_row_bias(mut self, bias: Parameter) -> Result<Self> {
        bias.check_vector("row_bias", self.row.weight().shape()[0], "one value for each output channel")?;
        self.row = self.row.with_bias(bias)?;
        Ok(self)
    }

    /// Adds the slope `[C_out]` that [`Activation::Prelu`] needs.
    ///
    /// # Errors
    /// [`Error::UnexpectedTensor`] with another activation; [`Error::Rank`] or [`Error::Shape`].
    pub fn with_slope(mut self, slope: Parameter) -> Result<Self> {
        if self.spec.activation != Activation::Prelu {
            let known = format!("a slope with activation prelu only, not {}", self.spec.activation.name());
            return Err(Error::UnexpectedTensor { op: OP, name: "slope".into(), known });
        }
        self.row = self.row.with_slope(slope)?;
        Ok(self)
    }

    /// Folds a batch normalisation that stands between the two stages into the vertical one. The
    /// formula is that of [`Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_mid_batch_norm(mut self, norm: &BatchNorm) -> Result<Self> {
        self.column = self.column.fold_batch_norm(norm)?;
        Ok(self)
    }

    /// Folds a batch normalisation into the horizontal stage. The normalisation follows that stage
    /// and comes before the activation. The formula is that of [`Conv2d::fold_batch_norm`].
    ///
    /// # Errors
    /// As [`crate::Conv2d::fold_batch_norm`].
    pub fn fold_batch_norm(mut self, norm: &BatchNorm) -> Result<Self> {
        self.row = self.row.fold_batch_norm(norm)?;
        Ok(self)
    }

    /// The layer's attributes.
    pub fn attributes(&self) -> &SpatiallySeparableSpec {
        &self.spec
    }

    /// The vertical stage.
    pub fn column(&self) -> &Conv2d {
        &self.column
    }

    /// The horizontal stage.
    pub fn row(&self) -> &Conv2d {
        &self.row
    }

    /// The geometries of the two stages on an input of shape `x`.
    ///
    /// # Errors
    /// As [`ConvGeometry::conv2d`].
    pub fn geometries(&self, x: Shape) -> Result<[ConvGeometry; 2]> {
        let column = self.column.geometry(x)?;
        Ok([column, self.row.geometry(column.output_shape())?])
    }

    fn check_complete(&self) -> Result<()> {
        if self.spec.activation == Activation::Prelu && self.row.slope().is_none() {
            let name = "slope [C_out] for activation prelu".into();
            return Err(Error::MissingTensor { op: OP, name, available: String::new() });
        }
        Ok(())
    }
}

impl Layer for SpatiallySeparableConv2d {
    fn forget_host_weights(&mut self) {
        self.column.forget_host_weights();
        self.row.forget_host_weights();
    }

    fn spec(&self) -> LayerSpec {
        LayerSpec::SpatiallySeparableConv2d(self.spec)
    }

    fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
        Ok(self.geometries(request.x)?[1].output_shape())
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
        self.check_complete()?;
        let [column, row] = self.geometries(request.x)?;
        separable::spatially(OP, device, request, [self.column.weighted(column), self.row.weighted(row)])
    }
}

impl Kind for SpatiallySeparableConv2d {
    type Spec = SpatiallySeparableSpec;
    const SIGNATURE: Signature =
        Signature { parameters: &["col_weight", "col_bias", "row_weight", "row_bias", "slope"], inputs: &["x", "residual"] };

    fn build(spec: SpatiallySeparableSpec, parameters: &mut Named) -> Result<Self> {
        let mut layer = Self::new(spec, parameters.take("col_weight")?, parameters.take("row_weight")?)?;
        if let Some(bias) = parameters.optional("col_bias") {
            layer = layer.with_col_bias(bias)?;
        }
        if let Some(bias) = parameters.optional("row_bias") {
            layer = layer.with_row_bias(bias)?;
        }
        if let Some(slope) = parameters.optional("slope") {
            layer = layer.with_slope(slope)?;
        }
        layer.check_complete()?;
        Ok(layer)
    }

    fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        let (column, row) = (self.column.tail(), self.row.tail());
        let optional = [("col_bias", &column.bias), ("row_bias", &row.bias), ("slope", &row.slope)];
        let weights = [("col_weight", self.column.weight()), ("row_weight", self.row.weight())];
        weights.into_iter().chain(optional.into_iter().filter_map(|(name, parameter)| Some((name, parameter.as_ref()?)))).collect()
    }

    /// Shapes of parameters. `weight` is the shape of the dense convolution's weight that the layer
    /// replaces; there are as many channels between the stages as at the end.
    fn typical_parameters(spec: &SpatiallySeparableSpec, x: Shape, weight: Option<Shape>) -> Shapes {
        let groups = spec.groups.max(1);
        let [c_out, group_in, kh, kw] = weight.unwrap_or([x[1], x[1] / groups, 3, 3]);
        let mut shapes = vec![("col_weight", vec![c_out, group_in, kh, 1]), ("row_weight", vec![c_out, c_out / groups, 1, kw])];
        shapes.extend(Tail::typical_parameters(spec.activation, c_out));
        shapes
    }

    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let products = self.geometries(request.x)?.map(|geometry| geometry.products());
        Ok(self.row.tail().contract(Contract::new(dtype, products[0] + products[1]).rounded(2).computed(products[0])))
    }
}
