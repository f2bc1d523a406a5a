/** When and where a process runs, sched(7): policies, niceness, processors, and its turn at disks. Process id 0 is the caller. */
import type { Kernel } from "../kernel.ts";
import { type Memory, Struct } from "../struct.ts";
import { IOPRIO_CLASS, IOPRIO_WHO, PRIO, SCHED, SCHED_FLAG } from "./numbers.ts";

const SCHED_ATTR = new Struct({
  size: "u32",
  sched_policy: "u32",
  sched_flags: "u64",
  sched_nice: "i32",
  sched_priority: "u32",
  sched_runtime: "u64",
  sched_deadline: "u64",
  sched_period: "u64",
}); // as it was before Linux 5.3 added hints, for that is what every kernel takes
const SCHED_PARAM = new Struct({ sched_priority: "i32" });

/** A policy, with what belongs to it. */
export type Schedule = (
  | { readonly policy: "other" | "batch"; readonly nice?: number }
  | { readonly policy: "idle" }
  /** @param priority 1 to 99 */
  | { readonly policy: "fifo" | "rr"; readonly priority: number }
  /** Without a period, it is the deadline. */
  | {
      readonly policy: "deadline";
      readonly runtimeNs: bigint;
      readonly deadlineNs: bigint;
      readonly periodNs?: bigint;
    }
) & {
  /** Whether children begin with the ordinary policy. Needed for "deadline", whose threads may not fork otherwise. */
  readonly resetOnFork?: boolean;
};

const POLICIES = {
  other: SCHED.NORMAL,
  batch: SCHED.BATCH,
  idle: SCHED.IDLE,
  fifo: SCHED.FIFO,
  rr: SCHED.RR,
  deadline: SCHED.DEADLINE,
} as const;

/** Sets the policy; niceness that is not given stays as it is. `sched_setscheduler(2)`, and where that cannot say it `sched_setattr(2)` */
export function setSchedule(kernel: Kernel, schedule: Schedule, pid = 0): void {
  if (!Object.hasOwn(POLICIES, schedule.policy))
    throw new TypeError(`Cannot schedule by ${schedule.policy}: expected one of ${Object.keys(POLICIES).join(", ")}`);
  const policy = POLICIES[schedule.policy];
  if (schedule.policy === "deadline" || ("nice" in schedule && schedule.nice !== undefined)) {
    kernel.call("sched_setattr", pid, attributesOf(schedule), 0);
  } else {
    const reset = schedule.resetOnFork ? SCHED.RESET_ON_FORK : 0;
    const priority = "priority" in schedule ? schedule.priority : 0;
    kernel.call("sched_setscheduler", pid, policy | reset, SCHED_PARAM.encode({ sched_priority: priority }));
  }
}

function attributesOf(schedule: Schedule): Memory {
  return SCHED_ATTR.encode({
    size: SCHED_ATTR.size,
    sched_policy: POLICIES[schedule.policy],
    sched_flags: schedule.resetOnFork ? SCHED_FLAG.RESET_ON_FORK : 0n,
    ...("nice" in schedule ? { sched_nice: schedule.nice ?? 0 } : {}),
    ...(schedule.policy === "deadline" && {
      sched_runtime: schedule.runtimeNs,
      sched_deadline: schedule.deadlineNs,
      sched_period: schedule.periodNs ?? 0n,
    }),
  });
}

/** The policy of a process with all that belongs to it. `sched_getattr(2)` */
export function getSchedule(kernel: Kernel, pid = 0): Schedule {
  const bytes = new Uint8Array(SCHED_ATTR.size);
  kernel.call("sched_getattr", pid, bytes, bytes.length, 0);
  const attr = SCHED_ATTR.decode(bytes);
  const [policy] = Object.entries(POLICIES).find(([, number]) => number === attr.sched_policy) ?? [];
  const reset = (attr.sched_flags & SCHED_FLAG.RESET_ON_FORK) === 0n ? {} : { resetOnFork: true };
  switch (policy as keyof typeof POLICIES | undefined) {
    case "other":
    case "batch":
      return { policy: policy as "other" | "batch", nice: attr.sched_nice, ...reset };
    case "idle":
      return { policy: "idle", ...reset };
    case "fifo":
    case "rr":
      return { policy: policy as "fifo" | "rr", priority: attr.sched_priority, ...reset };
    case "deadline":
      return {
        policy: "deadline",
        runtimeNs: attr.sched_runtime,
        deadlineNs: attr.sched_deadline,
        periodNs: attr.sched_period,
        ...reset,
      };
    case undefined:
      throw new RangeError(`Cannot name scheduling policy ${attr.sched_policy}`);
  }
}

/** Sets the niceness, -20 for the most favoured to 19. The kernel takes what is beyond for the nearest. `setpriority(2)` */
export function setNice(kernel: Kernel, nice: number, pid = 0): void {
  kernel.call("setpriority", PRIO.PROCESS, pid, nice);
}

/** `getpriority(2)` */
export function getNice(kernel: Kernel, pid = 0): number {
  // The call itself gives 20 - niceness, so that no niceness is taken for an error.
  return PRIO.MAX - kernel.call("getpriority", PRIO.PROCESS, pid);
}

/** How a process waits for disks: with "realtime" and "best-effort" go levels from 0, the first served, to 7. */
export type IoPriority =
  | { readonly class: "realtime" | "best-effort"; readonly level: number }
  /** "none" follows the niceness. */
  | { readonly class: "none" | "idle" };

const IO_CLASSES = {
  none: IOPRIO_CLASS.NONE,
  realtime: IOPRIO_CLASS.RT,
  "best-effort": IOPRIO_CLASS.BE,
  idle: IOPRIO_CLASS.IDLE,
} as const;
const IO_CLASS_SHIFT = 13;
const IO_LEVELS = 8;

/** `ioprio_set(2)` */
export function setIoPriority(kernel: Kernel, priority: IoPriority, pid = 0): void {
  const level = "level" in priority ? priority.level : 0;
  // The kernel has taken the higher bits of a level for hints since Linux 6.5.
  if (!Object.hasOwn(IO_CLASSES, priority.class) || !Number.isInteger(level) || level < 0 || level >= IO_LEVELS)
    throw new RangeError(
      `Cannot set I/O priority ${priority.class} ${level}: expected a class of ${Object.keys(IO_CLASSES).join(", ")}, and a level from 0 to 7`,
    );
  kernel.call("ioprio_set", IOPRIO_WHO.PROCESS, pid, (IO_CLASSES[priority.class] << IO_CLASS_SHIFT) | level);
}

/** `ioprio_get(2)` */
export function getIoPriority(kernel: Kernel, pid = 0): IoPriority {
  const value = kernel.call("ioprio_get", IOPRIO_WHO.PROCESS, pid);
  const [name] = Object.entries(IO_CLASSES).find(([, number]) => number === value >> IO_CLASS_SHIFT) ?? [];
  if (name === "realtime" || name === "best-effort") return { class: name, level: value & (IO_LEVELS - 1) };
  return { class: name === "idle" ? "idle" : "none" };
}

/** Room for all processors that a kernel can be built for. */
const PROCESSORS = 8192;

/** Lets the thread run on these processors alone; EINVAL where none of them is there. `sched_setaffinity(2)` */
export function setAffinity(kernel: Kernel, processors: readonly number[], pid = 0): void {
  const mask = new Uint8Array(PROCESSORS / 8);
  for (const processor of processors) {
    if (!Number.isInteger(processor) || processor < 0 || processor >= PROCESSORS)
      throw new RangeError(`Cannot run on processor ${processor}: expected a number from 0 to ${PROCESSORS - 1}`);
    mask[processor >> 3]! |= 1 << (processor & 7);
  }
  kernel.call("sched_setaffinity", pid, mask.length, mask);
}

/** The processors on which the thread may run. `sched_getaffinity(2)` */
export function getAffinity(kernel: Kernel, pid = 0): number[] {
  const mask = new Uint8Array(PROCESSORS / 8);
  kernel.call("sched_getaffinity", pid, mask.length, mask);
  return Array.from({ length: PROCESSORS }, (_, processor) => processor).filter(
    (processor) => (mask[processor >> 3]! & (1 << (processor & 7))) !== 0,
  );
}
