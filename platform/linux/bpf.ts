/** Rules about system calls, compiled to the classic BPF programs that seccomp(2) takes. */
import { AUDIT_ARCH, BPF, type Machine, NUMBERS, SECCOMP_RET, type SyscallName } from "../../syscalls/linux/numbers.ts";

/** What the kernel does with a call: makes it, ends the whole process, or answers with an errno instead. */
export type Action = "allow" | "kill" | { readonly errno: number };

type Arg = 0 | 1 | 2 | 3 | 4 | 5;

/**
 * A claim about one argument, as an unsigned word of 64 bits; `masked` claims `(argument & mask) === value`. Where the kernel
 * takes an argument as an `int`, the caller decides what is in the upper half: test such an argument with a mask of 32 bits
 * in a rule that denies.
 */
export type Test =
  | { readonly arg: Arg; readonly op: "eq" | "ne" | "lt" | "le" | "gt" | "ge"; readonly value: bigint }
  | { readonly arg: Arg; readonly op: "masked"; readonly mask: bigint; readonly value: bigint };

/** What is to happen to one call, whatever its arguments, or where all of the tests hold. */
export type Rule = { readonly call: SyscallName; readonly action: Action; readonly when?: readonly Test[] };

/** A policy on system calls. Of the rules of one call the first that matches counts; where none does, the default. */
export interface Filter {
  readonly machine: Machine;
  readonly default: Action;
  readonly rules: readonly Rule[];
}

/**
 * The filter as an array of `struct sock_filter`. Calls for another machine are killed, and on x64 those with the x32 bit.
 * A rule for a call that only the other machine has says nothing here. Throws TypeError or RangeError for a filter that
 * makes no sense, and RangeError for one that does not fit into 4096 instructions.
 */
export function compile(filter: Filter): Uint8Array {
  if (!Object.hasOwn(NUMBERS, filter.machine))
    throw new TypeError(`Cannot compile for ${filter.machine}: expected x64 or arm64`);
  const intern = interner();
  const otherwise = intern({ choices: [], result: resultOf(filter.default) });
  const treatments = treatmentsOf(filter, intern);
  const killed = intern({ choices: [], result: SECCOMP_RET.KILL_PROCESS });
  const above = filter.machine === "x64" ? [{ first: X32_SYSCALL_BIT, treatment: killed }] : [];
  return encode(assemble(segmentsOf(treatments, otherwise, above), ARCH[filter.machine]));
}

/** __X32_SYSCALL_BIT of asm/unistd.h: from here on numbers mean x32's calls, down to -1, which no machine calls. */
const X32_SYSCALL_BIT = 0x4000_0000;
const ARCH = { x64: AUDIT_ARCH.X86_64, arm64: AUDIT_ARCH.AARCH64 } as const;
const MAX_ERRNO = 4095;
const WORD = 0xffff_ffffn;
const ALL = 0xffff_ffff_ffff_ffffn;

// From rules to treatments: what becomes of each number.

/** What becomes of one call: the first choice whose tests hold, else the result. Equal ones are one object. */
interface Treatment {
  readonly choices: readonly Choice[];
  readonly result: number;
}

interface Choice {
  readonly tests: readonly Test[];
  readonly result: number;
}

function interner(): (treatment: Treatment) => Treatment {
  const known = new Map<string, Treatment>();
  return (treatment) => {
    const key = JSON.stringify(treatment, (_, value) => (typeof value === "bigint" ? `${value}` : value));
    return known.getOrInsert(key, treatment);
  };
}

function treatmentsOf(filter: Filter, intern: (treatment: Treatment) => Treatment): Map<number, Treatment> {
  const numbers: Partial<Record<SyscallName, number>> = NUMBERS[filter.machine];
  const treatments = new Map<number, Treatment>();
  for (const [call, rules] of Map.groupBy(filter.rules, (rule) => rule.call)) {
    if (!Object.values(NUMBERS).some((table) => Object.hasOwn(table, call))) {
      throw new TypeError(`Cannot compile a rule for ${call}: no machine has such a call`);
    }
    const treatment = treatmentOf(call, rules, filter.default);
    if (Object.hasOwn(numbers, call)) treatments.set(numbers[call]!, intern(treatment));
  }
  return treatments;
}

function treatmentOf(call: SyscallName, rules: readonly Rule[], otherwise: Action): Treatment {
  const choices: Choice[] = [];
  let always: number | undefined;
  for (const { action, when } of rules) {
    const result = resultOf(action);
    const tests = when?.map(checked);
    if (tests?.length === 0) {
      throw new TypeError(`Cannot compile a rule for ${call}: its list of tests is empty, leave it out for every call`);
    }
    if (tests === undefined) {
      if (result !== (always ?? result))
        throw new TypeError(`Cannot compile the rules for ${call}: they contradict each other`);
      always = result;
    } else if (always === undefined) choices.push({ tests, result }); // behind a rule without tests none is reached
  }
  return { choices, result: always ?? resultOf(otherwise) };
}

function resultOf(action: Action): number {
  if (action === "allow") return SECCOMP_RET.ALLOW;
  if (action === "kill") return SECCOMP_RET.KILL_PROCESS;
  if (typeof action?.errno !== "number") throw new TypeError(`Cannot compile the action ${JSON.stringify(action)}`);
  const { errno } = action;
  if (Number.isInteger(errno) && errno >= 0 && errno <= MAX_ERRNO) return SECCOMP_RET.ERRNO | errno;
  throw new RangeError(`Cannot answer with errno ${errno}: expected 0 to ${MAX_ERRNO}`);
}

const OPERATORS: readonly string[] = ["eq", "ne", "lt", "le", "gt", "ge", "masked"] satisfies Test["op"][];

function checked(test: Test): Test {
  const { arg, op, value } = test;
  if (!Number.isInteger(arg) || arg < 0 || arg > 5)
    throw new RangeError(`Cannot test argument ${arg}: expected 0 to 5`);
  if (!OPERATORS.includes(op)) throw new TypeError(`Cannot test by ${op}: expected one of ${OPERATORS.join(", ")}`);
  for (const word of op === "masked" ? [value, test.mask] : [value]) {
    if (typeof word !== "bigint") throw new TypeError(`Cannot compare with ${word}: expected a bigint`);
    if (BigInt.asUintN(64, word) !== word) throw new RangeError(`Cannot compare with ${word}: expected 0 to 2^64 - 1`);
  }
  // It would never hold, and a rule that denies would be gone without a word.
  if (op === "masked" && (value & ~test.mask) !== 0n) {
    throw new RangeError(`Cannot compare with ${value}: it has bits outside the mask ${test.mask}`);
  }
  return test;
}

// From treatments to segments: the line of all numbers, cut where the treatment changes.

/** The numbers from `first` to the next segment. */
interface Segment {
  readonly first: number;
  readonly treatment: Treatment;
}

function segmentsOf(treatments: ReadonlyMap<number, Treatment>, gap: Treatment, above: readonly Segment[]): Segment[] {
  const known = [...treatments].sort(([a], [b]) => a - b);
  const cuts = known.flatMap(([number, treatment]) => [
    { first: number, treatment },
    { first: number + 1, treatment: gap },
  ]);
  return [{ first: 0, treatment: gap }, ...cuts, ...above]
    .filter(({ first }, index, all) => all[index + 1]?.first !== first) // of two cuts in one place the later counts
    .filter(({ treatment }, index, all) => all[index - 1]?.treatment !== treatment);
}

// From segments to instructions.

/** struct sock_filter. */
interface Instruction {
  readonly code: number;
  readonly jt: number;
  readonly jf: number;
  readonly k: number;
}

const LOAD = BPF.LD | BPF.W | BPF.ABS;
const AND = BPF.ALU | BPF.AND | BPF.K;
const JUMP = BPF.JMP | BPF.JA;
const RETURN = BPF.RET | BPF.K;
const JEQ = BPF.JMP | BPF.JEQ | BPF.K;
const JGT = BPF.JMP | BPF.JGT | BPF.K;
const JGE = BPF.JMP | BPF.JGE | BPF.K;
const FARTHEST = 255;

/** struct seccomp_data. Both machines store the lower half of a word first. */
const DATA = { nr: 0, arch: 4, low: (arg: Arg) => 16 + 8 * arg, high: (arg: Arg) => 20 + 8 * arg } as const;

/** Where an instruction is, counted from the end of the program. */
type Label = number;

/** Writes a program from its last instruction to its first. Jumps lead forward only, so what one leads to is always there already. */
class Assembler {
  readonly #backward: Instruction[] = [];
  readonly #results = new Map<number, Label>();
  /** The last instruction written that does the same as that far one: a jump to it, or a return with the same result. */
  readonly #nearest = new Map<Label, Label>();

  result(k: number): Label {
    return this.#results.getOrInsertComputed(k, () => this.#write({ code: RETURN, jt: 0, jf: 0, k }));
  }

  /** Loads a word of the call's data, as far as the mask lets it through, and goes on. */
  load(offset: number, next: Label, mask = Number(WORD)): Label {
    this.#within(0, next);
    if (mask !== Number(WORD)) this.#write({ code: AND, jt: 0, jf: 0, k: mask });
    return this.#write({ code: LOAD, jt: 0, jf: 0, k: offset });
  }

  /** Compares the loaded word. */
  branch(code: number, k: number, yes: Label, no: Label): Label {
    const otherwise = this.#within(FARTHEST - 1, no); // what `yes` may need pushes it one farther away
    const then = this.#within(FARTHEST, yes);
    return this.#write({ code, jt: this.#distance(then), jf: this.#distance(otherwise), k });
  }

  program(): readonly Instruction[] {
    return this.#backward.toReversed();
  }

  #write(instruction: Instruction): Label {
    if (this.#backward.length === BPF.MAXINSNS) {
      throw new RangeError(
        `Cannot compile the filter: it needs more than ${BPF.MAXINSNS} instructions; test fewer values, or several at once by a mask or a range`,
      );
    }
    return this.#backward.push(instruction) - 1;
  }

  /** How many instructions the next one would have to skip. */
  #distance(to: Label): number {
    return this.#backward.length - 1 - to;
  }

  /** The label, or one that is as good, at most so many instructions away. Conditional jumps have 8 bits for that. */
  #within(limit: number, label: Label): Label {
    const near = this.#nearest.get(label) ?? label;
    if (this.#distance(near) <= limit) return near;
    const there = this.#backward[label]!;
    const standIn = there.code === RETURN ? there : { code: JUMP, jt: 0, jf: 0, k: this.#distance(label) };
    const here = this.#write(standIn);
    this.#nearest.set(label, here);
    return here;
  }
}

function assemble(segments: readonly Segment[], arch: number): readonly Instruction[] {
  const out = new Assembler();
  const labels = new Map<Treatment, Label>();
  const treat = (treatment: Treatment) => labels.getOrInsertComputed(treatment, () => decide(out, treatment));
  const search = (some: readonly Segment[]): Label => {
    const middle = some.length >> 1;
    if (middle === 0) return treat(some[0]!.treatment);
    const upper = search(some.slice(middle));
    const lower = search(some.slice(0, middle));
    return out.branch(JGE, some[middle]!.first, upper, lower);
  };
  const lookup = out.load(DATA.nr, search(segments));
  out.load(DATA.arch, out.branch(JEQ, arch, lookup, out.result(SECCOMP_RET.KILL_PROCESS)));
  return out.program();
}

function decide(out: Assembler, { choices, result }: Treatment): Label {
  return choices.reduceRight((next, { tests, result }) => {
    return tests.reduceRight((yes, test) => compare(out, test, yes, next), out.result(result));
  }, out.result(result));
}

function compare(out: Assembler, test: Test, yes: Label, no: Label): Label {
  switch (test.op) {
    case "eq":
      return equal(out, test, ALL, yes, no);
    case "ne":
      return equal(out, test, ALL, no, yes);
    case "masked":
      return equal(out, test, test.mask, yes, no);
    case "gt":
      return above(out, test, JGT, yes, no);
    case "le":
      return above(out, test, JGT, no, yes);
    case "ge":
      return above(out, test, JGE, yes, no);
    case "lt":
      return above(out, test, JGE, no, yes);
  }
}

/** Looks at the lower half first: that is where values differ. */
function equal(out: Assembler, { arg, value }: Test, mask: bigint, yes: Label, no: Label): Label {
  const half = (offset: number, mask: bigint, value: bigint, yes: Label) =>
    mask === 0n ? yes : out.load(offset, out.branch(JEQ, Number(value), yes, no), Number(mask));
  const high = half(DATA.high(arg), mask >> 32n, value >> 32n, yes);
  return half(DATA.low(arg), mask & WORD, value & WORD, high);
}

/** The upper half decides, unless it is equal. */
function above(out: Assembler, { arg, value }: Test, jump: number, yes: Label, no: Label): Label {
  const high = Number(value >> 32n);
  const low = out.load(DATA.low(arg), out.branch(jump, Number(value & WORD), yes, no));
  const tie = out.branch(JEQ, high, low, no);
  return out.load(DATA.high(arg), out.branch(JGT, high, yes, tie));
}

const SIZE = 8; // of struct sock_filter: __u16 code, __u8 jt, __u8 jf, __u32 k

function encode(program: readonly Instruction[]): Uint8Array {
  const bytes = new Uint8Array(program.length * SIZE);
  const view = new DataView(bytes.buffer);
  for (const [index, { code, jt, jf, k }] of program.entries()) {
    view.setUint16(index * SIZE, code, true);
    view.setUint8(index * SIZE + 2, jt);
    view.setUint8(index * SIZE + 3, jf);
    view.setUint32(index * SIZE + 4, k, true);
  }
  return bytes;
}

/** The program as text, an instruction a line, for people. */
export function disassemble(program: Uint8Array): string {
  if (program.length % SIZE !== 0)
    throw new RangeError(`Cannot read ${program.length} bytes: expected a multiple of ${SIZE}`);
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const lines = Array.from({ length: program.length / SIZE }, (_, index) => {
    const at = index * SIZE;
    const k = view.getUint32(at + 4, true);
    const to = (distance: number) => index + 1 + distance;
    const text = describe(view.getUint16(at, true), k, to(k), to(view.getUint8(at + 2)), to(view.getUint8(at + 3)));
    return `${String(index).padStart(4)}  ${text}\n`;
  });
  return lines.join("");
}

function describe(code: number, k: number, jump: number, yes: number, no: number): string {
  const hex = `0x${k.toString(16)}`;
  switch (code) {
    case LOAD:
      return `load ${k === DATA.nr ? "nr" : k === DATA.arch ? "arch" : k < 16 ? hex : `args[${(k - 16) >> 3}].${k & 4 ? "high" : "low"}`}`;
    case AND:
      return `and ${hex}`;
    case JUMP:
      return `goto ${jump}`;
    case JEQ:
      return `if == ${hex} goto ${yes} else ${no}`;
    case JGT:
      return `if > ${hex} goto ${yes} else ${no}`;
    case JGE:
      return `if >= ${hex} goto ${yes} else ${no}`;
    case RETURN:
      return `return ${RESULTS.get(k) ?? ((k & ~MAX_ERRNO) === SECCOMP_RET.ERRNO ? `errno ${k & MAX_ERRNO}` : hex)}`;
    default:
      return `unknown ${code.toString(16)} ${hex}`;
  }
}

const RESULTS = new Map<number, string>([
  [SECCOMP_RET.ALLOW, "allow"],
  [SECCOMP_RET.KILL_PROCESS, "kill"],
]);
