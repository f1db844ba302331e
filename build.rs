//! Compiles the kernels: with the host's C++ compiler (feature `host`) and with nvcc (feature `cuda`), both from the entries
//! that kernels/manifest.toml lists. Writes to OUT_DIR only.

#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/cuda.rs"]
mod cuda;
#[cfg_attr(not(feature = "host"), allow(dead_code))]
#[path = "build/host.rs"]
mod host;
#[path = "build/manifest.rs"]
mod manifest;

use manifest::Manifest;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where things are and what is wanted.
struct Build {
    kernels: PathBuf,
    out: PathBuf,
    /// "warpconv_0_1_0_": in front of every symbol, so that two versions of the crate can be linked into one program.
    prefix: String,
}

/// Whether a cargo feature of the crate is on.
fn feature(name: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase().replace('-', "_"))).is_some()
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn run() -> Result<(), String> {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=build.rs");
    let build = Build {
        kernels: PathBuf::from(env("CARGO_MANIFEST_DIR")).join("kernels"),
        out: PathBuf::from(env("OUT_DIR")),
        prefix: format!("warpconv_{}_", env("CARGO_PKG_VERSION").replace(['.', '-', '+'], "_")),
    };
    let manifest = Manifest::read(&build.kernels.join("manifest.toml"))?;
    let variants = if feature("host") { host::compile(&build, &manifest)? } else { vec![] };
    let fatbins = if feature("cuda") { cuda::compile(&build, &manifest)? } else { cuda::Fatbins::default() };
    let table = manifest.rust_table(&build, &variants, &fatbins);
    std::fs::write(build.out.join("kernels.rs"), table).map_err(|e| format!("kernels.rs: {e}"))?;
    if feature("regenerate-bindings") {
        bindings::generate(&build)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}
