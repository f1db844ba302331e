//! The functions and modules for candle give what candle itself computes on the CPU, or what the oracle does.
//!
//! candle computes in f64, once with the values and once with their absolute values: from the two the numerics contract derives the
//! error that a result may have in each dtype.

#[allow(dead_code)] // other test programs use the rest of it
#[path = "heap.rs"]
mod heap;

use candle_core::{DType, Device, IndexOp, Module, Result, Tensor, Var};
use candle_nn::{BatchNorm, Conv1dConfig, Conv2dConfig, ConvTranspose1dConfig, ConvTranspose2dConfig, VarBuilder, VarMap};
use std::collections::BTreeMap;
use warpconv::candle::{self, Conv2d, DeformConv2d, DepthwiseSeparable};
use warpconv::numerics::Contract;
use warpconv::reference::{self, Array};
use warpconv::{Activation, DeformConv2dSpec, LayerSpec};

const CPU: Device = Device::Cpu;
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Normally distributed values, rounded to a dtype. The same seed gives the same values.
fn randn(shape: &[usize], seed: u64, dtype: DType) -> Tensor {
    let count = shape.iter().product::<usize>().max(1);
    let device = warpconv::Device::host().unwrap();
    let values = warpconv::Tensor::<f32>::randn(&device, [1, 1, 1, count], warpconv::MemoryFormat::Contiguous, seed).unwrap();
    Tensor::from_vec(values.to_vec().unwrap(), count, &CPU).unwrap().reshape(shape).unwrap().to_dtype(dtype).unwrap()
}

fn values<V: candle_core::WithDType>(tensor: &Tensor) -> Vec<V> {
    tensor.to_dtype(V::DTYPE).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that shape, dtype and every bit of the values are equal, including the signs of zeros.
#[track_caller]
fn same(a: &Tensor, b: &Tensor) {
    let bits = |t: &Tensor| values::<f32>(t).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()));
    assert!(bits(a) == bits(b), "{a}\n{b}");
}

/// Compares `y` with what `of` computes in f64 from the same tensors. The numerics contract for sums of `products` products gives
/// the bound.
#[track_caller]
fn check(y: &Tensor, products: usize, tensors: &[&Tensor], of: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let wide: Vec<Tensor> = tensors.iter().map(|t| t.to_dtype(DType::F64).unwrap()).collect();
    let expected = of(&wide).unwrap();
    let scale = of(&wide.iter().map(|t| t.abs().unwrap()).collect::<Vec<_>>()).unwrap();
    assert_eq!(y.dims(), expected.dims());
    let dtype = match y.dtype() {
        DType::F32 => warpconv::DType::F32,
        DType::F16 => warpconv::DType::F16,
        DType::BF16 => warpconv::DType::Bf16,
        other => panic!("{other:?}"),
    };
    let report = Contract::new(dtype, products).check(&values(y), &values(&expected), &values(&scale)).unwrap();
    assert!(report.passed() && report.elements > 0, "{report:?}");
}

fn biased(y: Tensor, bias: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; y.rank()];
    shape[1] = bias.elem_count();
    y.broadcast_add(&bias.reshape(shape)?)
}

#[test]
fn convolutions_are_those_of_candle() {
    // C_in, C_out, kernel, padding, stride, dilation, groups
    let cases = [
        (16, 24, 3, 1, 1, 1, 1),
        (8, 8, 1, 0, 1, 1, 1),
        (3, 16, 7, 3, 2, 1, 1),
        (8, 12, 3, 2, 1, 2, 1),
        (16, 32, 3, 1, 1, 1, 4),
        (24, 24, 3, 1, 2, 1, 24),
        (6, 12, 5, 2, 1, 1, 6),
    ];
    for dtype in DTYPES {
        for (c_in, c_out, k, padding, stride, dilation, groups) in cases {
            let x = randn(&[2, c_in, 13, 10], 1, dtype);
            let w = randn(&[c_out, c_in / groups, k, k], 2, dtype);
            let b = randn(&[c_out], 3, dtype);
            let own = |t: &[Tensor]| t[0].conv2d(&t[1], padding, stride, dilation, groups);
            let products = c_in / groups * k * k;
            let y = candle::conv2d(&x, &w, None, padding, stride, dilation, groups).unwrap();
            check(&y, products, &[&x, &w], own);
            let y = candle::conv2d(&x, &w, Some(&b), padding, stride, dilation, groups).unwrap();
            check(&y, products, &[&x, &w, &b], |t| biased(own(t)?, &t[2]));
            // the module, built from candle's own
            let config = Conv2dConfig { padding, stride, dilation, groups, ..Default::default() };
            let module = Conv2d::from_candle(&candle_nn::Conv2d::new(w, Some(b), config)).unwrap();
            same(&module.forward(&x).unwrap(), &y);
        }
    }
}

#[test]
fn convolutions_in_one_dimension_are_those_of_candle() {
    // C_in, C_out, kernel, padding, stride, dilation, groups: the first layer of wav2vec, two of Whisper, a dilated layer, the depthwise
    // layer of Conformer
    let cases =
        [(1, 16, 10, 0, 5, 1, 1), (20, 16, 3, 1, 1, 1, 1), (16, 16, 3, 1, 2, 1, 1), (8, 4, 3, 4, 1, 4, 1), (16, 16, 31, 15, 1, 1, 16)];
    for dtype in DTYPES {
        for (c_in, c_out, k, padding, stride, dilation, groups) in cases {
            let x = randn(&[2, c_in, 61], 4, dtype);
            let w = randn(&[c_out, c_in / groups, k], 5, dtype);
            let b = randn(&[c_out], 6, dtype);
            let y = candle::conv1d(&x, &w, Some(&b), padding, stride, dilation, groups).unwrap();
            let own = |t: &[Tensor]| biased(t[0].conv1d(&t[1], padding, stride, dilation, groups)?, &t[2]);
            check(&y, c_in / groups * k, &[&x, &w, &b], own);
            let config = Conv1dConfig { padding, stride, dilation, groups, ..Default::default() };
            let module = candle::Conv1d::from_candle(&candle_nn::Conv1d::new(w, Some(b), config)).unwrap();
            same(&module.forward(&x).unwrap(), &y);
        }
    }
}

/// Mamba's layer: a depthwise convolution with 4 taps, followed by an activation.
#[test]
fn causal_convolutions_see_nothing_that_comes_later() {
    for dtype in DTYPES {
        let (channels, length, k) = (24, 50, 4);
        let (x, w, b) = (randn(&[2, channels, length], 7, dtype), randn(&[channels, 1, k], 8, dtype), randn(&[channels], 9, dtype));
        for dilation in [1, 3] {
            let own = |t: &[Tensor]| {
                let y = t[0].conv1d(&t[1], (k - 1) * dilation, 1, dilation, channels)?;
                biased(y.narrow(2, 0, length)?, &t[2])
            };
            let y = candle::causal_conv1d(&x, &w, Some(&b), dilation, channels).unwrap();
            check(&y, k, &[&x, &w, &b], own);
            let module = candle::Conv1d::causal(&w, Some(&b), dilation, channels).unwrap();
            same(&module.forward(&x).unwrap(), &y);
        }
        // The first half of the output depends on the first half of the input only.
        let y = candle::causal_conv1d(&x, &w, None, 1, channels).unwrap();
        let half = candle::causal_conv1d(&x.narrow(2, 0, 25).unwrap(), &w, None, 1, channels).unwrap();
        same(&y.narrow(2, 0, 25).unwrap(), &half);
    }
    let (x, w) = (randn(&[1, 8, 30], 10, DType::F32), randn(&[8, 1, 4], 11, DType::F32));
    let conv = candle::Conv1d::causal(&w, None, 1, 8).unwrap();
    let silu = conv.with_activation(Activation::Silu).unwrap().forward(&x).unwrap();
    let apart = candle_nn::ops::silu(&conv.forward(&x).unwrap()).unwrap();
    assert!(values::<f32>(&(silu - apart).unwrap()).iter().all(|d| d.abs() < 1e-6));
}

#[test]
fn transposed_convolutions_are_those_of_candle() {
    // C_in, C_out, kernel, padding, output_padding, stride, dilation
    for (c_in, c_out, k, padding, output_padding, stride, dilation) in
        [(8, 12, 2, 0, 0, 2, 1), (8, 6, 4, 1, 0, 2, 1), (6, 8, 3, 1, 1, 2, 1), (4, 4, 3, 1, 0, 1, 2)]
    {
        for dtype in DTYPES {
            let x = randn(&[2, c_in, 7, 9], 12, dtype);
            let w = randn(&[c_in, c_out, k, k], 13, dtype);
            let b = randn(&[c_out], 14, dtype);
            let y = candle::conv_transpose2d(&x, &w, Some(&b), padding, output_padding, stride, dilation, 1).unwrap();
            let own = |t: &[Tensor]| biased(t[0].conv_transpose2d(&t[1], padding, output_padding, stride, dilation)?, &t[2]);
            check(&y, c_in * k * k, &[&x, &w, &b], own);
            let config = ConvTranspose2dConfig { padding, output_padding, stride, dilation };
            let module = candle::ConvTranspose2d::from_candle(&candle_nn::ConvTranspose2d::new(w, Some(b), config)).unwrap();
            same(&module.forward(&x).unwrap(), &y);
        }
    }
    // candle has no groups here: each group is computed on its own.
    let (x, w) = (randn(&[1, 8, 5, 5], 15, DType::F32), randn(&[8, 3, 4, 4], 16, DType::F32));
    let y = candle::conv_transpose2d(&x, &w, None, 1, 0, 2, 1, 2).unwrap();
    check(&y, 4 * 16, &[&x, &w], |t| {
        let half = |i: usize| t[0].narrow(1, 4 * i, 4)?.conv_transpose2d(&t[1].narrow(0, 4 * i, 4)?, 1, 0, 2, 1);
        Tensor::cat(&[half(0)?, half(1)?], 1)
    });
}

#[test]
fn transposed_convolutions_in_one_dimension_are_those_of_candle() {
    // C_in, C_out, kernel, padding, output_padding, stride, dilation, groups: two upsampling layers of HiFi-GAN, one of EnCodec, and
    // one with everything
    let cases = [(16, 8, 16, 4, 0, 8, 1, 1), (12, 6, 4, 1, 0, 2, 1, 1), (8, 8, 10, 2, 0, 5, 1, 8), (8, 12, 3, 1, 1, 2, 2, 4)];
    for dtype in DTYPES {
        for (c_in, c_out, k, padding, output_padding, stride, dilation, groups) in cases {
            let x = randn(&[2, c_in, 21], 100, dtype);
            let w = randn(&[c_in, c_out / groups, k], 101, dtype);
            let b = randn(&[c_out], 102, dtype);
            let y = candle::conv_transpose1d(&x, &w, Some(&b), padding, output_padding, stride, dilation, groups).unwrap();
            let own = |t: &[Tensor]| biased(t[0].conv_transpose1d(&t[1], padding, output_padding, stride, dilation, groups)?, &t[2]);
            check(&y, c_in / groups * k, &[&x, &w, &b], own);
            let config = ConvTranspose1dConfig { padding, output_padding, stride, dilation, groups };
            let layer = candle_nn::ConvTranspose1d::new(w.clone(), Some(b.clone()), config);
            same(&candle::ConvTranspose1d::from_candle(&layer).unwrap().forward(&x).unwrap(), &y);
            // the builder, by the names in a file
            let tensors = [("up.weight".to_string(), w), ("up.bias".to_string(), b)];
            let vb = VarBuilder::from_tensors(tensors.into(), dtype, &CPU).pp("up");
            same(&candle::nn::conv_transpose1d(c_in, c_out, k, config, vb).unwrap().forward(&x).unwrap(), &y);
        }
    }
    let (x, w) = (randn(&[1, 4, 1, 9], 103, DType::F32), randn(&[4, 2, 3], 104, DType::F32));
    assert!(candle::conv_transpose1d(&x, &w, None, 0, 0, 1, 1, 1).is_err(), "a picture is no sequence");
}

/// Axes with a stride of 0, as `expand` and `broadcast_as` make them, in x and in every other input.
#[test]
fn expanded_tensors_give_what_their_copies_do() {
    for dtype in DTYPES {
        let shape = [2, 8, 9, 10];
        let w = randn(&[8, 8, 3, 3], 110, dtype);
        let conv = Conv2d::new(&w, None, Conv2dConfig { padding: 1, ..Default::default() }).unwrap();
        let whole = randn(&shape, 111, dtype);
        let mut expanded =
            vec![randn(&[8, 1, 1], 112, dtype).broadcast_as(&shape).unwrap(), randn(&[1], 113, dtype).broadcast_as(&shape).unwrap()];
        for axis in 0..4 {
            expanded.push(whole.narrow(axis, 1, 1).unwrap().expand(&shape).unwrap());
            // the same of a channels_last tensor
            let nhwc = randn(&[2, 9, 10, 8], 114, dtype).permute((0, 3, 1, 2)).unwrap();
            expanded.push(nhwc.narrow(axis, 1, 1).unwrap().expand(&shape).unwrap());
        }
        // channels_last without gaps, which begins in the middle of a vector
        let late = randn(&[1 + 2 * 9 * 10 * 8], 115, dtype).narrow(0, 1, 2 * 9 * 10 * 8).unwrap();
        expanded.push(late.reshape(&[2, 9, 10, 8]).unwrap().permute((0, 3, 1, 2)).unwrap());
        for x in &expanded {
            let copy = x.force_contiguous().unwrap();
            check(&conv.forward(x).unwrap(), 72, &[&copy, &w], |t| t[0].conv2d(&t[1], 1, 1, 1, 1));
            let y = conv.forward_residual(&whole, x).unwrap();
            check(&y, 72, &[&whole, &w, &copy], |t| t[0].conv2d(&t[1], 1, 1, 1, 1)? + &t[2]);
        }
        let offset = randn(&[1, 18, 1, 1], 116, dtype).expand(&[2, 18, 9, 10]).unwrap();
        let mask = randn(&[2, 1, 9, 10], 117, dtype).expand(&[2, 9, 9, 10]).unwrap();
        let deform = |offset: &Tensor, mask: &Tensor| candle::deform_conv2d(&whole, offset, &w, None, 1, 1, 1, Some(mask)).unwrap();
        same(&deform(&offset, &mask), &deform(&offset.force_contiguous().unwrap(), &mask.force_contiguous().unwrap()));
        // a weight that is expanded, and a sequence
        let wide = randn(&[1, 8, 3, 3], 118, dtype).expand(&[8, 8, 3, 3]).unwrap();
        let y = candle::conv2d(&whole, &wide, None, 1, 1, 1, 1).unwrap();
        check(&y, 72, &[&whole, &wide.force_contiguous().unwrap()], |t| t[0].conv2d(&t[1], 1, 1, 1, 1));
        let (x, w) = (randn(&[2, 1, 20], 119, dtype).expand(&[2, 6, 20]).unwrap(), randn(&[6, 1, 4], 120, dtype));
        let y = candle::causal_conv1d(&x, &w, None, 1, 6).unwrap();
        check(&y, 4, &[&x.force_contiguous().unwrap(), &w], |t| t[0].conv1d(&t[1], 3, 1, 1, 6)?.narrow(2, 0, 20));
    }
}

#[test]
fn shuffles_and_resizing_are_those_of_candle() {
    for dtype in DTYPES {
        let x = randn(&[2, 36, 6, 12], 17, dtype);
        for r in [2, 3] {
            let y = candle::pixel_shuffle(&x, r).unwrap();
            same(&y, &candle_nn::ops::pixel_shuffle(&x, r).unwrap());
            same(&candle::PixelShuffle::new(r).unwrap().forward(&x).unwrap(), &y);
            let y = candle::pixel_unshuffle(&x, r).unwrap();
            same(&y, &candle_nn::ops::pixel_unshuffle(&x, r).unwrap());
            same(&candle::PixelUnshuffle::new(r).unwrap().forward(&x).unwrap(), &y);
        }
        for align_corners in [false, true] {
            // positions are f32 here and f64 there: at these ratios both are exact
            let y = candle::upsample_bilinear(&x, 12, 24, align_corners).unwrap();
            if !align_corners {
                check(&y, 4, &[&x], |t| t[0].upsample_bilinear2d(12, 24, align_corners));
                check(&candle::upsample_bilinear_with_scale(&x, 2.0, 2.0, false).unwrap(), 4, &[&x], |t| {
                    t[0].upsample_bilinear2d_with_scale(2.0, 2.0, false)
                });
                same(&candle::Upsample::new(2.0, false).unwrap().forward(&x).unwrap(), &y);
            }
            let spec = warpconv::UpsampleBilinearSpec { size: warpconv::UpsampleSize::Output([12, 24]), align_corners };
            against_the_oracle(&y, &LayerSpec::UpsampleBilinear(spec), &[("x", &x)]);
        }
    }
}

/// Compares `y` with what the crate's oracle computes.
#[track_caller]
fn against_the_oracle(y: &Tensor, spec: &LayerSpec, tensors: &[(&str, &Tensor)]) {
    let arrays: BTreeMap<String, Array> =
        tensors.iter().map(|(name, t)| (name.to_string(), Array::new(t.dims(), values(t)).unwrap())).collect();
    let (expected, scale) = reference::layer(spec, &arrays).unwrap();
    assert_eq!(y.dims(), expected.shape());
    let dtype = match y.dtype() {
        DType::F32 => warpconv::DType::F32,
        DType::F16 => warpconv::DType::F16,
        _ => warpconv::DType::Bf16,
    };
    let parameters = arrays.iter().filter(|(name, _)| spec.signature().parameters.contains(&name.as_str()));
    let parameter = |array: &Array| {
        let values: Vec<f32> = array.data().iter().map(|&v| v as f32).collect();
        warpconv::Parameter::new(array.shape(), &values).unwrap()
    };
    let layer = warpconv::AnyLayer::new(*spec, parameters.map(|(name, array)| (name.clone(), parameter(array))).collect()).unwrap();
    let x = arrays["x"].shape();
    let request = warpconv::PlanRequest::new([x[0], x[1], x[2], x[3]]);
    let request = match arrays.get("rois") {
        Some(rois) => request.rois(rois.shape()[0]),
        None => request,
    };
    let contract = layer.contract(dtype, &request).unwrap().exact(false).tolerate(0.0, 1e-4);
    let report = contract.check(&values(y), expected.data(), scale.data()).unwrap();
    assert!(report.passed() && report.elements > 0, "{report:?}");
}

#[test]
fn deformable_convolutions_are_the_oracles() {
    for dtype in DTYPES {
        let (c_in, c_out, groups, offset_groups) = (8, 12, 2, 2);
        let x = randn(&[2, c_in, 9, 11], 18, dtype);
        let w = randn(&[c_out, c_in / groups, 3, 3], 19, dtype);
        let b = randn(&[c_out], 20, dtype);
        // With offsets that are multiples of 1/16, the positions and weights of the interpolation are exact.
        let grid = |t: Tensor| ((t * 16.0).unwrap().round().unwrap() / 16.0).unwrap();
        let offset = grid(randn(&[2, 2 * offset_groups * 9, 5, 6], 21, DType::F32)).to_dtype(dtype).unwrap();
        let mask = candle_nn::ops::sigmoid(&randn(&[2, offset_groups * 9, 5, 6], 22, DType::F32)).unwrap().to_dtype(dtype).unwrap();
        let spec = DeformConv2dSpec { stride: [2, 2], padding: warpconv::Padding::all(1), groups, offset_groups, ..Default::default() };
        let tensors = [("x", &x), ("weight", &w), ("bias", &b), ("offset", &offset), ("mask", &mask)];
        let y = candle::deform_conv2d(&x, &offset, &w, Some(&b), 2, 1, 1, Some(&mask)).unwrap();
        against_the_oracle(&y, &LayerSpec::DeformConv2d(spec), &tensors);
        let without_mask = candle::deform_conv2d(&x, &offset, &w, Some(&b), (2, 2), (1, 1), (1, 1), None).unwrap();
        against_the_oracle(&without_mask, &LayerSpec::DeformConv2d(spec), &tensors[..4]);
        // offsets in f32 beside x in another dtype, and the module
        let module = DeformConv2d::new(&w, Some(&b), spec).unwrap();
        let wide = offset.to_dtype(DType::F32).unwrap();
        same(&module.forward_at(&x, &wide, Some(&mask)).unwrap(), &y);
        // without offsets it is an ordinary convolution
        let zero = offset.zeros_like().unwrap();
        let y = candle::deform_conv2d(&x, &zero, &w, None, 2, 1, 1, None).unwrap();
        check(&y, c_in / groups * 9, &[&x, &w], |t| t[0].conv2d(&t[1], 1, 2, 1, groups));
    }
}

#[test]
fn pools_of_regions_are_the_oracles() {
    use warpconv::{DeformRoiPoolSpec, PsRoiPoolSpec, RoiAlignSpec, RoiPoolSpec};
    // in quarters of pixels
    let rois = Tensor::new(&[[0f32, 0., 0., 12., 8.], [1., 4., 4., 16., 20.], [0., 8., 2., 30., 26.]], &CPU).unwrap();
    for dtype in DTYPES {
        let x = randn(&[2, 8, 8, 8], 23, dtype);
        let spec = RoiAlignSpec { spatial_scale: 0.25, sampling_ratio: 2, aligned: true, ..RoiAlignSpec::new([2, 2]) };
        let y = candle::roi_align(&x, &rois, 2, 0.25, 2, true).unwrap();
        against_the_oracle(&y, &LayerSpec::RoiAlign(spec), &[("x", &x), ("rois", &rois)]);
        let module = candle::RoiAlign::of(warpconv::RoiAlign::new(spec).unwrap());
        same(&module.forward_rois(&x, &rois.to_dtype(DType::F64).unwrap()).unwrap(), &y);
        let spec = RoiPoolSpec { spatial_scale: 0.25, ..RoiPoolSpec::new([2, 2]) };
        let y = candle::roi_pool(&x, &rois, (2, 2), 0.25).unwrap();
        against_the_oracle(&y, &LayerSpec::RoiPool(spec), &[("x", &x), ("rois", &rois)]);
        let spec = PsRoiPoolSpec { spatial_scale: 0.25, ..PsRoiPoolSpec::new([2, 2]) };
        let y = candle::ps_roi_pool(&x, &rois, 2, 0.25).unwrap();
        against_the_oracle(&y, &LayerSpec::PsRoiPool(spec), &[("x", &x), ("rois", &rois)]);
        let spec = DeformRoiPoolSpec { spatial_scale: 0.25, sampling_ratio: 2, ..DeformRoiPoolSpec::new([2, 2]) };
        let offset = randn(&[3, 2, 2, 2], 24, dtype);
        let y = candle::deform_roi_pool(&x, &rois, Some(&offset), 2, 0.25, 2, 0.1).unwrap();
        against_the_oracle(&y, &LayerSpec::DeformRoiPool(spec), &[("x", &x), ("rois", &rois), ("offset", &offset)]);
        let y = candle::deform_roi_pool(&x, &rois, None, 2, 0.25, 2, 0.1).unwrap();
        against_the_oracle(&y, &LayerSpec::DeformRoiPool(spec), &[("x", &x), ("rois", &rois)]);
    }
}

/// A copy in the memory format of the original.
fn packed(x: &Tensor) -> Tensor {
    let order: Vec<usize> = if x.stride()[1] == 1 { vec![0, 2, 3, 1] } else { vec![0, 1, 2, 3] };
    let back: Vec<usize> = if x.stride()[1] == 1 { vec![0, 3, 1, 2] } else { vec![0, 1, 2, 3] };
    x.permute(order).unwrap().force_contiguous().unwrap().permute(back).unwrap()
}

/// A view of any kind gives, bit for bit, what its copy gives, in the memory format of the view.
#[test]
fn views_give_what_their_copies_do() {
    let mut as_they_lie = 0;
    for dtype in DTYPES {
        let (w, wide) = (randn(&[16, 8, 3, 3], 25, dtype), randn(&[3, 24, 16, 14], 26, dtype));
        let nhwc = randn(&[3, 16, 14, 24], 27, dtype).permute((0, 3, 1, 2)).unwrap();
        let conv = Conv2d::new(&w, None, Conv2dConfig { padding: 1, ..Default::default() }).unwrap();
        let depthwise = Conv2d::new(&randn(&[8, 1, 3, 3], 28, dtype), None, Conv2dConfig { groups: 8, ..Default::default() }).unwrap();
        let pointwise = Conv2d::new(&randn(&[16, 8, 1, 1], 46, dtype), None, Default::default()).unwrap();
        let channels = |x: &Tensor, start| x.narrow(1, start, 8).unwrap();
        let views = [
            channels(&wide, 0),
            channels(&wide, 16),
            channels(&wide, 16).narrow(0, 1, 2).unwrap(),
            channels(&nhwc, 8),
            channels(&nhwc, 3),
            channels(&nhwc, 16).narrow(0, 2, 1).unwrap(),
            channels(&wide, 8).narrow(2, 2, 9).unwrap(),
            channels(&wide, 8).narrow(3, 1, 8).unwrap(),
            channels(&wide, 8).narrow(3, 0, 8).unwrap(),
            channels(&wide, 8).narrow(2, 4, 8).unwrap().narrow(3, 4, 6).unwrap(),
            channels(&nhwc, 16).narrow(2, 3, 8).unwrap().narrow(3, 4, 7).unwrap(),
            channels(&nhwc, 8).narrow(2, 1, 9).unwrap().narrow(3, 5, 4).unwrap(),
            channels(&wide, 0).transpose(2, 3).unwrap(),
            wide.i(0..1).unwrap().narrow(1, 0, 8).unwrap().expand((3, 8, 16, 14)).unwrap(),
            // a tensor without gaps that starts in the middle of a vector
            wide.flatten_all().unwrap().narrow(0, 1, 8 * 100).unwrap().reshape((1, 8, 10, 10)).unwrap(),
        ];
        for (index, x) in views.iter().enumerate() {
            for module in [&conv, &depthwise, &pointwise] {
                let allocated = warpconv::Device::host().unwrap().launches();
                let y = module.forward(x).unwrap();
                assert!(warpconv::Device::host().unwrap().launches() > allocated);
                let copy = packed(x);
                assert_eq!(x.stride()[1] == 1, y.stride()[1] == 1, "view {index}");
                same(&y, &module.forward(&copy).unwrap());
                as_they_lie += usize::from(!x.is_contiguous());
            }
        }
        // residual, offsets and mask as views
        let residual = randn(&[3, 20, 16, 14], 29, dtype).narrow(1, 4, 16).unwrap();
        let x = channels(&wide, 8);
        let y = conv.forward_residual(&x, &residual).unwrap();
        same(&y, &conv.forward_residual(&packed(&x), &packed(&residual)).unwrap());
        check(&y, 72, &[&x, &w, &residual], |t| t[0].conv2d(&t[1], 1, 1, 1, 1)? + &t[2]);
        let both = randn(&[3, 27, 16, 14], 30, dtype);
        let (offset, mask) = (both.narrow(1, 0, 18).unwrap(), both.narrow(1, 18, 9).unwrap());
        let y = candle::deform_conv2d(&x, &offset, &w, None, 1, 1, 1, Some(&mask)).unwrap();
        let copies = [packed(&x), packed(&offset), packed(&mask)];
        same(&y, &candle::deform_conv2d(&copies[0], &copies[1], &w, None, 1, 1, 1, Some(&copies[2])).unwrap());
    }
    assert!(as_they_lie > 40);
    // a sequence model's [N, L, C], transposed
    let (x, w) = (randn(&[2, 40, 16], 31, DType::F32).transpose(1, 2).unwrap(), randn(&[16, 1, 4], 32, DType::F32));
    let y = candle::causal_conv1d(&x, &w, None, 1, 16).unwrap();
    assert_eq!(y.stride(), [640, 1, 16]);
    check(&y, 4, &[&x, &w], |t| t[0].conv1d(&t[1], 3, 1, 1, 16)?.narrow(2, 0, 40));
}

/// A network whose layers come from the module `$nn`.
macro_rules! network {
    ($name:ident, $($nn:ident)::+) => {
        /// A bottleneck as in ResNeXt, with a depthwise convolution and an upsampling head, written as a model in candle is.
        mod $name {
            use candle_core::{Module, Result, Tensor};
            use candle_nn::{BatchNorm, Conv2dConfig, ConvTranspose2dConfig, ModuleT, VarBuilder, batch_norm};
            use $($nn)::+::{Conv2d, ConvTranspose2d, conv_transpose2d, conv2d, conv2d_no_bias};

            pub struct Network {
                convs: Vec<(Conv2d, BatchNorm)>,
                down: Conv2d,
                up: ConvTranspose2d,
            }

            impl Network {
                pub fn load(vb: VarBuilder<'_>) -> Result<Self> {
                    let conv = |i: usize, c_in, c_out, k: usize, stride, groups| -> Result<_> {
                        let config = Conv2dConfig { padding: k / 2, stride, groups, ..Default::default() };
                        let conv = conv2d_no_bias(c_in, c_out, k, config, vb.pp(format!("conv{i}")))?;
                        Ok((conv, batch_norm(c_out, 1e-5, vb.pp(format!("bn{i}")))?))
                    };
                    let convs =
                        vec![conv(1, 16, 32, 1, 1, 1)?, conv(2, 32, 32, 3, 2, 8)?, conv(3, 32, 32, 3, 1, 32)?, conv(4, 32, 24, 1, 1, 1)?];
                    let config = Conv2dConfig { stride: 2, ..Default::default() };
                    let down = conv2d(16, 24, 1, config, vb.pp("down"))?;
                    let config = ConvTranspose2dConfig { stride: 2, padding: 1, ..Default::default() };
                    Ok(Self { convs, down, up: conv_transpose2d(24, 3, 4, config, vb.pp("up"))? })
                }
            }

            impl Module for Network {
                fn forward(&self, x: &Tensor) -> Result<Tensor> {
                    let mut y = x.clone();
                    for (conv, norm) in &self.convs {
                        y = norm.forward_t(&conv.forward(&y)?, false)?.relu()?;
                    }
                    self.up.forward(&(y + self.down.forward(x)?)?)
                }
            }
        }
    };
}

network!(with_candle, candle_nn);
network!(with_warpconv, warpconv::candle::nn);

/// The two networks differ in the import of their layers only.
#[test]
fn a_network_runs_unchanged_but_for_the_layers_type() {
    let weights = VarMap::new();
    let vb = VarBuilder::from_varmap(&weights, DType::F32, &CPU);
    with_candle::Network::load(vb.clone()).unwrap(); // fills the map with random weights
    let statistics: Vec<(String, Tensor)> = {
        let all = weights.data().lock().unwrap();
        let wanted = |name: &&String| name.starts_with("bn");
        all.keys().filter(wanted).map(|name| (name.clone(), all[name].as_tensor().clone())).collect()
    };
    for (index, (name, tensor)) in statistics.into_iter().enumerate() {
        let random = (randn(tensor.dims(), 40 + index as u64, DType::F32).abs().unwrap() + 0.25).unwrap();
        weights.data().lock().unwrap()[&name].set(&random).unwrap();
    }
    let own = with_candle::Network::load(vb.clone()).unwrap();
    let network = with_warpconv::Network::load(vb).unwrap();
    let x = randn(&[2, 16, 14, 14], 33, DType::F32);
    let (y, expected) = (network.forward(&x).unwrap(), own.forward(&x).unwrap());
    assert_eq!(y.dims(), [2, 3, 14, 14]);
    let largest = values::<f32>(&expected).into_iter().fold(0f32, |most, v| most.max(v.abs()));
    let furthest = values::<f32>(&(y - expected).unwrap()).into_iter().fold(0f32, |most, v| most.max(v.abs()));
    assert!(largest > 0.01 && furthest < 1e-5 * largest, "{furthest} of {largest}");
}

#[test]
fn batch_norm_activation_and_residual_are_fused() {
    let (c_in, c_out) = (8, 16);
    let x = randn(&[2, c_in, 10, 10], 34, DType::F32);
    let config = Conv2dConfig { padding: 1, ..Default::default() };
    let conv = candle_nn::Conv2d::new(randn(&[c_out, c_in, 3, 3], 35, DType::F32), None, config);
    let vector = |seed| (randn(&[c_out], seed, DType::F32).abs().unwrap() + 0.5).unwrap();
    let norm = BatchNorm::new(c_out, vector(36), vector(37), vector(38), vector(39), 1e-3).unwrap();
    let residual = randn(&[2, c_out, 10, 10], 40, DType::F32);
    let apart = candle_nn::ModuleT::forward_t(&norm, &conv.forward(&x).unwrap(), false).unwrap();
    let apart = (apart + &residual).unwrap().relu().unwrap();
    let fused = Conv2d::from_candle(&conv).unwrap().absorb_bn(&norm).unwrap().with_activation(Activation::Relu).unwrap();
    let y = fused.forward_residual(&x, &residual).unwrap();
    assert!(values::<f32>(&(y - apart).unwrap()).iter().all(|d| d.abs() < 1e-4));
    // prelu, and two layers as one
    let slope = randn(&[c_out], 41, DType::F32);
    let first = Conv2d::new(&randn(&[c_in, 1, 3, 3], 42, DType::F32), None, Conv2dConfig { groups: c_in, ..config }).unwrap();
    let first = first.with_activation(Activation::Relu6).unwrap();
    let second = Conv2d::new(&randn(&[c_out, c_in, 1, 1], 43, DType::F32), Some(&slope), Default::default()).unwrap();
    let second = second.with_prelu(&slope).unwrap();
    let one_by_one = second.forward(&first.forward(&x).unwrap()).unwrap();
    let y = DepthwiseSeparable::fuse(&first, &second).unwrap().forward(&x).unwrap();
    assert!(values::<f32>(&(y - one_by_one).unwrap()).iter().all(|d| d.abs() < 1e-4));
    // by its names in a file
    let tensors = [("a.depthwise.weight", [4, 1, 3, 3]), ("a.pointwise.weight", [6, 4, 1, 1])];
    let tensors = tensors.map(|(name, shape)| (name.to_string(), randn(&shape, 44, DType::F32)));
    let vb = VarBuilder::from_tensors(tensors.clone().into(), DType::F32, &CPU).pp("a");
    let layer = candle::nn::depthwise_separable(4, 6, 3, config, vb).unwrap();
    let x = randn(&[1, 4, 9, 9], 45, DType::F32);
    let y = layer.forward(&x).unwrap();
    let one_by_one = x.conv2d(&tensors[0].1, 1, 1, 1, 4).unwrap().conv2d(&tensors[1].1, 0, 1, 1, 1).unwrap();
    assert!(values::<f32>(&(y - one_by_one).unwrap()).iter().all(|d| d.abs() < 1e-4));
}

/// A function uses the current values of a weight, also if they change in place or another tensor has the same shape.
#[test]
fn functions_see_the_weights_that_there_are() {
    let x = randn(&[1, 4, 6, 6], 50, DType::F32);
    let weights: Vec<Tensor> = (0..3).map(|i| randn(&[4, 4, 3, 3], 51 + i, DType::F32)).collect();
    let of = |w: &Tensor| x.conv2d(w, 1, 1, 1, 1).unwrap();
    for w in weights.iter().chain(&weights) {
        check(&candle::conv2d(&x, w, None, 1, 1, 1, 1).unwrap(), 36, &[&x, w], |t| t[0].conv2d(&t[1], 1, 1, 1, 1));
    }
    let var = Var::from_tensor(&weights[0]).unwrap();
    for w in &weights {
        var.set(w).unwrap();
        let y = candle::conv2d(&x, var.as_tensor(), None, 1, 1, 1, 1).unwrap();
        assert!(values::<f32>(&(y - of(w)).unwrap()).iter().all(|d| d.abs() < 1e-4));
    }
    // a view of the same weight that is not contiguous
    let turned = weights[0].transpose(2, 3).unwrap();
    check(&candle::conv2d(&x, &turned, None, 1, 1, 1, 1).unwrap(), 36, &[&x, &turned], |t| t[0].conv2d(&t[1].contiguous()?, 1, 1, 1, 1));
    candle::forget();
    check(&candle::conv2d(&x, &weights[0], None, 1, 1, 1, 1).unwrap(), 36, &[&x, &weights[0]], |t| t[0].conv2d(&t[1], 1, 1, 1, 1));
}

#[test]
fn errors_say_what_is_wrong() {
    let (x, w) = (randn(&[1, 4, 6, 6], 60, DType::F32), randn(&[4, 4, 3, 3], 61, DType::F32));
    let message = |result: Result<Tensor>| result.unwrap_err().to_string();
    let has = |message: String, parts: &[&str]| assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    has(message(candle::conv2d(&x.to_dtype(DType::F64).unwrap(), &w, None, 1, 1, 1, 1)), &["f32, f16 and bf16", "F64", "conv2d"]);
    has(message(candle::conv2d(&x, &w.to_dtype(DType::U8).unwrap(), None, 1, 1, 1, 1)), &["U8"]);
    has(message(candle::conv2d(&x, &w, None, 1, 1, 1, 2)), &["warpconv's conv2d", "channels"]);
    has(message(candle::conv2d(&x, &w, None, 1, 0, 1, 1)), &["stride is 0"]);
    has(message(candle::conv2d(&x, &w, None, 1, 1, 1, 0)), &["groups is 0"]);
    has(message(candle::conv2d(&x.i(0).unwrap(), &w, None, 1, 1, 1, 1)), &["rank"]);
    has(message(candle::conv2d(&x, &w, Some(&randn(&[3], 1, DType::F32)), 1, 1, 1, 1)), &["bias has shape [3]"]);
    has(message(candle::pixel_shuffle(&x, 3)), &["pixel_shuffle", "4"]);
    let module = DeformConv2d::new(&w, None, DeformConv2dSpec::default()).unwrap();
    has(message(module.forward(&x)), &["deform_conv2d", "offset"]);
    has(message(module.forward_at(&x, &x.to_dtype(DType::BF16).unwrap(), None)), &["dtype mismatch"]);
    has(message(candle::deform_conv2d(&x, &x, &w, None, 1, 1, 1, None)), &["offset_groups"]);
    let rois = Tensor::new(&[[1f32, 0., 0., 4., 4.]], &CPU).unwrap();
    has(message(candle::roi_align(&x, &rois, 2, 1.0, 2, true)), &["batch index is 1"]);
    has(message(candle::roi_align(&x, &rois.narrow(1, 0, 4).unwrap(), 2, 1.0, 2, true)), &["rois has shape [1, 4]"]);
    // the layer's name, from the builder
    let vb = VarBuilder::from_tensors([("stem.conv.weight".to_string(), w.clone())].into(), DType::F32, &CPU);
    let conv = candle::nn::conv2d_no_bias(4, 4, 3, Default::default(), vb.pp("stem.conv")).unwrap();
    has(message(conv.forward(&x.narrow(1, 0, 3).unwrap())), &["stem.conv", "warpconv's conv2d"]);
    // A gradient through the layer is an error, not a silent zero.
    let var = Var::from_tensor(&x).unwrap();
    let loss = conv.forward(var.as_tensor()).unwrap().sum_all().unwrap();
    has(loss.backward().unwrap_err().to_string(), &["backward", "conv2d"]);
}

#[test]
fn a_module_plans_once_for_each_shape_and_serves_threads() {
    let conv = Conv2d::new(&randn(&[8, 8, 3, 3], 70, DType::F32), None, Default::default()).unwrap();
    let inputs: Vec<Tensor> = (0..6).map(|i| randn(&[1, 8, 8 + i % 3, 9], 71 + i as u64, DTYPES[i / 2])).collect();
    let expected: Vec<Tensor> = inputs.iter().map(|x| conv.forward(x).unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let conv = conv.clone();
            let (inputs, expected) = (&inputs, &expected);
            scope.spawn(move || (0..3).for_each(|_| inputs.iter().zip(expected).for_each(|(x, y)| same(&conv.forward(x).unwrap(), y))));
        }
    });
    let host = warpconv::Device::host().unwrap();
    assert!(!conv.explain(&inputs[0], &host).unwrap().kernel.is_empty());
    // no image, and no pixel of one
    assert_eq!(conv.forward(&inputs[0].narrow(0, 0, 0).unwrap()).unwrap().dims(), [0, 8, 6, 7]);
}

/// The cost of one call of forward.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// The number of tensors that candle makes. Each of its ops makes one, also if it is a view.
    tensors: usize,
    launches: u64,
    bytes: usize,
}

fn cost(forward: impl Fn() -> Result<Tensor>) -> Cost {
    let launches = || warpconv::Device::host().unwrap().launches();
    // candle numbers all tensors of a process, one after the other.
    let number = || {
        let id = format!("{:?}", Tensor::zeros(1, DType::F32, &CPU).unwrap().id());
        id.chars().filter(char::is_ascii_digit).collect::<String>().parse::<usize>().unwrap()
    };
    forward().unwrap(); // plans, and whatever is made once
    let before = (number(), launches(), heap::bytes_ever());
    forward().unwrap();
    let bytes = heap::bytes_ever() - before.2;
    Cost { launches: launches() - before.1, bytes, tensors: number() - before.0 - 1 }
}

/// Set in the process in which `a_forward_is_one_launch_without_scratch_memory` runs alone.
const CHILD: &str = "WARPCONV_TEST_CHILD";

/// One call of forward is one launch, and allocates little more memory than the result takes. The
/// counters are those of the whole process, so that the test starts itself again in a process of its
/// own. That process prints the table of the README.
#[test]
fn a_forward_is_one_launch_without_scratch_memory() {
    if std::env::var_os(CHILD).is_some() {
        return costs_of_a_forward();
    }
    let name = "a_forward_is_one_launch_without_scratch_memory";
    let arguments = [name, "--exact", "--nocapture", "--test-threads", "1"];
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new(this).args(arguments).env(CHILD, "1").output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed") && text.contains("| deformable 3x3 with mask"), "{text}");
    println!("{text}");
}

fn costs_of_a_forward() {
    println!("| layer, f32 | candle: ops | bytes allocated | warpconv: ops | launches | bytes allocated | of which the result |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let row = |name: &str, own: Option<Cost>, ours: Cost, y: Tensor| {
        let result = y.elem_count() * 4;
        let (ops, bytes) = own.map_or(("none".into(), "".into()), |own| (own.tensors.to_string(), own.bytes.to_string()));
        println!("| {name} | {ops} | {bytes} | {} | {} | {} | {result} |", ours.tensors, ours.launches, ours.bytes);
        assert_eq!(ours.launches, 1, "{name}");
        // Beside the result there are candle's tensor, the op and the launch.
        assert!(ours.bytes < result + 32_000, "{name}: {ours:?}, {result}");
        assert!(own.is_none_or(|own| own.bytes > 2 * ours.bytes && own.tensors > ours.tensors), "{name}: {own:?} {ours:?}");
    };
    let conv2d = |name: &str, [n, c, h, w]: [usize; 4], c_out: usize, k: usize, groups: usize| {
        let x = randn(&[n, c, h, w], 80, DType::F32);
        let config = Conv2dConfig { padding: k / 2, groups, ..Default::default() };
        let (weight, bias) = (randn(&[c_out, c / groups, k, k], 81, DType::F32), randn(&[c_out], 82, DType::F32));
        let own = candle_nn::Conv2d::new(weight, Some(bias), config);
        let ours = Conv2d::from_candle(&own).unwrap();
        row(name, Some(cost(|| own.forward(&x))), cost(|| ours.forward(&x)), ours.forward(&x).unwrap());
    };
    conv2d("grouped 3x3, 32 groups, [1, 256, 14, 14]", [1, 256, 14, 14], 256, 3, 32);
    conv2d("depthwise 3x3, [1, 192, 28, 28]", [1, 192, 28, 28], 192, 3, 192);
    conv2d("depthwise 7x7, [1, 96, 28, 28]", [1, 96, 28, 28], 96, 7, 96);
    {
        let (x, w) = (randn(&[1, 384, 256], 83, DType::F32), randn(&[384, 1, 4], 84, DType::F32));
        let ours = candle::Conv1d::causal(&w, None, 1, 384).unwrap();
        let own = cost(|| x.conv1d(&w, 3, 1, 1, 384)?.narrow(2, 0, 256));
        row("causal depthwise, 4 taps, [1, 384, 256]", Some(own), cost(|| ours.forward(&x)), ours.forward(&x).unwrap());
    }
    {
        let config = ConvTranspose2dConfig { stride: 2, padding: 1, ..Default::default() };
        let (x, w, b) = (randn(&[1, 64, 14, 14], 85, DType::F32), randn(&[64, 32, 4, 4], 86, DType::F32), randn(&[32], 87, DType::F32));
        let own = candle_nn::ConvTranspose2d::new(w, Some(b), config);
        let ours = candle::ConvTranspose2d::from_candle(&own).unwrap();
        let costs = (cost(|| own.forward(&x)), cost(|| ours.forward(&x)));
        row("transposed 4x4, stride 2, [1, 64, 14, 14]", Some(costs.0), costs.1, ours.forward(&x).unwrap());
    }
    // Views that are read in place: no copy is allocated.
    let conv = Conv2d::new(&randn(&[16, 16, 3, 3], 92, DType::F32), None, Default::default()).unwrap();
    let (nchw, nhwc) = (randn(&[3, 32, 20, 20], 93, DType::F32), randn(&[3, 20, 20, 32], 94, DType::F32));
    let nhwc = nhwc.permute((0, 3, 1, 2)).unwrap();
    for x in [&nchw, &nhwc] {
        let channels = x.narrow(1, 8, 16).unwrap();
        let crop = channels.narrow(2, 3, 9).unwrap().narrow(3, 4, 8).unwrap();
        let slices = [channels, x.narrow(0, 1, 2).unwrap().narrow(1, 16, 16).unwrap(), crop];
        for slice in slices {
            let Cost { launches, bytes, .. } = cost(|| conv.forward(&slice));
            assert!(launches == 1 && bytes < conv.forward(&slice).unwrap().elem_count() * 4 + 4096, "{:?}: {bytes}", slice.layout());
        }
    }
    let (x, offset) = (randn(&[1, 64, 14, 14], 88, DType::F32), randn(&[1, 18, 14, 14], 89, DType::F32));
    let mask = randn(&[1, 9, 14, 14], 90, DType::F32);
    let spec = DeformConv2dSpec { padding: warpconv::Padding::all(1), ..Default::default() };
    let ours = DeformConv2d::new(&randn(&[64, 64, 3, 3], 91, DType::F32), None, spec).unwrap();
    let forward = || ours.forward_at(&x, &offset, Some(&mask));
    row("deformable 3x3 with mask, [1, 64, 14, 14]", None, cost(forward), forward().unwrap());
}
