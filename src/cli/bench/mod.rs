//! `warpconv bench`: checks layers of real networks, times them, and compares with the device's
//! floors and other libraries.

mod plots;
mod smi;
mod table;

use super::keeper::{Ending, Findings, KeeperArgs};
use super::suite::SuiteArgs;
use super::{DeviceArgs, Verdict, note, print, progress, read_text};
use smi::Sampler;
pub use smi::Smi;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};
pub use table::seconds;
use warpconv::bench::{Bench, Configuration, Floors, Peers, Results, RowResult, Scale, Status};
use warpconv::{Error, Result, io};

const EXAMPLES: &str = "\
Examples:
  warpconv bench --core --json ours.json              the core suite on the GPU
  warpconv bench --filter '^resnet50/' --batch 8      some rows
  warpconv bench --tiny --device host --core          without a GPU: small images, to try the program
  warpconv bench --from ours.json --peers peers.json --plot plots
                                                      results beside PyTorch's (benches/compare.sh does it all)
  warpconv bench --core --baseline benches/results/last.json
                                                      warns of what has become slower

Every configuration is compared with a float64 oracle before it is timed; what is wrong, or fails, is not timed and makes the
program exit with 1. Times are medians of graph replays over rotating inputs; the floor is the least time by rates that are measured in
the same run. On the host device the times are those of an interpreter, and say nothing of a GPU.";

/// Time layers of real networks and compare with the least time that the device allows and with
/// other libraries
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    suite: SuiteArgs,
    /// Run nothing: use the results of an earlier run
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suite", "core", "tiny", "time_limit"])]
    from: Option<PathBuf>,
    /// Times of another library, as benches/peers/torch_peers.py writes them
    #[arg(long, value_name = "FILE")]
    peers: Vec<PathBuf>,
    /// Earlier results: warn of rows that have become slower by more than the measurements vary
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Write the results as JSON, while they are measured
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw plots (PNG) into this folder, which is created
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// List the configurations and run nothing
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    keeper: KeeperArgs,
}

/// What was measured so far.
struct Found {
    results: Results,
    sampler: Option<Sampler>,
    /// The file into which results are saved while they are measured.
    json: Option<PathBuf>,
    /// The row that is running, and the command that repeats it.
    current: Option<(String, String)>,
}

impl Found {
    /// Saves the results so far.
    fn save(&mut self) -> Result<()> {
        if let Some(sampler) = &self.sampler {
            self.results.clocks = sampler.clocks();
        }
        self.json.as_ref().map_or(Ok(()), |path| save(path, &self.results))
    }
}

impl Findings for Found {
    fn tell(&mut self, ending: Ending<'_>) -> Result<Verdict> {
        self.save()?;
        if let Some(sampler) = &mut self.sampler {
            sampler.end(); // the program may end without dropping it
        }
        if let Some(headline) = self.current.as_ref().and_then(|(row, repeat)| ending.headline(row, repeat)) {
            print(headline)?;
            print(table::text(&self.results))?;
        }
        Ok(ending.verdict(Verdict::Passed))
    }
}

pub fn execute(args: Args) -> Result<Verdict> {
    // All errors in the arguments are found before anything runs for minutes.
    let peers = args.peers.iter().map(|path| Peers::parse(&path.display().to_string(), &read_text(path)?));
    let peers: Vec<Peers> = peers.collect::<Result<_>>()?;
    let baseline = args.baseline.as_deref().map(read_results).transpose()?;
    if let Some(folder) = &args.plot {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
    }
    let mut results = match &args.from {
        Some(path) => args.earlier(path)?,
        None => {
            let suite = args.suite.suite()?;
            let configurations = args.suite.wanted(&suite, |_| true)?;
            if args.list {
                return list(&configurations);
            }
            let (results, verdict) = args.run(&configurations)?;
            if verdict == Verdict::Lost {
                return Ok(verdict);
            }
            results
        }
    };
    for peers in peers {
        results.merge(peers);
    }
    if let Some(path) = &args.json {
        save(path, &results)?;
    }
    print(table::text(&results))?;
    if let Some(folder) = &args.plot {
        for path in plots::draw(&results, folder)? {
            note(format_args!("wrote {}", path.display()));
        }
    }
    if let Some(baseline) = &baseline {
        compare(&results, baseline)?;
    }
    let failed = results.rows.iter().any(|row| matches!(row.status, Status::Wrong | Status::Failed));
    Ok(if failed { Verdict::Failed } else { Verdict::Passed })
}

impl Args {
    fn earlier(&self, path: &Path) -> Result<Results> {
        let mut results = read_results(path)?;
        results.rows.retain(|row| self.suite.matches(&row.id, row.batch, &row.dtype));
        Ok(results)
    }

    fn run(&self, configurations: &[Configuration<'_>]) -> Result<(Results, Verdict)> {
        const SAVE_EVERY: Duration = Duration::from_secs(10);
        let device = self.device.device()?;
        let scale = self.suite.scale(&device)?;
        let results = Results::new(&device, Floors::none(), scale == Scale::Tiny);
        let smi = Smi::new(&device);
        let found = Found { results, sampler: smi.sampler(), json: self.json.clone(), current: None };
        let found = self.keeper.watch(&device, found)?;
        let hold = || found.lock().unwrap_or_else(PoisonError::into_inner);
        let repeat = |of: &str| format!("warpconv bench --device {device}{}{of}", self.keeper.options());
        hold().current = Some(("the device's floors".into(), repeat("")));
        let (bench, start) = (Bench::new(&device, scale)?.limits(self.suite.work(&device)), Instant::now());
        let bar = progress(configurations.len() as u64, "configurations");
        bar.set_message("the device's floors");
        bar.enable_steady_tick(Duration::from_millis(200));
        let measured = bench.floors().and_then(|floors| Ok((floors, bench.launch_overhead()?)));
        if let Err(error) = device.alive() {
            let mut found = hold();
            let verdict = found.tell(Ending::Lost(&error))?;
            return Ok((found.results.clone(), verdict));
        }
        let (floors, launch) = measured?;
        {
            let mut found = hold();
            found.results.floors = floors.clone();
            found.results.launch = launch;
            found.results.device.driver = smi.driver();
        }
        let mut saved = Instant::now();
        let limit = self.suite.limit();
        for (index, configuration) in configurations.iter().enumerate() {
            let id = configuration.id();
            bar.set_message(id.clone());
            let late = limit.is_some_and(|limit| start.elapsed() >= limit);
            let row = if late {
                RowResult { message: Some("the time was up".into()), ..RowResult::new(configuration) }
            } else {
                hold().current = Some((id.clone(), repeat(&format!(" --filter '^{}$'", regex_lite::escape(&id)))));
                bench.run(configuration, &floors)
            };
            let mut found = hold();
            found.results.rows.push(row);
            bar.inc(1);
            if let Err(error) = device.alive() {
                let rest = configurations[index + 1..].iter();
                let rest = rest.map(|c| RowResult { message: Some("the device was lost".into()), ..RowResult::new(c) });
                found.results.rows.extend(rest);
                bar.finish_and_clear();
                let verdict = found.tell(Ending::Lost(&error))?;
                return Ok((found.results.clone(), verdict));
            }
            if saved.elapsed() > SAVE_EVERY {
                found.save()?;
                saved = Instant::now();
            }
        }
        bar.finish_and_clear();
        let mut found = hold();
        let verdict = found.tell(Ending::Done)?;
        Ok((found.results.clone(), verdict))
    }
}

fn list(configurations: &[Configuration<'_>]) -> Result<Verdict> {
    for configuration in configurations {
        let missing = if configuration.row.is_known() { "" } else { "  (this build does not have its op)" };
        print(format_args!("{}{missing}", configuration.id()))?;
    }
    print(format_args!("{} configurations", configurations.len()))?;
    Ok(Verdict::Passed)
}

fn read_results(path: &Path) -> Result<Results> {
    Results::parse(&path.display().to_string(), &read_text(path)?)
}

fn save(path: &Path, results: &Results) -> Result<()> {
    let text = serde_json::to_string_pretty(results).map_err(|e| Error::Parse { source_name: "results".into(), message: e.to_string() })?;
    io::write(path, format!("{text}\n").as_bytes())
}

/// Prints what has become slower. In CI on GitHub the lines become annotations.
fn compare(results: &Results, baseline: &Results) -> Result<()> {
    if results.device.name != baseline.device.name || results.tiny != baseline.tiny {
        note(format_args!("not compared with the baseline, which is of {} ({})", baseline.device.name, baseline.label));
        return Ok(());
    }
    let slower = results.slower_than(baseline);
    let prefix = if std::env::var_os("GITHUB_ACTIONS").is_some() { "::warning::" } else { "warning: " };
    for (row, ratio) in &slower {
        note(format_args!("{prefix}{} takes {ratio:.2} times as long as in the baseline of {}", row.id, baseline.date));
    }
    print(format_args!("{} rows are slower than the baseline of {} beyond the spread", slower.len(), baseline.date))
}
