// Denials from what filters, Landlock and proxies say: by table, each with what it grants.
import { describe, expect, test } from "bun:test";
import { GROUPS, type SupervisedCall } from "../../platform/index.ts";
import type { Denial, Situation } from "../../src/denial.ts";
import { parseRule } from "../../src/rule.ts";
import { policyOf, type Sandbox } from "../../src/sandbox.ts";
import { denialOf, denialOfCall, denialOfLandlock } from "../../src/verdict.ts";
import { O } from "../../syscalls/linux/numbers.ts";

const HOST = ["/", "/data", "/data/a", "/etc", "/etc/passwd", "/usr", "/usr/bin", "/usr/bin/git", "/proc/1/mem"];

function situation(kind: Situation["kind"], granted: Sandbox = {}): Situation {
  const { read = [], write = [], net = [], run = [], promises } = granted;
  return {
    actor: "build",
    kind,
    policy: { ...policyOf({}, "program"), read, write, net, run, promises: promises?.split(" ") },
    enforcement: {
      files: ["mount namespace", "Landlock ABI 7", "seccomp"],
      network: ["network namespace", "seccomp"],
      processes: ["PID namespace", "seccomp"],
      privileges: ["no_new_privs"],
      kernel: ["seccomp"],
      memory: ["RLIMIT_DATA"],
      cpu: [],
      time: [],
      disk: [],
    },
    directory: "/",
    look: (path) =>
      HOST.includes(path)
        ? { path, directory: HOST.some((each) => each.startsWith(`${path}/`)), readable: true, writable: true }
        : undefined,
  };
}

const called = (call: string, more: Partial<SupervisedCall> = {}) =>
  ({ call, args: [0n, 0n, 0n, 0n, 0n, 0n], pid: 7, tid: 7, program: "git", paths: [], ...more }) as SupervisedCall;

const opened = (path: string, flags: number) => called("openat", { paths: [path], flags });

describe("denialOfCall()", () => {
  const { RDONLY, WRONLY, RDWR, CREAT, TRUNC } = O;
  const CASES: [Situation["kind"], Sandbox, SupervisedCall, Partial<Denial>][] = [
    [
      "program",
      {},
      opened("/etc/passwd", RDONLY),
      {
        call: "openat",
        target: "/etc/passwd",
        guarantee: "files",
        fix: "--read=/etc/passwd",
        grant: { read: ["/etc/passwd"] },
      },
    ],
    ["program", {}, opened("/data/../etc/passwd", RDONLY), { fix: "--read=/etc/passwd" }],
    ["program", {}, opened("/etc/passwd", RDWR), { grant: { write: ["/etc/passwd"] } }],
    ["program", {}, opened("/data/new", WRONLY | CREAT), { grant: { write: ["/data"] } }],
    [
      "program",
      { read: ["/data"] },
      opened("/data/a", RDONLY | TRUNC),
      { wall: "mount namespace: it is granted for reading alone", grant: { write: ["/data/a"] } },
    ],
    ["actor", {}, opened("/data/a", RDONLY), { wall: "seccomp: no path is granted", grant: { read: ["/data/a"] } }],
    ["program", {}, called("unlink", { paths: ["/data/a"] }), { grant: { write: ["/data"] } }],
    ["program", {}, called("truncate", { paths: ["/data/a"] }), { grant: { write: ["/data/a"] } }],
    [
      "program",
      {},
      called("rename", { paths: ["/data/a", "/etc/b"] }),
      { target: "/data/a -> /etc/b", fix: "--write=/data --write=/etc", grant: { write: ["/data", "/etc"] } },
    ],
    [
      "program",
      { write: ["/data"] },
      called("rename", { paths: ["/data/a", "/etc/b"] }),
      { grant: { write: ["/etc"] } },
    ],
    ["program", {}, opened("/proc/1/mem", RDONLY), { fix: "None: /proc belongs to the kernel" }],
    [
      "program",
      { write: ["/data"] },
      called("setxattr", { paths: ["/data/a"] }),
      { fix: "None: no sandbox allows this call" },
    ],
    [
      "program",
      {},
      called("connect", { address: "203.0.113.5:443" }),
      { target: "203.0.113.5:443", guarantee: "network", grant: { net: ["203.0.113.5:443"] } },
    ],
    ["program", {}, called("connect", { address: "[2001:db8::1]:80" }), { fix: "--net=[2001:db8::1]:80" }],
    [
      "program",
      {},
      called("connect", { address: "unix:/run/x" }),
      { fix: "None: sockets of the host are not for sandboxes" },
    ],
    ["program", {}, called("socket"), { target: "", fix: "--net=host:port for each host that it may reach" }],
    ["program", { net: ["a.example:1"] }, called("socket"), { fix: expect.stringContaining("through the proxy") }],
    ["actor", {}, called("socket"), { fix: expect.stringContaining("network([") }],
    ["script", {}, called("socket"), { fix: expect.stringContaining("--net is not supported") }],
    [
      "program",
      {},
      called("execve", { paths: ["/usr/bin/git"] }),
      { guarantee: "processes", fix: "--run=/usr/bin/git", grant: { run: ["/usr/bin/git"] } },
    ],
    ["actor", {}, called("execve", { paths: ["/usr/bin/git"] }), { fix: "None: an actor starts no programs" }],
    ["actor", {}, called("fork"), { guarantee: "processes", fix: "None: an actor starts no programs" }],
    ["program", {}, called("ptrace"), { guarantee: "processes", fix: "None: no sandbox allows this call" }],
    [
      "program",
      {},
      called("mount", { paths: ["/data", "/etc"] }),
      { guarantee: "privileges", target: "/data -> /etc" },
    ],
    ["program", {}, called("unshare"), { guarantee: "privileges" }],
    ["program", {}, called("io_uring_setup"), { guarantee: "kernel" }],
    ["program", {}, called("memfd_secret"), { guarantee: "memory" }],
    ["program", {}, called("syscall 9999"), { guarantee: "kernel", wall: "seccomp: no sandbox knows it" }],
  ];
  test.each(CASES)("%s %j %#", (kind, granted, call, expected) => {
    expect(denialOfCall(call, situation(kind, granted))).toMatchObject({ actor: "build", ...expected });
  });

  test.each(CASES.filter(([, , , { grant }]) => grant?.read !== undefined || grant?.write !== undefined))(
    "%s %j %#: with its grant, its paths lack nothing",
    (kind, granted, call, { grant }) => {
      const more = {
        read: [...(granted.read ?? []), ...(grant!.read ?? [])],
        write: [...(granted.write ?? []), ...(grant!.write ?? [])],
      };
      expect(denialOfCall(call, situation(kind, more))?.grant).toBeUndefined();
    },
  );

  test("says nothing of looks for what is nowhere", () => {
    for (const call of [
      opened("/etc/none", O.RDONLY),
      called("stat", { paths: ["/none"] }),
      called("execve", { paths: ["/none"] }),
    ])
      expect(denialOfCall(call, situation("program"))).toBeUndefined();
  });

  test("names the promise that lacked", () => {
    expect(denialOfCall(called("socket"), situation("program", { promises: "stdio rpath" }), "inet")).toMatchObject({
      promise: "inet",
      guarantee: "network",
      fix: '--promises="stdio rpath inet"',
      grant: { promises: "inet" },
    });
  });

  test("finds words for every call that there is, without a path and with one that is none", () => {
    for (const call of Object.values(GROUPS).flat()) {
      const { wall, fix } = denialOfCall(called(call), situation("program"))!;
      expect([wall, fix].every((words) => words.length > 5)).toBe(true);
      denialOfCall(called(call, { paths: ["", "relative"] }), situation("actor"));
    }
  });
});

describe("denialOfLandlock()", () => {
  const CASES: [blockers: string[], path: string | undefined, expected: Partial<Denial>][] = [
    [["fs.read_file"], "/etc/passwd", { call: "read_file", guarantee: "files", grant: { read: ["/etc/passwd"] } }],
    [["fs.read_dir"], "/etc", { grant: { read: ["/etc"] } }],
    [["fs.read_file", "fs.write_file"], "/data/a", { grant: { write: ["/data/a"] } }],
    [["fs.make_reg"], "/data", { grant: { write: ["/data"] } }],
    [["fs.execute"], "/usr/bin/git", { guarantee: "processes", grant: { run: ["/usr/bin/git"] } }],
    [["fs.ioctl_dev"], "/dev/tty", { guarantee: "files", fix: "None: no sandbox allows it" }],
    [["fs.read_file"], undefined, { target: "", fix: "None: where that is, is not known" }],
    [["net.connect_tcp"], undefined, { guarantee: "network" }],
    [
      ["scope.abstract_unix_socket"],
      undefined,
      { guarantee: "network", fix: "None: sockets of the host are not for sandboxes" },
    ],
    [["scope.signal"], undefined, { guarantee: "processes" }],
    [["ptrace"], undefined, { guarantee: "processes" }],
    [[], undefined, { guarantee: "processes" }],
  ];
  test.each(CASES)("%j %s", (blockers, path, expected) => {
    expect(denialOfLandlock({ blockers, path }, situation("program"))).toMatchObject(expected);
  });

  const PROMISED: [blockers: string[], promises: string, expected: Partial<Denial>][] = [
    [["fs.read_file"], "stdio rpath", { fix: "--read=/data", grant: { read: ["/data"] } }],
    [
      ["fs.read_file"],
      "stdio",
      {
        promise: "rpath",
        wall: "Landlock: fs.read_file is not granted: it promised to do without rpath",
        fix: '--read=/data --promises="stdio rpath"',
        grant: { read: ["/data"], promises: "rpath" },
      },
    ],
    [
      ["fs.make_reg", "fs.write_file"],
      "stdio rpath",
      {
        promise: "cpath wpath",
        fix: '--write=/data --promises="stdio rpath cpath wpath"',
        grant: { write: ["/data"], promises: "cpath wpath" },
      },
    ],
    [["fs.ioctl_dev"], "stdio", { fix: "None: no sandbox allows it" }],
    [["scope.signal"], "", { fix: "None: no sandbox allows it" }],
  ];
  test.each(PROMISED)("%j of who promised %j", (blockers, promises, expected) => {
    const denial = denialOfLandlock({ blockers, path: "/data" }, situation("program", { promises }));
    expect(denial).toMatchObject(expected);
    expect(denial.promise).toBe(expected.promise as string);
  });
});

describe("denialOf()", () => {
  const rules = ["a.example:443"].map(parseRule);
  const denied = { allowed: false, via: "connect", reason: "why" } as const;
  test.each([
    [{ host: "b.example", port: 443 }, "--net=b.example:443"],
    [{ host: "fd00::1", port: 80, address: "fd00::1" }, "--net=[fd00::1]:80"],
    [{ host: "a.example", port: 443, address: "10.0.0.1" }, "--net=10.0.0.1:443"],
    [{ host: "a.example", port: 443 }, "None: there is nothing to connect to"],
    [{ host: "localhost", port: 80 }, "None: Cannot use"],
  ])("%j: %s", (asked, fix) => {
    const denial = denialOf({ ...denied, ...asked }, { actor: "curl", kind: "program", rules });
    expect(denial).toMatchObject({ actor: "curl", call: "connect", wall: "proxy of the host: why" });
    expect(denial.fix).toStartWith(fix);
    expect(denial.grant).toEqual((fix.startsWith("--net") ? { net: [fix.slice(6)] } : undefined) as Sandbox);
  });
});
