# shellcheck shell=bash disable=SC1091,SC2034,SC2154
# Installs the servers' packages with apt, without letting any run, now or after the next boot: nobody asked for a
# server of the system's own.

policy=/usr/sbin/policy-rc.d
policy_line="# By servers.sh of tent.data, for the time of an installation."
no_cluster=/etc/postgresql-common/createcluster.d/tent-servers.conf

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# Writes standard input to the file $2, of mode $1.
write() {
  as_root tee "$2" >/dev/null
  as_root chmod "$1" "$2"
}

# Prints the packages of those of the kinds "$@" that cannot run yet.
missing() {
  local one
  for one; do (load "$one" && { installed || packages; }); done | tr ' ' '\n' | sort -u
}

forbid_servers() {
  # Ours as well when an installation that was killed left it.
  if [ ! -e "$policy" ] || grep -qFx "$policy_line" "$policy"; then
    temporary+=("$policy")
    write 755 "$policy" <<<$'#!/bin/sh\n'"$policy_line"$'\nexit 101'
  fi
  temporary+=("$no_cluster")
  as_root mkdir -p "${no_cluster%/*}"
  write 644 "$no_cluster" <<<"create_main_cluster = false"
}

allow_servers() {
  as_root rm -f "${temporary[@]}"
  as_root rmdir -p --ignore-fail-on-non-empty "${no_cluster%/*}"
}

# In a shell of its own, for the trap.
apt_install() (
  temporary=() new=()
  for service in postgresql mariadb; do
    if [ ! -e "/etc/init.d/$service" ]; then new+=("$service"); fi
  done
  trap allow_servers EXIT
  forbid_servers
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends "$@"
  for service in "${new[@]}"; do
    if [ -e "/etc/init.d/$service" ]; then as_root update-rc.d "$service" disable; fi
  done
)

install() {
  local names
  mapfile -t names < <(missing "$@")
  if [ "${#names[@]}" = 0 ]; then return; fi
  if ! command -v apt-get >/dev/null; then
    die "install first what Debian calls ${names[*]} (PostgreSQL of 13 or later): there is no apt-get to do it with"
  elif ! as_root true 2>/dev/null; then
    die "install first, as root: apt-get update && apt-get install -y --no-install-recommends ${names[*]}"
  fi
  as_root apt-get update -q >&2 || say "apt-get update failed; going on with the lists of before"
  mapfile -t names < <(missing "$@") # anew, as names depend on what the lists have
  apt_install "${names[@]}" >&2
  mapfile -t names < <(missing "$@")
  [ "${#names[@]}" = 0 ] || die "installed, but still without what it needs: ${names[*]}"
}
