//! The numerics contract: how far a result may be from the definition of its layer.
//!
//! Inputs and weights are in a dtype T, products and sums in f32, and the result is rounded once to T. A result y passes when,
//! element by element,
//!
//! ```text
//! |y - y_ref| <= 2 u |y_ref| + (acc(K) + stage) * gain * scale + ref_atol + coord_atol + tiny
//!
//! y_ref   the definition, evaluated in f64 on the inputs as T holds them
//! scale   the same operation on absolute values, before the final activation
//! u       unit roundoff of T: f32 2^-24, f16 2^-11, bf16 2^-8
//! K       products in one sum;  acc(K) = 2^-23 * (8 + sqrt K)
//! stage   0; 2 u for layers of two stages; u where interpolated values are rounded to T before a product;
//!         2^-10 where tf32 rounds the operands
//! gain    the steepest slope of the activation where a user sets it (alpha, slope) and it is above 1, else 1
//! tiny    the smallest subnormal of T
//! ```
//!
//! A looser bound would hide work left out: in bf16, 2^-7 * scale passes when 64 of 2304 products are missing.
//!
//! **Bit for bit.** Products of multiples of 1/64 are multiples of 2^-12, so sums of them are exact in f32, in any order, while
//! their absolute sum stays within 2^12. There a linear layer (without activation, or with relu) must equal the reference
//! rounded once to T. The sign of a zero is left open.

use crate::DType;
use crate::error::{Error, Result};

/// The largest absolute sum of products of multiples of 1/64 that f32 holds exactly: 24 bits above 2^-12.
pub const EXACT_SCALE: f64 = 4096.0;

/// Whether all values are multiples of 1/64, as the bit-for-bit rule wants them.
pub fn on_exact_grid(values: &[f64]) -> bool {
    values.iter().all(|v| (v * 64.0).fract() == 0.0)
}

/// What is demanded of the results of one layer in one dtype.
///
/// ```
/// use warpconv::{DType, numerics::Contract};
/// let contract = Contract::new(DType::F16, 576);
/// let report = contract.check(&[1.0, 2.0], &[1.0001, 2.0], &[10.0, 10.0])?;
/// assert!(report.passed());
/// let report = contract.check(&[1.0, 2.25], &[1.0001, 2.0], &[10.0, 10.0])?;
/// assert_eq!(report.worst.unwrap().index, 1);
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contract {
    /// The dtype T of inputs, weights and result.
    pub dtype: DType,
    /// K: products in one sum.
    pub products: usize,
    /// Error allowed in proportion to the scale beyond that of the sums.
    pub stage: f64,
    /// The steepest slope of the activation, at least 1.
    pub gain: f64,
    /// Inaccuracy of the reference itself.
    pub ref_atol: f64,
    /// Room for f32 coordinates in interpolation.
    pub coord_atol: f64,
    /// Whether the bit-for-bit rule holds where the scale is within [`EXACT_SCALE`]: a linear layer of one stage on multiples
    /// of 1/64.
    pub exact: bool,
}

impl Contract {
    /// The contract of one sum of `products` products.
    pub fn new(dtype: DType, products: usize) -> Self {
        Self { dtype, products, stage: 0.0, gain: 1.0, ref_atol: 0.0, coord_atol: 0.0, exact: false }
    }

    /// Allows `roundings` more roundings to T of what goes into the products: 2 for layers of two stages, 1 for interpolated
    /// values.
    pub fn rounded(self, roundings: usize) -> Self {
        Self { stage: self.stage + roundings as f64 * self.dtype.unit_roundoff(), ..self }
    }

    /// Allows for products of tf32.
    pub fn tf32(self) -> Self {
        Self { stage: self.stage + 2f64.powi(-10), ..self }
    }

    /// With an activation whose steepest slope is `gain`.
    pub fn gain(self, gain: f64) -> Self {
        Self { gain: gain.max(1.0), ..self }
    }

    /// Adds the inaccuracy of the reference and that of f32 coordinates. A reference that is not exact cannot be compared bit
    /// for bit.
    pub fn tolerate(self, ref_atol: f64, coord_atol: f64) -> Self {
        Self { ref_atol, coord_atol, exact: self.exact && ref_atol == 0.0 && coord_atol == 0.0, ..self }
    }

    /// Switches the bit-for-bit rule.
    pub fn exact(self, exact: bool) -> Self {
        Self { exact, ..self }
    }

    /// How far from `reference` a result may be. An infinite scale, as special values of the input give it, allows no error in
    /// proportion to it.
    pub fn bound(&self, reference: f64, scale: f64) -> f64 {
        let scale = if scale.is_finite() { scale } else { reference.abs() };
        let accumulation = 2f64.powi(-23) * (8.0 + (self.products as f64).sqrt());
        2.0 * self.dtype.unit_roundoff() * reference.abs()
            + (accumulation + self.stage) * self.gain * scale
            + self.ref_atol
            + self.coord_atol
            + self.dtype.smallest_subnormal()
    }

    /// Compares results (exact as f32 in every dtype) with the reference, element by element.
    ///
    /// NaN passes where the reference is NaN and infinity where it is the same infinity; infinity also where the reference, or
    /// one within the bound of it, overflows T. Where the absolute sum overflows f32, anything not finite passes, since the
    /// order of the sum decides.
    ///
    /// # Errors
    /// [`Error::Length`] when the numbers of elements differ.
    pub fn check(&self, y: &[f32], reference: &[f64], scale: &[f64]) -> Result<Report> {
        for (name, got) in [("the result", y.len()), ("the scale", scale.len())] {
            if got != reference.len() {
                return Err(Error::Length { name, shape: vec![reference.len()], expected: reference.len(), got });
            }
        }
        let mut report = Report { elements: y.len(), ..Default::default() };
        for (index, ((&got, &expected), &scale)) in y.iter().zip(reference).zip(scale).enumerate() {
            let exact = self.exact && scale <= EXACT_SCALE;
            let deviation = if exact { self.exact_deviation(got, expected) } else { self.deviation(got, expected, scale) };
            report.exact += usize::from(exact);
            report.failures += usize::from(deviation.ratio > 1.0);
            if report.worst.is_none_or(|worst| deviation.worse_than(&worst)) {
                report.worst = Some(Deviation { index, ..deviation });
            }
        }
        Ok(report)
    }

    fn deviation(&self, got: f32, expected: f64, scale: f64) -> Deviation {
        let value = f64::from(got);
        let bound = self.bound(expected, scale);
        let overflows = || self.dtype.round(expected + bound.copysign(value)) == value;
        let anything = scale.is_finite() && scale > f64::from(f32::MAX);
        let ratio = match (value.is_finite(), expected.is_finite()) {
            (true, true) => (value - expected).abs() / bound,
            _ if value == expected || value.is_nan() && expected.is_nan() => 0.0,
            (false, true) if anything || value.is_infinite() && overflows() => 0.0,
            _ => f64::INFINITY,
        };
        Deviation { index: 0, got: value, expected, bound, ratio }
    }

    fn exact_deviation(&self, got: f32, reference: f64) -> Deviation {
        let (got, expected) = (f64::from(got), self.dtype.round(reference));
        let ratio = if got == expected || got.is_nan() && expected.is_nan() { 0.0 } else { f64::INFINITY };
        Deviation { index: 0, got, expected, bound: 0.0, ratio }
    }
}

/// One element of a result beside its reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// Its index in row-major order.
    pub index: usize,
    /// The result.
    pub got: f64,
    /// The reference; under the bit-for-bit rule, rounded to T.
    pub expected: f64,
    /// How far the result may be from it; 0 under the bit-for-bit rule.
    pub bound: f64,
    /// The distance over the bound: above 1 is a failure, and infinite where no distance says how wrong it is.
    pub ratio: f64,
}

impl Deviation {
    fn worse_than(&self, other: &Deviation) -> bool {
        let distance = |d: &Deviation| (d.got - d.expected).abs();
        self.ratio > other.ratio || self.ratio == other.ratio && distance(self) > distance(other)
    }
}

/// The outcome of [`Contract::check`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Report {
    /// Elements compared.
    pub elements: usize,
    /// Of these, elements that were compared bit for bit.
    pub exact: usize,
    /// Elements that fail.
    pub failures: usize,
    /// The element with the largest ratio; none in an empty result.
    pub worst: Option<Deviation>,
}

impl Report {
    /// Whether every element passes.
    pub fn passed(&self) -> bool {
        self.failures == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2304 products of 1/2 with alternating signs and one more, as a 3x3 convolution of 256 channels has them.
    fn sum(products: impl Iterator<Item = usize>) -> f64 {
        products.map(|i| if i % 2 == 0 { 0.5 } else { -0.5 }).sum::<f64>() + 1.0
    }

    #[test]
    fn a_missing_product_is_caught_in_every_dtype() {
        let (reference, scale) = (sum(0..2304), 2304.0 * 0.5 + 1.0);
        let incomplete = sum((0..2304).filter(|&i| i != 77));
        for dtype in DType::ALL {
            let contract = Contract::new(dtype, 2305);
            let rounded = |v| dtype.round(v) as f32;
            assert!(contract.check(&[rounded(reference)], &[reference], &[scale]).unwrap().passed());
            let report = contract.check(&[rounded(incomplete)], &[reference], &[scale]).unwrap();
            assert!(!report.passed(), "{dtype}: {report:?}");
            // what the contract is stricter than
            assert!(dtype != DType::Bf16 || (incomplete - reference).abs() <= 2f64.powi(-7) * scale);
        }
    }

    #[test]
    fn special_values() {
        let contract = Contract::new(DType::F16, 9);
        let passes = |y: f32, reference: f64, scale: f64| contract.check(&[y], &[reference], &[scale]).unwrap().passed();
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        assert!(passes(f32::NAN, nan, nan));
        assert!(!passes(0.0, nan, nan));
        assert!(!passes(f32::NAN, 0.0, 1.0));
        assert!(!passes(f32::NAN, inf, inf));
        assert!(passes(f32::INFINITY, inf, inf));
        assert!(!passes(f32::NEG_INFINITY, inf, inf));
        assert!(!passes(65504.0, inf, inf));
        // overflow of f16, certain and borderline
        assert!(passes(f32::INFINITY, 70000.0, 70000.0));
        assert!(passes(f32::INFINITY, 65519.0, 65519.0));
        assert!(passes(65504.0, 65525.0, 65525.0));
        assert!(!passes(f32::NEG_INFINITY, 65525.0, 65525.0));
        assert!(!passes(f32::INFINITY, 60000.0, 60000.0));
        // an activation that saturates
        assert!(passes(6.0, 6.0, inf));
        assert!(!passes(5.9, 6.0, inf));
        assert!(passes(0.0, 0.0, inf));
        assert!(!passes(1e-3, 0.0, inf));
        // a sum that overflows f32 on the way
        assert!(passes(f32::NAN, 0.0, 1e39));
        assert!(passes(2f32.powi(-24), 0.0, 0.0), "the smallest subnormal");
        assert!(!passes(2f32.powi(-23), 0.0, 0.0));
    }

    #[test]
    fn bit_for_bit() {
        let contract = Contract::new(DType::Bf16, 64).exact(true);
        let reference = 1.0 + 2f64.powi(-8) + 2f64.powi(-12);
        let up = 1.0 + 2f32.powi(-7);
        let check = |y: f32, scale: f64| contract.check(&[y], &[reference], &[scale]).unwrap();
        assert!(check(up, 4096.0).passed());
        assert_eq!(check(up, 4096.0).exact, 1);
        assert!(!check(1.0, 4096.0).passed(), "a neighbour");
        assert!(check(1.0, 4096.5).passed(), "a neighbour is within the bound");
        assert!(contract.check(&[-0.0], &[0.0], &[1.0]).unwrap().passed());
        assert!(!contract.tolerate(1e-6, 0.0).exact);
    }

    #[test]
    fn finds_the_worst_element() {
        let contract = Contract::new(DType::F32, 4);
        let report = contract.check(&[1.0, 2.1, 3.01], &[1.0, 2.0, 3.0], &[3.0; 3]).unwrap();
        let worst = report.worst.unwrap();
        assert_eq!((report.failures, worst.index, worst.expected), (2, 1, 2.0));
        assert!(contract.check(&[], &[], &[]).unwrap().passed());
        assert!(matches!(contract.check(&[1.0], &[], &[]), Err(Error::Length { .. })));
    }

    #[test]
    fn grid() {
        assert!(on_exact_grid(&[0.0, -1.0 / 64.0, 63.0 / 64.0, 5.0]));
        assert!(!on_exact_grid(&[1.0 / 128.0]));
        assert!(!on_exact_grid(&[f64::NAN]));
        assert!(!on_exact_grid(&[f64::INFINITY]));
    }
}
