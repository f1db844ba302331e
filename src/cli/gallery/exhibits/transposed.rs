//! Transposed convolutions.

use super::{BF16, Exhibit, F16, F32, Model, NCHW, NHWC, Section, Tone, conv_with_bias, output, same};
use crate::cli::gallery::filters::{Kernel, depthwise, of_channels};
use warpconv::layers::bilinear_kernel;
use warpconv::{Activation, Conv2dSpec, ConvTranspose2dSpec, LayerSpec, Parameter, Result, UpsampleBilinearSpec, UpsampleSize};

fn transposed(spec: ConvTranspose2dSpec, weight: Parameter) -> Result<Model> {
    Model::new(LayerSpec::ConvTranspose2d(spec), [("weight", weight)])
}

/// The small picture of the section on strides.
const SMALL: &str = "stride-4-smoothed";

pub fn section() -> Result<Section> {
    let per_channel = |stride: usize, padding: usize, output_padding: usize| ConvTranspose2dSpec {
        stride: [stride; 2],
        padding: [padding; 4],
        output_padding: [output_padding; 2],
        groups: 3,
        ..Default::default()
    };
    let three = |kernel: Kernel| depthwise(&[kernel.clone(), kernel.clone(), kernel]);
    let tent = Kernel { size: [8, 8], taps: bilinear_kernel(8, 4)? };
    // on average each output gets the sum of the taps divided by the square of the stride
    let flat = |size: usize| Kernel::mean(size).scaled(4.0);
    let bilinear = transposed(per_channel(4, 2, 0), three(tent)?)?;
    let uneven = transposed(per_channel(2, 1, 1), three(flat(3))?)?;
    let even = transposed(per_channel(2, 1, 0), three(flat(4))?)?;
    let mut exhibits = vec![
        Exhibit::new(
            "transposed-bilinear",
            "Four times as large",
            "The small picture of the section on strides, upsampled again. Each pixel is spread over 8×8 outputs with the weights of a \
             tent, so that neighbours blend linearly: what networks initialise this layer with before they train it.",
            bilinear,
        )
        .of(&[output(SMALL)])
        .run_as(F16, NHWC),
        Exhibit::new(
            "transposed-checkerboard",
            "The checkerboard",
            "3 is not a multiple of the stride 2: some outputs are reached by one tap, some by two, some by four. With equal weights \
             the pattern shows bare; a network has to learn around it.",
            uneven,
        )
        .of(&[output(SMALL)])
        .run_as(F32, NCHW),
        Exhibit::new(
            "transposed-no-checkerboard",
            "No checkerboard",
            "The same with a 4×4 kernel: each output is reached by exactly four taps, and equal weights give an even picture.",
            even,
        )
        .of(&[output(SMALL)])
        .run_as(BF16, NHWC),
    ];
    exhibits.extend(recipe()?);
    Ok(Section {
        id: "transposed",
        title: "Transposed",
        text: "The convolution backwards: every input pixel is spread over the outputs by the filter, and what overlaps is added up. \
               The grid shows where: orange squares are the outputs that the first input pixel is added to, the dashed frame is that \
               of its right neighbour. It gives back a size, not the values: it is the transpose of a convolution, not its inverse.",
        exhibits,
    })
}

/// Two ways to a map of every pixel, from the small picture on: how orange a place is.
fn recipe() -> Result<Vec<Exhibit>> {
    // red against blue; grey of any brightness gives little
    let scores = |spec: Conv2dSpec, kernel: Kernel| {
        let weight = of_channels(&kernel, [9.0, -3.0, -7.0])?;
        conv_with_bias(Conv2dSpec { activation: Activation::Sigmoid, ..spec }, weight, &[-2.5])
    };
    let dilated = scores(Conv2dSpec { dilation: [2, 2], ..same() }, Kernel::gaussian(3, 1.0))?;
    let strided = scores(Conv2dSpec { stride: [4, 4], ..Default::default() }, Kernel::mean(4))?;
    let tent = Kernel { size: [32, 32], taps: bilinear_kernel(32, 16)? };
    let back = ConvTranspose2dSpec { stride: [16, 16], padding: [8; 4], ..Default::default() };
    let back = transposed(back, depthwise(&[tent])?)?;
    let spec = UpsampleBilinearSpec { size: UpsampleSize::Scale([4.0, 4.0]), align_corners: false };
    let bilinear = Model::new(LayerSpec::UpsampleBilinear(spec), [])?;
    let map: &[(&'static str, &'static [usize])] = &[("output", &[0])];
    Ok(vec![
        Exhibit::new(
            "recipe-strided",
            "Segmentation, the old way: stride on",
            "How orange is each place? 4×4 pixels of the small picture, with a stride of 4, make one score; a sigmoid takes it to 0 to 1. \
             One score now stands for 16×16 pixels of the picture.",
            strided,
        )
        .of(&[output(SMALL)])
        .run_as(F16, NHWC)
        .shown(Tone::FromBlack, map),
        Exhibit::new(
            "recipe-transposed",
            "… and upsample by a transposed convolution",
            "16 times as large again, with a 32×32 tent. What the strides have thrown away does not come back: the outline is a blur.",
            back,
        )
        .of(&[output("recipe-strided")])
        .run_as(F32, NCHW)
        .shown(Tone::FromBlack, map),
        Exhibit::new(
            "recipe-dilated",
            "The new way: dilate instead",
            "The same question with 3×3 taps, two apart: as large a field, but no stride, so that there is a score for every pixel of the \
             small picture.",
            dilated,
        )
        .of(&[output(SMALL)])
        .run_as(F16, NHWC)
        .shown(Tone::FromBlack, map),
        Exhibit::new(
            "recipe-bilinear",
            "… and upsample bilinearly",
            "Only 4 times remain, and interpolation without any weights is enough: the recipe of DeepLab, with the outline in its place.",
            bilinear,
        )
        .of(&[output("recipe-dilated")])
        .run_as(F16, NCHW)
        .shown(Tone::FromBlack, map),
    ])
}
