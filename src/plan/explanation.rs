//! What a plan says of its kernel: which it is, who chose it, and among which.

use super::Estimate;
use std::fmt;
use std::sync::Arc;

/// A candidate from which a plan's kernel was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The kernel's name, as [`PlanRequest::kernel`](super::PlanRequest::kernel) takes it.
    pub kernel: &'static str,
    /// The estimated time of the kernel, or why it does not apply.
    pub verdict: Result<Estimate, String>,
}

/// How a plan's kernel was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChosenBy {
    /// By the estimates of the cost model.
    CostModel,
    /// By measured times, from the [`crate::TuningTable`] of this name.
    Table(Arc<str>),
    /// By the name in [`PlanRequest::kernel`](super::PlanRequest::kernel).
    Request,
    /// By [`crate::Layer::tune`], which measured this number of kernels.
    Measurement(usize),
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChosenBy::CostModel => f.write_str("chosen by the cost model"),
            ChosenBy::Table(name) => write!(f, "the fastest by the measured times of {name}"),
            ChosenBy::Request => f.write_str("asked for by name"),
            ChosenBy::Measurement(kernels) => write!(f, "the fastest of {kernels} that were measured"),
        }
    }
}

/// Which kernel a plan runs, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The kernel that runs.
    pub kernel: &'static str,
    /// Every candidate, the chosen one first.
    pub choices: Vec<Choice>,
    /// How the kernel was chosen.
    pub chosen_by: ChosenBy,
    /// The problem as a [`crate::TuningTable`] names it. Empty if there is no choice.
    pub problem: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Remarks: what the request asks for beyond the cheapest kernel, and what follows from it.
    pub note: String,
    /// The launches of a layer that runs as several, in order. Empty for one launch.
    pub stages: Vec<Explanation>,
}

impl Explanation {
    /// The blocks of all launches. [`Device::blocks_done`](crate::Device::blocks_done) grows by this number while the plan runs
    /// once.
    pub fn blocks(&self) -> u64 {
        match &self.stages[..] {
            [] => self.grid.iter().map(|&size| u64::from(size)).product(),
            stages => stages.iter().map(Explanation::blocks).sum(),
        }
    }

    /// An explanation without content, to be filled in.
    pub(crate) fn empty() -> Self {
        Self {
            kernel: "",
            choices: vec![],
            chosen_by: ChosenBy::CostModel,
            problem: String::new(),
            grid: [0; 3],
            threads: 0,
            shared_bytes: 0,
            note: String::new(),
            stages: vec![],
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        let threads = self.threads;
        match self.stages.len() {
            0 => write!(f, "{} on a grid of {x} x {y} x {z} blocks, {threads} threads each", self.kernel)?,
            launches => write!(f, "{} of {launches} launches", self.kernel)?,
        }
        if self.shared_bytes > 0 {
            write!(f, ", {} bytes of shared memory", self.shared_bytes)?;
        }
        f.write_str(&self.note)?;
        if !self.choices.is_empty() {
            write!(f, "; {}", self.chosen_by)?;
        }
        writeln!(f)?;
        for choice in &self.choices {
            if let Ok(estimate) = &choice.verdict {
                writeln!(f, "  {:<36} {estimate}", choice.kernel)?;
            }
        }
        // A line for each reason, since one reason (a dtype, a format) often rules out dozens of
        // kernels.
        let mut refused: Vec<(&str, Vec<&str>)> = vec![];
        for choice in &self.choices {
            let Err(reason) = &choice.verdict else { continue };
            match refused.iter_mut().find(|(known, _)| known == reason) {
                Some((_, kernels)) => kernels.push(choice.kernel),
                None => refused.push((reason, vec![choice.kernel])),
            }
        }
        for (reason, kernels) in refused {
            let who = match kernels[..] {
                [kernel] => kernel.to_string(),
                [kernel, ref others @ ..] => format!("{kernel} and {} more", others.len()),
                [] => continue,
            };
            writeln!(f, "  {who:<36} no: {reason}")?;
        }
        for (index, stage) in self.stages.iter().enumerate() {
            write!(f, "stage {}: {stage}", index + 1)?;
        }
        Ok(())
    }
}
