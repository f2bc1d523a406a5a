/** The walls, as the puppet builds them: each function is a few calls, and their order is the last one's business. */

import { dirname } from "node:path";
import type { Kernel } from "../../syscalls/kernel.ts";
import {
  capset,
  clearAmbient,
  dropBounding,
  LOCKED_SECUREBITS,
  lastCapability,
  setSecurebits,
} from "../../syscalls/linux/capability.ts";
import { changeDirectory, close, duplicate, makeDirectory, open } from "../../syscalls/linux/file.ts";
import { allowBeneath, allowPort, createRuleset, restrictSelf } from "../../syscalls/linux/landlock.ts";
import { attach, cloneTree, detach, mount, pivotRoot, setMountAttributes } from "../../syscalls/linux/mount.ts";
import { MOUNT_ATTR, MS, O } from "../../syscalls/linux/numbers.ts";
import { becomeUser, leaveGroups, setLimit } from "../../syscalls/linux/process.ts";
import type { Limits } from "../platform.ts";
import type { Ids } from "./ids.ts";
import type { Confinement } from "./landlock.ts";
import { openSource } from "./root.ts";

/** One file or directory of the host that appears inside. */
export interface Bind {
  readonly source: string;
  readonly target: string;
  readonly directory: boolean;
  readonly writable: boolean;
  /** Whether its programs may be executed. */
  readonly executable: boolean;
  /** The puppet's descriptor of the detached mount, where the host has made it; otherwise the puppet opens the source. */
  readonly tree?: number;
}

/** A root as data. */
export interface Root {
  readonly directories: readonly string[];
  /** Files that only exist in order to be mounted on. */
  readonly placeholders: readonly string[];
  readonly binds: readonly Bind[];
  /** A proc of its own, or that of the host where something covers parts of it and the kernel then refuses a new one. */
  readonly proc: "mount" | "bind";
}

/** A place that is a directory on every machine that runs Bun. In this mount namespace alone, the new root grows on it. */
const BASE = "/proc";

/** The root for these binds: the directories above each, unless they lie within another bind, which then has them. */
export function rootOf(binds: readonly Bind[], proc: Root["proc"]): Root {
  const sorted = binds.toSorted((a, b) => a.target.length - b.target.length);
  const directories = new Set<string>(["/proc"]);
  const placeholders: string[] = [];
  for (const { target, directory } of sorted) {
    if (sorted.some((other) => other.directory && target.startsWith(other.target === "/" ? "/" : `${other.target}/`)))
      continue;
    for (const each of downTo(directory ? target : dirname(target))) directories.add(each);
    if (!directory) placeholders.push(target);
  }
  return { directories: [...directories], placeholders, binds: sorted, proc };
}

/** The same root with an empty directory, in which nothing of the host appears. */
export function withDirectory(root: Root, path: string): Root {
  return { ...root, directories: [...new Set([...root.directories, ...downTo(path)])] };
}

/** The directories from the top down to this one, without the root. */
function downTo(directory: string): string[] {
  const names = directory.split("/").filter(Boolean);
  return names.map((_, index) => `/${names.slice(0, index + 1).join("/")}`);
}

/** Becomes the user of the inside. */
export function takeIds(kernel: Kernel, ids: Ids): void {
  if (ids.dropGroups) leaveGroups(kernel);
  becomeUser(kernel, ids.inside);
}

/** Moves into a new root that holds what `root` says and nothing else, and is read-only; and becomes the user of the inside. */
export function enterRoot(kernel: Kernel, root: Root, ids: Ids): void {
  // Nothing done here reaches the host, and nothing mounted there later reaches here.
  mount(kernel, null, "/", { flags: MS.REC | MS.PRIVATE });
  // Sources are opened before anything is mounted over them, by the paths that the host resolved: a symbolic link that
  // someone put there since is not followed.
  const trees = root.binds.map(({ source, directory, tree: made }) => {
    if (made !== undefined) return made;
    const descriptor = openSource(kernel, { source, directory });
    const tree = cloneTree(kernel, descriptor, { recursive: directory });
    close(kernel, descriptor);
    return tree;
  });
  const hostProc = root.proc === "bind" ? hostTree(kernel, "/proc") : undefined;

  // Here and not earlier: the sources are found with the rights of the host's user. Here and not later: who has no id in the
  // user namespace cannot create a file.
  takeIds(kernel, ids);

  mount(kernel, "caisson", BASE, { type: "tmpfs", flags: MS.NOSUID | MS.NODEV, data: "mode=755,size=1m" });
  for (const directory of root.directories) makeDirectory(kernel, BASE + directory, 0o755);
  for (const placeholder of root.placeholders) {
    close(kernel, open(kernel, BASE + placeholder, O.CREAT | O.EXCL | O.WRONLY | O.CLOEXEC, 0o444));
  }
  root.binds.forEach(({ target, directory, writable, executable }, index) => {
    const set =
      MOUNT_ATTR.NOSUID |
      MOUNT_ATTR.NODEV |
      (writable ? 0n : MOUNT_ATTR.RDONLY) |
      (executable ? 0n : MOUNT_ATTR.NOEXEC);
    setMountAttributes(kernel, trees[index]!, { set }, { recursive: directory });
    attach(kernel, trees[index]!, BASE + target);
    close(kernel, trees[index]!);
  });
  // Only the processes of this PID namespace, and nothing of the kernel's own files.
  if (hostProc === undefined) {
    mount(kernel, "proc", `${BASE}/proc`, {
      type: "proc",
      flags: MS.NOSUID | MS.NODEV | MS.NOEXEC | MS.RDONLY,
      data: "subset=pid",
    });
  } else {
    setMountAttributes(kernel, hostProc, { set: MOUNT_ATTR.RDONLY }, { recursive: true });
    attach(kernel, hostProc, `${BASE}/proc`);
    close(kernel, hostProc);
  }

  changeDirectory(kernel, BASE);
  pivotRoot(kernel, ".", "."); // the old root now lies on top of the new one
  detach(kernel, ".");
  changeDirectory(kernel, "/");
  const top = open(kernel, "/", O.PATH | O.CLOEXEC);
  setMountAttributes(kernel, top, { set: MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOEXEC });
  close(kernel, top);
}

function hostTree(kernel: Kernel, path: string): number {
  const descriptor = open(kernel, path, O.PATH | O.DIRECTORY | O.CLOEXEC);
  const tree = cloneTree(kernel, descriptor, { recursive: true });
  close(kernel, descriptor);
  return tree;
}

/** A number that no other descriptor of the puppet has. A rule names its file in memory, where no result can be filled in. */
const RULE = 40;

/** Confines the process by Landlock, for good. */
export function enterLandlock(kernel: Kernel, { handled, rules, ports = [], flags }: Confinement): void {
  const ruleset = createRuleset(kernel, handled);
  for (const { path, access } of rules) {
    const descriptor = open(kernel, path, O.PATH | O.CLOEXEC);
    duplicate(kernel, descriptor, RULE, O.CLOEXEC);
    allowBeneath(kernel, ruleset, RULE, access);
    close(kernel, descriptor);
  }
  if (rules.length > 0) close(kernel, RULE);
  for (const { port, access } of ports) allowPort(kernel, ruleset, port, access);
  restrictSelf(kernel, ruleset, flags);
  close(kernel, ruleset);
}

/**
 * Gives up every capability. Every way to get one, too, where the process is `capable` of that (CAP_SETPCAP); for others, no-new-privileges
 * bars it.
 */
export function dropCapabilities(kernel: Kernel, capable: boolean): void {
  const bounding = capable ? lastCapability() : -1;
  for (let capability = 0; capability <= bounding; capability++) dropBounding(kernel, capability);
  clearAmbient(kernel);
  if (capable) setSecurebits(kernel, LOCKED_SECUREBITS);
  capset(kernel, { effective: 0n, permitted: 0n, inheritable: 0n });
}

/** What an idle Bun holds of what RLIMIT_DATA counts, the address space that its heap and threads reserve for writing: 208 MiB measured, 4 that the boot file keeps, and some for more threads. */
export const IDLE_DATA = 228 * 2 ** 20;

/** The first thread's stack, which RLIMIT_DATA does not count. */
const STACK = 8n * 2n ** 20n;

/** Page tables are counted by no limit, but there are no more of them than address space has need of: a 512th. */
const ADDRESS_SPACE = 16 * 2 ** 30;

/**
 * RLIMIT_CPU, for while the host is too busy to look: it ends by SIGKILL, which says nothing, and counts ticks, at times a fifth more than was used. So
 * it is to be later.
 */
export function cpuSeconds(cpuTime: number): bigint {
  return BigInt(Math.ceil(cpuTime * 1.25) + 1);
}

/** Sets what the kernel counts for each process, but for descriptors, of which later steps need more. Hard limits, so that they cannot be raised. */
export function setLimits(kernel: Kernel, limits: Limits, processes: number): void {
  setLimit(kernel, "CORE", 0n);
  setLimit(kernel, "DATA", BigInt(IDLE_DATA + limits.memory));
  setLimit(kernel, "STACK", STACK);
  setLimit(kernel, "AS", BigInt(ADDRESS_SPACE + limits.memory));
  setLimit(kernel, "FSIZE", BigInt(limits.fileSize));
  setLimit(kernel, "NPROC", BigInt(processes));
  setLimit(kernel, "MEMLOCK", 0n);
  setLimit(kernel, "MSGQUEUE", 0n);
  setLimit(kernel, "SIGPENDING", 256n);
  if (limits.cpuTime !== undefined) setLimit(kernel, "CPU", cpuSeconds(limits.cpuTime));
}
