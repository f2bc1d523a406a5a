/** What groups of v1 leave those beneath them of the processors. The kernel's `sched-bwc` document */
import { dirname, join } from "node:path";
import { read } from "./search.ts";
import { PERIOD_US } from "./settings.ts";

/**
 * How many processors' worth of time a group that is made in a directory may have, by that one and those above it; infinite where none is limited. v1
 * refuses to note more (EINVAL), where v2 takes it and keeps the less.
 */
export function mostCpuIn(directory: string): number {
  let most = Number.POSITIVE_INFINITY;
  for (let group = directory; ; group = dirname(group)) {
    const quota = Number.parseInt(read(join(group, "cpu.cfs_quota_us")), 10);
    if (Number.isNaN(quota)) return most; // the group of all has none, and above it there is none
    const period = Number.parseInt(read(join(group, "cpu.cfs_period_us")), 10);
    if (quota > 0) most = Math.min(most, Math.floor((quota / period) * PERIOD_US) / PERIOD_US);
  }
}
