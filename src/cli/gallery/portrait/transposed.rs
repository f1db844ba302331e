//! Transposed convolutions: what they write instead of what they read.

use super::{Drawing, Filters, Portrait, Windows};
use warpconv::geometry::kernel_span;
use warpconv::{Activation, ConvTranspose2d, Result, Shape};

/// As [`super::portrait`].
pub fn portrait(layer: &ConvTranspose2d, x: Shape) -> Result<Portrait> {
    let (g, spec) = (layer.geometry(x)?, layer.attributes());
    let group_out = g.c_out / g.groups;
    let size = g.kernel[0] * g.kernel[1];
    let taps = |o: usize, c: usize| {
        let channel = o / group_out * (g.c_in / g.groups) + c;
        &layer.weight().values()[(channel * group_out + o % group_out) * size..][..size]
    };
    let span = [kernel_span(g.kernel[0], g.dilation[0])?, kernel_span(g.kernel[1], g.dilation[1])?];
    let first = [0, 1].map(|axis| -(g.padding[axis] as i64));
    let next = [0, 1].map(|axis| first[axis] + g.stride[axis] as i64);
    let written = Windows { first, next, size: span, picture: g.output, step: g.dilation };
    let label = format!("The first input pixel is spread over {} by {} output pixels", span[0], span[1]);
    Ok(Portrait {
        formula: formula(layer, x)?,
        size: (0..2).map(|axis| size_sum(layer, x, axis)).collect::<Result<_>>()?,
        drawings: vec![
            Drawing::filters(Filters::of(&g).draw(taps)),
            Drawing { svg: written.draw(&label), caption: "where the first input is added" },
        ],
        sees: (spec.dilation == [1, 1]).then(|| sees(g.kernel, g.stride)),
    })
}

/// `y[o, 4p + i - 2, 4q + j - 2] += w[o, i, j] x[o, p, q]` with this layer's numbers.
fn formula(layer: &ConvTranspose2d, x: Shape) -> Result<String> {
    let (g, spec) = (layer.geometry(x)?, layer.attributes());
    let position = |axis: usize, input: &str, tap: &str| {
        let times = |factor: usize, name: &str| if factor == 1 { name.to_string() } else { format!("{factor}{name}") };
        let mut text = times(g.stride[axis], input);
        if g.kernel[axis] > 1 {
            text += &format!(" + {}", times(g.dilation[axis], tap));
        }
        if g.padding[axis] > 0 {
            text += &format!(" − {}", g.padding[axis]);
        }
        text
    };
    let depthwise = g.groups == g.c_in && g.groups == g.c_out;
    let (weight, output, channel) = match (depthwise, g.groups) {
        (true, _) => ("<i>c</i>", "<i>c</i>", "<i>c</i>"),
        (false, 1) => ("<i>c</i>, <i>o</i>", "<i>o</i>", "<i>c</i>"),
        (false, _) => ("<i>c</i>, <i>o</i>", "<i>o</i> of the group of <i>c</i>", "<i>c</i>"),
    };
    let taps: String =
        [("i", g.kernel[0]), ("j", g.kernel[1])].iter().filter(|(_, k)| *k > 1).map(|(i, _)| format!(", <i>{i}</i>")).collect();
    let sum = format!(
        "<i>y</i>[{output}, {}, {}] += <i>w</i>[{weight}{taps}] <i>x</i>[{channel}, <i>p</i>, <i>q</i>] for <i>i</i>&lt;{}, <i>j</i>&lt;{}",
        position(0, "<i>p</i>", "<i>i</i>"),
        position(1, "<i>q</i>", "<i>j</i>"),
        g.kernel[0],
        g.kernel[1],
    );
    let after = match (spec.activation, layer.bias().is_some()) {
        (Activation::None, false) => String::new(),
        (Activation::None, true) => "; then + <i>b</i>[<i>o</i>]".into(),
        (activation, false) => format!("; then {}", activation.name()),
        (activation, true) => format!("; then {}( <i>y</i> + <i>b</i>[<i>o</i>] )", activation.name()),
    };
    Ok(sum + &after)
}

/// `(128 - 1)·4 + 1·(8 - 1) + 1 + 0 - 2 - 2 = 512`.
fn size_sum(layer: &ConvTranspose2d, x: Shape, axis: usize) -> Result<String> {
    let (g, extra) = (layer.geometry(x)?, layer.attributes().output_padding[axis]);
    Ok(format!(
        "<span class=\"label\">{}</span> ({} − 1)·{} + {}·({} − 1) + 1 + {extra} − {} − {} = <b>{}</b>",
        ["height", "width"][axis],
        g.input[axis],
        g.stride[axis],
        g.dilation[axis],
        g.kernel[axis],
        g.padding[axis],
        g.padding[axis + 2],
        g.output[axis]
    ))
}

/// How many input pixels reach an output.
fn sees(kernel: [usize; 2], stride: [usize; 2]) -> String {
    let axis = |axis: usize| {
        let (fewest, most) = (kernel[axis] / stride[axis], kernel[axis].div_ceil(stride[axis]));
        if fewest == most { format!("{most}") } else { format!("{fewest} or {most}") }
    };
    format!("{}\u{a0}×\u{a0}{} inputs for each output", axis(0), axis(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use warpconv::{ConvTranspose2dSpec, Parameter};

    #[test]
    fn a_formula_has_the_numbers_of_its_layer() {
        let spec = ConvTranspose2dSpec { stride: [2, 2], padding: [1; 4], output_padding: [1, 1], ..Default::default() };
        let layer = ConvTranspose2d::new(spec, Parameter::new(&[2, 3, 3, 3], &[0f32; 54]).unwrap()).unwrap();
        let portrait = portrait(&layer, [1, 2, 8, 5]).unwrap();
        let plain = portrait.formula.replace("<i>", "").replace("</i>", "");
        assert_eq!(plain, "y[o, 2p + i − 1, 2q + j − 1] += w[c, o, i, j] x[c, p, q] for i&lt;3, j&lt;3");
        assert!(portrait.size[1].ends_with("(5 − 1)·2 + 1·(3 − 1) + 1 + 1 − 1 − 1 = <b>10</b>"), "{}", portrait.size[1]);
        assert_eq!(portrait.sees.unwrap().replace('\u{a0}', " "), "1 or 2 × 1 or 2 inputs for each output");
    }
}
