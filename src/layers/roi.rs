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
        // a RoI may be larger than the image, whose pixels are then all that is read
        Ok(match (self.pool, self.sampling_ratio > 0) {
            // the weight of a pixel is a product, too
            (Pool::Align, true) => Contract::new(dtype, 4 * geometry.samples()).computed(1),
            // an adaptive grid has at most two samples a pixel and axis
            (Pool::Align, false) => Contract::new(dtype, 16usize.saturating_mul(h + 1).saturating_mul(w + 1)).computed(1),
            (Pool::Max, _) => Contract::new(dtype, 1).exact(true),
            (Pool::Mean, _) => Contract::new(dtype, h * w),
        })
    }
}

/// A layer that pools RoIs: it has attributes and no parameters.
macro_rules! layers {
    ($($(#[$doc:meta])* $layer:ident($spec:ident), inputs $inputs:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $layer {
            spec: $spec,
        }

        impl $layer {
            /// The layer of these attributes.
            ///
            /// # Errors
            /// [`Error::Attribute`] for a size of 0, or a number that is not finite or must be positive; [`Error::Limit`] for a
            /// sampling ratio above 4096.
            pub fn new(spec: $spec) -> Result<Self> {
                spec.pooling().check()?;
                Ok(Self { spec })
            }

            /// Its attributes.
            pub fn attributes(&self) -> &$spec {
                &self.spec
            }

            /// The geometry for `rois` RoIs of an input of shape `x`.
            ///
            /// # Errors
            /// [`Error::Attribute`] for an input without rows or columns; [`Error::Divisibility`]; [`Error::Overflow`].
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
    /// RoIAlign: each bin of a RoI becomes the mean of bilinear samples on a grid.
    ///
    /// `y[k,c,i,j]` = the mean over the grid's (q, r) of `B(start_h + i*bin_h + (q + 1/2) * bin_h/gh, start_w + ...)`, with start =
    /// `x1 * spatial_scale` (less 1/2 if aligned), size = `(x2 - x1) * spatial_scale` (at least 1 if not aligned), `bin = size /
    /// output_size`, and a grid of `sampling_ratio`, or of `ceil(bin)` where that is not above 0. B is 0 where a coordinate is below
    /// -1 or above the image's size; else the coordinate is clamped to the image and B bilinear.
    ///
    /// Inputs: x `[N, C, H, W]`, rois `[K, 5]`; output `[K, C, ph, pw]`. Positions and weights are f32 in every dtype, computed in
    /// torchvision's order. A RoI with a coordinate that is, after scaling, not finite or beyond 2^24 gives zeros, and so does a
    /// grid without samples (a reversed RoI, if aligned and adaptive). Samples outside the image cost nothing.
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

    /// RoI max pooling: each bin of a RoI, in whole pixels, becomes its largest pixel.
    ///
    /// With start and end the scaled corners, rounded half away from zero, and `size = max(end - start + 1, 1)`: bin i covers the
    /// pixels from `floor(i * size / p) + start` to before `ceil((i + 1) * size / p) + start`, clipped to the image. Bins overlap
    /// where size / p is not whole. A bin without pixels gives 0; NaN is larger than any number; otherwise minus infinity, which
    /// torchvision replaces by the lowest number, may be the largest.
    ///
    /// Inputs: x `[N, C, H, W]`, rois `[K, 5]`; output `[K, C, ph, pw]`. A RoI with a coordinate that is, after scaling, not finite
    /// or beyond 2^24 gives zeros.
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

    /// Position-sensitive RoI pooling: each bin of a RoI, in whole pixels, becomes the mean of its pixels in a channel of its own.
    ///
    /// As [`RoiPool`] with the mean of channel `(o * ph + i) * pw + j` for output channel o of bin (i, j), with `size = max(end -
    /// start, 1)`, and with bins clipped to `[0, size of the image - 1]`: the last row and column are never read, which is
    /// torchvision's behaviour.
    ///
    /// Inputs: x `[N, C, H, W]` with C a multiple of ph * pw, rois `[K, 5]`; output `[K, C / (ph * pw), ph, pw]`.
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

    /// Deformable RoI pooling: [`RoiAlign`], aligned, whose every bin is moved by an offset.
    ///
    /// Bin (i, j) of RoI k starts `gamma * width * offset[k, 2g, i, j]` further to the right and `gamma * height * offset[k, 2g + 1,
    /// i, j]` further down, width and height those of the scaled RoI; its mean is multiplied by `mask[k, g, i, j]` (the modulated
    /// form of v2). g is the offset group of the output channel, `o / (C_out / offset_groups)`. Without offsets bins stay; without
    /// a mask it is 1.
    ///
    /// **Position-sensitive**, as Dai et al. define it in section 2.2, bin (i, j) of output channel o (a class) reads channel `(o*ph +
    /// i)*pw + j` of x, of which there are then C_out * ph * pw. The paper's offsets belong to a class, `offset_groups = C_out`, and
    /// are themselves pooled: [`PsRoiPool`] of a map with 2 * C_out * ph * pw channels gives `[K, 2 * C_out, ph, pw]`, the offset's
    /// own order.
    ///
    /// Inputs: x `[N, C, H, W]`, rois `[K, 5]`, offset (optional) `[K, 2 * offset_groups, ph, pw]`, mask (optional) `[K,
    /// offset_groups, ph, pw]`, both in the layer's dtype or in f32; output `[K, C_out, ph, pw]`. Samples at positions that are
    /// outside the image, infinite or NaN are 0. Otherwise as [`RoiAlign`].
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
