/** Workers that start things and end, in every way, many times over: the process holds no more for it. */
import { describe, expect } from "bun:test";
import { fileURLToPath } from "node:url";
import { testPuppet } from "../platform/strings.ts";
import { testBox } from "../src/box.ts";

/** Of threads and mappings Bun and its collector have now more, now fewer. One a Worker would be `COUNTED`. */
const LEEWAY = 12;
const COUNTED = 42;
/** Descriptors that a busy machine may lose of as many Workers. */
const LOST = COUNTED / 2;
/** The host's own, which is to be its only child. */
const ZYGOTES = 1;

async function employ(how: string): Promise<Record<"before" | "after", Record<string, number>>> {
  const script = fileURLToPath(new URL("./fixtures/workers.ts", import.meta.url));
  const host = Bun.spawn([process.execPath, script, how], { cwd: "/", stdio: ["ignore", "pipe", "inherit"] });
  return (await host.stdout.json()) as Awaited<ReturnType<typeof employ>>;
}

describe("50 Workers", () => {
  testBox(
    "with an actor, a program and a container each leave no descriptor, no child, no thread and no mapping, whether they end or are terminated, with what they started or without",
    async () => {
      const { before, after } = await employ("orderly");
      expect(after.descriptors).toBeLessThanOrEqual(before.descriptors!);
      expect(before.children).toBe(ZYGOTES);
      expect(after.children).toBe(ZYGOTES);
      expect(after.threads).toBeLessThanOrEqual(before.threads! + LEEWAY);
      expect(after.mappings).toBeLessThanOrEqual(before.mappings! + LEEWAY);
    },
    300_000,
  );

  // Of what is open for a moment only, a descriptor may be lost to whoever is stopped just then.
  testBox(
    "with actors and programs leave no child when they are terminated at any moment, and not a descriptor each",
    async () => {
      const { before, after } = await employ("sudden");
      expect(before.children).toBe(ZYGOTES);
      expect(after.children).toBe(ZYGOTES);
      expect(after.descriptors).toBeLessThanOrEqual(before.descriptors! + LOST);
      for (const name of ["threads", "mappings"]) expect(after[name]).toBeLessThanOrEqual(before[name]! + LEEWAY);
    },
    300_000,
  );

  testPuppet(
    "are seen to leave what nobody writes down",
    async () => {
      const { before, after } = await employ("wasteful");
      expect(after.children).toBe(before.children! + COUNTED);
      expect(after.descriptors).toBeGreaterThan(before.descriptors! + LOST);
    },
    300_000,
  );
});
