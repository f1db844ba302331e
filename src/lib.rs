//! Hand-written CUDA kernels for every kind of convolution that modern CNNs use, in one safe API
//! that can be tested without a GPU: the same kernel sources that nvcc compiles for a GPU also run
//! on the CPU, on the *host device*.
//!
//! A spec ([`Conv2dSpec`]) and weights make a layer ([`Conv2d`]). A layer and an input's shape make
//! a [`Plan`], which chooses and loads a kernel. A plan runs on [`Tensor`]s of a [`Device`].
//!
//! ```
//! use warpconv::{Activation, Conv2d, Conv2dSpec, Device, Inputs, Layer, MemoryFormat, Padding, Parameter, PlanRequest, Stream, Tensor, Workspace};
//! # fn main() -> warpconv::Result<()> {
//! let device = Device::best()?; // a GPU if there is one, else the host device
//! let spec = Conv2dSpec { padding: Padding::Same, activation: Activation::Silu, ..Default::default() };
//! let layer = Conv2d::new(spec, Parameter::new(&[8, 4, 3, 3], &[0.1f32; 8 * 4 * 9])?)?;
//!
//! // all in one ...
//! let x = Tensor::<half::f16>::randn(&device, [1, 4, 32, 32], MemoryFormat::ChannelsLast, 42)?;
//! let y = layer.forward(&Inputs::new(&x))?;
//! assert_eq!(y.shape(), [1, 8, 32, 32]);
//!
//! // ... or planned once and run often, without allocation or synchronisation
//! let plan = layer.plan::<half::f16>(&device, &PlanRequest::new(x.shape()).format(MemoryFormat::ChannelsLast))?;
//! let mut z = Tensor::zeros(&device, plan.output_shape(), plan.output_format())?;
//! plan.run(&Inputs::new(&x), &mut z, Workspace::none(), &Stream::default_of(&device))?;
//! assert_eq!(y.to_vec()?, z.to_vec()?);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `host` | yes | the host device: the kernels on the CPU, for tests, CI and trying things out |
//! | `cli` | yes | the `warpconv` program |
//! | `cuda` | no | GPUs, through [cudarc](https://docs.rs/cudarc); building needs nvcc, running only the driver |
//! | `factorise` | yes | [`factorise`]: filters as products of vertical and horizontal ones (singular values, by nalgebra) |
//! | `rand` | yes | [`Tensor::rand`] and [`Tensor::randn`] |
//! | `verify` | yes | [`mod@reference`], [`cases`] and [`check`]: the float64 oracle, random problems, and the comparison with the oracle |
//! | `bench` | yes | [`mod@bench`]: layers of real networks, measured; tuning tables are measured with it, and used without it |
//! | `candle` | no | `warpconv::candle`: functions and modules for candle, whose tensors of the CPU run on the host device |
//! | `candle-cuda` | no | the same for candle's tensors of a GPU, on candle's own stream |
//! | `checked-host` | no | the checker of the host device: races, stray accesses, divergent barriers |
//!
//! A service that only runs on GPUs uses `default-features = false, features = ["cuda"]`. Linux on
//! x86-64 is tested; the host device should also work on Linux on aarch64 and on macOS.
//!
//! # Threads and streams
//!
//! Layers, plans and devices are `Send + Sync`: build them once and share them. [`Plan::run`] takes
//! `&self`, so many threads may run one plan at the same time, each with its own output.
//!
//! - On a GPU, `run` queues work on a [`Stream`] and returns. Work on one stream runs in order; work on two is ordered by an
//!   [`Event`] ([`Stream::record`], [`Stream::wait`]) or by [`Stream::synchronize`]. Reading a tensor on the host
//!   ([`Tensor::to_vec`], [`Tensor::read`]) and writing it from there wait for the streams on which work uses that
//!   tensor, and for no others. The crate knows the work that it queues itself; other code that queues work with a
//!   tensor's address announces it ([`Tensor::used_on`]).
//!   [`TensorView::read_async`] and [`TensorViewMut::write_async`] are work of a stream like any other: they copy
//!   to and from a [`PinnedBuffer`], and [`Pending::wait`] waits for that copy alone.
//! - [`Stream::default_of`] is CUDA's default stream, the same for all threads. Threads that should not wait for
//!   one another have a stream each ([`Stream::new`]). A stream, a plan and a tensor keep their device.
//! - On the host device `run` computes and returns when it is done; it blocks its thread for milliseconds to seconds. In an
//!   asynchronous program call it by `spawn_blocking` or the like, with a bounded number of permits.
//! - Dropping a tensor never frees memory under work that uses it, on whichever streams that is queued. On a GPU
//!   with memory pools the host does not wait for it: the memory is freed in the turn of those streams, or after a
//!   capture of them. Other GPUs wait for those streams. [`MemoryOptions`] bounds the memory that a device holds.
//!   Allocating still costs more than refilling what is there.
//! - A chain of layers that is run often is a [`Graph`], which the GPU replays as one launch.
//!
//! # Errors
//!
//! Everything that depends on shapes, attributes and weights is checked before a launch; an
//! [`Error`] carries the offending values. [`Error::kind`] sorts errors by who must act,
//! [`Error::is_sticky`] tells whether a GPU is lost to the process, and [`Error::in_layer`] adds a
//! layer's name. No input of a user causes a panic.

#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod analysis;
#[cfg(feature = "bench")]
#[cfg_attr(docsrs, doc(cfg(feature = "bench")))]
pub mod bench;
mod build_info;
#[cfg(feature = "candle")]
#[cfg_attr(docsrs, doc(cfg(feature = "candle")))]
pub mod candle;
#[cfg(feature = "verify")]
#[cfg_attr(docsrs, doc(cfg(feature = "verify")))]
pub mod cases;
#[cfg(feature = "verify")]
#[cfg_attr(docsrs, doc(cfg(feature = "verify")))]
pub mod check;
mod device;
pub mod dlpack;
mod dtype;
mod error;
#[cfg(feature = "factorise")]
#[cfg_attr(docsrs, doc(cfg(feature = "factorise")))]
pub mod factorise;
mod files;
pub mod geometry;
pub mod io;
mod kernels;
pub mod layers;
mod memory;
pub mod numerics;
mod plan;
#[cfg(feature = "verify")]
#[cfg_attr(docsrs, doc(cfg(feature = "verify")))]
pub mod reference;
mod shape;
mod spec;
mod tensor;
#[cfg(feature = "checked-host")]
#[doc(hidden)]
pub mod testing;
pub mod text;
pub mod tuning;

pub use build_info::{BuildInfo, build_info};
#[cfg(feature = "cuda")]
pub use cudarc;
#[cfg(feature = "host")]
pub use device::HostOptions;
pub use device::{Device, DeviceKind, Event, GpuModel, MemoryOptions, Pending, PinnedBuffer, Properties, Stream};
#[cfg(feature = "checked-host")]
pub use device::{LaunchCounters, OperandCounters};
pub use dtype::{DType, Element, MemoryFormat};
pub use error::{Error, ErrorKind, Result};
pub use half;
pub use layers::{
    Activation, AdaptiveAvgPool2d, AdaptiveAvgPool2dSpec, AnyLayer, AvgPool2d, AvgPool2dSpec, BatchNorm, BatchPlans, ChannelOrder, Choice,
    ChosenBy, Conv2d, Conv2dSpec, ConvTranspose2d, ConvTranspose2dSpec, DeformConv2d, DeformConv2dBlock, DeformConv2dBlockSpec,
    DeformConv2dSpec, DeformRoiPool, DeformRoiPoolPack, DeformRoiPoolSpec, DepthwiseSeparableConv2d, DepthwiseSeparableSpec, Explanation,
    Focus, FocusSpec, FromParameters, FullyConnected, Graph, GroupPart, Inputs, Layer, LayerSpec, MaxPool2d, MaxPool2dSpec, OffsetOrMask,
    Outline, Padding, Parameter, PixelShuffle, PixelShuffleSpec, PixelUnshuffle, Plan, PlanCache, PlanRequest, Precision, PsRoiPool,
    PsRoiPoolSpec, Recorder, Residual, RoIs, RoiAlign, RoiAlignSpec, RoiPool, RoiPoolSpec, RoisView, Slot, SpatiallySeparableConv2d,
    SpatiallySeparableSpec, SubPixelConv2d, SubPixelConv2dSpec, Target, Tensors, Tuned, UpsampleBilinear, UpsampleBilinearSpec,
    UpsampleSize, Workspace, WorkspaceMemory,
};
pub use plan::Estimate;
pub use shape::Shape;
pub use tensor::{AnyTensor, Layout, Tensor, TensorView, TensorViewMut};
pub use tuning::TuningTable;
