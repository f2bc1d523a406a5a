/** Random filters, and what their rules say as they read: neither shares code with the compiler. */
import type { Action, Arg, Condition, Filter, Rule, Test, Word } from "../../../platform/linux/seccomp/index.ts";
import { GROUPS } from "../../../platform/linux/seccomp/index.ts";
import { ERRNO, type Machine, NUMBERS, type SyscallName } from "../../../syscalls/linux/numbers.ts";

export const ARCH = { x64: 0xc000003e, arm64: 0xc00000b7 } as const;
export const X32 = 0x40000000;
export const ALLOW = 0x7fff0000;
export const KILL = 0x80000000;
export const TOP = 2n ** 64n - 1n;
export const EDGES = [0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 32n + 1n, 2n ** 63n, TOP];

export const seed = Number(process.env.CAISSON_SEED ?? Date.now() % 2 ** 32);

/** mulberry32. */
function generator(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
}
let next: (() => number) | undefined;
/** Says where it begins when it is first asked. */
export function random(): number {
  if (next === undefined) console.log(`seccomp filters: CAISSON_SEED=${seed}`);
  next ??= generator(seed);
  return next();
}
export const below = (limit: number) => random() % limit;
export const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;
export const several = <T>(count: number, make: (index: number) => T) =>
  Array.from({ length: count }, (_, i) => make(i));

/** A word near an edge, or of any size. */
export function word(): bigint {
  if (below(2) === 0) return BigInt.asUintN(64, pick(EDGES) + BigInt(below(3)) - 1n);
  return ((BigInt(random()) << 32n) | BigInt(random())) >> BigInt(below(64));
}

export const argument = () => below(6) as Arg;

/** A test of an argument, near a few words so that tests meet on the same ones. */
export function randomTest(arg = argument(), near: () => bigint = word): Test<bigint> {
  const op = pick(["eq", "ne", "lt", "le", "gt", "ge", "masked"] as const);
  if (op !== "masked") return { arg, op, value: near() };
  const mask = near();
  return { arg, op, mask, value: below(3) === 0 ? 0n : near() & mask };
}

/** All and any, within each other. */
export function randomCondition(test: () => Test<bigint>, depth = 3): Condition<bigint> {
  if (depth === 0 || below(2) === 0) return test();
  const parts = several(1 + below(4), () => randomCondition(test, depth - 1));
  return below(2) === 0 ? { all: parts } : { any: parts };
}

export const randomAction = (): Action =>
  pick<Action>([
    ...(["allow", "log", "notify", "trap", "kill-process", "kill-thread"] as const),
    { errno: below(4096) },
    { errno: pick(Object.keys(ERRNO) as (keyof typeof ERRNO)[]) },
    { trap: below(65536) },
    { trace: below(65536) },
  ]);

const NAMES = Object.keys({ ...NUMBERS.x64, ...NUMBERS.arm64 }) as SyscallName[];
const GROUP_WORDS = Object.keys(GROUPS).map((group) => `@${group}` as Rule["call"]);

export function randomFilter(machine: Machine): Filter {
  const always = new Map<string, Action>(); // a second one has to agree with the first
  const rules = several(below(pick([2, 30, 300])), (): Rule => {
    const call = below(10) === 0 ? pick(GROUP_WORDS) : pick(NAMES);
    if (below(3) > 0) return { call, action: always.getOrInsertComputed(call, randomAction) };
    return { call, action: randomAction(), when: several(1 + below(3), () => randomCondition(randomTest)) };
  });
  return { machine, default: randomAction(), rules };
}

function holds(claim: Condition, args: readonly bigint[]): boolean {
  if ("all" in claim) return claim.all.every((one) => holds(one, args));
  if ("any" in claim) return claim.any.some((one) => holds(one, args));
  const arg = args[claim.arg] ?? 0n;
  const value = BigInt(claim.value);
  if (claim.op === "eq") return arg === value;
  if (claim.op === "ne") return arg !== value;
  if (claim.op === "lt") return arg < value;
  if (claim.op === "le") return arg <= value;
  if (claim.op === "gt") return arg > value;
  if (claim.op === "ge") return arg >= value;
  return claim.op === "masked" && (arg & BigInt(claim.mask)) === value;
}

/** The words that conditions compare with, by argument. */
export function wordsOf(conditions: readonly Condition[]): { readonly arg: Arg; readonly value: bigint }[] {
  return conditions.flatMap((one) => {
    if ("all" in one) return wordsOf(one.all);
    if ("any" in one) return wordsOf(one.any);
    return { arg: one.arg, value: BigInt(one.value as Word) };
  });
}

export function resultOf(action: Action): number {
  if (action === "allow") return ALLOW;
  if (action === "log") return 0x7ffc0000;
  if (action === "notify") return 0x7fc00000;
  if (action === "trap") return 0x30000;
  if (action === "kill-process") return KILL;
  if (action === "kill-thread") return 0;
  if ("trap" in action) return 0x30000 + action.trap;
  if ("trace" in action) return 0x7ff00000 + action.trace;
  return 0x50000 + (typeof action.errno === "string" ? ERRNO[action.errno] : action.errno);
}

/** Of each machine, a call's name and group by its number. */
const CALLS = Object.fromEntries(
  Object.entries(NUMBERS).map(([machine, numbers]) => [
    machine,
    new Map(
      Object.entries(numbers).map(([name, number]) => [
        number,
        [name, `@${Object.entries(GROUPS).find(([, calls]) => (calls as readonly string[]).includes(name))![0]}`],
      ]),
    ),
  ]),
) as Readonly<Record<string, ReadonlyMap<number, readonly string[]>>>;

/** The rules as they read. */
export function evaluate({ machine, rules, default: otherwise }: Filter, nr: number, args: readonly bigint[]): number {
  if (machine === "x64" && nr >>> 0 >= X32) return KILL;
  for (const word of CALLS[machine]!.get(nr) ?? []) {
    const rule = rules.find(({ call, when }) => call === word && (when ?? []).every((claim) => holds(claim, args)));
    if (rule !== undefined) return resultOf(rule.action);
  }
  return resultOf(otherwise);
}
