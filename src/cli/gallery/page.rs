//! The page: one HTML file that needs nothing beside it.

use super::exhibits::{Exhibit, Panel, Part, Section, Source};
use super::overlay::Drawn;
use super::pictures::{Picture, Tone};
use super::portrait::Drawing;
use super::run::Check;
use super::{Rendered, Shown, portrait};
use std::fmt::Write;
use std::time::Duration;
use warpconv::analysis::{Operations, ReceptiveField};
use warpconv::{Device, DeviceKind, Layer, Shape};

/// What the page is made of.
pub struct Content<'a> {
    pub sections: &'a [Section],
    /// Every exhibit, in the order of the sections.
    pub shown: &'a [Shown<'a>],
    pub picture: &'a Picture,
    pub input: &'a Rendered,
    pub device: &'a Device,
}

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Where the slider between input and output starts, in percent.
const SPLIT: u32 = 42;

/// The whole document.
pub fn page(content: &Content<'_>) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>warpconv gallery</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n",
        backgrounds(content)
    );
    html += &introduction(content);
    html += "<main>\n";
    for section in content.sections {
        html += &section_of(content, section);
    }
    html += &overview(content);
    let _ = write!(
        html,
        "</main>\n<footer><p>Written by <code>warpconv gallery</code> {}. Pictures on this page are stored as JPEG where that is smaller; \
         the PNG files in the folder of this page are exact. Picture: {}.</p></footer>\n\
         <dialog id=\"enlarged\" aria-label=\"Enlarged picture\"><button type=\"button\" class=\"close\" aria-label=\"Close\">×</button>\
         <div class=\"stage\"></div></dialog>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        escape(&content.picture.name),
    );
    html
}

/// For text and for attributes in double quotes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What the slider shows under an output.
struct LeftSide<'a> {
    /// The CSS class that has the picture.
    class: String,
    rendered: &'a Rendered,
    caption: String,
}

/// The input of an exhibit, where that is one picture: the picture itself, or a panel of an earlier
/// exhibit.
fn before<'a>(content: &Content<'a>, exhibit: &Exhibit) -> Option<LeftSide<'a>> {
    let picture = || LeftSide { class: "in-picture".into(), rendered: content.input, caption: "input".into() };
    let first = *exhibit.input.first()?;
    if exhibit.input.iter().any(|part| *part != first) {
        return None;
    }
    match first.source {
        Source::Picture | Source::EvenPicture => Some(picture()),
        Source::Output(name) => {
            let shown = content.shown.iter().find(|shown| shown.exhibit.name == name)?;
            let at = shown.exhibit.panels.iter().position(|panel| shows(panel, &first, shown))?;
            let caption = format!("input: {}", shown.exhibit.title);
            Some(LeftSide { class: format!("in-{name}-{at}"), rendered: &shown.panels[at], caption })
        }
    }
}

/// Whether a panel shows the channels that a part takes.
fn shows(panel: &Panel, part: &Part, shown: &Shown<'_>) -> bool {
    let all: Vec<usize> = (0..shown.outcome.y.shape[0]).collect();
    panel.channels == part.channels.unwrap_or(&all)
}

/// The pictures that several exhibits stand on, each once.
fn backgrounds(content: &Content<'_>) -> String {
    let mut classes: Vec<(String, &Rendered)> = Vec::new();
    for shown in content.shown {
        let pictures = [before(content, shown.exhibit), with_picture(content, shown.exhibit)];
        for before in pictures.into_iter().flatten() {
            if !classes.iter().any(|(class, _)| *class == before.class) {
                classes.push((before.class, before.rendered));
            }
        }
    }
    classes.iter().map(|(class, rendered)| format!(".{class} {{ background-image: url({}) }}\n", rendered.data_uri)).collect()
}

/// The picture beside the output of a layer that reads more than one picture.
fn with_picture<'a>(content: &Content<'a>, exhibit: &Exhibit) -> Option<LeftSide<'a>> {
    let several = before(content, exhibit).is_none();
    several.then(|| LeftSide { class: "in-picture".into(), rendered: content.input, caption: "the picture".into() })
}

fn introduction(content: &Content<'_>) -> String {
    let Content { shown, picture, input, device, .. } = content;
    let macs: u64 = shown.iter().map(|s| s.report.operations.macs).sum();
    let time: Duration = shown.iter().map(|s| s.outcome.time).sum();
    let elements: usize = shown.iter().map(|s| s.check.elements).sum();
    let failures: usize = shown.iter().map(Shown::failures).sum();
    let worst = shown.iter().flat_map(|s| s.types.iter().map(|t| t.check.ratio).chain([s.check.ratio])).fold(0.0, f64::max);
    let [_, height, width] = picture.planes.shape;
    let changes = if picture.changes.is_empty() { String::new() } else { format!(" ({})", escape(&picture.changes.join("; "))) };
    let note = match device.kind() {
        DeviceKind::Host => {
            " It runs the kernels thread by thread on the CPU, to show and to test them; its times say nothing about a GPU."
        }
        DeviceKind::Cuda => "",
    };
    let verdict = if failures == 0 {
        format!("all {} outputs within the bound", grouped_digits(elements as u64))
    } else {
        format!("<strong class=\"bad\">{} outputs beyond the bound</strong>", grouped_digits(failures as u64))
    };
    let links: String = content
        .sections
        .iter()
        .map(|s| (s.id, s.title))
        .chain([("overview", "Overview")])
        .map(|(id, title)| format!("<a href=\"#{id}\">{}</a>", escape(title)))
        .collect();
    let tiles: String = [
        (format!("{}", shown.len()), format!("layers of {} kinds", content.sections.len())),
        (count(macs), "multiply-adds".into()),
        (duration(time), format!("in the kernels, on device {}", escape(&device.to_string()))),
        (format!("{worst:.2}"), format!("of the error bound at worst: {verdict}")),
    ]
    .map(|(number, text)| format!("<div><dt>{text}</dt><dd>{number}</dd></div>"))
    .concat();
    format!(
        "<header>\n<div class=\"lead\">\n<h1>warpconv <span>gallery</span></h1>\n\
         <p class=\"lead\">warpconv is a Rust crate of hand-written CUDA kernels for every kind of convolution of modern networks. The \
         same kernel sources also run on the CPU, so that everything on this page can be seen, and tested, without a GPU.</p>\n\
         <p>Each card below is one layer, run by such a kernel on the picture beside this text, with filters whose effect can be \
         recognised. Drag across a picture to compare input and output. Every number was measured or computed when this page was \
         written, and every element of every output was compared with a plain double-precision definition of its layer.</p>\n\
         <p class=\"device\">Device: <strong>{}</strong>, {}.{note}</p>\n<dl class=\"tiles\">{tiles}</dl>\n</div>\n\
         <figure class=\"original\"><img src=\"{}\" width=\"{}\" height=\"{}\" alt=\"The picture that every layer is applied to: {}\">\
         <figcaption>{}{changes}<br>{width} × {height} pixels, values from 0 to 1</figcaption></figure>\n</header>\n\
         <nav aria-label=\"Kinds of convolution\">{links}</nav>\n",
        escape(&device.to_string()),
        escape(&device.describe()),
        input.data_uri,
        input.width,
        input.height,
        escape(&picture.name),
        escape(&picture.name),
    )
}

fn section_of(content: &Content<'_>, section: &Section) -> String {
    let mut html = format!(
        "<section id=\"{}\">\n<h2>{}</h2>\n<p class=\"about\">{}</p>\n<div class=\"cards\">\n",
        section.id,
        escape(section.title),
        escape(section.text)
    );
    let mut tables = String::new();
    for exhibit in &section.exhibits {
        if let Some(shown) = content.shown.iter().find(|shown| shown.exhibit.name == exhibit.name) {
            html += &card(content, shown);
            tables += &types(shown);
        }
    }
    html + "</div>\n" + &tables + "</section>\n"
}

fn card(content: &Content<'_>, shown: &Shown<'_>) -> String {
    let exhibit = shown.exhibit;
    let wide = shown.panels.len() > 1 || shown.overlay.is_some();
    let mut html = format!("<article id=\"{}\" class=\"{}\">\n", exhibit.name, if wide { "wide" } else { "single" });
    let _ = writeln!(html, "<div class=\"pictures\">{}{}</div>", pictures(content, shown), legend(shown));
    let _ = write!(
        html,
        "<div class=\"words\">\n<h3>{}</h3>\n<p>{}</p>\n<p class=\"formula\">{}</p>\n</div>\n",
        escape(exhibit.title),
        escape(exhibit.text),
        shown.portrait.formula
    );
    html += &drawings(shown);
    html += &facts(content, shown);
    html + "</article>\n"
}

/// The output over the input where both have one proportion, else both side by side; several panels, or one whose input has been
/// drawn on, as tiles.
fn pictures(content: &Content<'_>, shown: &Shown<'_>) -> String {
    let exhibit = shown.exhibit;
    let before = before(content, exhibit).or_else(|| with_picture(content, exhibit));
    if let ([only], Some(before), None) = (shown.panels.as_slice(), &before, &shown.overlay)
        && let Some(html) = slider(shown, only, before)
    {
        return html;
    }
    let panels = exhibit.panels.iter().zip(&shown.panels);
    let output = |(panel, rendered): (&Panel, &Rendered)| {
        let alt = format!("{}, {}", exhibit.title, panel.caption);
        tile(&image(rendered, &alt), [rendered.width, rendered.height], panel.caption)
    };
    let input = before.map(|before| match &shown.overlay {
        Some(drawn) => drawn_over(&before, drawn),
        None => {
            let Rendered { width, height, .. } = *before.rendered;
            tile(&background(&before, pixels(width), ""), [width, height], &before.caption)
        }
    });
    let tiles: String = input.into_iter().chain(panels.map(output)).collect();
    format!("<div class=\"panels of-{}\">{tiles}</div>", shown.panels.len() + 1)
}

/// The class of a picture whose pixels are to be seen.
fn pixels(width: u32) -> &'static str {
    if width < 300 { " pixels" } else { "" }
}

fn image(rendered: &Rendered, alt: &str) -> String {
    let Rendered { width, height, data_uri, .. } = rendered;
    let class = pixels(*width).trim_start();
    format!("<img class=\"{class}\" src=\"{data_uri}\" width=\"{width}\" height=\"{height}\" alt=\"{}\">", escape(alt))
}

fn background(before: &LeftSide<'_>, class: &str, style: &str) -> String {
    format!("<div class=\"picture{class} {}\" role=\"img\" aria-label=\"{}\"{style}></div>", before.class, escape(&before.caption))
}

fn tile(image: &str, [width, height]: [u32; 2], caption: &str) -> String {
    // what is long and low has a row for itself
    let strip = if width > 4 * height { " class=\"strip\"" } else { "" };
    format!(
        "<figure{strip} style=\"--w:{width};--h:{height}\"><div class=\"frame\">{image}{ENLARGE}</div><figcaption>{}</figcaption></figure>",
        escape(caption)
    )
}

/// The part of the input that has been drawn on.
fn drawn_over(before: &LeftSide<'_>, drawn: &Drawn) -> String {
    let [left, top, width, height] = drawn.region;
    let [full_height, full_width] = drawn.picture;
    // CSS positions a background by the share of what does not fit
    let share = |start: usize, part: usize, full: usize| if full > part { 100.0 * start as f64 / (full - part) as f64 } else { 0.0 };
    let style = format!(
        " style=\"background-size:{:.3}% {:.3}%;background-position:{:.3}% {:.3}%\"",
        100.0 * full_width as f64 / width as f64,
        100.0 * full_height as f64 / height as f64,
        share(left, width, full_width),
        share(top, height, full_height),
    );
    let picture = background(before, pixels(width as u32), &style);
    tile(&(picture + &drawn.svg), [width as u32, height as u32], drawn.caption)
}

const ENLARGE: &str = "<button type=\"button\" class=\"enlarge\" aria-label=\"Enlarge\">⤢</button>";

/// None when input and output do not cover each other.
fn slider(shown: &Shown<'_>, output: &Rendered, before: &LeftSide<'_>) -> Option<String> {
    let input = before.rendered;
    let proportion = |r: &Rendered| f64::from(r.width) / f64::from(r.height);
    // an output that is a little smaller is shown beside its input, so that the difference can be
    // seen
    let covers = output.width == input.width || output.width * 2 <= input.width || input.width * 2 <= output.width;
    if !covers || (proportion(output) / proportion(input) - 1.0).abs() > 0.02 {
        return None;
    }
    Some(format!(
        "<div class=\"frame compare\" style=\"--at:{SPLIT}%;--w:{};--h:{}\">{}{}\
         <span class=\"tag\">{}</span><span class=\"tag\">output</span>\
         <input type=\"range\" min=\"0\" max=\"100\" value=\"{SPLIT}\" aria-label=\"Share of the input that is seen\">{ENLARGE}</div>",
        input.width,
        input.height,
        background(before, pixels(input.width), ""),
        image(output, &format!("{}, output", shown.exhibit.title)),
        escape(&before.caption)
    ))
}

/// What brightness means, where it is not the numbers themselves.
fn legend(shown: &Shown<'_>) -> String {
    let panels = shown.exhibit.panels.iter().zip(&shown.panels);
    let mut texts: Vec<String> = Vec::new();
    for (panel, rendered) in panels.filter(|(panel, _)| panel.tone != Tone::Plain) {
        let several = shown.exhibit.panels.iter().any(|other| other.tone != panel.tone);
        let text = if several { format!("{}: {}", panel.caption, rendered.legend) } else { rendered.legend.clone() };
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.is_empty() { String::new() } else { format!("<p class=\"legend\">{}</p>", escape(&texts.join("; "))) }
}

fn drawings(shown: &Shown<'_>) -> String {
    let figure = |svg: &str, caption: &str| format!("<figure>{svg}<figcaption>{caption}</figcaption></figure>");
    let mut html = format!("<div class=\"drawings of-{}\">", shown.portrait.drawings.len());
    for Drawing { svg, caption } in &shown.portrait.drawings {
        html += &figure(svg, caption);
    }
    if let Some(curves) = &shown.curves {
        html += &figure(&portrait::curves(curves), "output over a grey ramp");
    }
    html + "</div>\n"
}

fn facts(content: &Content<'_>, shown: &Shown<'_>) -> String {
    let Shown { exhibit, report, outcome, check, .. } = shown;
    let size = |field: &ReceptiveField| format!("{}\u{a0}×\u{a0}{}", field.size[0], field.size[1]);
    let own = report.receptive_field;
    let mut field = shown.portrait.sees.clone().unwrap_or_else(|| own.as_ref().map_or("differs from pixel to pixel".into(), size));
    if let Some(through) = shown.field.filter(|_| shown.field != own) {
        let _ = write!(field, ", through the layers before {} of the picture", size(&through));
    }
    let p = &report.parameters;
    let sampling = match report.operations {
        Operations { macs: 0, sampling_flops: 0, .. } => ("Arithmetic", "none".into()),
        Operations { macs: 0, sampling_flops, .. } => ("Arithmetic", format!("{} FLOPs of sampling", count(sampling_flops))),
        Operations { macs, sampling_flops: 0, .. } => ("Multiply-adds", count(macs)),
        Operations { macs, sampling_flops, .. } => {
            ("Multiply-adds", format!("{}, and {} FLOPs of sampling", count(macs), count(sampling_flops)))
        }
    };
    let rows = [
        ("Input", shape(report.input, " × ")),
        ("Output", shape(report.output, " × ")),
        ("Receptive field", field),
        ("Parameters", if p.bias > 0 { format!("{} + {} bias", grouped_digits(p.weight), p.bias) } else { grouped_digits(p.total) }),
        sampling,
        ("Stored as", format!("{}, {}", exhibit.dtype, exhibit.format)),
        ("Time", format!("{} on {}", duration(outcome.time), escape(&content.device.to_string()))),
        ("Largest error", error(check)),
    ];
    let rows: String = rows.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>")).collect();
    let spec = serde_json::to_string(&exhibit.model.layer.spec()).unwrap_or_default();
    let more = [("a residual", exhibit.residual.is_some()), ("offsets", exhibit.offset.is_some()), ("a mask", exhibit.mask.is_some())];
    let more = more.into_iter().chain([("RoIs", exhibit.rois.is_some())]).filter(|(_, there)| *there);
    let more: String = more.map(|(name, _)| format!(", and {name}")).collect();
    let parameters = exhibit.model.parameters.iter().map(|(name, parameter)| match parameter.shape() {
        [_] => format!("a {name} of {:?}", parameter.values()),
        shape => format!("a {name} of shape {shape:?}"),
    });
    let parameters: Vec<String> = parameters.collect();
    let files: Vec<&str> = shown.panels.iter().map(|r| r.file.as_str()).collect();
    format!(
        "<dl class=\"facts\">{rows}</dl>\n<details><summary>Size, kernel, spec</summary>\n<p class=\"sum\">{}</p>\n\
         <p>Kernel <code>{}</code>{more}</p><pre>{}</pre>\n\
         <p>Spec, as <code>warpconv run --layer</code> takes it, with {}</p><pre>{}</pre>\n<p>Files: {}</p>\n</details>\n",
        shown.portrait.size.join("<br>"),
        outcome.kernel,
        escape(outcome.explanation.trim_end()),
        if parameters.is_empty() { "no parameters".into() } else { parameters.join(" and ") },
        escape(&spec),
        escape(&files.join(", ")),
    )
}

/// "1.2e-7", or "0" where the result is the reference.
fn distance(check: &Check) -> String {
    if check.error == 0.0 { "0".into() } else { format!("{:.1e}", check.error) }
}

/// "1.2e-7, 0.31 of the bound".
fn error(check: &Check) -> String {
    let class = if check.failures == 0 { "good" } else { "bad" };
    let bound = if check.error == 0.0 { "exact".into() } else { format!("{:.2} of the bound", check.ratio) };
    format!("{}, <span class=\"{class}\">{bound}</span>", distance(check))
}

/// One layer in every dtype and format.
fn types(shown: &Shown<'_>) -> String {
    if shown.types.is_empty() {
        return String::new();
    }
    let row = |row: &super::TypeRow| {
        format!(
            "<tr><td>{}</td><td>{}</td><td><code>{}</code></td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{:.2}</td></tr>",
            row.dtype,
            row.format,
            row.outcome.kernel,
            duration(row.outcome.time),
            distance(&row.check),
            row.check.ratio
        )
    };
    format!(
        "<div class=\"scroll\"><table>\n<caption>{} in every dtype and memory format. The bound is that of the numerics contract: two \
         roundings of the result and those of its sums in f32.</caption>\n<thead><tr><th>dtype</th><th>format</th><th>kernel</th>\
         <th class=\"number\">time</th><th class=\"number\">largest error</th><th class=\"number\">of the bound</th></tr></thead>\n\
         <tbody>{}</tbody>\n</table></div>\n",
        escape(shown.exhibit.title),
        shown.types.iter().map(row).collect::<String>()
    )
}

fn overview(content: &Content<'_>) -> String {
    let row = |section: &Section, shown: &Shown<'_>| {
        format!(
            "<tr><td>{}</td><td><a href=\"#{}\">{}</a></td><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{:.2}</td></tr>\n",
            escape(section.title),
            shown.exhibit.name,
            escape(shown.exhibit.title),
            shape(shown.report.input, "×"),
            shape(shown.report.output, "×"),
            grouped_digits(shown.report.parameters.total),
            count(shown.report.operations.macs),
            shown.exhibit.dtype,
            shown.exhibit.format,
            duration(shown.outcome.time),
            distance(&shown.check),
            shown.check.ratio
        )
    };
    let rows = content.sections.iter().flat_map(|section| {
        let of_section = |shown: &&Shown<'_>| section.exhibits.iter().any(|exhibit| exhibit.name == shown.exhibit.name);
        content.shown.iter().filter(of_section).map(move |shown| row(section, shown)).collect::<Vec<_>>()
    });
    format!(
        "<section id=\"overview\">\n<h2>Overview</h2>\n<p class=\"about\">Shapes are channels × height × width. The error is the largest \
         |y − reference| over all elements; the reference is computed in f64 from the operands as the dtype holds them. The last column \
         is the largest error in units of the bound that the numerics contract allows that element.</p>\n\
         <div class=\"scroll\"><table class=\"overview\">\n<thead><tr><th>kind</th><th>layer</th><th>input</th><th>output</th>\
         <th class=\"number\">parameters</th><th class=\"number\">MACs</th><th>dtype</th><th>format</th><th class=\"number\">time</th>\
         <th class=\"number\">error</th><th class=\"number\">of bound</th></tr></thead>\n<tbody>\n{}</tbody>\n</table></div>\n</section>\n",
        rows.collect::<String>()
    )
}

/// "3×512×512"; with the number of images or RoIs where there are several.
fn shape(shape: Shape, times: &str) -> String {
    let sizes = if shape[0] == 1 { &shape[1..] } else { &shape[..] };
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(times)
}

/// "115.6 M".
fn count(value: u64) -> String {
    match value {
        0..1_000 => value.to_string(),
        1_000..1_000_000 => format!("{:.1} k", value as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", value as f64 / 1e6),
        _ => format!("{:.2} G", value as f64 / 1e9),
    }
}

/// "12 345".
fn grouped_digits(value: u64) -> String {
    let digits = value.to_string();
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let groups = tail.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    std::iter::once(head.to_string()).filter(|head| !head.is_empty()).chain(groups).collect::<Vec<_>>().join("\u{202f}")
}

/// "85.1 ms".
fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([7, 1_500, 115_605_504, 2_000_000_000].map(count), ["7", "1.5 k", "115.6 M", "2.00 G"]);
        assert_eq!([0, 441, 1_234, 12_345_678].map(|v| grouped_digits(v).replace('\u{202f}', " ")), ["0", "441", "1 234", "12 345 678"]);
        assert_eq!([20e-6, 0.085, 2.5].map(|s| duration(Duration::from_secs_f64(s))), ["20 µs", "85.0 ms", "2.50 s"]);
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
