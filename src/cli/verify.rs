//! `warpconv verify`: random awkward problems through every kernel that applies, against the oracle.

use super::{CheckerArgs, DeviceArgs, LimitArgs, Verdict, print, print_json, progress};
use regex::Regex;
use serde_json::json;
use std::collections::BTreeMap;
use warpconv::cases::{Kind, Problem, kinds};
use warpconv::check::{Run, every_run};
use warpconv::text::parse_json;
use warpconv::{DType, Device, Error, Result};

const EXAMPLES: &str = "\
Examples:
  warpconv verify                                     200 cases on the best device
  warpconv verify --device cuda:0 --cases 1000        the acceptance run on a GPU
  warpconv verify --filter /conv_direct_f16           only kernels of that name
  warpconv verify --filter '^conv2d/channel_slices/'  only cases of that kind
  warpconv verify --checked --seed 7                  under the host device's checker

Every case runs through every kernel that applies to it, in every dtype and every pair of input and output format, and must
meet the numerics contract (bit for bit where its sums are exact). \"subnormal\" counts runs that pass only because PTX leaves
open how tensor cores take subnormal inputs. A case that fails is made smaller as long as it fails, and
the line that repeats it is printed. The last line counts cases.";

/// Run random awkward problems through every kernel, against a float64 oracle
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How many cases
    #[arg(long, value_name = "N", default_value_t = 200, conflicts_with = "case")]
    cases: u64,
    /// Run only what matches in op/kind/kernel
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Run one case, as a failure prints it
    #[arg(long, value_name = "JSON")]
    case: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    checker: CheckerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What became of the runs of one kernel.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Runs compared bit for bit in every element.
    exact: u64,
    /// Of those that passed, runs that did so only because PTX leaves open how tensor cores take subnormal inputs.
    subnormal: u64,
    /// The largest error in units of the bound.
    worst: f64,
}

impl Args {
    /// Every run of a problem that the filter lets through.
    fn check(&self, problem: &Problem, device: &Device) -> Result<Vec<Run>> {
        let mut runs = every_run(problem, device)?;
        runs.retain(|run| self.wants(&format!("{}/{}/{}", problem.layer.op(), problem.kind, run.kernel)));
        Ok(runs)
    }

    fn wants(&self, path: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.is_match(path))
    }

    /// The smallest problem found that still fails.
    fn shrink(&self, problem: &Problem, device: &Device) -> Problem {
        const ATTEMPTS: usize = 300;
        let mut attempts = 0;
        let mut smallest = problem.clone();
        'smaller: loop {
            for candidate in smallest.simpler() {
                attempts += 1;
                if attempts > ATTEMPTS {
                    return smallest;
                }
                if self.check(&candidate, device).is_ok_and(|runs| runs.iter().any(|run| run.outcome.is_err())) {
                    smallest = candidate;
                    continue 'smaller;
                }
            }
            return smallest;
        }
    }

    /// The problems, each drawn when it is its turn, and how many they are: `case`, or random ones.
    fn problems(&self, case: Option<Problem>) -> (Box<dyn Iterator<Item = Problem>>, u64) {
        if let Some(problem) = case {
            return (Box::new(std::iter::once(problem)), 1);
        }
        // where the filter names an op or a kind, no other need be run to find that it is not wanted
        let wanted: Vec<Kind> = kinds().filter(|kind| self.wants(&format!("{}/{}/", kind.op, kind.name))).collect();
        let kinds = if wanted.is_empty() { kinds().collect() } else { wanted };
        let seed = self.checker.seed();
        (Box::new((0..self.cases).map(move |index| Problem::of_kinds(&kinds, seed, index))), self.cases)
    }
}

/// The problem of `--case`.
fn read_case(text: &str) -> Result<Problem> {
    let problem: Problem = parse_json("--case", text)?;
    problem.check()?;
    Ok(problem)
}

/// The first failed run in words.
fn describe(runs: &[Run]) -> String {
    let failed: Vec<&Run> = runs.iter().filter(|run| run.outcome.is_err()).collect();
    let more = if failed.len() > 1 { format!(" (and {} more of {} runs)", failed.len() - 1, runs.len()) } else { String::new() };
    failed.first().map_or(String::new(), |first| format!("{first}{more}"))
}

pub fn execute(args: Args) -> Result<Verdict> {
    let case = args.case.as_deref().map(read_case).transpose()?;
    let device = args.device.checked_device(&args.checker)?;
    if let Some(problem) = &case {
        args.limits.of(&device).check(&problem.cost(DType::F32)?)?;
    }
    let (problems, count) = args.problems(case);
    let mut kernels: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let (mut passed, mut failed) = (0u64, 0u64);
    let mut failures = Vec::new();
    let bar = progress(count, "cases");
    for problem in problems {
        bar.inc(1);
        bar.set_message(problem.kind.clone());
        let runs = args.check(&problem, &device)?;
        if runs.is_empty() {
            continue; // the filter wants none of it
        }
        for run in &runs {
            let tally = kernels.entry(run.kernel).or_default();
            match &run.outcome {
                Ok(report) => {
                    tally.passed += 1;
                    tally.subnormal += u64::from(run.open_subnormals);
                    tally.exact += u64::from(report.elements > 0 && report.exact == report.elements);
                    let worst = report.worst.filter(|_| !run.open_subnormals).map_or(0.0, |worst| worst.ratio);
                    tally.worst = tally.worst.max(worst);
                }
                Err(_) => tally.failed += 1,
            }
        }
        if runs.iter().all(|run| run.outcome.is_ok()) {
            passed += 1;
            continue;
        }
        failed += 1;
        bar.set_message("making a failure smaller");
        let smallest = args.shrink(&problem, &device);
        let smallest_runs = args.check(&smallest, &device)?;
        let repeat = format!("warpconv verify --device {device}{} --case '{}'", args.checker.options(), json!(smallest));
        let lines = format!(
            "FAILED {}/{}: {}\n  smallest: {}\n  repeat: {repeat}",
            problem.layer.op(),
            problem.kind,
            describe(&runs),
            describe(&smallest_runs)
        );
        if !args.json {
            bar.suspend(|| print(lines))?;
        }
        failures.push(json!({ "case": problem, "smallest": smallest, "failure": describe(&smallest_runs), "repeat": repeat }));
    }
    bar.finish_and_clear();
    if passed + failed == 0 {
        let filter = args.filter.as_ref().map_or("", Regex::as_str);
        let kinds: Vec<String> = kinds().map(|kind| format!("{}/{}", kind.op, kind.name)).collect();
        return Err(Error::Parse {
            source_name: format!("--filter {filter:?}"),
            message: format!("matches no run; the kinds are {}", kinds.join(", ")),
        });
    }
    if args.json {
        let table: Vec<_> = kernels
            .iter()
            .map(|(name, t)| json!({ "kernel": name, "passed": t.passed, "failed": t.failed, "bit_for_bit": t.exact, "subnormal": t.subnormal, "worst": t.worst }))
            .collect();
        let seed = args.checker.seed();
        print_json(
            &json!({ "device": device.to_string(), "seed": seed, "passed": passed, "failed": failed, "kernels": table, "failures": failures }),
        )?;
    } else {
        print(format_args!(
            "{:<36} {:>9} {:>9} {:>12} {:>10} {:>16}",
            "kernel", "passed", "failed", "bit for bit", "subnormal", "worst / bound"
        ))?;
        for (name, t) in &kernels {
            let name = if name.is_empty() { "(refused)" } else { name };
            print(format_args!("{name:<36} {:>9} {:>9} {:>12} {:>10} {:>16.3}", t.passed, t.failed, t.exact, t.subnormal, t.worst))?;
        }
        print(format_args!("{passed} passed, {failed} failed"))?;
    }
    Ok(if failed > 0 { Verdict::Failed } else { Verdict::Passed })
}
