//! Tuning tables: what is written is read, a match steers the choice of a kernel and nothing else does, and bad files are refused;
//! and `warpconv tune` through real processes.
#![cfg(feature = "host")]

use half::f16;
use rstest::rstest;
use warpconv::bench::Time;
use warpconv::tuning::{TunedKernel, TuningRow};
use warpconv::{
    ChosenBy, Conv2d, Conv2dSpec, DepthwiseSeparableConv2d, DepthwiseSeparableSpec, Device, Element, Error, Explanation, Inputs, Layer,
    MemoryFormat, Padding, PixelShuffle, PixelShuffleSpec, PlanRequest, RoiAlign, RoiAlignSpec, Shape, Tensor, TuningTable,
    UpsampleBilinear, UpsampleBilinearSpec, UpsampleSize,
};

use crate::common::parameter;

const X: Shape = [1, 16, 12, 12];

fn conv() -> Conv2d {
    Conv2d::new(Conv2dSpec { padding: Padding::Same, ..Default::default() }, parameter(&[16, 16, 3, 3], 0)).unwrap()
}

fn request(x: Shape) -> PlanRequest {
    PlanRequest::new(x).format(MemoryFormat::ChannelsLast)
}

fn explain<T: Element>(layer: &impl Layer, device: &Device, request: &PlanRequest) -> Explanation {
    layer.plan::<T>(device, request).unwrap().explain().clone()
}

fn time(median: f64) -> Time {
    Time { median, min: median, max: median, median_deviation: 0.0, samples: 3, launches: 1 }
}

/// A row in which the kernels that apply are the faster, the dearer the cost model takes them to be.
fn reversed(explanation: &Explanation) -> TuningRow {
    let applicable = explanation.choices.iter().filter_map(|choice| Some((choice.kernel, choice.verdict.as_ref().ok()?.seconds)));
    let mut kernels: Vec<_> = applicable
        .enumerate()
        .map(|(i, (kernel, estimate))| TunedKernel {
            kernel: kernel.into(),
            estimate,
            time: Some(time(1e-3 / (i + 1) as f64)),
            message: None,
        })
        .collect();
    kernels.reverse();
    TuningRow { id: "test".into(), problem: explanation.problem.clone(), kernels }
}

fn table(device: &Device, rows: Vec<TuningRow>) -> TuningTable {
    TuningTable { rows, ..TuningTable::new("tuning-test.json", device, true) }
}

/// That a table with the dearest kernel in front makes a plan choose just that.
#[track_caller]
fn is_steered<T: Element>(layer: &impl Layer, request: &PlanRequest) {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let before = explain::<T>(layer, &device, request);
    assert_eq!(before.chosen_by, ChosenBy::CostModel);
    assert!(before.to_string().contains("chosen by the cost model"), "{before}");
    let row = reversed(&before);
    let (slowest, fastest) = (row.kernels.last().unwrap().kernel.clone(), row.kernels[0].kernel.clone());
    assert!(slowest == before.kernel && slowest != fastest, "{before}");
    assert!(device.add_tuning(&table(&device, vec![row])));
    let after = explain::<T>(layer, &device, request);
    assert_eq!((after.kernel, &after.chosen_by), (fastest.as_str(), &ChosenBy::Table("tuning-test.json".into())), "{after}");
    assert!(after.to_string().contains("the fastest by the measured times of tuning-test.json"), "{after}");
    assert_eq!(after.choices[0].kernel, fastest);
    // another device, though it has the same name, has tables of its own
    assert_eq!(explain::<T>(layer, &Device::host_with(warpconv::HostOptions::default()).unwrap(), request).kernel, before.kernel);
}

#[test]
fn every_op_that_chooses_goes_by_a_table() {
    let contiguous = |x| PlanRequest::new(x);
    is_steered::<f16>(&conv(), &request(X));
    is_steered::<f32>(&conv(), &contiguous(X));
    let upsample = UpsampleBilinear::new(UpsampleBilinearSpec { size: UpsampleSize::Scale([2.0, 2.0]), align_corners: false }).unwrap();
    is_steered::<f16>(&upsample, &request(X));
    is_steered::<f16>(&PixelShuffle::new(PixelShuffleSpec { factor: 2, order: Default::default() }).unwrap(), &contiguous([1, 8, 16, 16]));
    is_steered::<f16>(&RoiAlign::new(RoiAlignSpec::new([7, 7])).unwrap(), &request(X).rois(5));
}

#[test]
fn a_pair_of_launches_is_chosen_by_a_table_too() {
    let spec = DepthwiseSeparableSpec { padding: Padding::Same, ..Default::default() };
    let layer = DepthwiseSeparableConv2d::new(spec, parameter(&[64, 1, 3, 3], 0), parameter(&[64, 64, 1, 1], 0)).unwrap();
    let request = request([1, 64, 28, 28]);
    for wanted in ["pair", "fused"] {
        let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
        let before = explain::<f16>(&layer, &device, &request);
        let mut row = reversed(&before);
        for kernel in &mut row.kernels {
            kernel.time = Some(time(if (kernel.kernel == "pair") == (wanted == "pair") { 1e-5 } else { 1e-3 }));
        }
        device.add_tuning(&table(&device, vec![row]));
        let after = explain::<f16>(&layer, &device, &request);
        assert_eq!(after.kernel == "pair", wanted == "pair", "{after}");
        assert_eq!(after.chosen_by, ChosenBy::Table("tuning-test.json".into()), "{after}");
    }
}

#[test]
fn forward_goes_by_a_table_and_computes_the_same() {
    let (layer, plain, tuned) = (
        conv(),
        Device::host_with(warpconv::HostOptions::default()).unwrap(),
        Device::host_with(warpconv::HostOptions::default()).unwrap(),
    );
    let row = reversed(&explain::<f32>(&layer, &tuned, &request(X)));
    tuned.add_tuning(&table(&tuned, vec![row]));
    let y = [plain, tuned].map(|device| {
        // sums of small numbers are exact, in whatever order a kernel adds them
        let values: Vec<f32> = (0..16 * 144).map(|i| (i % 7) as f32).collect();
        let x = Tensor::from_slice(&device, X, &values).unwrap().to_format(MemoryFormat::ChannelsLast).unwrap();
        layer.forward(&Inputs::new(&x)).unwrap().to_vec().unwrap()
    });
    assert_eq!(y[0], y[1]);
}

#[test]
fn only_the_exact_problem_is_steered() {
    let (layer, device) = (conv(), Device::host_with(warpconv::HostOptions::default()).unwrap());
    let row = reversed(&explain::<f16>(&layer, &device, &request(X)));
    device.add_tuning(&table(&device, vec![row]));
    let by = |layer: &Conv2d, request: &PlanRequest| explain::<f16>(layer, &device, request).chosen_by;
    assert_ne!(by(&layer, &request(X)), ChosenBy::CostModel);
    // the tail is no part of the problem
    assert_ne!(by(&layer.clone().with_bias(parameter(&[16], 0)).unwrap(), &request(X)), ChosenBy::CostModel);
    for other in [[2, 16, 12, 12], [1, 16, 12, 13]] {
        assert_eq!(by(&layer, &request(other)), ChosenBy::CostModel);
    }
    assert_eq!(by(&layer, &PlanRequest::new(X)), ChosenBy::CostModel);
    assert_eq!(by(&layer, &request(X).output_format(MemoryFormat::Contiguous)), ChosenBy::CostModel);
    assert_eq!(explain::<f32>(&layer, &device, &request(X)).chosen_by, ChosenBy::CostModel);
    let specs = [
        Conv2dSpec { padding: Padding::all(2), dilation: [2, 2], ..Default::default() },
        Conv2dSpec { padding: Padding::all(1), stride: [2, 2], ..Default::default() },
        Conv2dSpec { padding: Padding::all(2), ..Default::default() },
    ];
    for spec in specs {
        assert_eq!(by(&Conv2d::new(spec, parameter(&[16, 16, 3, 3], 0)).unwrap(), &request(X)), ChosenBy::CostModel, "{spec:?}");
    }
    // who asks for a kernel gets it, and a table of some batches has no say where the batch may not matter
    assert_eq!(by(&layer, &request(X).kernel("conv_direct_f16_channels_last")), ChosenBy::Request);
    assert_eq!(by(&layer, &request(X).batch_invariant()), ChosenBy::CostModel);
}

#[test]
fn a_kernel_that_does_not_apply_is_passed_over() {
    let (layer, device) = (conv(), Device::host_with(warpconv::HostOptions::default()).unwrap());
    let before = explain::<f16>(&layer, &device, &request(X));
    let mut row = reversed(&before);
    let second = row.kernels[0].kernel.clone();
    let kernel = "conv_direct_f32_contiguous".into();
    row.kernels.insert(0, TunedKernel { kernel, estimate: 1.0, time: Some(time(1e-9)), message: None });
    // and so is one whose result was wrong
    let wrong = before.kernel.into();
    row.kernels.retain(|kernel| kernel.kernel != before.kernel);
    row.kernels.push(TunedKernel { kernel: wrong, estimate: 1.0, time: None, message: Some("wrong: ...".into()) });
    device.add_tuning(&table(&device, vec![row]));
    assert_eq!(explain::<f16>(&layer, &device, &request(X)).kernel, second);
}

#[test]
fn a_later_table_comes_first() {
    let (layer, device) = (conv(), Device::host_with(warpconv::HostOptions::default()).unwrap());
    let row = reversed(&explain::<f16>(&layer, &device, &request(X)));
    let mut other = row.clone();
    other.kernels.swap(0, 1);
    let times = row.kernels.iter().map(|kernel| kernel.time);
    other.kernels.iter_mut().zip(times).for_each(|(kernel, time)| kernel.time = time);
    device.add_tuning(&table(&device, vec![row]));
    device.add_tuning(&TuningTable { name: "later".into(), ..table(&device, vec![other.clone()]) });
    let after = explain::<f16>(&layer, &device, &request(X));
    assert_eq!((after.kernel, after.chosen_by), (other.kernels[0].kernel.as_str(), ChosenBy::Table("later".into())));
    assert_eq!(device.tunings(), [("later".to_string(), 1), ("tuning-test.json".to_string(), 1)]);
}

#[rstest]
#[case::a_gpu(|table: &mut TuningTable| (table.device.kind, table.device.name) = ("cuda".into(), "NVIDIA H200".into()), "NVIDIA H200")]
#[case::a_gpu_of_the_same_name(|table: &mut TuningTable| table.device.kind = "cuda".into(), "cuda")]
#[case::another_cpu(|table: &mut TuningTable| table.device.name = "CPU, 999 threads, AVX2 build".into(), "999")]
#[case::another_version(|table: &mut TuningTable| table.version = "0.0.9".into(), "0.0.9")]
fn a_table_of_something_else_has_no_say(#[case] change: fn(&mut TuningTable), #[case] why: &str) {
    let (layer, device) = (conv(), Device::host_with(warpconv::HostOptions::default()).unwrap());
    let row = reversed(&explain::<f16>(&layer, &device, &request(X)));
    let mut table = table(&device, vec![row]);
    assert_eq!(table.mismatch(&device), None);
    change(&mut table);
    assert!(table.mismatch(&device).is_some_and(|said| said.contains(why)), "{:?}", table.mismatch(&device));
    assert!(!device.add_tuning(&table) && device.tunings().is_empty());
    assert_eq!(explain::<f16>(&layer, &device, &request(X)).chosen_by, ChosenBy::CostModel);
}

#[test]
fn a_table_is_its_own_json_and_knows_its_regret() {
    let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let row = |id: &str, times: &[(f64, f64)]| TuningRow {
        id: id.into(),
        problem: id.into(),
        kernels: times
            .iter()
            .zip(["conv_direct_f16_contiguous", "conv_direct_f16_channels_last"])
            .map(|(&(estimate, median), kernel)| TunedKernel { kernel: kernel.into(), estimate, time: Some(time(median)), message: None })
            .collect(),
    };
    let rows = vec![row("right", &[(1.0, 2e-6), (2.0, 3e-6)]), row("wrong", &[(2.0, 1e-6), (1.0, 4e-6)]), row("alone", &[(1.0, 1e-6)])];
    let table = table(&device, rows);
    let text = serde_json::to_string(&table).unwrap();
    assert_eq!(TuningTable::parse("tuning-test.json", &text).unwrap(), table);
    assert_eq!((table.rows[0].regret(), table.rows[1].regret()), (Some(1.0), Some(4.0)));
    let regret = table.regret();
    assert_eq!((regret.problems, regret.best, regret.worst), (2, 1, 4.0));
    assert!((regret.mean - 2.0).abs() < 1e-12);

    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let error = TuningTable::parse("t.json", &text.replacen(from, to, 1)).unwrap_err();
        assert!(matches!(&error, Error::Parse { source_name, .. } if source_name == "t.json"), "{error}");
        error.to_string()
    };
    assert!(refused("conv_direct_f16_contiguous", "winograd").contains("right: this build has no kernel \"winograd\""));
    assert!(refused("\"format\":1", "\"format\":7").contains("format 7"));
    assert!(refused("\"estimate\"", "\"estimated\"").contains("estimated"));
    assert!(refused("\"median\":2e-6", "\"median\":-1.0").contains("-1 seconds"));
    assert!(refused("\"rows\"", "\"lines\"").contains("lines"));
    // the kernels of another version need not be there
    let older = text.replacen("conv_direct_f16_contiguous", "winograd", 1).replacen(&table.version, "0.0.9", 1);
    TuningTable::parse("t.json", &older).unwrap();
    let missing = TuningTable::open(std::path::Path::new("no/such.json")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
}

#[cfg(feature = "cli")]
mod program {
    use super::*;
    use serde_json::Value;
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Output};

    const ROWS: &str = "^(mobilenet_v2/dw3_960x7 b8 f16|efficientnet_b0/1x1_112to672x14 b8 f32)";

    fn warpconv(folder: &Path, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_warpconv")).current_dir(folder).args(arguments).output().unwrap()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[track_caller]
    fn succeeds(output: Output) -> String {
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    fn read(path: &Path) -> TuningTable {
        TuningTable::open(path).unwrap()
    }

    /// That every key is one that benches/results/README.md names.
    fn obeys_the_schema(value: &Value) {
        let schema = include_str!("../benches/results/README.md");
        let schema = schema.split_once("## `tuning-").unwrap().1;
        let known = |value: &Value| {
            for key in value.as_object().unwrap().keys() {
                assert!(schema.contains(&format!("`{key}`")), "{key} is not in benches/results/README.md");
            }
        };
        known(value);
        for row in value["rows"].as_array().unwrap() {
            known(row);
            row["kernels"].as_array().unwrap().iter().for_each(known);
        }
    }

    #[test]
    fn rows_are_tuned_and_their_table_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let output = succeeds(warpconv(folder, &["tune", "--tiny", "--device", "host", "--filter", ROWS, "--out", "new/tables"]));
        assert!(output.contains("HOST DEVICE") && output.contains("problems with a choice") && output.contains("regret"), "{output}");
        let path = folder.join("new/tables/tuning-host.json");
        obeys_the_schema(&serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap());
        let table = read(&path);
        assert!(table.tiny && table.device.kind == "host" && table.name == "tuning-host.json");
        let ids: Vec<&str> = table.rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids.len(), 3, "{ids:?}"); // f16 in both formats, f32
        for row in &table.rows {
            let times: Vec<f64> = row.kernels.iter().map(|kernel| kernel.time.unwrap().median).collect();
            assert!(times.len() > 1 && times.is_sorted() && times[0] > 0.0, "{row:?}");
            assert!(row.regret().unwrap() >= 1.0);
            assert!(output.contains(&row.id) && output.contains(&row.kernels[0].kernel), "{output}");
        }

        // a table that was made to name the slowest as the fastest
        fs::write(folder.join("layer.json"), r#"{"op": "conv2d", "attrs": {"padding": 1}}"#).unwrap();
        let info = |more: &[&str]| {
            let layer = ["info", "layer.json", "--input", "1x16x12x12", "--dtype", "f16", "--format", "channels-last", "--device", "host"];
            succeeds(warpconv(folder, &[&layer, more].concat()))
        };
        let plan = |more: &[&str]| serde_json::from_str::<Value>(&info(&[more, &["--json"]].concat())).unwrap()["plan"].clone();
        assert!(info(&[]).contains("chosen by the cost model"));
        let before = plan(&[]);
        let device = Device::host_with(warpconv::HostOptions::default()).unwrap();
        let row = reversed(&explain::<f16>(&conv(), &device, &request(X)));
        assert_eq!(before["problem"], row.problem, "the same layer");
        let slowest = row.kernels[0].kernel.clone();
        let save = |name: &str, table: &TuningTable| fs::write(folder.join(name), serde_json::to_string(table).unwrap()).unwrap();
        save("mine.json", &super::table(&device, vec![row.clone()]));
        let after = plan(&["--tuning", "mine.json"]);
        assert_eq!(after["kernel"], slowest);
        assert_eq!(after["chosen_by"], "the fastest by the measured times of mine.json");
        let machine = succeeds(warpconv(folder, &["info", "--tuning", "mine.json"]));
        assert!(machine.contains("mine.json knows 1 problems"), "{machine}");

        // one of a GPU is passed over, with a word on why; one that names no kernel is refused
        let mut other = super::table(&device, vec![row]);
        (other.device.kind, other.device.name) = ("cuda".into(), "NVIDIA H200".into());
        save("gpu.json", &other);
        assert_eq!(plan(&["--tuning", "gpu.json"])["kernel"], before["kernel"]);
        let said = warpconv(folder, &["info", "--tuning", "gpu.json"]);
        assert!(text(&said.stderr).contains("gpu.json is not used on host: it is for NVIDIA H200"), "{}", text(&said.stderr));
        other.rows[0].kernels[0].kernel = "winograd".into();
        save("bad.json", &other);
        let refused = warpconv(folder, &["verify", "--cases", "1", "--device", "host", "--tuning", "bad.json"]);
        assert!(refused.status.code() == Some(2) && text(&refused.stderr).contains("no kernel \"winograd\""), "{}", text(&refused.stderr));
    }

    #[test]
    fn what_cannot_be_tuned_is_refused_and_the_time_limit_holds() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |arguments: &[&str], part: &str| {
            let output = warpconv(folder.path(), &[&["tune", "--device", "host"], arguments].concat());
            assert!(output.status.code() == Some(2) && text(&output.stderr).contains(part), "{}", text(&output.stderr));
        };
        refused(&["--core"], "--tiny");
        refused(&["--tiny", "--filter", "no such row"], "--list");
        refused(&["--tiny", "--suite", "none.json"], "none.json");
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is written");
        let output = succeeds(warpconv(folder.path(), &["tune", "--device", "host", "--tiny", "--core", "--time-limit", "0"]));
        assert!(output.contains("not run, since the time was up") && output.contains("0 out of 0 problems"), "{output}");
        assert!(read(&folder.path().join("tuning-host.json")).rows.is_empty());
    }
}
