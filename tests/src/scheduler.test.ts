import { describe, expect, test } from "bun:test";
import { getEventListeners } from "node:events";
import { availableParallelism } from "node:os";
import { Scheduler, SchedulerRefused, spawn } from "../../src/index.ts";
import type { Place, Priority } from "../../src/scheduler.ts";

const MIB = 2 ** 20;
const request = (
  name: string,
  {
    memory = 64 * MIB,
    priority = "normal" as Priority,
    signal = undefined as AbortSignal | undefined,
    of = undefined as object | undefined,
  } = {},
) => ({
  name,
  limits: { memory, processes: 1 },
  priority,
  signal,
  of,
});
/** Lets all that has been resolved go on. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

function caught(act: () => void): unknown {
  try {
    act();
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Asks for places, and notes who got one. */
function asking(scheduler: Scheduler) {
  const admitted: string[] = [];
  const places = new Map<string, Place>();
  const ask = (name: string, how?: Parameters<typeof request>[1]) =>
    scheduler.enter(request(name, how)).then((place) => {
      admitted.push(name);
      places.set(name, place);
    });
  return { admitted, places, ask };
}

describe("Scheduler.enter()", () => {
  test("lets as many start at a time as it was told, and the next when one has started", async () => {
    const { admitted, places, ask } = asking(new Scheduler({ starts: 2 }));
    const all = ["a", "b", "c", "d"].map((name) => ask(name));
    await settled();
    expect(admitted).toEqual(["a", "b"]);
    places.get("b")!.settled();
    places.get("b")!.settled();
    await settled();
    expect(admitted).toEqual(["a", "b", "c"]);
    places.get("a")!.leave();
    await Promise.all(all);
    expect(admitted).toEqual(["a", "b", "c", "d"]);
  });

  test("admits those of a higher priority first, and nobody past another of the same", async () => {
    const { admitted, places, ask } = asking(new Scheduler({ actors: 1 }));
    const names = ["first", "low 1", "normal 1", "high 1", "low 2", "high 2"];
    const all = names.map((name) => ask(name, name === "first" ? {} : { priority: name.split(" ")[0] as Priority }));
    for (const [index] of names.entries()) {
      await settled();
      expect(admitted).toHaveLength(index + 1);
      places.get(admitted.at(-1)!)!.leave();
    }
    await Promise.all(all);
    expect(admitted).toEqual(["first", "high 1", "high 2", "normal 1", "low 1", "low 2"]);
  });

  test("holds back who asks for more memory than is left, until it is", async () => {
    const scheduler = new Scheduler({ memory: "100 MiB" });
    const { admitted, places, ask } = asking(scheduler);
    const all = [ask("large"), ask("next"), ask("small", { memory: MIB })];
    await settled();
    expect(admitted).toEqual(["large"]);
    expect(scheduler.load).toMatchObject({ actors: 1, memory: 64 * MIB, waiting: 2 });
    places.get("large")!.settled();
    await settled();
    expect(admitted).toEqual(["large"]); // there would be room for the small one, which passes nobody
    places.get("large")!.leave();
    await Promise.all(all);
    expect(admitted).toEqual(["large", "next", "small"]);
    for (const place of places.values()) {
      place.settled();
      place.leave();
      place.leave();
    }
    expect(scheduler.load).toEqual({ starts: 0, actors: 0, memory: 0, processes: 0, waiting: 0 });
  });

  test("lets twice as many start at a time as there are processors, where nothing is said", async () => {
    const { admitted, places, ask } = asking(new Scheduler());
    const most = 2 * availableParallelism();
    const all = Array.from({ length: most + 1 }, (_, index) => ask(`${index}`));
    await settled();
    expect(admitted).toHaveLength(most);
    places.get("0")!.settled();
    await Promise.all(all);
    expect(admitted).toHaveLength(most + 1);
  });

  test("rejects with the reason of a signal that was aborted before, and takes nothing", async () => {
    const scheduler = new Scheduler();
    const signal = AbortSignal.abort(new Error("too late"));
    expect((await scheduler.enter(request("a", { signal })).catch((thrown) => thrown)).message).toBe("too late");
    expect(scheduler.load).toEqual({ starts: 0, actors: 0, memory: 0, processes: 0, waiting: 0 });
  });

  test("listens to a signal for as long as who has it waits", async () => {
    const { places, ask } = asking(new Scheduler({ actors: 1 }));
    const { signal } = new AbortController();
    await ask("first");
    const waiting = ask("second", { signal });
    expect(getEventListeners(signal, "abort")).toHaveLength(1);
    places.get("first")!.leave();
    await waiting;
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
  });

  test("rejects with SchedulerRefused what would never fit, saying what is full", async () => {
    for (const [options, full] of [
      [{ memory: "32 MiB" }, "memory"],
      [{ memoryBytes: 1 }, "memory"],
    ] as const) {
      const error = await new Scheduler(options).enter(request("big")).catch((thrown) => thrown);
      expect(error).toBeInstanceOf(SchedulerRefused);
      expect(error).toMatchObject({
        full,
        message: expect.stringContaining("Cannot start big: 64 MiB is more than the "),
      });
    }
  });

  test("rejects with SchedulerRefused when its queue is full", async () => {
    const { admitted, ask } = asking(new Scheduler({ actors: 1, queue: 1 }));
    void ask("a");
    void ask("b");
    const error = await ask("c").catch((thrown) => thrown);
    expect(error).toMatchObject({ name: "SchedulerRefused", full: "actors" });
    expect(error.message).toBe("Cannot start c: 1 of 1 actors are taken, and 1 wait already");
    expect(admitted).toEqual(["a"]);
  });

  test("rejects with the signal's reason who gives up waiting, and lets those behind pass", async () => {
    const { admitted, ask } = asking(new Scheduler({ memory: "100 MiB" }));
    const controller = new AbortController();
    await ask("a");
    const gone = ask("large", { signal: controller.signal }).catch((thrown) => thrown);
    const small = ask("small", { memory: MIB });
    await settled();
    expect(admitted).toEqual(["a"]);
    controller.abort(new Error("changed my mind"));
    expect((await gone).message).toBe("changed my mind");
    await small;
    expect(admitted).toEqual(["a", "small"]);
  });

  test("throws for what is no amount", () => {
    for (const options of [{ starts: 0 }, { actors: 1.5 }, { memory: "5" }, { queue: -1 }, { processes: Number.NaN }])
      expect(() => new Scheduler(options)).toThrow(RangeError);
    expect(() => new Scheduler({ memory: "1 MiB", memoryBytes: 1 })).toThrow(TypeError);
    expect(() => new Scheduler({ actor: 1 } as object)).toThrow(
      "Cannot use the option actor: there is none of this name",
    );
  });
});

describe("Scheduler.pass()", () => {
  const [own, others] = [{}, {}];

  test("hands a place to the first of the highest priority that waits for one of its owner, and counts it on", async () => {
    const scheduler = new Scheduler({ actors: 1 });
    const { admitted, places, ask } = asking(scheduler);
    await ask("first");
    void ask("anybody", { priority: "high" });
    void ask("another's", { priority: "high", of: others });
    void ask("low", { priority: "low", of: own });
    void ask("normal 1", { of: own });
    void ask("normal 2", { of: own });
    for (const [index, heir] of ["normal 1", "normal 2", "low"].entries()) {
      const place = places.get(admitted.at(-1)!)!;
      expect(scheduler.pass(place, own)).toBeTrue();
      await settled();
      expect(admitted.at(-1)).toBe(heir);
      expect(places.get(heir)).toBe(place);
      expect(scheduler.load).toMatchObject({ actors: 1, memory: 64 * MIB, waiting: 4 - index });
    }
    expect(scheduler.pass(places.get("low")!, own)).toBeFalse();
    places.get("low")!.leave();
    await settled();
    expect(admitted.slice(4)).toEqual(["anybody"]);
  });

  test("finds nobody who was let in by then, or gave up", async () => {
    const scheduler = new Scheduler({ actors: 1 });
    const { admitted, places, ask } = asking(scheduler);
    await ask("first", { of: own });
    const controller = new AbortController();
    const gone = ask("gone", { of: own, signal: controller.signal }).catch((thrown) => thrown);
    const next = ask("next", { of: own });
    controller.abort(new Error("changed my mind"));
    expect((await gone).message).toBe("changed my mind");
    places.get("first")!.leave();
    await next;
    expect(scheduler.pass(places.get("next")!, own)).toBeFalse();
    expect(admitted).toEqual(["first", "next"]);
  });

  test("lets those in that stood behind who has it, and need less", async () => {
    const scheduler = new Scheduler({ memory: "100 MiB" });
    const { admitted, places, ask } = asking(scheduler);
    await ask("first");
    void ask("large", { of: own });
    void ask("small", { memory: MIB });
    await settled();
    expect(admitted).toEqual(["first"]);
    expect(scheduler.pass(places.get("first")!, own)).toBeTrue();
    await settled();
    expect(admitted).toEqual(["first", "large", "small"]);
  });
});

describe("spawn() with a scheduler", () => {
  const module = new URL("fixtures/pooled.ts", import.meta.url);
  const empty = { starts: 0, actors: 0, memory: 0, processes: 0, waiting: 0 };

  test("gives back what it took, however the actor ends", async () => {
    const scheduler = new Scheduler({ actors: 2 });
    const killed = await spawn<typeof import("./fixtures/pooled.ts")>(module, { scheduler });
    expect(scheduler.load).toEqual({ starts: 0, actors: 1, memory: 512 * MIB, processes: 1, waiting: 0 });
    killed.kill();
    await killed.exited;
    const crashed = await spawn<typeof import("./fixtures/pooled.ts")>(module, { scheduler });
    await crashed.call.exit(3).catch(() => {});
    await crashed.exited;
    await spawn(new URL("fixtures/throws.ts", import.meta.url), { scheduler }).catch(() => {});
    await spawn(new URL("fixtures/nowhere.ts", import.meta.url), { scheduler }).catch(() => {});
    expect(scheduler.load).toEqual(empty);
  });

  test("starts all of many, a few at a time", async () => {
    const scheduler = new Scheduler({ starts: 2 });
    let most = 0;
    const started = Array.from({ length: 6 }, async () => {
      await using actor = await spawn<typeof import("./fixtures/pooled.ts")>(module, { scheduler });
      most = Math.max(most, scheduler.load.starts);
      return await actor.call.add(1, 1);
    });
    expect(await Promise.all(started)).toEqual([2, 2, 2, 2, 2, 2]);
    expect(most).toBeLessThanOrEqual(2);
    expect(scheduler.load).toEqual(empty);
  });

  test("a module that never loads holds up nobody else's start", async () => {
    const scheduler = new Scheduler({ starts: 1 });
    const controller = new AbortController();
    const hanging = spawn(new URL("fixtures/hangs.ts", import.meta.url), { scheduler, signal: controller.signal });
    await using actor = await spawn<typeof import("./fixtures/pooled.ts")>(module, { scheduler });
    expect(await actor.call.add(2, 2)).toBe(4);
    controller.abort();
    expect(await hanging.catch((error) => error.exit)).toEqual({ reason: "killed", by: "signal" });
  });
});

describe("Scheduler.mustHold()", () => {
  const pair = (scheduler: Scheduler) => () => scheduler.mustHold(2, request("two of them"));

  test.each([
    [{ actors: 1 }, "actors", "2 is more than the 1 actors of all"],
    [{ memory: "127 MiB" }, "memory", "128 MiB is more than the 127 MiB of memory of all"],
    [{ processes: 1 }, "processes", "2 is more than the 1 processes of all"],
  ] as const)("throws SchedulerRefused for so many that could never be alive at a time: %j", (most, full, why) => {
    const error = caught(pair(new Scheduler(most)));
    expect(error).toBeInstanceOf(SchedulerRefused);
    expect(error).toMatchObject({ full, message: `Cannot start two of them: ${why}` });
  });

  test("says nothing of what may have to wait: for who is alive now, and to start one after the other", async () => {
    const scheduler = new Scheduler({ starts: 1, actors: 2, memory: "128 MiB", processes: 2, queue: 0 });
    await scheduler.enter(request("one of others"));
    expect(pair(scheduler)).not.toThrow();
    expect(scheduler.load).toMatchObject({ starts: 1, actors: 1, waiting: 0 });
  });
});
