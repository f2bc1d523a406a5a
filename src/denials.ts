/** Denials as they happen, for whoever reads them; where nobody does, nothing is made of them and nothing is kept. */
import { dirname } from "node:path";
import type { Denial } from "./denial.ts";

/** A denial as a reader gets it. */
export interface DenialEvent extends Denial {
  /** How often it happened since this reader took the one before: one that is the same while it waits is told once. */
  readonly times: number;
  /** How many others this reader lost since then, because they came faster than it took them. */
  readonly lost: number;
}

/** One that reads, no faster than it likes. */
export interface DenialReader extends AsyncIterableIterator<DenialEvent> {
  /** Listens no more. What came before can still be read. */
  end(): void;
}

/** Different denials that wait for one reader. What runs inside can cause any number. */
const MOST_UNREAD = 128;

/** How long what only an error says waits for a wall that tells of it itself: they come by other ways, and Landlock's by the slowest. */
const LATE_MS = 200;
/** How many that walls told of are remembered for that. */
const MOST_TOLD = 64;

/** Readers of everything in this process. */
const everywhere = new Set<Reader>();

/**
 * The denials of all actors and programs of this process, from now on until its reader leaves the loop or calls `end()`. It keeps no process alive.
 *
 * @example for await (const { actor, call, target, fix } of denials()) console.warn(`${actor}: ${call} ${target}: ${fix}`);
 */
export function denials(): DenialReader {
  return new Reader(everywhere);
}

/** How many count what is refused, and read none of it. */
let counting = 0;

/** Has what is refused to anybody in this process counted from here on, although nobody may read it. */
export function countDenials(): Disposable {
  counting++;
  let over = false;
  return {
    [Symbol.dispose]() {
      if (!over) counting--;
      over = true;
    },
  };
}

/** The denials of one actor or program. */
export class Denials implements AsyncIterable<DenialEvent> {
  /** Whose they are: the name of the actor, or of the program. */
  readonly actor: string;
  /** How many there were while anybody read or counted, those included that came too fast to be looked at. */
  count = 0;
  #readers: Set<Reader> | undefined;
  /** Of what was asked for before it began: what the first one to read finds. */
  #early: Reader | undefined;
  #ended = false;
  /** What walls told of last, where they tell. */
  readonly #told: Denial[] | undefined;
  /** What only errors say, until it is known whether a wall tells of it. */
  readonly #claims = new Map<Timer, Denial>();

  /** @param options.observed whether walls tell of what they refuse, from before the first one can read */
  constructor(actor: string, { observed = false } = {}) {
    this.actor = actor;
    if (!observed) return;
    this.#told = [];
    this.#early = this[Symbol.asyncIterator]();
  }

  /** Whether anybody reads or counts: nothing needs to be found out where nobody does. */
  get wanted(): boolean {
    return counting > 0 || everywhere.size > 0 || (this.#readers !== undefined && this.#readers.size > 0);
  }

  /** Reports what a wall told of. */
  report(denial: Denial): void {
    this.#told?.push(denial);
    if (this.#told !== undefined && this.#told.length > MOST_TOLD) this.#told.shift();
    this.#pass(denial);
  }

  /** Reports what an error from inside says, unless a wall tells of the same. */
  claim(denial: Denial): void {
    if (this.#told === undefined) this.#pass(denial);
    else if (this.#claims.size === MOST_UNREAD) this.lose(1);
    else {
      const timer = setTimeout(() => this.#settle(timer), LATE_MS).unref();
      this.#claims.set(timer, denial);
    }
  }

  #settle(timer: Timer): void {
    const denial = this.#claims.get(timer)!;
    this.#claims.delete(timer);
    clearTimeout(timer);
    if (!this.#told!.some((told) => isSame(told, denial))) this.#pass(denial);
  }

  #pass(denial: Denial): void {
    this.count++;
    for (const reader of this.#readers ?? []) reader.take(denial);
    for (const reader of everywhere) reader.take(denial);
  }

  /** Tells of denials that came too fast to be looked at. */
  lose(count: number): void {
    this.count += count;
    for (const reader of this.#readers ?? []) reader.lose(count);
    for (const reader of everywhere) reader.lose(count);
  }

  /** There will be no more. */
  end(): void {
    for (const timer of [...this.#claims.keys()]) this.#settle(timer);
    this.#ended = true;
    for (const reader of this.#readers ?? []) reader.end();
  }

  /** Each reader gets all that happens from here on. */
  [Symbol.asyncIterator](): Reader {
    const early = this.#early;
    this.#early = undefined;
    if (early !== undefined) return early;
    this.#readers ??= new Set();
    const reader = new Reader(this.#readers);
    if (this.#ended) reader.end();
    return reader;
  }
}

/** Whether what a wall told of is what an error says. A call that names nothing, such as socket(2), is what failed in a longer act. */
function isSame(told: Denial, claimed: Denial): boolean {
  if (told.guarantee !== claimed.guarantee) return false;
  if (told.target === "") return told.guarantee !== "files" || told.call === claimed.call;
  if (told.target === claimed.target || told.target.endsWith(`/${claimed.target}`)) return true;
  // Landlock names the directory of what was to be made or removed.
  return /^(?:make|remove)_|^refer$/.test(told.call) && told.target === dirname(claimed.target);
}

class Reader implements DenialReader {
  readonly #among: Set<Reader>;
  /** In the order of their first time, by what they say. */
  readonly #unread = new Map<string, { readonly denial: Denial; times: number }>();
  readonly #waiting: ((result: IteratorResult<DenialEvent, undefined>) => void)[] = [];
  #lost = 0;

  constructor(among: Set<Reader>) {
    this.#among = among;
    among.add(this);
  }

  take(denial: Denial): void {
    const { actor, call, target, wall } = denial;
    const same = JSON.stringify([actor, call, target, wall]);
    const known = this.#unread.get(same);
    if (known !== undefined) {
      known.times++;
      return;
    }
    if (this.#unread.size === MOST_UNREAD) this.#drop();
    this.#unread.set(same, { denial, times: 1 });
    this.#give();
  }

  lose(count: number): void {
    this.#lost += count;
  }

  end(): void {
    this.#among.delete(this);
    this.#give();
  }

  next(): Promise<IteratorResult<DenialEvent, undefined>> {
    const { promise, resolve } = Promise.withResolvers<IteratorResult<DenialEvent, undefined>>();
    this.#waiting.push(resolve);
    this.#give();
    return promise;
  }

  return(): Promise<IteratorResult<DenialEvent, undefined>> {
    this.#unread.clear();
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Gives who waits what there is. */
  #give(): void {
    while (this.#waiting.length > 0) {
      const [first] = this.#unread;
      if (first !== undefined) {
        const [same, { denial, times }] = first;
        this.#unread.delete(same);
        this.#waiting.shift()!({ done: false, value: { ...denial, times, lost: this.#lost } });
        this.#lost = 0;
      } else if (!this.#among.has(this)) this.#waiting.shift()!({ done: true, value: undefined });
      else return;
    }
  }

  /** Drops the oldest. */
  #drop(): void {
    const [[same, { times }]] = this.#unread as unknown as [[string, { times: number }]];
    this.#unread.delete(same);
    this.#lost += times;
  }
}
