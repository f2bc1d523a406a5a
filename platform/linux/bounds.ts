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
import type { Counts } from "./cgroup/counts.ts";
import { disksOf } from "./cgroup/disks.ts";
import { Group } from "./cgroup/group.ts";
import type { Controller } from "./cgroup/hierarchy.ts";
import type { Budget } from "./cgroup/settings.ts";
import { type Growth, watchGrowth } from "./growth.ts";
import { groupLacks, writtenLack } from "./plan.ts";
import { shareOfTree } from "./usage.ts";

/** What is kept to limits. */
export interface Bounded {
  readonly limits: Limits;
  /** Of one process, whose threads are its own affair: what memory it needs beside what its limits let it have, in bytes. */
  readonly own?: number;
  /** Paths whose disks its rates are about. */
  readonly paths: readonly string[];
  /** Whether there is no PID namespace whose end ends all of it. */
  readonly scattered: boolean;
  /** Whether a group that it is in is out of its reach; otherwise one is of use for nothing but to end it. */
  readonly governed: boolean;
}

/** What a group is to keep. */
function budgetOf({ limits, own, paths }: Bounded): Budget {
  return {
    memory: limits.memory + (own ?? 0),
    swap: limits.swap ?? 0,
    processes: own === undefined ? limits.processes + HAND : undefined,
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

/** The puppet that looks after a program is in its group. */
const HAND = 1;

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
  readonly #limits: Limits;
  /** Whether it is one process, whose own limits suffice. */
  readonly #single: boolean;
  readonly #warning: number | undefined;
  readonly #watches: { stop(): void }[] = [];
  #reached: Reached | undefined;
  /** Is told once, when more memory is in use than the limit that warns. */
  onWarning: () => void = () => {};

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
    this.#group = bounded.governed
      ? Group.make(budgetOf(bounded), counted)
      : Group.make(
          {},
          counted.filter((each) => each === "kill"),
        );
  }

  /** What `start` returns. Where that throws, the group goes. */
  of<Result>(start: () => Result): Result {
    try {
      return start();
    } catch (error) {
      void this.#group?.end();
      throw error;
    }
  }

  /**
   * Puts the first process in, which has no children yet. What no group keeps, or as a total of all processes, is looked at from here.
   * @param kill ends all of it
   * @param read what it used so far; undefined once it is gone
   */
  hold(pid: number, kill: () => void, read: () => Counters | undefined): void {
    const group = this.#group;
    group?.place(pid);
    const { memory, cpuTime, disk } = this.#limits;
    const govern = group?.governs("memory") === true;
    const watch = (growth: Growth) => this.#watches.push(watchGrowth(growth));
    const end = (limit: Reached) => () => {
      this.#reached ??= limit;
      kill();
    };
    // Of pages that several processes share, each has all resident: whether they are many is looked into when they seem to be.
    const bytesBelow = (least: number) => () => {
      const resident = kibibytes(read()?.memoryKib);
      return resident === undefined || resident < least ? resident : kibibytes(shareOfTree(pid));
    };
    // What is missing one process does not go on: v2 ends all of them by itself.
    if (govern) group.onMemoryEnd(kill);
    else if (!this.#single)
      watch({ limit: memory, perSecond: MEMORY_PER_SECOND, used: bytesBelow(memory), reached: end("memory") });
    const warning = this.#warning;
    const warn = () => this.onWarning();
    if (warning !== undefined && govern) group.onMemory(warning, warn);
    else if (warning !== undefined)
      watch({ limit: warning, perSecond: MEMORY_PER_SECOND, used: bytesBelow(warning), reached: warn });
    if (cpuTime !== undefined) {
      const used = () => this.counts().cpuMicroseconds ?? read()?.cpuMicroseconds;
      const perSecond = cpus().length * 1e6;
      // A group counts those too that nobody waited for. Without one they count as they were seen.
      const everyMs = group?.governs("usage") === true || this.#single ? undefined : ORPHANS_MS;
      watch({ limit: cpuTime * 1e6, perSecond, ...(everyMs && { everyMs }), used, reached: end("cpuTime") });
    }
    if (disk !== undefined) {
      // A group of v1 does not count what the kernel writes later, and /proc not what children wrote for whom nobody waited.
      const used = () => highest(read()?.writtenBytes, this.counts().writtenBytes);
      watch({ limit: disk, perSecond: MEMORY_PER_SECOND, used, reached: end("disk") });
    }
  }

  /** What the group counted; nothing where there is none, or it is gone. */
  counts(): Counts {
    try {
      return this.#group?.counts() ?? {};
    } catch {
      return {};
    }
  }

  /** Ends what a PID namespace does not. */
  kill(): void {
    this.#group?.kill();
  }

  /** Removes the group when all has ended, and gives what its counts prove of that. */
  async over(): Promise<Pick<Ended, "limit">> {
    for (const watch of this.#watches) watch.stop();
    const limit = this.#reached ?? limitOf(this.counts());
    await this.#group?.end();
    return limit === undefined ? {} : { limit };
  }
}

/** Which limit had something ended, if the counts prove that one did. */
function limitOf(counts: Counts): "memory" | undefined {
  return (counts.memoryEnds ?? 0) > 0 ? "memory" : undefined;
}

/** What each program of a container is limited to by itself, where it does not say so. */
export function rlimitsOf({ limits, namespaces }: ContainerPlan): ProcessPlan["limits"] {
  if (limits === undefined) return {};
  const { memory, processes, files, fileSize, cpuTime } = limits;
  return {
    DATA: BigInt(memory),
    FSIZE: BigInt(fileSize),
    NOFILE: BigInt(files),
    ...(cpuTime === undefined ? {} : { CPU: BigInt(Math.ceil(cpuTime) + 1) }),
    // Without a namespace for users all that our user runs would count.
    ...(namespaces.includes("user") ? { NPROC: BigInt(processes) } : {}),
  };
}

/** What keeps a container to its limits; undefined for one that has none. Throws NotEnforced for a limit that nothing here can keep. */
export function boundsOf({ limits, namespaces, root }: ContainerPlan, sandboxed: boolean): Bounds | undefined {
  if (limits === undefined) return undefined;
  // What runs in a user's container is that user outside, who owns the group, and may mount and move there; in a sandbox it may not.
  const governed = sandboxed || abilities().root;
  const able = governed ? abilities() : ungoverned(abilities());
  // Of a sandbox that was said before, and perhaps allowed.
  const written = writtenLack(limits, able);
  const lacks: ReturnType<typeof groupLacks> = { ...groupLacks(limits, able), ...(written && { disk: written }) };
  const [lack] = sandboxed ? [] : Object.entries(lacks);
  if (lack !== undefined) throw new NotEnforced(lack[0] as Guarantee, ...lack[1], { allowable: false });
  const lent = (root?.mounts ?? []).flatMap((each) => (each.kind === "bind" ? [each.source] : []));
  return new Bounds({ limits, paths: ["/", ...lent], scattered: !namespaces.includes("pid"), governed });
}

/** A machine whose control groups keep nothing of what is asked for. */
function ungoverned(able: Abilities): Abilities {
  const reason = "what runs in a container of an ordinary user can change its own group";
  const refusals = Object.fromEntries(
    Object.keys(able.groups ?? {}).map((controller) => [`cgroup ${controller}`, reason]),
  );
  return { ...able, groups: {}, refusals: { ...able.refusals, ...refusals } };
}
