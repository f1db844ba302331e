//! The operands of a launch, element by element: which elements a view has, and which threads have
//! accessed them.

use crate::device::{Access, Operand};
use crate::error::Result;
use crate::memory;
use std::sync::atomic::{AtomicU8, AtomicU64};

/// A dimension of an operand's memory: how many steps, and how many elements each step covers.
#[derive(Debug, Clone, Copy, Default)]
struct Dimension {
    size: usize,
    stride: usize,
}

/// An operand and the threads that have accessed its elements. Elements are numbered in the order
/// of their addresses.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) operand: Operand,
    pub(super) start: usize,
    /// Bytes from the first element to the end of the last.
    pub(super) extent: usize,
    /// log2 of an element's bytes.
    pub(super) shift: u32,
    /// The dimensions from the widest stride to the narrowest. Dimensions that form one run are
    /// merged.
    dimensions: Vec<Dimension>,
    packed: bool,
    /// For an operand with [`Access::Read`]: 1 for each element that was read.
    pub(super) touched: Vec<AtomicU8>,
    /// For other operands: 0, or the thread that accessed the element (`owner`) together with
    /// `WRITTEN`.
    pub(super) owners: Vec<AtomicU64>,
}

pub(super) const WRITTEN: u64 = 1 << 63;
pub(super) const THREAD_BITS: u32 = 12;

pub(super) fn owner(block: u64, thread: usize) -> u64 {
    ((block << THREAD_BITS) | thread as u64) + 1
}

impl Tracked {
    pub(super) fn new(operand: &Operand) -> Result<Self> {
        let mut axes: Vec<Dimension> =
            (0..4).map(|i| Dimension { size: operand.shape[i], stride: operand.strides[i] }).filter(|d| d.size != 1).collect();
        axes.sort_by_key(|d| std::cmp::Reverse(d.stride));
        let mut dimensions: Vec<Dimension> = Vec::new();
        for axis in axes {
            match dimensions.last_mut() {
                Some(outer) if outer.stride == axis.stride * axis.size => {
                    *outer = Dimension { size: outer.size * axis.size, stride: axis.stride };
                }
                _ => dimensions.push(axis),
            }
        }
        if dimensions.is_empty() {
            dimensions.push(Dimension { size: 1, stride: 1 });
        }
        let count = operand.shape.iter().product::<usize>();
        let last: usize = dimensions.iter().map(|d| d.size.saturating_sub(1) * d.stride).sum();
        let element = operand.element_bytes as usize;
        let (touched, owners) = if operand.access == Access::Read { (count, 0) } else { (0, count) };
        Ok(Self {
            operand: *operand,
            start: operand.address as usize,
            extent: if count == 0 { 0 } else { (last + 1) * element },
            shift: element.trailing_zeros(),
            packed: dimensions.len() == 1 && dimensions[0].stride == 1,
            dimensions,
            touched: memory::collect((0..touched).map(|_| AtomicU8::new(0)))?,
            owners: memory::collect((0..owners).map(|_| AtomicU64::new(0)))?,
        })
    }

    /// The elements that `bytes` bytes from `offset` on cover, if all of them belong to the
    /// operand.
    #[inline(always)]
    pub(super) fn elements(&self, offset: usize, bytes: usize) -> Option<(usize, usize)> {
        let first = offset >> self.shift;
        let count = ((offset + bytes - 1) >> self.shift) - first + 1;
        if self.packed {
            return (offset + bytes <= self.extent).then_some((first, count));
        }
        let (mut rest, mut index) = (first, 0);
        for d in &self.dimensions {
            let at = if (rest | d.stride) >> 32 == 0 { (rest as u32 / d.stride as u32) as usize } else { rest / d.stride };
            if at >= d.size {
                return None;
            }
            rest -= at * d.stride;
            index = index * d.size + at;
        }
        let run = self.dimensions[self.dimensions.len() - 1];
        let left = if run.stride == 1 { run.size - index % run.size } else { 1 };
        (rest == 0 && count <= left).then_some((index, count))
    }

    /// Calls `each` with the address and the bytes of every run of consecutive elements.
    pub(super) fn for_each_run(&self, mut each: impl FnMut(usize, usize)) {
        if self.extent == 0 {
            return;
        }
        let (run, outer) = match self.dimensions.split_last() {
            Some((last, outer)) if last.stride == 1 => (last.size, outer),
            _ => (1, &self.dimensions[..]),
        };
        for mut index in 0..outer.iter().map(|d| d.size).product::<usize>() {
            let mut element = 0;
            for d in outer.iter().rev() {
                element += index % d.size * d.stride;
                index /= d.size;
            }
            each(self.start + (element << self.shift), run << self.shift);
        }
    }

    /// An element in words: "element [0, 3, 2, 1] of y".
    pub(super) fn name_of(&self, mut index: usize) -> String {
        let mut element = 0;
        for d in self.dimensions.iter().rev() {
            element += index % d.size * d.stride;
            index /= d.size;
        }
        let Operand { shape, strides, name, .. } = self.operand;
        let mut axes = [0, 1, 2, 3];
        axes.sort_by_key(|&i| std::cmp::Reverse(strides[i]));
        let mut position = [0; 4];
        for i in axes.into_iter().filter(|&i| shape[i] > 1) {
            position[i] = element / strides[i];
            element %= strides[i];
        }
        format!("element {position:?} of {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(shape: [usize; 4], strides: [usize; 4]) -> Tracked {
        Tracked::new(&Operand { name: "x", address: 4096, element_bytes: 4, shape, strides, access: Access::Read }).unwrap()
    }

    /// Checks that every element of a view is inside and has its own number and name, and that
    /// nothing else is inside.
    fn covers_its_elements_only(shape: [usize; 4], strides: [usize; 4]) {
        let view = tracked(shape, strides);
        let mut positions = std::collections::BTreeMap::new();
        for n in 0..shape[0] {
            for c in 0..shape[1] {
                for h in 0..shape[2] {
                    for w in 0..shape[3] {
                        positions.insert(n * strides[0] + c * strides[1] + h * strides[2] + w * strides[3], [n, c, h, w]);
                    }
                }
            }
        }
        let mut numbers = Vec::new();
        for element in 0..view.extent / 4 {
            let found = view.elements(element * 4, 4);
            assert_eq!(found.is_some(), positions.contains_key(&element), "element {element} of {shape:?} {strides:?}");
            if let Some((number, 1)) = found {
                assert_eq!(view.name_of(number), format!("element {:?} of x", positions[&element]));
                numbers.push(number);
            }
            let pair = positions.contains_key(&element) && positions.contains_key(&(element + 1));
            assert_eq!(view.elements(element * 4, 8).is_some(), pair, "two elements from {element} of {shape:?} {strides:?}");
        }
        assert_eq!(numbers, (0..positions.len()).collect::<Vec<_>>());
        let mut bytes = 0;
        view.for_each_run(|address, run| {
            assert!(positions.contains_key(&((address - 4096) / 4)));
            bytes += run;
        });
        assert_eq!(bytes, 4 * positions.len());
    }

    #[test]
    fn views_cover_their_elements_only() {
        covers_its_elements_only([2, 3, 4, 5], [60, 20, 5, 1]); // packed
        covers_its_elements_only([2, 3, 4, 5], [140, 20, 5, 1]); // channels 0..3 of 7, contiguous
        covers_its_elements_only([2, 3, 4, 5], [140, 1, 35, 7]); // the same, channels_last
        covers_its_elements_only([2, 1, 4, 5], [140, 1, 35, 7]); // one channel
        covers_its_elements_only([3, 2, 2, 2], [97, 40, 11, 3]); // gaps in every axis
        covers_its_elements_only([1, 1, 1, 1], [1, 1, 1, 1]);
        assert_eq!(tracked([0, 3, 4, 5], [60, 20, 5, 1]).extent, 0);
    }
}
