import { describe, expect, test } from "bun:test";
import { isFenced, showsGroups } from "../../../platform/linux/cgroup/border.ts";
import type { ContainerPlan, Mount, Namespace } from "../../../platform/platform.ts";

const MOUNTS = [
  "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
  "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate",
  "31 23 0:27 / /srv/groups rw,nosuid - cgroup none rw,memory",
].join("\n");
const ALL: readonly Namespace[] = ["user", "mount", "pid", "cgroup"];
const bind = (source: string, recursive = true): Mount => ({
  ...{ kind: "bind", source, target: "/mnt", directory: true, write: false, execute: false, devices: false },
  ...{ recursive, idmap: undefined },
});
const rooted = (...mounts: Mount[]) => ({ mounts, readonly: false });

const table: readonly (readonly [what: string, plan: Partial<ContainerPlan>, fenced: boolean])[] = [
  ["a root of its own", { root: rooted(bind("/usr")) }, true],
  ["the host's files without what is mounted there", { root: rooted(bind("/", false)) }, true],
  ["the host's files with it", { root: rooted(bind("/")) }, false],
  ["what is like them by name alone", { root: rooted(bind("/sys/fs/cgroup2"), bind("/sys/fs/cgroups")) }, true],
  ["the tree itself", { root: rooted(bind("/usr"), bind("/sys/fs/cgroup", false)) }, false],
  ["a group", { root: rooted(bind("/sys/fs/cgroup/a/b", false)) }, false],
  ["a directory with one of v1 in it", { root: rooted(bind("/srv")) }, false],
  ["that directory without it", { root: rooted(bind("/srv", false)) }, true],
  ["the host's mounts", {}, false],
  ["the host's users", { root: rooted(), namespaces: ["mount", "cgroup"] }, false],
  ["the host's cgroup namespace", { root: rooted(), namespaces: ["user", "mount"] }, false],
  ["somebody's namespaces", { root: rooted(), join: [7] }, false],
]; // biome-ignore format: a table

describe("isFenced() of a container with", () => {
  test.each(table)("%s", (_, plan, fenced) => {
    expect(isFenced({ namespaces: ALL, join: [], ...plan }, MOUNTS)).toBe(fenced);
  });
});

describe("showsGroups() of", () => {
  test.each([
    ["nothing", [], false],
    ["other paths", ["/usr", "/sys/fs/cgroup2"], false],
    ["a path above", ["/usr", "/sys"], true],
    ["everything", ["/"], true],
    ["a file of a group", ["/srv/groups/a/memory.limit_in_bytes"], true],
  ] as const)("%s", (_, sources, shows) => {
    expect(
      showsGroups(
        sources.map((source) => ({ source, recursive: true })),
        MOUNTS,
      ),
    ).toBe(shows);
  });
});
