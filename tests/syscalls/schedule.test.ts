import { expect, test } from "bun:test";
import { getPriority } from "node:os";
import { self } from "../../syscalls/kernel.ts";
import {
  getAffinity,
  getIoPriority,
  getNice,
  getSchedule,
  type Schedule,
  setAffinity,
  setIoPriority,
  setNice,
  setSchedule,
} from "../../syscalls/linux/schedule.ts";
import { hold, statusOf, testPuppet } from "../platform/strings.ts";
import { testIf } from "./requirement.ts";

const dropAll = (kernel: typeof self) =>
  kernel.call("capset", Uint8Array.of(0x22, 5, 8, 0x20, 0, 0, 0, 0), new Uint8Array(24));

testPuppet("setSchedule() sets what getSchedule() reads, and keeps the niceness that it is not given", () => {
  using puppet = hold();
  const { kernel } = puppet;
  setSchedule(kernel, { policy: "batch", nice: 3 });
  expect(getSchedule(kernel)).toEqual({ policy: "batch", nice: 3 });
  setSchedule(kernel, { policy: "other", resetOnFork: true });
  expect(getSchedule(kernel)).toEqual({ policy: "other", nice: 3, resetOnFork: true });
  expect(getSchedule(self, puppet.pid)).toEqual(getSchedule(kernel));
  setSchedule(kernel, { policy: "idle", resetOnFork: true });
  expect(getSchedule(kernel)).toEqual({ policy: "idle", resetOnFork: true });
  dropAll(kernel);
  expect(() => setSchedule(kernel, { policy: "idle" })).toThrow("EPERM: sched_setscheduler"); // the flag stays
});

const REALTIME: readonly Schedule[] = [
  { policy: "fifo", priority: 7 },
  { policy: "rr", priority: 8, resetOnFork: true },
  {
    policy: "deadline",
    runtimeNs: 1_000_000n,
    deadlineNs: 20_000_000n,
    periodNs: 30_000_000n,
    resetOnFork: true,
  },
];

/** Real time needs a capability, and of the kernel that it has time left for it. */
function refusal(schedule: Schedule): string | undefined {
  try {
    using puppet = hold();
    setSchedule(puppet.kernel, schedule);
  } catch (error) {
    return `${error}`;
  }
}

for (const schedule of REALTIME) {
  const refused = refusal(schedule);
  testIf(
    "realtime",
    refused === undefined,
    `${schedule.policy} is refused here: ${refused}`,
  )(`setSchedule() to ${schedule.policy}`, () => {
    using puppet = hold();
    setSchedule(puppet.kernel, schedule);
    expect(getSchedule(puppet.kernel)).toEqual(schedule);
  });
  testPuppet(`setSchedule() to ${schedule.policy} throws EPERM without CAP_SYS_NICE`, () => {
    using puppet = hold();
    dropAll(puppet.kernel);
    puppet.kernel.call("prlimit64", 0, 14, new Uint8Array(16), null); // RLIMIT_RTPRIO
    expect(() => setSchedule(puppet.kernel, schedule)).toThrow("EPERM: sched_set");
  });
}

test("setSchedule() names what it does not know", () => {
  expect(() => setSchedule(self, { policy: "constructor" } as never)).toThrow(
    new TypeError("Cannot schedule by constructor: expected one of other, batch, idle, fifo, rr, deadline"),
  );
});

testPuppet("setNice() sets what getNice() and others read, and only upwards without CAP_SYS_NICE", () => {
  using puppet = hold();
  expect(getNice(self)).toBe(getPriority());
  setNice(puppet.kernel, 5);
  expect([getNice(puppet.kernel), getPriority(puppet.pid)]).toEqual([5, 5]);
  dropAll(puppet.kernel);
  puppet.kernel.call("prlimit64", 0, 13, new Uint8Array(16), null); // RLIMIT_NICE
  expect(() => setNice(puppet.kernel, 4)).toThrow("EACCES: setpriority");
  setNice(puppet.kernel, 19);
  expect(getNice(self, puppet.pid)).toBe(19);
});

testPuppet("setIoPriority() sets what getIoPriority() reads", () => {
  using puppet = hold();
  for (const priority of [{ class: "best-effort", level: 6 }, { class: "idle" }] as const) {
    setIoPriority(puppet.kernel, priority);
    expect(getIoPriority(puppet.kernel)).toEqual(priority);
    expect(getIoPriority(self, puppet.pid)).toEqual(priority);
  }
  dropAll(puppet.kernel);
  expect(() => setIoPriority(puppet.kernel, { class: "realtime", level: 0 })).toThrow("EPERM: ioprio_set");
  expect(() => setIoPriority(puppet.kernel, { class: "best-effort", level: 8 })).toThrow(RangeError);
  expect(() => setIoPriority(puppet.kernel, { class: "toString" } as never)).toThrow(RangeError);
});

testPuppet("setAffinity() sets what getAffinity() and /proc read", () => {
  using puppet = hold();
  const all = getAffinity(puppet.kernel);
  expect(all.length).toBeGreaterThan(0);
  const one = all.at(-1)!;
  setAffinity(puppet.kernel, [one]);
  expect(getAffinity(puppet.kernel)).toEqual([one]);
  expect(statusOf(puppet.pid).Cpus_allowed_list).toBe(`${one}`);
  expect(() => setAffinity(puppet.kernel, [])).toThrow("EINVAL: sched_setaffinity");
  expect(() => setAffinity(puppet.kernel, [8192])).toThrow(RangeError);
  setAffinity(puppet.kernel, all);
  expect(getAffinity(self, puppet.pid)).toEqual(all);
});
