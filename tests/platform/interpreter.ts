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

/** Throws for a program that the kernel would refuse, by the rules of `bpf_check_classic` and `seccomp_check_filter`. */
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
    if (code === 0x05 && !inside(k)) throw new Error(`Instruction ${at} jumps out of the program`);
    if ([0x15, 0x25, 0x35, 0x45].includes(code) && !(inside(jt) && inside(jf))) {
      throw new Error(`Instruction ${at} branches out of the program`);
    }
    if (![0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06].includes(code))
      throw new Error(`Instruction ${at} is ${code}`);
  }
  if (view.getUint16(8 * (count - 1), true) !== 0x06) throw new Error("The last instruction does not return");
}

/** Runs a program that has been verified. */
export function interpret(program: Uint8Array, call: Call): Outcome {
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const data = dataOf(call);
  let accumulator = 0;
  let at = 0;
  for (let steps = 1; ; steps++) {
    const code = view.getUint16(8 * at, true);
    const [jt, jf] = [view.getUint8(8 * at + 2), view.getUint8(8 * at + 3)];
    const k = view.getUint32(8 * at + 4, true);
    at++;
    if (code === 0x20) accumulator = data.getUint32(k, true);
    else if (code === 0x54) accumulator = (accumulator & k) >>> 0;
    else if (code === 0x05) at += k;
    else if (code === 0x15) at += accumulator === k ? jt : jf;
    else if (code === 0x25) at += accumulator > k ? jt : jf;
    else if (code === 0x35) at += accumulator >= k ? jt : jf;
    else if (code === 0x45) at += (accumulator & k) !== 0 ? jt : jf;
    else if (code === 0x06) return { result: k, steps };
    else throw new Error(`Instruction ${at - 1} is ${code}`);
  }
}
