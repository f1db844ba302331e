//! `warpconv info`: a layer with its plan, and the machine.

use serde_json::Value;

use super::{Folder, warpconv};

#[test]
fn info_needs_no_weights() {
    let folder = Folder::new();
    // a weight of 154 GB, and one of 2^50 elements
    for (input, kernel) in [("1x65536x8x8", "conv_gemm"), ("1x16777216x8x8", "conv_")] {
        for dtype in ["f32", "f16"] {
            let text = folder.warpconv(&["info", "layer.json", "--input", input, "--dtype", dtype, "--device", "host"]).succeeds();
            assert!(text.contains(kernel) && text.contains("parameters"), "{text}");
        }
    }
    for (op, attributes) in [
        ("focus", "{}"),
        ("sub_pixel_conv", r#"{"r": 2}"#),
        ("conv_transpose2d", "{}"),
        ("depthwise_separable", "{}"),
        ("spatially_separable", "{}"),
        ("deform_conv2d", "{}"),
        ("deform_conv2d_block", "{}"),
    ] {
        folder.text("layer.json", &format!(r#"{{"op": "{op}", "attrs": {attributes}}}"#));
        let text = folder.warpconv(&["info", "layer.json", "--input", "1x65536x8x8", "--device", "host"]).succeeds();
        assert!(text.contains("blocks"), "{op}: {text}");
    }
}

#[test]
fn info_describes_a_layer() {
    let folder = Folder::new();
    let options = ["info", "layer.json", "--input", "1x64x56x56", "--device", "host"];
    let text = folder.warpconv(&options).succeeds();
    for part in ["[1, 64, 56, 56]", "[64, 64, 3, 3]", "36,864", "115,605,504", "3 x 3 pixels", "conv_gemm_f32_pixels_"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let more = ["--weight", "32x64x5x5", "--dtype", "f16", "--format", "channels-last", "--json"];
    let json: Value = serde_json::from_str(&folder.warpconv(&[&options[..], &more].concat()).succeeds()).unwrap();
    assert_eq!(json["output"], serde_json::json!([1, 32, 54, 54]));
    assert_eq!(json["parameters"]["total"], 32 * 64 * 25);
    assert_eq!(json["operations"]["macs"], 32 * 64 * 25 * 54 * 54);
    assert_eq!(json["receptive_field"]["size"], serde_json::json!([5, 5]));
    assert!(json["plan"]["kernel"].as_str().unwrap().starts_with("conv_gemm_f16_vectors_"), "{json}");
    let from_file = folder.warpconv(&["info", "layer.json", "--input", "1x1x8x8", "--weights", "w.safetensors", "--json"]).succeeds();
    let json: Value = serde_json::from_str(&from_file).unwrap();
    assert_eq!((&json["parameters"]["bias"], &json["parameters"]["total"]), (&2.into(), &20.into()));
    folder.warpconv(&["info", "layer.json", "--input", "1x3x8x8", "--weights", "w.safetensors"]).refuses(&["[1, 3, 8, 8]", "[2, 1, 3, 3]"]);
    let huge = "4294967296x4294967296x2x2";
    folder.warpconv(&["info", "layer.json", "--input", huge]).refuses(&["overflows"]);
}

#[test]
fn info_describes_the_machine() {
    let text = warpconv(&["info"]).succeeds();
    assert!(text.contains(env!("CARGO_PKG_VERSION")) && text.contains("host") && text.contains("conv2d"), "{text}");
    let json: Value = serde_json::from_str(&warpconv(&["info", "--json"]).succeeds()).unwrap();
    assert_eq!(json["devices"][0]["device"], "host");
    assert_eq!(json["operations"][0], "conv2d");
}
