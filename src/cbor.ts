/** The thorough half of the codec: any value, as CBOR that cbor-x writes and reads between our own walks. */
import { Decoder, Encoder } from "cbor-x/index-no-eval";
import { ProtocolViolation } from "./error.ts";
import { validate } from "./grammar.ts";
import type { Limits, Packer, Unpacker } from "./message.ts";
import { pack } from "./pack.ts";
import { unpack } from "./unpack.ts";
import type { Writer } from "./writer.ts";

// No records, no shared structures, no bundled strings, no packed values: only what `validate` knows. The types leave `useBuffer` out.
const encoder = new Encoder({ useRecords: false, mapsAsObjects: false, tagUint8Array: false }) as Encoder & {
  useBuffer(buffer: Uint8Array): void;
};
const decoder = new Decoder({ useRecords: false, mapsAsObjects: false });

// Where less than this is left, cbor-x moves to a buffer of its own.
const SLACK = 2048 + 10;
const NO_BUFFER = Buffer.allocUnsafeSlow(0);

/** Writes the codec byte and the item. Throws before the first byte, TypeError or RangeError with the path to the culprit. */
export function write(value: unknown, writer: Writer, options: { packer: Packer | undefined; limits: Limits }): void {
  const { tree, sizeBytes } = pack(value, options.packer, options.limits);
  // cbor-x writes where the bytes are to stay, so that large ones are copied once.
  const room = writer.room(1 + sizeBytes + SLACK);
  room[0] = 0;
  encoder.useBuffer(room.subarray(1));
  try {
    const item = encoder.encode(tree);
    if (item.buffer !== room.buffer) throw new Error(`Packed values fit their room: ${item.length} in ${sizeBytes}`);
    writer.advance(1 + item.length);
  } finally {
    // Else cbor-x would go on in our buffer when anyone encodes next.
    encoder.useBuffer(NO_BUFFER);
  }
}

/** Reads an item. Throws ProtocolViolation for anything that docs/values.md does not allow. */
export function read(bytes: Uint8Array, unpacker: Unpacker | undefined, limits: Limits): unknown {
  // Not a Buffer: cbor-x takes pieces by whatever methods the bytes have.
  const item = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  validate(item, limits);
  let tree: unknown;
  try {
    tree = decoder.decode(item);
  } catch (cause) {
    throw new ProtocolViolation("Cannot decode a value: its CBOR does not decode", { cause });
  }
  return unpack(tree, unpacker);
}
