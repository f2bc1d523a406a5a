/** The words of pledge(2): which system calls each lets through by itself, and which files it brings along. */
import type { SyscallName } from "../../syscalls/kernel.ts";
import { AF, SOCK } from "../../syscalls/linux/constants.ts";
import {
  AT,
  CLONE,
  F,
  IOCTL,
  IPPROTO,
  MADV,
  PR,
  PROT,
  RENAME,
  S,
  SECCOMP,
  SECCOMP_FILTER_FLAG,
  SECCOMP_MODE,
  SO,
  SOL,
} from "../../syscalls/linux/numbers.ts";
import {
  IP,
  IPV6,
  MCAST,
  SIOC,
  SNDRV_CTL_IOCTL,
  SNDRV_PCM_IOCTL,
  TCP,
  UDP,
  VIDIOC,
} from "../../syscalls/linux/requests.ts";
import type { Arg, Condition, ErrnoName, Rule, Test } from "./seccomp/filter.ts";

const INT = 0xffff_ffff;
/** Of an argument that the kernel takes as an `int` the upper half means nothing, and some libraries extend its sign into it. */
export const int = (arg: Arg, value: number): Test => ({ arg, op: "masked", mask: INT, value: value >>> 0 });
const isNull = (arg: Arg): Test => ({ arg, op: "eq", value: 0 });
/** The bits of `mask` in this argument are exactly `value`. */
export const bits = (arg: Arg, mask: bigint | number, value: bigint | number): Test => ({
  arg,
  op: "masked",
  mask,
  value,
});
const among = (arg: Arg, values: readonly number[]): Condition => ({ any: values.map((value) => int(arg, value)) });

export const allow = (...calls: readonly SyscallName[]): Rule[] => calls.map((call) => ({ call, action: "allow" }));
export const allowWhen = (call: SyscallName, ...when: readonly Condition[]): Rule => ({ call, action: "allow", when });
export const answer = (call: SyscallName, errno: ErrnoName, ...when: readonly Condition[]): Rule => ({
  call,
  action: { errno },
  ...(when.length > 0 && { when }),
});

/** Without any promise: a process ends, and returns from its signals' handlers. */
export const ALWAYS = allow("exit", "exit_group", "rt_sigreturn");

/** Set-user-id, set-group-id and sticky: pledge(2) takes them out of a mode, a filter can only refuse them. */
const SPECIAL_MODES = 0o7000;
export const plain = (arg: Arg) => bits(arg, SPECIAL_MODES, 0);

const NAMESPACES =
  CLONE.NEWNS | CLONE.NEWCGROUP | CLONE.NEWUTS | CLONE.NEWIPC | CLONE.NEWUSER | CLONE.NEWPID | CLONE.NEWNET;

const KIND = 0xf; // of a socket's type: the rest are flags

/** All but what takes pages out of the machine. */
const ADVICE = Object.entries(MADV).flatMap(([name, advice]) => (/HWPOISON|OFFLINE/.test(name) ? [] : [advice]));

/** O_ASYNC, which no header of the UAPI has: of a terminal the signals go to whoever is in front. */
const ASYNC = 0o20000;

/** Open descriptors, memory, threads, time and itself. */
const STDIO: readonly Rule[] = [
  ...allow("read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2"),
  ...allow("lseek", "close", "close_range", "dup", "dup2", "dup3", "pipe", "pipe2", "fchdir", "ftruncate", "fallocate"),
  ...allow("fsync", "fdatasync", "sync_file_range", "fadvise64", "readahead", "fstat"),
  ...allow("sendfile", "splice", "tee", "copy_file_range"),
  // fstat(3) of glibc and File::metadata of Rust. That the path is empty, no filter sees.
  allowWhen("newfstatat", bits(3, AT.EMPTY_PATH, AT.EMPTY_PATH)),
  allowWhen("statx", bits(2, AT.EMPTY_PATH, AT.EMPTY_PATH)),
  allowWhen("fcntl", among(1, [F.DUPFD, F.DUPFD_CLOEXEC, F.DUPFD_QUERY, F.GETFD, F.SETFD, F.GETFL])),
  allowWhen("fcntl", int(1, F.SETFL), bits(2, ASYNC, 0)),
  allowWhen("fcntl", among(1, [F.GETOWN, F.GETSIG, F.GETPIPE_SZ, F.SETPIPE_SZ, F.GET_SEALS, F.ADD_SEALS])),
  // isatty(3) and the width of what is printed; pledge(2) has other calls for those.
  allowWhen("ioctl", among(1, [IOCTL.FIONREAD, IOCTL.FIONBIO, IOCTL.FIOCLEX, IOCTL.FIONCLEX])),
  allowWhen("ioctl", among(1, [IOCTL.TCGETS, IOCTL.TCGETS2, IOCTL.TIOCGWINSZ, IOCTL.FICLONE, IOCTL.FICLONERANGE])),
  ...allow("poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait"),
  ...allow("epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "timerfd_create", "timerfd_settime"),
  ...allow("timerfd_gettime", "signalfd", "signalfd4"),
  // Not to an address of its choice, and with nothing beside the bytes: sendmsg(2) and recvmsg(2) carry descriptors.
  allowWhen("sendto", isNull(4)),
  // No pair of datagrams: its ends can send to any path.
  allowWhen("socketpair", int(0, AF.UNIX), { any: [SOCK.STREAM, SOCK.SEQPACKET].map((kind) => bits(1, KIND, kind)) }),
  ...allow("recvfrom", "shutdown"),

  allowWhen("mmap", bits(2, PROT.EXEC, 0)),
  allowWhen("mprotect", bits(2, PROT.EXEC, 0)),
  allowWhen("madvise", among(2, [...ADVICE, -1])), // by advice that no kernel takes BoringSSL tells real ones from emulated
  ...allow("munmap", "mremap", "brk", "msync", "mincore", "membarrier"),

  allowWhen("clone", bits(0, CLONE.THREAD | NAMESPACES, CLONE.THREAD)),
  answer("clone3", "ENOSYS"), // its flags are in memory, where no filter sees them; libraries then take clone
  ...allow("set_tid_address", "set_robust_list", "get_robust_list", "rseq", "arch_prctl", "restart_syscall"),
  ...allow("futex", "futex_wait", "futex_wake", "futex_waitv", "futex_requeue"),
  ...allow("sched_yield", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max"),
  ...allow("sched_get_priority_min", "getcpu", "gettid", "getpid", "getppid", "wait4", "waitid"),

  ...allow("rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend", "sigaltstack"),
  ...allow("pause", "alarm", "getitimer", "setitimer", "timer_create", "timer_settime", "timer_gettime"),
  ...allow("timer_getoverrun", "timer_delete", "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep"),
  ...allow("gettimeofday", "time", "times"),

  ...allow("getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "getpgrp", "getpgid"),
  ...allow("getsid", "getrlimit", "getrusage", "getrandom", "uname", "sysinfo", "umask"),
  allowWhen("prlimit64", int(0, 0), isNull(2)), // reads its own
  allowWhen("personality", int(0, INT)), // asks
  allowWhen("prctl", among(0, [PR.SET_NAME, PR.GET_NAME, PR.SET_VMA, PR.GET_DUMPABLE, PR.SET_PDEATHSIG])),
  allowWhen("prctl", among(0, [PR.GET_PDEATHSIG, PR.SET_TIMERSLACK, PR.GET_TIMERSLACK, PR.SET_THP_DISABLE])),
  allowWhen("prctl", among(0, [PR.CAPBSET_READ, PR.GET_SECUREBITS, PR.GET_SECCOMP, PR.GET_NO_NEW_PRIVS])),
  // To promise less is always allowed.
  allowWhen("prctl", among(0, [PR.SET_NO_NEW_PRIVS, PR.SET_MDWE, PR.GET_MDWE])),
  allowWhen("prctl", int(0, PR.SET_SECCOMP), int(1, SECCOMP_MODE.FILTER)),
  allowWhen("prctl", int(0, PR.SET_DUMPABLE), int(1, 0)),
  allowWhen(
    "seccomp",
    among(0, [SECCOMP.SET_MODE_FILTER, SECCOMP.GET_ACTION_AVAIL]),
    bits(1, SECCOMP_FILTER_FLAG.NEW_LISTENER | SECCOMP_FILTER_FLAG.SPEC_ALLOW, 0),
  ),
];

/** Asking about a path. Landlock does not govern it: in a root of one's own there is nothing else to ask about. */
export const LOOKS = [
  ...(["stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"] as const),
  ...(["chdir", "getcwd", "statfs", "fstatfs"] as const),
];
/** Reading what was found, besides opening it. */
export const LISTING = allow("getdents", "getdents64");
const ATTRIBUTES = allow("getxattr", "lgetxattr", "fgetxattr", "getxattrat", "listxattr", "llistxattr", "flistxattr");
const WATCHES = allow("inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch");

const CREATING: readonly Rule[] = [
  allowWhen("mkdir", plain(1)),
  allowWhen("mkdirat", plain(2)),
  ...allow("rmdir", "unlink", "unlinkat", "rename", "renameat", "link", "linkat", "symlink", "symlinkat"),
  allowWhen("renameat2", bits(4, RENAME.WHITEOUT, 0)), // it would leave a device node behind
];

/** Pipes with names, and devices for who may make them: not what open(2) creates, which is for cpath. */
const special = (arg: Arg): Condition[] => [
  plain(arg),
  { any: [S.IFIFO, S.IFCHR, S.IFBLK].map((kind) => bits(arg, S.IFMT, kind)) },
];

/** Modes, times and attributes. Owners only where nothing changes. */
const CHANGING: readonly Rule[] = [
  ...allow("utime", "utimes", "utimensat", "futimesat", "setxattr", "lsetxattr", "fsetxattr", "removexattr"),
  ...allow("lremovexattr", "fremovexattr"),
  ...(["chmod", "fchmod"] as const).map((call) => allowWhen(call, plain(1))),
  ...(["fchmodat", "fchmodat2"] as const).map((call) => allowWhen(call, plain(2))),
  ...(["chown", "lchown", "fchown"] as const).map((call) => allowWhen(call, int(1, -1), int(2, -1))),
  allowWhen("fchownat", int(2, -1), int(3, -1)),
];

const SOCKETS: readonly Rule[] = [
  ...allow("bind", "listen", "accept", "accept4", "connect", "getsockname", "getpeername", "sendto"),
  ...["setsockopt" as const, "getsockopt" as const].map((call) =>
    allowWhen(call, int(1, SOL.SOCKET), {
      any: [
        among(2, [SO.REUSEADDR, SO.REUSEPORT, SO.KEEPALIVE, SO.BROADCAST, SO.LINGER, SO.OOBINLINE, SO.SNDBUF]),
        among(2, [SO.RCVBUF, SO.RCVTIMEO_OLD, SO.RCVTIMEO_NEW, SO.SNDTIMEO_OLD, SO.SNDTIMEO_NEW, SO.RCVLOWAT]),
        among(2, [SO.TIMESTAMP_OLD, SO.TIMESTAMPNS_OLD, SO.PASSCRED, SO.DONTROUTE, SO.PRIORITY]),
      ],
    }),
  ),
  // Who is at the other end, not a descriptor of it: SO_PEERPIDFD.
  allowWhen(
    "getsockopt",
    int(1, SOL.SOCKET),
    among(2, [SO.TYPE, SO.ERROR, SO.ACCEPTCONN, SO.PEERCRED, SO.PROTOCOL, SO.DOMAIN]),
  ),
];
/** On a socket of the unix family these carry descriptors; which family it is of, no filter sees. */
const SENDING = allow("sendmsg", "sendmmsg");
const RECEIVING = allow("recvmsg", "recvmmsg");

const IP_GROUPS: readonly number[] = [
  ...[IP.MULTICAST_IF, IP.MULTICAST_TTL, IP.MULTICAST_LOOP, IP.MULTICAST_ALL, IP.ADD_MEMBERSHIP, IP.DROP_MEMBERSHIP],
  ...[IP.ADD_SOURCE_MEMBERSHIP, IP.DROP_SOURCE_MEMBERSHIP, ...Object.values(MCAST)],
];
const IPV6_GROUPS: readonly number[] = [
  ...[IPV6.MULTICAST_IF, IPV6.MULTICAST_HOPS, IPV6.MULTICAST_LOOP, IPV6.MULTICAST_ALL, IPV6.JOIN_GROUP],
  ...[IPV6.LEAVE_GROUP, ...Object.values(MCAST)],
];
/** Options by their level. */
const MULTICAST = { [IPPROTO.IP]: IP_GROUPS, [IPPROTO.IPV6]: IPV6_GROUPS };
const INTERNET = {
  [IPPROTO.TCP]: Object.values(TCP),
  [IPPROTO.UDP]: Object.values(UDP),
  [IPPROTO.IP]: Object.values(IP).filter((option) => !IP_GROUPS.includes(option)),
  [IPPROTO.IPV6]: Object.values(IPV6).filter((option) => !IPV6_GROUPS.includes(option)),
};
const options = (table: Readonly<Record<string, readonly number[]>>): Rule[] =>
  (["setsockopt", "getsockopt"] as const).flatMap((call) =>
    Object.entries(table).map(([level, names]) => allowWhen(call, int(1, Number(level)), among(2, names))),
  );

/** Neither raw sockets, nor protocols that few have looked at. */
const internet = (kinds: readonly number[]): Rule =>
  allowWhen(
    "socket",
    among(0, [AF.INET, AF.INET6]),
    { any: kinds.map((kind) => bits(1, KIND, kind)) },
    among(2, [0, IPPROTO.TCP, IPPROTO.UDP]),
  );
const NETLINK_ROUTE = 0;
/** Tables are asked for and changed by the same messages: who may change them, CAP_NET_ADMIN says. */
const ROUTES: readonly Rule[] = [
  allowWhen("socket", int(0, AF.NETLINK), among(2, [NETLINK_ROUTE])),
  ...SOCKETS,
  ...SENDING,
  ...RECEIVING,
];

export const TERMINAL = [
  ...[IOCTL.TCSETS, IOCTL.TCSETSW, IOCTL.TCSETSF, IOCTL.TCSETS2, IOCTL.TCSETSW2, IOCTL.TCSETSF2],
  ...[IOCTL.TCSBRK, IOCTL.TCSBRKP, IOCTL.TIOCSBRK, IOCTL.TIOCCBRK, IOCTL.TCXONC, IOCTL.TCFLSH],
  ...[IOCTL.TIOCGPGRP, IOCTL.TIOCSPGRP, IOCTL.TIOCGSID, IOCTL.TIOCSWINSZ, IOCTL.TIOCOUTQ, IOCTL.TIOCSCTTY],
  ...[IOCTL.TIOCGPTN, IOCTL.TIOCSPTLCK, IOCTL.TIOCGPTPEER, IOCTL.TIOCNOTTY],
];

/** Its own limits and priorities. */
const LIMITS: readonly Rule[] = [
  ...allow("setrlimit", "getpriority", "setpriority"),
  allowWhen("prlimit64", int(0, 0)),
];

const OTHERS: readonly Rule[] = [
  allowWhen("clone", bits(0, NAMESPACES, 0)),
  ...allow("fork", "vfork", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
  ...allow("pidfd_open", "pidfd_send_signal", "setpgid", "setsid", "ioprio_get", "ioprio_set"),
  ...allow("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr", "sched_getattr"),
  // Whom a descriptor's signals go to.
  allowWhen("fcntl", among(1, [F.SETOWN, F.SETOWN_EX, F.GETOWN_EX, F.SETSIG])),
  allowWhen("fcntl", int(1, F.SETFL)),
  allowWhen("ioctl", int(1, IOCTL.FIOASYNC)),
  allowWhen("prctl", among(0, [PR.SET_CHILD_SUBREAPER, PR.GET_CHILD_SUBREAPER])),
  ...LIMITS,
];

const BECOMING: readonly Rule[] = [
  ...allow("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups"),
  ...allow("capget", "capset"),
  allowWhen("prctl", among(0, [PR.CAPBSET_DROP, PR.CAP_AMBIENT, PR.SET_KEEPCAPS, PR.GET_KEEPCAPS, PR.SET_SECUREBITS])),
  ...LIMITS,
];

/** What each word lets through by itself. What several say together about open(2) is in promises.ts. A new word is one line here. */
export const WORDS = {
  stdio: STDIO,
  rpath: [...ATTRIBUTES, ...WATCHES],
  wpath: allow("truncate"),
  cpath: CREATING,
  dpath: [allowWhen("mknod", ...special(1)), allowWhen("mknodat", ...special(2))],
  tmppath: [...allow("unlink"), allowWhen("unlinkat", bits(2, AT.REMOVEDIR, 0))],
  fattr: CHANGING,
  chown: allow("chown", "lchown", "fchown", "fchownat"),
  flock: [
    ...allow("flock"),
    allowWhen("fcntl", among(1, [F.GETLK, F.SETLK, F.SETLKW, F.OFD_GETLK, F.OFD_SETLK, F.OFD_SETLKW])),
  ],
  sendfd: SENDING,
  recvfd: RECEIVING,
  inet: [
    internet([SOCK.STREAM, SOCK.DGRAM]),
    ...SOCKETS,
    ...options(INTERNET),
    ...SENDING,
    ...RECEIVING,
    allowWhen("ioctl", int(1, SIOC.ATMARK)),
  ],
  mcast: options(MULTICAST),
  unix: [allowWhen("socket", int(0, AF.UNIX)), allowWhen("socketpair", int(0, AF.UNIX)), ...SOCKETS],
  dns: [
    internet([SOCK.DGRAM]),
    ...allow("connect", "sendto", "getsockname"),
    ...SENDING,
    ...RECEIVING,
    ...options({ [IPPROTO.IP]: [IP.RECVERR, IP.MTU_DISCOVER], [IPPROTO.IPV6]: [IPV6.RECVERR, IPV6.MTU_DISCOVER] }),
  ],
  getpw: [],
  tty: [allowWhen("ioctl", among(1, TERMINAL))],
  proc: OTHERS,
  // Memory by a descriptor can be mapped as code, so it goes with code.
  prot_exec: allow("mmap", "mprotect", "memfd_create"),
  exec: allow("execve", "execveat"),
  settime: allow("settimeofday", "clock_settime", "adjtimex", "clock_adjtime"),
  ps: [],
  vminfo: [],
  id: BECOMING,
  route: [
    ...ROUTES,
    allowWhen("ioctl", among(1, [SIOC.GIFNAME, SIOC.GIFCONF, SIOC.GIFFLAGS, SIOC.GIFADDR, SIOC.GIFNETMASK])),
    allowWhen("ioctl", among(1, [SIOC.GIFMTU, SIOC.GIFHWADDR, SIOC.GIFINDEX])),
  ],
  wroute: [...ROUTES, allowWhen("ioctl", among(1, [SIOC.ADDRT, SIOC.DELRT]))],
  audio: [allowWhen("ioctl", among(1, [...Object.values(SNDRV_PCM_IOCTL), ...Object.values(SNDRV_CTL_IOCTL)]))],
  video: [allowWhen("ioctl", among(1, Object.values(VIDIOC)))],
  unveil: allow("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
  error: [],
} as const satisfies Readonly<Record<string, readonly Rule[]>>;

export type PromiseWord = keyof typeof WORDS;
/** Every word that means something here. */
export const PROMISES = Object.keys(WORDS) as readonly PromiseWord[]; // of a table that has no other keys

/** Words of pledge(2) for devices that only OpenBSD has. */
export const ELSEWHERE: readonly string[] = ["bpf", "disklabel", "drm", "pf", "tape", "vmm"];

/** What a word lets a process do with files of its own, whatever else it promises. Only Landlock can tell them from others. */
export const FILES: Readonly<Partial<Record<PromiseWord, Readonly<Record<string, string>>>>> = {
  tmppath: { "/tmp": "rwc" },
  dns: {
    "/etc/resolv.conf": "r",
    "/etc/hosts": "r",
    "/etc/host.conf": "r",
    "/etc/nsswitch.conf": "r",
    "/etc/gai.conf": "r",
    "/etc/services": "r",
    "/etc/protocols": "r",
  },
  getpw: { "/etc/passwd": "r", "/etc/group": "r", "/etc/nsswitch.conf": "r" },
  tty: { "/dev/tty": "rw" },
  ps: { "/proc": "r" },
  vminfo: {
    "/proc/meminfo": "r",
    "/proc/vmstat": "r",
    "/proc/stat": "r",
    "/proc/loadavg": "r",
    "/proc/uptime": "r",
    "/proc/swaps": "r",
    "/sys/devices/system": "r",
  },
};
