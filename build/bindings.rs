//! The parameter structs in Rust, for src/device/params.rs.

use crate::Build;

#[cfg(not(feature = "regenerate-bindings"))]
pub fn generate(_: &Build) -> Result<(), String> {
    Err("the feature regenerate-bindings is off".into())
}

#[cfg(feature = "regenerate-bindings")]
#[derive(Debug)]
struct PlainData;

#[cfg(feature = "regenerate-bindings")]
impl bindgen::callbacks::ParseCallbacks for PlainData {
    fn add_derives(&self, _: &bindgen::callbacks::DeriveInfo<'_>) -> Vec<String> {
        vec!["Pod".into(), "Zeroable".into()]
    }
}

/// Writes OUT_DIR/params.rs, which scripts/regenerate-bindings.sh puts into its place.
#[cfg(feature = "regenerate-bindings")]
pub fn generate(build: &Build) -> Result<(), String> {
    let header = |name: &str| build.kernels.join(name).to_string_lossy().into_owned();
    bindgen::Builder::default()
        .header(header("params_pixels.h")) // includes params.h
        .allowlist_file(header("params.h"))
        .allowlist_file(header("params_pixels.h"))
        .disable_header_comment()
        .raw_line("//! kernels/params*.h, mirrored by bindgen. Do not edit: run scripts/regenerate-bindings.sh.")
        .raw_line("#![allow(missing_docs, non_camel_case_types, non_upper_case_globals, dead_code)]")
        .raw_line("use bytemuck::{Pod, Zeroable};")
        .derive_default(true)
        .generate_comments(false)
        .parse_callbacks(Box::new(PlainData))
        .rust_edition(bindgen::RustEdition::Edition2024)
        .generate()
        .map_err(|e| e.to_string())?
        .write_to_file(build.out.join("params.rs"))
        .map_err(|e| e.to_string())
}
