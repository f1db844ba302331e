//! The work that uses some memory: freeing and reading the memory wait for that work, and for no
//! other.

use super::Stream;
#[cfg(feature = "cuda")]
use super::{StreamKind, cuda::Streams};
use std::sync::atomic::{AtomicU8, Ordering};
#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

/// Whose work uses memory, beside what was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Others {
    /// Nobody's.
    Nobody,
    /// Work of this crate on any stream: packed weights, which many plans share.
    ThisCrate,
    /// Work of other libraries, which this crate does not see.
    Anyone,
}

/// The streams on which work uses some memory. A use is recorded after its work was queued and
/// before the borrow of the memory ends, so that whoever frees the memory knows all of them.
#[derive(Debug)]
pub(crate) struct Uses {
    #[cfg(feature = "cuda")]
    streams: Mutex<Streams>,
    others: AtomicU8,
}

impl Uses {
    pub fn new(others: Others) -> Self {
        Self {
            #[cfg(feature = "cuda")]
            streams: Mutex::default(),
            others: AtomicU8::new(others as u8),
        }
    }

    /// Records that work on this stream uses the memory. The work is queued already.
    pub fn record(&self, stream: &Stream) {
        #[cfg(feature = "cuda")]
        if let StreamKind::Cuda(stream) = &stream.kind {
            if Streams::can_hold(stream) { self.streams().add(stream) } else { self.record_anyone() }
        }
        #[cfg(not(feature = "cuda"))]
        let _ = stream;
    }

    /// Records that code which this crate does not know may use the memory from now on.
    pub fn record_anyone(&self) {
        self.others.store(Others::Anyone as u8, Ordering::Relaxed);
    }

    #[cfg(feature = "cuda")]
    pub fn others(&self) -> Others {
        let all = [Others::Nobody, Others::ThisCrate, Others::Anyone];
        all[usize::from(self.others.load(Ordering::Relaxed)).min(2)]
    }

    #[cfg(feature = "cuda")]
    pub fn streams(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
