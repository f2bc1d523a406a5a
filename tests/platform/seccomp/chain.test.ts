import { expect, test } from "bun:test";
import fc from "fast-check";
import { chain } from "../../../platform/linux/seccomp/chain.ts";
import { compile } from "../../../platform/linux/seccomp/compile.ts";
import type { Action } from "../../../platform/linux/seccomp/filter.ts";
import { MACHINE, NUMBERS, SECCOMP_RET, type SyscallName } from "../../../syscalls/linux/numbers.ts";
import { interpret, verify } from "../interpreter.ts";
import { policy, runs, vectors } from "./random.ts";

const CALLS = ["openat", "read", "ioctl", "mmap"] satisfies SyscallName[];
const OTHERS = ["getpid", "close", "socket", "kill", "write"] satisfies SyscallName[];
const ARCH = { x64: 0xc000_003e, arm64: 0xc000_00b7 } as const;
const any = policy(MACHINE, CALLS, OTHERS).map(({ filter }) => filter);
/** What only the last one may say: it lets a call through. */
const isLoud = (action: Action) => action === "log" || (typeof action === "object" && "trace" in action);
const quiet = (action: Action): Action => (isLoud(action) ? { errno: 5 } : action);
const some = any.map((filter) => ({
  ...filter,
  default: quiet(filter.default),
  rules: filter.rules.map((rule) => ({ ...rule, action: quiet(rule.action) })),
}));

test("a chain says what the first of its filters says that does not allow", () => {
  fc.assert(
    fc.property(fc.array(some, { maxLength: 3 }), any, (first, last) => {
      const filters = [...first, last];
      const programs = filters.map((filter) => compile(filter));
      const chained = chain(programs);
      verify(chained);
      for (const call of [...CALLS, ...OTHERS, "setsid"] as const) {
        const nr = NUMBERS[MACHINE][call];
        for (const args of filters.flatMap((filter) => vectors(filter, nr, 12))) {
          const results = programs.map((program) => interpret(program, { nr, arch: ARCH[MACHINE], args }).result);
          const expected = results.find((result) => result !== SECCOMP_RET.ALLOW) ?? SECCOMP_RET.ALLOW;
          expect(interpret(chained, { nr, arch: ARCH[MACHINE], args }).result).toBe(expected);
        }
      }
    }),
    runs(150),
  );
});

test("a foreign machine and a number of no table get what the first filter says", () => {
  const programs = [
    compile({ machine: MACHINE, default: "allow", rules: [] }),
    compile({ machine: MACHINE, default: { errno: 1 }, rules: [] }),
  ];
  const chained = chain(programs);
  for (const [nr, arch] of [
    [0, 0x4000_0003],
    [0x4000_0000, ARCH[MACHINE]],
    [-1, ARCH[MACHINE]],
    [4095, ARCH[MACHINE]],
  ] as const) {
    const args = [0n, 0n, 0n, 0n, 0n, 0n];
    const results = programs.map((program) => interpret(program, { nr, arch, args }).result);
    const expected = results.find((result) => result !== SECCOMP_RET.ALLOW);
    expect(interpret(chained, { nr, arch, args }).result).toBe(expected!);
  }
});

test("one alone stays as it is, and none of what is chained is changed", () => {
  const program = compile({ machine: MACHINE, default: "allow", rules: [{ call: "mount", action: "notify" }] });
  const before = program.slice();
  expect(chain([program])).toEqual(Buffer.from(before));
  chain([program, program]);
  expect(program).toEqual(before);
});

test("nothing goes on behind a filter that logs or traces", () => {
  const allowing = compile({ machine: MACHINE, default: "allow", rules: [] });
  for (const action of ["log", { trace: 0 }] satisfies Action[]) {
    const loud = compile({ machine: MACHINE, default: "allow", rules: [{ call: "mount", action }] });
    expect(() => chain([loud, allowing])).toThrow(TypeError);
    expect(chain([allowing, loud]).length).toBe(allowing.length + loud.length);
  }
});
