//! Pooling of regions of interest: RoiAlign, RoiPool, PsRoiPool and DeformRoiPool.

use super::{
    DeformRoiPoolSpec, Kind, Layer, LayerSpec, Named, Parameter, Plan, PlanRequest, Pool, Pooling, PsRoiPoolSpec, RoiAlignSpec,
    RoiPoolSpec, Shapes, Signature,
};
use crate::error::{Error, Result};
use crate::geometry::RoiGeometry;
use crate::kernels::roi_pool;
use crate::numerics::Contract;
use crate::{DType, Device, Element, Shape};

#[cfg(feature = "verify")]
impl LayerSpec {
    /// The pooling of a layer that pools RoIs; `None` for every other layer.
    pub(crate) fn pooling(&self) -> Option<Pooling> {
        match self {
            LayerSpec::RoiAlign(spec) => Some(spec.pooling()),
            LayerSpec::RoiPool(spec) => Some(spec.pooling()),
            LayerSpec::PsRoiPool(spec) => Some(spec.pooling()),
            LayerSpec::DeformRoiPool(spec) | LayerSpec::DeformRoiPoolPack(spec) => Some(spec.pooling()),
            LayerSpec::Conv2d(_)
            | LayerSpec::ConvTranspose2d(_)
            | LayerSpec::PixelShuffle(_)
            | LayerSpec::PixelUnshuffle(_)
            | LayerSpec::SubPixelConv2d(_)
            | LayerSpec::Focus(_)
            | LayerSpec::UpsampleBilinear(_)
            | LayerSpec::MaxPool2d(_)
            | LayerSpec::AvgPool2d(_)
            | LayerSpec::AdaptiveAvgPool2d(_)
            | LayerSpec::DepthwiseSeparableConv2d(_)
            | LayerSpec::SpatiallySeparableConv2d(_)
            | LayerSpec::DeformConv2d(_)
            | LayerSpec::DeformConv2dBlock(_) => None,
        }
    }
}

impl Pooling {
    /// The geometry for the inputs of `request`.
    pub(crate) fn geometry(&self, request: &PlanRequest) -> Result<RoiGeometry> {
        let Some(rois) = request.rois else {
            let name = "the number of RoIs (PlanRequest::rois)".into();
            return Err(Error::MissingTensor { op: self.op, name, available: String::new() });
        };
        RoiGeometry::new(*self, request.x, rois)
    }

    fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
        let geometry = self.geometry(request)?;
        let [_, _, h, w] = geometry.x;
        // A RoI may be larger than the image. Then all pixels of the image are read, and no others.
        Ok(match (self.pool, self.sampling_ratio > 0) {
            // The weight of a pixel is a product as well.
            (Pool::Align, true) => Contract::new(dtype, 4 * geometry.samples()).computed(1),
            // An adaptive grid has at most two samples for each pixel along an axis.
            (Pool::Align, false) => Contract::new(dtype, 16usize.saturating_mul(h + 1).saturating_mul(w + 1)).computed(1),
            (Pool::Max, _) => Contract::new(dtype, 1).exact(true),
            (Pool::Mean, _) => Contract::new(dtype, h * w),
        })
    }
}

/// Defines a layer that pools RoIs. Such a layer has attributes and no parameters.
macro_rules! layers {
    ($($(#[$doc:meta])* $layer:ident($spec:ident), inputs $inputs:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $layer {
            spec: $spec,
        }

        impl $layer {
            /// A layer with these attributes.
            ///
            /// # Errors
            /// [`Error::Attribute`] for a size of 0, or a number that is not finite or must be positive; [`Error::Limit`] for a
            /// sampling ratio above 4096.
            pub fn new(spec: $spec) -> Result<Self> {
                spec.pooling().check()?;
                Ok(Self { spec })
            }

            /// The layer's attributes.
            pub fn attributes(&self) -> &$spec {
                &self.spec
            }

            /// The geometry for `rois` RoIs of an input of shape `x`.
            ///
            /// # Errors
            /// [`Error::Attribute`] for an input without rows or columns; [`Error::Divisibility`];
            /// [`Error::Overflow`].
            pub fn geometry(&self, x: Shape, rois: usize) -> Result<RoiGeometry> {
                RoiGeometry::new(self.spec.pooling(), x, rois)
            }
        }

        impl Layer for $layer {
            fn spec(&self) -> LayerSpec {
                LayerSpec::$layer(self.spec)
            }

            fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
                Ok(self.spec.pooling().geometry(request)?.output_shape())
            }

            fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
                roi_pool::plan(device, request, self.spec.pooling().geometry(request)?)
            }
        }

        impl Kind for $layer {
            type Spec = $spec;
            const SIGNATURE: Signature = Signature { parameters: &[], inputs: $inputs };

            fn build(spec: $spec, _: &mut Named) -> Result<Self> {
                Self::new(spec)
            }

            fn parameters(&self) -> Vec<(&'static str, &Parameter)> {
                vec![]
            }

            fn typical_parameters(_: &$spec, _: Shape, _: Option<Shape>) -> Shapes {
                vec![]
            }

            fn contract(&self, dtype: DType, request: &PlanRequest) -> Result<Contract> {
                self.spec.pooling().contract(dtype, request)
            }
        }
    )*};
}

layers! {
    /// RoIAlign: the value of each bin of a RoI is the mean of bilinear samples on a grid.
    ///
    /// `y[k,c,i,j]` is the mean, over the points (q, r) of the grid, of
    /// `B(start_h + i*bin_h + (q + 1/2) * bin_h/gh, start_w + ...)`. Here start =
    /// `x1 * spatial_scale` (less 1/2 if aligned), size = `(x2 - x1) * spatial_scale` (at least 1
    /// if not aligned) and `bin = size / output_size`. The grid has `sampling_ratio` points along
    /// each axis, or `ceil(bin)` if that number is not positive. B is 0 if a coordinate is below -1
    /// or above the image's size; otherwise the coordinate is clamped to the image and B is
    /// bilinear.
    ///
    /// Inputs: x `[N, C, H, W]`, rois `[K, 5]`; output `[K, C, ph, pw]`. Positions and weights are
    /// f32 in every dtype, computed in torchvision's order. A RoI gives zeros if one of its
    /// coordinates, after scaling, is not finite or is beyond 2^24. A grid without samples (of a
    /// reversed RoI, if aligned and adaptive) also gives zeros. Samples outside the image cost no
    /// time.
    ///
    /// Sources: He, Gkioxari, Dollár and Girshick, "Mask R-CNN", 2017; `torchvision.ops.roi_align`.
    ///
    /// ```
    /// use warpconv::{Device, Inputs, Layer, RoIs, RoiAlign, RoiAlignSpec, Tensor};
    /// # fn main() -> warpconv::Result<()> {
    /// let device = Device::best()?;
    /// let x = Tensor::from_slice(&device, [1, 1, 2, 2], &[0f32, 1., 2., 3.])?;
    /// let rois = RoIs::from_slice(&device, 1, &[[0., 0., 0., 2., 2.]])?;
    /// let align = RoiAlign::new(RoiAlignSpec { sampling_ratio: 1, aligned: true, ..RoiAlignSpec::new([2, 2]) })?;
    /// assert_eq!(align.forward(&Inputs::new(&x).rois(&rois))?.to_vec()?, [0., 1., 2., 3.]);
    /// # Ok(())
    /// # }
    /// ```
    RoiAlign(RoiAlignSpec), inputs &["x", "rois"];

    /// RoI max pooling: the value of each bin of a RoI, whose borders are whole pixels, is its
    /// largest pixel.
    ///
    /// Start and end are the scaled corners, rounded half away from zero, and
    /// `size = max(end - start + 1, 1)`. Bin i covers the pixels from `floor(i * size / p) + start`
    /// up to but not including `ceil((i + 1) * size / p) + start`, clipped to the image. Bins
    /// overlap if size / p is not whole. A bin without pixels gives 0. NaN counts as larger than
    /// any number. If all pixels are minus infinity, so is the result (torchvision gives the lowest
    /// finite number).
    ///
    /// Inputs: x `[N, C, H, W]`, rois `[K, 5]`; output `[K, C, ph, pw]`. A RoI gives zeros if one
    /// of its coordinates, after scaling, is not finite or is beyond 2^24.
    ///
    /// Sources: Girshick, "Fast R-CNN", 2015; `torchvision.ops.roi_pool`.
    ///
    /// ```
    /// use warpconv::{Device, Inputs, Layer, RoIs, RoiPool, RoiPoolSpec, Tensor};
    /// # fn main() -> warpconv::Result<()> {
    /// let device = Device::best()?;
    /// let x = Tensor::from_slice(&device, [1, 1, 2, 2], &[0f32, 1., 2., 3.])?;
    /// let rois = RoIs::from_slice(&device, 1, &[[0., 0., 0., 1., 1.], [0., 5., 5., 9., 9.]])?;
    /// let y = RoiPool::new(RoiPoolSpec::new([1, 1]))?.forward(&Inputs::new(&x).rois(&rois))?;
    /// assert_eq!(y.to_vec()?, [3., 0.]);
    /// # Ok(())
    /// # }
    /// ```
    RoiPool(RoiPoolSpec), inputs &["x", "rois"];

    /// Position-sensitive RoI pooling: the value of each bin of a RoI, whose borders are whole
    /// pixels, is the mean of its pixels in a channel that belongs to the bin.
    ///
    /// The layer is as [`RoiPool`] with three differences: bin (i, j) of output channel o takes the
    /// mean of channel `(o * ph + i) * pw + j`; `size = max(end - start, 1)`; and bins are clipped
    /// to `[0, size of the image - 1]`, so that the last row and column are never read, as in
    /// torchvision.
    ///
    /// Inputs: x `[N, C, H, W]` with C a multiple of ph * pw, rois `[K, 5]`; output
    /// `[K, C / (ph * pw), ph, pw]`.
    ///
    /// Sources: Dai, Li, He and Sun, "R-FCN: Object Detection via Region-based Fully Convolutional Networks", 2016;
    /// `torchvision.ops.ps_roi_pool`.
    ///
    /// ```
    /// use warpconv::{Device, Inputs, Layer, PsRoiPool, PsRoiPoolSpec, RoIs, Tensor};
    /// # fn main() -> warpconv::Result<()> {
    /// let device = Device::best()?;
    /// // two channels for the two bins of a row
    /// let x = Tensor::from_slice(&device, [1, 2, 2, 3], &[1f32, 2., 0., 0., 0., 0., 10., 20., 0., 0., 0., 0.])?;
    /// let rois = RoIs::from_slice(&device, 1, &[[0., 0., 0., 2., 1.]])?;
    /// let y = PsRoiPool::new(PsRoiPoolSpec::new([1, 2]))?.forward(&Inputs::new(&x).rois(&rois))?;
    /// assert_eq!((y.shape(), y.to_vec()?), ([1, 1, 1, 2], vec![1., 20.]));
    /// # Ok(())
    /// # }
    /// ```
    PsRoiPool(PsRoiPoolSpec), inputs &["x", "rois"];

    /// Deformable RoI pooling: [`RoiAlign`], aligned, with each bin moved by an offset.
    ///
    /// Bin (i, j) of RoI k starts `gamma * width * offset[k, 2g, i, j]` further to the right and
    /// `gamma * height * offset[k, 2g + 1, i, j]` further down, where width and height are those of
    /// the scaled RoI. Its mean is multiplied by `mask[k, g, i, j]` (the modulated form of v2). g
    /// is the offset group of the output channel, `o / (C_out / offset_groups)`. Without offsets
    /// the bins are not moved; without a mask the factor is 1.
    ///
    /// **Position-sensitive.** As Dai et al. define it in section 2.2, bin (i, j) of output channel
    /// o (a class) reads channel `(o*ph + i)*pw + j` of x, which then has C_out * ph * pw channels.
    /// In the paper each class has its own offsets, `offset_groups = C_out`, and these are
    /// themselves pooled: [`PsRoiPool`] of a map with 2 * C_out * ph * pw channels gives
    /// `[K, 2 * C_out, ph, pw]`, which is the order of the offset input.
    ///
    /// Inputs: x `[N, C, H, W]`, rois `[K, 5]`, offset (optional) `[K, 2 * offset_groups, ph, pw]`,
    /// mask (optional) `[K, offset_groups, ph, pw]`. Offset and mask are in the layer's dtype or in
    /// f32. Output: `[K, C_out, ph, pw]`. Samples at positions that are outside the image, infinite
    /// or NaN are 0. Everything else is as in [`RoiAlign`].
    ///
    /// Sources: Dai et al., "Deformable Convolutional Networks", 2017; Zhu et al., "Deformable ConvNets v2", 2019; mmcv's
    /// `deform_roi_pool`.
    ///
    /// ```
    /// use warpconv::{DeformRoiPool, DeformRoiPoolSpec, Device, Inputs, Layer, RoIs, Tensor};
    /// # fn main() -> warpconv::Result<()> {
    /// let device = Device::best()?;
    /// let x = Tensor::from_slice(&device, [1, 1, 1, 4], &[0f32, 1., 2., 3.])?;
    /// let rois = RoIs::from_slice(&device, 1, &[[0., 0., 0., 2., 1.]])?;
    /// let pool = DeformRoiPool::new(DeformRoiPoolSpec { sampling_ratio: 1, gamma: 1.0, ..DeformRoiPoolSpec::new([1, 2]) })?;
    /// let offset = Tensor::from_slice(&device, [1, 2, 1, 2], &[1f32, 0.5, 0., 0.])?; // right by a width and by half of it
    /// let y = pool.forward(&Inputs::new(&x).rois(&rois).offset(&offset))?;
    /// assert_eq!(y.to_vec()?, [2., 2.]);
    /// # Ok(())
    /// # }
    /// ```
    DeformRoiPool(DeformRoiPoolSpec), inputs &["x", "rois", "offset", "mask"];
}
