/** Attacks on limits, on ends and on what is said of them; and what is left where something is lacking. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { abilities } from "../../platform/linux/abilities.ts";
import { Group } from "../../platform/linux/cgroup/group.ts";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import { container, exec, type SandboxedProcess } from "../../src/index.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { testBox } from "../src/box.ts";
import { testIf } from "../syscalls/requirement.ts";
import { openDescriptors, scratch, until } from "./arena.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const cc = Bun.which("cc") ?? Bun.which("gcc");
const testNative = testIf("cc", cc !== null, "there is no C compiler (Debian: gcc and libc6-dev)");
const base = scratch();
const program = join(base.path, "lives");
afterAll(() => base[Symbol.dispose]());
beforeAll(() => {
  if (cc === null) return;
  const source = fileURLToPath(new URL("./fixtures/lives.c", import.meta.url));
  const { exitCode, stderr } = Bun.spawnSync([cc, "-O1", "-static", "-w", "-o", program, source]);
  if (exitCode !== 0) throw new Error(stderr.toString());
  chmodSync(program, 0o755);
});

const start = (how: readonly (string | number)[], limits: SandboxLimits = {}) =>
  exec([program, ...how.map(String)], { sandbox: { limits }, stdin: "pipe", stdout: "pipe", stderr: "ignore" });
async function endOf(process: SandboxedProcess): Promise<unknown> {
  await process.exited;
  return process.exit;
}

describe("processor time", () => {
  testNative("of children that nobody waits for counts, and so ends the program", async () => {
    const [each, many] = [0.4, 1000]; // who counts what it sees does not see all, and has no need to
    await using evader = await start(["abandon", each, many], { cpuTime: "1 s" });
    expect(await endOf(evader)).toEqual({ reason: "limit", limit: "cpuTime" });
    await using control = await start(["abandon", each, 2], { cpuTime: "10 s" });
    expect(await endOf(control)).toEqual({ reason: "returned", code: 0 });
    await using counted = await start(["abandon", each, many], { cpuTime: "1000 s" });
    await until(() => counted.usage().cpuMs > 2 * each * 1000);
    counted.kill();
    expect(await endOf(counted)).toEqual({ reason: "killed", by: "kill" });
    expect(counted.usage().cpuMs).toBeGreaterThan(2 * each * 1000);
  });

  for (const signal of ["kill", "xcpu"]) {
    testNative(`is no reason for an end by the program's own SIG${signal.toUpperCase()}`, async () => {
      await using forger = await start([signal, 1.2], { cpuTime: "2 s" });
      expect(await endOf(forger)).toEqual({ reason: "signal", signal: `SIG${signal.toUpperCase()}` });
      await using control = await start([signal, 100], { cpuTime: "1 s" });
      expect(await endOf(control)).toEqual({ reason: "limit", limit: "cpuTime" });
    });
  }
});

describe("memory", () => {
  testNative("that processes share counts once", async () => {
    await using family = await start(["read", 60, 10], { memory: "256 MiB" });
    await family.stdout!.getReader().read();
    await until(() => family.usage().processes === 11);
    await family.stdin!.getWriter().close();
    expect(await endOf(family)).toEqual({ reason: "returned", code: 0 });
    await using greedy = await start(["write", 60, 10], { memory: "256 MiB" });
    expect(await endOf(greedy)).toEqual({ reason: "limit", limit: "memory" });
  });

  testNative("that ran out is told of, whatever a program that went on says", async () => {
    await using liar = await start(["sacrifice"], { memory: "64 MiB" });
    expect(await endOf(liar)).toEqual({ reason: "limit", limit: "memory" });
  });
});

const governed = abilities().groups?.kill !== undefined;
const testGoverned = testIf("cc and a control group", cc !== null && governed, "no control group can be made here");

/** How many processes run it, whatever their numbers are by now. */
function flying(mark: string): number {
  return readdirSync("/proc").filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "latin1") === `${program}\0fly\0${mark}\0`;
    } catch {
      return false;
    }
  }).length;
}

describe("a kill", () => {
  testGoverned("ends who forks and ends for ever, without a PID namespace", async () => {
    await using swarm = await container({ namespaces: ["user", "mount"], limits: { processes: 40 } });
    await swarm.exec([program, "fly", "20"], { stdout: "ignore", stderr: "ignore" });
    await until(() => (swarm.usage().processes ?? 0) > 20 && flying("20") > 0); // few of them are seen at once
    swarm.kill();
    await swarm.exited;
    expect(flying("20")).toBe(0);
  });
});

const tree = findTrees().trees.find(({ controllers }) => controllers.includes("memory"));
const testLegacy = testIf(
  "cgroup v1 memory",
  tree?.version === 1,
  "memory is not governed by a group of v1, out of which a process can be taken",
);

describe("a group that somebody removes", () => {
  testLegacy("while one is watched that was in it: who watches is told, and goes on", async () => {
    const group = Group.make({ memory: 64 * 2 ** 20 })!;
    const child = Bun.spawn(["sleep", "1000"]);
    try {
      group.place(child.pid);
      let told = 0;
      group.onMemoryEnd(() => told++);
      group.onMemory(32 * 2 ** 20, () => {});
      const [, place] = /^\d+:memory:(.*)$/m.exec(readFileSync(`/proc/${child.pid}/cgroup`, "utf8"))!;
      const own = join(tree!.parent, ...place!.split("/").slice(-2));
      expect(existsSync(own)).toBe(true);
      writeFileSync(join(tree!.parent, "cgroup.procs"), `${child.pid}`);
      rmdirSync(own);
      await until(() => told === 1);
      expect(group.counts).toThrow();
    } finally {
      child.kill();
      await child.exited;
      await group.end();
    }
  });
});

describe("a host with few descriptors", () => {
  const fixture = fileURLToPath(new URL("./fixtures/lives.ts", import.meta.url));
  const host = async (most: number, what: string): Promise<string[]> => {
    const shell = Bun.spawn(["/bin/sh", "-c", `ulimit -n ${most}; exec "$@"`, "sh", process.execPath, fixture, what], {
      cwd: "/",
      stdio: ["ignore", "pipe", "inherit"],
    });
    return JSON.parse(await shell.stdout.text());
  };

  for (const what of ["an actor", "a program"]) {
    for (const most of [45, 102, 150, 205]) {
      testBox(`that ${most} are: the start of ${what} fails with its step, and nothing is left`, async () => {
        for (const outcome of await host(most, what)) expect(outcome).toMatch(/^E[A-Z]+: [a-z0-9]+/);
      });
    }
    testBox(`control: with enough of them ${what} starts`, async () => {
      expect(await host(1024, what)).toEqual(["done", "done"]);
    });
  }
});

test("nothing is left here", async () => {
  const begin = async () => {
    await using short = await exec(["/bin/true"]);
    await short.exited;
  };
  await begin(); // a zygote stays
  const before = openDescriptors();
  for (let round = 0; round < 3; round++) await begin();
  await until(() => openDescriptors() <= before);
});
