//! Mutated inputs of every kind that the crate reads. None may make it panic, abort, hang for 20 seconds (in which it was given a
//! processor) or need more than 2 GB.
//!
//! ```sh
//! cargo test --test fuzz                                  # two seconds a target, as part of `cargo test`
//! cargo test --test fuzz -- --seconds 60 --jobs 2         # as CI runs it
//! cargo test --test fuzz -- --target suite --input FILE   # what was found, once more
//! ```
//!
//! An input is a function of the target, `--seed` and its number: number 0, 1, ... are the seeds themselves (tests/data/fuzz, and
//! what the repository has anyway), every later one is a seed that was changed in a few places. `--seconds` stands for a number of
//! inputs, that which a target gets through in the time on 2 cores: the same inputs everywhere, so that what passes on one machine
//! passes on another. Targets run in processes of their
//! own, whose address space is limited; such a process says which input it begins, so that the input is known however it ends.
//! What was found is saved as a file, whose path is printed, and makes the program exit with 1.
#![cfg(all(feature = "cli", feature = "host"))]

#[path = "../../src/cli/gallery/filters.rs"]
#[allow(dead_code, unused_imports)]
mod filters;
mod mutate;
#[path = "../../src/cli/gallery/pictures.rs"]
#[allow(dead_code, unused_imports)]
mod pictures;
mod targets;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use targets::{TARGETS, Target};

/// What is longer silent hangs, if it has had a processor meanwhile ...
const PATIENCE: Duration = Duration::from_secs(20);
/// ... for this part of the time; else only after so many times as long. On a busy machine it waits for its turn.
const BUSY: f64 = 0.25;
const STARVED: u32 = 10;
/// KiB of address space of a target's process.
const ADDRESS_SPACE: u64 = 2 << 20;
/// Kinds of findings of one target after which it ends.
const ENOUGH: usize = 10;
/// Where findings go.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/fuzz");

struct Options {
    seconds: f64,
    seed: u64,
    jobs: usize,
    targets: Vec<&'static Target>,
    input: Option<PathBuf>,
    /// Of a target's own process: the number of its first input.
    first: Option<u64>,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self { seconds: 2.0, seed: 1, jobs: 1, targets: vec![], input: None, first: None };
        let mut wanted = |name: &str, exact: bool| {
            options.targets.extend(TARGETS.iter().filter(|target| if exact { target.name == name } else { target.name.contains(name) }));
        };
        let (mut any, mut args) = (true, std::env::args().skip(1));
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--seconds" => options.seconds = number(&value()?)?,
                "--seed" => options.seed = number(&value()?)?,
                "--jobs" => options.jobs = number(&value()?)?,
                "--first" => options.first = Some(number(&value()?)?),
                "--input" => options.input = Some(value()?.into()),
                "--target" => {
                    any = false;
                    wanted(&value()?, true);
                }
                // what `cargo test` passes to every test program
                "--list" => {
                    TARGETS.iter().for_each(|target| println!("{}: test", target.name));
                    std::process::exit(0);
                }
                "--test-threads" | "--skip" | "--format" | "--color" => drop(value()?),
                flag if flag.starts_with('-') => {}
                filter => {
                    any = false;
                    wanted(filter, false);
                }
            }
        }
        if any {
            options.targets = TARGETS.iter().collect();
        }
        Ok(options)
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    if let (Some(first), [target]) = (options.first, &options.targets[..]) {
        return work(target, &options, first);
    }
    if let (Some(path), [target]) = (&options.input, &options.targets[..]) {
        let input = std::fs::read(path).expect("the input can be read");
        println!("accepted: {}", (target.prepare)()(&input));
        return ExitCode::SUCCESS;
    }
    let (queue, findings) = (Mutex::new(options.targets.iter()), Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, TARGETS.len()) {
            scope.spawn(|| {
                loop {
                    let Some(target) = queue.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
                    let found = watch(target, &options);
                    *findings.lock().unwrap_or_else(PoisonError::into_inner) += found;
                }
            });
        }
    });
    let findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    ExitCode::from(u8::from(findings > 0))
}

/// Input `index` of a target.
fn input(target: &Target, seeds: &[Vec<u8>], seed: u64, index: u64) -> Vec<u8> {
    match seeds.get(index as usize) {
        Some(seed) => seed.clone(),
        None => mutate::input(target.format, seeds, seed, index),
    }
}

/// How many inputs a target goes through: all its seeds at least.
fn inputs(target: &Target, options: &Options, seeds: &[Vec<u8>]) -> u64 {
    ((target.pace as f64 * options.seconds) as u64).max(seeds.len() as u64)
}

// ------------------------------------------------------------------------------------------------------------------------------
// a target's own process

/// Where the last panic was, and what it said.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn work(target: &Target, options: &Options, first: u64) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        let message = message.unwrap_or("no text").replace('\n', " ");
        let place = info.location().map_or(String::new(), |place| format!("{}:{}: ", place.file(), place.line()));
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = format!("{place}{message}");
    }));
    let seeds = (target.seeds)();
    let mut out = std::io::stdout().lock();
    let mut say = |line: std::fmt::Arguments<'_>| {
        // nobody listens any more: the end
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    };
    let run = (target.prepare)();
    let mut accepted = 0u64;
    let mut slowest = Duration::ZERO;
    for index in first..inputs(target, options, &seeds) {
        let input = input(target, &seeds, options.seed, index);
        say(format_args!("begin {index}"));
        let start = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| run(&input))) {
            Ok(good) => accepted += u64::from(good),
            Err(_) => say(format_args!("panic {index} {}", PANIC.lock().unwrap_or_else(PoisonError::into_inner))),
        }
        slowest = slowest.max(start.elapsed());
    }
    say(format_args!("end {accepted} {} {}", slowest.as_millis(), peak_kilobytes()));
    ExitCode::SUCCESS
}

/// The most memory that this process has held; 0 where the system does not say.
fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

// ------------------------------------------------------------------------------------------------------------------------------
// the process that watches

/// Runs a target's process, again after each end that should not be, until it has been through all its inputs. The number of findings.
fn watch(target: &'static Target, options: &Options) -> usize {
    let seeds = (target.seeds)();
    let mut first = 0;
    let mut total = Total::default();
    let mut kinds = BTreeSet::new();
    let mut count = 0;
    let mut found = |index: u64, what: &str| {
        // the place of a panic tells it from others; numbers in messages do not
        let kind: String = what.chars().filter(|c| !c.is_ascii_digit()).take(120).collect();
        if kinds.insert(kind) {
            let path = save(target, options.seed, index, &input(target, &seeds, options.seed, index));
            eprintln!("FOUND by {}: {what}\n  input {index} of seed {}: {}", target.name, options.seed, path.display());
        }
        kinds.len()
    };
    let findings = loop {
        let mut child = spawn(target, options, first);
        let lines = lines(&mut child);
        let mut current = None;
        // how often it was silent for as long as that, one after the other, and its CPU time the last time
        let (mut silent, mut used) = (0, 0.0);
        let how = loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    silent = 0;
                    let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
                    match word {
                        "begin" => {
                            current = rest.parse().ok();
                            total.inputs += 1;
                        }
                        "panic" => {
                            let (index, message) = rest.split_once(' ').unwrap_or((rest, ""));
                            count = found(index.parse().unwrap_or(0), &format!("panicked at {message}"));
                        }
                        "end" => total.add(rest),
                        _ => {}
                    }
                    if count >= ENOUGH {
                        break None;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    silent += 1;
                    let before = std::mem::replace(&mut used, cpu_seconds(child.id()).unwrap_or(f64::INFINITY));
                    // what it has used before it fell silent is not known: one more wait tells
                    if silent > 1 && used - before >= BUSY * PATIENCE.as_secs_f64() || used.is_infinite() || silent >= STARVED {
                        break Some(format!("hung for {} seconds", silent * PATIENCE.as_secs() as u32));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.wait().expect("the process was started");
                    break (!status.success()).then(|| format!("the process ended: {status}"));
                }
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        let Some(how) = how else { break count };
        let Some(index) = current else {
            eprintln!("FOUND by {}: {how}, before any input", target.name);
            break 1;
        };
        count = found(index, &how);
        first = index + 1;
        if count >= ENOUGH || first >= inputs(target, options, &seeds) {
            break count;
        }
    };
    println!("fuzz {:<12} {total}, {findings} findings", target.name);
    findings
}

/// What all processes of a target did.
#[derive(Default)]
struct Total {
    inputs: u64,
    accepted: u64,
    slowest_ms: u64,
    peak_kilobytes: u64,
}

impl Total {
    fn add(&mut self, line: &str) {
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        self.accepted += next();
        self.slowest_ms = self.slowest_ms.max(next());
        self.peak_kilobytes = self.peak_kilobytes.max(next());
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { inputs, accepted, slowest_ms, peak_kilobytes } = self;
        write!(f, "{inputs} inputs, {accepted} of them accepted, the slowest {slowest_ms} ms, {} MB at most", peak_kilobytes / 1024)
    }
}

/// A target's process, in a limited address space where the shell can set one.
fn spawn(target: &Target, options: &Options, first: u64) -> Child {
    let mut command = Command::new("sh");
    let limited = format!(r#"ulimit -v {ADDRESS_SPACE} 2>/dev/null; exec "$@""#);
    command.args(["-c", &limited, "sh"]).arg(std::env::current_exe().expect("this program has a path"));
    command.args(["--target", target.name, "--first", &first.to_string(), "--seed", &options.seed.to_string()]);
    command.args(["--seconds", &options.seconds.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a shell")
}

/// CPU time of a process; `None` where the system does not say.
fn cpu_seconds(process: u32) -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // behind the name, which may hold anything: the state, ..., and at 11 and 12 the user's and the system's ticks
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// The lines that a process prints, as they come.
fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    receiver
}

fn save(target: &Target, seed: u64, index: u64, input: &[u8]) -> PathBuf {
    let path = Path::new(FOLDER).join(format!("{}-{seed}-{index}", target.name));
    let written = std::fs::create_dir_all(FOLDER).and_then(|()| std::fs::write(&path, input));
    written.expect("findings can be saved");
    path
}
