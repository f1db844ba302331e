//! Weights as the user gives them.

use crate::error::{Error, Result};
use crate::geometry::elements;
use crate::{DType, Element};
use std::sync::Arc;

/// A layer's weight, bias or slope: a shape of any rank and its values, kept in f32 and rounded once to the dtype of the plan
/// that uses them. Cloning shares the values.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    shape: Vec<usize>,
    values: Arc<[f32]>,
}

impl Parameter {
    /// A parameter of `shape` with `values` in row-major order, given in any dtype.
    ///
    /// # Errors
    /// [`Error::Length`] when the number of values is not the shape's; [`Error::Overflow`].
    pub fn new<T: Element>(shape: &[usize], values: &[T]) -> Result<Self> {
        let expected = elements(shape)?;
        if values.len() != expected {
            return Err(Error::Length { name: "parameter", shape: shape.to_vec(), expected, got: values.len() });
        }
        Ok(Self { shape: shape.to_vec(), values: values.iter().map(|v| v.to_f32()).collect() })
    }

    /// A vector, such as a bias.
    pub fn vector<T: Element>(values: &[T]) -> Self {
        Self { shape: vec![values.len()], values: values.iter().map(|v| v.to_f32()).collect() }
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its values in row-major order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Its values rounded to `dtype`, as f64: what a kernel of that dtype multiplies with.
    pub fn rounded(&self, dtype: DType) -> Vec<f64> {
        self.values.iter().map(|&v| dtype.round(f64::from(v))).collect()
    }

    /// Refuses a shape other than [len].
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
