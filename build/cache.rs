//! What the compilers have made, kept by content: the sources that were read, the flags and the compiler's version. Builds that
//! differ in profile, features or folder find what another one has compiled.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

/// What the cache may hold, in bytes: above, what was used longest ago goes.
const LIMIT: u64 = 1 << 30;

/// The FNV-1a hash of 128 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(u128);

impl Digest {
    pub fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// With these bytes and a mark that they end here.
    pub fn and(self, bytes: impl AsRef<[u8]>) -> Self {
        let step = |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        let hash = bytes.as_ref().iter().fold(self.0, |hash, &byte| step(hash, byte));
        Self(bytes.as_ref().len().to_le_bytes().iter().fold(hash, |hash, &byte| step(hash, byte)))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Files and what they include, each read once.
#[derive(Default)]
pub struct Sources(Mutex<HashMap<PathBuf, (Digest, Vec<String>)>>);

impl Sources {
    /// Of `text` and of all files that it includes, from these folders or the including file's own; the compiler's headers are in
    /// neither, and stand for themselves by its version.
    pub fn digest(&self, text: &str, folders: &[&Path]) -> io::Result<Digest> {
        let mut files = self.0.lock().expect("nobody panics with it");
        let mut digest = Digest::new().and(text);
        let mut seen: Vec<PathBuf> = vec![];
        let mut open: Vec<(Option<PathBuf>, String)> = includes(text).map(|name| (None, name)).collect();
        while let Some((folder, name)) = open.pop() {
            let mut places = folder.as_deref().into_iter().chain(folders.iter().copied()).map(|place| place.join(&name));
            let Some(path) = places.find(|path| path.is_file()) else { continue };
            let path = path.canonicalize()?;
            if seen.contains(&path) {
                continue;
            }
            if !files.contains_key(&path) {
                let text = fs::read(&path)?;
                let names = includes(&String::from_utf8_lossy(&text)).collect();
                files.insert(path.clone(), (Digest::new().and(&text), names));
            }
            let (of_file, names) = &files[&path];
            digest = digest.and(of_file.0.to_le_bytes());
            open.extend(names.iter().map(|name| (path.parent().map(PathBuf::from), name.clone())));
            seen.push(path);
        }
        Ok(digest)
    }
}

/// The names that a text includes.
fn includes(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
        let end = if rest.starts_with('<') { '>' } else { '"' };
        rest.get(1..)?.split_once(end).map(|(name, _)| name.to_string())
    })
}

/// A folder with what was made. Errors in using it only cost time, so that they are passed over.
pub struct Cache {
    folder: PathBuf,
    stored: AtomicBool,
}

impl Cache {
    /// The folder that `WARPCONV_CACHE` names, or the user's, or one in the target folder. The build's own, which no other build
    /// looks into, where the variable is empty.
    pub fn open(out: &Path) -> Self {
        println!("cargo::rerun-if-env-changed=WARPCONV_CACHE");
        let own = out.join("cache");
        let folders = match std::env::var_os("WARPCONV_CACHE") {
            Some(chosen) if chosen.is_empty() => vec![own],
            Some(chosen) => vec![chosen.into(), own],
            // OUT_DIR is target/PROFILE/build/warpconv-HASH/out
            None => {
                users_folder().into_iter().chain(out.ancestors().nth(4).map(|target| target.join("warpconv-cache"))).chain([own]).collect()
            }
        };
        // one that can be written to: a sandbox may have none for the user
        let usable = |folder: &PathBuf| {
            let probe = folder.join(format!("probe-{}", std::process::id()));
            fs::create_dir_all(folder).and_then(|()| fs::write(&probe, b"")).and_then(|()| fs::remove_file(&probe)).is_ok()
        };
        let folder = folders.into_iter().find(usable).unwrap_or_else(|| out.join("cache"));
        Self { folder, stored: AtomicBool::new(false) }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.folder.join(name);
        let mut content = fs::read(&path).ok()?;
        // what a full disk or a crash has cut short does not end in its own hash
        let end = content.split_off(content.len().checked_sub(16)?);
        if end != Digest::new().and(&content).0.to_le_bytes() {
            return None;
        }
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(content)
    }

    /// Whole or not at all, since another build may look now.
    pub fn put(&self, name: &str, content: &[u8]) {
        let part = self.folder.join(format!("{name}.{}.part", std::process::id()));
        let whole = [content, &Digest::new().and(content).0.to_le_bytes()].concat();
        if fs::write(&part, whole).and_then(|()| fs::rename(&part, self.folder.join(name))).is_err() {
            let _ = fs::remove_file(&part);
        }
        self.stored.store(true, Ordering::Relaxed);
    }

    /// Removes what was used longest ago, down to `limit` bytes.
    fn shrink(&self, limit: u64) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let about = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((about.modified().ok()?, about.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|file| file.1).sum();
        for (_, bytes, path) in files {
            if total <= limit {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if *self.stored.get_mut() {
            self.shrink(LIMIT);
        }
    }
}

fn users_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = variable("XDG_CACHE_HOME").or_else(|| variable("LOCALAPPDATA")).or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(folder.join("warpconv"))
}
