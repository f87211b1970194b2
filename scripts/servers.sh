#!/usr/bin/env bash
# Real database servers for the tests, on 127.0.0.1, on Linux. As root or as any user:
#
#   scripts/servers.sh start [KIND...]     installs what is missing, starts what is down, prints the URLs
#   scripts/servers.sh stop [KIND...]      keeps the data
#   scripts/servers.sh kill [KIND...]      a crash (SIGKILL) of postgresql or mariadb; "start" recovers it
#   scripts/servers.sh wipe [KIND...]      stops, and deletes the data
#   scripts/servers.sh status [KIND...]    exits with 3 unless all of them run
#   scripts/servers.sh urls [KIND...]      a line for each that runs: its URL, nothing else
#   scripts/servers.sh install [KIND...]   only installs
#   scripts/servers.sh kill-primary | promote | rejoin           replication: a crash of the primary; the standby is
#                                                                promoted; the dead one becomes its standby
#   scripts/servers.sh kill-node N | stop-node N | start-node N  galera: N is 1, 2 or 3
#
# KIND is one of these. Without one, start, kill and install take the first two, and the others all four:
#
#   postgresql    one server                                      port 25432
#   mariadb       one server                                      port 23306
#   replication   PostgreSQL, a primary and a streaming standby   ports 25451 25452
#   galera        MariaDB Galera, three nodes                     ports 24301 24302 24303, and 24311-24333 between them
#
# The environment sets, when a server starts:
#
#   TENT_SERVERS             the folder of the data (${TMPDIR:-/tmp}/tent-servers)
#   TENT_SERVERS_FSYNC=off   faster, and not safe against a power cut (on)
#   TENT_SERVERS_SYNC=on     replication: a commit waits until the standby has it, too (off). Also for rejoin
#   TENT_SERVERS_POSTGRESQL_PORT, …_MARIADB_PORT, …_REPLICATION_PORT, …_GALERA_PORT   the (first) port. Keep to ports
#                            below 32768: any client's connection may hold one above as its own
#   TENT_SERVERS_PG_BIN      the folder of PostgreSQL's programs (the newest that is found, 13 or later)
# shellcheck disable=SC1090,SC1091,SC2034
set -euo pipefail
umask 022
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin" # mariadbd is there, which is not on the path of every user
unset "${!PG@}" "${!MYSQL@}" "${!MARIADB@}"  # a contributor's own settings for clients, PGHOST say

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(realpath -m -- "${TENT_SERVERS:-${TMPDIR:-/tmp}/tent-servers}")"
fsync="${TENT_SERVERS_FSYNC:-on}"
all=(postgresql mariadb replication galera)
cd / # the servers' users may not enter the folder this was called from

. "$here/servers/lib.sh"
. "$here/servers/install.sh"

usage() {
  sed -n '2,/^# shellcheck/{/^# shellcheck/!s/^# \{0,1\}//p}' "$here/servers.sh" >&2
  exit 2
}

load() {
  kind="$1" dir="$root/$1"
  . "$here/servers/$1.sh"
  if any_up && [ -s "$dir/port" ]; then port="$(<"$dir/port")"; fi # what runs counts, not today's environment
}

# Runs "$2..." for the kind $1, alone among all that change servers of this kind.
change() {
  load "$1"
  if [ "$2" != start ] && [ ! -e "$dir" ]; then
    if [ "$2" = stop ] || [ "$2" = wipe ]; then return; fi
    die "was never started"
  fi
  lock
  if [ "$2" != start ]; then
    prepare
    "${@:2}"
  elif all_up && [ -e "$dir/ready" ]; then # not so when a start was cut short
    say "runs already"
  else
    prepare
    start
    : >"$dir/ready"
  fi
}

# Runs "$@" for all $kinds beside each other: each in a shell of its own, whose failure ends only that one. This is not
# to be called where a failure is handled: bash would not end those shells at their first failure there.
change_all() {
  local kind jobs=() job
  for kind in "${kinds[@]}"; do
    change "$kind" "$@" >&2 &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
}

# Prints what $1, "url" or "status", says of each of $kinds.
show() {
  local kind
  for kind in "${kinds[@]}"; do (load "$kind" && "$1") || failed=3; done
}

action="${1:-}" failed=0
kinds=("${@:2}")
case "$action" in
  start | kill | install) [ "$#" -gt 1 ] || kinds=(postgresql mariadb) ;;
  stop | wipe | status | urls) [ "$#" -gt 1 ] || kinds=("${all[@]}") ;;
  kill-primary | promote | rejoin) [ "$#" = 1 ] || usage; kinds=(replication) ;;
  kill-node | stop-node | start-node) [[ "$#" = 2 && "$2" = [123] ]] || usage; kinds=(galera) ;;
  *) usage ;;
esac
for kind in "${kinds[@]}"; do
  [[ " ${all[*]} " = *" $kind "* ]] || usage
  if [ "$action" = kill ] && [[ "$kind" != postgresql && "$kind" != mariadb ]]; then
    die "cannot be killed as a whole: see kill-primary and kill-node"
  fi
done
kind=""
check_root

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
case "$action" in
  start)
    install "${kinds[@]}"
    change_all start
    show url
    ;;
  install) install "${kinds[@]}" ;;
  stop | wipe) change_all "$action" ;;
  kill) change_all crash_all ;;
  urls) show url ;;
  status) show status ;;
  kill-primary | promote | rejoin) change_all "${action/-/_}" ;;
  kill-node | stop-node | start-node) change_all "${action/-/_}" "node$2" ;;
esac
exit "$failed"
