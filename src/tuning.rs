//! Measured times of kernels, which plans prefer to the estimates of the cost model.
//!
//! A [`TuningTable`] holds the time of every kernel that applies, for some problems on one device.
//! `warpconv tune` measures it ([`crate::bench::Bench::tune`]). If the table has exactly a plan's
//! problem (op, shapes, attributes, dtype, formats) and is for a device of that name, the plan
//! takes the fastest kernel of the table. All other plans go by the cost model.
//! [`crate::Explanation::chosen_by`] says which of the two it was. The tables in benches/results
//! are compiled into the crate.

use crate::device::Properties;
use crate::device::kernel::{KERNELS, TUNING_TABLES};
pub use crate::device::{DeviceInfo, Time};
use crate::error::{Error, Result};
use crate::plan::{PACK, PAIR};
use crate::text::{parse_json, utc_now};
use crate::{Device, DeviceKind, build_info};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// The measured time of a kernel for a problem, and its time by the cost model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedKernel {
    /// The kernel's name, as [`crate::PlanRequest::kernel`] takes it.
    pub kernel: String,
    /// Seconds by the cost model.
    pub estimate: f64,
    /// The measured time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Why there is no time: the result was wrong, or the kernel failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A problem and the kernels that apply to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningRow {
    /// The configuration of the suite: [`crate::bench::Configuration::id`].
    pub id: String,
    /// Everything that the times depend on: [`crate::Explanation::problem`].
    pub problem: String,
    /// The problem's kernels, the fastest first and those without a time last.
    pub kernels: Vec<TunedKernel>,
}

impl TuningRow {
    fn timed(&self) -> impl Iterator<Item = (&TunedKernel, f64)> {
        self.kernels.iter().filter_map(|kernel| Some((kernel, kernel.time?.median)))
    }

    /// The fastest kernel and its seconds.
    pub fn fastest(&self) -> Option<(&TunedKernel, f64)> {
        self.timed().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The kernel that the cost model would choose, and its measured seconds.
    pub fn estimated(&self) -> Option<(&TunedKernel, f64)> {
        self.timed().min_by(|a, b| a.0.estimate.total_cmp(&b.0.estimate))
    }

    /// The time of the cost model's choice, as a multiple of the fastest kernel's time: 1 if it is
    /// the fastest.
    pub fn regret(&self) -> Option<f64> {
        Some(self.estimated()?.1 / self.fastest()?.1)
    }
}

/// How good the cost model's choices are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regret {
    /// The number of problems with at least two kernels.
    pub problems: usize,
    /// The number of problems for which the cost model chooses the fastest kernel.
    pub best: usize,
    /// The geometric mean of [`TuningRow::regret`]; 1 if there are no problems.
    pub mean: f64,
    /// The largest regret.
    pub worst: f64,
}

/// Measured times of one device. benches/results/README.md describes the JSON form.
///
/// ```
/// use warpconv::bench::{Bench, Scale, Suite};
/// use warpconv::{ChosenBy, Conv2d, Conv2dSpec, Device, Layer, MemoryFormat, Parameter, PlanRequest, TuningTable};
/// # fn main() -> warpconv::Result<()> {
/// # #[cfg(feature = "host")] {
/// // what `warpconv tune` does
/// let (device, suite) = (Device::host()?, Suite::built_in()?);
/// let wanted = "efficientnet_b0/1x1_112to672x14 b8 f16 channels_last";
/// let row = *suite.configurations().iter().find(|row| row.id() == wanted).unwrap();
/// let mut table = TuningTable::new("mine", &device, true);
/// table.rows.extend(Bench::new(&device, Scale::Tiny)?.tune(&row)?);
/// let text = serde_json::to_string(&table).unwrap();
///
/// // what a program does that has the file (`TuningTable::open`)
/// let table = TuningTable::parse("mine", &text)?;
/// assert!(device.add_tuning(&table)); // false for a table of another device or version
/// let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[672, 112, 1, 1], &[0.5f32; 672 * 112])?)?;
/// let x = [1, 112, 4, 4]; // of the row, scaled down
/// let plan = layer.plan::<half::f16>(&device, &PlanRequest::new(x).format(MemoryFormat::ChannelsLast))?;
/// assert_eq!(plan.explain().chosen_by, ChosenBy::Table("mine".into()));
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningTable {
    /// The version of the format: 1.
    pub format: u32,
    /// The name that explanations use: that of the file.
    #[serde(skip)]
    pub name: String,
    /// The version of this crate. The table applies to no other version.
    pub version: String,
    /// The version of the CUDA whose nvcc compiled the kernels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvcc: Option<(u32, u32)>,
    /// The start of the measurement in UTC, such as 2026-01-31T12:00:00Z.
    pub date: String,
    /// Where the numbers come from: a GPU, or the host device, whose times tell nothing about a
    /// GPU.
    pub label: String,
    /// Whether the sizes were scaled down.
    pub tiny: bool,
    /// The device to which the table applies, and the driver with which it was measured.
    pub device: DeviceInfo,
    /// The problems.
    pub rows: Vec<TuningRow>,
}

impl TuningTable {
    /// A table without rows.
    pub fn new(name: impl Into<String>, device: &Device, tiny: bool) -> Self {
        Self {
            format: 1,
            name: name.into(),
            version: build_info().version.into(),
            nvcc: build_info().nvcc,
            date: utc_now(),
            label: DeviceInfo::label(device),
            tiny,
            device: DeviceInfo::of(device),
            rows: vec![],
        }
    }

    /// The name of the file for a device: "tuning-nvidia-h200.json".
    pub fn file_name(device: &Device) -> String {
        if device.kind() == DeviceKind::Host {
            return "tuning-host.json".into();
        }
        let name = device.properties().name.to_lowercase();
        let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        format!("tuning-{}.json", words.collect::<Vec<_>>().join("-"))
    }

    /// Reads a file. The file's name without folders becomes the table's name.
    ///
    /// # Errors
    /// [`Error::Io`]; as [`TuningTable::parse`].
    pub fn open(path: &Path) -> Result<Self> {
        let text = crate::files::read_text(path)?;
        let table = Self::parse(&path.display().to_string(), &text)?;
        let name = path.file_name().map_or(table.name, |name| name.to_string_lossy().into_owned());
        Ok(Self { name, ..table })
    }

    /// Reads the text of a file with the name `name`.
    ///
    /// # Errors
    /// [`Error::Parse`] for malformed JSON, unknown keys, another format, and invalid times; in a
    /// table of this version of the crate, also for a kernel that does not exist.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let fail = |message: String| Error::Parse { source_name: name.into(), message };
        let mut table: Self = parse_json(name, text)?;
        if table.format != 1 {
            return Err(fail(format!("format {} is none that this version knows", table.format)));
        }
        table.name = name.into();
        for row in &table.rows {
            if let Some((kernel, seconds)) = row.timed().find(|(_, seconds)| !seconds.is_finite() || *seconds <= 0.0) {
                return Err(fail(format!("{}: the time of {} is {seconds} seconds", row.id, kernel.kernel)));
            }
            let unknown = row.kernels.iter().find(|kernel| known(&kernel.kernel).is_none());
            if let Some(TunedKernel { kernel, .. }) = unknown.filter(|_| table.version == build_info().version) {
                return Err(fail(format!("{}: this build has no kernel {kernel:?}", row.id)));
            }
        }
        Ok(table)
    }

    /// Why the table does not apply to a device. `None` if it does.
    pub fn mismatch(&self, device: &Device) -> Option<String> {
        self.differs(device.kind(), device.properties())
    }

    fn differs(&self, kind: DeviceKind, properties: &Properties) -> Option<String> {
        let version = build_info().version;
        if self.version != version {
            return Some(format!("it is for version {} of the crate, and this is {version}", self.version));
        }
        if (self.device.kind.as_str(), &self.device.name) != (kind.name(), &properties.name) {
            let (measured, here) = (&self.device, (kind.name(), &properties.name));
            return Some(format!("it is for {} ({}), and this is {} ({})", measured.name, measured.kind, here.1, here.0));
        }
        None
    }

    /// How good the cost model's choices are, over all rows with at least two kernels.
    pub fn regret(&self) -> Regret {
        let rows = self.rows.iter().filter(|row| row.timed().nth(1).is_some());
        let regrets: Vec<f64> = rows.filter_map(TuningRow::regret).collect();
        let mean = regrets.iter().map(|regret| regret.ln()).sum::<f64>() / regrets.len().max(1) as f64;
        Regret {
            problems: regrets.len(),
            best: regrets.iter().filter(|regret| **regret <= 1.0).count(),
            mean: mean.exp(),
            worst: regrets.iter().copied().fold(1.0, f64::max),
        }
    }
}

/// The name as the crate has it, if it is that of a kernel or of a way to run as several launches.
fn known(name: &str) -> Option<&'static str> {
    let launches = [PAIR, PACK].into_iter().find(|launches| *launches == name);
    launches.or_else(|| KERNELS.iter().find(|kernel| kernel.name == name).map(|kernel| kernel.name))
}

/// The tables in benches/results at the time of the build.
static BUILT_IN: LazyLock<Vec<TuningTable>> = LazyLock::new(|| {
    // A test parses each table, so none fails here.
    TUNING_TABLES.iter().filter_map(|(name, text)| TuningTable::parse(name, text).ok()).collect()
});

/// A table that applies to a device: problems with the seconds of their kernels.
#[derive(Debug)]
struct Active {
    name: Arc<str>,
    rows: HashMap<String, Vec<(&'static str, f64)>>,
}

impl Active {
    fn new(table: &TuningTable) -> Self {
        let mut rows: HashMap<String, Vec<(&'static str, f64)>> = HashMap::new();
        for row in &table.rows {
            let times = row.timed().filter_map(|(kernel, seconds)| Some((known(&kernel.kernel)?, seconds)));
            // Two rows of the suite may be the same problem.
            rows.entry(row.problem.clone()).or_default().extend(times);
        }
        Self { name: table.name.as_str().into(), rows }
    }

    fn fastest(&self, problem: &str, applies: &dyn Fn(&str) -> bool) -> Option<(&'static str, Arc<str>)> {
        let times = self.rows.get(problem)?.iter().filter(|(name, _)| applies(name));
        times.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(name, _)| (*name, self.name.clone()))
    }
}

/// The tables of a device. Those added later come first.
#[derive(Debug)]
pub(crate) struct Tunings(RwLock<Vec<Active>>);

impl Tunings {
    /// The built-in tables for such a device.
    #[cfg_attr(not(any(feature = "host", feature = "cuda")), allow(dead_code))]
    pub fn built_in(kind: DeviceKind, properties: &Properties) -> Self {
        let matching = BUILT_IN.iter().filter(|table| table.differs(kind, properties).is_none());
        Self(RwLock::new(matching.map(Active::new).collect()))
    }

    /// Adds a table that applies to the device, in front of the others.
    pub fn add(&self, table: &TuningTable) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(0, Active::new(table));
    }

    /// The fastest of the kernels that apply, according to the first table that knows the problem,
    /// and the name of that table.
    pub fn fastest(&self, problem: &str, applies: &dyn Fn(&str) -> bool) -> Option<(&'static str, Arc<str>)> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().find_map(|table| table.fastest(problem, applies))
    }

    /// The names of the tables, and the number of problems in each.
    pub fn list(&self) -> Vec<(String, usize)> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.iter().map(|table| (table.name.to_string(), table.rows.len())).collect()
    }
}

impl Device {
    /// Adds a table. From now on, plans on this device (and its clones) for problems in the table
    /// take the table's fastest kernel. The table comes before tables that were added earlier and
    /// before those that are built in. Returns false, and changes nothing, if the table does not
    /// apply to the device: [`TuningTable::mismatch`] says why.
    pub fn add_tuning(&self, table: &TuningTable) -> bool {
        let applies = table.mismatch(self).is_none();
        if applies {
            self.tables().add(table);
        }
        applies
    }

    /// The names of the tuning tables that apply to this device, each with the number of its
    /// problems, in the order in which they are consulted.
    pub fn tunings(&self) -> Vec<(String, usize)> {
        self.tables().list()
    }

    /// The fastest of the candidates that apply, according to a tuning table that knows the
    /// problem, and the name of that table.
    pub(crate) fn tuned(&self, problem: &str, applies: &dyn Fn(&str) -> bool) -> Option<(&'static str, Arc<str>)> {
        self.tables().fastest(problem, applies)
    }

    fn tables(&self) -> &Tunings {
        let built_in = || Tunings::built_in(self.kind(), self.properties());
        self.kept(built_in).expect("devices keep nothing but tuning tables")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_are_built_in_are_whole() {
        for (name, text) in TUNING_TABLES {
            let table = TuningTable::parse(name, text).unwrap_or_else(|e| panic!("{e}: measure it anew, or delete it"));
            assert!(!table.tiny && table.device.kind == "cuda", "{name} is not of a GPU at full size");
        }
    }
}
