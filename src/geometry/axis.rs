//! One axis of a convolution, and the size of its output.

use super::{kernel_span, positive};
use crate::error::{Error, Result};

/// One axis of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Input size.
    pub input: usize,
    /// Zeros before and after the input.
    pub padding: [usize; 2],
    /// Kernel size.
    pub kernel: usize,
    /// Step of the kernel between outputs.
    pub stride: usize,
    /// Distance of neighbouring taps.
    pub dilation: usize,
}

impl Axis {
    /// `floor((input + padding - dilation * (kernel - 1) - 1) / stride) + 1`.
    ///
    /// ```
    /// use warpconv::geometry::Axis;
    /// let axis = Axis { input: 224, padding: [3, 3], kernel: 7, stride: 2, dilation: 1 };
    /// assert_eq!(axis.conv_output("height")?, 112);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::EmptyOutput`] when the kernel does not fit the padded input; [`Error::Attribute`] for a stride, dilation or
    /// kernel of 0; [`Error::Overflow`].
    pub fn conv_output(self, axis: &'static str) -> Result<usize> {
        self.output(axis, 0)
    }

    /// The output size of a convolution on an input with `extra` more pixels at its end.
    fn output(self, axis: &'static str, extra: usize) -> Result<usize> {
        let Axis { input, padding: [before, after], kernel, stride, dilation } = self;
        positive("kernel size", kernel)?;
        positive("stride", stride)?;
        positive("dilation", dilation)?;
        let span = kernel_span(kernel, dilation)?;
        let padded = input.checked_add(before).and_then(|s| s.checked_add(after)?.checked_add(extra)).ok_or_else(|| Error::Overflow {
            what: "the padded input size",
            values: format!("{axis} {input}, padding {before} + {after}"),
        })?;
        if span > padded {
            return Err(Error::EmptyOutput { axis, input, before, after, kernel, dilation, span });
        }
        Ok((padded - span) / stride + 1)
    }

    /// Refuses a padding of more than half of the kernel, and what no window can have.
    ///
    /// # Errors
    /// [`Error::Attribute`].
    pub(crate) fn check_pool(self) -> Result<()> {
        positive("kernel_size", self.kernel)?;
        positive("stride", self.stride)?;
        positive("dilation", self.dilation)?;
        match self.padding.into_iter().find(|&padding| padding > self.kernel / 2) {
            Some(padding) => Err(Error::Attribute {
                name: "padding",
                value: format!("{padding} for a kernel of {}", self.kernel),
                requirement: "at most half of the kernel size",
            }),
            None => Ok(()),
        }
    }

    /// The output size of a pooling. It is that of a convolution, unless `ceil` lets a last window
    /// reach beyond the padded input. Such a window must start within the input or the padding
    /// before it.
    ///
    /// ```
    /// use warpconv::geometry::Axis;
    /// let axis = Axis { input: 112, padding: [0, 0], kernel: 3, stride: 2, dilation: 1 };
    /// assert_eq!((axis.pooled_output("height", false)?, axis.pooled_output("height", true)?), (55, 56));
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Axis::conv_output`]; [`Error::Attribute`] for a padding of more than half of the
    /// kernel.
    pub fn pooled_output(self, axis: &'static str, ceil: bool) -> Result<usize> {
        self.check_pool()?;
        positive("input size", self.input)?;
        let output = self.output(axis, if ceil { self.stride - 1 } else { 0 })?;
        let last_starts_behind = (output - 1) * self.stride >= self.input + self.padding[0];
        Ok(if ceil && last_starts_behind { output - 1 } else { output })
    }

    /// The output size of a transposed convolution,
    /// `(input - 1) * stride + dilation * (kernel - 1) + 1 + extra - padding`. The padding is cut
    /// off. `extra` is the layer's output_padding.
    ///
    /// ```
    /// use warpconv::geometry::Axis;
    /// let axis = Axis { input: 112, padding: [1, 1], kernel: 4, stride: 2, dilation: 1 };
    /// assert_eq!(axis.transposed_output("height", 0)?, 224);
    /// # Ok::<(), warpconv::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Attribute`] for an input, stride, dilation or kernel of 0, or an `extra` that is not below stride or dilation;
    /// [`Error::EmptyTransposedOutput`] when the padding leaves nothing; [`Error::Overflow`].
    pub fn transposed_output(self, axis: &'static str, extra: usize) -> Result<usize> {
        let Axis { input, padding: [before, after], kernel, stride, dilation } = self;
        positive("input size", input)?;
        positive("kernel size", kernel)?;
        positive("stride", stride)?;
        positive("dilation", dilation)?;
        if extra >= stride.max(dilation) {
            let requirement = "below the stride or the dilation";
            return Err(Error::Attribute { name: "output_padding", value: extra.to_string(), requirement });
        }
        let overflow = || Error::Overflow {
            what: "the size before padding is cut off",
            values: format!("{axis} {input}, stride {stride}, kernel {kernel}, dilation {dilation}, output_padding {extra}"),
        };
        let full = (input - 1).checked_mul(stride).and_then(|s| s.checked_add(kernel_span(kernel, dilation).ok()?)?.checked_add(extra));
        let full = full.ok_or_else(overflow)?;
        let cut = before.checked_add(after).ok_or_else(overflow)?;
        if cut >= full {
            return Err(Error::EmptyTransposedOutput { axis, input, stride, full, before, after });
        }
        Ok(full - cut)
    }
}
