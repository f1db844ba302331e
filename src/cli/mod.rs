//! The program's commands and what they share: the device, progress, output and exit codes.
//!
//! A command is a module with `pub struct Args` (its options) and
//! `pub fn execute(Args) -> Result<Verdict>`. It prints its result with [`print`] and everything
//! else with [`note`].

mod bench;
mod conformance;
mod gallery;
mod info;
mod keeper;
mod run;
mod suite;
mod tune;
mod verify;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::error::Error as _;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use warpconv::analysis::Limits;
use warpconv::io::{TensorFile, read_text};
use warpconv::{AnyLayer, DType, Device, Error, LayerSpec, MemoryFormat, Result, TuningTable};

/// How a command ended, if it did not end in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Passed,
    /// The command did its work and found something wrong.
    Failed,
    /// The GPU was lost. What was found before is printed.
    Lost,
}

const EXIT_FAILED: u8 = 1;
const EXIT_ERROR: u8 = 2;
const EXIT_LOST: u8 = 3;

const AFTER_HELP: &str = "\
Exit codes:
  0  all is well
  1  a check failed
  2  wrong usage, bad input, or a device or file that failed
  3  a kernel took the GPU down or hung: it is named, and what was found before is there
  130, 143  SIGINT or SIGTERM ended verify, bench, tune or conformance: what was found before is there

Results go to stdout; progress and messages go to stderr.";

/// Every kind of convolution of modern CNNs, on a GPU or, with the very same kernels, on the CPU.
#[derive(Debug, Parser)]
#[command(name = "warpconv", version = VERSION.as_str(), after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Gallery(gallery::Args),
    Run(run::Args),
    Verify(verify::Args),
    Info(info::Args),
    Bench(Box<bench::Args>),
    Tune(tune::Args),
    Conformance(conformance::Args),
}

static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (features: {})", env!("CARGO_PKG_VERSION"), features().collect::<Vec<_>>().join(", ")));

/// The cargo features of this build.
pub fn features() -> impl Iterator<Item = &'static str> {
    let all = [
        ("cli", cfg!(feature = "cli")),
        ("host", cfg!(feature = "host")),
        ("checked-host", cfg!(feature = "checked-host")),
        ("cuda", cfg!(feature = "cuda")),
    ];
    all.into_iter().filter_map(|(name, on)| on.then_some(name))
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::execute(args),
        Command::Gallery(args) => gallery::execute(args),
        Command::Info(args) => info::execute(args),
        Command::Bench(args) => bench::execute(*args),
        Command::Tune(args) => tune::execute(args),
        Command::Verify(args) => verify::execute(args),
        Command::Conformance(args) => conformance::execute(args),
    };
    match result {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(EXIT_FAILED),
        Ok(Verdict::Lost) => ExitCode::from(EXIT_LOST),
        Err(error) => {
            report(&error);
            ExitCode::from(if error.is_sticky() { EXIT_LOST } else { EXIT_ERROR })
        }
    }
}

/// Prints an error, those causes that its message does not contain yet, and advice if the message
/// alone does not say what to do.
fn report(error: &Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text += &format!("\n  caused by: {inner_text}");
        }
        cause = inner.source();
    }
    if let Some(advice) = advice(error) {
        text += &format!("\n  {advice}");
    }
    note(format_args!("error: {text}"));
}

fn advice(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => "check the path; folders are not created",
        Error::Io { source, .. } if source.kind() == io::ErrorKind::InvalidData => "JSON is text in UTF-8: convert the file",
        Error::Io { source, .. } if source.kind() == io::ErrorKind::IsADirectory => "name a file, not a folder",
        Error::DeviceUnavailable { .. } => "`warpconv info` lists the devices; --device host needs no GPU",
        Error::Work { .. } => "--max-flops and --max-bytes allow more, which may take long",
        Error::Kernel { .. } => "this is a bug of warpconv: please report it with the command line",
        _ => return None,
    })
}

/// Prints a result to stdout. A reader that has gone away (as in `warpconv info | head`) is not an
/// error.
///
/// # Errors
/// [`Error::Io`] when stdout cannot be written, for example because the disk is full.
pub fn print(text: impl Display) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Error::Io { path: "stdout".into(), source }),
        _ => Ok(()),
    }
}

/// Prints a value as JSON to stdout.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    print(format_args!("{value:#}"))
}

/// Prints a message to stderr. If that fails, there is no way to report it.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A progress bar on stderr, invisible if that is not a terminal. `what` says what is counted, such
/// as "cases".
pub fn progress(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {prefix}  {wide_msg}").expect("the template is valid");
    ProgressBar::new(length).with_style(style).with_prefix(what)
}

/// Does `work`, which runs this number of blocks of kernels on a device, and shows a bar on stderr
/// with the elapsed time and the share of blocks that have ended. If the device does not count
/// blocks, only the time is shown. Invisible if stderr is not a terminal.
pub fn watched<R>(device: &Device, blocks: u64, what: String, work: impl FnOnce() -> R) -> R {
    const TICK: Duration = Duration::from_millis(100);
    let before = device.blocks_done();
    let template = match before {
        Some(_) => "{bar:30} {percent}% {elapsed_precise}  {wide_msg}",
        None => "{spinner} {elapsed_precise}  {wide_msg}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    let bar = ProgressBar::new(blocks).with_style(style).with_message(what);
    bar.tick();
    let done = || Some(device.blocks_done()?.saturating_sub(before?).min(blocks));
    let result = std::thread::scope(|scope| {
        let (working, ended) = std::sync::mpsc::channel::<()>();
        let (bar, done) = (&bar, &done);
        scope.spawn(move || {
            // Nothing is ever sent: the end of the work closes the channel.
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                done().into_iter().for_each(|done| bar.set_position(done));
                bar.tick();
            }
        });
        let result = work();
        drop(working);
        result
    });
    bar.finish_and_clear();
    result
}

/// Reads a layer's op and attributes, `{"op": ..., "attrs": {...}}`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Parse`], which names the file.
pub fn read_layer(path: &Path) -> Result<LayerSpec> {
    LayerSpec::from_json(&read_text(path)?).map_err(|error| match error {
        Error::Parse { message, .. } => Error::Parse { source_name: path.display().to_string(), message },
        other => other,
    })
}

/// Builds the layer of `spec` with all parameters of a safetensors file.
///
/// # Errors
/// As [`TensorFile::open`] and [`AnyLayer::new`].
pub fn layer_from_files(spec: LayerSpec, weights: &Path) -> Result<AnyLayer> {
    let file = TensorFile::open(weights)?;
    let parameters = file.names().map(|name| Ok((name.to_string(), file.parameter(name)?)));
    AnyLayer::new(spec, parameters.collect::<Result<_>>()?).map_err(|error| of_file(error, &spec, weights))
}

/// Adds the file to errors about a missing or unknown tensor, and says where a tensor belongs that
/// was in the wrong file.
pub fn of_file(error: Error, spec: &LayerSpec, path: &Path) -> Error {
    let (path, signature) = (path.display(), spec.signature());
    match error {
        Error::MissingTensor { op, name, available } => Error::MissingTensor { op, name, available: format!(" in {path}{available}") },
        Error::UnexpectedTensor { op, name, known } => {
            let (kind, belongs) = match name.as_str() {
                name if signature.parameters.contains(&name) => ("input ", format!("; {name} belongs into the file of --weights")),
                name if signature.inputs.contains(&name) => ("parameter ", format!("; {name} belongs into the file of --input")),
                _ => ("", String::new()),
            };
            Error::UnexpectedTensor { op, name: format!("{kind}{name} (in {path})"), known: known + &belongs }
        }
        error => error,
    }
}

/// The width of a table's column for these names: that of the longest name, up to a limit.
pub fn column<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    const WIDEST: usize = 120;
    names.map(|name| name.chars().count()).max().unwrap_or(0).min(WIDEST)
}

/// The parser of an option that takes one dtype.
pub fn dtype_parser() -> impl TypedValueParser<Value = DType> {
    let parse = |name: String| *DType::ALL.iter().find(|dtype| dtype.name() == name).expect("one of the possible values");
    PossibleValuesParser::new(DType::ALL.map(DType::name)).map(parse)
}

/// The parser of an option that takes one memory format.
pub fn format_parser() -> impl TypedValueParser<Value = MemoryFormat> {
    PossibleValuesParser::new(["contiguous", "channels-last"]).map(|name| match name.as_str() {
        "contiguous" => MemoryFormat::Contiguous,
        _ => MemoryFormat::ChannelsLast,
    })
}

/// The options `--dtype` and `--format`, for commands that run several of them.
#[derive(Debug, Clone, clap::Args)]
pub struct VariantArgs {
    /// Dtypes to run
    #[arg(long, value_enum, default_value = "all")]
    dtype: DTypes,
    /// Memory formats to run
    #[arg(long, value_enum, default_value = "all")]
    format: Formats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DTypes {
    F32,
    F16,
    Bf16,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Formats {
    Contiguous,
    ChannelsLast,
    All,
}

impl VariantArgs {
    /// The dtypes that were asked for.
    pub fn dtypes(&self) -> &'static [DType] {
        match self.dtype {
            DTypes::F32 => &[DType::F32],
            DTypes::F16 => &[DType::F16],
            DTypes::Bf16 => &[DType::Bf16],
            DTypes::All => &DType::ALL,
        }
    }

    /// The formats that were asked for.
    pub fn formats(&self) -> &'static [MemoryFormat] {
        match self.format {
            Formats::Contiguous => &[MemoryFormat::Contiguous],
            Formats::ChannelsLast => &[MemoryFormat::ChannelsLast],
            Formats::All => &MemoryFormat::ALL,
        }
    }
}

/// The options `--max-flops` and `--max-bytes`, for every command that runs a user's layers.
#[derive(Debug, Clone, clap::Args)]
pub struct LimitArgs {
    /// Refuse a layer that would do more FLOPs [default: 2e11 on the host device, 1e15 on a GPU]
    #[arg(long, value_name = "FLOPS", value_parser = parse_count)]
    max_flops: Option<u64>,
    /// Refuse a layer that would move more bytes [default: 4 GiB on the host device, 1 TiB on a
    /// GPU]
    #[arg(long, value_name = "BYTES", value_parser = parse_count)]
    max_bytes: Option<u64>,
}

impl LimitArgs {
    /// The limits on a device.
    pub fn of(&self, device: &Device) -> Limits {
        let Limits { flops, bytes } = Limits::of(device);
        Limits { flops: self.max_flops.unwrap_or(flops), bytes: self.max_bytes.unwrap_or(bytes) }
    }
}

/// Reads a number such as `250000000` or `2.5e8`.
fn parse_count(text: &str) -> Result<u64, String> {
    let rounded = || text.parse::<f64>().ok().filter(|count| *count >= 0.0).map(|count| count as u64);
    text.parse().ok().or_else(rounded).ok_or_else(|| "expected a number such as 250000000 or 2.5e8".into())
}

/// The value of `--device` if it is not given.
const BEST: &str = "best";

/// Refuses a value that names no device, even if the command then needs no device.
fn device_name(text: &str) -> Result<String, &'static str> {
    let is_gpu = |text: &str| text.strip_prefix("cuda:").is_some_and(|ordinal| ordinal.parse::<usize>().is_ok());
    if [BEST, "host", "cuda"].contains(&text) || is_gpu(text) { Ok(text.into()) } else { Err("expected best, host or cuda:N") }
}

/// The option `--device`, for every command that runs kernels.
#[derive(Debug, Clone, clap::Args)]
pub struct DeviceArgs {
    /// Where to run: best (a GPU if there is one, else host), host (the kernels run on the CPU), or
    /// cuda:N
    #[arg(long, value_name = "best|host|cuda:N", default_value = BEST, value_parser = device_name)]
    device: String,
    /// Use the measured times of these tables, which `warpconv tune` writes, before those that are
    /// built in
    #[arg(long, value_name = "TUNING.json")]
    tuning: Vec<PathBuf>,
}

impl DeviceArgs {
    /// Opens the device and prints on stderr which it is.
    ///
    /// # Errors
    /// As [`Device::parse`].
    pub fn device(&self) -> Result<Device> {
        self.announce(Device::parse(&self.device)?)
    }

    /// The device that was asked for by name, if one was.
    ///
    /// # Errors
    /// As [`Device::parse`].
    pub fn named(&self) -> Result<Option<(String, Device)>> {
        if self.device == BEST {
            return Ok(None);
        }
        Ok(Some((self.device.clone(), Device::parse(&self.device)?)))
    }

    /// Opens the device, under the checker if that was asked for.
    ///
    /// # Errors
    /// As [`Device::parse`]; [`Error::MissingFeature`] when this build has no checker; [`Error::Attribute`] when the checker
    /// is asked for on another device than the host.
    pub fn checked_device(&self, checker: &CheckerArgs) -> Result<Device> {
        if !checker.checked {
            return self.device();
        }
        if !["best", "host"].contains(&self.device.as_str()) {
            let requirement = "host with --checked: the checker is a build of the host device";
            return Err(Error::Attribute { name: "--device", value: self.device.clone(), requirement });
        }
        #[cfg(feature = "host")]
        return self.announce(Device::host_with(warpconv::HostOptions { checked: true, seed: checker.seed(), ..Default::default() })?);
        #[cfg(not(feature = "host"))]
        Err(Error::MissingFeature { feature: "checked-host" })
    }

    /// Prints on stderr which device it is, and adds the tuning tables to it.
    ///
    /// # Errors
    /// Errors in the files of the tables.
    pub fn announce(&self, device: Device) -> Result<Device> {
        note(format_args!("device: {device} ({})", device.describe()));
        self.tune(&device)?;
        Ok(device)
    }

    /// Adds the tables to a device, and prints on stderr which of them do not apply to it.
    ///
    /// # Errors
    /// As [`TuningTable::open`].
    pub fn tune(&self, device: &Device) -> Result<()> {
        for path in &self.tuning {
            let table = TuningTable::open(path)?;
            if let Some(why) = table.mismatch(device) {
                note(format_args!("{} is not used on {device}: {why}", path.display()));
            }
            device.add_tuning(&table);
        }
        Ok(())
    }
}

/// The options `--checked --seed N`, for commands that check kernels.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckerArgs {
    /// Run the kernels under the checker: out-of-bounds accesses, races, uninitialised reads, divergent barriers (host
    /// device, feature checked-host)
    #[arg(long)]
    checked: bool,
    /// Draw everything random from this seed: the order of threads under --checked, the cases of
    /// verify
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl CheckerArgs {
    /// The options as a user would type them, preceded by a space.
    pub fn options(&self) -> String {
        if self.checked { format!(" --checked --seed {}", self.seed()) } else { String::new() }
    }

    /// The seed, or 0 if none is given.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }
}
