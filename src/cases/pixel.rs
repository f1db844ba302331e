//! Random problems of PixelShuffle, PixelUnshuffle, SubPixelConv2d, Focus and UpsampleBilinear.

use super::{Kind, Make, Problem, SMALLER, Values, conv2d, pick};
use crate::layers::{
    ChannelOrder, Conv2dSpec, FocusSpec, LayerSpec, PixelShuffleSpec, SubPixelConv2dSpec, UpsampleBilinearSpec, UpsampleSize,
};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Makes a problem. The label is filled in afterwards.
pub(super) type MakeProblem = fn(&mut StdRng) -> Problem;

const MAKES: &[(&str, &str, &str, MakeProblem)] = &[
    ("pixel_shuffle", "any_shape", "images and channels of any size: no vectors", |rng| shuffle(rng, true, false)),
    ("pixel_shuffle", "vectors", "rows or channels in whole vectors, slices of wider tensors aligned and not", |rng| {
        shuffle(rng, true, true)
    }),
    ("pixel_unshuffle", "any_shape", "images and channels of any size: no vectors", |rng| shuffle(rng, false, false)),
    ("pixel_unshuffle", "vectors", "rows or channels in whole vectors, slices of wider tensors aligned and not", |rng| {
        shuffle(rng, false, true)
    }),
    ("pixel_shuffle", "rows_of_2", "contiguous rows of whole vectors, blocks of 2", |rng| rows(rng, true, 2)),
    ("pixel_shuffle", "rows_of_3", "contiguous rows of whole vectors, blocks of 3", |rng| rows(rng, true, 3)),
    ("pixel_shuffle", "rows_of_4", "contiguous rows of whole vectors, blocks of 4", |rng| rows(rng, true, 4)),
    ("pixel_unshuffle", "rows_of_2", "contiguous rows of whole vectors, blocks of 2", |rng| rows(rng, false, 2)),
    ("pixel_unshuffle", "rows_of_3", "contiguous rows of whole vectors, blocks of 3", |rng| rows(rng, false, 3)),
    ("pixel_unshuffle", "rows_of_4", "contiguous rows of whole vectors, blocks of 4", |rng| rows(rng, false, 4)),
    ("sub_pixel_conv", "any_convolution", "groups, strides and channels of every kind before the shuffle", |rng| sub_pixel(rng, false)),
    ("sub_pixel_conv", "vectors", "runs of channels of whole vectors, more than a tile of them", |rng| sub_pixel(rng, true)),
    ("focus", "any_convolution", "padding, stride, dilation and groups of every kind after the slices", focus),
    ("upsample_bilinear", "any_size", "larger, smaller, single pixels, either way of aligning", |rng| upsample(rng, false)),
    ("upsample_bilinear", "vectors", "rows and channels of whole vectors, slices of wider tensors aligned and not", |rng| {
        upsample(rng, true)
    }),
];

pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    MAKES.iter().map(|&(op, name, why, make)| Kind { op, name, why, make: Make::Pixel(make) })
}

fn order(rng: &mut StdRng) -> ChannelOrder {
    *[ChannelOrder::Crd, ChannelOrder::Dcr, ChannelOrder::Focus].choose(rng).expect("three of them")
}

fn values(rng: &mut StdRng) -> Values {
    *[Values::Exact, Values::FullMantissa, Values::Special].choose(rng).expect("three of them")
}

/// The problem with margins that keep vectors aligned, or do not.
pub(super) fn with_margins(problem: Problem, rng: &mut StdRng) -> Problem {
    let mut margin = |odds: f64| if rng.random_bool(odds) { [pick(rng, &[0, 8, 16, 3]), pick(rng, &[0, 8, 5])] } else { [0, 0] };
    let (x_margin, y_margin) = (margin(0.3), margin(0.3));
    Problem { values: values(rng), x_margin, y_margin, seed: rng.random::<u32>().into(), ..problem }
}

fn shuffle(rng: &mut StdRng, to_wide: bool, vectors: bool) -> Problem {
    let factor = if vectors { pick(rng, &[2, 3, 4]) } else { pick(rng, &[1, 2, 3, 4, 5, 7]) };
    let channels = if vectors { pick(rng, &[8, 16, 40]) } else { pick(rng, &[1, 2, 3, 5, 17, 33]) };
    let width = if vectors { pick(rng, &[4, 8, 16, 40]) } else { rng.random_range(1..40) };
    let n = rng.random_range(0..3);
    let problem = shuffled(rng, to_wide, factor, [n, channels, width]);
    with_margins(problem, rng)
}

fn rows(rng: &mut StdRng, to_wide: bool, factor: usize) -> Problem {
    let sizes = [rng.random_range(1..3), rng.random_range(1..6), pick(rng, &[8, 16, 40])];
    let problem = shuffled(rng, to_wide, factor, sizes);
    Problem { values: values(rng), seed: rng.random::<u32>().into(), ..problem }
}

/// A problem of these sizes: images, channels of the side with more pixels, columns of the side
/// with more channels.
fn shuffled(rng: &mut StdRng, to_wide: bool, factor: usize, [n, channels, width]: [usize; 3]) -> Problem {
    let spec = PixelShuffleSpec { factor, order: order(rng) };
    let height = rng.random_range(1..5);
    if to_wide {
        Problem::new(LayerSpec::PixelShuffle(spec), &[("x", &[n, channels * factor * factor, height, width])])
    } else {
        Problem::new(LayerSpec::PixelUnshuffle(spec), &[("x", &[n, channels, height * factor, width * factor])])
    }
}

/// A random convolution with its tensors, without the residual, whose shape depends on the output.
fn convolution(rng: &mut StdRng) -> (Conv2dSpec, Problem, [usize; 4], [usize; 4]) {
    loop {
        let problem = conv2d::problem("plain", |_, _| {}, rng);
        if let (LayerSpec::Conv2d(spec), Ok(x), &[o, c, h, w]) = (problem.layer, problem.x(), problem.shape("weight")) {
            return (spec, problem.with("residual", None), x, [o, c, h, w]);
        }
    }
}

/// The convolution's problem as one of another layer with other shapes.
fn of_layer(problem: Problem, layer: LayerSpec, x: [usize; 4], weight: [usize; 4]) -> Problem {
    let mut problem = Problem { layer, ..problem }.with("x", Some(&x)).with("weight", Some(&weight));
    for name in ["bias", "slope"] {
        if problem.shapes.contains_key(name) {
            problem = problem.with(name, Some(&weight[..1]));
        }
    }
    problem
}

fn sub_pixel(rng: &mut StdRng, vectors: bool) -> Problem {
    let (mut conv, problem, mut x, mut weight) = convolution(rng);
    let (factor, order) = (pick(rng, if vectors { &[2, 2, 3] } else { &[1, 2, 2, 3, 4] }), order(rng));
    let squares = factor * factor;
    if vectors {
        (x[1], conv.groups) = (pick(rng, &[8, 16]), pick(rng, &[1, 1, 2]));
        (weight[0], weight[1]) = (pick(rng, &[8, 16]) * squares, x[1] / conv.groups);
    } else {
        // A group may have any share of a block's channels.
        let channels = if rng.random() { conv.groups } else { 1 } * rng.random_range(1..5);
        weight[0] = if (channels * squares).is_multiple_of(conv.groups) { channels * squares } else { channels * squares * conv.groups };
    }
    let values = problem.values;
    let problem = of_layer(problem, LayerSpec::SubPixelConv2d(SubPixelConv2dSpec { conv, factor, order }), x, weight);
    Problem { values, ..with_margins(problem, rng) }
}

fn focus(rng: &mut StdRng) -> Problem {
    let (mut conv, problem, mut x, mut weight) = convolution(rng);
    // In most problems the fused form applies.
    if rng.random_bool(0.7) {
        (weight[0], conv.groups, conv.dilation) = (weight[0] / conv.groups, 1, [1, 1]);
    }
    x = [x[0], rng.random_range(1..7) * conv.groups, 2 * x[2], 2 * x[3]];
    weight[1] = 4 * x[1] / conv.groups;
    of_layer(problem, LayerSpec::Focus(FocusSpec { conv }), x, weight).with_residual(rng.random_bool(0.4))
}

fn upsample(rng: &mut StdRng, vectors: bool) -> Problem {
    let channels = if vectors { pick(rng, &[8, 16, 40]) } else { rng.random_range(1..20) };
    let image = [rng.random_range(1..12), rng.random_range(1..12)];
    let size = match rng.random_range(0..3) {
        _ if vectors => UpsampleSize::Output([rng.random_range(1..20), pick(rng, &[8, 16, 24])]),
        0 => UpsampleSize::Output([rng.random_range(1..30), rng.random_range(1..30)]),
        1 => UpsampleSize::Scale([pick(rng, &[1, 2, 3, 4]) as f64, pick(rng, &[1, 2, 3, 4]) as f64]),
        // A scale with few digits, of which JSON keeps every bit.
        _ => UpsampleSize::Scale([100, 100].map(|least| f64::from(rng.random_range(least..300)) / 100.0)),
    };
    let layer = LayerSpec::UpsampleBilinear(UpsampleBilinearSpec { size, align_corners: rng.random() });
    with_margins(Problem::new(layer, &[("x", &[rng.random_range(0..3), channels, image[0], image[1]])]), rng)
}

/// Fewer channels, smaller factors and filters. Pixels and optional tensors are made smaller for
/// all ops alike.
pub(super) fn simpler(problem: &Problem, add: &mut dyn FnMut(Problem)) {
    let Ok(x) = problem.x() else { return };
    let squared = |layer: LayerSpec, x: [usize; 4]| Problem { layer, ..problem.clone() }.with("x", Some(&x));
    let filters = |spec: Conv2dSpec, layer: &dyn Fn(Conv2dSpec) -> LayerSpec, add: &mut dyn FnMut(Problem)| {
        let inner = Problem { layer: LayerSpec::Conv2d(spec), ..problem.clone() };
        conv2d::simpler(&inner, spec, &mut |smaller| {
            if let LayerSpec::Conv2d(spec) = smaller.layer {
                add(Problem { layer: layer(spec), ..smaller });
            }
        });
    };
    match problem.layer {
        LayerSpec::PixelShuffle(spec) => SMALLER.iter().for_each(|to| {
            let squares = spec.factor * spec.factor;
            add(squared(problem.layer, [x[0], to(x[1] / squares) * squares, x[2], x[3]]));
            let factor = to(spec.factor);
            let smaller = PixelShuffleSpec { factor, ..spec };
            add(squared(LayerSpec::PixelShuffle(smaller), [x[0], x[1] / squares * factor * factor, x[2], x[3]]));
        }),
        LayerSpec::PixelUnshuffle(spec) => SMALLER.iter().for_each(|to| {
            let (r, factor) = (spec.factor, to(spec.factor));
            add(squared(problem.layer, [x[0], to(x[1]), x[2], x[3]]));
            add(squared(problem.layer, [x[0], x[1], to(x[2] / r) * r, to(x[3] / r) * r]));
            let smaller = PixelShuffleSpec { factor, ..spec };
            add(squared(LayerSpec::PixelUnshuffle(smaller), [x[0], x[1], x[2] / r * factor, x[3] / r * factor]));
        }),
        LayerSpec::UpsampleBilinear(spec) => SMALLER.iter().for_each(|to| {
            add(squared(problem.layer, [x[0], to(x[1]), x[2], x[3]]));
            if let UpsampleSize::Output(size) = spec.size {
                let size = UpsampleSize::Output(size.map(to));
                add(squared(LayerSpec::UpsampleBilinear(UpsampleBilinearSpec { size, ..spec }), x));
            }
        }),
        LayerSpec::SubPixelConv2d(spec) => filters(spec.conv, &|conv| LayerSpec::SubPixelConv2d(SubPixelConv2dSpec { conv, ..spec }), add),
        LayerSpec::Focus(spec) => filters(spec.conv, &|conv| LayerSpec::Focus(FocusSpec { conv }), add),
        LayerSpec::Conv2d(_)
        | LayerSpec::ConvTranspose2d(_)
        | LayerSpec::MaxPool2d(_)
        | LayerSpec::AvgPool2d(_)
        | LayerSpec::AdaptiveAvgPool2d(_)
        | LayerSpec::DepthwiseSeparableConv2d(_)
        | LayerSpec::SpatiallySeparableConv2d(_)
        | LayerSpec::DeformConv2d(_)
        | LayerSpec::DeformConv2dBlock(_)
        | LayerSpec::RoiAlign(_)
        | LayerSpec::RoiPool(_)
        | LayerSpec::PsRoiPool(_)
        | LayerSpec::DeformRoiPool(_)
        | LayerSpec::DeformRoiPoolPack(_) => {}
    }
}
