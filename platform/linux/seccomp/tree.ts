/** What becomes of a call, as a tree of decisions whose equal parts are one: what lies between a filter and its program. */
import { AUDIT_ARCH, BPF, SECCOMP_RET } from "../../../syscalls/linux/numbers.ts";
import { type Arg, type Choice, type Condition, type Normal, type Test, X32 } from "./filter.ts";
import { FULL, isSingle, type Known, learned, type Question, shared, told } from "./known.ts";

export interface Branch extends Question {
  /** Greater than those of both ways on. */
  readonly id: number;
  readonly yes: Decision;
  readonly no: Decision;
}

interface Leaf {
  readonly id: number;
  /** SECCOMP_RET with its data. */
  readonly result: number;
}

export type Decision = Branch | Leaf;

export interface Tree {
  readonly root: Decision;
  /** What becomes of the calls that the filter has rules for, by number. */
  readonly calls: ReadonlyMap<number, Decision>;
}

/** struct seccomp_data. Both machines store the lower half of a word first. */
export const DATA = { nr: 0, arch: 4, low: (arg: Arg) => 16 + 8 * arg, high: (arg: Arg) => 20 + 8 * arg } as const;
export const ARCH = { x64: AUDIT_ARCH.X86_64, arm64: AUDIT_ARCH.AARCH64 } as const;

/** The architecture is asked for first: elsewhere the numbers mean other calls. Then the number is looked for, then come the arguments. */
export function treeOf({ machine, default: otherwise, calls }: Normal): Tree {
  const forest = new Forest();
  const known = new Map<readonly Choice[], Decision>(); // calls of one group share their list
  const decisions = new Map<number, Decision>();
  for (const [number, choices] of calls) {
    const decision = known.get(choices) ?? decide(forest, choices);
    known.set(choices, decision);
    decisions.set(number, decision);
  }
  const killed = forest.leaf(SECCOMP_RET.KILL_PROCESS);
  const above = machine === "x64" ? [{ first: X32, decision: killed }] : [];
  const segments = segmentsOf(decisions, forest.leaf(otherwise), above);
  const ours = { word: DATA.arch, mask: FULL, op: "eq", value: ARCH[machine] } as const;
  return { root: forest.branch(ours, search(forest, segments), killed), calls: decisions };
}

/** Everything that can be reached, each before the ways on from it. */
function reachable(root: Decision): Decision[] {
  const found = new Set([root]);
  for (const decision of found) if (!("result" in decision)) found.add(decision.yes).add(decision.no); // grows meanwhile
  return [...found].sort((a, b) => b.id - a.id);
}

/** Makes decisions. Of equal ones there is one, and what is asked for nothing is left out. */
class Forest {
  #made = 0;
  readonly #leaves = new Map<number, Leaf>();
  /** By both ways on: a number for the two is found faster than a text for all. */
  readonly #branches = new Map<number, Branch[]>();

  leaf(result: number): Decision {
    return this.#leaves.getOrInsertComputed(result, () => ({ id: this.#made++, result }));
  }

  branch({ word, mask, op, value }: Question, yes: Decision, no: Decision): Decision {
    if (yes === no) return yes;
    const alike = this.#branches.getOrInsertComputed(yes.id * MOST + no.id, () => []);
    const same = (one: Branch) => one.word === word && one.value === value && one.mask === mask && one.op === op;
    let branch = alike.find(same);
    if (branch === undefined) {
      branch = { id: this.#made++, word, mask, op, value, yes, no };
      alike.push(branch);
    }
    return branch;
  }
}

/** More decisions than memory holds; its square is a number still. */
const MOST = 2 ** 26;

// From conditions to decisions. Each is told where to go on, so what stands behind several ways is there once.

function decide(forest: Forest, choices: readonly Choice[]): Decision {
  const last = forest.leaf(choices.at(-1)!.result);
  if (choices.length === 1) return last; // as with most calls
  const first = choices
    .slice(0, -1)
    .reduceRight((next, { when, result }) => ask(forest, when!, forest.leaf(result), next), last);
  return simplified(forest, first);
}

function ask(forest: Forest, condition: Condition<bigint>, yes: Decision, no: Decision): Decision {
  if ("all" in condition) return condition.all.reduceRight((next, one) => ask(forest, one, next, no), yes);
  if ("any" in condition) return condition.any.reduceRight((next, one) => ask(forest, one, yes, next), no);
  switch (condition.op) {
    case "eq":
      return equal(forest, { ...condition, mask: ALL }, yes, no);
    case "ne":
      return equal(forest, { ...condition, mask: ALL }, no, yes);
    case "masked":
      return equal(forest, condition, yes, no);
    case "ge":
      return least(forest, condition, yes, no);
    case "lt":
      return least(forest, condition, no, yes);
    case "gt":
      return least(forest, { ...condition, value: condition.value + 1n }, yes, no);
    case "le":
      return least(forest, { ...condition, value: condition.value + 1n }, no, yes);
  }
}

const HALF = 0xffff_ffffn;
const ALL = 0xffff_ffff_ffff_ffffn;

type Masked = Pick<Extract<Test<bigint>, { op: "masked" }>, "arg" | "mask" | "value">;

/** Looks at the lower half first: that is where values differ. */
function equal(forest: Forest, { arg, mask, value }: Masked, yes: Decision, no: Decision): Decision {
  const high = half({ word: DATA.high(arg), mask: Number(mask >> 32n), value: Number(value >> 32n) });
  const low = half({ word: DATA.low(arg), mask: Number(mask & HALF), value: Number(value & HALF) });
  return low(high(yes));

  function half({ word, mask, value }: Omit<Question, "op">): (yes: Decision) => Decision {
    if (mask === 0) return (yes) => yes;
    // Single bits, and several that are to be 0, need no masking, after which the word would be lost.
    if (mask !== FULL && value === 0)
      return (yes) => forest.branch({ word, mask: FULL, op: "set", value: mask }, no, yes);
    if (value === mask && isSingle(mask)) {
      return (yes) => forest.branch({ word, mask: FULL, op: "set", value: mask }, yes, no);
    }
    return (yes) => forest.branch({ word, mask, op: "eq", value }, yes, no);
  }
}

/** The upper half decides, unless it is equal, which it is most of the time. */
function least(forest: Forest, { arg, value }: Pick<Masked, "arg" | "value">, yes: Decision, no: Decision): Decision {
  if (value > ALL) return no;
  const atLeast = (word: number, value: bigint, yes: Decision, no: Decision) =>
    value > HALF
      ? no
      : value === 0n
        ? yes
        : forest.branch({ word, mask: FULL, op: "ge", value: Number(value) }, yes, no);
  const high = DATA.high(arg);
  const above = atLeast(high, (value >> 32n) + 1n, yes, no);
  const tie = atLeast(DATA.low(arg), value & HALF, yes, no);
  return forest.branch({ word: high, mask: FULL, op: "eq", value: Number(value >> 32n) }, tie, above);
}

/** So many decisions do not become few enough for the kernel, and would be looked through for long. */
const HOPELESS = 4 * BPF.MAXINSNS;

/**
 * The same without questions whose answer follows from those before. Decisions are visited after all that lead to them; from one to the
 * next goes what is known on every way there, and each way skips what it can answer.
 */
function simplified(forest: Forest, root: Decision): Decision {
  if ("result" in root) return root;
  const decisions = reachable(root);
  const words = decisions.flatMap((decision) => ("result" in decision ? [] : [decision.word]));
  if (new Set(words).size === words.length || decisions.length > HOPELESS) return root;
  const known = new Map<Decision, Known>([[root, new Map()]]);
  const ways = new Map<Decision, readonly [yes: Decision, no: Decision]>();
  for (const decision of decisions) {
    const facts = known.get(decision);
    if (facts === undefined || "result" in decision) continue;
    const way = (answer: boolean) => {
      const more = learned(facts, decision, answer);
      let next = answer ? decision.yes : decision.no;
      while (!("result" in next)) {
        const follows = told(more, next);
        if (follows === undefined) break;
        next = follows ? next.yes : next.no;
      }
      const others = known.get(next);
      known.set(next, others === undefined ? more : shared(others, more));
      return next;
    };
    ways.set(decision, [way(true), way(false)]);
  }
  const made = new Map<Decision, Decision>();
  const again = (decision: Decision) => ("result" in decision ? decision : made.get(decision)!);
  for (const decision of decisions.toReversed()) {
    const [yes, no] = ways.get(decision) ?? [];
    if (yes !== undefined) made.set(decision, forest.branch(decision as Branch, again(yes), again(no!)));
  }
  return again(root);
}

// From numbers to decisions: the line of all numbers, cut where what becomes of them changes.

/** The numbers from `first` to the next segment. */
interface Segment {
  readonly first: number;
  readonly decision: Decision;
}

function segmentsOf(decisions: ReadonlyMap<number, Decision>, gap: Decision, above: readonly Segment[]): Segment[] {
  const segments: Segment[] = [{ first: 0, decision: gap }];
  const cut = (first: number, decision: Decision) => {
    if (segments.at(-1)!.first === first) segments.pop(); // of two cuts in one place the later counts
    if (segments.at(-1)?.decision !== decision) segments.push({ first, decision });
  };
  for (const [number, decision] of [...decisions].sort(([a], [b]) => a - b)) {
    cut(number, decision);
    cut(number + 1, gap);
  }
  for (const { first, decision } of above) cut(first, decision);
  return segments;
}

function search(forest: Forest, segments: readonly Segment[]): Decision {
  const [below, one, above] = segments as readonly [Segment, ...Segment[]];
  if (one === undefined) return below.decision;
  const number = { word: DATA.nr, mask: FULL, value: one.first };
  if (segments.length === 3 && below.decision === above!.decision && above!.first === one.first + 1) {
    return forest.branch({ ...number, op: "eq" }, one.decision, below.decision);
  }
  const middle = segments.length >> 1;
  const [lower, upper] = [segments.slice(0, middle), segments.slice(middle)];
  const at = { ...number, op: "ge", value: upper[0]!.first } as const;
  return forest.branch(at, search(forest, upper), search(forest, lower));
}
