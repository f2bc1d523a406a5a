/** Names of functions, as they travel. */

/** Bytes of a function's name. */
const NAME_BYTES = 255;

/** The name in UTF-8. Throws RangeError for one that no frame can hold. */
export function encodeName(name: string): Uint8Array {
  const bytes = Buffer.from(name);
  if (bytes.length >= 1 && bytes.length <= NAME_BYTES) return bytes;
  throw new RangeError(`Cannot use a name of ${bytes.length} bytes: 1 to ${NAME_BYTES} are expected`);
}

export function isName(value: unknown): value is string {
  // A character takes 1 to 3 bytes of UTF-8 for each unit of UTF-16.
  if (typeof value !== "string" || value.length === 0 || value.length > NAME_BYTES) return false;
  return Buffer.byteLength(value) <= NAME_BYTES;
}
