/** Work in steps that takes half of this process's time at the most, so that its timers and all else go between. */

/** How much is done at a time, before as long is left to others. A step takes as long as it does. */
const MOST_MS = 5;

/** How long was worked for somebody, beside what was before they came. */
export interface Share {
  workedMs: number;
}

interface Waiting {
  /** Takes a step, and says whether there are more. */
  step(): boolean;
  readonly share: Share;
}

export class Leisure {
  readonly #waiting = new Set<Waiting>();
  /** The least share of those that wait, when a step was taken last: nobody has had less. */
  #leastMs = 0;
  /** What was worked, less what was rested since. */
  #workedMs = 0;
  #at = Number.NEGATIVE_INFINITY;
  #resting = false;
  readonly #now: () => number;

  /** @param now a clock, in milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /**
   * Takes all steps: at once where they are few and come after a rest; in turns with those of others, so that everybody gets as much time, and who takes
   * long waits for who does not. Rejects with what one of them throws.
   * @param share of whoever comes again
   */
  through<Result>(steps: Iterator<void, Result>, share: Share = { workedMs: 0 }): Promise<Result> {
    return new Promise((resolve, reject) => {
      const step = () => {
        try {
          const { done = false, value } = steps.next();
          if (done) resolve(value as Result);
          return !done;
        } catch (error) {
          reject(error);
          return false;
        }
      };
      share.workedMs = Math.max(share.workedMs, this.#leastMs); // nobody saves up while they do not come
      this.#waiting.add({ step, share });
      if (!this.#resting) this.#work();
    });
  }

  #work(): void {
    for (let owedMs = this.#owedMs(); owedMs <= MOST_MS; owedMs = this.#owedMs()) {
      const next = this.#next();
      if (next === undefined) return;
      this.#waiting.delete(next);
      this.#leastMs = Math.max(this.#leastMs, next.share.workedMs);
      const began = this.#now();
      if (next.step()) this.#waiting.add(next); // behind the others
      this.#at = this.#now();
      this.#workedMs = owedMs + this.#at - began;
      next.share.workedMs += this.#at - began;
    }
    if (this.#waiting.size === 0) return;
    this.#resting = true;
    const wake = () => {
      this.#resting = false;
      this.#work();
    };
    setTimeout(wake, this.#owedMs()).unref();
  }

  /** Who had the least; of several, who waits for longest. */
  #next(): Waiting | undefined {
    let next: Waiting | undefined;
    for (const each of this.#waiting) if (next === undefined || each.share.workedMs < next.share.workedMs) next = each;
    return next;
  }

  /** How much rest there is to be. */
  #owedMs(): number {
    return Math.max(0, this.#workedMs - (this.#now() - this.#at));
  }
}

/** Time for what cannot wait, so much for all that comes in a turn of the event loop. */
export class Allowance {
  readonly #mostMs: number;
  #spentMs = 0;
  /** The event loop will say when this turn is over. */
  #asked = false;
  readonly #now: () => number;

  /** @param now a clock, in milliseconds */
  constructor(mostMs: number, now: () => number = () => performance.now()) {
    this.#mostMs = mostMs;
    this.#now = now;
  }

  /** Does it, and tells it how long that may take. */
  spend<Result>(work: (mostMs: number) => Result): Result {
    if (!this.#asked) {
      this.#asked = true;
      setImmediate(() => {
        this.#asked = false;
        this.#spentMs = 0;
      });
    }
    const began = this.#now();
    try {
      return work(Math.max(0, this.#mostMs - this.#spentMs));
    } finally {
      this.#spentMs += this.#now() - began;
    }
  }
}

/** That of this process: there is one event loop. */
export const leisure: Leisure = new Leisure();

/** Takes all steps at once. */
export function finish<Result>(steps: Iterator<void, Result>): Result {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}
