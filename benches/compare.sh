#!/usr/bin/env bash
# Ours and the peers' times in one go, on a machine that needs no Rust: one JSON, a table and plots in one folder.
#
#   benches/compare.sh [FOLDER]      FOLDER: target/benchmark unless given
#
#   WARPCONV_BIN   the program, built elsewhere      target/release/warpconv
#   DEVICE         cuda:N, or host (small sizes)     best
#   SUITE          core, or all                      core
#   FILTER         only rows that match              all
#   PEERS          torch, or none                    torch where python3 has it, else none
#   PEERS_ARGS     further options of the peers' script, such as --compile for every row
#   PYTHON         the Python that has PyTorch       python3
#   OURS_SECONDS, PEERS_SECONDS   time limits        150, 270: the core suite takes less than 8 minutes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../target/benchmark}
bin=${WARPCONV_BIN:-$here/../target/release/warpconv}
device=${DEVICE:-best} suite=${SUITE:-core} filter=${FILTER:-} python=${PYTHON:-python3}
ours_seconds=${OURS_SECONDS:-150} peers_seconds=${PEERS_SECONDS:-270}
[ -x "$bin" ] || { echo "compare.sh: no program at $bin: build it with 'cargo build --release --features cuda', or set WARPCONV_BIN" >&2; exit 2; }
mkdir -p "$folder"

options=(--suite "$here/suite.json")
[ "$suite" = all ] || options+=(--core)
[ -z "$filter" ] || options+=(--filter "$filter")
if [ "$device" = best ]; then
  # `info` lists a GPU that cannot be used too, with the reason in place of its name
  device=host
  ! "$bin" info --json | tr -d ' \n' | grep -q '"device":"cuda:0","name"' || device=cuda:0
fi
if [ "$device" = host ]; then
  echo "compare.sh: the host device: small sizes, and times that say nothing of a GPU" >&2
  options+=(--tiny)
fi

echo "== ours"
status=0
# the program looks at the clock between configurations; `timeout` is for one that hangs
timeout "$((ours_seconds + 60))" "$bin" bench "${options[@]}" --device "$device" --time-limit "$ours_seconds" --json "$folder/ours.json" >"$folder/ours.txt" || status=$?
[ -s "$folder/ours.json" ] || { echo "compare.sh: our part gave no results (exit code $status)" >&2; exit 2; }
[ "$status" = 0 ] || echo "compare.sh: our part ended with $status: see $folder/ours.txt" >&2

merge=()
if [ "${PEERS:-torch}" = torch ]; then
  if "$python" -c 'import torch' 2>/dev/null; then
    echo "== PyTorch"
    torch_device=cuda
    case $device in host) torch_device=cpu ;; cuda:*) torch_device=$device ;; esac
    # pass NAME SECONDS OPTIONS...
    pass() {
      local name=$1 seconds=$2
      shift 2
      timeout "$((seconds + 60))" "$python" "$here/peers/torch_peers.py" --suite "$here/suite.json" --like "$folder/ours.json" \
        --device "$torch_device" --time-limit "$seconds" --json "$folder/$name.json" "$@" 2>"$folder/$name.log" || {
        echo "compare.sh: the peers' part ended with $?: the end of $folder/$name.log:" >&2
        tail -n 3 "$folder/$name.log" >&2
      }
      [ ! -s "$folder/$name.json" ] || merge+=(--peers "$folder/$name.json")
    }
    begin=$SECONDS
    # shellcheck disable=SC2086 # several options
    pass torch "$peers_seconds" ${PEERS_ARGS:-}
    # what fuses a tail: beside our fused rows, for as long as there is time
    left=$((peers_seconds - (SECONDS - begin)))
    if [ "$torch_device" != cpu ] && [ "$left" -gt 20 ]; then
      echo "== PyTorch, compiled, rows with a tail"
      pass torch-compile "$left" --compile --filter ' tail$'
    fi
  else
    echo "compare.sh: $python has no torch: ours alone" >&2
  fi
fi

echo "== merged"
"$bin" bench --from "$folder/ours.json" "${merge[@]}" --json "$folder/results.json" --plot "$folder/plots" >"$folder/table.txt" || status=$?
cat "$folder/table.txt"
echo "results.json, table.txt and plots/ are in $folder"
exit "$status"
