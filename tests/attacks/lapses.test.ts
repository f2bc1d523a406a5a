/** Attacks on limits through a moment, or a grant, in which nobody keeps them. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { abilities } from "../../platform/linux/abilities.ts";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import { countersOf } from "../../platform/linux/usage.ts";
import { container } from "../../src/container.ts";
import { exec } from "../../src/exec.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { bind } from "../../src/mounts.ts";
import type { Sandbox } from "../../src/sandbox.ts";
import { testGroups } from "../platform/cgroup/groups.ts";
import { root } from "../src/box.ts";
import { testIf } from "../syscalls/requirement.ts";
import { failure, until } from "./arena.ts";
import { arsenal, survivors, testAttempt } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal("writes");
const eaters = arsenal("exhaust");
/** On a disk: /tmp can be in memory. */
const disk = realpathSync(mkdtempSync("/var/tmp/caisson-lapses-"));
chmodSync(disk, 0o777);
afterAll(() => {
  base[Symbol.dispose]();
  eaters[Symbol.dispose]();
  rmSync(disk, { recursive: true });
});

const counted = root || abilities().groups?.io === "cgroup v2";
const testDisk = counted
  ? testAttempt
  : testIf("a count of what is written", false, "nobody counts that for a program here");

describe("limits.disk of a supervised program", () => {
  /** What becomes of space that is asked for, which nothing would count. */
  async function asking(promises: string, limits: SandboxLimits): Promise<string> {
    const sandbox: Sandbox = { write: [disk], promises, limits: { processes: 1, ...limits } };
    await using program = await exec([base.program, "fallocate", disk, "1"], { sandbox, stdin: "ignore" });
    return (await new Response(program.stdout).text()).trim();
  }

  // Filters are kept: each promises what no other of this process does.
  for (const [order, promises] of [
    ["first", "stdio rpath wpath cpath"],
    ["behind one without", "stdio rpath wpath cpath fattr"],
  ] as const)
    testDisk(`is not evaded by fallocate, ${order}: EOPNOTSUPP`, async () => {
      if (order !== "first") expect(await asking(promises, {})).toBe("done");
      expect(await asking(promises, { disk: "16 MiB" })).toBe("EOPNOTSUPP");
      expect(await asking(promises, {})).toBe("done");
    });
});

describe("limits.disk of an actor", () => {
  const starved = fileURLToPath(new URL("./fixtures/starved.ts", import.meta.url));

  for (const when of ["sated", "starved"])
    test(`holds where its host is ${when} of descriptors`, async () => {
      const directory = mkdtempSync(join(disk, "host-"));
      chmodSync(directory, 0o777);
      await using host = Bun.spawn([process.execPath, starved, when, directory], { stdin: "ignore" });
      expect(JSON.parse(await new Response(host.stdout).text())).toEqual({ reason: "limit", limit: "disk" });
    });
});

describe("a container whose programs own their group", () => {
  const unified = findTrees().trees.find(({ version }) => version === 2);
  const testOwned = testIf("cgroup v2", unified !== undefined, "this user may make no groups of v2");

  /** Without a PID namespace, so that a group has to end it. */
  const scattered = (limits: SandboxLimits) =>
    container({ files: [bind(eaters.program)], namespaces: root ? ["mount"] : ["user", "mount"], limits });

  testOwned("is kept to the memory that it has where nothing is said of it", async () => {
    await using made = await scattered({ processes: 128 });
    const modest = await made.exec([eaters.program, "share", "4"]);
    expect(await modest.exited).toBe(0);
    await made.exec([eaters.program, "share-for-ever", "72"]);
    await made.exited;
    expect(made.exit).toEqual({ reason: "limit", limit: "memory" });
    expect(survivors(eaters.program)).toEqual([]);
  });

  testOwned("is kept to its processor time, though they leave it", async () => {
    const elsewhere = join(unified!.parent, `lapses-${process.pid}`);
    mkdirSync(elsewhere);
    const made = await scattered({ cpuTime: "300 ms" });
    const program = await made.exec([eaters.program, "spin"]);
    const { pid } = program;
    try {
      writeFileSync(join(elsewhere, "cgroup.procs"), `${pid}`);
      // At the latest by its own RLIMIT_CPU, with which the container would not end.
      await program.exited;
      expect(await failure(made.exec([eaters.program, "memory", "1"]))).toBeInstanceOf(Error);
      await made.exited;
      expect(made.exit).toEqual({ reason: "limit", limit: "cpuTime" });
    } finally {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it has ended with the container
      }
      await made[Symbol.asyncDispose]();
      await until(() => countersOf(pid) === undefined);
      rmdirSync(elsewhere);
    }
  });
});

describe("a sandbox that may write to control groups", () => {
  const tree = findTrees().trees.find(({ controllers }) => controllers.includes("cpu"))?.parent ?? "/";
  const limits: SandboxLimits = { cpu: 0.5 };
  const refused = { name: "NotEnforced", guarantee: "cpu", message: expect.stringContaining("could change its own") };
  const kept = [expect.stringMatching(/^cgroup v[12]: cpu$/)];
  const testTree = testGroups("cpu", "memory");
  const shown = (write: boolean) => [bind(tree, "/mnt", { write })];

  testTree("has none that would keep it, by what a program is given beside its policy", async () => {
    expect(await failure(exec(["true"], { files: shown(true), sandbox: { limits } }))).toMatchObject(refused);
    await using program = await exec(["true"], { files: shown(true), sandbox: {} });
    expect(program.enforcement!.memory).toEqual(["watch over all processes", "RLIMIT_DATA of each process"]);
    await using reader = await exec(["true"], { files: shown(false), sandbox: { limits } });
    expect(reader.enforcement!.cpu).toEqual(kept);
  });

  // Policies grant nothing beneath /sys, where they mostly are.
  const there = Bun.which("unshare") !== null;
  const testMounts = there ? testTree : testIf("unshare", false, "there is no unshare (Debian: util-linux)");
  testMounts("has none that would keep it, where they are mounted in what its policy grants", async () => {
    const wrapper = root
      ? ["unshare", "--mount"]
      : ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"];
    const fixture = fileURLToPath(new URL("./fixtures/granted.ts", import.meta.url));
    const told = async (mount: string) => {
      await using host = Bun.spawn([
        ...wrapper,
        "sh",
        "-ec",
        `${mount}; exec "$@"`,
        "sh",
        process.execPath,
        fixture,
        disk,
      ]);
      return JSON.parse(await new Response(host.stdout).text());
    };
    const place = join(disk, "groups");
    mkdirSync(place);
    expect(await told(`mount --rbind ${tree} ${place}`)).toEqual({ actor: "cpu", program: "cpu" });
    expect(await told(":")).toEqual({ actor: kept, program: kept });
  });
});
