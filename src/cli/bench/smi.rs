//! Clocks and the driver's version, read from nvidia-smi if it is there. Settings are never
//! changed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use warpconv::bench::Clocks;
use warpconv::{Device, DeviceKind};

pub struct Smi {
    /// The GPU's number, as in `cuda:N`. `None` for the host device.
    gpu: Option<String>,
}

impl Smi {
    pub fn new(device: &Device) -> Self {
        let name = device.to_string();
        let ordinal = name.strip_prefix("cuda:").filter(|_| device.kind() == DeviceKind::Cuda).map(str::to_string);
        // nvidia-smi counts all GPUs, CUDA only those that are visible.
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let gpu = ordinal.map(|ordinal| {
            let index: usize = ordinal.parse().unwrap_or_default();
            visible.as_ref().and_then(|list| list.split(',').nth(index)).map_or(ordinal, |id| id.trim().to_string())
        });
        Self { gpu }
    }

    fn command(&self, fields: &str) -> Option<Command> {
        let gpu = self.gpu.as_ref()?;
        let mut command = Command::new("nvidia-smi");
        command.args([format!("--query-gpu={fields}"), "--format=csv,noheader,nounits".into(), format!("--id={gpu}")]);
        Some(command)
    }

    pub fn driver(&self) -> Option<String> {
        let output = self.command("driver_version")?.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_string())
    }

    /// Starts to sample clocks, temperature and power in the background. `None` if there is no
    /// nvidia-smi or no GPU.
    pub fn sampler(&self) -> Option<Sampler> {
        const EVERY_MILLISECONDS: &str = "500";
        let mut command = self.command("clocks.sm,clocks.mem,temperature.gpu,power.draw")?;
        command.args(["-lms", EVERY_MILLISECONDS]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let (output, start, samples) = (child.stdout.take()?, Instant::now(), Arc::new(Mutex::new(Vec::new())));
        let theirs = samples.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(clocks) = clocks(start.elapsed().as_secs_f64(), &line) {
                    theirs.lock().unwrap_or_else(PoisonError::into_inner).push(clocks);
                }
            }
        });
        Some(Sampler { child, samples })
    }
}

/// Reads a line of nvidia-smi.
fn clocks(at: f64, line: &str) -> Option<Clocks> {
    let fields: Vec<Option<f64>> = line.split(',').map(|field| field.trim().parse().ok()).collect();
    let field = |index: usize| fields.get(index).copied().flatten();
    Some(Clocks { at, sm_mhz: field(0)?, memory_mhz: field(1)?, celsius: field(2).unwrap_or(0.0), watts: field(3).unwrap_or(0.0) })
}

/// A process that reads the clocks. It ends when this is dropped.
pub struct Sampler {
    child: Child,
    samples: Arc<Mutex<Vec<Clocks>>>,
}

impl Sampler {
    /// The samples read so far.
    pub fn clocks(&self) -> Vec<Clocks> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the process. An error would mean that it has ended already.
    pub fn end(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}
