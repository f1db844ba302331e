//! Files that are written completely or not at all, and files that are read only if there is memory
//! for them.

use crate::error::{Error, Result};
use crate::memory;
use std::fs::{File, Metadata};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads a text file. A file of more than 64 MiB is refused before memory runs out: this crate
/// reads no such text.
///
/// # Errors
/// [`Error::Io`], also for a file that is not UTF-8; [`Error::Limit`].
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    const MOST: u64 = 64 << 20;
    let path = path.as_ref();
    let fail = |source| Error::Io { path: path.into(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(fail)?;
    file.take(MOST + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > MOST {
        let value = std::fs::metadata(path).map_or(0, |metadata| metadata.len()).max(MOST + 1);
        return Err(Error::Limit { what: "the size of a text file in bytes", value: value.into(), limit: MOST.into() });
    }
    Ok(text)
}

/// Reads all bytes of a file, if the machine has memory for them.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let fail = |source| Error::Io { path: path.into(), source };
    let file = File::open(path).map_err(fail)?;
    // A pipe has no length, and may never end.
    let length = file.metadata().map_err(fail)?.len();
    let mut bytes = memory::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).saturating_add(1))?;
    loop {
        let room = bytes.capacity() - bytes.len();
        if room == 0 {
            let mut longer = memory::with_capacity(2 * bytes.len())?;
            longer.extend_from_slice(&bytes);
            bytes = longer;
        } else if (&file).take(room as u64).read_to_end(&mut bytes).map_err(fail)? < room {
            return Ok(bytes);
        }
    }
}

/// Writes a file completely or not at all: into an unfinished file in the same folder, which is
/// then renamed. As [`write_pieces`].
///
/// # Errors
/// As [`write_pieces`].
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_pieces(path, |write| write(bytes))
}

/// Writes a file completely or not at all, from pieces that `fill` passes to the function that it
/// is given.
///
/// The pieces go into an unfinished file in the same folder, which gets its name when all of them
/// are on the disk. On Linux the file has no name until then, so that nothing is left of it however
/// the process ends. On other systems, and on file systems that do not support such files, it is
/// called `.warpconv-*.tmp`; what a killed process left behind is removed by the next write to the
/// folder.
///
/// An existing file keeps its permissions and, if the process may set it, its owner. A file that
/// may not be written is refused. A symbolic link stays a link; its target is written, even if it
/// does not exist yet. A file that is not regular (a pipe, `/dev/stdout`) is written directly.
///
/// # Errors
/// [`Error::Io`], and errors of `fill`. A file that existed before is then unchanged.
pub fn write_pieces(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let fail = |source| Error::Io { path: path.into(), source };
    let all_into = |file: &File| {
        let mut file = BufWriter::new(file);
        fill(&mut |bytes| file.write_all(bytes).map_err(fail))?;
        file.flush().map_err(fail)
    };
    let (target, before) = match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return all_into(&File::options().write(true).open(path).map_err(fail)?),
        Ok(metadata) => (path.canonicalize().map_err(fail)?, Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => (follow_links(path).map_err(fail)?, None),
        Err(error) => return Err(fail(error)),
    };
    if let Some(before) = &before {
        if before.permissions().readonly() {
            return Err(fail(std::io::Error::new(ErrorKind::PermissionDenied, "the file is read-only")));
        }
        // Renaming a file over another needs permission to write the folder only, so the file's own
        // is checked here.
        File::options().write(true).open(&target).map_err(fail)?;
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    remove_left_over(folder);
    let unfinished = Unfinished::new(folder).map_err(fail)?;
    all_into(&unfinished.file)?;
    unfinished.finish(&target, folder, before.as_ref()).map_err(fail)
}

/// The path that a path without an existing file stands for: its own, or the target of its last
/// link.
fn follow_links(path: &Path) -> std::io::Result<PathBuf> {
    const MOST: usize = 40;
    let mut target = path.to_path_buf();
    for _ in 0..MOST {
        match target.read_link() {
            Ok(link) => target = target.parent().unwrap_or(Path::new("")).join(link),
            Err(error) if error.kind() == ErrorKind::NotFound || error.kind() == ErrorKind::InvalidInput => return Ok(target),
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other("too many symbolic links"))
}

/// The start of an unfinished file's name.
const PREFIX: &str = ".warpconv-";

/// The end of an unfinished file's name.
const SUFFIX: &str = ".tmp";

/// A file that is not visible yet. It is locked, which distinguishes it from files that a killed
/// process left behind.
struct Unfinished {
    file: File,
    /// The name; `None` as long as the file has none.
    name: Option<PathBuf>,
}

impl Unfinished {
    fn new(folder: &Path) -> std::io::Result<Self> {
        if let Some(file) = Self::nameless(folder) {
            let _ = file.try_lock();
            return Ok(Self { file, name: None });
        }
        loop {
            let name = Self::unused_name(folder);
            let file = match File::options().write(true).create_new(true).open(&name) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            let _ = file.try_lock();
            // Another process may have removed it as a left-over before it was locked.
            if name.exists() {
                return Ok(Self { file, name: Some(name) });
            }
        }
    }

    /// A file that is in the folder, but has no name.
    #[cfg(target_os = "linux")]
    fn nameless(folder: &Path) -> Option<File> {
        use rustix::fs::{Mode, OFlags, open};
        let (flags, mode) = (OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
        // The file is given a name through /proc.
        Path::new("/proc/self/fd").exists().then(|| open(folder, flags, mode).ok().map(File::from)).flatten()
    }

    #[cfg(not(target_os = "linux"))]
    fn nameless(_: &Path) -> Option<File> {
        None
    }

    fn unused_name(folder: &Path) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        folder.join(format!("{PREFIX}{}-{}{SUFFIX}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Gives the file a name, if it has none.
    fn named(&mut self, folder: &Path) -> std::io::Result<&Path> {
        #[cfg(target_os = "linux")]
        while self.name.is_none() {
            use rustix::fs::{AtFlags, CWD, linkat};
            use std::os::fd::AsRawFd;
            let (own, name) = (format!("/proc/self/fd/{}", self.file.as_raw_fd()), Self::unused_name(folder));
            match linkat(CWD, own, CWD, &name, AtFlags::SYMLINK_FOLLOW) {
                Ok(()) => self.name = Some(name),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let _ = folder;
        self.name.as_deref().ok_or_else(|| std::io::Error::other("the file has no name"))
    }

    /// Moves the file to `target`, with the permissions and the owner that `target` had `before`.
    fn finish(mut self, target: &Path, folder: &Path, before: Option<&Metadata>) -> std::io::Result<()> {
        if let Some(before) = before {
            #[cfg(unix)]
            {
                use std::os::unix::fs::{MetadataExt, fchown};
                // Only root may change the owner of a file. A user may always set a group of their
                // own.
                let _ = fchown(&self.file, Some(before.uid()), Some(before.gid()));
            }
            self.file.set_permissions(before.permissions())?;
        }
        self.file.sync_all()?;
        std::fs::rename(self.named(folder)?, target)?;
        self.name = None;
        // The name is on the disk when the folder is. Not every system can report that.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Removes unfinished files that no process is writing any more. If that fails, they do no harm.
fn remove_left_over(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if ours
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && File::options().write(true).open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_whole_files_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert!(write(folder.path(), b"x").is_err());
        assert!(write(folder.path().join("none").join("a"), b"x").is_err());
        #[cfg(unix)]
        {
            use std::os::unix::fs::{PermissionsExt, symlink};
            let link = folder.path().join("link");
            symlink(&path, &link).unwrap();
            write(&link, b"third").unwrap();
            assert!(link.is_symlink());
            assert_eq!(std::fs::read(&path).unwrap(), b"third");
            let plain = folder.path().join("plain");
            std::fs::write(&plain, b"").unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode(), std::fs::metadata(&plain).unwrap().permissions().mode());
        }
        assert_eq!(left(folder.path()), [""; 0]);
    }

    /// The names of unfinished files.
    fn left(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(PREFIX)).collect()
    }

    #[test]
    fn a_failure_in_the_middle_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"before").unwrap();
        let error = write_pieces(&path, |write| {
            write(b"half")?;
            assert_eq!(std::fs::read(&path).unwrap(), b"before");
            if cfg!(target_os = "linux") {
                assert_eq!(left(folder.path()), [""; 0], "a killed process leaves nothing");
            }
            Err(Error::MissingFeature { feature: "x" })
        });
        assert!(matches!(error, Err(Error::MissingFeature { .. })));
        assert_eq!((std::fs::read(&path).unwrap(), left(folder.path())), (b"before".to_vec(), vec![]));
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_another_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let plant = |name: &str| File::create(folder.path().join(name)).unwrap();
        for name in [".warpconv-1-0.tmp", ".warpconv-mine", "warpconv-1.tmp"] {
            plant(name);
        }
        let busy = plant(".warpconv-2-0.tmp");
        busy.lock().unwrap();
        write(folder.path().join("a"), b"x").unwrap();
        let mut names = left(folder.path());
        names.sort();
        assert_eq!(names, [".warpconv-2-0.tmp", ".warpconv-mine"]);
        assert!(folder.path().join("warpconv-1.tmp").exists());
    }

    /// Behaves as a file system that does not support files without a name.
    #[test]
    fn a_file_with_a_name_from_the_beginning_is_finished_too() {
        let folder = tempfile::tempdir().unwrap();
        let make = || {
            let name = Unfinished::unused_name(folder.path());
            Unfinished { file: File::create_new(&name).unwrap(), name: Some(name) }
        };
        drop(make());
        assert_eq!(left(folder.path()), [""; 0]);
        make().finish(&folder.path().join("a"), folder.path(), None).unwrap();
        assert!(folder.path().join("a").exists() && left(folder.path()).is_empty());
    }

    #[test]
    #[cfg(unix)]
    fn permissions_and_links_are_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mode = |name: &str| std::fs::metadata(path(name)).unwrap().permissions().mode() & 0o7777;
        for bits in [0o600, 0o640, 0o755] {
            write(path("a"), b"1").unwrap();
            std::fs::set_permissions(path("a"), PermissionsExt::from_mode(bits)).unwrap();
            write(path("a"), b"2").unwrap();
            assert_eq!((mode("a"), std::fs::read(path("a")).unwrap()), (bits, b"2".to_vec()));
        }
        std::fs::set_permissions(path("a"), PermissionsExt::from_mode(0o444)).unwrap();
        let error = write(path("a"), b"3").unwrap_err().to_string();
        assert!(error.contains("read-only"), "{error}");
        assert_eq!((mode("a"), std::fs::read(path("a")).unwrap()), (0o444, b"2".to_vec()));

        symlink("later", path("link")).unwrap();
        symlink(path("link"), path("link to it")).unwrap();
        write(path("link to it"), b"4").unwrap();
        assert!(path("link").is_symlink() && path("link to it").is_symlink() && !path("later").is_symlink());
        assert_eq!(std::fs::read(path("later")).unwrap(), b"4");
        symlink("nowhere/b", path("astray")).unwrap();
        assert!(matches!(write(path("astray"), b"5"), Err(Error::Io { .. })) && path("astray").is_symlink());
        symlink("round", path("round")).unwrap();
        assert!(matches!(write(path("round"), b"6"), Err(Error::Io { .. })) && path("round").is_symlink());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn endless_files_are_refused() {
        let error = read_text("/dev/zero").unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
}
