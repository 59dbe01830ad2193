# Sourced by the benches: a folder on disk, servers in it, load, and what they cost. Everything that it starts runs in a
# cgroup of the bench, by which its processor time is counted and by which it is ended; nothing else is touched.
# shellcheck shell=bash

fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

lab_open() {
  [ "$(id -u)" -eq 0 ] || fail 'needs root: Postfix has users of its own, and cgroups count processor time'
  tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  for program in smtp-source smtp-sink postfix strace; do
    [ -x "$(command -v $program)" ] || fail "$program is missing: run kumod/tools/setup.sh bench"
  done
  lab=$(mktemp -d "${BENCH_DIR:-/var/tmp}/kumod-bench.XXXXXX")
  chmod 755 "$lab"
  [ "$(stat -f -c %T "$lab")" != tmpfs ] || fail "$lab is a tmpfs; name a folder on a disk with BENCH_DIR"
  if [ -d /sys/fs/cgroup/cpuacct ]; then cgroups=/sys/fs/cgroup/cpuacct; else cgroups=/sys/fs/cgroup; fi
  mkdir "$cgroups/kumod-bench-$$-server" "$cgroups/kumod-bench-$$-load"
  mkfifo "$lab/never"
  exec {never}<>"$lab/never"
  ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
  trap lab_close EXIT
  trap 'exit 130' INT TERM
}

lab_close() {
  local group
  for group in load server; do
    empty_group $group KILL || true
    rmdir "$cgroups/kumod-bench-$$-$group" 2>/dev/null || true
  done
  rm -rf "$lab"
}

# Sleeps without forking: the bench shares its processors with what it measures.
nap() { read -r -t "$1" -u "$never" || true; }

now_us() { local t=$EPOCHREALTIME; printf '%s' "${t/[.,]/}"; }

# ---- Processes and their costs ---------------------------------------------------------------------------------------

in_group() { # server|load, command…
  local group=$1
  shift
  printf '%s\n' "$BASHPID" >"$cgroups/kumod-bench-$$-$group/cgroup.procs"
  exec "$@"
}

members() { cat "$cgroups/kumod-bench-$$-$1/cgroup.procs" 2>/dev/null; }

wait_until_empty() { # group, seconds
  local tries=$(($2 * 20))
  while [ -n "$(members "$1")" ]; do
    [ $((tries--)) -gt 0 ] || return 1
    nap 0.05
  done
}

empty_group() { # group, signal: tells every member, and waits
  local pids
  pids=$(members "$1")
  # Word splitting is meant: one id for each member.
  # shellcheck disable=SC2086
  [ -z "$pids" ] || kill "-$2" $pids 2>/dev/null || true
  wait_until_empty "$1" 20
}

cpu_us() { # group: what its processes used so far, those that have ended included
  local file=$cgroups/kumod-bench-$$-$1 usage
  if [ -e "$file/cpuacct.usage" ]; then
    read -r usage <"$file/cpuacct.usage"
    printf '%s' $((usage / 1000))
  else
    sed -n 's/^usage_usec //p' "$file/cpu.stat"
  fi
}

busy_us() { # the whole machine
  local user nice system irq softirq rest
  read -r _ user nice system _ _ irq softirq rest </proc/stat
  printf '%s' $(((user + nice + system + irq + softirq) * 10000))
}

# Private memory of all processes of the server, in kB. Shared libraries are nobody's.
anonymous_kb() {
  local pid files=()
  for pid in $(members server); do files+=("/proc/$pid/status"); done
  [ ${#files[@]} -eq 0 ] || awk '/^RssAnon/ {sum += $2} END {print sum + 0}' "${files[@]}" 2>/dev/null || true
}

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%s' "$port"
}

wait_for_port() { # port, what, [address]
  local tries=3000
  until (exec 3<>"/dev/tcp/${3:-127.0.0.1}/$1") 2>/dev/null; do
    [ $((tries--)) -gt 0 ] || fail "$2 did not listen on port $1 within 30 s"
    nap 0.01
  done
}

# ---- The servers -----------------------------------------------------------------------------------------------------

fill_in() { # template, directory, listen port, sink port; the HTTP listener's port is in http
  sed -e "s|@DIR@|$2|g" -e "s|@LISTEN_PORT@|$3|g" -e "s|@SINK_PORT@|$4|g" -e "s|@HTTP_PORT@|${http:-}|g" "$1"
}

start_kumod() { # policy, listen port, sink port, [wrapper…]
  local home=$lab/kumod listen=$2
  mkdir -p "$home/spool" "$home/logs" "$home/journal"
  fill_in "$tools/$1" "$home" "$2" "$3" >"$home/init.lua"
  chown -R nobody: "$home"
  shift 3
  launch_kumod "$listen" "$@"
}

# More of kumod's command line.
kumod_options=()

# Over the spool and with the policy that are there.
launch_kumod() { # listen port, [wrapper…]
  local listen=$1
  shift
  (in_group server "$@" "$kumod" --policy "$lab/kumod/init.lua" --user nobody "${kumod_options[@]}" >"$lab/kumod/output" 2>&1) &
  wait_for_port "$listen" kumod
}

stop_kumod() {
  empty_group server TERM || fail 'kumod did not stop within 20 s'
  ! grep -q panicked "$lab/kumod/output" || fail "kumod panicked: $(cat "$lab/kumod/output")"
}

start_postfix() { # listen port, sink port, [wrapper…]
  local listen=$1 home=$lab/postfix
  mkdir -p "$home/data" "$home/queue"
  chown postfix "$home/data"
  cp -r /etc/postfix "$home/etc"
  fill_in "$tools/postfix-main.cf" "$home" "$1" "$2" >"$home/etc/main.cf"
  fill_in "$tools/postfix-master.cf" "$home" "$1" "$2" >"$home/etc/master.cf"
  postfix -c "$home/etc" set-permissions >"$home/output" 2>&1 || fail "postfix: $(cat "$home/output")"
  shift 2
  (in_group server "$@" /usr/lib/postfix/sbin/master -c "$home/etc" >>"$home/output" 2>&1) &
  wait_for_port "$listen" postfix
}

stop_postfix() {
  postfix -c "$lab/postfix/etc" stop >>"$lab/postfix/output" 2>&1 || true
  wait_until_empty server 20 || fail 'Postfix did not stop within 20 s'
}

# Of kumod's status, in kB: VmRSS is what is resident now, VmHWM the peak so far.
memory_kumod() { # VmRSS|VmHWM
  local pid
  for pid in $(members server); do
    if [ "$(cat "/proc/$pid/comm")" = kumod ]; then sed -n "s/^$1:[^0-9]*\([0-9]*\).*/\1/p" "/proc/$pid/status"; fi
  done
}

# ---- The sink --------------------------------------------------------------------------------------------------------

start_sink() { # port
  rm -f "$lab/sink"
  (in_group load smtp-sink -u nobody -c "127.0.0.1:$1" 2000 >"$lab/sink" 2>&1) &
  wait_for_port "$1" smtp-sink
  exec {sink}<"$lab/sink"
  sink_tail='' sink_count=0
}

stop_sink() {
  empty_group load TERM || fail 'smtp-sink did not stop'
  exec {sink}<&-
}

# Sets sink_count from the counters that smtp-sink has printed since: `sess=1 quit=1 mesg=1`, then a carriage return.
read_sink() {
  local chunk
  while read -r -N 65536 -u "$sink" chunk || [ -n "$chunk" ]; do
    chunk=$sink_tail$chunk
    sink_tail=${chunk##*$'\r'}
    case $chunk in
      *$'\r'*)
        chunk=${chunk%$'\r'*}
        sink_count=${chunk##*mesg=}
        sink_count=${sink_count//[!0-9]/}
        ;;
    esac
  done
}

wait_for_sink() { # count, seconds
  local until=$((SECONDS + $2))
  read_sink
  while [ "$sink_count" -lt "$1" ]; do
    [ $SECONDS -lt $until ] || fail "the sink has $sink_count of $1 messages after $2 s"
    nap 0.02
    read_sink
  done
}

# ---- Figures ---------------------------------------------------------------------------------------------------------

verdict() { # value, target, floor, "up" where more is better
  awk -v v="$1" -v t="$2" -v f="$3" -v up="${4:-}" 'BEGIN {
    if (t == "-" || v == "" || v == "-") exit
    good = up ? v >= t : v <= t; fair = up ? v >= f : v <= f
    print (good ? "target met" : fair ? "floor met, target " t " missed" : "FLOOR " f " MISSED") }'
}

median() { sort -g | awk '{a[NR] = $1} END {print NR % 2 ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2}'; }
