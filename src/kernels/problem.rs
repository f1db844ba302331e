//! What the choice of a kernel for a convolution depends on.

use crate::device::{DeviceKind, Properties};
use crate::geometry::ConvGeometry;
use crate::plan::PlanRequest;
use crate::spec::Precision;
use crate::{DType, Device, Element, MemoryFormat};

/// Everything on which the choice of a kernel for a convolution depends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvProblem<'a> {
    pub geometry: ConvGeometry,
    /// The convolution whose result is the input of this one, if one kernel computes both.
    pub producer: Option<ConvGeometry>,
    pub dtype: DType,
    pub x_format: MemoryFormat,
    pub y_format: MemoryFormat,
    pub precision: Precision,
    pub batch_invariant: bool,
    /// Whether every weight is finite in the dtype.
    pub finite_weights: bool,
    /// The largest workspace that the request allows, in bytes.
    pub workspace_limit: usize,
    pub kind: DeviceKind,
    pub device: &'a Properties,
    /// The device, which knows the kernels that are left out: see [`Device::leave_out`].
    pub owner: &'a Device,
}

impl<'a> ConvProblem<'a> {
    pub fn new<T: Element>(device: &'a Device, request: &PlanRequest, geometry: ConvGeometry) -> Self {
        let (x_format, y_format) = (request.x_format, request.y_format);
        Self {
            geometry,
            producer: None,
            dtype: T::DTYPE,
            x_format,
            y_format,
            precision: request.precision,
            batch_invariant: request.batch_invariant,
            finite_weights: true,
            workspace_limit: request.workspace_limit,
            kind: device.kind(),
            device: device.properties(),
            owner: device,
        }
    }

    /// The problem for one image.
    pub fn of_one_image(&self) -> Self {
        let alone = |geometry: ConvGeometry| ConvGeometry { n: geometry.n.min(1), ..geometry };
        Self { geometry: alone(self.geometry), producer: self.producer.map(alone), ..*self }
    }

    /// The problem by which a kernel is configured, if its bits depend on the configuration. It is
    /// for one image if results may not depend on the batch.
    pub fn for_configuration(&self) -> Self {
        if self.batch_invariant { self.of_one_image() } else { *self }
    }

    /// Whether no tap of any of the convolutions is in the padding.
    pub fn is_unpadded(&self) -> bool {
        let unpadded = |g: &ConvGeometry| g.padding == [0; 4] && !g.transposed;
        unpadded(&self.geometry) && self.producer.iter().all(unpadded)
    }

    /// Everything on which the times of the problem's kernels depend, as text. The device is not
    /// part of it, nor is the tail, which costs the same in every kernel. Tuning tables find a
    /// problem by this text.
    pub fn describe(&self, op: &str) -> String {
        let Self { geometry, producer, dtype, x_format, y_format, precision, .. } = self;
        let first = producer.as_ref().unwrap_or(geometry);
        let mut text = format!("{op} {dtype}, x {:?} {x_format}, y {:?} {y_format}", first.input_shape(), geometry.output_shape());
        for g in producer.iter().chain([geometry]) {
            let ConvGeometry { c_out, kernel, stride, padding, dilation, groups, .. } = g;
            text +=
                &format!("; {c_out} filters {kernel:?}, stride {stride:?}, padding {padding:?}, dilation {dilation:?}, groups {groups}");
        }
        if geometry.offset_groups != 1 {
            text += &format!(", offset groups {}", geometry.offset_groups);
        }
        if *dtype == DType::F32 && *precision != Precision::Strict {
            text += &format!("; {precision:?}").to_lowercase();
        }
        text
    }
}
