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
use crate::geometry::{elements, rank4};
use crate::text::listed;
use crate::{AnyTensor, BatchNorm, DType, Device, Element, FromParameters, Parameter, RoIs, Tensor, memory};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A safetensors file in memory. Its tensors may be F64, F32, F16 or BF16, of any rank; others may be there, but not be read.
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
    /// [`Error::Io`] when it cannot be read; [`Error::Parse`] when it is truncated or no safetensors file; [`Error::OutOfMemory`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::of(path.into(), read(path)?)
    }

    /// A safetensors file that is in memory already: a `Vec<u8>`, `include_bytes!`, or a file that another crate maps into memory, of
    /// which only the pages that are read are loaded. The bytes are kept as they are, without a copy.
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
    /// [`Error::Parse`] when they are truncated or no safetensors file.
    pub fn from_bytes(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self> {
        Self::of("safetensors in memory".into(), bytes)
    }

    fn of(path: PathBuf, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self> {
        let bytes = Box::new(bytes);
        let entries = parse((*bytes).as_ref()).map_err(|message| Error::Parse { source_name: path.display().to_string(), message })?;
        Ok(Self { path, bytes, entries })
    }

    /// The tensors whose names begin with `prefix` and a dot: the parameters of one module of a PyTorch model.
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

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
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
        // the same bytes as when the header was read, unless who keeps them breaks their word
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
    /// A part of the scope: the tensors whose names, within it, begin with `prefix` and a dot.
    pub fn prefix(&self, prefix: &str) -> Scope<'a> {
        Scope { file: self.file, prefix: self.name(prefix) }
    }

    /// The name in the file of what has this name in the scope.
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

    /// The layer of these attributes with the scope's tensors as its parameters, by the names of its signature
    /// ([`crate::LayerSpec::signature`]), which are PyTorch's where PyTorch has such a layer: `weight` and `bias`. Tensors of other
    /// names are left alone.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] when a parameter is missing; what the layer itself refuses. Errors name the scope.
    pub fn layer<L: FromParameters>(&self, spec: L::Spec) -> Result<L> {
        let read = || {
            let there = L::signature(&spec).parameters.iter().filter(|name| self.contains(name));
            let parameters = there.map(|name| Ok((name.to_string(), self.parameter(name)?))).collect::<Result<_>>()?;
            L::from_parameters(spec, parameters)
        };
        read().map_err(|error| error.in_layer(format!("{} of {}", self.prefix, self.file.path.display())))
    }

    /// A batch normalisation by PyTorch's names: `weight`, `bias`, `running_mean` and `running_var`. `epsilon` is 1e-5 in PyTorch
    /// unless the model says otherwise.
    ///
    /// # Errors
    /// As [`TensorFile::values_f32`].
    pub fn batch_norm(&self, epsilon: f32) -> Result<BatchNorm> {
        let values = |name: &str| self.file.values_f32(&self.name(name));
        let (gamma, beta, mean) = (values("weight")?, values("bias")?, values("running_mean")?);
        Ok(BatchNorm { gamma, beta, mean, variance: values("running_var")?, epsilon })
    }
}

/// The tensors of a safetensors file.
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

/// How long the file is by its own header: the header's length, the header, and data up to the last tensor's end. `None` where
/// that cannot be read.
fn announced_bytes(bytes: &[u8]) -> Option<u64> {
    const LENGTH: usize = size_of::<u64>();
    let header_bytes = u64::from_le_bytes(*bytes.first_chunk::<LENGTH>()?);
    let start = (LENGTH as u64).checked_add(header_bytes)?;
    let header: serde_json::Value = serde_json::from_slice(bytes.get(LENGTH..usize::try_from(start).ok()?)?).ok()?;
    let ends = header.as_object()?.values().filter_map(|entry| entry.pointer("/data_offsets/1")?.as_u64());
    start.checked_add(ends.max().unwrap_or(0))
}

/// Writes tensors to a safetensors file, in NCHW order whatever their format, after all work queued on their devices. As
/// [`write()`], it leaves a whole file or none. Values go from the device to the file a piece at a time.
///
/// # Errors
/// [`Error::Io`]; [`Error::Attribute`] for a name that occurs twice; [`Error::Driver`] when the queued work fails.
pub fn save(path: impl AsRef<Path>, tensors: &[(&str, &AnyTensor)]) -> Result<()> {
    let mut tensors = tensors.to_vec();
    // the widest elements first, so that all lie at multiples of their size
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
        // the file is little-endian, as is every machine with a GPU
        tensors.iter().try_for_each(|(_, tensor)| match tensor {
            AnyTensor::F32(t) => t.view().for_each_piece(|values| write(bytemuck::cast_slice(values))),
            AnyTensor::F16(t) => t.view().for_each_piece(|values| write(bytemuck::cast_slice(values))),
            AnyTensor::Bf16(t) => t.view().for_each_piece(|values| write(bytemuck::cast_slice(values))),
        })
    })
}

/// The key of a safetensors header that is no tensor.
const RESERVED: &str = "__metadata__";
/// To what the data of a safetensors file are aligned.
const ALIGNMENT: usize = 8;

/// Reads a text file. More than 64 MiB is no text that this crate reads, and is refused before memory runs out.
///
/// # Errors
/// [`Error::Io`], also for what is no UTF-8; [`Error::Limit`].
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    const MOST: u64 = 64 << 20;
    let path = path.as_ref();
    let fail = |source| Error::Io { path: path.into(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(fail)?;
    file.take(MOST + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > MOST {
        let value = std::fs::metadata(path).map_or(0, |metadata| metadata.len()).max(MOST + 1);
        return Err(Error::Limit { what: "the size of a text file in bytes", value: value.into(), limit: MOST.into() });
    }
    Ok(text)
}

/// All bytes of a file, as long as the machine has room for them.
fn read(path: &Path) -> Result<Vec<u8>> {
    let fail = |source| Error::Io { path: path.into(), source };
    let file = File::open(path).map_err(fail)?;
    // a pipe has no length, and may never end
    let length = file.metadata().map_err(fail)?.len();
    let mut bytes = memory::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).saturating_add(1))?;
    loop {
        let room = bytes.capacity() - bytes.len();
        if room == 0 {
            let mut longer = memory::with_capacity(2 * bytes.len())?;
            longer.extend_from_slice(&bytes);
            bytes = longer;
        } else if (&file).take(room as u64).read_to_end(&mut bytes).map_err(fail)? < room {
            return Ok(bytes);
        }
    }
}

/// Writes a file whole or not at all: into an unfinished file beside it, which then takes its name. As [`write_pieces`].
///
/// # Errors
/// As [`write_pieces`].
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_pieces(path, |write| write(bytes))
}

/// Writes a file whole or not at all, from pieces that `fill` hands to the function it is given.
///
/// The pieces go into an unfinished file in the same folder, which takes the name when all of them are on the disk. On Linux it
/// has no name until then, so that nothing is left of it however the process ends; elsewhere, and on file systems that know no
/// such files, it is called `.warpconv-*.tmp`, and what a killed process left is removed by the next write to the folder.
///
/// A file that is there keeps its permissions and, where the process may, its owner; one that may not be written is refused. A
/// symbolic link stays one, and its target is written, also where that does not exist yet. What is no regular file (a pipe,
/// `/dev/stdout`) is written directly.
///
/// # Errors
/// [`Error::Io`], and what `fill` returns; a file that was there before is then unchanged.
pub fn write_pieces(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let fail = |source| Error::Io { path: path.into(), source };
    let all_into = |file: &File| {
        let mut file = BufWriter::new(file);
        fill(&mut |bytes| file.write_all(bytes).map_err(fail))?;
        file.flush().map_err(fail)
    };
    let (target, before) = match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return all_into(&File::options().write(true).open(path).map_err(fail)?),
        Ok(metadata) => (path.canonicalize().map_err(fail)?, Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => (follow_links(path).map_err(fail)?, None),
        Err(error) => return Err(fail(error)),
    };
    if let Some(before) = &before {
        if before.permissions().readonly() {
            return Err(fail(std::io::Error::new(ErrorKind::PermissionDenied, "the file is read-only")));
        }
        // to rename a file over it, only the folder need be writable
        File::options().write(true).open(&target).map_err(fail)?;
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    remove_left_over(folder);
    let unfinished = Unfinished::new(folder).map_err(fail)?;
    all_into(&unfinished.file)?;
    unfinished.finish(&target, folder, before.as_ref()).map_err(fail)
}

/// Where a path that leads nowhere ends: its own name, or that of what its last link points to.
fn follow_links(path: &Path) -> std::io::Result<PathBuf> {
    const MOST: usize = 40;
    let mut target = path.to_path_buf();
    for _ in 0..MOST {
        match target.read_link() {
            Ok(link) => target = target.parent().unwrap_or(Path::new("")).join(link),
            Err(error) if error.kind() == ErrorKind::NotFound || error.kind() == ErrorKind::InvalidInput => return Ok(target),
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other("too many symbolic links"))
}

/// Before the name of an unfinished file.
const PREFIX: &str = ".warpconv-";
/// Behind it.
const SUFFIX: &str = ".tmp";

/// A file that is not to be seen yet. It is locked, which tells it from those that a killed process left.
struct Unfinished {
    file: File,
    /// None while it has no name.
    name: Option<PathBuf>,
}

impl Unfinished {
    fn new(folder: &Path) -> std::io::Result<Self> {
        if let Some(file) = Self::nameless(folder) {
            let _ = file.try_lock();
            return Ok(Self { file, name: None });
        }
        loop {
            let name = Self::unused_name(folder);
            let file = match File::options().write(true).create_new(true).open(&name) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            let _ = file.try_lock();
            // another process may have taken it for a left-over before it was locked
            if name.exists() {
                return Ok(Self { file, name: Some(name) });
            }
        }
    }

    /// A file that is in the folder, but under no name.
    #[cfg(target_os = "linux")]
    fn nameless(folder: &Path) -> Option<File> {
        use rustix::fs::{Mode, OFlags, open};
        let (flags, mode) = (OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
        // its way to a name leads through /proc
        Path::new("/proc/self/fd").exists().then(|| open(folder, flags, mode).ok().map(File::from)).flatten()
    }

    #[cfg(not(target_os = "linux"))]
    fn nameless(_: &Path) -> Option<File> {
        None
    }

    fn unused_name(folder: &Path) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        folder.join(format!("{PREFIX}{}-{}{SUFFIX}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Gives it a name, if it has none.
    fn named(&mut self, folder: &Path) -> std::io::Result<&Path> {
        #[cfg(target_os = "linux")]
        while self.name.is_none() {
            use rustix::fs::{AtFlags, CWD, linkat};
            use std::os::fd::AsRawFd;
            let (own, name) = (format!("/proc/self/fd/{}", self.file.as_raw_fd()), Self::unused_name(folder));
            match linkat(CWD, own, CWD, &name, AtFlags::SYMLINK_FOLLOW) {
                Ok(()) => self.name = Some(name),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let _ = folder;
        self.name.as_deref().ok_or_else(|| std::io::Error::other("the file has no name"))
    }

    /// Puts it in the place of `target`, with the permissions and the owner that this had `before`.
    fn finish(mut self, target: &Path, folder: &Path, before: Option<&Metadata>) -> std::io::Result<()> {
        if let Some(before) = before {
            #[cfg(unix)]
            {
                use std::os::unix::fs::{MetadataExt, fchown};
                // only root may give a file away; a group of its own a user may always give
                let _ = fchown(&self.file, Some(before.uid()), Some(before.gid()));
            }
            self.file.set_permissions(before.permissions())?;
        }
        self.file.sync_all()?;
        std::fs::rename(self.named(folder)?, target)?;
        self.name = None;
        // the name itself is on the disk when the folder is; not every system can tell
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Removes unfinished files that nobody is writing any more. Where it fails, they do no harm.
fn remove_left_over(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if ours
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && File::options().write(true).open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let long = [&whole[..], &[0; 3]].concat();
        let (length, announced) = (long.len(), whole.len());
        let expected = format!("the file has {length} bytes, but its header tells of {announced}: the 3 at its end belong to no tensor");
        assert_eq!(parse(&long).unwrap_err(), expected);
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
        assert_eq!(left(folder.path()), [""; 0]);
    }

    /// Names of unfinished files.
    fn left(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(PREFIX)).collect()
    }

    #[test]
    fn a_failure_in_the_middle_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"before").unwrap();
        let error = write_pieces(&path, |write| {
            write(b"half")?;
            assert_eq!(std::fs::read(&path).unwrap(), b"before");
            if cfg!(target_os = "linux") {
                assert_eq!(left(folder.path()), [""; 0], "a killed process leaves nothing");
            }
            Err(Error::MissingFeature { feature: "x" })
        });
        assert!(matches!(error, Err(Error::MissingFeature { .. })));
        assert_eq!((std::fs::read(&path).unwrap(), left(folder.path())), (b"before".to_vec(), vec![]));
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_another_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let plant = |name: &str| File::create(folder.path().join(name)).unwrap();
        for name in [".warpconv-1-0.tmp", ".warpconv-mine", "warpconv-1.tmp"] {
            plant(name);
        }
        let busy = plant(".warpconv-2-0.tmp");
        busy.lock().unwrap();
        write(folder.path().join("a"), b"x").unwrap();
        let mut names = left(folder.path());
        names.sort();
        assert_eq!(names, [".warpconv-2-0.tmp", ".warpconv-mine"]);
        assert!(folder.path().join("warpconv-1.tmp").exists());
    }

    /// As on a file system that knows no files without a name.
    #[test]
    fn a_file_with_a_name_from_the_beginning_is_finished_too() {
        let folder = tempfile::tempdir().unwrap();
        let make = || {
            let name = Unfinished::unused_name(folder.path());
            Unfinished { file: File::create_new(&name).unwrap(), name: Some(name) }
        };
        drop(make());
        assert_eq!(left(folder.path()), [""; 0]);
        make().finish(&folder.path().join("a"), folder.path(), None).unwrap();
        assert!(folder.path().join("a").exists() && left(folder.path()).is_empty());
    }

    #[test]
    #[cfg(unix)]
    fn permissions_and_links_are_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mode = |name: &str| std::fs::metadata(path(name)).unwrap().permissions().mode() & 0o7777;
        for bits in [0o600, 0o640, 0o755] {
            write(path("a"), b"1").unwrap();
            std::fs::set_permissions(path("a"), PermissionsExt::from_mode(bits)).unwrap();
            write(path("a"), b"2").unwrap();
            assert_eq!((mode("a"), std::fs::read(path("a")).unwrap()), (bits, b"2".to_vec()));
        }
        std::fs::set_permissions(path("a"), PermissionsExt::from_mode(0o444)).unwrap();
        let error = write(path("a"), b"3").unwrap_err().to_string();
        assert!(error.contains("read-only"), "{error}");
        assert_eq!((mode("a"), std::fs::read(path("a")).unwrap()), (0o444, b"2".to_vec()));

        symlink("later", path("link")).unwrap();
        symlink(path("link"), path("link to it")).unwrap();
        write(path("link to it"), b"4").unwrap();
        assert!(path("link").is_symlink() && path("link to it").is_symlink() && !path("later").is_symlink());
        assert_eq!(std::fs::read(path("later")).unwrap(), b"4");
        symlink("nowhere/b", path("astray")).unwrap();
        assert!(matches!(write(path("astray"), b"5"), Err(Error::Io { .. })) && path("astray").is_symlink());
        symlink("round", path("round")).unwrap();
        assert!(matches!(write(path("round"), b"6"), Err(Error::Io { .. })) && path("round").is_symlink());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn endless_files_are_refused() {
        let error = read_text("/dev/zero").unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
}
