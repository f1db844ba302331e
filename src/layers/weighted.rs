//! The weight and tail of a layer that is one convolution: their builders and accessors, and what
//! plans are made from.

use super::{Activation, BatchNorm, Named, Parameter, Shapes, Tail};
use crate::Shape;
use crate::error::{Error, Result};
use crate::geometry::{ConvGeometry, rank4};
use crate::kernels::PackedWeights;
use crate::kernels::launch::WeightedConv;

/// A convolution's weight and tail, and the weights that kernels have packed from them.
#[derive(Debug, Clone)]
pub(crate) struct Weighted {
    pub weight: Parameter,
    pub shape: Shape,
    pub tail: Tail,
    packed: PackedWeights,
}

impl Weighted {
    /// A weight of four dimensions, which `meaning` names, and the tail that its shape asks for.
    ///
    /// # Errors
    /// [`Error::Rank`]; what `tail` returns.
    pub fn new(weight: Parameter, meaning: &'static str, tail: impl FnOnce(Shape) -> Result<Tail>) -> Result<Self> {
        let rank = |_| Error::Rank { name: "weight", shape: weight.shape().to_vec(), expected: 4, meaning };
        let shape = rank4("weight", weight.shape()).map_err(rank)?;
        Ok(Self { tail: tail(shape)?, weight, shape, packed: PackedWeights::default() })
    }

    pub fn set_bias(&mut self, bias: Parameter) -> Result<()> {
        self.tail.set_bias(bias)?;
        self.packed = PackedWeights::default();
        Ok(())
    }

    pub fn set_slope(&mut self, slope: Parameter) -> Result<()> {
        self.tail.set_slope(slope)?;
        self.packed = PackedWeights::default();
        Ok(())
    }

    /// Folds a batch normalisation of `channels` output channels; `channel_of` says to which of
    /// them an element of the weight belongs.
    pub fn fold(&mut self, norm: &BatchNorm, channels: usize, channel_of: impl Fn(usize) -> usize) -> Result<()> {
        let (weight, bias) = norm.fold(&self.weight, self.tail.bias.as_ref(), channels, channel_of)?;
        (self.weight, self.tail.bias, self.packed) = (weight, Some(bias), PackedWeights::default());
        Ok(())
    }

    /// Takes what is named `bias` and `slope`, and refuses a prelu without its slope.
    pub fn take_tail(&mut self, named: &mut Named) -> Result<()> {
        self.tail.take("bias", "slope", named)
    }

    /// What a plan is made from.
    pub fn conv(&self, geometry: ConvGeometry) -> WeightedConv<'_> {
        WeightedConv { geometry, weight: &self.weight, epilogue: self.tail.epilogue(), packed: &self.packed }
    }

    /// Weight, and bias and slope where they are there.
    pub fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
        [("weight", &self.weight)].into_iter().chain(self.tail.parameters()).collect()
    }

    /// The shapes of the parameters that a layer needs which keeps the channels of `x`, or has this
    /// `weight`; `c_out` are the output channels of a weight.
    pub fn typical_parameters(
        activation: Activation,
        groups: usize,
        x: Shape,
        weight: Option<Shape>,
        c_out: impl Fn(Shape) -> usize,
    ) -> Shapes {
        let weight = weight.unwrap_or([x[1], x[1] / groups.max(1), 3, 3]);
        let tail = Tail::typical_parameters(activation, c_out(weight));
        [("weight", weight.to_vec())].into_iter().chain(tail).collect()
    }
}

/// Gives a layer whose `weighted` is a [`Weighted`] the builders and accessors of bias and slope,
/// and the accessors of its attributes and its weight, whose dimensions `$weight` names.
macro_rules! weight_and_tail {
    ($layer:ident, $spec:ident, $weight:literal) => {
        impl $layer {
            /// Adds a bias of shape `[C_out]`.
            ///
            /// # Errors
            /// [`Error::Rank`](crate::Error::Rank) or [`Error::Shape`](crate::Error::Shape).
            pub fn with_bias(mut self, bias: Parameter) -> Result<Self> {
                self.weighted.set_bias(bias)?;
                Ok(self)
            }

            /// Adds the slope `[C_out]` that [`Activation::Prelu`](crate::Activation::Prelu) needs.
            ///
            /// # Errors
            /// [`Error::UnexpectedTensor`](crate::Error::UnexpectedTensor) with another activation;
            /// [`Error::Rank`](crate::Error::Rank) or [`Error::Shape`](crate::Error::Shape).
            pub fn with_slope(mut self, slope: Parameter) -> Result<Self> {
                self.weighted.set_slope(slope)?;
                Ok(self)
            }

            /// The layer's attributes.
            pub fn attributes(&self) -> &$spec {
                &self.spec
            }

            #[doc = concat!("The weight ", $weight, ".")]
            pub fn weight(&self) -> &Parameter {
                &self.weighted.weight
            }

            /// The bias `[C_out]`.
            pub fn bias(&self) -> Option<&Parameter> {
                self.weighted.tail.bias.as_ref()
            }

            /// The slope of prelu, `[C_out]`.
            pub fn slope(&self) -> Option<&Parameter> {
                self.weighted.tail.slope.as_ref()
            }
        }
    };
}
pub(crate) use weight_and_tail;
