/** Processes: how they start, what they may use, how they end. */
import type { Kernel } from "../kernel.ts";
import { Memory, Struct } from "../struct.ts";
import { AT, KEYCTL, P, PR, RLIMIT, W } from "./numbers.ts";

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

/** Has the kernel send `signal` when the thread that started this process ends. `PR_SET_PDEATHSIG(2const)` */
export function setParentDeathSignal(kernel: Kernel, signal: number): void {
  kernel.call("prctl", PR.SET_PDEATHSIG, signal, 0, 0, 0);
}

/** From here on no `execve` gives privileges. `PR_SET_NO_NEW_PRIVS(2const)` */
export function setNoNewPrivileges(kernel: Kernel): void {
  kernel.call("prctl", PR.SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/** Leaves the session keyring for a new, empty one. `KEYCTL_JOIN_SESSION_KEYRING(2const)` */
export function joinSessionKeyring(kernel: Kernel): void {
  kernel.call("keyctl", KEYCTL.JOIN_SESSION_KEYRING, null);
}

export function setHostname(kernel: Kernel, name: string): void {
  kernel.call("sethostname", name, new TextEncoder().encode(name).length);
}

/** Leaves the supplementary groups. Needs `CAP_SETGID`, and a user namespace that allows it. */
export function leaveGroups(kernel: Kernel): void {
  kernel.call("setgroups", 0, null);
}

/** Sets the real, effective and saved ids, the group's first. Needs `CAP_SETGID` and `CAP_SETUID`. */
export function becomeUser(kernel: Kernel, { uid, gid }: { readonly uid: number; readonly gid: number }): void {
  kernel.call("setresgid", gid, gid, gid);
  kernel.call("setresuid", uid, uid, uid);
}

const RLIMIT_STRUCT = new Struct({ soft: "u64", hard: "u64" });

/** Sets the soft and the hard limit of a resource to `value`. `prlimit(2)` */
export function setLimit(kernel: Kernel, resource: keyof typeof RLIMIT, value: bigint): void {
  kernel.call("prlimit64", 0, RLIMIT[resource], RLIMIT_STRUCT.encode({ soft: value, hard: value }), null);
}

/** The limits of the calling process, `2n ** 64n - 1n` for none. */
export function getLimit(kernel: Kernel, resource: keyof typeof RLIMIT): { soft: bigint; hard: bigint } {
  const limit = new Uint8Array(RLIMIT_STRUCT.size);
  kernel.call("prlimit64", 0, RLIMIT[resource], null, limit);
  return RLIMIT_STRUCT.decode(limit);
}

// The parts of siginfo_t and struct rusage that waitid(2) fills; both have more behind.
const SIGINFO = new Struct({
  signo: "i32",
  errno: "i32",
  code: "i32",
  pad: "i32",
  pid: "i32",
  uid: "u32",
  status: "i32",
});
const SIGINFO_SIZE = 128;
const RUSAGE = new Struct({ user_s: "i64", user_us: "i64", system_s: "i64", system_us: "i64", maxrss: "i64" });
const RUSAGE_SIZE = 144;
const CLD_EXITED = 1;
/** `__WALL`: children without an exit signal, too. */
export const WALL = 0x40000000;

/** How a process ended, and what it used. */
export interface Ended {
  /** The exit code, if it ended by itself. */
  readonly code?: number;
  /** The signal's number, if one ended it. */
  readonly signal?: number;
  /** CPU time of all its threads, user and system, in microseconds. */
  readonly cpuMicroseconds: number;
  /** Peak resident memory in KiB. */
  readonly peakKib: number;
}

/** Reaps the child that a pidfd names, or gives undefined while it lives. Never waits. `waitid(2)`, Linux 5.4 */
export function reap(kernel: Kernel, pidfd: number): Ended | undefined {
  const info = new Uint8Array(SIGINFO_SIZE);
  const usage = new Uint8Array(RUSAGE_SIZE);
  kernel.call("waitid", P.PIDFD, pidfd, info, W.EXITED | W.NOHANG | WALL, usage);
  const { pid, code, status } = SIGINFO.decode(info);
  if (pid === 0) return undefined;
  const { user_s, user_us, system_s, system_us, maxrss } = RUSAGE.decode(usage);
  return {
    ...(code === CLD_EXITED ? { code: status } : { signal: status }),
    cpuMicroseconds: Number((user_s + system_s) * 1_000_000n + user_us + system_us),
    peakKib: Number(maxrss),
  };
}
