import { expect, test } from "bun:test";
import { Batch, prepare } from "../../platform/linux/frame.ts";
import { isRoot } from "../../platform/linux/ids.ts";
import { self } from "../../syscalls/kernel.ts";
import { setUmask } from "../../syscalls/linux/file.ts";
import { CLONE, F, O, P, PR, W } from "../../syscalls/linux/numbers.ts";
import {
  awaitEnd,
  becomeUser,
  clone,
  createSession,
  execute,
  getLimit,
  openProcess,
  processGroupOf,
  reap,
  sessionOf,
  setChildSubreaper,
  setDomainname,
  setDumpable,
  setGroupIds,
  setGroups,
  setKeepCapabilities,
  setLimit,
  setNoNewPrivileges,
  setParentDeathSignal,
  setProcessGroup,
  setUserIds,
  sharesMemory,
} from "../../syscalls/linux/process.ts";
import { signalProcess } from "../../syscalls/linux/signal.ts";
import { awaitEnd as awaitEndOf, hold, statusOf, testPuppet, testRoot } from "../platform/strings.ts";
import { Recorder } from "./recorder.ts";
import { testIf } from "./requirement.ts";

test("getLimit() reads what /proc says", async () => {
  const limits = await Bun.file("/proc/self/limits").text();
  const [, soft, hard] = /^Max open files +(\d+) +(\d+)/m.exec(limits)!;
  expect(getLimit(self, "NOFILE")).toEqual({ soft: BigInt(soft!), hard: BigInt(hard!) });
});

test("sharesMemory() tells a process from its child, and throws ESRCH for nobody", async () => {
  await using child = Bun.spawn(["cat"], { stdin: "pipe", stdout: "ignore" });
  expect(sharesMemory(self, process.pid, process.pid)).toBe(true);
  expect(sharesMemory(self, process.pid, child.pid)).toBe(false);
  expect(() => sharesMemory(self, process.pid, 2 ** 22 + 1)).toThrow("ESRCH: kcmp");
});

testPuppet("setLimit() sets both limits, and they cannot be raised without CAP_SYS_RESOURCE", () => {
  using puppet = hold();
  setLimit(puppet.kernel, "MSGQUEUE", 0n);
  expect(getLimit(puppet.kernel, "MSGQUEUE")).toEqual({ soft: 0n, hard: 0n });
  puppet.kernel.call("capset", Uint8Array.of(0x22, 5, 8, 0x20, 0, 0, 0, 0), new Uint8Array(24));
  expect(() => setLimit(puppet.kernel, "MSGQUEUE", 1n)).toThrow("EPERM: prlimit64");
});

testPuppet("setLimit() to no open files makes the next open fail with EMFILE", () => {
  using puppet = hold();
  setLimit(puppet.kernel, "NOFILE", 4n);
  expect(() => puppet.kernel.call("dup", 3)).toThrow("EMFILE: dup");
});

testPuppet(
  "createSession(), setUmask(), setNoNewPrivileges(), setParentDeathSignal() are seen in /proc and prctl",
  () => {
    using puppet = hold();
    expect(puppet.kernel.call("getsid", 0)).not.toBe(puppet.pid);
    createSession(puppet.kernel);
    setUmask(puppet.kernel, 0o027);
    expect(statusOf(puppet.pid)).toMatchObject({ Umask: "0027", NoNewPrivs: "0" });
    setNoNewPrivileges(puppet.kernel);
    expect(statusOf(puppet.pid)).toMatchObject({ NoNewPrivs: "1" });
    expect(puppet.kernel.call("getsid", 0)).toBe(puppet.pid);
    setParentDeathSignal(puppet.kernel, 9);
    const signal = new Uint8Array(4);
    puppet.kernel.call("prctl", PR.GET_PDEATHSIG, signal, 0, 0, 0);
    expect(signal[0]).toBe(9);
  },
);

testPuppet("execute() becomes a program with these arguments and this environment, and no others", async () => {
  const read = (path: string) => Bun.file(path).text();
  using puppet = hold();
  const batch = new Batch();
  execute(batch, "/bin/sh", ["sh", "-c", "read line <&3; exit 7"], ["A=1"]);
  puppet.kernel.post(prepare(batch));
  // The socket stays open in the program, which waits for a line of it.
  // The kernel shows the environment, which the puppet has none of, last of what an execve changes.
  while ((await read(`/proc/${puppet.pid}/environ`)) === "") await Bun.sleep(0);
  expect(await read(`/proc/${puppet.pid}/cmdline`)).toBe("sh\0-c\0read line <&3; exit 7\0");
  expect(await read(`/proc/${puppet.pid}/environ`)).toBe("A=1\0");
  self.call("sendto", puppet.socket.number, Buffer.from("\n"), 1, 0, 0, 0);
  expect(awaitEndOf(puppet)).toMatchObject({ code: 7 });
});

testPuppet("reap() gives undefined while the process lives, then how it ended, and only once", () => {
  using puppet = hold();
  expect(reap(self, puppet.pidfd.number)).toBeUndefined();
  const batch = new Batch();
  batch.call("exit_group", 258); // the kernel keeps the low byte
  puppet.kernel.post(prepare(batch));
  const { number } = puppet.pidfd;
  const again = self.call("fcntl", number, 0, 0); // F_DUPFD
  expect(awaitEndOf(puppet)).toMatchObject({ code: 2 });
  expect(() => reap(self, again)).toThrow("ECHILD: waitid");
  self.call("close", again);
});

testPuppet("awaitEnd() waits for a process by a pidfd that was made not to block, where waitid() says EAGAIN", () => {
  using puppet = hold();
  const { number } = puppet.pidfd;
  self.call("fcntl", number, F.SETFL, O.NONBLOCK);
  expect(() => self.call("waitid", P.PIDFD, number, null, W.EXITED, null)).toThrow("EAGAIN: waitid");
  const batch = new Batch();
  batch.call("nanosleep", new Uint8Array(new BigInt64Array([0n, 50_000_000n]).buffer), null);
  batch.call("exit_group", 7);
  puppet.kernel.post(prepare(batch));
  expect(awaitEnd(self, number)).toMatchObject({ code: 7 });
  puppet.pidfd.close();
});

testPuppet("signalProcess() ends a process, and reap() names the signal", () => {
  using puppet = hold();
  signalProcess(self, puppet.pidfd.number, 9);
  const end = awaitEndOf(puppet);
  expect(end).toMatchObject({ signal: 9 });
  expect(end.code).toBeUndefined();
});

testPuppet("clone() starts a child with a copy of the memory, which openProcess() names and reap() reaps", () => {
  using puppet = hold();
  const batch = new Batch();
  const tid = new Uint8Array(4);
  batch.fork(() => clone(batch, { flags: CLONE.CHILD_SETTID, childTid: tid }));
  batch.call("exit_group", 7); // the child's
  const pid = puppet.kernel.carryOut(batch)[0]!;
  expect(pid).toBeGreaterThan(0);
  expect([...tid]).toEqual([0, 0, 0, 0]); // what the child was told is in its own memory
  const pidfd = openProcess(puppet.kernel, pid);
  const poll = new Uint8Array(8);
  new DataView(poll.buffer).setInt32(0, pidfd, true);
  poll[4] = 1; // POLLIN
  expect(puppet.kernel.call("poll", poll, 1, 10_000)).toBe(1);
  expect(reap(puppet.kernel, pidfd)).toMatchObject({ code: 7 });
});

test("clone() throws a RangeError for flags that clone(2) would drop or take for a signal", () => {
  const recorder = new Recorder();
  expect(() => clone(recorder, { flags: CLONE.NEWTIME })).toThrow(
    new RangeError("Cannot clone with flags 0x80: clone(2) takes those of 0xffffff00"),
  );
  expect(() => clone(recorder, { flags: CLONE.INTO_CGROUP })).toThrow(RangeError);
  clone(recorder, { flags: CLONE.NEWPID, exitSignal: 0 });
  clone(recorder, { flags: CLONE.NEWPID });
  expect(recorder.lines).toEqual([
    "clone (536870912, null, null, null, null)",
    "clone (536870929, null, null, null, null)",
  ]);
});

test("openProcess() throws ESRCH for a process that cannot be", () => {
  expect(() => openProcess(self, 2 ** 22 + 1)).toThrow("ESRCH: pidfd_open"); // above the highest pid_max
});

testPuppet("setProcessGroup() makes a group, which the leader of a session cannot leave", () => {
  using puppet = hold();
  expect(processGroupOf(self, puppet.pid)).not.toBe(puppet.pid);
  setProcessGroup(puppet.kernel, 0, 0);
  expect(processGroupOf(puppet.kernel)).toBe(puppet.pid);
  expect(sessionOf(puppet.kernel)).not.toBe(puppet.pid);
  using other = hold();
  createSession(other.kernel);
  expect([sessionOf(other.kernel), processGroupOf(other.kernel)]).toEqual([other.pid, other.pid]);
  expect(() => setProcessGroup(other.kernel, 0, 0)).toThrow("EPERM: setpgid");
});

testPuppet("setDumpable(), setChildSubreaper() and setKeepCapabilities() are read back", () => {
  using puppet = hold();
  const get = (option: number) => {
    const word = new Uint8Array(4);
    const result = puppet.kernel.call("prctl", option, option === PR.GET_CHILD_SUBREAPER ? word : 0, 0, 0, 0);
    return option === PR.GET_CHILD_SUBREAPER ? word[0] : result;
  };
  for (const on of [true, false]) {
    setDumpable(puppet.kernel, on);
    expect(get(PR.GET_DUMPABLE)).toBe(on ? 1 : 0);
    setKeepCapabilities(puppet.kernel, on);
    expect(get(PR.GET_KEEPCAPS)).toBe(on ? 1 : 0);
  }
  expect(get(PR.GET_CHILD_SUBREAPER)).toBe(0);
  setChildSubreaper(puppet.kernel);
  expect(get(PR.GET_CHILD_SUBREAPER)).toBe(1);
});

const testAsRoot = testIf("root", isRoot(), "only root has other ids to take");

testAsRoot("setUserIds(), setGroupIds() and setGroups() set what they are given, and leave the rest", () => {
  using puppet = hold();
  setGroups(puppet.kernel, [10, 4_000_000_000]);
  setGroupIds(puppet.kernel, { effective: 5 });
  setUserIds(puppet.kernel, { effective: 7, saved: 8 });
  const fields = () => {
    const { Uid, Gid, Groups } = statusOf(puppet.pid);
    return [Uid, Gid, Groups];
  };
  expect(fields()).toEqual(["0\t7\t8\t7", "0\t5\t0\t5", "10 4000000000"]);
  expect(() => setGroups(puppet.kernel, [])).toThrow("EPERM: setgroups"); // the capability went with the effective id
  setUserIds(puppet.kernel, { effective: 0 });
  setGroups(puppet.kernel, []);
  expect(fields()).toEqual(["0\t0\t8\t0", "0\t5\t0\t5", ""]);
});

test("an id that the kernel would take for another, or for none, is a RangeError before any call", () => {
  const recorder = new Recorder();
  for (const id of [2 ** 32, 2 ** 32 - 1, -1, 0.5, Number.NaN]) {
    const error = new RangeError(`Cannot take id ${id}: expected a whole number from 0 to 4294967294`);
    expect(() => setGroups(recorder, [1, id])).toThrow(error);
    expect(() => setUserIds(recorder, { saved: id })).toThrow(error);
    expect(() => setGroupIds(recorder, { real: id })).toThrow(error);
    expect(() => becomeUser(recorder, { uid: id, gid: 1 })).toThrow(error);
  }
  expect(recorder.calls).toEqual([]);
});

testAsRoot("setKeepCapabilities() keeps those permitted when the ids change", () => {
  const none = "0000000000000000";
  const become = (keep: boolean) => {
    using puppet = hold();
    setKeepCapabilities(puppet.kernel, keep);
    setUserIds(puppet.kernel, { real: 7, effective: 7, saved: 7 });
    return statusOf(puppet.pid);
  };
  expect(become(true)).toMatchObject({ CapEff: none, CapPrm: statusOf("self").CapPrm! });
  expect(become(false)).toMatchObject({ CapEff: none, CapPrm: none });
});

testRoot("setDomainname() sets the name of the UTS namespace that the kernel is in", () => {
  using puppet = hold(CLONE.NEWUSER | CLONE.NEWUTS);
  setDomainname(puppet.kernel, "example.test");
  const names = new Uint8Array(6 * 65); // struct new_utsname, the domain last
  puppet.kernel.call("uname", names);
  expect(Buffer.from(names.subarray(5 * 65, 5 * 65 + 13)).toString()).toBe("example.test\0");
  using outside = hold();
  outside.kernel.call("capset", Uint8Array.of(0x22, 5, 8, 0x20, 0, 0, 0, 0), new Uint8Array(24));
  expect(() => setDomainname(outside.kernel, "x")).toThrow("EPERM: setdomainname");
});
