/** Families of processes, which take long to look at: they delay nobody but themselves. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { exec } from "../../src/index.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { until } from "./arena.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const EVERY_MS = 10;
/** So often it is measured, of which the median counts: a machine that holds this process up for a while spoils one or two. */
const TIMES = 7;
/** What part of the timers is to go off while it looks: half do, and below a sixth where it looks at all in one go. Other work of the machine takes some. */
const SHARE = 1 / 5;

/** How often a timer goes off in a millisecond while a program runs that has so many children, who share what it holds. */
async function ticks(children: number, mib: number, limits: SandboxLimits): Promise<number> {
  const script = `$held = "x" x (${mib} << 20); for (1..${children}) { if (!fork) { sleep 1000; exit } } sleep 1000`;
  await using family = await exec(["perl", "-e", script], {
    sandbox: { limits: { processes: children + 8, ...limits } },
    stdout: "ignore",
    stderr: "ignore",
  });
  await until(() => family.usage().processes > children);
  const rates: number[] = [];
  while (rates.length < TIMES) {
    let count = 0;
    const began = performance.now();
    const timer = setInterval(() => count++, EVERY_MS);
    await Bun.sleep(30 * EVERY_MS);
    clearInterval(timer);
    rates.push(count / (performance.now() - began));
  }
  expect(family.exit).toBeUndefined();
  return rates.toSorted((a, b) => a - b)[(TIMES - 1) / 2]!;
}

describe("timers of the host are on time while it looks at", () => {
  test("a family that shares memory, and together seems to have more than it may", async () => {
    const looked = await ticks(60, 100, { memory: "512 MiB" });
    const control = await ticks(60, 100, { memory: "16 GiB" });
    expect(looked).toBeGreaterThan(control * SHARE);
  });

  test("many children, whose time nobody has when they are gone", async () => {
    const looked = await ticks(400, 1, { memory: "16 GiB", cpuTime: "1000 s" });
    const control = await ticks(400, 1, { memory: "16 GiB" });
    expect(looked).toBeGreaterThan(control * SHARE);
  });
});
