/** Who ended an actor, a program or a supervisor that did not end by itself: its exit tells. */
export type Killer = "kill" | "signal" | "dispose" | "supervisor" | "link" | "pool";

/** The method by which it is ended on behalf of another than its user, who has `kill()`. Programs take a signal; `"SIGKILL"` where nothing is said. */
export const KILL: unique symbol = Symbol("caisson.kill");

export interface Killable {
  kill(): void;
  [KILL]?(by: Killer, signal?: NodeJS.Signals): void;
}

/**
 * Ends it at once, and has its exit tell who did, where it can.
 *
 * @returns what its `kill()` does: a promise, say, of what somebody else wrote. By `Promise.try` one hears of all that it throws
 */
export function killAs(what: Killable, by: Killer): unknown {
  return what[KILL] === undefined ? what.kill() : what[KILL](by);
}
