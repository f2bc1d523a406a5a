/** Calls that can be had to fail, and the filter by which a host hands over its own and those of all that it starts. */
import { type Action, compile, type ErrnoName } from "../../platform/linux/seccomp/index.ts";
import { machine, type SyscallName, self } from "../../syscalls/kernel.ts";
import { listenerFlags } from "../../syscalls/linux/notify.ts";
import { F, SECCOMP_FILTER_FLAG } from "../../syscalls/linux/numbers.ts";
import { setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { setFilter } from "../../syscalls/linux/seccomp.ts";

/** What each call of a start says where there is no room for it, or somebody else was quicker. */
const FAULTS = {
  // processes, and what belongs to them
  clone3: "ENOMEM",
  clone: "EAGAIN",
  execveat: "ENOMEM",
  execve: "ENOMEM",
  unshare: "ENOSPC",
  setns: "ENOMEM",
  setsid: "EPERM",
  prctl: "ENOMEM",
  prlimit64: "EPERM",
  setgroups: "ENOMEM",
  setresuid: "EAGAIN",
  setresgid: "EPERM",
  capset: "EPERM",
  keyctl: "EDQUOT",
  sethostname: "EPERM",
  // descriptors
  socketpair: "EMFILE",
  sendmsg: "ENOBUFS",
  recvmsg: "EMFILE",
  memfd_create: "EMFILE",
  pidfd_open: "EMFILE",
  epoll_create1: "EMFILE",
  eventfd2: "EMFILE",
  signalfd4: "EMFILE",
  fcntl: "EMFILE",
  dup3: "EMFILE",
  // files and mounts
  openat: "ENFILE",
  openat2: "EMFILE",
  mkdir: "ENOSPC",
  mkdirat: "ENOSPC",
  symlinkat: "ENOSPC",
  write: "ENOSPC",
  fchdir: "EACCES",
  chdir: "EACCES",
  fsopen: "EMFILE",
  fsconfig: "ENOMEM",
  fsmount: "ENOMEM",
  open_tree: "ENOMEM",
  move_mount: "ENOSPC",
  mount: "ENOSPC",
  mount_setattr: "ENOMEM",
  umount2: "EBUSY",
  pivot_root: "EBUSY",
  // walls
  landlock_create_ruleset: "EMFILE",
  landlock_add_rule: "ENOMEM",
  landlock_restrict_self: "E2BIG",
  seccomp: "ENOMEM",
} as const satisfies Partial<Record<SyscallName, ErrnoName>>;

export type Fallible = keyof typeof FAULTS;
export const FALLIBLE = Object.keys(FAULTS) as Fallible[];
export const errnoOf = (call: Fallible): ErrnoName => FAULTS[call];

/** Of these, what is asked for flags is Bun's own machinery; we ask for one descriptor more. */
const OURS = { when: [{ arg: 1, op: "eq", value: F.DUPFD_CLOEXEC }] } as const;

/** From now on, all threads of this process wait for somebody's answer at each of these calls. Returns the descriptor where they are to be had. */
export function handOver(calls: readonly Fallible[]): number {
  return filter(calls, { action: "notify", flags: listenerFlags() });
}

/** From now on, this call fails in all threads of this process, and in what they start. */
export function refuse(call: Fallible): void {
  filter([call], { action: { errno: errnoOf(call) }, flags: 0 });
}

function filter(calls: readonly Fallible[], { action, flags }: { action: Action; flags: number }): number {
  const rules = calls.map((call) => ({ call, action, ...(call === "fcntl" && OURS) }));
  const program = compile({ machine: machine(), default: "allow", rules });
  const { TSYNC, TSYNC_ESRCH } = SECCOMP_FILTER_FLAG;
  setNoNewPrivileges(self);
  return setFilter(self, program, TSYNC | TSYNC_ESRCH | flags);
}
