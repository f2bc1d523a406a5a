// What holds for every filter that caisson itself makes.
import { expect, test } from "bun:test";
import { closingFilter, programFilter, startingFilter } from "../../../platform/linux/filters.ts";
import type { Policy } from "../../../platform/platform.ts";
import { ERRNO, NUMBERS } from "../../../syscalls/linux/numbers.ts";
import { interpret, verify } from "../interpreter.ts";
import { policy } from "../policy.ts";
import { ARCH, KILL, X32 } from "./rules.ts";

const POLICY = policy({ onBreak: "kill" });
const WIDE: Policy = { ...POLICY, read: ["/srv"], write: ["/srv"], net: ["example.com:443"] };
const NOTIFY = 0x7fc00000;
const PERM = 0x50001;

const cases = (["x64", "arm64"] as const).flatMap((machine) => {
  const actor = { pid: 7, ownRoot: true };
  return [
    { machine, what: "startingFilter()", program: startingFilter(machine, 7), otherwise: PERM },
    { machine, what: "closingFilter()", program: closingFilter(POLICY, machine, actor), otherwise: PERM },
    { machine, what: "closingFilter() of grants", program: closingFilter(WIDE, machine, actor), otherwise: PERM },
    {
      machine,
      what: "closingFilter() that hands calls over",
      program: closingFilter(WIDE, machine, { ...actor, observed: true }),
      otherwise: NOTIFY,
    },
    { machine, what: "programFilter()", program: programFilter(POLICY, machine), otherwise: PERM },
    { machine, what: "programFilter() of grants", program: programFilter(WIDE, machine), otherwise: PERM },
  ];
});

test.each(cases)(
  "$what for $machine asks for the machine first, then kills what is not of it",
  ({ machine, program }) => {
    verify(program);
    const [word, comparison] = [program.subarray(0, 8), program.subarray(8, 16)];
    expect([...word]).toEqual([0x20, 0, 0, 0, 4, 0, 0, 0]); // loads the architecture
    expect(new DataView(comparison.buffer, comparison.byteOffset).getUint32(4, true)).toBe(ARCH[machine]);
    for (const arch of [ARCH.x64, ARCH.arm64, 0x40000003, 0x40000028, 0].filter((arch) => arch !== ARCH[machine])) {
      for (let nr = 0; nr < 600; nr++) expect(interpret(program, { nr, arch, args: [] }).result).toBe(KILL);
    }
    const x32 = [X32, X32 | 39, X32 | 520, -1, 1 << 31].map((nr) =>
      interpret(program, { nr, arch: ARCH[machine], args: [] }),
    );
    if (machine === "x64") expect(x32.map(({ result }) => result)).toEqual(Array(5).fill(KILL));
  },
);

test.each(cases)(
  "$what for $machine answers clone3 with ENOSYS, so that callers take clone",
  ({ machine, program }) => {
    const { result } = interpret(program, { nr: NUMBERS[machine].clone3, arch: ARCH[machine], args: [1n, 88n] });
    expect(result).toBe(0x50000 + ERRNO.ENOSYS);
  },
);

test.each(cases)(
  "$what for $machine gives calls that are newer than it the default",
  ({ machine, program, otherwise }) => {
    const newest = Math.max(...Object.values(NUMBERS[machine]));
    for (const nr of [newest + 1, newest + 100, 5000, X32 - 1]) {
      expect(interpret(program, { nr, arch: ARCH[machine], args: [] }).result).toBe(otherwise);
    }
  },
);
