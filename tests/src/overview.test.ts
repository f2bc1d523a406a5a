// What a table of hosts says, by the numbers that it was given.
import { describe, expect, test } from "bun:test";
import type { Inspection } from "../../src/inspection.ts";
import { overview } from "../../src/overview.ts";
import type { Snapshot } from "../../src/snapshot.ts";
import { inspection, NOTHING } from "./member.ts";

const host = (at: number, members: readonly Inspection[], more: Partial<Snapshot> = {}): Snapshot => ({
  version: 1,
  pid: 7,
  host: "server.ts",
  at,
  members,
  more: 0,
  ...more,
});
const busy = (name: string, cpuMs: number, more: Partial<Inspection> = {}) =>
  inspection(name, { usage: { ...NOTHING, cpuMs, memoryBytes: cpuMs * 2 ** 20 }, ...more });
const namesIn = (rows: readonly string[]) => rows.map((row) => row.split(" ")[0]);

describe("overview()", () => {
  test("tells all of a member that its columns have", () => {
    const usage = {
      ...NOTHING,
      cpuMs: 500,
      memoryBytes: 3 * 2 ** 20,
      peakBytes: 2 ** 30,
      messagesIn: 4,
      messagesOut: 5,
    };
    const member = inspection("parse", { usage, callsPending: 6, denials: 7 });
    const { titles, rows, summary } = overview([{ now: host(2000, [member]) }], "cpu", 200);
    expect(titles.split(/ +/)).toEqual("NAME KIND PID STATE CPU% MEMORY PEAK IN OUT CALLS DENIED AGE".split(" "));
    expect(rows.map((row) => row.split(/ +/))).toEqual([
      ["parse", "actor", "1000", "running", "25.0", "3.0M", "1.0G", "4", "5", "6", "7", "2s"],
    ]);
    expect(summary).toBe("host 7 server.ts, 1 running, CPU 25.0%, memory 3.0M");
  });

  test("takes the processor time of the interval, where the member was seen before", () => {
    const before = host(1000, [busy("a", 1000), busy("b", 1000, { pid: 1001 })]);
    // The second has the number of one that ended, and is another.
    const now = host(2000, [busy("a", 1100), busy("b", 600, { pid: 1001, startedAt: 1000 })]);
    const { rows } = overview([{ now, before }], "name", 200);
    expect(rows.map((row) => row.split(/ +/)[4])).toEqual(["10.0", "60.0"]);
  });

  test("orders by what is asked for", () => {
    const members = [busy("b", 20), busy("a", 10), busy("c", 30)];
    const by = (order: "cpu" | "memory" | "name") => namesIn(overview([{ now: host(1000, members) }], order, 200).rows);
    expect([by("cpu"), by("memory"), by("name")]).toEqual([
      ["c", "b", "a"],
      ["c", "b", "a"],
      ["a", "b", "c"],
    ]);
  });

  test("says of which host each is where there are several, and how many are not shown", () => {
    const sights = [{ now: host(1, [inspection("a")]) }, { now: host(1, [inspection("b")], { pid: 8, more: 5 }) }];
    const { titles, rows, summary } = overview(sights, "name", 200);
    expect(titles).toStartWith("HOST  NAME");
    expect(namesIn(rows.map((row) => row.trim()))).toEqual(["7", "8"]);
    expect(summary).toStartWith("2 hosts, 2 of 7 running");
  });

  test("says so where nothing is known", () => {
    expect(overview([], "cpu", 200).summary).toBe("no host has answered yet");
  });

  test("makes what hosts and members are called harmless", () => {
    const { rows, summary } = overview(
      [{ now: host(1, [inspection("\x1b[2J")], { host: "\x1b]0;x\x07" }) }],
      "cpu",
      200,
    );
    expect(`${summary}${rows}`).not.toContain("\x1b");
    expect(summary).toContain("\\x1b]0;x\\x07");
  });
});
