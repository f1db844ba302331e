//! Twins: the same layer on fewer and smaller images, whose every element is compared with the oracle.

use super::{Bench, Scale, TWIN_BUDGET};
use crate::analysis::Limits;
use crate::bench::suite::{Configuration, Workload, scaled_down};
use crate::check::{Case, Failure, Kernels};
use crate::error::{Error, Result};
use crate::{DType, Shape};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

/// A smaller problem of the same layer, with the oracle's result.
#[derive(Debug)]
pub(super) struct Twin {
    x: Shape,
    case: Case,
}

impl Bench {
    /// Compares the same layer on fewer and smaller images, through the same kernel, in every
    /// element.
    pub(super) fn twin(&self, configuration: &Configuration<'_>, problem: &Workload, kernel: &'static str) -> Result<String, String> {
        let key = format!("{} {} {} {} {kernel}", configuration.row.name, configuration.dtype, configuration.format, configuration.tail);
        let known = |twins: &BTreeMap<String, Result<String, String>>| twins.get(&key).cloned();
        if let Some(known) = known(&self.twins.lock().unwrap_or_else(PoisonError::into_inner)) {
            return known;
        }
        let outcome = self.check_twin(configuration, problem, kernel);
        self.twins.lock().unwrap_or_else(PoisonError::into_inner).insert(key, outcome.clone());
        outcome
    }

    fn twin_of(&self, configuration: &Configuration<'_>, problem: &Workload) -> Result<Arc<Twin>> {
        let key = format!("{} {} {}", configuration.row.name, configuration.dtype, configuration.tail);
        let mut last = self.twin.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, twin)) = last.as_ref().filter(|(known, _)| *known == key) {
            return Ok(twin.clone());
        }
        let twin = match self.scale {
            Scale::Tiny => problem.clone(),
            Scale::Full => scaled_down(problem, 2, TWIN_BUDGET)?,
        };
        // The oracle runs on a single thread of the host, whatever the device.
        Limits::ORACLE.check(&twin.cost(DType::F32)?)?;
        let tensors = twin.tensors(configuration.dtype)?;
        let (output, scale) = (self.oracle)(&twin.layer, &tensors)?;
        let twin = Arc::new(Twin { x: twin.x()?, case: Case::new(twin.layer, &tensors, output, scale.into_data())? });
        *last = Some((key, twin.clone()));
        Ok(twin)
    }

    fn check_twin(&self, configuration: &Configuration<'_>, problem: &Workload, kernel: &'static str) -> Result<String, String> {
        let twin = self.twin_of(configuration, problem).map_err(|error| format!("the twin: {error}"))?;
        let Twin { x, case } = &*twin;
        let [x_format, y_format] = configuration.formats();
        for run in case.check(configuration.dtype, x_format, y_format, Kernels::Named(kernel), &self.device) {
            match run.outcome {
                Ok(_) => {}
                // A kernel may apply to large shapes only. Then only the samples of the timed shape
                // are compared.
                Err(Failure::Error(Error::NoKernel { .. })) => return Ok(format!("{kernel} does not apply to x {x:?}")),
                Err(failure) => return Err(format!("the twin, x {x:?}: {failure}")),
            }
        }
        Ok(format!("x {x:?}, every element"))
    }
}
