//! The rearrangement of pixels into channels, and the convolution that follows it in a Focus layer.

use super::{ConvGeometry, Shape, divisible, elements, positive};
use crate::error::{Error, Result};
use crate::spec::FocusSpec;

/// The two sides of a rearrangement of pixels into channels: *deep*, [N, C * r * r, H, W], and
/// *wide*, [N, C, H * r, W * r].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockGeometry {
    /// The number of images.
    pub n: usize,
    /// The channels of the wide side, C.
    pub channels: usize,
    /// The factor r: the deep side has one channel for each of the r x r pixels of a block.
    pub factor: usize,
    /// H and W, which are the blocks of the wide side and the pixels of the deep side.
    pub blocks: [usize; 2],
}

impl BlockGeometry {
    /// The geometry of a rearrangement whose deep side has this shape.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a factor of 0; [`Error::Divisibility`] when r * r does not divide the channels;
    /// [`Error::Overflow`].
    pub fn deep(shape: Shape, factor: usize) -> Result<Self> {
        positive("r", factor)?;
        let [n, c, h, w] = shape;
        let squares = factor.checked_mul(factor).ok_or_else(|| overflow_of("r * r", factor))?;
        divisible("the number of channels", c, "r * r", squares)?;
        Self { n, channels: c / squares, factor, blocks: [h, w] }.checked()
    }

    /// The geometry of a rearrangement whose wide side has this shape.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a factor of 0; [`Error::Divisibility`] when r does not divide height and width;
    /// [`Error::Overflow`].
    pub fn wide(shape: Shape, factor: usize) -> Result<Self> {
        positive("r", factor)?;
        let [n, channels, h, w] = shape;
        divisible("the input height", h, "r", factor)?;
        divisible("the input width", w, "r", factor)?;
        Self { n, channels, factor, blocks: [h / factor, w / factor] }.checked()
    }

    /// Checks that all products fit.
    fn checked(self) -> Result<Self> {
        let Self { n, channels, factor: r, blocks: [h, w] } = self;
        let product = |a: usize, b: usize| a.checked_mul(b).ok_or_else(|| overflow_of("a rearranged size", r));
        elements(&[n, product(product(channels, r)?, r)?, h, w])?;
        elements(&[n, channels, product(h, r)?, product(w, r)?])?;
        Ok(self)
    }

    /// The shape of the deep side, [N, C * r * r, H, W].
    pub fn deep_shape(&self) -> Shape {
        [self.n, self.channels * self.factor * self.factor, self.blocks[0], self.blocks[1]]
    }

    /// The shape of the wide side, [N, C, H * r, W * r].
    pub fn wide_shape(&self) -> Shape {
        [self.n, self.channels, self.blocks[0] * self.factor, self.blocks[1] * self.factor]
    }
}

fn overflow_of(what: &'static str, factor: usize) -> Error {
    Error::Overflow { what, values: format!("r = {factor}") }
}

impl ConvGeometry {
    /// The convolution of a Focus layer with a weight [C_out, 4 * C / groups, kh, kw], applied to
    /// the slices of an input of shape `x`.
    ///
    /// # Errors
    /// [`Error::Divisibility`] for an odd height or width; [`Error::Shape`] when the weight is for
    /// another number of input channels; otherwise as [`ConvGeometry::conv2d`].
    pub fn focus(spec: &FocusSpec, x: Shape, weight: Shape) -> Result<Self> {
        let slices = BlockGeometry::wide(x, 2)?.deep_shape();
        if weight[1].checked_mul(spec.conv.groups) != Some(slices[1]) {
            let expected = format!("{} channels in all groups together: 4 for each of x {x:?}", slices[1]);
            return Err(Error::Shape { name: "weight", shape: weight.to_vec(), expected });
        }
        Self::conv2d(&spec.conv, slices, weight)
    }

    /// A Focus layer without dilation and groups as one convolution of x itself. Every tap of a
    /// slice is a tap of x, so kernel, stride and padding are twice as large. `self` is from
    /// [`ConvGeometry::focus`].
    ///
    /// # Errors
    /// [`Error::Overflow`].
    pub(crate) fn focus_fused(&self) -> Result<Self> {
        let twice =
            |v: usize| v.checked_mul(2).ok_or_else(|| Error::Overflow { what: "a size of the fused filter", values: format!("2 * {v}") });
        let pair = |[h, w]: [usize; 2]| Ok::<_, Error>([twice(h)?, twice(w)?]);
        let [top, left, bottom, right] = self.padding;
        let padding = [twice(top)?, twice(left)?, twice(bottom)?, twice(right)?];
        let (kernel, stride, input) = (pair(self.kernel)?, pair(self.stride)?, pair(self.input)?);
        Ok(Self { c_in: self.c_in / 4, input, kernel, stride, padding, ..*self })
    }
}
