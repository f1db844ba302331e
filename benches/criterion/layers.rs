//! Some rows of the suite under criterion, for who tunes a kernel:
//! `cargo bench --manifest-path benches/criterion/Cargo.toml --bench layers -- dw3_960x7`.
//!
//! A GPU is timed at full size, by the same events around graph replays as `warpconv bench`; criterion compares with its last
//! run. Without a GPU the rows are scaled down and the host device's times say nothing of a GPU. Nothing wrong is timed.
//! `WARPCONV_BENCH_SET=all` has all rows that this build knows, not the core ones alone.

use criterion::Criterion;
use std::time::Duration;
use warpconv::bench::{Bench, Configuration, Effort, Scale, Set, Suite};
use warpconv::{Device, DeviceKind};

/// One measurement is one sample of criterion's.
const ONCE: Effort = Effort { warm_up: Duration::ZERO, budget: Duration::ZERO, least: 1, most: 1 };

fn main() {
    let device = Device::best().expect("the host device is always there");
    println!("device: {device} ({})", device.describe());
    let host = device.kind() == DeviceKind::Host;
    let scale = if host { Scale::Tiny } else { Scale::Full };
    let suite = Suite::built_in().expect("the suite is tested");
    let all = std::env::var("WARPCONV_BENCH_SET").is_ok_and(|set| set == "all");
    let wanted = |c: &Configuration<'_>| c.row.is_known() && (all || c.row.set == Set::Core) && c.batch == c.row.main_batch();
    let measurement = Duration::from_millis(if host { 200 } else { 1000 });
    let config = Criterion::default().sample_size(10).measurement_time(measurement).warm_up_time(Duration::from_millis(50));
    let mut criterion = config.configure_from_args();
    let bench = Bench::new(&device, scale).expect("a stream").effort(ONCE);
    for configuration in suite.configurations().into_iter().filter(wanted) {
        // a row that criterion's filter passes over is not prepared
        let mut prepared = None;
        criterion.bench_function(&configuration.id(), |bencher| {
            let prepared = prepared.get_or_insert_with(|| {
                bench.prepare(&configuration).unwrap_or_else(|result| panic!("{}: {}", result.id, result.message.unwrap_or_default()))
            });
            bencher.iter_custom(|iterations| {
                let each = || Duration::from_secs_f64(prepared.time().expect("it ran before").median);
                std::iter::repeat_with(each).take(iterations as usize).sum()
            });
        });
    }
    criterion.final_summary();
}
