//! The comparison of a configuration with the oracle before it is timed.
//!
//! The oracle is too slow for most timed shapes, so a configuration is checked twice. A *twin* is
//! the same layer with the same channels, kernel and tail on fewer and smaller images. It runs
//! through the very kernel that will be timed, and every element is compared, bit for bit where
//! sums are exact. *Samples* are elements of the timed shape itself, from its last image, where an
//! index that overflows would show.

use super::measure::Oracle;
use super::suite::{Workload, counts, effort, resized};
use super::values::Placed;
use crate::cases::Problem;
use crate::check::Arrays;
use crate::error::Result;
use crate::geometry::rank4;
use crate::layers::{LayerSpec, UpsampleBilinearSpec, UpsampleSize};
use crate::numerics::Contract;
use crate::reference::Array;
use crate::{DType, Element, Shape};
use std::collections::BTreeMap;

/// The number of output channels that are sampled, where each is a sum of its own over all input
/// channels.
const CHANNELS: usize = 8;
/// The number of RoIs that are sampled.
const ROIS: usize = 6;
/// The products that the oracle may compute for the samples, beyond the least that one output
/// needs.
const BUDGET: u64 = 8_000_000;

/// A part of a problem that the oracle can compute, and the oracle's result for it.
pub(super) struct Sample {
    output: Array,
    scale: Array,
    /// For each image (or RoI) and channel of the part: its index in the whole.
    outer: Vec<usize>,
    channels: Option<Vec<usize>>,
}

/// A part of a problem, with its tensors and its outer positions in the whole.
struct Part {
    problem: Problem,
    tensors: Arrays,
    outer: Vec<usize>,
    channels: Option<Vec<usize>>,
}

/// A whole problem on the host, from which parts are taken.
pub(super) struct Whole<'a, T> {
    pub problem: &'a Workload,
    pub parameters: &'a Arrays,
    pub inputs: &'a BTreeMap<&'static str, Placed<T>>,
    pub rois: &'a [[f32; 5]],
}

impl<T: Element> Whole<'_, T> {
    /// Samples a part of the last image, or some RoIs.
    pub fn sample(&self, oracle: Oracle) -> Result<Sample> {
        let Part { problem, tensors, outer, channels } = if self.rois.is_empty() { self.corner()? } else { self.some_rois()? };
        let (output, scale) = oracle(&problem.layer, &tensors)?;
        Ok(Sample { output, scale, outer, channels })
    }

    /// The top left corner of the last image. If the image goes on beyond the corner, a frame of
    /// NaN stands for the rest, thicker than what an output sees. Outputs that depend on the frame
    /// are NaN, and all others equal those of the whole image.
    fn corner(&self) -> Result<Part> {
        let ([n, _, h, w], _) = counts(self.problem)?;
        let image = n - 1;
        let channels = self.channels();
        let frame = frame(self.problem)?;
        // Upsampling or pooling to a given size depends on the size of the whole image.
        let layer = &self.problem.layer;
        let upsamples = matches!(layer, LayerSpec::UpsampleBilinear(UpsampleBilinearSpec { size: UpsampleSize::Output(_), .. }));
        let adapts = matches!(layer, LayerSpec::AdaptiveAvgPool2d(_));
        let whole = upsamples || adapts || layer.pooling().is_some();
        let size = |extra: usize| {
            let wanted = |axis: usize| frame[axis].saturating_add(extra).checked_next_multiple_of(2).unwrap_or(usize::MAX);
            let cut = |axis: usize, size: usize| if whole { size } else { size.min(wanted(axis)) };
            [cut(0, h), cut(1, w)]
        };
        let part = |extra: usize| {
            let part = resized(self.problem, 1, size(extra))?;
            channels.as_ref().map_or(Ok(part.clone()), |channels| of_channels(&part, channels.len()))
        };
        let (mut extra, mut best) = (2, part(2)?);
        while size(extra) != [h, w] {
            extra = extra.saturating_mul(2);
            let larger = part(extra)?;
            if effort(&larger)? > BUDGET {
                break;
            }
            best = larger;
        }
        let [_, _, part_h, part_w] = best.x()?;
        let inside = |y: usize, x: usize| {
            (part_h == h || y < part_h.saturating_sub(frame[0])) && (part_w == w || x < part_w.saturating_sub(frame[1]))
        };
        let mut tensors = Arrays::new();
        for (name, shape) in &best.shapes {
            let array = match self.inputs.get(name.as_str()) {
                Some(placed) => {
                    let select = if name == "residual" { channels.as_deref() } else { None };
                    let value = |[_, c, y, x]: Shape| {
                        let c = select.map_or(c, |channels| channels[c]);
                        if name == "x" && !inside(y, x) { f64::NAN } else { placed.at([image, c, y, x]) }
                    };
                    fill(shape, value)?
                }
                None => rows(&self.parameters[name], channels.as_deref())?,
            };
            tensors.insert(name.clone(), array);
        }
        Ok(Part { problem: Problem::clone(&best), tensors, outer: vec![image], channels })
    }

    /// Some of the RoIs of the last image that has any.
    fn some_rois(&self) -> Result<Part> {
        let ([n, c, h, w], _) = counts(self.problem)?;
        let image = (0..n).rev().find(|&image| self.rois.iter().any(|roi| roi[0] == image as f32)).unwrap_or(0);
        let chosen = self.rois.iter().enumerate().filter(|(_, roi)| roi[0] == image as f32).map(|(index, _)| index);
        let mut chosen: Vec<usize> = chosen.collect();
        chosen.drain(..chosen.len().saturating_sub(ROIS)); // the last ones
        let mut part = Problem::clone(self.problem).with("x", Some(&[1, c, h, w])).with("rois", Some(&[chosen.len(), 5]));
        let mut tensors = Arrays::new();
        for (name, placed) in self.inputs {
            let mut shape = part.shape(name).to_vec();
            let of_rois = *name != "x";
            if of_rois {
                shape[0] = chosen.len();
                part = part.with(name, Some(&shape));
            }
            let value = |[k, c, y, x]: Shape| placed.at([if of_rois { chosen[k] } else { image }, c, y, x]);
            tensors.insert(name.to_string(), fill(&shape, value)?);
        }
        let values =
            chosen.iter().flat_map(|&index| [0.0, self.rois[index][1], self.rois[index][2], self.rois[index][3], self.rois[index][4]]);
        tensors.insert("rois".into(), Array::new([chosen.len(), 5], values.map(f64::from).collect())?);
        tensors.extend(self.parameters.iter().map(|(name, array)| (name.clone(), array.clone())));
        Ok(Part { problem: part, tensors, outer: chosen, channels: None })
    }

    /// Some output channels, for layers that compute each output channel from all input channels.
    fn channels(&self) -> Option<Vec<usize>> {
        let dense = match &self.problem.layer {
            LayerSpec::Conv2d(spec) => spec.groups == 1,
            LayerSpec::DeformConv2d(spec) => spec.groups == 1,
            // In these layers an output channel depends on one input channel, is permuted, or is
            // computed in two stages.
            LayerSpec::ConvTranspose2d(_)
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
            | LayerSpec::DeformConv2dBlock(_)
            | LayerSpec::RoiAlign(_)
            | LayerSpec::RoiPool(_)
            | LayerSpec::PsRoiPool(_)
            | LayerSpec::DeformRoiPool(_)
            | LayerSpec::DeformRoiPoolPack(_) => false,
        };
        let c_out = self.problem.shape("weight").first().copied().unwrap_or_default();
        (dense && c_out > CHANNELS).then(|| (0..CHANNELS).map(|i| i * (c_out - 1) / (CHANNELS - 1)).collect())
    }
}

impl Sample {
    /// Compares the oracle's result with the whole output in NCHW order, where the sample is
    /// defined. Returns how many elements were compared.
    pub fn check(&self, contract: &Contract, y: &[f32], whole: Shape) -> Result<Result<usize, String>> {
        let Self { output, scale, .. } = self;
        let [outer, channels, h, w] = rank4("output", output.shape())?;
        let at = |n: usize, c: usize, i: usize, j: usize| ((n * channels + c) * h + i) * w + j;
        // The first row and the first column that depend on the frame.
        let clean_rows = (0..h).find(|&i| output.data()[at(0, 0, i, 0)].is_nan()).unwrap_or(h);
        let clean_columns = (0..w).find(|&j| output.data()[at(0, 0, 0, j)].is_nan()).unwrap_or(w);
        let (mut got, mut expected, mut bound, mut positions) = (vec![], vec![], vec![], vec![]);
        for n in 0..outer {
            for c in 0..channels {
                let channel = self.channels.as_ref().map_or(c, |channels| channels[c]);
                for i in 0..clean_rows {
                    for j in 0..clean_columns {
                        // A sample at a learned position may depend on the frame from further
                        // inside.
                        if output.data()[at(n, c, i, j)].is_nan() {
                            continue;
                        }
                        let position = [self.outer[n], channel, i, j];
                        let [_, whole_c, whole_h, whole_w] = whole;
                        got.push(y[((position[0] * whole_c + channel) * whole_h + i) * whole_w + j]);
                        expected.push(output.data()[at(n, c, i, j)]);
                        bound.push(scale.data()[at(n, c, i, j)]);
                        positions.push(position);
                    }
                }
            }
        }
        if got.is_empty() {
            return Ok(Err("no output of the sample is free of what lies beyond it".into()));
        }
        let report = contract.check(&got, &expected, &bound)?;
        Ok(match report.worst.filter(|_| !report.passed()) {
            None => Ok(got.len()),
            Some(worst) => Err(format!(
                "{} of {} sampled elements are wrong; the worst at {:?}: got {}, expected {} +- {:.3e}",
                report.failures,
                got.len(),
                positions[worst.index],
                worst.got,
                worst.expected,
                worst.bound
            )),
        })
    }
}

/// The part with this number of output channels.
fn of_channels(part: &Workload, count: usize) -> Result<Workload> {
    let mut part = Problem::clone(part);
    for (name, axis) in [("weight", 0), ("bias", 0), ("slope", 0), ("residual", 1)] {
        if let Some(shape) = part.shapes.get_mut(name) {
            shape[axis] = count;
        }
    }
    Workload::new(part)
}

/// Some rows of a parameter.
fn rows(parameter: &Array, rows: Option<&[usize]>) -> Result<Array> {
    let Some(rows) = rows else { return Ok(parameter.clone()) };
    let mut shape = parameter.shape().to_vec();
    let length = parameter.data().len() / shape[0];
    shape[0] = rows.len();
    Array::new(shape, rows.iter().flat_map(|&row| &parameter.data()[row * length..(row + 1) * length]).copied().collect())
}

fn fill(shape: &[usize], value: impl Fn(Shape) -> f64) -> Result<Array> {
    let [n, c, h, w] = rank4("a tensor", shape)?;
    let positions = (0..n).flat_map(|n| (0..c).flat_map(move |c| (0..h).flat_map(move |y| (0..w).map(move |x| [n, c, y, x]))));
    Array::new(shape, positions.map(value).collect())
}

/// How many rows and columns an output cannot see across without seeing one of them: the size of
/// what an output sees, plus the step to its neighbour.
/// neighbour sees.
fn frame(problem: &Workload) -> Result<[usize; 2]> {
    let report = problem.cost(DType::F32)?;
    // Offsets are within two pixels, and a sample is between two pixels.
    let moved = if problem.shapes.contains_key("offset") { 3 } else { 0 };
    Ok(std::array::from_fn(|axis| report.receptive_size[axis].saturating_add(report.receptive_step[axis]).saturating_add(moved)))
}
