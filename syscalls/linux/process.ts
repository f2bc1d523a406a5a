/** Processes: how they start, what they may use, how they end. */
import type { Kernel } from "../kernel.ts";
import { Memory, Struct } from "../struct.ts";
import { AT, CLONE, KEY_SPEC, KEYCTL, MACHINE, P, PR, RLIMIT, SIG, W } from "./numbers.ts";
import { poll, readable } from "./poll.ts";

/** `struct clone_args` of `clone3(2)`. */
export const CLONE_ARGS_STRUCT = new Struct({
  flags: "u64",
  pidfd: "u64",
  child_tid: "u64",
  parent_tid: "u64",
  exit_signal: "u64",
  stack: "u64",
  stack_size: "u64",
  tls: "u64",
  set_tid: "u64",
  set_tid_size: "u64",
  cgroup: "u64",
});

/** The flags that `clone(2)` takes; below them is the exit signal, above them what `clone3(2)` alone knows. */
const CLONE_FLAGS = 0xffffff00n;

/**
 * Starts a child that goes on from here with a copy of the memory, and gives its process id, in the child 0. For kernels whose process has
 * one thread, a puppet's: a copy of Bun would wait for threads that are gone. `clone(2)`
 * @param options.flags CLONE; not CLONE.VM, for the child keeps the stack of its parent
 * @param options.exitSignal what the parent is sent at the child's end, 0 for nothing
 * @param options.childTid four bytes in which the child finds its id, with CLONE.CHILD_SETTID
 */
export function clone(
  kernel: Kernel,
  {
    flags,
    exitSignal = SIG.CHLD,
    childTid,
  }: { readonly flags: bigint; readonly exitSignal?: number; readonly childTid?: Uint8Array },
): number {
  if ((flags & ~CLONE_FLAGS) !== 0n)
    throw new RangeError(
      `Cannot clone with flags 0x${flags.toString(16)}: clone(2) takes those of 0x${CLONE_FLAGS.toString(16)}`,
    );
  const tid = childTid ?? null;
  const [fourth, fifth] = MACHINE === "x64" ? [tid, null] : [null, tid];
  return kernel.call("clone", flags | BigInt(exitSignal), null, null, fourth, fifth);
}

/**
 * Starts a child as `clone` does, in a control group of v2. The kernel takes no lock for that, and counts what the child uses from its first page
 * on. `clone3(2)`, Linux 5.7
 * @param options.group a descriptor of the group's directory
 */
export function cloneInto(
  kernel: Kernel,
  { flags, group }: { readonly flags: bigint; readonly group: number },
): number {
  const signal = (flags & (CLONE.PARENT | CLONE.THREAD)) === 0n ? BigInt(SIG.CHLD) : 0n; // those have that of another
  const args = CLONE_ARGS_STRUCT.encode({
    flags: flags | CLONE.INTO_CGROUP,
    exit_signal: signal,
    cgroup: BigInt(group),
  });
  return kernel.call("clone3", args, CLONE_ARGS_STRUCT.size);
}

/** A descriptor of a process, close-on-exec, which never comes to mean a later one with its number. `pidfd_open(2)`, Linux 5.3 */
export function openProcess(kernel: Kernel, pid: number): number {
  return kernel.call("pidfd_open", pid, 0);
}

/** Becomes the program that a descriptor holds. `execveat(2)` with AT_EMPTY_PATH */
export function executeDescriptor(
  kernel: Kernel,
  descriptor: number,
  argv: readonly string[],
  environment: readonly string[],
): void {
  kernel.call("execveat", descriptor, "", Memory.vector(argv), Memory.vector(environment), AT.EMPTY_PATH);
}

/** Becomes the program at a path. `execve(2)` */
export function execute(kernel: Kernel, path: string, argv: readonly string[], environment: readonly string[]): void {
  kernel.call("execve", path, Memory.vector(argv), Memory.vector(environment));
}

/** Becomes the leader of a session without a terminal. `setsid(2)` */
export function createSession(kernel: Kernel): void {
  kernel.call("setsid");
}

/** Moves a process into a process group of its session, 0 for the caller and for a group that it leads. `setpgid(2)` */
export function setProcessGroup(kernel: Kernel, pid: number, group: number): void {
  kernel.call("setpgid", pid, group);
}

/** The process group of a process, 0 for the caller. `getpgid(2)` */
export function processGroupOf(kernel: Kernel, pid = 0): number {
  return kernel.call("getpgid", pid);
}

/** The session of a process, 0 for the caller. `getsid(2)` */
export function sessionOf(kernel: Kernel, pid = 0): number {
  return kernel.call("getsid", pid);
}

/** Has the kernel send `signal` when the thread that started this process ends. `PR_SET_PDEATHSIG(2const)` */
export function setParentDeathSignal(kernel: Kernel, signal: number): void {
  kernel.call("prctl", PR.SET_PDEATHSIG, signal, 0, 0, 0);
}

/** From here on no `execve` gives privileges. `PR_SET_NO_NEW_PRIVS(2const)` */
export function setNoNewPrivileges(kernel: Kernel): void {
  kernel.call("prctl", PR.SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/** Whether others of the same user may trace the process and own its files in /proc; an `execve` sets it anew. `PR_SET_DUMPABLE(2const)` */
export function setDumpable(kernel: Kernel, on: boolean): void {
  kernel.call("prctl", PR.SET_DUMPABLE, on ? 1 : 0, 0, 0, 0);
}

/** Makes orphans among the descendants children of this process. `PR_SET_CHILD_SUBREAPER(2const)` */
export function setChildSubreaper(kernel: Kernel): void {
  kernel.call("prctl", PR.SET_CHILD_SUBREAPER, 1, 0, 0, 0);
}

/** Whether permitted capabilities outlast the change from user id 0 to others; an `execve` clears it. `PR_SET_KEEPCAPS(2const)` */
export function setKeepCapabilities(kernel: Kernel, on: boolean): void {
  kernel.call("prctl", PR.SET_KEEPCAPS, on ? 1 : 0, 0, 0, 0);
}

/** The id of the session keyring, that of the user where there is none. `KEYCTL_GET_KEYRING_ID(2const)` */
export function sessionKeyring(kernel: Kernel): number {
  return kernel.call("keyctl", KEYCTL.GET_KEYRING_ID, KEY_SPEC.SESSION_KEYRING, 0);
}

/** Leaves the session keyring for a new, empty one. `KEYCTL_JOIN_SESSION_KEYRING(2const)` */
export function joinSessionKeyring(kernel: Kernel): void {
  kernel.call("keyctl", KEYCTL.JOIN_SESSION_KEYRING, null);
}

export function setHostname(kernel: Kernel, name: string): void {
  kernel.call("sethostname", name, new TextEncoder().encode(name).length);
}

export function setDomainname(kernel: Kernel, name: string): void {
  kernel.call("setdomainname", name, new TextEncoder().encode(name).length);
}

const MAX_ID = 2 ** 32 - 2;

/** The kernel would cut a larger number to 32 bits, which may be root's, and take -1 for "as it is". */
function checked(id: number): number {
  if (!Number.isInteger(id) || id < 0 || id > MAX_ID)
    throw new RangeError(`Cannot take id ${id}: expected a whole number from 0 to ${MAX_ID}`);
  return id;
}

/** Sets the supplementary groups. Needs `CAP_SETGID`, and a user namespace that allows it. `setgroups(2)` */
export function setGroups(kernel: Kernel, groups: readonly number[]): void {
  kernel.call("setgroups", groups.length, new Uint8Array(Uint32Array.from(groups, checked).buffer));
}

/** Leaves the supplementary groups. Needs `CAP_SETGID`, and a user namespace that allows it. */
export function leaveGroups(kernel: Kernel): void {
  kernel.call("setgroups", 0, null);
}

/** Sets the real, effective and saved ids, the group's first. Needs `CAP_SETGID` and `CAP_SETUID`. */
export function becomeUser(kernel: Kernel, { uid, gid }: { readonly uid: number; readonly gid: number }): void {
  for (const id of [uid, gid]) checked(id);
  kernel.call("setresgid", gid, gid, gid);
  kernel.call("setresuid", uid, uid, uid);
}

/** Ids to set; what is left out stays. */
export interface Ids {
  readonly real?: number;
  readonly effective?: number;
  readonly saved?: number;
}

/** `setresuid(2)` */
export function setUserIds(kernel: Kernel, ids: Ids): void {
  kernel.call("setresuid", ...threeOf(ids));
}

/** `setresgid(2)` */
export function setGroupIds(kernel: Kernel, ids: Ids): void {
  kernel.call("setresgid", ...threeOf(ids));
}

const AS_IT_IS = -1;

const threeOf = ({ real, effective, saved }: Ids): number[] =>
  [real, effective, saved].map((id) => (id === undefined ? AS_IT_IS : checked(id)));

export const RLIMIT_STRUCT = new Struct({ soft: "u64", hard: "u64" });

/**
 * Sets the soft and the hard limit of a resource to `value`. `prlimit(2)`
 * @param mark a fifth argument, at which the kernel does not look, and filters may
 */
export function setLimit(kernel: Kernel, resource: keyof typeof RLIMIT, value: bigint, mark?: number): void {
  const limit = RLIMIT_STRUCT.encode({ soft: value, hard: value });
  kernel.call("prlimit64", 0, RLIMIT[resource], limit, null, ...(mark === undefined ? [] : [mark]));
}

/** The limits of the calling process, `2n ** 64n - 1n` for none. */
export function getLimit(kernel: Kernel, resource: keyof typeof RLIMIT): { soft: bigint; hard: bigint } {
  const limit = new Uint8Array(RLIMIT_STRUCT.size);
  kernel.call("prlimit64", 0, RLIMIT[resource], null, limit);
  return RLIMIT_STRUCT.decode(limit);
}

/** The part of `siginfo_t` that `waitid(2)` fills. */
export const SIGINFO = new Struct({
  signo: "i32",
  errno: "i32",
  code: "i32",
  pad: "i32",
  pid: "i32",
  uid: "u32",
  status: "i32",
});
export const SIGINFO_SIZE = 128;
/** `struct rusage`; what Linux leaves empty has the names that C has for it. */
const RUSAGE = new Struct({
  user_s: "i64",
  user_us: "i64",
  system_s: "i64",
  system_us: "i64",
  maxrss: "i64",
  ixrss: "i64",
  idrss: "i64",
  isrss: "i64",
  minflt: "i64",
  majflt: "i64",
  nswap: "i64",
  inblock: "i64",
  oublock: "i64",
  msgsnd: "i64",
  msgrcv: "i64",
  nsignals: "i64",
  nvcsw: "i64",
  nivcsw: "i64",
});
/** What it counts storage in, in bytes, whatever the device's own are. */
const BLOCK = 512;
export const RUSAGE_SIZE = 144;
/** What happened to a child: `si_code` of `SIGCHLD`. */
export const CLD = { EXITED: 1, KILLED: 2, DUMPED: 3, TRAPPED: 4, STOPPED: 5, CONTINUED: 6 } as const;
/** `__WALL`: children without an exit signal, too. */
export const WALL = 0x40000000;

/** How a process ended, and what it and all that it waited for used. `getrusage(2)` */
export interface Ended {
  /** The exit code, if it ended by itself. */
  readonly code?: number;
  /** The signal's number, if one ended it. */
  readonly signal?: number;
  /** CPU time of all its threads, user and system, in microseconds. */
  readonly cpuMicroseconds: number;
  readonly userMicroseconds: number;
  readonly systemMicroseconds: number;
  /** Resident memory in KiB: none any more, and the most that one of the processes had. */
  readonly memoryKib: 0;
  readonly peakKib: number;
  /** Pages that were there already, and pages that came from storage. */
  readonly minorFaults: number;
  readonly majorFaults: number;
  /** How often a thread waited, and how often it had to let others go first. */
  readonly voluntarySwitches: number;
  readonly involuntarySwitches: number;
  /** What came from storage, and what was to be written there; to a tmpfs, nothing. */
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly processes: 0;
}

/** What `waitid(2)` wrote about a child, a siginfo_t and a struct rusage. */
export interface News extends Ended {
  readonly pid: number;
  /** CLD */
  readonly event: number;
}

export function decodeNews(info: Uint8Array, usage: Uint8Array): News {
  const { pid, code, status } = SIGINFO.decode(info);
  const used = RUSAGE.decode(usage);
  const userMicroseconds = Number(used.user_s * 1_000_000n + used.user_us);
  const systemMicroseconds = Number(used.system_s * 1_000_000n + used.system_us);
  return {
    pid,
    event: code,
    ...(code === CLD.EXITED ? { code: status } : { signal: status }),
    cpuMicroseconds: userMicroseconds + systemMicroseconds,
    userMicroseconds,
    systemMicroseconds,
    memoryKib: 0,
    peakKib: Number(used.maxrss),
    minorFaults: Number(used.minflt),
    majorFaults: Number(used.majflt),
    voluntarySwitches: Number(used.nvcsw),
    involuntarySwitches: Number(used.nivcsw),
    readBytes: Number(used.inblock) * BLOCK,
    writtenBytes: Number(used.oublock) * BLOCK,
    processes: 0,
  };
}

/**
 * A copy of a descriptor of another process, close-on-exec, as a debugger might take it. `pidfd_getfd(2)`, Linux 5.6.
 * @param number the other's number for it
 */
export function takeDescriptor(kernel: Kernel, pidfd: number, number: number): number {
  return kernel.call("pidfd_getfd", pidfd, number, 0);
}

const KCMP_VM = 1;

/** Whether two processes are in one memory, as a child of vfork(2) is in its parent's. Both must be such as may be traced. `kcmp(2)` */
export function sharesMemory(kernel: Kernel, pid: number, other: number): boolean {
  return kernel.call("kcmp", pid, other, KCMP_VM, 0, 0) === 0;
}

/**
 * Reaps a child, or gives undefined while it lives. Never waits. `waitid(2)`, with a pidfd Linux 5.4
 * @param named how: P.PIDFD by its pidfd, P.PID by its number
 */
export function reap(kernel: Kernel, child: number, named: number = P.PIDFD): Ended | undefined {
  const info = new Uint8Array(SIGINFO_SIZE);
  const usage = new Uint8Array(RUSAGE_SIZE);
  kernel.call("waitid", named, child, info, W.EXITED | W.NOHANG | WALL, usage);
  const { pid, event: _, ...ended } = decodeNews(info, usage);
  return pid === 0 ? undefined : ended;
}

/** Waits in place until the child that a pidfd names has ended, and reaps it: also by one with O_NONBLOCK, of which `waitid(2)` says EAGAIN. */
export function awaitEnd(kernel: Kernel, pidfd: number): Ended {
  for (;;) {
    const ended = reap(kernel, pidfd);
    if (ended !== undefined) return ended;
    poll(kernel, readable(pidfd), -1);
  }
}
