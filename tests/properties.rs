//! Conv2d against the oracle and against itself, on the host device: random specs by proptest, and equalities that must hold
//! bit for bit on data whose sums are exact.

use half::{bf16, f16};
use proptest::prelude::*;
use std::sync::LazyLock;
use warpconv::cases::{Problem, kinds};
use warpconv::{Activation, Conv2d, Conv2dSpec, Device, Element, Inputs, Layer, MemoryFormat, Padding, Parameter, Shape, Tensor};

use crate::common::{check, grid};

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host().unwrap());

fn convolve<T: Element>(spec: Conv2dSpec, x: Shape, x_values: &[f32], weight: Shape, w_values: &[f32], format: MemoryFormat) -> Vec<f32> {
    let values: Vec<T> = x_values.iter().map(|&v| T::from_f32(v)).collect();
    let x = Tensor::from_slice(&DEVICE, x, &values).unwrap().to_format(format).unwrap();
    let layer = Conv2d::new(spec, Parameter::new(&weight, w_values).unwrap()).unwrap();
    layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap().into_iter().map(Element::to_f32).collect()
}

/// Runs `check` in every dtype and format.
fn everywhere(check: impl Fn(&dyn Fn(Conv2dSpec, Shape, &[f32], Shape, &[f32]) -> Vec<f32>)) {
    for format in MemoryFormat::ALL {
        check(&|spec, x, xv, w, wv| convolve::<f32>(spec, x, xv, w, wv, format));
        check(&|spec, x, xv, w, wv| convolve::<f16>(spec, x, xv, w, wv, format));
        check(&|spec, x, xv, w, wv| convolve::<bf16>(spec, x, xv, w, wv, format));
    }
}

fn activations() -> impl Strategy<Value = Activation> {
    prop::sample::select(Activation::all(0.25).to_vec())
}

prop_compose! {
    /// A valid convolution with at most a few hundred thousand products.
    fn convolutions()(
        n in 0usize..3, groups in 1usize..5, group_in in 1usize..9, group_out in 1usize..9,
        kernel in [1usize..6, 1usize..6], stride in [1usize..4, 1usize..4], dilation in [1usize..4, 1usize..4],
        padding in [0usize..5, 0usize..5, 0usize..5, 0usize..5], extra in [0usize..10, 0usize..10], activation in activations(),
        bias: bool, residual: bool, full_mantissa: bool, seed: u64,
    ) -> Problem {
        // an input that is as large as the kernel needs, or larger
        let size = |i: usize| {
            let span = dilation[i] * (kernel[i] - 1) + 1;
            span.saturating_sub(padding[i] + padding[i + 2]).max(1) + extra[i]
        };
        let spec = Conv2dSpec { stride, padding: Padding::Explicit(padding), dilation, groups, activation };
        let (x, weight) = ([n, groups * group_in, size(0), size(1)], [groups * group_out, group_in, kernel[0], kernel[1]]);
        let problem = Problem::conv2d(spec, x, weight).with("bias", bias.then_some(&weight[..1])).with_residual(residual);
        let values = if full_mantissa { warpconv::cases::Values::FullMantissa } else { warpconv::cases::Values::Exact };
        Problem { values, seed, ..problem }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_agrees_with_the_oracle(problem in convolutions()) {
        check(&problem, &DEVICE);
    }

    #[test]
    fn dilation_is_a_filter_with_zeros_inserted(
        kernel in [1usize..5, 1usize..5], dilation in [1usize..5, 1usize..5], stride in 1usize..3, channels in 1usize..5, seed: u64,
    ) {
        let span = [0, 1].map(|i| dilation[i] * (kernel[i] - 1) + 1);
        let x = [1, channels, span[0] + 3, span[1] + 4];
        let (xv, wv) = (grid(x.iter().product(), seed), grid(2 * channels * kernel[0] * kernel[1], seed ^ 1));
        let mut inflated = vec![0.0; 2 * channels * span[0] * span[1]];
        for (plane, taps) in wv.chunks(kernel[0] * kernel[1]).enumerate() {
            for (tap, &value) in taps.iter().enumerate() {
                let (i, j) = (tap / kernel[1] * dilation[0], tap % kernel[1] * dilation[1]);
                inflated[(plane * span[0] + i) * span[1] + j] = value;
            }
        }
        everywhere(|conv| {
            let spec = Conv2dSpec { stride: [stride; 2], padding: Padding::all(1), ..Default::default() };
            let dilated = conv(Conv2dSpec { dilation, ..spec }, x, &xv, [2, channels, kernel[0], kernel[1]], &wv);
            assert_eq!(dilated, conv(spec, x, &xv, [2, channels, span[0], span[1]], &inflated));
        });
    }

    #[test]
    fn a_grouped_convolution_is_its_groups_side_by_side(groups in 1usize..6, c_in in 1usize..4, c_out in 1usize..4, seed: u64) {
        let x = [2, groups * c_in, 5, 6];
        let (xv, wv) = (grid(x.iter().product(), seed), grid(groups * c_out * c_in * 9, seed ^ 1));
        let spec = Conv2dSpec { padding: Padding::Same, ..Default::default() };
        everywhere(|conv| {
            let whole = conv(Conv2dSpec { groups, ..spec }, x, &xv, [groups * c_out, c_in, 3, 3], &wv);
            for group in 0..groups {
                let image: Vec<f32> = xv.chunks(groups * c_in * 30).flat_map(|n| &n[group * c_in * 30..(group + 1) * c_in * 30]).copied().collect();
                let filters = &wv[group * c_out * c_in * 9..(group + 1) * c_out * c_in * 9];
                let part = conv(spec, [2, c_in, 5, 6], &image, [c_out, c_in, 3, 3], filters);
                let of_whole: Vec<f32> =
                    whole.chunks(groups * c_out * 30).flat_map(|n| &n[group * c_out * 30..(group + 1) * c_out * 30]).copied().collect();
                assert_eq!(part, of_whole, "group {group} of {groups}");
            }
        });
    }

    #[test]
    fn depthwise_is_dense_with_a_diagonal_weight(channels in 1usize..7, kernel in 1usize..5, stride in 1usize..3, seed: u64) {
        let x = [1, channels, kernel + 4, kernel + 3];
        let taps = kernel * kernel;
        let (xv, wv) = (grid(x.iter().product(), seed), grid(channels * taps, seed ^ 1));
        let mut diagonal = vec![0.0; channels * channels * taps];
        for c in 0..channels {
            diagonal[(c * channels + c) * taps..][..taps].copy_from_slice(&wv[c * taps..][..taps]);
        }
        let spec = Conv2dSpec { stride: [stride; 2], padding: Padding::all(1), ..Default::default() };
        everywhere(|conv| {
            let depthwise = conv(Conv2dSpec { groups: channels, ..spec }, x, &xv, [channels, 1, kernel, kernel], &wv);
            assert_eq!(depthwise, conv(spec, x, &xv, [channels, channels, kernel, kernel], &diagonal));
        });
    }

    #[test]
    fn a_stride_selects_of_the_dense_result(stride in [1usize..5, 1usize..5], kernel in 1usize..4, seed: u64) {
        let x = [1, 3, 11, 13];
        let (xv, wv) = (grid(3 * 11 * 13, seed), grid(2 * 3 * kernel * kernel, seed ^ 1));
        let weight = [2, 3, kernel, kernel];
        everywhere(|conv| {
            let dense = conv(Conv2dSpec::default(), x, &xv, weight, &wv);
            let strided = conv(Conv2dSpec { stride, ..Default::default() }, x, &xv, weight, &wv);
            let size = [11 - kernel + 1, 13 - kernel + 1];
            let mut selected = Vec::new();
            for plane in dense.chunks(size[0] * size[1]) {
                for i in (0..size[0]).step_by(stride[0]) {
                    selected.extend((0..size[1]).step_by(stride[1]).map(|j| plane[i * size[1] + j]));
                }
            }
            assert_eq!(strided, selected);
        });
    }

    #[test]
    fn padding_is_a_border_of_zeros(padding in [0usize..4, 0usize..4, 0usize..4, 0usize..4], seed: u64) {
        let (h, w) = (5, 4);
        let [top, left, bottom, right] = padding;
        let (ph, pw) = (h + top + bottom, w + left + right);
        let (xv, wv) = (grid(2 * h * w, seed), grid(3 * 2 * 6, seed ^ 1));
        let mut border = vec![0.0; 2 * ph * pw];
        for c in 0..2 {
            for i in 0..h {
                border[(c * ph + top + i) * pw + left..][..w].copy_from_slice(&xv[(c * h + i) * w..][..w]);
            }
        }
        everywhere(|conv| {
            let spec = Conv2dSpec { padding: Padding::Explicit(padding), ..Default::default() };
            let padded = conv(spec, [1, 2, h, w], &xv, [3, 2, 3, 2], &wv);
            assert_eq!(padded, conv(Conv2dSpec::default(), [1, 2, ph, pw], &border, [3, 2, 3, 2], &wv));
        });
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch(n in 1usize..5, seed: u64) {
        let (image, filters) = (3 * 6 * 5, grid(4 * 3 * 9, seed ^ 1));
        let xv = grid(n * image, seed);
        let spec = Conv2dSpec { padding: Padding::Same, activation: Activation::Gelu, ..Default::default() };
        everywhere(|conv| {
            let batch = conv(spec, [n, 3, 6, 5], &xv, [4, 3, 3, 3], &filters);
            for (i, one) in xv.chunks(image).enumerate() {
                let alone = conv(spec, [1, 3, 6, 5], one, [4, 3, 3, 3], &filters);
                assert_eq!(alone, batch[i * alone.len()..(i + 1) * alone.len()], "image {i} of {n}");
            }
        });
    }
}

/// Each kind of awkwardness of the table; `warpconv verify` takes more of each.
#[test]
fn awkward_problems() {
    for index in 0..kinds().count() as u64 {
        check(&Problem::random(0, index), &DEVICE);
    }
}

#[test]
fn a_batch_norm_that_does_not_fit_is_refused() {
    let layer = || Conv2d::new(Conv2dSpec::default(), Parameter::new(&[2, 1, 1, 1], &[1f32, 2.]).unwrap()).unwrap();
    let norm = warpconv::BatchNorm { gamma: vec![1.0; 2], beta: vec![0.0; 2], mean: vec![0.0; 2], variance: vec![1.0; 2], epsilon: 1e-5 };
    layer().fold_batch_norm(&norm).unwrap();
    let refused = layer().fold_batch_norm(&warpconv::BatchNorm { mean: vec![0.0; 3], ..norm.clone() }).unwrap_err();
    assert!(matches!(refused, warpconv::Error::Shape { name: "mean", .. }), "{refused}");
    let refused = layer().fold_batch_norm(&warpconv::BatchNorm { variance: vec![1.0, -1.0], ..norm }).unwrap_err();
    assert!(matches!(refused, warpconv::Error::Attribute { name: "variance + epsilon", .. }), "{refused}");
}
