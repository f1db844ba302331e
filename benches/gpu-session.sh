#!/usr/bin/env bash
# A visit to a machine with a GPU: all that can only be learned there, the most valuable first, each step with a time limit,
# everything in one folder. It needs the prebuilt program and this folder; no Rust, no nvcc. It changes none of the GPU's
# settings.
#
#   benches/gpu-session.sh [FOLDER]      FOLDER: target/gpu-session unless given
#
#   WARPCONV_BIN   the program, built elsewhere: WARPCONV_CUDA_ARCHS=90a cargo build --release --features cuda
#   DEVICE         cuda:N                                            cuda:0
#   MINUTES        what there is in all                              20
#   STEPS          which steps                                       device verify compare tune memcheck racecheck conformance more
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../target/gpu-session}
bin=${WARPCONV_BIN:-$here/../target/release/warpconv}
device=${DEVICE:-cuda:0} steps=${STEPS:-device verify compare tune memcheck racecheck conformance more}
end=$((SECONDS + ${MINUTES:-20} * 60))
[ -x "$bin" ] || { echo "gpu-session.sh: no program at $bin: set WARPCONV_BIN" >&2; exit 2; }
mkdir -p "$folder"
: >"$folder/steps.txt"
failed=0

# step NAME LIMIT COMMAND...: its output goes to NAME.txt, its exit code and its time to steps.txt
step() {
  local name=$1 limit=$2 left=$((end - SECONDS)) begin=$SECONDS code=0 verdict=ok
  shift 2
  case " $steps " in *" $name "*) ;; *) return 0 ;; esac
  if [ "$left" -lt 10 ]; then
    echo "$name: not run, the time is up" | tee -a "$folder/steps.txt"
    return 0
  fi
  [ "$limit" -le "$left" ] || limit=$left
  echo "== $name (at most $limit s)"
  # through a bash, which knows the functions below
  # shellcheck disable=SC2016 # expanded by that bash
  timeout --kill-after=10 "$limit" bash -c '"$@"' step "$@" >"$folder/$name.txt" 2>&1 || code=$?
  case $code in 0) ;; 124 | 137) verdict="cut off after $limit s" ;; *) verdict="FAILED with $code" failed=1 ;; esac
  tail -n 4 "$folder/$name.txt"
  echo "$name: $verdict, $((SECONDS - begin)) s" | tee -a "$folder/steps.txt"
}

describe() {
  date -u
  uname -a
  nvidia-smi
  nvidia-smi -q -d CLOCK,POWER,ECC,PERFORMANCE
  "$bin" --version
  "$bin" info
  "$bin" info --json
  "${PYTHON:-python3}" -c 'import torch; print("torch", torch.__version__, torch.version.cuda, torch.backends.cudnn.version())'
  "${PYTHON:-python3}" -c 'import torchvision; print("torchvision", torchvision.__version__)'
  return 0
}

# under the sanitizer a launch takes thousands of times as long: few cases, all kernels
sanitizer() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on this machine"; return 0; }
  compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 "$bin" verify --device "$device" --cases "$2" --seed 3
}

export -f describe sanitizer
export bin device

step device 60 describe
step verify 240 "$bin" verify --device "$device" --cases 150 --seed 1
step compare 520 env DEVICE="$device" WARPCONV_BIN="$bin" bash "$here/compare.sh" "$folder/compare"
step tune 240 "$bin" tune --device "$device" --core --time-limit 200 --out "$folder/tuning"
step memcheck 180 sanitizer memcheck 60
step racecheck 240 sanitizer racecheck 40
corpus=$here/../tests/data/torch_dev
if [ -d "$corpus" ]; then
  step conformance 180 "$bin" conformance "$corpus" --device "$device" --dtype all --format all --all-kernels
fi
step more 300 "$bin" verify --device "$device" --cases 1000 --seed 2
echo "== $folder"
cat "$folder/steps.txt"
exit "$failed"
