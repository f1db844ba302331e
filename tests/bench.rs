//! The benchmark through real processes: the suite that is in the program, its results' schema, and the merge with peers.
#![cfg(all(feature = "cli", feature = "host"))]

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use warpconv::bench::{Results, Status, Suite};

const ROWS: &str = "^(mobilenet_v2/dw3_960x7|resnext50_32x4d/g32_1024x7|efficientnet_b0/1x1_112to672x14|drn_d_22/d2_256x64)";
const SUITE: &str = r#"{"format": 1, "rows": [
    {"name": "t/a", "network": "t", "family": "dense", "set": "core", "why": "w", "op": "conv2d", "attrs": {"padding": 1},
     "tensors": {"x": ["N", 8, 12, 12], "weight": [8, 8, 3, 3]}, "series": {"name": "s", "axis": "kernel size", "value": 3}},
    {"name": "t/b", "network": "t", "family": "pointwise", "set": "extended", "why": "w", "op": "conv2d",
     "tensors": {"x": ["N", 8, 12, 12], "weight": [8, 8, 1, 1]}, "series": {"name": "s", "axis": "kernel size", "value": 1}},
    {"name": "t/d", "network": "t", "family": "dense", "set": "core", "why": "w", "op": "conv2d",
     "tensors": {"x": ["N", 8, 12, 12], "weight": [4, 8, 3, 3]}},
    {"name": "t/c", "network": "t", "family": "dense", "set": "core", "why": "w", "op": "an_op_of_tomorrow", "attrs": {"new": 1},
     "tensors": {"x": ["N", 8, 12, 12]}, "batches": [1]}]}"#;

fn bench(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warpconv")).current_dir(folder).arg("bench").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn read(folder: &TempDir, name: &str) -> Results {
    Results::parse(name, &fs::read_to_string(folder.path().join(name)).unwrap()).unwrap()
}

/// That every key of a JSON object is one that results/README.md names, and that what must be there is there.
fn obeys_the_schema(value: &Value) {
    let schema = include_str!("../benches/results/README.md");
    let known = |key: &str| assert!(schema.contains(&format!("`{key}`")), "{key} is not in benches/results/README.md");
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for key in keys(value).iter().chain(&keys(&value["device"])).chain(&keys(&value["floors"])) {
        known(key);
    }
    for row in value["rows"].as_array().unwrap() {
        keys(row).iter().for_each(|key| known(key));
        if row["status"] == "timed" {
            for nested in ["time", "floor", "checked"] {
                keys(&row[nested]).iter().for_each(|key| known(key));
            }
            let time = &row["time"];
            let number = |key: &str| time[key].as_f64().unwrap();
            assert!(0.0 < number("min") && number("min") <= number("median") && number("median") <= number("max"), "{row}");
            assert!(row["checked"]["sampled"].as_u64().unwrap() > 0, "{row}");
            let percent = 100.0 * row["floor"]["seconds"].as_f64().unwrap() / number("median");
            assert!((row["percent_of_floor"].as_f64().unwrap() / percent - 1.0).abs() < 1e-9, "{row}");
        } else {
            assert!(row["time"].is_null() && !row["message"].is_null(), "{row}");
        }
    }
}

#[test]
fn rows_of_the_suite_run_on_the_host_device() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(folder.path(), &["--tiny", "--device", "host", "--filter", ROWS, "--json", "r.json", "--plot", "plots"]);
    let table = succeeds(&output);
    assert!(table.contains("HOST DEVICE") && table.contains("say nothing of a GPU"), "{table}");
    let results = read(&folder, "r.json");
    assert!(results.tiny && results.device.kind == "host" && results.label.contains("HOST DEVICE"));
    let timed: Vec<&str> = results.rows.iter().filter(|row| row.status == Status::Timed).map(|row| row.id.as_str()).collect();
    assert_eq!(timed.len(), results.rows.len(), "{results:?}");
    // without a tail, with bias, activation and residual, and in the other dtypes
    for id in ["drn_d_22/d2_256x64 b8 f16 channels_last tail", "efficientnet_b0/1x1_112to672x14 b8 f32 channels_last"] {
        assert!(timed.contains(&id), "{timed:?}");
    }
    obeys_the_schema(&serde_json::from_str(&fs::read_to_string(folder.path().join("r.json")).unwrap()).unwrap());
    for plot in ["roofline.png", "families.png"] {
        let picture = image::open(folder.path().join("plots").join(plot)).unwrap().to_rgb8();
        assert!(picture.pixels().any(|pixel| pixel.0 != [255; 3]), "{plot} is empty");
    }
}

#[test]
fn a_suite_of_ones_own_its_peers_and_its_baseline() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("s.json"), SUITE).unwrap();
    let run = ["--suite", "s.json", "--tiny", "--device", "host", "--batch", "1,8", "--json", "r.json"];
    let table = succeeds(&bench(folder.path(), &run));
    assert!(table.contains("does not have the op: an_op_of_tomorrow (1)"), "{table}");
    let results = read(&folder, "r.json");
    assert_eq!(results.rows.len(), 7);
    obeys_the_schema(&serde_json::to_value(&results).unwrap());

    // a peer that is twice as slow on one row, ten times as fast on another, and ran another shape on the rest
    let median = |id: &str| results.rows.iter().find(|row| row.id == id).unwrap().time.unwrap().median;
    let time = |median: f64| json!([{ "name": "torch eager", "median": 5.0 * median }, { "name": "torch graph", "median": median }]);
    let x = json!(results.rows[0].x);
    let peers = json!({ "format": 1, "peer": { "name": "PyTorch", "versions": { "torch": "2" }, "device": "cpu" }, "rows": [
        { "key": "t/a b8 f16", "x": x, "times": time(2.0 * median("t/a b8 f16 channels_last")), "workspace_bytes": 1024 },
        { "key": "t/b b8 f16", "x": x, "times": time(0.1 * median("t/b b8 f16 channels_last")) },
        { "key": "t/a b1 f16", "x": [7, 7, 7, 7], "times": time(1.0) },
        { "key": "t/b b1 f16", "x": x, "times": [], "message": "it failed" },
    ]});
    fs::write(folder.path().join("p.json"), peers.to_string()).unwrap();
    let merge = ["--from", "r.json", "--peers", "p.json", "--json", "m.json", "--plot", "plots", "--baseline", "r.json"];
    let output = bench(folder.path(), &merge);
    let table = succeeds(&output);
    assert!(table.contains("torch graph") && table.contains("0 rows are slower than the baseline"), "{table}");
    let merged = read(&folder, "m.json");
    let ratio = |id: &str| merged.rows.iter().find(|row| row.id == id).unwrap().ratio;
    assert!((ratio("t/a b8 f16 channels_last").unwrap() - 2.0).abs() < 1e-9);
    assert!((ratio("t/b b8 f16 channels_last").unwrap() - 0.1).abs() < 1e-9);
    assert_eq!((ratio("t/a b1 f16 channels_last"), ratio("t/b b1 f16 channels_last")), (None, None));
    assert_eq!(merged.peers[0].name, "PyTorch");
    obeys_the_schema(&serde_json::to_value(&merged).unwrap());
    for plot in ["roofline.png", "families.png", "batch.png", "series-kernel-size.png"] {
        assert!(folder.path().join("plots").join(plot).exists(), "{plot}");
    }

    // what is slower beyond the spread is told
    let mut faster = results.clone();
    for row in &mut faster.rows {
        if let Some(time) = &mut row.time {
            (time.median, time.median_deviation) = (time.median / 1e3, 0.0);
        }
    }
    let mut slower = results;
    for time in slower.rows.iter_mut().filter_map(|row| row.time.as_mut()) {
        time.median_deviation = 0.0;
    }
    fs::write(folder.path().join("fast.json"), serde_json::to_string(&faster).unwrap()).unwrap();
    fs::write(folder.path().join("slow.json"), serde_json::to_string(&slower).unwrap()).unwrap();
    let output = bench(folder.path(), &["--from", "slow.json", "--baseline", "fast.json"]);
    assert!(succeeds(&output).contains("6 rows are slower"));
    assert!(text(&output.stderr).contains("t/a b8 f16 channels_last takes 1000.00 times as long"), "{}", text(&output.stderr));
}

#[test]
fn what_cannot_run_is_refused_before_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.json"), SUITE.replacen("\"padding\": 1", "\"pading\": 1", 1)).unwrap();
    fs::write(folder.path().join("p.json"), r#"{"format": 3, "peer": {"name": "", "versions": {}, "device": ""}, "rows": []}"#).unwrap();
    let refused = |arguments: &[&str], part: &str| {
        let output = bench(folder.path(), arguments);
        let message = text(&output.stderr);
        assert!(output.status.code() == Some(2) && message.contains(part), "{message}");
    };
    refused(&["--device", "host"], "--tiny");
    refused(&["--tiny", "--device", "host", "--filter", "no such row"], "--list");
    refused(&["--tiny", "--device", "host", "--peers", "p.json"], "format 3");
    refused(&["--tiny", "--device", "host", "--suite", "none.json"], "none.json");
    // a row that no layer can be made of is listed, and does not stop the others
    let output = bench(folder.path(), &["--tiny", "--device", "host", "--suite", "bad.json"]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{table}{}", text(&output.stderr));
    assert!(table.contains("FAILED: t/a b8 f16 channels_last") && table.contains("pading") && table.contains("t/b b8"), "{table}");
}

/// Rows from which nothing can be made: each has a line with what is wrong, and the program exits with 1.
#[test]
fn rows_that_cannot_be_run_fail_and_do_not_panic() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        ("conv2d", "{}", r#"{"x": ["N", 2, 4, 4], "weight": [2, 2, 1, 1], "biass": [8]}"#, "conv2d has no biass"),
        (
            "conv2d",
            r#"{"groups": 3}"#,
            r#"{"x": ["N", 2, 4, 4], "weight": [2, 2, 1, 1]}"#,
            "C_out is 2, which is not divisible by groups = 3",
        ),
        (
            "roi_align",
            r#"{"output_size": 2, "spatial_scale": 1e-38}"#,
            r#"{"x": ["N", 2, 4, 4], "rois": [3, 5]}"#,
            "spatial_scale is 1e-38",
        ),
    ];
    let row = |(index, (op, attrs, tensors, _)): (usize, &(&str, &str, &str, &str))| {
        format!(
            r#"{{"name": "t/{index}", "network": "t", "family": "f", "set": "core", "why": "w", "op": "{op}", "attrs": {attrs},
                "tensors": {tensors}, "batches": [2]}}"#
        )
    };
    let all: Vec<String> = rows.iter().enumerate().map(row).collect();
    fs::write(folder.path().join("s.json"), format!("\u{feff}{{\"format\": 1, \"rows\": [{}]}}", all.join(","))).unwrap();
    for command in ["bench", "tune"] {
        let run = [command, "--suite", "s.json", "--tiny", "--device", "host"];
        let output = Command::new(env!("CARGO_BIN_EXE_warpconv")).current_dir(folder.path()).args(run).output().unwrap();
        let (table, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.code() == Some(1) && !errors.contains("panicked"), "{table}{errors}");
        for (index, (.., message)) in rows.iter().enumerate() {
            let line = table.lines().find(|line| line.contains(&format!(": t/{index} b2 f16 channels_last: ")));
            assert!(line.is_some_and(|line| line.contains(message)), "{message}: {table}");
        }
    }
}

/// Figures that no run has, up to the ends of f64, and names longer than a table's column can be.
#[test]
fn plots_of_any_figures_end() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("s.json"), SUITE).unwrap();
    let run = ["--suite", "s.json", "--tiny", "--device", "host", "--batch", "1,8", "--json", "r.json"];
    succeeds(&bench(folder.path(), &run));
    let results = read(&folder, "r.json");
    for value in [f64::MAX, f64::MIN_POSITIVE, 5e-324, 0.0, -1.0, 1e30] {
        let mut changed = results.clone();
        changed.label = "l".repeat(70_000);
        for (index, row) in changed.rows.iter_mut().enumerate() {
            let Some(time) = &mut row.time else { continue };
            (time.median, time.min, time.max) = (value, value, value);
            row.flops_per_second = Some(if index % 2 == 0 { value } else { 1e9 });
            row.percent_of_floor = Some(if index % 3 == 0 { value } else { 50.0 });
            row.ratio = Some(value);
            row.batch = if index % 2 == 0 { usize::MAX } else { 1 };
            (row.id, row.family) = (format!("{}{index}", "n".repeat(65_536)), "f".repeat(65_536));
            if let Some(series) = &mut row.series {
                (series.axis, series.value) = ("../a/b ".repeat(100), if index % 2 == 0 { value } else { 3.0 });
            }
        }
        (changed.floors.copy_bytes_per_second, changed.floors.tensor_flops_per_second) = (value, value);
        fs::write(folder.path().join("m.json"), serde_json::to_string(&changed).unwrap()).unwrap();
        let start = std::time::Instant::now();
        succeeds(&bench(folder.path(), &["--from", "m.json", "--plot", "plots"]));
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "{value}: {:?}", start.elapsed());
    }
    let beside: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 4, "{beside:?}");
}

#[test]
fn the_time_limit_and_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--tiny", "--device", "host", "--core", "--time-limit", "0", "--json", "r.json"];
    let table = succeeds(&bench(folder.path(), &options));
    assert!(table.contains("not run, since the time was up"), "{table}");
    let results = read(&folder, "r.json");
    assert!(results.rows.iter().all(|row| row.status == Status::NotRun && row.message.is_some()));
    let list = succeeds(&bench(folder.path(), &["--list"]));
    let configurations = Suite::built_in().unwrap().configurations().len();
    assert!(list.ends_with(&format!("{configurations} configurations\n")), "{list}");
}
