//! `warpconv verify`: runs random problems of awkward sizes through every kernel that applies, and
//! compares with the oracle.

use super::keeper::{Ending, Findings, KeeperArgs, Signal};
use super::{CheckerArgs, DeviceArgs, LimitArgs, Verdict, print, print_json, progress};
use regex_lite::Regex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use warpconv::cases::{Kind, Problem, kinds};
use warpconv::check::{DTypeAndFormats, Run, Wanted, kernel_names, runs_of, runs_where};
use warpconv::text::{nearest, parse_json};
use warpconv::{DType, Device, Error, Result};

const EXAMPLES: &str = "\
Examples:
  warpconv verify                                     200 cases on the best device
  warpconv verify --device cuda:0 --cases 1000        the acceptance run on a GPU
  warpconv verify --every-kernel --time-limit 120     every kernel early, then cases for as long as there is time
  warpconv verify --filter /conv_direct_f16           only kernels of that name
  warpconv verify --filter '^conv2d/channel_slices/'  only cases of that kind
  warpconv verify --checked --seed 7                  under the host device's checker

Every case runs through every kernel that applies to it, in every dtype and every pair of input and output format, and must
meet the numerics contract (bit for bit where its sums are exact). \"subnormal\" counts runs that pass only because PTX leaves
open how tensor cores take subnormal inputs. A case that fails is made smaller as long as it fails, and
the line that repeats it is printed. The last line counts cases. What --filter, --kernel and --skip leave out is not launched.";

/// Run random problems of awkward sizes through every kernel, and compare with a float64 reference
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Number of cases
    #[arg(long, value_name = "N", default_value_t = 200, conflicts_with = "case")]
    cases: u64,
    /// Before the cases, run every kernel once, on the first problem that reaches it
    #[arg(long, conflicts_with = "case")]
    every_kernel: bool,
    /// Start no case after this many seconds, and simplify only one failure
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<f64>,
    /// Run only what matches in op/kind/kernel
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Run only this kernel; may be given several times
    #[arg(long, value_name = "KERNEL")]
    kernel: Vec<String>,
    /// Run one case, as a failure prints it
    #[arg(long, value_name = "JSON")]
    case: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    checker: CheckerArgs,
    #[command(flatten)]
    keeper: KeeperArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The runs of one kernel.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    /// The number of runs compared bit for bit in every element.
    exact: u64,
    /// Passed runs that passed only because PTX leaves open how tensor cores treat subnormal
    /// inputs.
    subnormal: u64,
    /// The largest error, in units of the bound.
    worst: f64,
}

/// What was found so far.
struct Found {
    device: String,
    seed: u64,
    json: bool,
    kernels: BTreeMap<&'static str, Tally>,
    passed: u64,
    failed: u64,
    failures: Vec<Value>,
    /// With --every-kernel: how many kernels there are, and how many problems it took.
    every: Option<(usize, u64)>,
    late: u64,
    /// The case that is running, and the command that repeats it. The command does not name the
    /// kernel, which only a failure reveals.
    current: Option<(String, String)>,
}

impl Found {
    fn count(&mut self, runs: &[Run]) {
        for run in runs {
            let tally = self.kernels.entry(run.kernel).or_default();
            match &run.outcome {
                Ok(report) => {
                    tally.passed += 1;
                    tally.exact += u64::from(report.elements > 0 && report.exact == report.elements);
                    tally.subnormal += u64::from(run.open_subnormals);
                    let worst = report.worst.filter(|_| !run.open_subnormals).map_or(0.0, |worst| worst.ratio);
                    tally.worst = tally.worst.max(worst);
                }
                Err(_) => tally.failed += 1,
            }
        }
        if runs.iter().all(|run| run.outcome.is_ok()) { self.passed += 1 } else { self.failed += 1 }
    }

    /// The number of kernels that have run.
    fn reached(&self) -> usize {
        kernel_names().filter(|name| self.kernels.contains_key(name)).count()
    }
}

impl Findings for Found {
    fn tell(&mut self, ending: Ending<'_>) -> Result<Verdict> {
        let lost = ending.lost().zip(self.current.as_ref()).map(|(error, (case, repeat))| {
            // Of several running kernels the last is the likeliest cause.
            let kernel = match error {
                Error::DeviceLost { kernel, .. } => kernel.rsplit(", ").next().unwrap_or_default().to_string(),
                _ => String::new(),
            };
            // A case cannot be restricted to kernels that copy or add up parts.
            let only = if kernel_names().any(|name| name == kernel) { format!(" --kernel {kernel}") } else { String::new() };
            (error, case, format!("{repeat}{only}"), kernel)
        });
        let reached = self.reached();
        if self.json {
            let row = |(name, t): (&&str, &Tally)| json!({ "kernel": name, "passed": t.passed, "failed": t.failed, "bit_for_bit": t.exact, "subnormal": t.subnormal, "worst": t.worst });
            let table: Vec<Value> = self.kernels.iter().map(row).collect();
            let mut value = json!({ "device": self.device, "seed": self.seed, "passed": self.passed, "failed": self.failed, "kernels": table, "failures": self.failures, "reached": reached });
            if let Some((error, case, repeat, kernel)) = &lost {
                value["lost"] = json!({ "kernel": kernel, "case": case, "failure": error.to_string(), "repeat": repeat });
            }
            if let Ending::Signal(number) = ending {
                value["cut_off"] = json!(Signal(number).to_string());
            }
            print_json(&value)?;
        } else {
            let (case, repeat) = match (&lost, &self.current) {
                (Some((_, case, repeat, _)), _) => (case.as_str(), repeat.as_str()),
                (None, Some((case, repeat))) => (case.as_str(), repeat.as_str()),
                (None, None) => ("the start", ""),
            };
            if let Some(headline) = ending.headline(case, repeat) {
                print(headline)?;
            }
            print(format_args!(
                "{:<36} {:>9} {:>9} {:>12} {:>10} {:>16}",
                "kernel", "passed", "failed", "bit for bit", "subnormal", "worst / bound"
            ))?;
            for (name, t) in &self.kernels {
                let name = if name.is_empty() { "(refused)" } else { name };
                print(format_args!("{name:<36} {:>9} {:>9} {:>12} {:>10} {:>16.3}", t.passed, t.failed, t.exact, t.subnormal, t.worst))?;
            }
            if let Some((all, problems)) = self.every {
                print(format_args!("{reached} of {all} kernels reached; each was looked for among {problems} problems"))?;
            }
            if self.late > 0 {
                print(format_args!("not run, since the time was up: {} cases", self.late))?;
            }
            print(format_args!("{} passed, {} failed", self.passed, self.failed))?;
        }
        Ok(ending.verdict(if self.failed > 0 { Verdict::Failed } else { Verdict::Passed }))
    }
}

impl Args {
    /// All selected runs of a problem.
    fn check(&self, problem: &Problem, device: &Device, also: &Wanted<'_>) -> Result<Vec<Run>> {
        let wanted = |variant, kernel: Option<&str>| {
            also(variant, kernel) && kernel.is_none_or(|kernel| self.wants_kernel(kernel) && self.wants(&path(problem, kernel)))
        };
        let mut runs = runs_where(problem, device, &wanted)?;
        // A problem that was refused before a kernel was chosen has no kernel's name.
        runs.retain(|run| !run.kernel.is_empty() || self.kernel.is_empty() && self.wants(&path(problem, "")));
        Ok(runs)
    }

    fn wants(&self, path: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.is_match(path))
    }

    fn wants_kernel(&self, kernel: &str) -> bool {
        self.kernel.is_empty() || self.kernel.iter().any(|name| name == kernel)
    }

    /// The smallest problem found that still fails in one of these kernels.
    fn shrink(&self, problem: &Problem, device: &Device, failing: &BTreeSet<&'static str>, until: Option<Instant>) -> Problem {
        const ATTEMPTS: usize = 300;
        let mut attempts = 0;
        let mut smallest = problem.clone();
        let fails = |candidate: &Problem| {
            let runs = self.check(candidate, device, &|_, kernel| kernel.is_none_or(|kernel| failing.contains(kernel)));
            runs.is_ok_and(|runs| runs.iter().any(|run| run.outcome.is_err()))
        };
        'smaller: loop {
            for candidate in smallest.simpler() {
                attempts += 1;
                if attempts > ATTEMPTS || device.alive().is_err() || until.is_some_and(|until| Instant::now() >= until) {
                    return smallest;
                }
                if fails(&candidate) {
                    smallest = candidate;
                    continue 'smaller;
                }
            }
            return smallest;
        }
    }

    /// The kinds of problems that the filter accepts.
    fn kinds(&self) -> Vec<Kind> {
        // If the filter names an op or a kind, the others need not run.
        let wanted: Vec<Kind> = kinds().filter(|kind| self.wants(&format!("{}/{}/", kind.op, kind.name))).collect();
        if wanted.is_empty() { kinds().collect() } else { wanted }
    }

    /// The problems and their number: `case`, or random ones, each drawn when its turn comes.
    fn problems(&self, case: Option<Problem>) -> (Box<dyn Iterator<Item = Problem>>, u64) {
        if let Some(problem) = case {
            return (Box::new(std::iter::once(problem)), 1);
        }
        let kinds = self.kinds();
        let seed = self.checker.seed();
        (Box::new((0..self.cases).map(move |index| Problem::of_kinds(&kinds, seed, index))), self.cases)
    }
}

/// Reads the problem of `--case`.
fn read_case(text: &str) -> Result<Problem> {
    let problem: Problem = parse_json("--case", text)?;
    problem.check()?;
    Ok(problem)
}

fn path(problem: &Problem, kernel: &str) -> String {
    format!("{}/{}/{kernel}", problem.layer.op(), problem.kind)
}

/// The first failed run in words.
fn describe(runs: &[Run]) -> String {
    let failed: Vec<&Run> = runs.iter().filter(|run| run.outcome.is_err()).collect();
    let more = if failed.len() > 1 { format!(" (and {} more of {} runs)", failed.len() - 1, runs.len()) } else { String::new() };
    failed.first().map_or(String::new(), |first| format!("{first}{more}"))
}

/// The state of a command that runs one case after the other.
struct Session<'a> {
    args: &'a Args,
    device: &'a Device,
    found: &'a std::sync::Mutex<Found>,
    bar: &'a indicatif::ProgressBar,
    until: Option<Instant>,
    shrunk: bool,
}

impl Session<'_> {
    fn hold(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn repeat(&self, problem: &Problem) -> String {
        let (device, checker, keeper) = (self.device, self.args.checker.options(), self.args.keeper.options());
        format!("warpconv verify --device {device}{checker}{keeper} --case '{}'", json!(problem))
    }

    /// Runs one problem. Returns a verdict if the device is lost.
    fn run(&mut self, problem: &Problem, also: &Wanted<'_>) -> Result<Option<Verdict>> {
        self.bar.set_message(problem.kind.clone());
        self.hold().current = Some((format!("{}/{}", problem.layer.op(), problem.kind), self.repeat(problem)));
        let runs = self.args.check(problem, self.device, also);
        if let Err(error) = self.device.alive() {
            self.bar.finish_and_clear();
            let mut found = self.hold();
            found.count(&runs.unwrap_or_default());
            return found.tell(Ending::Lost(&error)).map(Some);
        }
        let runs = runs?;
        if runs.is_empty() {
            return Ok(None); // the filter accepts none of its runs
        }
        self.hold().count(&runs);
        if runs.iter().any(|run| run.outcome.is_err()) {
            self.fail(problem, &runs)?;
        }
        Ok(None)
    }

    /// Simplifies a failure and prints it. If the time is limited, only the first failure is
    /// simplified, for a short while.
    fn fail(&mut self, problem: &Problem, runs: &[Run]) -> Result<()> {
        const LIMITED: Duration = Duration::from_secs(10);
        let failing: BTreeSet<&'static str> = runs.iter().filter(|run| run.outcome.is_err()).map(|run| run.kernel).collect();
        let limited = self.until.is_some();
        let smallest = if limited && self.shrunk {
            problem.clone()
        } else {
            self.shrunk = true;
            self.bar.set_message("making a failure smaller");
            let until = self.until.map(|until| until.min(Instant::now() + LIMITED));
            self.args.shrink(problem, self.device, &failing, until)
        };
        let again = self.args.check(&smallest, self.device, &|_, kernel| kernel.is_none_or(|kernel| failing.contains(kernel)))?;
        let failure = describe(&again);
        let repeat = self.repeat(&smallest);
        let lines =
            format!("FAILED {}/{}: {}\n  smallest: {failure}\n  repeat: {repeat}", problem.layer.op(), problem.kind, describe(runs));
        let mut found = self.hold();
        if !found.json {
            self.bar.suspend(|| print(lines))?;
        }
        found.failures.push(json!({ "case": problem, "smallest": smallest, "failure": failure, "repeat": repeat }));
        Ok(())
    }

    /// Runs every kernel once, on the first problem that reaches it.
    fn every_kernel(&mut self) -> Result<Option<Verdict>> {
        const PROBLEMS: u64 = 1000;
        let wanted = |name: &&'static str| self.args.wants_kernel(name) && !self.args.keeper.skips(name);
        let mut missing: BTreeSet<&'static str> = kernel_names().filter(wanted).collect();
        let kinds = self.args.kinds();
        self.hold().every = Some((missing.len(), 0));
        for index in 0..PROBLEMS {
            if missing.is_empty() || self.is_late() {
                break;
            }
            self.bar.set_message("looking for kernels that no case has reached");
            if let Some((_, problems)) = &mut self.hold().every {
                *problems = index + 1;
            }
            let problem = Problem::of_kinds(&kinds, self.args.checker.seed(), index);
            // Views that are not aligned may launch another kernel than their plan names.
            if problem.output_shape()?.contains(&0) || !problem.is_packed() {
                continue;
            }
            let mut new: Vec<(DTypeAndFormats, &'static str)> = Vec::new();
            for (variant, kernels) in runs_of(&problem, self.device)? {
                let first = kernels.into_iter().filter(|&kernel| self.args.wants(&path(&problem, kernel)) && missing.remove(kernel));
                new.extend(first.map(|kernel| (variant, kernel)));
            }
            let wanted = |variant, kernel: Option<&str>| new.iter().any(|&(v, k)| v == variant && kernel.is_none_or(|kernel| kernel == k));
            if !new.is_empty()
                && let Some(verdict) = self.run(&problem, &wanted)?
            {
                return Ok(Some(verdict));
            }
            // Weights that are not finite rule out kernels that the shapes alone would allow. Those
            // kernels are still to be reached.
            let ran = self.hold();
            missing.extend(new.into_iter().map(|(_, kernel)| kernel).filter(|kernel| !ran.kernels.contains_key(kernel)));
        }
        Ok(None)
    }
}

impl Args {
    /// Refuses names that no kernel has, and a request to run nothing.
    fn validate(&self) -> Result<()> {
        let refused = |option: &str, message: String| Err(Error::Parse { source_name: option.into(), message });
        let names: Vec<&str> = kernel_names().collect();
        if let Some(name) = self.kernel.iter().find(|name| !names.contains(&name.as_str())) {
            let meant = nearest(name, &names).map_or_else(String::new, |name| format!(": did you mean {name}?"));
            return refused(&format!("--kernel {name}"), format!("no kernel that cases run has this name{meant}"));
        }
        if self.cases == 0 && !self.every_kernel && self.case.is_none() {
            return refused("--cases 0", "runs nothing; ask for at least one case, or for --every-kernel".into());
        }
        Ok(())
    }
}

pub fn execute(args: Args) -> Result<Verdict> {
    args.validate()?;
    let case = args.case.as_deref().map(read_case).transpose()?;
    let device = args.device.checked_device(&args.checker)?;
    if let Some(problem) = &case {
        args.limits.of(&device).check(&problem.cost(DType::F32)?)?;
    }
    let (problems, count) = args.problems(case);
    let until = match args.time_limit.map(Duration::try_from_secs_f64) {
        Some(Ok(limit)) => Some(Instant::now() + limit),
        Some(Err(error)) => return Err(Error::Parse { source_name: "--time-limit".into(), message: error.to_string() }),
        None => None,
    };
    let found = Found {
        device: device.to_string(),
        seed: args.checker.seed(),
        json: args.json,
        kernels: BTreeMap::new(),
        passed: 0,
        failed: 0,
        failures: vec![],
        every: None,
        late: 0,
        current: None,
    };
    let found = args.keeper.watch(&device, found)?;
    let bar = progress(count, "cases");
    let mut session = Session { args: &args, device: &device, found: &found, bar: &bar, until, shrunk: false };
    if args.every_kernel
        && let Some(verdict) = session.every_kernel()?
    {
        return Ok(verdict);
    }
    for problem in problems {
        bar.inc(1);
        if session.is_late() {
            session.hold().late += 1;
            continue;
        }
        if let Some(verdict) = session.run(&problem, &|_, _| true)? {
            return Ok(verdict);
        }
    }
    bar.finish_and_clear();
    let mut found = session.hold();
    if found.passed + found.failed + found.late == 0 {
        let kinds: Vec<String> = kinds().map(|kind| format!("{}/{}", kind.op, kind.name)).collect();
        let (source_name, message) = match &args.filter {
            Some(filter) if args.kernel.is_empty() => {
                (format!("--filter {:?}", filter.as_str()), format!("matches no run; the kinds are {}", kinds.join(", ")))
            }
            _ => {
                ("--kernel, --filter, --skip".into(), "leave no run of these cases; --every-kernel looks for a case of each kernel".into())
            }
        };
        return Err(Error::Parse { source_name, message });
    }
    found.tell(Ending::Done)
}
