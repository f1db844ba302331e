//! The options that `bench` and `tune` share: which rows of the suite run, and at which size.

use super::{LimitArgs, dtype_parser, read_text};
use regex_lite::Regex;
use std::path::PathBuf;
use std::time::Duration;
use warpconv::analysis::Limits;
use warpconv::bench::{Configuration, Scale, Set, Suite};
use warpconv::{DType, Device, DeviceKind, Error, Result};

/// The note on reports of tiny runs.
pub const TINY: &str = "--tiny: each row ran one image that is smaller than its own, with the channels of the row";

/// The options `--suite`, `--filter`, `--core` and similar ones.
#[derive(Debug, Clone, clap::Args)]
pub struct SuiteArgs {
    /// The rows, as benches/README.md describes them [default: those in the program]
    #[arg(long, value_name = "FILE")]
    suite: Option<PathBuf>,
    /// Run only configurations whose `network/layer bN dtype format` matches
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Run only the core rows
    #[arg(long)]
    core: bool,
    /// Run only these batches
    #[arg(long, value_name = "N", value_delimiter = ',')]
    batch: Vec<usize>,
    /// Run only these dtypes
    #[arg(long, value_name = "DTYPE", value_parser = dtype_parser(), value_delimiter = ',')]
    dtype: Vec<DType>,
    /// Run one small image for each row, with all channels: for the host device
    #[arg(long)]
    tiny: bool,
    /// Skip what these results or tuning tables contain: to continue a run that was cut short
    #[arg(long, value_name = "FILE")]
    done: Vec<PathBuf>,
    /// Start no configuration after this many seconds
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl SuiteArgs {
    pub fn suite(&self) -> Result<Suite> {
        match &self.suite {
            Some(path) => Suite::parse(&path.display().to_string(), &read_text(path)?),
            None => Suite::built_in(),
        }
    }

    pub fn matches(&self, id: &str, batch: usize, dtype: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.is_match(id))
            && (self.batch.is_empty() || self.batch.contains(&batch))
            && (self.dtype.is_empty() || self.dtype.iter().any(|wanted| wanted.name() == dtype))
    }

    /// The configurations that the options select, among those that `also` accepts.
    ///
    /// # Errors
    /// [`Error::Parse`] when there is none.
    pub fn wanted<'a>(&self, suite: &'a Suite, also: impl Fn(&Configuration<'_>) -> bool) -> Result<Vec<Configuration<'a>>> {
        let mut all = suite.configurations();
        all.retain(|c| (!self.core || c.row.set == Set::Core) && self.matches(&c.id(), c.batch, c.dtype.name()) && also(c));
        if self.tiny {
            // All batches shrink to one image, so a row runs at the first batch that is selected.
            let main = |c: &Configuration<'_>| c.batch == c.row.main_batch() || self.batch.contains(&c.batch);
            all.retain(main);
        }
        let mut done = Vec::new();
        for path in &self.done {
            let refuse = |e: serde_json::Error| Error::Parse { source_name: path.display().to_string(), message: e.to_string() };
            let text: serde_json::Value = serde_json::from_str(&read_text(path)?).map_err(refuse)?;
            let rows = text["rows"].as_array().into_iter().flatten();
            // The rows of a tuning table have no status.
            let measured = rows.filter(|row| row.get("status").is_none_or(|status| status == "timed"));
            done.extend(measured.filter_map(|row| Some(row["id"].as_str()?.to_string())));
        }
        all.retain(|c| !done.contains(&c.id()));
        if all.is_empty() {
            let source_name = "--filter, --core, --batch, --dtype".into();
            let message = "together they leave no row to run: `warpconv bench --list` shows all".into();
            return Err(Error::Parse { source_name, message });
        }
        Ok(all)
    }

    /// The scale at which a device runs.
    ///
    /// # Errors
    /// [`Error::Attribute`] for the host device without `--tiny`.
    pub fn scale(&self, device: &Device) -> Result<Scale> {
        if device.kind() == DeviceKind::Host && !self.tiny {
            let requirement = "a GPU, or host with --tiny: the host device interprets kernels and would take days at full size";
            return Err(Error::Attribute { name: "--device", value: device.to_string(), requirement });
        }
        Ok(if self.tiny { Scale::Tiny } else { Scale::Full })
    }

    /// The largest work that one configuration may be.
    pub fn work(&self, device: &Device) -> Limits {
        self.limits.of(device)
    }

    pub fn limit(&self) -> Option<Duration> {
        self.time_limit.map(Duration::from_secs)
    }
}
