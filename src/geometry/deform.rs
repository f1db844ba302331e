//! Deformable convolutions, with the shapes of their offsets and mask.

use super::{ConvGeometry, Shape, divisible, elements, positive};
use crate::error::{Error, Result};
use crate::spec::DeformConv2dSpec;

/// A deformable convolution all of whose sizes are known and fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeformGeometry {
    /// The geometry of the taps' positions before the offsets move them.
    pub conv: ConvGeometry,
    /// The shape of the offsets, [N, 2 * offset_groups * kh * kw, H_out, W_out].
    pub offset: Shape,
    /// The shape of the mask, [N, offset_groups * kh * kw, H_out, W_out].
    pub mask: Shape,
}

impl DeformGeometry {
    /// The geometry of `spec` with a weight [C_out, C_in / groups, kh, kw] on an input of shape
    /// `x`.
    ///
    /// # Errors
    /// What [`ConvGeometry::conv2d`] and [`DeformGeometry::check_weight`] refuse.
    pub fn new(spec: &DeformConv2dSpec, x: Shape, weight: Shape) -> Result<Self> {
        Self::check_weight(spec, weight)?;
        let plain = ConvGeometry::conv2d(&spec.conv2d(), x, weight)?;
        let conv = ConvGeometry { offset_groups: spec.offset_groups, ..plain };
        let [_, _, kh, kw] = weight;
        let overflow = || Error::Overflow {
            what: "the number of offset channels",
            values: format!("2 * {} offset groups * {kh} * {kw} taps", spec.offset_groups),
        };
        let taps = kh.checked_mul(kw).and_then(|taps| taps.checked_mul(spec.offset_groups));
        let [mask, offset] = [1, 2].map(|each| taps.and_then(|taps| taps.checked_mul(each)));
        let field = |channels| [conv.n, channels, conv.output[0], conv.output[1]];
        let (offset, mask) = (field(offset.ok_or_else(overflow)?), field(mask.ok_or_else(overflow)?));
        elements(&offset)?;
        Ok(Self { conv, offset, mask })
    }

    /// Checks that the attributes can be applied with a weight [C_out, C_in / groups, kh, kw].
    ///
    /// # Errors
    /// What [`Conv2dSpec::check_weight`](crate::Conv2dSpec::check_weight) refuses;
    /// [`Error::Attribute`] for offset_groups of 0; [`Error::Divisibility`] when they do not divide
    /// C_in.
    pub fn check_weight(spec: &DeformConv2dSpec, weight: Shape) -> Result<()> {
        spec.conv2d().check_weight(weight)?;
        positive("offset_groups", spec.offset_groups)?;
        let c_in = weight[1]
            .checked_mul(spec.groups)
            .ok_or_else(|| Error::Overflow { what: "C_in", values: format!("{} channels in each of {} groups", weight[1], spec.groups) })?;
        divisible("C_in", c_in, "offset_groups", spec.offset_groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_two_channels_for_each_group_and_tap() {
        let spec = DeformConv2dSpec { stride: [2, 1], offset_groups: 3, ..Default::default() };
        let geometry = DeformGeometry::new(&spec, [2, 6, 9, 8], [5, 6, 2, 3]).unwrap();
        assert_eq!((geometry.offset, geometry.mask), ([2, 36, 4, 6], [2, 18, 4, 6]));
        let spec = |offset_groups| DeformConv2dSpec { offset_groups, ..Default::default() };
        assert!(matches!(DeformGeometry::new(&spec(4), [2, 6, 9, 8], [5, 6, 2, 3]), Err(Error::Divisibility { name: "C_in", .. })));
        assert!(matches!(DeformGeometry::new(&spec(0), [2, 6, 9, 8], [5, 6, 2, 3]), Err(Error::Attribute { name: "offset_groups", .. })));
        let huge = 1 << 20;
        let refused = DeformGeometry::new(&spec(huge), [1, huge, huge, huge], [1, huge, 1 << 12, 1]);
        assert!(matches!(refused, Err(Error::Overflow { .. })), "{refused:?}");
    }
}
