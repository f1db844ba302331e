//! The orders in which kernels add up, on which the last bits of a result depend.

use super::KernelInfo;
use super::candidate::{Entry, Way, takes_any_view};
use crate::{DType, Element};
use std::fmt;

/// The order in which a kernel adds the products of an output. Kernels of an op with the same order
/// give the same bits. It does not matter which products with zero they leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SumOrder {
    /// Fused multiply-adds along (tap, channel), one after the other.
    Chain,
    /// Fused multiply-adds along (tap, channel). The taps of a row are sorted by their remainder
    /// modulo this number.
    ChainByPhases(usize),
    /// Fused multiply-adds along (tap, channel). The taps of a phase of a transposed convolution go
    /// from the last to the first.
    ReversedChain,
    /// Tensor cores along (tap, channel).
    TensorCores,
    /// Tensor cores along (tap, channel), with operands rounded to tf32.
    Tf32,
    /// Tensor cores along (tap, channel), in this number of sums that are added at the end.
    Slices(usize),
    /// Tensor cores along (chunk of 64 bytes of channels, tap, channel within the chunk).
    ChannelChunks,
    /// Tensor cores along the slots of narrow groups.
    Slots,
    /// Tensor cores along the bands of large depthwise kernels.
    Bands,
    /// The samples of a bin of a RoI, row by row.
    SampleRows,
    /// The samples of a bin of a RoI, square by square.
    SampleSquares,
    /// The pixels of a window: each thread of a block adds some, then the block adds pairwise.
    Pairwise,
    /// The op adds nothing, or all its kernels add in the same order.
    Only,
    /// Several launches, each with an order of its own.
    OfLaunches,
}

impl SumOrder {
    /// The order of an implicit GEMM along (tap, channel).
    pub fn of_gemm(kernel: &KernelInfo) -> Self {
        match (kernel.dtype, kernel.axes.math) {
            (_, Some(_)) => SumOrder::Tf32,
            (Some(DType::F32), None) => SumOrder::Chain,
            _ => SumOrder::TensorCores,
        }
    }
}

impl fmt::Display for SumOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SumOrder::Chain => f.write_str("multiply-adds along (tap, channel)"),
            SumOrder::ChainByPhases(phases) => write!(f, "multiply-adds along (row, column modulo {phases}, column)"),
            SumOrder::ReversedChain => f.write_str("multiply-adds along (tap, channel), the last tap first"),
            SumOrder::TensorCores => f.write_str("tensor cores along (tap, channel)"),
            SumOrder::Tf32 => f.write_str("tensor cores along (tap, channel), in tf32"),
            SumOrder::Slices(slices) => write!(f, "tensor cores along (tap, channel), in {slices} sums"),
            SumOrder::ChannelChunks => f.write_str("tensor cores along (64 bytes of channels, tap, channel)"),
            SumOrder::Slots => f.write_str("tensor cores along (row, column, 4 channels)"),
            SumOrder::Bands => f.write_str("tensor cores along (row, column)"),
            SumOrder::SampleRows => f.write_str("rows of samples"),
            SumOrder::SampleSquares => f.write_str("squares of 16 x 16 samples"),
            SumOrder::Pairwise => f.write_str("pixels by threads, then pairwise"),
            SumOrder::Only => f.write_str("the only order"),
            SumOrder::OfLaunches => f.write_str("the orders of several launches"),
        }
    }
}

/// Rejects all entries for a batch that do not add in one order, and returns that order. It is the
/// order of the cheapest entry for one image (or one RoI), `alone`, among the orders in which some
/// entry takes views of any alignment. So it depends on neither the batch nor the views. `None` if
/// no order has such an entry.
pub(crate) fn keep_one_order<T: Element, C>(entries: &mut [Entry<C>], alone: &[Entry<C>]) -> Option<SumOrder> {
    let orders = alone.iter().filter_map(|entry| match entry.verdict.as_ref().ok()? {
        (estimate, Way::Kernel(kernel, config)) => {
            Some((entry.name, estimate.seconds, config.order, takes_any_view::<T>(kernel, config.alignment)))
        }
        (estimate, Way::Launches) => Some((entry.name, estimate.seconds, SumOrder::OfLaunches, true)),
    });
    let orders: Vec<_> = orders.collect();
    let takes_all = |order: SumOrder| orders.iter().any(|&(_, _, other, any_view)| any_view && other == order);
    let cheapest = orders.iter().filter(|(_, _, order, _)| takes_all(*order)).min_by(|a, b| a.1.total_cmp(&b.1));
    let order = cheapest.map(|&(_, _, order, _)| order);
    for entry in entries.iter_mut().filter(|entry| entry.verdict.is_ok()) {
        let own = orders.iter().find(|(name, ..)| *name == entry.name).map(|&(_, _, order, _)| order);
        if own.is_none() || own != order {
            let [own, order] = [own, order].map(|order| order.map_or("an unknown order".into(), |order| order.to_string()));
            entry.verdict = Err(format!("it sums by {own}, batch-invariant plans of this layer by {order}"));
        }
    }
    order
}
