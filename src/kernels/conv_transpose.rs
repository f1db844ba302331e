//! kernels/conv_transpose.cu: ConvTranspose2d by stride phases. The phases are computed as one
//! implicit GEMM each, all as one, or element by element.

use super::candidate::{LaunchConfig, Reason};
use super::conv_gemm::{MAX_TILE, Tile};
use super::conv_params::KernelParams;
use super::launch::{ConvCandidate, ConvConfig, Family, Pack, WeightedConv, plan as plan_op};
use super::order::SumOrder;
use super::params::ConvTransposeParams;
use super::problem::ConvProblem;
use super::{KernelInfo, WeightPlace, conv_direct, conv_gemm};
use crate::device::kernel::Gather;
use crate::error::{Error, Result};
use crate::geometry::ConvGeometry;
use crate::plan::{Parameter, Plan, PlanRequest};
use crate::{Device, Element, memory};

pub(crate) const FAMILY: &str = "conv_transpose";
/// The largest number such that products of two of them fit 32 bits.
const MAX_PERIOD: usize = 65_535;

/// The classes of taps along one axis. A class is the taps that one phase of the outputs reads:
/// class c has taps c, c + period, ...
#[derive(Debug, Clone, Copy)]
pub(super) struct Classes {
    kernel: usize,
    period: usize,
}

impl Classes {
    fn new(g: &ConvGeometry, axis: usize) -> Self {
        Self { kernel: g.kernel[axis], period: g.period(axis) }
    }

    /// The number of classes that have taps.
    fn count(self) -> usize {
        self.kernel.min(self.period)
    }

    /// The number of taps of a class.
    fn taps(self, class: usize) -> usize {
        (self.kernel - class).div_ceil(self.period)
    }

    /// The number of taps of the classes before.
    fn taps_before(self, class: usize) -> usize {
        class * (self.kernel / self.period) + class.min(self.kernel % self.period)
    }
}

/// The steps of `per_step` products that the sub-filters of a group take. Each sub-filter takes
/// whole steps.
pub(super) fn steps(g: &ConvGeometry, per_step: usize) -> usize {
    let products = g.kernel[0] * g.kernel[1] * (g.c_in / g.groups);
    products / per_step + Classes::new(g, 0).count() * Classes::new(g, 1).count()
}

/// The first step of the sub-filter to which a tap belongs, and the tap's place in it. The order is
/// reversed, as a convolution needs it.
pub(super) fn place(g: &ConvGeometry, per_step: usize, tap: usize) -> (usize, usize) {
    let (i, j) = (tap / g.kernel[1], tap % g.kernel[1]);
    let (rows, columns) = (Classes::new(g, 0), Classes::new(g, 1));
    let (row, column) = (i % rows.period, j % columns.period);
    let (height, width) = (rows.taps(row), columns.taps(column));
    let before = rows.taps_before(row) * g.kernel[1] + height * columns.taps_before(column);
    let first_step = before * (g.c_in / g.groups) / per_step + row * columns.count() + column;
    (first_step, (height - 1 - i / rows.period) * width + width - 1 - j / columns.period)
}

/// The number in 1..modulus (0 for modulus 1) whose product with `value` is 1 modulo `modulus`.
/// `value` and `modulus` are coprime.
fn inverse(value: usize, modulus: usize) -> usize {
    // Extended Euclid: each remainder is value * factor (mod modulus).
    let (mut a, mut b) = ((modulus as i64, 0i64), ((value % modulus) as i64, 1i64));
    while b.0 > 1 {
        let quotient = a.0 / b.0;
        (a, b) = (b, (a.0 - quotient * b.0, a.1 - quotient * b.1));
    }
    b.1.rem_euclid(modulus as i64) as usize
}

/// Whether the kernel computes all phases as columns of one GEMM.
fn has_columns(kernel: &KernelInfo) -> bool {
    kernel.axes.form.is_some()
}

/// Whether the innermost axis of these columns is the column within a block of outputs, instead of
/// the channel.
fn along_rows(kernel: &KernelInfo) -> bool {
    kernel.axes.gather == Some(Gather::Pixels)
}

/// The convolution of stride 1 that computes all channels of each block of stride x stride outputs
/// which read the same inputs. Its padding may be negative, which the kernel handles.
fn as_columns(g: &ConvGeometry) -> Result<ConvGeometry, String> {
    if g.stride == [1, 1] {
        return Err("a stride of 1 has one phase".into());
    }
    if g.dilation != [1, 1] {
        return Err(format!("with a dilation of {:?} phases see different inputs", g.dilation));
    }
    if !g.kernel[0].is_multiple_of(g.stride[0]) || !g.kernel[1].is_multiple_of(g.stride[1]) {
        return Err(format!("a kernel of {:?} is no multiple of a stride of {:?}: phases have different taps", g.kernel, g.stride));
    }
    let c_out = g.stride[0].saturating_mul(g.stride[1]).saturating_mul(g.c_out);
    if c_out > i32::MAX as usize - MAX_TILE {
        return Err(format!("{c_out} channels of all phases are above 2^31"));
    }
    let blocks = |axis: usize| (g.padding[axis] + g.output[axis] - 1) / g.stride[axis] - g.padding[axis] / g.stride[axis] + 1;
    Ok(ConvGeometry {
        c_out,
        output: [blocks(0), blocks(1)],
        kernel: [g.kernel[0] / g.stride[0], g.kernel[1] / g.stride[1]],
        stride: [1, 1],
        padding: [0; 4],
        transposed: false,
        ..*g
    })
}

/// The packed weight of that convolution. The columns of a group are [class's row][class's
/// column][channel], or [class's row][channel][class's column] if `ALONG_ROWS`. Taps are reversed,
/// as a convolution needs them.
fn pack_columns<T: Element, const TILE_N: usize, const ALONG_ROWS: bool>(g: &ConvGeometry, weight: &Parameter) -> Result<Vec<T>> {
    let (gemm, outputs) = (as_columns(g).expect("the kernel applies"), g.c_out / g.groups);
    let ([height, width], channels) = (gemm.kernel, g.c_in / g.groups);
    let mut values = memory::filled(weight.values().len(), 0.0)?;
    for (index, &value) in weight.values().iter().enumerate() {
        let WeightPlace { group, output, channel, tap } = WeightPlace::of(g, index);
        let (i, j) = (tap / g.kernel[1], tap % g.kernel[1]);
        let (down, right) = (i % g.stride[0], j % g.stride[1]);
        let in_row = if ALONG_ROWS { output * g.stride[1] + right } else { right * outputs + output };
        let column = (group * g.stride[0] + down) * g.stride[1] * outputs + in_row;
        let tap = (height - 1 - i / g.stride[0]) * width + width - 1 - j / g.stride[1];
        values[(column * channels + channel) * height * width + tap] = value;
    }
    let shape = [gemm.c_out, channels, height, width];
    conv_gemm::pack::<T, TILE_N>(&gemm, &Parameter::from_values(&shape, values)?)
}

/// The order of the weight for a kernel, and the function that packs the weight in that order.
fn column_packing<T: Element>(kernel: &'static KernelInfo) -> (&'static str, Pack<T>) {
    match (Tile::of(kernel).n, along_rows(kernel)) {
        (32, false) => ("[group][64 bytes of (tap, channel)][(class, c_out) in tiles of 32]", pack_columns::<T, 32, false>),
        (64, false) => ("[group][64 bytes of (tap, channel)][(class, c_out) in tiles of 64]", pack_columns::<T, 64, false>),
        (128, false) => ("[group][64 bytes of (tap, channel)][(class, c_out) in tiles of 128]", pack_columns::<T, 128, false>),
        (64, true) => ("[group][64 bytes of (tap, channel)][(row, c_out, column) in tiles of 64]", pack_columns::<T, 64, true>),
        other => unreachable!("the manifest has no kernel of columns with a tile of {other:?}"),
    }
}

fn is_gemm(kernel: &KernelInfo) -> bool {
    kernel.axes.tile.is_some()
}

fn candidate<T: Element>(kernel: &'static KernelInfo, problem: &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason> {
    let g = &problem.geometry;
    let mut candidate = if has_columns(kernel) {
        conv_gemm::candidate_as(kernel, problem, as_columns(g)?)?
    } else if is_gemm(kernel) {
        conv_gemm::candidate(kernel, problem)?
    } else {
        conv_direct::candidate(kernel, problem)?
    };
    let LaunchConfig { order, own: ConvConfig { params, persistent, layout, pack }, .. } = &mut candidate.config;
    if has_columns(kernel) {
        (*layout, *pack) = column_packing(kernel);
    }
    if is_gemm(kernel) && *order == SumOrder::Chain {
        // The taps of each phase come in the order of a convolution.
        *order = SumOrder::ReversedChain;
    }
    (*params, *persistent) = (KernelParams::Transpose(phase_params(g)), false);
    Ok(candidate)
}

fn phase_params(g: &ConvGeometry) -> ConvTransposeParams {
    let period = [g.period(0), g.period(1)];
    let reach = [0, 1].map(|axis| g.dilation[axis] / (g.stride[axis] / period[axis]));
    let inverse = [inverse(reach[0], period[0]), inverse(reach[1], period[1])];
    ConvTransposeParams {
        period_h: period[0] as i32,
        period_w: period[1] as i32,
        reach_h: reach[0] as i32,
        reach_w: reach[1] as i32,
        inverse_h: inverse[0] as i32,
        inverse_w: inverse[1] as i32,
        ..Default::default()
    }
}

/// Makes a plan: chooses a kernel, packs the weights and loads the kernel.
pub(crate) fn plan<T: Element>(device: &Device, request: &PlanRequest, conv: WeightedConv<'_>) -> Result<Plan<T>> {
    let period = conv.geometry.period(0).max(conv.geometry.period(1));
    if period > MAX_PERIOD {
        return Err(Error::Limit { what: "stride / gcd(stride, dilation)", value: period as u128, limit: MAX_PERIOD as u128 });
    }
    plan_op("conv_transpose2d", &[Family { name: FAMILY, candidate }], device, request, conv)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ConvTranspose2dSpec;

    #[test]
    fn the_inverse_is_one() {
        for modulus in 1..40 {
            for value in 1..100 {
                if (1..=modulus).any(|candidate| candidate * value % modulus == 1 % modulus) {
                    assert_eq!(inverse(value, modulus) * value % modulus, 1 % modulus, "{value} modulo {modulus}");
                    assert!(inverse(value, modulus) < modulus);
                }
            }
        }
    }

    /// Every tap has a place of its own, sub-filters take whole steps, and none reaches into the
    /// next.
    #[test]
    fn sub_filters_fill_the_steps() {
        for (kernel, stride, dilation, c_in) in [
            (3, 2, 1, 5),
            (4, 2, 1, 32),
            (2, 3, 1, 7),
            (7, 3, 1, 33),
            (5, 4, 2, 9),
            (5, 6, 4, 3),
            (3, 1, 3, 40),
            (3, 2, 2, 16),
            (1, 5, 1, 65),
        ] {
            let spec = ConvTranspose2dSpec { stride: [stride, 2], dilation: [dilation, 3], ..Default::default() };
            let g = ConvGeometry::conv_transpose2d(&spec, [1, c_in, 4, 4], [c_in, 1, kernel, 3]).unwrap();
            let per_step = 16;
            let mut places: Vec<_> = (0..kernel * 3).map(|tap| place(&g, per_step, tap)).collect();
            places.sort_unstable();
            for pair in places.windows(2) {
                let ((first, last), (next, tap)) = (pair[0], pair[1]);
                if first == next {
                    assert_eq!(tap, last + 1, "{g:?}: {places:?}");
                } else {
                    assert!(tap == 0 && first + ((last + 1) * c_in).div_ceil(per_step) <= next, "{g:?}: {places:?}");
                }
            }
            let &(first, last) = places.last().unwrap();
            assert!(places[0] == (0, 0) && first + ((last + 1) * c_in).div_ceil(per_step) <= steps(&g, per_step), "{g:?}: {places:?}");
        }
    }
}
