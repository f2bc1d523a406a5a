/** What callers may write for an option: checked by name and kind before anything happens, for a slip must never mean less than was asked for. */
import { constants } from "node:os";

/** A kind of value: whether something is one, and how it is called. */
export interface Kind {
  readonly is: (value: unknown) => boolean;
  readonly called: string;
}

/** Kinds by the names of options. */
export type Kinds<Options> = Readonly<Record<keyof Options, Kind>>;

const kind = (called: string, is: Kind["is"]): Kind => ({ called, is });
const isObject = (value: unknown): value is object => typeof value === "object" && value !== null;
const isPlain = (value: unknown): value is object => isObject(value) && !Array.isArray(value);
const isWhole = (value: unknown): value is number => Number.isInteger(value);

/** What is looked at elsewhere, where more can be said of it. */
export const ANY = kind("anything", () => true);
export const TEXT = kind("a string", (value) => typeof value === "string");
export const PATH = kind("a path", (value) => typeof value === "string" && value !== "");
export const FLAG = kind("true or false", (value) => typeof value === "boolean");
export const DESCRIPTOR = kind("a descriptor", (value) => isWhole(value) && value >= 0);
export const ID = kind("an id", (value) => isWhole(value) && value >= 0 && value < 2 ** 32 - 1);
export const UMASK = kind("a number from 0 to 0o777", (value) => isWhole(value) && value >= 0 && value <= 0o777);
export const NICE = kind("a whole number from -20 to 19", (value) => isWhole(value) && value >= -20 && value <= 19);
export const SIZE = kind("a size", (value) => typeof value === "number" || typeof value === "string");
export const MODE = kind("a number", (value) => typeof value === "number");
export const OBJECT = kind("an object", isPlain);
export const FUNCTION = kind("a function", (value) => typeof value === "function");
export const ABORT = kind("an AbortSignal", (value) => value instanceof AbortSignal);
export const SIGNAL = kind(
  "a signal's name, such as SIGTERM",
  (value) => typeof value === "string" && Object.hasOwn(constants.signals, value),
);
export const SIGNAL_NUMBER = kind("a number from 1 to 64", (value) => isWhole(value) && value >= 1 && value <= 64);
export const MOUNT = kind("made by bind(), tmpfs() and their like", (value) => isPlain(value) && "kind" in value);
export const ENVIRONMENT = kind(
  "an object from names, without =, to strings",
  (value) =>
    isPlain(value) &&
    Object.entries(value).every(([name, text]) => name !== "" && !name.includes("=") && typeof text === "string"),
);
export const LIMITS = kind(
  "an object from names to whole numbers of at least 0",
  (value) => isPlain(value) && Object.values(value).every((limit) => isWhole(limit) && limit >= 0),
);

export const DESCRIPTORS = kind(
  "an object from numbers inside to descriptors",
  (value) => LIMITS.is(value) && Object.keys(value as object).every((number) => /^\d{1,9}$/.test(number)),
);
export const WINDOW = kind(
  "{ columns, rows }, both from 1 to 65535,",
  (value) =>
    isPlain(value) &&
    [Object(value).columns, Object(value).rows].every((size) => isWhole(size) && size > 0 && size < 2 ** 16),
);

/** One of several kinds. */
export const either = (...kinds: readonly Kind[]): Kind =>
  kind(kinds.map(({ called }) => called).join(" or "), (value) => kinds.some(({ is }) => is(value)));

/** One of these words. */
export const word = (...words: readonly string[]): Kind =>
  kind(words.map((each) => JSON.stringify(each)).join(", "), (value) => words.includes(value as string));

/** An array of a kind. */
export const list = ({ is, called }: Kind): Kind =>
  kind(`an array, each of ${called},`, (value) => Array.isArray(value) && value.every(is));

/** An instance of a class. */
export const instance = (of: new (...args: never[]) => object): Kind =>
  kind(`a ${of.name}`, (value) => value instanceof of);

/** Throws a TypeError for an option that there is not, or that is not of its kind. What is undefined was left out. */
export function checkOptions<Options extends object>(options: Options, kinds: Kinds<Options>): void {
  if (!isPlain(options)) throw new TypeError(`Cannot use ${shown(options)} as options: an object is expected`);
  for (const [name, value] of Object.entries(options)) {
    const expected = Object.hasOwn(kinds, name) ? kinds[name as keyof Options] : undefined;
    if (expected === undefined) throw new TypeError(`Cannot use the option ${name}: there is none of this name`);
    if (value !== undefined) checkArgument(value, name, expected);
  }
}

/** Throws a TypeError for an argument that is not of its kind. */
export function checkArgument(value: unknown, name: string, { is, called }: Kind): void {
  if (!is(value)) throw new TypeError(`Cannot use ${shown(value)} as ${name}: ${called} is expected`);
}

function shown(value: unknown): string {
  return typeof value === "string" || isObject(value)
    ? Bun.inspect(value, { depth: 1 }).replaceAll(/\s+/g, " ").slice(0, 80)
    : String(value);
}
