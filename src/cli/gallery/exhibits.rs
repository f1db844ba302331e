//! What the gallery shows: one entry for each convolution. A new kind of layer is a new section and its entries.

mod deformable;
mod regions;
mod separable;
mod sub_pixel;
mod transposed;

use super::filters::{Kernel, LUMA, depthwise, each_channel, groups_of_three, matrix, of_brightness};
use super::overlay::Overlay;
use super::pictures::{Planes, Tone};
use super::run::Values;
use std::collections::BTreeMap;
use warpconv::{Activation, AnyLayer, Conv2dSpec, DType, LayerSpec, MemoryFormat, Padding, Parameter, Result};

/// Exhibits of one kind of convolution.
pub struct Section {
    /// Its anchor on the page.
    pub id: &'static str,
    pub title: &'static str,
    pub text: &'static str,
    pub exhibits: Vec<Exhibit>,
}

/// One convolution of a picture.
pub struct Exhibit {
    /// The stem of its files' names.
    pub name: &'static str,
    pub title: &'static str,
    pub text: &'static str,
    pub model: Model,
    pub input: Vec<Part>,
    /// Added before the activation.
    pub residual: Option<Part>,
    /// Where a deformable layer samples, and by what it multiplies its samples. Both are f32 in every dtype.
    pub offset: Option<Operand>,
    pub mask: Option<Operand>,
    /// The regions that a layer pools, for a picture of this height and width.
    pub rois: Option<fn([usize; 2]) -> Rois>,
    pub dtype: DType,
    pub format: MemoryFormat,
    pub panels: Vec<Panel>,
    /// Drawn over the input.
    pub overlay: Option<Overlay>,
    /// Runs it in every dtype and format besides.
    pub every_type: bool,
}

/// The name of the regions among the inputs of a layer.
pub const ROIS: &str = "rois";

/// Batch index, x1, y1, x2, y2 of each.
pub type Rois = Vec<[f32; 5]>;

/// A tensor that a layer reads besides its input.
#[derive(Debug, Clone, Copy)]
pub enum Operand {
    /// Of a layer before.
    Of(Part),
    /// From the layer's input.
    Computed(fn(&Planes) -> Values),
}

/// A layer, and the tensors that it is made of by their names.
pub struct Model {
    pub layer: AnyLayer,
    pub parameters: BTreeMap<String, Parameter>,
}

impl Model {
    fn new<const P: usize>(spec: LayerSpec, parameters: [(&str, Parameter); P]) -> Result<Self> {
        let parameters = BTreeMap::from(parameters.map(|(name, parameter)| (name.to_string(), parameter)));
        Ok(Self { layer: AnyLayer::new(spec, parameters.clone())?, parameters })
    }
}

/// Channels of something that is there already: the input is the concatenation of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub source: Source,
    /// None: all of them.
    pub channels: Option<&'static [usize]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The picture in red, green and blue.
    Picture,
    /// The picture without its last row or column where their number is odd.
    EvenPicture,
    /// The output of an earlier exhibit.
    Output(&'static str),
}

/// One channel (grey) or three (red, green, blue) of an output, and how they are shown.
#[derive(Debug, Clone, Copy)]
pub struct Panel {
    pub caption: &'static str,
    pub channels: &'static [usize],
    pub tone: Tone,
}

const PICTURE: Part = Part { source: Source::Picture, channels: None };
const RGB: &[usize] = &[0, 1, 2];

impl Exhibit {
    fn new(name: &'static str, title: &'static str, text: &'static str, model: Model) -> Self {
        Self {
            name,
            title,
            text,
            model,
            input: vec![PICTURE],
            residual: None,
            offset: None,
            mask: None,
            rois: None,
            dtype: DType::F32,
            format: MemoryFormat::Contiguous,
            panels: vec![Panel { caption: "output", channels: RGB, tone: Tone::Plain }],
            overlay: None,
            every_type: false,
        }
    }

    fn of(self, input: &[Part]) -> Self {
        Self { input: input.to_vec(), ..self }
    }

    fn plus(self, residual: Part) -> Self {
        Self { residual: Some(residual), ..self }
    }

    fn sampled_at(self, offset: Operand) -> Self {
        Self { offset: Some(offset), ..self }
    }

    fn drawn_over(self, overlay: Overlay) -> Self {
        Self { overlay: Some(overlay), ..self }
    }

    fn run_as(self, dtype: DType, format: MemoryFormat) -> Self {
        Self { dtype, format, ..self }
    }

    fn shown(self, tone: Tone, panels: &[(&'static str, &'static [usize])]) -> Self {
        Self { panels: panels.iter().map(|&(caption, channels)| Panel { caption, channels, tone }).collect(), ..self }
    }
}

/// All channels of an earlier exhibit's output.
fn output(name: &'static str) -> Part {
    Part { source: Source::Output(name), channels: None }
}

fn conv(spec: Conv2dSpec, weight: Parameter) -> Result<Model> {
    Model::new(LayerSpec::Conv2d(spec), [("weight", weight)])
}

fn conv_with_bias(spec: Conv2dSpec, weight: Parameter, bias: &[f32]) -> Result<Model> {
    Model::new(LayerSpec::Conv2d(spec), [("weight", weight), ("bias", Parameter::vector(bias))])
}

/// The size stays.
fn same() -> Conv2dSpec {
    Conv2dSpec { padding: Padding::Same, ..Default::default() }
}

/// Each channel has a filter of its own.
fn per_channel() -> Conv2dSpec {
    Conv2dSpec { groups: 3, ..same() }
}

/// Every section, in the order of the page.
pub fn sections() -> Result<Vec<Section>> {
    Ok(vec![
        dense()?,
        strides_and_padding()?,
        pointwise()?,
        grouped()?,
        depthwise_section()?,
        dilated()?,
        transposed::section()?,
        sub_pixel::section()?,
        separable::section()?,
        deformable::section()?,
        regions::section()?,
    ])
}

const F32: DType = DType::F32;
const F16: DType = DType::F16;
const BF16: DType = DType::Bf16;
const NCHW: MemoryFormat = MemoryFormat::Contiguous;
const NHWC: MemoryFormat = MemoryFormat::ChannelsLast;

fn dense() -> Result<Section> {
    let blur = conv(same(), each_channel(&Kernel::gaussian(7, 1.8), 3)?)?;
    let sharpen = conv(same(), each_channel(&Kernel::sharpen(), 3)?)?;
    let emboss = conv_with_bias(same(), of_brightness(&[Kernel::emboss().scaled(0.8)])?, &[0.5])?;
    let sobel = conv(same(), of_brightness(&[Kernel::sobel_x(), Kernel::sobel_y()])?)?;
    let laplacian = conv(same(), of_brightness(&[Kernel::laplacian()])?)?;
    let bands = conv(same(), of_brightness(&[Kernel::gaussian(9, 1.2).plus(&Kernel::gaussian(9, 2.4).scaled(-1.0))])?)?;
    let motion = conv(same(), each_channel(&Kernel::motion(15, 35.0), 3)?)?;
    let directions: [f32; 8] = std::array::from_fn(|i| 45.0 * i as f32);
    let compass = of_brightness(&directions.map(Kernel::compass))?;
    let compass = conv(Conv2dSpec { activation: Activation::Relu, ..same() }, compass)?;
    Ok(Section {
        id: "dense",
        title: "Dense",
        text: "Every output channel sums over every input channel. The small squares below each picture are the filters: one row of \
               squares for each output channel, one column for each input channel, orange where a tap adds and blue where it subtracts.",
        exhibits: vec![
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
                &[
                    ("0°", &[0]),
                    ("45°", &[1]),
                    ("90°", &[2]),
                    ("135°", &[3]),
                    ("180°", &[4]),
                    ("225°", &[5]),
                    ("270°", &[6]),
                    ("315°", &[7]),
                ],
            ),
        ],
    })
}

fn strides_and_padding() -> Result<Section> {
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

fn pointwise() -> Result<Section> {
    let layer = |weight, bias: &[f32], activation| conv_with_bias(Conv2dSpec { activation, ..Default::default() }, weight, bias);
    let diagonal = |gain: f32| matrix(&[[gain, 0.0, 0.0], [0.0, gain, 0.0], [0.0, 0.0, gain]]);
    let grey = conv(Conv2dSpec::default(), matrix(&[LUMA])?)?;
    let sepia = matrix(&[[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])?;
    let sepia = conv(Conv2dSpec { activation: Activation::Tanh, ..Default::default() }, sepia)?;
    let turned = conv(Conv2dSpec::default(), matrix(&[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])?)?;
    let ycbcr = layer(matrix(&[LUMA, [-0.168_736, -0.331_264, 0.5], [0.5, -0.418_688, -0.081_312]])?, &[0.0, 0.5, 0.5], Activation::None)?;
    let contrast = layer(diagonal(9.0)?, &[-4.5; 3], Activation::Sigmoid)?;
    let hardswish = layer(diagonal(3.2)?, &[-1.6; 3], Activation::Hardswish)?;
    let threshold = layer(diagonal(2.0)?, &[-1.0; 3], Activation::Relu)?;
    let negative = layer(diagonal(-1.0)?, &[1.0; 3], Activation::None)?;
    // from a dark violet to a pale yellow
    let (dark, light) = ([0.16, 0.05, 0.32], [1.0, 0.91, 0.62]);
    let duotone: [[f32; 3]; 3] = std::array::from_fn(|colour| LUMA.map(|share| share * (light[colour] - dark[colour])));
    let duotone = layer(matrix(&duotone)?, &dark, Activation::Relu6)?;
    let edges = conv(Conv2dSpec::default(), matrix(&hues())?)?;
    Ok(Section {
        id: "pointwise",
        title: "1×1, with a nonlinearity",
        text: "A filter of one pixel is a matrix that every pixel's channels go through. With a bias and an activation it is a colour \
               grade; the curve shows what the layer makes of a grey ramp, drawn by running it on one.",
        exhibits: vec![
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
            Exhibit::new(
                "pointwise-edges",
                "Edges in the colour of their direction",
                "A second layer on the eight directions of the dense section: each direction brings its hue, and 1×1 adds them up.",
                edges,
            )
            .of(&[output("dense-compass")])
            .run_as(F16, NHWC)
            .shown(Tone::FromBlack, &[("output", RGB)]),
        ],
    })
}

/// A colour for each of the eight directions, red, green and blue one row each: the rainbow once around.
fn hues() -> [[f32; 8]; 3] {
    let tau = std::f32::consts::TAU;
    std::array::from_fn(|colour| std::array::from_fn(|i| 0.5 + 0.5 * (tau * (i as f32 / 8.0 - colour as f32 / 3.0)).cos()))
}

fn grouped() -> Result<Section> {
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

fn depthwise_section() -> Result<Section> {
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

fn dilated() -> Result<Section> {
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
    let ghosts = Conv2dSpec { dilation: [1, 20], ..same() };
    let ghosts = conv(ghosts, each_channel(&Kernel::new([[0.05, 0.15, 0.6, 0.15, 0.05]]), 3)?)?;
    let clarity = Kernel::identity(3).plus(&Kernel::mean(3).scaled(-1.0)).scaled(0.8).plus(&Kernel::identity(3));
    let clarity = conv(Conv2dSpec { dilation: [9, 9], ..same() }, each_channel(&clarity, 3)?)?;
    let holes = conv(Conv2dSpec { dilation: [14, 14], ..per_channel() }, depthwise(&[Kernel::mean(3), Kernel::mean(3), Kernel::mean(3)])?)?;
    let coarse = conv(Conv2dSpec { dilation: [6, 6], ..same() }, of_brightness(&[Kernel::laplacian()])?)?;
    Ok(Section {
        id: "dilated",
        title: "Dilated (à trous)",
        text: "The taps stand apart by a rate, so that a small filter sees far. Smoothing again and again with rates 1, 2, 4, 8 by the \
               same 5×5 B-spline takes the picture apart into scales (the à-trous wavelet); each layer below gives the smooth \
               picture and the detail that it has lost.",
        exhibits: vec![
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
        ],
    })
}
