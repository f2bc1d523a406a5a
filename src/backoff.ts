/** How long to wait before what failed is tried again: not at all the first time, then twice as long each time. */
export interface BackoffTimes {
  /** What is waited the second time, in milliseconds. */
  readonly firstMs: number;
  /** What is waited at most. */
  readonly mostMs: number;
}

export class Backoff {
  readonly #times: BackoffTimes;
  readonly #random: () => number;
  #failures = 0;

  /** @param random a number from 0 to 1, as `Math.random` gives it */
  constructor(times: BackoffTimes, random: () => number = Math.random) {
    this.#times = times;
    this.#random = random;
  }

  /**
   * What to wait now, in milliseconds. Half of it is chance: what failed together, because of the same, would else come back together, and fail
   * because of that.
   */
  next(): number {
    const { firstMs, mostMs } = this.#times;
    const failures = this.#failures++;
    if (failures === 0) return 0;
    const full = Math.min(mostMs, firstMs * 2 ** (failures - 1));
    return full * (0.5 + this.#random() / 2);
  }

  /** It went well for a while: the next failure is the first. */
  reset(): void {
    this.#failures = 0;
  }
}
