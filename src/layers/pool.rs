//! Pooling of windows: MaxPool2d, AvgPool2d and AdaptiveAvgPool2d.

use super::{
    AdaptiveAvgPool2dSpec, AvgPool2dSpec, Kind, Layer, LayerSpec, MaxPool2dSpec, Named, Parameter, Plan, PlanRequest, Shapes, Signature,
};
use crate::error::Result;
use crate::geometry::{Axis, PoolGeometry, Pooled, Windows};
use crate::kernels::pool;
use crate::numerics::Contract;
use crate::shape::positive;
use crate::{DType, Device, Element, Shape};

impl MaxPool2dSpec {
    fn check(&self) -> Result<()> {
        check(self.kernel_size, self.stride, self.padding, self.dilation)
    }
}

impl AvgPool2dSpec {
    fn check(&self) -> Result<()> {
        self.divisor_override.map_or(Ok(()), |divisor| positive("divisor_override", divisor))?;
        check(self.kernel_size, self.stride, self.padding, [1, 1])
    }
}

impl AdaptiveAvgPool2dSpec {
    fn check(&self) -> Result<()> {
        positive("the output height", self.output_size[0])?;
        positive("the output width", self.output_size[1])
    }
}

/// Refuses what no input can have.
fn check(kernel: [usize; 2], stride: Option<[usize; 2]>, padding: [usize; 2], dilation: [usize; 2]) -> Result<()> {
    let stride = stride.unwrap_or(kernel);
    (0..2).try_for_each(|a| {
        let axis = Axis { input: 1, padding: [padding[a]; 2], kernel: kernel[a], stride: stride[a], dilation: dilation[a] };
        axis.check_pool()
    })
}

impl PoolGeometry {
    /// The contract. The largest pixel is one of the pixels, and is compared bit for bit. So is a
    /// mean if the divisor of all windows is a power of 2, which makes the division exact.
    fn contract(&self, dtype: DType) -> Contract {
        let pixels: usize = self.window().iter().product();
        let one_divisor = match (self.windows, self.pooled) {
            (_, Pooled::Max) => return Contract::new(dtype, 1).exact(true),
            (_, Pooled::Mean { divisor: Some(divisor), .. }) => Some(divisor),
            (Windows::Regular(axes), _) => {
                let whole = |axis: Axis, output: usize| axis.padding == [0, 0] && (output - 1) * axis.stride + axis.kernel <= axis.input;
                (whole(axes[0], self.output[0]) && whole(axes[1], self.output[1])).then_some(pixels)
            }
            (Windows::Adaptive, _) => (0..2).all(|axis| self.input[axis].is_multiple_of(self.output[axis])).then_some(pixels),
        };
        // Sums of up to 2^18 multiples of 1/64 are exact.
        Contract::new(dtype, pixels).exact(one_divisor.is_some_and(usize::is_power_of_two) && pixels <= 1 << 18)
    }
}

/// Defines a layer that pools windows. Such a layer has attributes and no parameters.
macro_rules! layers {
    ($($(#[$doc:meta])* $layer:ident($spec:ident) = $op:literal by $geometry:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $layer {
            spec: $spec,
        }

        impl $layer {
            /// A layer without parameters.
            ///
            /// # Errors
            /// [`crate::Error::Attribute`] for a size, stride, dilation or divisor of 0, or a
            /// padding of more than half of the kernel size.
            pub fn new(spec: $spec) -> Result<Self> {
                spec.check()?;
                Ok(Self { spec })
            }

            /// The layer's attributes.
            pub fn attributes(&self) -> &$spec {
                &self.spec
            }

            /// The geometry of the layer on an input of shape `x`.
            ///
            /// # Errors
            #[doc = concat!("As [`PoolGeometry::", stringify!($geometry), "`].")]
            pub fn geometry(&self, x: Shape) -> Result<PoolGeometry> {
                PoolGeometry::$geometry(&self.spec, x)
            }
        }

        impl Layer for $layer {
            fn spec(&self) -> LayerSpec {
                LayerSpec::$layer(self.spec)
            }

            fn output_shape(&self, request: &PlanRequest) -> Result<Shape> {
                Ok(self.geometry(request.x)?.output_shape())
            }

            fn plan<T: Element>(&self, device: &Device, request: &PlanRequest) -> Result<Plan<T>> {
                pool::plan($op, device, request, self.geometry(request.x)?)
            }
        }

        impl Kind for $layer {
            type Spec = $spec;
            const SIGNATURE: Signature = Signature { parameters: &[], inputs: &["x"] };

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
                Ok(self.geometry(request.x)?.contract(dtype))
            }
        }
    )*};
}

layers! {
    /// The largest pixel of each window, as PyTorch's `max_pool2d`.
    ///
    /// `y[n,c,p,q]` is the largest of `x[n,c,p*stride + i*dilation - padding, ...]` over the rows i
    /// and columns j of the window. Pixels in the padding are minus infinity. NaN is larger than
    /// every number. With `ceil_mode` the output has one more row (or column) if pixels at the end
    /// would be in no window.
    ///
    /// Sources: PyTorch `torch.nn.MaxPool2d`; He et al., "Deep Residual Learning for Image
    /// Recognition", 2015, for its use.
    ///
    /// ```
    /// use warpconv::{Device, Inputs, Layer, MaxPool2d, MaxPool2dSpec, Tensor};
    /// # fn main() -> warpconv::Result<()> {
    /// let device = Device::best()?;
    /// let x = Tensor::from_slice(&device, [1, 1, 2, 4], &[1f32, 5.0, -3.0, -2.0, 4.0, 2.0, -4.0, -1.0])?;
    /// let pool = MaxPool2d::new(MaxPool2dSpec::new([2, 2]))?;
    /// assert_eq!(pool.forward(&Inputs::new(&x))?.to_vec()?, [5.0, -1.0]);
    /// # Ok(())
    /// # }
    /// ```
    MaxPool2d(MaxPool2dSpec) = "max_pool2d" by max;
    /// The mean of each window, as PyTorch's `avg_pool2d`.
    ///
    /// `y[n,c,p,q]` is the sum of `x[n,c,p*stride + i - padding, ...]` over the rows i and columns j
    /// of the window, divided by the number of its pixels. Zeros of the padding count as pixels
    /// unless `count_include_pad` is false; places beyond the padding, which `ceil_mode` lets a
    /// window reach, never do. `divisor_override` replaces the number of pixels; it must be
    /// positive, whereas PyTorch also takes negative ones. Sums are f32, and the result is rounded
    /// once.
    ///
    /// Source: PyTorch `torch.nn.AvgPool2d`.
    ///
    /// ```
    /// use warpconv::{AvgPool2d, AvgPool2dSpec, Device, Inputs, Layer, Tensor};
    /// # fn main() -> warpconv::Result<()> {
    /// let device = Device::best()?;
    /// let x = Tensor::from_slice(&device, [1, 1, 1, 4], &[1f32, 5.0, -3.0, -2.0])?;
    /// let pool = AvgPool2d::new(AvgPool2dSpec::new([1, 2]))?;
    /// assert_eq!(pool.forward(&Inputs::new(&x))?.to_vec()?, [3.0, -2.5]);
    /// # Ok(())
    /// # }
    /// ```
    AvgPool2d(AvgPool2dSpec) = "avg_pool2d" by average;
    /// Means of windows that divide the input among a given number of outputs, as PyTorch's
    /// `adaptive_avg_pool2d`. To one output it is the global mean in front of a classifier.
    ///
    /// Output p of an axis is the mean of the pixels from `floor(p * input / output)` to
    /// `ceil((p + 1) * input / output)`. Sums are f32, and the result is rounded once.
    ///
    /// Sources: PyTorch `torch.nn.AdaptiveAvgPool2d`; Lin et al., "Network In Network", 2013, for
    /// the global mean.
    ///
    /// ```
    /// use warpconv::{AdaptiveAvgPool2d, Device, Inputs, Layer, Tensor};
    /// # fn main() -> warpconv::Result<()> {
    /// let device = Device::best()?;
    /// let x = Tensor::from_slice(&device, [1, 1, 2, 2], &[1f32, 5.0, -3.0, -2.0])?;
    /// assert_eq!(AdaptiveAvgPool2d::global().forward(&Inputs::new(&x))?.to_vec()?, [0.25]);
    /// # Ok(())
    /// # }
    /// ```
    AdaptiveAvgPool2d(AdaptiveAvgPool2dSpec) = "adaptive_avg_pool2d" by adaptive;
}

impl AdaptiveAvgPool2d {
    /// The mean of each channel of an image.
    pub fn global() -> Self {
        Self { spec: AdaptiveAvgPool2dSpec { output_size: [1, 1] } }
    }
}
