/** From what was seen of a program to the least that it has to be granted, with the evidence, and what is left for a person to decide. */
import { dirname, join, resolve } from "node:path";
import { breadthOf, secretOf, trustOf } from "./caution.ts";
import { cover, outermost } from "./cover.ts";
import { covers } from "./grant.ts";
import { type About, type Facts, type Need, needsOf, type Observation, renames, type Wanted } from "./need.ts";
import type { Sandbox } from "./sandbox.ts";

/** Why something is granted. */
export interface Evidence {
  /** Such as `read /usr/share/zoneinfo`. */
  readonly grant: string;
  readonly because: readonly Observation[];
  /** How many more such observations there were. */
  readonly more: number;
}

/** What is not granted: a person may do so, or do without. */
export interface Undecided {
  /** Such as `read /home/me/.ssh/config`. */
  readonly what: string;
  readonly why: string;
  readonly evidence: readonly Observation[];
  readonly more: number;
  /** What would allow it, where anything would. */
  readonly grant?: Sandbox;
}

export interface Learned {
  readonly sandbox: Sandbox;
  /** Whether it needs a directory for temporary files of its own: `--tmp`, which no sandbox has. */
  readonly tmp: boolean;
  readonly evidence: readonly Evidence[];
  readonly undecided: readonly Undecided[];
}

/** So many observations are kept as the evidence for one thing. */
const MOST_EVIDENCE = 5;
/** So many names are told in one line. */
const MOST_TOLD = 4;

/** Learns from a whole run. Pure, but for what `about` looks up. */
export function learned(observations: Iterable<Observation>, about: About): Learned {
  const all = [...observations];
  const facts: Facts = { ...about, made: madeIn(all) };
  const lesson = new Lesson(facts);
  for (const observation of all) {
    for (const need of needsOf(observation, facts)) lesson.take(observation, need);
  }
  return lesson.end();
}

/** The paths that were not there, or were another file, and then were what the program made. */
export function madeIn(observations: readonly Observation[]): ReadonlySet<string> {
  const made = observations.filter(
    ({ call, access, exists }) =>
      (!exists && (access === "create" || access === "write")) || (access === "create" && renames(call)),
  );
  return new Set(made.map(({ target }) => resolve("/", target)));
}

type Touch = "read" | "write";

/** What all that was wanted comes to. */
class Lesson {
  readonly #facts: Facts;
  readonly #wanted = new Map<Wanted, Reasons>();
  readonly #decisions = new Map<string, Decision>();
  readonly #closed = new Map<string, string | undefined>();

  constructor(facts: Facts) {
    this.#facts = facts;
  }

  take(observation: Observation, need: Need): void {
    if (need.need === "nothing") return;
    if (need.need === "decision") this.#decide(observation, need.why, need.grant);
    else this.#reasons(need.need).add(need.of, observation);
  }

  end(): Learned {
    const write = this.#writes();
    const read = outermost(this.#reads(), write);
    const load = this.#loads();
    this.#seen([...read, ...write, ...load]);
    const run = this.#reasons("run").keys().toSorted();
    const net = this.#reasons("net").keys().toSorted();
    const names = this.#reasons("names");
    if (net.length === 0)
      for (const key of names.keys())
        this.#decideAll(names, key, "a sandbox asks no name servers: the proxy looks names up");
    const env = this.#reasons("env").keys().toSorted();
    const values = this.#facts.env ?? {};
    return {
      sandbox: {
        ...some("read", read),
        ...some("write", write),
        ...some("run", run),
        ...some("net", net),
        ...(env.length === 0 ? {} : { env: Object.fromEntries(env.map((name) => [name, values[name]!])) }),
        ...(load.length === 0
          ? {}
          : {
              unveil: Object.fromEntries(
                load.map((path) => [path, write.some((each) => covers(each, path)) ? "rwxc" : "rx"]),
              ),
            }),
      },
      tmp: this.#reasons("temporary").keys().length > 0,
      evidence: [
        ...read.map((path) => this.#evidence("read", path, ["read", "part", "list"])),
        ...write.map((path) => this.#evidence("write", path, ["write", "output", "entries"])),
        ...load.map((path) => this.#evidence("load", path, ["load"])),
        ...run.map((path) => this.#evidence("run", path, ["run"])),
        ...net.map((rule) => this.#evidence("net", rule, ["net"])),
        ...env.map((name) => this.#evidence("env", name, ["env"])),
      ],
      undecided: [...this.#decisions.values()].map(told),
    };
  }

  #reasons(wanted: Wanted): Reasons {
    const reasons = this.#wanted.get(wanted) ?? new Reasons();
    this.#wanted.set(wanted, reasons);
    return reasons;
  }

  #evidence(grant: string, of: string, wanted: readonly Wanted[]): Evidence {
    const lists = wanted.map((each) => this.#reasons(each).of((key) => covers(of, key)));
    const because = lists.flatMap((list) => list.because).slice(0, MOST_EVIDENCE);
    const count = lists.reduce((sum, list) => sum + list.count, 0);
    return { grant: `${grant} ${of}`, because, more: count - because.length };
  }

  /** Files that are written by themselves, directories where names come and go, and those that hold mostly what was made here. */
  #writes(): string[] {
    const directories = new Set<string>();
    const { made, look } = this.#facts;
    const entries = this.#reasons("entries");
    for (const key of entries.keys()) {
      let there = key;
      while (there !== "/" && look(there) === undefined) there = dirname(there);
      const why = made.has(there) ? undefined : this.#closedFor("write", there);
      if (why === undefined) directories.add(there);
      else this.#decideAll(entries, key, why, there === "/" ? undefined : { write: [there] });
    }
    const outputs = this.#reasons("output").keys();
    const files: string[] = [];
    for (const path of outputs) {
      if (look(path)?.directory === true) directories.add(path);
      else files.push(path);
    }
    const used = [...files, ...this.#reasons("write").keys()];
    const ground = this.#ground("write");
    for (const directory of new Set(files.map((path) => dirname(path)))) {
      const inside = used.filter((path) => covers(directory, path)).length;
      if (ground.may(directory) && inside >= ground.count(directory)) directories.add(directory);
    }
    const rest = used.filter((path) => ![...directories].some((directory) => covers(directory, path)));
    return outermost([...directories, ...cover(rest, ground).keys()]);
  }

  #reads(): string[] {
    const lists = this.#reasons("list");
    const listed: string[] = [];
    for (const directory of lists.keys()) {
      const why = this.#closedFor("read", directory);
      if (why === undefined) listed.push(directory);
      else {
        const broad = breadthOf(directory, this.#facts) !== undefined;
        this.#decideAll(lists, directory, why, broad ? undefined : { read: [directory] });
      }
    }
    const whole = [...listed, ...this.#reasons("part").keys()];
    const files = this.#reasons("read")
      .keys()
      .filter((path) => !whole.some((directory) => covers(directory, path)));
    return [...whole, ...cover(files, this.#ground("read")).keys()];
  }

  #loads(): string[] {
    return outermost(cover(this.#reasons("load").keys(), this.#ground("read")).keys());
  }

  /** What is above a grant is there inside, if empty. Of other directories a grant would open more than a look. */
  #seen(granted: readonly string[]): void {
    const seen = this.#reasons("seen");
    for (const directory of seen.keys()) {
      if (directory === "/" || granted.some((path) => covers(directory, path) || covers(path, directory))) continue;
      const broad = breadthOf(directory, this.#facts) !== undefined;
      const why = "it was only looked at, and a grant would open all that is in it";
      this.#decideAll(seen, directory, why, broad ? undefined : { read: [directory] });
    }
  }

  #ground(touch: Touch) {
    return {
      may: (directory: string) => this.#closedFor(touch, directory) === undefined,
      count: (directory: string) => this.#facts.beneath(directory)?.length ?? Number.POSITIVE_INFINITY,
    };
  }

  /** Why a directory as a whole is not granted by itself. */
  #closedFor(touch: Touch, directory: string): string | undefined {
    const key = `${touch} ${directory}`;
    if (!this.#closed.has(key)) this.#closed.set(key, closedFor(touch, directory, this.#facts));
    return this.#closed.get(key);
  }

  #decideAll(reasons: Reasons, key: string, why: string, grant?: Sandbox): void {
    const { because, count } = reasons.of((each) => each === key);
    for (const observation of because) this.#decide(observation, why, grant);
    this.#decisions.get(keyOf(because[0]!, why))!.count += count - because.length;
  }

  #decide(observation: Observation, why: string, grant?: Sandbox): void {
    const { access, call, target } = observation;
    const key = keyOf(observation, why);
    const decision = this.#decisions.get(key) ?? {
      acts: new Set(),
      why,
      targets: new Set(),
      evidence: [],
      count: 0,
      grants: [],
    };
    this.#decisions.set(key, decision);
    decision.acts.add(access === "other" ? call : ACTS[access].verb);
    decision.targets.add(target.startsWith("/") ? resolve(target) : target);
    decision.count++;
    if (decision.evidence.length < MOST_EVIDENCE) decision.evidence.push(observation);
    if (grant !== undefined) decision.grants.push(grant);
  }
}

function closedFor(touch: Touch, directory: string, facts: Facts): string | undefined {
  const trust = touch === "write" ? trustOf : () => undefined;
  const why = breadthOf(directory, facts) ?? secretOf(directory) ?? trust(directory);
  if (why !== undefined) return why;
  const inside = facts.beneath(directory);
  if (inside === undefined) return "too many files are in it to be looked through";
  for (const name of inside) {
    const path = join(directory, name);
    const reason = secretOf(path) ?? trust(path);
    if (reason !== undefined) return `${name} is in it: ${reason}`;
  }
  return undefined;
}

/** Something left to decide, as it grows. */
interface Decision {
  readonly acts: Set<string>;
  readonly why: string;
  readonly targets: Set<string>;
  readonly evidence: Observation[];
  readonly grants: Sandbox[];
  count: number;
}

/** How acts are called, and which of them are told together: by the first of their words here. */
const ACTS = {
  remove: { verb: "remove", kind: "change" },
  create: { verb: "create", kind: "change" },
  write: { verb: "write", kind: "change" },
  read: { verb: "read", kind: "see" },
  list: { verb: "list", kind: "see" },
  look: { verb: "look at", kind: "see" },
  run: { verb: "run", kind: "run" },
  connect: { verb: "connect to", kind: "connect" },
  bind: { verb: "listen on", kind: "bind" },
  environment: { verb: "pass on", kind: "environment" },
  other: { verb: "", kind: "other" },
} as const satisfies Readonly<Record<Observation["access"], { readonly verb: string; readonly kind: string }>>;

function keyOf({ access, call }: Observation, why: string): string {
  return `${access === "other" ? call : ACTS[access].kind} ${why}`;
}

function told({ acts, why, targets, evidence, grants, count }: Decision): Undecided {
  const names = [...targets];
  const act = Object.values(ACTS).find(({ verb }) => acts.has(verb))?.verb ?? [...acts][0];
  const rest = names.length > MOST_TOLD ? [`${names.length - MOST_TOLD} more`] : [];
  const all = (key: "read" | "write" | "run" | "net") =>
    some(key, outermost(grants.flatMap((grant) => grant[key] ?? [])));
  const grant: Sandbox = { ...all("read"), ...all("write"), ...all("run"), ...all("net") };
  return {
    what: `${act} ${[...names.slice(0, MOST_TOLD), ...rest].join(", ")}`,
    why,
    evidence,
    more: count - evidence.length,
    ...(grants.length === 0 ? {} : { grant }),
  };
}

function some<Key extends string>(key: Key, list: readonly string[]): { readonly [_ in Key]?: readonly string[] } {
  return list.length === 0 ? {} : ({ [key]: list } as { [_ in Key]: readonly string[] });
}

/** Observations by what they are evidence for: a few of each, and how many there were. */
class Reasons {
  readonly #kept = new Map<string, { readonly because: Observation[]; count: number }>();

  add(key: string, observation: Observation): void {
    const kept = this.#kept.get(key);
    if (kept === undefined) this.#kept.set(key, { because: [observation], count: 1 });
    else {
      kept.count++;
      if (kept.because.length < MOST_EVIDENCE) kept.because.push(observation);
    }
  }

  keys(): string[] {
    return [...this.#kept.keys()];
  }

  /** The evidence of those that fit: one of each, before a second one of any. */
  of(fits: (key: string) => boolean): { readonly because: readonly Observation[]; readonly count: number } {
    const found = [...this.#kept].filter(([key]) => fits(key)).map(([, kept]) => kept);
    const turns = Array.from({ length: MOST_EVIDENCE }, (_, turn) =>
      found.flatMap(({ because }) => because.slice(turn, turn + 1)),
    );
    return {
      because: turns.flat().slice(0, MOST_EVIDENCE),
      count: found.reduce((sum, { count }) => sum + count, 0),
    };
  }
}
