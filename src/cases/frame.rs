//! Tensors that are parts of larger ones.

use crate::{Error, Result, Shape};

/// How much more there is before and behind a tensor, along each axis, in the tensor that it is a
/// part of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frame {
    /// Images.
    pub images: [usize; 2],
    /// Channels.
    pub channels: [usize; 2],
    /// Rows.
    pub rows: [usize; 2],
    /// Columns.
    pub columns: [usize; 2],
}

/// A part of a tensor: a range of each axis.
pub(crate) type Part = [std::ops::Range<usize>; 4];

impl Frame {
    fn axes(&self) -> [[usize; 2]; 4] {
        [self.images, self.channels, self.rows, self.columns]
    }

    /// The shape of the tensor that one of this shape is a part of.
    pub(crate) fn around(&self, what: &'static str, shape: Shape) -> Result<Shape> {
        let mut wide = shape;
        for (size, [before, behind]) in wide.iter_mut().zip(self.axes()) {
            let overflow = || Error::Overflow { what, values: format!("{size} and margins of {before} and {behind}") };
            *size = size.checked_add(before).and_then(|size| size.checked_add(behind)).ok_or_else(overflow)?;
        }
        Ok(wide)
    }

    /// Where in that tensor the part is, along each axis.
    pub(crate) fn part(&self, shape: Shape) -> Part {
        let axes = self.axes();
        std::array::from_fn(|axis| axes[axis][0]..axes[axis][0] + shape[axis])
    }
}
