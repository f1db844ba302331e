//! Tensors whose dtype is known only at run time.

use super::Tensor;
use crate::error::Result;
use crate::{DType, Device, Element, MemoryFormat, Shape, memory};
use half::{bf16, f16};

/// A tensor whose dtype is known only at run time.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyTensor {
    /// f32
    F32(Tensor<f32>),
    /// f16
    F16(Tensor<f16>),
    /// bf16
    Bf16(Tensor<bf16>),
}

/// Runs `$body` with `$tensor` bound to the tensor inside an [`AnyTensor`].
macro_rules! with_tensor {
    ($any:expr, $tensor:ident => $body:expr) => {
        match $any {
            $crate::AnyTensor::F32($tensor) => $body,
            $crate::AnyTensor::F16($tensor) => $body,
            $crate::AnyTensor::Bf16($tensor) => $body,
        }
    };
}
pub(crate) use with_tensor;

impl AnyTensor {
    /// The dtype.
    pub fn dtype(&self) -> DType {
        fn of<T: Element>(_: &Tensor<T>) -> DType {
            T::DTYPE
        }
        with_tensor!(self, t => of(t))
    }

    /// The logical shape [N, C, H, W].
    pub fn shape(&self) -> Shape {
        with_tensor!(self, t => t.shape())
    }

    /// The memory format.
    pub fn format(&self) -> MemoryFormat {
        with_tensor!(self, t => t.format())
    }

    /// The device on which the tensor is.
    pub fn device(&self) -> &Device {
        with_tensor!(self, t => t.device())
    }

    /// A copy as `Tensor<U>`, rounded if the dtypes differ.
    ///
    /// # Errors
    /// As [`Tensor::cast`].
    pub fn cast<U: Element>(&self) -> Result<Tensor<U>> {
        with_tensor!(self, t => t.cast())
    }

    /// A copy in another format, or in the same.
    ///
    /// # Errors
    /// As [`Tensor::to_format`].
    pub fn to_format(&self, format: MemoryFormat) -> Result<AnyTensor> {
        with_tensor!(self, t => Ok(t.to_format(format)?.into()))
    }

    /// The values in NCHW order, as f32, which is exact for every dtype.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        with_tensor!(self, t => memory::collect(t.to_vec()?.into_iter().map(|v| v.to_f32())))
    }
}

impl<T: Element> From<Tensor<T>> for AnyTensor {
    fn from(tensor: Tensor<T>) -> Self {
        match T::DTYPE {
            DType::F32 => AnyTensor::F32(tensor.of_same_dtype()),
            DType::F16 => AnyTensor::F16(tensor.of_same_dtype()),
            DType::Bf16 => AnyTensor::Bf16(tensor.of_same_dtype()),
        }
    }
}
