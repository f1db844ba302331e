//! Exchange of tensors with other libraries in one process, without a copy, through
//! [DLPack](https://dmlc.github.io/dlpack), the convention that NumPy, PyTorch, JAX, CuPy and
//! others share.
//!
//! [`Tensor::into_dlpack`] gives a tensor away; [`Owned::from_raw`] takes a tensor from another
//! library. Both versions of the struct are supported: [`ManagedTensor`] (a Python capsule named
//! `dltensor`) and [`ManagedTensorVersioned`] (`dltensor_versioned`).
//!
//! ```
//! use warpconv::dlpack::{ManagedTensorVersioned, Owned};
//! use warpconv::{Device, Tensor};
//! let device = Device::host()?;
//! let x = Tensor::from_slice(&device, [1, 1, 1, 2], &[1f32, 2.])?;
//! let given = x.into_dlpack::<ManagedTensorVersioned>()?.into_raw();
//! // ... another library has it, and gives it back ...
//! // SAFETY: a pointer of `into_raw` that nobody has released
//! let taken = unsafe { Owned::from_raw(given) }.expect("not null");
//! assert_eq!(taken.view::<f32>(&device)?.to_vec()?, [1., 2.]);
//! # Ok::<(), warpconv::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::{DType, Device, DeviceKind, Element, Layout, MemoryFormat, Shape, Tensor, TensorView, TensorViewMut};
use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;

/// The struct `DLDevice`: where memory is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DlDevice {
    /// [`CPU`], [`CUDA`] or another type of the standard.
    pub device_type: i32,
    /// The number of the GPU.
    pub device_id: i32,
}

/// Memory of the CPU.
pub const CPU: i32 = 1;
/// Memory of an NVIDIA GPU.
pub const CUDA: i32 = 2;
/// Memory of the CPU that is pinned for a GPU.
pub const CUDA_HOST: i32 = 3;

/// The struct `DLDataType`: the type of elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DlDataType {
    /// 2 for IEEE floating point, 4 for bfloat.
    pub code: u8,
    /// The number of bits of a number.
    pub bits: u8,
    /// The number of numbers in an element: 1.
    pub lanes: u16,
}

impl DlDataType {
    fn of(dtype: DType) -> Self {
        let (code, bits) = match dtype {
            DType::F32 => (2, 32),
            DType::F16 => (2, 16),
            DType::Bf16 => (4, 16),
        };
        Self { code, bits, lanes: 1 }
    }
}

/// The struct `DLTensor`: a view of memory.
#[repr(C)]
#[derive(Debug)]
pub struct DlTensor {
    /// The start of the memory.
    pub data: *mut c_void,
    /// The device of the memory.
    pub device: DlDevice,
    /// The number of axes.
    pub ndim: i32,
    /// The type of the elements.
    pub dtype: DlDataType,
    /// The sizes.
    pub shape: *mut i64,
    /// The distances of neighbours, in elements. Null for a packed tensor in row-major order.
    pub strides: *mut i64,
    /// The distance in bytes from `data` to the first element.
    pub byte_offset: u64,
}

/// The struct `DLManagedTensor`, which has no version.
#[repr(C)]
#[derive(Debug)]
pub struct ManagedTensor {
    /// The memory.
    pub dl_tensor: DlTensor,
    /// The data that the deleter needs.
    pub manager_ctx: *mut c_void,
    /// Releases the memory and the struct.
    pub deleter: Option<unsafe extern "C" fn(*mut ManagedTensor)>,
}

/// The struct `DLPackVersion`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DlPackVersion {
    /// The version of the layout of the structs.
    pub major: u32,
    /// The version of the values that the structs may contain.
    pub minor: u32,
}

/// The struct `DLManagedTensorVersioned` of DLPack 1.
#[repr(C)]
#[derive(Debug)]
pub struct ManagedTensorVersioned {
    /// The version of the struct.
    pub version: DlPackVersion,
    /// The data that the deleter needs.
    pub manager_ctx: *mut c_void,
    /// Releases the memory and the struct.
    pub deleter: Option<unsafe extern "C" fn(*mut ManagedTensorVersioned)>,
    /// Flags. Bit 0: the memory is for reading only.
    pub flags: u64,
    /// The memory.
    pub dl_tensor: DlTensor,
}

/// The version that is written. Its major number is the only one that is read.
const VERSION: DlPackVersion = DlPackVersion { major: 1, minor: 0 };
/// The bit of [`ManagedTensorVersioned::flags`] that allows reading only.
pub const READ_ONLY: u64 = 1;

/// One of the two structs, with or without a version.
pub trait Managed: sealed::Managed {}
impl Managed for ManagedTensor {}
impl Managed for ManagedTensorVersioned {}

mod sealed {
    use super::*;

    pub trait Managed: Sized + 'static {
        fn new(dl_tensor: DlTensor, context: *mut c_void) -> Self;
        fn context(&self) -> *mut c_void;
        /// The memory. An error if the layout of the struct is unknown.
        fn tensor(&self) -> Result<&DlTensor>;
        fn is_read_only(&self) -> bool;
        /// Calls the deleter.
        ///
        /// # Safety
        /// The tensor was not released before, and is no longer used.
        unsafe fn release(this: NonNull<Self>);
    }

    impl Managed for ManagedTensor {
        fn new(dl_tensor: DlTensor, manager_ctx: *mut c_void) -> Self {
            Self { dl_tensor, manager_ctx, deleter: Some(delete::<Self>) }
        }

        fn context(&self) -> *mut c_void {
            self.manager_ctx
        }

        fn tensor(&self) -> Result<&DlTensor> {
            Ok(&self.dl_tensor)
        }

        fn is_read_only(&self) -> bool {
            false
        }

        unsafe fn release(this: NonNull<Self>) {
            // SAFETY: the struct is there until its deleter has run, the caller says
            if let Some(deleter) = unsafe { this.as_ref() }.deleter {
                // SAFETY: called once, the caller says
                unsafe { deleter(this.as_ptr()) }
            }
        }
    }

    impl Managed for ManagedTensorVersioned {
        fn new(dl_tensor: DlTensor, manager_ctx: *mut c_void) -> Self {
            Self { version: VERSION, manager_ctx, deleter: Some(delete::<Self>), flags: 0, dl_tensor }
        }

        fn context(&self) -> *mut c_void {
            self.manager_ctx
        }

        fn tensor(&self) -> Result<&DlTensor> {
            let DlPackVersion { major, minor } = self.version;
            if major != VERSION.major {
                let value = format!("{major}.{minor}");
                return Err(Error::Attribute { name: "the version of the DLPack tensor", value, requirement: "1.x" });
            }
            Ok(&self.dl_tensor)
        }

        fn is_read_only(&self) -> bool {
            self.flags & READ_ONLY != 0
        }

        unsafe fn release(this: NonNull<Self>) {
            // SAFETY: the struct is there until its deleter has run, the caller says. Every version
            // has the deleter there.
            if let Some(deleter) = unsafe { this.as_ref() }.deleter {
                // SAFETY: called once, the caller says
                unsafe { deleter(this.as_ptr()) }
            }
        }
    }
}

/// The owner of a tensor that was given away.
struct Given {
    /// Freed when this goes. Whatever its dtype.
    _tensor: Box<dyn std::any::Any + Send + Sync>,
    shape: [i64; 4],
    strides: [i64; 4],
}

/// The deleter of the structs that [`Tensor::into_dlpack`] makes.
///
/// # Safety
/// `managed` is from [`Tensor::into_dlpack`], and was not released before.
unsafe extern "C" fn delete<M: Managed>(managed: *mut M) {
    if managed.is_null() {
        return;
    }
    // SAFETY: made of boxes by `into_dlpack`, and released once, the caller says
    let given = unsafe { Box::from_raw(Box::from_raw(managed).context().cast::<Given>()) };
    // A panic must not reach the library that calls this function.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(given)));
}

impl<T: Element> Tensor<T> {
    /// Gives the tensor away: [`Owned::into_raw`] hands it to another library, and its deleter
    /// frees the memory. Waits for all work that is queued on the device, so that the receiver
    /// finds the values complete.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Driver`] when that work fails.
    pub fn into_dlpack<M: Managed>(self) -> Result<Owned<M>> {
        self.device().synchronize()?;
        // The deleter may be called while work of the receiver still uses the memory.
        self.uses().record_anyone();
        let layout = self.layout();
        let (device, address) = (dl_device(self.device()), self.address());
        // Sizes and strides of a tensor in memory fit.
        let [shape, strides] = [layout.shape(), layout.strides()].map(|sizes| sizes.map(|size| size as i64));
        let given = Box::into_raw(Box::new(Given { _tensor: Box::new(self), shape, strides }));
        // SAFETY: just made, and alone here. Places in it, which stay where they are until it is
        // freed.
        let (shape, strides) = unsafe { ((&raw mut (*given).shape).cast(), (&raw mut (*given).strides).cast()) };
        let dtype = DlDataType::of(T::DTYPE);
        let dl_tensor = DlTensor { data: address as *mut c_void, device, ndim: 4, dtype, shape, strides, byte_offset: 0 };
        let managed = Box::new(M::new(dl_tensor, given.cast()));
        Ok(Owned(NonNull::from(Box::leak(managed))))
    }
}

fn dl_device(device: &Device) -> DlDevice {
    match device.kind() {
        DeviceKind::Host => DlDevice { device_type: CPU, device_id: 0 },
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda => DlDevice { device_type: CUDA, device_id: device.cuda_context().map_or(0, |context| context.ordinal()) as i32 },
        #[cfg(not(feature = "cuda"))]
        DeviceKind::Cuda => unreachable!("there are GPUs only with the feature `cuda`"),
    }
}

/// A DLPack tensor that this process owns. Its deleter is called once, when this is dropped, unless
/// [`Owned::into_raw`] has handed the tensor on.
///
/// It stays on the thread that took it, since another library's deleter may have to run there.
pub struct Owned<M: Managed>(NonNull<M>);

impl<M: Managed> Drop for Owned<M> {
    fn drop(&mut self) {
        // SAFETY: owned since `from_raw` or `into_dlpack`, and no view of it is left
        unsafe { M::release(self.0) }
    }
}

impl<M: Managed> fmt::Debug for Owned<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a DLPack tensor at {:p}", self.0)
    }
}

impl<M: Managed> Owned<M> {
    /// Takes a tensor from another library. `None` for a null pointer. Nothing of it is read yet:
    /// [`Owned::view`] returns an error if the tensor cannot be used.
    ///
    /// # Safety
    /// `managed` is a struct of this type, valid according to DLPack, which nothing else releases.
    /// All elements that its sizes and strides cover are in initialised memory of its device, which
    /// nothing frees or writes until its deleter is called. On a GPU, the work that wrote them is
    /// done, or is ordered before the work that will read them. If [`Owned::view_mut`] is used,
    /// nothing else reads the elements meanwhile either.
    pub unsafe fn from_raw(managed: *mut M) -> Option<Self> {
        NonNull::new(managed).map(Self)
    }

    /// Hands the tensor on. The receiver of the pointer calls its deleter.
    pub fn into_raw(self) -> *mut M {
        let managed = self.0.as_ptr();
        std::mem::forget(self);
        managed
    }

    /// The elements, for reading in place. The view is contiguous if the strides allow both
    /// formats.
    ///
    /// # Errors
    /// [`Error::WrongDevice`] when the memory is not of `device`: the host device reads memory of
    /// the CPU, pinned or not, a GPU its own. [`Error::DType`] for elements that are not of type
    /// `T`; [`Error::Rank`] when there are not four axes; [`Error::Attribute`] for strides that
    /// [`Layout::strided`] refuses, including negative ones, and for a struct of another major
    /// version; [`Error::Alignment`]; [`Error::Overflow`].
    pub fn view<'a, T: Element>(&'a self, device: &'a Device) -> Result<TensorView<'a, T>> {
        let (address, layout) = self.place::<T>(device)?;
        // SAFETY: valid memory of this device until the deleter is called, which `self` does when
        // no view is left: `from_raw`'s contract
        unsafe { TensorView::from_raw(device, address, layout) }
    }

    /// The elements, for writing in place. As [`Owned::view`].
    ///
    /// # Errors
    /// As [`Owned::view`]; [`Error::Attribute`] when the memory is for reading only.
    pub fn view_mut<'a, T: Element>(&'a mut self, device: &'a Device) -> Result<TensorViewMut<'a, T>> {
        let (address, layout) = self.place::<T>(device)?;
        // SAFETY: the struct is there until its deleter is called
        if unsafe { self.0.as_ref() }.is_read_only() {
            return Err(Error::Attribute { name: "the DLPack tensor", value: "read only".into(), requirement: "writable" });
        }
        // SAFETY: as in `view`; exclusively borrowed here, and nobody else reads or writes
        // meanwhile: `from_raw`'s contract
        unsafe { TensorViewMut::from_raw(device, address, layout) }
    }

    /// The address of the first element, and the layout.
    fn place<T: Element>(&self, device: &Device) -> Result<(u64, Layout)> {
        // SAFETY: the struct is there until its deleter is called
        let tensor = unsafe { self.0.as_ref() }.tensor()?;
        let name = "the DLPack tensor";
        let DlDevice { device_type, device_id } = tensor.device;
        let of_cpu = device.kind() == DeviceKind::Host && [CPU, CUDA_HOST].contains(&device_type);
        if !of_cpu && tensor.device != dl_device(device) {
            let got = match device_type {
                CPU | CUDA_HOST => "memory of the CPU".to_string(),
                CUDA => format!("memory of cuda:{device_id}"),
                _ => format!("memory of a device of type {device_type}, number {device_id}"),
            };
            return Err(Error::WrongDevice { name, expected: device.to_string(), got });
        }
        let sizes = |sizes: *const i64, what: &'static str| -> Result<Vec<usize>> {
            let ndim = usize::try_from(tensor.ndim).unwrap_or_default();
            if ndim == 0 || sizes.is_null() {
                return Ok(vec![]);
            }
            // SAFETY: as many as the tensor has axes, as DLPack says
            let sizes = unsafe { std::slice::from_raw_parts(sizes, ndim) };
            let negative = |&size: &i64| Error::Attribute { name: what, value: size.to_string(), requirement: "at least 0" };
            sizes.iter().map(|size| usize::try_from(*size).map_err(|_| negative(size))).collect()
        };
        let shape = sizes(tensor.shape, "a size of the DLPack tensor")?;
        let shape: Shape = match shape[..] {
            [n, c, h, w] => [n, c, h, w],
            _ => return Err(Error::Rank { name, shape, expected: 4, meaning: "[N, C, H, W]" }),
        };
        let wanted = DlDataType::of(T::DTYPE);
        if tensor.dtype != wanted {
            let DlDataType { code, bits, lanes } = tensor.dtype;
            let known = DType::ALL.into_iter().find(|dtype| DlDataType::of(*dtype) == tensor.dtype);
            let got = known.map_or_else(|| format!("type code {code} of {bits} bits, {lanes} lanes"), |dtype| dtype.to_string());
            return Err(Error::DType { name: name.into(), expected: T::DTYPE.to_string(), got });
        }
        let layout = match sizes(tensor.strides, "a stride of the DLPack tensor")?[..] {
            [n, c, h, w] => {
                let strided = |format| Layout::strided(shape, format, [n, c, h, w]);
                strided(MemoryFormat::Contiguous).or_else(|_| strided(MemoryFormat::ChannelsLast))?
            }
            _ => Layout::packed(shape, MemoryFormat::Contiguous),
        };
        let overflow = || Error::Overflow { what: "an address", values: format!("{:p} + {}", tensor.data, tensor.byte_offset) };
        let address = (tensor.data as u64).checked_add(tensor.byte_offset).ok_or_else(overflow)?;
        Ok((address, layout))
    }
}
