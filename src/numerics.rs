//! The numerics contract: how far a result may be from the definition of its layer.
//!
//! Inputs and weights are in a dtype T, products and sums in f32, and the result is rounded once to
//! T. A result y passes if each element satisfies
//!
//! ```text
//! |y - y_ref| <= (2 u + act) |y_ref| + (acc(K) + stage) * gain * scale + ref_atol + coord_atol + tiny
//!
//! y_ref   the definition, evaluated in f64 on the inputs as T holds them
//! scale   the same operation on absolute values, before the final activation
//! u       unit roundoff of T: f32 2^-24, f16 2^-11, bf16 2^-8
//! K       products in one sum;  acc(K) = 2^-23 * (8 + sqrt K)
//! act     0; for activations with a transcendental function, (2 m + 1) * 2^-24 where CUDA documents m ulp from the correctly
//!         rounded result: expf 2, tanhf 2, erfcf 4
//! stage   0; 2 u for layers of two stages; u where interpolated values are rounded to T before a product;
//!         2^-10 where tf32 rounds the operands
//! gain    the steepest slope of the activation where a user sets it (alpha, slope) and it is above 1, else 1
//! tiny    the smallest subnormal of T, for the store; that of f32 for each rounding of the sum, since it may be subnormal;
//!         half of T's for each value that is rounded to T before a product
//! ```
//!
//! The figures for CUDA are from the CUDA Programming Guide, appendix "Mathematical Functions",
//! tables of the maximum ulp error of the single-precision standard functions. Editions differ for
//! expf (1 or 2); the larger one is used here. As the guide says, these errors are measured, not
//! proved.
//!
//! The terms of `tiny` are absolute errors. A value that is rounded before a product is then
//! multiplied by the other factors, so such a term is multiplied by the largest of those
//! ([`Contract::magnified`]).
//!
//! **Computed offsets.** A layer that computes its own offsets and mask rounds them to T, which
//! moves samples. The reference does the same ([`crate::reference::deform_conv2d_block`]). A
//! difference remains only where the error of f32 sums leaves open to which side an offset is
//! rounded. There `scale` grows by what the other side would change, divided by `acc(K) + stage`.
//!
//! A looser bound would not notice missing work: in bf16, 2^-7 * scale passes when 64 of 2304
//! products are missing.
//!
//! **Bit for bit.** Products of multiples of 1/64 are multiples of 2^-12, so their sums are exact
//! in f32, in any order, as long as the absolute sum stays within 2^12. Then a linear layer
//! (without activation, or with relu) must equal the reference rounded once to T. The sign of a
//! zero is left open. If the precision rounds the operands (tf32), the rule applies only if the
//! operands are tf32 numbers.
//!
//! **Padding makes no product.** A tap in the padding of a convolution is left out of the sum. So
//! is a tap of a transposed convolution that reaches no pixel of the input. An infinite or NaN
//! weight over the padding therefore does not change the sum, whereas a product with zero would
//! make it NaN. Most kernels multiply such zeros, which changes nothing as long as weights are
//! finite. A layer with a weight that is not finite in T ([`crate::Parameter::allow_non_finite`])
//! therefore gets a kernel that skips those taps, unless it has no padding; [`crate::Explanation`]
//! gives that as the reason. Otherwise NaN and infinity propagate as the definition says:
//! `0 * infinity` is NaN for a zero weight on an infinite pixel, and a sample of a deformable
//! convolution outside the image is a zero that is multiplied.
//!
//! **Subnormal inputs of tensor cores.** The PTX manual leaves open how `mma` treats subnormal
//! inputs ("The accumulation order, rounding and handling of subnormal inputs are unspecified"). A
//! run on tensor cores with subnormal operands may miss the bound only because these are taken as
//! zeros. Such a run counts as neither right nor wrong ([`crate::check::Run::open_subnormals`]).

use crate::DType;
use crate::error::{Error, Result};
use crate::spec::Activation;

/// The largest absolute sum of products of multiples of 1/64 that f32 represents exactly: 24 bits
/// above 2^-12.
pub const EXACT_SCALE: f64 = 4096.0;

/// The largest difference from the correctly rounded result that CUDA documents, in ulps.
const EXPF_ULPS: f64 = 2.0;
const TANHF_ULPS: f64 = 2.0;
const ERFCF_ULPS: f64 = 4.0;
/// Roundings after the sum: bias, residual, and two in an activation.
const TAIL_ROUNDINGS: f64 = 4.0;

/// Whether all values are tf32 numbers (f32 with 10 bits of mantissa). Infinities and NaN are.
pub fn in_tf32(values: &[f64]) -> bool {
    values.iter().all(|&v| v.is_nan() || f64::from(v as f32) == v && (v as f32).to_bits() & 0x1fff == 0)
}

/// Whether all values are multiples of 1/64, as the bit-for-bit rule requires.
pub fn on_exact_grid(values: &[f64]) -> bool {
    values.iter().all(|v| (v * 64.0).fract() == 0.0)
}

/// The bound for the results of one layer in one dtype.
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
    /// The error allowed in proportion to the scale, in addition to that of the sums.
    pub stage: f64,
    /// The steepest slope of the activation, at least 1.
    pub gain: f64,
    /// The error of the activation's transcendental function, in proportion to the result.
    pub activation: f64,
    /// The absolute error of roundings whose result may be subnormal, in addition to that of the
    /// store.
    pub underflow: f64,
    /// Whether subnormal operands may count as zeros: see [`Contract::subnormals_open`].
    pub flushed: bool,
    /// Inaccuracy of the reference itself.
    pub ref_atol: f64,
    /// The error that f32 coordinates cause in interpolation.
    pub coord_atol: f64,
    /// Whether the bit-for-bit rule applies when the scale is within [`EXACT_SCALE`]: for a linear
    /// layer of one stage on multiples of 1/64.
    pub exact: bool,
}

impl Contract {
    /// The contract of one sum of `products` products.
    pub fn new(dtype: DType, products: usize) -> Self {
        let contract = Self {
            dtype,
            products,
            stage: 0.0,
            gain: 1.0,
            activation: 0.0,
            underflow: 0.0,
            flushed: false,
            ref_atol: 0.0,
            coord_atol: 0.0,
            exact: false,
        };
        // One rounding for each product, and those of the tail.
        Self { underflow: (products as f64 + TAIL_ROUNDINGS) * DType::F32.smallest_subnormal(), ..contract }
    }

    /// Allows `roundings` more roundings to T of values that are then multiplied: 2 for layers of
    /// two stages, 1 for interpolated values.
    pub fn rounded(self, roundings: usize) -> Self {
        let roundings = roundings as f64;
        let stage = self.stage + roundings * self.dtype.unit_roundoff();
        let underflow = self.underflow + roundings * self.products as f64 * self.dtype.smallest_subnormal() / 2.0;
        Self { stage, underflow, ..self }
    }

    /// Allows for factors that are themselves the result of this number of roundings in f32, as
    /// interpolated values are.
    pub fn computed(self, roundings: usize) -> Self {
        let more = self.products as f64 * roundings as f64 * DType::F32.smallest_subnormal();
        Self { underflow: self.underflow + more, ..self }
    }

    /// Allows for factors of absolute values up to `magnitude`, which multiply the errors of the
    /// other factors.
    ///
    /// ```
    /// use warpconv::{DType, numerics::Contract};
    /// let contract = Contract::new(DType::F32, 4).computed(9);
    /// assert_eq!(contract.magnified(0.5), contract);
    /// assert!(contract.magnified(1e20).bound(0.0, 0.0) > 1e19 * contract.bound(0.0, 0.0));
    /// ```
    pub fn magnified(self, magnitude: f64) -> Self {
        let magnitude = if magnitude.is_finite() { magnitude.max(1.0) } else { 1.0 };
        Self { underflow: self.underflow * magnitude, ..self }
    }

    /// Allows for products in tf32, which rounds the operands. Results of such products cannot be
    /// compared bit for bit.
    pub fn tf32(self) -> Self {
        Self { stage: self.stage + 2f64.powi(-10), exact: false, ..self }
    }

    /// Allows subnormal operands to be taken as zeros: for each product the smallest normal number
    /// times the other factor. If there are infinities, such a zero times an infinity may be NaN.
    pub fn subnormals_open(self) -> Self {
        let normal = self.dtype.smallest_subnormal() / (2.0 * self.dtype.unit_roundoff());
        Self { underflow: self.underflow + self.products as f64 * normal, flushed: true, exact: false, ..self }
    }

    /// Adds the error of `activation`'s transcendental function, if it has one.
    pub fn activation(self, activation: Activation) -> Self {
        let ulps = match activation {
            Activation::Sigmoid | Activation::Silu => EXPF_ULPS,
            Activation::Tanh => TANHF_ULPS,
            Activation::Gelu => ERFCF_ULPS,
            Activation::None
            | Activation::Relu
            | Activation::Relu6
            | Activation::LeakyRelu { .. }
            | Activation::Prelu
            | Activation::Hardswish => return Self { activation: 0.0, ..self },
        };
        // An ulp is at most 2^-23 of the number, and the correctly rounded result is off by up to
        // half an ulp.
        Self { activation: (2.0 * ulps + 1.0) * DType::F32.unit_roundoff(), ..self }
    }

    /// Allows for an activation whose steepest slope is `gain`.
    pub fn gain(self, gain: f64) -> Self {
        Self { gain: gain.max(1.0), ..self }
    }

    /// Adds the error of the reference and that of f32 coordinates. Results cannot be compared bit
    /// for bit with a reference that is not exact.
    pub fn tolerate(self, ref_atol: f64, coord_atol: f64) -> Self {
        Self { ref_atol, coord_atol, exact: self.exact && ref_atol == 0.0 && coord_atol == 0.0, ..self }
    }

    /// Switches the bit-for-bit rule on or off.
    pub fn exact(self, exact: bool) -> Self {
        Self { exact, ..self }
    }

    /// The factor of the scale in [`Contract::bound`], before the gain.
    fn of_scale(&self) -> f64 {
        2f64.powi(-23) * (8.0 + (self.products as f64).sqrt()) + self.stage
    }

    /// A scale that allows for an error of `moved` before the activation, in addition to the error
    /// in proportion to `scale`.
    ///
    /// ```
    /// use warpconv::{DType, numerics::Contract};
    /// let contract = Contract::new(DType::F16, 9);
    /// let more = contract.bound(0.0, contract.moved(2.0, 0.25)) - contract.bound(0.0, 2.0);
    /// assert!((more - 0.25).abs() < 1e-12);
    /// assert_eq!(contract.moved(2.0, 0.0), 2.0);
    /// ```
    pub fn moved(&self, scale: f64, moved: f64) -> f64 {
        scale + moved / self.of_scale()
    }

    /// How far a result may be from `reference`. An infinite scale, which special values of the
    /// input may cause, allows no error in proportion to it.
    pub fn bound(&self, reference: f64, scale: f64) -> f64 {
        let scale = if scale.is_finite() { scale } else { reference.abs() };
        (2.0 * self.dtype.unit_roundoff() + self.activation) * reference.abs()
            + self.of_scale() * self.gain * scale
            + self.ref_atol
            + self.coord_atol
            + self.dtype.smallest_subnormal()
            + self.underflow * self.gain
    }

    /// Compares results with the reference, element by element. Results are given as f32, which is
    /// exact for every dtype.
    ///
    /// NaN passes if the reference is NaN. Infinity passes if the reference is the same infinity,
    /// or if the reference, or a value within its bound, overflows T. If the absolute sum overflows
    /// f32, every result that is not finite passes, since it depends on the order of the sum.
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
        let anything = scale.is_finite() && scale > f64::from(f32::MAX) || self.flushed && !scale.is_finite();
        let ratio = match (value.is_finite(), expected.is_finite()) {
            (true, true) => (value - expected).abs() / bound,
            _ if value == expected || value.is_nan() && expected.is_nan() => 0.0,
            (false, true) if anything || value.is_infinite() && overflows() => 0.0,
            (false, false) if self.flushed && anything => 0.0,
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

/// One element of a result, compared with its reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// The element's index in row-major order.
    pub index: usize,
    /// The result.
    pub got: f64,
    /// The reference, rounded to T under the bit-for-bit rule.
    pub expected: f64,
    /// How far the result may be from the reference; 0 under the bit-for-bit rule.
    pub bound: f64,
    /// The distance divided by the bound. Above 1 the element fails. Infinite if no distance says
    /// how wrong it is.
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
    /// The number of elements compared.
    pub elements: usize,
    /// The number of elements that were compared bit for bit.
    pub exact: usize,
    /// The number of elements that fail.
    pub failures: usize,
    /// The element with the largest ratio. `None` for an empty result.
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

    /// The sum of 2304 products of 1/2 with alternating signs and of one more product, as in a 3x3
    /// convolution of 256 channels.
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
            // A looser bound than the contract's would accept this.
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
        // Overflow of f16, certain and borderline.
        assert!(passes(f32::INFINITY, 70000.0, 70000.0));
        assert!(passes(f32::INFINITY, 65519.0, 65519.0));
        assert!(passes(65504.0, 65525.0, 65525.0));
        assert!(!passes(f32::NEG_INFINITY, 65525.0, 65525.0));
        assert!(!passes(f32::INFINITY, 60000.0, 60000.0));
        // An activation that saturates.
        assert!(passes(6.0, 6.0, inf));
        assert!(!passes(5.9, 6.0, inf));
        assert!(passes(0.0, 0.0, inf));
        assert!(!passes(1e-3, 0.0, inf));
        // A sum that overflows f32 on the way.
        assert!(passes(f32::NAN, 0.0, 1e39));
        assert!(passes(2f32.powi(-24), 0.0, 0.0), "the smallest subnormal");
        assert!(!passes(2f32.powi(-23), 0.0, 0.0));
    }

    /// A sigmoid near 0 with an expf that is 2 ulp off: its error is in proportion to 0.5, whereas
    /// the scale is nearly 0.
    #[test]
    fn the_error_of_a_transcendental_function_is_allowed_and_needed() {
        for (activation, ulps) in [(Activation::Sigmoid, 2.0), (Activation::Silu, 2.0), (Activation::Tanh, 2.0), (Activation::Gelu, 4.0)] {
            let contract = Contract::new(DType::F32, 1).activation(activation);
            assert_eq!(contract.activation, (2.0 * ulps + 1.0) * 2f64.powi(-24), "{activation:?}");
        }
        let plain = Contract::new(DType::F32, 1);
        let sigmoid = plain.activation(Activation::Sigmoid);
        // exp(-z), correctly rounded, is 1 + 2^-23; two ulps above it, 1 + e is a tie as well.
        let z = -2f64.powi(-24);
        let reference = 1.0 / (1.0 + (-z).exp());
        let exp = 1.0f32 + 3.0 * 2f32.powi(-23);
        let passes = |contract: Contract, y: f32| contract.check(&[y], &[reference], &[z.abs()]).unwrap().passed();
        let within = 1.0 / (1.0 + exp);
        assert!(passes(sigmoid, within) && !passes(plain, within), "{within} for {reference}");
        // Missing work, 1e-6 of the sum, is still noticed.
        assert!(!passes(sigmoid, (reference - 1e-6) as f32));
        assert_eq!(sigmoid.activation(Activation::Relu), plain);
    }

    /// The sample of a deformable f32 convolution has a rounding for each corner; the last line of `verify --seed 7331` once was
    /// 2 subnormal steps for 0.94.
    #[test]
    fn every_rounding_of_a_sum_may_be_subnormal() {
        let step = 2f64.powi(-149);
        let passes = |contract: Contract, steps: f32, reference: f64| {
            contract.check(&[steps * 2f32.powi(-149)], &[reference * step], &[reference * step]).unwrap().passed()
        };
        let one = Contract { underflow: 0.0, ..Contract::new(DType::F32, 1) };
        assert!(!passes(one, 2.0, 0.94), "one rounding is not enough");
        assert!(passes(Contract::new(DType::F32, 1).computed(9), 2.0, 0.94));
        // Half a step for each of 8 products, all in one direction.
        assert!(passes(Contract::new(DType::F32, 8), 8.0, 4.0) && !passes(one, 8.0, 4.0));
        assert!(!passes(Contract::new(DType::F32, 8), 4000.0, 4.0));
        // Values that are rounded to f16 before a product: half of the smallest subnormal for each.
        let f16 = Contract::new(DType::F16, 64);
        let (y, scale) = (32.0 * 2f32.powi(-24), 2f64.powi(-30));
        let check = |contract: Contract| contract.check(&[y], &[0.0], &[scale]).unwrap().passed();
        assert!(check(f16.rounded(1)) && !check(f16));
    }

    #[test]
    fn subnormals_of_tensor_cores_are_open() {
        let contract = Contract::new(DType::F16, 4);
        let open = contract.subnormals_open();
        // Four products of the largest subnormal and 1, taken as zeros.
        let reference = 4.0 * (2f64.powi(-14) - 2f64.powi(-24));
        let passes =
            |contract: Contract, y: f32, reference: f64, scale: f64| contract.check(&[y], &[reference], &[scale]).unwrap().passed();
        assert!(passes(open, 0.0, reference, reference) && !passes(contract, 0.0, reference, reference));
        assert!(!passes(open, 1e-2, reference, reference));
        let inf = f64::INFINITY;
        assert!(passes(open, f32::NAN, inf, inf) && !passes(contract, f32::NAN, inf, inf));
        assert!(!passes(open, f32::NAN, 1.0, 1.0) && !passes(open, 7.0, inf, inf));
    }

    #[test]
    fn tf32_has_no_rule_bit_for_bit() {
        let contract = Contract::new(DType::F32, 1).exact(true);
        // With x = 1024.5 and w = 1: tf32 cannot represent the half at 1024.
        let passes = |contract: Contract| contract.check(&[1025.0], &[1024.5], &[1024.5]).unwrap().passed();
        assert!(!passes(contract) && passes(contract.tf32()));
        assert!(in_tf32(&[1024.0, 1.0 + 2f64.powi(-10), -63.0 / 64.0, 0.0, f64::INFINITY, f64::NAN]));
        assert!(!in_tf32(&[1024.5]) && !in_tf32(&[1.0 + 2f64.powi(-11)]) && !in_tf32(&[0.1]));
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
