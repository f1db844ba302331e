//! `warpconv conformance`: runs a folder of test cases that come with their results, as
//! tests/data/torch_dev/README.md describes them.

use super::keeper::{Ending, Findings, KeeperArgs, Signal};
use super::{CheckerArgs, DeviceArgs, LimitArgs, VariantArgs, Verdict, note, print, print_json, progress, read_text};
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Instant;
use warpconv::cases::Problem;
use warpconv::check::{Arrays, Case, Failure, Kernels, Run, refusal};
use warpconv::io::TensorFile;
use warpconv::reference::Array;
use warpconv::text::parse_json;
use warpconv::{DType, Device, Error, LayerSpec, Result};

const EXAMPLES: &str = "\
Examples:
  warpconv conformance tests/data/torch_dev
  warpconv conformance tests/data/torch_dev --filter '^conv2d/' --deny-skips
  warpconv conformance tests/data/torch_dev --dtype bf16 --filter 'conv2d_02' --all-kernels
  warpconv conformance tests/data/torch_dev --filter '^conv2d/' --checked --seed 3

A case passes when it passes in every dtype and format that was asked for; an invalid case when the layer is refused with an \
error before any launch. Cases of operations that this build does not know are skipped.

Exit codes: 0 all passed, 1 a case failed (with --deny-skips: or was skipped), 2 wrong usage or an unreadable corpus, 3 the GPU was lost.";

/// Run test cases against the results that come with them
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder with cases.json and tensors.safetensors
    dir: PathBuf,
    #[command(flatten)]
    variants: VariantArgs,
    /// Run only the cases whose op/name matches
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Fail when a case is skipped
    #[arg(long)]
    deny_skips: bool,
    /// Run every kernel that applies instead of only the chosen one, and both formats of the output
    /// with each of the input
    #[arg(long)]
    all_kernels: bool,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    checker: CheckerArgs,
    #[command(flatten)]
    keeper: KeeperArgs,
    /// Start no case after this many seconds
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// cases.json
#[derive(Debug, Deserialize)]
struct Corpus {
    format: u32,
    cases: Vec<Valid>,
    invalid: Vec<Invalid>,
}

/// The version of cases.json that this program reads.
const CORPUS_FORMAT: u32 = 1;

/// The parts that valid and invalid cases share.
#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    op: String,
    attrs: Value,
    /// Keys of tensors.safetensors.
    inputs: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Valid {
    #[serde(flatten)]
    entry: Entry,
    output: String,
    scale: String,
    #[serde(default)]
    ref_atol: f64,
    #[serde(default)]
    coord_atol: f64,
}

#[derive(Debug, Deserialize)]
struct Invalid {
    #[serde(flatten)]
    entry: Entry,
    /// What is wrong with the case.
    why: String,
}

impl Corpus {
    fn open(dir: &Path) -> Result<(Self, TensorFile)> {
        let path = dir.join("cases.json");
        let refuse = |message| Error::Parse { source_name: path.display().to_string(), message };
        let corpus: Self = parse_json(&path.display().to_string(), &read_text(&path)?)?;
        if corpus.format != CORPUS_FORMAT {
            return Err(refuse(format!("format {} is not one that this version reads ({CORPUS_FORMAT})", corpus.format)));
        }
        Ok((corpus, TensorFile::open(dir.join("tensors.safetensors"))?))
    }
}

impl Entry {
    fn path(&self) -> String {
        format!("{}/{}", self.op, self.name)
    }

    fn layer(&self) -> String {
        json!({ "op": self.op, "attrs": self.attrs }).to_string()
    }

    /// The layer and its shapes.
    fn problem(&self, spec: LayerSpec, file: &TensorFile) -> Result<Problem> {
        let mut problem = Problem::new(spec, &[]);
        for (name, key) in &self.inputs {
            problem.shapes.insert(name.clone(), file.shape(key)?.to_vec());
        }
        Ok(problem)
    }

    fn tensors(&self, file: &TensorFile) -> Result<Arrays> {
        self.inputs.iter().map(|(name, key)| Ok((name.clone(), array(file, key)?))).collect()
    }
}

fn array(file: &TensorFile, key: &str) -> Result<Array> {
    Array::new(file.shape(key)?, file.values(key)?)
}

/// A failed run of a case.
struct Finding {
    /// The run, such as "f16 channels_last conv_direct_f16". It is shorter if the run failed early.
    run: String,
    failure: Failure,
}

impl Args {
    fn check(&self, case: &Valid, file: &TensorFile, device: &Device) -> Result<Vec<Finding>> {
        let spec = LayerSpec::from_json(&case.entry.layer())?;
        self.limits.of(device).check(&case.entry.problem(spec, file)?.cost(DType::F32)?)?;
        let scale = file.values(&case.scale)?;
        let check =
            Case::new(spec, &case.entry.tensors(file)?, array(file, &case.output)?, scale)?.tolerate(case.ref_atol, case.coord_atol);
        let kernels = if self.all_kernels { Kernels::All } else { Kernels::Chosen };
        let mut findings = Vec::new();
        for &dtype in self.variants.dtypes() {
            for &x in self.variants.formats() {
                let outputs = if self.all_kernels { self.variants.formats() } else { &[x] };
                for &y in outputs {
                    let runs = check.check(dtype, x, y, kernels, device).into_iter();
                    findings.extend(runs.filter_map(|Run { kernel, outcome, .. }| {
                        let formats = if x == y { x.to_string() } else { format!("{x} to {y}") };
                        Some(Finding { run: format!("{dtype} {formats} {kernel}").trim_end().into(), failure: outcome.err()? })
                    }));
                }
            }
        }
        Ok(findings)
    }

    fn refuse(&self, case: &Invalid, file: &TensorFile, device: &Device) -> Result<Vec<Finding>> {
        let tensors = case.entry.tensors(file)?;
        // A case that is refused costs nothing. One that should be refused and is not is run, to
        // see what happens.
        let spec = LayerSpec::from_json(&case.entry.layer());
        if let Ok(report) = spec.and_then(|spec| case.entry.problem(spec, file)?.cost(DType::F32)) {
            self.limits.of(device).check(&report)?;
        }
        let mut findings = Vec::new();
        for &dtype in self.variants.dtypes() {
            for &format in self.variants.formats() {
                if let Err(failure) = refusal(&case.entry.layer(), &tensors, dtype, format, device) {
                    findings.push(Finding { run: format!("{dtype} {format}, invalid since {}", case.why), failure });
                }
            }
        }
        Ok(findings)
    }
}

/// The cases so far and what happened to them.
struct Found {
    device: String,
    json: bool,
    deny_skips: bool,
    passed: usize,
    failed: usize,
    late: usize,
    skipped: BTreeMap<String, usize>,
    report: Vec<Value>,
    /// The case that is running, and the command that repeats it.
    current: Option<(String, String)>,
}

impl Findings for Found {
    fn tell(&mut self, ending: Ending<'_>) -> Result<Verdict> {
        let skips = self.skipped.values().sum::<usize>();
        if skips > 0 {
            let ops: Vec<String> = self.skipped.iter().map(|(op, count)| format!("{op} ({count})")).collect();
            note(format_args!("skipped, since this build does not know the op: {}", ops.join(", ")));
        }
        if self.late > 0 {
            note(format_args!("not run, since the time was up: {} cases", self.late));
        }
        if self.json {
            let current = ending.lost().zip(self.current.as_ref());
            let lost = current.map(|(error, (case, repeat))| json!({ "case": case, "failure": error.to_string(), "repeat": repeat }));
            let (device, passed, failed) = (&self.device, self.passed, self.failed);
            let mut value = json!({ "device": device, "passed": passed, "failed": failed, "skipped": skips, "cases": self.report });
            if let Some(lost) = lost {
                value["lost"] = lost;
            }
            if let Ending::Signal(number) = ending {
                value["cut_off"] = json!(Signal(number).to_string());
            }
            print_json(&value)?;
        } else {
            if let Some(headline) = self.current.as_ref().and_then(|(case, repeat)| ending.headline(case, repeat)) {
                print(headline)?;
            }
            print(format_args!("{} passed, {} failed, {skips} skipped", self.passed, self.failed))?;
        }
        let failed = self.failed > 0 || self.deny_skips && skips > 0;
        Ok(ending.verdict(if failed { Verdict::Failed } else { Verdict::Passed }))
    }
}

pub fn execute(args: Args) -> Result<Verdict> {
    let (corpus, file) = Corpus::open(&args.dir)?;
    let wanted = |entry: &Entry| args.filter.as_ref().is_none_or(|filter| filter.is_match(&entry.path()));
    let valid = corpus.cases.iter().filter(|case| wanted(&case.entry)).map(|case| (&case.entry, Ok(case)));
    let invalid = corpus.invalid.iter().filter(|case| wanted(&case.entry)).map(|case| (&case.entry, Err(case)));
    let cases: Vec<(&Entry, Result<&Valid, &Invalid>)> = valid.chain(invalid).collect();
    if let (true, Some(filter)) = (cases.is_empty(), &args.filter) {
        let requirement = "a regex that matches the op/name of a case of the corpus";
        return Err(Error::Attribute { name: "--filter", value: format!("{:?}", filter.as_str()), requirement });
    }
    let device = args.device.checked_device(&args.checker)?;
    let found = Found {
        device: device.to_string(),
        json: args.json,
        deny_skips: args.deny_skips,
        passed: 0,
        failed: 0,
        late: 0,
        skipped: BTreeMap::new(),
        report: vec![],
        current: None,
    };
    let found = args.keeper.watch(&device, found)?;
    let hold = || found.lock().unwrap_or_else(PoisonError::into_inner);
    let start = Instant::now();
    let bar = progress(cases.len() as u64, "cases");
    for (entry, case) in &cases {
        bar.inc(1);
        bar.set_message(entry.path());
        if !LayerSpec::OPS.contains(&entry.op.as_str()) {
            let mut found = hold();
            *found.skipped.entry(entry.op.clone()).or_default() += 1;
            found.report.push(json!({ "case": entry.path(), "outcome": "skipped" }));
            continue;
        }
        if args.time_limit.is_some_and(|limit| start.elapsed().as_secs_f64() >= limit) {
            hold().late += 1;
            continue;
        }
        let filter = format!(" --filter '^{}$'", regex_lite::escape(&entry.path()));
        let repeat = format!(
            "warpconv conformance {} --device {device}{}{}{filter}{}",
            args.dir.display(),
            if args.all_kernels { " --all-kernels" } else { "" },
            args.checker.options(),
            args.keeper.options()
        );
        hold().current = Some((entry.path(), repeat));
        let findings = match case {
            Ok(valid) => args.check(valid, &file, &device),
            Err(invalid) => args.refuse(invalid, &file, &device),
        };
        let findings = findings.unwrap_or_else(|error| vec![Finding { run: String::new(), failure: Failure::Error(error) }]);
        let mut found = hold();
        if findings.is_empty() {
            found.passed += 1;
            found.report.push(json!({ "case": entry.path(), "outcome": "passed" }));
            continue;
        }
        found.failed += 1;
        let lines =
            findings.iter().map(|Finding { run, failure }| if run.is_empty() { failure.to_string() } else { format!("{run}: {failure}") });
        let lines: Vec<String> = lines.collect();
        if !args.json {
            bar.suspend(|| print(format_args!("FAILED {}\n  {}", entry.path(), lines.join("\n  "))))?;
        }
        found.report.push(json!({ "case": entry.path(), "outcome": "failed", "failures": lines }));
        if let Err(error) = device.alive() {
            bar.finish_and_clear();
            return found.tell(Ending::Lost(&error));
        }
    }
    bar.finish_and_clear();
    hold().tell(Ending::Done)
}
