/** Children that are nothing but their starts and ends, and a clock that is moved by hand. */
import type { Child, ChildExit } from "../../src/child.ts";
import type { ChildSpec } from "../../src/childspec.ts";
import type { Clock } from "../../src/clock.ts";
import { KILL, type Killer } from "../../src/killer.ts";

/** Until all that follows from what was done is done: none of it waits for anything but promises. */
export const quiet = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export class HandClock implements Clock {
  #now = 0;
  readonly #timers = new Set<{ readonly at: number; readonly act: () => void }>();

  now(): number {
    return this.#now;
  }

  after(delayMs: number, act: () => void): () => void {
    const timer = { at: this.#now + delayMs, act };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  get waiting(): number {
    return this.#timers.size;
  }

  /** Goes on by so much, from timer to timer. */
  async advance(ms: number): Promise<void> {
    const until = this.#now + ms;
    for (;;) {
      await quiet();
      const [next] = [...this.#timers].filter(({ at }) => at <= until).sort((one, other) => one.at - other.at);
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#now = next.at;
      next.act();
    }
    this.#now = until;
    await quiet();
  }
}

export class Player implements Child {
  readonly id: string;
  readonly exited: Promise<ChildExit>;
  /** Whether it ends when it is asked. */
  readonly #obeys: boolean;
  readonly #settle: (exit: ChildExit) => void;
  readonly #troupe: Troupe;
  alive = true;

  constructor(id: string, troupe: Troupe, obeys: boolean) {
    const { promise, resolve } = Promise.withResolvers<ChildExit>();
    this.id = id;
    this.exited = promise;
    this.#settle = resolve;
    this.#troupe = troupe;
    this.#obeys = obeys;
  }

  end(exit: ChildExit): void {
    if (!this.alive) return;
    this.alive = false;
    this.#troupe.log.push(`-${this.id}`);
    this.#settle(exit);
  }

  crash(): void {
    this.end({ reason: "signal", signal: "SIGSEGV" });
  }

  return(code = 0): void {
    this.end({ reason: "returned", code });
  }

  kill(): void {
    this[KILL]("kill");
  }

  [KILL](by: Killer): unknown {
    const refuse = this.#troupe.immortal.get(this.id);
    if (refuse !== undefined) return refuse();
    return this.end({ reason: "killed", by } as ChildExit);
  }

  disconnect(): void {
    this.#troupe.log.push(`?${this.id}`);
    if (this.#obeys) this.end({ reason: "host gone" });
  }
}

/** Starts players, and writes down what happens: `+a` a start, `!a` one that failed, `?a` a request to end, `-a` an end. */
export class Troupe {
  readonly log: string[] = [];
  readonly players: Player[] = [];
  /** Whose starts fail, and how often from now on. */
  readonly failing = new Map<string, number>();
  /** Those that end only when they are killed. */
  readonly stubborn = new Set<string>();
  /** Those that are not even ended then, and what it does instead. */
  readonly immortal = new Map<string, () => never | Promise<never>>();

  spec(id: string, more: Omit<ChildSpec, "id" | "start"> = {}): ChildSpec<Player> {
    return { id, start: async () => this.#start(id), ...more };
  }

  specs(ids: string, more: Omit<ChildSpec, "id" | "start"> = {}): ChildSpec<Player>[] {
    return [...ids].map((id) => this.spec(id, more));
  }

  /** The one of this id that lives. */
  the(id: string): Player {
    const player = this.living.find((each) => each.id === id);
    if (player === undefined) throw new Error(`No ${id} is alive: ${this.log.join(" ")}`);
    return player;
  }

  get living(): Player[] {
    return this.players.filter(({ alive }) => alive);
  }

  /** What was written down since it was asked last. */
  told(): string {
    return this.log.splice(0).join(" ");
  }

  #start(id: string): Player {
    if (this.living.some((each) => each.id === id)) throw new Error(`There are two of ${id}: ${this.log.join(" ")}`);
    const failures = this.failing.get(id) ?? 0;
    if (failures > 0) {
      this.failing.set(id, failures - 1);
      this.log.push(`!${id}`);
      throw new Error(`no ${id} today`);
    }
    this.log.push(`+${id}`);
    const player = new Player(id, this, !this.stubborn.has(id));
    this.players.push(player);
    return player;
  }
}
