//! Random problems of ConvTranspose2d.

use super::{Kind, Make, Problem, SMALLER, Values, pick};
use crate::layers::{Activation, ConvTranspose2dSpec, LayerSpec};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// The parameters, before they are made consistent.
#[derive(Debug, Clone)]
pub(super) struct Transposed {
    n: usize,
    groups: usize,
    /// Channels of a group.
    c_in: usize,
    c_out: usize,
    image: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 4],
    dilation: [usize; 2],
    /// Whether an axis has the largest output_padding that is allowed.
    extra: [bool; 2],
    values: Values,
    x_margin: [usize; 2],
    y_margin: [usize; 2],
}

/// A change that makes the shapes of x and weight, or the spec, simpler.
type Simplify<'a> = &'a dyn Fn(&mut [usize; 4], &mut [usize; 4], &mut ConvTranspose2dSpec);

/// A change that makes a plain transposed convolution hard in some way.
pub(super) type Change = fn(&mut StdRng, &mut Transposed);

/// The kinds of problems: label, what it is hard on, and the change.
const CHANGES: &[(&str, &str, Change)] = &[
    ("upsampling", "what networks use: kernels of one and two strides, and 3x3 with output_padding", |rng, t| {
        let (kernel, stride) = *[(2, 2), (4, 2), (3, 2), (5, 2), (4, 4), (8, 4), (6, 3)].choose(rng).expect("not empty");
        (t.kernel, t.stride, t.dilation) = ([kernel; 2], [stride; 2], [1, 1]);
        t.padding = [(kernel - stride) / 2; 4];
        t.extra = [(kernel - stride) % 2 == 1; 2];
    }),
    ("stride_over_kernel", "phases of the output that no tap reaches: they hold the bias", |rng, t| {
        t.kernel = [rng.random_range(1..3), rng.random_range(1..4)];
        t.stride = [rng.random_range(2..6), rng.random_range(2..6)];
    }),
    ("even_phases", "kernels that are multiples of the stride, of which the padding cuts off parts of a block and whole ones", |rng, t| {
        t.stride = *[[2, 2], [2, 2], [1, 2], [3, 2], [4, 4], [2, 8], [5, 1]].choose(rng).expect("not empty");
        t.kernel = t.stride.map(|stride| stride * rng.random_range(1..4));
        t.padding = std::array::from_fn(|side| rng.random_range(0..=2 * t.stride[side % 2]));
        (t.dilation, t.c_in, t.c_out) = ([1, 1], pick(rng, &[3, 8, 16, 32]), pick(rng, &[1, 3, 8, 21, 24]));
    }),
    ("uneven_phases", "kernels that are no multiple of the stride: phases with different filters", |rng, t| {
        t.stride = [rng.random_range(2..5), rng.random_range(2..5)];
        t.kernel = [0, 1].map(|axis| rng.random_range(1..3) * t.stride[axis] + rng.random_range(1..t.stride[axis]));
        t.dilation = [1, 1];
    }),
    ("dilation_and_stride", "dilations with and without a factor in common with the stride", |rng, t| {
        t.stride = [rng.random_range(1..7), rng.random_range(1..7)];
        t.dilation = [rng.random_range(2..7), rng.random_range(2..7)];
    }),
    ("output_padding", "rows and columns beyond the reach of the kernel", |rng, t| {
        t.stride = [rng.random_range(2..6), rng.random_range(1..6)];
        (t.padding, t.extra) = ([0; 4], [true; 2]);
    }),
    ("padding_cuts", "padding that cuts off whole inputs, and differs on each side", |rng, t| {
        t.padding = std::array::from_fn(|_| rng.random_range(0..9));
    }),
    ("channels_at_tile_edge", "channel counts just below, at and above the widths of tiles and vectors", |rng, t| {
        t.c_in = pick(rng, &[1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]);
        t.c_out = pick(rng, &[1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130]);
        (t.image, t.groups) = ([rng.random_range(1..5), rng.random_range(1..5)], 1);
    }),
    (
        "channels_in_chunks",
        "whole 16-byte chunks of channels: copied as vectors, and steps of 64 bytes that hold one tap or several",
        |rng, t| {
            (t.c_in, t.c_out) = (pick(rng, &[8, 16, 24, 32, 40, 64]), pick(rng, &[8, 12, 24, 72, 136]));
            (t.groups, t.image) = (pick(rng, &[1, 1, 2]), [rng.random_range(1..5), rng.random_range(1..7)]);
            (t.x_margin, t.y_margin) = ([pick(rng, &[0, 8, 16]), pick(rng, &[0, 8])], [pick(rng, &[0, 8, 3]), pick(rng, &[0, 8])]);
        },
    ),
    ("taps_in_padding", "dilated taps that see nothing but padding from a whole tile of a phase", |rng, t| {
        (t.groups, t.c_in, t.c_out) = (1, pick(rng, &[32, 64]), rng.random_range(1..24));
        (t.image, t.kernel) = ([rng.random_range(4..20), rng.random_range(4..12)], [3, 3]);
        (t.stride, t.dilation) = ([pick(rng, &[1, 2]); 2], [rng.random_range(3..15), rng.random_range(3..9)]);
    }),
    ("kernel_large", "more taps in a phase than a mask word has bits", |rng, t| {
        (t.kernel, t.dilation) = ([rng.random_range(7..14), rng.random_range(7..14)], [1, 1]);
        (t.stride, t.c_in, t.c_out, t.groups) = ([pick(rng, &[1, 1, 2]); 2], pick(rng, &[1, 3, 8]), rng.random_range(1..4), 1);
    }),
    ("depthwise", "one channel a group, any number of outputs", |rng, t| {
        (t.groups, t.c_in, t.c_out) = (rng.random_range(1..40), 1, pick(rng, &[1, 1, 3]))
    }),
    ("batch_of_pixels", "image boundaries inside a tile of pixels", |rng, t| {
        (t.n, t.image) = (rng.random_range(3..10), [rng.random_range(1..4), rng.random_range(1..4)])
    }),
    ("empty_batch", "nothing to do, and nothing may be touched", |_, t| t.n = 0),
    ("special_values", "NaN, infinities, signed zeros and subnormals", |_, t| t.values = Values::Special),
    ("special_weights", "the same in the weights, some of whose taps reach no pixel", |_, t| t.values = Values::SpecialWeights),
    ("channel_slices", "input and output are slices of wider tensors, at any alignment", |rng, t| {
        t.x_margin = [rng.random_range(0..9), rng.random_range(0..9)];
        t.y_margin = [rng.random_range(0..9), rng.random_range(0..9)];
    }),
];

/// The table [`CHANGES`] as kinds.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    CHANGES.iter().map(|&(name, why, change)| Kind { op: "conv_transpose2d", name, why, make: Make::ConvTranspose2d(change) })
}

pub(super) fn problem(kind: &str, change: Change, rng: &mut StdRng) -> Problem {
    let mut transposed = Transposed {
        n: rng.random_range(1..3),
        groups: pick(rng, &[1, 1, 1, 2, 3]),
        c_in: rng.random_range(1..12),
        c_out: rng.random_range(1..12),
        image: [rng.random_range(1..9), rng.random_range(1..9)],
        kernel: [rng.random_range(1..6), rng.random_range(1..6)],
        stride: [pick(rng, &[1, 2, 2, 3]), pick(rng, &[1, 2, 2, 3])],
        padding: std::array::from_fn(|_| rng.random_range(0..3)),
        dilation: [pick(rng, &[1, 1, 1, 2, 3]), pick(rng, &[1, 1, 1, 2, 3])],
        extra: [rng.random(), rng.random()],
        values: if rng.random() { Values::Exact } else { Values::FullMantissa },
        x_margin: [0, 0],
        y_margin: [0, 0],
    };
    change(rng, &mut transposed);
    let linear = [Activation::None, Activation::Relu];
    let activation = if transposed.values == Values::Exact && rng.random() {
        *linear.choose(rng).expect("two of them")
    } else {
        *Activation::all(rng.random_range(1..64) as f32 / 64.0).choose(rng).expect("ten of them")
    };
    transposed.problem(kind, activation, rng)
}

impl Transposed {
    /// Makes the parameters consistent.
    fn problem(mut self, kind: &str, activation: Activation, rng: &mut StdRng) -> Problem {
        let output_padding = [0, 1].map(|axis| if self.extra[axis] { self.stride[axis].max(self.dilation[axis]) - 1 } else { 0 });
        // The padding must leave at least one row and one column.
        for (axis, extra) in output_padding.into_iter().enumerate() {
            let full = (self.image[axis] - 1) * self.stride[axis] + self.dilation[axis] * (self.kernel[axis] - 1) + 1 + extra;
            self.padding[axis] = self.padding[axis].min(full - 1);
            self.padding[axis + 2] = self.padding[axis + 2].min(full - 1 - self.padding[axis]);
        }
        let (stride, padding, dilation, groups) = (self.stride, self.padding, self.dilation, self.groups);
        let spec = ConvTranspose2dSpec { stride, padding, output_padding, dilation, groups, activation };
        let x = [self.n, self.c_in * groups, self.image[0], self.image[1]];
        let weight = [self.c_in * groups, self.c_out, self.kernel[0], self.kernel[1]];
        let (values, x_margin, y_margin) = (self.values, self.x_margin, self.y_margin);
        let problem = Problem { kind: kind.into(), values, x_margin, y_margin, ..Problem::conv_transpose2d(spec, x, weight) };
        let bias = [self.c_out * groups];
        let problem = problem.with("bias", rng.random::<bool>().then_some(&bias)).with_residual(rng.random_bool(0.4));
        Problem { seed: rng.random::<u32>().into(), ..problem }
    }
}

/// Simpler filters and attributes. Tensors are made smaller for all ops alike.
pub(super) fn simpler(problem: &Problem, spec: ConvTranspose2dSpec, add: &mut dyn FnMut(Problem)) {
    let (Ok(x), Ok(weight)) = (problem.x(), crate::geometry::rank4("weight", problem.shape("weight"))) else { return };
    let mut change = |change: Simplify<'_>| {
        let (mut x, mut weight, mut spec) = (x, weight, spec);
        change(&mut x, &mut weight, &mut spec);
        let layer = LayerSpec::ConvTranspose2d(spec);
        let mut smaller = Problem { layer, ..problem.clone() }.with("x", Some(&x)).with("weight", Some(&weight));
        for name in ["bias", "slope"] {
            if smaller.shapes.contains_key(name) {
                smaller = smaller.with(name, Some(&[weight[1] * spec.groups]));
            }
        }
        add(smaller);
    };
    for to in SMALLER {
        change(&|_, w, _| w[2] = to(w[2]));
        change(&|_, w, _| w[3] = to(w[3]));
        change(&|x, w, s| {
            // Fewer groups, with as many channels in each as before.
            let groups = to(s.groups).max(1);
            (x[1], w[0], s.groups) = (x[1] / s.groups * groups, w[0] / s.groups * groups, groups);
        });
        change(&|x, w, s| {
            let channels = to(w[0] / s.groups) * s.groups;
            (x[1], w[0]) = (channels, channels);
        });
        change(&|_, w, _| w[1] = to(w[1]));
        for side in 0..4 {
            change(&|_, _, s| s.padding[side] = to(s.padding[side]));
        }
        for axis in 0..2 {
            change(&|_, _, s| s.stride[axis] = to(s.stride[axis]));
            change(&|_, _, s| s.dilation[axis] = to(s.dilation[axis]));
            change(&|_, _, s| s.output_padding[axis] = s.output_padding[axis].saturating_sub(1));
        }
    }
    // Without an activation no slope is read.
    let linear = ConvTranspose2dSpec { activation: Activation::None, ..spec };
    add(Problem { layer: LayerSpec::ConvTranspose2d(linear), ..problem.clone() }.with("slope", None));
}
