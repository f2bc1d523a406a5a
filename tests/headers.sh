#!/bin/bash
# headers.sh DEST [SUITE...] - unpacks the newest Linux UAPI headers that Debian offers into DEST and prints the include directory.
# The system's apt is left as it is: package lists, cache and state live in a temporary directory.
# Needs apt, dpkg-deb and debian-archive-keyring.
set -euo pipefail
dest=${1:?usage: headers.sh DEST [SUITE...]}
shift
suites=("${@:-trixie-backports}")
[ $# -gt 0 ] || suites+=(trixie sid)

# The mirror is the one that this system's own apt uses.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort -u | grep -E '/debian/?$' | head -1)
[ -n "$mirror" ] || { echo "headers.sh: apt has no Debian source (run apt-get update first)" >&2; exit 1; }

private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
mkdir -p "$private"/{etc,state/lists/partial,cache/archives/partial}
: >"$private/state/status"
options=(
  -o Dir::Etc="$private/etc" -o Dir::Etc::sourcelist="$private/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::Etc::preferencesparts=/dev/null -o Dir::State="$private/state" -o Dir::State::status="$private/state/status"
  -o Dir::Cache="$private/cache" -o APT::Sandbox::User=root -qq
)

# A later suite is asked only when an earlier one does not have the package.
fetch() {
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$private/etc/sources.list"
  apt-get "${options[@]}" update && (cd "$private" && apt-get "${options[@]}" download linux-libc-dev)
}
for suite in "${suites[@]}"; do
  ! fetch "$suite" >&2 || break
done

package=$(find "$private" -maxdepth 1 -name 'linux-libc-dev_*.deb')
[ -n "$package" ] || { echo "headers.sh: linux-libc-dev is in none of: ${suites[*]}" >&2; exit 1; }
mkdir -p "$dest"
dpkg-deb -x "$package" "$dest"
rm -rf "$dest/usr/share"
find "$(cd "$dest" && pwd)" -path '*/linux/version.h' -printf '%h\n' | sed 's|/linux$||'
