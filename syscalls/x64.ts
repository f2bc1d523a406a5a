/**
 * An assembler for the x86-64 instructions that caisson's machine code needs, and no others.
 *
 * Each method appends one instruction: its bytes, and its line of the listing in the words of `objdump -M intel`, so that a test
 * can hold the two against each other.
 */

const NAMES_64 = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ");
const NAMES_32 = "eax ecx edx ebx esp ebp esi edi r8d r9d r10d r11d r12d r13d r14d r15d".split(" ");

/** Registers by their number in an instruction. */
export const R = {
  AX: 0,
  CX: 1,
  DX: 2,
  BX: 3,
  SP: 4,
  BP: 5,
  SI: 6,
  DI: 7,
  R8: 8,
  R9: 9,
  R10: 10,
  R11: 11,
  R12: 12,
  R13: 13,
} as const;
export type Register = (typeof R)[keyof typeof R];

/** A place in memory: base register, displacement of one byte, and possibly an index register times eight. */
export type Memory = { readonly base: Register; readonly offset: number; readonly index8?: Register };

const CONDITIONS = { jb: 0x72, jae: 0x73, je: 0x74, jne: 0x75, jg: 0x7f } as const;
type Width = 32 | 64;

const hex = (value: number) => `0x${value.toString(16)}`;

export class Assembler {
  readonly #bytes: number[] = [];
  readonly #lines: { at: number; text: string; target?: string }[] = [];
  readonly #labels = new Map<string, number>();
  /** Where the distance to a label is still to be written. */
  readonly #distances: { at: number; size: number; to: string }[] = [];

  /** Names the place where the next instruction stands. */
  label(name: string): this {
    this.#labels.set(name, this.#bytes.length);
    return this;
  }

  /** `mov r64, r64` */
  copy(to: Register, from: Register): this {
    return this.#modrm([0x89], from, to, 64, `mov ${NAMES_64[to]},${NAMES_64[from]}`);
  }

  /** `mov r32, imm32`, which clears the upper half. */
  set(to: Register, value: number): this {
    const rex = to >= 8 ? [0x41] : [];
    return this.#emit([...rex, 0xb8 | (to & 7), ...word(value)], `mov ${NAMES_32[to]},${hex(value)}`);
  }

  /** `movabs r64, imm64` */
  setWide(to: Register, value: bigint): this {
    const bytes = [...word(Number(value & 0xffff_ffffn)), ...word(Number(value >> 32n))];
    return this.#emit([0x48 | (to >> 3), 0xb8 | (to & 7), ...bytes], `movabs ${NAMES_64[to]},0x${value.toString(16)}`);
  }

  /** `xor r32, r32`: sets the register to zero. */
  clear(register: Register): this {
    return this.#modrm([0x31], register, register, 32, `xor ${NAMES_32[register]},${NAMES_32[register]}`);
  }

  /** `mov reg, [memory]` */
  load(to: Register, from: Memory, width: Width = 64): this {
    return this.#memory([0x8b], to, from, width, `mov ${name(to, width)},${place(from, width)}`);
  }

  /** `mov [memory], reg` */
  store(to: Memory, from: Register, width: Width = 64): this {
    return this.#memory([0x89], from, to, width, `mov ${place(to, width)},${name(from, width)}`);
  }

  /** `xchg [memory], r32`, which no other thread comes between. */
  exchange(at: Memory, register: Register): this {
    return this.#memory([0x87], register, at, 32, `xchg ${place(at, 32)},${NAMES_32[register]}`);
  }

  /** `lea r64, [memory]` */
  address(to: Register, of: Memory): this {
    return this.#memory([0x8d], to, of, 64, `lea ${NAMES_64[to]},${place(of)}`);
  }

  /** `add r64, imm8` */
  add(to: Register, value: number): this {
    return this.#modrm([0x83], 0, to, 64, `add ${NAMES_64[to]},${hex(value)}`, [value]);
  }

  /** `sub r32, r32` */
  subtract(from: Register, value: Register): this {
    return this.#modrm([0x29], value, from, 32, `sub ${NAMES_32[from]},${NAMES_32[value]}`);
  }

  /** `inc r32` */
  increment(register: Register): this {
    return this.#modrm([0xff], 0, register, 32, `inc ${NAMES_32[register]}`);
  }

  /** `dec r32` */
  decrement(register: Register): this {
    return this.#modrm([0xff], 1, register, 32, `dec ${NAMES_32[register]}`);
  }

  /** `cmp r32, imm8` */
  compare(register: Register, value: number): this {
    return this.#modrm([0x83], 7, register, 32, `cmp ${NAMES_32[register]},${hex(value)}`, [value]);
  }

  /** `cmp r32, r32` */
  compareRegisters(left: Register, right: Register): this {
    return this.#modrm([0x39], right, left, 32, `cmp ${NAMES_32[left]},${NAMES_32[right]}`);
  }

  /** `cmp rax, imm32`, sign-extended: with -4095 it tells a system call's result from an error. */
  compareResult(value: number): this {
    const extended = BigInt.asUintN(64, BigInt(value));
    return this.#emit([0x48, 0x3d, ...word(value)], `cmp rax,0x${extended.toString(16)}`);
  }

  /** `test r, r` */
  test(register: Register, width: Width): this {
    return this.#modrm([0x85], register, register, width, `test ${name(register, width)},${name(register, width)}`);
  }

  /** `test byte [memory], imm8` */
  testByte(at: Memory, mask: number): this {
    return this.#memory([0xf6], 0, at, 32, `test ${place(at, 8)},${hex(mask)}`, [mask]);
  }

  /** `bt dword [memory], r32`: the carry flag becomes that bit of the memory. */
  testBit(at: Memory, bit: Register): this {
    return this.#memory([0x0f, 0xa3], bit, at, 32, `bt ${place(at, 32)},${NAMES_32[bit]}`);
  }

  push(register: Register): this {
    return this.#emit([...(register >= 8 ? [0x41] : []), 0x50 | (register & 7)], `push ${NAMES_64[register]}`);
  }

  pop(register: Register): this {
    return this.#emit([...(register >= 8 ? [0x41] : []), 0x58 | (register & 7)], `pop ${NAMES_64[register]}`);
  }

  syscall(): this {
    return this.#emit([0x0f, 0x05], "syscall");
  }

  return(): this {
    return this.#emit([0xc3], "ret");
  }

  /** A conditional jump of at most 127 bytes; `jb` and `jae` also read as "carry set" and "carry clear". */
  branch(condition: keyof typeof CONDITIONS, to: string): this {
    this.#lines.push({ at: this.#bytes.length, text: condition, target: to });
    this.#bytes.push(CONDITIONS[condition]);
    return this.#distance(1, to);
  }

  /** `jmp` over any distance. */
  jump(to: string): this {
    this.#lines.push({ at: this.#bytes.length, text: "jmp", target: to });
    this.#bytes.push(0xe9);
    return this.#distance(4, to);
  }

  /** `jmp r64`: goes on at the address in the register. */
  jumpTo(register: Register): this {
    return this.#emit([...(register >= 8 ? [0x41] : []), 0xff, 0xe0 | (register & 7)], `jmp ${NAMES_64[register]}`);
  }

  /** The machine code. It runs at any address. */
  assemble(): Uint8Array {
    const code = Uint8Array.from(this.#bytes);
    for (const { at, size, to } of this.#distances) {
      const distance = this.#find(to) - (at + size);
      if (size === 1 && (distance < -128 || distance > 127))
        throw new RangeError(`Cannot branch ${distance} bytes to ${to}`);
      code.set(word(distance).slice(0, size), at);
    }
    return code;
  }

  /** One line an instruction, as `objdump -M intel` prints it: offset, then the instruction. */
  listing(): string[] {
    return this.#lines.map(
      ({ at, text, target }) =>
        `${at.toString(16)}: ${text}${target === undefined ? "" : ` ${hex(this.#find(target))}`}`,
    );
  }

  #distance(size: number, to: string): this {
    this.#distances.push({ at: this.#bytes.length, size, to });
    this.#bytes.push(...new Array<number>(size).fill(0));
    return this;
  }

  #find(label: string): number {
    const at = this.#labels.get(label);
    if (at === undefined) throw new RangeError(`No label ${label}`);
    return at;
  }

  #emit(bytes: readonly number[], text: string): this {
    this.#lines.push({ at: this.#bytes.length, text });
    this.#bytes.push(...bytes);
    return this;
  }

  /** Register to register: the `reg` field names one, or extends the opcode; `rm` names the other. */
  #modrm(opcode: readonly number[], reg: number, rm: number, width: Width, text: string, after: number[] = []): this {
    return this.#emit([...rex(width, reg, 0, rm), ...opcode, 0xc0 | ((reg & 7) << 3) | (rm & 7), ...after], text);
  }

  /** Register and memory, always with a displacement of one byte; rsp and r12 as base, and any index, need a SIB byte. */
  #memory(opcode: readonly number[], reg: number, at: Memory, width: Width, text: string, after: number[] = []): this {
    const index = at.index8 ?? R.SP; // an index field of rsp means "no index"
    const sib = at.index8 !== undefined || (at.base & 7) === R.SP;
    const mode = 0x40 | ((reg & 7) << 3) | (sib ? 4 : at.base & 7);
    const scaled = ((at.index8 === undefined ? 0 : 3) << 6) | ((index & 7) << 3) | (at.base & 7);
    return this.#emit(
      [...rex(width, reg, at.index8 ?? 0, at.base), ...opcode, mode, ...(sib ? [scaled] : []), at.offset, ...after],
      text,
    );
  }
}

function rex(width: Width, reg: number, index: number, rm: number): number[] {
  const bits = (width === 64 ? 8 : 0) | ((reg >> 3) << 2) | ((index >> 3) << 1) | (rm >> 3);
  return bits === 0 ? [] : [0x40 | bits];
}

function word(value: number): number[] {
  return [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >> 24) & 0xff];
}

function name(register: Register, width: Width): string {
  return (width === 64 ? NAMES_64 : NAMES_32)[register]!;
}

function place({ base, offset, index8 }: Memory, width?: Width | 8): string {
  const size = width === undefined ? "" : { 8: "BYTE PTR ", 32: "DWORD PTR ", 64: "QWORD PTR " }[width];
  return `${size}[${NAMES_64[base]}${index8 === undefined ? "" : `+${NAMES_64[index8]}*8`}+${hex(offset)}]`;
}
