/** What is written behind `caisson run`, as a sandbox and a script. */
import { parseArgs } from "node:util";
import type { Sandbox } from "./sandbox.ts";

/** The caller wrote what cannot be understood, or asked for what there is not. Nothing has happened. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

export interface Command {
  readonly script: string;
  /** What the script finds in `process.argv` behind its own name. */
  readonly args: readonly string[];
  readonly sandbox: Sandbox;
}

interface Flag {
  /** What its value is, for people. */
  readonly value: string;
  readonly help: string;
  /** What it adds to the sandbox; called once for each time it is written. */
  take(sandbox: Draft, value: string, env: Environment): void;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** A sandbox that is being written. */
interface Draft {
  readonly read: string[];
  readonly write: string[];
  readonly env: Record<string, string>;
  readonly limits: { memory?: string | number; cpuTime?: string | number; wallTime?: string | number };
}

const limit =
  (name: keyof Draft["limits"], flag: string): Flag["take"] =>
  ({ limits }, value) => {
    if (limits[name] !== undefined) throw new UsageError(`Cannot use --${flag} twice`);
    // Bare digits are the unit of the interface: bytes and seconds.
    limits[name] = /^\d+(?:\.\d+)?$/.test(value) ? Number(value) : value;
  };

const refused =
  (flag: string, instead: string): Flag["take"] =>
  () => {
    throw new UsageError(`Cannot grant --${flag}: this version of caisson does not support it; ${instead}`);
  };

const NO_RUN = "a script starts no programs";
const NO_NET = "a script has no network: fetch outside, and hand in what came by --read or standard input";

/** Everything that may be granted. A new grant is one entry here. */
export const FLAGS: Readonly<Record<string, Flag>> = {
  read: {
    value: "path,...",
    help: "files and directories it may read, at the same path",
    take: ({ read }, value) => void read.push(...listOf("read", value)),
  },
  write: {
    value: "path,...",
    help: "files and directories it may read and write",
    take: ({ write }, value) => void write.push(...listOf("write", value)),
  },
  env: {
    value: "NAME[=value]",
    help: "a variable of its environment, which has no others;\nwithout a value, yours is passed on",
    take: ({ env }, value, own) => {
      const end = value.indexOf("=");
      const name = end < 0 ? value : value.slice(0, end);
      const given = end < 0 ? own[name] : value.slice(end + 1);
      if (name === "")
        throw new UsageError(`Cannot use --env=${value}: a name is expected, as in --env=LANG or --env=LANG=C.UTF-8`);
      if (given === undefined)
        throw new UsageError(`Cannot pass on ${name}: it is not set here; --env=${name}=value would set it`);
      env[name] = given;
    },
  },
  memory: {
    value: "size",
    help: "what it may allocate, such as 256MiB; or else 512MiB",
    take: limit("memory", "memory"),
  },
  "cpu-time": {
    value: "time",
    help: "processor time of all its threads, in whole seconds",
    take: limit("cpuTime", "cpu-time"),
  },
  "wall-time": {
    value: "time",
    help: "time from its start to its end, such as 30s or 500ms",
    take: limit("wallTime", "wall-time"),
  },
  net: { value: "host,...", help: "not in this version: a script has no network", take: refused("net", NO_NET) },
  run: { value: "program,...", help: "not in this version: a script starts no programs", take: refused("run", NO_RUN) },
};

/** `caisson run`'s arguments. Returns undefined where help is asked for; throws UsageError. */
export function commandOf(args: readonly string[], env: Environment): Command | undefined {
  const options = {
    help: { type: "boolean", short: "h" },
    ...Object.fromEntries(Object.keys(FLAGS).map((name) => [name, { type: "string" }] as const)),
  } as const;
  // Each argument by itself: a value stands behind `=`, so that no flag ever takes the script for its value, and what follows the script is the script's.
  let at = 0;
  const sandbox: Draft = { read: [], write: [], env: {}, limits: {} };
  for (; at < args.length && args[at] !== "-" && args[at]!.startsWith("-"); at++) {
    if (args[at] === "--") {
      at++;
      break;
    }
    const { tokens } = parseArgs({ args: [args[at]!], options, strict: false, tokens: true });
    for (const token of tokens) {
      if (token.kind !== "option") continue;
      if (token.name === "help") return undefined;
      const flag = Object.hasOwn(FLAGS, token.name) ? FLAGS[token.name] : undefined;
      if (flag === undefined)
        throw new UsageError(
          `Cannot understand ${token.rawName}: there is no such flag${suggestion(
            token.rawName,
            Object.keys(options).map((name) => `--${name}`),
          )}`,
        );
      // Refused whatever they are given.
      if (token.name === "net" || token.name === "run") flag.take(sandbox, "", env);
      if (token.value === undefined || token.value === "") {
        throw new UsageError(`Cannot use ${token.rawName} without a value: --${token.name}=${flag.value} is expected`);
      }
      flag.take(sandbox, token.value, env);
    }
  }
  const script = args[at];
  if (script === undefined)
    throw new UsageError("Cannot run nothing: the path of a script is expected, as in caisson run script.ts");
  return { script, args: args.slice(at + 1), sandbox };
}

/** Paths parted by commas; two commas are one that belongs to a path. */
function listOf(flag: string, value: string): string[] {
  const paths = value
    .replaceAll(",,", "\0")
    .split(",")
    .map((path) => path.replaceAll("\0", ","));
  if (paths.includes("")) throw new UsageError(`Cannot use --${flag}=${value}: one of its paths is empty`);
  return paths;
}

/** `; did you mean --read?`, where one of `known` is near. */
export function suggestion(word: string, known: readonly string[]): string {
  const bare = word.replace("--allow-", "--"); // as Deno has them
  const [nearest] = known.map((each) => ({ each, far: distance(bare, each) })).toSorted((a, b) => a.far - b.far);
  return nearest !== undefined && nearest.far <= Math.max(2, bare.length / 3) ? `; did you mean ${nearest.each}?` : "";
}

/** How many letters must be put in, left out or replaced to make one word of the other. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (const [j, other] of [...b].entries())
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (letter === other ? 0 : 1)));
    row = next;
  }
  return row.at(-1)!;
}
