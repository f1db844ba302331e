//! The order and the distances of a tensor's elements in memory.

use crate::error::{Error, Result};
use crate::shape::{MAX_COUNT, elements};
use crate::{MemoryFormat, Shape};
use std::ops::Range;

/// The order of a tensor's elements in memory: a shape, the axis along which elements are
/// neighbours (the format), and the distances of neighbours along the other axes.
///
/// A layout need not be packed. Every layer reads and writes these in place: a slice of the
/// channels of a wider tensor, a part of a batch, a rectangle of a picture (a crop), rows followed
/// by padding (a pitch), and images with gaps between them. There are two requirements: elements
/// are neighbours along W ([`MemoryFormat::Contiguous`]) or along C
/// ([`MemoryFormat::ChannelsLast`]), and no two elements share memory. The other three axes may be
/// in any order, so that a tensor [C, N, H, W] is read in place.
///
/// ```
/// use warpconv::{Layout, MemoryFormat};
/// // 3 planes of 480 rows of 640 pixels, of which each row is followed by 32 elements of padding
/// let picture = Layout::strided([1, 3, 480, 640], MemoryFormat::Contiguous, [3 * 480 * 672, 480 * 672, 672, 1])?;
/// assert_eq!((picture.extent(), picture.is_packed()), (3 * 480 * 672 - 32, false));
/// // a rectangle of it
/// let (start, face) = picture.crop(100..324, 200..424)?;
/// assert_eq!((start, face.shape(), face.strides()[2]), (100 * 672 + 200, [1, 3, 224, 224], 672));
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Shape,
    format: MemoryFormat,
    strides: [usize; 4],
}

/// The axes of a format from the outermost to the innermost.
fn order(format: MemoryFormat) -> [usize; 4] {
    match format {
        MemoryFormat::Contiguous => [0, 1, 2, 3],
        MemoryFormat::ChannelsLast => [0, 2, 3, 1],
    }
}

const AXES: [&str; 4] = ["N", "C", "H", "W"];

impl Layout {
    /// A layout without gaps.
    pub fn packed(shape: Shape, format: MemoryFormat) -> Self {
        Self::of_channels(shape, format, shape[1])
    }

    /// The layout of the first channels of a tensor that has `channel_stride` channels.
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
        Ok(Self::of_channels(shape, format, channel_stride))
    }

    fn of_channels(shape: Shape, format: MemoryFormat, channels: usize) -> Self {
        let [_, _, h, w] = shape;
        let pixels = h.saturating_mul(w);
        let image = channels.saturating_mul(pixels);
        let strides = match format {
            MemoryFormat::Contiguous => [image, pixels, w, 1],
            MemoryFormat::ChannelsLast => [image, 1, w.saturating_mul(channels), channels],
        };
        Self { shape, format, strides }
    }

    /// A layout with these distances, in elements, between neighbours along N, C, H and W. The
    /// distance along an axis with one position may be anything.
    ///
    /// # Errors
    /// [`Error::Attribute`] when elements are not neighbours along the format's innermost axis, or
    /// when two of them may share memory: the distance along each axis must cover everything inside
    /// it. [`Error::Overflow`] for a layout of more elements than any memory holds.
    pub fn strided(shape: Shape, format: MemoryFormat, strides: [usize; 4]) -> Result<Self> {
        if shape.contains(&0) {
            elements(&shape)?;
            return Ok(Self::packed(shape, format));
        }
        let refuse = |requirement| Err(Error::Attribute { name: "strides", value: format!("{strides:?} of {shape:?}"), requirement });
        let inner = order(format)[3];
        if shape[inner] > 1 && strides[inner] != 1 {
            return refuse(match format {
                MemoryFormat::Contiguous => "1 along W, whose elements are neighbours in the contiguous format",
                MemoryFormat::ChannelsLast => "1 along C, whose elements are neighbours in the channels_last format",
            });
        }
        let mut axes = [0, 1, 2, 3];
        axes.sort_by_key(|&axis| strides[axis]);
        let mut extent = 1usize; // the extent of the axes inside
        for axis in axes.into_iter().filter(|&axis| shape[axis] > 1) {
            if strides[axis] < extent {
                return refuse("such that no two elements share memory: along each axis at least the extent of what lies inside it");
            }
            let overflow = || Error::Overflow { what: "the extent of a layout", values: format!("strides {strides:?} of {shape:?}") };
            let reach = strides[axis].checked_mul(shape[axis] - 1).and_then(|reach| reach.checked_add(extent));
            extent = reach.filter(|&extent| extent <= isize::MAX as usize / 8).ok_or_else(overflow)?;
        }
        Ok(Self { shape, format, strides }.normalised())
    }

    /// The same elements, with distances along axes of one position that continue those of the axes
    /// inside. So it does not matter, for whether a layout is packed or aligned, which distance
    /// such an axis was given.
    fn normalised(mut self) -> Self {
        let [n, c, h, w] = self.shape;
        let inside = |stride: usize, size: usize| stride.saturating_mul(size);
        let [sn, sc, sh, sw] = &mut self.strides;
        match self.format {
            MemoryFormat::Contiguous => {
                *sw = if w == 1 { 1 } else { *sw };
                *sh = if h == 1 { w } else { *sh };
                *sc = if c == 1 { inside(*sh, h) } else { *sc };
                *sn = if n == 1 { inside(*sc, c) } else { *sn };
            }
            MemoryFormat::ChannelsLast => {
                *sc = if c == 1 { 1 } else { *sc };
                // A column of pixels is a row of pixels with that distance.
                *sw = match (w, h, n) {
                    (1, 2.., _) => *sh,
                    (1, _, 2..) if *sn <= MAX_COUNT => *sn,
                    (1, ..) => c,
                    _ => *sw,
                };
                *sh = if h == 1 { inside(*sw, w) } else { *sh };
                *sn = if n == 1 { inside(*sh, h) } else { *sn };
            }
        }
        self
    }

    /// The logical shape [N, C, H, W].
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The memory format.
    pub fn format(&self) -> MemoryFormat {
        self.format
    }

    /// The distances of neighbours along N, C, H and W, in elements. `usize::MAX` for a distance
    /// that does not fit.
    pub fn strides(&self) -> [usize; 4] {
        self.strides
    }

    /// The number of elements from the first to the last, both included. `usize::MAX` if the number
    /// does not fit: no tensor is that large, and no view can have such a layout.
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
        let distances = self.strides.into_iter().zip(self.shape).map(|(stride, size)| stride.saturating_mul(size - 1));
        distances.fold(1, usize::saturating_add)
    }

    /// Whether the elements follow one another without gaps, in the order of the format.
    pub fn is_packed(&self) -> bool {
        let mut next = 1usize;
        self.shape.contains(&0)
            || order(self.format).into_iter().rev().filter(|&axis| self.shape[axis] > 1).all(|axis| {
                let fits = self.strides[axis] == next;
                next = next.saturating_mul(self.shape[axis]);
                fits
            })
    }

    /// Some of the images: the distance of their start from the first element, in elements, and
    /// their layout.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the batch.
    pub fn images(&self, range: Range<usize>) -> Result<(usize, Self)> {
        self.part(0, range, "the range of images", "within the batch")
    }

    /// Some of the channels: the distance of their start from the first element, in elements, and
    /// their layout.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the range is not within the channels.
    pub fn channels(&self, range: Range<usize>) -> Result<(usize, Self)> {
        self.part(1, range, "the range of channels", "within the channels")
    }

    /// A rectangle of every image: the distance of its start from the first element, in elements,
    /// and its layout.
    ///
    /// # Errors
    /// [`Error::Attribute`] when a range is not within the rows or the columns.
    pub fn crop(&self, rows: Range<usize>, columns: Range<usize>) -> Result<(usize, Self)> {
        let (down, part) = self.part(2, rows, "the range of rows", "within the image")?;
        let (right, part) = part.part(3, columns, "the range of columns", "within the image")?;
        Ok((down + right, part))
    }

    fn part(&self, axis: usize, range: Range<usize>, name: &'static str, requirement: &'static str) -> Result<(usize, Self)> {
        let size = self.shape[axis];
        if range.start > range.end || range.end > size {
            return Err(Error::Attribute { name, value: format!("{range:?} of {size} along {}", AXES[axis]), requirement });
        }
        // There are no elements.
        let start = if self.extent() == 0 { 0 } else { range.start.min(size - 1) * self.strides[axis] };
        let mut shape = self.shape;
        shape[axis] = range.len();
        if shape.contains(&0) {
            return Ok((start, Self { shape, ..*self }));
        }
        Ok((start, Self { shape, ..*self }.normalised()))
    }

    /// Whether every plane of a contiguous layout is one run of elements.
    pub(crate) fn has_packed_planes(&self) -> bool {
        let [_, _, h, w] = self.shape;
        self.format == MemoryFormat::Contiguous && (h <= 1 || self.strides[2] == w)
    }

    /// Whether every image of a contiguous layout is one run of elements.
    pub(crate) fn has_packed_images(&self) -> bool {
        let [_, c, h, w] = self.shape;
        self.has_packed_planes() && (c <= 1 || self.strides[1] == h.saturating_mul(w))
    }

    /// Whether the pixels of a channels_last layout are all as far apart as those of a row, so that
    /// they are the rows of a matrix.
    pub(crate) fn is_matrix(&self) -> bool {
        let ([n, _, h, w], [sn, _, sh, sw]) = (self.shape, self.strides);
        self.has_even_pixels() && (n <= 1 || sn == sw.saturating_mul(w).saturating_mul(h)) && (h <= 1 || sh == sw.saturating_mul(w))
    }

    /// Whether the same is true within each image.
    pub(crate) fn has_even_pixels(&self) -> bool {
        let ([_, _, h, w], [_, _, sh, sw]) = (self.shape, self.strides);
        self.format == MemoryFormat::ChannelsLast && (h <= 1 || sh == sw.saturating_mul(w))
    }
}

/// Whether two layouts may have an element in common, if `other` starts `distance` elements after
/// `first`. Parts of one tensor (slices of channels, images, crops) are distinguished.
pub(super) fn may_meet(first: &Layout, other: &Layout, distance: usize) -> bool {
    if distance >= first.extent() || other.extent() == 0 {
        return false;
    }
    let mut axes = [0, 1, 2, 3].map(|axis| {
        let stride = match (first.shape[axis] > 1, other.shape[axis] > 1) {
            (true, true) if first.strides[axis] != other.strides[axis] => None,
            (true, _) => Some(first.strides[axis]),
            (false, true) => Some(other.strides[axis]),
            (false, false) => Some(0),
        };
        (stride, first.shape[axis], other.shape[axis])
    });
    if axes.iter().any(|(stride, ..)| stride.is_none()) {
        return true;
    }
    axes.sort_by_key(|(stride, ..)| std::cmp::Reverse(*stride));
    // `other` may lie behind along one axis and before `first` along the next, such as two rows
    // further down but one column to the left. Each way to write the distance so is tried; where no
    // two places of the grid that contains both are the same element, it tells whether they meet.
    !(0..1 << axes.len()).any(|steps_back| are_apart(axes, distance, steps_back))
}

/// Whether a grid contains both layouts, each of its places is one element, and along one of its
/// axes they have no position in common. Bit `axis` of `steps_back` stands for a step too far along
/// that axis, which the axes after it go back. An axis is a stride and the sizes of both layouts.
fn are_apart(axes: [(Option<usize>, usize, usize); 4], distance: usize, steps_back: usize) -> bool {
    let (mut rest, mut apart, mut spans) = (distance as i128, false, [(0, 0); 4]);
    for (axis, (span, (stride, of_first, of_other))) in spans.iter_mut().zip(axes).enumerate() {
        let Some(stride) = stride.filter(|&stride| stride > 0).map(|stride| stride as i128) else { continue };
        let (of_first, of_other) = (of_first as i128, of_other as i128);
        let at = rest.div_euclid(stride) + (steps_back >> axis & 1) as i128;
        rest -= at * stride;
        apart |= at >= of_first || -at >= of_other;
        *span = (stride, of_first.max(at + of_other) - at.min(0));
    }
    let mut inside = 0;
    let is_grid = spans.into_iter().rev().filter(|&(stride, _)| stride > 0).all(|(stride, size)| {
        let fits = inside < stride;
        inside += stride * (size - 1);
        fits
    });
    rest == 0 && is_grid && apart
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn places(layout: &Layout, start: usize) -> BTreeSet<usize> {
        let ([n, c, h, w], [sn, sc, sh, sw]) = (layout.shape, layout.strides);
        let mut all = BTreeSet::new();
        for i in 0..n * c * h * w {
            let position = [i / (c * h * w), i / (h * w) % c, i / w % h, i % w];
            all.insert(start + position[0] * sn + position[1] * sc + position[2] * sh + position[3] * sw);
        }
        all
    }

    #[test]
    fn layouts_are_taken_or_refused() {
        use MemoryFormat::{ChannelsLast, Contiguous};
        let strided = Layout::strided;
        for (shape, format, strides) in [
            ([2, 3, 4, 5], Contiguous, [60, 20, 5, 1]),
            ([2, 3, 4, 5], Contiguous, [100, 33, 8, 1]),  // gaps everywhere
            ([2, 3, 4, 5], Contiguous, [20, 40, 5, 1]),   // [C, N, H, W]
            ([2, 3, 4, 5], ChannelsLast, [60, 1, 3, 12]), // columns of pixels
            ([1, 3, 4, 5], Contiguous, [0, 20, 5, 1]),    // one image has no distance to the next
            ([2, 1, 4, 1], ChannelsLast, [9, 77, 2, 0]),
            ([0, 3, 4, 5], Contiguous, [7, 7, 7, 7]),
        ] {
            let layout = strided(shape, format, strides).unwrap();
            let all = places(&layout, 0);
            assert_eq!(all.len(), shape.iter().product::<usize>(), "{layout:?}");
            assert_eq!(layout.extent(), all.last().map_or(0, |last| last + 1), "{layout:?}");
            assert!(!layout.is_packed() || all.len() == layout.extent(), "{layout:?}");
        }
        for (shape, format, strides) in [
            ([2, 3, 4, 5], Contiguous, [60, 20, 1, 4]), // transposed rows
            ([2, 3, 4, 5], Contiguous, [0, 20, 5, 1]),  // one image twice
            ([2, 3, 4, 5], Contiguous, [60, 20, 4, 1]), // rows that overlap
            ([2, 3, 4, 5], ChannelsLast, [60, 20, 5, 1]),
            ([1, 1, 1, 5], Contiguous, [0, 0, 0, 2]),
        ] {
            assert!(matches!(strided(shape, format, strides), Err(Error::Attribute { name: "strides", .. })), "{shape:?} {strides:?}");
        }
        for strides in [[usize::MAX, 20, 5, 1], [1 << 60, 20, 5, 1], [60, usize::MAX / 2 + 2, 5, 1]] {
            assert!(matches!(strided([3, 3, 4, 5], Contiguous, strides), Err(Error::Overflow { .. })), "{strides:?}");
        }
        // With one channel or one pixel, the elements are the same in either format.
        for (shape, strides) in [([2, 3, 1, 1], [3, 1, 1, 1]), ([2, 1, 4, 5], [20, 20, 5, 1])] {
            assert!(MemoryFormat::ALL.into_iter().all(|format| strided(shape, format, strides).unwrap().is_packed()), "{shape:?}");
        }
    }

    /// Two parts of one tensor overlap exactly if they share an element. Two arbitrary layouts are
    /// reported as apart only if they share none.
    #[test]
    fn parts_of_one_tensor_are_told_apart() {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        let mut apart = 0;
        for round in 0..20_000 {
            let format = MemoryFormat::ALL[round % 2];
            let shape = [3, 4, 5, 6].map(|size| rng.random_range(1..=size));
            let whole = Layout::packed(shape, format);
            let mut part = || {
                let mut range = |size: usize| {
                    let start = rng.random_range(0..size);
                    start..rng.random_range(start + 1..=size)
                };
                let (a, images) = whole.images(range(shape[0])).unwrap();
                let (b, channels) = images.channels(range(shape[1])).unwrap();
                let (c, crop) = channels.crop(range(shape[2]), range(shape[3])).unwrap();
                (a + b + c, crop)
            };
            let ((a, first), (b, second)) = (part(), part());
            let (a, first, b, second) = if a <= b { (a, first, b, second) } else { (b, second, a, first) };
            let share = places(&first, a).intersection(&places(&second, b)).next().is_some();
            let meet = may_meet(&first, &second, b - a);
            assert!(meet || !share, "{first:?} and {second:?}, {} behind, share elements", b - a);
            // A part with one position along an axis may look like another tensor. Most are
            // distinguished.
            apart += usize::from(!meet && !share);
            assert!(!meet || share || [first, second].iter().any(|part| part.shape.contains(&1)), "{first:?} {second:?} {}", b - a);
        }
        assert!(apart > 5_000, "{apart}");
    }
}
