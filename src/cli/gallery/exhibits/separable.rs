//! Convolutions in two cheap steps.

use super::{BF16, Exhibit, F16, F32, Model, NCHW, NHWC, RGB, Section, Tone};
use crate::cli::gallery::filters::{Kernel, depthwise, matrix};
use warpconv::factorise::separate;
use warpconv::{Activation, DepthwiseSeparableSpec, LayerSpec, Padding, Parameter, Result, SpatiallySeparableSpec};

/// A separable filter for each of the three colours.
fn spatially(kernel: &Kernel) -> Result<Model> {
    let factors = separate(&Parameter::new(&kernel.size, &kernel.taps)?)?;
    let (column, row) = factors.depthwise_weights(3)?;
    let spec = SpatiallySeparableSpec { padding: Padding::Same, groups: 3, ..Default::default() };
    Model::new(LayerSpec::SpatiallySeparableConv2d(spec), [("col_weight", column), ("row_weight", row)])
}

pub fn section() -> Result<Section> {
    let blur = spatially(&Kernel::gaussian(21, 4.0))?;
    let sobel = spatially(&Kernel::sobel_x())?;
    let size = [7, 7];
    let per_channel = [Kernel::gaussian(7, 2.0), Kernel::sharpen().within(size), Kernel::identity(7)];
    let warm = [[0.9, 0.25, -0.1], [0.05, 0.9, 0.05], [0.0, 0.2, 0.75]];
    let spec = DepthwiseSeparableSpec { padding: Padding::Same, ..Default::default() };
    let grade = [("dw_weight", depthwise(&per_channel)?), ("pw_weight", matrix(&warm)?)];
    let grade = Model::new(LayerSpec::DepthwiseSeparableConv2d(spec), grade)?;
    // two outputs of each colour: a blur, and what it has taken
    let wide = Kernel::gaussian(9, 2.5);
    let pairs: Vec<Kernel> = (0..3).flat_map(|_| [wide.clone(), Kernel::identity(9).plus(&wide.clone().scaled(-1.0))]).collect();
    let poster = [[0.95, 2.2, 0.0, 0.6, 0.0, 0.6], [0.0, 0.6, 0.95, 2.2, 0.0, 0.6], [0.0, 0.6, 0.0, 0.6, 0.95, 2.2]];
    let spec = DepthwiseSeparableSpec { groups: Some(3), mid_activation: Activation::Relu, ..spec };
    let glow = [("dw_weight", depthwise(&pairs)?), ("pw_weight", matrix(&poster)?)];
    let glow = Model::new(LayerSpec::DepthwiseSeparableConv2d(spec), glow)?;
    Ok(Section {
        id: "separable",
        title: "Separable",
        text: "Some filters are products. Spatially: a k×k filter whose rows are multiples of one row is a column times a row, 2k \
               multiplications for an output instead of k². By channels: a filter for each channel, then a matrix over the channels, \
               as MobileNet does everywhere; on a GPU the result of the first step never leaves the chip.",
        exhibits: vec![
            Exhibit::new(
                "separable-blur",
                "A blur from a column and a row",
                "A 21×21 bell with σ = 4 is the product of two lines of 21 taps: 42 multiplications for a pixel and colour instead of 441. \
                 The factors were found by the crate's separate().",
                blur,
            )
            .run_as(F16, NHWC),
            Exhibit::new(
                "separable-sobel",
                "Sobel, taken apart",
                "A column that smooths, [1 2 1], and a row that takes a difference, [−1 0 1]: 6 multiplications instead of 9. The \
                 Laplacian cannot be taken apart like this.",
                sobel,
            )
            .run_as(F32, NCHW)
            .shown(Tone::AroundGrey, &[("output", RGB)]),
            Exhibit::new(
                "separable-depthwise",
                "An effect for each colour, then a colour matrix",
                "Red is blurred, green sharpened, blue stays, and a matrix mixes them to warmer colours: two layers of this page in one.",
                grade,
            )
            .run_as(BF16, NHWC),
            Exhibit::new(
                "separable-multiplier",
                "Two filters for each colour, a ReLU between",
                "Each colour becomes a blur and the detail that this has lost. The ReLU keeps only the bright side of the detail, which the \
                 matrix adds to the blur: lights sparkle, shadows stay soft.",
                glow,
            )
            .run_as(F16, NHWC),
        ],
    })
}
