//! Sub-pixel convolution, pixel shuffles and Focus.

use super::{Exhibit, F16, F32, Model, NCHW, NHWC, Part, RGB, Section, Source, Tone, output, same};
use crate::cli::gallery::filters::{Kernel, matrix};
use warpconv::{ChannelOrder, Conv2dSpec, FocusSpec, LayerSpec, Parameter, PixelShuffleSpec, Result, SubPixelConv2dSpec};

/// The picture with an even height and width.
const EVEN: Part = Part { source: Source::EvenPicture, channels: None };

pub fn section() -> Result<Section> {
    let spec = SubPixelConv2dSpec { conv: same(), factor: 3, order: ChannelOrder::Crd };
    let bicubic = Model::new(LayerSpec::SubPixelConv2d(spec), [("weight", bicubic(3)?)])?;
    let identity: [[f32; 12]; 12] = std::array::from_fn(|o| std::array::from_fn(|c| if o == c { 1.0 } else { 0.0 }));
    let focus = |weight| Model::new(LayerSpec::Focus(FocusSpec { conv: Conv2dSpec::default() }), [("weight", weight)]);
    let slices = focus(matrix(&identity)?)?;
    // slice 0 is the top left of each block, 3 its bottom right
    let relief: [[f32; 12]; 3] = std::array::from_fn(|o| {
        std::array::from_fn(|c| match c / 3 {
            _ if c % 3 != o => 0.0,
            0 => -1.5,
            3 => 1.5,
            _ => 0.5,
        })
    });
    let relief = focus(matrix(&relief)?)?;
    let back = PixelShuffleSpec { factor: 2, order: ChannelOrder::Focus };
    let back = Model::new(LayerSpec::PixelShuffle(back), [])?;
    Ok(Section {
        id: "sub-pixel",
        title: "Sub-pixel and Focus",
        text: "Pixels and channels are two ways to arrange the same numbers. A sub-pixel convolution computes r² channels for each output \
               channel and lays them out as blocks of r × r pixels, in the very store of the convolution. Focus goes the other way: each \
               2×2 block becomes four times the channels, in the reads of the convolution.",
        exhibits: vec![
            Exhibit::new(
                "sub-pixel-bicubic",
                "Three times as large, in one convolution",
                "Bicubic upscaling is a convolution: each of the nine pixels of a 3×3 block has its own 5×5 filter with the weights of the \
                 cubic. Networks for super-resolution start from here and learn better filters.",
                bicubic,
            )
            .of(&[output("stride-4-smoothed")])
            .run_as(F16, NHWC),
            Exhibit::new(
                "focus-slices",
                "Four half-size pictures",
                "The slices of YOLOv5's stem, through a 1×1 identity: every second pixel of every second row, from each of the four corners \
                 of a block.",
                slices,
            )
            .of(&[EVEN])
            .run_as(F16, NHWC)
            .shown(
                Tone::Plain,
                &[("top left", RGB), ("bottom left", &[3, 4, 5]), ("top right", &[6, 7, 8]), ("bottom right", &[9, 10, 11])],
            ),
            Exhibit::new(
                "focus-shuffled-back",
                "The slices put back",
                "A pixel shuffle in the order of Focus undoes it: each value is moved, none is computed, and the picture is back.",
                back,
            )
            .of(&[output("focus-slices")])
            .run_as(F16, NCHW),
            Exhibit::new(
                "focus-relief",
                "Half the size, with relief",
                "A 1×1 layer over the four slices is a 2×2 filter with a stride of 2 on the picture: here the falling diagonal lifts edges.",
                relief,
            )
            .of(&[EVEN])
            .run_as(F32, NHWC),
        ],
    })
}

/// The weight [3 r^2, 3, 5, 5] that upscales red, green and blue `r` times, each by itself, with
/// Catmull and Rom's cubic.
fn bicubic(r: usize) -> Result<Parameter> {
    let cubic = |at: f32| match at.abs() {
        t if t < 1.0 => 1.5 * t * t * t - 2.5 * t * t + 1.0,
        t if t < 2.0 => -0.5 * t * t * t + 2.5 * t * t - 4.0 * t + 2.0,
        _ => 0.0,
    };
    // output r * p + a lies at p + (a + 1/2) / r - 1/2 of the input
    let line = |a: usize| -> [f32; 5] { std::array::from_fn(|tap| cubic(tap as f32 - 2.0 - ((a as f32 + 0.5) / r as f32 - 0.5))) };
    let block = |a: usize, b: usize| {
        let (rows, columns) = (line(a), line(b));
        Kernel { size: [5, 5], taps: rows.iter().flat_map(|y| columns.map(|x| x * y)).collect() }
    };
    let filters = (0..3 * r * r).flat_map(|o| {
        let (own, filter) = (o / (r * r), block(o / r % r, o % r));
        (0..3).map(move |c| filter.clone().scaled(if c == own { 1.0 } else { 0.0 }))
    });
    let filters: Vec<Kernel> = filters.collect();
    Parameter::new(&[3 * r * r, 3, 5, 5], &filters.into_iter().flat_map(|filter| filter.taps).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bicubic_weights_keep_brightness_and_hit_pixels() {
        let weight = bicubic(3).unwrap();
        for (o, filters) in weight.values().chunks(75).enumerate() {
            assert!((filters.iter().sum::<f32>() - 1.0).abs() < 1e-5, "filter {o}");
        }
        // the middle pixel of a block is the input's own
        let middle = &weight.values()[4 * 75..][..25];
        assert!(middle.iter().enumerate().all(|(i, &v)| v == if i == 12 { 1.0 } else { 0.0 }), "{middle:?}");
    }
}
