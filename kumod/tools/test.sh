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

# In a target folder of its own, since the flag changes every crate; RUSTFLAGS would override the flag.
simulated() { # cargo's command, then its arguments
  local command=$1
  shift
  env -u RUSTFLAGS CARGO_TARGET_DIR="$CARGO_TARGET_DIR-madsim" \
    cargo "$command" --config "build.rustflags=['--cfg','madsim']" --locked "$@"
}

the_simulator_itself() {
  simulated clippy -p kumo-io-sim -p kumo-scenarios --all-targets -- -D warnings
  simulated test -p kumo-io-sim -p kumo-scenarios
}

# The same driver over madsim's executor, in the kind world of its own tests.
the_driver_simulated() {
  simulated test -p kumo-driver --test whole
}

# Exit code 2 and a reason, not an empty run that passes.
without_the_flag_it_refuses() {
  local code=0
  env -u RUSTFLAGS cargo run --quiet --locked -p kumo-scenarios --bin sim -- list 2>/dev/null || code=$?
  [ "$code" = 2 ]
}

# Rules 1 and 2 of the design: who may name what.
names_stay_at_home() { # pattern, folders that may not name it
  local pattern=$1
  shift
  ! grep -rnE "$pattern" "$@" --include='*.rs'
}

only_io_real_touches_the_world() {
  names_stay_at_home '\b(rocksdb|hickory_resolver|rustls|tokio_rustls)::' core kumod/driver kumod/src/policy kumod/src/logs
  names_stay_at_home '\bmlua::' core io-real kumod/driver kumod/src/logs kumod/src/bin kumod/src/daemon.rs
  names_stay_at_home '\baxum::' core io-real kumod/driver kumod/src/logs kumod/src/policy
}

part 'format' cargo fmt --all --check
part 'core names no runtime, clock or I/O' core_stays_pure
part 'each name at home' only_io_real_touches_the_world
part 'lints' cargo clippy --workspace --all-targets --locked -- -D warnings
part 'tests' cargo test --workspace --locked
part 'the driver in the simulator' the_driver_simulated
part 'the simulator itself' the_simulator_itself
part 'a scenarios binary without its flag' without_the_flag_it_refuses
part 'scenarios and canaries' make --no-print-directory sim
