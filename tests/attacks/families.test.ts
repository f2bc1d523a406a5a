/** Families of processes, which take long to look at: they delay nobody but themselves. */
import { describe, expect, test } from "bun:test";
import { exec } from "../../src/index.ts";
import type { SandboxLimits } from "../../src/limits.ts";
import { until } from "./arena.ts";

const EVERY_MS = 10;
/** What part of the timers is to go off while it looks: half do, and below a sixth where it looks at all in one go. Other work of the machine takes some. */
const SHARE = 1 / 5;

/** How often a timer goes off while a program runs that has so many children, who share what it holds. */
async function ticks(children: number, mib: number, limits: SandboxLimits): Promise<number> {
  const script = `$held = "x" x (${mib} << 20); for (1..${children}) { if (!fork) { sleep 1000; exit } } sleep 1000`;
  await using family = await exec(["perl", "-e", script], {
    sandbox: { limits: { processes: children + 8, ...limits } },
    stdout: "ignore",
    stderr: "ignore",
  });
  await until(() => family.usage().processes > children);
  let count = 0;
  const timer = setInterval(() => count++, EVERY_MS);
  await Bun.sleep(200 * EVERY_MS);
  clearInterval(timer);
  expect(family.exit).toBeUndefined();
  return count;
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
