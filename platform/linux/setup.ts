/** How a container is set up, before anything runs in it. */
import { statSync } from "node:fs";
import { SystemError } from "../../syscalls/error.ts";
import type { Argument, Kernel, SyscallName } from "../../syscalls/kernel.ts";
import { changeDirectory, close, duplicate, open } from "../../syscalls/linux/file.ts";
import { setNamespace, unshare } from "../../syscalls/linux/namespace.ts";
import { raiseLoopback } from "../../syscalls/linux/network.ts";
import { CLONE, O, S, SIG } from "../../syscalls/linux/numbers.ts";
import { becomeUser, createSession, setDomainname, setGroups, setHostname } from "../../syscalls/linux/process.ts";
import { openSignals } from "../../syscalls/linux/signal.ts";
import { openTimer } from "../../syscalls/linux/timer.ts";
import { type ContainerPlan, type Mount, type Namespace, NotEnforced } from "../platform.ts";
import { abilities, NAMESPACES } from "./abilities.ts";
import { SIGNALS, TAKEN, TIMER } from "./places.ts";
import { PROC_REMEDY } from "./plan.ts";
import { type Attempting, furnish } from "./root.ts";

/** CLONE flags. clone(2) has none for clocks: the puppet unshares those, for its children. */
export const FLAGS: Readonly<Record<Namespace, bigint>> = { user: CLONE.NEWUSER, ...NAMESPACES, time: 0n };

/** What a container's main program is passed: whatever asks it to do something, and can be caught. */
const PASSED_ON = [SIG.HUP, SIG.INT, SIG.QUIT, SIG.TERM, SIG.USR1, SIG.USR2, SIG.ALRM, SIG.WINCH, SIG.CONT];

/** The kernel says EPERM to a proc in a user namespace whose maker sees parts of its own covered. Instead, that of the host would show everyone. */
export function refuseCoveredProc({ maps, root }: ContainerPlan): void {
  if (maps === undefined || !root?.mounts.some(({ kind }) => kind === "proc") || abilities().proc !== "bind") return;
  throw new NotEnforced(
    "processes",
    `no proc can be mounted, for parts of this one are covered: ${abilities().refusals.proc}`,
    `${PROC_REMEDY}, or show the host's processes with bind("/proc")`,
    { allowable: false },
  );
}

/** An overlay that cannot write its upper directory becomes read-only, and says nothing. */
export function mustOwn({ upper }: Extract<Mount, { kind: "overlay" }>, maps: ContainerPlan["maps"]): void {
  if (upper === undefined || maps === undefined) return;
  const { uid, mode } = statSync(upper);
  if ((mode & S.IWOTH) !== 0 || maps.uids.some(({ outside, count }) => uid >= outside && uid < outside + count)) return;
  const owners = maps.uids.map(({ outside, count }) =>
    count === 1 ? `${outside}` : `${outside} to ${outside + count - 1}`,
  );
  throw new TypeError(
    `Cannot keep what is written in ${upper}: it belongs to user ${uid}, and the container's are ${owners.join(", ")}; chown upper and work`,
  );
}

/** The host's own clock is to end it, and to say so, unless the host is busy or stopped, or the Worker has ended that had it. */
const LATER_MS = 1000;

/** Sets a container up, before anything runs in it. What it returns is to be called when that was done: throws where a source is not the one that was meant. */
export function setUp(
  kernel: Attempting,
  plan: ContainerPlan,
  trees: ReadonlyMap<Mount, readonly number[]>,
): () => void {
  const signals = openSignals(kernel, [SIG.CHLD, ...PASSED_ON]);
  duplicate(kernel, signals, SIGNALS, O.CLOEXEC);
  close(kernel, signals);
  if (plan.limits?.wallTime !== undefined) {
    const timer = openTimer(kernel, plan.limits.wallTime + LATER_MS);
    duplicate(kernel, timer, TIMER, O.CLOEXEC);
    close(kernel, timer);
  }
  createSession(kernel);
  // It shows the group that the puppet has been put into as the top.
  if (plan.namespaces.includes("cgroup")) unshare(kernel, CLONE.NEWCGROUP);
  plan.join.forEach((_, index) => {
    setNamespace(kernel, TAKEN + index, 0);
    close(kernel, TAKEN + index);
  });
  if (plan.namespaces.includes("time")) setClocks(kernel, plan.clocks);
  if (plan.hostname !== undefined) setHostname(kernel, plan.hostname);
  if (plan.domainname !== undefined) setDomainname(kernel, plan.domainname);
  if (plan.loopback) raiseLoopback(kernel);
  const takeIds = () => {
    if (plan.maps === undefined) return;
    if (plan.maps.setgroups === "allow") setGroups(kernel, plan.groups ?? []);
    becomeUser(kernel, { uid: plan.user, gid: plan.group });
  };
  if (plan.root === undefined) {
    takeIds();
    changeDirectory(kernel, "/");
    return () => {};
  }
  return furnish(kernel, {
    mounts: plan.root.mounts.map((each) =>
      each.kind === "tmpfs" && each.size === undefined ? { ...each, size: plan.limits?.tmpfs } : each,
    ),
    trees,
    takeIds,
    rootInside: plan.maps === undefined || plan.maps.uids.some(({ outside }) => outside === 0),
    user: plan.namespaces.includes("user"),
    readonlyRoot: plan.root.readonly,
    room: plan.limits?.tmpfs,
  });
}

/** A namespace of clocks, in which the puppet's children begin, and the puppet itself. `time_namespaces(7)` */
function setClocks(kernel: Kernel, clocks: ContainerPlan["clocks"]): void {
  unshare(kernel, CLONE.NEWTIME);
  if (clocks !== undefined) {
    const file = open(kernel, "/proc/self/timens_offsets", O.WRONLY | O.CLOEXEC);
    const text = new TextEncoder().encode(`monotonic ${clocks.monotonic} 0\nboottime ${clocks.boottime} 0\n`);
    kernel.call("write", file, text, text.length);
    close(kernel, file);
  }
  // Where the puppet becomes the program itself: before Linux 6.3, execve does not enter it.
  const children = open(kernel, "/proc/self/ns/time_for_children", O.RDONLY | O.CLOEXEC);
  setNamespace(kernel, children, CLONE.NEWTIME);
  close(kernel, children);
}

/** Calls made one by one, for a set-up that does not fit into a frame. */
export class Stepwise implements Attempting {
  readonly #kernel: Kernel;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  call(name: SyscallName, ...args: readonly Argument[]): number {
    return this.#kernel.call(name, ...args);
  }

  attempt(calls: () => void): void {
    try {
      calls();
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
    }
  }
}
