/** What is written behind `caisson run` and `caisson exec`, as a sandbox and what runs in it. */
import { parseArgs } from "node:util";
import { LIMITS, type LimitKey } from "./limits.ts";
import type { Sandbox } from "./sandbox.ts";
import { suggestion } from "./suggestion.ts";

/** The caller wrote what cannot be understood, or asked for what there is not. Nothing has happened. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** `caisson run`. */
export interface Command {
  readonly script: string;
  /** What the script finds in `process.argv` behind its own name. */
  readonly args: readonly string[];
  readonly sandbox: Sandbox;
  /** The file of a policy, to which the sandbox is added. */
  readonly policy?: string;
  /** Nothing is refused, and what would be is told. */
  readonly audit?: true;
  /** What its walls refuse is told as it happens. */
  readonly observe?: boolean;
}

/** `caisson exec`. */
export interface ProgramCommand {
  /** The program, and its arguments. */
  readonly argv: readonly string[];
  readonly sandbox: Sandbox;
  /** The file of a policy, to which the sandbox is added. */
  readonly policy?: string;
  /** Nothing is refused, and what would be is told. */
  readonly audit?: true;
  /** The size of a file system in memory on `/tmp`. */
  readonly tmp?: string;
  readonly cwd?: string;
  /** What its walls refuse is told as it happens. */
  readonly observe?: boolean;
  /** No terminal of its own: what it prints comes as lines. */
  readonly plain: boolean;
}

interface Flag {
  /** What its value is, for people. Without one, it takes none. */
  readonly value?: string;
  /** What it means without a value, where it may go without. */
  readonly otherwise?: string;
  readonly help: string;
  /** Refused whatever it is given. */
  readonly refused?: true;
  /** What it adds; called once for each time it is written. */
  take(draft: Draft, value: string, env: Environment): void;
}

type Flags = Readonly<Record<string, Flag>>;
type Environment = Readonly<Record<string, string | undefined>>;

/** A sandbox that is being written, and what goes with it. */
interface Draft {
  readonly read: string[];
  readonly write: string[];
  readonly run: string[];
  readonly net: string[];
  readonly env: Record<string, string>;
  readonly limits: Partial<Record<LimitKey, string | number>>;
  unveil?: Record<string, string>;
  promises?: string;
  onBreak?: NonNullable<Sandbox["onBreak"]>;
  policy?: string;
  observe?: boolean;
  audit?: true;
  tmp?: string;
  cwd?: string;
  plain?: boolean;
}

/** What the flag of a limit is called. */
const flagOf = (key: string) => key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

// Bare digits are for what needs no unit.
const amount = (name: LimitKey, value: string) =>
  !("suffix" in LIMITS[name].of) && /^\d+(?:\.\d+)?$/.test(value) ? Number(value) : value;

const limit =
  (name: LimitKey): Flag["take"] =>
  ({ limits }, value) => {
    if (limits[name] !== undefined) throw new UsageError(`Cannot use --${flagOf(name)} twice: once is expected`);
    limits[name] = amount(name, value);
  };

const once =
  (name: "tmp" | "cwd" | "policy" | "promises"): Flag["take"] =>
  (draft, value) => {
    if (draft[name] !== undefined) throw new UsageError(`Cannot use --${name} twice: once is expected`);
    draft[name] = value;
  };

const refused = (flag: string, value: string, instead: string): Flag => ({
  value,
  help: `not in this version: ${instead.split(":")[0]}`,
  refused: true,
  take() {
    throw new UsageError(`Cannot grant --${flag}: this version of caisson does not support it; ${instead}`);
  },
});

const NO_RUN = "a script starts no programs";
const NO_NET = "a script has no network: fetch outside, and hand in what came by --read or standard input";

/** Everything that may be granted to a script and to a program. A new grant is one entry here. */
const BOTH = {
  policy: {
    value: "file",
    help: "a sandbox as JSON, to which flags add; its relative paths\nbegin where it is",
    take: once("policy"),
  },
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
    take: limit("memory"),
  },
  swap: {
    value: "size",
    help: "what may be swapped out beside that; 0B demands that\nnothing is",
    take: limit("swap"),
  },
  cpu: {
    value: "number",
    help: "processors that it may keep busy, such as 0.5 or 2",
    take: limit("cpu"),
  },
  "cpu-time": {
    value: "time",
    help: "processor time of all its threads, such as 5s",
    take: limit("cpuTime"),
  },
  "wall-time": {
    value: "time",
    help: "time from its start to its end, such as 30s or 500ms",
    take: limit("wallTime"),
  },
  files: {
    value: "number",
    help: "open files; or else 256",
    take: limit("files"),
  },
  "file-size": {
    value: "size",
    help: "how large it can make one file; or else 64MiB",
    take: limit("fileSize"),
  },
  disk: {
    value: "size",
    help: "what it may write to disk in all",
    take: limit("disk"),
  },
  "disk-read": {
    value: "rate",
    help: "how fast it may read from a disk, such as 10MiB/s",
    take: limit("diskRead"),
  },
  "disk-write": {
    value: "rate",
    help: "how fast it may write to a disk",
    take: limit("diskWrite"),
  },
  output: {
    value: "size",
    help: "what it may print, both streams together",
    take: limit("output"),
  },
  unveil: {
    value: "path:rwxc",
    help: "a path, and what may be done there: r reads, w writes to\nwhat is there, x executes, c creates and removes",
    take(draft, value) {
      const [, path, letters] = /^(.+):([rwxc]+)$/s.exec(value) ?? [];
      if (path === undefined)
        throw new UsageError(`Cannot use --unveil=${value}: a path and letters of rwxc are expected, as in /srv:rw`);
      draft.unveil ??= Object.create(null) as Record<string, string>;
      if (path in draft.unveil) throw new UsageError(`Cannot use --unveil=${path} twice: each path is expected once`);
      draft.unveil[path] = letters!;
    },
  },
  promises: {
    value: "words",
    help: 'keeps it to these, out of all that is granted, as in\n--promises="stdio rpath"',
    take: once("promises"),
  },
  "on-break": {
    value: "end",
    help: "what happens where it breaks one: kill, or errno, as\nwhere nothing is said",
    take(draft, value) {
      if (value !== "kill" && value !== "errno")
        throw new UsageError(`Cannot use --on-break=${value}: kill or errno is expected`);
      if (draft.onBreak !== undefined) throw new UsageError("Cannot use --on-break twice: once is expected");
      draft.onBreak = value;
    },
  },
  observe: {
    help: "tells of what is refused, as it happens; what it is not\nshown is none of that, it is not there",
    take(draft) {
      draft.observe = true;
    },
  },
  audit: {
    help: "runs it WITHOUT a sandbox, and tells what one with these\ngrants would have refused: not for what you do not trust",
    take: (draft) => {
      draft.audit = true;
    },
  },
} satisfies Flags;

/** What may be granted to a script. */
export const FLAGS: Flags = {
  ...BOTH,
  messages: {
    value: "number",
    help: "messages that it may have sent and nobody has read",
    take: limit("messages"),
  },
  "in-flight": {
    value: "size",
    help: "how much these may be together",
    take: limit("inFlight"),
  },
  net: refused("net", "host,...", NO_NET),
  run: refused("run", "program,...", NO_RUN),
};

/** What may be granted to a program, and how it is shown. */
export const PROGRAM_FLAGS: Flags = {
  policy: BOTH.policy,
  read: BOTH.read,
  write: BOTH.write,
  run: {
    value: "program,...",
    help: "more programs, with what each needs in order to start",
    take: ({ run }, value) => void run.push(...listOf("run", value)),
  },
  net: {
    value: "host:port,...",
    help: "hosts it may connect to through the proxy that its\nenvironment names, such as example.com:443",
    take: ({ net }, value) => void net.push(...listOf("net", value)),
  },
  env: BOTH.env,
  tmp: {
    value: "size",
    otherwise: "64MiB",
    help: "an empty /tmp in memory, of 64MiB where nothing is said",
    take: once("tmp"),
  },
  cwd: {
    value: "path",
    help: "where it starts; or else here, if a grant shows that,\nand in / if none does",
    take: once("cwd"),
  },
  memory: BOTH.memory,
  swap: BOTH.swap,
  cpu: BOTH.cpu,
  "cpu-time": BOTH["cpu-time"],
  "wall-time": BOTH["wall-time"],
  processes: {
    value: "number",
    help: "processes and threads, of all that it starts; or else 64",
    take: limit("processes"),
  },
  files: { ...BOTH.files, help: "open files of each process; or else 256" },
  "file-size": BOTH["file-size"],
  disk: BOTH.disk,
  "disk-read": BOTH["disk-read"],
  "disk-write": BOTH["disk-write"],
  output: BOTH.output,
  unveil: BOTH.unveil,
  promises: BOTH.promises,
  "on-break": BOTH["on-break"],
  observe: BOTH.observe,
  audit: BOTH.audit,
  plain: {
    help: "no terminal of its own: what it prints comes line by\nline, and does nothing to yours but colour it",
    take: (draft) => {
      draft.plain = true;
    },
  },
};

/** A flag with its value, as it is to be typed. */
export function spelling(name: string, { value, otherwise }: Flag): string {
  if (value === undefined) return `--${name}`;
  return otherwise === undefined ? `--${name}=${value}` : `--${name}[=${value}]`;
}

/** `caisson run`'s arguments. Returns undefined where help is asked for; throws UsageError. */
export function commandOf(args: readonly string[], env: Environment): Command | undefined {
  const parsed = parse(args, env, FLAGS);
  if (parsed === undefined) return undefined;
  const [script, ...rest] = parsed.rest;
  if (script === undefined)
    throw new UsageError("Cannot run nothing: the path of a script is expected, as in caisson run script.ts");
  const { policy, observe, audit, run: _run, net: _net, ...sandbox } = parsed.draft;
  return {
    script,
    args: rest,
    sandbox: sandboxOf(sandbox),
    ...(observe === undefined ? {} : { observe }),
    ...(policy === undefined ? {} : { policy }),
    ...(audit === undefined ? {} : { audit }),
  };
}

/** `caisson exec`'s arguments. Returns undefined where help is asked for; throws UsageError. */
export function programCommandOf(args: readonly string[], env: Environment): ProgramCommand | undefined {
  const parsed = parse(args, env, PROGRAM_FLAGS);
  if (parsed === undefined) return undefined;
  if (parsed.rest.length === 0)
    throw new UsageError("Cannot run nothing: a program is expected, as in caisson exec -- ls -l");
  const { tmp, cwd, policy, observe, audit, plain = false, ...sandbox } = parsed.draft;
  return {
    argv: parsed.rest,
    sandbox: sandboxOf(sandbox),
    plain,
    ...(observe === undefined ? {} : { observe }),
    ...(policy === undefined ? {} : { policy }),
    ...(audit === undefined ? {} : { audit }),
    ...(tmp === undefined ? {} : { tmp }),
    ...(cwd === undefined ? {} : { cwd }),
  };
}

/** What is wrong with a sandbox, in the words of the flags. */
export function inFlags(error: unknown): UsageError {
  const { code, path, message } = error as NodeJS.ErrnoException;
  const told = message.replaceAll(/\blimits\.(\w+)/g, (place, name) =>
    Object.hasOwn(LIMITS, name) ? `--${flagOf(name)}` : place,
  );
  return new UsageError(code === "ENOENT" ? `Cannot grant ${path}: there is no such file or directory` : told, {
    cause: error,
  });
}

// The limits are checked with the sandbox: text that is no number is not one there either.
const sandboxOf = (draft: Omit<Sandbox, "limits"> & Pick<Draft, "limits">): Sandbox => draft as Sandbox;

/** Takes the flags, up to what is not one; undefined where one of them asks for help. */
function parse(
  args: readonly string[],
  env: Environment,
  flags: Flags,
): { readonly draft: Draft; readonly rest: readonly string[] } | undefined {
  const options = {
    help: { type: "boolean", short: "h" },
    ...Object.fromEntries(Object.keys(flags).map((name) => [name, { type: "string" }] as const)),
  } as const;
  // Each argument by itself: a value stands behind `=`, so that no flag ever takes what is to run for its value, and what follows that is its own.
  let at = 0;
  const draft: Draft = { read: [], write: [], run: [], net: [], env: {}, limits: {} };
  for (; at < args.length && args[at] !== "-" && args[at]!.startsWith("-"); at++) {
    if (args[at] === "--") {
      at++;
      break;
    }
    const { tokens } = parseArgs({ args: [args[at]!], options, strict: false, tokens: true });
    for (const token of tokens) {
      if (token.kind !== "option") continue;
      if (token.name === "help") return undefined;
      const flag = Object.hasOwn(flags, token.name) ? flags[token.name] : undefined;
      if (flag === undefined) throw unknown(token, flags);
      take(flag, token, draft, env);
    }
  }
  return { draft, rest: args.slice(at) };
}

/** The error of a flag that is none of these. */
function unknown({ name, rawName }: { readonly name: string; readonly rawName: string }, flags: Flags): UsageError {
  const [others, command] = flags === FLAGS ? [PROGRAM_FLAGS, "exec"] : [FLAGS, "run"];
  if (Object.hasOwn(others, name))
    return new UsageError(`Cannot understand ${rawName}: it is a flag of caisson ${command} alone`);
  const known = ["help", ...Object.keys(flags)].map((each) => `--${each}`);
  return new UsageError(`Cannot understand ${rawName}: there is no such flag${suggestion(rawName, known)}`);
}

/** Has a flag take what is written behind its `=`. */
function take(
  flag: Flag,
  {
    name,
    rawName,
    value = "",
  }: { readonly name: string; readonly rawName: string; readonly value?: string | undefined },
  draft: Draft,
  env: Environment,
): void {
  if (flag.value === undefined && value !== "")
    throw new UsageError(`Cannot use --${name} with a value: it takes none`);
  const given = value === "" ? flag.otherwise : value;
  if (given === undefined && flag.value !== undefined && flag.refused !== true)
    throw new UsageError(`Cannot use ${rawName} without a value: ${spelling(name, flag)} is expected`);
  flag.take(draft, given ?? "", env);
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
