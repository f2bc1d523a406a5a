import { describe, expect, test } from "bun:test";
import { accountOf } from "../../../platform/linux/cgroup/account.ts";
import type { Found } from "../../../platform/linux/cgroup/home.ts";

const hierarchies = [
  { version: 2, mount: "/cg", own: "/cg/a", controllers: ["usage", "kill"] },
  { version: 1, mount: "/cg/io", own: "/cg/io", controllers: ["io"] },
] as const;
const found: Found = {
  trees: [{ version: 2, parent: "/cg/a", controllers: ["usage", "kill", "memory"] }],
  lacks: { io: "not yours", pids: "nobody's", cpu: "not yours" },
  remedies: { io: "Ask", pids: "Build", cpu: "Ask" },
  hierarchies,
};
const nothing: Found = {
  trees: [],
  lacks: { memory: "unseen", pids: "unseen", cpu: "unseen", usage: "unseen", io: "unseen", kill: "unseen" },
  remedies: { memory: "Mount", pids: "Mount", cpu: "Mount", usage: "Mount", io: "Mount", kill: "Mount" },
  hierarchies: [],
};
const legacy: Found = {
  ...nothing,
  trees: [{ version: 1, parent: "/cg/memory", controllers: ["memory"] }],
  hierarchies: [{ version: 1, mount: "/cg/memory", own: "/cg/memory", controllers: ["memory"] }],
};

describe("accountOf()", () => {
  const of = (what: Found, psi = true) =>
    accountOf(what, psi).map(({ mechanism, present, detail, remedy }) => [present, mechanism, detail, remedy]);

  test("tells where trees are, what each controller is of use for, and what helps several in a row", () => {
    expect(of(found)).toEqual([
      [true, "control groups", "v2 at /cg, in /a; v1 for io at /cg/io", undefined],
      [true, "memory group", "cgroup v2: limits memory, memoryWarning and swap", undefined],
      [true, "usage group", "cgroup v2: counts for cpuTime", undefined],
      [true, "kill group", "cgroup v2: ends what is in it at once", undefined],
      [false, "cpu group", "not yours", "Ask"],
      [false, "io group", "not yours", "Ask"],
      [false, "pids group", "nobody's", "Build"],
      [true, "pressure", "counts stalls, and ends who only waits for memory", undefined],
    ]);
  });

  test("tells that there are none at all", () => {
    const told = of(nothing);
    expect(told[0]).toEqual([false, "control groups", "unseen", "Mount"]);
    expect(told.every(([present]) => present === false)).toBe(true);
  });

  test("tells of pressure where v2 governs memory and the kernel looks", () => {
    const last = (...args: Parameters<typeof of>) => of(...args).at(-1)!;
    expect(last(found, false)).toEqual([
      false,
      "pressure",
      "this kernel does not look at it",
      expect.stringContaining("psi=1"),
    ]);
    expect(last(nothing)[3]).toBe("Mount");
    expect(last(legacy)[3]).toContain("cgroup_no_v1=all");
  });
});
