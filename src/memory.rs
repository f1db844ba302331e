//! Host memory whose size depends on user input. If there is not enough, the result is an
//! [`Error::OutOfMemory`], never an abort of the process.
//!
//! `Vec` ends the process when an allocation fails. Linux, moreover, grants more memory than there
//! is, and kills the process when it writes to it. So sizes are first compared with what the
//! machine has left, and then allocated in a way that may fail.

use crate::error::{Error, Result};

/// Sizes below this number of bytes are not compared with what the machine has left, since that
/// takes tens of microseconds.
const ALWAYS: usize = 16 << 20;
/// Bytes that are reserved for everything else that the process and the machine do.
const RESERVE: usize = 128 << 20;

fn refuse(bytes: usize, message: String) -> Error {
    Error::OutOfMemory { bytes, device: "the host".into(), message }
}

/// Refuses `bytes` bytes if that is more than the machine has left.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn check(bytes: usize) -> Result<()> {
    if bytes < ALWAYS {
        return Ok(());
    }
    match available() {
        Some(left) if bytes > left.saturating_sub(RESERVE) => Err(refuse(bytes, format!("the machine has {left} bytes left"))),
        _ => Ok(()),
    }
}

/// The bytes that the process can still use without being killed, according to the machine and to
/// the control group of a container. `None` if the system does not say.
#[cfg(target_os = "linux")]
fn available() -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |path: &str| read(path)?.trim().parse::<usize>().ok();
    let meminfo = read("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.saturating_mul(1024);
    // Inside a container, its own control group is mounted as the root. Its caches can be dropped;
    // `inactive_file` counts them.
    let group = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current")).map(|(most, used)| {
        let stat = read("/sys/fs/cgroup/memory.stat").unwrap_or_default();
        let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")).and_then(|bytes| bytes.parse::<usize>().ok());
        most.saturating_sub(used.saturating_sub(cache.unwrap_or_default()))
    });
    Some(group.map_or(machine, |group| machine.min(group)))
}

#[cfg(not(target_os = "linux"))]
fn available() -> Option<usize> {
    None
}

/// An empty vector with room for `len` elements.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn with_capacity<V>(len: usize) -> Result<Vec<V>> {
    let bytes = len.saturating_mul(size_of::<V>());
    check(bytes)?;
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|error| refuse(bytes, error.to_string()))?;
    Ok(values)
}

/// A vector of `len` copies of a value.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn filled<V: Clone>(len: usize, value: V) -> Result<Vec<V>> {
    let mut values = with_capacity(len)?;
    values.resize(len, value);
    Ok(values)
}

/// A vector of the items of an iterator whose length is known.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn collect<V>(items: impl ExactSizeIterator<Item = V>) -> Result<Vec<V>> {
    let mut values = with_capacity(items.len())?;
    values.extend(items);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        for len in [1usize << 40, 1 << 60, usize::MAX] {
            assert!(matches!(filled(len, 1.0f32), Err(Error::OutOfMemory { .. })), "{len}");
            assert!(matches!(with_capacity::<u64>(len), Err(Error::OutOfMemory { .. })), "{len}");
        }
        assert_eq!(filled(3, 7u8).unwrap(), [7; 3]);
        assert_eq!(collect([1, 2].iter().map(|v| v * 2)).unwrap(), [2, 4]);
        assert!(with_capacity::<u8>(0).unwrap().is_empty());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_machine_says_what_it_has_left() {
        let left = available().unwrap();
        assert!(left > 1 << 20 && left < 1 << 50, "{left}");
        assert!(check(left.saturating_mul(2)).is_err());
    }
}
