//! Which kernels are chosen for the suite's layers on each GPU that the cost model knows. The host
//! device imitates the GPUs.

use super::*;
use crate::GpuModel;
use crate::bench::{Set, Suite};
use crate::{Explanation, HostOptions, Outline};
use std::collections::BTreeMap;

/// The plan's explanation for one configuration on each device.
pub(super) fn explanations(configuration: &Configuration<'_>, devices: &[Device]) -> Result<Vec<Explanation>> {
    fn of<T: Element>(layer: &Outline, request: &PlanRequest, devices: &[Device]) -> Result<Vec<Explanation>> {
        devices.iter().map(|device| layer.explain::<T>(device, request)).collect()
    }
    let problem = configuration.problem()?;
    let names = problem.layer.signature().parameters;
    let shapes = problem.shapes.iter().filter(|(name, _)| names.contains(&name.as_str()));
    let layer = problem.layer.outline(shapes.map(|(name, shape)| (name.clone(), shape.clone())))?;
    let request = configuration.request(&problem)?;
    crate::with_dtype!(configuration.dtype, T => of::<T>(&layer, &request, devices))
}

/// Every row gets a kernel on every GPU, within that GPU's shared memory, and its estimate is at
/// most the sum of its parts. Prints the rows whose kernel differs from the one on an A100.
#[test]
fn every_row_has_a_kernel_on_every_gpu() {
    let device = |model| Device::host_with(HostOptions { threads: 1, imitates: Some(model), ..Default::default() }).unwrap();
    let devices: Vec<Device> = GpuModel::ALL.iter().map(device).collect();
    let suite = Suite::built_in().unwrap();
    let mut changes = BTreeMap::<&str, usize>::new();
    let mut rows = 0;
    for row in suite.rows.iter().filter(|row| row.is_known()) {
        for format in MemoryFormat::ALL {
            let configuration = Configuration { row, batch: row.main_batch(), dtype: DType::F16, format, tail: false };
            let all = explanations(&configuration, &devices).unwrap_or_else(|e| panic!("{}: {e}", configuration.id()));
            for (model, explanation) in GpuModel::ALL.iter().zip(&all) {
                assert!(explanation.shared_bytes <= model.shared_bytes_per_block(), "{} on {model}: {explanation}", configuration.id());
                if let Some(Ok(estimate)) = explanation.choices.first().map(|choice| &choice.verdict) {
                    let (sum, slowest) = (estimate.parts().iter().map(|(_, seconds)| seconds).sum::<f64>(), estimate.parts()[0].1);
                    let range = slowest..=sum * (1.0 + 1e-9);
                    assert!(
                        estimate.seconds.is_finite() && range.contains(&estimate.seconds),
                        "{} on {model}: {estimate:?}",
                        configuration.id()
                    );
                }
            }
            let differing: Vec<String> = GpuModel::ALL
                .iter()
                .zip(&all)
                .filter(|(_, explanation)| explanation.kernel != all[0].kernel)
                .map(|(model, explanation)| format!("{model} {}", explanation.kernel))
                .collect();
            for (model, _) in GpuModel::ALL.iter().zip(&all).filter(|(_, explanation)| explanation.kernel != all[0].kernel) {
                *changes.entry(model.name).or_default() += 1;
            }
            if !differing.is_empty() {
                println!("{:<58} {}; {}", configuration.id(), all[0].kernel, differing.join(", "));
            }
            rows += 1;
        }
    }
    println!("of {rows} rows another kernel than on an A100: {changes:?}");
    assert!(rows > 250);
    // A table that changes nothing would be useless.
    assert!(GpuModel::ALL[1..].iter().all(|model| changes.contains_key(model.name)), "{changes:?}");
}

/// More bandwidth makes no layer slower by estimate: an H200 is an H100 with faster memory.
#[test]
fn faster_memory_makes_nothing_slower() {
    let device = |name| {
        let imitates = GpuModel::named(name);
        assert!(imitates.is_some(), "{name}");
        Device::host_with(HostOptions { threads: 1, imitates, ..Default::default() }).unwrap()
    };
    let devices = ["H100", "h200"].map(device);
    let suite = Suite::built_in().unwrap();
    let mut faster = 0;
    for row in suite.rows.iter().filter(|row| row.is_known() && row.set == Set::Core) {
        let configuration =
            Configuration { row, batch: row.main_batch(), dtype: DType::F16, format: MemoryFormat::ChannelsLast, tail: false };
        let all = explanations(&configuration, &devices).unwrap();
        let seconds =
            |explanation: &Explanation| explanation.choices.first().and_then(|choice| choice.verdict.clone().ok()).map(|e| e.seconds);
        if let (Some(h100), Some(h200)) = (seconds(&all[0]), seconds(&all[1])) {
            assert!(h200 <= h100, "{}: {h200} after {h100}", configuration.id());
            faster += usize::from(h200 < h100);
        }
    }
    assert!(faster > 0);
}
