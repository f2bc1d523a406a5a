// What the compiler makes of random policies, against libseccomp's bytes and against the kernel itself.
import { afterAll, expect } from "bun:test";
import fc from "fast-check";
import { compile } from "../../../platform/linux/seccomp/compile.ts";
import type { Filter, Rule } from "../../../platform/linux/seccomp/filter.ts";
import { MACHINE, type Machine, NUMBERS, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { interpret, verify } from "../interpreter.ts";
import { HARMLESS_CALLS, isOutcome, type Judge, judge, type Probe, testKernel } from "./kernel.ts";
import { compiledByLibseccomp, nameOf, numberOf, present, testLibseccomp } from "./libseccomp.ts";
import { policy, runs, vectors } from "./random.ts";
import {
  ARCH,
  below,
  evaluate,
  KILL,
  pick,
  randomAction,
  randomCondition,
  randomTest,
  resultOf,
  seed,
  several,
  X32,
} from "./rules.ts";

/** Every number that there is and some to come, the same for x32, and the ends of what a word holds. */
const ALL = several(600, (nr) => nr);
const STRANGE = [4095, 65_536, X32 - 1, 2 ** 31, -2, -38, -1000, ...several(60, (nr) => X32 | (nr * 10))];
/** Of 32-bit machines, of other 64-bit ones, and none at all. */
const FOREIGN = [ARCH.x64, ARCH.arm64, 0x4000_0003, 0x4000_0028, 0xc000_00f3, 0, 0xffff_ffff];

const numbersOf = (machine: Machine): Partial<Record<SyscallName, number>> => NUMBERS[machine];
const namesIn = (machine: Machine) => Object.keys(NUMBERS[machine]) as SyscallName[];
/** What both machines and libseccomp know. */
const shared = namesIn("x64").filter((name) => {
  return Object.hasOwn(NUMBERS.arm64, name) && present && numberOf(name) !== undefined;
});
/** Where there is libseccomp, and the kernel can be asked. */
const testEach = present ? testKernel : testLibseccomp;

function program(filter: Filter): Uint8Array {
  const bytes = compile(filter);
  verify(bytes);
  return bytes;
}

/** Throws for the first call that one of the programs treats differently from the rules. */
function agree(filter: Filter, programs: readonly Uint8Array[]): void {
  const arch = ARCH[filter.machine];
  const ask = (nr: number, args: readonly bigint[], expected: number) => {
    for (const program of programs) {
      const { result } = interpret(program, { nr, arch, args });
      if (result !== expected) throw new Error(`${shown({ nr, args })} gets ${hex(result)}, expected ${hex(expected)}`);
    }
  };
  const rules = ruled(filter);
  const otherwise = resultOf(filter.default);
  for (const nr of ALL.filter((nr) => !rules.includes(nr))) ask(nr, [], otherwise);
  for (const nr of STRANGE) ask(nr, [], evaluate(filter, nr, []));
  for (const nr of rules) for (const args of vectors(filter, nr, 24)) ask(nr, args, evaluate(filter, nr, args));
  for (const foreign of FOREIGN.filter((other) => other !== arch)) {
    for (const program of programs)
      for (const nr of [0, 59, 221, 599]) killed(program, { nr, arch: foreign, args: [] });
  }
}

function killed(program: Uint8Array, call: Parameters<typeof interpret>[1]): void {
  const { result } = interpret(program, call);
  if (result !== KILL) throw new Error(`${shown(call)} of machine ${hex(call.arch)} gets ${hex(result)}`);
}

/** The numbers that a filter's rules are about. */
function ruled({ machine, rules }: Filter): number[] {
  const named = rules.map(({ call }) => numbersOf(machine)[call as SyscallName]);
  return [...new Set(named)].filter((nr) => nr !== undefined);
}

const hex = (word: number | bigint) => `0x${word.toString(16)}`;
const shown = ({ nr, args }: Probe) => `${nr}(${args.map(hex).join(", ")})`;

/** Calls that change nothing, whatever the verdict on them, and numbers that mean none. */
function probesOf(filter: Filter): Probe[] {
  const numbers = HARMLESS_CALLS.map((name) => numbersOf(MACHINE)[name]!);
  const strange = MACHINE === "x64" ? [X32 | numbers[0]!, -1] : [];
  const calls = numbers.flatMap((nr) =>
    vectors(filter, nr, ruled(filter).includes(nr) ? 6 : 1).map((args) => ({ nr, args })),
  );
  return [...calls, ...[1023, ...strange].map((nr) => ({ nr, args: [] }))];
}

let judging: Judge | undefined;
const judges = () => (judging ??= judge());
afterAll(() => judging?.[Symbol.dispose]());

/** Throws where the kernel, given one of the programs, does otherwise than the filter says. */
function kernelAgrees(filter: Filter, programs: readonly Uint8Array[]): void {
  const probes = probesOf(filter);
  for (const [at, outcomes] of judges().ask(programs, probes).entries()) {
    for (const [index, outcome] of outcomes.entries()) {
      const { nr, args } = probes[index]!;
      const expected = evaluate(filter, nr, args);
      // -1 is no call of x32's, and libseccomp treats it so.
      if ((at === 1 && nr === -1) || isOutcome(expected, nr, outcome)) continue;
      const got = `${outcome.ending} ${outcome.value}`;
      throw new Error(`Seed ${seed}: the kernel ${got} ${shown({ nr, args })}, expected ${hex(expected)}`);
    }
  }
}

for (const machine of ["x64", "arm64"] as const) {
  testLibseccomp(`libseccomp has our numbers for ${machine}`, () => {
    const known = namesIn(machine).filter((name) => nameOf(machine, numbersOf(machine)[name]!) !== undefined);
    expect(known.length).toBeGreaterThan(250);
    expect(known.filter((name) => nameOf(machine, numbersOf(machine)[name]!) !== name)).toEqual([]);
  });
}

testEach(
  "our bytes, libseccomp's bytes and the kernel agree on 1,000 random policies",
  () => {
    fc.assert(
      fc.property(policy(MACHINE, HARMLESS_CALLS, shared), fc.boolean(), ({ filter, plain }, tree) => {
        const programs = [program(filter), compiledByLibseccomp(plain, tree)];
        agree(filter, programs);
        kernelAgrees(filter, programs);
      }),
      runs(1000),
    );
  },
  300_000,
);

const OTHER = MACHINE === "x64" ? "arm64" : "x64";
testLibseccomp(
  "our bytes for the other machine and libseccomp's agree on 300 random policies",
  () => {
    fc.assert(
      fc.property(policy(OTHER, HARMLESS_CALLS, shared), fc.boolean(), ({ filter, plain }, tree) => {
        agree(filter, [program(filter), compiledByLibseccomp(plain, tree)]);
      }),
      runs(300),
    );
  },
  120_000,
);

testKernel(
  "the kernel does what 200 random filters say that libseccomp could not",
  () => {
    for (const filter of several(200, randomFilter)) kernelAgrees(filter, [program(filter)]);
  },
  120_000,
);

/** Conditions in conditions, the order of rules: about calls that the kernel can be asked about. */
function randomFilter(): Filter {
  const rules = several(12, (): Rule => {
    const when = several(1 + below(2), () => randomCondition(randomTest));
    return { call: pick(HARMLESS_CALLS), action: randomAction(), when };
  });
  return { machine: MACHINE, default: randomAction(), rules };
}

testKernel("the kernel makes each of those calls where no rule refuses it", () => {
  const filter: Filter = { machine: MACHINE, default: "allow", rules: [] };
  kernelAgrees(filter, [program(filter)]);
});
