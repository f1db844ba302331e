//! The array type of the oracle.

use crate::error::{Error, Result};
use crate::{DType, Element, memory};

/// An array of f64 with any shape, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Array {
    /// An array of `shape` with `data` in row-major order.
    ///
    /// # Errors
    /// [`Error::Length`] when the number of values does not fit the shape; [`Error::Overflow`].
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Result<Self> {
        let shape = shape.into();
        let expected = length(&shape)?;
        if data.len() != expected {
            return Err(Error::Length { name: "array", shape, expected, got: data.len() });
        }
        Ok(Self { shape, data })
    }

    /// An array of values of any dtype, such as `tensor.to_vec()?`.
    ///
    /// # Errors
    /// As [`Array::new`].
    pub fn from_slice<T: Element>(shape: impl Into<Vec<usize>>, values: &[T]) -> Result<Self> {
        Self::new(shape, memory::collect(values.iter().map(|v| f64::from(v.to_f32())))?)
    }

    /// An array of zeros.
    ///
    /// # Errors
    /// [`Error::Overflow`]; [`Error::OutOfMemory`].
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Result<Self> {
        let shape = shape.into();
        let data = memory::filled(length(&shape)?, 0.0)?;
        Ok(Self { shape, data })
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values in row-major order.
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    /// The values in row-major order.
    pub fn into_data(self) -> Vec<f64> {
        self.data
    }

    /// The array with `f` applied to every value.
    pub fn map(&self, f: impl FnMut(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), data: self.data.iter().copied().map(f).collect() }
    }

    /// The array of absolute values.
    pub fn abs(&self) -> Self {
        self.map(f64::abs)
    }

    /// Every value rounded once to `dtype`, as a cast does: to nearest, ties to even, overflow to
    /// infinity.
    pub fn rounded(&self, dtype: DType) -> Self {
        self.map(|v| dtype.round(v))
    }

    pub(super) fn data_mut(&mut self) -> &mut [f64] {
        &mut self.data
    }

    /// The shape, if it has N dimensions.
    pub(super) fn dimensions<const N: usize>(&self, name: &'static str, meaning: &'static str) -> Result<[usize; N]> {
        let wrong = |_| Error::Rank { name, shape: self.shape.clone(), expected: N, meaning };
        self.shape.as_slice().try_into().map_err(wrong)
    }

    /// Refuses every shape but `expected`.
    pub(super) fn check_shape(&self, name: &'static str, expected: &[usize]) -> Result<()> {
        if self.shape != expected {
            return Err(Error::Shape { name, shape: self.shape.clone(), expected: format!("shape {expected:?}") });
        }
        Ok(())
    }
}

/// The number of elements of a shape.
fn length(shape: &[usize]) -> Result<usize> {
    // A count of f64 whose bytes no allocation could hold is refused, whatever the order of the
    // sizes.
    const LIMIT: u128 = isize::MAX as u128 / 8;
    if shape.contains(&0) {
        return Ok(0);
    }
    let count = shape.iter().try_fold(1u128, |count, &size| Some(count * size as u128).filter(|&c| c <= LIMIT));
    let overflow = || Error::Overflow { what: "the number of elements", values: format!("shape {shape:?}") };
    count.map(|c| c as usize).ok_or_else(overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_checked() {
        assert!(matches!(Array::new([2, 3], vec![0.0; 5]), Err(Error::Length { expected: 6, got: 5, .. })));
        assert!(matches!(Array::zeros([usize::MAX, usize::MAX]), Err(Error::Overflow { .. })));
        assert!(Array::zeros([usize::MAX, usize::MAX, 0]).unwrap().data().is_empty());
        assert_eq!(Array::new([], vec![7.0]).unwrap().data(), [7.0]);
    }

    #[test]
    fn rounding_is_that_of_the_dtype() {
        let x = Array::new([3], vec![1.0 + 2f64.powi(-11), -70000.0, f64::NAN]).unwrap();
        let f16 = x.rounded(DType::F16);
        assert_eq!(f16.data()[..2], [1.0, f64::NEG_INFINITY]);
        assert!(f16.data()[2].is_nan());
        assert_eq!(x.rounded(DType::Bf16).data()[1], -70144.0);
        assert_eq!(Array::from_slice([2], &[half::f16::ONE, half::f16::NEG_ONE]).unwrap().abs().data(), [1.0, 1.0]);
    }
}
