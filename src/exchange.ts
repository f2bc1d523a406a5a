/** What passes on one stream between who was handed a network and the host: a value each way, and bodies in pieces (docs/wire.md). */
import type { Connection } from "./connection.ts";
import { readU32, writeU32 } from "./frame.ts";
import { decode, encode } from "./message.ts";

/** What is asked for on a stream, once. */
export type Wish =
  | { readonly connect: string }
  | { readonly fetch: string; readonly method: string; readonly headers: [string, string][]; readonly body: boolean };

/** What the host answers: bytes or a body follow, or nothing. */
export type Answer =
  | { readonly connected: true }
  | { readonly status: number; readonly statusText: string; readonly headers: [string, string][] }
  | { readonly error: { readonly name: string; readonly message: string; readonly code?: string } };

/** Bytes of a wish, without its length. */
export const MOST_WISH = 64 * 1024;
/** Says that the wish has arrived, and that the next stream is in the queue. */
export const TAKEN = 6;

const LENGTH = 4;

/** A value behind its length. */
export function frame(value: unknown): Uint8Array {
  const bytes = encode(value);
  const framed = new Uint8Array(LENGTH + bytes.length);
  writeU32(framed, 0, bytes.length);
  framed.set(bytes, LENGTH);
  return framed;
}

/** The value that comes next, or undefined where the peer ends before. Throws RangeError for too long a one, and ProtocolViolation for none. */
export async function readValue(from: Connection, most: number): Promise<unknown> {
  const framed = await from.gather(LENGTH + most, (bytes) => {
    if (bytes.length < LENGTH) return undefined;
    const wanted = LENGTH + readU32(bytes, 0);
    return wanted <= bytes.length || wanted > LENGTH + most ? wanted : undefined;
  });
  return framed === undefined ? undefined : decode(framed.subarray(LENGTH));
}

/** Sends a body in pieces, no faster than they are taken. What breaks off lacks the empty piece at its end. */
export async function writeBody(to: Connection, body: ReadableStream<Uint8Array> | null): Promise<void> {
  const length = new Uint8Array(LENGTH);
  for await (const bytes of body ?? []) {
    if (bytes.length === 0) continue;
    writeU32(length, 0, bytes.length);
    await to.write(length);
    await to.write(bytes);
  }
  await to.write(new Uint8Array(LENGTH));
}

/** The body that comes, read no faster than it is. @param over is called when all of it has come, or when nobody wants it any more */
export function readBody(from: Connection, over: (whole: boolean) => void): ReadableStream<Uint8Array> {
  let left = 0;
  return new ReadableStream(
    {
      async pull(controller) {
        if (left === 0) {
          const length = await from.gather(LENGTH, (bytes) => (bytes.length < LENGTH ? undefined : LENGTH));
          if (length === undefined) throw new Error("Cannot read on: the body broke off");
          left = readU32(length, 0);
        }
        if (left === 0) {
          controller.close();
          over(true);
          return;
        }
        const bytes = await from.read();
        if (bytes === undefined) throw new Error("Cannot read on: the body broke off");
        const piece = bytes.subarray(0, left);
        from.unread(bytes.subarray(piece.length));
        left -= piece.length;
        controller.enqueue(piece);
      },
      cancel: () => over(false),
    },
    { highWaterMark: 0 },
  );
}
