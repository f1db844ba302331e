//! The results as JSON. benches/results/README.md describes the schema in words.

use super::LaunchOverhead;
use super::floors::{Floor, Floors};
use super::peers::{Peer, PeerRow, PeerTime, Peers};
use super::suite::Configuration;
use crate::analysis::LayerReport;
use crate::device::{DeviceInfo, Time};
use crate::error::{Error, Result};
use crate::text::{parse_json, utc_now};
use crate::{Device, build_info};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What happened to a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The result was right, and was timed.
    Timed,
    /// The result differs from the oracle's, so it was not timed.
    Wrong,
    /// This build does not know the op.
    UnknownOp,
    /// There was an error, such as a lack of memory.
    Failed,
    /// The time was up before it ran.
    NotRun,
}

/// What was compared with the oracle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// The twin, in words.
    pub twin: String,
    /// The number of elements of the timed shape that were compared.
    pub sampled: usize,
}

/// The result of one configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowResult {
    /// [`Configuration::id`].
    pub id: String,
    /// The row's name.
    pub row: String,
    /// The row's network.
    pub network: String,
    /// The row's family.
    pub family: String,
    /// The op.
    pub op: String,
    /// The number of images.
    pub batch: usize,
    /// The dtype's name.
    pub dtype: String,
    /// The format's name.
    pub format: String,
    /// Whether the network's tail is included.
    pub tail: bool,
    /// The row's place in a series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<super::Series>,
    /// The shape of the input that ran. Empty if nothing ran.
    pub x: Vec<usize>,
    /// The shape of the output.
    pub y: Vec<usize>,
    /// What happened to the configuration.
    pub status: Status,
    /// Why it was not timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The kernel that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Bytes of workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_bytes: Option<usize>,
    /// What was compared with the oracle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Checked>,
    /// Bytes of all tensors that rotate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotating_bytes: Option<usize>,
    /// Seconds of one launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// The least time according to the device's rates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// 100 * floor / time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent_of_floor: Option<f64>,
    /// Floating-point operations of one launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops: Option<u64>,
    /// Bytes that one launch must move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// flops / time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops_per_second: Option<f64>,
    /// bytes / time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<f64>,
    /// The peers' times, the fastest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerTime>,
    /// Workspace of the fastest peer, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_workspace_bytes: Option<u64>,
    /// Time of the fastest peer / ours: above 1 we are faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl RowResult {
    /// The result of a configuration that has not run.
    pub fn new(configuration: &Configuration<'_>) -> Self {
        let row = configuration.row;
        Self {
            id: configuration.id(),
            row: row.name.clone(),
            network: row.network.clone(),
            family: row.family.clone(),
            op: row.op.clone(),
            batch: configuration.batch,
            dtype: configuration.dtype.name().into(),
            format: configuration.format.name().into(),
            tail: configuration.tail,
            series: row.series.clone(),
            x: vec![],
            y: vec![],
            status: Status::NotRun,
            message: None,
            kernel: None,
            workspace_bytes: None,
            checked: None,
            rotating_bytes: None,
            time: None,
            floor: None,
            percent_of_floor: None,
            flops: None,
            bytes: None,
            flops_per_second: None,
            bytes_per_second: None,
            peers: vec![],
            peer_workspace_bytes: None,
            ratio: None,
        }
    }

    pub(super) fn ended(self, status: Status, message: String) -> Self {
        Self { status, message: Some(message), ..self }
    }

    pub(super) fn set_time(&mut self, time: Time, report: &LayerReport, floor: Floor) {
        self.status = Status::Timed;
        let (flops, bytes) = (report.operations.flops, report.bytes.read + report.bytes.written);
        self.percent_of_floor = Some(100.0 * floor.seconds / time.median);
        self.flops_per_second = Some(flops as f64 / time.median);
        self.bytes_per_second = Some(bytes as f64 / time.median);
        (self.time, self.floor, self.flops, self.bytes) = (Some(time), Some(floor), Some(flops), Some(bytes));
    }

    /// Whether the row counts for the headline ratios: f16 channels_last without the network's
    /// tail, so that fusion does not count as speed of a kernel.
    pub fn is_headline(&self) -> bool {
        !self.tail && self.dtype == "f16" && self.format == "channels_last"
    }

    /// The key of the row's peers. It contains no format, since peers choose their own.
    fn peer_key(&self) -> String {
        format!("{} b{} {}{}", self.row, self.batch, self.dtype, if self.tail { " tail" } else { "" })
    }
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(source: &str, text: &str, format: fn(&T) -> u32) -> Result<T> {
    let fail = |message: String| Error::Parse { source_name: source.into(), message };
    let value: T = parse_json(source, text)?;
    match format(&value) {
        1 => Ok(value),
        other => Err(fail(format!("format {other} is none that this version knows"))),
    }
}

/// Clocks at one moment of the run, from nvidia-smi.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    /// Seconds since the start of the run.
    pub at: f64,
    /// The clock of the multiprocessors, in MHz.
    pub sm_mhz: f64,
    /// The clock of the memory, in MHz.
    pub memory_mhz: f64,
    /// The temperature in degrees Celsius.
    pub celsius: f64,
    /// The power in watts.
    pub watts: f64,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The version of the format: 1.
    pub format: u32,
    /// The version of this crate.
    pub version: String,
    /// The version of the CUDA whose nvcc compiled the kernels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvcc: Option<(u32, u32)>,
    /// The end of the run in UTC, such as 2026-01-31T12:00:00Z.
    pub date: String,
    /// Where the numbers come from: a GPU, or the host device, whose times tell nothing about a
    /// GPU.
    pub label: String,
    /// Whether the sizes were scaled down.
    pub tiny: bool,
    /// The device.
    pub device: DeviceInfo,
    /// The device's rates.
    pub floors: Floors,
    /// The CPU time of a launch. `None` on the host device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<LaunchOverhead>,
    /// The clocks during the run.
    #[serde(default)]
    pub clocks: Vec<Clocks>,
    /// The libraries that were compared.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// The configurations.
    pub rows: Vec<RowResult>,
}

impl Results {
    /// Results without rows.
    pub fn new(device: &Device, floors: Floors, tiny: bool) -> Self {
        Self {
            format: 1,
            version: build_info().version.into(),
            nvcc: build_info().nvcc,
            date: utc_now(),
            label: DeviceInfo::label(device),
            tiny,
            device: DeviceInfo::of(device),
            floors,
            launch: None,
            clocks: vec![],
            peers: vec![],
            rows: vec![],
        }
    }

    /// Reads the file's text; `source` is its name.
    ///
    /// # Errors
    /// [`Error::Parse`].
    pub fn parse(source: &str, text: &str) -> Result<Self> {
        parse(source, text, |results: &Results| results.format)
    }

    /// Adds another library's times where both ran the same shape, and computes the ratios. If the
    /// library ran on the same device, the rates that it reached may raise the floors.
    pub fn merge(&mut self, peers: Peers) {
        let Peers { peer, rows, ceilings, .. } = peers;
        let before = self.floors.clone();
        if peer.device == self.device.name && self.floors.raise(&ceilings) {
            for row in &mut self.rows {
                row.floor = row.floor.as_ref().map(|floor| self.floors.floor_again(floor, &before));
                row.percent_of_floor = row.floor.as_ref().zip(row.time).map(|(floor, time)| 100.0 * floor.seconds / time.median);
            }
        }
        let mut by_key: BTreeMap<String, PeerRow> = rows.into_iter().map(|row| (row.key.clone(), row)).collect();
        for result in &mut self.rows {
            // Two of our formats have the same peers.
            let Some(row) = by_key.get_mut(&result.peer_key()).filter(|row| row.x == result.x) else { continue };
            let fastest = |times: &[PeerTime]| times.iter().map(|time| time.median).fold(f64::INFINITY, f64::min);
            if fastest(&row.times) < fastest(&result.peers) {
                result.peer_workspace_bytes = row.workspace_bytes;
            }
            result.peers.extend(row.times.iter().cloned());
            result.peers.sort_by(|a, b| a.median.total_cmp(&b.median));
            result.ratio = result.peers.first().zip(result.time).map(|(peer, time)| peer.median / time.median);
        }
        self.peers.push(peer);
    }

    /// The rows that are slower than those of an earlier run by more than both vary, with the ratio
    /// of the times.
    pub fn slower_than<'a>(&'a self, earlier: &Results) -> Vec<(&'a RowResult, f64)> {
        /// The difference between two runs of the same program, in addition to the variation of the
        /// samples.
        const NOISE: f64 = 0.03;
        let mut slower = Vec::new();
        for row in &self.rows {
            let before = earlier.rows.iter().find(|before| before.id == row.id && before.x == row.x).and_then(|before| before.time);
            if let (Some(now), Some(before)) = (row.time, before) {
                let spread = 3.0 * (now.median_deviation + before.median_deviation) + NOISE * before.median;
                if now.median > before.median + spread {
                    slower.push((row, now.median / before.median));
                }
            }
        }
        slower.sort_by(|a, b| b.1.total_cmp(&a.1));
        slower
    }
}

/// Several rows summarised in one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The family.
    pub family: String,
    /// Rows timed.
    pub timed: usize,
    /// The geometric mean of the percentages of the floor.
    pub percent_of_floor: f64,
    /// Rows with a peer.
    pub compared: usize,
    /// The number of rows where ours is faster than the fastest peer.
    pub wins: usize,
    /// The geometric mean of the ratios. NaN if there are none.
    pub ratio: f64,
}

/// Summaries of the rows that `wanted` accepts, one for each family, in the order in which the
/// families occur.
pub fn summary(rows: &[RowResult], wanted: impl Fn(&RowResult) -> bool) -> Vec<Summary> {
    let mut families: Vec<&str> = Vec::new();
    for row in rows {
        if !families.contains(&row.family.as_str()) {
            families.push(&row.family);
        }
    }
    let mean = |values: &[f64]| (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp();
    let of = |family: &str| {
        let rows: Vec<&RowResult> = rows.iter().filter(|row| row.family == family && row.time.is_some() && wanted(row)).collect();
        let percents: Vec<f64> = rows.iter().filter_map(|row| row.percent_of_floor).collect();
        let ratios: Vec<f64> = rows.iter().filter_map(|row| row.ratio).collect();
        Summary {
            family: family.into(),
            timed: rows.len(),
            percent_of_floor: mean(&percents),
            compared: ratios.len(),
            wins: ratios.iter().filter(|&&ratio| ratio > 1.0).count(),
            ratio: mean(&ratios),
        }
    };
    families.into_iter().map(of).filter(|summary| summary.timed > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Ceilings;
    use crate::bench::Suite;

    fn row(id: usize, median: f64, median_deviation: f64) -> RowResult {
        let suite = Suite::built_in().unwrap();
        let mut row = RowResult::new(&suite.configurations()[id]);
        row.x = vec![1, 2, 3, 4];
        row.time = Some(Time { median, min: median, max: median, median_deviation, samples: 5, launches: 1 });
        row.percent_of_floor = Some(50.0);
        row.status = Status::Timed;
        row
    }

    fn results(rows: Vec<RowResult>) -> Results {
        let device = DeviceInfo {
            kind: "cuda".into(),
            name: "g".into(),
            multiprocessors: 1,
            compute_capability: (9, 0),
            cache_bytes: None,
            driver: None,
        };
        let floors = Floors { copy_bytes_per_second: 1.0, tensor_flops_per_second: 1.0, ffma_flops_per_second: 1.0, ..Floors::none() };
        let (format, version, date, label) = (1, "0".into(), utc_now(), "l".into());
        Results { format, version, nvcc: None, date, label, tiny: false, device, floors, launch: None, clocks: vec![], peers: vec![], rows }
    }

    #[test]
    fn results_are_their_own_json() {
        let results = results(vec![row(0, 1e-5, 1e-7), row(3, 2e-5, 1e-7)]);
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(Results::parse("r", &text).unwrap(), results);
        assert!(Results::parse("r", &text.replacen("\"format\":1", "\"format\":9", 1)).is_err());
    }

    #[test]
    fn peers_are_merged_where_the_shapes_agree() {
        let mut ours = results(vec![row(0, 1e-5, 1e-7), row(1, 1e-5, 1e-7), row(2, 1e-5, 1e-7)]);
        let time = |name: &str, median| PeerTime { name: name.into(), median, min: None, max: None };
        let peer = |row: &RowResult, x: &[usize], times| PeerRow {
            key: row.peer_key(),
            x: x.to_vec(),
            times,
            workspace_bytes: Some(64),
            message: None,
        };
        let rows = vec![
            peer(&ours.rows[0], &[1, 2, 3, 4], vec![time("slow", 4e-5), time("fast", 2e-5)]),
            peer(&ours.rows[1], &[8, 2, 3, 4], vec![time("another shape", 1.0)]),
            peer(&ours.rows[2], &[1, 2, 3, 4], vec![time("faster than we", 5e-6)]),
        ];
        let who = Peer { name: "torch".into(), versions: BTreeMap::new(), device: "g".into() };
        ours.merge(Peers { format: 1, peer: who, ceilings: Ceilings::default(), rows });
        assert_eq!(ours.rows[0].peers[0].name, "fast");
        assert!((ours.rows[0].ratio.unwrap() - 2.0).abs() < 1e-12 && ours.rows[0].peer_workspace_bytes == Some(64));
        assert_eq!((ours.rows[1].ratio, ours.rows[1].peers.len()), (None, 0));
        let summary = summary(&ours.rows, RowResult::is_headline);
        assert_eq!((summary[0].timed, summary[0].compared, summary[0].wins), (3, 2, 1));
        assert!((summary[0].ratio - 1.0).abs() < 1e-12 && (summary[0].percent_of_floor - 50.0).abs() < 1e-9);
    }

    #[test]
    fn a_peer_on_the_same_device_raises_the_floors() {
        let mut ours = results(vec![row(0, 1e-5, 1e-7), row(1, 1e-5, 1e-7)]);
        ours.floors = Floors { tensor_flops_per_second: 4e14, ffma_flops_per_second: 5e13, ..ours.floors };
        let floor = |memory: f64, tensor: f64| Floor {
            seconds: memory.max(tensor),
            bound: if memory > tensor { "memory" } else { "tensor cores" }.into(),
            terms: BTreeMap::from([("memory".to_string(), memory), ("tensor cores".to_string(), tensor)]),
        };
        ours.rows[0].floor = Some(floor(3e-6, 8e-6));
        ours.rows[1].floor = Some(floor(2e-6, 3e-6));
        let ceilings = Ceilings { tensor_flops_per_second: Some(8e14), ffma_flops_per_second: Some(1e13), how: BTreeMap::new() };
        let peers = |device: &str| Peers {
            format: 1,
            peer: Peer { name: "torch".into(), versions: BTreeMap::new(), device: device.into() },
            ceilings: ceilings.clone(),
            rows: vec![],
        };
        let before = ours.clone();
        ours.merge(peers("another"));
        assert_eq!((&ours.floors, &ours.rows), (&before.floors, &before.rows), "another device says nothing of this one");
        ours.merge(peers("g"));
        assert_eq!((ours.floors.tensor_flops_per_second, ours.floors.ffma_flops_per_second), (8e14, 5e13), "the higher one counts");
        assert_eq!(ours.rows[0].floor, Some(floor(3e-6, 4e-6)));
        assert!((ours.rows[0].percent_of_floor.unwrap() - 40.0).abs() < 1e-9);
        assert_eq!(ours.rows[1].floor, Some(floor(2e-6, 1.5e-6)), "another term is the largest now");
    }

    #[test]
    fn slower_is_what_exceeds_the_spread() {
        let before = results(vec![row(0, 1e-5, 1e-7), row(1, 1e-5, 1e-6), row(2, 1e-5, 1e-7)]);
        let now = results(vec![row(0, 1.2e-5, 1e-7), row(1, 1.2e-5, 1e-7), row(2, 0.9e-5, 1e-7)]);
        let slower = now.slower_than(&before);
        assert_eq!(slower.len(), 1);
        assert!(slower[0].0.id == now.rows[0].id && (slower[0].1 - 1.2).abs() < 1e-12);
    }
}
