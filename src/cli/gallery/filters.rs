//! Filters that a person recognises, and the weights that they make.

use warpconv::{Parameter, Result};

/// What each of red, green and blue adds to brightness: ITU-R BT.601.
pub const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// A filter for one channel: its taps row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// Height and width.
    pub size: [usize; 2],
    pub taps: Vec<f32>,
}

impl Kernel {
    pub fn new<const H: usize, const W: usize>(rows: [[f32; W]; H]) -> Self {
        Self { size: [H, W], taps: rows.as_flattened().to_vec() }
    }

    /// Taps by their vertical and horizontal distance from the centre.
    fn from_distance(size: usize, tap: impl Fn(f32, f32) -> f32) -> Self {
        let centre = (size as f32 - 1.0) / 2.0;
        let taps = (0..size * size).map(|at| tap((at / size) as f32 - centre, (at % size) as f32 - centre)).collect();
        Self { size: [size, size], taps }
    }

    /// The same taps with a sum of 1, so that brightness is kept.
    fn normalised(self) -> Self {
        let sum: f32 = self.taps.iter().sum();
        self.scaled(1.0 / sum)
    }

    pub fn scaled(mut self, factor: f32) -> Self {
        self.taps.iter_mut().for_each(|tap| *tap *= factor);
        self
    }

    /// Tap by tap; both have one size.
    pub fn plus(mut self, other: &Kernel) -> Self {
        assert_eq!(self.size, other.size, "kernels are added tap by tap");
        self.taps.iter_mut().zip(&other.taps).for_each(|(tap, more)| *tap += more);
        self
    }

    /// The filter in the middle of a larger one that is 0 elsewhere.
    pub fn within(&self, size: [usize; 2]) -> Self {
        let mut taps = vec![0.0; size[0] * size[1]];
        let (top, left) = ((size[0] - self.size[0]) / 2, (size[1] - self.size[1]) / 2);
        for (row, values) in self.taps.chunks(self.size[1]).enumerate() {
            let start = (top + row) * size[1] + left;
            taps[start..start + values.len()].copy_from_slice(values);
        }
        Self { size, taps }
    }

    /// One tap of 1 at a distance from the centre: moves the picture by the opposite.
    pub fn shift(size: usize, down: isize, right: isize) -> Self {
        Self::from_distance(size, |y, x| if (y, x) == (down as f32, right as f32) { 1.0 } else { 0.0 })
    }

    /// Leaves the picture as it is.
    pub fn identity(size: usize) -> Self {
        Self::shift(size, 0, 0)
    }

    pub fn gaussian(size: usize, sigma: f32) -> Self {
        Self::from_distance(size, |y, x| (-(y * y + x * x) / (2.0 * sigma * sigma)).exp()).normalised()
    }

    pub fn mean(size: usize) -> Self {
        Self::from_distance(size, |_, _| 1.0).normalised()
    }

    /// A disc, as an open lens draws a point of light; its edge is smoothed.
    pub fn disc(size: usize) -> Self {
        let radius = size as f32 / 2.0;
        Self::from_distance(size, |y, x| (radius - y.hypot(x)).clamp(0.0, 1.0)).normalised()
    }

    /// A line through the centre at an angle above the horizontal.
    pub fn motion(size: usize, degrees: f32) -> Self {
        let (sin, cos) = degrees.to_radians().sin_cos();
        Self::from_distance(size, |y, x| (1.0 - (y * cos + x * sin).abs()).max(0.0)).normalised()
    }

    pub fn sharpen() -> Self {
        Self::new([[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]])
    }

    pub fn emboss() -> Self {
        Self::new([[-2.0, -1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    }

    pub fn sobel_x() -> Self {
        Self::new([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    }

    pub fn sobel_y() -> Self {
        Self::new([[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]])
    }

    /// Second differences along rows, columns and diagonals.
    pub fn laplacian() -> Self {
        Self::new([[1.0, 1.0, 1.0], [1.0, -8.0, 1.0], [1.0, 1.0, 1.0]])
    }

    /// The derivative towards a compass direction: 0 is east, 90 is north.
    pub fn compass(degrees: f32) -> Self {
        let (sin, cos) = degrees.to_radians().sin_cos();
        Self::sobel_x().scaled(cos).plus(&Self::sobel_y().scaled(-sin))
    }

    /// The cubic B-spline of the a-trous wavelet: \[1 4 6 4 1\] / 16 along each axis.
    pub fn spline() -> Self {
        const LINE: [f32; 5] = [1.0, 4.0, 6.0, 4.0, 1.0];
        Self::from_distance(5, |y, x| LINE[(y + 2.0) as usize] * LINE[(x + 2.0) as usize]).normalised()
    }
}

/// A weight [C_out, kernels / C_out, kh, kw] of kernels of one size.
fn weight(c_out: usize, kernels: &[Kernel]) -> Result<Parameter> {
    let [kh, kw] = kernels[0].size;
    let taps: Vec<f32> = kernels.iter().flat_map(|kernel| kernel.taps.iter().copied()).collect();
    Parameter::new(&[c_out, kernels.len() / c_out, kh, kw], &taps)
}

/// Each channel through the same kernel, as a dense weight: [channels, channels, kh, kw], zero off
/// the diagonal.
pub fn each_channel(kernel: &Kernel, channels: usize) -> Result<Parameter> {
    let pairs = (0..channels * channels).map(|at| if at / channels == at % channels { 1.0 } else { 0.0 });
    weight(channels, &pairs.map(|one| kernel.clone().scaled(one)).collect::<Vec<_>>())
}

/// The brightness of the picture through each kernel: [kernels, 3, kh, kw].
pub fn of_brightness(kernels: &[Kernel]) -> Result<Parameter> {
    let mixed = kernels.iter().flat_map(|kernel| LUMA.map(|share| kernel.clone().scaled(share)));
    weight(kernels.len(), &mixed.collect::<Vec<_>>())
}

/// Red, green and blue by their shares through one kernel: [1, 3, kh, kw].
pub fn of_channels(kernel: &Kernel, shares: [f32; 3]) -> Result<Parameter> {
    weight(1, &shares.map(|share| kernel.clone().scaled(share)))
}

/// One group of three channels for each kernel, which each of them goes through: [3 * kernels, 3,
/// kh, kw].
pub fn groups_of_three(kernels: &[Kernel]) -> Result<Parameter> {
    let diagonal = |kernel: &Kernel| (0..9).map(|at| kernel.clone().scaled(if at / 3 == at % 3 { 1.0 } else { 0.0 })).collect::<Vec<_>>();
    weight(3 * kernels.len(), &kernels.iter().flat_map(diagonal).collect::<Vec<_>>())
}

/// A kernel for each output channel of a depthwise layer: [kernels, 1, kh, kw].
pub fn depthwise(kernels: &[Kernel]) -> Result<Parameter> {
    weight(kernels.len(), kernels)
}

/// The matrix of a 1x1 layer, one row for each output channel: [rows, columns, 1, 1].
pub fn matrix<const C: usize>(rows: &[[f32; C]]) -> Result<Parameter> {
    Parameter::new(&[rows.len(), C, 1, 1], rows.as_flattened())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_brightness_and_edges_ignore_it() {
        let sum = |kernel: Kernel| kernel.taps.iter().sum::<f32>();
        for kernel in [Kernel::gaussian(9, 2.0), Kernel::mean(3), Kernel::disc(7), Kernel::motion(15, 30.0), Kernel::spline()] {
            assert!((sum(kernel) - 1.0).abs() < 1e-5);
        }
        for kernel in [Kernel::sobel_x(), Kernel::sobel_y(), Kernel::laplacian(), Kernel::emboss(), Kernel::compass(45.0)] {
            assert!(sum(kernel).abs() < 1e-5);
        }
        assert_eq!(sum(Kernel::sharpen()), 1.0);
    }

    #[test]
    fn weights_have_the_shape_of_their_kind() {
        let kernel = Kernel::spline();
        assert_eq!(each_channel(&kernel, 3).unwrap().shape(), [3, 3, 5, 5]);
        assert_eq!(groups_of_three(&[kernel.clone(), Kernel::identity(3).within([5, 5])]).unwrap().shape(), [6, 3, 5, 5]);
        assert_eq!(depthwise(&[kernel.clone(), kernel.clone()]).unwrap().shape(), [2, 1, 5, 5]);
        assert_eq!(of_brightness(&[kernel]).unwrap().shape(), [1, 3, 5, 5]);
        assert_eq!(matrix(&[[1.0, 2.0], [3.0, 4.0]]).unwrap().shape(), [2, 2, 1, 1]);
        assert_eq!(Kernel::identity(1).within([3, 3]), Kernel::identity(3));
    }
}
