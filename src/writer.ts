/** A buffer that grows, into which many frames are written one after another and leave in one piece. */

// What is kept between batches: one large message must not pin its memory for the rest of a channel's life.
const KEPT_BYTES = 1 << 20;

export class Writer {
  // Never from Buffer's shared pool: what is written here would lie beside other people's bytes.
  #bytes: Buffer;
  #length = 0;

  constructor(sizeBytes = 16 * 1024) {
    this.#bytes = Buffer.allocUnsafeSlow(sizeBytes);
  }

  /** How many bytes have been written. */
  get length(): number {
    return this.#length;
  }

  /** What has been written: a view, valid until the next write or `clear()`. */
  get written(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  /** The memory that holds it, from its start: valid as long as `written`, and cheaper. */
  get memory(): Buffer {
    return this.#bytes;
  }

  byte(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = value;
  }

  /** Writes 32 bits, little-endian. */
  uint32(value: number): void {
    this.#reserve(4);
    this.#length = this.#bytes.writeUInt32LE(value, this.#length);
  }

  /** Writes 32 bits, big-endian, as CBOR has them. */
  uint32BE(value: number): void {
    this.#reserve(4);
    this.#length = this.#bytes.writeUInt32BE(value, this.#length);
  }

  /** Overwrites a byte written before. */
  patchByte(at: number, value: number): void {
    if (at >= this.#length) throw new RangeError(`Cannot patch at ${at}: ${this.#length} bytes have been written`);
    this.#bytes[at] = value;
  }

  /** Overwrites 32 bits written before: a length that is known only now. */
  patch(at: number, value: number): void {
    if (at + 4 > this.#length) throw new RangeError(`Cannot patch at ${at}: ${this.#length} bytes have been written`);
    this.#bytes.writeUInt32LE(value, at);
  }

  /** Writes text as UTF-8, without its length. */
  text(text: string): void {
    // Three bytes a unit is what the longest need. Counting first pays only where that reserve would hurt.
    this.#reserve(text.length < 4096 ? text.length * 3 : Buffer.byteLength(text));
    this.#length += this.#bytes.write(text, this.#length);
  }

  bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    // The head of a frame is shorter than the way into set().
    if (bytes.length > 16) this.#bytes.set(bytes, this.#length);
    else for (let index = 0; index < bytes.length; index++) this.#bytes[this.#length + index] = bytes[index]!;
    this.#length += bytes.length;
  }

  /** Free room of at least this size, for a codec that fills it in place; `advance()` says how much it used. */
  room(sizeBytes: number): Buffer {
    this.#reserve(sizeBytes);
    return this.#bytes.subarray(this.#length);
  }

  advance(sizeBytes: number): void {
    this.#length += sizeBytes;
  }

  /** Forgets what was written after the first `length` bytes. */
  truncate(length: number): void {
    this.#length = Math.min(length, this.#length);
  }

  /** Forgets everything, and gives back the memory that only a large batch needed. */
  clear(): void {
    this.#length = 0;
    if (this.#bytes.length > KEPT_BYTES) this.#bytes = Buffer.allocUnsafeSlow(16 * 1024);
  }

  #reserve(sizeBytes: number): void {
    const needed = this.#length + sizeBytes;
    if (needed <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.#bytes.length));
    this.#bytes.copy(grown, 0, 0, this.#length);
    this.#bytes = grown;
  }
}
