import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Type from "typebox";
import {
  ActorExit,
  LimitExceeded,
  type PoolOptions,
  pool,
  reserve,
  Scheduler,
  SchemaMismatch,
  spawn,
} from "../../src/index.ts";

setDefaultTimeout(120_000); // whole processes, on machines that may be busy

type Pooled = typeof import("./fixtures/pooled.ts");
const module = new URL("fixtures/pooled.ts", import.meta.url);
const start = (options: PoolOptions) => pool<Pooled>(module, options);
const rejection = (promise: Promise<unknown>): Promise<Error & Record<string, unknown>> =>
  promise.then(
    () => Promise.reject(new Error("Nothing was thrown")),
    (error) => error,
  );
/** Looks again, turn by turn of the event loop, until it is so. */
async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 1));
}

describe("pool()", () => {
  test("rejects with SchedulerRefused for more than could ever be alive at a time, and starts none", async () => {
    const scheduler = new Scheduler({ actors: 1 });
    const refused = { name: "SchedulerRefused", full: "actors" };
    expect(await rejection(start({ size: 2, scheduler }))).toMatchObject(refused);
    expect(scheduler.load).toMatchObject({ starts: 0, actors: 0, waiting: 0 });
    await using kept = await reserve({ size: 1, scheduler });
    expect(await rejection(start({ size: 2, reserve: kept }))).toMatchObject(refused);
    expect(kept.ready).toBe(1);
    await using actors = await start({ size: 1, reserve: kept });
    expect(await actors.call.add(1, 2)).toBe(3);
  });

  test("rejects with a TypeError for what is no option: it would hold for nobody", async () => {
    for (const options of [{ limits: {} }, { call: 1 }, { signal: new AbortController().signal }, { reserve: {} }])
      expect(await rejection(start({ size: 1, ...options } as never))).toBeInstanceOf(TypeError);
  });

  test("spreads calls to the least busy", async () => {
    await using actors = await start({ size: 2, concurrency: 2 });
    const controller = new AbortController();
    const hanging = [1, 2].map(() => rejection(actors.call({ signal: controller.signal }).hang()));
    // Each has one of those by now, so these go to both in turns.
    const answers = await Promise.all([actors.call.whoami(), actors.call.whoami()]);
    expect(answers.map(({ calls }) => calls)).toEqual([1, 1]);
    controller.abort();
    await Promise.all(hanging);
  });

  test("has a call wait while all are busy, and no longer than one is", async () => {
    await using actors = await start({ size: 2 });
    const hanging = rejection(actors.call.hang());
    const answers = await Promise.all(Array.from({ length: 4 }, () => actors.call.whoami()));
    expect(answers.map(({ calls }) => calls)).toEqual([1, 2, 3, 4]);
    actors.kill();
    expect(await hanging).toBeInstanceOf(ActorExit);
  });

  test("gives an actor as many calls at a time as it was told", async () => {
    await using actors = await start({ size: 1, concurrency: 3 });
    const hanging = [1, 2, 3].map(() => rejection(actors.call.hang()));
    const waiting = rejection(actors.call.add(1, 1));
    expect(actors.waiting).toBe(1);
    actors.kill();
    for (const error of await Promise.all(hanging)) expect(error).toBeInstanceOf(ActorExit);
    expect((await waiting).message).toBe("The pool is closed");
  });

  test("replaces an actor after so many calls, and loses none", async () => {
    await using actors = await start({ size: 2, calls: 3 });
    const answers = await Promise.all(Array.from({ length: 20 }, (_, index) => actors.call.echo(index)));
    expect(answers).toEqual(Array.from({ length: 20 }, (_, index) => index));
    const seen = await Promise.all(Array.from({ length: 12 }, () => actors.call.whoami()));
    for (const { calls } of seen) expect(calls).toBeLessThanOrEqual(3);
  });

  test("replaces an actor that has grown, and says that the pool ended it", async () => {
    await using actors = await start({ size: 1, memoryGrowth: "32 MiB" });
    const [first] = actors.actors;
    await actors.call.add(1, 1);
    expect(await actors.call.grow(1024)).toBe(1);
    expect(actors.actors[0]).toBe(first!);
    await actors.call.grow(64 * 2 ** 20);
    expect(await first!.exited).toEqual({ reason: "killed", by: "pool" });
    expect(await actors.call.grow(1)).toBe(1);
  });

  test("rejects the call whose actor ended, makes it not again, and replaces the actor", async () => {
    await using actors = await start({ size: 1 });
    const error = await rejection(actors.call.exit(3));
    expect(error).toBeInstanceOf(ActorExit);
    expect(error.exit).toEqual({ reason: "returned", code: 3 });
    expect((await actors.call.whoami()).calls).toBe(1);
  });

  test("replaces an actor that ended between two calls", async () => {
    await using actors = await start({ size: 1 });
    const [first] = actors.actors;
    process.kill(first!.pid, "SIGKILL");
    await first!.exited;
    expect(await actors.call.add(1, 2)).toBe(3);
    expect(actors.actors[0]).not.toBe(first!);
  });

  test("timeoutMs rejects a call that spins, and replaces its actor", async () => {
    await using actors = await start({ size: 1 });
    const [first] = actors.actors;
    expect((await rejection(actors.call({ timeoutMs: 20 }).spin())).name).toBe("TimeoutError");
    expect(await first!.exited).toEqual({ reason: "killed", by: "pool" });
    expect(await actors.call.add(2, 2)).toBe(4);
  });

  test("timeoutMs counts while a call waits, which no actor then gets", async () => {
    await using actors = await start({ size: 1 });
    const controller = new AbortController();
    const hanging = rejection(actors.call({ signal: controller.signal }).hang());
    expect((await rejection(actors.call({ timeoutMs: 1 }).exit(1))).name).toBe("TimeoutError");
    expect(actors.waiting).toBe(0);
    controller.abort(new Error("enough"));
    expect((await hanging).message).toBe("enough");
    expect(await actors.call.add(2, 2)).toBe(4);
    expect((await rejection(actors.call({ timeoutMs: -1 }).add(1, 1))).name).toBe("RangeError");
  });

  test("an answer that comes too late is nobody else's", async () => {
    await using actors = await start({ size: 1, concurrency: 2 });
    const [first] = actors.actors;
    const controller = new AbortController();
    const late = rejection(actors.call({ signal: controller.signal }).later("late"));
    const own = actors.call.later("own");
    controller.abort(new Error("too late"));
    expect((await late).message).toBe("too late");
    expect(await own).toBe("own");
    expect(await first!.exited).toEqual({ reason: "killed", by: "pool" });
    expect(await actors.call.later("next")).toBe("next");
  });

  test("a schema is kept to as with an actor", async () => {
    await using actors = await start({ size: 1 });
    const result = Type.Number();
    expect(await actors.call({ result }).echo(1)).toBe(1);
    expect(await rejection(actors.call({ result }).echo("one"))).toBeInstanceOf(SchemaMismatch);
  });

  test("rejects with LimitExceeded when its queue is full", async () => {
    await using actors = await start({ size: 1, queue: 1 });
    const all = [1, 2, 3].map((value) => actors.call.later(value));
    const error = await rejection(all[2]!);
    expect(error).toBeInstanceOf(LimitExceeded);
    expect(error.limit).toBe("queue");
    expect(await Promise.all(all.slice(0, 2))).toEqual([1, 2]);
  });

  test("rejects as spawn does where its module does not load, and leaves nobody", async () => {
    const throws = new URL("fixtures/throws.ts", import.meta.url);
    expect((await rejection(pool(throws, { size: 2 }))).message).not.toBe("");
    expect(await rejection(start({ size: 0 }))).toBeInstanceOf(RangeError);
    expect(await rejection(start({ size: 1, memoryGrowth: "1", calls: 1 }))).toBeInstanceOf(RangeError);
  });

  test.each<[string, unknown, typeof TypeError]>([
    ["memoryGrowthBytes", Number.NaN, RangeError],
    ["memoryGrowthBytes", -1, RangeError],
    ["memoryGrowthBytes", 1.5, RangeError],
    ["memoryGrowthBytes", Number.POSITIVE_INFINITY, RangeError],
    ["memoryGrowthBytes", "64 MiB", TypeError],
    ["loadTimeoutMs", Number.NaN, RangeError],
    ["loadTimeoutMs", -1, RangeError],
    ["loadTimeoutMs", 2 ** 31, RangeError],
    ["loadTimeoutMs", Number.POSITIVE_INFINITY, RangeError],
    ["loadTimeoutMs", "5 s", TypeError],
  ])("throws for %s of %p, and starts nobody", async (key, value, expected) => {
    const scheduler = new Scheduler();
    let asked = 0;
    scheduler.enter = () => Promise.reject(new Error(`${++asked} were to start`));
    expect(await rejection(start({ size: 1, scheduler, [key]: value }))).toBeInstanceOf(expected);
    expect(asked).toBe(0);
  });

  test("memoryGrowthBytes is the same as memoryGrowth, and loadTimeoutMs holds for its actors", async () => {
    await using actors = await start({ size: 1, memoryGrowthBytes: 32 * 2 ** 20 });
    const [first] = actors.actors;
    await actors.call.add(1, 1);
    await actors.call.grow(64 * 2 ** 20);
    expect(await first!.exited).toEqual({ reason: "killed", by: "pool" });
    const hangs = new URL("fixtures/hangs.ts", import.meta.url);
    await using ready = await reserve({ size: 1 });
    for (const from of [{}, { reserve: ready }])
      for (const loadTimeoutMs of [0, 50])
        expect(await rejection(pool(hangs, { size: 1, loadTimeoutMs, ...from }))).toMatchObject({ limit: "loadTime" });
  });

  test("rejects what waits when no actor can be had any more", async () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-test-"));
    using _removed = { [Symbol.dispose]: () => rmSync(directory, { recursive: true }) };
    await Bun.write(`${directory}/fickle.ts`, "export const leave = () => process.exit(1);");
    await using actors = await pool<{ leave(): never }>(`${directory}/fickle.ts`, { size: 1 });
    await Bun.write(`${directory}/fickle.ts`, "throw new Error('no more');");
    const [left, waited] = [rejection(actors.call.leave()), rejection(actors.call.leave())];
    expect(await left).toBeInstanceOf(ActorExit);
    expect((await waited).message).toBe("no more");
    // Nobody is there, so each of these waits for a start, and each start fails.
    for (let round = 0; round < 2; round++) expect((await rejection(actors.call.leave())).message).toBe("no more");
    // A start is tried at any time, and is to find the one or the other.
    await Bun.write(`${directory}/next.ts`, "export const leave = () => process.exit(2);");
    renameSync(`${directory}/next.ts`, `${directory}/fickle.ts`);
    await until(() => actors.actors.length === 1);
    expect((await rejection(actors.call.leave())).exit).toEqual({ reason: "returned", code: 2 });
  });

  test("rejects what waits then also while one that takes no more calls lives on", async () => {
    const directory = mkdtempSync(join(tmpdir(), "caisson-test-"));
    using _removed = { [Symbol.dispose]: () => rmSync(directory, { recursive: true }) };
    const code = "export const one = () => 1; export const hang = () => new Promise(() => {});";
    await Bun.write(`${directory}/fickle.ts`, code);
    const options = { size: 1, concurrency: 2, calls: 2 };
    await using actors = await pool<{ one(): number; hang(): Promise<never> }>(`${directory}/fickle.ts`, options);
    await Bun.write(`${directory}/fickle.ts`, "throw new Error('no more');");
    const hung = rejection(actors.call.hang());
    expect(await actors.call.one()).toBe(1);
    expect((await rejection(actors.call.one())).message).toBe("no more");
    actors.kill();
    expect(await hung).toBeInstanceOf(ActorExit);
  });

  test("a call that never ends does not keep an actor that has had its calls from being replaced", async () => {
    await using actors = await start({ size: 1, concurrency: 2, calls: 3 });
    const hung = actors.call.hang().catch((error: unknown) => error);
    const answered: number[] = []; // each actor counts for itself
    for (let round = 0; round < 4; round++) answered.push((await actors.call.whoami()).calls);
    expect(answered).toEqual([1, 2, 1, 2]);
    expect(actors.actors).toHaveLength(2);
    actors.kill();
    expect(await hung).toBeInstanceOf(ActorExit);
  });

  test("one that could not be replaced for want of room is when another goes", async () => {
    await using actors = await start({ size: 1, concurrency: 2, calls: 3 });
    const [first] = actors.actors;
    const held = actors.call.hold();
    for (let round = 0; round < 2; round++) await actors.call.add(1, 1);
    const hung = rejection(actors.call.hang());
    for (let round = 0; round < 2; round++) await actors.call.add(1, 1);
    // Both have had their calls, and one is pending at each: nobody has room, and there are two already.
    const waiting = actors.call.whoami();
    expect([actors.actors.length, actors.waiting]).toEqual([2, 1]);
    await first!.call.release();
    await held;
    expect((await waiting).calls).toBe(1);
    expect(await first!.exited).toEqual({ reason: "killed", by: "pool" });
    actors.kill();
    expect(await hung).toBeInstanceOf(ActorExit);
  });

  test("one that had all its calls before it had as many at a time as it may is replaced for those that wait", async () => {
    await using actors = await start({ size: 1, concurrency: 3, calls: 2 });
    const hung = [1, 2].map(() => rejection(actors.call.hang()));
    expect((await actors.call.whoami()).calls).toBe(1);
    expect(actors.actors).toHaveLength(2);
    actors.kill();
    for (const error of await Promise.all(hung)) expect(error).toBeInstanceOf(ActorExit);
  });

  test("one that has had its calls and has as many at a time as it may keeps others waiting, as any that is busy", async () => {
    await using actors = await start({ size: 1, concurrency: 2, calls: 2 });
    const [first] = actors.actors;
    const [held, hung] = [actors.call.hold(), rejection(actors.call.hang())];
    const waiting = actors.call.whoami();
    expect([actors.actors.length, actors.waiting]).toEqual([1, 1]);
    await first!.call.release();
    await held;
    expect((await waiting).calls).toBe(1);
    expect(actors.actors).toHaveLength(2);
    actors.kill();
    expect(await hung).toBeInstanceOf(ActorExit);
  });

  test("has twice its size at most, however many calls never end", async () => {
    await using actors = await start({ size: 1, concurrency: 2, calls: 2 });
    const hung: Promise<unknown>[] = [];
    for (let round = 0; round < 2; round++) {
      hung.push(rejection(actors.call.hang()));
      await actors.call.whoami();
    }
    const waiting = rejection(actors.call.whoami());
    // One more would have started by the time that others have, one after the other.
    for (let round = 0; round < 3; round++) await (await spawn(module))[Symbol.asyncDispose]();
    expect([actors.actors.length, actors.waiting]).toEqual([2, 1]);
    actors.kill();
    for (const error of await Promise.all(hung)) expect(error).toBeInstanceOf(ActorExit);
    expect((await waiting).message).toBe("The pool is closed");
  });

  test("a call that was answered leaves no timer that would keep the host, and no listener", async () => {
    const script = `
      import { getEventListeners } from "node:events";
      import { pool } from "${join(import.meta.dir, "../../src/index.ts")}";
      const { signal } = new AbortController();
      const actors = await pool("${module.pathname}", { size: 1 });
      console.log(await actors.call({ timeoutMs: 2 ** 31 - 1, signal }).add(1, 2), getEventListeners(signal, "abort").length);
      await actors[Symbol.asyncDispose]();`;
    const host = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "pipe" });
    expect([await host.stdout.text(), await host.stderr.text()]).toEqual(["3 0\n", ""]);
    expect(await host.exited).toBe(0);
  });

  test("takes its actors from a reserve, which then has its sandbox", async () => {
    await using ready = await reserve({ size: 1, sandbox: { env: { FROM: "reserve" } } });
    await using actors = await start({ size: 2, calls: 1, reserve: ready });
    for (let round = 0; round < 4; round++) expect((await actors.call.remains()).env).toEqual({ FROM: "reserve" });
    expect(await rejection(start({ size: 1, reserve: ready, sandbox: {} }))).toBeInstanceOf(TypeError);
    await using warned = await start({ size: 1, reserve: ready, priority: "high", onMemoryWarning: () => {} });
    expect(await warned.call.add(1, 2)).toBe(3);
  });

  test("goes on with a reserve that shares its scheduler, though no more may be alive than it has actors", async () => {
    const scheduler = new Scheduler({ actors: 2 });
    await using ready = await reserve({ size: 2, scheduler });
    await using actors = await start({ size: 2, reserve: ready });
    for (let round = 0; round < 2; round++) {
      const ended = await Promise.all([1, 2].map((code) => rejection(actors.call.exit(code))));
      expect(ended.map(({ exit }) => exit)).toEqual([1, 2].map((code) => ({ reason: "returned", code })) as never);
      await until(() => actors.actors.length === 2);
      expect(await Promise.all([actors.call.add(1, 2), actors.call.add(3, 4)])).toEqual([3, 7]);
    }
  });

  test("the end of an await using ends all, and what is called then rejects", async () => {
    const actors = await start({ size: 2 });
    const all = actors.actors.map(({ exited }) => exited);
    const pending = rejection(actors.call.hang());
    await actors[Symbol.asyncDispose]();
    expect(await Promise.all(all)).toEqual(all.map(() => ({ reason: "killed", by: "dispose" })) as never);
    expect(await pending).toBeInstanceOf(ActorExit);
    expect((await rejection(actors.call.add(1, 1))).message).toBe("The pool is closed");
    expect(await actors.exited).toEqual({ reason: "killed", by: "dispose" });
  });

  test.each([1, 2])(
    "of 1,000 calls that end actors at random each settles with its own answer, %d at a time",
    async (concurrency) => {
      await using actors = await start({ size: 4, concurrency, calls: 50, stderr: "ignore", stdout: "ignore" });
      const seed = Number(process.env.SEED ?? 1 + Math.floor(Math.random() * 2 ** 30));
      let state = seed;
      const random = () => {
        state = (state * 48_271) % 2_147_483_647;
        return state / 2_147_483_647;
      };
      const ends = ["throw", "exit", "reject", "crash"] as const;
      const calls = Array.from({ length: 1000 }, (_, index) => {
        const how = random() < 0.04 ? ends[Math.floor(random() * ends.length)]! : "answer";
        return { how, promise: actors.call.risk(index, how) };
      });
      const results = await Promise.allSettled(calls.map(({ promise }) => promise));
      const told = `SEED=${seed}`;
      for (const [index, result] of results.entries()) {
        const { how } = calls[index]!;
        const error = result.status === "rejected" ? result.reason : undefined;
        // With two at a time, the end that one brings about is the end of the other, too.
        const isEnded = error instanceof ActorExit && (concurrency > 1 || (how !== "answer" && how !== "throw"));
        if (isEnded) continue;
        expect([told, how, result]).toEqual([
          told,
          how,
          how === "answer" ? { status: "fulfilled", value: index } : { status: "rejected", reason: error },
        ]);
        if (how !== "answer") expect([told, how, error.message]).toEqual([told, "throw", `thrown ${index}`]);
      }
      expect(actors.waiting).toBe(0);
    },
  );
});
