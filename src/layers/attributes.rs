//! Attributes that several layers share, and how they are written in JSON.

use crate::error::{Error, Result};
use crate::geometry::kernel_span;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Zeros around the input.
///
/// In JSON: one number for all sides, `[height, width]`, `[top, left, bottom, right]` or `"same"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Zeros at the top, left, bottom and right.
    Explicit([usize; 4]),
    /// As many zeros as keep the size at stride 1: dilation * (kernel - 1) an axis, the odd one at the bottom or right, as in
    /// PyTorch. Refused with a stride above 1, as in PyTorch.
    Same,
}

impl Default for Padding {
    fn default() -> Self {
        Padding::Explicit([0; 4])
    }
}

impl Padding {
    /// The same number of zeros on all four sides.
    pub fn all(zeros: usize) -> Self {
        Padding::Explicit([zeros; 4])
    }

    /// [top, left, bottom, right] for a kernel.
    ///
    /// # Errors
    /// [`Error::Attribute`] for `same` with a stride above 1.
    pub fn resolve(self, kernel: [usize; 2], dilation: [usize; 2], stride: [usize; 2]) -> Result<[usize; 4]> {
        match self {
            Padding::Explicit(padding) => Ok(padding),
            Padding::Same if stride != [1, 1] => Err(Error::Attribute {
                name: "padding",
                value: format!("\"same\" with stride {stride:?}"),
                requirement: "explicit where a stride is above 1",
            }),
            Padding::Same => {
                let total = [kernel_span(kernel[0], dilation[0])? - 1, kernel_span(kernel[1], dilation[1])? - 1];
                Ok([total[0] / 2, total[1] / 2, total[0] - total[0] / 2, total[1] - total[1] / 2])
            }
        }
    }
}

impl Serialize for Padding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Padding::Explicit(padding) => padding.serialize(serializer),
            Padding::Same => serializer.serialize_str("same"),
        }
    }
}

impl<'de> Deserialize<'de> for Padding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PaddingVisitor;
        impl<'de> Visitor<'de> for PaddingVisitor {
            type Value = Padding;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("zeros on each side: a number, [height, width], [top, left, bottom, right], none negative, or \"same\"")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Padding, E> {
                usize::try_from(value).map(Padding::all).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Padding, E> {
                if value == "same" { Ok(Padding::Same) } else { Err(E::invalid_value(de::Unexpected::Str(value), &self)) }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Padding, A::Error> {
                let mut sides = Vec::with_capacity(4);
                while let Some(side) = seq.next_element::<usize>()? {
                    sides.push(side);
                }
                match sides[..] {
                    [h, w] => Ok(Padding::Explicit([h, w, h, w])),
                    [top, left, bottom, right] => Ok(Padding::Explicit([top, left, bottom, right])),
                    _ => Err(de::Error::invalid_length(sides.len(), &self)),
                }
            }
        }
        deserializer.deserialize_any(PaddingVisitor)
    }
}

/// Reads `[h, w]`, or one number for both.
pub(crate) fn pair<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[usize; 2], D::Error> {
    struct PairVisitor;
    impl<'de> Visitor<'de> for PairVisitor {
        type Value = [usize; 2];
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("[height, width] or one number for both, none negative")
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<[usize; 2], E> {
            usize::try_from(value).map(|v| [v; 2]).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<[usize; 2], A::Error> {
            let mut values = Vec::with_capacity(2);
            while let Some(value) = seq.next_element::<usize>()? {
                values.push(value);
            }
            <[usize; 2]>::try_from(values).map_err(|v| de::Error::invalid_length(v.len(), &self))
        }
    }
    deserializer.deserialize_any(PairVisitor)
}
