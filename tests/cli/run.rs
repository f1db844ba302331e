//! `warpconv run`: the result, progress on a terminal, and limits of work.

use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};
use warpconv::DType;
use warpconv::io::TensorFile;

use super::{Folder, LAYER, PROGRAM};

#[test]
fn run_writes_the_result() {
    let folder = Folder::new();
    let text = folder.run(&[]).succeeds();
    assert!(text.contains("[1, 2, 2, 2]") && text.contains("f32 contiguous, by conv_"), "{text}");
    let file = TensorFile::open(folder.path("y.safetensors")).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["y"]);
    assert_eq!(file.shape("y").unwrap(), [1, 2, 2, 2]);
    assert_eq!(file.values("y").unwrap(), [10., 10., 10., 10., 20., 20., 20., 20.]);
    assert_eq!(file.dtype("y").unwrap(), Some(DType::F32));
    assert_eq!(folder.names(), ["layer.json", "w.safetensors", "x.safetensors", "y.safetensors"]);
}

#[test]
fn run_in_another_dtype_and_format_with_a_residual() {
    let folder = Folder::new();
    folder.tensors("x.safetensors", &[("x", &[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), ("residual", &[1, 2, 2, 2], &[0.5; 8])]);
    let json: Value = serde_json::from_str(&folder.run(&["--dtype", "bf16", "--format", "channels-last", "--json"]).succeeds()).unwrap();
    assert_eq!(json["y"], serde_json::json!([1, 2, 2, 2]));
    assert_eq!((json["dtype"].as_str(), json["format"].as_str()), (Some("bf16"), Some("channels_last")));
    assert!(json["kernel"].as_str().unwrap().contains("_bf16_"), "{json}");
    let file = TensorFile::open(folder.path("y.safetensors")).unwrap();
    assert_eq!(file.dtype("y").unwrap(), Some(DType::Bf16));
    assert_eq!(file.values("y").unwrap(), [10.5, 10.5, 10.5, 10.5, 20.5, 20.5, 20.5, 20.5]);
    // an output is an input of the next run: a single tensor is x whatever its name, and its dtype is that of the result
    folder.tensors("w.safetensors", &[("weight", &[1, 2, 3, 3], &[1.0; 18])]);
    fs::rename(folder.path("y.safetensors"), folder.path("x.safetensors")).unwrap();
    folder.run(&[]).succeeds();
    let file = TensorFile::open(folder.path("y.safetensors")).unwrap();
    assert_eq!((file.dtype("y").unwrap(), file.values("y").unwrap()), (Some(DType::Bf16), vec![124.0; 4]));
}

#[test]
fn an_output_that_cannot_be_written_leaves_nothing_behind() {
    let folder = Folder::new();
    let before = folder.names();
    let run = |output: &str| {
        let files = ["run", "--layer", "layer.json", "--weights", "w.safetensors", "--input", "x.safetensors", "--output", output];
        folder.warpconv(&files)
    };
    run("missing/y.safetensors").refuses(&["missing/y.safetensors"]);
    run(".").refuses(&["."]);
    assert_eq!(folder.names(), before);
    // what was there before a failed run is still there
    folder.text("y.safetensors", "precious");
    folder.text("layer.json", r#"{"op": "conv2d", "attrs": {"padding": 1, "stride": 0}}"#);
    folder.run(&[]).refuses(&["stride is 0"]);
    assert_eq!(fs::read_to_string(folder.path("y.safetensors")).unwrap(), "precious");
    #[cfg(target_os = "linux")]
    {
        folder.text("layer.json", LAYER);
        run("/dev/full").refuses(&["/dev/full"]);
        run("/dev/null").succeeds();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}

/// The program with a terminal of 120 columns as its stderr: its exit code, and what it showed there.
#[cfg(target_os = "linux")]
fn on_a_terminal(folder: &Folder, arguments: &[&str]) -> (Option<i32>, String) {
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};
    let (mut ours, mut its) = (-1, -1);
    let size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: writes two descriptors and reads a size
    let opened = unsafe { libc::openpty(&mut ours, &mut its, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both were just opened, and nobody else has them
    let (ours, its) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(its)) };
    let mut program = Command::new(PROGRAM);
    program.current_dir(folder.0.path()).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(its));
    let mut child = program.spawn().unwrap();
    drop(program); // with its side of the terminal
    // reading ends in an error when the program has gone
    let (mut shown, mut buffer, mut terminal) = (Vec::new(), [0; 4096], fs::File::from(ours));
    while let Ok(bytes @ 1..) = terminal.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..bytes]);
    }
    (child.wait().unwrap().code(), String::from_utf8_lossy(&shown).into_owned())
}

/// Above a fiftieth of what is allowed, a run is announced with its figures and shows how far it is; below that it does neither.
#[cfg(target_os = "linux")]
#[test]
fn long_runs_say_what_they_do_and_how_far_they_are() {
    let folder = Folder::new();
    // 9 products and a bias for each of 8 outputs
    let files = ["run", "--layer", "layer.json", "--weights", "w.safetensors", "--input", "x.safetensors", "--output", "y.safetensors"];
    let run = |most: &str| on_a_terminal(&folder, &[&files[..], &["--device", "host", "--max-flops", most]].concat());
    let (code, shown) = run("1000");
    assert_eq!(code, Some(0), "{shown}");
    for part in ["work: ", " FLOPs, ", " B to read and write", "0% 00:00:0", "running conv2d, "] {
        assert!(shown.contains(part), "no {part:?} in {shown:?}");
    }
    let (code, shown) = run("1e9");
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("work: ") && !shown.contains("running"), "{shown:?}");
}

#[test]
fn too_much_work_is_refused_with_its_figures() {
    let folder = Folder::new();
    folder.tensors("x.safetensors", &[("x", &[1, 1, 2, 2], &[1.0; 4])]);
    let files = ["run", "--layer", "layer.json", "--input", "x.safetensors", "--output", "y.safetensors", "--device", "host"];
    folder.text("layer.json", r#"{"op": "upsample_bilinear", "attrs": {"scale": [1000000, 400]}}"#);
    let parts = ["14400000000 FLOPs", "6400000016 bytes", "200000000000 FLOPs", "4294967296 bytes are allowed", "--max-bytes"];
    folder.warpconv(&files).refuses(&parts);
    // with leave, as far as the machine goes
    folder.warpconv(&[&files[..], &["--max-bytes", "1e18", "--max-flops", "1"]].concat()).refuses(&["and 1000000000000000000 bytes are"]);
    folder.text("layer.json", r#"{"op": "upsample_bilinear", "attrs": {"scale": [1000, 2]}}"#);
    folder.warpconv(&[&files[..], &["--max-bytes", "32015"]].concat()).refuses(&["32016 bytes", "32015 bytes are allowed"]);
    folder.warpconv(&[&files[..], &["--max-bytes", "32016"]].concat()).succeeds();
    folder.warpconv(&[&files[..], &["--max-bytes", "much"]].concat()).refuses(&["much", "2.5e8"]);

    folder.text("layer.json", r#"{"op": "conv2d", "attrs": {"padding": 15000}}"#);
    folder.run(&[]).refuses(&["conv2d would do", "are allowed"]);
    folder.tensors("x.safetensors", &[("x", &[1, 1, 2, 2], &[1.0; 4]), ("rois", &[20, 5], &[0.0; 100])]);
    folder.text("layer.json", r#"{"op": "roi_pool", "attrs": {"output_size": [1000, 65536]}}"#);
    folder.warpconv(&files).refuses(&["roi_pool would do", "5242880416 bytes"]);

    // a row of a suite that is not scaled down, since its padding is most of it
    let row = r#"{"name": "a/b", "network": "a", "family": "dense", "set": "core", "why": "w", "op": "conv2d", "attrs": {"padding": 1000},
        "tensors": {"x": ["N", 1, 8, 8], "weight": [1, 1, 3, 3]}, "batches": [1]}"#;
    folder.text("suite.json", &format!(r#"{{"format": 1, "rows": [{row}]}}"#));
    let bench = folder.warpconv(&["bench", "--suite", "suite.json", "--tiny", "--device", "host", "--max-bytes", "1e6"]);
    assert!(bench.stdout.contains("are allowed"), "{}{}", bench.stdout, bench.stderr);
    let tune = folder.warpconv(&["tune", "--suite", "suite.json", "--tiny", "--device", "host", "--max-bytes", "1e6"]);
    assert!(tune.code == Some(1) && tune.stdout.contains("are allowed"), "{}{}", tune.stdout, tune.stderr);
}
