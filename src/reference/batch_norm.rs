//! Batch normalisation with given statistics.

use super::Array;
use crate::error::Result;

/// Batch normalisation as a network uses it for inference:
/// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` for each channel. x is `[N, C, H, W]`,
/// the others are `[C]`.
///
/// # Errors
/// [`Error::Rank`](crate::Error::Rank) or [`Error::Shape`](crate::Error::Shape).
pub fn batch_norm(x: &Array, gamma: &Array, beta: &Array, mean: &Array, variance: &Array, epsilon: f64) -> Result<Array> {
    let [_, channels, h, w] = x.dimensions("x", "[N, C, H, W]")?;
    for (name, parameter) in [("gamma", gamma), ("beta", beta), ("mean", mean), ("variance", variance)] {
        parameter.check_shape(name, &[channels])?;
    }
    let mut y = x.clone();
    for (index, value) in y.data_mut().iter_mut().enumerate() {
        let c = index / (h * w) % channels;
        *value = (*value - mean.data()[c]) / (variance.data()[c] + epsilon).sqrt() * gamma.data()[c] + beta.data()[c];
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn each_channel_has_its_statistics() {
        let x = Array::new([1, 2, 1, 2], vec![1.0, 3.0, -5.0, 5.0]).unwrap();
        let vector = |a, b| Array::new([2], vec![a, b]).unwrap();
        let y = batch_norm(&x, &vector(1.0, 2.0), &vector(0.0, 7.0), &vector(2.0, 0.0), &vector(0.75, 24.75), 0.25).unwrap();
        assert_eq!(y.data(), [-1.0, 1.0, 5.0, 9.0]);
        let short = Array::zeros([1]).unwrap();
        let refused = batch_norm(&x, &vector(1.0, 1.0), &vector(0.0, 0.0), &short, &vector(1.0, 1.0), 0.0);
        assert!(matches!(refused, Err(Error::Shape { name: "mean", .. })));
    }
}
