/** Limits, as people write them: one table, from which follow what is read, checked, compared and told. */
import type { Limits } from "../platform/index.ts";
import {
  COUNT,
  type Dimension,
  MILLISECONDS,
  PROCESSORS,
  patternOf,
  plainOf,
  quantityOf,
  RATE,
  SECONDS,
  SIZE,
  shown,
} from "./quantity.ts";
import type { Kind } from "./sandbox.ts";

type PerKind = number | Readonly<Record<Kind, number>>;

interface Limit {
  readonly of: Dimension;
  /** For editors, in the schema. */
  readonly means: string;
  /** How an amount of it goes on, for people: `512 MiB of memory`. */
  readonly told: string;
  /** One of its dimension, where nothing is said. */
  readonly least?: PerKind;
  readonly most?: number;
  /** What holds where nobody says anything; without it, no limit. */
  readonly usual?: PerKind;
  /** What that is taken for when policies are compared; without it, no limit. */
  readonly unsaid?: (limits: Limits) => number;
}

const MIB = 2 ** 20;

/** Everything that can be limited. A new limit is one entry here, one line in `SandboxLimits`, and one in the platform's `Limits`. */
export const LIMITS = {
  memory: {
    of: SIZE,
    means: "What it may allocate; 512 MiB where nothing is said. An actor needs 64 MiB.",
    told: "of memory",
    // What Bun needs beside what it starts with; a program, to start at all.
    least: { actor: 64 * MIB, program: 4 * MIB },
    usual: 512 * MIB,
  },
  memoryWarning: {
    of: SIZE,
    means: "From when on the host is warned; less than memory.",
    told: "of memory before a warning",
    // Without a warning, the end is the first word.
    unsaid: ({ memory }) => memory,
  },
  swap: {
    of: SIZE,
    means: "What may be swapped out; where nothing is said nothing, if a control group can keep it so.",
    told: "of swap",
    least: 0,
    // More than what demands that there be none, less than any amount that is granted.
    unsaid: () => 0.5,
  },
  cpu: {
    of: PROCESSORS,
    means: "Processors that it may keep busy, or a part of one.",
    told: "at a time",
    least: 0.01,
    most: 1024,
  },
  cpuTime: {
    of: SECONDS,
    means: "Processor time of all its threads.",
    told: "of processor time",
    least: 0.001,
    most: 2 ** 31,
  },
  wallTime: {
    of: MILLISECONDS,
    means: "Time from start to end, up to 24 days.",
    told: "from start to end",
    // A timer takes no more.
    most: 2 ** 31 - 1,
  },
  processes: {
    of: COUNT,
    means: "Processes and threads of a program; 64 where nothing is said.",
    told: "processes and threads",
    most: 4_194_304,
    usual: { actor: 1, program: 64 },
  },
  files: {
    of: COUNT,
    means: "Open descriptors; 256 where nothing is said.",
    told: "open files",
    least: 32,
    most: 65_536,
    usual: 256,
  },
  fileSize: {
    of: SIZE,
    means: "How large it can make one file; 64 MiB where nothing is said.",
    told: "in one file",
    usual: 64 * MIB,
  },
  tmpfs: {
    of: SIZE,
    means: "The size of each file system in memory that does not say its own; 64 MiB where nothing is said.",
    told: "in each tmpfs that says no size",
    usual: 64 * MIB,
  },
  disk: { of: SIZE, means: "What it may write to disk in all.", told: "written to disk" },
  diskRead: { of: RATE, means: "How fast it may read from a disk.", told: "read from each disk" },
  diskWrite: { of: RATE, means: "How fast it may write to a disk.", told: "written to each disk" },
  output: { of: SIZE, means: "What it may print, both streams together.", told: "printed" },
  messages: {
    of: COUNT,
    means: "Messages of an actor that were sent and that the host has not read yet.",
    told: "messages not yet read",
    most: 2 ** 31,
    // The channel's own window.
    unsaid: () => 1024,
  },
  inFlight: {
    of: SIZE,
    means: "The size of an actor's messages that were sent and that the host has not read yet.",
    told: "of messages not yet read",
    unsaid: () => 4 * MIB,
  },
} as const satisfies Readonly<Record<keyof Limits, Limit>>;

export type LimitKey = keyof typeof LIMITS;
export const LIMIT_KEYS = Object.keys(LIMITS) as LimitKey[];

/** The same limits as plain numbers, under keys that name the unit: `memoryBytes`, `cpuTimeSeconds`, `wallTimeMs`, `diskReadBytesPerSecond`. */
type Plain = {
  readonly [Key in LimitKey as (typeof LIMITS)[Key]["of"] extends { readonly suffix: infer Suffix extends string }
    ? `${Key}${Suffix}`
    : never]?: number;
};

/** How much, and how long. Each limit is said once: in words with a unit, or as a number under the key that names it. */
export interface SandboxLimits extends Plain {
  /** What it may allocate; for an actor beyond an idle Bun, and 64 MiB at least: `"256 MiB"`. 512 MiB where nothing is said. */
  readonly memory?: string;
  /** From when on the host is warned: less than `memory`. */
  readonly memoryWarning?: string;
  /** What may be swapped out: `"0 B"` demands that nothing is. Where nothing is said nothing, if a control group can keep it so. */
  readonly swap?: string;
  /** Processors that it may keep busy, or a part of one: `"0.5 cpu"` or `0.5`. */
  readonly cpu?: string | number;
  /** Processor time of all its threads: `"5 s"`. */
  readonly cpuTime?: string;
  /** Time from start to end: `"30 s"`, `"500 ms"`; up to 24 days. */
  readonly wallTime?: string;
  /** Processes and threads of a program and all that it starts; 64 where nothing is said. An actor is one. */
  readonly processes?: number;
  /** Open descriptors; 256 where nothing is said. */
  readonly files?: number;
  /** How large it can make one file: `"1 MiB"`. 64 MiB where nothing is said. */
  readonly fileSize?: string;
  /** The size of each file system in memory that does not say its own; 64 MiB where nothing is said. */
  readonly tmpfs?: string;
  /** What it may write to disk in all. */
  readonly disk?: string;
  /** How fast it may read from a disk, and write to it: `"10 MiB/s"`. */
  readonly diskRead?: string;
  readonly diskWrite?: string;
  /** What it may print, both streams together. */
  readonly output?: string;
  /** Messages of an actor that were sent and that the host has not read yet. */
  readonly messages?: number;
  /** The size of those. */
  readonly inFlight?: string;
}

/** One number for each limit. Throws TypeError and RangeError with the place for what is nonsense, or said twice. @param limits plain data */
export function amountsOf(limits: SandboxLimits, of: Kind): Limits {
  const amounts = LIMIT_KEYS.map((key) => [key, amountOf(limits, key, of) ?? forKind(limit(key).usual, of)] as const);
  const complete = Object.fromEntries(amounts.filter(([, amount]) => amount !== undefined)) as unknown as Limits;
  const { memory, memoryWarning } = complete;
  if (memoryWarning !== undefined && memoryWarning >= memory)
    throw new RangeError(
      `Cannot warn at ${SIZE.print(memoryWarning)}: less than limits.memory is expected, which is ${SIZE.print(memory)}`,
    );
  return complete;
}

/** What a limit counts for where it is compared with another one. */
export function weightOf(limits: Limits, key: LimitKey): number {
  return limits[key] ?? limit(key).unsaid?.(limits) ?? Number.POSITIVE_INFINITY;
}

/** A limit as it was written, under the key that was used. */
export function writtenOf(limits: SandboxLimits | undefined, key: LimitKey): SandboxLimits {
  return Object.fromEntries(entriesOf(limits ?? {}, key));
}

/** The same where it is to stand beside what is another's: a warning of which nothing was said is one at the own memory, as when compared. */
export function heldOf(limits: SandboxLimits | undefined, amounts: Limits, key: LimitKey): SandboxLimits {
  const unsaid = key === "memoryWarning" && amounts.memoryWarning === undefined;
  return unsaid ? { memoryWarningBytes: weightOf(amounts, key) } : writtenOf(limits, key);
}

/** Limits of several parts, no two of the same, as one. A warning that would come no sooner than the end says nothing, and is left out. */
export function joined(parts: readonly SandboxLimits[]): SandboxLimits {
  const limits: SandboxLimits = Object.assign({}, ...parts);
  const [memory, warning] = (["memory", "memoryWarning"] as const).map((key) => amountOf(limits, key, "program"));
  if (warning === undefined || warning < (memory ?? LIMITS.memory.usual)) return limits;
  const { memoryWarning: _words, memoryWarningBytes: _number, ...rest } = limits;
  return rest;
}

/** What a policy has for a limit, for people. */
export function printLimit(key: LimitKey, amount: number | undefined): string {
  const { of, unsaid } = limit(key);
  if (amount === undefined) return unsaid === undefined ? "no limit" : "nothing said of it";
  return of.print(amount);
}

/** What is said of limits in the schema of sandboxes. */
export const LIMITS_SCHEMA = {
  type: "object",
  properties: Object.fromEntries(LIMIT_KEYS.flatMap(partsOf)) as Readonly<Record<string, object>>,
  additionalProperties: false,
  title: "limits by their names",
} as const;

/** Of one limit, key by key. */
function partsOf(key: LimitKey): [string, object][] {
  const { of, means, least, most } = limit(key);
  const lowest = forKind(least, "program");
  const range = {
    ...(lowest !== undefined || of === COUNT ? { minimum: lowest ?? 1 } : { exclusiveMinimum: 0 }),
    ...(most === undefined ? {} : { maximum: most }),
  };
  const title = of.expected.replace(" is expected", "");
  // Nothing is an amount only where it may be.
  const words = { type: "string", pattern: `^${lowest === 0 ? "" : "(?=.*[1-9])"}${patternOf(of)}$` };
  if (of === COUNT) {
    const whole = `${title} from ${lowest ?? 1} to ${most}`;
    return [[key, { type: "integer", ...range, title: whole, description: means }]];
  }
  if (of.suffix === undefined)
    return [[key, { anyOf: [{ type: "number", ...range }, words], title, description: means }]];
  const number = { title: `a number of ${of.counts}`, description: `The same as ${key}, in ${of.counts}.` };
  return [
    [key, { ...words, title, description: means }],
    [`${key}${of.suffix}`, { type: "number", ...range, ...number }],
  ];
}

function limit(key: LimitKey): Limit {
  return LIMITS[key];
}

function forKind(amount: PerKind | undefined, of: Kind): number | undefined {
  return typeof amount === "object" ? amount[of] : amount;
}

/** What is written of a limit, under whichever of its keys. */
function entriesOf(limits: SandboxLimits, key: LimitKey): [string, unknown][] {
  const { suffix } = limit(key).of;
  const keys = suffix === undefined ? [key] : [key, `${key}${suffix}`];
  return keys.flatMap((each) => (Object.hasOwn(limits, each) ? [[each, limits[each as LimitKey]]] : []));
}

function amountOf(limits: SandboxLimits, key: LimitKey, kind: Kind): number | undefined {
  const [written, again] = entriesOf(limits, key);
  if (written === undefined) return undefined;
  if (again !== undefined)
    throw new TypeError(`Cannot use limits.${key} and limits.${again[0]} at once: each limit is said once`);
  const [name, value] = written;
  const { of, least: lowest, most = Number.MAX_SAFE_INTEGER } = limit(key);
  const least = forKind(lowest, kind) ?? 1;
  const what = `limits.${name}`;
  const otherwise = typeof value === "number" && of.suffix !== undefined ? `; or say ${what}${of.suffix}` : "";
  const expected = of === COUNT ? `a whole number from ${least} to ${most} is expected` : `${of.expected}${otherwise}`;
  const amount =
    name === key
      ? quantityOf(value, { ...of, expected }, what)
      : plainOf(value, `a number of ${of.counts} is expected`, what);
  const exact = of.whole && of !== COUNT ? Math.floor(amount) : amount;
  if (exact >= least && exact <= most && (of !== COUNT || Number.isInteger(exact))) return exact;
  const bound = exact < least ? `${of.print(least)} at least` : `${of.print(most)} at most`;
  const range = of === COUNT ? expected : `${bound} is expected`;
  throw new RangeError(`Cannot use ${shown(value)} as ${what}: ${range}`);
}
