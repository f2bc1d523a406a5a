/** Where a container's puppet has its descriptors: away from the numbers that programs ask for. */
import type { ProcessPlan } from "../platform.ts";

/** The strings of its child, then what it holds for that. */
export const CHILD = 100;
export const HELD = 101;
/** Its signalfd. */
export const SIGNALS = 201;
/** Its timerfd. */
export const TIMER = 202;
/** What it takes from the host in order to set up: namespaces and mounts. */
export const TAKEN = 210;

/** Where a container's only program has its strings: where it asks for nothing, behind what is held for it. */
export function stringsFor({ descriptors }: ProcessPlan): number {
  if (!descriptors.has(CHILD)) return CHILD;
  let number = SIGNALS - 2;
  while (descriptors.has(number)) number--;
  return number;
}
