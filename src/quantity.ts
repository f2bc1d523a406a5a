/** Amounts with units, as people write them: sizes, times, rates, processors. */

/** What is measured in the same units. */
export interface Dimension {
  /** What a word ends in, and what that comes to. Without units, words are not expected. */
  readonly units: Readonly<Record<string, number>>;
  /** How many of what the units come to are one; 1 where nothing is said. */
  readonly parts?: number;
  /** What a key ends in that takes a plain number of it. Without that, plain numbers are taken as they are. */
  readonly suffix?: string;
  /** What such a number counts. */
  readonly counts: string;
  /** What is expected, for who wrote something else. */
  readonly expected: string;
  /** Whether what is behind the point means nothing. */
  readonly whole: boolean;
  print(amount: number): string;
}

const SIZES: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1000,
  KiB: 1024,
  MB: 1e6,
  MiB: 2 ** 20,
  GB: 1e9,
  GiB: 2 ** 30,
};
const RATES = Object.fromEntries(Object.entries(SIZES).map(([unit, factor]) => [`${unit}/s`, factor]));
const TIMES: Readonly<Record<string, number>> = { ms: 1, s: 1000, min: 60_000, h: 3_600_000 };

const inWords = (units: Readonly<Record<string, number>>, example: string) => ({
  units,
  expected: `a number and one of ${Object.keys(units).join(", ")} is expected, as in "${example}"`,
});

/** In bytes. */
export const SIZE = {
  ...inWords(SIZES, "256 MiB"),
  suffix: "Bytes",
  counts: "bytes",
  whole: true,
  print: printSize,
} as const satisfies Dimension;

/** In bytes a second. */
export const RATE = {
  ...inWords(RATES, "10 MiB/s"),
  suffix: "BytesPerSecond",
  counts: "bytes a second",
  whole: true,
  print: (bytes) => `${printSize(bytes)}/s`,
} as const satisfies Dimension;

export const SECONDS = {
  ...inWords(TIMES, "5 s"),
  // Divided in the end: 700 times 0.001 is more than 0.7.
  parts: 1000,
  suffix: "Seconds",
  counts: "seconds",
  whole: false,
  print: (seconds) => `${seconds} s`,
} as const satisfies Dimension;

export const MILLISECONDS = {
  ...inWords(TIMES, "30 s"),
  suffix: "Ms",
  counts: "milliseconds",
  whole: false,
  print: (milliseconds) => `${milliseconds / 1000} s`,
} as const satisfies Dimension;

export const PROCESSORS = {
  units: { cpu: 1 },
  counts: "processors",
  expected: 'a number of processors is expected, as in "0.5 cpu" or 0.5',
  whole: false,
  print: (processors) => `${processors} cpu`,
} as const satisfies Dimension;

/** What comes in pieces. */
export const COUNT = {
  units: {},
  counts: "pieces",
  expected: "a whole number is expected",
  whole: true,
  print: String,
} as const satisfies Dimension;

/**
 * An amount in words, or a plain number where the dimension has those.
 * Throws TypeError for what is neither, RangeError for nonsense. @param what where it stands, such as `limits.memory`
 */
export function quantityOf(value: unknown, dimension: Dimension, what: string): number {
  const { suffix, expected } = dimension;
  if (typeof value === "number" && suffix === undefined) return plainOf(value, expected, what);
  if (typeof value !== "string") throw new TypeError(`Cannot use ${shown(value)} as ${what}: ${expected}`);
  const amount = counted(value, dimension);
  if (!Number.isFinite(amount)) throw new RangeError(`Cannot use ${shown(value)} as ${what}: ${expected}`);
  return amount;
}

/** A plain number, of a dimension that needs no unit or under a key that names it. Throws TypeError and RangeError. */
export function plainOf(value: unknown, expected: string, what: string): number {
  if (typeof value === "number" && Number.isFinite(value)) return value;
  const Wrong = typeof value === "number" ? RangeError : TypeError;
  throw new Wrong(`Cannot use ${shown(value)} as ${what}: ${expected}`);
}

/** A size in bytes, at least one: to the kernel, none is often no limit. Throws RangeError. */
export const sizeOf = (amount: string | number, what: string): number =>
  Math.max(1, Math.floor(something(amount, SIZE, what)));

/** A time in seconds. Throws RangeError. */
export const secondsOf = (amount: string | number, what: string): number => something(amount, SECONDS, what);

/** More than nothing, in words or as a number of what the caller says. */
function something(amount: string | number, dimension: Dimension, what: string): number {
  const value = typeof amount === "number" ? amount : counted(amount, dimension);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new RangeError(`Cannot use ${shown(amount)} as ${what}: ${dimension.expected}`);
}

/** A size in the largest unit that it is a whole number of. */
function printSize(bytes: number): string {
  const unit = bytes === 0 ? "B" : (["GiB", "MiB", "KiB"].find((unit) => bytes % SIZES[unit]! === 0) ?? "B");
  return `${bytes / SIZES[unit]!} ${unit}`;
}

/** What words with these units look like. */
export const patternOf = ({ units }: Dimension): string => `\\d+(\\.\\d+)? ?(${Object.keys(units).join("|")})`;

/** NaN for what is no number with one of the units. */
function counted(text: string, { units, parts = 1 }: Dimension): number {
  const [, digits, unit] = /^(\d+(?:\.\d+)?) ?([A-Za-z/]+)$/.exec(text) ?? [];
  return Object.hasOwn(units, unit ?? "") ? (Number(digits) * units[unit!]!) / parts : Number.NaN;
}

/** A value in few words. */
export function shown(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(value) : Bun.inspect(value, { compact: true });
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}
