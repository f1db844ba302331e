//! The order of a group's taps and channels along the MMA's k, in which the weight is packed.

use crate::error::Result;
use crate::geometry::ConvGeometry;
use crate::plan::Parameter;
use crate::{Element, memory};

pub(super) const LAYOUT: &str = "[group][step of 4 slots][n8][lane][4]";
/// The channels of a quad, which is a slot of the MMA's k: 8 bytes.
pub(super) const QUAD: usize = 4;

/// The order of a group's taps and channels along the MMA's k. The weight is packed in this order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    /// Quads of input channels in a group.
    pub(super) group_quads: usize,
    /// Slots of a kernel row.
    pub(super) row: usize,
    /// MMAs along k.
    pub(super) steps: usize,
    /// n8 tiles of output channels in a group.
    pub(super) n_tiles: usize,
}

impl Slots {
    pub(super) fn of(g: &ConvGeometry) -> Self {
        let group_quads = (g.c_in / g.groups).div_ceil(QUAD);
        let quads = g.kernel[1] * group_quads;
        let packed = (quads * g.kernel[0]).div_ceil(4);
        // Rows that start with a step access fewer rows of the patch at once, which avoids bank
        // conflicts.
        let (row, steps) = if quads.div_ceil(4) * g.kernel[0] == packed { (quads.next_multiple_of(4), packed) } else { (quads, packed) };
        Self { group_quads, row, steps, n_tiles: (g.c_out / g.groups).div_ceil(8) }
    }

    /// The tap and the first channel of a slot. `None` if the slot is padding.
    pub(super) fn at(&self, slot: usize, g: &ConvGeometry) -> Option<(usize, usize, usize)> {
        let (i, quad) = (slot / self.row, slot % self.row);
        let j = quad / self.group_quads;
        (i < g.kernel[0] && j < g.kernel[1]).then_some((i, j, quad % self.group_quads * QUAD))
    }
}

/// Packs the weight in the order of the lanes' fragments of B: a lane holds 4 channels of slot
/// `lane % 4` for output `lane / 4`. Slots, channels and outputs that are padding are zero.
pub(super) fn pack<T: Element>(g: &ConvGeometry, weight: &Parameter) -> Result<Vec<T>> {
    let slots = Slots::of(g);
    let (channels, outputs) = (g.c_in / g.groups, g.c_out / g.groups);
    let taps = g.kernel[0] * g.kernel[1];
    let mut packed = memory::with_capacity(g.groups * slots.steps * slots.n_tiles * 32 * QUAD)?;
    for group in 0..g.groups {
        for step in 0..slots.steps {
            for tile in 0..slots.n_tiles {
                for lane in 0..32 {
                    let output = tile * 8 + lane / 4;
                    let slot = slots.at(step * 4 + lane % 4, g).filter(|_| output < outputs);
                    packed.extend((0..QUAD).map(|c| match slot {
                        Some((i, j, first)) if first + c < channels => {
                            let at = ((group * outputs + output) * channels + first + c) * taps + i * g.kernel[1] + j;
                            T::from_f32(weight.values()[at])
                        }
                        _ => T::from_f32(0.0),
                    }));
                }
            }
        }
    }
    Ok(packed)
}
