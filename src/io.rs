//! Tensors in files, in the safetensors format; and files that are written whole or not at all.
//!
//! ```
//! use warpconv::{AnyTensor, Device, Tensor, io::{TensorFile, save}};
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("x.safetensors");
//! let device = Device::best()?;
//! let x: AnyTensor = Tensor::from_slice(&device, [1, 1, 1, 3], &[0.5f32, 1.0, 2.0])?.into();
//! save(&path, &[("x", &x)])?;
//!
//! let file = TensorFile::open(&path)?;
//! assert_eq!(file.shape("x")?, [1, 1, 1, 3]);
//! let x = file.tensor::<half::f16>("x", &device)?; // rounded once
//! assert_eq!(file.values("x")?, [0.5, 1.0, 2.0]);
//! # Ok::<(), warpconv::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::geometry::rank4;
use crate::{AnyTensor, DType, Device, Element, Parameter, RoIs, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use safetensors::{SafeTensors, serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A safetensors file in memory. Its tensors may be F64, F32, F16 or BF16, of any rank; others may be there, but not be read.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    entries: BTreeMap<String, Entry>,
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
    /// [`Error::Io`] when it cannot be read; [`Error::Parse`] when it is truncated or no safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let entries = parse(&bytes).map_err(|message| Error::Parse { source_name: path.display().to_string(), message })?;
        Ok(Self { path: path.into(), bytes, entries })
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether it has a tensor of this name.
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

    /// The dtype of a tensor; `None` for one that [`Tensor`] has no counterpart of (F64, integers).
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

    /// The values of a tensor in row-major order; exact.
    ///
    /// # Errors
    /// As [`TensorFile::shape`]; [`Error::DType`] when it is not of floating point.
    pub fn values(&self, name: &str) -> Result<Vec<f64>> {
        self.decode(name, f64::from, |v| v)
    }

    /// The values of a tensor in row-major order, F64 rounded to f32.
    ///
    /// # Errors
    /// As [`TensorFile::values`].
    pub fn values_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.decode(name, |v| v, |v| v as f32)
    }

    /// A contiguous tensor [N, C, H, W] on a device, each value rounded once where the file's dtype is another.
    ///
    /// # Errors
    /// As [`TensorFile::values`]; [`Error::Rank`] when it has not 4 dimensions; [`Error::OutOfMemory`].
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
        Parameter::new(self.shape(name)?, &self.values_f32(name)?)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let names = self.names().collect::<Vec<_>>().join(", ");
            Error::Parse { source_name: self.path.display().to_string(), message: format!("there is no tensor {name:?}, only: {names}") }
        })
    }

    fn decode<V>(&self, name: &str, of_f32: impl Fn(f32) -> V, of_f64: impl Fn(f64) -> V) -> Result<Vec<V>> {
        let entry = self.entry(name)?;
        let data = &self.bytes[entry.data.clone()];
        Ok(match entry.dtype {
            Dtype::F64 => data.as_chunks().0.iter().map(|&b| of_f64(f64::from_le_bytes(b))).collect(),
            Dtype::F32 => data.as_chunks().0.iter().map(|&b| of_f32(f32::from_le_bytes(b))).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|&b| of_f32(f16::from_le_bytes(b).to_f32())).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|&b| of_f32(bf16::from_le_bytes(b).to_f32())).collect(),
            other => {
                let name = format!("{name:?} of {}", self.path.display());
                return Err(Error::DType { name, expected: "F64, F32, F16 or BF16".into(), got: format!("{other:?}") });
            }
        })
    }
}

/// The tensors of a safetensors file.
fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| match error {
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

/// Writes tensors to a safetensors file, in NCHW order whatever their format, after all work queued on their devices. As
/// [`write()`], it leaves a whole file or none.
///
/// # Errors
/// [`Error::Io`]; [`Error::Driver`] when the queued work fails.
pub fn save(path: impl AsRef<Path>, tensors: &[(&str, &AnyTensor)]) -> Result<()> {
    fn bytes<T: Element>(tensor: &Tensor<T>) -> Result<Vec<u8>> {
        // the file is little-endian, as is every machine with a GPU
        Ok(bytemuck::cast_slice(&tensor.to_vec()?).to_vec())
    }
    let path = path.as_ref();
    let mut data = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let (dtype, bytes) = match tensor {
            AnyTensor::F32(t) => (Dtype::F32, bytes(t)?),
            AnyTensor::F16(t) => (Dtype::F16, bytes(t)?),
            AnyTensor::Bf16(t) => (Dtype::BF16, bytes(t)?),
        };
        data.push((*name, dtype, tensor.shape(), bytes));
    }
    let fail = |error: SafeTensorError| Error::Io { path: path.into(), source: std::io::Error::other(error.to_string()) };
    let views = data.iter().map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.to_vec(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    write(path, &serialize(views, None).map_err(fail)?)
}

/// Writes a file whole or not at all: into a temporary file beside it, which then takes its name. What is no regular file (a
/// pipe, `/dev/stdout`) is written directly.
///
/// # Errors
/// [`Error::Io`]; a file that was there before is then unchanged.
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let fail = |source| Error::Io { path: path.into(), source };
    let target = match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return std::fs::write(path, bytes).map_err(fail),
        // a symbolic link stays one: its target is replaced
        Ok(_) => path.canonicalize().map_err(fail)?,
        Err(_) => path.to_path_buf(),
    };
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".warpconv-");
    #[cfg(unix)]
    // as any new file, less what the user's umask takes away, instead of the 0600 of a secret
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.persist(&target).map_err(|error| fail(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(entries: &[(&str, Dtype, &[usize], &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let views = entries.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
        write(&path, &serialize(views, None).unwrap()).unwrap();
        (folder, path)
    }

    #[test]
    fn reads_every_dtype_and_rounds_once() {
        // in f32 this would be the middle of two f16 and go to the even one
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
        let mut long = whole.clone();
        long.push(0);
        assert!(parse(&long).is_err());
        assert!(parse(b"\x02\0\0\0\0\0\0\0{]").unwrap_err().contains("not a safetensors file"));
        // a shape whose size overflows
        let header = br#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
        assert!(parse(&bytes).is_err());
        assert!(matches!(TensorFile::open(folder.path().join("none")), Err(Error::Io { .. })));
        assert!(matches!(TensorFile::open(folder.path()), Err(Error::Io { .. })));
    }

    #[test]
    fn writes_whole_files_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert!(write(folder.path(), b"x").is_err());
        assert!(write(folder.path().join("none").join("a"), b"x").is_err());
        #[cfg(unix)]
        {
            use std::os::unix::fs::{PermissionsExt, symlink};
            let link = folder.path().join("link");
            symlink(&path, &link).unwrap();
            write(&link, b"third").unwrap();
            assert!(link.is_symlink());
            assert_eq!(std::fs::read(&path).unwrap(), b"third");
            let plain = folder.path().join("plain");
            std::fs::write(&plain, b"").unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode(), std::fs::metadata(&plain).unwrap().permissions().mode());
        }
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".warpconv-")), "{left:?}");
    }
}
