//! The repository's corpus through the program: every case that this version knows, in every dtype and format.
#![cfg(all(feature = "cli", feature = "host"))]

use std::process::Command;
use warpconv::{Device, DeviceKind};

/// The ops that this version knows.
const OPS: &str = "^(conv2d|conv_transpose2d)/";

/// Runs their cases and gives the last line of the output; fails with all of it.
fn conformance(options: &[&str]) -> String {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torch_dev");
    let mut command = Command::new(env!("CARGO_BIN_EXE_warpconv"));
    let output = command.args(["conformance", corpus, "--filter", OPS, "--deny-skips"]).args(options).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{options:?}\n{stdout}\n{stderr}");
    stdout.lines().last().unwrap_or_default().to_string()
}

/// 71 + 29 valid cases and 18 + 7 that must be refused.
const ALL_PASS: &str = "125 passed, 0 failed, 0 skipped";

#[test]
fn every_case_passes_on_the_host_device() {
    assert_eq!(conformance(&["--device", "host", "--dtype", "all", "--format", "all"]), ALL_PASS);
}

#[test]
fn every_case_passes_with_every_kernel() {
    assert_eq!(conformance(&["--device", "host", "--all-kernels"]), ALL_PASS);
}

#[test]
fn every_case_passes_on_a_gpu_if_there_is_one() {
    if Device::best().unwrap().kind() == DeviceKind::Cuda {
        assert_eq!(conformance(&["--device", "cuda:0", "--all-kernels"]), ALL_PASS);
    }
}
