//! Watches over a command that runs many kernels. A kernel that does not end on a GPU, a lost
//! device, and SIGTERM or SIGINT end the command, and everything found so far is printed.

use super::{Verdict, note};
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use warpconv::{Device, DeviceKind, Error, Result};

/// The options `--watchdog`, `--trace` and `--skip`, for commands that run many kernels.
#[derive(Debug, Clone, clap::Args)]
pub struct KeeperArgs {
    /// End with exit code 3 when no kernel has ended on a GPU for this many seconds; 0 waits
    /// forever
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    watchdog: f64,
    /// Keep the name of the running kernel in this file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Run no kernel of this name; may be given several times
    #[arg(long, value_name = "KERNEL")]
    skip: Vec<String>,
}

/// Why a command ends.
#[derive(Debug, Clone, Copy)]
pub enum Ending<'a> {
    /// The command has done everything.
    Done,
    /// The device was lost.
    Lost(&'a Error),
    /// A signal of this number ended it.
    Signal(usize),
}

impl<'a> Ending<'a> {
    /// The error that tells of the device's loss, if it was lost.
    pub fn lost(self) -> Option<&'a Error> {
        if let Ending::Lost(error) = self { Some(error) } else { None }
    }

    /// The lines that say why the command ended early, if it did: what was running, and for a lost
    /// device the command that repeats it.
    pub fn headline(self, under_way: &str, repeat: impl Display) -> Option<String> {
        match self {
            Ending::Done => None,
            Ending::Lost(error) => Some(format!("DEVICE LOST in {under_way}: {error}\n  repeat: {repeat}")),
            Ending::Signal(number) => Some(format!("CUT OFF in {under_way}: {}", Signal(number))),
        }
    }

    /// The verdict with which the program ends, if `verdict` is that of what was found.
    pub fn verdict(self, verdict: Verdict) -> Verdict {
        match self {
            Ending::Done => verdict,
            Ending::Lost(_) => Verdict::Lost,
            Ending::Signal(_) => Verdict::Failed,
        }
    }
}

/// A signal, to be printed as words.
pub struct Signal(pub usize);

impl Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SIGINT => f.write_str("SIGINT"),
            SIGTERM => f.write_str("SIGTERM"),
            other => write!(f, "signal {other}"),
        }
    }
}

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
/// The exit code of a program that a signal ended is this plus the signal's number, as in shells.
const EXIT_SIGNAL: usize = 128;

/// What a command has found so far. It can be printed at any moment.
pub trait Findings: Send + 'static {
    /// Prints and saves everything, after the reason if the command ends early.
    ///
    /// # Errors
    /// When it cannot be printed or saved.
    fn tell(&mut self, ending: Ending<'_>) -> Result<Verdict>;
}

impl KeeperArgs {
    /// The `--skip` options as a user would type them, preceded by a space.
    pub fn options(&self) -> String {
        self.skip.iter().map(|kernel| format!(" --skip {kernel}")).collect()
    }

    /// Whether a kernel is left out.
    pub fn skips(&self, kernel: &str) -> bool {
        self.skip.iter().any(|name| name == kernel)
    }

    /// Starts to watch. Code that changes the findings must hold their lock only for the change,
    /// and must not run a kernel meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`] when the trace cannot be written; [`Error::Attribute`].
    pub fn watch<F: Findings>(&self, device: &Device, findings: F) -> Result<Arc<Mutex<F>>> {
        device.leave_out(self.skip.iter().cloned())?;
        if let Some(path) = &self.trace {
            device.trace(path)?;
        }
        let patience = Duration::try_from_secs_f64(self.watchdog).map_err(|_| Error::Attribute {
            name: "--watchdog",
            value: self.watchdog.to_string(),
            requirement: "a number of seconds, 0 or more",
        })?;
        let findings = Arc::new(Mutex::new(findings));
        let signals = Signals::watch()?;
        let patience = Some(patience).filter(|patience| device.kind() == DeviceKind::Cuda && !patience.is_zero());
        let (weak, device) = (Arc::downgrade(&findings), device.clone());
        std::thread::spawn(move || {
            let end = |ending: Ending<'_>, code: usize| {
                let Some(findings) = weak.upgrade() else { return };
                if let Ok(mut findings) = findings.lock()
                    && let Err(error) = findings.tell(ending)
                {
                    note(format_args!("error: {error}"));
                }
                leave(code);
            };
            let (mut last, mut since) = (device.under_way().0, Instant::now());
            // as long as the command has its findings
            while weak.strong_count() > 0 {
                std::thread::sleep(Duration::from_millis(20));
                if let Some(signal) = signals.caught() {
                    end(Ending::Signal(signal), EXIT_SIGNAL + signal);
                }
                let Some(patience) = patience else { continue };
                let (steps, kernels) = device.under_way();
                if steps != last || kernels.is_empty() {
                    (last, since) = (steps, Instant::now());
                } else if since.elapsed() >= patience {
                    let message = format!("no kernel has ended for {} s", patience.as_secs_f64());
                    let hang = Error::DeviceLost { kernel: kernels.join(", "), call: "the wait for a kernel", code: None, message };
                    end(Ending::Lost(&hang), super::EXIT_LOST.into());
                }
            }
        });
        Ok(findings)
    }
}

/// SIGTERM and SIGINT while a command has findings. A second SIGINT, and every signal before or
/// after that time, has its usual effect. A second SIGTERM has none, since `timeout` sends it to
/// the program and to its group of processes.
struct Signals {
    /// The number of the signal that was caught, or 0.
    #[cfg(unix)]
    caught: Arc<std::sync::atomic::AtomicUsize>,
    #[cfg(unix)]
    usual: Arc<std::sync::atomic::AtomicBool>,
}

impl Signals {
    #[cfg(unix)]
    fn watch() -> Result<Self> {
        let signals = Self { caught: Arc::default(), usual: Arc::default() };
        let fail = |source| Error::Io { path: "the handler of signals".into(), source };
        for signal in [SIGINT, SIGTERM] {
            use signal_hook::flag;
            let number = signal as i32;
            flag::register_conditional_default(number, signals.usual.clone()).map_err(fail)?;
            if signal == SIGINT {
                flag::register(number, signals.usual.clone()).map_err(fail)?;
            }
            flag::register_usize(number, signals.caught.clone(), signal).map_err(fail)?;
        }
        Ok(signals)
    }

    #[cfg(not(unix))]
    fn watch() -> Result<Self> {
        Ok(Self {})
    }

    fn caught(&self) -> Option<usize> {
        #[cfg(unix)]
        return Some(self.caught.load(std::sync::atomic::Ordering::Relaxed)).filter(|&signal| signal > 0);
        #[cfg(not(unix))]
        None
    }
}

#[cfg(unix)]
impl Drop for Signals {
    fn drop(&mut self) {
        self.usual.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Ends the program even if the main thread hangs in the driver.
fn leave(code: usize) -> ! {
    // an exit would run the driver's own handlers, which wait for the kernel: a program that takes
    // this one's place does not
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let _ = std::process::Command::new("/bin/sh").args(["-c", &format!("exit {code}")]).exec();
    }
    std::process::exit(code as i32)
}
