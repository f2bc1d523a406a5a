/** The fast half of the codec: which values are plain JSON, and how hostile JSON text becomes one. */
import { ProtocolViolation } from "./error.ts";
import type { Limits } from "./message.ts";

// Looks a getter up without calling it, and without making a property descriptor, which takes far longer.
const lookupGetter: (this: object, name: string) => unknown = Reflect.get(Object.prototype, "__lookupGetter__");

/** The value as JSON text, or undefined where text would lose something of it, or where it is beyond the limits. */
export function stringify(value: unknown, limits: Limits): string | undefined {
  try {
    return countPlain(value, limits.depth, limits.items) < 0 ? undefined : JSON.stringify(value);
  } catch {
    // A proxy's trap threw. The thorough walk that follows says where.
    return undefined;
  }
}

/**
 * What is left of `items` once the value is counted; negative if there are too many, or if it is no plain JSON.
 *
 * A walk without a memory of what it has seen: shared objects are counted, and written, once for each place, and a cycle ends at `depth`.
 */
function countPlain(value: unknown, depth: number, items: number): number {
  switch (typeof value) {
    case "string":
    case "boolean":
      return items - 1;
    case "number":
      return Number.isFinite(value) && !Object.is(value, -0) ? items - 1 : -1;
    case "object":
      break;
    default:
      return -1;
  }
  if (value === null) return items - 1;
  if (depth === 0) return -1;
  const prototype: unknown = Object.getPrototypeOf(value);
  let left = items - 1;
  if (Array.isArray(value)) {
    if (prototype !== Array.prototype) return -1;
    for (let index = 0; index < value.length && left >= 0; index++) left = countPlain(value[index], depth - 1, left);
  } else {
    if (prototype !== Object.prototype && prototype !== null) return -1;
    for (const key in value) {
      if (left < 0 || key === "__proto__" || lookupGetter.call(value, key) !== undefined) return -1;
      left = countPlain((value as Record<string, unknown>)[key], depth - 1, left);
    }
  }
  return "toJSON" in value ? -1 : left;
}

// The mark of byte order is kept, so that JSON.parse refuses it.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const REPLACEMENT = "\ufffd";

/** The value of JSON text from a peer that may be hostile. Throws ProtocolViolation and nothing else. */
export function parse(bytes: Buffer, start: number, end: number, limits: Limits): unknown {
  // An item takes two bytes, and so does a level: what is short needs no scan.
  if (end - start > 2 * Math.min(limits.depth, limits.items)) scan(bytes, start, end, limits);
  try {
    const text = decode(bytes, start, end);
    const value: unknown = JSON.parse(text);
    // Only an escape can hide the name from the first search.
    if (text.includes("__proto__") || text.includes("\\u")) refuseProto(value);
    return value;
  } catch (cause) {
    if (cause instanceof ProtocolViolation) throw cause;
    throw new ProtocolViolation("Cannot decode a value: its bytes are not JSON in UTF-8", { cause });
  }
}

/** Strict UTF-8. What is wrong in it becomes a replacement character, so text without one was right; that takes half the time of a decoder. */
function decode(bytes: Buffer, start: number, end: number): string {
  const text = bytes.toString("utf8", start, end);
  return text.includes(REPLACEMENT) ? utf8.decode(bytes.subarray(start, end)) : text;
}

/** Holds JSON text to the limits before a parser spends memory on it. What is no JSON at all is left to the parser. */
function scan(bytes: Uint8Array, start: number, end: number, limits: Limits): void {
  let depth = 0;
  let items = 1;
  for (let at = start; at < end; at++) {
    switch (bytes[at]) {
      case 0x22: // "
        for (at++; at < end && bytes[at] !== 0x22; at++) if (bytes[at] === 0x5c) at++;
        break;
      case 0x2c: // ,
        items++;
        break;
      case 0x5b: // [
      case 0x7b: // {
        if (++depth > limits.depth) {
          throw new ProtocolViolation(`Cannot decode a value: it is nested deeper than ${limits.depth} levels`);
        }
        // An opening bracket brings a first item, unless its closing one, two characters further in ASCII, follows at once.
        if (bytes[at + 1] !== (bytes[at] as number) + 2) items++;
        break;
      case 0x5d: // ]
      case 0x7d: // }
        depth--;
        break;
    }
  }
  if (items > limits.items) {
    throw new ProtocolViolation(`Cannot decode a value: it has more than ${limits.items} items`);
  }
}

function refuseProto(value: unknown): void {
  if (typeof value !== "object" || value === null) return;
  if (Object.hasOwn(value, "__proto__")) {
    throw new ProtocolViolation("Cannot decode a value: it has a property named __proto__");
  }
  for (const item of Object.values(value)) refuseProto(item);
}
