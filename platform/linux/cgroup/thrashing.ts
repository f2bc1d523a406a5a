/**
 * A group at its memory limit that does nothing any more but to give pages of files back and to read them again: its own program, most of all. The
 * kernel takes that for progress, on Linux 6.1 for up to a minute. The kernel's `accounting/psi` and `cgroup-v2` documents
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { field, stallOf } from "./counts.ts";

/** What tells of it, at one moment. */
export interface Strain {
  readonly limitBytes: number;
  /** Pages of files that it has: all that it could give back, for it has no swap. */
  readonly fileBytes: number;
  /** Bytes of such that it read again since it began. */
  readonly rereadBytes: number;
  /** How long everything in it waited for memory since it began. */
  readonly stalledMicroseconds: number;
}

/** For how long on end it has to go on. */
const LASTING_MS = 10_000;
/** A group that thrashed had a 180th of its limit left for files, and less; one that read files a half or more of it. */
const SHARE = 1 / 50;
/** All of that was read again, at least, each second: seen were from 3 to 200 times. Who reads a file once, however long it is, reads nothing again. */
const TIMES_PER_SECOND = 1;
/** And everything in it waited for so much of the time: seen were 20 % and more, where a processor is imitated and storage quick. */
const STALLED = 0.1;

const PAGE_BYTES = 4096;

export class Thrashing {
  /** How often to look. */
  static readonly EVERY_MS = 1000;
  #last: { readonly strain: Strain; readonly nowMs: number } | undefined;
  #sinceMs: number | undefined;
  #told = false;

  /** Takes a look, and says once that it thrashes. Who is calm need not be looked at before the limit is reached again. */
  see(strain: Strain, nowMs: number): "calm" | "strained" | "thrashes" {
    if (this.#told) return "calm";
    const last = this.#last;
    const strained =
      strain.fileBytes <= strain.limitBytes * SHARE && (last === undefined || isStrained(last, { strain, nowMs }));
    this.#last = strained ? { strain, nowMs } : undefined;
    this.#sinceMs = strained ? (this.#sinceMs ?? nowMs) : undefined;
    if (this.#sinceMs === undefined) return "calm";
    if (nowMs - this.#sinceMs < LASTING_MS) return "strained";
    this.#told = true;
    return "thrashes";
  }
}

type Look = { readonly strain: Strain; readonly nowMs: number };

function isStrained(last: Look, { strain, nowMs }: Look): boolean {
  const seconds = (nowMs - last.nowMs) / 1000;
  const reread = strain.rereadBytes - last.strain.rereadBytes;
  const stalled = (strain.stalledMicroseconds - last.strain.stalledMicroseconds) / 1e6;
  return reread > 0 && reread >= strain.fileBytes * TIMES_PER_SECOND * seconds && stalled >= STALLED * seconds;
}

/** Reads it of a group of v2. Undefined where the kernel does not look at pressure, where there is swap to go to, and when the group is gone. */
export function readStrain(directory: string): Strain | undefined {
  const read = (file: string) => readFileSync(join(directory, file), "utf8");
  try {
    if (read("memory.swap.max").trim() !== "0") return undefined;
    const stat = read("memory.stat");
    return {
      limitBytes: Number(read("memory.max")),
      fileBytes: field(stat, "active_file") + field(stat, "inactive_file"),
      rereadBytes: field(stat, "workingset_refault_file") * PAGE_BYTES,
      stalledMicroseconds: stallOf(read("memory.pressure")).full,
    };
  } catch {
    return undefined;
  }
}
