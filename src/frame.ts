// What the data lane carries, without what it means: frames, how they are cut out of a stream, gathered into one write, and held back
// by windows. The format is docs/wire.md.
import { ProtocolViolation } from "./error.ts";
import { encodeInto, type Packer } from "./message.ts";
import { Writer } from "./writer.ts";

/**
 * Every frame: its code, who sends it, the bytes of its fixed fields, whether a payload follows and may name
 * descriptors. Codes stay below 32, so that a set of kinds is a word of bits.
 */
export const FRAMES = {
  HELLO: { code: 1, fields: 8, payload: "plain" },
  READY: { code: 2, fields: 0, payload: "plain" },
  FAILED: { code: 3, fields: 0, payload: "plain" },
  RESULT: { code: 4, fields: 4, payload: "capable" },
  THREW: { code: 5, fields: 4, payload: "capable" },
  UNCAUGHT: { code: 6, fields: 0, payload: "plain" },
  START: { code: 8, fields: 4, payload: "capable" },
  CALL: { code: 9, fields: 5, payload: "capable" },
  CANCEL: { code: 10, fields: 4, payload: "none" },
  MESSAGE: { code: 16, fields: 0, payload: "capable" },
  CREDIT: { code: 17, fields: 12, payload: "none" },
  END: { code: 18, fields: 0, payload: "none" },
} as const;
export type Kind = keyof typeof FRAMES;

const KINDS = new Map<number, Kind>(Object.entries(FRAMES).map(([name, { code }]) => [code, name as Kind]));

/** The kinds as a set, one bit each. */
export function setOf(...kinds: readonly Kind[]): number {
  return kinds.reduce((set, kind) => set | (1 << FRAMES[kind].code), 0);
}

export const VERSION = 1;
/** What HELLO begins with: who speaks, and which version of this. */
export const GREETING = Uint8Array.of(...new TextEncoder().encode("caisson"), VERSION);

/** Bytes of a frame's length, and of its length and kind. */
export const LENGTH_BYTES = 4;
export const HEADER_BYTES = 5;

export function readU32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

export function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** The kind of the frame (kind and body) at `start`; throws ProtocolViolation when `accepted` lacks it or its body has a wrong length. */
export function checkFrame(bytes: Uint8Array, start: number, end: number, accepted: number): Kind {
  const code = bytes[start]!;
  const kind = KINDS.get(code);
  if (kind === undefined) throw new ProtocolViolation(`Cannot read a frame of kind ${code}: there is no such kind`);
  if ((accepted & (1 << code)) === 0) throw new ProtocolViolation(`Cannot accept ${kind} in this phase`);
  const { fields, payload } = FRAMES[kind];
  const body = end - start - 1;
  // A payload has at least its number of descriptors and its codec.
  if (payload !== "none" ? body < fields + 2 : body !== fields) {
    throw new ProtocolViolation(`Cannot read ${kind}: its body of ${body} bytes has a wrong length`);
  }
  if (payload === "plain" && bytes[start + 1 + fields] !== 0)
    throw new ProtocolViolation(`Cannot read ${kind}: it names descriptors`);
  return kind;
}

/** Cuts a stream of bytes into frames. */
export class Splitter {
  readonly #limit: number;
  readonly #deliver: (bytes: Buffer, start: number, end: number) => void;
  /** The start of a frame that has not arrived whole, with room for more. */
  #partial: Buffer | undefined;
  #held = 0;
  #stopped = false;

  /** `deliver` is given each frame's kind and body as a range of bytes that nobody writes to again. */
  constructor(limit: number, deliver: (bytes: Buffer, start: number, end: number) => void) {
    this.#limit = limit;
    this.#deliver = deliver;
  }

  /** Bytes that wait for the rest of their frame. */
  get held(): number {
    return this.#held;
  }

  /** Lets go of what is held; nothing is delivered any more. */
  stop(): void {
    this.#stopped = true;
    this.#partial = undefined;
    this.#held = 0;
  }

  /** Takes bytes that arrived. Throws ProtocolViolation for a length that no frame may have, and what `deliver` throws. */
  push(chunk: Buffer): void {
    let at = this.#held === 0 ? 0 : this.#complete(chunk);
    // Whole frames are delivered as they lie in the chunk, without a copy.
    while (!this.#stopped && chunk.length - at >= LENGTH_BYTES) {
      const end = at + LENGTH_BYTES + this.#length(chunk, at);
      if (end > chunk.length) break;
      this.#deliver(chunk, at + LENGTH_BYTES, end);
      at = end;
    }
    if (this.#stopped || at === chunk.length) return;
    const total = chunk.length - at < LENGTH_BYTES ? LENGTH_BYTES : LENGTH_BYTES + this.#length(chunk, at);
    this.#hold(chunk.subarray(at), total);
  }

  #length(bytes: Buffer, at: number): number {
    const length = readU32(bytes, at);
    if (length === 0 || length > this.#limit) {
      throw new ProtocolViolation(`Cannot read a frame of ${length} bytes: 1 to ${this.#limit} are allowed`);
    }
    return length;
  }

  /** Adds what the held frame lacks, delivers it if it is whole, and returns how many bytes of the chunk that took. */
  #complete(chunk: Buffer): number {
    let taken = 0;
    if (this.#held < LENGTH_BYTES) {
      taken = Math.min(LENGTH_BYTES - this.#held, chunk.length);
      this.#hold(chunk.subarray(0, taken), LENGTH_BYTES);
      if (this.#held < LENGTH_BYTES) return taken;
    }
    const total = LENGTH_BYTES + this.#length(this.#partial!, 0);
    const rest = Math.min(total - this.#held, chunk.length - taken);
    this.#hold(chunk.subarray(taken, taken + rest), total);
    if (this.#held === total) {
      const frame = this.#partial!;
      this.#partial = undefined;
      this.#held = 0;
      this.#deliver(frame, LENGTH_BYTES, total);
    }
    return taken + rest;
  }

  /** Keeps bytes of a frame of `total`. Room grows to four times what is there, so it is bounded by what arrived and not by what a length claims. */
  #hold(bytes: Buffer, total: number): void {
    const held = this.#held + bytes.length;
    if (this.#partial === undefined || this.#partial.length < held) {
      const grown = Buffer.alloc(Math.min(total, Math.max(64, held * 4)));
      if (this.#partial !== undefined) grown.set(this.#partial.subarray(0, this.#held));
      this.#partial = grown;
    }
    this.#partial.set(bytes, this.#held);
    this.#held = held;
  }
}

/** The data lane as the channel sees it. */
export interface Transport {
  /** Hands over a range of bytes and returns how many were taken; after fewer than `length`, `drain()` tells when there is room. */
  write(bytes: Uint8Array, offset: number, length: number): number;
  close(): void;
  /** Keeps the process alive no longer. */
  unref?(): void;
}

/**
 * The descriptor lane as the channel sees it. Capabilities are disposed of (`Symbol.dispose`) when they arrived and nobody will ever
 * see them.
 */
export interface Descriptors {
  /** Sends the descriptors of the capabilities, before the frame that names them. */
  send(capabilities: readonly object[]): void;
  /** Takes `count` capabilities that arrived; throws ProtocolViolation when there are fewer. */
  take(count: number): object[];
  /** True while some arrived that no frame has named. */
  readonly surplus: boolean;
  isCapability(value: object): boolean;
}

/** A frame that waits, with the capabilities whose descriptors go before it. */
export interface Frame {
  readonly bytes: Uint8Array;
  readonly capabilities: readonly object[];
}

export interface OutboxLimits {
  readonly frameBytes: number;
  readonly descriptors: number;
  readonly outboxBytes: number;
}

/** What stands around a payload: fixed fields before it, raw bytes after it. */
export interface Around {
  readonly head?: Uint8Array;
  readonly tail?: Uint8Array;
}

/** From here on a batch is written at once instead of at the end of the tick, so that the peer can start on it. */
const BATCH_BYTES = 64 * 1024;

const NO_AROUND: Around = {};
const NONE: readonly object[] = [];
const DONE = Promise.resolve();

/** A promise whose rejection need not be awaited: who does not wait for a message to leave learns of a broken link elsewhere. */
export function handled(): PromiseWithResolvers<void> {
  const resolvers = Promise.withResolvers<void>();
  resolvers.promise.catch(() => {});
  return resolvers;
}

/**
 * Encodes frames, gathers those of one tick into one write, and keeps what the kernel does not take.
 * Has two buffers: one is filled while the other leaves.
 */
export class Outbox {
  readonly #transport: Transport;
  readonly #descriptors: Descriptors;
  readonly #limits: OutboxLimits;
  #filling = new Writer();
  #leaving = new Writer();
  /** How much of `#leaving` the kernel has. */
  #left = 0;
  /** The promises of the two batches, made when somebody asks. */
  #fillingDone: PromiseWithResolvers<void> | undefined;
  #leavingDone: PromiseWithResolvers<void> | undefined;
  /** A microtask will flush, unless the batch is longer by then than it was. */
  #scheduled = false;
  #seen = 0;
  #stopped = false;
  #encoding = false;
  /** The capabilities of the frame that was appended last. */
  #packed: object[] = [];
  readonly #packer: Packer = { capability: (value) => this.#pack(value) };

  constructor(transport: Transport, descriptors: Descriptors, limits: OutboxLimits) {
    this.#transport = transport;
    this.#descriptors = descriptors;
    this.#limits = limits;
  }

  /** True while the kernel takes nothing. */
  get blocked(): boolean {
    return this.#leaving.length > 0;
  }

  /** True while nothing should be committed that can wait; a frame just appended counts. */
  get full(): boolean {
    return this.blocked && this.#filling.length >= this.#limits.outboxBytes;
  }

  /** Resolves when all committed so far is with the kernel; rejects when that will never be. */
  get flushed(): Promise<void> {
    if (this.#filling.length > 0) {
      this.#fillingDone ??= handled();
      return this.#fillingDone.promise;
    }
    if (!this.blocked) return DONE;
    this.#leavingDone ??= handled();
    return this.#leavingDone.promise;
  }

  /** Appends a frame with a payload to the batch and returns where it starts: to `commit`, or to `cut`. Leaves nothing when it throws. */
  append(kind: Kind, value: unknown, around: Around = NO_AROUND): number {
    // A getter in a value can come back here.
    if (this.#encoding) throw new TypeError("Cannot send while a value is being read");
    this.#encoding = true;
    if (this.#packed.length > 0) this.#packed = [];
    const writer = this.#filling;
    const start = writer.length;
    try {
      writer.uint32(0);
      writer.byte(FRAMES[kind].code);
      if (around.head !== undefined) writer.bytes(around.head);
      const payload = writer.length;
      writer.byte(0);
      encodeInto(value, writer, this.#packer);
      if (this.#stopped) throw new Error("Cannot send: reading the value closed the channel");
      if (this.#packed.length > 0) {
        if (FRAMES[kind].payload !== "capable") throw new TypeError(`Cannot send a capability in ${kind}`);
        writer.written[payload] = this.#packed.length;
      }
      if (kind === "START") writer.patch(start + HEADER_BYTES, writer.length - payload);
      if (around.tail !== undefined) writer.bytes(around.tail);
      const length = writer.length - start - LENGTH_BYTES;
      if (length > this.#limits.frameBytes) {
        throw new RangeError(`Cannot send a frame of ${length} bytes: ${this.#limits.frameBytes} are allowed`);
      }
      writer.patch(start, length);
      return start;
    } catch (error) {
      this.#undo(start);
      throw error;
    } finally {
      this.#encoding = false;
    }
  }

  /** The length of the frame appended last, and how many descriptors it names. */
  sizeOf(start: number): number {
    return this.#filling.length - start - LENGTH_BYTES;
  }
  get descriptors(): number {
    return this.#packed.length;
  }

  /** Writes the call's number into the frame appended last. */
  number(start: number, id: number): void {
    this.#filling.patch(start + HEADER_BYTES, id);
  }

  /** Sends the descriptors of the frame appended last, and lets it leave. */
  commit(start: number): void {
    if (this.#packed.length > 0) {
      try {
        this.#descriptors.send(this.#packed);
      } catch (error) {
        this.#undo(start);
        throw error;
      }
    }
    this.#schedule();
  }

  /** Takes the frame appended last out of the batch. */
  cut(start: number): Frame {
    const bytes = new Uint8Array(this.#filling.written.subarray(start));
    this.#undo(start);
    return { bytes, capabilities: this.#packed };
  }

  /** Commits a frame that was cut. */
  put(frame: Frame): void {
    // A getter that cancels a call, say, must not write into the middle of the frame that reads it.
    if (this.#encoding) queueMicrotask(() => this.put(frame));
    if (this.#encoding || this.#stopped) return;
    if (frame.capabilities.length > 0) this.#descriptors.send(frame.capabilities);
    this.#filling.bytes(frame.bytes);
    this.#schedule();
  }

  /** Commits a frame without a payload; its fields are words. */
  signal(kind: Kind, ...words: readonly number[]): void {
    const bytes = new Uint8Array(HEADER_BYTES + 4 * words.length);
    writeU32(bytes, 0, bytes.length - LENGTH_BYTES);
    bytes[LENGTH_BYTES] = FRAMES[kind].code;
    words.forEach((word, index) => {
      writeU32(bytes, HEADER_BYTES + 4 * index, word);
    });
    this.put({ bytes, capabilities: NONE });
  }

  #pack(value: object): number | undefined {
    if (!this.#descriptors.isCapability(value)) return undefined;
    if (this.#packed.length === this.#limits.descriptors) {
      throw new RangeError(`Cannot send more than ${this.#limits.descriptors} capabilities in one value`);
    }
    return this.#packed.push(value) - 1;
  }

  #undo(start: number): void {
    if (this.#stopped) return;
    if (start === 0) this.#filling.clear();
    else this.#filling.truncate(start);
  }

  /** The batch leaves in a microtask, once it has stopped growing: answers that settle in a row share a write. */
  #schedule(): void {
    if (this.blocked) return;
    if (this.#filling.length >= BATCH_BYTES) this.flush();
    else if (!this.#scheduled) {
      this.#scheduled = true;
      this.#seen = 0;
      queueMicrotask(this.#settle);
    }
  }

  readonly #settle = (): void => {
    if (this.#filling.length > this.#seen) {
      this.#seen = this.#filling.length;
      queueMicrotask(this.#settle);
      return;
    }
    this.#scheduled = false;
    this.flush();
  };

  /** Writes what there is, as far as the kernel takes it. */
  flush(): void {
    // While encoding, the end of the batch is half a frame.
    if (this.#stopped || this.#encoding || this.blocked || this.#filling.length === 0) return;
    [this.#filling, this.#leaving] = [this.#leaving, this.#filling];
    this.#leavingDone = this.#fillingDone;
    this.#fillingDone = undefined;
    this.#push();
  }

  /** The kernel has room again. */
  drain(): void {
    if (this.#stopped || !this.blocked) return;
    this.#push();
    this.flush();
  }

  #push(): void {
    const { written } = this.#leaving;
    // A closed socket answers -1.
    this.#left += Math.max(0, this.#transport.write(written, this.#left, written.length - this.#left));
    if (this.#left < written.length) return;
    this.#left = 0;
    this.#leaving.clear();
    this.#leavingDone?.resolve();
    this.#leavingDone = undefined;
  }

  /** Drops everything; nothing is written any more. */
  stop(reason: Error): void {
    this.#stopped = true;
    this.#filling = new Writer();
    this.#leaving = new Writer();
    this.#leavingDone?.reject(reason);
    this.#fillingDone?.reject(reason);
    this.#leavingDone = this.#fillingDone = undefined;
  }
}

export interface WindowSize {
  readonly messages: number;
  readonly bytes: number;
  readonly descriptors: number;
}

/** Counts the messages that one direction has under way. */
export class Window {
  readonly #size: WindowSize;
  messages = 0;
  bytes = 0;
  descriptors = 0;

  constructor(size: WindowSize) {
    this.#size = size;
  }

  /** One more message may pass. One larger than the window may while less than half of it is taken. */
  admits(bytes: number, descriptors: number): boolean {
    const { bytes: size, messages, descriptors: slots } = this.#size;
    return (
      this.messages < messages &&
      this.descriptors + descriptors <= slots &&
      (this.bytes + bytes <= size || this.bytes < size / 2)
    );
  }

  /** At least half is taken: the point from which credit must be returned, so that no sender waits forever. */
  get isHalf(): boolean {
    const { bytes, messages, descriptors } = this.#size;
    return this.messages >= messages / 2 || this.bytes >= bytes / 2 || this.descriptors >= descriptors / 2;
  }

  add(messages: number, bytes: number, descriptors: number): void {
    this.messages += messages;
    this.bytes += bytes;
    this.descriptors += descriptors;
  }

  /** Takes back; false, and nothing happens, when that is more than there is. */
  remove(messages: number, bytes: number, descriptors: number): boolean {
    if (messages > this.messages || bytes > this.bytes || descriptors > this.descriptors) return false;
    this.add(-messages, -bytes, -descriptors);
    return true;
  }
}

/** A queue whose both ends cost the same. */
export class Fifo<T> {
  #items: (T | undefined)[] = [];
  #head = 0;

  get length(): number {
    return this.#items.length - this.#head;
  }

  push(item: T): void {
    this.#items.push(item);
  }

  shift(): T | undefined {
    if (this.#head === this.#items.length) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head++] = undefined;
    if (this.#head === this.#items.length) {
      this.#items.length = 0;
      this.#head = 0;
    } else if (this.#head >= 1024 && this.#head * 2 >= this.#items.length) {
      this.#items.splice(0, this.#head);
      this.#head = 0;
    }
    return item;
  }
}
