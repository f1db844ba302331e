//! Weights as the user gives them.

use crate::error::{Error, Result};
use crate::shape::elements;
use crate::{DType, Element, memory};
use std::sync::Arc;

/// A layer's weight, bias or slope: a shape of any rank and the values. Values are kept in f32, and
/// rounded once to the dtype of the plan that uses them. Clones share the values.
///
/// A layer refuses to plan with a weight that is infinite or NaN in the dtype of the plan (70000 is
/// infinite in f16). [`Parameter::allow_non_finite`] allows such weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    shape: Vec<usize>,
    values: Arc<Vec<f32>>,
    /// The largest absolute value, or NaN if some value is NaN.
    largest: f32,
    non_finite_allowed: bool,
    forgotten: bool,
}

fn largest<'a>(values: impl IntoIterator<Item = &'a f32>) -> f32 {
    values.into_iter().fold(0.0, |largest: f32, value| if largest.is_nan() || value.abs() <= largest { largest } else { value.abs() })
}

impl Parameter {
    /// A parameter of `shape` with `values` in row-major order, which may be of any dtype.
    ///
    /// # Errors
    /// [`Error::Length`] when the number of values does not fit the shape; [`Error::Overflow`];
    /// [`Error::OutOfMemory`].
    pub fn new<T: Element>(shape: &[usize], values: &[T]) -> Result<Self> {
        Self::check_length(shape, values.len())?;
        Self::from_values(shape, memory::collect(values.iter().map(|v| v.to_f32()))?)
    }

    /// A parameter of values that are f32 already, without a copy.
    pub(crate) fn from_values(shape: &[usize], values: Vec<f32>) -> Result<Self> {
        Self::check_length(shape, values.len())?;
        Ok(Self::whole(shape.to_vec(), values))
    }

    /// A parameter whose values are known to fit the shape.
    fn whole(shape: Vec<usize>, values: Vec<f32>) -> Self {
        Self { shape, largest: largest(&values), values: Arc::new(values), non_finite_allowed: false, forgotten: false }
    }

    fn check_length(shape: &[usize], got: usize) -> Result<()> {
        let expected = elements(shape)?;
        if got != expected {
            return Err(Error::Length { name: "parameter", shape: shape.to_vec(), expected, got });
        }
        Ok(())
    }

    /// A parameter of which only the shape is known. It serves to check layers and to choose
    /// kernels. It never leaves the crate, since a plan with it has no values to multiply.
    pub(crate) fn outline(shape: &[usize]) -> Result<Self> {
        elements(shape)?;
        Ok(Self { shape: shape.to_vec(), values: Arc::default(), largest: 0.0, non_finite_allowed: false, forgotten: false })
    }

    /// Whether only the shape is known, and no values.
    pub(crate) fn is_outline(&self) -> bool {
        self.values.is_empty() && !self.forgotten && !self.shape.contains(&0)
    }

    /// A parameter of the same values and another shape.
    pub(crate) fn reshaped(&self, shape: &[usize]) -> Result<Self> {
        Self::check_length(shape, elements(&self.shape)?)?;
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    /// A parameter of `shape` whose values `make` computes from those of this one.
    pub(crate) fn derived(&self, shape: &[usize], make: impl FnOnce(&[f32]) -> Result<Vec<f32>>) -> Result<Self> {
        self.check_kept("another parameter")?;
        if self.is_outline() {
            return Self::outline(shape);
        }
        Ok(Self { non_finite_allowed: self.non_finite_allowed, ..Self::from_values(shape, make(&self.values)?)? })
    }

    /// Allows infinite values and NaN, in f32 or after rounding to the dtype of a plan. Such
    /// weights cost speed: kernels that multiply the zeros of the padding would turn them into NaN,
    /// so they do not apply ([`crate::numerics`]).
    ///
    /// ```
    /// use warpconv::{Conv2d, Conv2dSpec, Device, Error, Inputs, Layer, MemoryFormat, Parameter, Tensor};
    /// use half::f16;
    /// let device = Device::best()?;
    /// let x = Tensor::<f16>::randn(&device, [1, 1, 2, 2], MemoryFormat::Contiguous, 1)?;
    /// let weight = Parameter::new(&[1, 1, 1, 1], &[70000f32])?;
    /// let refused = Conv2d::new(Conv2dSpec::default(), weight.clone())?.forward(&Inputs::new(&x));
    /// assert!(matches!(refused, Err(Error::NonFinite { .. })));
    /// let y = Conv2d::new(Conv2dSpec::default(), weight.allow_non_finite())?.forward(&Inputs::new(&x))?;
    /// assert!(y.to_vec()?[0].is_infinite());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn allow_non_finite(self) -> Self {
        Self { non_finite_allowed: true, ..self }
    }

    /// Whether all values are finite when they are rounded to `dtype`.
    pub(crate) fn is_finite_in(&self, dtype: DType) -> bool {
        dtype.round(f64::from(self.largest)).is_finite()
    }

    /// Refuses values that are not finite in `dtype`, unless they are allowed.
    pub(crate) fn check_finite(&self, name: &'static str, dtype: DType) -> Result<()> {
        if self.non_finite_allowed || self.is_finite_in(dtype) {
            return Ok(());
        }
        let wrong = |value: &f32| !dtype.round(f64::from(*value)).is_finite();
        let index = self.values.iter().position(wrong).unwrap_or_default();
        let mut position = vec![0; self.shape.len()];
        let mut rest = index;
        for (at, size) in position.iter_mut().zip(&self.shape).rev() {
            (*at, rest) = (rest % size, rest / size);
        }
        Err(Error::NonFinite {
            name,
            value: self.values.get(index).copied().unwrap_or(self.largest),
            position,
            shape: self.shape.clone(),
            dtype,
        })
    }

    /// A vector, such as a bias.
    pub fn vector<T: Element>(values: &[T]) -> Self {
        Self::whole(vec![values.len()], values.iter().map(|v| v.to_f32()).collect())
    }

    /// Drops the values, of which a device has a copy, and keeps the shape.
    pub(crate) fn forget(&mut self) {
        (self.values, self.forgotten) = (Arc::default(), true);
    }

    /// Fails if the values have been dropped, for an operation that needs them.
    pub(crate) fn check_kept(&self, needed_for: &str) -> Result<()> {
        if self.forgotten { Err(Error::Forgotten { needed_for: needed_for.into() }) } else { Ok(()) }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values in row-major order. Empty once a layer has forgotten them
    /// ([`crate::Layer::forget_host_weights`]).
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values rounded to `dtype`, as f64. These are the numbers that a kernel of that dtype
    /// multiplies.
    pub fn rounded(&self, dtype: DType) -> Vec<f64> {
        self.values.iter().map(|&v| dtype.round(f64::from(v))).collect()
    }

    /// Refuses every shape but [len].
    pub(crate) fn check_vector(&self, name: &'static str, len: usize, meaning: &'static str) -> Result<()> {
        if self.shape.len() != 1 {
            return Err(Error::Rank { name, shape: self.shape.clone(), expected: 1, meaning });
        }
        if self.shape[0] != len {
            return Err(Error::Shape { name, shape: self.shape.clone(), expected: format!("shape [{len}]: {meaning}") });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_named() {
        let weight = Parameter::new(&[2, 1, 1, 3], &[1f32, -2.0, 3.0, 4.0, -65520.0, f32::NAN]).unwrap();
        let of = |weight: &Parameter, dtype| weight.check_finite("weight", dtype).unwrap_err().to_string();
        assert!(of(&weight, DType::F32).contains("weight is NaN at [1, 0, 0, 2] of [2, 1, 1, 3]"), "{}", of(&weight, DType::F32));
        assert!(of(&weight, DType::F16).contains("weight is -65520.0 at [1, 0, 0, 1]"), "{}", of(&weight, DType::F16));
        assert!(weight.clone().allow_non_finite().check_finite("weight", DType::F32).is_ok());
        assert!(weight.allow_non_finite().derived(&[1], |_| Ok(vec![f32::INFINITY])).unwrap().check_finite("weight", DType::F32).is_ok());
        let large = Parameter::vector(&[65519f32]);
        assert!(DType::ALL.into_iter().all(|dtype| large.is_finite_in(dtype)));
        assert!(!Parameter::vector(&[f32::MAX]).is_finite_in(DType::Bf16) && Parameter::vector(&[f32::MAX]).is_finite_in(DType::F32));
        assert!(Parameter::vector::<f32>(&[]).is_finite_in(DType::F16));
    }
}
