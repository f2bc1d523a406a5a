/** Children that nobody holds: their Worker was stopped before it had a descriptor of them. */
import { readdirSync, readFileSync } from "node:fs";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { P } from "../../syscalls/linux/numbers.ts";
import { reap } from "../../syscalls/linux/process.ts";
import { anchorThread } from "./anchor.ts";

/**
 * Reaps those that have ended, as all do whose strings are closed, and gives whether there are others that still will. A realm that has just forked
 * one which ended at once may be told that it is gone, by ESRCH or ECHILD, where its answer would have told more. Without CONFIG_PROC_CHILDREN they stay.
 */
export function reapOrphans(): boolean {
  const orphans = find();
  return orphans === undefined || orphans.filter((pid) => !isGone(pid)).length > 0;
}

/** Undefined where not all can be read, as without a free descriptor: what is held might not be seen to be. */
function find(): readonly number[] | undefined {
  const thread = anchorThread();
  try {
    const children = childrenOf(thread);
    const held = heldProcesses();
    return children.filter((pid) => !held.has(pid));
  } catch {
    return undefined;
  }
}

/** What `/proc` calls a zombie may be one whose first thread alone has ended. The kernel reaps it with the last. */
function isGone(orphan: number): boolean {
  try {
    return reap(self, orphan, P.PID) !== undefined;
  } catch (error) {
    if (error instanceof SystemError && error.code === "ECHILD") return true; // another realm was quicker
    throw error;
  }
}

/** The children of a thread of ours, none of which anything else in this process has started. */
function childrenOf(thread: number): number[] {
  const pids = read(`/proc/self/task/${thread}/children`);
  return pids.split(" ").filter(Boolean).map(Number);
}

/** The processes of which this one has a pidfd. */
function heldProcesses(): Set<number> {
  const texts = readdirSync("/proc/self/fdinfo").map((number) => read(`/proc/self/fdinfo/${number}`));
  return new Set(texts.map((text) => Number(/^Pid:\s+(\d+)$/m.exec(text)?.[1])));
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return ""; // it is gone, or closed
    throw error;
  }
}
