#!/bin/bash
# guest.sh GROUPS UID - the second program of a guest: sets control groups up and runs /run/job/command in them as that user. An ordinary user gets a
# group of its own in each tree, which it may divide. GROUPS is one of:
#   v2       one tree, nothing handed on yet
#   v1       one tree for each controller that this kernel still has there
#   hybrid   v1, and beside it a tree of v2 with the controllers that are left
#   systemd  v2 of systemd's, which starts the command in a scope that is delegated
#   service  the same, but the command is in the group of a service, which systemd governs
#   none
set -euo pipefail
groups=$1 uid=$2 top=/sys/fs/cgroup

# delegate TREE - as the kernel's `cgroup-v2` document says: the directory, and the files by which processes and controllers are handed on.
delegate() {
  [ "$uid" != 0 ] || return 0
  # A group of cpuset's has no processor at first, and takes no process then, unless it begins as its parent is.
  [ ! -e "$1/cpuset.cpus" ] || echo 1 >"$1/cgroup.clone_children"
  mkdir "$1/job"
  chown "$uid" "$1/job"
  for file in cgroup.procs cgroup.subtree_control cgroup.threads tasks; do
    [ ! -e "$1/job/$file" ] || chown "$uid" "$1/job/$file"
  done
  echo $$ >"$1/job/cgroup.procs"
}

unified() {
  mkdir -p "$1"
  mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 "$1"
  # As systemd does for who is delegated to. Root gets it as the kernel made it.
  [ "$uid" = 0 ] || for each in $(cat "$1/cgroup.controllers"); do echo "+$each" >"$1/cgroup.subtree_control"; done
  delegate "$1"
}

legacy() {
  mount -t tmpfs -o mode=755 cgroup "$top"
  for each in $(awk '!/^#/ && $4 == 1 { print $1 }' /proc/cgroups); do
    mkdir "$top/$each"
    if mount -t cgroup -o "$each" cgroup "$top/$each" 2>/dev/null; then delegate "$top/$each"; else rmdir "$top/$each"; fi
  done
}

as_user() { setpriv --reuid "$uid" --regid "$uid" --clear-groups env HOME=/tmp "$@"; }

run() { "$@" /bin/bash /run/job/command </dev/null >/run/job/out 2>&1 && status=0 || status=$?; }

finish() {
  echo "$status" >/run/job/status
  sync
  echo o >/proc/sysrq-trigger
  sleep 60
}

# A system of two services: this one again, behind what systemd-run asks.
boot_systemd() {
  local wants="basic.target dbus.service systemd-logind.service"
  [ "$uid" = 0 ] || wants+=" user@$uid.service"
  mkdir -p /run/systemd/system
  printf '[Unit]\nWants=%s\nAfter=%s\n[Service]\nExecStart=/bin/bash %q in-%s %s\nEnvironment="PATH=%s"\n' \
    "$wants" "$wants" "$(realpath "$0")" "$groups" "$uid" "$PATH" >/run/systemd/system/job.service
  exec /lib/systemd/systemd --unit=job.service --show-status=no --log-target=kmsg
}

# The ordinary user has a name here, and ids to lend.
if [ "$uid" != 0 ] && ! id "$uid" >/dev/null 2>&1; then
  echo "guest:*:$uid:$uid::/tmp:/bin/sh" >>/etc/passwd
  echo "guest:x:$uid:" >>/etc/group
  for file in /etc/subuid /etc/subgid; do echo guest:1000000:65536 >>"$file"; done
fi
# A page of a file counts for the group that reads it first. One with no room for it gives it back, and reads it again over 9p, for a minute before the
# kernel takes that for a lack of memory. What every test runs is read here, by nobody's group.
if [[ $groups != in-* ]]; then
  cat /usr/bin/perl /bin/sh "$(realpath "$(dirname "$0")/../../node_modules/.bin/bun")" \
    $(ldd /usr/bin/perl /bin/sh | awk '$2 == "=>" { print $3 }' | sort -u) >/dev/null
fi
case $groups in
  v2) unified "$top" ;;
  v1) legacy ;;
  hybrid) legacy && unified "$top/unified" ;;
  none) ;;
  systemd | service) boot_systemd ;;
  in-systemd)
    if [ "$uid" = 0 ]; then
      run systemd-run --scope --quiet -p Delegate=yes --
    else
      run as_user XDG_RUNTIME_DIR="/run/user/$uid" systemd-run --user --scope --quiet -p Delegate=yes --
    fi
    finish
    ;;
  in-service)
    run as_user XDG_RUNTIME_DIR="/run/user/$uid"
    finish
    ;;
  *) echo "guest.sh: $groups is none of v2, v1, hybrid, systemd, service and none" >/run/job/out && status=2 && finish ;;
esac
run as_user
finish
