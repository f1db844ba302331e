//! Regions of interest.

use crate::device::{Access, Memory, Operand, download, wrong_device};
use crate::error::{Error, Result};
use crate::{Device, Tensor, memory};

/// Numbers of one region: the index of its image in the batch, then x1, y1, x2, y2.
pub(crate) const ROI_VALUES: usize = 5;

/// Regions of interest [K, 5] on a device: for each the index of its image in the batch and its corners x1, y1, x2, y2, in
/// pixels of the image before `spatial_scale`. They are f32 in every dtype.
///
/// Corners may be anything: outside the image, reversed, infinite. What a layer makes of them is in its documentation.
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

/// Regions of interest that are read: borrowed [`RoIs`], or memory that a service owns.
#[derive(Debug, Clone, Copy)]
pub struct RoisView<'a> {
    device: &'a Device,
    address: u64,
    len: usize,
    /// Images of the batch that the indices were checked against.
    batch: Option<usize>,
}

impl RoIs {
    /// A copy of `rois` on the device, for inputs of `batch` images.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a batch index that is not one of 0..batch; [`Error::OutOfMemory`] or [`Error::Driver`].
    pub fn from_slice(device: &Device, batch: usize, rois: &[[f32; ROI_VALUES]]) -> Result<Self> {
        check_images(rois, batch)?;
        Ok(Self { memory: Memory::from_slice(device, rois.as_flattened())?, len: rois.len(), batch })
    }

    /// As [`RoIs::from_slice`], from `values` of `shape`, which must be [K, 5].
    pub(crate) fn from_shape(device: &Device, batch: usize, shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::check_shape(shape)?;
        Self::from_slice(device, batch, values.as_chunks().0)
    }

    /// Refuses another shape than [K, 5].
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

    /// How many there are: K.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them, to be read.
    pub fn view(&self) -> RoisView<'_> {
        RoisView { device: self.memory.device(), address: self.memory.address(), len: self.len, batch: Some(self.batch) }
    }
}

/// Refuses batch indices that are not of a batch of `n` images.
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
    /// A view of `len` RoIs that exist only on the device. Nobody has checked their batch indices: those that are not of the
    /// batch give zeros.
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
        Ok(Self { device, address, len, batch: None })
    }

    /// RoIs that a detector left in a tensor [K, 5, 1, 1]; as unchecked as those of [`RoisView::from_raw`].
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn from_tensor(tensor: &'a Tensor<f32>) -> Result<Self> {
        let [len, values, 1, 1] = tensor.shape() else { return Err(Self::refuse(tensor)) };
        if values != ROI_VALUES {
            return Err(Self::refuse(tensor));
        }
        Ok(Self { device: tensor.device(), address: tensor.address(), len, batch: None })
    }

    fn refuse(tensor: &Tensor<f32>) -> Error {
        Error::Shape { name: "rois", shape: tensor.shape().to_vec(), expected: "shape [K, 5, 1, 1]".into() }
    }

    /// How many there are: K.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device that holds them.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The address of the first one's batch index.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Reads back RoIs that nobody has checked, and refuses batch indices that are not of a batch of `n` images.
    pub(crate) fn check_images(&self, n: usize) -> Result<()> {
        if self.batch.is_some_and(|batch| batch <= n) {
            return Ok(());
        }
        let mut rois = memory::filled(self.len, [0f32; ROI_VALUES])?;
        // SAFETY: the view is of so many RoIs, which are initialised and which nobody writes as long as it is there
        unsafe { download(self.device, self.address, bytemuck::cast_slice_mut(&mut rois))? };
        check_images(&rois, n)
    }

    /// As the launch's checker takes them.
    pub(crate) fn operand(&self) -> Operand {
        let shape = [1, 1, 1, self.len * ROI_VALUES];
        let access = Access::Read;
        Operand { name: "rois", address: self.address, element_bytes: size_of::<f32>() as u32, shape, strides: [0, 0, 0, 1], access }
    }

    /// Refuses RoIs that were checked against another batch than that of `n` images, or are not on `device`.
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
