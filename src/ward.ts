/** One child under supervision: whether it runs, and what is known of how it goes. */
import type { Backoff } from "./backoff.ts";
import { ask, type Child, type ChildExit, checkChild, endOf, release } from "./child.ts";
import type { CheckedSpec } from "./childspec.ts";
import type { Clock } from "./clock.ts";
import { killAs } from "./killer.ts";

/** A child that runs. */
interface Life {
  readonly child: Child;
  /** Settles with how it ended. */
  readonly ended: Promise<ChildExit>;
  over: boolean;
}

/** What came of an end: how it ended, and whether it did because of that; or what its `kill()` threw, if it lives on. */
export type Ending = { readonly exit: ChildExit; readonly asked: boolean } | { readonly refusal: unknown };

/** How long what could not be killed is waited for. */
const GRACE_MS = 5000;

export class Ward {
  readonly spec: CheckedSpec;
  /** Which restart to come it waits for, where it does; several wait for one. */
  retry: symbol | undefined;
  /** How often it was started again. */
  restarts = 0;
  #life: Life | undefined;
  /** What ended last: what it printed can still be read, until the next one has ended. */
  #past: Child | undefined;
  /** When it was started last, unless what that says was used. */
  #startedMs: number | undefined;
  readonly #backoff: Backoff;
  readonly #clock: Clock;

  constructor(spec: CheckedSpec, backoff: Backoff, clock: Clock) {
    this.spec = spec;
    this.#backoff = backoff;
    this.#clock = clock;
  }

  /** What runs. */
  get child(): Child | undefined {
    return this.#life?.child;
  }

  get state(): "running" | "restarting" | "stopped" {
    if (this.#life !== undefined) return "running";
    return this.retry === undefined ? "stopped" : "restarting";
  }

  /** Starts it, if it is to be, unless that is given up meanwhile. Throws what its start throws. */
  async start(leaving: AbortSignal): Promise<Life | undefined> {
    leaving.throwIfAborted();
    // One of its own: what was started may be bound to it for life, and what lives is asked before it is killed.
    const starting = new AbortController();
    const give = () => starting.abort(leaving.reason);
    leaving.addEventListener("abort", give);
    const child = await this.spec.start(starting.signal).finally(() => leaving.removeEventListener("abort", give));
    const again = this.retry !== undefined;
    this.retry = undefined;
    if (child === "ignore") return undefined;
    checkChild(child);
    if (again) this.restarts++;
    this.#startedMs = this.#clock.now();
    const life: Life = { child, ended: endOf(child), over: false };
    void life.ended.then(() => {
      life.over = true;
    });
    this.#life = life;
    return life;
  }

  /** What ran has ended. */
  lost(): void {
    this.release();
    this.#past = this.#life?.child;
    this.#life = undefined;
  }

  /** Closes what is left of the one that ended last. */
  release(): void {
    if (this.#past !== undefined) release(this.#past);
    this.#past = undefined;
  }

  /** What to wait before it is started again. @param steadyMs after that long a life, what was before does not count */
  delayMs(steadyMs: number): number {
    if (this.#startedMs !== undefined && this.#clock.now() - this.#startedMs >= steadyMs) this.#backoff.reset();
    this.#startedMs = undefined;
    return this.#backoff.next();
  }

  /**
   * Ends what runs, as its specification says, or at once when `hurry` is aborted. What can be killed by nobody is given up after a while.
   *
   * @param onRefusal is told what its `kill()` throws
   */
  async end(hurry: AbortSignal, onRefusal: (error: unknown) => void): Promise<Ending | undefined> {
    const life = this.#life;
    if (life === undefined) return undefined;
    const asked = !life.over;
    const byItself = !asked || (await this.#leaves(life, hurry));
    const ending = byItself ? { exit: await life.ended, asked } : await this.#killed(life, onRefusal);
    this.lost();
    return ending;
  }

  /** Ends what runs at once. `end()` is to be awaited still: it tries again where that fails, and tells. */
  kill(): void {
    if (this.#life !== undefined) Promise.try(killAs, this.#life.child, "supervisor").catch(() => {});
  }

  async #killed(life: Life, onRefusal: (error: unknown) => void): Promise<Ending> {
    const { promise, resolve } = Promise.withResolvers<Ending>();
    let cancel = () => {};
    void life.ended.then((exit) => {
      cancel();
      resolve({ exit, asked: true });
    });
    Promise.try(killAs, life.child, "supervisor").catch((refusal) => {
      if (life.over) return;
      onRefusal(refusal);
      cancel = this.#clock.after(GRACE_MS, () => resolve({ refusal }));
    });
    return await promise;
  }

  /** Whether it ends by being asked, within its time. */
  async #leaves({ child, ended }: Life, hurry: AbortSignal): Promise<boolean> {
    const { shutdown } = this.spec;
    if (shutdown === "brutal_kill" || hurry.aborted) return false;
    try {
      if (!ask(child)) return false;
    } catch {
      return false; // it cannot be asked any more
    }
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const give = () => resolve(false);
    const { patienceMs } = shutdown;
    const cancel = Number.isFinite(patienceMs) ? this.#clock.after(patienceMs, give) : () => {};
    hurry.addEventListener("abort", give);
    void ended.then(() => resolve(true));
    const left = await promise;
    cancel();
    hurry.removeEventListener("abort", give);
    return left;
  }
}
