/** Calls spread over actors of one module, each of which is replaced before it wears out. */
import { type Actor, SPAWNING, type SpawnOptions, spawn } from "./actor.ts";
import { Backoff } from "./backoff.ts";
import { type Call, type CallOptions, callsOf, NO_OPTIONS } from "./call.ts";
import { checkTimeout, timeoutError } from "./calls.ts";
import { LimitExceeded } from "./error.ts";
import type { Exit } from "./exit.ts";
import { KILL, type Killer, killAs } from "./killer.ts";
import { ANY, checkOptions, instance, type Kinds } from "./option.ts";
import { plainOf, quantityOf, SIZE } from "./quantity.ts";
import { checkOwn, Reserve } from "./reserve.ts";
import { policyOf } from "./sandbox.ts";
import { defaultScheduler } from "./scheduler.ts";
import { policyWithin } from "./within.ts";

export interface PoolOptions extends Omit<SpawnOptions, "signal" | "messages" | "observe"> {
  /** How many actors there are. */
  readonly size: number;
  /** How many calls an actor has at a time; 1 where nothing is said, so that what ends one strikes no other. */
  readonly concurrency?: number;
  /** After how many calls an actor is replaced. Never, where nothing is said. */
  readonly calls?: number;
  /** By how much an actor may grow from its first answer on until it is replaced: `"64 MiB"`. Looked at after each answer. */
  readonly memoryGrowth?: string;
  readonly memoryGrowthBytes?: number;
  /** How many calls may wait; 1024 where nothing is said. More reject with `LimitExceeded`. */
  readonly queue?: number;
  /** Where its actors come from. What is said to `reserve()`, such as the sandbox, is refused here then. */
  readonly reserve?: Reserve;
}

/**
 * Starts actors of one module, to share its calls. Resolves when all are loaded; rejects as `spawn` does.
 *
 * @example await using parsers = await pool<typeof import("./parse.ts")>("./parse.ts", { size: 4, calls: 1000 });
 */
export async function pool<Module>(module: string | URL, options: PoolOptions): Promise<Pool<Module>> {
  const made = new Pool<Module>(module, options);
  try {
    await made.started;
  } catch (error) {
    made.kill();
    await made.exited;
    throw error;
  }
  return made;
}

/** Throws `SchedulerRefused` where so many could never be alive at a time. */
function mustHold({ size, reserve, sandbox, within, scheduler = defaultScheduler }: PoolOptions): void {
  const name = `${size} actors of a pool`;
  if (reserve !== undefined) reserve.mustHold(size, name);
  else scheduler.mustHold(size, { name, limits: policyWithin(policyOf(sandbox), within).limits });
}

const { signal: _signal, messages: _messages, observe: _observe, ...OF_EACH } = SPAWNING;
const KINDS: Kinds<Required<PoolOptions>> = {
  ...OF_EACH,
  size: ANY,
  concurrency: ANY,
  calls: ANY,
  memoryGrowth: ANY,
  memoryGrowthBytes: ANY,
  queue: ANY,
  reserve: instance(Reserve),
};

type AnyModule = Record<string, (...args: unknown[]) => unknown>;

interface Member {
  readonly actor: Actor<AnyModule>;
  /** Calls that it was given, and those that it has not answered. */
  given: number;
  pending: number;
  /** What it held at its first answer, in bytes. */
  grownFrom: number | undefined;
  /** It gets no more calls, and is ended when it has none. */
  retired: boolean;
  /** Another one was started in its place. */
  replaced: boolean;
}

/** A call until it is settled. */
interface Job {
  readonly name: string;
  readonly args: readonly unknown[];
  readonly options: CallOptions;
  readonly resolve: (value: unknown) => void;
  readonly reject: (reason: unknown) => void;
  /** Aborts when the caller waits no longer. */
  readonly given: AbortController | undefined;
  /** Takes back the timer and the listener. */
  disarm?: () => void;
}

const QUEUE = 1024;
const BACKOFF = { firstMs: 100, mostMs: 30_000 };

/**
 * Actors that share calls. Each call goes to the one with the fewest. An actor is replaced after so many calls, when it has grown, when somebody gave up a
 * call that it works on, and when it ended; a call whose actor ended rejects, and is never made twice.
 */
export class Pool<Module = unknown> implements AsyncDisposable {
  /** Calls a function of the module, in one of its actors. The arguments of a call that waits are read when its turn comes; `timeoutMs` counts from now. */
  readonly call: Call<Module>;
  /** Resolves when it was ended and all its actors are gone. */
  readonly exited: Promise<Exit>;
  /** Settles when the first actors are loaded. */
  readonly started: Promise<void>;
  readonly #end: (exit: Exit) => void;
  readonly #start: (signal: AbortSignal) => Promise<Actor<AnyModule>>;
  readonly #most: {
    readonly size: number;
    readonly concurrency: number;
    readonly calls: number;
    readonly queue: number;
  };
  readonly #growth: number | undefined;
  readonly #members = new Set<Member>();
  readonly #waiting = new Set<Job>();
  readonly #closing = new AbortController();
  readonly #backoff = new Backoff(BACKOFF);
  /** Those that are being started. */
  #coming = 0;
  /** Those that will be, after a while. */
  readonly #delayed = new Set<ReturnType<typeof setTimeout>>();
  /** What ends before all is over. */
  readonly #open = new Set<Promise<unknown>>();

  constructor(module: string | URL, options: PoolOptions) {
    checkOptions(options, KINDS);
    const { size, concurrency, calls, memoryGrowth, memoryGrowthBytes, queue, reserve, ...spawning } = options;
    this.#most = {
      size: countOf(size, "size"),
      concurrency: countOf(concurrency ?? 1, "concurrency"),
      calls: calls === undefined ? Number.POSITIVE_INFINITY : countOf(calls, "calls"),
      queue: countOf(queue ?? QUEUE, "queue", 0),
    };
    if (memoryGrowth !== undefined && memoryGrowthBytes !== undefined)
      throw new TypeError("Cannot use both memoryGrowth and memoryGrowthBytes of a pool: one is expected");
    if (memoryGrowth !== undefined) this.#growth = quantityOf(memoryGrowth, SIZE, "memoryGrowth of a pool");
    else if (memoryGrowthBytes !== undefined) this.#growth = countOf(memoryGrowthBytes, "memoryGrowthBytes", 0);
    checkTimeout(spawning.loadTimeoutMs);
    if (reserve !== undefined) checkOwn(spawning);
    mustHold(options);
    this.#start = (signal) =>
      reserve === undefined
        ? spawn<AnyModule>(module, { ...spawning, signal })
        : reserve.spawn<AnyModule>(module, { ...spawning, signal });
    this.call = callsOf<Module>((called, args, how) => this.#call(called, args, how));
    const { promise, resolve } = Promise.withResolvers<Exit>();
    this.exited = promise;
    this.#end = resolve;
    this.started = Promise.all(Array.from({ length: size }, () => this.#add())).then(() => {});
    this.started.catch(() => {});
  }

  /** Those that are alive. */
  get actors(): readonly Actor<Module>[] {
    return Array.from(this.#members, ({ actor }) => actor as unknown as Actor<Module>);
  }

  /** Calls that wait for an actor. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Ends all actors at once. What is pending rejects. */
  kill(): void {
    this[KILL]("kill");
  }

  /** Ends them likewise, and has their exits tell on whose behalf. */
  [KILL](by: Killer): void {
    if (this.#closing.signal.aborted) return;
    const reason = new Error("The pool is closed");
    for (const { actor } of this.#members) killAs(actor, by);
    this.#closing.abort(reason);
    for (const timer of this.#delayed) clearTimeout(timer);
    this.#refuse(reason);
    void this.#gone().then(() => this.#end({ reason: "killed", by }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this[KILL]("dispose");
    await this.exited;
  }

  // Calls.

  #call(name: string, args: readonly unknown[], options: CallOptions): Promise<unknown> {
    const { signal, timeoutMs } = options;
    if (this.#closing.signal.aborted) return Promise.reject(this.#closing.signal.reason);
    if (signal?.aborted) return Promise.reject(signal.reason);
    return new Promise((resolve, reject) => {
      checkTimeout(timeoutMs);
      const given = signal === undefined && timeoutMs === undefined ? undefined : new AbortController();
      const job: Job = { name, args, options, resolve, reject, given };
      this.#waiting.add(job);
      this.#dispatch();
      if (this.#waiting.size > this.#most.queue && this.#waiting.delete(job))
        reject(new LimitExceeded(`Cannot call ${name}: ${this.#most.queue} calls wait already`, "queue"));
      else if (given !== undefined) this.#arm(job, given);
    });
  }

  /** Has a job end when its caller gives it up. */
  #arm(job: Job, given: AbortController): void {
    const { signal, timeoutMs } = job.options;
    const giveUp = (reason: unknown) => {
      given.abort(reason);
      if (this.#waiting.delete(job)) settle(job, "reject", reason);
    };
    const abort = () => giveUp(signal?.reason);
    const timer =
      timeoutMs === undefined ? undefined : setTimeout(() => giveUp(timeoutError(job.name, timeoutMs)), timeoutMs);
    signal?.addEventListener("abort", abort, { once: true });
    job.disarm = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
  }

  /** Gives jobs to those who have room, the first job first. */
  #dispatch(): void {
    for (const job of this.#waiting) {
      const member = this.#leastBusy();
      if (member === undefined) {
        this.#relieve();
        return;
      }
      this.#waiting.delete(job);
      void this.#give(member, job);
    }
  }

  #leastBusy(): Member | undefined {
    let found: Member | undefined;
    for (const member of this.#members) {
      if (member.retired || member.pending >= this.#most.concurrency) continue;
      if (member.pending < (found?.pending ?? Number.POSITIVE_INFINITY)) found = member;
    }
    return found;
  }

  async #give(member: Member, job: Job): Promise<void> {
    const { name, args, given, options } = job;
    member.pending++;
    if (++member.given >= this.#most.calls) member.retired = true;
    const { result } = options;
    const how: CallOptions =
      given === undefined && result === undefined
        ? NO_OPTIONS
        : { ...(given && { signal: given.signal }), ...(result && { result }) };
    try {
      const { call } = member.actor;
      const value = await (how === NO_OPTIONS ? call : call(how))[name]!(...args);
      settle(job, "resolve", value);
      this.#backoff.reset();
    } catch (error) {
      settle(job, "reject", error);
    }
    member.pending--;
    // What nobody waits for any more may go on forever.
    if (given?.signal.aborted || this.#hasGrown(member)) member.retired = true;
    if (member.retired && member.pending === 0) this.#remove(member);
    else if (member.retired) this.#stepIn(member);
    this.#dispatch();
  }

  #hasGrown(member: Member): boolean {
    if (this.#growth === undefined) return false;
    const bytes = member.actor.usage().memoryBytes;
    member.grownFrom ??= bytes;
    return bytes - member.grownFrom > this.#growth;
  }

  // Actors.

  /** Ends one, and starts another in its place. */
  #remove(member: Member): void {
    if (!this.#members.delete(member)) return;
    killAs(member.actor, "pool");
    this.#replace(member);
  }

  /** Has others work for those that take no more calls, though they had room for them. */
  #relieve(): void {
    for (const member of this.#members)
      if (member.retired && member.pending < this.#most.concurrency) this.#stepIn(member);
  }

  /** Replaces one that still works: on what may never end. Those who do are as many as the others at most. */
  #stepIn(member: Member): void {
    if (this.#members.size + this.#coming + this.#delayed.size < 2 * this.#most.size) this.#replace(member);
  }

  #replace(member: Member): void {
    if (member.replaced || this.#closing.signal.aborted) return;
    member.replaced = true;
    if (member.given === 0) this.#later();
    else void this.#add().catch(() => this.#later());
  }

  /** Starts one. Rejects where that fails. */
  async #add(): Promise<void> {
    this.#coming++;
    const starting = this.#start(this.#closing.signal);
    this.#keep(starting);
    try {
      const actor = await starting;
      const member: Member = { actor, given: 0, pending: 0, grownFrom: undefined, retired: false, replaced: false };
      this.#members.add(member);
      this.#keep(actor.exited);
      void actor.exited.then(() => this.#remove(member));
    } catch (error) {
      // Nobody takes calls, nor is about to: those who wait learn why.
      if (this.#coming === 1 && this.#members.values().every(({ retired }) => retired)) this.#refuse(error);
      throw error;
    } finally {
      this.#coming--;
    }
    this.#dispatch();
  }

  /** Starts one, after a while: what failed at once would fail again. */
  #later(): void {
    if (this.#closing.signal.aborted) return;
    const timer = setTimeout(() => {
      this.#delayed.delete(timer);
      void this.#add().catch(() => this.#later());
    }, this.#backoff.next());
    this.#delayed.add(timer);
  }

  /** Resolves when nobody is left, nor one who was just starting. */
  async #gone(): Promise<void> {
    while (this.#open.size > 0) await Promise.allSettled(this.#open);
  }

  #refuse(reason: unknown): void {
    for (const job of this.#waiting) settle(job, "reject", reason);
    this.#waiting.clear();
  }

  #keep(promise: Promise<unknown>): void {
    this.#open.add(promise);
    const drop = () => void this.#open.delete(promise);
    promise.then(drop, drop);
  }
}

function settle(job: Job, how: "resolve" | "reject", value: unknown): void {
  job.disarm?.();
  job[how](value);
}

function countOf(value: unknown, what: string, least = 1): number {
  const count = plainOf(value, "a whole number is expected", `${what} of a pool`);
  if (Number.isInteger(count) && count >= least) return count;
  throw new RangeError(`Cannot use ${count} as ${what} of a pool: a whole number from ${least} is expected`);
}
