/** What a running Bun may still ask of the kernel once it is confined and has promised nothing: rules of a filter, pure. */
import type { SyscallName } from "../../syscalls/kernel.ts";
import { AF, SOCK } from "../../syscalls/linux/constants.ts";
import { AT, CLONE, F, IOCTL, MFD, PR, S, SECCOMP_FILTER_FLAG } from "../../syscalls/linux/numbers.ts";
import type { Condition, Rule, Test } from "./seccomp/index.ts";
import { TERMINAL } from "./words.ts";

/** What the rules depend on. */
interface Remains {
  /** The process's id as it sees it itself. */
  readonly pid: number;
  /** Whether it may start programs. */
  readonly runs: boolean;
  /** Whether any path is granted. */
  readonly asks: boolean;
  /** Whether files may be written to, or created. */
  readonly writes: boolean;
}

const allow = (...calls: readonly Rule["call"][]): Rule[] => calls.map((call) => ({ call, action: "allow" }));
const allowWhen = (call: SyscallName, ...when: readonly Condition[]): Rule => ({ call, action: "allow", when });
const deny = (errno: "EPERM" | "ENOSYS", ...calls: readonly SyscallName[]): Rule[] =>
  calls.map((call) => ({ call, action: { errno } }));
const bits = (arg: Test["arg"], mask: bigint | number, value: bigint | number): Test => ({
  arg,
  op: "masked",
  mask,
  value,
});
const equal = (arg: Test["arg"], value: number): Test => ({ arg, op: "eq", value });
const among = (arg: Test["arg"], values: readonly number[]): Condition => ({
  any: values.map((value) => equal(arg, value)),
});
/** One of these numbers, whatever stands in the half of the word that the kernel does not read. */
const commands = (arg: Test["arg"], values: readonly number[]): Condition => ({
  any: values.map((value) => bits(arg, 0xffff_ffff, value)),
});

/** Commands that change nothing but the descriptor, what was opened for writing, and the terminal: not a file that was opened for reading. */
const COMMANDS = [
  ...[IOCTL.FIOCLEX, IOCTL.FIONCLEX, IOCTL.FIONBIO, IOCTL.FIONREAD, IOCTL.FIOQSIZE, IOCTL.FICLONE, IOCTL.FICLONERANGE],
  ...[IOCTL.TCGETS, IOCTL.TCGETS2, IOCTL.TIOCGWINSZ, ...TERMINAL],
];

/** Descriptors, but not to type for others at a terminal, to send signals by them, or to be told what others do to a file. */
const DESCRIPTORS: readonly Rule[] = [
  allowWhen("ioctl", commands(1, COMMANDS)),
  ...deny("EPERM", "ioctl"),
  {
    call: "fcntl",
    action: { errno: "EPERM" },
    when: [commands(1, [F.SETLEASE, F.NOTIFY, F.SETOWN, F.SETOWN_EX, F.SETSIG])],
  },
  ...allow("@io", "@event"),
];

/** Sockets that are open already, and pairs of them; of datagrams, no pair, for its ends can send to any path. */
const SOCKETS: readonly Rule[] = [
  allowWhen("socketpair", equal(0, AF.UNIX), { any: [SOCK.STREAM, SOCK.SEQPACKET].map((type) => bits(1, 0xf, type)) }),
  ...allow("accept", "accept4", "shutdown", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg"),
  ...allow("getsockname", "getpeername", "getsockopt", "setsockopt"),
];

/** Set-user-id, set-group-id and sticky: such a file would lend this process's user to whoever runs it. */
const SPECIAL_MODES = 0o7000;

/** Files; which ones, Landlock decides. Not by what gives a file without a path, where Landlock sees none. */
const LOOKING: readonly Rule[] = [
  allowWhen("open", bits(2, SPECIAL_MODES, 0)),
  allowWhen("openat", bits(3, SPECIAL_MODES, 0)),
  ...(["open", "openat"] as const).map((call): Rule => ({ call, action: { errno: "EPERM" } })),
  ...deny("ENOSYS", "openat2"), // its flags and mode are in memory, where no filter sees them
  ...deny("EPERM", "name_to_handle_at", "open_by_handle_at", "fanotify_init", "fanotify_mark"),
  ...allow("@file-read"),
];

/** By path, and Landlock does not govern it: attributes of whatever stands there, and the names of what comes and goes in a directory. */
export const UNGOVERNED = deny(
  "EPERM",
  ...(["getxattr", "lgetxattr", "getxattrat", "listxattr", "llistxattr", "listxattrat", "file_getattr"] as const),
  "inotify_add_watch",
);

/**
 * What asks about a path without opening it, which Landlock does not govern either: refused where nothing is granted. By `newfstatat` and
 * `statx` libraries also ask about a descriptor; that the path is empty then, no filter sees.
 */
const ASKING: readonly Rule[] = [
  allowWhen("newfstatat", bits(3, AT.EMPTY_PATH, AT.EMPTY_PATH)),
  allowWhen("statx", bits(2, AT.EMPTY_PATH, AT.EMPTY_PATH)),
  ...deny(
    "EPERM",
    "newfstatat",
    "statx",
    "stat",
    "lstat",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
  ),
  ...deny("EPERM", "statfs", "ustat", "chdir"),
];

/** What goes by a descriptor that was opened for it. */
const FILLING = allow(
  "ftruncate",
  "fallocate",
  "copy_file_range",
  "flock",
  "fsync",
  "fdatasync",
  "sync_file_range",
  "umask",
);

/** Creating and removing, which Landlock governs. It does not see who changes modes, owners, times and attributes: nobody does. */
const WRITING: readonly Rule[] = [
  allowWhen("creat", bits(1, SPECIAL_MODES, 0)),
  allowWhen("mkdir", bits(1, SPECIAL_MODES, 0)),
  allowWhen("mkdirat", bits(2, SPECIAL_MODES, 0)),
  allowWhen("mknod", bits(1, S.IFMT | SPECIAL_MODES, S.IFIFO)),
  allowWhen("mknodat", bits(2, S.IFMT | SPECIAL_MODES, S.IFIFO)),
  ...allow("rmdir", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rename", "renameat", "renameat2"),
  ...allow("truncate", "sync", "syncfs"),
];

const NAMESPACES =
  CLONE.NEWNS | CLONE.NEWCGROUP | CLONE.NEWUTS | CLONE.NEWIPC | CLONE.NEWUSER | CLONE.NEWPID | CLONE.NEWNET;

/** What a process asks of itself alone, among it to be left with less. */
const OWN_PRCTL = [
  PR.SET_NAME, PR.GET_NAME, PR.SET_VMA, PR.GET_DUMPABLE, PR.SET_PDEATHSIG, PR.SET_NO_NEW_PRIVS, PR.GET_NO_NEW_PRIVS, PR.GET_SECCOMP,
  PR.CAPBSET_READ, PR.CAPBSET_DROP, PR.CAP_AMBIENT, PR.GET_SECUREBITS, PR.GET_KEEPCAPS, PR.SET_THP_DISABLE, PR.SET_TIMERSLACK,
]; // biome-ignore format: a table

/** The process itself and its threads. clone3 keeps its flags in memory, where no filter sees them; callers then take clone. */
const PROCESS: readonly Rule[] = [
  ...deny("ENOSYS", "clone3"),
  allowWhen("clone", bits(0, CLONE.THREAD | NAMESPACES, CLONE.THREAD)),
  allowWhen("prctl", among(0, OWN_PRCTL)),
  allowWhen("prlimit64", equal(0, 0)),
  ...allow("exit", "exit_group", "wait4", "waitid", "getpid", "getppid", "getpgrp", "getpgid", "getsid", "getrlimit"),
  ...allow("setrlimit", "getrusage", "restart_syscall", "capset"),
  ...allow("@thread", "@time", "@identity"),
  // Of itself: each of these can be asked to mean another process of the same user.
  ...(["sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"] as const).map((call) =>
    allowWhen(call, equal(0, 0)),
  ),
  allowWhen("setpriority", equal(0, 0), equal(1, 0)),
  ...allow("sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_get_priority_max"),
  ...allow("sched_get_priority_min", "sched_rr_get_interval", "getpriority"),
];

const MEMORY: readonly Rule[] = [
  // What is written there could be executed, and no wall of paths would be asked.
  allowWhen("memfd_create", bits(1, MFD.NOEXEC_SEAL | MFD.EXEC, MFD.NOEXEC_SEAL)),
  ...deny("EPERM", "memfd_create"),
  ...deny("EPERM", "userfaultfd", "memfd_secret", "migrate_pages", "move_pages", "remap_file_pages"),
  ...allow("@memory"),
];

const SIGNALS = allow(
  "rt_sigaction",
  "rt_sigprocmask",
  "rt_sigreturn",
  "rt_sigpending",
  "rt_sigsuspend",
  "rt_sigtimedwait",
  "sigaltstack",
  "pause",
);

/** Signals whose receiver stands in the first argument. */
const SENDING = ["kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"] as const;

/** Starting programs, and being one: where Landlock keeps signals to what this process started, they may be sent. */
const RUNNING: readonly Rule[] = [
  allowWhen("clone", bits(0, NAMESPACES, 0)),
  { call: "prctl", action: { errno: "EPERM" }, when: [commands(0, [PR.SET_MM])] },
  ...allow("prctl", "arch_prctl", "fork", "vfork", "execve", "execveat", "pidfd_open", "setpgid", "setsid"),
  ...allow(...SENDING, "tkill", "pidfd_send_signal"),
  allowWhen("personality", among(0, [0, 0xffff_ffff])), // asks, or is what it is
];

/** To give up more is always allowed. */
export const LESS = allow("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self");

/** Everything else is to be refused. */
export function remaining({ pid, runs, asks, writes }: Remains): Rule[] {
  return [
    ...DESCRIPTORS,
    ...SOCKETS,
    ...(asks ? [] : ASKING),
    ...UNGOVERNED,
    ...LOOKING,
    ...FILLING,
    ...(writes ? WRITING : []),
    ...(runs ? RUNNING : []),
    ...PROCESS,
    ...MEMORY,
    ...SIGNALS,
    ...(runs ? [] : SENDING.map((call) => allowWhen(call, equal(0, pid)))),
    allowWhen("seccomp", bits(1, SECCOMP_FILTER_FLAG.NEW_LISTENER | SECCOMP_FILTER_FLAG.SPEC_ALLOW, 0)),
    ...LESS,
  ];
}
