/** Rules about system calls as users write them, and what they mean on one machine. */
import { ERRNO, type Machine, NUMBERS, SECCOMP_RET, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { GROUPS, type Group } from "./groups.ts";

export type ErrnoName = keyof typeof ERRNO;

/**
 * What the kernel does with a call. `allow` makes it, `log` makes it and says so in the kernel's log, `notify` asks whoever holds the
 * filter's listener, `trap` sends SIGSYS with the data as its `si_errno`, `trace` asks the tracer with the data, an `errno` is the
 * answer instead (0 is one, too), and the others end the process or the calling thread.
 */
export type Action =
  | "allow"
  | "log"
  | "notify"
  | "trap"
  | "kill-process"
  | "kill-thread"
  | { readonly errno: number | ErrnoName }
  | { readonly trap: number }
  | { readonly trace: number };

/** 64 bits, unsigned. JSON has no such numbers: `"0xffffffff00000000"`, or decimal text. */
export type Word = bigint | number | string;

export type Arg = 0 | 1 | 2 | 3 | 4 | 5;

/**
 * A claim about one argument, as an unsigned word of 64 bits; `masked` claims `(argument & mask) === value`. Where the kernel
 * takes an argument as an `int`, the caller decides what is in the upper half: test such an argument with a mask of 32 bits
 * in a rule that denies.
 */
export type Test<W = Word> =
  | { readonly arg: Arg; readonly op: "eq" | "ne" | "lt" | "le" | "gt" | "ge"; readonly value: W }
  | { readonly arg: Arg; readonly op: "masked"; readonly mask: W; readonly value: W };

/** A test, or several of which all or at least one must hold. */
export type Condition<W = Word> =
  | Test<W>
  | { readonly all: readonly Condition<W>[] }
  | { readonly any: readonly Condition<W>[] };

/** What is to happen to one call or to each of a group, whatever the arguments, or where all of the conditions hold. */
export interface Rule {
  readonly call: SyscallName | `@${Group}`;
  readonly action: Action;
  readonly when?: readonly Condition[];
}

/**
 * A policy on system calls; plain data, which JSON can hold. Of the rules for one call the first that matches counts, and those by the
 * call's name come before those by its group. Where none does, the default. A rule for a call that only another machine has says nothing.
 */
export interface Filter {
  readonly machine: Machine;
  readonly default: Action;
  readonly rules: readonly Rule[];
}

/** One way for a call to go. */
export interface Choice {
  /** Whatever the arguments, where it is left out. */
  readonly when?: Condition<bigint>;
  /** SECCOMP_RET with its data. */
  readonly result: number;
  /** What it comes from: left out for the default. */
  readonly rule?: Rule;
}

/** A filter that has been checked: numbers instead of names. */
export interface Normal {
  readonly machine: Machine;
  readonly default: number;
  /** By a call's number. The first that holds counts, and the last holds whatever the arguments. */
  readonly calls: ReadonlyMap<number, readonly Choice[]>;
}

/** From here on numbers mean x32's calls, down to -1, which no machine calls. __X32_SYSCALL_BIT of asm/unistd.h */
export const X32 = 0x4000_0000;

/** Throws TypeError or RangeError for what makes no sense, and for whatever could mean more than is written. */
export function normalized(filter: Filter): Normal {
  const { machine, default: otherwise, rules } = checkedKeys(filter, ["machine", "default", "rules"], "a filter");
  if (!Object.hasOwn(NUMBERS, machine)) throw new TypeError(`Cannot compile for ${machine}: expected x64 or arm64`);
  if (!Array.isArray(rules)) throw new TypeError(`Cannot compile the rules ${describe(rules)}: expected a list`);
  const result = resultOf(otherwise);
  const numbers: Partial<Record<SyscallName, number>> = NUMBERS[machine];
  const calls = new Map<number, readonly Choice[]>();
  for (const [call, choices] of choicesOf(rules)) {
    const number = Object.hasOwn(numbers, call) ? numbers[call] : undefined;
    if (number !== undefined)
      calls.set(number, choices.at(-1)?.when === undefined ? choices : [...choices, { result }]);
  }
  return { machine, default: result, calls };
}

/** Of all calls that rules speak of: those by name, then those by group. */
function choicesOf(rules: readonly Rule[]): Map<SyscallName, Choice[]> {
  const byName = new Map<SyscallName, Choice[]>();
  const byGroup = new Map<SyscallName, Choice[]>();
  for (const [word, some] of Map.groupBy(
    rules,
    (rule) => checkedKeys(rule, ["call", "action", "when"], "a rule").call,
  )) {
    const choices = reachable(word, some.map(choiceOf));
    for (const call of namedBy(word)) (word.startsWith("@") ? byGroup : byName).set(call, choices);
  }
  for (const [call, choices] of byGroup) {
    const named = byName.get(call) ?? [];
    if (named.length === 0 || named.at(-1)!.when !== undefined) byName.set(call, [...named, ...choices]);
  }
  return byName;
}

function namedBy(word: Rule["call"]): readonly SyscallName[] {
  if (typeof word !== "string") throw new TypeError(`Cannot compile a rule for ${describe(word)}: expected a name`);
  if (word.startsWith("@")) {
    const group = word.slice(1);
    if (Object.hasOwn(GROUPS, group)) return GROUPS[group as Group];
    const names = Object.keys(GROUPS).map((name) => `@${name}`);
    throw new TypeError(`Cannot compile a rule for ${word}: expected one of ${names.join(", ")}`);
  }
  if (Object.values(NUMBERS).some((table) => Object.hasOwn(table, word))) return [word as SyscallName];
  throw new TypeError(`Cannot compile a rule for ${word}: no machine has such a call`);
}

/** Up to the first that holds whatever the arguments. What stands behind it may agree with it, not contradict it. */
function reachable(word: Rule["call"], choices: readonly Choice[]): Choice[] {
  const [last, ...more] = choices.filter(({ when }) => when === undefined);
  if (last === undefined) return [...choices];
  if (more.some(({ result }) => result !== last.result)) {
    throw new TypeError(`Cannot compile the rules for ${word}: they contradict each other`);
  }
  return choices.slice(0, choices.indexOf(last) + 1);
}

function choiceOf(rule: Rule): Choice {
  const result = resultOf(rule.action);
  // `when: undefined` may be a condition that somebody lost, and without one the rule says more.
  if (!("when" in rule)) return { result, rule };
  return { result, rule, when: { all: list(rule.when, `the conditions for ${rule.call}`).map((one) => checked(one)) } };
}

/** The kernel knows no greater ones. */
export const MAX_ERRNO = 4095;
const MAX_DATA = SECCOMP_RET.DATA;
const RESULTS = {
  allow: SECCOMP_RET.ALLOW,
  log: SECCOMP_RET.LOG,
  notify: SECCOMP_RET.USER_NOTIF,
  trap: SECCOMP_RET.TRAP,
  "kill-process": SECCOMP_RET.KILL_PROCESS,
  "kill-thread": SECCOMP_RET.KILL_THREAD,
} as const;

/** SECCOMP_RET with its data. */
export function resultOf(action: Action): number {
  if (typeof action === "string" && Object.hasOwn(RESULTS, action)) return RESULTS[action];
  const [key, ...more] = typeof action === "object" && action !== null ? Object.keys(action) : [];
  const given = (action as Partial<Record<"errno" | "trap" | "trace", number | ErrnoName>>)?.[key as "errno"];
  if (more.length === 0) {
    if (key === "errno") return SECCOMP_RET.ERRNO | within(errnoOf(given), MAX_ERRNO, "errno");
    if (key === "trap") return SECCOMP_RET.TRAP | within(given, MAX_DATA, "trap data");
    if (key === "trace") return SECCOMP_RET.TRACE | within(given, MAX_DATA, "trace data");
  }
  const names = Object.keys(RESULTS).join(", ");
  throw new TypeError(
    `Cannot compile the action ${describe(action)}: expected ${names}, or an object with errno, trap or trace`,
  );
}

function errnoOf(given: unknown): unknown {
  if (typeof given !== "string") return given;
  if (Object.hasOwn(ERRNO, given)) return ERRNO[given as ErrnoName];
  throw new TypeError(`Cannot answer with errno ${given}: expected a name such as EPERM, or a number`);
}

function within(given: unknown, most: number, what: string): number {
  if (typeof given === "number" && Number.isInteger(given) && given >= 0 && given <= most) return given;
  throw new RangeError(`Cannot answer with ${what} ${describe(given)}: expected 0 to ${most}`);
}

const OPERATORS: readonly string[] = ["eq", "ne", "lt", "le", "gt", "ge", "masked"] satisfies Test["op"][];
const DEEPEST = 32;

function checked(condition: Condition, depth = 0): Condition<bigint> {
  if (depth > DEEPEST) throw new RangeError(`Cannot test conditions within more than ${DEEPEST} others`);
  const nested = (given: readonly Condition[], key: string) =>
    list(given, `"${key}"`).map((one) => checked(one, depth + 1));
  if (typeof condition !== "object" || condition === null) {
    throw new TypeError(
      `Cannot test ${describe(condition)}: expected an object with arg, op and value, or all, or any`,
    );
  }
  if ("all" in condition) return { all: nested(checkedKeys(condition, ["all"], "a condition").all, "all") };
  if ("any" in condition) return { any: nested(checkedKeys(condition, ["any"], "a condition").any, "any") };
  return checkedTest(condition);
}

function checkedTest(test: Test): Test<bigint> {
  const { arg, op } = test;
  if (!OPERATORS.includes(op)) {
    throw new TypeError(`Cannot test by ${describe(op)}: expected one of ${OPERATORS.join(", ")}`);
  }
  checkedKeys(test, op === "masked" ? ["arg", "op", "mask", "value"] : ["arg", "op", "value"], "a test");
  if (!Number.isInteger(arg) || arg < 0 || arg > 5) {
    throw new RangeError(`Cannot test argument ${describe(arg)}: expected 0 to 5`);
  }
  const value = wordOf(test.value);
  if (test.op !== "masked") return { arg, op: test.op, value };
  const mask = wordOf(test.mask);
  // It would never hold, and a rule that denies would be gone without a word.
  if ((value & ~mask) !== 0n)
    throw new RangeError(`Cannot compare with ${value}: it has bits outside the mask ${mask}`);
  return { arg, op: test.op, mask, value };
}

/** Zeros in front would mean base 8 to some who read it. */
const WORD = /^(?:0|[1-9]\d{0,19}|0x[\da-f]{1,16})$/i;

/** The word as a number. Throws for one that is not within 64 bits, and for a number that has lost bits already. */
export function wordOf(word: Word): bigint {
  if (typeof word === "string" ? !WORD.test(word) : typeof word !== "bigint" && typeof word !== "number") {
    throw new TypeError(`Cannot compare with ${describe(word)}: expected a bigint, or text as 12 or 0xc`);
  }
  if (typeof word === "number" && !Number.isSafeInteger(word)) {
    throw new RangeError(`Cannot compare with ${word}: expected a whole number below 2^53, or text, or a bigint`);
  }
  const value = BigInt(word);
  if (BigInt.asUintN(64, value) === value) return value;
  throw new RangeError(`Cannot compare with ${word}: expected 0 to 2^64 - 1`);
}

function list<T>(given: readonly T[] | undefined, what: string): readonly T[] {
  if (!Array.isArray(given)) throw new TypeError(`Cannot test ${what}: expected a list, or nothing for every call`);
  if (given.length === 0) throw new TypeError(`Cannot test ${what}: the list is empty, leave it out for every call`);
  return Array.from(given); // where there are holes map() would make nothing of them, and nothing to test is true
}

/** A key that we do not know would be a wish that is not kept. */
function checkedKeys<T extends object>(given: T, known: readonly string[], what: string): T {
  if (typeof given !== "object" || given === null) {
    throw new TypeError(`Cannot compile ${describe(given)}: expected ${what}, an object with ${known.join(", ")}`);
  }
  for (const key of Object.keys(given)) {
    if (!known.includes(key)) {
      throw new TypeError(`Cannot compile ${what} with ${describe(key)}: expected ${known.join(", ")}`);
    }
  }
  return given;
}

const describe = (value: unknown) => (typeof value === "bigint" ? `${value}` : (JSON.stringify(value) ?? `${value}`));
