//! The gallery through real processes: the page stands alone, its pictures are there, and bad input leaves nothing behind.
#![cfg(all(feature = "cli", feature = "host"))]

use image::{ImageFormat, RgbImage};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn gallery(arguments: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warpconv"));
    command.args(["gallery", "--device", "host", "--image"]).arg(arguments[0]);
    command.arg("--out").arg(arguments[1]).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A picture in a folder of its own, and where its gallery goes.
fn folder(picture: &RgbImage, format: ImageFormat) -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (image, out) = (folder.path().join("a <picture> & more"), folder.path().join("deep/down/gallery"));
    picture.save_with_format(&image, format).unwrap();
    (folder, image, out)
}

/// The sections of the page.
const KINDS: [&str; 11] = [
    "dense",
    "strides-and-padding",
    "pointwise",
    "grouped",
    "depthwise",
    "dilated",
    "transposed",
    "sub-pixel",
    "separable",
    "deformable",
    "regions",
];

/// Exhibits whose sampling is drawn over their input.
const OVERLAYS: [&str; 7] =
    ["deform-lens", "deform-lens-undone", "deform-edges", "deform-predicted", "roi-align", "roi-deformable", "roi-unrolled"];

/// What stands in double quotes behind each `name=` of the page.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    html.split(&format!(" {name}=\"")).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn a_page_that_stands_alone() {
    let picture = RgbImage::from_fn(52, 37, |x, y| image::Rgb([(5 * x) as u8, (6 * y) as u8, ((x ^ y) * 4) as u8]));
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let (_folder, image, out) = folder(&picture, format);
        let output = gallery(&[&image, &out]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let page = out.join("index.html");
        assert_eq!(text(&output.stdout).trim_end(), page.display().to_string());
        assert!(text(&output.stderr).contains("device: host"));

        let html = fs::read_to_string(page).unwrap();
        assert!(html.starts_with("<!DOCTYPE html>") && html.trim_end().ends_with("</html>"));
        assert!(attributes(&html, "src").iter().all(|source| source.starts_with("data:image/")), "pictures are embedded");
        assert!(html.split("url(").skip(1).all(|rest| rest.starts_with("data:image/")), "so are backgrounds");
        assert!(!html.contains("http://") && !html.contains("https://"), "nothing is loaded");
        let ids = attributes(&html, "id");
        let unique: HashSet<&str> = ids.iter().copied().collect();
        assert_eq!(ids.len(), unique.len());
        let links = attributes(&html, "href");
        assert!(!links.is_empty() && links.iter().all(|link| link.strip_prefix('#').is_some_and(|id| unique.contains(id))), "{links:?}");
        assert_eq!(html.matches("<img ").count(), attributes(&html, "alt").len());
        assert!(html.contains("a &lt;picture&gt; &amp; more") && !html.contains("<picture>"), "names are escaped");
        assert!(!html.contains("class=\"bad\"") && !html.contains(">NaN") && !html.contains(" NaN"), "every output is within its bound");
        for kind in KINDS {
            assert!(unique.contains(kind), "no section {kind}");
        }
        // every card says how far it is from the oracle, and that this is near enough
        let cards = html.matches("<article ").count();
        assert_eq!(html.matches("<dt>Largest error</dt>").count(), cards);
        assert_eq!(html.matches("<span class=\"good\">").count(), cards);
        for exhibit in OVERLAYS {
            let card = html.split("<article ").find(|card| card.starts_with(&format!("id=\"{exhibit}\""))).unwrap();
            let drawn: Vec<&str> = card.split("<svg class=\"over\"").skip(1).map(|svg| svg.split("</svg>").next().unwrap()).collect();
            assert_eq!(drawn.len(), 1, "{exhibit}");
            assert!(drawn[0].contains("after dots") || drawn[0].contains('z'), "{exhibit}: {}", drawn[0]);
            assert!(!drawn[0].contains("NaN") && !drawn[0].contains("inf"), "{exhibit}: {}", drawn[0]);
        }

        let files: Vec<PathBuf> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
        let pictures: Vec<_> = files.iter().filter(|file| file.extension().is_some_and(|e| e == "png")).collect();
        assert_eq!(pictures.len() + 1, files.len(), "{files:?}");
        // the picture, and an embedded output for each other file, beside the one of the introduction
        assert_eq!(pictures.len(), html.matches("<img ").count());
        assert!(pictures.len() > 40);
        for file in pictures {
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(name == "picture.png" || html.contains(name), "{name} is not on the page");
            image::open(file).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let back = image::open(out.join("picture.png")).unwrap().to_rgb8();
        assert!(format != ImageFormat::Png || back == picture);
        // wavelet details and the last smooth picture add up to the picture, in f32 and 8 bits exactly
        assert_eq!(image::open(out.join("dilated-sum.png")).unwrap().to_rgb8(), back);
        assert_eq!(image::open(out.join("padding-four-sides.png")).unwrap().width(), 52 + 32 + 16);
        // 52 x 37 is 13 x 9 on the small picture, and 52 x 36 where sides must be even
        let size = |name: &str| image::image_dimensions(out.join(name)).unwrap();
        assert_eq!([size("transposed-bilinear.png"), size("sub-pixel-bicubic.png")], [(4 * 13, 4 * 9), (3 * 13, 3 * 9)]);
        assert_eq!([size("focus-slices-4.png"), size("roi-unrolled.png")], [(26, 18), (288, 24)]);
        // shuffled slices are the picture, without the odd row
        let even = image::imageops::crop_imm(&back, 0, 0, 52, 36).to_image();
        assert_eq!(image::open(out.join("focus-shuffled-back.png")).unwrap().to_rgb8(), even);
    }
}

#[test]
fn bad_pictures_leave_nothing_behind() {
    let (folder, image, out) = folder(&RgbImage::new(64, 64), ImageFormat::Png);
    let refuse = |image: &Path, part: &str| {
        let output = gallery(&[image, &out]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(part) && message.contains("error: ") && !message.contains("panicked"), "{message}");
        assert!(output.stdout.is_empty() && !out.exists());
    };
    refuse(&folder.path().join("absent.png"), "absent.png");
    let whole = fs::read(&image).unwrap();
    let broken = folder.path().join("broken.png");
    for bytes in [&b""[..], b"not a picture", &whole[..whole.len() / 2]] {
        fs::write(&broken, bytes).unwrap();
        refuse(&broken, "broken.png");
    }
    let small = folder.path().join("small.png");
    RgbImage::new(4, 70).save(&small).unwrap();
    refuse(&small, "4x70");
}

#[test]
fn an_output_that_cannot_be_written() {
    let (folder, image, _) = folder(&RgbImage::new(16, 16), ImageFormat::Png);
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let output = gallery(&[&image, &file]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
}
