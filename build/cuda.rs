//! The kernels for GPUs: one fatbin a family, compiled by nvcc.

use crate::Build;
use crate::manifest::Manifest;

/// What nvcc made.
pub struct Fatbins;

impl Fatbins {
    pub fn rust_table(&self) -> String {
        String::new()
    }
}

pub fn compile(_: &Build, _: &Manifest) -> Result<Fatbins, String> {
    Err("not yet".into())
}
