//! Pooling of regions of interest.
//!
//! Positions, bins and grids are computed in f32, in the order of operations of torchvision. Their
//! rounding decides which pixels belong to a bin and which samples are inside the image, so it is
//! part of the definition. Everything else is f64.

use super::Array;
use crate::error::{Error, Result};
use crate::layers::{DeformRoiPoolSpec, PsRoiPoolSpec, RoiAlignSpec, RoiPoolSpec};
use crate::memory;

/// Beyond this coordinate f32 does not distinguish pixels: a RoI that reaches further is empty.
const FARTHEST: f32 = 16_777_216.0;

/// What the four operations share: the shapes, and the RoIs in pixels of x.
struct Pooled<'a> {
    x: &'a Array,
    /// The shape [N, C, H, W] of x.
    shape: [usize; 4],
    /// The shape [K, C_out, ph, pw] of the output.
    output: [usize; 4],
    position_sensitive: bool,
    /// The image and x1, y1, x2, y2 of each RoI. `None` if the RoI is empty.
    regions: Vec<Option<(usize, [f32; 4])>>,
}

impl<'a> Pooled<'a> {
    fn new(x: &'a Array, rois: &Array, [ph, pw]: [usize; 2], scale: f32, position_sensitive: bool) -> Result<Self> {
        let shape = x.dimensions("x", "[N, C, H, W]")?;
        let [n, c, h, w] = shape;
        let [k, 5] = rois.dimensions("rois", "[K, 5]")? else {
            return Err(Error::Shape { name: "rois", shape: rois.shape().to_vec(), expected: "shape [K, 5]".into() });
        };
        for (name, value) in [("output height", ph), ("output width", pw), ("the height of x", h), ("the width of x", w)] {
            if value == 0 {
                return Err(Error::Attribute { name, value: "0".into(), requirement: "at least 1" });
            }
        }
        let bins = ph * pw;
        if position_sensitive && c % bins != 0 {
            return Err(Error::Divisibility {
                name: "C",
                value: c,
                divisor_name: "output height * output width",
                divisor: bins,
                context: String::new(),
            });
        }
        let mut regions = Vec::new();
        for roi in rois.data().chunks_exact(5) {
            let image = roi[0];
            if !(image >= 0.0 && image < n as f64 && image.fract() == 0.0) {
                let value = format!("{image} in a batch of {n}");
                return Err(Error::Attribute { name: "a RoI's batch index", value, requirement: "the index of an image of the batch" });
            }
            let corners = [1, 2, 3, 4].map(|i| roi[i] as f32 * scale);
            regions.push(corners.iter().all(|v| v.abs() <= FARTHEST).then_some((image as usize, corners)));
        }
        let output = [k, if position_sensitive { c / bins } else { c }, ph, pw];
        Ok(Self { x, shape, output, position_sensitive, regions })
    }

    /// Pools every bin. `bin(k, region, i, j)` returns the function that pools bin (i, j): from a
    /// plane of x and the output channel to a value.
    fn pool<F: Fn(&[f64], usize) -> f64>(&self, bin: impl Fn(usize, [f32; 4], usize, usize) -> F) -> Result<Array> {
        let [_, c, h, w] = self.shape;
        let [_, c_out, ph, pw] = self.output;
        let mut y = Array::zeros(self.output)?;
        for (k, region) in self.regions.iter().enumerate() {
            let Some((image, corners)) = *region else { continue };
            for i in 0..ph {
                for j in 0..pw {
                    let pool = bin(k, corners, i, j);
                    for o in 0..c_out {
                        let channel = if self.position_sensitive { (o * ph + i) * pw + j } else { o };
                        let plane = &self.x.data()[(image * c + channel) * h * w..][..h * w];
                        y.data_mut()[((k * c_out + o) * ph + i) * pw + j] = pool(plane, o);
                    }
                }
            }
        }
        Ok(y)
    }

    /// The value of `field` [K, channels, ph, pw].
    fn at(&self, field: &Array, k: usize, channel: usize, i: usize, j: usize) -> f64 {
        let [_, _, ph, pw] = self.output;
        field.data()[((k * field.shape()[1] + channel) * ph + i) * pw + j]
    }
}

/// How a bin is sampled.
struct Grid {
    sampling_ratio: i32,
    aligned: bool,
}

/// The samples of a bin along one axis, without those outside the image: for each the lower and the
/// higher pixel and the weight of the higher one. Also the number of samples, including those
/// outside.
fn samples(start: f32, extent: f32, index: usize, pooled: usize, sampling_ratio: i32, size: usize) -> (Vec<(usize, usize, f64)>, f64) {
    let bin = extent / pooled as f32;
    let count = if sampling_ratio > 0 { sampling_ratio } else { bin.ceil().max(0.0) as i32 };
    let start = start + index as f32 * bin;
    let mut inside = Vec::new();
    for q in 0..count {
        let at = start + (q as f32 + 0.5) * bin / count as f32;
        if at >= -1.0 && at <= size as f32 {
            let at = at.clamp(0.0, (size - 1) as f32);
            let low = at.floor() as usize;
            inside.push((low, (low + 1).min(size - 1), f64::from(at) - low as f64));
        }
    }
    (inside, f64::from(count))
}

/// `y[k,o,i,j]` is the mean over a grid of samples of x in the bin, each bilinear between its four
/// neighbours, times the mask.
fn align(
    problem: &Pooled<'_>,
    grid: Grid,
    gamma: f32,
    offset_groups: usize,
    offset: Option<&Array>,
    mask: Option<&Array>,
) -> Result<Array> {
    let [_, _, h, w] = problem.shape;
    let [k, c_out, ph, pw] = problem.output;
    if offset_groups == 0 || c_out % offset_groups != 0 {
        return Err(Error::Divisibility {
            name: "C_out",
            value: c_out,
            divisor_name: "offset_groups",
            divisor: offset_groups,
            context: String::new(),
        });
    }
    offset.map_or(Ok(()), |offset| offset.check_shape("offset", &[k, 2 * offset_groups, ph, pw]))?;
    mask.map_or(Ok(()), |mask| mask.check_shape("mask", &[k, offset_groups, ph, pw]))?;
    problem.pool(|k, [x1, y1, x2, y2], i, j| {
        let shift = if grid.aligned { 0.5 } else { 0.0 };
        let (left, top) = (x1 - shift, y1 - shift);
        let (mut width, mut height) = (x2 - shift - left, y2 - shift - top);
        if !grid.aligned {
            (width, height) = (width.max(1.0), height.max(1.0));
        }
        let per_class: Vec<_> = (0..offset_groups)
            .map(|class| {
                let moved = |start: f32, size: f32, channel| match offset {
                    Some(offset) => start + gamma * size * problem.at(offset, k, channel, i, j) as f32,
                    None => start,
                };
                let rows = samples(moved(top, height, 2 * class + 1), height, i, ph, grid.sampling_ratio, h);
                let columns = samples(moved(left, width, 2 * class), width, j, pw, grid.sampling_ratio, w);
                (rows, columns, mask.map_or(1.0, |mask| problem.at(mask, k, class, i, j)))
            })
            .collect();
        move |plane: &[f64], o: usize| {
            let ((rows, gh), (columns, gw), mask) = &per_class[o / (c_out / offset_groups)];
            if *gh == 0.0 || *gw == 0.0 {
                return 0.0;
            }
            let mut sum = 0.0;
            for &(y_low, y_high, y_far) in rows {
                for &(x_low, x_high, x_far) in columns {
                    let (y_near, x_near) = (1.0 - y_far, 1.0 - x_far);
                    sum += y_near * x_near * plane[y_low * w + x_low]
                        + y_near * x_far * plane[y_low * w + x_high]
                        + y_far * x_near * plane[y_high * w + x_low]
                        + y_far * x_far * plane[y_high * w + x_high];
                }
            }
            sum / (gh * gw) * mask
        }
    })
}

/// The pixels of a bin along one axis, clipped to [0, limit).
fn pixels(start: f32, size: f32, index: usize, pooled: usize, limit: usize) -> std::ops::Range<usize> {
    let bin = size / pooled as f32;
    let clip = |v: f32| (v as i64).clamp(0, limit as i64) as usize;
    clip((index as f32 * bin).floor() + start)..clip(((index + 1) as f32 * bin).ceil() + start)
}

/// `y[k,c,i,j]` is the mean over the samples of bin (i, j) of channel c. Samples are bilinear
/// values on a grid of `sampling_ratio` x `sampling_ratio` points, or of as many as the bin has
/// pixels. As `torchvision.ops.roi_align`, for x `[N, C, H, W]` and rois `[K, 5]` (image, x1, y1,
/// x2, y2).
///
/// A RoI gives zeros if one of its coordinates, after scaling, is not finite or is beyond 2^24. A
/// grid without samples also gives zeros.
///
/// ```
/// use warpconv::RoiAlignSpec;
/// use warpconv::reference::{Array, roi_align};
/// let x = Array::new([1, 1, 2, 2], vec![0.0, 1.0, 2.0, 3.0])?;
/// let rois = Array::new([1, 5], vec![0.0, 0.0, 0.0, 1.0, 1.0])?;
/// let spec = RoiAlignSpec { sampling_ratio: 1, ..RoiAlignSpec::new([1, 1]) };
/// assert_eq!(roi_align(&spec, &x, &rois)?.data(), [1.5]); // the centre of all four
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// [`Error::Rank`] or [`Error::Shape`]; [`Error::Attribute`] for a size of 0 or a batch index out
/// of range.
pub fn roi_align(spec: &RoiAlignSpec, x: &Array, rois: &Array) -> Result<Array> {
    let problem = Pooled::new(x, rois, spec.output_size, spec.spatial_scale, false)?;
    align(&problem, Grid { sampling_ratio: spec.sampling_ratio, aligned: spec.aligned }, 0.0, 1, None, None)
}

/// As [`roi_align`] with `aligned`, with each bin moved by `gamma * width * offset[k, 2g, i, j]` to
/// the right and by `gamma * height * offset[k, 2g + 1, i, j]` down, and its mean multiplied by
/// `mask[k, g, i, j]`; g = o / (C_out / offset_groups). This is mmcv's `deform_roi_pool`. In the
/// position-sensitive form, bin (i, j) of output channel o reads channel `(o*ph + i)*pw + j`, as in
/// Dai et al., "Deformable Convolutional Networks", 2017, section 2.2.
///
/// # Errors
/// As [`roi_align`]; [`Error::Divisibility`].
pub fn deform_roi_pool(spec: &DeformRoiPoolSpec, x: &Array, rois: &Array, offset: Option<&Array>, mask: Option<&Array>) -> Result<Array> {
    let problem = Pooled::new(x, rois, spec.output_size, spec.spatial_scale, spec.position_sensitive)?;
    let grid = Grid { sampling_ratio: spec.sampling_ratio, aligned: true };
    align(&problem, grid, spec.gamma, spec.offset_groups, offset, mask)
}

/// `y[k,c,i,j]` is the largest of the pixels of bin (i, j) of channel c, or 0 for a bin without
/// pixels. As `torchvision.ops.roi_pool`, except that NaN counts as the largest number, and that
/// the result is minus infinity if all pixels are.
///
/// # Errors
/// As [`roi_align`].
pub fn roi_pool(spec: &RoiPoolSpec, x: &Array, rois: &Array) -> Result<Array> {
    let problem = Pooled::new(x, rois, spec.output_size, spec.spatial_scale, false)?;
    let ([_, _, h, w], [_, _, ph, pw]) = (problem.shape, problem.output);
    problem.pool(|_, corners, i, j| {
        let [x1, y1, x2, y2] = corners.map(f32::round); // half away from zero
        let rows = pixels(y1, (y2 - y1 + 1.0).max(1.0), i, ph, h);
        let columns = pixels(x1, (x2 - x1 + 1.0).max(1.0), j, pw, w);
        move |plane: &[f64], _| {
            let values = rows.clone().flat_map(|y| columns.clone().map(move |x| plane[y * w + x]));
            let larger = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
            values.reduce(larger).unwrap_or(0.0)
        }
    })
}

/// `y[k,o,i,j]` is the mean of the pixels of bin (i, j) of channel `(o*ph + i)*pw + j`, or 0 for a
/// bin without pixels. As `torchvision.ops.ps_roi_pool`, which never reads the last row and column.
///
/// # Errors
/// As [`roi_align`]; [`Error::Divisibility`] when ph * pw does not divide C.
pub fn ps_roi_pool(spec: &PsRoiPoolSpec, x: &Array, rois: &Array) -> Result<Array> {
    let problem = Pooled::new(x, rois, spec.output_size, spec.spatial_scale, true)?;
    let ([_, _, h, w], [_, _, ph, pw]) = (problem.shape, problem.output);
    problem.pool(|_, corners, i, j| {
        let [x1, y1, x2, y2] = corners.map(f32::round);
        let rows = pixels(y1, (y2 - y1).max(1.0), i, ph, h - 1);
        let columns = pixels(x1, (x2 - x1).max(1.0), j, pw, w - 1);
        move |plane: &[f64], _| {
            let count = rows.len() * columns.len();
            let sum: f64 = rows.clone().map(|y| columns.clone().map(|x| plane[y * w + x]).sum::<f64>()).sum();
            if count == 0 { 0.0 } else { sum / count as f64 }
        }
    })
}

/// A chain of fully connected layers for K vectors: `y = W x + b`, and each further layer on the
/// relu of that. `layers` are weights [outputs, inputs] (or the same as 1x1 filters) and biases.
fn fully_connected(x: &[f64], k: usize, layers: &[(&Array, Option<&Array>)]) -> Result<Vec<f64>> {
    let mut x = x.to_vec();
    for (index, (weight, bias)) in layers.iter().enumerate() {
        let ([outputs, inputs] | [outputs, inputs, 1, 1]) = *weight.shape() else {
            let (name, meaning) = ("a fully connected weight", "[outputs, inputs]");
            return Err(Error::Rank { name, shape: weight.shape().to_vec(), expected: 2, meaning });
        };
        bias.map_or(Ok(()), |bias| bias.check_shape("bias", &[outputs]))?;
        if x.len() != k * inputs {
            let expected = format!("{} inputs", x.len() / k.max(1));
            return Err(Error::Shape { name: "a fully connected weight", shape: weight.shape().to_vec(), expected });
        }
        let mut y = memory::filled(k * outputs, 0.0)?;
        for (i, y) in y.iter_mut().enumerate() {
            let (roi, output) = (i / outputs, i % outputs);
            for input in 0..inputs {
                let x = x[roi * inputs + input];
                *y += weight.data()[output * inputs + input] * if index > 0 && x < 0.0 { 0.0 } else { x };
            }
            *y += bias.map_or(0.0, |bias| bias.data()[output]);
        }
        x = y;
    }
    Ok(x)
}

/// A [`deform_roi_pool`] whose offsets come from fully connected layers (weight [outputs, inputs]
/// and bias, with a relu between them) on the result without offsets, in NCHW order. If there are
/// layers for the mask, they and a sigmoid compute it from the same values. Returns the result and
/// its scale: the last stage on absolute values.
///
/// # Errors
/// As [`deform_roi_pool`]; [`Error::Rank`] or [`Error::Shape`] for weights and biases that do not
/// fit.
pub fn deform_roi_pool_pack(
    spec: &DeformRoiPoolSpec,
    x: &Array,
    rois: &Array,
    offset: &[(&Array, Option<&Array>)],
    mask: &[(&Array, Option<&Array>)],
) -> Result<(Array, Array)> {
    let pooled = deform_roi_pool(spec, x, rois, None, None)?;
    let [k, _, ph, pw] = pooled.dimensions("the pooled features", "[K, C_out, ph, pw]")?;
    let offset = Array::new([k, 2 * spec.offset_groups, ph, pw], fully_connected(pooled.data(), k, offset)?)?;
    let mask = match mask {
        [] => None,
        layers => {
            let mask = Array::new([k, spec.offset_groups, ph, pw], fully_connected(pooled.data(), k, layers)?)?;
            Some(mask.map(|z| 1.0 / (1.0 + (-z).exp())))
        }
    };
    let result = deform_roi_pool(spec, x, rois, Some(&offset), mask.as_ref())?;
    Ok((result, deform_roi_pool(spec, &x.abs(), rois, Some(&offset), mask.as_ref())?))
}
