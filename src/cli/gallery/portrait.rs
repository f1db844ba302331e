//! What a layer tells about itself: its formula, its arithmetic, its filters and what it sees, drawn.

use std::fmt::Write;
use warpconv::analysis::ReceptiveField;
use warpconv::geometry::{ConvGeometry, kernel_span};
use warpconv::{AnyLayer, Conv2d, Error, Layer, Result, Shape};

/// A layer described for one input.
pub struct Portrait {
    /// HTML.
    pub formula: String,
    /// The computation of the output's height and width, HTML.
    pub size: Vec<String>,
    /// SVG.
    pub filters: String,
    /// SVG; none for a layer that reads a single pixel.
    pub field: Option<String>,
    /// Height and width of the kernel, as the receptive field takes it.
    pub kernel: [usize; 2],
}

/// Describes a layer of any kind on an input of shape `x`.
///
/// # Errors
/// What the layer refuses; [`Error::Attribute`] for a kind that has no portrait yet.
pub fn portrait(layer: &AnyLayer, x: Shape, residual: bool) -> Result<Portrait> {
    match layer {
        AnyLayer::Conv2d(layer) => conv2d(layer, x, residual),
        other => Err(Error::Attribute { name: "op", value: other.spec().op().into(), requirement: "one that the gallery can draw" }),
    }
}

/// The receptive field of `layer` on top of one.
///
/// # Errors
/// As [`portrait`].
pub fn field_on_top(layer: &AnyLayer, of: ReceptiveField, kernel: [usize; 2]) -> Result<ReceptiveField> {
    match layer {
        AnyLayer::Conv2d(layer) => of.then_conv2d(layer.attributes(), kernel),
        other => Err(Error::Attribute { name: "op", value: other.spec().op().into(), requirement: "one that the gallery can draw" }),
    }
}

fn conv2d(layer: &Conv2d, x: Shape, residual: bool) -> Result<Portrait> {
    let g = layer.geometry(x)?;
    Ok(Portrait {
        formula: formula(layer, &g, residual),
        size: vec![size_sum("height", &g, 0)?, size_sum("width", &g, 1)?],
        filters: filters(layer, &g),
        field: (g.kernel != [1, 1] || g.stride != [1, 1] || g.padding != [0; 4]).then(|| field(layer, &g)).transpose()?,
        kernel: g.kernel,
    })
}

/// `y[o, p, q] = act(b[o] + sum w[o, c, i, j] x[c, 2p + i - 1, ...])` with this layer's numbers.
fn formula(layer: &Conv2d, g: &ConvGeometry, residual: bool) -> String {
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
        text
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
    let sum = if indices.is_empty() { String::new() } else { format!("<span class=\"sum\">∑</span><sub>{}</sub> ", indices.join(", ")) };
    let [row, column] = [position(0, "<i>p</i>", "<i>i</i>"), position(1, "<i>q</i>", "<i>j</i>")];
    let mut z = format!("{sum}<i>w</i>[{tap}] <i>x</i>[{channel}, {row}, {column}]");
    if layer.bias().is_some() {
        z = format!("<i>b</i>[<i>o</i>] + {z}");
    }
    if residual {
        z += " + <i>r</i>[<i>o</i>, <i>p</i>, <i>q</i>]";
    }
    let activation = layer.attributes().activation;
    if activation != warpconv::Activation::None {
        z = format!("{}( {z} )", activation.name());
    }
    format!("<i>y</i>[<i>o</i>, <i>p</i>, <i>q</i>] = {z}")
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

/// Squares of one shade: `M x y h1v1h-1z` for each, in steps of opacity, since one element a tap would be a large page.
struct Shades {
    paths: Vec<String>,
}

impl Shades {
    const STEPS: usize = 16;

    fn new() -> Self {
        Self { paths: vec![String::new(); 2 * Self::STEPS] }
    }

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

/// The matrix of filters: a row for each output channel, a column for each input channel, nothing where no connection is. The
/// strongest tap of each row has the full colour.
fn filters(layer: &Conv2d, g: &ConvGeometry) -> String {
    /// Cells between two filters.
    const GAP: usize = 1;
    /// More numbers than this cannot be read.
    const MOST_NUMBERS: usize = 40;
    let [kh, kw] = g.kernel;
    let group_channels = g.c_in / g.groups;
    let values = layer.weight().values();
    let gap = if g.kernel == [1, 1] { 0 } else { GAP };
    let (width, height) = (g.c_in * (kw + gap) - gap, g.c_out * (kh + gap) - gap);
    let numbers = values.len() <= MOST_NUMBERS && width <= 12;
    let (mut shades, mut frames, mut texts) = (Shades::new(), String::new(), String::new());
    for o in 0..g.c_out {
        let first = o / (g.c_out / g.groups) * group_channels;
        let row = &values[o * group_channels * kh * kw..][..group_channels * kh * kw];
        let most = row.iter().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
        for c in 0..group_channels {
            let (left, top) = ((first + c) * (kw + gap), o * (kh + gap));
            let _ = write!(frames, "M{left} {top}h{kw}v{kh}h-{kw}z");
            for i in 0..kh {
                for j in 0..kw {
                    let value = row[(c * kh + i) * kw + j];
                    shades.add(left + j, top + i, value / most);
                    if numbers && value != 0.0 {
                        let _ = write!(texts, "<text x=\"{}.5\" y=\"{}.64\">{}</text>", left + j, top + i, short(value));
                    }
                }
            }
        }
    }
    let mut svg = format!(
        "<svg class=\"filters\" viewBox=\"-.1 -.1 {width}.2 {height}.2\" role=\"img\" \
         aria-label=\"{} by {} filters of {kh} by {kw} taps\"><path class=\"outline\" d=\"{frames}\"/>",
        g.c_out, g.c_in,
    );
    shades.draw(&mut svg);
    svg + &texts + "</svg>"
}

/// The top left corner of the picture: the taps of the first output, and the windows of its neighbours.
fn field(layer: &Conv2d, g: &ConvGeometry) -> Result<String> {
    /// Above as many cells a grid would be a grey area.
    const MOST_LINES: i64 = 48;
    let own = ReceptiveField::input().then_conv2d(layer.attributes(), g.kernel)?;
    let [rows, columns] = own.region([0, 0])?;
    let beside = own.region([0, 1])?[1].clone();
    let below = own.region([1, 0])?[0].clone();
    let (top, left) = (rows.start.min(0) - 1, columns.start.min(0) - 1);
    let (bottom, right) = (below.end.max(3) + 1, beside.end.max(3) + 1);
    let (width, height) = (right - left, bottom - top);
    let (in_width, in_height) = (right.min(g.input[1] as i64), bottom.min(g.input[0] as i64));
    let mut taps = String::new();
    for i in 0..g.kernel[0] {
        for j in 0..g.kernel[1] {
            let (y, x) = (rows.start + (i * g.dilation[0]) as i64, columns.start + (j * g.dilation[1]) as i64);
            let _ = write!(taps, "M{:.2} {:.2}h.76v.76h-.76z", x as f64 + 0.12, y as f64 + 0.12);
        }
    }
    let mut svg = format!(
        "<svg class=\"field\" viewBox=\"{left} {top} {width} {height}\" role=\"img\" \
         aria-label=\"The first output pixel reads {} pixels of a window of {} by {}\">\
         <path class=\"padding\" d=\"M{left} {top}h{width}v{height}h-{width}z\"/>\
         <path class=\"inside\" d=\"M0 0H{in_width}V{in_height}H0z\"/>",
        g.kernel[0] * g.kernel[1],
        own.size[0],
        own.size[1],
    );
    if width.max(height) <= MOST_LINES {
        let lines: String =
            (left..=right).map(|x| format!("M{x} {top}V{bottom}")).chain((top..=bottom).map(|y| format!("M{left} {y}H{right}"))).collect();
        let _ = write!(svg, "<path class=\"lines\" d=\"{lines}\"/>");
    }
    let frame = |class: &str, x: i64, y: i64| {
        format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"/>", own.size[1], own.size[0])
    };
    let _ = write!(svg, "<path class=\"taps\" d=\"{taps}\"/>");
    svg += &frame("window", columns.start, rows.start);
    svg += &frame("next", beside.start, rows.start);
    Ok(svg + "</svg>")
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
    use super::*;
    use warpconv::{Activation, Conv2dSpec, Padding, Parameter};

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
        let portrait = portrait(&AnyLayer::Conv2d(layer), [1, 6, 20, 20], true).unwrap();
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
