/** The seam of the project: something that makes system calls. */
import { CFunction, dlopen, ptr, toArrayBuffer } from "bun:ffi";
import { SystemError } from "./error.ts";
import { MAP, NUMBERS, PROT, type SyscallName } from "./linux/numbers.ts";
import { Memory, type Target } from "./struct.ts";
import { Assembler, R } from "./x64.ts";

export type { SyscallName };

/** One argument: a number, a 64-bit word, NULL, or memory whose address is passed. */
export type Argument = number | bigint | null | Target;

/** Something that makes system calls: this process, or a puppet at the end of a socket. */
export interface Kernel {
  /** Makes one system call and returns its result. Throws SystemError. */
  call(name: SyscallName, ...args: readonly Argument[]): number;
}

export type Machine = keyof typeof NUMBERS;

/** The processor architecture, in Node's words, if caisson has tables for it. */
export function machine(): Machine {
  if (process.arch in NUMBERS) return process.arch as Machine;
  throw new Error(`caisson has no system call table for ${process.arch}; it knows ${Object.keys(NUMBERS).join(", ")}`);
}

/** The number of a call on this machine. Throws SystemError ENOSYS where the machine never had it. */
export function numberOf(name: SyscallName, on: Machine = machine()): number {
  const number = (NUMBERS[on] as Partial<Record<SyscallName, number>>)[name];
  if (number === undefined) throw new SystemError(name, 38, `does not exist on ${on}`);
  return number;
}

/** Results in this range are errors; any other is a result. */
export const MAX_ERRNO = 4095;

/** This process. Its calls block the calling thread for as long as they take. */
export const self: Kernel = {
  call(name, ...args) {
    pinned = [];
    const words = args.map(pass);
    while (words.length < 6) words.push(0);
    const result = trap()(numberOf(name), ...words);
    if (result < 0 && result >= -MAX_ERRNO) throw new SystemError(name, -result, describe(args));
    return result;
  },
};

/** The text of a call's arguments for an error's message: numbers and strings as they are, memory as its size. */
export function describe(args: readonly Argument[]): string {
  const words = args.map((arg) => {
    if (typeof arg === "string") return JSON.stringify(arg);
    if (arg instanceof Memory) return `[${arg.bytes.length} bytes]`;
    return arg instanceof Uint8Array ? `[${arg.length} bytes]` : `${arg}`;
  });
  return `(${words.join(", ")})`;
}

/** What bun:ffi takes for a word: it keeps a typed array alive, and in place, for the call's duration. */
function pass(arg: Argument): number | bigint | Uint8Array {
  if (arg === null) return 0;
  // Negative numbers would arrive as 53-bit ones.
  if (typeof arg === "number") return arg < 0 ? BigInt.asUintN(64, BigInt(arg)) : arg;
  if (typeof arg === "bigint") return BigInt.asUintN(64, arg);
  return bytesOf(arg);
}

/** The bytes of a target, with the addresses of what it points to filled in. */
function bytesOf(target: Target): Uint8Array {
  if (typeof target === "string") return text(target);
  if (target instanceof Uint8Array) return target;
  for (const { offset, to } of target.pointers) {
    const bytes = bytesOf(to);
    pinned.push(bytes);
    new DataView(target.bytes.buffer, target.bytes.byteOffset).setBigUint64(offset, BigInt(ptr(bytes)), true);
  }
  return target.bytes;
}

/** What the structs of the call being made point to: bun:ffi keeps only the arguments themselves alive. */
let pinned: Uint8Array[] = [];

/** A C string. A NUL inside would silently cut a path short, so it throws. */
export function text(string: string): Uint8Array {
  if (string.includes("\0")) throw new TypeError(`Cannot pass ${JSON.stringify(string)} to the kernel: it holds a NUL`);
  return new TextEncoder().encode(`${string}\0`);
}

type Trap = (number: number, ...words: (number | bigint | Uint8Array)[]) => number;
let made: Trap | undefined;

/** The function that executes the `syscall` instruction: the result is `-errno` itself, so there is no `errno` to lose. */
function trap(): Trap {
  made ??= CFunction({
    ptr: executable(trapCode().assemble()) as never,
    args: ["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"],
    returns: "i64_fast" as never,
  }) as unknown as Trap; // every argument is a word, and i64_fast gives a number for all results there are
  return made;
}

/** From C's calling convention (number, six arguments, the last of them on the stack) to the kernel's. */
export function trapCode(): Assembler {
  return new Assembler()
    .copy(R.AX, R.DI)
    .copy(R.DI, R.SI)
    .copy(R.SI, R.DX)
    .copy(R.DX, R.CX)
    .copy(R.R10, R.R8)
    .copy(R.R8, R.R9)
    .load(R.R9, { base: R.SP, offset: 8 })
    .syscall()
    .return();
}

/** Puts machine code into memory of its own, never writable and executable at once, and returns its address. Lives as long as the process. */
export function executable(code: Uint8Array): number {
  if (machine() !== "x64") throw new Error(`caisson has no machine code for ${process.arch} yet; it runs on x64`);
  const word = "ptr" as const;
  const libc = dlopen("libc.so.6", {
    syscall: { args: [word, word, word, word, word, word, word], returns: "i64_fast" as never },
  });
  // bun:ffi types "ptr" as Pointer; these are plain words.
  const syscall = libc.symbols.syscall as unknown as Trap;
  const size = Math.ceil(code.length / 4096) * 4096;
  const address = syscall(
    numberOf("mmap"),
    0,
    size,
    PROT.READ | PROT.WRITE,
    MAP.PRIVATE | MAP.ANONYMOUS,
    BigInt.asUintN(64, -1n),
    0,
  );
  if (address <= 0) throw new Error("Cannot map memory for machine code");
  new Uint8Array(toArrayBuffer(address as never, 0, size)).set(code);
  if (syscall(numberOf("mprotect"), address, size, PROT.READ | PROT.EXEC, 0, 0, 0) !== 0) {
    throw new Error("Cannot make memory executable: something refuses mprotect(PROT_EXEC) to this process");
  }
  return address;
}
