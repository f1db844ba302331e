//! What came of a run: a comparison that passed, or what is wrong.

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
    /// The kernel; empty when none was reached.
    pub kernel: &'static str,
    /// What is wrong, or the comparison that passed.
    pub outcome: Result<Report, Failure>,
    /// A hash of the result's bits, where there is one; any NaN is as good as another.
    pub digest: Option<u64>,
    /// Whether the result passes only because the PTX manual leaves open how tensor cores take subnormal inputs: some operand is
    /// one, and what is missing is no more than what follows from taking such operands as zeros.
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

/// What can be wrong with a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// It failed.
    Error(Error),
    /// It panicked.
    Panic(String),
    /// The output has another shape.
    Shape {
        /// What the layer says.
        got: Vec<usize>,
        /// What the reference has.
        expected: Vec<usize>,
    },
    /// Elements beyond the bound of the contract.
    Values {
        /// How many, and the worst of them.
        report: Report,
        /// [n, c, h, w] of the worst.
        position: Shape,
    },
    /// The kernel wrote beside the channels that were its output.
    Outside {
        /// [n, c, h, w] in the wider tensor.
        position: Shape,
    },
    /// [`Layer::forward`] gives another result than the plan.
    Forward {
        /// [n, c, h, w] of the first element that differs.
        position: Shape,
    },
    /// What should have been refused was run.
    Accepted,
    /// It was refused, but only after a launch.
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
    // what `f` leaves half done when it panics is dropped or never looked at again
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(Failure::Panic(panic_message(&*panic))))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}
