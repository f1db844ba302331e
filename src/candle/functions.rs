//! Functions shaped like candle's and torchvision's. Each looks up the layer that an earlier call
//! with the same weight has made: see [`super`].

use super::nn::{Planned, transposed_spec};
use super::parameter;
use crate::{Conv2dSpec, ConvTranspose2dSpec, DeformConv2dSpec, DeformRoiPoolSpec, Layer, LayerSpec, Padding, Parameter, PixelShuffleSpec};
use crate::{PsRoiPoolSpec, RoiAlignSpec, RoiPoolSpec, UpsampleBilinearSpec, UpsampleSize};
use candle_core::{CpuStorage, Module, Result, Storage, Tensor, TensorId, ToUsize2};
use candle_nn::ConvTranspose1dConfig;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

/// The number of layers that are kept.
const KEPT: usize = 128;

/// A layer that a function has made, and what it was made of.
struct Known {
    spec: LayerSpec,
    weight: Read,
    bias: Read,
    /// A [`Planned`] of the spec's kind.
    module: Arc<dyn Any + Send + Sync>,
}

/// The layers that are kept, in the order of their last use.
static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// Drops the layers that functions have made, with their packed weights and plans. Calls that other
/// threads are in the middle of are not disturbed.
pub fn forget() {
    let known = std::mem::take(&mut *KNOWN.lock().unwrap_or_else(PoisonError::into_inner));
    drop(known); // may wait for a GPU that has no memory pools: outside the lock
}

/// Whether a tensor of the CPU still holds the values that were read from it. A tensor of a GPU is
/// not compared, and counts as unchanged.
fn unchanged(tensor: &Tensor, values: &Parameter) -> bool {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { return true };
    let Some((start, end)) = layout.contiguous_offsets() else { return false };
    let values = values.values();
    match storage {
        CpuStorage::F32(all) => all[start..end].iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits()),
        CpuStorage::F16(all) => all[start..end].iter().zip(values).all(|(a, b)| a.to_f32().to_bits() == b.to_bits()),
        CpuStorage::BF16(all) => all[start..end].iter().zip(values).all(|(a, b)| a.to_f32().to_bits() == b.to_bits()),
        CpuStorage::F64(all) => all[start..end].iter().zip(values).all(|(&a, b)| (a as f32).to_bits() == b.to_bits()),
        _ => false,
    }
}

/// The identity of a weight or bias, and the values that were read when the layer was made.
type Read = Option<(TensorId, Parameter)>;

fn id(read: &Read) -> Option<TensorId> {
    read.as_ref().map(|(id, _)| *id)
}

/// The module that an earlier call with the same spec, weight and bias has made, or a new one.
fn module<L: Layer>(
    spec: LayerSpec,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    make: impl FnOnce(Option<Parameter>, Option<Parameter>) -> Result<L>,
) -> Result<Planned<L>> {
    let ids = [weight.map(Tensor::id), bias.map(Tensor::id)];
    let is_it = |known: &Known| known.spec == spec && [id(&known.weight), id(&known.bias)] == ids;
    let found = {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.iter().rposition(is_it).map(|index| known.remove(index));
        entry.map(|entry| {
            let parts = (entry.module.clone(), [entry.weight.clone(), entry.bias.clone()]);
            known.push(entry);
            parts
        })
    };
    if let Some((module, read)) = found {
        let same = |(tensor, read): (Option<&Tensor>, &Read)| tensor.zip(read.as_ref()).is_none_or(|(t, (_, values))| unchanged(t, values));
        if [weight, bias].into_iter().zip(&read).all(same)
            && let Ok(module) = module.downcast::<Planned<L>>()
        {
            return Ok((*module).clone());
        }
    }
    let read = |tensor: Option<&Tensor>| -> Result<Read> { tensor.map(|tensor| Ok((tensor.id(), parameter(tensor)?))).transpose() };
    let (weight_read, bias_read) = (read(weight)?, read(bias)?);
    let values = |read: &Read| read.as_ref().map(|(_, values)| values.clone());
    let module = Planned::of(make(values(&weight_read), values(&bias_read))?);
    // A variable may be set without a new id, and on a GPU its values are not compared.
    let on_gpu = |tensor: &Tensor| tensor.is_variable() && !tensor.device().is_cpu();
    if !weight.is_some_and(on_gpu) && !bias.is_some_and(on_gpu) {
        let entry = Known { spec, weight: weight_read, bias: bias_read, module: Arc::new(module.clone()) };
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        // The layer made of the earlier values of the same tensors is of no use any more.
        let mut gone: Vec<Known> = known.extract_if(.., |known| is_it(known)).collect();
        if known.len() >= KEPT {
            gone.push(known.remove(0));
        }
        known.push(entry);
        drop(known);
        drop(gone); // may wait for a GPU that has no memory pools: outside the lock
    }
    Ok(module)
}

/// The weight of a layer that has one, which [`module`] has read.
fn required(weight: Option<Parameter>) -> Result<Parameter> {
    weight.ok_or_else(|| candle_core::Error::msg("there is no weight"))
}

/// A convolution by its spec. The weight has one axis or two for the filter.
fn convolution(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, spec: Conv2dSpec) -> Result<Tensor> {
    let make = |weight: Option<Parameter>, bias: Option<Parameter>| {
        let layer = crate::Conv2d::new(spec, of_images(required(weight)?)?)?;
        Ok(match bias {
            Some(bias) => layer.with_bias(bias)?,
            None => layer,
        })
    };
    module(LayerSpec::Conv2d(spec), Some(weight), bias, make)?.forward(x)
}

/// 2-D convolution of x [N, C_in, H, W] with a weight [C_out, C_in / groups, kh, kw] and perhaps a
/// bias `[C_out]`: candle's `x.conv2d(weight, padding, stride, dilation, groups)`, with all groups
/// in one launch.
///
/// # Errors
/// For shapes and attributes that do not fit one another, dtypes other than f32, f16 and bf16, and
/// what the device reports.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<Tensor> {
    let (stride, dilation) = ([stride; 2], [dilation; 2]);
    convolution(x, weight, bias, Conv2dSpec { padding: Padding::all(padding), stride, dilation, groups, ..Default::default() })
}

/// 1-D convolution of x [N, C_in, L] with a weight [C_out, C_in / groups, k] and perhaps a bias
/// `[C_out]`: candle's `x.conv1d(weight, padding, stride, dilation, groups)`.
///
/// # Errors
/// As [`conv2d`].
pub fn conv1d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<Tensor> {
    in_one_dimension(x, weight, bias, [padding; 2], stride, dilation, groups)
}

/// Causal 1-D convolution: the output is as long as the input, and each position depends on that
/// position and earlier ones only. With as many groups as channels it is the convolution of Mamba
/// and RWKV.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::new(&[[[1f32, 2., 3.]]], &Device::Cpu)?;
/// let w = Tensor::new(&[[[10f32, 1.]]], &Device::Cpu)?;
/// let y = warpconv::candle::causal_conv1d(&x, &w, None, 1, 1)?;
/// assert_eq!(y.to_vec3::<f32>()?, [[[1., 12., 23.]]]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`conv2d`].
pub fn causal_conv1d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, dilation: usize, groups: usize) -> Result<Tensor> {
    let before = weight.dim(2)?.saturating_sub(1).saturating_mul(dilation);
    in_one_dimension(x, weight, bias, [before, 0], 1, dilation, groups)
}

fn in_one_dimension(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    [before, after]: [usize; 2],
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<Tensor> {
    x.dims3()?;
    weight.dims3()?;
    let padding = Padding::Explicit([0, before, 0, after]);
    let spec = Conv2dSpec { padding, stride: [1, stride], dilation: [1, dilation], groups, ..Default::default() };
    convolution(&x.unsqueeze(2)?, weight, bias, spec)?.squeeze(2)
}

/// Transposed 1-D convolution of x [N, C_in, L] with a weight [C_in, C_out / groups, k] and perhaps a
/// bias `[C_out]`: candle's `x.conv_transpose1d(weight, padding, output_padding, stride, dilation,
/// groups)`.
///
/// # Errors
/// As [`conv2d`].
#[allow(clippy::too_many_arguments)] // candle's, and a bias
pub fn conv_transpose1d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    output_padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<Tensor> {
    x.dims3()?;
    weight.dims3()?;
    let spec = transposed_spec(ConvTranspose1dConfig { padding, output_padding, stride, dilation, groups });
    transposed(&x.unsqueeze(2)?, weight, bias, spec)?.squeeze(2)
}

/// Transposed 2-D convolution of x [N, C_in, H, W] with a weight [C_in, C_out / groups, kh, kw] and
/// perhaps a bias `[C_out]`: candle's `x.conv_transpose2d(weight, padding, output_padding, stride,
/// dilation)`, with groups.
///
/// # Errors
/// As [`conv2d`].
#[allow(clippy::too_many_arguments)] // candle's, a bias and groups
pub fn conv_transpose2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    output_padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
) -> Result<Tensor> {
    let (stride, dilation, output_padding) = ([stride; 2], [dilation; 2], [output_padding; 2]);
    let spec = ConvTranspose2dSpec { padding: [padding; 4], stride, dilation, output_padding, groups, ..Default::default() };
    transposed(x, weight, bias, spec)
}

/// A transposed convolution by its spec. The weight has one axis or two for the filter.
fn transposed(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, spec: ConvTranspose2dSpec) -> Result<Tensor> {
    let make = |weight: Option<Parameter>, bias: Option<Parameter>| {
        let layer = crate::ConvTranspose2d::new(spec, of_images(required(weight)?)?)?;
        Ok(match bias {
            Some(bias) => layer.with_bias(bias)?,
            None => layer,
        })
    };
    module(LayerSpec::ConvTranspose2d(spec), Some(weight), bias, make)?.forward(x)
}

/// A weight for images of one row, if it is one for sequences. The tensor that a caller gives is
/// looked up by its own id; a view of it with one more axis would have a new id at each call.
fn of_images(weight: Parameter) -> Result<Parameter> {
    match *weight.shape() {
        [a, b, kernel] => Ok(weight.reshaped(&[a, b, 1, kernel])?),
        _ => Ok(weight),
    }
}

/// Deformable convolution, v1 and, with a mask, v2: torchvision's `deform_conv2d(input, offset,
/// weight, bias, stride, padding, dilation, mask)`. The numbers of groups and of offset groups
/// follow from the shapes, as there. Offset and mask are each in the dtype of x or in f32.
///
/// # Errors
/// As [`conv2d`].
#[allow(clippy::too_many_arguments)] // torchvision's
pub fn deform_conv2d(
    x: &Tensor,
    offset: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: impl ToUsize2,
    padding: impl ToUsize2,
    dilation: impl ToUsize2,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let pair = |(h, w): (usize, usize)| [h, w];
    let [pad_h, pad_w] = pair(padding.to_usize2());
    let (_, group_channels, kh, kw) = weight.dims4()?;
    let (channels, offsets) = (x.dims4()?.1, offset.dims4()?.1);
    // If the numbers do not divide, the layer sees shapes that do not fit, and refuses them.
    let groups = channels.checked_div(group_channels).unwrap_or(0);
    let offset_groups = offsets.checked_div(kh.saturating_mul(kw).saturating_mul(2)).unwrap_or(0);
    let spec = DeformConv2dSpec {
        stride: pair(stride.to_usize2()),
        padding: Padding::Explicit([pad_h, pad_w, pad_h, pad_w]),
        dilation: pair(dilation.to_usize2()),
        groups,
        offset_groups,
        ..Default::default()
    };
    let make = |weight: Option<Parameter>, bias: Option<Parameter>| {
        let layer = crate::DeformConv2d::new(spec, required(weight)?)?;
        Ok(match bias {
            Some(bias) => layer.with_bias(bias)?,
            None => layer,
        })
    };
    module(LayerSpec::DeformConv2d(spec), Some(weight), bias, make)?.forward_at(x, offset, mask)
}

/// [N, C * r^2, H, W] to [N, C, r * H, r * W]: candle_nn's `pixel_shuffle`, in one launch.
///
/// # Errors
/// As [`conv2d`].
pub fn pixel_shuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    let spec = PixelShuffleSpec { factor, order: Default::default() };
    module(LayerSpec::PixelShuffle(spec), None, None, |_, _| Ok(crate::PixelShuffle::new(spec)?))?.forward(x)
}

/// [N, C, r * H, r * W] to [N, C * r^2, H, W]: candle_nn's `pixel_unshuffle`, in one launch.
///
/// # Errors
/// As [`conv2d`].
pub fn pixel_unshuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    let spec = PixelShuffleSpec { factor, order: Default::default() };
    module(LayerSpec::PixelUnshuffle(spec), None, None, |_, _| Ok(crate::PixelUnshuffle::new(spec)?))?.forward(x)
}

fn upsample(x: &Tensor, size: UpsampleSize, align_corners: bool) -> Result<Tensor> {
    let spec = UpsampleBilinearSpec { size, align_corners };
    module(LayerSpec::UpsampleBilinear(spec), None, None, |_, _| Ok(crate::UpsampleBilinear::new(spec)?))?.forward(x)
}

/// Bilinear resizing: candle's `x.upsample_bilinear2d(height, width, align_corners)`.
///
/// # Errors
/// As [`conv2d`].
pub fn upsample_bilinear(x: &Tensor, height: usize, width: usize, align_corners: bool) -> Result<Tensor> {
    upsample(x, UpsampleSize::Output([height, width]), align_corners)
}

/// Bilinear resizing to `floor(size * scale)`: candle's `x.upsample_bilinear2d_with_scale(vertical,
/// horizontal, align_corners)`.
///
/// # Errors
/// As [`conv2d`].
pub fn upsample_bilinear_with_scale(x: &Tensor, vertical: f64, horizontal: f64, align_corners: bool) -> Result<Tensor> {
    upsample(x, UpsampleSize::Scale([vertical, horizontal]), align_corners)
}

/// torchvision's `roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)`,
/// with RoIs [K, 5]: batch index, x1, y1, x2, y2. A batch index beyond the batch is an error on the
/// CPU. On a GPU, where the host does not read the indices, such a RoI gives zeros.
///
/// # Errors
/// As [`conv2d`].
pub fn roi_align(
    x: &Tensor,
    rois: &Tensor,
    output_size: impl ToUsize2,
    spatial_scale: f64,
    sampling_ratio: i32,
    aligned: bool,
) -> Result<Tensor> {
    let spec = RoiAlignSpec { output_size: output_size.to_usize2().into(), spatial_scale: spatial_scale as f32, sampling_ratio, aligned };
    module(LayerSpec::RoiAlign(spec), None, None, |_, _| Ok(crate::RoiAlign::new(spec)?))?.forward_rois(x, rois)
}

/// torchvision's `roi_pool(input, boxes, output_size, spatial_scale)`, with RoIs as [`roi_align`]
/// takes them.
///
/// # Errors
/// As [`conv2d`].
pub fn roi_pool(x: &Tensor, rois: &Tensor, output_size: impl ToUsize2, spatial_scale: f64) -> Result<Tensor> {
    let spec = RoiPoolSpec { output_size: output_size.to_usize2().into(), spatial_scale: spatial_scale as f32 };
    module(LayerSpec::RoiPool(spec), None, None, |_, _| Ok(crate::RoiPool::new(spec)?))?.forward_rois(x, rois)
}

/// torchvision's `ps_roi_pool(input, boxes, output_size, spatial_scale)`, with RoIs as
/// [`roi_align`] takes them.
///
/// # Errors
/// As [`conv2d`].
pub fn ps_roi_pool(x: &Tensor, rois: &Tensor, output_size: impl ToUsize2, spatial_scale: f64) -> Result<Tensor> {
    let spec = PsRoiPoolSpec { output_size: output_size.to_usize2().into(), spatial_scale: spatial_scale as f32 };
    module(LayerSpec::PsRoiPool(spec), None, None, |_, _| Ok(crate::PsRoiPool::new(spec)?))?.forward_rois(x, rois)
}

/// mmcv's `deform_roi_pool(input, rois, offset, output_size, spatial_scale, sampling_ratio,
/// gamma)`, with RoIs as [`roi_align`] takes them.
///
/// # Errors
/// As [`conv2d`].
pub fn deform_roi_pool(
    x: &Tensor,
    rois: &Tensor,
    offset: Option<&Tensor>,
    output_size: impl ToUsize2,
    spatial_scale: f64,
    sampling_ratio: i32,
    gamma: f64,
) -> Result<Tensor> {
    let scales = (spatial_scale as f32, gamma as f32);
    let size = output_size.to_usize2().into();
    let spec = DeformRoiPoolSpec { spatial_scale: scales.0, gamma: scales.1, sampling_ratio, ..DeformRoiPoolSpec::new(size) };
    let pool = module(LayerSpec::DeformRoiPool(spec), None, None, |_, _| Ok(crate::DeformRoiPool::new(spec)?))?;
    match offset {
        Some(offset) => pool.forward_rois_at(x, rois, offset),
        None => pool.forward_rois(x, rois),
    }
}
