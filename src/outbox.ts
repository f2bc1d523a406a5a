/** The way out: frames are encoded, gathered into few writes, and kept while the kernel takes none. */
import { type Descriptors, FRAMES, HEADER_BYTES, type Kind, LENGTH_BYTES, type Transport, writeU32 } from "./frame.ts";
import { type Encoding, encodeInto } from "./message.ts";
import { Writer } from "./writer.ts";

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
const NO_CAPABILITIES: readonly object[] = [];
const DONE = Promise.resolve();

/** A promise whose rejection need not be awaited: who does not wait for a message to leave learns of a broken link elsewhere. */
export function handled(): PromiseWithResolvers<void> {
  const resolvers = Promise.withResolvers<void>();
  resolvers.promise.catch(() => {});
  return resolvers;
}

/**
 * Has two buffers: one is filled while the other leaves. Large bytes at the end of a frame go from where they lie to the kernel; only
 * what it does not take at once is copied.
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
  /** Somebody will flush: no microtask is needed. */
  #gathering = false;
  #stopped = false;
  #encoding = false;
  /** Of the frame that was appended last: its capabilities, and what of it is not in `#filling`. */
  #packed: object[] = [];
  #tail: Uint8Array | undefined;
  readonly #how: Encoding = { packer: { capability: (value) => this.#pack(value) }, lends: true };

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
    return this.blocked && this.#filling.length + (this.#tail?.length ?? 0) >= this.#limits.outboxBytes;
  }

  /** Resolves when there is room: at once, while the kernel takes what it is given. Rejects when there will never be. */
  get roomy(): Promise<void> {
    return this.blocked ? this.flushed : DONE;
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

  // A frame is appended, and then committed or cut.

  /** Appends a frame with a payload to the batch and returns where it starts. Leaves nothing when it throws. */
  append(kind: Kind, value: unknown, around: Around = NO_AROUND): number {
    // A getter in a value can come back here.
    if (this.#encoding) throw new TypeError("Cannot send while a value is being read");
    this.#encoding = true;
    if (this.#packed.length > 0) this.#packed = [];
    this.#tail = undefined;
    const writer = this.#filling;
    const start = writer.length;
    try {
      writer.uint32(0);
      writer.byte(FRAMES[kind].code);
      if (around.head !== undefined) writer.bytes(around.head);
      const payload = writer.length;
      writer.byte(0);
      this.#tail = encodeInto(value, writer, around.tail === undefined ? this.#how : { ...this.#how, lends: false });
      if (this.#stopped) throw new Error("Cannot send: reading the value closed the channel");
      if (this.#packed.length > 0) {
        if (FRAMES[kind].payload !== "capable") throw new TypeError(`Cannot send a capability in ${kind}`);
        writer.patchByte(payload, this.#packed.length);
      }
      if (kind === "START") writer.patch(start + HEADER_BYTES, writer.length - payload);
      this.#tail ??= around.tail;
      const length = this.sizeOf(start);
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
    return this.#filling.length - start - LENGTH_BYTES + (this.#tail?.length ?? 0);
  }
  get descriptors(): number {
    return this.#packed.length;
  }

  /** Writes the call's number into the frame appended last. */
  number(start: number, id: number): void {
    this.#filling.patch(start + HEADER_BYTES, id);
  }

  /** Sends the descriptors of the frame appended last, and lets it leave: soon, or at once. */
  commit(start: number, when: "soon" | "now" = "soon"): void {
    if (this.#packed.length > 0) {
      try {
        this.#descriptors.send(this.#packed);
      } catch (error) {
        this.#undo(start);
        throw error;
      }
    }
    const tail = this.#tail;
    if (tail !== undefined && tail.length >= BATCH_BYTES) {
      this.#lend(tail);
      return;
    }
    if (tail !== undefined) this.#filling.bytes(tail); // one write, and one that wakes the peer
    this.#tail = undefined;
    if (when === "now") this.flush();
    else this.#schedule();
  }

  /** Takes the frame appended last out of the batch. */
  cut(start: number): Frame {
    const bytes = Buffer.concat([this.#filling.written.subarray(start), this.#tail ?? Buffer.of()]);
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
    this.put({ bytes, capabilities: NO_CAPABILITIES });
  }

  #pack(value: object): number | undefined {
    if (!this.#descriptors.isCapability(value)) return undefined;
    if (this.#packed.length === this.#limits.descriptors) {
      throw new RangeError(`Cannot send more than ${this.#limits.descriptors} capabilities in one value`);
    }
    return this.#packed.push(value) - 1;
  }

  #undo(start: number): void {
    this.#tail = undefined;
    if (this.#stopped) return;
    if (start === 0) this.#filling.clear();
    else this.#filling.truncate(start);
  }

  // The batch leaves.

  /** What is committed until `flush()` leaves by it. */
  gather(): void {
    this.#gathering = true;
  }

  /** Writes what there is, as far as the kernel takes it. */
  flush(): void {
    this.#gathering = false;
    // While encoding, the end of the batch is half a frame.
    if (this.#stopped || this.#encoding || this.blocked || this.#filling.length === 0) return;
    this.#swap();
    this.#push();
  }

  /** The kernel has room again. */
  drain(): void {
    if (this.#stopped || !this.blocked) return;
    this.#push();
    this.flush();
  }

  /** The batch leaves in a microtask, once it has stopped growing: answers that settle in a row share a write. */
  #schedule(): void {
    if (this.blocked) return;
    if (this.#filling.length >= BATCH_BYTES) this.flush();
    else if (!this.#scheduled && !this.#gathering) {
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

  /** Writes the batch and the tail of its last frame, which is the caller's memory: what the kernel leaves of it is copied before this returns. */
  #lend(tail: Uint8Array): void {
    this.#tail = undefined;
    this.flush();
    if (this.blocked) {
      this.#filling.bytes(tail);
      return;
    }
    const taken = this.#write(tail, 0);
    if (taken === tail.length) return;
    this.#filling.bytes(tail.subarray(taken));
    this.#swap();
  }

  #swap(): void {
    [this.#filling, this.#leaving] = [this.#leaving, this.#filling];
    this.#leavingDone = this.#fillingDone;
    this.#fillingDone = undefined;
  }

  #push(): void {
    const { memory, length } = this.#leaving;
    this.#left += this.#write(memory, this.#left, length);
    if (this.#left < length) return;
    this.#left = 0;
    this.#leaving.clear();
    this.#leavingDone?.resolve();
    this.#leavingDone = undefined;
  }

  /** Hands the bytes from `start` to `end` to the kernel, and returns how many it took. */
  #write(bytes: Uint8Array, start: number, end: number = bytes.length): number {
    // A closed socket answers -1.
    return Math.max(0, this.#transport.write(bytes, start, end - start));
  }

  /** Drops everything; nothing is written any more. */
  stop(reason: Error): void {
    this.#stopped = true;
    this.#filling = new Writer(0);
    this.#leaving = new Writer(0);
    this.#leavingDone?.reject(reason);
    this.#fillingDone?.reject(reason);
    this.#leavingDone = this.#fillingDone = undefined;
  }
}
