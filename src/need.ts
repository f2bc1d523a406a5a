/** What one thing that a program did asks for: a grant, a person's decision, or nothing. */
import { basename, dirname, resolve } from "node:path";
import { parseAddress, specialOf } from "./address.ts";
import { agentOf, collectionOf, isLibrary, isRandom, raises, secretOf, temporaryOf, trustOf } from "./caution.ts";
import type { Entry } from "./look.ts";
import { parseRule, parseTarget } from "./rule.ts";
import type { Sandbox } from "./sandbox.ts";

/** Something that a program did, or wanted to. */
export interface Observation {
  /** The system call, such as `"openat"`. */
  readonly call: string;
  readonly access:
    | "read"
    | "list"
    | "look"
    | "write"
    | "create"
    | "remove"
    | "run"
    | "connect"
    | "bind"
    | "environment"
    | "other";
  /** An absolute path as the program sees it, `203.0.113.5:443`, `unix:/run/x`, or the name of a variable. */
  readonly target: string;
  /** Whether it was there when it was asked for. */
  readonly exists: boolean;
  /** What the process calls itself. */
  readonly program: string;
}

/** For whom something is learned, and what is there once that has ended. */
export interface About {
  /** `"actor"` for a script of `caisson run`. */
  readonly kind: "actor" | "program";
  readonly home: string;
  readonly cwd: string;
  /** The program itself, by its absolute path: it is granted by being named. */
  readonly program?: string;
  /** Files that are there without a grant, such as those that come with programs, which need them in order to start. */
  readonly given?: ReadonlySet<string>;
  /** The environment that it had. */
  readonly env?: Readonly<Record<string, string>>;
  /** Names by the addresses that they led to. */
  readonly names?: ReadonlyMap<string, string>;
  look(path: string): Entry | undefined;
  /** The files beneath a directory, by their paths from there; undefined where they are too many to be looked through. */
  beneath(directory: string): readonly string[] | undefined;
}

/** What one observation asks for. */
export type Need =
  | { readonly need: "nothing" }
  | { readonly need: Wanted; readonly of: string }
  | { readonly need: "decision"; readonly why: string; readonly grant?: Sandbox };

/**
 * `seen`: a directory that has to be there; `part`: read, as a directory; `load`: a library that is no program's own; `output`: a file that was made
 * and still is there; `entries`: a directory in which names come and go.
 */
export type Wanted =
  | "read"
  | "part"
  | "list"
  | "seen"
  | "load"
  | "write"
  | "output"
  | "entries"
  | "temporary"
  | "run"
  | "net"
  | "names"
  | "env";

const NOTHING: Need = { need: "nothing" };
const want = (need: Wanted, of: string): Need => ({ need, of });
const decide = (why: string, grant?: Sandbox): Need => ({
  need: "decision",
  why,
  ...(grant === undefined ? {} : { grant }),
});

/** The facts of one lesson. */
export interface Facts extends About {
  /** Paths that were made meanwhile. */
  readonly made: ReadonlySet<string>;
}

type Sort = (observation: Observation, facts: Facts) => Need | readonly Need[];

const KERNEL = "it belongs to the kernel, so no policy can grant it; most programs do without";
const NO_PROGRAMS = "a script starts no programs; caisson exec can grant that to a program";

/** Programs find these in every sandbox. */
const DEVICES =
  /^\/dev(?:\/(?:null|zero|full|u?random|tty|console|ptmx|pts(?:\/\d+)?|fd(?:\/.*)?|stdin|stdout|stderr))?$/;
/** What the loader is told: the libraries that it leads to are there without. */
const LOADERS = /^\/etc\/ld\.so\.(?:cache|preload|conf)/;
const OWN_PROC = /^\/proc(?:\/(?:self|thread-self)(?:\/.*)?)?$/;
const KERNELS = /^\/(?:proc|sys|dev)(?:\/|$)/;

/** Whether a path is in every sandbox, or comes with the programs that may be run. */
export function isGiven(path: string, { kind, given, program }: About): boolean {
  if (OWN_PROC.test(path) || LOADERS.test(path) || given?.has(path) === true) return true;
  return kind === "program" && (path === program || DEVICES.test(path));
}

/** What is decided by the path alone, whatever is done there. */
function ofPlace(path: string, facts: Facts): Need | undefined {
  if (!KERNELS.test(path)) return undefined;
  if (isGiven(path, facts)) return NOTHING;
  return decide(/^\/proc\/\d/.test(path) ? "it is of another process, and inside there is none" : KERNEL);
}

/** Whether a path was made by the program, or lies in what it made. */
function isMade(path: string, made: ReadonlySet<string>): boolean {
  for (let at = path; at !== "/"; at = dirname(at)) if (made.has(at)) return true;
  return false;
}

/** A name that leads elsewhere is of no use without that, nor the other way around. */
const read: Sort = (observation, facts) => {
  const path = resolve("/", observation.target);
  const real = facts.look(path)?.path ?? path;
  const needs = [...new Set([path, real])].flatMap((each) => readAt(each, observation, facts));
  return needs.find(({ need }) => need === "decision") ?? needs;
};

function readAt(path: string, { exists, access }: Observation, facts: Facts): Need {
  const place = exists ? ofPlace(path, facts) : undefined;
  if (place !== undefined) return place;
  // It may be hidden, so that it was not there for the program alone.
  const secret = secretOf(path);
  if (secret !== undefined && facts.look(path) !== undefined) return decide(secret, { read: [path] });
  if (secret !== undefined && secretOf(dirname(path)) !== undefined && facts.look(dirname(path)) !== undefined)
    return decide(secret);
  if (!exists) return NOTHING;
  if (isGiven(path, facts) || isMade(path, facts.made)) return NOTHING;
  const entry = facts.look(path);
  if (entry === undefined && access === "look") return NOTHING; // nor could it see more than that
  if (entry === undefined) return decide("it is gone, or its name cannot be written");
  const collection = collectionOf(path);
  if (isLibrary(path) && access === "read")
    return facts.kind === "program" ? want("load", path) : decide("a script loads no libraries of the host");
  if (collection !== undefined && facts.look(collection)?.directory === true) return want("part", collection);
  if (access === "look" && entry.directory) return want("seen", path);
  return want(entry.directory ? "list" : "read", path);
}

const entries: Sort = ({ target, exists, access }, facts) => {
  const path = resolve("/", target);
  if (!exists && access === "remove") return NOTHING;
  return ofChange(path, facts) ?? want("entries", dirname(path));
};

const write: Sort = (observation, facts) => {
  const path = resolve("/", observation.target);
  if (!observation.exists) return create(observation, facts);
  const change = ofChange(path, facts);
  if (change !== undefined) return change;
  return isMade(path, facts.made) || facts.look(path) === undefined ? NOTHING : want("write", path);
};

/** Whether a call gives a name to what is there already, whatever had it before. */
export function renames(call: string): boolean {
  return /^rename|link|^mknod/.test(call);
}

const create: Sort = (observation, facts) => {
  const path = resolve("/", observation.target);
  // What takes the place of a file takes its name, which a grant of the file would hold fast.
  if (renames(observation.call)) return entries(observation, facts);
  if (observation.exists) return write(observation, facts);
  return ofChange(path, facts) ?? want(facts.look(path) === undefined ? "entries" : "output", path);
};

/** What is decided about a change by its place. */
function ofChange(path: string, facts: Facts): Need | undefined {
  const place = ofPlace(path, facts);
  if (place !== undefined) return place;
  const why = secretOf(path) ?? trustOf(path) ?? (path === facts.program ? "it is the program itself" : undefined);
  if (why !== undefined) return decide(why, { write: [facts.look(path) === undefined ? dirname(path) : path] });
  const temporary = temporaryOf(path);
  if (temporary === undefined || !facts.made.has(temporary)) return undefined;
  if (!isRandom(basename(temporary)) && facts.look(temporary) !== undefined) return undefined;
  return facts.kind === "program"
    ? want("temporary", path)
    : decide("a script has no directory for temporary files: make one, and grant it for writing");
}

const run: Sort = ({ target, exists }, { kind, program }) => {
  if (!exists || target === program) return NOTHING;
  if (kind === "actor") return decide(NO_PROGRAMS);
  const why = raises(target) ? "it would act as somebody else, which nothing can in a sandbox" : secretOf(target);
  return why === undefined ? want("run", target) : decide(why, { run: [target] });
};

const connect: Sort = ({ target }, facts) => {
  if (target.startsWith("unix:")) {
    const why =
      agentOf(target.replace(/^unix:@?/, "/")) ?? "a program of the host behind a socket, which no policy grants";
    return decide(`${why}; hand in a connection instead`);
  }
  let host: string;
  let port: number;
  try {
    ({ host, port } = parseTarget(target));
  } catch {
    return decide("it is no host and port, and a sandbox reaches nothing else");
  }
  if (facts.kind === "actor")
    return decide(`a script has no network: fetch outside, or hand an actor network([${JSON.stringify(target)}])`);
  if (port === 53) return want("names", target);
  const address = parseAddress(host.replace(/^\[|\]$/g, ""));
  const special = address === undefined ? undefined : specialOf(address)?.what;
  if (special === "metadata" || special === "link-local")
    return decide(`${special} addresses tell a machine in a cloud its keys`, { net: [target] });
  if (port === 2375 || port === 2376) return decide("a container engine: who commands it commands the machine");
  const name = address === undefined ? undefined : facts.names?.get(address.text);
  const rule = name === undefined ? target : `${name}:${port}`;
  try {
    return want("net", parseRule(rule).text);
  } catch (error) {
    return decide((error as Error).message);
  }
};

const bind: Sort = ({ target }) =>
  decide(
    target.startsWith("unix:")
      ? "a socket by name: listen outside, and hand in the listener"
      : "a sandbox listens nowhere: listen outside, and hand in the listener",
  );

/** Variables whose values are no secrets, and tell no program anything that it could not find out. */
const PLAIN_VARIABLES =
  /^(?:LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|COLORTERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CI|HOME|USER|LOGNAME|SHELL|PATH|NODE_ENV)$/;

/** Whether a variable is passed on without being asked for. */
export function isPlainVariable(name: string): boolean {
  return PLAIN_VARIABLES.test(name);
}

const environment: Sort = ({ target, exists }, { env }) => {
  if (!exists) return NOTHING;
  if (isPlainVariable(target) && env?.[target] !== undefined) return want("env", target);
  return decide("its value may be a secret, so it is not in the policy");
};

/** What changes no names, but what is there. */
const CHANGES = /^(?:f?chmod|l?chown|fchown|utime|futimes|(?:set|remove)xattr|truncate|lsetxattr|lremovexattr)/;

const other: Sort = (observation, facts) => {
  if (facts.kind === "program" && observation.target.startsWith("/")) {
    if (CHANGES.test(observation.call)) return write({ ...observation, exists: true }, facts);
    if (/^(?:sym)?link|^mk(?:nod|fifo)/.test(observation.call)) return entries(observation, facts);
  }
  return decide(`no policy grants ${observation.call}`);
};

/** What an observation asks for: all of these. */
export function needsOf(observation: Observation, facts: Facts): readonly Need[] {
  return [SORTS[observation.access](observation, facts)].flat();
}

const SORTS: Readonly<Record<Observation["access"], Sort>> = {
  read,
  list: read,
  look: read,
  write,
  create,
  remove: entries,
  run,
  connect,
  bind,
  environment,
  other,
};
