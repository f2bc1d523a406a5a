// Every struct that crosses the border to the kernel, against what a C compiler makes of the kernel's and libc's own headers.
// What caisson writes is compared byte for byte; what it reads is written by C.

import { cc, type Pointer, toArrayBuffer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Kernel } from "../../syscalls/kernel.ts";
import { capget, capset } from "../../syscalls/linux/capability.ts";
import { fileStatus, openResolved } from "../../syscalls/linux/file.ts";
import { allowBeneath, createRuleset } from "../../syscalls/linux/landlock.ts";
import { setMountAttributes } from "../../syscalls/linux/mount.ts";
import { MS, SIG } from "../../syscalls/linux/numbers.ts";
import { CLONE_ARGS_STRUCT, getLimit, reap, setGroups, setLimit } from "../../syscalls/linux/process.ts";
import { getSchedule, setSchedule } from "../../syscalls/linux/schedule.ts";
import { setFilter } from "../../syscalls/linux/seccomp.ts";
import { blockSignals, resetSignals } from "../../syscalls/linux/signal.ts";
import { receiveDescriptors, sendDescriptors } from "../../syscalls/linux/socket.ts";
import { Memory } from "../../syscalls/struct.ts";
import { Recorder, reporting } from "./recorder.ts";
import { testIf } from "./requirement.ts";

const HEADERS = process.env.CAISSON_HEADERS ?? "/usr/include";
const landlock = join(HEADERS, "linux/landlock.h");
const present = existsSync(landlock) && existsSync("/usr/include/x86_64-linux-gnu/sys/socket.h");
const testC = testIf("cc", present, "there are no headers of the kernel and of libc (Debian: libc6-dev)");
// The struct grew in Linux 6.7 and 6.12. What an older header does not have cannot be compared.
const has = (field: string) => present && readFileSync(landlock, "utf8").includes(field);
const grown = [has("handled_access_net") ? "x.handled_access_net = 3;" : "", has("scoped") ? "x.scoped = 2;" : ""].join(
  " ",
);

/** Structs as C fills them: the type, and the statements that fill `x`. Pointers are 0x1000, 0x2000 ... in the order of the fields. */
const FILLED = {
  clone_args: [
    "struct clone_args",
    "x.flags = 1; x.pidfd = 2; x.exit_signal = 3; x.stack = 4; x.set_tid_size = 5; x.cgroup = 6;",
  ],
  open_how: ["struct open_how", "x.flags = 0x200000; x.resolve = 6;"],
  mount_attr: ["struct mount_attr", "x.attr_set = 1; x.attr_clr = 2; x.propagation = MS_SLAVE; x.userns_fd = 7;"],
  sock_fprog: ["struct sock_fprog", "x.len = 2; x.filter = (void *)0x1000;"],
  ruleset_attr: ["struct landlock_ruleset_attr", `x.handled_access_fs = 0x8000; ${grown}`],
  path_beneath: ["struct landlock_path_beneath_attr", "x.allowed_access = 5; x.parent_fd = -2;"],
  limit: ["struct rlimit64", "x.rlim_cur = 77; x.rlim_max = 77;"],
  msghdr: [
    "struct msghdr",
    "x.msg_iov = (void *)0x1000; x.msg_iovlen = 1; x.msg_control = (void *)0x2000; x.msg_controllen = CMSG_SPACE(12);",
  ],
  iovec: ["struct iovec", "x.iov_base = (void *)0x1000; x.iov_len = 3;"],
  cmsg: [
    "struct { struct cmsghdr head; int descriptors[4]; }",
    `x.head.cmsg_len = CMSG_LEN(12); x.head.cmsg_level = SOL_SOCKET; x.head.cmsg_type = SCM_RIGHTS;
     int *data = (int *)CMSG_DATA(&x.head); data[0] = 10; data[1] = 11; data[2] = 12;`,
  ],
  received: ["struct msghdr", "x.msg_controllen = CMSG_SPACE(4); x.msg_flags = MSG_CTRUNC;"],
  kernel_sigaction: ["struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; }", ""],
  cap_header: ["struct __user_cap_header_struct", "x.version = _LINUX_CAPABILITY_VERSION_3;"],
  cap_data: [
    "struct { struct __user_cap_data_struct half[_LINUX_CAPABILITY_U32S_3]; }",
    `x.half[0].effective = 1; x.half[0].permitted = 3; x.half[0].inheritable = 5;
     x.half[1].effective = 2; x.half[1].permitted = 4; x.half[1].inheritable = 6;`,
  ],
  siginfo: [
    "siginfo_t",
    "x.si_signo = SIGCHLD; x.si_code = CLD_EXITED; x.si_pid = 42; x.si_uid = 43; x.si_status = 44;",
  ],
  siginfo_killed: ["siginfo_t", "x.si_signo = SIGCHLD; x.si_code = CLD_KILLED; x.si_pid = 42; x.si_status = 9;"],
  sched_attr: [
    "struct { struct sched_attr attr; }",
    "x.attr.size = 48; x.attr.sched_policy = 3; x.attr.sched_flags = 1; x.attr.sched_nice = -5;",
  ],
  sched_deadline: [
    "struct { struct sched_attr attr; }",
    "x.attr.size = 48; x.attr.sched_policy = 6; x.attr.sched_runtime = 1; x.attr.sched_deadline = 2; x.attr.sched_period = 3;",
  ],
  sched_param: ["struct { int sched_priority; }", "x.sched_priority = 9;"],
  signals: ["unsigned long", "x = 1ul << (SIGHUP - 1) | 1ul << (SIGUSR1 - 1) | 1ul << (64 - 1);"],
  groups: ["struct { gid_t of[2]; }", "x.of[0] = 7; x.of[1] = 0xfffffffe;"],
  rusage: [
    "struct rusage",
    "x.ru_utime.tv_sec = 1; x.ru_utime.tv_usec = 2; x.ru_stime.tv_sec = 3; x.ru_stime.tv_usec = 40; x.ru_maxrss = 5; " +
      "x.ru_minflt = 6; x.ru_majflt = 7; x.ru_inblock = 8; x.ru_oublock = 9; x.ru_nvcsw = 10; x.ru_nivcsw = 11;",
  ],
  stat: [
    "struct stat",
    "x.st_dev = 0x10002; x.st_ino = 0x100000003; x.st_mode = S_IFREG | 04750; x.st_size = 123456789012;",
  ],
  stat_device: ["struct stat", "x.st_mode = S_IFCHR | 0666; x.st_rdev = 0x10003;"],
  stat_pipe: ["struct stat", "x.st_mode = S_IFIFO | 0600; x.st_size = 7;"],
} as const;
type Name = keyof typeof FILLED;

const INCLUDES = [
  "sys/socket.h",
  "sys/stat.h",
  "sys/uio.h",
  "signal.h",
  "string.h",
  "linux/sched.h",
  "linux/openat2.h",
  "linux/mount.h",
];
INCLUDES.push("linux/sched/types.h", "sys/mount.h", "linux/filter.h", "sys/resource.h", "linux/capability.h");

// The compiler of bun:ffi knows packed structs, but glibc hides attributes from compilers that it does not know.
const PROLOGUE = ["#define _GNU_SOURCE", ...INCLUDES.map((header) => `#include <${header}>`)];
PROLOGUE.push("#undef __attribute__", `#include "${landlock}"`);

function compile(): Record<Name, Uint8Array> {
  const directory = mkdtempSync(join(tmpdir(), "caisson-layout-"));
  try {
    const names = Object.keys(FILLED) as Name[];
    const functions = names.map((name) => {
      const [type, statements] = FILLED[name];
      return `typedef ${type} type_${name};
static type_${name} value_${name};
unsigned long size_${name}(void) { return sizeof(type_${name}); }
void *fill_${name}(void) {
  type_${name} x; memset(&x, 0, sizeof x); ${statements} memcpy(&value_${name}, &x, sizeof x); return &value_${name};
}`;
    });
    const source = join(directory, "layout.c");
    writeFileSync(source, [...PROLOGUE, ...functions].join("\n"));
    const { symbols } = cc({
      source,
      symbols: Object.fromEntries(
        names.flatMap((name) => [
          [`size_${name}`, { args: [], returns: "u64_fast" as const }],
          [`fill_${name}`, { args: [], returns: "ptr" as const }],
        ]),
      ),
    });
    // The types of cc() read a table that is written out, not one that is made.
    const call = symbols as unknown as Record<string, () => number | Pointer>;
    const made = names.map((name) => {
      const size = Number(call[`size_${name}`]!());
      const address = call[`fill_${name}`]!() as Pointer;
      return [name, new Uint8Array(toArrayBuffer(address, 0, size)).slice()];
    });
    return Object.fromEntries(made);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const C = present ? compile() : undefined;

/** The bytes that argument `position` of the only call names, with its pointers as C's are. */
function written(act: (kernel: Kernel) => void, position: number): Uint8Array {
  const recorder = new Recorder();
  act(recorder);
  return flat(recorder.calls[0]![1 + position] as Memory | Uint8Array);
}

function flat(memory: Memory | Uint8Array): Uint8Array {
  if (memory instanceof Uint8Array) return Uint8Array.from(memory);
  const bytes = memory.bytes.slice();
  const view = new DataView(bytes.buffer);
  for (const [index, { offset }] of memory.pointers.entries())
    view.setBigUint64(offset, BigInt(0x1000 * (index + 1)), true);
  return bytes;
}

describe("what is written is what C writes", () => {
  const program = new Uint8Array(16);
  const three = Uint8Array.of(1, 2, 3);
  const send = (kernel: Kernel) => sendDescriptors(kernel, 5, three, [10, 11, 12]);
  const pointed = (index: number) => {
    const recorder = new Recorder();
    send(recorder);
    return flat((recorder.calls[0]![2] as Memory).pointers[index]!.to as Memory);
  };
  const table: Partial<Record<Name, () => Uint8Array>> = {
    clone_args: () =>
      CLONE_ARGS_STRUCT.encode({ flags: 1n, pidfd: 2n, exit_signal: 3n, stack: 4n, set_tid_size: 5n, cgroup: 6n })
        .bytes,
    open_how: () => written((kernel) => openResolved(kernel, "/", { flags: 0x200000, resolve: 6n }), 2),
    mount_attr: () =>
      written(
        (kernel) => setMountAttributes(kernel, 3, { set: 1n, clear: 2n, propagation: MS.SLAVE, userNamespace: 7 }),
        3,
      ),
    sock_fprog: () => written((kernel) => setFilter(kernel, program), 2),
    path_beneath: () => written((kernel) => allowBeneath(kernel, 3, -2, 5n), 2),
    limit: () => written((kernel) => setLimit(kernel, "CORE", 77n), 2),
    msghdr: () => written(send, 1),
    iovec: () => pointed(0),
    cmsg: () => pointed(1),
    kernel_sigaction: () => written(resetSignals, 1),
    sched_param: () => written((kernel) => setSchedule(kernel, { policy: "fifo", priority: 9 }), 2),
    signals: () => written((kernel) => blockSignals(kernel, [SIG.HUP, SIG.USR1, 64]), 1),
    groups: () => written((kernel) => setGroups(kernel, [7, 0xfffffffe]), 1),
    cap_header: () => written(capget, 0),
    cap_data: () =>
      written(
        (kernel) =>
          capset(kernel, { effective: 0x2_0000_0001n, permitted: 0x4_0000_0003n, inheritable: 0x6_0000_0005n }),
        1,
      ),
  };
  for (const [name, ours] of Object.entries(table)) {
    testC(FILLED[name as Name][0], () => {
      expect(Buffer.from(ours()).toString("hex")).toBe(Buffer.from(C![name as Name]).toString("hex"));
    });
  }

  testC("struct landlock_ruleset_attr, which grows from kernel to kernel, as far as both know it", () => {
    const ours = written((kernel) => createRuleset(kernel, { fs: 0x8000n, net: 3n, scoped: 2n }), 0);
    const length = Math.min(ours.length, C!.ruleset_attr.length);
    expect(Buffer.from(ours.subarray(0, length))).toEqual(Buffer.from(C!.ruleset_attr.subarray(0, length)));
  });

  testC("struct sched_attr, which has grown since", () => {
    const table = {
      sched_attr: { policy: "batch", nice: -5, resetOnFork: true },
      sched_deadline: { policy: "deadline", runtimeNs: 1n, deadlineNs: 2n, periodNs: 3n },
    } as const;
    for (const [name, schedule] of Object.entries(table)) {
      const ours = written((kernel) => setSchedule(kernel, schedule), 1);
      expect(Buffer.from(ours)).toEqual(Buffer.from(C![name as Name].subarray(0, 48)));
    }
  });

  test("a pointer that stands at another offset is seen", () => {
    const moved = new Memory(new Uint8Array(16), [{ offset: 0, to: program }]);
    const right = new Memory(new Uint8Array(16), [{ offset: 8, to: program }]);
    expect(flat(moved)).not.toEqual(flat(right));
  });
});

describe("what is read is what C wrote", () => {
  testC("reap() reads siginfo_t and struct rusage", () => {
    const kernel = (info: Uint8Array): Kernel => ({
      call(name, ...args) {
        reporting(2, info).call(name, ...args);
        return reporting(4, C!.rusage).call(name, ...args);
      },
    });
    const used = {
      cpuMicroseconds: 4_000_042,
      userMicroseconds: 1_000_002,
      systemMicroseconds: 3_000_040,
      memoryKib: 0,
      peakKib: 5,
      minorFaults: 6,
      majorFaults: 7,
      voluntarySwitches: 10,
      involuntarySwitches: 11,
      readBytes: 8 * 512,
      writtenBytes: 9 * 512,
      processes: 0,
    } as const;
    expect(reap(kernel(C!.siginfo), 3)).toEqual({ code: 44, ...used });
    expect(reap(kernel(C!.siginfo_killed), 3)).toEqual({ signal: 9, ...used });
    expect(reap(reporting(2, new Uint8Array(C!.siginfo.length)), 3)).toBeUndefined();
  });

  testC("reap() has room for the whole of both", () => {
    const recorder = new Recorder();
    reap(recorder, 3);
    const [, , , info, , usage] = recorder.calls[0]!;
    expect((info as Uint8Array).length).toBe(C!.siginfo.length);
    expect((usage as Uint8Array).length).toBe(C!.rusage.length);
  });

  testC("fileStatus() reads struct stat", () => {
    const none = { regular: false, directory: false, symlink: false, characterDevice: false };
    expect(fileStatus(reporting(1, C!.stat), 3)).toEqual({
      ...none,
      size: 123456789012,
      regular: true,
      mode: 0o4750,
      dev: 0x10002n,
      inode: 0x100000003n,
      rdev: 0n,
    });
    expect(fileStatus(reporting(1, C!.stat_pipe), 3)).toMatchObject({ ...none, size: 7, mode: 0o600 });
    expect(fileStatus(reporting(1, C!.stat_device), 3)).toMatchObject({
      ...none,
      characterDevice: true,
      rdev: 0x10003n,
    });
  });

  testC("getSchedule() reads struct sched_attr", () => {
    expect(getSchedule(reporting(1, C!.sched_attr.subarray(0, 48)))).toEqual({
      policy: "batch",
      nice: -5,
      resetOnFork: true,
    });
    expect(getSchedule(reporting(1, C!.sched_deadline.subarray(0, 48)))).toEqual({
      policy: "deadline",
      runtimeNs: 1n,
      deadlineNs: 2n,
      periodNs: 3n,
    });
  });

  testC("getLimit() reads struct rlimit64", () => {
    expect(getLimit(reporting(3, C!.limit), "CORE")).toEqual({ soft: 77n, hard: 77n });
  });

  testC("capget() reads both halves of struct __user_cap_data_struct", () => {
    expect(capget(reporting(1, C!.cap_data))).toEqual({
      effective: 0x2_0000_0001n,
      permitted: 0x4_0000_0003n,
      inheritable: 0x6_0000_0005n,
    });
  });

  testC("receiveDescriptors() reads struct msghdr", () => {
    const packet = receiveDescriptors(reporting(1, C!.received), 3, new Uint8Array(1), { most: 1 });
    expect(packet.truncated).toBe(true);
    expect(C!.received.length).toBe(C!.msghdr.length);
  });
});
