//! The inputs of a case on a device, in a dtype and format, as slices of wider tensors.

use crate::error::{Error, Result};
use crate::geometry::{elements, rank4};
use crate::layers::{AnyLayer, Inputs, Layer, OffsetOrMask, RoIs};
use crate::reference::Array;
use crate::{DType, Device, Element, MemoryFormat, Tensor, TensorView, memory};
use std::collections::BTreeMap;
use std::ops::Range;

/// The input that is f32 in every dtype and no image.
pub(super) const ROIS: &str = "rois";

/// In which dtype offsets and masks are given.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fields {
    Native,
    /// f32, where T holds their values.
    F32,
}

pub(super) fn holds(dtype: DType, array: &Array) -> bool {
    array.data().iter().all(|&v| v.is_nan() || dtype.round(v) == v)
}

/// A case's inputs on a device, each as some channels of a tensor.
pub(super) struct Placed<T: Element> {
    tensors: Vec<(&'static str, Tensor<T>, Range<usize>)>,
    offset: Option<Tensor<f32>>,
    mask: Option<Tensor<f32>>,
    rois: Option<RoIs>,
}

impl<T: Element> Placed<T> {
    pub(super) fn new(
        inputs: &[(&'static str, Array)],
        format: MemoryFormat,
        margin: impl Fn(&str) -> [usize; 2],
        device: &Device,
    ) -> Result<Self> {
        let one = |&(name, ref array): &(&'static str, Array)| {
            let (tensor, channels) = place(name, array, format, margin(name), device)?;
            Ok((name, tensor, channels))
        };
        let named = |wanted: &str| inputs.iter().find(|(name, _)| *name == wanted).map(|(_, array)| array);
        let field = |name: &'static str| {
            let array = named(name).filter(|array| holds(T::DTYPE, array));
            array.map(|array| Ok(place::<f32>(name, array, format, [0, 0], device)?.0)).transpose()
        };
        let batch = named("x").map_or(0, |x| x.shape().first().copied().unwrap_or_default());
        let rois = |array: &Array| {
            let values = memory::collect(array.data().iter().map(|&v| v as f32))?;
            RoIs::from_shape(device, batch, array.shape(), &values)
        };
        Ok(Self {
            tensors: inputs.iter().filter(|(name, _)| *name != ROIS).map(one).collect::<Result<_>>()?,
            offset: field("offset")?,
            mask: field("mask")?,
            rois: named(ROIS).map(rois).transpose()?,
        })
    }

    pub(super) fn of(&self, layer: &AnyLayer, fields: Fields) -> Result<Inputs<'_, T>> {
        let views = self.tensors.iter().map(|(name, tensor, channels)| Ok((*name, tensor.channels(channels.clone())?)));
        let views = views.collect::<Result<BTreeMap<&str, TensorView<'_, T>>>>()?;
        let mut inputs = Inputs::from_named(&layer.spec(), &views, self.rois.as_ref().map(RoIs::view))?;
        if fields == Fields::F32 {
            inputs.offset = self.offset.as_ref().map(|tensor| OffsetOrMask::F32(tensor.view())).or(inputs.offset);
            inputs.mask = self.mask.as_ref().map(|tensor| OffsetOrMask::F32(tensor.view())).or(inputs.mask);
        }
        Ok(inputs)
    }
}

/// A tensor on a device that holds the array rounded to T, and NaN in as many channels before and behind it as `margin` says.
pub(super) fn place<T: Element>(
    name: &'static str,
    array: &Array,
    format: MemoryFormat,
    margin: [usize; 2],
    device: &Device,
) -> Result<(Tensor<T>, Range<usize>)> {
    let [n, c, h, w] = rank4(name, array.shape())?;
    let [before, after] = margin;
    let overflow = || Error::Overflow { what: "channels with margins", values: format!("{before} + {c} + {after}") };
    let c_wide = before.checked_add(c).and_then(|wide| wide.checked_add(after)).ok_or_else(overflow)?;
    let (wide, image) = ([n, c_wide, h, w], c * h * w);
    let mut values = memory::with_capacity(elements(&wide)?)?;
    for index in 0..n {
        values.resize(values.len() + before * h * w, T::from_f32(f32::NAN));
        values.extend(array.data()[index * image..(index + 1) * image].iter().map(|&v| T::from_f64(v)));
        values.resize(values.len() + after * h * w, T::from_f32(f32::NAN));
    }
    let ordered: Vec<T> = match format {
        MemoryFormat::Contiguous => values,
        // by the host: what is checked stands on no other kernel
        MemoryFormat::ChannelsLast => memory::collect((0..values.len()).map(|i| {
            let (image, pixel, channel) = (i / (h * w * c_wide), i / c_wide % (h * w), i % c_wide);
            values[(image * c_wide + channel) * h * w + pixel]
        }))?,
    };
    let tensor = Tensor::from_slice_in_memory_order(device, wide, format, &ordered)?;
    Ok((tensor, before..before + c))
}
