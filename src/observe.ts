/** Programs that are watched: what they name, call by call, while nothing but secrets is kept from them. */
import { existsSync, statSync } from "node:fs";
import { type ContainerPlan, type Mount, platform, SIGNATURES, type SupervisedCall } from "../platform/index.ts";
import { AT, O } from "../syscalls/linux/numbers.ts";
import { containerPlan } from "./container.ts";
import { bind, tmpfs } from "./mounts.ts";
import type { Observation } from "./need.ts";
import { checkProcess, Launch, Process, type ProcessOptions } from "./process.ts";

export interface ObserveOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Files and directories that it sees empty: a wall, not a verdict on what it asks for. */
  readonly hidden?: readonly string[];
  /** A path that is in no file system: what was seen before it is looked for does not count, and what is looked for beneath it is the name of a variable. */
  readonly marker?: string;
  readonly signal?: AbortSignal;
}

export interface Observed {
  readonly observations: AsyncIterable<Observation>;
  /** The exit code; 128 and its number after a signal. */
  readonly exited: Promise<number>;
  /** How many calls came faster than they could be taken. */
  readonly lost: number;
  kill(signal?: NodeJS.Signals): void;
}

/** Starts a program with the rights of this process, and with its streams. Rejects as `exec` does, and with NotEnforced where nothing can be hidden. */
export async function observe(argv: readonly string[], options: ObserveOptions = {}): Promise<Observed> {
  const { cwd = process.cwd(), env = {}, hidden = [], marker, signal } = options;
  const streams = { stdin: "inherit", stdout: "inherit", stderr: "inherit" } as const;
  const started: ProcessOptions = { cwd, env, ...streams, ...(signal === undefined ? {} : { signal }) };
  checkProcess(argv, started);
  const seen = new Seen(marker);
  using launch = new Launch(argv, started);
  const running = await platform.observe(planFor(hidden), launch.plan, {
    tell: (call, exists) => seen.take(call, exists),
    more: (count) => seen.lose(count),
  });
  launch.started();
  const program = new Process(running, launch, { signal });
  const exited = program.exited.then(async (code) => {
    await running.told();
    seen.end();
    return code;
  });
  return {
    observations: seen,
    exited,
    get lost() {
      return seen.lost;
    },
    kill: (name) => program.kill(name),
  };
}

/** The host's own files, as its user sees them, with some of them covered. */
function planFor(hidden: readonly string[]): ContainerPlan {
  const [user, group] = [process.getuid!(), process.getgid!()];
  const covered = hidden.filter((path) => existsSync(path)).map(cover);
  const everything = { ...bind("/", "/", { write: true, execute: true, devices: true }), idmap: undefined } as Mount;
  const files = [everything, ...covered];
  // Root needs no namespace of users, in which files of others would be nobody's.
  return containerPlan(
    user === 0 ? { namespaces: ["mount"], files } : { namespaces: ["user", "mount"], user, group, files },
  );
}

function cover(path: string): Mount {
  return statSync(path).isDirectory()
    ? tmpfs(path, { mode: 0o000 })
    : ({ ...bind("/dev/null", path, { devices: false }), idmap: undefined } as Mount);
}

/** What waits for its reader. A program can cause any number. */
const MOST_UNREAD = 65_536;

/** What was seen and not yet read. */
class Seen implements AsyncIterable<Observation> {
  readonly #marker: string | undefined;
  #begun: boolean;
  readonly #unread: Observation[] = [];
  #waiting: (() => void) | undefined;
  #ended = false;
  lost = 0;

  constructor(marker: string | undefined) {
    this.#marker = marker;
    this.#begun = marker === undefined;
  }

  take(call: SupervisedCall, exists: boolean): void {
    const [path = ""] = call.paths;
    if (this.#marker !== undefined && (path === this.#marker || path.startsWith(`${this.#marker}/`))) {
      this.#begun = true;
      const name = path.slice(this.#marker.length + 1);
      if (name !== "") this.#give({ ...about(call), access: "environment", target: name, exists: true });
    } else if (this.#begun) for (const observation of observationsOf(call, exists)) this.#give(observation);
  }

  lose(count: number): void {
    this.lost += count;
  }

  end(): void {
    this.#ended = true;
    this.#waiting?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Observation, void> {
    for (;;) {
      yield* this.#unread.splice(0);
      if (this.#unread.length > 0) continue;
      if (this.#ended) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting = resolve;
      await promise;
    }
  }

  #give(observation: Observation): void {
    if (this.#unread.length === MOST_UNREAD) {
      this.lost++;
      return;
    }
    this.#unread.push(observation);
    this.#waiting?.();
  }
}

const about = ({ call, program }: SupervisedCall) => ({ call, program });

/** What a deed is to who learns from it. */
const ACCESSES = {
  look: "look",
  read: "read",
  change: "write",
  make: "create",
  remove: "remove",
  start: "run",
  other: "other",
} as const;

/** What one call means for the files, programs and hosts that it names. */
export function observationsOf(call: SupervisedCall, exists: boolean): Observation[] {
  if (call.address !== undefined)
    return [{ ...about(call), access: call.call === "bind" ? "bind" : "connect", target: call.address, exists }];
  const { paths = [] } = SIGNATURES[call.call] ?? {};
  return call.paths.flatMap((path, index) => {
    const deed = paths[index]?.does ?? "other";
    const access = deed === "open" ? opening(call.flags ?? 0, exists) : ACCESSES[deed];
    // A descriptor by itself names nothing new.
    if (path === "" || asksDescriptor(call)) return [];
    return [{ ...about(call), access, target: path.replace(ownProc(call), "/proc/self"), exists }];
  });
}

/** Its own entries of /proc are the same ones by any number. */
const ownProc = ({ pid }: SupervisedCall) => new RegExp(`^/proc/${pid}(?=/|$)`);

/** fstat(3), as glibc makes it. */
function asksDescriptor({ call, args }: SupervisedCall): boolean {
  const flags = call === "newfstatat" ? args[3]! : call === "statx" ? args[2]! : 0n;
  return (flags & BigInt(AT.EMPTY_PATH)) !== 0n;
}

function opening(flags: number, exists: boolean): Observation["access"] {
  const { ACCMODE, CREAT, PATH, DIRECTORY, TRUNC, RDONLY } = O;
  if ((flags & PATH) !== 0) return "look";
  if ((flags & CREAT) !== 0 && !exists) return "create";
  if ((flags & ACCMODE) !== RDONLY || (flags & TRUNC) !== 0) return "write";
  return (flags & DIRECTORY) !== 0 ? "list" : "read";
}
