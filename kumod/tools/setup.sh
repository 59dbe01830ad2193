#!/usr/bin/env bash
# Gets a machine ready: `setup.sh build|test|bench`. Debian packages by name where they are missing, and
# RocksDB compiled once and kept, since that alone takes half an hour of processor time.
# Prints to stdout the directory of the built library, and to stderr what it does and why.
set -euo pipefail
cd "$(dirname "$0")/../.."
purpose=${1:?usage: setup.sh build|test|bench}
cache=${KUMOD_CACHE:-$HOME/.cache/kumod}

say() { printf 'setup: %s\n' "$*" >&2; }

# A package's services must not start just because we want its command-line tools.
install_packages() {
  local policy=/usr/sbin/policy-rc.d as_root=() made_policy=
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    made_policy=1
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >&2
  [ -z "$made_policy" ] || "${as_root[@]}" rm -f "$policy"
}

need() { # reason, package…
  local reason=$1 missing=() package
  shift
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing ${missing[*]}: $reason"
  install_packages "${missing[@]}"
}

build_rocksdb() {
  local version home scratch archive
  version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
  home=$cache/rocksdb-$version
  if [ ! -e "$home/librocksdb.a" ]; then
    say "compiling RocksDB ($version) once into $home; this takes 15 to 30 minutes, later runs use the result"
    scratch=$cache/rocksdb-build
    env -u RUSTFLAGS CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off \
      nice cargo build --release --locked -p rocksdb --target-dir "$scratch" >&2
    mkdir -p "$home"
    for archive in librocksdb.a; do
      cp "$(find "$scratch/release/build" -name "$archive" | head -1)" "$home/$archive.part"
      strip --strip-debug "$home/$archive.part"
      mv "$home/$archive.part" "$home/$archive"
    done
    rm -rf "$scratch"
  fi
  printf '%s\n' "$home"
}

need 'compiling RocksDB and its bindings' g++ libclang-dev pkg-config
case $purpose in
  build) ;;
  test) need 'tests against programs that we did not write' swaks libnet-ssleay-perl strace bind9 \
    haproxy microsocks iproute2 curl postfix ;;
  bench) need 'the load generator and the peer to compare with' postfix strace valgrind zstd python3 ;;
  *) say "unknown purpose $purpose"; exit 2 ;;
esac
build_rocksdb
