#!/usr/bin/env bash
# Makes a machine ready to build and test kumod: Debian packages that are missing, and RocksDB compiled once
# and kept outside the checkout. Says what it installs and why. Safe to run again: what is there is left alone.
#
#   setup.sh build     what compiling needs
#   setup.sh test      build, and the peers and tracers that the tests use
#   setup.sh bench     build, and the peers that the benches use
set -euo pipefail

purpose=${1:-build}
cache=${KUMOD_CACHE:-$HOME/.cache/kumod}
here=$(cd "$(dirname "$0")/../.." && pwd)

need() { # package, the file that shows it is there, why
  [ -e "$2" ] && return 0
  printf 'setup: installing Debian package %s: %s\n' "$1" "$3"
  missing+=("$1")
}

missing=()
need g++ /usr/bin/g++ "compiles RocksDB"
if ! compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null; then
  need libclang-dev /nonexistent "bindgen reads RocksDB's headers with it"
fi
case $purpose in
  test|bench)
    need swaks /usr/bin/swaks "an SMTP client we did not write, for the tests"
    need postfix /usr/sbin/smtp-source "smtp-source and smtp-sink, load tools we did not write (its service is not started)"
    need strace /usr/bin/strace "shows that no 250 is written before its sync"
    need bind9 /usr/sbin/named "a real DNS server process for the resolver's tests"
    ;;
esac
if [ ${#missing[@]} -gt 0 ]; then
  sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  # policy-rc.d keeps the packages' services from being started; ours alone is removed again.
  rc=/usr/sbin/policy-rc.d
  if [ ! -e $rc ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee $rc >/dev/null; $sudo chmod 755 $rc
    trap '$sudo rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# RocksDB: about 1,500 CPU seconds, so once a version and not once a profile. The library the release profile
# builds serves the dev profile too.
version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' "$here/Cargo.lock")
kept=$cache/rocksdb-$version
if [ ! -e "$kept/librocksdb.a" ]; then
  printf 'setup: compiling RocksDB %s once, into %s (about 13 minutes on 2 cores)\n' "$version" "$kept"
  mkdir -p "$kept"
  env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC \
    cargo build --release --manifest-path "$here/Cargo.toml" -p rocksdb --target-dir "$cache/rocksdb-build"
  built=$(find "$cache/rocksdb-build/release/build" -path '*librocksdb-sys-*/out/librocksdb.a' | head -n 1)
  cp "$built" "$kept/librocksdb.a.part"
  mv "$kept/librocksdb.a.part" "$kept/librocksdb.a"
  rm -rf "$cache/rocksdb-build"
fi
