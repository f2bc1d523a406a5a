/** A puppet's child becomes a program: what it starts with, step by step. */
import { SystemError } from "../../syscalls/error.ts";
import { type Kernel, self } from "../../syscalls/kernel.ts";
import {
  capset,
  clearAmbient,
  dropBounding,
  LOCKED_SECUREBITS,
  lastCapability,
  raiseAmbient,
  setSecurebits,
} from "../../syscalls/linux/capability.ts";
import {
  changeDirectory,
  changeToDescriptor,
  close,
  closeAllBut,
  duplicate,
  setCloseOnExec,
  setUmask,
} from "../../syscalls/linux/file.ts";
import { listenerFlags } from "../../syscalls/linux/notify.ts";
import { CAP, O, type RLIMIT } from "../../syscalls/linux/numbers.ts";
import {
  createSession,
  execute,
  executeDescriptor,
  joinSessionKeyring,
  sessionKeyring,
  setGroupIds,
  setGroups,
  setKeepCapabilities,
  setLimit,
  setNoNewPrivileges,
  setParentDeathSignal,
  setProcessGroup,
  setUserIds,
} from "../../syscalls/linux/process.ts";
import { setAffinity, setIoPriority, setNice, setSchedule } from "../../syscalls/linux/schedule.ts";
import { setFilter } from "../../syscalls/linux/seccomp.ts";
import { resetSignals, unblockSignals } from "../../syscalls/linux/signal.ts";
import { sendDescriptors } from "../../syscalls/linux/socket.ts";
import { setControllingTerminal, setForegroundGroup } from "../../syscalls/linux/terminal.ts";
import type { ProcessPlan } from "../platform.ts";
import type { Plan } from "./plan.ts";
import type { Attempting } from "./root.ts";
import { enterLandlock } from "./walls.ts";

/** What the puppet has: its strings, and the descriptors that the program is to get, by the program's numbers for them. */
export interface Held {
  readonly strings: number;
  readonly descriptors: ReadonlyMap<number, number>;
  /** Whether it may take capabilities out of the bounding set. */
  readonly capable: boolean;
  readonly landlock: Plan["landlock"];
  /** Where the child finds its process id. */
  readonly tid: Uint8Array;
}

let keyrings: boolean | undefined;

/** Whether there are keys. A kernel without them, or an engine that refuses the call, leaves nothing to inherit or to use. */
function hasKeyrings(): boolean {
  if (keyrings !== undefined) return keyrings;
  try {
    sessionKeyring(self);
    keyrings = true;
  } catch (error) {
    keyrings = error instanceof SystemError && error.code !== "ENOSYS" && error.code !== "EPERM";
  }
  return keyrings;
}

/** Makes the process that carries this out the program. Every step that changes who it is stands behind those that need who it was. */
export function becomeProgram(kernel: Attempting, plan: ProcessPlan, held: Held): void {
  placeDescriptors(kernel, held);
  // What execve hands on: dispositions, the mask, the session and its terminal, the umask, the keyring.
  if (plan.terminal && plan.init) {
    // In the puppet's session, whose terminal it is, and the group in front. With a parent in the session, it can be stopped.
    setProcessGroup(kernel, 0, 0);
    setForegroundGroup(kernel, 0, held.tid); // SIGTTOU is still blocked
  } else if (plan.terminal) setControllingTerminal(kernel, 0);
  else if (plan.init && plan.session === "new")
    createSession(kernel); // the puppet has one already
  else if (plan.init && plan.session === "group") setProcessGroup(kernel, 0, 0);
  resetSignals(kernel);
  unblockSignals(kernel);
  // Keyrings count for the user that it is outside, who has room for some 200 (EDQUOT).
  if (!plan.keys) kernel.attempt(() => joinSessionKeyring(kernel));
  else if (hasKeyrings()) joinSessionKeyring(kernel);
  setUmask(kernel, plan.umask);
  if (typeof plan.directory === "number") {
    changeToDescriptor(kernel, plan.directory);
    close(kernel, plan.directory); // through a directory of the host the program would get out
  } else changeDirectory(kernel, plan.directory);
  if (plan.schedule !== undefined) setSchedule(kernel, plan.schedule);
  if (plan.nice !== undefined) setNice(kernel, plan.nice);
  if (plan.ioPriority !== undefined) setIoPriority(kernel, plan.ioPriority);
  if (plan.affinity !== undefined) setAffinity(kernel, plan.affinity);
  const limits = Object.entries(plan.limits) as [keyof typeof RLIMIT, bigint][];
  for (const [resource, value] of limits) if (resource !== "NOFILE") setLimit(kernel, resource, value);
  takeOn(kernel, plan, held.capable);
  if (plan.noNewPrivileges) setNoNewPrivileges(kernel);
  if (held.landlock !== undefined) enterLandlock(kernel, held.landlock);
  const sending = plan.supervised === undefined ? held.strings : beyondReach(kernel, plan, held.strings);
  // What a user has on its way is measured by the limit of whoever sends: the listener goes by the host's. A filter of the caller's may refuse that.
  const last = plan.supervised !== undefined && plan.filters.length === 0;
  // Landlock's rules need a few.
  if (plan.limits.NOFILE !== undefined && !last) setLimit(kernel, "NOFILE", plan.limits.NOFILE);
  // Changing ids and capabilities clears it, so it stands behind them. The puppet ends when its host does.
  setParentDeathSignal(kernel, plan.parentDeathSignal);
  for (const filter of plan.filters) setFilter(kernel, filter);
  if (plan.supervised !== undefined) {
    const listener = lowestFree([...held.descriptors.keys(), held.strings]);
    setFilter(kernel, plan.supervised, listenerFlags());
    sendDescriptors(kernel, sending, new Uint8Array(1), [listener]);
    if (plan.limits.NOFILE !== undefined && last) setLimit(kernel, "NOFILE", plan.limits.NOFILE, sending);
  }
  const environment = Object.entries(plan.env).map(([name, value]) => `${name}=${value}`);
  if (typeof plan.program === "number") {
    setCloseOnExec(kernel, plan.program);
    executeDescriptor(kernel, plan.program, plan.argv, environment);
  } else execute(kernel, plan.program, plan.argv, environment);
}

/**
 * The strings by another number, which the filter allows to send by, and which is no descriptor that the program can ever have: its limit lies below.
 */
function beyondReach(kernel: Kernel, { limits }: ProcessPlan, strings: number): number {
  if (limits.NOFILE === undefined || limits.NOFILE === BigInt(strings)) return strings;
  const number = Number(limits.NOFILE);
  duplicate(kernel, strings, number, O.CLOEXEC);
  return number;
}

/** Where the listener stands: a message names it in memory, where no result can be filled in. All but these are closed. */
function lowestFree(taken: readonly number[]): number {
  let number = 0;
  while (taken.includes(number)) number++;
  return number;
}

/** Puts the program's descriptors in their places and closes all others but the strings, which close when the program is executed. */
function placeDescriptors(kernel: Kernel, { strings, descriptors }: Held): void {
  const moves = [...descriptors];
  const sources = new Set(moves.map(([, from]) => from));
  // One may stand where another is to go.
  const crowded = moves.some(([to]) => sources.has(to));
  const away = Math.max(strings, ...moves.flat()) + 1;
  if (crowded) for (const [index, [, from]] of moves.entries()) duplicate(kernel, from, away + index);
  for (const [index, [to, from]] of moves.entries()) duplicate(kernel, crowded ? away + index : from, to);
  closeAllBut(kernel, [...descriptors.keys(), strings]);
  setCloseOnExec(kernel, strings);
}

/** Takes on the ids and capabilities that the program is to have, and no way to others. */
function takeOn(kernel: Attempting, plan: ProcessPlan, capable: boolean): void {
  const { user, group, groups, capabilities } = plan;
  const each = Array.from({ length: lastCapability() + 1 }, (_, capability) => capability);
  const keeps = (capability: number) => (capabilities & (1n << BigInt(capability))) !== 0n;
  if (capable) for (const capability of each) if (!keeps(capability)) dropBounding(kernel, capability);
  if (groups !== undefined) setGroups(kernel, groups);
  if (group !== undefined) setGroupIds(kernel, { real: group, effective: group, saved: group });
  if (user !== undefined) {
    // To leave id 0 would take the capabilities along.
    setKeepCapabilities(kernel, true);
    setUserIds(kernel, { real: user, effective: user, saved: user });
  }
  clearAmbient(kernel);
  // What sets the securebits goes last, and to leave id 0 kept the capabilities, but none in effect.
  const all = capabilities | (capable ? 1n << BigInt(CAP.SETPCAP) : 0n);
  if (capabilities !== 0n || (capable && user !== undefined))
    capset(kernel, { effective: all, permitted: all, inheritable: capabilities });
  if (capabilities !== 0n) {
    for (const capability of each) if (keeps(capability)) raiseAmbient(kernel, capability);
  }
  const securebits = plan.securebits ?? (capabilities === 0n && capable ? LOCKED_SECUREBITS : undefined);
  if (securebits !== undefined) setSecurebits(kernel, securebits);
  capset(kernel, { effective: capabilities, permitted: capabilities, inheritable: capabilities });
}
