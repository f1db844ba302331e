#!/usr/bin/env bash
# Writes src/device/params.rs anew from kernels/params*.h. Needs libclang: the system's, LIBCLANG_PATH, or PyPI's.
#   scripts/regenerate-bindings.sh           write the file
#   scripts/regenerate-bindings.sh --check   exit 1 if the file in the repository differs
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${LIBCLANG_PATH:-}" ] && ! ldconfig -p 2>/dev/null | grep -qE 'libclang(-[0-9.]+)?\.so'; then
  target=target/libclang
  [ -e "$target/clang/native/libclang.so" ] || python3 -m pip install --quiet --no-deps --target "$target" libclang==18.1.1
  export LIBCLANG_PATH="$PWD/$target/clang/native"
fi
mkdir -p target
# the crate itself may fail to compile while the structs and their users differ: only the build script must succeed
generated=$({ cargo check --lib --no-default-features --features regenerate-bindings --message-format json 2>target/regenerate-bindings.log || true; } |
  python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["reason"] == "build-script-executed" and "warpconv" in message["package_id"]:
        print(message["out_dir"] + "/params.rs")')
[ -n "$generated" ] || { tail -n 30 target/regenerate-bindings.log >&2; echo "the build script failed: cargo check --lib --no-default-features --features regenerate-bindings" >&2; exit 1; }
if [ "${1:-}" = --check ]; then
  diff -u src/device/params.rs "$generated" && echo "src/device/params.rs mirrors kernels/params*.h"
else
  cp "$generated" src/device/params.rs && echo "wrote src/device/params.rs"
fi
