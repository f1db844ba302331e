//! Random problems of the layers that pool RoIs.

use super::{Kind, Make, Problem, SMALLER, Values, pick};
use crate::layers::{DeformRoiPoolSpec, LayerSpec, Pool, PsRoiPoolSpec, RoiAlignSpec, RoiPoolSpec};
use crate::{Result, memory};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// A layer that pools RoIs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Op {
    Align,
    Max,
    Mean,
    Deform,
}

const OPS: [(Op, &str); 4] = [(Op::Align, "roi_align"), (Op::Max, "roi_pool"), (Op::Mean, "ps_roi_pool"), (Op::Deform, "deform_roi_pool")];

/// The parameters of a pooling layer.
#[derive(Debug, Clone)]
pub(super) struct Regions {
    n: usize,
    /// Output channels of an offset group. `offset_groups` is the number of groups.
    channels: usize,
    offset_groups: usize,
    image: [usize; 2],
    rois: usize,
    pooled: [usize; 2],
    scale: f32,
    ratio: i32,
    aligned: bool,
    gamma: f32,
    position_sensitive: bool,
    offset: bool,
    mask: bool,
    values: Values,
    x_margin: [usize; 2],
    y_margin: [usize; 2],
}

pub(super) type Change = fn(&mut StdRng, &mut Regions);

/// The kinds of problems of every such layer.
const COMMON: &[(&str, &str, Change)] = &[
    ("plain", "RoIs inside, outside, tiny, reversed and far away, as in all kinds", |_, _| {}),
    ("channels_at_tile_edge", "channel counts just below, at and above those of a vector, a warp and a thread", |rng, r| {
        r.channels = pick(rng, &[1, 3, 4, 7, 8, 9, 31, 32, 33, 64, 127, 128, 129, 256, 264]);
        (r.rois, r.pooled) = (rng.random_range(1..3), [rng.random_range(1..3), rng.random_range(1..3)]);
    }),
    ("bins_7x7", "bins that f32 does not divide evenly", |rng, r| {
        (r.pooled, r.image) = ([7, 7], [rng.random_range(5..20), rng.random_range(5..20)])
    }),
    ("bins_one_axis", "rows and columns of bins told apart", |rng, r| {
        r.pooled = [1, rng.random_range(2..40)];
        if rng.random() {
            r.pooled.reverse();
        }
    }),
    ("image_1x1", "every neighbour is the same pixel", |_, r| r.image = [1, 1]),
    ("image_one_axis", "images of a single row or column", |rng, r| {
        r.image = [1, rng.random_range(2..60)];
        if rng.random() {
            r.image.reverse();
        }
    }),
    ("image_large", "adaptive grids of more samples than a warp's table holds, in images with more pixels than bins", |rng, r| {
        (r.image, r.ratio, r.scale) = ([rng.random_range(20..70), rng.random_range(20..70)], 0, 1.0);
        (r.pooled, r.channels, r.rois) = ([rng.random_range(1..3), rng.random_range(1..3)], rng.random_range(1..10), 3);
    }),
    ("no_rois", "nothing to do, and nothing may be touched", |_, r| r.rois = 0),
    ("empty_batch", "no images, and no RoIs of them", |_, r| (r.n, r.rois) = (0, 0)),
    ("special_values", "NaN, infinities, signed zeros and subnormals, in RoIs and offsets too", |_, r| r.values = Values::Special),
    ("channel_slices", "input and output are slices of wider tensors, at any alignment", |rng, r| {
        r.x_margin = [rng.random_range(0..9), rng.random_range(0..9)];
        r.y_margin = [rng.random_range(0..9), rng.random_range(0..9)];
    }),
    ("vectors_in_slices", "whole vectors of channels in slices of wider tensors", |rng, r| {
        r.channels = pick(rng, &[8, 16, 32, 64]);
        (r.x_margin, r.y_margin) = ([pick(rng, &[0, 8, 16]), pick(rng, &[0, 8])], [pick(rng, &[0, 4, 8]), pick(rng, &[0, 8])]);
    }),
];

/// The kinds of problems of the layers that sample a grid.
const GRIDS: &[(&str, &str, Change)] = &[
    ("grid_fixed", "grids from one sample to more than a warp's table holds", |rng, r| {
        (r.ratio, r.channels) = (pick(rng, &[1, 2, 3, 4, 15, 16, 17, 33]) as i32, rng.random_range(1..10));
    }),
    ("grid_adaptive", "a grid of its own for each RoI", |rng, r| r.ratio = -rng.random_range(0..2)),
];

const DEFORMABLE: &[(&str, &str, Change)] = &[
    ("offset", "bins that move, far outside too", |rng, r| (r.offset, r.gamma) = (true, pick(rng, &[1, 2, 8]) as f32 / 4.0)),
    ("modulated", "offsets and a mask", |_, r| (r.offset, r.mask) = (true, true)),
    ("classes", "groups of channels that move apart, their edges inside vectors", |rng, r| {
        (r.offset_groups, r.channels) = (rng.random_range(2..5), pick(rng, &[1, 2, 4, 8, 9, 16]));
        (r.offset, r.mask) = (true, rng.random());
    }),
    ("position_sensitive", "each bin has its own channel", |rng, r| {
        (r.position_sensitive, r.channels, r.offset_groups) = (true, rng.random_range(1..10), rng.random_range(1..3));
        (r.offset, r.mask) = (rng.random(), rng.random());
    }),
];

pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    OPS.into_iter().flat_map(|(op, name)| {
        let grids = if matches!(op, Op::Align | Op::Deform) { GRIDS } else { &[] };
        let deformable = if op == Op::Deform { DEFORMABLE } else { &[] };
        let all = COMMON.iter().chain(grids).chain(deformable);
        all.map(move |&(kind, why, change)| Kind { op: name, name: kind, why, make: Make::Roi(op, change) })
    })
}

/// A random problem of a kind.
pub(super) fn problem(op: Op, kind: &str, change: Change, rng: &mut StdRng) -> Problem {
    let mut r = Regions {
        n: rng.random_range(1..4),
        channels: rng.random_range(1..20),
        offset_groups: 1,
        image: [rng.random_range(2..16), rng.random_range(2..16)],
        rois: rng.random_range(1..7),
        pooled: [rng.random_range(1..5), rng.random_range(1..5)],
        scale: *[1.0, 0.5, 0.25, 0.0625, 0.3, 2.0].choose(rng).expect("not empty"),
        ratio: pick(rng, &[0, 1, 2, 2, 3]) as i32,
        aligned: rng.random(),
        gamma: 0.1,
        position_sensitive: op == Op::Mean,
        offset: rng.random(),
        mask: false,
        values: if rng.random() { Values::Exact } else { Values::FullMantissa },
        x_margin: [0, 0],
        y_margin: [0, 0],
    };
    change(rng, &mut r);
    let (output_size, spatial_scale, sampling_ratio) = (r.pooled, r.scale, r.ratio);
    let layer = match op {
        Op::Align => LayerSpec::RoiAlign(RoiAlignSpec { output_size, spatial_scale, sampling_ratio, aligned: r.aligned }),
        Op::Max => LayerSpec::RoiPool(RoiPoolSpec { output_size, spatial_scale }),
        Op::Mean => LayerSpec::PsRoiPool(PsRoiPoolSpec { output_size, spatial_scale }),
        Op::Deform => LayerSpec::DeformRoiPool(DeformRoiPoolSpec {
            output_size,
            spatial_scale,
            sampling_ratio,
            gamma: r.gamma,
            position_sensitive: r.position_sensitive,
            offset_groups: r.offset_groups,
        }),
    };
    let channels = r.channels * r.offset_groups * if r.position_sensitive { r.pooled[0] * r.pooled[1] } else { 1 };
    let problem = Problem::new(layer, &[("x", &[r.n, channels, r.image[0], r.image[1]]), ("rois", &[r.rois, 5])]);
    let fields = |wanted: bool, count: usize| (wanted && op == Op::Deform).then_some([r.rois, count, r.pooled[0], r.pooled[1]]);
    let (offset, mask) = (fields(r.offset, 2 * r.offset_groups), fields(r.mask, r.offset_groups));
    let problem = problem.with("offset", offset.as_ref().map(|shape| &shape[..])).with("mask", mask.as_ref().map(|shape| &shape[..]));
    let (values, x_margin, y_margin) = (r.values, r.x_margin, r.y_margin);
    Problem { kind: kind.into(), values, x_margin, y_margin, seed: rng.random::<u32>().into(), ..problem }
}

/// RoIs inside and outside the image, tiny, reversed and huge, with coordinates in quarters of a
/// pixel or with every bit of the mantissa.
pub(super) fn rois(problem: &Problem, rng: &mut StdRng, count: usize) -> Result<Vec<f32>> {
    let (Ok([n, _, h, w]), Some(pooling)) = (problem.x(), problem.layer.pooling()) else {
        return memory::filled(count.saturating_mul(5), 0.0);
    };
    let mut values = memory::with_capacity(count.saturating_mul(5))?;
    for _ in 0..count {
        values.push(rng.random_range(0..n.max(1)) as f32);
        let style = rng.random_range(0..8);
        let mut axes = [w, h].map(|size| {
            let size = size as f32;
            let (mut low, mut high) = match style {
                0..=3 => (rng.random_range(0.0..size), rng.random_range(0.0..size)),
                4 => (rng.random_range(-2.0 * size..0.0), rng.random_range(size..3.0 * size)),
                5 => (rng.random_range(-size..2.0 * size), rng.random_range(-size..2.0 * size)),
                6 => {
                    let at = rng.random_range(0.0..size);
                    (at, at + rng.random_range(0.0..1.0))
                }
                _ => (rng.random_range(-3.0 * size..-size), rng.random_range(-3.0 * size..0.0)),
            };
            if style != 5 && low > high {
                (low, high) = (high, low);
            }
            [low, high].map(|v| if problem.values == Values::Exact { (4.0 * v).round() / 4.0 } else { v } / pooling.spatial_scale)
        });
        if problem.values == Values::Special && rng.random_bool(0.4) {
            let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, 1e10, 3e4, -3e4];
            let axis = rng.random_range(0..2);
            axes[axis][rng.random_range(0..2)] = *special.choose(rng).expect("not empty");
        }
        let [[x1, x2], [y1, y2]] = axes;
        values.extend([x1, y1, x2, y2]);
    }
    Ok(values)
}

/// Fewer RoIs, bins, channels and samples.
pub(super) fn simpler(problem: &Problem, add: &mut dyn FnMut(Problem)) {
    let (Ok(x), Some(pooling)) = (problem.x(), problem.layer.pooling()) else { return };
    let bins = pooling.output_size[0] * pooling.output_size[1];
    let step = pooling.offset_groups * if pooling.position_sensitive { bins } else { 1 };
    let with_rois = |mut problem: Problem, rois: usize, [ph, pw]: [usize; 2]| {
        for name in ["rois", "offset", "mask"] {
            if let Some(shape) = problem.shapes.get_mut(name) {
                shape[0] = rois;
                if name != "rois" {
                    shape[2..].copy_from_slice(&[ph, pw]);
                }
            }
        }
        problem
    };
    let rois = problem.shape("rois").first().copied().unwrap_or_default();
    for to in SMALLER {
        add(with_rois(problem.clone(), to(rois), pooling.output_size));
        add(problem.clone().with("x", Some(&[x[0], to(x[1] / step) * step, x[2], x[3]])));
        for axis in 0..2 {
            let mut pooled = pooling.output_size;
            pooled[axis] = to(pooled[axis]).max(1);
            let channels = if pooling.position_sensitive { x[1] / bins * pooled[0] * pooled[1] } else { x[1] };
            let changed = change(problem.layer, &|size, _| *size = pooled);
            let smaller = Problem { layer: changed, ..problem.clone() }.with("x", Some(&[x[0], channels, x[2], x[3]]));
            add(with_rois(smaller, rois, pooled));
        }
        if pooling.pool == Pool::Align && pooling.sampling_ratio > 0 {
            let ratio = to(pooling.sampling_ratio as usize).max(1) as i32;
            add(Problem { layer: change(problem.layer, &|_, own| *own = ratio), ..problem.clone() });
        }
    }
}

/// The layer with another output size or sampling ratio.
fn change(layer: LayerSpec, change: &dyn Fn(&mut [usize; 2], &mut i32)) -> LayerSpec {
    let mut none = 0;
    let mut layer = layer;
    match &mut layer {
        LayerSpec::RoiAlign(spec) => change(&mut spec.output_size, &mut spec.sampling_ratio),
        LayerSpec::RoiPool(spec) => change(&mut spec.output_size, &mut none),
        LayerSpec::PsRoiPool(spec) => change(&mut spec.output_size, &mut none),
        LayerSpec::DeformRoiPool(spec) | LayerSpec::DeformRoiPoolPack(spec) => change(&mut spec.output_size, &mut spec.sampling_ratio),
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
        | LayerSpec::DeformConv2dBlock(_) => {}
    }
    layer
}
