//! Regions of interest.

use crate::device::{Access, Memory, Operand, Uses, download, wrong_device};
use crate::error::{Error, Result};
use crate::{Device, Stream, Tensor, memory};
use std::sync::Arc;

/// The number of values of one region: the index of its image in the batch, then x1, y1, x2, y2.
pub(crate) const ROI_VALUES: usize = 5;

/// Regions of interest [K, 5] on a device. Each has the index of its image in the batch and its
/// corners x1, y1, x2, y2, in pixels of the image before `spatial_scale`. They are f32 in every
/// dtype.
///
/// Corners may be outside the image, reversed or infinite. The documentation of each layer says
/// what the result then is.
///
/// ```
/// use warpconv::{Device, RoIs};
/// let device = Device::best()?;
/// let rois = RoIs::from_slice(&device, 2, &[[0.0, 1.5, 2.0, 30.0, 40.0], [1.0, 0.0, 0.0, 16.0, 16.0]])?;
/// assert_eq!(rois.len(), 2);
/// assert!(RoIs::from_slice(&device, 2, &[[2.0, 0.0, 0.0, 1.0, 1.0]]).is_err()); // there is no third image
/// # Ok::<(), warpconv::Error>(())
/// ```
#[derive(Debug)]
pub struct RoIs {
    memory: Memory,
    len: usize,
    batch: usize,
}

/// Regions of interest for reading: borrowed [`RoIs`], or memory that a service owns.
#[derive(Debug, Clone, Copy)]
pub struct RoisView<'a> {
    device: &'a Device,
    address: u64,
    len: usize,
    /// The number of images against which the batch indices were checked, if they were.
    batch: Option<usize>,
    /// The work that uses the memory. None if it is not the crate's.
    uses: Option<&'a Uses>,
}

impl RoIs {
    /// Copies `rois` to the device, for inputs of `batch` images.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a batch index that is not one of 0..batch; [`Error::OutOfMemory`]
    /// or [`Error::Driver`].
    pub fn from_slice(device: &Device, batch: usize, rois: &[[f32; ROI_VALUES]]) -> Result<Self> {
        check_images(rois, batch)?;
        Ok(Self { memory: Memory::from_slice(device, rois.as_flattened())?, len: rois.len(), batch })
    }

    /// Makes RoIs from `values` of `shape`, which must be [K, 5]. Otherwise as
    /// [`RoIs::from_slice`].
    pub(crate) fn from_shape(device: &Device, batch: usize, shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::check_shape(shape)?;
        Self::from_slice(device, batch, values.as_chunks().0)
    }

    /// Refuses every shape but [K, 5].
    pub(crate) fn check_shape(shape: &[usize]) -> Result<()> {
        const MEANING: &str = "[K, 5]: batch index, x1, y1, x2, y2";
        match shape {
            [_, ROI_VALUES] => Ok(()),
            [_, 4] => {
                let expected = format!("shape {MEANING} (boxes [K, 4] of one image need a column of zeros in front)");
                Err(Error::Shape { name: "rois", shape: shape.to_vec(), expected })
            }
            [_, _] => Err(Error::Shape { name: "rois", shape: shape.to_vec(), expected: format!("shape {MEANING}") }),
            _ => Err(Error::Rank { name: "rois", shape: shape.to_vec(), expected: 2, meaning: MEANING }),
        }
    }

    /// The work that uses the memory, for whoever queues more of it.
    pub(crate) fn uses(&self) -> &Arc<Uses> {
        self.memory.uses()
    }

    /// The number of RoIs, K.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A view of all RoIs, for reading.
    pub fn view(&self) -> RoisView<'_> {
        RoisView {
            device: self.memory.device(),
            address: self.memory.address(),
            len: self.len,
            batch: Some(self.batch),
            uses: Some(self.memory.uses()),
        }
    }
}

/// Refuses batch indices that are not below `n`.
fn check_images(rois: &[[f32; ROI_VALUES]], n: usize) -> Result<()> {
    for (index, roi) in rois.iter().enumerate() {
        let image = f64::from(roi[0]);
        if !(image >= 0.0 && image < n as f64 && image.fract() == 0.0) {
            return Err(Error::Attribute {
                name: "a RoI's batch index",
                value: format!("{image} (RoI {index}, batch of {n})"),
                requirement: "the index of an image of the batch",
            });
        }
    }
    Ok(())
}

impl<'a> RoisView<'a> {
    /// A view of `len` RoIs that exist only on the device. Their batch indices have not been
    /// checked; a RoI whose index is not one of the batch gives zeros.
    ///
    /// # Errors
    /// [`Error::Alignment`] when the address is not a multiple of 4.
    ///
    /// # Safety
    /// As [`crate::TensorView::from_raw`], for `5 * len` f32.
    pub unsafe fn from_raw(device: &'a Device, address: u64, len: usize) -> Result<Self> {
        if !address.is_multiple_of(size_of::<f32>() as u64) {
            return Err(Error::Alignment { name: "the RoIs", address, alignment: size_of::<f32>() });
        }
        Ok(Self { device, address, len, batch: None, uses: None })
    }

    /// A view of RoIs in a tensor [K, 5, 1, 1], such as a detector's output. Their batch indices
    /// have not been checked, as with [`RoisView::from_raw`].
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn from_tensor(tensor: &'a Tensor<f32>) -> Result<Self> {
        let [len, values, 1, 1] = tensor.shape() else { return Err(Self::refuse(tensor)) };
        if values != ROI_VALUES {
            return Err(Self::refuse(tensor));
        }
        Ok(Self { device: tensor.device(), address: tensor.address(), len, batch: None, uses: Some(tensor.uses()) })
    }

    fn refuse(tensor: &Tensor<f32>) -> Error {
        Error::Shape { name: "rois", shape: tensor.shape().to_vec(), expected: "shape [K, 5, 1, 1]".into() }
    }

    /// The number of RoIs, K.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Records that work which is queued on `stream` uses the memory.
    pub(crate) fn record_use(&self, stream: &Stream) {
        if let Some(uses) = self.uses {
            uses.record(stream);
        }
    }

    /// The device that holds them.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The address of the first value, the first RoI's batch index.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Reads back RoIs whose batch indices have not been checked, and refuses indices that are not
    /// below `n`.
    pub(crate) fn check_images(&self, n: usize) -> Result<()> {
        if self.batch.is_some_and(|batch| batch <= n) {
            return Ok(());
        }
        let mut rois = memory::filled(self.len, [0f32; ROI_VALUES])?;
        // SAFETY: the view is of so many RoIs, which are initialised and which nobody writes as
        // long as it is there
        unsafe { download(self.device, self.address, self.uses, bytemuck::cast_slice_mut(&mut rois))? };
        check_images(&rois, n)
    }

    /// The RoIs as an operand, for the checker of a launch.
    pub(crate) fn operand(&self) -> Operand {
        let shape = [1, 1, 1, self.len * ROI_VALUES];
        let access = Access::Read;
        Operand { name: "rois", address: self.address, element_bytes: size_of::<f32>() as u32, shape, strides: [0, 0, 0, 1], access }
    }

    /// Refuses RoIs that were checked against a larger batch than that of `n` images, or are not on
    /// `device`.
    pub(crate) fn check(&self, device: &Device, len: usize, n: usize) -> Result<()> {
        if self.device != device {
            return Err(wrong_device("rois", device, self.device));
        }
        if self.len != len {
            return Err(Error::Shape { name: "rois", shape: vec![self.len, ROI_VALUES], expected: format!("shape [{len}, {ROI_VALUES}]") });
        }
        match self.batch {
            Some(batch) if batch > n => Err(Error::Attribute {
                name: "the batch that the RoIs were made for",
                value: format!("{batch}, for an input of {n}"),
                requirement: "at most the number of images of the input",
            }),
            _ => Ok(()),
        }
    }
}

impl<'a> From<&'a RoIs> for RoisView<'a> {
    fn from(rois: &'a RoIs) -> Self {
        rois.view()
    }
}
