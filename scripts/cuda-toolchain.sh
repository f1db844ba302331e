#!/usr/bin/env bash
# Installs NVIDIA's CUDA compiler from PyPI into target/cuda-toolchain, where build.rs finds it. Needs python3 with pip and
# a C++ compiler; needs neither CUDA nor a GPU nor root. Linux x86-64 and aarch64. Does nothing when it is there already.
#   scripts/cuda-toolchain.sh
#   cargo build --release --features cuda
# About 110 MB are fetched, 280 MB unpacked. NVIDIA's licence (the CUDA toolkit's EULA) applies to what is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 # the compiler
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85                  # its headers
  nvidia-cuda-cuobjdump==13.2.51 nvidia-cuda-nvdisasm==13.2.51            # for scripts/sass-report
)
root="${CARGO_TARGET_DIR:-target}/cuda-toolchain"
stamp="${packages[*]}"

if [ "$(cat "$root/installed" 2>/dev/null)" != "$stamp" ]; then
  command -v python3 >/dev/null || { echo "python3 with pip is needed: apt-get install python3-pip" >&2; exit 1; }
  python3 -m pip --version >/dev/null || { echo "pip is needed: apt-get install python3-pip" >&2; exit 1; }
  echo "fetching the CUDA compiler from PyPI into $root" >&2
  rm -rf "$root"
  mkdir -p "$root"
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target "$root/packages" "${packages[@]}"
  # one root as a toolkit has it: bin, include, lib, nvvm
  for directory in "$root"/packages/nvidia/cu*/*/; do
    ln -s "packages/nvidia/$(basename "$(dirname "$directory")")/$(basename "$directory")" "$root/$(basename "$directory")"
  done
  "$root/bin/nvcc" --version >/dev/null
  echo "$stamp" >"$root/installed"
fi
"$root/bin/nvcc" --version | grep release
command -v g++ >/dev/null || echo "nvcc needs a host compiler too: apt-get install g++ (or set NVCC_CCBIN)" >&2
cat <<END
installed in $root; build.rs finds it by itself:
  cargo build --release --features cuda
For other tools: export CUDA_HOME="$(cd "$root" && pwd)"
END
