//! `warpconv tune`: measures every kernel that applies to the rows of the suite, and compares with
//! what the cost model chooses.

use super::bench::{Smi, seconds};
use super::keeper::{Ending, Findings, KeeperArgs};
use super::suite::{SuiteArgs, TINY};
use super::{DeviceArgs, Verdict, column, note, print, progress};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use warpconv::bench::{Bench, Effort, Scale};
use warpconv::tuning::{TuningRow, TuningTable};
use warpconv::{DeviceKind, Error, Result, io};

const EXAMPLES: &str = "\
Examples:
  warpconv tune --core --out tables                   the core rows, into tables/tuning-GPU.json
  warpconv tune --filter ' b8 f16' --time-limit 120   some rows, for two minutes
  warpconv tune --tiny --device host --filter dw3     small images, without a GPU
  warpconv run --tuning tables/tuning-H200.json ...   a plan that goes by the table

Every kernel is compared with a float64 oracle before it is timed, as `warpconv bench` does it. What
is wrong is not timed and makes the program exit with 1. A table applies to the device, the version
of warpconv and the exact problems that it was measured with; for all others the cost model chooses.
A table in benches/results is built into the program. Rows are measured without their tails. On the
host device the times are those of an interpreter, and say nothing of a GPU.";

/// Time every kernel that applies to layers of real networks, and write a table that plans can use
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    suite: SuiteArgs,
    /// Write the times as tuning-GPU.json into this folder, which is created, while they come
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    keeper: KeeperArgs,
}

/// How long each kernel is measured on a GPU: enough to tell which is the fastest.
const EFFORT: Effort = Effort { warm_up: Duration::from_millis(10), budget: Duration::from_millis(30), least: 11, most: 200 };

/// What was measured so far.
struct Found {
    path: PathBuf,
    table: TuningTable,
    troubles: Vec<String>,
    without: usize,
    late: usize,
    /// The row that is running, and the command that repeats it.
    current: Option<(String, String)>,
}

impl Findings for Found {
    fn tell(&mut self, ending: Ending<'_>) -> Result<Verdict> {
        save(&self.path, &self.table)?;
        if let Some(headline) = self.current.as_ref().and_then(|(row, repeat)| ending.headline(row, repeat)) {
            print(headline)?;
        }
        print(text(&self.table))?;
        if self.without > 0 {
            print(format_args!("nothing to choose, or an op that this build does not have: {} configurations", self.without))?;
        }
        if self.late > 0 {
            print(format_args!("not run, since the time was up: {} configurations", self.late))?;
        }
        for trouble in &self.troubles {
            print(format_args!("NOT TIMED: {trouble}"))?;
        }
        note(format_args!("wrote {}", self.path.display()));
        Ok(ending.verdict(if self.troubles.is_empty() { Verdict::Passed } else { Verdict::Failed }))
    }
}

pub fn execute(args: Args) -> Result<Verdict> {
    const SAVE_EVERY: Duration = Duration::from_secs(10);
    let suite = args.suite.suite()?;
    let configurations = args.suite.wanted(&suite, |c| !c.tail)?;
    let device = args.device.device()?;
    let scale = args.suite.scale(&device)?;
    std::fs::create_dir_all(&args.out).map_err(|source| Error::Io { path: args.out.clone(), source })?;
    let name = TuningTable::file_name(&device);
    let path = args.out.join(&name);
    let bench = Bench::new(&device, scale)?.limits(args.suite.work(&device));
    let bench = if device.kind() == DeviceKind::Cuda { bench.effort(EFFORT) } else { bench };
    let mut table = TuningTable::new(name, &device, scale == Scale::Tiny);
    table.device.driver = Smi::new(&device).driver();
    let found = Found { path, table, troubles: vec![], without: 0, late: 0, current: None };
    let found = args.keeper.watch(&device, found)?;
    let hold = || found.lock().unwrap_or_else(PoisonError::into_inner);
    let bar = progress(configurations.len() as u64, "configurations");
    bar.enable_steady_tick(Duration::from_millis(200));
    let (start, mut saved) = (Instant::now(), Instant::now());
    hold().current = Some(("the warm-up".into(), format!("warpconv tune --device {device}{}", args.keeper.options())));
    bar.set_message("the warm-up");
    let warm = bench.warm_up();
    if let Err(error) = device.alive() {
        bar.finish_and_clear();
        return hold().tell(Ending::Lost(&error));
    }
    warm?;
    for configuration in &configurations {
        let id = configuration.id();
        bar.set_message(id.clone());
        if args.suite.limit().is_some_and(|limit| start.elapsed() >= limit) {
            hold().late += 1;
            continue;
        }
        let repeat = format!("warpconv tune --device {device}{} --filter '^{}$'", args.keeper.options(), regex_lite::escape(&id));
        hold().current = Some((id.clone(), repeat));
        let outcome = bench.tune(configuration);
        let mut found = hold();
        if let Err(error) = device.alive() {
            bar.finish_and_clear();
            return found.tell(Ending::Lost(&error));
        }
        match outcome {
            Ok(Some(row)) => {
                let failed = row.kernels.iter().filter_map(|kernel| Some((kernel, kernel.message.as_ref()?)));
                let failed: Vec<String> = failed.map(|(kernel, message)| format!("{}: {}: {message}", row.id, kernel.kernel)).collect();
                found.troubles.extend(failed);
                found.table.rows.push(row);
            }
            Ok(None) => found.without += 1,
            Err(error) => found.troubles.push(format!("{id}: {error}")),
        }
        bar.inc(1);
        if saved.elapsed() > SAVE_EVERY {
            save(&found.path, &found.table)?;
            saved = Instant::now();
        }
    }
    bar.finish_and_clear();
    hold().tell(Ending::Done)
}

fn save(path: &Path, table: &TuningTable) -> Result<()> {
    let text = serde_json::to_string_pretty(table).map_err(|e| Error::Parse { source_name: "table".into(), message: e.to_string() })?;
    io::write(path, format!("{text}\n").as_bytes())
}

/// The whole report.
fn text(table: &TuningTable) -> String {
    let width = column(table.rows.iter().map(|row| row.id.as_str()));
    let mut lines = vec![format!(
        "{:<width$} {:>7} {:>9} {:<44} {:>9} {:<44} {:>7}",
        "row", "kernels", "time", "the cost model's choice", "time", "the fastest", "regret"
    )];
    lines.extend(table.rows.iter().filter_map(|row| line(row, width)));
    let regret = table.regret();
    lines.push(String::new());
    lines.push(format!(
        "the cost model chooses the fastest kernel of {} out of {} problems with a choice; its kernels take {:.3} times as long in the geometric mean, {:.3} at worst",
        regret.best, regret.problems, regret.mean, regret.worst
    ));
    if table.tiny {
        lines.push(TINY.into());
    }
    lines.push(format!("{} ({}, {})", table.label, table.device.name, table.date));
    lines.join("\n")
}

fn line(row: &TuningRow, width: usize) -> Option<String> {
    let ((estimated, estimated_time), (fastest, time)) = (row.estimated()?, row.fastest()?);
    Some(format!(
        "{:<width$} {:>7} {:>9} {:<44} {:>9} {:<44} {:>7.3}",
        row.id,
        row.kernels.len(),
        seconds(estimated_time),
        estimated.kernel,
        seconds(time),
        fastest.kernel,
        row.regret()?
    ))
}
