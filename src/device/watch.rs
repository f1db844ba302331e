//! A record of what a device is working on, so that a program can name the kernel that crashed a
//! GPU or hangs on it.

use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The number of names that are remembered: more than the launches of any layer.
const MOST: usize = 6;
/// The length of the line in a trace file, in bytes: longer than any kernel's name.
const TRACE_LINE: usize = 120;

/// A device's launches that no wait has covered yet, and whether the device is lost.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    state: Mutex<State>,
    /// A number that grows with every launch and with every wait that ends.
    steps: AtomicU64,
    lost: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Kernels launched since the last wait, each once, the latest last.
    under_way: Vec<&'static str>,
    trace: Option<File>,
    lost: Option<Lost>,
}

#[derive(Debug)]
struct Lost {
    kernel: String,
    call: &'static str,
    code: u32,
    message: String,
}

impl Lost {
    fn error(&self) -> Error {
        Error::DeviceLost { kernel: self.kernel.clone(), call: self.call, code: Some(self.code), message: self.message.clone() }
    }
}

impl Watch {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on writes the name of the running kernel into this file, as one line that is
    /// overwritten before each launch.
    pub fn trace(&self, path: &Path) -> Result<()> {
        let file = File::create(path).map_err(|source| Error::Io { path: path.into(), source })?;
        self.state().trace = Some(file);
        Ok(())
    }

    /// Records that a launch is about to be queued.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when the device is lost already.
    pub fn launching(&self, kernel: &'static str) -> Result<()> {
        self.alive()?;
        let mut state = self.state();
        if state.under_way.last() != Some(&kernel) {
            state.under_way.retain(|&name| name != kernel);
            if state.under_way.len() == MOST {
                state.under_way.remove(0);
            }
            state.under_way.push(kernel);
            state.write_trace();
        }
        drop(state);
        self.steps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Records that a wait for everything that was launched has ended without an error.
    pub fn waited(&self) {
        let mut state = self.state();
        if !state.under_way.is_empty() {
            state.under_way.clear();
            state.write_trace();
        }
        drop(state);
        self.step();
    }

    /// Records progress.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that changes as long as the device makes progress, and the kernels that are
    /// running.
    pub fn under_way(&self) -> (u64, Vec<&'static str>) {
        (self.steps.load(Ordering::Relaxed), self.state().under_way.clone())
    }

    /// # Errors
    /// [`Error::DeviceLost`] when the device is lost.
    pub fn alive(&self) -> Result<()> {
        if !self.lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        match &self.state().lost {
            Some(lost) => Err(lost.error()),
            None => Ok(()),
        }
    }

    /// The error of a call after which the device cannot be used. Later failures repeat the first
    /// error.
    #[cfg(feature = "cuda")]
    pub fn lose(&self, call: &'static str, code: u32, message: String) -> Error {
        let mut state = self.state();
        let kernel = state.under_way.join(", ");
        let error = state.lost.get_or_insert(Lost { kernel, call, code, message }).error();
        self.lost.store(true, Ordering::Relaxed);
        error
    }
}

impl State {
    /// Writes the running kernels as a line of fixed length, so that a shorter name overwrites a
    /// longer one completely.
    fn write_trace(&mut self) {
        let Some(file) = &self.trace else { return };
        let line = format!("{:<width$.width$}\n", self.under_way.join(" "), width = TRACE_LINE);
        // A trace that cannot be written is not a reason to stop.
        #[cfg(unix)]
        let _ = std::os::unix::fs::FileExt::write_all_at(file, line.as_bytes(), 0);
        #[cfg(not(unix))]
        let _ = {
            use std::io::{Seek, SeekFrom, Write};
            let mut file = file;
            file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(line.as_bytes()))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_under_way_are_those_since_the_last_wait() {
        let watch = Watch::default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.txt");
        watch.trace(&path).unwrap();
        let trace = || std::fs::read_to_string(&path).unwrap();
        let steps = watch.under_way().0;
        for kernel in ["a_kernel_with_a_long_name", "b", "b", "a_kernel_with_a_long_name"] {
            watch.launching(kernel).unwrap();
        }
        assert_eq!(watch.under_way(), (steps + 4, vec!["b", "a_kernel_with_a_long_name"]));
        assert_eq!(trace().trim(), "b a_kernel_with_a_long_name");
        watch.waited();
        assert_eq!(watch.under_way(), (steps + 5, vec![]));
        assert_eq!(trace().trim(), "", "nothing is under way");
        watch.launching("c").unwrap();
        assert_eq!(trace().trim(), "c");
        assert_eq!(trace().len(), TRACE_LINE + 1);
    }
}
