/** Classic BPF as seccomp(2) runs it, in plain arithmetic: what the compiler is held against. It shares no code with the compiler. */

/** struct seccomp_data. */
export interface Call {
  readonly nr: number;
  readonly arch: number;
  readonly args: readonly bigint[];
}

export interface Outcome {
  /** What the program returned: a SECCOMP_RET action with its data. */
  readonly result: number;
  /** How many instructions ran. */
  readonly steps: number;
}

const DATA_BYTES = 64;

function dataOf({ nr, arch, args }: Call): DataView {
  const data = new DataView(new ArrayBuffer(DATA_BYTES));
  data.setInt32(0, nr, true);
  data.setUint32(4, arch, true);
  for (let index = 0; index < 6; index++) data.setBigUint64(16 + 8 * index, args[index] ?? 0n, true);
  return data;
}

const JUMP = 0x05;
/** By k and by X. */
const BRANCHES = [0x15, 0x25, 0x35, 0x45, 0x1d, 0x2d, 0x3d, 0x4d];
/** Plus, minus, times, divided by, or, and, two shifts, exclusive or: by k and by X; and the negative. */
const ARITHMETIC = [0, 1, 2, 3, 4, 5, 6, 7, 10].flatMap((operator) => [(operator << 4) | 0x04, (operator << 4) | 0x0c]);
const NEGATE = 0x84;
const RETURNS = [0x06, 0x16];
/** Loads and stores of scratch memory, by A and by X. */
const MEMORY = [0x60, 0x61, 0x02, 0x03];
/** The data's length and constants, to A and to X; A to X and X to A. */
const REGISTERS = [0x80, 0x81, 0x00, 0x01, 0x07, 0x87];
const ALL = [0x20, JUMP, ...BRANCHES, ...ARITHMETIC, NEGATE, ...RETURNS, ...MEMORY, ...REGISTERS];

/**
 * Throws for a program that the kernel would refuse, by the rules of `bpf_check_classic` and `seccomp_check_filter`; but that what is read of
 * scratch memory has been written, nobody checks before it runs.
 */
export function verify(program: Uint8Array): void {
  const count = program.length / 8;
  if (!Number.isInteger(count) || count < 1 || count > 4096) throw new Error(`A program of ${program.length} bytes`);
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  for (let at = 0; at < count; at++) {
    const code = view.getUint16(8 * at, true);
    const k = view.getUint32(8 * at + 4, true);
    const inside = (distance: number) => at + 1 + distance < count;
    const [jt, jf] = [view.getUint8(8 * at + 2), view.getUint8(8 * at + 3)];
    if (code === 0x20 && (k % 4 !== 0 || k >= DATA_BYTES)) throw new Error(`Instruction ${at} loads from ${k}`);
    if (code === JUMP && !inside(k)) throw new Error(`Instruction ${at} jumps out of the program`);
    if (BRANCHES.includes(code) && !(inside(jt) && inside(jf))) {
      throw new Error(`Instruction ${at} branches out of the program`);
    }
    if (code === 0x34 && k === 0) throw new Error(`Instruction ${at} divides by 0`);
    if ((code === 0x64 || code === 0x74) && k > 31) throw new Error(`Instruction ${at} shifts by ${k}`);
    if (MEMORY.includes(code) && k > 15) throw new Error(`Instruction ${at} names word ${k} of memory`);
    if (!ALL.includes(code)) throw new Error(`Instruction ${at} is ${code}`);
  }
  if (!RETURNS.includes(view.getUint16(8 * (count - 1), true))) throw new Error("The last instruction does not return");
}

/** Runs a program that has been verified. */
export function interpret(program: Uint8Array, call: Call): Outcome {
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const data = dataOf(call);
  const memory = new Map<number, number>();
  const registers = { A: 0, X: 0 };
  let at = 0;
  for (let steps = 1; ; steps++) {
    const code = view.getUint16(8 * at, true);
    const [jt, jf] = [view.getUint8(8 * at + 2), view.getUint8(8 * at + 3)];
    const k = view.getUint32(8 * at + 4, true);
    at++;
    const operand = code & 0x08 ? registers.X : k;
    if (code === 0x20) registers.A = data.getUint32(k, true);
    else if (code === JUMP) at += k;
    else if (BRANCHES.includes(code)) at += compare(code >> 4, registers.A, operand) ? jt : jf;
    else if (code === 0x06) return { result: k, steps };
    else if (code === 0x16) return { result: registers.A, steps };
    else if (code === NEGATE) registers.A = -registers.A >>> 0;
    else if (ARITHMETIC.includes(code)) {
      if (code === 0x3c && operand === 0) return { result: 0, steps }; // what a division by X = 0 ends with
      registers.A = compute(code >> 4, registers.A, operand);
    } else if (code === 0x60 || code === 0x61) {
      if (!memory.has(k)) throw new Error(`Instruction ${at - 1} reads memory ${k}, which is not written`);
      registers[code & 1 ? "X" : "A"] = memory.get(k)!;
    } else if (code === 0x02 || code === 0x03) memory.set(k, registers[code & 1 ? "X" : "A"]);
    else if (code === 0x80 || code === 0x81) registers[code & 1 ? "X" : "A"] = DATA_BYTES;
    else if (code === 0x00 || code === 0x01) registers[code & 1 ? "X" : "A"] = k;
    else if (code === 0x07) registers.X = registers.A;
    else if (code === 0x87) registers.A = registers.X;
    else throw new Error(`Instruction ${at - 1} is ${code}`);
  }
}

function compare(operator: number, a: number, b: number): boolean {
  if (operator === 1) return a === b;
  if (operator === 2) return a > b;
  if (operator === 3) return a >= b;
  return (a & b) !== 0;
}

/** Shifts count modulo 32, as they do on x64 and arm64. */
function compute(operator: number, a: number, b: number): number {
  const results = [a + b, a - b, Math.imul(a, b), Math.floor(a / b), a | b, a & b, a << b, a >>> b];
  return (operator === 10 ? a ^ b : results[operator]!) >>> 0;
}
