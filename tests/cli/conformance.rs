//! `warpconv conformance`: a corpus that was changed is found out.

use serde_json::Value;
use std::fs;
use std::path::Path;

use super::{CORPUS, warpconv};

/// A corpus of a few cases of the repository's, changed.
fn corpus(folder: &Path, change: impl FnOnce(&mut Value)) {
    let text = fs::read_to_string(Path::new(CORPUS).join("cases.json")).unwrap();
    let mut cases: Value = serde_json::from_str(&text).unwrap();
    cases["cases"].as_array_mut().unwrap().truncate(3);
    cases["invalid"].as_array_mut().unwrap().truncate(2);
    change(&mut cases);
    fs::write(folder.join("cases.json"), cases.to_string()).unwrap();
    fs::copy(Path::new(CORPUS).join("tensors.safetensors"), folder.join("tensors.safetensors")).unwrap();
}

#[test]
fn conformance_finds_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let run = |options: &[&str], change: &dyn Fn(&mut Value)| {
        corpus(folder.path(), change);
        let arguments = [&["conformance", folder.path().to_str().unwrap(), "--device", "host"], options].concat();
        let finished = warpconv(&arguments);
        (finished.code, finished.stdout)
    };
    let right = |_: &mut Value| ();
    assert_eq!(run(&[], &right), (Some(0), "5 passed, 0 failed, 0 skipped\n".into()));

    // a bias of another shape
    let (code, text) = run(&[], &|c| c["cases"][1]["inputs"]["bias"] = "c001.residual".into());
    assert_eq!(code, Some(1));
    assert!(text.contains("FAILED conv2d/conv2d_001_1x1_s2") && text.ends_with("4 passed, 1 failed, 0 skipped\n"), "{text}");
    let (code, text) = run(&["--dtype", "f16", "--format", "channels-last"], &|c| {
        c["cases"][0]["attrs"]["activation"] = "relu".into();
    });
    assert_eq!(code, Some(1));
    let line = text.lines().nth(1).unwrap();
    for part in ["f16 channels_last conv_gemm_f16_channels_64x64: ", "elements are wrong; the worst at [", "got 0.0, expected -"] {
        assert!(line.contains(part), "no {part:?} in {text}");
    }
    // a valid layer among the invalid ones
    let (code, text) = run(&[], &|c| c["invalid"][0]["attrs"]["groups"] = 1.into());
    assert_eq!(code, Some(0), "its channels still do not fit: {text}");
    let (code, text) = run(&[], &|c| {
        let mut valid = c["cases"][0].clone();
        valid["why"] = "it is not".into();
        c["invalid"][0] = valid;
    });
    assert!(code == Some(1) && text.contains("was accepted, but must be refused"), "{text}");
    // a tensor that is not there fails its case
    let (code, text) = run(&[], &|c| c["cases"][2]["output"] = "c999.output".into());
    assert!(code == Some(1) && text.contains("no tensor \"c999.output\"") && text.contains("4 passed, 1 failed"), "{text}");

    let unknown = |c: &mut Value| c["cases"][2]["op"] = "conv9d".into();
    assert_eq!(run(&[], &unknown), (Some(0), "4 passed, 0 failed, 1 skipped\n".into()));
    assert_eq!(run(&["--deny-skips"], &unknown), (Some(1), "4 passed, 0 failed, 1 skipped\n".into()));
    assert_eq!(run(&["--filter", "^conv2d/conv2d_00[01]"], &unknown), (Some(0), "2 passed, 0 failed, 0 skipped\n".into()));
    let (code, text) = run(&["--json"], &unknown);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["passed"], &json["cases"][2]["outcome"]), (Some(0), &4.into(), &"skipped".into()));

    let refused = |options: &[&str], change: &dyn Fn(&mut Value), parts: &[&str]| {
        corpus(folder.path(), change);
        warpconv(&[&["conformance", folder.path().to_str().unwrap()], options].concat()).refuses(parts);
    };
    refused(&["--filter", "no such case"], &right, &["no such case"]);
    refused(&[], &|c| c["format"] = 2.into(), &["cases.json", "format 2"]);
    refused(&[], &|c| c["cases"] = 7.into(), &["cases.json"]);
}
