//! Reading safetensors files.

use super::read;
use crate::error::{Error, Result};
use crate::geometry::rank4;
use crate::text::listed;
use crate::{BatchNorm, DType, Device, Element, FromParameters, Parameter, RoIs, Tensor, memory};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A safetensors file in memory. Tensors of F64, F32, F16 and BF16 can be read, of any rank. The
/// file may contain others, which cannot be read.
pub struct TensorFile {
    path: PathBuf,
    bytes: Box<dyn AsRef<[u8]> + Send + Sync>,
    entries: BTreeMap<String, Entry>,
}

impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorFile({} with {} tensors)", self.path.display(), self.entries.len())
    }
}

#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Range<usize>,
}

impl TensorFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read; [`Error::Parse`] when it is truncated or not a
    /// safetensors file; [`Error::OutOfMemory`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::of(path.into(), read(path)?)
    }

    /// A safetensors file that is in memory already: a `Vec<u8>`, `include_bytes!`, or a file that
    /// another crate maps into memory, of which only the pages that are read are loaded. The bytes
    /// are kept without a copy.
    ///
    /// ```
    /// use warpconv::io::TensorFile;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("x.safetensors");
    /// # warpconv::io::save(&path, &[("x", &warpconv::Tensor::from_slice(&warpconv::Device::best()?, [1, 1, 1, 1], &[0.5f32])?.into())])?;
    /// let bytes = std::fs::read(&path).unwrap(); // or memmap2's `Mmap::map`, which is unsafe: nobody may change the file meanwhile
    /// let file = TensorFile::from_bytes(bytes)?;
    /// assert_eq!(file.values("x")?, [0.5]);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Parse`] when the bytes are truncated or not a safetensors file.
    pub fn from_bytes(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self> {
        Self::of("safetensors in memory".into(), bytes)
    }

    fn of(path: PathBuf, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self> {
        let bytes = Box::new(bytes);
        let entries = parse((*bytes).as_ref()).map_err(|message| Error::Parse { source_name: path.display().to_string(), message })?;
        Ok(Self { path, bytes, entries })
    }

    /// The tensors whose names begin with `prefix` and a dot, which are the parameters of one
    /// module of a PyTorch model.
    ///
    /// ```
    /// use warpconv::io::{TensorFile, save};
    /// use warpconv::{Conv2d, Conv2dSpec, Device, Padding, Tensor};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("model.safetensors");
    /// # let device = Device::best()?;
    /// # let tensor = |shape, values: &[f32]| Tensor::from_slice(&device, shape, values).map(warpconv::AnyTensor::from);
    /// # save(&path, &[("backbone.stem.weight", &tensor([1, 1, 3, 3], &[0.5; 9])?)])?;
    /// let file = TensorFile::open(&path)?;
    /// let backbone = file.prefix("backbone");
    /// let spec = Conv2dSpec { padding: Padding::all(1), ..Default::default() };
    /// let stem: Conv2d = backbone.prefix("stem").layer(spec)?; // backbone.stem.weight, and backbone.stem.bias if it is there
    /// assert_eq!(stem.weight().shape(), [1, 1, 3, 3]);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    pub fn prefix(&self, prefix: &str) -> Scope<'_> {
        Scope { file: self, prefix: prefix.into() }
    }

    /// The path from which the file was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether the file has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// [`Error::Parse`] when there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entry(name)?.shape)
    }

    /// The dtype of a tensor. `None` if [`Tensor`] does not support it (F64, integers).
    ///
    /// # Errors
    /// As [`TensorFile::shape`].
    pub fn dtype(&self, name: &str) -> Result<Option<DType>> {
        Ok(match self.entry(name)?.dtype {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::Bf16),
            _ => None,
        })
    }

    /// The values of a tensor in row-major order, converted exactly.
    ///
    /// # Errors
    /// As [`TensorFile::shape`]; [`Error::DType`] when the tensor is not of a floating-point type.
    pub fn values(&self, name: &str) -> Result<Vec<f64>> {
        self.decode(name, f64::from, |v| v)
    }

    /// The values of a tensor in row-major order. F64 is rounded to f32.
    ///
    /// # Errors
    /// As [`TensorFile::values`].
    pub fn values_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.decode(name, |v| v, |v| v as f32)
    }

    /// A contiguous tensor [N, C, H, W] on a device. Each value is rounded once if the file's dtype
    /// differs.
    ///
    /// # Errors
    /// As [`TensorFile::values`]; [`Error::Rank`] when the tensor does not have 4 dimensions;
    /// [`Error::OutOfMemory`].
    pub fn tensor<T: Element>(&self, name: &str, device: &Device) -> Result<Tensor<T>> {
        let shape = rank4("the tensor", self.shape(name)?)?;
        Tensor::from_slice(device, shape, &self.decode(name, T::from_f32, T::from_f64)?)
    }

    /// RoIs from a tensor [K, 5], for inputs of `batch` images.
    ///
    /// # Errors
    /// As [`TensorFile::values`]; [`Error::Rank`]; as [`RoIs::from_slice`].
    pub fn rois(&self, name: &str, batch: usize, device: &Device) -> Result<RoIs> {
        RoIs::from_shape(device, batch, self.shape(name)?, &self.values_f32(name)?)
    }

    /// A weight, bias or slope of any rank.
    ///
    /// # Errors
    /// As [`TensorFile::values`].
    pub fn parameter(&self, name: &str) -> Result<Parameter> {
        Parameter::from_values(self.shape(name)?, self.values_f32(name)?)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let there = if self.entries.is_empty() { "and no other".into() } else { format!("only: {}", listed(self.names())) };
            Error::Parse { source_name: self.path.display().to_string(), message: format!("there is no tensor {name:?}, {there}") }
        })
    }

    fn decode<V>(&self, name: &str, of_f32: impl Fn(f32) -> V, of_f64: impl Fn(f64) -> V) -> Result<Vec<V>> {
        let entry = self.entry(name)?;
        // The bytes are the same as when the header was read, unless their owner breaks its
        // contract.
        let data = (*self.bytes).as_ref().get(entry.data.clone()).unwrap_or_default();
        match entry.dtype {
            Dtype::F64 => memory::collect(data.as_chunks().0.iter().map(|&b| of_f64(f64::from_le_bytes(b)))),
            Dtype::F32 => memory::collect(data.as_chunks().0.iter().map(|&b| of_f32(f32::from_le_bytes(b)))),
            Dtype::F16 => memory::collect(data.as_chunks().0.iter().map(|&b| of_f32(f16::from_le_bytes(b).to_f32()))),
            Dtype::BF16 => memory::collect(data.as_chunks().0.iter().map(|&b| of_f32(bf16::from_le_bytes(b).to_f32()))),
            other => {
                let name = format!("{name:?} of {}", self.path.display());
                Err(Error::DType { name, expected: "F64, F32, F16 or BF16".into(), got: format!("{other:?}") })
            }
        }
    }
}

/// The tensors of a [`TensorFile`] whose names begin with a prefix and a dot.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    file: &'a TensorFile,
    prefix: String,
}

impl<'a> Scope<'a> {
    /// A part of the scope: the tensors whose names within the scope begin with `prefix` and a dot.
    pub fn prefix(&self, prefix: &str) -> Scope<'a> {
        Scope { file: self.file, prefix: self.name(prefix) }
    }

    /// The name in the file of the tensor that has this name in the scope.
    pub fn name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.into() } else { format!("{}.{name}", self.prefix) }
    }

    /// The names of the scope's tensors, without the prefix, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        let start = if self.prefix.is_empty() { String::new() } else { format!("{}.", self.prefix) };
        self.file.names().filter_map(move |name| name.strip_prefix(&start))
    }

    /// Whether the scope has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.file.contains(&self.name(name))
    }

    /// A weight, bias or slope of any rank.
    ///
    /// # Errors
    /// As [`TensorFile::parameter`].
    pub fn parameter(&self, name: &str) -> Result<Parameter> {
        self.file.parameter(&self.name(name))
    }

    /// Builds a layer of these attributes with the scope's tensors as its parameters. Their names
    /// are those of the layer's signature ([`crate::LayerSpec::signature`]), which are PyTorch's if
    /// PyTorch has such a layer: `weight` and `bias`. Tensors of other names are ignored.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] when a parameter is missing; errors of the layer itself. Errors
    /// name the scope.
    pub fn layer<L: FromParameters>(&self, spec: L::Spec) -> Result<L> {
        let read = || {
            let there = L::signature(&spec).parameters.iter().filter(|name| self.contains(name));
            let parameters = there.map(|name| Ok((name.to_string(), self.parameter(name)?))).collect::<Result<_>>()?;
            L::from_parameters(spec, parameters)
        };
        read().map_err(|error| error.in_layer(format!("{} of {}", self.prefix, self.file.path.display())))
    }

    /// Reads a batch normalisation by PyTorch's names: `weight`, `bias`, `running_mean` and
    /// `running_var`. `epsilon` is 1e-5 in PyTorch unless the model says otherwise.
    ///
    /// # Errors
    /// As [`TensorFile::values_f32`].
    pub fn batch_norm(&self, epsilon: f32) -> Result<BatchNorm> {
        let values = |name: &str| self.file.values_f32(&self.name(name));
        let (gamma, beta, mean) = (values("weight")?, values("bias")?, values("running_mean")?);
        Ok(BatchNorm { gamma, beta, mean, variance: values("running_var")?, epsilon })
    }
}

/// Reads the header of a safetensors file.
fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    if bytes.is_empty() {
        return Err("0 bytes are not a whole safetensors file: is it empty because it was cut off?".into());
    }
    let file = SafeTensors::deserialize(bytes).map_err(|error| match error {
        SafeTensorError::MetadataIncompleteBuffer if announced_bytes(bytes).is_some_and(|announced| announced < bytes.len() as u64) => {
            let (length, announced) = (bytes.len(), announced_bytes(bytes).unwrap_or_default());
            format!(
                "the file has {length} bytes, but its header tells of {announced}: the {} at its end belong to no tensor",
                length as u64 - announced
            )
        }
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength | SafeTensorError::MetadataIncompleteBuffer => {
            format!("{} bytes are not a whole safetensors file ({error}): was it cut off?", bytes.len())
        }
        _ => format!("not a safetensors file: {error}"),
    })?;
    let start = bytes.as_ptr() as usize;
    let entry = |view: TensorView<'_>| {
        let offset = view.data().as_ptr() as usize - start;
        Entry { dtype: view.dtype(), shape: view.shape().to_vec(), data: offset..offset + view.data().len() }
    };
    Ok(file.tensors().into_iter().map(|(name, view)| (name, entry(view))).collect())
}

/// The length of the file according to its own header: the header's length, the header, and data up
/// to the end of the last tensor. `None` if that cannot be read.
fn announced_bytes(bytes: &[u8]) -> Option<u64> {
    const LENGTH: usize = size_of::<u64>();
    let header_bytes = u64::from_le_bytes(*bytes.first_chunk::<LENGTH>()?);
    let start = (LENGTH as u64).checked_add(header_bytes)?;
    let header: serde_json::Value = serde_json::from_slice(bytes.get(LENGTH..usize::try_from(start).ok()?)?).ok()?;
    let ends = header.as_object()?.values().filter_map(|entry| entry.pointer("/data_offsets/1")?.as_u64());
    start.checked_add(ends.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::write;
    use safetensors::serialize;

    fn file(entries: &[(&str, Dtype, &[usize], &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let views = entries.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
        write(&path, &serialize(views, None).unwrap()).unwrap();
        (folder, path)
    }

    #[test]
    fn reads_every_dtype_and_rounds_once() {
        // In f32 this would be the middle between two f16, and be rounded to the even one.
        let value = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let (_folder, path) = file(&[
            ("a", Dtype::F64, &[1, 1, 1, 1], &value.to_le_bytes()),
            ("b", Dtype::F32, &[2], &[1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat()),
            ("c", Dtype::F16, &[1, 1], &f16::from_f32(0.1).to_le_bytes()),
            ("d", Dtype::BF16, &[], &bf16::from_f32(0.1).to_le_bytes()),
            ("e", Dtype::F32, &[0, 3, 2, 2], &[]),
            ("i", Dtype::I32, &[1], &1i32.to_le_bytes()),
        ]);
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "i"]);
        assert_eq!(file.values("a").unwrap(), [value]);
        assert_eq!(file.values_f32("b").unwrap(), [1.5, -2.0]);
        assert_eq!(file.values("c").unwrap(), [f16::from_f32(0.1).to_f64()]);
        assert_eq!(file.values("d").unwrap(), [bf16::from_f32(0.1).to_f64()]);
        assert_eq!(file.parameter("b").unwrap().shape(), [2]);
        assert_eq!((file.dtype("a").unwrap(), file.dtype("c").unwrap()), (None, Some(DType::F16)));
        assert!(file.values("e").unwrap().is_empty());
        let integers = file.values("i").unwrap_err().to_string();
        assert!(integers.contains("I32") && integers.contains("t.safetensors"), "{integers}");
        let missing = file.values("z").unwrap_err().to_string();
        assert!(missing.contains("no tensor \"z\", only: a, b, c, d, e, i"), "{missing}");
        #[cfg(feature = "host")]
        {
            let device = Device::host().unwrap();
            assert_eq!(file.tensor::<f16>("a", &device).unwrap().to_vec().unwrap()[0].to_f64(), 1.0 + 2f64.powi(-10));
            assert!(matches!(file.tensor::<f32>("b", &device), Err(Error::Rank { .. })));
            assert_eq!(file.tensor::<bf16>("e", &device).unwrap().shape(), [0, 3, 2, 2]);
        }
    }

    #[test]
    fn refuses_what_is_no_whole_file() {
        let (folder, path) = file(&[("a", Dtype::F32, &[4], &[0; 16])]);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            let error = parse(&whole[..length]).unwrap_err();
            assert!(error.contains(&format!("{length} bytes are not a whole")), "{length}: {error}");
        }
        let long = [&whole[..], &[0; 3]].concat();
        let (length, announced) = (long.len(), whole.len());
        let expected = format!("the file has {length} bytes, but its header tells of {announced}: the 3 at its end belong to no tensor");
        assert_eq!(parse(&long).unwrap_err(), expected);
        assert!(parse(b"\x02\0\0\0\0\0\0\0{]").unwrap_err().contains("not a safetensors file"));
        // A shape whose size overflows.
        let header = br#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
        assert!(parse(&bytes).is_err());
        assert!(matches!(TensorFile::open(folder.path().join("none")), Err(Error::Io { .. })));
        assert!(matches!(TensorFile::open(folder.path()), Err(Error::Io { .. })));
    }
}
