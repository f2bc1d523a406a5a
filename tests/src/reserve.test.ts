import { afterEach, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { platform } from "../../platform/index.ts";
import {
  Actor,
  ActorExit,
  type DenialEvent,
  type Exit,
  ProtocolViolation,
  type Reserve,
  reserve,
  Scheduler,
  spawn,
} from "../../src/index.ts";
import { inspections, onDeparture } from "../../src/roster.ts";
import { hasFilters } from "../../syscalls/linux/seccomp.ts";
import type * as Observed from "../attacks/fixtures/observed.ts";
import { children } from "../platform/strings.ts";
import { testIf } from "../syscalls/requirement.ts";
import { cleanUp, frame, hello, link, MESSAGE, payload, RESULT, ready, Script, START, u32 } from "./wire.ts";

setDefaultTimeout(120_000); // whole processes, on machines that may be busy

type Pooled = typeof import("./fixtures/pooled.ts");
const module = new URL("fixtures/pooled.ts", import.meta.url);
const observed = new URL("../attacks/fixtures/observed.ts", import.meta.url);
const testSeccomp = testIf("seccomp", hasFilters(), "this kernel takes no filters, or something refuses seccomp(2)");
const rejection = (promise: Promise<unknown>): Promise<Error & Record<string, unknown>> =>
  promise.then(
    () => Promise.reject(new Error("Nothing was thrown")),
    (error) => error,
  );
/** So many wait. */
async function waiting(scheduler: Scheduler, count: number): Promise<void> {
  while (scheduler.load.waiting !== count) await new Promise((resolve) => setTimeout(resolve, 1));
}
async function full(kept: Reserve, size: number): Promise<void> {
  while (kept.ready < size) await new Promise((resolve) => setTimeout(resolve, 1));
}
/** The processes that wait in reserves. */
async function parked(): Promise<number[]> {
  const all = [...(await inspections()).values()];
  return all.filter(({ state }) => state === "parked").map(({ pid }) => pid);
}

afterEach(cleanUp);

describe("reserve()", () => {
  test("keeps so many ready, gives each away once, and makes others", async () => {
    await using kept = await reserve({ size: 2 });
    expect(kept.ready).toBe(2);
    await using first = await kept.spawn<Pooled>(module);
    await using second = await kept.spawn<Pooled>(module);
    expect(first.pid).not.toBe(second.pid);
    expect((await first.call.whoami()).calls).toBe(1);
    expect((await second.call.whoami()).calls).toBe(1);
    await full(kept, 2);
    await using third = await kept.spawn<Pooled>(module);
    expect([first.pid, second.pid]).not.toContain(third.pid);
    expect(third).toBeInstanceOf(Actor);
  });

  test("gives away who came last, for it is the warmest", async () => {
    await using kept = await reserve({ size: 2 });
    const before = await parked();
    await using _first = await kept.spawn<Pooled>(module);
    await full(kept, 2);
    const last = (await parked()).filter((pid) => !before.includes(pid));
    await using second = await kept.spawn<Pooled>(module);
    expect(last).toEqual([second.pid]);
  });

  test("starts a new one where none is ready", async () => {
    await using kept = await reserve({ size: 1 });
    const actors = await Promise.all([1, 2, 3].map(() => kept.spawn<Pooled>(module)));
    expect(new Set(actors.map(({ pid }) => pid)).size).toBe(3);
    for (const actor of actors) {
      expect(await actor.call.add(1, 2)).toBe(3);
      await actor[Symbol.asyncDispose]();
    }
  });

  test("gives what a cold spawn gives: nothing of the exercise can be found", async () => {
    const sandbox = { env: { GREETING: "hello" } };
    await using kept = await reserve({ size: 1, sandbox });
    await using warm = await kept.spawn<Pooled>(module);
    await using cold = await spawn<Pooled>(module, { sandbox });
    expect(await warm.call.remains()).toEqual(await cold.call.remains());
    expect((await warm.call.remains()).env).toEqual({ GREETING: "hello" });
    expect(warm.enforcement).toEqual(cold.enforcement);
    expect(warm.name).toBe("pooled");
  });

  test("of the exercise's functions none can be called", async () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-test-"));
    using _removed = { [Symbol.dispose]: () => rmSync(directory, { recursive: true }) };
    await Bun.write(join(directory, "one.ts"), "export const one = () => 1;");
    await using kept = await reserve({ size: 1 });
    await using actor = await kept.spawn<{ one(): number; echo(value: number): number }>(join(directory, "one.ts"));
    expect(await actor.call.one()).toBe(1);
    expect((await rejection(actor.call.echo(1))).message).toContain("Cannot call echo");
  });

  test("two have randomness and addresses of their own", async () => {
    await using kept = await reserve({ size: 2 });
    await using one = await kept.spawn<Pooled>(module);
    await using other = await kept.spawn<Pooled>(module);
    const [a, b] = [await one.call.randomness(), await other.call.randomness()];
    expect(a.math).not.toBe(b.math);
    expect(a.uuid).not.toBe(b.uuid);
    // Who was forked from one image, and not executed anew, would have its libraries where that had them.
    const base = (pid: number) => readFileSync(`/proc/${pid}/maps`, "utf8").match(/^([0-9a-f]+)-.*libc\.so/m)?.[1];
    expect(base(one.pid)).toMatch(/^[0-9a-f]+$/);
    expect(base(one.pid)).not.toBe(base(other.pid));
  });

  test("replaces those that die while they wait", async () => {
    const others = await parked();
    await using kept = await reserve({ size: 2 });
    const mine = (await parked()).filter((pid) => !others.includes(pid));
    expect(mine).toHaveLength(2);
    for (const pid of mine) process.kill(pid, "SIGKILL");
    // Who replaces the one may be ready before the other is gone: there need not be a time when nobody is.
    while ((await parked()).some((pid) => mine.includes(pid))) await new Promise((resolve) => setTimeout(resolve, 1));
    await full(kept, 2);
    await using actor = await kept.spawn<Pooled>(module);
    expect(mine).not.toContain(actor.pid);
    expect(await actor.call.add(1, 2)).toBe(3);
  });

  test("rejects as spawn does for a module that does not load, and takes nobody for one that cannot be bundled", async () => {
    await using kept = await reserve({ size: 1 });
    expect(await rejection(kept.spawn(new URL("fixtures/unresolved.ts", import.meta.url)))).toBeInstanceOf(SyntaxError);
    expect(kept.ready).toBe(1);
    const exits = await rejection(kept.spawn(new URL("fixtures/exits.ts", import.meta.url)));
    expect(exits).toBeInstanceOf(ActorExit);
    expect(exits.exit).toEqual({ reason: "returned", code: 7 });
    await full(kept, 1);
    const slow = kept.spawn(new URL("fixtures/hangs.ts", import.meta.url), { loadTimeoutMs: 50 });
    expect(await rejection(slow)).toMatchObject({ name: "LimitExceeded", limit: "loadTime" });
    await full(kept, 1);
    const controller = new AbortController();
    const given = kept.spawn(new URL("fixtures/hangs.ts", import.meta.url), { signal: controller.signal });
    controller.abort();
    expect(await rejection(given)).toMatchObject({ exit: { reason: "killed", by: "signal" } });
  });

  test("wallTime counts from when it is taken", async () => {
    const wallTimeMs = 1_234_567_890; // no other timer's: this one is moved by hand
    using timers = spyOn(globalThis, "setTimeout");
    const over = () =>
      timers.mock.calls.filter(([, delayMs]) => delayMs === wallTimeMs).map(([end]) => end as () => void);
    await using kept = await reserve({ size: 1, sandbox: { limits: { wallTimeMs } } });
    expect(over()).toEqual([]);
    await using actor = await kept.spawn<Pooled>(module);
    expect(await actor.call.add(1, 2)).toBe(3);
    const [end, ...more] = over();
    expect(more).toEqual([]);
    end!();
    expect(await actor.exited).toEqual({ reason: "limit", limit: "wallTime" });
  });

  test("what its scheduler refuses is tried again, until it is not", async () => {
    const scheduler = new Scheduler({ actors: 2, queue: 0 });
    let refused = 0;
    const enter = scheduler.enter.bind(scheduler);
    scheduler.enter = (request) => {
      const entered = enter(request);
      entered.catch(() => refused++);
      return entered;
    };
    await using kept = await reserve({ size: 1, scheduler });
    await using _first = await kept.spawn<Pooled>(module);
    await full(kept, 1);
    const second = await kept.spawn<Pooled>(module);
    while (refused < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(kept.ready).toBe(0);
    await second[Symbol.asyncDispose]();
    await full(kept, 1);
  });

  test("rejects with SchedulerRefused for more than could ever be alive at a time, and makes none", async () => {
    for (const [most, full] of [
      [{ actors: 1 }, "actors"],
      [{ memory: "127 MiB" }, "memory"],
    ] as const) {
      const scheduler = new Scheduler(most);
      const sandbox = { limits: { memory: "64 MiB" } };
      expect(await rejection(reserve({ size: 2, scheduler, sandbox }))).toMatchObject({
        name: "SchedulerRefused",
        full,
      });
      expect(scheduler.load).toMatchObject({ starts: 0, actors: 0, waiting: 0 });
    }
  });

  test("takes a relative path for what it means by then", async () => {
    const places = [1, 2].map(() => realpathSync(mkdtempSync(join(tmpdir(), "caisson-reserve-"))));
    for (const place of places) {
      writeFileSync(join(place, "same.ts"), `export const where = () => ${JSON.stringify(place)};`);
    }
    await using kept = await reserve({ size: 1 });
    const before = process.cwd();
    try {
      for (const place of places) {
        process.chdir(place);
        await full(kept, 1);
        await using actor = await kept.spawn<{ where(): string }>("./same.ts");
        expect(await actor.call.where()).toBe(place);
      }
    } finally {
      process.chdir(before);
      for (const place of places) rmSync(place, { recursive: true });
    }
  });

  test("makes them behind whoever else wants to start", async () => {
    const scheduler = new Scheduler({ starts: 1 });
    const limits = { memory: 1, processes: 1 };
    const place = await scheduler.enter({ name: "first", limits });
    const making = reserve({ size: 1, scheduler });
    while (scheduler.load.waiting < 1) await new Promise((resolve) => setTimeout(resolve, 1));
    const other = scheduler.enter({ name: "other", limits });
    place.leave();
    const taken = await other;
    expect(scheduler.load.waiting).toBe(1);
    taken.leave();
    await using kept = await making;
    expect(kept.ready).toBe(1);
  });

  test("a spawn that waits for a place gets the process that was parked there meanwhile", async () => {
    const scheduler = new Scheduler({ actors: 1 });
    await using kept = await reserve({ size: 1, scheduler });
    const first = await kept.spawn<Pooled>(module);
    await waiting(scheduler, 1); // for a place to make the next in
    await first[Symbol.asyncDispose]();
    expect(scheduler.load).toMatchObject({ actors: 1, waiting: 0 });
    expect(kept.ready).toBe(0);
    await using second = await kept.spawn<Pooled>(module, { name: "second" });
    expect(await second.call.add(1, 2)).toBe(3);
    expect(second.inspect()).toMatchObject({ name: "second", state: "running" });
    await waiting(scheduler, 1); // it was taken, so another one is to be made
    expect(scheduler.load).toMatchObject({ actors: 1 });
    expect(kept.ready).toBe(0);
  });

  test("spawns that wait are served by priority, whether a place is free or a process parked, and not those that were given up", async () => {
    const scheduler = new Scheduler({ actors: 1 });
    await using kept = await reserve({ size: 1, scheduler });
    const first = await kept.spawn<Pooled>(module);
    await waiting(scheduler, 1);
    const controller = new AbortController();
    const given = rejection(kept.spawn(module, { priority: "high", signal: controller.signal }));
    const served: string[] = [];
    const all = (["low", "normal", "high"] as const).map(async (priority) => {
      await using actor = await kept.spawn<Pooled>(module, { priority });
      served.push(priority);
      expect(await actor.call.add(1, 2)).toBe(3);
    });
    expect(scheduler.load.waiting).toBe(5);
    controller.abort(new Error("changed my mind"));
    expect((await given).message).toBe("changed my mind");
    await first[Symbol.asyncDispose]();
    await Promise.all(all);
    expect(served).toEqual(["high", "normal", "low"]);
  });

  test("what waits when it is closed rejects: for a place, and for its code", async () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-test-"));
    using _removed = { [Symbol.dispose]: () => rmSync(directory, { recursive: true }) };
    const path = join(directory, "one.ts");
    await Bun.write(path, "export const one = () => 1;");
    const scheduler = new Scheduler({ actors: 1 });
    const kept = await reserve({ size: 1, scheduler });
    await using first = await kept.spawn<Pooled>(module);
    await waiting(scheduler, 1);
    const [placeless, codeless] = [rejection(kept.spawn(module)), rejection(kept.spawn(path))];
    expect(scheduler.load.waiting).toBe(2); // the other's code is not there yet
    await kept[Symbol.asyncDispose]();
    for (const each of [placeless, codeless])
      expect((await each).message).toBe("Cannot spawn from this reserve: it is closed");
    expect(scheduler.load).toMatchObject({ actors: 1, waiting: 0 });
    expect(await first.call.add(1, 2)).toBe(3);
  });

  test("a spawn that was given up before its code was there takes nobody", async () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-test-"));
    using _removed = { [Symbol.dispose]: () => rmSync(directory, { recursive: true }) };
    await Bun.write(join(directory, "one.ts"), "export const one = () => 1;");
    await using kept = await reserve({ size: 1 });
    const controller = new AbortController();
    const given = rejection(kept.spawn(join(directory, "one.ts"), { signal: controller.signal }));
    controller.abort(new Error("changed my mind"));
    expect((await given).message).toBe("changed my mind");
    expect(kept.ready).toBe(1);
  });

  test("what is started anew starts where the reserve was made, as what waits does", async () => {
    const place = realpathSync(mkdtempSync(join(tmpdir(), "caisson-reserve-")));
    using _removed = { [Symbol.dispose]: () => rmSync(place, { recursive: true }) };
    writeFileSync(join(place, "one.txt"), "one");
    const before = process.cwd();
    process.chdir(place);
    const making = reserve({ size: 1, sandbox: { read: ["one.txt"] } });
    process.chdir(before);
    await using kept = await making;
    const [warm, cold] = await Promise.all([1, 2].map(() => kept.spawn<typeof Observed>(observed)));
    await using _warm = warm!;
    await using _cold = cold!;
    for (const actor of [warm!, cold!]) expect(await actor.call.read("one.txt")).toBe("done");
  });

  test("rejects as spawn does where its actors end before they are ready", async () => {
    const confine = platform.confine.bind(platform);
    using _ended = spyOn(platform, "confine").mockImplementation((...what) => {
      const confined = confine(...what);
      void confined.started.then(() => process.kill(confined.pid, "SIGKILL"));
      return confined;
    });
    const ended = { name: "ActorExit", exit: { reason: "signal", signal: "SIGKILL" } };
    expect(await rejection(spawn(module))).toMatchObject(ended);
    expect(await rejection(reserve({ size: 1 }))).toMatchObject(ended);
  });

  test("rejects as spawn does where an observed one ends between the look at its walls and its first call", async () => {
    const confine = platform.confine.bind(platform);
    using _ended = spyOn(platform, "confine").mockImplementation((...what) => {
      const confined = confine(...what);
      const verify = () => {
        const stands = confined.verify();
        process.kill(confined.pid, "SIGKILL");
        while (!/^State:\tZ/m.test(readFileSync(`/proc/${confined.pid}/status`, "utf8")));
        return stands;
      };
      return { ...confined, verify };
    });
    const ended = { name: "ActorExit", exit: { reason: "signal", signal: "SIGKILL" } };
    expect(await rejection(spawn(module, { observe: true }))).toMatchObject(ended);
    expect(await rejection(reserve({ size: 1, observe: true }))).toMatchObject(ended);
  });

  test("needs no working directory, and neither does spawn", async () => {
    const cwd = mkdtempSync(join(tmpdir(), "caisson-test-"));
    const script = `
      import { rmdirSync } from "node:fs";
      import { reserve, spawn } from "${join(import.meta.dir, "../../src/index.ts")}";
      rmdirSync("${cwd}"); // whoever asked for it before would be told from memory
      await using cold = await spawn("${module.pathname}");
      await using kept = await reserve({ size: 1 });
      await using warm = await kept.spawn("${module.pathname}");
      console.log(await cold.call.add(1, 2), await warm.call.add(3, 4));`;
    const host = Bun.spawn([process.execPath, "-e", script], { cwd, stdout: "pipe", stderr: "pipe" });
    expect([await host.stdout.text(), await host.stderr.text()]).toEqual(["3 7\n", ""]);
    expect(existsSync(cwd)).toBeFalse();
  });

  test("keeps within its scheduler, which has all back at the end", async () => {
    const scheduler = new Scheduler({ starts: 3, actors: 3, queue: 0 });
    const kept = await reserve({ size: 3, scheduler });
    expect(scheduler.load.actors).toBe(3);
    expect(await rejection(spawn(module, { scheduler }))).toMatchObject({ name: "SchedulerRefused", full: "actors" });
    const actor = await kept.spawn<Pooled>(module);
    await kept[Symbol.asyncDispose]();
    expect(scheduler.load.actors).toBe(1);
    expect(await actor.call.add(1, 2)).toBe(3);
    expect((await rejection(kept.spawn(module))).message).toBe("Cannot spawn from this reserve: it is closed");
    actor.kill();
    await actor.exited;
    expect(scheduler.load).toEqual({ starts: 0, actors: 0, memory: 0, processes: 0, waiting: 0 });
  });

  test("the end of an await using ends those that are just being made, too", async () => {
    const scheduler = new Scheduler({ starts: 1 });
    const kept = await reserve({ size: 1, scheduler });
    const begun = Promise.withResolvers<void>();
    const enter = scheduler.enter.bind(scheduler);
    scheduler.enter = (request) => {
      const entered = enter(request);
      void entered.then(() => begun.resolve());
      return entered;
    };
    const taking = kept.spawn<Pooled>(module);
    await begun.promise; // before who was taken is loaded, or long after
    expect(scheduler.load.starts).toBe(1);
    await kept[Symbol.asyncDispose]();
    expect(scheduler.load).toMatchObject({ starts: 0, actors: 1, waiting: 0 });
    await using _taken = await taking;
  });

  test("those that wait are seen as parked; who is taken is seen by its own name, and has not left", async () => {
    const mine = async () => {
      const pids = children().map(({ pid }) => pid);
      return [...(await inspections()).values()].filter(({ pid }) => pids.includes(pid));
    };
    const gone: { readonly name: string; readonly exit: Exit | undefined }[] = [];
    using _told = onDeparture(({ name }, exit) => void gone.push({ name, exit }));
    const kept = await reserve({ size: 2, name: "parsers" });
    const before = await mine();
    expect(before).toMatchObject(
      [1, 2].map(() => ({ kind: "actor", name: "parsers", state: "parked", callsPending: 0 })),
    );
    expect(before[0]!.usage.memoryBytes).toBeGreaterThan(0);
    const actor = await kept.spawn<Pooled>(module, { name: "first" });
    expect(actor.inspect()).toMatchObject({ name: "first", state: "running" });
    expect((await mine()).filter(({ pid }) => pid === actor.pid)).toMatchObject([{ name: "first" }]);
    expect(gone).toEqual([]);
    await kept[Symbol.asyncDispose]();
    expect(await mine()).toMatchObject([{ name: "first" }]);
    expect(gone.length).toBeGreaterThan(0);
    for (const each of gone) expect(each).toEqual({ name: "parsers", exit: { reason: "killed", by: "dispose" } });
    await actor[Symbol.asyncDispose]();
    expect(gone.at(-1)).toEqual({ name: "first", exit: { reason: "killed", by: "dispose" } });
  });

  testSeccomp("observe holds for all of it: the filter's own word of what is refused after the code came", async () => {
    await using kept = await reserve({ size: 1, observe: true });
    await using actor = await kept.spawn<typeof Observed>(observed, { name: "watched" });
    const denials = actor.denials[Symbol.asyncIterator]();
    expect(await actor.call.mount()).toBe("EPERM");
    const first = (await denials.next()).value as DenialEvent;
    expect(first).toMatchObject({ actor: "watched", call: "mount", wall: expect.stringContaining("seccomp") });
  });

  test("a file that changed is read anew", async () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-test-"));
    using _removed = { [Symbol.dispose]: () => rmSync(directory, { recursive: true }) };
    const path = join(directory, "one.ts");
    await using kept = await reserve({ size: 1 });
    for (const value of [1, 2, 3]) {
      await Bun.write(path, `export const one = () => ${value};`);
      utimesSync(path, value, value); // clocks of files are coarse
      await full(kept, 1);
      await using actor = await kept.spawn<{ one(): number }>(path);
      expect(await actor.call.one()).toBe(value);
    }
  });

  test("refuses what holds for all of it, whether one is ready or not: it would be kept in one of the two alone", async () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-test-"));
    using _removed = { [Symbol.dispose]: () => rmSync(directory, { recursive: true }) };
    const file = join(directory, "one.txt");
    await Bun.write(file, "one");
    const said = {
      sandbox: {},
      within: {},
      stdout: "ignore",
      stderr: "ignore",
      sources: [directory],
      scheduler: new Scheduler(),
      observe: true,
    };
    const scheduler = new Scheduler({ actors: 2 });
    await using kept = await reserve({ size: 1, sandbox: { read: [directory] }, scheduler });
    const refuses = async () => {
      for (const [key, value] of Object.entries(said)) {
        const error = await rejection(kept.spawn(module, { [key]: value }));
        expect(error).toBeInstanceOf(TypeError);
        expect(error.message).toBe(`Cannot use ${key} with a reserve: that is said to reserve(), once for all`);
      }
    };
    await refuses();
    expect(kept.ready).toBe(1);
    const other = await scheduler.enter({ name: "other", limits: { memory: 1, processes: 1 } });
    // A key without a value says nothing: it is not taken for an empty sandbox.
    await using warm = await kept.spawn<typeof Observed>(observed, { sandbox: undefined } as object);
    expect(kept.ready).toBe(0); // there is no room for another one
    await refuses();
    const coming = kept.spawn<typeof Observed>(observed, { sandbox: undefined } as object);
    while (scheduler.load.waiting < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    other.leave();
    await using cold = await coming;
    expect([await warm.call.read(file), await cold.call.read(file)]).toEqual(["done", "done"]);
  });

  test("throws at once for what cannot be", async () => {
    for (const size of [0, 1.5, Number.NaN]) expect(await rejection(reserve({ size }))).toBeInstanceOf(RangeError);
    expect(await rejection(reserve({ size: 1, limits: {} } as never))).toBeInstanceOf(TypeError);
    await using kept = await reserve({ size: 1 });
    expect(await rejection(kept.spawn(module, { limits: {} } as never))).toBeInstanceOf(TypeError);
    for (const loadTimeoutMs of [Number.POSITIVE_INFINITY, Number.NaN, -1, 2 ** 31])
      expect(await rejection(kept.spawn(module, { loadTimeoutMs }))).toBeInstanceOf(RangeError);
    expect(await rejection(kept.spawn(module, { loadTimeoutMs: "5 s" } as never))).toBeInstanceOf(TypeError);
    expect(kept.ready).toBe(1);
  });
});

describe("Channel.exercised()", () => {
  test("has code be sent once more, and the actor answers for that alone", async () => {
    const loaded: string[] = [];
    const { host } = await link(
      {},
      { hooks: { onStart: (_, source) => void loaded.push(Buffer.from(source).toString()) } },
    );
    expect(await host.call("echo", [1])).toBe(1);
    host.exercised();
    expect(() => host.exercised()).toThrow(TypeError);
    host.start({}, "the real one");
    expect(await host.call("echo", [2])).toBe(2);
    expect(loaded).toEqual(["", "the real one"]);
  });

  test("throws while a call is in flight", async () => {
    const { host } = await link({}, { hooks: { onCall: () => new Promise(() => {}) } });
    const pending = host.call("echo", []).catch(() => {});
    expect(() => host.exercised()).toThrow("Cannot end the exercise: calls are in flight");
    host.close();
    await pending;
  });

  test.each<[string, Uint8Array]>([
    ["says it is ready", ready],
    ["answers", frame(RESULT, u32(0), payload(1))],
    ["sends a message", frame(MESSAGE, payload("early"))],
    ["says hello again", hello],
  ])("a parked peer that %s breaks the protocol", async (_, bytes) => {
    const script = await Script.ready();
    script.host.exercised();
    script.write(bytes);
    expect(await script.host.closed).toBeInstanceOf(ProtocolViolation);
    expect(script.violations).toHaveLength(1);
  });

  test("a parked peer that did none of that gets the code", async () => {
    const script = await Script.ready();
    script.host.exercised();
    script.host.start({}, "code");
    await script.until(START);
    script.write(ready, frame(MESSAGE, payload("in time")));
    expect((await script.host[Symbol.asyncIterator]().next()).value).toBe("in time");
  });
});
