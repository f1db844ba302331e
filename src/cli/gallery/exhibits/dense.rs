//! Dense convolutions: filters, strides and padding, and 1x1.

use super::*;

pub fn section() -> Result<Section> {
    let mut exhibits = effects()?;
    exhibits.extend(derivatives()?);
    Ok(Section {
        id: "dense",
        title: "Dense",
        text: "Every output channel sums over every input channel. The small squares below each picture are the filters: one row of \
               squares for each output channel, one column for each input channel, orange where a tap adds and blue where it subtracts.",
        exhibits,
    })
}

/// Filters that give a picture again.
fn effects() -> Result<Vec<Exhibit>> {
    let blur = conv(same(), each_channel(&Kernel::gaussian(7, 1.8), 3)?)?;
    let sharpen = conv(same(), each_channel(&Kernel::sharpen(), 3)?)?;
    let emboss = conv_with_bias(same(), of_brightness(&[Kernel::emboss().scaled(0.8)])?, &[0.5])?;
    let motion = conv(same(), each_channel(&Kernel::motion(15, 35.0), 3)?)?;
    Ok(vec![
        Exhibit {
            every_type: true,
            ..Exhibit::new(
                "dense-gaussian-blur",
                "Gaussian blur",
                "A 7×7 bell with σ = 1.8 on the diagonal: each colour is smoothed and none is mixed with another. The table below \
                 runs it in every dtype and memory format.",
                blur,
            )
            .run_as(F16, NHWC)
        },
        Exhibit::new(
            "dense-sharpen",
            "Sharpen",
            "Five times the pixel minus its four neighbours. Where the picture is flat, nothing changes.",
            sharpen,
        ),
        Exhibit::new(
            "dense-emboss",
            "Emboss",
            "Three channels to one: the difference along the falling diagonal of the brightness, raised by a bias of ½, so that \
             flat areas are mid-grey.",
            emboss,
        )
        .run_as(BF16, NCHW)
        .shown(Tone::Plain, &[("output", &[0])]),
        Exhibit::new(
            "dense-motion-blur",
            "Motion blur, 15×15",
            "A large filter whose taps lie on a line: the camera moved at 35° while the shutter was open.",
            motion,
        )
        .run_as(F16, NCHW),
    ])
}

/// Filters that give the differences between neighbours, of either sign.
fn derivatives() -> Result<Vec<Exhibit>> {
    let sobel = conv(same(), of_brightness(&[Kernel::sobel_x(), Kernel::sobel_y()])?)?;
    let laplacian = conv(same(), of_brightness(&[Kernel::laplacian()])?)?;
    let bands = conv(same(), of_brightness(&[Kernel::gaussian(9, 1.2).plus(&Kernel::gaussian(9, 2.4).scaled(-1.0))])?)?;
    let directions: [f32; 8] = std::array::from_fn(|i| 45.0 * i as f32);
    let compass = of_brightness(&directions.map(Kernel::compass))?;
    let compass = conv(Conv2dSpec { activation: Activation::Relu, ..same() }, compass)?;
    Ok(vec![
        Exhibit::new(
            "dense-laplacian",
            "Laplacian",
            "Second derivatives: the centre against its eight neighbours. Edges become a pair of lines, one of each sign.",
            laplacian,
        )
        .shown(Tone::Signed, &[("output", &[0])]),
        Exhibit::new(
            "dense-bands",
            "Difference of Gaussians",
            "A narrow bell minus a wide one, 9×9: what is as large as a few pixels stays, finer and coarser things go.",
            bands,
        )
        .run_as(BF16, NHWC)
        .shown(Tone::Signed, &[("output", &[0])]),
        Exhibit::new(
            "dense-sobel",
            "Sobel, both axes in one layer",
            "Two output channels from one pass over the picture: how brightness grows to the right, and how it grows downwards.",
            sobel,
        )
        .run_as(F32, NHWC)
        .shown(Tone::Signed, &[("rightwards", &[0]), ("downwards", &[1])]),
        Exhibit::new(
            "dense-compass",
            "Eight directions and a ReLU",
            "The first layer of many a network: eight oriented derivatives, of which the ReLU keeps the positive side. The 1×1 \
             section turns them into one picture.",
            compass,
        )
        .run_as(F16, NHWC)
        .shown(
            Tone::FromBlack,
            &[("0°", &[0]), ("45°", &[1]), ("90°", &[2]), ("135°", &[3]), ("180°", &[4]), ("225°", &[5]), ("270°", &[6]), ("315°", &[7])],
        ),
    ])
}

pub fn strides_and_padding() -> Result<Section> {
    let every_fourth = conv(Conv2dSpec { stride: [4, 4], ..Default::default() }, each_channel(&Kernel::identity(1), 3)?)?;
    let smoothed = conv(
        Conv2dSpec { stride: [4, 4], padding: Padding::Explicit([3, 3, 2, 2]), ..Default::default() },
        each_channel(&Kernel::gaussian(9, 1.9), 3)?,
    )?;
    let narrow = conv(
        Conv2dSpec { stride: [1, 2], padding: Padding::Explicit([0, 1, 0, 1]), ..Default::default() },
        each_channel(&Kernel::new([[0.25, 0.5, 0.25]]), 3)?,
    )?;
    let mean = || depthwise(&[Kernel::mean(15), Kernel::mean(15), Kernel::mean(15)]);
    let kept = conv(per_channel(), mean()?)?;
    let shrunk = conv(Conv2dSpec { groups: 3, ..Default::default() }, mean()?)?;
    let moved =
        conv(Conv2dSpec { padding: Padding::Explicit([8, 32, 24, 16]), ..Default::default() }, each_channel(&Kernel::identity(1), 3)?)?;
    Ok(Section {
        id: "strides-and-padding",
        title: "Strides and padding",
        text: "A stride is the step from one output pixel's window to the next one's; padding is a frame of zeros around the picture, \
               with a width of its own on each side. The grid beside each filter is the picture's top left corner: orange squares are \
               the taps of the first output pixel, the dashed frame is the window of the next one, and what is grey is padding.",
        exhibits: vec![
            Exhibit::new(
                "stride-4-alone",
                "Every fourth pixel",
                "A 1×1 filter with a stride of 4 throws away fifteen pixels of sixteen. Fine detail turns into jagged noise (aliasing).",
                every_fourth,
            )
            .run_as(BF16, NHWC),
            Exhibit::new(
                "stride-4-smoothed",
                "Smooth, then every fourth pixel",
                "The same step with a 9×9 Gaussian, in one layer: what the smaller picture cannot hold is gone before it does harm.",
                smoothed,
            )
            .run_as(F16, NHWC),
            Exhibit::new(
                "stride-per-axis",
                "A stride for each axis",
                "1 vertically, 2 horizontally, with a filter of one row: half as wide, as high as before.",
                narrow,
            ),
            Exhibit::new(
                "padding-same",
                "Padding “same”",
                "A 15×15 mean with seven zeros on each side keeps the size, and the zeros darken the border.",
                kept,
            )
            .run_as(F16, NCHW),
            Exhibit::new(
                "padding-none",
                "No padding",
                "The same filter only where it fits: the border is right, and the picture is smaller.",
                shrunk,
            )
            .run_as(F16, NHWC),
            Exhibit::new(
                "padding-four-sides",
                "Four sides, four widths",
                "A 1×1 identity with 8, 32, 24 and 16 zeros at the top, left, bottom and right: padding alone.",
                moved,
            ),
        ],
    })
}

pub fn pointwise() -> Result<Section> {
    let mut exhibits = mixtures()?;
    exhibits.extend(curves()?);
    let edges = conv(Conv2dSpec::default(), matrix(&hues())?)?;
    exhibits.push(
        Exhibit::new(
            "pointwise-edges",
            "Edges in the colour of their direction",
            "A second layer on the eight directions of the dense section: each direction brings its hue, and 1×1 adds them up.",
            edges,
        )
        .of(&[output("dense-compass")])
        .run_as(F16, NHWC)
        .shown(Tone::FromBlack, &[("output", RGB)]),
    );
    Ok(Section {
        id: "pointwise",
        title: "1×1, with a nonlinearity",
        text: "A filter of one pixel is a matrix that every pixel's channels go through. With a bias and an activation it is a colour \
               grade; the curve shows what the layer makes of a grey ramp, drawn by running it on one.",
        exhibits,
    })
}

/// A 1×1 layer with a bias and an activation.
fn graded(weight: Parameter, bias: &[f32], activation: Activation) -> Result<Model> {
    conv_with_bias(Conv2dSpec { activation, ..Default::default() }, weight, bias)
}

/// Matrices that mix the colours.
fn mixtures() -> Result<Vec<Exhibit>> {
    let grey = conv(Conv2dSpec::default(), matrix(&[LUMA])?)?;
    let sepia = matrix(&[[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])?;
    let sepia = conv(Conv2dSpec { activation: Activation::Tanh, ..Default::default() }, sepia)?;
    let turned = conv(Conv2dSpec::default(), matrix(&[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])?)?;
    let ycbcr = graded(matrix(&[LUMA, [-0.168_736, -0.331_264, 0.5], [0.5, -0.418_688, -0.081_312]])?, &[0.0, 0.5, 0.5], Activation::None)?;
    Ok(vec![
        Exhibit::new("pointwise-grey", "Brightness", "The weights of ITU-R BT.601: the eye sees green best.", grey)
            .run_as(F16, NCHW)
            .shown(Tone::Plain, &[("output", &[0])]),
        Exhibit::new("pointwise-sepia", "Sepia and tanh", "A warm mixture of the three colours; the tanh rolls off the lights.", sepia)
            .run_as(F16, NHWC),
        Exhibit::new(
            "pointwise-rotation",
            "Colours in a circle",
            "A permutation matrix: red shows green, green shows blue, blue shows red.",
            turned,
        )
        .run_as(BF16, NHWC),
        Exhibit::new(
            "pointwise-ycbcr",
            "Y, Cb, Cr",
            "Brightness and two colour differences, as JPEG stores a picture, with a bias of ½ on the differences.",
            ycbcr,
        )
        .shown(Tone::Plain, &[("Y", &[0]), ("Cb", &[1]), ("Cr", &[2])]),
    ])
}

/// A curve for each colour, by gain, bias and activation.
fn curves() -> Result<Vec<Exhibit>> {
    let diagonal = |gain: f32| matrix(&[[gain, 0.0, 0.0], [0.0, gain, 0.0], [0.0, 0.0, gain]]);
    let contrast = graded(diagonal(9.0)?, &[-4.5; 3], Activation::Sigmoid)?;
    let hardswish = graded(diagonal(3.2)?, &[-1.6; 3], Activation::Hardswish)?;
    let threshold = graded(diagonal(2.0)?, &[-1.0; 3], Activation::Relu)?;
    let negative = graded(diagonal(-1.0)?, &[1.0; 3], Activation::None)?;
    // from a dark violet to a pale yellow
    let (dark, light) = ([0.16, 0.05, 0.32], [1.0, 0.91, 0.62]);
    let duotone: [[f32; 3]; 3] = std::array::from_fn(|colour| LUMA.map(|share| share * (light[colour] - dark[colour])));
    let duotone = graded(matrix(&duotone)?, &dark, Activation::Relu6)?;
    Ok(vec![
        Exhibit::new(
            "pointwise-contrast",
            "Contrast by sigmoid",
            "sigmoid(9 x − 4.5): the S-curve of film, steep in the middle and gentle at both ends.",
            contrast,
        )
        .run_as(F16, NHWC),
        Exhibit::new(
            "pointwise-hardswish",
            "Hardswish",
            "hardswish(3.2 x − 1.6) dips below zero before it rises: the shadows drown and the lights glow.",
            hardswish,
        ),
        Exhibit::new(
            "pointwise-threshold",
            "Lights only, by ReLU",
            "relu(2 x − 1): all that is darker than the middle is black.",
            threshold,
        )
        .run_as(BF16, NCHW),
        Exhibit::new(
            "pointwise-duotone",
            "Two inks",
            "Brightness moves each pixel along the line from a dark violet, the bias, to a pale yellow.",
            duotone,
        )
        .run_as(F16, NCHW),
        Exhibit::new("pointwise-negative", "Negative", "1 − x: a gain of −1 and a bias of 1.", negative).run_as(F32, NHWC),
    ])
}

/// A colour for each of the eight directions, red, green and blue one row each: the rainbow once
/// around.
fn hues() -> [[f32; 8]; 3] {
    let tau = std::f32::consts::TAU;
    std::array::from_fn(|colour| std::array::from_fn(|i| 0.5 + 0.5 * (tau * (i as f32 / 8.0 - colour as f32 / 3.0)).cos()))
}
