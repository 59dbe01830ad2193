#!/usr/bin/env bash
# `make bench-peers`: kumod and Debian's Postfix as relays on loopback, in turn, each with a queue on the same disk, and the
# load generator straight into the sink for comparison. BENCH_RUNS=3 rounds, the medians of which end up in a table.
# BENCH_LOADS and BENCH_PEERS narrow it down, or name another peer, `journal`: kumod with --journal. KUMOD names another binary. Nothing is left running or behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=kumod/tools/bench/lab.sh
. kumod/tools/bench/lab.sh
runs=${BENCH_RUNS:-3}
loads=${BENCH_LOADS:-kept each large}
peers=${BENCH_PEERS:-direct postfix kumod}
kumod=${KUMOD:-$CARGO_TARGET_DIR/release/kumod}
[ -x "$kumod" ] || fail "$kumod is missing: cargo build --release -p kumod"

# Title; messages; connections; octets; a connection is kept; target and floor as multiples of Postfix's rate; then target and
# floor of microseconds a message and of megabytes ("-": none).
describe() {
  case $1 in
    kept) echo 'connections kept|10000|100|1024|-d|10|6|150|250|80|120' ;;
    each) echo 'a connection for each message|10000|100|1024||6|4|-|-|-|-' ;;
    large) echo '100 KiB messages|3000|50|102400|-d|3|2|-|-|200|200' ;;
    *) fail "there is no load named $1; there are kept, each and large" ;;
  esac
}

send() { # messages, port
  (in_group load smtp-source ${keep:+"$keep"} -s "$connections" -m "$1" -l "$octets" \
    -f bench@client.test -t bench@sink.test "127.0.0.1:$2" >"$lab/source" 2>&1) ||
    fail "smtp-source: $(tail -3 "$lab/source")"
}

start_peer() { # peer, listen port, sink port, [wrapper…]
  case $1 in
    postfix) start_postfix "${@:2}" ;;
    kumod | journal)
      kumod_options=()
      [ "$1" = kumod ] || kumod_options=(--journal "$lab/kumod/journal")
      start_kumod relay.lua "${@:2}"
      ;;
  esac
}

stop_peer() {
  case $1 in
    postfix) stop_postfix ;;
    kumod | journal) stop_kumod ;;
  esac
  rm -rf "${lab:?}/kumod" "${lab:?}/postfix"
}

# Starts everything and sends a few messages, so that no process, connection or table has to be made while it counts.
warm_up() { # peer, [wrapper…]
  listen=$(free_port)
  port=$(free_port)
  start_sink "$port"
  if [ "$1" = direct ]; then listen=$port; else start_peer "$1" "$listen" "$port" "${@:2}"; fi
  send $((connections * 2)) "$listen"
  wait_for_sink $((connections * 2)) 60
  # What follows a delivery (logs, removals) must not count either.
  nap 1
}

# One measurement: a line of `load peer messages/s µs/message peak-kB others-%`.
measure() { # load, peer
  local peer=$2 began ended cpu load_cpu busy peak=0 private wall
  rm -f "$lab/peak"
  warm_up "$peer"
  began=$(now_us) cpu=$(cpu_us server) load_cpu=$(cpu_us load) busy=$(busy_us)
  send "$messages" "$listen" &
  local source=$!
  while read_sink; [ "$sink_count" -lt $((messages + connections * 2)) ]; do
    [ $(($(now_us) - began)) -lt 300000000 ] || fail "$peer: the sink has only $sink_count messages after 300 s"
    if [ "$peer" = postfix ] && [ $((SECONDS % 2)) -eq 0 ] && [ "$SECONDS" != "${sampled:-}" ]; then
      sampled=$SECONDS private=$(anonymous_kb)
      [ "${private:-0}" -le "$peak" ] || peak=$private
    fi
    nap 0.02
  done
  ended=$(now_us)
  wait $source
  # The end of the work: removals from the spool, and the log's lines.
  nap 1.5
  wall=$(($(now_us) - began))
  cpu=$(($(cpu_us server) - cpu)) load_cpu=$(($(cpu_us load) - load_cpu)) busy=$(($(busy_us) - busy))
  [ "$peer" = postfix ] || peak=$(memory_kumod VmHWM)
  awk -v load="$1" -v peer="$peer" -v n="$messages" -v us=$((ended - began)) -v cpu=$cpu -v peak="$peak" \
    -v others=$((busy - cpu - load_cpu)) -v wall=$((wall * $(nproc))) 'BEGIN {
      printf "%s %s %.0f %.1f %d %.0f\n", load, peer, n * 1e6 / us, cpu / n, peak, 100 * (others > 0 ? others : 0) / wall }' |
    tee -a "$lab/results"
  [ "$peer" = direct ] || stop_peer "$peer"
  stop_sink
}

# Syncs are counted in a round of their own: strace stops a process at these calls only, but it does stop it.
count_syncs() { # load, peer
  local counted
  warm_up "$2" strace -f --seccomp-bpf -c -e trace=fsync,fdatasync,sync_file_range,msync -o "$lab/syncs"
  send "$messages" "$listen"
  wait_for_sink $((messages + connections * 2)) 300
  nap 1.5
  stop_peer "$2"
  stop_sink
  counted=$(awk '$NF == "fsync" || $NF == "fdatasync" {sum += $4} END {print sum + 0}' "$lab/syncs")
  awk -v load="$1" -v peer="$2" -v n=$((messages + connections * 2)) -v syncs="$counted" \
    'BEGIN {printf "%s %s %.2f\n", load, peer, syncs ? n / syncs : 0}' | tee -a "$lab/synced"
}

of() { # load, peer, column: the median
  awk -v load="$1" -v peer="$2" -v column="$3" '$1 == load && $2 == peer {print $column}' "$lab/results" | median
}

report() {
  local load peer rate cpu peak synced
  for load in $loads; do
    IFS='|' read -r title messages connections octets keep rt rf ct cf mt mf < <(describe "$load")
    printf '\n%s: %s messages of %s octets over %s connections, medians of %s\n' \
      "$title" "$messages" "$octets" "$connections" "$runs"
    printf '%-10s %12s %14s %14s %10s %10s\n' '' messages/s 'CPU µs/msg' messages/sync 'peak MB' 'others %'
    for peer in $peers; do
      rate=$(of "$load" "$peer" 3) cpu=$(of "$load" "$peer" 4) peak=$(of "$load" "$peer" 5)
      synced=$(awk -v load="$load" -v peer="$peer" '$1 == load && $2 == peer {print $3}' "$lab/synced")
      if [ "$peer" = direct ]; then cpu=- peak=-; else peak=$(awk -v kb="$peak" 'BEGIN {printf "%.1f", kb / 1000}'); fi
      printf '%-10s %12s %13s %14s %10s %10s\n' "$peer" "$rate" "$cpu" "${synced:--}" "$peak" "$(of "$load" "$peer" 6)"
    done
    if [[ " $peers " == *' postfix '* && " $peers " == *' kumod '* ]]; then
      local times
      times=$(awk -v a="$(of "$load" kumod 3)" -v b="$(of "$load" postfix 3)" 'BEGIN {printf "%.1f", a / b}')
      printf '  kumod: %s times as many messages/s as Postfix: %s\n' "$times" "$(verdict "$times" "$rt" "$rf" up)"
      printf '  kumod: 1/%s of its processor time a message\n' \
        "$(awk -v a="$(of "$load" kumod 4)" -v b="$(of "$load" postfix 4)" 'BEGIN {printf "%.1f", b / a}')"
    fi
    if [[ " $peers " == *' kumod '* && " $peers " == *' journal '* ]]; then
      printf '  journal: %s %% more processor time a message than without\n' \
        "$(awk -v a="$(of "$load" journal 4)" -v b="$(of "$load" kumod 4)" 'BEGIN {printf "%.1f", 100 * (a / b - 1)}')"
    fi
    if [[ " $peers " == *' kumod '* ]]; then
      cpu=$(of "$load" kumod 4) peak=$(of "$load" kumod 5)
      [ "$ct" = - ] || printf '  kumod: %s µs a message: %s\n' "$cpu" "$(verdict "$cpu" "$ct" "$cf")"
      [ "$mt" = - ] || printf '  kumod: %s MB: %s\n' $((peak / 1000)) "$(verdict $((peak / 1000)) "$mt" "$mf")"
    fi
  done
  printf '\npeak: kumod all that was resident; Postfix the private memory of its processes, sampled every other second\n'
  printf 'others: what the rest of the machine took of its %s processors meanwhile; ratios within one table only\n' "$(nproc)"
}

lab_open
: >"$lab/results"
: >"$lab/synced"
printf '%s; %s; Postfix %s; %s processors; %s on %s\n' "$(date -u +%FT%TZ)" "$("$kumod" --version)" \
  "$(postconf -h mail_version)" "$(nproc)" "$lab" "$(stat -f -c %T "$lab")"
for round in $(seq "$runs"); do
  printf -- '-- round %s of %s: load, peer, messages/s, µs a message, peak kB, others %%; %s\n' "$round" "$runs" "$(uptime | sed 's/.*load/load/')"
  for load in $loads; do
    IFS='|' read -r _ messages connections octets keep _ < <(describe "$load")
    for peer in $peers; do measure "$load" "$peer"; done
  done
done
echo '-- messages for each sync'
for load in $loads; do
  IFS='|' read -r _ messages connections octets keep _ < <(describe "$load")
  for peer in $peers; do [ "$peer" = direct ] || count_syncs "$load" "$peer"; done
done
report
