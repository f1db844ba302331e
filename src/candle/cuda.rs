//! Runs on candle's GPU tensors: in candle's memory, on candle's stream.

use super::plans::{Call, Common, Fault, Given, Plans, Role, not_readable, shape_in_memory};
use super::views::as_it_lies;
use crate::shape::elements;
use crate::{Device, Error, Inputs, Layer, Layout, RoIs, RoisView, Stream, TensorView, TensorViewMut, Workspace};
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Shape};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

/// Where a tensor's elements begin, with the guard by which cudarc orders its uses on several
/// streams. `extent` elements from there on belong to the tensor's storage.
fn address<'a, T: Common>(
    (storage, layout): Given<'a, CudaStorage>,
    extent: usize,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>), Fault> {
    let (slice, start) = (storage.as_cuda_slice::<T>()?, layout.start_offset());
    let end = start.checked_add(extent).ok_or_else(|| not_readable(layout))?;
    if end > slice.len() {
        return Err(Error::Length { name: "the storage", shape: layout.dims().to_vec(), expected: end, got: slice.len() }.into());
    }
    let (address, guard) = slice.device_ptr(stream);
    Ok((address + (start * size_of::<T>()) as u64, guard))
}

/// A tensor that is read.
fn view<'a, T: Common>(
    device: &'a Device,
    given: Given<'a, CudaStorage>,
    stream: &'a CudaStream,
    guards: &mut Vec<SyncOnDrop<'a>>,
) -> Result<TensorView<'a, T>, Fault> {
    let lies = as_it_lies::<T>(given.1).ok_or_else(|| not_readable(given.1))?;
    let (address, guard) = address::<T>(given, lies.extent(), stream)?;
    guards.push(guard);
    // SAFETY: the storage is borrowed for 'a, is of this device and as long as was checked; candle writes a tensor before it hands it
    // out. The guard makes `stream` wait for writers on other streams, and outlives the launches.
    Ok(unsafe { TensorView::from_raw(device, address, lies)? })
}

impl<L: Layer> Call<L> {
    pub(super) fn on_gpu<T: Common>(
        &self,
        x: Given<'_, CudaStorage>,
        others: &[Given<'_, CudaStorage>],
    ) -> Result<(CudaStorage, Shape), Fault> {
        let candles = &x.0.device;
        let cuda = candles.cuda_stream();
        let device = Device::from_cuda(cuda.context().clone())?;
        let stream = Stream::from_cuda(&device, cuda.clone())?;
        let mut guards = Vec::with_capacity(3);
        let dtype = x.0.dtype();
        let x = view::<T>(&device, x, &cuda, &mut guards)?;
        let mut inputs = Inputs::new(x);
        for (role, other) in self.roles.iter().flatten().zip(others) {
            let in_f32 = dtype != DType::F32 && other.0.as_cuda_slice::<f32>().is_ok();
            inputs = match role {
                Role::Residual => inputs.residual(view::<T>(&device, *other, &cuda, &mut guards)?),
                Role::Offset if in_f32 => inputs.offset(crate::OffsetOrMask::F32(view::<f32>(&device, *other, &cuda, &mut guards)?)),
                Role::Offset => inputs.offset(view::<T>(&device, *other, &cuda, &mut guards)?),
                Role::Mask if in_f32 => inputs.mask(crate::OffsetOrMask::F32(view::<f32>(&device, *other, &cuda, &mut guards)?)),
                Role::Mask => inputs.mask(view::<T>(&device, *other, &cuda, &mut guards)?),
                Role::Rois => {
                    RoIs::check_shape(other.1.dims())?;
                    let (address, guard) = address::<f32>(*other, other.1.shape().elem_count(), &cuda)?;
                    guards.push(guard);
                    // SAFETY: as in `view`; `run_as` has made the RoIs contiguous
                    inputs.rois(unsafe { RoisView::from_raw(&device, address, other.1.dims()[0])? })
                }
            };
        }
        let plan = self.plans.plan::<T>(&device, &Plans::<L>::request(&x.layout(), inputs.rois.map(|rois| rois.len())))?;
        let (shape, format) = (plan.output_shape(), plan.output_format());
        // SAFETY: the memory's content is arbitrary until the plan's launch, which writes every element before what candle queues on
        // its stream behind it reads one
        let mut y = unsafe { candles.alloc::<T>(elements(&shape)?)? };
        let mut scratch = match plan.workspace_bytes() {
            0 => None,
            // SAFETY: a workspace may hold anything; the plan writes of it what it reads
            bytes => Some(unsafe { candles.alloc::<u8>(bytes)? }),
        };
        {
            let (address, _written) = y.device_ptr_mut(&cuda);
            // SAFETY: y is new, of this device and as long as its shape says, and every bit pattern is a value of T; nobody else has it
            // before this function returns, behind the launches on the stream
            let y = unsafe { TensorViewMut::from_raw(&device, address, Layout::packed(shape, format))? };
            let scratch = scratch.as_mut().map(|scratch| {
                let bytes = scratch.len();
                let (address, guard) = scratch.device_ptr_mut(&cuda);
                (address, bytes, guard)
            });
            let workspace = match &scratch {
                None => Workspace::none(),
                // SAFETY: the memory is new, so long, and nobody else has it; cudarc frees it in the order of the stream, behind the
                // launches
                Some((address, bytes, _used)) => unsafe { Workspace::from_raw(&device, *address, *bytes)? },
            };
            plan.run(&inputs, y, workspace, &stream)?;
        }
        drop(guards);
        Ok((CudaStorage::wrap_cuda_slice(y, candles.clone()), shape_in_memory(shape, format)))
    }
}
