//! The bytes that the memory-bound kernels move for the suite's layers, as the checker counts them, against the least that any
//! kernel must move.

use super::*;
use crate::bench::Suite;
use crate::{HostOptions, LaunchCounters};

/// What the checked runs may cost, in products: the channels are the suite's, images are smaller.
const BUDGET: u64 = 600_000;
/// How many times its floor's bytes a memory-bound kernel may move.
const LIMIT: f64 = 1.15;
/// Rows that are known to move more, how much, and why.
const ABOVE: [(&str, f64, &str); 1] = [(
    "replknet_31b/dw27_512x14",
    1.5,
    "27x27 weights with the zeros of their band outweigh images of 14x14; by the cost model FFMA takes longer",
)];

/// One row on one small image, checked, through the kernel that the row itself has.
fn count(bench: &Bench, configuration: &Configuration<'_>) -> Result<([LayerReport; 2], LaunchCounters)> {
    let whole = configuration.problem()?;
    let kernel = layer(&whole, &parameters(&whole, DType::F16)?)?
        .plan::<f16>(&bench.device, &whole.request()?.format(configuration.format))?
        .explain()
        .kernel;
    let problem = scaled_down(&whole, 1, BUDGET)?;
    let layer = layer(&problem, &parameters(&problem, DType::F16)?)?;
    let request = problem.request()?.format(configuration.format);
    // where the small shape is none for it, its own choice
    let plan = layer.plan::<f16>(&bench.device, &request.clone().kernel(kernel)).or_else(|_| layer.plan::<f16>(&bench.device, &request))?;
    let mut memory = WorkspaceMemory::new(&bench.device, plan.workspace_bytes())?;
    let (mut set, _) = bench.set(&problem, 0, configuration.format, &plan)?;
    set.run(&layer.spec(), &plan, &mut memory, &Stream::default_of(&bench.device))?;
    Ok(([cost(&whole, DType::F16)?, cost(&problem, DType::F16)?], bench.device.last_launch_counters().expect("a checked device counts")))
}

#[test]
fn memory_bound_kernels_move_little_more_than_they_must() {
    let device = Device::host_with(HostOptions { checked: true, ..Default::default() }).unwrap();
    let bench = Bench::new(&device, Scale::Tiny).unwrap();
    let suite = Suite::built_in().unwrap();
    let (mut rows, mut broken) = (0, vec![]);
    for row in suite.rows.iter().filter(|row| row.is_known()) {
        if !["depthwise", "rearrange", "upsample", "roi"].contains(&row.family.as_str()) {
            continue;
        }
        for format in [MemoryFormat::ChannelsLast, MemoryFormat::Contiguous] {
            let configuration = Configuration { row, batch: row.main_batch(), dtype: DType::F16, format, tail: false };
            let (reports, counters) = count(&bench, &configuration).unwrap_or_else(|e| panic!("{}: {e}", configuration.id()));
            let of = |name: &str| counters.operand(name).unwrap();
            let (x, y) = (of("x"), of("y"));
            let [whole, small] = reports.map(|report| (report.bytes.read + report.bytes.written) as f64);
            // what is moved too often is weights in the kernel's own order, whose size is that of the whole row
            let dram = 1.0 + (counters.unique_bytes() as f64 - small) / whole;
            // of the sectors that blocks read, halos and what they share included: for whoever reads the test's output
            let blocks = x.block_sectors as f64 * 32.0 / x.unique_bytes as f64;
            println!("{:<58} {:<42} {dram:.3} of the floor, blocks read x {blocks:.2} times", configuration.id(), counters.kernel);
            rows += 1;
            let limit = ABOVE.iter().find(|(name, ..)| *name == row.name).map_or(LIMIT, |(_, limit, _)| *limit);
            if dram > limit || y.bytes_written != y.bytes {
                broken.push(format!(
                    "{} {}: {dram:.3} times the floor, {} of {} bytes written",
                    configuration.id(),
                    counters.kernel,
                    y.bytes_written,
                    y.bytes
                ));
            }
        }
    }
    assert!(rows > 60 && broken.is_empty(), "{rows} rows, too much is moved in\n{}", broken.join("\n"));
}
