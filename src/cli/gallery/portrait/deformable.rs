//! Deformable convolutions.

use super::{Drawing, Filters, Portrait, Sum, field, sizes};
use warpconv::{DeformConv2d, Result, Shape};

/// As [`super::portrait`].
pub fn deform_conv2d(layer: &DeformConv2d, x: Shape, mask: bool, residual: bool) -> Result<Portrait> {
    let g = layer.geometry(x)?.conv;
    let size = g.kernel[0] * g.kernel[1];
    let taps = |o: usize, c: usize| &layer.weight().values()[(o * (g.c_in / g.groups) + c) * size..][..size];
    let sum = Sum {
        g: &g,
        bias: layer.bias().is_some(),
        residual,
        activation: layer.attributes().activation,
        y: "y",
        w: "w",
        x: "x",
        moved: [" + Δ<i>y</i>", " + Δ<i>x</i>"],
        factor: if mask { "<i>m</i> " } else { "" },
    };
    let index = if size > 1 { "<i>i</i>, <i>j</i>, <i>p</i>, <i>q</i>" } else { "<i>p</i>, <i>q</i>" };
    let masked = if mask { ", and so does <i>m</i>" } else { "" };
    let formula = format!("{}; Δ depends on {index}{masked}; <i>x</i> is bilinear between pixels", sum.formula());
    Ok(Portrait {
        formula,
        size: sizes(&g)?,
        drawings: vec![Drawing::filters(Filters::of(&g).draw(taps)), field(&g)?],
        sees: Some(format!("{}\u{a0}×\u{a0}{} samples, anywhere", g.kernel[0], g.kernel[1])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use warpconv::{Conv2dSpec, DeformConv2dSpec, Padding, Parameter};

    #[test]
    fn a_formula_has_the_numbers_of_its_layer() {
        let spec = DeformConv2dSpec::from(Conv2dSpec { padding: Padding::Same, ..Default::default() });
        let layer = DeformConv2d::new(spec, Parameter::new(&[1, 1, 3, 1], &[0f32; 3]).unwrap()).unwrap();
        let portrait = deform_conv2d(&layer, [1, 1, 8, 8], true, false).unwrap();
        let plain = portrait.formula.replace("<i>", "").replace("</i>", "");
        assert!(plain.contains("w[o, i] m x[c, p + i − 1 + Δy, q + Δx]; Δ depends on"), "{plain}");
    }
}
