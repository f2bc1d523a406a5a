/** What one that runs tells of itself, as plain data: for tables, JSON lines and metrics. */
import type { Usage } from "./usage.ts";

/** `"parked"`: confined, and waiting for code. `"ending"`: it was told to end, or lost its link, and is not gone yet. */
export type State = "starting" | "parked" | "running" | "ending" | "ended";

export interface Inspection {
  readonly kind: "actor" | "script" | "program" | "container";
  readonly name: string;
  /** The process id on the host. */
  readonly pid: number;
  readonly state: State;
  /** In milliseconds since 1970. */
  readonly startedAt: number;
  readonly usage: Usage;
  /** Calls that wait for an answer. */
  readonly callsPending: number;
  /** What its walls refused, as far as anybody wanted to know. */
  readonly denials: number;
}
