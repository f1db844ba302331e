//! Random problems of MaxPool2d, AvgPool2d and AdaptiveAvgPool2d.

use super::pixel::{MakeProblem, with_margins};
use super::{Kind, Make, Problem, SMALLER, pick};
use crate::layers::{AdaptiveAvgPool2dSpec, AvgPool2dSpec, LayerSpec, MaxPool2dSpec};
use rand::RngExt;
use rand::rngs::StdRng;

const MAKES: &[(&str, &str, &str, MakeProblem)] = &[
    ("max_pool2d", "any_size", "kernels, strides, padding and dilation of any size, windows beyond the end", |rng| max(rng, false)),
    ("max_pool2d", "vectors", "channels of whole vectors, slices of wider tensors aligned and not", |rng| max(rng, true)),
    ("avg_pool2d", "any_size", "kernels, strides and padding of any size, windows beyond the end, every divisor", |rng| {
        average(rng, false)
    }),
    ("avg_pool2d", "vectors", "channels of whole vectors, slices of wider tensors aligned and not", |rng| average(rng, true)),
    ("adaptive_avg_pool2d", "any_size", "windows of different sizes, more outputs than inputs", |rng| adaptive(rng, false)),
    ("adaptive_avg_pool2d", "vectors", "channels of whole vectors, slices of wider tensors aligned and not", |rng| adaptive(rng, true)),
    ("adaptive_avg_pool2d", "global", "one window, the whole image, in a block with more or fewer threads", global),
];

pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    MAKES.iter().map(|&(op, name, why, make)| Kind { op, name, why, make: Make::Pixel(make) })
}

fn image(rng: &mut StdRng, vectors: bool) -> [usize; 4] {
    let channels = if vectors { pick(rng, &[8, 16, 40, 264]) } else { rng.random_range(1..20) };
    [rng.random_range(0..3), channels, rng.random_range(1..14), rng.random_range(1..14)]
}

/// Kernel size, stride, padding and dilation along an axis of this size, with which there is an
/// output.
fn axis(rng: &mut StdRng, size: usize, dilated: bool) -> [usize; 4] {
    loop {
        let kernel = pick(rng, &[1, 2, 2, 3, 3, 4, 5, 7, 14]);
        let (padding, dilation) = (rng.random_range(0..=kernel / 2), if dilated { pick(rng, &[1, 1, 2, 3, 5]) } else { 1 });
        if (kernel - 1) * dilation < size + 2 * padding {
            return [kernel, pick(rng, &[1, 2, 2, 3, 5]), padding, dilation];
        }
    }
}

fn max(rng: &mut StdRng, vectors: bool) -> Problem {
    let x = image(rng, vectors);
    let [rows, columns] = [axis(rng, x[2], true), axis(rng, x[3], true)];
    let of = |index: usize| [rows[index], columns[index]];
    let stride = rng.random_bool(0.8).then_some(of(1));
    let spec = MaxPool2dSpec { kernel_size: of(0), stride, padding: of(2), dilation: of(3), ceil_mode: rng.random() };
    with_margins(Problem::new(LayerSpec::MaxPool2d(spec), &[("x", &x)]), rng)
}

fn average(rng: &mut StdRng, vectors: bool) -> Problem {
    let x = image(rng, vectors);
    let [rows, columns] = [axis(rng, x[2], false), axis(rng, x[3], false)];
    let of = |index: usize| [rows[index], columns[index]];
    let spec = AvgPool2dSpec {
        kernel_size: of(0),
        stride: rng.random_bool(0.8).then_some(of(1)),
        padding: of(2),
        ceil_mode: rng.random(),
        count_include_pad: rng.random(),
        divisor_override: rng.random_bool(0.2).then(|| rng.random_range(1..20)),
    };
    with_margins(Problem::new(LayerSpec::AvgPool2d(spec), &[("x", &x)]), rng)
}

fn adaptive(rng: &mut StdRng, vectors: bool) -> Problem {
    let output_size = [rng.random_range(1..9), rng.random_range(1..9)];
    let layer = LayerSpec::AdaptiveAvgPool2d(AdaptiveAvgPool2dSpec { output_size });
    with_margins(Problem::new(layer, &[("x", &image(rng, vectors))]), rng)
}

fn global(rng: &mut StdRng) -> Problem {
    let layer = LayerSpec::AdaptiveAvgPool2d(AdaptiveAvgPool2dSpec { output_size: [1, 1] });
    let channels = pick(rng, &[1, 3, 8, 24, 72, 520]);
    let side = if channels < 100 { 24 } else { 10 };
    let x = [rng.random_range(1..3), channels, rng.random_range(1..side), rng.random_range(1..side)];
    with_margins(Problem::new(layer, &[("x", &x)]), rng)
}

/// Fewer channels, smaller windows, no padding. Pixels are made fewer for all ops alike.
pub(super) fn simpler(problem: &Problem, add: &mut dyn FnMut(Problem)) {
    let Ok(x) = problem.x() else { return };
    let changed = |layer: LayerSpec| Problem { layer, ..problem.clone() };
    for to in SMALLER {
        add(problem.clone().with("x", Some(&[x[0], to(x[1]), x[2], x[3]])));
        let at_least_1 = |sizes: [usize; 2]| sizes.map(|size| to(size).max(1));
        match problem.layer {
            LayerSpec::MaxPool2d(spec) => {
                add(changed(LayerSpec::MaxPool2d(MaxPool2dSpec { kernel_size: at_least_1(spec.kernel_size), ..spec })));
                add(changed(LayerSpec::MaxPool2d(MaxPool2dSpec { padding: spec.padding.map(to), ..spec })));
                add(changed(LayerSpec::MaxPool2d(MaxPool2dSpec { dilation: at_least_1(spec.dilation), ..spec })));
                add(changed(LayerSpec::MaxPool2d(MaxPool2dSpec { stride: spec.stride.map(at_least_1), ceil_mode: false, ..spec })));
            }
            LayerSpec::AvgPool2d(spec) => {
                add(changed(LayerSpec::AvgPool2d(AvgPool2dSpec { kernel_size: at_least_1(spec.kernel_size), ..spec })));
                add(changed(LayerSpec::AvgPool2d(AvgPool2dSpec { padding: spec.padding.map(to), ..spec })));
                add(changed(LayerSpec::AvgPool2d(AvgPool2dSpec { divisor_override: None, ..spec })));
                add(changed(LayerSpec::AvgPool2d(AvgPool2dSpec { stride: spec.stride.map(at_least_1), ceil_mode: false, ..spec })));
            }
            LayerSpec::AdaptiveAvgPool2d(spec) => {
                let output_size = at_least_1(spec.output_size);
                add(changed(LayerSpec::AdaptiveAvgPool2d(AdaptiveAvgPool2dSpec { output_size })));
            }
            _ => {}
        }
    }
}
