//! `warpconv gallery`: each kind of convolution on a real picture, as PNG files and one page.

mod exhibits;
mod filters;
mod overlay;
mod page;
mod pictures;
mod portrait;
mod run;

use super::{DeviceArgs, Verdict, note, print, progress};
use exhibits::{Exhibit, Operand, Part, ROIS, Source};
use image::RgbImage;
use overlay::Drawn;
use pictures::{Picture, Planes, Tone};
use portrait::Portrait;
use run::{Check, Outcome, Values};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use warpconv::analysis::{self, LayerReport, ReceptiveField};
use warpconv::{DType, Device, Error, Layer, MemoryFormat, Result};

const EXAMPLES: &str = "\
Examples:
  warpconv gallery                              a portrait from NASA, in target/gallery
  warpconv gallery --image cat.jpg --out cats   a picture of your own";

/// Apply every kind of convolution to a picture, and write a page that shows what came out
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The picture, PNG or JPEG; large ones are scaled down
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Folder for index.html and the PNG files, created if it is not there
    #[arg(long, value_name = "DIR", default_value = "target/gallery")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// An exhibit with all that the page tells about it.
struct Shown<'a> {
    exhibit: &'a Exhibit,
    portrait: Portrait,
    report: LayerReport,
    /// What an output pixel sees of the picture itself, through the layers before this one, where
    /// that is the same for all.
    field: Option<ReceptiveField>,
    overlay: Option<Drawn>,
    outcome: Outcome,
    check: Check,
    panels: Vec<Rendered>,
    /// Of a 1x1 layer on the picture.
    curves: Option<Vec<Vec<f32>>>,
    /// The same layer in every dtype and format, where the exhibit asks for it.
    types: Vec<TypeRow>,
}

/// A layer run in one dtype and format.
struct TypeRow {
    dtype: DType,
    format: MemoryFormat,
    outcome: Outcome,
    check: Check,
}

/// A picture as a file and as part of the page.
struct Rendered {
    file: String,
    width: u32,
    height: u32,
    /// What the brightness means.
    legend: String,
    png: Vec<u8>,
    data_uri: String,
}

impl Rendered {
    fn new(stem: &str, picture: &RgbImage, legend: String) -> Result<Self> {
        let png = pictures::png(picture)?;
        let data_uri = pictures::data_uri(picture, &png)?;
        Ok(Self { file: format!("{stem}.png"), width: picture.width(), height: picture.height(), legend, png, data_uri })
    }
}

/// What an exhibit read and gave, before it is checked and drawn.
struct Run<'a> {
    exhibit: &'a Exhibit,
    operands: run::Operands,
    /// What an output pixel sees of the picture, where that is the same for all.
    field: Option<ReceptiveField>,
    outcome: Outcome,
    curves: Option<Vec<Vec<f32>>>,
    types: Vec<(DType, MemoryFormat, Outcome)>,
}

pub fn execute(args: Args) -> Result<Verdict> {
    let start = Instant::now();
    let picture = Picture::load(args.image.as_deref())?;
    let device = args.device.device()?;
    let sections = exhibits::sections()?;
    // before the work, since a folder that cannot be had should not cost it
    std::fs::create_dir_all(&args.out).map_err(|source| Error::Io { path: args.out.clone(), source })?;
    let all: Vec<&Exhibit> = sections.iter().flat_map(|section| &section.exhibits).collect();

    let bar = progress(2 * all.len() as u64, "steps");
    let mut runs: Vec<Run<'_>> = Vec::new();
    for &exhibit in &all {
        bar.set_message(format!("running {}", exhibit.name));
        let run = run_exhibit(&device, exhibit, &picture.planes, &runs)?;
        runs.push(run);
        bar.inc(1);
    }
    // the oracle takes longer than the kernels, and draws no time from them once they are done
    bar.set_message("checking and drawing");
    let shown = parallel(runs, |run| {
        let shown = show(run);
        bar.inc(1);
        shown
    })?;
    bar.finish_and_clear();

    let input = Rendered::new("picture", &pictures::render(&picture.planes, Tone::Plain, 1.0), Tone::Plain.describe(1.0))?;
    let html = page::page(&page::Content { sections: &sections, shown: &shown, picture: &picture, input: &input, device: &device });
    let files = std::iter::once(&input).chain(shown.iter().flat_map(|s| &s.panels)).map(|r| (r.file.as_str(), r.png.as_slice()));
    let page = write(&args.out, files, &html)?;

    let failed: Vec<&str> = shown.iter().filter(|s| s.failures() > 0).map(|s| s.exhibit.name).collect();
    let spent: Duration = shown.iter().map(|s| s.outcome.time).sum();
    note(format_args!(
        "{} layers, {:.2} s in their kernels, {:.1} s in all",
        shown.len(),
        spent.as_secs_f64(),
        start.elapsed().as_secs_f64()
    ));
    print(page.display())?;
    if failed.is_empty() {
        return Ok(Verdict::Passed);
    }
    note(format_args!("too far from the oracle: {}", failed.join(", ")));
    Ok(Verdict::Failed)
}

impl Shown<'_> {
    /// Elements that break the numerics contract, in any dtype and format that it was run in.
    fn failures(&self) -> usize {
        self.check.failures + self.types.iter().map(|row| row.check.failures).sum::<usize>()
    }
}

/// The planes of a part of an input, and what their pixels have seen of the picture.
fn part(part: &Part, picture: &Planes, runs: &[Run<'_>]) -> (Planes, Option<ReceptiveField>) {
    let (planes, field) = match part.source {
        Source::Picture => (picture, Some(ReceptiveField::input())),
        Source::EvenPicture => {
            let [_, height, width] = picture.shape;
            return (picture.crop(height & !1, width & !1), Some(ReceptiveField::input()));
        }
        Source::Output(name) => {
            let run = runs.iter().find(|run| run.exhibit.name == name).expect("an exhibit comes after those whose output it reads");
            (&run.outcome.y, run.field)
        }
    };
    (part.channels.map_or_else(|| planes.clone(), |channels| planes.select(channels)), field)
}

fn run_exhibit<'a>(device: &Device, exhibit: &'a Exhibit, picture: &Planes, runs: &[Run<'_>]) -> Result<Run<'a>> {
    let parts: Vec<_> = exhibit.input.iter().map(|p| part(p, picture, runs)).collect();
    // of several layers that are read, the one that sees most
    let below: Option<Vec<ReceptiveField>> = parts.iter().map(|(_, field)| *field).collect();
    let below = below.and_then(|fields| fields.into_iter().max_by_key(|field| field.size));
    let x = Planes::concatenate(&parts.into_iter().map(|(planes, _)| planes).collect::<Vec<_>>());
    let Exhibit { model, dtype, format, .. } = exhibit;
    let shape = x.shape;
    let mut operands = run::Operands::new();
    let operand = |operand: &Operand| match operand {
        Operand::Of(of) => part(of, picture, runs).0.into(),
        Operand::Computed(compute) => compute(&x),
    };
    for (name, values) in [("offset", exhibit.offset.as_ref().map(operand)), ("mask", exhibit.mask.as_ref().map(operand))] {
        operands.extend(values.map(|values| (name, values)));
    }
    if let Some(residual) = &exhibit.residual {
        operands.insert("residual", part(residual, picture, runs).0.into());
    }
    if let Some(rois) = exhibit.rois {
        let rois = rois([shape[1], shape[2]]);
        operands.insert(ROIS, Values { shape: vec![rois.len(), 5], values: rois.into_flattened() });
    }
    operands.insert("x", x.into());
    let run_as = |dtype, format| run::run(device, &model.layer, &operands, dtype, format);
    let outcome = run_as(*dtype, *format)?;
    let every = DType::ALL.into_iter().flat_map(|dtype| MemoryFormat::ALL.map(|format| (dtype, format)));
    let types = every.filter(|_| exhibit.every_type).map(|(dtype, format)| Ok((dtype, format, run_as(dtype, format)?)));
    let types = types.collect::<Result<_>>()?;
    let pixelwise = portrait::is_pointwise(&model.layer) && shape[0] == 3 && outcome.y.shape[1..] == shape[1..];
    let curves = pixelwise.then(|| run::ramp(device, exhibit)).transpose()?;
    let own = report(exhibit, &operands)?.receptive_field;
    let field = portrait::field_on_top(own, below);
    Ok(Run { exhibit, field, outcome, types, curves, operands })
}

/// What the layer costs, and what it sees.
fn report(exhibit: &Exhibit, operands: &run::Operands) -> Result<LayerReport> {
    let Exhibit { model, dtype, residual, mask, .. } = exhibit;
    let cost = analysis::Operands::new(*dtype).residual(residual.is_some()).mask(mask.is_some());
    analysis::analyse(&model.layer.spec(), &model.layer.parameter_shapes(), &run::request(operands), cost)
}

/// Checks, counts and draws.
fn show(run: Run<'_>) -> Result<Shown<'_>> {
    let Run { exhibit, operands, field, outcome, curves, types } = run;
    let Exhibit { model, dtype, .. } = exhibit;
    let check = |dtype, y: &Planes| run::check(model, &operands, dtype, y);
    let types = types.into_iter().map(|(dtype, format, outcome)| Ok(TypeRow { dtype, format, check: check(dtype, &outcome.y)?, outcome }));
    Ok(Shown {
        portrait: portrait::portrait(&model.layer, &operands)?,
        report: report(exhibit, &operands)?,
        check: check(*dtype, &outcome.y)?,
        panels: render(exhibit, &outcome.y)?,
        types: types.collect::<Result<_>>()?,
        overlay: exhibit.overlay.map(|overlay| overlay.draw(&operands)),
        exhibit,
        field,
        outcome,
        curves,
    })
}

/// The panels of an output; those of one tone have one scale.
fn render(exhibit: &Exhibit, y: &Planes) -> Result<Vec<Rendered>> {
    let scale_of = |tone: Tone| {
        let channels: Vec<usize> = exhibit.panels.iter().filter(|p| p.tone == tone).flat_map(|p| p.channels).copied().collect();
        pictures::strongest(&y.select(&channels))
    };
    let single = exhibit.panels.len() == 1;
    let render = |(index, panel): (usize, &exhibits::Panel)| {
        let scale = scale_of(panel.tone);
        let picture = pictures::render(&y.select(panel.channels), panel.tone, scale);
        let stem = if single { exhibit.name.to_string() } else { format!("{}-{}", exhibit.name, index + 1) };
        Rendered::new(&stem, &picture, panel.tone.describe(scale))
    };
    exhibit.panels.iter().enumerate().map(render).collect()
}

/// `work` on every item, on all cores; the results in the order of the items.
fn parallel<I: Send, R: Send>(items: Vec<I>, work: impl Fn(I) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (queue, results) = (Mutex::new(items.into_iter().enumerate()), Mutex::new(Vec::new()));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, item)) = next() {
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Writes the pictures and then the page, so that there is no page without its pictures. Returns
/// the page's path.
fn write<'a>(out: &Path, pictures: impl Iterator<Item = (&'a str, &'a [u8])>, html: &str) -> Result<PathBuf> {
    for (file, bytes) in pictures {
        warpconv::io::write(out.join(file), bytes)?;
    }
    let page = out.join("index.html");
    warpconv::io::write(&page, html.as_bytes())?;
    Ok(page)
}
