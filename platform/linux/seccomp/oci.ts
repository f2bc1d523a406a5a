/** Filters out of the seccomp profiles of containers, and filters as such profiles. */
import { NUMBERS, SECCOMP_RET, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import type { Action, Arg, Choice, Condition, Filter, Rule, Test, Word } from "./filter.ts";
import { normalized, resultOf } from "./filter.ts";
import type { Container, Entry, OciAction, OciArg, OciSeccomp, OciSyscall, OciWord } from "./profile.ts";
import { MACHINES, OPERATORS, profileOf, RAW } from "./profile.ts";
import { ANY, MOST, narrowed, testsOf, type Words } from "./words.ts";

/**
 * The filter that a profile means: `linux.seccomp` of the OCI runtime specification, Docker's or Podman's; as text, or as what
 * `JSON.parse` made of it, if no number in it is beyond 2^53. Throws TypeError for what a filter cannot keep, with the place
 * where it stands. It is read as runc and crun apply it, through libseccomp:
 *
 * - A rule for what is done by default anyway says nothing. Of the others for one call the first without tests counts, if there is one.
 * - Tests of one entry are and-ed. Where two of them are about the same argument, all are or-ed.
 * - Calls that only other machines have mean nothing. Names that nobody knows are left out where the default is at most as wide.
 *
 * Other than there, calls of 32-bit machines and of x32 end the process, also where `architectures` or `archMap` name these; and
 * it throws where tests for one call overlap and their actions differ, for which of them counts is libseccomp's secret. What runc
 * adds by itself is not in the profile: it answers ENOSYS to calls newer than those named, which get the default here.
 */
export function fromOci(profile: unknown, container: Container): Filter {
  const { default: otherwise, entries } = profileOf(profile, container);
  const said = entries
    .filter(({ action }) => resultOf(action) !== resultOf(otherwise))
    .flatMap((entry) => entry.calls.map((call) => ({ call, entry })));
  const rules = [...Map.groupBy(said, ({ call }) => call)].flatMap(([call, some]) => {
    return rulesOf(call, [...new Set(some.map(({ entry }) => entry))]);
  });
  return { machine: container.machine, default: otherwise, rules };
}

function rulesOf(call: SyscallName, entries: readonly Entry[]): Rule[] {
  const always = entries.find(({ alternatives }) => alternatives.length === 0);
  if (always !== undefined) return [{ call, action: always.action }];
  const ways = entries.flatMap(({ where, action, alternatives }) =>
    alternatives.map((all) => ({ where, action, all })),
  );
  checkApart(call, ways);
  return ways.map(({ action, all }) => ({ call, action, when: all.map(plain) }));
}

interface Way {
  readonly where: string;
  readonly action: Action;
  readonly all: readonly Test<bigint>[];
}

function checkApart(call: SyscallName, ways: readonly Way[]): void {
  const results = ways.map(({ action }) => resultOf(action));
  if (new Set(results).size === 1) return;
  if (ways.length > MOST) {
    throw new RangeError(
      `Cannot import the rules for ${call}: ${ways.length} with tests, expected at most ${MOST} where actions differ`,
    );
  }
  for (const [at, { where, all }] of ways.entries()) {
    const [facts] = waysOf({ all }); // one, or none where the tests contradict each other
    const other = ways.slice(0, facts === undefined ? 0 : at).find((other, index) => {
      return results[index] !== results[at] && waysOf({ all: other.all }, { facts }).length > 0;
    });
    if (other === undefined) continue;
    throw new TypeError(
      `Cannot import ${where}: for some arguments of ${call} it contradicts ${other.where}, expected tests that exclude each other`,
    );
  }
}

/** So that the filter is JSON, too. */
function plain(test: Test<bigint>): Test {
  const word = (value: bigint): Word => (value <= Number.MAX_SAFE_INTEGER ? Number(value) : `0x${value.toString(16)}`);
  const value = word(test.value);
  return test.op === "masked" ? { ...test, mask: word(test.mask), value } : { ...test, value };
}

/**
 * The filter as `linux.seccomp` of a container's configuration. A profile has no order of rules and no test within a test, so each
 * entry is one way for its calls to go, and those with different actions exclude each other. Throws RangeError for what a profile
 * cannot say: data of a trap, and conditions that hold in too many ways. libseccomp (2.5.4) itself answers wrongly to some sets
 * of entries that compare the same argument by less or more.
 */
export function toOci(filter: Filter): OciSeccomp {
  const { machine, default: otherwise, calls } = normalized(filter);
  const called = new Map<number, string>(Object.entries(NUMBERS[machine]).map(([name, number]) => [number, name]));
  const { action, errnoRet } = answerOf(otherwise, "the default");
  const entries = new Map<string, OciSyscall & { readonly names: string[] }>();
  for (const [number, choices] of calls) {
    const name = called.get(number)!; // which the number comes from
    for (const entry of entriesOf(name, choices, otherwise)) {
      const { names } = entries.getOrInsertComputed(JSON.stringify(entry), () => ({ names: [], ...entry }));
      if (names.at(-1) !== name) names.push(name); // a call may come to the same in two ways
    }
  }
  return {
    defaultAction: action,
    ...(errnoRet === undefined ? {} : { defaultErrnoRet: errnoRet }),
    architectures: [MACHINES[machine].architecture],
    syscalls: [...entries.values()],
  };
}

type Unnamed = Omit<OciSyscall, "names">;

/** Of one call; without the default's, which a profile says by silence. */
function entriesOf(name: string, choices: readonly Choice[], otherwise: number): readonly Unnamed[] {
  const entries = each([...choices.entries()], ([at, { when, result }]): readonly Unnamed[] => {
    if (result === otherwise) return [];
    const before = choices.slice(0, at).filter((choice) => choice.result !== result);
    const answer = answerOf(result, `the rules for ${name}`);
    const ways = before.reduce(
      (some, choice) => each(some, (facts) => unless(choice.when!, facts)),
      when === undefined ? [NOTHING] : waysOf(when),
    );
    return each(ways, argumentsOf).map((args) => (args.length > 0 ? { ...answer, args } : answer));
  });
  // Where one of them holds always, all of the others have the same action, for they would exclude it.
  const always = entries.find(({ args }) => args === undefined);
  return always === undefined ? entries : [always];
}

// Conditions, taken apart into ways for them to hold.

/** What is known of the arguments. */
type Facts = ReadonlyMap<Arg, Words>;
const NOTHING: Facts = new Map();

/** All that is made of some of them, which are each an entry in the end. */
function each<T, U>(some: readonly T[], make: (one: T) => readonly U[]): readonly U[] {
  const made: U[] = [];
  for (const one of some) {
    made.push(...make(one));
    if (made.length > MOST) {
      throw new RangeError(`Cannot export the filter: a condition holds in over ${MOST} ways, each of them an entry`);
    }
  }
  return made;
}

/** Facts of which one at least is so whenever the condition holds, or whenever it does not. */
function waysOf(condition: Condition<bigint>, { facts = NOTHING, holds = true } = {}): readonly Facts[] {
  if ("op" in condition) return learned(facts, condition, holds);
  const parts = "all" in condition ? condition.all : condition.any;
  if ("any" in condition === holds) return each(parts, (part) => waysOf(part, { facts, holds }));
  return parts.reduce<readonly Facts[]>((some, part) => each(some, (facts) => waysOf(part, { facts, holds })), [facts]);
}

/** The facts as they are where they exclude the condition already. */
function unless(condition: Condition<bigint>, facts: Facts): readonly Facts[] {
  return waysOf(condition, { facts }).length > 0 ? waysOf(condition, { facts, holds: false }) : [facts];
}

function learned(facts: Facts, test: Test<bigint>, holds: boolean): readonly Facts[] {
  const words = narrowed(facts.get(test.arg) ?? ANY, test, holds);
  return words === undefined ? [] : [new Map(facts).set(test.arg, words)];
}

/** Lists of `args`, each with one test for an argument; an empty one where there is nothing to test. */
function argumentsOf(facts: Facts): readonly (readonly OciArg[])[] {
  return [...facts].reduce<readonly (readonly OciArg[])[]>(
    (lists, [arg, words]) => {
      const tests = testsOf(words, arg).map((test) => (isVoid(test) ? [] : [ociArg(test)]));
      return each(lists, (args) => tests.map((test) => [...args, ...test]));
    },
    [[]],
  );
}

const isVoid = (test: Test<bigint>) => test.op === "masked" && test.mask === 0n;

const COMPARISONS = Object.fromEntries(Object.entries(OPERATORS).map(([word, op]) => [op, word])) as {
  readonly [word in keyof typeof OPERATORS as (typeof OPERATORS)[word]]: word; // what fromEntries forgets
};

function ociArg(test: Test<bigint>): OciArg {
  const word = (value: bigint): OciWord => (value <= Number.MAX_SAFE_INTEGER ? Number(value) : RAW.rawJSON(`${value}`));
  const { arg: index, value } = test;
  if (test.op !== "masked") return { index, value: word(value), op: COMPARISONS[test.op] };
  return { index, value: word(test.mask), valueTwo: word(value), op: "SCMP_CMP_MASKED_EQ" };
}

const ANSWERS: Readonly<Record<number, OciAction>> = {
  [SECCOMP_RET.ALLOW]: "SCMP_ACT_ALLOW",
  [SECCOMP_RET.LOG]: "SCMP_ACT_LOG",
  [SECCOMP_RET.USER_NOTIF]: "SCMP_ACT_NOTIFY",
  [SECCOMP_RET.TRACE]: "SCMP_ACT_TRACE",
  [SECCOMP_RET.ERRNO]: "SCMP_ACT_ERRNO",
  [SECCOMP_RET.TRAP]: "SCMP_ACT_TRAP",
  [SECCOMP_RET.KILL_THREAD]: "SCMP_ACT_KILL_THREAD",
  [SECCOMP_RET.KILL_PROCESS]: "SCMP_ACT_KILL_PROCESS",
};

function answerOf(result: number, what: string): Pick<OciSyscall, "action" | "errnoRet"> {
  const action = ANSWERS[(result & SECCOMP_RET.ACTION_FULL) >>> 0]!;
  const errnoRet = result & SECCOMP_RET.DATA;
  if (action === "SCMP_ACT_ERRNO" || action === "SCMP_ACT_TRACE") return { action, errnoRet };
  if (errnoRet === 0) return { action };
  throw new RangeError(`Cannot export ${what}: trap data ${errnoRet}, for which a profile has no word`);
}
