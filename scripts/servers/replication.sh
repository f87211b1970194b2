# shellcheck shell=bash disable=SC1091,SC2034,SC2154
# A PostgreSQL primary and its hot standby: the servers a and b, either of which may be the primary.
. "$here/servers/postgresql.sh"

names=(a b)
port="${TENT_SERVERS_REPLICATION_PORT:-25451}"
sync="${TENT_SERVERS_SYNC:-off}"

# The file is written before what it says is done, and start does what is left to do: so there are never two primaries.
primary() { cat "$dir/primary" 2>/dev/null || echo a; }
standby() { if [ "$(primary)" = a ]; then echo b; else echo a; fi; }

streaming() { [ "$(psql "$(primary)" -c "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")" = 1 ]; }

run_one() {
  local settings=(
    "primary_conninfo=host=$dir port=$(port_of "$2") user=postgres" "wal_keep_size=128MB" "wal_receiver_timeout=5s"
    "wal_sender_timeout=5s" "wal_retrieve_retry_interval=200ms"
  )
  if [ "$sync" = on ]; then settings+=("synchronous_commit=on"); fi # which fsync=off has turned off
  run_pg "$1" "${settings[@]}"
}

in_step() {
  [ "$(psql "$(primary)" -c "SELECT count(*) FROM pg_stat_replication
    WHERE sync_state = 'sync' AND flush_lsn >= '$1'::pg_lsn")" = 1 ]
}

# Lets each commit wait for the standby, or not. It is set when the standby streams, and on the primary alone: a server
# without a standby would wait for ever. What was committed before is on the standby, too, when this returns.
set_sync() {
  local one
  one="$(primary)"
  if [ "$sync" = on ]; then
    psql "$one" -c "ALTER SYSTEM SET synchronous_standby_names = '*'" -c "SELECT pg_reload_conf()" >/dev/null
    until_ready "$one" 30 in_step "$(psql "$one" -c "SELECT pg_current_wal_flush_lsn()")"
  else
    psql "$one" -c "ALTER SYSTEM RESET synchronous_standby_names" -c "SELECT pg_reload_conf()" >/dev/null
  fi
}

make_primary() {
  if [ "$(psql "$1" -c "SELECT pg_is_in_recovery()")" = t ]; then
    [ "$(psql "$1" -c "SELECT pg_promote(true, 60)")" = t ] || die "$1 was not promoted, see $dir/$1.log"
  fi
}

make_standby() {
  before_delete "$1"
  rm -rf -- "${dir:?}/$1"
  make_data "$1" "$bin/pg_basebackup" -D "$dir/$1.new" -h "$dir" -p "$(port_of "$2")" -U postgres -X stream \
    --checkpoint=fast --no-sync
  as_os sed -i '/^synchronous_standby_names/d' "$dir/$1/postgresql.auto.conf" # that came along
  as_os touch "$dir/$1/standby.signal"
}

start_primary() {
  local one
  one="$(primary)"
  [ -e "$dir/$one" ] || init_pg "$one"
  run_one "$one" "$(standby)"
  make_primary "$one"
  create_user "$one"
}

start_standby() {
  local one
  one="$(standby)"
  # Without the file it is no standby: it was never there, or was the primary before the other one.
  up "$one" || [ -e "$dir/$one/standby.signal" ] || make_standby "$one" "$(primary)"
  run_one "$one" "$(primary)"
  until_ready "$one" 30 streaming
  set_sync
}

start() {
  local begun
  begun="$(milliseconds)"
  start_primary
  start_standby
  say "started in $(($(milliseconds) - begun)) ms: $(primary) is the primary, $(standby) the standby"
}

kill_primary() { crash "$(primary)"; }

promote() {
  local begun one
  begun="$(milliseconds)" one="$(standby)"
  up "$one" || die "no standby runs"
  if up "$(primary)"; then die "the primary runs, and two would part for good: kill-primary first"; fi
  echo "$one" >"$dir/primary"
  make_primary "$one"
  say "$one is the primary after $(($(milliseconds) - begun)) ms"
}

rejoin() {
  local begun
  begun="$(milliseconds)"
  up "$(primary)" || die "no primary runs: promote the standby first, or start the old primary again with start"
  if ! up "$(standby)"; then rm -f "$dir/$(standby)/standby.signal"; fi # a new copy in any case
  start_standby
  say "$(standby) is the standby after $(($(milliseconds) - begun)) ms"
}

state() {
  psql "$1" -c "SELECT CASE WHEN pg_is_in_recovery()
    THEN ', standby at ' || coalesce(pg_last_wal_replay_lsn()::text, '-')
    ELSE ', primary at ' || pg_current_wal_lsn() END" 2>/dev/null || true
}
