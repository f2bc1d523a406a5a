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
import { ERRNO, W } from "../../syscalls/linux/numbers.ts";
import { CLD, RUSAGE_SIZE, SIGINFO, SIGINFO_SIZE, WALL } from "../../syscalls/linux/process.ts";
import { receiveDescriptors } from "../../syscalls/linux/socket.ts";
import { Memory, type Target } from "../../syscalls/struct.ts";
import { Assembler, R } from "../../syscalls/x64.ts";

/** Where the puppet's code and its one buffer lie: fixed, so that the host knows every address inside. */
const CODE = 0x400000;
const BUFFER = 0x800000;
/** The largest frame. A packet of a unix socket must fit its send buffer, 208 KiB where nobody raised it. */
export const FRAME_SIZE = 128 * 1024;
/** The descriptor on which the puppet listens. */
export const STRINGS = 3;

/** The descriptor on which a puppet with children tells how each ended. */
export const NEWS = 4;

/*
 * A frame, and its answer: u32 number of calls, u32 bytes of answer wanted, u32 calls made (written by the puppet), u32 how many of the
 * two pollfds that follow to wait for before the next frame, u32 the puppet's strings, u32 the strings of a child that the calls fork;
 * then the calls; then their data. A call is u32 number, u8 which arguments are places to fetch the argument from, u8 flags, u16 unused,
 * six arguments, the result (written by the puppet): 64 bytes.
 *
 * The pollfds are the strings and a signalfd, by which a puppet with children learns of their ends, and of signals to pass on.
 */
const MADE = 8;
const POLLED = 12;
const FIRST_POLL = 16;
const SECOND_POLL = 24;
export const OWN_STRINGS = 32;
const CHILD_STRINGS = 36;
export const HEADER = 40;
const CALL = 64;
const ARGUMENTS = 8;
const RESULT = 56;
const MAY_FAIL = 1;
const FORKS = 2;
const IS_MAIN = 4;

/** Where the puppet has the kernel write how a child ended: behind the frame. */
const ENDED = BUFFER + FRAME_SIZE;
/** A siginfo_t and the struct rusage behind it. */
export const NEWS_SIZE = SIGINFO_SIZE + RUSAGE_SIZE;
const SIGCHLD = 17;
const POLLIN = 1;
/** POLLIN, POLLERR, POLLHUP: there is something to read, if only the end. */
const READABLE = 0x19;

/**
 * Makes the calls at rbx, as many as ebp says, and falls through to `done` with ebp as the number of calls left: zero, or one
 * more than stand behind the one that failed.
 *
 * A call that forks parts the frame: what stands behind it is the child's, which forgets its parent's children.
 */
export function carryOut(assembler: Assembler): Assembler {
  const call = (offset: number, index8?: (typeof R)["CX"]) =>
    index8 === undefined ? { base: R.BX, offset } : { base: R.BX, offset, index8 };
  return assembler
    .label("next")
    .test(R.BP, 32)
    .branch("jne", "prepare")
    .jump("done")
    .label("prepare")
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
    .testByte(call(5), FORKS)
    .branch("jne", "forked")
    .label("behind")
    .add(R.BX, CALL)
    .decrement(R.BP)
    .jump("next")
    .label("forked")
    .test(R.AX, 64)
    .branch("je", "born")
    .testByte(call(5), IS_MAIN)
    .branch("je", "parted")
    .copy(R.R13, R.AX)
    .label("parted")
    .clear(R.BP)
    .jump("done")
    .label("born")
    .store({ base: R.R12, offset: POLLED }, R.AX, 32)
    .load(R.AX, { base: R.R12, offset: CHILD_STRINGS }, 32)
    .store({ base: R.R12, offset: OWN_STRINGS }, R.AX, 32)
    .clear(R.R13)
    .jump("behind")
    .label("done");
}

/**
 * The puppet's program: reads a frame, carries it out, answers, and ends when the other end of the socket closes. Meanwhile, if a frame
 * said so, it reaps its children. Of a main child it tells alone, passes signals on to it, and ends as it does; r13 has its process id.
 */
export function puppetCode(): Assembler {
  const frame = (offset: number) => ({ base: R.R12, offset });
  const info = (offset: number) => ({ base: R.BX, offset });
  const code = new Assembler()
    .set(R.R12, BUFFER)
    .set(R.AX, STRINGS)
    .store(frame(OWN_STRINGS), R.AX, 32)
    .label("frame")
    .clear(R.AX) // read(strings, buffer, size)
    .load(R.DI, frame(OWN_STRINGS), 32)
    .set(R.SI, BUFFER)
    .set(R.DX, FRAME_SIZE)
    .syscall()
    .test(R.AX, 64)
    .branch("jg", "received")
    .clear(R.DI) // nothing came: the host closed its end, or is gone
    .set(R.AX, numberOf("exit_group", "x64"))
    .syscall()
    .label("received")
    .load(R.BP, frame(0), 32)
    .address(R.BX, frame(HEADER));
  return carryOut(code)
    .load(R.AX, frame(0), 32)
    .subtract(R.AX, R.BP)
    .store(frame(MADE), R.AX, 32)
    .load(R.DX, frame(4), 32) // write(strings, buffer, wanted)
    .copy(R.SI, R.R12)
    .load(R.DI, frame(OWN_STRINGS), 32)
    .set(R.AX, 1)
    .syscall()

    .label("serve")
    .load(R.SI, frame(POLLED), 32)
    .test(R.SI, 32)
    .branch("jne", "wait")
    .jump("frame")
    .label("wait") // poll(pollfds, polled, -1)
    .address(R.DI, frame(FIRST_POLL))
    .set(R.DX, 0xffffffff)
    .set(R.AX, numberOf("poll", "x64"))
    .syscall()
    .testByte(frame(FIRST_POLL + 6), READABLE)
    .branch("je", "signal")
    .jump("frame")

    .label("signal")
    .testByte(frame(SECOND_POLL + 6), POLLIN)
    .branch("je", "serve")
    .load(R.DI, frame(SECOND_POLL), 32) // read(signalfd, info, 128)
    .set(R.SI, ENDED)
    .set(R.DX, SIGINFO_SIZE)
    .clear(R.AX)
    .syscall()
    .set(R.BX, ENDED)
    .load(R.SI, info(0), 32)
    .compare(R.SI, SIGCHLD)
    .branch("je", "reap")
    .test(R.R13, 64)
    .branch("je", "serve")
    .copy(R.DI, R.R13) // kill(main, signal)
    .set(R.AX, numberOf("kill", "x64"))
    .syscall()
    .jump("serve")

    .label("reap") // waitid(P_ALL, 0, info, what happened, usage)
    .clear(R.DI)
    .clear(R.SI)
    .set(R.DX, ENDED)
    .set(R.R10, W.EXITED | W.STOPPED | W.NOHANG | WALL)
    .set(R.R8, ENDED + SIGINFO_SIZE)
    .set(R.AX, numberOf("waitid", "x64"))
    .syscall()
    .test(R.AX, 64)
    .branch("jne", "reaped") // there are no children
    .load(R.AX, info(SIGINFO.offsets.pid), 32)
    .test(R.AX, 32)
    .branch("je", "reaped") // none has ended
    .test(R.R13, 64)
    .branch("je", "tell")
    .compareRegisters(R.AX, R.R13)
    .branch("jne", "reap") // an orphan
    .label("tell")
    .set(R.DI, NEWS) // write(4, info and usage)
    .set(R.SI, ENDED)
    .set(R.DX, NEWS_SIZE)
    .set(R.AX, 1)
    .syscall()
    .test(R.R13, 64)
    .branch("je", "reap")
    .load(R.AX, info(SIGINFO.offsets.code), 32)
    .compare(R.AX, CLD.TRAPPED)
    .branch("jae", "reap") // it only stopped
    .load(R.DI, info(SIGINFO.offsets.status), 32)
    .compare(R.AX, CLD.EXITED)
    .branch("je", "end")
    .add(R.DI, 64) // as a shell has it: 128 and the signal's number
    .add(R.DI, 64)
    .label("end")
    .set(R.AX, numberOf("exit_group", "x64"))
    .syscall()
    .label("reaped")
    .jump("serve");
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
  segment(1, 1, 6, BUFFER, 0, FRAME_SIZE + NEWS_SIZE); // PT_LOAD, read and write
  segment(2, 0x6474e551, 6, 0, 0, 0); // PT_GNU_STACK: not executable
  image.set(code, headers);
  return image;
}

/** The result of a call that is still to be made: a number no call takes, which the frame turns into a reference. */
const TO_COME = 2 ** 52;

type Entry = { name: SyscallName; args: readonly Argument[]; flags: number };

/**
 * Calls gathered to travel together. `call` returns a stand-in for the result, which later calls of the batch take as
 * an argument like any number; it means nothing elsewhere.
 */
export class Batch implements Kernel {
  readonly entries: Entry[] = [];
  #flags = 0;

  call(name: SyscallName, ...args: readonly Argument[]): number {
    this.entries.push({ name, args, flags: this.#flags });
    return TO_COME + this.entries.length - 1;
  }

  /** Which of the results a stand-in is for. */
  indexOf(result: number): number {
    return result - TO_COME;
  }

  /** The calls that `calls` makes may fail without ending the batch; each one's use says why that is no harm. */
  attempt(calls: () => void): void {
    this.#with(MAY_FAIL, calls);
  }

  /**
   * `clone` is a call that forks: what is put into the batch behind it, the child does. Of the `main` child, the puppet passes signals on to it
   * and ends as it ends.
   */
  fork(clone: () => number, { main = false }: { readonly main?: boolean } = {}): number {
    return this.#with(main ? FORKS | IS_MAIN : FORKS, clone);
  }

  #with<Result>(flags: number, calls: () => Result): Result {
    const around = this.#flags;
    this.#flags = flags;
    try {
      return calls();
    } finally {
      this.#flags = around;
    }
  }
}

/** Calls that do not fit where they are to be laid out. */
class TooLarge extends RangeError {}

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
  if (end > room) throw new TooLarge(`Cannot lay out ${entries.length} calls: ${end} bytes, and ${room} fit`);

  const bytes = new Uint8Array(end);
  const view = new DataView(bytes.buffer);
  entries.forEach(({ name, args, flags }, index) => {
    const at = header + CALL * index;
    view.setUint32(at, numberOf(name), true);
    bytes[at + 5] = flags;
    args.forEach((arg, position) => {
      const place = at + ARGUMENTS + 8 * position;
      if (isTarget(arg)) setWord(view, place, base + places.get(arg)!);
      else if (typeof arg === "number" && arg >= TO_COME) {
        bytes[at + 4]! |= 1 << position;
        setWord(view, place, base + header + CALL * (arg - TO_COME) + RESULT);
      } else setWord(view, place, arg ?? 0);
    });
  });
  for (const [target, at] of places) {
    bytes.set(bytesOf(target), at);
    if (!(target instanceof Memory)) continue;
    for (const { offset, to } of target.pointers) setWord(view, at + offset, base + places.get(to)!);
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
        // What was the result of an earlier call, the reader wants to see.
        const given = args.map((arg) => (typeof arg === "number" && arg >= TO_COME ? results[arg - TO_COME]! : arg));
        throw new SystemError(name, -results[made]!, describe(given));
      }
      return results;
    },
  };
}

/** Writes a word; by halves, which costs a tenth of what a bigint does. */
function setWord(view: DataView, at: number, word: number | bigint): void {
  if (typeof word === "bigint") {
    view.setBigUint64(at, BigInt.asUintN(64, word), true);
    return;
  }
  view.setUint32(at, word, true); // modulo 2 ** 32
  view.setInt32(at + 4, Math.floor(word / 2 ** 32), true);
}

function bytesOf(target: Target): Uint8Array {
  if (typeof target === "string") return text(target);
  return target instanceof Memory ? target.bytes : target;
}

function isTarget(arg: Argument): arg is Target {
  return typeof arg === "string" || (typeof arg === "object" && arg !== null);
}

/** A batch as bytes for a puppet, for any puppet that it fits: it can be kept and sent again. */
export interface Prepared {
  readonly bytes: Uint8Array;
  readonly answerLength: number;
  /** Makes results, or the SystemError, out of an answer. */
  read(answer: Uint8Array): number[];
}

/** What a frame says beside its calls. */
export interface Setting {
  /** The puppet's strings. */
  readonly strings?: number | undefined;
  /** The strings of the child that the calls fork. */
  readonly child?: number | undefined;
  /** The signalfd of a puppet that looks after its children. */
  readonly signals?: number | undefined;
}

export function prepare(batch: Batch, { strings = STRINGS, child = STRINGS, signals }: Setting = {}): Prepared {
  const { bytes, answerLength, results } = layOut(batch.entries, BUFFER, HEADER, FRAME_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, batch.entries.length, true);
  view.setUint32(4, answerLength, true);
  view.setUint32(POLLED, signals === undefined ? 0 : 2, true);
  view.setUint32(FIRST_POLL, strings, true);
  view.setUint16(FIRST_POLL + 4, POLLIN, true);
  view.setUint32(SECOND_POLL, signals ?? 0, true);
  view.setUint16(SECOND_POLL + 4, POLLIN, true);
  view.setUint32(OWN_STRINGS, strings, true);
  view.setUint32(CHILD_STRINGS, child, true);
  return {
    bytes,
    answerLength,
    read: (answer) => {
      if (answer.length !== answerLength)
        throw new Error(`Cannot trust a puppet: its answer has ${answer.length} bytes, ${answerLength} were expected`);
      return results(answer, new DataView(answer.buffer, answer.byteOffset).getUint32(MADE, true));
    },
  };
}

const POLLFD = 8;
/** No set-up takes as long, on any machine. */
const PATIENCE_MS = 10_000;
/** Where answers arrive. */
const packet = new Uint8Array(FRAME_SIZE);

/** poll(2): how many are ready, none when the time is over; undefined when a signal's handler came in between, for the kernel never restarts it. */
function poll(polled: Uint8Array, count: number, timeoutMs: number): number | undefined {
  try {
    return self.call("poll", polled, count, timeoutMs);
  } catch (error) {
    if (error instanceof SystemError && error.code === "EINTR") return undefined;
    throw error;
  }
}

/** The host's end of a puppet's socket: a kernel whose calls are made over there. */
export class PuppetKernel implements Kernel {
  #socket: number;
  readonly #setting: Setting;
  /** Who waits for an answer, the longest first. */
  readonly #waiting: ((answer: Uint8Array) => void)[] = [];
  /** The host's end of the socket on which the puppet tells of its children, and who wants to know. */
  #news: { readonly socket: number; take(news: Uint8Array): void } | undefined;

  /** @param socket the host's end of a SOCK_SEQPACKET pair; it stays the caller's */
  constructor(socket: number, setting: Setting = {}) {
    this.#socket = socket;
    this.#setting = setting;
  }

  /** Whoever waits in place for an answer must take the news meanwhile: a puppet that cannot tell its news does not answer. */
  set news(news: { readonly socket: number; take(news: Uint8Array): void }) {
    this.#news = news;
  }

  /** Makes one call in the puppet and waits in place for its answer, some 15 µs. */
  call(name: SyscallName, ...args: readonly Argument[]): number {
    const batch = new Batch();
    batch.call(name, ...args);
    return this.carryOut(batch)[0]!;
  }

  /**
   * Makes the calls of a batch in one round trip, waiting in place. Throws the SystemError of the first that failed.
   * @param meanwhile what the host does for the calls, once they are on their way
   */
  carryOut(batch: Batch, meanwhile?: () => void, child?: number): number[] {
    const prepared = this.prepare(batch, child);
    let answer: Uint8Array | undefined;
    this.send(prepared, (bytes) => {
      answer = bytes;
    });
    meanwhile?.();
    this.until(() => answer !== undefined);
    return prepared.read(answer!);
  }

  /** Makes the calls of a batch, while the event loop goes on. Whoever watches the socket must call `received`. */
  answered(prepared: Prepared): Promise<number[]> {
    return new Promise((resolve, reject) => {
      this.send(prepared, (answer) => {
        try {
          resolve(prepared.read(answer));
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  /** Has the answer taken to a batch that was sent elsewhere. */
  await(take: (answer: Uint8Array) => void): void {
    this.#waiting.push(take);
  }

  /** Waits in place for the answer to a batch that was not sent here. */
  expect({ read }: Prepared): number[] {
    let answer: Uint8Array | undefined;
    this.#waiting.push((bytes) => {
      answer = bytes;
    });
    this.until(() => answer !== undefined);
    return read(answer!);
  }

  /** Waits in place for the answers to all that was sent. */
  settle(): void {
    this.until(() => this.#waiting.length === 0);
  }

  /** Carries out a batch that sends a descriptor over the strings, and gives that. */
  taken(batch: Batch): number {
    this.settle();
    let descriptor: number | undefined;
    this.carryOut(batch, () => {
      const into = new Uint8Array(FRAME_SIZE);
      this.#await();
      const { length, descriptors } = receiveDescriptors(self, this.#socket, into, { most: 1 });
      descriptor = descriptors[0];
      // Where the call failed, this is its answer already.
      if (descriptor === undefined) this.received(into.subarray(0, length));
    });
    if (descriptor === undefined) throw new Error("Cannot trust a puppet: it sent no descriptor");
    return descriptor;
  }

  /** Sends a batch, and has its answer taken when it comes. */
  send(prepared: Prepared, take: (answer: Uint8Array) => void): void {
    this.post(prepared);
    this.#waiting.push(take);
  }

  /**
   * @param child the strings of the child that the batch forks
   * @param strings the puppet's own, where the batch moves them
   */
  prepare(batch: Batch, child = this.#setting.child, strings = this.#setting.strings): Prepared {
    return prepare(batch, { ...this.#setting, child, strings });
  }

  /** As `prepare`; undefined for a batch that does not fit into one frame. */
  prepareIfFits(batch: Batch, child?: number, strings?: number): Prepared | undefined {
    try {
      return this.prepare(batch, child, strings);
    } catch (error) {
      if (error instanceof TooLarge) return undefined;
      throw error;
    }
  }

  /** Sends a batch without waiting for the answer. */
  post(prepared: Prepared): Prepared {
    this.#mustBeOpen();
    self.call("sendto", this.#socket, prepared.bytes, prepared.bytes.length, MSG.NOSIGNAL, 0, 0);
    return prepared;
  }

  /** Makes no more calls: the number of its socket may become that of another file. */
  cut(): void {
    this.#socket = -1;
  }

  #mustBeOpen(): void {
    if (this.#socket < 0) throw new SystemError("sendto", ERRNO.EPIPE, "(the puppet has ended)");
  }

  /** Waits in place until there is something to take. */
  #await(): void {
    const polled = new Uint8Array(POLLFD);
    new DataView(polled.buffer).setInt32(0, this.#socket, true);
    polled[4] = POLLIN;
    const deadline = performance.now() + this.patienceMs;
    for (;;) {
      const ready = poll(polled, 1, Math.max(0, Math.ceil(deadline - performance.now())));
      if (ready === 0) this.#giveUp();
      if (ready !== undefined) return;
    }
  }

  #giveUp(): never {
    this.onSilence();
    throw new Error(`The puppet did not answer within ${this.patienceMs / 1000} s, and was ended`);
  }

  /**
   * Takes what comes until `done`, waiting in place: for all of it together as long as a puppet may take, however much it has to say. One that
   * takes longer is stopped, or held by what is inside; it is ended, for this process waits with it.
   */
  until(done: () => boolean): void {
    const deadline = performance.now() + this.patienceMs;
    while (!done()) {
      const left = Math.ceil(deadline - performance.now());
      if (left > 0) this.receive(left);
      else this.#giveUp();
    }
  }

  /** How long a call may take, in milliseconds. */
  patienceMs = PATIENCE_MS;
  /** Ends a puppet that does not answer. */
  onSilence: () => void = () => {};

  /** Takes what has come, waiting for `timeoutMs` at most, and returns whether there was something. Throws if the puppet has ended. */
  receive(timeoutMs: number): boolean {
    this.#mustBeOpen();
    const sockets = this.#news === undefined ? [this.#socket] : [this.#socket, this.#news.socket];
    const polled = new Uint8Array(POLLFD * sockets.length);
    const view = new DataView(polled.buffer);
    sockets.forEach((socket, index) => {
      view.setInt32(POLLFD * index, socket, true);
      view.setInt16(POLLFD * index + 4, POLLIN, true);
    });
    if (poll(polled, sockets.length, timeoutMs) === undefined) return true;
    if (this.#news !== undefined && (view.getInt16(POLLFD + 6, true) & POLLIN) !== 0) {
      const news = new Uint8Array(NEWS_SIZE);
      if (self.call("recvfrom", this.#news.socket, news, NEWS_SIZE, MSG.DONTWAIT, null, null) === NEWS_SIZE)
        this.#news.take(news);
    }
    if ((view.getInt16(6, true) & READABLE) === 0)
      return polled.some((byte, index) => index % POLLFD > 5 && byte !== 0);
    const length = this.#read();
    if (length === 0) throw new Error("The puppet ended before it answered");
    this.received(packet.slice(0, length));
    return true;
  }

  #read(): number {
    const read = () => self.call("recvfrom", this.#socket, packet, packet.length, MSG.DONTWAIT, null, null);
    try {
      return read();
    } catch (error) {
      // It ended with a frame unread, which is said before what it answered until then.
      if (error instanceof SystemError && error.code === "ECONNRESET") return read();
      throw error;
    }
  }

  /** Takes an answer that came. One that nobody waits for is the word of someone who took the puppet over. */
  received(answer: Uint8Array): void {
    const next = this.#waiting.shift();
    if (next === undefined) throw new Error("Cannot trust a puppet: it answered without being asked");
    next(answer);
  }
}
