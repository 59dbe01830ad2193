#!/usr/bin/env bash
# `make bench`, second part: BENCH_MESSAGES=200000 messages of 1 KiB over 100 connections while the destination is down. How
# fast they are accepted (synced, logged), what each costs in memory once accepted, and how soon a restart accepts and has
# scheduled them all. BENCH_RUNS=5 runs, each with a spool of its own; medians. Nothing is left running or behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=kumod/tools/bench/lab.sh
. kumod/tools/bench/lab.sh
runs=${BENCH_RUNS:-5}
messages=${BENCH_MESSAGES:-200000}
kumod=${KUMOD:-$CARGO_TARGET_DIR/release/kumod}
[ -x "$kumod" ] || fail "$kumod is missing: cargo build --release -p kumod"
# The reference MTA, unsynced, on a machine such as this.
reference_restart=28000
restart_target=4 restart_floor=2 octets_target=600

scheduled() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$http"
    printf 'GET /metrics?prefix=scheduled_count_total HTTP/1.0\r\nHost: bench\r\n\r\n' >&3
    sed -n 's/^scheduled_count_total \([0-9]*\).*/\1/p' <&3
  ) 2>/dev/null
}

wait_until_scheduled() { # how many, seconds
  local until=$((SECONDS + $2))
  until [ "$(scheduled)" = "$1" ]; do
    [ $SECONDS -lt $until ] || fail "$(scheduled) messages are scheduled after $2 s, not $1"
    nap 0.2
  done
}

# From the diagnostics: the number before a word.
budget() { sed -n "s/.*memory budget.* \([0-9]*\) of $1.*/\1/p" "$lab/kumod/output"; }

wait_until_accepting() {
  until (exec 3<>"/dev/tcp/127.0.0.1/$listen" && read -r -t 5 line <&3 && [[ $line == 220* ]]) 2>/dev/null; do nap 0.01; done
}

measure() {
  local before after budget began us accepting rate seconds
  listen=$(free_port) http=$(free_port)
  start_kumod backlog.lua "$listen" "$(free_port)"
  nap 2
  before=$(memory_kumod VmRSS)
  memtables=$(budget memtables) cache=$(budget 'block cache') bodies=$(budget bodies)
  budget=$((memtables + cache + bodies))
  began=$(now_us)
  (in_group load smtp-source -d -s 100 -m "$messages" -l 1024 -f bench@client.test -t bench@sink.test \
    "127.0.0.1:$listen" >"$lab/source" 2>&1) || fail "smtp-source: $(tail -3 "$lab/source")"
  us=$(($(now_us) - began))
  wait_until_scheduled "$messages" 60
  nap 5
  after=$(memory_kumod VmRSS)
  stop_kumod
  began=$(now_us)
  launch_kumod "$listen"
  wait_until_accepting
  accepting=$((($(now_us) - began) / 1000))
  wait_until_scheduled "$messages" 120
  read -r seconds rate < <(sed -n "s/.*enumeration done, spooled in $messages msgs over \([0-9.]*\)s \([0-9]*\)\/s.*/\1 \2/p" "$lab/kumod/output")
  [ -n "${rate:-}" ] || fail "the restart didn't read all: $(grep enumeration "$lab/kumod/output")"
  stop_kumod
  rm -rf "${lab:?}/kumod"
  awk -v n="$messages" -v us="$us" -v before="$before" -v after="$after" -v budget="$budget" -v accepting="$accepting" \
    -v seconds="$seconds" -v rate="$rate" 'BEGIN {
      beyond = (after - before) * 1024 - budget
      printf "%.0f %.0f %.0f %.0f %.0f %s %d\n", n * 1e6 / us, before / 1000, after / 1000, beyond / n, accepting, seconds, rate }' |
    tee -a "$lab/results"
}

column() { awk -v column="$1" '{print $column}' "$lab/results" | median; }

report() {
  local octets rate times
  octets=$(column 4) rate=$(column 7)
  times=$(awk -v r="$rate" -v reference=$reference_restart 'BEGIN {printf "%.1f", r / reference}')
  printf '\nbacklog: %s messages of 1 KiB over 100 connections, destination down, synced, medians of %s\n' "$messages" "$runs"
  printf '  accepted                    %s messages/s (the reference, unsynced: 3900)\n' "$(column 1)"
  printf '  resident before and after   %s and %s MB; budgets: memtables %s, block cache %s, bodies %s MB\n' \
    "$(column 2)" "$(column 3)" $((memtables / 1000000)) $((cache / 1000000)) $((bodies / 1000000))
  printf '  growth beyond the budgets   %s octets a message: %s\n' "$octets" "$(verdict "$octets" $octets_target $octets_target)"
  printf '  restart: accepting after    %s ms\n' "$(column 5)"
  printf '  restart: all scheduled in   %s s, %s messages/s, %s times the reference: %s\n' \
    "$(column 6)" "$rate" "$times" "$(verdict "$times" $restart_target $restart_floor up)"
}

lab_open
: >"$lab/results"
printf '%s; %s; %s processors; %s on %s\n' "$(date -u +%FT%TZ)" "$("$kumod" --version)" "$(nproc)" "$lab" "$(stat -f -c %T "$lab")"
echo '-- accepted/s, resident MB before, after, octets a message beyond the budgets, ms until accepting, s until all scheduled, messages/s'
for _ in $(seq "$runs"); do measure; done
report
