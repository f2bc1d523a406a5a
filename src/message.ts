/** The value codec: what structured clone takes, and capabilities, as bytes and back. The format is in docs/values.md. */
import type * as Cbor from "./cbor.ts";
import { ProtocolViolation } from "./error.ts";
import { parse, stringify } from "./json.ts";
import { Writer } from "./writer.ts";

/** What one value may amount to. The walks recurse, so a depth of many thousands would end in the stack's limit instead. */
export interface Limits {
  /** How deep objects, arrays and other things with contents may be nested. */
  readonly depth: number;
  /** How many values there may be in one, itself and all inside it counted. */
  readonly items: number;
}

export const LIMITS: Limits = { depth: 100, items: 250_000 };

/** Tells the encoder which objects carry authority and travel beside the frame. */
export interface Packer {
  /** The index of a capability among the descriptors to send, undefined if the object is none. Asked once about each object that is not plain data. */
  capability(value: object): number | undefined;
}

/** Gives the decoder the capabilities that came beside the frame. */
export interface Unpacker {
  /** Throws ProtocolViolation for an index that was not sent, or used before. */
  capability(index: number): unknown;
}

const CBOR = 0;
const JSON_TEXT = 1;
const UNDEFINED = 0xf7;
const BYTES_OF_U32 = 0x5a;

let cbor: typeof Cbor | undefined;
let makeRoom = (): void => {};

/** Has `make` called before the thorough half of the codec is loaded, which takes memory: who has none left could not even say so. */
export function makeRoomBy(make: () => void): void {
  makeRoom = make;
}

/** The thorough half of the codec. To run its modules takes milliseconds of an actor's start, and many an actor never needs them. */
function loadCbor(): typeof Cbor {
  if (cbor === undefined) makeRoom();
  cbor ??= require("./cbor.ts") as typeof Cbor;
  return cbor;
}

/** How to encode. */
export interface Encoding {
  readonly packer?: Packer | undefined;
  readonly limits?: Limits;
  /** Leaves large bytes at the end of a value to the caller. */
  readonly lends?: boolean;
}

const PLAIN: Encoding = {};
const scratch = new Writer();

/**
 * Encodes a value.
 *
 * Throws TypeError for what cannot be sent (functions, symbols, instances of classes), naming the path to it, and
 * RangeError for what is beyond the limits.
 */
export function encode(value: unknown, packer?: Packer, limits: Limits = LIMITS): Uint8Array<ArrayBuffer> {
  encodeInto(value, scratch, { packer, limits });
  const bytes = new Uint8Array(scratch.written);
  scratch.clear();
  return bytes;
}

/**
 * Encodes a value after what was written before, and returns the bytes with which it ends where they are lent and not written. When it
 * throws, it has written nothing: it runs all getters and proxies first, so that one which throws, or encodes something itself, does no harm.
 */
export function encodeInto(value: unknown, writer: Writer, encoding: Encoding = PLAIN): Uint8Array | undefined {
  if (value === undefined) {
    writer.byte(CBOR);
    writer.byte(UNDEFINED);
    return undefined;
  }
  const limits = encoding.limits ?? LIMITS;
  const text = stringify(value, limits);
  if (text !== undefined) {
    writer.byte(JSON_TEXT);
    writer.text(text);
    return undefined;
  }
  const ending = encoding.lends === true ? endingOf(value) : undefined;
  loadCbor().write(ending?.front ?? value, writer, { packer: encoding.packer, limits });
  if (ending === undefined) return undefined;
  // The front ends with the head of no bytes; that of so many takes its place.
  writer.truncate(writer.length - 1);
  writer.byte(BYTES_OF_U32);
  writer.uint32BE(ending.bytes.length);
  return ending.bytes;
}

/**
 * Decodes a value from bytes that may be hostile, to plain data that shares no memory with them.
 *
 * Throws ProtocolViolation for whatever docs/values.md does not allow.
 */
export function decode(bytes: Uint8Array, unpacker?: Unpacker, limits: Limits = LIMITS): unknown {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  return decodeRange(buffer, 0, buffer.length, unpacker, limits);
}

/** As `decode`, from the bytes between `start` and `end`: a view costs as much as reading a small value. */
export function decodeRange(
  bytes: Buffer,
  start: number,
  end: number,
  unpacker?: Unpacker,
  limits: Limits = LIMITS,
): unknown {
  const codec = start < end ? bytes[start] : undefined;
  switch (codec) {
    case JSON_TEXT:
      return parse(bytes, start + 1, end, limits);
    case CBOR:
      if (end - start === 2 && bytes[start + 1] === UNDEFINED) return undefined;
      return loadCbor().read(bytes.subarray(start + 1, end), unpacker, limits);
    default:
      throw new ProtocolViolation(`Cannot decode a value: the codec is ${codec ?? "missing"}, expected 0 or 1`);
  }
}

/** From here on a second write costs less than a copy. At least what needs four bytes of length. */
const LENT_BYTES = 1 << 16;
/** Longer arrays are not looked through. */
const LENT_ITEMS = 16;
const NO_BYTES = new Uint8Array(0);

/** The large bytes with which a value ends, and the value without them. */
interface Ending {
  readonly front: unknown;
  readonly bytes: Uint8Array;
}

/** Finds them in bytes, and in an array where they come last and all before them is primitive: so nothing refers to them. */
function endingOf(value: unknown): Ending | undefined {
  try {
    if (!Array.isArray(value)) {
      const bytes = largeBytes(value);
      return bytes && { front: NO_BYTES, bytes };
    }
    if (value.length > LENT_ITEMS || Object.getPrototypeOf(value) !== Array.prototype) return undefined;
    const front: unknown[] = [...value];
    const bytes = largeBytes(front.pop());
    if (bytes === undefined || !front.every(isPrimitive)) return undefined;
    return { front: [...front, NO_BYTES], bytes };
  } catch {
    // A getter or a proxy's trap threw. The thorough walk says where.
    return undefined;
  }
}

/** A view of what is a Uint8Array by any means, if it is large. */
function largeBytes(value: unknown): Uint8Array | undefined {
  if (!ArrayBuffer.isView(value) || value.byteLength < LENT_BYTES || !(value.buffer instanceof ArrayBuffer))
    return undefined;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Uint8Array.prototype && prototype !== Buffer.prototype) return undefined;
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}

function isPrimitive(value: unknown): boolean {
  return value === null || (typeof value !== "object" && typeof value !== "function");
}
