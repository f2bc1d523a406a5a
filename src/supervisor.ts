/** Supervisors: what starts children, starts those again that end, and ends all of them in order. The words and what they mean are OTP's. */
import { Backoff } from "./backoff.ts";
import { type Child, type ChildExit, isOrderly, type SupervisorExit } from "./child.ts";
import { type CheckedSpec, ChildNotStarted, type ChildSpec, checkSpec } from "./childspec.ts";
import { type Clock, realClock } from "./clock.ts";
import { Feed } from "./feed.ts";
import { Intensity } from "./intensity.ts";
import { KILL, type Killer } from "./killer.ts";
import { concerned } from "./strategy.ts";
import { checkSupervision, type Rules, type SupervisorEvent, type SupervisorOptions } from "./supervision.ts";
import { type Ending, Ward } from "./ward.ts";

/** The children that are known from the specifications, by their ids. */
export type ChildrenOf<Specs extends readonly ChildSpec[]> = {
  readonly [Spec in Specs[number] as Spec["id"]]: Exclude<Awaited<ReturnType<Spec["start"]>>, "ignore">;
};

/** A child, as `children()` tells of it. */
export interface ChildStatus {
  readonly id: string;
  readonly state: "running" | "restarting" | "stopped";
  readonly child: Child | undefined;
  readonly restart: CheckedSpec["restart"];
  readonly type: CheckedSpec["type"];
  /** How often it was started again by the supervisor. */
  readonly restarts: number;
}

/**
 * Starts children, one after the other, and starts them again when they end, as their specifications say.
 *
 * Rejects with `ChildNotStarted` when one of them does not start, and with the signal's reason when that gave it up; those that did are ended by then.
 *
 * @example
 * await using supervisor = await supervise({
 *   strategy: "rest_for_one",
 *   children: [
 *     { id: "index", start: (signal) => spawn<typeof import("./index.ts")>("./index.ts", { signal }) },
 *     { id: "search", start: (signal) => exec(["search"], { signal, stdout: "inherit" }), shutdown: "2 s" },
 *   ],
 * });
 */
export function supervise<const Specs extends readonly ChildSpec[]>(
  options: SupervisorOptions<Specs>,
): Promise<Supervisor<ChildrenOf<Specs>>> {
  return startSupervisor<ChildrenOf<Specs>>(options, realClock);
}

/** As `supervise()`, by another clock. @param random a number from 0 to 1 */
export async function startSupervisor<Children>(
  options: SupervisorOptions,
  clock: Clock,
  random: () => number = Math.random,
): Promise<Supervisor<Children>> {
  const { rules, specs } = checkSupervision(options);
  options.signal?.throwIfAborted();
  const supervisor = new Supervisor<Children>(rules, clock, random);
  const abort = () => supervisor[KILL]("signal");
  options.signal?.addEventListener("abort", abort);
  void supervisor.exited.then(() => options.signal?.removeEventListener("abort", abort));
  await supervisor.begin(specs, options.signal);
  return supervisor;
}

/** A child that lived less did not prove that it can, whatever the period is. */
const STEADY_MS = 1000;

/** Takes care of children. It is one itself: a supervisor of supervisors is a tree. */
export class Supervisor<Children = Record<string, Child>> implements Child, AsyncDisposable {
  /** Settles once, when the supervisor has ended and none of its children is left, save what its `kill()` threw for. Never rejects. */
  readonly exited: Promise<SupervisorExit>;
  readonly #rules: Rules;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #intensity: Intensity;
  readonly #feed = new Feed<SupervisorEvent>();
  /** In the order in which they are started. */
  readonly #wards = new Map<string, Ward>();
  /** Cancels what waits to be started again. */
  readonly #retries = new Map<symbol, () => void>();
  /** What is done now, and what is to be done after it. */
  #turn: Promise<unknown> = Promise.resolve();
  /** Gives up starts. */
  readonly #leaving = new AbortController();
  /** Makes ends that wait for a child kill it. */
  readonly #hurry = new AbortController();
  /** Why it ends. */
  #ending: SupervisorExit | undefined;
  readonly #settle: (exit: SupervisorExit) => void;

  constructor(rules: Rules, clock: Clock, random: () => number) {
    this.#rules = rules;
    this.#clock = clock;
    this.#random = random;
    this.#intensity = new Intensity(rules.intensity, rules.periodMs);
    const { promise, resolve } = Promise.withResolvers<SupervisorExit>();
    this.exited = promise;
    this.#settle = resolve;
  }

  /** Starts the first children: called once, by `supervise`. */
  async begin(specs: readonly CheckedSpec[], signal: AbortSignal | undefined): Promise<void> {
    try {
      await this.#inTurn(async () => {
        for (const spec of specs) this.#add(spec);
        for (const ward of this.#wards.values()) await this.#startFirst(ward);
        signal?.throwIfAborted(); // the last start may have heeded nothing
      });
    } catch (error) {
      const thrown = signal?.aborted ? signal.reason : error; // by then: a start that was given up says only that it was
      this.disconnect();
      await this.exited;
      throw thrown;
    }
  }

  /**
   * What happens from here on, for each reader; the first one gets what happened before, too. It ends with the supervisor. Of a reader who does not
   * read, 256 are kept.
   *
   * @example for await (const event of supervisor.events) if (event.kind === "ended") console.warn(event.id, event.exit);
   */
  get events(): AsyncIterable<SupervisorEvent> {
    return this.#feed;
  }

  /** All that it takes care of, in the order in which they are started. */
  children(): readonly ChildStatus[] {
    return [...this.#wards.values()].map(({ spec: { id, restart, type }, state, child, restarts }) => {
      return { id, state, child, restart, type, restarts };
    });
  }

  /** What runs now by this id. It is another one after each restart: ask anew. */
  child<Id extends keyof Children & string>(id: Id): Children[Id] | undefined;
  child(id: string): Child | undefined;
  child(id: string): unknown {
    return this.#wards.get(id)?.child;
  }

  /** Starts one more child, the last in the order. Rejects with `ChildNotStarted` where it does not start; nothing is known of it then. */
  startChild<Started extends Child>(spec: ChildSpec<Started>): Promise<Started | undefined> {
    return this.#inTurn(async () => {
      const checked = checkSpec(spec, this.#rules.autoShutdown);
      this.#live("start", checked.id);
      if (this.#wards.has(checked.id))
        throw new TypeError(`Cannot start child ${checked.id}: there is one already; delete it, or restart it`);
      return (await this.#startFirst(this.#add(checked))) as Started | undefined;
    });
  }

  /**
   * Ends a child, as its specification says, and does not start it again; what is temporary is forgotten. A restart of all starts it, too. Rejects when
   * its `kill()` threw and it lives on: then the supervisor has no part in it any more.
   */
  terminateChild(id: string): Promise<void> {
    return this.#inTurn(async () => {
      this.#live("terminate", id);
      const ending = await this.#end(this.#find("terminate", id));
      if (ending !== undefined && "refusal" in ending)
        throw new Error(`Cannot terminate child ${id}: its kill() threw, and it lives on`, { cause: ending.refusal });
    });
  }

  /** Starts a child again that was terminated, or ended and was not to be restarted. Rejects with `ChildNotStarted`; then it is as before. */
  restartChild(id: string): Promise<Child | undefined> {
    return this.#inTurn(async () => {
      this.#live("restart", id);
      return await this.#startNow(this.#findStopped("restart", id));
    });
  }

  /** Forgets a child that does not run. */
  deleteChild(id: string): Promise<void> {
    return this.#inTurn(async () => {
      this.#live("delete", id);
      this.#forget(this.#findStopped("delete", id));
    });
  }

  /** Ends all children, in the opposite order of their starts, each as its specification says, and then itself. */
  shutdown(): Promise<SupervisorExit> {
    this.disconnect();
    return this.exited;
  }

  /** Asks it to end: as `shutdown()`, and waits for nothing. */
  disconnect(): void {
    this.#stop({ reason: "shutdown", because: "asked" });
  }

  /** Ends all children at once, and then itself. */
  kill(): void {
    this[KILL]("kill");
  }

  [KILL](by: Killer): void {
    this.#ending = { reason: "killed", by };
    this.#hurry.abort();
    this.#leave();
    for (const ward of this.#wards.values()) ward.kill();
  }

  /** Shuts it down. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
  }

  /** One thing after the other, as a process of Erlang reads its mailbox. */
  #inTurn<Result>(step: () => Promise<Result>): Promise<Result> {
    const done = this.#turn.then(step);
    this.#turn = done.catch(() => {}); // who asked is told
    return done;
  }

  #add(spec: CheckedSpec): Ward {
    const ward = new Ward(spec, new Backoff(this.#rules.backoff, this.#random), this.#clock);
    this.#wards.set(spec.id, ward);
    return ward;
  }

  #forget(ward: Ward): void {
    if (this.#wards.get(ward.spec.id) === ward) this.#wards.delete(ward.spec.id);
  }

  /** Starts a child that is new: if it does not start, it never was. */
  async #startFirst(ward: Ward): Promise<Child | undefined> {
    try {
      return await this.#startNow(ward);
    } catch (error) {
      this.#forget(ward);
      throw error;
    }
  }

  async #startNow(ward: Ward): Promise<Child | undefined> {
    try {
      return await this.#start(ward);
    } catch (error) {
      throw new ChildNotStarted(ward.spec.id, error);
    }
  }

  /** Starts a child, and waits for its end. */
  async #start(ward: Ward): Promise<Child | undefined> {
    const { id } = ward.spec;
    try {
      const life = await ward.start(this.#leaving.signal);
      if (life === undefined) {
        if (ward.spec.restart === "temporary") this.#forget(ward);
        return undefined;
      }
      const { child, ended } = life;
      this.#feed.tell({ kind: "started", id, child });
      void ended.then((exit) => this.#inTurn(() => this.#lost(ward, child, exit)));
      return child;
    } catch (error) {
      this.#feed.tell({ kind: "failed", id, error });
      throw error;
    }
  }

  /** A child has ended, by itself or because somebody else ended it. */
  async #lost(ward: Ward, child: Child, exit: ChildExit): Promise<void> {
    if (ward.child !== child || this.#ending !== undefined) return; // it was ended here
    ward.lost();
    const { id, restart } = ward.spec;
    this.#feed.tell({ kind: "ended", id, exit, asked: false });
    if (restart === "permanent" || (restart === "transient" && !isOrderly(exit))) return await this.#restart(ward);
    if (restart === "temporary") this.#forget(ward);
    if (this.#isThrough(ward)) this.#stop({ reason: "shutdown", because: "significant", child: id });
  }

  /** Whether a child that is gone for good takes the supervisor with it. */
  #isThrough(ward: Ward): boolean {
    if (!ward.spec.significant) return false;
    if (this.#rules.autoShutdown === "any_significant") return true;
    return ![...this.#wards.values()].some(({ spec, state }) => spec.significant && state !== "stopped");
  }

  /** Starts one again, with those that its end concerns; or gives up. */
  async #restart(one: Ward): Promise<void> {
    const { id } = one.spec;
    if (this.#intensity.exceeds(this.#clock.now())) {
      one.retry = undefined;
      this.#feed.tell({ kind: "gave up", id });
      this.#stop({ reason: "shutdown", because: "reached intensity", child: id });
      return;
    }
    const wards = concerned(this.#rules.strategy, [...this.#wards.values()], one);
    const group = wards.filter(({ spec }) => spec.restart !== "temporary");
    const delayMs = one.delayMs(Math.max(this.#rules.periodMs, STEADY_MS));
    this.#feed.tell({ kind: "restarting", id, children: group.map(({ spec }) => spec.id), delayMs });
    for (const ward of wards.toReversed()) if (ward !== one) await this.#end(ward);
    if (this.#ending !== undefined) return;
    const retry = Symbol(id);
    for (const ward of group) ward.retry = retry;
    if (delayMs === 0) return await this.#again(group, retry);
    const cancel = this.#clock.after(delayMs, () => {
      this.#retries.delete(retry);
      void this.#inTurn(() => this.#again(group, retry));
    });
    this.#retries.set(retry, cancel);
  }

  /** Starts those of a group that nothing else has happened to since. The first that fails is one more restart. */
  async #again(group: readonly Ward[], retry: symbol): Promise<void> {
    for (const ward of group) {
      if (this.#ending !== undefined) return;
      if (ward.retry !== retry) continue;
      try {
        await this.#start(ward);
      } catch {
        return await this.#restart(ward);
      }
    }
  }

  /** Ends a child, if it runs, and starts it no more. */
  async #end(ward: Ward): Promise<Ending | undefined> {
    const { id, restart } = ward.spec;
    ward.retry = undefined;
    const tell = (error: unknown) => this.#feed.tell({ kind: "not killed", id, error });
    const ending = await ward.end(this.#hurry.signal, tell);
    if (ending !== undefined && "exit" in ending) this.#feed.tell({ kind: "ended", id, ...ending });
    if (restart === "temporary") this.#forget(ward);
    return ending;
  }

  #stop(exit: SupervisorExit): void {
    this.#ending ??= exit;
    this.#leave();
  }

  /** Starts no more, and ends when what is done now is done. */
  #leave(): void {
    if (this.#leaving.signal.aborted) return;
    this.#leaving.abort();
    for (const cancel of this.#retries.values()) cancel();
    this.#retries.clear();
    void this.#inTurn(async () => {
      for (const ward of [...this.#wards.values()].toReversed()) await this.#end(ward);
      for (const ward of this.#wards.values()) ward.release();
      const exit = this.#ending!;
      this.#feed.tell({ kind: "shutdown", exit });
      this.#feed.end();
      this.#settle(exit);
    });
  }

  #find(act: string, id: string): Ward {
    const ward = this.#wards.get(id);
    if (ward === undefined) throw new RangeError(`Cannot ${act} child ${id}: there is none of this id`);
    return ward;
  }

  #findStopped(act: string, id: string): Ward {
    const ward = this.#find(act, id);
    if (ward.state !== "stopped")
      throw new TypeError(`Cannot ${act} child ${id}: it is ${ward.state}; terminate it first`);
    return ward;
  }

  #live(act: string, id: string): void {
    if (this.#ending !== undefined) throw new TypeError(`Cannot ${act} child ${id}: the supervisor has ended`);
  }
}
