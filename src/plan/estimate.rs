//! The time that the cost model expects of a plan.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Mul};

/// The time that the cost model expects of a plan, and the time that each unit of the GPU would
/// need if it alone were busy. All numbers are seconds.
///
/// Estimates serve to compare candidates. No constant of the model is fitted to measured times.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
#[non_exhaustive]
pub struct Estimate {
    /// The whole plan: the launches, and for each the slowest of the parts below.
    pub seconds: f64,
    /// Launch overhead, with the latency of the first loads and the last stores.
    pub launch: f64,
    /// Moving bytes from and to device memory.
    pub dram: f64,
    /// Reading from L2.
    pub l2: f64,
    /// Moving bytes through shared memory and L1.
    pub shared: f64,
    /// Products on tensor cores.
    pub tensor: f64,
    /// Instructions on FFMA lanes: f32 products and others.
    pub ffma: f64,
    /// Steps of one block that wait for each other.
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

    /// The cheaper of two estimates; the first if they are equal.
    pub(crate) fn or_less(self, other: Self) -> Self {
        if other.seconds < self.seconds { other } else { self }
    }
}

impl Add for Estimate {
    type Output = Self;

    /// The time of two plans that run one after the other.
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

/// Written as "12.3 us (DRAM 10.1, L2 4.0, launch 2.0)", without parts below a twentieth of the
/// whole.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = if self.seconds < 1e-3 { ("us", 1e6) } else { ("ms", 1e3) };
        let parts = self.parts().into_iter().filter(|(_, seconds)| *seconds > self.seconds / 20.0);
        let parts: Vec<String> = parts.map(|(name, seconds)| format!("{name} {:.1}", seconds * scale)).collect();
        write!(f, "{:.1} {unit} ({})", self.seconds * scale, parts.join(", "))
    }
}
