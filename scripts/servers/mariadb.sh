# shellcheck shell=bash disable=SC1091,SC2034,SC2154
# One MariaDB server, and what galera.sh shares with it.

names=(main)
port="${TENT_SERVERS_MARIADB_PORT:-23306}"
scheme=mariadb query="?ssl_disabled=true" stop_signal=TERM
run_as mysql

installed() { command -v mariadbd mariadb mariadb-install-db >/dev/null; }

# The two bring no service, no user and no data of the system's, but older releases have their version in the names.
packages() {
  if apt-cache show mariadb-server-core >/dev/null 2>&1; then
    echo mariadb-server-core mariadb-client-core
  else
    echo mariadb-server
  fi
}

# Runs SQL on the server $1 as the user of the system, who needs no password on the socket. A node of Galera that was
# frozen would let the client wait for ever.
sql() { mariadb --no-defaults --connect-timeout=5 -S "$dir/$1.sock" -u "$(id -un)" "${@:2}"; }

# Writes the settings of the server $1. Those of characters and of SQL's strictness are left as many servers have them,
# so that tests notice what the library has to set itself.
configure() {
  local durable="innodb_flush_log_at_trx_commit = 1"
  if [ "$fsync" = off ]; then
    durable=$'innodb_flush_log_at_trx_commit = 0\ninnodb_doublewrite = 0\nloose_debug_no_sync = 1'
  fi
  cat >"$dir/$1.cnf" <<CONF
[mariadbd]
datadir = $dir/$1
socket = $dir/$1.sock
pid_file = $dir/$1.own.pid
port = $(port_of "$1")
bind_address = 127.0.0.1
skip_name_resolve
character_set_server = latin1
max_connections = 200
innodb_buffer_pool_size = 64M
innodb_log_file_size = 32M
$durable
CONF
}

# Without --defaults-file as the first argument, settings in /etc would count.
init_mariadb() {
  make_data "$1" mariadb-install-db --defaults-file="$dir/$1.cnf" --datadir="$dir/$1.new" --skip-test-db \
    --auth-root-authentication-method=socket --auth-root-socket-user="$(id -un)" "${@:2}"
}

run_mariadb() { up "$1" || spawn "$1" mariadbd --defaults-file="$dir/$1.cnf" "${@:2}"; }

create_user() {
  sql "$1" <<'SQL'
CREATE DATABASE IF NOT EXISTS tent_test;
CREATE USER IF NOT EXISTS tent@'%' IDENTIFIED BY 'password';
GRANT ALL ON `tent\_test%`.* TO tent@'%';
SQL
}

start() {
  local begun
  begun="$(milliseconds)"
  configure main
  [ -e "$dir/main" ] || init_mariadb main
  run_mariadb main
  until_ready main 60 sql main -e "SELECT 1"
  create_user main
  say "started in $(($(milliseconds) - begun)) ms"
}
