//! Pooling of regions of interest.

use super::Portrait;
use warpconv::geometry::RoiGeometry;
use warpconv::{DeformRoiPool, Result, RoiAlign, RoiPool, Shape};

/// What the poolings have in common; there is nothing to draw of a layer without parameters.
fn pooling(g: &RoiGeometry, formula: String, sees: String) -> Portrait {
    let [ph, pw] = g.pooled;
    let size = format!("<span class=\"label\">output</span> {} RoIs of <b>{ph} × {pw}</b> bins, whatever their size", g.rois);
    Portrait { formula, size: vec![size], drawings: vec![], sees: Some(sees) }
}

/// `y[k, c, i, j]`.
const BIN: &str = "<i>y</i>[<i>k</i>, <i>c</i>, <i>i</i>, <i>j</i>]";

fn samples(ratio: i32) -> String {
    if ratio > 0 { format!("{ratio}\u{a0}×\u{a0}{ratio}") } else { "as many samples as pixels".into() }
}

/// As [`super::portrait`].
pub fn roi_align(layer: &RoiAlign, x: Shape, rois: usize) -> Result<Portrait> {
    let (g, ratio) = (layer.geometry(x, rois)?, samples(layer.attributes().sampling_ratio));
    let [ph, pw] = g.pooled;
    let formula = format!(
        "{BIN} = mean of {ratio} samples <i>x</i>[<i>c</i>, <i>Y</i>, <i>X</i>], <i>Y</i> around <i>y</i>₁ + (<i>i</i> + ½) <i>h</i>/{ph}, \
         <i>X</i> around <i>x</i>₁ + (<i>j</i> + ½) <i>w</i>/{pw}, bilinear between pixels"
    );
    Ok(pooling(&g, formula, format!("the bin, by {ratio} samples")))
}

/// As [`super::portrait`].
pub fn roi_pool(layer: &RoiPool, x: Shape, rois: usize) -> Result<Portrait> {
    let formula = format!("{BIN} = max of <i>x</i>[<i>c</i>, <i>p</i>, <i>q</i>] over the pixels of the bin");
    Ok(pooling(&layer.geometry(x, rois)?, formula, "the pixels of the bin".into()))
}

/// As [`super::portrait`].
pub fn deform_roi_pool(layer: &DeformRoiPool, x: Shape, rois: usize) -> Result<Portrait> {
    let (g, attributes) = (layer.geometry(x, rois)?, layer.attributes());
    let ([ph, pw], gamma, ratio) = (g.pooled, attributes.gamma, samples(attributes.sampling_ratio));
    let formula = format!(
        "{BIN} = mean of {ratio} samples <i>x</i>[<i>c</i>, <i>Y</i>, <i>X</i>], \
         <i>Y</i> around <i>y</i>₁ + (<i>i</i> + ½) <i>h</i>/{ph} + {gamma} <i>h</i> Δ<i>y</i>[<i>k</i>, <i>i</i>, <i>j</i>], \
         <i>X</i> around <i>x</i>₁ + (<i>j</i> + ½) <i>w</i>/{pw} + {gamma} <i>w</i> Δ<i>x</i>[<i>k</i>, <i>i</i>, <i>j</i>]"
    );
    Ok(pooling(&g, formula, format!("the moved bin, by {ratio} samples")))
}
