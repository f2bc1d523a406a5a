/** What this machine can do: asked of the kernel once, by doing it in a puppet and looking. */
import { readlinkSync } from "node:fs";
import { SystemError } from "../../syscalls/error.ts";
import { self } from "../../syscalls/kernel.ts";
import { capget } from "../../syscalls/linux/capability.ts";
import { landlockErrata } from "../../syscalls/linux/landlock.ts";
import { CAP, CLONE } from "../../syscalls/linux/numbers.ts";
import { hasFilters } from "../../syscalls/linux/seccomp.ts";
import type { Namespace } from "../platform.ts";
import type { Controller } from "./cgroup/hierarchy.ts";
import { findTrees } from "./cgroup/home.ts";
import { Batch } from "./frame.ts";
import { idsOf, isRoot, writeIdMaps } from "./ids.ts";
import { usableAbi } from "./landlock.ts";
import { endPuppet, startPuppet } from "./launch.ts";
import { enterRoot, type Root, rootOf } from "./walls.ts";

/** The namespaces of a sandbox, in the words of namespaces(7). */
export const NAMESPACES = {
  mount: CLONE.NEWNS,
  pid: CLONE.NEWPID,
  network: CLONE.NEWNET,
  ipc: CLONE.NEWIPC,
  uts: CLONE.NEWUTS,
  cgroup: CLONE.NEWCGROUP,
} as const;

/** What tells a namespace of a process from others of its kind. */
export function namespaceOf(process: number | "self", name: Namespace): string {
  const file = { mount: "mnt", network: "net" }[name as string] ?? name;
  return readlinkSync(`/proc/${process}/ns/${file}`);
}

export interface Abilities {
  /** 0 for none. */
  readonly landlock: number;
  /** Those that its Landlock has fixed, by bits; left out for none. */
  readonly errata?: number;
  readonly seccomp: boolean;
  /** CLONE.NEW* of those that can be made, together with NEWUSER where the others need that. */
  readonly namespaces: bigint;
  /** How a root of its own gets its /proc; undefined where no root can be built. */
  readonly proc: Root["proc"] | undefined;
  /** Whether this process may become any user: it is root and not a mapped one. */
  readonly root: boolean;
  /** Whether this process can give up capabilities from the bounding set, too, without a user namespace. */
  readonly capable: boolean;
  /** By which control groups this process can have something governed or counted: `cgroup v1`, `cgroup v2`. Left out for none. */
  readonly groups?: Readonly<Partial<Record<Controller, string>>>;
  /** What would let this process have something governed or counted that no group does now: commands. */
  readonly remedies?: Readonly<Partial<Record<Controller, string>>>;
  /** What the kernel said of each thing that could not be done. */
  readonly refusals: Readonly<Record<string, string>>;
}

/** What is for want of something that may be there the next time says nothing of the machine. */
const PASSING: readonly string[] = ["EAGAIN", "ENOMEM", "EMFILE", "ENFILE"];

let known: Abilities | undefined;

/** The abilities of this machine for this process. Asking costs some milliseconds, once. Throws the SystemError of what there is no room for now. */
export function abilities(): Abilities {
  known ??= probe();
  return known;
}

function probe(): Abilities {
  const refusals: Record<string, string> = {};
  const works = (name: string, act: () => void): boolean => {
    try {
      act();
      return true;
    } catch (error) {
      if (!(error instanceof SystemError) || PASSING.includes(error.code)) throw error;
      refusals[name] = error.message;
      return false;
    }
  };

  // First, for it may move this process, and what was forked before stays where it is.
  const { trees, lacks, remedies } = findTrees();
  for (const [controller, reason] of Object.entries(lacks)) refusals[`cgroup ${controller}`] = reason;
  const all = Object.values(NAMESPACES).reduce((bits, bit) => bits | bit, 0n);
  const { effective } = capget(self);
  const holds = (capability: number) => (effective & (1n << BigInt(capability))) !== 0n;
  const user = works("user", () => tryNamespaces(CLONE.NEWUSER)) ? CLONE.NEWUSER : 0n;
  let namespaces: bigint = user;
  if (user !== 0n || holds(CAP.SYS_ADMIN)) {
    if (works("all", () => tryNamespaces(user | all))) namespaces |= all;
    else
      for (const [name, bit] of Object.entries(NAMESPACES))
        if (works(name, () => tryNamespaces(user | bit))) namespaces |= bit;
  }
  let proc: Root["proc"] | undefined;
  if ((namespaces & CLONE.NEWNS) !== 0n) {
    if (works("proc", () => tryNamespaces(namespaces, "mount"))) proc = "mount";
    else if (works("root", () => tryNamespaces(namespaces, "bind"))) proc = "bind";
  }
  return {
    landlock: usableAbi(),
    errata: landlockErrata(),
    seccomp: hasFilters(),
    namespaces,
    proc,
    root: isRoot(),
    capable: holds(CAP.SETPCAP),
    groups: Object.fromEntries(
      trees.flatMap(({ version, controllers }) => controllers.map((each) => [each, `cgroup v${version}`])),
    ),
    remedies,
    refusals,
  };
}

/** Makes these namespaces and, if a root is to be built, an empty one in them, and ends. Throws what the kernel refused. */
function tryNamespaces(namespaces: bigint, proc?: Root["proc"]): void {
  const puppet = startPuppet({ namespaces, descriptors: [] });
  try {
    const ids = idsOf(isRoot());
    if ((namespaces & CLONE.NEWUSER) !== 0n) writeIdMaps(puppet.pid, ids);
    if (proc === undefined) return;
    const batch = new Batch();
    enterRoot(batch, rootOf([], proc), ids);
    puppet.kernel.carryOut(batch);
  } finally {
    endPuppet(puppet);
  }
}
