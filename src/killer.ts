/** Who ended an actor, a program or a supervisor that did not end by itself: its exit tells. */
export type Killer = "kill" | "signal" | "dispose" | "supervisor" | "link" | "pool";

/** The method by which it is ended on behalf of another than its user, who has `kill()`. Programs take a signal; `"SIGKILL"` where nothing is said. */
export const KILL: unique symbol = Symbol("caisson.kill");

export interface Killable {
  kill(): void;
  [KILL]?(by: Killer, signal?: NodeJS.Signals): void;
}

/** Ends it at once, and has its exit tell who did, where it can. */
export function killAs(what: Killable, by: Killer): void {
  if (what[KILL] === undefined) what.kill();
  else what[KILL](by);
}
