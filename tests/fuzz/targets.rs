//! The kinds of inputs, and what is done with one: as much as the program does with it, on work that is small.

use crate::mutate::{Format, split};
use crate::pictures::Picture;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use warpconv::analysis::Limits;
use warpconv::bench::{Bench, Effort, Peers, Results, Scale, Suite};
use warpconv::cases::Problem;
use warpconv::check::{Case, Failure, Kernels};
use warpconv::half::{bf16, f16};
use warpconv::io::{TensorFile, read_text};
use warpconv::{AnyLayer, DType, Device, Error, HostOptions, Layer, LayerSpec, MemoryFormat, PlanRequest, Result, TuningTable, reference};

/// Does with an input what the program would, and says whether the input was good.
pub type Attempt = Box<dyn Fn(&[u8]) -> bool>;

/// A kind of input.
pub struct Target {
    pub name: &'static str,
    /// Inputs in a second on 2 cores, where two targets run at a time.
    pub pace: u64,
    pub format: Format,
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Makes what the inputs are given to.
    pub prepare: fn() -> Attempt,
}

pub const TARGETS: &[Target] = &[
    Target { name: "layer", pace: 1900, format: Format::Json, seeds: layer_seeds, prepare: layer },
    Target { name: "shapes", pace: 240, format: Format::Json, seeds: shapes_seeds, prepare: shapes },
    Target { name: "safetensors", pace: 5800, format: Format::Headed, seeds: safetensors_seeds, prepare: safetensors_file },
    Target { name: "suite", pace: 35, format: Format::Json, seeds: suite_seeds, prepare: suite },
    Target { name: "results", pace: 690, format: Format::Json, seeds: || files("results"), prepare: results },
    Target { name: "tuning", pace: 7400, format: Format::Json, seeds: || files("tuning"), prepare: tuning },
    Target { name: "corpus", pace: 180, format: Format::Headed, seeds: corpus_seeds, prepare: corpus },
    Target { name: "image", pace: 100, format: Format::Image, seeds: image_seeds, prepare: image_file },
];

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_warpconv");

/// What is run; the rest is planned, and refused by the program's own limits.
const SMALL: Limits = Limits { flops: 3_000_000, bytes: 4 << 20 };

/// The most products in a sum that is run.
const LONGEST_SUM: usize = 20_000;

/// The files of tests/data/fuzz/NAME, in the order of their names.
fn files(name: &str) -> Vec<Vec<u8>> {
    let folder = fs::read_dir(Path::new(ROOT).join("tests/data/fuzz").join(name)).expect("the target has a folder of seeds");
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed can be read")).collect()
}

/// One thread: targets run beside one another, and findings are to come again.
fn device(checked: bool) -> Device {
    Device::host_with(HostOptions { threads: 1, checked, ..Default::default() }).expect("there is a host device")
}

fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

/// A number that depends on the input alone, so that what was found comes again.
fn draw(input: &[u8]) -> usize {
    input.iter().fold(7, |hash: usize, &byte| hash.wrapping_mul(31).wrapping_add(byte.into())) >> 3
}

/// What is wrong with a run: a panic, or something that a kernel should not do. That values are right is for `verify` to say.
fn panic_at_faults(runs: Vec<warpconv::check::Run>) {
    for run in runs {
        if let Err(Failure::Panic(_) | Failure::Error(Error::Kernel { .. })) = &run.outcome {
            panic!("{run}");
        }
    }
}

/// Plans a problem, and runs it where that is little work.
fn try_problem(problem: &Problem, device: &Device, dtypes: &[DType], kernels: Kernels) -> Result<()> {
    problem.check()?;
    for &dtype in dtypes {
        SMALL.check(&problem.cost(dtype)?)?;
        // a kernel computes whole tiles, be the output one pixel: no FLOP of the layer tells how long a sum over many taps takes
        let weights = problem.shapes.iter().filter(|(name, _)| name.ends_with("weight"));
        if weights.map(|(_, shape)| shape[1..].iter().product::<usize>()).any(|products| products > LONGEST_SUM) {
            return Ok(());
        }
        let tensors = problem.tensors(dtype)?;
        let (output, scale) = reference::layer(&problem.layer, &tensors)?;
        let case = Case::new(problem.layer, &tensors, output, scale.into_data())?.frames(problem.frames());
        for format in MemoryFormat::ALL {
            panic_at_faults(case.check(dtype, format, format, kernels, device));
        }
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------------------------------------------

/// A layer's JSON file, from which the program tells everything but the shape of x.
fn layer_seeds() -> Vec<Vec<u8>> {
    let mut seeds = files("layer");
    let layers = (0..200).map(|index| Problem::random(7, index).layer);
    seeds.extend(layers.map(|layer| serde_json::to_vec(&layer).expect("a layer can be written")));
    seeds
}

fn layer() -> Attempt {
    let device = device(false);
    Box::new(move |input| {
        let Some(spec) = text(input).and_then(|text| LayerSpec::from_json(text).ok()) else { return false };
        let again = serde_json::to_string(&spec).expect("a spec can be written");
        // NaN is written as null, which no attribute is
        if !again.contains("null") {
            assert_eq!(LayerSpec::from_json(&again).ok().map(|spec| json!(spec)), Some(json!(spec)), "{again}");
        }
        let x = [[1, 8, 9, 10], [2, 4, 6, 6], [1, 12, 1, 40], [1, 1, 1, 1], [1, 65536, 8, 8], [3, 16, 30000, 30000]][draw(input) % 6];
        one_layer(&spec, x, &device).is_ok()
    })
}

fn one_layer(spec: &LayerSpec, x: [usize; 4], device: &Device) -> Result<()> {
    let shapes = spec.typical_parameters(x, None);
    let outline = spec.outline(shapes.clone())?;
    let rois = spec.signature().inputs.contains(&"rois");
    let request = if rois { PlanRequest::new(x).rois(3) } else { PlanRequest::new(x) };
    outline.output_shape(&request)?;
    for format in MemoryFormat::ALL {
        let request = request.clone().format(format);
        let _ = outline.explain::<f32>(device, &request)?.to_string();
        outline.explain::<f16>(device, &request)?;
        outline.explain::<bf16>(device, &request.batch_invariant())?;
    }
    let mut problem = Problem::new(*spec, &[("x", &x)]);
    problem.shapes.extend(shapes.into_iter().map(|(name, shape)| (name.to_string(), shape)));
    if rois {
        problem.shapes.insert("rois".into(), vec![3, 5]);
    }
    match try_problem(&problem, device, &[DType::F32], Kernels::Chosen) {
        // offsets and masks, of which the spec says nothing, and work that is too much here
        Err(Error::MissingTensor { .. } | Error::Work { .. }) => Ok(()),
        outcome => outcome,
    }
}

/// The whole of a problem, as `verify --case` takes it.
fn shapes_seeds() -> Vec<Vec<u8>> {
    // what was found once comes first
    let mut seeds = files("shapes");
    let problems = (0..400).map(|index| Problem::random(7, index));
    seeds.extend(problems.map(|problem| serde_json::to_vec(&problem).expect("a problem can be written")));
    seeds
}

fn shapes() -> Attempt {
    let (plain, checked) = (device(false), device(true));
    Box::new(move |input| {
        let Ok(problem) = serde_json::from_slice::<Problem>(input) else { return false };
        let turn = draw(input);
        let (device, kernels) = if turn.is_multiple_of(4) { (&checked, Kernels::Chosen) } else { (&plain, Kernels::All) };
        let dtype = DType::ALL[turn / 4 % 3];
        let outcome = try_problem(&problem, device, &[dtype], kernels);
        if turn.is_multiple_of(8) {
            problem.simpler();
        }
        outcome.is_ok()
    })
}

/// Weights, inputs and what else a safetensors file can have.
fn safetensors_seeds() -> Vec<Vec<u8>> {
    let file = |tensors: &[(&str, Dtype, &[usize])]| {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, dtype, shape)| (0..shape.iter().product::<usize>() * dtype.bitsize() / 8).map(|i| (i % 61) as u8).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, dtype, shape), bytes)| {
            let view = TensorView::new(*dtype, shape.to_vec(), bytes).expect("sizes fit");
            (*name, view)
        });
        safetensors::serialize(views, None).expect("a file")
    };
    vec![
        file(&[("weight", Dtype::F32, &[4, 3, 3, 3]), ("bias", Dtype::F32, &[4])]),
        file(&[("x", Dtype::F16, &[1, 3, 5, 4]), ("residual", Dtype::BF16, &[1, 4, 3, 2])]),
        file(&[("x", Dtype::F64, &[2, 1, 2, 2]), ("rois", Dtype::F32, &[3, 5]), ("i", Dtype::I64, &[2])]),
        file(&[("e", Dtype::F32, &[0, 3, 2, 2]), ("s", Dtype::F32, &[])]),
    ]
}

fn safetensors_file() -> Attempt {
    let (device, folder) = (device(false), tempfile::tempdir().expect("a folder"));
    Box::new(move |input| {
        let path = folder.path().join("t.safetensors");
        fs::write(&path, input).expect("a file can be written");
        let Ok(file) = TensorFile::open(&path) else { return false };
        let mut parameters = BTreeMap::new();
        for name in file.names() {
            let _ = (file.shape(name), file.dtype(name), file.values(name), file.rois(name, 1, &device));
            let _ = (file.tensor::<f16>(name, &device), file.tensor::<f32>(name, &device));
            if let Ok(parameter) = file.parameter(name) {
                parameters.insert(name.to_string(), parameter);
            }
        }
        for op in ["conv2d", "conv_transpose2d", "focus", "deform_roi_pool_pack"] {
            let spec = LayerSpec::from_json(&format!(r#"{{"op": "{op}", "attrs": {{}}}}"#));
            if let Ok(layer) = spec.and_then(|spec| AnyLayer::new(spec, parameters.clone())) {
                let _ = layer.plan::<f32>(&device, &PlanRequest::new([1, 3, 6, 6]));
            }
        }
        true
    })
}

/// A suite of one row: those of benches/suite.json that are small.
fn suite_seeds() -> Vec<Vec<u8>> {
    let suite: Value = serde_json::from_str(&read_text(Path::new(ROOT).join("benches/suite.json")).expect("the suite")).expect("JSON");
    let small = |row: &&Value| {
        let tensors = row["tensors"].as_object().expect("tensors");
        let elements = |shape: &Value| shape.as_array().expect("a shape").iter().map(|size| size.as_u64().unwrap_or(1)).product::<u64>();
        tensors.iter().filter(|(name, _)| name.ends_with("weight")).all(|(_, shape)| elements(shape) < 3000)
    };
    let rows = suite["rows"].as_array().expect("rows").iter().filter(small).step_by(3);
    let mut seeds: Vec<Vec<u8>> = rows.map(|row| json!({ "format": 1, "rows": [row] }).to_string().into_bytes()).collect();
    seeds.extend(files("suite"));
    seeds
}

fn suite() -> Attempt {
    let effort = Effort { warm_up: Duration::ZERO, budget: Duration::from_millis(1), least: 1, most: 1 };
    let limits = Limits { flops: 50_000_000, bytes: 32 << 20 };
    let bench = Bench::new(&device(false), Scale::Tiny).expect("a bench").effort(effort).limits(limits);
    let floors = serde_json::from_value(serde_json::from_slice::<Value>(&files("results")[0]).expect("JSON")["floors"].clone());
    let floors = floors.expect("floors");
    Box::new(move |input| {
        let Some(suite) = text(input).and_then(|text| Suite::parse("fuzz", text).ok()) else { return false };
        for configuration in suite.configurations().iter().take(2) {
            let row = bench.run(configuration, &floors);
            let _ = (json!(row), configuration.id());
            if draw(input).is_multiple_of(8) {
                let _ = bench.tune(configuration);
            }
        }
        true
    })
}

/// Results of this program and of others, and what the program prints and draws from them.
fn results() -> Attempt {
    let (folder, seed) = (tempfile::tempdir().expect("a folder"), files("results").remove(0));
    let baseline = Results::parse("seed", text(&seed).expect("text")).expect("a seed");
    Box::new(move |input| {
        let Some(text) = text(input) else { return false };
        let (results, peers) = (Results::parse("fuzz", text), Peers::parse("fuzz", text));
        if let Ok(peers) = &peers {
            baseline.clone().merge(peers.clone());
        }
        if let Ok(results) = &results {
            let _ = (results.slower_than(&baseline).len(), baseline.slower_than(results).len(), json!(results));
            if draw(input).is_multiple_of(4) {
                let file = write(&folder, "r.json", input);
                program(&["bench", "--from", &file, "--baseline", &file, "--plot", &folder.path().join("plots").display().to_string()]);
            }
        }
        results.is_ok() || peers.is_ok()
    })
}

/// A table of measured times, and plans by it.
fn tuning() -> Attempt {
    let device = device(false);
    let turn = Cell::new(0usize);
    Box::new(move |input| {
        let Some(table) = text(input).and_then(|text| TuningTable::parse("fuzz", text).ok()) else { return false };
        let _ = (table.regret(), table.mismatch(&device), json!(table));
        // it stays for all that comes later, which some thousands of them would slow down
        let mut table = table;
        table.device = warpconv::bench::DeviceInfo::of(&device);
        turn.set(turn.get() + 1);
        if turn.get() < 2000 {
            device.add_tuning(&table);
        }
        let spec = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {"padding": 1}}"#).expect("a layer");
        let outline = spec.outline([("weight", vec![8, 8, 3, 3])]).expect("an outline");
        let _ = outline.explain::<f16>(&device, &PlanRequest::new([1, 8, 8, 8]).format(MemoryFormat::ChannelsLast));
        true
    })
}

/// Some cases of the corpus in tests/data: the length of cases.json in 8 bytes, cases.json, tensors.safetensors.
fn corpus_seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(ROOT).join("tests/data/torch_dev");
    let corpus: Value = serde_json::from_str(&read_text(folder.join("cases.json")).expect("the corpus")).expect("JSON");
    let file = TensorFile::open(folder.join("tensors.safetensors")).expect("its tensors");
    let mut seeds = Vec::new();
    for (kind, other, step) in [("cases", "invalid", 9), ("invalid", "cases", 8)] {
        for case in corpus[kind].as_array().expect("cases").iter().step_by(step) {
            let keys = case["inputs"].as_object().expect("inputs").values().chain([&case["output"], &case["scale"]]);
            let keys: Vec<&str> = keys.filter_map(Value::as_str).collect();
            let arrays: Vec<(&str, Vec<usize>, Vec<u8>)> = keys
                .iter()
                .map(|&key| {
                    let values = file.values(key).expect("values");
                    (key, file.shape(key).expect("a shape").to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
                })
                .collect();
            if arrays.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>() > 60_000 {
                continue;
            }
            let views = arrays.iter().map(|(key, shape, bytes)| {
                let view = TensorView::new(Dtype::F64, shape.clone(), bytes).expect("sizes fit");
                (key.to_string(), view)
            });
            let tensors = safetensors::serialize(views, None).expect("a file");
            let cases = json!({ "format": 1, kind: [case], other: [] }).to_string().into_bytes();
            seeds.push([&(cases.len() as u64).to_le_bytes()[..], &cases, &tensors].concat());
        }
    }
    seeds
}

fn corpus() -> Attempt {
    let folder = tempfile::tempdir().expect("a folder");
    Box::new(move |input| {
        let Some((cases, tensors)) = split(input) else { return false };
        write(&folder, "cases.json", cases);
        write(&folder, "tensors.safetensors", tensors);
        let folder = folder.path().display().to_string();
        let small = ["--max-flops", "1e7", "--max-bytes", "1e7", "--device", "host"];
        program(&[&["conformance", &folder, "--dtype", "f32", "--format", "contiguous"][..], &small].concat())
    })
}

/// Pictures of each kind of pixels that the two formats know.
fn image_seeds() -> Vec<Vec<u8>> {
    let rgb = image::RgbImage::from_fn(24, 20, |x, y| image::Rgb([x as u8 * 10, y as u8 * 12, (x * y) as u8]));
    let rgb = DynamicImage::from(rgb);
    let pictures = [
        rgb.clone(),
        rgb.to_rgba16().into(),
        rgb.to_luma_alpha8().into(),
        rgb.to_luma16().into(),
        rgb.resize_exact(600, 500, image::imageops::FilterType::Nearest),
    ];
    let mut seeds = files("image");
    for picture in pictures {
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, ImageFormat::Png).expect("a PNG");
        seeds.push(file.into_inner());
    }
    for picture in [rgb.clone(), rgb.to_luma8().into()] {
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, 80).encode_image(&picture).expect("a JPEG");
        seeds.push(file);
    }
    seeds
}

fn image_file() -> Attempt {
    let folder = tempfile::tempdir().expect("a folder");
    Box::new(move |input| Picture::load(Some(Path::new(&write(&folder, "picture", input)))).is_ok())
}

// ------------------------------------------------------------------------------------------------------------------------------

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> String {
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a file can be written");
    path.display().to_string()
}

/// Runs the program, and panics where it does, dies or takes too long. Whether it found all to be well.
fn program(args: &[&str]) -> bool {
    const PATIENCE: Duration = Duration::from_secs(18);
    let errors = tempfile::NamedTempFile::new().expect("a file");
    let mut command = Command::new(PROGRAM);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors.reopen().expect("the file"));
    let (start, mut child) = (Instant::now(), command.spawn().expect("the program starts"));
    let status = loop {
        match child.try_wait().expect("it is ours") {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{} hung", args[0]);
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let errors = fs::read_to_string(errors.path()).unwrap_or_default();
    if let Some(at) = errors.find("panicked at") {
        panic!("{}: {}", args[0], errors[at..].lines().take(2).collect::<Vec<_>>().join(" "));
    }
    assert!(matches!(status.code(), Some(0..=2)), "{}: {status}: {}", args[0], errors.lines().last().unwrap_or_default());
    status.success()
}
