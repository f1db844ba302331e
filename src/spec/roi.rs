//! The attributes of the layers that pool regions of interest.

use super::attributes;
use crate::error::{Error, Result};
use crate::shape::positive;
use serde::{Deserialize, Serialize};

/// The largest number of samples along one axis of a bin that `sampling_ratio` may ask for. There
/// is no limit when the number adapts to the size of the bin.
const MAX_SAMPLING_RATIO: i32 = 4096;

/// What the number of a bin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    /// The mean of bilinear samples.
    Align,
    /// The largest pixel.
    Max,
    /// The mean of the pixels.
    Mean,
}

impl Pool {
    /// The name in kernels/manifest.toml.
    pub fn name(self) -> &'static str {
        match self {
            Pool::Align => "align",
            Pool::Max => "max",
            Pool::Mean => "mean",
        }
    }
}

/// A layer that pools RoIs. It has the attributes of all such layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pooling {
    pub(crate) op: &'static str,
    pub(crate) pool: Pool,
    pub(crate) output_size: [usize; 2],
    pub(crate) spatial_scale: f32,
    pub(crate) sampling_ratio: i32,
    pub(crate) aligned: bool,
    pub(crate) gamma: f32,
    pub(crate) position_sensitive: bool,
    /// Groups of output channels with offsets and a mask of their own.
    pub(crate) offset_groups: usize,
    /// Whether there may be offsets and a mask.
    pub(crate) deformable: bool,
}

impl Pooling {
    fn new(op: &'static str, pool: Pool, output_size: [usize; 2], spatial_scale: f32) -> Self {
        let (sampling_ratio, aligned, gamma) = (0, false, 0.0);
        let (position_sensitive, offset_groups, deformable) = (false, 1, false);
        Self { op, pool, output_size, spatial_scale, sampling_ratio, aligned, gamma, position_sensitive, offset_groups, deformable }
    }

    /// Refuses sizes and offset groups of 0, scales that are not positive and finite, a gamma that is not finite, and a sampling
    /// ratio above 4096.
    pub(crate) fn check(&self) -> Result<()> {
        positive("output height", self.output_size[0])?;
        positive("output width", self.output_size[1])?;
        positive("offset_groups", self.offset_groups)?;
        if !(self.spatial_scale > 0.0 && self.spatial_scale.is_finite()) {
            let value = self.spatial_scale.to_string();
            return Err(Error::Attribute { name: "spatial_scale", value, requirement: "positive and finite" });
        }
        if !self.gamma.is_finite() {
            return Err(Error::Attribute { name: "gamma", value: self.gamma.to_string(), requirement: "finite" });
        }
        if self.sampling_ratio > MAX_SAMPLING_RATIO {
            let (value, limit) = (self.sampling_ratio as u128, MAX_SAMPLING_RATIO as u128);
            return Err(Error::Limit { what: "sampling_ratio", value, limit });
        }
        Ok(())
    }
}

fn one() -> f32 {
    1.0
}

fn adaptive() -> i32 {
    -1
}

fn default_gamma() -> f32 {
    0.1
}

fn one_group() -> usize {
    1
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_one(value: &usize) -> bool {
    *value == 1
}

/// The attributes of a [`RoiAlign`](crate::RoiAlign). torchvision's names, meanings and defaults.
///
/// ```
/// use warpconv::RoiAlignSpec;
/// let spec: RoiAlignSpec = serde_json::from_str(r#"{"output_size": 7, "sampling_ratio": 2}"#).unwrap();
/// assert_eq!(spec, RoiAlignSpec { sampling_ratio: 2, ..RoiAlignSpec::new([7, 7]) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoiAlignSpec {
    /// Bins along the height and the width of a RoI.
    #[serde(deserialize_with = "attributes::pair")]
    pub output_size: [usize; 2],
    /// The factor from coordinates of RoIs to pixels of x; 1 by default.
    #[serde(default = "one")]
    pub spatial_scale: f32,
    /// The number of samples along each axis of a bin, up to 4096. If it is 0 or negative, a bin
    /// has as many samples as pixels, rounded up. The default is -1.
    #[serde(default = "adaptive")]
    pub sampling_ratio: i32,
    /// Whether coordinates refer to the corners of pixels, so that pixel centres are at 0.5. If
    /// false, a RoI is also taken to be at least one pixel wide and high. The default is false.
    #[serde(default)]
    pub aligned: bool,
}

impl RoiAlignSpec {
    /// A spec of this output size, with defaults for all other attributes.
    pub fn new(output_size: [usize; 2]) -> Self {
        Self { output_size, spatial_scale: one(), sampling_ratio: adaptive(), aligned: false }
    }

    pub(crate) fn pooling(&self) -> Pooling {
        let Self { output_size, spatial_scale, sampling_ratio, aligned } = *self;
        Pooling { sampling_ratio, aligned, ..Pooling::new("roi_align", Pool::Align, output_size, spatial_scale) }
    }
}

/// The attributes of a [`RoiPool`](crate::RoiPool).
///
/// ```
/// use warpconv::RoiPoolSpec;
/// let spec: RoiPoolSpec = serde_json::from_str(r#"{"output_size": [7, 7], "spatial_scale": 0.0625}"#).unwrap();
/// assert_eq!(spec, RoiPoolSpec { spatial_scale: 1.0 / 16.0, ..RoiPoolSpec::new([7, 7]) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoiPoolSpec {
    /// Bins along the height and the width of a RoI.
    #[serde(deserialize_with = "attributes::pair")]
    pub output_size: [usize; 2],
    /// The factor from coordinates of RoIs to pixels of x; 1 by default.
    #[serde(default = "one")]
    pub spatial_scale: f32,
}

impl RoiPoolSpec {
    /// A spec of this output size with a scale of 1.
    pub fn new(output_size: [usize; 2]) -> Self {
        Self { output_size, spatial_scale: one() }
    }

    pub(crate) fn pooling(&self) -> Pooling {
        Pooling::new("roi_pool", Pool::Max, self.output_size, self.spatial_scale)
    }
}

/// The attributes of a [`PsRoiPool`](crate::PsRoiPool).
///
/// ```
/// use warpconv::PsRoiPoolSpec;
/// assert_eq!(serde_json::from_str::<PsRoiPoolSpec>(r#"{"output_size": 3}"#).unwrap(), PsRoiPoolSpec::new([3, 3]));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PsRoiPoolSpec {
    /// Bins along the height and the width of a RoI.
    #[serde(deserialize_with = "attributes::pair")]
    pub output_size: [usize; 2],
    /// The factor from coordinates of RoIs to pixels of x; 1 by default.
    #[serde(default = "one")]
    pub spatial_scale: f32,
}

impl PsRoiPoolSpec {
    /// A spec of this output size with a scale of 1.
    pub fn new(output_size: [usize; 2]) -> Self {
        Self { output_size, spatial_scale: one() }
    }

    pub(crate) fn pooling(&self) -> Pooling {
        Pooling { position_sensitive: true, ..Pooling::new("ps_roi_pool", Pool::Mean, self.output_size, self.spatial_scale) }
    }
}

/// The attributes of a [`DeformRoiPool`](crate::DeformRoiPool). mmcv's names, meanings and
/// defaults, with the position-sensitive form added.
///
/// ```
/// use warpconv::DeformRoiPoolSpec;
/// let spec: DeformRoiPoolSpec = serde_json::from_str(r#"{"output_size": [7, 7], "spatial_scale": 0.25, "sampling_ratio": 2}"#).unwrap();
/// assert_eq!(spec, DeformRoiPoolSpec { spatial_scale: 0.25, sampling_ratio: 2, ..DeformRoiPoolSpec::new([7, 7]) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeformRoiPoolSpec {
    /// Bins along the height and the width of a RoI.
    #[serde(deserialize_with = "attributes::pair")]
    pub output_size: [usize; 2],
    /// The factor from coordinates of RoIs to pixels of x; 1 by default.
    #[serde(default = "one")]
    pub spatial_scale: f32,
    /// The number of samples along each axis of a bin, up to 4096. If it is 0 or negative, a bin
    /// has as many samples as pixels, rounded up. The default is 0.
    #[serde(default)]
    pub sampling_ratio: i32,
    /// How far an offset of 1 moves a bin, in widths and heights of the RoI; 0.1 by default.
    #[serde(default = "default_gamma")]
    pub gamma: f32,
    /// Whether bin (i, j) of output channel o reads channel `(o*ph + i)*pw + j` of x; false by
    /// default.
    #[serde(default, skip_serializing_if = "is_false")]
    pub position_sensitive: bool,
    /// The number of groups of neighbouring output channels, each with its own offsets and mask
    /// (mmcv: "classes"). Divides C_out; 1 by default.
    #[serde(default = "one_group", deserialize_with = "attributes::whole", skip_serializing_if = "is_one")]
    pub offset_groups: usize,
}

impl DeformRoiPoolSpec {
    /// A spec of this output size, with defaults for all other attributes.
    pub fn new(output_size: [usize; 2]) -> Self {
        let (spatial_scale, gamma) = (one(), default_gamma());
        Self { output_size, spatial_scale, sampling_ratio: 0, gamma, position_sensitive: false, offset_groups: 1 }
    }

    pub(crate) fn pooling(&self) -> Pooling {
        let Self { output_size, spatial_scale, sampling_ratio, gamma, position_sensitive, offset_groups } = *self;
        let (aligned, deformable) = (true, true);
        let pooling = Pooling::new("deform_roi_pool", Pool::Align, output_size, spatial_scale);
        Pooling { sampling_ratio, aligned, gamma, position_sensitive, offset_groups, deformable, ..pooling }
    }
}
