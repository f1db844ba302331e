//! The kernels for GPUs: one compressed fatbin a shard, compiled by nvcc for every wanted architecture.

use crate::Build;
use crate::cache::Digest;
use crate::jobs::Jobs;
use crate::manifest::{self, Manifest};
use std::env::{consts::EXE_SUFFIX, var, var_os};
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a toolkit may be, in this order, after `NVCC` and before PATH.
const TOOLKIT_VARIABLES: [&str; 4] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
const VARIABLES: [&str; 7] = ["NVCC", "NVCC_CCBIN", "WARPCONV_CUDA_ARCHS", "CUDA_COMPUTE_CAP", "CARGO_TARGET_DIR", "PATH", "DOCS_RS"];

/// Machine code for these, where nvcc knows them; intermediate code (PTX) for the first and for the newest.
const DEFAULT_ARCHITECTURES: [&str; 5] = ["80", "86", "89", "90a", "100"];

/// The compute capability from which on the kernels work, without its dot.
const OLDEST: u32 = 80;

/// What a core takes for a file and an architecture, about.
const SECONDS_A_TARGET: f64 = 8.0;

/// `-Xptxas -v` prints what each kernel spills.
const FLAGS: [&str; 7] = ["-fatbin", "-std=c++17", "-O3", "-fmad=false", "--expt-relaxed-constexpr", "-Xptxas", "-v"];

/// What nvcc made; nothing without the feature `cuda`.
#[derive(Default)]
pub struct Fatbins {
    /// (13, 0); `None` without nvcc, as on docs.rs.
    version: Option<(u32, u32)>,
    /// "sm_90a" for machine code, "compute_80" for PTX.
    code: Vec<String>,
    /// As the shards are numbered.
    files: Vec<PathBuf>,
}

impl Fatbins {
    /// What src/kernels/mod.rs includes beside the table of kernels.
    pub fn rust_table(&self) -> String {
        let mut out = String::new();
        writeln!(out, "pub(crate) const NVCC: Option<(u32, u32)> = {:?};", self.version).unwrap();
        writeln!(out, "pub(crate) const CUDA_CODE: &[&str] = &{:?};", self.code).unwrap();
        if !crate::feature("cuda") {
            return out;
        }
        writeln!(out, "pub(crate) static FATBINS: &[&[u8]] = &[").unwrap();
        for file in &self.files {
            let align = "crate::device::cuda::Aligned";
            writeln!(out, "    {{ static IMAGE: &{align}<[u8]> = &{align}(*include_bytes!({file:?})); &IMAGE.0 }},").unwrap();
        }
        out + "];\n"
    }
}

/// Compiles every shard that no build has compiled from these sources, with these flags and this compiler.
pub fn compile(build: &Build, manifest: &Manifest) -> Result<Fatbins, String> {
    for name in VARIABLES.iter().chain(&TOOLKIT_VARIABLES) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if var_os("DOCS_RS").is_some() {
        return Ok(Fatbins::default());
    }
    let nvcc = Nvcc::find(build)?;
    let code = architectures(&nvcc)?;
    let mut flags: Vec<OsString> = FLAGS.map(OsString::from).to_vec();
    flags.extend(nvcc.compression());
    if var("DEBUG").is_ok_and(|debug| debug == "true") {
        flags.push("-lineinfo".into()); // source lines for profilers and compute-sanitizer
    }
    for target in &code {
        let compute = target.replace("sm_", "compute_");
        flags.extend(["-gencode".into(), format!("arch={compute},code={target}").into()]);
    }
    if let Some(compiler) = var_os("NVCC_CCBIN") {
        flags.extend(["-ccbin".into(), compiler]);
    }
    let units: Vec<Unit> =
        (0..manifest.shards.len()).map(|shard| Unit::new(build, manifest, shard, &nvcc, &flags)).collect::<Result<_, _>>()?;
    remove_others(build, &units).map_err(|e| format!("{}: {e}", build.out.display()))?;
    let mut missing: Vec<&Unit> = units.iter().filter(|unit| !unit.restore(build)).collect();
    // the largest first, so that no core is left with one of them at the end
    missing.sort_by_key(|unit| std::cmp::Reverse(unit.kernels));
    // of several architectures nvcc compiles some at once where there are more cores than files
    let threads = (Jobs::limit() / missing.len().max(1)).max(1).to_string();
    Jobs::announce(missing.len(), &format!("for {}", code.join(", ")), SECONDS_A_TARGET * code.len() as f64, build.cache.folder());
    build.jobs.run(&missing, |unit| unit.compile(build, &nvcc, &flags, &threads))?;
    let read = |unit: &Unit| std::fs::read_to_string(&unit.log).map_err(|e| format!("{}: {e}", unit.log.display()));
    let compiled = missing.iter().map(|unit| read(unit)).collect::<Result<Vec<_>, _>>()?;
    for line in slowest(&compiled) {
        println!("{line}"); // cargo build -vv shows it
    }
    for unit in &units {
        for warning in warnings(&read(unit)?) {
            println!("cargo::warning={warning}");
        }
    }
    Ok(Fatbins { version: Some(nvcc.version), code, files: units.into_iter().map(|unit| unit.fatbin).collect() })
}

/// Fatbins of an older manifest, in which scripts/sass-report would find kernels that there are no more.
fn remove_others(build: &Build, units: &[Unit]) -> std::io::Result<()> {
    for entry in std::fs::read_dir(&build.out)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "fatbin") && units.iter().all(|unit| unit.fatbin != path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// A source file to be compiled.
struct Unit {
    family: String,
    file: PathBuf,
    fatbin: PathBuf,
    /// ptxas's words.
    log: PathBuf,
    /// Its name in the cache.
    cached: String,
    kernels: usize,
}

impl Unit {
    fn new(build: &Build, manifest: &Manifest, shard: usize, nvcc: &Nvcc, flags: &[OsString]) -> Result<Self, String> {
        let (source, shard) = (source(manifest, shard), &manifest.shards[shard]);
        let path = |extension: &str| build.out.join(format!("{}.{extension}", shard.name));
        let file = path("cu");
        let fail = |e: std::io::Error| format!("{}: {e}", file.display());
        std::fs::write(&file, &source).map_err(fail)?;
        let mut key = Digest::new().and(&nvcc.text).and(build.sources.digest(&source, &[&build.kernels]).map_err(fail)?.to_string());
        for flag in flags {
            key = key.and(flag.to_string_lossy().as_bytes());
            if flag == "-lineinfo" {
                // profilers look for the files that it names
                key = key.and(build.kernels.to_string_lossy().as_bytes());
            }
        }
        let (family, kernels) = (shard.family.clone(), shard.kernels);
        Ok(Self { family, fatbin: path("fatbin"), log: path("ptxas"), cached: key.to_string(), file, kernels })
    }

    /// The files, and their names in the cache.
    fn outputs(&self) -> [(&Path, String); 2] {
        [(&self.log, format!("{}.ptxas", self.cached)), (&self.fatbin, format!("{}.fatbin", self.cached))]
    }

    /// Takes what an earlier build has made.
    fn restore(&self, build: &Build) -> bool {
        self.outputs().iter().all(|(path, name)| build.cache.get(name).is_some_and(|content| std::fs::write(path, content).is_ok()))
    }

    fn compile(&self, build: &Build, nvcc: &Nvcc, flags: &[OsString], threads: &str) -> Result<(), String> {
        let mut command = Command::new(&nvcc.path);
        command.args(flags).arg("-I").arg(&build.kernels).args(["--threads", threads]).arg("-o").arg(&self.fatbin).arg(&self.file);
        let result = command.output().map_err(|e| format!("{}: {e}", nvcc.path.display()))?;
        let log = String::from_utf8_lossy(&result.stderr).into_owned() + &String::from_utf8_lossy(&result.stdout);
        if !result.status.success() {
            return Err(failure(&self.family, &log));
        }
        std::fs::write(&self.log, log).map_err(|e| format!("{}: {e}", self.log.display()))?;
        for (path, name) in self.outputs() {
            build.cache.put(&name, &std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?);
        }
        Ok(())
    }
}

/// A shard's entry points. The kernels are in a namespace, since CUDA's headers have an `any` and a `ballot` of their own.
fn source(manifest: &Manifest, shard: usize) -> String {
    let family = &manifest.shards[shard].family;
    let mut out = format!("#include \"device/platform.cuh\"\nnamespace warpconv {{\n#include \"{family}.cu\"\n");
    for kernel in manifest.of_shard(shard) {
        let manifest::Kernel { name, threads, blocks_per_sm, params, function, .. } = kernel;
        out += &format!(
            "extern \"C\" __global__ void __launch_bounds__({threads}, {blocks_per_sm}) {name}(const __grid_constant__ {params} p) {{ {function}(p); }}\n"
        );
    }
    out + "}\n"
}

/// The machine code ("sm_90a") and PTX ("compute_80") to compile.
fn architectures(nvcc: &Nvcc) -> Result<Vec<String>, String> {
    let known = nvcc.architectures()?;
    let knows = |arch: &str| known.iter().any(|k| k == number(arch));
    let wanted = match (var("WARPCONV_CUDA_ARCHS"), var("CUDA_COMPUTE_CAP")) {
        (Ok(list), _) if !list.trim().is_empty() => list,
        (_, Ok(one)) if !one.trim().is_empty() => of_capability(one.trim()),
        _ => {
            if let Some(of_gpus) = architectures_here().filter(|gpus| gpus.iter().all(|arch| knows(arch))) {
                println!(
                    "cargo::warning=the kernels are compiled for {}, this machine's GPU; for others: WARPCONV_CUDA_ARCHS=\"{}\"",
                    of_gpus.join(" and "),
                    DEFAULT_ARCHITECTURES.join(";")
                );
                return Ok(of_gpus.iter().map(|arch| format!("sm_{arch}")).collect());
            }
            let (kept, left): (Vec<&str>, Vec<&str>) = DEFAULT_ARCHITECTURES.iter().partition(|arch| knows(arch));
            if !left.is_empty() {
                println!("cargo::warning=nvcc {} does not know the architectures {}: left out", nvcc.name(), left.join(", "));
            }
            let (Some(first), Some(last)) = (kept.first(), kept.last()) else {
                return Err(format!("{} knows none of the architectures {}", nvcc.path.display(), DEFAULT_ARCHITECTURES.join(", ")));
            };
            println!(
                "cargo::warning=the kernels are compiled for the architectures {}, since nvidia-smi finds no GPU here that has its own: \
                 WARPCONV_CUDA_ARCHS=90a compiles for one, in a fraction of the time",
                kept.join(", ")
            );
            let mut code: Vec<String> = kept.iter().map(|arch| format!("sm_{arch}")).collect();
            code.push(format!("compute_{}", number(first)));
            code.push(format!("compute_{}", number(last)));
            code.dedup();
            return Ok(code);
        }
    };
    let usage = "WARPCONV_CUDA_ARCHS lists compute capabilities without the dot, as in \"80;90a\" or \"80,120+ptx\" \
                 (+ptx adds code that newer GPUs can run)";
    let mut code = Vec::new();
    for item in wanted.split([';', ',', ' ']).filter(|item| !item.is_empty()) {
        let (arch, ptx) = item.strip_suffix("+ptx").map_or((item, false), |arch| (arch, true));
        let digits = number(arch);
        if digits.len() < 2 || !["", "a", "f"].contains(&&arch[digits.len()..]) {
            return Err(format!("{item:?} is no architecture: {usage}"));
        }
        if digits.parse::<u32>().is_ok_and(|capability| capability < OLDEST) {
            return Err(format!("the kernels need compute capability 8.0 or newer, but {item} is asked for"));
        }
        if !knows(digits) {
            return Err(format!("nvcc {} does not know the architecture {item}; it knows {}", nvcc.name(), known.join(", ")));
        }
        code.push(format!("sm_{arch}"));
        if ptx {
            code.push(format!("compute_{arch}"));
        }
    }
    if code.is_empty() {
        return Err(format!("no architecture is given: {usage}"));
    }
    code.sort();
    code.dedup();
    Ok(code)
}

/// The architecture of a compute capability without its dot.
fn of_capability(digits: &str) -> String {
    match digits {
        "90" => "90a".into(), // 9.0 is alone in its family, and some of its instructions need the suffix
        other => other.into(),
    }
}

/// Those of this machine's GPUs; `None` where there is none that the kernels can use.
fn architectures_here() -> Option<Vec<String>> {
    let text = output(Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"])).ok()?;
    let mut capabilities: Vec<u32> = text.lines().filter_map(|line| line.trim().replace('.', "").parse().ok()).collect();
    capabilities.retain(|&capability| capability >= OLDEST);
    capabilities.sort_unstable();
    capabilities.dedup();
    (!capabilities.is_empty()).then(|| capabilities.iter().map(|capability| of_capability(&capability.to_string())).collect())
}

/// "90a" without its suffix.
fn number(arch: &str) -> &str {
    arch.trim_end_matches(|c: char| !c.is_ascii_digit())
}

struct Nvcc {
    path: PathBuf,
    version: (u32, u32),
    /// All that it says of its version.
    text: String,
}

impl Nvcc {
    fn find(build: &Build) -> Result<Self, String> {
        let file = format!("nvcc{EXE_SUFFIX}");
        if let Some(path) = var_os("NVCC").filter(|path| !path.is_empty()) {
            return Self::at(path.into()).map_err(|e| format!("NVCC: {e}"));
        }
        let mut places: Vec<PathBuf> = TOOLKIT_VARIABLES
            .iter()
            .filter_map(var_os)
            .filter(|root| !root.is_empty())
            .map(|root| PathBuf::from(root).join("bin"))
            .collect();
        places.extend(var_os("PATH").iter().flat_map(std::env::split_paths));
        // what scripts/cuda-toolchain.sh installs: in this repository's target, or in the target that this build writes to
        let toolchain = |target: &Path| target.join("cuda-toolchain").join("bin");
        let manifest_dir = build.kernels.parent().expect("kernels is in the package");
        places.push(toolchain(&manifest_dir.join("target")));
        places.extend(var_os("CARGO_TARGET_DIR").map(|target| toolchain(&manifest_dir.join(target))));
        places.extend(build.out.ancestors().map(toolchain));
        match places.iter().map(|place| place.join(&file)).find(|path| path.is_file()) {
            Some(path) => Self::at(path),
            None => Err(format!(
                "the feature `cuda` needs nvcc, NVIDIA's CUDA compiler (12.0 or newer); a GPU is not needed.\n\
                 It was looked for in NVCC, {}, PATH and target/cuda-toolchain. Either\n\
                 - install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads) and set CUDA_HOME or PATH, or\n\
                 - run {}: it installs the compiler alone from PyPI, without root.",
                TOOLKIT_VARIABLES.join(", "),
                manifest_dir.join("scripts/cuda-toolchain.sh").display()
            )),
        }
    }

    fn at(path: PathBuf) -> Result<Self, String> {
        let text = output(Command::new(&path).arg("--version"))?;
        let release = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
        let version = release.and_then(|release| {
            let (major, minor) = release.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        match version {
            Some(version) if version >= (12, 0) => Ok(Self { path, version, text }),
            Some((major, minor)) => Err(format!("{} is of CUDA {major}.{minor}, but 12.0 or newer is needed", path.display())),
            None => Err(format!("{} --version says no release: {text}", path.display())),
        }
    }

    fn name(&self) -> String {
        format!("{}.{} ({})", self.version.0, self.version.1, self.path.display())
    }

    /// The architectures that it compiles for, without suffixes.
    fn architectures(&self) -> Result<Vec<String>, String> {
        let text = output(Command::new(&self.path).arg("--list-gpu-code"))?;
        let mut known: Vec<String> =
            text.split_whitespace().filter_map(|code| code.strip_prefix("sm_")).map(|arch| number(arch).into()).collect();
        known.dedup();
        Ok(known)
    }

    /// From CUDA 13 on the smallest form, which needs a driver that CUDA 13 needs anyway; before, the form that all drivers read.
    fn compression(&self) -> Vec<OsString> {
        let flags: &[&str] = if self.version >= (13, 0) { &["-compress-mode=size"] } else { &["-Xfatbin", "-compress-all"] };
        flags.iter().map(OsString::from).collect()
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let program = Path::new(command.get_program()).display().to_string();
    let result = command.output().map_err(|e| format!("{program}: {e}"))?;
    if !result.status.success() {
        return Err(format!("{program} failed: {}", String::from_utf8_lossy(&result.stderr)));
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// nvcc's words without ptxas's statistics, and advice where the host's compiler is to blame.
fn failure(family: &str, log: &str) -> String {
    let words: Vec<&str> = log.lines().filter(|line| !statistics(line)).take(80).collect();
    let mut message = format!("nvcc could not compile kernels/{family}.cu:\n{}", words.join("\n"));
    if ["host compiler", "cc1plus", "gcc", "g++", "unsupported GNU version"].iter().any(|sign| log.contains(sign)) {
        message += "\nnvcc needs a host C++ compiler that it supports: install g++, or set NVCC_CCBIN to another one";
    }
    message
}

fn statistics(line: &str) -> bool {
    line.starts_with("ptxas info") || line.contains("bytes stack frame")
}

/// Kernels that spill registers, and whatever else nvcc warns of.
fn warnings(log: &str) -> Vec<String> {
    let mut warnings: Vec<String> = log.lines().filter(|line| line.contains("warning")).map(String::from).collect();
    let mut entry = "";
    for line in log.lines() {
        if line.contains("Compiling entry function") {
            entry = line.split_once("entry function").map_or("", |(_, names)| names.trim());
        } else if line.contains("bytes spill stores") && !line.contains(" 0 bytes spill stores, 0 bytes spill loads") {
            warnings.push(format!("{entry} spills registers: {}", line.trim()));
        }
    }
    warnings
}

/// The kernels that took ptxas longest, with their architecture and seconds. An nvcc that says no times gives none.
fn slowest(logs: &[String]) -> Vec<String> {
    const LINES: usize = 10;
    let mut times: Vec<(f64, &str)> = vec![];
    for log in logs {
        let mut entry = "";
        for line in log.lines() {
            if let Some((_, names)) = line.split_once("Compiling entry function ") {
                entry = names;
            } else if let Some((_, time)) = line.split_once("Compile time = ")
                && let Some(milliseconds) = time.split_whitespace().next().and_then(|number| number.parse::<f64>().ok())
            {
                times.push((milliseconds / 1e3, entry));
            }
        }
    }
    times.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total: f64 = times.iter().map(|(seconds, _)| seconds).sum();
    let head = (!times.is_empty()).then(|| format!("ptxas took {total:.0} s for {} kernels, longest for", times.len()));
    head.into_iter().chain(times.iter().take(LINES).map(|(seconds, entry)| format!("{seconds:7.2} s  {entry}"))).collect()
}
