/** The puppet: a process without a will of its own, which makes the system calls that it is told to make. */
import { SystemError } from "../../syscalls/error.ts";
import {
  type Argument,
  describe,
  type Kernel,
  MAX_ERRNO,
  numberOf,
  type SyscallName,
  self,
  text,
} from "../../syscalls/kernel.ts";
import { MSG } from "../../syscalls/linux/constants.ts";
import { Memory, type Target } from "../../syscalls/struct.ts";
import { Assembler, R } from "../../syscalls/x64.ts";

/** Where the puppet's code and its one buffer lie: fixed, so that the host knows every address inside. */
const CODE = 0x400000;
const BUFFER = 0x800000;
/** The largest frame. A packet of a unix socket must fit its send buffer, 208 KiB where nobody raised it. */
export const FRAME_SIZE = 128 * 1024;
/** The descriptor on which the puppet listens. */
export const STRINGS = 3;

/*
 * A frame, and its answer: u32 number of calls, u32 bytes of answer wanted, u32 calls made (written by the puppet), u32 unused; then
 * the calls; then their data. A call is u32 number, u8 which arguments are places to fetch the argument from, u8 flags,
 * u16 unused, six arguments, the result (written by the puppet): 64 bytes.
 */
const HEADER = 16;
const CALL = 64;
const ARGUMENTS = 8;
const RESULT = 56;
const MAY_FAIL = 1;

/**
 * Makes the calls at rbx, as many as ebp says, and falls through to `done` with ebp as the number of calls left: zero, or one
 * more than stand behind the one that failed.
 */
export function carryOut(assembler: Assembler): Assembler {
  const call = (offset: number, index8?: (typeof R)["CX"]) =>
    index8 === undefined ? { base: R.BX, offset } : { base: R.BX, offset, index8 };
  return assembler
    .label("next")
    .test(R.BP, 32)
    .branch("je", "done")
    .clear(R.CX)
    .label("argument") // an argument may be the result of an earlier call of the same frame
    .testBit(call(4), R.CX)
    .branch("jae", "ready")
    .load(R.AX, call(ARGUMENTS, R.CX))
    .load(R.AX, { base: R.AX, offset: 0 })
    .store(call(ARGUMENTS, R.CX), R.AX)
    .label("ready")
    .increment(R.CX)
    .compare(R.CX, 6)
    .branch("jne", "argument")
    .load(R.AX, call(0), 32)
    .load(R.DI, call(8))
    .load(R.SI, call(16))
    .load(R.DX, call(24))
    .load(R.R10, call(32))
    .load(R.R8, call(40))
    .load(R.R9, call(48))
    .syscall()
    .store(call(RESULT), R.AX)
    .compareResult(-MAX_ERRNO)
    .branch("jb", "made")
    .testByte(call(5), MAY_FAIL)
    .branch("je", "done")
    .label("made")
    .add(R.BX, CALL)
    .decrement(R.BP)
    .jump("next")
    .label("done");
}

/** The puppet's program: reads a frame, carries it out, answers, and ends when the other end of the socket closes. */
export function puppetCode(): Assembler {
  const code = new Assembler()
    .label("frame")
    .clear(R.AX) // read(3, buffer, size)
    .set(R.DI, STRINGS)
    .set(R.SI, BUFFER)
    .set(R.DX, FRAME_SIZE)
    .syscall()
    .test(R.AX, 64)
    .branch("jg", "received")
    .clear(R.DI) // nothing came: the host closed its end, or is gone
    .set(R.AX, numberOf("exit_group", "x64"))
    .syscall()
    .label("received")
    .set(R.R12, BUFFER)
    .load(R.BP, { base: R.R12, offset: 0 }, 32)
    .address(R.BX, { base: R.R12, offset: HEADER });
  return carryOut(code)
    .load(R.AX, { base: R.R12, offset: 0 }, 32)
    .subtract(R.AX, R.BP)
    .store({ base: R.R12, offset: 8 }, R.AX, 32)
    .load(R.DX, { base: R.R12, offset: 4 }, 32) // write(3, buffer, wanted)
    .copy(R.SI, R.R12)
    .set(R.DI, STRINGS)
    .set(R.AX, 1)
    .syscall()
    .jump("frame");
}

/** A static ELF executable of two segments: the code, and the buffer, which is all zeroes and not in the file. */
export function puppetImage(): Uint8Array {
  const code = puppetCode().assemble();
  const headers = 64 + 3 * 56;
  const image = new Uint8Array(headers + code.length);
  const view = new DataView(image.buffer);
  image.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // ELF, 64 bits, little-endian, version 1
  view.setUint16(16, 2, true); // executable
  view.setUint16(18, 62, true); // x86-64
  view.setUint32(20, 1, true);
  view.setBigUint64(24, BigInt(CODE + headers), true); // entry
  view.setBigUint64(32, 64n, true); // program headers follow at once
  view.setUint16(52, 64, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 3, true);
  const segment = (index: number, type: number, flags: number, address: number, inFile: number, inMemory: number) => {
    const at = 64 + 56 * index;
    view.setUint32(at, type, true);
    view.setUint32(at + 4, flags, true);
    view.setBigUint64(at + 16, BigInt(address), true);
    view.setBigUint64(at + 24, BigInt(address), true);
    view.setBigUint64(at + 32, BigInt(inFile), true);
    view.setBigUint64(at + 40, BigInt(inMemory), true);
    view.setBigUint64(at + 48, 4096n, true);
  };
  segment(0, 1, 5, CODE, image.length, image.length); // PT_LOAD, read and execute
  segment(1, 1, 6, BUFFER, 0, FRAME_SIZE); // PT_LOAD, read and write
  segment(2, 0x6474e551, 6, 0, 0, 0); // PT_GNU_STACK: not executable
  image.set(code, headers);
  return image;
}

/** The result of a call that is still to be made: a number no call takes, which the frame turns into a reference. */
const TO_COME = 2 ** 52;

type Entry = { name: SyscallName; args: readonly Argument[]; mayFail: boolean };

/**
 * Calls gathered to travel together. `call` returns a stand-in for the result, which later calls of the batch take as
 * an argument like any number; it means nothing elsewhere.
 */
export class Batch implements Kernel {
  readonly entries: Entry[] = [];
  #mayFail = false;

  call(name: SyscallName, ...args: readonly Argument[]): number {
    this.entries.push({ name, args, mayFail: this.#mayFail });
    return TO_COME + this.entries.length - 1;
  }

  /** The calls that `calls` makes may fail without ending the batch; each one's use says why that is no harm. */
  attempt(calls: () => void): void {
    this.#mayFail = true;
    try {
      calls();
    } finally {
      this.#mayFail = false;
    }
  }
}

/** Calls laid out as one stretch of memory. */
export interface Frame {
  readonly bytes: Uint8Array;
  /** How much of it the kernel may have written to: all but the strings at its end. */
  readonly answerLength: number;
  /** Copies what the kernel wrote into the arrays that the calls were given, and throws the SystemError of the first call that failed. */
  results(answer: Uint8Array, made: number): number[];
}

/** Lays calls out behind `header` bytes, for memory that begins at the address `base` and has `room`. */
export function layOut(entries: readonly Entry[], base: number, header: number, room: number): Frame {
  let end = header + CALL * entries.length;
  const places = new Map<Target, number>();
  const place = (target: Target) => {
    if (places.has(target)) return;
    places.set(target, end);
    end = Math.ceil((end + bytesOf(target).length) / 8) * 8;
  };
  const targets = entries.flatMap(({ args }) => args.filter(isTarget));
  // What memory points to comes behind it; the list grows while it is walked.
  for (const target of targets) if (target instanceof Memory) targets.push(...target.pointers.map(({ to }) => to));
  targets.filter((target) => typeof target !== "string").forEach(place);
  const answerLength = end;
  targets.forEach(place);
  if (end > room) throw new RangeError(`Cannot lay out ${entries.length} calls: ${end} bytes, and ${room} fit`);

  const bytes = new Uint8Array(end);
  const view = new DataView(bytes.buffer);
  const address = (target: Target) => BigInt(base + places.get(target)!);
  entries.forEach(({ name, args, mayFail }, index) => {
    const at = header + CALL * index;
    view.setUint32(at, numberOf(name), true);
    bytes[at + 5] = mayFail ? MAY_FAIL : 0;
    args.forEach((arg, position) => {
      let word: bigint;
      if (isTarget(arg)) word = address(arg);
      else if (typeof arg === "number" && arg >= TO_COME) {
        bytes[at + 4]! |= 1 << position;
        word = BigInt(base + header + CALL * (arg - TO_COME) + RESULT);
      } else word = BigInt(arg ?? 0);
      view.setBigUint64(at + ARGUMENTS + 8 * position, BigInt.asUintN(64, word), true);
    });
  });
  for (const [target, at] of places) {
    bytes.set(bytesOf(target), at);
    if (!(target instanceof Memory)) continue;
    for (const { offset, to } of target.pointers) view.setBigUint64(at + offset, address(to), true);
  }

  return {
    bytes,
    answerLength,
    results(answer, made) {
      for (const [target, at] of places) {
        if (typeof target === "string") continue;
        const array = target instanceof Memory ? target.bytes : target;
        array.set(answer.subarray(at, at + array.length));
      }
      const words = new DataView(answer.buffer, answer.byteOffset, answer.byteLength);
      const results = entries
        .slice(0, made + 1)
        .map((_, index) => Number(words.getBigInt64(header + CALL * index + RESULT, true)));
      if (made < entries.length) {
        const { name, args } = entries[made]!;
        throw new SystemError(name, -results[made]!, describe(args));
      }
      return results;
    },
  };
}

function bytesOf(target: Target): Uint8Array {
  if (typeof target === "string") return text(target);
  return target instanceof Memory ? target.bytes : target;
}

function isTarget(arg: Argument): arg is Target {
  return typeof arg === "string" || (typeof arg === "object" && arg !== null);
}

/** A batch as bytes for a puppet, for any puppet: it can be kept and sent again. */
export interface Prepared {
  readonly bytes: Uint8Array;
  readonly answerLength: number;
  /** Makes results, or the SystemError, out of an answer. */
  read(answer: Uint8Array): number[];
}

export function prepare(batch: Batch): Prepared {
  const { bytes, answerLength, results } = layOut(batch.entries, BUFFER, HEADER, FRAME_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, batch.entries.length, true);
  view.setUint32(4, answerLength, true);
  return {
    bytes,
    answerLength,
    read: (answer) => results(answer, new DataView(answer.buffer, answer.byteOffset).getUint32(8, true)),
  };
}

/** The host's end of a puppet's socket: a kernel whose calls are made over there. */
export class PuppetKernel implements Kernel {
  readonly #socket: number;

  /** @param socket the host's end of a SOCK_SEQPACKET pair; it stays the caller's */
  constructor(socket: number) {
    this.#socket = socket;
  }

  /** Makes one call in the puppet and waits in place for its answer, some 15 µs. */
  call(name: SyscallName, ...args: readonly Argument[]): number {
    const batch = new Batch();
    batch.call(name, ...args);
    return this.carryOut(batch)[0]!;
  }

  /** Makes the calls of a batch in one round trip, waiting in place. Throws the SystemError of the first that failed. */
  carryOut(batch: Batch): number[] {
    const { answerLength, read } = this.post(prepare(batch));
    const answer = new Uint8Array(answerLength);
    if (self.call("read", this.#socket, answer, answerLength) === 0)
      throw new Error("The puppet ended before it answered");
    return read(answer);
  }

  /** Sends a batch without waiting for the answer. */
  post(prepared: Prepared): Prepared {
    self.call("sendto", this.#socket, prepared.bytes, prepared.bytes.length, MSG.NOSIGNAL, 0, 0);
    return prepared;
  }
}
