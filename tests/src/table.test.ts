// Tables: how wide, what gives way, and what hostile text becomes.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type Column, fit, shortCount, shortSize, shortTime, table } from "../../src/table.ts";

type Row = readonly [name: string, count: string];
const COLUMNS: readonly Column<Row>[] = [
  { title: "NAME", left: true, flexible: true, cell: ([name]) => name },
  { title: "COUNT", cell: ([, count]) => count },
];

describe("table()", () => {
  test("sets words to the left and numbers to the right", () => {
    expect(
      table(
        COLUMNS,
        [
          ["a", "1"],
          ["longer", "22"],
        ],
        80,
      ),
    ).toEqual(["NAME    COUNT", "a           1", "longer     22"]);
  });

  test("lets the flexible column give way where the window is narrow, and then the rest", () => {
    const rows: Row[] = [["a-very-long-name", "1"]];
    expect(table(COLUMNS, rows, 17)).toEqual(["NAME        COUNT", "a-very-lo…      1"]);
    for (let width = 1; width < 30; width++)
      for (const line of table(COLUMNS, rows, width)) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(width);
  });

  test("drops columns that are spare before it cuts a name to less than a comfortable one, the last one first", () => {
    const spare: Column<Row>[] = ["ONE", "TWO"].map((title) => ({ title, spare: true, cell: () => "x" }));
    const titles = (width: number) => table([...COLUMNS, ...spare], [["n".repeat(30), "1"]], width)[0]!.split(/ +/);
    expect(titles(47)).toEqual(["NAME", "COUNT", "ONE", "TWO"]);
    expect(titles(41)).toEqual(["NAME", "COUNT", "ONE", "TWO"]);
    expect(titles(40)).toEqual(["NAME", "COUNT", "ONE"]);
    expect(titles(35)).toEqual(["NAME", "COUNT"]);
    expect(titles(15)).toEqual(["NAME", "COUNT"]);
  });

  test("counts cells, not characters", () => {
    const lines = table(
      COLUMNS,
      [
        ["日本語", "1"],
        ["e\u0301", "1"],
        ["abc", "1"],
      ],
      80,
    );
    expect(lines.slice(1).map((line) => Bun.stringWidth(line))).toEqual([13, 13, 13]);
  });

  test("makes hostile text harmless before it is measured and cut", () => {
    const [, line] = table(COLUMNS, [["\x1b]0;title\x07\n\t\x9b2J\u202eevil\u200f\u{e0041}", "1"]], 200);
    expect(line).toBe("\\x1b]0;title\\x07\\x0a \\x9b2J\\u202eevil\\u200f\\u{e0041}      1");
    const [, cut] = table(COLUMNS, [["\x1b[2J".repeat(100), "1"]], 30);
    expect(cut).not.toContain("\x1b");
    expect(Bun.stringWidth(cut!)).toBe(30);
  });

  test("has its titles where there is nothing", () => {
    expect(table(COLUMNS, [], 80)).toEqual(["NAME  COUNT"]);
  });
});

test("fit() leaves what fits and says where it cut", () => {
  expect([fit("abc", 3), fit("abcd", 3), fit("日本語", 4), fit("", 0)]).toEqual(["abc", "ab…", "日…", ""]);
});

test("fit() cuts more where a mark behind wide characters makes the cut too wide", () => {
  const text = "\u{3fffe}\u{20000}\u{3fffe}\u{20000}\u{111b3}\\x00";
  const fitting = [2, 5, 6, 7, 8, 11].map((width) => fit(text, width));
  expect(fitting.map((each) => Bun.stringWidth(each))).toEqual([2, 5, 5, 5, 8, 11]);
  expect(fitting[2]).toBe("\u{3fffe}\u{20000}\u{3fffe}…");
});

test("table() is never wider than the window, whatever stands in it", () => {
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.string({
      unit: fc.constantFrom("日", "👩‍👩‍👧", "\u0301", "\u200d", "\ud800", "a", "\x1b[31m", "\t", "\ufe0f", "1\u20e3"),
    }),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(text, text), { maxLength: 3 }), fc.nat(60), (rows, width) => {
      for (const line of table(COLUMNS, rows, width)) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(width);
    }),
    { numRuns: 3000 },
  );
});

test.each([
  [0, "0B"],
  [999, "999B"],
  [1000, "1.0K"],
  [9.94 * 1024, "9.9K"],
  [10 * 1024, "10K"],
  [1000 * 1024, "1.0M"],
  [512 * 2 ** 20, "512M"],
  [1.5 * 2 ** 30, "1.5G"],
  [5000 * 2 ** 40, "5000T"],
])("shortSize(%d) is %s", (bytes, text) => {
  expect(shortSize(bytes)).toBe(text);
});

test.each([
  [-1, "0s"],
  [59.9, "59s"],
  [62, "1m02s"],
  [7500, "2h05m"],
  [3 * 86_400 + 4 * 3600, "3d04h"],
])("shortTime(%d) is %s", (seconds, text) => {
  expect(shortTime(seconds)).toBe(text);
});

test.each([
  [0, "0"],
  [99_999, "99999"],
  [100_000, "100k"],
  [12_345_678, "12M"],
  [1.5e9, "1G"],
])("shortCount(%d) is %s", (count, text) => {
  expect(shortCount(count)).toBe(text);
});
