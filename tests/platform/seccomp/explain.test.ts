import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { compile, explain, type Filter, type Rule } from "../../../platform/linux/seccomp/index.ts";
import { MACHINE, NUMBERS, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { interpret } from "../interpreter.ts";
import { ARCH, pick, randomFilter, resultOf, seed, several, word, wordsOf, X32 } from "./rules.ts";

// Random cases by the hundred, on machines that may be busy.
setDefaultTimeout(120_000);

const RULES = [
  { call: "@file-read", action: { errno: "EACCES" } },
  { call: "getpid", action: "allow" },
  { call: "ioctl", action: "allow", when: [{ arg: 1, op: "eq", value: 0x5401 }] },
  {
    call: "ioctl",
    action: "trap",
    when: [
      {
        any: [
          { arg: 0, op: "lt", value: 3 },
          { arg: 1, op: "masked", mask: 15, value: 1 },
        ],
      },
    ],
  },
] as const satisfies readonly Rule[];
const FILTER: Filter = { machine: "x64", default: "kill-process", rules: RULES };

describe("explain()", () => {
  test("gives the action, the rule, and words for people", () => {
    expect(explain(FILTER, "getpid")).toEqual({
      action: "allow",
      rule: RULES[1],
      because: "rules[1] speaks of getpid whatever its arguments",
    });
    expect(explain(FILTER, "openat", [1, "0xff"])).toEqual({
      action: { errno: "EACCES" },
      rule: RULES[0],
      because: "rules[0], for @file-read, speaks of openat whatever its arguments",
    });
    expect(explain(FILTER, "ioctl", [5, 0x5401])).toEqual({
      action: "allow",
      rule: RULES[2],
      because: "rules[2] speaks of ioctl where args[1] == 0x5401, which holds for (0x5, 0x5401)",
    });
    expect(explain(FILTER, "ioctl", [2, 0])).toMatchObject({ action: "trap", rule: RULES[3] });
    expect(explain(FILTER, "ioctl", [5, 0])).toEqual({
      action: "kill-process",
      because:
        "None of the rules for ioctl holds for (0x5, 0x0), the default: they want args[1] == 0x5401; or args[0] < 0x3 or args[1] & 0xf == 0x1",
    });
    expect(explain(FILTER, "mount")).toEqual({
      action: "kill-process",
      because: "No rule speaks of mount: the default",
    });
    expect(explain(FILTER, 999)).toEqual({
      action: "kill-process",
      because: "No rule speaks of call 999: the default",
    });
    for (const number of [X32 | 39, -1]) {
      expect(explain({ ...FILTER, default: "allow" }, number).action).toBe("kill-process");
      expect(explain({ ...FILTER, default: "allow", machine: "arm64" }, number).action).toBe("allow");
    }
  });

  test("throws for calls and arguments that there are not, and for filters that make no sense", () => {
    expect(() => explain(FILTER, "opn" as SyscallName)).toThrow("Cannot explain opn: x64 has no such call");
    expect(() => explain({ ...FILTER, machine: "arm64" }, "open")).toThrow("arm64 has no such call");
    expect(() => explain(FILTER, "toString" as SyscallName)).toThrow(TypeError);
    expect(() => explain(FILTER, 1.5)).toThrow(RangeError);
    expect(() => explain(FILTER, 2 ** 31)).toThrow(RangeError);
    expect(() => explain(FILTER, "read", [1, 2, 3, 4, 5, 6, 7])).toThrow(RangeError);
    expect(() => explain(FILTER, "read", [-1])).toThrow(RangeError);
    expect(() => explain({ ...FILTER, rules: [{ call: "read", action: "allow", when: [] }] }, "read")).toThrow(
      TypeError,
    );
  });

  test.each(["x64", "arm64"] as const)("says of 60 random filters for %s what their programs do", (machine) => {
    const numbers = Object.values(NUMBERS[machine]);
    for (let round = 0; round < 60; round++) {
      const filter = randomFilter(machine);
      const program = compile(filter);
      for (const nr of [...several(40, () => pick(numbers)), 2000, -1, X32 | 1]) {
        const args = several(6, word);
        const tested = filter.rules.filter(({ call, when }) => when !== undefined && call in NUMBERS[machine]);
        for (const { arg, value } of wordsOf(tested.length > 0 ? pick(tested).when! : [])) args[arg] = value;
        const { action, rule } = explain(filter, nr, args);
        const { result } = interpret(program, { nr, arch: ARCH[machine], args });
        expect({ seed, nr, result: resultOf(action) }).toEqual({ seed, nr, result });
        if (rule !== undefined) expect(filter.rules).toContain(rule);
      }
    }
  });

  test("knows the numbers of the machine that the filter is for, not of this one", () => {
    const other = MACHINE === "x64" ? "arm64" : "x64";
    expect(explain({ ...FILTER, machine: other }, NUMBERS[other].getpid).rule).toBe(RULES[1]);
  });
});
