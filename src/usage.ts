/** What somebody used. */
import type { Counters, Stalls } from "../platform/index.ts";

/**
 * What somebody and all that it started used, up to now, or in all once it has ended. A process counts for its parent when that has waited for it:
 * where no control group counts, one that ignores the ends of its children hides what they used. What nothing here can tell is left out.
 */
export interface Usage {
  /** Processor time in milliseconds: the code's own, and the kernel's work for it. */
  readonly cpuMs: number;
  readonly userMs: number;
  readonly systemMs: number;
  /** Resident memory now, with pages that several processes share counted for each or, in a control group, what all are charged for; 0 at the end. */
  readonly memoryBytes: number;
  /** The most that one process had resident or, in a control group, that all were charged for. */
  readonly peakBytes: number;
  /** Pages that were there already, and pages that came from storage. */
  readonly minorFaults: number;
  readonly majorFaults: number;
  /** How often a thread waited, and how often it had to let others go first. While it runs, only of threads that still do. */
  readonly voluntarySwitches: number;
  readonly involuntarySwitches: number;
  /** What came from storage, and what was to be written there; to a tmpfs, nothing. */
  readonly readBytes?: number;
  readonly writtenBytes?: number;
  /** Processes and threads now. */
  readonly processes: number;
  /** How many more a limit refused, where a control group counts them. */
  readonly refusedProcesses?: number;
  /** Time lost by waiting for a processor, for memory to be given back, or for storage, where a control group of v2 counts it. */
  readonly stalls?: { readonly [Scarce in keyof Stalls]: Stall };
  /** What went through an actor's channel, as the host counted it: in is what the actor received. */
  readonly messagesIn?: number;
  readonly messagesOut?: number;
  readonly bytesIn?: number;
  readonly bytesOut?: number;
}

/** In milliseconds: `some` while one of them waited at least, `full` while all did that had something to do. */
export interface Stall {
  readonly someMs: number;
  readonly fullMs: number;
}

/** What went through an actor's channel. */
export type Traffic = Pick<Required<Usage>, "messagesIn" | "messagesOut" | "bytesIn" | "bytesOut">;

/** Counts of the kernel's in the units of users. */
export function usageOf(counters: Counters, traffic?: Traffic): Usage {
  const { readBytes, writtenBytes, refusedProcesses, stalls } = counters;
  return {
    cpuMs: counters.cpuMicroseconds / 1000,
    userMs: counters.userMicroseconds / 1000,
    systemMs: counters.systemMicroseconds / 1000,
    memoryBytes: counters.memoryKib * 1024,
    peakBytes: counters.peakKib * 1024,
    minorFaults: counters.minorFaults,
    majorFaults: counters.majorFaults,
    voluntarySwitches: counters.voluntarySwitches,
    involuntarySwitches: counters.involuntarySwitches,
    ...(readBytes === undefined ? {} : { readBytes }),
    ...(writtenBytes === undefined ? {} : { writtenBytes }),
    processes: counters.processes,
    ...(refusedProcesses === undefined ? {} : { refusedProcesses }),
    ...(stalls && { stalls: { cpu: stallOf(stalls.cpu), memory: stallOf(stalls.memory), io: stallOf(stalls.io) } }),
    ...traffic,
  };
}

function stallOf({ some, full }: Stalls["cpu"]): Stall {
  return { someMs: some / 1000, fullMs: full / 1000 };
}
