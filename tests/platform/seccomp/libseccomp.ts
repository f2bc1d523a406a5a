/** libseccomp, Debian's `libseccomp2`, by `bun:ffi`: what others make of the same rules. Shares no code with the compiler. */
import { type CString, dlopen } from "bun:ffi";
import { readFileSync } from "node:fs";
import type { Filter, Rule, Test } from "../../../platform/linux/seccomp/filter.ts";
import { Descriptor } from "../../../syscalls/descriptor.ts";
import { self } from "../../../syscalls/kernel.ts";
import { createMemoryFile } from "../../../syscalls/linux/file.ts";
import { type Machine, SECCOMP_RET } from "../../../syscalls/linux/numbers.ts";
import { testIf } from "../../syscalls/requirement.ts";
import { ARCH, resultOf } from "./rules.ts";

/** The functions of seccomp.h. They give 0 or `-errno`. */
const SYMBOLS = {
  seccomp_init: { args: ["u32"], returns: "ptr" },
  seccomp_release: { args: ["ptr"], returns: "void" },
  seccomp_arch_native: { args: [], returns: "u32" },
  seccomp_arch_add: { args: ["ptr", "u32"], returns: "i32" },
  seccomp_arch_remove: { args: ["ptr", "u32"], returns: "i32" },
  seccomp_attr_set: { args: ["ptr", "i32", "u32"], returns: "i32" },
  seccomp_syscall_resolve_name: { args: ["ptr"], returns: "i32" },
  seccomp_syscall_resolve_num_arch: { args: ["u32", "i32"], returns: "cstring" },
  seccomp_rule_add_array: { args: ["ptr", "u32", "i32", "u32", "ptr"], returns: "i32" },
  seccomp_rule_add_exact_array: { args: ["ptr", "u32", "i32", "u32", "ptr"], returns: "i32" },
  seccomp_export_bpf: { args: ["ptr", "i32"], returns: "i32" },
} as const;

const library = load();
const symbols = () => library!.symbols;
type Handle = NonNullable<ReturnType<ReturnType<typeof symbols>["seccomp_init"]>>;

function load() {
  try {
    return dlopen("libseccomp.so.2", SYMBOLS);
  } catch {
    return undefined;
  }
}

export const present = library !== undefined;
export const testLibseccomp = testIf("libseccomp", present, "it is not installed (Debian: libseccomp2)");

/** enum scmp_filter_attr. */
const ATTRIBUTE = { ACT_BADARCH: 2, CTL_OPTIMIZE: 8 } as const;

/** enum scmp_compare. */
export const COMPARE = { NE: 1, LT: 2, LE: 3, EQ: 4, GE: 5, GT: 6, MASKED_EQ: 7 } as const;

/** struct scmp_arg_cmp: of MASKED_EQ `a` is the mask and `b` the value. */
export interface Comparison {
  readonly arg: number;
  readonly op: (typeof COMPARE)[keyof typeof COMPARE];
  readonly a: bigint;
  readonly b: bigint;
}

/** The number of a call: this machine's, a negative one of libseccomp's own for a call of other machines, or nothing. */
export function numberOf(call: string): number | undefined {
  const number = symbols().seccomp_syscall_resolve_name(Buffer.from(`${call}\0`));
  return number === -1 ? undefined : number;
}

/** What it calls a number of a machine. */
export function nameOf(machine: Machine, number: number): string | undefined {
  const name = symbols().seccomp_syscall_resolve_num_arch(ARCH[machine], number) as CString | null; // which it is
  return name === null ? undefined : `${name}`;
}

/** A filter in the making, for one machine. */
export interface Context extends Disposable {
  /** By the number that `numberOf` gives. `exact` refuses what the machine has not, where otherwise nothing is added. */
  add(number: number, result: number, comparisons?: readonly Comparison[], exact?: boolean): void;
  /** struct sock_filter[] */
  export(): Uint8Array;
}

/** Calls for other machines end the process, as our filters have it; with `tree`, numbers are searched for by halves. */
export function context(machine: Machine, otherwise: number, tree = false): Context {
  const library = symbols();
  const handle = library.seccomp_init(otherwise);
  if (handle === null) throw new Error(`seccomp_init answered NULL for ${otherwise}`);
  const native = library.seccomp_arch_native();
  if (ARCH[machine] !== native) {
    succeed("seccomp_arch_add", library.seccomp_arch_add(handle, ARCH[machine]));
    succeed("seccomp_arch_remove", library.seccomp_arch_remove(handle, native));
  }
  const set = (attribute: number, value: number) =>
    succeed("seccomp_attr_set", library.seccomp_attr_set(handle, attribute, value));
  set(ATTRIBUTE.ACT_BADARCH, SECCOMP_RET.KILL_PROCESS);
  if (tree) set(ATTRIBUTE.CTL_OPTIMIZE, 2);
  return {
    add: (number, result, comparisons = [], exact = false) => {
      const name = exact ? "seccomp_rule_add_exact_array" : "seccomp_rule_add_array";
      const bytes = comparisons.length === 0 ? null : encoded(comparisons);
      succeed(name, library[name](handle, result, number, comparisons.length, bytes));
    },
    export: () => exported(handle),
    [Symbol.dispose]: () => library.seccomp_release(handle),
  };
}

function succeed(name: string, answer: number): void {
  if (answer !== 0) throw new Error(`${name} answered ${answer}`);
}

function encoded(comparisons: readonly Comparison[]): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(24 * comparisons.length));
  for (const [index, { arg, op, a, b }] of comparisons.entries()) {
    bytes.setUint32(24 * index, arg, true);
    bytes.setUint32(24 * index + 4, op, true);
    bytes.setBigUint64(24 * index + 8, a, true);
    bytes.setBigUint64(24 * index + 16, b, true);
  }
  return new Uint8Array(bytes.buffer);
}

function exported(handle: Handle): Uint8Array {
  using file = new Descriptor(createMemoryFile(self, "filter"));
  succeed("seccomp_export_bpf", symbols().seccomp_export_bpf(handle, file.number));
  return readFileSync(`/proc/self/fd/${file.number}`);
}

/**
 * One of our filters as libseccomp compiles it. It has and-ed tests alone, at most one for each argument, no order of rules, and refuses
 * rules that do what is done anyway: `random.ts` has what both can say.
 */
export function compiledByLibseccomp({ machine, default: otherwise, rules }: Filter, tree = false): Uint8Array {
  using filter = context(machine, resultOf(otherwise), tree);
  for (const rule of rules) {
    const number = numberOf(rule.call);
    if (number === undefined) throw new Error(`libseccomp has no call ${rule.call}`);
    filter.add(number, resultOf(rule.action), comparisonsOf(rule));
  }
  return filter.export();
}

function comparisonsOf({ call, when = [] }: Rule): Comparison[] {
  return when.map((condition) => {
    if (!("op" in condition)) throw new Error(`libseccomp has no "any" and no "all", as the rule for ${call} has`);
    return comparisonOf(condition);
  });
}

function comparisonOf(test: Test): Comparison {
  const value = BigInt(test.value);
  if (test.op === "masked") return { arg: test.arg, op: COMPARE.MASKED_EQ, a: BigInt(test.mask), b: value };
  return { arg: test.arg, op: COMPARE[test.op.toUpperCase() as Uppercase<typeof test.op>], a: value, b: 0n };
}

interface JsonEntry {
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number;
  readonly args?: readonly { index: number; value: number | bigint; valueTwo?: number | bigint; op: string }[] | null;
}

export interface JsonProfile {
  readonly defaultAction: string;
  readonly defaultErrnoRet?: number;
  readonly syscalls: readonly JsonEntry[];
}

/** With words of 64 bits as they are written. */
export function profileIn(text: string): JsonProfile {
  return JSON.parse(text, (_, value, { source }: { source?: string } = {}) =>
    typeof value === "number" && !Number.isSafeInteger(value) ? BigInt(source!) : value,
  );
}

/** A profile as runc and crun give it to libseccomp, entry by entry. */
export function compiledAsProfile(
  { defaultAction, defaultErrnoRet, syscalls }: JsonProfile,
  machine: Machine,
): Uint8Array {
  const otherwise = actionNumber(defaultAction, defaultErrnoRet);
  using filter = context(machine, otherwise);
  for (const { names, action, errnoRet, args } of syscalls) {
    const result = actionNumber(action, errnoRet);
    if (result === otherwise) continue;
    const all = (args ?? []).map(({ index: arg, op, value, valueTwo = 0 }): Comparison => {
      return {
        arg,
        op: COMPARE[op.replace("SCMP_CMP_", "") as keyof typeof COMPARE],
        a: BigInt(value),
        b: BigInt(valueTwo),
      };
    });
    const single = new Set(all.map(({ arg }) => arg)).size === all.length;
    for (const number of names.map(numberOf).filter((number) => number !== undefined)) {
      for (const comparisons of single ? [all] : all.map((one) => [one])) filter.add(number, result, comparisons);
    }
  }
  return filter.export();
}

function actionNumber(action: string, data = 1): number {
  const name = action.replace("SCMP_ACT_", "");
  if (name === "NOTIFY") return SECCOMP_RET.USER_NOTIF;
  const result = SECCOMP_RET[name as keyof typeof SECCOMP_RET];
  return name === "ERRNO" || name === "TRACE" ? result | data : result;
}
