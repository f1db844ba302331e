//! Convolutions of groups of channels and of each channel on its own, and dilated ones.

use super::*;

pub fn section() -> Result<Section> {
    let size = [7, 7];
    let pair = groups_of_three(&[Kernel::gaussian(7, 2.5), Kernel::laplacian().within(size)])?;
    let pair = conv(Conv2dSpec { groups: 2, ..same() }, pair)?;
    let size = [5, 5];
    let four = [
        Kernel::gaussian(5, 1.5),
        Kernel::sharpen().within(size),
        Kernel::emboss().plus(&Kernel::identity(3)).within(size),
        Kernel::laplacian().scaled(-1.0).within(size),
    ];
    let four = conv(Conv2dSpec { groups: 4, ..same() }, groups_of_three(&four)?)?;
    let mixed = conv(
        Conv2dSpec { groups: 2, ..Default::default() },
        matrix(&[
            [1.0, 0.0, 0.0], // the left half of the output sees the first three channels
            [0.0, 0.0, 1.0],
            [0.0, 1.0, 0.0],
            [0.2, 0.2, 0.2], // the right half sees the blurred ones
            [0.3, 0.4, 0.2],
            [0.4, 0.5, 0.3],
        ])?,
    )?;
    Ok(Section {
        id: "grouped",
        title: "Grouped",
        text: "The channels are dealt out to groups, and each group is a convolution of its own: with g groups, 1/g of the parameters \
               and of the work. The empty fields of the filter matrix are connections that do not exist.",
        exhibits: vec![
            Exhibit::new(
                "grouped-pair",
                "Two groups, two effects",
                "Six channels, the picture twice: the first group is blurred, the second one keeps its edges, in one launch.",
                pair,
            )
            .of(&[PICTURE; 2])
            .run_as(F16, NHWC)
            .shown(Tone::Plain, &[("group 0: blur", RGB), ("group 1: edges", &[3, 4, 5])]),
            Exhibit::new(
                "grouped-four",
                "Four groups on a small picture",
                "Twelve channels, four times the smoothed and strided picture from above: blur, sharpen, emboss and edges.",
                four,
            )
            .of(&[output("stride-4-smoothed"); 4])
            .run_as(BF16, NHWC)
            .shown(
                Tone::Plain,
                &[
                    ("group 0: blur", RGB),
                    ("group 1: sharpen", &[3, 4, 5]),
                    ("group 2: emboss", &[6, 7, 8]),
                    ("group 3: edges", &[9, 10, 11]),
                ],
            ),
            Exhibit::new(
                "grouped-pointwise",
                "Groups of a 1×1",
                "A group for the picture, whose green and blue change places, and one for its blurred copy, which turns cold.",
                mixed,
            )
            .of(&[PICTURE, output("dense-gaussian-blur")])
            .run_as(F32, NHWC)
            .shown(Tone::Plain, &[("group 0: picture", RGB), ("group 1: blurred", &[3, 4, 5])]),
        ],
    })
}

pub fn depthwise_section() -> Result<Section> {
    let effects = [Kernel::gaussian(9, 3.0), Kernel::sharpen().within([9, 9]), Kernel::identity(9)];
    let effects = conv(per_channel(), depthwise(&effects)?)?;
    let aberration = [Kernel::shift(11, 0, -5), Kernel::identity(11), Kernel::shift(11, 2, 5)];
    let aberration = conv(per_channel(), depthwise(&aberration)?)?;
    let pairs: Vec<Kernel> = (0..3).flat_map(|_| [Kernel::sobel_x(), Kernel::sobel_y()]).collect();
    let multiplier = conv(per_channel(), depthwise(&pairs)?)?;
    let lens = conv(per_channel(), depthwise(&[Kernel::disc(19), Kernel::disc(19), Kernel::disc(19)])?)?;
    Ok(Section {
        id: "depthwise",
        title: "Depthwise",
        text: "As many groups as channels: every channel has filters of its own and meets no other. A channel multiplier above 1 gives \
               each channel several outputs.",
        exhibits: vec![
            Exhibit::new(
                "depthwise-effects",
                "An effect for each colour",
                "Red is blurred, green is sharpened, blue stays: three 9×9 filters, one for each channel.",
                effects,
            )
            .run_as(F16, NHWC),
            Exhibit::new(
                "depthwise-aberration",
                "Chromatic aberration",
                "A filter with a single tap moves its channel: red five pixels to the right, blue five to the left and two up, as a \
                 cheap lens does.",
                aberration,
            )
            .run_as(BF16, NCHW),
            Exhibit::new(
                "depthwise-lens",
                "Out of focus",
                "A 19×19 disc: every point of light becomes the image of the lens opening. Depthwise, it costs a third of the dense form.",
                lens,
            )
            .run_as(F16, NCHW),
            Exhibit::new(
                "depthwise-multiplier",
                "Channel multiplier 2",
                "Each colour through both Sobel filters: three channels become six, two neighbours from each.",
                multiplier,
            )
            .run_as(F32, NHWC)
            .shown(
                Tone::Signed,
                &[
                    ("red, rightwards", &[0]),
                    ("green, rightwards", &[2]),
                    ("blue, rightwards", &[4]),
                    ("red, downwards", &[1]),
                    ("green, downwards", &[3]),
                    ("blue, downwards", &[5]),
                ],
            ),
        ],
    })
}

pub fn dilated() -> Result<Section> {
    let mut exhibits = scales()?;
    exhibits.extend(at_one_rate()?);
    Ok(Section {
        id: "dilated",
        title: "Dilated (à trous)",
        text: "The taps stand apart by a rate, so that a small filter sees far. Smoothing again and again with rates 1, 2, 4, 8 by the \
               same 5×5 B-spline takes the picture apart into scales (the à-trous wavelet); each layer below gives the smooth \
               picture and the detail that it has lost.",
        exhibits,
    })
}

/// The à-trous wavelet: the picture taken apart into scales, and put together again.
fn scales() -> Result<Vec<Exhibit>> {
    // smooth and detail of one channel are neighbours in the output
    let spline = Kernel::spline();
    let detail = Kernel::identity(5).plus(&spline.clone().scaled(-1.0));
    let scale = |rate| {
        let pairs: Vec<Kernel> = (0..3).flat_map(|_| [spline.clone(), detail.clone()]).collect();
        conv(Conv2dSpec { dilation: [rate, rate], ..per_channel() }, depthwise(&pairs)?)
    };
    const SMOOTH: &[usize] = &[0, 2, 4];
    const DETAIL: &[usize] = &[1, 3, 5];
    let smooth_of = |name| Part { source: Source::Output(name), channels: Some(SMOOTH) };
    let detail_of = |name| Part { source: Source::Output(name), channels: Some(DETAIL) };
    let layers = |name, title, text, rate, input: Part| -> Result<Exhibit> {
        let panels = vec![
            Panel { caption: "smooth", channels: SMOOTH, tone: Tone::Plain },
            Panel { caption: "detail", channels: DETAIL, tone: Tone::AroundGrey },
        ];
        Ok(Exhibit { panels, ..Exhibit::new(name, title, text, scale(rate)?).of(&[input]) })
    };
    let details = ["dilated-atrous-1", "dilated-atrous-2", "dilated-atrous-4", "dilated-atrous-8"].map(detail_of);
    let sum = |gains: [f32; 4]| {
        let rows: [[f32; 12]; 3] = std::array::from_fn(|c| std::array::from_fn(|k| if k % 3 == c { gains[k / 3] } else { 0.0 }));
        conv(Conv2dSpec::default(), matrix(&rows)?)
    };
    Ok(vec![
        layers("dilated-atrous-1", "Scale 1: rate 1", "The finest detail: hair, seams, grain.", 1, PICTURE)?,
        layers(
            "dilated-atrous-2",
            "Scale 2: rate 2",
            "The smooth picture of scale 1 once more, with holes of one pixel between the taps.",
            2,
            smooth_of("dilated-atrous-1"),
        )?,
        layers(
            "dilated-atrous-4",
            "Scale 3: rate 4",
            "As many taps as before, further apart: what is left are shapes.",
            4,
            smooth_of("dilated-atrous-2"),
        )?,
        layers(
            "dilated-atrous-8",
            "Scale 4: rate 8",
            "The field about doubles with each layer, while parameters and work stay the same.",
            8,
            smooth_of("dilated-atrous-4"),
        )?,
        Exhibit::new(
            "dilated-sum",
            "Put together again",
            "A 1×1 layer adds up the four details, and the last smooth picture comes in as its residual: the picture is back.",
            sum([1.0; 4])?,
        )
        .of(&details)
        .plus(smooth_of("dilated-atrous-8")),
        Exhibit::new(
            "dilated-equaliser",
            "An equaliser for pictures",
            "The same sum with a gain for each scale, on top of the picture itself: the middle scales get the most.",
            sum([0.5, 0.8, 0.6, 0.3])?,
        )
        .of(&details)
        .plus(PICTURE)
        .run_as(F16, NHWC),
    ])
}

/// Single dilated filters.
fn at_one_rate() -> Result<Vec<Exhibit>> {
    let ghosts = Conv2dSpec { dilation: [1, 20], ..same() };
    let ghosts = conv(ghosts, each_channel(&Kernel::new([[0.05, 0.15, 0.6, 0.15, 0.05]]), 3)?)?;
    let clarity = Kernel::identity(3).plus(&Kernel::mean(3).scaled(-1.0)).scaled(0.8).plus(&Kernel::identity(3));
    let clarity = conv(Conv2dSpec { dilation: [9, 9], ..same() }, each_channel(&clarity, 3)?)?;
    let holes = conv(Conv2dSpec { dilation: [14, 14], ..per_channel() }, depthwise(&[Kernel::mean(3), Kernel::mean(3), Kernel::mean(3)])?)?;
    let coarse = conv(Conv2dSpec { dilation: [6, 6], ..same() }, of_brightness(&[Kernel::laplacian()])?)?;
    Ok(vec![
        Exhibit::new(
            "dilated-ghosts",
            "A rate for each axis",
            "Five taps in a row, 20 pixels apart: the picture and its echoes. The vertical rate stays 1.",
            ghosts,
        )
        .run_as(BF16, NHWC),
        Exhibit::new(
            "dilated-clarity",
            "Clarity",
            "The pixel against the mean of nine that stand nine apart: sharpening at a coarse scale lifts shapes, not grain.",
            clarity,
        )
        .run_as(F16, NCHW),
        Exhibit::new(
            "dilated-holes",
            "Why a pyramid begins at rate 1",
            "A 3×3 mean at rate 14 alone does not blur. It sees nine pixels and none between them, and nine pictures overlap.",
            holes,
        )
        .run_as(BF16, NCHW),
        Exhibit::new(
            "dilated-laplacian",
            "The Laplacian at rate 6",
            "The same nine numbers as in the dense section, seen from further away: blobs instead of lines.",
            coarse,
        )
        .run_as(F16, NCHW)
        .shown(Tone::Signed, &[("output", &[0])]),
    ])
}
