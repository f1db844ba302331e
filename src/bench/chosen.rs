//! Which kernels are chosen for the rows of the suite. Every kernel costs compile time, so each
//! must be chosen or be listed here with its use.

use super::gpus::explanations;
use super::*;
use crate::bench::Suite;
use crate::kernels::KERNELS;
use crate::{Explanation, GpuModel, HostOptions};
use std::collections::BTreeMap;

/// Uses of kernels that no row of the suite chooses on any GPU of the cost model: a name, in which
/// `*` stands for anything, and the use. A kernel that is neither chosen nor listed here costs
/// compile time for nothing.
const OTHER_USES: &[(&str, &str)] = &[
    ("conv_direct_*_contiguous", "every convolution that no other kernel takes"),
    ("deform_conv_direct_*", "every deformable convolution that no other kernel takes"),
    ("transpose_*", "Tensor::to_format"),
    ("cast_*", "Tensor::cast"),
    ("pixel_runs_*", "shuffles of channels_last in another order of channels"),
    ("pixel_rows_*_r4_to_wide", "shuffles by 4 of contiguous tensors, as in networks that enlarge by 4 in one step"),
    ("upsample_*_contiguous_wide", "outputs whose rows are whole chunks of 16 bytes"),
    ("conv_gemm_tf32_*", "Precision::Tf32"),
    ("conv_gemm_*_split", "PlanRequest::workspace_limit"),
    ("split_sum_*", "PlanRequest::workspace_limit"),
    ("*_channels_64x*", "channels_last that is not aligned to 16 bytes, or has no whole chunks of channels"),
    ("spatial_separable_*", "spatially separable layers of one channel a group, which the suite has not"),
    ("spatial_gemm_*_128x32", "at most 32 output channels, as in ERFNet's first layers"),
    ("roi_*_channels_last_v1", "channels that are no whole chunks"),
];

/// Whether a name matches the pattern.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).any(|skipped| tail.get(skipped..).is_some_and(|tail| matches(rest, tail)))),
    }
}

/// The problems for which a kernel is chosen.
#[derive(Default)]
struct Chosen {
    problems: usize,
    /// The largest ratio of the next best kernel's estimated time to this kernel's.
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

/// Prints how often each kernel is chosen, over all rows of the suite with all their batches, in
/// every dtype and format, on every GPU that the cost model knows, and which kernels are never
/// chosen: `cargo test --lib chosen -- --nocapture`.
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
    let unchosen: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).filter(|name| !all.contains_key(name)).collect();
    for name in &unchosen {
        assert!(OTHER_USES.iter().any(|(pattern, _)| matches(pattern, name)), "no row of the suite chooses {name}: what is it for?");
    }
    for (pattern, use_) in OTHER_USES {
        assert!(unchosen.iter().any(|name| matches(pattern, name)), "{pattern} ({use_}): every such kernel is chosen, or there is none");
    }
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    lines.iter().for_each(|(_, line)| println!("{line}"));
    println!("{} of {} kernels are never chosen", unchosen.len(), KERNELS.len());
}
