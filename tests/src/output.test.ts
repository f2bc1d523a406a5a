import { describe, expect, test } from "bun:test";
import { LimitExceeded } from "../../src/error.ts";
import { streamOf } from "../../src/output.ts";
import { Descriptor } from "../../syscalls/descriptor.ts";
import { self } from "../../syscalls/kernel.ts";
import { SOCK } from "../../syscalls/linux/constants.ts";
import { socketPair } from "../../syscalls/linux/socket.ts";
import { until } from "../attacks/arena.ts";

const TOO_MUCH = new LimitExceeded("Too much", "output");

/** A stream that gives so many bytes, and what writes to it. */
class Written {
  readonly stream: ReadableStream<Uint8Array>;
  /** How much was looked at. */
  seen = 0;
  readonly #end: Descriptor;

  constructor(left: number, lost: LimitExceeded | undefined) {
    const [read, end] = socketPair(self, SOCK.STREAM);
    this.#end = new Descriptor(end);
    this.stream = streamOf(read, (bytes) => {
      const given = bytes.subarray(0, left);
      left -= given.length;
      this.seen += bytes.length;
      return given.length === bytes.length ? { given } : { given, lost };
    });
  }

  write(text: string): void {
    self.call("write", this.#end.number, Buffer.from(text), text.length);
  }

  end(): void {
    this.#end.close();
  }
}

/** What is read to the end, and how that was. */
async function readAll(stream: ReadableStream<Uint8Array>): Promise<{ text: string; end: unknown }> {
  let text = "";
  try {
    for await (const bytes of stream) text += Buffer.from(bytes).toString();
    return { text, end: "end" };
  } catch (error) {
    return { text, end: error };
  }
}

describe("streamOf()", () => {
  for (const [what, left, lost, read] of [
    ["ends where all is given", 6, TOO_MUCH, { text: "abcdef", end: "end" }],
    ["ends where less is given and that is told elsewhere", 4, undefined, { text: "abcd", end: "end" }],
    ["fails behind what is given, in the midst of a piece", 4, TOO_MUCH, { text: "abcd", end: TOO_MUCH }],
    ["fails behind what is given, between pieces", 3, TOO_MUCH, { text: "abc", end: TOO_MUCH }],
    ["fails where nothing is given", 0, TOO_MUCH, { text: "", end: TOO_MUCH }],
  ] as const) {
    test(`${what}: with a reader that waits`, async () => {
      const written = new Written(left, lost);
      const reading = readAll(written.stream);
      written.write("abc");
      await until(() => written.seen === 3);
      written.write("def");
      await until(() => written.seen === 6);
      written.end();
      expect(await reading).toEqual(read);
    });

    test(`${what}: with one that comes when nobody writes any more`, async () => {
      const written = new Written(left, lost);
      written.write("abc");
      await until(() => written.seen === 3);
      written.write("def");
      written.end();
      expect(await readAll(written.stream)).toEqual(read);
    });
  }
});
