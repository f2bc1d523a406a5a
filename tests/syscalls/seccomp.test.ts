import { expect, test } from "bun:test";
import { fileURLToPath } from "node:url";
import { SystemError } from "../../syscalls/error.ts";
import { type Kernel, self } from "../../syscalls/kernel.ts";
import { ERRNO, SECCOMP_FILTER_FLAG } from "../../syscalls/linux/numbers.ts";
import { setNoNewPrivileges } from "../../syscalls/linux/process.ts";
import { hasFilters, knowsFilterFlags, setFilter } from "../../syscalls/linux/seccomp.ts";
import { descriptorsOf, hold, statusOf } from "../platform/strings.ts";
import { Recorder } from "./recorder.ts";
import { testIf } from "./requirement.ts";

const testSeccomp = testIf("seccomp", hasFilters(), "this kernel takes no filters, or something refuses seccomp(2)");

/** Load the call's number; getppid (110 on x64) fails with errno 99; everything else is allowed. */
const PROGRAM = new Uint8Array(
  Uint16Array.of(0x20, 0, 0, 0, 0x15, 0x0100, 110, 0, 0x06, 0, 99, 0x0005, 0x06, 0, 0, 0x7fff).buffer,
);

test("hasFilters() is false where the call is refused, and true where it is not", () => {
  const refusing: Kernel = { call: () => self.call("close", -1) };
  expect(hasFilters(refusing)).toBe(false);
  expect(hasFilters(new Recorder())).toBe(true);
});

testSeccomp("setFilter() throws EACCES without no-new-privileges, then filters", () => {
  using puppet = hold();
  const { kernel } = puppet;
  kernel.call("capset", Uint8Array.of(0x22, 5, 8, 0x20, 0, 0, 0, 0), new Uint8Array(24));
  expect(() => setFilter(kernel, PROGRAM)).toThrow("EACCES: seccomp");
  setNoNewPrivileges(kernel);
  expect(kernel.call("getppid")).toBe(process.pid);
  setFilter(kernel, PROGRAM);
  expect(() => kernel.call("getppid")).toThrow("EADDRNOTAVAIL: getppid");
  expect(kernel.call("getpid")).toBe(puppet.pid);
  expect(statusOf(puppet.pid).Seccomp).toBe("2");
});

testSeccomp("setFilter() throws EINVAL for a program that does not end", () => {
  using puppet = hold();
  setNoNewPrivileges(puppet.kernel);
  expect(() => setFilter(puppet.kernel, PROGRAM.subarray(0, 8))).toThrow("EINVAL: seccomp");
});

const { TSYNC, LOG, SPEC_ALLOW, NEW_LISTENER, TSYNC_ESRCH, WAIT_KILLABLE_RECV } = SECCOMP_FILTER_FLAG;
/** What the kernel knows of the flags is asked without a filter, and one is then set with them in a process of its own. */
const testFlag = (flags: number, since: string) =>
  testIf(
    "seccomp",
    hasFilters() && knowsFilterFlags(self, flags),
    `this kernel does not know the flags, Linux ${since}`,
  );
const ready = () => {
  const puppet = hold();
  setNoNewPrivileges(puppet.kernel);
  return puppet;
};

testFlag(LOG, "4.14")("setFilter() with LOG filters, and returns 0", () => {
  using puppet = ready();
  expect(setFilter(puppet.kernel, PROGRAM, LOG)).toBe(0);
  expect(() => puppet.kernel.call("getppid")).toThrow("EADDRNOTAVAIL: getppid");
});

testFlag(SPEC_ALLOW, "4.17")("setFilter() takes SPEC_ALLOW from those alone who say so a second time", () => {
  using puppet = ready();
  const { kernel } = puppet;
  const unwanted = new TypeError(
    "Cannot set a filter with the flags SPEC_ALLOW: SPEC_ALLOW is expected with allowSpeculation: true",
  );
  expect(() => setFilter(kernel, PROGRAM, SPEC_ALLOW)).toThrow(unwanted);
  expect(() => setFilter(kernel, PROGRAM, { flags: SPEC_ALLOW, allowSpeculation: false as true })).toThrow(unwanted);
  expect(statusOf(puppet.pid).Seccomp).toBe("0");
  expect(setFilter(kernel, PROGRAM, { flags: SPEC_ALLOW, allowSpeculation: true })).toBe(0);
  expect(() => kernel.call("getppid")).toThrow("EADDRNOTAVAIL: getppid");
});

testFlag(NEW_LISTENER, "5.0")(
  "setFilter() with NEW_LISTENER returns a listener, and throws EBUSY for a second one",
  () => {
    using puppet = ready();
    const listener = setFilter(puppet.kernel, PROGRAM, NEW_LISTENER);
    expect(descriptorsOf(puppet.pid)[listener]).toBe("anon_inode:seccomp notify");
    expect(() => setFilter(puppet.kernel, PROGRAM, NEW_LISTENER)).toThrow(
      "EBUSY: seccomp (NEW_LISTENER): a filter of this process has a listener already, and there can be one",
    );
    expect(setFilter(puppet.kernel, PROGRAM)).toBe(0);
  },
);

testFlag(NEW_LISTENER | WAIT_KILLABLE_RECV, "5.19")(
  "setFilter() takes WAIT_KILLABLE_RECV with NEW_LISTENER alone",
  () => {
    using puppet = ready();
    expect(() => setFilter(puppet.kernel, PROGRAM, WAIT_KILLABLE_RECV)).toThrow(
      "Cannot set a filter with the flags WAIT_KILLABLE_RECV: WAIT_KILLABLE_RECV is for a filter with NEW_LISTENER",
    );
    expect(statusOf(puppet.pid).Seccomp).toBe("0");
    const listener = setFilter(puppet.kernel, PROGRAM, WAIT_KILLABLE_RECV | NEW_LISTENER);
    expect(descriptorsOf(puppet.pid)[listener]).toBe("anon_inode:seccomp notify");
  },
);

testFlag(TSYNC | TSYNC_ESRCH | NEW_LISTENER, "5.7")(
  "setFilter() takes TSYNC with TSYNC_ESRCH alone, and a listener with both",
  () => {
    using puppet = ready();
    const together = "expected TSYNC and TSYNC_ESRCH together";
    expect(() => setFilter(puppet.kernel, PROGRAM, TSYNC)).toThrow(together);
    expect(() => setFilter(puppet.kernel, PROGRAM, TSYNC | NEW_LISTENER)).toThrow(together);
    expect(() => setFilter(puppet.kernel, PROGRAM, TSYNC_ESRCH)).toThrow(together);
    expect(statusOf(puppet.pid).Seccomp).toBe("0");
    expect(setFilter(puppet.kernel, PROGRAM, TSYNC | TSYNC_ESRCH)).toBe(0);
    expect(setFilter(puppet.kernel, PROGRAM, TSYNC | TSYNC_ESRCH | NEW_LISTENER)).toBeGreaterThan(0);
  },
);

testSeccomp(
  "setFilter() throws for flags that there are not, half an instruction, and more filters than there may be",
  () => {
    using puppet = ready();
    const { kernel } = puppet;
    expect(() => setFilter(kernel, PROGRAM, 0x40)).toThrow(TypeError);
    expect(() => setFilter(kernel, PROGRAM, -1)).toThrow(TypeError);
    expect(() => setFilter(kernel, PROGRAM.subarray(0, 12))).toThrow(RangeError);
    expect(() => setFilter(kernel, new Uint8Array(8 * 65537))).toThrow(RangeError);
    const long = new Uint8Array(8 * 4096);
    for (let at = 0; at < long.length; at += 8) long.set(PROGRAM.subarray(24, 32), at); // 4096 times: allow
    const all = () => {
      for (let count = 0; count < 8; count++) setFilter(kernel, long);
    };
    expect(all).toThrow(/^ENOMEM: seccomp \(0\): the filters of a process can have 32768 instructions/);
  },
);

test("setFilter() says which flag an older kernel does not know, and where it is the program", () => {
  const older = (known: number): Kernel => ({
    call(name, _, flags, program) {
      const errno = ((flags as number) & ~known) === 0 && program === null ? ERRNO.EFAULT : ERRNO.EINVAL;
      throw new SystemError(name, errno);
    },
  });
  const set = (known: number, flags: number) => () => setFilter(older(known), PROGRAM, flags);
  expect(set(NEW_LISTENER, NEW_LISTENER | WAIT_KILLABLE_RECV)).toThrow(
    "this kernel does not know the flag WAIT_KILLABLE_RECV, Linux 5.19 is needed",
  );
  expect(set(TSYNC | LOG, TSYNC | TSYNC_ESRCH | LOG)).toThrow("the flag TSYNC_ESRCH, Linux 5.7");
  expect(set(LOG, LOG)).toThrow("EINVAL: seccomp (LOG): the program is none that the kernel takes");
});

testSeccomp("setFilterOnAllThreads() throws ESRCH, and binds none, where a thread has a filter of its own", () => {
  const script = fileURLToPath(new URL("fixtures/diverged.ts", import.meta.url));
  const { stdout, stderr } = Bun.spawnSync([process.execPath, script, Buffer.from(PROGRAM).toString("hex")]);
  expect(stderr.toString()).toBe("");
  const { main, refused, before, after } = JSON.parse(stdout.toString());
  expect(refused).toBe("ESRCH");
  expect(after[main]).toBe(before[main]);
  // Threads come and go meanwhile, and the worker's have what it has.
  expect(new Set(Object.values(after))).toEqual(new Set([before[main], `${Number(before[main]) + 1}`]));
});

testSeccomp("setFilterOnAllThreads() binds every thread of Bun, setFilter() one", () => {
  const script = fileURLToPath(new URL("fixtures/threads.ts", import.meta.url));
  const { stdout, stderr } = Bun.spawnSync([process.execPath, script, Buffer.from(PROGRAM).toString("hex")]);
  expect(stderr.toString()).toBe("");
  const { one, all } = JSON.parse(stdout.toString()) as Record<"one" | "all", string[]>;
  expect(one.length).toBeGreaterThan(1);
  expect(one.filter((count) => count === "1").length).toBe(1);
  expect(new Set(all)).toEqual(new Set(["1"]));
});
