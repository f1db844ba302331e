//! Calculators: what a layer costs, what an output pixel depends on, and what a factorised form
//! saves.
//!
//! Nothing here runs a layer. Everything follows from specs and shapes, in checked arithmetic. One
//! multiply-add (MAC) is two floating-point operations (FLOPs). Bias, residual and activation are
//! counted separately. Products with the zeros of the padding are counted, as is usual.
//!
//! ```
//! use warpconv::analysis::{Operands, ReceptiveField, Saving, analyse};
//! use warpconv::{Conv2dSpec, DType, LayerSpec, Padding};
//! # fn main() -> warpconv::Result<()> {
//! let spec = Conv2dSpec { padding: Padding::Same, ..Default::default() };
//! let parameters = [("weight", vec![64, 64, 3, 3]), ("bias", vec![64])];
//! let report = analyse(&LayerSpec::Conv2d(spec), &parameters, &[1, 64, 56, 56].into(), Operands::new(DType::F16))?;
//! assert_eq!(report.output, [1, 64, 56, 56]);
//! assert_eq!(report.parameters.total, 64 * 64 * 9 + 64);
//! assert_eq!(report.operations.flops, 2 * 115_605_504);
//!
//! let field = ReceptiveField::input().then_conv2d(&spec, [3, 3])?.then_conv2d(&spec, [3, 3])?;
//! assert_eq!(field.size, [5, 5]);
//!
//! let saving = Saving::depthwise_separable(&spec, 64, [3, 3], [1, 64, 56, 56])?;
//! assert!((saving.macs_ratio - (1.0 / 64.0 + 1.0 / 9.0)).abs() < 1e-12);
//! # Ok(())
//! # }
//! ```

mod receptive_field;
mod report;
mod saving;
#[cfg(test)]
mod tests;
mod work;

use crate::error::{Error, Result};
use crate::geometry::elements;
pub use receptive_field::{ReceptiveField, doubling_receptive_field, stacked_receptive_field};
pub use report::{Bytes, LayerReport, Limits, Operands, Operations, ParameterShape, Parameters};
pub use saving::{Cost, Saving};
pub use work::analyse;

fn count(shape: &[usize]) -> Result<u64> {
    Ok(elements(shape)? as u64)
}

fn sum<const N: usize>(what: &'static str, terms: [u64; N]) -> Result<u64> {
    let total = terms.iter().try_fold(0u64, |total, &term| total.checked_add(term));
    total.ok_or_else(|| Error::Overflow { what, values: format!("the sum of {terms:?}") })
}

fn product<const N: usize>(what: &'static str, factors: [u64; N]) -> Result<u64> {
    let total = factors.iter().try_fold(1u64, |total, &factor| total.checked_mul(factor));
    total.ok_or_else(|| Error::Overflow { what, values: format!("the product of {factors:?}") })
}
