//! The kernels for the host device: one C++ file for each shard of the manifest and each variant.

use crate::Build;
#[cfg(feature = "host")]
use crate::cache::Digest;
#[cfg(feature = "host")]
use crate::jobs::Jobs;
use crate::manifest::{Kernel, Manifest};
#[cfg(feature = "host")]
use std::path::{Path, PathBuf};

/// A way in which the same kernels are compiled for the CPU.
#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    flags: &'static [&'static str],
}

/// For every x86-64 or aarch64 CPU.
const PORTABLE: Variant = Variant { name: "portable", flags: &[] };
/// For x86-64 CPUs with these instructions: the device refuses others at run time.
const AVX2: Variant = Variant { name: "avx2", flags: &["-mavx2", "-mfma", "-mf16c"] };
/// Every access and every basic block calls src/device/host/checker/: the compiler's instrumentation with our own
/// callbacks, which take the source line from their return address.
const CHECKED: Variant = Variant {
    name: "checked",
    flags: &["-fsanitize=thread", "-fsanitize-coverage=trace-pc", "-fno-optimize-sibling-calls", "-DWC_CHECKED", "-g1"],
};
/// clang instruments after its optimisations: no access may be merged with others or left out before.
const CHECKED_CLANG: &[&str] = &["-fno-vectorize", "-fno-slp-vectorize", "-mllvm", "-tsan-instrument-read-before-write"];
/// Two calls of one function stay two calls, each with its own line.
const CHECKED_GCC: &[&str] = &["-fno-tree-tail-merge", "-fno-crossjumping"];

/// What a core takes for a file, about.
#[cfg(feature = "host")]
const SECONDS_A_FILE: f64 = 2.5;

impl Variant {
    pub fn symbol(&self, build: &Build, kernel: &Kernel) -> String {
        format!("{}{}_{}", build.prefix, self.name, kernel.name)
    }
}

#[cfg(not(feature = "host"))]
pub fn compile(_: &Build, _: &[&Manifest]) -> Result<Vec<Variant>, String> {
    Err("the feature host is off".into())
}

/// Compiles every variant that is wanted; the archives are linked into the crate.
#[cfg(feature = "host")]
pub fn compile(build: &Build, manifests: &[&Manifest]) -> Result<Vec<Variant>, String> {
    let mut variants = for_cpus()?;
    if crate::feature("checked-host") {
        variants.push(CHECKED);
    }
    // nothing is linked there
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    if std::env::var_os("DOCS_RS").is_some() {
        return Ok(variants);
    }
    let compilers = variants.iter().map(|variant| compiler(build, manifests, variant)).collect::<Result<Vec<_>, _>>()?;
    let runtime = runtime_compiler(build)?;
    let mut units = vec![];
    for (variant, compiler) in variants.iter().zip(&compilers) {
        for manifest in manifests {
            for (index, shard) in manifest.shards.iter().enumerate() {
                let name = format!("{}_{}", shard.name, variant.name);
                units.push(Unit::new(build, compiler, &name, source(build, manifest, index, variant), shard.kernels)?);
            }
        }
    }
    for name in if crate::feature("checked-host") { &["runtime", "callbacks"][..] } else { &["runtime"] } {
        units.push(Unit::new(build, &runtime, name, format!("#include \"host/{name}.cpp\"\n"), 0)?);
    }
    let mut missing: Vec<&Unit> = units.iter().filter(|unit| !unit.restore(build)).collect();
    // the largest first, so that no core is left with one of them at the end
    missing.sort_by_key(|unit| std::cmp::Reverse(unit.kernels));
    Jobs::announce(missing.len(), "for the CPU", SECONDS_A_FILE, build.cache.folder());
    build.jobs.run(&missing, |unit| unit.compile(build))?;
    for compiler in compilers.iter().chain([&runtime]) {
        let objects = units.iter().filter(|unit| unit.compiler.archive == compiler.archive).map(|unit| &unit.object);
        compiler.cc.clone().objects(objects).try_compile(&compiler.archive).map_err(advice)?;
    }
    Ok(variants)
}

/// The variants for `WARPCONV_HOST_CPU`: portable, avx2 or both. Without it, the one for the CPU that builds.
#[cfg(feature = "host")]
fn for_cpus() -> Result<Vec<Variant>, String> {
    println!("cargo::rerun-if-env-changed=WARPCONV_HOST_CPU");
    let has_avx2_build = crate::env("CARGO_CFG_TARGET_ARCH") == "x86_64";
    let chosen = std::env::var("WARPCONV_HOST_CPU").unwrap_or_default();
    match chosen.trim() {
        "" => Ok(vec![if has_avx2_build && runs_avx2() { AVX2 } else { PORTABLE }]),
        "portable" => Ok(vec![PORTABLE]),
        "avx2" if has_avx2_build => Ok(vec![AVX2]),
        "both" if has_avx2_build => Ok(vec![PORTABLE, AVX2]),
        "avx2" | "both" => Err(format!("WARPCONV_HOST_CPU={}: the target is not x86-64, where AVX2 is", chosen.trim())),
        other => Err(format!("WARPCONV_HOST_CPU is {other:?}, not portable, avx2 or both")),
    }
}

/// Whether the target has what the AVX2 build needs: because rustc's flags say so, or because this CPU is the target and has it.
#[cfg(feature = "host")]
fn runs_avx2() -> bool {
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if ["avx2", "fma", "f16c"].iter().all(|wanted| features.split(',').any(|feature| feature == *wanted)) {
        return true;
    }
    #[cfg(target_arch = "x86_64")]
    let here = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    let here = false;
    here && crate::env("HOST") == crate::env("TARGET")
}

/// A way to call the compiler, and the archive of what it makes.
#[cfg(feature = "host")]
struct Compiler {
    cc: cc::Build,
    tool: cc::Tool,
    archive: String,
    folders: Vec<PathBuf>,
    /// The hash of its version and flags, without the paths of this build; `None` where the flags ask for this machine's CPU.
    key: Option<Digest>,
}

#[cfg(feature = "host")]
impl Compiler {
    fn new(build: &Build, cc: cc::Build, name: &str, folders: Vec<PathBuf>) -> Result<Self, String> {
        let tool = cc.try_get_compiler().map_err(advice)?;
        let version = tool.to_command().arg("--version").output().map_err(|e| format!("{}: {e}", tool.path().display()))?;
        // not the folders of the sources, which count by what is read: the checker's tests add one
        let mut flags: Vec<String> = vec![];
        for flag in tool.args() {
            if folders.iter().any(|folder| flag == folder.as_os_str()) {
                flags.pop(); // its -I
            } else {
                flags.push(build.without_paths(&flag.to_string_lossy()));
            }
        }
        let native = flags.iter().any(|flag| flag.ends_with("=native"));
        let key = flags.iter().fold(Digest::new().and(&version.stdout), Digest::and);
        Ok(Self { cc, tool, archive: format!("{}{name}", build.prefix), folders, key: (!native).then_some(key) })
    }
}

/// A source file to be compiled.
#[cfg(feature = "host")]
struct Unit<'a> {
    compiler: &'a Compiler,
    file: PathBuf,
    object: PathBuf,
    /// Its name in the cache.
    cached: Option<String>,
    kernels: usize,
}

#[cfg(feature = "host")]
impl<'a> Unit<'a> {
    fn new(build: &Build, compiler: &'a Compiler, name: &str, source: String, kernels: usize) -> Result<Self, String> {
        let (file, object) = (build.out.join(format!("{name}.cpp")), build.out.join(format!("{name}.o")));
        let fail = |e: std::io::Error| format!("{}: {e}", file.display());
        std::fs::write(&file, &source).map_err(fail)?;
        let folders: Vec<&Path> = compiler.folders.iter().map(PathBuf::as_path).collect();
        let of_sources = build.sources.digest(&source, &folders).map_err(fail)?;
        let cached = compiler.key.map(|key| format!("{}.o", key.and(of_sources.to_string())));
        Ok(Self { compiler, file, object, cached, kernels })
    }

    /// Takes what an earlier build has made.
    fn restore(&self, build: &Build) -> bool {
        let content = self.cached.as_ref().and_then(|name| build.cache.get(name));
        content.is_some_and(|content| std::fs::write(&self.object, content).is_ok())
    }

    fn compile(&self, build: &Build) -> Result<(), String> {
        let mut command = self.compiler.tool.to_command();
        command.arg("-c");
        if self.compiler.tool.is_like_msvc() {
            command.arg(format!("-Fo{}", self.object.display()));
        } else {
            command.arg("-o").arg(&self.object);
        }
        let fail = |what: String| advice(format!("{}: {what}", self.compiler.tool.path().display()));
        let result = command.arg(&self.file).output().map_err(|e| fail(e.to_string()))?;
        if !result.status.success() {
            let words = [result.stdout, result.stderr].map(|words| String::from_utf8_lossy(&words).into_owned()).concat();
            return Err(fail(format!("{}\n{}", result.status, words.lines().take(80).collect::<Vec<_>>().join("\n"))));
        }
        if let (Some(name), Ok(content)) = (&self.cached, std::fs::read(&self.object)) {
            build.cache.put(name, &content);
        }
        Ok(())
    }
}

/// What all variants share.
#[cfg(feature = "host")]
fn common(build: &Build) -> cc::Build {
    let mut cc = cc::Build::new();
    // level 3 takes half as long again to compile, for kernels that are no faster
    cc.cpp(true).cpp_link_stdlib(None).std("c++17").opt_level(2).debug(false).cargo_warnings(false);
    cc.include(&build.kernels).define("WC_PREFIX", build.prefix.as_str());
    // contraction off: a * b + c is fused only where the kernel says fmaf, as under nvcc
    for flag in ["-fno-exceptions", "-fno-rtti", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-unknown-pragmas"] {
        cc.flag(flag);
    }
    // a switch without a case for each value, such as a forgotten activation
    cc.flag("-Werror=switch");
    cc
}

#[cfg(feature = "host")]
fn runtime_compiler(build: &Build) -> Result<Compiler, String> {
    Compiler::new(build, common(build), "runtime", vec![build.kernels.clone(), build.kernels.join("host")])
}

#[cfg(feature = "host")]
fn compiler(build: &Build, manifests: &[&Manifest], variant: &Variant) -> Result<Compiler, String> {
    let mut cc = common(build);
    for flag in variant.flags {
        cc.flag(flag);
    }
    if variant.name == CHECKED.name {
        // its callbacks cost far more than what a higher level saves, and compiling takes a third of the time
        cc.opt_level(1);
        for flag in if cc.try_get_compiler().map_err(advice)?.is_like_clang() { CHECKED_CLANG } else { CHECKED_GCC } {
            cc.flag(flag);
        }
        // a finding's source line is the same in whatever folder the crate was compiled
        for (folder, name) in build.paths() {
            cc.flag(format!("-ffile-prefix-map={folder}={name}"));
        }
    }
    let mut folders = vec![build.kernels.clone()];
    for folder in manifests.iter().map(|manifest| &manifest.folder) {
        cc.include(folder);
        folders.push(folder.clone());
    }
    Compiler::new(build, cc, variant.name, folders)
}

/// What src/kernels/mod.rs includes beside the tables of kernels: the functions of kernels/host/ that Rust calls.
pub fn rust_table(build: &Build, variants: &[Variant]) -> String {
    let names: Vec<&str> = variants.iter().map(|v| v.name).collect();
    let mut functions = vec![];
    if !variants.is_empty() {
        functions.extend(["set_lane(lane: *mut std::ffi::c_void)", "get_lane() -> *mut std::ffi::c_void"]);
    }
    if names.contains(&CHECKED.name) {
        functions.push("checked_calls(functions: *const std::ffi::c_void) -> *const std::ffi::c_void");
        functions.push("set_fuel(steps: u64)");
    }
    let declare = |function: &str| {
        let symbol = function.split('(').next().expect("a name");
        format!("    #[link_name = \"{}{symbol}\"]\n    pub(crate) fn host_{function};\n", build.prefix)
    };
    let functions: String = functions.into_iter().map(declare).collect();
    format!("pub(crate) const HOST_VARIANTS: &[&str] = &{names:?};\nunsafe extern \"C\" {{\n{functions}}}\n")
}

#[cfg(feature = "host")]
fn advice(error: impl std::fmt::Display) -> String {
    format!(
        "{error}\nThe feature `host` compiles the kernels with a C++17 compiler (gcc 11 or clang 14 and newer; clang-cl on Windows).\n\
         Debian, Ubuntu: apt-get install g++    Fedora: dnf install gcc-c++    macOS: xcode-select --install\n\
         or build without the host device: --no-default-features --features cuda"
    )
}

/// The entry points of a shard. The kernels are in a namespace of their own for each variant: otherwise
/// the linker would keep one copy of each template, and a CPU without AVX2 might get the one that needs it.
#[cfg(feature = "host")]
fn source(build: &Build, manifest: &Manifest, shard: usize, variant: &Variant) -> String {
    let family = &manifest.shards[shard].family;
    let namespace = format!("{}{}", build.prefix, variant.name);
    let mut out =
        format!("#include \"device/platform.cuh\"\nnamespace {namespace} {{\n#include \"{family}.cu\"\n}}\nusing namespace {namespace};\n");
    for kernel in manifest.of_shard(shard) {
        let (symbol, function, params) = (variant.symbol(build, kernel), &kernel.function, &kernel.params);
        out += &format!(
            "extern \"C\" __attribute__((visibility(\"default\"))) void {symbol}(const void* params) {{ {function}(*(const {params}*)params); }}\n"
        );
    }
    out
}
