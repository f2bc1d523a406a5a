import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Abilities, NAMESPACES } from "../../platform/linux/abilities.ts";
import { handledBy } from "../../platform/linux/landlock.ts";
import { enforcementOf, planFor } from "../../platform/linux/plan.ts";
import type { Runtime } from "../../platform/linux/runtime.ts";
import { GUARANTEES, type Guarantee, NotEnforced, type Policy } from "../../platform/platform.ts";
import { CLONE, LANDLOCK_ACCESS_FS as FS } from "../../syscalls/linux/numbers.ts";
import { policy } from "./policy.ts";

const ALL = Object.values(NAMESPACES).reduce((bits, bit) => bits | bit, CLONE.NEWUSER as bigint);

/** A machine that can do everything, but for `less`. */
const machine = (less: Partial<Abilities> = {}): Abilities => ({
  landlock: 10,
  seccomp: true,
  namespaces: ALL,
  proc: "mount",
  root: false,
  capable: false,
  refusals: {},
  ...less,
});
const STINGY = machine({ namespaces: 0n, proc: undefined, refusals: { user: "EPERM: clone3 (CLONE_NEWUSER)" } });

const BUN: Runtime = {
  program: "/opt/bun/bun",
  loader: { source: "/usr/lib/ld.so", target: "/lib64/ld.so" },
  libraries: [{ source: "/usr/lib/libc-2.36.so", target: "/usr/lib/libc.so.6" }],
};

let granted: string;
beforeAll(() => {
  granted = realpathSync(mkdtempSync(join(tmpdir(), "caisson-plan-")));
  chmodSync(granted, 0o755);
  mkdirSync(join(granted, "nested"));
  writeFileSync(join(granted, "file"), "");
});
afterAll(() => rmSync(granted, { recursive: true }));

function refused(act: () => unknown): NotEnforced | undefined {
  try {
    act();
  } catch (error) {
    if (error instanceof NotEnforced) return error;
    throw error;
  }
  return undefined;
}

describe("enforcementOf() throws NotEnforced for the first guarantee that nothing keeps", () => {
  const table: readonly (readonly [
    what: string,
    able: Abilities,
    grants: boolean,
    guarantee: Guarantee | undefined,
  ])[] = [
    ["everything is there", machine(), false, undefined],
    ["everything is there, and paths are granted", machine(), true, undefined],
    ["no namespaces", STINGY, false, undefined],
    ["no namespaces, and paths are granted", STINGY, true, undefined],
    ["no Landlock", machine({ landlock: 0 }), false, undefined],
    ["no Landlock, and paths are granted", machine({ landlock: 0 }), true, "files"],
    ["the oldest Landlock, and paths are granted", machine({ landlock: 1 }), true, undefined],
    ["no seccomp", machine({ seccomp: false }), false, "kernel"],
    ["no seccomp, and paths are granted", machine({ seccomp: false }), true, "kernel"],
    ["neither namespaces nor Landlock", { ...STINGY, landlock: 0 }, false, undefined],
    ["neither namespaces nor Landlock, and paths are granted", { ...STINGY, landlock: 0 }, true, "files"],
    ["neither namespaces nor seccomp", { ...STINGY, seccomp: false }, false, "files"],
    ["neither namespaces nor seccomp, and paths are granted", { ...STINGY, seccomp: false }, true, "files"],
    [
      "neither a network namespace nor seccomp",
      machine({ seccomp: false, namespaces: ALL & ~CLONE.NEWNET }),
      false,
      "network",
    ],
    [
      "neither a PID namespace nor seccomp",
      machine({ seccomp: false, namespaces: ALL & ~CLONE.NEWPID }),
      false,
      "processes",
    ],
    ["nothing at all", { ...STINGY, landlock: 0, seccomp: false }, false, "files"],
  ];
  for (const [what, able, grants, guarantee] of table) {
    test(`${what}: ${guarantee ?? "all are kept"}`, () => {
      expect(refused(() => enforcementOf(policy({ read: grants ? ["/srv"] : [] }), able))?.guarantee).toBe(guarantee);
      expect(refused(() => enforcementOf(policy({ write: grants ? ["/srv"] : [] }), able))?.guarantee).toBe(guarantee);
    });
  }

  test("files, where who may read a file could empty it: no read-only mount, and a Landlock before ABI 3", () => {
    const refusal = (landlock: number, grants: Partial<Policy>) =>
      refused(() => enforcementOf(policy(grants), { ...STINGY, landlock }));
    expect(refusal(2, { read: ["/srv"] })?.missing).toContain("Landlock ABI 2 lets who reads a file empty it");
    expect(refusal(3, { read: ["/srv"] })).toBeUndefined();
    expect(refusal(2, { write: ["/srv"] })).toBeUndefined();
    expect(refused(() => enforcementOf(policy({ read: ["/srv"] }), machine({ landlock: 2 })))).toBeUndefined();
  });

  test("and names it, what is missing and the remedy", () => {
    const error = refused(() => enforcementOf(policy(), { ...STINGY, seccomp: false }))!;
    expect(error.missing).toContain("EPERM: clone3 (CLONE_NEWUSER)");
    expect(error.remedy).toContain("user.max_user_namespaces");
    expect(error.message).toBe(
      `Cannot guarantee "files": ${error.missing}. ${error.remedy}, or allow it with allowUnenforced: ["files"]`,
    );
  });

  test("unless the policy allows just that guarantee to be weaker", () => {
    const nothing = { ...STINGY, landlock: 0, seccomp: false };
    const lost: Guarantee[] = [];
    for (;;) {
      const error = refused(() => enforcementOf(policy({ allowUnenforced: lost }), nothing));
      if (error === undefined) break;
      expect(lost).not.toContain(error.guarantee);
      lost.push(error.guarantee);
    }
    expect(lost).toEqual(["files", "network", "processes", "kernel", "memory"]);
    const enforcement = enforcementOf(policy({ allowUnenforced: lost }), nothing);
    for (const guarantee of lost) expect(enforcement[guarantee]).toEqual([]);
  });
});

describe("enforcementOf() reports", () => {
  test("every guarantee, and each enforcer that is there", () => {
    const enforcement = enforcementOf(
      policy({ limits: { ...policy().limits, cpuTime: 1, wallTime: 1 } }),
      machine({ landlock: 7 }),
    );
    expect(Object.keys(enforcement).toSorted()).toEqual(GUARANTEES.toSorted());
    expect(enforcement).toEqual({
      files: ["mount namespace", "Landlock ABI 7", "seccomp"],
      network: ["network namespace", "seccomp", "Landlock ABI 7"],
      processes: ["PID namespace", "IPC namespace", "seccomp", "Landlock ABI 7"],
      privileges: ["no_new_privs", "user namespace", "empty capability sets", "seccomp"],
      kernel: ["seccomp"],
      memory: ["RLIMIT_DATA", "seccomp"],
      cpu: [],
      time: ["RLIMIT_CPU", "timer of the host"],
      disk: ["RLIMIT_FSIZE"],
    });
  });

  test("Landlock and seccomp alone where no namespace can be made", () => {
    expect(enforcementOf(policy({ read: ["/srv"] }), STINGY)).toMatchObject({
      files: ["Landlock ABI 10", "seccomp"],
      network: ["seccomp", "Landlock ABI 10"],
      privileges: ["no_new_privs", "seccomp"],
    });
  });

  test("no Landlock for what its ABI does not govern", () => {
    const { network, processes } = enforcementOf(policy(), machine({ landlock: 3 }));
    expect([...network, ...processes]).not.toContain("Landlock ABI 3");
    expect(enforcementOf(policy(), machine({ landlock: 5 })).processes).not.toContain("Landlock ABI 5");
  });
});

describe("planFor()", () => {
  test("throws before it looks at any path", () => {
    const act = () => planFor(policy({ read: ["/no/such/path"] }), machine({ landlock: 0 }), BUN);
    expect(refused(act)?.guarantee).toBe("files");
  });

  test("builds a root of Bun, its loader, its libraries and what is granted", () => {
    const plan = planFor(policy({ read: [granted], write: [join(granted, "file")] }), machine(), BUN);
    expect(plan.program).toBe("/bin/bun");
    const binds = plan.root!.binds.map(({ source, target, writable, executable }) => [
      source,
      target,
      writable,
      executable,
    ]);
    expect(binds.toSorted()).toEqual(
      [
        ["/opt/bun/bun", "/bin/bun", false, true],
        ["/usr/lib/ld.so", "/lib64/ld.so", false, true],
        ["/usr/lib/libc-2.36.so", "/usr/lib/libc.so.6", false, true],
        [granted, granted, false, false],
        [join(granted, "file"), join(granted, "file"), true, false],
      ].toSorted(),
    );
  });

  test("lets a path that is granted twice be written", () => {
    const { root } = planFor(policy({ read: [granted], write: [granted] }), machine(), BUN);
    expect(root!.binds.filter(({ target }) => target === granted)).toEqual([
      { source: granted, target: granted, directory: true, writable: true, executable: false },
    ]);
  });

  test("has root's grants mounted by the host, and placed by descriptor behind those that the boot file takes", () => {
    const asked = policy({ read: [granted], write: [join(granted, "file")] });
    const plan = planFor(asked, machine({ root: true }), BUN);
    const trees = plan.root!.binds.flatMap(({ source, tree }) => (tree === undefined ? [] : [[source, tree]]));
    expect(trees).toEqual([
      [granted, 106],
      [join(granted, "file"), 107],
    ]);
    expect(plan.mapped.map(({ source }) => source)).toEqual([granted, join(granted, "file")]);
    expect(planFor(asked, machine(), BUN).mapped).toEqual([]);
    expect(planFor(asked, { ...STINGY, root: true }, BUN).mapped).toEqual([]);
  });

  test("has Landlock repeat the root: the same paths, no others, and no right to execute but for Bun and its loader", () => {
    const plan = planFor(policy({ read: [granted], write: [join(granted, "file")] }), machine(), BUN);
    const { handled, rules } = plan.landlock!;
    expect(handled).toEqual(handledBy(10));
    const paths = ["/", "/bin/bun", "/lib64/ld.so", "/proc", "/usr/lib/libc.so.6", granted, join(granted, "file")];
    expect(rules.map(({ path }) => path).toSorted()).toEqual(paths.toSorted());
    const may = (right: bigint) => rules.filter(({ access }) => (access & right) !== 0n).map(({ path }) => path);
    expect(may(FS.EXECUTE)).toEqual(["/bin/bun", "/lib64/ld.so"]);
    expect(may(FS.WRITE_FILE)).toEqual([join(granted, "file")]);
    // What is beneath / inherits this: names can be listed, of a root that holds nothing else.
    expect(rules.find(({ path }) => path === "/")!.access).toBe(FS.READ_DIR);
  });

  test("without a root of its own, names Bun by the host's path and lets it see of /proc only itself", () => {
    const plan = planFor(policy(), STINGY, BUN);
    expect(plan.root).toBeUndefined();
    expect(plan.program).toBe(BUN.program);
    expect(plan.landlock!.rules.map(({ path }) => path)).toEqual([
      "/opt/bun/bun",
      "/lib64/ld.so",
      "/usr/lib/libc.so.6",
      "/proc/self",
    ]);
  });

  test("never asks for a Landlock right that the kernel does not know", () => {
    for (let abi = 1; abi <= 10; abi++) {
      const { handled, rules } = planFor(policy({ write: [granted] }), machine({ landlock: abi }), BUN).landlock!;
      for (const { access } of rules) expect(access & ~handled.fs).toBe(0n);
    }
    expect(planFor(policy(), machine({ landlock: 0 }), BUN).landlock).toBeUndefined();
  });

  test("knows whether the puppet has capabilities to give up", () => {
    const capable = (able: Abilities) => planFor(policy(), able, BUN).capable;
    expect(capable(machine())).toBe(true);
    expect(capable(STINGY)).toBe(false);
    expect(capable({ ...STINGY, capable: true })).toBe(true);
  });
});
