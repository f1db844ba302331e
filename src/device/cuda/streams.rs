//! Sets of streams on which work is under way.

use super::driver::is_capturing;
use cudarc::driver::{CudaStream, sys};
use std::sync::Arc;

/// The number of streams from which on those that have nothing to do are dropped from a set.
const MANY: usize = 16;

/// A set of streams, each with the number of times that it was added.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    known: Vec<(Arc<CudaStream>, u64)>,
    /// The size at which idle streams are dropped again.
    prune_at: usize,
}

impl Streams {
    /// Whether a stream means the same to every thread. The handle of the per-thread default stream
    /// does not: each thread has another stream under it.
    pub fn can_hold(stream: &CudaStream) -> bool {
        stream.cu_stream() as usize != PER_THREAD
    }

    /// Adds a stream, after work was queued on it.
    pub fn add(&mut self, stream: &Arc<CudaStream>) {
        if let Some((_, times)) = self.known.iter_mut().find(|(known, _)| known.cu_stream() == stream.cu_stream()) {
            *times += 1;
            return;
        }
        if self.known.len() >= self.prune_at.max(MANY) {
            self.known.retain(|(known, _)| !is_idle(known));
            self.prune_at = 2 * self.known.len();
        }
        self.known.push((stream.clone(), 1));
    }

    /// The streams as they are now.
    pub fn now(&self) -> Vec<(Arc<CudaStream>, u64)> {
        self.known.clone()
    }

    /// Removes streams that were waited for, unless they were added again since [`Streams::now`].
    pub fn forget(&mut self, waited: &[(Arc<CudaStream>, u64)]) {
        let same = |a: &(Arc<CudaStream>, u64), b: &(Arc<CudaStream>, u64)| a.0.cu_stream() == b.0.cu_stream() && a.1 == b.1;
        self.known.retain(|known| !waited.iter().any(|waited| same(known, waited)));
    }
}

/// The handle by which each thread calls its own default stream.
const PER_THREAD: usize = 2;

/// Whether a stream has done all its work. A stream that is being captured may not be asked.
fn is_idle(stream: &CudaStream) -> bool {
    // SAFETY: the stream is alive
    matches!(is_capturing(stream), Ok(false)) && unsafe { sys::cuStreamQuery(stream.cu_stream()) } == sys::CUresult::CUDA_SUCCESS
}
