/** What every contestant does, whatever carries its messages. */

const MEBIBYTE = new Uint8Array(2 ** 20).fill(7);

/** The functions that are called. */
export const work = {
  add: (a: number, b: number): number => a + b,
  echo: (value: unknown): unknown => value,
  /** Bytes come. */
  length: (bytes: Uint8Array): number => bytes.length,
  /** Bytes go. */
  bytes: (): Uint8Array => MEBIBYTE,
};
export type Name = keyof typeof work;

/** A small message, as a program would send it: 100 bytes of JSON. */
export const SMALL = {
  id: 123456,
  kind: "measurement",
  name: "temperature",
  unit: "celsius",
  values: [21.5, 22.25, 19.75],
};
