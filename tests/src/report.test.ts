import { describe, expect, test } from "bun:test";
import type { DenialEvent } from "../../src/denials.ts";
import { lastOf, report } from "../../src/report.ts";

const event = (target: string, lost = 0): DenialEvent => ({
  actor: "a",
  call: "open",
  target,
  guarantee: "files",
  wall: "seccomp: so it is",
  fix: `--read=${target}`,
  times: 1,
  lost,
});

async function* each(events: Iterable<DenialEvent>): AsyncGenerator<DenialEvent> {
  yield* events;
}

async function reported(...events: readonly DenialEvent[]): Promise<string[]> {
  const told: string[] = [];
  await report(each(events), (text) => void told.push(text));
  return told;
}

describe("report()", () => {
  test("tells each denial once, as it comes", async () => {
    const told = await reported(event("/x"), event("/y"), event("/x"), { ...event("/x"), times: 7 });
    expect(told).toEqual([
      "caisson denied: open /x\n  by wall:     seccomp: so it is\n  guarantee:   files\n  to allow it: --read=/x",
      "caisson denied: open /y\n  by wall:     seccomp: so it is\n  guarantee:   files\n  to allow it: --read=/y",
    ]);
  });

  test("counts what is too much to be told, and what was lost on the way", async () => {
    const told = await reported(...Array.from({ length: 1000 }, (_, index) => event(`/${index}`, index === 0 ? 5 : 0)));
    expect(told).toHaveLength(65);
    expect(told.at(-1)).toBe(`caisson denied: ${1000 - 64 + 5} more`);
    expect(await reported()).toEqual([]);
  });

  test("does nothing to a terminal", async () => {
    const [told] = await reported({ ...event("/\x1b]0;x\x07\ncaisson denied: nothing\x9b"), wall: "\x1b[2J" });
    expect(told).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
    expect(told!.split("\n")).toHaveLength(4);
  });
});

test("lastOf() settles with the last of them", async () => {
  let seen = 0;
  async function* events(): AsyncGenerator<DenialEvent> {
    for (; seen < 3; seen++) yield event(`/${seen}`);
  }
  await lastOf(events());
  expect(seen).toBe(3);
});
