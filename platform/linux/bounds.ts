/** The limits that something is kept to by a control group, while it runs; and what the group proves of its end. */

import { cpus } from "node:os";
import {
  type ContainerPlan,
  type Counters,
  type Ended,
  type Guarantee,
  type Limits,
  NotEnforced,
  type ProcessPlan,
} from "../platform.ts";
import { type Abilities, abilities } from "./abilities.ts";
import { isFenced, showsGroups } from "./cgroup/border.ts";
import type { Counts } from "./cgroup/counts.ts";
import { disksOf } from "./cgroup/disks.ts";
import { type Doors, Group } from "./cgroup/group.ts";
import type { Controller } from "./cgroup/hierarchy.ts";
import type { Budget } from "./cgroup/settings.ts";
import { type Growth, watchGrowth } from "./growth.ts";
import { leisure } from "./leisure.ts";
import { GROUP_REMEDY, groupLacks, sharedLacks } from "./plan.ts";
import { lookAtShares } from "./usage.ts";
import { cpuSeconds } from "./walls.ts";

/** What is kept to limits. */
export interface Bounded {
  readonly limits: Limits;
  /** Of one process, whose threads are its own affair: what memory it needs beside what its limits let it have, in bytes. */
  readonly own?: number;
  /** Paths whose disks its rates are about. */
  readonly paths: readonly string[];
  /** Whether there is no PID namespace whose end ends all of it. */
  readonly scattered: boolean;
  /** Whether a puppet looks after what it is about, in the same group. */
  readonly hand?: boolean;
  /**
   * Whether its group is out of its reach. Who owns that can be in one beneath, and behind a fence; otherwise a group is of use for nothing but to
   * end it.
   */
  readonly reach: "out" | "fenced" | "owned";
}

/** What a group is to keep. */
function budgetOf({ limits, own, paths, hand }: Bounded): Budget {
  return {
    memory: limits.memory + (own ?? 0),
    swap: limits.swap ?? 0,
    processes: own === undefined ? limits.processes + (hand === true ? HAND : 0) : undefined,
    cpu: limits.cpu,
    diskRead: limits.diskRead,
    diskWrite: limits.diskWrite,
    devices: limits.diskRead === undefined && limits.diskWrite === undefined ? [] : disksFor(paths),
  };
}

function disksFor(paths: readonly string[]): string[] {
  try {
    return disksOf(paths);
  } catch (error) {
    throw new NotEnforced(
      "disk",
      (error as Error).message,
      "Grant paths of a disk, or leave diskRead and diskWrite out",
    );
  }
}

/** What a puppet counts for that looks after a program, in its group and for its user. */
const HAND = 1;

/** How far above the limit RLIMIT_NPROC is. Where a group counts, that is to be the first to refuse: it also counts what it refused. */
export function processesBeside({ counted, hand }: { readonly counted: boolean; readonly hand: boolean }): number {
  if (counted) return 2 * HAND;
  return hand ? HAND : 0;
}

type Reached = NonNullable<Ended["limit"]>;

/** No machine that we know touches memory faster, or fills disks. */
const MEMORY_PER_SECOND = 8e9;

/** How often processes are looked at whose time nobody has once they are gone. */
const ORPHANS_MS = 50;

const highest = (...counts: readonly (number | undefined)[]) => {
  const known = counts.filter((each) => each !== undefined);
  return known.length === 0 ? undefined : Math.max(...known);
};

const kibibytes = (count: number | undefined) => (count === undefined ? undefined : count * 1024);

export class Bounds {
  readonly #group: Group | undefined;
  /** The same where it is out of reach: from one that its owner may change or leave, nothing is to be learnt. */
  readonly #keeping: Group | undefined;
  readonly #limits: Limits;
  /** Whether it is one process, whose own limits suffice. */
  readonly #single: boolean;
  readonly #warning: number | undefined;
  readonly #watches: { stop(): void }[] = [];
  #entered = false;
  #reached: Reached | undefined;
  #warned = false;
  #takeWarning: (() => void) | undefined;

  /** Makes the group. Throws the error of what could not be made; nothing is left then. */
  constructor(bounded: Bounded) {
    const { limits, scattered } = bounded;
    this.#limits = limits;
    this.#single = bounded.own !== undefined;
    const counted: Controller[] = [
      ...(limits.cpuTime === undefined ? [] : ["usage" as const]),
      ...(limits.disk === undefined ? [] : ["io" as const]),
      ...(scattered ? ["kill" as const] : []),
    ];
    this.#warning = limits.memoryWarning === undefined ? undefined : limits.memoryWarning + (bounded.own ?? 0);
    this.#group =
      bounded.reach === "owned"
        ? Group.make(
            {},
            counted.filter((each) => each === "kill"),
          )
        : Group.make(budgetOf(bounded), counted, { border: bounded.reach === "fenced" });
    this.#keeping = bounded.reach === "owned" ? undefined : this.#group;
  }

  /** What `start` returns, which forks the first process through the group's doors. Where that throws, the group goes. */
  of<Result>(start: (doors: Doors | undefined) => Result): Result {
    try {
      using doors = this.#group?.doors();
      this.#entered = doors !== undefined;
      return start(doors);
    } catch (error) {
      void this.#group?.end();
      throw error;
    }
  }

  /**
   * The first process is there, and has no children yet. What no group keeps, or as a total of all processes, is looked at from here.
   * @param kill ends all of it
   * @param read what it used so far; undefined once it is gone. Throws, or rejects, where nothing can be opened just now
   */
  hold(pid: number, kill: () => void, read: () => Counters | undefined | Promise<Counters | undefined>): void {
    if (!this.#entered) this.#group?.place(pid);
    const group = this.#keeping;
    const { memory, cpuTime, disk } = this.#limits;
    const govern = group?.governs("memory") === true;
    const watch = (growth: Omit<Growth, "used"> & { used(): Promise<number | undefined> }) =>
      this.#watches.push(watchGrowth({ ...growth, used: () => growth.used().catch(orUnknown) }));
    const end = (limit: Reached) => () => {
      this.#reached ??= limit;
      kill();
    };
    const look = shared(async () => await read());
    const share = { workedMs: 0 };
    // Of pages that several processes share, each has all resident: whether they are many is looked into when they seem to be.
    const bytesBelow = (least: number) => async () => {
      const resident = kibibytes((await look())?.memoryKib);
      if (resident === undefined || resident < least) return resident;
      return kibibytes(await leisure.through(lookAtShares(pid, least / 1024), share));
    };
    // What is missing one process does not go on: v2 ends all of them by itself.
    if (govern) {
      group.onMemoryEnd(kill);
      group.onThrashing(end("memory"));
    }
    if (!govern && !this.#single)
      watch({ limit: memory, perSecond: MEMORY_PER_SECOND, used: bytesBelow(memory), reached: end("memory") });
    const warning = this.#warning;
    const warn = () => {
      this.#warned = true;
      this.#warn();
    };
    if (warning !== undefined && govern) group.onMemory(warning, warn);
    else if (warning !== undefined)
      watch({ limit: warning, perSecond: MEMORY_PER_SECOND, used: bytesBelow(warning), reached: warn });
    if (cpuTime !== undefined) {
      const used = async () => this.#counts().cpuMicroseconds ?? (await look())?.cpuMicroseconds;
      const perSecond = cpus().length * 1e6;
      // A group counts those too that nobody waited for. Without one they count as they were seen.
      const everyMs = group?.governs("usage") === true || this.#single ? undefined : ORPHANS_MS;
      watch({ limit: cpuTime * 1e6, perSecond, ...(everyMs && { everyMs }), used, reached: end("cpuTime") });
    }
    if (disk !== undefined) {
      // A group of v1 does not count what the kernel writes later, and /proc not what children wrote for whom nobody waited.
      const used = async () => highest((await look())?.writtenBytes, this.#counts().writtenBytes);
      watch({ limit: disk, perSecond: MEMORY_PER_SECOND, used, reached: end("disk") });
    }
  }

  /** Calls `take` once, when more memory is in use than the limit that warns; where that came before anybody could ask, now. */
  onWarning(take: () => void): void {
    this.#takeWarning = take;
    this.#warn();
  }

  #warn(): void {
    if (this.#warned && this.#takeWarning !== undefined) queueMicrotask(this.#takeWarning); // what that throws is none of the watch's affairs
  }

  /** Whether a group is to keep the number of processes. */
  get countsProcesses(): boolean {
    return this.#keeping?.governs("pids") === true;
  }

  /** What the group counted; nothing where there is none, it is gone, or nothing can be opened just now. */
  counts(): Counts {
    try {
      return this.#counts();
    } catch (error) {
      return orUnknown(error) ?? {};
    }
  }

  /** Throws where nothing can be opened just now. */
  #counts(): Counts {
    try {
      return this.#keeping?.counts() ?? {};
    } catch (error) {
      if (GONE.has((error as NodeJS.ErrnoException).code)) return {};
      throw error;
    }
  }

  /** Ends what a PID namespace does not. */
  kill(): void {
    this.#group?.kill();
  }

  /** Removes the group when all has ended, and gives what its counts prove of that, and what was `used` in all. */
  async over(used?: Counters): Promise<Pick<Ended, "limit">> {
    for (const watch of this.#watches) watch.stop();
    const limit = this.#reached ?? limitOf(this.counts()) ?? usedUp(used, this.#limits);
    await this.#group?.end();
    return limit === undefined ? {} : { limit };
  }
}

/** How the files of a group say that somebody removed it. */
const GONE: ReadonlySet<string | undefined> = new Set(["ENOENT", "ENODEV"]);

/** What is known where the kernel refuses to tell, as where no descriptor is left: nothing. */
function orUnknown(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code === undefined) throw error;
}

/** One look for all who ask while it goes on. */
function shared<Result>(look: () => Promise<Result>): () => Promise<Result> {
  let going: Promise<Result> | undefined;
  return () => {
    going ??= look().finally(() => {
      going = undefined;
    });
    return going;
  };
}

/** Which limit had something ended, if the counts prove that one did. */
function limitOf(counts: Counts): "memory" | undefined {
  const { memoryEnds = 0, memoryReached = false } = counts; // the kernel may end it for want of memory elsewhere
  return memoryEnds > 0 && memoryReached ? "memory" : undefined;
}

/** Who used up its time, or wrote too much, and then ended was quicker than the watch. */
function usedUp(used: Counters | undefined, limits: Limits): "cpuTime" | "disk" | undefined {
  const { cpuTime = Number.POSITIVE_INFINITY, disk = Number.POSITIVE_INFINITY } = limits;
  if ((used?.cpuMicroseconds ?? 0) >= cpuTime * 1e6) return "cpuTime";
  return (used?.writtenBytes ?? 0) >= disk ? "disk" : undefined;
}

/** What each program of a container is limited to by itself, where it does not say so. @param counted whether a group keeps the number of processes */
export function rlimitsOf(
  { limits, namespaces, user }: ContainerPlan,
  process: Pick<ProcessPlan, "init" | "user">,
  counted: boolean,
): ProcessPlan["limits"] {
  if (limits === undefined) return {};
  const { memory, files, fileSize, cpuTime } = limits;
  // The kernel counts by user.
  const hand = process.init && (process.user ?? user) === user;
  const processes = limits.processes + processesBeside({ counted, hand });
  return {
    DATA: BigInt(memory),
    FSIZE: BigInt(fileSize),
    NOFILE: BigInt(files),
    ...(cpuTime === undefined ? {} : { CPU: cpuSeconds(cpuTime) }),
    // Without a namespace for users all that our user runs would count.
    ...(namespaces.includes("user") ? { NPROC: BigInt(processes) } : {}),
  };
}

/** What keeps a container to its limits; undefined for one that has none. Throws NotEnforced for a limit that nothing here can keep. */
export function boundsOf(
  plan: ContainerPlan,
  { sandboxed, hand }: { readonly sandboxed: boolean; readonly hand: boolean },
): Bounds | undefined {
  const { limits, namespaces, root } = plan;
  if (limits === undefined) return undefined;
  const binds = (root?.mounts ?? []).filter((each) => each.kind === "bind");
  const reach = sandboxed ? reachThrough(binds.filter(({ write }) => write)) : reachOf(plan);
  const able = reach === "out" ? abilities() : ungoverned(abilities(), reach === "fenced" ? "cgroup v2" : undefined);
  if (!sandboxed) refuseLack({ ...groupLacks(limits, able), ...sharedLacks(limits, able), ...memoryLack(plan, able) });
  const lent = binds.map(({ source }) => source);
  return new Bounds({ limits, paths: ["/", ...lent], scattered: !namespaces.includes("pid"), reach, hand });
}

/** In a sandbox nobody may mount, or write to groups, unless they are granted for that. */
export function reachThrough(writable: Parameters<typeof showsGroups>[0]): Bounded["reach"] {
  return showsGroups(writable) ? "owned" : "out";
}

/** What this machine can do for a sandbox that may write there. */
export function abilitiesFor(writable: Parameters<typeof showsGroups>[0]): Abilities {
  const able = abilities();
  return reachThrough(writable) === "out" ? able : ungoverned(able, undefined, GRANTED);
}

/** Who is the owner of the group outside may mount the groups in a container, and write to its own; in a sandbox it may not mount. */
function reachOf(plan: ContainerPlan): Bounded["reach"] {
  const owner = process.geteuid!();
  const isOwner = plan.maps?.uids.some(({ outside, count }) => owner >= outside && owner < outside + count) ?? true;
  if (abilities().root && !isOwner) return "out";
  return !abilities().root && isFenced(plan) ? "fenced" : "owned";
}

type Lacks = ReturnType<typeof groupLacks>;

/** Of a sandbox that was said before, and perhaps allowed. */
function refuseLack(lacks: Lacks): void {
  const [lack] = Object.entries(lacks);
  if (lack !== undefined) throw new NotEnforced(lack[0] as Guarantee, ...lack[1], { allowable: false });
}

/** A container's programs may share memory that nobody has resident, and no filter of ours is there to forbid that. */
function memoryLack({ memoryAsked }: ContainerPlan, { groups = {}, refusals, remedies = {} }: Abilities): Lacks {
  if (memoryAsked !== true || groups.memory !== undefined) return {};
  const reason = refusals["cgroup memory"] ?? "there is none";
  return { memory: [`no control group can keep what its processes share: ${reason}`, remedies.memory ?? GROUP_REMEDY] };
}

const OWNED = {
  reason: "what runs in this container is the owner of its group outside, and could change it",
  remedy:
    "Run it in a sandbox, or as root in a container whose ids have none of root's; in v2 it is enough that the container shows no control groups",
};
const GRANTED = {
  reason: "it is granted control groups to write to, and could change its own",
  remedy: "Grant nothing for writing where control groups are mounted, nor what lies above",
};

/** A machine with no control groups but those of the version that keeps what is asked for. */
function ungoverned(able: Abilities, kept: string | undefined, { reason, remedy } = OWNED): Abilities {
  const all = Object.entries(able.groups ?? {});
  const lost = all.filter(([, version]) => version !== kept).map(([controller]) => controller);
  return {
    ...able,
    groups: Object.fromEntries(all.filter(([, version]) => version === kept)),
    refusals: { ...able.refusals, ...Object.fromEntries(lost.map((controller) => [`cgroup ${controller}`, reason])) },
    remedies: { ...able.remedies, ...Object.fromEntries(lost.map((controller) => [controller, remedy])) },
  };
}
