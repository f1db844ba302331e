//! Plans of several launches. The results of all launches but the last are stored in the workspace.

use super::workspace::{Workspace, padded, together};
use super::{Executable, Explanation, Inputs, Need, Needs, OffsetOrMask, Plan, PlanRequest};
use crate::error::Result;
use crate::shape::elements;
use crate::tensor::{Layout, TensorView, TensorViewMut};
use crate::{Element, MemoryFormat, Shape, Stream};

/// The name of running as two launches, among the candidates of a layer.
pub(crate) const PAIR: &str = "pair";
/// The name of the only way in which a [`crate::DeformRoiPoolPack`] runs.
pub(crate) const PACK: &str = "pool, fully connected layers, pool";

/// A tensor that a launch reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// The layer's x.
    Input,
    /// The result of another launch, this number of bytes into the workspace.
    Workspace(usize),
}

/// A launch whose result another one reads.
#[derive(Debug)]
struct Step<T: Element> {
    plan: Plan<T>,
    x: Source,
    /// Where the result is stored, in bytes from the start of the workspace.
    place: usize,
}

/// The launches before the last one, in order.
#[derive(Debug)]
pub(crate) struct Launches<T: Element> {
    steps: Vec<Step<T>>,
    /// Bytes of all results.
    bytes: usize,
}

/// What the last launch reads from the results of the launches before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Last {
    pub x: Source,
    /// Where the offsets are and their format, if a launch has computed them.
    pub offset: Option<(Source, MemoryFormat)>,
    pub mask: Option<(Source, MemoryFormat)>,
}

impl<T: Element> Launches<T> {
    pub fn new() -> Self {
        Self { steps: vec![], bytes: 0 }
    }

    /// Adds a launch that reads `x` and, if its plan needs them, the layer's RoIs. Returns where
    /// its result will be.
    ///
    /// # Errors
    /// [`crate::Error::Overflow`] for the size of the workspace.
    pub fn push(&mut self, plan: Plan<T>, x: Source) -> Result<Source> {
        let place = self.bytes;
        self.bytes = together(place, padded(elements(&plan.output)? * size_of::<T>())?)?;
        self.steps.push(Step { plan, x, place });
        Ok(Source::Workspace(place))
    }

    /// The plan of these launches followed by `last`, which reads the layer's other inputs. Values
    /// that pass between launches are rounded to T.
    ///
    /// # Errors
    /// [`crate::Error::Overflow`] for the size of the workspace.
    pub fn then(self, name: &'static str, op: &'static str, request: &PlanRequest, last: Plan<T>, reads: Last) -> Result<Plan<T>> {
        let plans = || self.steps.iter().map(|step| &step.plan).chain([&last]);
        let own = plans().map(Plan::workspace_bytes).max().unwrap_or_default();
        let stages = plans().map(|plan| plan.explanation.clone()).collect();
        // The launches before compute offset and mask themselves.
        let needs = Needs { offset: Need::No, mask: Need::No, ..last.needs };
        Ok(Plan {
            op,
            device: last.device.clone(),
            request: request.clone(),
            output: last.output,
            needs,
            workspace_bytes: together(self.bytes, own)?,
            explanation: Explanation { kernel: name, stages, ..Explanation::empty() },
            executable: Box::new(Sequence { launches: self, last, reads }),
        })
    }
}

/// A plan of two launches: `first` reads the layer's x, `second` reads the result and the layer's
/// other inputs.
pub(crate) fn pair<T: Element>(op: &'static str, request: &PlanRequest, first: Plan<T>, second: Plan<T>) -> Result<Plan<T>> {
    debug_assert!(first.output == second.request.x && first.request.y_format == second.request.x_format);
    let mut launches = Launches::new();
    let between = launches.push(first, Source::Input)?;
    launches.then(PAIR, op, request, second, Last { x: between, offset: None, mask: None })
}

/// All launches of a plan.
#[derive(Debug)]
struct Sequence<T: Element> {
    launches: Launches<T>,
    last: Plan<T>,
    reads: Last,
}

/// The tensor that `plan` reads: the layer's input, or one in the workspace.
fn view<'a, T: Element>(
    source: Source,
    (shape, format): (Shape, MemoryFormat),
    plan: &'a Plan<T>,
    inputs: &Inputs<'a, T>,
    workspace: &Workspace<'a>,
) -> Result<TensorView<'a, T>> {
    match source {
        Source::Input => Ok(inputs.x),
        Source::Workspace(place) => Ok(workspace.part::<T>(&plan.device, place, Layout::packed(shape, format))?.into_view()),
    }
}

/// Offsets or a mask that an earlier launch has computed.
fn field<'a, T: Element>(
    result: Option<(Source, MemoryFormat)>,
    need: Need,
    plan: &'a Plan<T>,
    inputs: &Inputs<'a, T>,
    workspace: &Workspace<'a>,
) -> Result<Option<OffsetOrMask<'a, T>>> {
    match (result, need) {
        (Some((source, format)), Need::Optional(shape) | Need::Required(shape)) => {
            Ok(Some(OffsetOrMask::Native(view(source, (shape, format), plan, inputs, workspace)?)))
        }
        _ => Ok(None),
    }
}

impl<T: Element> Executable<T> for Sequence<T> {
    unsafe fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, workspace: &Workspace<'_>, stream: &Stream) -> Result<()> {
        let Self { launches: Launches { steps, bytes }, last, reads } = self;
        let as_read = |plan: &Plan<T>| (plan.request.x, plan.request.x_format);
        for Step { plan, x, place } in steps {
            let x = view(*x, as_read(plan), plan, inputs, workspace)?;
            let rois = inputs.rois.filter(|_| plan.needs.rois);
            let mut result = workspace.part::<T>(&plan.device, *place, Layout::packed(plan.output, plan.request.y_format))?;
            plan.run(&Inputs { rois, ..Inputs::new(x) }, result.reborrow(), workspace.after(*bytes), stream)?;
        }
        let x = view(reads.x, as_read(last), last, inputs, workspace)?;
        let offset = field(reads.offset, last.needs.offset, last, inputs, workspace)?;
        let mask = field(reads.mask, last.needs.mask, last, inputs, workspace)?;
        last.run(&Inputs { x, offset, mask, ..*inputs }, y.reborrow(), workspace.after(*bytes), stream)
    }
}
