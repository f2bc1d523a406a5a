import { afterEach, describe, expect, spyOn, test } from "bun:test";
import { LIMITS } from "../../src/link.ts";
import { Splitter } from "../../src/splitter.ts";
import { cleanUp, cleanup, frame, u32 } from "./wire.ts";

afterEach(cleanUp);

describe("Splitter", () => {
  test("grows with what arrived, not with what a length claims", () => {
    const alloc = spyOn(Buffer, "allocUnsafeSlow");
    cleanup.push(() => alloc.mockRestore());
    const splitter = new Splitter(LIMITS.frameBytes, () => false);
    let arrived = 0;
    for (const bytes of [u32(LIMITS.frameBytes), ...Array.from({ length: 100 }, () => new Uint8Array(1000))]) {
      splitter.push(Buffer.from(bytes));
      arrived += bytes.length;
      expect(splitter.held).toBe(arrived);
      for (const [size] of alloc.mock.calls.splice(0)) expect(size).toBeLessThanOrEqual(64 + 4 * arrived);
    }
  });

  test("delivers a range of the chunk itself where the frame is whole", () => {
    const ranges: [Uint8Array, number, number][] = [];
    const splitter = new Splitter(100, (...range) => ranges.push(range) > 0);
    const chunk = Buffer.concat([frame(1, Buffer.from("ab")), frame(2, Buffer.from("c"))]);
    splitter.push(chunk);
    expect(ranges.map(([bytes, start, end]) => [bytes === chunk, start, end])).toEqual([
      [true, 4, 7],
      [true, 11, 13],
    ]);
  });

  test("uses the memory of a large frame again, but not where the frame is still in use", () => {
    for (const done of [true, false]) {
      const memories: ArrayBufferLike[] = [];
      const bodies: number[] = [];
      const splitter = new Splitter(LIMITS.frameBytes, (bytes, start, end) => {
        memories.push(bytes.buffer);
        bodies.push(bytes[start + 1]!, bytes[end - 1]!);
        return done;
      });
      for (const content of [1, 2]) {
        const large = frame(1, Buffer.alloc(100_000, content));
        for (const part of [large.subarray(0, 60_000), large.subarray(60_000)]) splitter.push(Buffer.from(part));
      }
      expect(memories[0] === memories[1]).toBe(done);
      expect(bodies).toEqual([1, 1, 2, 2]);
    }
  });
});
