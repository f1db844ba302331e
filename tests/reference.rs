//! The oracle against the corpus: two independent statements of the same definitions.

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::Path;
use warpconv::LayerSpec;
use warpconv::reference::{Array, conv2d, conv2d_scale};

fn array(tensors: &SafeTensors<'_>, key: &Value) -> Array {
    let tensor = tensors.tensor(key.as_str().unwrap()).unwrap();
    let data = match tensor.dtype() {
        Dtype::F32 => tensor.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        Dtype::F64 => tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        other => panic!("the corpus has no {other:?}"),
    };
    Array::new(tensor.shape(), data).unwrap()
}

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
