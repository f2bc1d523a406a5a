import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { compile, disassemble, verify } from "../../../platform/linux/seccomp/index.ts";
import { interpret, verify as takes } from "../interpreter.ts";
import { below, pick, random, seed, several } from "./rules.ts";

// Random cases by the hundred, on machines that may be busy.
setDefaultTimeout(120_000);

type Line = readonly [code: number, jt: number, jf: number, k: number];
const program = (...lines: readonly Line[]): Uint8Array => {
  const bytes = new DataView(new ArrayBuffer(8 * lines.length));
  for (const [at, [code, jt, jf, k]] of lines.entries()) {
    bytes.setUint16(8 * at, code, true);
    bytes.setUint8(8 * at + 2, jt);
    bytes.setUint8(8 * at + 3, jf);
    bytes.setUint32(8 * at + 4, k, true);
  }
  return new Uint8Array(bytes.buffer);
};
const ALLOW: Line = [0x06, 0, 0, 0x7fff0000];
const text = (...lines: readonly Line[]) =>
  disassemble(program(...lines))
    .trimEnd()
    .split("\n")
    .map((line) => line.slice(6));

describe("disassemble()", () => {
  test("names data, masks, calls, jumps and results", () => {
    const when = [{ arg: 4, op: "masked", mask: 0xf0n, value: 0x10n }] as const;
    const rules = [{ call: "read", action: { errno: 13 }, when }] as const;
    expect(disassemble(compile({ machine: "arm64", default: "allow", rules }))).toBe(
      [
        "   0  load arch",
        "   1  if == 0xc00000b7 goto 2 else 9           ; AARCH64",
        "   2  load nr",
        "   3  if == 0x3f goto 4 else 8                 ; read",
        "   4  load args[4].low",
        "   5  A &= 0xf0",
        "   6  if == 0x10 goto 7 else 8",
        "   7  return errno EACCES",
        "   8  return allow",
        "   9  return kill-process",
        "",
      ].join("\n"),
    );
  });

  test("says of each instruction that filters may have what it does", () => {
    const table: readonly (readonly [Line, string])[] = [
      [[0x20, 0, 0, 0], "load nr"],
      [[0x20, 0, 0, 4], "load arch"],
      [[0x20, 0, 0, 8], "load instruction_pointer.low"],
      [[0x20, 0, 0, 12], "load instruction_pointer.high"],
      [[0x20, 0, 0, 16], "load args[0].low"],
      [[0x20, 0, 0, 60], "load args[5].high"],
      [[0x80, 0, 0, 0], "A = length"],
      [[0x81, 0, 0, 0], "X = length"],
      [[0x00, 0, 0, 0x2a], "A = 0x2a"],
      [[0x01, 0, 0, 0x2a], "X = 0x2a"],
      [[0x60, 0, 0, 15], "A = memory[15]"],
      [[0x61, 0, 0, 0], "X = memory[0]"],
      [[0x02, 0, 0, 3], "memory[3] = A"],
      [[0x03, 0, 0, 3], "memory[3] = X"],
      [[0x04, 0, 0, 1], "A += 0x1"],
      [[0x1c, 0, 0, 0], "A -= X"],
      [[0x24, 0, 0, 2], "A *= 0x2"],
      [[0x3c, 0, 0, 0], "A /= X"],
      [[0x44, 0, 0, 1], "A |= 0x1"],
      [[0x54, 0, 0, 0xff], "A &= 0xff"],
      [[0x6c, 0, 0, 0], "A <<= X"],
      [[0x74, 0, 0, 4], "A >>= 0x4"],
      [[0xa4, 0, 0, 1], "A ^= 0x1"],
      [[0x84, 0, 0, 0], "A = -A"],
      [[0x07, 0, 0, 0], "X = A"],
      [[0x87, 0, 0, 0], "A = X"],
      [[0x05, 0, 0, 0], "goto 1"],
      [[0x15, 0, 1, 5], "if == 0x5 goto 1 else 2"],
      [[0x25, 0, 1, 5], "if > 0x5 goto 1 else 2"],
      [[0x3d, 0, 1, 0], "if >= X goto 1 else 2"],
      [[0x45, 1, 0, 6], "if & 0x6 goto 2 else 1"],
      [[0x16, 0, 0, 0], "return A"],
      [[0x94, 0, 0, 1], "unknown 0x94 0 0 0x1"], // A %= 1, which other programs may have
    ];
    for (const [line, expected] of table) expect(text(line, ALLOW, ALLOW)[0]).toBe(expected);
  });

  test("names results as actions are written", () => {
    const table = [
      [0x7fff0000, "allow"],
      [0x7fff1234, "allow"], // the data says nothing
      [0x7ffc0000, "log"],
      [0x7fc00000, "notify"],
      [0x7ff00005, "trace 5"],
      [0x00030000, "trap"],
      [0x00030007, "trap 7"],
      [0x00050000, "errno 0"],
      [0x00050026, "errno ENOSYS"],
      [0x00050fff, "errno 4095"],
      [0x0005ffff, "errno 4095"], // the kernel knows no greater ones
      [0x80000000, "kill-process"],
      [0x00000000, "kill-thread"],
      [0x12340000, "kill-process, for 0x12340000 is no action"],
    ] as const;
    for (const [result, name] of table) expect(text([0x06, 0, 0, result])).toEqual([`return ${name}`]);
  });

  test("names calls only where the number is what is compared, on a machine that is plain", () => {
    const nr: Line = [0x20, 0, 0, 0];
    const arch: Line = [0x20, 0, 0, 4];
    const isRead: Line = [0x15, 0, 0, 0];
    const isX64: Line = [0x15, 0, 2, 0xc000003e];
    const note = (...lines: Line[]) =>
      text(...lines, ALLOW)
        .at(-2)!
        .includes("; read");
    expect(note(arch, isX64, nr, isRead)).toBe(true);
    expect(note(arch, [0x15, 0, 3, 0xc000003e], nr, [0x03, 0, 0, 1], isRead)).toBe(true);
    expect(note(nr, isRead)).toBe(false); // of which machine?
    expect(note(arch, [0x15, 0, 0, 0xc000003e], nr, isRead)).toBe(false); // of either
    expect(note(arch, [0x15, 0, 3, 0xc000003e], nr, [0x54, 0, 0, 7], isRead)).toBe(false); // it is no number any more
    expect(note(arch, isX64, [0x20, 0, 0, 16], isRead)).toBe(false);
  });

  test("throws RangeError for half an instruction", () => {
    expect(() => disassemble(new Uint8Array(12))).toThrow(RangeError);
  });
});

describe("verify()", () => {
  const table: readonly (readonly [string, Uint8Array, RegExp | undefined])[] = [
    ["a result", program(ALLOW), undefined],
    ["a result in A", program([0x00, 0, 0, 0], [0x16, 0, 0, 0]), undefined],
    ["nothing", program(), /^Cannot take 0 instructions: expected 1 to 4096/],
    ["as much as there may be", program(...several(4096, () => ALLOW)), undefined],
    ["one more", program(...several(4097, () => ALLOW)), /^Cannot take 4097 instructions/],
    ["no end", program([0x20, 0, 0, 0]), /instruction 0 leads to 1, behind the end/],
    ["a jump behind the end", program([0x05, 0, 0, 1], ALLOW), /instruction 0 leads to 2/],
    ["the farthest jump", program([0x05, 0, 0, 0xffffffff], ALLOW), /instruction 0 leads to 4294967296/],
    ["one way behind the end", program([0x15, 0, 1, 0], ALLOW), /instruction 0 leads to 2/],
    ["half a word", program([0x20, 0, 0, 2], ALLOW), /instruction 0 loads what is no word of the call's data/],
    ["what is behind the data", program([0x20, 0, 0, 64], ALLOW), /instruction 0 loads/],
    ["a byte", program([0x30, 0, 0, 0], ALLOW), /instruction 0 is none that filters may have: code 0x30, k 0/],
    ["a remainder", program([0x94, 0, 0, 1], ALLOW), /instruction 0 is none/],
    ["a division by 0", program([0x34, 0, 0, 0], ALLOW), /instruction 0 divides by 0/],
    ["a division by X", program([0x3c, 0, 0, 0], ALLOW), undefined],
    ["a shift by all", program([0x64, 0, 0, 32], ALLOW), /instruction 0 shifts/],
    ["a shift by less", program([0x74, 0, 0, 31], ALLOW), undefined],
    ["the last word of memory", program([0x02, 0, 0, 15], [0x60, 0, 0, 15], ALLOW), undefined],
    ["a word of memory behind it", program([0x02, 0, 0, 16], ALLOW), /instruction 0 names a word/],
    ["memory that was not written", program([0x60, 0, 0, 0], ALLOW), /instruction 0 reads memory/],
    ["other memory", program([0x02, 0, 0, 1], [0x61, 0, 0, 0], ALLOW), /instruction 1 reads memory/],
    [
      "memory that was written on one of two ways",
      program([0x15, 0, 1, 0], [0x02, 0, 0, 0], [0x60, 0, 0, 0], ALLOW),
      /instruction 2 reads memory/,
    ],
    [
      "memory that was written on both",
      program([0x02, 0, 0, 0], [0x15, 0, 1, 0], [0x00, 0, 0, 0], [0x60, 0, 0, 0], ALLOW),
      undefined,
    ],
  ];

  test.each(table)("of %s", (_, bytes, message) => {
    if (message === undefined) expect(() => verify(bytes)).not.toThrow();
    else {
      expect(() => verify(bytes)).toThrow(RangeError);
      expect(() => verify(bytes)).toThrow(message);
    }
  });

  test("takes and refuses the same random programs as the tests' own, and what it takes runs to its end", () => {
    const codes = [
      0x20, 0x80, 0x00, 0x01, 0x60, 0x61, 0x02, 0x03, 0x04, 0x1c, 0x34, 0x3c, 0x54, 0x64, 0x74, 0x84, 0xa4,
    ];
    const more = [0x07, 0x87, 0x05, 0x15, 0x1d, 0x25, 0x35, 0x45, 0x06, 0x16, 0x94, 0x30];
    const line = (): Line => [pick([...codes, ...more]), below(3), below(3), pick([0, 1, 4, 15, 16, 31, 32, random()])];
    let taken = 0;
    for (let round = 0; round < 20_000; round++) {
      const bytes = program(...several(below(6), line), ALLOW);
      const ours = thrown(() => verify(bytes));
      const theirs = thrown(() => takes(bytes));
      // Unwritten memory is what only ours looks for.
      if (theirs !== undefined || !ours?.includes("reads memory")) {
        expect({ seed, bytes: bytes.toHex(), refused: ours !== undefined }).toEqual({
          seed,
          bytes: bytes.toHex(),
          refused: theirs !== undefined,
        });
      }
      if (ours !== undefined) continue;
      taken++;
      interpret(bytes, { nr: 0, arch: 0xc000003e, args: [] });
      disassemble(bytes);
    }
    expect(taken).toBeGreaterThan(1000);
  });
});

function thrown(act: () => void): string | undefined {
  try {
    act();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
