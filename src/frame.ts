/** Frames: what the data lane carries, by kind and shape (docs/wire.md), and the two lanes as those see them who send and receive. */
import { ProtocolViolation } from "./error.ts";

/**
 * Every frame: its code, the bytes of its fixed fields, whether a payload follows and may name descriptors.
 * Codes stay below 32, so that a set of kinds is a word of bits.
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

const KINDS: (Kind | undefined)[] = [];
for (const [name, { code }] of Object.entries(FRAMES)) KINDS[code] = name as Kind;

/** The kinds as a set, one bit each. */
export function setOf(...kinds: readonly Kind[]): number {
  return kinds.reduce((set, kind) => set | (1 << FRAMES[kind].code), 0);
}

export const VERSION = 1;
/** What HELLO begins with: who speaks, and which version of this. */
export const GREETING = Uint8Array.of(...Buffer.from("caisson"), VERSION);

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
  const kind = KINDS[code];
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
