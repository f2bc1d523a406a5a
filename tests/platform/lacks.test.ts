import { describe, expect, test } from "bun:test";
import { type Lack, planLandlock, type Wanted } from "../../platform/linux/lacks.ts";
import { ERRATA, handledBy, RIGHTS } from "../../platform/linux/landlock.ts";
import { compile } from "../../platform/linux/seccomp/compile.ts";
import { explain } from "../../platform/linux/seccomp/explain.ts";
import { AF, SOCK } from "../../syscalls/linux/constants.ts";
import { LANDLOCK_SCOPE as SCOPE } from "../../syscalls/linux/numbers.ts";

const FIXED = Object.values(ERRATA).reduce((all, bit) => all | bit, 0);
const NEWEST = Math.max(...Object.values(RIGHTS).map(({ abi }) => abi));
const NOTHING: Wanted = { paths: [] };
const lacked = (wanted: Wanted, abi: number, errata = FIXED) => planLandlock(wanted, { abi, errata }).lacks;
const words = (lacks: readonly Lack[]) => lacks.map(({ lacks }) => lacks);

describe("what each ABI lacks", () => {
  const all = [
    [2, "fs.refer (ABI 2)"],
    [3, "fs.truncate (ABI 3)"],
    [5, "fs.ioctl_dev (ABI 5)"],
    [9, "fs.resolve_unix (ABI 9)"],
    [6, "scope.abstract_unix_socket (ABI 6)"],
    [6, "scope.signal (ABI 6)"],
  ] as const;
  for (let abi = 1; abi <= NEWEST; abi++) {
    const expected = all.filter(([since]) => since > abi).map(([, what]) => what);
    test(`ABI ${abi}: ${expected.join(", ") || "nothing"}`, () => {
      const lacks = lacked(NOTHING, abi);
      expect(words(lacks)).toEqual(expected);
      for (const { instead } of lacks) expect(instead).toBeString();
    });
  }

  test("without Landlock nothing keeps files; the rest is kept as before", () => {
    const lacks = lacked({ ...NOTHING, net: {} }, 0);
    expect(lacks[0]).toEqual({ guarantee: "files", lacks: "Landlock (ABI 1)", rules: [] });
    expect(lacks.filter(({ instead }) => instead === undefined)).toHaveLength(1);
    expect(planLandlock(NOTHING, { abi: 0, errata: 0 }).handled).toEqual({ fs: 0n, net: 0n, scoped: 0n });
  });
});

describe("the network", () => {
  const web: Wanted = { ...NOTHING, net: { tcp: { bind: [0], connect: [443] } } };
  const beside = ["protocols other than TCP and UDP", expect.stringContaining("MSG_FASTOPEN")];

  test("is not governed where other walls keep it", () => {
    const plan = planLandlock(NOTHING, { abi: NEWEST, errata: FIXED });
    expect([plan.handled.net, plan.ports]).toEqual([0n, []]);
  });

  test("is kept by ports, and by a filter for what has none", () => {
    const plan = planLandlock(web, { abi: NEWEST, errata: FIXED });
    expect(plan.handled.net).toBe(handledBy(NEWEST).net);
    expect(plan.ports).toHaveLength(2);
    expect(words(plan.lacks)).toEqual(beside);
  });

  test("is not kept where ports are allowed that the kernel cannot tell apart, and is where there are none", () => {
    const [tcp, udp] = lacked(web, 3).filter(({ lacks }) => lacks.startsWith("net."));
    expect(tcp).toEqual({ guarantee: "network", lacks: "net.connect_tcp (ABI 4)", rules: [] });
    expect(udp!.instead).toBe("seccomp refuses such sockets");
    const filter = { machine: "x64", default: "allow", rules: udp!.rules } as const;
    expect(explain(filter, "socket", [AF.INET, SOCK.DGRAM, 0]).action).toEqual({ errno: "EACCES" });
    expect(explain(filter, "socket", [AF.INET, SOCK.STREAM, 0]).action).toBe("allow");
  });

  test("a port to listen at that is not any means that listening by itself is not kept", () => {
    const server = (bind: number[]) => lacked({ ...NOTHING, net: { tcp: { bind, connect: [] } } }, NEWEST).at(-1)!;
    expect(server([])).toMatchObject({ instead: "seccomp refuses listen(2)" });
    expect(server([80])).toEqual({ guarantee: "network", lacks: "listen(2) on a socket that nobody bound", rules: [] });
    expect(server([0]).lacks).toContain("MSG_FASTOPEN");
  });
});

describe("errata that are not fixed", () => {
  test("3: nothing is moved between directories", () => {
    expect(words(lacked(NOTHING, NEWEST, FIXED & ~ERRATA.DISCONNECTED))).toEqual([
      "a fix for directories that are moved away (erratum 3)",
    ]);
  });

  test("2: threads that are confined apart are left to signal each other, and a filter keeps them from others", () => {
    const errata = FIXED & ~ERRATA.OWN_THREADS;
    const apart = planLandlock({ ...NOTHING, apart: true, pid: 7 }, { abi: NEWEST, errata });
    expect(apart.handled.scoped).toBe(SCOPE.ABSTRACT_UNIX_SOCKET);
    const [lack] = apart.lacks;
    expect(lack).toMatchObject({
      guarantee: "processes",
      instead: "seccomp refuses signals to any process but its own",
    });
    const filter = { machine: "x64", default: "allow", rules: lack!.rules } as const;
    expect(explain(filter, "tgkill", [7, 8, 10]).action).toBe("allow");
    expect(explain(filter, "tgkill", [8, 8, 10]).action).toEqual({ errno: "EPERM" });
    expect(lacked({ ...NOTHING, apart: true }, NEWEST)).toEqual([]);
    expect(lacked(NOTHING, NEWEST, errata)).toEqual([]);
  });
});

describe("paths that Landlock cannot tell apart", () => {
  const path = (path: string, permissions: string, directory = true) => ({ path, permissions, directory });
  const table: readonly (readonly [what: string, paths: Wanted["paths"], lacks: string[]])[] = [
    ["more beneath less", [path("/a", "r"), path("/a/b", "rw")], []],
    ["side by side", [path("/a", "rw"), path("/ab", "r")], []],
    ["less beneath more", [path("/a", "rw"), path("/a/b/c", "r")], ["less for /a/b/c than for /a, in which it is"]],
    ["nothing beneath something", [path("/", "r"), path("/a", "")], ["less for /a than for /, in which it is"]],
    ["one file to create", [path("/a/f", "rwc", false)], ["leave to create and remove /a/f alone"]],
  ];
  for (const [what, paths, expected] of table) {
    test(what, () => {
      const lacks = lacked({ paths }, NEWEST);
      expect(words(lacks)).toEqual(expected);
      for (const { instead } of lacks) expect(instead).toBeUndefined();
    });
  }

  test("have no rule without a right, which would be ENOMSG", () => {
    const { rules } = planLandlock({ paths: [path("/a", ""), path("/f", "c", false)] }, { abi: NEWEST, errata: FIXED });
    expect(rules).toEqual([]);
  });
});

test("rules that stand for a right refuse and never allow, and can all be together", () => {
  for (let abi = 0; abi <= NEWEST; abi++) {
    const rules = lacked({ ...NOTHING, net: {}, apart: true }, abi, 0).flatMap((lack) => [...lack.rules]);
    for (const { action } of rules) expect(action).toHaveProperty("errno");
    for (const machine of ["x64", "arm64"] as const) compile({ machine, default: "allow", rules });
  }
});
