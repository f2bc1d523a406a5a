// The two filters as the kernel applies them, to a puppet that tries every system call there is.
import { describe, expect } from "bun:test";
import { closingFilter, startingFilter } from "../../platform/linux/filters.ts";
import { HEADER, OWN_STRINGS, STRINGS } from "../../platform/linux/frame.ts";
import type { Policy } from "../../platform/platform.ts";
import { SystemError } from "../../syscalls/error.ts";
import { type Kernel, type SyscallName, self } from "../../syscalls/kernel.ts";
import { CLONE, F, MAP, NUMBERS, O, PR } from "../../syscalls/linux/numbers.ts";
import { setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { hasFilters, setFilter } from "../../syscalls/linux/seccomp.ts";
import { testIf } from "../syscalls/requirement.ts";
import { policy } from "./policy.ts";
import { awaitEnd, type Held, hold } from "./strings.ts";

const testSeccomp = testIf(
  "seccomp",
  process.arch === "x64" && hasFilters(),
  "there are no filters, or no puppet to try them",
);

const POLICY = policy();
const READ: Policy = { ...POLICY, read: ["/srv"] };
const WRITE: Policy = { ...POLICY, write: ["/srv"] };

function behind(filter: (pid: number) => Uint8Array): Held {
  const puppet = hold();
  setNoNewPrivileges(puppet.kernel);
  setFilter(puppet.kernel, filter(puppet.pid));
  return puppet;
}
const closed = (policy: Policy, ownRoot = true) => behind((pid) => closingFilter(policy, "x64", { pid, ownRoot }));

/** The error's name, or `"made"`. */
function outcome(kernel: Kernel, name: SyscallName, ...args: (number | bigint | null)[]): string {
  try {
    kernel.call(name, ...args);
    return "made";
  } catch (error) {
    if (error instanceof SystemError) return error.code;
    throw error;
  }
}

/** What ends a puppet, or has it wait for ever, where it is allowed. */
const ENDLESS: readonly SyscallName[] = [
  "exit",
  "exit_group",
  "rt_sigreturn",
  "rt_sigsuspend",
  "rt_sigtimedwait",
  "poll",
  "ppoll",
];
/** What waits, or closes the puppet's strings, with arguments that others refuse. */
const WAITING: readonly SyscallName[] = [
  "select",
  "pselect6",
  "close_range",
  "futex_waitv",
  "clock_nanosleep",
  "restart_syscall",
];
/** What is allowed for some arguments, and among those are meaningless ones. */
const PARTLY: readonly SyscallName[] = ["mmap", "mprotect"];
/** What the kernel takes from its own trampolines alone, past any filter: called from elsewhere it ends the process. Linux 6.14, 6.18 */
const TRAMPOLINES: readonly SyscallName[] = ["uretprobe", "uprobe"];
const ALLOWED = (
  "read readv pread64 preadv write writev pwrite64 pwritev lseek fstat close close_range dup dup2 dup3 pipe pipe2 eventfd2 " +
  "sendto sendmsg recvfrom recvmsg shutdown getsockname getpeername poll ppoll select pselect6 epoll_create1 epoll_ctl " +
  "epoll_wait epoll_pwait epoll_pwait2 timerfd_create timerfd_settime timerfd_gettime munmap madvise brk " +
  "membarrier exit exit_group futex futex_waitv set_robust_list get_robust_list rseq set_tid_address sched_yield sched_getaffinity " +
  "sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min gettid getpid restart_syscall rt_sigaction " +
  "rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack clock_gettime clock_getres clock_nanosleep " +
  "nanosleep gettimeofday time getrandom uname sysinfo getrusage times getcpu getppid getcwd getuid geteuid getgid getegid getresuid " +
  "getresgid getgroups umask getpgrp getpgid getsid getrlimit"
).split(" ") as SyscallName[];

describe("closingFilter()", () => {
  testSeccomp("answers EPERM to every call that is not on this list, and ENOSYS to clone3", () => {
    using puppet = closed(POLICY);
    const allowed = new Set<string>([...ALLOWED, ...ENDLESS, ...PARTLY, ...TRAMPOLINES]);
    const wrong: string[] = [];
    for (const name of Object.keys(NUMBERS.x64) as SyscallName[]) {
      if (allowed.has(name)) continue;
      // Arguments that mean nothing: a call that got through would answer something else, or nothing at all.
      const found = outcome(puppet.kernel, name, -1, -1, -1, -1, -1, -1);
      if (found !== (name === "clone3" ? "ENOSYS" : "EPERM")) wrong.push(`${name}: ${found}`);
    }
    expect(wrong).toEqual([]);
  });

  testSeccomp("lets through what is on it", () => {
    using puppet = closed(POLICY);
    const harmless = ALLOWED.filter((name) => !ENDLESS.includes(name) && !WAITING.includes(name));
    // Arguments that no call can use: a descriptor that is not open, and NULL.
    const refused = harmless.filter((name) => outcome(puppet.kernel, name, -1, 0, 0, 0, 0, 0) === "EPERM");
    expect(refused).toEqual([]);
    expect(harmless.length).toBeGreaterThan(70);
  });

  const table: readonly (readonly [
    what: string,
    name: SyscallName,
    args: readonly (number | bigint)[],
    outcome: string,
  ])[] = [
    ["a new process", "clone", [17], "EPERM"],
    ["a new process that shares its memory", "clone", [CLONE.VM | CLONE.VFORK], "EPERM"],
    ["a thread in a new user namespace", "clone", [CLONE.THREAD | CLONE.NEWUSER], "EPERM"],
    ["a thread, with flags that the kernel then refuses", "clone", [CLONE.THREAD], "EINVAL"],
    ["clearing O_APPEND", "fcntl", [3, F.SETFL, 0], "EPERM"],
    ["clearing O_APPEND with bits above 32", "fcntl", [3, F.SETFL, 1n << 40n], "EPERM"],
    ["setting O_APPEND", "fcntl", [99, F.SETFL, O.APPEND], "EBADF"],
    ["owning a descriptor's signals", "fcntl", [3, F.SETOWN, 1], "EPERM"],
    ["a lease", "fcntl", [3, F.SETLEASE, 0], "EPERM"],
    ["a copy of a descriptor", "fcntl", [99, F.DUPFD, 0], "EBADF"],
    [
      "an operation with bits above 32, which the kernel ignores",
      "fcntl",
      [99, (1n << 32n) | BigInt(F.GETFD), 0],
      "EPERM",
    ],
    ["typing into a terminal", "ioctl", [3, 0x5412, 0], "EPERM"],
    ["asking for a terminal's settings", "ioctl", [99, 0x5401, 0], "EBADF"],
    ["shared memory without a file", "mmap", [0, 4096, 3, MAP.SHARED | MAP.ANONYMOUS, -1, 0], "EPERM"],
    ["a stack that grows", "mmap", [0, 4096, 3, MAP.PRIVATE | MAP.ANONYMOUS | MAP.GROWSDOWN, -1, 0], "EPERM"],
    ["huge pages", "mmap", [0, 4096, 3, MAP.PRIVATE | MAP.ANONYMOUS | MAP.HUGETLB, -1, 0], "EPERM"],
    ["memory of its own", "mmap", [0, 4096, 3, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0], "made"],
    [
      "memory of its own that is not writable, and not counted",
      "mmap",
      [0, 4096, 1, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0],
      "EPERM",
    ],
    ["address space without access", "mmap", [0, 4096, 0, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0], "made"],
    ["making memory read-only, which would uncount it", "mprotect", [4096, 4096, 1], "EPERM"],
    ["making memory writable", "mprotect", [4096, 4096, 3], "ENOMEM"],
    ["moving memory", "mremap", [4096, 4096, 4096, 0], "EPERM"],
    ["a handle of the process at the other end", "getsockopt", [3, 1, 77], "EPERM"], // SO_PEERPIDFD
    ["the type of a socket", "getsockopt", [99, 1, 3], "EBADF"],
    ["being traced", "prctl", [PR.SET_PTRACER, -1], "EPERM"],
    ["outliving its parent", "prctl", [PR.SET_PDEATHSIG, 0], "EPERM"],
    ["being dumped", "prctl", [PR.SET_DUMPABLE, 1], "EPERM"],
    ["setting a limit", "prlimit64", [0, 7, 1], "EPERM"],
    ["reading a limit", "prlimit64", [0, 99, 0, 0], "EINVAL"],
    ["a signal to another process", "tgkill", [1, 1, 0], "EPERM"],
  ];
  testSeccomp("decides by arguments where a call is more than one", () => {
    using puppet = closed(POLICY);
    for (const [what, name, args, expected] of table) {
      expect([what, outcome(puppet.kernel, name, ...args)]).toEqual([what, expected]);
    }
  });

  testSeccomp("allows signals to its own threads", () => {
    using puppet = closed(POLICY);
    expect(outcome(puppet.kernel, "tgkill", puppet.pid, puppet.pid, 0)).toBe("made");
    expect(outcome(puppet.kernel, "tgkill", process.pid, process.pid, 0)).toBe("EPERM");
    expect(outcome(puppet.kernel, "kill", puppet.pid, 0)).toBe("EPERM");
  });

  testSeccomp("opens the calls for paths with a grant, and those that change them with one for writing", () => {
    const tried = (policy: Policy, ownRoot?: boolean) => {
      using puppet = closed(policy, ownRoot);
      const { kernel } = puppet;
      return [
        outcome(kernel, "openat", -1, 0, 0, 0),
        outcome(kernel, "newfstatat", -1, 0, 0, 0),
        outcome(kernel, "mkdirat", -1, 0, 0),
        outcome(kernel, "execve", 0, 0, 0),
      ];
    };
    expect(tried(POLICY)).toEqual(["EPERM", "EPERM", "EPERM", "EPERM"]);
    expect(tried(READ)).toEqual(["EFAULT", "EFAULT", "EPERM", "EPERM"]);
    expect(tried(WRITE)).toEqual(["EFAULT", "EFAULT", "EFAULT", "EPERM"]);
    // Landlock does not govern questions about a path. Where the host's paths are in sight, none may be asked.
    expect(tried(READ, false)).toEqual(["EFAULT", "EPERM", "EPERM", "EPERM"]);
  });

  testSeccomp("lets nothing be created set-user-id, set-group-id or sticky", () => {
    using puppet = closed(WRITE);
    for (const mode of [0o4755, 0o2755, 0o1755]) {
      expect(outcome(puppet.kernel, "openat", -1, 0, O.CREAT | O.WRONLY, mode)).toBe("EPERM");
      expect(outcome(puppet.kernel, "mkdirat", -1, 0, mode)).toBe("EPERM");
      expect(outcome(puppet.kernel, "fchmod", 3, mode)).toBe("EPERM");
    }
    expect(outcome(puppet.kernel, "openat", -1, 0, O.CREAT | O.WRONLY, 0o755)).toBe("EFAULT");
  });
});

describe("startingFilter()", () => {
  testSeccomp("lets Bun start, and nothing be mounted, traced, connected or unshared", () => {
    using puppet = behind((pid) => startingFilter("x64", pid));
    const { kernel } = puppet;
    const refused = [
      "mount",
      "ptrace",
      "socket",
      "connect",
      "unshare",
      "bpf",
      "io_uring_setup",
      "keyctl",
      "kill",
    ] as const;
    for (const name of refused) expect([name, outcome(kernel, name, -1, -1, -1, -1, -1, -1)]).toEqual([name, "EPERM"]);
    for (const name of ["openat", "execve", "newfstatat"] as const)
      expect([name, outcome(kernel, name, 0, 0, 0, 0)]).toEqual([name, "EFAULT"]);
  });
});

describe("both filters", () => {
  const filters = {
    closingFilter: (pid: number) => closingFilter(WRITE, "x64", { pid, ownRoot: true }),
    startingFilter: (pid: number) => startingFilter("x64", pid),
  };
  for (const [name, filter] of Object.entries(filters)) {
    testSeccomp(`${name}() kills a process that calls by the numbers of x32`, () => {
      using puppet = behind(filter);
      callNumber(puppet, NUMBERS.x64.getpid);
      expect(() => callNumber(puppet, 0x40000000 + NUMBERS.x64.getpid)).toThrow("The puppet ended");
      expect(awaitEnd(puppet)).toMatchObject({ signal: 31 }); // SIGSYS
    });
  }
});

/** A frame by hand, of one call without a name. */
function callNumber({ socket }: Held, number: number): void {
  const frame = new Uint8Array(HEADER + 64);
  const view = new DataView(frame.buffer);
  view.setUint32(0, 1, true);
  view.setUint32(4, frame.length, true);
  view.setUint32(OWN_STRINGS, STRINGS, true);
  view.setUint32(HEADER, number, true);
  self.call("sendto", socket.number, frame, frame.length, 0, 0, 0);
  if (self.call("read", socket.number, frame, frame.length) === 0)
    throw new Error("The puppet ended before it answered");
}
