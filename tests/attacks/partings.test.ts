/** Attacks by actors whose link the host has closed, and who do not go: what ends them is told, and not that they were let go. */
import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { fileURLToPath } from "node:url";
import { type Actor, spawn } from "../../src/index.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { until } from "./arena.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

type Parting = typeof import("./fixtures/parting.ts");
const module = fileURLToPath(new URL("./fixtures/parting.ts", import.meta.url));

/** One that is told to go, and will not. */
async function letGo(by: "staying" | "printing", limits: SandboxLimits = {}): Promise<Actor<Parting>> {
  const actor = await spawn<Parting>(module, { stdout: "pipe", sandbox: { limits } });
  await actor.call.linger(by);
  actor.disconnect();
  void new Response(actor.stdout).bytes();
  return actor;
}

const { setTimeout } = globalThis;
const LONG_MS = 1000;
/** The clocks of this process that take long: each goes off when the test says so, however long all takes here. */
let clocks: { readonly act: () => void; readonly afterMs: number }[];
beforeEach(() => {
  clocks = [];
  globalThis.setTimeout = ((act: () => void, afterMs: number) => {
    if (afterMs < LONG_MS) return setTimeout(act, afterMs);
    clocks.push({ act, afterMs });
    return setTimeout(() => {});
  }) as typeof setTimeout;
});
afterEach(() => {
  globalThis.setTimeout = setTimeout;
});

const WALL_TIME_MS = 86_400_000;

describe("an actor that was let go, and does not go,", () => {
  test("control: is ended in the end, as one that was let go", async () => {
    const before = clocks.length;
    const actor = await letGo("staying");
    const lingering = () => clocks.slice(before).find(({ afterMs }) => afterMs < 10_000);
    await until(() => lingering() !== undefined);
    lingering()!.act();
    expect(await actor.exited).toEqual({ reason: "host gone" });
  });

  test("says who killed it", async () => {
    const actor = await letGo("staying");
    actor.kill();
    expect(await actor.exited).toEqual({ reason: "killed", by: "kill" });
  });

  test("says that its wallTime is over", async () => {
    const actor = await letGo("staying", { wallTimeMs: WALL_TIME_MS });
    clocks.find(({ afterMs }) => afterMs === WALL_TIME_MS)!.act();
    expect(await actor.exited).toEqual({ reason: "limit", limit: "wallTime" });
  });

  test("says that it printed too much", async () => {
    const actor = await letGo("printing", { outputBytes: 1000 });
    expect(await actor.exited).toEqual({ reason: "limit", limit: "output" });
  });
});
