//! PixelShuffle, PixelUnshuffle, and the layers that combine them with a convolution.

use super::{Array, conv2d, conv2d_scale};
use crate::error::{Error, Result};
use crate::{Activation, ChannelOrder, Conv2dSpec, FocusSpec, SubPixelConv2dSpec};

/// Moves channels into pixels: `y[n, c, h*r + i, w*r + j] = x[n, k, h, w]`, where [`ChannelOrder`]
/// gives the channel k of (c, i, j).
///
/// ```
/// use warpconv::reference::{Array, pixel_shuffle};
/// let x = Array::new([1, 4, 1, 1], vec![1.0, 2.0, 3.0, 4.0])?;
/// let y = pixel_shuffle(2, warpconv::ChannelOrder::Crd, &x)?;
/// assert_eq!((y.shape(), y.data()), (&[1, 1, 2, 2][..], &[1.0, 2.0, 3.0, 4.0][..]));
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// [`Error::Rank`]; [`Error::Attribute`] for r = 0; [`Error::Divisibility`] when r * r does not
/// divide the channels.
pub fn pixel_shuffle(r: usize, order: ChannelOrder, x: &Array) -> Result<Array> {
    let [n, deep, h, w] = x.dimensions("x", "[N, C * r * r, H, W]")?;
    let squares = at_least_one(r)?.saturating_mul(r);
    divides("the number of channels", deep, "r * r", squares)?;
    let channels = deep / squares;
    let mut y = Array::zeros([n, channels, h * r, w * r])?;
    for (index, value) in y.data_mut().iter_mut().enumerate() {
        let (column, row) = (index % (w * r), index / (w * r) % (h * r));
        let (c, image) = (index / (w * r * h * r) % channels, index / (w * r * h * r * channels));
        let k = channel_of(order, r, channels, c, row % r, column % r);
        *value = x.data()[((image * deep + k) * h + row / r) * w + column / r];
    }
    Ok(y)
}

/// Moves pixels into channels: the inverse of [`pixel_shuffle`].
///
/// # Errors
/// [`Error::Rank`]; [`Error::Attribute`] for r = 0; [`Error::Divisibility`] when r does not divide
/// height and width.
pub fn pixel_unshuffle(r: usize, order: ChannelOrder, x: &Array) -> Result<Array> {
    let [n, channels, height, width] = x.dimensions("x", "[N, C, H * r, W * r]")?;
    at_least_one(r)?;
    divides("the input height", height, "r", r)?;
    divides("the input width", width, "r", r)?;
    let (h, w) = (height / r, width / r);
    let mut y = Array::zeros([n, channels * r * r, h, w])?;
    for (index, &value) in x.data().iter().enumerate() {
        let (column, row) = (index % width, index / width % height);
        let (c, image) = (index / (width * height) % channels, index / (width * height * channels));
        let k = channel_of(order, r, channels, c, row % r, column % r);
        y.data_mut()[((image * channels * r * r + k) * h + row / r) * w + column / r] = value;
    }
    Ok(y)
}

fn channel_of(order: ChannelOrder, r: usize, channels: usize, c: usize, i: usize, j: usize) -> usize {
    match order {
        ChannelOrder::Crd => c * r * r + i * r + j,
        ChannelOrder::Dcr => (i * r + j) * channels + c,
        ChannelOrder::Focus => (j * r + i) * channels + c,
    }
}

fn at_least_one(r: usize) -> Result<usize> {
    if r == 0 { Err(Error::Attribute { name: "r", value: "0".into(), requirement: "at least 1" }) } else { Ok(r) }
}

fn divides(name: &'static str, value: usize, divisor_name: &'static str, divisor: usize) -> Result<()> {
    if value.is_multiple_of(divisor) {
        Ok(())
    } else {
        Err(Error::Divisibility { name, value, divisor_name, divisor, context: String::new() })
    }
}

/// A [`conv2d`] followed by a [`pixel_shuffle`]. Bias and slope have one value for each channel of
/// the convolution.
///
/// # Errors
/// Those of [`conv2d`] and of [`pixel_shuffle`].
pub fn sub_pixel_conv(spec: &SubPixelConv2dSpec, x: &Array, weight: &Array, bias: Option<&Array>, slope: Option<&Array>) -> Result<Array> {
    pixel_shuffle(spec.factor, spec.order, &conv2d(&spec.conv, x, weight, bias, slope, None)?)
}

/// As [`conv2d_scale`], for [`sub_pixel_conv`].
///
/// # Errors
/// As [`sub_pixel_conv`].
pub fn sub_pixel_conv_scale(spec: &SubPixelConv2dSpec, x: &Array, weight: &Array, bias: Option<&Array>) -> Result<Array> {
    pixel_shuffle(spec.factor, spec.order, &conv2d_scale(&spec.conv, x, weight, bias, None)?)
}

/// The slices `x[::2, ::2]`, `x[1::2, ::2]`, `x[::2, 1::2]`, `x[1::2, 1::2]` (row, column) as
/// channels, one slice after the other, followed by a [`conv2d`].
///
/// # Errors
/// [`Error::Divisibility`] for an odd height or width; otherwise as [`conv2d`].
pub fn focus(
    spec: &FocusSpec,
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    slope: Option<&Array>,
    residual: Option<&Array>,
) -> Result<Array> {
    conv2d(&spec.conv, &slices(x)?, weight, bias, slope, residual)
}

/// As [`conv2d_scale`], for [`focus`].
///
/// # Errors
/// As [`focus`].
pub fn focus_scale(spec: &FocusSpec, x: &Array, weight: &Array, bias: Option<&Array>, residual: Option<&Array>) -> Result<Array> {
    let linear = Conv2dSpec { activation: Activation::None, ..spec.conv };
    conv2d_scale(&linear, &slices(x)?, weight, bias, residual)
}

/// The four slices, written out one by one as in the definition.
fn slices(x: &Array) -> Result<Array> {
    let [n, c, h, w] = x.dimensions("x", "[N, C, H, W]")?;
    divides("the input height", h, "r", 2)?;
    divides("the input width", w, "r", 2)?;
    let mut values = Vec::with_capacity(x.data().len());
    for image in 0..n {
        for [first_row, first_column] in [[0, 0], [1, 0], [0, 1], [1, 1]] {
            for channel in 0..c {
                for row in (first_row..h).step_by(2) {
                    let row = &x.data()[((image * c + channel) * h + row) * w..][..w];
                    values.extend(row[first_column.min(w)..].iter().step_by(2));
                }
            }
        }
    }
    Array::new([n, 4 * c, h / 2, w / 2], values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_are_inverted_exactly_and_focus_is_that_of_the_slices() {
        let x = Array::new([2, 3, 4, 6], (0..144).map(f64::from).collect()).unwrap();
        for order in [ChannelOrder::Crd, ChannelOrder::Dcr, ChannelOrder::Focus] {
            let deep = pixel_unshuffle(2, order, &x).unwrap();
            assert_eq!(deep.shape(), [2, 12, 2, 3]);
            assert_eq!(pixel_shuffle(2, order, &deep).unwrap(), x);
        }
        assert_eq!(pixel_unshuffle(2, ChannelOrder::Focus, &x).unwrap(), slices(&x).unwrap());
        assert_eq!(pixel_shuffle(1, ChannelOrder::Crd, &x).unwrap(), x);
    }

    #[test]
    fn what_does_not_divide_is_refused() {
        let x = Array::zeros([1, 6, 3, 4]).unwrap();
        assert!(matches!(pixel_shuffle(2, ChannelOrder::Crd, &x), Err(Error::Divisibility { value: 6, divisor: 4, .. })));
        assert!(matches!(pixel_unshuffle(2, ChannelOrder::Dcr, &x), Err(Error::Divisibility { value: 3, divisor: 2, .. })));
        assert!(matches!(pixel_shuffle(0, ChannelOrder::Crd, &x), Err(Error::Attribute { name: "r", .. })));
        assert!(slices(&x).is_err());
    }
}
