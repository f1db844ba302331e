//! Pooling.

use super::{Axis, Shape, elements, positive};
use crate::error::Result;
use crate::spec::{AdaptiveAvgPool2dSpec, AvgPool2dSpec, MaxPool2dSpec};

/// How the windows of a pooling lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// Windows of one size at regular distances, along each axis.
    Regular([Axis; 2]),
    /// Windows that divide the input among the outputs: output p has the pixels from
    /// `floor(p * input / output)` to `ceil((p + 1) * input / output)`.
    Adaptive,
}

/// What becomes of the pixels of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooled {
    /// The largest.
    Max,
    /// The sum, divided by the number of pixels of the window.
    Mean {
        /// Whether pixels in the padding count.
        count_padding: bool,
        /// What the sum is divided by instead.
        divisor: Option<usize>,
    },
}

/// A pooling all of whose sizes are known and fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolGeometry {
    /// The number of images.
    pub n: usize,
    /// The number of channels.
    pub channels: usize,
    /// Input height and width, at least 1.
    pub input: [usize; 2],
    /// Output height and width, at least 1.
    pub output: [usize; 2],
    /// The windows.
    pub windows: Windows,
    /// What becomes of the pixels of a window.
    pub pooled: Pooled,
}

const AXES: [&str; 2] = ["height", "width"];

impl PoolGeometry {
    /// The geometry of the largest pixels of an input of shape `x`.
    ///
    /// # Errors
    /// [`crate::Error::Attribute`] for an empty input, a kernel size, stride or dilation of 0, or a padding of more than half of the
    /// kernel size; [`crate::Error::EmptyOutput`]; [`crate::Error::Overflow`].
    pub fn max(spec: &MaxPool2dSpec, x: Shape) -> Result<Self> {
        let MaxPool2dSpec { kernel_size, stride, padding, dilation, ceil_mode } = *spec;
        Self::regular(x, kernel_size, stride, padding, dilation, ceil_mode, Pooled::Max)
    }

    /// The geometry of means of an input of shape `x`.
    ///
    /// # Errors
    /// As [`PoolGeometry::max`]; [`crate::Error::Attribute`] for a divisor of 0.
    pub fn average(spec: &AvgPool2dSpec, x: Shape) -> Result<Self> {
        let AvgPool2dSpec { kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override } = *spec;
        divisor_override.map_or(Ok(()), |divisor| positive("divisor_override", divisor))?;
        let pooled = Pooled::Mean { count_padding: count_include_pad, divisor: divisor_override };
        Self::regular(x, kernel_size, stride, padding, [1, 1], ceil_mode, pooled)
    }

    /// The geometry of means that divide an input of shape `x`.
    ///
    /// # Errors
    /// [`crate::Error::Attribute`] for an empty input or output; [`crate::Error::Overflow`].
    pub fn adaptive(spec: &AdaptiveAvgPool2dSpec, x: Shape) -> Result<Self> {
        positive("the output height", spec.output_size[0])?;
        positive("the output width", spec.output_size[1])?;
        let pooled = Pooled::Mean { count_padding: false, divisor: None };
        Self::of(x, spec.output_size, Windows::Adaptive, pooled)
    }

    fn regular(
        x: Shape,
        kernel: [usize; 2],
        stride: Option<[usize; 2]>,
        padding: [usize; 2],
        dilation: [usize; 2],
        ceil: bool,
        pooled: Pooled,
    ) -> Result<Self> {
        let stride = stride.unwrap_or(kernel);
        let axis =
            |a: usize| Axis { input: x[2 + a], padding: [padding[a]; 2], kernel: kernel[a], stride: stride[a], dilation: dilation[a] };
        let axes = [axis(0), axis(1)];
        let output = [axes[0].pooled_output(AXES[0], ceil)?, axes[1].pooled_output(AXES[1], ceil)?];
        Self::of(x, output, Windows::Regular(axes), pooled)
    }

    fn of([n, channels, h, w]: Shape, output: [usize; 2], windows: Windows, pooled: Pooled) -> Result<Self> {
        positive("the input height", h)?;
        positive("the input width", w)?;
        let geometry = Self { n, channels, input: [h, w], output, windows, pooled };
        elements(&geometry.input_shape())?;
        elements(&geometry.output_shape())?;
        Ok(geometry)
    }

    /// The shape of the input, [N, C, H, W].
    pub fn input_shape(&self) -> Shape {
        [self.n, self.channels, self.input[0], self.input[1]]
    }

    /// The shape of the output, [N, C, H_out, W_out].
    pub fn output_shape(&self) -> Shape {
        [self.n, self.channels, self.output[0], self.output[1]]
    }

    /// The largest number of pixels that a window has along each axis.
    pub fn window(&self) -> [usize; 2] {
        match self.windows {
            Windows::Regular(axes) => axes.map(|axis| axis.kernel),
            // Windows whose ends are rounded reach into one pixel more than their share, unless
            // the shares are whole.
            Windows::Adaptive => [0, 1].map(|axis| {
                let (input, output) = (self.input[axis], self.output[axis]);
                let share = input.div_ceil(output);
                if input.is_multiple_of(output) { share } else { input.min(share + 1) }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn height(spec: MaxPool2dSpec, h: usize) -> Result<usize> {
        PoolGeometry::max(&spec, [1, 1, h, 8]).map(|geometry| geometry.output[0])
    }

    #[test]
    fn output_sizes_are_those_of_pytorch() {
        let spec = |kernel, stride, padding, dilation, ceil_mode| MaxPool2dSpec {
            stride: Some([stride, 1]),
            padding: [padding, 0],
            dilation: [dilation, 1],
            ceil_mode,
            ..MaxPool2dSpec::new([kernel, 1])
        };
        assert_eq!(height(spec(3, 2, 1, 1, false), 112).unwrap(), 56);
        assert_eq!(height(spec(3, 2, 0, 1, false), 112).unwrap(), 55);
        assert_eq!(height(spec(3, 2, 0, 1, true), 112).unwrap(), 56);
        assert_eq!(height(spec(2, 1, 0, 3, false), 8).unwrap(), 5);
        // a kernel that is larger than the input has a window if the excess is below the stride
        assert_eq!(height(spec(3, 2, 0, 1, true), 2).unwrap(), 1);
        assert!(matches!(height(spec(3, 2, 0, 1, false), 2), Err(Error::EmptyOutput { .. })));
        assert!(matches!(height(spec(3, 1, 0, 1, true), 2), Err(Error::EmptyOutput { .. })));
        // the last window would start in the padding at the end: 1 + 3 + 1 pixels in steps of 4
        assert_eq!(height(spec(2, 4, 1, 1, true), 3).unwrap(), 1);
        assert_eq!(height(spec(2, 4, 1, 1, true), 4).unwrap(), 2);
    }

    #[test]
    fn what_pytorch_refuses_is_refused() {
        let refused = |spec: MaxPool2dSpec| matches!(PoolGeometry::max(&spec, [1, 1, 9, 9]), Err(Error::Attribute { .. }));
        let plain = MaxPool2dSpec::new([3, 3]);
        assert!(!refused(MaxPool2dSpec { padding: [1, 1], ..plain }));
        assert!(refused(MaxPool2dSpec { padding: [2, 1], ..plain }));
        // half of the kernel, however far it is dilated
        assert!(refused(MaxPool2dSpec { padding: [2, 1], dilation: [3, 3], ..plain }));
        assert!(refused(MaxPool2dSpec { stride: Some([0, 1]), ..plain }));
        assert!(refused(MaxPool2dSpec { dilation: [1, 0], ..plain }));
        assert!(refused(MaxPool2dSpec::new([0, 1])));
        assert!(PoolGeometry::max(&plain, [1, 1, 0, 9]).is_err());
        let divisor = AvgPool2dSpec { divisor_override: Some(0), ..AvgPool2dSpec::new([1, 1]) };
        assert!(matches!(PoolGeometry::average(&divisor, [1, 1, 9, 9]), Err(Error::Attribute { name: "divisor_override", .. })));
        let none = AdaptiveAvgPool2dSpec { output_size: [0, 1] };
        assert!(matches!(PoolGeometry::adaptive(&none, [1, 1, 9, 9]), Err(Error::Attribute { .. })));
        let huge = MaxPool2dSpec { stride: Some([usize::MAX; 2]), ceil_mode: true, ..plain };
        assert!(matches!(PoolGeometry::max(&huge, [1, 1, 9, 9]), Err(Error::Overflow { .. })));
    }
}
