/** What a caller writes to say what an actor may do, and the policy that it becomes. */
import { lstatSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { Check, Errors } from "typebox/schema";
import { GUARANTEES, type Guarantee, type Limits, type Policy, parsePromises } from "../platform/index.ts";
import { refuseTaking } from "./grant.ts";
import { plain, refusal, type Steps } from "./plain.ts";
import { secondsOf, sizeOf } from "./quantity.ts";
import { parseRule } from "./rule.ts";
import { suggestion } from "./suggestion.ts";

/** What is expected in a place is its `title`, what that means its `description`. */
interface Words {
  readonly title: string;
  readonly description?: string;
}

// Written as JSON Schema is: TypeBox's words for it would be 300 files to load, for every process that starts an actor.
const string = (pattern: string, words?: Words) => ({ type: "string", pattern, ...words }) as const;
const strings = (title: string, description: string) => ({
  ...{ type: "array", items: string("^[^\\u0000]+$", { title }) },
  ...{ title: `a list, each ${title}`, description },
});
const record = (keys: string, value: object, words: Words) => ({
  type: "object",
  patternProperties: { [keys]: value },
  additionalProperties: false,
  ...words,
});
const amount = (title: string, description: string) => ({
  anyOf: [{ type: "number", exclusiveMinimum: 0 }, { type: "string" }],
  title,
  description,
});
const size = (description: string) => amount('a size such as "256 MiB", or a number of bytes', description);
const time = (description: string) => amount('a time such as "30 s", or a number of seconds', description);
const whole = ([minimum, maximum]: readonly [number, number], description: string) => ({
  ...{ type: "integer", minimum, maximum },
  ...{ title: `a whole number from ${minimum} to ${maximum}`, description },
});
const oneOf = (words: readonly string[], description?: string) => ({
  anyOf: words.map((word) => ({ type: "string", const: word })),
  title: `one of ${words.join(", ")}`,
  ...(description === undefined ? {} : { description }),
});

/** What a sandbox is, for the check here and for editors: schemas/sandbox.json. */
export const SCHEMA = {
  type: "object",
  properties: {
    $schema: {
      type: "string",
      title: "a path or an address",
      description: "Where this schema is. Means nothing.",
    },
    read: strings(
      "a path",
      "Files and directories it may read, and no more where they are within one that it may write.",
    ),
    write: strings("a path", "Files and directories it may read and write."),
    run: strings("a program's name or path", "Programs it may execute, each with what that needs in order to start."),
    net: strings("host:port", "Hosts it may connect to, such as example.com:443, *.example.com:443, 10.0.0.0/8:5432."),
    env: record("^[^=\\u0000]+$", string("^[^\\u0000]*$", { title: "text" }), {
      title: "variables, each a name without = and a text",
      description: "Its environment, whole.",
    }),
    limits: {
      type: "object",
      properties: {
        memory: size("What it may allocate; 512 MiB where nothing is said, 64 MiB at least."),
        cpu: { type: "number", exclusiveMinimum: 0, title: "a number", description: "Not supported yet." },
        cpuTime: time("Processor time of all its threads. Counted in whole seconds."),
        wallTime: time("Time from start to end."),
        processes: whole([1, 4_194_304], "Processes and threads of a program; 64 where nothing is said."),
        files: whole([32, 65_536], "Open descriptors; 256 where nothing is said."),
        fileSize: size("How large it can make one file; 64 MiB where nothing is said."),
      },
      additionalProperties: false,
      title: "limits by their names",
    },
    allowUnenforced: {
      type: "array",
      items: oneOf(GUARANTEES),
      title: "a list of guarantees",
      description: "Guarantees without which it may start, where this machine cannot keep them.",
    },
    promises: string("^[a-z_ ]*$", {
      title: "words of pledge(2) with spaces between",
      description: "What it keeps to of all that is granted, such as stdio rpath. Without it, nothing is taken.",
    }),
    unveil: record(
      "^[^\\u0000]+$",
      string("^(?!.*(.).*\\1)[rwxc]+$", { title: "some of the letters rwxc, once each" }),
      {
        title: "paths, each with letters of rwxc",
        description: "What it may do beneath more paths: read, write, execute, create and remove.",
      },
    ),
    onBreak: oneOf(["kill", "errno"], "What becomes of it when it breaks a promise; errno where nothing is said."),
  },
  additionalProperties: false,
  title: "a sandbox",
  description: "What an actor or a program may do beyond nothing.",
} as const;

/** What an actor may do beyond nothing. Plain data, which JSON can hold. */
export interface Sandbox {
  /** Files and directories it may read, seen inside at the same path; within one that it may write, they stay as they are. */
  readonly read?: readonly string[];
  /** Files and directories it may read and write. */
  readonly write?: readonly string[];
  /** Programs it may execute, each with what that needs in order to start. For `run` and `exec`; an actor starts no programs. */
  readonly run?: readonly string[];
  /**
   * Hosts it may connect to, with their ports: `"example.com:443"`, `"*.example.com:443"`, `"10.0.0.0/8:5432"`. For `run` and `exec`, whose
   * programs find a proxy in their environment; an actor is handed `network([...])` in a message.
   */
  readonly net?: readonly string[];
  /** Its environment, whole. */
  readonly env?: Readonly<Record<string, string>>;
  readonly limits?: {
    /** What it may allocate beyond an idle Bun: `"256 MiB"`, or bytes. 512 MiB where nothing is said, 64 MiB at least. */
    readonly memory?: string | number;
    /** Share of a processor. Not supported yet: throws. */
    readonly cpu?: number;
    /** Processor time of all its threads: `"5 s"`, or seconds. Counted in whole seconds. */
    readonly cpuTime?: string | number;
    /** Time from start to end: `"30 s"`, `"500 ms"`, or seconds. */
    readonly wallTime?: string | number;
    /** Processes and threads of a program and all that it starts; 64 where nothing is said. An actor is one. */
    readonly processes?: number;
    /** Open descriptors; 256 where nothing is said. */
    readonly files?: number;
    /** How large it can make one file: `"1 MiB"`, or bytes. 64 MiB where nothing is said. */
    readonly fileSize?: string | number;
  };
  /** Guarantees without which it may start, where this machine cannot keep them. */
  readonly allowUnenforced?: readonly Guarantee[];
  /**
   * What it keeps to of all that is granted, in the words of `pledge(2)`: `"stdio rpath"`. Nothing is taken where this is left out, nearly
   * everything where it is empty.
   */
  readonly promises?: string;
  /**
   * More paths, each with what may be done there and beneath: `r`ead, `w`rite, e`x`ecute, `c`reate, rename and remove. What `read` grants is
   * `"r"`, and `write` `"rwc"`. Less than what is granted above throws: `read` can take there, this cannot.
   */
  readonly unveil?: Readonly<Record<string, string>>;
  /** What becomes of it when it breaks a promise. `"errno"` where nothing is said: the call fails with EPERM. */
  readonly onBreak?: "kill" | "errno";
}

/** For whom a policy is made. */
export type Kind = "actor" | "program";

const MIB = 2 ** 20;
const LEAST_MEMORY = 64 * MIB;

/**
 * A copy of a sandbox of which every word is checked, though no path is looked up. Throws TypeError or RangeError with the place of what is
 * wrong: keys that there are not, null and undefined, and what is not plain data, for that could be one thing when it is checked and another
 * one when it is used.
 */
export function checked(value: unknown): Sandbox {
  const copy = plain(value);
  if (!Check(SCHEMA, copy)) {
    const [, [first]] = Errors(SCHEMA, copy);
    throw wrong(stepsOf(first?.instancePath ?? ""), copy);
  }
  const sandbox = copy as Sandbox & { $schema?: string };
  delete sandbox.$schema;
  for (const rule of sandbox.net ?? []) parseRule(rule);
  if (sandbox.promises !== undefined) parsePromises(sandbox.promises);
  limitsOf(sandbox.limits, "program");
  return sandbox;
}

/** A part of the schema, as far as it is walked. */
interface Part {
  readonly title?: string;
  readonly properties?: Readonly<Record<string, Part>>;
  readonly patternProperties?: Readonly<Record<string, Part>>;
  readonly items?: Part;
}

/** What is wrong in a place, in the words of the schema for it. */
function wrong(at: Steps, sandbox: unknown): TypeError {
  let value = sandbox;
  let schema = SCHEMA as Part;
  for (const [depth, step] of at.entries()) {
    const { properties, patternProperties, items } = schema;
    const next =
      properties?.[step] ?? Object.entries(patternProperties ?? {}).find(([key]) => RegExp(key).test(step))?.[1];
    if (next === undefined && items === undefined) {
      const known = Object.keys(properties ?? {});
      const why = known.length > 0 ? `there is no such key${suggestion(step, known)}` : `expected ${schema.title}`;
      return refusal(at.slice(0, depth), `has ${JSON.stringify(step)}: ${why}`);
    }
    schema = next ?? items!;
    value = (value as Record<string, unknown>)[step];
  }
  // What is in a variable may be a secret.
  const shown = at[0] === "env" ? `a ${typeof value}` : shorten(Bun.inspect(value, { compact: true }));
  return refusal(at, `is ${shown}: expected ${schema.title}`);
}

const shorten = (text: string) => (text.length > 60 ? `${text.slice(0, 60)}...` : text);

/** The keys of a JSON Pointer. */
function stepsOf(pointer: string): string[] {
  const steps = pointer.split("/").slice(1);
  return steps.map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** The policy of a sandbox: checked, complete, its paths real. Throws TypeError, RangeError or the SystemError of a path. */
export function policyOf(sandbox: Sandbox = {}, of: Kind = "actor"): Policy {
  const given = checked(sandbox);
  if (of === "actor") refuseOfActors(given);
  return completed(given, of, grantable);
}

/** A policy of what has been checked. @param real gives the path without symbolic links, or throws */
export function completed(sandbox: Sandbox, of: Kind, real: (path: string) => string): Policy {
  const asked = [...(sandbox.read ?? []), ...(sandbox.write ?? []), ...Object.keys(sandbox.unveil ?? {})];
  const policy: Policy = {
    read: (sandbox.read ?? []).map(real),
    write: (sandbox.write ?? []).map(real),
    run: [...(sandbox.run ?? [])],
    net: [...(sandbox.net ?? [])],
    env: { ...sandbox.env },
    limits: limitsOf(sandbox.limits, of),
    allowUnenforced: [...(sandbox.allowUnenforced ?? [])],
    promises: sandbox.promises === undefined ? undefined : parsePromises(sandbox.promises),
    unveil: Object.entries(sandbox.unveil ?? {}).map(([path, permissions]) => ({ path: real(path), permissions })),
    onBreak: sandbox.onBreak ?? "errno",
    names: asked.flatMap((path) => (resolve(path) === real(path) ? [] : [{ path: resolve(path), real: real(path) }])),
  };
  refuseTaking(policy);
  return policy;
}

function limitsOf(limits: NonNullable<Sandbox["limits"]> = Object.create(null), of: Kind): Limits {
  if (limits.cpu !== undefined)
    throw new TypeError(
      "Cannot use limits.cpu: this version of caisson does not support it; limits.cpuTime bounds processor time",
    );
  const memory = limits.memory === undefined ? 512 * MIB : sizeOf(limits.memory, "limits.memory");
  if (memory < LEAST_MEMORY)
    throw new RangeError(`Cannot limit memory to ${limits.memory}: Bun needs 64 MiB beside what it starts with`);
  const cpuTime = limits.cpuTime === undefined ? undefined : secondsOf(limits.cpuTime, "limits.cpuTime");
  const wallTime = limits.wallTime === undefined ? undefined : secondsOf(limits.wallTime, "limits.wallTime");
  return {
    memory,
    ...(cpuTime === undefined ? {} : { cpuTime }),
    ...(wallTime === undefined ? {} : { wallTime: wallTime * 1000 }),
    processes: limits.processes ?? (of === "actor" ? 1 : 64),
    files: limits.files ?? 256,
    fileSize: limits.fileSize === undefined ? 64 * MIB : sizeOf(limits.fileSize, "limits.fileSize"),
  };
}

/** What makes no sense of an actor is refused: never ignored. */
function refuseOfActors({ run, net, limits }: Sandbox): void {
  const not = (what: string, instead: string) => new TypeError(`Cannot use ${what} for an actor: ${instead}`);
  if (run !== undefined && run.length > 0) throw not("run", "an actor starts no programs");
  if (net !== undefined && net.length > 0)
    throw not("net", "an actor has no network of its own; hand it network([...]) in a message");
  if (limits?.processes !== undefined && limits.processes !== 1)
    throw not("limits.processes", "an actor is one process");
}

/** The absolute path without symbolic links. Those of the kernel's own file systems are no files to grant. */
function grantable(path: string): string {
  const real = realpathSync(resolve(path));
  for (const own of ["/proc", "/sys", "/dev"]) {
    if (real === own || real.startsWith(`${own}/`))
      throw new TypeError(`Cannot grant ${path}: ${own} belongs to the kernel`);
  }
  // Bun looks for its settings in the directory that it starts in, and would run what they say before any door is closed.
  if ([real, resolve(path)].some((each) => dirname(each) === "/") && !statSync(real).isDirectory())
    throw new TypeError(`Cannot grant ${path}: a file of / itself could configure Bun`);
  if (real === "/") throw new TypeError("Cannot grant /: name the directories that are meant");
  return real;
}

/** The absolute path without symbolic links, of what is there and of what is not there yet. */
export function located(path: string): string {
  const absolute = resolve(path);
  try {
    return realpathSync(absolute);
  } catch (error) {
    // A link to nothing leads to wherever its target will be.
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || isLink(absolute)) throw error;
    return join(located(dirname(absolute)), basename(absolute));
  }
}

const isLink = (path: string) => lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true;
