/** Processes kept ready: each within its walls, warm, and without code, until somebody takes it. */
import type { Static, TSchema } from "typebox";
import { type Policy, platform } from "../platform/index.ts";
import { type Actor, bring, type Code, codeOf, deliver, SPAWNING, type SpawnOptions } from "./actor.ts";
import { Backoff } from "./backoff.ts";
import { bundle, bundled, modulePath } from "./bundle.ts";
import { checkTimeout } from "./calls.ts";
import type { Channel } from "./channel.ts";
import { exercise } from "./exercise.ts";
import { type Exit, exitBy } from "./exit.ts";
import { grantsOf, hereOrRoot, startFrom } from "./grant.ts";
import type { Inspection } from "./inspection.ts";
import { type Cell, type Launch, launch } from "./launch.ts";
import { ANY, checkOptions, type Kinds } from "./option.ts";
import { enter, type Member, withdraw } from "./roster.ts";
import { policyOf } from "./sandbox.ts";
import { defaultScheduler, type Place, type Scheduler } from "./scheduler.ts";
import { usageOf } from "./usage.ts";
import { policyWithin } from "./within.ts";

/** What a process is made with, or its code read by: who takes one can choose nothing of it any more. */
const SHARED = ["sandbox", "within", "stdout", "stderr", "sources", "scheduler", "observe"] as const;
type Shared = (typeof SHARED)[number];

/** What holds for all that a reserve starts. */
export interface ReserveOptions extends Pick<SpawnOptions, Shared> {
  /** How many are kept ready. */
  readonly size: number;
  /** What those that wait are called where they are seen; `"reserve"` where nothing is said. */
  readonly name?: string;
}

const { sandbox, within, stdout, stderr, sources, scheduler: of, observe, name } = SPAWNING;
const KINDS: Kinds<Required<ReserveOptions>> = {
  sandbox,
  within,
  stdout,
  stderr,
  sources,
  scheduler: of,
  observe,
  name,
  size: ANY,
};

/** What is said of each actor. */
export type ReserveSpawnOptions<Message extends TSchema = TSchema> = Omit<SpawnOptions<Message>, Shared>;

/**
 * Keeps processes ready for one sandbox, so that a spawn costs what it takes to load code. Resolves when all are ready; rejects as `spawn` does.
 * Relative paths are those of the working directory now.
 *
 * @example await using ready = await reserve({ size: 4 }); const parser = await ready.spawn<typeof import("./parse.ts")>("./parse.ts");
 */
export async function reserve(options: ReserveOptions): Promise<Reserve> {
  checkOptions(options, KINDS);
  const { size, scheduler = defaultScheduler } = options;
  if (!Number.isInteger(size) || size < 1)
    throw new RangeError(`Cannot keep ${size} actors ready: a whole number from 1 is expected`);
  const policy = policyWithin(policyOf(options.sandbox), options.within);
  platform.enforcement(policy); // throws before anything is done
  scheduler.mustHold(size, { name: `${size} actors of a reserve`, limits: policy.limits });
  const kept = new Reserve(policy, options);
  try {
    await kept.fill();
  } catch (error) {
    await kept[Symbol.asyncDispose]();
    throw error;
  }
  return kept;
}

/** Throws a TypeError for what is said of an actor and holds for all of its reserve, or is no option. */
export function checkOwn(options: ReserveSpawnOptions): void {
  checkOptions<SpawnOptions>(options, SPAWNING);
  const said: SpawnOptions = options; // by a program without types, say
  const shared = SHARED.filter((key) => said[key] !== undefined);
  if (shared.length > 0)
    throw new TypeError(`Cannot use ${shared.join(", ")} with a reserve: that is said to reserve(), once for all`);
}

/** One that waits for code: a place of the scheduler, with a process in it. */
class Parked implements Member, Place {
  readonly cell: Cell;
  readonly channel: Channel;
  /** Why it was ended, where the host did that. */
  cause: Exit | undefined;
  readonly #startedAt: number;

  constructor(cell: Cell, channel: Channel, startedAt: number) {
    this.cell = cell;
    this.channel = channel;
    this.#startedAt = startedAt;
    const leave = enter(this);
    void cell.confined.ended.then((ended) => leave(exitBy([this.cause], ended)));
  }

  settled(): void {} // it has started

  leave(): void {
    this.cell.confined.kill(); // with its end the scheduler has the place back
  }

  inspect(): Inspection {
    const { confined, name } = this.cell;
    return {
      kind: "actor",
      name,
      pid: confined.pid,
      state: "parked",
      startedAt: this.#startedAt,
      usage: usageOf(confined.usage()),
      callsPending: 0,
      denials: 0,
    };
  }
}

/** To start a process takes the host some milliseconds. Whoever took one goes first: he waits for an answer. */
const PAUSE_MS = 20;
const MOST_CODES = 1024;
const BACKOFF = { firstMs: 100, mostMs: 30_000 };

/** Processes of one sandbox that wait for code. Each is started anew, taken once, and never comes back. */
export class Reserve implements AsyncDisposable {
  readonly #policy: Policy;
  readonly #options: ReserveOptions;
  readonly #scheduler: Scheduler;
  /** The last one to come was used last: its memory is the warmest, so it goes first. */
  readonly #parked: Parked[] = [];
  /** Those that were launched and not taken. */
  readonly #cells = new Set<Cell>();
  /** How each is made. */
  readonly #made: Omit<Launch, "place">;
  /** Of the modules that were spawned: to look for what belongs to a package takes longer than to load a small one. */
  readonly #codes = new Map<string, Code>();
  readonly #closing = new AbortController();
  readonly #backoff = new Backoff(BACKOFF);
  readonly #making = new Set<Promise<void>>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(policy: Policy, options: ReserveOptions) {
    this.#policy = policy;
    this.#options = options;
    const { stdout, stderr, observe = false, scheduler = defaultScheduler } = options;
    this.#scheduler = scheduler;
    const start = startFrom(hereOrRoot(), [...grantsOf(policy).keys()]);
    this.#made = { policy, stdout, stderr, observe, start };
  }

  /** How many are ready. */
  get ready(): number {
    return this.#parked.length;
  }

  /**
   * Starts a module as `spawn` does, in a process that waits already; where none does, in a new one, or in the next that is ready while the scheduler
   * lets nobody start. The limits of time count from here on, save the kernel's own count of processor time, which has what the start took: some 20 ms.
   */
  async spawn<Module, Message extends TSchema = TSchema>(
    module: string | URL,
    options: ReserveSpawnOptions<Message> = {},
  ): Promise<Actor<Module, Static<Message>>> {
    checkOwn(options);
    this.#mustServe(options);
    checkTimeout(options.loadTimeoutMs);
    const { size: _, name: __, ...shared } = this.#options;
    const all: SpawnOptions = { ...options, ...shared };
    if (this.#codes.size === MOST_CODES) this.#codes.clear();
    // A relative path means what it means by now.
    const code = this.#codes.getOrInsertComputed(modulePath(module), () => this.#codeOf(module));
    // A module that cannot be bundled takes nobody. Where it is there nothing is awaited until the code has left.
    const source = bundled(code.path, code.scope) ?? (await bundle(code.path, code.scope));
    this.#mustServe(options);
    const { boot, called } = code;
    const making = { policy: this.#policy, name: options.name ?? called, options: all };
    const place = this.#take() ?? (await this.#enter(making.name, options));
    if (place instanceof Parked)
      return deliver({ source, boot }, { ...making, cell: place.cell, channel: place.channel });
    return bring({ source, boot }, { ...making, cell: await launch(making.name, { ...this.#made, place }) });
  }

  /** Throws where nothing more starts from here, or not for this one. */
  #mustServe({ signal }: ReserveSpawnOptions): void {
    this.#closing.signal.throwIfAborted();
    signal?.throwIfAborted();
  }

  /** Waits for a place, or for one that is parked before that: the places that are lacking may be those of this reserve. */
  #enter(name: string, { priority, signal }: ReserveSpawnOptions): Promise<Place> {
    const { signal: closing } = this.#closing;
    const given = signal === undefined ? closing : AbortSignal.any([closing, signal]);
    return this.#scheduler.enter({ name, limits: this.#policy.limits, priority, signal: given, of: this });
  }

  #codeOf(module: string | URL): Code {
    const code = codeOf(module, this.#policy, this.#options);
    // Where it starts was made when it was.
    return { ...code, boot: { ...code.boot, directory: this.#made.start?.directory ?? null } };
  }

  /** Throws `SchedulerRefused` where so many of its actors could never be alive at a time. */
  mustHold(count: number, name: string): void {
    this.#scheduler.mustHold(count, { name, limits: this.#policy.limits });
  }

  /** Ends those that wait, and has spawns reject that wait. Those that were taken live on. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new Error("Cannot spawn from this reserve: it is closed"));
    clearTimeout(this.#timer);
    for (const parked of this.#parked.splice(0)) parked.cause = { reason: "killed", by: "dispose" };
    const cells = [...this.#cells];
    for (const { confined } of cells) confined.kill();
    await Promise.all(cells.map(({ confined }) => confined.ended));
    await Promise.allSettled(this.#making); // what is launched by now ends likewise
  }

  /** Makes those that are lacking. Settles with all of them; rejects where one cannot be made. */
  async fill(): Promise<void> {
    const lacking = this.#options.size - this.#parked.length - this.#making.size;
    if (this.#closing.signal.aborted || lacking <= 0) return;
    const made = Array.from({ length: lacking }, () => this.#begin());
    const failed = (await Promise.allSettled(made)).find(({ status }) => status === "rejected");
    if (failed !== undefined) throw (failed as PromiseRejectedResult).reason;
    this.#backoff.reset();
  }

  #take(): Parked | undefined {
    const index = this.#parked.findLastIndex(({ channel }) => channel.open); // one may have died just now
    const [parked] = this.#parked.splice(index, index < 0 ? 0 : 1);
    if (parked !== undefined) this.#give(parked);
    return parked;
  }

  /** It is somebody's from here on. */
  #give(parked: Parked): void {
    this.#cells.delete(parked.cell);
    withdraw(parked);
    this.#refill(PAUSE_MS);
  }

  /** Makes those that are lacking, in the background, after a while; and again where that fails. */
  #refill(delayMs: number): void {
    if (this.#timer !== undefined || this.#closing.signal.aborted) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.fill().catch(() => this.#refill(Math.max(PAUSE_MS, this.#backoff.next())));
    }, delayMs);
    this.#timer.unref();
  }

  #begin(): Promise<void> {
    const making = this.#make();
    this.#making.add(making);
    const drop = () => void this.#making.delete(making);
    making.then(drop, drop);
    return making;
  }

  async #make(): Promise<void> {
    const { signal } = this.#closing;
    const { limits } = this.#policy;
    const place = await this.#scheduler.enter({ name: "an actor of a reserve", limits, priority: "low", signal });
    const startedAt = Date.now();
    const { name = "reserve" } = this.#options;
    await this.#park(await launch(name, { ...this.#made, place }), startedAt);
  }

  async #park(cell: Cell, startedAt: number): Promise<void> {
    this.#cells.add(cell);
    if (this.#closing.signal.aborted) cell.confined.kill();
    try {
      const parked = new Parked(cell, await exercise(cell), startedAt);
      if (this.#scheduler.pass(parked, this)) return this.#give(parked);
      this.#parked.push(parked);
      void cell.confined.ended.then(() => {
        this.#cells.delete(cell);
        const index = this.#parked.indexOf(parked);
        if (index < 0) return;
        this.#parked.splice(index, 1);
        this.#refill(PAUSE_MS);
      });
    } catch (error) {
      cell.confined.kill();
      await cell.confined.ended;
      this.#cells.delete(cell);
      throw error;
    }
  }
}
