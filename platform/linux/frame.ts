/** Frames: calls that travel together, laid out as the puppet takes them. */
import { type Argument, type Kernel, numberOf, type SyscallName, text } from "../../syscalls/kernel.ts";
import { W } from "../../syscalls/linux/numbers.ts";
import { POLLIN } from "../../syscalls/linux/poll.ts";
import { RUSAGE_SIZE, SIGINFO_SIZE, WALL } from "../../syscalls/linux/process.ts";
import { Memory, type Target } from "../../syscalls/struct.ts";
import { refusalOf } from "./advice.ts";

/** Where the puppet's one buffer lies: fixed, so that the host knows every address inside. */
export const BUFFER = 0x800000;
/** The largest frame. A packet of a unix socket must fit its send buffer, 208 KiB where nobody raised it. */
export const FRAME_SIZE = 128 * 1024;
/** The descriptor on which the puppet listens. */
export const STRINGS = 3;

/** The descriptor on which a puppet with children tells how each ended. */
export const NEWS = 4;

/*
 * A frame, and its answer: u32 number of calls, u32 bytes of answer wanted, u32 calls made (written by the puppet), u32 how many of the
 * three pollfds that follow to wait for before the next frame, u32 the puppet's strings, u32 the strings of a child that the calls fork,
 * u32 what it waits for of its children, as waitid(2) has it, u32 unused; then the calls; then their data. A call is u32 number, u8 which arguments are places to fetch the argument from, u8 flags, u16 unused,
 * six arguments, the result (written by the puppet): 64 bytes.
 *
 * The pollfds are the strings; a signalfd, by which a puppet with children learns of their ends, and of signals to pass on; and a timerfd, if there is
 * one, by which it ends.
 */
export const MADE = 8;
export const POLLED = 12;
export const FIRST_POLL = 16;
export const SECOND_POLL = 24;
export const THIRD_POLL = 32;
export const OWN_STRINGS = 40;
export const CHILD_STRINGS = 44;
export const AWAITED = 48;
export const HEADER = 56;
export const CALL = 64;
export const ARGUMENTS = 8;
export const RESULT = 56;
export const MAY_FAIL = 1;
export const FORKS = 2;
export const IS_MAIN = 4;

/** What a puppet returns that ended because its time was over: the host, which is to end it before that, was too busy or gone. As timeout(1) does. */
export const TIMED_OUT = 124;

/** A siginfo_t and the struct rusage behind it. */
export const NEWS_SIZE = SIGINFO_SIZE + RUSAGE_SIZE;
/** POLLIN, POLLERR, POLLHUP: there is something to read, if only the end. */
export const READABLE = 0x19;

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
export class TooLarge extends RangeError {}

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
        throw refusalOf(name, -results[made]!, given);
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
  /** Its timerfd, where it is to end when that expires. */
  readonly timer?: number | undefined;
  /** Whether it tells of children that stop, too: somebody has to listen all the time then, or it waits when the socket is full. */
  readonly stops?: boolean | undefined;
}

export function prepare(
  batch: Batch,
  { strings = STRINGS, child = STRINGS, signals, timer, stops = false }: Setting = {},
): Prepared {
  const { bytes, answerLength, results } = layOut(batch.entries, BUFFER, HEADER, FRAME_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, batch.entries.length, true);
  view.setUint32(4, answerLength, true);
  view.setUint32(POLLED, signals === undefined ? 0 : 3, true);
  view.setUint32(FIRST_POLL, strings, true);
  view.setUint16(FIRST_POLL + 4, POLLIN, true);
  view.setUint32(SECOND_POLL, signals ?? 0, true);
  view.setUint16(SECOND_POLL + 4, POLLIN, true);
  view.setInt32(THIRD_POLL, timer ?? -1, true); // of which poll(2) takes no notice
  view.setUint16(THIRD_POLL + 4, POLLIN, true);
  view.setUint32(OWN_STRINGS, strings, true);
  view.setUint32(CHILD_STRINGS, child, true);
  view.setUint32(AWAITED, W.EXITED | W.NOHANG | WALL | (stops ? W.STOPPED : 0), true);
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
