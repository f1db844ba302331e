//! Results as pictures.

use image::{ImageFormat, RgbImage};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};
use warpconv::bench::{Results, RowResult, summary};
use warpconv::{Error, Result, io};

const SIZE: (u32, u32) = (1200, 720);
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x17, 0xbe, 0xcf),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0x7f, 0x7f, 0x7f),
];

type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A line of a plot: its label and its points.
type Line = (String, Vec<(f64, f64)>);

/// Draws all plots for which there are data. Returns their paths.
pub fn draw(results: &Results, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut plot = |name: &str, draw: &dyn Fn(&Canvas<'_>) -> Drawn| -> Result<()> {
        let path = folder.join(format!("{name}.png"));
        picture(&path, draw)?;
        paths.push(path);
        Ok(())
    };
    let headline: Vec<&RowResult> = results.rows.iter().filter(|row| row.is_headline() && row.time.is_some()).collect();
    if !headline.is_empty() {
        plot("roofline", &|canvas| roofline(canvas, results, &headline))?;
        plot("families", &|canvas| families(canvas, results))?;
    }
    let batches = by_batch(&headline);
    if !batches.is_empty() {
        let title = format!("Percent of the floor by batch: {}", results.label);
        plot("batch", &|canvas| lines(canvas, &title, "batch", "% of floor (geometric mean of the family)", &batches))?;
    }
    for (name, axis, series) in series(&headline) {
        let title = format!("{name}: {}", results.label);
        // An axis is a name from the file, not a path.
        let file = format!("series-{}", short(&axis.replace(|c: char| !c.is_alphanumeric(), "-")));
        plot(&file, &|canvas| lines(canvas, &title, &axis, "microseconds", &series))?;
    }
    Ok(paths)
}

fn picture(path: &Path, draw: &dyn Fn(&Canvas<'_>) -> Drawn) -> Result<()> {
    let fail = |message: String| Error::Parse { source_name: path.display().to_string(), message };
    // The font is embedded: the machine's fonts are not needed.
    register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular()).map_err(|_| fail("the font cannot be read".into()))?;
    let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
    {
        let canvas = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
        canvas.fill(&WHITE).map_err(|e| fail(e.to_string()))?;
        draw(&canvas).map_err(|e| fail(e.to_string()))?;
        canvas.present().map_err(|e| fail(e.to_string()))?;
    }
    let image = RgbImage::from_raw(SIZE.0, SIZE.1, pixels).expect("as many pixels as the canvas has");
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).map_err(|e| fail(e.to_string()))?;
    io::write(path, &file.into_inner())
}

/// Whether a value can be drawn. No measurement exceeds these bounds, but a file may contain any
/// f64, for which the steps of an axis would vanish and drawing would not end.
fn can_be_drawn(value: f64) -> bool {
    (1e-30..=1e30).contains(&value)
}

/// The smallest and the largest value with a margin, for a logarithmic axis.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let usable = values.filter(|v| can_be_drawn(*v));
    let (low, high) = usable.fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    if high > 0.0 { low / 1.5..high * 1.5 } else { 0.1..10.0 }
}

/// The end of a linear axis from 0 for these values, with a margin.
fn end(values: impl Iterator<Item = f64>) -> f64 {
    let high = values.filter(|v| can_be_drawn(*v)).fold(0.0, f64::max);
    if high > 0.0 { high * 1.1 } else { 1.0 }
}

/// A name, shortened so that it leaves room for the plot.
fn short(name: &str) -> String {
    const LONGEST: usize = 100;
    if name.chars().count() > LONGEST { name.chars().take(LONGEST - 3).chain("...".chars()).collect() } else { name.into() }
}

/// The roofline plot: FLOP/s over FLOPs per byte, below the two roofs.
fn roofline(canvas: &Canvas<'_>, results: &Results, rows: &[&RowResult]) -> Drawn {
    let floors = &results.floors;
    let points = rows.iter().filter_map(|row| {
        let (flops, bytes) = (row.flops? as f64, row.bytes? as f64);
        Some((row.family.as_str(), flops / bytes.max(1.0), row.flops_per_second? * 1e-9))
    });
    let points: Vec<(&str, f64, f64)> = points.filter(|(_, x, y)| can_be_drawn(*x) && can_be_drawn(*y)).collect();
    let roof = |intensity: f64, rate: f64| (intensity * floors.copy_bytes_per_second).min(rate) * 1e-9;
    let x = range(points.iter().map(|p| p.1));
    let top = roof(x.end, floors.tensor_flops_per_second.max(floors.ffma_flops_per_second));
    let y = range(points.iter().map(|p| p.2).chain([top]));
    let mut chart = ChartBuilder::on(canvas)
        .caption(short(&format!("Roofline: {}", results.label)), ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())?;
    chart.configure_mesh().x_desc("FLOPs a byte").y_desc("GFLOP/s").label_style(("sans-serif", 15)).draw()?;
    for (name, rate) in [("copy and tensor cores", floors.tensor_flops_per_second), ("copy and ffma", floors.ffma_flops_per_second)] {
        let steps = (0..=200).map(|i| x.start * (x.end / x.start).powf(f64::from(i) / 200.0));
        let style = if name.ends_with("ffma") { BLACK.mix(0.4) } else { BLACK.mix(1.0) };
        chart
            .draw_series(LineSeries::new(steps.map(|i| (i, roof(i, rate).clamp(y.start, y.end))), style.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    let mut families: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for (family, x, y) in points {
        families.entry(family).or_default().push((x, y));
    }
    for (index, (family, points)) in families.into_iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let size = if index < COLOURS.len() { 5 } else { 3 };
        chart
            .draw_series(points.into_iter().map(|point| Circle::new(point, size, colour.filled())))?
            .label(short(family))
            .legend(move |(x, y)| Circle::new((x + 8, y), size, colour.filled()));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).label_font(("sans-serif", 14)).draw()?;
    Ok(())
}

/// Bars by family: the ratio to the fastest peer, or the percentage of the floor if there are no
/// peers.
fn families(canvas: &Canvas<'_>, results: &Results) -> Drawn {
    let table = summary(&results.rows, RowResult::is_headline);
    let compared = table.iter().any(|family| family.compared > 0);
    let what = if compared { "time of the fastest peer / ours, geometric mean" } else { "percent of the floor, geometric mean" };
    let bars = table.iter().filter(|family| !compared || family.compared > 0);
    let value = |family: &warpconv::bench::Summary| if compared { family.ratio } else { family.percent_of_floor };
    let bars = bars.map(|family| (short(&family.family), value(family))).filter(|bar| can_be_drawn(bar.1));
    let bars: Vec<(String, f64)> = bars.collect();
    let end = end(bars.iter().map(|bar| bar.1).chain(compared.then_some(1.2)));
    let names: Vec<String> = bars.iter().map(|bar| bar.0.clone()).collect();
    let mut chart = ChartBuilder::on(canvas)
        .caption(short(&format!("{what}: {}", results.label)), ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(180)
        .build_cartesian_2d(0.0..end, 0.0..bars.len().max(1) as f64)?;
    chart.configure_mesh().disable_y_mesh().y_labels(0).x_desc(what).label_style(("sans-serif", 15)).draw()?;
    for (index, (_, value)) in bars.iter().enumerate() {
        let (low, high) = (index as f64 + 0.15, index as f64 + 0.85);
        let colour = if compared && *value < 1.0 { COLOURS[1] } else { COLOURS[0] };
        chart.draw_series([Rectangle::new([(0.0, low), (*value, high)], colour.mix(0.8).filled())])?;
        chart.draw_series([Text::new(format!("{value:.2}"), (*value, index as f64 + 0.6), ("sans-serif", 15))])?;
    }
    if compared {
        chart.draw_series(LineSeries::new([(1.0, 0.0), (1.0, bars.len() as f64)], BLACK.stroke_width(2)))?;
    }
    // Names stand beside their bars.
    let area = chart.plotting_area();
    for (index, name) in names.iter().enumerate() {
        let (_, y) = area.map_coordinate(&(0.0, index as f64 + 0.5));
        canvas.draw(&Text::new(name.clone(), (12, y - 8), ("sans-serif", 16)))?;
    }
    Ok(())
}

/// A plot of lines over a logarithmic x axis and a linear y axis.
fn lines(canvas: &Canvas<'_>, title: &str, x_name: &str, y_name: &str, all: &[Line]) -> Drawn {
    let points = || all.iter().flat_map(|(_, points)| points.iter().copied()).filter(|p| can_be_drawn(p.0) && can_be_drawn(p.1));
    let y_end = end(points().map(|p| p.1));
    let mut chart = ChartBuilder::on(canvas)
        .caption(short(title), ("sans-serif", 18))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(range(points().map(|p| p.0)).log_scale(), 0.0..y_end)?;
    chart.configure_mesh().x_desc(short(x_name)).y_desc(y_name).label_style(("sans-serif", 15)).draw()?;
    for (index, (name, points)) in all.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = points.iter().copied().filter(|p| can_be_drawn(p.0) && can_be_drawn(p.1));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(4))?
            .label(short(name))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).label_font(("sans-serif", 14)).draw()?;
    Ok(())
}

/// For each family that ran at several batches: the mean percentage of the floor at each.
fn by_batch(rows: &[&RowResult]) -> Vec<Line> {
    let mut batches: Vec<usize> = rows.iter().map(|row| row.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    let rows: Vec<RowResult> = rows.iter().filter(|row| row.series.is_none()).map(|row| (*row).clone()).collect();
    let mut families: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for batch in batches {
        for family in summary(&rows, |row| row.batch == batch) {
            families.entry(family.family).or_default().push((batch as f64, family.percent_of_floor));
        }
    }
    families.into_iter().filter(|(_, points)| points.len() > 1).collect()
}

type Points = Vec<(f64, f64)>;

/// For each series of the suite: its name, the axis, and our times, the fastest peer's and the
/// floor.
fn series(rows: &[&RowResult]) -> Vec<(String, String, Vec<Line>)> {
    let mut all: BTreeMap<(String, String), [Points; 3]> = BTreeMap::new();
    for row in rows {
        let (Some(series), Some(time)) = (&row.series, row.time) else { continue };
        let [ours, floor, peer] = all.entry((series.name.clone(), series.axis.clone())).or_default();
        ours.push((series.value, time.median * 1e6));
        floor.extend(row.floor.as_ref().map(|floor| (series.value, floor.seconds * 1e6)));
        peer.extend(row.peers.first().map(|peer| (series.value, peer.median * 1e6)));
    }
    let named = |lines: [Points; 3]| {
        let names = ["warpconv", "floor", "fastest peer"].map(str::to_string);
        names.into_iter().zip(lines).filter(|(_, points)| points.len() > 1).collect::<Vec<Line>>()
    };
    let all = all.into_iter().map(|((name, axis), lines)| (name, axis, named(lines)));
    all.filter(|(_, _, lines)| !lines.is_empty()).collect()
}
