/** The part of CBOR that values are made of (docs/values.md), and the walk that holds hostile bytes to it. */
import { ProtocolViolation } from "./error.ts";
import type { Limits } from "./message.ts";

const UNSIGNED = 0;
const NEGATIVE = 1;
const BYTES = 2;
const TEXT = 3;
const ARRAY = 4;
const MAP = 5;
const TAG = 6;
const SIMPLE = 7;

/**
 * The tags that may occur, with the major types of what each may hold.
 *
 * The numbers are ours alone. None is among those to which cbor-x itself gives a meaning: tag 27, for one, calls what the sender names.
 */
export const TAGS = {
  REFERENCE: { number: 0xca00, holds: [UNSIGNED] },
  CAPABILITY: { number: 0xca01, holds: [UNSIGNED] },
  NEGATIVE_ZERO: { number: 0xca02, holds: [UNSIGNED] },
  STRING: { number: 0xca03, holds: [BYTES] },
  BIGINT: { number: 0xca04, holds: [TEXT] },
  OBJECT: { number: 0xca05, holds: [ARRAY] },
  MAP: { number: 0xca06, holds: [ARRAY] },
  SET: { number: 0xca07, holds: [ARRAY] },
  ERROR: { number: 0xca08, holds: [MAP] },
  REGEXP: { number: 0xca09, holds: [ARRAY] },
  DATE: { number: 0xca0a, holds: [UNSIGNED, NEGATIVE, SIMPLE] },
  ARRAY_BUFFER: { number: 0xca0b, holds: [BYTES] },
} as const;

/** The tags of views, which all hold bytes, each with its class. A byte string without a tag is a `Uint8Array`. */
export const VIEWS = [
  { number: 0xca10, view: DataView },
  { number: 0xca11, view: Int8Array },
  { number: 0xca12, view: Uint8ClampedArray },
  { number: 0xca13, view: Int16Array },
  { number: 0xca14, view: Uint16Array },
  { number: 0xca15, view: Int32Array },
  { number: 0xca16, view: Uint32Array },
  { number: 0xca17, view: BigInt64Array },
  { number: 0xca18, view: BigUint64Array },
  { number: 0xca19, view: Float16Array },
  { number: 0xca1a, view: Float32Array },
  { number: 0xca1b, view: Float64Array },
] as const;

/** Digits of a `bigint`, which travels in base 16: one Mbit. */
export const BIGINT_DIGITS = 1 << 18;

/** Units of source in one regular expression, and in all of a value: parsing named groups takes time that grows with their square. */
export const PATTERN_UNITS = { one: 4096, all: 16384 } as const;

/** What an error keeps, where it is text or a number, beside its name, message, stack and cause. */
export const ERROR_FIELDS = ["code", "errno", "syscall", "path"] as const;

const HOLDS = new Map<number, readonly number[]>([
  ...Object.values(TAGS).map(({ number, holds }) => [number, holds] as const),
  ...VIEWS.map(({ number }) => [number, [BYTES]] as const),
]);

// The least argument that deserves a head of one, two or four bytes: there is one way to write a number.
const LEAST = [24, 0x100, 0x10000] as const;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Throws ProtocolViolation unless `bytes` are exactly one item of the grammar, within the limits. Builds nothing. */
export function validate(bytes: Uint8Array, limits: Limits): void {
  const validator = new Validator(bytes, limits);
  validator.item(0);
  validator.end();
}

class Validator {
  readonly #bytes: Uint8Array;
  readonly #limits: Limits;
  #at = 0;
  #items = 0;

  constructor(bytes: Uint8Array, limits: Limits) {
    this.#bytes = bytes;
    this.#limits = limits;
  }

  /** One item, inside `depth` arrays and maps. */
  item(depth: number): void {
    if (++this.#items > this.#limits.items) throw this.#violation(`more than ${this.#limits.items} items`);
    const initial = this.#byte();
    const info = initial & 0x1f;
    switch (initial >> 5) {
      case UNSIGNED:
      case NEGATIVE:
        this.#argument(info);
        break;
      case BYTES:
        this.#skip(this.#argument(info));
        break;
      case TEXT:
        this.#text(info);
        break;
      case ARRAY:
        this.#array(info, depth + 1);
        break;
      case MAP:
        this.#map(info, depth + 1);
        break;
      case TAG:
        this.#tag(info, depth);
        break;
      case SIMPLE:
        if (info === 27) this.#skip(8);
        else if (info < 20 || info > 23) throw this.#violation(`simple value ${info}`);
        break;
    }
  }

  end(): void {
    if (this.#at !== this.#bytes.length) throw this.#violation("more bytes after the item");
  }

  #array(info: number, depth: number): void {
    this.#enter(depth);
    for (let left = this.#argument(info); left > 0; left--) this.item(depth);
  }

  #map(info: number, depth: number): void {
    this.#enter(depth);
    const keys = new Set<string>();
    for (let left = this.#argument(info); left > 0; left--) {
      const initial = this.#byte();
      if (initial >> 5 !== TEXT) throw this.#violation("a key that is no text");
      const key = this.#text(initial & 0x1f);
      if (key === "__proto__") throw this.#violation("a property named __proto__");
      if (keys.has(key)) throw this.#violation("a key for the second time");
      keys.add(key);
      this.item(depth);
    }
  }

  #tag(info: number, depth: number): void {
    const number = this.#argument(info);
    const holds = HOLDS.get(number);
    if (holds === undefined) throw this.#violation(`tag ${number}`);
    const major = (this.#bytes[this.#at] ?? 0xff) >> 5;
    if (!holds.includes(major)) throw this.#violation(`tag ${number} on major type ${major}`);
    this.#items--; // A tag and what it holds are one item.
    this.item(depth);
  }

  #text(info: number): string {
    const start = this.#at;
    const length = this.#argument(info);
    const text = this.#bytes.subarray(this.#at, this.#skip(length));
    try {
      return utf8.decode(text);
    } catch {
      this.#at = start;
      throw this.#violation("text that is not UTF-8");
    }
  }

  /** A head's argument in its shortest form. Neither eight bytes nor an indefinite length are ever needed. */
  #argument(info: number): number {
    if (info < 24) return info;
    const least = LEAST[info - 24];
    if (least === undefined) throw this.#violation(`additional information ${info}`);
    let argument = 0;
    for (let bytes = 1 << (info - 24); bytes > 0; bytes--) argument = argument * 256 + this.#byte();
    if (argument < least) throw this.#violation(`${argument} in a longer form than it needs`);
    return argument;
  }

  #enter(depth: number): void {
    if (depth > this.#limits.depth) throw this.#violation(`nesting deeper than ${this.#limits.depth} levels`);
  }

  #byte(): number {
    const byte = this.#bytes[this.#at];
    if (byte === undefined) throw this.#violation("the end, inside an item");
    this.#at++;
    return byte;
  }

  #skip(length: number): number {
    if (length > this.#bytes.length - this.#at) throw this.#violation("a length beyond the end");
    this.#at += length;
    return this.#at;
  }

  #violation(found: string): ProtocolViolation {
    return new ProtocolViolation(`Cannot decode a value: at byte ${this.#at} there is ${found}`);
  }
}
