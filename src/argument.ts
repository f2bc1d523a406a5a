/** Arguments of a system call as people write them: numbers, constants of C, paths. */
import { SIGNATURES } from "../platform/index.ts";
import type { SyscallName } from "../syscalls/kernel.ts";
import * as constants from "../syscalls/linux/constants.ts";
import * as numbers from "../syscalls/linux/numbers.ts";
import * as requests from "../syscalls/linux/requests.ts";
import { UsageError } from "./flags.ts";
import { suggestion } from "./suggestion.ts";

export interface Arguments {
  /** As the kernel gets them, up to the last one that was given. Those that are pointers count as 0. */
  readonly words: readonly bigint[];
  /** The paths among them, as they are written, by their place. */
  readonly paths: ReadonlyMap<number, string>;
}

/** The arguments of a call. A directory may be left out before a path: it is the working directory. Throws UsageError. */
export function argumentsOf(call: string | number, texts: readonly string[]): Arguments {
  const places = SIGNATURES[call as SyscallName]?.paths ?? [];
  const words: bigint[] = [];
  const paths = new Map<number, string>();
  for (const text of texts) {
    const isPath = /^[./"']/.test(text);
    if (isPath && places.some(({ directory, path }) => directory === words.length && path === words.length + 1))
      words.push(AT_FDCWD);
    const at = words.length;
    if (isPath && !places.some(({ path }) => path === at))
      throw new UsageError(`Cannot understand ${text}: argument ${at + 1} of ${call} is no path`);
    if (isPath) paths.set(at, unquoted(text));
    words.push(isPath ? 0n : wordOf(text));
  }
  if (words.length > 6)
    throw new UsageError(`Cannot explain ${call} with ${words.length} arguments: no call has more than 6`);
  return { words, paths };
}

const unquoted = (text: string) => /^(["'])(.*)\1$/s.exec(text)?.[2] ?? text;

const AT_FDCWD = BigInt.asUintN(64, BigInt(numbers.AT_FD.CWD));

/** A word of 64 bits: `0x1f`, `0644`, `-1`, `O_WRONLY|O_CREAT`. */
function wordOf(text: string): bigint {
  return text.split("|").reduce((word, part) => word | BigInt.asUintN(64, partOf(part.trim())), 0n);
}

function partOf(text: string): bigint {
  const known = CONSTANTS.get(text);
  if (known !== undefined) return BigInt(known);
  const [, sign = "", digits] = /^(-?)(0x[0-9a-f]+|\d+)$/i.exec(text) ?? [];
  // An octal number has a zero before it, as in C.
  const octal = digits !== undefined && /^0[0-7]+$/.test(digits);
  const value = digits === undefined ? undefined : BigInt(octal ? `0o${digits}` : digits);
  if (value !== undefined && value < 1n << 64n) return sign === "-" ? -value : value;
  throw new UsageError(
    `Cannot understand ${text}: expected a number of 64 bits, constants of C with | between, or a path that begins with / or .${text.includes("_") ? suggestion(text, [...CONSTANTS.keys()]) : ""}`,
  );
}

/** What the names of these tables begin with in C; those of others with the table's name and an underscore. */
const PREFIXES: Readonly<Record<string, string>> = {
  AT_FD: "AT_FD",
  EPOLL_EVENTS: "EPOLL",
  ERRNO: "",
  IOCTL: "",
  LINUX_CAPABILITY: "_LINUX_CAPABILITY_",
  SIG: "SIG",
  SIG_HOW: "SIG_",
  SIOC: "SIOC",
  W: "W",
};

const CONSTANTS: ReadonlyMap<string, number | bigint> = new Map([
  ["NULL", 0],
  ...Object.entries({ ...numbers, ...constants, ...requests }).flatMap(([table, entries]) =>
    Object.entries(typeof entries === "object" ? entries : {}).flatMap(([name, value]: [string, unknown]) =>
      typeof value === "number" || typeof value === "bigint"
        ? [[`${PREFIXES[table] ?? `${table}_`}${name}`, value] as const]
        : [],
    ),
  ),
] as const);
