//! The outcome of a run: a comparison that passed, or what is wrong.

use crate::error::{Error, Result};
use crate::numerics::Report;
use crate::{DType, MemoryFormat, Shape};
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One way in which a case was run.
#[derive(Debug)]
pub struct Run {
    /// The dtype.
    pub dtype: DType,
    /// The format of the inputs.
    pub x_format: MemoryFormat,
    /// The format of the output.
    pub y_format: MemoryFormat,
    /// The kernel. Empty if the run failed before one was chosen.
    pub kernel: &'static str,
    /// What is wrong, or the comparison that passed.
    pub outcome: Result<Report, Failure>,
    /// A hash of the bits of the result, if there is one. All NaN count as the same.
    pub digest: Option<u64>,
    /// Whether the result passes only because the PTX manual leaves open how tensor cores treat
    /// subnormal inputs: an operand is subnormal, and the error is no larger than taking such
    /// operands as zeros would cause.
    pub open_subnormals: bool,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} to {} {}: ", self.dtype, self.x_format, self.y_format, self.kernel)?;
        match &self.outcome {
            Ok(report) => write!(f, "{} elements passed", report.elements),
            Err(failure) => failure.fmt(f),
        }
    }
}

/// A way in which a run can be wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The run returned an error.
    Error(Error),
    /// The run panicked.
    Panic(String),
    /// The output has another shape.
    Shape {
        /// The shape that the layer returned.
        got: Vec<usize>,
        /// The shape of the reference.
        expected: Vec<usize>,
    },
    /// Some elements exceed the bound of the contract.
    Values {
        /// The number of these elements, and the worst of them.
        report: Report,
        /// The indices [n, c, h, w] of the worst element.
        position: Shape,
    },
    /// The kernel wrote outside its output, in the wider tensor.
    Outside {
        /// The indices [n, c, h, w] in the wider tensor.
        position: Shape,
    },
    /// [`Layer::forward`](crate::Layer::forward) gives another result than the plan.
    Forward {
        /// The indices [n, c, h, w] of the first element that differs.
        position: Shape,
    },
    /// A case that should have been refused was run.
    Accepted,
    /// The case was refused, but only after a launch.
    Late(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => error.fmt(f),
            Failure::Panic(message) => write!(f, "panicked: {message}"),
            Failure::Shape { got, expected } => write!(f, "the output has shape {got:?}, the reference {expected:?}"),
            Failure::Values { report, position } => {
                write!(f, "{} of {} elements are wrong", report.failures, report.elements)?;
                if let Some(worst) = report.worst {
                    write!(f, "; the worst at {position:?}: got {:?}, expected {:?}", worst.got, worst.expected)?;
                    match worst.bound {
                        0.0 => write!(f, " bit for bit")?,
                        bound => write!(f, " +- {bound:.3e}, which is {:.3} times the bound", worst.ratio)?,
                    }
                }
                Ok(())
            }
            Failure::Outside { position } => write!(f, "wrote outside its output, at {position:?} of the tensor that it is a part of"),
            Failure::Forward { position } => write!(f, "forward and the plan differ, first at {position:?}"),
            Failure::Accepted => f.write_str("was accepted, but must be refused"),
            Failure::Late(error) => write!(f, "was refused only after a launch: {error}"),
        }
    }
}

pub(super) fn catch<R>(f: impl FnOnce() -> Result<R>) -> Result<R, Failure> {
    catch_failure(|| f().map_err(Failure::Error))
}

pub(super) fn catch_failure<R>(f: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // Values that `f` leaves half done when it panics are dropped or not read again.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(Failure::Panic(panic_message(&*panic))))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}
