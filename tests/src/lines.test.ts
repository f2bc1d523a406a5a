import { describe, expect, test } from "bun:test";
import { Pace } from "../../platform/pace.ts";
import { LimitExceeded } from "../../src/error.ts";
import { passOn } from "../../src/lines.ts";
import type { Allow } from "../../src/output.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";
import { until } from "../attacks/arena.ts";

interface Given {
  /** How many lines are waited for. */
  readonly count: number;
  readonly allow?: Allow;
  /** What it takes to print one, in milliseconds of a clock that nothing else moves. */
  readonly costMs?: number;
}

/** Passes on what was written and is over. Of each line: in which turn of the event loop it was printed. */
async function passed(written: string | Uint8Array, { count, allow = (given) => ({ given }), costMs = 0 }: Given) {
  const [read, end] = socketPair(self, SOCK.STREAM);
  const bytes = Buffer.from(written);
  self.call("write", end, bytes, bytes.length);
  new Descriptor(end).close();

  let turn = 0;
  const counting = () => {
    turn++;
    if (printed.length < count) setImmediate(counting);
  };
  const printed: { readonly line: string; readonly turn: number }[] = [];
  counting();
  let timeMs = 0;
  const print = (line: string) => {
    printed.push({ line, turn });
    timeMs += costMs;
  };
  passOn(read, { name: () => "a", print, allow, pace: new Pace(() => timeMs) });
  await until(() => printed.length >= count);
  return printed;
}

describe("passOn()", () => {
  test.each<[string, string | Uint8Array, readonly string[]]>([
    ["lines, each with the name", "one\ntwo\nthree", ["[a] one", "[a] two", "[a] three"]],
    ["empty ones", "\n\none\n", ["[a] ", "[a] ", "[a] one"]],
    ["those of other systems", "one\r\ntwo\r\rthree\n", ["[a] one", "[a] two\\x0d\\x0dthree"]],
    ["what a terminal would act on as text", "\x1b[2J\n", ["[a] \\x1b[2J"]],
    ["one that is as long as may be", `${"x".repeat(8192)}\nend`, [`[a] ${"x".repeat(8192)}`, "[a] end"]],
    ["one that is too long in pieces", `${"x".repeat(8193)}\nend`, [`[a] ${"x".repeat(8192)}`, "[a] x", "[a] end"]],
    ["what is no UTF-8 as such", Uint8Array.of(0xff, 0x0a, 0xe2), ["[a] \ufffd", "[a] \ufffd"]],
  ])("passes on %s", async (_, written, lines) => {
    expect((await passed(written, { count: lines.length })).map(({ line }) => line)).toEqual([...lines]);
  });

  test("says by which limit the rest is dropped, behind what is passed on", async () => {
    const lost = new LimitExceeded("Too much", "output");
    const allow: Allow = (bytes) => ({ given: bytes.subarray(0, 5), lost });
    expect((await passed("one\ntwo\nthree\n", { count: 3, allow })).map(({ line }) => line)).toEqual([
      "[a] one",
      "[a] t",
      "[a] ... what follows is dropped: it reached its limit output",
    ]);
  });

  test("spreads lines that take long over turns of the event loop, in their order", async () => {
    const lines = Array.from({ length: 1000 }, (_, number) => `${number}`);
    const turnsWhere = async (costMs: number) => {
      const printed = await passed(`${lines.join("\n")}\n`, { count: lines.length, costMs });
      expect(printed.map(({ line }) => line)).toEqual(lines.map((line) => `[a] ${line}`));
      return new Set(printed.map(({ turn }) => turn)).size;
    };
    expect(await turnsWhere(0)).toBe(1);
    expect(await turnsWhere(6)).toBeGreaterThan(lines.length / 2); // more than a turn may take
  });
});
