import { describe, expect, test } from "bun:test";
import { Memory, Struct } from "../../syscalls/struct.ts";

describe("Struct", () => {
  test("aligns each field to its size, and the whole to the largest", () => {
    const struct = new Struct({ a: "u8", b: "u64", c: "u16", d: "u32", e: "u8" });
    expect(struct.offsets).toEqual({ a: 0, b: 8, c: 16, d: 20, e: 24 });
    expect(struct.size).toBe(32);
  });

  test("has no padding where it is packed", () => {
    const struct = new Struct({ a: "u8", b: "u64", c: "i32" }, { packed: true });
    expect(struct.offsets).toEqual({ a: 0, b: 1, c: 9 });
    expect(struct.size).toBe(13);
  });

  test("encode() and decode() keep the extremes of each type", () => {
    const struct = new Struct({ a: "u8", b: "u16", c: "u32", d: "i32", e: "u64", f: "i64" });
    for (const values of [
      { a: 0, b: 0, c: 0, d: -(2 ** 31), e: 0n, f: -(2n ** 63n) },
      { a: 255, b: 65535, c: 2 ** 32 - 1, d: 2 ** 31 - 1, e: 2n ** 64n - 1n, f: 2n ** 63n - 1n },
      { a: 1, b: 2, c: 3, d: -4, e: 5n, f: -6n },
    ]) {
      expect(struct.decode(struct.encode(values).bytes)).toEqual(values);
    }
  });

  test("encode() writes zero where nothing is said, and little-endian", () => {
    const struct = new Struct({ a: "u32", b: "u32" });
    expect([...struct.encode({ b: 0x01020304 }).bytes]).toEqual([0, 0, 0, 0, 4, 3, 2, 1]);
  });

  test("encode() notes pointers beside the bytes, and NULL as nothing", () => {
    const struct = new Struct({ length: "u32", at: "pointer", none: "pointer" });
    const memory = struct.encode({ length: 1, at: "text", none: null });
    expect(memory.pointers).toEqual([{ offset: 8, to: "text" }]);
    expect(memory.bytes.length).toBe(24);
  });

  test("encode() throws a TypeError for a field that is not there", () => {
    const struct = new Struct({ a: "u8" });
    expect(() => struct.encode({ b: 1 } as never)).toThrow(TypeError);
  });

  test("decode() reads bytes that lie inside a larger buffer", () => {
    const buffer = Uint8Array.of(9, 9, 7, 0, 0, 0);
    expect(new Struct({ a: "u32" }).decode(buffer.subarray(2))).toEqual({ a: 7 });
  });
});

test("Memory.vector() ends with NULL", () => {
  const vector = Memory.vector(["a", "b"]);
  expect(vector.bytes.length).toBe(24);
  expect(vector.pointers.map(({ offset }) => offset)).toEqual([0, 8]);
  expect(Memory.vector([]).bytes).toEqual(new Uint8Array(8));
});
