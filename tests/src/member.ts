/** Members of the roster that a test makes up. */
import type { Inspection } from "../../src/inspection.ts";
import { enter, inspections } from "../../src/roster.ts";
import type { Usage } from "../../src/usage.ts";

export const NOTHING: Usage = {
  cpuMs: 0,
  userMs: 0,
  systemMs: 0,
  memoryBytes: 0,
  peakBytes: 0,
  minorFaults: 0,
  majorFaults: 0,
  voluntarySwitches: 0,
  involuntarySwitches: 0,
  processes: 1,
};

/** What an actor of this name tells, which has done nothing yet. */
export function inspection(name: string, more: Partial<Inspection> = {}): Inspection {
  return {
    kind: "actor",
    name,
    pid: 1000,
    state: "running",
    startedAt: 0,
    usage: NOTHING,
    callsPending: 0,
    denials: 0,
    ...more,
  };
}

/** What others in this process left alive, for all test files share one roster. */
export async function strangers(): Promise<Inspection[]> {
  return [...(await inspections()).values()];
}

/** A member until it is disposed of; counts how often it was looked at. */
export class Made implements Disposable {
  now: Inspection;
  looks = 0;
  readonly leave: ReturnType<typeof enter>;

  constructor(name: string, more: Partial<Inspection> = {}) {
    this.now = inspection(name, more);
    this.leave = enter(this);
  }

  inspect(): Inspection {
    this.looks++;
    return this.now;
  }

  [Symbol.dispose](): void {
    this.leave();
  }
}
