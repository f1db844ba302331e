//! Runs of a layer on candle's tensors: the plans that a module keeps, and the op of candle that runs
//! one of them.

use super::views::{as_it_lies, readable};
use crate::error::Error;
use crate::shape::elements;
use crate::{Device, Element, Explanation, Inputs, Layer, LayerSpec, Layout, MemoryFormat, OffsetOrMask, Plan, PlanCache, PlanRequest};
use crate::{RoIs, Stream, TensorView, TensorViewMut, WorkspaceMemory, memory};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout as CandleLayout, Shape, Tensor, WithDType};
#[cfg(feature = "candle-cuda")]
use candle_core::{CudaStorage, cuda::CudaDType};
use half::{bf16, f16};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A result with candle's error, unless another is named.
type Result<V, E = candle_core::Error> = std::result::Result<V, E>;

/// The number of plans that a module keeps for each device and dtype, one for each shape.
const SHAPES: usize = 64;

/// The plans of a layer for tensors of one dtype, by device.
type Caches<L, T> = Mutex<Vec<(Device, Arc<PlanCache<Shared<L>, T>>)>>;

/// A dtype that candle and this crate have in common.
pub(super) trait Common: Element + WithDType + OnCuda {
    fn caches<L: Layer>(plans: &Plans<L>) -> &Caches<L, Self>;
}

/// The traits that candle and cudarc require of a dtype on a GPU.
#[cfg(feature = "candle-cuda")]
pub(super) trait OnCuda: CudaDType + cudarc::driver::DeviceRepr {}
#[cfg(feature = "candle-cuda")]
impl<T: CudaDType + cudarc::driver::DeviceRepr> OnCuda for T {}
#[cfg(not(feature = "candle-cuda"))]
pub(super) trait OnCuda {}
#[cfg(not(feature = "candle-cuda"))]
impl<T> OnCuda for T {}

macro_rules! common {
    ($($dtype:ident),*) => {
        $(impl Common for $dtype {
            fn caches<L: Layer>(plans: &Plans<L>) -> &Caches<L, Self> {
                &plans.$dtype
            }
        })*
    };
}

common!(f32, f16, bf16);

/// Runs `$body` with `$T` standing for the type of a dtype that is known only at run time.
macro_rules! dispatch {
    ($dtype:expr, $op:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::F16 => {
                type $T = f16;
                $body
            }
            DType::BF16 => {
                type $T = bf16;
                $body
            }
            other => Err(unsupported(other, $op)),
        }
    };
}

fn unsupported(dtype: DType, op: &'static str) -> candle_core::Error {
    candle_core::Error::UnsupportedDTypeForOp(dtype, op).bt().context("warpconv takes f32, f16 and bf16")
}

/// A layer that its plans share.
pub(super) struct Shared<L>(Arc<L>);

impl<L> Clone for Shared<L> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<L> std::ops::Deref for Shared<L> {
    type Target = L;
    fn deref(&self) -> &L {
        &self.0
    }
}

impl<L: Layer> Layer for Shared<L> {
    fn spec(&self) -> LayerSpec {
        self.0.spec()
    }

    fn output_shape(&self, request: &PlanRequest) -> crate::Result<crate::Shape> {
        self.0.output_shape(request)
    }

    fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> crate::Result<Plan<T>> {
        self.0.plan(device, request)
    }
}

/// The role of an input beside x.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Role {
    Residual,
    Offset,
    Mask,
    Rois,
}

/// A layer, and its plans for the shapes, dtypes and devices that it has met.
pub(super) struct Plans<L: Layer> {
    pub layer: Shared<L>,
    /// The name by which errors call the layer.
    pub name: Option<String>,
    f32: Caches<L, f32>,
    f16: Caches<L, f16>,
    bf16: Caches<L, bf16>,
}

impl<L: Layer> fmt::Debug for Plans<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.layer.spec())
    }
}

impl<L: Layer> Plans<L> {
    pub fn new(layer: L, name: Option<String>) -> Self {
        let (f32, f16, bf16) = Default::default();
        Self { layer: Shared(Arc::new(layer)), name, f32, f16, bf16 }
    }

    /// An error of this crate as one of candle, with the op and the layer's name.
    fn error(&self, error: Error) -> candle_core::Error {
        let named = self.name.iter().fold(error, |error, name| error.in_layer(name));
        candle_core::Error::wrap(named).context(format!("warpconv's {}", self.layer.spec().op()))
    }

    /// The plan for a request.
    pub fn plan<T: Common>(&self, device: &Device, request: &PlanRequest) -> crate::Result<Arc<Plan<T>>> {
        let cache = {
            let mut caches = T::caches(self).lock().unwrap_or_else(PoisonError::into_inner);
            match caches.iter().find(|(of, _)| of == device) {
                Some((_, cache)) => cache.clone(),
                None => {
                    let cache = Arc::new(PlanCache::new(self.layer.clone(), device, SHAPES));
                    caches.push((device.clone(), cache.clone()));
                    cache
                }
            }
        };
        cache.get(request)
    }

    /// The request for a plan for an input of this layout.
    pub fn request(x: &Layout, rois: Option<usize>) -> PlanRequest {
        let request = PlanRequest::new(x.shape()).format(x.format());
        rois.into_iter().fold(request, PlanRequest::rois)
    }

    /// Which kernel runs for an input, and why.
    pub fn explain(&self, x: &Tensor, device: &Device) -> Result<Explanation> {
        let op = self.layer.spec().op();
        dispatch!(x.dtype(), op, T => {
            x.dims4()?;
            let x = readable::<T>(x)?;
            let layout = as_it_lies::<T>(x.layout()).ok_or_else(|| self.error(not_readable(x.layout())))?;
            let plan = self.plan::<T>(device, &Self::request(&layout, None)).map_err(|e| self.error(e))?;
            Ok(plan.explain().clone())
        })
    }

    /// Runs on candle's tensors. The result has the memory format of x.
    pub fn run(self: &Arc<Self>, x: &Tensor, others: &[(Role, &Tensor)]) -> Result<Tensor> {
        let op = self.layer.spec().op();
        dispatch!(x.dtype(), op, T => self.run_as::<T>(x, others))
    }

    fn run_as<T: Common>(self: &Arc<Self>, x: &Tensor, others: &[(Role, &Tensor)]) -> Result<Tensor> {
        x.dims4()?;
        let x = readable::<T>(x)?;
        let format = as_it_lies::<T>(x.layout()).map_or(MemoryFormat::Contiguous, |layout| layout.format());
        let mut roles = [None; 2];
        let mut tensors = Vec::with_capacity(2);
        for (index, (role, tensor)) in others.iter().enumerate() {
            if tensor.device().location() != x.device().location() {
                let (lhs, rhs) = (x.device().location(), tensor.device().location());
                return Err(candle_core::Error::DeviceMismatchBinaryOp { lhs, rhs, op: self.layer.spec().op() }.bt());
            }
            roles[index] = Some(*role);
            let own = x.dtype();
            tensors.push(match (role, tensor.dtype()) {
                (Role::Rois, _) => tensor.to_dtype(DType::F32)?.contiguous()?,
                (Role::Offset | Role::Mask, DType::F32) => readable::<f32>(tensor)?,
                (_, dtype) if dtype == own => readable::<T>(tensor)?,
                (_, rhs) => {
                    return Err(candle_core::Error::DTypeMismatchBinaryOp { lhs: own, rhs, op: self.layer.spec().op() }.bt());
                }
            });
        }
        let call = Call { plans: self.clone(), roles };
        let y = match &tensors[..] {
            [] => x.apply_op1(call),
            [a] => x.apply_op2(a, call),
            [a, b, ..] => x.apply_op3(a, b, call),
        }?;
        // A channels_last result is a tensor [N, H, W, C] for candle.
        if format == MemoryFormat::ChannelsLast { y.permute((0, 3, 1, 2)) } else { Ok(y) }
    }
}

pub(super) fn not_readable(layout: &CandleLayout) -> Error {
    let expected = format!("strides that kernels take, not {:?}", layout.stride());
    Error::Shape { name: "a tensor", shape: layout.dims().to_vec(), expected }
}

/// The shape of a result, in the order in which it lies in memory.
pub(super) fn shape_in_memory([n, c, h, w]: crate::Shape, format: MemoryFormat) -> Shape {
    match format {
        MemoryFormat::Contiguous => (n, c, h, w).into(),
        MemoryFormat::ChannelsLast => (n, h, w, c).into(),
    }
}

/// A layer's run, as an op of candle.
pub(super) struct Call<L: Layer> {
    pub plans: Arc<Plans<L>>,
    /// The roles of the inputs beside x, in order.
    pub roles: [Option<Role>; 2],
}

/// A tensor as candle hands it to an op.
pub(super) type Given<'a, S> = (&'a S, &'a CandleLayout);

/// A view of a tensor in host memory.
fn host_view<'a, T: Common>(device: &'a Device, (storage, layout): Given<'a, CpuStorage>) -> Result<TensorView<'a, T>, Fault> {
    let view = as_it_lies::<T>(layout).ok_or_else(|| not_readable(layout))?;
    let values = T::cpu_storage_as_slice(storage)?.get(layout.start_offset()..).unwrap_or_default();
    Ok(TensorView::from_host_slice(device, values, view)?)
}

/// Offsets or a mask beside an x of `own` dtype.
fn host_field<'a, T: Common>(device: &'a Device, given: Given<'a, CpuStorage>, own: DType) -> Result<OffsetOrMask<'a, T>, Fault> {
    let in_f32 = own != DType::F32 && given.0.dtype() == DType::F32;
    if in_f32 { Ok(OffsetOrMask::F32(host_view::<f32>(device, given)?)) } else { Ok(host_view::<T>(device, given)?.into()) }
}

/// An error of a run, from this crate or from candle.
pub(super) enum Fault {
    Ours(Error),
    Candles(candle_core::Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Ours(error)
    }
}

impl From<candle_core::Error> for Fault {
    fn from(error: candle_core::Error) -> Self {
        Fault::Candles(error)
    }
}

impl<L: Layer> Call<L> {
    fn name(&self) -> &'static str {
        self.plans.layer.spec().op()
    }

    fn result<V>(&self, result: Result<V, Fault>) -> Result<V> {
        result.map_err(|fault| match fault {
            Fault::Ours(error) => self.plans.error(error),
            Fault::Candles(error) => error,
        })
    }

    fn cpu(&self, x: Given<'_, CpuStorage>, others: &[Given<'_, CpuStorage>]) -> Result<(CpuStorage, Shape)> {
        dispatch!(x.0.dtype(), self.name(), T => self.result(self.on_host::<T>(x, others)))
    }

    fn on_host<T: Common>(&self, x: Given<'_, CpuStorage>, others: &[Given<'_, CpuStorage>]) -> Result<(CpuStorage, Shape), Fault> {
        let device = Device::host()?;
        let dtype = x.0.dtype();
        let x = host_view::<T>(&device, x)?;
        let mut inputs = Inputs::new(x);
        let mut rois = None;
        for (role, other) in self.roles.iter().flatten().zip(others) {
            match role {
                Role::Residual => inputs = inputs.residual(host_view::<T>(&device, *other)?),
                Role::Offset => inputs = inputs.offset(host_field::<T>(&device, *other, dtype)?),
                Role::Mask => inputs = inputs.mask(host_field::<T>(&device, *other, dtype)?),
                Role::Rois => {
                    let (storage, layout) = *other;
                    RoIs::check_shape(layout.dims())?;
                    let values = f32::cpu_storage_as_slice(storage)?.get(layout.start_offset()..).unwrap_or_default();
                    let values = values.get(..layout.shape().elem_count()).unwrap_or_default();
                    rois = Some(RoIs::from_shape(&device, x.shape()[0], layout.dims(), values)?);
                }
            }
        }
        if let Some(rois) = &rois {
            inputs = inputs.rois(rois);
        }
        let plan = self.plans.plan::<T>(&device, &Plans::<L>::request(&x.layout(), rois.as_ref().map(RoIs::len)))?;
        let (shape, format) = (plan.output_shape(), plan.output_format());
        let mut y = memory::filled(elements(&shape)?, T::zeroed())?;
        let mut workspace = WorkspaceMemory::new(&device, plan.workspace_bytes())?;
        let view = TensorViewMut::from_host_slice(&device, &mut y, Layout::packed(shape, format))?;
        plan.run(&inputs, view, workspace.workspace(), &Stream::default_of(&device))?;
        Ok((T::to_cpu_storage_owned(y), shape_in_memory(shape, format)))
    }

    #[cfg(feature = "candle-cuda")]
    fn gpu(&self, x: Given<'_, CudaStorage>, others: &[Given<'_, CudaStorage>]) -> Result<(CudaStorage, Shape)> {
        dispatch!(x.0.dtype(), self.name(), T => self.result(self.on_gpu::<T>(x, others)))
    }
}

/// Implements candle's traits for ops of one, two and three tensors.
macro_rules! custom_op {
    ($trait:ident($x:ident $x_layout:ident, $($other:ident $layout:ident),*)) => {
        impl<L: Layer> $trait for Call<L> {
            fn name(&self) -> &'static str {
                Call::name(self)
            }

            fn cpu_fwd(
                &self,
                $x: &CpuStorage,
                $x_layout: &CandleLayout,
                $($other: &CpuStorage, $layout: &CandleLayout),*
            ) -> Result<(CpuStorage, Shape)> {
                self.cpu(($x, $x_layout), &[$(($other, $layout)),*])
            }

            #[cfg(feature = "candle-cuda")]
            fn cuda_fwd(
                &self,
                $x: &CudaStorage,
                $x_layout: &CandleLayout,
                $($other: &CudaStorage, $layout: &CandleLayout),*
            ) -> Result<(CudaStorage, Shape)> {
                self.gpu(($x, $x_layout), &[$(($other, $layout)),*])
            }
        }
    };
}

custom_op!(CustomOp1(x lx,));
custom_op!(CustomOp2(x lx, a la));
custom_op!(CustomOp3(x lx, a la, b lb));
