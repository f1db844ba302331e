//! Problems that are hard on kernels: random ones with an awkwardness each, labelled with why it is awkward. `warpconv verify`
//! and the crate's tests draw from the same table, and so can users who test their own backends.

use crate::geometry::{ConvGeometry, elements};
use crate::layers::{Activation, Conv2dSpec, LayerSpec, Padding};
use crate::reference::Array;
use crate::{DType, Result, Shape};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the tensors of a [`Problem`] hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// k/64 with |k| <= 64: sums are exact in f32, so linear layers can be compared bit for bit.
    Exact,
    /// Uniform in [-1, 1) with every bit of the mantissa in use.
    FullMantissa,
    /// Mostly as `FullMantissa`, with NaN, infinities, signed zeros and subnormals of every dtype strewn in.
    Special,
}

/// One layer on one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Why it is hard: the name of a [`Kind`].
    pub kind: String,
    /// The layer's op and attributes.
    pub layer: LayerSpec,
    /// The input's shape.
    pub x: Shape,
    /// The weight's shape.
    pub weight: Shape,
    /// With a bias.
    pub bias: bool,
    /// With a residual.
    pub residual: bool,
    /// What the tensors hold.
    pub values: Values,
    /// Channels before and behind the input in the tensor that it is a slice of.
    pub x_margin: [usize; 2],
    /// Channels before and behind the output in the tensor that it is a slice of.
    pub y_margin: [usize; 2],
    /// Seed of the values.
    pub seed: u64,
}

/// A kind of awkwardness.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its label.
    pub name: &'static str,
    /// What it is hard on.
    pub why: &'static str,
    make: fn(&mut StdRng, &mut Conv),
}

/// The degrees of freedom of a convolution, before they are made consistent.
#[derive(Debug, Clone)]
struct Conv {
    n: usize,
    groups: usize,
    /// Channels a group.
    c_in: usize,
    c_out: usize,
    image: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 4],
    same: bool,
    dilation: [usize; 2],
    values: Values,
    x_margin: [usize; 2],
    y_margin: [usize; 2],
}

fn pick(rng: &mut StdRng, from: &[usize]) -> usize {
    *from.choose(rng).expect("a table is not empty")
}

/// Every kind of awkwardness that random problems are drawn from.
pub const KINDS: &[Kind] = &[
    Kind { name: "plain", why: "nothing special: the case that must not be forgotten", make: |_, _| {} },
    Kind {
        name: "channels_at_tile_edge",
        why: "channel counts just below, at and above the widths of tiles and vectors",
        make: |rng, c| {
            c.c_in = pick(rng, &[1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129]);
            c.c_out = pick(rng, &[1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130]);
            c.image = [rng.random_range(1..6), rng.random_range(1..6)];
            c.groups = 1;
        },
    },
    Kind {
        name: "pixels_at_tile_edge",
        why: "rows and images just below, at and above a tile of pixels",
        make: |rng, c| c.image = [rng.random_range(1..4), pick(rng, &[15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129])],
    },
    Kind { name: "image_1x1", why: "every tap but one lies in the padding", make: |_, c| (c.image, c.same) = ([1, 1], true) },
    Kind {
        name: "image_smaller_than_kernel",
        why: "no output sees a whole kernel",
        make: |rng, c| {
            c.image = [rng.random_range(1..4), rng.random_range(1..4)];
            c.kernel = [rng.random_range(3..8), rng.random_range(3..8)];
            c.same = true;
        },
    },
    Kind {
        name: "single_row_or_column",
        why: "degenerate images, where row and image boundaries coincide",
        make: |rng, c| {
            c.image = [1, rng.random_range(1..40)];
            if rng.random() {
                c.image.reverse();
            }
        },
    },
    Kind {
        name: "kernel_1x1",
        why: "no neighbourhood: a plain matrix product, also with stride and padding",
        make: |rng, c| (c.kernel, c.c_in, c.c_out) = ([1, 1], rng.random_range(1..40), rng.random_range(1..40)),
    },
    Kind {
        name: "kernel_one_axis",
        why: "1xk and kx1 kernels",
        make: |rng, c| {
            c.kernel = [1, rng.random_range(2..10)];
            if rng.random() {
                c.kernel.reverse();
            }
        },
    },
    Kind {
        name: "kernel_even",
        why: "no centre: same padding is asymmetric",
        make: |rng, c| (c.kernel, c.same) = ([pick(rng, &[2, 4, 6]), pick(rng, &[2, 4])], rng.random()),
    },
    Kind {
        name: "kernel_large",
        why: "more taps than a mask word has bits",
        make: |rng, c| {
            c.kernel = [rng.random_range(7..14), rng.random_range(7..14)];
            (c.c_in, c.c_out, c.same) = (rng.random_range(1..4), rng.random_range(1..4), true);
        },
    },
    Kind {
        name: "padding_over_kernel",
        why: "outputs whose every tap lies in the padding: they hold the bias",
        make: |rng, c| c.padding = std::array::from_fn(|_| rng.random_range(3..9)),
    },
    Kind {
        name: "padding_one_sided",
        why: "top, left, bottom and right told apart",
        make: |rng, c| {
            c.padding = [0; 4];
            c.padding[rng.random_range(0..4)] = rng.random_range(1..5);
            c.same = false;
        },
    },
    Kind {
        name: "stride_over_kernel",
        why: "input pixels that no output sees",
        make: |rng, c| {
            c.kernel = [rng.random_range(1..3), rng.random_range(1..3)];
            c.stride = [rng.random_range(2..6), rng.random_range(2..6)];
            c.same = false;
        },
    },
    Kind {
        name: "axes_differ",
        why: "height and width told apart in every attribute",
        make: |rng, c| {
            c.kernel = [rng.random_range(1..4), rng.random_range(4..6)];
            c.stride = [rng.random_range(1..3), rng.random_range(3..5)];
            c.dilation = [rng.random_range(3..5), rng.random_range(1..3)];
            c.image = [rng.random_range(3..9), rng.random_range(20..30)];
            c.same = false;
        },
    },
    Kind {
        name: "dilation_over_image",
        why: "neighbouring taps further apart than the image is wide",
        make: |rng, c| {
            c.image = [rng.random_range(1..7), rng.random_range(1..7)];
            (c.dilation, c.same) = ([rng.random_range(3..12), rng.random_range(3..12)], true);
        },
    },
    Kind {
        name: "grouped_narrow",
        why: "2 to 8 channels a group: too few for a tile of their own",
        make: |rng, c| (c.groups, c.c_in, c.c_out) = (rng.random_range(2..12), rng.random_range(2..9), rng.random_range(2..9)),
    },
    Kind {
        name: "grouped_wide",
        why: "group boundaries inside a tile of channels",
        make: |rng, c| {
            (c.groups, c.c_in, c.c_out) = (rng.random_range(2..4), rng.random_range(9..40), rng.random_range(9..40));
            c.image = [rng.random_range(1..6), rng.random_range(1..6)];
        },
    },
    Kind {
        name: "grouped_vectors",
        why: "group widths at which 16-byte accesses apply and taps fill an MMA's k, with values that must not meet another group's",
        make: |rng, c| {
            (c.c_in, c.c_out) = (pick(rng, &[4, 8, 12, 16, 20, 24, 32, 40]), pick(rng, &[2, 4, 8, 16, 24, 32]));
            c.groups = pick(rng, &[2, 4, 6, 8, 12]);
            c.image = [rng.random_range(1..7), rng.random_range(1..10)];
            if rng.random_bool(0.3) {
                c.values = Values::Special;
            }
        },
    },
    Kind {
        name: "channels_in_chunks",
        why: "whole 16-byte chunks of channels: copied as vectors, and steps of 64 bytes that hold one tap or several",
        make: |rng, c| {
            (c.c_in, c.c_out) = (pick(rng, &[8, 16, 24, 32, 40, 64]), pick(rng, &[8, 12, 24, 72, 136]));
            (c.groups, c.image) = (pick(rng, &[1, 1, 2]), [rng.random_range(1..6), rng.random_range(1..10)]);
            c.kernel = if c.c_in == 8 { [5, 7] } else { [pick(rng, &[1, 2, 3]), pick(rng, &[1, 3])] };
            c.x_margin = [pick(rng, &[0, 8, 16]), pick(rng, &[0, 8])];
        },
    },
    Kind {
        name: "taps_in_padding",
        why: "dilated taps that see nothing but padding from a whole tile of pixels",
        make: |rng, c| {
            (c.groups, c.c_in, c.c_out) = (1, pick(rng, &[32, 64]), rng.random_range(1..24));
            c.image = [rng.random_range(4..30), rng.random_range(4..12)];
            (c.kernel, c.dilation, c.same) = ([3, 3], [rng.random_range(3..25), rng.random_range(3..12)], true);
        },
    },
    Kind {
        name: "depthwise",
        why: "one channel a group, any number of them",
        make: |rng, c| (c.groups, c.c_in, c.c_out) = (rng.random_range(1..70), 1, 1),
    },
    Kind {
        name: "depthwise_multiplier",
        why: "several outputs share one input channel",
        make: |rng, c| (c.groups, c.c_in, c.c_out) = (rng.random_range(1..20), 1, rng.random_range(2..5)),
    },
    Kind {
        name: "batch",
        why: "image boundaries inside a tile of pixels",
        make: |rng, c| (c.n, c.image) = (rng.random_range(3..10), [rng.random_range(1..6), rng.random_range(1..6)]),
    },
    Kind { name: "empty_batch", why: "nothing to do, and nothing may be touched", make: |_, c| c.n = 0 },
    Kind { name: "special_values", why: "NaN, infinities, signed zeros and subnormals", make: |_, c| c.values = Values::Special },
    Kind {
        name: "channel_slices",
        why: "input and output are slices of wider tensors, at any alignment",
        make: |rng, c| {
            c.x_margin = [rng.random_range(0..9), rng.random_range(0..9)];
            c.y_margin = [rng.random_range(0..9), rng.random_range(0..9)];
        },
    },
];

impl Problem {
    /// Problem `index` of the sequence that `seed` gives. The kinds take turns.
    pub fn random(seed: u64, index: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index);
        let kind = &KINDS[(index % KINDS.len() as u64) as usize];
        let mut conv = Conv {
            n: rng.random_range(1..3),
            groups: pick(&mut rng, &[1, 1, 1, 2, 3]),
            c_in: rng.random_range(1..12),
            c_out: rng.random_range(1..12),
            image: [rng.random_range(1..14), rng.random_range(1..14)],
            kernel: [pick(&mut rng, &[1, 2, 3, 3, 3, 5]), pick(&mut rng, &[1, 2, 3, 3, 3, 5])],
            stride: [pick(&mut rng, &[1, 1, 2, 3]), pick(&mut rng, &[1, 1, 2, 3])],
            padding: std::array::from_fn(|_| rng.random_range(0..3)),
            same: rng.random_bool(0.2),
            dilation: [pick(&mut rng, &[1, 1, 1, 2, 3]), pick(&mut rng, &[1, 1, 1, 2, 3])],
            values: if rng.random() { Values::Exact } else { Values::FullMantissa },
            x_margin: [0, 0],
            y_margin: [0, 0],
        };
        (kind.make)(&mut rng, &mut conv);
        let linear = [Activation::None, Activation::Relu];
        let activation = if conv.values == Values::Exact && rng.random() {
            *linear.choose(&mut rng).expect("two of them")
        } else {
            *Activation::all(rng.random_range(1..64) as f32 / 64.0).choose(&mut rng).expect("ten of them")
        };
        conv.problem(kind.name, activation, &mut rng)
    }

    /// The shape of its output.
    ///
    /// # Errors
    /// When the parts of the problem do not fit one another.
    pub fn output_shape(&self) -> Result<Shape> {
        let LayerSpec::Conv2d(spec) = self.layer;
        Ok(ConvGeometry::conv2d(&spec, self.x, self.weight)?.output_shape())
    }

    /// Whether its activation takes a slope for each output channel.
    fn needs_slope(&self) -> bool {
        let LayerSpec::Conv2d(spec) = self.layer;
        spec.activation == Activation::Prelu
    }

    /// Its tensors by name, rounded to what kernels of a dtype read. Bias and slope are f32 in every dtype.
    ///
    /// # Errors
    /// When the parts of the problem do not fit one another.
    pub fn tensors(&self, dtype: DType) -> Result<BTreeMap<String, Array>> {
        let output = self.output_shape()?;
        let channels = vec![output[1]];
        let mut shapes = vec![("x", self.x.to_vec(), dtype), ("weight", self.weight.to_vec(), dtype)];
        if self.bias {
            shapes.push(("bias", channels.clone(), DType::F32));
        }
        if self.needs_slope() {
            shapes.push(("slope", channels, DType::F32));
        }
        if self.residual {
            shapes.push(("residual", output.to_vec(), dtype));
        }
        let array = |(name, shape, dtype): (&str, Vec<usize>, DType)| {
            let values = self.values(name, elements(&shape)?, dtype);
            Ok((name.to_string(), Array::from_slice(shape, &values)?))
        };
        shapes.into_iter().map(array).collect()
    }

    /// Simpler problems that may fail in the same way, the simplest first: smaller sizes, fewer attributes.
    pub fn simpler(&self) -> Vec<Problem> {
        let LayerSpec::Conv2d(spec) = self.layer;
        let mut out = Vec::new();
        let mut add = |change: &dyn Fn(&mut Problem, &mut Conv2dSpec)| {
            let (mut problem, mut attributes) = (self.clone(), spec);
            change(&mut problem, &mut attributes);
            problem.layer = LayerSpec::Conv2d(attributes);
            if problem != *self && problem.output_shape().is_ok() {
                out.push(problem);
            }
        };
        for to in [|v: usize| 1.min(v), |v| v / 2, |v: usize| v.saturating_sub(1)] {
            add(&|p, _| p.x[0] = to(p.x[0]));
            add(&|p, _| p.x[2] = to(p.x[2]));
            add(&|p, _| p.x[3] = to(p.x[3]));
            add(&|p, _| p.weight[2] = to(p.weight[2]));
            add(&|p, _| p.weight[3] = to(p.weight[3]));
            add(&|p, s| {
                // groups, with as many channels each as before
                let groups = to(s.groups).max(1);
                (p.x[1], p.weight[0], s.groups) = (p.x[1] / s.groups * groups, p.weight[0] / s.groups * groups, groups);
            });
            add(&|p, s| {
                let channels = to(p.weight[1]);
                (p.x[1], p.weight[1]) = (channels * s.groups, channels);
            });
            add(&|p, s| p.weight[0] = to(p.weight[0] / s.groups) * s.groups);
            for side in 0..4 {
                add(&|p, s| {
                    if let Ok(mut padding) = s.padding.resolve([p.weight[2], p.weight[3]], s.dilation, s.stride) {
                        padding[side] = to(padding[side]);
                        s.padding = Padding::Explicit(padding);
                    }
                });
            }
            for axis in 0..2 {
                add(&|_, s| s.stride[axis] = to(s.stride[axis]));
                add(&|_, s| s.dilation[axis] = to(s.dilation[axis]));
                add(&|p, _| p.x_margin[axis] = to(p.x_margin[axis]));
                add(&|p, _| p.y_margin[axis] = to(p.y_margin[axis]));
            }
        }
        add(&|p, _| p.bias = false);
        add(&|p, _| p.residual = false);
        add(&|_, s| s.activation = Activation::None);
        out
    }

    /// `count` values for the tensor of this name, as f32 that `dtype` holds exactly. The layer's own parameters stay finite:
    /// whether a kernel multiplies padding's zeros with the weight or leaves the product out is not specified, and shows only
    /// where a weight is infinite or NaN.
    fn values(&self, tensor: &str, count: usize, dtype: DType) -> Vec<f32> {
        let stream = tensor.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut rng = StdRng::seed_from_u64(self.seed ^ stream);
        let subnormal = dtype.smallest_subnormal() as f32;
        let special = [0.0, -0.0, subnormal, -subnormal, 3.0 * subnormal, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let special = if self.layer.signature().inputs.contains(&tensor) { &special[..] } else { &special[..5] };
        let value = |rng: &mut StdRng| match self.values {
            Values::Exact => rng.random_range(-64i32..=64) as f32 / 64.0,
            Values::Special if rng.random_bool(0.03) => *special.choose(rng).expect("not empty"),
            Values::FullMantissa | Values::Special => rng.random_range(-1.0f32..1.0),
        };
        (0..count).map(|_| dtype.round(f64::from(value(&mut rng))) as f32).collect()
    }
}

impl Conv {
    /// Makes the parts fit one another.
    fn problem(mut self, kind: &str, activation: Activation, rng: &mut StdRng) -> Problem {
        if self.same {
            self.stride = [1, 1];
        }
        // the kernel must fit the padded image
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
        Problem {
            kind: kind.into(),
            layer: LayerSpec::Conv2d(spec),
            x: [self.n, self.c_in * self.groups, self.image[0], self.image[1]],
            weight: [self.c_out * self.groups, self.c_in, self.kernel[0], self.kernel[1]],
            bias: rng.random(),
            residual: rng.random_bool(0.4),
            values: self.values,
            x_margin: self.x_margin,
            y_margin: self.y_margin,
            seed: rng.random::<u32>().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_valid_and_small_and_its_own_json() {
        for index in 0..2000 {
            let problem = Problem::random(3, index);
            let LayerSpec::Conv2d(spec) = problem.layer;
            let geometry = ConvGeometry::conv2d(&spec, problem.x, problem.weight).unwrap_or_else(|e| panic!("{problem:?}: {e}"));
            assert!(geometry.macs().unwrap() < 40_000_000, "{problem:?}");
            assert_eq!(problem, Problem::random(3, index));
            let json = serde_json::to_string(&problem).unwrap();
            assert_eq!(serde_json::from_str::<Problem>(&json).unwrap(), problem, "{json}");
        }
    }

    #[test]
    fn shrinking_ends() {
        let mut problem = Problem::random(1, 13);
        let mut steps = 0;
        while let Some(next) = problem.simpler().into_iter().next() {
            problem = next;
            steps += 1;
            assert!(steps < 1000, "{problem:?}");
        }
        assert_eq!(problem.weight, [1, 1, 1, 1]);
    }

    #[test]
    fn special_values_are_there_in_every_dtype() {
        let mut problem = Problem::random(1, 0);
        problem.values = Values::Special;
        for dtype in DType::ALL {
            let values = problem.values("x", 4000, dtype);
            assert!(values.iter().any(|v| v.is_nan()) && values.iter().any(|v| v.is_infinite()));
            assert!(values.iter().any(|&v| f64::from(v) == dtype.smallest_subnormal()));
            assert!(problem.values("weight", 4000, dtype).iter().all(|v| v.is_finite()));
            assert!(values.iter().all(|&v| v.is_nan() || dtype.round(v.into()) == f64::from(v)));
        }
    }
}
