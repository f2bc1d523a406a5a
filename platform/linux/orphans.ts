/** Children that nobody holds: their Worker was stopped before it had a descriptor of them. */
import { readdirSync, readFileSync } from "node:fs";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { P, W } from "../../syscalls/linux/numbers.ts";
import { WALL } from "../../syscalls/linux/process.ts";
import { anchorThread } from "./anchor.ts";

/**
 * Reaps those that have ended, as all do whose strings are closed, and gives whether there are others that still will. A realm that has just forked
 * one which ended at once may be told that it is gone, by ESRCH or ECHILD, where its answer would have told more. Without CONFIG_PROC_CHILDREN they stay.
 */
export function reapOrphans(): boolean {
  const found = find();
  if (found === undefined) return true;
  const { orphans, ended } = found;
  for (const pid of ended) {
    try {
      self.call("waitid", P.PID, pid, null, W.EXITED | W.NOHANG | WALL, null);
    } catch (error) {
      if (!(error instanceof SystemError && error.code === "ECHILD")) throw error; // another realm was quicker
    }
  }
  return ended.length < orphans.length;
}

/** Undefined where not all can be read, as without a free descriptor: what is held might not be seen to be. */
function find(): { orphans: readonly number[]; ended: readonly number[] } | undefined {
  const thread = anchorThread();
  try {
    const children = childrenOf(thread);
    const held = heldProcesses();
    const orphans = children.filter((pid) => !held.has(pid));
    return { orphans, ended: orphans.filter(hasEnded) };
  } catch {
    return undefined;
  }
}

/** The children of a thread of ours, none of which anything else in this process has started. */
function childrenOf(thread: number): number[] {
  const pids = read(`/proc/self/task/${thread}/children`);
  return pids.split(" ").filter(Boolean).map(Number);
}

/** Its name is its own word: the state stands behind the last parenthesis. */
const hasEnded = (pid: number) => /\) Z [^)]*$/.test(read(`/proc/${pid}/stat`));

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
