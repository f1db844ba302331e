//! The choice of kernels: for each family its candidates, and what all of them share (weights on
//! the device, parameters of views, operands of launches).

mod candidate;
pub(crate) mod conv2d;
mod conv_any;
mod conv_banded;
mod conv_depthwise;
mod conv_direct;
mod conv_gemm;
mod conv_grouped;
mod conv_params;
mod conv_separable;
pub(crate) mod conv_transpose;
pub(crate) mod cost;
mod deform_conv;
pub(crate) mod deform_conv2d;
mod known;
pub(crate) mod launch;
mod order;
pub(crate) mod pixel_shuffle;
pub(crate) mod pool;
mod problem;
pub(crate) mod roi_pool;
pub(crate) mod separable;
pub(crate) mod several;
mod spatial_gemm;
mod spatial_separable;
pub(crate) mod sub_pixel;
mod unweighted;
pub(crate) mod upsample;

pub(crate) use crate::device::kernel::{KERNELS, Kernel, KernelInfo, family, find};
pub(crate) use crate::device::params;
use crate::device::{Access, Block, Operand, Store};
use crate::error::{Error, Result};
use crate::plan::{OffsetOrMask, Parameter};
pub(crate) use crate::shape::{MAX_COUNT, at_most, to_i32};
use crate::spec::{Activation, ChannelOrder};
use crate::tensor::TensorView;
pub(crate) use crate::tensor::operand;
use crate::{DType, Device, Element, Shape, memory};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Whether the kernel of this name multiplies on tensor cores.
#[cfg(feature = "verify")]
pub(crate) fn on_tensor_cores(name: &str) -> bool {
    let multiplies = |kernel: &KernelInfo| match kernel.axes.tile {
        Some(_) => kernel.dtype != Some(DType::F32) || kernel.axes.math.is_some(),
        None => kernel.family == conv_grouped::FAMILY || conv_banded::is_banded(kernel),
    };
    KERNELS.iter().any(|kernel| kernel.name == name && multiplies(kernel))
}

#[cfg(feature = "verify")]
impl crate::plan::Explanation {
    /// Whether any launch multiplies on tensor cores.
    pub(crate) fn on_tensor_cores(&self) -> bool {
        on_tensor_cores(self.kernel) || self.stages.iter().any(Self::on_tensor_cores)
    }
}

/// The largest number of products of one output, over all taps and channels of its group. A
/// position in k, padded to whole steps, then fits 32 bits.
pub(crate) const MAX_PRODUCTS: usize = 1 << 30;
/// The largest position along an axis that f32 distinguishes from its neighbours.
pub(crate) const MAX_POSITION: usize = 1 << 24;

/// A product of sizes, or an error that names it and its factors.
pub(crate) fn product(what: &'static str, factors: &[usize]) -> Result<usize> {
    if factors.contains(&0) {
        return Ok(0);
    }
    let product = factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor));
    product.ok_or_else(|| Error::Overflow { what, values: format!("the product of {factors:?}") })
}

/// Refuses a tensor whose images, packed, have more elements than kernels count. Otherwise
/// [`tensor4`] would refuse them when a plan runs.
pub(crate) fn check_image(what: &'static str, [_, c, h, w]: Shape) -> Result<()> {
    // An empty tensor has strides as well.
    to_i32(what, product(what, &[c, h, w].map(|size| size.max(1)))?).map(drop)
}

/// A view as kernels take it. One image must have at most [`crate::shape::MAX_COUNT`] elements from
/// its first to its last.
pub(crate) fn tensor4<T: Element>(view: &TensorView<'_, T>) -> Result<params::Tensor4> {
    let layout = view.layout();
    let [n, c, h, w] = layout.strides();
    let [_, channels, height, width] = layout.shape();
    let last = c * (channels.max(1) - 1) + h * (height.max(1) - 1) + w * (width.max(1) - 1);
    to_i32("the distance of the last element of an image from its first", last)?;
    let stride = |value| to_i32("a stride in elements", value);
    Ok(params::Tensor4 {
        address: view.address(),
        stride_n: n as i64,
        stride_c: stride(c)?,
        stride_h: stride(h)?,
        stride_w: stride(w)?,
        reserved: 0,
    })
}

/// The place of an element of a canonical weight: [C_out, C_in / groups, kh, kw], or [C_in, C_out /
/// groups, kh, kw] of a transposed convolution.
pub(crate) struct WeightPlace {
    pub group: usize,
    /// The output channel within the group.
    pub output: usize,
    /// The input channel within the group.
    pub channel: usize,
    pub tap: usize,
}

impl WeightPlace {
    pub fn of(g: &crate::geometry::ConvGeometry, index: usize) -> Self {
        let (channels, outputs, taps) = (g.c_in / g.groups, g.c_out / g.groups, g.kernel[0] * g.kernel[1]);
        let (tap, rest) = (index % taps, index / taps);
        if g.transposed {
            let (output, channel) = (rest % outputs, rest / outputs);
            Self { group: channel / channels, output, channel: channel % channels, tap }
        } else {
            let (channel, output) = (rest % channels, rest / channels);
            Self { group: output / outputs, output: output % outputs, channel, tap }
        }
    }
}

impl WeightPlace {
    /// The element's index in the canonical weight: the inverse of [`WeightPlace::of`].
    pub fn index(&self, g: &crate::geometry::ConvGeometry) -> usize {
        let (channels, outputs, taps) = (g.c_in / g.groups, g.c_out / g.groups, g.kernel[0] * g.kernel[1]);
        let row = if g.transposed {
            (self.group * channels + self.channel) * outputs + self.output
        } else {
            (self.group * outputs + self.output) * channels + self.channel
        };
        row * taps + self.tap
    }
}

/// With fewer elements, starting a thread takes longer than packing.
const PACKED_BY_A_THREAD: usize = 1 << 16;

/// Makes `rows` rows of `row` elements each, which `fill` fills by their number. Uses as many cores
/// as are worth it.
pub(crate) fn pack_rows<T: Element>(rows: usize, row: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Result<Vec<T>> {
    let mut packed = memory::filled(rows * row, T::from_f32(0.0))?;
    if packed.is_empty() {
        return Ok(packed);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(packed.len() / PACKED_BY_A_THREAD).clamp(1, rows);
    let each = rows.div_ceil(threads);
    let fill_part = |(part, rows): (usize, &mut [T])| rows.chunks_mut(row).enumerate().for_each(|(i, row)| fill(part * each + i, row));
    let mut parts = packed.chunks_mut(each * row).enumerate();
    let first = parts.next();
    std::thread::scope(|scope| {
        for part in parts {
            let fill_part = &fill_part;
            scope.spawn(move || fill_part(part));
        }
        first.into_iter().for_each(&fill_part);
    });
    Ok(packed)
}

/// The tail of a layer, as its parameters are on the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    pub bias: Option<&'a Parameter>,
    pub slope: Option<&'a Parameter>,
    pub activation: Activation,
    /// How the store rearranges what it writes, if it does.
    pub sub_pixel: Option<SubPixel>,
}

/// How the channels of a convolution become blocks of r x r pixels. Blocks of `run` channels are
/// neighbours in y (device/output.cuh).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubPixel {
    pub run: usize,
    pub factor: usize,
    /// The order of the user's channels.
    pub order: ChannelOrder,
}

impl SubPixel {
    /// A parameter [C_out, ...] with its rows in the order of the store: [outer][i][j][run].
    pub fn permuted(&self, parameter: &Parameter) -> Result<Parameter> {
        let Self { run, factor: r, order } = *self;
        let c_out = parameter.shape()[0];
        parameter.derived(parameter.shape(), |values| {
            let (channels, row) = (c_out / (r * r), values.len() / c_out);
            let mut permuted = memory::with_capacity(values.len())?;
            for place in 0..c_out {
                let (block, inner) = (place / run, place % run);
                let (c, i, j) = (block / (r * r) * run + inner, block % (r * r) / r, block % r);
                let channel = match order {
                    ChannelOrder::Crd => (c * r + i) * r + j,
                    ChannelOrder::Dcr => (i * r + j) * channels + c,
                    ChannelOrder::Focus => (j * r + i) * channels + c,
                };
                permuted.extend_from_slice(&values[channel * row..][..row]);
            }
            Ok(permuted)
        })
    }
}

/// Weights, bias and slope on a device, in the layout of one kernel. They do not keep the device
/// alive.
#[derive(Debug)]
pub(crate) struct Packed {
    pub weight: Block,
    bias: Option<Block>,
    slope: Option<Block>,
    activation: Activation,
}

impl Packed {
    /// The parameters of the epilogue, without a residual.
    pub fn epilogue(&self) -> params::EpilogueParams {
        use params::*;
        let alpha = if let Activation::LeakyRelu { alpha } = self.activation { alpha } else { 0.0 };
        let activation = match self.activation {
            Activation::None => ActivationCode_ACTIVATION_NONE,
            Activation::Relu => ActivationCode_ACTIVATION_RELU,
            Activation::Relu6 => ActivationCode_ACTIVATION_RELU6,
            Activation::LeakyRelu { .. } => ActivationCode_ACTIVATION_LEAKY_RELU,
            Activation::Prelu => ActivationCode_ACTIVATION_PRELU,
            Activation::Sigmoid => ActivationCode_ACTIVATION_SIGMOID,
            Activation::Tanh => ActivationCode_ACTIVATION_TANH,
            Activation::Silu => ActivationCode_ACTIVATION_SILU,
            Activation::Gelu => ActivationCode_ACTIVATION_GELU,
            Activation::Hardswish => ActivationCode_ACTIVATION_HARDSWISH,
        };
        let address = |memory: &Option<Block>| memory.as_ref().map_or(0, Block::address);
        EpilogueParams {
            bias: address(&self.bias),
            slope: address(&self.slope),
            activation: activation as i32,
            alpha,
            ..Default::default()
        }
    }

    /// The memory of bias and slope, for the operands of a launch.
    pub fn bias_and_slope(&self) -> impl Iterator<Item = (&'static str, &Block)> {
        [("bias", self.bias.as_ref()), ("slope", self.slope.as_ref())].into_iter().filter_map(|(name, memory)| Some((name, memory?)))
    }
}

/// A layer's packed weights. They are packed once for each device, dtype and kernel layout, and
/// shared among plans. They are freed with the layer or with the device, whichever ends first.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackedWeights(Arc<Shelf>);

#[derive(Debug, Default)]
struct Shelf(Mutex<Vec<(Key, Arc<Slot>)>>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Key {
    device: u64,
    dtype: DType,
    layout: &'static str,
}

/// The lock is held while the weights are packed. Threads that want the same weights wait; others
/// do not.
type Slot = Mutex<Option<Arc<Packed>>>;

fn locked<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for Shelf {
    fn release(&self, device: u64) {
        // The weights are dropped after the lock is released: freeing may wait for the GPU if it has no
        // memory pools.
        let gone: Vec<_> = locked(&self.0).extract_if(.., |(key, _)| key.device == device).collect();
        drop(gone);
    }
}

impl PackedWeights {
    /// The weights in `layout`. If they are not there yet, `pack` converts the values of `weight`
    /// from the canonical order to that of the layout. If only the shape of the weight is known,
    /// nothing is packed.
    pub fn get<T: Element>(
        &self,
        device: &Device,
        layout: &'static str,
        epilogue: &Epilogue<'_>,
        weight: &Parameter,
        pack: impl FnOnce(&Parameter) -> Result<Vec<T>>,
    ) -> Result<Arc<Packed>> {
        let slot = self.slot(device, Key { device: device.id(), dtype: T::DTYPE, layout });
        let mut slot = locked(&slot);
        if let Some(found) = &*slot {
            return Ok(found.clone());
        }
        weight.check_kept(layout)?;
        let upload = |p: Option<&Parameter>| p.map(|p| Block::shared(device, p.values())).transpose();
        let values = if weight.is_outline() { vec![] } else { pack(weight)? };
        let packed = Packed {
            weight: Block::shared(device, &values)?,
            bias: upload(epilogue.bias)?,
            slope: upload(epilogue.slope)?,
            activation: epilogue.activation,
        };
        Ok(slot.insert(Arc::new(packed)).clone())
    }

    fn slot(&self, device: &Device, key: Key) -> Arc<Slot> {
        let mut slots = locked(&self.0.0);
        if let Some((_, slot)) = slots.iter().find(|(known, _)| *known == key) {
            return slot.clone();
        }
        if !slots.iter().any(|(known, _)| known.device == key.device) {
            let shelf: Weak<Shelf> = Arc::downgrade(&self.0);
            device.add_store(shelf);
        }
        let slot = Arc::new(Slot::default());
        slots.push((key, slot.clone()));
        slot
    }

    /// The number of packed copies on devices.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        locked(&self.0.0).len()
    }
}

/// Offsets or a mask as kernels take them, and whether they are f32 regardless of T.
pub(crate) fn offset_or_mask<T: Element>(field: &OffsetOrMask<'_, T>) -> Result<(params::Tensor4, i32)> {
    match field {
        OffsetOrMask::Native(view) => Ok((tensor4(view)?, 0)),
        OffsetOrMask::F32(view) => Ok((tensor4(view)?, 1)),
    }
}

/// Offsets or a mask as an operand, for the checker of a launch.
pub(crate) fn offset_or_mask_operand<T: Element>(name: &'static str, field: &OffsetOrMask<'_, T>) -> Operand {
    match field {
        OffsetOrMask::Native(view) => operand(name, view, Access::Read),
        OffsetOrMask::F32(view) => operand(name, view, Access::Read),
    }
}

/// The operands of a launch, stored on the stack, since running allocates nothing. Only a device
/// with a checker needs them.
pub(crate) struct Operands {
    items: [Operand; Self::CAPACITY],
    len: usize,
}

impl Operands {
    const CAPACITY: usize = 12;
    const NONE: Operand = Operand { name: "", address: 0, element_bytes: 1, shape: [0; 4], strides: [0; 4], access: Access::Read };

    pub fn new() -> Self {
        Self { items: [Self::NONE; Self::CAPACITY], len: 0 }
    }

    pub fn push(&mut self, operand: Operand) {
        self.items[self.len] = operand;
        self.len += 1;
    }

    pub fn extend(&mut self, operands: impl IntoIterator<Item = Operand>) {
        operands.into_iter().for_each(|operand| self.push(operand));
    }

    pub fn as_slice(&self) -> &[Operand] {
        &self.items[..self.len]
    }

    /// The operands, or none if no checker needs them.
    pub fn of(operands: &Option<Self>) -> &[Operand] {
        operands.as_ref().map_or(&[], Self::as_slice)
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::HostOptions;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};
    use std::time::Duration;

    const PLAIN: Epilogue<'_> = Epilogue { bias: None, slope: None, activation: Activation::None, sub_pixel: None };

    fn device() -> Device {
        Device::host_with(HostOptions { threads: 1, ..Default::default() }).unwrap()
    }

    #[test]
    fn threads_that_want_the_same_weights_pack_them_once() {
        let (device, packed, weight) = (device(), PackedWeights::default(), Parameter::vector(&[1f32; 8]));
        let (packings, start) = (AtomicUsize::new(0), Barrier::new(8));
        let get = || {
            start.wait();
            let pack = |weight: &Parameter| {
                packings.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
                memory::collect(weight.values().iter().copied())
            };
            packed.get::<f32>(&device, "a layout", &PLAIN, &weight, pack).unwrap().weight.address()
        };
        let addresses: Vec<u64> = std::thread::scope(|scope| {
            let threads = [(); 8].map(|()| scope.spawn(get));
            threads.map(|thread| thread.join().unwrap()).into()
        });
        assert_eq!(packings.into_inner(), 1);
        assert!(addresses.iter().all(|address| *address == addresses[0]), "{addresses:?}");
    }

    #[test]
    fn who_packs_other_weights_does_not_wait() {
        let (device, packed, weight) = (device(), PackedWeights::default(), Parameter::vector(&[1f32; 8]));
        let (device, packed, weight) = (&device, &packed, &weight);
        let ((started, has_started), (done, is_done)) = (mpsc::channel(), mpsc::channel());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let pack = |_: &Parameter| {
                    started.send(()).unwrap();
                    is_done.recv_timeout(Duration::from_secs(60)).expect("the other layout is packed meanwhile");
                    Ok(vec![0f32; 8])
                };
                packed.get::<f32>(device, "one layout", &PLAIN, weight, pack).unwrap();
            });
            has_started.recv().unwrap();
            packed.get::<f32>(device, "another layout", &PLAIN, weight, |_| Ok(vec![0f32; 8])).unwrap();
            done.send(()).unwrap();
        });
        assert_eq!(packed.len(), 2);
    }

    #[test]
    fn packed_weights_go_with_their_device_and_after_a_failure_are_packed_anew() {
        let (packed, weight) = (PackedWeights::default(), Parameter::vector(&[1f32; 8]));
        let kept = device();
        for device in [&kept, &device()] {
            let failure = Err(crate::Error::Forgotten { needed_for: "a test".into() });
            packed.get::<f32>(device, "a layout", &PLAIN, &weight, |_| failure).unwrap_err();
            packed.get::<f32>(device, "a layout", &PLAIN, &weight, |_| Ok(vec![0f32; 8])).unwrap();
        }
        assert_eq!(packed.len(), 1, "the second device is gone");
        drop(kept);
        assert_eq!(packed.len(), 0);
    }

    #[test]
    fn rows_are_packed_by_their_number_on_every_count_of_threads() {
        for (rows, row) in [(0, 5), (1, 3 << 16), (7, 1 << 15), (1000, 333)] {
            let packed = pack_rows(rows, row, |number, out: &mut [f32]| {
                out.iter_mut().enumerate().for_each(|(i, out)| *out = (number * row + i) as f32);
            });
            let expected: Vec<f32> = (0..rows * row).map(|i| i as f32).collect();
            assert!(packed.unwrap() == expected, "{rows} rows of {row}");
        }
    }
}
