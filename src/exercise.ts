/** A tiny module that is loaded and called before the real one, so that the real one finds all paths used and all code compiled. */
import { exitError } from "./actor.ts";
import type { Channel } from "./channel.ts";
import { LimitExceeded } from "./error.ts";
import { exitOf } from "./exit.ts";
import type { Cell } from "./launch.ts";

/** For each load, which takes a process of ours a moment. With all of them a host that is busy, and comes to each answer late, can take longer. */
const TIME_MS = 10_000;
/** So often, that Bun has compiled what takes part: after one load a spawn takes half as long again, and more than these make nothing faster. */
const LOADS = 20;
const CALLS = 10;
/** How long Bun's other threads have for that, which would else take a processor from the first call; then the last round finds all in place. */
const REST_MS = 20;
/** As a bundle is. The file's name, and what it exports, are gone when the real one comes. */
const MODULE = `// @bun
var echo = (value) => value;
export { echo };
`;
const BOOT = { name: "exercise", env: {}, argv: [], directory: null, script: false, exercise: true };

/** Loads and calls the module. What comes over the link meanwhile is checked as that of any actor. Rejects as `spawn` does where that fails, or takes too long. */
export async function exercise(cell: Cell): Promise<Channel> {
  const { promise: failed, reject } = Promise.withResolvers<never>();
  failed.catch(() => {}); // it may come when nobody waits
  const { hooks, confined } = cell;
  const gone = confined.ended.then((ended) => exitError(cell.name, exitOf(ended)));
  void gone.then(reject);
  let lost = false;
  hooks.onFailed = reject;
  hooks.onLost = () => {
    lost = true;
    confined.kill();
    return gone;
  };
  hooks.onViolation = (violation) => {
    reject(violation);
    confined.kill();
  };
  const late = () => reject(new LimitExceeded(`Cannot exercise an actor: ${TIME_MS} ms are over`, "loadTime"));
  const timer = setTimeout(late, TIME_MS);
  try {
    const channel = await Promise.race([cell.verified, failed]);
    for (let left = LOADS; left > 0; left--) {
      if (left === 1) await Promise.race([Bun.sleep(REST_MS), failed]);
      const { promise: ready, resolve } = Promise.withResolvers<void>();
      hooks.onReady = () => resolve();
      channel.start(BOOT, MODULE);
      await Promise.race([ready, failed]);
      for (let round = 0; round < CALLS; round++)
        await Promise.race([channel.call("echo", [round, "text", { list: [1, 2] }]), failed]);
      channel.exercised();
      timer.refresh();
    }
    return channel;
  } catch (error) {
    throw lost ? await gone : error; // how it ended says more
  } finally {
    clearTimeout(timer);
  }
}
