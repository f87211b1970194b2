# shellcheck shell=bash disable=SC1091,SC2034,SC2154
# What all kinds of servers share. A server is a NAME in the folder $dir of its kind: its data are in NAME, its log is
# NAME.log, and NAME.pid holds its "PID STARTTIME": the start time makes a PID harmless that is another process by now.
# Only what such a file names is ever signalled, nothing by name or by port.

mark=.made-by-tent-servers

say() { echo "${kind:-servers.sh}: $*" >&2; }

die() {
  say "$@"
  exit 1
}

milliseconds() { echo $((${EPOCHREALTIME/./} / 1000)); }

check_root() {
  local kind=""
  # A socket's path may have 107 bytes, and neither server's settings can hold any path.
  [ "${#root}" -le 75 ] || die "the folder's path is longer than 75 bytes, set TENT_SERVERS to another: $root"
  [[ "$root" != *[!A-Za-z0-9/._+-]* ]] || die "the folder's path has other than A-Z a-z 0-9 / . _ + - in it: $root"
}

# Sets $os, the user whom servers run as: $1 or nobody when this is root, as whom no server runs.
run_as() {
  os="$(id -un)" as=()
  [ "$(id -u)" = 0 ] || return 0
  if id "$1" >/dev/null 2>&1; then os="$1"; else os=nobody; fi
  as=(setpriv --reuid "$os" --regid "$(id -g "$os")" --init-groups -- env HOME=/)
}

as_os() { "${as[@]}" "$@"; }

own_root() {
  [ -O "$root" ] || die "$root belongs to $(stat -c %U "$root"): set TENT_SERVERS to a folder of your own"
}

# One change at a time of each kind. The lock (descriptor 9) ends with this shell, so servers must not inherit it. A
# wipe beside this may delete the folder at any moment until it is locked.
lock() {
  local i
  for ((i = 0; i < 100; i++)); do
    if [ -e "$root" ] && [ ! -e "$dir" ]; then own_root; fi
    if { mkdir -p -- "$dir" && exec 9<"$dir"; } 2>/dev/null; then
      flock -w 300 9 || die "another servers.sh is at work on $dir"
      if [ /proc/self/fd/9 -ef "$dir" ]; then return; fi
    fi
  done
  die "cannot make $dir"
}

prepare() {
  own_root
  [ -e "$dir/$mark" ] || [ -z "$(ls -A "$dir")" ] || die "$dir is not empty, and was not made by servers.sh"
  : >"$dir/$mark"
  if [ "$(id -u)" = 0 ]; then chown "$os" "$dir"; fi
  as_os test -w "$dir" || die "user $os cannot enter $dir, as a folder above lets nobody in: set TENT_SERVERS"
}

# Prints state and start time of the process $1, if there is one.
process() {
  local stat fields
  { stat="$(<"/proc/$1/stat")"; } 2>/dev/null || return 0
  read -ra fields <<<"${stat##*) }" # the command's name before it may hold spaces and brackets
  echo "${fields[0]} ${fields[19]}"
}

pid_of() { cut -d' ' -f1 "$dir/$1.pid"; }

up() {
  local pid start now
  [ -s "$dir/$1.pid" ] || return 1
  read -r pid start <"$dir/$1.pid"
  now="$(process "$pid")"
  [ "${now#* }" = "$start" ] && [ "${now%% *}" != Z ]
}

any_up() {
  local name
  for name in "${names[@]}"; do if up "$name"; then return 0; fi; done
  return 1
}

all_up() {
  local name
  for name in "${names[@]}"; do up "$name" || return 1; done
}

port_of() {
  local i
  for i in "${!names[@]}"; do if [ "${names[i]}" = "$1" ]; then echo $((port + i)); fi; done
}

need_port() {
  if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then
    die "port $1 is taken by something that servers.sh did not start: set TENT_SERVERS_${kind^^}_PORT to another"
  fi
}

# Makes the data of server $1 with the command "$2...", which fills $dir/$1.new: data are whole or not there at all.
make_data() {
  before_delete "$1.new"
  rm -rf -- "$dir/$1.new"
  as_os mkdir -m 700 "$dir/$1.new"
  as_os "${@:2}" </dev/null >"$dir/$1.make.log" 2>&1 || { cat "$dir/$1.make.log" >&2; die "$2 failed"; }
  mv -- "$dir/$1.new" "$dir/$1"
}

# Runs the command "$2..." as the server $1, under a bash that stays only to reap it: until somebody does, a killed
# server is a zombie, for ever where process 1 is no init, and PostgreSQL takes a zombie for a server that runs.
# The process writes its PID itself, before it becomes the server, and holds the lock until then: so no server is lost
# when this shell is killed meanwhile.
spawn() {
  local i
  need_port "$(port_of "$1")"
  sweep "$1"
  echo "$port" >"$dir/port"
  rm -f "$dir/$1.pid" "$dir/ready"
  # env: what bash runs in the background ignores SIGINT and SIGQUIT unless told otherwise.
  # shellcheck disable=SC2016
  setsid bash -c '
    (
      read -ra stat <"/proc/$BASHPID/stat"
      echo "$BASHPID ${stat[21]}" >"$0.new" && mv "$0.new" "$0" && exec "$@" 9>&-
    ) &
    exec 9>&-
    wait' "$dir/$1.pid" "${as[@]}" env --default-signal=INT,QUIT TENT_SERVER="$dir/$1" "${@:2}" \
    </dev/null >>"$dir/$1.log" 2>&1 &
  for ((i = 0; i < 500; i++)); do
    if [ -s "$dir/$1.pid" ]; then return; fi
    sleep 0.02
  done
  die "$2 did not start"
}

# Waits, for $2 seconds at most, until the command "$3..." succeeds on the server $1.
until_ready() {
  local end=$((SECONDS + $2)) log="$dir/$1.log"
  until "${@:3}" >/dev/null 2>&1; do
    up "$1" || { tail -n30 "$log" >&2; die "the server $1 ended, see $log"; }
    [ "$SECONDS" -lt "$end" ] || { tail -n30 "$log" >&2; die "not ready within $2 s, see $log"; }
    sleep 0.05
  done
}

descendants() {
  local child
  for child in $(cat "/proc/$1/task/"*/children 2>/dev/null || true); do
    echo "$child"
    descendants "$child"
  done
}

kill_all() {
  local pid i
  if [ "$#" = 0 ]; then return; fi
  kill -KILL "$@" 2>/dev/null || true
  for pid; do
    for ((i = 0; i < 500; i++)); do
      case "$(process "$pid")" in '' | Z*) continue 2 ;; esac
      sleep 0.02
    done
    die "process $pid does not die"
  done
}

# Kills what a dead server left behind: the scripts and the "rsync --daemon" of a state transfer of Galera outlive a
# killed server and hold its port. They have from it the variable that spawn sets.
sweep() {
  # shellcheck disable=SC2046
  kill_all $(grep -lzFx "TENT_SERVER=$dir/$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3)
}

# Kills a server and its children together, as a power cut would. A PostgreSQL whose parent alone was killed goes on: a
# busy child ends its query, may even commit, and holds the shared memory, so that no new server starts on the data.
crash() {
  local pid
  if up "$1"; then
    pid="$(pid_of "$1")"
    kill -STOP "$pid" || true # or it could have new children meanwhile
    # shellcheck disable=SC2046
    kill_all "$pid" $(descendants "$pid")
    say "$1 was killed"
  fi
  sweep "$1"
  rm -f "$dir/$1.pid"
}

halt() {
  local i
  if up "$1"; then
    kill "-$stop_signal" "$(pid_of "$1")" || true
    for ((i = 0; i < 1200; i++)); do
      up "$1" || break
      sleep 0.05
    done
    up "$1" || say "$1 stopped"
  fi
  crash "$1"
}

crash_all() {
  local name
  for name in "${names[@]}"; do crash "$name"; done
}

stop() {
  local i
  for ((i = ${#names[@]} - 1; i >= 0; i--)); do halt "${names[i]}"; done
}

# What a kind has to clear away before the data in $dir/$1 are deleted.
before_delete() { :; }

wipe() {
  local name
  stop
  for name in "${names[@]}"; do
    before_delete "$name"
    before_delete "$name.new"
  done
  rm -rf -- "$dir"
  rmdir -- "$root" 2>/dev/null || true
  say "wiped"
}

# What a kind knows of its running server $1.
state() { :; }

status() {
  local name code=0
  for name in "${names[@]}"; do
    if up "$name"; then
      echo "$kind: $name runs, process $(pid_of "$name"), port $(port_of "$name")$(state "$name")"
    else
      echo "$kind: $name is down"
      code=3
    fi
  done
  return "$code"
}

url() {
  local name hosts=""
  any_up || return 0
  for name in "${names[@]}"; do hosts+="${hosts:+,}127.0.0.1:$(port_of "$name")"; done
  echo "$scheme://tent:password@$hosts/tent_test$query"
}
