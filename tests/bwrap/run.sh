#!/bin/bash
# run.sh [COMMAND [ARG...]] - runs bubblewrap's own tests with COMMAND in its place, `caisson bwrap` of this tree if none is given. Prints TAP.
# BUBBLEWRAP_SOURCE=DIR names Debian's source package where it is unpacked already; else it comes from Debian, as a copy that is gone afterwards.
# Needs apt, dpkg-source and debian-archive-keyring for that; cc and python3 for the tests of seccomp, perl for Debian's.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
mkdir -p "$private"/{bin,etc,state/lists/partial,cache/archives/partial,archive}
tests=0 failures=0

skip() {
  echo "1..0 # SKIP $*"
  exit 0
}

# result TEXT - one line of TAP, counted.
result() {
  tests=$((tests + 1))
  [ "${1#not}" = "$1" ] || failures=$((failures + 1))
  echo "$1"
}

# Debian's source package of the release that has 0.8. The system's apt is left as it is.
fetch() {
  local mirror options
  command -v dpkg-source >/dev/null || skip "dpkg-source is missing: apt-get install dpkg-dev"
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sort -u | grep -E '/debian/?$' | head -1)
  [ -n "$mirror" ] || skip "apt has no Debian source (run apt-get update first)"
  : >"$private/state/status"
  options=(
    -o Dir::Etc="$private/etc" -o Dir::Etc::sourcelist="$private/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferencesparts=/dev/null -o Dir::State="$private/state" -o Dir::State::status="$private/state/status"
    -o Dir::Cache="$private/cache" -o APT::Sandbox::User=root -qq
  )
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" >"$private/etc/sources.list"
  (cd "$private/archive" && apt-get "${options[@]}" update && apt-get "${options[@]}" source --download-only bubblewrap) >&2 ||
    skip "Debian's source package of bubblewrap cannot be had"
  # apt has verified the archive already.
  dpkg-source --no-check -x "$private"/archive/bubblewrap_*.dsc "$private/source" >&2 || skip "the source package cannot be unpacked"
}

# module PACKAGE - unpacks a package of this system's release for the tests alone; without it they say themselves what they lack.
module() {
  (cd "$private/archive" && apt-get -qq -o APT::Sandbox::User=root download "$1" && dpkg-deb -x "$1"_*.deb "$private/modules") >&2 2>/dev/null || true
}

# run NAME COMMAND... - one script of theirs, its TAP with its name in it. What it waits for may never come, so it has an end.
run() {
  local name=$1 log="$private/${1//\//-}.log" before=$failures status line
  shift
  while IFS= read -r line; do
    case $line in
    ok* | "not ok"*) result "$(sed -E "s|^((not )?ok)( [0-9]+)?( -)? ?|\1 - $name: |" <<<"$line")" ;;
    *SKIP*) echo "# $name: ${line#*SKIP }" ;;
    status=*) status=${line#status=} ;;
    esac
  done < <(
    cd "$private" && G_TEST_SRCDIR=$private/upstream G_TEST_BUILDDIR=$private/upstream timeout 90 "$@" 2>"$log"
    echo "status=$?"
  )
  if [ "$status" != 0 ] && [ "$failures" = "$before" ]; then result "not ok - $name: ended with status $status"; fi
  [ "$status" = 0 ] || tail -n 12 "$log" | sed 's/^/#   /'
}

source=${BUBBLEWRAP_SOURCE:-$private/source}
[ -n "${BUBBLEWRAP_SOURCE:-}" ] || fetch
[ -f "$source/tests/test-run.sh" ] || skip "$source has no tests of bubblewrap"

if [ $# = 0 ]; then
  # Some of the tests have no /dev inside, so the configuration of Bun is an empty file rather than /dev/null.
  : >"$private/bin/empty.toml"
  printf '#!/bin/sh\nexec %q --config=%q --no-env-file %q "$@"\n' "$root/node_modules/.bin/bun" "$private/bin/empty.toml" "$root/src/cli.ts" >"$private/bin/caisson"
  set -- caisson bwrap
fi
# Some of the tests know the name alone, without arguments of its own.
printf '#!/bin/bash\nexec %s "$@"\n' "$(printf '%q ' "$@")" >"$private/bin/single"
chmod +x "$private"/bin/*
export PATH="$private/bin:$PATH" BWRAP="$*" BWRAP_MUST_WORK=1

# The scripts end at the first failure. The copy goes on: what `set -e` would have ended is the result of the test that is being made.
# The command inside starts itself again as /proc/self/exe, which is bubblewrap only where bubblewrap is what executes it.
mkdir -p "$private/upstream"
cp -R "$source/tests" "$private/upstream/tests"
sed -i -e 's/^set -xeuo pipefail/set -xuo pipefail/' -e 's/\becho "ok/verdict "ok/' -e 's|/proc/self/exe|$BWRAP|g' "$private"/upstream/tests/test-*.sh
cat >>"$private/upstream/tests/libtest.sh" <<'END'
failed=
wrong() { [ -n "$failed" ] || failed=$*; }
fatal() { wrong "$@"; }
verdict() {
  if [ -n "$failed" ]; then printf 'not %s # %s\n' "$1" "${failed//$'\n'/ }"; else echo "$1"; fi
  failed=
}
set +e -E
trap 'wrong "line $LINENO: $BASH_COMMAND"' ERR
END

for script in test-run.sh test-specifying-userns.sh test-specifying-pidns.sh; do
  run "$script" bash "$private/upstream/tests/$script"
done

BWRAP=$private/bin/single
if ! command -v cc >/dev/null; then
  echo "# test-seccomp.py: skipped, there is no C compiler"
elif [ ! -x /usr/bin/python3 ]; then
  echo "# test-seccomp.py: skipped, there is no python3 of the system"
else
  module python3-seccomp
  cc -o "$private/upstream/tests/try-syscall" "$source/tests/try-syscall.c"
  PYTHONPATH="$private/modules/usr/lib/python3/dist-packages:$private/upstream/tests" run test-seccomp.py /usr/bin/python3 "$here/seccomp.py"
fi

ln -sf single "$private/bin/bwrap"
module libipc-run-perl
if PERL5LIB=$private/modules/usr/share/perl5 perl -MIPC::Run -e1 2>/dev/null; then
  scripts=(basic dev net)
  # Root's files are nobody's there only if root is not who asks.
  [ "$(id -u)" = 0 ] || scripts+=(userns)
  for script in "${scripts[@]}"; do
    PERL5LIB=$private/modules/usr/share/perl5 run "debian/$script" perl "$source/debian/tests/$script"
  done
else
  echo "# debian/tests: skipped, perl has no module IPC::Run"
fi

echo "1..$tests"
echo "# $((tests - failures)) of $tests passed"
[ "$failures" = 0 ]
