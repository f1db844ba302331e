//! Clocks and the driver's version, from nvidia-smi where it is there. Settings are read, never changed.

use std::process::Command;
use std::time::Duration;
use warpconv::bench::Clocks;
use warpconv::{Device, DeviceKind};

pub struct Smi {
    /// The GPU's number, as `cuda:N`; none for the host device.
    gpu: Option<String>,
}

impl Smi {
    pub fn new(device: &Device) -> Self {
        let name = device.to_string();
        let ordinal = name.strip_prefix("cuda:").filter(|_| device.kind() == DeviceKind::Cuda).map(str::to_string);
        // nvidia-smi counts all GPUs, CUDA those that are visible
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let gpu = ordinal.map(|ordinal| {
            let index: usize = ordinal.parse().unwrap_or_default();
            visible.as_ref().and_then(|list| list.split(',').nth(index)).map_or(ordinal, |id| id.trim().to_string())
        });
        Self { gpu }
    }

    fn query(&self, fields: &str) -> Option<Vec<String>> {
        let gpu = self.gpu.as_ref()?;
        let query = [format!("--query-gpu={fields}"), "--format=csv,noheader,nounits".into(), format!("--id={gpu}")];
        let output = Command::new("nvidia-smi").args(query).output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.lines().next()?.split(',').map(|field| field.trim().to_string()).collect())
    }

    pub fn driver(&self) -> Option<String> {
        self.query("driver_version")?.into_iter().next()
    }

    pub fn clocks(&self, at: Duration) -> Option<Clocks> {
        let fields = self.query("clocks.sm,clocks.mem,temperature.gpu,power.draw")?;
        let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
        let (sm_mhz, memory_mhz) = (number(0)?, number(1)?);
        Some(Clocks { at: at.as_secs_f64(), sm_mhz, memory_mhz, celsius: number(2).unwrap_or(0.0), watts: number(3).unwrap_or(0.0) })
    }
}
