//! The program through real processes: what it prints, how it exits, and that bad input never makes it panic or leave half a
//! file.
#![cfg(all(feature = "cli", feature = "host"))]

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use warpconv::io::TensorFile;
use warpconv::{DType, Device};

const PROGRAM: &str = env!("CARGO_BIN_EXE_warpconv");
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torch_dev");

/// A finished process, its output as text.
struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program prints UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Finished {
    #[track_caller]
    fn succeeds(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Exit code 2 and a message with all of `parts`.
    #[track_caller]
    fn refuses(self, parts: &[&str]) {
        let Self { code, stdout, stderr } = self;
        assert_eq!(code, Some(2), "{stdout}{stderr}");
        assert!(stdout.is_empty(), "{stdout}");
        assert!(stderr.contains("error: ") && !stderr.contains("panicked"), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "no {part:?} in: {stderr}");
        }
    }
}

/// A folder with a layer (3x3, stride 1, padding 1), its weights and an input, and a place for the output.
struct Folder(TempDir);

const LAYER: &str = r#"{"op": "conv2d", "attrs": {"padding": 1}}"#;

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.text("layer.json", LAYER);
        folder.tensors("w.safetensors", &[("weight", &[2, 1, 3, 3], &[1.0; 18]), ("bias", &[2], &[0.0, 10.0])]);
        folder.tensors("x.safetensors", &[("x", &[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0])]);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn tensors(&self, name: &str, tensors: &[(&str, &[usize], &[f32])]) {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let data: Vec<_> = tensors.iter().map(|(name, shape, values)| (name, shape, bytes(values))).collect();
        let views = data.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
        fs::write(self.path(name), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// `warpconv` in this folder.
    fn warpconv(&self, arguments: &[&str]) -> Finished {
        Command::new(PROGRAM).current_dir(self.0.path()).args(arguments).output().unwrap().into()
    }

    fn run(&self, options: &[&str]) -> Finished {
        let files = ["run", "--layer", "layer.json", "--weights", "w.safetensors", "--input", "x.safetensors", "--output", "y.safetensors"];
        self.warpconv(&[&files, options, &["--device", "host"]].concat())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn warpconv(arguments: &[&str]) -> Finished {
    Command::new(PROGRAM).args(arguments).output().unwrap().into()
}

#[test]
fn every_command_has_help_with_examples() {
    let help = warpconv(&["--help"]).succeeds();
    assert!(help.contains("Exit codes:"));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // a name is indented by two, a continued description by more
    let names = commands.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    let names: Vec<&str> = names.filter(|name| *name != "help").collect();
    for expected in ["run", "info", "conformance"] {
        assert!(names.contains(&expected), "{help}");
    }
    for name in names {
        let help = warpconv(&[name, "--help"]).succeeds();
        assert!(help.contains("Examples:") && help.contains(&format!("warpconv {name}")), "{help}");
        assert!(help.contains("--device <best|host|cuda:N>"), "{help}");
    }
}

#[test]
fn version_names_the_features() {
    let version = warpconv(&["--version"]).succeeds();
    assert!(version.contains(env!("CARGO_PKG_VERSION")) && version.contains("cli, host"), "{version}");
}

#[test]
fn wrong_usage_is_refused() {
    assert_eq!(warpconv(&[]).code, Some(2));
    warpconv(&["no-such-command"]).refuses(&["no-such-command"]);
    warpconv(&["run"]).refuses(&["--layer"]);
    warpconv(&["info", "--device"]).refuses(&["--device"]);
    for command in ["info", "bench", "tune", "verify"] {
        // refused where it is given, also by a command that needs no device
        let rest: &[&str] = if command == "bench" { &["--list"] } else { &[] };
        warpconv(&[&[command, "--device", "bogus"], rest].concat()).refuses(&["'bogus'", "expected best, host or cuda:N"]);
    }
    if Device::cuda(999).is_err() {
        warpconv(&["info", "--device", "cuda:999"]).refuses(&["cuda"]);
    }
    assert!(warpconv(&["info", "--device", "host"]).succeeds().contains("\n  host "));
    warpconv(&["info", "layer.json", "--input", "1x3x-8x1"]).refuses(&["\"-8\" is no whole number, 0 or larger"]);
    warpconv(&["bench", "--list", "--filter", "no such row"]).refuses(&["they leave no row to run: `warpconv bench --list` shows all"]);
    warpconv(&["info", "layer.json"]).refuses(&["--input"]);
    warpconv(&["info", "layer.json", "--input", "1x3x8"]).refuses(&["1x3x8", "4 are needed"]);
    warpconv(&["info", "layer.json", "--input", "1x3x8x-1"]).refuses(&["1x3x8x-1"]);
    warpconv(&["conformance", CORPUS, "--filter", "("]).refuses(&["'('", "--filter", "open group without closing"]);
    warpconv(&["conformance", CORPUS, "--dtype", "f64"]).refuses(&["f64", "bf16"]);
}

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

/// 2^64 - 1 cases are drawn one by one, and the margins of a case may be of any size.
#[test]
fn verify_holds_one_case_at_a_time() {
    let mut endless = Command::new(PROGRAM);
    endless.args(["verify", "--cases", "18446744073709551615", "--device", "host"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut endless = endless.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let ended = endless.try_wait().unwrap();
    endless.kill().unwrap();
    endless.wait().unwrap();
    assert_eq!(ended, None, "it ended at once");
    let case = r#"{"kind": "k", "layer": {"op": "conv2d"}, "shapes": {"x": [1, 1, 2, 2], "weight": [1, 1, 1, 1]}, "values": "exact",
        "x_margin": [18446744073709551615, 0], "y_margin": [0, 0], "seed": 1}"#;
    warpconv(&["verify", "--device", "host", "--case", case]).refuses(&["x with its margins overflows", "18446744073709551615"]);
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

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(PROGRAM).args(["info", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).contains("panicked")), (Some(0), false));
}

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

/// The names in the table of `verify --json`, and the whole of it.
fn verified(arguments: &[&str]) -> (Vec<String>, Value) {
    let finished = warpconv(&[&["verify", "--device", "host", "--json"], arguments].concat());
    assert_eq!(finished.code, Some(0), "{}{}", finished.stdout, finished.stderr);
    let value: Value = serde_json::from_str(&finished.stdout).unwrap();
    let names = value["kernels"].as_array().unwrap().iter().map(|row| row["kernel"].as_str().unwrap().to_string());
    (names.collect(), value)
}

#[test]
fn verify_runs_only_what_is_wanted() {
    let direct = "conv_direct_f16_channels_last";
    let (all, _) = verified(&["--cases", "6", "--filter", "^conv2d/"]);
    assert!(all.len() > 10 && all.iter().any(|name| name == direct), "{all:?}");
    let (one, _) = verified(&["--cases", "6", "--filter", "^conv2d/", "--kernel", direct]);
    assert_eq!(one, [direct]);
    let (others, _) = verified(&["--cases", "6", "--filter", "^conv2d/", "--skip", direct]);
    assert!(others.len() + 1 >= all.len() && others.iter().all(|name| name != direct), "{others:?}");
    let (none, value) = verified(&["--cases", "6", "--time-limit", "0"]);
    assert_eq!((none.len(), &value["passed"]), (0, &Value::from(0)), "the table comes all the same");
}

#[test]
fn verify_refuses_to_run_nothing() {
    let verify = |options: &[&str]| warpconv(&[&["verify", "--device", "host"], options].concat());
    verify(&["--cases", "0"]).refuses(&["--cases 0", "at least one case", "--every-kernel"]);
    verify(&["--kernel", "conv_direct_f16_channel_last"]).refuses(&["did you mean conv_direct_f16_channels_last?"]);
    verify(&["--kernel", "nonsense"]).refuses(&["--kernel nonsense", "no kernel"]);
    verify(&["--cases", "2", "--filter", "^nonsense"]).refuses(&["--filter", "nonsense", "the kinds are", "conv2d/plain"]);
    // a kernel for channels_last alone, and cases that have no such run
    let never = ["--cases", "1", "--filter", "^pixel_shuffle/", "--kernel", "conv_direct_f16_channels_last"];
    verify(&never).refuses(&["--kernel", "no run", "--every-kernel"]);
}

#[test]
fn verify_reaches_every_kernel_early() {
    // of one family, so that it takes seconds
    let (names, value) =
        verified(&["--cases", "0", "--every-kernel", "--filter", "^(sub_pixel_conv|pixel_shuffle)/.*/(conv_direct|pixel)"]);
    let direct = names.iter().filter(|name| name.starts_with("conv_direct_")).count();
    assert_eq!(direct, 6, "{names:?}");
    let runs: u64 = value["kernels"].as_array().unwrap().iter().map(|row| row["passed"].as_u64().unwrap()).sum();
    assert_eq!(runs, names.len() as u64, "each once: {value}");

    // weights that are not finite rule kernels out that the shapes alone admit: each is looked for until a case has run it
    let text = warpconv(&["verify", "--device", "host", "--cases", "0", "--every-kernel", "--seed", "1"]).succeeds();
    let line = text.lines().find(|line| line.contains(" kernels reached")).unwrap_or_else(|| panic!("{text}"));
    let words: Vec<&str> = line.split(' ').collect();
    assert!(words[0] == words[2] && words[0].parse::<usize>().unwrap() > 200, "{line}");
}

/// What a program that is told to end has found so far is there, and its exit code names the signal.
#[cfg(unix)]
#[test]
fn a_signal_ends_a_command_with_its_table() {
    for (signal, name, code) in [(libc::SIGTERM, "SIGTERM", 143), (libc::SIGINT, "SIGINT", 130)] {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace.txt");
        let mut command = Command::new(PROGRAM);
        command.args(["verify", "--device", "host", "--cases", "1000000", "--filter", "^pixel_shuffle/", "--trace"]).arg(&trace);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // it is at work when it has named a kernel
        let start = std::time::Instant::now();
        while fs::read_to_string(&trace).unwrap_or_default().trim().is_empty() {
            assert!(start.elapsed().as_secs() < 60, "the program does not begin");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // `timeout` sends SIGTERM once more to a program that got it already
        for _ in 0..if signal == libc::SIGTERM { 3 } else { 1 } {
            // SAFETY: a signal to a child that has not been waited for
            assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        }
        let finished = Finished::from(child.wait_with_output().unwrap());
        assert_eq!(finished.code, Some(code), "{}{}", finished.stdout, finished.stderr);
        let lines: Vec<&str> = finished.stdout.lines().collect();
        assert!(lines[0].starts_with("CUT OFF in pixel_shuffle/") && lines[0].ends_with(name), "{}", finished.stdout);
        assert!(lines.last().unwrap().ends_with(" passed, 0 failed"), "{}", finished.stdout);
    }
}

#[test]
fn every_kernel_can_be_skipped_and_nothing_else() {
    warpconv(&["verify", "--device", "host", "--cases", "1", "--skip", "conv_direct_f16_channel_last"])
        .refuses(&["conv_direct_f16_channel_last", "did you mean conv_direct_f16_channels_last"]);
    let helpers = ["transpose_16", "transpose_32", "cast_f32_f32", "cast_f32_f16", "split_sum_f16", "split_sum_bf16"];
    let options = helpers.iter().flat_map(|name| ["--skip", name]);
    let options: Vec<&str> = ["--cases", "3", "--filter", "^conv2d/plain/"].into_iter().chain(options).collect();
    let (names, value) = verified(&options);
    assert_eq!((&value["passed"], &value["failed"]), (&Value::from(3), &Value::from(0)), "{names:?}");
}
