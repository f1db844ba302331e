//! The candidates for running a layer, and the choice among them.
//!
//! For each of its kernels a family answers with a [`Candidate`]: an estimated time, together with
//! the launch that was estimated. So nothing is computed again when the kernel is chosen. Running a
//! layer as several launches is one more [`Entry`] of the same list.

use super::order::SumOrder;
use super::{KERNELS, Kernel, KernelInfo};
use crate::device::kernel::Gather;
use crate::error::{Error, Result};
use crate::plan::{Choice, ChosenBy, Estimate, Explanation, PlanRequest};
use crate::text::{listed, nearest};
use crate::{Device, Element};

/// Why a kernel does not apply, in the words of an explanation.
pub(crate) type Reason = String;

/// How a kernel is launched, without the tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaunchConfig<C> {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// The alignment in bytes that the addresses and strides of x and of y must have. For views
    /// that are not aligned like that, `run` takes the cheapest candidate that needs no more than
    /// an element's alignment.
    pub alignment: [usize; 2],
    /// The order in which the kernel adds.
    pub order: SumOrder,
    /// Values that only kernels of this kind need.
    pub own: C,
}

/// A kernel that applies: its estimated time, and the launch that was estimated.
#[derive(Debug)]
pub(crate) struct Candidate<C> {
    pub estimate: Estimate,
    pub config: LaunchConfig<C>,
}

/// One way to run a layer.
#[derive(Debug)]
pub(crate) enum Way<C> {
    /// A launch of this kernel.
    Kernel(&'static KernelInfo, LaunchConfig<C>),
    /// Several launches with tensors between them in the workspace.
    Launches,
}

/// An entry of the list from which a plan chooses.
#[derive(Debug)]
pub(crate) struct Entry<C> {
    /// The name by which [`PlanRequest::kernel`] asks for this entry.
    pub name: &'static str,
    pub verdict: Result<(Estimate, Way<C>), Reason>,
}

impl<C> Entry<C> {
    pub fn of_kernel(kernel: &'static KernelInfo, candidate: Result<Candidate<C>, Reason>) -> Self {
        let verdict = candidate.map(|Candidate { estimate, config }| (estimate, Way::Kernel(kernel, config)));
        Self { name: kernel.name, verdict }
    }

    pub fn of_launches(name: &'static str, estimate: Result<Estimate, Reason>) -> Self {
        Self { name, verdict: estimate.map(|estimate| (estimate, Way::Launches)) }
    }

    /// The estimated time, if the entry applies.
    pub fn estimate(&self) -> Option<Estimate> {
        self.verdict.as_ref().ok().map(|(estimate, _)| *estimate)
    }

    fn seconds(&self) -> f64 {
        self.estimate().map_or(f64::INFINITY, |estimate| estimate.seconds)
    }

    /// The kernel and its launch, if the entry is a single launch and applies.
    fn kernel(&self) -> Option<(&'static KernelInfo, &LaunchConfig<C>)> {
        match &self.verdict {
            Ok((_, Way::Kernel(kernel, config))) => Some((kernel, config)),
            _ => None,
        }
    }

    fn into_choice(self) -> Choice {
        Choice { kernel: self.name, verdict: self.verdict.map(|(estimate, _)| estimate) }
    }
}

/// The list of candidates from which a plan chose: the chosen entry first, then the others from the
/// cheapest on.
pub(crate) struct Selection<C> {
    op: &'static str,
    entries: Vec<Entry<C>>,
    chosen_by: ChosenBy,
    problem: String,
}

/// Chooses the cheapest entry that applies, unless the request names another or a tuning table
/// knows a faster one. `problem` is everything on which the times of the entries depend, as text.
///
/// Tuning tables know some batches only. If a result may not depend on the batch, they are not
/// consulted.
///
/// # Errors
/// [`Error::NoKernel`] for a name that no entry has, for an entry that does not apply, and if no
/// entry applies.
pub(crate) fn choose<C>(
    op: &'static str,
    device: &Device,
    request: &PlanRequest,
    problem: String,
    mut entries: Vec<Entry<C>>,
) -> Result<Selection<C>> {
    for entry in &mut entries {
        if let Err(reason) = device.admits(entry.name) {
            entry.verdict = Err(reason);
        }
    }
    entries.sort_by(|a, b| a.seconds().total_cmp(&b.seconds()));
    let applies = |name: &str| entries.iter().any(|entry| entry.name == name && entry.verdict.is_ok());
    let (wanted, chosen_by) = match &request.kernel {
        Some(name) => (Some(name.as_str()), ChosenBy::Request),
        None => match device.tuned(&problem, &applies).filter(|_| !request.batch_invariant) {
            Some((kernel, table)) => (Some(kernel), ChosenBy::Table(table)),
            None => (None, ChosenBy::CostModel),
        },
    };
    let is_wanted = |entry: &&Entry<C>| wanted.is_none_or(|name| entry.name == name);
    let Some(index) = entries.iter().position(|entry| is_wanted(&entry) && entry.verdict.is_ok()) else {
        let reason = |entry: &Entry<C>| Some(format!("{}: {}", entry.name, entry.verdict.as_ref().err()?));
        let reasons: Vec<String> = entries.iter().filter(is_wanted).filter_map(reason).collect();
        return Err(match wanted {
            Some(name) if reasons.is_empty() => no_such_kernel(op, name, &entries),
            _ => Error::NoKernel { op, reasons: reasons.join("; ") },
        });
    };
    let chosen = entries.remove(index);
    entries.insert(0, chosen);
    Ok(Selection { op, entries, chosen_by, problem })
}

/// The error for a name that no entry has. It suggests the nearest name and lists the entries that
/// apply.
fn no_such_kernel<C>(op: &'static str, name: &str, entries: &[Entry<C>]) -> Error {
    let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    let what = if KERNELS.iter().any(|kernel| kernel.name == name) { format!("a kernel of {op}") } else { "a kernel".into() };
    let nearest = nearest(name, &names).map_or_else(String::new, |nearest| format!(" (did you mean {nearest}?)"));
    let applying = entries.iter().filter(|entry| entry.verdict.is_ok()).map(|entry| entry.name);
    Error::NoKernel { op, reasons: format!("{name} is not the name of {what}{nearest}; those that apply here are {}", listed(applying)) }
}

impl<C> Selection<C> {
    /// Whether the layer runs as several launches.
    pub fn is_launches(&self) -> bool {
        self.entries.first().is_some_and(|entry| matches!(entry.verdict, Ok((_, Way::Launches))))
    }

    /// Loads the chosen kernel. If it needs views that are better aligned than their elements, also
    /// loads the cheapest kernel that does not, and returns what an explanation says about it.
    ///
    /// # Errors
    /// Errors of `load`; [`Error::NoKernel`] if no other kernel takes views of any alignment.
    pub fn load<T: Element, P>(
        &self,
        load: impl Fn(&'static KernelInfo, &LaunchConfig<C>) -> Result<LoadedLaunch<P>>,
    ) -> Result<(ByAlignment<P>, String)> {
        let kernels = || self.entries.iter().filter_map(Entry::kernel);
        let nothing = |reasons| Error::NoKernel { op: self.op, reasons };
        let (kernel, config) = kernels().next().ok_or_else(|| nothing("none applies".into()))?;
        let chosen = load(kernel, config)?;
        if takes_any_view::<T>(kernel, config.alignment) {
            return Ok((ByAlignment { chosen, unaligned: None }, String::new()));
        }
        let other = kernels().find(|(kernel, config)| takes_any_view::<T>(kernel, config.alignment));
        let (other, config) =
            other.ok_or_else(|| nothing(format!("{} does not take every view, and none of its order does", kernel.name)))?;
        let bytes = chosen.alignment[0].max(chosen.alignment[1]);
        let apart = if needs_matrix(kernel) { " or whose rows or pixels lie apart" } else { "" };
        let note = format!("; {} for views that are not aligned to {bytes} bytes{apart}", other.name);
        Ok((ByAlignment { chosen, unaligned: Some(load(other, config)?) }, note))
    }

    /// The explanation of a kernel that runs in one launch.
    pub fn explain<P>(self, chosen: &LoadedLaunch<P>, note: String) -> Explanation {
        let LoadedLaunch { kernel, grid, shared_bytes, .. } = chosen;
        let launched = Explanation { grid: *grid, threads: kernel.info.threads, shared_bytes: *shared_bytes, note, ..Explanation::empty() };
        self.explain_as(launched)
    }

    /// The explanation of a layer that is launched in another way: how that was chosen, and from
    /// which candidates.
    pub fn explain_as(self, launched: Explanation) -> Explanation {
        let Self { entries, chosen_by, problem, .. } = self;
        let choices: Vec<Choice> = entries.into_iter().map(Entry::into_choice).collect();
        let kernel = choices.first().map_or(launched.kernel, |chosen| chosen.kernel);
        Explanation { kernel, choices, chosen_by, problem, ..launched }
    }
}

/// Whether a kernel takes views of any strides, with an alignment of x and of y that is no more
/// than that of elements.
pub(super) fn takes_any_view<T: Element>(kernel: &KernelInfo, alignment: [usize; 2]) -> bool {
    alignment == [size_of::<T>(); 2] && !needs_matrix(kernel)
}

/// Whether the pixels of x must be the rows or the columns of one matrix.
pub(super) fn needs_matrix(kernel: &KernelInfo) -> bool {
    kernel.axes.gather.is_some_and(Gather::needs_matrix)
}

/// A kernel on its device, with its launch.
#[derive(Debug)]
pub(crate) struct LoadedLaunch<P> {
    pub kernel: Kernel,
    pub grid: [u32; 3],
    pub shared_bytes: u32,
    pub alignment: [usize; 2],
    pub own: P,
}

impl<P> LoadedLaunch<P> {
    /// # Errors
    /// As [`Device::load`].
    pub fn new<C>(device: &Device, kernel: &'static KernelInfo, config: &LaunchConfig<C>, own: P) -> Result<Self> {
        let LaunchConfig { grid, shared_bytes, alignment, .. } = *config;
        Ok(Self { kernel: device.load(kernel)?, grid, shared_bytes, alignment, own })
    }
}

/// The chosen kernel, and one for views that are not aligned as it needs them.
#[derive(Debug)]
pub(crate) struct ByAlignment<P> {
    pub chosen: LoadedLaunch<P>,
    unaligned: Option<LoadedLaunch<P>>,
}

impl<P> ByAlignment<P> {
    /// The kernel to launch. `fits` tells whether the views have an alignment and, if its second
    /// argument is true, whether x is also a matrix.
    pub fn of_views(&self, fits: impl FnOnce([usize; 2], bool) -> bool) -> &LoadedLaunch<P> {
        match &self.unaligned {
            Some(unaligned) if !fits(self.chosen.alignment, needs_matrix(self.chosen.kernel.info)) => unaligned,
            _ => &self.chosen,
        }
    }
}
