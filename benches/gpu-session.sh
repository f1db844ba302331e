#!/usr/bin/env bash
# A visit to a machine with a GPU, nine minutes in all: which kernels are right, how fast they are beside PyTorch, and a tuning
# table. It needs the prebuilt program and this folder; no Rust, no nvcc. It changes none of the GPU's settings.
#
#   benches/gpu-session.sh [FOLDER]      FOLDER, for session.tgz: target/gpu-session unless given
#   benches/gpu-session.sh --plan        the steps and their seconds
#   benches/gpu-session.sh --control     the control rows, as a regex
#
#   WARPCONV_BIN   the program, as scripts/pack-for-gpu packs it     target/release/warpconv
#   WITH_GPU       the tests for GPUs, as a program                  with_gpu beside the program; none: not run
#   WORK           where all files are written that session.tgz holds   FOLDER
#   DEVICE         cuda:N                                            cuda:0
#   PYTHON         the Python that has PyTorch                       python3
#   VISIT          1: the first visit; 2: more of the same           1
#   SECONDS_IN_ALL what there is in all                              540
#   STEPS          only these steps                                  all of the visit
#   FILTER         only rows of the suite that match                 all core rows
#   CONTROL        the control rows                                  eight: see --control
#   WATCHDOG       seconds after which a kernel that has not ended is taken for one that hangs   10
#   CASES          the most cases that verify runs, here and under the sanitizer   as many as there is time for
#   BENCH_OPTIONS, VERIFY_OPTIONS   further options of the program, such as --tiny
#
# After each step session.tgz is written anew, with all that there is. A kernel that takes the GPU down or hangs ends its
# step with exit code 3: it is named in lost.txt with the line that repeats it, and the step goes on without it, at most 5 times.
# Exit code: 0 all is well; 1 something is wrong or did not run; 3 a kernel took the GPU down.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
visit=${VISIT:-1}
in_all=${SECONDS_IN_ALL:-540}

# NAME SECONDS: what a step may take at most, the most valuable first
first_visit="facts 15
with_gpu 60
verify 120
tune 90
bench 70
before 18
peers 104
after 18
merge 10
memcheck 35"
second_visit="facts 15
verify_more 90
bench_more 120
peers_more 110
merge_more 10
racecheck 60
synccheck 35
ncu 60
conformance 40"
plan=$first_visit
[ "$visit" = 1 ] || plan=$second_visit
# Eight rows of ours that are timed right before the peers and right after them: how far the machine has moved meanwhile.
control_rows='^(resnet50/(stage2_3x3_64x56|stage2_1x1_64to256)|vgg16/3x3_256to256x56|mobilenet_v2/dw3_144x56|convnext_t/dw7_96x56'
control_rows+='|resnext50_32x4d/g32_256x28|efficientnet_b0/1x1_16to96x112|edsr/pixel_shuffle_256x96) b8 f16 channels_last$'
case ${1:-} in
  --plan)
    echo "$plan"
    echo "$plan" | awk '{ sum += $2 } END { print "in all " sum }'
    exit 0
    ;;
  --control)
    echo "$control_rows"
    exit 0
    ;;
esac

given=${1:-$here/../target/gpu-session}
mkdir -p "$given" "${WORK:-$given}" || exit 2
given=$(cd "$given" && pwd)
folder=$(cd "${WORK:-$given}" && pwd)
bin=${WARPCONV_BIN:-$here/../target/release/warpconv}
device=${DEVICE:-cuda:0} python=${PYTHON:-python3}
with_gpu=${WITH_GPU:-$(dirname "$bin")/with_gpu}
[ -x "$bin" ] || { echo "gpu-session.sh: no program at $bin: set WARPCONV_BIN" >&2; exit 2; }
bin=$(cd "$(dirname "$bin")" && pwd)/$(basename "$bin")
end=$((SECONDS + in_all))
: >"$folder/steps.txt"
: >"$folder/lost.txt"
failed=0
skips=()
child=
# whatever is in the background when the script ends
background=()
trap '[ ${#background[@]} = 0 ] || kill "${background[@]}" 2>/dev/null' EXIT

left() { echo $((end - SECONDS)); }

# The archive is written anew, and replaces the old one in one go. tar ends with 1 where a file grew meanwhile, as clocks.csv does.
pack() {
  tar -C "$folder" --exclude='./session.tgz*' -czf "$given/session.tgz.part" . 2>/dev/null
  [ $? -le 1 ] && mv "$given/session.tgz.part" "$given/session.tgz"
}

leave() {
  trap '' TERM INT
  # the step under way, with all that it started
  [ -z "$child" ] || kill -TERM -- "-$child" 2>/dev/null
  # the program saves what it has, which takes it a moment
  [ -z "$child" ] || { sleep 2; kill -KILL -- "-$child" 2>/dev/null; }
  echo "cut off from outside" >>"$folder/steps.txt"
  pack
  exit 1
}
trap leave TERM INT

# limited SECONDS FILE COMMAND...: runs a command with a limit, in a process group of its own, all that it says into FILE
limited() {
  local limit=$1 file=$2 code=0
  shift 2
  set -m
  timeout --foreground --kill-after=5 "$limit" "$@" >>"$file" 2>&1 </dev/null &
  child=$!
  set +m
  wait "$child" || code=$?
  # what the command left behind
  kill -KILL -- "-$child" 2>/dev/null
  child=
  return "$code"
}

# step NAME COMMAND...: COMMAND is a function here, which is given the seconds that it may take
step() {
  local name=$1 seconds left code=0 begin=$SECONDS verdict
  shift
  seconds=$(echo "$plan" | awk -v name="$name" '$1 == name { print $2 }')
  [ -n "$seconds" ] || return 0
  case " ${STEPS:-$name} " in *" $name "*) ;; *) return 0 ;; esac
  # the times are those of nine minutes: less in all, less for each
  seconds=$((seconds * in_all / 540))
  left=$(left)
  if [ "$left" -lt 3 ]; then
    echo "$name: not run, the time is up" | tee -a "$folder/steps.txt"
    failed=1
    return 0
  fi
  # a program has to start at least
  [ "$seconds" -ge 5 ] || seconds=5
  [ "$seconds" -le "$left" ] || seconds=$left
  echo "== $name (at most $seconds s)"
  : >"$folder/$name.txt"
  "$@" "$seconds" || code=$?
  case $code in
    0) verdict=ok ;;
    3) verdict="LOST THE GPU" failed=3 ;;
    77) verdict="not on this machine" ;;
    124 | 137) verdict="cut off after $seconds s" ;;
    *) verdict="FAILED with $code" ; [ "$failed" = 3 ] || failed=1 ;;
  esac
  tail -n 3 "$folder/$name.txt"
  echo "$name: $verdict, $((SECONDS - begin)) s" | tee -a "$folder/steps.txt"
  pack
}

# persevere NAME SECONDS COMMAND...: runs the program with --time-limit; when it loses the GPU, again without the kernel that did it.
# {} in the command stands for the number of the attempt, so that each attempt keeps its own files; what is in $progress, with the
# same {}, is not measured again.
progress=
persevere() {
  local name=$1 seconds=$2 begin=$SECONDS attempt code rest kernel known file worst=0 done_files=()
  shift 2
  for attempt in 1 2 3 4 5 6; do
    rest=$((seconds - (SECONDS - begin)))
    [ "$rest" -ge 2 ] || break
    code=0
    : >"$folder/trace.txt"
    # the program looks at the clock itself; the outer limit is for one that does not come back
    limited "$((rest + 5))" "$folder/$name.txt" "${@//\{\}/$attempt}" ${skips[@]+"${skips[@]}"} \
      ${done_files[@]+"${done_files[@]}"} --time-limit "$rest" --trace "$folder/trace.txt" --watchdog "${WATCHDOG:-10}" || code=$?
    case $code in 0) ;; *) [ "$worst" = 3 ] || worst=$code ;; esac
    [ "$code" = 3 ] || break
    worst=3
    grep -h -A 1 '^DEVICE LOST' "$folder/$name.txt" | tail -n 2 | sed "s/^/$name: /" >>"$folder/lost.txt"
    # the likeliest is the last of those under way
    kernel=$(grep -h '^DEVICE LOST' "$folder/$name.txt" | tail -n 1 | sed -n 's/.*under way: //p' | sed 's/.*, //' | tr -d ' ')
    known=" ${skips[*]-} "
    [ -n "$kernel" ] && [ "$kernel" != "nokernel" ] || break
    case $known in *" $kernel "*) break ;; esac
    skips+=(--skip "$kernel")
    # shellcheck disable=SC2086 # a pattern
    for file in ${progress//\{\}/$attempt}; do [ ! -s "$file" ] || done_files+=(--done "$file"); done
    echo "gpu-session.sh: goes on without $kernel" | tee -a "$folder/$name.txt"
  done
  return "$worst"
}

# ---- the steps

facts() {
  # read, never set; until the session ends
  nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv -lms 500 >"$folder/clocks.csv" 2>/dev/null &
  background+=($!)
  # the first import of torch takes long: its files are read while other steps run
  "$python" -c 'import torch, torchvision' >/dev/null 2>&1 &
  background+=($!)
  describe() {
    date -u
    uname -a
    nvidia-smi
    nvidia-smi -q -d CLOCK,POWER,ECC,PERFORMANCE
    "$bin" --version
    "$bin" info --json
    "$python" -c 'from importlib.metadata import version; print("torch", version("torch"), "torchvision", version("torchvision"))'
    "$bin" info
  }
  export -f describe
  export bin python
  limited "$1" "$folder/facts.txt" bash -c describe
}

tests() {
  [ -x "$with_gpu" ] || return 77
  limited "$1" "$folder/with_gpu.txt" "$with_gpu" --test-threads 1
}

# shellcheck disable=SC2086 # several options
verify() { persevere verify "$1" "$bin" verify --device "$device" --every-kernel --cases "${CASES:-100000}" --seed 1 ${VERIFY_OPTIONS:-}; }
# shellcheck disable=SC2086
verify_more() { persevere verify_more "$1" "$bin" verify --device "$device" --cases "${CASES:-100000}" --seed 2 ${VERIFY_OPTIONS:-}; }

# shellcheck disable=SC2086
tune() {
  local progress=$folder/tuning{}/tuning-*.json
  persevere tune "$1" "$bin" tune --device "$device" --suite "$here/suite.json" --core --dtype f16 ${FILTER:+--filter "$FILTER"} --out "$folder/tuning{}" ${BENCH_OPTIONS:-}
}

# bench_rows NAME SECONDS OPTIONS...: with all tuning tables that there are, and merged into NAME.json
bench_rows() {
  local name=$1 seconds=$2 code=0 tables=() parts=() table progress=$folder/$1-{}.json
  shift 2
  for table in "$folder"/tuning*/tuning-*.json; do [ ! -s "$table" ] || tables+=(--tuning "$table"); done
  # shellcheck disable=SC2086
  persevere "$name" "$seconds" "$bin" bench --device "$device" --suite "$here/suite.json" ${tables[@]+"${tables[@]}"} "$@" \
    --json "$folder/$name-{}.json" ${BENCH_OPTIONS:-} || code=$?
  for table in "$folder/$name"-[1-6].json; do [ ! -s "$table" ] || parts+=("$table"); done
  if [ ${#parts[@]} = 0 ]; then
    [ "$code" != 0 ] || code=1
    return "$code"
  fi
  "$python" "$here/merge_results.py" "$folder/$name.json" "${parts[@]}" >>"$folder/$name.txt" 2>&1 || [ "$code" != 0 ] || code=1
  return "$code"
}
bench() { bench_rows bench "$1" --core --dtype f16 ${FILTER:+--filter "$FILTER"}; }
bench_more() { bench_rows bench_more "$1" --core --dtype bf16,f32 ${FILTER:+--filter "$FILTER"}; }

peer_rows() {
  local name=$1 like=$2 seconds=$3 torch_device=${device/host/cpu}
  [ -s "$folder/$like.json" ] || return 77
  "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' || return 77
  limited "$((seconds + 5))" "$folder/$name.txt" "$python" "$here/peers/torch_peers.py" --suite "$here/suite.json" --like "$folder/$like.json" \
    --device "$torch_device" --time-limit "$((seconds > 20 ? seconds - 5 : seconds))" --json "$folder/$name.json"
}
peers() { peer_rows peers bench "$1"; }
peers_more() { peer_rows peers_more bench_more "$1"; }

merge_rows() {
  local name=$1 of=$2 peers=$3 seconds=$4 code=0 others=()
  [ -s "$folder/$of.json" ] || return 77
  [ ! -s "$folder/$peers.json" ] || others=(--peers "$folder/$peers.json")
  limited "$seconds" "$folder/$name.txt" "$bin" bench --from "$folder/$of.json" ${others[@]+"${others[@]}"} --json "$folder/results-$of.json" \
    --plot "$folder/plots-$of" || code=$?
  return "$code"
}
merge() { merge_rows merge bench peers "$1"; }
merge_more() { merge_rows merge_more bench_more peers_more "$1"; }

before() { bench_rows before "$1" --core --filter "${CONTROL:-$control_rows}"; }
after() {
  local code=0
  bench_rows after "$1" --core --filter "${CONTROL:-$control_rows}" || code=$?
  if [ ! -s "$folder/before.json" ] || [ ! -s "$folder/after.json" ]; then
    [ "$code" != 0 ] || code=1
    return "$code"
  fi
  "$python" "$here/merge_results.py" --drift "$folder/before.json" "$folder/after.json" >"$folder/drift.txt" || code=1
  cat "$folder/drift.txt" >>"$folder/after.txt"
  return "$code"
}

# Under the sanitizer a launch takes thousands of times as long: few cases.
sanitizer() {
  local tool=$1 cases=${CASES:-$2} seconds=$3 code=0
  command -v compute-sanitizer >/dev/null || return 77
  limited "$((seconds + 5))" "$folder/$tool.txt" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
    "$bin" verify --device "$device" --cases "$cases" --seed 3 --time-limit "$((seconds > 10 ? seconds - 5 : seconds))" --watchdog 0 \
    ${skips[@]+"${skips[@]}"} || code=$?
  return "$code"
}
memcheck() { sanitizer memcheck 60 "$1"; }
racecheck() { sanitizer racecheck 40 "$1"; }
synccheck() { sanitizer synccheck 40 "$1"; }

# The rows that are furthest from their floor, under the profiler.
counters() {
  local rows
  command -v ncu >/dev/null || return 77
  [ -s "$folder/bench.json" ] || [ -s "$folder/bench_more.json" ] || return 77
  rows=$("$python" "$here/merge_results.py" --furthest 3 "$folder"/bench*.json) || return 1
  limited "$1" "$folder/ncu.txt" ncu --clock-control none --set full --launch-count 12 --kernel-name-base function \
    "$bin" bench --device "$device" --suite "$here/suite.json" --filter "$rows" --watchdog 0 ${skips[@]+"${skips[@]}"}
}

corpus() {
  [ -d "$here/../tests/data/torch_dev" ] || return 77
  persevere conformance "$1" "$bin" conformance "$here/../tests/data/torch_dev" --device "$device" --dtype all --format all --all-kernels
}

step facts facts
step with_gpu tests
step verify verify
step verify_more verify_more
step tune tune
step bench bench
step bench_more bench_more
step before before
step peers peers
step peers_more peers_more
step after after
step merge merge
step merge_more merge_more
step memcheck memcheck
step racecheck racecheck
step synccheck synccheck
step ncu counters
step conformance corpus

echo "== $given"
cat "$folder/steps.txt"
[ ! -s "$folder/drift.txt" ] || cat "$folder/drift.txt"
[ ! -s "$folder/lost.txt" ] || { echo "== kernels that took the GPU down"; cat "$folder/lost.txt"; }
pack
exit "$failed"
