/** Attacks on whoever looks at processes: to be long at one is to look at no other meanwhile. */
import { afterAll, describe, expect, setDefaultTimeout, spyOn } from "bun:test";
import { fileURLToPath } from "node:url";
import { finish } from "../../platform/linux/leisure.ts";
import { lookAtShares, lookAtTree } from "../../platform/linux/usage.ts";
import { exec } from "../../src/exec.ts";
import { arsenal, testAttempt } from "./attempt.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const base = arsenal("tedious");
afterAll(() => base[Symbol.dispose]());

const MIB = 1024;

/** The program when it has said that it is ready. Its children end with it. */
async function running(...args: (string | number)[]) {
  const child = Bun.spawn(["setsid", base.program, ...args.map(String)], { stdout: "pipe" });
  const { value } = await child.stdout.getReader().read();
  expect(Buffer.from(value ?? []).toString()).toBe("done\n");
  return {
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      process.kill(-child.pid, "SIGKILL");
      await child.exited;
    },
  };
}

/** What it and its children have, each mapping of a page counted; and what they are said to have where so much were enough: both in KiB. */
function seenOf(pid: number, enough: number) {
  return { resident: finish(lookAtTree(pid))!.memoryKib, shares: finish(lookAtShares(pid, enough))! };
}

describe("lookAtShares() counts each page once", () => {
  for (const [who, mappings, least] of [
    ["that has far more than enough of them", [400, 0, 0], 400],
    ["with tables for far more than enough", [200, 0, 3], 203],
  ] as const)
    testAttempt(`but each mapping of one ${who}`, async () => {
      await using program = await running("mappings", ...mappings);
      const near = seenOf(program.pid, 256 * MIB);
      expect(near.resident).toBeGreaterThan(least * MIB);
      expect(near.shares).toBeLessThan(16 * MIB);
      const far = seenOf(program.pid, 128 * MIB);
      expect(far.shares).toBe(far.resident);
    });

  testAttempt("but each mapping of the rest, where those before have far more than enough together", async () => {
    await using family = await running("mappings", 80, 39, 0);
    const near = seenOf(family.pid, 128 * MIB);
    expect(near.resident).toBeGreaterThan(40 * 80 * MIB);
    expect(near.shares).toBeLessThan(64 * MIB);
    expect(seenOf(family.pid, 64 * MIB).shares).toBeGreaterThanOrEqual(64 * MIB);
  });
});

describe("a process whose first thread has ended", () => {
  testAttempt("has the memory of the others", async () => {
    await using family = await running("leaderless", 2, 40);
    const { resident, shares } = seenOf(family.pid, 1024 * MIB);
    expect(resident).toBeGreaterThan(80 * MIB);
    expect(shares).toBeWithin(80 * MIB, resident);
  });
});

describe("a process that is in the memory of its parent", () => {
  testAttempt("has none of its own", async () => {
    await using family = await running("vfork", 40);
    const { resident, shares } = seenOf(family.pid, 1024 * MIB);
    expect(resident).toBeGreaterThan(80 * MIB);
    expect(shares).toBeWithin(40 * MIB, 60 * MIB);
  });
});

describe("without a group, for its memory, a program is ended", () => {
  const script = fileURLToPath(new URL("./fixtures/limited.ts", import.meta.url));

  for (const [what, words] of [
    ["that maps a file over and over", ["mappings", "400", "0", "0"]],
    ["whose processes have no first thread any more", ["leaderless", "4", "40"]],
  ] as const)
    testAttempt(what, async () => {
      await using host = Bun.spawn([process.execPath, script, base.program, ...words], {
        stdio: ["ignore", "pipe", "inherit"],
        env: { ...process.env, CAISSON_CGROUP: "nowhere" },
      });
      expect(JSON.parse(await new Response(host.stdout).text())).toEqual({
        keeper: "watch over all processes",
        said: expect.stringMatching(/^(done)?$/), // it may be quicker than whoever looks
        exit: { reason: "limit", limit: "memory" },
      });
    });
});

describe("lookAtTree() of a process of many threads", () => {
  const THREADS = 100;

  testAttempt("takes a step for each, and no more of them than there is time for", async () => {
    await using program = await running("threads", THREADS);
    const looking = (mostMs: number) => {
      const look = lookAtTree(program.pid, { mostMs });
      for (let steps = 1; ; steps++) {
        const { done, value } = look.next();
        if (done === true) return { steps, processes: value?.processes };
      }
    };
    // Of each thread what it did, its children, and its only child.
    expect(looking(Number.POSITIVE_INFINITY)).toEqual({ steps: 3 * THREADS + 1, processes: 2 * THREADS + 1 });
    expect(looking(0)).toEqual({ steps: 1, processes: THREADS + 1 });
  });
});

describe("an end of many programs at once", () => {
  const COUNT = 20;
  /** For how long one is looked at that is to end. */
  const LAST_LOOK_MS = 10;

  testAttempt("is held up by looks at them for no longer than that of one", async () => {
    const control = new AbortController();
    const start = () =>
      exec([base.program, "threads", "20"], { signal: control.signal, sandbox: { limits: { processes: 64 } } });
    const programs = await Promise.all(Array.from({ length: COUNT }, start));
    for (const { stdout } of programs) await stdout!.getReader().read();
    // A clock that goes on when it is looked at: whoever looks at a process asks for the time.
    let nowMs = performance.now();
    const clock = spyOn(performance, "now").mockImplementation(() => ++nowMs);
    const began = nowMs;
    control.abort();
    clock.mockRestore();
    expect(nowMs - began).toBeLessThan(COUNT * LAST_LOOK_MS);
    await Promise.all(programs.map(({ exited }) => exited));
    for (const { exit } of programs) expect(exit).toEqual({ reason: "killed", by: "signal" });
  });
});
