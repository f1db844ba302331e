//! The oracle against the corpus (two independent statements of the same definitions), and folding against the oracle.

use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;
use warpconv::reference::{Array, batch_norm, conv2d, conv2d_scale};
use warpconv::{BatchNorm, Conv2d, Conv2dSpec, LayerSpec, Padding, Parameter};

use crate::common::array;

fn spec(case: &Value) -> Result<LayerSpec, warpconv::Error> {
    LayerSpec::from_json(&serde_json::json!({ "op": case["op"], "attrs": case["attrs"] }).to_string())
}

struct Operands {
    x: Array,
    weight: Array,
    bias: Option<Array>,
    slope: Option<Array>,
    residual: Option<Array>,
}

impl Operands {
    fn of(case: &Value, tensors: &SafeTensors<'_>) -> Self {
        let optional = |name: &str| case["inputs"].get(name).map(|key| array(tensors, key));
        let required = |name: &str| optional(name).unwrap();
        Self {
            x: required("x"),
            weight: required("weight"),
            bias: optional("bias"),
            slope: optional("slope"),
            residual: optional("residual"),
        }
    }
}

#[test]
fn conv2d_equals_the_corpus() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch_dev");
    let corpus: Value = serde_json::from_slice(&std::fs::read(directory.join("cases.json")).unwrap()).unwrap();
    let file = std::fs::read(directory.join("tensors.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let of_conv2d = |list: &str| corpus[list].as_array().unwrap().iter().filter(|c| c["op"] == "conv2d").cloned().collect::<Vec<_>>();

    let cases = of_conv2d("cases");
    assert!(cases.len() >= 70, "only {} cases", cases.len());
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let LayerSpec::Conv2d(spec) = spec(case).unwrap() else { panic!("{name} is no conv2d") };
        let o = Operands::of(case, &tensors);
        let (output, scale) = (array(&tensors, &case["output"]), array(&tensors, &case["scale"]));
        let y = conv2d(&spec, &o.x, &o.weight, o.bias.as_ref(), o.slope.as_ref(), o.residual.as_ref()).unwrap();
        assert_eq!(y.shape(), output.shape(), "{name}");
        for (i, ((y, expected), scale)) in y.data().iter().zip(output.data()).zip(scale.data()).enumerate() {
            assert!((y - expected).abs() <= 1e-12 * (scale + 1.0), "{name}: element {i} is {y}, not {expected}");
        }
        // k/64: the sums are exact
        let own_scale = conv2d_scale(&spec, &o.x, &o.weight, o.bias.as_ref(), o.residual.as_ref()).unwrap();
        assert_eq!(own_scale, scale, "{name}: scale");
    }

    for case in of_conv2d("invalid") {
        let Ok(LayerSpec::Conv2d(spec)) = spec(&case) else { continue };
        let o = Operands::of(&case, &tensors);
        let y = conv2d(&spec, &o.x, &o.weight, o.bias.as_ref(), o.slope.as_ref(), o.residual.as_ref());
        assert!(y.is_err(), "{} ({}) gave {:?}", case["name"], case["why"], y.map(|y| y.shape().to_vec()));
    }
}

#[test]
fn a_folded_batch_norm_is_a_convolution_and_a_batch_norm() {
    let values = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
    let spec = Conv2dSpec { padding: Padding::Same, groups: 2, ..Default::default() };
    let (weight, bias) = (values(6 * 2 * 9, 1.7), values(6, 2.3));
    let (gamma, beta, mean) = (values(6, 0.7), values(6, 1.1), values(6, 1.3));
    let variance = [0.0, 1e-3, 0.5, 1.0, 2.0, 1e4];
    let norm = BatchNorm { gamma: gamma.clone(), beta: beta.clone(), mean: mean.clone(), variance: variance.to_vec(), epsilon: 1e-5 };
    let x = Array::from_slice([2, 4, 5, 6], &values(2 * 4 * 5 * 6, 0.9)).unwrap();
    let vector = |v: &[f32]| Array::from_slice([v.len()], v).unwrap();
    let of = |p: &Parameter| Array::from_slice(p.shape(), p.values()).unwrap();

    for bias in [None, Some(bias)] {
        let mut layer = Conv2d::new(spec, Parameter::new(&[6, 2, 3, 3], &weight).unwrap()).unwrap();
        if let Some(bias) = &bias {
            layer = layer.with_bias(Parameter::vector(bias)).unwrap();
        }
        let plain = conv2d(&spec, &x, &of(layer.weight()), bias.as_deref().map(vector).as_ref(), None, None).unwrap();
        let epsilon = f64::from(norm.epsilon);
        let expected = batch_norm(&plain, &vector(&gamma), &vector(&beta), &vector(&mean), &vector(&variance), epsilon).unwrap();

        let folded = layer.fold_batch_norm(&norm).unwrap();
        let (weight, bias) = (of(folded.weight()), folded.bias().map(of));
        let y = conv2d(&spec, &x, &weight, bias.as_ref(), None, None).unwrap();
        let scale = conv2d_scale(&spec, &x, &weight, bias.as_ref(), None).unwrap();
        for ((y, expected), scale) in y.data().iter().zip(expected.data()).zip(scale.data()) {
            // weight and bias are rounded once to f32, each by 2^-24 of itself at most
            assert!((y - expected).abs() <= 2f64.powi(-24) * scale * (1.0 + 1e-6), "{y}, not {expected}");
        }
    }
}
