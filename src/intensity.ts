/** How often something may happen: so many times within a period, which ends now and slides. */
export class Intensity {
  readonly #most: number;
  readonly #periodMs: number;
  /** When it happened within the period; the oldest first. */
  #times: readonly number[] = [];

  constructor(most: number, periodMs: number) {
    this.#most = most;
    this.#periodMs = periodMs;
  }

  /** Counts one more, and tells whether that is too many. */
  exceeds(now: number): boolean {
    this.#times = [...this.#times.filter((time) => time >= now - this.#periodMs), now];
    return this.#times.length > this.#most;
  }
}
