import { describe, expect, test } from "bun:test";
import { Window } from "../../src/window.ts";

describe("Window", () => {
  const size = { messages: 4, bytes: 100, descriptors: 4 };
  const cases: [string, [number, number, number], [number, number], boolean][] = [
    ["the first message of any size", [0, 0, 0], [1000, 0], true],
    ["what fits exactly", [1, 60, 0], [40, 0], true],
    ["no byte more once half is taken", [1, 60, 0], [41, 0], false],
    ["a large message while less than half is taken", [1, 49, 0], [1000, 0], true],
    ["no message past their number", [4, 4, 0], [1, 0], false],
    ["descriptors up to their number", [1, 1, 2], [1, 2], true],
    ["no descriptor past their number", [1, 1, 3], [1, 2], false],
  ];
  test.each(cases)("admits %s", (_, taken, [bytes, descriptors], admitted) => {
    const window = new Window(size);
    window.add(...taken);
    expect(window.admits(bytes, descriptors)).toBe(admitted);
  });

  test("lets no sender wait for credit that a receiver does not owe yet", () => {
    // Whatever is taken and not credited is less than half, so the next frame passes.
    for (let messages = 0; messages < 4; messages++) {
      for (let bytes = 0; bytes < 100; bytes++) {
        for (let descriptors = 0; descriptors < 4; descriptors++) {
          const owed = new Window(size);
          owed.add(messages, bytes, descriptors);
          expect(owed.isHalf || owed.admits(1_000_000, 2)).toBeTrue();
        }
      }
    }
  });

  test("remove() refuses more than there is, and changes nothing", () => {
    const window = new Window(size);
    window.add(2, 10, 1);
    expect(window.remove(3, 0, 0)).toBeFalse();
    expect(window.remove(0, 11, 0)).toBeFalse();
    expect(window.remove(0, 0, 2)).toBeFalse();
    expect(window.remove(2, 10, 1)).toBeTrue();
    expect([window.messages, window.bytes, window.descriptors]).toEqual([0, 0, 0]);
  });
});
