import { describe, expect, test } from "bun:test";
import { readHello } from "../../src/hello.ts";

const word = (number: number) => [number >> 8, number & 0xff];
const sized = (bytes: readonly number[]) => [...word(bytes.length), ...bytes];
const text = (string: string) => [...Buffer.from(string, "latin1")];
const named = (name: string, type = 0) => [...word(0), ...sized(sized([type, ...sized(text(name))]))];

/** The first message of a client with these extensions. */
function hello(extensions: readonly number[] | undefined): number[] {
  const tail = extensions === undefined ? [] : sized(extensions);
  const body = [3, 3, ...Array<number>(32).fill(7), 0, ...sized([0x13, 1]), 1, 0, ...tail];
  return [1, 0, ...sized(body)];
}
/** Messages in records of `size` bytes. */
function records(message: readonly number[], size = 0x4000): Uint8Array {
  const bytes: number[] = [];
  for (let at = 0; at < message.length; at += size) bytes.push(22, 3, 1, ...sized(message.slice(at, at + size)));
  return Uint8Array.from(bytes);
}

describe("readHello()", () => {
  const plain = records(hello([...word(16), ...sized([1, 2, 3]), ...named("example.com")]));
  test("finds the name", () => expect(readHello(plain)).toEqual({ tls: true, name: "example.com" }));
  test("finds that there is none", () => {
    expect(readHello(records(hello(undefined)))).toEqual({ tls: true, name: undefined });
    expect(readHello(records(hello([])))).toEqual({ tls: true, name: undefined });
  });
  test("asks for more until it is whole, byte by byte, and for no more than there is", () => {
    for (let length = 0; length < plain.length; length++) {
      const needed = readHello(plain.subarray(0, length));
      expect(needed).toBeGreaterThan(length);
      expect(needed).toBeLessThanOrEqual(plain.length);
    }
    expect(readHello(Buffer.concat([plain, Buffer.from("early data")]))).toEqual({ tls: true, name: "example.com" });
  });
  test("reads on over records", () => {
    expect(readHello(records(hello(named("example.com")), 10))).toEqual({ tls: true, name: "example.com" });
  });
  for (const first of ["GET / HTTP/1.1", "SSH-2.0", "\x16", "\x16\x02", "\x17\x03\x03", "\x00"]) {
    test(`leaves ${JSON.stringify(first)} alone, or waits`, () => {
      const result = readHello(Buffer.from(first, "latin1"));
      if (first === "\x16") expect(result).toBe(5);
      else expect(result).toEqual({ tls: false });
    });
  }
  for (const [what, bytes] of Object.entries({
    "two names in a list": hello([...word(0), ...sized(sized([0, ...sized(text("a")), 0, ...sized(text("b"))]))]),
    "two lists of names": hello([...named("a"), ...named("b")]),
    "a name of another kind": hello(named("a", 1)),
    "bytes behind the names": hello([...word(0), ...sized([...sized([0, ...sized(text("a"))]), 9])]),
    "an extension longer than what is there": hello([...word(0), 0, 200, 1]),
    "an empty list": hello([...word(0), ...sized([])]),
    "a message without its end": [1, 0, 0, 2, 3, 3],
    "a message that is too long": [1, 9, 9, 9, 3, 3],
  })) {
    test(`throws for ${what}`, () => expect(() => readHello(records(bytes))).toThrow("it is malformed"));
  }
  test("throws for records that are empty, too many, too long, or of another kind within the message", () => {
    const whole = hello(named("example.com"));
    expect(() => readHello(Uint8Array.of(22, 3, 1, 0, 0))).toThrow("malformed");
    expect(() => readHello(Uint8Array.of(22, 3, 1, 0xff, 0xff))).toThrow("malformed");
    expect(() => readHello(records(whole, 1))).toThrow("malformed");
    const other = Buffer.concat([records(whole.slice(0, 20)), Uint8Array.of(23, 3, 3, 0, 1, 0)]);
    expect(() => readHello(other)).toThrow("malformed");
  });
});
