//! Layers that move pixels: sub-pixel convolution, shuffles, Focus, bilinear upsampling.

use super::{Cells, Drawing, Filters, Portrait, Sum, field, sizes, taps};
use std::fmt::Write;
use warpconv::geometry::BlockGeometry;
use warpconv::{ChannelOrder, Focus, PixelShuffle, PixelUnshuffle, Result, Shape, SubPixelConv2d, UpsampleBilinear};

/// The channel of pixel (i, j) of a block of channel c.
fn channel(order: ChannelOrder, block: &BlockGeometry, c: usize, i: usize, j: usize) -> usize {
    let (r, channels) = (block.factor, block.channels);
    match order {
        ChannelOrder::Crd => (c * r + i) * r + j,
        ChannelOrder::Dcr => (i * r + j) * channels + c,
        ChannelOrder::Focus => (j * r + i) * channels + c,
    }
}

/// The same in words.
fn channel_text(order: ChannelOrder, block: &BlockGeometry) -> String {
    let (r, channels) = (block.factor, block.channels);
    match order {
        ChannelOrder::Crd => format!("{}<i>c</i> + {r}<i>a</i> + <i>b</i>", r * r),
        ChannelOrder::Dcr => format!("{channels}({r}<i>a</i> + <i>b</i>) + <i>c</i>"),
        ChannelOrder::Focus => format!("{channels}({r}<i>b</i> + <i>a</i>) + <i>c</i>"),
    }
}

/// `[c, 3p + a, 3q + b]`.
fn place(r: usize) -> String {
    format!("[<i>c</i>, {r}<i>p</i> + <i>a</i>, {r}<i>q</i> + <i>b</i>]")
}

/// Which channels the pixels of a block of the first channel are, or come from.
fn numbering(order: ChannelOrder, block: &BlockGeometry) -> Drawing {
    let r = block.factor;
    let mut cells = Cells::default();
    cells.filter([0, 0], r, &vec![0.0; r * r], 1.0, false);
    for (i, j) in (0..r).flat_map(|i| (0..r).map(move |j| (i, j))) {
        let _ = write!(cells.frames, "M{j} {i}h1v1h-1z");
        let _ = write!(cells.texts, "<text x=\"{j}.5\" y=\"{i}.64\">{}</text>", channel(order, block, 0, i, j));
    }
    let svg = cells.draw([r, r], &format!("The channels of a block of {r} by {r} pixels"));
    Drawing { svg, caption: "channels that a block of the first colour is made of" }
}

/// `height: 128 · 3 = 384`, or the other way around.
fn block_sizes(block: &BlockGeometry, larger: bool) -> Vec<String> {
    let axis = |(name, axis): (&str, usize)| {
        let (deep, r) = (block.blocks[axis], block.factor);
        let (from, sign, to) = if larger { (deep, '·', deep * r) } else { (deep * r, '/', deep) };
        format!("<span class=\"label\">{name}</span> {from} {sign} {r} = <b>{to}</b>")
    };
    [("height", 0), ("width", 1)].map(axis).to_vec()
}

/// As [`super::portrait`].
pub fn sub_pixel(layer: &SubPixelConv2d, x: Shape) -> Result<Portrait> {
    let ((g, block), order) = (layer.geometry(x)?, layer.attributes().order);
    let r = block.factor;
    let conv = Sum::of(layer.conv(), &g, false).named("z", "w", "x").formula();
    // the filters of one channel, each at the place of its pixel
    let [kh, kw] = g.kernel;
    let filters: Vec<(usize, usize)> = (0..r).flat_map(|a| (0..r).map(move |b| (a, b))).collect();
    let of = |&(a, b): &(usize, usize)| taps(layer.conv(), &g, channel(order, &block, 0, a, b), 0);
    let most = filters.iter().flat_map(of).fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
    let mut cells = Cells::default();
    for at in &filters {
        cells.filter([at.0 * (kh + 1), at.1 * (kw + 1)], kw, of(at), most, false);
    }
    let svg = cells.draw([r * (kh + 1) - 1, r * (kw + 1) - 1], &format!("{r} by {r} filters of {kh} by {kw} taps"));
    let filters = Drawing { svg, caption: "filters of red, each at the place of its pixel" };
    Ok(Portrait {
        formula: format!("{conv}<br><i>y</i>{} = <i>z</i>[{}, <i>p</i>, <i>q</i>]", place(r), channel_text(order, &block)),
        size: sizes(&g)?.into_iter().chain(block_sizes(&block, true)).collect(),
        drawings: vec![filters, field(&g)?],
        sees: Some(format!("{kh}\u{a0}×\u{a0}{kw}")),
    })
}

/// As [`super::portrait`].
pub fn pixel_shuffle(layer: &PixelShuffle, x: Shape) -> Result<Portrait> {
    let (block, order) = (layer.geometry(x)?, layer.attributes().order);
    Ok(Portrait {
        formula: format!("<i>y</i>{} = <i>x</i>[{}, <i>p</i>, <i>q</i>]", place(block.factor), channel_text(order, &block)),
        size: block_sizes(&block, true),
        drawings: vec![numbering(order, &block)],
        sees: Some("one value".into()),
    })
}

/// As [`super::portrait`].
pub fn pixel_unshuffle(layer: &PixelUnshuffle, x: Shape) -> Result<Portrait> {
    let (block, order) = (layer.geometry(x)?, layer.attributes().order);
    Ok(Portrait {
        formula: format!("<i>y</i>[{}, <i>p</i>, <i>q</i>] = <i>x</i>{}", channel_text(order, &block), place(block.factor)),
        size: block_sizes(&block, false),
        drawings: vec![numbering(order, &block)],
        sees: Some("one value".into()),
    })
}

/// As [`super::portrait`].
pub fn focus(layer: &Focus, x: Shape, residual: bool) -> Result<Portrait> {
    let (g, block) = (layer.geometry(x)?, BlockGeometry::wide(x, 2)?);
    let conv = Sum::of(layer.conv(), &g, residual).named("y", "w", "s").formula();
    let filters = Drawing::filters(Filters::of(&g).draw(|o, c| taps(layer.conv(), &g, o, c)));
    Ok(Portrait {
        formula: format!(
            "<i>s</i>[{}, <i>p</i>, <i>q</i>] = <i>x</i>{}<br>{conv}",
            channel_text(ChannelOrder::Focus, &block),
            place(block.factor)
        ),
        size: block_sizes(&block, false).into_iter().chain(sizes(&g)?).collect(),
        drawings: vec![filters, numbering(ChannelOrder::Focus, &block)],
        sees: None,
    })
}

/// As [`super::portrait`].
pub fn upsample_bilinear(layer: &UpsampleBilinear, x: Shape) -> Result<Portrait> {
    let g = layer.geometry(x)?;
    let position = |axis: usize, name: &str| match g.align_corners {
        true => format!("{name}·{}/{}", g.input[axis].saturating_sub(1), g.output[axis].saturating_sub(1)),
        false => format!("({name} + ½)·{} − ½", g.scale[axis]),
    };
    let axis = |(name, axis): (&str, usize)| {
        format!("<span class=\"label\">{name}</span> {} / {} = <b>{}</b>", g.input[axis], g.scale[axis], g.output[axis])
    };
    Ok(Portrait {
        formula: format!(
            "<i>y</i>[<i>c</i>, <i>p</i>, <i>q</i>] = <i>x</i>[<i>c</i>, {}, {}], bilinear between pixels",
            position(0, "<i>p</i>"),
            position(1, "<i>q</i>")
        ),
        size: [("height", 0), ("width", 1)].map(axis).to_vec(),
        drawings: vec![],
        sees: Some("2\u{a0}×\u{a0}2, a weight for each by distance".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use warpconv::{Conv2dSpec, Parameter, PixelShuffleSpec, SubPixelConv2dSpec};

    #[test]
    fn formulas_have_the_numbers_of_their_layers() {
        let plain = |portrait: Portrait| portrait.formula.replace("<i>", "").replace("</i>", "");
        let spec = SubPixelConv2dSpec { conv: Conv2dSpec::default(), factor: 2, order: ChannelOrder::Crd };
        let layer = SubPixelConv2d::new(spec, Parameter::new(&[4, 1, 1, 1], &[1f32; 4]).unwrap()).unwrap();
        let portrait = sub_pixel(&layer, [1, 1, 5, 6]).unwrap();
        assert!(portrait.size.last().unwrap().ends_with("6 · 2 = <b>12</b>"));
        assert_eq!(plain(portrait), "z[o, p, q] = w[o] x[c, p, q]<br>y[c, 2p + a, 2q + b] = z[4c + 2a + b, p, q]");
        let spec = PixelShuffleSpec { factor: 2, order: ChannelOrder::Focus };
        let layer = PixelUnshuffle::new(spec).unwrap();
        assert_eq!(plain(pixel_unshuffle(&layer, [1, 3, 4, 4]).unwrap()), "y[3(2b + a) + c, p, q] = x[c, 2p + a, 2q + b]");
    }
}
