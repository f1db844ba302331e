//! Running a layer as several launches, which is one candidate beside the kernels that do it in one
//! launch.

use super::candidate::{Entry, Reason, Selection, choose};
use crate::Element;
use crate::error::Result;
use crate::plan::{Estimate, Plan};

/// A layer as several launches with tensors between them in the workspace.
pub(crate) struct Several<'a, T: Element> {
    /// The name by which [`crate::PlanRequest::kernel`] asks for it.
    pub name: &'static str,
    /// The estimated time of all launches, or why they do not apply. It is for one image if the
    /// choice may not depend on the batch.
    pub estimate: Result<Estimate, Reason>,
    /// Makes the plan of the launches.
    pub plan: Box<dyn Fn() -> Result<Plan<T>> + 'a>,
}

impl<T: Element> Several<'_, T> {
    pub fn entry<C>(&self) -> Entry<C> {
        Entry::of_launches(self.name, self.estimate.clone())
    }

    /// The plan, after it was chosen from a list.
    pub fn plan<C>(&self, selection: Selection<C>) -> Result<Plan<T>> {
        let mut plan = (self.plan)()?;
        plan.explanation = selection.explain_as(plan.explanation);
        Ok(plan)
    }
}

/// The plan of a layer that only runs as these launches. Their own estimates say how long they
/// take.
///
/// # Errors
/// [`crate::Error::NoKernel`] if the request asks for something else.
pub(crate) fn only<T: Element>(mut plan: Plan<T>) -> Result<Plan<T>> {
    let times = plan.explanation.stages.iter().filter_map(|stage| stage.choices.first()?.verdict.clone().ok());
    let entry = Entry::<()>::of_launches(plan.explanation.kernel, Ok(times.sum()));
    let selection = choose(plan.op, &plan.device, &plan.request, String::new(), vec![entry])?;
    plan.explanation = selection.explain_as(plan.explanation);
    Ok(plan)
}
