/** Random values for the codec's tests. */

/** A generator of numbers in [0, 1) that a seed determines (mulberry32). */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A value of any kind that can be sent and compared, nested at most `depth` deep. No object occurs twice. */
export function nested(next: () => number, depth: number): unknown {
  const below = (count: number) => Math.floor(next() * count);
  const list = () => Array.from({ length: below(4) }, () => nested(next, depth - 1));
  const leaves: (() => unknown)[] = [
    () => below(2) === 1,
    () => null,
    () => undefined,
    () => below(1000) - 500,
    () => (next() - 0.5) * 10 ** below(30),
    () => BigInt(below(2 ** 32)) ** BigInt(below(5)) * (below(2) === 0 ? 1n : -1n),
    () => text(),
    () => new Date(below(1e12)),
    () => crypto.getRandomValues(new Uint8Array(below(40))),
    () => new Float64Array([next(), next()]),
  ];
  const containers: (() => unknown)[] = [
    () => list(),
    () => Object.fromEntries(list().map((value) => [text(), value])),
    () => new Map(list().map((value, index) => [index, value])),
    () => new Set(Array.from({ length: below(4) }, (_, index) => [index, nested(next, depth - 1)])),
  ];
  const text = () =>
    Array.from({ length: below(6) }, () => String.fromCharCode(below(8) === 0 ? below(0x10000) : 97 + below(26))).join(
      "",
    );
  const kinds = depth > 0 && below(3) > 0 ? containers : leaves;
  return kinds[below(kinds.length)]?.();
}
