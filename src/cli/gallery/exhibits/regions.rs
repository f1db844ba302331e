//! Pooling of regions of interest.

use super::{BF16, Exhibit, F16, F32, Model, NCHW, NHWC, Operand, RGB, Rois, Section, Tone};
use crate::cli::gallery::overlay::Overlay;
use crate::cli::gallery::pictures::{Planes, edges};
use crate::cli::gallery::run::Values;
use std::f32::consts::TAU;
use warpconv::{DeformRoiPoolSpec, LayerSpec, Result, RoiAlignSpec, RoiPoolSpec};

/// Each RoI as a picture.
const THREE: &[(&str, &[usize])] = &[("first RoI", RGB), ("second RoI", &[3, 4, 5]), ("third RoI", &[6, 7, 8])];

/// How far an offset of 1 moves a bin, in sizes of the RoI: what the papers have.
const GAMMA: f32 = 0.1;
/// Bins of the moved RoIs.
const BINS: [usize; 2] = [9, 9];
/// Bins of the ring: from the rim inwards, and around.
const RING: [usize; 2] = [24, 288];

/// In shares of width and height: what the default picture has there is a face, a badge and a
/// rocket.
fn three([h, w]: [usize; 2]) -> Rois {
    [[0.285, 0.03, 0.605, 0.375], [0.255, 0.67, 0.42, 0.83], [0.69, 0.0, 0.935, 0.56]].map(|roi| scaled(roi, [h, w])).to_vec()
}

/// The badge alone.
fn badge([h, w]: [usize; 2]) -> Rois {
    vec![scaled([0.252, 0.668, 0.418, 0.834], [h, w])]
}

fn scaled([x1, y1, x2, y2]: [f32; 4], [h, w]: [usize; 2]) -> [f32; 5] {
    [0.0, x1 * w as f32, y1 * h as f32, x2 * w as f32, y2 * h as f32]
}

pub fn section() -> Result<Section> {
    let align = |size: usize| RoiAlignSpec { sampling_ratio: 2, aligned: true, ..RoiAlignSpec::new([size, size]) };
    let align = Model::new(LayerSpec::RoiAlign(align(14)), [])?;
    let max = Model::new(LayerSpec::RoiPool(RoiPoolSpec::new([14, 14])), [])?;
    let deformable = |size, sampling_ratio| {
        Model::new(LayerSpec::DeformRoiPool(DeformRoiPoolSpec { sampling_ratio, gamma: GAMMA, ..DeformRoiPoolSpec::new(size) }), [])
    };
    let (moved, ring) = (deformable(BINS, 2)?, deformable(RING, 1)?);
    let regions = |exhibit, rois| Exhibit { rois: Some(rois), ..exhibit };
    Ok(Section {
        id: "regions",
        title: "Regions of interest",
        text: "A detector looks at boxes of any size and needs numbers of one size. These layers cut each box, a region of interest (RoI), \
               into a fixed number of bins and make one number of each bin and channel. In the deformable form every bin may move on its \
               own.",
        exhibits: vec![
            regions(
                Exhibit::new(
                    "roi-align",
                    "RoI Align",
                    "Three boxes of different shape, 14×14 bins each: the mean of four bilinear samples in every bin, with no coordinate \
                     rounded. All three come out at one size.",
                    align,
                )
                .drawn_over(Overlay::Bins { pooled: [14, 14], gamma: 0.0, every: 1 })
                .run_as(F16, NHWC)
                .shown(Tone::Plain, THREE),
                three,
            ),
            regions(
                Exhibit::new(
                    "roi-pool",
                    "RoI max pooling",
                    "The older layer: bins of whole pixels, of which the largest counts. Highlights win, and boxes are rounded.",
                    max,
                )
                .run_as(BF16, NCHW)
                .shown(Tone::Plain, THREE),
                three,
            ),
            regions(
                Exhibit::new(
                    "roi-deformable",
                    "Deformable RoI pooling",
                    "Each of 9×9 bins is moved towards the edges around it, as trained offsets move bins onto the parts of an object. An \
                     offset counts in tenths of the box.",
                    moved,
                )
                .sampled_at(Operand::Computed(towards_edges))
                .drawn_over(Overlay::Bins { pooled: BINS, gamma: GAMMA, every: 1 })
                .run_as(F16, NHWC)
                .shown(Tone::Plain, THREE),
                three,
            ),
            regions(
                Exhibit::new(
                    "roi-unrolled",
                    "A ring laid straight",
                    "Bins may go anywhere: 24×288 of them are sent around a circle in the box, from the rim inwards. What is written around \
                     the badge of the default picture comes out as a line.",
                    ring,
                )
                .sampled_at(Operand::Computed(around))
                .drawn_over(Overlay::Bins { pooled: RING, gamma: GAMMA, every: 6 })
                .run_as(F32, NCHW),
                badge,
            ),
        ],
    })
}

/// Offsets [K, 2, ph, pw] that move the centres of bins to `place(roi, centre, bin)`, in pixels of the picture as (down, right);
/// centre and place are measured between pixels' corners.
fn moving(rois: &Rois, [ph, pw]: [usize; 2], place: impl Fn([[f32; 2]; 2], [f32; 2], [usize; 2]) -> [f32; 2]) -> Values {
    let mut values = Vec::new();
    for &[_, x1, y1, x2, y2] in rois {
        let size = [y2 - y1, x2 - x1];
        // right comes first
        for axis in [1, 0] {
            for (i, j) in (0..ph).flat_map(|i| (0..pw).map(move |j| (i, j))) {
                let centre = [y1 + (i as f32 + 0.5) * size[0] / ph as f32, x1 + (j as f32 + 0.5) * size[1] / pw as f32];
                let moved = place([[y1, x1], size], centre, [i, j]);
                values.push((moved[axis] - centre[axis]) / (GAMMA * size[axis]));
            }
        }
    }
    Values { shape: vec![rois.len(), 2, ph, pw], values }
}

/// To the centre of mass of the edges in the three by three bins around.
fn towards_edges(x: &Planes) -> Values {
    let [_, h, w] = x.shape;
    let slopes = edges(x);
    moving(&three([h, w]), BINS, |[_, size], centre, _| {
        let reach = [1.5 * size[0] / BINS[0] as f32, 1.5 * size[1] / BINS[1] as f32];
        let range = |axis: usize, limit: usize| {
            let end = |v: f32| (v.max(0.0) as usize).min(limit);
            end(centre[axis] - reach[axis])..end(centre[axis] + reach[axis])
        };
        // a little weight for the centre, where nothing else is
        let (mut mass, mut sum) = (0.01, centre.map(|v| 0.01 * v));
        for (y, x) in range(0, h).flat_map(|y| range(1, w).map(move |x| (y, x))) {
            let [down, right] = slopes[y * w + x];
            let weight = down * down + right * right;
            mass += weight;
            sum = [sum[0] + weight * (y as f32 + 0.5), sum[1] + weight * (x as f32 + 0.5)];
        }
        sum.map(|v| v / mass)
    })
}

/// Around a circle from the bottom over the left: rows from the rim inwards.
fn around(x: &Planes) -> Values {
    /// Radii of the first and the last row, in sizes of the RoI.
    const RADII: [f32; 2] = [0.47, 0.27];
    let [_, h, w] = x.shape;
    moving(&badge([h, w]), RING, |[corner, size], _, [i, j]| {
        let radius = RADII[0] + (RADII[1] - RADII[0]) * (i as f32 + 0.5) / RING[0] as f32;
        let (sin, cos) = (TAU * (j as f32 + 0.5) / RING[1] as f32).sin_cos();
        [corner[0] + size[0] * (0.5 + radius * cos), corner[1] + size[1] * (0.5 - radius * sin)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_bring_bins_to_their_place() {
        let rois = vec![[0.0, 10.0, 20.0, 30.0, 60.0]];
        let offset = moving(&rois, [1, 2], |_, _, _| [40.0, 25.0]);
        // bins of 40 x 10 with their centres at (40, 15) and (40, 25)
        assert_eq!((offset.shape, offset.values), (vec![1, 2, 1, 2], vec![10.0 / (GAMMA * 20.0), 0.0, 0.0, 0.0]));
    }
}
