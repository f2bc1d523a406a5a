/** Time, as what waits needs it: a seam, so that tests need not. */
export interface Clock {
  /** Milliseconds since some moment; never less than before. */
  now(): number;
  /** Acts once when so much time is over, unless what it returns is called before. */
  after(delayMs: number, act: () => void): () => void;
}

export const realClock: Clock = {
  now: () => performance.now(),
  after(delayMs, act) {
    const timer = setTimeout(act, delayMs);
    return () => clearTimeout(timer);
  },
};
