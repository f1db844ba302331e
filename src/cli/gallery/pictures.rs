//! Pictures become planes of numbers that layers read, and planes of numbers become pictures again.

use super::filters::LUMA;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GenericImageView, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage, imageops};
use std::io::{BufRead, Cursor, Seek};
use std::path::Path;
use warpconv::{Error, Result};

/// The picture that is used where none is given: 512x512, NASA, public domain.
const DEFAULT_PICTURE: &[u8] = include_bytes!("../../../assets/astronaut.png");
const DEFAULT_NAME: &str = "Eileen Collins, NASA, public domain";

/// Larger pictures are scaled down to as many pixels, so that a gallery takes seconds.
const MAX_PIXELS: u64 = 512 * 512;
/// Pictures of more pixels, or of more bytes once they are decoded, are refused before they are: a file of 69 bytes can claim to
/// be a picture of 34 GB.
const MAX_DECODED_PIXELS: u64 = 1 << 26;
const MAX_DECODED_BYTES: u64 = 1 << 29;
/// Larger files are no pictures that are small enough.
const MAX_FILE_BYTES: u64 = 1 << 28;
/// The largest filter without padding must fit.
const MIN_SIDE: u32 = 16;
/// Of the copies inside the page; the files are exact.
const JPEG_QUALITY: u8 = 92;

/// Channels of numbers, as layers read and write them.
#[derive(Debug, Clone, PartialEq)]
pub struct Planes {
    /// Channels, height and width.
    pub shape: [usize; 3],
    /// In [C, H, W] order.
    pub values: Vec<f32>,
}

impl Planes {
    /// The values of a channel, row by row.
    pub fn channel(&self, channel: usize) -> &[f32] {
        let pixels = self.shape[1] * self.shape[2];
        &self.values[channel * pixels..][..pixels]
    }

    /// Some of its channels, in the order asked for.
    pub fn select(&self, channels: &[usize]) -> Planes {
        let values = channels.iter().flat_map(|&channel| self.channel(channel)).copied().collect();
        Planes { shape: [channels.len(), self.shape[1], self.shape[2]], values }
    }

    /// Its first rows and columns.
    pub fn crop(&self, height: usize, width: usize) -> Planes {
        let [channels, _, full] = self.shape;
        let rows = (0..channels).flat_map(|channel| self.channel(channel).chunks(full).take(height));
        Planes { shape: [channels, height, width], values: rows.flat_map(|row| &row[..width]).copied().collect() }
    }

    /// All channels of all parts, which have one height and width.
    pub fn concatenate(parts: &[Planes]) -> Planes {
        let [_, height, width] = parts[0].shape;
        let channels = parts.iter().map(|part| part.shape[0]).sum();
        Planes { shape: [channels, height, width], values: parts.iter().flat_map(|part| part.values.iter().copied()).collect() }
    }
}

/// How brightness grows around each pixel, downwards and rightwards: central differences.
pub fn edges(planes: &Planes) -> Vec<[f32; 2]> {
    let [channels, h, w] = planes.shape;
    let at = |y: usize, x: usize| -> f32 { (0..channels.min(3)).map(|c| LUMA[c] * planes.values[(c * h + y) * w + x]).sum() };
    let pixel = |index: usize| {
        let (y, x) = (index / w, index % w);
        let down = at((y + 1).min(h - 1), x) - at(y.saturating_sub(1), x);
        let right = at(y, (x + 1).min(w - 1)) - at(y, x.saturating_sub(1));
        [down, right]
    };
    (0..h * w).map(pixel).collect()
}

/// A picture to convolve.
#[derive(Debug)]
pub struct Picture {
    /// Where it is from: a file's name, or the credit of the default.
    pub name: String,
    /// What was done to it on the way in: "scaled down from 4000x3000". May be empty.
    pub changes: Vec<String>,
    /// Red, green and blue, 0 to 1.
    pub planes: Planes,
}

impl Picture {
    /// Reads a PNG or JPEG, or the default.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::Parse`] when it is no such picture, or too large, too small or too
    /// narrow.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        match path {
            None => Self::decode(Cursor::new(DEFAULT_PICTURE), DEFAULT_NAME.into(), DEFAULT_NAME),
            Some(path) => {
                let file = std::fs::File::open(path).map_err(|source| Error::Io { path: path.into(), source })?;
                let bytes = file.metadata().map_err(|source| Error::Io { path: path.into(), source })?.len();
                if bytes > MAX_FILE_BYTES {
                    let message = format!("the file has {bytes} bytes, above the limit of {MAX_FILE_BYTES} for a picture");
                    return Err(Error::Parse { source_name: path.display().to_string(), message });
                }
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
                Self::decode(std::io::BufReader::new(file), name, &path.display().to_string())
            }
        }
    }

    fn decode(file: impl BufRead + Seek, name: String, source_name: &str) -> Result<Self> {
        let wrong = |message: String| Error::Parse { source_name: source_name.into(), message };
        let refuse = |error: ImageError| wrong(format!("not a picture that can be read (PNG or JPEG): {error}"));
        let mut reader = ImageReader::new(file).with_guessed_format().map_err(|error| refuse(error.into()))?;
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_DECODED_BYTES);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(refuse)?;
        // not every decoder keeps to the limits, and what makes a picture of one asks for none
        let ((width, height), bytes) = (decoder.dimensions(), decoder.total_bytes());
        if u64::from(width) * u64::from(height) > MAX_DECODED_PIXELS || bytes > MAX_DECODED_BYTES {
            return Err(wrong(format!(
                "the picture has {width}x{height} pixels, {bytes} bytes, above the limit of {MAX_DECODED_PIXELS} pixels and {MAX_DECODED_BYTES} bytes"
            )));
        }
        let orientation = decoder.orientation().map_err(refuse)?;
        let mut picture = DynamicImage::from_decoder(decoder).map_err(refuse)?;
        picture.apply_orientation(orientation);

        let mut changes = Vec::new();
        let [width, height] = fit(picture.width(), picture.height());
        if width < MIN_SIDE || height < MIN_SIDE {
            let scaled = if [width, height] == [picture.width(), picture.height()] { "" } else { " after scaling" };
            return Err(wrong(format!("the picture has {width}x{height} pixels{scaled}, but filters need {MIN_SIDE}x{MIN_SIDE} at least")));
        }
        if [width, height] != [picture.width(), picture.height()] {
            changes.push(format!("scaled down from {}x{}", picture.width(), picture.height()));
            picture = picture.resize_exact(width, height, imageops::FilterType::CatmullRom);
        }
        if picture.color().has_alpha() && picture.pixels().any(|(_, _, pixel)| pixel.0[3] < 255) {
            changes.push("laid on white where it is transparent".into());
        }
        if !picture.color().has_color() {
            changes.push("grey, so its three channels are equal".into());
        }
        Ok(Self { name, changes, planes: planes(&on_white(&picture)) })
    }
}

/// Width and height with at most [`MAX_PIXELS`], in about the same proportion.
fn fit(width: u32, height: u32) -> [u32; 2] {
    let pixels = u64::from(width) * u64::from(height);
    if pixels <= MAX_PIXELS {
        return [width, height];
    }
    let scale = (MAX_PIXELS as f64 / pixels as f64).sqrt();
    [width, height].map(|side| (f64::from(side) * scale) as u32)
}

/// Without its transparency.
fn on_white(picture: &DynamicImage) -> RgbImage {
    let rgba = picture.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0.map(u32::from);
        image::Rgb([r, g, b].map(|c| ((c * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// Red, green and blue, 0 to 1.
fn planes(picture: &RgbImage) -> Planes {
    let shape = [3, picture.height() as usize, picture.width() as usize];
    let values = (0..3).flat_map(|channel| picture.pixels().map(move |pixel| f32::from(pixel.0[channel]) / 255.0)).collect();
    Planes { shape, values }
}

/// How numbers become brightness and colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// 0 is black, 1 is white; what is outside is clamped.
    Plain,
    /// 0 is mid-grey; the strongest values are black and white.
    AroundGrey,
    /// 0 is black, the strongest value is white.
    FromBlack,
    /// One channel: 0 is black, positive values are orange, negative ones blue.
    Signed,
}

impl Tone {
    /// In words, for the page; `strongest` is of [`strongest`].
    pub fn describe(self, strongest: f32) -> String {
        match self {
            Tone::Plain => "0 is black, 1 is white".into(),
            Tone::AroundGrey => format!("0 is mid-grey, ±{strongest:.2} are white and black"),
            Tone::FromBlack => format!("0 is black, {strongest:.2} is white"),
            Tone::Signed => format!("0 is black, +{strongest:.2} is full orange, −{strongest:.2} full blue"),
        }
    }
}

/// The magnitude that all but half a percent of the values keep below: a scale that a few outliers
/// do not spoil.
pub fn strongest(planes: &Planes) -> f32 {
    let mut magnitudes: Vec<f32> = planes.values.iter().map(|v| v.abs()).filter(|v| v.is_finite()).collect();
    if magnitudes.is_empty() {
        return 1.0;
    }
    let at = (magnitudes.len() - 1) * 995 / 1000;
    let (_, &mut magnitude, _) = magnitudes.select_nth_unstable_by(at, f32::total_cmp);
    if magnitude > 0.0 { magnitude } else { 1.0 }
}

/// Planes of one channel (grey) or three (red, green, blue) as a picture; `strongest` scales every
/// tone but the plain one.
pub fn render(planes: &Planes, tone: Tone, strongest: f32) -> RgbImage {
    const ORANGE: [f32; 3] = [1.0, 0.62, 0.22];
    const BLUE: [f32; 3] = [0.25, 0.62, 1.0];
    let [channels, height, width] = planes.shape;
    // `as u8` saturates, and takes NaN to 0
    let byte = |value: f32| (value * 255.0).round() as u8;
    let pixel = |at: usize| {
        let values = [0, 1, 2].map(|c| planes.channel(c.min(channels - 1))[at]);
        image::Rgb(match tone {
            Tone::Plain => values.map(byte),
            Tone::AroundGrey => values.map(|v| byte(0.5 + 0.5 * v / strongest)),
            Tone::FromBlack => values.map(|v| byte(v / strongest)),
            Tone::Signed => {
                let value = values[0] / strongest;
                // brighter than in proportion, since weak edges matter too
                let amount = value.abs().min(1.0).powf(0.7);
                if value < 0.0 { BLUE } else { ORANGE }.map(|c| byte(c * amount))
            }
        })
    };
    RgbImage::from_fn(width as u32, height as u32, |x, y| pixel(y as usize * width + x as usize))
}

/// The picture as a PNG file.
pub fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png).map_err(encoding)?;
    Ok(file.into_inner())
}

/// The picture as a data URI: what is smaller of PNG and JPEG.
pub fn data_uri(picture: &RgbImage, png: &[u8]) -> Result<String> {
    use base64::Engine;
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode_image(picture).map_err(encoding)?;
    let (kind, bytes) = if png.len() <= jpeg.len() { ("png", png) } else { ("jpeg", jpeg.as_slice()) };
    Ok(format!("data:image/{kind};base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes)))
}

fn encoding(error: ImageError) -> Error {
    Error::Parse { source_name: "a picture of the gallery".into(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, LumaA, Rgb, Rgba, RgbaImage};

    fn decode(picture: impl Into<DynamicImage>) -> Result<Picture> {
        let mut file = Cursor::new(Vec::new());
        picture.into().write_to(&mut file, ImageFormat::Png).unwrap();
        file.set_position(0);
        Picture::decode(file, "test".into(), "test.png")
    }

    #[test]
    fn a_picture_comes_back_from_its_planes() {
        let picture = RgbImage::from_fn(17, 16, |x, y| Rgb([x as u8 * 15, y as u8 * 16, (x * y) as u8]));
        let planes = decode(picture.clone()).unwrap().planes;
        assert_eq!(planes.shape, [3, 16, 17]);
        assert_eq!(planes.channel(0)[17 * 2 + 3], 45.0 / 255.0);
        assert_eq!(render(&planes, Tone::Plain, 1.0), picture);
        let corner = planes.crop(2, 3);
        assert_eq!((corner.shape, corner.channel(2)), ([3, 2, 3], &[0.0, 0.0, 0.0, 0.0, 1.0 / 255.0, 2.0 / 255.0][..]));
        assert_eq!(Planes::concatenate(&[planes.select(&[2]), planes.select(&[0, 1])]).select(&[1, 2, 0]), planes);
    }

    #[test]
    fn transparency_is_white_and_grey_is_three_channels() {
        let clear = decode(RgbaImage::from_pixel(16, 16, Rgba([0, 100, 200, 0]))).unwrap();
        assert!(clear.planes.values.iter().all(|&v| v == 1.0));
        assert_eq!(clear.changes, ["laid on white where it is transparent"]);
        let half = decode(image::GrayAlphaImage::from_pixel(16, 16, LumaA([0, 128]))).unwrap();
        assert!(half.planes.values.iter().all(|&v| v == 127.0 / 255.0));
        let grey = decode(GrayImage::from_pixel(20, 16, image::Luma([51]))).unwrap();
        assert_eq!(grey.planes.shape, [3, 16, 20]);
        assert!(grey.planes.values.iter().all(|&v| v == 0.2));
        let deep = decode(image::ImageBuffer::from_pixel(16, 16, Rgb([65535u16, 0, 257]))).unwrap();
        assert_eq!(deep.planes.select(&[0, 1, 2]).values[512], 1.0 / 255.0);
    }

    #[test]
    fn large_is_scaled_and_small_is_refused() {
        assert_eq!(fit(512, 512), [512, 512]);
        let [width, height] = fit(4000, 3000);
        assert!(u64::from(width) * u64::from(height) <= MAX_PIXELS && width > 580);
        let large = decode(GrayImage::new(1024, 600)).unwrap();
        assert!(large.planes.shape[1] * large.planes.shape[2] <= MAX_PIXELS as usize);
        assert!(large.changes.contains(&"scaled down from 1024x600".to_string()));
        let small = decode(RgbImage::new(15, 200)).unwrap_err().to_string();
        assert!(small.contains("test.png") && small.contains("15x200"), "{small}");
        assert!(decode(GrayImage::new(60_000, 16)).unwrap_err().to_string().contains("after scaling"));
        let text = Picture::decode(Cursor::new(b"hello"), "test".into(), "test.png").unwrap_err();
        assert!(matches!(text, Error::Parse { .. }), "{text}");
        let mut cut = Cursor::new(&DEFAULT_PICTURE[..5000]);
        cut.set_position(0);
        assert!(Picture::decode(cut, "cut".into(), "cut.png").unwrap_err().to_string().contains("cut.png"));
    }

    /// Files of a few bytes that say that they are of gigabytes.
    #[test]
    fn bombs_are_refused_before_they_are_decoded() {
        let refused = |file: &[u8], part: &str| {
            let error = Picture::decode(Cursor::new(file.to_vec()), "bomb".into(), "bomb.png").unwrap_err();
            assert!(matches!(error, Error::Parse { .. }) && error.to_string().contains(part), "{error}");
        };
        // 16 bits of red, green, blue and alpha
        for [width, height] in [[65535u32, 65535], [1 << 31, 1], [9000, 9000]] {
            let mut head = b"IHDR".to_vec();
            head.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
            head.extend([16, 6, 0, 0, 0]);
            let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
            png.extend(&head);
            png.extend(crc32(&head).to_be_bytes());
            png.extend(b"\0\0\0\0IDAT");
            png.extend(crc32(b"IDAT").to_be_bytes());
            refused(&png, "bomb.png");
        }
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 50).encode_image(&RgbImage::new(16, 16)).unwrap();
        let frame = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
        refused(&jpeg, "65535x65535 pixels, 12884508675 bytes");
    }

    /// The checksum of a PNG's chunk.
    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
    }

    #[test]
    fn tones_show_signs() {
        let planes = Planes { shape: [1, 1, 3], values: vec![-2.0, 0.0, 2.0] };
        let pixels = |tone| render(&planes, tone, 2.0).pixels().map(|p| p.0).collect::<Vec<_>>();
        assert_eq!(pixels(Tone::AroundGrey), [[0; 3], [128; 3], [255; 3]]);
        assert_eq!(pixels(Tone::FromBlack), [[0; 3], [0; 3], [255; 3]]);
        let [negative, zero, positive] = pixels(Tone::Signed)[..] else { panic!("three pixels") };
        assert!(negative[2] > negative[0] && zero == [0; 3] && positive[0] > positive[2]);
        assert_eq!(strongest(&planes), 2.0);
        assert_eq!(strongest(&Planes { shape: [1, 1, 2], values: vec![0.0, f32::NAN] }), 1.0);
    }
}
