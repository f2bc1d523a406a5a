/** Why a filter decides as it does, from its rules. */
import { NUMBERS, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import {
  type Action,
  type Choice,
  type Condition,
  type Filter,
  normalized,
  type Rule,
  type Test,
  type Word,
  wordOf,
  X32,
} from "./filter.ts";

export interface Explanation {
  readonly action: Action;
  /** Left out where no rule of the filter decided. */
  readonly rule?: Rule;
  /** One sentence for people. */
  readonly because: string;
}

/**
 * What becomes of a call with these arguments, and which rule says so. Arguments that are left out count as 0. Throws TypeError for a call
 * that the filter's machine does not have, and what `compile` throws for the filter.
 */
export function explain(filter: Filter, call: SyscallName | number, args: readonly Word[] = []): Explanation {
  const { machine, calls } = normalized(filter);
  if (args.length > 6) throw new RangeError(`Cannot explain a call with ${args.length} arguments: expected 6 at most`);
  const words = args.map(wordOf);
  const number = typeof call === "number" ? call : numberOf(call, filter);
  if (!Number.isInteger(number) || number !== (number | 0)) {
    throw new RangeError(`Cannot explain call ${number}: expected a whole number of 32 bits`);
  }
  if (machine === "x64" && number >>> 0 >= X32) {
    return { action: "kill-process", because: `Numbers from ${X32} on are x32's, which every filter for x64 kills` };
  }
  const choices = calls.get(number);
  const name = nameOf(number, filter);
  if (choices === undefined) return { action: filter.default, because: `No rule speaks of ${name}: the default` };
  const found = choices.find(({ when }) => when === undefined || holds(when, words))!;
  return { action: found.rule?.action ?? filter.default, ...reason(filter, { name, choices, found, words }) };
}

function numberOf(call: SyscallName, { machine }: Filter): number {
  const numbers: Partial<Record<SyscallName, number>> = NUMBERS[machine];
  if (Object.hasOwn(numbers, call)) return numbers[call]!;
  throw new TypeError(`Cannot explain ${call}: ${machine} has no such call`);
}

function nameOf(number: number, { machine }: Filter): string {
  return Object.entries(NUMBERS[machine]).find(([, known]) => known === number)?.[0] ?? `call ${number}`;
}

function holds(condition: Condition<bigint>, args: readonly bigint[]): boolean {
  if ("all" in condition) return condition.all.every((one) => holds(one, args));
  if ("any" in condition) return condition.any.some((one) => holds(one, args));
  return TESTS[condition.op](args[condition.arg] ?? 0n, condition as never); // the operator says which test it is
}

const TESTS: { readonly [Op in Test["op"]]: (arg: bigint, test: Extract<Test<bigint>, { op: Op }>) => boolean } = {
  eq: (arg, { value }) => arg === value,
  ne: (arg, { value }) => arg !== value,
  lt: (arg, { value }) => arg < value,
  le: (arg, { value }) => arg <= value,
  gt: (arg, { value }) => arg > value,
  ge: (arg, { value }) => arg >= value,
  masked: (arg, { mask, value }) => (arg & mask) === value,
};

interface Found {
  readonly name: string;
  readonly choices: readonly Choice[];
  readonly found: Choice;
  readonly words: readonly bigint[];
}

function reason(filter: Filter, { name, choices, found, words }: Found): Pick<Explanation, "rule" | "because"> {
  const { rule, when } = found;
  if (rule === undefined) {
    const wanted = new Set(choices.slice(0, -1).map(({ when }) => text(when!)));
    return {
      because: `None of the rules for ${name} holds ${given(words)}, the default: they want ${[...wanted].join("; or ")}`,
    };
  }
  const where = `rules[${filter.rules.indexOf(rule)}]${rule.call.startsWith("@") ? `, for ${rule.call},` : ""}`;
  const which = when === undefined ? "whatever its arguments" : `where ${text(when)}`;
  return {
    rule,
    because: `${where} speaks of ${name} ${which}${when === undefined ? "" : `, which holds ${given(words)}`}`,
  };
}

const hex = (word: bigint) => `0x${word.toString(16)}`;
const given = (words: readonly bigint[]) => `for (${words.map(hex).join(", ")})`;
const SIGNS = { eq: "==", ne: "!=", lt: "<", le: "<=", gt: ">", ge: ">=" } as const;

function text(condition: Condition<bigint>, nested = false): string {
  if (!("all" in condition || "any" in condition)) {
    const arg = `args[${condition.arg}]`;
    if (condition.op === "masked") return `${arg} & ${hex(condition.mask)} == ${hex(condition.value)}`;
    return `${arg} ${SIGNS[condition.op]} ${hex(condition.value)}`;
  }
  const [parts, word] = "all" in condition ? [condition.all, " and "] : [condition.any, " or "];
  const joined = parts.map((one) => text(one, parts.length > 1)).join(word);
  return nested && parts.length > 1 ? `(${joined})` : joined;
}
