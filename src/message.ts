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

let cbor: typeof Cbor | undefined;

/** The thorough half of the codec. To run its modules takes milliseconds of an actor's start, and many an actor never needs them. */
function loadCbor(): typeof Cbor {
  cbor ??= require("./cbor.ts") as typeof Cbor;
  return cbor;
}

const scratch = new Writer();

/**
 * Encodes a value.
 *
 * Throws TypeError for what cannot be sent (functions, symbols, instances of classes), naming the path to it, and
 * RangeError for what is beyond the limits.
 */
export function encode(value: unknown, packer?: Packer, limits: Limits = LIMITS): Uint8Array<ArrayBuffer> {
  put(value, scratch, { packer, limits });
  const bytes = new Uint8Array(scratch.written);
  scratch.clear();
  return bytes;
}

/** Encodes a value, within `LIMITS`, after what was written before. When it throws, it has written nothing. */
export function encodeInto(value: unknown, writer: Writer, packer?: Packer): void {
  put(value, writer, { packer, limits: LIMITS });
}

/** Runs all getters and proxies before it writes, so that one which throws, or encodes something itself, does no harm. */
function put(value: unknown, writer: Writer, options: { packer: Packer | undefined; limits: Limits }): void {
  if (value === undefined) {
    writer.byte(CBOR);
    writer.byte(UNDEFINED);
    return;
  }
  const text = stringify(value, options.limits);
  if (text === undefined) {
    loadCbor().write(value, writer, options);
    return;
  }
  writer.byte(JSON_TEXT);
  writer.text(text);
}

/**
 * Decodes a value from bytes that may be hostile, to plain data that shares no memory with them.
 *
 * Throws ProtocolViolation for whatever docs/values.md does not allow.
 */
export function decode(bytes: Uint8Array, unpacker?: Unpacker, limits: Limits = LIMITS): unknown {
  switch (bytes[0]) {
    case JSON_TEXT:
      return parse(bytes.subarray(1), limits);
    case CBOR:
      if (bytes.length === 2 && bytes[1] === UNDEFINED) return undefined;
      return loadCbor().read(bytes.subarray(1), unpacker, limits);
    default:
      throw new ProtocolViolation(`Cannot decode a value: the codec is ${bytes[0] ?? "missing"}, expected 0 or 1`);
  }
}
