//! Filters as products of smaller filters, for [`crate::SpatiallySeparableConv2d`].
//!
//! A filter `k[i, j] = column[i] * row[j]` is *separable*: its matrix has rank 1, and all rows are
//! multiples of one another. Convolving with the column and then with the row needs kh + kw
//! products instead of kh * kw: 6 instead of 9 for 3x3, for the same result. [`separate`] finds the
//! factors, or says how far the filter is from being separable. Few filters of a trained network
//! are separable, but a dense layer can be approximated by separable filters over `c_mid` channels
//! ([`low_rank`]). [`ranks`] tells what each `c_mid` costs and how large its error is, and which is
//! the fastest within an error.
//!
//! ```
//! use warpconv::factorise::separate;
//! use warpconv::{Error, Parameter};
//! # fn main() -> warpconv::Result<()> {
//! let sobel = separate(&Parameter::new(&[3, 3], &[1f32, 0., -1., 2., 0., -2., 1., 0., -1.])?)?;
//! assert_eq!(sobel.column.values(), [1., 2., 1.]);
//! assert_eq!(sobel.row.values(), [1., 0., -1.]);
//!
//! let laplace = separate(&Parameter::new(&[3, 3], &[0f32, 1., 0., 1., -4., 1., 0., 1., 0.])?);
//! assert!(matches!(laplace, Err(Error::NotSeparable { .. })));
//! # Ok(())
//! # }
//! ```

use crate::error::{Error, Result};
use crate::geometry::{ConvGeometry, positive};
use crate::kernels::{conv2d, separable};
use crate::layers::{Conv2dSpec, Parameter, PlanRequest, SpatiallySeparableSpec};
use crate::{Device, Element, Shape, memory};
use nalgebra::{DMatrix, DVector, SVD};

/// A filter of rank 1: `column[i] * row[j]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Separated {
    /// The vertical factor `[kh]`.
    pub column: Parameter,
    /// The horizontal factor `[kw]`.
    pub row: Parameter,
    /// The second singular value of the filter: 0 if the factors are exact.
    pub error: f64,
}

impl Separated {
    /// The weights `col_weight` [C, 1, kh, 1] and `row_weight` [C, 1, 1, kw] of a
    /// [`crate::SpatiallySeparableConv2d`] with `groups: channels` that applies the filter to each
    /// channel.
    ///
    /// # Errors
    /// [`Error::Overflow`]; [`Error::OutOfMemory`].
    pub fn depthwise_weights(&self, channels: usize) -> Result<(Parameter, Parameter)> {
        let (kh, kw) = (self.column.values().len(), self.row.values().len());
        let repeated = |shape: [usize; 4], factor: &Parameter| {
            let mut values = memory::with_capacity(crate::geometry::elements(&shape)?)?;
            (0..channels).for_each(|_| values.extend_from_slice(factor.values()));
            Parameter::from_values(&shape, values)
        };
        Ok((repeated([channels, 1, kh, 1], &self.column)?, repeated([channels, 1, 1, kw], &self.row)?))
    }
}

/// The factors of a separable filter [kh, kw].
///
/// A filter is separable if every row is a multiple of one row. This is tested without rounding:
/// `k[i, j] * k[p, q] = k[i, q] * k[p, j]` for all i and j, where `k[p, q]` is the largest element.
/// The factors are then exact, and the row consists of the smallest whole numbers in its
/// proportions: integer filters have integer factors, and Gauss's `[1 2 1; 2 4 2; 1 2 1] / 16` has
/// `[1 2 1] / 16` and `[1 2 1]`.
///
/// A filter whose elements were rounded to f32, such as a sampled Gaussian, counts as separable if
/// its second singular value is at most what that rounding causes, `2^-23` of the first. Its
/// factors come from the singular value decomposition. Both have the same norm, and
/// [`Separated::error`] says what remains.
///
/// # Errors
/// [`Error::NotSeparable`] with the first two singular values; [`Error::Rank`];
/// [`Error::Attribute`] for a filter that is empty or not finite.
pub fn separate(kernel: &Parameter) -> Result<Separated> {
    let &[kh, kw] = kernel.shape() else {
        return Err(Error::Rank { name: "kernel", shape: kernel.shape().to_vec(), expected: 2, meaning: "[kernel height, kernel width]" });
    };
    positive("kernel height", kh)?;
    positive("kernel width", kw)?;
    check_finite(kernel)?;
    let at = |i: usize, j: usize| f64::from(kernel.values()[i * kw + j]);
    // The first of the largest elements: of equal ones, `max_by` takes the last.
    let largest = (0..kh * kw).rev().max_by(|&a, &b| at(a / kw, a % kw).abs().total_cmp(&at(b / kw, b % kw).abs())).unwrap_or_default();
    let (p, q) = (largest / kw, largest % kw);
    // Products of two f32 are exact in f64.
    if (0..kh).all(|i| (0..kw).all(|j| at(i, j) * at(p, q) == at(i, q) * at(p, j))) {
        let row: Vec<f64> = (0..kw).map(|j| at(p, j)).collect();
        let unit = common_unit(&row);
        let row: Vec<f64> = row.iter().map(|v| v / unit).collect();
        let column: Vec<f64> = (0..kh).map(|i| if row[q] == 0.0 { 0.0 } else { at(i, q) / row[q] + 0.0 }).collect();
        return Ok(Separated { column: vector(&column), row: vector(&row), error: 0.0 });
    }
    let matrix = DMatrix::from_fn(kh, kw, at);
    let svd = Decomposition::new(matrix.clone(), true)?;
    let (first, second) = (svd.values[0], svd.values[1]);
    if second > first * f64::from(f32::EPSILON) {
        return Err(Error::NotSeparable { first, second });
    }
    // The decomposition turns a pair of singular vectors by up to 1e-6 if their values are far
    // apart. One step of the power iteration reduces that error by the factor (second / first)^2.
    let left = (&matrix * svd.right(0)).normalize();
    let right = matrix.tr_mul(&left).normalize();
    let scale = first.sqrt();
    // The sign is free: the largest element of the row is made positive.
    let sign = right[right.iamax()].signum();
    let scaled = |factor: DVector<f64>| vector(&factor.iter().map(|v| v * scale * sign).collect::<Vec<_>>());
    Ok(Separated { column: scaled(left), row: scaled(right), error: second })
}

/// A dense layer, approximated by a vertical and a horizontal layer with `c_mid` channels between
/// them.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// The vertical weight [c_mid, C_in, kh, 1].
    pub col_weight: Parameter,
    /// The horizontal weight [C_out, c_mid, 1, kw].
    pub row_weight: Parameter,
    /// All singular values of the dense filter, in descending order. The square of each is what one
    /// more channel would add to the approximation.
    pub singular_values: Vec<f64>,
    /// The distance of the dense filter from its approximation: the square root of the sum of
    /// squares over all elements, which is that of the singular values that were left out.
    pub error: f64,
}

/// The best approximation of a dense filter [C_out, C_in, kh, kw] by a vertical filter followed by
/// a horizontal one, with `c_mid` channels between them:
///
/// `w[o, c, i, j] = sum over m of col[m, c, i] * row[o, m, j]` + the smallest possible remainder.
///
/// The filter, written as a matrix [(c, i), (o, j)], has singular values. The `c_mid` largest are
/// kept, with the square root of each in either factor (Eckart and Young: no other choice of
/// `c_mid` channels leaves less). With `c_mid = min(C_in * kh, C_out * kw)` only rounding remains.
/// The number of parameters falls from `C_out * C_in * kh * kw` to
/// `c_mid * (C_in * kh + C_out * kw)`.
///
/// The factors are for a [`crate::SpatiallySeparableConv2d`] with the stride, padding and dilation
/// of the dense layer, whose bias becomes the `row_bias`.
///
/// Source: Jaderberg, Vedaldi and Zisserman, "Speeding up Convolutional Neural Networks with Low Rank Expansions", 2014 (their
/// second scheme).
///
/// ```
/// use warpconv::Parameter;
/// use warpconv::factorise::low_rank;
/// # fn main() -> warpconv::Result<()> {
/// let weight: Vec<f32> = (0..8 * 4 * 9).map(|i| ((i * 7919) % 127) as f32 / 64.0 - 1.0).collect();
/// let dense = Parameter::new(&[8, 4, 3, 3], &weight)?;
/// let half = low_rank(&dense, 6)?;
/// assert_eq!((half.col_weight.shape(), half.row_weight.shape()), (&[6, 4, 3, 1][..], &[8, 6, 1, 3][..]));
/// let left: f64 = half.singular_values[6..].iter().map(|s| s * s).sum();
/// assert!((half.error - left.sqrt()).abs() < 1e-12);
/// assert!(low_rank(&dense, 12)?.error < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Rank`]; [`Error::Attribute`] for a filter that is empty or not finite, and for a `c_mid` of 0 or above
/// `min(C_in * kh, C_out * kw)`.
pub fn low_rank(kernel: &Parameter, c_mid: usize) -> Result<LowRank> {
    let ([c_out, c_in, kh, kw], matrix) = unfolded(kernel)?;
    let most = matrix.nrows().min(matrix.ncols());
    if !(1..=most).contains(&c_mid) {
        let value = format!("{c_mid}, where the filter has at most {most} singular values");
        return Err(Error::Attribute { name: "c_mid", value, requirement: "at least 1 and at most min(C_in * kh, C_out * kw)" });
    }
    let svd = Decomposition::new(matrix.clone(), true)?;
    let mut col_weight = memory::filled(c_mid * c_in * kh, 0f32)?;
    let mut row_weight = memory::filled(c_out * c_mid * kw, 0f32)?;
    for m in 0..c_mid {
        let (scale, right) = (svd.values[m].sqrt(), svd.right(m));
        // The projection on the right vector is nearer to the filter than the decomposition's own
        // left vector.
        for (index, value) in (&matrix * &right).iter().enumerate() {
            col_weight[m * c_in * kh + index] = if scale > 0.0 { (value / scale) as f32 } else { 0.0 };
        }
        for (index, value) in right.iter().enumerate() {
            let (o, j) = (index / kw, index % kw);
            row_weight[(o * c_mid + m) * kw + j] = (value * scale) as f32;
        }
    }
    Ok(LowRank {
        col_weight: Parameter::from_values(&[c_mid, c_in, kh, 1], col_weight)?,
        row_weight: Parameter::from_values(&[c_out, c_mid, 1, kw], row_weight)?,
        error: svd.values[c_mid..].iter().map(|s| s * s).sum::<f64>().sqrt(),
        singular_values: svd.values,
    })
}

/// The cost of one way to compute a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Multiply-adds of the whole batch. Each is two FLOPs.
    pub macs: u64,
    /// The estimated time of the plan that the layer would get, by the device's cost model, as in
    /// [`crate::Explanation::choices`]. It serves to compare, not to predict.
    pub seconds: f64,
}

/// A number of channels between the two stages of [`low_rank`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rank {
    /// The number of channels.
    pub c_mid: usize,
    /// The relative error of the filter: [`LowRank::error`] divided by the filter's own norm,
    /// between 0 and 1.
    pub relative_error: f64,
    /// The cost of both stages.
    pub cost: Cost,
}

/// A dense layer, compared with each of its low-rank approximations.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranks {
    /// The cost of the dense layer.
    pub dense: Cost,
    /// One entry for each `c_mid` from 1 to `min(C_in * kh, C_out * kw)`.
    pub ranks: Vec<Rank>,
}

impl Ranks {
    /// The fastest approximation, by estimate, whose relative error is at most `tolerance`. Of
    /// equally fast ones it is the one with the most channels, whose error is the smallest. `None`
    /// if the dense layer, which has no error, is estimated to be as fast.
    ///
    /// Cost grows in steps: kernels multiply whole tiles of channels, so 24 may take as long as 32.
    pub fn fastest_within(&self, tolerance: f64) -> Option<Rank> {
        let within = self.ranks.iter().filter(|rank| rank.relative_error <= tolerance && rank.cost.seconds < self.dense.seconds);
        within.min_by(|a, b| a.cost.seconds.total_cmp(&b.cost.seconds).then(b.c_mid.cmp(&a.c_mid))).copied()
    }
}

/// The error and the cost of each number of channels between the two stages of [`low_rank`], for a
/// dense filter [C_out, C_in, kh, kw] in dtype `T` and the input of `request` (its shape [N, C_in,
/// H, W] and formats), compared with the dense layer.
///
/// `spec` has the stride, padding and dilation of the dense layer. Nothing is run, and no weight is
/// packed. The relative error is that of the filter, in the Frobenius norm. How it affects a
/// network's accuracy must be measured on that network.
///
/// ```
/// use warpconv::factorise::{low_rank, ranks};
/// use warpconv::half::f16;
/// use warpconv::{Device, MemoryFormat, Padding, Parameter, PlanRequest, SpatiallySeparableSpec};
/// # fn main() -> warpconv::Result<()> {
/// // 64 filters on 64 channels, smooth over channels and pixels alike
/// let value = |i: usize| (((i / 9 % 64) as f32 - (i / 576) as f32) / 20.0 + (i / 3 % 3) as f32 * (i % 3) as f32).cos();
/// let dense = Parameter::new(&[64, 64, 3, 3], &(0..64 * 64 * 9).map(value).collect::<Vec<_>>())?;
/// let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
/// let request = PlanRequest::new([8, 64, 56, 56]).format(MemoryFormat::ChannelsLast);
/// let found = ranks::<f16>(&dense, &spec, &Device::best()?, &request)?;
/// assert_eq!(found.ranks.len(), 192);
/// if let Some(rank) = found.fastest_within(0.01) {
///     let factors = low_rank(&dense, rank.c_mid)?; // for a SpatiallySeparableConv2d
///     assert_eq!(factors.col_weight.shape(), [rank.c_mid, 64, 3, 1]);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`low_rank`]; [`Error::Attribute`] for a `spec` with several groups, since the factors are
/// dense; as [`SpatiallySeparableSpec::geometries`]; [`Error::Limit`] for sizes that no kernel
/// takes.
pub fn ranks<T: Element>(kernel: &Parameter, spec: &SpatiallySeparableSpec, device: &Device, request: &PlanRequest) -> Result<Ranks> {
    let SpatiallySeparableSpec { stride, padding, dilation, groups, activation } = *spec;
    if groups != 1 {
        return Err(Error::Attribute { name: "groups", value: groups.to_string(), requirement: "1: the factors are dense" });
    }
    let ([c_out, c_in, kh, kw], matrix) = unfolded(kernel)?;
    let geometry = ConvGeometry::conv2d(&Conv2dSpec { stride, padding, dilation, groups, activation }, request.x, [c_out, c_in, kh, kw])?;
    let dense = Cost { macs: geometry.macs()?, seconds: conv2d::time::<T>(device, request, geometry, true)?.seconds };
    let singular_values = Decomposition::new(matrix, false)?.values;
    // The smallest are added first, so that none is lost beside a large one.
    let mut left: Vec<f64> = singular_values.iter().rev().scan(0.0, |sum, s| Some(std::mem::replace(sum, *sum + s * s))).collect();
    left.reverse();
    let energy: f64 = singular_values.iter().rev().map(|s| s * s).sum();
    let rank = |(index, &left): (usize, &f64)| {
        let c_mid = index + 1;
        let geometries = spec.geometries(request.x, [c_mid, c_in, kh, 1], [c_out, c_mid, 1, kw])?;
        let relative_error = if energy > 0.0 { (left / energy).sqrt() } else { 0.0 };
        let [column, row] = [geometries[0].macs()?, geometries[1].macs()?];
        let macs = column
            .checked_add(row)
            .ok_or_else(|| Error::Overflow { what: "the number of multiply-adds", values: format!("{column} + {row}") })?;
        Ok(Rank { c_mid, relative_error, cost: Cost { macs, seconds: separable::spatial_seconds::<T>(device, request, geometries)? } })
    };
    Ok(Ranks { dense, ranks: left.iter().enumerate().map(rank).collect::<Result<_>>()? })
}

/// The shape [C_out, C_in, kh, kw] of a dense filter, and the filter as a matrix [(c, i), (o, j)].
fn unfolded(kernel: &Parameter) -> Result<(Shape, DMatrix<f64>)> {
    let &[c_out, c_in, kh, kw] = kernel.shape() else {
        let (shape, meaning) = (kernel.shape().to_vec(), "[C_out, C_in, kernel height, kernel width]");
        return Err(Error::Rank { name: "kernel", shape, expected: 4, meaning });
    };
    for (name, size) in [("C_out", c_out), ("C_in", c_in), ("kernel height", kh), ("kernel width", kw)] {
        positive(name, size)?;
    }
    check_finite(kernel)?;
    let at = |row: usize, column: usize| {
        let (c, i, o, j) = (row / kh, row % kh, column / kw, column % kw);
        f64::from(kernel.values()[((o * c_in + c) * kh + i) * kw + j])
    };
    let (rows, columns) = (c_in * kh, c_out * kw);
    // The decomposition holds the matrix and both factors.
    memory::check(rows.saturating_mul(columns).saturating_mul(3 * size_of::<f64>()))?;
    Ok(([c_out, c_in, kh, kw], DMatrix::from_fn(rows, columns, at)))
}

/// A singular value decomposition with the values in descending order, and with vectors only if
/// they are asked for.
struct Decomposition {
    values: Vec<f64>,
    svd: SVD<f64, nalgebra::Dyn, nalgebra::Dyn>,
}

impl Decomposition {
    fn new(matrix: DMatrix<f64>, vectors: bool) -> Result<Self> {
        /// Iterations for each row and column. It takes two or three.
        const STEPS: usize = 1000;
        let steps = STEPS * (matrix.nrows() + matrix.ncols());
        let failed = || Error::Attribute {
            name: "kernel",
            value: "a matrix whose decomposition does not converge".into(),
            requirement: "one whose does",
        };
        let svd = SVD::try_new(matrix, false, vectors, f64::EPSILON, steps).ok_or_else(failed)?;
        Ok(Self { values: svd.singular_values.iter().copied().collect(), svd })
    }

    fn right(&self, index: usize) -> DVector<f64> {
        self.svd.v_t.as_ref().map_or_else(|| DVector::zeros(0), |v| v.row(index).transpose())
    }
}

fn vector(values: &[f64]) -> Parameter {
    Parameter::vector(&values.iter().map(|&v| v as f32).collect::<Vec<_>>())
}

fn check_finite(kernel: &Parameter) -> Result<()> {
    kernel.check_kept("its factors")?;
    match kernel.values().iter().find(|v| !v.is_finite()) {
        Some(value) => Err(Error::Attribute { name: "a kernel's element", value: value.to_string(), requirement: "finite" }),
        None => Ok(()),
    }
}

/// The largest number of which all values, each an f32, are whole multiples; 1 if all are 0.
/// Dividing by it is exact.
fn common_unit(values: &[f64]) -> f64 {
    let mut unit: Option<(u64, i32)> = None; // an odd number times a power of 2
    for &value in values.iter().filter(|v| **v != 0.0) {
        let bits = value.abs().to_bits();
        let mantissa = bits & ((1 << 52) - 1) | 1 << 52; // as an f64, every f32 is normal
        let exponent = (bits >> 52) as i32 - 1075 + mantissa.trailing_zeros() as i32;
        let odd = mantissa >> mantissa.trailing_zeros();
        unit = Some(unit.map_or((odd, exponent), |(divisor, least)| (greatest_common_divisor(divisor, odd), least.min(exponent))));
    }
    unit.map_or(1.0, |(divisor, exponent)| divisor as f64 * 2f64.powi(exponent))
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kernel<const W: usize>(rows: &[[f32; W]]) -> Parameter {
        Parameter::new(&[rows.len(), W], rows.as_flattened()).unwrap()
    }

    fn product(s: &Separated) -> Vec<f32> {
        s.column.values().iter().flat_map(|c| s.row.values().iter().map(move |r| c * r)).collect()
    }

    #[test]
    fn integer_filters_have_integer_factors() {
        let gauss = kernel(&[[1., 2., 1.], [2., 4., 2.], [1., 2., 1.]]);
        let s = separate(&gauss).unwrap();
        assert_eq!((s.column.values(), s.row.values(), s.error), (&[1., 2., 1.][..], &[1., 2., 1.][..], 0.0));
        let sixteenth = Parameter::new(&[3, 3], &gauss.values().iter().map(|v| v / 16.0).collect::<Vec<_>>()).unwrap();
        let s = separate(&sixteenth).unwrap();
        assert_eq!((s.column.values(), s.row.values()), (&[1. / 16., 2. / 16., 1. / 16.][..], &[1., 2., 1.][..]));
        let s = separate(&kernel(&[[-1., 0., 1.], [-2., 0., 2.], [-1., 0., 1.]])).unwrap();
        assert_eq!((s.column.values(), s.row.values()), (&[1., 2., 1.][..], &[-1., 0., 1.][..]));
        // Scharr, vertical.
        let s = separate(&kernel(&[[3., 10., 3.], [0., 0., 0.], [-3., -10., -3.]])).unwrap();
        assert_eq!((s.column.values(), s.row.values()), (&[1., 0., -1.][..], &[3., 10., 3.][..]));
        let s = separate(&kernel(&[[6., -9.]])).unwrap();
        assert_eq!((s.column.values(), s.row.values()), (&[3.][..], &[2., -3.][..]));
        let s = separate(&kernel(&[[0., 0.], [0., 0.]])).unwrap();
        assert_eq!(product(&s), [0.0; 4]);
        // Values that are far apart.
        let s = separate(&kernel(&[[f32::MIN_POSITIVE, 1.5], [2.0 * f32::MIN_POSITIVE, 3.0]])).unwrap();
        assert_eq!(product(&s), [f32::MIN_POSITIVE, 1.5, 2.0 * f32::MIN_POSITIVE, 3.0]);
    }

    #[test]
    fn what_is_not_separable_is_refused_with_its_singular_values() {
        let laplace = kernel(&[[0., 1., 0.], [1., -4., 1.], [0., 1., 0.]]);
        let Err(Error::NotSeparable { first, second }) = separate(&laplace) else { panic!("Laplace has rank 2") };
        // The eigenvalues of the symmetric matrix are -2 +- sqrt 6 and 0.
        assert!((first - (2.0 + 6f64.sqrt())).abs() < 1e-12 && (second - (6f64.sqrt() - 2.0)).abs() < 1e-12, "{first} {second}");
        let text = separate(&laplace).unwrap_err().to_string();
        assert!(text.contains("0.449"), "{text}");
        assert!(matches!(separate(&kernel(&[[1., 0.], [0., 1.]])), Err(Error::NotSeparable { .. })));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        assert!(matches!(separate(&Parameter::vector(&[1f32])), Err(Error::Rank { expected: 2, .. })));
        assert!(matches!(separate(&Parameter::new::<f32>(&[0, 3], &[]).unwrap()), Err(Error::Attribute { name: "kernel height", .. })));
        assert!(matches!(separate(&kernel(&[[f32::NAN]])), Err(Error::Attribute { .. })));
        let dense = Parameter::new(&[2, 1, 2, 2], &[1f32; 8]).unwrap();
        assert!(matches!(low_rank(&kernel(&[[1.]]), 1), Err(Error::Rank { expected: 4, .. })));
        assert!(matches!(low_rank(&dense, 0), Err(Error::Attribute { name: "c_mid", .. })));
        assert!(matches!(low_rank(&dense, 3), Err(Error::Attribute { name: "c_mid", .. })));
        let infinite = Parameter::new(&[1, 1, 1, 1], &[f32::INFINITY]).unwrap();
        assert!(matches!(low_rank(&infinite, 1), Err(Error::Attribute { .. })));
    }

    #[test]
    fn factors_are_exact_where_singular_values_lie_far_apart() {
        // The second singular value is 1e-11 of the first.
        let (column, row) = ([0.13941194f32, 0.52502817], [0.23396523f32, 0.6663894]);
        let values = [column[0] * row[0], column[0] * row[1], column[1] * row[0], column[1] * row[1]];
        let s = separate(&Parameter::new(&[2, 2], &values).unwrap()).unwrap();
        assert!(product(&s).iter().zip(&values).all(|(a, b)| (a - b).abs() <= f32::EPSILON * b), "{:?}", product(&s));
    }

    #[test]
    fn a_sampled_gaussian_is_separable_up_to_its_rounding() {
        let gauss = |i: usize, j: usize| (-((i as f64 - 3.0).powi(2) + (j as f64 - 2.0).powi(2)) / 3.7).exp() as f32;
        let values: Vec<f32> = (0..7 * 5).map(|index| gauss(index / 5, index % 5)).collect();
        let s = separate(&Parameter::new(&[7, 5], &values).unwrap()).unwrap();
        assert!(s.error > 0.0 && s.error < 1e-6);
        assert!(product(&s).iter().zip(&values).all(|(a, b)| (a - b).abs() < 3e-7));
    }

    proptest! {
        #[test]
        fn products_of_integers_are_recovered(
            column in prop::collection::vec(-99i32..=99, 1..8), row in prop::collection::vec(-99i32..=99, 1..8), power in -20i32..20,
        ) {
            let scale = 2f32.powi(power);
            let values: Vec<f32> = column.iter().flat_map(|c| row.iter().map(move |r| (c * r) as f32 * scale)).collect();
            let s = separate(&Parameter::new(&[column.len(), row.len()], &values).unwrap()).unwrap();
            prop_assert_eq!(product(&s), values);
            prop_assert_eq!(s.error, 0.0);
        }

        #[test]
        fn products_of_rounded_numbers_are_recovered(
            column in prop::collection::vec(0.1f32..1.0, 2..8), row in prop::collection::vec(0.1f32..1.0, 2..8),
        ) {
            let values: Vec<f32> = column.iter().flat_map(|c| row.iter().map(move |r| c * r)).collect();
            let s = separate(&Parameter::new(&[column.len(), row.len()], &values).unwrap()).unwrap();
            prop_assert!(product(&s).iter().zip(&values).all(|(a, b)| (a - b).abs() <= 4.0 * f32::EPSILON));
        }

        #[test]
        fn the_error_is_that_of_the_singular_values_left_out(
            shape in [1usize..5, 1usize..5, 1usize..4, 1usize..4], share in 0.0f64..1.0, seed in 0u32..1000,
        ) {
            let [c_out, c_in, kh, kw] = shape;
            let element = |index: usize| ((index as u32).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 12) as f32 / 524_288.0 - 1.0;
            let values: Vec<f32> = (0..c_out * c_in * kh * kw).map(element).collect();
            let most = (c_in * kh).min(c_out * kw);
            let c_mid = 1 + (share * most as f64) as usize % most;
            let found = low_rank(&Parameter::new(&shape, &values).unwrap(), c_mid).unwrap();
            let mut left = 0.0;
            for (index, &value) in values.iter().enumerate() {
                let (o, c, i, j) = (index / (c_in * kh * kw), index / (kh * kw) % c_in, index / kw % kh, index % kw);
                let products = (0..c_mid).map(|m| {
                    f64::from(found.col_weight.values()[(m * c_in + c) * kh + i]) * f64::from(found.row_weight.values()[(o * c_mid + m) * kw + j])
                });
                left += (f64::from(value) - products.sum::<f64>()).powi(2);
            }
            prop_assert!((left.sqrt() - found.error).abs() < 1e-5, "{} {}", left.sqrt(), found.error);
            let energy: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            let all: f64 = found.singular_values.iter().map(|s| s * s).sum();
            prop_assert!((energy - all).abs() < 1e-9 * (1.0 + energy));
            prop_assert!(found.singular_values.is_sorted_by(|a, b| a >= b));
        }
    }
}
