//! Pooling of regions of interest.

use super::{Shape, divisible, elements, positive};
use crate::error::Result;
use crate::spec::Pooling;

/// A pooling of regions of interest all of whose sizes are known and fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiGeometry {
    /// The shape of the input, [N, C, H, W].
    pub x: Shape,
    /// The number of RoIs, K.
    pub rois: usize,
    /// The channels of the output.
    pub c_out: usize,
    /// Height and width of the output.
    pub pooled: [usize; 2],
    /// The number of groups of output channels with their own offsets and mask.
    pub offset_groups: usize,
    pub(crate) pooling: Pooling,
}

impl RoiGeometry {
    /// The geometry of `pooling` on `rois` RoIs of an input of shape `x`.
    ///
    /// # Errors
    /// What [`Pooling::check`] refuses; [`Error::Attribute`] for an input without rows or columns; [`Error::Divisibility`] when
    /// the bins of a position-sensitive pooling do not divide C, or the offset groups the output's channels; [`Error::Overflow`].
    pub(crate) fn new(pooling: Pooling, x: Shape, rois: usize) -> Result<Self> {
        pooling.check()?;
        let [_, c, h, w] = x;
        positive("the height of x", h)?;
        positive("the width of x", w)?;
        let pooled = pooling.output_size;
        let bins = elements(&pooled)?;
        let c_out = if pooling.position_sensitive {
            divisible("C", c, "output height * output width", bins)?;
            c / bins
        } else {
            c
        };
        divisible("C_out", c_out, "offset_groups", pooling.offset_groups)?;
        // If there are no channels, the number of groups may be anything.
        elements(&[pooling.offset_groups, 2])?;
        let geometry = Self { x, rois, c_out, pooled, offset_groups: pooling.offset_groups, pooling };
        elements(&x)?;
        for shape in [geometry.output_shape(), geometry.offset_shape(), geometry.mask_shape()] {
            elements(&shape)?;
        }
        Ok(geometry)
    }

    /// The shape of the output, [K, C_out, ph, pw].
    pub fn output_shape(&self) -> Shape {
        [self.rois, self.c_out, self.pooled[0], self.pooled[1]]
    }

    /// The shape of the offsets, [K, 2 * offset_groups, ph, pw]: right and down for each group.
    pub fn offset_shape(&self) -> Shape {
        [self.rois, 2 * self.offset_groups, self.pooled[0], self.pooled[1]]
    }

    /// The shape of the mask, [K, offset_groups, ph, pw].
    pub fn mask_shape(&self) -> Shape {
        [self.rois, self.offset_groups, self.pooled[0], self.pooled[1]]
    }

    /// The number of samples or pixels that one bin of one channel is assumed to read. It is the
    /// size of the grid if the attributes fix that, otherwise as many as for a RoI that covers the
    /// whole input.
    pub fn samples(&self) -> usize {
        let [ph, pw] = self.pooled;
        match usize::try_from(self.pooling.sampling_ratio) {
            Ok(ratio) if ratio > 0 => ratio * ratio,
            _ => self.x[2].div_ceil(ph) * self.x[3].div_ceil(pw),
        }
    }
}
