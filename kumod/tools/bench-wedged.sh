#!/usr/bin/env bash
# `make bench-wedged`: does a wedged dispatcher slow the mail of others? BENCH_RATE=200 messages/s of 1 KiB for BENCH_SECONDS=20 to a
# sink that is well, and how long each took from acceptance to delivery by kumod's own log records: in pairs, without and with other
# destinations that wedge, each with messages queued and a watchdog of BENCH_WATCHDOG=5 seconds. BENCH_WEDGES='peers lua' names what is wedged:
#   peers  a server that is silent after STARTTLS, and one that takes an octet a second
#   lua    a sender of custom_lua that sleeps, and one that spins until its instructions are used up; `sleep` and `spin` are each alone
#   endless  a sender that spins in one call of Lua's library, which nothing ends: its thread outlives the abort
# BENCH_RUNS=5 pairs of each, medians, judged by the ratio of the pair in the middle; a measurement with wedges in which the watchdog
# aborted nothing fails. A pair during which the rest of the machine took more than BENCH_OTHERS=10 % is measured again, twice at most.
# KUMOD names another binary.
# Nothing is left running or behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=kumod/tools/bench/lab.sh
. kumod/tools/bench/lab.sh
runs=${BENCH_RUNS:-5} rate=${BENCH_RATE:-200} seconds=${BENCH_SECONDS:-20}
# The policy reads it.
export BENCH_WATCHDOG=${BENCH_WATCHDOG:-5}
wedges=${BENCH_WEDGES:-peers lua}
kumod=${KUMOD:-$CARGO_TARGET_DIR/release/kumod}
traffic_gen=${kumod%/*}/traffic-gen
for program in "$kumod" "$traffic_gen"; do
  [ -x "$program" ] || fail "$program is missing: cargo build --release -p kumod --bins"
done
# The ratio of p99 with and without, of the pair in the middle.
bound=1.1
queued=30

# Destinations, and whether the watchdog has to abort what goes there.
describe() {
  case $1 in
    peers) echo 'silent slow' ;;
    lua) echo 'sleeping spinning' ;;
    sleep) echo 'sleeping' ;;
    spin) echo 'spinning' ;;
    endless) echo 'endless' ;;
    none) echo '' ;;
    *) fail "there is no wedge named $1; there are peers, lua, sleep, spin and endless" ;;
  esac
}

send() { # domain, traffic-gen's options…
  (in_group load "$traffic_gen" --target "127.0.0.1:$listen" --domain "$1.test" --domain-suffix '' "${@:2}" >"$lab/source" 2>&1) ||
    fail "traffic-gen: $(tail -3 "$lab/source")"
}

aborted() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$http"
    printf 'GET /metrics?prefix=dispatcher_watchdog_aborted_total HTTP/1.0\r\nHost: bench\r\n\r\n' >&3
    awk '/^dispatcher_watchdog_aborted_total/ {sum += $2} END {print sum + 0}' <&3
  )
}

# One measurement: a line of `round wedge none|with messages p50 p99 p99-of-accepting aborted kumod's-processors others-%`.
measure() { # round, wedge, none|with
  local domain size began cpu load_cpu busy wall stuck delays
  local wedge=$2
  [ "$3" = with ] || wedge=none
  listen=$(free_port) http=$(free_port) port=$(free_port)
  start_sink "$port"
  (in_group load python3 "$tools/wedge.py" "$port" >"$lab/wedge" 2>&1) &
  # The later of its two addresses.
  wait_for_port "$port" wedge.py 127.0.0.3
  start_kumod wedged.lua "$listen" "$port"
  # So that no connection or table has to be made while it counts.
  send well --message-count 500
  wait_for_sink 500 60
  for domain in $(describe "$wedge"); do
    size=1k
    # More than the systems on both sides take of it.
    [ "$domain" != slow ] || size=256k
    send "$domain" --message-count $queued --body-size $size
  done
  # By the first abort all are wedged.
  nap $((BENCH_WATCHDOG + 1))
  began=$(now_us) cpu=$(cpu_us server) load_cpu=$(cpu_us load) busy=$(busy_us) stuck=$(aborted)
  send well --message-count $((rate * seconds)) --throttle "$rate/s"
  wait_for_sink $((500 + rate * seconds)) 60
  wall=$(($(now_us) - began))
  cpu=$(($(cpu_us server) - cpu)) load_cpu=$(($(cpu_us load) - load_cpu)) busy=$(($(busy_us) - busy)) stuck=$(($(aborted) - stuck))
  stop_kumod
  stop_sink
  delays=$(zstdcat "$lab"/kumod/logs/* | python3 "$tools/delays.py" well.test "$began") || fail "the records can't be read"
  rm -rf "${lab:?}/kumod"
  awk -v begin="$1 $2 $3 $delays $stuck" -v cpu=$cpu -v others=$((busy - cpu - load_cpu)) -v wall=$wall -v all="$(nproc)" 'BEGIN {
      printf "%s %.2f %.0f\n", begin, cpu / wall, 100 * (others > 0 ? others : 0) / wall / all }' | tee -a "$lab/pair"
  # What spins ends by its own instructions.
  [ $stuck -gt 0 ] || [ "$wedge" = none ] || [ "$wedge" = spin ] || fail "nothing was aborted with $2"
}

# Delays of less than a millisecond show everybody who computes beside them.
pair() { # round, wedge
  local way ways='none with' tries=3
  # Each goes first every other round.
  [ $(($1 % 2)) -eq 1 ] || ways='with none'
  while [ $((tries--)) -gt 0 ]; do
    : >"$lab/pair"
    for way in $ways; do measure "$1" "$2" "$way"; done
    awk -v most="${BENCH_OTHERS:-10}" '$10 > most {busy = 1} END {exit busy}' "$lab/pair" && break
    echo '  others were busy'
  done
  cat "$lab/pair" >>"$lab/results"
}

of() { # wedge, none|with, column: the median
  awk -v wedge="$1" -v way="$2" -v column="$3" '$2 == wedge && $3 == way {print $column}' "$lab/results" | median
}

# The two of a pair had the same minute of the machine: from one pair to the next it changes by more than what is looked for.
ratios() { # wedge: p99 with, to p99 without, of each pair
  awk -v wedge="$1" '$2 == wedge {p[$1 $3] = $6} END {for (n = 1; n "none" in p; n++) printf "%.2f\n", p[n "with"] / p[n "none"]}' "$lab/results"
}

report() {
  local wedge way times pairs
  for wedge in $wedges; do
    printf '\n%s (%s): %s messages/s for %s s, medians of %s\n' "$wedge" "$(describe "$wedge")" "$rate" "$seconds" "$runs"
    printf '%-10s %10s %10s %18s %10s %12s %10s\n' '' 'p50 ms' 'p99 ms' 'p99 accepting ms' aborted processors 'others %'
    for way in none with; do
      printf '%-10s %10s %10s %18s %10s %12s %10s\n' "$way" "$(of "$wedge" $way 5)" "$(of "$wedge" $way 6)" \
        "$(of "$wedge" $way 7)" "$(of "$wedge" $way 8)" "$(of "$wedge" $way 9)" "$(of "$wedge" $way 10)"
    done
    pairs=$(ratios "$wedge")
    times=$(median <<<"$pairs")
    printf '  p99 with, to p99 without, of a pair: %s: %s; all: %s\n' "$times" "$(verdict "$times" $bound $bound)" "${pairs//$'\n'/, }"
  done
  printf '\nothers: what the rest of the machine took of its %s processors meanwhile\n' "$(nproc)"
}

for wedge in $wedges; do describe "$wedge" >/dev/null; done
lab_open
: >"$lab/results"
printf '%s; %s; %s processors; %s on %s\n' "$(date -u +%FT%TZ)" "$("$kumod" --version)" "$(nproc)" "$lab" "$(stat -f -c %T "$lab")"
echo "-- round, wedge, none or with, messages, p50 ms, p99 ms, p99 accepting ms, aborted, processors kumod used, others %"
for round in $(seq "$runs"); do
  for wedge in $wedges; do pair "$round" "$wedge"; done
done
report
