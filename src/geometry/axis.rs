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
        let Axis { input, padding: [before, after], kernel, stride, dilation } = self;
        positive("kernel size", kernel)?;
        positive("stride", stride)?;
        positive("dilation", dilation)?;
        let span = kernel_span(kernel, dilation)?;
        let padded = input.checked_add(before).and_then(|s| s.checked_add(after)).ok_or_else(|| Error::Overflow {
            what: "the padded input size",
            values: format!("{axis} {input}, padding {before} + {after}"),
        })?;
        if span > padded {
            return Err(Error::EmptyOutput { axis, input, before, after, kernel, dilation, span });
        }
        Ok((padded - span) / stride + 1)
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
