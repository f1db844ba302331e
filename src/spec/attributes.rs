//! Attributes that several layers share, and how they are written in JSON.

use crate::error::{Error, Result};
use crate::shape::kernel_span;
use crate::text::with_hint;
use serde::de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::fmt;

/// Zeros around the input.
///
/// In JSON: one number for all sides, `[height, width]`, `[top, left, bottom, right]` or `"same"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Zeros at the top, left, bottom and right.
    Explicit([usize; 4]),
    /// As many zeros as keep the size at stride 1: dilation * (kernel - 1) along an axis. If that
    /// is odd, the extra zero is at the bottom or right, as in PyTorch. A stride above 1 is
    /// refused, as in PyTorch.
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

    /// The zeros at [top, left, bottom, right] for a kernel of this size.
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
                while let Some(Whole(side)) = seq.next_element()? {
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
            while let Some(Whole(value)) = seq.next_element()? {
                values.push(value);
            }
            <[usize; 2]>::try_from(values).map_err(|v| de::Error::invalid_length(v.len(), &self))
        }
    }
    deserializer.deserialize_any(PairVisitor)
}

/// A size in JSON: a whole number, 0 or larger.
#[derive(Clone, Copy)]
struct Whole(usize);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WholeVisitor;
        impl Visitor<'_> for WholeVisitor {
            type Value = Whole;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, 0 or larger")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Whole, E> {
                usize::try_from(value).map(Whole).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Whole, E> {
                usize::try_from(value).map(Whole).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }
        }
        deserializer.deserialize_u64(WholeVisitor)
    }
}

/// Reads a size.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Whole::deserialize(deserializer).map(|whole| whole.0)
}

/// Reads a size that may be left out.
pub(crate) fn some_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    Ok(Option::<Whole>::deserialize(deserializer)?.map(|whole| whole.0))
}

/// Attributes as they stand in JSON, not yet read into a spec. Each name occurs once.
#[derive(Default)]
pub(crate) struct Unread(Map<String, Value>);

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UnreadVisitor;
        impl<'de> Visitor<'de> for UnreadVisitor {
            type Value = Unread;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("attributes, {\"name\": value, ...}")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unread, A::Error> {
                let mut attributes = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if attributes.contains_key(&name) {
                        return Err(de::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    attributes.insert(name, value);
                }
                Ok(Unread(attributes))
            }
        }
        deserializer.deserialize_map(UnreadVisitor)
    }
}

/// The attributes of `op`. An error says what is wrong, and with which attribute.
pub(crate) fn of<S: DeserializeOwned>(op: &str, Unread(attributes): Unread) -> Result<S, String> {
    let read = |attributes: &Map<String, Value>| S::deserialize(Value::Object(attributes.clone())).map_err(|error| error.to_string());
    let message = match read(&attributes) {
        Ok(spec) => return Ok(spec),
        Err(message) => message,
    };
    // The attribute to blame: without it the error disappears, or is about something else.
    let is_wrong = |name: &&String| {
        let rest = attributes.iter().filter(|(other, _)| other != name).map(|(name, value)| (name.clone(), value.clone()));
        read(&rest.collect()).err().as_ref() != Some(&message)
    };
    let names = |name: &str| message.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
    match attributes.keys().find(is_wrong).filter(|name| !names(name)) {
        Some(name) => Err(format!("{name} of {op}: {}", with_hint(message))),
        None => Err(format!("{op}: {}", with_hint(message))),
    }
}

/// Reads the padding of a layer that has no `same`.
pub(crate) fn explicit_padding<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[usize; 4], D::Error> {
    match Padding::deserialize(deserializer)? {
        Padding::Explicit(padding) => Ok(padding),
        Padding::Same => Err(de::Error::custom("padding \"same\" is not defined for a transposed convolution")),
    }
}

/// Writes the JSON form of a spec: its attributes as they are, but each activation as two, its name
/// and the alpha of a leaky_relu. Where there are two activations, `in` says to which of them an
/// error belongs.
macro_rules! json_form {
    ($spec:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* } $($activation:ident with $alpha:ident $(in $place:literal)?),+) => {
        /// The attributes as they are in JSON.
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Attributes {
            $($(#[$attribute])* $field: $type,)*
            $(
                $activation: $crate::spec::activation::ActivationName,
                #[serde(skip_serializing_if = "Option::is_none")]
                $alpha: Option<f32>,
            )+
        }

        impl Default for Attributes {
            fn default() -> Self {
                $spec::default().into()
            }
        }

        impl From<$spec> for Attributes {
            fn from(spec: $spec) -> Self {
                let $spec { $($field,)* $($activation,)+ } = spec;
                $(let ($activation, $alpha) = $activation.into_parts();)+
                Self { $($field,)* $($activation, $alpha,)+ }
            }
        }

        impl TryFrom<Attributes> for $spec {
            type Error = String;
            fn try_from(attributes: Attributes) -> std::result::Result<Self, String> {
                let Attributes { $($field,)* $($activation, $alpha,)+ } = attributes;
                $(
                    let $activation = $crate::spec::Activation::from_parts($activation, $alpha)
                        .map_err(|error| format!(concat!($("in ", $place, ": ",)? "{}"), error))?;
                )+
                Ok(Self { $($field,)* $($activation,)+ })
            }
        }
    };
}
pub(crate) use json_form;
