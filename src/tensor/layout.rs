//! How the elements of a tensor lie in memory.

use crate::error::{Error, Result};
use crate::shape::elements;
use crate::{MemoryFormat, Shape};

/// How the elements of a tensor lie in memory.
///
/// A view of some channels of a wider tensor has that tensor's channels as its `channel_stride`: a slice of a concatenation
/// is read and written in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub(super) shape: Shape,
    pub(super) format: MemoryFormat,
    pub(super) channel_stride: usize,
}

impl Layout {
    /// Elements packed without gaps.
    pub fn packed(shape: Shape, format: MemoryFormat) -> Self {
        Self { shape, format, channel_stride: shape[1] }
    }

    /// The first channels of a tensor that has `channel_stride` channels.
    ///
    /// # Errors
    /// [`Error::Attribute`] when that is fewer than the shape's.
    pub fn channel_slice(shape: Shape, format: MemoryFormat, channel_stride: usize) -> Result<Self> {
        if channel_stride < shape[1] {
            return Err(Error::Attribute {
                name: "channel_stride",
                value: channel_stride.to_string(),
                requirement: "at least the number of channels",
            });
        }
        elements(&[shape[0], channel_stride, shape[2], shape[3]])?;
        Ok(Self { shape, format, channel_stride })
    }

    /// The logical shape [N, C, H, W].
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The memory format.
    pub fn format(&self) -> MemoryFormat {
        self.format
    }

    /// Channels of the tensor that this is a slice of.
    pub fn channel_stride(&self) -> usize {
        self.channel_stride
    }

    /// Distances of neighbours along N, C, H and W, in elements; `usize::MAX` for one that does not fit.
    pub fn strides(&self) -> [usize; 4] {
        let [_, _, h, w] = self.shape;
        let (channels, pixels) = (self.channel_stride, h.saturating_mul(w));
        let image = channels.saturating_mul(pixels);
        match self.format {
            MemoryFormat::Contiguous => [image, pixels, w, 1],
            MemoryFormat::ChannelsLast => [image, 1, w.saturating_mul(channels), channels],
        }
    }

    /// Elements from the first to the last, both included; `usize::MAX` where they are more than that. No tensor is so large, and
    /// no view can be made of such a layout.
    ///
    /// ```
    /// use warpconv::{Layout, MemoryFormat};
    /// assert_eq!(Layout::packed([2, 3, 4, 5], MemoryFormat::Contiguous).extent(), 120);
    /// assert_eq!(Layout::packed([usize::MAX; 4], MemoryFormat::ChannelsLast).extent(), usize::MAX);
    /// ```
    pub fn extent(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        let distances = self.strides().into_iter().zip(self.shape).map(|(stride, size)| stride.saturating_mul(size - 1));
        distances.fold(1, usize::saturating_add)
    }

    /// Whether no gaps lie between the elements.
    pub fn is_packed(&self) -> bool {
        self.channel_stride == self.shape[1]
    }
}
