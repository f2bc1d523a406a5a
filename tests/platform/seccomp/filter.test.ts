import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Action, type Condition, compile, type Filter, type Rule } from "../../../platform/linux/seccomp/index.ts";
import { ERRNO, type Machine, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { interpret } from "../interpreter.ts";
import { ARCH, TOP } from "./rules.ts";

// Random cases by the hundred, on machines that may be busy.
setDefaultTimeout(120_000);

const DENY: Action = { errno: 1 };
const x64 = (rules: readonly Rule[], otherwise: Action = DENY): Filter => ({
  machine: "x64",
  default: otherwise,
  rules,
});
const when = (...when: readonly Condition[]) => x64([{ call: "read", action: "allow", when }]);
/** What becomes of `read`. */
const verdict = (filter: Filter, ...args: bigint[]) =>
  interpret(compile(filter), { nr: 0, arch: ARCH.x64, args }).result;

describe("a filter", () => {
  test("gives each action as the kernel knows it, with its data", () => {
    const table: readonly (readonly [Action, number])[] = [
      ["allow", 0x7fff0000],
      ["log", 0x7ffc0000],
      ["notify", 0x7fc00000],
      ["trap", 0x00030000],
      ["kill-process", 0x80000000],
      ["kill-thread", 0x00000000],
      [{ errno: 0 }, 0x00050000],
      [{ errno: 13 }, 0x0005000d],
      [{ errno: 4095 }, 0x00050fff],
      [{ errno: "ENOSYS" }, 0x00050000 + ERRNO.ENOSYS],
      [{ trap: 65535 }, 0x0003ffff],
      [{ trace: 0 }, 0x7ff00000],
      [{ trace: 65535 }, 0x7ff0ffff],
    ];
    for (const [action, result] of table) {
      expect([action, verdict(x64([{ call: "read", action }]))]).toEqual([action, result]);
      expect([action, verdict(x64([], action))]).toEqual([action, result]);
    }
  });

  test("takes words as bigint, number, hexadecimal and decimal text alike", () => {
    const program = compile(when({ arg: 0, op: "eq", value: 0xffff_ffffn }));
    for (const value of [0xffff_ffff, "0xffffffff", "0xFFFFFFFF", "4294967295"]) {
      expect(compile(when({ arg: 0, op: "eq", value }))).toEqual(program);
    }
    expect(compile(when({ arg: 0, op: "eq", value: "0xffffffffffffffff" }))).toEqual(
      compile(when({ arg: 0, op: "eq", value: TOP })),
    );
  });

  test("means the same after it was JSON", () => {
    const filter = x64([
      { call: "@file-read", action: { errno: "EACCES" } },
      {
        call: "read",
        action: "log",
        when: [{ any: [{ arg: 0, op: "masked", mask: "0xf000000000000000", value: 0 }] }],
      },
    ]);
    expect(compile(JSON.parse(JSON.stringify(filter)))).toEqual(compile(filter));
  });

  test("lets rules by name go before those by group, wherever they stand", () => {
    const group: Rule = { call: "@io", action: { errno: 2 } };
    expect(verdict(x64([group, { call: "read", action: "allow" }]))).toBe(0x7fff0000);
    const some: Rule = { call: "read", action: "allow", when: [{ arg: 0, op: "eq", value: 3 }] };
    expect(verdict(x64([group, some]), 3n)).toBe(0x7fff0000);
    expect(verdict(x64([group, some]), 4n)).toBe(0x50002);
    expect(verdict(x64([some]), 4n)).toBe(0x50001);
  });

  test("takes of two rules for one group the first that matches", () => {
    const rules: Rule[] = [
      { call: "@io", action: { errno: 7 }, when: [{ arg: 0, op: "eq", value: 7 }] },
      { call: "@io", action: "allow" },
    ];
    expect([verdict(x64(rules), 7n), verdict(x64(rules), 8n)]).toEqual([0x50007, 0x7fff0000]);
  });

  test("throws TypeError for a call that no machine has, and for a group that there is not", () => {
    for (const name of ["opn", "toString", "__proto__", "", "file-read"]) {
      expect(() => compile(x64([{ call: name as SyscallName, action: "allow" }]))).toThrow(
        new TypeError(`Cannot compile a rule for ${name}: no machine has such a call`),
      );
    }
    for (const name of ["@", "@file", "@toString", "@__proto__", "@@io", "@IO"]) {
      expect(() => compile(x64([{ call: name as "@io", action: "allow" }]))).toThrow(
        /^Cannot compile a rule for @.*: expected one of .*@file-read, @file-write/,
      );
    }
  });

  test("throws TypeError for rules that contradict each other, also with others between them", () => {
    for (const call of ["read", "@io"] as const) {
      const between: Rule = { call, action: "allow", when: [{ arg: 0, op: "eq", value: 0n }] };
      const both = (a: Action, b: Action) => () => compile(x64([{ call, action: a }, between, { call, action: b }]));
      const contradiction = new TypeError(`Cannot compile the rules for ${call}: they contradict each other`);
      expect(both("allow", "kill-process")).toThrow(contradiction);
      expect(both({ errno: 1 }, { errno: 2 })).toThrow(contradiction);
      expect(both({ errno: 1 }, { errno: "EPERM" })).not.toThrow();
    }
  });

  test("throws for empty lists, nulls and undefined, which would widen what was meant to be narrow", () => {
    const rule = (when: unknown) => () => compile(x64([{ call: "read", action: "allow", when } as Rule]));
    for (const nothing of [[], null, undefined, {}, "", 0, [null], [undefined], [[]], [{}]]) {
      expect([nothing, rule(nothing)]).toEqual([nothing, expect.any(Function)]);
      expect(rule(nothing)).toThrow(TypeError);
      expect(rule([{ all: nothing }])).toThrow(TypeError);
      expect(rule([{ any: nothing }])).toThrow(TypeError);
    }
    expect(rule([])).toThrow("Cannot test the conditions for read: the list is empty, leave it out for every call");
    expect(() => compile({ ...x64([]), rules: null as never })).toThrow(TypeError);
    expect(() => compile({ ...x64([]), rules: {} as never })).toThrow(TypeError);
    expect(() => compile(null as never)).toThrow(TypeError);
    expect(() => compile(x64([null as never]))).toThrow(TypeError);
  });

  test("throws TypeError for keys that it does not know", () => {
    const claim = { arg: 0, op: "eq", value: 1 } as const;
    const read = { call: "read", action: "allow" } as const;
    const strange: readonly [string, Filter][] = [
      ["defaultAction", { ...x64([]), defaultAction: "allow" } as Filter],
      ["where", x64([{ ...read, where: [claim] } as Rule])],
      ["mask", when({ ...claim, mask: 1n } as never)],
      ["any", when({ ...claim, any: [claim] } as never)],
      ["all", when({ any: [claim], all: [claim] } as never)],
      ["not", when({ any: [claim], not: true } as never)],
    ];
    for (const [key, filter] of strange) {
      expect([key, () => compile(filter)]).toEqual([key, expect.any(Function)]);
      expect(() => compile(filter)).toThrow(TypeError);
    }
  });

  test("throws for a word that is not one of 64 bits, and for bits outside of the mask", () => {
    for (const value of [-1n, 2n ** 64n, -1, 1.5, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => compile(when({ arg: 0, op: "eq", value }))).toThrow(RangeError);
      expect(() => compile(when({ arg: 0, op: "masked", mask: value, value: 0 }))).toThrow(RangeError);
    }
    expect(() => compile(when({ arg: 0, op: "eq", value: "18446744073709551616" }))).toThrow(RangeError);
    // 010 is 8 to some, and 10 to others.
    for (const value of [
      "",
      " 1",
      "1 ",
      "-1",
      "+1",
      "1n",
      "010",
      "0o7",
      "0b1",
      "1e3",
      "0x",
      "0x10000000000000000",
      "x",
    ]) {
      expect(() => compile(when({ arg: 0, op: "eq", value }))).toThrow(TypeError);
    }
    for (const value of [null, undefined, true, {}, []]) {
      expect(() => compile(when({ arg: 0, op: "eq", value: value as never }))).toThrow(TypeError);
    }
    expect(() => compile(when({ arg: 0, op: "masked", mask: 2n, value: 3n }))).toThrow(RangeError);
    expect(() => compile(when({ arg: 0, op: "masked", mask: 3n, value: 3n }))).not.toThrow();
  });

  test("throws for what the types forbid", () => {
    const wrong = (rule: object) => () => compile(x64([{ call: "read", action: "allow", ...rule } as Rule]));
    for (const action of ["alow", "kill", "errno", "toString", null, undefined, 5, [], {}, { errno: 1, trap: 2 }]) {
      expect(wrong({ action })).toThrow(TypeError);
      expect(() => compile({ ...x64([]), default: action as Action })).toThrow(TypeError);
    }
    expect(wrong({ action: { allow: 1 } })).toThrow(TypeError);
    expect(wrong({ action: { errno: "EPREM" } })).toThrow(TypeError);
    for (const errno of [4096, -1, 1.5, null, undefined, 1n]) expect(wrong({ action: { errno } })).toThrow(RangeError);
    for (const data of [65536, -1, 1.5, "1", null]) {
      expect(wrong({ action: { trap: data } })).toThrow(RangeError);
      expect(wrong({ action: { trace: data } })).toThrow(RangeError);
    }
    for (const arg of [6, -1, 0.5, "0", null]) {
      expect(wrong({ when: [{ arg, op: "eq", value: 0n }] })).toThrow(RangeError);
    }
    expect(wrong({ when: [{ arg: 0, op: "equals", value: 0n }] })).toThrow(TypeError);
    expect(wrong({ call: 0 })).toThrow(TypeError);
    for (const machine of ["mips", "toString", undefined]) {
      expect(() => compile({ ...x64([]), machine: machine as Machine })).toThrow(TypeError);
    }
  });

  test("throws for conditions within too many others, and for those that hold themselves", () => {
    const within = (depth: number) => {
      let condition: Condition = { arg: 0, op: "eq", value: 0 };
      for (; depth > 0; depth--) condition = { all: [condition] };
      return when(condition);
    };
    expect(() => compile(within(30))).not.toThrow();
    expect(() => compile(within(100_000))).toThrow(RangeError);
    const all: Condition[] = [];
    all.push({ all });
    expect(() => compile(when({ all }))).toThrow(RangeError);
  });
});
