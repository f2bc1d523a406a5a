/** Which words satisfy several tests of one argument at once: for formats that know a single test of each. */
import type { Arg, Test } from "./filter.ts";

/** Words, as ranges in order that do not touch, or as patterns once a mask was asked for. Never none. */
export type Words = { readonly ranges: readonly Range[] } | { readonly patterns: readonly Pattern[] };

type Range = readonly [first: bigint, last: bigint];

/** Words that have this value under this mask. */
interface Pattern {
  readonly mask: bigint;
  readonly value: bigint;
}

const TOP = 0xffff_ffff_ffff_ffffn;
const EVERY: Range = [0n, TOP];
/** So many ways of putting it are too many: each would be a rule of its own, and all are compared with each other. */
export const MOST = 256;

export const ANY: Words = { ranges: [EVERY] };

/** Those of the words for which the test holds, or does not; nothing where there are none. */
export function narrowed(words: Words, test: Test<bigint>, holds: boolean): Words | undefined {
  if (test.op !== "masked" && "ranges" in words) {
    const limits = rangesOf(test, holds);
    const ranges = words.ranges.flatMap((one) => limits.flatMap((other) => common(one, other)));
    return ranges.length > 0 ? { ranges } : undefined;
  }
  const patterns = "patterns" in words ? words.patterns : words.ranges.flatMap(blocksOf);
  const limits = test.op === "masked" ? [test] : rangesOf(test, holds).flatMap(blocksOf);
  const without = test.op === "masked" && !holds;
  const left: Pattern[] = [];
  for (const one of patterns) {
    left.push(...limits.flatMap((other) => (without ? outside(one, other) : inside(one, other))));
    if (left.length > MOST)
      throw new RangeError(`Cannot join the tests of argument ${test.arg}: it takes over ${MOST} masks`);
  }
  return left.length > 0 ? { patterns: left } : undefined;
}

/** Tests of which one holds for each of the words, and none for others. A mask of 0 leaves every word. */
export function testsOf(words: Words, arg: Arg): Test<bigint>[] {
  const testOf = ({ mask, value }: Pattern): Test<bigint> =>
    mask === TOP ? { arg, op: "eq", value } : { arg, op: "masked", mask, value };
  if ("patterns" in words) return words.patterns.map(testOf);
  const [one, two] = words.ranges;
  if (words.ranges.length === 2 && one![0] === 0n && two![1] === TOP && two![0] - one![1] === 2n) {
    return [{ arg, op: "ne", value: one![1] + 1n }];
  }
  return words.ranges.flatMap((range): Test<bigint>[] => {
    const [first, last] = range;
    if (first === 0n && last > 0n && last < TOP) return [{ arg, op: "le", value: last }];
    if (first > 0n && first < TOP && last === TOP) return [{ arg, op: "ge", value: first }];
    return blocksOf(range).map(testOf);
  });
}

const OPPOSITE = { eq: "ne", ne: "eq", lt: "ge", ge: "lt", gt: "le", le: "gt" } as const;

function rangesOf({ op, value }: Exclude<Test<bigint>, { op: "masked" }>, holds: boolean): readonly Range[] {
  const ranges = {
    eq: [[value, value]],
    ne: [
      [0n, value - 1n],
      [value + 1n, TOP],
    ],
    lt: [[0n, value - 1n]],
    le: [[0n, value]],
    gt: [[value + 1n, TOP]],
    ge: [[value, TOP]],
  } as const;
  return ranges[holds ? op : OPPOSITE[op]].flatMap((range) => common(range, EVERY));
}

function common([a, b]: Range, [c, d]: Range): Range[] {
  const [first, last]: Range = [a > c ? a : c, b < d ? b : d];
  return first <= last ? [[first, last]] : [];
}

/** The range as blocks that differ in low bits only, each as large as it can be where it begins. */
function blocksOf([first, last]: Range): Pattern[] {
  const blocks: Pattern[] = [];
  for (let value = first; value <= last; ) {
    let size = 1n;
    while (value % (2n * size) === 0n && value + 2n * size - 1n <= last) size *= 2n;
    blocks.push({ mask: TOP - size + 1n, value });
    value += size;
  }
  return blocks;
}

const apart = (a: Pattern, b: Pattern) => (a.mask & b.mask & (a.value ^ b.value)) !== 0n;

const inside = (a: Pattern, b: Pattern): Pattern[] =>
  apart(a, b) ? [] : [{ mask: a.mask | b.mask, value: a.value | b.value }];

/** What `b` leaves of `a`: for each bit that it asks for, the words that are as it has them up to there and differ in that. */
function outside(a: Pattern, b: Pattern): Pattern[] {
  if (apart(a, b)) return [a];
  const left: Pattern[] = [];
  let { mask, value } = a;
  for (let bit = 1n; bit <= TOP; bit <<= 1n) {
    if ((b.mask & ~a.mask & bit) === 0n) continue;
    mask |= bit;
    left.push({ mask, value: value | (~b.value & bit) });
    value |= b.value & bit;
  }
  return left;
}
