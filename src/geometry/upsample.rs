//! Bilinear interpolation.

use super::{Shape, elements, positive};
use crate::error::{Error, Result};
use crate::spec::{UpsampleBilinearSpec, UpsampleSize};

/// A bilinear interpolation all of whose sizes are known and fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpsampleGeometry {
    /// The number of images.
    pub n: usize,
    /// The number of channels.
    pub channels: usize,
    /// Input height and width, at least 1.
    pub input: [usize; 2],
    /// Output height and width, at least 1.
    pub output: [usize; 2],
    /// The number of input pixels for each output pixel, vertically and horizontally, in f32 as
    /// PyTorch computes it.
    pub scale: [f32; 2],
    /// Whether the centres of the corner pixels coincide.
    pub align_corners: bool,
}

impl UpsampleGeometry {
    /// The geometry of `spec` on an input of shape `x`.
    ///
    /// # Errors
    /// [`Error::Attribute`] for an empty input or output, or a scale that is not positive and
    /// finite; [`Error::Overflow`].
    pub fn new(spec: &UpsampleBilinearSpec, x: Shape) -> Result<Self> {
        let [n, channels, h, w] = x;
        positive("the input height", h)?;
        positive("the input width", w)?;
        let output = match spec.size {
            UpsampleSize::Output(size) => size,
            UpsampleSize::Scale(scale) => {
                let scaled = |input: usize, scale: f64| {
                    if !(scale.is_finite() && scale > 0.0) {
                        return Err(Error::Attribute { name: "scale", value: scale.to_string(), requirement: "positive and finite" });
                    }
                    let size = (input as f64 * scale).floor();
                    let overflow = || Error::Overflow { what: "the output size", values: format!("{input} * {scale}") };
                    if size < 2f64.powi(53) { Ok(size as usize) } else { Err(overflow()) }
                };
                [scaled(h, scale[0])?, scaled(w, scale[1])?]
            }
        };
        positive("the output height", output[0])?;
        positive("the output width", output[1])?;
        let ratio = |axis: usize| match spec.size {
            _ if spec.align_corners && output[axis] == 1 => 0.0,
            _ if spec.align_corners => (x[2 + axis] - 1) as f32 / (output[axis] - 1) as f32,
            UpsampleSize::Output(_) => x[2 + axis] as f32 / output[axis] as f32,
            UpsampleSize::Scale(scale) => (1.0 / scale[axis]) as f32,
        };
        let scale = [ratio(0), ratio(1)];
        let geometry = Self { n, channels, input: [h, w], output, scale, align_corners: spec.align_corners };
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
}
