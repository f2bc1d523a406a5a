/** The policy as the two seccomp filters: one for Bun's start, and the closing one under which foreign code runs. */

import type { Machine, SyscallName } from "../../syscalls/kernel.ts";
import { AF, SOCK } from "../../syscalls/linux/constants.ts";
import {
  CLONE,
  F,
  IOCTL,
  MADV,
  MAP,
  O,
  PR,
  PROT,
  RENAME,
  S,
  SECCOMP_FILTER_FLAG,
  SO,
  SOL,
} from "../../syscalls/linux/numbers.ts";
import type { Policy } from "../platform.ts";
import { isWritable, pathsOf } from "./paths.ts";
import { promiseFilter } from "./promises.ts";
import { chain } from "./seccomp/chain.ts";
import { compile } from "./seccomp/compile.ts";
import type { Action, Arg, Filter, Rule, Test } from "./seccomp/filter.ts";
import { spaceRules } from "./space.ts";

const DENIED: Action = { errno: 1 }; // EPERM: no other wall answers with it, so it tells which one refused
const ABSENT: Action = { errno: 38 }; // ENOSYS: callers then take the older call, whose arguments a filter can see
const USED_UP: Action = { errno: "EMFILE" }; // what else the call fails with, so callers know what to do: most look now and then instead
const IGNORED: Action = { errno: 0 };

const allow = (...calls: readonly SyscallName[]): Rule[] => calls.map((call) => ({ call, action: "allow" }));
const allowWhen = (call: SyscallName, ...when: readonly Test[]): Rule => ({ call, action: "allow", when });
const equal = (arg: Arg, value: number): Test => ({ arg, op: "eq", value: BigInt(value) });
/** The bits of `mask` in this argument are exactly `value`. */
const bits = (arg: Arg, mask: bigint | number, value: bigint | number): Test => ({
  arg,
  op: "masked",
  mask: BigInt(mask),
  value: BigInt(value),
});
/** One of several values of one argument. */
const oneOf = (call: SyscallName, arg: Arg, values: readonly number[]): Rule[] =>
  values.map((value) => allowWhen(call, equal(arg, value)));

/** Descriptors that are open already: nothing here names a file, an address or a process. */
const DESCRIPTORS: readonly Rule[] = [
  ...allow(
    "read",
    "readv",
    "pread64",
    "preadv",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "lseek",
    "fstat",
    "close",
    "close_range",
  ),
  ...allow("dup", "dup2", "dup3", "pipe", "pipe2", "eventfd2", "sendto", "sendmsg", "recvfrom", "recvmsg", "shutdown"),
  ...allow("getsockname", "getpeername"),
  // Of its own ends only: SO_PEERPIDFD would name the host.
  ...[SO.TYPE, SO.ERROR, SO.SNDBUF, SO.RCVBUF].map((option) =>
    allowWhen("getsockopt", equal(1, SOL.SOCKET), equal(2, option)),
  ),
  ...allow(
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
  ),
  ...allow("timerfd_create", "timerfd_settime", "timerfd_gettime"),
  // F_SETFL could take O_APPEND from a file that may only be appended to, whatever number it is called by: so it may only set it.
  ...oneOf("fcntl", 1, [F.GETFD, F.SETFD, F.GETFL, F.DUPFD, F.DUPFD_CLOEXEC]),
  allowWhen("fcntl", equal(1, F.SETFL), bits(2, O.APPEND, O.APPEND)),
  ...oneOf("ioctl", 1, [IOCTL.FIONBIO, IOCTL.FIONREAD, IOCTL.FIOCLEX, IOCTL.FIONCLEX, IOCTL.TCGETS, IOCTL.TIOCGWINSZ]),
];

/** Memory of any kind, for the time before foreign code. */
const ANY_MEMORY = allow("mmap", "munmap", "mprotect", "mremap", "madvise", "brk", "membarrier");

const { READ: READABLE, WRITE: WRITABLE, EXEC: EXECUTABLE } = PROT;

const { NORMAL, WILLNEED, DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP } = MADV;
const ADVICE = [NORMAL, WILLNEED, DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP];

/**
 * Memory that RLIMIT_DATA counts, which is what is private, writable and no stack: no shared pages, no stacks that grow or are moved, and
 * nothing that was written to ceases to be writable, for then it would cease to count and still be there.
 */
const MEMORY: readonly Rule[] = [
  { call: "mmap", action: DENIED, when: [bits(3, MAP.GROWSDOWN, MAP.GROWSDOWN)] },
  { call: "mmap", action: DENIED, when: [bits(3, MAP.SHARED | MAP.ANONYMOUS, MAP.SHARED | MAP.ANONYMOUS)] },
  { call: "mmap", action: DENIED, when: [bits(3, MAP.HUGETLB, MAP.HUGETLB)] },
  allowWhen("mmap", bits(3, MAP.ANONYMOUS, 0)),
  allowWhen("mmap", bits(2, WRITABLE, WRITABLE)),
  allowWhen("mmap", bits(2, READABLE | WRITABLE | EXECUTABLE, 0)),
  allowWhen("mprotect", bits(2, WRITABLE, WRITABLE)),
  // What gives memory back or says how it will be used. Guards would take page tables for address space that nothing counts.
  ...ADVICE.map((advice) => allowWhen("madvise", bits(2, 0xffff_ffffn, advice))),
  ...allow("munmap", "brk", "membarrier"),
];

const NAMESPACES =
  CLONE.NEWNS | CLONE.NEWCGROUP | CLONE.NEWUTS | CLONE.NEWIPC | CLONE.NEWUSER | CLONE.NEWPID | CLONE.NEWNET;

/** Threads of this process. clone3 keeps its flags in memory, where no filter sees them. */
const THREADS: readonly Rule[] = [
  allowWhen("clone", bits(0, CLONE.THREAD | NAMESPACES, CLONE.THREAD)),
  { call: "clone3", action: ABSENT },
  ...allow(
    "exit",
    "exit_group",
    "futex",
    "futex_waitv",
    "set_robust_list",
    "get_robust_list",
    "rseq",
    "set_tid_address",
  ),
  ...allow("sched_yield", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max"),
  ...allow("sched_get_priority_min", "gettid", "getpid", "restart_syscall"),
  ...oneOf("prctl", 0, [PR.SET_NAME, PR.GET_NAME, PR.SET_VMA]),
];

const SIGNALS = allow(
  "rt_sigaction",
  "rt_sigprocmask",
  "rt_sigreturn",
  "rt_sigpending",
  "rt_sigtimedwait",
  "rt_sigsuspend",
  "sigaltstack",
);

const TIME = allow("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time");

const SELF: readonly Rule[] = [
  ...allow("getrandom", "uname", "sysinfo", "getrusage", "times", "getcpu", "getppid", "getcwd"),
  ...allow(
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getresuid",
    "getresgid",
    "getgroups",
    "umask",
    "getpgrp",
    "getpgid",
    "getsid",
  ),
  ...allow("getrlimit"),
  allowWhen("prlimit64", equal(2, 0)), // reads a limit, sets none
];

/** Set-user-id, set-group-id and sticky. */
const SPECIAL_MODES = 0o7000;

/** Looking at files, for a policy that grants paths; which ones, Landlock and the mount namespace decide. */
const READING: readonly Rule[] = [
  // A program with a set-user-id bit, created in a granted directory, would lend the host's user to whoever runs it out there.
  ...(["open", "openat"] as const).map((call, index) => allowWhen(call, bits(index === 0 ? 2 : 3, SPECIAL_MODES, 0))),
  ...allow("getdents", "getdents64", "fstatfs", "fchdir", "fadvise64", "readahead"),
  ...oneOf("fcntl", 1, [F.GETLK, F.SETLK, F.SETLKW]),
];

/**
 * Asking about a path without opening it. Landlock does not govern that, so it takes a root of the actor's own, where there is
 * nothing else to ask about.
 */
const ASKING = allow(
  "access",
  "faccessat",
  "faccessat2",
  "stat",
  "lstat",
  "newfstatat",
  "statx",
  "readlink",
  "readlinkat",
  "chdir",
  "statfs",
);

const WRITING: readonly Rule[] = [
  allowWhen("mkdir", bits(1, SPECIAL_MODES, 0)),
  allowWhen("renameat2", bits(4, RENAME.WHITEOUT, 0)), // it would leave a device node behind
  allowWhen("mkdirat", bits(2, SPECIAL_MODES, 0)),
  ...allow("rmdir", "unlink", "unlinkat", "rename", "renameat", "fsync", "fdatasync", "copy_file_range", "sendfile"),
];

/** What Bun does before the boot file closes the doors, beyond what stays allowed. */
const STARTING: readonly Rule[] = [
  ...READING,
  ...ASKING,
  ...allow("execve", "execveat", "arch_prctl", "seccomp", "setsockopt", "socketpair"),
  ...oneOf("prctl", 0, [PR.SET_PDEATHSIG, PR.GET_DUMPABLE, PR.SET_DUMPABLE, PR.SET_THP_DISABLE, PR.GET_NO_NEW_PRIVS]),
  ...oneOf("fcntl", 1, [F.SETFL]),
];

/** Signals to its own threads, by which the garbage collector stops them. */
const ownThreads = (pid: number) => allowWhen("tgkill", equal(0, pid));

const compiled = new Map<string, Uint8Array>();
const MOST_COMPILED = 64;

/** A filter, compiled once for all that has the same in its key. */
export function kept(key: readonly unknown[], compileIt: () => Uint8Array): Uint8Array {
  const text = JSON.stringify(key);
  const filter = compiled.get(text) ?? compileIt();
  if (compiled.size === MOST_COMPILED) compiled.clear();
  compiled.set(text, filter);
  return filter;
}

/** What holds from the puppet's last call on. @param pid the actor's process id as it sees it itself */
export function startingFilter(machine: Machine, pid: number): Uint8Array {
  const rules = () => [STARTING, WRITING, DESCRIPTORS, ANY_MEMORY, THREADS, SIGNALS, TIME, SELF].flat();
  return kept(["starting", machine, pid], () =>
    compile({ machine, default: DENIED, rules: [...rules(), ownThreads(pid)] }),
  );
}

/** What holds from before the first line of foreign code on: what it was handed, its own memory, its own threads. */
export function closingFilter(
  policy: Policy,
  machine: Machine,
  { observed = false, ...actor }: Inside & { readonly observed?: boolean },
): Uint8Array {
  const paths = pathsOf(policy);
  const files = [paths.length > 0, paths.some(isWritable)];
  return kept(["closing", machine, observed, actor.pid, actor.ownRoot, files, policy.promises, policy.onBreak], () => {
    const filters = filtersOf(policy, "actor", machine, actor);
    return chain(filters.map((filter) => compile(observed ? handingOver(filter, HABITS) : filter)));
  });
}

/** Where an actor finds itself. */
interface Inside {
  readonly pid: number;
  readonly ownRoot: boolean;
}

/** What foreign code may do; anything else is refused. */
function closingRules(policy: Policy, { pid, ownRoot }: Inside): Rule[] {
  const rules = [DESCRIPTORS, MEMORY, THREADS, SIGNALS, TIME, SELF];
  const paths = pathsOf(policy);
  if (paths.length > 0) rules.push(READING, ...(ownRoot ? [ASKING] : []));
  if (paths.some(isWritable)) rules.push(WRITING);
  return [...rules.flat(), ownThreads(pid)];
}

/** The filters under which an actor's code or a program runs. What all of them allow is allowed. */
export function filtersOf(
  policy: Policy,
  of: "actor" | "program",
  machine: Machine,
  inside: Inside = { pid: 1, ownRoot: true },
): Filter[] {
  const rules = of === "program" ? programRules(policy) : closingRules(policy, inside);
  const whose = of === "program" ? ({ for: "program" } as const) : ({ for: "self", pid: inside.pid } as const);
  const { promises, onBreak } = policy;
  return [
    { machine, default: DENIED, rules },
    ...(promises === undefined ? [] : [promiseFilter(promises, { ...whose, machine, onBreak })]),
  ];
}

/** Everything about files that a program may do with those that it was granted; which ones, the mount namespace and Landlock decide. */
const FILES: readonly Rule[] = [
  ...READING,
  ...ASKING,
  ...WRITING,
  { call: "openat2", action: ABSENT }, // its mode is in memory, where no filter sees it
  ...allow("link", "linkat", "symlink", "symlinkat", "truncate", "ftruncate", "flock", "sync"),
  ...allow(
    "syncfs",
    "sync_file_range",
    "fchown",
    "fchownat",
    "chown",
    "lchown",
    "utime",
    "utimes",
    "utimensat",
    "futimesat",
  ),
  ...allow("getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr"),
  // All that a user of the host may have would be gone for the host, too: they count in every user namespace upwards.
  ...(["inotify_init", "inotify_init1"] as const).map((call): Rule => ({ call, action: USED_UP })),
  ...allow("inotify_add_watch", "inotify_rm_watch", "fadvise64", "mincore", "msync"),
  ...(["chmod", "fchmod"] as const).map((call) => allowWhen(call, bits(1, SPECIAL_MODES, 0))),
  ...(["fchmodat", "fchmodat2"] as const).map((call) => allowWhen(call, bits(2, SPECIAL_MODES, 0))),
  allowWhen("creat", bits(1, SPECIAL_MODES, 0)),
  // Named pipes. Devices are for root of the machine alone, and would not work here; but then nobody has to rely on that.
  allowWhen("mknod", bits(1, S.IFMT | SPECIAL_MODES, S.IFIFO)),
  allowWhen("mknodat", bits(2, S.IFMT | SPECIAL_MODES, S.IFIFO)),
];

const PROGRAM_DESCRIPTORS: readonly Rule[] = [
  // What is typed for the program it may read, not write: on a terminal that is not its own that would be another's command.
  ...[IOCTL.TIOCSTI, IOCTL.TIOCLINUX].map(
    (request): Rule => ({ call: "ioctl", action: DENIED, when: [bits(1, 0xffff_ffffn, request)] }),
  ),
  ...[F.SETLEASE, F.NOTIFY].map(
    (command): Rule => ({ call: "fcntl", action: DENIED, when: [bits(1, 0xffff_ffffn, command)] }),
  ),
  ...allow("ioctl", "fcntl", "getsockopt", "setsockopt", "preadv2", "pwritev2", "splice", "tee"),
  ...allow("sendmmsg", "recvmmsg", "epoll_create", "eventfd", "signalfd", "signalfd4", "epoll_pwait2"),
  // No datagrams: they can be sent to any path, which nobody would be asked about.
  ...[SOCK.STREAM, SOCK.SEQPACKET].map((type) => allowWhen("socketpair", equal(0, AF.UNIX), bits(1, 0xf, type))),
];

/** Processes of its own: nothing that looks into another one, and no namespaces. */
const PROCESSES: readonly Rule[] = [
  allowWhen("clone", bits(0, NAMESPACES, 0)),
  { call: "prctl", action: DENIED, when: [bits(0, 0xffff_ffffn, PR.SET_MM)] },
  ...allow(
    "prctl",
    "fork",
    "vfork",
    "execve",
    "execveat",
    "wait4",
    "waitid",
    "kill",
    "tkill",
    "tgkill",
    "rt_sigqueueinfo",
  ),
  ...allow("rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal", "setpgid", "setsid", "arch_prctl", "pause", "alarm"),
  ...allow(
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "capget",
    "capset",
  ),
  ...allow("prlimit64", "setrlimit", "getpriority", "setpriority", "ioprio_get", "ioprio_set", "sched_setaffinity"),
  ...allow("sched_setscheduler", "sched_setparam", "sched_setattr", "sched_getattr", "sched_rr_get_interval"),
  ...allow("mlock", "munlock", "mlockall", "munlockall", "mlock2", "pkey_alloc", "pkey_free", "pkey_mprotect"),
  ...allow(
    "timer_create",
    "timer_settime",
    "timer_gettime",
    "timer_getoverrun",
    "timer_delete",
    "getitimer",
    "setitimer",
  ),
  ...allow("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
  ...oneOf("personality", 0, [0, 0xffff_ffff]), // asks, or is what it is
  allowWhen("seccomp", bits(1, SECCOMP_FILTER_FLAG.NEW_LISTENER, 0)),
];

/**
 * Memory that no process would be counted for. So are huge pages of which a pipe was given a part, by `vmsplice`, which is not allowed; and what
 * /dev/zero maps for who may write to it (`sandboxed.ts`).
 */
const COUNTED: readonly Rule[] = [
  ...[MAP.SHARED | MAP.ANONYMOUS, MAP.HUGETLB].map(
    (flags): Rule => ({ call: "mmap", action: DENIED, when: [bits(3, flags, flags)] }),
  ),
  // Buffers stay as large as they are. The kernel, too, is silent about what it does not give.
  ...[SO.SNDBUF, SO.RCVBUF].map(
    (option): Rule => ({
      call: "setsockopt",
      action: IGNORED,
      when: [bits(1, 0xffff_ffffn, SOL.SOCKET), bits(2, 0xffff_ffffn, option)],
    }),
  ),
];

/** Connections within a network namespace of its own, where a proxy of the host's listens. */
const STREAMS: readonly Rule[] = [
  ...[AF.INET, AF.INET6].map((family) => allowWhen("socket", equal(0, family), bits(1, 0xf, SOCK.STREAM))),
  ...allow("bind", "listen", "accept", "accept4", "connect"),
];

/** Sockets in a network of its own, for a program whose every `connect` is asked about: no datagrams to paths, which need none. */
export const SOCKETS: readonly Rule[] = [
  ...[AF.INET, AF.INET6].flatMap((family) =>
    [SOCK.STREAM, SOCK.DGRAM].map((type) => allowWhen("socket", equal(0, family), bits(1, 0xf, type))),
  ),
  ...[SOCK.STREAM, SOCK.SEQPACKET].map((type) => allowWhen("socket", equal(0, AF.UNIX), bits(1, 0xf, type))),
  ...allow("bind", "listen", "accept", "accept4"),
];

/** What holds for a program and all that it starts. */
export function programFilter(policy: Policy, machine: Machine): Uint8Array {
  return kept(["program", machine, policy.net.length > 0, policy.limits.disk !== undefined], () =>
    compile({ machine, default: DENIED, rules: programRules(policy) }),
  );
}

/** What a program may do; anything else is refused. */
function programRules(policy: Policy): Rule[] {
  const rules = [COUNTED, FILES, PROGRAM_DESCRIPTORS, DESCRIPTORS, ANY_MEMORY, PROCESSES, THREADS, SIGNALS, TIME, SELF];
  return [spaceRules(policy.limits), ...rules, ...(policy.net.length > 0 ? [STREAMS] : [])].flat();
}

/** What Bun tries now and then, and does without. */
const HABITS: readonly Rule[] = [
  { call: "madvise", action: DENIED },
  { call: "setsockopt", action: DENIED },
];

/** The same filter, but that what it refuses is handed over: where one answers with an errno, the kernel asks nobody. */
export function handingOver({ machine, rules }: Filter, but: readonly Rule[] = []): Filter {
  const handed = rules.map((rule): Rule => (rule.action === DENIED ? { ...rule, action: "notify" } : rule));
  return { machine, default: "notify", rules: [...handed, ...but] };
}
