/** Links and monitors: what the end of one means for another. */
import { type Child, type ChildExit, checkChild, endOf, isNormal } from "./child.ts";
import { killAs } from "./killer.ts";
import { toError } from "./link.ts";

/**
 * Settles when it has ended, with how; at once, where it has already. Never rejects.
 *
 * @example const { reason } = await monitor(actor);
 */
export function monitor(child: Child): Promise<ChildExit> {
  checkChild(child);
  return endOf(child);
}

/**
 * Ends each of the two when the other ends, unless that came to its end normally: what returned 0 ends nobody else. Its exit says that it was killed
 * by `"link"`. One that has ended already ends the other now. What a `kill()` throws nobody can catch: it becomes a warning of this process.
 *
 * @returns what unlinks them, by `using` or `[Symbol.dispose]()`
 * @example link(parser, index);
 */
export function link(one: Child, other: Child): Disposable {
  checkChild(one);
  checkChild(other);
  if (one === other) throw new TypeError("Cannot link a child with itself: two are expected");
  let linked = true;
  const follow = async (first: Child, second: Child) => {
    const exit = await endOf(first);
    if (!linked) return;
    linked = false;
    if (!isNormal(exit)) Promise.try(killAs, second, "link").catch(warn);
  };
  void follow(one, other);
  void follow(other, one);
  return {
    [Symbol.dispose]() {
      linked = false;
    },
  };
}

function warn(error: unknown): void {
  process.emitWarning(`Cannot kill what was linked with one that ended: ${toError(error).stack}`);
}
