// Metrics as the real SDK collects and exports them.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  AggregationTemporality,
  type DataPoint,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import { Denials } from "../../src/denials.ts";
import { meterMetrics } from "../../src/metrics.ts";
import { Made, NOTHING, strangers } from "./member.ts";

let exporter: InMemoryMetricExporter;
let provider: MeterProvider;
/** Names that other test files left alive. */
let foreign: Set<string>;
beforeEach(async () => {
  foreign = new Set((await strangers()).map(({ name }) => name));
  exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  const readers = [new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 })];
  provider = new MeterProvider({ readers });
});
afterEach(() => provider.shutdown());

const meter = () => provider.getMeter("caisson");

/** What is exported now: the points of each metric. */
async function collected(): Promise<Map<string, { unit: string; points: DataPoint<unknown>[] }>> {
  exporter.reset();
  await provider.forceFlush();
  const metrics = exporter.getMetrics().flatMap(({ scopeMetrics }) => scopeMetrics.flatMap((scope) => scope.metrics));
  return new Map(
    metrics.map(({ descriptor, dataPoints }) => [
      descriptor.name,
      { unit: descriptor.unit, points: dataPoints as DataPoint<unknown>[] },
    ]),
  );
}

/** The values of one metric by what its attributes say, without their names. */
async function values(name: string): Promise<Record<string, unknown>> {
  const all = (await collected()).get(name)?.points ?? [];
  const points = all.filter(({ attributes }) => !foreign.has(String(attributes["caisson.actor.name"])));
  return Object.fromEntries(points.map(({ attributes, value }) => [Object.values(attributes).join(" "), value]));
}

const usage = (more: Partial<typeof NOTHING>) => ({ usage: { ...NOTHING, ...more } });

describe("meterMetrics()", () => {
  test("tells of each metric, with its unit", async () => {
    using _ = meterMetrics(meter());
    using one = new Made(
      "parse",
      usage({ userMs: 1500, systemMs: 500, memoryBytes: 4096, messagesIn: 3, messagesOut: 4 }),
    );
    one.now = { ...one.now, callsPending: 2, denials: 5 };
    new Made("judge").leave({ reason: "limit", limit: "wallTime" });
    const metrics = await collected();
    expect(Object.fromEntries(Array.from(metrics, ([name, { unit }]) => [name, unit]))).toEqual({
      "caisson.actors": "{actor}",
      "caisson.actor.cpu.time": "s",
      "caisson.actor.memory.usage": "By",
      "caisson.actor.messages": "{message}",
      "caisson.actor.calls.pending": "{call}",
      "caisson.denials": "{denial}",
      "caisson.actor.exits": "{exit}",
    });
    const of = (name: string) =>
      metrics
        .get(name)!
        .points.filter(({ attributes }) => attributes["caisson.actor.name"] === "parse")
        .map(({ attributes, value }) => [attributes, value]);
    const who = { "caisson.actor.kind": "actor", "caisson.actor.name": "parse" };
    expect(of("caisson.actors")).toEqual([[{ ...who, "caisson.actor.state": "running" }, 1]]);
    expect(of("caisson.actor.cpu.time")).toEqual([
      [{ ...who, "cpu.mode": "user" }, 1.5],
      [{ ...who, "cpu.mode": "system" }, 0.5],
    ]);
    expect(of("caisson.actor.memory.usage")).toEqual([[who, 4096]]);
    expect(of("caisson.actor.messages")).toEqual([
      [{ ...who, "caisson.direction": "in" }, 3],
      [{ ...who, "caisson.direction": "out" }, 4],
    ]);
    expect(of("caisson.actor.calls.pending")).toEqual([[who, 2]]);
    expect(of("caisson.denials")).toEqual([[who, 5]]);
  });

  test("adds up those of one name and kind", async () => {
    using _ = meterMetrics(meter());
    using _one = new Made("a", usage({ memoryBytes: 1 }));
    using _two = new Made("a", usage({ memoryBytes: 10 }));
    using _other = new Made("a", { kind: "program", ...usage({ memoryBytes: 100 }) });
    expect(await values("caisson.actor.memory.usage")).toEqual({ "actor a": 11, "program a": 100 });
    expect(await values("caisson.actors")).toEqual({ "actor a running": 2, "program a running": 1 });
  });

  test("keeps in its sums those that ended, and no others in what is now", async () => {
    using _ = meterMetrics(meter());
    using _one = new Made("a", { denials: 1, ...usage({ memoryBytes: 1, userMs: 1000 }) });
    const two = new Made("a", { denials: 10, ...usage({ memoryBytes: 10, userMs: 2000 }) });
    expect(await values("caisson.denials")).toEqual({ "actor a": 11 });
    two.leave({ reason: "returned", code: 0 });
    expect(await values("caisson.denials")).toEqual({ "actor a": 11 });
    expect(await values("caisson.actor.cpu.time")).toEqual({ "actor a user": 3, "actor a system": 0 });
    expect(await values("caisson.actor.memory.usage")).toEqual({ "actor a": 1 });
  });

  test("says that there are none of what there was", async () => {
    using _ = meterMetrics(meter());
    const one = new Made("a", { callsPending: 1, ...usage({ memoryBytes: 1 }) });
    await collected();
    one.now = { ...one.now, state: "ending" };
    expect(await values("caisson.actors")).toEqual({ "actor a running": 0, "actor a ending": 1 });
    one.leave();
    expect(await values("caisson.actors")).toEqual({ "actor a running": 0, "actor a ending": 0 });
    expect(await values("caisson.actor.memory.usage")).toEqual({ "actor a": 0 });
    expect(await values("caisson.actor.calls.pending")).toEqual({ "actor a": 0 });
  });

  test("tells what one in a reserve used when somebody has taken it, and not before", async () => {
    using _ = meterMetrics(meter());
    using one = new Made("kept", { state: "parked", ...usage({ userMs: 1000, memoryBytes: 4096 }) });
    expect(await values("caisson.actor.memory.usage")).toEqual({ "actor kept": 4096 });
    expect(await values("caisson.actor.cpu.time")).toEqual({ "actor kept user": 0, "actor kept system": 0 });
    one.now = { ...one.now, state: "running" };
    expect(await values("caisson.actor.cpu.time")).toEqual({ "actor kept user": 1, "actor kept system": 0 });
  });

  test("counts one that leaves while others are looked at once", async () => {
    using _ = meterMetrics(meter());
    const first = new Made("a", { denials: 1 });
    using second = new Made("a", { denials: 10 });
    second.inspect = () => {
      first.leave();
      return second.now;
    };
    expect(await values("caisson.denials")).toEqual({ "actor a": 11 });
    expect(await values("caisson.actors")).toEqual({ "actor a running": 1 });
  });

  test("counts ends by their reason, and limits by their name", async () => {
    using _ = meterMetrics(meter());
    for (let count = 0; count < 3; count++) new Made("a").leave({ reason: "returned", code: count });
    new Made("a").leave({ reason: "limit", limit: "wallTime" });
    new Made("a").leave({ reason: "limit", limit: "cpuTime" });
    new Made("a").leave({ reason: "signal", signal: "SIGSEGV" });
    new Made("a").leave();
    expect(await values("caisson.actor.exits")).toEqual({
      "actor a returned": 3,
      "actor a limit wallTime": 1,
      "actor a limit cpuTime": 1,
      "actor a signal": 1,
      "actor a unknown": 1,
    });
  });

  test("tells of so many names and no more, and what a name was told as it stays", async () => {
    using _ = meterMetrics(meter());
    using first = new Made("first", { denials: 1 });
    await collected();
    for (let count = 0; count < 1000; count++) new Made(`name ${count}`, { denials: 1 }).leave();
    using _last = new Made("last", { denials: 1 });
    const told = await values("caisson.denials");
    expect(Object.keys(told).length).toBe(257 - foreign.size);
    expect(told["actor first"]).toBe(1);
    expect(told["actor (others)"]).toBe(1 + 1000 - (255 - foreign.size));
    first.leave();
    expect((await values("caisson.denials"))["actor first"]).toBe(1);
  });

  test("has denials counted that nobody reads, until it is disposed of; then tells nothing", async () => {
    const denials = new Denials("a");
    const metering = meterMetrics(meter());
    using one = new Made("a");
    expect(denials.wanted).toBe(true);
    expect(await values("caisson.actors")).toEqual({ "actor a running": 1 });
    const { looks } = one;
    metering[Symbol.dispose]();
    metering[Symbol.dispose]();
    expect(denials.wanted).toBe(false);
    await collected();
    expect(one.looks).toBe(looks);
  });

  test("looks at nobody but when it is read", async () => {
    using _ = meterMetrics(meter());
    using one = new Made("a");
    expect(one.looks).toBe(0);
    await collected();
    expect(one.looks).toBe(1);
  });
});
