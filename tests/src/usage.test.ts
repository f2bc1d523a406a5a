import { describe, expect, test } from "bun:test";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import { exec, run } from "../../src/exec.ts";
import { killAs } from "../../src/killer.ts";
import type { Process } from "../../src/process.ts";
import { usageOf } from "../../src/usage.ts";
import { until } from "../attacks/arena.ts";
import { box, testBox } from "./box.ts";

const COUNTERS = {
  cpuMicroseconds: 3500,
  userMicroseconds: 2500,
  systemMicroseconds: 1000,
  memoryKib: 2,
  peakKib: 4,
  minorFaults: 5,
  majorFaults: 6,
  voluntarySwitches: 7,
  involuntarySwitches: 8,
  processes: 9,
};

test("usageOf() gives milliseconds and bytes, and leaves out what is not known", () => {
  const usage = {
    cpuMs: 3.5,
    userMs: 2.5,
    systemMs: 1,
    memoryBytes: 2048,
    peakBytes: 4096,
    minorFaults: 5,
    majorFaults: 6,
    voluntarySwitches: 7,
    involuntarySwitches: 8,
    processes: 9,
  };
  expect(usageOf(COUNTERS)).toEqual(usage);
  const more = { readBytes: 10, writtenBytes: 11, refusedProcesses: 12 };
  const traffic = { messagesIn: 1, messagesOut: 2, bytesIn: 3, bytesOut: 4 };
  expect(usageOf({ ...COUNTERS, ...more }, traffic)).toEqual({ ...usage, ...more, ...traffic });
  const stalls = { cpu: { some: 1500, full: 0 }, memory: { some: 3, full: 2 }, io: { some: 5000, full: 4000 } };
  expect(usageOf({ ...COUNTERS, stalls }).stalls).toEqual({
    cpu: { someMs: 1.5, fullMs: 0 },
    memory: { someMs: 0.003, fullMs: 0.002 },
    io: { someMs: 5, fullMs: 4 },
  });
});

const sh = (script: string, options: Parameters<typeof exec>[1] = {}) =>
  exec(["sh", "-c", script], {
    env: { PATH: "/usr/bin:/bin" },
    ...options,
    sandbox: { run: ["sleep", "head"], ...options.sandbox },
  });
/** Whether the group that keeps a program's memory counts its time, too. */
const countsTime = findTrees().trees.some(
  ({ controllers }) => controllers.includes("memory") && controllers.includes("usage"),
);
/** Waits until it says so on its standard output. */
async function ready(program: Process): Promise<void> {
  await program.stdout!.getReader().read();
}

describe("usage() of a program", () => {
  testBox("tells what it and its children use while they run, and at the end what all of them did", async () => {
    const burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    await using program = await sh(`(${burn}); sleep 1000 & echo; read line`, { stdin: "pipe" });
    await ready(program);
    await until(() => program.usage().processes === 2);
    const during = program.usage();
    // Its child that burned is waited for, and counts.
    expect(during.cpuMs).toBeGreaterThan(0);
    // What a group counts is precise. Of either kind each of its processes may have had a tick more than /proc says.
    const parts = during.userMs + during.systemMs;
    if (countsTime) expect(during.cpuMs).toBeWithin(parts - 0.01, parts + 2 * 10 * 4);
    else expect(during.cpuMs).toBeCloseTo(parts);
    expect(during.memoryBytes).toBeGreaterThan(2 ** 16);
    expect(during.peakBytes).toBeGreaterThanOrEqual(2 ** 16);
    expect(during.minorFaults).toBeGreaterThan(100);
    expect(during.voluntarySwitches + during.involuntarySwitches).toBeGreaterThan(0);
    const writer = program.stdin!.getWriter();
    await writer.close();
    await program.exited;
    const after = program.usage();
    expect(after).toMatchObject({ processes: 0, memoryBytes: 0 });
    for (const name of ["minorFaults", "voluntarySwitches"] as const)
      expect(after[name]).toBeGreaterThanOrEqual(during[name]);
    // By ticks of 10 ms while it ran, and precisely at the end.
    expect(after.cpuMs).toBeGreaterThan(during.cpuMs - 25);
    expect(program.usage()).toEqual(after);
  });

  testBox("in a container counts what it started, and not other programs", async () => {
    await using made = await box();
    const env = { PATH: "/usr/bin:/bin" };
    await using one = await made.exec(["/bin/sh", "-c", "sleep 1000 & sleep 1000 & echo; wait"], { env });
    await using other = await made.exec(["/bin/sh", "-c", "echo; read line; :"], { env, stdin: "pipe" });
    await ready(one);
    await ready(other);
    await until(() => one.usage().processes === 3);
    expect(other.usage().processes).toBe(1);
    other.kill();
    await other.exited;
    expect(other.usage()).toMatchObject({ processes: 0, memoryBytes: 0 });
    expect(one.usage().processes).toBe(3);
  });

  testBox("in a container has at the end what children used that it did not wait for", async () => {
    await using made = await box();
    const script = "(i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo; sleep 1000) & read line";
    const env = { PATH: "/usr/bin:/bin" };
    await using program = await made.exec(["/bin/sh", "-c", script], { env, stdin: "pipe" });
    await ready(program);
    const during = program.usage();
    await program.stdin!.close();
    await program.exited;
    const after = program.usage();
    for (const name of ["cpuMs", "minorFaults", "peakBytes"] as const)
      expect(after[name]).toBeGreaterThanOrEqual(during[name]);
    expect(after).toMatchObject({ processes: 0, memoryBytes: 0 });
  });

  testBox("is told with what it wrote to storage, and nothing of what stayed in memory", async () => {
    const { usage } = await run(["head", "-c", "300000", "/dev/zero"]);
    expect(usage.writtenBytes).toBe(0);
  });
});

describe("exit of a program", () => {
  testBox("is undefined while it runs, and then tells its code or the signal that nobody here sent", async () => {
    await using program = await sh("read line; exit 7", { stdin: "pipe" });
    expect(program.exit).toBeUndefined();
    await program.stdin!.close();
    await program.exited;
    expect(program.exit).toEqual({ reason: "returned", code: 7 });
    for (const name of ["KILL", "TERM", "SEGV"]) {
      await using dying = await sh(`kill -${name} $$`);
      await dying.exited;
      expect(dying.exit).toEqual({ reason: "signal", signal: `SIG${name}` });
    }
  });

  testBox("tells who killed it", async () => {
    const ends: readonly [string, (program: Process, over: AbortController) => unknown][] = [
      ["kill", (program) => program.kill()],
      ["kill", (program) => program.kill("SIGTERM")],
      ["signal", (_, over) => over.abort()],
      ["dispose", (program) => program[Symbol.asyncDispose]()],
      ["supervisor", (program) => killAs(program, "supervisor")],
    ];
    for (const [by, end] of ends) {
      const over = new AbortController();
      await using program = await sh("echo; sleep 1000", { signal: over.signal });
      await ready(program);
      await end(program, over);
      await program.exited;
      expect(program.exit).toEqual({ reason: "killed", by: by as "kill" });
    }
  });

  testBox("tells that it ended by itself when a signal of ours was not what ended it", async () => {
    await using program = await sh("trap 'exit 3' TERM; echo; while :; do sleep 0.01; done");
    await ready(program);
    program.kill("SIGTERM");
    await program.exited;
    expect(program.exit).toEqual({ reason: "returned", code: 3 });
  });

  testBox("tells the limit that ended it", async () => {
    const busy = "while :; do :; done";
    await using spent = await sh(`(${busy}) & (${busy}) & wait`, { sandbox: { limits: { cpuTime: "200 ms" } } });
    await using late = await sh("sleep 1000", { sandbox: { limits: { wallTime: "100 ms" } } });
    await using loud = await sh(`${busy.replace(":;", "echo yes;")}`, { sandbox: { limits: { output: "64 KiB" } } });
    const printed = await new Response(loud.stdout).bytes();
    await Promise.all([spent.exited, late.exited, loud.exited]);
    expect([spent.exit, late.exit, loud.exit]).toEqual([
      { reason: "limit", limit: "cpuTime" },
      { reason: "limit", limit: "wallTime" },
      { reason: "limit", limit: "output" },
    ]);
    expect(printed.length).toBe(64 * 1024);
  });

  testBox("tells that its container printed too much, and that ends with it", async () => {
    await using made = await box([], { limits: { outputBytes: 1000 } });
    await using quiet = await made.exec(["/bin/sh", "-c", "head -c 600 /dev/zero"], { env: { PATH: "/usr/bin:/bin" } });
    expect((await new Response(quiet.stdout).bytes()).length).toBe(600);
    await quiet.exited; // which is behind the end of what it prints
    await using loud = await made.exec(["/bin/sh", "-c", "while :; do echo yes; done"]);
    expect((await new Response(loud.stdout).bytes()).length).toBe(400);
    await Promise.all([loud.exited, made.exited]);
    const spent = { reason: "limit", limit: "output" } as const;
    expect([quiet.exit, loud.exit, made.exit]).toEqual([{ reason: "returned", code: 0 }, spent, spent]);
  });

  testBox("counts what it prints on a terminal", async () => {
    await using program = await sh("while :; do echo yes; done", {
      terminal: { columns: 80, rows: 24 },
      sandbox: { limits: { outputBytes: 1000 } },
    });
    let length = 0;
    for await (const piece of program.terminal!.readable) length += piece.length;
    await program.exited;
    expect([length, program.exit]).toEqual([1000, { reason: "limit", limit: "output" }]);
  });
});
