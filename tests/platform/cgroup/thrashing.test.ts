import { describe, expect, test } from "bun:test";
import { type Strain, Thrashing } from "../../../platform/linux/cgroup/thrashing.ts";

const KIB = 1024;
const LIMIT = 32 * KIB * KIB;

/** What a group does in each second. */
interface Second {
  readonly fileKib: number;
  readonly rereadKib: number;
  readonly stalledMs: number;
}

/** As measured on Linux 6.1. */
const EATER: Second = { fileKib: 180, rereadKib: 40_000, stalledMs: 250 };
const READER: Second = { fileKib: 15_000, rereadKib: 70_000, stalledMs: 110 };
const SORTER: Second = { fileKib: 19_000, rereadKib: 15_000, stalledMs: 80 };
const CALM: Second = { fileKib: 1124, rereadKib: 0, stalledMs: 0 };
/** As it would be with a disk of a hundred reads in a second. */
const SLOW: Second = { fileKib: 180, rereadKib: 540, stalledMs: 990 };
/** One long file, read once, through what little is left. */
const STREAM: Second = { fileKib: 300, rereadKib: 0, stalledMs: 200 };

/** What is said of each second, after the look that begins. */
function told(seconds: readonly Second[], everyMs = 1000): string[] {
  const thrashing = new Thrashing();
  let strain: Strain = {
    limitBytes: LIMIT,
    fileBytes: seconds[0]!.fileKib * KIB,
    rereadBytes: 0,
    stalledMicroseconds: 0,
  };
  thrashing.see(strain, 0);
  return seconds.map(({ fileKib, rereadKib, stalledMs }, index) => {
    strain = {
      limitBytes: LIMIT,
      fileBytes: fileKib * KIB,
      rereadBytes: strain.rereadBytes + rereadKib * KIB,
      stalledMicroseconds: strain.stalledMicroseconds + stalledMs * 1000,
    };
    return thrashing.see(strain, (index + 1) * everyMs);
  });
}
const times = (count: number, second: Second) => Array.from({ length: count }, () => second);

describe("Thrashing.see()", () => {
  test.each([
    ["one that has no room for its own program", EATER],
    ["the same, with slow storage", SLOW],
  ])("is sure after ten seconds of %s", (_, second) => {
    expect(told(times(10, second))).toEqual([...times(9, second).map(() => "strained"), "thrashes"]);
  });

  test.each([
    ["one that reads files again and again", READER],
    ["one that sorts on disk", SORTER],
    ["one that needs no more than it has", CALM],
    ["one that reads a long file once", STREAM],
    ["one that is not held up by it", { ...EATER, stalledMs: 50 }],
  ])("takes for calm %s", (_, second) => {
    expect(told(times(30, second))).not.toContain("thrashes");
  });

  test("begins anew after a calm second", () => {
    const seconds = [...times(8, EATER), CALM, ...times(9, EATER)];
    expect(told(seconds)).not.toContain("thrashes");
    expect(told([...seconds, EATER, EATER]).at(-1)).toBe("thrashes");
  });

  test("says it once, however long it goes on", () => {
    expect(told(times(40, EATER)).filter((each) => each === "thrashes")).toHaveLength(1);
    expect(told(times(40, EATER)).slice(10)).toEqual(Array(30).fill("calm"));
  });

  test("goes by what happened in the time that a busy host took to look", () => {
    expect(told(times(5, EATER), 2000).at(-1)).toBe("thrashes");
    expect(told(times(5, { ...EATER, stalledMs: 150 }), 2000)).not.toContain("thrashes");
  });
});
