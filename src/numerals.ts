/** Numbers on the command line of `caisson bwrap`, as the functions of C read them that bubblewrap uses. */
import { CAP } from "../syscalls/linux/numbers.ts";
import { BwrapError } from "./strerror.ts";

const MAX_TMPFS_BYTES = 2n ** 63n - 1n;
const ALL_CAPABILITIES = 2n ** 64n - 1n;

/** The number of a descriptor. */
export const descriptorOf = (text: string) => numberOf(text, "fd");

/** As `strtol(3)` reads it into an `int`: spaces and a sign may come first, and what is too large loses its upper half. */
export function numberOf(text: string, what: "fd" | "uid" | "gid"): number {
  const [, sign, digits] = /^[ \t-\r]*([+-]?)(\d+)$/.exec(text) ?? [];
  if (digits === undefined) throw new BwrapError(`Invalid ${what}: ${text}`);
  const value = BigInt(digits) * (sign === "-" ? -1n : 1n);
  const long = value > 2n ** 63n - 1n ? 2n ** 63n - 1n : value < -(2n ** 63n) ? -(2n ** 63n) : value;
  const int = Number(BigInt.asIntN(32, long));
  if (int < 0) throw new BwrapError(`Invalid ${what}: ${text}`);
  return int;
}

/** As `strtoul(3)` reads an octal number. */
export function permissionsOf(text: string, option: string): number {
  const [, sign, digits] = /^[ \t-\r]*([+-]?)([0-7]+)$/.exec(text) ?? [];
  const value = BigInt(digits === undefined ? -1 : `0o${digits}`);
  const wrapped = sign === "-" && value < 2n ** 64n ? BigInt.asUintN(64, -value) : value;
  if (wrapped < 0n || wrapped > 0o7777n) throw new BwrapError(`${option} takes an octal argument <= 07777`);
  return Number(wrapped);
}

/** As `strtoull(3)` reads a number with a prefix for its base, if it begins with a digit. */
export function sizeOf(text: string): bigint {
  const octal = /^0[0-7]+$/.test(text);
  const known = octal || /^(?:0|[1-9]\d*|0[xX][\da-fA-F]+)$/.test(text);
  const size = known ? BigInt(octal ? `0o${text}` : text) : 0n;
  if (size === 0n || size >= 2n ** 64n) throw new BwrapError("--size takes a non-zero number of bytes");
  if (size > MAX_TMPFS_BYTES) throw new BwrapError(`--size (for tmpfs) is limited to ${MAX_TMPFS_BYTES}`);
  return size;
}

/** As `cap_from_name(3)` reads it: a name in letters of any size, or a number; what follows is not looked at. */
export function capabilitiesOf(text: string): bigint {
  if (text.toUpperCase() === "ALL") return ALL_CAPABILITIES;
  const [digits] = /^(?:0[xX][\da-fA-F]+|0[0-7]*|[1-9]\d*)/.exec(text) ?? [];
  const [name = ""] = /^[a-z_]+/i.exec(text) ?? [];
  const known = CAPABILITIES.get(name.toLowerCase());
  const number = digits === undefined ? known : Number(/^0[0-7]+$/.test(digits) ? `0o${digits}` : digits);
  if (number === undefined || number >= 64) throw new BwrapError(`unknown cap: ${text}`);
  return 1n << BigInt(number);
}

const CAPABILITIES = new Map(Object.entries(CAP).map(([name, number]) => [`cap_${name.toLowerCase()}`, number]));
