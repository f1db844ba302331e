//! kernels/manifest.toml: its entries expanded over their axes, as C++ and as the table that Rust reads.

use crate::Build;
use crate::host::Variant;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// [cpp.AXIS] of the manifest: what a value of the axis is in C++.
type Spellings = BTreeMap<String, BTreeMap<String, String>>;

/// A [[kernel]] of the manifest. Read by hand: serde's derive would be compiled before anything of this, and again with each of its
/// features that another crate asks for.
struct Entry {
    name: String,
    family: String,
    function: String,
    params: String,
    threads: u32,
    axes: BTreeMap<String, Vec<String>>,
    collectives: bool,
    persistent: bool,
    blocks_per_sm: i64,
}

impl Entry {
    fn read(table: &DeTable<'_>) -> Result<Self, String> {
        known(table, &["name", "family", "function", "params", "threads", "axes", "collectives", "persistent", "promise"])?;
        let value = |key: &str| field(table, key).ok_or_else(|| format!("{key} is missing"));
        let text = |key: &str| string(value(key)?, key);
        let promise = of_table(value("promise")?, "promise")?;
        let mut axes = BTreeMap::new();
        for (axis, values) in of_table(value("axes")?, "axes")? {
            let axis = axis.get_ref().to_string();
            let values = values.get_ref().as_array().ok_or_else(|| format!("{axis} is no list"))?;
            axes.insert(axis.clone(), values.iter().map(|value| string(value.get_ref(), &axis)).collect::<Result<_, _>>()?);
        }
        Ok(Self {
            name: text("name")?,
            family: text("family")?,
            function: text("function")?,
            params: text("params")?,
            threads: integer(value("threads")?, "threads")?.try_into().map_err(|_| "threads is negative or too large")?,
            axes,
            collectives: value("collectives")?.as_bool().ok_or("collectives is neither true nor false")?,
            persistent: field(table, "persistent").map_or(Some(false), DeValue::as_bool).ok_or("persistent is neither true nor false")?,
            blocks_per_sm: field(promise, "blocks_per_sm").map_or(Ok(1), |blocks| integer(blocks, "blocks_per_sm"))?,
        })
    }
}

fn field<'a, 'i>(table: &'a DeTable<'i>, key: &str) -> Option<&'a DeValue<'i>> {
    table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value.get_ref())
}

fn known(table: &DeTable<'_>, keys: &[&str]) -> Result<(), String> {
    let unknown = table.keys().find(|key| !keys.contains(&key.get_ref().as_ref()));
    unknown.map_or(Ok(()), |key| Err(format!("unknown field {}: expected {}", key.get_ref(), keys.join(", "))))
}

fn of_table<'a, 'i>(value: &'a DeValue<'i>, name: &str) -> Result<&'a DeTable<'i>, String> {
    value.as_table().ok_or_else(|| format!("{name} is no table"))
}

fn string(value: &DeValue<'_>, name: &str) -> Result<String, String> {
    value.as_str().map(String::from).ok_or_else(|| format!("{name} is no string"))
}

fn integer(value: &DeValue<'_>, name: &str) -> Result<i64, String> {
    let digits = value.as_integer().and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok());
    digits.ok_or_else(|| format!("{name} is no integer"))
}

fn read(text: &str) -> Result<(Spellings, Vec<Entry>), String> {
    let file = DeTable::parse(text).map_err(|e| e.to_string())?;
    let file = file.get_ref();
    known(file, &["cpp", "kernel"])?;
    let mut cpp = Spellings::new();
    for (axis, spellings) in field(file, "cpp").map(|cpp| of_table(cpp, "cpp")).transpose()?.into_iter().flatten() {
        let axis = axis.get_ref().to_string();
        let of_axis = of_table(spellings.get_ref(), &axis)?;
        let spelling = |(value, cpp): (&toml::Spanned<_>, &toml::Spanned<_>)| -> Result<(String, String), String> {
            let value: &std::borrow::Cow<'_, str> = value.get_ref();
            Ok((value.to_string(), string(cpp.get_ref(), value)?))
        };
        cpp.insert(axis, of_axis.iter().map(spelling).collect::<Result<_, _>>()?);
    }
    let mut entries = vec![];
    for kernel in field(file, "kernel").and_then(DeValue::as_array).ok_or("there is no [[kernel]]")?.iter() {
        let table = of_table(kernel.get_ref(), "kernel")?;
        let name = field(table, "name").and_then(DeValue::as_str).unwrap_or("a [[kernel]] without a name").to_string();
        entries.push(Entry::read(table).map_err(|message| format!("{name}: {message}"))?);
    }
    Ok((cpp, entries))
}

/// One entry point.
pub struct Kernel {
    /// The file that it is compiled in: an index of `Manifest::shards`.
    pub shard: usize,
    pub name: String,
    pub family: String,
    pub function: String,
    pub params: String,
    pub threads: u32,
    pub collectives: bool,
    pub persistent: bool,
    /// The launch bound: nvcc limits registers so that as many blocks fit a multiprocessor.
    pub blocks_per_sm: i64,
    /// Registers of a thread that nvcc has given it, by architecture ("80").
    registers: Vec<(u32, u32)>,
    pub axes: BTreeMap<String, String>,
}

/// What is compiled at once: a family's entries that follow each other.
pub struct Shard {
    pub family: String,
    /// "conv_gemm_0"
    pub name: String,
    pub kernels: usize,
}

/// Kernels of a shard, unless one entry of the manifest has more. A compiler takes half a second before it comes to a file's first
/// kernel; many small files keep all cores at work until the end.
const SHARD_KERNELS: usize = 8;

pub struct Manifest {
    pub kernels: Vec<Kernel>,
    pub shards: Vec<Shard>,
    cpp: Spellings,
    /// Where its families' files are.
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    pub folder: PathBuf,
}

impl Manifest {
    /// Without kernels.
    pub fn empty(folder: PathBuf) -> Self {
        Self { kernels: vec![], shards: vec![], cpp: Spellings::new(), folder }
    }

    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join("manifest.toml");
        let fail = |message: String| format!("{}: {message}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| fail(e.to_string()))?;
        let (cpp, entries) = read(&text).map_err(fail)?;
        let measured = measured_registers(folder)?;
        let (mut kernels, mut shards) = (Vec::new(), Vec::<Shard>::new());
        for entry in &entries {
            let combinations = combinations(&entry.axes);
            let shard = add_to_shards(&mut shards, &entry.family, combinations.len());
            for axes in combinations {
                let mut kernel = Kernel {
                    shard,
                    name: entry.name.clone(),
                    family: entry.family.clone(),
                    function: entry.function.clone(),
                    params: entry.params.clone(),
                    threads: entry.threads,
                    collectives: entry.collectives,
                    persistent: entry.persistent,
                    blocks_per_sm: entry.blocks_per_sm,
                    registers: vec![],
                    axes,
                };
                for (axis, value) in &kernel.axes {
                    let spellings = cpp.get(if axis == "from" { "dtype" } else { axis });
                    let spelling = spellings.and_then(|spellings| spellings.get(value));
                    kernel.name = kernel.name.replace(&format!("{{{axis}}}"), value);
                    kernel.function = kernel.function.replace(&format!("{{cpp:{axis}}}"), spelling.unwrap_or(value));
                }
                kernel.function = kernel.function.replace("{persistent}", if kernel.persistent { "true" } else { "false" });
                kernel.registers = measured.get(&kernel.name).cloned().unwrap_or_default();
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
        Ok(Self { kernels, shards, cpp, folder: folder.into() })
    }

    /// The kernels of a shard.
    pub fn of_shard(&self, shard: usize) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter().filter(move |kernel| kernel.shard == shard)
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
            // `what` is the axis of the kernels of tests/kernels
            let others = kernel.axes.iter().filter(|(axis, _)| !["dtype", "format", "what"].contains(&axis.as_str()));
            let axes: String = others.map(|(axis, value)| format!("{axis}: Some({}), ", self.typed(axis, value))).collect();
            write!(
                out,
                "    KernelInfo {{ name: {:?}, family: {:?}, threads: {}, launch_bound: {}, registers: &{:?}, collectives: {}, persistent: {}, params_bytes: size_of::<{params}::{}>(), dtype: {}, format: {}, axes: Axes {{ {axes}..Axes::NONE }}",
                kernel.name,
                kernel.family,
                kernel.threads,
                kernel.blocks_per_sm,
                kernel.registers,
                kernel.collectives,
                kernel.persistent,
                kernel.params,
                axis("dtype", &[("f32", "DType::F32"), ("f16", "DType::F16"), ("bf16", "DType::Bf16")]),
                axis("format", &[("contiguous", "MemoryFormat::Contiguous"), ("channels_last", "MemoryFormat::ChannelsLast")]),
            )
            .unwrap();
            if !variants.is_empty() {
                let entry = |name: &str| match variants.iter().find(|v| v.name == name) {
                    Some(variant) => format!("Some({})", variant.symbol(build, kernel)),
                    None => "None".into(),
                };
                write!(
                    out,
                    ", host: crate::device::host::Entries {{ portable: {}, avx2: {}, checked: {} }}",
                    entry("portable"),
                    entry("avx2"),
                    entry("checked")
                )
                .unwrap();
            }
            if crate::feature("cuda") {
                write!(out, ", image: {}", kernel.shard).unwrap();
            }
            out += " },\n";
        }
        out += "];\n";
        out
    }

    /// The value of an axis as `Axes` of src/device/kernel.rs has it.
    fn typed(&self, axis: &str, value: &str) -> String {
        let capital = || value[..1].to_uppercase() + &value[1..];
        let cpp =
            || self.cpp.get(axis).and_then(|values| values.get(value)).unwrap_or_else(|| panic!("{axis} {value} has no C++ spelling"));
        match axis {
            "vector" | "size" | "stride" | "width" | "rows" | "factor" | "bits" => value.into(),
            "gather" | "access" | "math" | "form" | "parts" | "pool" => format!("{}::{}", axis[..1].to_uppercase() + &axis[1..], capital()),
            "to" => format!("Side::{}", capital()),
            "from" => format!("DType::{}", capital()),
            "outputs" => {
                let (tiles, own) = cpp().split_once(", ").unwrap_or_else(|| panic!("outputs {value}"));
                format!("Outputs {{ tiles: {tiles}, own: {own} }}")
            }
            "tile" => {
                let sizes: Vec<&str> = cpp().trim_start_matches("Tile<").trim_end_matches('>').split(", ").collect();
                let &[m, n, warp_m, warp_n, ref slices @ ..] = &sizes[..] else { panic!("tile {value}") };
                let slices = slices.first().unwrap_or(&"1");
                format!("Tile {{ m: {m}, n: {n}, warp_m: {warp_m}, warp_n: {warp_n}, slices: {slices} }}")
            }
            _ => panic!("the axis {axis} is not in src/device/kernel.rs"),
        }
    }
}

/// The registers of each kernel in the baseline of scripts/sass-report, which writes a kernel a line; nothing where there is none.
fn measured_registers(folder: &Path) -> Result<BTreeMap<String, Vec<(u32, u32)>>, String> {
    let path = folder.join("sass-baseline.json");
    let mut measured = BTreeMap::<String, Vec<(u32, u32)>>::new();
    if !path.exists() {
        return Ok(measured);
    }
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut architecture = None;
    for line in text.lines().filter_map(|line| line.trim().strip_prefix('"')) {
        let wrong = || format!("{}: {line} is not what scripts/sass-report writes", path.display());
        let (name, rest) = line.split_once('"').ok_or_else(wrong)?;
        if let Some(sm) = name.strip_prefix("sm_") {
            architecture = Some(sm.trim_end_matches(char::is_alphabetic).parse().map_err(|_| wrong())?);
            continue;
        }
        let (_, figures) = rest.split_once("\"registers\": ").ok_or_else(wrong)?;
        let registers = figures.split(',').next().and_then(|figure| figure.parse().ok()).ok_or_else(wrong)?;
        measured.entry(name.into()).or_default().push((architecture.ok_or_else(wrong)?, registers));
    }
    Ok(measured)
}

/// The shard that takes an entry's kernels: the family's last one, or a new one when that is full.
fn add_to_shards(shards: &mut Vec<Shard>, family: &str, kernels: usize) -> usize {
    let of_family: Vec<usize> = (0..shards.len()).filter(|&index| shards[index].family == family).collect();
    if let Some(&last) = of_family.last()
        && shards[last].kernels + kernels <= SHARD_KERNELS
    {
        shards[last].kernels += kernels;
        return last;
    }
    shards.push(Shard { family: family.into(), name: format!("{family}_{}", of_family.len()), kernels });
    shards.len() - 1
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
