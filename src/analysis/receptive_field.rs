//! Receptive fields, composed layer by layer or computed in closed form.

use crate::error::{Error, Result};
use crate::geometry::{kernel_span, positive};
use crate::layers::Conv2dSpec;
use serde::Serialize;
use std::ops::Range;

/// The pixels of a stack's input on which one pixel of its output depends, vertically and
/// horizontally.
///
/// The centre of input pixel `i` is at coordinate `i`. Output pixel `p` depends on the `size`
/// pixels around `start + p * jump`, some of which may be in the padding. With dilation it depends
/// on only some of these pixels, or on all if the rates of the stack fill the gaps.
///
/// Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
/// Distill, 2019.
///
/// ```
/// use warpconv::analysis::ReceptiveField;
/// // a stem: 7x7 with stride 2 and padding 3, then 3x3 pooling with stride 2 and padding 1
/// let stem = ReceptiveField::input().then([7, 7], [2, 2], [1, 1], [3; 4])?.then([3, 3], [2, 2], [1, 1], [1; 4])?;
/// assert_eq!((stem.size, stem.jump, stem.start), ([11, 11], [4, 4], [0.0, 0.0]));
/// assert_eq!(stem.region([0, 3])?, [-5..6, 7..18]);
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReceptiveField {
    /// Height and width in input pixels.
    pub size: [usize; 2],
    /// Distance in input pixels between the fields of neighbouring output pixels: the product of
    /// the strides.
    pub jump: [usize; 2],
    /// Centre of the first output pixel's field in input coordinates: a whole or half number,
    /// negative if the padding is larger than the field reaches.
    pub start: [f64; 2],
}

impl ReceptiveField {
    /// The receptive field of no layer: a pixel depends on itself.
    pub fn input() -> Self {
        Self { size: [1, 1], jump: [1, 1], start: [0.0, 0.0] }
    }

    /// The receptive field with one more layer on top. `padding` is [top, left, bottom, right], of
    /// which only top and left matter.
    ///
    /// Each axis is computed on its own: `size += dilation * (kernel - 1) * jump`,
    /// `start += (dilation * (kernel - 1) / 2 - padding) * jump`, `jump *= stride`. One layer on
    /// the input therefore has size `dilation * (kernel - 1) + 1`.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a kernel, stride or dilation of 0; [`Error::Overflow`].
    pub fn then(self, kernel: [usize; 2], stride: [usize; 2], dilation: [usize; 2], padding: [usize; 4]) -> Result<Self> {
        let mut field = self;
        for axis in 0..2 {
            positive("kernel size", kernel[axis])?;
            positive("stride", stride[axis])?;
            positive("dilation", dilation[axis])?;
            let (span, jump) = (kernel_span(kernel[axis], dilation[axis])?, self.jump[axis]);
            let overflow = || Error::Overflow {
                what: "a receptive field",
                values: format!("size {}, jump {jump}, then a kernel that spans {span} with stride {}", self.size[axis], stride[axis]),
            };
            let growth = (span - 1).checked_mul(jump).ok_or_else(overflow)?;
            field.size[axis] = self.size[axis].checked_add(growth).ok_or_else(overflow)?;
            field.jump[axis] = jump.checked_mul(stride[axis]).ok_or_else(overflow)?;
            field.start[axis] += growth as f64 / 2.0 - padding[axis] as f64 * jump as f64;
        }
        Ok(field)
    }

    /// The receptive field with a convolution of this kernel on top.
    ///
    /// # Errors
    /// As [`ReceptiveField::then`], and [`Error::Attribute`] for padding `same` with a stride above
    /// 1.
    pub fn then_conv2d(self, spec: &Conv2dSpec, kernel: [usize; 2]) -> Result<Self> {
        self.then(kernel, spec.stride, spec.dilation, spec.padding.resolve(kernel, spec.dilation, spec.stride)?)
    }

    /// The rows and the columns of the input on which output pixel [row, column] depends. Those
    /// below 0 or beyond the input are padding.
    ///
    /// # Errors
    /// [`Error::Overflow`] when a coordinate is 2^52 or more, where f64 no longer has halves.
    pub fn region(&self, output: [usize; 2]) -> Result<[Range<i64>; 2]> {
        const HALVES_END: f64 = (1u64 << 52) as f64;
        let axis = |axis: usize| {
            let centre = self.start[axis] + output[axis] as f64 * self.jump[axis] as f64;
            let first = centre - (self.size[axis] as f64 - 1.0) / 2.0;
            let end = first + self.size[axis] as f64;
            if self.start[axis].abs().max(first.abs()).max(end.abs()) >= HALVES_END {
                return Err(Error::Overflow { what: "the region of an output pixel", values: format!("{output:?} of {self:?}") });
            }
            Ok(first as i64..end as i64)
        };
        Ok([axis(0)?, axis(1)?])
    }
}

/// The receptive field of `layers` equal filters with stride 1 on top of each other:
/// `(kernel - 1) * layers + 1`.
///
/// Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015: three 3x3 filters
/// see what one 7x7 filter sees.
///
/// # Errors
/// [`Error::Attribute`] for a kernel of 0; [`Error::Overflow`].
pub fn stacked_receptive_field(kernel: usize, layers: usize) -> Result<usize> {
    positive("kernel size", kernel)?;
    kernel_span(kernel, layers) // the field of one filter whose taps are `layers` apart
}

/// The receptive field of `layers` filters with stride 1 and dilation rates 1, 2, 4, ..., 2^(layers-1):
/// `(kernel - 1) * (2^layers - 1) + 1`. For 3x3 filters that is 2^(layers+1) - 1: it grows exponentially while the parameters
/// grow linearly.
///
/// Source: Yu and Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", 2016.
///
/// # Errors
/// [`Error::Attribute`] for a kernel of 0; [`Error::Overflow`].
pub fn doubling_receptive_field(kernel: usize, layers: u32) -> Result<usize> {
    positive("kernel size", kernel)?;
    let rates = 1usize.checked_shl(layers).map(|power| power - 1);
    let rates = rates.ok_or_else(|| Error::Overflow { what: "the sum of the rates", values: format!("2^{layers} - 1") })?;
    kernel_span(kernel, rates)
}
