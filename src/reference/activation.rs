//! The activations.

use crate::Activation;

/// The value of an activation at `z`. `slope` is the channel's slope of prelu; other activations
/// ignore it.
///
/// Comparisons are written so that NaN stays NaN. At -infinity silu, gelu and hardswish are NaN,
/// since they multiply -infinity by 0.
pub fn activate(activation: Activation, z: f64, slope: f64) -> f64 {
    match activation {
        Activation::None => z,
        Activation::Relu => clamp(z, 0.0, f64::INFINITY),
        Activation::Relu6 => clamp(z, 0.0, 6.0),
        Activation::LeakyRelu { alpha } => leak(z, f64::from(alpha)),
        Activation::Prelu => leak(z, slope),
        Activation::Sigmoid => sigmoid(z),
        Activation::Tanh => z.tanh(),
        Activation::Silu => z * sigmoid(z),
        // Phi(z) = erfc(-z / sqrt 2) / 2. With 1 + erf, digits would cancel for negative z.
        Activation::Gelu => z * (0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::Hardswish => z * (clamp(z + 3.0, 0.0, 6.0) / 6.0),
    }
}

fn clamp(z: f64, low: f64, high: f64) -> f64 {
    if z < low {
        low
    } else if z > high {
        high
    } else {
        z
    }
}

fn leak(z: f64, slope: f64) -> f64 {
    if z < 0.0 { z * slope } else { z }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Activation::None, -2.5, -2.5)]
    #[case(Activation::Relu, -2.5, 0.0)]
    #[case(Activation::Relu, 7.5, 7.5)]
    #[case(Activation::Relu6, 7.5, 6.0)]
    #[case(Activation::Relu6, -1.0, 0.0)]
    #[case(Activation::LeakyRelu { alpha: 0.25 }, -2.0, -0.5)]
    #[case(Activation::Prelu, -2.0, -1.0)]
    #[case(Activation::Prelu, 2.0, 2.0)]
    #[case(Activation::Sigmoid, 0.0, 0.5)]
    #[case(Activation::Sigmoid, -40.0, 4.248354255291589e-18)]
    #[case(Activation::Tanh, 0.5, 0.46211715726000973)]
    #[case(Activation::Silu, 1.0, 0.7310585786300049)]
    #[case(Activation::Gelu, 1.0, 0.8413447460685429)]
    #[case(Activation::Gelu, -1.0, -0.15865525393145707)]
    #[case(Activation::Gelu, -10.0, -7.619853024160527e-23)]
    #[case(Activation::Hardswish, -3.5, 0.0)]
    #[case(Activation::Hardswish, 1.5, 1.125)]
    #[case(Activation::Hardswish, 4.0, 4.0)]
    fn known_values(#[case] activation: Activation, #[case] z: f64, #[case] expected: f64) {
        let y = activate(activation, z, 0.5);
        // rounding z / sqrt 2 moves erfc by a part of z^2
        assert!((y - expected).abs() <= 1e-15 * (1.0 + 0.1 * z * z) * expected.abs(), "{activation:?}({z}) = {y}, not {expected}");
    }

    #[test]
    fn what_is_not_finite_follows_the_definitions() {
        for activation in Activation::all(0.1) {
            assert!(activate(activation, f64::NAN, 0.5).is_nan(), "{activation:?}");
            let top = activate(activation, f64::INFINITY, 0.5);
            let expected = match activation {
                Activation::Relu6 => 6.0,
                Activation::Sigmoid | Activation::Tanh => 1.0,
                _ => f64::INFINITY,
            };
            assert_eq!(top, expected, "{activation:?}");
            let bottom = activate(activation, f64::NEG_INFINITY, 0.5);
            match activation {
                Activation::None | Activation::LeakyRelu { .. } | Activation::Prelu => assert_eq!(bottom, f64::NEG_INFINITY),
                Activation::Relu | Activation::Relu6 | Activation::Sigmoid => assert_eq!(bottom, 0.0),
                Activation::Tanh => assert_eq!(bottom, -1.0),
                Activation::Silu | Activation::Gelu | Activation::Hardswish => assert!(bottom.is_nan()),
            }
        }
    }
}
