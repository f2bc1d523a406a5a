// Supervisors under random crashes, failed starts and requests: what holds whatever happens.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Child } from "../../src/child.ts";
import type { ChildSpec } from "../../src/childspec.ts";
import { concerned, type Strategy } from "../../src/strategy.ts";
import type { SupervisorEvent } from "../../src/supervision.ts";
import { startSupervisor } from "../../src/supervisor.ts";
import { HandClock, Troupe } from "./troupe.ts";

const IDS = ["a", "b", "c", "d", "e"] as const;
const anId = fc.constantFrom(...IDS);
const strategy = fc.constantFrom<Strategy>("one_for_one", "one_for_all", "rest_for_one");
const aSpec = fc.record({
  restart: fc.constantFrom("permanent", "transient", "temporary"),
  shutdown: fc.constantFrom("brutal_kill", "infinity", "1 s"),
  stubborn: fc.boolean(),
});

/** What happens to one child, or to all of them. */
const anAct = fc.oneof(
  { weight: 6, arbitrary: fc.record({ act: fc.constantFrom("crash", "return", "kill"), id: anId }) },
  { weight: 3, arbitrary: fc.record({ act: fc.constant("fail"), id: anId, times: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 4, arbitrary: fc.record({ act: fc.constant("wait"), ms: fc.integer({ min: 1, max: 3000 }) }) },
  {
    weight: 3,
    arbitrary: fc.record({ act: fc.constantFrom("terminate", "restart", "delete", "start"), id: anId }),
  },
);
type Act = { readonly act: string; readonly id?: string; readonly times?: number; readonly ms?: number };

const PERIOD_MS = 5000;

interface Scene {
  readonly troupe: Troupe;
  readonly clock: HandClock;
  readonly supervisor: Awaited<ReturnType<typeof startSupervisor<Record<string, Child>>>>;
  readonly spec: (id: string) => ChildSpec;
  /** What was told, and when. */
  readonly told: readonly { readonly at: number; readonly event: SupervisorEvent }[];
}

type Kinds = readonly { readonly restart: string; readonly shutdown: string; readonly stubborn: boolean }[];

async function scene(strategy: Strategy, kinds: Kinds, intensity: number): Promise<Scene> {
  const troupe = new Troupe();
  const clock = new HandClock();
  const spec = (id: string): ChildSpec => {
    const { stubborn, ...kind } = kinds[IDS.indexOf(id as "a") % kinds.length]!;
    // What does not obey is given a time: it would be waited for without end.
    const shutdown = stubborn && kind.shutdown === "infinity" ? "2 s" : kind.shutdown;
    if (stubborn) troupe.stubborn.add(id);
    return troupe.spec(id, { ...kind, shutdown } as Omit<ChildSpec, "id" | "start">);
  };
  const children = IDS.slice(0, kinds.length).map(spec);
  const supervisor = await startSupervisor<Record<string, Child>>(
    { strategy, intensity, period: "5 s", children },
    clock,
  );
  const told: { at: number; event: SupervisorEvent }[] = [];
  void (async () => {
    for await (const event of supervisor.events) told.push({ at: clock.now(), event });
  })();
  return { troupe, clock, supervisor, spec, told };
}

async function play({ troupe, clock, supervisor, spec }: Scene, { act, id = "a", times = 0, ms = 0 }: Act) {
  const player = troupe.living.find((each) => each.id === id);
  const ask = {
    crash: () => player?.crash(),
    return: () => player?.return(),
    kill: () => player?.kill(),
    fail: () => troupe.failing.set(id, times),
    wait: () => {},
    terminate: () => supervisor.terminateChild(id),
    restart: () => supervisor.restartChild(id),
    delete: () => supervisor.deleteChild(id),
    start: () => supervisor.startChild(spec(id)),
  }[act as "crash"];
  const done = Promise.resolve(ask()).catch(() => {}); // refused, or it did not start
  // No shutdown takes longer.
  await clock.advance(act === "wait" ? ms : 0);
  return done;
}

/** What holds at any time. Two that live with one id the troupe itself refuses. */
function check({ troupe, supervisor, told }: Scene, intensity: number): void {
  for (const { child, state } of supervisor.children()) expect(state === "running").toBe(child !== undefined);
  const restarts = told.filter(({ event }) => event.kind === "restarting").map(({ at }) => at);
  for (const end of restarts)
    expect(restarts.filter((at) => at <= end && at >= end - PERIOD_MS).length).toBeLessThanOrEqual(intensity);
  for (const { event } of told) if (event.kind === "failed") expect(String(event.error)).not.toContain("There are two");
  expect(troupe.log.length).toBeLessThan(100_000);
}

/** Lets what goes on come to its end. */
async function rest({ clock }: Scene): Promise<void> {
  await clock.advance(60_000);
}

describe("startSupervisor", () => {
  test("whatever happens: one of an id lives, intensity is kept, and in the end nothing is left", async () => {
    const property = fc.asyncProperty(
      strategy,
      fc.array(aSpec, { minLength: 1, maxLength: IDS.length }),
      fc.integer({ min: 0, max: 6 }),
      fc.array(anAct, { maxLength: 25 }),
      fc.constantFrom("shutdown", "kill"),
      async (strategy, kinds, intensity, acts, end) => {
        const stage = await scene(strategy, kinds, intensity);
        const pending = [];
        for (const act of acts) {
          pending.push(play(stage, act));
          await stage.clock.advance(0);
          check(stage, intensity);
        }
        await rest(stage);
        await Promise.all(pending);
        check(stage, intensity);
        for (const { restart, state } of stage.supervisor.children())
          if (restart === "temporary") expect(state).toBe("running");
        stage.supervisor[end]();
        await rest(stage);
        expect(["shutdown", "killed"]).toContain((await stage.supervisor.exited).reason);
        expect(stage.troupe.living).toEqual([]);
        expect(stage.clock.waiting).toBe(0);
        expect(stage.told.at(-1)?.event.kind).toBe("shutdown");
        const starts = stage.told.filter(({ event }) => event.kind === "started").length;
        expect(stage.told.filter(({ event }) => event.kind === "ended").length).toBe(starts);
      },
    );
    await fc.assert(property, { numRuns: 300 });
  });

  test("after any crashes, each group lives in the order of its starts", async () => {
    const crashes = fc.array(
      fc.oneof(
        fc.record({ act: fc.constant("crash"), id: anId }),
        fc.record({ act: fc.constant("fail"), id: anId, times: fc.integer({ min: 1, max: 2 }) }),
        fc.record({ act: fc.constant("wait"), ms: fc.integer({ min: 1, max: 500 }) }),
      ),
      { maxLength: 15 },
    );
    const property = fc.asyncProperty(strategy, crashes, async (strategy, acts) => {
      const kinds = IDS.map(() => ({ restart: "permanent", shutdown: "1 s", stubborn: false }));
      const stage = await scene(strategy, kinds, 1000);
      for (const act of acts) await play(stage, act);
      await rest(stage);
      expect(stage.supervisor.children().map(({ id, state }) => `${id} ${state}`)).toEqual(
        IDS.map((id) => `${id} running`),
      );
      const order = stage.troupe.living.map(({ id }) => id);
      if (strategy !== "one_for_one") expect(order).toEqual([...IDS]);
      else expect(order.toSorted()).toEqual([...IDS]);
      // Those that a restart concerns end before one of them starts, in the opposite order.
      for (const { event } of stage.told)
        if (event.kind === "restarting")
          expect(event.children).toEqual(concerned(strategy, IDS, event.id as (typeof IDS)[number]));
      stage.supervisor.kill();
      await stage.supervisor.exited;
    });
    await fc.assert(property, { numRuns: 300 });
  });
});
