//! Layers that run as two launches with a tensor between them in the workspace.

use super::plan::{Executable, Needs};
use super::workspace::{Workspace, padded, together};
use super::{ChosenBy, Explanation, Inputs, Plan, PlanRequest};
use crate::error::Result;
use crate::geometry::elements;
use crate::tensor::{Layout, TensorViewMut};
use crate::{Element, Stream};

/// The name under which a plan of two launches stands among the candidates.
pub(crate) const PAIR: &str = "pair";

/// The second plan runs on what the first leaves in the workspace.
#[derive(Debug)]
struct Sequence<T: Element> {
    first: Plan<T>,
    second: Plan<T>,
}

/// A plan of two: `first` reads the layer's x, `second` its other inputs. The tensor between them is rounded to T and lies in
/// the workspace.
pub(crate) fn sequence<T: Element>(
    op: &'static str,
    request: &PlanRequest,
    needs: Needs,
    first: Plan<T>,
    second: Plan<T>,
) -> Result<Plan<T>> {
    debug_assert!(first.output == second.request.x && first.request.y_format == second.request.x_format);
    let between = padded(elements(&first.output)? * size_of::<T>())?;
    let explanation = Explanation {
        kernel: PAIR,
        choices: vec![],
        chosen_by: if request.kernel.is_some() { ChosenBy::Request } else { ChosenBy::CostModel },
        problem: String::new(),
        grid: [0; 3],
        threads: 0,
        shared_bytes: 0,
        note: String::new(),
        stages: vec![first.explanation.clone(), second.explanation.clone()],
    };
    Ok(Plan {
        op,
        device: first.device.clone(),
        request: request.clone(),
        output: second.output,
        needs,
        workspace_bytes: together(between, first.workspace_bytes.max(second.workspace_bytes))?,
        executable: Box::new(Sequence { first, second }),
        explanation,
    })
}

impl<T: Element> Executable<T> for Sequence<T> {
    fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, workspace: &Workspace<'_>, stream: &Stream) -> Result<()> {
        let Sequence { first, second } = self;
        let layout = Layout::packed(first.output, first.request.y_format);
        let (mut between, rest) = workspace.split::<T>(&first.device, layout)?;
        first.run(&Inputs::new(inputs.x), between.reborrow(), rest.reborrow(), stream)?;
        second.run(&Inputs { x: between.as_view(), ..*inputs }, y.reborrow(), rest, stream)
    }
}
