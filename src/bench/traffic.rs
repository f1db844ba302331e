//! The bytes that kernels move for the suite's layers, counted by the checker and compared with the
//! least that any kernel must move.

use super::*;
use crate::bench::Suite;
use crate::{HostOptions, LaunchCounters};

/// The products that the checked runs may compute. They have the suite's channels and smaller
/// images.
const BUDGET: u64 = 600_000;
/// The families whose speed is limited by memory, and how often all blocks together may read the
/// sectors of x: halos, sectors with more channels than a block has, tiles of transpositions. L2
/// serves the repeated reads. For RoIs and upsampling, x is small and is read once for each output.
const MEMORY_BOUND: [(&str, f64); 5] =
    [("depthwise", 5.5), ("rearrange", 3.5), ("pool", 5.5), ("upsample", f64::INFINITY), ("roi", f64::INFINITY)];
/// The bytes that a memory-bound kernel may move, as a multiple of its floor.
const LIMIT: f64 = 1.15;
/// The same limit for other kernels, whose weights are padded, and which may be two launches with a
/// tensor between them.
const OTHER_LIMIT: f64 = 1.3;
/// Rows that are known to move more: how much more, and why.
const ABOVE: [(&str, f64, &str); 3] = [
    (
        "replknet_31b/dw27_512x14",
        1.5,
        "27x27 weights with the zeros of their band outweigh images of 14x14; by the cost model FFMA takes longer",
    ),
    ("mobilenet_v1/sep_512x14_512", 1.6, "two launches: what is between them is written and read"),
    ("awkward/1x1_129to33x1", 2.1, "nothing but weights, 129 x 33 of which are padded to 160 x 64"),
];

/// Runs one row on one small image under the checker, through the kernel that the row itself has.
/// Returns the floors of both, and the counters of the launches.
fn count(bench: &Bench, configuration: &Configuration<'_>) -> Result<([LayerReport; 2], Vec<LaunchCounters>)> {
    let whole = configuration.workload()?;
    let kernel =
        layer(&whole, &parameters(&whole, DType::F16)?)?.plan::<f16>(&bench.device, &configuration.request(&whole)?)?.explain().kernel;
    let problem = scaled_down(&whole, 1, BUDGET)?;
    let layer = layer(&problem, &parameters(&problem, DType::F16)?)?;
    let request = configuration.request(&problem)?;
    // If that kernel does not apply to the small shape, the shape's own choice.
    let plan = layer.plan::<f16>(&bench.device, &request.clone().kernel(kernel)).or_else(|_| layer.plan::<f16>(&bench.device, &request))?;
    let mut memory = WorkspaceMemory::new(&bench.device, plan.workspace_bytes())?;
    let (mut set, _) = bench.set(&problem, 0, configuration.formats(), plan.output_shape())?;
    let before = bench.device.launches();
    set.run(&layer.spec(), &plan, &mut memory, &Stream::default_of(&bench.device))?;
    let launches = (bench.device.launches() - before) as usize;
    Ok(([whole.cost(DType::F16)?, problem.cost(DType::F16)?], bench.device.latest_launch_counters(launches)))
}

/// Every row, in both formats.
#[test]
fn kernels_move_little_more_than_they_must() {
    let device = Device::host_with(HostOptions { checked: true, ..Default::default() }).unwrap();
    let bench = Bench::new(&device, Scale::Tiny).unwrap();
    let suite = Suite::built_in().unwrap();
    let (mut rows, mut broken) = (0, vec![]);
    for row in suite.rows.iter().filter(|row| row.is_known()) {
        for format in [MemoryFormat::ChannelsLast, MemoryFormat::Contiguous] {
            let configuration = Configuration { row, batch: row.main_batch(), dtype: DType::F16, format, tail: false };
            let (reports, launches) = count(&bench, &configuration).unwrap_or_else(|e| panic!("{}: {e}", configuration.id()));
            let (first, last) = (&launches[0], launches.last().unwrap());
            let (x, y) = (first.operand("x").unwrap(), last.operand("y").unwrap());
            let [whole, small] = reports.map(|report| (report.bytes.read + report.bytes.written) as f64);
            let moved: u64 = launches.iter().map(LaunchCounters::unique_bytes).sum();
            // The excess is weights in the kernel's own order, whose size is that of the whole row.
            let dram = 1.0 + (moved as f64 - small) / whole;
            let blocks = x.block_sectors as f64 * 32.0 / x.unique_bytes as f64;
            let kernels = launches.iter().map(|launch| launch.kernel).collect::<Vec<_>>().join(", ");
            println!("{:<58} {kernels:<42} {dram:.3} of the floor, blocks read x {blocks:.2} times", configuration.id());
            rows += 1;
            let most = MEMORY_BOUND.iter().find(|(family, _)| *family == row.family).map(|(_, most)| *most);
            let limit = if most.is_some() { LIMIT } else { OTHER_LIMIT };
            let limit = ABOVE.iter().find(|(name, ..)| *name == row.name).map_or(limit, |(_, limit, _)| *limit);
            if let Some(most) = most.filter(|&most| blocks > most) {
                broken.push(format!("{} {kernels}: blocks read x {blocks:.2} times, more than {most}", configuration.id()));
            }
            if dram > limit || y.bytes_written != y.bytes {
                let written = format!("{} of {} bytes written", y.bytes_written, y.bytes);
                broken.push(format!("{} {kernels}: {dram:.3} times the floor, {written}", configuration.id()));
            }
        }
    }
    assert!(rows > 250 && broken.is_empty(), "{rows} rows, too much is moved in\n{}", broken.join("\n"));
}
