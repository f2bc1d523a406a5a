/** Cuts the stream of bytes that arrives into frames. */
import { ProtocolViolation } from "./error.ts";
import { LENGTH_BYTES, readU32 } from "./frame.ts";

/**
 * Takes a frame's kind and body: a range of bytes that nobody else writes to. True when it has no more use for them, nor has
 * anything that it made of them.
 */
export type Deliver = (bytes: Buffer, start: number, end: number) => boolean;

/**
 * The memory of a large frame that was used up: fresh memory costs more than the copy into it. One for all links, so that it is bounded
 * however many there are.
 */
let spare: Buffer | undefined;
const SPARE_BYTES = { least: 64 * 1024, most: 2 * 1024 * 1024 };

export class Splitter {
  readonly #limit: number;
  readonly #deliver: Deliver;
  /** The start of a frame that has not arrived whole, with room for more. */
  #partial: Buffer | undefined;
  #held = 0;
  #stopped = false;

  constructor(limit: number, deliver: Deliver) {
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
      if (this.#deliver(frame, LENGTH_BYTES, total)) recycle(frame);
    }
    return taken + rest;
  }

  /** Keeps bytes of a frame of `total`. */
  #hold(bytes: Buffer, total: number): void {
    const held = this.#held + bytes.length;
    if (this.#partial === undefined || this.#partial.length < held) {
      const grown = roomFor(held, total);
      if (this.#partial !== undefined) grown.set(this.#partial.subarray(0, this.#held));
      this.#partial = grown;
    }
    this.#partial.set(bytes, this.#held);
    this.#held = held;
  }
}

/** Room for a frame of `total`, four times what is there at most: it is bounded by what arrived, and not by what a length claims. */
function roomFor(held: number, total: number): Buffer {
  const most = Math.max(64, held * 4);
  const wanted = Math.min(total, most);
  const found = spare;
  if (found === undefined || found.length < wanted || found.length > most) return Buffer.allocUnsafeSlow(wanted);
  spare = undefined;
  return found;
}

function recycle(frame: Buffer): void {
  if (frame.length >= SPARE_BYTES.least && frame.length <= SPARE_BYTES.most) spare = frame;
}
