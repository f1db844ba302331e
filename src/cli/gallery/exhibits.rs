//! What the gallery shows: one entry for each convolution. A new kind of layer is a new section and
//! its entries.

mod deformable;
mod dense;
mod grouped;
mod regions;
mod separable;
mod sub_pixel;
mod transposed;

use super::filters::{Kernel, LUMA, depthwise, each_channel, groups_of_three, matrix, of_brightness};
use super::overlay::Overlay;
use super::pictures::{Planes, Tone};
use super::run::Values;
use std::collections::BTreeMap;
use warpconv::{Activation, AnyLayer, Conv2dSpec, DType, LayerSpec, MemoryFormat, Padding, Parameter, Result};

/// Exhibits of one kind of convolution.
pub struct Section {
    /// Its anchor on the page.
    pub id: &'static str,
    pub title: &'static str,
    pub text: &'static str,
    pub exhibits: Vec<Exhibit>,
}

/// One convolution of a picture.
pub struct Exhibit {
    /// The stem of its files' names.
    pub name: &'static str,
    pub title: &'static str,
    pub text: &'static str,
    pub model: Model,
    pub input: Vec<Part>,
    /// Added before the activation.
    pub residual: Option<Part>,
    /// Where a deformable layer samples, and by what it multiplies its samples. Both are f32 in
    /// every dtype.
    pub offset: Option<Operand>,
    pub mask: Option<Operand>,
    /// The regions that a layer pools, for a picture of this height and width.
    pub rois: Option<fn([usize; 2]) -> Rois>,
    pub dtype: DType,
    pub format: MemoryFormat,
    pub panels: Vec<Panel>,
    /// Drawn over the input.
    pub overlay: Option<Overlay>,
    /// Runs it in every dtype and format besides.
    pub every_type: bool,
}

/// The name of the regions among the inputs of a layer.
pub const ROIS: &str = "rois";

/// Batch index, x1, y1, x2, y2 of each.
pub type Rois = Vec<[f32; 5]>;

/// A tensor that a layer reads besides its input.
#[derive(Debug, Clone, Copy)]
pub enum Operand {
    /// Of a layer before.
    Of(Part),
    /// From the layer's input.
    Computed(fn(&Planes) -> Values),
}

/// A layer, and the tensors that it is made of by their names.
pub struct Model {
    pub layer: AnyLayer,
    pub parameters: BTreeMap<String, Parameter>,
}

impl Model {
    fn new<const P: usize>(spec: LayerSpec, parameters: [(&str, Parameter); P]) -> Result<Self> {
        let parameters = BTreeMap::from(parameters.map(|(name, parameter)| (name.to_string(), parameter)));
        Ok(Self { layer: AnyLayer::new(spec, parameters.clone())?, parameters })
    }
}

/// Channels of something that is there already: the input is the concatenation of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub source: Source,
    /// None: all of them.
    pub channels: Option<&'static [usize]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The picture in red, green and blue.
    Picture,
    /// The picture without its last row or column where their number is odd.
    EvenPicture,
    /// The output of an earlier exhibit.
    Output(&'static str),
}

/// One channel (grey) or three (red, green, blue) of an output, and how they are shown.
#[derive(Debug, Clone, Copy)]
pub struct Panel {
    pub caption: &'static str,
    pub channels: &'static [usize],
    pub tone: Tone,
}

const PICTURE: Part = Part { source: Source::Picture, channels: None };
const RGB: &[usize] = &[0, 1, 2];

impl Exhibit {
    fn new(name: &'static str, title: &'static str, text: &'static str, model: Model) -> Self {
        Self {
            name,
            title,
            text,
            model,
            input: vec![PICTURE],
            residual: None,
            offset: None,
            mask: None,
            rois: None,
            dtype: DType::F32,
            format: MemoryFormat::Contiguous,
            panels: vec![Panel { caption: "output", channels: RGB, tone: Tone::Plain }],
            overlay: None,
            every_type: false,
        }
    }

    fn of(self, input: &[Part]) -> Self {
        Self { input: input.to_vec(), ..self }
    }

    fn plus(self, residual: Part) -> Self {
        Self { residual: Some(residual), ..self }
    }

    fn sampled_at(self, offset: Operand) -> Self {
        Self { offset: Some(offset), ..self }
    }

    fn drawn_over(self, overlay: Overlay) -> Self {
        Self { overlay: Some(overlay), ..self }
    }

    fn run_as(self, dtype: DType, format: MemoryFormat) -> Self {
        Self { dtype, format, ..self }
    }

    fn shown(self, tone: Tone, panels: &[(&'static str, &'static [usize])]) -> Self {
        Self { panels: panels.iter().map(|&(caption, channels)| Panel { caption, channels, tone }).collect(), ..self }
    }
}

/// All channels of an earlier exhibit's output.
fn output(name: &'static str) -> Part {
    Part { source: Source::Output(name), channels: None }
}

fn conv(spec: Conv2dSpec, weight: Parameter) -> Result<Model> {
    Model::new(LayerSpec::Conv2d(spec), [("weight", weight)])
}

fn conv_with_bias(spec: Conv2dSpec, weight: Parameter, bias: &[f32]) -> Result<Model> {
    Model::new(LayerSpec::Conv2d(spec), [("weight", weight), ("bias", Parameter::vector(bias))])
}

/// The size stays.
fn same() -> Conv2dSpec {
    Conv2dSpec { padding: Padding::Same, ..Default::default() }
}

/// Each channel has a filter of its own.
fn per_channel() -> Conv2dSpec {
    Conv2dSpec { groups: 3, ..same() }
}

/// Every section, in the order of the page.
pub fn sections() -> Result<Vec<Section>> {
    Ok(vec![
        dense::section()?,
        dense::strides_and_padding()?,
        dense::pointwise()?,
        grouped::section()?,
        grouped::depthwise_section()?,
        grouped::dilated()?,
        transposed::section()?,
        sub_pixel::section()?,
        separable::section()?,
        deformable::section()?,
        regions::section()?,
    ])
}

const F32: DType = DType::F32;
const F16: DType = DType::F16;
const BF16: DType = DType::Bf16;
const NCHW: MemoryFormat = MemoryFormat::Contiguous;
const NHWC: MemoryFormat = MemoryFormat::ChannelsLast;
