import { expect } from "bun:test";
import { fileURLToPath } from "node:url";
import { testPuppet } from "./strings.ts";

const CYCLES = 500;
const WARM = 100;
/** Heaps breathe; one descriptor, buffer or closure per actor that stayed would be more than this. */
const MARGIN_MIB = 24;

interface Holdings {
  readonly descriptors: string[];
  readonly children: number[];
  readonly rssMib: number;
}

testPuppet(
  `spawn() and exit ${CYCLES} times leave the host's descriptors, children and memory as they were`,
  async () => {
    const script = fileURLToPath(new URL("fixtures/cycles.ts", import.meta.url));
    const child = Bun.spawn([process.execPath, script, `${CYCLES}`, `${WARM}`], { stdout: "pipe", stderr: "pipe" });
    const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    expect(errors).toBe("");
    const { before, after, ends }: { before: Holdings; after: Holdings; ends: Record<string, number> } =
      JSON.parse(output);
    expect(ends).toEqual({ killed: CYCLES / 2, "returned 7": CYCLES / 2 });
    expect(after.descriptors.length).toBeLessThanOrEqual(before.descriptors.length);
    expect(after.children).toEqual(before.children); // the zygote, which stays
    expect(before.children.length).toBeLessThan(2);
    console.log(
      `RSS of the host: ${before.rssMib.toFixed(1)} MiB after ${WARM} actors, ${after.rssMib.toFixed(1)} after ${CYCLES}`,
    );
    expect(after.rssMib - before.rssMib).toBeLessThan(MARGIN_MIB);
  },
  240_000,
);
