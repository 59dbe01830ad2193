#!/usr/bin/env bash
# Where kumod's instructions go as a relay: BENCH_MESSAGES=4000 messages of 1 KiB over 100 kept connections, under callgrind. Prints
# a summary by part of the program and the functions with the most instructions of their own; `where.txt` beside lab.sh is one
# such run. Counts are instructions, not time: what waits for the kernel or the disk isn't in them.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=kumod/tools/bench/lab.sh
. kumod/tools/bench/lab.sh
kumod=${KUMOD:-$CARGO_TARGET_DIR/release/kumod}
messages=${BENCH_MESSAGES:-4000} connections=100
[ -x "$kumod" ] || fail "$kumod is missing: cargo build --release -p kumod"

# A row for each part of the program, by what a function's source, name or library says.
by_part() {
  awk -v n="$messages" '
    function part(where) {
      if (where ~ /rocksdb|crc32c/) return "RocksDB"
      if (where ~ /[Zz][Ss][Tt][Dd]|HUF_|FSE_|LZ4|XXH/) return "compression (log, spool)"
      if (where ~ /kumo_core::(smtp|header|address|date|report)/) return "core: SMTP and headers"
      if (where ~ /kumo_core::engine/) return "core: engine"
      if (where ~ /kumo_core/) return "core: commit, records, the rest"
      if (where ~ /kumo_driver/) return "driver"
      if (where ~ /kumod::logs|serde_json/) return "log records"
      if (where ~ /mlua|lua[A-Z_]/) return "policy"
      if (where ~ /tokio|mio::/) return "tokio"
      if (where ~ /mem(cpy|move|set|cmp|chr)/) return "copies and comparisons of memory"
      if (where ~ /malloc|free|calloc|realloc|__rdl|__rust_alloc|arena/) return "allocator"
      return "everything else"
    }
    /^ *[0-9,]+ \( *[0-9.]+%\)/ && !/PROGRAM TOTALS/ {
      cost = $1; gsub(",", "", cost)
      sum[part($0)] += cost; total += cost
    }
    END { for (p in sum) printf "%.0f %.1f%% %s\n", sum[p] / n, 100 * sum[p] / total, p }' "$lab/annotated" | sort -rn
}

# Instructions a message of the lines in source files whose path matches $1, wherever they were inlined, and their share.
by_source() {
  awk -v n="$messages" -v wanted="$1" '
    /^(fl|fi|fe)=/ {
      number = $0; sub(/^f[lie]=/, "", number); name = number
      sub(/\).*/, ")", number)
      if (name ~ /\) /) { sub(/^\([0-9]*\) /, "", name); file[number] = name }
      counts = file[number] ~ wanted
      next
    }
    /^calls=/ { getline; next }
    /^[0-9+*-]/ { total += $2; if (counts) sum += $2 }
    END { printf "%.0f %.2f%%\n", sum / n, 100 * sum / total }' "$lab/kumod/callgrind.out"
}

lab_open
listen=$(free_port) port=$(free_port)
start_sink "$port"
start_kumod relay.lua "$listen" "$port" valgrind --tool=callgrind --callgrind-out-file="$lab/kumod/callgrind.out"
# callgrind makes its file as root and writes it as nobody.
chown nobody "$lab/kumod/callgrind.out"
(in_group load smtp-source -d -s "$connections" -m "$messages" -l 1024 -f bench@client.test -t bench@sink.test "127.0.0.1:$listen")
wait_for_sink "$messages" 600
nap 3
empty_group server TERM || fail 'kumod did not stop within 20 s'
callgrind_annotate --auto=no --threshold=99.9 --show-percs=yes "$lab/kumod/callgrind.out" >"$lab/annotated"

printf '%s; %s messages of 1 KiB, %s connections; instructions a message, share, part\n\n' "$("$kumod" --version)" "$messages" "$connections"
by_part
printf '\nof these, the health gate and the disk guard: %s\n' "$(by_source '/health/')"
printf '\nthe functions with the most instructions of their own\n\n'
grep -E '^ *[0-9,]+ \( *[0-9.]+%\)' "$lab/annotated" | grep -v 'PROGRAM TOTALS' | head -30 | sed -E "s#(/root)?[^ ]*/(registry/src/[^/]*|rustc/[0-9a-f]*|sysdeps)/##; s# \[.*##" | cut -c1-150
