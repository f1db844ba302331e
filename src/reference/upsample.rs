//! Bilinear interpolation.

use super::Array;
use crate::error::{Error, Result};
use crate::memory;
use crate::{UpsampleBilinearSpec, UpsampleSize};

/// Bilinear interpolation to another size: `y[p, q]` is blended from the four pixels around the
/// position of (p, q) in x.
///
/// Along each axis, output p is at `max((p + 0.5) * s - 0.5, 0)`, where s is input / output, or 1 /
/// scale if a scale is given. With `align_corners` it is at `p * (input - 1) / (output - 1)`, or at
/// 0 if output is 1. The neighbours are the floor of that position and the next pixel, at most the
/// last. Positions and weights are f32, as in PyTorch and in the kernels, since they are part of
/// the definition. The blending is f64.
///
/// ```
/// use warpconv::reference::{Array, upsample_bilinear};
/// use warpconv::{UpsampleBilinearSpec, UpsampleSize};
/// let x = Array::new([1, 1, 1, 2], vec![0.0, 4.0])?;
/// let spec = UpsampleBilinearSpec { size: UpsampleSize::Scale([1.0, 2.0]), align_corners: false };
/// assert_eq!(upsample_bilinear(&spec, &x)?.data(), [0.0, 1.0, 3.0, 4.0]);
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// [`Error::Rank`]; [`Error::Attribute`] for an empty input or output or a scale that is not positive; [`Error::Overflow`];
/// [`Error::OutOfMemory`].
pub fn upsample_bilinear(spec: &UpsampleBilinearSpec, x: &Array) -> Result<Array> {
    let [n, c, h, w] = x.dimensions("x", "[N, C, H, W]")?;
    let rows = positions(spec, 0, h)?;
    let columns = positions(spec, 1, w)?;
    let outputs = crate::geometry::elements(&[n, c, rows.len(), columns.len()])?;
    let mut values = memory::with_capacity(outputs)?;
    for plane in 0..n * c {
        let at = |row: usize, column: usize| x.data()[(plane * h + row) * w + column];
        for &(top, bottom, down) in &rows {
            for &(left, right, along) in &columns {
                let upper = (1.0 - along) * at(top, left) + along * at(top, right);
                let lower = (1.0 - along) * at(bottom, left) + along * at(bottom, right);
                values.push((1.0 - down) * upper + down * lower);
            }
        }
    }
    Array::new([n, c, rows.len(), columns.len()], values)
}

/// For each output along an axis: its two neighbours, and the weight of the second.
fn positions(spec: &UpsampleBilinearSpec, axis: usize, input: usize) -> Result<Vec<(usize, usize, f64)>> {
    let wrong = |name, value: String, requirement| Error::Attribute { name, value, requirement };
    if input == 0 {
        return Err(wrong("the input size", "0".into(), "at least 1"));
    }
    let (output, step) = match spec.size {
        UpsampleSize::Output(size) => (size[axis], input as f32 / size[axis] as f32),
        UpsampleSize::Scale(scale) if scale[axis] > 0.0 && scale[axis].is_finite() => {
            ((input as f64 * scale[axis]) as usize, (1.0 / scale[axis]) as f32)
        }
        UpsampleSize::Scale(scale) => return Err(wrong("scale", scale[axis].to_string(), "positive and finite")),
    };
    if output == 0 {
        return Err(wrong("the output size", "0".into(), "at least 1"));
    }
    let place = |p: usize| {
        let position = match (spec.align_corners, output) {
            (true, 1) => 0.0,
            (true, _) => ((input - 1) as f32 / (output - 1) as f32) * p as f32,
            (false, _) => (step * (p as f32 + 0.5) - 0.5).max(0.0),
        };
        let first = (position.floor() as usize).min(input - 1);
        (first, (first + 1).min(input - 1), f64::from(position - first as f32))
    };
    memory::collect((0..output).map(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upsample(size: UpsampleSize, align_corners: bool, x: &[f64]) -> Vec<f64> {
        let x = Array::new([1, 1, 1, x.len()], x.to_vec()).unwrap();
        upsample_bilinear(&UpsampleBilinearSpec { size, align_corners }, &x).unwrap().into_data()
    }

    #[test]
    fn known_values() {
        let to = |columns| UpsampleSize::Output([1, columns]);
        assert_eq!(upsample(to(4), false, &[0.0, 4.0]), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(upsample(to(5), true, &[0.0, 4.0]), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(upsample(to(1), true, &[3.0, 4.0]), [3.0]);
        assert_eq!(upsample(to(1), false, &[3.0, 4.0]), [3.5]);
        assert_eq!(upsample(to(2), false, &[1.0, 3.0, 5.0, 7.0]), [2.0, 6.0]);
        // floor(3 * 1.5) = 4 columns, in steps of 1 / 1.5 of a pixel and not of 3 / 4.
        let scaled = upsample(UpsampleSize::Scale([1.0, 1.5]), false, &[0.0, 3.0, 6.0]);
        assert!(scaled.iter().zip([0.0, 1.5, 3.5, 5.5]).all(|(a, b)| (a - b).abs() < 1e-5), "{scaled:?}");
    }

    #[test]
    fn nothing_cannot_be_interpolated() {
        let spec = |size| UpsampleBilinearSpec { size, align_corners: false };
        let x = Array::zeros([1, 1, 2, 2]).unwrap();
        for size in [UpsampleSize::Output([0, 2]), UpsampleSize::Scale([0.25, 1.0]), UpsampleSize::Scale([f64::NAN, 1.0])] {
            assert!(matches!(upsample_bilinear(&spec(size), &x), Err(Error::Attribute { .. })), "{size:?}");
        }
        let empty = Array::zeros([1, 1, 0, 2]).unwrap();
        assert!(upsample_bilinear(&spec(UpsampleSize::Output([2, 2])), &empty).is_err());
    }
}
