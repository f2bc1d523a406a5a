/** Random policies that libseccomp can say as well, by fast-check, which makes those that fail smaller. */
import fc from "fast-check";
import type { Action, Arg, Condition, Filter, Rule, Test, Word } from "../../../platform/linux/seccomp/filter.ts";
import { type ERRNO, type Machine, NUMBERS, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { EDGES, resultOf, seed, TOP } from "./rules.ts";

/** For `fc.assert`: the same seed gives the same policies. */
export const runs = (numRuns: number): fc.Parameters<unknown> => ({
  seed: seed | 0,
  numRuns,
  includeErrorInReport: true,
});

const word = fc.oneof(
  fc.constantFrom(...EDGES),
  fc.bigInt({ min: 0n, max: 8n }),
  fc.bigInt({ min: 0n, max: 2n ** 33n }),
  fc.bigInt({ min: 0n, max: TOP }),
);

/** As a bigint, or as what JSON can hold. */
const written = (value: bigint): fc.Arbitrary<Word> =>
  fc.constantFrom(value, `${value}`, `0x${value.toString(16)}`, value < 2n ** 53n ? Number(value) : value);

const ERRNOS = ["EPERM", "ENOSYS", "EACCES", "EINVAL"] satisfies (keyof typeof ERRNO)[];

/** An errno of 4095 libseccomp refuses. */
const action: fc.Arbitrary<Action> = fc.oneof(
  fc.constantFrom<Action>("allow", "log", "notify", "trap", "kill-process", "kill-thread"),
  fc.oneof(fc.integer({ min: 0, max: 4094 }), fc.constantFrom(...ERRNOS)).map((errno) => ({ errno })),
  fc.integer({ min: 0, max: 0xffff }).map((trace) => ({ trace })),
);

type Operator = Test["op"];
const OPERATORS: readonly Operator[] = ["eq", "ne", "lt", "le", "gt", "ge", "masked"];

function testOf(arg: Arg, operators: readonly Operator[] = OPERATORS): fc.Arbitrary<Test> {
  return fc.tuple(fc.constantFrom(...operators), word, word).chain(([op, one, other]) => {
    if (op !== "masked") return written(one).map((value): Test => ({ arg, op, value }));
    return fc.tuple(written(one), written(other & one)).map(([mask, value]): Test => ({ arg, op, mask, value }));
  });
}

export interface Policy {
  readonly filter: Filter;
  /** The same with and-ed tests alone. */
  readonly plain: Filter;
}

/**
 * Policies that have one meaning here and in libseccomp. It knows no order of rules and no tests but and-ed ones, one for each
 * argument. It also answers wrongly (2.5.4) where several rules for one call compare in other ways than `eq` and `masked`: of
 * `< 0` and `< 2^32` the second is lost, and so is `!= 0` beside another rule for the same argument and more; and where rules with
 * different actions test an argument that tells them apart and then different others. So here a call has one rule, or several
 * with the same action that test by `eq` and `masked`, or several with actions of their own that one argument tells apart by `eq`.
 */
export function policy(machine: Machine, calls: readonly SyscallName[], others: readonly SyscallName[]) {
  return action.chain((otherwise) => {
    const other = action.filter((one) => resultOf(one) !== resultOf(otherwise));
    const rules = (call: SyscallName) =>
      fc.oneof(always(call, other), one(call, other), alike(call, other), apart(call, other));
    const some = (names: readonly SyscallName[], most: number) =>
      fc.subarray([...names], { maxLength: Math.min(most, names.length) });
    return fc
      .tuple(some(calls, 6), some(others, 12))
      .chain(([near, far]) => fc.tuple(...[...new Set([...near, ...far])].map(rules)))
      .map((all): Policy => {
        const of = (rules: readonly Rule[]): Filter => ({ machine, default: otherwise, rules });
        return { filter: of(all.flatMap(({ ours }) => ours)), plain: of(all.flatMap(({ plain }) => plain)) };
      });
  });
}

interface Pair {
  readonly ours: readonly Rule[];
  readonly plain: readonly Rule[];
}

const same = (rules: readonly Rule[]): Pair => ({ ours: rules, plain: rules });

const always = (call: SyscallName, action: fc.Arbitrary<Action>) => action.map((action) => same([{ call, action }]));

/** And-ed tests, each of another argument. */
const tests = (args: readonly Arg[], operators: readonly Operator[]): fc.Arbitrary<Test[]> =>
  fc.subarray([...args], { minLength: 1 }).chain((some) => fc.tuple(...some.map((arg) => testOf(arg, operators))));

const one = (call: SyscallName, action: fc.Arbitrary<Action>) =>
  fc.tuple(action, tests([0, 1, 2, 3, 4, 5], OPERATORS), fc.boolean()).map(([action, when, nested]): Pair => {
    const plain = [{ call, action, when }];
    return nested ? { ours: [{ call, action, when: [{ any: [{ all: when }] }] }], plain } : same(plain);
  });

const alike = (call: SyscallName, action: fc.Arbitrary<Action>) =>
  fc
    .tuple(action, fc.array(tests([0, 2, 5], ["eq", "masked"]), { minLength: 2, maxLength: 5 }), fc.boolean())
    .map(([action, alternatives, joined]): Pair => {
      const plain = alternatives.map((when): Rule => ({ call, action, when }));
      const any = alternatives.map((all) => ({ all }));
      return joined ? { ours: [{ call, action, when: [{ any }] }], plain } : same(plain);
    });

const apart = (call: SyscallName, action: fc.Arbitrary<Action>) =>
  fc
    .tuple(fc.uniqueArray(word, { minLength: 2, maxLength: 5 }), fc.constantFrom<Arg[]>(1, 3))
    .chain(([values, arg]) =>
      fc.tuple(
        ...values.map((value) => action.map((action): Rule => ({ call, action, when: [{ arg, op: "eq", value }] }))),
      ),
    )
    .map(same);

/** Arguments that some rule for the call names, then such that lie at or beside what rules compare with, and at the edges. */
export function vectors({ machine, rules }: Filter, nr: number, count: number): bigint[][] {
  const numbers: Partial<Record<SyscallName, number>> = NUMBERS[machine];
  const relevant = rules.filter(({ call }) => call.startsWith("@") || numbers[call as SyscallName] === nr);
  const tests = relevant.map(({ when = [] }) => when.flatMap(testsOf));
  const words = [0, 1, 2, 3, 4, 5].map((arg) => {
    const near = tests
      .flat()
      .filter((test) => test.arg === arg)
      .flatMap(around);
    return [...new Set([...near, ...EDGES])];
  });
  const meant = tests.map((some) => {
    const args = words.map(() => 0n);
    for (const { arg, value } of some) args[arg] = BigInt(value);
    return args;
  });
  const scattered = Array.from({ length: count }, (_, at) =>
    words.map((some, arg) => some[(Math.imul(6 * at + arg + 1, 0x9e37_79b1) >>> 8) % some.length]!),
  );
  return [...meant, ...scattered].slice(0, count);
}

const testsOf = (condition: Condition): readonly Test[] => {
  if ("all" in condition) return condition.all.flatMap(testsOf);
  return "any" in condition ? condition.any.flatMap(testsOf) : [condition];
};

function around(test: Test): bigint[] {
  const value = BigInt(test.value);
  const others = test.op === "masked" ? [value | ~BigInt(test.mask)] : [];
  const some = [value, value + 1n, value - 1n, value ^ (1n << 32n), value ^ (1n << 63n), ...others];
  return some.map((word) => BigInt.asUintN(64, word));
}
