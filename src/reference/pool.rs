//! Pooling.

use super::Array;
use crate::error::{Error, Result};
use crate::memory;
use crate::{AdaptiveAvgPool2dSpec, AvgPool2dSpec, MaxPool2dSpec};
use std::iter::StepBy;
use std::ops::Range;

/// The pixels of the input in a window along one axis, and the number of pixels with those in the
/// padding.
struct Window {
    pixels: StepBy<Range<usize>>,
    padded: usize,
}

/// The largest pixel of each window. Pixels in the padding are minus infinity, and NaN is larger
/// than every number.
///
/// ```
/// use warpconv::MaxPool2dSpec;
/// use warpconv::reference::{Array, max_pool2d};
/// let x = Array::new([1, 1, 2, 4], vec![1.0, 5.0, -3.0, -2.0, 4.0, 2.0, -4.0, -1.0])?;
/// assert_eq!(max_pool2d(&MaxPool2dSpec::new([2, 2]), &x)?.data(), [5.0, -1.0]);
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// [`Error::Rank`]; [`Error::Attribute`] for an empty input, a size of 0 or a padding of more than
/// half of the kernel, and where there is no window; [`Error::Overflow`]; [`Error::OutOfMemory`].
pub fn max_pool2d(spec: &MaxPool2dSpec, x: &Array) -> Result<Array> {
    let stride = spec.stride.unwrap_or(spec.kernel_size);
    let windows = |axis: usize, size: usize| {
        let (kernel, padding, dilation) = (spec.kernel_size[axis], spec.padding[axis], spec.dilation[axis]);
        windows(size, kernel, stride[axis], padding, dilation, spec.ceil_mode)
    };
    let largest = |values: &mut dyn Iterator<Item = f64>, _| {
        values.fold(f64::NEG_INFINITY, |largest, v| if v > largest || v.is_nan() { v } else { largest })
    };
    pool(x, windows, largest)
}

/// The mean of each window: its sum, divided by the number of its pixels. Pixels in the padding are
/// zeros, which count if `count_include_pad` is set; pixels beyond the padding do not count.
///
/// ```
/// use warpconv::AvgPool2dSpec;
/// use warpconv::reference::{Array, avg_pool2d};
/// let x = Array::new([1, 1, 1, 4], vec![1.0, 5.0, -3.0, -2.0])?;
/// assert_eq!(avg_pool2d(&AvgPool2dSpec::new([1, 2]), &x)?.data(), [3.0, -2.5]);
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// As [`max_pool2d`]; [`Error::Attribute`] for a divisor of 0.
pub fn avg_pool2d(spec: &AvgPool2dSpec, x: &Array) -> Result<Array> {
    if spec.divisor_override == Some(0) {
        return Err(wrong("divisor_override", 0, "at least 1"));
    }
    let stride = spec.stride.unwrap_or(spec.kernel_size);
    let windows = |axis: usize, size: usize| windows(size, spec.kernel_size[axis], stride[axis], spec.padding[axis], 1, spec.ceil_mode);
    let mean = |values: &mut dyn Iterator<Item = f64>, [inside, padded]: [usize; 2]| {
        let pixels = if spec.count_include_pad { padded } else { inside };
        values.sum::<f64>() / spec.divisor_override.unwrap_or(pixels) as f64
    };
    pool(x, windows, mean)
}

/// The mean of each window, where output p of an axis has the pixels from
/// `floor(p * input / output)` to `ceil((p + 1) * input / output)`.
///
/// ```
/// use warpconv::AdaptiveAvgPool2dSpec;
/// use warpconv::reference::{Array, adaptive_avg_pool2d};
/// let x = Array::new([1, 1, 1, 3], vec![1.0, 5.0, -3.0])?;
/// assert_eq!(adaptive_avg_pool2d(&AdaptiveAvgPool2dSpec { output_size: [1, 1] }, &x)?.data(), [1.0]);
/// assert_eq!(adaptive_avg_pool2d(&AdaptiveAvgPool2dSpec { output_size: [1, 2] }, &x)?.data(), [3.0, 1.0]);
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// [`Error::Rank`]; [`Error::Attribute`] for an empty input or output; [`Error::Overflow`];
/// [`Error::OutOfMemory`].
pub fn adaptive_avg_pool2d(spec: &AdaptiveAvgPool2dSpec, x: &Array) -> Result<Array> {
    let windows = |axis: usize, size: usize| {
        let outputs = spec.output_size[axis];
        if outputs == 0 {
            return Err(wrong("output_size", 0, "at least 1"));
        }
        let window = |p: usize| {
            let (first, end) = (p as u128 * size as u128 / outputs as u128, (p as u128 + 1) * size as u128);
            let pixels = (first as usize..end.div_ceil(outputs as u128) as usize).step_by(1);
            Window { padded: pixels.len(), pixels }
        };
        memory::collect((0..outputs).map(window))
    };
    pool(x, windows, |values, [inside, _]| values.sum::<f64>() / inside as f64)
}

fn wrong(name: &'static str, value: usize, requirement: &'static str) -> Error {
    Error::Attribute { name, value: value.to_string(), requirement }
}

/// The windows along an axis. The last starts where the whole window fits the padded input or, in
/// ceil mode, at the first place from which it does not, if that is before the padding at the end.
fn windows(size: usize, kernel: usize, stride: usize, padding: usize, dilation: usize, ceil: bool) -> Result<Vec<Window>> {
    for (name, value) in [("kernel_size", kernel), ("stride", stride), ("dilation", dilation)] {
        if value == 0 {
            return Err(wrong(name, value, "at least 1"));
        }
    }
    if padding > kernel / 2 {
        return Err(wrong("padding", padding, "at most half of the kernel size"));
    }
    // Positions count from the first pixel of the padding.
    let wide = |value: usize| value as u128;
    let (padded, span) = (wide(size) + 2 * wide(padding), wide(kernel - 1) * wide(dilation) + 1);
    let whole = if span <= padded { (padded - span) / wide(stride) + 1 } else { 0 };
    let next = whole * wide(stride);
    let beyond = ceil && next + span < padded + wide(stride) && next < wide(size) + wide(padding);
    let window = |index: usize| {
        let start = wide(index) * wide(stride);
        let skipped = wide(padding).saturating_sub(start).div_ceil(wide(dilation));
        let first = start + skipped * wide(dilation) - wide(padding);
        let end = (start + span).saturating_sub(wide(padding)).min(wide(size));
        let pixels = (first.min(end) as usize..end as usize).step_by(dilation);
        Window { pixels, padded: (padded.min(start + wide(kernel)) - start) as usize }
    };
    match whole as usize + usize::from(beyond) {
        0 => Err(wrong("kernel_size", kernel, "at most the padded input")),
        count => memory::collect((0..count).map(window)),
    }
}

/// Pools every window: `windows` are those of an axis of some size; `value` is what becomes of a
/// window's pixels, of which there are so many without and with the padding.
fn pool(
    x: &Array,
    windows: impl Fn(usize, usize) -> Result<Vec<Window>>,
    value: impl Fn(&mut dyn Iterator<Item = f64>, [usize; 2]) -> f64,
) -> Result<Array> {
    let [n, c, h, w] = x.dimensions("x", "[N, C, H, W]")?;
    if h == 0 || w == 0 {
        return Err(wrong("the input size", 0, "at least 1"));
    }
    let (rows, columns) = (windows(0, h)?, windows(1, w)?);
    let outputs = crate::geometry::elements(&[n, c, rows.len(), columns.len()])?;
    let mut values = memory::with_capacity(outputs)?;
    for plane in 0..n * c {
        for row in &rows {
            for column in &columns {
                let pixel = |i: usize, j: usize| x.data()[(plane * h + i) * w + j];
                let mut pixels = row.pixels.clone().flat_map(|i| column.pixels.clone().map(move |j| pixel(i, j)));
                let counts = [row.pixels.len() * column.pixels.len(), row.padded * column.padded];
                values.push(value(&mut pixels, counts));
            }
        }
    }
    Array::new([n, c, rows.len(), columns.len()], values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row.
    fn row(x: &[f64]) -> Array {
        Array::new([1, 1, 1, x.len()], x.to_vec()).unwrap()
    }

    #[test]
    fn known_values() {
        let spec = MaxPool2dSpec { stride: Some([1, 2]), padding: [0, 1], ..MaxPool2dSpec::new([1, 3]) };
        let max = |spec: MaxPool2dSpec, x: &[f64]| max_pool2d(&spec, &row(x)).unwrap().into_data();
        assert_eq!(max(spec, &[-1.0, -2.0, -3.0, -4.0, -5.0]), [-1.0, -2.0, -4.0]);
        assert_eq!(max(spec, &[-1.0, -2.0, -3.0, -4.0]), [-1.0, -2.0]);
        assert_eq!(max(MaxPool2dSpec { ceil_mode: true, ..spec }, &[-1.0, -2.0, -3.0, -4.0]), [-1.0, -2.0, -4.0]);
        let dilated = MaxPool2dSpec { stride: Some([1, 1]), dilation: [1, 2], ..MaxPool2dSpec::new([1, 2]) };
        assert_eq!(max(dilated, &[1.0, 9.0, 2.0, 3.0]), [2.0, 9.0]);
        // both taps of the window are in the padding
        let outside = MaxPool2dSpec { padding: [0, 1], dilation: [1, 3], ..MaxPool2dSpec::new([1, 2]) };
        assert_eq!(max(outside, &[1.0, 2.0]), [f64::NEG_INFINITY]);
        // NaN stays, whatever comes after it
        assert!(max(MaxPool2dSpec::new([1, 3]), &[1.0, f64::NAN, 2.0])[0].is_nan());
    }

    #[test]
    fn means_are_divided_by_what_pytorch_divides_by() {
        let mean = |spec: AvgPool2dSpec, x: &[f64]| avg_pool2d(&spec, &row(x)).unwrap().into_data();
        let spec = AvgPool2dSpec { stride: Some([1, 2]), padding: [0, 1], ..AvgPool2dSpec::new([1, 3]) };
        assert_eq!(mean(spec, &[3.0, 6.0, 9.0]), [3.0, 5.0]);
        assert_eq!(mean(AvgPool2dSpec { count_include_pad: false, ..spec }, &[3.0, 6.0, 9.0]), [4.5, 7.5]);
        assert_eq!(mean(AvgPool2dSpec { divisor_override: Some(2), ..spec }, &[3.0, 6.0, 9.0]), [4.5, 7.5]);
        // the last of three windows has one pixel, one zero of the padding and one place beyond it, which does not count
        let ceil = AvgPool2dSpec { ceil_mode: true, ..spec };
        assert_eq!(mean(ceil, &[3.0, 6.0, 9.0, 12.0]), [3.0, 9.0, 6.0]);
        assert_eq!(mean(AvgPool2dSpec { count_include_pad: false, ..ceil }, &[3.0, 6.0, 9.0, 12.0]), [4.5, 9.0, 12.0]);
    }

    #[test]
    fn adaptive_windows_overlap_where_sizes_do_not_divide() {
        let mean = |outputs, x: &[f64]| adaptive_avg_pool2d(&AdaptiveAvgPool2dSpec { output_size: [1, outputs] }, &row(x)).unwrap();
        assert_eq!(mean(3, &[1.0, 2.0, 3.0, 4.0]).data(), [1.5, 2.5, 3.5]);
        assert_eq!(mean(5, &[1.0, 2.0]).data(), [1.0, 1.0, 1.5, 2.0, 2.0]);
    }
}
