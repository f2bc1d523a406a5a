/** Ends that this process comes to hear of long behind its own clocks, for it was busy: what it says of them is what happened. */
import { describe, expect } from "bun:test";
import { container, exec } from "../../src/index.ts";
import { testBox } from "../src/box.ts";
import { busyUntil, isZombie } from "./arena.ts";

/** More than a start takes, also on a machine that has other things to do. */
const WALL_MS = 3000;

describe("who was too busy to end something in time", () => {
  testBox("says that its time was over, whatever it does as the first thing then", async () => {
    await using held = await container({ limits: { wallTimeMs: WALL_MS } });
    await using program = await held.exec(["/bin/sleep", "1000"]);
    busyUntil(() => isZombie(held.pid));
    held.kill();
    await Promise.all([held.exited, program.exited]);
    expect([held.exit, program.exit]).toEqual([
      { reason: "limit", limit: "wallTime" },
      { reason: "limit", limit: "wallTime" },
    ]);
  });

  testBox("says what it returned where it ended in time, also by the number that says so elsewhere", async () => {
    const began = performance.now();
    await using program = await exec(["/bin/sh", "-c", "exit 124"], { sandbox: { limits: { wallTimeMs: WALL_MS } } });
    busyUntil(() => performance.now() - began > 1.5 * WALL_MS);
    await program.exited;
    expect(program.exit).toEqual({ reason: "returned", code: 124 });
  });
});
