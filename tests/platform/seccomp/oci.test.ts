import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { FOREIGN } from "../../../platform/linux/seccomp/foreign.ts";
import { compile, type Filter, fromOci, type Rule, toOci } from "../../../platform/linux/seccomp/index.ts";
import { NUMBERS, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { interpret, verify } from "../interpreter.ts";
import { compiledAsProfile, nameOf, numberOf, present, profileIn, testLibseccomp } from "./libseccomp.ts";
import { policy, runs, vectors } from "./random.ts";
import {
  ARCH,
  below,
  evaluate,
  pick,
  randomAction,
  randomCondition,
  randomFilter,
  randomTest,
  seed,
  several,
} from "./rules.ts";

const DENY = "SCMP_ACT_ERRNO";
const ALLOW = "SCMP_ACT_ALLOW";
const X64 = { machine: "x64" } as const;
const entry = (...more: object[]) => Object.assign({ names: ["getppid"], action: ALLOW }, ...more);
const profile = (...syscalls: unknown[]) => ({ defaultAction: DENY, syscalls });
const args = (...some: object[]) => ({ args: some });
const eq = (index: number, value: unknown) => ({ index, value, op: "SCMP_CMP_EQ" });
const masked = (index: number, value: unknown, valueTwo: unknown) => ({
  index,
  value,
  valueTwo,
  op: "SCMP_CMP_MASKED_EQ",
});
const rule = (more: Omit<Rule, "call" | "action"> & Partial<Rule> = {}): Rule => ({
  call: "getppid",
  action: "allow",
  ...more,
});

describe("fromOci()", () => {
  test.each([
    ["ALLOW", undefined, "allow"],
    ["LOG", undefined, "log"],
    ["NOTIFY", undefined, "notify"],
    ["TRAP", undefined, "trap"],
    ["KILL", undefined, "kill-thread"],
    ["KILL_THREAD", undefined, "kill-thread"],
    ["KILL_PROCESS", undefined, "kill-process"],
    ["ERRNO", undefined, { errno: 1 }],
    ["ERRNO", { errnoRet: 0 }, { errno: 0 }],
    ["ERRNO", { errnoRet: 4095 }, { errno: 4095 }],
    ["ERRNO", { errno: "ENOSYS" }, { errno: 38 }],
    ["ERRNO", { errno: "38", errnoRet: 38 }, { errno: 38 }],
    ["TRACE", undefined, { trace: 1 }],
    ["TRACE", { errnoRet: 65_535 }, { trace: 65_535 }],
  ] as const)("reads SCMP_ACT_%s with %j as %j", (word, data, action) => {
    const given = {
      defaultAction: "SCMP_ACT_KILL_PROCESS",
      syscalls: [entry({ action: `SCMP_ACT_${word}`, ...data })],
    };
    const rules = action === "kill-process" ? [] : [rule({ action })];
    expect(fromOci(given, X64)).toEqual({ machine: "x64", default: "kill-process", rules });
    const byDefault = Object.entries(data ?? {}).map(([key, value]) => [key.replace("errno", "defaultErrno"), value]);
    expect(fromOci({ defaultAction: `SCMP_ACT_${word}`, ...Object.fromEntries(byDefault) }, X64).default).toEqual(
      action,
    );
  });

  test.each([
    ["eq", { op: "SCMP_CMP_EQ", value: 7 }, { op: "eq", value: 7 }],
    ["ne", { op: "SCMP_CMP_NE", value: 7 }, { op: "ne", value: 7 }],
    ["lt", { op: "SCMP_CMP_LT", value: 7 }, { op: "lt", value: 7 }],
    ["le", { op: "SCMP_CMP_LE", value: 7, valueTwo: 0 }, { op: "le", value: 7 }],
    ["gt", { op: "SCMP_CMP_GT", value: 7 }, { op: "gt", value: 7 }],
    ["ge", { op: "SCMP_CMP_GE", value: 7 }, { op: "ge", value: 7 }],
    ["masked", { op: "SCMP_CMP_MASKED_EQ", value: 7, valueTwo: 5 }, { op: "masked", mask: 7, value: 5 }],
    ["masked to 0", { op: "SCMP_CMP_MASKED_EQ", value: 7 }, { op: "masked", mask: 7, value: 0 }],
  ] as const)("reads the test %s", (_, given, test) => {
    const filter = fromOci(profile(entry(args({ index: 5, ...given }))), X64);
    expect(filter.rules).toEqual([rule({ when: [{ arg: 5, ...test }] as never })]);
  });

  test("and-s tests of several arguments, and or-s all of them where two are of the same, as runc does", () => {
    const when = (...some: object[]) => fromOci(profile(entry(args(...some))), X64).rules.map(({ when }) => when);
    const test = (arg: number, value: number) => ({ arg, op: "eq", value }) as never;
    expect(when(eq(0, 1), eq(1, 2))).toEqual([[test(0, 1), test(1, 2)]]);
    expect(when(eq(0, 1), eq(1, 2), eq(0, 3))).toEqual([[test(0, 1)], [test(1, 2)], [test(0, 3)]]);
  });

  test("keeps words of 64 bits whole, from text, bigints and JSON.rawJSON", () => {
    const text = JSON.stringify(profile(entry(args(eq(0, "?"))))).replace('"?"', "18446744073709551615");
    const given = [
      text,
      profile(entry(args(eq(0, 2n ** 64n - 1n)))),
      JSON.parse(text.replace("18446744073709551615", "1")),
    ];
    const values = given.map((one) => fromOci(one, X64).rules[0]!.when);
    expect(values).toEqual([
      [{ arg: 0, op: "eq", value: "0xffffffffffffffff" }],
      [{ arg: 0, op: "eq", value: "0xffffffffffffffff" }],
      [{ arg: 0, op: "eq", value: 1 }],
    ]);
    const filter: Filter = {
      machine: "x64",
      default: "log",
      rules: [rule({ when: [{ arg: 1, op: "ge", value: "0xffffffff00000000" }] })],
    };
    expect(fromOci(toOci(filter), X64)).toEqual(filter);
    expect(JSON.stringify(toOci(filter))).toContain('"value":18446744069414584320,');
  });

  test("takes the first rule without tests, wherever it stands, and none that does what is done anyway", () => {
    const [test, other] = [args(eq(0, 1)), { action: "SCMP_ACT_LOG" }];
    const rules = (...some: object[]) => fromOci(profile(...some.map((one) => entry(one))), X64).rules;
    expect(rules(test, other, {})).toEqual([rule({ action: "log" })]);
    expect(rules({}, other)).toEqual([rule()]);
    expect(rules({ action: DENY }, {})).toEqual([rule()]);
    expect(rules({ action: DENY, ...test }, { ...other, ...args(eq(0, 1)) })).toHaveLength(1);
    expect(rules({ args: null }, test)).toEqual([rule()]);
    expect(rules({ args: [] })).toEqual([rule()]);
  });

  test("leaves out calls of other machines, and unknown ones where the default is no wider", () => {
    const names = ["_llseek", "socketcall", "riscv_hwprobe", "no_such_call", "getppid", "constructor"];
    expect(fromOci(profile(entry({ names })), X64).rules).toEqual([rule()]);
    const blocklist = { defaultAction: ALLOW, syscalls: [entry({ names: ["socketcall", "vm86"], action: DENY })] };
    expect(fromOci(blocklist, X64).rules).toEqual([]);
    expect(fromOci(profile(entry({ names: ["renameat"] })), { machine: "arm64" }).rules).toHaveLength(1);
  });

  const CAPS = ["CAP_SYS_ADMIN", "CAP_KILL"];
  test.each([
    [{ includes: { arches: ["amd64", "x32"] } }, true],
    [{ includes: { arches: ["arm64", "x86"] } }, false],
    [{ excludes: { arches: ["arm64"] } }, true],
    [{ excludes: { arches: ["arm64", "amd64"] } }, false],
    [{ includes: { caps: ["CAP_KILL"] } }, true],
    [{ includes: { caps: ["CAP_KILL", "CAP_CHOWN"] } }, false],
    [{ excludes: { caps: ["CAP_CHOWN"] } }, true],
    [{ excludes: { caps: ["CAP_KILL", "CAP_CHOWN"] } }, false],
    [{ includes: { minKernel: "5.9" } }, true],
    [{ includes: { minKernel: "5.10" } }, true],
    [{ includes: { minKernel: "5.11" } }, false],
    [{ includes: { minKernel: "6.1" } }, false],
    [{ excludes: { minKernel: "5.10" } }, false],
    [{ excludes: { minKernel: "6.0" } }, true],
    [{ includes: { arches: ["amd64"], caps: ["CAP_CHOWN"] } }, false],
    [{ includes: { caps: ["CAP_KILL"] }, excludes: { caps: ["CAP_SYS_ADMIN"] } }, false],
    [{ includes: {}, excludes: {}, comment: "" }, true],
  ])("with %j applies: %p", (condition, applies) => {
    const container = { machine: "x64", capabilities: CAPS, kernel: "5.10.0-33-amd64" } as const;
    expect(fromOci(profile(entry(condition)), container).rules).toHaveLength(applies ? 1 : 0);
  });

  test("has no capabilities unless they are given", () => {
    expect(fromOci(profile(entry({ includes: { caps: ["CAP_KILL"] } })), X64).rules).toEqual([]);
    expect(fromOci(profile(entry({ excludes: { caps: ["CAP_KILL"] } })), X64).rules).toEqual([rule()]);
  });

  test.each([
    [{ architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"] }],
    [{ architectures: ["SCMP_ARCH_NATIVE"] }],
    [{ architectures: [] }],
    [{ archMap: [{ architecture: "SCMP_ARCH_X86_64", subArchitectures: ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] }] }],
    [{ archMap: [{ architecture: "SCMP_ARCH_X86_64", subArchitectures: null }] }],
    [{ flags: [] }],
  ])("takes %j, and kills the calls of 32-bit machines all the same", (more) => {
    const program = compile(fromOci({ ...profile(entry()), ...more }, X64));
    expect(interpret(program, { nr: NUMBERS.x64.getppid, arch: ARCH.x64, args: [] }).result).toBe(0x7fff0000);
    expect(interpret(program, { nr: 64, arch: 0x40000003, args: [] }).result).toBe(0x80000000); // getppid of i386
  });

  /** What stands first is how the message begins, behind "Cannot import". */
  const WRONG: readonly (readonly [string, unknown])[] = [
    ["the profile: null", null],
    ["the profile: []", []],
    ["the profile: 7", 7],
    ['the profile: "syscall"', { ...profile(), syscall: [] }],
    ["defaultAction: undefined", {}],
    ['defaultAction: "allow"', { defaultAction: "allow" }],
    ['defaultAction: "toString"', { defaultAction: "toString" }],
    ["defaultErrnoRet: 1", { defaultAction: ALLOW, defaultErrnoRet: 1 }],
    ['defaultErrno: "ENOSYS"', { defaultAction: DENY, defaultErrnoRet: 1, defaultErrno: "ENOSYS" }],
    ["syscalls: null", { defaultAction: DENY, syscalls: null }],
    ["syscalls: {}", { defaultAction: DENY, syscalls: {} }],
    ["syscalls[1]: null", profile(entry(), null)],
    ['flags: ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]', { ...profile(), flags: ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"] }],
    ['listenerPath: "/run/x"', { ...profile(), listenerPath: "/run/x" }],
    ['listenerMetadata: ""', { ...profile(), listenerMetadata: "" }],
    ['architectures: ["SCMP_ARCH_AARCH64"]', { ...profile(), architectures: ["SCMP_ARCH_AARCH64"] }],
    ["architectures[0]: 7", { ...profile(), architectures: [7] }],
    ["architectures: archMap stands beside it", { ...profile(), architectures: [], archMap: [] }],
    ['archMap: ["SCMP_ARCH_S390X"]', { ...profile(), archMap: [{ architecture: "SCMP_ARCH_S390X" }] }],
    ['archMap[0]: "arch"', { ...profile(), archMap: [{ arch: "SCMP_ARCH_X86_64" }] }],
    ['syscalls[0]: "arg"', profile(entry({ arg: [] }))],
    ['syscalls[0]: "__proto__"', JSON.parse('{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"__proto__":{"args":[]}}]}')],
    ["syscalls[0].names: []", profile(entry({ names: [] }))],
    ["syscalls[0].names: undefined", profile({ action: ALLOW })],
    ["syscalls[0].names[1]: 0", profile(entry({ names: ["read", 0] }))],
    ["syscalls[0].name: names stands beside it", profile(entry({ name: "read" }))],
    [
      'syscalls[0].names[1]: "opne"',
      { defaultAction: ALLOW, syscalls: [entry({ names: ["read", "opne"], action: DENY })] },
    ],
    [
      'syscalls[0].names[0]: "opne"',
      { defaultAction: "SCMP_ACT_LOG", syscalls: [entry({ names: ["opne"], action: "SCMP_ACT_TRAP" })] },
    ],
    ['syscalls[0].action: "SCMP_ACT_ALOW"', profile(entry({ action: "SCMP_ACT_ALOW" }))],
    ["syscalls[0].errnoRet: 1", profile(entry({ errnoRet: 1 }))],
    ['syscalls[0].errno: "EPERM"', profile(entry({ errno: "EPERM" }))],
    ["syscalls[0].errnoRet: 4096", profile(entry({ action: DENY, errnoRet: 4096 }))],
    ["syscalls[0].errnoRet: -1", profile(entry({ action: DENY, errnoRet: -1 }))],
    ['syscalls[0].errnoRet: "1"', profile(entry({ action: DENY, errnoRet: "1" }))],
    ["syscalls[0].errnoRet: null", profile(entry({ action: DENY, errnoRet: null }))],
    ["syscalls[0].errnoRet: 65536", profile(entry({ action: "SCMP_ACT_TRACE", errnoRet: 65_536 }))],
    ['syscalls[0].errno: "EPERMS"', profile(entry({ action: DENY, errno: "EPERMS" }))],
    ["syscalls[0].errno: 99999,", profile(entry({ action: DENY, errno: "99999" }))],
    ["syscalls[0].comment: null", profile(entry({ comment: null }))],
    ["syscalls[0].args: {}", profile(entry({ args: {} }))],
    ["syscalls[0].args[0]: null", profile(entry({ args: [null] }))],
    ['syscalls[0].args[0]: "arg"', profile(entry(args({ arg: 0 })))],
    ["syscalls[0].args[1].index: 6", profile(entry(args(eq(0, 0), eq(6, 0))))],
    ["syscalls[0].args[0].index: -1", profile(entry(args(eq(-1, 0))))],
    ["syscalls[0].args[0].index: undefined", profile(entry(args({ value: 1, op: "SCMP_CMP_EQ" })))],
    ['syscalls[0].args[0].op: "SCMP_CMP_EQUAL"', profile(entry(args({ ...eq(0, 0), op: "SCMP_CMP_EQUAL" })))],
    ["syscalls[0].args[0].op: undefined", profile(entry(args({ index: 0, value: 0 })))],
    ["syscalls[0].args[0].value: undefined", profile(entry(args({ index: 0, op: "SCMP_CMP_EQ" })))],
    ["syscalls[0].args[0].value: null", profile(entry(args(eq(0, null))))],
    ['syscalls[0].args[0].value: "1"', profile(entry(args(eq(0, "1"))))],
    ["syscalls[0].args[0].value: -1", profile(entry(args(eq(0, -1))))],
    ["syscalls[0].args[0].value: 1.5", profile(entry(args(eq(0, 1.5))))],
    ["syscalls[0].args[0].value: [1]", profile(entry(args(eq(0, [1]))))],
    [
      "syscalls[0].args[0].value: 18446744073709552000, expected the profile as text",
      profile(entry(args(eq(0, 2 ** 64 - 1)))),
    ],
    ["syscalls[0].args[0].value: 18446744073709551616", profile(entry(args(eq(0, 2n ** 64n))))],
    ["syscalls[0].args[0].valueTwo: 5", profile(entry(args({ ...eq(0, 1), valueTwo: 5 })))],
    ["syscalls[0].args[0].valueTwo: 3", profile(entry(args(masked(0, 1, 3))))],
    ["syscalls[0].includes: null", profile(entry({ includes: null }))],
    ['syscalls[0].includes: "cap"', profile(entry({ includes: { cap: [] } }))],
    ["syscalls[0].includes.caps: []", profile(entry({ includes: { caps: [] } }))],
    ['syscalls[0].includes.caps[0]: "SYS_ADMIN"', profile(entry({ includes: { caps: ["SYS_ADMIN"] } }))],
    ['syscalls[0].excludes.caps[0]: "CAP_SYS_ADMN"', profile(entry({ excludes: { caps: ["CAP_SYS_ADMN"] } }))],
    ["syscalls[0].includes.arches[0]: 1", profile(entry({ includes: { arches: [1] } }))],
    [
      'syscalls[0].includes.minKernel: "5.10", expected the option kernel',
      profile(entry({ includes: { minKernel: "5.10" } })),
    ],
    // Also where an entry does not apply.
    ["syscalls[0].args[0].op", profile(entry({ includes: { arches: ["arm64"] }, ...args({ ...eq(0, 0), op: "=" }) }))],
  ];

  test("throws TypeError with the place for what is wrong", () => {
    const said = WRONG.map(([where, given]) => {
      try {
        return `${where}: ${JSON.stringify(fromOci(given, X64))}`;
      } catch (error) {
        return error instanceof TypeError ? error.message.slice(0, "Cannot import ".length + where.length) : error;
      }
    });
    expect(said).toEqual(WRONG.map(([where]) => `Cannot import ${where}`));
  });

  test("throws for options that are wrong, and for text that is no JSON", () => {
    const given = profile(entry({ includes: { minKernel: "x" } }));
    expect(() => fromOci(given, { machine: "mips" as "x64" })).toThrow(TypeError);
    expect(() => fromOci(given, { machine: "x64", kernel: "six" })).toThrow(/^Cannot import the option kernel: "six"/);
    expect(() => fromOci(given, { machine: "x64", kernel: "6.1" })).toThrow(
      /^Cannot import syscalls\[0\]\.includes\.minKernel: "x"/,
    );
    expect(() => fromOci(given, { machine: "x64", capabilities: ["CAP_ALL"] })).toThrow(
      /^Cannot import the option capabilities\[0\]/,
    );
    expect(() => fromOci("{", X64)).toThrow(SyntaxError);
  });

  const LOG = { action: "SCMP_ACT_LOG" };
  test.each([
    [args(eq(0, 1)), args(eq(1, 1))],
    [args(eq(0, 1)), args({ ...eq(0, 2), op: "SCMP_CMP_NE" })],
    [args({ ...eq(0, 5), op: "SCMP_CMP_LE" }), args({ ...eq(0, 5), op: "SCMP_CMP_GE" })],
    [args(masked(0, 12, 4)), args(masked(0, 3, 1))],
    [args(eq(0, 1), eq(1, 2)), args(eq(1, 2), eq(2, 3))],
    [args(eq(0, 1), eq(0, 2)), args(eq(0, 2))],
  ])("throws where %j and %j are to end differently, and both can hold", (one, other) => {
    const given = profile(entry(one), entry(one), entry({ ...LOG, ...other }));
    expect(() => fromOci(given, X64)).toThrow(
      /^Cannot import syscalls\[2\]: for some arguments of getppid it contradicts syscalls\[0\]/,
    );
    expect(fromOci(profile(entry(one), entry(other)), X64).rules.length).toBeGreaterThan(1);
  });

  test.each([
    [args(eq(0, 1)), args(eq(0, 2))],
    [args(eq(0, 1)), args({ ...eq(0, 1), op: "SCMP_CMP_NE" })],
    [args({ ...eq(0, 5), op: "SCMP_CMP_LT" }), args({ ...eq(0, 5), op: "SCMP_CMP_GE" })],
    [args(masked(0, 12, 4)), args(masked(0, 5, 1))],
    [args(eq(0, 1), eq(1, 2)), args(eq(1, 3))],
  ])("takes %j and %j for different ends, for they exclude each other", (one, other) => {
    expect(fromOci(profile(entry(one), entry({ ...LOG, ...other })), X64).rules).toHaveLength(2);
  });
});

describe("toOci()", () => {
  const exported = (...rules: Rule[]) => toOci({ machine: "x64", default: { errno: 38 }, rules });

  test("writes what runtimes read", () => {
    const rules = [
      rule(),
      rule({ call: "read" }),
      rule({ call: "write", action: { errno: "EPERM" }, when: [{ arg: 0, op: "eq", value: 2 }] }),
    ];
    expect(exported(...rules)).toEqual({
      defaultAction: "SCMP_ACT_ERRNO",
      defaultErrnoRet: 38,
      architectures: ["SCMP_ARCH_X86_64"],
      syscalls: [
        { names: ["getppid", "read"], action: ALLOW },
        { names: ["write"], action: DENY, errnoRet: 1, args: [{ index: 0, value: 2, op: "SCMP_CMP_EQ" }] },
      ],
    });
  });

  test("makes an entry of each way for a condition to hold", () => {
    const when = [
      {
        any: [
          { arg: 0, op: "eq", value: 1 },
          {
            all: [
              { arg: 1, op: "ge", value: 2 },
              { arg: 1, op: "le", value: 2 },
            ],
          },
        ],
      },
    ] as const;
    const { syscalls } = exported(rule({ when }));
    expect(syscalls.map(({ args }) => args)).toEqual([[eq(0, 1)], [eq(1, 2)]] as never);
  });

  test("makes entries exclude each other where rules have an order, and leaves out what is done anyway", () => {
    const first = rule({ action: { errno: 38 }, when: [{ arg: 0, op: "eq", value: 1 }] });
    expect(exported(first, rule()).syscalls).toEqual([
      { names: ["getppid"], action: ALLOW, args: [{ index: 0, value: 1, op: "SCMP_CMP_NE" }] },
    ]);
    expect(exported(first).syscalls).toEqual([]);
    expect(exported(rule({ when: [{ arg: 0, op: "eq", value: 1 }] }), rule()).syscalls).toEqual([
      { names: ["getppid"], action: ALLOW },
    ]);
  });

  test("writes groups by the names of their calls", () => {
    const names = exported(rule({ call: "@network" })).syscalls.flatMap(({ names }) => names);
    expect(names).toContain("connect");
    expect(new Set(names).size).toBe(names.length);
  });

  test("throws RangeError for the data of a trap, and for conditions that hold in too many ways", () => {
    expect(() => exported(rule({ action: { trap: 1 } }))).toThrow(
      "Cannot export the rules for getppid: trap data 1, for which",
    );
    expect(() => exported(rule({ action: { trap: 0 } }))).not.toThrow();
    const any = (arg: 0 | 1 | 2) => ({ any: several(12, (value) => ({ arg, op: "eq", value }) as const) });
    expect(() => exported(rule({ when: [any(0), any(1)] }))).not.toThrow();
    expect(() => exported(rule({ when: [any(0), any(1), any(2)] }))).toThrow(/^Cannot export .* 256 ways/);
  });
});

const numbersOf = (machine: "x64" | "arm64"): Partial<Record<SyscallName, number>> => NUMBERS[machine];
const EVERY = several(600, (nr) => nr);

/** Fails for the first call that the program treats otherwise than the filter says. */
function agree(filter: Filter, program: Uint8Array): void {
  verify(program);
  const { machine, rules } = filter;
  const ask = (nr: number, args: readonly bigint[]) => {
    const { result } = interpret(program, { nr, arch: ARCH[machine], args });
    const expected = evaluate(filter, nr, args);
    if (result !== expected)
      expect({ seed, rules, nr, args, result }).toEqual({ seed, rules, nr, args, result: expected });
  };
  const named = rules.map(({ call }) => numbersOf(machine)[call as SyscallName]).filter((nr) => nr !== undefined);
  for (const nr of EVERY) ask(nr, []);
  for (const nr of new Set(named)) for (const args of vectors(filter, nr, 24)) ask(nr, args);
}

/** With what a profile has a word for. */
const sayable = (filter: Filter): Filter => {
  const action = (one: Filter["default"]) => (typeof one === "object" && "trap" in one ? "trap" : one);
  const rules = filter.rules.map((rule) => ({ ...rule, action: action(rule.action) }));
  return { ...filter, default: action(filter.default), rules };
};

describe.each(["x64", "arm64"] as const)("fromOci(toOci()) for %s", (machine) => {
  test("says the same for random filters", () => {
    let kept = 0;
    for (let round = 0; round < 40; round++) {
      const filter = sayable(randomFilter(machine));
      const program = attempt(() => compile(fromOci(JSON.stringify(toOci(filter)), { machine })));
      if (program === undefined) continue;
      kept++;
      agree(filter, program);
    }
    expect(kept).toBeGreaterThan(10);
  }, 60_000);

  test("says the same for random conditions on few words", () => {
    let kept = 0;
    for (let round = 0; round < 200; round++) {
      const near = () => BigInt(below(6)) << pick([0n, 31n, 32n]);
      const condition = () => randomCondition(() => randomTest(pick([0, 1]), near), 2);
      const rules = several(1 + below(4), () =>
        rule({ action: randomAction(), when: several(1 + below(2), condition) }),
      );
      const filter = sayable({
        machine,
        default: randomAction(),
        rules: [...rules, ...(below(3) === 0 ? [rule()] : [])],
      });
      const program = attempt(() => compile(fromOci(JSON.stringify(toOci(filter)), { machine })));
      if (program === undefined) continue;
      kept++;
      agree(filter, program);
    }
    expect(kept).toBeGreaterThan(150);
  }, 60_000);
});

/** Nothing, where it would be too much for the kernel. */
function attempt<T>(make: () => T): T | undefined {
  try {
    return make();
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

test("FOREIGN names no call that a machine of ours has", () => {
  const ours = Object.values(NUMBERS).flatMap((numbers) => Object.keys(numbers));
  expect(ours.filter((name) => FOREIGN.has(name))).toEqual([]);
});

testLibseccomp("FOREIGN names all calls that libseccomp knows and our machines have not", () => {
  // To those of other machines it gives numbers below -10000.
  const names = several(1000, (at) => nameOf("x64", -10_000 - at)).filter((name) => name !== undefined);
  const ours = Object.values(NUMBERS).flatMap((numbers) => Object.keys(numbers));
  expect(names.length).toBeGreaterThan(100);
  expect(names.filter((name) => !FOREIGN.has(name) && !ours.includes(name))).toEqual([]);
});

testLibseccomp(
  "libseccomp makes of toOci() what the filter says, for 200 random policies",
  () => {
    const calls = (Object.keys(NUMBERS.x64) as SyscallName[]).filter((name) => present && numberOf(name) !== undefined);
    fc.assert(
      fc.property(policy("x64", ["getppid", "getpid"], calls), ({ filter }) => {
        agree(filter, compiledAsProfile(profileIn(JSON.stringify(toOci(filter))), "x64"));
      }),
      runs(200),
    );
  },
  60_000,
);
