/** Lives without number: nothing of any stays. `CAISSON_CYCLES` says how many programs; a tenth of that are actors. */
import { afterAll, expect } from "bun:test";
import { fileURLToPath } from "node:url";
import { testPuppet } from "../platform/strings.ts";
import { scratch } from "./arena.ts";
import type { Report } from "./fixtures/cycles.ts";
import { surplus } from "./holdings.ts";

/** On two processors some 40 s, and 25 s for a tenth as many actors. */
const CYCLES = Number(process.env.CAISSON_CYCLES ?? 10_000);
/**
 * By how much more the host's memory may be in the second half than in the first, by the least of two measures each: heaps breathe. Of 2,000 to
 * 10,000 programs it was -11 to 3 MiB, of 200 to 1,500 actors -3 to 8 MiB, as root and as a user; this is twice the most.
 */
const MARGIN_KIB = 16 * 1024;

const base = scratch();
afterAll(() => base[Symbol.dispose]());
const fixture = fileURLToPath(new URL("./fixtures/cycles.ts", import.meta.url));

async function cycles(kind: "programs" | "actors", count: number): Promise<Report> {
  const [temporary, running] = [base.directory(`${kind}-temporary`), base.directory(`${kind}-running`)];
  const child = Bun.spawn([process.execPath, fixture, kind, `${count}`], {
    env: { ...process.env, TMPDIR: temporary, XDG_RUNTIME_DIR: running },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const output = await child.stdout.text();
  expect(await child.exited).toBe(0);
  return JSON.parse(output);
}

/** How lives must have ended, each as often as any other. */
const ENDS = {
  programs: ["returned", "SIGSEGV", "killed", "NotRunnable", "ENOENT"],
  actors: ["threw", "returned", "aborts: SIG", "crashes: SIG", "killed", "refused", "aborted"],
} as const;

for (const [kind, count] of [
  ["programs", CYCLES],
  ["actors", CYCLES / 10],
] as const)
  testPuppet(
    `${count} ${kind} leave nothing, however they end`,
    async () => {
      const { before, after, memoryKib, ends, seconds } = await cycles(kind, count);
      for (const end of ENDS[kind]) expect(Object.keys(ends).some((each) => each.includes(end))).toBe(true);
      expect(surplus(before, after)).toEqual([]); // less there can be: Bun ends threads of its own
      const [, first, second, third, fourth] = memoryKib as [number, number, number, number, number];
      console.log(`${kind}: ${seconds.toFixed(0)} s; memory of the host in KiB: ${memoryKib.join(", ")}`);
      expect(Math.min(third, fourth) - Math.min(first, second)).toBeLessThan(MARGIN_KIB);
    },
    240_000 + CYCLES * 20,
  );
