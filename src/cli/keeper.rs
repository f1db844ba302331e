//! Watches over a command while its kernels run on a GPU: a kernel that does not end, and a device that is lost, end the command with
//! all that it has found so far.

use super::{Verdict, note};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use warpconv::{Device, DeviceKind, Error, Result};

/// `--watchdog`, `--trace` and `--skip`, for the commands that run many kernels.
#[derive(Debug, Clone, clap::Args)]
pub struct KeeperArgs {
    /// End with exit code 3 when a GPU's kernel has not ended after so many seconds; 0 waits for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    watchdog: f64,
    /// Keep the name of the kernel under way in this file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Run no kernel of this name; may be given several times
    #[arg(long, value_name = "KERNEL")]
    skip: Vec<String>,
}

/// What a command has found so far. It can be told at any moment.
pub trait Findings: Send + 'static {
    /// Prints and saves everything, after what the device was lost over, if it was.
    ///
    /// # Errors
    /// When it cannot be printed or saved.
    fn tell(&mut self, lost: Option<&Error>) -> Result<Verdict>;
}

impl KeeperArgs {
    /// The same `--skip` as a user types them, a space in front of each.
    pub fn options(&self) -> String {
        self.skip.iter().map(|kernel| format!(" --skip {kernel}")).collect()
    }

    /// Begins to watch. Whoever changes the findings holds their lock no longer than that takes, and runs no kernel meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`] when the trace cannot be written; [`Error::Attribute`].
    pub fn watch<F: Findings>(&self, device: &Device, findings: F) -> Result<Arc<Mutex<F>>> {
        device.leave_out(self.skip.iter().cloned());
        if let Some(path) = &self.trace {
            device.trace(path)?;
        }
        let patience = Duration::try_from_secs_f64(self.watchdog).map_err(|_| Error::Attribute {
            name: "--watchdog",
            value: self.watchdog.to_string(),
            requirement: "a number of seconds, 0 or more",
        })?;
        let findings = Arc::new(Mutex::new(findings));
        if device.kind() == DeviceKind::Cuda && !patience.is_zero() {
            let (weak, device) = (Arc::downgrade(&findings), device.clone());
            std::thread::spawn(move || {
                let (mut last, mut since) = (device.under_way().0, Instant::now());
                // as long as the command has its findings
                while weak.strong_count() > 0 {
                    std::thread::sleep(Duration::from_millis(20));
                    let (steps, kernels) = device.under_way();
                    if steps != last || kernels.is_empty() {
                        (last, since) = (steps, Instant::now());
                    } else if since.elapsed() >= patience {
                        let Some(findings) = weak.upgrade() else { return };
                        let message = format!("no kernel has ended for {} s", patience.as_secs_f64());
                        let hang = Error::DeviceLost { kernel: kernels.join(", "), call: "the wait for a kernel", code: None, message };
                        if let Ok(mut findings) = findings.lock()
                            && let Err(error) = findings.tell(Some(&hang))
                        {
                            note(format_args!("error: {error}"));
                        }
                        leave();
                    }
                }
            });
        }
        Ok(findings)
    }
}

/// Ends the program although the main thread hangs in the driver.
fn leave() -> ! {
    // an exit would run the driver's own handlers, which wait for the kernel: a program that takes this one's place does not
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let _ = std::process::Command::new("/bin/sh").args(["-c", "exit 3"]).exec();
    }
    std::process::exit(super::EXIT_LOST.into())
}
