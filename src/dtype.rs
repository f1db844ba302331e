//! Element types and memory formats.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The type of a tensor's elements. Products and sums are always computed in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: f32 with the lower 16 bits cut off.
    Bf16,
}

impl DType {
    /// All dtypes.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// "f32", "f16" or "bf16".
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }

    /// Half the distance from 1 to the next number: the largest relative error of one rounding.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            DType::F32 => 2f64.powi(-24),
            DType::F16 => 2f64.powi(-11),
            DType::Bf16 => 2f64.powi(-8),
        }
    }

    /// The smallest positive number, which is subnormal.
    pub fn smallest_subnormal(self) -> f64 {
        match self {
            DType::F32 => 2f64.powi(-149),
            DType::F16 => 2f64.powi(-24),
            DType::Bf16 => 2f64.powi(-133),
        }
    }

    /// The value rounded once to this dtype (to nearest, ties to even, overflow to infinity), as
    /// f64.
    pub fn round(self, value: f64) -> f64 {
        match self {
            DType::F32 => value as f32 as f64,
            DType::F16 => f16::from_f32(round_to_odd(value)).to_f64(),
            DType::Bf16 => bf16::from_f32(round_to_odd(value)).to_f64(),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Converts f64 to f32. Inexact values are rounded to the neighbour whose last bit is odd, so that
/// a second rounding to a narrower type gives the same as a single one.
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if nearest.is_nan() || f64::from(nearest) == value {
        return nearest;
    }
    if nearest.is_infinite() {
        return f32::MAX.copysign(nearest);
    }
    if nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // The odd neighbour is on the other side of `value`.
    let towards_zero = f64::from(nearest).abs() > value.abs();
    let bits = nearest.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    if towards_zero {
        f32::from_bits(bits - 1)
    } else if magnitude == 0 {
        f32::from_bits(1).copysign(value as f32)
    } else {
        f32::from_bits(bits + 1)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// Evaluates an expression with the [`Element`] type of a [`DType`] that is known only at run time.
///
/// ```
/// use warpconv::{DType, Device, Element, MemoryFormat, Result, Tensor, with_dtype};
/// fn bytes<T: Element>(device: &Device) -> Result<usize> {
///     Ok(size_of::<T>() * Tensor::<T>::zeros(device, [1, 3, 4, 4], MemoryFormat::ChannelsLast)?.to_vec()?.len())
/// }
/// let device = Device::best()?;
/// for dtype in DType::ALL {
///     assert_eq!(with_dtype!(dtype, T => bytes::<T>(&device))?, dtype.bytes() * 3 * 4 * 4);
/// }
/// # Ok::<(), warpconv::Error>(())
/// ```
#[macro_export]
macro_rules! with_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F16 => {
                type $T = $crate::half::f16;
                $body
            }
            $crate::DType::Bf16 => {
                type $T = $crate::half::bf16;
                $body
            }
        }
    };
}

/// A type that tensors hold: `f32`, [`half::f16`] or [`half::bf16`].
pub trait Element: sealed::Sealed + bytemuck::Pod + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The [`DType`] of this type.
    const DTYPE: DType;
    /// Converts from f32, rounding to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Converts to f32 exactly.
    fn to_f32(self) -> f32;
    /// Converts from f64 with a single rounding.
    fn from_f64(value: f64) -> Self {
        match Self::DTYPE {
            DType::F32 => Self::from_f32(value as f32),
            DType::F16 | DType::Bf16 => Self::from_f32(round_to_odd(value)),
        }
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    fn from_f32(value: f32) -> Self {
        value
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// The order of a tensor's elements in memory. The logical shape is [N, C, H, W] in both formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryFormat {
    /// NCHW: the pixels of a row are neighbours.
    #[default]
    Contiguous,
    /// NHWC: the channels of a pixel are neighbours.
    ChannelsLast,
}

impl MemoryFormat {
    /// Both formats.
    pub const ALL: [MemoryFormat; 2] = [MemoryFormat::Contiguous, MemoryFormat::ChannelsLast];

    /// "contiguous" or "channels_last".
    pub const fn name(self) -> &'static str {
        match self {
            MemoryFormat::Contiguous => "contiguous",
            MemoryFormat::ChannelsLast => "channels_last",
        }
    }
}

impl fmt::Display for MemoryFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_once() {
        // Just above the middle between 1 and the next f16: two roundings would give 1.
        let value = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        assert_eq!(f16::from_f32(value as f32).to_f64(), 1.0);
        assert_eq!(DType::F16.round(value), 1.0 + 2f64.powi(-10));
        assert_eq!(<f16 as Element>::from_f64(value).to_f64(), 1.0 + 2f64.powi(-10));
        assert_eq!(DType::F16.round(-value), -1.0 - 2f64.powi(-10));
        assert_eq!(DType::Bf16.round(1.0 + 2f64.powi(-8) + 2f64.powi(-50)), 1.0 + 2f64.powi(-7));
        assert_eq!(DType::F16.round(65519.999), 65504.0);
        assert_eq!(DType::F16.round(65520.0), f64::INFINITY);
        assert_eq!(DType::F16.round(1e300), f64::INFINITY);
        assert_eq!(DType::F16.round(2f64.powi(-25) * 1.0001), 2f64.powi(-24));
        assert_eq!(DType::F16.round(2f64.powi(-25)), 0.0);
        assert!(DType::Bf16.round(f64::NAN).is_nan());
        assert!(DType::Bf16.round(-1e-320).is_sign_negative());
    }
}
