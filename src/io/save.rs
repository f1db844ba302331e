//! Writing safetensors files.

use super::write_pieces;
use crate::error::{Error, Result};
use crate::geometry::elements;
use crate::tensor::with_tensor;
use crate::{AnyTensor, DType};
use std::path::Path;

/// Writes tensors to a safetensors file, in NCHW order whatever their format, after all work queued
/// on their devices. Like [`write()`](super::write), it leaves a complete file or none. Values are
/// copied from the device to the file in pieces.
///
/// # Errors
/// [`Error::Io`]; [`Error::Attribute`] for a name that occurs twice; [`Error::Driver`] when the
/// queued work fails.
pub fn save(path: impl AsRef<Path>, tensors: &[(&str, &AnyTensor)]) -> Result<()> {
    let mut tensors = tensors.to_vec();
    // The widest elements come first, so that all are at multiples of their size.
    tensors.sort_by(|(a, x), (b, y)| y.dtype().bytes().cmp(&x.dtype().bytes()).then(a.cmp(b)));
    let mut header = serde_json::Map::new();
    let mut end = 0usize;
    for (name, tensor) in &tensors {
        let (shape, start) = (tensor.shape(), end);
        let bytes = elements(&shape)? * tensor.dtype().bytes();
        end = end.checked_add(bytes).ok_or_else(|| Error::Overflow { what: "the size of a file", values: format!("{end} + {bytes}") })?;
        let dtype = match tensor.dtype() {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
        };
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        if *name == RESERVED || header.insert(name.to_string(), entry).is_some() {
            let requirement = "one that no other tensor has, and not __metadata__";
            return Err(Error::Attribute { name: "the name of a tensor", value: name.to_string(), requirement });
        }
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(ALIGNMENT) - header.len());
    write_pieces(path, |write| {
        write(&(header.len() as u64).to_le_bytes())?;
        write(header.as_bytes())?;
        // The file is little-endian, as is every machine with a GPU.
        tensors
            .iter()
            .try_for_each(|(_, tensor)| with_tensor!(tensor, t => t.view().for_each_piece(|values| write(bytemuck::cast_slice(values)))))
    })
}

/// The key of a safetensors header that is not a tensor.
const RESERVED: &str = "__metadata__";

/// The alignment of the data in a safetensors file, in bytes.
const ALIGNMENT: usize = 8;
