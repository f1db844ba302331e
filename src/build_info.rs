//! What this build was made with.

use crate::device::kernel::{CUDA_CODE, HOST_VARIANTS, NVCC};

/// What this build was made with: see [`build_info`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildInfo {
    /// The version of this crate.
    pub version: &'static str,
    /// The builds of the kernels for the CPU: "portable", "avx2", "checked". Empty without the
    /// feature `host`.
    pub host_variants: &'static [&'static str],
    /// The version of the CUDA whose nvcc compiled the kernels, such as (13, 0). `None` without the
    /// feature `cuda`.
    pub nvcc: Option<(u32, u32)>,
    /// The code for GPUs in this build. "sm_90a" is machine code for compute capability 9.0.
    /// "compute_80" is intermediate code (PTX), which the driver compiles for capability 8.0 and
    /// all newer ones. Empty without the feature `cuda`.
    pub cuda_code: &'static [&'static str],
}

/// What this build was made with.
///
/// ```
/// let build = warpconv::build_info();
/// println!("warpconv {}, for GPUs: {}", build.version, build.cuda_code.join(", "));
/// ```
pub fn build_info() -> BuildInfo {
    BuildInfo { version: env!("CARGO_PKG_VERSION"), host_variants: HOST_VARIANTS, nvcc: NVCC, cuda_code: CUDA_CODE }
}

impl BuildInfo {
    /// Whether a GPU of this compute capability can run the code in this build.
    ///
    /// Machine code runs on GPUs of the same major version with the same or a higher minor version;
    /// PTX runs on all that are not older. With the suffix `a` either runs on its own capability
    /// only, with the suffix `f` on GPUs of its major version.
    pub fn runs_on(&self, capability: (u32, u32)) -> bool {
        self.cuda_code.iter().any(|code| code_runs_on(code, capability).unwrap_or(false))
    }
}

fn code_runs_on(code: &str, capability: (u32, u32)) -> Option<bool> {
    let (kind, arch) = code.split_once('_')?;
    let digits = arch.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u32 = digits.parse().ok()?;
    let made_for = (number / 10, number % 10);
    Some(match (kind, &arch[digits.len()..]) {
        (_, "a") => capability == made_for,
        ("sm", _) | (_, "f") => capability.0 == made_for.0 && capability.1 >= made_for.1,
        _ => capability >= made_for,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_where_cuda_says() {
        let runs = |code, capability| code_runs_on(code, capability).unwrap();
        assert!(runs("sm_80", (8, 0)) && runs("sm_80", (8, 9)) && !runs("sm_80", (9, 0)) && !runs("sm_86", (8, 0)));
        assert!(runs("sm_90a", (9, 0)) && !runs("sm_90a", (10, 0)) && !runs("compute_90a", (12, 0)));
        assert!(runs("compute_80", (8, 0)) && runs("compute_80", (12, 1)) && !runs("compute_80", (7, 5)));
        assert!(runs("sm_100f", (10, 3)) && !runs("compute_100f", (12, 0)));
        let build = BuildInfo { cuda_code: &["sm_90a", "compute_100"], ..build_info() };
        assert!(build.runs_on((9, 0)) && build.runs_on((12, 0)) && !build.runs_on((8, 0)));
        assert!(!BuildInfo { cuda_code: &[], ..build }.runs_on((9, 0)));
    }
}
