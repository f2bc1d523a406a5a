import { expect, setDefaultTimeout, test } from "bun:test";
import type { Test } from "../../../platform/linux/seccomp/filter.ts";
import { ANY, narrowed, testsOf, type Words } from "../../../platform/linux/seccomp/words.ts";
import { below, EDGES, pick, randomTest, seed, several, TOP, word } from "./rules.ts";

// Random cases by the hundred, on machines that may be busy.
setDefaultTimeout(120_000);

const holds = (word: bigint, { op, value, ...more }: Test<bigint>): boolean => {
  if ("mask" in more) return (word & more.mask) === value;
  const answers = { eq: word === value, ne: word !== value, lt: word < value, le: word <= value, gt: word > value };
  return op === "ge" ? word >= value : answers[op as keyof typeof answers];
};

const test0 = (op: "eq" | "ne" | "lt" | "le" | "gt" | "ge", value: bigint): Test<bigint> => ({ arg: 0, op, value });
const masked = (mask: bigint, value: bigint): Test<bigint> => ({ arg: 0, op: "masked", mask, value });

function together(...tests: readonly (readonly [Test<bigint>, boolean])[]): Test<bigint>[] | undefined {
  const words = tests.reduce<Words | undefined>((some, [test, holds]) => some && narrowed(some, test, holds), ANY);
  return words && testsOf(words, 0);
}

const CASES: readonly (readonly [(readonly [Test<bigint>, boolean])[], Test<bigint>[] | undefined])[] = [
  [
    [
      [test0("ge", 3n), true],
      [test0("le", 3n), true],
    ],
    [test0("eq", 3n)],
  ],
  [[[test0("eq", 3n), false]], [test0("ne", 3n)]],
  [[[test0("eq", 0n), false]], [test0("ge", 1n)]],
  [[[test0("lt", 5n), true]], [test0("le", 4n)]],
  [[[test0("lt", 1n), true]], [test0("eq", 0n)]],
  [[[test0("gt", TOP - 1n), true]], [test0("eq", TOP)]],
  [
    [
      [test0("ge", 4n), true],
      [test0("lt", 8n), true],
    ],
    [masked(TOP - 3n, 4n)],
  ],
  [
    [
      [test0("ge", 3n), true],
      [test0("le", 5n), true],
    ],
    [test0("eq", 3n), masked(TOP - 1n, 4n)],
  ],
  [
    [
      [masked(3n, 1n), true],
      [masked(12n, 4n), true],
    ],
    [masked(15n, 5n)],
  ],
  [[[masked(3n, 1n), false]], [masked(1n, 0n), masked(3n, 3n)]],
  [[[masked(TOP, 7n), true]], [test0("eq", 7n)]],
  [[[test0("ge", 0n), true]], [masked(0n, 0n)]],
  [[[masked(0n, 0n), true]], [masked(0n, 0n)]],
  [[[test0("lt", 0n), true]], undefined],
  [[[test0("gt", TOP), true]], undefined],
  [[[masked(0n, 0n), false]], undefined],
  [
    [
      [test0("eq", 3n), true],
      [masked(1n, 0n), true],
    ],
    undefined,
  ],
  [
    [
      [masked(1n, 1n), true],
      [masked(1n, 0n), true],
    ],
    undefined,
  ],
];

test("narrowed() leaves what all tests leave, in as few tests as there are names for it", () => {
  for (const [tests, expected] of CASES) expect({ tests, left: together(...tests) }).toEqual({ tests, left: expected });
});

/** Nothing, where it would take too many. */
function attempt<T>(make: () => T): T | undefined {
  try {
    return make();
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

test("of random tests, one of what they leave holds where they do, and none elsewhere", () => {
  let kept = 0;
  for (let round = 0; round < 2000; round++) {
    const near = () => (below(3) === 0 ? word() : BigInt(below(40)));
    const tests = several(1 + below(4), () => [randomTest(0, near), below(3) > 0] as const);
    const left = attempt(() => together(...tests) ?? []);
    if (left === undefined) continue;
    kept++;
    const words = [
      ...several(48, BigInt),
      ...EDGES,
      ...tests.flatMap(([{ value }]) => [value, value ^ (1n << 40n)]),
      pick([word()]),
    ];
    for (const word of words) {
      const meant = tests.every(([test, held]) => holds(word, test) === held);
      expect({ seed, tests, word, held: left.filter((test) => holds(word, test)).length }).toEqual({
        seed,
        tests,
        word,
        held: meant ? 1 : 0,
      });
    }
  }
  expect(kept).toBeGreaterThan(1500);
});

test("narrowed() throws RangeError for more patterns than the kernel takes instructions", () => {
  const several = Array.from({ length: 12 }, (_, at) => masked(0x1111_1111_1111_1111n << BigInt(at % 4), 0n));
  expect(() => together(...several.map((one) => [one, false] as const))).toThrow(RangeError);
});
