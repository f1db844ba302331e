//! The repository's corpus through the program: every case that this version knows, in every dtype and format.
#![cfg(all(feature = "cli", feature = "host"))]

use std::process::Command;
use warpconv::{Device, DeviceKind};

/// An op and its cases, valid ones and those that must be refused.
const OPS: [(&str, usize); 3] = [("conv2d", 71 + 18), ("conv_transpose2d", 29 + 7), ("deform_conv2d", 22 + 7)];

/// Runs the cases of an op, which must all pass; fails with all of the output.
fn conformance((op, cases): (&str, usize), options: &[&str]) {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torch_dev");
    let mut command = Command::new(env!("CARGO_BIN_EXE_warpconv"));
    let output = command.args(["conformance", corpus, "--filter", &format!("^{op}/"), "--deny-skips"]).args(options).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{options:?}\n{stdout}\n{stderr}");
    assert_eq!(stdout.lines().last(), Some(format!("{cases} passed, 0 failed, 0 skipped").as_str()));
}

#[test]
fn every_case_passes_on_the_host_device() {
    OPS.into_iter().for_each(|op| conformance(op, &["--device", "host", "--dtype", "all", "--format", "all"]));
}

#[test]
fn every_case_passes_with_every_kernel() {
    OPS.into_iter().for_each(|op| conformance(op, &["--device", "host", "--all-kernels"]));
}

/// tests/checker.rs has conv2d, in several orders of the threads.
#[cfg(feature = "checked-host")]
#[test]
fn the_checker_finds_nothing_in_the_other_ops() {
    OPS.into_iter().skip(1).for_each(|op| conformance(op, &["--device", "host", "--all-kernels", "--checked", "--seed", "1"]));
}

#[test]
fn every_case_passes_on_a_gpu_if_there_is_one() {
    if Device::best().unwrap().kind() == DeviceKind::Cuda {
        OPS.into_iter().for_each(|op| conformance(op, &["--device", "cuda:0", "--all-kernels"]));
    }
}
