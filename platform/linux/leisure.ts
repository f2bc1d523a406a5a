/** Work in steps that takes half of this process's time at the most, so that its timers and all else go between. */

/** How much is done at a time, before as long is left to others. A step takes as long as it does. */
const MOST_MS = 5;

export class Leisure {
  /** Each takes a step of somebody's, and says whether there are more. */
  readonly #waiting: (() => boolean)[] = [];
  /** What was worked, less what was rested since. */
  #workedMs = 0;
  #at = Number.NEGATIVE_INFINITY;
  #resting = false;
  readonly #now: () => number;

  /** @param now a clock, in milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Takes all steps: at once where they are few and come after a rest; in turns with those of others. Rejects with what one of them throws. */
  through<Result>(steps: Iterator<void, Result>): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.#waiting.push(() => {
        try {
          const { done = false, value } = steps.next();
          if (done) resolve(value as Result);
          return !done;
        } catch (error) {
          reject(error);
          return false;
        }
      });
      if (!this.#resting) this.#work();
    });
  }

  #work(): void {
    for (let owedMs = this.#owedMs(); owedMs <= MOST_MS; owedMs = this.#owedMs()) {
      const step = this.#waiting.shift();
      if (step === undefined) return;
      const began = this.#now();
      if (step()) this.#waiting.push(step);
      this.#at = this.#now();
      this.#workedMs = owedMs + this.#at - began;
    }
    if (this.#waiting.length === 0) return;
    this.#resting = true;
    const wake = () => {
      this.#resting = false;
      this.#work();
    };
    setTimeout(wake, this.#owedMs()).unref();
  }

  /** How much rest there is to be. */
  #owedMs(): number {
    return Math.max(0, this.#workedMs - (this.#now() - this.#at));
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
