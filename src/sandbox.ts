/** What a caller writes to say what an actor may do, and the policy that it becomes. */
import { lstatSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { Check, Errors } from "typebox/schema";
import { GUARANTEES, type Guarantee, type Limits, type Policy, parsePromises } from "../platform/index.ts";
import { refuseTaking } from "./grant.ts";
import { amountsOf, LIMITS_SCHEMA, type SandboxLimits } from "./limits.ts";
import { plain, refusal, type Steps } from "./plain.ts";
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
    limits: LIMITS_SCHEMA,
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
  /** How much of the machine it may have, and for how long. */
  readonly limits?: SandboxLimits;
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

/** What nothing is inherited from. */
const NONE: SandboxLimits = Object.create(null);

/** For whom a policy is made. */
export type Kind = "actor" | "program";

/**
 * A copy of a sandbox of which every word is checked, though no path is looked up. Throws TypeError or RangeError with the place of what is
 * wrong: keys that there are not, null and undefined, and what is not plain data, for that could be one thing when it is checked and another
 * one when it is used.
 */
export function checked(value: unknown, of: Kind = "program"): Sandbox {
  const copy = plain(value);
  if (!Check(SCHEMA, copy)) {
    const [, [first]] = Errors(SCHEMA, copy);
    const at = stepsOf(first?.instancePath ?? "");
    // Of an amount more can be said than that a pattern does not match.
    if (at[0] === "limits" && at.length === 2) amountsOf((copy as Sandbox).limits!, of);
    throw wrong(at, copy);
  }
  const sandbox = copy as Sandbox & { $schema?: string };
  delete sandbox.$schema;
  for (const rule of sandbox.net ?? []) parseRule(rule);
  if (sandbox.promises !== undefined) parsePromises(sandbox.promises);
  amountsOf(sandbox.limits ?? NONE, of);
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
      const why =
        known.length > 0 ? `there is no such key${suggestion(step, akin(step, known))}` : `expected ${schema.title}`;
      return refusal(at.slice(0, depth), `has ${JSON.stringify(step)}: ${why}`);
    }
    schema = next ?? items!;
    value = (value as Record<string, unknown>)[step];
  }
  // What is in a variable may be a secret.
  const shown = at[0] === "env" ? `a ${typeof value}` : shorten(Bun.inspect(value, { compact: true }));
  return refusal(at, `is ${shown}: expected ${schema.title}`);
}

/** A word that begins as known ones do means one of these: `memoryMb` is no other limit. */
function akin(word: string, known: readonly string[]): readonly string[] {
  const stem = known.filter((each) => word.startsWith(each)).toSorted((a, b) => b.length - a.length)[0];
  return stem === undefined ? known : known.filter((each) => each.startsWith(stem));
}

const shorten = (text: string) => (text.length > 60 ? `${text.slice(0, 60)}...` : text);

/** The keys of a JSON Pointer. */
function stepsOf(pointer: string): string[] {
  const steps = pointer.split("/").slice(1);
  return steps.map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** The policy of a sandbox: checked, complete, its paths real. Throws TypeError, RangeError or the SystemError of a path. */
export function policyOf(sandbox: Sandbox = {}, of: Kind = "actor"): Policy {
  const given = checked(sandbox, of);
  if (of === "actor") refuseOfActors(given);
  else refuseOfPrograms(given.limits);
  return completed(given, of, grantable);
}

/**
 * The limits of a program or a container, or of an actor: one number each, and what is left out is what such a one has. Throws TypeError and
 * RangeError with the place.
 */
export function limitsOf(limits: Sandbox["limits"], of: Kind = "program"): Limits {
  return policyOf(limits === undefined ? {} : { limits }, of).limits;
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
    limits: amountsOf(sandbox.limits ?? NONE, of),
    allowUnenforced: [...(sandbox.allowUnenforced ?? [])],
    promises: sandbox.promises === undefined ? undefined : parsePromises(sandbox.promises),
    unveil: Object.entries(sandbox.unveil ?? {}).map(([path, permissions]) => ({ path: real(path), permissions })),
    onBreak: sandbox.onBreak ?? "errno",
    names: asked.flatMap((path) => (resolve(path) === real(path) ? [] : [{ path: resolve(path), real: real(path) }])),
  };
  refuseTaking(policy);
  return policy;
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

function refuseOfPrograms(limits: Sandbox["limits"]): void {
  const key = (["messages", "inFlight", "inFlightBytes"] as const).find((key) => limits?.[key] !== undefined);
  if (key !== undefined) throw new TypeError(`Cannot use limits.${key} for a program: it sends no messages`);
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
