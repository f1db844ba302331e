//! Convolutions in two steps.

use super::{Cells, Drawing, Filters, Portrait, Sum, field, sizes, taps};
use warpconv::geometry::ConvGeometry;
use warpconv::{Conv2d, DepthwiseSeparableConv2d, Result, Shape, SpatiallySeparableConv2d};

/// Both formulas; what lies between is called m, and its index o as that of any output.
fn formula(stages: [&Conv2d; 2], geometries: &[ConvGeometry; 2], residual: bool) -> String {
    let [first, second] = geometries;
    let between = Sum::of(stages[0], first, false).named("m", "w₁", "x").formula();
    format!("{between}<br>{}", Sum::of(stages[1], second, residual).named("y", "w₂", "m").formula())
}

/// As [`super::portrait`].
pub fn depthwise(layer: &DepthwiseSeparableConv2d, x: Shape, residual: bool) -> Result<Portrait> {
    let stages = [layer.depthwise(), layer.pointwise()];
    let geometries = layer.geometries(x)?;
    let filters = |stage: usize, caption| {
        let g = &geometries[stage];
        Drawing { svg: Filters::of(g).draw(|o, c| taps(stages[stage], g, o, c)), caption }
    };
    Ok(Portrait {
        formula: formula(stages, &geometries, residual),
        size: sizes(&geometries[0])?,
        drawings: vec![filters(0, "depthwise filters"), filters(1, "the matrix behind them"), field(&geometries[0])?],
        sees: None,
    })
}

/// As [`super::portrait`].
pub fn spatially(layer: &SpatiallySeparableConv2d, x: Shape, residual: bool) -> Result<Portrait> {
    let stages = [layer.column(), layer.row()];
    let geometries = layer.geometries(x)?;
    let [column, row] = [0, 1].map(|stage| taps(stages[stage], &geometries[stage], 0, 0));
    Ok(Portrait {
        formula: formula(stages, &geometries, residual),
        size: vec![sizes(&geometries[0])?.swap_remove(0), sizes(&geometries[1])?.swap_remove(1)],
        drawings: vec![Drawing { svg: product(column, row), caption: "a column, a row, and the filter that they make" }],
        sees: None,
    })
}

/// A multiplication table: the column at the left, the row above, their product between them.
fn product(column: &[f32], row: &[f32]) -> String {
    let (kh, kw) = (column.len(), row.len());
    let most = |values: &[f32]| values.iter().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
    let (numbers, gap) = (kh.max(kw) <= 5, if kh.max(kw) <= 5 { 1 } else { 2 });
    let product: Vec<f32> = column.iter().flat_map(|y| row.iter().map(move |x| x * y)).collect();
    let mut cells = Cells::default();
    cells.filter([1 + gap, 0], 1, column, most(column), numbers);
    cells.filter([0, 1 + gap], kw, row, most(row), numbers);
    cells.filter([1 + gap, 1 + gap], kw, &product, most(&product), numbers);
    cells.draw([kh + 1 + gap, kw + 1 + gap], &format!("A column of {kh} taps, a row of {kw}, and their product"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use warpconv::{Padding, Parameter, SpatiallySeparableSpec};

    #[test]
    fn two_steps_have_two_formulas_and_a_product() {
        let spec = SpatiallySeparableSpec { padding: Padding::Same, ..Default::default() };
        let column = Parameter::new(&[1, 1, 3, 1], &[1f32, 2.0, 1.0]).unwrap();
        let row = Parameter::new(&[1, 1, 1, 3], &[-1f32, 0.0, 1.0]).unwrap();
        let layer = SpatiallySeparableConv2d::new(spec, column, row).unwrap();
        let portrait = spatially(&layer, [1, 1, 9, 8], false).unwrap();
        let plain = portrait.formula.replace("<i>", "").replace("</i>", "");
        let sum = |index: char| format!("<span class=\"sum\">∑</span><sub>{index}&lt;3</sub>");
        let expected =
            format!("m[o, p, q] = {} w₁[o, i] x[c, p + i − 1, q]<br>y[o, p, q] = {} w₂[o, j] m[c, p, q + j − 1]", sum('i'), sum('j'));
        assert_eq!(plain, expected);
        assert_eq!(portrait.size.len(), 2);
        assert!(portrait.drawings[0].svg.contains(">−2</text>"), "the middle of Sobel's left column");
    }
}
