//! Measures layers of real networks, for `warpconv bench` and benches/criterion.
//!
//! A [`Suite`] is a list of rows (benches/suite.json). Each row gives several [`Configuration`]s: a
//! batch, a dtype and a format, with or without the network's tail. A [`Bench`] compares a
//! configuration with the oracle, times it, and compares the time with the [`Floors`] of the
//! device, which are measured in the same run. It times no wrong result.
//!
//! ```
//! use warpconv::bench::{Bench, Floors, Scale, Status, Suite};
//! # fn main() -> warpconv::Result<()> {
//! let suite = Suite::built_in()?;
//! let configurations = suite.configurations();
//! let small = configurations.iter().find(|c| c.id() == "mobilenet_v2/dw3_960x7 b1 f16 channels_last").unwrap();
//! # #[cfg(feature = "host")] {
//! let bench = Bench::new(&warpconv::Device::host()?, Scale::Tiny)?;
//! let result = bench.run(small, &bench.floors()?);
//! assert_eq!(result.status, Status::Timed);
//! println!("{}: {:.1} ms on the host device", result.kernel.unwrap(), 1e3 * result.time.unwrap().median);
//! # }
//! # Ok(())
//! # }
//! ```

mod checks;
mod floors;
mod measure;
mod overhead;
mod peers;
mod results;
mod suite;
mod values;

pub use crate::device::{DeviceInfo, Effort, Time, Timer};
pub use floors::{Ceilings, Floor, Floors};
pub use measure::{Bench, Oracle, Prepared, Scale};
pub use overhead::LaunchOverhead;
pub use peers::{Peer, PeerRow, PeerTime, Peers};
pub use results::{Checked, Clocks, Results, RowResult, Status, Summary, summary};
pub use suite::{Configuration, Row, Series, Set, Size, Suite, Tail};
