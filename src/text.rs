//! Text that users write: JSON, and names that are nearly right.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use std::time::{SystemTime, UNIX_EPOCH};

/// Reads JSON. `source` is the name of the JSON in errors. A byte order mark in front of it is
/// skipped.
///
/// ```
/// use warpconv::{Conv2dSpec, text::parse_json};
/// assert_eq!(parse_json::<Conv2dSpec>("a.json", "\u{feff}{}")?, Conv2dSpec::default());
/// let error = parse_json::<Conv2dSpec>("a.json", r#"{"strides": 2}"#).unwrap_err().to_string();
/// assert!(error.starts_with("a.json: unknown field `strides`, expected one of `stride`, "), "{error}");
/// assert!(error.ends_with("; did you mean `stride`?"), "{error}");
/// # Ok::<(), warpconv::Error>(())
/// ```
///
/// # Errors
/// [`Error::Parse`] for text that is not the JSON of a `T`. For an unknown name it suggests the
/// name that may be meant.
pub fn parse_json<T: DeserializeOwned>(source: &str, text: &str) -> Result<T> {
    let fail = |message| Error::Parse { source_name: source.into(), message };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(fail("it is empty, where JSON is expected".into()));
    }
    serde_json::from_str(text).map_err(|error| fail(with_hint(error.to_string())))
}

/// Adds the name that may be meant to serde's message about an unknown field or variant. Other
/// messages stay as they are.
pub(crate) fn with_hint(message: String) -> String {
    if !["unknown field `", "unknown variant `"].iter().any(|start| message.starts_with(start)) {
        return message;
    }
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let hint = |(given, known): (&&str, &[&str])| match advice(given).filter(|_| !known.contains(given)) {
        Some(advice) => format!("; {advice}"),
        None => did_you_mean(given, known),
    };
    let hint = quoted.split_first().map_or_else(String::new, hint);
    message + &hint
}

/// Why layers of this crate do not have an attribute that other libraries have.
fn advice(given: &str) -> Option<&'static str> {
    let given = plain(given);
    ADVICE.iter().find(|(names, _)| names.contains(&given.as_str())).map(|(_, advice)| *advice)
}

/// The text `; did you mean ...?` for a name that is not in `known`, or an empty text if nothing is
/// near. If `known` is empty, it stands for all names.
pub(crate) fn did_you_mean(given: &str, known: &[&str]) -> String {
    let plain_given = plain(given);
    let same = known.iter().find(|name| plain(name) == plain_given).copied();
    let alias = || {
        let meant = ALIASES.iter().filter(|(names, _)| names.contains(&plain_given.as_str())).map(|(_, meant)| *meant);
        meant.into_iter().find(|meant| known.is_empty() || known.contains(meant))
    };
    if let Some(meant) = same.or_else(alias) {
        return format!("; did you mean `{meant}`?");
    }
    nearest(given, known).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The name of `known` that differs from `given` in the fewest letters: at most three, and at most
/// a third of them.
///
/// ```
/// assert_eq!(warpconv::text::nearest("strid", &["padding", "stride"]), Some("stride"));
/// assert_eq!(warpconv::text::nearest("colour", &["padding", "stride"]), None);
/// ```
pub fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    /// A longer name is a mistake of another kind, and would take long to compare.
    const LONGEST: usize = 100;
    if given.len() > LONGEST {
        return None;
    }
    let allowed = (given.chars().count() / 3).clamp(1, 3);
    let distances = known.iter().map(|name| (distance(given, name), *name)).filter(|(distance, _)| *distance <= allowed);
    distances.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// The first names of a list, and the number of further ones.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// Names that other libraries use for attributes, values, ops and tensors, in the form of
/// [`plain`], and the names that this crate uses. A name may stand for several things, of which an
/// op knows one.
const ALIASES: [(&[&str], &str); 35] = [
    (&["strides", "subsampling"], "stride"),
    (&["pads", "pad"], "padding"),
    (&["dilations", "dilationrate", "rate", "rates"], "dilation"),
    (&["group", "numgroups", "ngroups"], "groups"),
    (&["upscalefactor", "downscalefactor", "blocksize", "block", "factor", "scalefactor", "scale", "upscale"], "r"),
    (&["scales", "scalefactor"], "scale"),
    (&["size", "sizes", "outputshape", "outputsize", "pooledshape", "pooledsize", "outsize"], "output_size"),
    (&["outputpad", "outputpads"], "output_padding"),
    (&["negativeslope", "leak", "slope"], "alpha"),
    (&["deformablegroups", "deformgroups", "offsetgroup", "deformgroup"], "offset_groups"),
    (&["act", "nonlinearity", "activationfn"], "activation"),
    (&["halfpixel", "coordinatetransformationmode"], "aligned"),
    (&["order", "channelorder"], "mode"),
    (&["depthcolumnrow"], "dcr"),
    (&["columnrowdepth"], "crd"),
    (&["swish"], "silu"),
    (&["hswish"], "hardswish"),
    (&["lrelu"], "leaky_relu"),
    (&["linear", "identity", "null"], "none"),
    (&["conv", "convolution", "convolution2d", "depthwiseconv2d", "groupedconv2d"], "conv2d"),
    (&["convtranspose", "deconv", "deconv2d", "deconvolution", "transposedconv2d", "conv2dtranspose"], "conv_transpose2d"),
    (&["depthtospace"], "pixel_shuffle"),
    (&["spacetodepth"], "pixel_unshuffle"),
    (&["subpixel", "subpixelconv2d"], "sub_pixel_conv"),
    (&["resize", "interpolate", "upsample", "upsamplingbilinear2d"], "upsample_bilinear"),
    (&["separableconv2d"], "depthwise_separable"),
    (&["deformconv", "dcn", "dcnv2", "modulateddeformconv2d"], "deform_conv2d"),
    (&["maxpool", "maxpooling2d"], "max_pool2d"),
    (&["avgpool", "averagepool", "averagepooling2d"], "avg_pool2d"),
    (&["globalaveragepool", "globalavgpool", "adaptiveavgpool"], "adaptive_avg_pool2d"),
    (&["kernelshape", "kernel", "ksize", "poolsize", "window"], "kernel_size"),
    (&["maxroipool"], "roi_pool"),
    (&["kernel", "filter", "filters", "w"], "weight"),
    (&["input", "image", "data"], "x"),
    (&["attributes", "params", "parameters"], "attrs"),
];

/// Attributes that other libraries have and layers of this crate do not, in the form of [`plain`],
/// and the reason.
const ADVICE: [(&[&str], &str); 5] = [
    (&["kernelsize", "kernelshape", "kernel"], "the size of the kernel is that of the weight"),
    (&["inchannels", "outchannels", "filters", "numoutput"], "the numbers of channels are those of the weight"),
    (&["autopad", "paddingmode"], "`padding` is of zeros: a number, [height, width], [top, left, bottom, right] or \"same\""),
    (&["bias", "usebias", "weight"], "tensors are no attributes: they are given apart, by name"),
    (&["interpolation"], "bilinear is the only interpolation"),
];

/// A name without its path, in lower-case letters and digits only: "torch.nn.PixelShuffle" and
/// "pixel_shuffle" become the same.
fn plain(name: &str) -> String {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The number of letters that must be inserted, deleted or replaced to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The current time in UTC, such as 2026-01-31T12:00:00Z.
pub(crate) fn utc_now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    utc_date(seconds)
}

fn utc_date(seconds: u64) -> String {
    // Days since 1970 are converted to the calendar by eras of 400 years that begin on 1 March.
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_right() {
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("pading", "padding"), distance("ab", "ba")), (3, 0, 1, 2));
        let known = ["stride", "padding", "dilation", "groups", "r", "mode"];
        for (given, meant) in [("Stride", "stride"), ("pads", "padding"), ("dilatoin", "dilation"), ("upscale_factor", "r")] {
            assert_eq!(did_you_mean(given, &known), format!("; did you mean `{meant}`?"));
        }
        assert_eq!(did_you_mean("torch.nn.PixelShuffle", &["conv2d", "pixel_shuffle"]), "; did you mean `pixel_shuffle`?");
        let unknown = "unknown field `kernel_size`, expected `r` or `mode`".to_string();
        assert_eq!(with_hint(unknown.clone()), unknown + "; the size of the kernel is that of the weight");
        assert_eq!(did_you_mean("something_else", &known), "");
        assert_eq!(nearest(&"a".repeat(70_000), &["a"]), None);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..23).map(|i| i.to_string()).collect();
        assert!(listed(names.iter().map(String::as_str)).ends_with("18, 19 and 3 more"));
        assert_eq!(listed(["a", "b"]), "a, b");
    }

    #[test]
    fn dates() {
        assert_eq!(utc_date(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc_date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc_date(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
