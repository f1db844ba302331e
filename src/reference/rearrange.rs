//! The order of a tensor's elements in memory.

use super::Array;
use crate::MemoryFormat;
use crate::error::Result;

/// The values of x [N, C, H, W] in their order in memory: NCHW or NHWC.
///
/// # Errors
/// [`Error::Rank`](crate::Error::Rank).
pub fn to_memory_order(x: &Array, format: MemoryFormat) -> Result<Vec<f64>> {
    let shape = x.dimensions("x", "[N, C, H, W]")?;
    Ok(places(shape, format)?.into_iter().map(|i| x.data()[i]).collect())
}

/// The array [N, C, H, W] whose values, in their order in memory, are `values`.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) when the number of values does not fit the shape;
/// [`Error::Overflow`](crate::Error::Overflow).
pub fn from_memory_order(shape: [usize; 4], format: MemoryFormat, values: Vec<f64>) -> Result<Array> {
    let mut x = Array::new(shape, values)?;
    let values = x.data().to_vec();
    places(shape, format)?.into_iter().zip(values).for_each(|(i, value)| x.data_mut()[i] = value);
    Ok(x)
}

/// The index, in the row-major array, of each element in memory.
fn places([n, c, h, w]: [usize; 4], format: MemoryFormat) -> Result<Vec<usize>> {
    if [n, c, h, w].contains(&0) {
        return Ok(vec![]); // the other sizes may be so large that their product overflows
    }
    let mut places = crate::memory::with_capacity(n * c * h * w)?;
    match format {
        MemoryFormat::Contiguous => places.extend(0..n * c * h * w),
        MemoryFormat::ChannelsLast => {
            for image in 0..n {
                for pixel in 0..h * w {
                    places.extend((0..c).map(|channel| (image * c + channel) * h * w + pixel));
                }
            }
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn channels_last_interleaves_the_channels() {
        let x = Array::new([2, 2, 1, 3], (0..12).map(f64::from).collect()).unwrap();
        assert_eq!(to_memory_order(&x, MemoryFormat::Contiguous).unwrap(), x.data());
        let nhwc = to_memory_order(&x, MemoryFormat::ChannelsLast).unwrap();
        assert_eq!(nhwc, [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]);
        assert_eq!(from_memory_order([2, 2, 1, 3], MemoryFormat::ChannelsLast, nhwc).unwrap(), x);
        assert!(matches!(to_memory_order(&Array::zeros([2, 2]).unwrap(), MemoryFormat::Contiguous), Err(Error::Rank { .. })));
    }
}
