# shellcheck shell=bash disable=SC1091,SC2034,SC2154
# One PostgreSQL server, and what replication.sh shares with it.

names=(main)
port="${TENT_SERVERS_POSTGRESQL_PORT:-25432}"
scheme=postgresql query="" stop_signal=INT # SIGTERM would wait for all clients to leave
run_as postgres

# Prints the folder of the newest programs. Debian's are in one for each version, and only their wrappers on the path.
find_bin() {
  local bin version
  while read -r bin; do
    [ -x "$bin/postgres" ] && [ -x "$bin/initdb" ] && [ -x "$bin/psql" ] || continue
    version="$("$bin/postgres" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')"
    if [ "$version" -ge 13 ]; then echo "$bin" && return; fi
  done < <(
    printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV
    dirname "$(readlink -f "$(command -v postgres)")"
  )
}
bin="${TENT_SERVERS_PG_BIN:-$(find_bin)}"

installed() { [ -n "$bin" ]; }
packages() { echo postgresql; }

# Runs SQL on the server $1, as its superuser.
psql() {
  as_os "$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -h "$dir" -p "$(port_of "$1")" -U postgres -d postgres "${@:2}"
}

init_pg() {
  make_data "$1" "$bin/initdb" -D "$dir/$1.new" -U postgres -E UTF8 --locale=C.UTF-8 --no-sync \
    --auth-local=trust --auth-host=scram-sha-256
}

# Runs the server $1, if it does not yet, with the settings "$2...". All are on the command line, so that none gets into
# a standby's copy of the data.
run_pg() {
  local settings=(
    "listen_addresses=127.0.0.1" "unix_socket_directories=$dir" "port=$(port_of "$1")" "max_connections=200"
    "shared_buffers=32MB" "timezone=UTC" "log_timezone=UTC"
  )
  if [ "$fsync" = off ]; then settings+=("fsync=off" "synchronous_commit=off" "full_page_writes=off"); fi
  settings+=("${@:2}") # which count more, as the last do
  up "$1" || spawn "$1" "$bin/postgres" -D "$dir/$1" "${settings[@]/#/-c}"
  until_ready "$1" 60 psql "$1" -c "SELECT 1"
}

create_user() {
  psql "$1" <<'SQL'
SELECT 'CREATE ROLE tent LOGIN CREATEDB PASSWORD ''password''' WHERE NOT EXISTS
  (SELECT FROM pg_roles WHERE rolname = 'tent') \gexec
SELECT 'CREATE DATABASE tent_test OWNER tent' WHERE NOT EXISTS
  (SELECT FROM pg_database WHERE datname = 'tent_test') \gexec
SQL
}

start() {
  local begun
  begun="$(milliseconds)"
  [ -e "$dir/main" ] || init_pg main
  run_pg main
  create_user main
  say "started in $(($(milliseconds) - begun)) ms"
}

# A killed server or initdb leaves a segment of shared memory, which only a next start on its data would clear away.
before_delete() {
  local key id
  [ -e "$dir/$1/postmaster.pid" ] || return 0
  read -r key id <<<"$(sed -n 7p "$dir/$1/postmaster.pid")"
  if awk -v k="$key" -v i="$id" '$1 == k && $2 == i && $7 == 0 { f = 1 } END { exit !f }' /proc/sysvipc/shm; then
    ipcrm -m "$id"
  fi
}
