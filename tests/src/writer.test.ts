import { describe, expect, test } from "bun:test";
import { Writer } from "../../src/writer.ts";

describe("Writer", () => {
  test("grows and keeps what was written", () => {
    const writer = new Writer(4);
    writer.byte(1);
    writer.uint32(0x01020304);
    writer.text("é");
    writer.bytes(Uint8Array.of(7, 8));
    expect([...writer.written]).toEqual([1, 4, 3, 2, 1, 0xc3, 0xa9, 7, 8]);
  });

  test("writes text of any length as UTF-8", () => {
    for (const text of ["", "a", "€😀", "€".repeat(4095), "€".repeat(4096), "a".repeat(1e6)]) {
      const writer = new Writer(1);
      writer.text(text);
      expect(writer.written.equals(Buffer.from(text))).toBe(true);
    }
  });

  test("patches a length that was not known", () => {
    const writer = new Writer();
    writer.uint32(0);
    writer.text("abc");
    writer.patch(0, 3);
    expect([...writer.written]).toEqual([3, 0, 0, 0, 97, 98, 99]);
    expect(() => writer.patch(4, 1)).toThrow(RangeError);
  });

  test("lends room and takes back what was used of it", () => {
    const writer = new Writer(1);
    writer.byte(1);
    writer.room(100).fill(2, 0, 3);
    writer.advance(2);
    expect([...writer.written]).toEqual([1, 2, 2]);
  });

  test("truncates, never to more than there is", () => {
    const writer = new Writer();
    writer.text("abc");
    writer.truncate(5);
    expect(writer.length).toBe(3);
    writer.truncate(1);
    expect([...writer.written]).toEqual([97]);
  });

  test("keeps its buffer when it is cleared, unless a large batch made it large", () => {
    const writer = new Writer(64);
    writer.byte(1);
    const { buffer } = writer.written;
    writer.clear();
    writer.byte(1);
    expect(writer.written.buffer).toBe(buffer);
    writer.bytes(new Uint8Array(2e6));
    writer.clear();
    expect(writer.length).toBe(0);
    expect(writer.written.buffer.byteLength).toBeLessThan(1e6);
  });
});
