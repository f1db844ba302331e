//! A deformable convolution with the convolutions that predict its offsets and mask, as one layer.

use half::{bf16, f16};
use rstest::rstest;
use warpconv::analysis::{Operands, analyse};
use warpconv::cases::{Problem, Values};
use warpconv::check::every_run;
use warpconv::numerics::Contract;
use warpconv::reference::{Array, deform_conv2d_block};
use warpconv::{
    AnyLayer, Conv2dSpec, DType, DeformConv2dBlock, DeformConv2dBlockSpec, DeformConv2dSpec, Element, Error, Inputs, Layer, LayerSpec,
    MemoryFormat, Padding, Parameter, PlanRequest, Stream, Tensor, Workspace,
};

use crate::common::{grid, parameter};

use super::{DEVICE, convolve, floats, tensor};

/// A block and its three convolutions one by one give the same bits, whatever the size of the predictors' kernels.
fn block_is_its_parts<T: Element>(modulated: bool, predictor: [usize; 2], format: MemoryFormat) {
    let deform = DeformConv2dSpec { stride: [2, 1], padding: Padding::all(2), offset_groups: 2, ..Default::default() };
    let spec = DeformConv2dBlockSpec { modulated, deform };
    let [offset, mask] = [36, 18].map(|channels| [channels, 8, predictor[0], predictor[1]]);
    let mut block = DeformConv2dBlock::new(spec, parameter(&[16, 8, 3, 3], 1)).unwrap().with_bias(parameter(&[16], 2)).unwrap();
    block = block.with_offset_predictor(parameter(&offset, 3), Some(parameter(&[36], 4))).unwrap();
    if modulated {
        block = block.with_mask_predictor(parameter(&mask, 5), None).unwrap();
    }
    let x = tensor::<T>([2, 8, 9, 8], &grid(2 * 8 * 72, 6), format);
    let residual = tensor::<T>([2, 16, 6, 10], &grid(2 * 16 * 60, 7), format);
    let inputs = Inputs::new(&x).residual(&residual);
    let plan = block.plan::<T>(&DEVICE, &PlanRequest::new(x.shape()).format(format)).unwrap();
    assert!(plan.workspace_bytes() >= 2 * 60 * size_of::<T>() * if modulated { 54 } else { 36 });
    assert_eq!(plan.explain().stages.len(), if modulated { 3 } else { 2 });
    let mut y = Tensor::<T>::zeros(&DEVICE, plan.output_shape(), format).unwrap();
    let refused = plan.run(&inputs, &mut y, Workspace::none(), &Stream::default_of(&DEVICE));
    assert!(matches!(refused, Err(Error::Workspace { got: 0, .. })));

    let offset = block.offset_predictor().forward(&Inputs::new(&x)).unwrap();
    let mask = block.mask_predictor().map(|mask| mask.forward(&Inputs::new(&x)).unwrap());
    let parts = inputs.offset(&offset);
    let parts = block.deform().forward(&mask.as_ref().map_or(parts, |mask| parts.mask(mask))).unwrap();
    assert_eq!(floats(&block.forward(&inputs).unwrap()), floats(&parts), "{modulated} {predictor:?} {format}");
    assert!(
        floats(&offset).iter().any(|v| v.abs() > 1.0) && mask.is_none_or(|mask| floats(&mask).iter().all(|&v| (0.0..=1.0).contains(&v)))
    );
}

#[rstest]
fn a_block_is_its_parts(#[values(false, true)] modulated: bool, #[values([1, 1], [3, 3], [5, 5], [2, 4])] predictor: [usize; 2]) {
    for format in MemoryFormat::ALL {
        block_is_its_parts::<f32>(modulated, predictor, format);
        block_is_its_parts::<f16>(modulated, predictor, format);
        block_is_its_parts::<bf16>(modulated, predictor, format);
    }
}

#[test]
fn an_untrained_block_is_a_convolution() {
    let weight = ([8, 16, 3, 3], grid(8 * 16 * 9, 1));
    let x = ([1, 16, 7, 6], grid(16 * 42, 2));
    let conv = Conv2dSpec { padding: Padding::Same, dilation: [1, 2], ..Default::default() };
    for (modulated, factor) in [(false, 1.0), (true, 0.5)] {
        let spec = DeformConv2dBlockSpec { modulated, deform: conv.into() };
        let block = DeformConv2dBlock::new(spec, Parameter::new(&weight.0, &weight.1).unwrap()).unwrap();
        for format in MemoryFormat::ALL {
            let y = floats(&block.forward(&Inputs::new(&tensor::<f16>(x.0, &x.1, format))).unwrap());
            let halved: Vec<f32> = x.1.iter().map(|v| v * factor).collect();
            assert_eq!(y, convolve::<f16>(conv, &(x.0, halved), &weight, format));
        }
    }
}

#[test]
fn a_block_in_json() {
    let spec = LayerSpec::from_json(r#"{"op": "deform_conv2d_block", "attrs": {"deform": {"padding": 1, "activation": "relu"}}}"#).unwrap();
    let parameter = |shape: &[usize]| Parameter::new(shape, &vec![0.5f32; shape.iter().product()]).unwrap();
    let named = |names: &[(&str, &[usize])]| {
        let all = [("weight", &[3usize, 2, 3, 3][..])].into_iter().chain(names.iter().copied());
        AnyLayer::new(spec, all.map(|(name, shape)| (name.to_string(), parameter(shape))).collect())
    };
    let shapes = spec.typical_parameters([1, 2, 5, 5], None);
    assert_eq!(shapes[1..], [("offset_weight", vec![18, 2, 3, 3]), ("mask_weight", vec![9, 2, 3, 3])]);
    let layer = named(&[("bias", &[3]), ("offset_weight", &[18, 2, 1, 1]), ("offset_bias", &[18]), ("mask_bias", &[9])]).unwrap_err();
    assert!(matches!(layer, Error::MissingTensor { .. }), "{layer}");
    let layer = named(&[("bias", &[3]), ("offset_weight", &[18, 2, 1, 1]), ("mask_weight", &[9, 2, 5, 5])]).unwrap();
    assert_eq!(layer.parameters().len(), 4);
    let x = tensor::<f32>([1, 2, 5, 5], &grid(50, 1), MemoryFormat::Contiguous);
    assert_eq!(layer.forward(&Inputs::new(&x)).unwrap().shape(), [1, 3, 5, 5]);
    let report = analyse(&spec, &layer.parameter_shapes(), &[1, 2, 5, 5].into(), Operands::new(DType::F32)).unwrap();
    assert_eq!(report.operations.macs, 25 * (3 * 18 + 18 * 2 + 9 * 50));

    let spec = DeformConv2dBlockSpec { modulated: false, deform: Conv2dSpec::default().into() };
    let block = DeformConv2dBlock::new(spec, parameter(&[3, 2, 3, 3])).unwrap();
    let refuse = |block: Result<DeformConv2dBlock, Error>| block.map(|_| ()).unwrap_err();
    assert!(matches!(refuse(block.clone().with_mask_predictor(parameter(&[9, 2, 3, 3]), None)), Error::UnexpectedTensor { .. }));
    let wrong = refuse(block.clone().with_offset_predictor(parameter(&[9, 2, 3, 3]), None));
    assert!(matches!(wrong, Error::Shape { name: "offset_weight", .. }), "{wrong}");
    // an output of this size would need a padding below zero
    let small = refuse(block.with_offset_predictor(parameter(&[18, 2, 1, 1]), None));
    assert!(matches!(small, Error::Attribute { name: "the predictor's kernel", .. }), "{small}");
}

/// A block on values whose predicted offsets and masks no dtype holds.
fn random_block(modulated: bool, seed: u64) -> Problem {
    let deform = DeformConv2dSpec { stride: [1, 2], padding: Padding::all(2), offset_groups: 2, ..Default::default() };
    let shapes: [(&str, &[usize]); 5] = [
        ("x", &[2, 8, 7, 8]),
        ("weight", &[12, 8, 3, 3]),
        ("offset_weight", &[36, 8, 3, 3]),
        ("offset_bias", &[36]),
        ("mask_weight", &[18, 8, 1, 1]),
    ];
    let layer = LayerSpec::DeformConv2dBlock(DeformConv2dBlockSpec { modulated, deform });
    Problem { values: Values::FullMantissa, seed, ..Problem::new(layer, &shapes[..if modulated { 5 } else { 4 }]) }
}

#[rstest]
fn a_block_of_random_values_is_right(#[values(false, true)] modulated: bool, #[values(1, 2, 3)] seed: u64) {
    for run in every_run(&random_block(modulated, seed), &DEVICE).unwrap() {
        assert!(run.outcome.is_ok(), "{run}");
    }
}

/// What is allowed for offsets that may be rounded to either side hides no mistake, in any dtype: an offset that is off by a quarter
/// of a pixel, a tap that is left out, a mask that is off by a sixteenth.
#[rstest]
fn a_wrong_block_is_caught(#[values(DType::F32, DType::F16, DType::Bf16)] dtype: DType, #[values(0, 1, 2)] mistake: usize) {
    let problem = random_block(true, 1);
    let LayerSpec::DeformConv2dBlock(spec) = problem.layer else { unreachable!("made so") };
    let tensors = problem.tensors(dtype).unwrap();
    let right = deform_conv2d_block(&spec, &tensors, dtype).unwrap();
    let mut wrong = tensors.clone();
    let mut change = |name: &str, change: &dyn Fn(usize, f64) -> f64| {
        let array = &tensors[name];
        let values = array.data().iter().enumerate().map(|(index, &value)| change(index, value)).collect();
        wrong.insert(name.into(), Array::new(array.shape(), values).unwrap());
    };
    match mistake {
        0 => change("offset_bias", &|channel, bias| if channel == 5 { bias + 0.25 } else { bias }),
        // of the first output channel
        1 => change("weight", &|index, weight| if index < 72 && index % 9 == 7 { 0.0 } else { weight }),
        _ => drop(wrong.insert("mask_bias".into(), Array::new([18], vec![0.25; 18]).unwrap())),
    }
    let wrong = deform_conv2d_block(&spec, &wrong, dtype).unwrap();
    let contract = Contract::new(dtype, 8 * 9).rounded(1);
    let scale: Vec<f64> = right.scale.data().iter().zip(right.moved.data()).map(|(&scale, &moved)| contract.moved(scale, moved)).collect();
    let check = |y: &Array| {
        let y: Vec<f32> = y.data().iter().map(|&v| dtype.round(v) as f32).collect();
        contract.check(&y, right.y.data(), &scale).unwrap()
    };
    assert!(check(&right.y).passed() && !check(&wrong.y).passed(), "{dtype} {mistake}: {:?}", check(&wrong.y));
}
