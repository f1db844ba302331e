//! The inputs of a case on a device, in a dtype and format, as parts of larger tensors.

use crate::cases::{Frame, Part};
use crate::error::Result;
use crate::geometry::{elements, rank4};
use crate::layers::{AnyLayer, Inputs, Layer, OffsetOrMask, RoIs};
use crate::reference::Array;
use crate::{DType, Device, Element, Layout, MemoryFormat, Tensor, TensorView, memory};
use std::collections::BTreeMap;

/// The name of the input that is f32 in every dtype and is not an image.
pub(super) const ROIS: &str = "rois";

/// The dtype in which offsets and masks are given.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fields {
    Native,
    /// In f32, if T represents their values.
    F32,
}

pub(super) fn holds(dtype: DType, array: &Array) -> bool {
    array.data().iter().all(|&v| v.is_nan() || dtype.round(v) == v)
}

/// The inputs of a case on a device. Each is a part of a larger tensor.
pub(super) struct Placed<T: Element> {
    tensors: Vec<(&'static str, Tensor<T>, Part)>,
    offset: Option<Tensor<f32>>,
    mask: Option<Tensor<f32>>,
    rois: Option<RoIs>,
}

impl<T: Element> Placed<T> {
    pub(super) fn new(
        inputs: &[(&'static str, Array)],
        format: MemoryFormat,
        frame: impl Fn(&str) -> Frame,
        device: &Device,
    ) -> Result<Self> {
        let one = |&(name, ref array): &(&'static str, Array)| {
            let frame = frame(name);
            Ok((name, place(name, array, format, frame, device)?, frame.part(rank4(name, array.shape())?)))
        };
        let named = |wanted: &str| inputs.iter().find(|(name, _)| *name == wanted).map(|(_, array)| array);
        let field = |name: &'static str| {
            let array = named(name).filter(|array| holds(T::DTYPE, array));
            array.map(|array| place::<f32>(name, array, format, Frame::default(), device)).transpose()
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
        let views = self.tensors.iter().map(|(name, tensor, part)| {
            let [images, channels, rows, columns] = part.clone();
            Ok((*name, tensor.images(images)?.channels(channels)?.crop(rows, columns)?))
        });
        let views = views.collect::<Result<BTreeMap<&str, TensorView<'_, T>>>>()?;
        let mut inputs = Inputs::from_named(&layer.spec(), &views, self.rois.as_ref().map(RoIs::view))?;
        if fields == Fields::F32 {
            inputs.offset = self.offset.as_ref().map(|tensor| OffsetOrMask::F32(tensor.view())).or(inputs.offset);
            inputs.mask = self.mask.as_ref().map(|tensor| OffsetOrMask::F32(tensor.view())).or(inputs.mask);
        }
        Ok(inputs)
    }
}

/// A tensor on a device that holds the array rounded to T, with NaN in the frame around it.
pub(super) fn place<T: Element>(
    name: &'static str,
    array: &Array,
    format: MemoryFormat,
    frame: Frame,
    device: &Device,
) -> Result<Tensor<T>> {
    let shape @ [n, c, h, _] = rank4(name, array.shape())?;
    let (wide, part) = (frame.around(name, shape)?, frame.part(shape));
    let mut values = memory::filled(elements(&wide)?, T::from_f32(f32::NAN))?;
    // The host places the values, so that a check depends on no other kernel.
    let strides = Layout::packed(wide, format).strides();
    let mut source = array.data().iter();
    for position in (0..n * c * h).map(|row| [row / (c * h), row / h % c, row % h]) {
        let start: usize = (0..3).map(|axis| (part[axis].start + position[axis]) * strides[axis]).sum();
        for (column, value) in part[3].clone().zip(&mut source) {
            values[start + column * strides[3]] = T::from_f64(*value);
        }
    }
    Tensor::from_slice_in_memory_order(device, wide, format, &values)
}
