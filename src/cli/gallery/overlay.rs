//! Where a layer samples, drawn over its input: SVG.

use super::exhibits::ROIS;
use super::pictures::{Planes, edges};
use super::run::{Operands, Values};
use std::fmt::Write;

/// What is drawn over an input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Overlay {
    /// The offsets of a kernel of 1x1: an arrow from an output pixel to its sample.
    Arrows,
    /// The nine places that a 3x3 kernel with padding 1 samples for a few output pixels on edges,
    /// in a part of the picture.
    Taps,
    /// The bins of every RoI, and where offsets move them to.
    Bins {
        /// Along height and width.
        pooled: [usize; 2],
        /// How far an offset of 1 moves a bin, in sizes of the RoI.
        gamma: f32,
        /// Draws the centre of every so many bins along each axis; with 1, all bins in full.
        every: usize,
    },
}

/// A drawing over a part of the input.
pub struct Drawn {
    /// Left, top, width and height of that part.
    pub region: [usize; 4],
    /// Its whole size, height and width.
    pub picture: [usize; 2],
    pub svg: String,
    pub caption: &'static str,
}

impl Overlay {
    pub fn draw(self, operands: &Operands) -> Drawn {
        let [_, _, h, w] = operands["x"].shape4();
        let mut layers = Layers::default();
        let mut region = [0, 0, w, h];
        let caption = match self {
            Overlay::Arrows => {
                arrows(&mut layers, &operands["offset"]);
                "input, with an arrow from output pixels to where they sample"
            }
            Overlay::Taps => {
                region = taps(&mut layers, &operands["x"], &operands["offset"]);
                "a part of the input: nine taps in a square (blue), and where they are moved to (orange)"
            }
            Overlay::Bins { pooled, gamma, every } => {
                region = around(operands[ROIS].rois(), [h, w]);
                bins(&mut layers, operands[ROIS].rois(), operands.get("offset"), pooled, gamma, every);
                match operands.contains_key("offset") {
                    true => "input, with the bins as the RoIs have them (blue), and moved (orange)",
                    false => "input, with the bins of the RoIs",
                }
            }
        };
        let [left, top, width, height] = region;
        let svg = format!(
            "<svg class=\"over\" viewBox=\"{left} {top} {width} {height}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{}</svg>",
            layers.draw()
        );
        Drawn { region, picture: [h, w], svg, caption }
    }
}

/// Paths of one look each. All positions are those of pixels' corners: the centre of pixel i is at
/// `i + 1/2`.
#[derive(Default)]
struct Layers {
    before: String,
    before_dots: String,
    after: String,
    after_dots: String,
}

impl Layers {
    /// A dark seam beneath each, so that it can be seen on any picture.
    fn draw(&self) -> String {
        let paths =
            [("before", &self.before), ("before dots", &self.before_dots), ("after", &self.after), ("after dots", &self.after_dots)];
        let mut svg = String::new();
        for (class, path) in paths.into_iter().filter(|(_, path)| !path.is_empty()) {
            let _ = write!(svg, "<path class=\"seam {class}\" d=\"{path}\"/><path class=\"{class}\" d=\"{path}\"/>");
        }
        svg
    }
}

/// A line of no length, which its round ends make a dot.
fn dot(path: &mut String, [y, x]: [f32; 2]) {
    let _ = write!(path, "M{x:.2} {y:.2}h0");
}

fn rectangle(path: &mut String, [y, x]: [f32; 2], [height, width]: [f32; 2]) {
    let _ = write!(path, "M{x:.2} {y:.2}h{width:.2}v{height:.2}h{:.2}z", -width);
}

fn arrows(layers: &mut Layers, offset: &Values) {
    /// Along the longer side.
    const ARROWS: usize = 17;
    let [_, _, h, w] = offset.shape4();
    let step = (h.max(w) / ARROWS).max(2);
    for y in (step / 2..h).step_by(step) {
        for x in (step / 2..w).step_by(step) {
            let [dy, dx] = [0, 1].map(|channel| offset.values[(channel * h + y) * w + x]);
            let (tail, length) = ([y as f32 + 0.5, x as f32 + 0.5], dy.hypot(dx));
            dot(&mut layers.after_dots, tail);
            if length < 0.3 {
                continue;
            }
            let head = [tail[0] + dy, tail[1] + dx];
            // two strokes back from the head, turned by 25 degrees
            let (back, sin, cos) = ((0.4 * length).min(0.3 * step as f32) / length, 0.423f32, 0.906f32);
            let barb = |side: f32| [head[0] - back * (dy * cos + side * dx * sin), head[1] - back * (dx * cos - side * dy * sin)];
            let ([a, b], path) = ([barb(1.0), barb(-1.0)], &mut layers.after);
            let _ = write!(path, "M{:.1} {:.1}L{:.1} {:.1}M{:.1} {:.1}", tail[1], tail[0], head[1], head[0], a[1], a[0]);
            let _ = write!(path, "L{:.1} {:.1}L{:.1} {:.1}", head[1], head[0], b[1], b[0]);
        }
    }
}

/// Draws in, and returns, the part of the picture that has most edges.
fn taps(layers: &mut Layers, x: &Values, offset: &Values) -> [usize; 4] {
    /// Output pixels that are drawn.
    const PIXELS: usize = 12;
    let [_, _, h, w] = x.shape4();
    let x = Planes { shape: [x.shape[1], h, w], values: x.values.clone() };
    let energy: Vec<f32> = edges(&x).into_iter().map(|[down, right]| down.hypot(right)).collect();
    let [height, width] = [h, w].map(|side| h.max(w).div_ceil(4).min(side));
    let places = |side: usize, part: usize| (0..=side - part).step_by((part / 8).max(1));
    let corners = places(h, height).flat_map(|top| places(w, width).map(move |left| (top, left)));
    let sum =
        |&(top, left): &(usize, usize)| -> f32 { (top..top + height).map(|y| energy[y * w + left..][..width].iter().sum::<f32>()).sum() };
    let (top, left) = corners.max_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap_or_default();

    let mut pixels: Vec<[usize; 2]> = (top..top + height).flat_map(|y| (left..left + width).map(move |x| [y, x])).collect();
    pixels.sort_by(|a, b| energy[b[0] * w + b[1]].total_cmp(&energy[a[0] * w + a[1]]));
    let apart = height.max(width) / 5;
    let mut chosen: Vec<[usize; 2]> = Vec::new();
    for pixel in pixels {
        let far = chosen.iter().all(|other| (0..2).any(|axis| pixel[axis].abs_diff(other[axis]) >= apart));
        if far && chosen.len() < PIXELS {
            chosen.push(pixel);
        }
    }
    for [y, x] in chosen {
        let mut line = String::new();
        for tap in 0..9 {
            let place = [y as f32 + (tap / 3) as f32 - 0.5, x as f32 + (tap % 3) as f32 - 0.5];
            let moved = [0, 1].map(|axis| place[axis] + offset.values[((2 * tap + axis) * h + y) * w + x]);
            dot(&mut layers.before_dots, place);
            dot(&mut layers.after_dots, moved);
            let _ = write!(line, "{}{:.2} {:.2}", if tap == 0 { 'M' } else { 'L' }, moved[1], moved[0]);
        }
        layers.after += &line;
    }
    [left, top, width, height]
}

/// The part of a picture that has all RoIs in it, and a margin.
fn around(rois: &[[f32; 5]], [h, w]: [usize; 2]) -> [usize; 4] {
    let corner = |index: usize, pick: fn(f32, f32) -> f32| rois.iter().map(|roi| roi[index]).reduce(pick).unwrap_or_default();
    let axis = |first: f32, last: f32, size: usize| {
        let margin = 0.1 * (last - first);
        let (start, end) = (((first - margin).max(0.0) as usize).min(size - 1), ((last + margin).max(0.0).ceil() as usize).min(size));
        (start, end.max(start + 1) - start)
    };
    let (left, width) = axis(corner(1, f32::min), corner(3, f32::max), w);
    let (top, height) = axis(corner(2, f32::min), corner(4, f32::max), h);
    [left, top, width, height]
}

fn bins(layers: &mut Layers, rois: &[[f32; 5]], offset: Option<&Values>, pooled: [usize; 2], gamma: f32, every: usize) {
    let [ph, pw] = pooled;
    for (k, &[_, x1, y1, x2, y2]) in rois.iter().enumerate() {
        let size = [y2 - y1, x2 - x1];
        let bin = [size[0] / ph as f32, size[1] / pw as f32];
        rectangle(&mut layers.before, [y1, x1], size);
        for (i, j) in (0..ph).flat_map(|i| (0..pw).map(move |j| (i, j))).filter(|(i, j)| i % every == 0 && j % every == 0) {
            let place = [y1 + i as f32 * bin[0], x1 + j as f32 * bin[1]];
            // (right, down), as the layer has them
            let by = |channel: usize| offset.map_or(0.0, |o| o.values[((2 * k + channel) * ph + i) * pw + j]);
            let moved = [place[0] + gamma * size[0] * by(1), place[1] + gamma * size[1] * by(0)];
            let centre = |[y, x]: [f32; 2]| [y + bin[0] / 2.0, x + bin[1] / 2.0];
            match (every, offset) {
                (1, None) => rectangle(&mut layers.before, place, bin),
                (1, Some(_)) => {
                    let (from, to) = (centre(place), centre(moved));
                    let _ = write!(layers.before, "M{:.1} {:.1}L{:.1} {:.1}", from[1], from[0], to[1], to[0]);
                    dot(&mut layers.before_dots, from);
                    rectangle(&mut layers.after, moved, bin);
                }
                _ => {
                    dot(&mut layers.before_dots, centre(place));
                    dot(&mut layers.after_dots, centre(moved));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(shape: [usize; 4], value: impl Fn(usize) -> f32) -> Values {
        Values { shape: shape.to_vec(), values: (0..shape.iter().product()).map(value).collect() }
    }

    #[test]
    fn arrows_point_to_samples() {
        let operands =
            Operands::from([("x", values([1, 1, 4, 4], |_| 0.0)), ("offset", values([1, 2, 4, 4], |i| if i < 16 { 0.0 } else { 2.0 }))]);
        let drawn = Overlay::Arrows.draw(&operands);
        assert_eq!((drawn.region, drawn.picture), ([0, 0, 4, 4], [4, 4]));
        assert!(drawn.svg.contains("M1.5 1.5L3.5 1.5M"), "{}", drawn.svg);
    }

    #[test]
    fn taps_are_drawn_where_edges_are() {
        // a vertical edge at the right of a wide picture
        let operands = Operands::from([
            ("x", values([1, 1, 8, 64], |i| if i % 64 >= 56 { 1.0 } else { 0.0 })),
            ("offset", values([1, 18, 8, 64], |_| 0.25)),
        ]);
        let drawn = Overlay::Taps.draw(&operands);
        let [left, _, width, height] = drawn.region;
        assert!(left <= 55 && left + width > 56 && height == 8, "{:?}", drawn.region);
        assert!(drawn.svg.matches("after dots").count() == 2 && drawn.svg.contains("h0"));
    }

    #[test]
    fn bins_move_by_sizes_of_their_roi() {
        let rois = Values { shape: vec![1, 5], values: vec![0.0, 10.0, 20.0, 30.0, 30.0] };
        let offset = values([1, 2, 1, 2], |i| [1.0, 0.0, 0.0, -1.0][i]); // the first to the right, the second up
        let operands = Operands::from([("x", values([1, 1, 64, 64], |_| 0.0)), (ROIS, rois), ("offset", offset)]);
        let overlay = Overlay::Bins { pooled: [1, 2], gamma: 0.1, every: 1 };
        let svg = overlay.draw(&operands).svg;
        assert!(svg.contains("M12.00 20.00h10.00v10.00h-10.00z") && svg.contains("M20.00 19.00h10.00v10.00"), "{svg}");
    }
}
