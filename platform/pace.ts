/** Work that comes all at once is done over several turns of the event loop, so that timers and others go between. */

/** How long the work of a turn may take. One piece of it takes as long as it does. */
const TURN_MS = 5;
/** What comes so soon after a turn's first work is not worth asking whether that turn is over. */
const UNASKED_MS = 1;

export class Pace {
  #began = Number.NEGATIVE_INFINITY;
  /** The event loop will say when this turn is over. */
  #asked = false;
  readonly #waiting = new Set<() => void>();
  readonly #now: () => number;

  /** @param now a clock, in milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether work may be done now. Where it may not it is to wait, behind what does already. */
  admits(): boolean {
    if (this.#waiting.size > 0) return false;
    const now = this.#now();
    if (!this.#asked && now - this.#began > UNASKED_MS) this.#begin(now);
    return now - this.#began <= TURN_MS;
  }

  /** Has work done in a later turn, in the order in which it came. */
  wait(work: () => void): void {
    this.#waiting.add(work);
    if (!this.#asked) this.#begin(this.#now());
  }

  #begin(now: number): void {
    this.#began = now;
    this.#asked = true;
    setImmediate(() => void this.#turn());
  }

  async #turn(): Promise<void> {
    this.#asked = false;
    if (this.#waiting.size === 0) return;
    const began = this.#now();
    this.#begin(began);
    for (const work of this.#waiting) {
      this.#waiting.delete(work);
      work();
      await undefined; // who waited for it goes on now, which is work of this turn as well
      if (this.#now() - began > TURN_MS) return;
    }
  }
}

/** The one of this process: there is one event loop. */
export const pace: Pace = new Pace();
