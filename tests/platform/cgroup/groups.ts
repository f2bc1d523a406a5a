// Groups for tests: real ones, where this process may make any.
import { readFileSync } from "node:fs";
import type { Controller } from "../../../platform/linux/cgroup/hierarchy.ts";
import { findTrees } from "../../../platform/linux/cgroup/home.ts";
import { testIf } from "../../syscalls/requirement.ts";

/** A test for machines on which this user can have groups with these controllers. */
export function testGroups(...controllers: readonly Controller[]) {
  const { lacks } = findTrees();
  const missing = controllers.flatMap((each) => (lacks[each] === undefined ? [] : [`${each}: ${lacks[each]}`]));
  return testIf("cgroup", missing.length === 0, missing.join("; "));
}

/** Whether a process runs, and is no zombie. */
export function runs(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^State:\s*[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

export async function until(reached: () => boolean): Promise<void> {
  while (!reached()) await Bun.sleep(5);
}
