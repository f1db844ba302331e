//! What a layer tells about itself: its formula, its arithmetic, its filters and what it sees,
//! drawn.

mod deformable;
mod regions;
mod resampling;
mod separable;
mod transposed;

use super::exhibits::ROIS;
use super::run::Operands;
use std::fmt::Write;
use warpconv::analysis::ReceptiveField;
use warpconv::geometry::{ConvGeometry, kernel_span};
use warpconv::{Activation, AnyLayer, Conv2d, Error, Layer, Result};

/// A layer described for one input.
pub struct Portrait {
    /// HTML.
    pub formula: String,
    /// The computation of the output's height and width, HTML.
    pub size: Vec<String>,
    /// Filters, what the first output reads, and the like.
    pub drawings: Vec<Drawing>,
    /// What an output sees, in words, where it is not what the analysis says.
    pub sees: Option<String>,
}

/// A small drawing.
pub struct Drawing {
    pub svg: String,
    pub caption: &'static str,
}

impl Drawing {
    fn filters(svg: String) -> Self {
        Self { svg, caption: "filters" }
    }
}

/// Describes a layer of any kind on these operands.
///
/// # Errors
/// What the layer refuses; [`Error::Attribute`] for a kind that has no portrait yet.
pub fn portrait(layer: &AnyLayer, operands: &Operands) -> Result<Portrait> {
    let (x, residual) = (operands["x"].shape4(), operands.contains_key("residual"));
    let rois = operands.get(ROIS).map_or(0, |rois| rois.shape[0]);
    match layer {
        AnyLayer::Conv2d(layer) => conv2d(layer, &layer.geometry(x)?, residual),
        AnyLayer::ConvTranspose2d(layer) => transposed::portrait(layer, x),
        AnyLayer::SubPixelConv2d(layer) => resampling::sub_pixel(layer, x),
        AnyLayer::PixelShuffle(layer) => resampling::pixel_shuffle(layer, x),
        AnyLayer::PixelUnshuffle(layer) => resampling::pixel_unshuffle(layer, x),
        AnyLayer::Focus(layer) => resampling::focus(layer, x, residual),
        AnyLayer::UpsampleBilinear(layer) => resampling::upsample_bilinear(layer, x),
        AnyLayer::DepthwiseSeparableConv2d(layer) => separable::depthwise(layer, x, residual),
        AnyLayer::SpatiallySeparableConv2d(layer) => separable::spatially(layer, x, residual),
        AnyLayer::DeformConv2d(layer) => deformable::deform_conv2d(layer, x, operands.contains_key("mask"), residual),
        AnyLayer::RoiAlign(layer) => regions::roi_align(layer, x, rois),
        AnyLayer::RoiPool(layer) => regions::roi_pool(layer, x, rois),
        AnyLayer::DeformRoiPool(layer) => regions::deform_roi_pool(layer, x, rois),
        other => Err(Error::Attribute { name: "op", value: other.spec().op().into(), requirement: "one that the gallery can draw" }),
    }
}

/// Whether an output pixel depends on the channels of one input pixel by a matrix.
pub fn is_pointwise(layer: &AnyLayer) -> bool {
    matches!(layer, AnyLayer::Conv2d(layer) if layer.weight().shape()[2..] == [1, 1])
}

/// The receptive field of a layer, `own`, on top of another one. None where one of them differs
/// from pixel to pixel.
pub fn field_on_top(own: Option<ReceptiveField>, below: Option<ReceptiveField>) -> Option<ReceptiveField> {
    let (own, below) = (own?, below?);
    Some(ReceptiveField {
        size: [0, 1].map(|i| below.size[i] + (own.size[i] - 1) * below.jump[i]),
        jump: [0, 1].map(|i| below.jump[i] * own.jump[i]),
        start: [0, 1].map(|i| below.start[i] + own.start[i] * below.jump[i] as f64),
    })
}

fn conv2d(layer: &Conv2d, g: &ConvGeometry, residual: bool) -> Result<Portrait> {
    let mut drawings = vec![Drawing::filters(Filters::of(g).draw(|o, c| taps(layer, g, o, c)))];
    if g.kernel != [1, 1] || g.stride != [1, 1] || g.padding != [0; 4] {
        drawings.push(field(g)?);
    }
    Ok(Portrait { formula: Sum::of(layer, g, residual).formula(), size: sizes(g)?, drawings, sees: None })
}

/// The filter of output channel `o` for channel `c` of its group.
fn taps<'a>(layer: &'a Conv2d, g: &ConvGeometry, o: usize, c: usize) -> &'a [f32] {
    let size = g.kernel[0] * g.kernel[1];
    &layer.weight().values()[(o * (g.c_in / g.groups) + c) * size..][..size]
}

/// The output's height and width.
fn sizes(g: &ConvGeometry) -> Result<Vec<String>> {
    Ok(vec![size_sum("height", g, 0)?, size_sum("width", g, 1)?])
}

/// A convolution with the names that its formula has for things.
struct Sum<'a> {
    g: &'a ConvGeometry,
    bias: bool,
    residual: bool,
    activation: Activation,
    y: &'a str,
    w: &'a str,
    x: &'a str,
    /// Added to the row and to the column.
    moved: [&'a str; 2],
    /// In front of the sample.
    factor: &'a str,
}

impl<'a> Sum<'a> {
    fn of(layer: &Conv2d, g: &'a ConvGeometry, residual: bool) -> Self {
        let (bias, activation) = (layer.bias().is_some(), layer.attributes().activation);
        Self { g, bias, residual, activation, y: "y", w: "w", x: "x", moved: ["", ""], factor: "" }
    }

    fn named(self, y: &'a str, w: &'a str, x: &'a str) -> Self {
        Self { y, w, x, ..self }
    }

    /// `y[o, p, q] = act(b[o] + sum w[o, c, i, j] x[c, 2p + i - 1, ...])` with this layer's
    /// numbers.
    fn formula(&self) -> String {
        let g = self.g;
        let group_channels = g.c_in / g.groups;
        let group_outputs = g.c_out / g.groups;
        let position = |axis: usize, output: &str, tap: &str| {
            let mut text = if g.stride[axis] == 1 { String::new() } else { format!("{}", g.stride[axis]) };
            text += output;
            if g.kernel[axis] > 1 {
                let step = g.dilation[axis];
                text += &if step == 1 { format!(" + {tap}") } else { format!(" + {step}{tap}") };
            }
            if g.padding[axis] > 0 {
                let _ = write!(text, " − {}", g.padding[axis]);
            }
            text + self.moved[axis]
        };
        // the group of output o, in input channels
        let first = match (g.groups, group_outputs) {
            (1, _) => String::new(),
            (_, 1) => "<i>o</i>".into(),
            (_, outputs) => format!("⌊<i>o</i>/{outputs}⌋"),
        };
        let channel = match (g.groups, group_channels) {
            (1, _) => "<i>c</i>".into(),
            (_, 1) => first,
            (_, channels) => format!("{channels}{first} + <i>c</i>"),
        };
        let mut indices = Vec::new();
        let mut tap = String::from("<i>o</i>");
        for (name, count) in [("c", group_channels), ("i", g.kernel[0]), ("j", g.kernel[1])] {
            if count > 1 {
                indices.push(format!("<i>{name}</i>&lt;{count}"));
                let _ = write!(tap, ", <i>{name}</i>");
            }
        }
        let sum =
            if indices.is_empty() { String::new() } else { format!("<span class=\"sum\">∑</span><sub>{}</sub> ", indices.join(", ")) };
        let [row, column] = [position(0, "<i>p</i>", "<i>i</i>"), position(1, "<i>q</i>", "<i>j</i>")];
        let Self { y, w, x, factor, .. } = self;
        let mut z = format!("{sum}<i>{w}</i>[{tap}] {factor}<i>{x}</i>[{channel}, {row}, {column}]");
        if self.bias {
            z = format!("<i>b</i>[<i>o</i>] + {z}");
        }
        if self.residual {
            z += " + <i>r</i>[<i>o</i>, <i>p</i>, <i>q</i>]";
        }
        if self.activation != Activation::None {
            z = format!("{}( {z} )", self.activation.name());
        }
        format!("<i>{y}</i>[<i>o</i>, <i>p</i>, <i>q</i>] = {z}")
    }
}

/// `height: floor((512 + 3 + 3 - 1·(7 - 1) - 1) / 1) + 1 = 512`.
fn size_sum(name: &str, g: &ConvGeometry, axis: usize) -> Result<String> {
    let (input, before, after, kernel) = (g.input[axis], g.padding[axis], g.padding[axis + 2], g.kernel[axis]);
    let (dilation, stride, output) = (g.dilation[axis], g.stride[axis], g.output[axis]);
    let span = kernel_span(kernel, dilation)?;
    Ok(format!(
        "<span class=\"label\">{name}</span> ⌊({input} + {before} + {after} − ({dilation}·({kernel} − 1) + 1)) / {stride}⌋ + 1 \
         = ⌊{} / {stride}⌋ + 1 = <b>{output}</b>",
        input + before + after - span
    ))
}

/// Text for a filter's tap: two digits where they are there.
fn short(value: f32) -> String {
    let text = if value.abs() < 1.0 { format!("{value:.2}") } else { format!("{value:.1}") };
    let text = text.trim_end_matches('0').trim_end_matches('.');
    let text = text.replacen("0.", ".", usize::from(text.starts_with("0.") || text.starts_with("-0.")));
    match text.as_str() {
        "" | "-" | "-0" => "0".into(),
        text => text.replace('-', "−"),
    }
}

/// Squares of one shade: `M x y h1v1h-1z` for each, in steps of opacity, since one element a tap
/// would be a large page.
struct Shades {
    paths: Vec<String>,
}

impl Default for Shades {
    fn default() -> Self {
        Self { paths: vec![String::new(); 2 * Self::STEPS] }
    }
}

impl Shades {
    const STEPS: usize = 16;

    /// A tap from -1 to 1.
    fn add(&mut self, x: usize, y: usize, value: f32) {
        // the root shows small taps beside large ones
        let step = (value.abs().sqrt() * Self::STEPS as f32).ceil() as usize;
        if step > 0 {
            let path = &mut self.paths[(step - 1).min(Self::STEPS - 1) + if value < 0.0 { Self::STEPS } else { 0 }];
            let _ = write!(path, "M{x} {y}h1v1h-1z");
        }
    }

    fn draw(&self, svg: &mut String) {
        for (index, path) in self.paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            let class = if index < Self::STEPS { "positive" } else { "negative" };
            let opacity = (index % Self::STEPS + 1) as f32 / Self::STEPS as f32;
            let _ = write!(svg, "<path class=\"{class}\" fill-opacity=\"{opacity:.2}\" d=\"{path}\"/>");
        }
    }
}

/// The matrix of filters: a row for each output channel, a column for each input channel, nothing
/// where no connection is.
struct Filters {
    c_in: usize,
    c_out: usize,
    groups: usize,
    kernel: [usize; 2],
}

impl Filters {
    fn of(g: &ConvGeometry) -> Self {
        Self { c_in: g.c_in, c_out: g.c_out, groups: g.groups, kernel: g.kernel }
    }

    /// `taps` gives those from channel c of a group to output channel o. The strongest of each row
    /// has the full colour.
    fn draw<'a>(&self, taps: impl Fn(usize, usize) -> &'a [f32]) -> String {
        /// Cells between two filters.
        const GAP: usize = 1;
        /// More numbers than this cannot be read.
        const MOST_NUMBERS: usize = 40;
        let Self { c_in, c_out, groups, kernel: [kh, kw] } = *self;
        let group_channels = c_in / groups;
        let gap = if [kh, kw] == [1, 1] { 0 } else { GAP };
        let (width, height) = (c_in * (kw + gap) - gap, c_out * (kh + gap) - gap);
        let numbers = c_out * group_channels * kh * kw <= MOST_NUMBERS && width <= 12;
        let mut cells = Cells::default();
        for o in 0..c_out {
            let first = o / (c_out / groups) * group_channels;
            let row = || (0..group_channels).map(|c| taps(o, c));
            let most = row().flatten().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
            for (c, values) in row().enumerate() {
                cells.filter([o * (kh + gap), (first + c) * (kw + gap)], kw, values, most, numbers);
            }
        }
        cells.draw([height, width], &format!("{c_out} by {c_in} filters of {kh} by {kw} taps"))
    }
}

/// Filters as squares of one shade a tap.
#[derive(Default)]
struct Cells {
    shades: Shades,
    frames: String,
    texts: String,
}

impl Cells {
    /// A filter of rows of `kw` taps, the strongest of which is `most`, with its top left corner
    /// somewhere.
    fn filter(&mut self, [top, left]: [usize; 2], kw: usize, taps: &[f32], most: f32, numbers: bool) {
        let _ = write!(self.frames, "M{left} {top}h{kw}v{}h-{kw}z", taps.len() / kw);
        for (index, &value) in taps.iter().enumerate() {
            let (y, x) = (top + index / kw, left + index % kw);
            self.shades.add(x, y, value / most);
            if numbers && value != 0.0 {
                let _ = write!(self.texts, "<text x=\"{x}.5\" y=\"{y}.64\">{}</text>", short(value));
            }
        }
    }

    fn draw(&self, [height, width]: [usize; 2], label: &str) -> String {
        let mut svg = format!(
            "<svg class=\"filters\" viewBox=\"-.1 -.1 {width}.2 {height}.2\" role=\"img\" aria-label=\"{label}\">\
             <path class=\"outline\" d=\"{}\"/>",
            self.frames
        );
        self.shades.draw(&mut svg);
        svg + &self.texts + "</svg>"
    }
}

/// The top left corner of the picture: the taps of the first output, and the windows of its
/// neighbours.
fn field(g: &ConvGeometry) -> Result<Drawing> {
    let own = ReceptiveField::input().then(g.kernel, g.stride, g.dilation, g.padding)?;
    let ([rows, columns], next) = (own.region([0, 0])?, own.region([1, 1])?);
    let windows = Windows {
        first: [rows.start, columns.start],
        next: [next[0].start, next[1].start],
        size: own.size,
        picture: g.input,
        step: g.dilation,
    };
    let label =
        format!("The first output pixel reads {} pixels of a window of {} by {}", g.kernel[0] * g.kernel[1], own.size[0], own.size[1]);
    Ok(Drawing { svg: windows.draw(&label), caption: "what the first output reads" })
}

/// Two neighbouring windows at the top left corner of a picture.
struct Windows {
    /// Row and column of the first one's first pixel, and of its neighbour below and to the right.
    first: [i64; 2],
    next: [i64; 2],
    size: [usize; 2],
    /// Height and width of the picture.
    picture: [usize; 2],
    /// From tap to tap.
    step: [usize; 2],
}

impl Windows {
    fn draw(&self, label: &str) -> String {
        /// Above as many cells a grid would be a grey area.
        const MOST_LINES: i64 = 48;
        let Self { first: [y, x], next: [below, beside], size: [rows, columns], .. } = *self;
        let (top, left) = (y.min(0) - 1, x.min(0) - 1);
        let (bottom, right) = ((below + rows as i64).max(3) + 1, (beside + columns as i64).max(3) + 1);
        let (width, height) = (right - left, bottom - top);
        let (in_width, in_height) = (right.min(self.picture[1] as i64), bottom.min(self.picture[0] as i64));
        let mut taps = String::new();
        for i in (0..rows).step_by(self.step[0]) {
            for j in (0..columns).step_by(self.step[1]) {
                let _ = write!(taps, "M{:.2} {:.2}h.76v.76h-.76z", (x + j as i64) as f64 + 0.12, (y + i as i64) as f64 + 0.12);
            }
        }
        let mut svg = format!(
            "<svg class=\"field\" viewBox=\"{left} {top} {width} {height}\" role=\"img\" aria-label=\"{label}\">\
             <path class=\"padding\" d=\"M{left} {top}h{width}v{height}h-{width}z\"/>\
             <path class=\"inside\" d=\"M0 0H{in_width}V{in_height}H0z\"/>",
        );
        if width.max(height) <= MOST_LINES {
            let lines: String = (left..=right)
                .map(|x| format!("M{x} {top}V{bottom}"))
                .chain((top..=bottom).map(|y| format!("M{left} {y}H{right}")))
                .collect();
            let _ = write!(svg, "<path class=\"lines\" d=\"{lines}\"/>");
        }
        let frame = |class: &str, x: i64| format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{columns}\" height=\"{rows}\"/>");
        let _ = write!(svg, "<path class=\"taps\" d=\"{taps}\"/>");
        svg + &frame("window", x) + &frame("next", beside) + "</svg>"
    }
}

/// Curves of outputs 0 to 1 over a ramp from 0 to 1, one for each channel: SVG.
pub fn curves(channels: &[Vec<f32>]) -> String {
    const SIDE: f32 = 100.0;
    const COLOURS: [&str; 3] = ["red", "green", "blue"];
    let mut svg = format!(
        "<svg class=\"curves\" viewBox=\"-2 -2 104 104\" role=\"img\" \
         aria-label=\"Output over a grey ramp\"><path class=\"inside\" d=\"M0 0H{SIDE}V{SIDE}H0z\"/>\
         <path class=\"lines\" d=\"M25 0V100M50 0V100M75 0V100M0 25H100M0 50H100M0 75H100\"/><path class=\"lines\" d=\"M0 100L100 0\"/>"
    );
    for (index, values) in channels.iter().enumerate() {
        let step = SIDE / (values.len().max(2) - 1) as f32;
        let points = values.iter().enumerate().map(|(i, v)| format!("{:.1},{:.1}", i as f32 * step, SIDE * (1.0 - v.clamp(-0.02, 1.02))));
        let class = if channels.len() == 3 { COLOURS[index] } else { "ink" };
        let _ = write!(svg, "<polyline class=\"curve {class}\" points=\"{}\"/>", points.collect::<Vec<_>>().join(" "));
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::super::run::Values;
    use super::*;
    use warpconv::{Conv2dSpec, Padding, Parameter};

    #[test]
    fn a_formula_has_the_numbers_of_its_layer() {
        let spec = Conv2dSpec {
            stride: [2, 1],
            padding: Padding::Explicit([4, 0, 0, 0]),
            dilation: [3, 1],
            groups: 2,
            activation: Activation::Relu,
        };
        let layer = Conv2d::new(spec, Parameter::new(&[4, 3, 3, 1], &[0f32; 36]).unwrap()).unwrap();
        let x = Values { shape: vec![1, 6, 20, 20], values: vec![] };
        let residual = Values { shape: vec![1, 4, 9, 20], values: vec![] };
        let portrait = portrait(&AnyLayer::Conv2d(layer), &Operands::from([("x", x), ("residual", residual)])).unwrap();
        let plain = portrait.formula.replace("<i>", "").replace("</i>", "");
        assert_eq!(
            plain,
            "y[o, p, q] = relu( <span class=\"sum\">∑</span><sub>c&lt;3, i&lt;3</sub> w[o, c, i] x[3⌊o/2⌋ + c, 2p + 3i − 4, q] + r[o, p, q] )"
        );
        assert!(portrait.size[0].ends_with("(20 + 4 + 0 − (3·(3 − 1) + 1)) / 2⌋ + 1 = ⌊17 / 2⌋ + 1 = <b>9</b>"), "{}", portrait.size[0]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([-1.0, 0.5, -0.25, 1.5, 0.001, -0.001, 10.0].map(short), ["−1", ".5", "−.25", "1.5", "0", "0", "10"]);
    }
}
