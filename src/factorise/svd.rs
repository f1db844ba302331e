//! The singular value decomposition of a matrix, by the one-sided method of Jacobi: pairs of columns are rotated until all are
//! orthogonal to one another, and then their lengths are the singular values. Each comes out accurate in proportion to itself,
//! however small it is beside the largest.

use crate::error::{Error, Result};

/// A matrix by its columns, each of the same length.
pub type Columns = Vec<Vec<f64>>;

/// The matrix of `rows` x `columns` with these elements.
pub fn matrix(rows: usize, columns: usize, at: impl Fn(usize, usize) -> f64) -> Columns {
    (0..columns).map(|column| (0..rows).map(|row| at(row, column)).collect()).collect()
}

/// Singular values, in falling order, with their vectors.
pub struct Svd {
    pub values: Vec<f64>,
    /// The vectors as long as a column; of length 1, or 0 beside a singular value of 0.
    pub left: Columns,
    /// The vectors as long as a row, of length 1. Empty where vectors were not asked for.
    pub right: Columns,
}

impl Svd {
    /// Decomposes a matrix that is not empty and whose elements are f32, so that their squares stay away from the ends of f64.
    ///
    /// # Errors
    /// [`Error::Attribute`] when the rotations do not come to an end, which no matrix is known to bring about.
    pub fn new(matrix: Columns, vectors: bool) -> Result<Self> {
        let (rows, columns) = (matrix[0].len(), matrix.len());
        // fewer columns are fewer pairs
        if columns > rows {
            let transposed = self::matrix(columns, rows, |row, column| matrix[row][column]);
            let Self { values, left, right } = Self::tall(transposed, vectors)?;
            return Ok(Self { values, left: right, right: if vectors { left } else { vec![] } });
        }
        Self::tall(matrix, vectors)
    }

    fn tall(mut columns: Columns, vectors: bool) -> Result<Self> {
        /// Ten or so are usual; each after the first few doubles the digits.
        const SWEEPS: usize = 60;
        let count = columns.len();
        // what rounding makes of the product of two orthogonal columns
        let negligible = 8.0 * f64::EPSILON * (columns[0].len() as f64).sqrt();
        let mut right = if vectors { matrix(count, count, |row, column| f64::from(u8::from(row == column))) } else { vec![] };
        let mut sweep = || {
            let mut rotated = false;
            for second in 1..count {
                for first in 0..second {
                    let [a, b] = pair(&mut columns, first, second);
                    let [aa, bb, ab] = products(a, b);
                    // nothing but rounding of rounding is left of a column whose square vanishes
                    if ab.abs() <= negligible * aa.sqrt() * bb.sqrt() || aa.min(bb) < f64::MIN_POSITIVE {
                        continue;
                    }
                    rotated = true;
                    // the smaller of the two angles that make them orthogonal
                    let cotangent = (bb - aa) / (2.0 * ab);
                    let tangent = cotangent.signum() / (cotangent.abs() + cotangent.hypot(1.0));
                    let cosine = 1.0 / tangent.hypot(1.0);
                    rotate(a, b, cosine, cosine * tangent);
                    if vectors {
                        let [a, b] = pair(&mut right, first, second);
                        rotate(a, b, cosine, cosine * tangent);
                    }
                }
            }
            rotated
        };
        if (0..SWEEPS).all(|_| sweep()) {
            let value = "a matrix whose decomposition does not converge".into();
            return Err(Error::Attribute { name: "kernel", value, requirement: "one whose does" });
        }
        let lengths: Vec<f64> = columns.iter().map(|column| products(column, column)[0].sqrt()).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| lengths[b].total_cmp(&lengths[a]));
        let unit = |index: usize| columns[index].iter().map(|v| if lengths[index] > 0.0 { v / lengths[index] } else { 0.0 }).collect();
        let left = if vectors { order.iter().map(|&index| unit(index)).collect() } else { vec![] };
        let right = if vectors { order.iter().map(|&index| std::mem::take(&mut right[index])).collect() } else { vec![] };
        Ok(Self { values: order.iter().map(|&index| lengths[index]).collect(), left, right })
    }
}

fn pair(columns: &mut [Vec<f64>], first: usize, second: usize) -> [&mut [f64]; 2] {
    let (before, from) = columns.split_at_mut(second);
    [&mut before[first], &mut from[0]]
}

/// a * a, b * b and a * b, each in several sums that the compiler can keep in one vector.
fn products(a: &[f64], b: &[f64]) -> [f64; 3] {
    const LANES: usize = 4;
    let mut sums = [[0.0; LANES]; 3];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest = rest.fold([0.0; 3], |[aa, bb, ab], (a, b)| [aa + a * a, bb + b * b, ab + a * b]);
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[0][lane] += a[lane] * a[lane];
            sums[1][lane] += b[lane] * b[lane];
            sums[2][lane] += a[lane] * b[lane];
        }
    }
    std::array::from_fn(|index| sums[index].iter().sum::<f64>() + rest[index])
}

fn rotate(a: &mut [f64], b: &mut [f64], cosine: f64, sine: f64) {
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn known_values() {
        let values = |rows: &[&[f64]]| Svd::new(matrix(rows.len(), rows[0].len(), |i, j| rows[i][j]), false).unwrap().values;
        assert_eq!(values(&[&[0.0, 0.0], &[0.0, 0.0], &[0.0, 0.0]]), [0.0, 0.0]);
        assert_eq!(values(&[&[3.0, 4.0]]), [5.0]);
        assert_eq!(values(&[&[0.0, -2.0], &[1.0, 0.0]]), [2.0, 1.0]);
        // far apart, where the square of the smaller one is lost beside that of the larger
        let [large, small] = values(&[&[1e30, 1e30], &[1e-30, -1e-30]])[..] else { panic!("two values") };
        assert!(
            (large / (2f64.sqrt() * 1e30) - 1.0).abs() < 1e-14 && (small / (2f64.sqrt() * 1e-30) - 1.0).abs() < 1e-14,
            "{large} {small}"
        );
        // Hilbert's matrix of order 8: the condition number is 1.526e10
        let hilbert = Svd::new(matrix(8, 8, |i, j| 1.0 / (i + j + 1) as f64), false).unwrap().values;
        assert!(
            (hilbert[0] - 1.695_938_996_921_948).abs() < 1e-14 && (hilbert[7] / 1.111_538_966_372_45e-10 - 1.0).abs() < 1e-4,
            "{hilbert:?}"
        );
    }

    proptest! {
        /// Whole matrices of any rank, also with equal, dependent and empty columns.
        #[test]
        fn the_factors_make_up_the_matrix(rows in 1usize..12, columns in 1usize..12, rank in 0usize..12, seed in 0u32..1000) {
            let element = |index: usize| f64::from((index as u32).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 29) - 3.0;
            let of_rank = |i: usize, j: usize| (0..rank).map(|k| element(i * 12 + k) * element(1000 + j * 12 + k)).sum::<f64>();
            let dense = matrix(rows, columns, of_rank);
            let svd = Svd::new(dense.clone(), true).unwrap();
            prop_assert!(svd.values.is_sorted_by(|a, b| a >= b) && svd.values.len() == rows.min(columns));
            let close = 1e-13 * (1.0 + svd.values[0]);
            for (j, column) in dense.iter().enumerate() {
                for (i, value) in column.iter().enumerate() {
                    let product: f64 = (0..svd.values.len()).map(|k| svd.left[k][i] * svd.values[k] * svd.right[k][j]).sum();
                    prop_assert!((product - value).abs() < close, "{product} {value}");
                }
            }
            prop_assert!(svd.values.iter().skip(rank).all(|&value| value < close), "{:?}", svd.values);
            for (a, b) in (0..svd.values.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                // one of the two holds the columns that were rotated, which are rounding alone beyond the rank
                for vectors in [&svd.left, &svd.right] {
                    prop_assert!(a >= rank || dot(&vectors[a], &vectors[b]).abs() < 1e-12);
                }
            }
            let values = Svd::new(dense, false).unwrap().values;
            prop_assert_eq!(values, svd.values);
        }
    }
}
