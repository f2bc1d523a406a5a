// Supervisors, by children that are nothing but their ends, and a clock that is moved by hand.
import { describe, expect, test } from "bun:test";
import { getEventListeners } from "node:events";
import type { Child } from "../../src/child.ts";
import { ChildNotStarted, type ChildSpec, type Restart } from "../../src/childspec.ts";
import type { Strategy } from "../../src/strategy.ts";
import type { SupervisorEvent, SupervisorOptions } from "../../src/supervision.ts";
import { startSupervisor, supervise } from "../../src/supervisor.ts";
import { failure } from "../attacks/arena.ts";
import { HandClock, quiet, Troupe } from "./troupe.ts";

const refusal = async (promise: Promise<unknown>): Promise<Error> => (await failure(promise)) as Error;

/** A supervisor with its children, its clock, and what happened. */
async function stage(
  children: (troupe: Troupe) => readonly ChildSpec[],
  options: Omit<SupervisorOptions, "children"> = {},
) {
  const troupe = new Troupe();
  const clock = new HandClock();
  const supervisor = await startSupervisor<Record<string, Child>>(
    { ...options, children: children(troupe) },
    clock,
    () => 1,
  );
  const events: SupervisorEvent[] = [];
  void (async () => {
    for await (const event of supervisor.events) events.push(event);
  })();
  await quiet();
  return { troupe, clock, supervisor, events };
}
const states = (supervisor: Awaited<ReturnType<typeof stage>>["supervisor"]) =>
  supervisor
    .children()
    .map(({ id, state }) => `${id} ${state}`)
    .join(", ");

const PLENTY = { intensity: 100 } as const;

describe("supervise", () => {
  test("starts in order, one after the other, and ends in the opposite one", async () => {
    const { troupe, supervisor } = await stage((troupe) => troupe.specs("abc"));
    expect(troupe.told()).toBe("+a +b +c");
    expect(await supervisor.shutdown()).toEqual({ reason: "shutdown", because: "asked" });
    expect(troupe.told()).toBe("?c -c ?b -b ?a -a");
  });

  test("rejects with ChildNotStarted when one does not start, and ends those that did", async () => {
    const troupe = new Troupe();
    troupe.failing.set("c", 1);
    const error = await refusal(startSupervisor({ children: troupe.specs("abcd") }, new HandClock()));
    expect(error).toBeInstanceOf(ChildNotStarted);
    expect(error).toMatchObject({
      child: "c",
      message: "Cannot start child c: no c today",
      cause: { message: "no c today" },
    });
    expect(troupe.told()).toBe("+a +b !c ?b -b ?a -a");
  });

  test("throws for what makes no sense, before anything is started", async () => {
    const troupe = new Troupe();
    const [a, b] = [troupe.spec("a"), troupe.spec("b")];
    const wrong: readonly (readonly [object, string])[] = [
      [{ children: [a, a] }, "Cannot supervise two children a"],
      [{ children: [a], strategy: "one_for_none" }, "as strategy"],
      [{ children: [a], intensity: -1 }, "Cannot use -1 as intensity"],
      [{ children: [a], intensity: 1.5 }, "Cannot use 1.5 as intensity"],
      [{ children: [a], period: "5" }, "Cannot use"],
      [{ children: [a], period: "0 s" }, "Cannot count restarts within no time"],
      [{ children: [a], period: 5 }, "Cannot use 5 as period"],
      [{ children: [a], period: "1000 h" }, "at most 24 days"],
      [{ children: [a], backoff: { first: "1 ms" } }, "Cannot wait 1 ms"],
      [
        { children: [a], backoff: { first: "1 s", most: "500 ms" } },
        "Cannot use 500 ms as backoff.most: as much as backoff.first is expected, which is 1000 ms",
      ],
      [{ children: [a], retries: 3 }, "Cannot use the option retries"],
      [{ children: [b, { ...a, restart: "always" }] }, "as restart"],
      [{ children: [b, { ...a, shutdown: "soon" }] }, "Cannot use"],
      [{ children: [b, { id: "c" }] }, "id and start are expected"],
      [{ children: [b, { ...a, significant: true, restart: "transient" }] }, 'autoShutdown is "never"'],
      [{ children: [{ ...a, significant: true }], autoShutdown: "any_significant" }, "it is permanent"],
      [{}, "Cannot supervise nothing"],
    ];
    for (const [options, message] of wrong) {
      const error = await refusal(supervise(options as SupervisorOptions));
      expect(error.message).toContain(message);
      expect(error instanceof TypeError || error instanceof RangeError).toBeTrue();
    }
    expect(troupe.told()).toBe("");
  });

  test("is killed by its AbortSignal", async () => {
    const abort = new AbortController();
    const { troupe, supervisor } = await stage((troupe) => troupe.specs("ab"), { signal: abort.signal });
    abort.abort();
    expect(await supervisor.exited).toEqual({ reason: "killed", by: "signal" });
    expect(troupe.told()).toBe("+a +b -a -b");
    expect(await refusal(supervise({ children: [], signal: abort.signal }))).toMatchObject({ name: "AbortError" });
  });

  test("listens to its AbortSignal for as long as it lives", async () => {
    const { signal } = new AbortController();
    const { supervisor } = await stage((troupe) => troupe.specs("a"), { signal });
    expect(getEventListeners(signal, "abort")).toHaveLength(1);
    await supervisor.shutdown();
    await quiet();
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
  });

  test("a start that is under way is given up by kill(), and what it brings is ended", async () => {
    const troupe = new Troupe();
    const asked = Promise.withResolvers<AbortSignal>();
    const go = Promise.withResolvers<void>();
    const abort = new AbortController();
    const slow: ChildSpec = {
      id: "slow",
      async start(signal) {
        asked.resolve(signal);
        await go.promise;
        return (await troupe.spec("s").start(signal)) as Child;
      },
    };
    const starting = startSupervisor(
      { children: [troupe.spec("a"), slow, troupe.spec("b")], signal: abort.signal },
      new HandClock(),
    );
    const signal = await asked.promise;
    abort.abort(new Error("The house is on fire"));
    expect(signal.aborted).toBeTrue();
    go.resolve();
    expect(await refusal(starting)).toBe(abort.signal.reason);
    expect(troupe.told()).toBe("+a -a +s -s");
  });

  test("rejects with its AbortSignal's reason also where the last start heeds nothing, and ends what that brings", async () => {
    const troupe = new Troupe();
    const abort = new AbortController();
    const last: ChildSpec = {
      id: "last",
      async start(signal) {
        abort.abort(new Error("The house is on fire"));
        return (await troupe.spec("z").start(signal)) as Child;
      },
    };
    const starting = startSupervisor({ children: [troupe.spec("a"), last], signal: abort.signal }, new HandClock());
    expect(await refusal(starting)).toBe(abort.signal.reason);
    expect(troupe.told()).toBe("+a -a +z -z");
  });

  test("rejects with what a start threw, though its AbortSignal is aborted behind that", async () => {
    const abort = new AbortController();
    const troupe = new Troupe();
    const brief: ChildSpec = {
      id: "brief",
      async start(signal) {
        const child = (await troupe.spec("a").start(signal)) as Child;
        void child.exited.then(() => abort.abort());
        return child;
      },
    };
    const broken: ChildSpec = { id: "broken", start: () => Promise.reject(new Error("broken")) };
    const starting = startSupervisor({ children: [brief, broken], signal: abort.signal }, new HandClock());
    expect(await refusal(starting)).toMatchObject({ name: "ChildNotStarted", child: "broken" });
    expect(abort.signal.aborted).toBeTrue();
  });
});

describe("strategy", () => {
  const crash = async (strategy: Strategy, who: string) => {
    const { troupe } = await stage((troupe) => troupe.specs("abcd"), { strategy, ...PLENTY });
    troupe.told();
    troupe.the(who).crash();
    await quiet();
    return troupe.told();
  };

  test("one_for_one starts that child again", async () => {
    expect(await crash("one_for_one", "b")).toBe("-b +b");
  });

  test("one_for_all ends the others in the opposite order, and starts all", async () => {
    expect(await crash("one_for_all", "b")).toBe("-b ?d -d ?c -c ?a -a +a +b +c +d");
  });

  test("rest_for_one ends and starts those behind it, and it", async () => {
    expect(await crash("rest_for_one", "b")).toBe("-b ?d -d ?c -c +b +c +d");
    expect(await crash("rest_for_one", "d")).toBe("-d +d");
  });

  test("a restart of several counts once, and leaves those out that are temporary", async () => {
    const { troupe, supervisor } = await stage(
      (troupe) => [troupe.spec("a"), troupe.spec("t", { restart: "temporary" }), troupe.spec("b")],
      { strategy: "one_for_all", intensity: 1 },
    );
    troupe.told();
    troupe.the("b").crash();
    await quiet();
    expect(troupe.told()).toBe("-b ?t -t ?a -a +a +b");
    expect(states(supervisor)).toBe("a running, b running");
  });

  test("a restart of all starts those, too, that had ended normally or were terminated", async () => {
    const { troupe, supervisor } = await stage((troupe) => troupe.specs("abc", { restart: "transient" }), {
      strategy: "one_for_all",
    });
    troupe.the("a").return();
    await quiet();
    await supervisor.terminateChild("b");
    expect(states(supervisor)).toBe("a stopped, b stopped, c running");
    troupe.told();
    troupe.the("c").crash();
    await quiet();
    expect(troupe.told()).toBe("-c +a +b +c");
  });

  test("what fails to start among several is one more restart, of all or of the rest", async () => {
    for (const [strategy, after] of [
      ["one_for_all", "-a ?c -c ?b -b +a !b ?a -a +a +b +c"],
      ["rest_for_one", "-a ?c -c ?b -b +a !b +b +c"],
    ] as const) {
      const { troupe, events } = await stage((troupe) => troupe.specs("abc"), { strategy, ...PLENTY });
      troupe.told();
      troupe.failing.set("b", 1);
      troupe.the("a").crash();
      await quiet();
      expect(troupe.told()).toBe(after);
      expect(events.filter(({ kind }) => kind === "restarting")).toHaveLength(2);
    }
  });
});

describe("restart", () => {
  const outcomes = async (restart: Restart, exit: unknown) => {
    const { troupe, supervisor } = await stage((troupe) => troupe.specs("a", { restart }), PLENTY);
    troupe.the("a").end(exit as never);
    await quiet();
    return states(supervisor);
  };

  test("permanent: always; transient: unless all was well; temporary: never, and forgotten", async () => {
    const [well, asked, code, crash] = [
      { reason: "returned", code: 0 },
      { reason: "host gone" },
      { reason: "returned", code: 3 },
      { reason: "signal", signal: "SIGSEGV" },
    ];
    const killed = { reason: "killed", by: "kill" };
    const limit = { reason: "limit", limit: "memory" };
    for (const exit of [well, asked, code, crash, killed, limit]) {
      expect(await outcomes("permanent", exit)).toBe("a running");
      expect(await outcomes("temporary", exit)).toBe("");
    }
    for (const exit of [well, asked, { reason: "shutdown", because: "reached intensity" }])
      expect(await outcomes("transient", exit)).toBe("a stopped");
    for (const exit of [code, crash, killed, limit]) expect(await outcomes("transient", exit)).toBe("a running");
  });

  test("exit codes, rejections and silence count as ends", async () => {
    const outcome = async (exited: () => Promise<unknown>, more: object = {}) => {
      const { supervisor, events } = await stage(() => [
        { id: "a", restart: "temporary", start: async () => ({ exited: exited(), kill() {}, ...more }) },
      ]);
      await quiet();
      expect(states(supervisor)).toBe("");
      return events.find(({ kind }) => kind === "ended");
    };
    expect(await outcome(async () => 0)).toMatchObject({ exit: { reason: "returned", code: 0 }, asked: false });
    expect(await outcome(async () => 137, { signalCode: "SIGKILL" })).toMatchObject({
      exit: { reason: "signal", signal: "SIGKILL" },
    });
    expect(
      await outcome(async () => 137, { signalCode: "SIGKILL", exit: { reason: "limit", limit: "memory" } }),
    ).toMatchObject({
      exit: { reason: "limit" },
    });
    expect(await outcome(() => Promise.reject(new Error("lost")))).toMatchObject({
      exit: { reason: "threw", error: { message: "lost" } },
    });
    expect(await outcome(async () => undefined)).toMatchObject({ exit: { reason: "unknown" } });
  });

  test("what is no child did not start, and `ignore` is none", async () => {
    const strange = { id: "x", start: async () => 5 as never };
    expect((await refusal(supervise({ children: [strange] }))).message).toContain("Cannot supervise 5");
    const { supervisor } = await stage(() => [
      { id: "x", start: async () => "ignore" },
      { id: "t", start: async () => "ignore", restart: "temporary" },
    ]);
    expect(states(supervisor)).toBe("x stopped");
  });
});

describe("intensity", () => {
  test("one restart too many within the period ends all, and the supervisor", async () => {
    const { troupe, clock, supervisor, events } = await stage((troupe) => troupe.specs("ab"), {
      intensity: 2,
      period: "10 s",
    });
    for (const _ of [1, 2]) {
      troupe.the("a").crash();
      await clock.advance(3000);
    }
    troupe.told();
    troupe.the("a").crash();
    expect(await supervisor.exited).toEqual({ reason: "shutdown", because: "reached intensity", child: "a" });
    expect(troupe.told()).toBe("-a ?b -b");
    await quiet();
    expect(events.map(({ kind }) => kind).slice(-4)).toEqual(["ended", "gave up", "ended", "shutdown"]);
  });

  test("what is older than the period does not count", async () => {
    const { troupe, clock, supervisor } = await stage((troupe) => troupe.specs("a"), { intensity: 1, period: "10 s" });
    for (const _ of [1, 2, 3, 4]) {
      troupe.the("a").crash();
      await clock.advance(10_001);
      expect(states(supervisor)).toBe("a running");
    }
    troupe.the("a").crash();
    await clock.advance(9000);
    troupe.the("a").crash();
    await quiet();
    expect(await supervisor.exited).toMatchObject({ because: "reached intensity" });
  });

  test("0 lets nothing be restarted", async () => {
    const { troupe, supervisor } = await stage((troupe) => troupe.specs("a"), { intensity: 0 });
    troupe.the("a").crash();
    expect(await supervisor.exited).toMatchObject({ because: "reached intensity" });
    expect(troupe.told()).toBe("+a -a");
  });

  test.each([1, 3, 10, 30])(
    "%d is reached by a child that only fails, with the back-off that is the usual one",
    async (intensity) => {
      const { troupe, clock, supervisor } = await stage((troupe) => troupe.specs("a"), { intensity });
      troupe.failing.set("a", Number.POSITIVE_INFINITY);
      troupe.told();
      troupe.the("a").crash();
      await clock.advance(5000);
      expect(await supervisor.exited).toMatchObject({ because: "reached intensity" });
      expect(troupe.told()).toBe(["-a", ...Array(intensity).fill("!a")].join(" "));
    },
  );
});

describe("backoff", () => {
  test("the first restart is at once, then it waits twice as long each time, and no longer than said", async () => {
    const { troupe, clock, events } = await stage((troupe) => troupe.specs("a"), {
      ...PLENTY,
      backoff: { first: "100 ms", most: "1 s" },
    });
    for (const _ of Array(7)) {
      troupe.the("a").crash();
      await clock.advance(1000);
    }
    const delays = events.flatMap((event) => (event.kind === "restarting" ? [event.delayMs] : []));
    expect(delays).toEqual([0, 100, 200, 400, 800, 1000, 1000]);
  });

  test("a life as long as the period makes the next failure the first, and a failed start is no life", async () => {
    const { troupe, clock, events } = await stage((troupe) => troupe.specs("a"), PLENTY);
    troupe.the("a").crash();
    await quiet();
    await clock.advance(5000);
    troupe.failing.set("a", 2);
    troupe.the("a").crash();
    await clock.advance(300);
    const delays = events.flatMap((event) => (event.kind === "restarting" ? [event.delayMs] : []));
    expect(delays).toEqual([0, 0, 100, 100]);
  });

  test("a life of less than a second is none, however short the period is", async () => {
    const { troupe, clock, supervisor, events } = await stage((troupe) => troupe.specs("a"), { period: "10 ms" });
    for (const _ of Array(3)) {
      await clock.advance(500);
      troupe.the("a").crash();
      await quiet();
    }
    const delays = events.flatMap((event) => (event.kind === "restarting" ? [event.delayMs] : []));
    expect(delays).toEqual([0, 100, 100]);
    await clock.advance(100);
    expect(supervisor.children()[0]!.restarts).toBe(3);
  });

  test("nothing waits when the supervisor ends while those are ended that a restart concerns", async () => {
    const { troupe, clock, supervisor } = await stage(
      (troupe) => {
        troupe.stubborn.add("b");
        return troupe.specs("ab", { shutdown: "1 s" });
      },
      { strategy: "one_for_all", ...PLENTY },
    );
    for (const ms of [1000, 500]) {
      troupe.the("a").crash();
      await clock.advance(ms);
    }
    supervisor.disconnect();
    await clock.advance(500);
    expect(await supervisor.exited).toEqual({ reason: "shutdown", because: "asked" });
    expect(clock.waiting).toBe(0);
    expect(troupe.living).toEqual([]);
  });

  test("what cannot start is no busy loop, however high the intensity is", async () => {
    const { troupe, clock, supervisor } = await stage((troupe) => troupe.specs("a"), {
      intensity: 1e9,
      period: "1 ms",
      backoff: { first: "10 ms" },
    });
    troupe.failing.set("a", Number.POSITIVE_INFINITY);
    troupe.told();
    troupe.the("a").crash();
    await clock.advance(1000);
    expect(troupe.told().split(" ").length).toBeLessThan(2 + 1000 / 10 + 2);
    supervisor.kill();
    await supervisor.exited;
    expect(clock.waiting).toBe(0);
  });

  test("the supervisor goes on meanwhile: children are terminated, others restarted, and it ends at once", async () => {
    const { troupe, clock, supervisor } = await stage((troupe) => troupe.specs("ab"), PLENTY);
    troupe.failing.set("a", 1);
    troupe.the("a").crash();
    await quiet();
    expect(states(supervisor)).toBe("a restarting, b running");
    troupe.the("b").crash();
    await quiet();
    expect(states(supervisor)).toBe("a restarting, b running");
    expect((await refusal(supervisor.restartChild("a"))).message).toContain("it is restarting");
    await supervisor.terminateChild("a");
    expect(states(supervisor)).toBe("a stopped, b running");
    troupe.told();
    await clock.advance(60_000);
    expect(troupe.told()).toBe("");
    troupe.failing.set("b", 1);
    troupe.the("b").crash();
    await quiet();
    await supervisor.shutdown();
    expect(clock.waiting).toBe(0);
    expect(troupe.living).toEqual([]);
  });

  test("of several that wait, one that is terminated meanwhile is left out", async () => {
    const { troupe, clock, supervisor } = await stage((troupe) => troupe.specs("abc"), {
      strategy: "one_for_all",
      ...PLENTY,
    });
    troupe.the("b").crash();
    await quiet();
    troupe.the("b").crash();
    await quiet();
    expect(states(supervisor)).toBe("a restarting, b restarting, c restarting");
    await supervisor.terminateChild("b");
    await clock.advance(1000);
    expect(states(supervisor)).toBe("a running, b stopped, c running");
  });
});

describe("shutdown", () => {
  test("asks, and kills when the time is over", async () => {
    const { troupe, clock, supervisor } = await stage((troupe) => {
      troupe.stubborn.add("a").add("b");
      return [troupe.spec("a"), troupe.spec("b", { shutdown: "2 s" })];
    });
    troupe.told();
    const ended = supervisor.shutdown();
    await clock.advance(1999);
    expect(troupe.told()).toBe("?b");
    await clock.advance(1);
    expect(troupe.told()).toBe("-b ?a");
    await clock.advance(4999);
    expect(troupe.told()).toBe("");
    await clock.advance(1);
    await ended;
    expect(troupe.told()).toBe("-a");
  });

  test("brutal_kill does not ask, and infinity waits until kill() has no patience any more", async () => {
    const { troupe, clock, supervisor, events } = await stage((troupe) => {
      troupe.stubborn.add("a").add("b");
      return [troupe.spec("a", { shutdown: "infinity" }), troupe.spec("b", { shutdown: "brutal_kill" })];
    });
    troupe.told();
    const ended = supervisor.shutdown();
    await clock.advance(24 * 3600 * 1000);
    expect(troupe.told()).toBe("-b ?a");
    supervisor.kill();
    expect(await ended).toEqual({ reason: "killed", by: "kill" });
    expect(troupe.told()).toBe("-a");
    await quiet();
    expect(events.at(-2)).toEqual({
      kind: "ended",
      id: "a",
      exit: { reason: "killed", by: "supervisor" } as never,
      asked: true,
    });
  });

  test("a supervisor has all the time that it takes, where nothing is said, and a worker 5 s", async () => {
    const { troupe, clock, supervisor } = await stage((troupe) => {
      troupe.stubborn.add("tree").add("leaf");
      return [troupe.spec("tree", { type: "supervisor" }), troupe.spec("leaf")];
    });
    troupe.told();
    const ended = supervisor.shutdown();
    await clock.advance(5000);
    expect(troupe.told()).toBe("?leaf -leaf ?tree");
    await clock.advance(24 * 3600 * 1000);
    expect(troupe.told()).toBe("");
    supervisor.kill();
    await ended;
  });

  test("what cannot be asked is killed, and so is what throws when it is", async () => {
    let killed = 0;
    const { supervisor } = await stage(() =>
      [{}, { disconnect: () => assertNever() }].map((more, index) => {
        const { promise, resolve } = Promise.withResolvers<number>();
        const kill = () => {
          killed++;
          resolve(9);
        };
        return { id: `${index}`, start: async () => ({ exited: promise, kill, ...more }) };
      }),
    );
    await supervisor.shutdown();
    expect(killed).toBe(2);
  });

  test("one that ended by itself before it was asked is not said to have been", async () => {
    const { troupe, supervisor, events } = await stage((troupe) => troupe.specs("ab"), PLENTY);
    troupe.the("a").crash();
    const ended = supervisor.shutdown();
    await ended;
    await quiet();
    expect(events.filter(({ kind }) => kind === "ended")).toMatchObject([
      { id: "b", asked: true },
      { id: "a", asked: false, exit: { reason: "signal" } },
    ]);
    expect(troupe.told()).not.toContain("?a");
  });

  test("await using ends all in order", async () => {
    const troupe = new Troupe();
    {
      await using supervisor = await startSupervisor({ children: troupe.specs("ab") }, new HandClock());
      expect(supervisor.children()).toHaveLength(2);
    }
    expect(troupe.told()).toBe("+a +b ?b -b ?a -a");
  });

  test("nothing can be started any more, and nothing is started again", async () => {
    const { troupe, supervisor } = await stage((troupe) => troupe.specs("ab"), PLENTY);
    troupe.the("a").crash();
    supervisor.disconnect();
    await supervisor.exited;
    expect(troupe.living).toEqual([]);
    for (const act of [
      () => supervisor.startChild(troupe.spec("c")),
      () => supervisor.terminateChild("a"),
      () => supervisor.restartChild("a"),
      () => supervisor.deleteChild("a"),
    ])
      expect((await refusal(act())).message).toContain("the supervisor has ended");
  });
});

function assertNever(): never {
  throw new Error("It cannot be asked");
}

describe("a child whose kill() throws", () => {
  const reason = new Error("It cannot be killed");
  const throws = (): never => {
    throw reason;
  };
  /** Of three, the one between: it throws at once, or by a promise. */
  const among = (options: Omit<SupervisorOptions, "children"> = {}, kill: () => never | Promise<never> = throws) =>
    stage(
      (troupe) => {
        troupe.stubborn.add("b");
        troupe.immortal.set("b", kill);
        return troupe.specs("abc", { shutdown: "1 s" });
      },
      { ...PLENTY, ...options },
    );

  test.each([
    ["throws", throws],
    ["rejects", () => Promise.reject(reason)],
  ])("is told of, and given up after 5 s; its neighbours are ended, and so is the supervisor: %s", async (_, kill) => {
    const { troupe, clock, supervisor, events } = await among({}, kill);
    troupe.told();
    const ended = supervisor.shutdown();
    await clock.advance(1000);
    expect(events.at(-1)).toEqual({ kind: "not killed", id: "b", error: reason });
    await clock.advance(4999);
    expect(troupe.told()).toBe("?c -c ?b");
    await clock.advance(1);
    expect(await ended).toEqual({ reason: "shutdown", because: "asked" });
    await quiet();
    expect(troupe.told()).toBe("?a -a");
    expect(events.slice(-2)).toMatchObject([{ kind: "ended", id: "a" }, { kind: "shutdown" }]);
    expect(clock.waiting).toBe(0);
  });

  test("kill() does not throw, and kills those behind it at once", async () => {
    const { troupe, clock, supervisor, events } = await among();
    troupe.told();
    supervisor.kill();
    expect(troupe.told()).toBe("-a -c");
    await clock.advance(5000);
    expect(await supervisor.exited).toEqual({ reason: "killed", by: "kill" });
    await quiet();
    expect(events.filter(({ kind }) => kind === "not killed")).toHaveLength(1);
  });

  test("has ended as others have, where it ends before it is given up", async () => {
    const { troupe, clock, supervisor, events } = await among();
    const ended = supervisor.shutdown();
    await clock.advance(2000);
    troupe.the("b").crash();
    await ended;
    await quiet();
    expect(events.slice(-4)).toMatchObject([
      { kind: "not killed", id: "b" },
      { kind: "ended", id: "b", exit: { reason: "signal" }, asked: true },
      { kind: "ended", id: "a" },
      { kind: "shutdown" },
    ]);
    expect(clock.waiting).toBe(0);
  });

  test("keeps the others from no restart, and is not taken for the new one of its id", async () => {
    const { troupe, clock, supervisor } = await among({ strategy: "rest_for_one" });
    const b = troupe.the("b");
    troupe.told();
    troupe.the("a").crash();
    await clock.advance(6050);
    // There cannot be two of it, as with those that find their port taken.
    expect(troupe.told()).toBe("-a ?c -c ?b +a");
    expect(states(supervisor)).toBe("a running, b restarting, c restarting");
    b.return();
    await clock.advance(1000);
    expect(troupe.told()).toBe("-b +b +c");
    expect(states(supervisor)).toBe("a running, b running, c running");
  });

  test("has terminateChild() reject with what it threw; it runs for the supervisor no more", async () => {
    const { clock, supervisor } = await among();
    const terminated = failure(supervisor.terminateChild("b"));
    await clock.advance(6000);
    const error = (await terminated) as Error;
    expect(error.message).toBe("Cannot terminate child b: its kill() threw, and it lives on");
    expect(error.cause).toBe(reason);
    expect(states(supervisor)).toBe("a running, b stopped, c running");
    await supervisor.deleteChild("b");
    await supervisor.shutdown();
  });
});

describe("autoShutdown", () => {
  const significant = (restart: "transient" | "temporary") => ({ restart, significant: true }) as const;

  test("any_significant: the first that is gone for good ends the supervisor", async () => {
    const { troupe, supervisor } = await stage(
      (troupe) => [troupe.spec("a"), ...troupe.specs("bc", significant("transient"))],
      { autoShutdown: "any_significant", ...PLENTY },
    );
    troupe.the("a").return();
    troupe.the("b").crash();
    await quiet();
    expect(states(supervisor)).toBe("a running, b running, c running");
    troupe.the("c").return();
    expect(await supervisor.exited).toEqual({ reason: "shutdown", because: "significant", child: "c" });
  });

  test("all_significant: the last one does; one that was terminated does not, but is gone", async () => {
    const { troupe, supervisor } = await stage(
      (troupe) => [troupe.spec("a"), ...troupe.specs("bcd", significant("temporary"))],
      { autoShutdown: "all_significant" },
    );
    troupe.the("b").crash();
    await supervisor.terminateChild("c");
    await quiet();
    expect(states(supervisor)).toBe("a running, d running");
    troupe.the("d").crash();
    expect(await supervisor.exited).toEqual({ reason: "shutdown", because: "significant", child: "d" });
    expect(troupe.living).toEqual([]);
  });
});

describe("children that come and go", () => {
  test("startChild adds one behind the others; what does not start never was", async () => {
    const { troupe, supervisor } = await stage((troupe) => troupe.specs("a"));
    const started = await supervisor.startChild(troupe.spec("b"));
    expect(started).toBe(troupe.the("b"));
    expect(supervisor.child("b")).toBe(started as Child);
    troupe.failing.set("c", 1);
    expect(await refusal(supervisor.startChild(troupe.spec("c")))).toBeInstanceOf(ChildNotStarted);
    expect((await refusal(supervisor.startChild(troupe.spec("a")))).message).toContain("there is one already");
    expect(states(supervisor)).toBe("a running, b running");
    troupe.told();
    await supervisor.shutdown();
    expect(troupe.told()).toBe("?b -b ?a -a");
  });

  test("terminateChild, restartChild, deleteChild", async () => {
    const { troupe, supervisor } = await stage((troupe) => [
      ...troupe.specs("ab"),
      troupe.spec("t", { restart: "temporary" }),
    ]);
    await supervisor.terminateChild("a");
    await supervisor.terminateChild("a");
    await supervisor.terminateChild("t");
    expect(states(supervisor)).toBe("a stopped, b running");
    troupe.failing.set("a", 1);
    expect(await refusal(supervisor.restartChild("a"))).toBeInstanceOf(ChildNotStarted);
    expect(states(supervisor)).toBe("a stopped, b running");
    expect(await supervisor.restartChild("a")).toBe(troupe.the("a"));
    expect((await refusal(supervisor.restartChild("a"))).message).toContain("it is running");
    expect((await refusal(supervisor.deleteChild("a"))).message).toContain("it is running");
    await supervisor.terminateChild("a");
    await supervisor.deleteChild("a");
    for (const act of [
      () => supervisor.deleteChild("a"),
      () => supervisor.terminateChild("t"),
      () => supervisor.restartChild("x"),
    ])
      expect(await refusal(act())).toBeInstanceOf(RangeError);
    expect(states(supervisor)).toBe("b running");
  });
});

describe("trees", () => {
  /** A supervisor of one, whose second child is a supervisor of two. */
  const tree = (inner: Omit<SupervisorOptions, "children"> = {}, spec: Omit<ChildSpec, "id" | "start"> = {}) => {
    const nested = new HandClock();
    const subtree = (troupe: Troupe): ChildSpec => ({
      id: "tree",
      type: "supervisor",
      start: () => startSupervisor({ ...inner, children: troupe.specs("xy") }, nested),
      ...spec,
    });
    return stage((troupe) => [troupe.spec("a"), subtree(troupe), troupe.spec("b")], PLENTY);
  };

  test("are ended from the leaves, in order", async () => {
    const { troupe, supervisor } = await tree();
    expect(troupe.told()).toBe("+a +x +y +b");
    await supervisor.shutdown();
    expect(troupe.told()).toBe("?b -b ?y -y ?x -x ?a -a");
  });

  test("a supervisor that gives up is started again by the one above", async () => {
    const { troupe, supervisor, events } = await tree({ intensity: 0 });
    troupe.told();
    troupe.the("x").crash();
    await quiet();
    expect(troupe.told()).toBe("-x ?y -y +x +y");
    expect(states(supervisor)).toBe("a running, tree running, b running");
    expect(events.find(({ kind }) => kind === "ended")).toMatchObject({
      id: "tree",
      exit: { reason: "shutdown", because: "reached intensity", child: "x" },
    });
  });

  test("one that is transient is not: it ended as OTP's does, with shutdown", async () => {
    const { troupe, supervisor } = await tree({ intensity: 0 }, { restart: "transient" });
    troupe.the("x").crash();
    await quiet();
    expect(states(supervisor)).toBe("a running, tree stopped, b running");
  });

  test("kill() ends all leaves at once", async () => {
    const { troupe, supervisor } = await tree();
    for (const id of "abxy") troupe.stubborn.add(id);
    troupe.told();
    supervisor.kill();
    expect(await supervisor.exited).toEqual({ reason: "killed", by: "kill" });
    expect(troupe.living).toEqual([]);
    expect(troupe.told()).not.toContain("?");
  });
});

describe("events", () => {
  test("tell what happened, in order, and end with the supervisor", async () => {
    const { troupe, clock, supervisor, events } = await stage((troupe) => troupe.specs("a"), PLENTY);
    troupe.failing.set("a", 1);
    troupe.the("a").crash();
    await clock.advance(1000);
    await supervisor.shutdown();
    await quiet();
    expect(events.map((event) => ({ ...event, child: undefined, error: undefined }) as object)).toMatchObject([
      { kind: "started", id: "a" },
      { kind: "ended", id: "a", exit: { reason: "signal", signal: "SIGSEGV" }, asked: false },
      { kind: "restarting", id: "a", children: ["a"], delayMs: 0 },
      { kind: "failed", id: "a" },
      { kind: "restarting", id: "a", children: ["a"], delayMs: 100 },
      { kind: "started", id: "a" },
      { kind: "ended", id: "a", exit: { reason: "host gone" }, asked: true },
      { kind: "shutdown", exit: { reason: "shutdown", because: "asked" } },
    ]);
    expect(await supervisor.events[Symbol.asyncIterator]().next()).toEqual({ done: true, value: undefined });
  });

  test("a second reader gets what comes from then on, and who does not read keeps no more than 256", async () => {
    const { troupe, supervisor } = await stage((troupe) => troupe.specs("a", { restart: "temporary" }));
    const late = supervisor.events[Symbol.asyncIterator]();
    for (let count = 0; count < 300; count++) {
      await supervisor.startChild(troupe.spec(`${count}`, { restart: "temporary" }));
      troupe.the(`${count}`).return();
    }
    await supervisor.shutdown();
    let read = 0;
    while (!(await late.next()).done) read++;
    expect(read).toBe(256);
  });
});
