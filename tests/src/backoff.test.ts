import { describe, expect, test } from "bun:test";
import { Backoff } from "../../src/backoff.ts";

const delays = (random: number) => {
  const backoff = new Backoff({ firstMs: 100, mostMs: 1000 }, () => random);
  return Array.from({ length: 7 }, () => backoff.next());
};

describe("Backoff", () => {
  test("waits not at all first, then twice as long each time, up to the most; half of it is chance", () => {
    expect(delays(1)).toEqual([0, 100, 200, 400, 800, 1000, 1000]);
    expect(delays(0)).toEqual([0, 50, 100, 200, 400, 500, 500]);
  });

  test("stays at the most, however often it failed", () => {
    const backoff = new Backoff({ firstMs: 100, mostMs: 1000 }, () => 1);
    for (let count = 0; count < 5000; count++) backoff.next();
    expect(backoff.next()).toBe(1000);
  });

  test("reset() makes the next failure the first", () => {
    const backoff = new Backoff({ firstMs: 100, mostMs: 1000 }, () => 1);
    expect([backoff.next(), backoff.next()]).toEqual([0, 100]);
    backoff.reset();
    expect([backoff.next(), backoff.next()]).toEqual([0, 100]);
  });
});
