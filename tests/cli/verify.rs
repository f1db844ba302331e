//! `warpconv verify`: which kernels run, and how a run ends.

use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

use super::{Finished, PROGRAM, warpconv};

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
