//! Random problems of DeformConv2d: those of a convolution, with offsets.

use super::conv2d::{self, Conv};
use super::{Kind, Make, Problem, SMALLER, Values, pick};
use crate::geometry::{DeformGeometry, rank4};
use crate::layers::{DeformConv2dSpec, LayerSpec};
use rand::RngExt;
use rand::rngs::StdRng;

/// The parameters in addition to those of a convolution. Offset groups that do not divide the
/// channels are made fewer.
#[derive(Debug, Clone)]
pub(super) struct Deform {
    conv: Conv,
    offset_groups: usize,
    mask: bool,
}

/// A change that makes a plain deformable convolution hard in some way.
pub(super) type Change = fn(&mut StdRng, &mut Deform);

/// The kinds of problems: label, what it is hard on, and the change.
const CHANGES: &[(&str, &str, Change)] = &[
    ("deform_plain", "nothing special: the case that must not be forgotten", |_, _| {}),
    ("deform_chunks", "whole 16-byte chunks of channels in groups and offset groups: corners are loaded as vectors", |rng, d| {
        (d.conv.c_in, d.conv.c_out) = (pick(rng, &[8, 16, 24, 32, 48, 64]), pick(rng, &[8, 12, 24, 72, 136]));
        (d.conv.groups, d.offset_groups) = (pick(rng, &[1, 1, 2]), pick(rng, &[1, 2, 4]));
        (d.conv.image, d.conv.x_margin) = ([rng.random_range(1..7), rng.random_range(1..12)], [pick(rng, &[0, 8]), pick(rng, &[0, 8])]);
    }),
    ("deform_many_samples", "more taps and offset groups than the table of samples holds", |rng, d| {
        (d.conv.groups, d.conv.c_in, d.offset_groups) = (1, pick(rng, &[32, 64]), pick(rng, &[4, 8]));
        (d.conv.kernel, d.conv.image) =
            ([rng.random_range(2..6), rng.random_range(3..6)], [rng.random_range(3..9), rng.random_range(3..9)]);
    }),
    ("deform_groups_cross", "boundaries of groups and of offset groups that do not coincide", |rng, d| {
        (d.conv.groups, d.offset_groups) = (pick(rng, &[2, 3, 4]), pick(rng, &[2, 3, 4, 6]));
        d.conv.c_in = d.offset_groups * pick(rng, &[1, 2, 3, 4, 8]);
    }),
    ("deform_narrow", "a few channels: a step of the sum crosses many taps", |rng, d| {
        (d.conv.groups, d.conv.c_in, d.offset_groups) = (1, rng.random_range(1..8), 1);
    }),
    ("deform_odd_channels", "channels that fill no 16 bytes, some of the outputs beyond a tile", |rng, d| {
        (d.conv.groups, d.conv.c_in, d.conv.c_out) = (1, pick(rng, &[9, 15, 17, 30, 33]), pick(rng, &[5, 63, 65, 130]));
        d.conv.image = [rng.random_range(1..6), rng.random_range(1..9)];
    }),
    ("deform_depthwise", "one channel a group", |rng, d| (d.conv.groups, d.conv.c_in, d.conv.c_out) = (rng.random_range(2..20), 1, 1)),
    ("deform_pixels_at_tile_edge", "rows and images just below, at and above a tile of pixels", |rng, d| {
        (d.conv.image, d.conv.c_in) = ([rng.random_range(1..4), pick(rng, &[31, 32, 33, 63, 64, 65, 127, 128, 129])], pick(rng, &[3, 8]));
    }),
    ("deform_small_image", "most positions are outside, or at the border", |rng, d| {
        d.conv.image = [rng.random_range(1..3), rng.random_range(1..3)];
        (d.conv.kernel, d.conv.same) = ([rng.random_range(1..6), rng.random_range(1..6)], true);
    }),
    ("deform_axes_differ", "height and width told apart in every attribute", |rng, d| {
        (d.conv.kernel, d.conv.stride) =
            ([rng.random_range(1..3), rng.random_range(3..5)], [rng.random_range(1..3), rng.random_range(3..5)]);
        (d.conv.dilation, d.conv.same) = ([rng.random_range(3..5), rng.random_range(1..3)], false);
        d.conv.image = [rng.random_range(3..9), rng.random_range(14..24)];
    }),
    ("deform_batch", "image boundaries inside a tile of pixels", |rng, d| {
        (d.conv.n, d.conv.image) = (rng.random_range(3..8), [rng.random_range(1..5), rng.random_range(1..5)]);
    }),
    ("deform_empty_batch", "nothing to do, and nothing may be touched", |_, d| d.conv.n = 0),
    ("deform_special_values", "NaN, infinities, signed zeros and subnormals, in offsets and masks too", |rng, d| {
        (d.conv.values, d.conv.c_in) = (Values::Special, pick(rng, &[2, 5, 8, 16]));
    }),
    ("deform_special_weights", "the same in the weights: samples outside the image are zeros that they multiply", |rng, d| {
        (d.conv.values, d.conv.c_in) = (Values::SpecialWeights, pick(rng, &[2, 8]));
    }),
    ("deform_slices", "every tensor is a slice of a wider one, at any alignment", |rng, d| {
        d.conv.c_in = pick(rng, &[4, 8, 16]);
        d.conv.x_margin = [rng.random_range(0..9), rng.random_range(0..9)];
        d.conv.y_margin = [rng.random_range(0..9), rng.random_range(0..9)];
    }),
];

/// The table [`CHANGES`] as kinds.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    CHANGES.iter().map(|&(name, why, change)| Kind { op: "deform_conv2d", name, why, make: Make::DeformConv2d(change) })
}

pub(super) fn problem(kind: &str, change: Change, rng: &mut StdRng) -> Problem {
    let mut deform = Deform { conv: Conv::random(rng), offset_groups: pick(rng, &[1, 1, 2, 3]), mask: rng.random() };
    change(rng, &mut deform);
    let channels = deform.conv.input_channels();
    let offset_groups = (1..=deform.offset_groups).rev().find(|groups| channels.is_multiple_of(*groups)).unwrap_or(1);
    deform.conv.finish(kind, rng).deformable(offset_groups, deform.mask)
}

/// The problem of a convolution, made deformable.
pub(super) fn deformable(problem: Problem, offset_groups: usize, mask: bool) -> Problem {
    let LayerSpec::Conv2d(spec) = problem.layer else { return problem };
    let spec = DeformConv2dSpec { offset_groups, ..spec.into() };
    fit(Problem { layer: LayerSpec::DeformConv2d(spec), ..problem }, mask)
}

/// The problem with offsets, and with a mask if that is wished, whose shapes fit the other tensors.
pub(super) fn fit(problem: Problem, mask: bool) -> Problem {
    let LayerSpec::DeformConv2d(spec) = problem.layer else { return problem };
    let shapes = problem.x().and_then(|x| DeformGeometry::new(&spec, x, rank4("weight", problem.shape("weight"))?));
    match shapes {
        Ok(geometry) => problem.with("offset", Some(&geometry.offset)).with("mask", mask.then_some(&geometry.mask[..])),
        Err(_) => problem,
    }
}

/// Problems with fewer offset groups, and what is simpler in a convolution.
pub(super) fn simpler(problem: &Problem, spec: DeformConv2dSpec, add: &mut dyn FnMut(Problem)) {
    for to in SMALLER {
        let spec = DeformConv2dSpec { offset_groups: to(spec.offset_groups), ..spec };
        add(Problem { layer: LayerSpec::DeformConv2d(spec), ..problem.clone() });
    }
    let mask = problem.shapes.contains_key("mask");
    let plain = Problem { layer: LayerSpec::Conv2d(spec.conv2d()), ..problem.clone() }.with("offset", None).with("mask", None);
    conv2d::simpler(&plain, spec.conv2d(), &mut |simpler| add(deformable(simpler, spec.offset_groups, mask)));
}
