//! Random problems of depthwise separable and spatially separable convolution: those of Conv2d with
//! a second stage.

use super::{Kind, Make, Problem, SMALLER, conv2d, pick};
use crate::Shape;
use crate::geometry::rank4;
use crate::layers::{Activation, Conv2dSpec, DepthwiseSeparableSpec, LayerSpec, Padding, SpatiallySeparableSpec};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// The kinds of Conv2d that are hard on a depthwise convolution inside the gather of a GEMM.
const DEPTHWISE: &[&str] = &[
    "plain",
    "channels_at_tile_edge",
    "pixels_at_tile_edge",
    "image_smaller_than_kernel",
    "kernel_even",
    "kernel_large",
    "padding_over_kernel",
    "axes_differ",
    "dilation_over_image",
    "channels_in_chunks",
    "depthwise",
    "batch",
    "empty_batch",
    "special_values",
    "special_weights",
    "channel_slices",
];

/// The kinds of Conv2d that are hard on the tensor between two launches.
const SPATIALLY: &[&str] = &[
    "plain",
    "kernel_one_axis",
    "kernel_even",
    "padding_over_kernel",
    "padding_one_sided",
    "axes_differ",
    "grouped_narrow",
    "depthwise",
    "empty_batch",
    "special_values",
    "special_weights",
    "channel_slices",
];

pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    let of = |op, names: &'static [&str], make: fn(conv2d::Change) -> Make| {
        let chosen = conv2d::CHANGES.iter().filter(|(name, ..)| names.contains(name));
        chosen.map(move |&(name, why, change)| Kind { op, name, why, make: make(change) })
    };
    of("depthwise_separable", DEPTHWISE, Make::DepthwiseSeparable).chain(of("spatially_separable", SPATIALLY, Make::SpatiallySeparable))
}

/// The shapes and attributes of a Conv2d, without its optional tensors.
fn parts(conv: &Problem) -> (Conv2dSpec, Shape, Shape) {
    let LayerSpec::Conv2d(spec) = conv.layer else { unreachable!("it is made by conv2d::problem") };
    (spec, conv.x().expect("it has an x"), rank4("weight", conv.shape("weight")).expect("it has a weight"))
}

/// A problem of another layer with the values and margins of `conv`, and with a residual if `conv`
/// has one.
fn with_layer(conv: &Problem, layer: LayerSpec, shapes: &[(&str, Vec<usize>)]) -> Problem {
    let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(name, shape)| (*name, &shape[..])).collect();
    let Problem { kind, values, x_margin, y_margin, seed, .. } = conv.clone();
    let problem = Problem { kind, values, x_margin, y_margin, seed, ..Problem::new(layer, &shapes) };
    problem.with_residual(conv.shapes.contains_key("residual"))
}

/// The kernel and input channels of the Conv2d are those of the depthwise stage, its outputs those
/// of the pointwise stage.
pub(super) fn depthwise(conv: Problem, rng: &mut StdRng) -> Problem {
    let (spec, x, [c_out, _, kh, kw]) = parts(&conv);
    let Conv2dSpec { stride, padding, dilation, activation, .. } = spec;
    let outputs = x[1] * pick(rng, &[1, 1, 1, 2, 3]);
    let mid_activation = *Activation::all(rng.random_range(1..64) as f32 / 64.0).choose(rng).expect("ten of them");
    let groups = (outputs != x[1] || rng.random()).then_some(x[1]);
    let spec = DepthwiseSeparableSpec { stride, padding, dilation, groups, mid_activation, activation };
    let mut shapes = vec![("x", x.to_vec()), ("dw_weight", vec![outputs, 1, kh, kw]), ("pw_weight", vec![c_out, outputs, 1, 1])];
    for (name, wanted, size) in [
        ("dw_bias", rng.random(), outputs),
        ("mid_slope", mid_activation == Activation::Prelu, outputs),
        ("pw_bias", rng.random(), c_out),
        ("slope", activation == Activation::Prelu, c_out),
    ] {
        if wanted {
            shapes.push((name, vec![size]));
        }
    }
    with_layer(&conv, LayerSpec::DepthwiseSeparableConv2d(spec), &shapes)
}

/// The kernel of the Conv2d as a column and a row. Between them there is one channel of each group,
/// or any number of channels, or, with one group, more than a tile or a step has.
pub(super) fn spatially(conv: Problem, rng: &mut StdRng) -> Problem {
    let (spec, mut x, [mut c_out, mut group_in, kh, kw]) = parts(&conv);
    let Conv2dSpec { stride, padding, dilation, mut groups, activation } = spec;
    let mut group_mid = rng.random_range(1..12 / groups.min(6) + 2);
    if rng.random() {
        x[1] = x[1].next_multiple_of(pick(rng, &[1, 4, 8]));
        (c_out, group_in, groups, group_mid) = (x[1], 1, x[1], 1);
    } else if rng.random() {
        (x[1], groups) = (x[1].next_multiple_of(pick(rng, &[1, 8, 16])), 1);
        (c_out, group_in, group_mid) = (c_out + pick(rng, &[0, 5, 64]), x[1], pick(rng, &[8, 24, 33, 64, 70]));
    }
    let spec = SpatiallySeparableSpec { stride, padding, dilation, groups, activation };
    let mut shapes =
        vec![("x", x.to_vec()), ("col_weight", vec![groups * group_mid, group_in, kh, 1]), ("row_weight", vec![c_out, group_mid, 1, kw])];
    for (name, wanted, size) in [
        ("col_bias", rng.random(), groups * group_mid),
        ("row_bias", rng.random(), c_out),
        ("slope", activation == Activation::Prelu, c_out),
    ] {
        if wanted {
            shapes.push((name, vec![size]));
        }
    }
    with_layer(&conv, LayerSpec::SpatiallySeparableConv2d(spec), &shapes)
}

/// The attributes that both ops have, made smaller one by one.
fn simpler_window(
    padding: Padding,
    stride: [usize; 2],
    dilation: [usize; 2],
    kernel: [usize; 2],
    add: &mut dyn FnMut(Padding, [usize; 2], [usize; 2]),
) {
    for to in SMALLER {
        if let Ok(explicit) = padding.resolve(kernel, dilation, stride) {
            for side in 0..4 {
                let mut smaller = explicit;
                smaller[side] = to(smaller[side]);
                add(Padding::Explicit(smaller), stride, dilation);
            }
        }
        for axis in 0..2 {
            let (mut s, mut d) = (stride, dilation);
            s[axis] = to(s[axis]);
            d[axis] = to(d[axis]);
            add(padding, s, dilation);
            add(padding, stride, d);
        }
    }
}

/// The problem with one dimension of several tensors set to `size`. Tensors that are not there are
/// skipped.
fn resized(problem: &Problem, size: usize, places: &[(&str, usize)]) -> Problem {
    let mut problem = problem.clone();
    for (name, axis) in places {
        if let Some(dimension) = problem.shapes.get_mut(*name).and_then(|shape| shape.get_mut(*axis)) {
            *dimension = size;
        }
    }
    problem
}

pub(super) fn simpler_depthwise(problem: &Problem, spec: DepthwiseSeparableSpec, add: &mut dyn FnMut(Problem)) {
    let &[outputs, _, kh, kw] = problem.shape("dw_weight") else { return };
    let (Some(&c_out), Some(&channels)) = (problem.shape("pw_weight").first(), problem.shape("x").get(1)) else { return };
    let with = |spec| Problem { layer: LayerSpec::DepthwiseSeparableConv2d(spec), ..problem.clone() };
    let middle = [("dw_weight", 0), ("dw_bias", 0), ("mid_slope", 0), ("pw_weight", 1)];
    for to in SMALLER {
        add(resized(problem, to(kh), &[("dw_weight", 2)]));
        add(resized(problem, to(kw), &[("dw_weight", 3)]));
        add(resized(problem, to(c_out), &[("pw_weight", 0), ("pw_bias", 0), ("slope", 0)]));
        let fewer = to(channels);
        let problem = with(DepthwiseSeparableSpec { groups: spec.groups.map(|_| fewer), ..spec });
        add(resized(&resized(&problem, fewer, &[("x", 1)]), outputs / channels.max(1) * fewer, &middle));
    }
    simpler_window(spec.padding, spec.stride, spec.dilation, [kh, kw], &mut |padding, stride, dilation| {
        add(with(DepthwiseSeparableSpec { padding, stride, dilation, ..spec }))
    });
    add(with(DepthwiseSeparableSpec { mid_activation: Activation::None, ..spec }).with("mid_slope", None));
    add(with(DepthwiseSeparableSpec { activation: Activation::None, ..spec }).with("slope", None));
}

pub(super) fn simpler_spatially(problem: &Problem, spec: SpatiallySeparableSpec, add: &mut dyn FnMut(Problem)) {
    let (&[c_mid, group_in, kh, _], &[c_out, _, _, kw]) = (problem.shape("col_weight"), problem.shape("row_weight")) else { return };
    let with = |spec| Problem { layer: LayerSpec::SpatiallySeparableConv2d(spec), ..problem.clone() };
    let groups = spec.groups.max(1);
    for to in SMALLER {
        add(resized(problem, to(kh), &[("col_weight", 2)]));
        add(resized(problem, to(kw), &[("row_weight", 3)]));
        add(resized(problem, to(c_out / groups) * groups, &[("row_weight", 0), ("row_bias", 0), ("slope", 0)]));
        let middle = to(c_mid / groups);
        add(resized(&resized(problem, middle * groups, &[("col_weight", 0), ("col_bias", 0)]), middle, &[("row_weight", 1)]));
        let inputs = to(group_in);
        add(resized(&resized(problem, inputs * groups, &[("x", 1)]), inputs, &[("col_weight", 1)]));
        let fewer = to(groups);
        let mut problem = with(SpatiallySeparableSpec { groups: fewer, ..spec });
        for (size, places) in [
            (group_in * fewer, &[("x", 1)][..]),
            (c_mid / groups * fewer, &[("col_weight", 0), ("col_bias", 0)]),
            (c_out / groups * fewer, &[("row_weight", 0), ("row_bias", 0), ("slope", 0)]),
        ] {
            problem = resized(&problem, size, places);
        }
        add(problem);
    }
    simpler_window(spec.padding, spec.stride, spec.dilation, [kh, kw], &mut |padding, stride, dilation| {
        add(with(SpatiallySeparableSpec { padding, stride, dilation, ..spec }))
    });
    add(with(SpatiallySeparableSpec { activation: Activation::None, ..spec }).with("slope", None));
}
