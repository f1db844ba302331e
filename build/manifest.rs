//! kernels/manifest.toml: its entries expanded over their axes, as C++ and as the table that Rust reads.

use crate::Build;
use crate::host::Variant;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    cpp: BTreeMap<String, BTreeMap<String, String>>,
    kernel: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    family: String,
    function: String,
    params: String,
    threads: u32,
    axes: BTreeMap<String, Vec<String>>,
    collectives: bool,
    /// Read by scripts/sass-report too.
    promise: BTreeMap<String, toml::Value>,
}

/// One entry point.
pub struct Kernel {
    /// The entry of the manifest that it is from, counted from 0.
    pub entry: usize,
    pub name: String,
    pub family: String,
    pub function: String,
    pub params: String,
    pub threads: u32,
    pub collectives: bool,
    /// The promise for which nvcc limits registers.
    pub blocks_per_sm: i64,
    pub axes: BTreeMap<String, String>,
}

pub struct Manifest {
    pub kernels: Vec<Kernel>,
    /// Where its families' files are.
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    pub folder: PathBuf,
}

impl Manifest {
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join("manifest.toml");
        let fail = |message: String| format!("{}: {message}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| fail(e.to_string()))?;
        let file: File = toml::from_str(&text).map_err(|e| fail(e.to_string()))?;
        let mut kernels = Vec::new();
        for (index, entry) in file.kernel.iter().enumerate() {
            for axes in combinations(&entry.axes) {
                let mut kernel = Kernel {
                    entry: index,
                    name: entry.name.clone(),
                    family: entry.family.clone(),
                    function: entry.function.clone(),
                    params: entry.params.clone(),
                    threads: entry.threads,
                    collectives: entry.collectives,
                    blocks_per_sm: entry.promise.get("blocks_per_sm").and_then(toml::Value::as_integer).unwrap_or(1),
                    axes,
                };
                for (axis, value) in &kernel.axes {
                    let cpp = file
                        .cpp
                        .get(axis)
                        .or_else(|| (axis == "from").then(|| &file.cpp["dtype"]))
                        .and_then(|spelling| spelling.get(value));
                    kernel.name = kernel.name.replace(&format!("{{{axis}}}"), value);
                    kernel.function = kernel.function.replace(&format!("{{cpp:{axis}}}"), cpp.unwrap_or(value));
                }
                if kernel.name.contains('{') || kernel.function.contains('{') {
                    return Err(fail(format!("{}: an axis in {} is not listed", entry.name, kernel.function)));
                }
                if kernel.collectives && !kernel.threads.is_multiple_of(32) || !(1..=1024).contains(&kernel.threads) {
                    return Err(fail(format!("{}: {} threads are not whole warps up to 1024 threads", kernel.name, kernel.threads)));
                }
                kernels.push(kernel);
            }
        }
        let mut names: Vec<&str> = kernels.iter().map(|k| k.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(fail(format!("two kernels are named {}", twice[0])));
        }
        Ok(Self { kernels, folder: folder.into() })
    }

    /// The entries with their families: what is compiled at once for the host.
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    pub fn shards(&self) -> Vec<(&str, usize)> {
        let mut shards: Vec<(&str, usize)> = self.kernels.iter().map(|k| (k.family.as_str(), k.entry)).collect();
        shards.dedup();
        shards
    }

    /// The families, each once, in the manifest's order.
    pub fn families(&self) -> Vec<&str> {
        let mut families: Vec<&str> = Vec::new();
        for kernel in &self.kernels {
            if !families.contains(&kernel.family.as_str()) {
                families.push(&kernel.family);
            }
        }
        families
    }

    /// The table `name` of src/kernels/mod.rs; the parameter structs are in the Rust module `params`.
    pub fn rust_table(&self, build: &Build, variants: &[Variant], name: &str, params: &str) -> String {
        let mut out = String::new();
        if !variants.is_empty() {
            out += "unsafe extern \"C\" {\n";
            for kernel in &self.kernels {
                for variant in variants {
                    writeln!(out, "    fn {}(params: *const std::ffi::c_void);", variant.symbol(build, kernel)).unwrap();
                }
            }
            out += "}\n";
        }
        writeln!(out, "pub(crate) static {name}: [KernelInfo; {}] = [", self.kernels.len()).unwrap();
        for kernel in &self.kernels {
            let axis = |name: &str, values: &[(&str, &str)]| match kernel.axes.get(name) {
                Some(value) => format!("Some({})", values.iter().find(|(k, _)| k == value).unwrap_or_else(|| panic!("{name} {value}")).1),
                None => "None".into(),
            };
            let tags: Vec<String> = kernel
                .axes
                .iter()
                .filter(|(k, _)| !["dtype", "format"].contains(&k.as_str()))
                .map(|(k, v)| format!("({k:?}, {v:?})"))
                .collect();
            write!(
                out,
                "    KernelInfo {{ name: {:?}, family: {:?}, threads: {}, collectives: {}, params_bytes: size_of::<{params}::{}>(), dtype: {}, format: {}, tags: &[{}]",
                kernel.name,
                kernel.family,
                kernel.threads,
                kernel.collectives,
                kernel.params,
                axis("dtype", &[("f32", "DType::F32"), ("f16", "DType::F16"), ("bf16", "DType::Bf16")]),
                axis("format", &[("contiguous", "MemoryFormat::Contiguous"), ("channels_last", "MemoryFormat::ChannelsLast")]),
                tags.join(", "),
            )
            .unwrap();
            if !variants.is_empty() {
                let entry = |name: &str| match variants.iter().find(|v| v.name == name) {
                    Some(variant) => format!("Some({})", variant.symbol(build, kernel)),
                    None => "None".into(),
                };
                let portable = variants.iter().find(|v| v.name == "portable").expect("always compiled").symbol(build, kernel);
                write!(
                    out,
                    ", host: crate::device::host::Entries {{ portable: {portable}, avx2: {}, checked: {} }}",
                    entry("avx2"),
                    entry("checked")
                )
                .unwrap();
            }
            out += " },\n";
        }
        out += "];\n";
        out
    }
}

/// Every choice of one value for each axis.
fn combinations(axes: &BTreeMap<String, Vec<String>>) -> Vec<BTreeMap<String, String>> {
    axes.iter().fold(vec![BTreeMap::new()], |partial, (axis, values)| {
        partial
            .iter()
            .flat_map(|chosen| {
                values.iter().map(move |value| {
                    let mut next = chosen.clone();
                    next.insert(axis.clone(), value.clone());
                    next
                })
            })
            .collect()
    })
}
