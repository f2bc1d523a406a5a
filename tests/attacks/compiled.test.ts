/** Attacks on what filters are compiled to: rules read plainly, against their program, its explanation, and the kernel's own check of programs. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { chain } from "../../platform/linux/seccomp/chain.ts";
import {
  type Action,
  type Condition,
  compile,
  explain,
  type Filter,
  fromOci,
  GROUPS,
  verify,
} from "../../platform/linux/seccomp/index.ts";
import { AUDIT_ARCH, NUMBERS, type SyscallName } from "../../syscalls/linux/numbers.ts";
import { hasFilters } from "../../syscalls/linux/seccomp.ts";
import { testIf } from "../syscalls/requirement.ts";

setDefaultTimeout(60_000); // the machine may have other things to do

const testFilters = testIf("seccomp", hasFilters(), "this kernel takes no filters");

const seed = Number(process.env.CAISSON_SEED ?? Math.floor(Math.random() * 2 ** 31));
let state = seed | 1;
/** xorshift: a whole number below `most`. */
function random(most: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % most;
}
const one = <T>(list: readonly T[]): T => list[random(list.length)]!;
const several = <T>(make: () => T) => Array.from({ length: 1 + random(3) }, make);

const EDGES = [
  0n,
  1n,
  2n,
  2n ** 31n,
  2n ** 32n,
  2n ** 33n,
  2n ** 63n,
  2n ** 64n - 2n ** 31n,
  2n ** 64n - 2n ** 32n,
  2n ** 64n - 1n,
];
const word = () => BigInt.asUintN(64, one(EDGES) + BigInt(random(5) - 2));
/** The same word in all ways to write it. */
const written = (value: bigint) => one([value, `${value}`, `0x${value.toString(16)}`]);

function condition(depth: number): Condition {
  if (depth > 0 && random(2) === 0) {
    const parts = several(() => condition(depth - 1));
    return random(2) === 0 ? { all: parts } : { any: parts };
  }
  const arg = one([0, 1, 5] as const);
  if (random(3) > 0) return { arg, op: one(["eq", "ne", "lt", "le", "gt", "ge"] as const), value: written(word()) };
  const mask = word();
  return { arg, op: "masked", mask: written(mask), value: written(word() & mask) };
}

/** With their results, from linux/seccomp.h. */
const ACTIONS: readonly (readonly [Action, number])[] = [
  ["allow", 0x7fff_0000],
  ["log", 0x7ffc_0000],
  [{ trace: 3 }, 0x7ff0_0003],
  ["notify", 0x7fc0_0000],
  [{ errno: "EPERM" }, 0x0005_0001],
  [{ errno: 4095 }, 0x0005_0fff],
  [{ trap: 9 }, 0x0003_0009],
  ["kill-thread", 0],
  ["kill-process", 0x8000_0000],
];
const resultOf = (action: Action) => ACTIONS.find(([each]) => Bun.deepEquals(each, action))![1];
const action = () => one(ACTIONS)[0];

function holds(condition: Condition, args: readonly bigint[]): boolean {
  if ("all" in condition) return condition.all.every((each) => holds(each, args));
  if ("any" in condition) return condition.any.some((each) => holds(each, args));
  const [given, value] = [args[condition.arg]!, BigInt(condition.value)];
  if (condition.op === "masked") return (given & BigInt(condition.mask)) === value;
  const [less, equal] = [given < value, given === value];
  return { eq: equal, ne: !equal, lt: less, le: less || equal, gt: !less && !equal, ge: !less }[condition.op];
}

/** What the rules say, read from top to bottom, once by name and once by group. */
function read(filter: Filter, call: SyscallName, args: readonly bigint[]): Action {
  const named = filter.rules.filter((rule) => rule.call === call);
  const grouped = filter.rules.filter(({ call: group }) => {
    return group.startsWith("@") && (GROUPS[group.slice(1) as keyof typeof GROUPS] as readonly string[]).includes(call);
  });
  const found = [...named, ...grouped].find(({ when }) => when?.every((each) => holds(each, args)) ?? true);
  return found?.action ?? filter.default;
}

/** Runs what compilers make of filters: loads, masks, four jumps and a return. */
function verdict(program: Uint8Array, nr: number, arch: number, args: readonly bigint[]): number {
  const code = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const data = new DataView(new ArrayBuffer(64));
  data.setInt32(0, nr, true);
  data.setUint32(4, arch, true);
  for (const [index, arg] of args.entries()) data.setBigUint64(16 + 8 * index, arg, true);
  for (let [at, loaded] = [0, 0]; ; at += 8) {
    const [operation, k] = [code.getUint16(at, true), code.getUint32(at + 4, true)];
    const jump = (yes: boolean) => 8 * code.getUint8(at + (yes ? 2 : 3));
    if (operation === 0x20) loaded = data.getUint32(k, true);
    else if (operation === 0x54) loaded = (loaded & k) >>> 0;
    else if (operation === 0x05) at += 8 * k;
    else if (operation === 0x15) at += jump(loaded === k);
    else if (operation === 0x25) at += jump(loaded > k);
    else if (operation === 0x35) at += jump(loaded >= k);
    else if (operation === 0x45) at += jump((loaded & k) !== 0);
    else if (operation === 0x06) return k;
    else throw new Error(`Instruction ${at / 8} is ${operation}`);
  }
}

const ARCH = { x64: AUDIT_ARCH.X86_64, arm64: AUDIT_ARCH.AARCH64 } as const;
const KILLED = 0x8000_0000;

test.each(["x64", "arm64"] as const)(
  `rules for %s mean what they say to the program and to explain() (CAISSON_SEED=${seed})`,
  (machine) => {
    const numbers = NUMBERS[machine] as Readonly<Partial<Record<SyscallName, number>>>;
    const names = Object.keys(numbers) as SyscallName[];
    const groups = Object.keys(GROUPS) as (keyof typeof GROUPS)[];
    for (let made = 0; made < 120; made++) {
      const group = one(groups);
      const calls = [one(names), one(GROUPS[group] as readonly SyscallName[]), `@${group}`, `@${one(groups)}`] as const;
      const rules = Array.from({ length: 1 + random(8) }, () => ({
        call: one(calls),
        action: action(),
        when: several(() => condition(random(4))),
      }));
      const always = random(2) === 0 ? [{ call: one(calls), action: action() }] : [];
      const filter: Filter = {
        machine,
        default: action(),
        rules: [...rules.slice(2), ...always, ...rules.slice(0, 2)],
      };
      const program = compile(filter);
      verify(program);
      const asked = [calls[0], calls[1], one(GROUPS[group] as readonly SyscallName[]), one(names)];
      for (const call of asked.filter((name) => numbers[name] !== undefined)) {
        for (let times = 0; times < 12; times++) {
          const args = Array.from({ length: 6 }, word);
          const said = read(filter, call, args);
          const found = {
            explained: explain(filter, call, args).action,
            result: verdict(program, numbers[call]!, ARCH[machine], args),
            elsewhere: verdict(program, numbers[call]!, one([AUDIT_ARCH.I386, 0, 0xffff_ffff]), args),
          };
          expect([filter, call, args, found]).toEqual([
            filter,
            call,
            args,
            { explained: said, result: resultOf(said), elsewhere: KILLED },
          ]);
        }
      }
      const strange = [-1, 0x4000_0000, 0x4000_0001, -(2 ** 31)].map((nr) => verdict(program, nr, ARCH[machine], []));
      const expected = machine === "x64" ? KILLED : resultOf(filter.default);
      expect(strange).toEqual(strange.map(() => expected));
    }
  },
);

describe("what could mean more than is written", () => {
  const deny = { machine: "x64", default: { errno: "EPERM" } } as const;
  const holes = new Array<Condition>(1);
  test.each([
    ["a condition that is not there", { call: "read", action: "allow", when: holes }],
    ["one within another", { call: "read", action: "allow", when: [{ all: holes }] }],
    ["one of several", { call: "read", action: "allow", when: [{ any: holes }] }],
    ["none", { call: "read", action: "allow", when: [] }],
    ["none of several", { call: "read", action: "allow", when: [{ all: [] }] }],
    ["undefined", { call: "read", action: "allow", when: undefined }],
    ["a test within a list", { call: "read", action: "allow", when: [[{ arg: 0, op: "eq", value: 1 }]] }],
    ["an argument as text", { call: "read", action: "allow", when: [{ arg: "0", op: "eq", value: 1 }] }],
    ["a number beyond 2^53", { call: "read", action: "allow", when: [{ arg: 0, op: "ne", value: 2 ** 53 }] }],
    ["a negative word", { call: "read", action: "allow", when: [{ arg: 0, op: "ne", value: -1 }] }],
    ["base 8", { call: "read", action: "allow", when: [{ arg: 0, op: "ne", value: "010" }] }],
    ["an end of line", { call: "read", action: "allow", when: [{ arg: 0, op: "ne", value: "1\n" }] }],
    ["a name that objects have", { call: "constructor", action: "allow" }],
    ["a group that objects have", { call: "@constructor", action: "allow" }],
    ["an errno that objects have", { call: "read", action: { errno: "constructor" } }],
    ["an action that objects have", { call: "read", action: "constructor" }],
  ])("%s is refused", (_, rule) => {
    expect(() => compile({ ...deny, rules: [rule as never] })).toThrow(/^Cannot /);
    expect(() => explain({ ...deny, rules: [rule as never] }, "read")).toThrow(/^Cannot /);
  });

  const profile = (entry: object) =>
    JSON.stringify({
      defaultAction: "SCMP_ACT_ERRNO",
      syscalls: [{ names: ["read"], action: "SCMP_ACT_ALLOW", ...entry }],
    });
  test.each([
    ["arguments of another shape", profile({ args: {} })],
    ["no names", profile({ names: [] })],
    ["a condition that is null", profile({ includes: null })],
    ["a condition that names nothing", profile({ includes: { caps: [] } })],
    ["a key in other letters", profile({ Args: [] })],
    ["a value between two", profile({ args: [{ index: 0, op: "SCMP_CMP_NE", value: 1.5 }] })],
    ["a value that was rounded", profile({ args: [{ index: 0, op: "SCMP_CMP_NE", value: 1e300 }] })],
    ["no default", '{"syscalls":[]}'],
    ["the default in a prototype", '{"__proto__":{"defaultAction":"SCMP_ACT_ALLOW"}}'],
  ])("a profile with %s is refused", (_, text) => {
    expect(() => fromOci(text, { machine: "x64" })).toThrow(/^Cannot import /);
  });
});

describe("programs that verify() takes", () => {
  const instruction = (code: number, k: number, jt = 0, jf = 0): number[] => [
    code,
    0,
    jt,
    jf,
    ...new Uint8Array(Uint32Array.of(k).buffer),
  ];
  const allowed = instruction(0x06, 0x7fff_0000);
  const PROGRAMS: Record<string, readonly number[][]> = {
    "memory that was written": [instruction(0x02, 3), instruction(0x60, 3), allowed],
    "memory that was written before a return": [
      instruction(0x02, 3),
      instruction(0x15, 0, 1),
      allowed,
      instruction(0x60, 3),
      allowed,
    ],
    "memory behind a return": [allowed, instruction(0x60, 0), allowed],
    "memory that was written on one of two ways": [
      instruction(0x15, 0, 1),
      instruction(0x02, 0),
      instruction(0x60, 0),
      allowed,
    ],
    "memory that is written behind it": [instruction(0x60, 0), instruction(0x02, 0), allowed],
    "a jump past the end": [instruction(0x05, 1), allowed],
    "a jump around the world": [instruction(0x05, 0xffff_ffff), allowed],
    "no return": [allowed, instruction(0x20, 0)],
    "a load of half a word": [instruction(0x28, 0), allowed],
    "a load across two words": [instruction(0x20, 2), allowed],
    "a load behind the data": [instruction(0x20, 64), allowed],
    "a remainder": [instruction(0x94, 2), allowed],
    "a return of X": [instruction(0x0e, 0), allowed],
    "a division by X": [instruction(0x01, 2), instruction(0x3c, 0), allowed],
  };

  testFilters.each(Object.entries(PROGRAMS))("the kernel takes, and none else: %s", (_, program) => {
    const bytes = Uint8Array.from(program.flat());
    const script = join(import.meta.dir, "fixtures/filtered.ts");
    const { stdout, stderr } = Bun.spawnSync([process.execPath, script, bytes.toHex()]);
    expect(stderr.toString()).toBe("");
    const taken = stdout.toString() === "done";
    if (!taken) expect(stdout.toString()).toBe("EINVAL");
    if (taken) expect(() => verify(bytes)).not.toThrow();
    else expect(() => verify(bytes)).toThrow("Cannot take the program");
  });
});

test("chain() of programs that refuse and allow is as narrow as the narrowest, in any order", () => {
  const allow = compile({ machine: "x64", default: "allow", rules: [] });
  const refuse = compile({
    machine: "x64",
    default: "allow",
    rules: [{ call: "openat", action: { errno: "EACCES" } }],
  });
  const kill = compile({ machine: "x64", default: "kill-process", rules: [{ call: "openat", action: "allow" }] });
  const results = [
    [allow, refuse, kill],
    [kill, refuse, allow],
    [refuse, kill],
    [kill, allow, refuse],
  ].map((programs) => {
    const program = chain(programs);
    verify(program);
    return [NUMBERS.x64.openat, NUMBERS.x64.read].map((nr) => verdict(program, nr, ARCH.x64, []));
  });
  expect(results).toEqual(results.map(() => [0x0005_000d, KILLED]));
});
