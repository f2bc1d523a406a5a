import { describe, expect, test } from "bun:test";
import { type Hierarchy, hierarchiesOf } from "../../../platform/linux/cgroup/hierarchy.ts";

const V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
const v1 = (names: string, { root = "/", at = `/sys/fs/cgroup/${names}` } = {}) =>
  `33 31 0:30 ${root} ${at} rw,relatime shared:9 - cgroup cgroup rw,${names}`;
const lines = (...all: string[]) => `${all.join("\n")}\n`;

const table: readonly (readonly [
  what: string,
  given: { readonly mountinfo: string; readonly cgroup: string },
  found: readonly Hierarchy[],
])[] = [
  [
    "v2 alone, in the group of a session",
    { mountinfo: V2, cgroup: "0::/user.slice/user-1000.slice/session-2.scope\n" },
    [
      {
        version: 2,
        mount: "/sys/fs/cgroup",
        own: "/sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope",
        controllers: ["usage", "kill"],
      },
    ],
  ],
  [
    "v2 in a namespace of its own, where its group is the top",
    { mountinfo: V2, cgroup: "0::/\n" },
    [{ version: 2, mount: "/sys/fs/cgroup", own: "/sys/fs/cgroup", controllers: ["usage", "kill"] }],
  ],
  [
    "v1, a tree for each, and two in one",
    {
      mountinfo: lines(v1("memory"), v1("cpu,cpuacct"), v1("pids"), v1("devices"), v1("name=systemd")),
      cgroup: "9:name=systemd:/\n8:pids:/a\n4:memory:/a/b\n2:cpu,cpuacct:/\n1:devices:/\n",
    },
    [
      { version: 1, mount: "/sys/fs/cgroup/memory", own: "/sys/fs/cgroup/memory/a/b", controllers: ["memory"] },
      { version: 1, mount: "/sys/fs/cgroup/cpu,cpuacct", own: "/sys/fs/cgroup/cpu,cpuacct", controllers: ["cpu", "usage"] },
      { version: 1, mount: "/sys/fs/cgroup/pids", own: "/sys/fs/cgroup/pids/a", controllers: ["pids"] },
    ],
  ],
  [
    "both side by side",
    {
      mountinfo: lines(v1("freezer"), V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")),
      cgroup: "6:freezer:/\n0::/x\n",
    },
    [
      { version: 1, mount: "/sys/fs/cgroup/freezer", own: "/sys/fs/cgroup/freezer", controllers: ["kill"] },
      { version: 2, mount: "/sys/fs/cgroup/unified", own: "/sys/fs/cgroup/unified/x", controllers: ["usage", "kill"] },
    ],
  ],
  [
    "that of a container engine, which shows the group alone",
    { mountinfo: v1("memory", { root: "/docker/1f" }), cgroup: "4:memory:/docker/1f/inner\n" },
    [{ version: 1, mount: "/sys/fs/cgroup/memory", own: "/sys/fs/cgroup/memory/inner", controllers: ["memory"] }],
  ],
  ["one whose group is not to be seen from here", { mountinfo: V2.replace(" / /sys", " /docker/1f /sys"), cgroup: "0::/other\n" }, []],
  ["one that is outside of the namespace", { mountinfo: V2, cgroup: "0::/../outside\n" }, []],
  ["a tree that is mounted twice, at the first place", { mountinfo: lines(v1("pids"), v1("pids", { at: "/mnt" })), cgroup: "8:pids:/\n" }, [
    { version: 1, mount: "/sys/fs/cgroup/pids", own: "/sys/fs/cgroup/pids", controllers: ["pids"] },
  ]],
  ["a place with marks in its name", { mountinfo: v1("pids", { at: "/mnt/a\\040b\\134" }), cgroup: "8:pids:/\n" }, [
    { version: 1, mount: "/mnt/a b\\", own: "/mnt/a b\\", controllers: ["pids"] },
  ]],
  ["none", { mountinfo: "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n", cgroup: "" }, []],
  ["nonsense", { mountinfo: "a - cgroup2\n - \n\n", cgroup: ":::\n0\n" }, []],
]; // biome-ignore format: a table

describe("hierarchiesOf() finds", () => {
  test.each(table)("%s", (_, given, found) => {
    expect(hierarchiesOf(given)).toEqual([...found]);
  });
});
