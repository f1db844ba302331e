//! The time that the cost model expects of a plan.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Mul};

/// The time that the cost model expects of a plan, and what each unit of the GPU would need if it alone were busy. All are seconds.
///
/// Estimates serve to compare candidates: no constant of the model is fitted to measured times.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
#[non_exhaustive]
pub struct Estimate {
    /// The whole: launches, and of each the slowest of the parts below.
    pub seconds: f64,
    /// Launches, with the latency of their first loads and last stores.
    pub launch: f64,
    /// Device memory.
    pub dram: f64,
    /// Reads from L2.
    pub l2: f64,
    /// Shared memory and L1.
    pub shared: f64,
    /// Tensor cores.
    pub tensor: f64,
    /// FFMA lanes: f32 products, and the instructions beside them.
    pub ffma: f64,
    /// Blocks that wait for their own steps, one after the other.
    pub latency: f64,
}

impl Estimate {
    /// The parts with their names, the slowest first.
    pub fn parts(&self) -> [(&'static str, f64); 7] {
        let mut parts = [
            ("launch", self.launch),
            ("DRAM", self.dram),
            ("L2", self.l2),
            ("shared memory", self.shared),
            ("tensor cores", self.tensor),
            ("FFMA", self.ffma),
            ("latency", self.latency),
        ];
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        parts
    }

    /// The cheaper one; the first of equals.
    pub(crate) fn or_less(self, other: Self) -> Self {
        if other.seconds < self.seconds { other } else { self }
    }
}

impl Add for Estimate {
    type Output = Self;

    /// One after the other.
    fn add(self, next: Self) -> Self {
        Self {
            seconds: self.seconds + next.seconds,
            launch: self.launch + next.launch,
            dram: self.dram + next.dram,
            l2: self.l2 + next.l2,
            shared: self.shared + next.shared,
            tensor: self.tensor + next.tensor,
            ffma: self.ffma + next.ffma,
            latency: self.latency + next.latency,
        }
    }
}

impl Sum for Estimate {
    fn sum<I: Iterator<Item = Self>>(estimates: I) -> Self {
        estimates.fold(Self::default(), Add::add)
    }
}

impl Mul<f64> for Estimate {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self {
            seconds: self.seconds * factor,
            launch: self.launch * factor,
            dram: self.dram * factor,
            l2: self.l2 * factor,
            shared: self.shared * factor,
            tensor: self.tensor * factor,
            ffma: self.ffma * factor,
            latency: self.latency * factor,
        }
    }
}

/// "12.3 us (DRAM 10.1, L2 4.0, launch 2.0)": parts below a twentieth of the whole are left out.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = if self.seconds < 1e-3 { ("us", 1e6) } else { ("ms", 1e3) };
        let parts = self.parts().into_iter().filter(|(_, seconds)| *seconds > self.seconds / 20.0);
        let parts: Vec<String> = parts.map(|(name, seconds)| format!("{name} {:.1}", seconds * scale)).collect();
        write!(f, "{:.1} {unit} ({})", self.seconds * scale, parts.join(", "))
    }
}
