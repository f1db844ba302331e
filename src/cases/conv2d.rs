//! Random problems of Conv2d.

use super::{Kind, Make, Problem, SMALLER, Values, pick};
use crate::layers::{Activation, Conv2dSpec, LayerSpec, Padding};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// The parameters of a convolution, before they are made consistent.
#[derive(Debug, Clone)]
pub(super) struct Conv {
    pub n: usize,
    pub groups: usize,
    /// Channels of a group.
    pub c_in: usize,
    pub c_out: usize,
    pub image: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 4],
    pub same: bool,
    pub dilation: [usize; 2],
    pub values: Values,
    pub x_margin: [usize; 2],
    pub y_margin: [usize; 2],
}

/// A change that makes a plain convolution hard in some way.
pub(super) type Change = fn(&mut StdRng, &mut Conv);

/// The kinds of problems: label, what it is hard on, and the change.
pub(super) const CHANGES: &[(&str, &str, Change)] = &[
    ("plain", "nothing special: the case that must not be forgotten", |_, _| {}),
    ("channels_at_tile_edge", "channel counts just below, at and above the widths of tiles and vectors", |rng, c| {
        c.c_in = pick(rng, &[1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129]);
        c.c_out = pick(rng, &[1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130]);
        c.image = [rng.random_range(1..6), rng.random_range(1..6)];
        c.groups = 1;
    }),
    ("pixels_at_tile_edge", "rows and images just below, at and above a tile of pixels", |rng, c| {
        c.image = [rng.random_range(1..4), pick(rng, &[15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129])]
    }),
    ("image_1x1", "every tap but one lies in the padding", |_, c| (c.image, c.same) = ([1, 1], true)),
    ("image_smaller_than_kernel", "no output sees a whole kernel", |rng, c| {
        c.image = [rng.random_range(1..4), rng.random_range(1..4)];
        c.kernel = [rng.random_range(3..8), rng.random_range(3..8)];
        c.same = true;
    }),
    ("single_row_or_column", "degenerate images, where row and image boundaries coincide", |rng, c| {
        c.image = [1, rng.random_range(1..40)];
        if rng.random() {
            c.image.reverse();
        }
    }),
    ("kernel_1x1", "no neighbourhood: a plain matrix product, also with stride and padding", |rng, c| {
        (c.kernel, c.c_in, c.c_out) = ([1, 1], rng.random_range(1..40), rng.random_range(1..40))
    }),
    ("kernel_1x1_plain", "a matrix product of x as it lies: whole chunks of channels, or planes of whole ones and not", |rng, c| {
        (c.kernel, c.stride, c.padding, c.same) = ([1, 1], [1, 1], [0; 4], false);
        (c.groups, c.c_in, c.c_out) = (pick(rng, &[1, 1, 2]), pick(rng, &[8, 16, 24, 40, 72]), pick(rng, &[8, 12, 72, 136]));
        c.image = [pick(rng, &[1, 2, 4, 7]), pick(rng, &[4, 8, 16, 33])];
        c.x_margin = if rng.random_bool(0.3) { [pick(rng, &[8, 16, 3]), 0] } else { [0, 0] };
    }),
    ("kernel_one_axis", "1xk and kx1 kernels", |rng, c| {
        c.kernel = [1, rng.random_range(2..10)];
        if rng.random() {
            c.kernel.reverse();
        }
    }),
    ("kernel_even", "no centre: same padding is asymmetric", |rng, c| {
        (c.kernel, c.same) = ([pick(rng, &[2, 4, 6]), pick(rng, &[2, 4])], rng.random())
    }),
    ("kernel_large", "more taps than a mask word has bits", |rng, c| {
        c.kernel = [rng.random_range(7..14), rng.random_range(7..14)];
        (c.c_in, c.c_out, c.same) = (rng.random_range(1..4), rng.random_range(1..4), true);
    }),
    ("padding_over_kernel", "outputs whose every tap lies in the padding: they hold the bias", |rng, c| {
        c.padding = std::array::from_fn(|_| rng.random_range(3..9))
    }),
    ("padding_one_sided", "top, left, bottom and right told apart", |rng, c| {
        c.padding = [0; 4];
        c.padding[rng.random_range(0..4)] = rng.random_range(1..5);
        c.same = false;
    }),
    ("stride_over_kernel", "input pixels that no output sees", |rng, c| {
        c.kernel = [rng.random_range(1..3), rng.random_range(1..3)];
        c.stride = [rng.random_range(2..6), rng.random_range(2..6)];
        c.same = false;
    }),
    ("axes_differ", "height and width told apart in every attribute", |rng, c| {
        c.kernel = [rng.random_range(1..4), rng.random_range(4..6)];
        c.stride = [rng.random_range(1..3), rng.random_range(3..5)];
        c.dilation = [rng.random_range(3..5), rng.random_range(1..3)];
        c.image = [rng.random_range(3..9), rng.random_range(20..30)];
        c.same = false;
    }),
    ("dilation_over_image", "neighbouring taps further apart than the image is wide", |rng, c| {
        c.image = [rng.random_range(1..7), rng.random_range(1..7)];
        (c.dilation, c.same) = ([rng.random_range(3..12), rng.random_range(3..12)], true);
    }),
    ("grouped_narrow", "2 to 8 channels a group: too few for a tile of their own", |rng, c| {
        (c.groups, c.c_in, c.c_out) = (rng.random_range(2..12), rng.random_range(2..9), rng.random_range(2..9))
    }),
    ("grouped_wide", "group boundaries inside a tile of channels", |rng, c| {
        (c.groups, c.c_in, c.c_out) = (rng.random_range(2..4), rng.random_range(9..40), rng.random_range(9..40));
        c.image = [rng.random_range(1..6), rng.random_range(1..6)];
    }),
    (
        "grouped_vectors",
        "group widths at which 16-byte accesses apply and taps fill an MMA's k, with values that must not meet another group's",
        |rng, c| {
            (c.c_in, c.c_out) = (pick(rng, &[4, 8, 12, 16, 20, 24, 32, 40]), pick(rng, &[2, 4, 8, 16, 24, 32]));
            c.groups = pick(rng, &[2, 4, 6, 8, 12]);
            c.image = [rng.random_range(1..7), rng.random_range(1..10)];
            if rng.random_bool(0.3) {
                c.values = Values::Special;
            }
        },
    ),
    (
        "channels_in_chunks",
        "whole 16-byte chunks of channels: copied as vectors, and steps of 64 bytes that hold one tap or several",
        |rng, c| {
            (c.c_in, c.c_out) = (pick(rng, &[8, 16, 24, 32, 40, 64]), pick(rng, &[8, 12, 24, 72, 136]));
            (c.groups, c.image) = (pick(rng, &[1, 1, 2]), [rng.random_range(1..6), rng.random_range(1..10)]);
            c.kernel = if c.c_in == 8 { [5, 7] } else { [pick(rng, &[1, 2, 3]), pick(rng, &[1, 3])] };
            c.x_margin = [pick(rng, &[0, 8, 16]), pick(rng, &[0, 8])];
        },
    ),
    ("taps_in_padding", "dilated taps that see nothing but padding from a whole tile of pixels", |rng, c| {
        (c.groups, c.c_in, c.c_out) = (1, pick(rng, &[32, 64]), rng.random_range(1..24));
        c.image = [rng.random_range(4..30), rng.random_range(4..12)];
        (c.kernel, c.dilation, c.same) = ([3, 3], [rng.random_range(3..25), rng.random_range(3..12)], true);
    }),
    ("depthwise", "one channel a group, any number of them", |rng, c| (c.groups, c.c_in, c.c_out) = (rng.random_range(1..70), 1, 1)),
    ("depthwise_3x3", "unrolled for this size, in vectors of channels or of columns", |rng, c| unrolled(rng, c, 3, 1)),
    ("depthwise_3x3_s2", "unrolled for this stride too", |rng, c| unrolled(rng, c, 3, 2)),
    ("depthwise_5x5", "unrolled for this size, in pairs of channels or vectors of columns", |rng, c| unrolled(rng, c, 5, 1)),
    ("depthwise_5x5_s2", "unrolled for this stride too", |rng, c| unrolled(rng, c, 5, 2)),
    ("depthwise_7x7", "unrolled for this size, and the smallest on tensor cores", |rng, c| unrolled(rng, c, 7, 1)),
    ("depthwise_7x7_s2", "unrolled for this stride too", |rng, c| unrolled(rng, c, 7, 2)),
    ("depthwise_banded", "bands of weights on tensor cores, with what must not meet their zeros", |rng, c| banded(rng, c, &[7, 9, 10, 17])),
    ("depthwise_banded_wide", "bands of more than two steps of an MMA", |rng, c| banded(rng, c, &[25, 26, 27, 31])),
    ("depthwise_multiplier", "several outputs share one input channel", |rng, c| {
        (c.groups, c.c_in, c.c_out) = (rng.random_range(1..20), 1, rng.random_range(2..5))
    }),
    ("batch", "image boundaries inside a tile of pixels", |rng, c| {
        (c.n, c.image) = (rng.random_range(3..10), [rng.random_range(1..6), rng.random_range(1..6)])
    }),
    ("empty_batch", "nothing to do, and nothing may be touched", |_, c| c.n = 0),
    ("special_values", "NaN, infinities, signed zeros and subnormals", |_, c| c.values = Values::Special),
    ("special_weights", "the same in the weights, with padding, of which they make no product, and without", |rng, c| {
        c.values = Values::SpecialWeights;
        (c.groups, c.c_in, c.c_out) = *[(1, 9, 5), (1, 32, 12), (4, 8, 8), (8, 1, 1)].choose(rng).expect("not empty");
        if rng.random() {
            (c.padding, c.same) = ([0; 4], false);
        }
    }),
    ("channel_slices", "input and output are slices of wider tensors, at any alignment", |rng, c| {
        c.x_margin = [rng.random_range(0..9), rng.random_range(0..9)];
        c.y_margin = [rng.random_range(0..9), rng.random_range(0..9)];
    }),
];

/// A depthwise kernel at stride 1 that is so large that tensor cores pay off.
fn banded(rng: &mut StdRng, c: &mut Conv, widths: &[usize]) {
    (c.groups, c.c_in, c.c_out) = (pick(rng, &[1, 3, 4, 8, 12]), 1, 1);
    c.kernel = [pick(rng, &[1, 4, 7, 9, 13]), pick(rng, widths)];
    (c.dilation, c.same, c.image) = ([1, 1], true, [rng.random_range(1..40), rng.random_range(1..50)]);
    if rng.random_bool(0.3) {
        c.values = Values::Special;
    }
}

/// A depthwise kernel of a size and stride for which there are unrolled kernels.
fn unrolled(rng: &mut StdRng, c: &mut Conv, size: usize, stride: usize) {
    (c.groups, c.c_in, c.c_out) = (pick(rng, &[2, 6, 8, 16, 24, 40]), 1, 1);
    (c.kernel, c.stride, c.dilation) = ([size; 2], [stride; 2], [1, 1]);
    c.image = [rng.random_range(1..24), rng.random_range(1..40)];
    if rng.random_bool(0.3) {
        c.values = Values::Special;
    }
    if rng.random_bool(0.3) {
        (c.x_margin, c.y_margin) = ([pick(rng, &[0, 8, 3]), 0], [pick(rng, &[0, 8, 5]), 0]);
    }
}

/// The table [`CHANGES`] as kinds.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    CHANGES.iter().map(|&(name, why, change)| Kind { op: "conv2d", name, why, make: Make::Conv2d(change) })
}

pub(super) fn problem(kind: &str, change: Change, rng: &mut StdRng) -> Problem {
    let mut conv = Conv::random(rng);
    change(rng, &mut conv);
    conv.finish(kind, rng)
}

impl Conv {
    pub fn random(rng: &mut StdRng) -> Self {
        Self {
            n: rng.random_range(1..3),
            groups: pick(rng, &[1, 1, 1, 2, 3]),
            c_in: rng.random_range(1..12),
            c_out: rng.random_range(1..12),
            image: [rng.random_range(1..14), rng.random_range(1..14)],
            kernel: [pick(rng, &[1, 2, 3, 3, 3, 5]), pick(rng, &[1, 2, 3, 3, 3, 5])],
            stride: [pick(rng, &[1, 1, 2, 3]), pick(rng, &[1, 1, 2, 3])],
            padding: std::array::from_fn(|_| rng.random_range(0..3)),
            same: rng.random_bool(0.2),
            dilation: [pick(rng, &[1, 1, 1, 2, 3]), pick(rng, &[1, 1, 1, 2, 3])],
            values: if rng.random() { Values::Exact } else { Values::FullMantissa },
            x_margin: [0, 0],
            y_margin: [0, 0],
        }
    }

    /// The input channels of all groups.
    pub fn input_channels(&self) -> usize {
        self.groups * self.c_in
    }

    /// Draws the activation and makes a problem.
    pub fn finish(self, kind: &str, rng: &mut StdRng) -> Problem {
        let linear = [Activation::None, Activation::Relu];
        let activation = if self.values == Values::Exact && rng.random() {
            *linear.choose(rng).expect("two of them")
        } else {
            *Activation::all(rng.random_range(1..64) as f32 / 64.0).choose(rng).expect("ten of them")
        };
        self.problem(kind, activation, rng)
    }

    /// Makes the parameters consistent.
    fn problem(mut self, kind: &str, activation: Activation, rng: &mut StdRng) -> Problem {
        if self.same {
            self.stride = [1, 1];
        }
        // The kernel must fit the padded image.
        for axis in 0..2 {
            let span = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            let padded = self.image[axis] + self.padding[axis] + self.padding[axis + 2];
            if !self.same && span > padded {
                self.padding[axis] += (span - padded) / 2;
                self.padding[axis + 2] += span - padded - (span - padded) / 2;
            }
        }
        let padding = if self.same { Padding::Same } else { Padding::Explicit(self.padding) };
        let spec = Conv2dSpec { stride: self.stride, padding, dilation: self.dilation, groups: self.groups, activation };
        let x = [self.n, self.c_in * self.groups, self.image[0], self.image[1]];
        let weight = [self.c_out * self.groups, self.c_in, self.kernel[0], self.kernel[1]];
        let problem = Problem {
            kind: kind.into(),
            values: self.values,
            x_margin: self.x_margin,
            y_margin: self.y_margin,
            ..Problem::conv2d(spec, x, weight)
        };
        let problem = problem.with("bias", rng.random::<bool>().then_some(&weight[..1])).with_residual(rng.random_bool(0.4));
        Problem { seed: rng.random::<u32>().into(), ..problem }
    }
}

/// A change that makes the shapes of x and weight, or the attributes, smaller.
type Shrink<'a> = dyn Fn(&mut [usize; 4], &mut [usize; 4], &mut Conv2dSpec) + 'a;

/// Simpler filters and attributes. Tensors are made smaller for all ops alike.
pub(super) fn simpler(problem: &Problem, spec: Conv2dSpec, add: &mut dyn FnMut(Problem)) {
    let (Ok(x), Ok(weight)) = (problem.x(), crate::geometry::rank4("weight", problem.shape("weight"))) else { return };
    let mut change = |change: &Shrink<'_>| {
        let (mut x, mut weight, mut spec) = (x, weight, spec);
        change(&mut x, &mut weight, &mut spec);
        let mut smaller = Problem { layer: LayerSpec::Conv2d(spec), ..problem.clone() }.with("x", Some(&x)).with("weight", Some(&weight));
        for name in ["bias", "slope"] {
            if smaller.shapes.contains_key(name) {
                smaller = smaller.with(name, Some(&weight[..1]));
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
            let channels = to(w[1]);
            (x[1], w[1]) = (channels * s.groups, channels);
        });
        change(&|_, w, s| w[0] = to(w[0] / s.groups) * s.groups);
        for side in 0..4 {
            change(&|_, w, s| {
                if let Ok(mut padding) = s.padding.resolve([w[2], w[3]], s.dilation, s.stride) {
                    padding[side] = to(padding[side]);
                    s.padding = Padding::Explicit(padding);
                }
            });
        }
        for axis in 0..2 {
            change(&|_, _, s| s.stride[axis] = to(s.stride[axis]));
            change(&|_, _, s| s.dilation[axis] = to(s.dilation[axis]));
        }
    }
    // Without an activation no slope is read.
    add(Problem { layer: LayerSpec::Conv2d(Conv2dSpec { activation: Activation::None, ..spec }), ..problem.clone() }.with("slope", None));
}
