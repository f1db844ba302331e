//! The values of the tensors in a measurement: random in every bit of the mantissa, since kernels
//! run faster on zeros.

use crate::error::{Error, Result};
use crate::geometry::elements;
use crate::{Element, Layout, Shape};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The number of values in a pool. It is prime, so that no row or image repeats the one before.
const POOL: usize = 1_048_573;
/// The largest coordinate of a RoI. Up to there f32 distinguishes pixels.
const LARGEST_SIDE: f32 = 16_777_216.0;

/// A pool of random values from which tensors of any size are filled quickly.
#[derive(Debug)]
pub(super) struct Values(Vec<f32>);

/// A tensor's values on the host, in their order in device memory.
#[derive(Debug)]
pub(super) struct Placed<T> {
    pub layout: Layout,
    pub values: Vec<T>,
}

impl<T: Element> Placed<T> {
    /// The value at [n, c, h, w].
    pub fn at(&self, position: Shape) -> f64 {
        let index: usize = self.layout.strides().iter().zip(position).map(|(stride, index)| stride * index).sum();
        f64::from(self.values[index].to_f32())
    }
}

impl Values {
    /// A pool with the same values in every run.
    pub fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(20);
        Self((0..POOL).map(|_| rng.random_range(-1.0f32..1.0)).collect())
    }

    /// Values for the tensor `name` of set `set`: uniform in [-1, 1). A mask is in [0, 1), and
    /// offsets are within two pixels.
    pub fn place<T: Element>(&self, name: &str, set: usize, layout: Layout) -> Result<Placed<T>> {
        let one = |&v: &f32| {
            T::from_f32(match name {
                "mask" => v.abs(),
                "offset" => 2.0 * v,
                _ => v,
            })
        };
        let start = name.bytes().fold(set * 7919, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % POOL;
        let count = elements(&layout.shape())?;
        // The pool is converted once and then copied: tensors are far larger than the pool.
        let pool: Vec<T> = self.0.iter().cycle().skip(start).take(POOL.min(count)).map(one).collect();
        let mut values = crate::memory::with_capacity(count)?;
        while values.len() < count {
            values.extend_from_slice(&pool[..pool.len().min(count - values.len())]);
        }
        Ok(Placed { layout, values })
    }

    /// Makes `count` RoIs on `batch` images of [height, width] pixels. Each is from a 16th to half
    /// of the image large, in coordinates that `scale` converts to pixels.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a scale for which no side of the image is a positive f32.
    pub fn rois(&self, count: usize, batch: usize, image: [usize; 2], scale: f32) -> Result<Vec<[f32; 5]>> {
        let [h, w] = image.map(|size| size as f32 / scale);
        if ![h, w].iter().all(|side| side.is_normal() && *side > 0.0 && *side <= LARGEST_SIDE) {
            let value = format!("{scale:e} for an image of {} x {} pixels", image[0], image[1]);
            let requirement = "such that the image, divided by it, is at most 2^24 wide and high, as far as f32 tells pixels apart";
            return Err(Error::Attribute { name: "spatial_scale", value, requirement });
        }
        let mut rng = StdRng::seed_from_u64(21);
        let mut side = |size: f32| {
            let length = size * rng.random_range(0.0625f32..0.5);
            let start = rng.random_range(0.0..size - length);
            // Multiples of a quarter, which f32 scales exactly.
            [start, start + length].map(|v| (v * 4.0).round() / 4.0)
        };
        let mut roi = |index: usize| {
            let ([x1, x2], [y1, y2]) = (side(w), side(h));
            [(index % batch.max(1)) as f32, x1, y1, x2, y2]
        };
        Ok((0..count).map(&mut roi).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rois_lie_in_the_image_or_are_refused() {
        let values = Values::new();
        for (image, scale) in [([14, 20], 1.0 / 16.0), ([1, 1], 4.0), ([7, 1], 1e-3)] {
            let [h, w] = image.map(|size| size as f32 / scale);
            let rois = values.rois(100, 3, image, scale).unwrap();
            let inside = |[_, x1, y1, x2, y2]: &[f32; 5]| (0.0..=x2.min(w + 0.25)).contains(x1) && (0.0..=y2.min(h + 0.25)).contains(y1);
            assert!(rois.iter().all(inside), "{rois:?}");
        }
        for scale in [1e-38, f32::MIN_POSITIVE, 1e-8, f32::MAX] {
            assert!(matches!(values.rois(1, 1, [2, 3], scale), Err(Error::Attribute { name: "spatial_scale", .. })), "{scale}");
        }
    }
}
