/** What a process has of the machine's memory. */
import { readFileSync } from "node:fs";

/** The share of memory that is a process's own or its part of what several have mapped, in MiB. `proc_pid_smaps(5)` */
export function shareOf(process: number | "self"): number {
  const text = readFileSync(`/proc/${process}/smaps_rollup`, "utf8");
  return Number(/^Pss: +(\d+) kB$/m.exec(text)?.[1]) / 1024;
}
