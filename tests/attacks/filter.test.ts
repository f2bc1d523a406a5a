/** Attacks on the system call filter: what it does not name does not happen. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Actor } from "../../src/index.ts";
import { type SyscallName, self } from "../../syscalls/kernel.ts";
import { capget } from "../../syscalls/linux/capability.ts";
import { CAP, MADV, MAP, NUMBERS, PROT } from "../../syscalls/linux/numbers.ts";
import { inside, Outside } from "./arena.ts";

type Calls = typeof import("./fixtures/calls.ts");

setDefaultTimeout(30_000); // the machine may have other things to do

let actor: Actor<Calls>;
let control: Outside<Calls>;
beforeAll(async () => {
  control = new Outside("calls");
  actor = await inside<Calls>("calls");
});
afterAll(async () => {
  await actor[Symbol.asyncDispose]();
  await control[Symbol.asyncDispose]();
});

/**
 * What an actor without grants may ask of the kernel, whatever the arguments: written down a second time, so that one more call is one
 * more line here. Those of which only some arguments are let through (clone, fcntl, getsockopt, ioctl, mmap, prctl, prlimit64, tgkill) refuse these.
 */
const ALLOWED = `
  read readv pread64 preadv write writev pwrite64 pwritev lseek fstat close close_range dup dup2 dup3 pipe pipe2 eventfd2
  sendto sendmsg recvfrom recvmsg shutdown getsockname getpeername
  poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 timerfd_create timerfd_settime timerfd_gettime
  munmap mprotect brk membarrier
  futex futex_waitv set_robust_list get_robust_list rseq sched_yield sched_getaffinity sched_getparam sched_getscheduler
  sched_get_priority_max sched_get_priority_min gettid getpid restart_syscall
  rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
  clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
  getrandom uname sysinfo getrusage times getcpu getppid getcwd getuid geteuid getgid getegid getresuid getresgid getgroups umask getpgrp
  getpgid getsid getrlimit clone3
`
  .trim()
  .split(/\s+/) as SyscallName[];

/** Let through, but not to be tried: they end the thread that calls them, or take its stack from under it. */
const DEADLY = ["exit", "exit_group", "rt_sigreturn", "set_tid_address"] as const;
/** The kernel lets these pass every filter, and answers them only where it has placed the call itself: others get SIGILL or ENXIO. */
const PROBES = ["uretprobe", "uprobe"] as const;

test("of the system calls 0 to 600 only those of the list reach the kernel", async () => {
  const left = [...DEADLY, ...PROBES].map((name) => NUMBERS.x64[name]);
  const found = await actor.call.answered(601, left);
  const names = new Map<number, string>(Object.entries(NUMBERS.x64).map(([name, number]) => [number, name]));
  expect(found.map((number) => names.get(number) ?? `${number}`).sort()).toEqual([...ALLOWED].sort());
});

type Refused = readonly [call: SyscallName, args: readonly number[], needs?: keyof typeof CAP];

/** Calls that nothing inside needs, with arguments that do no harm, and the capability without which the kernel itself says EPERM. */
const REFUSED: readonly Refused[] = [
  ["io_uring_setup", [0, 0]], ["io_uring_enter", [-1]], ["io_uring_register", [-1]],
  ["userfaultfd", [-1], "SYS_PTRACE"], ["bpf", [-1], "SYS_ADMIN"], ["perf_event_open", [0, 0, -1, -1, 0]],
  ["keyctl", [-1]], ["add_key", []], ["request_key", []],
  ["personality", [0xffffffff]], ["modify_ldt", [-1]], ["arch_prctl", [-1]], ["iopl", [4]], ["ioperm", [-1, 1, 0]],
  ["mount", []], ["umount2", [0, -1]], ["chroot", [0]], ["pivot_root", [0, 0], "SYS_ADMIN"],
  ["open_tree", [-1, 0, -1]], ["move_mount", [-1, 0, -1, 0, -1], "SYS_ADMIN"], ["mount_setattr", [-1, 0, -1]],
  ["fsopen", [], "SYS_ADMIN"], ["fsconfig", [-1]], ["fsmount", [-1], "SYS_ADMIN"], ["fspick", [-1], "SYS_ADMIN"],
  ["statmount", []], ["listmount", []],
  ["swapon", [0, -1], "SYS_ADMIN"], ["swapoff", [], "SYS_ADMIN"], ["quotactl", [-1]], ["acct", [1], "SYS_PACCT"],
  ["reboot", [], "SYS_BOOT"], ["kexec_load", [0, 0, 0, -1], "SYS_BOOT"], ["syslog", [-1], "SYSLOG"],
  ["init_module", [], "SYS_MODULE"], ["finit_module", [-1], "SYS_MODULE"], ["delete_module", [], "SYS_MODULE"],
  ["seccomp", [2, 0, 0]], ["landlock_create_ruleset", [0, 0, 1]], ["landlock_add_rule", [-1]], ["landlock_restrict_self", [-1], "SYS_ADMIN"],
  ["lsm_list_modules", []],
  ["clock_settime", []], ["settimeofday", [], "SYS_TIME"], ["adjtimex", []],
  ["shmget", [0, 4096, 0o1600]], ["shmat", [-1]], ["semget", [0, -1, 0]], ["msgget", [12345, 0]], ["mq_open", []],
  ["memfd_create", []], ["memfd_secret", [-1]], ["remap_file_pages", []], ["mseal", [1]], ["cachestat", [-1]],
  ["process_mrelease", [-1]], ["process_madvise", [-1]],
  ["sched_setscheduler", [0, -1, 0]], ["sched_setaffinity", []], ["setpriority", [-1]], ["ioprio_set", [1, 0, 0]], ["mlockall", []],
  ["splice", [-1, 0, -1, 0, 1, 0]], ["vmsplice", [-1]], ["ioctl", [0, 0xffff]],
]; // biome-ignore format: a table

describe("a call that nothing needs is EPERM, and something else without the filter:", () => {
  const { effective } = capget(self);
  for (const [name, args, needs] of REFUSED) {
    test(`${name}(${args.join(", ")})`, async () => {
      expect(await actor.call.call(name, ...args)).toBe("EPERM");
      if (needs !== undefined && (effective & (1n << BigInt(CAP[needs]))) === 0n) return;
      expect(await control.call.call(name, ...args)).not.toBe("EPERM");
    });
  }
});

describe("a second filter", () => {
  const allowAll = Uint8Array.of(6, 0, 0, 0, 0, 0, 0xff, 0x7f); // ret ALLOW
  test("cannot be installed, however it is asked for", async () => {
    expect(await actor.call.call("seccomp", 1, 0, allowAll)).toBe("EPERM");
    expect(await actor.call.call("seccomp", 1, 8, allowAll)).toBe("EPERM"); // NEW_LISTENER
    expect(await actor.call.call("prctl", 22, 2, allowAll)).toBe("EPERM"); // PR_SET_SECCOMP
    expect(await actor.call.call("seccomp", 0, 0, 0)).toBe("EPERM"); // strict mode
  });
});

describe("the arguments of", () => {
  const anonymous = MAP.PRIVATE | MAP.ANONYMOUS;
  const map = (flags: number) => ["mmap", 0, 4096, PROT.READ | PROT.WRITE, flags, -1, 0] as const;
  const REFUSED_MAPS = {
    "MAP_SHARED|MAP_ANONYMOUS": MAP.SHARED | MAP.ANONYMOUS,
    "MAP_SHARED_VALIDATE|MAP_ANONYMOUS": MAP.SHARED_VALIDATE | MAP.ANONYMOUS,
    MAP_GROWSDOWN: anonymous | MAP.GROWSDOWN,
    MAP_HUGETLB: anonymous | MAP.HUGETLB,
  };
  for (const [name, flags] of Object.entries(REFUSED_MAPS)) {
    test(`mmap: ${name} is EPERM`, async () => {
      expect(await actor.call.call(...map(flags))).toBe("EPERM");
      expect(await actor.call.call(...map(anonymous))).toBe("done");
      expect(await control.call.call(...map(flags))).not.toBe("EPERM");
    });
  }

  test("madvise: advice that takes page tables for address space that nothing counts is EPERM", async () => {
    for (const advice of [MADV.GUARD_INSTALL, MADV.POPULATE_READ, MADV.POPULATE_WRITE, MADV.COLD]) {
      expect(await actor.call.call("madvise", 0, 4096, advice)).toBe("EPERM");
      expect(await control.call.call("madvise", 0, 4096, advice)).not.toBe("EPERM");
    }
    for (const advice of [MADV.DONTNEED, MADV.FREE]) {
      expect(await actor.call.call("madvise", 0, 4096, advice)).toBe("ENOMEM"); // nothing is mapped there
    }
  });

  test("mmap and mprotect: memory that does not count, or ceases to, is EPERM", async () => {
    expect(await actor.call.call("mmap", 0, 4096, PROT.READ, anonymous, -1, 0)).toBe("EPERM");
    expect(await actor.call.call("mprotect", 0, 4096, PROT.READ)).toBe("EPERM");
    expect(await actor.call.call("mprotect", 0, 4096, PROT.NONE)).toBe("EPERM");
    expect(await actor.call.call("mremap", 0, 4096, 8192, 1, 0)).toBe("EPERM");
    expect(await control.call.call("mmap", 0, 4096, PROT.READ, anonymous, -1, 0)).toBe("done");
    expect(await control.call.call("mprotect", 0, 4096, PROT.READ)).toBe("ENOMEM"); // nothing is mapped there
    expect(await control.call.call("mremap", 0, 4096, 8192, 1, 0)).toBe("EFAULT");
  });

  test("fcntl: leases, notifications, pipe sizes and owners are EPERM", async () => {
    for (const command of [1024, 1026, 1031, 8, 10, 15, 4]) {
      expect(await actor.call.call("fcntl", 0, command, 0)).toBe("EPERM");
      expect(await control.call.call("fcntl", 0, command, 0)).not.toBe("EPERM");
    }
    // The filter sees a word of 64 bits, of which the kernel takes 32.
    expect(await actor.call.raw(NUMBERS.x64.fcntl, 0, (1n << 32n) | 4n, 0)).toBe(-1);
  });

  test("prlimit64: a limit can be read, and none set", async () => {
    expect(await actor.call.call("prlimit64", 0, 7, 0, new Uint8Array(16))).toBe("done");
    expect(await actor.call.call("prlimit64", 0, 7, new Uint8Array(16).fill(0xff), 0)).toBe("EPERM");
    expect(await actor.call.call("setrlimit", 7, new Uint8Array(16).fill(0xff))).toBe("EPERM");
    const core = new Uint8Array(16); // no core dumps: everyone may lower a limit
    expect(await control.call.call("prlimit64", 0, 4, core, 0)).toBe("done");
  });

  const PRCTL = {
    PDEATHSIG: [1, 0], DUMPABLE: [4, 1], KEEPCAPS: [8, 0], SECCOMP: [21, 0], CAPBSET_READ: [23, 0], GET_SECUREBITS: [27, 0], TIMERSLACK: [29, 0],
    CHILD_SUBREAPER: [36, 0], NO_NEW_PRIVS: [39, 0], CAP_AMBIENT: [47, 4], SPECULATION: [52, 0], SYSCALL_USER_DISPATCH: [59, 0],
    SCHED_CORE: [62, -1], MDWE: [66, 0],
  } as const; // biome-ignore format: a table
  for (const [name, [option, value]] of Object.entries(PRCTL)) {
    test(`prctl: ${name} is EPERM`, async () => {
      expect(await actor.call.call("prctl", option, value, 0, 0, 0)).toBe("EPERM");
      expect(await control.call.call("prctl", option, value, 0, 0, 0)).not.toBe("EPERM");
    });
  }
  test("prctl: SET_MM and SET_PTRACER, which open a process to others, are EPERM", async () => {
    expect(await actor.call.call("prctl", 35, 1, 4096, 0, 0)).toBe("EPERM");
    expect(await actor.call.call("prctl", 0x59616d61, -1, 0, 0, 0)).toBe("EPERM");
    expect(await control.call.call("prctl", 0x59616d61, -1, 0, 0, 0)).not.toBe("EPERM");
  });
});

describe("another way into the kernel ends the actor with SIGSYS:", () => {
  const deadly = async (act: (actor: Actor<Calls>) => Promise<unknown>) => {
    await using doomed = await inside<Calls>("calls");
    await act(doomed).catch(() => {}); // the answer never comes
    return doomed.exited;
  };
  const sigsys = { reason: "signal", signal: "SIGSYS" } as const;

  test("int 0x80", async () => {
    expect(await deadly(({ call }) => call.interrupt80())).toEqual(sigsys);
    await using free = new Outside<Calls>("calls");
    // A kernel without CONFIG_IA32_EMULATION ends the control, too: with SIGSEGV.
    const pid = await free.call.interrupt80().catch(() => undefined);
    if (pid !== undefined) expect(pid).toBe(free.pid);
  });

  for (const [name, number] of [
    ["x32", 0x40000000 + 39],
    ["-1", 0xffffffff],
    ["1 << 31", 2 ** 31],
  ] as const) {
    test(`the number ${name}`, async () => {
      expect(await deadly(({ call }) => call.raw(number))).toEqual(sigsys);
      expect(await control.call.raw(number)).toBe(-38);
    });
  }
});

test("clone3 is ENOSYS, so that libraries take clone", async () => {
  expect(await actor.call.call("clone3", 0, 0)).toBe("ENOSYS");
  expect(await control.call.call("clone3", 0, 0)).toBe("EINVAL");
});
