/** Who may start when: few at a time, and no more in all than the host can bear. */
import { availableParallelism } from "node:os";
import type { Limits } from "../platform/index.ts";
import { SchedulerRefused } from "./error.ts";
import { ANY, checkOptions, type Kinds } from "./option.ts";
import { COUNT, plainOf, quantityOf, SIZE } from "./quantity.ts";

/** Actors of a higher priority start before all that wait with a lower one. */
export type Priority = "high" | "normal" | "low";

export interface SchedulerOptions {
  /** How many may be starting at a time, from the first wall to the last; twice as many as there are processors where nothing is said. */
  readonly starts?: number;
  /** How many may be alive at a time. Like the two that follow, without limit where nothing is said. */
  readonly actors?: number;
  /** What the `limits.memory` of all who are alive may come to: `"8 GiB"`. */
  readonly memory?: string;
  readonly memoryBytes?: number;
  /** What their `limits.processes` may come to. */
  readonly processes?: number;
  /** How many may wait; 1024 where nothing is said. With 0, what cannot start at once is refused. */
  readonly queue?: number;
}

const KINDS: Kinds<Required<SchedulerOptions>> = {
  starts: ANY,
  actors: ANY,
  memory: ANY,
  memoryBytes: ANY,
  processes: ANY,
  queue: ANY,
};

/** What somebody asks for. */
export interface Request {
  readonly name: string;
  readonly limits: Pick<Limits, "memory" | "processes">;
  readonly priority?: Priority | undefined;
  /** Takes the request back while it waits. */
  readonly signal?: AbortSignal | undefined;
  /** Who may pass a place of its own to the request. */
  readonly of?: object | undefined;
}

/** What somebody was given. Both may be called more than once. */
export interface Place {
  /** It has started: the next may. */
  readonly settled: () => void;
  /** It is gone, and with it what it counted for. */
  readonly leave: () => void;
}

/** What is bounded. */
const BUDGETS = ["starts", "actors", "memory", "processes"] as const;
type Budget = (typeof BUDGETS)[number];
type Amounts = Record<Budget, number>;

interface Waiting extends Pick<Request, "of"> {
  readonly cost: Amounts;
  readonly admit: (place: Place) => void;
}

const PRIORITIES = ["high", "normal", "low"] as const;
const QUEUE = 1024;

/**
 * Starts actors a few at a time and within totals over all that are alive. What cannot start waits; within a priority nobody is passed, so who
 * asks for much waits for room, and not for luck. A steady stream of those with a higher priority keeps the others waiting.
 */
export class Scheduler {
  readonly #most: Amounts;
  readonly #queue: number;
  readonly #used: Amounts = { starts: 0, actors: 0, memory: 0, processes: 0 };
  readonly #waiting: Readonly<Record<Priority, Set<Waiting>>> = { high: new Set(), normal: new Set(), low: new Set() };

  /** Throws TypeError and RangeError for what is no amount, or no option. */
  constructor(options: SchedulerOptions = {}) {
    checkOptions(options, KINDS);
    const { memory, memoryBytes } = options;
    if (memory !== undefined && memoryBytes !== undefined)
      throw new TypeError("Cannot use both memory and memoryBytes of a scheduler: one is expected");
    const bytes = memory === undefined ? memoryBytes : quantityOf(memory, SIZE, "memory of a scheduler");
    this.#most = {
      starts: countOf(options.starts, "starts") ?? 2 * availableParallelism(),
      actors: countOf(options.actors, "actors") ?? Number.POSITIVE_INFINITY,
      memory: countOf(bytes, "memoryBytes") ?? Number.POSITIVE_INFINITY,
      processes: countOf(options.processes, "processes") ?? Number.POSITIVE_INFINITY,
    };
    this.#queue = countOf(options.queue, "queue", 0) ?? QUEUE;
  }

  /** How many are starting and alive, what their limits come to, and how many wait. */
  get load(): Readonly<Amounts & { waiting: number }> {
    const waiting = PRIORITIES.reduce((sum, priority) => sum + this.#waiting[priority].size, 0);
    return { ...this.#used, waiting };
  }

  /** Throws `SchedulerRefused` where so many could never be alive at a time, whoever else is: who waits for all of them would wait for ever. */
  mustHold(count: number, { name, limits }: Pick<Request, "name" | "limits">): void {
    const cost: Amounts = {
      starts: 0,
      actors: count,
      memory: count * limits.memory,
      processes: count * limits.processes,
    };
    this.#mustFit(name, cost);
  }

  /** Waits for its turn. Rejects with `SchedulerRefused` what would never fit, or would wait in a full queue; with the signal's reason. */
  async enter({ name, limits, priority = "normal", signal, of }: Request): Promise<Place> {
    signal?.throwIfAborted();
    if (!PRIORITIES.includes(priority))
      throw new TypeError(`Cannot start ${name} with priority ${priority}: expected one of ${PRIORITIES.join(", ")}`);
    const cost: Amounts = { starts: 1, actors: 1, memory: limits.memory, processes: limits.processes };
    this.#mustFit(name, cost);
    const ahead = PRIORITIES.slice(0, PRIORITIES.indexOf(priority) + 1);
    const full = this.#full(cost);
    if (full === undefined && ahead.every((each) => this.#waiting[each].size === 0)) return this.#take(cost);
    if (this.load.waiting >= this.#queue) {
      const reason = full ?? "starts";
      const taken = `${amountOf(reason, this.#used[reason])} of ${inWords(reason, this.#most[reason])} are taken`;
      throw new SchedulerRefused(`Cannot start ${name}: ${taken}, and ${this.#queue} wait already`, reason);
    }
    return this.#wait({ cost, of }, priority, signal);
  }

  /**
   * Hands a place on to the first of the highest priority that waits for one `of` this owner: it is taken already, so nobody else could have it. False
   * where none waits; the place stays with whoever has it.
   */
  pass(place: Place, of: object): boolean {
    for (const priority of PRIORITIES) {
      const queue = this.#waiting[priority];
      const heir = queue.values().find((waiting) => waiting.of === of);
      if (heir === undefined) continue;
      queue.delete(heir);
      heir.admit(place);
      this.#next(); // who stood behind it may need less
      return true;
    }
    return false;
  }

  #mustFit(name: string, cost: Amounts): void {
    const never = BUDGETS.find((budget) => cost[budget] > this.#most[budget]);
    if (never === undefined) return;
    const [asked, most] = [cost[never], this.#most[never]];
    throw new SchedulerRefused(
      `Cannot start ${name}: ${amountOf(never, asked)} is more than the ${inWords(never, most)} of all`,
      never,
    );
  }

  #wait(asked: Omit<Waiting, "admit">, priority: Priority, signal: AbortSignal | undefined): Promise<Place> {
    const queue = this.#waiting[priority];
    return new Promise((resolve, reject) => {
      const abort = () => {
        queue.delete(waiting);
        reject(signal?.reason);
        this.#next(); // who stood behind it may need less
      };
      const admit = (place: Place) => {
        signal?.removeEventListener("abort", abort);
        resolve(place);
      };
      const waiting: Waiting = { ...asked, admit };
      queue.add(waiting);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** What is full for this, if anything is. */
  #full(cost: Amounts): Budget | undefined {
    return BUDGETS.find((budget) => this.#used[budget] + cost[budget] > this.#most[budget]);
  }

  #take(cost: Amounts): Place {
    for (const budget of BUDGETS) this.#used[budget] += cost[budget];
    const left = new Set<Budget>(BUDGETS);
    const give = (...budgets: Budget[]) => {
      for (const budget of budgets) if (left.delete(budget)) this.#used[budget] -= cost[budget];
      this.#next();
    };
    return { settled: () => give("starts"), leave: () => give(...BUDGETS) };
  }

  /** Lets those in that fit, the first of the highest priority first. */
  #next(): void {
    for (const priority of PRIORITIES) {
      const queue = this.#waiting[priority];
      for (const waiting of queue) {
        if (this.#full(waiting.cost) !== undefined) return;
        queue.delete(waiting);
        waiting.admit(this.#take(waiting.cost));
      }
    }
  }
}

/** The one of all actors that name no other. */
export const defaultScheduler: Scheduler = new Scheduler();

function countOf(value: unknown, what: string, least = 1): number | undefined {
  if (value === undefined) return undefined;
  const count = plainOf(value, COUNT.expected, `${what} of a scheduler`);
  if (Number.isInteger(count) && count >= least) return count;
  throw new RangeError(`Cannot use ${count} as ${what} of a scheduler: a whole number from ${least} is expected`);
}

const amountOf = (budget: Budget, amount: number): string => (budget === "memory" ? SIZE.print(amount) : `${amount}`);
const inWords = (budget: Budget, amount: number): string =>
  budget === "memory" ? `${SIZE.print(amount)} of memory` : `${amount} ${budget}`;
