//! Results as text.

use crate::cli::column;
use crate::cli::suite::TINY;
use std::collections::BTreeMap;
use warpconv::bench::{Results, RowResult, Status, summary};

/// Seconds with three significant digits and a unit.
pub fn seconds(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "us"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

/// FLOP/s in TFLOP/s: with three decimals for a GPU, as a power of ten for an interpreter.
fn tera(flops: f64) -> String {
    let value = flops * 1e-12;
    if value >= 0.01 || value == 0.0 { format!("{value:.3}") } else { format!("{value:.1e}") }
}

fn bytes(bytes: usize) -> String {
    if bytes == 0 { "0".into() } else { indicatif::BinaryBytes(bytes as u64).to_string() }
}

/// The whole report.
pub fn text(results: &Results) -> String {
    let mut lines = Vec::new();
    let width = column(results.rows.iter().filter(|row| row.time.is_some()).map(|row| row.id.as_str()));
    // The row's name contains its own size.
    let shape = |row: &RowResult| if results.tiny { format!(" {:<20}", format!("{:?}", row.x)) } else { String::new() };
    let shape_title = if results.tiny { format!(" {:<20}", "x as it ran") } else { String::new() };
    let compared = results.rows.iter().any(|row| row.ratio.is_some());
    let peer = if compared { format!("{:>9} {:>6}  peer", "peer", "ratio") } else { String::new() };
    lines.push(format!(
        "{:<width$}{shape_title} {:>9} {:>6} {:>9} {:>6} {:<12} {:>8} {:>8} {:>9} {:<44} {peer}",
        "row", "time", "spread", "floor", "floor%", "bound", "TFLOP/s", "GB/s", "workspace", "kernel"
    ));
    lines.extend(results.rows.iter().filter_map(|row| line(row, width, &shape(row))));
    if results.tiny {
        lines.push(TINY.into());
    }
    lines.push(String::new());
    lines.extend(troubles(&results.rows));
    let floors = &results.floors;
    lines.push(format!(
        "floors: copy {:.3} GB/s, tensor cores {:.4} TFLOP/s, ffma {:.4} TFLOP/s, empty node {}",
        floors.copy_bytes_per_second * 1e-9,
        floors.tensor_flops_per_second * 1e-12,
        floors.ffma_flops_per_second * 1e-12,
        seconds(floors.empty_node_seconds)
    ));
    lines.extend(floors.how.iter().map(|(name, how)| format!("  {name}: {how}")));
    if let Some(launch) = &results.launch {
        let [run, bare, more] = [launch.run_seconds, launch.bare_seconds, launch.seconds()].map(|seconds| seconds * 1e6);
        lines.push(format!("CPU time of a launch: {run:.2} us by a plan, {bare:.2} us by cudarc alone: {more:.2} us more"));
    }
    if let Some((first, last)) = results.clocks.first().zip(results.clocks.last()) {
        lines.push(format!("clocks: {} MHz at the start, {} MHz and {} degrees at the end", first.sm_mhz, last.sm_mhz, last.celsius));
    }
    lines.push(String::new());
    lines.extend(families(&results.rows));
    lines.push(format!("{} ({}, {})", results.label, results.device.name, results.date));
    lines.join("\n")
}

fn line(row: &RowResult, width: usize, shape: &str) -> Option<String> {
    let (time, floor) = (row.time?, row.floor.as_ref()?);
    let peer = row.peers.first().zip(row.ratio);
    let peer = peer.map_or_else(String::new, |(peer, ratio)| format!("{:>9} {ratio:>6.2}  {}", seconds(peer.median), peer.name));
    Some(format!(
        "{:<width$}{shape} {:>9} {:>5.1}% {:>9} {:>5.1}% {:<12} {:>8} {:>8.1} {:>9} {:<44} {peer}",
        row.id,
        seconds(time.median),
        100.0 * time.median_deviation / time.median,
        seconds(floor.seconds),
        row.percent_of_floor.unwrap_or_default(),
        floor.bound,
        tera(row.flops_per_second.unwrap_or_default()),
        row.bytes_per_second.unwrap_or_default() * 1e-9,
        bytes(row.workspace_bytes.unwrap_or_default()),
        row.kernel.as_deref().unwrap_or_default(),
    ))
}

/// The configurations that were not timed.
fn troubles(rows: &[RowResult]) -> Vec<String> {
    let mut lines = Vec::new();
    for (status, title) in [(Status::Wrong, "WRONG, so not timed"), (Status::Failed, "FAILED")] {
        for row in rows.iter().filter(|row| row.status == status) {
            lines.push(format!("{title}: {}: {}", row.id, row.message.as_deref().unwrap_or_default()));
        }
    }
    let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.status == Status::UnknownOp) {
        *missing.entry(&row.op).or_default() += 1;
    }
    if !missing.is_empty() {
        let list: Vec<String> = missing.iter().map(|(op, count)| format!("{op} ({count})")).collect();
        lines.push(format!("not timed, since this build does not have the op: {}", list.join(", ")));
    }
    let late = rows.iter().filter(|row| row.status == Status::NotRun).count();
    if late > 0 {
        lines.push(format!("not run, since the time was up: {late} configurations"));
    }
    lines
}

/// Geometric means: the headline without tails, then with tails.
fn families(rows: &[RowResult]) -> Vec<String> {
    let mut lines = Vec::new();
    type Wanted = fn(&RowResult) -> bool;
    let tables: [(&str, Wanted); 3] = [
        ("f16 channels_last, without a tail", RowResult::is_headline),
        ("f16 channels_last, with the network's tail", |row| row.tail),
        ("other dtypes and formats", |row| !row.tail && !row.is_headline()),
    ];
    for (title, wanted) in tables {
        let table = summary(rows, wanted);
        if table.is_empty() {
            continue;
        }
        lines.push(format!("{title:<44} {:>6} {:>10} {:>9} {:>6} {:>14}", "rows", "% of floor", "compared", "wins", "peer time/ours"));
        for family in table {
            let ratio = if family.compared == 0 { "-".into() } else { format!("{:.2}", family.ratio) };
            lines.push(format!(
                "  {:<42} {:>6} {:>10.1} {:>9} {:>6} {ratio:>14}",
                family.family, family.timed, family.percent_of_floor, family.compared, family.wins
            ));
        }
        lines.push(String::new());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        assert_eq!(seconds(1.234e-6), "1.23 us");
        assert_eq!(seconds(45.67e-6), "45.7 us");
        assert_eq!(seconds(0.1234), "123 ms");
        assert_eq!(seconds(2.5), "2.50 s");
    }

    /// The width of a format is 16 bits.
    #[test]
    fn names_may_be_longer_than_a_column_can_be() {
        let long = "n".repeat(65_536);
        let names = ["short", &long];
        let width = column(names.into_iter());
        assert_eq!((width, format!("{:<width$}|", "short").len(), format!("{long:<width$}").len()), (120, 121, 65_536));
        assert_eq!(column(["äöü"].into_iter()), 3);
    }
}
