/** Attacks on other processes: none can be seen, signalled, read or started, and what the actor itself may use is bounded. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { findTrees } from "../../platform/linux/cgroup/home.ts";
import { LimitExceeded } from "../../src/error.ts";
import type { Actor } from "../../src/index.ts";
import { CLONE } from "../../syscalls/linux/numbers.ts";
import { failure, inside, Outside } from "./arena.ts";

type Processes = typeof import("./fixtures/processes.ts");

setDefaultTimeout(30_000); // the machine may have other things to do

let actor: Actor<Processes>;
let control: Outside<Processes>;
/** A process of the same user that minds its own business. */
let victim: Bun.Subprocess;
beforeAll(async () => {
  victim = Bun.spawn(["sleep", "600"], { stdio: ["ignore", "ignore", "ignore"] });
  control = new Outside("processes");
  actor = await inside<Processes>("processes", { limits: { memory: "256 MiB" } });
});
afterAll(async () => {
  victim.kill("SIGKILL");
  await victim.exited;
  await actor[Symbol.asyncDispose]();
  await control[Symbol.asyncDispose]();
});

describe("signals", () => {
  test("to the host, a neighbour, everyone, and its own group are EPERM", async () => {
    for (const pid of [process.pid, victim.pid, -1, 1, 0]) {
      expect(await actor.call.signal(pid)).toEqual({ sync: "EPERM", raw: "EPERM" });
    }
    expect(await control.call.signal(process.pid)).toEqual({ sync: "done", raw: "done" });
    expect(await control.call.signal(victim.pid)).toEqual({ sync: "done", raw: "done" });
    expect(await control.call.signal(-1)).toEqual({ sync: "done", raw: "done" });
  });

  test("to a thread are EPERM, but to its own", async () => {
    expect(await actor.call.call("tgkill", victim.pid, victim.pid, 0)).toBe("EPERM");
    expect(await actor.call.call("tkill", 1, 0)).toBe("EPERM");
    expect(await actor.call.call("tgkill", 1, 1, 0)).toBe("done");
    expect(await control.call.call("tgkill", victim.pid, victim.pid, 0)).toBe("done");
  });

  test("with a value, and by a descriptor of a process, are EPERM", async () => {
    expect(await actor.call.call("rt_sigqueueinfo", 1, 0, 0)).toBe("EPERM");
    expect(await actor.call.call("rt_tgsigqueueinfo", 1, 1, 0, 0)).toBe("EPERM");
    expect(await actor.call.call("pidfd_open", 1, 0)).toBe("EPERM");
    expect(await actor.call.call("pidfd_send_signal", 0, 0, 0, 0)).toBe("EPERM");
    expect(await actor.call.call("pidfd_getfd", 0, 0, 0)).toBe("EPERM");
    expect(await control.call.call("rt_sigqueueinfo", 1, 0, 0)).toBe("EFAULT");
    expect(await control.call.call("pidfd_open", victim.pid, 0)).toBe("done");
    expect(await control.call.call("pidfd_send_signal", 0, 0, 0, 0)).toBe("EBADF");
  });
});

describe("other processes", () => {
  test("have no numbers: the actor is process 1, and its parent 0", async () => {
    expect(await actor.call.ids()).toEqual({ pid: 1, parent: 0 });
    expect(await control.call.ids()).toEqual({ pid: control.pid, parent: process.pid });
  });

  test("cannot be traced", async () => {
    const TRACEME = 0;
    const PEEKDATA = 2;
    const SEIZE = 0x4206;
    for (const request of [TRACEME, PEEKDATA, SEIZE]) {
      expect(await actor.call.call("ptrace", request, victim.pid, 0, 0)).toBe("EPERM");
    }
    expect(await control.call.call("ptrace", PEEKDATA, victim.pid, 0, 0)).toBe("ESRCH"); // as it should be: it is not its tracer
  });

  test("cannot be read, written, or compared", async () => {
    expect(await actor.call.call("process_vm_readv", victim.pid, 0, 0, 0, 0, 0)).toBe("EPERM");
    expect(await actor.call.call("process_vm_writev", victim.pid, 0, 0, 0, 0, 0)).toBe("EPERM");
    expect(await actor.call.call("kcmp", 1, 1, 2, 0, 0)).toBe("EPERM");
    expect(await control.call.call("process_vm_readv", victim.pid, 0, 0, 0, 0, 0)).toBe("done");
    expect(await control.call.call("process_vm_writev", victim.pid, 0, 0, 0, 0, 0)).toBe("done");
    const { pid } = await control.call.ids();
    expect(await control.call.call("kcmp", pid, pid, 2, 0, 0)).not.toBe("EPERM");
  });

  test("cannot have their limits changed", async () => {
    const none = new Uint8Array(16).fill(0xff);
    expect(await actor.call.call("prlimit64", victim.pid, 7, none, null)).toBe("EPERM");
    expect(await control.call.call("prlimit64", victim.pid, 7, null, null)).toBe("done");
  });
});

describe("starting a process", () => {
  test("is EPERM by Bun.spawn, Bun.spawnSync and node:child_process", async () => {
    const outcomes = await actor.call.start("/bin/bun");
    for (const outcome of Object.values(outcomes)) expect(outcome).toMatch(/^(EPERM|ENOENT)$/);
    expect(await control.call.start("true")).toEqual({ sync: "done", async: "done", node: "done" });
  });

  const SIGCHLD = 17n;
  const CALLS = {
    fork: ["fork"],
    vfork: ["vfork"],
    "clone without CLONE_THREAD": ["clone", SIGCHLD],
    "clone with CLONE_PARENT": ["clone", SIGCHLD | 0x8000n],
    "clone with CLONE_VM|CLONE_VFORK": ["clone", SIGCHLD | CLONE.VM | CLONE.VFORK],
  } as const;
  for (const [name, [call, ...flags]] of Object.entries(CALLS)) {
    test(`is EPERM by ${name}`, async () => {
      expect(await actor.call.fork(call, ...flags)).toBe("EPERM");
      if (!name.includes("PARENT")) expect(await control.call.fork(call, ...flags)).toBe("done");
    });
  }

  test("is EPERM by a program's replacing this one", async () => {
    expect(await actor.call.call("execve", "/bin/bun", null, null)).toBe("EPERM");
    expect(await actor.call.call("execveat", -100, "/bin/bun", null, null, 0)).toBe("EPERM");
    expect(await control.call.call("execve", "/", null, null)).toBe("EACCES");
  });
});

describe("what it may use is bounded:", () => {
  test("a thread bomb meets EAGAIN, and the actor works afterwards", async () => {
    const { started, outcome } = await actor.call.threads(200);
    expect(outcome).toBe("EAGAIN");
    expect(started).toBeLessThan(128);
    expect(await actor.call.ids()).toEqual({ pid: 1, parent: 0 });
    expect(await control.call.threads(200)).toEqual({ started: 200, outcome: "done" });
  });

  test("descriptors end with EMFILE at the limit", async () => {
    const { opened, outcome } = await actor.call.descriptors(512);
    expect(outcome).toBe("EMFILE");
    expect(opened).toBeLessThan(256);
    expect((await control.call.descriptors(512)).outcome).toBe("done");
  });

  const MOST = 2 ** 30;
  for (const [way, outcome] of [
    ["maps", "ENOMEM"],
    ["mapsMadeWritable", "ENOMEM"],
    ["arrayBuffers", "RangeError"],
    ["wasmMemory", "RangeError"],
  ] as const) {
    test(`memory by ${way} ends with ${outcome}`, async () => {
      await using greedy = await inside<Processes>("processes", { limits: { memory: "256 MiB" } });
      const got = await greedy.call[way](MOST).catch((error: Error) => error);
      // What was touched a group counts as well, and where one does either can be first.
      if (way === "arrayBuffers" && findTrees().lacks.memory === undefined && got instanceof LimitExceeded) {
        expect(got.limit).toBe("memory");
        return;
      }
      if (got instanceof Error) throw got;
      expect(got.outcome).toBe(outcome);
      expect(got.bytes).toBeLessThanOrEqual(512 * 2 ** 20);
      // It is still there, and so is the host.
      expect(await greedy.call.ids()).toEqual({ pid: 1, parent: 0 });
    });
  }

  test("memory without the limit is there", async () => {
    expect(await control.call.maps(MOST)).toEqual({ bytes: MOST, outcome: "done" });
    expect(await control.call.mapsMadeWritable(MOST)).toEqual({ bytes: MOST, outcome: "done" });
  });

  /** A second more than an actor's start takes, which is some itself where a processor is imitated. */
  const little = () => ({ cpuTimeSeconds: 1 + (2 * actor.usage().cpuMs) / 1000 });

  test("processor time ends with the actor", async () => {
    await using busy = await inside<Processes>("processes", { limits: little() });
    const rejected = failure(busy.call.spin());
    expect(await busy.exited).toEqual({ reason: "limit", limit: "cpuTime" });
    expect(await rejected).toMatchObject({ name: "LimitExceeded", limit: "cpuTime" });
  });

  test("processor time of another thread is the actor's", async () => {
    await using busy = await inside<Processes>("processes", { limits: little() });
    await busy.call.spinInWorker();
    expect(await busy.exited).toEqual({ reason: "limit", limit: "cpuTime" });
  });

  test("time from start to end is the actor's, whatever it does meanwhile", async () => {
    const start = performance.now();
    await using untouched = await inside<Processes>("processes", { limits: { wallTime: "1 h" } });
    // Its start counts as well, and there are three.
    const limits = { wallTimeMs: 2000 + 5 * (performance.now() - start) };
    await using stopped = await inside<Processes>("processes", { limits });
    process.kill(stopped.pid, "SIGSTOP");
    await using busy = await inside<Processes>("processes", { limits });
    const rejected = failure(busy.call.spin());
    await using idle = await inside<Processes>("processes", { limits });
    for (const actor of [busy, idle, stopped])
      expect(await actor.exited).toEqual({ reason: "limit", limit: "wallTime" });
    expect(await rejected).toMatchObject({ name: "LimitExceeded", limit: "wallTime" });
    expect(await untouched.call.ids()).toEqual({ pid: 1, parent: 0 });
  });
});

describe("its end", () => {
  test("is told as the kernel tells it: a code that it chose, no more", async () => {
    await using actor = await inside<Processes>("processes");
    const exit = { reason: "returned", code: 42 } as const;
    const rejected = failure(actor.call.end(42));
    expect(await actor.exited).toEqual(exit);
    expect(await rejected).toMatchObject({ name: "ActorExit", exit });
  });

  test("by a crash is a signal", async () => {
    await using actor = await inside<Processes>("processes");
    const rejected = failure(actor.call.crash());
    expect(await actor.exited).toMatchObject({
      reason: "signal",
      signal: expect.stringMatching(/^SIG(SEGV|ILL|TRAP|ABRT)$/),
    });
    expect(await rejected).toMatchObject({ name: "ActorExit" });
  });

  test("by kill() comes while it spins", async () => {
    await using actor = await inside<Processes>("processes");
    const rejected = failure(actor.call.spin());
    actor.kill();
    expect(await actor.exited).toEqual({ reason: "killed", by: "kill" });
    expect(await rejected).toMatchObject({ name: "ActorExit" });
    expect(readdirSync("/proc")).not.toContain(`${actor.pid}`);
  });
});
