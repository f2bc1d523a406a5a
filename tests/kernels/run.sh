#!/bin/bash
# run.sh [-g GROUPS] [-u UID] KERNEL COMMAND... - runs a command under another kernel in QEMU, with its output and its exit code.
# KERNEL is a directory that fetch.sh made, GROUPS what guest.sh sets up (v2 if nothing is said). The guest sees this machine's files and keeps
# none of what it writes; its /tmp, /run and /dev/shm are its own. Needs qemu-system-x86, busybox-static, cpio and e2fsprogs, and no KVM: allow a
# minute, or set CAISSON_ACCEL=kvm. LIMIT is how many seconds it may take.
set -euo pipefail
user=0 groups=v2
while getopts g:u: option; do
  case $option in
    g) groups=$OPTARG ;;
    u) user=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { echo "usage: run.sh [-g GROUPS] [-u UID] KERNEL COMMAND..." >&2; exit 2; }
kernel=$1
shift
fail() { echo "run.sh: $*" >&2 && exit 125; }
for each in qemu-system-x86_64 busybox cpio /sbin/mkfs.ext4; do command -v "$each" >/dev/null || fail "there is no $each here"; done
[ -e "$kernel/vmlinuz" ] || fail "$kernel has no vmlinuz, expected what fetch.sh made"
[[ $groups != systemd && $groups != service ]] || [ -x /lib/systemd/systemd ] || fail "there is no systemd here"
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,modules,proc,sys,dev,host,over,new,job} "$work/job"
cp "$(command -v busybox)" "$work/root/bin/busybox"
install -m 755 "$here/init" "$work/root/init"
# The kernel reads archives one behind the other.
{ cat "$kernel/modules.cpio.gz"; (cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1); } >"$work/initrd"
truncate -s 2G "$work/disk"
truncate -s 256M "$work/swap"
/sbin/mkfs.ext4 -q -E root_owner=0:0 "$work/disk"

{
  printf 'export PATH=%q HOME=/tmp TMPDIR=/tmp LANG=C.UTF-8\ncd %q\nexec' "$PATH" "$repository"
  printf ' %q' "$@"
} >"$work/job/command"
echo "$repository" >"$work/job/repository"
printf 'export PATH=%q\nexec /bin/bash %q %q %q\n' "$PATH" "$here/guest.sh" "$groups" "$user" >"$work/job/go"
qemu=(
  qemu-system-x86_64 -accel "${CAISSON_ACCEL:-tcg,thread=multi}" -cpu max -m 3072 -smp 2
  -nodefaults -no-user-config -nographic -no-reboot -serial "file:$work/console"
  -kernel "$kernel/vmlinuz" -initrd "$work/initrd"
  -append "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off psi=1"
  -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap -device virtio-9p-pci,fsdev=host,mount_tag=host
  -fsdev "local,id=job,path=$work/job,security_model=none" -device virtio-9p-pci,fsdev=job,mount_tag=job
  -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" -drive "file=$work/swap,format=raw,if=virtio,cache=unsafe"
  -device virtio-rng-pci
)
timeout --foreground -k 5 "${LIMIT:-900}" "${qemu[@]}" </dev/null >"$work/qemu" 2>&1 || true

cat "$work/job/out" 2>/dev/null || true
[ -e "$work/job/status" ] || { tail -n 20 "$work/console" "$work/qemu" >&2; fail "the guest gave no answer"; }
exit "$(cat "$work/job/status")"
