#!/usr/bin/env bash
# Applies each patch of this folder to a copy of the tree, and shows that the simulator catches the bug that it plants: under the seed and by
# the checker that its header names. The tree as it is has to pass that seed. Needs no network.
#
# `catch.sh` for all of them, `catch.sh NAME…` for some. Exit code 1: one wasn't caught, or a patch no longer applies.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
patches=$root/scenarios/planted

# Either would replace the flag that makes the simulated world.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/kumod/target}-madsim/planted
mkdir -p "$CARGO_TARGET_DIR"
CARGO_TARGET_DIR=$(cd "$CARGO_TARGET_DIR" && pwd)
# Always the same place: cargo tells the crates of two copies apart by their paths, and would keep what it built of both.
copy=$CARGO_TARGET_DIR/tree
sim=$CARGO_TARGET_DIR/sim/sim
# A copy may lie inside a repository, which must not be taken for its own.
export GIT_CEILING_DIRECTORIES=$CARGO_TARGET_DIR

log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() { # text
  printf 'planted %s\n' "$1" >&2
  exit 1
}

field() { # patch, name
  sed -n "/^diff /q; s/^# $2: *//p" "$patches/$1.patch"
}

# Files get the time of now, so that cargo sees each change whatever the copy held before.
copy_tree() {
  rm -rf "$copy"
  mkdir "$copy"
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
    tar --create --null --files-from=- | tar --extract --touch --directory="$copy"
}

# In the copy's folder, for the sake of its own settings of cargo.
build() { # what, for the error
  (cd "$copy" && cargo build --quiet --locked --profile sim --config "build.rustflags=['--cfg','madsim']" \
    --package kumo-scenarios --bin sim) || fail "$1: doesn't build"
}

# Leaves the output in the log, and the exit code in `code`.
play() { # scenario, seed
  code=0
  (cd "$copy" && timeout 300 "$sim" run "$1" --seeds "$2..$(($2 + 1))") >"$log" 2>&1 || code=$?
}

apply() { # patch, option…
  local patch=$1
  shift
  (cd "$copy" && git apply "$@" "$patches/$patch.patch")
}

passes_without() { # patch
  local scenario seed
  scenario=$(field "$1" scenario) seed=$(field "$1" seed)
  play "$scenario" "$seed"
  [ "$code" -eq 0 ] && return
  tail -n 5 "$log" >&2
  fail "$1: $scenario fails under seed $seed without the bug too (exit code $code), so it shows nothing"
}

is_caught() { # patch
  local scenario seed checker
  scenario=$(field "$1" scenario) seed=$(field "$1" seed) checker=$(field "$1" checker)
  apply "$1" || fail "$1: the patch no longer applies"
  build "$1"
  play "$scenario" "$seed"
  apply "$1" --reverse
  if [[ $code =~ ^1[12]$ ]] && grep -q "^broken invariant $checker: " "$log"; then
    printf 'planted %s: caught by %s under seed %s\n' "$1" "$checker" "$seed"
    return
  fi
  tail -n 5 "$log" >&2
  fail "$1: NOT caught by $checker under seed $seed of $scenario (exit code $code). If the simulated world has changed, look for its lowest
  seed now: apply the patch, and \`cargo sim run $scenario --seeds 0..2500 --keep-going\`"
}

names=("$@")
if [ $# -eq 0 ]; then
  for patch in "$patches"/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
copy_tree
for name in "${names[@]}"; do
  [ -f "$patches/$name.patch" ] || fail "$name: there is no such patch"
  for wanted in scenario seed checker; do
    [ -n "$(field "$name" $wanted)" ] || fail "$name: the patch has no line \`# $wanted: …\`"
  done
  # Before anything is built: it takes minutes.
  apply "$name" --check || fail "$name: the patch no longer applies"
done
build 'tree without a bug'
for name in "${names[@]}"; do passes_without "$name"; done
for name in "${names[@]}"; do is_caught "$name"; done
