#!/usr/bin/env bash
# `make test`: every check there is, each with its time. Stops at the first part that fails.
set -euo pipefail
cd "$(dirname "$0")/../.."

part() { # title, command…
  local title=$1 started=$SECONDS
  shift
  printf '== %s\n' "$title"
  "$@"
  printf '== %s: %d s\n\n' "$title" $((SECONDS - started))
}

core_stays_pure() {
  ! grep -rnE '\b(tokio|madsim|rocksdb|hickory|mlua|axum)::|Instant::now\(|SystemTime::now\(|std::(net::(Tcp|Udp)|thread|fs)::' \
    core/src --include='*.rs'
}

ROCKSDB_LIB_DIR=$(kumod/tools/setup.sh test)
export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1

part 'format' cargo fmt --all --check
part 'core names no runtime, clock or I/O' core_stays_pure
part 'lints' cargo clippy --workspace --all-targets --locked -- -D warnings
part 'tests' cargo test --workspace --locked
