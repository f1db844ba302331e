//! The kernels for the host device: one C++ file for each entry of the manifest and each variant.

use crate::Build;
use crate::manifest::{Kernel, Manifest};

/// A way in which the same kernels are compiled for the CPU.
#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    flags: &'static [&'static str],
}

/// What every x86-64 or aarch64 CPU runs.
const PORTABLE: Variant = Variant { name: "portable", flags: &[] };
/// Chosen at run time where the CPU has the instructions.
const AVX2: Variant = Variant { name: "avx2", flags: &["-mavx2", "-mfma", "-mf16c"] };
/// Every access and every basic block calls src/device/host/checker.rs: the compiler's instrumentation with our own
/// callbacks, which take the source line from their return address.
const CHECKED: Variant = Variant {
    name: "checked",
    flags: &["-fsanitize=thread", "-fsanitize-coverage=trace-pc", "-fno-optimize-sibling-calls", "-DWC_CHECKED", "-g1"],
};
/// clang instruments after its optimisations: no access may be merged with others or left out before.
const CHECKED_CLANG: &[&str] = &["-fno-vectorize", "-fno-slp-vectorize", "-mllvm", "-tsan-instrument-read-before-write"];
/// Two calls of one function stay two calls, each with its own line.
const CHECKED_GCC: &[&str] = &["-fno-tree-tail-merge", "-fno-crossjumping"];

impl Variant {
    pub fn symbol(&self, build: &Build, kernel: &Kernel) -> String {
        format!("{}{}_{}", build.prefix, self.name, kernel.name)
    }
}

#[cfg(not(feature = "host"))]
pub fn compile(_: &Build, _: &[&Manifest]) -> Result<Vec<Variant>, String> {
    Err("the feature host is off".into())
}

/// Compiles every variant that this target has; the archives are linked into the crate.
#[cfg(feature = "host")]
pub fn compile(build: &Build, manifests: &[&Manifest]) -> Result<Vec<Variant>, String> {
    let mut variants = vec![PORTABLE];
    if crate::env("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        variants.push(AVX2);
    }
    if crate::feature("checked-host") {
        variants.push(CHECKED);
    }
    // nothing is linked there
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    if std::env::var_os("DOCS_RS").is_some() {
        return Ok(variants);
    }
    // side by side: cargo's jobserver bounds how many files are compiled at once
    std::thread::scope(|scope| {
        let jobs: Vec<_> = variants.iter().map(|variant| scope.spawn(|| compile_variant(build, manifests, variant))).collect();
        jobs.into_iter().try_for_each(|job| job.join().expect("it returns its errors"))
    })?;
    let (mut cc, library) = compiler(build, "runtime");
    cc.file(build.kernels.join("host/runtime.cpp"));
    if crate::feature("checked-host") {
        cc.file(build.kernels.join("host/callbacks.cpp"));
    }
    cc.try_compile(&library).map_err(advice)?;
    Ok(variants)
}

/// The compiler with what all variants share, and the name of its archive.
#[cfg(feature = "host")]
fn compiler(build: &Build, name: &str) -> (cc::Build, String) {
    let mut cc = cc::Build::new();
    // level 3 takes half as long again to compile, for kernels that are no faster
    cc.cpp(true).cpp_link_stdlib(None).std("c++17").opt_level(2).debug(false).cargo_warnings(false);
    cc.include(&build.kernels).define("WC_PREFIX", build.prefix.as_str());
    // contraction off: a * b + c is fused only where the kernel says fmaf, as under nvcc
    for flag in ["-fno-exceptions", "-fno-rtti", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-unknown-pragmas"] {
        cc.flag(flag);
    }
    (cc, format!("{}{name}", build.prefix))
}

#[cfg(feature = "host")]
fn compile_variant(build: &Build, manifests: &[&Manifest], variant: &Variant) -> Result<(), String> {
    let (mut cc, library) = compiler(build, variant.name);
    for flag in variant.flags {
        cc.flag(flag);
    }
    if variant.name == CHECKED.name {
        // its callbacks cost far more than what a higher level saves, and compiling takes a third of the time
        cc.opt_level(1);
        for flag in if cc.get_compiler().is_like_clang() { CHECKED_CLANG } else { CHECKED_GCC } {
            cc.flag(flag);
        }
    }
    if variant.name == PORTABLE.name && crate::env("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        // nearly every CPU takes the other one: a first build should not wait for this
        cc.opt_level(1);
    }
    for manifest in manifests {
        cc.include(&manifest.folder);
        for (family, entry) in manifest.shards() {
            let file = build.out.join(format!("{family}_{entry}_{}.cpp", variant.name));
            std::fs::write(&file, source(build, manifest, entry, variant)).map_err(|e| format!("{}: {e}", file.display()))?;
            cc.file(file);
        }
    }
    cc.try_compile(&library).map_err(advice)
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
fn advice(error: cc::Error) -> String {
    format!(
        "{error}\nThe feature `host` compiles the kernels with a C++17 compiler (gcc 11 or clang 14 and newer; clang-cl on Windows).\n\
         Debian, Ubuntu: apt-get install g++    Fedora: dnf install gcc-c++    macOS: xcode-select --install\n\
         or build without the host device: --no-default-features --features cuda"
    )
}

/// The entry points of one entry of the manifest. The kernels are in a namespace of their own for each variant: otherwise
/// the linker would keep one copy of each template, and a CPU without AVX2 might get the one that needs it.
#[cfg(feature = "host")]
fn source(build: &Build, manifest: &Manifest, entry: usize, variant: &Variant) -> String {
    let kernels: Vec<&Kernel> = manifest.kernels.iter().filter(|k| k.entry == entry).collect();
    let family = &kernels[0].family;
    let namespace = format!("{}{}", build.prefix, variant.name);
    let mut out =
        format!("#include \"device/platform.cuh\"\nnamespace {namespace} {{\n#include \"{family}.cu\"\n}}\nusing namespace {namespace};\n");
    for kernel in kernels {
        let (symbol, function, params) = (variant.symbol(build, kernel), &kernel.function, &kernel.params);
        out += &format!(
            "extern \"C\" __attribute__((visibility(\"default\"))) void {symbol}(const void* params) {{ {function}(*(const {params}*)params); }}\n"
        );
    }
    out
}
