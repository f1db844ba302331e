//! Deformable convolutions.

use super::{Exhibit, F16, F32, Model, NCHW, NHWC, Operand, Part, Section, Source, output, same};
use crate::cli::gallery::filters::{Kernel, each_channel};
use crate::cli::gallery::overlay::Overlay;
use crate::cli::gallery::pictures::{Planes, edges};
use crate::cli::gallery::run::Values;
use warpconv::{Conv2dSpec, DeformConv2dSpec, LayerSpec, Result};

/// Every colour through one kernel.
fn deformable(spec: Conv2dSpec, kernel: &Kernel) -> Result<Model> {
    Model::new(LayerSpec::DeformConv2d(DeformConv2dSpec::from(spec)), [("weight", each_channel(kernel, 3)?)])
}

pub fn section() -> Result<Section> {
    let moved = || deformable(Conv2dSpec::default(), &Kernel::identity(1));
    // rightwards and downwards of Sobel, as offsets have them: down, right
    let slopes = Part { source: Source::Output("dense-sobel"), channels: Some(&[1, 0]) };
    let along = deformable(same(), &Kernel::mean(3))?;
    let focus = deformable(same(), &Kernel::gaussian(3, 1.2))?;
    Ok(Section {
        id: "deformable",
        title: "Deformable",
        text: "Every tap of every output pixel has an offset of its own, a vector of any length, and reads the picture there, between \
               pixels by bilinear interpolation. In networks another convolution computes the offsets, so that the filter takes the \
               shape of what it looks at. Here they are computed from geometry and from edges, where one can see what they do.",
        exhibits: vec![
            Exhibit::new(
                "deform-lens",
                "A lens that distorts",
                "A single tap, moved towards the centre by a cubic of the distance, as a wide lens does: straight lines bulge.",
                moved()?,
            )
            .sampled_at(Operand::Computed(distorting))
            .drawn_over(Overlay::Arrows)
            .run_as(F16, NHWC),
            Exhibit::new(
                "deform-lens-undone",
                "… and a layer that undoes it",
                "The offsets of the inverse map: lines are straight again. What the lens has pushed out of the picture stays black.",
                moved()?,
            )
            .of(&[output("deform-lens")])
            .sampled_at(Operand::Computed(restoring))
            .drawn_over(Overlay::Arrows)
            .run_as(F16, NCHW),
            Exhibit::new(
                "deform-edges",
                "Taps that follow edges",
                "A 3×3 mean whose nine taps leave their square and line up along the edge that runs through the pixel. It smooths along \
                 edges and never across: noise and texture turn into brush strokes, and outlines stay sharp.",
                along,
            )
            .of(&[output("stride-4-smoothed")])
            .sampled_at(Operand::Computed(along_edges))
            .drawn_over(Overlay::Taps)
            .run_as(F32, NHWC),
            Exhibit {
                mask: Some(Operand::Computed(vignette)),
                ..Exhibit::new(
                    "deform-modulated",
                    "A dilation for every pixel, and a mask",
                    "The nine taps spread with the distance from the centre, from one place to a square of seven pixels: sharp in the \
                     middle, soft at the border. Version 2 of the layer also multiplies each sample with a mask: the corners fade.",
                    focus,
                )
            }
            .of(&[output("stride-4-smoothed")])
            .sampled_at(Operand::Computed(spreading))
            .run_as(F16, NHWC),
            Exhibit::new(
                "deform-predicted",
                "Offsets from another layer",
                "As in a network: the offsets are the output of a convolution, the two Sobel filters of the dense section. Each pixel is \
                 fetched from up the slope of brightness, so that bright things grow and dark lines close.",
                moved()?,
            )
            .sampled_at(Operand::Of(slopes))
            .drawn_over(Overlay::Arrows)
            .run_as(F32, NCHW),
        ],
    })
}

/// How much stronger the lens is at the corners than in the middle, less 1.
const DISTORTION: f32 = 0.6;

/// Offsets of a 1x1 kernel that samples at `scale(r)` times the vector from the centre, r being its
/// length: 1 at the corners.
fn radial(x: &Planes, scale: impl Fn(f32) -> f32) -> Values {
    let [_, h, w] = x.shape;
    let centre = [(h as f32 - 1.0) / 2.0, (w as f32 - 1.0) / 2.0];
    let corner = centre[0].hypot(centre[1]);
    let offset = |axis: usize, index: usize| {
        let from = [(index / w) as f32 - centre[0], (index % w) as f32 - centre[1]];
        from[axis] * (scale(from[0].hypot(from[1]) / corner) - 1.0)
    };
    let values = (0..2).flat_map(|axis| (0..h * w).map(move |index| (axis, index))).map(|(axis, index)| offset(axis, index));
    Values { shape: vec![1, 2, h, w], values: values.collect() }
}

fn distorting(x: &Planes) -> Values {
    radial(x, |r| (1.0 + DISTORTION * r * r) / (1.0 + DISTORTION))
}

fn restoring(x: &Planes) -> Values {
    radial(x, |r| {
        // where the lens has put r: s with s (1 + d s^2) / (1 + d) = r, by Newton's method
        let target = r * (1.0 + DISTORTION);
        let step = |s: f32| s - (s + DISTORTION * s * s * s - target) / (1.0 + 3.0 * DISTORTION * s * s);
        let s = (0..12).fold(r, |s, _| step(s));
        if r > 0.0 { s / r } else { 1.0 + DISTORTION }
    })
}

/// Offsets of a 3x3 kernel with padding 1, from where each tap is to sample, in pixels of x.
fn nine_taps([h, w]: [usize; 2], places: impl Fn([usize; 2]) -> [[f32; 2]; 9]) -> Values {
    let mut values = vec![0.0; 18 * h * w];
    for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
        for (tap, place) in places([y, x]).into_iter().enumerate() {
            let own = [y as f32 + (tap / 3) as f32 - 1.0, x as f32 + (tap % 3) as f32 - 1.0];
            for axis in 0..2 {
                values[((2 * tap + axis) * h + y) * w + x] = place[axis] - own[axis];
            }
        }
    }
    Values { shape: vec![1, 18, h, w], values }
}

/// Nine places on the line that follows the edge through each pixel, a pixel apart.
fn along_edges(x: &Planes) -> Values {
    let [_, h, w] = x.shape;
    let tangents = tangents(x);
    let inside = |at: [f32; 2]| [at[0].clamp(0.0, (h - 1) as f32), at[1].clamp(0.0, (w - 1) as f32)];
    let tangent = |at: [f32; 2]| tangents[at[0].round() as usize * w + at[1].round() as usize];
    nine_taps([h, w], |[y, x]| {
        let mut places = [[y as f32, x as f32]; 9];
        for (order, sign) in [([3, 2, 1, 0], -1.0), ([5, 6, 7, 8], 1.0)] {
            let mut at = places[4];
            let mut heading = tangent(at).map(|v| v * sign);
            for tap in order {
                // a direction has no sign of its own: go on, not back
                let next = tangent(at);
                let turn = if next[0] * heading[0] + next[1] * heading[1] < 0.0 { -1.0 } else { 1.0 };
                heading = next.map(|v| v * turn);
                at = inside([at[0] + heading[0], at[1] + heading[1]]);
                places[tap] = at;
            }
        }
        places
    })
}

/// The direction of the edges around each pixel, down and right: the weak axis of the smoothed
/// structure tensor.
fn tangents(x: &Planes) -> Vec<[f32; 2]> {
    /// Pixels to each side that a direction is averaged over.
    const REACH: usize = 3;
    let [_, h, w] = x.shape;
    let slopes = edges(x);
    let mean = |of: &dyn Fn([f32; 2]) -> f32, index: usize| -> f32 {
        let around = |at: usize, size: usize| at.saturating_sub(REACH)..(at + REACH + 1).min(size);
        let (y, x) = (index / w, index % w);
        around(y, h).flat_map(|row| around(x, w).map(move |column| row * w + column)).map(|i| of(slopes[i])).sum()
    };
    let tangent = |index: usize| {
        let (down, both, right) = (mean(&|s| s[0] * s[0], index), mean(&|s| s[0] * s[1], index), mean(&|s| s[1] * s[1], index));
        // the strong axis is at half of this angle from the horizontal; the edge at right angles to
        // it
        let angle = 0.5 * (2.0 * both).atan2(right - down);
        [angle.cos(), -angle.sin()]
    };
    (0..h * w).map(tangent).collect()
}

/// Distance from the centre, 1 at the corners.
fn distance([h, w]: [usize; 2], [y, x]: [usize; 2]) -> f32 {
    let from = |at: usize, size: usize| at as f32 - (size as f32 - 1.0) / 2.0;
    from(y, h).hypot(from(x, w)) / from(h - 1, h).hypot(from(w - 1, w))
}

/// A 3x3 grid whose taps are from 0 to 3 pixels apart.
fn spreading(x: &Planes) -> Values {
    let [_, h, w] = x.shape;
    nine_taps([h, w], |[y, x]| {
        let rate = 3.0 * distance([h, w], [y, x]).powi(2);
        std::array::from_fn(|tap| [y as f32 + rate * ((tap / 3) as f32 - 1.0), x as f32 + rate * ((tap % 3) as f32 - 1.0)])
    })
}

/// A mask that fades to the corners, the same for all nine taps.
fn vignette(x: &Planes) -> Values {
    let [_, h, w] = x.shape;
    let values = (0..9 * h * w).map(|index| 1.0 - 0.7 * distance([h, w], [index / w % h, index % w]).powi(3));
    Values { shape: vec![1, 9, h, w], values: values.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planes(h: usize, w: usize, value: impl Fn(usize, usize) -> f32) -> Planes {
        Planes { shape: [1, h, w], values: (0..h * w).map(|i| value(i / w, i % w)).collect() }
    }

    #[test]
    fn the_second_lens_undoes_the_first() {
        let picture = planes(33, 65, |_, _| 0.0);
        let (there, back) = (distorting(&picture), restoring(&picture));
        let at = |values: &Values, axis: usize, [y, x]: [usize; 2]| values.values[(axis * 33 + y) * 65 + x];
        // from an output of the second layer to the first one's output, and on to the picture
        for (y, x) in (10..23).flat_map(|y| (20..45).map(move |x| (y, x))) {
            let first = [0, 1].map(|axis| [y, x][axis] as f32 + at(&back, axis, [y, x]));
            let nearest = first.map(|v| v.round() as usize);
            for axis in 0..2 {
                let second = first[axis] + at(&there, axis, nearest);
                assert!((second - [y, x][axis] as f32).abs() < 0.5, "{y} {x}: {second}");
            }
        }
    }

    #[test]
    fn taps_line_up_along_an_edge() {
        // an edge that falls to the right at 45 degrees
        let x = planes(24, 24, |y, x| if x > y { 1.0 } else { 0.0 });
        let offset = along_edges(&x);
        for tap in 0..9 {
            let place = |axis: usize, own: usize| own as f32 - 1.0 + offset.values[((2 * tap + axis) * 24 + 12) * 24 + 12];
            let (down, right) = (place(0, tap / 3), place(1, tap % 3));
            assert!((down - right).abs() < 0.2, "tap {tap} at {down}, {right}");
            assert!((down.hypot(right) - (tap as f32 - 4.0).abs()).abs() < 0.2);
        }
    }
}
