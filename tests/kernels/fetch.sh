#!/bin/bash
# fetch.sh LINE CACHE - gets the newest kernel of a line, as 6.12, that Debian has, and prints the directory beneath CACHE with what a guest needs of it:
# vmlinuz, and the few modules by which it sees this machine's files, in modules.cpio.gz. The system's apt is left as it is: package lists, cache
# and state live in a temporary directory. Needs apt, dpkg-deb, debian-archive-keyring, kmod, cpio, xz-utils and zstd.
set -euo pipefail
line=${1:?usage: fetch.sh LINE CACHE}
cache=${2:?usage: fetch.sh LINE CACHE}
fail() { echo "fetch.sh: $*" >&2 && exit 1; }

private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
mkdir -p "$private"/{etc,state/lists/partial,cache/archives/partial,modules/modules,tree}
: >"$private/state/status"
options=(
  -o Dir::Etc="$private/etc" -o Dir::Etc::sourcelist="$private/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::Etc::preferencesparts=/dev/null -o Dir::State="$private/state" -o Dir::State::status="$private/state/status"
  -o Dir::Cache="$private/cache" -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o APT::Architectures=amd64 -qq
)

# The mirrors are those that this system's own apt uses.
mirrors=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort -u)
source_of() {
  local mirror suite
  mirror=$(grep -m1 -E "/$1/?$" <<<"$mirrors") || fail "apt has no source of $1 (run apt-get update first)"
  for suite in "${@:2}"; do echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"; done
}
{
  source_of debian bookworm trixie trixie-backports
  source_of debian-security bullseye-security bookworm-security trixie-security
} >"$private/etc/sources.list"
# A suite that Debian has given up is not missed unless the kernel is.
apt-get "${options[@]}" update >"$private/update" 2>&1 || true

# Packages without a version in their name depend on those that are wanted.
image=$(apt-cache "${options[@]}" show linux-image-amd64 "linux-image-$line-amd64" 2>/dev/null | awk -v line="$line." '
  /^Version: / { version = $2 }
  /^Depends: / && index(version, line) == 1 && match($0, /linux-image-[^ ,]*/) { print version, substr($0, RSTART, RLENGTH) }' |
  sort -V | tail -1)
[ -n "$image" ] || { cat "$private/update" >&2; fail "no suite has a kernel $line"; }
read -r version name <<<"$image"

directory=$cache/$version
if [ ! -e "$directory/modules.cpio.gz" ]; then
  # From 6.19 on the image is in three packages.
  parts=$(apt-cache "${options[@]}" show "$name=$version" | sed -n 's/^Depends: //p' |
    grep -oE 'linux-(binary|modules)-[0-9][^ ,]*' || true)
  (cd "$private" && for each in "$name" $parts; do apt-get "${options[@]}" download "$each=$version" >&2; done)
  for each in "$private"/*.deb; do dpkg-deb -x "$each" "$private/tree"; done
  if [ ! -e "$private/tree/lib" ]; then ln -s usr/lib "$private/tree/lib"; fi
  release=$(ls "$private/tree/lib/modules")
  /sbin/depmod -b "$private/tree" "$release"
  number=10
  # In the order in which they are loaded. What is built in is none.
  for module in virtio_pci 9pnet_virtio 9p overlay crc32c_generic virtio_blk virtio_rng ext4; do
    /sbin/modprobe -d "$private/tree" -S "$release" --show-depends "$module" 2>/dev/null || true
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
    number=$((number + 1))
    name=$private/modules/modules/$number-$(basename "$file")
    case $file in
      *.xz) xz -dc "$file" >"${name%.xz}" ;;
      *.zst) zstd -qdc "$file" >"${name%.zst}" ;;
      *) cp "$file" "$name" ;;
    esac
  done
  mkdir -p "$directory"
  cp "$private/tree/boot/vmlinuz-$release" "$directory/vmlinuz" 2>/dev/null ||
    cp "$private/tree/lib/modules/$release/vmlinuz" "$directory/vmlinuz" || fail "$name has no vmlinuz"
  (cd "$private/modules" && find . | cpio -o -H newc --quiet | gzip -1) >"$directory/modules.partial"
  mv "$directory/modules.partial" "$directory/modules.cpio.gz"
fi
echo "$directory"
