//! Layers, tensors, files and devices that are refused, each with a message that names what is wrong.

use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use warpconv::Device;

use super::{CORPUS, Folder, warpconv};

#[test]
fn bad_layers_are_refused() {
    let folder = Folder::new();
    for (layer, parts) in [
        ("{", &["layer.json", "EOF"][..]),
        ("", &["layer.json", "it is empty, where JSON is expected"]),
        (r#"{"op": "conv2d", "attrs": {"strides": 2}}"#, &["layer.json", "unknown field `strides`", "stride"]),
        (r#"{"op": "conv2d", "attrs": {}, "extra": 1}"#, &["layer.json", "extra"]),
        (r#"{"op": "conv3d", "attrs": {}}"#, &["conv3d", "conv2d"]),
        (r#"{"op": "conv2d", "attrs": {"activation": "mish"}}"#, &["mish", "silu"]),
        (r#"{"op": "conv2d", "attrs": {"alpha": 0.1}}"#, &["alpha belongs to leaky_relu"]),
        (r#"{"op": "conv2d", "attrs": {"padding": [1, 2, 3]}}"#, &["invalid length 3", "[top, left, bottom, right]"]),
        (r#"{"op": "conv2d", "attrs": {"padding": -1}}"#, &["-1"]),
        (r#"{"op": "conv2d", "attrs": {"padding": 1, "stride": 0}}"#, &["stride is 0", "at least 1"]),
        (r#"{"op": "conv2d", "attrs": {"padding": 1, "dilation": [1, 0]}}"#, &["dilation is 0"]),
        (r#"{"op": "conv2d", "attrs": {"padding": 1, "groups": 0}}"#, &["groups is 0"]),
        (r#"{"op": "conv2d", "attrs": {"padding": 1, "groups": 3}}"#, &["C_out is 2", "groups = 3"]),
        (r#"{"op": "conv2d", "attrs": {"padding": 0}}"#, &["height", "kernel of 3", "input height of 2"]),
        (r#"{"op": "conv2d", "attrs": {"padding": "same", "stride": 2}}"#, &["padding", "same"]),
        (r#"{"op": "conv2d", "attrs": {"padding": 18446744073709551615}}"#, &["overflows", "18446744073709551615"]),
        (r#"{"op": "conv2d", "attrs": {"padding": 4611686018427387904}}"#, &["overflows"]),
        (r#"{"op": "conv2d", "attrs": {"padding": 2147483647}}"#, &["overflows"]),
        (r#"{"op": "conv2d", "attrs": {"padding": [0, 2147483648, 1, 0]}}"#, &["2147418112"]),
        (r#"{"op": "conv2d", "attrs": {"padding": 1, "activation": "prelu"}}"#, &["slope"]),
    ] {
        folder.text("layer.json", layer);
        folder.run(&[]).refuses(parts);
        assert!(!folder.path("y.safetensors").exists(), "{layer}");
    }
}

#[test]
fn bad_tensors_are_refused() {
    type Tensors<'a> = &'a [(&'a str, &'a [usize], &'a [f32])];
    let good: Tensors = &[("weight", &[2, 1, 3, 3], &[1.0; 18])];
    let x: Tensors = &[("x", &[1, 1, 2, 2], &[1.0; 4])];
    let cases: [(Tensors, Tensors, &[&str]); 10] = [
        (&[("weight", &[2, 9], &[1.0; 18])], x, &["weight has shape [2, 9] (rank 2)", "rank 4"]),
        (&[("weight", &[2, 1, 3, 3], &[1.0; 18]), ("bias", &[3], &[0.0; 3])], x, &["bias has shape [3]", "[2]"]),
        (&[("weight", &[2, 1, 3, 3], &[1.0; 18]), ("bias", &[1, 2], &[0.0; 2])], x, &["bias has shape [1, 2] (rank 2)"]),
        (&[("weight", &[2, 1, 3, 3], &[1.0; 18]), ("gain", &[2], &[0.0; 2])], x, &["no gain", "weight, bias, slope"]),
        (&[("bias", &[2], &[0.0; 2])], x, &["needs weight", "there are: bias"]),
        (good, &[("x", &[1, 2, 2], &[1.0; 4])], &["x has shape [1, 2, 2] (rank 3)"]),
        (good, &[("x", &[1, 3, 2, 2], &[1.0; 12])], &["x has shape [1, 3, 2, 2]", "[2, 1, 3, 3]"]),
        (good, &[("x", &[1, 1, 2, 2], &[1.0; 4]), ("mask", &[1], &[1.0])], &["no mask", "x, residual"]),
        (good, &[("residual", &[1, 2, 2, 2], &[1.0; 8])], &["needs x", "there are: residual"]),
        (good, &[("x", &[1, 1, 2, 2], &[1.0; 4]), ("residual", &[1, 1, 2, 2], &[1.0; 4])], &["residual has shape [1, 1, 2, 2]"]),
    ];
    let folder = Folder::new();
    for (weights, inputs, parts) in cases {
        folder.tensors("w.safetensors", weights);
        folder.tensors("x.safetensors", inputs);
        folder.run(&[]).refuses(parts);
        assert!(!folder.path("y.safetensors").exists(), "{parts:?}");
    }
}

/// What is missing, or too much, is told with the file, and with where it belongs.
#[test]
fn tensors_are_looked_for_in_the_files_that_were_given() {
    let folder = Folder::new();
    let x: (&str, &[usize], &[f32]) = ("x", &[1, 1, 2, 2], &[1.0; 4]);
    let weight: (&str, &[usize], &[f32]) = ("weight", &[2, 1, 3, 3], &[1.0; 18]);
    let without = ["run", "--layer", "layer.json", "--input", "x.safetensors", "--output", "y.safetensors"];
    folder.warpconv(&without).refuses(&["conv2d needs weight, which was not given: name the file that has it with --weights"]);
    folder.tensors("w.safetensors", &[]);
    folder.run(&[]).refuses(&["conv2d needs weight, which was not given in w.safetensors (there is no tensor at all)"]);
    folder.tensors("w.safetensors", &[("bias", &[2], &[0.0; 2])]);
    folder.run(&[]).refuses(&["conv2d needs weight, which was not given in w.safetensors (there are: bias)"]);
    folder.tensors("w.safetensors", &[weight, x]);
    folder
        .run(&[])
        .refuses(&["conv2d has no parameter x (in w.safetensors); it takes weight, bias, slope; x belongs into the file of --input"]);
    folder.tensors("w.safetensors", &[weight]);
    folder.tensors("x.safetensors", &[x, weight]);
    folder
        .run(&[])
        .refuses(&["conv2d has no input weight (in x.safetensors); it takes x, residual; weight belongs into the file of --weights"]);
    folder.tensors("x.safetensors", &[]);
    folder.run(&[]).refuses(&["conv2d needs x, which was not given in x.safetensors (there is no tensor at all)"]);
    folder.text("layer.json", r#"{"op": "roi_align", "attrs": {"output_size": 1}}"#);
    folder.tensors("x.safetensors", &[x, ("rois", &[1, 4], &[0.0; 4])]);
    folder.warpconv(&without).refuses(&["rois has shape [1, 4], but must have shape [K, 5]", "need a column of zeros in front"]);
}

#[test]
fn bad_files_are_refused() {
    let folder = Folder::new();
    let whole = fs::read(folder.path("x.safetensors")).unwrap();
    for length in [0, 4, 20, whole.len() - 1] {
        fs::write(folder.path("x.safetensors"), &whole[..length]).unwrap();
        folder.run(&[]).refuses(&["x.safetensors", &format!("{length} bytes"), "cut off"]);
    }
    // a shape whose size overflows
    let header = br#"{"x":{"dtype":"F32","shape":[4294967296,4294967296,1,1],"data_offsets":[0,0]}}"#;
    fs::write(folder.path("x.safetensors"), [&(header.len() as u64).to_le_bytes()[..], header].concat()).unwrap();
    folder.run(&[]).refuses(&["x.safetensors"]);
    let integers = TensorView::new(Dtype::I64, vec![1, 1, 1, 1], &[0; 8]).unwrap();
    fs::write(folder.path("x.safetensors"), safetensors::serialize([("x", integers)], None).unwrap()).unwrap();
    folder.run(&[]).refuses(&["x.safetensors", "I64", "F32"]);
    fs::remove_file(folder.path("x.safetensors")).unwrap();
    folder.run(&[]).refuses(&["x.safetensors", "check the path"]);
    fs::create_dir(folder.path("x.safetensors")).unwrap();
    folder.run(&[]).refuses(&["x.safetensors"]);
    folder.run(&[]).refuses(&["x.safetensors", "name a file, not a folder"]);
    fs::write(folder.path("layer.json"), [0xff, 0xfe]).unwrap();
    folder.run(&[]).refuses(&["layer.json", "JSON is text in UTF-8: convert the file"]);
    folder.warpconv(&["info", "nothing-here.json", "--input", "1x3x8x8"]).refuses(&["nothing-here.json"]);
    folder.warpconv(&["conformance", "nowhere"]).refuses(&["cases.json"]);
}

#[test]
fn devices_that_are_not_there_are_refused() {
    let folder = Folder::new();
    let run = |device: &str| {
        let files = ["run", "--layer", "layer.json", "--weights", "w.safetensors", "--input", "x.safetensors", "--output", "y"];
        folder.warpconv(&[&files[..], &["--device", device]].concat())
    };
    run("gpu").refuses(&["gpu", "best, host or cuda:N"]);
    run("cuda:x").refuses(&["cuda:x", "best, host or cuda:N"]);
    if Device::cuda(999).is_err() {
        run("cuda:999").refuses(&["cuda"]);
    }
    warpconv(&["conformance", CORPUS, "--checked", "--device", "cuda:0"]).refuses(&["--device", "cuda:0", "checker"]);
    if !cfg!(feature = "checked-host") {
        warpconv(&["conformance", CORPUS, "--checked"]).refuses(&["checked-host"]);
    }
}
