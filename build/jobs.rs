//! Compilers side by side, as many as cargo allows.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Cargo's jobserver, which bounds what all of its compilers together may start.
pub struct Jobs(Option<jobserver::Client>);

impl Jobs {
    /// To be called first of all.
    pub fn new() -> Self {
        // SAFETY: called first of all, so that the program has opened nothing that the descriptors in cargo's variables could be
        // taken for
        Self(unsafe { jobserver::Client::from_env() })
    }

    /// How many may run at once.
    pub fn limit() -> usize {
        std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
    }

    /// Says that so many files, of some seconds each, are about to be compiled, when that is long. Cargo shows a build script's
    /// warnings when it has ended, and until then nothing: a terminal is told at once.
    pub fn announce(files: usize, what: &str, seconds: f64, cache: &Path) {
        let minutes = files as f64 * seconds / Self::limit() as f64 / 60.0;
        if minutes < 0.5 {
            return;
        }
        let message = format!(
            "warpconv compiles {files} files of kernels {what}: about {minutes:.0} min on {} cores, once; {} keeps the result for other builds",
            Self::limit(),
            cache.display()
        );
        println!("cargo::warning={message}");
        if std::env::var("CARGO_TERM_QUIET").is_ok_and(|quiet| quiet == "true") {
            return;
        }
        if let Ok(mut terminal) = std::fs::File::options().write(true).open("/dev/tty") {
            let _ = write!(terminal, "\r\x1b[K{message}\n");
        }
    }

    /// Does all of the work in this order, or stops at the first error.
    pub fn run<T: Sync>(&self, work: &[T], act: impl Fn(&T) -> Result<(), String> + Sync) -> Result<(), String> {
        let (next, failed, error) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let take = || work.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !failed.load(Ordering::Relaxed));
        let worker = |index: usize| {
            while next.load(Ordering::Relaxed) < work.len() {
                // the first worker has the token that cargo gave this program
                let _token = self.0.as_ref().filter(|_| index > 0).map(jobserver::Client::acquire);
                let Some(item) = take() else { break };
                if let Err(message) = act(item) {
                    failed.store(true, Ordering::Relaxed);
                    error.lock().expect("nobody panics with it").get_or_insert(message);
                }
            }
        };
        std::thread::scope(|scope| {
            for index in 1..Self::limit().min(work.len()) {
                scope.spawn(move || worker(index));
            }
            worker(0);
        });
        error.into_inner().expect("nobody panics with it").map_or(Ok(()), Err)
    }
}
