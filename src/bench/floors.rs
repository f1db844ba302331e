//! What the device can do at best, measured in the same run as what is set beside it.

use super::measure::{Bench, Scale};
use crate::analysis::LayerReport;
use crate::cases::Problem;
use crate::device::{Effort, Time};
use crate::error::Result;
use crate::layers::Conv2dSpec;
use crate::{DType, DeviceKind, Padding};
use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The device's rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Floors {
    /// Bytes a second of a copy within device memory, those read and those written both counted.
    pub copy_bytes_per_second: f64,
    /// 16-bit tensor cores: the best of some large convolutions of this crate, so less than the hardware's rate.
    pub tensor_flops_per_second: f64,
    /// f32 multiply-adds: the best of some large convolutions of this crate, so less than the hardware's rate.
    pub ffma_flops_per_second: f64,
    /// Seconds of a graph node that does next to nothing.
    pub empty_node_seconds: f64,
    /// How each was measured.
    pub how: BTreeMap<String, String>,
}

/// The least time that a layer can take, by the device's rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// The largest of the terms.
    pub seconds: f64,
    /// Which it is: "memory", "tensor cores", "ffma" or "launch".
    pub bound: String,
}

impl Floors {
    /// Floors that bound nothing.
    pub fn none() -> Self {
        Self {
            copy_bytes_per_second: f64::INFINITY,
            tensor_flops_per_second: f64::INFINITY,
            ffma_flops_per_second: f64::INFINITY,
            empty_node_seconds: 0.0,
            how: BTreeMap::new(),
        }
    }

    pub(super) fn measure(bench: &Bench, effort: &Effort) -> Result<Self> {
        let tiny = bench.scale == Scale::Tiny || bench.device.kind() == DeviceKind::Host;
        let mut how = BTreeMap::new();
        let bytes = if tiny { 8 << 20 } else { 512 << 20 };
        let (from, to) = (bench.device.allocate(bytes)?, bench.device.allocate(bytes)?);
        // zeros move faster than what networks compute
        let mut random = StdRng::seed_from_u64(1);
        from.upload(&(0..bytes / 8).flat_map(|_| random.random::<u64>().to_le_bytes()).collect::<Vec<u8>>())?;
        // SAFETY: both memories outlive the call
        let copy = unsafe { bench.timer.measure(effort, 4, |stream| (0..4).try_for_each(|_| to.queue_copy(&from, stream)))? };
        drop((from, to));
        how.insert(
            "copy".into(),
            format!("copies of {} MiB of random bytes within device memory, read and written bytes counted", bytes >> 20),
        );

        let dense = |c, h, k: usize, n| {
            let spec = Conv2dSpec { padding: Padding::all(k / 2), ..Default::default() };
            Problem::conv2d(spec, [n, c, h, h], [c, c, k, k])
        };
        let shapes =
            if tiny { vec![dense(64, 8, 3, 1)] } else { vec![dense(512, 28, 3, 32), dense(1024, 32, 1, 32), dense(256, 56, 3, 32)] };
        let [tensor, ffma] = [DType::F16, DType::F32].map(|dtype| -> Result<(f64, String)> {
            let mut best = (0.0, String::new());
            for problem in &shapes {
                let flops = problem.cost(dtype)?.operations.flops as f64;
                let (time, kernel) = match dtype {
                    DType::F32 => bench.time_alone::<f32>(problem, effort, false)?,
                    _ => bench.time_alone::<f16>(problem, effort, false)?,
                };
                if flops / time.median > best.0 {
                    best = (flops / time.median, format!("x {:?}, weight {:?} by {kernel}", problem.shape("x"), problem.shape("weight")));
                }
            }
            Ok(best)
        });
        let ((tensor, tensor_how), (ffma, ffma_how)) = (tensor?, ffma?);
        how.insert("tensor".into(), format!("the best of our own large convolutions in f16: {tensor_how}"));
        how.insert("ffma".into(), format!("the best of our own large convolutions in f32: {ffma_how}"));

        let empty: Time = bench.time_alone::<f32>(&Problem::conv2d(Conv2dSpec::default(), [1, 1, 1, 1], [1, 1, 1, 1]), effort, true)?.0;
        how.insert("empty".into(), "a 1x1 convolution of one pixel, one node of a graph of 512 such".into());
        Ok(Self {
            copy_bytes_per_second: (2 * bytes) as f64 / copy.median,
            tensor_flops_per_second: tensor,
            ffma_flops_per_second: ffma,
            empty_node_seconds: empty.median,
            how,
        })
    }

    /// The floor of a layer.
    pub(super) fn floor(&self, problem: &Problem, report: &LayerReport) -> Floor {
        // sums over several channels can go to tensor cores in 16 bits; depthwise ones, samples and f32 cannot
        let sums = problem.shapes.iter().any(|(name, shape)| name.ends_with("weight") && shape.get(1).is_some_and(|&c| c > 1));
        let (unit, rate) = match (report.dtype, sums) {
            (DType::F16 | DType::Bf16, true) => ("tensor cores", self.tensor_flops_per_second),
            _ => ("ffma", self.ffma_flops_per_second),
        };
        let products = 2.0 * report.operations.macs as f64;
        let sampling = report.operations.sampling_flops as f64 / self.ffma_flops_per_second;
        let terms = [
            ("memory", (report.bytes.read + report.bytes.written) as f64 / self.copy_bytes_per_second),
            (unit, products / rate),
            ("ffma", sampling),
            ("launch", self.empty_node_seconds),
        ];
        let (bound, seconds) = terms.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("four terms");
        Floor { seconds, bound: bound.into() }
    }
}
