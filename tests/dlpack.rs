//! DLPack within one process. scripts/check-dlpack has NumPy as the other side.
#![cfg(feature = "host")]

use half::{bf16, f16};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::null_mut;
use warpconv::dlpack::{
    CPU, CUDA, CUDA_HOST, DlDataType, DlDevice, DlPackVersion, DlTensor, Managed, ManagedTensor, ManagedTensorVersioned, Owned, READ_ONLY,
};
use warpconv::{Conv2d, Conv2dSpec, Device, Element, Error, HostOptions, Inputs, Layer, MemoryFormat, Parameter, Tensor};

fn device() -> Device {
    Device::host_with(HostOptions { threads: 1, ..Default::default() }).unwrap()
}

/// A tensor as another library would give it, whose deleter counts.
struct Foreign {
    values: Vec<f32>,
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    deleted: Cell<u32>,
}

const F32: DlDataType = DlDataType { code: 2, bits: 32, lanes: 1 };

impl Foreign {
    fn new(shape: &[i64], strides: Option<&[i64]>) -> Self {
        let values = (0..256).map(|i| i as f32).collect();
        Self { values, shape: shape.to_vec(), strides: strides.map(<[i64]>::to_vec), deleted: Cell::new(0) }
    }

    fn tensor(&mut self) -> DlTensor {
        DlTensor {
            data: self.values.as_mut_ptr().cast(),
            device: DlDevice { device_type: CPU, device_id: 0 },
            ndim: self.shape.len() as i32,
            dtype: F32,
            shape: self.shape.as_mut_ptr(),
            strides: self.strides.as_mut().map_or(null_mut(), |strides| strides.as_mut_ptr()),
            byte_offset: 0,
        }
    }

    fn context(&mut self) -> *mut c_void {
        (&raw mut self.deleted).cast()
    }
}

/// # Safety
/// `managed` has a counter as its context.
unsafe extern "C" fn count(managed: *mut ManagedTensor) {
    // SAFETY: as the caller says
    let deleted = unsafe { &*(*managed).manager_ctx.cast::<Cell<u32>>() };
    deleted.set(deleted.get() + 1);
}

/// # Safety
/// As [`count`].
unsafe extern "C" fn count_versioned(managed: *mut ManagedTensorVersioned) {
    // SAFETY: as the caller says
    let deleted = unsafe { &*(*managed).manager_ctx.cast::<Cell<u32>>() };
    deleted.set(deleted.get() + 1);
}

/// Hands the tensor, changed, to `use_it`; the deleter is called once.
fn taken<R>(foreign: &mut Foreign, change: impl FnOnce(&mut DlTensor), use_it: impl FnOnce(&mut Owned<ManagedTensor>) -> R) -> R {
    let (dl_tensor, manager_ctx) = (foreign.tensor(), foreign.context());
    let mut managed = ManagedTensor { dl_tensor, manager_ctx, deleter: Some(count) };
    change(&mut managed.dl_tensor);
    // SAFETY: the struct and what it points to outlive what is taken
    let mut owned = unsafe { Owned::from_raw(&raw mut managed) }.unwrap();
    let result = use_it(&mut owned);
    assert_eq!(foreign.deleted.get(), 0, "still in use");
    drop(owned);
    assert_eq!(foreign.deleted.get(), 1, "deleted once");
    result
}

#[test]
fn a_tensor_of_another_library_is_read_and_written_in_place() {
    let device = device();
    // packed, then [N, H, W, C] with a pitch and from the second pixel on
    let values = taken(&mut Foreign::new(&[1, 2, 3, 4], None), |_| (), |owned| owned.view::<f32>(&device).unwrap().to_vec().unwrap());
    assert_eq!(values, (0..24).map(|i| i as f32).collect::<Vec<_>>());
    let mut foreign = Foreign::new(&[1, 3, 2, 4], Some(&[100, 1, 20, 3]));
    taken(
        &mut foreign,
        |tensor| tensor.byte_offset = 12,
        |owned| {
            let view = owned.view::<f32>(&device).unwrap();
            assert_eq!((view.format(), view.layout().strides()), (MemoryFormat::ChannelsLast, [40, 1, 20, 3]));
            let expected: Vec<f32> = (0..24).map(|i| (3 + i / 8 + i / 4 % 2 * 20 + i % 4 * 3) as f32).collect();
            assert_eq!(view.to_vec().unwrap(), expected);
            let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1, 3, 1, 1], &[1f32; 3]).unwrap()).unwrap();
            let sums = layer.forward(&Inputs::new(view)).unwrap().to_vec().unwrap();
            assert_eq!(sums, (0..8).map(|i| (9 + i / 4 * 60 + i % 4 * 9 + 3) as f32).collect::<Vec<_>>());
            owned.view_mut::<f32>(&device).unwrap().write(&[-1.0; 24]).unwrap();
        },
    );
    let written = |i: usize| (3..15).contains(&i) || (23..35).contains(&i);
    assert!(foreign.values.iter().enumerate().all(|(i, value)| *value == if written(i) { -1.0 } else { i as f32 }));
    // pinned memory is the CPU's too; an empty tensor has no memory
    let mut pinned = Foreign::new(&[1, 1, 1, 2], None);
    taken(
        &mut pinned,
        |tensor| tensor.device.device_type = CUDA_HOST,
        |owned| assert_eq!(owned.view::<f32>(&device).unwrap().shape(), [1, 1, 1, 2]),
    );
    let mut empty = Foreign::new(&[0, 1, 1, 2], None);
    let none = taken(&mut empty, |tensor| tensor.data = null_mut(), |owned| owned.view::<f32>(&device).unwrap().to_vec().unwrap());
    assert!(none.is_empty());
    // SAFETY: null is no tensor
    assert!(unsafe { Owned::<ManagedTensor>::from_raw(null_mut()) }.is_none());
}

#[test]
fn what_cannot_be_used_is_an_error() {
    let device = device();
    let error = |shape: &[i64], strides: Option<&[i64]>, change: &dyn Fn(&mut DlTensor)| {
        taken(&mut Foreign::new(shape, strides), change, |owned| owned.view::<f32>(&device).map(drop).unwrap_err())
    };
    let plain = [1, 2, 3, 4];
    for shape in [&[2, 3][..], &[1; 5], &[]] {
        assert!(matches!(error(shape, None, &|_| ()), Error::Rank { expected: 4, .. }), "{shape:?}");
    }
    assert!(matches!(error(&[1, -2, 3, 4], None, &|_| ()), Error::Attribute { .. }));
    for strides in [[24, 12, -4, 1], [24, 12, 8, 2], [24, 12, 1, 3], [0, 2, 4, 1]] {
        assert!(matches!(error(&plain, Some(&strides), &|_| ()), Error::Attribute { .. }), "{strides:?}");
    }
    for dtype in [(2, 64, 1), (0, 32, 1), (2, 32, 4), (4, 16, 1)] {
        let change = |tensor: &mut DlTensor| tensor.dtype = DlDataType { code: dtype.0, bits: dtype.1, lanes: dtype.2 };
        assert!(matches!(error(&plain, None, &change), Error::DType { .. }), "{dtype:?}");
    }
    for device_type in [CUDA, 13] {
        let place = error(&plain, None, &|tensor| tensor.device.device_type = device_type);
        assert!(matches!(place, Error::WrongDevice { .. }), "{place}");
    }
    assert!(matches!(error(&plain, None, &|tensor| tensor.byte_offset = 2), Error::Alignment { .. }));
    assert!(matches!(error(&plain, None, &|tensor| tensor.byte_offset = u64::MAX), Error::Overflow { .. }));
}

#[test]
fn the_versioned_struct_has_flags_and_a_version() {
    let device = device();
    for (version, flags) in [((1, 0), 0), ((1, 3), READ_ONLY), ((2, 0), 0)] {
        let mut foreign = Foreign::new(&[1, 1, 2, 2], None);
        let (dl_tensor, manager_ctx) = (foreign.tensor(), foreign.context());
        let version = DlPackVersion { major: version.0, minor: version.1 };
        let mut managed = ManagedTensorVersioned { version, manager_ctx, deleter: Some(count_versioned), flags, dl_tensor };
        // SAFETY: the struct and what it points to outlive what is taken
        let mut owned = unsafe { Owned::from_raw(&raw mut managed) }.unwrap();
        let [read, written] = [owned.view::<f32>(&device).map(drop), owned.view_mut::<f32>(&device).map(drop)];
        assert_eq!((read.is_ok(), written.is_ok()), (version.major == 1, version.major == 1 && flags == 0));
        drop(owned);
        assert_eq!(foreign.deleted.get(), 1, "also of a version that is not known");
    }
}

#[test]
fn a_tensor_that_is_given_away_is_freed_by_its_deleter() {
    fn check<T: Element, M: Managed>(device: &Device, format: MemoryFormat) {
        let values: Vec<T> = (0..24).map(|i| T::from_f32(i as f32)).collect();
        let x = Tensor::from_slice(device, [2, 3, 2, 2], &values).unwrap().to_format(format).unwrap();
        let (held, address) = (device.allocated_bytes(), x.address());
        let given = x.into_dlpack::<M>().unwrap();
        assert_eq!(device.allocated_bytes(), held);
        assert_eq!(given.view::<T>(device).unwrap().address(), address, "no copy");
        let raw = given.into_raw();
        assert_eq!(device.allocated_bytes(), held);
        // SAFETY: the pointer is from `into_raw`, which gave it away
        let taken = unsafe { Owned::from_raw(raw) }.unwrap();
        let view = taken.view::<T>(device).unwrap();
        assert_eq!((view.format(), view.to_vec().unwrap()), (format, values));
        drop(taken);
        assert_eq!(device.allocated_bytes(), held - 24 * size_of::<T>() as u64);
    }
    let device = device();
    for format in MemoryFormat::ALL {
        check::<f32, ManagedTensor>(&device, format);
        check::<f16, ManagedTensorVersioned>(&device, format);
        check::<bf16, ManagedTensor>(&device, format);
    }
    // on another thread, after the device's last handle is gone
    let x = Tensor::<f32>::zeros(&device, [1, 1, 1, 1], MemoryFormat::Contiguous).unwrap();
    let address = x.into_dlpack::<ManagedTensor>().unwrap().into_raw() as usize;
    drop(device);
    std::thread::spawn(move || {
        let managed = address as *mut ManagedTensor;
        // SAFETY: given away once and released once
        unsafe { ((*managed).deleter.unwrap())(managed) }
    })
    .join()
    .unwrap();
}
