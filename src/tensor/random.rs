//! Tensors of random values.

use super::Tensor;
use crate::error::Result;
use crate::shape::elements;
use crate::{Device, Element, MemoryFormat, Shape, memory};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};

impl<T: Element> Tensor<T> {
    /// Uniform random values in [-1, 1), the same for the same seed on every device and in every
    /// format. Needs the feature `rand`, which is on by default.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    #[cfg_attr(docsrs, doc(cfg(feature = "rand")))]
    pub fn rand(device: &Device, shape: Shape, format: MemoryFormat, seed: u64) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        Self::generate(device, shape, format, || (rng.next_u32() >> 8) as f32 * 2f32.powi(-23) - 1.0)
    }

    /// Normally distributed random values (mean 0, variance 1), the same for the same seed on every
    /// device and in every format. Needs the feature `rand`, which is on by default.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    #[cfg_attr(docsrs, doc(cfg(feature = "rand")))]
    pub fn randn(device: &Device, shape: Shape, format: MemoryFormat, seed: u64) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        Self::generate(device, shape, format, || StandardNormal.sample(&mut rng))
    }

    fn generate(device: &Device, shape: Shape, format: MemoryFormat, mut next: impl FnMut() -> f32) -> Result<Self> {
        let values = memory::collect((0..elements(&shape)?).map(|_| T::from_f32(next())))?;
        let tensor = Self::from_slice(device, shape, &values)?;
        if format == MemoryFormat::Contiguous { Ok(tensor) } else { tensor.to_format(format) }
    }
}
