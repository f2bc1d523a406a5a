import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Abilities, NAMESPACES as BITS } from "../../platform/linux/abilities.ts";
import { planProgram, sandbox } from "../../platform/linux/sandboxed.ts";
import {
  type Guarantee,
  type Mount,
  NotEnforced,
  NotRunnable,
  type Policy,
  type ProcessPlan,
} from "../../platform/platform.ts";
import { CLONE, LANDLOCK_ACCESS_FS as FS } from "../../syscalls/linux/numbers.ts";
import { failure, openDescriptors, until } from "../attacks/arena.ts";
import { testBox } from "../src/box.ts";
import { policy as nothing } from "./policy.ts";
import { processPlan } from "./process.ts";

const ALL = Object.values(BITS).reduce((bits, bit) => bits | bit, CLONE.NEWUSER as bigint);
const machine = (less: Partial<Abilities> = {}): Abilities => ({
  landlock: 7,
  seccomp: true,
  namespaces: ALL,
  proc: "mount",
  root: false,
  capable: true,
  refusals: {},
  ...less,
});
const policy = (more: Partial<Policy> = {}) =>
  nothing({
    run: ["/bin/true"],
    limits: { memory: 2 ** 29, processes: 64, files: 256, fileSize: 2 ** 26, tmpfs: 2 ** 26 },
    ...more,
  });
const program = (more: Partial<ProcessPlan> = {}) => processPlan(["true"], more);

let granted: string;
beforeAll(() => {
  granted = realpathSync(mkdtempSync(join(tmpdir(), "caisson-sandboxed-")));
  chmodSync(granted, 0o755);
  mkdirSync(join(granted, "nested"));
  writeFileSync(join(granted, "file"), "");
});
afterAll(() => rmSync(granted, { recursive: true }));

const binds = (mounts: readonly Mount[]) => mounts.filter((each) => each.kind === "bind");

describe("planProgram()", () => {
  test("gives every namespace but that of clocks; the network is its own where one is granted, or the shared one", () => {
    const none = planProgram(policy(), program(), { mounts: [] }, machine());
    expect(none.container.namespaces).toEqual(["user", "mount", "pid", "ipc", "uts", "cgroup"]);
    expect([none.sharedNetwork, none.container.loopback]).toEqual([true, false]);
    const some = planProgram(policy({ net: ["example.com:443"] }), program(), { mounts: [] }, machine());
    expect(some.container.namespaces).toContain("network");
    expect([some.sharedNetwork, some.container.loopback]).toEqual([false, true]);
    // Nothing else keeps a program from making sockets in it.
    const unfiltered = { ...machine({ seccomp: false }) };
    const free = planProgram(
      policy({ allowUnenforced: ["kernel", "memory", "privileges"] }),
      program(),
      { mounts: [] },
      unfiltered,
    );
    expect([free.sharedNetwork, free.container.namespaces.includes("network")]).toEqual([false, true]);
  });

  test("has a root that is read-only, and holds what was granted as it was granted, and programs", () => {
    const nested = join(granted, "nested");
    const { container } = planProgram(
      policy({ read: [granted], write: [nested] }),
      program(),
      { mounts: [] },
      machine(),
    );
    expect(container.root!.readonly).toBe(true);
    const shown = new Map(binds(container.root!.mounts).map((each) => [each.target, each]));
    expect(shown.get(granted)).toMatchObject({ write: false, execute: false, devices: false, directory: true });
    expect(shown.get(nested)).toMatchObject({ write: true, execute: false, devices: false });
    expect(shown.get("/bin/true")).toMatchObject({ write: false, execute: true, devices: false, directory: false });
    const order = [...shown.keys()];
    expect(order.indexOf(granted)).toBeLessThan(order.indexOf(nested));
    for (const [index, target] of order.entries())
      for (const later of order.slice(index + 1)) expect(target.startsWith(`${later}/`)).toBe(false);
    const kinds = container.root!.mounts.filter(({ kind }) => kind !== "bind");
    expect(kinds).toEqual([
      { kind: "proc", target: "/proc", content: "processes" },
      { kind: "dev", target: "/dev", shared: false },
    ]);
  });

  test("maps ids of root's files to the inner user for grants alone, and for root alone", () => {
    const of = (root: boolean) =>
      binds(
        planProgram(policy({ read: [granted] }), program(), { mounts: [] }, machine({ root })).container.root!.mounts,
      ).map(({ target, idmap }) => [target, idmap]);
    expect(new Map(of(true) as [string, unknown][]).get(granted)).toBe("auto");
    expect(new Map(of(true) as [string, unknown][]).get("/bin/true")).toBeUndefined();
    expect(of(false).every(([, idmap]) => idmap === undefined)).toBe(true);
  });

  test("leaves no privilege, whatever was asked for, and filters behind those that were", () => {
    const own = new Uint8Array(8);
    const asked = program({ capabilities: 255n, noNewPrivileges: false, filters: [own] });
    const { process } = planProgram(policy(), asked, { mounts: [] }, machine());
    expect([process.capabilities, process.noNewPrivileges]).toEqual([0n, true]);
    expect(process.filters.length).toBe(2);
    expect(process.filters[0]).toBe(own);
  });

  test("limits as the policy says", () => {
    const limits = { memory: 1000, processes: 5, files: 77, fileSize: 4096, tmpfs: 4096, cpuTime: 1.2 };
    const { process } = planProgram(policy({ limits }), program(), { mounts: [] }, machine());
    expect(process.limits).toMatchObject({
      DATA: 1000n,
      NPROC: 6n, // and the puppet
      NOFILE: 77n,
      FSIZE: 4096n,
      CPU: 3n,
      CORE: 0n,
      MEMLOCK: 0n,
    });
  });

  test("runs the program that is named, found on the host, or that of a descriptor", () => {
    expect(planProgram(policy({ run: ["true"] }), program(), { mounts: [] }, machine()).process.program).toMatch(
      /^\/.*\/true$/,
    );
    expect(
      planProgram(policy({ run: ["cat"] }), program({ program: 48 }), { mounts: [] }, machine()).process.program,
    ).toBe(48);
    expect(() =>
      planProgram(policy({ run: ["no-such-program-at-all"] }), program(), { mounts: [] }, machine()),
    ).toThrow(NotRunnable);
  });

  test("makes rules for Landlock of the same: what can be executed, read and written", () => {
    const nested = join(granted, "nested");
    const { landlock } = planProgram(
      policy({ read: [granted], write: [nested] }),
      program(),
      { mounts: [] },
      machine(),
    );
    const rights = new Map(landlock!.rules.map(({ path, access }) => [path, access]));
    const has = (path: string, right: bigint) => (rights.get(path)! & right) !== 0n;
    expect([has(granted, FS.READ_FILE), has(granted, FS.WRITE_FILE), has(granted, FS.EXECUTE)]).toEqual([
      true,
      false,
      false,
    ]);
    expect([has(nested, FS.WRITE_FILE), has(nested, FS.MAKE_REG), has(nested, FS.EXECUTE)]).toEqual([
      true,
      true,
      false,
    ]);
    expect([has("/bin/true", FS.EXECUTE), has("/bin/true", FS.WRITE_FILE)]).toEqual([true, false]);
    expect(rights.get("/")).toBe(FS.READ_DIR);
    for (const [path, access] of rights)
      expect([path, (access & FS.MAKE_BLOCK) | (access & FS.MAKE_CHAR)]).toEqual([path, 0n]);
    expect(planProgram(policy(), program(), { mounts: [] }, machine({ landlock: 0 })).landlock).toBeUndefined();
  });

  test("throws NotEnforced for what no program goes without", () => {
    const table: [Partial<Abilities>, Guarantee][] = [
      [{ namespaces: ALL & ~CLONE.NEWNS }, "files"],
      [{ namespaces: ALL & ~CLONE.NEWPID }, "processes"],
      [{ namespaces: ALL & ~CLONE.NEWNET }, "network"],
      [{ proc: undefined, refusals: { root: "EPERM: mount" } }, "files"],
      [{ seccomp: false }, "kernel"],
    ];
    for (const [less, guarantee] of table) {
      let error: unknown;
      try {
        planProgram(policy(), program(), { mounts: [] }, machine(less));
      } catch (thrown) {
        error = thrown;
      }
      expect([guarantee, error]).toEqual([guarantee, expect.any(NotEnforced)]);
      expect((error as NotEnforced).guarantee).toBe(guarantee);
    }
  });

  test("says which mechanisms keep each guarantee", () => {
    const { enforcement } = planProgram(policy({ net: ["example.com:443"] }), program(), { mounts: [] }, machine());
    expect(enforcement.network).toEqual(["network namespace", "proxy of the host", "seccomp"]);
    expect(enforcement.memory).toEqual(["watch over all processes", "RLIMIT_DATA of each process"]);
    const grouped = planProgram(policy(), program(), { mounts: [] }, machine({ groups: { memory: "cgroup v2" } }));
    expect(grouped.enforcement.memory).toEqual(["cgroup v2: memory", "RLIMIT_DATA of each process"]);
    for (const name of ["files", "processes", "privileges", "kernel"] as const)
      expect(enforcement[name].length).toBeGreaterThan(0);
  });
});

describe("planProgram() with a limit of what is written to disk", () => {
  const limits = { ...policy().limits, disk: 2 ** 20 };
  const planned = (able: Partial<Abilities>, more: Partial<Policy> = {}) =>
    planProgram(policy({ limits, ...more }), program(), { mounts: [] }, machine(able));

  test("refuses where nobody counts what all processes write", () => {
    for (const able of [{}, { groups: { io: "cgroup v1" } }, { root: true }])
      expect(() => planned(able)).toThrow(expect.objectContaining({ name: "NotEnforced", guarantee: "disk" }));
  });

  test("takes it where a group of v2 counts that, of one process root; and where that was allowed", () => {
    planned({ root: true }, { limits: { ...limits, processes: 1 } });
    planned({ groups: { io: "cgroup v2" } });
    planned({}, { allowUnenforced: ["disk"] });
  });
});

test("planProgram() refuses more processes than the host looks at, where no group has them in memory", () => {
  const planned = (processes: number, able: Partial<Abilities> = {}) =>
    planProgram(policy({ limits: { ...policy().limits, processes } }), program(), { mounts: [] }, machine(able));
  planned(1024);
  planned(1025, { groups: { memory: "cgroup v1" } });
  expect(() => planned(1025)).toThrow(expect.objectContaining({ name: "NotEnforced", guarantee: "memory" }));
});

describe("sandbox()", () => {
  testBox("has prepare() called in the container before the program starts, and takes its environment", async () => {
    const order: string[] = [];
    const running = await sandbox(
      policy({ run: ["/bin/sh"], net: ["example.com:443"] }),
      program({ program: "/bin/sh", argv: ["sh", "-c", 'test "$GIVEN" = "yes" && exit 3'] }),
      {
        async prepare(container) {
          expect(container.kernel.call("getpid")).toBe(1);
          order.push("prepared");
          return { GIVEN: "yes" };
        },
      },
    );
    order.push("started");
    expect(await running.ended).toMatchObject({ code: 3 });
    expect(order).toEqual(["prepared", "started"]);
  });

  testBox("rejects with what prepare() rejects with, and leaves nothing", async () => {
    const before = openDescriptors();
    const net = ["example.com:443"];
    const broken = sandbox(policy({ net }), program(), { prepare: () => Promise.reject(new Error("broken")) });
    expect(await failure(broken)).toMatchObject({ message: "broken" });
    await until(() => openDescriptors() <= before);
  });
});
