/** Who is alive in this process, and what became of those who are not. */
import type { Exit } from "./exit.ts";
import type { Inspection } from "./inspection.ts";

/** One that can be looked at. */
export interface Member {
  /** Costs no more than reading a few files of /proc. Never throws: what cannot be known any more is 0. */
  inspect(): Inspection;
}

const alive = new Set<Member>();

/**
 * Takes a member in, from its start. The function that comes back takes it out again, once it has ended and its last usage is known; a second call does
 * nothing.
 */
export function enter(member: Member): (exit?: Exit) => void {
  alive.add(member);
  return (exit) => {
    if (!alive.delete(member)) return;
    for (const take of departures) take(member.inspect(), exit);
  };
}

/** Takes a member out that goes on as another one. */
export function withdraw(member: Member): void {
  alive.delete(member);
}

type Departure = (last: Inspection, exit: Exit | undefined) => void;
const departures = new Set<Departure>();

/** Has `take` called with the last of each member that leaves. */
export function onDeparture(take: Departure): Disposable {
  departures.add(take);
  return { [Symbol.dispose]: () => void departures.delete(take) };
}

export const isAlive = (member: Member): boolean => alive.has(member);

/** How long others wait for their turn while members are looked at. */
const SLICE_MS = 5;

/** Looks at those that are alive, in the order in which they came: in turns, for many take a while. Some may have left by the end. */
export async function inspections(most = Number.POSITIVE_INFINITY): Promise<Map<Member, Inspection>> {
  const seen = new Map<Member, Inspection>();
  let began = performance.now();
  for (const member of [...alive]) {
    if (seen.size === most) break;
    if (!alive.has(member)) continue;
    seen.set(member, member.inspect());
    if (performance.now() - began < SLICE_MS) continue;
    await new Promise(setImmediate);
    began = performance.now();
  }
  return seen;
}

export const count = (): number => alive.size;
