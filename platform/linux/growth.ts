/** Looking at something that grows, just often enough to see soon that it has come to a limit. */

/** How often it looks at the most: what /proc tells of processor time changes as often. */
const SHORTEST_MS = 10;
/** What a timer can wait for. */
const LONGEST_MS = 2 ** 31 - 1;

/** Something that grows. */
export interface Growth {
  readonly limit: number;
  /** The most by which it can grow in a second: what it is then beyond the limit unseen is a hundredth of that, and what it grows by while this process is busy. */
  readonly perSecond: number;
  /** How often it is looked at in any case, for what is not seen is lost. */
  readonly everyMs?: number;
  /**
   * How much it is; undefined where nobody can tell just now: then it is looked at again soon, until it is stopped. Where that takes a while, nobody
   * looks anew meanwhile.
   */
  used(): number | undefined | Promise<number | undefined>;
  /** Called once. */
  reached(): void;
}

/** Calls `reached` when the limit is. What stays far below costs a look now and then. */
export function watchGrowth({ limit, perSecond, everyMs = LONGEST_MS, used, reached }: Growth): { stop(): void } {
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  const wait = (now: number | undefined) => {
    const leastMs = now === undefined ? 0 : ((limit - now) * 1000) / perSecond;
    timer = setTimeout(look, Math.min(Math.max(leastMs, SHORTEST_MS), everyMs)).unref();
  };
  const take = (now: number | undefined) => {
    if (stopped) return;
    if (now === undefined || now < limit) wait(now);
    else reached();
  };
  const look = () => {
    const now = used();
    if (now instanceof Promise) void now.then(take);
    else take(now);
  };
  wait(0);
  return {
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
