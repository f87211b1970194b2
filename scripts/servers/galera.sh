# shellcheck shell=bash disable=SC1091,SC2034,SC2154
# Three nodes of MariaDB Galera. Node N has its clients on the port N-1 above the first, the group's traffic 10 above
# that, state transfers of the missing part (IST) 20 above and of all (SST) 30 above.
. "$here/servers/mariadb.sh"

names=(node1 node2 node3)
port="${TENT_SERVERS_GALERA_PORT:-24301}"
provider="$(printf '%s\n' /usr/lib*/galera*/libgalera_smm.so | head -n1)"

installed() {
  command -v mariadbd mariadb mariadb-install-db wsrep_sst_rsync rsync >/dev/null && [ -e "$provider" ]
}
packages() { echo mariadb-server galera-4 rsync; }

variable() { sql "$1" -N -e "SHOW GLOBAL STATUS LIKE '$2'" 2>/dev/null | cut -f2; }
synced() { [ "$(variable "$1" wsrep_local_state_comment)$(variable "$1" wsrep_ready)" = SyncedON ]; }
size_is() { [ "$(variable "$1" wsrep_cluster_size)" = "$2" ]; }
state() {
  local group
  group="$(variable "$1" wsrep_cluster_status)"
  echo ", ${group:-no answer yet}, $(variable "$1" wsrep_local_state_comment)"
}

running_nodes() {
  local node
  for node in "${names[@]}"; do if up "$node"; then echo "$node"; fi; done
}

any_primary() {
  local node
  for node in $(running_nodes); do
    if [ "$(variable "$node" wsrep_cluster_status)" = Primary ]; then return 0; fi
  done
  return 1
}

# The options of the provider: a dead node is dropped after 1-2 s, not 5-6. pc.recovery would bring a killed node back
# under its old identity, at which the others lose their quorum for seconds.
configure_node() {
  local own members group
  own="$(port_of "$1")" group=$((port + 10))
  members="127.0.0.1:$group,127.0.0.1:$((group + 1)),127.0.0.1:$((group + 2))"
  configure "$1"
  cat >>"$dir/$1.cnf" <<CONF
binlog_format = ROW
innodb_autoinc_lock_mode = 2
wsrep_on = ON
wsrep_provider = $provider
wsrep_provider_options = "gmcast.listen_addr=tcp://127.0.0.1:$((own + 10));base_port=$((own + 10));\
ist.recv_addr=127.0.0.1:$((own + 20));gcache.size=32M;pc.recovery=FALSE;evs.keepalive_period=PT0.25S;\
evs.inactive_check_period=PT0.25S;evs.suspect_timeout=PT1S;evs.inactive_timeout=PT3S;evs.install_timeout=PT3S;\
evs.join_retrans_period=PT0.2S"
wsrep_cluster_name = tent-$port
wsrep_cluster_address = gcomm://$members
wsrep_node_name = $1
wsrep_node_address = 127.0.0.1:$((own + 10))
wsrep_node_incoming_address = 127.0.0.1:$own
wsrep_sst_method = rsync
wsrep_sst_receive_address = 127.0.0.1:$((own + 30))
CONF
}

# Prints the "UUID:SEQNO" that the data of node $1 stand at, nothing when only a full copy helps. A killed node's file
# says -1: with that it would ask for a full copy, so the position is asked of the data.
position() {
  local file="$dir/$1/grastate.dat" uuid seqno
  [ -e "$file" ] && [ ! -e "$dir/$1/sst_in_progress" ] || return 0
  uuid="$(awk '/^uuid:/ { print $2 }' "$file")" seqno="$(awk '/^seqno:/ { print $2 }' "$file")"
  # A broken file, or a killed full copy: the data may know a position, but the rest of them is half there.
  if [[ ! "$seqno" =~ ^-?[0-9]+$ || "$uuid" = 00000000-0000-0000-0000-000000000000 ]]; then return 0; fi
  if [ "$seqno" = -1 ]; then
    as_os mariadbd --defaults-file="$dir/$1.cnf" --wsrep-recover --log-error="$dir/$1.recover.log" \
      </dev/null >/dev/null 2>&1 || true
    sed -n 's/.*WSREP: Recovered position: *//p' "$dir/$1.recover.log" | tail -n1
  else
    echo "$uuid:$seqno"
  fi
}

run_node() {
  local above
  for above in 10 20 30; do need_port $(($(port_of "$1") + above)); done
  run_mariadb "$@"
  until_ready "$1" 120 synced "$1"
}

# Makes a new cluster of one node, of the one that committed most if any has data.
bootstrap() {
  local node best="" found="" most=-1 at
  for node in "${names[@]}"; do
    configure_node "$node"
    at="$(position "$node")"
    if [ -n "$at" ] && [ "${at##*:}" -gt "$most" ]; then best="$node" found="$at" most="${at##*:}"; fi
  done
  if [ -z "$best" ]; then
    best=node1
    if grep -qs '^uuid: *[0-]*[1-9a-f]' "$dir"/*/grastate.dat; then die "no node's data are whole, see $dir"; fi
    rm -rf -- "${dir:?}/$best"
    init_mariadb "$best" --wsrep-on=OFF
  else
    sed -i 's/^safe_to_bootstrap:.*/safe_to_bootstrap: 1/' "$dir/$best/grastate.dat"
  fi
  rm -f "$dir"/*/gvwstate.dat
  run_node "$best" --wsrep-new-cluster ${found:+--wsrep-start-position="$found"}
}

# Nodes that run without a quorum, as the others were killed: one goes on alone.
regain() {
  local node
  read -r node < <(running_nodes)
  say "no quorum: $node goes on alone"
  sql "$node" -e "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'"
  until_ready "$node" 60 synced "$node"
}

# Waits until the nodes that run agree on who is left. Until then they may believe in a quorum that they have lost, and
# a node that comes back while they still wait for it to answer makes them lose theirs for seconds.
settle() {
  local node nodes
  nodes="$(running_nodes)"
  for node in $nodes; do until_ready "$node" 30 size_is "$node" "$(wc -w <<<"$nodes")"; done
}

# Starts node $1 of a cluster that runs.
start_node() {
  local begun at
  begun="$(milliseconds)"
  if up "$1"; then return; fi
  settle
  any_primary || die "no node runs, or only such as have no quorum: use start"
  configure_node "$1"
  [ -e "$dir/$1" ] || as_os mkdir -m 700 "$dir/$1"
  at="$(position "$1")"
  run_node "$1" ${at:+--wsrep-start-position="$at"}
  say "$1 joined in $(($(milliseconds) - begun)) ms"
}

stop_node() { halt "$1"; }
kill_node() { crash "$1"; }

start() {
  local begun node
  begun="$(milliseconds)"
  any_up || bootstrap
  settle
  any_primary || regain
  for node in "${names[@]}"; do start_node "$node"; done
  for node in "${names[@]}"; do
    until_ready "$node" 60 synced "$node"
    until_ready "$node" 60 size_is "$node" 3
  done
  create_user node1
  say "started in $(($(milliseconds) - begun)) ms"
}
