#!/bin/bash
# inside.sh FILE... - run in a guest: says which kernel this is and what caisson finds here, and runs files of tests.
uname -srm
cat /proc/self/cgroup
node_modules/.bin/bun src/cli.ts doctor
# A processor that is imitated is some ten times slower.
CAISSON_REQUIRE=puppet,seccomp,landlock,namespaces exec node_modules/.bin/bun test --timeout 120000 "$@"
