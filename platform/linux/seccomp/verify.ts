/** What the kernel takes as a filter: which instructions there are, and where they may lead. */
import { BPF } from "../../../syscalls/linux/numbers.ts";
import { type Instruction, SIZE } from "./bpf.ts";

const { LD, LDX, ST, STX, ALU, JMP, RET, MISC, W, ABS, LEN, IMM, MEM, K, X } = BPF;
const { ADD, SUB, MUL, DIV, AND, OR, XOR, LSH, RSH, NEG, JA, JEQ, JGT, JGE, JSET, TAX, TXA, A } = BPF;
/** struct seccomp_data. */
const DATA_SIZE = 64;

const ARITHMETIC = {
  "+": ADD,
  "-": SUB,
  "*": MUL,
  "/": DIV,
  "&": AND,
  "|": OR,
  "^": XOR,
  "<<": LSH,
  ">>": RSH,
} as const;
const COMPARISONS = { "==": JEQ, ">": JGT, ">=": JGE, "&": JSET } as const;

/** What an instruction does, with which operator, and with what: `k` or the register X. */
export type Kind =
  | { readonly does: "load" | "length" | "constant" | "recall" | "store"; readonly register: "A" | "X" }
  | { readonly does: "compute"; readonly operator: keyof typeof ARITHMETIC; readonly by: "k" | "X" }
  | { readonly does: "branch"; readonly operator: keyof typeof COMPARISONS; readonly by: "k" | "X" }
  | { readonly does: "return"; readonly by: "k" | "A" }
  | { readonly does: "negate" | "jump" | "A to X" | "X to A" };

/** All instructions of filters, by their codes: seccomp_check_filter() in the kernel's seccomp.c. */
export const KINDS: ReadonlyMap<number, Kind> = new Map<number, Kind>([
  [LD | W | ABS, { does: "load", register: "A" }],
  [LD | W | LEN, { does: "length", register: "A" }],
  [LDX | W | LEN, { does: "length", register: "X" }],
  [LD | IMM, { does: "constant", register: "A" }],
  [LDX | IMM, { does: "constant", register: "X" }],
  [LD | MEM, { does: "recall", register: "A" }],
  [LDX | MEM, { does: "recall", register: "X" }],
  [ST, { does: "store", register: "A" }],
  [STX, { does: "store", register: "X" }],
  [ALU | NEG, { does: "negate" }],
  [JMP | JA, { does: "jump" }],
  [RET | K, { does: "return", by: "k" }],
  [RET | A, { does: "return", by: "A" }],
  [MISC | TAX, { does: "A to X" }],
  [MISC | TXA, { does: "X to A" }],
  ...entries(ARITHMETIC).flatMap(([operator, code]): [number, Kind][] => [
    [ALU | code | K, { does: "compute", operator, by: "k" }],
    [ALU | code | X, { does: "compute", operator, by: "X" }],
  ]),
  ...entries(COMPARISONS).flatMap(([operator, code]): [number, Kind][] => [
    [JMP | code | K, { does: "branch", operator, by: "k" }],
    [JMP | code | X, { does: "branch", operator, by: "X" }],
  ]),
]);

function entries<K extends string, V>(table: Readonly<Record<K, V>>): [K, V][] {
  return Object.entries(table) as [K, V][];
}

/** The instructions as they are in memory. */
export function decode(program: Uint8Array): Instruction[] {
  if (program.length % SIZE !== 0)
    throw new RangeError(`Cannot read ${program.length} bytes: expected a multiple of ${SIZE}`);
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  return Array.from({ length: program.length / SIZE }, (_, index) => ({
    code: view.getUint16(index * SIZE, true),
    jt: view.getUint8(index * SIZE + 2),
    jf: view.getUint8(index * SIZE + 3),
    k: view.getUint32(index * SIZE + 4, true),
  }));
}

/** Throws RangeError for a program that the kernel would refuse with EINVAL: which instruction, and why. */
export function verify(program: Uint8Array): void {
  const instructions = decode(program);
  if (instructions.length === 0 || instructions.length > BPF.MAXINSNS) {
    throw new RangeError(`Cannot take ${instructions.length} instructions: expected 1 to ${BPF.MAXINSNS}`);
  }
  /** Words of scratch memory that are written on every way to an instruction, as bits. */
  const written = instructions.map(() => ALL_WORDS);
  written[0] = 0;
  for (const [at, instruction] of instructions.entries()) {
    const kind = KINDS.get(instruction.code);
    const wrong = kind === undefined ? "is none that filters may have" : fault(kind, instruction, written[at]!);
    if (wrong !== undefined) throw refused(at, `${wrong}: code 0x${instruction.code.toString(16)}, k ${instruction.k}`);
    const after = written[at]! | (kind!.does === "store" ? 1 << instruction.k : 0);
    for (const next of followers(kind!, instruction, at)) {
      if (next >= instructions.length) throw refused(at, `leads to ${next}, behind the end`);
      written[next]! &= after;
    }
    // The kernel takes a return for an instruction that leads to the next one.
    if (kind!.does === "return" && at + 1 < instructions.length) written[at + 1]! &= after;
  }
}

const refused = (at: number, why: string) => new RangeError(`Cannot take the program: instruction ${at} ${why}`);
const ALL_WORDS = (1 << BPF.MEMWORDS) - 1;

/** What is wrong with an instruction, wherever it leads. */
function fault(kind: Kind, { k }: Instruction, written: number): string | undefined {
  if (kind.does === "load" && (k % 4 !== 0 || k >= DATA_SIZE)) return "loads what is no word of the call's data";
  if (kind.does === "compute" && kind.by === "k") {
    if (kind.operator === "/" && k === 0) return "divides by 0";
    if ((kind.operator === "<<" || kind.operator === ">>") && k >= 32) return "shifts by more than 31 bits";
  }
  if (kind.does !== "recall" && kind.does !== "store") return undefined;
  if (k >= BPF.MEMWORDS) return `names a word of memory that is not there, of ${BPF.MEMWORDS}`;
  if (kind.does === "recall" && !(written & (1 << k))) return "reads memory that was not written on every way to it";
  return undefined;
}

/** Where an instruction leads. */
export function followers(kind: Kind, { jt, jf, k }: Instruction, at: number): number[] {
  if (kind.does === "return") return [];
  if (kind.does === "jump") return [at + 1 + k];
  return kind.does === "branch" ? [at + 1 + jt, at + 1 + jf] : [at + 1];
}
