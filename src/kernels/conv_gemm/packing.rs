//! The orders in which weights are packed for an implicit GEMM.

use super::patch::chunk_steps;
use super::{ROW_BYTES, Tile, steps};
use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::kernels::launch::Pack;
use crate::kernels::{WeightPlace, conv_transpose, pack_rows};
use crate::plan::Parameter;
use crate::{Element, memory};

/// The order of the weight for a tile, and the function that packs the weight in that order.
pub(in crate::kernels) fn packing<T: Element>(tile: &Tile) -> (&'static str, Pack<T>) {
    match tile.n {
        32 => ("[group][64 bytes of (tap, channel)][c_out in tiles of 32]", pack::<T, 32>),
        64 => ("[group][64 bytes of (tap, channel)][c_out in tiles of 64]", pack::<T, 64>),
        256 => ("[group][64 bytes of (tap, channel)][c_out in tiles of 256]", pack::<T, 256>),
        _ => ("[group][64 bytes of (tap, channel)][c_out in tiles of 128]", pack::<T, 128>),
    }
}

/// Packs the weight as [group][step][output channel][k of the step]. Both k and output channels are
/// padded with zeros: k to whole steps, the channels of a group to whole tiles. The steps of a
/// transposed convolution are those of its sub-filters, one after the other.
pub(in crate::kernels) fn pack<T: Element, const TILE_N: usize>(g: &ConvGeometry, weight: &Parameter) -> Result<Vec<T>> {
    let channels = g.c_in / g.groups;
    let step = ROW_BYTES / size_of::<T>();
    pack_steps::<T, TILE_N>(g, weight, steps(g, size_of::<T>()), |channel, tap| {
        let (first_step, tap) = if g.transposed { conv_transpose::place(g, step, tap) } else { (0, tap) };
        first_step * step + tap * channels + channel
    })
}

/// Packs the weight with steps of channels of one tap: first all taps of the first channels, then
/// those of the next.
pub(super) fn pack_by_chunk<T: Element, const TILE_N: usize>(g: &ConvGeometry, weight: &Parameter) -> Result<Vec<T>> {
    let (step, taps) = (ROW_BYTES / size_of::<T>(), g.kernel[0] * g.kernel[1]);
    pack_steps::<T, TILE_N>(g, weight, chunk_steps(g, size_of::<T>()), |channel, tap| (channel / step * taps + tap) * step + channel % step)
}

/// Packs the weight in steps. `place` gives, for a channel of the group and a tap, its k among all
/// steps of a group.
pub(in crate::kernels) fn pack_steps<T: Element, const TILE_N: usize>(
    g: &ConvGeometry,
    weight: &Parameter,
    steps: usize,
    place: impl Fn(usize, usize) -> usize,
) -> Result<Vec<T>> {
    let step = ROW_BYTES / size_of::<T>();
    let (channels, outputs, taps) = (g.c_in / g.groups, g.c_out / g.groups, g.kernel[0] * g.kernel[1]);
    let padded = outputs.next_multiple_of(TILE_N);
    let index = |group, output, channel, tap| WeightPlace { group, output, channel, tap }.index(g);
    // For each k: the index of the weight of the first output channel of the first group.
    let mut sources = memory::filled(steps * step, None)?;
    for (channel, tap) in (0..channels).flat_map(|channel| (0..taps).map(move |tap| (channel, tap))) {
        sources[place(channel, tap)] = Some(index(0, 0, channel, tap));
    }
    let (of_group, of_output) = (index(1, 0, 0, 0), index(0, 1, 0, 0));
    pack_rows(g.groups * steps, padded * step, |row, rows: &mut [T]| {
        let (group, sources) = (row / steps, &sources[row % steps * step..][..step]);
        for (output, out) in rows.chunks_mut(step).take(outputs).enumerate() {
            let first = group * of_group + output * of_output;
            for (out, source) in out.iter_mut().zip(sources) {
                *out = source.map_or(T::from_f32(0.0), |source| T::from_f32(weight.values()[first + source]));
            }
        }
    })
}

/// Packs the weight rounded to tf32: to nearest, ties away from zero.
pub(super) fn pack_tf32<T: Element, const TILE_N: usize>(g: &ConvGeometry, weight: &Parameter) -> Result<Vec<T>> {
    let round = |value: f32| match value.to_bits() {
        bits if value.is_nan() => f32::from_bits(bits),
        bits => f32::from_bits((bits + 0x1000) & 0xffff_e000),
    };
    let mut packed = pack::<T, TILE_N>(g, weight)?;
    packed.iter_mut().for_each(|value| *value = T::from_f32(round(value.to_f32())));
    Ok(packed)
}
