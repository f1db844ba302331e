//! Changes to inputs: of JSON by its structure, of everything else and sometimes of JSON too by its bytes.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

/// What an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    /// The length of a JSON header in 8 bytes, the header, and data: a safetensors file, and a corpus as its target takes it.
    Headed,
    /// PNG or JPEG.
    Image,
}

/// A seed with a few changes, always the same for the same numbers.
pub fn input(format: Format, seeds: &[Vec<u8>], seed: u64, index: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index);
    let pick = |rng: &mut StdRng| seeds.choose(rng).expect("every target has a seed");
    let (mut data, other) = (pick(&mut rng).clone(), pick(&mut rng).clone());
    match format {
        Format::Json if rng.random_bool(0.85) => data = text(&mut rng, &data, &other),
        Format::Headed if rng.random_bool(0.6) => {
            if let (Some((header, rest)), Some((other, _))) = (split(&data), split(&other)) {
                let header = text(&mut rng, header, other);
                data = [&(header.len() as u64).to_le_bytes()[..], &header, rest].concat();
            }
        }
        _ => {}
    }
    let changes = if format == Format::Image { rng.random_range(1..6) } else { rng.random_range(0..3) };
    if format == Format::Image || rng.random_bool(0.25) {
        (0..changes).for_each(|_| bytes(&mut rng, &mut data, &other));
    }
    if format == Format::Image && rng.random_bool(0.7) {
        checksums(&mut data);
    }
    data
}

/// A header and what is behind it.
pub fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk()?;
    rest.split_at_checked(u64::from_le_bytes(*length) as usize)
}

/// Sizes and numbers at which things break.
const INTEGERS: [i128; 34] = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    15,
    16,
    17,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    1000,
    65535,
    65536,
    16777216,
    16777217,
    1000000000,
    2147483647,
    2147483648,
    4294967295,
    4294967296,
    9223372036854775807,
    18446744073709551615,
];
const FLOATS: [f64; 16] =
    [0.0, -0.0, 0.5, 1.5, -1.0, 1e-38, 1e-45, 5e-324, 1e38, 3.5e38, 1e308, -1e308, f64::MAX, f64::MIN_POSITIVE, 1e-300, 4294967296.5];
/// Words that mean something somewhere.
const WORDS: [&str; 44] = [
    "",
    "N",
    "same",
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "sigmoid",
    "tanh",
    "silu",
    "gelu",
    "hardswish",
    "none",
    "mish",
    "crd",
    "dcr",
    "focus",
    "f32",
    "f16",
    "bf16",
    "F32",
    "F64",
    "F16",
    "BF16",
    "I8",
    "BOOL",
    "contiguous",
    "channels_last",
    "x",
    "weight",
    "bias",
    "slope",
    "residual",
    "offset",
    "mask",
    "rois",
    "exact",
    "full_mantissa",
    "special",
    "core",
    "extended",
    "\u{0}",
    "é\u{1f600}",
    "__metadata__",
];

fn text(rng: &mut StdRng, data: &[u8], other: &[u8]) -> Vec<u8> {
    let (Ok(mut value), other) = (serde_json::from_slice::<Value>(data), serde_json::from_slice::<Value>(other).unwrap_or_default()) else {
        return data.to_vec();
    };
    for _ in 0..rng.random_range(1..5) {
        let count = nodes(&value);
        let donor = nodes(&other);
        let spare = nth(&other, rng.random_range(0..donor)).cloned().unwrap_or_default();
        if let Some(node) = nth_mut(&mut value, &mut rng.random_range(0..count)) {
            change(rng, node, spare);
        }
    }
    value.to_string().into_bytes()
}

/// A value, and all values within it.
fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(entries) => entries.values().map(nodes).sum(),
        _ => 0usize,
    }
}

fn nth(value: &Value, index: usize) -> Option<&Value> {
    let mut left = index;
    fn find<'a>(value: &'a Value, left: &mut usize) -> Option<&'a Value> {
        if *left == 0 {
            return Some(value);
        }
        *left -= 1;
        match value {
            Value::Array(items) => items.iter().find_map(|item| find(item, left)),
            Value::Object(entries) => entries.values().find_map(|item| find(item, left)),
            _ => None,
        }
    }
    find(value, &mut left)
}

fn nth_mut<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth_mut(item, left)),
        Value::Object(entries) => entries.values_mut().find_map(|item| nth_mut(item, left)),
        _ => None,
    }
}

fn number(rng: &mut StdRng) -> Value {
    match rng.random_range(0..10) {
        0..7 => {
            let integer = INTEGERS.choose(rng).expect("not empty") + i128::from(rng.random_range(-1..2));
            u64::try_from(integer).map_or_else(|_| json!(integer.max(-1) as i64), |integer| json!(integer))
        }
        7 => json!(-rng.random_range(1i64..100)),
        _ => json!(FLOATS.choose(rng).expect("not empty")),
    }
}

fn word(rng: &mut StdRng) -> String {
    match rng.random_range(0..20) {
        0 => "long ".repeat(13108), // above 2^16
        _ => WORDS.choose(rng).expect("not empty").to_string(),
    }
}

fn change(rng: &mut StdRng, node: &mut Value, spare: Value) {
    if rng.random_bool(0.15) {
        *node = match rng.random_range(0..8) {
            0 => Value::Null,
            1 => json!(rng.random_bool(0.5)),
            2 => json!([]),
            3 => json!({}),
            4 => (0..rng.random_range(1..200)).fold(json!(1), |inner, _| json!([inner])),
            5 => number(rng),
            6 => json!(word(rng)),
            _ => spare,
        };
        return;
    }
    match node {
        Value::Null | Value::Bool(_) => *node = spare,
        Value::Number(old) => {
            let near = |old: u64, rng: &mut StdRng| json!(old.wrapping_add_signed(rng.random_range(-2i64..3)));
            *node = match (old.as_u64(), rng.random_range(0..4)) {
                (Some(old), 0) => near(old, rng),
                (Some(old), 1) => json!(old.saturating_mul(rng.random_range(2u64..1000))),
                _ => number(rng),
            }
        }
        Value::String(_) => *node = json!(word(rng)),
        Value::Array(items) => items_change(rng, items, spare),
        Value::Object(entries) => entries_change(rng, entries, spare),
    }
}

fn items_change(rng: &mut StdRng, items: &mut Vec<Value>, spare: Value) {
    let at = rng.random_range(0..items.len().max(1));
    match rng.random_range(0..6) {
        0 => items.push(spare),
        1 if at < items.len() => drop(items.remove(at)),
        2 => items.clear(),
        3 if at < items.len() => items.push(items[at].clone()),
        4 => items.reverse(),
        _ if items.iter().all(Value::is_number) => {
            let value = number(rng);
            match items.get_mut(at) {
                Some(item) => *item = value,
                None => items.push(value),
            }
        }
        _ => {}
    }
}

fn entries_change(rng: &mut StdRng, entries: &mut Map<String, Value>, spare: Value) {
    let keys: Vec<String> = entries.keys().cloned().collect();
    let key = keys.choose(rng).cloned().unwrap_or_default();
    match rng.random_range(0..4) {
        0 => drop(entries.shift_remove(&key)),
        1 => drop(entries.insert(word(rng), spare)),
        2 => {
            if let Some(value) = entries.shift_remove(&key) {
                entries.insert(word(rng), value);
            }
        }
        _ => {
            if let (Some(value), Some(other)) = (entries.get(&key).cloned(), keys.choose(rng)) {
                entries.insert(other.clone(), value);
            }
        }
    }
}

fn bytes(rng: &mut StdRng, data: &mut Vec<u8>, other: &[u8]) {
    if data.is_empty() {
        data.extend_from_slice(other);
        return;
    }
    let at = rng.random_range(0..data.len());
    let end = (at + rng.random_range(1..17)).min(data.len());
    match rng.random_range(0..9) {
        0 => data[at] ^= 1 << rng.random_range(0..8),
        1 => data[at] = rng.random_range(0..=255),
        2 => drop(data.drain(at..end)),
        3 => {
            let copy = data[at..end].to_vec();
            drop(data.splice(at..at, copy));
        }
        4 => data.truncate(at),
        5 => {
            let noise: [u8; 4] = [(); 4].map(|()| rng.random_range(0..=255));
            drop(data.splice(at..at, noise));
        }
        6 => {
            let from = rng.random_range(0..other.len().max(1)).min(other.len());
            let to = (from + 64).min(other.len());
            drop(data.splice(at..end, other[from..to].iter().copied()));
        }
        _ => {
            let integer = *INTEGERS.choose(rng).expect("not empty") as u64;
            let width = *[1usize, 2, 4, 8].choose(rng).expect("not empty");
            let mut written = integer.to_le_bytes();
            written[..width].reverse();
            if rng.random_bool(0.5) {
                written[..width].reverse();
            }
            let width = width.min(data.len() - at);
            data[at..at + width].copy_from_slice(&written[..width]);
        }
    }
}

/// Makes the checksums of a PNG's chunks right again, so that a reader gets to what was changed.
fn checksums(data: &mut [u8]) {
    let step = |crc: u32, _: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    let mut at = 8;
    while let Some(&length) = data.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let end = at.saturating_add(8).saturating_add(u32::from_be_bytes(length) as usize);
        let Some(content) = data.get(at + 4..end) else { return };
        let crc = !content.iter().fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step));
        let Some(place) = data.get_mut(end..end + 4) else { return };
        place.copy_from_slice(&crc.to_be_bytes());
        at = end + 4;
    }
}
