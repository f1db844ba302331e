//! Problems that fail are made smaller for as long as they fail.

use super::{Problem, conv_transpose2d, conv2d, deform_conv2d, pixel, pool, roi, separable};
use crate::layers::LayerSpec;

/// Ways to make a size smaller, the largest step first.
pub(super) const SMALLER: [fn(usize) -> usize; 3] = [|v| 1.min(v), |v| v / 2, |v| v.saturating_sub(1)];

impl Problem {
    /// Simpler problems that may fail in the same way, the simplest first: with smaller sizes,
    /// fewer tensors, fewer attributes.
    pub fn simpler(&self) -> Vec<Problem> {
        let mut out = Vec::new();
        // An invalid problem has no simpler ones.
        if self.check().is_err() {
            return out;
        }
        let mut add = |problem: Problem| {
            let residual = problem.shapes.contains_key("residual");
            let mask = problem.shapes.contains_key("mask");
            let problem = deform_conv2d::fit(problem, mask).with_residual(residual);
            if problem != *self && problem.output_shape().is_ok() {
                out.push(problem);
            }
        };
        match self.layer {
            LayerSpec::Conv2d(spec) => conv2d::simpler(self, spec, &mut add),
            LayerSpec::ConvTranspose2d(spec) => conv_transpose2d::simpler(self, spec, &mut add),
            LayerSpec::PixelShuffle(_)
            | LayerSpec::PixelUnshuffle(_)
            | LayerSpec::SubPixelConv2d(_)
            | LayerSpec::Focus(_)
            | LayerSpec::UpsampleBilinear(_) => pixel::simpler(self, &mut add),
            LayerSpec::MaxPool2d(_) | LayerSpec::AvgPool2d(_) | LayerSpec::AdaptiveAvgPool2d(_) => pool::simpler(self, &mut add),
            LayerSpec::DepthwiseSeparableConv2d(spec) => separable::simpler_depthwise(self, spec, &mut add),
            LayerSpec::SpatiallySeparableConv2d(spec) => separable::simpler_spatially(self, spec, &mut add),
            LayerSpec::DeformConv2d(spec) => deform_conv2d::simpler(self, spec, &mut add),
            LayerSpec::DeformConv2dBlock(_) => {}
            LayerSpec::RoiAlign(_)
            | LayerSpec::RoiPool(_)
            | LayerSpec::PsRoiPool(_)
            | LayerSpec::DeformRoiPool(_)
            | LayerSpec::DeformRoiPoolPack(_) => roi::simpler(self, &mut add),
        }
        self.shrink_tensors(&mut add);
        out
    }

    /// Adds what is simpler for every op: fewer images and pixels, no optional tensors, no margins.
    /// Shapes that no longer fit are left out.
    fn shrink_tensors(&self, add: &mut dyn FnMut(Problem)) {
        for to in SMALLER {
            for axis in [0, 2, 3] {
                let mut problem = self.clone();
                if let Some(size) = problem.shapes.get_mut("x").and_then(|x| x.get_mut(axis)) {
                    *size = to(*size);
                }
                add(problem);
            }
            for side in 0..2 {
                let (mut x, mut y) = (self.clone(), self.clone());
                x.x_margin[side] = to(x.x_margin[side]);
                y.y_margin[side] = to(y.y_margin[side]);
                add(x);
                add(y);
                for axis in 0..3 {
                    let (mut x, mut y) = (self.clone(), self.clone());
                    x.x_frame[axis][side] = to(x.x_frame[axis][side]);
                    y.y_frame[axis][side] = to(y.y_frame[axis][side]);
                    add(x);
                    add(y);
                }
            }
        }
        for name in self.shapes.keys().filter(|name| *name != "x") {
            add(self.clone().with(name, None));
        }
    }
}
