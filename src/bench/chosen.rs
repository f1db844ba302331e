//! Which kernels the suite is run by: what a kernel is compiled for.

use super::gpus::explanations;
use super::*;
use crate::bench::Suite;
use crate::kernels::KERNELS;
use crate::{Explanation, GpuModel, HostOptions};
use std::collections::BTreeMap;

/// Where a kernel was the choice.
#[derive(Default)]
struct Chosen {
    problems: usize,
    /// The estimated time of the next best kernel divided by its own, where that was largest.
    gain: f64,
    example: String,
}

fn count(all: &mut BTreeMap<&'static str, Chosen>, explanation: &Explanation, example: &str) {
    explanation.stages.iter().for_each(|stage| count(all, stage, example));
    let mut times = explanation.choices.iter().filter_map(|choice| Some(choice.verdict.as_ref().ok()?.seconds));
    let gain = times.next().zip(times.next()).map_or(f64::INFINITY, |(own, next)| next / own);
    let chosen = all.entry(explanation.kernel).or_default();
    chosen.problems += 1;
    if gain > chosen.gain {
        (chosen.gain, chosen.example) = (gain, example.into());
    }
}

/// Prints for each kernel how often it is chosen, over all rows of the suite with all their batches, in every dtype and format, on
/// every GPU that the cost model knows, and what is chosen never: `cargo test --lib chosen -- --nocapture`.
#[test]
fn kernels_are_compiled_for_something() {
    let device = |model| Device::host_with(HostOptions { threads: 1, imitates: Some(model), ..Default::default() }).unwrap();
    let devices: Vec<Device> = GpuModel::ALL.iter().map(device).collect();
    let suite = Suite::built_in().unwrap();
    let mut all = BTreeMap::new();
    for row in suite.rows.iter().filter(|row| row.is_known()) {
        for (&batch, dtype, format) in row
            .batches
            .iter()
            .flat_map(|batch| DType::ALL.iter().flat_map(move |&dtype| MemoryFormat::ALL.iter().map(move |&format| (batch, dtype, format))))
        {
            let configuration = Configuration { row, batch, dtype, format, tail: false };
            let found = explanations(&configuration, &devices).unwrap_or_else(|e| panic!("{}: {e}", configuration.id()));
            for (explanation, model) in found.iter().zip(GpuModel::ALL) {
                count(&mut all, explanation, &format!("{} on {model}", configuration.id()));
            }
        }
    }
    let mut lines: Vec<(f64, String)> = vec![];
    for kernel in KERNELS.iter() {
        match all.get(kernel.name) {
            Some(chosen) => {
                lines.push((chosen.gain, format!("{:<48} {:>6} {:>8.3}  {}", kernel.name, chosen.problems, chosen.gain, chosen.example)))
            }
            None => lines.push((0.0, format!("{:<48} {:>6}", kernel.name, 0))),
        }
    }
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    lines.iter().for_each(|(_, line)| println!("{line}"));
    let never = KERNELS.iter().filter(|kernel| !all.contains_key(kernel.name)).count();
    println!("{never} of {} kernels are never chosen", KERNELS.len());
}
