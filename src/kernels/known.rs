//! A memory of configurations that a family has worked out: the same kernel and problem come again
//! within one plan and in later plans.

use super::KernelInfo;
use super::problem::ConvProblem;
use crate::device::Properties;
use crate::geometry::ConvGeometry;
use crate::spec::Precision;
use crate::{DType, DeviceKind, MemoryFormat};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The number of answers that are kept: more than the kernels and layers of one network, and few
/// enough to search one by one.
const MOST: usize = 256;

/// The latest answers for kernels and problems.
pub(crate) struct Known<V>(Mutex<VecDeque<(Key, V)>>);

/// A kernel and everything of a problem that an answer depends on.
#[derive(Debug, PartialEq)]
struct Key {
    kernel: &'static str,
    geometry: ConvGeometry,
    producer: Option<ConvGeometry>,
    dtype: DType,
    formats: [MemoryFormat; 2],
    precision: Precision,
    batch_invariant: bool,
    finite_weights: bool,
    workspace_limit: usize,
    kind: DeviceKind,
    device: Properties,
}

impl Key {
    fn new(kernel: &KernelInfo, problem: &ConvProblem<'_>) -> Self {
        // Each field is named, so that a new field must be added here as well.
        let ConvProblem {
            geometry,
            producer,
            dtype,
            x_format,
            y_format,
            precision,
            batch_invariant,
            finite_weights,
            workspace_limit,
            kind,
            device,
            // A kernel that is left out is never asked about.
            owner: _,
        } = *problem;
        let (kernel, formats, device) = (kernel.name, [x_format, y_format], device.clone());
        Self { kernel, geometry, producer, dtype, formats, precision, batch_invariant, finite_weights, workspace_limit, kind, device }
    }
}

impl<V: Clone> Known<V> {
    pub const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// Returns the known answer, or else works it out and keeps it.
    pub fn get(&self, kernel: &KernelInfo, problem: &ConvProblem<'_>, answer: impl FnOnce() -> V) -> V {
        let key = Key::new(kernel, problem);
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = lock().iter().rev().find(|(of, _)| *of == key) {
            return known.clone();
        }
        let answer = answer();
        let mut all = lock();
        if all.len() == MOST {
            all.pop_front();
        }
        all.push_back((key, answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2dSpec, Device, PlanRequest, half::f16};
    use std::cell::Cell;

    #[test]
    fn an_answer_is_worked_out_once_for_each_problem_and_the_latest_are_kept() {
        let device = Device::host().unwrap();
        let [first, other] = [0, 1].map(|index| &crate::kernels::KERNELS[index]);
        let (known, worked_out) = (Known::new(), Cell::new(0));
        let ask = |kernel: &KernelInfo, n: usize, format| {
            let request = PlanRequest::new([n, 8, 6, 6]).format(format);
            let geometry = ConvGeometry::conv2d(&Conv2dSpec::default(), [n, 8, 6, 6], [8, 8, 3, 3]).unwrap();
            known.get(kernel, &ConvProblem::new::<f16>(&device, &request, geometry), || worked_out.replace(worked_out.get() + 1usize))
        };
        let (planes, last) = (MemoryFormat::Contiguous, MemoryFormat::ChannelsLast);
        let asked = [(first, 1, planes), (first, 2, planes), (first, 1, last), (other, 1, planes)];
        for _ in 0..2 {
            assert_eq!(asked.map(|(kernel, n, format)| ask(kernel, n, format)), [0, 1, 2, 3]);
        }
        (0..MOST).for_each(|n| {
            ask(first, 3 + n, planes);
        });
        assert_eq!(known.0.lock().unwrap().len(), MOST);
        assert_eq!(ask(first, 1, planes), 4 + MOST, "the oldest have made room");
    }
}
