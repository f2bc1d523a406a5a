#!/bin/bash
# run.sh KERNEL [-u UID] [COMMAND...] - runs the tests of Landlock's rights, or a command, under another kernel in QEMU.
# KERNEL is a directory with an unpacked linux-image package of Debian's (`dpkg-deb -x linux-image-VERSION-amd64_*.deb KERNEL`; from 6.19 on with
# linux-binary and linux-modules beside it; not a "cloud" one, which has no 9p). The guest sees this machine's files, and keeps none of what it writes.
# Needs qemu-system-x86, busybox-static, kmod, cpio, xz-utils and e2fsprogs; no KVM, so allow a minute.
set -euo pipefail
kernel=${1:?usage: run.sh KERNEL [-u UID] [COMMAND...]}
shift
user=0
if [ "${1:-}" = -u ]; then user=$2 && shift 2; fi
repository=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -gt 0 ] || set -- node_modules/.bin/bun test --timeout 60000 tests/platform/rights.test.ts tests/platform/audit.test.ts

modules=$(find "$kernel/lib/modules" "$kernel/usr/lib/modules" -mindepth 1 -maxdepth 1 -type d 2>/dev/null | head -1 || true)
[ -n "$modules" ] || { echo "run.sh: no lib/modules/VERSION in $kernel" >&2; exit 1; }
version=$(basename "$modules")
image=$kernel/boot/vmlinuz-$version
[ -e "$image" ] || image=$modules/vmlinuz

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,modules,proc,sys,dev,host,over,new,job} "$work"/job "$work"/tree/lib/modules
cp "$(command -v busybox)" "$work/root/bin/busybox"

# The few modules that the guest needs to see a file at all, and a disk, in the order in which they are loaded.
ln -s "$(cd "$modules" && pwd)" "$work/tree/lib/modules/$version"
if [ ! -e "$modules/modules.dep" ]; then
  rm "$work/tree/lib/modules/$version" && cp -r "$modules" "$work/tree/lib/modules/$version"
  /sbin/depmod -b "$work/tree" "$version"
fi
number=10
for module in virtio_pci 9pnet_virtio 9p overlay crc32c_generic virtio_blk ext4; do
  /sbin/modprobe -d "$work/tree" -S "$version" --show-depends "$module" 2>/dev/null || true
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
  number=$((number + 1))
  name=$number-$(basename "$file")
  case $file in
    *.xz) xz -dc "$file" >"$work/root/modules/${name%.xz}" ;;
    *.zst) zstd -qdc "$file" >"$work/root/modules/${name%.zst}" ;;
    *) cp "$file" "$work/root/modules/$name" ;;
  esac
done

cat >"$work/root/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module"; done
options=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o $options,ro,cache=loose host /host
$b mount -t 9p -o $options job /job
$b mount -t tmpfs over /over
$b mkdir /over/upper /over/work
$b mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /new
for each in proc:proc sysfs:sys devtmpfs:dev; do $b mount -t ${each%:*} ${each%:*} /new/${each#*:}; done
$b mkdir -p /new/dev/pts /new/dev/shm
$b mount -t devpts devpts /new/dev/pts
# What is about inodes wants a file system of the guest's own, not an overlay; and root's sandboxes one that can map ids, as tmpfs can from 6.3.
for each in dev/shm run; do $b mount -t tmpfs -o mode=1777 tmpfs /new/$each; done
$b mount -t ext4 /dev/vda /new/var/tmp
$b chmod 1777 /new/var/tmp
$b mkdir -m 1777 /new/var/tmp/tmp
$b mount --bind /new/var/tmp/tmp /new/tmp
$b ln -sf /proc/self/fd /new/dev/fd
$b ip link set lo up
$b mkdir /new/run/job
$b mount --move /job /new/run/job
$b umount /proc /dev
exec $b switch_root /new /bin/bash /run/job/go
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"

truncate -s 2G "$work/disk"
/sbin/mkfs.ext4 -q -E root_owner=0:0 "$work/disk"

{
  echo "export PATH=$PATH HOME=/tmp TMPDIR=/tmp"
  printf 'cd %q\n' "$repository"
  printf 'setpriv --reuid %q --regid %q --clear-groups -- ' "$user" "$user"
  printf '%q ' "$@"
  echo '</dev/null >/run/job/out 2>&1; echo $? >/run/job/status; sync; echo o >/proc/sysrq-trigger; sleep 60'
} >"$work/job/go"
timeout -k 5 "${LIMIT:-600}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 \
  -nodefaults -no-user-config -nographic -no-reboot -serial "file:$work/console" \
  -kernel "$image" -initrd "$work/initrd" -append "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off" \
  -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap -device virtio-9p-pci,fsdev=host,mount_tag=host \
  -fsdev "local,id=job,path=$work/job,security_model=none" -device virtio-9p-pci,fsdev=job,mount_tag=job \
  -drive "file=$work/disk,format=raw,if=virtio" -device virtio-rng-pci </dev/null >"$work/qemu" 2>&1 || true

echo "Linux $version:"
cat "$work/job/out" 2>/dev/null || true
[ -e "$work/job/status" ] || { tail -n 20 "$work/console" "$work/qemu" >&2; echo "run.sh: the guest gave no answer" >&2; exit 1; }
exit "$(cat "$work/job/status")"
