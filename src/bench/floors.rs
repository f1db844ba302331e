//! The best that the device can do, measured in the same run as the layers that are compared with
//! it.

use super::measure::{Bench, Scale};
use crate::analysis::LayerReport;
use crate::cases::Problem;
use crate::device::{Effort, Time};
use crate::error::{Error, Result};
use crate::layers::Conv2dSpec;
use crate::tensor::{TensorView, TensorViewMut, queue_cast};
use crate::{DType, DeviceKind, Layout, MemoryFormat, Padding, Stream};
use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Copies in one sample.
const COPIES: usize = 4;

/// The device's rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Floors {
    /// Bytes per second of a copy within device memory, counting both bytes read and bytes written.
    pub copy_bytes_per_second: f64,
    /// FLOPs per second of 16-bit tensor cores: the best of some large convolutions of this crate,
    /// or of another library's matrix products if those are faster ([`Floors::raise`]).
    pub tensor_flops_per_second: f64,
    /// FLOPs per second of f32 multiply-adds, measured in the same way.
    pub ffma_flops_per_second: f64,
    /// Seconds of a graph node that does almost nothing.
    pub empty_node_seconds: f64,
    /// How each was measured.
    pub how: BTreeMap<String, String>,
}

/// The least time that a layer can take, according to the device's rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// The largest of the terms.
    pub seconds: f64,
    /// The term that is the largest: "memory", "tensor cores", "ffma" or "launch".
    pub bound: String,
    /// Every term, in seconds.
    #[serde(default)]
    pub terms: BTreeMap<String, f64>,
}

/// Rates that another library has reached on the same device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ceilings {
    /// FLOPs per second of 16-bit tensor cores.
    #[serde(default)]
    pub tensor_flops_per_second: Option<f64>,
    /// FLOPs per second of f32 multiply-adds.
    #[serde(default)]
    pub ffma_flops_per_second: Option<f64>,
    /// How each was measured, by "tensor" and "ffma".
    #[serde(default)]
    pub how: BTreeMap<String, String>,
}

const TENSOR_CORES: &str = "tensor cores";
const FFMA: &str = "ffma";

impl Floor {
    /// The floor that is the largest of the terms.
    fn of(terms: BTreeMap<String, f64>) -> Self {
        let largest = terms.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let (bound, seconds) = largest.map_or_else(Default::default, |(name, &seconds)| (name.clone(), seconds));
        Self { seconds, bound, terms }
    }
}

impl Floors {
    /// Floors that limit nothing.
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
        let bytes = if tiny { 1 << 20 } else { 512 << 20 };
        let (from, to) = (bench.device.allocate(bytes)?, bench.device.allocate(bytes)?);
        // Zeros move faster than the values that networks compute.
        let mut random = StdRng::seed_from_u64(1);
        from.upload(&(0..bytes / 8).flat_map(|_| random.random::<u64>().to_le_bytes()).collect::<Vec<u8>>())?;
        let layout = Layout::packed([1, 1, 1, bytes / size_of::<f32>()], MemoryFormat::Contiguous);
        let kernel = |stream: &Stream| {
            // SAFETY: both memories hold the layout's elements, of which any bits are values, and
            // outlive the call; nobody else uses them
            let (x, mut y) = unsafe {
                let x = TensorView::<f32>::from_raw(&bench.device, from.address(), layout)?;
                (x, TensorViewMut::<f32>::from_raw(&bench.device, to.address(), layout)?)
            };
            (0..COPIES).try_for_each(|_| queue_cast(&x, &mut y, stream))
        };
        let driver = |stream: &Stream| (0..COPIES).try_for_each(|_| to.queue_copy(&from, stream));
        // SAFETY: both memories outlive the calls
        let (driver, kernel) = unsafe {
            let kernel = match bench.timer.measure(effort, COPIES, kernel) {
                Err(Error::NoKernel { .. }) => None, // left out on this device
                kernel => Some(kernel?.median),
            };
            (bench.timer.measure(effort, COPIES, driver)?.median, kernel)
        };
        drop((from, to));
        let rate = |seconds: f64| (2 * bytes) as f64 / seconds;
        let copy = rate(kernel.map_or(driver, |kernel| kernel.min(driver)));
        let kernel = kernel.map_or_else(|| "left out".into(), |kernel| format!("{:.1} GB/s", rate(kernel) * 1e-9));
        how.insert(
            "copy".into(),
            format!(
                "{} MiB of random bytes within device memory, read and written bytes counted: the faster of our copy kernel ({kernel}) and the driver's copy ({:.1} GB/s)",
                bytes >> 20,
                rate(driver) * 1e-9
            ),
        );

        let dense = |c, h, k: usize, n| {
            let spec = Conv2dSpec { padding: Padding::all(k / 2), ..Default::default() };
            Problem::conv2d(spec, [n, c, h, h], [c, c, k, k])
        };
        let shapes =
            if tiny { vec![dense(32, 8, 3, 1)] } else { vec![dense(512, 28, 3, 32), dense(1024, 32, 1, 32), dense(256, 56, 3, 32)] };
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
            copy_bytes_per_second: copy,
            tensor_flops_per_second: tensor,
            ffma_flops_per_second: ffma,
            empty_node_seconds: empty.median,
            how,
        })
    }

    /// Takes over the rates that another library has reached on the same device if they are higher
    /// than ours. Returns whether any is.
    pub fn raise(&mut self, ceilings: &Ceilings) -> bool {
        let mut any = false;
        for (own, theirs, name) in [
            (&mut self.tensor_flops_per_second, ceilings.tensor_flops_per_second, "tensor"),
            (&mut self.ffma_flops_per_second, ceilings.ffma_flops_per_second, "ffma"),
        ] {
            let Some(theirs) = theirs.filter(|theirs| *theirs > *own && theirs.is_finite()) else { continue };
            let how = ceilings.how.get(name).map_or("", String::as_str);
            let before = self.how.remove(name).unwrap_or_default();
            self.how.insert(name.into(), format!("{how}; less ({:.4} TFLOP/s): {before}", *own * 1e-12));
            (*own, any) = (theirs, true);
        }
        any
    }

    /// Computes a floor again with these rates, if it was computed with others.
    pub(super) fn floor_again(&self, floor: &Floor, before: &Floors) -> Floor {
        let mut floor = floor.clone();
        if floor.terms.is_empty() {
            return floor; // from an earlier version
        }
        for (name, old, new) in [
            (TENSOR_CORES, before.tensor_flops_per_second, self.tensor_flops_per_second),
            (FFMA, before.ffma_flops_per_second, self.ffma_flops_per_second),
        ] {
            if let Some(seconds) = floor.terms.get_mut(name) {
                *seconds *= old / new;
            }
        }
        Floor::of(floor.terms)
    }

    /// The floor of a layer.
    pub(super) fn floor(&self, problem: &Problem, report: &LayerReport) -> Floor {
        // In 16 bits, sums over several channels can use tensor cores. Depthwise sums, samples and
        // f32 cannot.
        let sums = problem.shapes.iter().any(|(name, shape)| name.ends_with("weight") && shape.get(1).is_some_and(|&c| c > 1));
        let (unit, rate) = match (report.dtype, sums) {
            (DType::F16 | DType::Bf16, true) => (TENSOR_CORES, self.tensor_flops_per_second),
            _ => (FFMA, self.ffma_flops_per_second),
        };
        let products = 2.0 * report.operations.macs as f64;
        let sampling = report.operations.sampling_flops as f64 / self.ffma_flops_per_second;
        let terms = [
            ("memory", (report.bytes.read + report.bytes.written) as f64 / self.copy_bytes_per_second),
            (unit, products / rate),
            (FFMA, sampling),
            ("launch", self.empty_node_seconds),
        ];
        let mut largest = BTreeMap::new();
        for (name, seconds) in terms {
            let term = largest.entry(name.to_string()).or_insert(seconds);
            *term = seconds.max(*term);
        }
        Floor::of(largest)
    }
}
