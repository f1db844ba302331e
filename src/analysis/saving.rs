//! The savings of factorised forms of a convolution.

use super::{count, product, stacked_receptive_field, sum};
use crate::error::Result;
use crate::geometry::{ConvGeometry, Shape, divisible, positive};
use crate::layers::{Conv2dSpec, Padding};
use serde::Serialize;

/// Parameters (without biases) and multiply-adds of one form of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// The number of learned values.
    pub parameters: u64,
    /// Multiply-adds of one run.
    pub macs: u64,
}

impl Cost {
    fn of(spec: &Conv2dSpec, weight: Shape, x: Shape) -> Result<(Self, Shape)> {
        let geometry = ConvGeometry::conv2d(spec, x, weight)?;
        Ok((Self { parameters: count(&weight)?, macs: geometry.macs()? }, geometry.output_shape()))
    }

    fn plus(self, other: Self) -> Result<Self> {
        Ok(Self {
            parameters: sum("the number of parameters", [self.parameters, other.parameters])?,
            macs: sum("the number of multiply-adds", [self.macs, other.macs])?,
        })
    }
}

/// The cost of a factorised form of a convolution, compared with the dense one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Saving {
    /// One dense convolution.
    pub dense: Cost,
    /// The factorised form.
    pub factorised: Cost,
    /// The parameters of the factorised form, divided by those of the dense one.
    pub parameters_ratio: f64,
    /// The multiply-adds of the factorised form, divided by those of the dense one. NaN for an
    /// empty batch.
    pub macs_ratio: f64,
}

impl Saving {
    fn new(dense: Cost, factorised: Cost) -> Self {
        Self {
            dense,
            factorised,
            parameters_ratio: factorised.parameters as f64 / dense.parameters as f64,
            macs_ratio: factorised.macs as f64 / dense.macs as f64,
        }
    }

    /// A depthwise convolution followed by a 1x1 convolution: `1 / C_out + 1 / (kh * kw)` of both
    /// parameters and multiply-adds.
    ///
    /// `spec` gives stride, padding and dilation; its groups are ignored.
    ///
    /// Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile
    /// Vision Applications", 2017.
    ///
    /// # Errors
    /// Errors of either form.
    pub fn depthwise_separable(spec: &Conv2dSpec, c_out: usize, kernel: [usize; 2], x: Shape) -> Result<Self> {
        let [kh, kw] = kernel;
        let c_in = x[1];
        let (dense, _) = Cost::of(&Conv2dSpec { groups: 1, ..*spec }, [c_out, c_in, kh, kw], x)?;
        let (depthwise, mid) = Cost::of(&Conv2dSpec { groups: c_in, ..*spec }, [c_in, 1, kh, kw], x)?;
        let (pointwise, _) = Cost::of(&Conv2dSpec::default(), [c_out, c_in, 1, 1], mid)?;
        Ok(Self::new(dense, depthwise.plus(pointwise)?))
    }

    /// A kh x 1 convolution to `c_mid` channels followed by a 1 x kw convolution. For a k x k
    /// filter with equal channel counts it has `2 / k` of the parameters (for 3x3, 6 instead of 9),
    /// and of the multiply-adds if the stride is 1 and the padding keeps the size.
    ///
    /// `spec` gives stride, padding and dilation, and each stage takes its own axis; the groups are
    /// ignored.
    ///
    /// # Errors
    /// Errors of either form.
    pub fn spatially_separable(spec: &Conv2dSpec, c_mid: usize, c_out: usize, kernel: [usize; 2], x: Shape) -> Result<Self> {
        let [kh, kw] = kernel;
        let Conv2dSpec { stride, dilation, .. } = *spec;
        let [top, left, bottom, right] = spec.padding.resolve(kernel, dilation, stride)?;
        let (dense, _) = Cost::of(&Conv2dSpec { groups: 1, ..*spec }, [c_out, x[1], kh, kw], x)?;
        let column = Conv2dSpec {
            stride: [stride[0], 1],
            padding: Padding::Explicit([top, 0, bottom, 0]),
            dilation: [dilation[0], 1],
            ..Default::default()
        };
        let row = Conv2dSpec {
            stride: [1, stride[1]],
            padding: Padding::Explicit([0, left, 0, right]),
            dilation: [1, dilation[1]],
            ..Default::default()
        };
        let (column, mid) = Cost::of(&column, [c_mid, x[1], kh, 1], x)?;
        let (row, _) = Cost::of(&row, [c_out, c_mid, 1, kw], mid)?;
        Ok(Self::new(dense, column.plus(row)?))
    }

    /// Groups of channels, each convolved on its own: `1 / groups` of both parameters and
    /// multiply-adds.
    ///
    /// Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional
    /// Neural Networks", 2012.
    ///
    /// # Errors
    /// Errors of either form, such as groups that do not divide the channels.
    pub fn grouped(spec: &Conv2dSpec, c_out: usize, kernel: [usize; 2], x: Shape) -> Result<Self> {
        let [kh, kw] = kernel;
        positive("groups", spec.groups)?;
        divisible("C_in", x[1], "groups", spec.groups)?;
        let (dense, _) = Cost::of(&Conv2dSpec { groups: 1, ..*spec }, [c_out, x[1], kh, kw], x)?;
        let (grouped, _) = Cost::of(spec, [c_out, x[1] / spec.groups, kh, kw], x)?;
        Ok(Self::new(dense, grouped))
    }

    /// `layers` small square filters with stride 1 on top of each other, instead of one large
    /// filter with the same receptive field ([`stacked_receptive_field`]). All have as many output
    /// as input channels, and padding that keeps the size:
    /// `layers * k^2 / ((k - 1) * layers + 1)^2` of both parameters and multiply-adds. Two 3x3
    /// instead of one 5x5: 18 / 25.
    ///
    /// # Errors
    /// [`Error::Attribute`](crate::Error::Attribute) for a kernel or number of layers of 0; errors of either form.
    pub fn stacked(kernel: usize, layers: usize, x: Shape) -> Result<Self> {
        positive("layers", layers)?;
        let spec = Conv2dSpec { padding: Padding::Same, ..Default::default() };
        let large = stacked_receptive_field(kernel, layers)?;
        let (dense, _) = Cost::of(&spec, [x[1], x[1], large, large], x)?;
        let (small, _) = Cost::of(&spec, [x[1], x[1], kernel, kernel], x)?;
        let stacked = Cost {
            parameters: product("the number of parameters", [small.parameters, layers as u64])?,
            macs: product("the number of multiply-adds", [small.macs, layers as u64])?,
        };
        Ok(Self::new(dense, stacked))
    }
}
