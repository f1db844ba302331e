//! The layers, each in a file of its own. What a user writes is validated once, when a layer is
//! built.
//!
//! A layer is a spec (its attributes) with its weights. [`Layer::plan`] turns it into a [`Plan`]
//! for one input shape. [`Layer::forward`] plans, allocates the output and runs in one call.

mod any;
mod batch_norm;
mod conv2d;
mod conv_transpose2d;
mod deform_conv2d;
mod deform_conv2d_block;
mod deform_roi_pool_pack;
mod depthwise_separable;
mod focus;
mod pixel_shuffle;
mod plans;
mod pool;
mod roi;
mod spatially_separable;
mod sub_pixel;
mod tail;
mod tune;
mod upsample;
mod weighted;

#[cfg(feature = "verify")]
pub(crate) use any::unexpected;
pub use any::{AnyLayer, FromParameters, LayerSpec, Outline, Shapes, Signature};
pub(crate) use any::{Kind, Named};
pub use batch_norm::BatchNorm;
pub use conv_transpose2d::{ConvTranspose2d, bilinear_kernel};
pub use conv2d::{Conv2d, GroupPart};
pub use deform_conv2d::DeformConv2d;
pub use deform_conv2d_block::DeformConv2dBlock;
pub use deform_roi_pool_pack::{DeformRoiPoolPack, FullyConnected};
pub use depthwise_separable::DepthwiseSeparableConv2d;
pub use focus::Focus;
pub use pixel_shuffle::{PixelShuffle, PixelUnshuffle};
pub use plans::{BatchPlans, PlanCache};
pub use pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
pub use roi::{DeformRoiPool, PsRoiPool, RoiAlign, RoiPool};
pub use spatially_separable::SpatiallySeparableConv2d;
pub use sub_pixel::SubPixelConv2d;
pub(crate) use tail::Tail;
pub use tune::Tuned;
#[cfg(feature = "bench")]
pub(crate) use tune::{Measured, measure_all};
pub use upsample::UpsampleBilinear;
pub(crate) use weighted::{Weighted, weight_and_tail};

pub use crate::plan::{
    Choice, ChosenBy, Explanation, Graph, Inputs, OffsetOrMask, Parameter, Plan, PlanRequest, Recorder, Residual, RoIs, RoisView, Slot,
    Target, Tensors, Workspace, WorkspaceMemory,
};
pub(crate) use crate::plan::{PAIR, pair};
pub(crate) use crate::spec::attributes;
pub use crate::spec::{
    Activation, AdaptiveAvgPool2dSpec, AvgPool2dSpec, ChannelOrder, Conv2dSpec, ConvTranspose2dSpec, DeformConv2dBlockSpec,
    DeformConv2dSpec, DeformRoiPoolSpec, DepthwiseSeparableSpec, FocusSpec, MaxPool2dSpec, Padding, PixelShuffleSpec, Precision,
    PsRoiPoolSpec, RoiAlignSpec, RoiPoolSpec, SpatiallySeparableSpec, SubPixelConv2dSpec, UpsampleBilinearSpec, UpsampleSize,
};
pub(crate) use crate::spec::{Pool, Pooling};
use crate::{Device, Element, Result, Shape, Stream, Tensor};

/// A layer of a network, which infers shapes, plans and runs.
pub trait Layer: Sized + Send + Sync + 'static {
    /// The spec that the layer was built from, as in its JSON form.
    fn spec(&self) -> LayerSpec;

    /// The shape of the output for the input of `request`. A request can be made from the shape of
    /// x: `layer.output_shape(&x.into())`.
    ///
    /// # Errors
    /// When the layer cannot be applied to such an input.
    fn output_shape(&self, request: &PlanRequest) -> Result<Shape>;

    /// Chooses a kernel and prepares everything that running needs: validated geometry, packed
    /// weights on the device, the loaded kernel. Planning may allocate and take milliseconds;
    /// [`Plan::run`] allocates nothing.
    ///
    /// # Errors
    /// When the shapes do not fit the layer, a limit of the kernels is exceeded, or the device
    /// fails.
    fn plan<T: Element>(&self, device: &crate::Device, request: &PlanRequest) -> Result<Plan<T>>;

    /// Makes a plan for each batch size from 1 to that of `request`, for services whose batches
    /// vary.
    ///
    /// # Errors
    /// As [`Layer::plan`]; [`crate::Error::Attribute`] for a batch of 0 or above 4096, and for
    /// layers that pool RoIs.
    fn plan_up_to_batch<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<BatchPlans<T>> {
        BatchPlans::new(self, device, request)
    }

    /// Drops the values of the weights from the host's memory. Existing plans keep working. Later
    /// plans work if their device, dtype and kernel layout have packed the weights already, so make
    /// all plans that will be needed first. Bias and slope are kept, and so are copies that clones
    /// of the layer or of its parameters share.
    ///
    /// ```
    /// use warpconv::{Conv2d, Conv2dSpec, Device, Error, Inputs, Layer, MemoryFormat, Parameter, PlanRequest, Tensor};
    /// let device = Device::best()?;
    /// let mut layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[4, 8, 1, 1], &[0.5f32; 32])?)?;
    /// let x = Tensor::<f32>::randn(&device, [1, 8, 6, 6], MemoryFormat::Contiguous, 1)?;
    /// let before = layer.forward(&Inputs::new(&x))?.to_vec()?;
    /// layer.forget_host_weights();
    /// assert_eq!(layer.forward(&Inputs::new(&x))?.to_vec()?, before);
    /// // nobody has packed them in f16
    /// let error = layer.plan::<warpconv::half::f16>(&device, &PlanRequest::new(x.shape())).unwrap_err();
    /// assert!(matches!(error, Error::Forgotten { .. }));
    /// # Ok::<(), Error>(())
    /// ```
    fn forget_host_weights(&mut self) {}

    /// Times every kernel that applies to these inputs on their device, and returns a plan with the
    /// fastest. Takes about 20 ms for each kernel, and synchronises.
    ///
    /// ```
    /// use warpconv::{Conv2d, Conv2dSpec, Device, Inputs, Layer, MemoryFormat, Parameter, PlanRequest, Tensor};
    /// let device = Device::best()?;
    /// let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[4, 8, 1, 1], &[0.5f32; 32])?)?;
    /// let x = Tensor::<f32>::randn(&device, [1, 8, 6, 6], MemoryFormat::Contiguous, 1)?;
    /// let tuned = layer.tune(&PlanRequest::new(x.shape()), &Inputs::new(&x))?;
    /// assert_eq!(tuned.plan.explain().kernel, tuned.times[0].0);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Layer::plan`] and [`Plan::run`].
    fn tune<T: Element>(&self, request: &PlanRequest, inputs: &Inputs<'_, T>) -> Result<Tuned<T>> {
        tune::tune(self, request, inputs)
    }

    /// Plans, allocates the output in the format of `x`, and runs on the device's default stream.
    /// If the batch indices of RoIs have not been checked yet, they are read back and checked
    /// first.
    ///
    /// # Errors
    /// As [`Layer::plan`] and [`Plan::run`]; [`crate::Error::Attribute`] for a RoI's batch index
    /// that is out of range.
    fn forward<T: Element>(&self, inputs: &Inputs<'_, T>) -> Result<Tensor<T>> {
        let device = inputs.x.device().clone();
        let plan = self.plan::<T>(&device, &inputs.request())?;
        if let Some(rois) = &inputs.rois {
            rois.check_images(inputs.x.shape()[0])?;
        }
        let mut y = Tensor::uninitialised(&device, plan.output_shape(), plan.output_format())?;
        let mut memory = WorkspaceMemory::new(&device, plan.workspace_bytes())?;
        plan.run(inputs, &mut y, memory.workspace(), &Stream::default_of(&device))?;
        Ok(y)
    }
}
