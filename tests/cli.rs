//! The program through real processes: what it prints, how it exits, and that bad input never makes it panic or leave half a
//! file.
#![cfg(all(feature = "cli", feature = "host"))]

use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use warpconv::Device;

mod conformance;
mod info;
mod refusals;
mod run;
mod verify;

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
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(PROGRAM).args(["info", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).contains("panicked")), (Some(0), false));
}
