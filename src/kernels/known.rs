//! What a family has worked out for a problem and may be asked for again: by `cost` and `prepare` of one plan, and by the next plan
//! for the same problem.

use super::KernelInfo;
use super::launch::Problem;
use crate::device::Properties;
use crate::geometry::ConvGeometry;
use crate::layers::Precision;
use crate::{DType, DeviceKind, MemoryFormat};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Answers that are kept: more than the kernels and layers of one network, few enough to look through.
const MOST: usize = 256;

/// The latest answers for kernels and problems.
pub(crate) struct Known<V>(Mutex<VecDeque<(Key, V)>>);

/// A kernel and all of its problem.
#[derive(Debug, PartialEq)]
struct Key {
    kernel: &'static str,
    geometry: ConvGeometry,
    before: Option<ConvGeometry>,
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
    fn new(kernel: &KernelInfo, problem: &Problem<'_>) -> Self {
        // each field by name: a new one has to come here, too
        let Problem {
            geometry,
            before,
            dtype,
            x_format,
            y_format,
            precision,
            batch_invariant,
            finite_weights,
            workspace_limit,
            kind,
            device,
        } = *problem;
        let (kernel, formats, device) = (kernel.name, [x_format, y_format], device.clone());
        Self { kernel, geometry, before, dtype, formats, precision, batch_invariant, finite_weights, workspace_limit, kind, device }
    }
}

impl<V: Clone> Known<V> {
    pub const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// The answer that is known, or else this one from now on.
    pub fn get(&self, kernel: &KernelInfo, problem: &Problem<'_>, answer: impl FnOnce() -> V) -> V {
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
