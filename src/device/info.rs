//! A device as files of measured times describe it.

use super::{Device, DeviceKind};
use serde::{Deserialize, Serialize};

/// The device on which times were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// "cuda" or "host".
    pub kind: String,
    /// As the driver names it.
    pub name: String,
    /// Streaming multiprocessors, or worker threads.
    pub multiprocessors: u32,
    /// Compute capability; of the host device: the one that it imitates.
    pub compute_capability: (u32, u32),
    /// Bytes of L2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<usize>,
    /// The driver's version, from nvidia-smi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

impl DeviceInfo {
    /// What is known of a device without nvidia-smi.
    pub fn of(device: &Device) -> Self {
        let properties = device.properties();
        Self {
            kind: device.kind().name().into(),
            name: properties.name.clone(),
            multiprocessors: properties.multiprocessors,
            compute_capability: properties.compute_capability,
            cache_bytes: device.cache_bytes(),
            driver: None,
        }
    }

    /// What times on a device are.
    pub(crate) fn label(device: &Device) -> String {
        match device.kind() {
            DeviceKind::Cuda => format!("measured on {}", device.properties().name),
            DeviceKind::Host => "HOST DEVICE: the kernels interpreted on a CPU; these times say nothing of a GPU".into(),
        }
    }
}
