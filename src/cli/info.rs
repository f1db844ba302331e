//! `warpconv info`: what this build and this machine offer, or what a layer is.

use super::{Verdict, features, print, print_json};
use serde_json::json;
use warpconv::{Device, Error, LayerSpec, Result};

const EXAMPLES: &str = "\
Examples:
  warpconv info          devices, operations, versions
  warpconv info --json   the same for scripts";

/// Show devices, operations and versions
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn execute(args: Args) -> Result<Verdict> {
    machine(args.json)?;
    Ok(Verdict::Passed)
}

/// A device that this build knows of, or why it cannot be used.
fn devices() -> Vec<(String, Result<Device>)> {
    let mut devices = vec![("host".to_string(), Device::host())];
    for ordinal in 0.. {
        let device = Device::cuda(ordinal);
        let end = device.is_err();
        // the first error says why there is no GPU at all; a later one only that there are no more
        if !end || ordinal == 0 {
            devices.push((format!("cuda:{ordinal}"), device));
        }
        if end {
            break;
        }
    }
    devices
}

fn machine(as_json: bool) -> Result<()> {
    let devices = devices();
    if as_json {
        let devices: Vec<_> = devices
            .iter()
            .map(|(name, device)| match device {
                Ok(device) => {
                    let p = device.properties();
                    json!({
                        "device": name, "name": p.name, "multiprocessors": p.multiprocessors,
                        "shared_bytes_per_block": p.shared_bytes_per_block,
                        "compute_capability": format!("{}.{}", p.compute_capability.0, p.compute_capability.1),
                    })
                }
                Err(error) => json!({ "device": name, "unavailable": error.to_string() }),
            })
            .collect();
        let features: Vec<_> = features().collect();
        return print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"), "features": features, "operations": LayerSpec::OPS, "devices": devices,
        }));
    }
    print(format_args!("warpconv {}", super::VERSION.as_str()))?;
    print(format_args!("operations: {}", LayerSpec::OPS.join(", ")))?;
    print("devices:")?;
    for (name, device) in &devices {
        match device {
            Ok(device) => print(format_args!("  {name:<8} {}", device.describe()))?,
            Err(Error::MissingFeature { feature }) => print(format_args!("  {name:<8} not in this build (feature {feature})"))?,
            Err(error) => print(format_args!("  {name:<8} {error}"))?,
        }
    }
    Ok(())
}
